// ==== >>matmul : a tile of a matrix product, by arithmetic and format ====
#ifndef QI__KERNELS_MATMUL_H
#define QI__KERNELS_MATMUL_H

#include "table.h"

// Work is handed out in tiles of this many weight rows. No result depends on it.
#define QI__TILE_ROWS 16

// A weight matrix [n_rows, n_cols]: each row gives one output.
typedef struct qi__weight {
  qi_format id;
  const qi__format *format;
  const uint8_t *data;
  size_t n_rows, n_cols, row_bytes;
  const float *bias; // [n_rows], or NULL
} qi__weight;

typedef enum qi__arithmetic { QI__INTEGER, QI__FLOAT, QI__BF16 } qi__arithmetic;

// The rule of qi_path in api.h. Float formats have no integer form: INTEGER multiplies them in float32.
QI__FN qi__arithmetic qi__arithmetic_of(const qi__weight *w, qi_path path, bool generated) {
  bool exact = w->id == QI_FORMAT_F32 || w->id == QI_FORMAT_F16;
  if (path == QI_PATH_AUTO) path = generated ? QI_PATH_INTEGER : exact ? QI_PATH_FLOAT : QI_PATH_BF16;
  if (path == QI_PATH_INTEGER) return w->format->unpack ? QI__INTEGER : QI__FLOAT;
  return path == QI_PATH_BF16 ? QI__BF16 : QI__FLOAT;
}

// ---- inputs ----

// Activations in the forms that the weights of one step want. Each form has room for all rows; a row is filled where it is needed.
typedef struct qi__inputs {
  float *x;    // [n, k]
  float *bf16; // [n, k], rounded to bfloat16
  qi__q8 q8_32, q8_256;
} qi__inputs;

enum { QI__NEED_BF16 = 1, QI__NEED_Q8_32 = 2, QI__NEED_Q8_256 = 4 };

QI__FN unsigned qi__inputs_need(const qi__weight *w, qi__arithmetic arithmetic) {
  if (arithmetic == QI__FLOAT) return 0;
  if (arithmetic == QI__BF16) return QI__NEED_BF16;
  return w->format->info.block_len == 32 ? QI__NEED_Q8_32 : QI__NEED_Q8_256;
}

// Room for n rows of up to k values, in an arena. (q8 blocks: at most one scale every 32 values.)
QI__FN void qi__inputs_layout(qi__inputs *in, qi__arena *arena, size_t n, size_t k) {
  size_t size;
  if (!qi__mul_size(n, k, &size)) arena->overflow = true, size = 0;
  in->x = QI__ARENA_ARRAY(arena, float, size);
  in->bf16 = QI__ARENA_ARRAY(arena, float, size);
  qi__q8 *forms[2] = {&in->q8_32, &in->q8_256};
  for (int i = 0; i < 2; i++) {
    forms[i]->q = QI__ARENA_ARRAY(arena, int8_t, size);
    forms[i]->block = i ? 256 : 32;
    forms[i]->d = QI__ARENA_ARRAY(arena, float, size / (size_t)forms[i]->block);
    forms[i]->sum = QI__ARENA_ARRAY(arena, int16_t, size / 16);
  }
}

// Says how long the rows of the next step are.
QI__FN void qi__inputs_set_width(qi__inputs *in, size_t k) { in->q8_32.k = in->q8_256.k = k; }

// Fills the needed forms of row `row` from in->x.
QI__FN void qi__inputs_prepare(const qi__kernels *kernels, const qi__inputs *in, size_t row, unsigned need) {
  size_t k = in->q8_32.k;
  const float *x = in->x + row * k;
  if (need & QI__NEED_Q8_32) kernels->quantize_q8(x, &in->q8_32, row);
  if (need & QI__NEED_Q8_256) kernels->quantize_q8(x, &in->q8_256, row);
  if (need & QI__NEED_BF16)
    for (size_t i = 0; i < k; i++) in->bf16[row * k + i] = qi__bf16_to_f32(qi__f32_to_bf16(x[i]));
}

// ---- tiles ----

// Floats of scratch that a tile of a matrix of n_cols needs.
QI__INLINE size_t qi__tile_scratch(size_t n_cols) { return QI__TILE_ROWS * n_cols; }

// Weight rows first..first+n_w-1 as float32, rounded to bfloat16 if asked: in place where they are that already, else in scratch.
QI__FN const float *qi__tile_weights(const qi__kernels *kernels, const qi__weight *w, size_t first, size_t n_w, bool bf16,
                                     float *scratch) {
  const uint8_t *src = w->data + first * w->row_bytes;
  if (w->id == QI_FORMAT_F32 && !bf16 && (uintptr_t)src % sizeof(float) == 0) return (const float *)(const void *)src;
  size_t n = n_w * w->n_cols;
  kernels->dequantize[w->id](w->format, src, scratch, n);
  if (bf16 && w->id != QI_FORMAT_BF16)
    for (size_t i = 0; i < n; i++) scratch[i] = qi__bf16_to_f32(qi__f32_to_bf16(scratch[i]));
  return scratch;
}

// y[i * y_stride + r] = weight row first + r times activation row x_row + i, plus bias;  r < n_w <= QI__TILE_ROWS, i < n_x.
// scratch: float32 [qi__tile_scratch(n_cols)], one for each thread.
QI__FN void qi__matmul_tile(const qi__kernels *kernels, qi__arithmetic arithmetic, const qi__weight *w, size_t first, size_t n_w,
                            const qi__inputs *in, size_t x_row, size_t n_x, float *y, size_t y_stride, float *scratch) {
  if (arithmetic == QI__INTEGER) {
    const qi__q8 *x = w->format->info.block_len == 32 ? &in->q8_32 : &in->q8_256;
    qi__dot_q8_args args = {w->format, w->data + first * w->row_bytes, w->row_bytes, n_w, x, x_row, n_x, y, y_stride};
    kernels->dot_q8[w->id](&args);
  } else {
    bool bf16 = arithmetic == QI__BF16;
    const float *rows = qi__tile_weights(kernels, w, first, n_w, bf16, scratch);
    const float *x = (bf16 ? in->bf16 : in->x) + x_row * w->n_cols;
    kernels->dot_f32(rows, w->n_cols, n_w, x, w->n_cols, n_x, w->n_cols, y, y_stride);
  }
  if (w->bias)
    for (size_t i = 0; i < n_x; i++) kernels->add(w->bias + first, n_w, y + i * y_stride);
}

#endif // QI__KERNELS_MATMUL_H
