// ==== >>panel_f32 : products of rounded bfloat16 in float32 ====
#ifndef QI__KERNELS_PANEL_F32_H
#define QI__KERNELS_PANEL_F32_H

#include "simd.h"

// The BF16 path without instructions for bfloat16. 32 weight rows and all rows of activations, both rounded to bfloat16:
//
//   sums[i, r] += sum_j w[r, j] * x[i, j]      i < n_x, r < 32, j < n_k
//
// Each sum is one chain of fused multiply-adds in float32 over ascending j; where `first`, from 0 on. All variants have the same
// bits, for any rows beside each other and any slices of k. Error: as in bf16.h, without the part for subnormals.

#define QI__F32_ROWS 32     // weight rows of a panel
#define QI__F32_COLUMNS 128 // of it at most: 16 KB, which stay in the first-level cache while rows of activations pass
#define QI__F32_X 12        // rows of activations that some variant takes at a time
#define QI__F32_STEP 256    // weights of a row that are unpacked at a time: the longest block
#define QI__F32_STRIDE (QI__F32_STEP + 16) // of rows that are unpacked: not all into the same cache set

// Strides: floats where nothing else is said.
typedef struct qi__f32_panel {
  const float *w; // 32 rows; up to the next multiple of 16 columns they are read, but not used
  size_t w_stride;
  const uint8_t *bf16; // instead where w is NULL: 32 rows of bfloat16, w_stride bytes apart; n_k is a multiple of 32
  size_t n_k;          // <= QI__F32_COLUMNS
  const float *x;
  size_t x_stride, n_x;
  bool first;
  float *sums;         // [n_x, 32]
  float *panel;        // scratch: [QI__F32_COLUMNS][32], on a cache line
  qi__lines *next;     // fetched beside every QI__F32_X rows of activations
} qi__f32_panel;

QI__FN void qi__f32_panel_ref(const qi__f32_panel *p) {
  for (size_t i = 0; i < p->n_x; i++)
    for (size_t r = 0; r < QI__F32_ROWS; r++) {
      const float *x = p->x + i * p->x_stride;
      float sum = p->first ? 0 : p->sums[i * QI__F32_ROWS + r];
      for (size_t j = 0; j < p->n_k; j++) {
        float w = p->w ? p->w[r * p->w_stride + j] : qi__bf16_to_f32(qi__load_u16(p->bf16 + r * p->w_stride + 2 * j));
        sum = fmaf(w, x[j], sum);
      }
      p->sums[i * QI__F32_ROWS + r] = sum;
    }
}

// Variants turn the weights first, so that their rows are the lanes. Of bfloat16 two columns are turned as one. n and the lanes are
// constants where these are inlined.

#if defined(QI__X86_64)

// While n rows of activations are at x, the lines of the n rows that follow them.
QI__INLINE void qi__f32_fetch(const float *x, size_t stride, int n) {
  QI__UNROLL for (int r = 0; r < n; r++) qi__prefetch_near(x + (size_t)(n + r) * stride);
}

// ---- AVX2 ----

// n rows of activations from row i on, with 16 weight rows from `lane` on.
QI__INLINE QI__AVX2 void qi__f32_rows_avx2(const qi__f32_panel *p, size_t i, int n, size_t lane) {
  const float *x = p->x + i * p->x_stride, *w = p->panel + lane, *end = w + p->n_k * QI__F32_ROWS;
  const size_t stride = p->x_stride;
  float *y = p->sums + i * QI__F32_ROWS + lane;
  __m256 sum[6][2];
  QI__UNROLL for (int r = 0; r < n; r++) QI__UNROLL for (int b = 0; b < 2; b++)
    sum[r][b] = p->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y + r * QI__F32_ROWS + 8 * b);
  while (w < end) {
    const float *line = w + qi__min_size(16 * QI__F32_ROWS, (size_t)(end - w));
    if (!lane) qi__f32_fetch(x, stride, n);
    for (; w < line; w += QI__F32_ROWS, x++) {
      __m256 w0 = _mm256_loadu_ps(w), w1 = _mm256_loadu_ps(w + 8);
      QI__UNROLL for (int r = 0; r < n; r++) {
        __m256 v = _mm256_broadcast_ss(x + (size_t)r * stride);
        sum[r][0] = _mm256_fmadd_ps(w0, v, sum[r][0]);
        sum[r][1] = _mm256_fmadd_ps(w1, v, sum[r][1]);
      }
    }
  }
  QI__UNROLL for (int r = 0; r < n; r++) QI__UNROLL for (int b = 0; b < 2; b++)
    _mm256_storeu_ps(y + r * QI__F32_ROWS + 8 * b, sum[r][b]);
}

// 16 columns of eight rows of bfloat16 to a part of the panel.
QI__INLINE QI__AVX2 void qi__f32_turn_bf16_avx2(const uint8_t *w, size_t w_stride, float *panel) {
  const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
  uint8_t pairs[8][32];
  qi__transpose8_avx2(w, w_stride, pairs[0], sizeof pairs[0]);
  QI__UNROLL for (int i = 0; i < 8; i++, panel += 2 * QI__F32_ROWS) {
    __m256i v = qi__bytes_avx2(pairs[i]);
    qi__store_bytes_avx2(panel, _mm256_slli_epi32(v, 16));
    qi__store_bytes_avx2(panel + QI__F32_ROWS, _mm256_and_si256(v, upper));
  }
}

QI__INLINE QI__AVX2 void qi__f32_turn_avx2(const qi__f32_panel *p) {
  const size_t w_bytes = p->w_stride * sizeof *p->w, row_bytes = QI__F32_ROWS * sizeof *p->panel;
  for (size_t r = 0; r < QI__F32_ROWS; r += 8) {
    float *panel = p->panel + r;
    for (size_t j = 0; !p->w && j < p->n_k; j += 16)
      qi__f32_turn_bf16_avx2(p->bf16 + r * p->w_stride + 2 * j, p->w_stride, panel + j * QI__F32_ROWS);
    for (size_t j = 0; p->w && j < p->n_k; j += 8)
      qi__transpose8_avx2((const uint8_t *)(p->w + r * p->w_stride + j), w_bytes, (uint8_t *)(panel + j * QI__F32_ROWS), row_bytes);
  }
}

QI__FN QI__AVX2 void qi__f32_panel_avx2(const qi__f32_panel *p) {
  qi__f32_turn_avx2(p);
  for (size_t i = 0, n; i < p->n_x; i += n) {
    n = p->n_x - i >= 6 ? 6 : p->n_x - i >= 4 ? 4 : 1;
    if (i / 6 % 2 == 0) qi__lines_fetch(p->next);
    for (size_t lane = 0; lane < QI__F32_ROWS; lane += 16) {
      if (n == 6) qi__f32_rows_avx2(p, i, 6, lane);
      else if (n == 4) qi__f32_rows_avx2(p, i, 4, lane);
      else qi__f32_rows_avx2(p, i, 1, lane);
    }
  }
}

// ---- AVX-512 ----

QI__INLINE QI__AVX512 void qi__f32_rows_avx512(const qi__f32_panel *p, size_t i, int n) {
  const float *x = p->x + i * p->x_stride, *w = p->panel, *end = w + p->n_k * QI__F32_ROWS;
  const size_t stride = p->x_stride;
  float *y = p->sums + i * QI__F32_ROWS;
  __m512 sum[12][2];
  QI__UNROLL for (int r = 0; r < n; r++) QI__UNROLL for (int b = 0; b < 2; b++)
    sum[r][b] = p->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y + r * QI__F32_ROWS + 16 * b);
  while (w < end) {
    const float *line = w + qi__min_size(16 * QI__F32_ROWS, (size_t)(end - w));
    qi__f32_fetch(x, stride, n);
    for (; w < line; w += QI__F32_ROWS, x++) {
      __m512 w0 = _mm512_loadu_ps(w), w1 = _mm512_loadu_ps(w + 16);
      QI__UNROLL for (int r = 0; r < n; r++) {
        __m512 v = _mm512_set1_ps(x[(size_t)r * stride]);
        sum[r][0] = _mm512_fmadd_ps(w0, v, sum[r][0]);
        sum[r][1] = _mm512_fmadd_ps(w1, v, sum[r][1]);
      }
    }
  }
  QI__UNROLL for (int r = 0; r < n; r++) QI__UNROLL for (int b = 0; b < 2; b++)
    _mm512_storeu_ps(y + r * QI__F32_ROWS + 16 * b, sum[r][b]);
}

// 64 bytes of 16 rows, `stride` bytes apart: dword i of all rows in v[i].
QI__INLINE QI__AVX512 void qi__f32_columns_avx512(const uint8_t *w, size_t stride, __m512i *v) {
  QI__UNROLL for (size_t i = 0; i < 16; i++) v[i] = _mm512_loadu_si512((const void *)(w + i * stride));
  qi__transpose16_avx512(v);
}

QI__INLINE QI__AVX512 void qi__f32_turn_avx512(const qi__f32_panel *p) {
  const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
  __m512i v[16];
  for (size_t r = 0; r < QI__F32_ROWS; r += 16) {
    float *panel = p->panel + r;
    for (size_t j = 0; !p->w && j < p->n_k; j += 32) {
      qi__f32_columns_avx512(p->bf16 + r * p->w_stride + 2 * j, p->w_stride, v);
      QI__UNROLL for (size_t i = 0; i < 16; i++, panel += 2 * QI__F32_ROWS) {
        _mm512_storeu_si512((void *)panel, _mm512_slli_epi32(v[i], 16));
        _mm512_storeu_si512((void *)(panel + QI__F32_ROWS), _mm512_and_si512(v[i], upper));
      }
    }
    for (size_t j = 0; p->w && j < p->n_k; j += 16) {
      qi__f32_columns_avx512((const uint8_t *)(p->w + r * p->w_stride + j), p->w_stride * sizeof *p->w, v);
      QI__UNROLL for (size_t i = 0; i < 16; i++, panel += QI__F32_ROWS) _mm512_storeu_si512((void *)panel, v[i]);
    }
  }
}

QI__FN QI__AVX512 void qi__f32_panel_avx512(const qi__f32_panel *p) {
  qi__f32_turn_avx512(p);
  for (size_t i = 0, n; i < p->n_x; i += n) {
    n = p->n_x - i >= 12 ? 12 : p->n_x - i >= 4 ? 4 : 1;
    qi__lines_fetch(p->next);
    if (n == 12) qi__f32_rows_avx512(p, i, 12);
    else if (n == 4) qi__f32_rows_avx512(p, i, 4);
    else qi__f32_rows_avx512(p, i, 1);
  }
}
#endif

// ---- NEON ----

#if defined(QI__ARM64)

// 16 bytes of four rows, `stride` bytes apart: dword i of all rows in v[i].
QI__INLINE void qi__f32_columns_neon(const uint8_t *w, size_t stride, uint32x4_t *v) {
  for (size_t i = 0; i < 4; i++) v[i] = vreinterpretq_u32_u8(vld1q_u8(w + i * stride));
  uint32x4x2_t ab = vtrnq_u32(v[0], v[1]), cd = vtrnq_u32(v[2], v[3]);
  for (int i = 0; i < 2; i++) {
    v[i] = vcombine_u32(vget_low_u32(ab.val[i]), vget_low_u32(cd.val[i]));
    v[2 + i] = vcombine_u32(vget_high_u32(ab.val[i]), vget_high_u32(cd.val[i]));
  }
}

QI__INLINE void qi__f32_turn_neon(const qi__f32_panel *p) {
  const uint32x4_t upper = vdupq_n_u32(0xffff0000u);
  uint32x4_t v[4];
  for (size_t r = 0; r < QI__F32_ROWS; r += 4) {
    float *panel = p->panel + r;
    for (size_t j = 0; !p->w && j < p->n_k; j += 8) {
      qi__f32_columns_neon(p->bf16 + r * p->w_stride + 2 * j, p->w_stride, v);
      for (int i = 0; i < 4; i++, panel += 2 * QI__F32_ROWS) {
        vst1q_f32(panel, vreinterpretq_f32_u32(vshlq_n_u32(v[i], 16)));
        vst1q_f32(panel + QI__F32_ROWS, vreinterpretq_f32_u32(vandq_u32(v[i], upper)));
      }
    }
    for (size_t j = 0; p->w && j < p->n_k; j += 4) {
      qi__f32_columns_neon((const uint8_t *)(p->w + r * p->w_stride + j), p->w_stride * sizeof *p->w, v);
      for (int i = 0; i < 4; i++, panel += QI__F32_ROWS) vst1q_f32(panel, vreinterpretq_f32_u32(v[i]));
    }
  }
}

// n rows of activations from row i on, with 16 weight rows from `lane` on.
QI__INLINE void qi__f32_rows_neon(const qi__f32_panel *p, size_t i, int n, size_t lane) {
  const float *x = p->x + i * p->x_stride, *w = p->panel + lane, *end = w + p->n_k * QI__F32_ROWS;
  float *y = p->sums + i * QI__F32_ROWS + lane;
  float32x4_t sum[6][4];
  QI__UNROLL for (int r = 0; r < n; r++) QI__UNROLL for (int b = 0; b < 4; b++)
    sum[r][b] = p->first ? vdupq_n_f32(0) : vld1q_f32(y + r * QI__F32_ROWS + 4 * b);
  for (; w < end; w += QI__F32_ROWS, x++) {
    float32x4_t v[4];
    QI__UNROLL for (int b = 0; b < 4; b++) v[b] = vld1q_f32(w + 4 * b);
    QI__UNROLL for (int r = 0; r < n; r++) {
      float32x4_t all = vld1q_dup_f32(x + (size_t)r * p->x_stride);
      QI__UNROLL for (int b = 0; b < 4; b++) sum[r][b] = vfmaq_f32(sum[r][b], v[b], all);
    }
  }
  QI__UNROLL for (int r = 0; r < n; r++) QI__UNROLL for (int b = 0; b < 4; b++)
    vst1q_f32(y + r * QI__F32_ROWS + 4 * b, sum[r][b]);
}

QI__FN void qi__f32_panel_neon(const qi__f32_panel *p) {
  qi__f32_turn_neon(p);
  for (size_t i = 0, n; i < p->n_x; i += n) {
    n = p->n_x - i >= 6 ? 6 : p->n_x - i >= 2 ? 2 : 1;
    if (i / 6 % 2 == 0) qi__lines_fetch(p->next);
    for (size_t lane = 0; lane < QI__F32_ROWS; lane += 16) {
      if (n == 6) qi__f32_rows_neon(p, i, 6, lane);
      else if (n == 2) qi__f32_rows_neon(p, i, 2, lane);
      else qi__f32_rows_neon(p, i, 1, lane);
    }
  }
}
#endif

#endif // QI__KERNELS_PANEL_F32_H
