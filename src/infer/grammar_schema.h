// ==== >>grammar_schema : JSON schemas to GBNF ====
#ifndef QI__GRAMMAR_SCHEMA_H
#define QI__GRAMMAR_SCHEMA_H

#include "../model/json_tree.h"
#include "grammar_parse.h"

#define QI__SCHEMA_MAX_TEXT ((size_t)1 << 18) // bytes
#define QI__SCHEMA_MAX_DIGITS 18              // of integers
#define QI__SCHEMA_MAX_EXCLUDED 256           // declared names that further members must not have

// Every schema that text is generated for becomes a rule s<node>; those are written in the order in which they are first needed.
// The whole is written twice: once to count, once in memory of that size.
typedef struct qi__schema {
  qi__json_tree tree;
  qi__json_sink out;
  uint32_t *queue;   // [tree.n] nodes that have a rule
  bool *queued;      // [tree.n]
  size_t n_queue;
  qi_error *err;
  qi_result result;  // of the first failure
} qi__schema;

// ---- writing ----

QI__FN QI__PRINTF(4, 5) void qi__schema_fail(qi__schema *s, uint32_t at, qi_result code, const char *fmt, ...) {
  char what[180];
  size_t line, column;
  if (s->result) return;
  va_list args;
  va_start(args, fmt);
  vsnprintf(what, sizeof what, fmt, args);
  va_end(args);
  qi__json_tree_place(&s->tree, at, &line, &column);
  s->result = qi__fail(s->err, code, "json_schema: line %zu, column %zu: %s", line, column, what);
}

QI__FN void qi__schema_put(qi__schema *s, const char *text) {
  while (*text) qi__json_put(&s->out, (uint8_t)*text++);
}
QI__FN QI__PRINTF(2, 3) void qi__schema_printf(qi__schema *s, const char *fmt, ...) {
  char text[128];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  qi__schema_put(s, text);
}

// A byte inside a literal.
QI__FN void qi__schema_put_byte(qi__schema *s, uint8_t byte) {
  if (byte == '"' || byte == '\\') qi__json_put(&s->out, '\\');
  if (byte < 0x20 || byte == 0x7f) qi__schema_printf(s, "\\x%02X", byte);
  else qi__json_put(&s->out, byte);
}

// The same as it stands inside a JSON string.
QI__FN void qi__schema_put_string_byte(qi__schema *s, uint8_t byte) {
  static const char bytes[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
  char text[8] = {(char)byte, 0};
  const char *at = byte ? strchr(bytes, byte) : NULL;
  if (at) snprintf(text, sizeof text, "\\%c", names[at - bytes]);
  else if (byte < 0x20) snprintf(text, sizeof text, "\\u%04x", byte);
  for (const char *p = text; *p; p++) qi__schema_put_byte(s, (uint8_t)*p);
}

// A JSON string inside a literal.
QI__FN void qi__schema_put_string(qi__schema *s, uint32_t text, uint32_t len) {
  qi__schema_put_byte(s, '"');
  for (uint32_t i = 0; i < len; i++) qi__schema_put_string_byte(s, (uint8_t)s->tree.pool[text + i]);
  qi__schema_put_byte(s, '"');
}

// A value without blanks, inside a literal.
QI__FN void qi__schema_put_value(qi__schema *s, uint32_t id) {
  const qi__json_node *node = &s->tree.nodes[id];
  bool object = node->type == QI__JSON_OBJECT;
  switch (node->type) {
  case QI__JSON_NULL: qi__schema_put(s, "null"); break;
  case QI__JSON_BOOL: qi__schema_put(s, node->flag ? "true" : "false"); break;
  case QI__JSON_NUMBER:
    for (uint32_t i = 0; i < node->text_len; i++) qi__schema_put_byte(s, (uint8_t)s->tree.pool[node->text + i]);
    break;
  case QI__JSON_STRING: qi__schema_put_string(s, node->text, node->text_len); break;
  case QI__JSON_ARRAY: case QI__JSON_OBJECT:
    qi__schema_put(s, object ? "{" : "[");
    for (uint32_t child = node->child; child; child = s->tree.nodes[child].next) {
      if (child != node->child) qi__schema_put(s, ",");
      if (object) qi__schema_put_string(s, s->tree.nodes[child].key, s->tree.nodes[child].key_len);
      if (object) qi__schema_put(s, ":");
      qi__schema_put_value(s, child);
    }
    qi__schema_put(s, object ? "}" : "]");
    break;
  case QI__JSON_NONE: break;
  }
}

// ---- looking ----

QI__FN uint32_t qi__schema_find(const qi__schema *s, uint32_t id, const char *key) {
  return qi__json_tree_find(&s->tree, id, key, strlen(key));
}

QI__FN bool qi__schema_text_is(const qi__schema *s, uint32_t id, const char *text) {
  const qi__json_node *node = &s->tree.nodes[id];
  size_t len = strlen(text);
  return node->type == QI__JSON_STRING && node->text_len == len && !memcmp(s->tree.pool + node->text, text, len);
}

// Member of a schema that must have this type; 0 = not there.
QI__FN uint32_t qi__schema_member(qi__schema *s, uint32_t id, const char *key, qi__json_type type) {
  uint32_t child = qi__schema_find(s, id, key);
  if (!child || s->tree.nodes[child].type == type) return child;
  qi__schema_fail(s, child, QI_ERR_FORMAT, "%s is %s, expected %s", key, qi__json_type_name(s->tree.nodes[child].type),
                  qi__json_type_name(type));
  return 0;
}

// A whole number of at most 18 digits at a node; false after a failure.
QI__FN bool qi__schema_integer(qi__schema *s, uint32_t id, int64_t *out) {
  const qi__json_node *node = &s->tree.nodes[id];
  const char *text = s->tree.pool + node->text;
  uint32_t n = node->type == QI__JSON_NUMBER ? node->text_len : 0, begin = n && text[0] == '-', i = begin;
  int64_t v = 0;
  for (; i < n && text[i] >= '0' && text[i] <= '9' && i - begin < QI__SCHEMA_MAX_DIGITS; i++) v = v * 10 + (text[i] - '0');
  *out = begin ? 0 - v : v;
  if (n && i == n) return true;
  qi__schema_fail(s, id, QI_ERR_UNSUPPORTED, "expected a whole number of at most %d digits", QI__SCHEMA_MAX_DIGITS);
  return false;
}

// {least,most} of two members; false when neither is there.
QI__FN bool qi__schema_limits(qi__schema *s, uint32_t id, const char *least_key, const char *most_key, int64_t *least,
                              int64_t *most) {
  uint32_t a = qi__schema_find(s, id, least_key), b = qi__schema_find(s, id, most_key);
  *least = 0;
  *most = -1; // endless
  if (a && !qi__schema_integer(s, a, least)) return false;
  if (b && !qi__schema_integer(s, b, most)) return false;
  if (*least < 0 || (b && *most < *least))
    qi__schema_fail(s, a ? a : b, QI_ERR_FORMAT, "%s and %s leave nothing", least_key, most_key);
  return a || b;
}

// The name of a schema's rule, which will be written.
QI__FN void qi__schema_rule(qi__schema *s, uint32_t id) {
  if (!s->queued[id]) {
    s->queued[id] = true;
    s->queue[s->n_queue++] = id;
  }
  qi__schema_printf(s, "s%u", (unsigned)id);
}

// ---- strings and numbers ----

typedef struct qi__schema_format {
  const char *name, *rule;
} qi__schema_format;

static const qi__schema_format qi__schema_formats[] = {
  {"date", "json-date"},
  {"time", "json-time"},
  {"date-time", "json-date \"T\" json-time"},
  {"uuid", "json-hex{8} \"-\" json-hex{4} \"-\" json-hex{4} \"-\" json-hex{4} \"-\" json-hex{12}"},
};

QI__FN void qi__schema_put_text_type(qi__schema *s, uint32_t id) {
  int64_t least, most;
  uint32_t format = qi__schema_member(s, id, "format", QI__JSON_STRING);
  bool limits = qi__schema_limits(s, id, "minLength", "maxLength", &least, &most);
  if (format) {
    for (size_t i = 0; i < QI__COUNT_OF(qi__schema_formats); i++)
      if (qi__schema_text_is(s, format, qi__schema_formats[i].name)) {
        if (limits) qi__schema_fail(s, format, QI_ERR_UNSUPPORTED, "format together with minLength or maxLength");
        qi__schema_put(s, "\"\\\"\" ");
        qi__schema_put(s, qi__schema_formats[i].rule);
        qi__schema_put(s, " \"\\\"\"");
        return;
      }
    qi__schema_fail(s, format, QI_ERR_UNSUPPORTED, "format %s; known are date, time, date-time, uuid",
                    qi__show(s->tree.pool + s->tree.nodes[format].text, s->tree.nodes[format].text_len).s);
  } else if (!limits) {
    qi__schema_put(s, "json-string");
  } else if (most < 0) {
    qi__schema_printf(s, "\"\\\"\" json-char{%lld,} \"\\\"\"", (long long)least);
  } else {
    qi__schema_printf(s, "\"\\\"\" json-char{%lld,%lld} \"\\\"\"", (long long)least, (long long)most);
  }
}

// Numbers of exactly the digits of `a` from a on (up: true) or up to a, in as many digits.
QI__FN void qi__schema_put_beyond(qi__schema *s, const char *a, bool up) {
  size_t n = strlen(a);
  qi__schema_put(s, "(");
  for (size_t k = 0; k < n; k++) { // the same up to k, then greater or less
    char lo = up ? (char)(a[k] + 1) : '0', hi = up ? '9' : (char)(a[k] - 1);
    if (lo > hi) continue;
    if (k) qi__schema_printf(s, "\"%.*s\" ", (int)k, a);
    qi__schema_printf(s, "[%c-%c]", lo, hi);
    if (k + 1 < n) qi__schema_printf(s, " [0-9]{%zu}", n - k - 1);
    qi__schema_put(s, " | ");
  }
  qi__schema_printf(s, "\"%s\")", a);
}

// Whole numbers from lo to hi, 0 <= lo <= hi, as alternatives.
QI__FN void qi__schema_put_range(qi__schema *s, int64_t lo, int64_t hi) {
  char a[24], b[24];
  for (int64_t end = 9; lo <= hi;) { // by number of digits
    while (end < lo) end = end * 10 + 9;
    int64_t top = end < hi ? end : hi;
    size_t k = 0;
    snprintf(a, sizeof a, "%lld", (long long)lo);
    snprintf(b, sizeof b, "%lld", (long long)top);
    while (a[k] && a[k] == b[k]) k++;
    if (k) qi__schema_printf(s, "\"%.*s\" ", (int)k, a);
    if (a[k]) {
      qi__schema_printf(s, "(\"%c\" ", a[k]);
      qi__schema_put_beyond(s, a + k + 1, true);
      if (b[k] - a[k] > 1) qi__schema_printf(s, " | [%c-%c] [0-9]{%zu}", a[k] + 1, b[k] - 1, strlen(a + k + 1));
      qi__schema_printf(s, " | \"%c\" ", b[k]);
      qi__schema_put_beyond(s, b + k + 1, false);
      qi__schema_put(s, ")");
    }
    if (top < hi) qi__schema_put(s, " | ");
    lo = top + 1;
  }
}

QI__FN void qi__schema_put_integer(qi__schema *s, uint32_t id) {
  static const char *const keys[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};
  const int64_t end = 999999999999999999; // QI__SCHEMA_MAX_DIGITS
  int64_t lo = 0 - end, hi = end, v;
  bool any = false;
  for (int i = 0; i < 4; i++) {
    uint32_t at = qi__schema_find(s, id, keys[i]);
    if (!at || !qi__schema_integer(s, at, &v)) continue;
    any = true;
    if (i & 1) v += i == 1 ? 1 : -1;
    if (i < 2 && v > lo) lo = v;
    if (i >= 2 && v < hi) hi = v;
  }
  if (!any) {
    qi__schema_put(s, "json-integer");
    return;
  }
  if (lo > hi) qi__schema_fail(s, id, QI_ERR_FORMAT, "no integer lies between minimum and maximum");
  if (s->result) return;
  qi__schema_put(s, "(");
  if (lo < 0) {
    qi__schema_put(s, "\"-\" (");
    qi__schema_put_range(s, hi < 0 ? 0 - hi : 1, 0 - lo);
    qi__schema_put(s, ")");
  }
  if (lo < 0 && hi >= 0) qi__schema_put(s, " | ");
  if (hi >= 0) qi__schema_put_range(s, lo > 0 ? lo : 0, hi);
  qi__schema_put(s, ")");
}

// ---- arrays ----

QI__FN void qi__schema_put_array(qi__schema *s, uint32_t id) {
  uint32_t tuple = qi__schema_member(s, id, "prefixItems", QI__JSON_ARRAY), items = qi__schema_find(s, id, "items");
  int64_t least, most;
  bool limits = qi__schema_limits(s, id, "minItems", "maxItems", &least, &most);
  bool none = items && s->tree.nodes[items].type == QI__JSON_BOOL && !s->tree.nodes[items].flag;
  if (tuple && limits) qi__schema_fail(s, tuple, QI_ERR_UNSUPPORTED, "prefixItems together with minItems or maxItems");
  if (tuple && !s->tree.nodes[tuple].n) qi__schema_fail(s, tuple, QI_ERR_UNSUPPORTED, "prefixItems is empty");
  if (none && !tuple && least > 0) qi__schema_fail(s, items, QI_ERR_FORMAT, "items and minItems leave nothing");
  qi__schema_put(s, "\"[\" json-ws ");
  if (tuple) {
    for (uint32_t child = s->tree.nodes[tuple].child; child; child = s->tree.nodes[child].next) {
      if (child != s->tree.nodes[tuple].child) qi__schema_put(s, "\",\" json-ws ");
      qi__schema_rule(s, child);
      qi__schema_put(s, " ");
    }
    if (items && !none) {
      qi__schema_put(s, "(\",\" json-ws ");
      qi__schema_rule(s, items);
      qi__schema_put(s, ")* ");
    }
  } else if (!none && most != 0) {
    qi__schema_put(s, "(");
    for (int i = 0; i < 2; i++) {
      if (items) qi__schema_rule(s, items);
      else qi__schema_put(s, "json-value");
      if (!i) qi__schema_put(s, " (\",\" json-ws ");
    }
    qi__schema_printf(s, "){%lld,", (long long)(least > 0 ? least - 1 : 0));
    if (most > 0) qi__schema_printf(s, "%lld", (long long)most - 1);
    qi__schema_put(s, least > 0 ? "}) " : "})? ");
  }
  qi__schema_put(s, "json-ws \"]\"");
}

// ---- objects ----

// Does the name of a declared member begin with these bytes?
QI__FN bool qi__schema_begins(const qi__schema *s, uint32_t member, const char *prefix, uint32_t len) {
  const qi__json_node *node = &s->tree.nodes[member];
  return node->key_len >= len && !memcmp(s->tree.pool + node->key, prefix, len);
}

// Names with characters that are written with a backslash: further keys have none at the places where they could be one of those.
QI__FN bool qi__schema_is_plain(const qi__schema *s, uint32_t member) {
  const qi__json_node *node = &s->tree.nodes[member];
  for (uint32_t i = 0; i < node->key_len; i++) {
    uint8_t c = (uint8_t)s->tree.pool[node->key + i];
    if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f) return false;
  }
  return true;
}

// A key that begins with the first `len` bytes of a declared name and then is none of them: it ends there, or goes on otherwise.
QI__FN void qi__schema_put_other(qi__schema *s, uint32_t first, uint32_t member, uint32_t len) {
  const qi__json_node *nodes = s->tree.nodes;
  const char *prefix = s->tree.pool + nodes[member].key;
  bool taken = false;
  for (uint32_t m = first; m; m = nodes[m].next) taken = taken || (nodes[m].key_len == len && qi__schema_begins(s, m, prefix, len));
  qi__schema_put(s, "\"\\\"");
  for (uint32_t i = 0; i < len; i++) qi__schema_put_byte(s, (uint8_t)prefix[i]);
  qi__schema_put(s, "\" ([^\"\\\\\\x00-\\x1F\\x7F");
  for (uint32_t m = first; m; m = nodes[m].next) {
    uint32_t cp;
    if (nodes[m].key_len <= len || !qi__schema_is_plain(s, m) || !qi__schema_begins(s, m, prefix, len)) continue;
    qi__utf8_next(s->tree.pool + nodes[m].key + len, nodes[m].key_len - len, &cp);
    qi__schema_printf(s, "\\U%08X", (unsigned)cp);
  }
  qi__schema_put(s, taken ? "] json-char*) \"\\\"\"" : "] json-char*)? \"\\\"\"");
}

// The key of a further member: none of the declared names.
QI__FN void qi__schema_put_other_key(qi__schema *s, uint32_t properties) {
  const qi__json_node *nodes = s->tree.nodes;
  uint32_t first = properties ? nodes[properties].child : 0;
  if (!first) {
    qi__schema_put(s, "json-string");
    return;
  }
  if (nodes[properties].n > QI__SCHEMA_MAX_EXCLUDED)
    qi__schema_fail(s, properties, QI_ERR_LIMIT, "additionalProperties beside more than %d properties", QI__SCHEMA_MAX_EXCLUDED);
  bool any = false;
  qi__schema_put(s, "(");
  for (uint32_t m = first; m && !s->result; m = nodes[m].next) {
    const char *name = s->tree.pool + nodes[m].key;
    for (uint32_t len = 0; qi__schema_is_plain(s, m) && len <= nodes[m].key_len; len++) {
      if (len < nodes[m].key_len && ((uint8_t)name[len] & 0xC0) == 0x80) continue; // inside a character
      bool before = false; // an earlier name begins so too
      for (uint32_t e = first; e != m && !before; e = nodes[e].next)
        before = qi__schema_is_plain(s, e) && qi__schema_begins(s, e, name, len);
      if (before) continue;
      if (any) qi__schema_put(s, " | ");
      qi__schema_put_other(s, first, m, len);
      any = true;
    }
  }
  qi__schema_put(s, any ? ")" : "\"\\\"\" [^\"\\\\\\x00-\\x1F\\x7F]* \"\\\"\")");
}

QI__FN void qi__schema_put_member(qi__schema *s, uint32_t member) {
  qi__schema_put(s, "\"");
  qi__schema_put_string(s, s->tree.nodes[member].key, s->tree.nodes[member].key_len);
  qi__schema_put(s, ":\" json-ws ");
  qi__schema_rule(s, member);
}

QI__FN bool qi__schema_is_required(const qi__schema *s, uint32_t required, uint32_t member) {
  const qi__json_node *m = &s->tree.nodes[member];
  for (uint32_t r = required ? s->tree.nodes[required].child : 0; r; r = s->tree.nodes[r].next) {
    const qi__json_node *n = &s->tree.nodes[r];
    if (n->type != QI__JSON_STRING || n->text_len != m->key_len) continue;
    if (!memcmp(s->tree.pool + n->text, s->tree.pool + m->key, m->key_len)) return true;
  }
  return false;
}

// What further members an object may have: their schema; 0 for any value; false when it may have none, which is so when members are
// declared and nothing is said.
QI__FN bool qi__schema_is_open(qi__schema *s, uint32_t id, uint32_t properties, uint32_t *schema) {
  uint32_t more = qi__schema_find(s, id, "additionalProperties");
  bool flag = s->tree.nodes[more].type == QI__JSON_BOOL;
  *schema = more && !flag ? more : 0;
  return more ? !flag || s->tree.nodes[more].flag : !properties;
}

QI__FN void qi__schema_put_further(qi__schema *s, uint32_t properties, uint32_t schema) {
  qi__schema_put_other_key(s, properties);
  qi__schema_put(s, " \":\" json-ws ");
  if (schema) qi__schema_rule(s, schema);
  else qi__schema_put(s, "json-value");
}

// Members come in the order in which they are declared; those not required may be left out. Rule s<id>-<k> is what may follow a
// member when the first k declared ones are done with.
QI__FN void qi__schema_put_object(qi__schema *s, uint32_t id) {
  uint32_t properties = qi__schema_member(s, id, "properties", QI__JSON_OBJECT), k = 0, schema;
  uint32_t required = qi__schema_member(s, id, "required", QI__JSON_ARRAY);
  uint32_t first = properties ? s->tree.nodes[properties].child : 0;
  bool open = qi__schema_is_open(s, id, properties, &schema), must = false;
  for (uint32_t r = required ? s->tree.nodes[required].child : 0; r; r = s->tree.nodes[r].next) {
    const qi__json_node *n = &s->tree.nodes[r];
    if (n->type != QI__JSON_STRING || !properties || !qi__json_tree_find(&s->tree, properties, s->tree.pool + n->text, n->text_len))
      qi__schema_fail(s, r, QI_ERR_UNSUPPORTED, "required: not the name of one of the properties");
  }
  qi__schema_put(s, "\"{\" json-ws (");
  for (uint32_t m = first; m && !must; m = s->tree.nodes[m].next) { // the first one that is there
    qi__schema_put_member(s, m);
    must = qi__schema_is_required(s, required, m);
    qi__schema_printf(s, " s%u-%u%s", (unsigned)id, (unsigned)++k, must ? "" : " | ");
  }
  if (!must && open) {
    qi__schema_put_further(s, properties, schema);
    qi__schema_printf(s, " s%u-end | ", (unsigned)id);
  }
  qi__schema_put(s, must ? ") json-ws \"}\"" : "\"\") json-ws \"}\"");
  k = 1;
  for (uint32_t m = first; m; m = s->tree.nodes[m].next, k++) {
    uint32_t next = s->tree.nodes[m].next;
    qi__schema_printf(s, "\ns%u-%u ::= ", (unsigned)id, (unsigned)k);
    if (!next) {
      qi__schema_printf(s, open ? "s%u-end" : "\"\"", (unsigned)id);
      break;
    }
    bool optional = !qi__schema_is_required(s, required, next);
    qi__schema_put(s, optional ? "(\",\" json-ws " : "\",\" json-ws ");
    qi__schema_put_member(s, next);
    qi__schema_printf(s, "%s s%u-%u", optional ? ")?" : "", (unsigned)id, (unsigned)k + 1);
  }
  if (!open) return;
  qi__schema_printf(s, "\ns%u-end ::= (\",\" json-ws ", (unsigned)id);
  qi__schema_put_further(s, properties, schema);
  qi__schema_put(s, ")*");
}

// ---- schemas ----

static const char *const qi__schema_annotations[] = {"title", "description", "default", "examples", "$schema", "$id", "$comment",
                                                     "deprecated", "readOnly", "writeOnly", "$defs", "definitions"};
static const char *const qi__schema_keywords[] = {
  "$ref", "const", "enum", "anyOf", "oneOf", "allOf", "type", "properties", "required", "additionalProperties", "items",
  "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "format", "minimum", "maximum", "exclusiveMinimum",
  "exclusiveMaximum"};

// True for a name of the list.
QI__FN bool qi__schema_listed(const qi__schema *s, uint32_t member, const char *const *list, size_t n) {
  const qi__json_node *node = &s->tree.nodes[member];
  for (size_t i = 0; i < n; i++)
    if (strlen(list[i]) == node->key_len && !memcmp(list[i], s->tree.pool + node->key, node->key_len)) return true;
  return false;
}

// Refuses what is not known. `alone` (0 = none): a member beside which there may only be annotations.
QI__FN void qi__schema_check_keywords(qi__schema *s, uint32_t id, uint32_t alone) {
  for (uint32_t m = s->tree.nodes[id].child; m; m = s->tree.nodes[m].next) {
    qi__printable name = qi__show(s->tree.pool + s->tree.nodes[m].key, s->tree.nodes[m].key_len);
    if (m == alone || qi__schema_listed(s, m, qi__schema_annotations, QI__COUNT_OF(qi__schema_annotations))) continue;
    if (!qi__schema_listed(s, m, qi__schema_keywords, QI__COUNT_OF(qi__schema_keywords)))
      qi__schema_fail(s, m, QI_ERR_UNSUPPORTED, "keyword %s is not supported", name.s);
    if (alone)
      qi__schema_fail(s, m, QI_ERR_UNSUPPORTED, "keyword %s beside %s", name.s,
                      qi__show(s->tree.pool + s->tree.nodes[alone].key, s->tree.nodes[alone].key_len).s);
  }
}

// The node that a JSON pointer (RFC 6901) behind '#' leads to.
QI__FN void qi__schema_put_ref(qi__schema *s, uint32_t ref) {
  const qi__json_node *node = &s->tree.nodes[ref];
  const char *p = s->tree.pool + node->text, *end = p + node->text_len;
  char name[QI__JSON_MAX_KEY + 1];
  uint32_t at = 0;
  bool found = node->type == QI__JSON_STRING && p < end && *p++ == '#';
  while (found && p < end) {
    size_t len = 0;
    found = *p++ == '/';
    for (; found && p < end && *p != '/' && len < sizeof name; p++) {
      bool escape = *p == '~' && p + 1 < end && (p[1] == '0' || p[1] == '1');
      name[len++] = escape ? "~/"[p[1] - '0'] : *p;
      p += escape;
    }
    uint32_t child = found ? qi__json_tree_find(&s->tree, at, name, len) : 0;
    if (!child && found && s->tree.nodes[at].type == QI__JSON_ARRAY && len && len < 6) { // an element's number
      uint32_t index = 0, i = 0;
      for (; i < len && name[i] >= '0' && name[i] <= '9'; i++) index = index * 10 + (uint32_t)(name[i] - '0');
      child = i == len ? s->tree.nodes[at].child : 0;
      for (; child && index; index--) child = s->tree.nodes[child].next;
    }
    found = child != 0;
    at = child;
  }
  if (!found) qi__schema_fail(s, ref, QI_ERR_FORMAT, "$ref: leads nowhere; only places in this text (#/...) are known");
  else qi__schema_rule(s, at);
}

QI__FN void qi__schema_put_choice(qi__schema *s, uint32_t list, bool values) {
  if (s->tree.nodes[list].type != QI__JSON_ARRAY || !s->tree.nodes[list].n) {
    qi__schema_fail(s, list, QI_ERR_FORMAT, "expected an array that is not empty");
    return;
  }
  for (uint32_t child = s->tree.nodes[list].child; child; child = s->tree.nodes[child].next) {
    if (values) qi__schema_put(s, "\"");
    if (values) qi__schema_put_value(s, child);
    else qi__schema_rule(s, child);
    qi__schema_put(s, values ? "\"" : "");
    if (s->tree.nodes[child].next) qi__schema_put(s, " | ");
  }
}

// What a type's texts are; `type` is the name.
QI__FN void qi__schema_put_type(qi__schema *s, uint32_t id, uint32_t type) {
  static const char *const limits[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
  if (qi__schema_text_is(s, type, "object")) qi__schema_put_object(s, id);
  else if (qi__schema_text_is(s, type, "array")) qi__schema_put_array(s, id);
  else if (qi__schema_text_is(s, type, "string")) qi__schema_put_text_type(s, id);
  else if (qi__schema_text_is(s, type, "integer")) qi__schema_put_integer(s, id);
  else if (qi__schema_text_is(s, type, "boolean")) qi__schema_put(s, "\"true\" | \"false\"");
  else if (qi__schema_text_is(s, type, "null")) qi__schema_put(s, "\"null\"");
  else if (!qi__schema_text_is(s, type, "number"))
    qi__schema_fail(s, type, QI_ERR_FORMAT, "type: expected object, array, string, number, integer, boolean or null");
  else {
    for (size_t i = 0; i < QI__COUNT_OF(limits); i++) {
      uint32_t limit = qi__schema_find(s, id, limits[i]);
      if (limit) qi__schema_fail(s, limit, QI_ERR_UNSUPPORTED, "%s of a number; integers can have it", limits[i]);
    }
    qi__schema_put(s, "json-number");
  }
}

// Several types: the rules of objects have more than one line, so they come last.
QI__FN void qi__schema_put_types(qi__schema *s, uint32_t id, uint32_t types) {
  uint32_t object = 0;
  bool any = false;
  for (uint32_t type = s->tree.nodes[types].child; type; type = s->tree.nodes[type].next) {
    if (qi__schema_text_is(s, type, "object")) {
      object = type;
      continue;
    }
    if (any) qi__schema_put(s, " | ");
    qi__schema_put_type(s, id, type);
    any = true;
  }
  if (any && object) qi__schema_put(s, " | ");
  if (object) qi__schema_put_type(s, id, object);
  if (!any && !object) qi__schema_fail(s, types, QI_ERR_FORMAT, "type: an empty list");
}

// The type that a schema without one means: what its keywords are about.
QI__FN void qi__schema_put_untyped(qi__schema *s, uint32_t id) {
  static const char *const of_object[] = {"properties", "required", "additionalProperties"};
  static const char *const of_array[] = {"items", "prefixItems", "minItems", "maxItems"};
  bool object = false, array = false;
  for (size_t i = 0; i < QI__COUNT_OF(of_object); i++) object = object || qi__schema_find(s, id, of_object[i]);
  for (size_t i = 0; i < QI__COUNT_OF(of_array); i++) array = array || qi__schema_find(s, id, of_array[i]);
  if (object && !array) qi__schema_put_object(s, id);
  else if (array && !object) qi__schema_put_array(s, id);
  else if (qi__schema_find(s, id, "minLength") || qi__schema_find(s, id, "maxLength") || qi__schema_find(s, id, "format"))
    qi__schema_put_text_type(s, id);
  else if (object || qi__schema_find(s, id, "minimum") || qi__schema_find(s, id, "maximum") ||
           qi__schema_find(s, id, "exclusiveMinimum") || qi__schema_find(s, id, "exclusiveMaximum"))
    qi__schema_fail(s, id, QI_ERR_UNSUPPORTED, "a schema without type whose keywords do not say which");
  else qi__schema_put(s, "json-value");
}

// The rule of a schema, behind its name.
QI__FN void qi__schema_put_schema(qi__schema *s, uint32_t id) {
  static const char *const alone[] = {"$ref", "anyOf", "oneOf", "allOf"};
  const qi__json_node *node = &s->tree.nodes[id];
  if (node->type == QI__JSON_BOOL && node->flag) {
    qi__schema_put(s, "json-value");
    return;
  }
  if (node->type != QI__JSON_OBJECT) {
    qi__schema_fail(s, id, QI_ERR_FORMAT, node->type == QI__JSON_BOOL ? "false: nothing is allowed here" : "expected a schema");
    return;
  }
  for (size_t i = 0; i < QI__COUNT_OF(alone); i++) {
    uint32_t member = qi__schema_find(s, id, alone[i]);
    if (!member) continue;
    qi__schema_check_keywords(s, id, member);
    if (i == 3 && s->tree.nodes[member].n != 1) qi__schema_fail(s, member, QI_ERR_UNSUPPORTED, "allOf of other than one schema");
    if (i == 0) qi__schema_put_ref(s, member);
    else qi__schema_put_choice(s, member, false);
    return;
  }
  qi__schema_check_keywords(s, id, 0);
  uint32_t type = qi__schema_find(s, id, "type"), constant = qi__schema_find(s, id, "const"), list = qi__schema_find(s, id, "enum");
  if (constant) {
    qi__schema_put(s, "\"");
    qi__schema_put_value(s, constant);
    qi__schema_put(s, "\"");
  } else if (list) {
    qi__schema_put_choice(s, list, true);
  } else if (!type) {
    qi__schema_put_untyped(s, id);
  } else if (s->tree.nodes[type].type == QI__JSON_ARRAY) {
    qi__schema_put_types(s, id, type);
  } else {
    qi__schema_put_type(s, id, type);
  }
}

// ---- all of it ----

// Blanks where people put them, and no more than 20 in a row; numbers of bounded length: models like to go on for ever.
static const char qi__schema_prelude[] =
  "json-value ::= json-object | json-array | json-string | json-number | \"true\" | \"false\" | \"null\"\n"
  "json-object ::= \"{\" json-ws (json-member (\",\" json-ws json-member)* json-ws)? \"}\"\n"
  "json-member ::= json-string \":\" json-ws json-value\n"
  "json-array ::= \"[\" json-ws (json-value (\",\" json-ws json-value)* json-ws)? \"]\"\n"
  "json-string ::= \"\\\"\" json-char* \"\\\"\"\n"
  "json-char ::= [^\"\\\\\\x00-\\x1F\\x7F] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" json-unit)\n"
  "json-unit ::= [0-9a-cA-CefEF] json-hex{3} | [dD] [0-7] json-hex{2} | json-pair\n"
  "json-pair ::= [dD] [89abAB] json-hex{2} \"\\\\u\" [dD] [c-fC-F] json-hex{2}\n"
  "json-hex ::= [0-9a-fA-F]\n"
  "json-integer ::= \"-\"? (\"0\" | [1-9] [0-9]{0,17})\n"
  "json-number ::= json-integer (\".\" [0-9]{1,18})? ([eE] [-+]? [0-9]{1,3})?\n"
  "json-date ::= [0-9]{4} \"-\" (\"0\" [1-9] | \"1\" [0-2]) \"-\" (\"0\" [1-9] | [12] [0-9] | \"3\" [01])\n"
  "json-time ::= json-clock \":\" [0-5] [0-9] (\".\" [0-9]{1,9})? (\"Z\" | [-+] json-clock)\n"
  "json-clock ::= ([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9]\n"
  "json-ws ::= (\" \" | \"\\n\" [ \\t]{0,20})?\n";

// Writes the whole grammar to s->out.
QI__FN void qi__schema_write(qi__schema *s) {
  s->n_queue = 0;
  memset(s->queued, 0, s->tree.n * sizeof *s->queued);
  qi__schema_put(s, "root ::= ");
  qi__schema_rule(s, 0);
  qi__schema_put(s, "\n");
  for (size_t i = 0; i < s->n_queue && !s->result && s->out.len <= QI__GRAMMAR_MAX_TEXT; i++) {
    qi__schema_printf(s, "s%u ::= ", (unsigned)s->queue[i]);
    qi__schema_put_schema(s, s->queue[i]);
    qi__schema_put(s, "\n");
  }
  qi__schema_put(s, qi__schema_prelude);
}

// A schema as GBNF: at most cap bytes to `out`, the full number to *n_out. Errors: QI_ERR_FORMAT, QI_ERR_UNSUPPORTED (with line and
// column), QI_ERR_LIMIT, QI_ERR_OOM.
QI__FN qi_result qi__schema_to_gbnf(const char *text, size_t len, const qi_allocator *a, char *out, size_t cap, size_t *n_out,
                                    qi_error *err) {
  qi__schema s;
  memset(&s, 0, sizeof s);
  s.err = err;
  if (len > QI__SCHEMA_MAX_TEXT)
    return qi__fail(err, QI_ERR_LIMIT, "json_schema: %zu bytes, at most %zu are allowed", len, QI__SCHEMA_MAX_TEXT);
  qi_result r = qi__json_tree_read(&s.tree, text, len, a, err);
  if (r) {
    qi__fail_prefix(err, "json_schema: ");
    return r;
  }
  qi__arena arena = {0};
  for (int real = 0; real < 2 && !r; real++) {
    if (real) r = qi__arena_open(&arena, a, "json_schema", err);
    s.queue = QI__ARENA_ARRAY(&arena, uint32_t, r ? 0 : s.tree.n);
    s.queued = QI__ARENA_ARRAY(&arena, bool, r ? 0 : s.tree.n);
  }
  if (!r) {
    s.out.out = out;
    s.out.cap = cap;
    qi__schema_write(&s);
    r = s.result;
    if (!r && s.out.len > QI__GRAMMAR_MAX_TEXT)
      r = qi__fail(err, QI_ERR_LIMIT, "json_schema: its grammar has more than %zu bytes", QI__GRAMMAR_MAX_TEXT);
    if (!r) *n_out = s.out.len;
  }
  qi__arena_close(&arena, a);
  qi__json_tree_free(&s.tree, a);
  return r;
}

#endif // QI__GRAMMAR_SCHEMA_H
