// sanitize: thread
// Guessing ahead: the words, logits and saved bytes of a session that does are those of one that does not; what is guessed, and how
// many; memory, wrong arguments; the distribution of what is drawn.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/run_model.h"

// Sanitizers take their time.
#ifndef FEWER
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define FEWER 4
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define FEWER 4
#endif
#endif
#endif
#ifndef FEWER
#define FEWER 1
#endif

// ---- models ----

static rm_desc model_desc(int window, qi_format format) {
  rm_desc d = rm_llama();
  d.n_vocab = 200; // too few for byte tokens, so that every piece is whole characters
  d.n_kv_heads = 2;
  d.n_ctx_train = 512;
  d.window = window;
  d.format = format;
  return d;
}

// A model, and some that guess for it: itself in a coarser format (which is often right), another one (which is not), and one with
// fewer tokens and a window.
#define N_DRAFTS 3
typedef struct models {
  run_model target, draft[N_DRAFTS];
} models;

static models build_models(int window, qi_format format) {
  models x;
  rm_desc d = model_desc(window, format);
  x.target = run_build(&d);
  d.format = QI_FORMAT_Q4_0;
  x.draft[0] = run_build(&d);
  d.seed = 99;
  d.n_layers = 1;
  x.draft[1] = run_build(&d);
  d = model_desc(20, QI_FORMAT_Q8_0);
  d.n_vocab = 190;
  x.draft[2] = run_build(&d);
  return x;
}

static void free_models(models *x) {
  run_free(&x->target);
  for (int i = 0; i < N_DRAFTS; i++) run_free(&x->draft[i]);
}

// ---- what is found in the text ----

static void expect_lookup(const char *text, size_t most, const char *want) {
  qi_token ids[256], out[QI__DRAFT_MAX];
  size_t n = strlen(text), len = strlen(want);
  for (size_t i = 0; i < n; i++) ids[i] = text[i];
  assert_int_equal(qi__lookup(ids, n, most, out), len);
  for (size_t i = 0; i < len; i++) assert_int_equal(out[i], want[i]);
}

static void test_lookup(void **state) {
  (void)state;
  expect_lookup("", 4, "");
  expect_lookup("a", 4, "");
  expect_lookup("aa", 4, "");
  expect_lookup("aaaa", 4, "");
  expect_lookup("aaaaa", 4, "aaaa"); // goes on beyond the end
  expect_lookup("abcdexbcde", 3, "xbc");
  expect_lookup("abcabcab", 7, "cabcabc");
  expect_lookup("that X, that Y, that ", 3, "Y, ");        // of equals the latest
  expect_lookup("1 that X, 2 that Y, 1 that ", 3, "X, ");  // a longer one goes first
  expect_lookup("thatX, hat", 3, "");                      // three tokens are not enough
  expect_lookup("abcdefghijklmnopqrstuvwxyzZabcdefghijklmnopqrstuvwxyz", 2, "Za"); // longer than is compared
}

// Twice as many while all come true, one more than what does otherwise, and pauses that grow.
static void test_learning(void **state) {
  (void)state;
  qi__guess g;
  memset(&g, 0, sizeof g);
  static const struct {
    size_t n_draft, len, n_taken;
  } steps[] = {{32, 4, 4}, {32, 8, 8}, {32, 16, 16}, {32, 32, 32}, {32, 32, 5}, {32, 6, 6}, {7, 7, 0}, {32, 1, 0},
               {32, 0, 0}, {32, 0, 0}, {32, 1, 1}, {32, 2, 0}, {32, 1, 0}, {32, 0, 0}};
  for (size_t i = 0; i < QI__COUNT_OF(steps); i++) {
    g.n = qi__guess_len(&g, steps[i].n_draft);
    assert_int_equal(g.n, steps[i].len);
    g.n_taken = steps[i].n_taken;
    if (g.n) qi__guess_learn(&g);
  }
  size_t n_guessed = 0;
  for (int i = 0; i < 1000; i++) {
    g.n = qi__guess_len(&g, 8);
    g.n_taken = 0;
    n_guessed += g.n;
    if (g.n) qi__guess_learn(&g);
  }
  assert_in_range(n_guessed, 30, 100); // what never comes true costs little
}

// ---- two sessions side by side ----

typedef struct pair {
  qi_session *plain, *guessing;
  qi_matcher *matcher[2]; // of a grammar
  bool sliced;
  uint64_t seed;
  qi_token ids[512];      // for prompts: they repeat themselves
} pair;

static size_t below(uint64_t *seed, size_t n) { return (size_t)(rm_next(seed) % n); }

static bool heads(pair *x, size_t of) { return below(&x->seed, of) == 0; }

// What the guessing session has done must be the same with any slices.
static qi_result next_of(pair *x, qi_session *s, qi_piece *p, qi_error *err) {
  qi_result r;
  if (!x->sliced || s == x->plain) return qi_next(s, p, err);
  do {
    r = qi_next_within(s, p, 1, err);
    if (r == QI_AGAIN && heads(x, 4)) {
      r = qi_step(s, heads(x, 2) ? 30 : 0, err);
      if (r == QI_OK) r = QI_AGAIN;
    }
  } while (r == QI_AGAIN);
  return r;
}

static void expect_both(qi_result a, qi_result b, const qi_error *err, const char *what) {
  if (a != b)
    fail_msg("%s: %s with guesses (%s), %s without", what, qi_result_name(b), b < 0 ? err->msg : "", qi_result_name(a));
}

static qi_result do_next(pair *x) {
  qi_error err = {QI_OK, ""};
  qi_piece a, b;
  if (heads(x, 40)) {
    qi_cancel(x->plain);
    qi_cancel(x->guessing);
  }
  qi_result r = qi_next(x->plain, &a, NULL);
  expect_both(r, next_of(x, x->guessing, &b, &err), &err, "next");
  assert_int_equal(qi_seq_length(x->plain, 0), qi_seq_length(x->guessing, 0));
  if (r < 0) return r;
  assert_int_equal(a.token, b.token);
  assert_int_equal(a.len, b.len);
  assert_memory_equal(a.text, b.text, a.len);
  assert_null(qi_logits(x->guessing, -1));
  return r;
}

static void do_prompt(pair *x) {
  qi_error err = {QI_OK, ""};
  size_t n = 1 + below(&x->seed, 40);
  const qi_token *ids = x->ids + below(&x->seed, 64);
  qi_result r = qi_prompt_tokens(x->plain, ids, n, NULL);
  expect_both(r, qi_prompt_tokens(x->guessing, ids, n, &err), &err, "prompt");
  if (r) return;
  r = qi_step(x->plain, 0, NULL);
  expect_both(r, qi_step(x->guessing, 0, &err), &err, "step");
}

static void do_decode(pair *x) {
  qi_error err = {QI_OK, ""};
  const qi_decode_token t[2] = {{x->ids[below(&x->seed, 64)], 1, true, true}, {x->ids[below(&x->seed, 64)], 1, true, true}};
  qi_result r = qi_decode(x->plain, t, 2, NULL);
  expect_both(r, qi_decode(x->guessing, t, 2, &err), &err, "decode");
  for (int i = 0; i < 2 && !r; i++) run_expect_bits(qi_logits(x->guessing, i), qi_logits(x->plain, i), 200, "decode", "other");
}

static void do_sequences(pair *x) {
  qi_error err = {QI_OK, ""};
  int n0 = qi_seq_length(x->plain, 0), keep = (int)below(&x->seed, (size_t)n0 + 1);
  qi_result r;
  switch (below(&x->seed, 4)) {
  case 0:
    r = qi_seq_fork(x->plain, 0, 1, keep, NULL);
    expect_both(r, qi_seq_fork(x->guessing, 0, 1, keep, &err), &err, "fork");
    break;
  case 1:
    r = qi_seq_shift(x->plain, 0, keep / 2, n0 / 3, NULL);
    expect_both(r, qi_seq_shift(x->guessing, 0, keep / 2, n0 / 3, &err), &err, "shift");
    break;
  case 2:
    r = qi_seq_truncate(x->plain, 0, keep, NULL);
    expect_both(r, qi_seq_truncate(x->guessing, 0, keep, &err), &err, "truncate");
    break;
  default:
    keep = qi_seq_length(x->plain, 1);
    r = qi_seq_fork(x->plain, 1, 0, keep, NULL);
    expect_both(r, qi_seq_fork(x->guessing, 1, 0, keep, &err), &err, "fork back");
    break;
  }
}

// Both save to the same bytes, and either goes on from the other's.
static void do_save(pair *x) {
  qi_error err = {QI_OK, ""};
  size_t n[2];
  uint8_t *p[2];
  for (int i = 0; i < 2; i++) {
    qi_session *s = i ? x->guessing : x->plain;
    RUN_OK(qi_session_save(s, NULL, 0, &n[i], &err), err);
    p[i] = (uint8_t *)malloc(n[i]);
    assert_non_null(p[i]);
    qi_result r = qi_session_save(s, p[i], n[i], &n[i], &err);
    if (r == QI_ERR_CANCELLED) r = qi_session_save(s, p[i], n[i], &n[i], &err); // a cancel that no computing call has met
    run_expect(r, QI_OK, &err, "qi_session_save");
  }
  assert_int_equal(n[0], n[1]);
  assert_memory_equal(p[0], p[1], n[0]);
  if (heads(x, 2)) {
    RUN_OK(qi_session_load(x->guessing, p[0], n[0], &err), err);
    RUN_OK(qi_session_load(x->plain, p[1], n[1], &err), err);
  }
  free(p[0]);
  free(p[1]);
}

static void do_constrain(pair *x) {
  qi_error err = {QI_OK, ""};
  bool on = heads(x, 2), jump = heads(x, 2);
  RUN_OK(qi_session_constrain(x->plain, on ? x->matcher[0] : NULL, jump, &err), err);
  RUN_OK(qi_session_constrain(x->guessing, on ? x->matcher[1] : NULL, jump, &err), err);
}

static void run_pair(pair *x, int n_steps, bool constrained) {
  qi_result r = QI_END;
  for (int i = 0; i < n_steps; i++) {
    if ((r && r != QI_ERR_CANCELLED) || heads(x, 60)) do_prompt(x);
    if (heads(x, 60)) do_decode(x);
    if (heads(x, 60)) do_sequences(x);
    if (heads(x, 60)) do_save(x);
    if (constrained && heads(x, 60)) do_constrain(x);
    if (heads(x, 200)) {
      qi_session_reset(x->plain);
      qi_session_reset(x->guessing);
      do_prompt(x);
    }
    r = do_next(x);
  }
  for (int seq = 0; seq < 2; seq++) {
    qi_error err = {QI_OK, ""};
    RUN_OK(qi_seq_truncate(x->guessing, seq, 0, &err), err);
  }
  qi_session_stats st;
  qi_session_get_stats(x->guessing, &st);
  assert_int_equal(st.kv_tokens, st.kv_tokens_unused);
}

static qi_session_desc pair_desc(uint64_t *seed) {
  static const char *const stops[] = {" the ", "an"};
  qi_session_desc sd;
  memset(&sd, 0, sizeof sd);
  sd.n_ctx = 100 + 30 * (int)below(seed, 8);
  sd.n_seqs = 2;
  sd.n_logits = 2;
  sd.n_threads = 1;
  sd.kv_type = (qi_kv_type)below(seed, QI_KV_COUNT);
  sd.n_kv_tokens = below(seed, 3) ? 0 : 3 * QI__KV_PAGE;
  sd.path = below(seed, 3) ? QI_PATH_AUTO : QI_PATH_INTEGER;
  sd.n_predict = below(seed, 3) ? 0 : 1 + (int)below(seed, 40);
  sd.ignore_end = below(seed, 2);
  sd.stop = stops;
  sd.n_stop = (int)below(seed, 3);
  size_t kind = below(seed, 5);
  sd.sampler.seed = rm_next(seed);
  if (kind) sd.sampler.temperature = 0.1f + 0.2f * (float)below(seed, 4);
  if (kind == 2) sd.sampler.top_p = 0.9f, sd.sampler.top_k = 40;
  if (kind == 3) sd.sampler.repetition_penalty = 1.1f, sd.sampler.dry_multiplier = 0.3f, sd.sampler.xtc_probability = 0.1f;
  if (kind == 4) sd.sampler.mirostat_tau = 1.5f;
  return sd;
}

static void check_pairs(int window, qi_format format, uint64_t first, uint64_t n) {
  models m = build_models(window, format);
  qi_error err = {QI_OK, ""};
  qi_grammar *g = NULL;
  qi_grammar_desc gd;
  uint64_t n_drafted = 0, n_accepted = 0;
  memset(&gd, 0, sizeof gd);
  gd.gbnf = "root ::= part{3,20}\npart ::= [a-z]+ (\" \" | \"t\" part \".\" | \"o\" part part \",\")";
  RUN_OK(qi_grammar_open(&g, m.target.m, &gd, &err), err);
  for (uint64_t seed = first; seed < first + n; seed++) {
    pair x;
    memset(&x, 0, sizeof x);
    x.seed = seed * 1000;
    qi_session_desc sd = pair_desc(&x.seed);
    x.plain = run_session(m.target.m, &sd);
    sd.lookup = seed % 4 != 1;
    sd.draft = seed % 4 ? m.draft[seed / 4 % N_DRAFTS].m : NULL;
    sd.n_draft = (int)(seed % 3 * 7);
    sd.n_threads = 1 + (int)(seed % 4);
    sd.n_batch = seed % 5 ? 0 : 3;
    x.guessing = run_session(m.target.m, &sd);
    x.sliced = seed % 3 == 1;
    for (int i = 0; i < 2; i++) RUN_OK(qi_matcher_open(&x.matcher[i], g, NULL, NULL, &err), err);
    run_random_tokens(seed, 200, x.ids, 16);
    for (size_t i = 16; i < 512; i++) x.ids[i] = heads(&x, 20) ? (qi_token)below(&x.seed, 200) : x.ids[i - 16];
    run_pair(&x, 300, seed % 2 == 0);
    qi_session_stats st;
    qi_session_get_stats(x.guessing, &st);
    n_drafted += st.n_drafted;
    n_accepted += st.n_accepted;
    qi_session_close(x.plain);
    qi_session_close(x.guessing);
    for (int i = 0; i < 2; i++) qi_matcher_close(x.matcher[i]);
  }
  if (FEWER == 1) assert_true(n_accepted > 100 && n_accepted < n_drafted); // both happened
  qi_grammar_close(g);
  free_models(&m);
}

static void test_pairs(void **state) {
  (void)state;
  check_pairs(-1, QI_FORMAT_Q8_0, 0, 24 / FEWER);
}
static void test_pairs_window(void **state) {
  (void)state;
  check_pairs(37, QI_FORMAT_Q8_0, 100, 12 / FEWER);
}
// Prompts are computed otherwise than what is generated, where the machine has a unit for that.
static void test_pairs_roles(void **state) {
  (void)state;
  check_pairs(-1, QI_FORMAT_BF16, 200, 12 / FEWER);
}

// ---- how much is guessed ----

static qi_session_desc plain_desc(void) {
  qi_session_desc sd;
  memset(&sd, 0, sizeof sd);
  sd.n_ctx = 256;
  sd.n_threads = 1;
  sd.ignore_end = true;
  return sd;
}

// Calls of the forward pass that it takes to say n tokens.
static uint64_t tell(qi_session *s, int n, qi_token *ids) {
  qi_error err = {QI_OK, ""};
  const qi_token prompt[] = {5, 7, 9, 11, 5, 7, 9, 11, 5, 7, 9, 11};
  qi_piece p;
  uint64_t n_works = 0;
  RUN_OK(qi_prompt_tokens(s, prompt, 12, &err), err);
  for (int i = 0; i < n; i++) {
    uint64_t before = s->stats.n_generated;
    RUN_OK(qi_next(s, &p, &err), err);
    ids[i] = p.token;
    n_works += s->stats.n_generated > before;
  }
  return n_works;
}

// The model itself is always right: all but one token in 33 come without computing. Another one is wrong: guessing pauses.
static void test_draft_lengths(void **state) {
  (void)state;
  models m = build_models(-1, QI_FORMAT_Q8_0);
  qi_session_desc sd = plain_desc();
  qi_session_stats st;
  qi_token ids[3][197];
  sd.path = QI_PATH_INTEGER; // AUTO may compute the first token as part of the prompt in one session, and by itself in the other
  qi_session *s = run_session(m.target.m, &sd);
  assert_int_equal(tell(s, 197, ids[0]), 196);
  qi_session_get_stats(s, &st);
  assert_int_equal(st.n_drafted, 0);
  qi_session_close(s);
  sd.n_draft = 32;
  sd.draft = m.target.m;
  s = run_session(m.target.m, &sd);
  assert_int_equal(tell(s, 197, ids[1]), 3 + 5); // 4, 8, 16 and 32 at once
  assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
  qi_session_get_stats(s, &st);
  assert_int_equal(st.n_drafted, 4 + 8 + 16 + 5 * 32);
  assert_int_equal(st.n_accepted, st.n_drafted);
  qi_session_close(s);
  sd.draft = m.draft[1].m;
  s = run_session(m.target.m, &sd);
  tell(s, 197, ids[2]);
  assert_memory_equal(ids[0], ids[2], sizeof ids[0]);
  qi_session_get_stats(s, &st);
  assert_in_range(st.n_drafted, 8, 100);
  qi_session_close(s);
  free_models(&m);
}

// No more is guessed than an answer, the context or the grammar have room for.
static void test_limits(void **state) {
  (void)state;
  models m = build_models(-1, QI_FORMAT_Q8_0);
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = plain_desc();
  qi_session_stats st;
  qi_piece p;
  qi_token ids[200];
  sd.draft = m.target.m;
  sd.n_predict = 7; // one from the prompt's logits, five guessed: the last one is never computed
  qi_session *s = run_session(m.target.m, &sd);
  tell(s, 7, ids);
  assert_int_equal(qi_next(s, &p, &err), QI_END);
  qi_session_get_stats(s, &st);
  assert_int_equal(st.n_drafted, 4);
  assert_int_equal(st.n_generated, 2 + 4);
  qi_session_close(s);
  sd.n_predict = 0;
  sd.n_ctx = 15;
  s = run_session(m.target.m, &sd);
  tell(s, 4, ids); // the fourth from the logits of the last token that fits
  assert_int_equal(qi_next(s, &p, &err), QI_ERR_CONTEXT);
  qi_session_get_stats(s, &st);
  assert_int_equal(st.n_drafted, 2);
  qi_session_close(s);
  free_models(&m);
}

// What follows a grammar is guessed as far as it allows; what it does not is not computed.
static void test_admits(void **state) {
  (void)state;
  models m = build_models(-1, QI_FORMAT_Q8_0);
  qi_error err = {QI_OK, ""};
  qi_grammar *g = NULL;
  qi_matcher *mt = NULL;
  qi_grammar_desc gd;
  memset(&gd, 0, sizeof gd);
  gd.gbnf = "root ::= [ab]+ \"c\" [ab]*";
  RUN_OK(qi_grammar_open(&g, m.target.m, &gd, &err), err);
  RUN_OK(qi_matcher_open(&mt, g, NULL, NULL, &err), err);
  const char *text = "abacabba";
  qi_token ids[9];
  for (size_t i = 0; i < 8; i++) {
    ids[i] = qi_token_find(m.target.m, text + i, 1);
    assert_true(ids[i] >= 0);
  }
  ids[8] = ids[3]; // a second c
  assert_int_equal(qi__matcher_admits(mt, ids, 9), 8);
  assert_int_equal(qi__matcher_admits(mt, ids + 3, 1), 0);
  RUN_OK(qi_matcher_accept(mt, ids[0], &err), err); // it is where it was
  assert_int_equal(qi__matcher_admits(mt, ids + 3, 6), 5);
  assert_null(mt->next);
  assert_ptr_equal(mt->automaton->matchers, mt);
  qi_matcher_close(mt);
  qi_grammar_close(g);
  free_models(&m);
}

// ---- the distribution of what is drawn ----

enum { TOP = 4, N_TEXTS = TOP * TOP * TOP, N_DRAWS = 6000 };

// Probabilities of the TOP likeliest tokens after these, at this temperature among themselves.
static void exact(qi_session *s, const qi_token *ids, size_t n, size_t n_prompt, double temperature, qi_token *top, double *p) {
  qi_error err = {QI_OK, ""};
  qi_decode_token t[8];
  qi_logprob best[TOP];
  double sum = 0;
  for (size_t i = 0; i < n; i++) t[i] = (qi_decode_token){ids[i], 0, i >= n_prompt, i + 1 == n};
  qi_session_reset(s);
  RUN_OK(qi_decode(s, t, n, &err), err);
  assert_int_equal(qi_top_logprobs(qi_logits(s, 0), 200, best, TOP), TOP);
  for (int i = 0; i < TOP; i++) {
    top[i] = best[i].token;
    sum += p[i] = exp((double)best[i].logprob / temperature);
  }
  for (int i = 0; i < TOP; i++) p[i] /= sum;
}

// Three tokens drawn many times: the first from the logits of the prompt, the second behind the first, with guesses behind it, the
// third from logits of a guess or, where that was wrong, not. Pearson's chi-square of all 64 texts against their probabilities.
static void test_distribution(void **state) {
  (void)state;
  if (FEWER > 1) skip(); // it is about numbers, not about memory
  models m = build_models(-1, QI_FORMAT_Q8_0);
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = plain_desc();
  qi_token text[6] = {5, 7, 9};
  qi_token first[TOP], second[TOP][TOP], third[TOP][TOP][TOP];
  double p1[TOP], p2[TOP][TOP], p3[TOP][TOP][TOP], chi2 = 0;
  size_t count[TOP][TOP][TOP];
  memset(count, 0, sizeof count);
  sd.sampler.temperature = 1.5f;
  sd.sampler.top_k = TOP;
  qi_session *s = run_session(m.target.m, &sd);
  exact(s, text, 3, 3, 1.5, first, p1);
  for (int a = 0; a < TOP; a++) {
    text[3] = first[a];
    exact(s, text, 4, 3, 1.5, second[a], p2[a]);
    for (int b = 0; b < TOP; b++) {
      text[4] = second[a][b];
      exact(s, text, 5, 3, 1.5, third[a][b], p3[a][b]);
    }
  }
  qi_session_close(s);
  sd.draft = m.draft[0].m;
  s = run_session(m.target.m, &sd);
  for (uint64_t seed = 0; seed < N_DRAWS; seed++) {
    int at[3] = {0, 0, 0};
    qi_session_reset(s);
    qi__sampler_reset(s->sampler, seed);
    RUN_OK(qi_prompt_tokens(s, text, 3, &err), err);
    for (int i = 0; i < 3; i++) {
      const qi_token *top = i == 0 ? first : i == 1 ? second[at[0]] : third[at[0]][at[1]];
      qi_piece p;
      RUN_OK(qi_next(s, &p, &err), err);
      while (at[i] < TOP && top[at[i]] != p.token) at[i]++;
      assert_true(at[i] < TOP);
    }
    count[at[0]][at[1]][at[2]]++;
  }
  for (int i = 0; i < N_TEXTS; i++) {
    int a = i / TOP / TOP, b = i / TOP % TOP, c = i % TOP;
    double expected = N_DRAWS * p1[a] * p2[a][b] * p3[a][b][c], off = (double)count[a][b][c] - expected;
    assert_true(expected > 5); // or the approximation would not hold
    chi2 += off * off / expected;
  }
  // 63 degrees of freedom: above 126 once in 200,000 times.
  if (!(chi2 < 126)) fail_msg("chi-square is %g", chi2);
  qi_session_stats st;
  qi_session_get_stats(s, &st);
  assert_in_range(st.n_accepted, N_DRAWS / 10, N_DRAWS - N_DRAWS / 10); // both ways are there
  qi_session_close(s);
  free_models(&m);
}

// ---- memory ----

typedef struct counter {
  size_t live, n_calls, fail_at;
} counter;

static void *counter_alloc(size_t size, size_t align, void *user) {
  counter *c = (counter *)user;
  void *p = NULL;
  if (++c->n_calls == c->fail_at) return NULL;
  if (posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, size)) return NULL;
  memset(p, 0xa5, size); // nothing may count on zeros
  c->live += size;
  return p;
}
static void counter_free(void *p, size_t size, void *user) {
  ((counter *)user)->live -= size;
  free(p);
}

// All is taken when the session or the batch is opened, as much as was said; when there is not so much, nothing is lost.
static void test_memory(void **state) {
  (void)state;
  models m = build_models(-1, QI_FORMAT_Q8_0);
  qi_error err = {QI_OK, ""};
  qi_session *s = NULL;
  qi_batch *b = NULL;
  counter c = {0, 0, 0};
  uint64_t bytes = 0, without = 0;
  qi_token ids[64];
  qi_session_desc sd = plain_desc();
  sd.allocator = (qi_allocator){counter_alloc, counter_free, &c};
  sd.n_seqs = 3;
  RUN_OK(qi_session_memory(m.target.m, &sd, &without, &err), err);
  sd.lookup = true;
  sd.draft = m.draft[0].m;
  RUN_OK(qi_session_memory(m.target.m, &sd, &bytes, &err), err);
  assert_true(bytes > without + without / 4); // keys and values of the draft model
  RUN_OK(qi_session_open(&s, m.target.m, &sd, &err), err);
  assert_int_equal(c.live, bytes);
  assert_int_equal(s->stats.heap_bytes, bytes);
  size_t n_calls = c.n_calls;
  tell(s, 64, ids);
  assert_int_equal(c.n_calls, n_calls);
  qi_session_close(s);
  assert_int_equal(c.live, 0);
  for (size_t i = 1; i <= n_calls; i++) {
    c = (counter){0, 0, i};
    run_expect(qi_session_open(&s, m.target.m, &sd, &err), QI_ERR_OOM, &err, "a failing allocator");
    assert_null(s);
    assert_int_equal(c.live, 0);
  }
  qi_batch_desc bd;
  memset(&bd, 0, sizeof bd);
  bd.session = sd;
  c = (counter){0, 0, 0};
  RUN_OK(qi_batch_memory(m.target.m, &bd, &bytes, &err), err);
  RUN_OK(qi_batch_open(&b, m.target.m, &bd, &err), err);
  assert_int_equal(c.live, bytes);
  qi_batch_close(b);
  assert_int_equal(c.live, 0);
  free_models(&m);
}

static void expect_refused(const run_model *target, const qi_session_desc *sd, qi_result want, const char *part) {
  qi_error err = {QI_OK, ""};
  qi_session *s = NULL;
  uint64_t bytes;
  run_expect(qi_session_open(&s, target->m, sd, &err), want, &err, part);
  assert_null(s);
  assert_non_null(strstr(err.msg, part));
  run_expect(qi_session_memory(target->m, sd, &bytes, &err), want, &err, part);
}

static void test_arguments(void **state) {
  (void)state;
  models m = build_models(-1, QI_FORMAT_Q8_0);
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = plain_desc();
  sd.lookup = true;
  sd.n_draft = 33;
  expect_refused(&m.target, &sd, QI_ERR_LIMIT, "n_draft");
  sd.n_draft = -1;
  expect_refused(&m.target, &sd, QI_ERR_ARGUMENT, "n_draft");
  sd.n_draft = 0;
  rm_desc d = model_desc(-1, QI_FORMAT_Q8_0); // more tokens are byte tokens first: other texts
  d.n_vocab = 400;
  run_model other = run_build(&d);
  sd.draft = other.m;
  expect_refused(&m.target, &sd, QI_ERR_ARGUMENT, "token 3 is \"<0x00>\"");
  d.n_vocab = 1500;
  run_model longer = run_build(&d);
  sd.draft = longer.m;
  expect_refused(&other, &sd, QI_ERR_ARGUMENT, "1500 tokens, the model has 400");
  qi_model_desc md;
  qi_model *bare = NULL;
  memset(&md, 0, sizeof md);
  md.data = m.target.file;
  md.data_size = m.target.size;
  md.load = QI_LOAD_VOCAB;
  RUN_OK(qi_model_open(&bare, &md, &err), err);
  sd.draft = bare;
  expect_refused(&m.target, &sd, QI_ERR_STATE, "draft was opened without weights");
  qi_model_close(bare);
  run_free(&other);
  run_free(&longer);
  free_models(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_lookup), cmocka_unit_test(test_learning), cmocka_unit_test(test_pairs),
    cmocka_unit_test(test_pairs_window), cmocka_unit_test(test_pairs_roles), cmocka_unit_test(test_draft_lengths),
    cmocka_unit_test(test_limits), cmocka_unit_test(test_admits), cmocka_unit_test(test_distribution),
    cmocka_unit_test(test_memory), cmocka_unit_test(test_arguments),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
