// ==== >>activation : activations as int8 ====
#ifndef QI__KERNELS_ACTIVATION_H
#define QI__KERNELS_ACTIVATION_H

#include "../formats/table.h"
#include "simd.h"

// Rows of activations in the form that integer products take: in each block of `block` values (the block length of the weight
// format, 32 or 256; with ternary weights the whole row)
//
//   d = max |x| / 127      q = round(x * (127 / max |x|)), ties to even      x ~ d * q
//
// with the sums of each 16 codes, which the offsets of formats with a minimum need.
typedef struct qi__q8 {
  int8_t *q;    // [n, k], rows `stride` apart
  float *d;     // [n, k / block]
  int16_t *sum; // [n, k / 16]
  size_t block; // a multiple of 32
  size_t k;     // a multiple of block
  size_t stride; // k, but where the block is the whole row: any
} qi__q8;

// Adding 1.5 * 2^23 leaves the rounded integer in the low bits of a float32 below 2^22 in size: what SIMD conversions do.
QI__INLINE int32_t qi__round_even(float x) {
  return (int32_t)(qi__f32_bits(x + 12582912.0f) - 0x4b400000u);
}

QI__INLINE int8_t qi__clamp_i8(int32_t v) { return (int8_t)(v < -127 ? -127 : v > 127 ? 127 : v); }

// Row `row` of `out` from x [k].
QI__FN void qi__quantize_q8_ref(const float *x, const qi__q8 *out, size_t row) {
  size_t k = out->k, block = out->block;
  int8_t *q = out->q + row * out->stride;
  float *d = out->d + row * (k / block);
  int16_t *sum = out->sum + row * (k / 16);
  for (size_t b = 0; b < k / block; b++, x += block, q += block, sum += block / 16) {
    float max = 0;
    for (size_t i = 0; i < block; i++) {
      float a = fabsf(x[i]);
      if (a > max) max = a;
    }
    float inverse = max > 0 ? 127.0f / max : 0;
    d[b] = max / 127.0f;
    if (!qi__is_finite(inverse)) inverse = d[b] = 0; // subnormal maximum: as good as zero
    for (size_t i = 0; i < block; i++) q[i] = qi__clamp_i8(qi__round_even(x[i] * inverse));
    for (size_t g = 0; g < block / 16; g++) {
      int s = 0;
      for (size_t i = 0; i < 16; i++) s += q[16 * g + i];
      sum[g] = (int16_t)s;
    }
  }
}

#if defined(QI__X86_64)

// qi__round_even and qi__clamp_i8 of eight x * inverse, step by step, so that NaN also gives the same.
QI__INLINE QI__AVX2 __m256i qi__codes8_avx2(const float *x, __m256 inverse) {
  __m256 v = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(x), inverse), _mm256_set1_ps(12582912.0f));
  __m256i q = _mm256_sub_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(0x4b400000));
  return _mm256_min_epi32(_mm256_max_epi32(q, _mm256_set1_epi32(-127)), _mm256_set1_epi32(127));
}

// max |x| of n values, a multiple of 32; NaN does not count.
QI__INLINE QI__AVX2 float qi__max_size_avx2(const float *x, size_t n) {
  const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 max[4];
  QI__UNROLL for (int c = 0; c < 4; c++) max[c] = _mm256_setzero_ps();
  for (size_t i = 0; i < n; i += 32)
    QI__UNROLL for (size_t c = 0; c < 4; c++)
      max[c] = _mm256_max_ps(_mm256_and_ps(_mm256_loadu_ps(x + i + 8 * c), no_sign), max[c]);
  max[0] = _mm256_max_ps(_mm256_max_ps(max[0], max[1]), _mm256_max_ps(max[2], max[3]));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(max[0]), _mm256_extractf128_ps(max[0], 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

QI__FN QI__AVX2 void qi__quantize_q8_avx2(const float *x, const qi__q8 *out, size_t row) {
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
  size_t k = out->k, block = out->block;
  int8_t *q = out->q + row * out->stride;
  float *d = out->d + row * (k / block);
  int16_t *sum = out->sum + row * (k / 16);
  for (size_t b = 0; b < k / block; b++) {
    float max = qi__max_size_avx2(x + b * block, block);
    float inverse = max > 0 ? 127.0f / max : 0;
    d[b] = max / 127.0f;
    if (!qi__is_finite(inverse)) inverse = d[b] = 0;
    __m256 scale = _mm256_set1_ps(inverse);
    for (size_t i = b * block; i < (b + 1) * block; i += 32) {
      __m256i low = _mm256_packs_epi32(qi__codes8_avx2(x + i, scale), qi__codes8_avx2(x + i + 8, scale));
      __m256i high = _mm256_packs_epi32(qi__codes8_avx2(x + i + 16, scale), qi__codes8_avx2(x + i + 24, scale));
      __m256i codes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), in_order); // packs work in halves
      _mm256_storeu_si256((__m256i *)(void *)(q + i), codes);
      __m256i four = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, codes), ones16); // sums of 4
      four = _mm256_add_epi32(four, _mm256_srli_epi64(four, 32));
      four = _mm256_add_epi32(four, _mm256_bsrli_epi128(four, 8));
      sum[i / 16] = (int16_t)_mm256_extract_epi16(four, 0);
      sum[i / 16 + 1] = (int16_t)_mm256_extract_epi16(four, 8);
    }
  }
}
#endif

#endif // QI__KERNELS_ACTIVATION_H
