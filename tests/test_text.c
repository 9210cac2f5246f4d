// Streaming text: UTF-8 cut anywhere, stop strings in every position.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

typedef struct stream {
  qi__text text;
  qi_allocator allocator;
  qi__arena arena;
  char out[4096];
  size_t len;
} stream;

static void stream_open(stream *s, const char *const *stop, int n_stop, size_t max_piece) {
  qi_error err = {QI_OK, ""};
  qi__arena arena = {0};
  memset(s, 0, sizeof *s);
  assert_int_equal(qi__text_check(stop, n_stop, &err), QI_OK);
  qi__text_layout(&s->text, &arena, stop, n_stop, max_piece);
  assert_false(arena.overflow);
  assert_int_equal(qi__allocator_resolve(NULL, &s->allocator, NULL), QI_OK);
  assert_int_equal(qi__arena_open(&arena, &s->allocator, "text", NULL), QI_OK);
  qi__text_layout(&s->text, &arena, stop, n_stop, max_piece);
  assert_false(arena.overflow);
  assert_int_equal(arena.used, arena.size);
  s->arena = arena;
}

static void stream_close(stream *s) { qi__arena_close(&s->arena, &s->allocator); }

static void collect(stream *s, const qi_piece *p) {
  assert_true(qi__utf8_valid(p->text, p->len)); // whole characters, always
  assert_true(s->len + p->len < sizeof s->out);
  memcpy(s->out + s->len, p->text, p->len);
  s->len += p->len;
  s->out[s->len] = 0;
}

// Feeds text in pieces of `step` bytes; true when a stop string ended it. The rest is flushed otherwise.
static bool feed(stream *s, const char *bytes, size_t n, size_t step) {
  qi_piece p = {NULL, 0, 0};
  bool ended = false;
  qi__text_reset(&s->text);
  s->len = 0;
  s->out[0] = 0;
  for (size_t i = 0; i < n && !ended; i += step) {
    ended = qi__text_push(&s->text, bytes + i, qi__min_size(step, n - i), &p);
    collect(s, &p);
  }
  if (!ended) {
    qi__text_flush(&s->text, &p);
    collect(s, &p);
  }
  qi__text_flush(&s->text, &p);
  assert_int_equal(p.len, 0);
  return ended;
}

#define R "\xef\xbf\xbd"

static void test_utf8(void **state) {
  (void)state;
  static const char *const cases[][2] = {
    {"", ""},
    {"plain", "plain"},
    {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80!", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80!"},
    {"a\xff" "b\x80", "a" R "b" R},
    {"\xc0\xaf", R R},                           // longer than needed
    {"\xe0\x80\xaf", R R R},
    {"\xed\xa0\x80", R R R},                     // surrogate
    {"\xf4\x90\x80\x80", R R R R},               // above U+10FFFF
    {"\xf5\x80\x80\x80", R R R R},
    {"\xf0\x9f\x98", R},                         // unfinished at the end: one for all
    {"\xf0\x9f\x98" "a", R "a"},
    {"\xe2\x82\xe2\x82\xac", R "\xe2\x82\xac"},  // begins anew
    {"\xf1\x80\x80\xc2\xa2\xc2", R "\xc2\xa2" R},
    {"\xf8\x88\x80\x80\x80", R R R R R},
    {"\xf0\x80\xf0\x9f\x98\x80", R R "\xf0\x9f\x98\x80"},
  };
  for (size_t step = 1; step < 6; step++) {
    stream s;
    stream_open(&s, NULL, 0, step);
    for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
      assert_false(feed(&s, cases[i][0], strlen(cases[i][0]), step));
      assert_string_equal(s.out, cases[i][1]);
    }
    assert_false(feed(&s, "a\0b", 3, step)); // zeros are characters
    assert_int_equal(s.len, 3);
    stream_close(&s);
  }
}

// Complete characters are not delayed, incomplete ones come when they are whole.
static void test_latency(void **state) {
  (void)state;
  stream s;
  qi_piece p;
  stream_open(&s, NULL, 0, 8);
  assert_false(qi__text_push(&s.text, "ab\xe2", 3, &p));
  assert_int_equal(p.len, 2);
  assert_memory_equal(p.text, "ab", 2);
  assert_false(qi__text_push(&s.text, "\x82", 1, &p));
  assert_int_equal(p.len, 0);
  assert_non_null(p.text);
  assert_false(qi__text_push(&s.text, "\xac", 1, &p));
  assert_int_equal(p.len, 3);
  assert_memory_equal(p.text, "\xe2\x82\xac", 3);
  stream_close(&s);
  const char *stop[] = {"</s>", "\n\n"};
  stream_open(&s, stop, 2, 8);
  assert_false(qi__text_push(&s.text, "one\n", 4, &p)); // may become a stop string
  assert_int_equal(p.len, 3);
  assert_false(qi__text_push(&s.text, "two<", 4, &p)); // did not
  assert_int_equal(p.len, 4);
  assert_memory_equal(p.text, "\ntwo", 4);
  assert_false(qi__text_push(&s.text, "/s", 2, &p));
  assert_int_equal(p.len, 0);
  assert_false(qi__text_push(&s.text, "<", 1, &p));
  assert_int_equal(p.len, 3);
  assert_memory_equal(p.text, "</s", 3);
  qi__text_flush(&s.text, &p);
  assert_int_equal(p.len, 1);
  assert_memory_equal(p.text, "<", 1);
  stream_close(&s);
}

static void test_stops(void **state) {
  (void)state;
  static const struct {
    const char *stop[4], *text, *out;
    bool ended;
  } cases[] = {
    {{"aab"}, "aaab", "a", true}, // overlapping candidates
    {{"aab"}, "aaaaab rest", "aaa", true},
    {{"aab"}, "aaaa", "aaaa", false},
    {{"abab", "abc"}, "ababab", "", true},
    {{"ababc"}, "abababc", "ab", true},
    {{"END"}, "xEENDy", "xE", true},
    {{"abcd", "bc"}, "abcd", "a", true},   // what is complete first
    {{"bcd", "abcd"}, "xabcd", "x", true}, // complete together: the longest
    {{"x", "y"}, "aybx", "a", true},
    {{"a"}, "a", "", true},
    {{"</s>"}, "text</s", "text</s", false},
    {{"\xe2\x82\xac", "\xe2\x82\xad"}, "5 \xe2\x82\xac", "5 ", true},
    {{"\xe2\x82\xac"}, "5 \xe2\x82\xad\xe2\x82", "5 \xe2\x82\xad" R, false},
    {{"stop"}, "\xf0\x9fstop", R, true}, // an unfinished character before it
    {{R "!"}, "a\xff!", "a", true},
    {{R}, "a\xe2\x82", "a", false}, // a stop string that only the last flush completes
    {{"\n\nUser:", "\nUser:", "User:"}, "Hi\n\nUser: no", "Hi", true},
  };
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    int n = 0;
    while (n < 4 && cases[i].stop[n]) n++;
    for (size_t step = 1; step < 12; step++) {
      stream s;
      stream_open(&s, cases[i].stop, n, step);
      bool ended = feed(&s, cases[i].text, strlen(cases[i].text), step);
      if (strcmp(s.out, cases[i].out) != 0) print_error("case %zu, step %zu: '%s'\n", i, step, s.out);
      assert_string_equal(s.out, cases[i].out);
      assert_int_equal(ended, cases[i].ended);
      stream_close(&s);
    }
  }
}

// What is delivered is all that is certain: nothing that can be the beginning of a stop string, no byte less.
static void check_against_naive(const char *const *stop, int n_stop, const char *text, size_t n) {
  stream s;
  qi_piece p;
  size_t end = n, cut = n, seen = 0;
  for (size_t i = 1; i <= n && end == n && cut == n; i++)
    for (int k = 0; k < n_stop; k++) {
      size_t len = strlen(stop[k]);
      if (len <= i && memcmp(text + i - len, stop[k], len) == 0 && (cut == n || i - len < cut)) end = i, cut = i - len;
    }
  bool has_stop = cut != n;
  stream_open(&s, stop, n_stop, 1);
  for (size_t i = 1; i <= n; i++) {
    bool ended = qi__text_push(&s.text, text + i - 1, 1, &p), expect_end = has_stop && i == end;
    assert_int_equal(ended, expect_end);
    assert_memory_equal(p.text, text + seen, p.len);
    seen += p.len;
    if (ended) {
      assert_int_equal(seen, cut);
      assert_true(qi__text_push(&s.text, "more", 1, &p)); // stays ended
      assert_int_equal(p.len, 0);
      break;
    }
    size_t held = 0;
    for (int k = 0; k < n_stop; k++)
      for (size_t len = strlen(stop[k]) - 1; len > held; len--)
        if (len <= i && memcmp(text + i - len, stop[k], len) == 0) held = len;
    assert_int_equal(i - seen, held);
  }
  stream_close(&s);
}

static void test_random_stops(void **state) {
  (void)state;
  uint32_t x = 5;
  for (int round = 0; round < 3000; round++) {
    char text[120], stops[3][16];
    const char *stop[3];
    x = x * 1664525u + 1013904223u;
    int n_stop = 1 + (int)(x >> 20) % 3;
    for (int k = 0; k < n_stop; k++) {
      x = x * 1664525u + 1013904223u;
      int len = 1 + (int)(x >> 20) % (round % 2 ? 5 : 12);
      for (int i = 0; i < len; i++) stops[k][i] = (char)('a' + (x >> (i + 5) & 1));
      stops[k][len] = 0;
      stop[k] = stops[k];
    }
    for (size_t i = 0; i < sizeof text; i++) {
      x = x * 1664525u + 1013904223u;
      text[i] = (char)('a' + ((x >> 20) % 8 == 0 ? 2 : x >> 24 & 1));
    }
    check_against_naive(stop, n_stop, text, sizeof text);
  }
}

// The greatest growth: every byte becomes three, behind the longest held-back text.
static void test_worst_case_buffer(void **state) {
  (void)state;
  char longest[QI__STOP_LEN_MAX + 1], bytes[64];
  memset(longest, 'a', QI__STOP_LEN_MAX);
  longest[QI__STOP_LEN_MAX] = 0;
  const char *stop[] = {longest};
  stream s;
  qi_piece p;
  size_t total = 0;
  stream_open(&s, stop, 1, sizeof bytes);
  memset(bytes, 'a', sizeof bytes);
  for (size_t left = QI__STOP_LEN_MAX - 1; left; left -= qi__min_size(left, sizeof bytes)) {
    assert_false(qi__text_push(&s.text, bytes, qi__min_size(left, sizeof bytes), &p));
    assert_int_equal(p.len, 0);
  }
  assert_false(qi__text_push(&s.text, "\xf0\x9f\x98", 3, &p));
  total += p.len;
  memset(bytes, 0xff, sizeof bytes);
  assert_false(qi__text_push(&s.text, bytes, sizeof bytes, &p));
  total += p.len;
  assert_int_equal(total, QI__STOP_LEN_MAX - 1 + 3 + 3 * sizeof bytes);
  stream_close(&s);
}

static void test_errors(void **state) {
  (void)state;
  char longest[QI__STOP_LEN_MAX + 2];
  memset(longest, 'a', sizeof longest - 1);
  longest[sizeof longest - 1] = 0;
  const char *empty[] = {"ok", ""}, *null[] = {NULL}, *too_long[] = {longest}, *latin1[] = {"\xe4"}, *many[65];
  for (int i = 0; i < 65; i++) many[i] = "x";
  qi_error err = {QI_OK, ""};
  assert_int_equal(qi__text_check(empty, 2, &err), QI_ERR_ARGUMENT);
  assert_non_null(strstr(err.msg, "stop[1]"));
  assert_int_equal(qi__text_check(null, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__text_check(NULL, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__text_check(NULL, -1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__text_check(latin1, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__text_check(too_long, 1, &err), QI_ERR_LIMIT);
  assert_int_equal(qi__text_check(many, 65, &err), QI_ERR_LIMIT);
  assert_int_equal(qi__text_check(many, 64, &err), QI_OK);
  longest[QI__STOP_LEN_MAX] = 0;
  assert_int_equal(qi__text_check(too_long, 1, &err), QI_OK);
  assert_int_equal(qi__text_check(NULL, 0, NULL), QI_OK);
  qi__text t;
  qi__arena arena = {0};
  qi__text_layout(&t, &arena, NULL, 0, SIZE_MAX / 2);
  assert_true(arena.overflow);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_utf8),
    cmocka_unit_test(test_latency),
    cmocka_unit_test(test_stops),
    cmocka_unit_test(test_random_stops),
    cmocka_unit_test(test_worst_case_buffer),
    cmocka_unit_test(test_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
