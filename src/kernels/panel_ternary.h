// ==== >>panel_ternary : products of ternary rows and many rows of activations ====
#ifndef QI__KERNELS_PANEL_TERNARY_H
#define QI__KERNELS_PANEL_TERNARY_H

#include "dot_ternary.h"

// 32 weight rows are taken apart a slice of columns at a time; the panel stays in the second-level cache while all rows of
// activations pass it. Columns without the end of a run inside are a segment: there the product is one of integers alone.

#define QI__TERNARY_SLICE 12 // blocks
#define QI__TERNARY_X 32     // rows of activations at a time

typedef struct qi__ternary_panel {
  uint8_t code[QI__TERNARY_SLICE][QI__Q8_ROWS * 256]; // as the variant likes it
  float d[QI__TERNARY_SLICE][QI__Q8_ROWS];
  int32_t ends[QI__TERNARY_SLICE][QI__Q8_ROWS]; // -1: a run ends after this block
  bool any_ends[QI__TERNARY_SLICE];
  int32_t sums[QI__TERNARY_X][QI__Q8_ROWS]; // of a segment
} qi__ternary_panel;

// What a row of activations has added up to.
typedef struct qi__ternary_state {
  float y[QI__Q8_ROWS];
  int32_t total[QI__Q8_ROWS]; // of the run
} qi__ternary_state;

QI__STATIC_ASSERT(sizeof(qi__ternary_panel) <= QI__Q8_PANEL_FLOATS * sizeof(float), ternary_panel);
QI__STATIC_ASSERT(sizeof(qi__ternary_state) <= QI__Q8_LANES * sizeof(float), ternary_state);

// What differs between instruction sets.
typedef struct qi__ternary_kernels {
  // One block of weight rows r .. r + 7 to the panel.
  void (*pack)(qi_format id, const uint8_t *const *w, size_t r, uint8_t *code);
  // sums[i][r] = products of n_blocks blocks with n_x <= QI__TERNARY_X rows of activations, k bytes apart.
  void (*multiply)(const uint8_t *code, size_t n_blocks, const int8_t *x, size_t k, size_t n_x, int32_t (*sums)[QI__Q8_ROWS]);
  // Adds such sums, less x_sum, to a state; the segment ends with block b of the panel.
  void (*take)(const qi__ternary_panel *p, size_t b, const int32_t *sums, int32_t x_sum, float d_x, qi__ternary_state *s);
  // The sum of the activations of n_blocks blocks, from their sums by 16, if the panel holds code + 1; else NULL.
  int32_t (*x_sum)(const int16_t *sum, size_t n_blocks);
} qi__ternary_kernels;

// Blocks first .. first + n - 1 of all weight rows, and of the last one again until there are 32.
QI__FN void qi__ternary_fill(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, size_t first, size_t n,
                             qi__ternary_panel *p) {
  const qi__format *f = a->format;
  size_t size = (size_t)f->info.block_bytes, n_blocks = a->x->k / 256;
  for (size_t b = 0; b < n; b++) {
    const uint8_t *w[8];
    p->any_ends[b] = false;
    for (size_t r = 0; r < QI__Q8_ROWS; r++) {
      const uint8_t *row = a->w + qi__min_size(r, a->n_w - 1) * a->w_stride;
      bool ends = qi__ternary_run_ends(f, row, first + b, n_blocks);
      w[r % 8] = row + (first + b) * size;
      p->d[b][r] = f->info.tail_bytes ? f->param[0] : qi__f16_to_f32(qi__load_u16(w[r % 8] + size - 2));
      p->ends[b][r] = -ends;
      if (ends) p->any_ends[b] = true;
      if (r % 8 == 7) kernels->pack(qi__format_id(f), w, r - 7, p->code[b]);
    }
  }
}

// Blocks first .. first + n - 1, which are in the panel, with n_x rows of activations from `row` on.
QI__FN void qi__ternary_segments(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, qi__ternary_panel *p, size_t first,
                                 size_t n, size_t row, size_t n_x, qi__ternary_state *state) {
  size_t k = a->x->k;
  for (size_t b = 0, end; b < n; b = end) {
    for (end = b + 1; end < n && !p->any_ends[end - 1];) end++;
    kernels->multiply(p->code[b], end - b, a->x->q + row * k + 256 * (first + b), k, n_x, p->sums);
    for (size_t i = 0; i < n_x; i++) {
      const int16_t *sum = a->x->sum + (row + i) * (k / 16) + 16 * (first + b);
      int32_t x_sum = kernels->x_sum ? kernels->x_sum(sum, end - b) : 0;
      kernels->take(p, end - 1, p->sums[i], x_sum, a->x->d[row + i], &state[i]);
    }
  }
}

QI__FN void qi__ternary_batch(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, size_t row, size_t n_x, float *y) {
  qi__ternary_panel *p = (qi__ternary_panel *)(void *)a->scratch;
  qi__ternary_state *state = (qi__ternary_state *)(void *)(a->scratch + QI__Q8_PANEL_FLOATS);
  size_t n_blocks = a->x->k / 256;
  memset(state, 0, n_x * sizeof *state);
  for (size_t first = 0; first < n_blocks; first += QI__TERNARY_SLICE) {
    size_t n = qi__min_size(QI__TERNARY_SLICE, n_blocks - first);
    qi__ternary_fill(kernels, a, first, n, p);
    for (size_t i = 0; i < n_x; i += QI__TERNARY_X)
      qi__ternary_segments(kernels, a, p, first, n, row + i, qi__min_size(QI__TERNARY_X, n_x - i), state + i);
  }
  for (size_t i = 0; i < n_x; i++) memcpy(y + i * a->y_stride, state[i].y, a->n_w * sizeof *y);
}

QI__FN void qi__dot_ternary_panels(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a) {
  for (size_t i = 0; i < a->n_x; i += QI__Q8_BATCH)
    qi__ternary_batch(kernels, a, a->x_row + i, qi__min_size(QI__Q8_BATCH, a->n_x - i), a->y + i * a->y_stride);
}

#endif // QI__KERNELS_PANEL_TERNARY_H
