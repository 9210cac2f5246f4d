// ==== >>attend : attention of a chunk's rows over the cache ====
#ifndef QI__INFER_ATTEND_H
#define QI__INFER_ATTEND_H

#include "../kernels/bf16.h"
#include "kv.h"

// softmax(q k^T / sqrt(head_dim)) v, piece by piece in one pass over the cache. The work is cut into units that threads take:
//   - prompts: a tile of consecutive rows of one sequence, times one key/value head;
//   - generation: a row times one key/value head; where there are fewer of these than keep all threads busy, each piece of the
//     cache is a unit, which leaves its result in `parts`; qi__attention_finish joins them.
// No result depends on the cut. On a matrix unit (BF16 path, prompts) queries, keys, weights of the softmax and values are rounded
// to bfloat16 and multiplied as in kernels/bf16.h; maximum, sum and all that joins pieces stay float32. Rounding is off by at most
// 2^-9 of a number, so a score by E = 2^-8 sum |q k| and an output by (e^2E (1 + 2^-8) - 1) max |v|, beside what sums lose.
#define QI__ATTENTION_TILE 64 // query rows (heads times tokens) of a tile; one token may have more
#define QI__ATTENTION_UNITS 4 // for each thread, below which generation is cut into pieces

// One token of the chunk that is computed.
typedef struct qi__row {
  qi_token token;
  size_t seq, pos;
  bool want_logits;
} qi__row;

typedef struct qi__attention {
  // Memory of the session.
  size_t n_split, n_pieces;  // rows of generation that can be cut, and pieces of each
  float *part_values;        // [n_split, n_pieces, n_heads, head_dim_v]
  float *part_max, *part_sum; // [n_split, n_pieces, n_heads]
  size_t *tile;              // [n_batch + 1] first rows of tiles, and the end of the last
  // Of the chunk.
  const qi__hparams *h;
  const qi__kernels *kernels;
  const qi__kv *kv;
  const int *cancel;
  const qi__row *rows;
  size_t n_rows, n_prompt, n_tiles;
  bool split;
  const float *q;            // [n_rows, n_heads, head_dim_k]
  float *out;                // [n_rows, n_heads, head_dim_v]
} qi__attention;

// ---- memory ----

QI__INLINE size_t qi__round16(size_t n) { return (n + 15) / 16 * 16; }

// Rows of generation that do not give QI__ATTENTION_UNITS for each thread when they are not cut.
QI__FN size_t qi__attention_max_split(const qi__hparams *h, size_t n_batch, size_t n_threads) {
  if (n_threads < 2) return 0;
  return qi__min_size(n_batch, (QI__ATTENTION_UNITS * n_threads - 1) / h->n_kv_heads);
}

QI__FN void qi__attention_layout(qi__attention *a, qi__arena *arena, const qi__hparams *h, size_t n_batch, size_t n_ctx,
                                 size_t n_threads) {
  size_t pieces = (n_ctx + QI__ATTENTION_PIECE - 1) / QI__ATTENTION_PIECE, window = h->sliding_window / QI__ATTENTION_PIECE + 2;
  a->n_pieces = h->sliding_window ? qi__min_size(pieces, window) : pieces;
  a->n_split = a->n_pieces > 1 ? qi__attention_max_split(h, n_batch, n_threads) : 0;
  size_t n;
  if (!qi__mul_size(a->n_split * a->n_pieces, h->n_heads, &n)) arena->overflow = true, n = 0;
  a->part_max = QI__ARENA_ARRAY(arena, float, n);
  a->part_sum = QI__ARENA_ARRAY(arena, float, n);
  if (!qi__mul_size(n, h->head_dim_v, &n)) arena->overflow = true, n = 0;
  a->part_values = QI__ARENA_ARRAY(arena, float, n);
  a->tile = QI__ARENA_ARRAY(arena, size_t, n_batch + 1);
}

// Scratch of one thread, as qi__attend_open hands it out.
QI__INLINE size_t qi__attention_tile_rows(const qi__hparams *h) {
  size_t group = h->n_heads / h->n_kv_heads;
  return qi__round16(group > QI__ATTENTION_TILE ? group : QI__ATTENTION_TILE);
}
QI__INLINE size_t qi__attention_panel_width(const qi__hparams *h) {
  size_t width = qi__bf16_width(h->head_dim_k);
  return width > QI__ATTENTION_PIECE ? width : QI__ATTENTION_PIECE;
}
QI__FN size_t qi__attention_scratch(const qi__hparams *h) {
  size_t rows = qi__attention_tile_rows(h), finish = 4 * qi__round16(h->n_heads);
  size_t unit = rows * (6 + qi__round16(h->head_dim_k) + QI__ATTENTION_PIECE + qi__round16(h->head_dim_v)) +
                rows * (qi__bf16_width(h->head_dim_k) + QI__ATTENTION_PIECE) / 2 + 16 * qi__attention_panel_width(h);
  return unit > finish ? unit : finish;
}

// ---- units ----

// Positions begin..*end-1 are what the row sees.
QI__INLINE size_t qi__attention_span(const qi__hparams *h, const qi__row *row, size_t *end) {
  *end = row->pos + 1;
  return h->sliding_window && *end > h->sliding_window ? *end - h->sliding_window : 0;
}

QI__FN size_t qi__attention_row_pieces(const qi__attention *a, size_t i) {
  size_t end, begin = qi__attention_span(a->h, &a->rows[i], &end);
  return (end - 1) / QI__ATTENTION_PIECE - begin / QI__ATTENTION_PIECE + 1;
}

// Begins a chunk: the fields of the chunk but n_tiles and split are set.
QI__FN void qi__attention_plan(qi__attention *a, size_t n_threads) {
  size_t group = a->h->n_heads / a->h->n_kv_heads, most = group < QI__ATTENTION_TILE ? QI__ATTENTION_TILE / group : 1;
  a->n_tiles = 0;
  for (size_t i = 0; i < a->n_prompt; i++) {
    const qi__row *row = &a->rows[i], *last = row - 1;
    bool follows = i > 0 && row->seq == last->seq && row->pos == last->pos + 1 && row->pos % most != 0;
    if (!follows) a->tile[a->n_tiles++] = i;
  }
  a->tile[a->n_tiles] = a->n_prompt;
  size_t n_generated = a->n_rows - a->n_prompt;
  a->split = n_generated <= a->n_split && n_generated * a->h->n_kv_heads < QI__ATTENTION_UNITS * n_threads;
}

QI__FN size_t qi__attention_units(const qi__attention *a) {
  size_t n = a->n_tiles;
  for (size_t i = a->n_prompt; i < a->n_rows; i++) n += a->split ? qi__attention_row_pieces(a, i) : 1;
  return n * a->h->n_kv_heads;
}

// ---- one unit ----

// Query rows of a unit: the heads of one group, of n_rows tokens that follow each other.
typedef struct qi__attend {
  const qi__attention *a;
  size_t layer, head, group, first, n_rows; // head: of keys and values; first: row of the chunk
  bool matrix;
  float *q, *score, *values;  // [n_rows * group, ..]
  float *max, *sum;           // [n_rows * group] of a piece
  qi__softmax_state all;
  uint16_t *q_bf16, *weight_bf16, *panel;
} qi__attend;

// Lays out scratch and takes the queries, times 1 / sqrt(head_dim).
QI__FN void qi__attend_open(qi__attend *w, float *scratch) {
  const qi__hparams *h = w->a->h;
  size_t rows = qi__attention_tile_rows(h), dim = h->head_dim_k;
  float scale = 1.0f / sqrtf((float)dim), **stats[] = {&w->max, &w->sum, &w->all.max, &w->all.sum, &w->all.keep, &w->all.add};
  for (size_t i = 0; i < QI__COUNT_OF(stats); i++) *stats[i] = scratch + i * rows;
  w->score = scratch + QI__COUNT_OF(stats) * rows;
  w->values = w->score + rows * QI__ATTENTION_PIECE;
  w->q = w->values + rows * qi__round16(h->head_dim_v);
  w->q_bf16 = (uint16_t *)(void *)(w->q + rows * qi__round16(dim));
  w->weight_bf16 = w->q_bf16 + rows * qi__bf16_width(dim);
  w->panel = w->weight_bf16 + rows * QI__ATTENTION_PIECE;
  for (size_t i = 0; i < w->n_rows; i++) {
    const float *q = w->a->q + ((w->first + i) * h->n_heads + w->head * w->group) * dim;
    for (size_t j = 0; j < w->group * dim; j++) w->q[i * w->group * dim + j] = q[j] * scale;
  }
  for (size_t g = 0; w->matrix && g < w->n_rows * w->group; g++) w->a->kernels->bf16.pack(w->q + g * dim, dim, w->q_bf16, g);
}

// A piece as the rows r..r+n_r-1 of a unit see it; the others see nothing of it.
typedef struct qi__attend_piece {
  qi__kv_run run;
  size_t from; // position of the run's first
  size_t r, n_r;
} qi__attend_piece;

// Keys begin..*end-1 of the run are what row r sees.
QI__FN size_t qi__attend_see(const qi__attend *w, const qi__attend_piece *p, size_t r, size_t *end) {
  size_t begin = qi__attention_span(w->a->h, &w->a->rows[w->first + r], end);
  *end = qi__min_size(*end - p->from, p->run.n);
  return begin > p->from ? begin - p->from : 0;
}

// Piece `number` of the cache. Where rows see only its end, its beginning is left out.
QI__FN void qi__attend_take(const qi__attend *w, size_t number, qi__attend_piece *p) {
  const qi__hparams *h = w->a->h;
  const qi__row *rows = w->a->rows + w->first;
  size_t base = number * QI__ATTENTION_PIECE, limit = base + QI__ATTENTION_PIECE, r = 0, n = w->n_rows, end;
  while (rows[r].pos < base) r++;
  while (qi__attention_span(h, &rows[n - 1], &end) >= limit) n--;
  size_t begin = qi__attention_span(h, &rows[r], &end);
  p->r = r;
  p->n_r = n - r;
  p->from = begin > base ? begin / 32 * 32 : base;
  p->run = qi__kv_get(w->a->kv, w->layer, rows->seq, w->head, p->from, qi__min_size(limit, rows[n - 1].pos + 1) - p->from);
}

// Rows i..i+n-1 of the piece add keys begin..end-1.
QI__FN void qi__attend_add(const qi__attend *w, const qi__attend_piece *p, size_t i, size_t n, size_t begin, size_t end,
                           float *values) {
  size_t dim = w->a->h->head_dim_v, at = i * w->group;
  if (begin < end)
    w->a->kernels->attention_values(w->score + at * QI__ATTENTION_PIECE, n * w->group, &p->run, begin, end, dim, values + at * dim);
}

// What all rows see they take together, what comes before and after it each alone: so each has the chain that it has alone.
QI__FN void qi__attend_values(const qi__attend *w, const qi__attend_piece *p, float *values) {
  size_t begin, end, all_end, row_end;
  size_t all_begin = qi__attend_see(w, p, p->r + p->n_r - 1, &end);
  qi__attend_see(w, p, p->r, &all_end);
  all_begin = qi__min_size(all_begin, all_end);
  memset(values, 0, p->n_r * w->group * w->a->h->head_dim_v * sizeof *values);
  for (size_t i = 0; i + 1 < p->n_r; i++) {
    begin = qi__attend_see(w, p, p->r + i, &row_end);
    qi__attend_add(w, p, i, 1, begin, all_begin, values);
  }
  qi__attend_add(w, p, 0, p->n_r, all_begin, all_end, values);
  for (size_t i = 0; i < p->n_r; i++) {
    begin = qi__attend_see(w, p, p->r + i, &row_end);
    qi__attend_add(w, p, i, 1, begin > all_end ? begin : all_end, row_end, values);
  }
}

// ---- on a matrix unit ----

QI__FN void qi__attend_scores_matrix(const qi__attend *w, const qi__attend_piece *p) {
  const qi__kernels *kernels = w->a->kernels;
  size_t dim = w->a->h->head_dim_k, width = qi__bf16_width(dim), n = p->run.n;
  bool half = p->run.half;
  for (size_t j = 0; j < n; j += 32) {
    size_t n_keys = qi__min_size(32, qi__round16(n - j));
    for (size_t block = 0; block < n_keys; block += 16)
      kernels->attention_panel(qi__kv_at(p->run.k, (j + block) * dim, half), QI__KEY_BLOCK, dim, 16, half, false,
                               w->panel + block * width);
    qi__bf16_args a = {w->panel, n_keys, width, w->q_bf16, 16 * width, p->r * w->group, p->n_r * w->group, true, w->score + j,
                       QI__ATTENTION_PIECE};
    kernels->bf16.multiply(&a);
  }
}

QI__FN void qi__attend_values_matrix(const qi__attend *w, const qi__attend_piece *p, float *values) {
  const qi__kernels *kernels = w->a->kernels;
  size_t dim = w->a->h->head_dim_v, n = p->run.n, width = qi__bf16_width(n), n_q = p->n_r * w->group;
  bool half = p->run.half;
  for (size_t g = 0; g < n_q; g++) kernels->bf16.pack(w->score + g * QI__ATTENTION_PIECE, width, w->weight_bf16, g);
  for (size_t i = 0; i < dim; i += 32) {
    size_t n_dim = qi__min_size(32, dim - i);
    for (size_t block = 0; block < n_dim; block += 16)
      kernels->attention_panel(qi__kv_at(p->run.v, i + block, half), dim, n, qi__min_size(16, n_dim - block), half, true,
                               w->panel + block * width);
    qi__bf16_args a = {w->panel, n_dim, width, w->weight_bf16, 16 * width, 0, n_q, true, values + i, dim};
    kernels->bf16.multiply(&a);
  }
}

// ---- pieces ----

// max, sum [n_r * group] and values [n_r * group, head_dim_v] of a piece.
QI__FN void qi__attend_piece_run(const qi__attend *w, const qi__attend_piece *p, float *max, float *sum, float *values) {
  const qi__hparams *h = w->a->h;
  const qi__kernels *kernels = w->a->kernels;
  size_t group = w->group;
  if (w->matrix) qi__attend_scores_matrix(w, p);
  else kernels->attention_scores(w->q + p->r * group * h->head_dim_k, p->n_r * group, &p->run, h->head_dim_k, w->score);
  for (size_t i = 0; i < p->n_r; i++) {
    size_t end, begin = qi__attend_see(w, p, p->r + i, &end), n = w->matrix ? qi__bf16_width(p->run.n) : qi__round16(end);
    for (size_t g = i * group; g < (i + 1) * group; g++)
      sum[g] = kernels->attention_softmax(w->score + g * QI__ATTENTION_PIECE, begin, end, n, &max[g]);
  }
  if (w->matrix) qi__attend_values_matrix(w, p, values);
  else qi__attend_values(w, p, values);
}

QI__FN void qi__softmax_begin(const qi__softmax_state *all, size_t n) {
  for (size_t g = 0; g < n; g++) all->max[g] = -FLT_MAX, all->sum[g] = 0;
}

// values[g, i] /= sum[g]
QI__FN void qi__softmax_end(const qi__softmax_state *all, size_t n, size_t dim, float *values) {
  for (size_t g = 0; g < n; g++, values += dim) {
    float inverse = 1.0f / all->sum[g];
    for (size_t i = 0; i < dim; i++) values[i] *= inverse;
  }
}

// All pieces of the rows of a unit, into `out`.
QI__FN void qi__attend_all(const qi__attend *w) {
  const qi__attention *a = w->a;
  const qi__kernels *kernels = a->kernels;
  size_t group = w->group, dim = a->h->head_dim_v, stride = a->h->n_heads * dim, end;
  float *out = a->out + w->first * stride + w->head * group * dim;
  qi__softmax_begin(&w->all, w->n_rows * group);
  for (size_t r = 0; r < w->n_rows; r++) memset(out + r * stride, 0, group * dim * sizeof *out);
  size_t piece = qi__attention_span(a->h, &a->rows[w->first], &end) / QI__ATTENTION_PIECE;
  size_t last = a->rows[w->first + w->n_rows - 1].pos / QI__ATTENTION_PIECE;
  for (; piece <= last && !__atomic_load_n(a->cancel, __ATOMIC_RELAXED); piece++) {
    qi__attend_piece p;
    qi__attend_take(w, piece, &p);
    qi__attend_piece_run(w, &p, w->max, w->sum, w->values);
    size_t g = p.r * group;
    qi__softmax_state all = {w->all.max + g, w->all.sum + g, w->all.keep + g, w->all.add + g};
    kernels->attention_join(w->max, w->sum, p.n_r * group, &all);
    for (size_t r = 0; r < p.n_r; r++)
      kernels->attention_blend(w->values + r * group * dim, all.keep + r * group, all.add + r * group, group, dim,
                               out + (p.r + r) * stride);
  }
  for (size_t r = 0; r < w->n_rows; r++) {
    qi__softmax_state all = {NULL, w->all.sum + r * group, NULL, NULL};
    qi__softmax_end(&all, group, dim, out + r * stride);
  }
}

// First element in part_max of the piece's results for the rows of generation; times head_dim_v in part_values.
QI__INLINE size_t qi__attention_part(const qi__attention *a, size_t row, size_t piece) {
  return ((row - a->n_prompt) * a->n_pieces + piece) * a->h->n_heads;
}

// The unit's work on one of its row's pieces, left in the parts. `piece` counts from the first that the row sees.
QI__FN void qi__attend_part(const qi__attend *w, size_t piece) {
  const qi__attention *a = w->a;
  qi__attend_piece p;
  size_t end, begin = qi__attention_span(a->h, &a->rows[w->first], &end);
  size_t at = qi__attention_part(a, w->first, piece) + w->head * w->group;
  qi__attend_take(w, begin / QI__ATTENTION_PIECE + piece, &p);
  qi__attend_piece_run(w, &p, a->part_max + at, a->part_sum + at, a->part_values + at * a->h->head_dim_v);
}

// Unit u of qi__attention_units. `matrix`: prompts go over the matrix unit, which is there. scratch: [qi__attention_scratch]
QI__FN void qi__attention_run(const qi__attention *a, size_t layer, bool matrix, size_t u, float *scratch) {
  size_t n_heads = a->h->n_kv_heads;
  qi__attend w;
  memset(&w, 0, sizeof w);
  w.a = a;
  w.layer = layer;
  w.group = a->h->n_heads / n_heads;
  w.n_rows = 1;
  if (u < a->n_tiles * n_heads) {
    w.first = a->tile[u / n_heads];
    w.n_rows = a->tile[u / n_heads + 1] - w.first;
    w.head = u % n_heads;
    w.matrix = matrix;
    qi__attend_open(&w, scratch);
    qi__attend_all(&w);
    return;
  }
  u -= a->n_tiles * n_heads;
  w.first = a->n_prompt;
  size_t n = a->split ? qi__attention_row_pieces(a, w.first) : 1;
  for (; u >= n * n_heads; n = a->split ? qi__attention_row_pieces(a, w.first) : 1) {
    u -= n * n_heads;
    w.first++;
  }
  w.head = u / n;
  qi__attend_open(&w, scratch);
  if (a->split) qi__attend_part(&w, u % n);
  else qi__attend_all(&w);
}

// After all units: joins the parts of row i of the chunk, where there are any. scratch: [qi__attention_scratch]
QI__FN void qi__attention_finish(const qi__attention *a, size_t i, float *scratch) {
  size_t n_heads = a->h->n_heads, dim = a->h->head_dim_v, step = qi__round16(n_heads);
  if (i < a->n_prompt || !a->split) return;
  qi__softmax_state all = {scratch, scratch + step, scratch + 2 * step, scratch + 3 * step};
  float *out = a->out + i * n_heads * dim;
  qi__softmax_begin(&all, n_heads);
  memset(out, 0, n_heads * dim * sizeof *out);
  for (size_t piece = 0, n = qi__attention_row_pieces(a, i); piece < n; piece++) {
    size_t at = qi__attention_part(a, i, piece);
    a->kernels->attention_join(a->part_max + at, a->part_sum + at, n_heads, &all);
    a->kernels->attention_blend(a->part_values + at * dim, all.keep, all.add, n_heads, dim, out);
  }
  qi__softmax_end(&all, n_heads, dim, out);
}

#endif // QI__INFER_ATTEND_H
