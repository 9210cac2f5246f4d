// ==== >>panel_float : products of float rows with some rows of activations ====
#ifndef QI__KERNELS_PANEL_FLOAT_H
#define QI__KERNELS_PANEL_FLOAT_H

#include "dot_f32.h"

// The products of dot_f32.h and their bits, a piece of k at a time: what 16 weight rows, some 32 rows of activations and their
// lanes take then stays in the first-level cache, and the next weights come while these are multiplied.

#define QI__FLOAT_ROWS 16   // weight rows of a panel
#define QI__FLOAT_FROM 8    // rows of activations at least: to bring weights together takes as long as to multiply four
#define QI__FLOAT_TO 64     // and at most: their lanes take 32 KB; prompts of 256 were 11 % slower (Emerald Rapids)
#define QI__FLOAT_X 6       // of them at a time
#define QI__FLOAT_STEP 256  // weights of a row that are dequantised at a time: the longest block
#define QI__FLOAT_STRIDE (QI__FLOAT_STEP + 16) // of rows that are: not all into the same cache set

QI__STATIC_ASSERT(QI__FLOAT_STEP % QI__FLOAT_PIECE == 0, float_step);

typedef struct qi__float_panel {
  qi_format kind;      // F32, F16 or BF16
  const uint8_t *w;    // QI__FLOAT_ROWS rows, w_stride bytes apart
  size_t w_stride;
  size_t n_k;          // QI__FLOAT_PIECE, or what is left of k
  const float *x;
  size_t x_stride, n_x;
  bool first;          // piece
  float *total;        // lanes of all pieces so far, scratch: [n_x][QI__FLOAT_ROWS][8], on a cache line
  float *y;            // with the last piece: [n_x, QI__FLOAT_ROWS], y_stride apart; else NULL
  size_t y_stride;
  float *pairs;        // scratch: [QI__FLOAT_PIECE / 8][QI__FLOAT_ROWS][8], on a cache line
  qi__lines *next;     // fetched beside every QI__FLOAT_X rows of activations
} qi__float_panel;

#if defined(QI__X86_64)

// Two weight rows share a register as in qi__dot_float_tile_avx512, but are brought together once for all rows of activations.
QI__INLINE QI__AVX512 void qi__float_pairs_avx512(qi_format kind, const qi__float_panel *p) {
  float *pairs = p->pairs;
  size_t j = 0;
  for (; j + 8 <= p->n_k; j += 8, pairs += 8 * QI__FLOAT_ROWS)
    QI__UNROLL for (size_t r = 0; r < QI__FLOAT_ROWS; r += 2)
      _mm512_store_ps(pairs + 8 * r, qi__load_weights_avx512(kind, p->w + r * p->w_stride, p->w_stride, j));
  if (j == p->n_k) return;
  memset(pairs, 0, 8 * QI__FLOAT_ROWS * sizeof *pairs);
  for (size_t r = 0; r < QI__FLOAT_ROWS; r++)
    for (size_t at = j; at < p->n_k; at++) pairs[8 * r + at - j] = qi__float_weight(kind, p->w + r * p->w_stride, at);
}

// Eight columns of eight weight rows at w and n rows of activations at x, of those that `lanes` says.
QI__INLINE QI__AVX512 void qi__float_step_avx512(const float *w, const float *x, size_t stride, int n, __mmask8 lanes,
                                                 __m512 (*sum)[4]) {
  __m512 a[4];
  QI__UNROLL for (int r = 0; r < 4; r++) a[r] = _mm512_load_ps(w + 16 * r);
  QI__UNROLL for (int q = 0; q < n; q++) {
    const float *at = x + (size_t)q * stride;
    __m512 b = _mm512_broadcast_f32x8(lanes == 0xff ? _mm256_loadu_ps(at) : _mm256_maskz_loadu_ps(lanes, at));
    QI__UNROLL for (int r = 0; r < 4; r++) sum[q][r] = _mm512_fmadd_ps(a[r], b, sum[q][r]);
  }
}

// n rows of activations from row i on, times eight weight rows from `row` on. n is a constant where this is inlined.
QI__INLINE QI__AVX512 void qi__float_tile_avx512(const qi__float_panel *p, size_t i, int n, size_t row) {
  const float *x = p->x + i * p->x_stride, *w = p->pairs + 8 * row, *end = x + p->n_k;
  const size_t stride = p->x_stride;
  float *total = p->total + 8 * (i * QI__FLOAT_ROWS + row), *y = p->y;
  __m512 sum[QI__FLOAT_X][4];
  QI__UNROLL for (int q = 0; q < n; q++) QI__UNROLL for (int r = 0; r < 4; r++) sum[q][r] = _mm512_setzero_ps();
  for (; end - x >= 8; x += 8, w += 8 * QI__FLOAT_ROWS) qi__float_step_avx512(w, x, stride, n, 0xff, sum);
  if (x < end) qi__float_step_avx512(w, x, stride, n, (__mmask8)qi__tail_mask_avx512((size_t)(end - x)), sum);
  QI__UNROLL for (int q = 0; q < n; q++, total += 8 * QI__FLOAT_ROWS) {
    QI__UNROLL for (int r = 0; r < 4; r++)
      sum[q][r] = _mm512_add_ps(p->first ? _mm512_setzero_ps() : _mm512_load_ps(total + 16 * r), sum[q][r]);
    if (!y) QI__UNROLL for (int r = 0; r < 4; r++) _mm512_store_ps(total + 16 * r, sum[q][r]);
    else QI__UNROLL for (int r = 0; r < 4; r += 2)
      _mm_storeu_ps(y + (i + (size_t)q) * p->y_stride + row + 2 * r, qi__sum_rows_avx512(sum[q][r], sum[q][r + 1]));
  }
}

QI__FN QI__AVX512 void qi__float_panel_avx512(const qi__float_panel *p) {
  if (p->kind == QI_FORMAT_F32) qi__float_pairs_avx512(QI_FORMAT_F32, p);
  else if (p->kind == QI_FORMAT_F16) qi__float_pairs_avx512(QI_FORMAT_F16, p);
  else qi__float_pairs_avx512(QI_FORMAT_BF16, p);
  for (size_t i = 0, n; i < p->n_x; i += n) {
    n = p->n_x - i >= 6 ? 6 : p->n_x - i >= 2 ? 2 : 1;
    qi__lines_fetch(p->next);
    for (size_t row = 0; row < QI__FLOAT_ROWS; row += 8) {
      if (n == 6) qi__float_tile_avx512(p, i, 6, row);
      else if (n == 2) qi__float_tile_avx512(p, i, 2, row);
      else qi__float_tile_avx512(p, i, 1, row);
    }
  }
}
#endif

#endif // QI__KERNELS_PANEL_FLOAT_H
