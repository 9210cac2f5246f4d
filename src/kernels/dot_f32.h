// ==== >>dot_f32 : products of float32 rows ====
#ifndef QI__KERNELS_DOT_F32_H
#define QI__KERNELS_DOT_F32_H

#include "../base/cpu.h"

#if defined(QI__X86_64)
#include <immintrin.h>
#elif defined(QI__ARM64)
#include <arm_neon.h>
#endif

// Every sum over k runs in eight float32 lanes that qi__sum_lanes adds up, so that 256-bit registers, and pairs of 128-bit ones, give
// the bits of the reference.

// y[i * y_stride + r] = sum_j w[r * w_stride + j] * x[i * x_stride + j]      i < n_x, r < n_w, j < k; strides in floats
// Lane j % 8 takes product j with one fused multiply-add, j ascending; then qi__sum_lanes. y overlaps nothing.
// Serves F32, F16 and BF16 weights, dequantised weights, and the BF16 path (inputs rounded to bfloat16 beforehand).
typedef void (*qi__dot_f32_fn)(const float *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x, size_t k,
                               float *y, size_t y_stride);

QI__FN void qi__dot_f32_ref(const float *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x, size_t k,
                            float *y, size_t y_stride) {
  for (size_t i = 0; i < n_x; i++)
    for (size_t r = 0; r < n_w; r++) {
      const float *a = w + r * w_stride, *b = x + i * x_stride;
      float lane[8] = {0};
      for (size_t j = 0; j < k; j++) lane[j % 8] = fmaf(a[j], b[j], lane[j % 8]);
      y[i * y_stride + r] = qi__sum_lanes(lane);
    }
}

// ---- AVX2 ----

// Tiles of weight rows times activation rows live in registers. What does not fill a tile goes through a smaller one: each sum is a
// lane of its own, so tiles do not change bits.

#if defined(QI__X86_64)

// qi__sum_lanes of a register.
QI__INLINE QI__TARGET("avx2") float qi__sum_lanes_avx2(__m256 v) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); // 0+4 1+5 2+6 3+7
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}

// Ones in the first n < 8 lanes.
QI__INLINE QI__TARGET("avx2") __m256i qi__lane_mask_avx2(size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// n_w <= 4 weight rows times n_x <= 3 activation rows; both are constants where this is inlined.
QI__INLINE QI__TARGET("avx2,fma") void qi__dot_f32_tile_avx2(const float *w, size_t w_stride, int n_w, const float *x, size_t x_stride,
                                                             int n_x, size_t k, float *y, size_t y_stride) {
  __m256 sum[3][4];
  QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) sum[i][r] = _mm256_setzero_ps();
  size_t j = 0;
  for (; j + 8 <= k; j += 8) {
    __m256 a[4];
    QI__UNROLL for (int r = 0; r < n_w; r++) a[r] = _mm256_loadu_ps(w + (size_t)r * w_stride + j);
    QI__UNROLL for (int i = 0; i < n_x; i++) {
      __m256 b = _mm256_loadu_ps(x + (size_t)i * x_stride + j);
      QI__UNROLL for (int r = 0; r < n_w; r++) sum[i][r] = _mm256_fmadd_ps(a[r], b, sum[i][r]);
    }
  }
  if (j < k) {
    __m256i mask = qi__lane_mask_avx2(k - j);
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) {
      __m256 a = _mm256_maskload_ps(w + (size_t)r * w_stride + j, mask), b = _mm256_maskload_ps(x + (size_t)i * x_stride + j, mask);
      sum[i][r] = _mm256_blendv_ps(sum[i][r], _mm256_fmadd_ps(a, b, sum[i][r]), _mm256_castsi256_ps(mask));
    }
  }
  QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++)
    y[(size_t)i * y_stride + (size_t)r] = qi__sum_lanes_avx2(sum[i][r]);
}

QI__FN QI__TARGET("avx2,fma") void qi__dot_f32_avx2(const float *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride,
                                                    size_t n_x, size_t k, float *y, size_t y_stride) {
  for (size_t i = 0; i < n_x;) {
    size_t rows = n_x - i >= 3 ? 3 : 1, r = 0;
    const float *xi = x + i * x_stride;
    float *yi = y + i * y_stride;
    for (; r + 4 <= n_w; r += 4) {
      if (rows == 3) qi__dot_f32_tile_avx2(w + r * w_stride, w_stride, 4, xi, x_stride, 3, k, yi + r, y_stride);
      else qi__dot_f32_tile_avx2(w + r * w_stride, w_stride, 4, xi, x_stride, 1, k, yi + r, y_stride);
    }
    for (; r < n_w; r++) {
      if (rows == 3) qi__dot_f32_tile_avx2(w + r * w_stride, w_stride, 1, xi, x_stride, 3, k, yi + r, y_stride);
      else qi__dot_f32_tile_avx2(w + r * w_stride, w_stride, 1, xi, x_stride, 1, k, yi + r, y_stride);
    }
    i += rows;
  }
}
#endif

#endif // QI__KERNELS_DOT_F32_H
