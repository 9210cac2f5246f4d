// ==== >>dot_q8 : products of packed weight rows and int8 activations ====
#ifndef QI__KERNELS_DOT_Q8_H
#define QI__KERNELS_DOT_Q8_H

#include "activation.h"

// The integer path: y[i * y_stride + r] = weight row r times activation row x_row + i. In block b, exactly (int32):
//
//   total = sum over codes of scale_w[group] * code_w * code_x
//   mins  = sum over groups of min_w[group] * (sum of the group's code_x)       formats with a minimum
//
// and then in float32, blocks ascending:
//
//   lane[b % 8] = fma(d_w * d_x, (float)total, lane[b % 8])
//   lane[b % 8] = fma(-(dmin_w * d_x), (float)mins, lane[b % 8])                formats with a minimum
//
// The result is qi__sum_lanes(lane). Because the sum in a block is exact, it may be made in any order and by any unit; the lanes
// keep additions independent and let eight blocks be taken at once.
#define QI__Q8_ROWS 32   // weight rows of one call, at most,
#define QI__Q8_RUN 128   // or with one row of activations, which some variants bring into another order for all of them
#define QI__Q8_BATCH 256 // rows of activations that variants take at a time, at most

#define QI__Q8_LANES (8 * QI__Q8_ROWS) // sums of one row of activations

// Room for variants that take weights apart once for many rows of activations: a panel of all weight rows, and sums.
#define QI__Q8_PANEL_FLOATS (4 * 7168)
QI__INLINE size_t qi__q8_scratch(size_t n_x) {
  return QI__Q8_PANEL_FLOATS + qi__min_size(n_x, QI__Q8_BATCH) * QI__Q8_LANES;
}

typedef struct qi__dot_q8_args {
  const qi__format *format;
  const uint8_t *w; // [n_w] rows, w_stride bytes apart, any alignment
  size_t w_stride, n_w; // n_w <= QI__Q8_ROWS, or QI__Q8_RUN if n_x is 1
  const qi__q8 *x;
  size_t x_row, n_x;
  float *y;
  size_t y_stride;
  float *scratch; // [qi__q8_scratch(n_x)], aligned to a cache line; the reference needs none
  qi__fetch fetch; // of weights, for a few rows of activations
} qi__dot_q8_args;

typedef void (*qi__dot_q8_fn)(const qi__dot_q8_args *a);

// Products with weights that a cache stores in another order, in tiles of QI__Q8_ROWS rows by chunks of 256 columns: the same bits.
// All NULL where there are none.
typedef struct qi__stored_q8_kernels {
  size_t (*chunk_bytes)(const qi__format *f);                      // 0 = not for this format
  size_t (*from)(const qi__format *f);                             // rows of activations from which this pays
  void (*store)(const qi__dot_q8_args *a, size_t k, uint8_t *dst); // rows a->w of k columns to the chunks of a tile
  void (*dot)(const qi__dot_q8_args *a);                           // a->w: a tile, a->w_stride: bytes of a chunk
} qi__stored_q8_kernels;

// One block with one row of activations: d_x, codes q and their sums by 16.
QI__FN float qi__dot_block_ref(const qi__format *f, const qi__block *w, float d_x, const int8_t *q, const int16_t *sum,
                              float lane) {
  int32_t total = 0, mins = 0;
  for (int i = 0; i < f->info.block_len; i++) total += w->scale[i / f->group] * (qi__block_code(f, w, i) * q[i]);
  lane = fmaf(w->d * d_x, (float)total, lane);
  if (!f->has_min) return lane;
  for (int i = 0; i < f->info.block_len; i += 16) mins += w->min[i / f->group] * sum[i / 16];
  return fmaf(-(w->dmin * d_x), (float)mins, lane);
}

// Takes each block of weights apart once for up to 16 rows of activations.
QI__FN void qi__dot_q8_row_ref(const qi__dot_q8_args *a, const uint8_t *w, size_t first, size_t n, float *y) {
  const qi__format *f = a->format;
  size_t block = (size_t)f->info.block_len, n_blocks = a->x->k / block;
  float lane[16][8] = {{0}};
  for (size_t b = 0; b < n_blocks; b++) {
    qi__block unpacked;
    qi__unpack(f, w + b * (size_t)f->info.block_bytes, &unpacked);
    for (size_t i = 0; i < n; i++) {
      size_t at = (first + i) * a->x->k + b * block;
      lane[i][b % 8] =
          qi__dot_block_ref(f, &unpacked, a->x->d[at / block], a->x->q + at, a->x->sum + at / 16, lane[i][b % 8]);
    }
  }
  for (size_t i = 0; i < n; i++) y[i * a->y_stride] = qi__sum_lanes(lane[i]);
}

QI__FN void qi__dot_q8_ref(const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i += 16)
      qi__dot_q8_row_ref(a, a->w + r * a->w_stride, a->x_row + i, qi__min_size(16, a->n_x - i), a->y + i * a->y_stride + r);
}

#endif // QI__KERNELS_DOT_Q8_H
