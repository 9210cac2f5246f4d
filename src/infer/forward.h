// ==== >>forward : one pass over the layers, as a state that can stop anywhere ====
#ifndef QI__INFER_FORWARD_H
#define QI__INFER_FORWARD_H

#include "../base/threads.h"
#include "../model/weights.h"
#include "attend.h"
#include "kv_store.h"

// Easy to get wrong:
//   - All keys and values of the chunk are stored before its attention begins: rows of one sequence see each other.
//   - The norm of queries and keys comes before the rotation, biases before the norm.
//   - Rows of prompts stand before rows of generation: products take each group with its own arithmetic.

// The operations of a pass, in order. Those from ATTN_NORM to DOWN repeat for each layer.
typedef enum qi__op {
  QI__OP_EMBED,     // token embeddings, and the rotation angles of each row
  QI__OP_ATTN_NORM,
  QI__OP_QKV,
  QI__OP_ROPE,      // query/key norm, rotation, keys and values to the cache, queries as attention wants them
  QI__OP_ATTENTION,
  QI__OP_ATTN_INPUT, // attention joined, and in the forms that the next product wants
  QI__OP_ATTN_OUT,
  QI__OP_FFN_NORM,
  QI__OP_GATE_UP,
  QI__OP_SWIGLU,
  QI__OP_DOWN,
  QI__OP_OUTPUT_NORM,
  QI__OP_OUTPUT,
  QI__OP_DONE
} qi__op;

typedef struct qi__forward {
  const qi__hparams *h;
  const qi__weights *w;
  const qi__kernels *kernels;
  qi_pool *pool;
  qi__kv *kv;
  qi_path path;
  const int *cancel; // read by all threads; not 0 = leave the pass unfinished
  bool on_device;    // backend.h runs the pass; what only the CPU's kernels need is not there
  qi_observer observer;
  void (*observe)(const struct qi__forward *f); // before each product; NULL = none
  size_t n_batch, n_logits;

  double *frequency;    // [n_rot / 2] angle per position
  double magnitude;     // of cos and sin
  qi__row *rows;        // [n_batch]
  size_t *wanted;       // [n_batch] rows whose logits are wanted
  float *x;             // [n_batch, n_embd] residual stream
  qi__inputs in;        // [n_batch, widest input] what the next product reads
  float *q, *k, *v;     // [n_batch, n_heads * head_dim_k], [n_batch, n_kv_heads * head_dim_k], [.. head_dim_v]
  float *gate, *up;     // [n_batch, n_ff]
  float *cos_sin;       // [n_batch, n_rot]
  qi__attention attention;
  float *logits;        // [n_logits, n_vocab]
  float *scratch;       // [n_threads, scratch_floats]
  size_t scratch_floats;

  size_t n_rows, n_prompt;           // rows of the chunk; the first n_prompt are prompt
  size_t n_wanted, n_wanted_prompt;  // the same among the wanted
  size_t logits_row;                 // first row of `logits` that this chunk fills
  qi__op op;
  size_t layer;
  int64_t unit;                      // units of the operation that are done
  double us_per_unit[QI__OP_DONE];   // as measured last; 0 = not yet
  size_t part_rows[QI__OP_DONE];     // rows of a prompt that a product in slices takes at a time; 0 = all
  size_t n_parts;                    // of these, in the current operation
} qi__forward;

// ---- memory ----

QI__FN size_t qi__forward_width(const qi__hparams *h) {
  size_t width = h->n_embd > h->n_ff ? h->n_embd : h->n_ff, attn = h->n_heads * h->head_dim_v;
  return width > attn ? width : attn;
}

// Scratch of one thread: for tiles of weights, or what a unit of attention needs.
QI__FN size_t qi__forward_scratch(const qi__hparams *h, const qi__kv *kv, size_t n_batch) {
  size_t tile = qi__tile_scratch(qi__forward_width(h), n_batch);
  size_t attention = qi__attention_scratch(h, &kv->head);
  size_t n = tile > attention ? tile : attention;
  return (n + 15) / 16 * 16;
}

QI__FN void qi__forward_layout(qi__forward *f, qi__arena *arena, const qi__hparams *h, const qi__kv *kv, size_t n_batch,
                               size_t n_logits, size_t n_threads) {
  f->n_batch = n_batch;
  f->n_logits = n_logits;
  f->frequency = QI__ARENA_ARRAY(arena, double, h->n_rot / 2);
  f->rows = QI__ARENA_ARRAY(arena, qi__row, n_batch);
  f->wanted = QI__ARENA_ARRAY(arena, size_t, n_batch);
  f->x = QI__ARENA_ARRAY(arena, float, n_batch * h->n_embd);
  if (f->on_device) f->in.x = QI__ARENA_ARRAY(arena, float, n_batch * qi__forward_width(h));
  else qi__inputs_layout(&f->in, arena, n_batch, qi__forward_width(h));
  f->q = QI__ARENA_ARRAY(arena, float, n_batch * h->n_heads * h->head_dim_k);
  f->k = QI__ARENA_ARRAY(arena, float, n_batch * h->n_kv_heads * h->head_dim_k);
  f->v = QI__ARENA_ARRAY(arena, float, n_batch * h->n_kv_heads * h->head_dim_v);
  f->gate = QI__ARENA_ARRAY(arena, float, n_batch * h->n_ff);
  f->up = QI__ARENA_ARRAY(arena, float, n_batch * h->n_ff);
  f->cos_sin = QI__ARENA_ARRAY(arena, float, n_batch * h->n_rot);
  if (!f->on_device) qi__attention_layout(&f->attention, arena, h, kv, n_batch, n_threads);
  size_t logits;
  if (!qi__mul_size(n_logits, h->n_vocab, &logits)) arena->overflow = true, logits = 0;
  f->logits = QI__ARENA_ARRAY(arena, float, logits);
  f->scratch_floats = qi__forward_scratch(h, kv, n_batch);
  f->scratch = QI__ARENA_ARRAY(arena, float, n_threads * f->scratch_floats);
}

// ---- operations on rows ----

// Cosines and sines of row i.
QI__FN void qi__row_angles(qi__forward *f, size_t i) {
  float *cos_sin = f->cos_sin + i * f->h->n_rot;
  for (size_t p = 0; p < f->h->n_rot / 2; p++) {
    float s, c;
    qi__sincos((double)f->rows[i].pos * f->frequency[p], &s, &c);
    cos_sin[2 * p] = (float)(c * f->magnitude);
    cos_sin[2 * p + 1] = (float)(s * f->magnitude);
  }
}

QI__FN void qi__run_embed(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__weight *e = &f->w->embedding;
  (void)worker;
  for (size_t i = (size_t)begin; i < (size_t)end; i++) {
    const uint8_t *src = e->data + (size_t)f->rows[i].token * e->row_bytes;
    f->kernels->dequantize[e->id](e->format, src, f->x + i * e->n_cols, e->n_cols);
    qi__row_angles(f, i);
  }
}

// The forms of row i that these weights want, by the role of the row.
QI__FN void qi__prepare_row(qi__forward *f, size_t i, bool generated, const qi__weight *const *w, size_t n) {
  unsigned need = 0;
  for (size_t j = 0; j < n; j++) need |= qi__inputs_need(w[j], qi__arithmetic_of(f->kernels, w[j], f->path, generated));
  qi__inputs_prepare(f->kernels, &f->in, i, need);
}

// in.x[i] = norm of x[row], ready for products with w.
QI__FN void qi__norm_row(qi__forward *f, size_t row, size_t i, bool generated, const float *norm, const qi__weight *const *w,
                         size_t n) {
  size_t width = f->h->n_embd;
  f->kernels->rms_norm(f->x + row * width, norm, f->h->rms_norm_eps, width, f->in.x + i * width);
  qi__prepare_row(f, i, generated, w, n);
}

QI__FN void qi__run_attn_norm(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__layer *l = &f->w->layers[f->layer];
  const qi__weight *next[] = {&l->wq, &l->wk, &l->wv};
  (void)worker;
  for (size_t i = (size_t)begin; i < (size_t)end; i++) qi__norm_row(f, i, i, i >= f->n_prompt, l->attn_norm, next, 3);
}

QI__FN void qi__run_ffn_norm(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__layer *l = &f->w->layers[f->layer];
  const qi__weight *next[] = {&l->gate, &l->up};
  (void)worker;
  for (size_t i = (size_t)begin; i < (size_t)end; i++) qi__norm_row(f, i, i, i >= f->n_prompt, l->ffn_norm, next, 2);
}

QI__FN void qi__run_output_norm(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__weight *next[] = {&f->w->output};
  (void)worker;
  for (size_t i = (size_t)begin; i < (size_t)end; i++)
    qi__norm_row(f, f->wanted[i], i, i >= f->n_wanted_prompt, f->w->output_norm, next, 1);
}

// Whether prompts have their attention in bfloat16: where their products are, and with ternary weights where a matrix unit is and
// the choice is ours.
QI__FN bool qi__attention_on_matrix(const qi__forward *f) {
  const qi__weight *wq = &f->w->layers[f->layer].wq;
  bool bf16 = qi__arithmetic_of(f->kernels, wq, f->path, false) == QI__BF16;
  if (wq->format->ternary && f->path == QI_PATH_AUTO) bf16 = f->kernels->matrix_unit;
  return bf16 && f->kernels->attention_panel && f->kernels->bf16.multiply;
}

// A head of keys and values of row i, and the heads of queries that go with it.
QI__FN void qi__rope_head(qi__forward *f, size_t i, size_t head, bool matrix, float *scratch) {
  const qi__hparams *h = f->h;
  const qi__layer *l = &f->w->layers[f->layer];
  const bool neighbours = (h->arch->features & QI__ROPE_NEIGHBOURS) != 0;
  const qi__row *row = &f->rows[i];
  const float *cos_sin = f->cos_sin + i * h->n_rot;
  const size_t dim = h->head_dim_k, group = h->n_heads / h->n_kv_heads;
  qi__kv_fetch(f->kv, f->layer, row->seq, head, row->pos);
  for (size_t g = head * group; g < (head + 1) * group; g++) {
    float *q = f->q + (i * h->n_heads + g) * dim;
    if (l->q_norm) f->kernels->rms_norm(q, l->q_norm, h->rms_norm_eps, dim, q);
    f->kernels->rope(q, cos_sin, h->n_rot / 2, neighbours);
    qi__attention_query(&f->attention, i, g, matrix, scratch);
  }
  float *k = f->k + (i * h->n_kv_heads + head) * dim;
  if (l->k_norm) f->kernels->rms_norm(k, l->k_norm, h->rms_norm_eps, dim, k);
  f->kernels->rope(k, cos_sin, h->n_rot / 2, neighbours);
  const float *v = f->v + (i * h->n_kv_heads + head) * h->head_dim_v;
  qi__kv_store(f->kv, f->kernels, f->layer, row->seq, head, row->pos, k, v);
}

// Units are heads of keys and values, row by row: storing one position touches as much of the cache as 16 of them.
QI__FN void qi__run_rope(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const size_t n_heads = f->h->n_kv_heads;
  bool matrix = qi__attention_on_matrix(f);
  float *scratch = f->scratch + (size_t)worker * f->scratch_floats;
  for (size_t u = (size_t)begin; u < (size_t)end; u++) qi__rope_head(f, u / n_heads, u % n_heads, matrix, scratch);
}

// A token alone whose heads are a unit each: a head is rotated where its attention is computed, without a run of the pool before.
QI__INLINE bool qi__rope_with_attention(const qi__forward *f) {
  return f->n_rows == 1 && !f->n_prompt && !f->attention.split && !f->on_device;
}

QI__FN void qi__run_attention(qi__forward *f, int worker, int64_t begin, int64_t end) {
  float *scratch = f->scratch + (size_t)worker * f->scratch_floats;
  bool matrix = qi__attention_on_matrix(f);
  if (qi__rope_with_attention(f))
    for (int64_t head = begin; head < end; head++) qi__rope_head(f, 0, (size_t)head, matrix, scratch);
  qi__attention_run(&f->attention, f->layer, matrix, (size_t)begin, (size_t)end, scratch);
}

QI__FN void qi__run_attn_input(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__layer *l = &f->w->layers[f->layer];
  const qi__weight *next[] = {&l->wo};
  size_t width = f->h->n_heads * f->h->head_dim_v;
  float *scratch = f->scratch + (size_t)worker * f->scratch_floats;
  for (size_t i = (size_t)begin; i < (size_t)end; i++) {
    qi__attention_finish(&f->attention, i, scratch);
    float *x = f->in.x + i * width;
    if (l->attn_sub_norm) f->kernels->rms_norm(x, l->attn_sub_norm, f->h->rms_norm_eps, width, x);
    qi__prepare_row(f, i, i >= f->n_prompt, next, 1);
  }
}

// What comes between gate and up.
typedef void (*qi__gate_fn)(const float *gate, const float *up, size_t n, float *y);
QI__FN qi__gate_fn qi__forward_gate(const qi__forward *f) {
  return f->h->arch->features & QI__RELU2 ? f->kernels->relu2 : f->kernels->swiglu;
}

// Whether prompts have gate and up multiplied together, on a matrix unit: then f->gate holds the input of `down` for them, packed.
#define QI__GATED_LEAST 16 // rows; from then on it has room for that
QI__FN bool qi__forward_gated(const qi__forward *f) {
  const qi__layer *l = &f->w->layers[f->layer];
  const qi__weight *w[] = {&l->gate, &l->up, &l->down};
  if (f->on_device || !f->kernels->matrix_unit || f->n_prompt < QI__GATED_LEAST || f->h->n_ff % QI__BF16_ROWS) return false;
  if (f->observe || l->ffn_sub_norm || l->gate.bias || l->up.bias) return false;
  for (int i = 0; i < 3; i++)
    if (qi__arithmetic_of(f->kernels, w[i], f->path, false) != QI__BF16) return false;
  return true;
}

QI__FN void qi__run_swiglu(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__layer *l = &f->w->layers[f->layer];
  const qi__weight *next[] = {&l->down};
  size_t n_ff = f->h->n_ff;
  qi__gate_fn gate = qi__forward_gate(f);
  (void)worker;
  for (size_t i = qi__max_size((size_t)begin, qi__forward_gated(f) ? f->n_prompt : 0); i < (size_t)end; i++) {
    float *x = f->in.x + i * n_ff;
    gate(f->gate + i * n_ff, f->up + i * n_ff, n_ff, x);
    if (l->ffn_sub_norm) f->kernels->rms_norm(x, l->ffn_sub_norm, f->h->rms_norm_eps, n_ff, x);
    qi__prepare_row(f, i, i >= f->n_prompt, next, 1);
  }
}

// ---- matrix products ----

// One product of a step: y[i] = w in[i], or y[i] += w in[i].
typedef struct qi__product {
  const qi__weight *w;
  float *y; // [n_rows, w->n_rows]
  bool add;
} qi__product;

QI__FN size_t qi__products(const qi__forward *f, qi__op op, qi__product out[3]) {
  const qi__layer *l = &f->w->layers[f->layer];
  switch (op) {
  case QI__OP_QKV:
    out[0] = (qi__product){&l->wq, f->q, false};
    out[1] = (qi__product){&l->wk, f->k, false};
    out[2] = (qi__product){&l->wv, f->v, false};
    return 3;
  case QI__OP_ATTN_OUT: out[0] = (qi__product){&l->wo, f->x, true}; return 1;
  case QI__OP_GATE_UP:
    out[0] = (qi__product){&l->gate, f->gate, false};
    out[1] = (qi__product){&l->up, f->up, false};
    return qi__forward_gated(f) ? 1 : 2; // units are tiles of both then
  case QI__OP_DOWN: out[0] = (qi__product){&l->down, f->x, true}; return 1;
  case QI__OP_OUTPUT: out[0] = (qi__product){&f->w->output, f->logits + f->logits_row * f->h->n_vocab, false}; return 1;
  default: return 0;
  }
}

QI__INLINE int64_t qi__tiles(const qi__weight *w) { return (int64_t)((w->n_rows + QI__TILE_ROWS - 1) / QI__TILE_ROWS); }

QI__FN int64_t qi__product_units(const qi__forward *f) {
  qi__product products[3];
  size_t n = qi__products(f, f->op, products);
  int64_t units = 0;
  for (size_t i = 0; i < n; i++) units += qi__tiles(products[i].w);
  return units * (int64_t)f->n_parts;
}

// Tiles of weight rows, `tile` on, for the activation rows first_x..first_x+n_x-1, which share an arithmetic. Returns how many:
// 1..n_tiles.
QI__FN size_t qi__forward_tiles(qi__forward *f, float *scratch, const qi__product *p, size_t tile, size_t n_tiles, size_t first_x,
                                size_t n_x, bool generated) {
  qi__arithmetic arithmetic = qi__arithmetic_of(f->kernels, p->w, f->path, generated);
  n_tiles = qi__min_size(n_tiles, qi__tiles_at_once(f->kernels, arithmetic, n_x));
  size_t first = tile * QI__TILE_ROWS, n_rows = p->w->n_rows, n_w = qi__min_size(n_tiles * QI__TILE_ROWS, n_rows - first);
  qi__inputs in = f->in;
  if (f->op == QI__OP_DOWN && !generated && qi__forward_gated(f)) in.bf16 = f->gate;
  qi__matmul_tile(f->kernels, arithmetic, p->w, first, n_w, &in, first_x, n_x, p->y + first_x * n_rows + first, n_rows, p->add,
                  scratch);
  return n_tiles;
}

// The same of gate and up together.
QI__FN size_t qi__gated_tiles(qi__forward *f, float *scratch, size_t tile, size_t n_tiles, size_t first_x, size_t n_x) {
  const qi__layer *l = &f->w->layers[f->layer];
  size_t first = tile * QI__TILE_ROWS;
  n_tiles = qi__min_size(n_tiles, QI__BF16_RUN / 2);
  for (size_t i = 0; i < n_x; i += QI__BF16_BATCH)
    qi__tile_gated(f->kernels, qi__forward_gate(f), &l->gate, &l->up, first, n_tiles * QI__TILE_ROWS, &f->in, first_x + i,
                   qi__min_size(QI__BF16_BATCH, n_x - i), (uint16_t *)(void *)f->gate, scratch);
  return n_tiles;
}

QI__FN void qi__run_products(qi__forward *f, int worker, int64_t begin, int64_t end) {
  float *scratch = f->scratch + (size_t)worker * f->scratch_floats;
  qi__product products[3];
  size_t n = qi__products(f, f->op, products);
  bool output = f->op == QI__OP_OUTPUT, gated = f->op == QI__OP_GATE_UP && n == 1;
  size_t rows = output ? f->n_wanted : f->n_rows, prompt = output ? f->n_wanted_prompt : f->n_prompt;
  for (int64_t u = begin, done; u < end && !__atomic_load_n(f->cancel, __ATOMIC_RELAXED); u += done) {
    int64_t tile = u / (int64_t)f->n_parts;
    size_t p = 0, part = (size_t)u % f->n_parts, from = prompt * part / f->n_parts, to = prompt * (part + 1) / f->n_parts;
    while (p + 1 < n && tile >= qi__tiles(products[p].w)) tile -= qi__tiles(products[p++].w);
    size_t n_tiles = f->n_parts > 1 ? 1 : (size_t)qi__min_i64(end - u, qi__tiles(products[p].w) - tile);
    if (to > from && gated) n_tiles = qi__gated_tiles(f, scratch, (size_t)tile, n_tiles, from, to - from);
    else if (to > from) n_tiles = qi__forward_tiles(f, scratch, &products[p], (size_t)tile, n_tiles, from, to - from, false);
    for (size_t last = p + gated; part == 0 && rows > prompt && p <= last; p++)
      for (size_t i = 0; i < n_tiles && !__atomic_load_n(f->cancel, __ATOMIC_RELAXED);)
        i += qi__forward_tiles(f, scratch, &products[p], (size_t)tile + i, n_tiles - i, prompt, rows - prompt, true);
    done = (int64_t)n_tiles;
  }
}

// ---- the state machine ----

typedef struct qi__op_info {
  void (*run)(qi__forward *f, int worker, int64_t begin, int64_t end);
  enum { QI__PER_ROW, QI__PER_HEAD, QI__PER_ATTENTION, QI__PER_TILE, QI__PER_WANTED } unit;
} qi__op_info;

static const qi__op_info qi__ops[QI__OP_DONE] = {
    {qi__run_embed, QI__PER_ROW},       {qi__run_attn_norm, QI__PER_ROW},      {qi__run_products, QI__PER_TILE},
    {qi__run_rope, QI__PER_HEAD},       {qi__run_attention, QI__PER_ATTENTION}, {qi__run_attn_input, QI__PER_ROW},
    {qi__run_products, QI__PER_TILE},   {qi__run_ffn_norm, QI__PER_ROW},       {qi__run_products, QI__PER_TILE},
    {qi__run_swiglu, QI__PER_ROW},      {qi__run_products, QI__PER_TILE},      {qi__run_output_norm, QI__PER_WANTED},
    {qi__run_products, QI__PER_TILE},
};

QI__FN int64_t qi__op_units(const qi__forward *f) {
  switch (qi__ops[f->op].unit) {
  case QI__PER_ROW: return (int64_t)f->n_rows;
  case QI__PER_HEAD: return (int64_t)(f->n_rows * f->h->n_kv_heads);
  case QI__PER_ATTENTION: return (int64_t)qi__attention_units(&f->attention);
  case QI__PER_TILE: return qi__product_units(f);
  case QI__PER_WANTED: return (int64_t)f->n_wanted;
  }
  return 0;
}

// How long rows are that this operation leaves in `in`.
QI__FN size_t qi__op_input_width(const qi__forward *f) {
  if (f->op == QI__OP_ATTENTION || f->op == QI__OP_ATTN_INPUT || f->op == QI__OP_ATTN_OUT) return f->h->n_heads * f->h->head_dim_v;
  if (f->op == QI__OP_SWIGLU || f->op == QI__OP_DOWN) return f->h->n_ff;
  return f->h->n_embd;
}

// Begins a chunk: rows, n_rows, n_prompt and logits_row are set.
QI__FN void qi__forward_start(qi__forward *f) {
  f->n_wanted = f->n_wanted_prompt = 0;
  for (size_t i = 0; i < f->n_rows; i++)
    if (f->rows[i].want_logits) {
      f->wanted[f->n_wanted++] = i;
      if (i < f->n_prompt) f->n_wanted_prompt++;
    }
  f->op = QI__OP_EMBED;
  f->layer = 0;
  f->unit = 0;
  f->n_parts = 1;
  memset(f->us_per_unit, 0, sizeof f->us_per_unit);
  if (f->on_device) return;
  qi__attention *a = &f->attention;
  a->h = f->h;
  a->kernels = f->kernels;
  a->kv = f->kv;
  a->cancel = f->cancel;
  a->rows = f->rows;
  a->n_rows = f->n_rows;
  a->n_prompt = f->n_prompt;
  a->q = f->q;
  a->out = f->in.x;
  qi__attention_plan(a, (size_t)f->pool->n_active);
}

QI__FN void qi__forward_next_op(qi__forward *f) {
  f->unit = 0;
  if (f->op == QI__OP_DOWN && f->layer + 1 < f->h->n_layers) {
    f->layer++;
    f->op = QI__OP_ATTN_NORM;
  } else {
    f->op = (qi__op)(f->op + 1);
  }
  if (f->op == QI__OP_ROPE && qi__rope_with_attention(f)) f->op = QI__OP_ATTENTION;
  if (f->op == QI__OP_OUTPUT_NORM && !f->n_wanted) f->op = QI__OP_DONE;
}

// Whether the rows that this operation prepares are turned, each 16 of them once they are there: see kernels/bf16.h.
QI__FN bool qi__forward_turns(const qi__forward *f) {
  const bool wanted = f->op == QI__OP_OUTPUT_NORM;
  if (!f->kernels->bf16.turn || f->op == QI__OP_EMBED || (!wanted && qi__ops[f->op].unit != QI__PER_ROW)) return false;
  size_t prompt = wanted ? f->n_wanted_prompt : f->n_prompt, rows = wanted ? f->n_wanted : f->n_rows;
  if (f->op == QI__OP_SWIGLU && qi__forward_gated(f)) prompt = 0, rows -= f->n_prompt;
  qi__product products[3];
  bool turns = false;
  for (size_t n = qi__products(f, (qi__op)(f->op + 1), products); n-- > 0;)
    turns |= (prompt > 0 && qi__arithmetic_of(f->kernels, products[n].w, f->path, false) == QI__BF16) ||
             (rows > prompt && qi__arithmetic_of(f->kernels, products[n].w, f->path, true) == QI__BF16);
  return turns;
}

typedef struct qi__task {
  qi__forward *f;
  int64_t first;
  bool turns;
} qi__task;

QI__FN void qi__forward_task(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__task *t = (const qi__task *)arg;
  if (__atomic_load_n(t->f->cancel, __ATOMIC_RELAXED)) return;
  qi__ops[t->f->op].run(t->f, worker, t->first + begin, t->first + end);
  if (t->turns) qi__inputs_turn(t->f->kernels, &t->f->in, (size_t)(t->first + begin), (size_t)(t->first + end), QI__NEED_BF16);
}

// The shortest piece of work that is measured takes a unit from each thread. In products with many rows of a prompt that may be
// long: rows are cut into parts where it took more than a quarter of the budget, and joined again where less than a tenth.
#define QI__PART_LEAST 16 // rows, from which on parts are not cut further

QI__FN size_t qi__product_prompt(const qi__forward *f) {
  if (qi__ops[f->op].unit != QI__PER_TILE) return 0;
  return f->op == QI__OP_OUTPUT ? f->n_wanted_prompt : f->n_prompt;
}

// At the beginning of an operation.
QI__FN void qi__forward_choose_parts(qi__forward *f, uint64_t deadline_us) {
  size_t rows = deadline_us ? f->part_rows[f->op] : 0, n = qi__product_prompt(f);
  f->n_parts = rows && n > rows ? (n + rows - 1) / rows : 1;
}

// At its end: `us` is what a unit from each thread took.
QI__FN void qi__forward_cut(qi__forward *f, double us, uint64_t budget_us) {
  size_t *rows = &f->part_rows[f->op], n = qi__product_prompt(f);
  if (!*rows || *rows > n) *rows = n;
  if (us * 4 > (double)budget_us && *rows >= 2 * QI__PART_LEAST) {
    *rows /= 2;
    f->us_per_unit[f->op] /= 2;
  } else if (us * 10 < (double)budget_us && *rows < n) {
    *rows *= 2;
    f->us_per_unit[f->op] *= 2;
  }
}

// Units to do before looking at the clock again: what fits into the time that is left, going by the last measurement.
QI__FN int64_t qi__forward_slab(const qi__forward *f, int64_t n_units, int64_t grain, uint64_t now, uint64_t deadline_us) {
  int64_t left = n_units - f->unit, least = f->pool->n_active * grain;
  if (!deadline_us) return left;
  double cost = f->us_per_unit[f->op], time = deadline_us > now ? (double)(deadline_us - now) : 0;
  if (cost <= 0 || time <= 0) return qi__min_i64(left, least);
  double fits = time / cost;
  return fits >= (double)left ? left : qi__min_i64(left, qi__max_i64(least, (int64_t)fits / grain * grain));
}

// Whether a slice ends here: the deadline has passed, or what comes next would end farther behind it than it is away now.
QI__FN bool qi__forward_is_late(const qi__forward *f, uint64_t now, uint64_t deadline_us) {
  double least = f->us_per_unit[f->op] * f->pool->n_active;
  return now >= deadline_us || least > 2 * (double)(deadline_us - now);
}

// Units of a piece. Small pieces balance threads that are not equally fast, and cost next to nothing as long as
// each takes its own; a few heads are not worth waking a thread.
QI__INLINE int64_t qi__forward_grain(const qi__forward *f, int64_t n_units, int64_t turned) {
  int64_t least = qi__ops[f->op].unit == QI__PER_HEAD ? 4 : 1;
  return qi__max_i64(least, n_units / (f->pool->n_active * 64 * turned)) * turned;
}

// Works until the chunk is done (QI_OK), about until the deadline (QI_AGAIN; 0 = none) or until *cancel is set (QI_ERR_CANCELLED).
QI__FN qi_result qi__forward_run(qi__forward *f, uint64_t deadline_us) {
  int n_threads = f->pool->n_active;
  uint64_t now = deadline_us ? qi__now_us() : 0, budget = deadline_us > now ? deadline_us - now : 0;
  while (f->op != QI__OP_DONE) {
    if (!f->unit) qi__forward_choose_parts(f, deadline_us);
    const bool turns = qi__forward_turns(f);
    const int64_t turned = turns ? 16 : 1, n_units = qi__op_units(f), slab = qi__forward_slab(f, n_units, turned, now, deadline_us);
    qi__inputs_set_width(&f->in, qi__op_input_width(f));
    if (f->observe && !f->unit) f->observe(f);
    qi__task task = {f, f->unit, turns};
    uint64_t start = now;
    qi__pool_run(f->pool, qi__forward_task, &task, slab, qi__forward_grain(f, slab, turned));
    if (__atomic_load_n(f->cancel, __ATOMIC_RELAXED)) return QI_ERR_CANCELLED;
    f->unit += slab;
    if (deadline_us) {
      now = qi__now_us();
      f->us_per_unit[f->op] = (double)(now - start) / (double)slab;
      if (f->unit == n_units) qi__forward_cut(f, f->us_per_unit[f->op] * n_threads, budget);
    }
    if (f->unit == n_units) qi__forward_next_op(f);
    if (deadline_us && f->op != QI__OP_DONE && qi__forward_is_late(f, now, deadline_us)) return QI_AGAIN;
  }
  return QI_OK;
}

#endif // QI__INFER_FORWARD_H
