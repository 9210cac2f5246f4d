// ==== >>dot_q8 : products of packed weight rows and int8 activations ====
#ifndef QI__KERNELS_DOT_Q8_H
#define QI__KERNELS_DOT_Q8_H

#include "activation.h"

// The integer path: y[i * y_stride + r] = sum over blocks of weight row r times activation row x_row + i.
// In each block, lane l of eight sums the integer products of codes 4l..4l+3 of every 32, times the scale of their group (exact in
// int32), and takes them with one multiply-add in float32:
//
//   lane[l] = fma(d_w * d_x, (float)integers[l], lane[l])
//
// Formats with a minimum, 256 weights a block: the min of group g times the sum of that group's activations, also exact; lane l
// holds groups l (of 32) or 2l and 2l+1 (of 16):
//
//   lane[l] = fma(-(dmin_w * d_x), (float)mins[l], lane[l])
//
// Formats with a minimum, 32 weights a block: eight more lanes, block b goes to lane b % 8:
//
//   offset[b % 8] = fma(-(dmin_w * d_x), (float)(min * sum), offset[b % 8])
//
// Blocks ascending; the result is qi__sum_lanes(lane), plus qi__sum_lanes(offset) where there are offsets.
typedef struct qi__dot_q8_args {
  const qi__format *format;
  const uint8_t *w; // [n_w] rows, w_stride bytes apart, any alignment
  size_t w_stride, n_w;
  const qi__q8 *x;
  size_t x_row, n_x;
  float *y;
  size_t y_stride;
} qi__dot_q8_args;

typedef void (*qi__dot_q8_fn)(const qi__dot_q8_args *a);

// lane[] of one block of 32 or 256; see the contract above.
QI__FN void qi__dot_block_ref(const qi__format *f, const qi__block *w, const int8_t *q, float d_x, float *lane) {
  int32_t integers[8] = {0};
  for (int i = 0; i < f->info.block_len; i++) integers[i % 32 / 4] += w->scale[i / f->group] * (w->q[i] * q[i]);
  float d = w->d * d_x;
  for (int l = 0; l < 8; l++) lane[l] = fmaf(d, (float)integers[l], lane[l]);
}

QI__FN void qi__dot_mins_ref(const qi__format *f, const qi__block *w, const int16_t *sum, float d_x, float *lane, float *offset) {
  float d = -(w->dmin * d_x);
  if (f->info.block_len == 32) {
    *offset = fmaf(d, (float)(w->min[0] * (sum[0] + sum[1])), *offset);
    return;
  }
  for (int l = 0; l < 8; l++) {
    int32_t mins = f->group == 32 ? w->min[l] * (sum[2 * l] + sum[2 * l + 1])
                                  : w->min[2 * l] * sum[2 * l] + w->min[2 * l + 1] * sum[2 * l + 1];
    lane[l] = fmaf(d, (float)mins, lane[l]);
  }
}

// Takes each block of weights apart once for up to 16 rows of activations.
QI__FN void qi__dot_q8_row_ref(const qi__dot_q8_args *a, const uint8_t *w, size_t first, size_t n, float *y) {
  const qi__format *f = a->format;
  size_t block = (size_t)f->info.block_len, n_blocks = a->x->k / block;
  float lane[16][8] = {{0}}, offset[16][8] = {{0}};
  for (size_t b = 0; b < n_blocks; b++) {
    qi__block unpacked;
    f->unpack(w + b * (size_t)f->info.block_bytes, &unpacked);
    for (size_t i = 0; i < n; i++) {
      size_t row = first + i;
      float d_x = a->x->d[row * n_blocks + b];
      qi__dot_block_ref(f, &unpacked, a->x->q + row * a->x->k + b * block, d_x, lane[i]);
      if (f->has_min)
        qi__dot_mins_ref(f, &unpacked, a->x->sum + (row * a->x->k + b * block) / 16, d_x, lane[i], &offset[i][b % 8]);
    }
  }
  for (size_t i = 0; i < n; i++) {
    y[i * a->y_stride] = qi__sum_lanes(lane[i]);
    if (f->has_min && block == 32) y[i * a->y_stride] += qi__sum_lanes(offset[i]);
  }
}

QI__FN void qi__dot_q8_ref(const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i += 16)
      qi__dot_q8_row_ref(a, a->w + r * a->w_stride, a->x_row + i, qi__min_size(16, a->n_x - i), a->y + i * a->y_stride + r);
}

#endif // QI__KERNELS_DOT_Q8_H
