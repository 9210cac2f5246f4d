// ==== >>attention : query heads over a run of keys ====
#ifndef QI__KERNELS_ATTENTION_H
#define QI__KERNELS_ATTENTION_H

#include "dot_f32.h"
#include "vector.h"

// Keys are taken in pieces of this many positions, cut at multiples of it, whatever the chunk or the batch: each piece gives a
// maximum, a sum and a weighted value, and pieces are joined in ascending order. So bits depend on positions alone, and long
// contexts can be split over threads piece by piece.
#define QI__ATTENTION_PIECE 256

// Keys and values of one head of one sequence at consecutive positions, in float32 or float16.
typedef struct qi__kv_run {
  const void *k; // [n, head_dim_k]
  const void *v; // [n, head_dim_v]
  size_t n;
  bool half;
} qi__kv_run;

// Of one query head: running maximum and sum of exponentials; what the values so far and those of the last piece are multiplied by.
typedef struct qi__softmax_state {
  float max, sum, keep, add;
} qi__softmax_state;

// Query heads that share a key/value head go together: each key and value is read and converted once for several of them.

// score[g * QI__ATTENTION_PIECE + j] = scale * dot(q[g], k[j])      g < n_q, q: [n_q, dim]; the sum of qi__dot_float_fn
// n <= QI__ATTENTION_PIECE
QI__FN void qi__attention_scores_ref(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float scale, float *score) {
  if (run->half) qi__dot_f16_ref(run->k, 2 * dim, run->n, q, dim, n_q, dim, score, QI__ATTENTION_PIECE);
  else qi__dot_f32_ref(run->k, 4 * dim, run->n, q, dim, n_q, dim, score, QI__ATTENTION_PIECE);
  for (size_t g = 0; g < n_q; g++)
    for (size_t j = 0; j < run->n; j++) score[g * QI__ATTENTION_PIECE + j] *= scale;
}

// The greater; b when they cannot be ordered, as in MAXPS.
QI__INLINE float qi__greater(float a, float b) { return a > b ? a : b; }

// *max = greatest score (NaN counts as none), score[j] = exp(score[j] - *max); returns their sum. Both run in lanes of j % 8.
QI__FN float qi__attention_softmax_ref(float *score, size_t n, float *max) {
  float lane[8] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
  for (size_t j = 0; j < n; j++) lane[j % 8] = qi__greater(score[j], lane[j % 8]);
  for (int l = 1; l < 8; l++) lane[0] = qi__greater(lane[l], lane[0]);
  *max = lane[0];
  memset(lane, 0, sizeof lane);
  for (size_t j = 0; j < n; j++) {
    score[j] = qi__exp_ref(score[j] - *max);
    lane[j % 8] += score[j];
  }
  return qi__sum_lanes(lane);
}

// Element i of value j; `half` is a constant where this is inlined.
QI__INLINE float qi__kv_value(const void *p, size_t i, bool half) {
  return half ? qi__f16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

// out[g * dim + i] = sum_j weight[g * QI__ATTENTION_PIECE + j] * v[j, i], j ascending, one fma each; from i = first.
QI__INLINE void qi__attention_values_from(const float *weight, size_t n_q, const qi__kv_run *run, size_t dim, size_t first,
                                          float *out) {
  for (size_t g = 0; g < n_q; g++, weight += QI__ATTENTION_PIECE, out += dim) {
    for (size_t i = first; i < dim; i++) out[i] = 0;
    for (size_t j = 0; j < run->n; j++)
      for (size_t i = first; i < dim; i++) out[i] = fmaf(weight[j], qi__kv_value(run->v, j * dim + i, run->half), out[i]);
  }
}

QI__FN void qi__attention_values_ref(const float *weight, size_t n_q, const qi__kv_run *run, size_t dim, float *out) {
  qi__attention_values_from(weight, n_q, run, dim, 0, out);
}

// values[i] = values[i] * keep + piece[i] * add
QI__FN void qi__attention_blend_ref(float *values, float keep, const float *piece, float add, size_t n) {
  for (size_t i = 0; i < n; i++) {
    float old = values[i] * keep;
    values[i] = fmaf(piece[i], add, old);
  }
}

// Joins a piece (max, sum) to what came before; `blend` does the same to the values with all->keep and all->add.
QI__FN void qi__attention_join(qi__softmax_state *all, float max, float sum) {
  float joint = qi__greater(max, all->max);
  all->keep = qi__exp_ref(all->max - joint);
  all->add = qi__exp_ref(max - joint);
  float kept = all->sum * all->keep;
  all->sum = fmaf(sum, all->add, kept);
  all->max = joint;
}

#if defined(QI__X86_64)

// ---- AVX2 ----

QI__FN QI__AVX2 void qi__attention_scores_avx2(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float scale,
                                               float *score) {
  if (run->half) qi__dot_f16_avx2(run->k, 2 * dim, run->n, q, dim, n_q, dim, score, QI__ATTENTION_PIECE);
  else qi__dot_f32_avx2(run->k, 4 * dim, run->n, q, dim, n_q, dim, score, QI__ATTENTION_PIECE);
  const __m256 scales = _mm256_set1_ps(scale);
  for (size_t g = 0; g < n_q; g++, score += QI__ATTENTION_PIECE) {
    size_t j = 0;
    for (; j + 8 <= run->n; j += 8) _mm256_storeu_ps(score + j, _mm256_mul_ps(_mm256_loadu_ps(score + j), scales));
    for (; j < run->n; j++) score[j] *= scale;
  }
}

QI__FN QI__AVX2 float qi__attention_softmax_avx2(float *score, size_t n, float *max) {
  float lane[8];
  __m256 most = _mm256_set1_ps(-INFINITY), sum = _mm256_setzero_ps();
  size_t j = 0;
  for (; j + 8 <= n; j += 8) most = _mm256_max_ps(_mm256_loadu_ps(score + j), most);
  _mm256_storeu_ps(lane, most);
  for (; j < n; j++) lane[j % 8] = qi__greater(score[j], lane[j % 8]);
  for (int l = 1; l < 8; l++) lane[0] = qi__greater(lane[l], lane[0]);
  *max = lane[0];
  most = _mm256_set1_ps(*max);
  for (j = 0; j + 8 <= n; j += 8) {
    __m256 e = qi__exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(score + j), most));
    _mm256_storeu_ps(score + j, e);
    sum = _mm256_add_ps(sum, e);
  }
  _mm256_storeu_ps(lane, sum);
  for (; j < n; j++) {
    score[j] = qi__exp_ref(score[j] - *max);
    lane[j % 8] += score[j];
  }
  return qi__sum_lanes(lane);
}

// n_q <= 3 query heads, n_v <= 8 registers of a value; all but `n` are constants where this is inlined.
QI__INLINE QI__AVX2 void qi__values_tile_avx2(const float *weight, int n_q, const void *v, size_t first, int n_v, size_t n,
                                              size_t dim, bool half, float *out) {
  __m256 sum[3][8];
  QI__UNROLL for (int g = 0; g < n_q; g++) QI__UNROLL for (int i = 0; i < n_v; i++) sum[g][i] = _mm256_setzero_ps();
  for (size_t j = 0; j < n; j++) {
    __m256 w[3];
    QI__UNROLL for (int g = 0; g < n_q; g++) w[g] = _mm256_broadcast_ss(weight + (size_t)g * QI__ATTENTION_PIECE + j);
    QI__UNROLL for (int i = 0; i < n_v; i++) {
      __m256 value = qi__load_kv_avx2(v, j * dim + first + (size_t)(8 * i), half);
      QI__UNROLL for (int g = 0; g < n_q; g++) sum[g][i] = _mm256_fmadd_ps(w[g], value, sum[g][i]);
    }
  }
  QI__UNROLL for (int g = 0; g < n_q; g++) QI__UNROLL for (int i = 0; i < n_v; i++)
    _mm256_storeu_ps(out + (size_t)g * dim + first + (size_t)(8 * i), sum[g][i]);
}

QI__INLINE QI__AVX2 void qi__values_avx2(const float *weight, size_t n_q, const qi__kv_run *run, size_t first, size_t dim,
                                         bool half, float *out) {
  for (size_t g = 0; g < n_q;) {
    size_t heads = n_q - g >= 3 ? 3 : 1, i = first;
    const float *w = weight + g * QI__ATTENTION_PIECE;
    float *o = out + g * dim;
    if (heads == 1)
      for (; i + 64 <= dim; i += 64) qi__values_tile_avx2(w, 1, run->v, i, 8, run->n, dim, half, o);
    for (; i + 32 <= dim; i += 32) {
      if (heads == 3) qi__values_tile_avx2(w, 3, run->v, i, 4, run->n, dim, half, o);
      else qi__values_tile_avx2(w, 1, run->v, i, 4, run->n, dim, half, o);
    }
    for (; i + 8 <= dim; i += 8) {
      if (heads == 3) qi__values_tile_avx2(w, 3, run->v, i, 1, run->n, dim, half, o);
      else qi__values_tile_avx2(w, 1, run->v, i, 1, run->n, dim, half, o);
    }
    if (i < dim) qi__attention_values_from(w, heads, run, dim, i, o);
    g += heads;
  }
}

QI__FN QI__AVX2 void qi__attention_values_avx2(const float *weight, size_t n_q, const qi__kv_run *run, size_t dim, float *out) {
  if (run->half) qi__values_avx2(weight, n_q, run, 0, dim, true, out);
  else qi__values_avx2(weight, n_q, run, 0, dim, false, out);
}

QI__FN QI__AVX2 void qi__attention_blend_avx2(float *values, float keep, const float *piece, float add, size_t n) {
  const __m256 keeps = _mm256_set1_ps(keep), adds = _mm256_set1_ps(add);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 old = _mm256_mul_ps(_mm256_loadu_ps(values + i), keeps);
    _mm256_storeu_ps(values + i, _mm256_fmadd_ps(_mm256_loadu_ps(piece + i), adds, old));
  }
  qi__attention_blend_ref(values + i, keep, piece + i, add, n - i);
}

// ---- AVX-512 ----

QI__FN QI__AVX512 void qi__attention_scores_avx512(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float scale,
                                                   float *score) {
  if (n_q < 6) { // does not fill a tile of qi__dot_float_rows_avx512
    qi__attention_scores_avx2(q, n_q, run, dim, scale, score);
    return;
  }
  if (run->half) qi__dot_f16_avx512(run->k, 2 * dim, run->n, q, dim, n_q, dim, score, QI__ATTENTION_PIECE);
  else qi__dot_f32_avx512(run->k, 4 * dim, run->n, q, dim, n_q, dim, score, QI__ATTENTION_PIECE);
  const __m512 scales = _mm512_set1_ps(scale);
  for (size_t g = 0; g < n_q; g++, score += QI__ATTENTION_PIECE)
    for (size_t j = 0; j < run->n; j += 16) {
      __mmask16 mask = qi__tail_mask_avx512(run->n - j);
      _mm512_mask_storeu_ps(score + j, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, score + j), scales));
    }
}

// Four query heads, four registers of a value.
QI__INLINE QI__AVX512 void qi__values_tile_avx512(const float *weight, const void *v, size_t first, size_t n, size_t dim, bool half,
                                                  float *out) {
  __m512 sum[4][4];
  QI__UNROLL for (int g = 0; g < 4; g++) QI__UNROLL for (int i = 0; i < 4; i++) sum[g][i] = _mm512_setzero_ps();
  for (size_t j = 0; j < n; j++) {
    __m512 w[4];
    QI__UNROLL for (int g = 0; g < 4; g++) w[g] = _mm512_set1_ps(weight[(size_t)g * QI__ATTENTION_PIECE + j]);
    QI__UNROLL for (int i = 0; i < 4; i++) {
      __m512 value = qi__load_kv_avx512(v, j * dim + first + (size_t)(16 * i), half);
      QI__UNROLL for (int g = 0; g < 4; g++) sum[g][i] = _mm512_fmadd_ps(w[g], value, sum[g][i]);
    }
  }
  QI__UNROLL for (int g = 0; g < 4; g++) QI__UNROLL for (int i = 0; i < 4; i++)
    _mm512_storeu_ps(out + (size_t)g * dim + first + (size_t)(16 * i), sum[g][i]);
}

// Fewer heads than four keep too few sums under way for registers of 512 bits.
QI__INLINE QI__AVX512 void qi__values_avx512(const float *weight, size_t n_q, const qi__kv_run *run, size_t dim, bool half,
                                             float *out) {
  for (; n_q >= 4; n_q -= 4, weight += 4 * QI__ATTENTION_PIECE, out += 4 * dim) {
    size_t i = 0;
    for (; i + 64 <= dim; i += 64) qi__values_tile_avx512(weight, run->v, i, run->n, dim, half, out);
    if (i < dim) qi__values_avx2(weight, 4, run, i, dim, half, out);
  }
  if (n_q) qi__values_avx2(weight, n_q, run, 0, dim, half, out);
}

QI__FN QI__AVX512 void qi__attention_values_avx512(const float *weight, size_t n_q, const qi__kv_run *run, size_t dim, float *out) {
  if (run->half) qi__values_avx512(weight, n_q, run, dim, true, out);
  else qi__values_avx512(weight, n_q, run, dim, false, out);
}
#endif

// ---- NEON ----

#if defined(QI__ARM64)

QI__FN void qi__attention_scores_neon(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float scale, float *score) {
  if (run->half) qi__dot_f16_neon(run->k, 2 * dim, run->n, q, dim, n_q, dim, score, QI__ATTENTION_PIECE);
  else qi__dot_f32_neon(run->k, 4 * dim, run->n, q, dim, n_q, dim, score, QI__ATTENTION_PIECE);
  for (size_t g = 0; g < n_q; g++, score += QI__ATTENTION_PIECE) {
    size_t j = 0;
    for (; j + 4 <= run->n; j += 4) vst1q_f32(score + j, vmulq_n_f32(vld1q_f32(score + j), scale));
    for (; j < run->n; j++) score[j] *= scale;
  }
}

// a > b ? a : b in each lane, which FMAX is not for NaN.
QI__INLINE float32x4_t qi__greater_neon(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

QI__FN float qi__attention_softmax_neon(float *score, size_t n, float *max) {
  float lane[8];
  float32x4_t low = vdupq_n_f32(-INFINITY), high = low;
  size_t j = 0;
  for (; j + 8 <= n; j += 8) {
    low = qi__greater_neon(vld1q_f32(score + j), low);
    high = qi__greater_neon(vld1q_f32(score + j + 4), high);
  }
  vst1q_f32(lane, low);
  vst1q_f32(lane + 4, high);
  for (; j < n; j++) lane[j % 8] = qi__greater(score[j], lane[j % 8]);
  for (int l = 1; l < 8; l++) lane[0] = qi__greater(lane[l], lane[0]);
  *max = lane[0];
  float32x4_t most = vdupq_n_f32(*max);
  low = high = vdupq_n_f32(0);
  for (j = 0; j + 8 <= n; j += 8) {
    float32x4_t a = qi__exp_neon(vsubq_f32(vld1q_f32(score + j), most));
    float32x4_t b = qi__exp_neon(vsubq_f32(vld1q_f32(score + j + 4), most));
    vst1q_f32(score + j, a);
    vst1q_f32(score + j + 4, b);
    low = vaddq_f32(low, a);
    high = vaddq_f32(high, b);
  }
  vst1q_f32(lane, low);
  vst1q_f32(lane + 4, high);
  for (; j < n; j++) {
    score[j] = qi__exp_ref(score[j] - *max);
    lane[j % 8] += score[j];
  }
  return qi__sum_lanes(lane);
}

// n_q <= 4 query heads, n_v <= 4 registers of a value.
QI__INLINE void qi__values_tile_neon(const float *weight, int n_q, const void *v, size_t first, int n_v, size_t n, size_t dim,
                                     bool half, float *out) {
  float32x4_t sum[4][4];
  QI__UNROLL for (int g = 0; g < n_q; g++) QI__UNROLL for (int i = 0; i < n_v; i++) sum[g][i] = vdupq_n_f32(0);
  for (size_t j = 0; j < n; j++)
    QI__UNROLL for (int i = 0; i < n_v; i++) {
      float32x4_t value = qi__load_kv_neon(v, j * dim + first + (size_t)(4 * i), half);
      QI__UNROLL for (int g = 0; g < n_q; g++)
        sum[g][i] = vfmaq_f32(sum[g][i], value, vdupq_n_f32(weight[(size_t)g * QI__ATTENTION_PIECE + j]));
    }
  QI__UNROLL for (int g = 0; g < n_q; g++) QI__UNROLL for (int i = 0; i < n_v; i++)
    vst1q_f32(out + (size_t)g * dim + first + (size_t)(4 * i), sum[g][i]);
}

QI__INLINE void qi__values_neon(const float *weight, size_t n_q, const qi__kv_run *run, size_t dim, bool half, float *out) {
  for (size_t g = 0; g < n_q;) {
    size_t heads = n_q - g >= 4 ? 4 : 1, i = 0;
    const float *w = weight + g * QI__ATTENTION_PIECE;
    float *o = out + g * dim;
    for (; i + 16 <= dim; i += 16) {
      if (heads == 4) qi__values_tile_neon(w, 4, run->v, i, 4, run->n, dim, half, o);
      else qi__values_tile_neon(w, 1, run->v, i, 4, run->n, dim, half, o);
    }
    if (i < dim) qi__attention_values_from(w, heads, run, dim, i, o);
    g += heads;
  }
}

QI__FN void qi__attention_values_neon(const float *weight, size_t n_q, const qi__kv_run *run, size_t dim, float *out) {
  if (run->half) qi__values_neon(weight, n_q, run, dim, true, out);
  else qi__values_neon(weight, n_q, run, dim, false, out);
}

QI__FN void qi__attention_blend_neon(float *values, float keep, const float *piece, float add, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    float32x4_t old = vmulq_n_f32(vld1q_f32(values + i), keep);
    vst1q_f32(values + i, vfmaq_f32(old, vld1q_f32(piece + i), vdupq_n_f32(add)));
  }
  qi__attention_blend_ref(values + i, keep, piece + i, add, n - i);
}
#endif

#endif // QI__KERNELS_ATTENTION_H
