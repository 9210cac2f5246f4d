// Grammars: what GBNF means, against a naive matcher; masks against asking for every token; constrained answers of sessions.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/run_model.h"
#include "support/gguf_cases.h"

// Special tokens, bytes, letters and pairs of letters.
static run_model letters_model(void) {
  rm_desc d = rm_llama();
  d.n_vocab = 420;
  return run_build(&d);
}

static qi_grammar *open_gbnf(const qi_model *m, const char *text) {
  qi_error err = {QI_OK, ""};
  qi_grammar_desc d = {.gbnf = text};
  qi_grammar *g = NULL;
  RUN_OK(qi_grammar_open(&g, m, &d, &err), err);
  return g;
}

static qi_matcher *open_matcher(const qi_grammar *g, const qi_matcher *share) {
  qi_error err = {QI_OK, ""};
  qi_matcher *mt = NULL;
  RUN_OK(qi_matcher_open(&mt, g, share, NULL, &err), err);
  return mt;
}

// From the beginning: -1 refused, 0 a beginning of a text, 1 a whole text. Whole or in pieces it must be the same.
static int match(qi_matcher *mt, const char *text, size_t len) {
  qi_matcher_reset(mt);
  bool whole = qi_matcher_accept_text(mt, text, len, NULL) == QI_OK, can_end = qi_matcher_can_end(mt), pieces = true;
  if (!whole) assert_int_equal(qi_matcher_can_end(mt), (qi_matcher_reset(mt), qi_matcher_can_end(mt))); // unchanged
  qi_matcher_reset(mt);
  for (size_t i = 0; i < len && pieces; i++) pieces = qi_matcher_accept_text(mt, text + i, 1, NULL) == QI_OK;
  assert_int_equal(whole, pieces);
  if (whole) assert_int_equal(can_end, qi_matcher_can_end(mt));
  return whole ? can_end : -1;
}

static void expect_match(qi_matcher *mt, const char *grammar, const char *text, int want) {
  int got = match(mt, text, strlen(text));
  if (got != want) fail_msg("%s: \"%s\" gives %d, expected %d", grammar, text, got, want);
}

// ---- GBNF ----

static void test_texts(void **state) {
  (void)state;
  // Each text is followed by what it is: '+' whole, '.' a beginning, '-' refused.
  static const char *const cases[][12] = {
    {"root ::= \"ab\"", "", ".", "a", ".", "ab", "+", "abc", "-", "b", "-"},
    {"root ::= \"a\" | \"b\" \"c\" |", "", "+", "a", "+", "b", ".", "bc", "+", "c", "-"},
    {"root ::= [a-c]+ \"x\"?", "", ".", "abcabc", "+", "abcx", "+", "abcxx", "-", "d", "-"},
    {"root ::= \"a\"{2,3} \"b\"{2} \"c\"{1,} \"d\"{0} \"e\"{0,2}", "aabbc", "+", "aaabbcccee", "+", "abb", "-", "aabbceee", "-",
     "aabbcd", "-"},
    {"root ::= (\"a\" | \"b\")* \"c\"", "abbabac", "+", "c", "+", "abcc", "-", "", "."},
    {"root ::= x y\nx ::= \"a\"?\ny ::= x x x", "", "+", "aaaa", "+", "aaaaa", "-"},
    {"root ::= \"(\" root \")\" | \"x\"", "((x))", "+", "((x)", ".", "(x))", "-", "()", "-"},
    {"root ::= ((\"a\"?)*)* \"b\" (\"\" | \"c\" (\"\")*)", "aaab", "+", "bc", "+", "bcc", "-", "b", "+"},
    {"# words\nroot ::= # here\n  \"a\" |\n  \"b\"\n  | (\n  \"c\" # there\n  \"d\" )\n\nunused ::= root\r\n", "b", "+", "cd", "+",
     "c", "."},
    {"root ::= \"\\x41\\u00e9\\U0001F600\\n\\t\\r\\\\\\\"\\[\\]\"", "A\xC3\xA9\xF0\x9F\x98\x80\n\t\r\\\"[]", "+", "A\xC3", ".",
     "A\xC3\xAA", "-"},
    {"root ::= [^a-y\\n]{2} .", "z\xC3\xA9" "a", "+", "a", "-", "\nz", "-", "z\xE2\x82\xAC\n", "+", "z\xFF", "-"},
    {"root ::= [\\u00e0-\\u0801x\\U00010000-\\U0010FFFF-]", "\xC3\xA0", "+", "\xC3\x9F", "-", "\xE0\xA0\x81", "+",
     "\xE0\xA0\x82", "-", "-", "+"},
  };
  run_model rm = letters_model();
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    qi_grammar *g = open_gbnf(rm.m, cases[i][0]);
    qi_matcher *mt = open_matcher(g, NULL);
    for (size_t k = 1; k + 1 < 12 && cases[i][k]; k += 2)
      expect_match(mt, cases[i][0], cases[i][k], *cases[i][k + 1] == '+' ? 1 : *cases[i][k + 1] == '.' ? 0 : -1);
    qi_matcher_close(mt);
    qi_grammar_close(g);
  }
  run_free(&rm);
}

static void test_errors(void **state) {
  (void)state;
  static const struct {
    const char *text;
    qi_result code;
    const char *phrase;
  } cases[] = {
    {"", QI_ERR_FORMAT, "no rule named root"},
    {"a ::= \"x\"", QI_ERR_FORMAT, "no rule named root"},
    {"root ::= a\n", QI_ERR_FORMAT, "line 1, column 10: rule a is not defined"},
    {"root ::= a\nb ::= \"x\"", QI_ERR_FORMAT, "line 1, column 10: rule a is not defined"},
    {"root ::= \"a\"\nroot ::= \"b\"", QI_ERR_FORMAT, "line 2, column 1: rule root is defined twice"},
    {"root ::= \"a", QI_ERR_FORMAT, "line 1, column 10: the literal that begins here does not end"},
    {"root ::= [a", QI_ERR_FORMAT, "line 1, column 10: the class that begins here does not end"},
    {"root ::= [", QI_ERR_FORMAT, "ends inside a literal or class"},
    {"root ::= []", QI_ERR_FORMAT, "column 10: a class without characters"},
    {"root ::= [^\\x00-\\U0010FFFF]", QI_ERR_FORMAT, "a class without characters"},
    {"root ::= [b-a]", QI_ERR_FORMAT, "ends before it begins"},
    {"root ::= \"\\q\"", QI_ERR_FORMAT, "column 11: a backslash"},
    {"root ::= \"\\x4\"", QI_ERR_FORMAT, "column 14: found '\"', expected 2 hexadecimal digits"},
    {"root ::= \"\\uD800\"", QI_ERR_FORMAT, "U+D800 is no character"},
    {"root ::= \"\\U00110000\"", QI_ERR_FORMAT, "is no character"},
    {"root ::= \"\xFF\"", QI_ERR_FORMAT, "not UTF-8"},
    {"root ::= (\"a\"\n", QI_ERR_FORMAT, "found the end, expected an element"},
    {"root ::= \"a\")", QI_ERR_FORMAT, "column 13: found ')'"},
    {"root ::= *", QI_ERR_FORMAT, "found '*'"},
    {"root ::= \"a\"{", QI_ERR_FORMAT, "expected a number"},
    {"root ::= \"a\"{1", QI_ERR_FORMAT, "expected '}'"},
    {"root ::= \"a\"{3,2}", QI_ERR_FORMAT, "at least 3 and at most 2"},
    {"root ::= \"a\"*+", QI_ERR_FORMAT, "column 14: a repetition of a repetition"},
    {"root = \"a\"", QI_ERR_FORMAT, "column 6: found '=', expected ::="},
    {"root ::= \"a\" $", QI_ERR_FORMAT, "found '$'"},
    {"::= \"a\"", QI_ERR_FORMAT, "found ':', expected the name"},
    {"root ::= root \"a\" | \"b\"", QI_ERR_FORMAT, "line 1, column 1: rule root may begin with itself"},
    {"root ::= \"x\" a\na ::= b | \"y\"\nb ::= \"\" c*\nc ::= a \"z\"", QI_ERR_FORMAT, "may begin with itself"},
    {"root ::= \"a\" root", QI_ERR_FORMAT, "rule root never ends"},
    {"root ::= \"x\" | a\na ::= \"b\" b\nb ::= a | \"c\" a", QI_ERR_FORMAT, "line 2, column 1: rule a never ends"},
    {"root ::= ((\"a\"{1000}){1000}){1000}", QI_ERR_LIMIT, "too large"},
    {"root ::= \"a\"{300000}", QI_ERR_LIMIT, "a repetition of more than"},
    {"root ::= \"a\"{99999999999999999999}", QI_ERR_LIMIT, "a repetition of more than"},
  };
  run_model rm = letters_model();
  qi_error err;
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    qi_grammar_desc d = {.gbnf = cases[i].text};
    qi_grammar *g = NULL;
    memset(&err, 0, sizeof err);
    qi_result r = qi_grammar_open(&g, rm.m, &d, &err);
    if (r != cases[i].code || !strstr(err.msg, cases[i].phrase))
      fail_msg("%s: %s, \"%s\", expected \"%s\"", cases[i].text, qi_result_name(r), err.msg, cases[i].phrase);
    assert_null(g);
  }
  char deep[512];
  for (int n = 64; n <= 65; n++) {
    size_t at = (size_t)snprintf(deep, sizeof deep, "root ::= ");
    memset(deep + at, '(', (size_t)n);
    snprintf(deep + at + n, sizeof deep - at - (size_t)n, "\"a\"");
    memset(deep + at + n + 3, ')', (size_t)n);
    deep[at + 2 * (size_t)n + 3] = 0;
    qi_grammar_desc d = {.gbnf = deep};
    qi_grammar *g = NULL;
    assert_int_equal(qi_grammar_open(&g, rm.m, &d, &err), n == 64 ? QI_OK : QI_ERR_LIMIT);
    qi_grammar_close(g);
  }
  qi_grammar *g = NULL;
  const char *const choices[] = {"a", ""}, *const bad[] = {"\xFF"};
  qi_grammar_desc none = {.gbnf = NULL}, both = {.gbnf = "root ::= \"a\"", .choices = choices, .n_choices = 1};
  qi_grammar_desc empty = {.choices = choices, .n_choices = 2}, no = {.choices = choices}, utf8 = {.choices = bad, .n_choices = 1};
  assert_int_equal(qi_grammar_open(&g, rm.m, &none, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_grammar_open(&g, rm.m, &both, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_grammar_open(&g, rm.m, &empty, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_grammar_open(&g, rm.m, &no, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_grammar_open(&g, rm.m, &utf8, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_grammar_open(&g, NULL, &no, NULL), QI_ERR_ARGUMENT);
  assert_int_equal(qi_grammar_open(NULL, rm.m, &no, NULL), QI_ERR_ARGUMENT);
  run_free(&rm);
}

// ---- random grammars against a naive matcher ----

// A grammar as a tree. Rules call rules of higher numbers anywhere, others only behind a letter, so nothing begins with itself.
typedef struct naive_node {
  enum { LETTER, SEQUENCE, CHOICE, STAR, MAYBE, TWICE, CALL } kind;
  int a, b; // letter; nodes; rule
} naive_node;

enum { NAIVE_NODES = 400, NAIVE_RULES = 4, NAIVE_TEXT = 7 };
typedef struct naive_grammar {
  naive_node nodes[NAIVE_NODES];
  int n, rules[NAIVE_RULES];
  uint64_t rng;
  char text[16384];
} naive_grammar;

static int naive_make(naive_grammar *g, int rule, int depth, bool begun) {
  int id = g->n++;
  uint64_t pick = rm_next(&g->rng) % 16;
  naive_node *node = &g->nodes[id];
  assert_true(id < NAIVE_NODES - 8);
  int from = begun ? 0 : rule + 1;
  if (depth == 0 || pick < 3) *node = (naive_node){LETTER, 'a' + (int)(rm_next(&g->rng) % 3), 0};
  else if (pick < 7) {
    node->kind = SEQUENCE;
    g->nodes[id].a = naive_make(g, rule, depth - 1, begun);
    bool letter = g->nodes[g->nodes[id].a].kind == LETTER;
    g->nodes[id].b = naive_make(g, rule, depth - 1, begun || letter);
  } else if (pick < 10) {
    node->kind = CHOICE;
    g->nodes[id].a = naive_make(g, rule, depth - 1, begun);
    g->nodes[id].b = naive_make(g, rule, depth - 1, begun);
  } else if (pick < 13) {
    node->kind = pick == 10 ? STAR : pick == 11 ? MAYBE : TWICE;
    g->nodes[id].a = naive_make(g, rule, depth - 1, begun);
  } else if (from < NAIVE_RULES) {
    *node = (naive_node){CALL, from + (int)(rm_next(&g->rng) % (uint64_t)(NAIVE_RULES - from)), 0};
  } else {
    *node = (naive_node){LETTER, 'c', 0};
  }
  return id;
}

static void naive_print(naive_grammar *g, int id) {
  const naive_node *n = &g->nodes[id];
  size_t at = strlen(g->text);
  char *end = g->text + at;
  size_t room = sizeof g->text - at;
  assert_true(room > 64);
  if (n->kind == LETTER) {
    snprintf(end, room, n->b ? "[%c]" : "\"%c\"", n->a);
  } else if (n->kind == CALL) {
    snprintf(end, room, n->a ? "r%d" : "root", n->a);
  } else {
    strcpy(end, "(");
    naive_print(g, n->a);
    strcat(g->text, n->kind == CHOICE ? " | " : n->kind == SEQUENCE ? " " : ")");
    if (n->kind == CHOICE || n->kind == SEQUENCE) {
      naive_print(g, n->b);
      strcat(g->text, ")");
    } else {
      strcat(g->text, n->kind == STAR ? "*" : n->kind == MAYBE ? "?" : "{2,3}");
    }
  }
}

// Places where the node can end when it begins at one of `from`, bit i = i letters are taken. `depth` stops what never ends.
static unsigned naive_ends(const naive_grammar *g, int id, const char *text, int len, unsigned from, int depth) {
  const naive_node *n = &g->nodes[id];
  unsigned to = 0;
  if (!from || depth == 0) return 0;
  switch (n->kind) {
  case LETTER:
    for (int i = 0; i < len; i++)
      if (from >> i & 1 && text[i] == n->a) to |= 1u << (i + 1);
    return to;
  case SEQUENCE: return naive_ends(g, n->b, text, len, naive_ends(g, n->a, text, len, from, depth), depth);
  case CHOICE: return naive_ends(g, n->a, text, len, from, depth) | naive_ends(g, n->b, text, len, from, depth);
  case MAYBE: return from | naive_ends(g, n->a, text, len, from, depth);
  case STAR:
    for (to = from;;) {
      unsigned more = to | naive_ends(g, n->a, text, len, to, depth);
      if (more == to) return to;
      to = more;
    }
  case TWICE:
    to = naive_ends(g, n->a, text, len, naive_ends(g, n->a, text, len, from, depth), depth);
    return to | naive_ends(g, n->a, text, len, to, depth);
  case CALL: return naive_ends(g, g->rules[n->a], text, len, from, depth - 1);
  }
  return 0;
}

static void test_against_naive(void **state) {
  (void)state;
  static naive_grammar g;
  static signed char result[8][2187]; // of texts of so many letters, in base 3
  run_model rm = letters_model();
  int n_used = 0, n_whole = 0;
  qi_grammar_desc first = {.gbnf = "root ::= \"a\""};
  qi_grammar *shared = NULL;
  assert_int_equal(qi_grammar_open(&shared, rm.m, &first, NULL), QI_OK);
  for (uint64_t seed = 1; seed <= 300; seed++) {
    memset(&g, 0, sizeof g);
    g.rng = seed;
    for (int r = 0; r < NAIVE_RULES; r++) {
      g.rules[r] = naive_make(&g, r, 3, false);
      snprintf(g.text + strlen(g.text), 32, r ? "\nr%d ::= " : "root ::= ", r);
      naive_print(&g, g.rules[r]);
    }
    qi_grammar_desc d = {.gbnf = g.text, .share = shared};
    qi_grammar *grammar = NULL;
    qi_error err = {QI_OK, ""};
    qi_result r = qi_grammar_open(&grammar, rm.m, &d, &err);
    if (r) { // only what the generator cannot rule out
      if (!strstr(err.msg, "never ends") && !strstr(err.msg, "begin with itself")) fail_msg("%s: %s", g.text, err.msg);
      continue;
    }
    n_used++;
    qi_matcher *mt = open_matcher(grammar, NULL);
    int count = 1;
    for (int len = 0; len <= NAIVE_TEXT; len++, count *= 3)
      for (int k = 0; k < count; k++) {
        char text[8];
        for (int i = len, v = k; i-- > 0; v /= 3) text[i] = (char)('a' + v % 3);
        int got = match(mt, text, (size_t)len);
        bool want = naive_ends(&g, g.rules[0], text, len, 1, 40) >> len & 1;
        if ((got == 1) != want) fail_msg("%s\n\"%.*s\" gives %d, expected %swhole", g.text, len, text, got, want ? "" : "not ");
        result[len][k] = (signed char)got;
        n_whole += want;
        if (len && got >= 0) assert_true(result[len - 1][k / 3] >= 0); // what is allowed began allowed
      }
    qi_matcher_close(mt);
    qi_grammar_close(grammar);
  }
  qi_grammar_close(shared);
  assert_true(n_used > 100);
  assert_true(n_whole > 10000);
  run_free(&rm);
}

// ---- masks ----

typedef struct mask_text {
  char bytes[4096];
  size_t len;
} mask_text;

// Goes on by any allowed token; false at the end.
static bool random_step(qi_matcher *mt, const uint32_t *allowed, uint64_t *rng, mask_text *text, const qi_model *m) {
  int n = 0, pick = -1, n_vocab = run_n_vocab(m);
  for (int t = 0; t < n_vocab; t++)
    if (allowed[t / 32] >> (t % 32) & 1 && !qi_token_is_end(m, t) && rm_next(rng) % (uint64_t)++n == 0) pick = t;
  if (pick < 0) return false;
  assert_int_equal(qi_matcher_accept(mt, pick, NULL), QI_OK);
  text->len += qi_token_piece(m, pick, false, text->bytes + text->len, 64);
  return true;
}

// The mask says of every token what accepting it would, at every step of random texts, and what was forgotten in between does not
// matter.
static void test_masks(void **state) {
  (void)state;
  static const char *const grammars[] = {
    "root ::= \"a\"{3} (\"bc\" | [d-f] | \"\xC3\xA9\")* \"z\"?",
    "root ::= object\nobject ::= \"{\" (pair (\",\" pair)*)? \"}\"\npair ::= [a-e]+ \":\" (object | [0-9]+ | \"[\" object* \"]\")",
    "root ::= \"x\" root \"y\" | \"x\" root \"z\" | [a-c]",
    "root ::= .{0,9} \"ab\"",
  };
  run_model rm = letters_model();
  int n_vocab = run_n_vocab(rm.m);
  qi_grammar *shared = open_gbnf(rm.m, grammars[0]);
  for (size_t i = 0; i < QI__COUNT_OF(grammars); i++) {
    qi_grammar_desc d = {.gbnf = grammars[i], .share = shared};
    qi_grammar *g = NULL;
    assert_int_equal(qi_grammar_open(&g, rm.m, &d, NULL), QI_OK);
    qi_matcher *mt = open_matcher(g, NULL), *probe = open_matcher(g, mt), *fresh = open_matcher(g, NULL);
    for (uint64_t seed = 1; seed <= 30; seed++) {
      uint64_t rng = seed;
      mask_text text = {{0}, 0};
      qi_matcher_reset(mt);
      for (int step = 0; step < 25; step++) {
        const uint32_t *allowed = NULL, *again = NULL;
        qi_error err = {QI_OK, ""};
        uint32_t copy[16];
        RUN_OK(qi_matcher_allowed(mt, &allowed, &err), err);
        memcpy(copy, allowed, ((size_t)n_vocab + 31) / 32 * 4);
        for (int t = 0; t < n_vocab && seed < 4; t++) {
          assert_int_equal(qi_matcher_copy(probe, mt, NULL), QI_OK);
          bool fits = qi_matcher_accept(probe, t, NULL) == QI_OK;
          if (fits != (copy[t / 32] >> (t % 32) & 1))
            fail_msg("%s: behind \"%s\" token %d: mask and accept differ", grammars[i], text.bytes, t);
          if (qi_token_is_end(rm.m, t)) assert_int_equal(fits, qi_matcher_can_end(mt));
        }
        if (seed % 3 == 0) qi__automaton_collect(mt->automaton);
        RUN_OK(qi_matcher_allowed(mt, &again, &err), err);
        assert_memory_equal(copy, again, ((size_t)n_vocab + 31) / 32 * 4);
        qi_matcher_reset(fresh);
        assert_int_equal(qi_matcher_accept_text(fresh, text.bytes, text.len, NULL), QI_OK);
        RUN_OK(qi_matcher_allowed(fresh, &again, &err), err);
        assert_memory_equal(copy, again, ((size_t)n_vocab + 31) / 32 * 4);
        if (!random_step(mt, copy, &rng, &text, rm.m)) break;
      }
    }
    assert_int_equal(qi_matcher_copy(fresh, mt, NULL), QI_ERR_ARGUMENT);
    qi_matcher_close(mt); // the first one may go first
    assert_int_equal(qi_matcher_accept_text(probe, "", 0, NULL), QI_OK);
    qi_matcher_close(probe);
    qi_matcher_close(fresh);
    qi_grammar_close(g);
  }
  qi_grammar_close(shared);
  run_free(&rm);
}

// Ambiguous grammars stay small, deep ones are refused when they are too deep, and forgetting goes on for ever.
static void test_bounds(void **state) {
  (void)state;
  run_model rm = letters_model();
  qi_error err = {QI_OK, ""};
  qi_grammar *g = open_gbnf(rm.m, "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"d\"");
  qi_matcher *mt = open_matcher(g, NULL);
  for (int i = 0; i < 2000; i++) RUN_OK(qi_matcher_accept_text(mt, "a", 1, &err), err);
  assert_true(mt->automaton->states.start[mt->automaton->states.n] < 20 * mt->automaton->states.n);
  RUN_OK(qi_matcher_accept_text(mt, "d", 1, &err), err);
  for (int i = 0; i < 2000; i++) RUN_OK(qi_matcher_accept_text(mt, i & 1 ? "b" : "c", 1, &err), err);
  assert_true(qi_matcher_can_end(mt));
  qi_matcher_reset(mt);
  int depth = 0;
  while (depth < 10000 && qi_matcher_accept_text(mt, "a", 1, &err) == QI_OK) depth++;
  assert_true(depth > 3000 && depth < 10000);
  assert_int_equal(err.code, QI_ERR_LIMIT);
  RUN_OK(qi_matcher_accept_text(mt, "db", 2, &err), err); // still where it was
  qi_matcher_close(mt);
  qi_grammar_close(g);
  // More states than are kept: each count of letters up to 100 of two kinds is one.
  g = open_gbnf(rm.m, "root ::= (\"a\" | \"b\"){0,9000} \"c\"");
  mt = open_matcher(g, NULL);
  for (int i = 0; i < 9000; i++) RUN_OK(qi_matcher_accept_text(mt, i % 3 ? "a" : "b", 1, &err), err);
  assert_int_equal(qi_matcher_accept_text(mt, "a", 1, &err), QI_ERR_ARGUMENT);
  RUN_OK(qi_matcher_accept_text(mt, "c", 1, &err), err);
  assert_true(qi_matcher_can_end(mt));
  qi_matcher_close(mt);
  qi_grammar_close(g);
  run_free(&rm);
}

static void test_choices(void **state) {
  (void)state;
  run_model rm = letters_model();
  const char *const choices[] = {"north", "northeast", "s\"\\", "\xC3\xA9t\xC3\xA9"};
  qi_grammar_desc d = {.choices = choices, .n_choices = 4};
  qi_grammar *g = NULL;
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_grammar_open(&g, rm.m, &d, &err), err);
  qi_matcher *mt = open_matcher(g, NULL);
  for (int i = 0; i < 4; i++) expect_match(mt, "choices", choices[i], 1);
  expect_match(mt, "choices", "northe", 0);
  expect_match(mt, "choices", "northw", -1);
  expect_match(mt, "choices", "northeastn", -1);
  qi_matcher_close(mt);
  qi_grammar_close(g);
  run_free(&rm);
}

// ---- memory ----

static void test_memory(void **state) {
  (void)state;
  run_model rm = letters_model();
  const char *const choices[] = {"ab", "cd"};
  for (int kind = 0; kind < 2; kind++)
    for (size_t fail_at = 0; fail_at < 30; fail_at++) {
      gc_heap heap = {0, 0, 0, 0, fail_at};
      qi_allocator allocator = {gc_heap_alloc, gc_heap_free, &heap};
      qi_grammar_desc d = {.allocator = allocator};
      if (kind) d.choices = choices, d.n_choices = 2;
      else d.gbnf = "root ::= [a-z]{200,300} (root | \"x\"){20}";
      qi_grammar *g = NULL;
      qi_matcher *mt = NULL, *second = NULL;
      qi_error err = {QI_OK, ""};
      qi_result r = qi_grammar_open(&g, rm.m, &d, &err);
      if (!r) {
        size_t before = heap.asked, live = heap.live_bytes;
        r = qi_matcher_open(&mt, g, NULL, NULL, &err);
        if (!r) assert_int_equal(heap.asked - before, qi_matcher_memory(g, false));
        if (!r) r = qi_matcher_open(&second, g, mt, NULL, &err);
        if (!r) assert_int_equal(heap.live_bytes - live, qi_matcher_memory(g, false) + qi_matcher_memory(g, true));
      }
      size_t n_calls = heap.n_calls;
      const uint32_t *allowed;
      if (!r) assert_int_equal(qi_matcher_accept_text(second, "ab", kind ? 2 : 1, NULL), QI_OK);
      if (!r) assert_int_equal(qi_matcher_allowed(mt, &allowed, NULL), QI_OK);
      assert_int_equal(heap.n_calls, n_calls); // nothing is allocated later
      if (r) assert_int_equal(r, QI_ERR_OOM);
      assert_int_equal(r != QI_OK, fail_at && fail_at <= n_calls);
      qi_matcher_close(mt);
      qi_matcher_close(second);
      qi_grammar_close(g);
      assert_int_equal(heap.n_live, 0);
      assert_int_equal(heap.live_bytes, 0);
    }
  run_free(&rm);
}

// ---- sessions ----

typedef struct answer {
  char text[2048];
  size_t len;
  qi_token ids[512];
  size_t n;
  qi_result last;
} answer;

static void take_answer(qi_session *s, answer *a) {
  qi_error err = {QI_OK, ""};
  qi_piece p;
  memset(a, 0, sizeof *a);
  do {
    a->last = qi_next(s, &p, &err);
    if (a->last < 0) break;
    assert_true(a->len + p.len < sizeof a->text);
    memcpy(a->text + a->len, p.text, p.len);
    a->len += p.len;
    if (p.token >= 0) a->ids[a->n++] = p.token;
  } while (a->last == QI_OK && a->n < 500);
}

static qi_session_desc warm_desc(void) {
  qi_session_desc sd;
  memset(&sd, 0, sizeof sd);
  sd.n_ctx = 200;
  sd.n_threads = 1;
  sd.sampler.temperature = 1.2f;
  sd.sampler.frequency_penalty = 0.1f;
  return sd;
}

// The same by hand: every token computed alone, masks from another matcher.
static void answer_by_hand(qi_session *s, const qi_model *m, const qi_grammar *g, const qi_sampler_desc *sd, const char *prompt,
                           answer *a) {
  qi_error err = {QI_OK, ""};
  qi_token ids[64];
  qi_decode_token batch[64];
  size_t n = 0;
  qi_matcher *mt = open_matcher(g, NULL);
  qi_sampler *sp = NULL;
  memset(a, 0, sizeof *a);
  RUN_OK(qi_sampler_open(&sp, run_n_vocab(m), sd, NULL, &err), err);
  RUN_OK(qi_tokenize(m, prompt, strlen(prompt), QI_TOKENIZE_ADD_SPECIAL, ids, 64, &n, &err), err);
  qi_session_reset(s);
  for (size_t i = 0; i < n; i++) {
    batch[i] = (qi_decode_token){ids[i], 0, false, i + 1 == n};
    qi_sampler_accept(sp, ids[i]);
  }
  RUN_OK(qi_decode(s, batch, n, &err), err);
  for (;;) {
    const uint32_t *allowed;
    int n_allowed = 0, only = -1;
    RUN_OK(qi_matcher_allowed(mt, &allowed, &err), err);
    for (int t = 0; t < run_n_vocab(m); t++)
      if (allowed[t / 32] >> (t % 32) & 1) n_allowed++, only = t;
    qi_token t = n_allowed == 1 && !qi_token_is_end(m, only) ? only : qi_sampler_sample_allowed(sp, qi_logits(s, -1), allowed);
    if (qi_token_is_end(m, t)) break;
    RUN_OK(qi_matcher_accept(mt, t, &err), err);
    qi_sampler_accept(sp, t);
    a->ids[a->n++] = t;
    qi_decode_token one = {t, 0, true, true};
    RUN_OK(qi_decode(s, &one, 1, &err), err);
  }
  qi_sampler_close(sp);
  qi_matcher_close(mt);
}

static void test_session(void **state) {
  (void)state;
  // Parts where one token is left (what has no token but those of its bytes), and parts where many are.
  static const char grammar[] = "root ::= \"{%\" [a-d]{1,4} \"}:\\u20ac;\" (\"yes\" | \"no\" | [0-9]{1,3}) \"]\" ";
  run_model rm = letters_model();
  qi_grammar *g = open_gbnf(rm.m, grammar);
  qi_matcher *mt = open_matcher(g, NULL), *check = open_matcher(g, NULL);
  size_t n_saved = 0;
  for (uint64_t seed = 0; seed < 12; seed++) {
    qi_session_desc sd = warm_desc();
    sd.sampler.seed = seed;
    sd.ignore_end = seed & 1;
    if (seed % 3 == 0) sd.sampler.temperature = 0;
    qi_session *s = run_session(rm.m, &sd);
    qi_error err = {QI_OK, ""};
    answer a, hand;
    RUN_OK(qi_session_constrain(s, mt, false, &err), err);
    RUN_OK(qi_prompt(s, "ab", &err), err);
    take_answer(s, &a);
    assert_int_equal(a.last, QI_END);
    if (match(check, a.text, a.len) != 1) fail_msg("not of the grammar: %s", a.text);
    qi_session_stats st;
    qi_session_get_stats(s, &st);
    assert_true(st.n_generated < a.n); // what is forced at the end is never computed
    n_saved += a.n - st.n_generated;
    qi_session *second = run_session(rm.m, &sd);
    answer_by_hand(second, rm.m, g, &sd.sampler, "ab", &hand);
    assert_true(a.n == hand.n || (a.n == hand.n + 1 && qi_token_is_end(rm.m, a.ids[hand.n])));
    assert_memory_equal(a.ids, hand.ids, hand.n * sizeof *a.ids);
    qi_session_close(second);
    // The next answer begins the grammar anew, and what was given but not computed belongs to the context.
    size_t n_first = 0, n_second = 0;
    RUN_OK(qi_prompt(s, "cd", &err), err);
    RUN_OK(qi_tokenize(rm.m, "ab", 2, QI_TOKENIZE_ADD_SPECIAL, NULL, 0, &n_first, &err), err);
    RUN_OK(qi_tokenize(rm.m, "cd", 2, 0, NULL, 0, &n_second, &err), err);
    assert_int_equal(qi_seq_length(s, 0), n_first + hand.n + n_second);
    take_answer(s, &a);
    assert_int_equal(match(check, a.text, a.len), 1);
    RUN_OK(qi_session_constrain(s, NULL, false, &err), err);
    RUN_OK(qi_prompt(s, "cd", &err), err);
    qi_session_close(s);
  }
  assert_true(n_saved > 12);
  qi_matcher_close(mt);
  qi_matcher_close(check);
  qi_grammar_close(g);
  run_free(&rm);
}

// Text without choice is taken in few tokens: it is the same text, and all that was given is in the context.
static void test_jump(void **state) {
  (void)state;
  static const char grammar[] = "root ::= \"{: the other side; \" [a-d]{1,3} \" in the house, then \" (\"yes\" | \"no\") \"}\" ";
  run_model rm = letters_model();
  qi_grammar *g = open_gbnf(rm.m, grammar);
  qi_matcher *mt = open_matcher(g, NULL), *check = open_matcher(g, NULL);
  size_t n_tokens[2] = {0, 0};
  for (uint64_t seed = 0; seed < 6; seed++) {
    size_t n_prompt = 0;
    for (int jump = 0; jump < 2; jump++) {
      qi_session_desc sd = warm_desc();
      sd.sampler.seed = seed;
      qi_session *s = run_session(rm.m, &sd);
      qi_error err = {QI_OK, ""};
      answer a;
      RUN_OK(qi_session_constrain(s, mt, jump, &err), err);
      RUN_OK(qi_prompt(s, "ab", &err), err);
      take_answer(s, &a);
      assert_int_equal(a.last, QI_END);
      if (match(check, a.text, a.len) != 1) fail_msg("not of the grammar: %s", a.text);
      n_tokens[jump] += a.n;
      RUN_OK(qi_tokenize(rm.m, "ab", 2, QI_TOKENIZE_ADD_SPECIAL, NULL, 0, &n_prompt, &err), err);
      RUN_OK(qi_prompt_tokens(s, a.ids, 1, &err), err);
      RUN_OK(qi_step(s, 0, &err), err);
      bool end = qi_token_is_end(rm.m, a.ids[a.n - 1]);
      assert_int_equal(qi_seq_length(s, 0), n_prompt + a.n - end + 1);
      qi_session_close(s);
    }
  }
  assert_true(n_tokens[1] < n_tokens[0]); // at random, single letters are taken more often
  // The last token of a text without choice may be the beginning of a longer one: that is left to sampling.
  qi_grammar *open = open_gbnf(rm.m, "root ::= \"a\" [a-h]"), *closed = open_gbnf(rm.m, "root ::= \"{\" [a-h]");
  qi_matcher *to = open_matcher(open, NULL), *tc = open_matcher(closed, NULL);
  qi_token token;
  assert_int_equal(qi__matcher_jump(to, &token, NULL), QI_OK);
  assert_int_equal(token, -1);
  assert_int_equal(qi__matcher_jump(tc, &token, NULL), QI_OK);
  assert_int_equal(token, 3 + '{');
  qi_matcher_close(to);
  qi_matcher_close(tc);
  qi_grammar_close(open);
  qi_grammar_close(closed);
  qi_matcher_close(mt);
  qi_matcher_close(check);
  qi_grammar_close(g);
  run_free(&rm);
}

// Forced tokens end where single ones would: at n_predict, at stop strings, at the end of the context.
static void test_session_ends(void **state) {
  (void)state;
  run_model rm = letters_model();
  qi_grammar *g = open_gbnf(rm.m, "root ::= \"{:;%&<>=/}\"{1,30}");
  qi_matcher *mt = open_matcher(g, NULL);
  qi_error err = {QI_OK, ""};
  for (int n = 1; n < 70; n += 4) {
    qi_session_desc sd = warm_desc();
    answer a;
    sd.n_predict = n;
    qi_session *s = run_session(rm.m, &sd);
    RUN_OK(qi_session_constrain(s, mt, false, &err), err);
    RUN_OK(qi_prompt(s, "ab", &err), err);
    take_answer(s, &a);
    assert_int_equal(a.last, QI_END);
    assert_true((int)a.n == n || a.n % 10 == 0 || qi_token_is_end(rm.m, a.ids[a.n - 1]));
    qi_session_close(s);
    sd.n_predict = 0;
    sd.n_ctx = n + 3; // begin, "ab" as blank and pair or two letters
    s = run_session(rm.m, &sd);
    RUN_OK(qi_session_constrain(s, mt, false, &err), err);
    RUN_OK(qi_prompt(s, "ab", &err), err);
    int room = sd.n_ctx - qi_seq_length(s, 0);
    take_answer(s, &a);
    if (a.last == QI_ERR_CONTEXT) assert_int_equal(a.n, room + 1); // the last one given need not fit
    else assert_true(a.n <= (size_t)room + 1);
    qi_session_close(s);
  }
  const char *stop[] = {"&<>"};
  qi_session_desc sd = warm_desc();
  answer a;
  sd.stop = stop;
  sd.n_stop = 1;
  qi_session *s = run_session(rm.m, &sd);
  RUN_OK(qi_session_constrain(s, mt, false, &err), err);
  RUN_OK(qi_prompt(s, "ab", &err), err);
  take_answer(s, &a);
  assert_string_equal(a.text, "{:;%");
  // Cancelling leaves all as it was.
  RUN_OK(qi_prompt(s, "ab", &err), err);
  qi_piece p;
  RUN_OK(qi_next(s, &p, &err), err);
  qi_cancel(s);
  qi_result r = QI_OK;
  int before = qi_seq_length(s, 0);
  while ((r = qi_next(s, &p, &err)) == QI_OK) {}
  if (r == QI_ERR_CANCELLED) assert_int_equal(qi_seq_length(s, 0), before);
  qi_session_close(s);
  qi_matcher_close(mt);
  qi_grammar_close(g);
  run_free(&rm);
}

static void test_session_errors(void **state) {
  (void)state;
  run_model rm = letters_model(), other = letters_model();
  qi_grammar *g = open_gbnf(rm.m, "root ::= \"\xE2\x82\xAC\" [a-z]"), *foreign = open_gbnf(other.m, "root ::= \"a\"");
  qi_matcher *mt = open_matcher(g, NULL), *wrong = open_matcher(foreign, NULL);
  qi_session_desc sd = warm_desc();
  qi_session *s = run_session(rm.m, &sd);
  qi_error err = {QI_OK, ""};
  qi_grammar_desc d = {.gbnf = "root ::= \"a\"", .share = foreign};
  qi_grammar *none = NULL;
  assert_int_equal(qi_grammar_open(&none, rm.m, &d, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_session_constrain(s, wrong, false, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_session_constrain(NULL, mt, false, &err), QI_ERR_ARGUMENT);
  RUN_OK(qi_prompt_begin(s, "ab", 2, &err), err);
  assert_int_equal(qi_session_constrain(s, mt, false, &err), QI_ERR_STATE);
  RUN_OK(qi_step(s, 0, &err), err);
  RUN_OK(qi_session_constrain(s, mt, false, &err), err);
  answer a;
  take_answer(s, &a); // a character of three bytes, then a letter
  assert_int_equal(a.len, 4);
  qi_matcher *refused = mt;
  assert_int_equal(qi_matcher_open(&refused, foreign, mt, NULL, &err), QI_ERR_ARGUMENT);
  assert_null(refused);
  assert_int_equal(qi_matcher_accept(wrong, -1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_matcher_accept(wrong, 2, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_matcher_accept(wrong, 1, &err), QI_ERR_ARGUMENT);
  qi_session_close(s);
  qi_matcher_close(mt);
  qi_matcher_close(wrong);
  qi_grammar_close(g);
  qi_grammar_close(foreign);
  run_free(&other);
  run_free(&rm);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_texts),      cmocka_unit_test(test_errors),       cmocka_unit_test(test_against_naive),
    cmocka_unit_test(test_masks),      cmocka_unit_test(test_bounds),       cmocka_unit_test(test_choices),
    cmocka_unit_test(test_memory),     cmocka_unit_test(test_session),      cmocka_unit_test(test_session_ends),
    cmocka_unit_test(test_session_errors), cmocka_unit_test(test_jump),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
