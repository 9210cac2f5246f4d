// ==== >>sampler_steps : candidates, and what keeps some of them ====
#ifndef QI__SAMPLER_STEPS_H
#define QI__SAMPLER_STEPS_H

#include "../base/memory.h"
#include "../base/real.h"
#include "../kernels/math.h"

#include <float.h>

typedef struct qi__candidate {
  float logit;
  float weight; // exp of something: see the steps
  qi_token id;
} qi__candidate;

#define QI__EXP_BLOCK 64

// x[i] = e^x[i] for the QI__EXP_BLOCK elements of x: qi__exp_ref, so all variants give the same bits.
typedef void (*qi__exp_block_fn)(float *x);

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

// ---- candidates ----

// NaN counts as -infinity and +infinity as the greatest number, so that differences of logits are numbers.
QI__INLINE float qi__sampler_clean(float logit) {
  if (qi__is_nan(logit)) return -INFINITY;
  return logit > FLT_MAX ? FLT_MAX : logit;
}

// Those that are left, and what is known of them.
typedef struct qi__chain {
  qi__candidate *c;
  size_t n;
  float max;          // greatest logit
  float temperature;  // that probabilities are taken at: weight = exp((logit - max) / temperature)
  bool sorted;        // in order, the most likely first
  bool dirty;         // logits changed or some were taken out: max is not known, logits may be -infinity
  bool weighed;       // weights are right
  qi__exp_block_fn exp_block;
} qi__chain;

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

// Drops what is impossible and finds the greatest logit. False when nothing is left.
QI__FN bool qi__chain_refresh(qi__chain *ch) {
  size_t m = 0;
  if (!ch->dirty) return ch->n > 0;
  ch->dirty = ch->weighed = false;
  ch->max = -INFINITY;
  for (size_t i = 0; i < ch->n; i++) {
    float logit = ch->c[i].logit;
    if (!(logit >= -FLT_MAX)) continue;
    if (logit > ch->max) ch->max = logit;
    ch->c[m++] = ch->c[i];
  }
  ch->n = m;
  return m > 0;
}

// Sum of the weights, which are set if need be.
QI__FN double qi__chain_weigh(qi__chain *ch) {
  double sum = 0;
  qi__chain_refresh(ch);
  if (!ch->weighed) {
    ch->weighed = true;
    return qi__sampler_softmax(ch->exp_block, ch->c, ch->n, ch->max, ch->temperature);
  }
  for (size_t i = 0; i < ch->n; i++) sum += (double)ch->c[i].weight;
  return sum;
}

// ln of a candidate's probability, for the sum of the weights.
QI__INLINE double qi__chain_log(const qi__chain *ch, size_t i, double sum) {
  return ((double)ch->c[i].logit - (double)ch->max) / (double)ch->temperature - qi__ln(sum);
}

// Entropy in nats.
QI__FN double qi__chain_entropy(const qi__chain *ch, double sum) {
  double h = 0;
  for (size_t i = 0; i < ch->n; i++)
    if (ch->c[i].weight > 0) h -= (double)ch->c[i].weight / sum * qi__chain_log(ch, i, sum);
  return h;
}

// ---- steps: each keeps some of the candidates, at the front ----

QI__FN void qi__step_top_k(qi__chain *ch, int k) {
  if ((size_t)k >= ch->n) return;
  if (!ch->sorted) qi__select_top(ch->c, ch->n, (size_t)k);
  ch->n = (size_t)k;
  ch->sorted = true;
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

// Moves the first candidates in order to the front until their weights are `wanted` in sum, by a heap that is sorted no further
// than needed. `have` is what is there before. Returns how many.
QI__FN size_t qi__heap_take(qi__candidate *c, size_t n, double have, double wanted) {
  size_t taken = 0;
  qi__heap_make(c, n, true);
  while (taken < n && have < wanted) { // the first goes to the end
    have += (double)c[0].weight;
    taken++;
    qi__candidate_swap(&c[0], &c[n - taken]);
    qi__heap_sink(c, n - taken, 0, true);
  }
  for (size_t i = 0; i < n / 2; i++) qi__candidate_swap(&c[i], &c[n - 1 - i]);
  return taken;
}

// Smallest set of the most likely whose weights sum to top_p or more of the sum. Unless they are in order already, they are counted
// into bins: those before the bin where the sum is reached stay in their order, and only that bin is sorted.
QI__FN void qi__step_top_p(qi__chain *ch, float top_p) {
  qi__candidate *c = ch->c;
  double sum = qi__chain_weigh(ch), wanted = (double)top_p * sum, have = 0, bins[QI__TOP_P_BINS] = {0};
  size_t n = ch->n, kept = 0;
  if (ch->sorted) {
    while (kept < n && have < wanted) have += (double)c[kept++].weight;
    ch->n = kept;
    return;
  }
  for (size_t i = 0; i < n; i++) bins[qi__top_p_bin(c[i].logit, ch->max)] += (double)c[i].weight;
  int bin = 0;
  while (bin < QI__TOP_P_BINS - 1 && have + bins[bin] < wanted) have += bins[bin++];
  kept = qi__top_p_gather(c, n, ch->max, bin, true);
  size_t n_edge = qi__top_p_gather(c + kept, n - kept, ch->max, bin, false);
  ch->n = kept + qi__heap_take(c + kept, n_edge, have, wanted);
}

// Those at least min_p times as likely as the most likely one (whose weight is 1), in the order they had.
QI__FN void qi__step_min_p(qi__chain *ch, float min_p) {
  size_t m = 0;
  qi__chain_weigh(ch);
  for (size_t i = 0; i < ch->n; i++)
    if (ch->c[i].weight >= min_p) ch->c[m++] = ch->c[i];
  ch->n = m;
}

// Those no more than n standard deviations of the logits below the greatest (Tang et al. 2024).
QI__FN void qi__step_top_n_sigma(qi__chain *ch, float n_sigma) {
  double mean = 0, variance = 0;
  size_t m = 0;
  qi__chain_refresh(ch);
  for (size_t i = 0; i < ch->n; i++) mean += (double)ch->c[i].logit / (double)ch->n;
  for (size_t i = 0; i < ch->n; i++) {
    double d = (double)ch->c[i].logit - mean;
    variance += d * d / (double)ch->n;
  }
  double least = (double)ch->max - (double)n_sigma * sqrt(variance);
  for (size_t i = 0; i < ch->n; i++)
    if ((double)ch->c[i].logit >= least) ch->c[m++] = ch->c[i];
  ch->n = m;
}

// Those whose surprise -ln p is closest to the entropy, until they have typical_p of the probability (Meister et al. 2022). `saved`
// [n_vocab] holds logits meanwhile: the order of candidates is that of their logits.
QI__FN void qi__step_typical(qi__chain *ch, float typical_p, float *saved) {
  double sum = qi__chain_weigh(ch), entropy = qi__chain_entropy(ch, sum);
  for (size_t i = 0; i < ch->n; i++) {
    double distance = fabs(qi__chain_log(ch, i, sum) + entropy);
    saved[ch->c[i].id] = ch->c[i].logit;
    ch->c[i].logit = (float)(0 - distance);
  }
  ch->n = qi__heap_take(ch->c, ch->n, 0, (double)typical_p * sum);
  for (size_t i = 0; i < ch->n; i++) ch->c[i].logit = saved[ch->c[i].id];
  ch->sorted = false;
  ch->dirty = true;
}

// Drops those with at least `threshold` of the probability but the least likely of them: an unexpected choice where there is more
// than one good one ("exclude top choices").
QI__FN void qi__step_xtc(qi__chain *ch, float threshold) {
  double least = (double)threshold * qi__chain_weigh(ch);
  size_t last = 0, n_above = 0, m = 0;
  for (size_t i = 0; i < ch->n; i++)
    if ((double)ch->c[i].weight >= least && (!n_above++ || qi__candidate_before(&ch->c[last], &ch->c[i]))) last = i;
  if (n_above < 2) return;
  qi_token keep = ch->c[last].id;
  for (size_t i = 0; i < ch->n; i++)
    if ((double)ch->c[i].weight < least || ch->c[i].id == keep) ch->c[m++] = ch->c[i];
  ch->n = m;
  ch->dirty = true;
}

// Probabilities are taken at this temperature from now on; with a range, at one between t - range (at least 0) and t + range that
// grows with the entropy, measured before: low + (high - low) * (entropy / ln n)^exponent.
QI__FN void qi__step_temperature(qi__chain *ch, float t, float range, float exponent) {
  if (range > 0 && ch->n > 1) {
    double low = t > range ? (double)t - (double)range : 0, high = (double)t + (double)range;
    double flatness = qi__chain_entropy(ch, qi__chain_weigh(ch)) / qi__ln((double)ch->n);
    if (!(flatness > 0)) flatness = 0;
    double dynamic = low + (high - low) * (flatness > 0 ? qi__pow(flatness, (double)exponent) : 0);
    t = dynamic < (double)FLT_MIN ? FLT_MIN : dynamic > (double)FLT_MAX ? FLT_MAX : (float)dynamic;
  }
  ch->temperature = t;
  ch->weighed = false;
}

// Those whose surprise -log2 p is at most mu; at least the most likely.
QI__FN void qi__step_mirostat(qi__chain *ch, double mu) {
  double least = qi__exp((0 - mu) * 0x1.62e42fefa39efp-1) * qi__chain_weigh(ch); // ln 2
  size_t m = 0;
  if (least > 1) least = 1; // the greatest weight
  for (size_t i = 0; i < ch->n; i++)
    if ((double)ch->c[i].weight >= least) ch->c[m++] = ch->c[i];
  ch->n = m;
}

#endif // QI__SAMPLER_STEPS_H
