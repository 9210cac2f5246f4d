// Samplers against naive references in double, by hand, and over many draws.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

static qi_sampler *open_sampler(int n_vocab, const qi_sampler_desc *d) {
  qi_sampler *sp = NULL;
  qi_error err = {QI_OK, ""};
  qi_result r = qi__sampler_open(&sp, n_vocab, d, NULL, &err);
  if (r) print_error("%s\n", err.msg);
  assert_int_equal(r, QI_OK);
  return sp;
}

static qi_token sample_once(const qi_sampler_desc *d, const float *logits, int n) {
  qi_sampler *sp = open_sampler(n, d);
  qi_token t = qi__sampler_sample(sp, logits, NULL);
  qi__sampler_close(sp);
  return t;
}

// ---- random numbers ----

static void test_rng(void **state) {
  (void)state;
  uint64_t rng[4];
  qi__rng_seed(rng, 0); // splitmix64 from 0: published values
  assert_true(rng[0] == 0xe220a8397b1dcdafu && rng[1] == 0x6e789e6aa1b965f4u);
  rng[0] = 1, rng[1] = 2, rng[2] = 3, rng[3] = 4; // xoshiro256**: values of the authors' C code
  static const uint64_t expected[] = {11520u, 0u, 1509978240u, 1215971899390074240u};
  for (size_t i = 0; i < QI__COUNT_OF(expected); i++) assert_true(qi__rng_next(rng) == expected[i]);
  for (int i = 0; i < 1000; i++) {
    double u = qi__rng_double(rng);
    assert_true(u >= 0 && u < 1);
  }
}

// ---- greedy and odd logits ----

static void test_greedy(void **state) {
  (void)state;
  const float ties[] = {1, 3, 2, 3, 3}, nan[] = {NAN, -5, NAN, -4}, inf[] = {1, INFINITY, 2, INFINITY};
  const float none[] = {-INFINITY, NAN, -INFINITY};
  qi_sampler_desc plain = {.top_k = 3}, forbid = {.n_logit_bias = 1}, warm = {.temperature = 1};
  qi_logit_bias b[3] = {{0, -INFINITY}, {1, -INFINITY}, {2, -INFINITY}};
  forbid.logit_bias = b;
  assert_int_equal(sample_once(&plain, ties, 5), 1);
  assert_int_equal(sample_once(NULL, ties, 5), 1);
  assert_int_equal(sample_once(&forbid, ties, 5), 1);
  assert_int_equal(sample_once(&plain, nan, 4), 3);
  assert_int_equal(sample_once(&forbid, nan, 4), 3);
  assert_int_equal(sample_once(&plain, inf, 4), 1);
  assert_int_equal(sample_once(&plain, none, 3), 0);
  assert_int_equal(sample_once(&warm, none, 3), 0);
  assert_int_equal(sample_once(&forbid, none, 3), 1); // the lowest that is not forbidden
  forbid.temperature = 1;
  forbid.n_logit_bias = 2;
  assert_int_equal(sample_once(&forbid, none, 3), 2);
  forbid.n_logit_bias = 3;
  assert_int_equal(sample_once(&forbid, none, 3), 0); // all forbidden
  int n_first = 0;
  for (uint64_t seed = 0; seed < 50; seed++) {
    warm.seed = seed;
    qi_token t = sample_once(&warm, inf, 4);
    assert_true(t == 1 || t == 3);
    n_first += t == 1;
    t = sample_once(&warm, nan, 4);
    assert_true(t == 1 || t == 3);
  }
  assert_true(n_first > 10 && n_first < 40); // both infinite ones count the same
}

static void test_bias(void **state) {
  (void)state;
  const float logits[] = {5, 4, 3, 2};
  qi_logit_bias b[] = {{2, 1}, {0, -INFINITY}, {2, 1.5f}, {0, 100}}; // two of one token add up; forbidden stays forbidden
  qi_sampler_desc d = {.logit_bias = b, .n_logit_bias = 4};
  qi_sampler *sp = open_sampler(4, &d);
  b[0].bias = -50; // was copied
  assert_int_equal(qi__sampler_sample(sp, logits, NULL), 2);
  qi__sampler_close(sp);
  d.temperature = 1.5f;
  sp = open_sampler(4, &d);
  for (int i = 0; i < 1000; i++) assert_int_not_equal(qi__sampler_sample(sp, logits, NULL), 0);
  qi__sampler_close(sp);
}

static void test_extreme_numbers(void **state) {
  (void)state;
  const float logits[] = {FLT_MAX, -FLT_MAX, FLT_MAX, 0, -INFINITY};
  qi_logit_bias b = {1, -FLT_MAX};
  const float temperatures[] = {1e-45f, 1e-20f, 1, 1e20f, FLT_MAX};
  for (size_t i = 0; i < QI__COUNT_OF(temperatures); i++)
    for (uint64_t seed = 0; seed < 20; seed++) {
      qi_sampler_desc d = {.temperature = temperatures[i], .top_p = 1e-45f * (float)(seed & 1), .min_p = 0.01f, .seed = seed,
                           .repetition_penalty = 1e-30f, .frequency_penalty = -FLT_MAX, .logit_bias = &b, .n_logit_bias = 1};
      qi_sampler *sp = open_sampler(5, &d);
      for (int k = 0; k < 5; k++) qi__sampler_accept(sp, k);
      qi_token t = qi__sampler_sample(sp, logits, NULL);
      assert_true(t >= 0 && t < 5 && t != 4);
      qi__sampler_close(sp);
    }
}

// ---- penalties ----

static void test_penalties_by_hand(void **state) {
  (void)state;
  const float logits[] = {2, -1, 4, 0.5f};
  qi_sampler_desc d = {.repetition_penalty = 2, .frequency_penalty = 0.25f, .presence_penalty = 0.5f, .penalty_last_n = 4};
  qi_sampler *sp = open_sampler(4, &d);
  const qi_token history[] = {3, 3, 0, 1, 0, 0}; // the last four: 0 1 0 0
  for (size_t i = 0; i < QI__COUNT_OF(history); i++) qi__sampler_accept(sp, history[i]);
  qi__sampler_accept(sp, -1);
  qi__sampler_accept(sp, 4);
  for (int twice = 0; twice < 2; twice++) {
    assert_int_equal(qi__sampler_sample(sp, logits, NULL), 2);
    assert_true(sp->candidates[0].logit == 2 / 2.0f - 3 * 0.25f - 0.5f);
    assert_true(sp->candidates[1].logit == -1 * 2.0f - 0.25f - 0.5f);
    assert_true(sp->candidates[2].logit == 4);
    assert_true(sp->candidates[3].logit == 0.5f);
  }
  qi__sampler_reset(sp, 0);
  qi__sampler_sample(sp, logits, NULL);
  for (int i = 0; i < 4; i++) assert_true(sp->candidates[i].logit == logits[i]);
  qi__sampler_close(sp);
}

static void test_penalty_window(void **state) {
  (void)state;
  enum { VOCAB = 11 };
  float logits[VOCAB] = {0};
  for (int last_n = 1; last_n <= 7; last_n++) {
    qi_sampler_desc d = {.frequency_penalty = 1, .penalty_last_n = last_n};
    qi_sampler *sp = open_sampler(VOCAB, &d);
    qi_token all[200];
    uint32_t x = 1;
    for (int n = 0; n < 200; n++) {
      x = x * 1664525u + 1013904223u;
      all[n] = (qi_token)((x >> 16) % VOCAB);
      qi__sampler_accept(sp, all[n]);
      float expected[VOCAB] = {0};
      for (int i = n - last_n + 1 > 0 ? n - last_n + 1 : 0; i <= n; i++) expected[all[i]] -= 1;
      assert_int_equal(qi__sampler_sample(sp, logits, NULL), qi__argmax(expected, VOCAB, NULL));
      for (int i = 0; i < VOCAB; i++) assert_true(sp->candidates[i].logit == expected[i]);
    }
    qi__sampler_close(sp);
  }
  qi_sampler_desc def = {.presence_penalty = 1};
  qi_sampler *sp = open_sampler(VOCAB, &def);
  qi__sampler_accept(sp, 0);
  for (int i = 0; i < 63; i++) qi__sampler_accept(sp, 1);
  assert_int_equal(qi__sampler_sample(sp, logits, NULL), 2);
  qi__sampler_accept(sp, 1); // the 65th: 0 is forgotten
  assert_int_equal(qi__sampler_sample(sp, logits, NULL), 0);
  qi__sampler_close(sp);
}

// ---- the whole chain against a naive one ----

typedef struct naive {
  int id;
  double logit, p;
} naive;

static int naive_order(const void *a, const void *b) {
  const naive *x = (const naive *)a, *y = (const naive *)b;
  if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
  return x->id - y->id;
}

static void naive_softmax(naive *c, int n, double temperature) {
  double sum = 0, max = -INFINITY;
  for (int i = 0; i < n; i++) max = c[i].logit > max ? c[i].logit : max;
  for (int i = 0; i < n; i++) sum += c[i].p = exp((c[i].logit - max) / temperature);
  for (int i = 0; i < n; i++) c[i].p /= sum;
}

// Candidates that are left at the end, at the front of c, with their probabilities; -1 when rounding decides.
static int naive_keep(const qi_sampler_desc *d, const float *logits, int n_vocab, naive *c) {
  const double close = 1e-5;
  int n = n_vocab;
  for (int i = 0; i < n; i++) c[i] = (naive){i, (double)logits[i], 0};
  qsort(c, (size_t)n, sizeof *c, naive_order);
  if (d->top_k > 0 && d->top_k < n) n = d->top_k;
  if (d->top_p > 0 && d->top_p < 1) {
    double have = 0;
    int kept = 0;
    naive_softmax(c, n, 1);
    while (kept < n && have < (double)d->top_p) {
      have += c[kept++].p;
      if (fabs(have - (double)d->top_p) < close) return -1;
    }
    n = kept;
  }
  if (d->min_p > 0) {
    int kept = 0;
    naive_softmax(c, n, 1);
    for (int i = 0; i < n; i++) {
      if (c[i].p < c[0].p && fabs(c[i].p / c[0].p - (double)d->min_p) < close) return -1;
      kept += c[i].p >= (double)d->min_p * c[0].p;
    }
    n = kept;
  }
  naive_softmax(c, n, (double)d->temperature);
  return n;
}

// The sampler keeps the same candidates in an order of its own, with the same weights, and draws by walking over them.
static bool check_against_naive(const qi_sampler_desc *d, const float *logits, int n_vocab) {
  static naive c[3000];
  static double p[3000]; // of each token; 0 = dropped
  int n = naive_keep(d, logits, n_vocab, c);
  if (n < 0) return false;
  memset(p, 0, sizeof p);
  for (int i = 0; i < n; i++) p[c[i].id] = c[i].p;
  qi_sampler *sp = open_sampler(n_vocab, d);
  uint64_t copy[4];
  memcpy(copy, sp->rng, sizeof copy);
  double u = qi__rng_double(copy), have = 0;
  qi_token got = qi__sampler_sample(sp, logits, NULL), expected = -1;
  for (int i = 0; i < n; i++) {
    const qi__candidate *kept = &sp->candidates[i];
    assert_true(p[kept->id] > 0);
    have += p[kept->id];
    p[kept->id] = -1; // each once
    if (expected < 0 && have > u) expected = fabs(have - u) < 1e-5 ? got : kept->id;
    if (expected < 0 && u - have < 1e-5) expected = got;
  }
  qi__sampler_close(sp);
  assert_int_equal(got, expected);
  return true;
}

static void test_chain_against_naive(void **state) {
  (void)state;
  static const int sizes[] = {1, 2, 5, 33, 257, 3000}, top_k[] = {0, 1, 2, 40, 5000};
  static const float top_p[] = {0, 0.05f, 0.5f, 0.95f, 1}, min_p[] = {0, 0.05f, 1}, temperatures[] = {0.3f, 1, 2};
  static float logits[3000];
  uint64_t rng[4], n_checked = 0, n_all = 0;
  qi__rng_seed(rng, 42);
  for (uint64_t i = 0; i < 5 * 5 * 3 * 3 * 6 * 4; i++) {
    uint64_t k = i / 4;
    qi_sampler_desc d = {.seed = i};
    d.top_k = top_k[k % 5];
    d.top_p = top_p[k / 5 % 5];
    d.min_p = min_p[k / 25 % 3];
    d.temperature = temperatures[k / 75 % 3];
    int n = sizes[k / 225];
    double width = i & 1 ? 3 : 12; // flat and steep
    for (int j = 0; j < n; j++) logits[j] = (float)(width * (qi__rng_double(rng) + qi__rng_double(rng)));
    if (i & 2) // many equals
      for (int j = 0; j < n; j++) logits[j] = (float)(int)logits[j];
    n_all++;
    n_checked += check_against_naive(&d, logits, n);
  }
  assert_true(n_checked > n_all * 9 / 10);
}

static int order_floats_down(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return x < y ? 1 : x > y ? -1 : 0;
}

static void test_select_top(void **state) {
  (void)state;
  enum { N = 500 };
  static qi__candidate c[N];
  static float sorted[N];
  uint64_t rng[4];
  qi__rng_seed(rng, 7);
  for (size_t n = 1; n <= N; n += n < 20 ? 1 : 97)
    for (size_t k = 1; k <= n; k += k < 10 ? 1 : 61)
      for (int kind = 0; kind < 4; kind++) {
        for (size_t i = 0; i < n; i++) { // random, ascending, descending, few values
          float v = kind == 0 ? (float)qi__rng_double(rng) : kind == 1 ? (float)i : kind == 2 ? -(float)i : (float)(i * 7 % 3);
          c[i] = (qi__candidate){v, 0, (qi_token)i};
          sorted[i] = v;
        }
        qi__select_top(c, n, k);
        qsort(sorted, n, sizeof *sorted, order_floats_down);
        for (size_t i = 0; i < k; i++) {
          assert_true(c[i].logit == sorted[i]);
          if (i) assert_true(qi__candidate_before(&c[i - 1], &c[i]));
        }
      }
}

static void test_exp_block(void **state) {
  (void)state;
  float x[QI__EXP_BLOCK], y[QI__EXP_BLOCK];
  for (int i = 0; i < QI__EXP_BLOCK; i++) x[i] = y[i] = -0.37f * (float)(i * i) / 4;
  x[9] = y[9] = -INFINITY;
  qi__exp_block_ref(x);
  qi__exp_block_choose()(y);
  assert_memory_equal(x, y, sizeof x);
  assert_true(x[0] == 1 && x[9] == 0);
}

// ---- draws ----

static void check_frequencies(const qi_sampler_desc *d, const float *logits, const double *p, int n, double bound) {
  enum { DRAWS = 50000 };
  int seen[16] = {0};
  double chi = 0;
  qi_sampler *sp = open_sampler(n, d);
  for (int i = 0; i < DRAWS; i++) seen[qi__sampler_sample(sp, logits, NULL)]++;
  qi__sampler_close(sp);
  for (int i = 0; i < n; i++) {
    if (p[i] == 0) {
      assert_int_equal(seen[i], 0);
      continue;
    }
    double expected = p[i] * DRAWS;
    chi += (seen[i] - expected) * (seen[i] - expected) / expected;
  }
  if (chi > bound) print_error("chi square %g\n", chi);
  assert_true(chi < bound);
}

// The bounds are the 99.99 % points of chi square; the seed is fixed, so this never changes.
static void test_draw_frequencies(void **state) {
  (void)state;
  const float logits[] = {0, 1, 2, 3, -1, 0.5f, 2.5f, -INFINITY};
  const double t[] = {1, 0.5, 3};
  for (int k = 0; k < 3; k++) {
    double p[8], sum = 0;
    for (int i = 0; i < 8; i++) sum += p[i] = exp((double)logits[i] / t[k]);
    for (int i = 0; i < 8; i++) p[i] /= sum;
    qi_sampler_desc d = {.temperature = (float)t[k], .seed = 1234};
    check_frequencies(&d, logits, p, 8, 27.9); // 6 degrees of freedom
  }
  // top_k 3 keeps 3, 6, 2; each in proportion to exp(logit)
  double e3 = exp(3), e6 = exp(2.5), e2 = exp(2), sum = e3 + e6 + e2;
  double p3[8] = {0, 0, e2 / sum, e3 / sum, 0, 0, e6 / sum, 0};
  qi_sampler_desc top3 = {.temperature = 1, .top_k = 3};
  check_frequencies(&top3, logits, p3, 8, 18.4);
  // Equals: top_k keeps the lowest ids.
  const float flat[] = {1, 1, 1, 1, 1, 1, 1, 1};
  double first_two[8] = {0.5, 0.5};
  qi_sampler_desc top2 = {.temperature = 1, .top_k = 2}, half = {.temperature = 1, .top_p = 0.25f};
  check_frequencies(&top2, flat, first_two, 8, 15.1);
  check_frequencies(&half, flat, first_two, 8, 15.1);
}

static void test_deterministic(void **state) {
  (void)state;
  enum { VOCAB = 300, N = 200 };
  static float logits[VOCAB], copy[VOCAB];
  qi_token first[N];
  for (int i = 0; i < VOCAB; i++) copy[i] = logits[i] = (float)(i * 37 % 101) / 40;
  qi_sampler_desc d = {.temperature = 0.9f, .top_k = 50, .top_p = 0.9f, .presence_penalty = 0.5f, .seed = 99};
  qi_sampler *sp = open_sampler(VOCAB, &d);
  for (int round = 0; round < 3; round++) {
    int differ = 0;
    for (int i = 0; i < N; i++) {
      qi_token t = qi__sampler_sample(sp, logits, NULL);
      qi__sampler_accept(sp, t);
      if (round == 0) first[i] = t;
      differ += t != first[i];
    }
    if (round == 1) assert_int_equal(differ, 0);
    if (round == 2) assert_true(differ > N / 2);
    qi__sampler_reset(sp, round == 0 ? 99 : 100);
  }
  assert_memory_equal(logits, copy, sizeof copy);
  qi__sampler_close(sp);
}

// The same words for ever, on every machine.
static void test_golden_tokens(void **state) {
  (void)state;
  static const qi_token expected[] = {2, 44, 11, 13, 46, 22, 33, 22, 35, 4, 55, 57, 55, 24, 46, 13, 4, 37, 48, 22};
  float logits[64];
  for (int i = 0; i < 64; i++) logits[i] = (float)(i * 29 % 64) / 8;
  qi_sampler_desc d = {.temperature = 0.75f, .top_p = 0.9f, .min_p = 0.01f, .repetition_penalty = 1.25f, .seed = 2024};
  qi_sampler *sp = open_sampler(64, &d);
  for (size_t i = 0; i < QI__COUNT_OF(expected); i++) {
    qi_token t = qi__sampler_sample(sp, logits, NULL);
    assert_int_equal(t, expected[i]);
    qi__sampler_accept(sp, t);
  }
  qi__sampler_close(sp);
}

// ---- errors and memory ----

static void refuse(const qi_sampler_desc *d, const char *field) {
  qi_sampler *sp = (qi_sampler *)(uintptr_t)d;
  qi_error err = {QI_OK, ""};
  assert_int_equal(qi__sampler_open(&sp, 100, d, NULL, &err), QI_ERR_ARGUMENT);
  assert_null(sp);
  assert_int_equal(err.code, QI_ERR_ARGUMENT);
  if (!strstr(err.msg, field)) print_error("%s\n", err.msg);
  assert_non_null(strstr(err.msg, field));
}

static void test_errors(void **state) {
  (void)state;
  const float bad[] = {-0.5f, NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < QI__COUNT_OF(bad); i++) {
    qi_sampler_desc d[] = {{.temperature = bad[i]}, {.top_p = bad[i]}, {.min_p = bad[i]}, {.repetition_penalty = bad[i]}};
    refuse(&d[0], "temperature");
    refuse(&d[1], "top_p");
    refuse(&d[2], "min_p");
    refuse(&d[3], "repetition_penalty");
    if (i == 0) continue;
    qi_sampler_desc f = {.frequency_penalty = bad[i]}, p = {.presence_penalty = bad[i]};
    refuse(&f, "frequency_penalty");
    refuse(&p, "presence_penalty");
  }
  qi_logit_bias b[] = {{1, 1}, {100, 1}, {-1, 1}, {2, NAN}, {2, INFINITY}};
  qi_sampler_desc d[] = {{.top_p = 1.5f},         {.min_p = 1.01f},         {.top_k = -1},
                         {.penalty_last_n = -1},  {.penalty_last_n = 65537}, {.n_logit_bias = -1},
                         {.n_logit_bias = 1}};
  static const char *const fields[] = {"top_p",          "min_p",        "top_k",             "penalty_last_n",
                                       "penalty_last_n", "n_logit_bias", "logit_bias is NULL"};
  for (size_t i = 0; i < QI__COUNT_OF(d); i++) refuse(&d[i], fields[i]);
  for (int i = 1; i < 5; i++) {
    qi_logit_bias two[2] = {b[0], b[i]};
    qi_sampler_desc e = {.logit_bias = two, .n_logit_bias = 2};
    refuse(&e, "logit_bias[1]");
  }
  qi_sampler *sp = NULL;
  assert_int_equal(qi__sampler_open(&sp, 0, NULL, NULL, NULL), QI_ERR_ARGUMENT);
  assert_int_equal(qi__sampler_open(&sp, -5, NULL, NULL, NULL), QI_ERR_ARGUMENT);
  assert_int_equal(qi__sampler_open(NULL, 5, NULL, NULL, NULL), QI_ERR_ARGUMENT);
  qi__sampler_close(NULL);
}

typedef struct counter {
  int calls;
  size_t bytes;
  bool fail;
} counter;

static void *counting_alloc(size_t size, size_t align, void *user) {
  counter *c = (counter *)user;
  if (c->fail) return NULL;
  c->calls++;
  c->bytes += size;
  return qi__malloc(size, align, NULL);
}

static void counting_free(void *ptr, size_t size, void *user) {
  ((counter *)user)->bytes -= size;
  qi__malloc_free(ptr, size, NULL);
}

static void test_memory(void **state) {
  (void)state;
  counter c = {0, 0, false};
  qi_allocator a = {counting_alloc, counting_free, &c}, half = {counting_alloc, NULL, &c};
  qi_sampler_desc d = {.temperature = 1, .presence_penalty = 1, .penalty_last_n = 1000};
  qi_sampler *sp = NULL;
  float logits[50] = {0};
  assert_int_equal(qi__sampler_open(&sp, 50, &d, &a, NULL), QI_OK);
  assert_int_equal(c.calls, 1);
  for (int i = 0; i < 3000; i++) qi__sampler_accept(sp, qi__sampler_sample(sp, logits, NULL));
  assert_int_equal(c.calls, 1);
  qi__sampler_close(sp);
  assert_int_equal(c.bytes, 0);
  c.fail = true;
  assert_int_equal(qi__sampler_open(&sp, 50, &d, &a, NULL), QI_ERR_OOM);
  assert_null(sp);
  assert_int_equal(qi__sampler_open(&sp, 50, &d, &half, NULL), QI_ERR_ARGUMENT);
}

// ---- candidates that a device has found ----

enum { TOP_VOCAB = 300 };

static int by_rank(const void *a, const void *b) {
  const qi_op_candidate *x = (const qi_op_candidate *)a, *y = (const qi_op_candidate *)b;
  if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
  return x->token - y->token;
}

// Logits with ties, and the special ones that bits of `kind` ask for: NaN, infinity, only three possible.
static void take_logits(uint64_t rng[4], int kind, float *logits, qi_op_candidate *top) {
  for (int i = 0; i < TOP_VOCAB; i++) {
    logits[i] = (float)(qi__rng_next(rng) % 64) / 8 - 4;
    if (kind & 1 && qi__rng_next(rng) % 4 == 0) logits[i] = NAN;
    if (kind & 4 && i % 100) logits[i] = -INFINITY;
  }
  if (kind & 2) logits[250] = INFINITY, logits[20] = FLT_MAX; // equals for steps, not for a plain argmax
  for (int i = 0; i < TOP_VOCAB; i++) top[i] = (qi_op_candidate){isnan(logits[i]) ? -INFINITY : logits[i], i};
  qsort(top, TOP_VOCAB, sizeof *top, by_rank);
}

// The same tokens from the first candidates as from all logits, with the same random numbers; how often they were enough.
static int expect_same(const qi_sampler_desc *d, int kind) {
  float logits[TOP_VOCAB];
  qi_op_candidate top[TOP_VOCAB];
  uint64_t rng[4];
  int n_enough = 0;
  qi_sampler *whole = open_sampler(TOP_VOCAB, d), *part = open_sampler(TOP_VOCAB, d);
  qi__rng_seed(rng, 5);
  for (int i = 0; i < 100; i++) {
    take_logits(rng, kind, logits, top);
    qi_token want = qi__sampler_sample(whole, logits, NULL), got = -1;
    bool enough = qi__sampler_sample_top(part, top, qi__sampler_needs(part), &got);
    if (!enough) got = qi__sampler_sample(part, logits, NULL);
    n_enough += enough;
    assert_int_equal(got, want);
    qi__sampler_accept(whole, want);
    qi__sampler_accept(part, got);
  }
  qi__sampler_close(whole);
  qi__sampler_close(part);
  return n_enough;
}

static void test_candidates(void **state) {
  (void)state;
  const qi_sampler_step late[] = {QI_STEP_TOP_P, QI_STEP_TOP_K, QI_STEP_TEMPERATURE};
  const qi_logit_bias bias = {5, 1};
  const struct {
    qi_sampler_desc d;
    size_t needs;
  } cases[] = {
    {{.temperature = 0}, 1},
    {{.temperature = 0, .top_k = 3}, 1},
    {{.temperature = 0.8f, .top_k = 40}, 41},
    {{.temperature = 0.8f, .top_k = 1}, 2},
    {{.temperature = 2, .top_k = 20, .top_p = 0.7f, .min_p = 0.02f}, 21},
    {{.temperature = 1, .top_k = 127, .typical_p = 0.8f, .xtc_probability = 0.5f}, 128},
    {{.temperature = 1, .top_k = 50, .mirostat_tau = 3, .temperature_range = 0.5f}, 51},
    {{.temperature = 1, .top_k = 128}, 0},
    {{.temperature = 1, .top_k = 1000}, 0},
    {{.temperature = 1}, 0},
    {{.temperature = 1, .top_k = 40, .top_n_sigma = 2}, 0},
    {{.temperature = 1, .top_k = 40, .repetition_penalty = 1.2f}, 0},
    {{.temperature = 1, .top_k = 40, .dry_multiplier = 1}, 0},
    {{.temperature = 1, .top_k = 40, .logit_bias = &bias, .n_logit_bias = 1}, 0},
    {{.temperature = 0, .logit_bias = &bias, .n_logit_bias = 1}, 0},
    {{.temperature = 1, .top_k = 40, .top_p = 0.9f, .chain = late, .n_chain = 3}, 0},
  };
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    qi_sampler *sp = open_sampler(TOP_VOCAB, &cases[i].d);
    assert_int_equal(qi__sampler_needs(sp), cases[i].needs);
    qi__sampler_close(sp);
    bool few = cases[i].needs < 4; // three are possible where kind has 4
    for (int kind = 0; kind < 8; kind++) {
      int n_enough = expect_same(&cases[i].d, kind);
      if (kind != 5) assert_int_equal(n_enough, !cases[i].needs || kind & 2 || (kind & 4 && !few) ? 0 : 100);
    }
  }
  qi_sampler_desc narrow = {.temperature = 1, .top_k = 10};
  qi_sampler *sp = open_sampler(10, &narrow);
  assert_int_equal(qi__sampler_needs(sp), 0); // there is none behind top_k
  qi__sampler_close(sp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_rng),
    cmocka_unit_test(test_greedy),
    cmocka_unit_test(test_bias),
    cmocka_unit_test(test_extreme_numbers),
    cmocka_unit_test(test_penalties_by_hand),
    cmocka_unit_test(test_penalty_window),
    cmocka_unit_test(test_chain_against_naive),
    cmocka_unit_test(test_select_top),
    cmocka_unit_test(test_exp_block),
    cmocka_unit_test(test_draw_frequencies),
    cmocka_unit_test(test_deterministic),
    cmocka_unit_test(test_golden_tokens),
    cmocka_unit_test(test_errors),
    cmocka_unit_test(test_candidates),
    cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
