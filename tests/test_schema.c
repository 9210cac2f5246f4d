// JSON schemas as grammars: what they take and refuse, random texts of them read back, errors with their place.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/run_model.h"
#include "support/gguf_cases.h"

static run_model letters_model(void) {
  rm_desc d = rm_llama();
  d.n_vocab = 420;
  return run_build(&d);
}

static qi_grammar *open_schema(const qi_model *m, const char *text, const qi_grammar *share) {
  qi_error err = {QI_OK, ""};
  qi_grammar_desc d = {.json_schema = text, .share = share};
  qi_grammar *g = NULL;
  qi_result r = qi_grammar_open(&g, m, &d, &err);
  if (r) fail_msg("%s: %s", text, err.msg);
  return g;
}

// ---- texts ----

#define PERSON \
  "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\"}," \
  "\"ok\":{\"type\":\"boolean\"}},\"required\":[\"age\"]"

// Each schema is followed by texts: "+..." taken whole, "-..." refused or not whole.
static const char *const cases[][20] = {
  {"true", "+null", "+[1, {\"a\": \"\\u00e9\\ud83d\\ude00\"}]", "+-1.5e+10", "-01", "-nul", "-{\"a\":1,}", "-\"\\ud83d\"", "+{ }",
   "-\"\n\"", "+\"\xC3\xA9\"", "-[1 ,2]"},
  {"{}", "+{\"x\":\n  [ ]\n}", "+0", "-"},
  {"{\"title\":\"t\",\"description\":\"d\",\"type\":\"string\"}", "+\"\"", "+\"a\\\"b\"", "-1", "-\"a", "-a\"", "-\"\x7f\""},
  {PERSON "}", "+{\"age\":3}", "+{ \"name\": \"x\", \"age\": 3, \"ok\": true}", "-{\"name\":\"x\"}", "-{\"age\":3,\"name\":\"x\"}",
   "-{\"age\":3,\"more\":1}", "+{\"age\":0,\"ok\":false}", "-{\"age\":3,}", "-{,\"age\":3}", "-{\"age\":3.5}", "-{}"},
  {PERSON ",\"additionalProperties\":{\"type\":\"null\"}}", "+{\"age\":3,\"more\":null}", "-{\"age\":3,\"more\":1}",
   "+{\"age\":3,\"\":null,\"nam\":null,\"names\":null,\"o\":null}", "-{\"age\":3,\"name\":null}", "-{\"age\":3,\"age\":null}",
   "-{\"more\":null}", "-{\"age\":3,\"\\u0061ge\":null}", "+{\"age\":3,\"x\\u0061ge\":null}"},
  {"{\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"}}}", "+{}", "+{\"a\":null}", "+{\"b\":null}",
   "+{\"a\":null, \"b\":null}", "-{\"b\":null,\"a\":null}", "-{\"a\":null,}", "-{\"c\":null}"},
  {"{\"type\":\"object\",\"additionalProperties\":true}", "+{}", "+{\"a\":{},\"b\":[]}", "-[]"},
  {"{\"type\":\"object\"}", "+{\"x\":1}", "-1"},
  {"{\"type\":\"object\",\"additionalProperties\":false}", "+{}", "+{ }", "-{\"x\":1}"},
  {"{\"type\":\"object\",\"properties\":{\"\xC3\xA9\xC3\xAA\":true,\"\xC3\xA9\xC3\xA9\":true,\"q\\\"\":true},"
   "\"additionalProperties\":{\"const\":0}}",
   "+{\"\xC3\xA9\xC3\xAA\":1}", "+{\"\xC3\xA9\xC3\xAB\":0}", "-{\"\xC3\xA9\xC3\xAB\":1}", "+{\"\xC3\xA8\":0}", "+{\"\xC3\xA9\":0}",
   "+{\"q\\\"\":7}", "+{\"q\":0}"},
  {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}", "-[1]", "+[1,2]", "+[1, 2, 3]",
   "-[1,2,3,4]", "-[1,\"2\"]"},
  {"{\"items\":{\"enum\":[\"a\",1,null,{\"b\":[true]}]},\"maxItems\":4}", "+[]", "+[\"a\",1,null,{\"b\":[true]}]", "-[2]",
   "-[1,1,1,1,1]", "-[{\"b\": [true]}]"},
  {"{\"type\":\"array\",\"maxItems\":0}", "+[]", "+[ ]", "-[1]"},
  {"{\"type\":\"array\",\"minItems\":1}", "-[]", "+[[]]"},
  {"{\"prefixItems\":[{\"type\":\"string\"},{\"type\":\"number\"}]}", "+[\"a\", 1.5]", "-[\"a\"]", "-[\"a\",1,2]", "-[1,\"a\"]"},
  {"{\"prefixItems\":[{\"const\":\"x\"}],\"items\":{\"const\":1}}", "+[\"x\"]", "+[\"x\",1,1]", "-[1]", "-[\"x\",2]", "-[]"},
  {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "-\"a\"", "+\"ab\"", "+\"a\\nb\"",
   "+\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"", "-\"abcd\"", "+\"\\u0041\\ud83d\\ude00\""},
  {"{\"minLength\":1}", "-\"\"", "+\"a\""},
  {"{\"type\":\"string\",\"format\":\"date\"}", "+\"2024-02-29\"", "-\"2024-13-01\"", "-\"2024-1-01\"", "-\"2024-01-32\""},
  {"{\"format\":\"date-time\"}", "+\"2024-02-29T23:59:59Z\"", "+\"2024-02-29T00:00:00.125+01:30\"", "-\"2024-02-29T24:00:00Z\"",
   "-\"2024-02-29 00:00:00Z\""},
  {"{\"format\":\"time\"}", "+\"12:30:00Z\"", "-\"12:30Z\"", "-\"12:60:00Z\""},
  {"{\"format\":\"uuid\"}", "+\"123e4567-e89b-12d3-a456-426614174000\"", "-\"123e4567-e89b-12d3-a456-42661417400\""},
  {"{\"type\":[\"object\",\"null\",\"string\"],\"properties\":{\"a\":{\"type\":\"number\"}},\"maxLength\":1}", "+null", "+\"a\"",
   "+{\"a\":-0.5E-3}", "-\"ab\"", "-1", "+{}"},
  {"{\"const\":{\"a\":[1,\"x\\n\\\\\\u0001\",false,2.50]}}", "+{\"a\":[1,\"x\\n\\\\\\u0001\",false,2.50]}", "-{\"a\":[1]}"},
  {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"null\"}],\"description\":\"d\"}", "+1", "+null", "-\"\""},
  {"{\"oneOf\":[{\"const\":1},{\"const\":2}]}", "+1", "+2", "-3"},
  {"{\"allOf\":[{\"const\":1}]}", "+1", "-2"},
  {"{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"$ref\":\"#\"}},\"required\":[\"v\"]}",
   "+{\"v\":1}", "+{\"v\":1,\"next\":{\"v\":2,\"next\":{\"v\":3}}}", "-{\"v\":1,\"next\":{}}"},
  {"{\"$ref\":\"#/$defs/a~1b/anyOf/1\",\"$defs\":{\"a/b\":{\"anyOf\":[{\"const\":1},{\"const\":2}]}}}", "+2", "-1"},
  {"{\"type\":\"number\"}", "+0", "+-0", "+12345.678e-9", "-.5", "-1.", "-1e", "-+1", "-00"},
  {"{\"type\":\"integer\"}", "+0", "+-7", "-07", "-1.0", "-1e3", "-"},
  {"{\"type\":\"boolean\"}", "+true", "+false", "-null", "-True"},
};

static void test_cases(void **state) {
  (void)state;
  run_model rm = letters_model();
  qi_grammar *shared = open_schema(rm.m, "true", NULL);
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    qi_grammar *g = open_schema(rm.m, cases[i][0], shared);
    qi_matcher *mt = NULL;
    assert_int_equal(qi_matcher_open(&mt, g, NULL, NULL, NULL), QI_OK);
    for (size_t k = 1; k < 20 && cases[i][k]; k++) {
      const char *text = cases[i][k] + 1;
      qi_matcher_reset(mt);
      bool whole = qi_matcher_accept_text(mt, text, strlen(text), NULL) == QI_OK && qi_matcher_can_end(mt);
      if (whole != (*cases[i][k] == '+')) fail_msg("%s: %s", cases[i][0], cases[i][k]);
    }
    qi_matcher_close(mt);
    qi_grammar_close(g);
  }
  qi_grammar_close(shared);
  run_free(&rm);
}

// Integers between limits: all of them and no others.
static void test_ranges(void **state) {
  (void)state;
  static const int limits[][2] = {{0, 0},     {0, 9},    {5, 5},      {3, 17},     {-3, 17},  {-20, -4}, {-105, 98}, {99, 101},
                                  {100, 999}, {-1, 0},   {0, 1234},   {789, 1011}, {10, 10},  {-9, -9},  {1, 1000},  {-1500, 1500}};
  run_model rm = letters_model();
  qi_grammar *shared = open_schema(rm.m, "true", NULL);
  for (size_t i = 0; i < QI__COUNT_OF(limits); i++)
    for (int kind = 0; kind < 4; kind++) { // both, exclusive, from, to
      char text[160], number[32];
      int lo = limits[i][0], hi = limits[i][1];
      if (kind == 0) snprintf(text, sizeof text, "{\"type\":\"integer\",\"minimum\":%d,\"maximum\":%d}", lo, hi);
      if (kind == 1)
        snprintf(text, sizeof text, "{\"type\":\"integer\",\"exclusiveMinimum\":%d,\"exclusiveMaximum\":%d}", lo - 1, hi + 1);
      if (kind == 2) snprintf(text, sizeof text, "{\"type\":\"integer\",\"minimum\":%d}", lo);
      if (kind == 3) snprintf(text, sizeof text, "{\"type\":\"integer\",\"maximum\":%d}", hi);
      qi_grammar *g = open_schema(rm.m, text, shared);
      qi_matcher *mt = NULL;
      assert_int_equal(qi_matcher_open(&mt, g, NULL, NULL, NULL), QI_OK);
      for (int v = -2000; v <= 2000; v++) {
        bool want = (kind == 3 || v >= lo) && (kind == 2 || v <= hi);
        snprintf(number, sizeof number, "%d", v);
        qi_matcher_reset(mt);
        bool got = qi_matcher_accept_text(mt, number, strlen(number), NULL) == QI_OK && qi_matcher_can_end(mt);
        if (got != want) fail_msg("%s: %d", text, v);
      }
      qi_matcher_reset(mt);
      bool big = qi_matcher_accept_text(mt, "999999999999999999", 18, NULL) == QI_OK && qi_matcher_can_end(mt);
      assert_int_equal(big, kind == 2);
      qi_matcher_close(mt);
      qi_grammar_close(g);
    }
  qi_grammar_close(shared);
  run_free(&rm);
}

// Texts made by going on at random are JSON.
static void test_random_texts(void **state) {
  (void)state;
  run_model rm = letters_model();
  qi_grammar *shared = open_schema(rm.m, "true", NULL);
  int n_vocab = run_n_vocab(rm.m), n_done = 0;
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    qi_grammar *g = open_schema(rm.m, cases[i][0], shared);
    qi_matcher *mt = NULL;
    assert_int_equal(qi_matcher_open(&mt, g, NULL, NULL, NULL), QI_OK);
    for (uint64_t seed = 1; seed <= 8; seed++) {
      char text[2048];
      size_t len = 0;
      uint64_t rng = seed;
      qi_matcher_reset(mt);
      for (;;) {
        const uint32_t *allowed = NULL;
        int n = 0, pick = -1;
        if (qi_matcher_can_end(mt) && rm_next(&rng) % 3 == 0) break;
        assert_int_equal(qi_matcher_allowed(mt, &allowed, NULL), QI_OK);
        for (int t = 0; t < n_vocab; t++) { // closing ones are liked
          if (!(allowed[t / 32] >> (t % 32) & 1) || qi_token_is_end(rm.m, t)) continue;
          char c = 0;
          qi_token_piece(rm.m, t, false, &c, 1);
          int weight = strchr("\"]},:", c) && c ? 40 : 1;
          n += weight;
          if (rm_next(&rng) % (uint64_t)n < (uint64_t)weight) pick = t;
        }
        if (pick < 0 || len > 1500) break;
        assert_int_equal(qi_matcher_accept(mt, pick, NULL), QI_OK);
        len += qi_token_piece(rm.m, pick, false, text + len, 64);
      }
      if (!qi_matcher_can_end(mt)) continue;
      qi_allocator a;
      qi__json_tree tree;
      qi_error err = {QI_OK, ""};
      assert_int_equal(qi__allocator_resolve(NULL, &a, NULL), QI_OK);
      if (qi__json_tree_read(&tree, text, len, &a, &err)) fail_msg("%s: %.*s: %s", cases[i][0], (int)len, text, err.msg);
      qi__json_tree_free(&tree, &a);
      n_done++;
    }
    qi_matcher_close(mt);
    qi_grammar_close(g);
  }
  assert_true(n_done > 150);
  qi_grammar_close(shared);
  run_free(&rm);
}

// ---- errors ----

static void test_errors(void **state) {
  (void)state;
  static const struct {
    const char *text;
    qi_result code;
    const char *phrase;
  } wrong[] = {
    {"", QI_ERR_FORMAT, "json_schema: "},
    {"{\"type\":}", QI_ERR_FORMAT, "json_schema: line 1, column 9"},
    {"{\"type\":\"string\"} x", QI_ERR_FORMAT, "json_schema: line 1, column 19"},
    {"{\n \"type\": \"strung\"}", QI_ERR_FORMAT, "line 2, column 10: type: expected object"},
    {"{\"type\":3}", QI_ERR_FORMAT, "type: expected"},
    {"{\"type\":[]}", QI_ERR_FORMAT, "an empty list"},
    {"false", QI_ERR_FORMAT, "nothing is allowed here"},
    {"3", QI_ERR_FORMAT, "expected a schema"},
    {"{\"type\":\"string\",\n\"pattern\":\"a\"}", QI_ERR_UNSUPPORTED, "line 2, column 11: keyword pattern is not supported"},
    {"{\"type\":\"string\",\"format\":\"email\"}", QI_ERR_UNSUPPORTED, "format email; known are"},
    {"{\"format\":\"date\",\"minLength\":3}", QI_ERR_UNSUPPORTED, "format together with"},
    {"{\"type\":\"number\",\"minimum\":1}", QI_ERR_UNSUPPORTED, "minimum of a number"},
    {"{\"minimum\":1}", QI_ERR_UNSUPPORTED, "without type"},
    {"{\"type\":\"integer\",\"minimum\":1.5}", QI_ERR_UNSUPPORTED, "whole number"},
    {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", QI_ERR_FORMAT, "no integer lies between"},
    {"{\"type\":\"string\",\"minLength\":5,\"maxLength\":4}", QI_ERR_FORMAT, "leave nothing"},
    {"{\"type\":\"string\",\"minLength\":-1}", QI_ERR_FORMAT, "leave nothing"},
    {"{\"type\":\"array\",\"minItems\":\"1\"}", QI_ERR_UNSUPPORTED, "whole number"},
    {"{\"items\":false,\"minItems\":1}", QI_ERR_FORMAT, "leave nothing"},
    {"{\"prefixItems\":[]}", QI_ERR_UNSUPPORTED, "prefixItems is empty"},
    {"{\"prefixItems\":[true],\"minItems\":1}", QI_ERR_UNSUPPORTED, "prefixItems together with"},
    {"{\"prefixItems\":{}}", QI_ERR_FORMAT, "prefixItems is an object, expected an array"},
    {"{\"properties\":[]}", QI_ERR_FORMAT, "properties is an array, expected an object"},
    {"{\"required\":[\"a\"]}", QI_ERR_UNSUPPORTED, "required: not the name"},
    {"{\"properties\":{\"a\":{}},\"required\":[1]}", QI_ERR_UNSUPPORTED, "required: not the name"},
    {"{\"properties\":{\"a\":{\"properties\":{\"b\":{\"not\":{}}}}}}", QI_ERR_UNSUPPORTED, "column 46: keyword not"},
    {"{\"enum\":[]}", QI_ERR_FORMAT, "not empty"},
    {"{\"anyOf\":{}}", QI_ERR_FORMAT, "not empty"},
    {"{\"anyOf\":[{}],\"type\":\"string\"}", QI_ERR_UNSUPPORTED, "keyword type beside anyOf"},
    {"{\"allOf\":[{},{}]}", QI_ERR_UNSUPPORTED, "allOf of other than one"},
    {"{\"$ref\":\"#/nowhere\"}", QI_ERR_FORMAT, "leads nowhere"},
    {"{\"$ref\":\"http://x\"}", QI_ERR_FORMAT, "leads nowhere"},
    {"{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":3}}", QI_ERR_FORMAT, "expected a schema"},
    {"{\"$ref\":\"#\"}", QI_ERR_FORMAT, "rule root never ends"},
    {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", QI_ERR_FORMAT, "never ends"},
    {"{\"type\":\"string\",\"maxLength\":200000}", QI_ERR_LIMIT, "too large"},
  };
  run_model rm = letters_model();
  for (size_t i = 0; i < QI__COUNT_OF(wrong); i++) {
    qi_error err = {QI_OK, ""};
    qi_grammar_desc d = {.json_schema = wrong[i].text};
    qi_grammar *g = NULL;
    qi_result r = qi_grammar_open(&g, rm.m, &d, &err);
    if (r != wrong[i].code || !strstr(err.msg, wrong[i].phrase))
      fail_msg("%s: %s, \"%s\", expected %s, \"%s\"", wrong[i].text, qi_result_name(r), err.msg, qi_result_name(wrong[i].code),
               wrong[i].phrase);
    assert_null(g);
  }
  run_free(&rm);
}

static void test_memory(void **state) {
  (void)state;
  run_model rm = letters_model();
  const char *text = cases[4][0];
  size_t n_calls = 1;
  for (size_t fail_at = 0; fail_at <= n_calls; fail_at++) {
    gc_heap heap = {0, 0, 0, 0, fail_at};
    qi_allocator allocator = {gc_heap_alloc, gc_heap_free, &heap};
    qi_grammar_desc d = {.json_schema = text, .allocator = allocator};
    qi_grammar *g = NULL;
    assert_int_equal(qi_grammar_open(&g, rm.m, &d, NULL), fail_at ? QI_ERR_OOM : QI_OK);
    if (!fail_at) n_calls = heap.n_calls;
    qi_grammar_close(g);
    assert_int_equal(heap.n_live, 0);
  }
  // The two calls that size a buffer, and one that is too small.
  size_t n = 0, again = 0;
  assert_int_equal(qi_json_schema_gbnf(text, strlen(text), NULL, NULL, 0, &n, NULL), QI_OK);
  char *out = (char *)malloc(n);
  assert_int_equal(qi_json_schema_gbnf(text, strlen(text), NULL, out, n, &again, NULL), QI_OK);
  assert_int_equal(n, again);
  assert_memory_equal(out, "root ::= s0\ns0 ::= ", 19);
  qi_grammar_desc d = {.gbnf = out, .len = n};
  qi_grammar *g = NULL;
  assert_int_equal(qi_grammar_open(&g, rm.m, &d, NULL), QI_OK);
  qi_grammar_close(g);
  char small[8] = "aaaaaaa";
  assert_int_equal(qi_json_schema_gbnf(text, strlen(text), NULL, small, 4, &again, NULL), QI_OK);
  assert_string_equal(small, "rootaaa");
  assert_int_equal(qi_json_schema_gbnf(NULL, 0, NULL, NULL, 0, &again, NULL), QI_ERR_ARGUMENT);
  assert_int_equal(qi_json_schema_gbnf(text, 1, NULL, NULL, 4, &again, NULL), QI_ERR_ARGUMENT);
  free(out);
  run_free(&rm);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_cases),  cmocka_unit_test(test_ranges), cmocka_unit_test(test_random_texts),
    cmocka_unit_test(test_errors), cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
