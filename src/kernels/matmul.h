// ==== >>matmul : a tile of a matrix product, by arithmetic and format ====
#ifndef QI__KERNELS_MATMUL_H
#define QI__KERNELS_MATMUL_H

#include "table.h"

// Work is handed out in tiles of this many weight rows. No result depends on it.
#define QI__TILE_ROWS 32

QI__STATIC_ASSERT(QI__TILE_ROWS % QI__FLOAT_ROWS == 0 && QI__TILE_ROWS == QI__BF16_ROWS && QI__TILE_ROWS == QI__Q8_ROWS, tile_rows);
QI__STATIC_ASSERT(QI__Q8_RUN % QI__TILE_ROWS == 0, tile_run);

typedef enum qi__arithmetic { QI__INTEGER, QI__FLOAT, QI__BF16, QI__ARITHMETICS } qi__arithmetic;

// A matrix in the form that an arithmetic multiplies without unpacking, in tiles of QI__TILE_ROWS rows; the last may be less. The
// results have the same bits.
//   FLOAT    rows of float32, qi__float_stride apart
//   BF16     panels as in bf16.h, slice after slice; where there are no instructions for bfloat16, rows of it
//   INTEGER  as qi__stored_q8_kernels says
typedef struct qi__form {
  const uint8_t *data; // tiles 0..n_tiles-1
  size_t n_tiles, tile_bytes;
} qi__form;

typedef struct qi__forms {
  qi__bf16_kernels bf16; // whose layout panels have
  qi__form of[QI__ARITHMETICS];
} qi__forms;

// A weight matrix [n_rows, n_cols]: each row gives one output.
typedef struct qi__weight {
  qi_format id;
  const qi__format *format;
  const uint8_t *data;
  size_t n_rows, n_cols, row_bytes;
  const float *bias; // [n_rows], or NULL
  const qi__forms *forms; // ready to be multiplied, or NULL
} qi__weight;

// The rule of qi_path in api.h. Float formats have no integer form: INTEGER multiplies them in float32. Many rows in bfloat16 are
// faster than in integers only where a matrix unit does it, and not with ternary weights, whose integers it multiplies as well.
QI__FN qi__arithmetic qi__arithmetic_of(const qi__kernels *kernels, const qi__weight *w, qi_path path, bool generated) {
  bool exact = w->id == QI_FORMAT_F32 || w->id == QI_FORMAT_F16;
  if (path == QI_PATH_AUTO) {
    bool integer = generated || (w->format->unpack && (w->format->ternary || !kernels->matrix_unit));
    path = exact ? QI_PATH_FLOAT : integer ? QI_PATH_INTEGER : QI_PATH_BF16;
  }
  if (path == QI_PATH_INTEGER) return w->format->unpack ? QI__INTEGER : QI__FLOAT;
  return path == QI_PATH_BF16 ? QI__BF16 : QI__FLOAT;
}

// ---- inputs ----

// Floats from one float32 row to the next: not all rows of a power of two into the same cache set.
QI__INLINE size_t qi__float_stride(size_t n_cols) { return (n_cols + 15) / 16 * 16 + 16; }

// Activations in the forms that the weights of one step want. Each form has room for all rows; a row is filled where it is needed.
typedef struct qi__inputs {
  float *x;    // [n, k]
  void *bf16;  // rounded to bfloat16: packed as in bf16.h, or rows of float32, qi__float_stride apart
  qi__q8 q8[3]; // by qi__q8_form
} qi__inputs;

enum { QI__Q8_32, QI__Q8_256, QI__Q8_ROW };
enum { QI__NEED_Q8 = 1, QI__NEED_BF16 = 8 }; // QI__NEED_Q8 << form

// Which form of int8 activations the integer products of a format take: scales for 32, 256 or all columns.
QI__INLINE int qi__q8_form(const qi__format *f) {
  return f->ternary ? QI__Q8_ROW : f->info.block_len == 256 ? QI__Q8_256 : QI__Q8_32;
}

QI__FN unsigned qi__inputs_need(const qi__weight *w, qi__arithmetic arithmetic) {
  if (arithmetic == QI__FLOAT) return 0;
  if (arithmetic == QI__BF16) return QI__NEED_BF16;
  return (unsigned)QI__NEED_Q8 << qi__q8_form(w->format);
}

// Rows for ternary weights lie so far behind each other that those of a power of two are not all in the same cache sets: tiles of
// a matrix unit take 32 at a time.
QI__INLINE size_t qi__q8_row_stride(size_t k) { return k + QI__CACHE_LINE; }

// Room for n rows of up to k values, in an arena. (q8 blocks: at most one scale every 32 values.)
QI__FN void qi__inputs_layout(qi__inputs *in, qi__arena *arena, size_t n, size_t k) {
  size_t rounded, packed, rows;
  if (!qi__mul_size(n, qi__float_stride(k), &rounded) || !qi__mul_size((n + 15) / 16 * 8, qi__bf16_width(k), &packed) ||
      !qi__mul_size(n, qi__q8_row_stride(k), &rows))
    arena->overflow = true, rounded = packed = rows = 0;
  const size_t size = rounded ? n * k : 0;
  in->x = QI__ARENA_ARRAY(arena, float, size);
  in->bf16 = QI__ARENA_ARRAY(arena, float, qi__max_size(rounded, packed));
  for (int form = 0; form < 3; form++) {
    qi__q8 *q8 = &in->q8[form];
    q8->q = QI__ARENA_ARRAY(arena, int8_t, form == QI__Q8_ROW ? rows : size);
    q8->block = form == QI__Q8_32 ? 32 : 256;
    q8->d = QI__ARENA_ARRAY(arena, float, form == QI__Q8_ROW ? n : size / q8->block);
    q8->sum = QI__ARENA_ARRAY(arena, int16_t, size / 16);
  }
}

// Says how long the rows of the next step are.
QI__FN void qi__inputs_set_width(qi__inputs *in, size_t k) {
  for (int form = 0; form < 3; form++) in->q8[form].k = in->q8[form].stride = k;
  in->q8[QI__Q8_ROW].block = k;
  in->q8[QI__Q8_ROW].stride = qi__q8_row_stride(k);
}

// Fills the needed forms of row `row` from in->x.
QI__FN void qi__inputs_prepare(const qi__kernels *kernels, const qi__inputs *in, size_t row, unsigned need) {
  size_t k = in->q8[0].k;
  const float *x = in->x + row * k;
  for (int form = 0; form < 3; form++)
    if (need & (unsigned)QI__NEED_Q8 << form) kernels->quantize_q8(x, &in->q8[form], row);
  if (!(need & QI__NEED_BF16)) return;
  if (kernels->bf16.pack) kernels->bf16.pack(x, k, (uint16_t *)in->bf16, row);
  else kernels->round_bf16(x, k, (float *)in->bf16 + row * qi__float_stride(k));
}

// When rows begin .. end - 1 are filled: begin is a multiple of 16, and end, too, unless it is the last.
QI__FN void qi__inputs_turn(const qi__kernels *kernels, const qi__inputs *in, size_t begin, size_t end, unsigned need) {
  const size_t n = 16 * qi__bf16_width(in->q8[0].k);
  if (!kernels->bf16.turn || !(need & QI__NEED_BF16)) return;
  for (; begin < end; begin += 16) {
    uint16_t *tile = (uint16_t *)in->bf16 + qi__bf16_row(in->q8[0].k, begin);
    for (size_t i = 0; i < n; i += 512) kernels->bf16.turn(tile + i, 16, tile + i, 16);
  }
}

// ---- tiles ----

// Tiles that follow each other and may be taken by one call. On a matrix unit a slice of all activations then stays in the
// second-level cache for several panels.
#define QI__BF16_RUN 6
QI__INLINE size_t qi__tiles_at_once(const qi__kernels *kernels, qi__arithmetic arithmetic, size_t n_x) {
  if (arithmetic == QI__INTEGER && n_x == 1) return QI__Q8_RUN / QI__TILE_ROWS;
  return arithmetic == QI__BF16 && kernels->matrix_unit ? QI__BF16_RUN : 1;
}

// Sums of a panel with rows of activations x_row .. x_row + n_x - 1, in groups of 16 rows from a multiple of 16 on.
QI__INLINE size_t qi__bf16_sums(size_t x_row, size_t n_x) { return ((x_row + n_x + 15) / 16 - x_row / 16) * 16 * QI__BF16_ROWS; }

// Floats of scratch that tiles of a matrix of n_cols need with up to n_x rows of activations: results before they are added; and
// weight rows as float32, or a panel, the rows that go into it and their sums, or a panel and sums of integer products.
#define QI__FLOAT_SCRATCH(n_x) (QI__FLOAT_ROWS * (QI__FLOAT_STRIDE + QI__FLOAT_PIECE + 8 * qi__min_size(n_x, QI__FLOAT_TO)))
#define QI__F32_SCRATCH (QI__F32_ROWS * QI__F32_STRIDE + QI__F32_COLUMNS * QI__F32_ROWS)
QI__INLINE size_t qi__tile_results(size_t n_x) { return qi__max_size(n_x * QI__TILE_ROWS, QI__Q8_RUN); }
QI__INLINE size_t qi__tile_scratch(size_t n_cols, size_t n_x) {
  size_t panel = QI__BF16_ROWS * qi__bf16_width(qi__min_size(n_cols, QI__BF16_SLICE_MAX)) / 2 + 16 * QI__BF16_STRIDE / 2;
  panel += QI__BF16_RUN * qi__bf16_sums(15, qi__min_size(n_x, QI__BF16_BATCH));
  size_t rows = QI__FLOAT_ROWS * qi__float_stride(n_cols), q8 = qi__q8_scratch(n_x);
  panel = qi__max_size(qi__max_size(panel, rows), qi__max_size(QI__F32_SCRATCH, QI__FLOAT_SCRATCH(n_x)));
  return qi__tile_results(n_x) + qi__max_size(panel, q8);
}

// Weight rows from `first` on that are needed next, columns k.. ; what is behind the matrix is not there.
QI__FN qi__lines qi__tile_lines(const qi__weight *w, size_t first, size_t n_w, size_t k, size_t n_k) {
  const size_t n = first < w->n_rows ? qi__min_size(n_w, w->n_rows - first) : 0;
  const uintptr_t row = (uintptr_t)w->data + first * w->row_bytes + qi__row_bytes(w->id, k);
  return (qi__lines){row, w->row_bytes, qi__row_bytes(w->id, n_k), n, 0, 0};
}

// FLOAT with some rows of activations: QI__FLOAT_ROWS weight rows, see panel_float.h. scratch: QI__FLOAT_SCRATCH(n_x) floats
QI__FN void qi__tile_float_panel(const qi__kernels *kernels, const qi__weight *w, size_t first, const float *x, size_t n_x,
                                 float *y, size_t y_stride, float *scratch) {
  const size_t k = w->n_cols;
  float *pairs = scratch + QI__FLOAT_ROWS * QI__FLOAT_STRIDE, *total = pairs + QI__FLOAT_PIECE * QI__FLOAT_ROWS;
  const bool as_they_are = w->id <= QI_FORMAT_BF16;
  const size_t size = as_they_are ? qi__row_bytes(w->id, 1) : sizeof *scratch;
  for (size_t at = 0; at < k; at += QI__FLOAT_STEP) {
    const size_t step = qi__min_size(QI__FLOAT_STEP, k - at), next_k = at + step < k ? at + step : 0;
    const uint8_t *src = w->data + first * w->row_bytes + qi__row_bytes(w->id, at);
    for (size_t r = 0; !as_they_are && r < QI__FLOAT_ROWS; r++)
      kernels->dequantize[w->id](w->format, src + r * w->row_bytes, scratch + r * QI__FLOAT_STRIDE, step);
    qi__lines next = qi__tile_lines(w, next_k ? first : first + QI__FLOAT_ROWS, QI__FLOAT_ROWS, next_k,
                                    qi__min_size(QI__FLOAT_STEP, k - next_k));
    next.each = qi__lines_each(&next, (n_x + QI__FLOAT_X - 1) / QI__FLOAT_X * ((step + QI__FLOAT_PIECE - 1) / QI__FLOAT_PIECE));
    for (size_t j = 0, n; j < step; j += n) {
      n = qi__min_size(QI__FLOAT_PIECE, step - j);
      const bool last = at + j + n == k;
      qi__float_panel p = {as_they_are ? w->id : QI_FORMAT_F32, as_they_are ? src + j * size : (const uint8_t *)(scratch + j),
                           as_they_are ? w->row_bytes : QI__FLOAT_STRIDE * size, n, x + at + j, k, n_x, at + j == 0, total,
                           last ? y : NULL, y_stride, pairs, &next};
      kernels->float_panel(&p);
    }
  }
}

// FLOAT: rows are dequantised to scratch, or panels of them (above). Those of float formats are taken as they are for few rows of
// activations: to write them down would take longer (Zen 4: less than 8; Emerald Rapids with AVX-512: up to 16 and more).
QI__FN void qi__tile_float(const qi__kernels *kernels, const qi__weight *w, size_t first, size_t n_w, const float *x, size_t n_x,
                           float *y, size_t y_stride, float *scratch) {
  size_t k = w->n_cols, stride = qi__float_stride(k);
  const uint8_t *src = w->data + first * w->row_bytes;
  if (w->id <= QI_FORMAT_BF16 && n_x < (kernels->fetch == QI__FETCH_PAGES ? 18 : 8)) {
    kernels->dot_float[w->id](src, w->row_bytes, n_w, x, k, n_x, k, y, y_stride, kernels->fetch);
    return;
  }
  for (size_t r = 0; r < n_w; r += QI__FLOAT_ROWS) {
    size_t n = qi__min_size(QI__FLOAT_ROWS, n_w - r);
    if (kernels->float_panel && n == QI__FLOAT_ROWS && n_x >= QI__FLOAT_FROM && n_x <= QI__FLOAT_TO) {
      qi__tile_float_panel(kernels, w, first + r, x, n_x, y + r, y_stride, scratch);
      src += n * w->row_bytes;
      continue;
    }
    for (size_t i = 0; i < n; i++, src += w->row_bytes) {
      qi__prefetch_ahead(kernels->fetch, (uintptr_t)src, w->row_bytes);
      kernels->dequantize[w->id](w->format, src, scratch + i * stride, k);
    }
    kernels->dot_float[QI_FORMAT_F32](scratch, stride * sizeof *scratch, n, x, k, n_x, k, y + r, y_stride, kernels->fetch);
  }
}

// BF16 without instructions for it: see panel_f32.h. sums: [n_x, QI__F32_ROWS]; scratch: QI__F32_SCRATCH floats
QI__FN void qi__tile_rounded(const qi__kernels *kernels, const qi__weight *w, size_t first, size_t n_w, const qi__inputs *in,
                             size_t x_row, size_t n_x, float *sums, float *scratch) {
  const size_t x_stride = qi__float_stride(w->n_cols);
  const float *x = (const float *)in->bf16 + x_row * x_stride;
  float *panel = scratch + QI__F32_ROWS * QI__F32_STRIDE;
  memset(scratch + n_w * QI__F32_STRIDE, 0, (QI__F32_ROWS - n_w) * QI__F32_STRIDE * sizeof *scratch);
  for (size_t k = 0; k < w->n_cols; k += QI__F32_STEP) {
    const size_t step = qi__min_size(QI__F32_STEP, w->n_cols - k);
    const uint8_t *src = w->data + first * w->row_bytes + qi__row_bytes(w->id, k);
    const bool as_they_are = w->id == QI_FORMAT_BF16 && n_w == QI__F32_ROWS && step % 32 == 0;
    for (size_t r = 0; !as_they_are && r < n_w; r++) {
      float *row = scratch + r * QI__F32_STRIDE;
      kernels->dequantize[w->id](w->format, src + r * w->row_bytes, row, step);
      if (w->id != QI_FORMAT_BF16) kernels->round_bf16(row, step, row);
    }
    const size_t next_k = k + step < w->n_cols ? k + step : 0;
    qi__lines next = qi__tile_lines(w, next_k ? first : first + n_w, QI__F32_ROWS, next_k,
                                    qi__min_size(QI__F32_STEP, w->n_cols - next_k));
    next.each = qi__lines_each(&next, (n_x + QI__F32_X - 1) / QI__F32_X * ((step + QI__F32_COLUMNS - 1) / QI__F32_COLUMNS));
    for (size_t j = 0; j < step; j += QI__F32_COLUMNS) {
      qi__f32_panel p = {scratch + j, QI__F32_STRIDE, NULL, qi__min_size(QI__F32_COLUMNS, step - j), x + k + j, x_stride, n_x,
                         k + j == 0, sums, panel, &next};
      if (as_they_are) p.w = NULL, p.w_stride = w->row_bytes, p.bf16 = src + 2 * j;
      kernels->f32_panel(&p);
    }
  }
}

// Columns k..k+n_k-1 of weight rows first..first+n_w-1 as a panel. rows: [16, QI__BF16_STRIDE]
QI__FN void qi__tile_panel(const qi__kernels *kernels, const qi__weight *w, size_t first, size_t n_w, size_t k, size_t n_k,
                           uint16_t *rows, uint16_t *panel) {
  const qi_format_info *info = &w->format->info;
  size_t width = qi__bf16_width(n_k);
  for (size_t block = 0; block < QI__BF16_ROWS; block += 16, panel += 16 * width) {
    size_t n = block < n_w ? qi__min_size(16, n_w - block) : 0;
    const bool tiles = !kernels->bf16.interleave;
    if (n < 16) memset(tiles ? panel : rows, 0, 16 * (tiles ? width : QI__BF16_STRIDE) * sizeof *rows);
    for (size_t j = 0; j < n_k; j += QI__BF16_STEP) {
      size_t step = qi__min_size(QI__BF16_STEP, n_k - j), step_width = qi__bf16_width(step);
      const uint8_t *src = w->data + (first + block) * w->row_bytes + (k + j) / (size_t)info->block_len * (size_t)info->block_bytes;
      for (size_t r = 0; r < n; r++) {
        uint16_t *row = tiles ? panel + 16 * j + 32 * r : rows + r * QI__BF16_STRIDE;
        kernels->bf16.unpack(w->format, src + r * w->row_bytes, step, row);
        memset(row + (tiles ? step / 32 * 512 + step % 32 : step), 0, (step_width - step) * sizeof *row);
      }
      if (!tiles) kernels->bf16.interleave(rows, step_width, panel + 16 * j);
    }
  }
}

// The tile of rows `first` on in the form of an arithmetic; NULL when there is none that these kernels can use for n_x rows.
QI__FN const uint8_t *qi__tile_ready(const qi__kernels *kernels, qi__arithmetic arithmetic, const qi__weight *w, size_t first,
                                     size_t n_x) {
  if (!w->forms) return NULL;
  const qi__form *f = &w->forms->of[arithmetic];
  if (first / QI__TILE_ROWS >= f->n_tiles) return NULL;
  if (arithmetic == QI__INTEGER && (!kernels->stored_q8.dot || n_x < kernels->stored_q8.from(w->format))) return NULL;
  bool fits = kernels->bf16.unpack == w->forms->bf16.unpack && kernels->bf16.interleave == w->forms->bf16.interleave;
  if (arithmetic == QI__BF16 && !fits) return NULL;
  return f->data + first / QI__TILE_ROWS * f->tile_bytes;
}

// Results [n_x, n_w] of weight rows first.., `stride` floats apart: takes them to y, or adds them to it, with the bias. They may
// lie in y already.
QI__FN void qi__tile_finish(const qi__kernels *kernels, const qi__weight *w, size_t first, size_t n_w, const float *result,
                            size_t stride, size_t n_x, float *y, size_t y_stride, bool add) {
  if (result == y && !w->bias) return;
  qi__results r = {result, stride, w->bias ? w->bias + first : NULL, n_w, n_x, add, y, y_stride};
  kernels->take(&r);
}

// One panel of weight rows times x rows x_row.. : sums [n_x, QI__BF16_ROWS], or as activations that are turned give them. Meanwhile
// the weights of the next one are fetched.
QI__FN void qi__tile_bf16_panel(const qi__kernels *kernels, qi__bf16_args a, size_t x_row, size_t n_x, float *sums) {
  const size_t n_k = a.n_k, n_parts = (n_k + kernels->bf16.part - 1) / kernels->bf16.part;
  const size_t part = qi__bf16_width((n_k + n_parts - 1) / n_parts);
  a.next->each = qi__lines_each(a.next, (n_x + 15) / 16 * n_parts);
  a.x_row = x_row, a.n_x = n_x;
  a.y = sums, a.y_stride = QI__BF16_ROWS;
  for (size_t k = 0; k < n_k; k += part, a.panel += 16 * part, a.x += 16 * part, a.first = false) {
    a.n_k = qi__min_size(part, n_k - k);
    if (kernels->bf16.turn) kernels->bf16.multiply_turned(&a);
    else kernels->bf16.multiply(&a);
  }
}

// Sums of tiles of weight rows first.. with up to QI__BF16_BATCH rows of activations, qi__bf16_sums apart. They lie in scratch, not
// in a result: there, rows of a power of two would lie in the same few cache sets. rows: [16, QI__BF16_STRIDE], then the panel.
QI__FN void qi__tile_bf16_sums(const qi__kernels *kernels, const qi__weight *w, size_t first, size_t n_w, const qi__inputs *in,
                               size_t x_row, size_t n_x, float *sums, uint16_t *rows) {
  const size_t room = qi__bf16_sums(x_row, n_x), slice = kernels->bf16.slice, n_cols = w->n_cols;
  const uint16_t *x = (const uint16_t *)in->bf16;
  uint16_t *panel = rows + 16 * QI__BF16_STRIDE;
  qi__bf16_begin(&kernels->bf16);
  for (size_t k = 0, n_k, next_k; k < n_cols; k += slice) {
    n_k = qi__min_size(slice, n_cols - k);
    next_k = k + n_k < n_cols ? k + n_k : 0;
    for (size_t r = 0; r < n_w; r += QI__BF16_ROWS) {
      const size_t n = qi__min_size(QI__BF16_ROWS, n_w - r), width = qi__bf16_width(n_k);
      const bool more = r + n < n_w;
      qi__lines next = qi__tile_lines(w, first + (more || !next_k ? r + n : 0), QI__BF16_ROWS, more ? k : next_k,
                                      more ? n_k : qi__min_size(slice, n_cols - next_k));
      const uint16_t *ready = (const uint16_t *)(const void *)qi__tile_ready(kernels, QI__BF16, w, first + r, n_x);
      // Rows of floats are left to the processor: to fetch them so took 3 to 5 % longer.
      if (ready || w->id <= QI_FORMAT_BF16) next.n_rows = 0;
      if (!ready) qi__tile_panel(kernels, w, first + r, n, k, n_k, rows, panel);
      qi__bf16_args a = {.panel = ready ? ready + QI__BF16_ROWS * k : panel, .n_w = QI__BF16_ROWS, .n_k = width,
                         .second = 16 * width, .x = x + 16 * k, .x_stride = 16 * qi__bf16_width(n_cols), .first = k == 0,
                         .next = &next};
      qi__tile_bf16_panel(kernels, a, x_row, n_x, sums + r / QI__BF16_ROWS * room);
    }
  }
  qi__bf16_end(&kernels->bf16);
}

// Sums of row i of a batch that begins with x_row, and of those up to a multiple of 16, as rows, QI__BF16_ROWS apart: where they
// lie, or turned, in `rows`.
QI__FN const float *qi__tile_bf16_rows(const qi__kernels *kernels, const float *sums, size_t x_row, size_t i, float *rows) {
  if (!kernels->bf16.turn) return sums + i * QI__BF16_ROWS;
  const float *group = sums + ((x_row + i) / 16 - x_row / 16) * 16 * QI__BF16_ROWS;
  for (size_t half = 0; half < QI__BF16_ROWS; half += 16) kernels->bf16.turn(group + 16 * half, 16, rows + half, QI__BF16_ROWS);
  return rows + (x_row + i) % 16 * QI__BF16_ROWS;
}

// Rows of results are taken a few at a time, all tiles of them: so what is written next lies beside what was.
QI__FN void qi__tile_bf16_batch(const qi__kernels *kernels, const qi__weight *w, size_t first, size_t n_w, const qi__inputs *in,
                                size_t x_row, size_t n_x, float *y, size_t y_stride, bool add, float *scratch) {
  const size_t room = qi__bf16_sums(x_row, n_x), n_tiles = (n_w + QI__BF16_ROWS - 1) / QI__BF16_ROWS;
  float rows[16 * QI__BF16_ROWS];
  qi__tile_bf16_sums(kernels, w, first, n_w, in, x_row, n_x, scratch, (uint16_t *)(void *)(scratch + n_tiles * room));
  for (size_t i = 0, n; i < n_x; i += n) {
    n = qi__min_size(16 - (x_row + i) % 16, n_x - i);
    for (size_t t = 0; t < n_tiles; t++) {
      const float *sums = qi__tile_bf16_rows(kernels, scratch + t * room, x_row, i, rows);
      size_t r = t * QI__BF16_ROWS;
      qi__tile_finish(kernels, w, first + r, qi__min_size(QI__BF16_ROWS, n_w - r), sums, QI__BF16_ROWS, n, y + i * y_stride + r,
                      y_stride, add);
    }
  }
}

// The same of two matrices without bias, whose results meet in `gate` (swiglu or relu2) and are only read by the next product: they
// go where that reads them, packed as in bf16.h, of width w->n_rows, without a way through memory as float32. n_w: at most half of
// qi__tiles_at_once.
QI__FN void qi__tile_gated(const qi__kernels *kernels, void (*gate)(const float *gate, const float *up, size_t n, float *y),
                           const qi__weight *w, const qi__weight *up, size_t first, size_t n_w, const qi__inputs *in, size_t x_row,
                           size_t n_x, uint16_t *packed, float *scratch) {
  const size_t room = qi__bf16_sums(x_row, n_x), n_tiles = (n_w + QI__BF16_ROWS - 1) / QI__BF16_ROWS;
  uint16_t *rows = (uint16_t *)(void *)(scratch + 2 * n_tiles * room);
  qi__tile_bf16_sums(kernels, w, first, n_w, in, x_row, n_x, scratch, rows);
  qi__tile_bf16_sums(kernels, up, first, n_w, in, x_row, n_x, scratch + n_tiles * room, rows);
  gate(scratch, scratch + n_tiles * room, n_tiles * room, scratch);
  const size_t x_first = x_row / 16 * 16, x_end = x_row + n_x;
  for (size_t t = 0; t < n_tiles; t++)
    for (size_t x = x_first; x < x_end; x += 16) {
      uint16_t *tile = packed + qi__bf16_row(w->n_rows, x) + 16 * (first + t * QI__BF16_ROWS);
      kernels->bf16.pack_turned(scratch + t * room + (x - x_first) * QI__BF16_ROWS, tile, x < x_row ? x_row - x : 0,
                                qi__min_size(16, x_end - x));
    }
}

// A tile that is rows of float32 or bfloat16, as a weight matrix.
QI__FN qi__weight qi__tile_rows(const qi__weight *w, qi__arithmetic arithmetic, const uint8_t *ready, size_t n_w) {
  qi_format id = arithmetic == QI__BF16 ? QI_FORMAT_BF16 : QI_FORMAT_F32;
  size_t stride = arithmetic == QI__BF16 ? 2 * w->n_cols : sizeof(float) * qi__float_stride(w->n_cols);
  return (qi__weight){id, &qi__formats[id], ready, n_w, w->n_cols, stride, NULL, NULL};
}

// Rows of float32 that are ready: as many at a time as stay in the cache while all activations pass.
QI__FN void qi__tile_f32(const qi__kernels *kernels, const qi__weight *rows, size_t n_w, const float *x, size_t n_x, float *y,
                         size_t y_stride) {
  for (size_t r = 0; r < n_w; r += QI__FLOAT_ROWS)
    kernels->dot_float[QI_FORMAT_F32](rows->data + r * rows->row_bytes, rows->row_bytes, qi__min_size(QI__FLOAT_ROWS, n_w - r), x,
                                      rows->n_cols, n_x, rows->n_cols, y + r, y_stride, kernels->fetch);
}

// y[i * y_stride + r] = weight row first + r times activation row x_row + i, plus bias;  r < n_w, i < n_x. `add`: += that.
// first: a multiple of QI__TILE_ROWS. n_w: at most so many rows times qi__tiles_at_once.
// scratch: float32 [qi__tile_scratch(n_cols, n_x)], one for each thread, aligned to a cache line.
QI__FN void qi__matmul_tile(const qi__kernels *kernels, qi__arithmetic arithmetic, const qi__weight *w, size_t first, size_t n_w,
                            const qi__inputs *in, size_t x_row, size_t n_x, float *y, size_t y_stride, bool add, float *scratch) {
  bool bf16 = arithmetic == QI__BF16;
  if (bf16 && kernels->bf16.multiply) {
    for (size_t i = 0; i < n_x; i += QI__BF16_BATCH)
      qi__tile_bf16_batch(kernels, w, first, n_w, in, x_row + i, qi__min_size(QI__BF16_BATCH, n_x - i), y + i * y_stride, y_stride,
                          add, scratch);
    return;
  }
  float *result = add || bf16 ? scratch : y;
  size_t stride = bf16 ? QI__F32_ROWS : add ? n_w : y_stride;
  scratch += qi__tile_results(n_x);
  const uint8_t *ready = qi__tile_ready(kernels, arithmetic, w, first, n_x);
  qi__weight rows = ready && arithmetic != QI__INTEGER ? qi__tile_rows(w, arithmetic, ready, n_w) : *w;
  if (arithmetic == QI__INTEGER) {
    const qi__q8 *x = &in->q8[qi__q8_form(w->format)];
    qi__dot_q8_args args = {w->format, w->data + first * w->row_bytes, w->row_bytes, n_w, x, x_row, n_x, result, stride, scratch,
                            kernels->fetch};
    if (ready) args.w = ready, args.w_stride = kernels->stored_q8.chunk_bytes(w->format);
    if (ready) kernels->stored_q8.dot(&args);
    else kernels->dot_q8[w->id](&args);
  } else if (bf16) {
    qi__tile_rounded(kernels, &rows, ready ? 0 : first, n_w, in, x_row, n_x, result, scratch);
  } else {
    const float *x = in->x + x_row * w->n_cols;
    if (ready) qi__tile_f32(kernels, &rows, n_w, x, n_x, result, stride);
    else qi__tile_float(kernels, w, first, n_w, x, n_x, result, stride, scratch);
  }
  qi__tile_finish(kernels, w, first, n_w, result, stride, n_x, y, y_stride, add);
}

#endif // QI__KERNELS_MATMUL_H
