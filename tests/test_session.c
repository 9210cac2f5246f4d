// sanitize: thread
// Models and sessions through the public interface: text in and out, ends, full contexts, cancelling, memory, threads, wrong
// arguments.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/run_model.h"

// ---- models and allocators ----

// 200 tokens: too few for byte tokens, so that every piece is whole characters.
static rm_desc small_desc(void) {
  rm_desc d = rm_llama();
  d.n_vocab = 200;
  d.n_kv_heads = 2;
  d.format = QI_FORMAT_Q8_0;
  return d;
}
static run_model small_model(void) {
  rm_desc d = small_desc();
  return run_build(&d);
}

static qi_model_desc desc_of(const run_model *rm) {
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.data = rm->file;
  md.data_size = rm->size;
  return md;
}

// Counts, checks sizes, and fails the n-th call if asked. Just before each block lie its size and where malloc's block began.
typedef struct counter {
  size_t live, most, n_calls, n_blocks, n_wrong;
  size_t fail_at; // number of the call that fails, from 1; 0 = none
} counter;

static void *counter_alloc(size_t size, size_t align, void *user) {
  counter *c = (counter *)user;
  if (++c->n_calls == c->fail_at) return NULL;
  if (align == 0 || (align & (align - 1)) || align > 4096 || size == 0) c->n_wrong++;
  char *block = (char *)malloc(size + 2 * 4096 + 64);
  if (!block) return NULL;
  uintptr_t at = ((uintptr_t)block + 64 + align - 1) & ~(uintptr_t)(align - 1);
  size_t head[2] = {size, (size_t)(at - (uintptr_t)block)};
  memcpy((char *)at - sizeof head, head, sizeof head);
  c->live += size;
  c->n_blocks++;
  if (c->live > c->most) c->most = c->live;
  memset((void *)at, 0xa5, size); // nothing may count on zeros
  return (void *)at;
}
static void counter_free(void *ptr, size_t size, void *user) {
  counter *c = (counter *)user;
  size_t head[2];
  if (!ptr) {
    c->n_wrong++;
    return;
  }
  memcpy(head, (char *)ptr - sizeof head, sizeof head);
  if (head[0] != size) c->n_wrong++;
  c->live -= head[0];
  c->n_blocks--;
  free((char *)ptr - head[1]);
}
static qi_allocator counter_hook(counter *c) {
  qi_allocator a = {counter_alloc, counter_free, c};
  memset(c, 0, sizeof *c);
  return a;
}

// ---- text ----

typedef struct story {
  qi_token ids[64];
  size_t n;
  char text[1024];
  size_t len;
  qi_result last; // QI_END, or what stopped it
} story;

// Up to `max` calls of qi_next; within 1 us each if sliced.
static void take_story(qi_session *s, size_t max, bool sliced, story *out) {
  qi_error err = {QI_OK, ""};
  qi_piece p;
  memset(out, 0, sizeof *out);
  for (size_t i = 0; i < max; i++) {
    qi_result r;
    do r = sliced ? qi_next_within(s, &p, 1, &err) : qi_next(s, &p, &err);
    while (r == QI_AGAIN);
    out->last = r;
    if (r != QI_OK && r != QI_END) return;
    assert_true(out->len + p.len < sizeof out->text);
    memcpy(out->text + out->len, p.text, p.len);
    out->len += p.len;
    if (r == QI_END) return;
    out->ids[out->n++] = p.token;
  }
}

// A session that tells stories: no end tokens, sampled, with penalties that look back.
static qi_session_desc story_desc(void) {
  qi_session_desc sd;
  memset(&sd, 0, sizeof sd);
  sd.n_ctx = 100;
  sd.n_threads = 1;
  sd.ignore_end = true;
  sd.sampler.temperature = 0.9f;
  sd.sampler.top_k = 30;
  sd.sampler.repetition_penalty = 1.3f;
  sd.sampler.seed = 42;
  return sd;
}

static story tell(const qi_model *m, const qi_session_desc *sd, const char *prompt, size_t max) {
  qi_error err = {QI_OK, ""};
  qi_session *s = run_session(m, sd);
  story t;
  RUN_OK(qi_prompt(s, prompt, &err), err);
  take_story(s, max, false, &t);
  qi_session_close(s);
  return t;
}

static void expect_same_story(const story *a, const story *b, const char *what) {
  if (a->n != b->n || memcmp(a->ids, b->ids, a->n * sizeof a->ids[0]) || strcmp(a->text, b->text))
    fail_msg("%s: %lu tokens \"%s\", expected %lu tokens \"%s\"", what, (unsigned long)a->n, a->text, (unsigned long)b->n, b->text);
}

// qi_prompt and qi_next do what qi_tokenize, qi_decode and a sampler do by hand.
static void test_by_hand(void **state) {
  (void)state;
  static const char prompt[] = "the rain and";
  run_model rm = small_model();
  qi_session_desc sd = story_desc();
  story told = tell(rm.m, &sd, prompt, 30), hand;
  assert_int_equal(told.n, 30);
  qi_error err = {QI_OK, ""};
  qi_session *s = run_session(rm.m, &sd);
  qi_sampler *sp = NULL;
  RUN_OK(qi_sampler_open(&sp, 200, &sd.sampler, NULL, &err), err);
  qi_token ids[64];
  size_t n;
  RUN_OK(qi_tokenize(rm.m, prompt, strlen(prompt), QI_TOKENIZE_ADD_SPECIAL | QI_TOKENIZE_PARSE_SPECIAL, ids, 64, &n, &err), err);
  assert_int_equal(ids[0], 1);
  qi_decode_token t[64];
  for (size_t i = 0; i < n; i++) {
    qi_decode_token one = {ids[i], 0, false, i + 1 == n};
    t[i] = one;
    qi_sampler_accept(sp, ids[i]);
  }
  memset(&hand, 0, sizeof hand);
  RUN_OK(qi_decode(s, t, n, &err), err);
  while (hand.n < 30) {
    qi_token id = qi_sampler_sample(sp, qi_logits(s, -1));
    qi_sampler_accept(sp, id);
    hand.ids[hand.n++] = id;
    hand.len += qi_token_piece(rm.m, id, false, hand.text + hand.len, sizeof hand.text - hand.len - 1);
    qi_decode_token one = {id, 0, true, true};
    RUN_OK(qi_decode(s, &one, 1, &err), err);
  }
  expect_same_story(&hand, &told, "by hand");
  qi_sampler_close(sp);
  qi_session_close(s);
  run_free(&rm);
}

static void test_slices_and_parts(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  story want = tell(rm.m, &sd, "the rain and", 30), got;
  qi_session *s = run_session(rm.m, &sd);
  RUN_OK(qi_prompt_begin(s, "the rain and", 12, &err), err);
  take_story(s, 30, true, &got);
  expect_same_story(&got, &want, "qi_prompt_begin and qi_next_within");
  qi_session_reset(s);
  RUN_OK(qi_prompt_begin(s, "the rain and", 12, &err), err);
  take_story(s, 30, false, &got);
  expect_same_story(&got, &want, "after qi_session_reset");
  qi_session_reset(s);
  qi_token ids[64];
  size_t n;
  RUN_OK(qi_tokenize(rm.m, "the rain and", 12, QI_TOKENIZE_ADD_SPECIAL, ids, 64, &n, &err), err);
  RUN_OK(qi_prompt_tokens(s, ids, n, &err), err);
  memset(ids, 0xff, sizeof ids); // it took note
  qi_result r;
  while ((r = qi_step(s, 1, &err)) == QI_AGAIN) {
  }
  run_expect(r, QI_OK, &err, "qi_step");
  assert_int_equal(qi_seq_length(s, 0), n);
  take_story(s, 30, false, &got);
  expect_same_story(&got, &want, "qi_prompt_tokens");
  qi_session_close(s);
  sd.sampler.seed = 43;
  got = tell(rm.m, &sd, "the rain and", 30);
  assert_true(strcmp(got.text, want.text) != 0);
  run_free(&rm);
}

static void test_stop_strings(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_session_desc sd = story_desc();
  story all = tell(rm.m, &sd, "the rain and", 30);
  assert_true(all.len > 24);
  for (size_t at = 3; at < 20; at += 4) {
    char word[4] = {all.text[at], all.text[at + 1], all.text[at + 2], 0};
    const char *stop[] = {"not in any story", word};
    sd.stop = stop;
    sd.n_stop = 2;
    story cut = tell(rm.m, &sd, "the rain and", 60);
    size_t end = (size_t)(strstr(all.text, word) - all.text);
    assert_int_equal(cut.last, QI_END);
    if (cut.len != end || memcmp(cut.text, all.text, end)) fail_msg("stop \"%s\": \"%s\" of \"%s\"", word, cut.text, all.text);
  }
  // It stays ended until the next prompt, which goes on from there.
  const char *stop[] = {" "};
  qi_error err = {QI_OK, ""};
  sd.stop = stop;
  sd.n_stop = 1;
  qi_session *s = run_session(rm.m, &sd);
  story t;
  RUN_OK(qi_prompt(s, "the rain and", &err), err);
  take_story(s, 60, false, &t);
  assert_int_equal(t.last, QI_END);
  assert_null(strchr(t.text, ' '));
  qi_piece p;
  run_expect(qi_next(s, &p, &err), QI_END, &err, "qi_next after the end");
  assert_int_equal(p.len, 0);
  int before = qi_seq_length(s, 0);
  RUN_OK(qi_prompt(s, "then", &err), err);
  assert_true(qi_seq_length(s, 0) > before);
  run_expect(qi_next(s, &p, &err), QI_OK, &err, "qi_next after another prompt");
  qi_session_close(s);
  run_free(&rm);
}

// What was generated and given as text belongs to the context of the next prompt, in its role.
static void test_second_prompt(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  sd.sampler.repetition_penalty = 0;
  sd.n_predict = 7;
  qi_session *s = run_session(rm.m, &sd);
  story t;
  RUN_OK(qi_prompt(s, "rain", &err), err);
  take_story(s, 60, false, &t);
  assert_int_equal(t.last, QI_END);
  assert_int_equal(t.n, 7);
  RUN_OK(qi_prompt(s, " or", &err), err);
  float *got = (float *)malloc(200 * sizeof *got);
  assert_non_null(got);
  assert_non_null(qi_logits(s, -1));
  memcpy(got, qi_logits(s, -1), 200 * sizeof *got);
  int length = qi_seq_length(s, 0);
  qi_decode_token all[64];
  qi_token ids[64];
  size_t n = 0, k;
  RUN_OK(qi_tokenize(rm.m, "rain", 4, QI_TOKENIZE_ADD_SPECIAL, ids, 64, &k, &err), err);
  for (size_t i = 0; i < k; i++) all[n++] = (qi_decode_token){ids[i], 0, false, false};
  for (size_t i = 0; i < t.n; i++) all[n++] = (qi_decode_token){t.ids[i], 0, true, false};
  RUN_OK(qi_tokenize(rm.m, " or", 3, 0, ids, 64, &k, &err), err);
  for (size_t i = 0; i < k; i++) all[n++] = (qi_decode_token){ids[i], 0, false, i + 1 == k};
  assert_int_equal(length, n);
  qi_session_reset(s);
  RUN_OK(qi_decode(s, all, n, &err), err);
  run_expect_bits(qi_logits(s, -1), got, 200, "second prompt", "Q8_0");
  free(got);
  qi_session_close(s);
  run_free(&rm);
}

static void test_end_tokens(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  qi_logit_bias bias = {2, 1e6f}; // </s>
  qi_piece p;
  sd.sampler.logit_bias = &bias;
  sd.sampler.n_logit_bias = 1;
  sd.ignore_end = false;
  qi_session *s = run_session(rm.m, &sd);
  run_expect(qi_next(s, &p, &err), QI_ERR_STATE, &err, "qi_next before a prompt");
  RUN_OK(qi_prompt(s, "rain", &err), err);
  run_expect(qi_next(s, &p, &err), QI_END, &err, "qi_next at the end token");
  assert_int_equal(p.len, 0);
  assert_int_equal(p.token, 2);
  run_expect(qi_next(s, &p, &err), QI_END, &err, "qi_next after the end token");
  qi_session_close(s);
  sd.ignore_end = true;
  sd.n_predict = 5;
  story t = tell(rm.m, &sd, "rain", 60);
  assert_int_equal(t.last, QI_END);
  assert_int_equal(t.n, 5);
  assert_int_equal(t.len, 0); // control tokens have no text
  sd.print_special = true;
  t = tell(rm.m, &sd, "rain", 60);
  assert_string_equal(t.text, "</s></s></s></s></s>");
  run_free(&rm);
}

static void test_special_tokens_of_prompts(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  static const char text[] = "rain</s>";
  qi_token ids[64];
  for (int flags = 0; flags < 4; flags++) {
    size_t n;
    sd.no_add_special = !(flags & QI_TOKENIZE_ADD_SPECIAL);
    sd.no_parse_special = !(flags & QI_TOKENIZE_PARSE_SPECIAL);
    RUN_OK(qi_tokenize(rm.m, text, strlen(text), flags, ids, 64, &n, &err), err);
    qi_session *s = run_session(rm.m, &sd);
    RUN_OK(qi_prompt(s, text, &err), err);
    assert_int_equal(qi_seq_length(s, 0), n);
    qi_session_close(s);
  }
  run_free(&rm);
}

// ---- full contexts ----

static void test_full_context(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  qi_token ids[20];
  sd.n_ctx = 16;
  run_random_tokens(4, 200, ids, 20);
  qi_session *s = run_session(rm.m, &sd), *fresh = run_session(rm.m, &sd);
  RUN_OK(qi_prompt_tokens(s, ids, 9, &err), err);
  RUN_OK(qi_step(s, 0, &err), err);
  run_expect(qi_prompt_tokens(s, ids, 11, &err), QI_ERR_CONTEXT, &err, "prompt of 11 after 9 of 16");
  if (!strstr(err.msg, "4") || !strstr(err.msg, "16")) fail_msg("\"%s\" does not say that 4 do not fit into 16", err.msg);
  assert_int_equal(qi_seq_length(s, 0), 9);
  qi_decode_token *t = run_tokens(ids, 20, 0, false);
  for (size_t i = 0; i < 20; i++) t[i].want_logits = false;
  run_expect(qi_decode(s, t, 8, &err), QI_ERR_CONTEXT, &err, "qi_decode of 8 after 9 of 16");
  run_expect(qi_decode(s, t, 20, &err), QI_ERR_CONTEXT, &err, "qi_decode of 20 into 16");
  assert_int_equal(qi_seq_length(s, 0), 9);
  // Nothing was lost: it goes on as a session that never failed.
  story a, b;
  take_story(s, 60, false, &a);
  assert_int_equal(a.last, QI_ERR_CONTEXT);
  assert_int_equal(a.n, 8); // 7 that fit, and one that was sampled from the last logits
  assert_int_equal(qi_seq_length(s, 0), 16);
  RUN_OK(qi_prompt_tokens(fresh, ids, 9, &err), err);
  take_story(fresh, 60, false, &b);
  expect_same_story(&a, &b, "after refused prompts");
  // A shorter context goes on.
  RUN_OK(qi_seq_truncate(s, 0, 3, &err), err);
  RUN_OK(qi_prompt_tokens(s, ids, 5, &err), err);
  RUN_OK(qi_step(s, 0, &err), err);
  assert_int_equal(qi_seq_length(s, 0), 8);
  free(t);
  qi_session_close(s);
  qi_session_close(fresh);
  run_free(&rm);
}

// ---- cancelling ----

// The host's parallel_for, which has a session cancelled by another thread in its n-th call.
typedef struct canceller {
  qi_session *s;
  int left;
} canceller;

static void *cancel_thread(void *arg) {
  qi_cancel((qi_session *)arg);
  return NULL;
}
static void parallel_cancel(void *user, void (*fn)(void *arg, int index), void *arg, int n) {
  canceller *c = (canceller *)user;
  for (int i = 0; i < n; i++) {
    if (i == 0 && c->left > 0 && --c->left == 0) {
      pthread_t thread;
      assert_int_equal(pthread_create(&thread, NULL, cancel_thread, c->s), 0);
      pthread_join(thread, NULL);
    }
    fn(arg, i);
  }
}

// A prompt cancelled at any point leaves everything as it was: the next one gives what a fresh session gives.
static void test_cancel_prompt(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_token ids[60];
  run_random_tokens(8, 200, ids, 60);
  canceller c = {NULL, 0};
  qi_session_desc sd = story_desc();
  sd.n_batch = 16;
  sd.n_threads = 2;
  sd.parallel.parallel_for = parallel_cancel;
  sd.parallel.user = &c;
  qi_session *fresh = run_session(rm.m, &sd);
  story want, got;
  RUN_OK(qi_prompt_tokens(fresh, ids, 20, &err), err);
  RUN_OK(qi_step(fresh, 0, &err), err);
  RUN_OK(qi_prompt_tokens(fresh, ids + 20, 10, &err), err);
  take_story(fresh, 10, false, &want);
  for (int at = 1; at < 40; at += 6) {
    c.s = run_session(rm.m, &sd);
    RUN_OK(qi_prompt_tokens(c.s, ids, 20, &err), err);
    RUN_OK(qi_step(c.s, 0, &err), err);
    RUN_OK(qi_prompt_tokens(c.s, ids + 5, 55, &err), err);
    c.left = at;
    run_expect(qi_step(c.s, 0, &err), QI_ERR_CANCELLED, &err, "qi_step, cancelled");
    assert_int_equal(c.left, 0);
    assert_int_equal(qi_seq_length(c.s, 0), 20);
    assert_null(qi_logits(c.s, -1));
    RUN_OK(qi_prompt_tokens(c.s, ids + 20, 10, &err), err);
    take_story(c.s, 10, false, &got);
    expect_same_story(&got, &want, "after a cancelled prompt");
    qi_session_close(c.s);
  }
  qi_session_close(fresh);
  run_free(&rm);
}

// Generation that is cancelled goes on with the next call as if nothing had been.
static void test_cancel_generation(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  story want = tell(rm.m, &sd, "the rain and", 12), got;
  qi_session *s = run_session(rm.m, &sd);
  qi_piece p;
  memset(&got, 0, sizeof got);
  RUN_OK(qi_prompt(s, "the rain and", &err), err);
  for (int i = 0; i < 12; i++) {
    if (i) { // the first token needs no computing any more
      qi_cancel(s);
      run_expect(qi_next(s, &p, &err), QI_ERR_CANCELLED, &err, "qi_next, cancelled before");
    }
    RUN_OK(qi_next(s, &p, &err), err);
    got.ids[got.n++] = p.token;
    memcpy(got.text + got.len, p.text, p.len);
    got.len += p.len;
  }
  expect_same_story(&got, &want, "cancelled between tokens");
  qi_session_close(s);
  run_free(&rm);
}

// Without a call running, the next one is stopped, once; qi_session_reset forgets it.
static void test_cancel_before(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  qi_token ids[4] = {1, 20, 30, 40};
  qi_decode_token *t = run_tokens(ids, 4, 0, false);
  for (int i = 0; i < 3; i++) t[i].want_logits = false;
  qi_session *s = run_session(rm.m, &sd);
  qi_cancel(s);
  qi_cancel(s);
  run_expect(qi_decode(s, t, 4, &err), QI_ERR_CANCELLED, &err, "qi_decode, cancelled before");
  assert_int_equal(qi_seq_length(s, 0), 0);
  RUN_OK(qi_decode(s, t, 4, &err), err);
  qi_cancel(s);
  run_expect(qi_prompt(s, "rain", &err), QI_ERR_CANCELLED, &err, "qi_prompt, cancelled before");
  assert_int_equal(qi_seq_length(s, 0), 4);
  qi_cancel(s);
  qi_session_reset(s);
  RUN_OK(qi_decode(s, t, 4, &err), err);
  qi_cancel(NULL);
  free(t);
  qi_session_close(s);
  run_free(&rm);
}

// A prompt that is cancelled was never there: nothing to generate from it, whatever came before.
static void test_next_after_cancelled_prompt(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  qi_piece p;
  sd.n_predict = 3;
  qi_session *s = run_session(rm.m, &sd);
  qi_cancel(s);
  run_expect(qi_prompt(s, "rain", &err), QI_ERR_CANCELLED, &err, "the first prompt, cancelled");
  assert_string_equal(err.msg, "qi_tokenize: cancelled"); // its text was not taken apart to the end
  run_expect(qi_next(s, &p, &err), QI_ERR_STATE, &err, "qi_next after the first prompt was cancelled");
  story t;
  RUN_OK(qi_prompt(s, "rain", &err), err);
  take_story(s, 60, false, &t);
  assert_int_equal(t.last, QI_END);
  qi_cancel(s);
  run_expect(qi_prompt(s, "wind", &err), QI_ERR_CANCELLED, &err, "the second prompt, cancelled");
  qi_result r = qi_next(s, &p, &err);
  if (r == QI_OK) fail_msg("a cancelled prompt restarted generation that had ended");
  qi_session_close(s);
  run_free(&rm);
}

// ---- memory ----

static void test_session_memory(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  static const char *const stop[] = {"one", "another"};
  for (int i = 0; i < 6; i++) {
    counter c;
    uint64_t bytes = 0;
    qi_session_desc sd = story_desc();
    sd.allocator = counter_hook(&c);
    sd.n_ctx = i == 1 ? 0 : 40 + i;
    sd.n_seqs = i == 2 ? 5 : 0;
    sd.n_batch = i == 3 ? 7 : 0;
    sd.n_threads = 1 + i % 3;
    sd.kv_type = (qi_kv_type)(1 + i % 6);
    sd.stop = i == 4 ? stop : NULL;
    sd.n_stop = i == 4 ? 2 : 0;
    RUN_OK(qi_session_memory(rm.m, &sd, &bytes, &err), err);
    assert_int_equal(c.n_calls, 0);
    qi_session *s = run_session(rm.m, &sd);
    assert_int_equal(c.live, bytes);
    assert_int_equal(c.most, bytes);
    qi_session_stats stats;
    qi_session_get_stats(s, &stats);
    assert_int_equal(stats.heap_bytes, bytes);
    assert_true(stats.kv_bytes > 0 && stats.kv_bytes < bytes);
    qi_session_close(s);
    assert_int_equal(c.live, 0);
    assert_int_equal(c.n_blocks, 0);
    assert_int_equal(c.n_wrong, 0);
  }
  run_free(&rm);
}

// After opening, only the text of prompts asks for memory, and gives it back.
static void test_no_allocation(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  counter c;
  qi_session_desc sd = story_desc();
  sd.allocator = counter_hook(&c);
  sd.n_seqs = 2;
  sd.n_batch = 5;
  sd.n_threads = 2;
  sd.sampler.top_p = 0.9f;
  sd.sampler.min_p = 0.01f;
  qi_session *s = run_session(rm.m, &sd);
  size_t live = c.live, calls = c.n_calls;
  qi_token ids[40];
  story t;
  run_random_tokens(2, 200, ids, 40);
  RUN_OK(qi_prompt_tokens(s, ids, 40, &err), err);
  take_story(s, 20, true, &t);
  qi_decode_token both[2] = {{5, 0, true, true}, {6, 1, true, true}};
  RUN_OK(qi_decode(s, both, 2, &err), err);
  RUN_OK(qi_decode_begin(s, both, 2, &err), err);
  RUN_OK(qi_step(s, 0, &err), err);
  RUN_OK(qi_seq_truncate(s, 1, 0, &err), err);
  qi_session_reset(s);
  assert_int_equal(c.n_calls, calls);
  RUN_OK(qi_prompt(s, "the rain", &err), err);
  take_story(s, 5, false, &t);
  assert_int_equal(c.live, live);
  qi_session_close(s);
  assert_int_equal(c.n_blocks, 0);
  assert_int_equal(c.n_wrong, 0);
  run_free(&rm);
}

static bool reader_read(void *user, uint64_t offset, void *dst, size_t size) {
  const run_model *rm = (const run_model *)user;
  if (offset > rm->size || size > rm->size - offset) return false;
  memcpy(dst, rm->file + offset, size);
  return true;
}

static void test_model_memory(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  for (int reader = 0; reader < 2; reader++)
    for (int load = QI_LOAD_ALL; load <= QI_LOAD_METADATA; load++) {
      counter c;
      qi_model *m = NULL;
      qi_memory memory;
      qi_model_info info;
      qi_model_desc md = desc_of(&rm);
      if (reader) {
        memset(&md, 0, sizeof md);
        md.reader.read = reader_read;
        md.reader.size = rm.size;
        md.reader.user = &rm;
      }
      md.load = (qi_load)load;
      md.allocator = counter_hook(&c);
      RUN_OK(qi_model_memory(&md, &memory, &err), err);
      assert_int_equal(c.live, 0);
      RUN_OK(qi_model_open(&m, &md, &err), err);
      assert_int_equal(c.live, memory.heap);
      assert_int_equal(c.most, memory.heap);
      qi_model_get_info(m, &info);
      assert_int_equal(info.memory.heap, memory.heap);
      assert_int_equal(info.memory.mapped, memory.mapped);
      qi_model_close(m);
      assert_int_equal(c.n_blocks, 0);
      assert_int_equal(c.n_wrong, 0);
      RUN_OK(qi_model_validate(&md, &err), err);
      assert_int_equal(c.n_blocks, 0);
    }
  run_free(&rm);
}

// The n-th call of the allocator fails, for every n that occurs.
static void test_failing_allocator(void **state) {
  (void)state;
  run_model rm = small_model();
  for (int reader = 0; reader < 2; reader++)
    for (size_t n = 1;; n++) {
      counter c;
      qi_error err = {QI_OK, ""};
      qi_model *m = NULL;
      qi_session *s = NULL;
      qi_model_desc md = desc_of(&rm);
      qi_session_desc sd = story_desc();
      static const char *const stop[] = {"one", "another"};
      sd.stop = stop;
      sd.n_stop = 2;
      sd.n_threads = 2;
      if (reader) {
        memset(&md, 0, sizeof md);
        md.reader.read = reader_read;
        md.reader.size = rm.size;
        md.reader.user = &rm;
      }
      md.allocator = counter_hook(&c);
      c.fail_at = n;
      qi_result r = qi_model_open(&m, &md, &err);
      if (r == QI_OK) r = qi_session_open(&s, m, &sd, &err);
      if (r == QI_OK) r = qi_prompt(s, "the rain", &err);
      bool reached = c.n_calls >= n;
      run_expect(r, reached ? QI_ERR_OOM : QI_OK, &err, "with a failing allocator");
      if (reached) assert_int_equal(err.code, QI_ERR_OOM);
      if (s && reached) assert_int_equal(qi_seq_length(s, 0), 0);
      qi_session_close(s);
      qi_model_close(m);
      assert_int_equal(c.n_blocks, 0);
      assert_int_equal(c.n_wrong, 0);
      if (!reached) break;
      assert_true(n < 1000);
    }
  run_free(&rm);
}

// ---- wrong arguments ----

static void expect_argument(qi_result r, const qi_error *err, qi_result code, const char *word, const char *what) {
  run_expect(r, code, err, what);
  if (!strstr(err->msg, word)) fail_msg("%s: \"%s\" does not say %s", what, err->msg, word);
}

static void test_session_arguments(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session *s = NULL;
  uint64_t bytes;
  static const char *const stop[] = {"fine", "", NULL};
  static const struct {
    const char *word;
    qi_result code;
  } cases[] = {
      {"n_ctx", QI_ERR_ARGUMENT},        {"n_ctx", QI_ERR_LIMIT},          {"n_seqs", QI_ERR_ARGUMENT},
      {"n_seqs", QI_ERR_LIMIT},          {"n_batch", QI_ERR_ARGUMENT},     {"n_logits", QI_ERR_ARGUMENT},
      {"n_threads", QI_ERR_ARGUMENT},    {"n_threads", QI_ERR_LIMIT},      {"path", QI_ERR_ARGUMENT},
      {"kv_type", QI_ERR_ARGUMENT}, {"temperature", QI_ERR_ARGUMENT}, {"top_p", QI_ERR_ARGUMENT},
      {"stop[1]", QI_ERR_ARGUMENT},      {"stop[0]", QI_ERR_ARGUMENT},     {"n_stop", QI_ERR_LIMIT},
      {"n_predict", QI_ERR_ARGUMENT},    {"alloc", QI_ERR_ARGUMENT},       {"n_threads", QI_ERR_ARGUMENT},
      {"stop", QI_ERR_ARGUMENT},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    qi_session_desc sd = story_desc();
    counter c;
    switch (i) {
    case 0: sd.n_ctx = -1; break;
    case 1: sd.n_ctx = INT32_MAX; break;
    case 2: sd.n_seqs = -1; break;
    case 3: sd.n_seqs = 1025; break;
    case 4: sd.n_batch = -1; break;
    case 5: sd.n_logits = -1; break;
    case 6: sd.n_threads = -1; break;
    case 7: sd.n_threads = 257; break;
    case 8: sd.path = (qi_path)9; break;
    case 9: sd.kv_type = QI_KV_COUNT; break;
    case 10: sd.sampler.temperature = -1; break;
    case 11: sd.sampler.top_p = 2; break;
    case 12:
      sd.stop = stop;
      sd.n_stop = 2;
      break;
    case 13:
      sd.stop = stop + 2;
      sd.n_stop = 1;
      break;
    case 14:
      sd.stop = stop;
      sd.n_stop = 65;
      break;
    case 15: sd.n_predict = -1; break;
    case 16:
      sd.allocator = counter_hook(&c);
      sd.allocator.free = NULL;
      break;
    case 17:
      sd.parallel.parallel_for = parallel_cancel;
      sd.n_threads = 0;
      break;
    case 18:
      sd.stop = NULL;
      sd.n_stop = 1;
      break;
    }
    qi_result r = qi_session_open(&s, rm.m, &sd, &err);
    expect_argument(r, &err, cases[i].code, cases[i].word, cases[i].word);
    assert_null(s);
    if (i != 16) { // the memory is asked for with the same checks
      r = qi_session_memory(rm.m, &sd, &bytes, &err);
      expect_argument(r, &err, cases[i].code, cases[i].word, cases[i].word);
    }
  }
  qi_session_desc sd = story_desc();
  expect_argument(qi_session_open(NULL, rm.m, &sd, &err), &err, QI_ERR_ARGUMENT, "NULL", "out");
  expect_argument(qi_session_open(&s, NULL, &sd, &err), &err, QI_ERR_ARGUMENT, "NULL", "model");
  expect_argument(qi_session_open(&s, rm.m, NULL, &err), &err, QI_ERR_ARGUMENT, "NULL", "desc");
  assert_int_equal(qi_session_open(&s, rm.m, NULL, NULL), QI_ERR_ARGUMENT);
  qi_session_close(NULL);
  run_free(&rm);
}

static void test_call_arguments(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  qi_session *s = run_session(rm.m, &sd);
  qi_piece p;
  qi_decode_token t[3] = {{5, 0, false, false}, {6, 0, false, true}, {7, 0, false, true}};
  qi_token ids[2] = {5, 200};
  expect_argument(qi_decode(s, t, 3, &err), &err, QI_ERR_LIMIT, "n_logits", "too many logits");
  t[2].token = 200;
  t[1].want_logits = false;
  expect_argument(qi_decode(s, t, 3, &err), &err, QI_ERR_ARGUMENT, "token 2", "an id beyond the vocabulary");
  t[2].token = -1;
  expect_argument(qi_decode(s, t, 3, &err), &err, QI_ERR_ARGUMENT, "token 2", "a negative id");
  t[2].token = 7;
  t[1].seq = 1;
  expect_argument(qi_decode(s, t, 3, &err), &err, QI_ERR_ARGUMENT, "token 1", "a sequence that is not there");
  t[1].seq = -1;
  expect_argument(qi_decode(s, t, 3, &err), &err, QI_ERR_ARGUMENT, "token 1", "a negative sequence");
  t[1].seq = 0;
  expect_argument(qi_decode(s, NULL, 3, &err), &err, QI_ERR_ARGUMENT, "NULL", "no tokens");
  expect_argument(qi_prompt(s, NULL, &err), &err, QI_ERR_ARGUMENT, "NULL", "no text");
  expect_argument(qi_prompt_tokens(s, NULL, 3, &err), &err, QI_ERR_ARGUMENT, "NULL", "no ids");
  expect_argument(qi_prompt_tokens(s, ids, 2, &err), &err, QI_ERR_ARGUMENT, "200", "a wrong id");
  expect_argument(qi_next(s, NULL, &err), &err, QI_ERR_ARGUMENT, "NULL", "no piece");
  expect_argument(qi_decode(NULL, t, 3, &err), &err, QI_ERR_ARGUMENT, "NULL", "no session");
  assert_int_equal(qi_seq_length(s, 0), 0);
  assert_int_equal(qi_seq_length(s, 1), -1);
  assert_int_equal(qi_seq_length(s, -1), -1);
  assert_null(qi_logits(s, 0));
  assert_null(qi_logits(s, -1));
  RUN_OK(qi_decode(s, t, 3, &err), err);
  assert_non_null(qi_logits(s, 0));
  assert_ptr_equal(qi_logits(s, 0), qi_logits(s, -1));
  assert_null(qi_logits(s, 1));
  assert_null(qi_logits(s, -2));
  expect_argument(qi_seq_truncate(s, 0, 4, &err), &err, QI_ERR_ARGUMENT, "4", "longer than it is");
  expect_argument(qi_seq_truncate(s, 0, -1, &err), &err, QI_ERR_ARGUMENT, "-1", "a negative length");
  expect_argument(qi_seq_truncate(s, 1, 0, &err), &err, QI_ERR_ARGUMENT, "seq", "a sequence that is not there");
  // Work that is noted and not done.
  RUN_OK(qi_decode_begin(s, t, 3, &err), err);
  assert_null(qi_logits(s, -1));
  expect_argument(qi_decode(s, t, 1, &err), &err, QI_ERR_STATE, "unfinished", "qi_decode");
  expect_argument(qi_decode_begin(s, t, 1, &err), &err, QI_ERR_STATE, "unfinished", "qi_decode_begin");
  expect_argument(qi_prompt_tokens(s, ids, 1, &err), &err, QI_ERR_STATE, "unfinished", "qi_prompt_tokens");
  expect_argument(qi_prompt(s, "x", &err), &err, QI_ERR_STATE, "unfinished", "qi_prompt");
  expect_argument(qi_seq_truncate(s, 0, 0, &err), &err, QI_ERR_STATE, "unfinished", "qi_seq_truncate");
  RUN_OK(qi_step(s, 0, &err), err);
  assert_int_equal(qi_seq_length(s, 0), 6);
  RUN_OK(qi_step(s, 0, &err), err); // nothing to do
  RUN_OK(qi_decode(s, NULL, 0, &err), err);
  RUN_OK(qi_decode_begin(s, NULL, 0, &err), err);
  RUN_OK(qi_step(s, 0, &err), err);
  run_expect(qi_next(s, &p, &err), QI_ERR_STATE, &err, "qi_next after qi_decode");
  qi_session_close(s);
  run_free(&rm);
}

static void test_model_arguments(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  qi_model_desc md = desc_of(&rm);
  md.path = "also";
  expect_argument(qi_model_open(&m, &md, &err), &err, QI_ERR_ARGUMENT, "path", "two sources");
  memset(&md, 0, sizeof md);
  expect_argument(qi_model_open(&m, &md, &err), &err, QI_ERR_ARGUMENT, "path", "no source");
  md.path = "no/such/file.gguf";
  expect_argument(qi_model_open(&m, &md, &err), &err, QI_ERR_IO, "no/such/file.gguf", "no file");
  md = desc_of(&rm);
  md.load = (qi_load)7;
  expect_argument(qi_model_open(&m, &md, &err), &err, QI_ERR_ARGUMENT, "load", "no load level");
  expect_argument(qi_model_open(&m, NULL, &err), &err, QI_ERR_ARGUMENT, "NULL", "no desc");
  expect_argument(qi_model_open(NULL, &md, &err), &err, QI_ERR_ARGUMENT, "NULL", "no out");
  md = desc_of(&rm);
  md.data_size = 3;
  run_expect(qi_model_open(&m, &md, &err), QI_ERR_FORMAT, &err, "three bytes");
  assert_null(m);
  qi_model_close(NULL);
  qi_model_info info;
  qi_model_get_info(rm.m, &info);
  assert_string_equal(info.architecture, "llama");
  assert_string_equal(info.name, "random");
  assert_string_equal(info.chat_template, "");
  assert_int_equal(info.n_vocab, 200);
  assert_int_equal(info.n_ctx_train, 128);
  assert_int_equal(info.n_layers, 2);
  assert_int_equal(info.n_embd, 64);
  assert_int_equal(info.n_heads, 4);
  assert_int_equal(info.n_kv_heads, 2);
  assert_int_equal(info.head_dim, 16);
  assert_int_equal(info.n_ff, 96);
  run_free(&rm);
}

// ---- threads ----

typedef struct worker {
  const qi_model *m;
  story t;
  bool ok;
} worker;

// No cmocka in here: it belongs to the main thread.
static void *worker_run(void *arg) {
  worker *w = (worker *)arg;
  qi_session_desc sd = story_desc();
  qi_session *s = NULL;
  qi_piece p;
  memset(&w->t, 0, sizeof w->t);
  w->ok = qi_session_open(&s, w->m, &sd, NULL) == QI_OK && qi_prompt(s, "the rain and", NULL) == QI_OK;
  while (w->ok && w->t.n < 20) {
    w->ok = qi_next(s, &p, NULL) == QI_OK && w->t.len + p.len < sizeof w->t.text;
    if (!w->ok) break;
    w->t.ids[w->t.n++] = p.token;
    memcpy(w->t.text + w->t.len, p.text, p.len);
    w->t.len += p.len;
  }
  qi_session_close(s);
  return NULL;
}

static void test_sessions_on_threads(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_session_desc sd = story_desc();
  story want = tell(rm.m, &sd, "the rain and", 20);
  worker w[4];
  pthread_t thread[4];
  for (int i = 0; i < 4; i++) {
    w[i].m = rm.m;
    assert_int_equal(pthread_create(&thread[i], NULL, worker_run, &w[i]), 0);
  }
  for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
  for (int i = 0; i < 4; i++) {
    assert_true(w[i].ok);
    expect_same_story(&w[i].t, &want, "on another thread");
  }
  run_free(&rm);
}

// Cancels until told to stop.
typedef struct pest {
  qi_session *s;
  int stop, n;
} pest;
static void *pest_run(void *arg) {
  pest *p = (pest *)arg;
  while (!__atomic_load_n(&p->stop, __ATOMIC_ACQUIRE)) {
    qi_cancel(p->s);
    __atomic_store_n(&p->n, 1, __ATOMIC_RELEASE);
  }
  return NULL;
}

static void test_cancel_from_a_thread(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  sd.n_threads = 3;
  sd.n_batch = 8;
  pest p = {run_session(rm.m, &sd), 0, 0};
  qi_token ids[90];
  run_random_tokens(6, 200, ids, 90);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, pest_run, &p), 0);
  while (!__atomic_load_n(&p.n, __ATOMIC_ACQUIRE)) {
  }
  RUN_OK(qi_prompt_tokens(p.s, ids, 90, &err), err);
  run_expect(qi_step(p.s, 0, &err), QI_ERR_CANCELLED, &err, "qi_step beside a thread that cancels");
  assert_int_equal(qi_seq_length(p.s, 0), 0);
  __atomic_store_n(&p.stop, 1, __ATOMIC_RELEASE);
  pthread_join(thread, NULL);
  qi_session_reset(p.s);
  RUN_OK(qi_prompt_tokens(p.s, ids, 90, &err), err);
  RUN_OK(qi_step(p.s, 0, &err), err);
  assert_int_equal(qi_seq_length(p.s, 0), 90);
  qi_session_close(p.s);
  run_free(&rm);
}

// Measuring how many threads generate best tries several; the text does not change. A number that was asked for stays.
static void test_tuned_threads(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  story want = tell(rm.m, &sd, "the rain and", 60), got;
  sd.n_threads = 5;
  for (int tuned = 0; tuned < 2; tuned++) {
    qi_session *s = run_session(rm.m, &sd);
    qi_session_stats stats;
    qi_session_get_stats(s, &stats);
    assert_true(!stats.tuning && stats.n_threads == 5);
    s->pool->n_start = tuned ? 3 : 5; // a machine of five cores, whoever's this one is
    if (tuned) qi__tuner_open(&s->tuner, 3, 5);
    RUN_OK(qi_prompt(s, "the rain and", &err), err);
    take_story(s, QI__TUNER_SKIP + QI__TUNER_TURN + 1, false, &got); // the first comes of the prompt
    assert_int_equal(qi_pool_n_threads(s->pool), tuned ? 3 : 5);
    story rest;
    take_story(s, 1, false, &rest);
    qi_session_get_stats(s, &stats);
    assert_true(stats.tuning == tuned && stats.n_threads == (tuned ? 3 : 5));
    assert_int_equal(qi_pool_n_threads(s->pool), tuned ? 4 : 5);
    qi_session_close(s);
    s = run_session(rm.m, &sd);
    s->pool->n_start = tuned ? 3 : 5;
    if (tuned) qi__tuner_open(&s->tuner, 3, 5);
    RUN_OK(qi_prompt(s, "the rain and", &err), err);
    take_story(s, 60, false, &got);
    expect_same_story(&got, &want, tuned ? "threads that are measured" : "5 threads");
    qi_session_close(s);
  }
  run_free(&rm);
}

static void test_shared_pool(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = story_desc();
  story want = tell(rm.m, &sd, "the rain and", 20), got;
  qi_pool *pool = NULL;
  qi_pool_desc pd;
  memset(&pd, 0, sizeof pd);
  pd.n_threads = 3;
  RUN_OK(qi_pool_open(&pool, &pd, &err), err);
  counter c;
  uint64_t bytes;
  sd.allocator = counter_hook(&c);
  sd.pool = pool;
  sd.n_threads = 0;
  RUN_OK(qi_session_memory(rm.m, &sd, &bytes, &err), err);
  qi_session *a = run_session(rm.m, &sd);
  assert_int_equal(c.live, bytes);
  qi_session *b = run_session(rm.m, &sd);
  qi_session_stats stats;
  qi_session_get_stats(b, &stats);
  assert_int_equal(stats.n_threads, 3);
  RUN_OK(qi_prompt(a, "the rain and", &err), err);
  RUN_OK(qi_prompt(b, "some wind or", &err), err);
  qi_piece p;
  for (int i = 0; i < 3; i++) RUN_OK(qi_next(b, &p, &err), err);
  take_story(a, 20, false, &got);
  expect_same_story(&got, &want, "a shared pool");
  qi_session_close(a);
  RUN_OK(qi_next(b, &p, &err), err);
  qi_session_close(b);
  assert_int_equal(c.n_blocks, 0);
  qi_pool_close(pool);
  run_free(&rm);
}

// ---- load levels and sources ----

static void test_load_levels(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  qi_session *s = NULL;
  qi_session_desc sd = story_desc();
  qi_model_desc md = desc_of(&rm);
  qi_token ids[64], want[64];
  size_t n, n_want;
  RUN_OK(qi_tokenize(rm.m, "the rain", 8, 0, want, 64, &n_want, &err), err);
  md.load = QI_LOAD_VOCAB;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  RUN_OK(qi_tokenize(m, "the rain", 8, 0, ids, 64, &n, &err), err);
  assert_int_equal(n, n_want);
  assert_memory_equal(ids, want, n * sizeof *ids);
  run_expect(qi_session_open(&s, m, &sd, &err), QI_ERR_STATE, &err, "a session without weights");
  qi_model_close(m);
  md.load = QI_LOAD_METADATA;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  run_expect(qi_session_open(&s, m, &sd, &err), QI_ERR_STATE, &err, "a session without weights");
  run_expect(qi_tokenize(m, "the rain", 8, 0, ids, 64, &n, &err), QI_ERR_STATE, &err, "tokens without a tokenizer");
  assert_int_equal(qi_meta_count(m), qi_meta_count(rm.m));
  assert_int_equal(qi_tensor_count(m), qi_tensor_count(rm.m));
  qi_tensor t;
  RUN_OK(qi_tensor_find(m, "blk.1.ffn_down.weight", &t, &err), err);
  assert_int_equal(t.format, QI_FORMAT_Q8_0);
  assert_int_equal(t.shape[0], 96);
  assert_int_equal(t.shape[1], 64);
  assert_int_equal(t.n_bytes, 96 * 64 / 32 * 34);
  qi_model_close(m);
  run_free(&rm);
}

static void expect_equal_logits(const run_model *rm, const qi_model_desc *md, const float *want, const char *what) {
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  qi_token ids[12];
  run_random_tokens(1, 200, ids, 12);
  RUN_OK(qi_model_open(&m, md, &err), err);
  qi_session_desc sd = run_session_desc(12, QI_PATH_AUTO);
  float *got = run_logits(m, &sd, ids, 12, false);
  run_expect_bits(got, want, (size_t)12 * 200, what, "Q8_0");
  for (size_t i = 0; i < qi_tensor_count(m); i++) {
    qi_tensor a, b;
    RUN_OK(qi_tensor_get(m, i, &a, &err), err);
    RUN_OK(qi_tensor_get(rm->m, i, &b, &err), err);
    assert_string_equal(a.name, b.name);
    assert_non_null(a.data);
    assert_memory_equal(a.data, b.data, (size_t)a.n_bytes);
  }
  free(got);
  qi_model_close(m);
}

static void test_sources(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_token ids[12];
  run_random_tokens(1, 200, ids, 12);
  qi_session_desc sd = run_session_desc(12, QI_PATH_AUTO);
  float *want = run_logits(rm.m, &sd, ids, 12, false);
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.reader.read = reader_read;
  md.reader.size = rm.size;
  md.reader.user = &rm;
  expect_equal_logits(&rm, &md, want, "reader");
  uint8_t *odd = (uint8_t *)malloc(rm.size + 1); // any alignment
  assert_non_null(odd);
  memcpy(odd + 1, rm.file, rm.size);
  memset(&md, 0, sizeof md);
  md.data = odd + 1;
  md.data_size = rm.size;
  expect_equal_logits(&rm, &md, want, "data at an odd address");
  free(odd);
  char path[] = "/tmp/qi_session_XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  assert_true(gw_save(rm.file, rm.size, path));
  memset(&md, 0, sizeof md);
  md.path = path;
  expect_equal_logits(&rm, &md, want, "path");
  md.no_mmap = true;
  expect_equal_logits(&rm, &md, want, "path, no_mmap");
  unlink(path);
  free(want);
  run_free(&rm);
}

static bool progress_stop(void *user, float done) {
  (void)done;
  return --*(int *)user > 0;
}

static void test_progress_stops(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  counter c;
  int left = 2;
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.reader.read = reader_read;
  md.reader.size = rm.size;
  md.reader.user = &rm;
  md.progress.fn = progress_stop;
  md.progress.user = &left;
  md.allocator = counter_hook(&c);
  run_expect(qi_model_open(&m, &md, &err), QI_ERR_CANCELLED, &err, "qi_model_open, stopped by progress");
  assert_null(m);
  assert_int_equal(left, 0);
  assert_int_equal(c.n_blocks, 0);
  run_free(&rm);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_by_hand),
      cmocka_unit_test(test_slices_and_parts),
      cmocka_unit_test(test_stop_strings),
      cmocka_unit_test(test_second_prompt),
      cmocka_unit_test(test_end_tokens),
      cmocka_unit_test(test_special_tokens_of_prompts),
      cmocka_unit_test(test_full_context),
      cmocka_unit_test(test_cancel_prompt),
      cmocka_unit_test(test_cancel_generation),
      cmocka_unit_test(test_cancel_before),
      cmocka_unit_test(test_next_after_cancelled_prompt),
      cmocka_unit_test(test_session_memory),
      cmocka_unit_test(test_no_allocation),
      cmocka_unit_test(test_model_memory),
      cmocka_unit_test(test_failing_allocator),
      cmocka_unit_test(test_session_arguments),
      cmocka_unit_test(test_call_arguments),
      cmocka_unit_test(test_model_arguments),
      cmocka_unit_test(test_sessions_on_threads),
      cmocka_unit_test(test_cancel_from_a_thread),
      cmocka_unit_test(test_tuned_threads),
      cmocka_unit_test(test_shared_pool),
      cmocka_unit_test(test_load_levels),
      cmocka_unit_test(test_sources),
      cmocka_unit_test(test_progress_stops),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
