// ==== >>dot_ternary : products of ternary weight rows and int8 activations ====
#ifndef QI__KERNELS_DOT_TERNARY_H
#define QI__KERNELS_DOT_TERNARY_H

#include "dot_q8.h"

// TQ1_0, TQ2_0 and I2_S with BitNet's own arithmetic: one scale d_x for a whole row of activations (qi__q8 whose block is k), and a
// weight row as one exact integer sum for as long as its scale stays the same. Blocks beside each other whose scales have the same
// bits form a run, which also ends after each QI__TERNARY_RUN blocks of the row. In each run, exactly (int32):
//
//   total = sum of code_w * code_x        code_w: -1, 0, 1; also 2, since a pair of bits may be 3
//
// and then in float32, runs ascending, from y = 0 on:
//
//   y = fma(d_w * d_x, (float)total, y)
//
// Rows of real ternary models are one run: equal weights give equal bits in all three formats.

// Variants may hold sums of (code + 1) * 127 times up to 256 in eight lanes (the digits of TQ1_0 as fractions):
// 512 * 256 / 8 * 255 * 127 * 3 < 2^31.
#define QI__TERNARY_RUN 512

// Whether the scales of blocks b and b + 1 of `row` differ.
QI__INLINE bool qi__ternary_scale_changes(const qi__format *f, const uint8_t *row, size_t b) {
  if (f->info.tail_bytes) return false; // one scale for the tensor
  size_t size = (size_t)f->info.block_bytes;
  const uint8_t *d = row + (b + 1) * size - 2; // the last two bytes of a block
  return qi__load_u16(d) != qi__load_u16(d + size);
}

// Whether a run ends after block b of the n_blocks of `row`.
QI__INLINE bool qi__ternary_run_ends(const qi__format *f, const uint8_t *row, size_t b, size_t n_blocks) {
  return b + 1 == n_blocks || (b + 1) % QI__TERNARY_RUN == 0 || qi__ternary_scale_changes(f, row, b);
}

QI__FN int32_t qi__ternary_total_ref(const int8_t *code, const int8_t *x) {
  int32_t total = 0;
  for (int i = 0; i < 256; i++) total += code[i] * x[i];
  return total;
}

// Takes each block of weights apart once for up to 16 rows of activations.
QI__FN void qi__dot_ternary_row_ref(const qi__dot_q8_args *a, const uint8_t *w, size_t first, size_t n, float *y) {
  const qi__format *f = a->format;
  size_t k = a->x->k, n_blocks = k / 256;
  int32_t total[16] = {0};
  float sum[16] = {0};
  for (size_t b = 0; b < n_blocks; b++) {
    qi__block block;
    qi__unpack(f, w + b * (size_t)f->info.block_bytes, &block);
    bool ends = qi__ternary_run_ends(f, w, b, n_blocks);
    for (size_t i = 0; i < n; i++) {
      total[i] += qi__ternary_total_ref(block.q, a->x->q + (first + i) * a->x->stride + 256 * b);
      if (!ends) continue;
      sum[i] = fmaf(block.d * a->x->d[first + i], (float)total[i], sum[i]);
      total[i] = 0;
    }
  }
  for (size_t i = 0; i < n; i++) y[i * a->y_stride] = sum[i];
}

QI__FN void qi__dot_ternary_ref(const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i += 16)
      qi__dot_ternary_row_ref(a, a->w + r * a->w_stride, a->x_row + i, qi__min_size(16, a->n_x - i), a->y + i * a->y_stride + r);
}

// ---- one row of activations: pairs of weight rows ----

#define QI__TERNARY_PAIR 2

// A pair of weight rows with a row of activations.
typedef struct qi__ternary_pair {
  const qi__format *f; // of the table
  const uint8_t *w[QI__TERNARY_PAIR];
  const int8_t *x;
  const int16_t *sum;
  size_t n_blocks;
  qi__fetch fetch;
  float d, d_x; // d: of the tensor
  int32_t total[QI__TERNARY_PAIR]; // of the run
  float y[QI__TERNARY_PAIR];
} qi__ternary_pair;

// Weight rows r, r + 1 of `a`, of format id; beyond the last row the last again.
QI__INLINE qi__ternary_pair qi__ternary_pair_of(qi_format id, const qi__dot_q8_args *a, size_t r) {
  const uint8_t *w = a->w + r * a->w_stride;
  qi__ternary_pair p = {&qi__formats[id], {w, w}, NULL, NULL, a->x->k / 256, a->fetch, a->format->param[0], 0, {0}, {0}};
  if (r + 1 < a->n_w) p.w[1] += a->w_stride;
  return p;
}

// Begins with activation row `row`.
QI__INLINE void qi__ternary_pair_start(qi__ternary_pair *p, const qi__q8 *x, size_t row) {
  p->x = x->q + row * x->stride;
  p->sum = x->sum + row * (x->k / 16);
  p->d_x = x->d[row];
  p->y[0] = p->y[1] = 0;
}

QI__INLINE const uint8_t *qi__ternary_block(const qi__ternary_pair *p, int r, size_t b) {
  return p->w[r] + b * (size_t)p->f->info.block_bytes;
}

QI__INLINE bool qi__ternary_pair_changes(const qi__ternary_pair *p, size_t b) {
  return qi__ternary_scale_changes(p->f, p->w[0], b) || qi__ternary_scale_changes(p->f, p->w[1], b);
}

// Adds the sum of blocks up to b of row r; d: d_w * d_x of block b.
QI__INLINE void qi__ternary_pair_add(qi__ternary_pair *p, int r, int32_t total, size_t b, float d) {
  p->total[r] += total;
  if (!qi__ternary_run_ends(p->f, p->w[r], b, p->n_blocks)) return;
  p->y[r] = fmaf(d, (float)p->total[r], p->y[r]);
  p->total[r] = 0;
}

QI__INLINE void qi__ternary_pair_finish(const qi__ternary_pair *p, const qi__dot_q8_args *a, size_t r, float *y) {
  y[r] = p->y[0];
  if (r + 1 < a->n_w) y[r + 1] = p->y[1];
}

#endif // QI__KERNELS_DOT_TERNARY_H
