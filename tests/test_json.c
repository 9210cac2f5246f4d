// The JSON reader: values, escapes, numbers, errors with their place, limits; from memory and through a window.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <cmocka.h>

// ---- sources ----

// Text behind a reader: the window is 4096 bytes, so long texts are read in pieces.
typedef struct text_source {
  const char *text;
  size_t size, fail_at;
} text_source;

static bool text_read(void *user, uint64_t offset, void *dst, size_t n) {
  const text_source *s = (const text_source *)user;
  assert_true(offset <= s->size && n <= s->size - offset);
  if (s->fail_at && offset + n > s->fail_at) return false;
  memcpy(dst, s->text + offset, n);
  return true;
}

static void open_text(qi__file *f, text_source *s, const char *text, size_t size, bool window) {
  qi_reader reader = {text_read, size, NULL};
  reader.user = s;
  s->text = text;
  s->size = size;
  s->fail_at = 0;
  assert_int_equal(window ? qi__file_open_reader(f, &reader, NULL) : qi__file_open_memory(f, text, size, NULL), QI_OK);
}

// Skips the whole text; the message goes to err.
static qi_result skip_all(const char *text, size_t size, bool window, qi_error *err) {
  qi__file f;
  text_source s;
  qi__json j;
  open_text(&f, &s, text, size, window);
  qi__json_init(&j, &f, 0, f.size, err);
  qi__json_skip(&j);
  qi__json_end(&j);
  return j.result;
}

static void accept(const char *text) {
  for (int window = 0; window < 2; window++) {
    qi_error err = {QI_OK, ""};
    if (skip_all(text, strlen(text), window, &err)) fail_msg("%s: refused: %s", text, err.msg);
  }
}

static void refuse(const char *text, size_t size, qi_result code, const char *phrase) {
  char first[256] = "";
  for (int window = 0; window < 2; window++) {
    qi_error err = {QI_OK, ""};
    qi_result r = skip_all(text, size, window, &err);
    if (r != code || !strstr(err.msg, phrase)) fail_msg("%s: %s \"%s\", expected \"%s\"", text, qi_result_name(r), err.msg, phrase);
    if (window) assert_string_equal(first, err.msg);
    memcpy(first, err.msg, sizeof first);
    assert_int_equal(skip_all(text, size, window, NULL), code);
  }
}
#define REFUSE(text, phrase) refuse(text, sizeof(text) - 1, QI_ERR_FORMAT, phrase)

// ---- tests ----

static void test_accepts(void **state) {
  (void)state;
  static const char *const good[] = {
      "0", "-0", "1.5e-3", "\"\"", "null", "true", "false", "[]", "{}", " \t\r\n[1 , 2,3 ]\n", "{\"a\":{\"b\":[[],{}]},\"a\":1}",
      "\"\\u0000\\ud83d\\ude00\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xed\x9f\xbf\xee\x80\x80\"",
      "123456789012345678901234567890", "1e999", "-1E-999"};
  for (size_t i = 0; i < QI__COUNT_OF(good); i++) accept(good[i]);
}

static void test_refuses(void **state) {
  (void)state;
  REFUSE(" ", "found the end, expected a value");
  REFUSE("[1,\n 2,]", "line 2, column 4: found ']', expected a value");
  REFUSE("[1 2]", "line 1, column 4: found a number, expected ',' or ']'");
  REFUSE("{\"a\" 1}", "expected ':'");
  REFUSE("{1:2}", "found a number, expected a key");
  REFUSE("{\"a\":1,}", "expected a key");
  REFUSE("{\"a\":1 \"b\":2}", "',' or '}'");
  REFUSE("[1}", "found '}'");
  REFUSE("{\"key\":}", "key key: found '}', expected a value");
  REFUSE("[", "found the end");
  REFUSE("1 2", "found a number, expected the end");
  REFUSE("tru", "a word that is not true");
  REFUSE("nul1", "a word that is not null");
  REFUSE("NaN", "found 'N', expected a value");
  REFUSE("\x01", "byte 0x01");
  REFUSE("01", "'01' is no number");
  REFUSE("-", "'-' is no number");
  REFUSE("1.", "'1.' is no number");
  REFUSE("1e+", "is no number");
  REFUSE("1.5.2", "is no number");
  REFUSE("+1", "found '+'");
  REFUSE("\"abc", "ends inside a string");
  REFUSE("\"a\nb\"", "control character, 0x0a");
  REFUSE("\"\\x\"", "backslash");
  REFUSE("\"\\u12g4\"", "four hexadecimal digits");
  REFUSE("\"\\ud800\"", "\\ud800 is half of a surrogate pair");
  REFUSE("\"\\ud800\\u0041\"", "half of a surrogate pair");
  REFUSE("\"\\udc00\"", "second half");
  REFUSE("\"\x80\"", "begins no UTF-8 character");
  REFUSE("\"\xc0\xaf\"", "begins no UTF-8 character"); // overlong
  REFUSE("\"\xe0\x80\x80\"", "cut short or not allowed");
  REFUSE("\"\xed\xa0\x80\"", "cut short or not allowed"); // surrogate
  REFUSE("\"\xf4\x90\x80\x80\"", "cut short or not allowed");
  REFUSE("\"\xe2\x82\"", "cut short or not allowed");
  REFUSE("\"\xff\"", "begins no UTF-8 character");
}

static void test_limits(void **state) {
  (void)state;
  char text[400];
  memset(text, '[', 64);
  memset(text + 64, ']', 64);
  text[128] = 0;
  accept(text);
  memset(text, '[', 65);
  memset(text + 65, ']', 65);
  refuse(text, 130, QI_ERR_LIMIT, "nest deeper than 64");
  memset(text, '1', sizeof text);
  refuse(text, QI__JSON_MAX_NUMBER + 1, QI_ERR_LIMIT, "more than 128 characters");
  text[QI__JSON_MAX_NUMBER] = 0;
  accept(text);
}

static double read_number(const char *text) {
  qi__file f;
  text_source s;
  qi__json j;
  double v = -12345;
  open_text(&f, &s, text, strlen(text), false);
  qi__json_init(&j, &f, 0, f.size, NULL);
  qi__json_number(&j, &v);
  return j.result ? -99999 : v;
}

static void test_numbers(void **state) {
  (void)state;
  static const struct {
    const char *text;
    double v;
  } exact[] = {{"0", 0}, {"-1", -1}, {"1e-05", 1e-05}, {"1e-6", 1e-6}, {"10000.0", 10000}, {"500000.0", 5e5}, {"1e22", 1e22},
               {"0.1", 0.1}, {"3.25", 3.25}, {"-2.5E+3", -2500}, {"4096", 4096}, {"9007199254740992", 9007199254740992.0},
                   {"1e-400", 0},
               {"0e999999999999", 0}};
  for (size_t i = 0; i < QI__COUNT_OF(exact); i++)
    if (read_number(exact[i].text) != exact[i].v) fail_msg("%s: %.17g", exact[i].text, read_number(exact[i].text));
  static const struct {
    const char *text;
    double v;
  } close[] = {{"1.0800000429153442", 1.0800000429153442}, {"1e300", 1e300}, {"1.7976931348623157e308", 1.7976931348623157e308},
               {"2.2250738585072014e-308", 2.2250738585072014e-308}, {"123456789012345678901234567890", 1.2345678901234568e29},
               {"0.00000000000000000000000000000000000001234", 1.234e-38}};
  for (size_t i = 0; i < QI__COUNT_OF(close); i++) {
    double got = read_number(close[i].text), off = (got - close[i].v) / close[i].v;
    if (!(off < 5e-16 && off > -5e-16) && !(i == 2 && got == -99999)) fail_msg("%s: %.17g", close[i].text, got);
  }
  assert_true(read_number("1e309") == -99999);
  assert_true(read_number("-1e99999") == -99999);
  assert_true(read_number("true") == -99999);
}

static qi_result read_u64(const char *text, uint64_t max, uint64_t *v) {
  qi__file f;
  text_source s;
  qi__json j;
  open_text(&f, &s, text, strlen(text), true);
  qi__json_init(&j, &f, 0, f.size, NULL);
  qi__json_u64(&j, max, v);
  return j.result;
}

static void test_whole_numbers(void **state) {
  (void)state;
  uint64_t v = 7;
  assert_int_equal(read_u64("18446744073709551615", UINT64_MAX, &v), QI_OK);
  assert_true(v == UINT64_MAX);
  assert_int_equal(read_u64("18446744073709551616", UINT64_MAX, &v), QI_ERR_FORMAT);
  assert_int_equal(read_u64("-1", UINT64_MAX, &v), QI_ERR_FORMAT);
  assert_int_equal(read_u64("1.5", UINT64_MAX, &v), QI_ERR_FORMAT);
  assert_int_equal(read_u64("101", 100, &v), QI_ERR_FORMAT);
  assert_int_equal(read_u64("4096.0", 10000, &v), QI_OK);
  assert_true(v == 4096);
  assert_int_equal(read_u64("1e6", 10000000, &v), QI_OK);
  assert_true(v == 1000000);
  assert_int_equal(read_u64("\"1\"", 10, &v), QI_ERR_FORMAT);
}

// A string that a window cuts anywhere: inside escapes, surrogates and UTF-8.
static void test_windows(void **state) {
  (void)state;
  static const char unit[] = "a\\u00e4\xe2\x82\xac\\ud83d\\ude00\\n", decoded[] = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\n";
  const size_t n_units = 600, shift_max = sizeof unit;
  char *text = (char *)malloc(shift_max + n_units * sizeof unit + 16), *out = (char *)malloc(n_units * sizeof decoded);
  assert_true(text && out);
  for (size_t shift = 0; shift < shift_max; shift++) {
    size_t n = 0, len;
    for (; n < shift; n++) text[n] = ' ';
    text[n++] = '"';
    for (size_t i = 0; i < n_units; i++, n += sizeof unit - 1) memcpy(text + n, unit, sizeof unit - 1);
    text[n++] = '"';
    qi__file f;
    text_source s;
    qi__json j;
    qi_error err = {QI_OK, ""};
    open_text(&f, &s, text, n, true);
    qi__json_init(&j, &f, 0, f.size, &err);
    qi__json_string(&j, out, n_units * sizeof decoded, &len);
    qi__json_end(&j);
    if (j.result) fail_msg("shift %zu: %s", shift, err.msg);
    assert_int_equal(len, n_units * (sizeof decoded - 1));
    for (size_t i = 0; i < n_units; i++) assert_memory_equal(out + i * (sizeof decoded - 1), decoded, sizeof decoded - 1);
    // Again at its place, and cut.
    qi__json_string_at(&j, shift, out, 3, &len);
    assert_int_equal(j.result, QI_OK);
    assert_int_equal(len, n_units * (sizeof decoded - 1));
    // A reader that fails is an error of its own.
    s.fail_at = n / 2;
    qi__json_init(&j, &f, 0, f.size, &err);
    qi__json_skip(&j);
    assert_int_equal(j.result, QI_ERR_IO);
  }
  free(text);
  free(out);
}

static void test_walk(void **state) {
  (void)state;
  static const char text[] = "{\"name\":\"x\\ty\",\"skip\":[1,{\"name\":2}],\"list\":[3,4,5],\"flag\":false,\"none\":null}";
  for (int window = 0; window < 2; window++) {
    qi__file f;
    text_source s;
    qi__json j;
    char name[8] = "";
    uint32_t sum = 0, v = 0;
    bool flag = true, none = false;
    int n_keys = 0;
    open_text(&f, &s, text, sizeof text - 1, window);
    qi__json_init(&j, &f, 0, f.size, NULL);
    for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j); n_keys++) {
      if (qi__json_key_is(&j, "name")) qi__json_text(&j, name, sizeof name);
      else if (qi__json_key_is(&j, "flag")) qi__json_bool(&j, &flag);
      else if (qi__json_key_is(&j, "none")) none = qi__json_take_null(&j);
      else if (qi__json_key_is(&j, "list"))
        for (qi__json_enter(&j, QI__JSON_ARRAY); qi__json_next(&j); sum += v) qi__json_u32(&j, &v);
      else qi__json_skip(&j);
    }
    qi__json_end(&j);
    assert_int_equal(j.result, QI_OK);
    assert_int_equal(n_keys, 5);
    assert_string_equal(name, "x\ty");
    assert_int_equal(sum, 12);
    assert_true(none && !flag);
  }
}

// Wrong types are named, with the key and the place; after that nothing happens any more.
static void test_wrong_type(void **state) {
  (void)state;
  static const char text[] = "{\n  \"width\": \"wide\"\n}";
  qi__file f;
  text_source s;
  qi__json j;
  qi_error err = {QI_OK, ""};
  uint32_t v = 17;
  open_text(&f, &s, text, sizeof text - 1, false);
  qi__json_init(&j, &f, 0, f.size, &err);
  for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);) qi__json_u32(&j, &v);
  qi__json_skip(&j);
  qi__json_end(&j);
  assert_int_equal(j.result, QI_ERR_FORMAT);
  assert_string_equal(err.msg, "line 2, column 12: key width: found a string, expected a number");
  assert_int_equal(v, 17);
}

// Only a slice of the file counts.
static void test_slice(void **state) {
  (void)state;
  static const char text[] = "xx[1,2]yy";
  for (int window = 0; window < 2; window++) {
    qi__file f;
    text_source s;
    qi__json j;
    open_text(&f, &s, text, sizeof text - 1, window);
    qi__json_init(&j, &f, 2, 5, NULL);
    qi__json_skip(&j);
    qi__json_end(&j);
    assert_int_equal(j.result, QI_OK);
    qi__json_init(&j, &f, 2, 4, NULL);
    qi__json_skip(&j);
    assert_int_equal(j.result, QI_ERR_FORMAT);
    qi__json_init(&j, &f, 50, 4, NULL);
    qi__json_skip(&j);
    assert_int_equal(j.result, QI_ERR_FORMAT);
  }
}

// Every cut of a text is refused, or complete in itself; nothing is read beyond it (a sanitizer looks).
static void test_cut(void **state) {
  (void)state;
  static const char text[] = "{\"a\":[1.5e3,true,null,{\"b\":\"\\ud83d\\ude00\xe2\x82\xac\"}],\"c\":-7}";
  for (size_t n = 1; n < sizeof text - 1; n++) {
    char *cut = (char *)malloc(n);
    assert_non_null(cut);
    memcpy(cut, text, n);
    assert_int_equal(skip_all(cut, n, false, NULL), QI_ERR_FORMAT);
    assert_int_equal(skip_all(cut, n, true, NULL), QI_ERR_FORMAT);
    free(cut);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_accepts),  cmocka_unit_test(test_refuses),       cmocka_unit_test(test_limits),
      cmocka_unit_test(test_numbers),  cmocka_unit_test(test_whole_numbers), cmocka_unit_test(test_windows),
      cmocka_unit_test(test_walk),     cmocka_unit_test(test_wrong_type),    cmocka_unit_test(test_slice),
      cmocka_unit_test(test_cut),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
