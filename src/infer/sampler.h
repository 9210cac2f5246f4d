// ==== >>sampler : from logits to a token ====
#ifndef QI__SAMPLER_H
#define QI__SAMPLER_H

#include "sampler_steps.h"

#define QI__LAST_N_MAX 65536
#define QI__PENALTY_LAST_N_DEFAULT 64
#define QI__DRY_LAST_N_DEFAULT 1024
#define QI__LOGPROBS_MAX 1024

// The same logits, desc and history give the same token everywhere: only IEEE operations in a written order and our own exp and ln,
// sums in double, equals ordered by id.

struct qi_sampler {
  qi_sampler_desc desc;      // zeros replaced by what they mean; arrays point to our copies
  int n_vocab;
  bool has_penalties, has_dry;
  qi_sampler_step chain[QI_STEP_COUNT];
  int n_chain;
  qi__candidate *candidates; // [n_vocab]; NULL when every token is a plain argmax
  qi_logit_bias *bias;       // [desc.n_logit_bias]
  int32_t *count;            // [n_vocab] occurrences among the last penalty_last_n; NULL without penalties
  qi_token *history;         // ring [history_cap]
  int history_cap, history_end, history_len; // the newest lies before history_end
  int32_t *dry_match;        // [dry_last_n] and
  int32_t *dry_length;       // [n_vocab], zero between calls: see qi__sampler_dry; NULL without
  uint32_t *dry_breaks;      // [n_vocab / 32] tokens that repetitions do not reach over
  float *saved;              // [n_vocab] for qi__step_typical; NULL without
  double mu;                 // mirostat: greatest surprise
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

// ---- desc ----

// A field of a desc that must be finite and within [lo, hi].
QI__FN qi_result qi__sampler_check_field(const char *name, float value, float lo, float hi, qi_error *err) {
  if (qi__is_finite(value) && value >= lo && value <= hi) return QI_OK;
  return qi__fail(err, QI_ERR_ARGUMENT, "sampler: %s is %g, expected %g to %g", name, (double)value, (double)lo, (double)hi);
}

// An array of a desc.
QI__FN qi_result qi__sampler_check_array(const char *name, const void *array, int n, qi_error *err) {
  if (n < 0) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: n_%s is %d, expected 0 or more", name, n);
  if (n > 0 && !array) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: %s is NULL, n_%s is %d", name, name, n);
  return QI_OK;
}

QI__FN qi_result qi__sampler_check_int(const char *name, int value, int max, qi_error *err) {
  if (value >= 0 && value <= max) return QI_OK;
  return qi__fail(err, QI_ERR_ARGUMENT, "sampler: %s is %d, expected 0 to %d", name, value, max);
}

QI__FN qi_result qi__sampler_check_arrays(int n_vocab, const qi_sampler_desc *d, qi_error *err) {
  qi_result r;
  bool seen[QI_STEP_COUNT] = {false};
  if ((r = qi__sampler_check_array("logit_bias", d->logit_bias, d->n_logit_bias, err))) return r;
  if ((r = qi__sampler_check_array("dry_breakers", d->dry_breakers, d->n_dry_breakers, err))) return r;
  if ((r = qi__sampler_check_array("chain", d->chain, d->n_chain, err))) return r;
  for (int i = 0; i < d->n_logit_bias; i++) {
    const qi_logit_bias *b = &d->logit_bias[i];
    if (b->token < 0 || b->token >= n_vocab)
      return qi__fail(err, QI_ERR_ARGUMENT, "sampler: logit_bias[%d].token is %d, expected 0 to %d", i, (int)b->token, n_vocab - 1);
    if (!qi__is_finite(b->bias) && !(b->bias < 0))
      return qi__fail(err, QI_ERR_ARGUMENT, "sampler: logit_bias[%d].bias is %g, expected a number or -infinity", i,
                      (double)b->bias);
  }
  for (int i = 0; i < d->n_dry_breakers; i++)
    if (d->dry_breakers[i] < 0 || d->dry_breakers[i] >= n_vocab)
      return qi__fail(err, QI_ERR_ARGUMENT, "sampler: dry_breakers[%d] is %d, expected 0 to %d", i, (int)d->dry_breakers[i],
                      n_vocab - 1);
  for (int i = 0; i < d->n_chain; i++) {
    int step = (int)d->chain[i];
    if (step < 0 || step >= QI_STEP_COUNT)
      return qi__fail(err, QI_ERR_ARGUMENT, "sampler: chain[%d] is %d, expected a qi_sampler_step", i, step);
    if (seen[step]) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: chain[%d]: step %d is there twice", i, step);
    seen[step] = true;
  }
  return QI_OK;
}

// desc NULL = all defaults. Errors: QI_ERR_ARGUMENT with the name of the field.
QI__FN qi_result qi__sampler_check(int n_vocab, const qi_sampler_desc *d, qi_error *err) {
  qi_result r;
  if (n_vocab < 1) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: n_vocab is %d, expected at least 1", n_vocab);
  if (!d) return QI_OK;
  const struct {
    const char *name;
    float value, lo, hi;
  } fields[] = {
    {"temperature", d->temperature, 0, FLT_MAX},
    {"top_p", d->top_p, 0, 1},
    {"min_p", d->min_p, 0, 1},
    {"repetition_penalty", d->repetition_penalty, 0, FLT_MAX},
    {"frequency_penalty", d->frequency_penalty, -FLT_MAX, FLT_MAX},
    {"presence_penalty", d->presence_penalty, -FLT_MAX, FLT_MAX},
    {"typical_p", d->typical_p, 0, 1},
    {"top_n_sigma", d->top_n_sigma, 0, FLT_MAX},
    {"xtc_probability", d->xtc_probability, 0, 1},
    {"xtc_threshold", d->xtc_threshold, 0, 1},
    {"temperature_range", d->temperature_range, 0, FLT_MAX},
    {"temperature_exponent", d->temperature_exponent, 0, FLT_MAX},
    {"dry_multiplier", d->dry_multiplier, 0, FLT_MAX},
    {"dry_base", d->dry_base, 0, FLT_MAX},
    {"mirostat_tau", d->mirostat_tau, 0, FLT_MAX},
    {"mirostat_eta", d->mirostat_eta, 0, FLT_MAX},
  };
  for (size_t i = 0; i < QI__COUNT_OF(fields); i++)
    if ((r = qi__sampler_check_field(fields[i].name, fields[i].value, fields[i].lo, fields[i].hi, err))) return r;
  if ((r = qi__sampler_check_int("top_k", d->top_k, INT_MAX, err))) return r;
  if ((r = qi__sampler_check_int("penalty_last_n", d->penalty_last_n, QI__LAST_N_MAX, err))) return r;
  if ((r = qi__sampler_check_int("dry_last_n", d->dry_last_n, QI__LAST_N_MAX, err))) return r;
  if ((r = qi__sampler_check_int("dry_allowed_length", d->dry_allowed_length, QI__LAST_N_MAX, err))) return r;
  return qi__sampler_check_arrays(n_vocab, d, err);
}

QI__FN qi_sampler_desc qi__sampler_desc_defaults(const qi_sampler_desc *desc) {
  qi_sampler_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;
  if (d.repetition_penalty == 0) d.repetition_penalty = 1;
  if (d.top_p == 0) d.top_p = 1;
  if (d.typical_p == 0) d.typical_p = 1;
  if (d.xtc_threshold == 0) d.xtc_threshold = 0.1f;
  if (d.temperature_exponent == 0) d.temperature_exponent = 1;
  if (d.penalty_last_n == 0) d.penalty_last_n = QI__PENALTY_LAST_N_DEFAULT;
  if (d.dry_base == 0) d.dry_base = 1.75f;
  if (d.dry_allowed_length == 0) d.dry_allowed_length = 2;
  if (d.dry_last_n == 0) d.dry_last_n = QI__DRY_LAST_N_DEFAULT;
  if (d.mirostat_eta == 0) d.mirostat_eta = 0.1f;
  return d;
}

// ---- memory ----

QI__FN void qi__sampler_reset(qi_sampler *sp, uint64_t seed) {
  qi__rng_seed(sp->rng, seed);
  sp->history_end = sp->history_len = 0;
  sp->mu = 2 * (double)sp->desc.mirostat_tau;
  if (sp->count) memset(sp->count, 0, (size_t)sp->n_vocab * sizeof *sp->count);
}

// The order of the steps: the caller's or that of the enum. What takes no part is left out.
QI__FN void qi__sampler_set_chain(qi_sampler *sp) {
  const qi_sampler_desc *d = &sp->desc;
  for (int i = 0; i < (d->n_chain ? d->n_chain : QI_STEP_COUNT); i++) {
    qi_sampler_step step = d->n_chain ? d->chain[i] : (qi_sampler_step)i;
    bool on = false;
    switch (step) {
    case QI_STEP_PENALTIES: on = sp->has_penalties; break;
    case QI_STEP_DRY: on = sp->has_dry; break;
    case QI_STEP_TOP_N_SIGMA: on = d->top_n_sigma > 0; break;
    case QI_STEP_TOP_K: on = d->top_k > 0; break;
    case QI_STEP_TYPICAL: on = d->typical_p < 1; break;
    case QI_STEP_TOP_P: on = d->top_p < 1; break;
    case QI_STEP_MIN_P: on = d->min_p > 0; break;
    case QI_STEP_XTC: on = d->xtc_probability > 0; break;
    case QI_STEP_TEMPERATURE: on = true; break;
    case QI_STEP_MIROSTAT: on = d->mirostat_tau > 0; break;
    case QI_STEP_COUNT: break;
    }
    if (d->temperature == 0 && step > QI_STEP_DRY) on = false; // greedy: only what changes logits
    if (on) sp->chain[sp->n_chain++] = step;
  }
}

// What samplers need only while they choose: those that do so one after another may share it.
typedef struct qi__sampler_scratch {
  qi__candidate *candidates; // [n_vocab]
  float *saved;              // [n_vocab]
} qi__sampler_scratch;

// A sampler of a checked desc in an arena, ready to use; NULL while the arena counts. scratch NULL = its own.
QI__FN qi_sampler *qi__sampler_layout(qi__arena *arena, const qi__sampler_scratch *scratch, int n_vocab,
                                      const qi_sampler_desc *desc) {
  qi_sampler_desc d = qi__sampler_desc_defaults(desc);
  bool has_penalties = d.repetition_penalty != 1 || d.frequency_penalty != 0 || d.presence_penalty != 0;
  bool has_dry = d.dry_multiplier > 0, typical = d.typical_p < 1;
  bool plain = d.temperature == 0 && !has_penalties && !has_dry && d.n_logit_bias == 0;
  int history_cap = has_penalties ? d.penalty_last_n : 0;
  if (has_dry && d.dry_last_n > history_cap) history_cap = d.dry_last_n;
  size_t n = (size_t)n_vocab, n_words = (n + 31) / 32;
  qi_sampler *sp = QI__ARENA_ARRAY(arena, qi_sampler, 1);
  qi__candidate *candidates = scratch ? scratch->candidates : QI__ARENA_ARRAY(arena, qi__candidate, plain ? 0 : n);
  qi_logit_bias *bias = QI__ARENA_ARRAY(arena, qi_logit_bias, (size_t)d.n_logit_bias);
  int32_t *count = QI__ARENA_ARRAY(arena, int32_t, has_penalties ? n : 0);
  qi_token *history = QI__ARENA_ARRAY(arena, qi_token, (size_t)history_cap);
  int32_t *dry_match = QI__ARENA_ARRAY(arena, int32_t, has_dry ? (size_t)d.dry_last_n : 0);
  int32_t *dry_length = QI__ARENA_ARRAY(arena, int32_t, has_dry ? n : 0);
  uint32_t *dry_breaks = QI__ARENA_ARRAY(arena, uint32_t, has_dry ? n_words : 0);
  float *saved = scratch ? scratch->saved : QI__ARENA_ARRAY(arena, float, typical ? n : 0);
  if (!sp) return NULL;
  memset(sp, 0, sizeof *sp);
  if (d.n_logit_bias) memcpy(bias, d.logit_bias, (size_t)d.n_logit_bias * sizeof *bias);
  if (has_dry) memset(dry_length, 0, n * sizeof *dry_length);
  if (has_dry) memset(dry_breaks, 0, n_words * sizeof *dry_breaks);
  for (int i = 0; has_dry && i < d.n_dry_breakers; i++) dry_breaks[d.dry_breakers[i] / 32] |= 1u << (d.dry_breakers[i] % 32);
  sp->desc = d;
  sp->n_vocab = n_vocab;
  sp->has_penalties = has_penalties;
  sp->has_dry = has_dry;
  sp->candidates = plain ? NULL : candidates;
  sp->bias = bias;
  sp->count = has_penalties ? count : NULL;
  sp->history = history;
  sp->history_cap = history_cap;
  sp->dry_match = dry_match;
  sp->dry_length = dry_length;
  sp->dry_breaks = dry_breaks;
  sp->saved = saved;
  sp->exp_block = qi__exp_block_choose();
  qi__sampler_set_chain(sp);
  sp->desc.logit_bias = bias;
  sp->desc.dry_breakers = NULL;
  sp->desc.chain = NULL;
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
  qi__sampler_layout(&arena, NULL, n_vocab, desc);
  r = qi__arena_open(&arena, &a, "sampler", err);
  if (r) return r;
  qi_sampler *sp = qi__sampler_layout(&arena, NULL, n_vocab, desc);
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

// ---- history ----

// The k-th newest token, from 0.
QI__INLINE qi_token qi__sampler_recent(const qi_sampler *sp, int k) {
  int at = sp->history_end - 1 - k;
  return sp->history[at < 0 ? at + sp->history_cap : at];
}

// Ids out of range are ignored.
QI__FN void qi__sampler_accept(qi_sampler *sp, qi_token token) {
  if (!sp->history_cap || token < 0 || token >= sp->n_vocab) return;
  if (sp->count) {
    int last_n = sp->desc.penalty_last_n;
    if (sp->history_len >= last_n) sp->count[qi__sampler_recent(sp, last_n - 1)]--;
    sp->count[token]++;
  }
  sp->history[sp->history_end] = token;
  sp->history_end = sp->history_end + 1 == sp->history_cap ? 0 : sp->history_end + 1;
  if (sp->history_len < sp->history_cap) sp->history_len++;
}

// ---- logits ----

// Bit t of `allowed`; NULL allows all.
QI__INLINE bool qi__is_allowed(const uint32_t *allowed, qi_token t) { return !allowed || allowed[t / 32] >> (t % 32) & 1; }

// All tokens as candidates, with bias.
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
}

// Of each recent token: repetition penalty, then count * frequency + presence is subtracted.
QI__FN void qi__sampler_penalize(qi_sampler *sp, qi__chain *ch) {
  const qi_sampler_desc *d = &sp->desc;
  for (size_t i = 0; i < ch->n; i++) {
    int32_t count = sp->count[ch->c[i].id];
    if (!count) continue;
    float logit = ch->c[i].logit;
    logit = logit > 0 ? logit / d->repetition_penalty : logit * d->repetition_penalty;
    logit -= (float)count * d->frequency_penalty + d->presence_penalty;
    ch->c[i].logit = qi__sampler_clean(logit);
  }
}

// dry_match[k] = how many of the newest tokens are found again, in the same order, k tokens earlier: the Z-algorithm (Gusfield
// 1997) over the n newest, from the newest on.
QI__FN void qi__sampler_find_matches(qi_sampler *sp, int n) {
  int32_t *z = sp->dry_match;
  for (int k = 1, left = 0, right = 0; k < n; k++) { // newest tokens left..right-1 are those 0..right-left-1
    int len = 0;
    if (k < right) len = z[k - left] < right - k ? z[k - left] : right - k;
    while (k + len < n && qi__sampler_recent(sp, len) == qi__sampler_recent(sp, k + len)) len++;
    z[k] = len;
    if (k + len > right) {
      left = k;
      right = k + len;
    }
  }
}

// DRY ("don't repeat yourself", p-e-w 2024): a token that would go on with a repetition of len tokens, len at least
// dry_allowed_length, loses multiplier * base^(len - allowed_length). Repetitions reach back to the last breaker.
QI__FN void qi__sampler_dry(qi_sampler *sp, qi__chain *ch) {
  const qi_sampler_desc *d = &sp->desc;
  int n = sp->history_len < d->dry_last_n ? sp->history_len : d->dry_last_n, reach = 0;
  while (reach < n && !qi__is_allowed(sp->dry_breaks, qi__sampler_recent(sp, reach))) reach++;
  if (reach < d->dry_allowed_length) return;
  qi__sampler_find_matches(sp, n);
  for (int k = 1; k < n; k++) {
    int len = sp->dry_match[k] < reach ? sp->dry_match[k] : reach;
    int32_t *longest = &sp->dry_length[qi__sampler_recent(sp, k - 1)];
    if (len >= d->dry_allowed_length && len > *longest) *longest = len;
  }
  for (size_t i = 0; i < ch->n; i++) {
    qi_token t = ch->c[i].id;
    if (!sp->dry_length[t] || qi__is_allowed(sp->dry_breaks, t)) continue;
    double loss = (double)d->dry_multiplier * qi__pow((double)d->dry_base, sp->dry_length[t] - d->dry_allowed_length);
    ch->c[i].logit = qi__sampler_clean(ch->c[i].logit - (loss < (double)FLT_MAX ? (float)loss : FLT_MAX));
  }
  for (int k = 0; k < n; k++) sp->dry_length[qi__sampler_recent(sp, k)] = 0;
}

// What is left when no logit is above -infinity: the lowest allowed id that no bias forbids, else the lowest allowed, else 0.
QI__FN qi_token qi__sampler_fallback(qi_sampler *sp, const uint32_t *allowed) {
  qi_token first = -1;
  for (int i = 0; sp->candidates && i < sp->n_vocab; i++) sp->candidates[i].weight = 0;
  for (int i = 0; sp->candidates && i < sp->desc.n_logit_bias; i++)
    if (sp->bias[i].bias < -FLT_MAX) sp->candidates[sp->bias[i].token].weight = 1;
  for (int i = 0; i < sp->n_vocab; i++) {
    if (!qi__is_allowed(allowed, i)) continue;
    if (!sp->candidates || sp->candidates[i].weight == 0) return i;
    if (first < 0) first = i;
  }
  return first < 0 ? 0 : first;
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

QI__FN void qi__sampler_step(qi_sampler *sp, qi_sampler_step step, qi__chain *ch) {
  const qi_sampler_desc *d = &sp->desc;
  switch (step) {
  case QI_STEP_PENALTIES: qi__sampler_penalize(sp, ch); break;
  case QI_STEP_DRY: qi__sampler_dry(sp, ch); break;
  case QI_STEP_TOP_N_SIGMA: qi__step_top_n_sigma(ch, d->top_n_sigma); break;
  case QI_STEP_TOP_K: qi__step_top_k(ch, d->top_k); break;
  case QI_STEP_TYPICAL: qi__step_typical(ch, d->typical_p, sp->saved); break;
  case QI_STEP_TOP_P: qi__step_top_p(ch, d->top_p); break;
  case QI_STEP_MIN_P: qi__step_min_p(ch, d->min_p); break;
  case QI_STEP_XTC:
    if (qi__rng_double(sp->rng) < (double)d->xtc_probability) qi__step_xtc(ch, d->xtc_threshold);
    break;
  case QI_STEP_TEMPERATURE: qi__step_temperature(ch, d->temperature, d->temperature_range, d->temperature_exponent); break;
  case QI_STEP_MIROSTAT: qi__step_mirostat(ch, sp->mu); break;
  case QI_STEP_COUNT: break;
  }
  if (step == QI_STEP_PENALTIES || step == QI_STEP_DRY) {
    ch->dirty = true;
    ch->sorted = false;
  }
}

// One of the candidates (there are some), with probability in proportion to its weight. Mirostat 2 (Basu et al. 2020) learns from
// its surprise.
QI__FN qi_token qi__sampler_draw(qi_sampler *sp, qi__chain *ch) {
  const qi__candidate *c = ch->c;
  double sum = qi__chain_weigh(ch), point = qi__rng_double(sp->rng) * sum, have = 0;
  size_t last = 0; // rounding may leave the last sum at, not above, the point
  for (size_t i = 0; i < ch->n; i++) {
    if (c[i].weight == 0) continue;
    last = i;
    if ((have += (double)c[i].weight) > point) break;
  }
  if (sp->desc.mirostat_tau > 0) {
    double surprise = qi__chain_log(ch, last, sum) * -0x1.71547652b82fep+0; // 1 / ln 2
    sp->mu -= (double)sp->desc.mirostat_eta * (surprise - (double)sp->desc.mirostat_tau);
  }
  return c[last].id;
}

// One of the candidates, after the steps of the chain from `first` on.
QI__FN qi_token qi__sampler_choose(qi_sampler *sp, qi__chain *ch, int first, const uint32_t *allowed) {
  for (int i = first; i < sp->n_chain; i++) {
    if (sp->chain[i] > QI_STEP_DRY && !qi__chain_refresh(ch)) break;
    qi__sampler_step(sp, sp->chain[i], ch);
  }
  if (!qi__chain_refresh(ch)) return qi__sampler_fallback(sp, allowed);
  if (sp->desc.temperature > 0) return qi__sampler_draw(sp, ch);
  size_t best = 0;
  for (size_t i = 1; i < ch->n; i++)
    if (qi__candidate_before(&ch->c[i], &ch->c[best])) best = i;
  return ch->c[best].id;
}

// See qi_sampler_sample. Of random numbers, each call that is not greedy takes one, XTC another.
QI__FN qi_token qi__sampler_sample(qi_sampler *sp, const float *logits, const uint32_t *allowed) {
  if (!sp->candidates) {
    qi_token t = qi__argmax(logits, sp->n_vocab, allowed);
    return t < 0 ? qi__sampler_fallback(sp, allowed) : t;
  }
  qi__sampler_load(sp, logits, allowed);
  qi__chain ch = {sp->candidates, (size_t)sp->n_vocab, 0, 1, false, true, false, sp->exp_block};
  return qi__sampler_choose(sp, &ch, 0, allowed);
}

// ---- candidates that a device has found ----

#define QI__TOP_MAX 128

// How many of the first candidates (QI_OP_TOP) the sampler needs to do without logits; 0: it needs all logits. Behind those of
// top_k one more: whether it is there tells whether that step puts them in order.
QI__FN size_t qi__sampler_needs(const qi_sampler *sp) {
  if (!sp->candidates) return 1;
  if (sp->desc.n_logit_bias || !sp->n_chain || sp->chain[0] != QI_STEP_TOP_K) return 0;
  size_t n = (size_t)sp->desc.top_k + 1;
  return n <= QI__TOP_MAX && n <= (size_t)sp->n_vocab ? n : 0;
}

// What qi__sampler_sample gives for logits whose first n candidates are `top`. False: they are not enough, nothing has changed.
QI__FN bool qi__sampler_sample_top(qi_sampler *sp, const qi_op_candidate *top, size_t n, qi_token *out) {
  size_t needs = qi__sampler_needs(sp), k = needs - 1;
  if (!needs || n < needs) return false;
  if (!(top[0].logit <= FLT_MAX) || !(top[k].logit >= -FLT_MAX)) return false; // infinite ones: see qi__sampler_clean
  *out = top[0].token;
  if (!sp->candidates) return true;
  for (size_t i = 0; i < k; i++) sp->candidates[i] = (qi__candidate){top[i].logit, 0, top[i].token};
  qi__chain ch = {sp->candidates, k, top[0].logit, 1, true, false, false, sp->exp_block};
  *out = qi__sampler_choose(sp, &ch, 1, NULL);
  return true;
}

// ---- log-probabilities ----

// The n most likely of n_vocab tokens, in order, with ln of their probability at temperature 1. NaN counts as -infinity. Returns
// how many have one.
QI__FN int qi__top_logprobs(const float *logits, int n_vocab, qi_logprob *out, int n) {
  int have = 0;
  double sum = 0;
  for (int i = 0; i < n_vocab; i++) {
    float logit = qi__sampler_clean(logits[i]);
    if (!(logit >= -FLT_MAX) || (have == n && !(logit > out[n - 1].logprob))) continue;
    int lo = 0, hi = have; // the first that is lower
    while (lo < hi) {
      int mid = (lo + hi) / 2;
      if (out[mid].logprob >= logit) lo = mid + 1;
      else hi = mid;
    }
    if (have < n) have++;
    memmove(&out[lo + 1], &out[lo], (size_t)(have - 1 - lo) * sizeof *out);
    out[lo] = (qi_logprob){i, logit};
  }
  if (!have) return 0;
  double max = (double)out[0].logprob;
  for (int i = 0; i < n_vocab; i++) {
    float logit = qi__sampler_clean(logits[i]);
    if (logit >= -FLT_MAX) sum += qi__exp((double)logit - max);
  }
  for (int i = 0; i < have; i++) out[i].logprob = (float)((double)out[i].logprob - max - qi__ln(sum));
  return have;
}

#endif // QI__SAMPLER_H
