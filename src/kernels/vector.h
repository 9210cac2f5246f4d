// ==== >>vector : norms, rotary positions, gates ====
#ifndef QI__KERNELS_VECTOR_H
#define QI__KERNELS_VECTOR_H

#include "../formats/half.h"
#include "math.h"
#include "simd.h"

// y[i] = x[i] / sqrt(mean(x^2) + eps) * w[i]      i < n; y may be x
// The sum runs in eight lanes (element j in lane j % 8, one fma each), then qi__sum_lanes. (Zhang and Sennrich 2019)
QI__FN void qi__rms_norm_ref(const float *x, const float *w, float eps, size_t n, float *y) {
  float lane[8] = {0};
  for (size_t i = 0; i < n; i++) lane[i % 8] = fmaf(x[i], x[i], lane[i % 8]);
  float scale = 1.0f / sqrtf(qi__sum_lanes(lane) / (float)n + eps);
  for (size_t i = 0; i < n; i++) {
    float normed = x[i] * scale;
    y[i] = normed * w[i];
  }
}

// Results [n_x, n_w] of a product: y = sums + bias, or y += that if `add`. bias [n_w] may be NULL, and sums may be y.
typedef struct qi__results {
  const float *sums;
  size_t stride;     // floats from one row of sums to the next
  const float *bias;
  size_t n_w, n_x;
  bool add;
  float *y;
  size_t y_stride;
} qi__results;

// Elements i.. of row x.
QI__INLINE void qi__take_row_ref(const qi__results *r, size_t x, size_t i) {
  const float *sums = r->sums + x * r->stride;
  float *y = r->y + x * r->y_stride;
  for (; i < r->n_w; i++) {
    float v = r->bias ? sums[i] + r->bias[i] : sums[i];
    y[i] = r->add ? y[i] + v : v;
  }
}

QI__FN void qi__take_ref(const qi__results *r) {
  for (size_t x = 0; x < r->n_x; x++) qi__take_row_ref(r, x, 0);
}

// SwiGLU: y[i] = silu(gate[i]) * up[i]; y may be gate or up. (Shazeer 2020)
QI__FN void qi__swiglu_ref(const float *gate, const float *up, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = qi__silu_ref(gate[i]) * up[i];
}

// y[i] = max(gate[i], 0)^2 * up[i]; y may be gate or up. (BitNet b1.58 2B4T)
QI__FN void qi__relu2_ref(const float *gate, const float *up, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = qi__relu_squared_ref(gate[i]) * up[i];
}

// Rotates n_pairs pairs of one head by the angles of a position: cos_sin holds [n_pairs] of (cos, sin). `neighbours`: pair i is
// (x[2i], x[2i+1]) as in llama; else (x[i], x[i + n_pairs]) as in qwen and phi. Elements beyond 2 * n_pairs stay. (Su et al. 2021)
QI__INLINE void qi__rope_pairs(float *x, const float *cos_sin, size_t first, size_t n_pairs, bool neighbours) {
  size_t step = neighbours ? 2 : 1, apart = neighbours ? 1 : n_pairs;
  for (size_t i = first; i < n_pairs; i++) {
    float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = x[step * i], b = x[step * i + apart];
    float as = a * s, bs = b * s;
    x[step * i] = fmaf(a, c, -bs);
    x[step * i + apart] = fmaf(b, c, as);
  }
}

QI__FN void qi__rope_ref(float *x, const float *cos_sin, size_t n_pairs, bool neighbours) {
  qi__rope_pairs(x, cos_sin, 0, n_pairs, neighbours);
}

// y[i] = x[i] rounded to bfloat16, as float32; y may be x
QI__FN void qi__round_bf16_ref(const float *x, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = qi__bf16_to_f32(qi__f32_to_bf16(x[i]));
}

// y[i] = x[i] as a half
QI__FN void qi__to_f16_ref(const float *x, size_t n, uint16_t *y) {
  for (size_t i = 0; i < n; i++) y[i] = qi__f32_to_f16(x[i]);
}

#if defined(QI__X86_64)

// ---- AVX2 ----

QI__FN QI__AVX2 void qi__rms_norm_avx2(const float *x, const float *w, float eps, size_t n, float *y) {
  __m256 sum = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 v = _mm256_loadu_ps(x + i);
    sum = _mm256_fmadd_ps(v, v, sum);
  }
  float lane[8];
  _mm256_storeu_ps(lane, sum);
  for (; i < n; i++) lane[i % 8] = fmaf(x[i], x[i], lane[i % 8]);
  float scale = 1.0f / sqrtf(qi__sum_lanes(lane) / (float)n + eps);
  __m256 scales = _mm256_set1_ps(scale);
  for (i = 0; i + 8 <= n; i += 8)
    _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), scales), _mm256_loadu_ps(w + i)));
  for (; i < n; i++) {
    float normed = x[i] * scale;
    y[i] = normed * w[i];
  }
}

// Not memcpy where there is nothing to add: of short rows compilers make `rep movs`, which takes longer to begin than to copy.
QI__FN QI__AVX2 void qi__take_avx2(const qi__results *r) {
  for (size_t x = 0; x < r->n_x; x++) {
    const float *sums = r->sums + x * r->stride;
    float *y = r->y + x * r->y_stride;
    size_t i = 0;
    for (; i + 8 <= r->n_w; i += 8) {
      __m256 v = _mm256_loadu_ps(sums + i);
      if (r->bias) v = _mm256_add_ps(v, _mm256_loadu_ps(r->bias + i));
      if (r->add) v = _mm256_add_ps(_mm256_loadu_ps(y + i), v);
      _mm256_storeu_ps(y + i, v);
    }
    qi__take_row_ref(r, x, i);
  }
}

QI__FN QI__AVX2 void qi__swiglu_avx2(const float *gate, const float *up, size_t n, float *y) {
  const __m256 one = _mm256_set1_ps(1.0f);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 g = _mm256_loadu_ps(gate + i);
    __m256 e = qi__exp_avx2(_mm256_sub_ps(_mm256_setzero_ps(), g));
    __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, e));
    _mm256_storeu_ps(y + i, _mm256_mul_ps(silu, _mm256_loadu_ps(up + i)));
  }
  qi__swiglu_ref(gate + i, up + i, n - i, y + i);
}

QI__FN QI__AVX2 void qi__relu2_avx2(const float *gate, const float *up, size_t n, float *y) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 relu = _mm256_max_ps(_mm256_setzero_ps(), _mm256_loadu_ps(gate + i)); // in this order NaN stays
    _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(relu, relu), _mm256_loadu_ps(up + i)));
  }
  qi__relu2_ref(gate + i, up + i, n - i, y + i);
}

// Four pairs (a, b) beside each other: a c - b s in even places, b c + a s in odd ones.
QI__INLINE QI__AVX2 size_t qi__rope_neighbours_avx2(float *x, const float *cos_sin, size_t n_pairs) {
  size_t i = 0;
  for (; i + 4 <= n_pairs; i += 4) {
    __m256 v = _mm256_loadu_ps(x + 2 * i), cs = _mm256_loadu_ps(cos_sin + 2 * i);
    __m256 cross = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), _mm256_movehdup_ps(cs));
    _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, _mm256_moveldup_ps(cs), cross));
  }
  return i;
}

QI__INLINE QI__AVX2 size_t qi__rope_halves_avx2(float *x, const float *cos_sin, size_t n_pairs) {
  size_t i = 0;
  for (; i + 8 <= n_pairs; i += 8) {
    __m256 p = _mm256_loadu_ps(cos_sin + 2 * i), q = _mm256_loadu_ps(cos_sin + 2 * i + 8);
    __m256 low = _mm256_permute2f128_ps(p, q, 0x20), high = _mm256_permute2f128_ps(p, q, 0x31);
    __m256 c = _mm256_shuffle_ps(low, high, 0x88), s = _mm256_shuffle_ps(low, high, 0xdd);
    __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + n_pairs + i);
    _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
    _mm256_storeu_ps(x + n_pairs + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
  }
  return i;
}

QI__FN QI__AVX2 void qi__rope_avx2(float *x, const float *cos_sin, size_t n_pairs, bool neighbours) {
  size_t first = neighbours ? qi__rope_neighbours_avx2(x, cos_sin, n_pairs) : qi__rope_halves_avx2(x, cos_sin, n_pairs);
  qi__rope_pairs(x, cos_sin, first, n_pairs, neighbours);
}

// The integer steps of qi__f32_to_bf16. A NaN, whose payload the addition would carry into the exponent, is taken by itself.
QI__FN QI__AVX2 void qi__round_bf16_avx2(const float *x, size_t n, float *y) {
  const __m256i half = _mm256_set1_epi32(0x7fff), one = _mm256_set1_epi32(1), upper = _mm256_set1_epi32((int)0xffff0000u);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)(x + i));
    __m256i nan = _mm256_cmpgt_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff)), _mm256_set1_epi32(0x7f800000));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, half), _mm256_and_si256(_mm256_srli_epi32(u, 16), one));
    __m256i result = _mm256_blendv_epi8(rounded, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    _mm256_storeu_si256((__m256i *)(void *)(y + i), _mm256_and_si256(result, upper));
  }
  qi__round_bf16_ref(x + i, n - i, y + i);
}

QI__FN QI__AVX2 void qi__to_f16_avx2(const float *x, size_t n, uint16_t *y) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i *)(void *)(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  qi__to_f16_ref(x + i, n - i, y + i);
}

// ---- AVX-512 ----

QI__FN QI__AVX512 void qi__swiglu_avx512(const float *gate, const float *up, size_t n, float *y) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (size_t i = 0; i < n; i += 16) {
    __mmask16 mask = qi__tail_mask_avx512(n - i);
    __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
    __m512 e = qi__exp_avx512(_mm512_sub_ps(_mm512_setzero_ps(), g));
    __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
    _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, up + i)));
  }
}
#endif

// ---- NEON ----

#if defined(QI__ARM64)

QI__FN void qi__rms_norm_neon(const float *x, const float *w, float eps, size_t n, float *y) {
  float32x4_t low = vdupq_n_f32(0), high = low;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + i + 4);
    low = vfmaq_f32(low, a, a);
    high = vfmaq_f32(high, b, b);
  }
  float lane[8];
  vst1q_f32(lane, low);
  vst1q_f32(lane + 4, high);
  for (; i < n; i++) lane[i % 8] = fmaf(x[i], x[i], lane[i % 8]);
  float scale = 1.0f / sqrtf(qi__sum_lanes(lane) / (float)n + eps);
  for (i = 0; i + 4 <= n; i += 4) vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), scale), vld1q_f32(w + i)));
  for (; i < n; i++) {
    float normed = x[i] * scale;
    y[i] = normed * w[i];
  }
}

QI__FN void qi__take_neon(const qi__results *r) {
  for (size_t x = 0; x < r->n_x; x++) {
    const float *sums = r->sums + x * r->stride;
    float *y = r->y + x * r->y_stride;
    size_t i = 0;
    for (; i + 4 <= r->n_w; i += 4) {
      float32x4_t v = vld1q_f32(sums + i);
      if (r->bias) v = vaddq_f32(v, vld1q_f32(r->bias + i));
      if (r->add) v = vaddq_f32(vld1q_f32(y + i), v);
      vst1q_f32(y + i, v);
    }
    qi__take_row_ref(r, x, i);
  }
}

QI__FN void qi__swiglu_neon(const float *gate, const float *up, size_t n, float *y) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    float32x4_t g = vld1q_f32(gate + i);
    float32x4_t e = qi__exp_neon(vsubq_f32(vdupq_n_f32(0), g));
    float32x4_t silu = vdivq_f32(g, vaddq_f32(vdupq_n_f32(1.0f), e));
    vst1q_f32(y + i, vmulq_f32(silu, vld1q_f32(up + i)));
  }
  qi__swiglu_ref(gate + i, up + i, n - i, y + i);
}

QI__FN void qi__relu2_neon(const float *gate, const float *up, size_t n, float *y) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    float32x4_t relu = vmaxq_f32(vdupq_n_f32(0), vld1q_f32(gate + i));
    vst1q_f32(y + i, vmulq_f32(vmulq_f32(relu, relu), vld1q_f32(up + i)));
  }
  qi__relu2_ref(gate + i, up + i, n - i, y + i);
}

QI__FN void qi__rope_neon(float *x, const float *cos_sin, size_t n_pairs, bool neighbours) {
  size_t i = 0;
  for (; i + 4 <= n_pairs; i += 4) {
    float32x4x2_t cs = vld2q_f32(cos_sin + 2 * i), v;
    if (neighbours) v = vld2q_f32(x + 2 * i);
    else v.val[0] = vld1q_f32(x + i), v.val[1] = vld1q_f32(x + n_pairs + i);
    float32x4_t as = vmulq_f32(v.val[0], cs.val[1]), bs = vmulq_f32(v.val[1], cs.val[1]);
    v.val[0] = vfmaq_f32(vnegq_f32(bs), v.val[0], cs.val[0]);
    v.val[1] = vfmaq_f32(as, v.val[1], cs.val[0]);
    if (neighbours) vst2q_f32(x + 2 * i, v);
    else vst1q_f32(x + i, v.val[0]), vst1q_f32(x + n_pairs + i, v.val[1]);
  }
  qi__rope_pairs(x, cos_sin, i, n_pairs, neighbours);
}

QI__FN void qi__to_f16_neon(const float *x, size_t n, uint16_t *y) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
  qi__to_f16_ref(x + i, n - i, y + i);
}
#endif

#endif // QI__KERNELS_VECTOR_H
