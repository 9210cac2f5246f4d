// ==== >>panel_ternary : products of ternary rows and many rows of activations ====
#ifndef QI__KERNELS_PANEL_TERNARY_H
#define QI__KERNELS_PANEL_TERNARY_H

#include "dot_ternary.h"

// 32 weight rows are taken apart a slice of columns at a time; the panel stays in the cache while all rows of activations pass it.
// Columns without the end of a run inside are a segment: there the product is one of integers alone. (AMX, Sapphire Rapids, ns a
// product of tiles: 20 to 40 with slices of four blocks, 18 to 37 with eight; totals come and go less often.) A slice of all
// activations passes several panels, so that it comes from far only once.

#define QI__TERNARY_SLICE 8 // blocks
#define QI__TERNARY_TAKEN 16 // rows of activations whose last runs are taken at a time: what is written lies beside each other

// Where runs of 32 weight rows end.
typedef struct qi__ternary_ends {
  float d[QI__Q8_ROWS];      // if some do
  int32_t ends[QI__Q8_ROWS]; // -1: it does
  bool any, all;
} qi__ternary_ends;

typedef struct qi__ternary_panel {
  uint8_t code[QI__TERNARY_SLICE][QI__Q8_ROWS * 256]; // as the variant likes it
  qi__ternary_ends ends[QI__TERNARY_SLICE];           // after each block
  uint16_t half[QI__TERNARY_SLICE + 1][QI__Q8_ROWS];  // scales as they are stored, and those of the block behind
} qi__ternary_panel;

QI__STATIC_ASSERT(sizeof(qi__ternary_panel) <= QI__Q8_PANEL_FLOATS * sizeof(float), ternary_panel);
QI__STATIC_ASSERT(2 * QI__Q8_RUN <= QI__Q8_LANES, ternary_sums);

// n_blocks blocks of a panel and of n_x rows of activations.
typedef struct qi__ternary_segment {
  const uint8_t *code;
  size_t n_blocks;
  const int8_t *x;
  const int16_t *sum; // of the activations, by 16
  size_t stride, sum_stride, n_x;
  bool fresh;                    // no run is open: totals, whatever they are, begin with 0
  int32_t (*total)[QI__Q8_ROWS]; // [n_x], of the open runs
} qi__ternary_segment;

// Runs that end.
typedef struct qi__ternary_taken {
  const qi__ternary_ends *at;
  const float *d_x; // [n_x]
  size_t n_x;
  bool first; // y, whatever it is, begins with 0
  int32_t (*total)[QI__Q8_ROWS];
  float *y; // [n_x, QI__Q8_ROWS], rows y_stride apart
  size_t y_stride;
} qi__ternary_taken;

// What differs between instruction sets.
typedef struct qi__ternary_kernels {
  void (*pack)(qi_format id, const uint8_t *const *w, uint8_t *code); // one block of all weight rows to the panel
  void (*multiply)(const qi__ternary_segment *s);                     // adds products to the totals
  void (*take)(const qi__ternary_taken *e); // totals to y where a run ends; they are 0 then, unless all end
} qi__ternary_kernels;

// Of 32 weight rows, while slices of columns pass.
typedef struct qi__ternary_sums {
  const uint8_t *w;
  size_t n_w;
  qi__ternary_ends last;         // with which the rows end
  bool fresh, first;             // as in a segment, as in what is taken
  int32_t (*total)[QI__Q8_ROWS]; // [n_x], of the open runs
  float (*y)[QI__Q8_ROWS];       // [n_x], of those before
} qi__ternary_sums;

// Where runs end among blocks first .. first + n - 1 of rows of n_blocks, and their scales there.
QI__FN void qi__ternary_find_ends(const qi__dot_q8_args *a, const qi__ternary_sums *s, size_t first, size_t n,
                                  qi__ternary_panel *p) {
  const bool scaled = !a->format->info.tail_bytes;
  const size_t size = (size_t)a->format->info.block_bytes, n_blocks = a->x->k / 256;
  const size_t n_halves = qi__min_size(n + 1, n_blocks - first);
  for (size_t r = 0; scaled && r < QI__Q8_ROWS; r++) {
    const uint8_t *d = s->w + qi__min_size(r, s->n_w - 1) * a->w_stride + (first + 1) * size - 2; // the last two bytes of a block
    for (size_t b = 0; b < n_halves; b++, d += size) p->half[b][r] = qi__load_u16(d);
  }
  for (size_t b = 0; b < n; b++) {
    qi__ternary_ends *e = &p->ends[b];
    const bool all = first + b + 1 == n_blocks || (first + b + 1) % QI__TERNARY_RUN == 0;
    uint32_t differ = all ? UINT32_MAX : 0;
    if (scaled && !all && memcmp(p->half[b], p->half[b + 1], sizeof p->half[b]))
      for (size_t r = 0; r < QI__Q8_ROWS; r++) differ |= (uint32_t)(p->half[b][r] != p->half[b + 1][r]) << r;
    e->any = differ != 0;
    e->all = differ == UINT32_MAX;
    for (size_t r = 0; differ && r < QI__Q8_ROWS; r++) {
      e->ends[r] = -(int32_t)(differ >> r & 1);
      e->d[r] = scaled ? qi__f16_to_f32(p->half[b][r]) : a->format->param[0];
    }
  }
}

// Asks for blocks `first` .. of 32 rows from `row` on: what is filled in next.
QI__FN void qi__ternary_fetch(const qi__dot_q8_args *a, size_t row, size_t first) {
  const size_t size = (size_t)a->format->info.block_bytes, n = size * qi__min_size(QI__TERNARY_SLICE, a->x->k / 256 - first);
  uintptr_t w = (uintptr_t)a->w + row * a->w_stride + first * size; // may lie behind the matrix
  for (size_t r = 0; r < QI__Q8_ROWS; r++, w += a->w_stride)
    for (size_t i = 0; i < n; i += QI__CACHE_LINE) qi__prefetch((const void *)(w + i));
}

// Blocks first .. first + n - 1 of all weight rows, and of the last one again until there are 32.
QI__FN void qi__ternary_fill(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, const qi__ternary_sums *s, size_t first,
                             size_t n, qi__ternary_panel *p) {
  const size_t size = (size_t)a->format->info.block_bytes;
  const uint8_t *w[QI__Q8_ROWS];
  for (size_t r = 0; r < QI__Q8_ROWS; r++) w[r] = s->w + qi__min_size(r, s->n_w - 1) * a->w_stride + first * size;
  for (size_t b = 0; b < n; b++) {
    kernels->pack(a->format->id, w, p->code[b]);
    for (size_t r = 0; r < QI__Q8_ROWS; r++) w[r] += size;
  }
  qi__ternary_find_ends(a, s, first, n, p);
}

// n blocks from `first` on, which are in the panel, with rows of activations row .. row + n_x - 1. Runs that end with the rows stay
// open.
QI__FN void qi__ternary_slice(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, const qi__ternary_panel *p, size_t first,
                              size_t n, size_t row, size_t n_x, qi__ternary_sums *sums) {
  const qi__q8 *x = a->x;
  qi__ternary_segment s = {NULL, 0, NULL, NULL, x->stride, x->k / 16, n_x, sums->fresh, sums->total};
  for (size_t b = 0; b < n; b += s.n_blocks) {
    for (s.n_blocks = 1; b + s.n_blocks < n && !p->ends[b + s.n_blocks - 1].any;) s.n_blocks++;
    const qi__ternary_ends *ends = &p->ends[b + s.n_blocks - 1];
    s.code = p->code[b];
    s.x = x->q + row * x->stride + 256 * (first + b);
    s.sum = x->sum + row * s.sum_stride + 16 * (first + b);
    kernels->multiply(&s);
    s.fresh = ends->all;
    if (first + b + s.n_blocks == x->k / 256) sums->last = *ends;
    else if (ends->any) {
      kernels->take(&(qi__ternary_taken){ends, x->d + row, n_x, sums->first, sums->total, sums->y[0], QI__Q8_ROWS});
      sums->first = false;
    }
  }
  sums->fresh = s.fresh;
}

// The last runs, of rows i .. i + n_x - 1 in the batch; y: of these. Rows of one run go there at once.
QI__FN void qi__ternary_finish(const qi__ternary_kernels *kernels, const qi__ternary_sums *s, const float *d_x, size_t i, size_t n_x,
                               float *y, size_t y_stride) {
  const bool at_once = s->first && s->n_w == QI__Q8_ROWS;
  qi__ternary_taken e = {&s->last, d_x, n_x, s->first, s->total + i, at_once ? y : s->y[i], at_once ? y_stride : QI__Q8_ROWS};
  kernels->take(&e);
  for (size_t r = 0; r < n_x && !at_once; r++) memcpy(y + r * y_stride, s->y[i + r], s->n_w * sizeof *y);
}

// Rows of activations row .. row + n_x - 1, at most QI__Q8_BATCH.
QI__FN void qi__ternary_batch(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, size_t row, size_t n_x, float *y) {
  qi__ternary_panel *p = (qi__ternary_panel *)(void *)a->scratch;
  const size_t n_blocks = a->x->k / 256, n_panels = (a->n_w + QI__Q8_ROWS - 1) / QI__Q8_ROWS;
  qi__ternary_sums sums[QI__Q8_RUN / QI__Q8_ROWS];
  for (size_t t = 0; t < n_panels; t++) {
    const size_t r = t * QI__Q8_ROWS;
    float *room = a->scratch + QI__Q8_PANEL_FLOATS + 2 * r * n_x;
    sums[t].w = a->w + r * a->w_stride;
    sums[t].n_w = qi__min_size(QI__Q8_ROWS, a->n_w - r);
    sums[t].fresh = sums[t].first = true;
    sums[t].total = (int32_t (*)[QI__Q8_ROWS])(void *)room;
    sums[t].y = (float (*)[QI__Q8_ROWS])(void *)(room + n_x * QI__Q8_ROWS);
  }
  for (size_t first = 0, n; first < n_blocks; first += n) {
    n = qi__min_size(QI__TERNARY_SLICE, n_blocks - first);
    for (size_t t = 0; t < n_panels; t++) {
      const bool more = t + 1 < n_panels, end = first + n == n_blocks;
      qi__ternary_fill(kernels, a, &sums[t], first, n, p);
      qi__ternary_fetch(a, more || end ? (t + 1) * QI__Q8_ROWS : 0, more ? first : end ? 0 : first + n);
      qi__ternary_slice(kernels, a, p, first, n, row, n_x, &sums[t]);
    }
  }
  for (size_t i = 0; i < n_x; i += QI__TERNARY_TAKEN)
    for (size_t t = 0; t < n_panels; t++)
      qi__ternary_finish(kernels, &sums[t], a->x->d + row + i, i, qi__min_size(QI__TERNARY_TAKEN, n_x - i),
                         y + i * a->y_stride + t * QI__Q8_ROWS, a->y_stride);
}

QI__FN void qi__dot_ternary_panels(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a) {
  for (size_t i = 0; i < a->n_x; i += QI__Q8_BATCH)
    qi__ternary_batch(kernels, a, a->x_row + i, qi__min_size(QI__Q8_BATCH, a->n_x - i), a->y + i * a->y_stride);
}

#endif // QI__KERNELS_PANEL_TERNARY_H
