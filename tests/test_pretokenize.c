// UTF-8, character classes, and how text is cut into words.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

// ---- unicode ----

static void test_utf8(void **state) {
  (void)state;
  static const struct { const char *s; size_t len; uint32_t cp; size_t size; } cases[] = {
      {"a", 1, 'a', 1}, {"\0", 1, 0, 1}, {"\xC3\xA9", 2, 0xE9, 2}, {"\xE2\x82\xAC", 3, 0x20AC, 3},
      {"\xF0\x9F\x98\x80", 4, 0x1F600, 4},
      {"\xF4\x8F\xBF\xBF", 4, 0x10FFFF, 4}, {"\xF4\x90\x80\x80", 4, 0xFFFD, 1}, {"\xED\xA0\x80", 3, 0xFFFD, 1},
      {"\xC0\x80", 2, 0xFFFD, 1}, {"\xE0\x80\x80", 3, 0xFFFD, 1}, {"\xF0\x80\x80\x80", 4, 0xFFFD, 1}, {"\x80", 1, 0xFFFD, 1},
      {"\xC3", 1, 0xFFFD, 1}, {"\xC3" "a", 2, 0xFFFD, 1}, {"\xE2\x82", 2, 0xFFFD, 1}, {"\xFF\xBF", 2, 0xFFFD, 1},
      {"\xED\x9F\xBF", 3, 0xD7FF, 3}, {"\xEE\x80\x80", 3, 0xE000, 3}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint32_t cp = 0;
    assert_int_equal(qi__utf8_next(cases[i].s, cases[i].len, &cp), cases[i].size);
    assert_int_equal(cp, cases[i].cp);
  }
  for (uint32_t cp = 0; cp < 0x110000; cp += cp < 0x3000 ? 1 : 13) {
    char s[4];
    uint32_t back;
    if (cp >= 0xD800 && cp < 0xE000) continue;
    size_t n = qi__utf8_put(cp, s);
    assert_int_equal(qi__utf8_next(s, n, &back), n);
    assert_int_equal(back, cp);
  }
}

static void test_classes(void **state) {
  (void)state;
  static const struct { uint32_t cp; unsigned cls; } cases[] = {
      {'a', QI__LETTER}, {'5', QI__NUMBER}, {'!', QI__PUNCT}, {'$', QI__SYMBOL}, {'~', QI__SYMBOL}, {' ', QI__SPACE},
      {'\n', QI__SPACE},
      {0x1C, 0}, {0x7F, 0}, {0x85, QI__SPACE}, {0xA0, QI__SPACE}, {0xAA, QI__LETTER}, {0xB2, QI__NUMBER}, {0xE9, QI__LETTER},
      {0x301, QI__MARK}, {0x2003, QI__SPACE}, {0x200B, 0}, {0x20AC, QI__SYMBOL}, {0x2160, QI__NUMBER}, {0x3000, QI__SPACE},
      {0x3001, QI__PUNCT}, {0x4E2D, QI__LETTER}, {0xAC00, QI__LETTER}, {0xFFFD, QI__SYMBOL}, {0x1F600, QI__SYMBOL}, {0xE000, 0},
      {0x10FFFF, 0}, {0x110000, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_int_equal(qi__char_class(cases[i].cp), cases[i].cls);
  for (size_t i = 1; i < sizeof qi__unicode_runs / sizeof *qi__unicode_runs; i++)
    assert_true(qi__unicode_runs[i - 1] >> 8 < qi__unicode_runs[i] >> 8);
}

// ---- splitters ----

typedef struct split_case {
  const char *rule, *pieces; // pieces are parted by 0x1F
} split_case;
#define S "\x1F"

static const split_case split_cases[] = {
    {"gpt-2", "Hello" S " world" S "!!" S " 123" S "abc" S " " S " x" S "\n\n  "},
    {"gpt-2", "I" S "'ve" S " can" S "'" S "T" S "'ll" S " '" S "s"},
    {"gpt-2", "\xC3\xA9t\xC3\xA9" S " \xE2\x82\xAC" S "5" S "\t" S "x"},
    {"gpt-2", "a" S " \xFF\xFE" S "b" S "\xC3"},
    {"llama-bpe", "Hello" S " world" S "!\n\n" S "123" S "45" S "x"},
    {"llama-bpe", "I" S "'VE" S " can" S "'t" S "\t\n" S "  " S " y" S "\r\n"},
    {"llama-bpe", "   \n" S " " S " x" S "." S " (" S "foo"},
    {"llama3", "$a" S " $" S "1" S "(b" S " !?\n" S "z"},
    {"falcon3", "12" S " ab" S "   "},
    {"qwen2", "1" S "2" S "3" S "abc" S " " S "4" S "'S" S " !!\r\n" S "x"},
    {"qwen35", "a\xCC\x81" "b" S " \xCC\x81" "c" S "1"},
    {"deepseek-r1-qwen", "\xE4\xB8\xAD\xE6\x96\x87" S "9"},
    {"deepseek-llm", "Hello" S " world" S "123" S "\n" S "\n" S " " S " a" S " !?" S "  "},
    {"deepseek-llm", "abc" S "\xE4\xB8\xAD\xE6\x96\x87" S "x" S "\xEF\xBC\x81" S "45" S "\xF0\x9F\x98\x80"},
    {"deepseek-coder", "Hello" S " world" S "1" S "2" S "\n" S " " S " a" S " !?" S "$  "},
    {"deepseek-coder", "\xE4\xB8\xAD" S "!" S "+="},
    {"deepseek-v3", "123" S "45" S "abc" S " def" S ".xyz" S "\xE4\xB8\xAD" S "!\n" S "  " S " ("},
    {"falcon", "Hello" S "," S " world" S " " S "..." S "123" S "456" S "7" S "`" S "a"},
    {"starcoder", "a" S "1" S "2" S " b" S " " S "3" S "!!"},
    {"refact", "x" S "9" S "9" S " " S " y"},
    {"smollm", "I" S "'m" S " " S "1" S "0" S " cm"},
    {"default", "a" S "..." S "123" S "4" S "`"},
    {"bloom", "Hello" S "," S " world" S "!" S " a"},
    {"viking", "a" S "1" S "2" S "." S " b"},
    {"tekken", "Hello" S "World" S "1" S "2" S " foo" S "ABC" S " ABCdef" S "/\n" S "  " S " x"},
    {"tekken", "\xC3\x80" "A\xC3\x80" S "B" S "'s"},
    {"gpt-4o", "Hello's" S " " S "123" S "4" S " it'LL" S "'x"},
};

static void check_split(const split_case *c) {
  char text[256];
  size_t ends[64], n = 0, len = 0;
  for (const char *p = c->pieces; *p; p++) {
    if (*p == 0x1F) ends[n++] = len;
    else text[len++] = *p;
  }
  ends[n++] = len;
  const qi__pre_rule *rule = qi__pre_find(c->rule, strlen(c->rule));
  assert_non_null(rule);
  qi__pretokenizer t = qi__pretokenize(rule, text, len);
  size_t start, end, k = 0;
  bool same = true;
  for (; qi__pretokenize_next(&t, &start, &end); k++) same = same && k < n && end == ends[k];
  if (same && k == n) return;
  print_message("%s:", c->rule);
  for (t = qi__pretokenize(rule, text, len); qi__pretokenize_next(&t, &start, &end);)
    print_message(" [%.*s]", (int)(end - start), text + start);
  fail_msg("; expected %s", c->pieces);
}

static void test_splitters(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof split_cases / sizeof *split_cases; i++) check_split(&split_cases[i]);
}

// Words are never empty and together are the text, whatever it is; names are known once.
static void test_splitters_cover(void **state) {
  (void)state;
  static const char *const bits[] = {" ", "\n", "'s", "'", "a", "Z", "1", "!", "~", "\xE4\xB8\xAD", "\xC3\x80", "\xCC\x81",
                                     "\xF0\x9F\x98\x80",
                                     "\xE3\x80\x80", "\xC2\x85", "\xFF", "\xE2\x82", "\r", "\t", "$", "(", "\xE2\x80\xA6"};
  uint32_t seed = 1;
  for (size_t r = 0; r < sizeof qi__pre_rules / sizeof *qi__pre_rules; r++) {
    const qi__pre_rule *rule = &qi__pre_rules[r];
    assert_ptr_equal(qi__pre_find(rule->name, strlen(rule->name)), rule);
    for (int k = 0; k < 300; k++) {
      char text[256];
      size_t len = 0, start, end, last = 0;
      for (uint32_t n = next_random(&seed) % 40; n > 0; n--) {
        const char *bit = bits[next_random(&seed) % (sizeof bits / sizeof *bits)];
        memcpy(text + len, bit, strlen(bit));
        len += strlen(bit);
      }
      qi__pretokenizer t = qi__pretokenize(rule, text, len);
      while (qi__pretokenize_next(&t, &start, &end)) {
        assert_int_equal(start, last);
        assert_true(end > start && end <= len);
        last = end;
      }
      assert_int_equal(last, len);
    }
  }
  assert_null(qi__pre_find("no such rule", 12));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_utf8),
      cmocka_unit_test(test_classes),
      cmocka_unit_test(test_splitters),
      cmocka_unit_test(test_splitters_cover),
  };
  return cmocka_run_group_tests_name("pretokenize", tests, NULL, NULL);
}
