// ==== >>sampler : from logits to a token ====
#ifndef QI__SAMPLER_H
#define QI__SAMPLER_H

#include "../base/memory.h"
#include "../kernels/math.h"

#include <float.h>

#define QI__PENALTY_LAST_N_DEFAULT 64
#define QI__PENALTY_LAST_N_MAX 65536

// The same logits, desc and history give the same token everywhere: only IEEE operations in a written order and our own exp, sums
// in double, equals ordered by id.

typedef struct qi__candidate {
  float logit;
  float weight; // exp of something: see the steps
  qi_token id;
} qi__candidate;

#define QI__EXP_BLOCK 64

// x[i] = e^x[i] for the QI__EXP_BLOCK elements of x: qi__exp_ref, so all variants give the same bits.
typedef void (*qi__exp_block_fn)(float *x);

struct qi_sampler {
  qi_sampler_desc desc;      // zeros replaced by what they mean; logit_bias points to our copy
  int n_vocab;
  bool has_penalties;
  qi__candidate *candidates; // [n_vocab]; NULL when every token is a plain argmax
  qi_logit_bias *bias;       // [desc.n_logit_bias]
  int32_t *count;            // [n_vocab] occurrences in history; NULL without penalties
  qi_token *history;         // ring [desc.penalty_last_n]; NULL without penalties
  int history_start, history_len;
  uint64_t rng[4];
  qi__exp_block_fn exp_block;
  qi_allocator allocator;    // of an opened (not embedded) sampler
  size_t bytes;
};

// ---- random numbers: xoshiro256** (Blackman, Vigna 2018), seeded by splitmix64 ----

QI__FN void qi__rng_seed(uint64_t rng[4], uint64_t seed) {
  for (int i = 0; i < 4; i++) {
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    rng[i] = z ^ z >> 31;
  }
}

QI__FN uint64_t qi__rng_next(uint64_t rng[4]) {
  uint64_t x = rng[1] * 5, result = (x << 7 | x >> 57) * 9, t = rng[1] << 17;
  rng[2] ^= rng[0];
  rng[3] ^= rng[1];
  rng[1] ^= rng[2];
  rng[0] ^= rng[3];
  rng[2] ^= t;
  rng[3] = rng[3] << 45 | rng[3] >> 19;
  return result;
}

// Uniform in [0, 1), 53 bits.
QI__FN double qi__rng_double(uint64_t rng[4]) { return (double)(qi__rng_next(rng) >> 11) * (1.0 / 9007199254740992.0); }

// ---- exp of many ----

QI__FN void qi__exp_block_ref(float *x) {
  for (int i = 0; i < QI__EXP_BLOCK; i++) x[i] = qi__exp_ref(x[i]);
}

#if defined(QI__X86_64)
QI__FN QI__TARGET("avx2,fma") void qi__exp_block_avx2(float *x) {
  for (int i = 0; i < QI__EXP_BLOCK; i += 8) _mm256_storeu_ps(x + i, qi__exp_avx2(_mm256_loadu_ps(x + i)));
}
#endif

#if defined(QI__ARM64)
QI__FN void qi__exp_block_neon(float *x) {
  for (int i = 0; i < QI__EXP_BLOCK; i += 4) vst1q_f32(x + i, qi__exp_neon(vld1q_f32(x + i)));
}
#endif

QI__FN qi__exp_block_fn qi__exp_block_choose(void) {
#if defined(QI__X86_64)
  if (qi__cpu_detect().avx2) return qi__exp_block_avx2;
#elif defined(QI__ARM64)
  return qi__exp_block_neon;
#endif
  return qi__exp_block_ref;
}

// ---- desc ----

// A field of a desc that must be finite and within [lo, hi].
QI__FN qi_result qi__sampler_check_field(const char *name, float value, float lo, float hi, qi_error *err) {
  if (qi__is_finite(value) && value >= lo && value <= hi) return QI_OK;
  return qi__fail(err, QI_ERR_ARGUMENT, "sampler: %s is %g, expected %g to %g", name, (double)value, (double)lo, (double)hi);
}

// desc NULL = all defaults. Errors: QI_ERR_ARGUMENT with the name of the field.
QI__FN qi_result qi__sampler_check(int n_vocab, const qi_sampler_desc *desc, qi_error *err) {
  qi_result r;
  if (n_vocab < 1) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: n_vocab is %d, expected at least 1", n_vocab);
  if (!desc) return QI_OK;
  if ((r = qi__sampler_check_field("temperature", desc->temperature, 0, FLT_MAX, err))) return r;
  if ((r = qi__sampler_check_field("top_p", desc->top_p, 0, 1, err))) return r;
  if ((r = qi__sampler_check_field("min_p", desc->min_p, 0, 1, err))) return r;
  if ((r = qi__sampler_check_field("repetition_penalty", desc->repetition_penalty, 0, FLT_MAX, err))) return r;
  if ((r = qi__sampler_check_field("frequency_penalty", desc->frequency_penalty, -FLT_MAX, FLT_MAX, err))) return r;
  if ((r = qi__sampler_check_field("presence_penalty", desc->presence_penalty, -FLT_MAX, FLT_MAX, err))) return r;
  if (desc->top_k < 0) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: top_k is %d, expected 0 or more", desc->top_k);
  if (desc->penalty_last_n < 0 || desc->penalty_last_n > QI__PENALTY_LAST_N_MAX)
    return qi__fail(err, QI_ERR_ARGUMENT, "sampler: penalty_last_n is %d, expected 0 to %d", desc->penalty_last_n,
                    QI__PENALTY_LAST_N_MAX);
  if (desc->n_logit_bias < 0)
    return qi__fail(err, QI_ERR_ARGUMENT, "sampler: n_logit_bias is %d, expected 0 or more", desc->n_logit_bias);
  if (desc->n_logit_bias > 0 && !desc->logit_bias)
    return qi__fail(err, QI_ERR_ARGUMENT, "sampler: logit_bias is NULL, n_logit_bias is %d", desc->n_logit_bias);
  for (int i = 0; i < desc->n_logit_bias; i++) {
    const qi_logit_bias *b = &desc->logit_bias[i];
    if (b->token < 0 || b->token >= n_vocab)
      return qi__fail(err, QI_ERR_ARGUMENT, "sampler: logit_bias[%d].token is %d, expected 0 to %d", i, (int)b->token, n_vocab - 1);
    if (!qi__is_finite(b->bias) && !(b->bias < 0))
      return qi__fail(err, QI_ERR_ARGUMENT, "sampler: logit_bias[%d].bias is %g, expected a number or -infinity", i,
                      (double)b->bias);
  }
  return QI_OK;
}

// ---- memory ----

QI__FN void qi__sampler_reset(qi_sampler *sp, uint64_t seed) {
  qi__rng_seed(sp->rng, seed);
  sp->history_start = sp->history_len = 0;
  if (sp->count) memset(sp->count, 0, (size_t)sp->n_vocab * sizeof *sp->count);
}

// A sampler of a checked desc in an arena, ready to use; NULL while the arena counts.
QI__FN qi_sampler *qi__sampler_layout(qi__arena *arena, int n_vocab, const qi_sampler_desc *desc) {
  qi_sampler_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;
  if (d.repetition_penalty == 0) d.repetition_penalty = 1;
  if (d.top_p == 0) d.top_p = 1;
  if (d.penalty_last_n == 0) d.penalty_last_n = QI__PENALTY_LAST_N_DEFAULT;
  bool has_penalties = d.repetition_penalty != 1 || d.frequency_penalty != 0 || d.presence_penalty != 0;
  bool plain = d.temperature == 0 && !has_penalties && d.n_logit_bias == 0;
  size_t n = (size_t)n_vocab;
  qi_sampler *sp = QI__ARENA_ARRAY(arena, qi_sampler, 1);
  qi__candidate *candidates = QI__ARENA_ARRAY(arena, qi__candidate, plain ? 0 : n);
  qi_logit_bias *bias = QI__ARENA_ARRAY(arena, qi_logit_bias, (size_t)d.n_logit_bias);
  int32_t *count = QI__ARENA_ARRAY(arena, int32_t, has_penalties ? n : 0);
  qi_token *history = QI__ARENA_ARRAY(arena, qi_token, has_penalties ? (size_t)d.penalty_last_n : 0);
  if (!sp) return NULL;
  memset(sp, 0, sizeof *sp);
  if (d.n_logit_bias) memcpy(bias, d.logit_bias, (size_t)d.n_logit_bias * sizeof *bias);
  d.logit_bias = bias;
  sp->desc = d;
  sp->n_vocab = n_vocab;
  sp->has_penalties = has_penalties;
  sp->candidates = plain ? NULL : candidates;
  sp->bias = bias;
  sp->count = has_penalties ? count : NULL;
  sp->history = has_penalties ? history : NULL;
  sp->exp_block = qi__exp_block_choose();
  qi__sampler_reset(sp, d.seed);
  return sp;
}

QI__FN qi_result qi__sampler_open(qi_sampler **out, int n_vocab, const qi_sampler_desc *desc, const qi_allocator *allocator,
                                  qi_error *err) {
  if (!out) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: out is NULL");
  *out = NULL;
  qi_allocator a = {NULL, NULL, NULL};
  qi_result r = qi__allocator_resolve(allocator, &a, err);
  if (r == QI_OK) r = qi__sampler_check(n_vocab, desc, err);
  if (r) return r;
  qi__arena arena = {0};
  qi__sampler_layout(&arena, n_vocab, desc);
  r = qi__arena_open(&arena, &a, "sampler", err);
  if (r) return r;
  qi_sampler *sp = qi__sampler_layout(&arena, n_vocab, desc);
  sp->allocator = a;
  sp->bytes = arena.size;
  *out = sp;
  return QI_OK;
}

// Only for what qi__sampler_open made; NULL is fine.
QI__FN void qi__sampler_close(qi_sampler *sp) {
  if (!sp) return;
  qi_allocator a = sp->allocator;
  qi__free(&a, sp, sp->bytes);
}

// Ids out of range are ignored.
QI__FN void qi__sampler_accept(qi_sampler *sp, qi_token token) {
  if (!sp->has_penalties || token < 0 || token >= sp->n_vocab) return;
  int cap = sp->desc.penalty_last_n;
  if (sp->history_len == cap) {
    sp->count[sp->history[sp->history_start]]--;
    sp->history_start = sp->history_start + 1 == cap ? 0 : sp->history_start + 1;
    sp->history_len--;
  }
  int end = sp->history_start + sp->history_len;
  sp->history[end >= cap ? end - cap : end] = token;
  sp->history_len++;
  sp->count[token]++;
}

// ---- logits ----

// NaN counts as -infinity and +infinity as the greatest number, so that differences of logits are numbers.
QI__INLINE float qi__sampler_clean(float logit) {
  if (qi__is_nan(logit)) return -INFINITY;
  return logit > FLT_MAX ? FLT_MAX : logit;
}

// Each token of the history once: repetition penalty, then count * frequency + presence is subtracted. The sign of a count marks
// the tokens that are done, so the cost is that of the history, not of the vocabulary.
QI__FN void qi__sampler_penalize(qi_sampler *sp) {
  const qi_sampler_desc *d = &sp->desc;
  int n = sp->history_len; // fills the ring from its beginning: while it is not full, it starts at 0
  for (int i = 0; i < n; i++) {
    qi_token t = sp->history[i];
    if (sp->count[t] < 0) continue;
    float logit = sp->candidates[t].logit;
    logit = logit > 0 ? logit / d->repetition_penalty : logit * d->repetition_penalty;
    logit -= (float)sp->count[t] * d->frequency_penalty + d->presence_penalty;
    sp->candidates[t].logit = qi__sampler_clean(logit);
    sp->count[t] = -sp->count[t];
  }
  for (int i = 0; i < n; i++) {
    int32_t *c = &sp->count[sp->history[i]];
    if (*c < 0) *c = -*c;
  }
}

// Bit t of `allowed`; NULL allows all.
QI__INLINE bool qi__is_allowed(const uint32_t *allowed, qi_token t) { return !allowed || allowed[t / 32] >> (t % 32) & 1; }

// All tokens as candidates, with bias and penalties.
QI__FN void qi__sampler_load(qi_sampler *sp, const float *logits, const uint32_t *allowed) {
  for (int i = 0; i < sp->n_vocab; i++) {
    sp->candidates[i].logit = qi__is_allowed(allowed, i) ? qi__sampler_clean(logits[i]) : -INFINITY;
    sp->candidates[i].weight = 0;
    sp->candidates[i].id = i;
  }
  for (int i = 0; i < sp->desc.n_logit_bias; i++) {
    float *logit = &sp->candidates[sp->bias[i].token].logit;
    *logit = qi__sampler_clean(*logit + sp->bias[i].bias);
  }
  if (sp->has_penalties) qi__sampler_penalize(sp);
}

// What is left when no logit is above -infinity: the lowest allowed id that no bias forbids, else the lowest allowed, else 0.
// The candidates must still be in the order of their ids.
QI__FN qi_token qi__sampler_fallback(qi_sampler *sp, const uint32_t *allowed) {
  qi_token first = -1;
  for (int i = 0; sp->candidates && i < sp->desc.n_logit_bias; i++)
    if (sp->bias[i].bias < -FLT_MAX) sp->candidates[sp->bias[i].token].weight = 1;
  for (int i = 0; i < sp->n_vocab; i++) {
    if (!qi__is_allowed(allowed, i)) continue;
    if (!sp->candidates || sp->candidates[i].weight == 0) return i;
    if (first < 0) first = i;
  }
  return first < 0 ? 0 : first;
}

// ---- order ----

// True when a comes before b: higher logit, then lower id.
QI__INLINE bool qi__candidate_before(const qi__candidate *a, const qi__candidate *b) {
  return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

QI__INLINE void qi__candidate_swap(qi__candidate *a, qi__candidate *b) {
  qi__candidate t = *a;
  *a = *b;
  *b = t;
}

// Binary heap c[0..n-1] whose top comes after all others (`first` false) or before all others (true): lets c[i] sink to its place.
QI__FN void qi__heap_sink(qi__candidate *c, size_t n, size_t i, bool first) {
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= n) return;
    if (child + 1 < n && qi__candidate_before(&c[child + 1], &c[child]) == first) child++;
    if (qi__candidate_before(&c[child], &c[i]) != first) return;
    qi__candidate_swap(&c[child], &c[i]);
    i = child;
  }
}

QI__FN void qi__heap_make(qi__candidate *c, size_t n, bool first) {
  for (size_t i = n / 2; i-- > 0;) qi__heap_sink(c, n, i, first);
}

// The first k of n candidates to the front, in order. k in 1..n. Time n + m log k, where m candidates enter the heap.
QI__FN void qi__select_top(qi__candidate *c, size_t n, size_t k) {
  qi__heap_make(c, k, false);
  for (size_t i = k; i < n; i++)
    if (qi__candidate_before(&c[i], &c[0])) {
      c[0] = c[i];
      qi__heap_sink(c, k, 0, false);
    }
  for (size_t end = k; end-- > 1;) { // heap sort: the last goes to the end
    qi__candidate_swap(&c[0], &c[end]);
    qi__heap_sink(c, end, 0, false);
  }
}

// ---- steps: each keeps some of the n candidates, at the front, and returns how many ----

// weight = exp((logit - max) / temperature), 0 where that would be subnormal; returns the sum. The temperature is not 0.
QI__FN double qi__sampler_softmax(qi__exp_block_fn exp_block, qi__candidate *c, size_t n, float max, float temperature) {
  double sum = 0;
  float x[QI__EXP_BLOCK] = {0};
  for (size_t i = 0; i < n; i += QI__EXP_BLOCK) {
    size_t m = qi__min_size(n - i, QI__EXP_BLOCK);
    for (size_t j = 0; j < m; j++) x[j] = (c[i + j].logit - max) / temperature;
    exp_block(x);
    for (size_t j = 0; j < m; j++) {
      c[i + j].weight = x[j];
      sum += (double)x[j];
    }
  }
  return sum;
}

// Distance of a logit to the greatest in steps of 1/32; the last bin takes all that are farther.
#define QI__TOP_P_BINS 1024
QI__INLINE int qi__top_p_bin(float logit, float max) {
  float steps = (max - logit) * 32.0f;
  return steps < (float)(QI__TOP_P_BINS - 1) ? (int)steps : QI__TOP_P_BINS - 1;
}

// Moves the candidates of the bins below `bin` (or only those of `bin` itself) to the front, in their order; returns how many.
QI__FN size_t qi__top_p_gather(qi__candidate *c, size_t n, float max, int bin, bool below) {
  size_t m = 0;
  for (size_t i = 0; i < n; i++) {
    int here = qi__top_p_bin(c[i].logit, max);
    if (below ? here < bin : here == bin) qi__candidate_swap(&c[m++], &c[i]);
  }
  return m;
}

// Smallest set of the most likely whose weights sum to top_p or more of the sum. `sorted`: they are in order already.
// Else they are counted into bins: those before the bin where the sum is reached stay in their order, and only that bin is sorted,
// by a heap and no further than needed.
QI__FN size_t qi__sampler_top_p(qi__candidate *c, size_t n, float top_p, float max, double sum, bool sorted) {
  double wanted = (double)top_p * sum, have = 0, bins[QI__TOP_P_BINS] = {0};
  size_t kept = 0;
  if (sorted) {
    while (kept < n && have < wanted) have += (double)c[kept++].weight;
    return kept;
  }
  for (size_t i = 0; i < n; i++) bins[qi__top_p_bin(c[i].logit, max)] += (double)c[i].weight;
  int bin = 0;
  while (bin < QI__TOP_P_BINS - 1 && have + bins[bin] < wanted) have += bins[bin++];
  kept = qi__top_p_gather(c, n, max, bin, true);
  qi__candidate *edge = c + kept;
  size_t n_edge = qi__top_p_gather(edge, n - kept, max, bin, false), taken = 0;
  qi__heap_make(edge, n_edge, true);
  while (taken < n_edge && have < wanted) { // the first goes to the end
    have += (double)edge[0].weight;
    taken++;
    qi__candidate_swap(&edge[0], &edge[n_edge - taken]);
    qi__heap_sink(edge, n_edge - taken, 0, true);
  }
  for (size_t i = 0; i < n_edge / 2; i++) qi__candidate_swap(&edge[i], &edge[n_edge - 1 - i]);
  return kept + taken;
}

// Those at least min_p times as likely as the most likely one (whose weight is 1), in the order they had.
QI__FN size_t qi__sampler_min_p(qi__candidate *c, size_t n, float min_p) {
  size_t m = 0;
  for (size_t i = 0; i < n; i++)
    if (c[i].weight >= min_p) c[m++] = c[i];
  return m;
}

// One of n candidates (not 0), with probability in proportion to its weight.
QI__FN qi_token qi__sampler_draw(qi_sampler *sp, size_t n, double sum) {
  const qi__candidate *c = sp->candidates;
  double point = qi__rng_double(sp->rng) * sum, have = 0;
  qi_token last = c[0].id; // rounding may leave the last sum at, not above, the point
  for (size_t i = 0; i < n; i++) {
    if (c[i].weight == 0) continue;
    last = c[i].id;
    if ((have += (double)c[i].weight) > point) break;
  }
  return last;
}

// ---- sampling ----

// Highest of the allowed logits as they are; lowest id among equals; -1 if all are -infinity.
QI__FN qi_token qi__argmax(const float *logits, int n, const uint32_t *allowed) {
  qi_token best = -1;
  float max = -INFINITY;
  for (int i = 0; i < n; i++)
    if (logits[i] > max && qi__is_allowed(allowed, i)) { // false for NaN
      max = logits[i];
      best = i;
    }
  return best;
}

// See qi_sampler_sample. One random number for each call that is not greedy.
QI__FN qi_token qi__sampler_sample(qi_sampler *sp, const float *logits, const uint32_t *allowed) {
  const qi_sampler_desc *d = &sp->desc;
  if (!sp->candidates) {
    qi_token t = qi__argmax(logits, sp->n_vocab, allowed);
    return t < 0 ? qi__sampler_fallback(sp, allowed) : t;
  }
  qi__sampler_load(sp, logits, allowed);
  qi__candidate *c = sp->candidates;
  qi__candidate best = {-INFINITY, 0, -1};
  size_t n = (size_t)sp->n_vocab, m = 0;
  for (size_t i = 0; i < n; i++)
    if (c[i].logit > best.logit) best = c[i];
  if (best.id < 0) return qi__sampler_fallback(sp, allowed);
  if (d->temperature == 0) return best.id;
  for (size_t i = 0; i < n; i++)
    if (c[i].logit >= -FLT_MAX) c[m++] = c[i];
  n = m;
  bool sorted = d->top_k > 0 && (size_t)d->top_k < n;
  if (sorted) {
    n = (size_t)d->top_k;
    qi__select_top(c, m, n);
  }
  if (d->top_p < 1 || d->min_p > 0) {
    double sum = qi__sampler_softmax(sp->exp_block, c, n, best.logit, 1.0f);
    if (d->top_p < 1) n = qi__sampler_top_p(c, n, d->top_p, best.logit, sum, sorted);
    if (d->min_p > 0) n = qi__sampler_min_p(c, n, d->min_p);
  }
  return qi__sampler_draw(sp, n, qi__sampler_softmax(sp->exp_block, c, n, best.logit, d->temperature));
}

#endif // QI__SAMPLER_H
