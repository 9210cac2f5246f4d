// ==== >>forms : weights made ready to be multiplied ====
#ifndef QI__KERNELS_FORMS_H
#define QI__KERNELS_FORMS_H

#include "../base/threads.h"
#include "matmul.h"

// Bytes of a tile of a matrix in the form of an arithmetic, a multiple of the cache line; 0 = it has none with these kernels, or
// none that spares any work. Overflow: SIZE_MAX.
QI__FN size_t qi__form_tile_bytes(const qi__kernels *kernels, qi__arithmetic arithmetic, qi_format id, size_t n_cols) {
  const qi__format *f = &qi__formats[id];
  size_t row, bytes;
  if (!n_cols || n_cols > SIZE_MAX / (64 * QI__TILE_ROWS)) return n_cols ? SIZE_MAX : 0;
  switch (arithmetic) {
  case QI__INTEGER:
    if (!f->unpack || !kernels->stored_q8.dot) return 0;
    bytes = (n_cols + 255) / 256 * kernels->stored_q8.chunk_bytes(f);
    break;
  case QI__FLOAT:
    if (id <= QI_FORMAT_BF16) return 0;
    bytes = QI__TILE_ROWS * qi__float_stride(n_cols) * sizeof(float);
    break;
  case QI__BF16:
    if (id == QI_FORMAT_BF16 && !kernels->bf16.multiply) return 0;
    row = kernels->bf16.multiply ? qi__bf16_width(n_cols) : n_cols;
    bytes = QI__TILE_ROWS * row * sizeof(uint16_t);
    break;
  default: return 0;
  }
  return qi__align_up(bytes, QI__CACHE_LINE, &bytes) ? bytes : SIZE_MAX;
}

QI__INLINE size_t qi__n_tiles(size_t n_rows) { return n_rows / QI__TILE_ROWS + (n_rows % QI__TILE_ROWS != 0); }

// One row of n_cols weights rounded to bfloat16.
QI__FN void qi__form_bf16_row(const qi__kernels *kernels, const qi__weight *w, const uint8_t *src, uint8_t *dst) {
  float values[QI__BF16_STEP];
  for (size_t k = 0; k < w->n_cols; k += QI__BF16_STEP) {
    size_t n = qi__min_size(QI__BF16_STEP, w->n_cols - k);
    kernels->dequantize[w->id](w->format, src + qi__row_bytes(w->id, k), values, n);
    kernels->round_bf16(values, n, values);
    qi__formats[QI_FORMAT_BF16].quantize(values, dst + 2 * k, n, NULL);
  }
}

// Tile `tile` of w in the form of an arithmetic, to `dst`.
QI__FN void qi__form_fill(const qi__kernels *kernels, qi__arithmetic arithmetic, const qi__weight *w, size_t tile, uint8_t *dst) {
  size_t first = tile * QI__TILE_ROWS, n_w = qi__min_size(QI__TILE_ROWS, w->n_rows - first);
  const uint8_t *src = w->data + first * w->row_bytes;
  if (arithmetic == QI__INTEGER) {
    qi__dot_q8_args rows = {w->format, src, w->row_bytes, n_w, NULL, 0, 0, NULL, 0, NULL, QI__FETCH_LINES};
    kernels->stored_q8.store(&rows, w->n_cols, dst);
  } else if (arithmetic == QI__BF16 && kernels->bf16.multiply) {
    uint16_t rows[16 * QI__BF16_STRIDE];
    for (size_t k = 0; k < w->n_cols; k += kernels->bf16.slice)
      qi__tile_panel(kernels, w, first, n_w, k, qi__min_size(kernels->bf16.slice, w->n_cols - k), rows,
                     (uint16_t *)(void *)dst + QI__BF16_ROWS * k);
  } else {
    qi__weight rows = qi__tile_rows(w, arithmetic, dst, n_w);
    for (size_t r = 0; r < n_w; r++, src += w->row_bytes, dst += rows.row_bytes) {
      if (arithmetic == QI__BF16) qi__form_bf16_row(kernels, w, src, dst);
      else kernels->dequantize[w->id](w->format, src, (float *)(void *)dst, w->n_cols);
    }
  }
}

// ---- threaded ----

// Tiles begin..end-1 of one form.
typedef struct qi__form_job {
  const qi__kernels *kernels;
  const qi__weight *w;
  qi__arithmetic arithmetic;
  uint8_t *data; // of tile 0
  size_t tile_bytes, begin;
} qi__form_job;

QI__FN void qi__form_task(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__form_job *j = (const qi__form_job *)arg;
  (void)worker;
  for (size_t i = j->begin + (size_t)begin; i < j->begin + (size_t)end; i++)
    qi__form_fill(j->kernels, j->arithmetic, j->w, i, j->data + i * j->tile_bytes);
}

#endif // QI__KERNELS_FORMS_H
