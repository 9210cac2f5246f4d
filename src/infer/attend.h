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
  // Queries in integers, where keys are: q8.block is QI__KV_GROUP, a row of q8 is a head.
  qi__q8 q8;                 // [n_batch * n_heads]
  // Of the chunk.
  const qi__hparams *h;
  const qi__kernels *kernels;
  const qi__kv *kv;
  const int *cancel;
  const qi__row *rows;
  size_t n_rows, n_prompt, n_tiles;
  bool split;
  float *q;                  // [n_rows, n_heads, head_dim_k], from qi__attention_query on times 1 / sqrt(head_dim_k)
  float *out;                // [n_rows, n_heads, head_dim_v]
} qi__attention;

// ---- memory ----

QI__INLINE size_t qi__round16(size_t n) { return (n + 15) / 16 * 16; }

// Rows of generation that do not give QI__ATTENTION_UNITS for each thread when they are not cut.
QI__FN size_t qi__attention_max_split(const qi__hparams *h, size_t n_batch, size_t n_threads) {
  if (n_threads < 2) return 0;
  return qi__min_size(n_batch, (QI__ATTENTION_UNITS * n_threads - 1) / h->n_kv_heads);
}

QI__FN void qi__attention_layout(qi__attention *a, qi__arena *arena, const qi__hparams *h, const qi__kv *kv, size_t n_batch,
                                 size_t n_threads) {
  size_t pieces = (kv->n_ctx + QI__ATTENTION_PIECE - 1) / QI__ATTENTION_PIECE, window = h->sliding_window / QI__ATTENTION_PIECE + 2;
  a->n_pieces = h->sliding_window ? qi__min_size(pieces, window) : pieces;
  a->n_split = a->n_pieces > 1 ? qi__attention_max_split(h, n_batch, n_threads) : 0;
  size_t n;
  if (!qi__mul_size(a->n_split * a->n_pieces, h->n_heads, &n)) arena->overflow = true, n = 0;
  a->part_max = QI__ARENA_ARRAY(arena, float, n);
  a->part_sum = QI__ARENA_ARRAY(arena, float, n);
  if (!qi__mul_size(n, h->head_dim_v, &n)) arena->overflow = true, n = 0;
  a->part_values = QI__ARENA_ARRAY(arena, float, n);
  a->tile = QI__ARENA_ARRAY(arena, size_t, n_batch + 1);
  size_t n_q = qi__kv_is_integer(kv->head.type) ? n_batch * h->n_heads : 0, groups = kv->head.groups_k;
  a->q8 = (qi__q8){NULL, NULL, NULL, QI__KV_GROUP, groups * QI__KV_GROUP, groups * QI__KV_GROUP};
  a->q8.q = QI__ARENA_ARRAY(arena, int8_t, n_q * groups * QI__KV_GROUP);
  a->q8.d = QI__ARENA_ARRAY(arena, float, n_q * groups);
  a->q8.sum = QI__ARENA_ARRAY(arena, int16_t, n_q * groups * 2);
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
  size_t group = a->h->n_heads / a->h->n_kv_heads, tile = group < QI__ATTENTION_TILE ? QI__ATTENTION_TILE / group : 1;
  a->n_tiles = 0;
  for (size_t i = 0; i < a->n_prompt; i++) {
    const qi__row *row = &a->rows[i], *last = row - 1;
    bool follows = i > 0 && row->seq == last->seq && row->pos == last->pos + 1 && row->pos % tile != 0;
    if (!follows) a->tile[a->n_tiles++] = i;
  }
  a->tile[a->n_tiles] = a->n_prompt;
  size_t n_generated = a->n_rows - a->n_prompt, most = 1;
  for (size_t i = a->n_prompt; i < a->n_rows; i++) most = qi__max_size(most, qi__attention_row_pieces(a, i));
  a->split = most > 1 && n_generated <= a->n_split && n_generated * a->h->n_kv_heads < QI__ATTENTION_UNITS * n_threads;
}

QI__FN size_t qi__attention_units(const qi__attention *a) {
  size_t n = a->n_tiles;
  for (size_t i = a->n_prompt; i < a->n_rows; i++) n += a->split ? qi__attention_row_pieces(a, i) : 1;
  return n * a->h->n_kv_heads;
}

// Head `head` of the queries of row i in the forms that its units want. scratch: as long as a row of q8
QI__FN void qi__attention_query(const qi__attention *a, size_t i, size_t head, bool matrix, float *scratch) {
  size_t dim = a->h->head_dim_k, row = i * a->h->n_heads + head;
  float *q = a->q + row * dim, scale = 1.0f / sqrtf((float)dim);
  for (size_t j = 0; j < dim; j++) q[j] *= scale;
  if (!qi__kv_is_integer(a->kv->head.type) || (matrix && i < a->n_prompt)) return;
  memcpy(scratch, q, dim * sizeof *q);
  for (size_t j = dim; j < a->q8.k; j++) scratch[j] = 0;
  a->kernels->quantize_q8(scratch, &a->q8, row);
}

// ---- one unit ----

// Query rows of a unit: the heads of one group, of n_rows tokens that follow each other. Memory: `rows` is n_rows * group.
typedef struct qi__attend {
  const qi__attention *a;
  size_t layer, head, group, first, n_rows; // head: of keys and values; first: row of the chunk
  bool matrix, integer;       // which arithmetic
  float *max, *sum;           // [rows] of a piece
  qi__softmax_state all;      // [rows]
  const float *q;             // [rows, head_dim_k]
  float *score, *values;      // [rows, QI__ATTENTION_PIECE], [rows, head_dim_v]
  // On a matrix unit.
  uint16_t *q_bf16, *weight_bf16, *panel;
  // In integers.
  qi__kv_queries queries;     // [rows]
  int16_t *weight;            // [rows, QI__ATTENTION_PIECE]
  int32_t *total;             // [rows, 32]
  float *unit;                // [rows] what a weight of 1 stands for
  float *scale;               // [QI__ATTENTION_PIECE] of values
  // What queries and pages are turned into.
  float *q_copy;              // [rows, head_dim_k]
  float *floats;              // [QI__ATTENTION_PIECE, head_dim]
  int8_t *codes;              // [groups, QI__KV_PAGE, 32]
} qi__attend;

// Scratch of one thread.
QI__FN void qi__attend_layout(qi__attend *w, qi__arena *arena, const qi__hparams *h, const qi__kv_layout *l) {
  size_t group = h->n_heads / h->n_kv_heads, rows = qi__round16(group > QI__ATTENTION_TILE ? group : QI__ATTENTION_TILE);
  size_t dim_k = h->head_dim_k, dim_v = h->head_dim_v, width = qi__bf16_width(dim_k), most = dim_k > dim_v ? dim_k : dim_v;
  size_t groups = l->groups_k > l->groups_v ? l->groups_k : l->groups_v, integer = qi__kv_is_integer(l->type) ? rows : 0;
  float **stats[] = {&w->max, &w->sum, &w->all.max, &w->all.sum, &w->all.keep, &w->all.add};
  for (size_t i = 0; i < QI__COUNT_OF(stats); i++) *stats[i] = QI__ARENA_ARRAY(arena, float, rows);
  w->q_copy = QI__ARENA_ARRAY(arena, float, rows * dim_k);
  w->score = QI__ARENA_ARRAY(arena, float, rows * QI__ATTENTION_PIECE);
  w->values = QI__ARENA_ARRAY(arena, float, rows * dim_v);
  w->q_bf16 = QI__ARENA_ARRAY(arena, uint16_t, rows * width);
  w->weight_bf16 = QI__ARENA_ARRAY(arena, uint16_t, rows * QI__ATTENTION_PIECE);
  w->panel = QI__ARENA_ARRAY(arena, uint16_t, 32 * (width > QI__ATTENTION_PIECE ? width : QI__ATTENTION_PIECE));
  w->queries.groups = l->groups_k;
  w->queries.q = QI__ARENA_ARRAY(arena, int8_t, integer * l->groups_k * QI__KV_GROUP);
  w->queries.d = QI__ARENA_ARRAY(arena, float, integer * l->groups_k);
  w->queries.bias = QI__ARENA_ARRAY(arena, int32_t, integer * l->groups_k);
  w->weight = QI__ARENA_ARRAY(arena, int16_t, integer * QI__ATTENTION_PIECE);
  w->total = QI__ARENA_ARRAY(arena, int32_t, integer * QI__KV_GROUP);
  w->unit = QI__ARENA_ARRAY(arena, float, integer);
  w->scale = QI__ARENA_ARRAY(arena, float, QI__ATTENTION_PIECE);
  bool converted = l->type == QI_KV_FP8 || qi__kv_is_integer(l->type);
  w->floats = QI__ARENA_ARRAY(arena, float, converted ? QI__ATTENTION_PIECE * most : 0);
  w->codes = QI__ARENA_ARRAY(arena, int8_t, l->type == QI_KV_Q4 ? groups * QI__KV_PAGE * QI__KV_GROUP : 0);
}

// Floats of it.
QI__FN size_t qi__attention_scratch(const qi__hparams *h, const qi__kv_layout *l) {
  qi__attend w;
  qi__arena arena = {0};
  qi__attend_layout(&w, &arena, h, l);
  size_t unit = arena.used / sizeof(float), finish = 4 * qi__round16(h->n_heads);
  return qi__round16(unit > finish ? unit : finish);
}

// Row g of the unit's queries in integers: row `from` of those of the chunk.
QI__FN void qi__attend_interleave(const qi__attend *w, size_t g, size_t from) {
  const qi__q8 *q8 = &w->a->q8;
  const qi__kv_queries *to = &w->queries;
  for (size_t b = 0; b < to->groups; b++) {
    size_t at = qi__kv_query_at(to, g, b), group = from * to->groups + b;
    int8_t *codes = to->q + qi__kv_query_codes_at(to, g, b);
    for (size_t i = 0; i < QI__KV_GROUP; i += 4) memcpy(codes + 8 * i, q8->q + group * QI__KV_GROUP + i, 4);
    to->d[at] = q8->d[group];
    to->bias[at] = -128 * (q8->sum[2 * group] + q8->sum[2 * group + 1]);
  }
}

// Lays out scratch and takes the queries. Those of one token lie together in the chunk.
QI__FN void qi__attend_open(qi__attend *w, float *scratch) {
  const qi__attention *a = w->a;
  size_t dim = a->h->head_dim_k, n_q = w->n_rows * w->group;
  qi__arena arena = {(uint8_t *)scratch, SIZE_MAX, 0, false};
  qi__attend_layout(w, &arena, a->h, &a->kv->head);
  w->integer = !w->matrix && qi__kv_is_integer(a->kv->head.type);
  w->q = w->n_rows == 1 ? a->q + (w->first * a->h->n_heads + w->head * w->group) * dim : w->q_copy;
  for (size_t i = 0; i < w->n_rows; i++) {
    size_t row = (w->first + i) * a->h->n_heads + w->head * w->group;
    if (w->q == w->q_copy) memcpy(w->q_copy + i * w->group * dim, a->q + row * dim, w->group * dim * sizeof *w->q);
    for (size_t g = 0; w->integer && g < w->group; g++) qi__attend_interleave(w, i * w->group + g, row + g);
  }
  for (size_t g = 0; w->matrix && g < n_q; g++) a->kernels->bf16.pack(w->q + g * dim, dim, w->q_bf16, g);
}

// A piece as the rows r..r+n_r-1 of a unit see it; the others see nothing of it.
typedef struct qi__attend_piece {
  size_t from, n; // positions, from a page's first on
  size_t r, n_r;
} qi__attend_piece;

// Keys begin..*end-1 of the piece are what row r sees.
QI__FN size_t qi__attend_see(const qi__attend *w, const qi__attend_piece *p, size_t r, size_t *end) {
  size_t begin = qi__attention_span(w->a->h, &w->a->rows[w->first + r], end);
  *end = qi__min_size(*end - p->from, p->n);
  return begin > p->from ? begin - p->from : 0;
}

// Piece `number` of the cache. Where rows see only its end, pages before it are left out.
QI__FN void qi__attend_take(const qi__attend *w, size_t number, qi__attend_piece *p) {
  const qi__hparams *h = w->a->h;
  const qi__row *rows = w->a->rows + w->first;
  size_t base = number * QI__ATTENTION_PIECE, limit = base + QI__ATTENTION_PIECE, r = 0, n = w->n_rows, end;
  while (rows[r].pos < base) r++;
  while (qi__attention_span(h, &rows[n - 1], &end) >= limit) n--;
  size_t begin = qi__attention_span(h, &rows[r], &end);
  p->r = r;
  p->n_r = n - r;
  p->from = begin > base ? begin / QI__KV_PAGE * QI__KV_PAGE : base;
  p->n = qi__min_size(limit, rows[n - 1].pos + 1) - p->from;
}

// ---- pages ----

// The page of the piece's position `at` on.
typedef struct qi__attend_page {
  const uint8_t *head, *next; // next: the same place one piece later, or this page
  size_t n;                   // positions of the piece in it
} qi__attend_page;

QI__FN qi__attend_page qi__attend_get(const qi__attend *w, const qi__attend_piece *p, size_t at) {
  const qi__kv *kv = w->a->kv;
  size_t seq = w->a->rows[w->first].seq;
  const uint8_t *head = qi__kv_head(kv, w->layer, seq, w->head, p->from + at);
  const uint8_t *next = qi__kv_head(kv, w->layer, seq, w->head, p->from + at + QI__ATTENTION_PIECE);
  qi__attend_page page = {head, next ? next : head, qi__min_size(QI__KV_PAGE, p->n - at)};
  return page;
}

#define QI__ATTEND_CHUNK 1024 // elements that are converted at once, while as many bytes of what is wanted next are fetched

QI__FN void qi__attend_fetch(const uint8_t *ahead, size_t bytes) {
  for (size_t i = 0; i < bytes; i += QI__CACHE_LINE) qi__prefetch(ahead + i);
}

// n elements of a float type in one that is multiplied (*type); floats: room for them where they have to be converted; ahead: what
// is wanted next.
QI__FN const void *qi__attend_floats(const qi__attend *w, const uint8_t *src, size_t n, const uint8_t *ahead, float *floats,
                                     qi_kv_type *type) {
  *type = w->a->kv->head.type;
  if (*type != QI_KV_FP8) return src;
  *type = QI_KV_F32;
  for (size_t i = 0; i < n; i += QI__ATTEND_CHUNK) {
    size_t m = qi__min_size(n - i, QI__ATTEND_CHUNK);
    qi__attend_fetch(ahead + i, m);
    w->a->kernels->fp8_floats(src + i, m, floats + i);
  }
  return floats;
}

// n codes of keys or values, see `step`, in the form of Q8.
QI__FN const int8_t *qi__attend_codes(const qi__attend *w, const uint8_t *src, size_t n, size_t step, const uint8_t *ahead) {
  if (w->a->kv->head.type == QI_KV_Q8) return (const int8_t *)src;
  for (size_t i = 0; i < n; i += QI__ATTEND_CHUNK) {
    qi__attend_fetch(ahead + i / 2, QI__ATTEND_CHUNK / 2);
    w->a->kernels->kv_unpack_q4(src + i / 2, QI__ATTEND_CHUNK / 2, step, w->codes + i);
  }
  return w->codes;
}

// Keys and values of a page as F32, F16 or BF16, from any type.
QI__FN const void *qi__attend_key_floats(const qi__attend *w, const qi__attend_page *page, qi_kv_type *type) {
  const qi__kv_layout *l = &w->a->kv->head;
  const uint8_t *k = page->head, *v = k + l->v;
  if (!qi__kv_is_integer(l->type)) return qi__attend_floats(w, k, qi__round16(page->n) * l->dim_k, v, w->floats, type);
  const int8_t *codes = qi__attend_codes(w, k, QI__KV_PAGE * l->groups_k * QI__KV_GROUP, QI__KV_KEY_STEP, v);
  w->a->kernels->kv_key_floats(l, codes, (const uint16_t *)(const void *)(page->head + l->k_scale), page->n, w->floats);
  *type = QI_KV_F32;
  return w->floats;
}
QI__FN const void *qi__attend_value_floats(const qi__attend *w, const qi__attend_page *page, float *floats,
                                           qi_kv_type *type) {
  const qi__kv_layout *l = &w->a->kv->head;
  const uint8_t *v = page->head + l->v;
  if (!qi__kv_is_integer(l->type)) return qi__attend_floats(w, v, page->n * l->dim_v, page->next, floats, type);
  const int8_t *codes = qi__attend_codes(w, v, QI__KV_PAGE * l->groups_v * QI__KV_GROUP, QI__KV_VALUE_STEP, page->next);
  w->a->kernels->kv_value_floats(l, codes, (const uint16_t *)(const void *)(page->head + l->v_scale), page->n, floats);
  *type = QI_KV_F32;
  return floats;
}

// ---- in float32 ----

QI__FN void qi__attend_scores_float(const qi__attend *w, const qi__attend_piece *p) {
  const qi__kv_layout *l = &w->a->kv->head;
  for (size_t at = 0; at < p->n; at += QI__KV_PAGE) {
    qi__attend_page page = qi__attend_get(w, p, at);
    qi__kv_run run = {NULL, page.head + l->v, page.n, l->type, NULL, w->a->kernels->fetch};
    run.k = qi__attend_key_floats(w, &page, &run.type);
    if (run.k != page.head) run.v = run.k; // so much would be fetched for nothing
    w->a->kernels->attention_scores(w->q + p->r * w->group * l->dim_k, p->n_r * w->group, &run, l->dim_k, w->score + at);
  }
}

// Rows i..i+n-1 of the piece add its keys begin..end-1, as far as they are in the page at `at`.
QI__FN void qi__attend_add(const qi__attend *w, const qi__kv_run *run, size_t at, size_t i, size_t n, size_t begin, size_t end,
                           float *values) {
  size_t dim = w->a->h->head_dim_v, row = i * w->group;
  begin = begin > at ? begin - at : 0;
  end = end > at ? qi__min_size(end - at, run->n) : 0;
  if (begin < end)
    w->a->kernels->attention_values(w->score + row * QI__ATTENTION_PIECE + at, n * w->group, run, begin, end, dim,
                                    values + row * dim);
}

// What all rows see they take together, what comes before and after it each alone: so each has the chain that it has alone.
QI__FN void qi__attend_values_page(const qi__attend *w, const qi__attend_piece *p, const qi__kv_run *run, size_t at,
                                   float *values) {
  size_t begin, end, all_end, row_end;
  size_t all_begin = qi__attend_see(w, p, p->r + p->n_r - 1, &end);
  qi__attend_see(w, p, p->r, &all_end);
  all_begin = qi__min_size(all_begin, all_end);
  for (size_t i = 0; i + 1 < p->n_r; i++) {
    begin = qi__attend_see(w, p, p->r + i, &row_end);
    qi__attend_add(w, run, at, i, 1, begin, all_begin, values);
  }
  qi__attend_add(w, run, at, 0, p->n_r, all_begin, all_end, values);
  for (size_t i = 0; i < p->n_r; i++) {
    begin = qi__attend_see(w, p, p->r + i, &row_end);
    qi__attend_add(w, run, at, i, 1, begin > all_end ? begin : all_end, row_end, values);
  }
}

QI__FN void qi__attend_values_float(const qi__attend *w, const qi__attend_piece *p, float *values) {
  const qi__kv_layout *l = &w->a->kv->head;
  memset(values, 0, p->n_r * w->group * l->dim_v * sizeof *values);
  for (size_t at = 0; at < p->n; at += QI__KV_PAGE) {
    qi__attend_page page = qi__attend_get(w, p, at);
    qi__kv_run run = {NULL, NULL, page.n, l->type, page.next, w->a->kernels->fetch};
    run.v = qi__attend_value_floats(w, &page, w->floats, &run.type);
    if (run.v != page.head + l->v) run.next = run.v;
    qi__attend_values_page(w, p, &run, at, values);
  }
}

// ---- in integers ----

QI__FN void qi__attend_scores_integer(const qi__attend *w, const qi__attend_piece *p) {
  const qi__kv_layout *l = &w->a->kv->head;
  for (size_t at = 0; at < p->n; at += QI__KV_PAGE) {
    qi__attend_page page = qi__attend_get(w, p, at);
    qi__kv_codes k = {NULL, (const uint16_t *)(const void *)(page.head + l->k_scale), page.n, page.head + l->v};
    k.codes = qi__attend_codes(w, page.head, QI__KV_PAGE * l->groups_k * QI__KV_GROUP, QI__KV_KEY_STEP, page.head + l->v);
    if (k.codes == w->codes) k.ahead = k.codes;
    qi__attend_fetch(page.head + l->v_scale, l->bytes - l->v_scale);
    w->a->kernels->attention_scores_q8(&w->queries, p->r * w->group, p->n_r * w->group, &k, w->score + at);
  }
}

// Elements 32 b .. of the values, in w->total.
QI__FN void qi__attend_total(const qi__attend *w, const qi__attend_piece *p, size_t b) {
  const qi__kv_layout *l = &w->a->kv->head;
  size_t group = QI__KV_PAGE * QI__KV_GROUP, n_q = p->n_r * w->group;
  memset(w->total, 0, n_q * QI__KV_GROUP * sizeof *w->total);
  for (size_t at = 0; at < p->n; at += QI__KV_PAGE) {
    qi__attend_page page = qi__attend_get(w, p, at);
    qi__kv_codes v = {NULL, NULL, page.n, page.next + b * group};
    size_t offset = qi__kv_size(l->type, b * group);
    v.codes = qi__attend_codes(w, page.head + l->v + offset, group, QI__KV_VALUE_STEP, page.next + offset);
    if (v.codes == w->codes) v.ahead = v.codes;
    if (b == 0) qi__attend_fetch(page.next + l->k_scale, l->v - l->k_scale);
    w->a->kernels->attention_values_q8(w->weight + at, n_q, &v, w->total);
  }
}

QI__FN void qi__attend_values_integer(const qi__attend *w, const qi__attend_piece *p, float *values) {
  const qi__kv_layout *l = &w->a->kv->head;
  const qi__kernels *kernels = w->a->kernels;
  size_t n = qi__round16(p->n), n_q = p->n_r * w->group;
  for (size_t b = 0; b < l->groups_v; b++) {
    for (size_t at = 0; at < p->n; at += QI__KV_PAGE) {
      const uint8_t *scale = qi__attend_get(w, p, at).head + l->v_scale + qi__kv_value_scale_at(0, b) * sizeof(uint16_t);
      kernels->dequantize[QI_FORMAT_F16](&qi__formats[QI_FORMAT_F16], scale, w->scale + at, qi__min_size(QI__KV_PAGE, n - at));
    }
    kernels->attention_weights(w->score, n_q, w->scale, n, w->weight, w->unit);
    qi__attend_total(w, p, b);
    kernels->attention_scale(w->total, w->unit, n_q, qi__min_size(QI__KV_GROUP, l->dim_v - b * QI__KV_GROUP), l->dim_v,
                             values + b * QI__KV_GROUP);
  }
}

// ---- on a matrix unit ----

QI__FN void qi__attend_scores_matrix(const qi__attend *w, const qi__attend_piece *p) {
  const qi__kernels *kernels = w->a->kernels;
  size_t dim = w->a->h->head_dim_k, width = qi__bf16_width(dim);
  qi__bf16_begin(&kernels->bf16);
  for (size_t at = 0; at < p->n; at += QI__KV_PAGE) {
    qi__attend_page page = qi__attend_get(w, p, at);
    qi_kv_type type;
    const void *k = qi__attend_key_floats(w, &page, &type);
    for (size_t j = 0; j < page.n; j += 32) {
      size_t n_keys = qi__min_size(32, qi__round16(page.n - j));
      for (size_t block = 0; block < n_keys; block += 16)
        kernels->attention_panel(qi__kv_at(k, (j + block) * dim, type), QI__KEY_BLOCK, dim, 16, type, false,
                                 w->panel + block * width);
      qi__bf16_args a = {w->panel, n_keys, width, 16 * width, w->q_bf16, 16 * width, p->r * w->group, p->n_r * w->group, true,
                         w->score + at + j, QI__ATTENTION_PIECE, NULL};
      kernels->bf16.multiply(&a);
    }
  }
  qi__bf16_end(&kernels->bf16);
}

QI__FN void qi__attend_values_matrix(const qi__attend *w, const qi__attend_piece *p, float *values) {
  const qi__kernels *kernels = w->a->kernels;
  size_t dim = w->a->h->head_dim_v, width = qi__bf16_width(p->n), n_q = p->n_r * w->group;
  const void *v[QI__ATTENTION_PIECE / QI__KV_PAGE];
  qi_kv_type type = QI_KV_F32;
  for (size_t at = 0; at < p->n; at += QI__KV_PAGE) {
    qi__attend_page page = qi__attend_get(w, p, at);
    v[at / QI__KV_PAGE] = qi__attend_value_floats(w, &page, w->floats + (w->floats ? at * dim : 0), &type);
  }
  for (size_t g = 0; g < n_q; g++) kernels->bf16.pack(w->score + g * QI__ATTENTION_PIECE, width, w->weight_bf16, g);
  qi__bf16_begin(&kernels->bf16);
  for (size_t i = 0; i < dim; i += 32) {
    size_t n_dim = qi__min_size(32, dim - i);
    for (size_t block = 0; block < n_dim; block += 16)
      for (size_t at = 0; at < p->n; at += QI__KV_PAGE)
        kernels->attention_panel(qi__kv_at(v[at / QI__KV_PAGE], i + block, type), dim, qi__min_size(QI__KV_PAGE, p->n - at),
                                 qi__min_size(16, n_dim - block), type, true, w->panel + block * width + at * 16);
    qi__bf16_args a = {w->panel, n_dim, width, 16 * width, w->weight_bf16, 16 * width, 0, n_q, true, values + i, dim, NULL};
    kernels->bf16.multiply(&a);
  }
  qi__bf16_end(&kernels->bf16);
}

// ---- pieces ----

// max, sum [n_r * group] and values [n_r * group, head_dim_v] of a piece.
QI__FN void qi__attend_piece_run(const qi__attend *w, const qi__attend_piece *p, float *max, float *sum, float *values) {
  const qi__kernels *kernels = w->a->kernels;
  size_t group = w->group;
  if (w->matrix) qi__attend_scores_matrix(w, p);
  else if (w->integer) qi__attend_scores_integer(w, p);
  else qi__attend_scores_float(w, p);
  for (size_t i = 0; i < p->n_r; i++) {
    size_t end, begin = qi__attend_see(w, p, p->r + i, &end), n = qi__round16(end);
    if (w->matrix) n = qi__bf16_width(p->n);
    else if (w->integer) n = qi__round16(p->n);
    kernels->attention_softmax(w->score + i * group * QI__ATTENTION_PIECE, group, begin, end, n, max + i * group, sum + i * group);
  }
  if (w->matrix) qi__attend_values_matrix(w, p, values);
  else if (w->integer) qi__attend_values_integer(w, p, values);
  else qi__attend_values_float(w, p, values);
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

// Rows and head of unit u of qi__attention_units; returns the piece, where it is one, counted from the first that the row sees.
QI__FN size_t qi__attend_locate(qi__attend *w, bool matrix, size_t u) {
  const qi__attention *a = w->a;
  size_t n_heads = a->h->n_kv_heads, n_tiles = a->n_tiles * n_heads;
  w->matrix = matrix && u < n_tiles;
  w->n_rows = 1;
  if (u < n_tiles) {
    w->first = a->tile[u / n_heads];
    w->n_rows = a->tile[u / n_heads + 1] - w->first;
    w->head = u % n_heads;
    return 0;
  }
  u -= n_tiles;
  w->first = a->n_prompt;
  size_t n = a->split ? qi__attention_row_pieces(a, w->first) : 1;
  for (; u >= n * n_heads; n = a->split ? qi__attention_row_pieces(a, w->first) : 1) {
    u -= n * n_heads;
    w->first++;
  }
  w->head = u / n;
  return u % n;
}

// Units begin..end-1 of qi__attention_units. `matrix`: prompts go over the matrix unit, which is there. scratch:
// [qi__attention_scratch]
QI__FN void qi__attention_run(const qi__attention *a, size_t layer, bool matrix, size_t begin, size_t end, float *scratch) {
  qi__attend w;
  memset(&w, 0, sizeof w);
  w.a = a;
  w.layer = layer;
  w.group = a->h->n_heads / a->h->n_kv_heads;
  for (size_t u = begin; u < end; u++) {
    size_t first = w.first, head = w.head, piece = qi__attend_locate(&w, matrix, u);
    if (u == begin || w.first != first || w.head != head) qi__attend_open(&w, scratch); // pieces of a head share its queries
    if (a->split && w.first >= a->n_prompt) qi__attend_part(&w, piece);
    else qi__attend_all(&w);
  }
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
