// The steps of samplers in any order against naive ones in double, DRY and Mirostat over time, log-probabilities.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

enum { MAX_VOCAB = 600, MAX_HISTORY = 300 };
#define CLOSE 1e-5

static qi_sampler *open_sampler(int n_vocab, const qi_sampler_desc *d) {
  qi_sampler *sp = NULL;
  qi_error err = {QI_OK, ""};
  qi_result r = qi_sampler_open(&sp, n_vocab, d, NULL, &err);
  if (r) print_error("%s\n", err.msg);
  assert_int_equal(r, QI_OK);
  return sp;
}

// ---- naive steps ----

typedef struct item {
  int id;
  double logit, p, key;
} item;

typedef struct naive {
  item c[MAX_VOCAB];
  int n;
  double temperature, mu;
  bool close; // rounding may decide otherwise
  const qi_token *history;
  int n_history;
} naive;

static int by_logit(const void *a, const void *b) {
  const item *x = (const item *)a, *y = (const item *)b;
  if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
  return x->id - y->id;
}
static int by_key(const void *a, const void *b) {
  const item *x = (const item *)a, *y = (const item *)b;
  if (x->key != y->key) return x->key < y->key ? -1 : 1;
  return x->id - y->id;
}

// Sorts, drops what is impossible, sets p. False when nothing is left.
static bool softmax(naive *s) {
  double sum = 0;
  qsort(s->c, (size_t)s->n, sizeof *s->c, by_logit);
  while (s->n && s->c[s->n - 1].logit == -INFINITY) s->n--;
  for (int i = 0; i < s->n; i++) sum += s->c[i].p = exp((s->c[i].logit - s->c[0].logit) / s->temperature);
  for (int i = 0; i < s->n; i++) s->c[i].p /= sum;
  return s->n > 0;
}

static double entropy(const naive *s) {
  double h = 0;
  for (int i = 0; i < s->n; i++)
    if (s->c[i].p > 0) h -= s->c[i].p * log(s->c[i].p);
  return h;
}

static void filter(naive *s, double least) {
  int m = 0;
  for (int i = 0; i < s->n; i++) {
    if (fabs(s->c[i].p - least) < CLOSE * least) s->close = true;
    if (s->c[i].p >= least) s->c[m++] = s->c[i];
  }
  s->n = m;
}

static void naive_penalties(naive *s, const qi_sampler_desc *d) {
  int window = d->penalty_last_n ? d->penalty_last_n : 64;
  for (int i = 0; i < s->n; i++) {
    int count = 0;
    for (int k = s->n_history - window > 0 ? s->n_history - window : 0; k < s->n_history; k++) count += s->history[k] == s->c[i].id;
    if (!count) continue;
    double l = s->c[i].logit, r = d->repetition_penalty == 0 ? 1 : (double)d->repetition_penalty;
    l = l > 0 ? l / r : l * r;
    s->c[i].logit = l - count * (double)d->frequency_penalty - (double)d->presence_penalty;
  }
}

static bool is_breaker(const qi_sampler_desc *d, qi_token t) {
  for (int i = 0; i < d->n_dry_breakers; i++)
    if (d->dry_breakers[i] == t) return true;
  return false;
}

static void naive_dry(naive *s, const qi_sampler_desc *d) {
  int window = d->dry_last_n ? d->dry_last_n : 1024, allowed = d->dry_allowed_length ? d->dry_allowed_length : 2;
  int begin = s->n_history - window > 0 ? s->n_history - window : 0, end = s->n_history;
  const qi_token *h = s->history;
  for (int i = 0; i < s->n; i++) {
    int longest = 0;
    for (int at = begin; at < end; at++) { // a token before: how many before it are those at the end?
      int len = 0;
      if (h[at] != s->c[i].id) continue;
      while (at - 1 - len >= begin && h[at - 1 - len] == h[end - 1 - len] && !is_breaker(d, h[end - 1 - len])) len++;
      if (len > longest) longest = len;
    }
    if (longest < allowed || is_breaker(d, s->c[i].id)) continue;
    s->c[i].logit -= (double)d->dry_multiplier * pow(d->dry_base == 0 ? 1.75 : (double)d->dry_base, longest - allowed);
  }
}

static void naive_typical(naive *s, double wanted) {
  double have = 0;
  softmax(s);
  double h = entropy(s);
  for (int i = 0; i < s->n; i++) s->c[i].key = fabs(-log(s->c[i].p) - h);
  qsort(s->c, (size_t)s->n, sizeof *s->c, by_key);
  int kept = 0;
  while (kept < s->n && have < wanted) {
    have += s->c[kept++].p;
    if (fabs(have - wanted) < CLOSE) s->close = true;
  }
  for (int i = kept; i < s->n && kept; i++) // equally typical, or nearly
    if (s->c[i].key - s->c[kept - 1].key < 1e-4) s->close = true;
  s->n = kept;
}

static void naive_xtc(naive *s, double threshold) {
  int n_above = 0;
  softmax(s);
  for (int i = 0; i < s->n; i++) {
    if (fabs(s->c[i].p - threshold) < CLOSE) s->close = true;
    n_above += s->c[i].p >= threshold;
  }
  if (n_above < 2) return;
  memmove(s->c, s->c + n_above - 1, (size_t)(s->n - n_above + 1) * sizeof *s->c);
  s->n -= n_above - 1;
}

static void naive_top_p(naive *s, double wanted) {
  double have = 0;
  int kept = 0;
  softmax(s);
  while (kept < s->n && have < wanted) {
    have += s->c[kept++].p;
    if (fabs(have - wanted) < CLOSE) s->close = true;
  }
  s->n = kept;
}

static void naive_sigma(naive *s, double n_sigma) {
  double mean = 0, variance = 0;
  softmax(s);
  for (int i = 0; i < s->n; i++) mean += s->c[i].logit / s->n;
  for (int i = 0; i < s->n; i++) variance += (s->c[i].logit - mean) * (s->c[i].logit - mean) / s->n;
  double least = s->c[0].logit - n_sigma * sqrt(variance);
  int m = 0;
  for (int i = 0; i < s->n; i++) {
    if (fabs(s->c[i].logit - least) < CLOSE) s->close = true;
    if (s->c[i].logit >= least) s->c[m++] = s->c[i];
  }
  s->n = m;
}

static void naive_temperature(naive *s, const qi_sampler_desc *d) {
  double t = (double)d->temperature, range = (double)d->temperature_range;
  softmax(s);
  if (range > 0 && s->n > 1) {
    double low = t > range ? t - range : 0, exponent = d->temperature_exponent == 0 ? 1 : (double)d->temperature_exponent;
    t = low + (t + range - low) * pow(entropy(s) / log(s->n), exponent);
    if (t < 0.01) s->close = true; // nearly greedy: tiny differences count
  }
  s->temperature = t;
}

static void naive_mirostat(naive *s) {
  softmax(s);
  double least = pow(2, -s->mu), top = s->c[0].p;
  if (fabs(least - top) < CLOSE) s->close = true;
  filter(s, least < top ? least : top);
  if (least > top) s->close = false; // those as likely as the first are exact
}

static void naive_step(naive *s, const qi_sampler_desc *d, qi_sampler_step step, double xtc) {
  switch (step) {
  case QI_STEP_PENALTIES: naive_penalties(s, d); break;
  case QI_STEP_DRY:
    if (d->dry_multiplier > 0) naive_dry(s, d);
    break;
  case QI_STEP_TOP_N_SIGMA:
    if (d->top_n_sigma > 0) naive_sigma(s, (double)d->top_n_sigma);
    break;
  case QI_STEP_TOP_K:
    softmax(s);
    if (d->top_k > 0 && d->top_k < s->n) {
      if (s->c[d->top_k - 1].logit - s->c[d->top_k].logit < CLOSE) s->close = true;
      s->n = d->top_k;
    }
    break;
  case QI_STEP_TYPICAL:
    if (d->typical_p > 0 && d->typical_p < 1) naive_typical(s, (double)d->typical_p);
    break;
  case QI_STEP_TOP_P:
    if (d->top_p > 0 && d->top_p < 1) naive_top_p(s, (double)d->top_p);
    break;
  case QI_STEP_MIN_P:
    softmax(s);
    if (d->min_p > 0) filter(s, (double)d->min_p * s->c[0].p);
    break;
  case QI_STEP_XTC:
    if (xtc < (double)d->xtc_probability) naive_xtc(s, d->xtc_threshold == 0 ? (double)0.1f : (double)d->xtc_threshold);
    break;
  case QI_STEP_TEMPERATURE: naive_temperature(s, d); break;
  case QI_STEP_MIROSTAT:
    if (d->mirostat_tau > 0) naive_mirostat(s);
    break;
  case QI_STEP_COUNT: break;
  }
}

// ---- comparison ----

// The sampler keeps the same tokens, gives them the same probabilities, and draws by walking over them; Mirostat learns the same.
static bool check_draw(qi_sampler *sp, const qi_sampler_desc *d, const float *logits, naive *s) {
  static double p[MAX_VOCAB];
  qi_sampler_step order[QI_STEP_COUNT];
  int n_steps = d->n_chain ? d->n_chain : QI_STEP_COUNT;
  for (int i = 0; i < n_steps; i++) order[i] = d->n_chain ? d->chain[i] : (qi_sampler_step)i;
  s->n = sp->n_vocab;
  s->close = false;
  s->temperature = 1;
  s->mu = sp->mu;
  for (int i = 0; i < s->n; i++) s->c[i] = (item){i, (double)logits[i], 0, 0};
  uint64_t rng[4];
  memcpy(rng, sp->rng, sizeof rng);
  bool has_xtc = false;
  for (int i = 0; i < n_steps; i++) has_xtc = has_xtc || (order[i] == QI_STEP_XTC && d->xtc_probability > 0);
  double xtc = has_xtc ? qi__rng_double(rng) : 1, u = qi__rng_double(rng), have = 0;
  for (int i = 0; i < n_steps; i++) naive_step(s, d, order[i], xtc);
  qi_token got = qi_sampler_sample(sp, logits), expected = -1;
  if (s->close || !softmax(s)) return false;
  memset(p, 0, sizeof p);
  for (int i = 0; i < s->n; i++) p[s->c[i].id] = s->c[i].p;
  double p_got = p[got];
  for (int i = 0; i < s->n; i++) {
    int id = sp->candidates[i].id;
    if (!(p[id] >= 0) || p[id] == -1) fail_msg("token %d is kept and should not be", id);
    have += p[id];
    p[id] = -1;
    if (expected < 0 && have > u) expected = fabs(have - u) < CLOSE ? got : id;
    if (expected < 0 && u - have < CLOSE) expected = got;
  }
  assert_int_equal(got, expected);
  if (d->mirostat_tau > 0 && p_got > 1e-6) {
    double eta = d->mirostat_eta == 0 ? (double)0.1f : (double)d->mirostat_eta;
    double mu = s->mu - eta * (-log(p_got) / log(2) - (double)d->mirostat_tau);
    assert_true(fabs(sp->mu - mu) < 1e-4 * (1 + fabs(mu)));
  }
  return true;
}

static double uniform(uint64_t *rng) { return qi__rng_double(rng); }
static bool often(uint64_t *rng, double p) { return uniform(rng) < p; }

static void random_desc(qi_sampler_desc *d, uint64_t *rng, qi_sampler_step *chain, qi_token *breakers, int n_vocab) {
  memset(d, 0, sizeof *d);
  d->temperature = (float)(0.4 + 1.2 * uniform(rng));
  d->seed = qi__rng_next(rng);
  if (often(rng, 0.3)) d->top_k = 1 + (int)(uniform(rng) * 60);
  if (often(rng, 0.3)) d->top_p = (float)(0.3 + 0.7 * uniform(rng));
  if (often(rng, 0.3)) d->min_p = (float)(0.2 * uniform(rng));
  if (often(rng, 0.3)) d->typical_p = (float)(0.3 + 0.7 * uniform(rng));
  if (often(rng, 0.3)) d->top_n_sigma = (float)(0.5 + 2 * uniform(rng));
  if (often(rng, 0.4)) d->xtc_probability = (float)uniform(rng);
  if (often(rng, 0.5)) d->xtc_threshold = (float)(0.02 + 0.2 * uniform(rng));
  if (often(rng, 0.3)) d->temperature_range = (float)(1.5 * uniform(rng));
  if (often(rng, 0.5)) d->temperature_exponent = (float)(0.5 + uniform(rng));
  if (often(rng, 0.4)) d->repetition_penalty = (float)(0.8 + 0.5 * uniform(rng));
  if (often(rng, 0.3)) d->frequency_penalty = (float)(0.5 * uniform(rng));
  if (often(rng, 0.3)) d->presence_penalty = (float)uniform(rng);
  if (often(rng, 0.5)) d->penalty_last_n = 1 + (int)(uniform(rng) * 100);
  if (often(rng, 0.5)) d->dry_multiplier = (float)(0.1 + uniform(rng));
  if (often(rng, 0.5)) d->dry_base = (float)(1 + 0.5 * uniform(rng));
  if (often(rng, 0.5)) d->dry_allowed_length = 1 + (int)(uniform(rng) * 4);
  if (often(rng, 0.5)) d->dry_last_n = 1 + (int)(uniform(rng) * 150);
  if (often(rng, 0.3)) d->mirostat_tau = (float)(1 + 5 * uniform(rng));
  if (often(rng, 0.5)) d->mirostat_eta = (float)uniform(rng);
  if (often(rng, 0.5)) {
    d->dry_breakers = breakers;
    d->n_dry_breakers = 2;
    for (int i = 0; i < 2; i++) breakers[i] = (qi_token)(uniform(rng) * n_vocab);
  }
  if (often(rng, 0.7)) {
    for (int i = 0; i < QI_STEP_COUNT; i++) chain[i] = (qi_sampler_step)i;
    for (int i = QI_STEP_COUNT - 1; i > 0; i--) {
      int k = (int)(uniform(rng) * (i + 1));
      qi_sampler_step t = chain[i];
      chain[i] = chain[k];
      chain[k] = t;
    }
    d->chain = chain;
    d->n_chain = 1 + (int)(uniform(rng) * QI_STEP_COUNT);
  }
}

static void test_random_chains(void **state) {
  (void)state;
  static naive s;
  static float logits[MAX_VOCAB];
  uint64_t rng[4];
  int n_checked = 0, n_all = 0;
  qi__rng_seed(rng, 17);
  for (int round = 0; round < 2500; round++) {
    int n_vocab = round % 5 == 0 ? 3 + (int)(uniform(rng) * 10) : 20 + (int)(uniform(rng) * (MAX_VOCAB - 20));
    qi_sampler_desc d;
    qi_sampler_step chain[QI_STEP_COUNT];
    qi_token breakers[2], history[MAX_HISTORY];
    random_desc(&d, rng, chain, breakers, n_vocab);
    qi_sampler *sp = open_sampler(n_vocab, &d);
    int n_history = (int)(uniform(rng) * MAX_HISTORY), few = 2 + (int)(uniform(rng) * 8);
    for (int i = 0; i < n_history; i++) { // few different ones, so that they repeat
      history[i] = (qi_token)(uniform(rng) * (n_vocab < few ? n_vocab : few));
      qi_sampler_accept(sp, history[i]);
    }
    s.history = history;
    s.n_history = n_history;
    double width = 1 + 3 * uniform(rng);
    for (int draw = 0; draw < 4; draw++) {
      for (int i = 0; i < n_vocab; i++) logits[i] = (float)(width * (uniform(rng) + uniform(rng) + uniform(rng) - 1.5));
      n_all++;
      n_checked += check_draw(sp, &d, logits, &s);
    }
    qi_sampler_close(sp);
  }
  if (n_checked < n_all * 8 / 10) fail_msg("%d of %d could be checked", n_checked, n_all);
}

// ---- one by one, by hand ----

static qi_token draw_once(const qi_sampler_desc *d, const float *logits, int n) {
  qi_sampler *sp = open_sampler(n, d);
  qi_token t = qi_sampler_sample(sp, logits);
  qi_sampler_close(sp);
  return t;
}

static void test_order_matters(void **state) {
  (void)state;
  const float logits[] = {2, 1.9f, 1.8f, -5};
  // At temperature 20 all are nearly equal: top_p 0.5 behind it keeps two, before it three at most.
  const qi_sampler_step late[] = {QI_STEP_TEMPERATURE, QI_STEP_TOP_P}, without[] = {QI_STEP_TOP_K};
  qi_sampler_desc d = {.temperature = 0.01f, .top_p = 0.5f};
  bool seen[4] = {false};
  d.temperature = 0.02f;
  for (d.seed = 0; d.seed < 400; d.seed++) seen[draw_once(&d, logits, 4)] = true;
  assert_true(seen[0] && seen[1] && !seen[2]);
  memset(seen, 0, sizeof seen);
  d.chain = late;
  d.n_chain = 2; // at this temperature the first has nearly all
  for (d.seed = 0; d.seed < 400; d.seed++) seen[draw_once(&d, logits, 4)] = true;
  assert_true(seen[0] && !seen[1] && !seen[2]);
  memset(seen, 0, sizeof seen);
  d.chain = without; // neither temperature nor top_p
  d.n_chain = 1;
  for (d.seed = 0; d.seed < 400; d.seed++) seen[draw_once(&d, logits, 4)] = true;
  assert_true(seen[0] && seen[1] && seen[2]);
}

static void test_dry_by_hand(void **state) {
  (void)state;
  // 1 2 3 4, 1 2 3: 4 would go on with a repetition of three.
  const qi_token history[] = {9, 1, 2, 3, 4, 1, 2, 3}, breaker = 2;
  float logits[10] = {0};
  logits[4] = 5;
  logits[7] = 4;
  qi_sampler_desc d = {.dry_multiplier = 0.5f};
  for (int with = 0; with < 3; with++) {
    if (with == 1) d.dry_breakers = &breaker, d.n_dry_breakers = 1; // only the 3 is behind it
    if (with == 2) d.dry_breakers = NULL, d.n_dry_breakers = 0, d.dry_allowed_length = 4;
    qi_sampler *sp = open_sampler(10, &d);
    for (size_t i = 0; i < QI__COUNT_OF(history); i++) qi_sampler_accept(sp, history[i]);
    for (int twice = 0; twice < 2; twice++) {
      assert_int_equal(qi_sampler_sample(sp, logits), 4);
      float loss = with ? 0 : 0.5f * 1.75f; // three, two of them allowed
      assert_true(fabsf(sp->candidates[4].logit - (5 - loss)) < 1e-6f);
      assert_true(sp->candidates[7].logit == 4);
    }
    qi_sampler_close(sp);
  }
  // A thousand times the same token: finite, and others win.
  d = (qi_sampler_desc){.dry_multiplier = 1, .dry_base = 3, .dry_last_n = 2000};
  qi_sampler *sp = open_sampler(10, &d);
  for (int i = 0; i < 2000; i++) qi_sampler_accept(sp, 4);
  assert_int_equal(qi_sampler_sample(sp, logits), 7);
  logits[7] = -INFINITY;
  logits[0] = NAN;
  assert_int_equal(qi_sampler_sample(sp, logits), 1);
  qi_sampler_close(sp);
}

// Nothing is left, one is left, numbers at their ends.
static void test_odd(void **state) {
  (void)state;
  const float none[] = {-INFINITY, NAN, -INFINITY}, one[] = {-INFINITY, -3, NAN};
  const float wide[] = {FLT_MAX, -FLT_MAX, FLT_MAX, 0, INFINITY};
  qi_sampler_desc d = {.temperature = 0.7f, .top_k = 3, .top_p = 0.5f, .min_p = 0.5f, .typical_p = 0.5f, .top_n_sigma = 1,
                       .xtc_probability = 1, .xtc_threshold = 0.01f, .temperature_range = 0.7f, .dry_multiplier = 1,
                       .repetition_penalty = 2, .mirostat_tau = 3};
  for (uint64_t seed = 0; seed < 50; seed++) {
    d.seed = seed;
    assert_int_equal(draw_once(&d, none, 3), 0);
    assert_int_equal(draw_once(&d, one, 3), 1);
    qi_token t = draw_once(&d, wide, 5);
    assert_true(t == 0 || t == 2 || t == 4);
  }
  // Mirostat goes on when its mu is far off.
  qi_sampler_desc m = {.temperature = 1, .mirostat_tau = FLT_MAX, .mirostat_eta = FLT_MAX};
  qi_sampler *sp = open_sampler(5, &m);
  for (int i = 0; i < 100; i++) {
    qi_token t = qi_sampler_sample(sp, wide);
    assert_true(t >= 0 && t < 5);
  }
  qi_sampler_close(sp);
}

// Over many draws the surprise comes to what was asked for.
static void test_mirostat_aims(void **state) {
  (void)state;
  enum { N = 400, DRAWS = 3000 };
  float logits[N];
  for (int i = 0; i < N; i++) logits[i] = -3 * logf((float)(i + 1)) / 2; // as words are distributed
  const float tau[] = {2, 3};
  for (int k = 0; k < 2; k++) {
    qi_sampler_desc d = {.temperature = 1, .mirostat_tau = tau[k]};
    qi_sampler *sp = open_sampler(N, &d);
    double sum = 0, all = 0;
    for (int i = 0; i < DRAWS; i++) {
      double before = sp->mu;
      qi_sampler_sample(sp, logits);
      if (i >= 500) sum += (before - sp->mu) / (double)0.1f + (double)tau[k], all++;
    }
    if (fabs(sum / all - (double)tau[k]) > 0.1) fail_msg("mean surprise %g, expected %g", sum / all, (double)tau[k]);
    qi_sampler_close(sp);
  }
}

// ---- allowed tokens ----

static void test_allowed(void **state) {
  (void)state;
  enum { N = 70 };
  float logits[N];
  for (int i = 0; i < N; i++) logits[i] = (float)i;
  uint32_t allowed[3] = {1u << 3 | 1u << 9, 1u << 2, 0};
  qi_logit_bias forbid[] = {{34, -INFINITY}, {3, -INFINITY}, {9, -INFINITY}};
  qi_sampler_desc greedy = {.seed = 1}, warm = {.temperature = 5}, biased = {.logit_bias = forbid, .n_logit_bias = 1};
  qi_sampler *a = open_sampler(N, &greedy), *b = open_sampler(N, &warm), *c = open_sampler(N, &biased);
  assert_int_equal(qi_sampler_sample(a, logits), N - 1);
  assert_int_equal(qi_sampler_sample_allowed(a, logits, allowed), 34);
  assert_int_equal(qi_sampler_sample_allowed(c, logits, allowed), 9);
  bool seen[N] = {false};
  for (int i = 0; i < 2000; i++) seen[qi_sampler_sample_allowed(b, logits, allowed)] = true;
  for (int i = 0; i < N; i++) assert_true(!seen[i] || i == 3 || i == 9 || i == 34);
  assert_true(seen[34] && seen[9]);
  for (int i = 0; i < N; i++) logits[i] = i % 2 ? NAN : -INFINITY;
  assert_int_equal(qi_sampler_sample_allowed(a, logits, allowed), 3);
  assert_int_equal(qi_sampler_sample_allowed(b, logits, allowed), 3);
  biased.n_logit_bias = 2;
  qi_sampler_close(c);
  c = open_sampler(N, &biased);
  assert_int_equal(qi_sampler_sample_allowed(c, logits, allowed), 9);
  biased.n_logit_bias = 3;
  qi_sampler_close(c);
  c = open_sampler(N, &biased);
  assert_int_equal(qi_sampler_sample_allowed(c, logits, allowed), 3); // all forbidden: the grammar counts more than the bias
  qi_sampler_close(a);
  qi_sampler_close(b);
  qi_sampler_close(c);
}

// ---- log-probabilities ----

static void test_logprobs(void **state) {
  (void)state;
  static float logits[MAX_VOCAB];
  static item c[MAX_VOCAB];
  qi_logprob out[MAX_VOCAB + 1];
  uint64_t rng[4];
  qi__rng_seed(rng, 5);
  for (int round = 0; round < 200; round++) {
    int n_vocab = 1 + (int)(uniform(rng) * (MAX_VOCAB - 1)), n = 1 + (int)(uniform(rng) * MAX_VOCAB), n_real = 0;
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n_vocab; i++) {
      logits[i] = (float)(round & 1 ? floor(20 * uniform(rng)) : 30 * uniform(rng) - 10);
      if (often(rng, 0.1)) logits[i] = often(rng, 0.5) ? NAN : -INFINITY;
      c[i] = (item){i, isnan(logits[i]) ? -INFINITY : (double)logits[i], 0, 0};
      if (c[i].logit > max) max = c[i].logit;
      n_real += c[i].logit > -INFINITY;
    }
    for (int i = 0; i < n_vocab; i++) sum += exp(c[i].logit - max);
    qsort(c, (size_t)n_vocab, sizeof *c, by_logit);
    int got = qi_top_logprobs(logits, n_vocab, out, n);
    assert_int_equal(got, n < n_real ? n : n_real);
    for (int i = 0; i < got; i++) {
      assert_int_equal(out[i].token, c[i].id);
      assert_true(fabs((double)out[i].logprob - (c[i].logit - max - log(sum))) < 1e-6 * (1 + fabs(c[i].logit - max)));
    }
  }
  const float none[] = {NAN, -INFINITY}, inf[] = {0, INFINITY};
  assert_int_equal(qi_top_logprobs(none, 2, out, 2), 0);
  assert_int_equal(qi_top_logprobs(inf, 2, out, 1), 1);
  assert_true(out[0].token == 1 && out[0].logprob == 0);
  assert_int_equal(qi_top_logprobs(inf, 2, out, 0), 0);
  assert_int_equal(qi_top_logprobs(inf, 0, out, 1), 0);
  assert_int_equal(qi_top_logprobs(NULL, 2, out, 1), 0);
  assert_int_equal(qi_top_logprobs(inf, 2, NULL, 1), 0);
  assert_int_equal(qi_top_logprobs(inf, 2, out, 1025), 0);
}

// ---- descs ----

static void test_errors(void **state) {
  (void)state;
  qi_token breaker = 5;
  const qi_sampler_step twice[] = {QI_STEP_TOP_K, QI_STEP_TOP_P, QI_STEP_TOP_K}, unknown[] = {(qi_sampler_step)77};
  const struct {
    qi_sampler_desc d;
    const char *phrase;
  } cases[] = {
    {{.typical_p = 1.5f}, "typical_p is 1.5"},
    {{.top_n_sigma = -1}, "top_n_sigma is -1"},
    {{.xtc_probability = 2}, "xtc_probability is 2"},
    {{.xtc_threshold = -0.5f}, "xtc_threshold is -0.5"},
    {{.temperature_range = -1}, "temperature_range is -1"},
    {{.temperature_exponent = INFINITY}, "temperature_exponent is inf"},
    {{.dry_multiplier = -1}, "dry_multiplier is -1"},
    {{.dry_base = -1}, "dry_base is -1"},
    {{.dry_allowed_length = -1}, "dry_allowed_length is -1"},
    {{.dry_last_n = 65537}, "dry_last_n is 65537"},
    {{.mirostat_tau = NAN}, "mirostat_tau is nan"},
    {{.mirostat_eta = -1}, "mirostat_eta is -1"},
    {{.n_dry_breakers = 1}, "dry_breakers is NULL, n_dry_breakers is 1"},
    {{.dry_breakers = &breaker, .n_dry_breakers = 1}, "dry_breakers[0] is 5, expected 0 to 4"},
    {{.dry_breakers = &breaker, .n_dry_breakers = -1}, "n_dry_breakers is -1"},
    {{.n_chain = 1}, "chain is NULL"},
    {{.chain = twice, .n_chain = 3}, "chain[2]: step 3 is there twice"},
    {{.chain = unknown, .n_chain = 1}, "chain[0] is 77"},
  };
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    qi_sampler *sp = NULL;
    qi_error err = {QI_OK, ""};
    assert_int_equal(qi_sampler_open(&sp, 5, &cases[i].d, NULL, &err), QI_ERR_ARGUMENT);
    if (!strstr(err.msg, cases[i].phrase)) fail_msg("\"%s\", expected \"%s\"", err.msg, cases[i].phrase);
    assert_null(sp);
  }
}

// Allocates at opening only, and reset gives the same words again.
static void test_reset(void **state) {
  (void)state;
  enum { N = 200, STEPS = 100 };
  float logits[N];
  qi_token first[STEPS];
  for (int i = 0; i < N; i++) logits[i] = (float)(i * 37 % 101) / 30;
  qi_token breaker = 7;
  qi_sampler_desc d = {.temperature = 0.9f, .typical_p = 0.9f, .xtc_probability = 0.5f, .dry_multiplier = 0.8f,
                       .dry_breakers = &breaker, .n_dry_breakers = 1,
                       .mirostat_tau = 4, .presence_penalty = 0.3f, .temperature_range = 0.3f, .seed = 3};
  qi_sampler *sp = open_sampler(N, &d);
  breaker = 9; // was copied
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < STEPS; i++) {
      qi_token t = qi_sampler_sample(sp, logits);
      qi_sampler_accept(sp, t);
      if (!round) first[i] = t;
      assert_int_equal(t, first[i]);
    }
    qi_sampler_reset(sp, 3);
  }
  qi_sampler_close(sp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_random_chains), cmocka_unit_test(test_order_matters), cmocka_unit_test(test_dry_by_hand),
    cmocka_unit_test(test_odd),           cmocka_unit_test(test_mirostat_aims), cmocka_unit_test(test_allowed),
    cmocka_unit_test(test_logprobs),      cmocka_unit_test(test_errors),        cmocka_unit_test(test_reset),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
