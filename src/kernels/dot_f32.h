// ==== >>dot_f32 : products of float rows ====
#ifndef QI__KERNELS_DOT_F32_H
#define QI__KERNELS_DOT_F32_H

#include "../formats/half.h"
#include "simd.h"

// Every sum over k runs in eight float32 lanes that qi__sum_lanes adds up, so that 256-bit registers, halves of 512-bit ones and
// pairs of 128-bit ones give the bits of the reference.

// y[i * y_stride + r] = sum_j w[r, j] * x[i * x_stride + j]      i < n_x, r < n_w, j < k
// w: rows w_stride bytes apart, any alignment, of float32, float16 or bfloat16, which float32 holds exactly. y overlaps nothing.
// In each piece of QI__FLOAT_PIECE columns, lane j % 8 takes product j with one fused multiply-add, j ascending; lanes of pieces
// are added up in order; then qi__sum_lanes. Pieces do not wait for each other: one row of weights, read as one stream, keeps up
// with the memory, where a single chain of additions would not.
#define QI__FLOAT_PIECE 128
typedef void (*qi__dot_float_fn)(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x, size_t k,
                                 float *y, size_t y_stride, qi__fetch fetch);

// Longer rows than these are taken some beside each other (x86) even for one row of activations, which would not stay in the
// first-level cache from one weight row to the next (6144 columns of bfloat16, two threads of Zen 4: 57 GB/s in place of 51).
#define QI__FLOAT_LONG 5632

// Weight j of a row; `kind` (F32, F16 or BF16) is a constant where these are inlined.
QI__INLINE float qi__float_weight(qi_format kind, const uint8_t *row, size_t j) {
  if (kind == QI_FORMAT_F16) return qi__f16_to_f32(qi__load_u16(row + 2 * j));
  if (kind == QI_FORMAT_BF16) return qi__bf16_to_f32(qi__load_u16(row + 2 * j));
  return qi__bits_f32(qi__load_u32(row + 4 * j));
}

QI__INLINE void qi__dot_float_rows_ref(qi_format kind, const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride,
                                       size_t n_x, size_t k, float *y, size_t y_stride) {
  for (size_t i = 0; i < n_x; i++)
    for (size_t r = 0; r < n_w; r++) {
      const uint8_t *a = (const uint8_t *)w + r * w_stride;
      const float *b = x + i * x_stride;
      float total[8] = {0};
      for (size_t piece = 0; piece < k; piece += QI__FLOAT_PIECE) {
        size_t end = qi__min_size(piece + QI__FLOAT_PIECE, k);
        float lane[8] = {0};
        for (size_t j = piece; j < end; j++) lane[j % 8] = fmaf(qi__float_weight(kind, a, j), b[j], lane[j % 8]);
        for (int l = 0; l < 8; l++) total[l] += lane[l];
      }
      y[i * y_stride + r] = qi__sum_lanes(total);
    }
}

// The lanes at j, a multiple of 8, take the last products before k.
QI__INLINE void qi__dot_float_tail(qi_format kind, const uint8_t *w, const float *x, size_t j, size_t k, float *lane) {
  for (size_t t = j; t < k; t++) lane[t - j] = fmaf(qi__float_weight(kind, w, t), x[t], lane[t - j]);
}

QI__FN void qi__dot_f32_ref(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                            size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_ref(QI_FORMAT_F32, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
  (void)fetch;
}
QI__FN void qi__dot_f16_ref(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                            size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_ref(QI_FORMAT_F16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
  (void)fetch;
}
QI__FN void qi__dot_bf16_ref(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                             size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_ref(QI_FORMAT_BF16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
  (void)fetch;
}

// Tiles of weight rows times activation rows live in registers. What does not fill a tile goes through a smaller one: each sum is a
// lane of its own, so tiles do not change bits. The sizes of a tile are constants where it is inlined.

#if defined(QI__X86_64)

// ---- AVX2 ----

QI__INLINE QI__AVX2 __m256 qi__load_weights_avx2(qi_format kind, const uint8_t *row, size_t j) {
  if (kind == QI_FORMAT_F32) return _mm256_loadu_ps((const float *)(const void *)(row + 4 * j));
  __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(row + 2 * j));
  return kind == QI_FORMAT_F16 ? _mm256_cvtph_ps(v) : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

QI__INLINE QI__AVX2 __m256 qi__dot_float_tail_avx2(qi_format kind, const uint8_t *w, const float *x, size_t j, size_t k,
                                                   __m256 sum) {
  float lane[8];
  _mm256_storeu_ps(lane, sum);
  qi__dot_float_tail(kind, w, x, j, k, lane);
  return _mm256_loadu_ps(lane);
}

// While n rows beside each other are at column j: fetches as much of the rows behind them as eight columns, of `size` bytes each,
// take of these. The processor does not follow so many streams.
QI__INLINE void qi__fetch_rows_behind(qi__fetch fetch, const uint8_t *w, size_t w_stride, size_t n, size_t size, size_t j) {
  uintptr_t now = (uintptr_t)w + n * size * j, behind = now + n * w_stride;
  if (fetch == QI__FETCH_PAGES) qi__prefetch_pages(now, 8 * n * size);
  else QI__UNROLL for (size_t at = 0; at < 8 * n * size; at += QI__CACHE_LINE) qi__prefetch((const void *)(behind + at));
}
QI__INLINE size_t qi__float_size(qi_format kind) { return kind == QI_FORMAT_F32 ? 4 : 2; }

// n_w <= 4 weight rows times n_x <= 3 activation rows: 12 sums, 3 registers of x and one of w are all there are.
QI__INLINE QI__AVX2 void qi__dot_float_tile_avx2(qi_format kind, const uint8_t *w, size_t w_stride, int n_w, const float *x,
                                                 size_t x_stride, int n_x, size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  __m256 total[3][4];
  QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) total[i][r] = _mm256_setzero_ps();
  for (size_t j = 0; j < k;) {
    size_t end = qi__min_size(j + QI__FLOAT_PIECE, k);
    __m256 sum[3][4];
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) sum[i][r] = _mm256_setzero_ps();
    for (; j + 8 <= end; j += 8) {
      __m256 b[3];
      if (n_x == 1 && n_w == 4) qi__fetch_rows_behind(fetch, w, w_stride, 4, qi__float_size(kind), j);
      QI__UNROLL for (int i = 0; i < n_x; i++) b[i] = _mm256_loadu_ps(x + (size_t)i * x_stride + j);
      QI__UNROLL for (int r = 0; r < n_w; r++) {
        __m256 a = qi__load_weights_avx2(kind, w + (size_t)r * w_stride, j);
        QI__UNROLL for (int i = 0; i < n_x; i++) sum[i][r] = _mm256_fmadd_ps(a, b[i], sum[i][r]);
      }
    }
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) {
      const uint8_t *row = w + (size_t)r * w_stride;
      if (j < end) sum[i][r] = qi__dot_float_tail_avx2(kind, row, x + (size_t)i * x_stride, j, end, sum[i][r]);
      total[i][r] = _mm256_add_ps(total[i][r], sum[i][r]);
    }
    j = end;
  }
  QI__UNROLL for (int i = 0; i < n_x; i++) {
    float *out = y + (size_t)i * y_stride;
    if (n_w == 4) _mm_storeu_ps(out, qi__sum_lanes4_avx2(total[i][0], total[i][1], total[i][2], total[i][3]));
    else QI__UNROLL for (int r = 0; r < n_w; r++) out[r] = qi__sum_lanes_avx2(total[i][r]);
  }
}

// Columns j..end-1 of a row, at most a piece.
QI__INLINE QI__AVX2 __m256 qi__dot_float_piece_avx2(qi_format kind, const uint8_t *w, const float *x, size_t j, size_t end) {
  __m256 sum = _mm256_setzero_ps();
  for (; j + 8 <= end; j += 8) sum = _mm256_fmadd_ps(qi__load_weights_avx2(kind, w, j), _mm256_loadu_ps(x + j), sum);
  return j < end ? qi__dot_float_tail_avx2(kind, w, x, j, end, sum) : sum;
}

// One weight row times one of activations: two pieces at a time, each a chain that waits for itself.
QI__INLINE QI__AVX2 float qi__dot_float_row_avx2(qi_format kind, const uint8_t *w, const float *x, size_t k,
                                               qi__fetch fetch) {
  const size_t size = qi__float_size(kind);
  __m256 total = _mm256_setzero_ps();
  size_t j = 0, end;
  for (; j + 2 * QI__FLOAT_PIECE <= k; j += 2 * QI__FLOAT_PIECE) {
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t at = j; at < j + QI__FLOAT_PIECE; at += 16) {
      qi__prefetch_ahead(fetch, (uintptr_t)w + size * (2 * at - j), 32 * size);
      QI__UNROLL for (size_t u = 0; u < 4; u++) {
        size_t c = at + u % 2 * QI__FLOAT_PIECE + u / 2 * 8;
        sum[u % 2] = _mm256_fmadd_ps(qi__load_weights_avx2(kind, w, c), _mm256_loadu_ps(x + c), sum[u % 2]);
      }
    }
    total = _mm256_add_ps(_mm256_add_ps(total, sum[0]), sum[1]);
  }
  for (; j < k; j = end) {
    end = qi__min_size(j + QI__FLOAT_PIECE, k);
    total = _mm256_add_ps(total, qi__dot_float_piece_avx2(kind, w, x, j, end));
  }
  return qi__sum_lanes_avx2(total);
}

// One row of activations takes one weight row after the other, which memory gives fastest.
QI__INLINE QI__AVX2 void qi__dot_float_rows_avx2(qi_format kind, const void *w, size_t w_stride, size_t n_w, const float *x,
                                                 size_t x_stride, size_t n_x, size_t k, float *y, size_t y_stride,
                                                 qi__fetch fetch) {
  for (size_t i = 0; i < n_x;) {
    size_t rows = n_x - i >= 3 ? 3 : 1;
    const float *xi = x + i * x_stride;
    for (size_t r = 0; r < n_w;) {
      const uint8_t *wr = (const uint8_t *)w + r * w_stride;
      float *out = y + i * y_stride + r;
      bool four = n_w - r >= 4 && (n_x > 1 || k > QI__FLOAT_LONG);
      if (four && rows == 3) qi__dot_float_tile_avx2(kind, wr, w_stride, 4, xi, x_stride, 3, k, out, y_stride, fetch);
      else if (four) qi__dot_float_tile_avx2(kind, wr, w_stride, 4, xi, x_stride, 1, k, out, y_stride, fetch);
      else if (rows == 3) qi__dot_float_tile_avx2(kind, wr, w_stride, 1, xi, x_stride, 3, k, out, y_stride, fetch);
      else *out = qi__dot_float_row_avx2(kind, wr, xi, k, fetch);
      r += four ? 4 : 1;
    }
    i += rows;
  }
}

QI__FN QI__AVX2 void qi__dot_f32_avx2(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                      size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_avx2(QI_FORMAT_F32, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride, fetch);
}
QI__FN QI__AVX2 void qi__dot_f16_avx2(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                      size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_avx2(QI_FORMAT_F16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride, fetch);
}
QI__FN QI__AVX2 void qi__dot_bf16_avx2(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                       size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_avx2(QI_FORMAT_BF16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride, fetch);
}

// ---- AVX-512 ----

// Weights j.. of a row in the lower half, of the next one in the upper.
QI__INLINE QI__AVX512 __m512 qi__load_weights_avx512(qi_format kind, const uint8_t *row, size_t w_stride, size_t j) {
  const uint8_t *next = row + w_stride;
  if (kind == QI_FORMAT_F32)
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps((const float *)(const void *)(row + 4 * j))),
                              _mm256_loadu_ps((const float *)(const void *)(next + 4 * j)), 1);
  __m256i v = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(row + 2 * j))),
                                      _mm_loadu_si128((const __m128i *)(const void *)(next + 2 * j)), 1);
  return kind == QI_FORMAT_F16 ? _mm512_cvtph_ps(v) : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

QI__INLINE QI__AVX512 __m512 qi__join_avx512(__m256 low, __m256 high) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

// qi__sum_lanes of four rows, two in a register.
QI__INLINE QI__AVX512 __m128 qi__sum_rows_avx512(__m512 a, __m512 b) {
  return qi__sum_lanes4_avx2(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1), _mm512_castps512_ps256(b),
                             _mm512_extractf32x8_ps(b, 1));
}

// Two weight rows share a register, so that the eight lanes of each sum stay: 8 weight rows times n_x <= 6 activation rows.
QI__INLINE QI__AVX512 void qi__dot_float_tile_avx512(qi_format kind, const uint8_t *w, size_t w_stride, const float *x,
                                                     size_t x_stride, int n_x, size_t k, float *y, size_t y_stride,
                                                     qi__fetch fetch) {
  __m512 total[6][4];
  QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int p = 0; p < 4; p++) total[i][p] = _mm512_setzero_ps();
  for (size_t j = 0; j < k;) {
    size_t end = qi__min_size(j + QI__FLOAT_PIECE, k);
    __m512 sum[6][4];
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int p = 0; p < 4; p++) sum[i][p] = _mm512_setzero_ps();
    for (; j + 8 <= end; j += 8) {
      __m512 a[4];
      if (n_x == 1 || (fetch == QI__FETCH_PAGES && kind != QI_FORMAT_F32)) // float32 may be scratch
        qi__fetch_rows_behind(fetch, w, w_stride, 8, qi__float_size(kind), j);
      QI__UNROLL for (int p = 0; p < 4; p++) a[p] = qi__load_weights_avx512(kind, w + (size_t)(2 * p) * w_stride, w_stride, j);
      QI__UNROLL for (int i = 0; i < n_x; i++) {
        __m512 b = _mm512_broadcast_f32x8(_mm256_loadu_ps(x + (size_t)i * x_stride + j));
        QI__UNROLL for (int p = 0; p < 4; p++) sum[i][p] = _mm512_fmadd_ps(a[p], b, sum[i][p]);
      }
    }
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int p = 0; p < 4; p++) {
      if (j < end) {
        const uint8_t *row = w + (size_t)(2 * p) * w_stride;
        const float *xi = x + (size_t)i * x_stride;
        __m256 low = qi__dot_float_tail_avx2(kind, row, xi, j, end, _mm512_castps512_ps256(sum[i][p]));
        __m256 high = qi__dot_float_tail_avx2(kind, row + w_stride, xi, j, end, _mm512_extractf32x8_ps(sum[i][p], 1));
        sum[i][p] = qi__join_avx512(low, high);
      }
      total[i][p] = _mm512_add_ps(total[i][p], sum[i][p]);
    }
    j = end;
  }
  QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int p = 0; p < 4; p += 2)
    _mm_storeu_ps(y + (size_t)i * y_stride + 2 * p, qi__sum_rows_avx512(total[i][p], total[i][p + 1]));
}

// `rest` takes the rows that do not fill a tile, and all of them for one row of activations that are not long.
QI__INLINE QI__AVX512 void qi__dot_float_rows_avx512(qi_format kind, qi__dot_float_fn rest, const void *w, size_t w_stride,
                                                     size_t n_w, const float *x, size_t x_stride, size_t n_x, size_t k, float *y,
                                                     size_t y_stride, qi__fetch fetch) {
  size_t whole = n_x == 1 && k <= QI__FLOAT_LONG ? 0 : n_w / 8 * 8;
  for (size_t i = 0; i < n_x && whole;) {
    size_t rows = n_x - i >= 6 ? 6 : n_x - i >= 2 ? 2 : 1;
    const float *xi = x + i * x_stride;
    for (size_t r = 0; r < whole; r += 8) {
      const uint8_t *wr = (const uint8_t *)w + r * w_stride;
      float *out = y + i * y_stride + r;
      if (rows == 6) qi__dot_float_tile_avx512(kind, wr, w_stride, xi, x_stride, 6, k, out, y_stride, fetch);
      else if (rows == 2) qi__dot_float_tile_avx512(kind, wr, w_stride, xi, x_stride, 2, k, out, y_stride, fetch);
      else qi__dot_float_tile_avx512(kind, wr, w_stride, xi, x_stride, 1, k, out, y_stride, fetch);
    }
    i += rows;
  }
  w = (const uint8_t *)w + whole * w_stride;
  if (whole < n_w) rest(w, w_stride, n_w - whole, x, x_stride, n_x, k, y + whole, y_stride, fetch);
}

QI__FN QI__AVX512 void qi__dot_f32_avx512(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                          size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_avx512(QI_FORMAT_F32, qi__dot_f32_avx2, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride, fetch);
}
QI__FN QI__AVX512 void qi__dot_f16_avx512(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                          size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_avx512(QI_FORMAT_F16, qi__dot_f16_avx2, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride, fetch);
}
QI__FN QI__AVX512 void qi__dot_bf16_avx512(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                           size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_avx512(QI_FORMAT_BF16, qi__dot_bf16_avx2, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride, fetch);
}
#endif

// ---- NEON ----

#if defined(QI__ARM64)

QI__INLINE float32x4_t qi__load_weights_neon(qi_format kind, const uint8_t *row, size_t j) {
  if (kind == QI_FORMAT_F32) return vreinterpretq_f32_u8(vld1q_u8(row + 4 * j));
  uint16x4_t v = vreinterpret_u16_u8(vld1_u8(row + 2 * j));
  return kind == QI_FORMAT_F16 ? vcvt_f32_f16(vreinterpret_f16_u16(v)) : vreinterpretq_f32_u32(vshll_n_u16(v, 16));
}

// n_w <= 4 weight rows times n_x <= 2 activation rows, two registers a sum.
QI__INLINE void qi__dot_float_tile_neon(qi_format kind, const uint8_t *w, size_t w_stride, int n_w, const float *x, size_t x_stride,
                                        int n_x, size_t k, float *y, size_t y_stride) {
  float total[2][4][8] = {{{0}}};
  for (size_t j = 0; j < k;) {
    size_t end = qi__min_size(j + QI__FLOAT_PIECE, k);
    float32x4_t sum[2][4][2];
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) sum[i][r][0] = sum[i][r][1] = vdupq_n_f32(0);
    for (; j + 8 <= end; j += 8) {
      QI__UNROLL for (int half = 0; half < 2; half++) {
        size_t at = j + (size_t)(4 * half);
        float32x4_t b[2];
        QI__UNROLL for (int i = 0; i < n_x; i++) b[i] = vld1q_f32(x + (size_t)i * x_stride + at);
        QI__UNROLL for (int r = 0; r < n_w; r++) {
          float32x4_t a = qi__load_weights_neon(kind, w + (size_t)r * w_stride, at);
          QI__UNROLL for (int i = 0; i < n_x; i++) sum[i][r][half] = vfmaq_f32(sum[i][r][half], a, b[i]);
        }
      }
    }
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) {
      float lane[8];
      vst1q_f32(lane, sum[i][r][0]);
      vst1q_f32(lane + 4, sum[i][r][1]);
      qi__dot_float_tail(kind, w + (size_t)r * w_stride, x + (size_t)i * x_stride, j, end, lane);
      for (int l = 0; l < 8; l++) total[i][r][l] += lane[l];
    }
    j = end;
  }
  for (int i = 0; i < n_x; i++)
    for (int r = 0; r < n_w; r++) y[(size_t)i * y_stride + (size_t)r] = qi__sum_lanes(total[i][r]);
}

QI__INLINE void qi__dot_float_rows_neon(qi_format kind, const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride,
                                        size_t n_x, size_t k, float *y, size_t y_stride) {
  for (size_t i = 0; i < n_x;) {
    size_t rows = n_x - i >= 2 ? 2 : 1;
    const float *xi = x + i * x_stride;
    for (size_t r = 0; r < n_w;) {
      const uint8_t *wr = (const uint8_t *)w + r * w_stride;
      float *out = y + i * y_stride + r;
      bool four = n_w - r >= 4 && n_x > 1;
      if (four && rows == 2) qi__dot_float_tile_neon(kind, wr, w_stride, 4, xi, x_stride, 2, k, out, y_stride);
      else if (four) qi__dot_float_tile_neon(kind, wr, w_stride, 4, xi, x_stride, 1, k, out, y_stride);
      else if (rows == 2) qi__dot_float_tile_neon(kind, wr, w_stride, 1, xi, x_stride, 2, k, out, y_stride);
      else qi__dot_float_tile_neon(kind, wr, w_stride, 1, xi, x_stride, 1, k, out, y_stride);
      r += four ? 4 : 1;
    }
    i += rows;
  }
}

QI__FN void qi__dot_f32_neon(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                             size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_neon(QI_FORMAT_F32, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
  (void)fetch;
}
QI__FN void qi__dot_f16_neon(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                             size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_neon(QI_FORMAT_F16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
  (void)fetch;
}
QI__FN void qi__dot_bf16_neon(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                              size_t k, float *y, size_t y_stride, qi__fetch fetch) {
  qi__dot_float_rows_neon(QI_FORMAT_BF16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
  (void)fetch;
}
#endif

#endif // QI__KERNELS_DOT_F32_H
