// ==== >>grammar_parse : GBNF to programs ====
#ifndef QI__GRAMMAR_PARSE_H
#define QI__GRAMMAR_PARSE_H

#include "../model/unicode.h"
#include "grammar_program.h"

//   grammar      = { name "::=" alternatives newline }       newlines are blanks in parentheses, behind "::=" and around "|"
//   alternatives = sequence { "|" sequence }
//   sequence     = { element [ "*" | "+" | "?" | "{" n "}" | "{" n "," [ m ] "}" ] }
//   element      = '"' characters '"' | "[" [ "^" ] { c [ "-" c ] } "]" | "." | name | "(" alternatives ")"
//   name         = { a-z A-Z 0-9 "-" "_" }
//   escapes      = \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH            # begins a comment
#define QI__GRAMMAR_MAX_TEXT ((size_t)1 << 20) // bytes
#define QI__GRAMMAR_MAX_DEPTH 64               // groups in groups
#define QI__GRAMMAR_MAX_RANGES 512             // in one class

typedef struct qi__grammar_rule {
  size_t name, len;  // place in the text
  uint32_t start;
  bool defined;
} qi__grammar_rule;

// Names of rules. As many as there are "::=" in the text: one more cannot be defined.
typedef struct qi__grammar_rules {
  qi__grammar_rule *at; // [cap]
  uint32_t *slots;      // [n_slots] rule plus 1; n_slots a power of two, at least twice cap
  size_t n, cap, n_slots;
} qi__grammar_rules;

typedef struct qi__grammar_parser {
  const char *text;
  size_t len, at;
  int depth;
  qi__grammar_code code;
  qi__grammar_rules rules;
  qi_error *err;
  qi_result result; // of the first failure
} qi__grammar_parser;

// ---- errors ----

// Fails at a place in the text. The first error stays.
QI__FN QI__PRINTF(4, 5) void qi__grammar_fail(qi__grammar_parser *p, size_t at, qi_result code, const char *fmt, ...) {
  char what[180];
  size_t line = 1, column = 1;
  if (p->result) return;
  va_list args;
  va_start(args, fmt);
  vsnprintf(what, sizeof what, fmt, args);
  va_end(args);
  for (size_t i = 0; i < at; i++) {
    if (p->text[i] == '\n') line++, column = 0;
    column++;
  }
  p->result = qi__fail(p->err, code, "grammar: line %zu, column %zu: %s", line, column, what);
}

// What stands at the next place, for messages.
QI__FN qi__printable qi__grammar_found(const qi__grammar_parser *p) {
  if (p->at >= p->len) return qi__show_text("the end");
  if (p->text[p->at] == '\n') return qi__show_text("a newline");
  char c[4] = {'\'', p->text[p->at], '\'', 0};
  return qi__show(c, 3);
}

QI__INLINE int qi__grammar_look(const qi__grammar_parser *p) { return p->at < p->len ? (uint8_t)p->text[p->at] : -1; }

// Failures of writing code become failures here.
QI__FN bool qi__grammar_sound(qi__grammar_parser *p) {
  if (p->code.result == QI_ERR_LIMIT)
    qi__grammar_fail(p, p->at, QI_ERR_LIMIT, "the grammar is too large: repetitions written out take more than %zu steps",
                     QI__GRAMMAR_MAX_CODE);
  else if (p->code.result && !p->result)
    p->result = qi__fail_oom(p->err, "grammar", p->code.cap * 2 * sizeof *p->code.at);
  return !p->result;
}

// ---- words ----

QI__FN void qi__grammar_skip_blanks(qi__grammar_parser *p, bool newlines) {
  for (;;) {
    int c = qi__grammar_look(p);
    if (c == '#')
      while ((c = qi__grammar_look(p)) >= 0 && c != '\n') p->at++;
    if (c != ' ' && c != '\t' && c != '\r' && !(newlines && c == '\n')) return;
    p->at++;
  }
}

QI__INLINE bool qi__grammar_is_name(int c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

// Number of the rule whose name is next, a new one if need be; -1 on failure.
QI__FN int32_t qi__grammar_name(qi__grammar_parser *p) {
  qi__grammar_rules *rules = &p->rules;
  size_t begin = p->at, mask = rules->n_slots - 1;
  uint32_t hash = 2166136261u; // FNV-1a
  while (qi__grammar_is_name(qi__grammar_look(p))) hash = (hash ^ (uint8_t)p->text[p->at++]) * 16777619u;
  size_t len = p->at - begin, slot = hash & mask;
  for (; rules->slots[slot]; slot = (slot + 1) & mask) {
    const qi__grammar_rule *r = &rules->at[rules->slots[slot] - 1];
    if (r->len == len && !memcmp(p->text + r->name, p->text + begin, len)) return (int32_t)(rules->slots[slot] - 1);
  }
  if (rules->n == rules->cap) {
    qi__grammar_fail(p, begin, QI_ERR_FORMAT, "rule %s is not defined", qi__show(p->text + begin, len).s);
    return -1;
  }
  rules->at[rules->n] = (qi__grammar_rule){begin, len, 0, false};
  rules->slots[slot] = (uint32_t)++rules->n;
  return (int32_t)(rules->n - 1);
}

// n hexadecimal digits.
QI__FN uint32_t qi__grammar_hex(qi__grammar_parser *p, int n) {
  uint32_t v = 0;
  for (int i = 0; i < n; i++, p->at++) {
    int c = qi__grammar_look(p), l = c | 0x20;
    int digit = c >= '0' && c <= '9' ? c - '0' : l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
    if (digit < 0) {
      qi__grammar_fail(p, p->at, QI_ERR_FORMAT, "found %s, expected %d hexadecimal digits", qi__grammar_found(p).s, n);
      return 0;
    }
    v = v << 4 | (uint32_t)digit;
  }
  return v;
}

// A character of a literal or class, maybe escaped.
QI__FN uint32_t qi__grammar_char(qi__grammar_parser *p) {
  static const char names[] = "nrt\\\"[]-^", bytes[] = "\n\r\t\\\"[]-^";
  size_t begin = p->at;
  uint32_t cp = 0;
  if (p->at >= p->len) {
    qi__grammar_fail(p, p->at, QI_ERR_FORMAT, "the text ends inside a literal or class");
    return 0;
  }
  if (p->text[p->at] != '\\') {
    size_t n = qi__utf8_next(p->text + p->at, p->len - p->at, &cp);
    if (cp == QI__BAD_CHAR && n == 1) qi__grammar_fail(p, p->at, QI_ERR_FORMAT, "not UTF-8");
    p->at += n;
    return cp;
  }
  p->at++;
  int c = qi__grammar_look(p);
  const char *name = c > 0 ? strchr(names, c) : NULL;
  if (p->at < p->len) p->at++;
  if (name) return (uint8_t)bytes[name - names];
  if (c == 'x') cp = qi__grammar_hex(p, 2);
  else if (c == 'u') cp = qi__grammar_hex(p, 4);
  else if (c == 'U') cp = qi__grammar_hex(p, 8);
  else qi__grammar_fail(p, begin, QI_ERR_FORMAT, "a backslash must be followed by one of nrt\\\"[]-^xuU");
  if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000))
    qi__grammar_fail(p, begin, QI_ERR_FORMAT, "U+%04X is no character", (unsigned)cp);
  return cp;
}

// ---- elements ----

QI__FN void qi__grammar_emit_text(qi__grammar_code *c, const char *text, size_t len) {
  for (size_t i = 0; i < len; i++) qi__grammar_emit(c, QI__GRAMMAR_BYTE, (uint8_t)text[i], (uint8_t)text[i], 0);
}

QI__FN void qi__grammar_literal(qi__grammar_parser *p) {
  size_t begin = p->at++;
  while (!p->result && qi__grammar_look(p) != '"') {
    char utf8[4];
    uint32_t cp = qi__grammar_char(p);
    if (p->result) return;
    qi__grammar_emit_text(&p->code, utf8, qi__utf8_put(cp, utf8));
    if (p->at >= p->len) qi__grammar_fail(p, begin, QI_ERR_FORMAT, "the literal that begins here does not end");
  }
  p->at++;
}

QI__FN void qi__grammar_char_class(qi__grammar_parser *p) {
  qi__char_range ranges[QI__GRAMMAR_MAX_RANGES];
  size_t n = 0, begin = p->at++;
  bool negated = qi__grammar_look(p) == '^';
  p->at += negated;
  while (!p->result && qi__grammar_look(p) != ']') {
    size_t at = p->at;
    uint32_t lo = qi__grammar_char(p), hi = lo;
    if (p->result) return;
    if (p->at + 1 < p->len && p->text[p->at] == '-' && p->text[p->at + 1] != ']') {
      p->at++;
      hi = qi__grammar_char(p);
    }
    if (hi < lo) qi__grammar_fail(p, at, QI_ERR_FORMAT, "a range that ends before it begins");
    if (n == QI__GRAMMAR_MAX_RANGES)
      qi__grammar_fail(p, at, QI_ERR_LIMIT, "a class of more than %d characters and ranges", QI__GRAMMAR_MAX_RANGES);
    if (p->result) return;
    ranges[n++] = (qi__char_range){lo, hi};
    if (p->at >= p->len) qi__grammar_fail(p, begin, QI_ERR_FORMAT, "the class that begins here does not end");
  }
  p->at++;
  if (!qi__grammar_emit_class(&p->code, ranges, n, negated) && qi__grammar_sound(p))
    qi__grammar_fail(p, begin, QI_ERR_FORMAT, "a class without characters");
}

QI__FN void qi__grammar_alternatives(qi__grammar_parser *p, bool group);

QI__FN void qi__grammar_group(qi__grammar_parser *p) {
  size_t begin = p->at++;
  if (++p->depth > QI__GRAMMAR_MAX_DEPTH)
    qi__grammar_fail(p, begin, QI_ERR_LIMIT, "groups nest deeper than %d", QI__GRAMMAR_MAX_DEPTH);
  else
    qi__grammar_alternatives(p, true);
  p->depth--;
  if (p->result) return;
  if (qi__grammar_look(p) != ')')
    qi__grammar_fail(p, p->at, QI_ERR_FORMAT, "found %s, expected an element, '|' or ')'", qi__grammar_found(p).s);
  p->at++;
}

// One element; false when none begins here.
QI__FN bool qi__grammar_element(qi__grammar_parser *p) {
  int c = qi__grammar_look(p);
  if (c == '"') {
    qi__grammar_literal(p);
  } else if (c == '[') {
    qi__grammar_char_class(p);
  } else if (c == '(') {
    qi__grammar_group(p);
  } else if (c == '.') {
    p->at++;
    qi__grammar_emit_class(&p->code, NULL, 0, true);
  } else if (qi__grammar_is_name(c)) {
    int32_t rule = qi__grammar_name(p);
    if (rule >= 0) qi__grammar_emit(&p->code, QI__GRAMMAR_CALL, 0, 0, rule);
  } else {
    return false;
  }
  return true;
}

QI__FN uint32_t qi__grammar_number(qi__grammar_parser *p) {
  uint64_t v = 0;
  size_t begin = p->at;
  for (int c; (c = qi__grammar_look(p)) >= '0' && c <= '9'; p->at++)
    if (v <= QI__GRAMMAR_MAX_CODE) v = v * 10 + (uint64_t)(c - '0');
  if (p->at == begin) qi__grammar_fail(p, begin, QI_ERR_FORMAT, "found %s, expected a number", qi__grammar_found(p).s);
  if (v > QI__GRAMMAR_MAX_CODE)
    qi__grammar_fail(p, begin, QI_ERR_LIMIT, "a repetition of more than %zu", QI__GRAMMAR_MAX_CODE);
  return (uint32_t)v;
}

// What may follow an element that begins at `start` in the code.
QI__FN void qi__grammar_suffix(qi__grammar_parser *p, size_t start) {
  size_t begin = p->at;
  uint32_t least = 0, most = QI__GRAMMAR_ENDLESS;
  int c = qi__grammar_look(p);
  if (c != '*' && c != '+' && c != '?' && c != '{') return;
  p->at++;
  if (c == '+') least = 1;
  if (c == '?') most = 1;
  if (c == '{') {
    qi__grammar_skip_blanks(p, false);
    least = most = qi__grammar_number(p);
    qi__grammar_skip_blanks(p, false);
    if (qi__grammar_look(p) == ',') {
      p->at++;
      qi__grammar_skip_blanks(p, false);
      most = qi__grammar_look(p) == '}' ? QI__GRAMMAR_ENDLESS : qi__grammar_number(p);
      qi__grammar_skip_blanks(p, false);
    }
    if (qi__grammar_look(p) != '}')
      qi__grammar_fail(p, p->at, QI_ERR_FORMAT, "found %s, expected '}'", qi__grammar_found(p).s);
    else if (least > most)
      qi__grammar_fail(p, begin, QI_ERR_FORMAT, "a repetition of at least %u and at most %u", (unsigned)least, (unsigned)most);
    p->at++;
  }
  if (!p->result) qi__grammar_repeat(&p->code, start, least, most);
  qi__grammar_skip_blanks(p, false);
  if ((c = qi__grammar_look(p)) == '*' || c == '+' || c == '?' || c == '{')
    qi__grammar_fail(p, p->at, QI_ERR_FORMAT, "a repetition of a repetition; parentheses around the inner one are missing");
}

QI__FN void qi__grammar_sequence(qi__grammar_parser *p, bool group) {
  while (!p->result) {
    size_t start = p->code.n;
    qi__grammar_skip_blanks(p, group);
    if (!qi__grammar_element(p)) return;
    qi__grammar_skip_blanks(p, group);
    if (qi__grammar_sound(p)) qi__grammar_suffix(p, start);
    qi__grammar_sound(p);
  }
}

QI__FN void qi__grammar_alternatives(qi__grammar_parser *p, bool group) {
  size_t chain = 0;
  for (;;) {
    size_t start = p->code.n, at;
    qi__grammar_sequence(p, group);
    at = p->at;
    qi__grammar_skip_blanks(p, true);
    if (p->result || qi__grammar_look(p) != '|') {
      p->at = at;
      break;
    }
    p->at++;
    qi__grammar_skip_blanks(p, true);
    qi__grammar_or(&p->code, start, &chain);
    if (!qi__grammar_sound(p)) return;
  }
  qi__grammar_join(&p->code, chain);
}

// ---- rules ----

QI__FN void qi__grammar_parse_rule(qi__grammar_parser *p) {
  size_t begin = p->at;
  if (!qi__grammar_is_name(qi__grammar_look(p))) {
    qi__grammar_fail(p, begin, QI_ERR_FORMAT, "found %s, expected the name of a rule", qi__grammar_found(p).s);
    return;
  }
  int32_t id = qi__grammar_name(p);
  size_t end = p->at;
  qi__grammar_skip_blanks(p, false);
  if (p->len - p->at < 3 || memcmp(p->text + p->at, "::=", 3))
    qi__grammar_fail(p, p->at, QI_ERR_FORMAT, "found %s, expected ::= behind the name of a rule", qi__grammar_found(p).s);
  if (p->result) return;
  p->at += 3;
  qi__grammar_rule *r = &p->rules.at[id];
  if (r->defined)
    qi__grammar_fail(p, begin, QI_ERR_FORMAT, "rule %s is defined twice", qi__show(p->text + begin, end - begin).s);
  r->defined = true;
  r->name = begin;
  r->start = (uint32_t)p->code.n;
  qi__grammar_skip_blanks(p, true);
  qi__grammar_alternatives(p, false);
  qi__grammar_emit(&p->code, QI__GRAMMAR_RETURN, 0, 0, id);
  qi__grammar_skip_blanks(p, false);
  if (qi__grammar_sound(p) && p->at < p->len && p->text[p->at] != '\n')
    qi__grammar_fail(p, p->at, QI_ERR_FORMAT, "found %s, expected an element, '|' or the end of the line", qi__grammar_found(p).s);
}

// Memory for names; must be freed by qi__grammar_parser_free, also after a failure.
QI__FN qi_result qi__grammar_parser_init(qi__grammar_parser *p, const char *text, size_t len, const qi_allocator *allocator,
                                         qi_error *err) {
  memset(p, 0, sizeof *p);
  p->text = text;
  p->len = len;
  p->err = err;
  p->code.allocator = allocator;
  if (len > QI__GRAMMAR_MAX_TEXT)
    return p->result = qi__fail(err, QI_ERR_LIMIT, "grammar: %zu bytes, at most %zu are allowed", len, QI__GRAMMAR_MAX_TEXT);
  size_t n = 1;
  for (size_t i = 2; i < len; i++) n += text[i] == '=' && text[i - 1] == ':' && text[i - 2] == ':';
  p->rules.cap = n;
  for (p->rules.n_slots = 2; p->rules.n_slots < 2 * n;) p->rules.n_slots *= 2;
  p->rules.at = (qi__grammar_rule *)qi__alloc(allocator, n * sizeof *p->rules.at, sizeof(void *));
  p->rules.slots = (uint32_t *)qi__alloc(allocator, p->rules.n_slots * sizeof *p->rules.slots, sizeof(void *));
  if (!p->rules.at || !p->rules.slots) return p->result = qi__fail_oom(err, "grammar", n * sizeof *p->rules.at);
  memset(p->rules.slots, 0, p->rules.n_slots * sizeof *p->rules.slots);
  return QI_OK;
}

QI__FN void qi__grammar_parser_free(qi__grammar_parser *p) {
  const qi_allocator *a = p->code.allocator;
  qi__grammar_code_free(&p->code);
  qi__free(a, p->rules.at, p->rules.cap * sizeof *p->rules.at);
  qi__free(a, p->rules.slots, p->rules.n_slots * sizeof *p->rules.slots);
}

// The whole text. *root: the rule of that name.
QI__FN qi_result qi__grammar_parse(qi__grammar_parser *p, uint32_t *root) {
  for (qi__grammar_skip_blanks(p, true); !p->result && p->at < p->len; qi__grammar_skip_blanks(p, true)) qi__grammar_parse_rule(p);
  *root = UINT32_MAX;
  for (size_t i = 0; i < p->rules.n && !p->result; i++) {
    const qi__grammar_rule *r = &p->rules.at[i];
    if (!r->defined)
      qi__grammar_fail(p, r->name, QI_ERR_FORMAT, "rule %s is not defined", qi__show(p->text + r->name, r->len).s);
    if (r->len == 4 && !memcmp(p->text + r->name, "root", 4)) *root = (uint32_t)i;
  }
  if (*root == UINT32_MAX) qi__grammar_fail(p, p->len, QI_ERR_FORMAT, "there is no rule named root");
  return p->result;
}

#endif // QI__GRAMMAR_PARSE_H
