// ==== >>quantize : the search for scales and codes of a block ====
#ifndef QI__FORMATS_QUANTIZE_H
#define QI__FORMATS_QUANTIZE_H

#include "block.h"
#include "half.h"

// Every quantiser minimises sum_i importance[i] * (x[i] - w[i])^2 over one block of
//
//   w[i] = d * scale[g] * level[i] - dmin * min[g]      g = i / group
//
// where d and dmin are halves, scale and min small integers and level one of a few values. All formats share the search; a format
// adds the shape of its block and a function that packs the result. In steps:
//   1. each group alone: real scale (and offset) by a grid of candidates, each refitted by least squares;
//   2. d and dmin so that the groups' integers come near these;
//   3. in turns: integers of each group by trial in the neighbourhood, d and dmin by least squares, while the error falls.
// Only + - * / on float and double, sums in a fixed order: the same bytes on every machine.

typedef struct qi__levels {
  int lo, hi;           // the integers lo..hi
  const int8_t *values; // or 16 ascending values from lo to hi
  const uint8_t *sizes; // or 128 ascending sizes from 0 to hi, of either sign;
  const uint8_t *place; // [hi + 1]: which size is the last that is not above an integer
} qi__levels;

typedef struct qi__block_shape {
  int len, group;     // weights in a block and under one scale; both multiples of 16
  qi__levels code;
  const struct qi__block_shape *other; // that a block may take instead, with as many weights; NULL = none
  int d_exponent;     // d counts 2^-d_exponent
  int s_lo, s_hi;     // scales; 1, 1 where there is only d
  int s_reach;        // how much further than one beside the nearest scale the best is looked for at first
  int m_lo, m_hi;     // mins; 0, 0 where there are none; 1, 1: one offset of either sign (else it only lowers)
} qi__block_shape;

// A block as found, ready for packing. code[i] counts the levels from the lowest: level - lo, or the place in the table; of sizes
// the place, plus 128 where negative.
typedef struct qi__fitted {
  uint16_t d, dmin; // halves
  uint8_t code[QI__BLOCK_MAX];
  int scale[QI__BLOCK_MAX / 16];
  int min[QI__BLOCK_MAX / 16];
  bool other; // the block has the other shape
} qi__fitted;

// What the search works on: weights scaled by 2^-exponent so that the greatest lies in 1..4. Then no square, sum or reciprocal
// leaves the range of float32. d and dmin are as stored, scaled the same way.
typedef struct qi__fit {
  const qi__block_shape *shape;
  int exponent;
  float x[QI__BLOCK_MAX];
  float w[QI__BLOCK_MAX]; // importance, greatest 1
  float q[QI__BLOCK_MAX]; // level of each weight
  float d, dmin;
  uint16_t d_bits, dmin_bits;
  int scale[QI__BLOCK_MAX / 16], min[QI__BLOCK_MAX / 16];
} qi__fit;

#define QI__FIT_TINY 1e-12f  // beside weights near 1: rounds to zero in every format
#define QI__FIT_WORST 3e38f  // above any error

// ---- levels and sums ----

// Place of the size nearest to v >= 0.
QI__INLINE int qi__nearest_size(const qi__levels *levels, float v) {
  const uint8_t *sizes = levels->sizes;
  if (!(v < (float)levels->hi)) return 127;
  int k = levels->place[(int)v];
  return v > 0.5f * (float)(sizes[k] + sizes[k + 1]) ? k + 1 : k;
}

// q[i] = the level nearest to (x[i] + m) * inv. Clamped as float: a conversion out of the range of int is undefined.
QI__FN void qi__nearest_levels(const qi__levels *levels, const float *x, int n, float m, float inv, float *q) {
  float lo = (float)levels->lo, top = (float)(levels->hi - levels->lo);
  if (levels->values) {
    float border[15]; // between neighbours
    for (int k = 0; k < 15; k++) border[k] = 0.5f * (float)(levels->values[k] + levels->values[k + 1]);
    for (int i = 0; i < n; i++) {
      float v = (x[i] + m) * inv;
      int k = 0;
      for (int step = 8; step; step /= 2) k += v > border[k + step - 1] ? step : 0;
      q[i] = (float)levels->values[k];
    }
    return;
  }
  if (levels->sizes) {
    for (int i = 0; i < n; i++) {
      float v = (x[i] + m) * inv, size = (float)levels->sizes[qi__nearest_size(levels, fabsf(v))];
      q[i] = v < 0.0f ? -size : size;
    }
    return;
  }
  for (int i = 0; i < n; i++) {
    float v = (x[i] + m) * inv + (0.5f - lo);
    v = v > 0.0f ? v : 0.0f;
    v = v < top ? v : top;
    q[i] = (float)(int32_t)v + lo;
  }
}

// sum w * q, sum w * q^2, sum w * x * q; eight lanes each, so that a compiler may use vectors. n: a multiple of 8.
typedef struct qi__fit_sums {
  float q, qq, xq;
} qi__fit_sums;

QI__FN qi__fit_sums qi__fit_sums_of(const float *x, const float *w, const float *q, int n) {
  float sq[8] = {0}, sqq[8] = {0}, sxq[8] = {0};
  for (int i = 0; i < n; i += 8)
    for (int j = 0; j < 8; j++) {
      float wq = w[i + j] * q[i + j];
      sq[j] += wq;
      sqq[j] += wq * q[i + j];
      sxq[j] += wq * x[i + j];
    }
  qi__fit_sums s = {qi__sum_lanes(sq), qi__sum_lanes(sqq), qi__sum_lanes(sxq)};
  return s;
}

// sum w * (d * q - m - x)^2
QI__FN float qi__fit_error(const float *x, const float *w, const float *q, int n, float d, float m) {
  float sum[8] = {0};
  for (int i = 0; i < n; i += 8)
    for (int j = 0; j < 8; j++) {
      float e = d * q[i + j] - m - x[i + j];
      sum[j] += w[i + j] * e * e;
    }
  return qi__sum_lanes(sum);
}

QI__INLINE float qi__reciprocal(float d) { return d > 1e-37f || d < -1e-37f ? 1.0f / d : 0.0f; }

// Nearest integer of v, at least lo and at most hi.
QI__FN int qi__round_clamped(float v, int lo, int hi) {
  if (!(v > (float)lo)) return lo;
  if (v >= (float)hi) return hi;
  return (int)(v - (float)lo + 0.5f) + lo;
}

// ---- one group, real scale ----

// Tries codes at 1 / inv. With the best d for them the error is sum w x^2 - gain, gain = (sum w x q)^2 / sum w q^2.
QI__FN float qi__try_scale(const qi__levels *levels, const float *x, const float *w, int n, float inv, float *d) {
  float q[QI__BLOCK_MAX];
  qi__nearest_levels(levels, x, n, 0.0f, inv, q);
  qi__fit_sums s = qi__fit_sums_of(x, w, q, n);
  if (!(s.qq > 0.0f)) return 0.0f;
  *d = s.xq / s.qq;
  return *d * s.xq;
}

// d that makes sum w * (x - d * level)^2 small. Candidates put the greatest weight on either end of the levels, or up to three
// times beyond (an outlier is better clipped), then lie closer around the best; at last codes and scale in turns.
QI__FN float qi__fit_scale(const qi__levels *levels, const float *x, const float *w, int n) {
  float max = 0.0f, best = 0.0f, best_inv = 0.0f, best_d = 0.0f, d;
  for (int i = 0; i < n; i++)
    if (fabsf(x[i]) > fabsf(max)) max = x[i];
  if (fabsf(max) < QI__FIT_TINY) return 0.0f;
  bool symmetric = levels->lo == -levels->hi;
  if (levels->sizes || symmetric) max = fabsf(max); // scales that have no sign, or need none: neighbours then have equal ones
  int ends = levels->lo == 0 || symmetric ? 1 : 2;
  bool fine = levels->hi > 63 && !levels->values; // gain nothing from clipping
  float ratio = fine ? 1.01f : 1.07f;
  int n_steps = levels->hi == 1 ? 48 : 18; // ternary: most of a heavy tail is clipped
  for (int end = 0; end < ends; end++) {
    float inv = (float)(end ? levels->lo : levels->hi) / max;
    inv = inv * (fine ? 0.97f : 0.9f);
    for (int k = 0; k < n_steps; k++, inv = inv * ratio) {
      float gain = qi__try_scale(levels, x, w, n, inv, &d);
      if (gain > best) best = gain, best_inv = inv, best_d = d;
    }
  }
  float center = best_inv;
  for (int k = -4; k <= 4; k++) {
    float inv = center * (1.0f + (float)k * (ratio - 1.0f) * 0.15f);
    float gain = qi__try_scale(levels, x, w, n, inv, &d);
    if (gain > best) best = gain, best_d = d;
  }
  for (int k = 0; k < 4; k++) {
    float gain = qi__try_scale(levels, x, w, n, qi__reciprocal(best_d), &d);
    if (!(gain > best)) break;
    best = gain, best_d = d;
  }
  return best_d;
}

// Least squares of x ~ d * q - m; m < 0 is not allowed unless `free`. False when there is no such d > 0.
QI__FN bool qi__solve_scale_min(qi__fit_sums s, float sw, float sx, bool free_min, float *d, float *m) {
  float det = sw * s.qq - s.q * s.q;
  if (!(det > 1e-6f * sw * s.qq)) return false;
  *d = (sw * s.xq - sx * s.q) / det;
  *m = (s.q * s.xq - s.qq * sx) / det;
  if (*m < 0.0f && !free_min) {
    *m = 0.0f;
    *d = s.xq / s.qq;
  }
  return *d > 0.0f;
}

typedef struct qi__scale_min {
  float d, m, error;
} qi__scale_min;

// Codes at (x + m) / d, then least squares, `rounds` times; keeps what is better than *best. Where least squares has no answer (one
// weight counts, the others nearly nothing), d and m stay.
QI__FN void qi__try_scale_min(const qi__levels *levels, const float *x, const float *w, int n, float sw, float sx, bool free_min,
                              float d, float m, int rounds, qi__scale_min *best) {
  float q[QI__BLOCK_MAX];
  for (int k = 0; k < rounds; k++) {
    qi__nearest_levels(levels, x, n, m, qi__reciprocal(d), q);
    float new_d, new_m;
    bool solved = qi__solve_scale_min(qi__fit_sums_of(x, w, q, n), sw, sx, free_min, &new_d, &new_m);
    if (solved) d = new_d, m = new_m;
    float error = qi__fit_error(x, w, q, n, d, m);
    bool better = error < best->error;
    if (better) best->d = d, best->m = m, best->error = error;
    if (!solved || (k && !better)) return;
  }
}

// d and m that make sum w * (x - d * level + m)^2 small, levels from 0. Candidates shrink the range of x from above or from below.
QI__FN qi__scale_min qi__fit_scale_min(const qi__levels *levels, const float *x, const float *w, int n, bool free_min) {
  float lo = x[0], hi = x[0], sw = 0.0f, sx = 0.0f;
  for (int i = 0; i < n; i++) {
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
    sw += w[i];
    sx += w[i] * x[i];
  }
  if (lo > 0.0f && !free_min) lo = 0.0f;
  float range = hi - lo;
  qi__scale_min best = {0.0f, free_min || sx < 0.0f ? -sx / sw : 0.0f, QI__FIT_WORST};
  if (range < QI__FIT_TINY) return best;
  float step = range / (float)levels->hi, most = (float)levels->hi / (float)(levels->hi - 1); // from one level unused
  int n_steps = levels->hi == 3 ? 22 : 12;
  for (int k = 0; k < n_steps; k++) {
    float d = step * (most - 0.05f * (float)k);
    qi__try_scale_min(levels, x, w, n, sw, sx, free_min, d, -lo, 2, &best);
    if (k > 1) qi__try_scale_min(levels, x, w, n, sw, sx, free_min, d, d * (float)levels->hi - hi, 2, &best);
  }
  qi__scale_min center = best;
  for (int k = -3; k <= 3; k++)
    qi__try_scale_min(levels, x, w, n, sw, sx, free_min, center.d * (1.0f + 0.01f * (float)k), center.m, 4, &best);
  return best;
}

// ---- the block ----

QI__INLINE float qi__pow2(int e) { return qi__bits_f32((uint32_t)(e + 127) << 23); } // e: -126..127

// A real scale to the half that stands for it, and to that half's value in the search's unit. Too large becomes the greatest
// half, and what is not zero does not become zero: codes are found for the scale as stored, so the nearest there is serves best.
QI__FN uint16_t qi__fit_half(const qi__fit *f, float v, float *stored) {
  float scaled = v * qi__pow2(f->exponent) * qi__pow2(f->shape->d_exponent);
  if (scaled > QI__F16_MAX) scaled = QI__F16_MAX;
  if (scaled < -QI__F16_MAX) scaled = -QI__F16_MAX;
  uint16_t h = qi__f32_to_f16(scaled);
  if (v != 0.0f && !(h & 0x7fffu)) h++;
  *stored = qi__f16_to_f32(h) * qi__pow2(-f->shape->d_exponent) * qi__pow2(-f->exponent);
  return h;
}

QI__FN void qi__fit_set_scales(qi__fit *f, float d, float dmin) {
  f->d_bits = qi__fit_half(f, d, &f->d);
  f->dmin_bits = qi__fit_half(f, dmin, &f->dmin);
}

// Takes in weights and importance. False when no half scale can tell the block from zeros.
QI__FN bool qi__fit_load(qi__fit *f, const qi__block_shape *shape, const float *src, const float *importance) {
  float amax = 0.0f, wmax = 0.0f;
  for (int i = 0; i < shape->len; i++) {
    amax = fabsf(src[i]) > amax ? fabsf(src[i]) : amax;
    if (importance && qi__is_finite(importance[i]) && importance[i] > wmax) wmax = importance[i];
  }
  memset(f, 0, sizeof *f);
  f->shape = shape;
  f->exponent = (int)(qi__f32_bits(amax) >> 23) - 127;
  if (f->exponent < -26) return false; // half of the least half is 2^-25
  if (f->exponent > 126) f->exponent = 126;
  float unit = qi__pow2(-f->exponent);
  for (int i = 0; i < shape->len; i++) {
    f->x[i] = src[i] * unit;
    float w = wmax > 0.0f && qi__is_finite(importance[i]) ? importance[i] / wmax : wmax > 0.0f ? 0.0f : 1.0f;
    f->w[i] = w > 1e-7f ? w : 1e-7f; // a group of no importance still deserves a scale
  }
  return true;
}

// Error of group g with scale s and min m; writes its levels.
QI__FN float qi__fit_group_error(const qi__fit *f, int g, int s, int m, float *q) {
  int n = f->shape->group;
  const float *x = f->x + g * n;
  float scale = f->d * (float)s, offset = f->dmin * (float)m;
  qi__nearest_levels(&f->shape->code, x, n, offset, qi__reciprocal(scale), q);
  return qi__fit_error(x, f->w + g * n, q, n, scale, offset);
}

// The best integers for group g around those it has, scales up to `reach` beside. Returns the error.
QI__FN float qi__fit_search_group(qi__fit *f, int g, int reach) {
  const qi__block_shape *sh = f->shape;
  float q[QI__BLOCK_MAX], best = QI__FIT_WORST;
  int s0 = f->scale[g], m0 = f->min[g], n_s = 2 * reach + 1;
  for (int k = 0; k < 3 * n_s; k++) {
    int s = s0 + k / 3 - reach, m = m0 + k % 3 - 1;
    if (s < sh->s_lo || s > sh->s_hi || m < sh->m_lo || m > sh->m_hi) continue;
    float error = qi__fit_group_error(f, g, s, m, q);
    if (!(error < best)) continue;
    best = error;
    f->scale[g] = s;
    f->min[g] = m;
    memcpy(f->q + g * sh->group, q, (size_t)sh->group * sizeof *q);
  }
  return best;
}

// Least squares for d and dmin while codes, scales and mins stay. False when there is nothing to gain.
QI__FN bool qi__fit_refit(qi__fit *f) {
  const qi__block_shape *sh = f->shape;
  double a = 0, b = 0, c = 0, dx = 0, mx = 0; // of s q s q, s q m, m m, s q x, m x
  for (int g = 0; g < sh->len / sh->group; g++) {
    const float *x = f->x + g * sh->group, *w = f->w + g * sh->group;
    qi__fit_sums sums = qi__fit_sums_of(x, w, f->q + g * sh->group, sh->group);
    double s = f->scale[g], m = f->min[g], sw = 0, swx = 0;
    for (int i = 0; m != 0 && i < sh->group; i++) {
      sw += w[i];
      swx += (double)w[i] * x[i];
    }
    a += s * s * sums.qq;
    b += s * m * sums.q;
    c += m * m * sw;
    dx += s * sums.xq;
    mx += m * swx;
  }
  double det = a * c - b * b, d, dmin = 0;
  if (!(a > 0)) return false;
  d = dx / a;
  if (det > 1e-9 * a * c) {
    double both = (dx * b - a * mx) / det;
    if (both > 0 || sh->m_lo == 1) {
      dmin = both;
      d = (dx * c - mx * b) / det;
    }
  }
  if (sh->s_lo == 0 && !(d > 0)) return false;
  uint16_t d_bits = f->d_bits, dmin_bits = f->dmin_bits;
  qi__fit_set_scales(f, (float)d, (float)dmin);
  return f->d_bits != d_bits || f->dmin_bits != dmin_bits;
}

// Steps 1 and 2: real scales of the groups, then d, dmin and the integers next to them.
QI__FN void qi__fit_start(qi__fit *f) {
  const qi__block_shape *sh = f->shape;
  int n = sh->group, n_groups = sh->len / n;
  float scale[16] = {0}, min[16] = {0}, weight[16] = {0}, q[QI__BLOCK_MAX];
  for (int g = 0; g < n_groups; g++) {
    const float *x = f->x + g * n, *w = f->w + g * n;
    if (sh->m_hi) {
      qi__scale_min fitted = qi__fit_scale_min(&sh->code, x, w, n, sh->m_lo == 1);
      scale[g] = fitted.d;
      min[g] = fitted.m;
    } else {
      scale[g] = qi__fit_scale(&sh->code, x, w, n);
    }
    qi__nearest_levels(&sh->code, x, n, min[g], qi__reciprocal(scale[g]), q);
    weight[g] = qi__fit_sums_of(x, w, q, n).qq + 1e-7f; // how fast the error grows beside scale[g]
  }
  qi__levels s_levels = {.lo = sh->s_lo, .hi = sh->s_hi}, m_levels = {.lo = sh->m_lo, .hi = sh->m_hi};
  float d = n_groups > 1 ? qi__fit_scale(&s_levels, scale, weight, n_groups) : scale[0];
  for (int g = 0; g < n_groups; g++) {
    weight[g] = 0.0f;
    for (int i = 0; i < n; i++) weight[g] += f->w[g * n + i];
  }
  float dmin = n_groups > 1 && sh->m_hi ? qi__fit_scale(&m_levels, min, weight, n_groups) : min[0];
  qi__fit_set_scales(f, d, dmin);
  for (int g = 0; g < n_groups; g++) {
    f->scale[g] = qi__round_clamped(scale[g] * qi__reciprocal(f->d), sh->s_lo, sh->s_hi);
    f->min[g] = qi__round_clamped(min[g] * qi__reciprocal(f->dmin), sh->m_lo, sh->m_hi);
  }
}

// See qi__fitted.
QI__FN uint8_t qi__level_code(const qi__levels *levels, int level) {
  if (levels->sizes) return (uint8_t)(qi__nearest_size(levels, (float)abs(level)) | (level < 0 ? 128 : 0));
  if (!levels->values) return (uint8_t)(level - levels->lo);
  int code = 0;
  for (int k = 1; k < 16; k++) code += levels->values[k] <= level;
  return (uint8_t)code;
}

// Returns the error, which can be compared with that of another shape.
QI__FN float qi__fit_block(const qi__block_shape *shape, const float *src, const float *importance, qi__fitted *out) {
  qi__fit now, best;
  float best_error = QI__FIT_WORST;
  bool any = qi__fit_load(&now, shape, src, importance);
  if (any) qi__fit_start(&now);
  else qi__nearest_levels(&shape->code, now.x, shape->len, 0.0f, 0.0f, now.q);
  best = now;
  for (int turn = 0; any && turn < 6; turn++) {
    float error = 0.0f;
    for (int g = 0; g < shape->len / shape->group; g++) error += qi__fit_search_group(&now, g, turn ? 1 : 1 + shape->s_reach);
    if (!(error < best_error)) break;
    best_error = error;
    best = now;
    if (!qi__fit_refit(&now)) break;
  }
  out->d = best.d_bits;
  out->dmin = best.dmin_bits;
  memcpy(out->scale, best.scale, sizeof out->scale);
  memcpy(out->min, best.min, sizeof out->min);
  out->other = false;
  for (int i = 0; i < shape->len; i++) out->code[i] = qi__level_code(&shape->code, (int)best.q[i]);
  return best_error;
}

// One row: n weights, a multiple of the block length; importance NULL or [n].
QI__FN void qi__quantize_row(const qi__block_shape *shape, void (*pack)(const qi__fitted *block, uint8_t *dst), size_t block_bytes,
                             const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__fitted fitted, second;
  size_t len = (size_t)shape->len;
  for (size_t i = 0; i + len <= n; i += len, dst += block_bytes) {
    const float *w = importance ? importance + i : NULL;
    float error = qi__fit_block(shape, src + i, w, &fitted);
    if (shape->other && qi__fit_block(shape->other, src + i, w, &second) < error) {
      fitted = second;
      fitted.other = true;
    }
    pack(&fitted, dst);
  }
}

#endif // QI__FORMATS_QUANTIZE_H
