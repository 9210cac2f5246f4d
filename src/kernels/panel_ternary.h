// ==== >>panel_ternary : products of ternary rows and many rows of activations ====
#ifndef QI__KERNELS_PANEL_TERNARY_H
#define QI__KERNELS_PANEL_TERNARY_H

#include "dot_ternary.h"
#include "tiles.h"

// 32 weight rows are taken apart a slice of columns at a time; the panel stays in the cache while all rows of activations pass it.
// Columns without the end of a run inside are a segment: there the product is one of integers alone. (AMX, Sapphire Rapids, ns a
// product of tiles: 20 to 40 with slices of four blocks, 18 to 37 with eight; totals come and go less often.)

#define QI__TERNARY_SLICE 8 // blocks,
#define QI__TERNARY_PART 2  // of which so many stay in the first-level cache while a matrix unit multiplies: see tiles.h

typedef struct qi__ternary_panel {
  uint8_t code[QI__TERNARY_SLICE][QI__Q8_ROWS * 256]; // as the variant likes it
  float d[QI__TERNARY_SLICE][QI__Q8_ROWS];            // of blocks with which a run ends
  int32_t ends[QI__TERNARY_SLICE][QI__Q8_ROWS];       // -1: a run ends after this block
  bool any_ends[QI__TERNARY_SLICE], all_end[QI__TERNARY_SLICE];
  uint16_t half[QI__TERNARY_SLICE + 1][QI__Q8_ROWS]; // scales as they are stored, and those of the block behind
} qi__ternary_panel;

QI__STATIC_ASSERT(sizeof(qi__ternary_panel) <= QI__Q8_PANEL_FLOATS * sizeof(float), ternary_panel);
QI__STATIC_ASSERT(2 * QI__Q8_ROWS <= QI__Q8_LANES, ternary_sums);

// n_blocks blocks of a panel and of n_x rows of activations.
typedef struct qi__ternary_segment {
  const uint8_t *code;
  size_t n_blocks;
  const int8_t *x;
  const int16_t *sum; // of the activations, by 16
  size_t stride, sum_stride, n_x;
  bool fresh;                    // no run is open: totals, whatever they are, begin with 0
  int32_t (*total)[QI__Q8_ROWS]; // [n_x], of the open runs
  qi__lines *next;               // of weights that are needed next
} qi__ternary_segment;

// Runs that end with block b of a panel.
typedef struct qi__ternary_end {
  const qi__ternary_panel *panel;
  size_t b;
  const float *d_x; // [n_x]
  size_t n_x;
  bool first; // y, whatever it is, begins with 0
  int32_t (*total)[QI__Q8_ROWS];
  float *y; // [n_x, QI__Q8_ROWS], rows y_stride apart
  size_t y_stride;
} qi__ternary_end;

// What differs between instruction sets.
typedef struct qi__ternary_kernels {
  void (*pack)(qi_format id, const uint8_t *const *w, uint8_t *code); // one block of all weight rows to the panel
  void (*multiply)(const qi__ternary_segment *s);                     // adds products to the totals
  void (*take)(const qi__ternary_end *e); // totals to y where a run ends; they are 0 then, unless all end
  bool fetches;                           // multiply asks for the next weights on the way, else that is done before
} qi__ternary_kernels;

// Where runs end among blocks first .. first + n - 1, and their scales there.
QI__FN void qi__ternary_ends(const qi__dot_q8_args *a, size_t first, size_t n, qi__ternary_panel *p) {
  const bool scaled = !a->format->info.tail_bytes;
  const size_t size = (size_t)a->format->info.block_bytes, n_blocks = a->x->k / 256;
  const size_t n_halves = qi__min_size(n + 1, n_blocks - first);
  for (size_t r = 0; scaled && r < QI__Q8_ROWS; r++) {
    const uint8_t *d = a->w + qi__min_size(r, a->n_w - 1) * a->w_stride + (first + 1) * size - 2; // the last two bytes of a block
    for (size_t b = 0; b < n_halves; b++, d += size) p->half[b][r] = qi__load_u16(d);
  }
  for (size_t b = 0; b < n; b++) {
    const bool all = first + b + 1 == n_blocks || (first + b + 1) % QI__TERNARY_RUN == 0;
    uint32_t differ = all ? UINT32_MAX : 0;
    if (scaled && !all && memcmp(p->half[b], p->half[b + 1], sizeof p->half[b]))
      for (size_t r = 0; r < QI__Q8_ROWS; r++) differ |= (uint32_t)(p->half[b][r] != p->half[b + 1][r]) << r;
    p->any_ends[b] = differ != 0;
    p->all_end[b] = differ == UINT32_MAX;
    for (size_t r = 0; differ && r < QI__Q8_ROWS; r++) {
      p->ends[b][r] = -(int32_t)(differ >> r & 1);
      p->d[b][r] = scaled ? qi__f16_to_f32(p->half[b][r]) : a->format->param[0];
    }
  }
}

// What is filled in next: blocks `first` .. of the rows at a->w, or the first ones of the rows that follow.
QI__FN qi__lines qi__ternary_lines(const qi__dot_q8_args *a, size_t first) {
  const size_t n_blocks = a->x->k / 256, size = (size_t)a->format->info.block_bytes;
  const bool more = first < n_blocks;
  const uintptr_t row = (uintptr_t)a->w + (more ? first * size : QI__Q8_ROWS * a->w_stride);
  const size_t n = qi__min_size(QI__TERNARY_SLICE, more ? n_blocks - first : n_blocks);
  return (qi__lines){row, a->w_stride, n * size, QI__Q8_ROWS, 0, 0};
}

QI__FN void qi__ternary_fetch(const qi__lines *l) {
  for (size_t r = 0; r < l->n_rows; r++)
    for (size_t i = 0; i < l->row_bytes; i += QI__CACHE_LINE) qi__prefetch((const void *)(l->row + r * l->stride + i));
}

// Blocks first .. first + n - 1 of all weight rows, and of the last one again until there are 32.
QI__FN void qi__ternary_fill(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, size_t first, size_t n,
                             qi__ternary_panel *p) {
  const size_t size = (size_t)a->format->info.block_bytes;
  const uint8_t *w[QI__Q8_ROWS];
  for (size_t r = 0; r < QI__Q8_ROWS; r++) w[r] = a->w + qi__min_size(r, a->n_w - 1) * a->w_stride + first * size;
  for (size_t b = 0; b < n; b++) {
    kernels->pack(a->format->id, w, p->code[b]);
    for (size_t r = 0; r < QI__Q8_ROWS; r++) w[r] += size;
  }
  qi__ternary_ends(a, first, n, p);
}

// Rows of activations row .. row + n_x - 1, at most QI__Q8_BATCH. Rows of one run go to y at once.
QI__FN void qi__ternary_batch(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, size_t row, size_t n_x, float *y) {
  qi__ternary_panel *p = (qi__ternary_panel *)(void *)a->scratch;
  const qi__q8 *x = a->x;
  const size_t n_blocks = x->k / 256;
  int32_t (*total)[QI__Q8_ROWS] = (int32_t (*)[QI__Q8_ROWS])(void *)(a->scratch + QI__Q8_PANEL_FLOATS);
  float *sums = a->scratch + QI__Q8_PANEL_FLOATS + n_x * QI__Q8_ROWS;
  qi__lines next;
  qi__ternary_segment s = {NULL, 0, NULL, NULL, x->stride, x->k / 16, n_x, true, total, &next};
  qi__ternary_end e = {p, 0, x->d + row, n_x, true, total, sums, QI__Q8_ROWS};
  for (size_t first = 0; first < n_blocks; first += QI__TERNARY_SLICE) {
    size_t n = qi__min_size(QI__TERNARY_SLICE, n_blocks - first);
    qi__ternary_fill(kernels, a, first, n, p);
    next = qi__ternary_lines(a, first + n);
    if (!kernels->fetches) qi__ternary_fetch(&next);
    next.each = qi__lines_each(&next, (n_x + 15) / 16 * ((n + QI__TERNARY_PART - 1) / QI__TERNARY_PART));
    for (size_t b = 0; b < n; b += s.n_blocks) {
      for (s.n_blocks = 1; b + s.n_blocks < n && !p->any_ends[b + s.n_blocks - 1];) s.n_blocks++;
      s.code = p->code[b];
      s.x = x->q + row * x->stride + 256 * (first + b);
      s.sum = x->sum + row * s.sum_stride + 16 * (first + b);
      kernels->multiply(&s);
      e.b = b + s.n_blocks - 1;
      s.fresh = p->all_end[e.b];
      if (!p->any_ends[e.b]) continue;
      if (e.first && first + e.b + 1 == n_blocks && a->n_w == QI__Q8_ROWS) e.y = y, e.y_stride = a->y_stride;
      kernels->take(&e);
      e.first = false;
    }
  }
  for (size_t i = 0; i < n_x && e.y == sums; i++) memcpy(y + i * a->y_stride, sums + i * QI__Q8_ROWS, a->n_w * sizeof *y);
}

QI__FN void qi__dot_ternary_panels(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a) {
  for (size_t i = 0; i < a->n_x; i += QI__Q8_BATCH)
    qi__ternary_batch(kernels, a, a->x_row + i, qi__min_size(QI__Q8_BATCH, a->n_x - i), a->y + i * a->y_stride);
}

#endif // QI__KERNELS_PANEL_TERNARY_H
