// One operation after another, on random data: what Metal makes of it against the backend in plain C. Used by test_metal.c and by
// selftest.c, so nothing here needs a test library.
//
//   mt_place metal = {.backend = qi_metal()};
//   mt_case c;
//   mt_scene s;
//   if (mt_open(&metal, &err)) ...
//   for (size_t i = 0; mt_case_at(i, &c); i++) {
//     if (c.build && mt_run(&metal, &c, 1, MT_MEMORY, &s, &err) == QI_OK) look at s.out[0..s.n_out-1];
//     free(s.base);
//   }
//   mt_close(&metal);
#ifndef QINFER_TESTS_METAL_SCENES_H
#define QINFER_TESTS_METAL_SCENES_H

#include "../support/plain_backend.h"
#include "../support/random_model.h"

#define MT_MEMORY ((size_t)4 << 20)

struct mt_case;

// The memory of one operation. Offsets and contents are the same on every backend.
typedef struct mt_scene {
  char *base;
  size_t used, room;
  uint64_t seed;
  qi_op op;
  float *out; // [n_out] what the operation writes
  size_t n_out;
  char *pages; // [n_pages] keys and values that it writes; NULL = none
  size_t n_pages;
  bool failed; // no room, or a matrix could not be made
  double seconds;
} mt_scene;

// What an operation shall be like; fields that its kind does not have are 0.
typedef struct mt_case {
  char name[64];
  void (*build)(mt_scene *s, const struct mt_case *c);
  double bound; // differences from plain C, relative to the greatest result (or 1)
  qi_op_kind kind;
  qi_format format;
  size_t n_rows, n_cols, n;
  bool generated, add, bias, index, in_place;
  bool exact;  // the same bits
  bool poison; // a value is infinite: rows that see it are not compared
  bool repeat; // all rows of the matrix alike: for large ones, of which only the speed matters
  qi_kv_type kv_type;
  size_t dim_k, dim_v, n_heads, n_kv_heads, n_pairs, window;
  bool neighbours, q_norm, k_norm;
} mt_case;

// ---- memory ----

GW_FN void *mt_take(mt_scene *s, size_t size) {
  size_t at = s->used, step = (size + 63) / 64 * 64;
  if (step > s->room - at) {
    s->failed = true;
    at = step = 0;
  }
  s->used += step;
  return s->base + at;
}

GW_FN float *mt_take_floats(mt_scene *s, size_t n) {
  float *x = (float *)mt_take(s, n * sizeof *x);
  for (size_t i = 0; i < n && !s->failed; i++) x[i] = rm_uniform(&s->seed);
  return x;
}

GW_FN float *mt_take_out(mt_scene *s, size_t n) {
  s->n_out = n;
  return s->out = mt_take_floats(s, n);
}

// The least alignment that Metal takes of a format's rows.
GW_FN size_t mt_align(qi_format format) {
  switch (format) {
  case QI_FORMAT_F16:
  case QI_FORMAT_BF16: return 8;
  case QI_FORMAT_QINS8: return 4;
  case QI_FORMAT_Q4_0:
  case QI_FORMAT_Q8_0:
  case QI_FORMAT_Q6_K:
  case QI_FORMAT_TQ2_0: return 2;
  default: return 16;
  }
}

// distinct: rows that are quantised; the others are copies. `off`: not aligned better than it must be.
GW_FN qi_op_matrix mt_take_matrix(mt_scene *s, qi_format format, size_t n_rows, size_t n_cols, size_t distinct, bool bias,
                                  bool off) {
  size_t n = distinct * n_cols, bytes = qi_format_bytes(format, n), tail = (size_t)qi_format_get(format)->tail_bytes;
  size_t row_bytes = qi__row_bytes(format, n_cols);
  float *values = (float *)malloc(n * sizeof *values);
  char *data = (char *)mt_take(s, bytes + (n_rows - distinct) * row_bytes + 16) + (off ? mt_align(format) : 0);
  qi__bound bound;
  qi_op_matrix w;
  memset(&w, 0, sizeof w);
  s->failed |= !values || !bytes;
  if (s->failed) return w;
  for (size_t i = 0; i < n; i++) values[i] = rm_uniform(&s->seed);
  s->failed |= qi_quantize(format, values, data, n, n_cols, NULL, NULL) != QI_OK;
  s->failed |= qi__format_bind(&bound, format, (uint8_t *)data + bytes - tail, "matrix", NULL) != QI_OK;
  for (size_t r = distinct; r < n_rows; r++) memcpy(data + r * row_bytes, data, row_bytes); // over the tail, which is read
  free(values);
  if (s->failed) return w;
  w.format = format;
  w.data = data;
  w.n_rows = n_rows;
  w.n_cols = n_cols;
  w.row_bytes = row_bytes;
  w.param[0] = bound.format.param[0];
  w.param[1] = bound.format.param[1];
  w.bias = bias ? mt_take_floats(s, n_rows) : NULL;
  return w;
}

// ---- operations ----

GW_FN void mt_build_product(mt_scene *s, const mt_case *c) {
  s->op.kind = QI_OP_PRODUCT;
  s->op.n = c->n;
  s->op.of.product.w = mt_take_matrix(s, c->format, c->n_rows, c->n_cols, c->repeat ? 1 : c->n_rows, c->bias, c->add);
  s->op.of.product.x = mt_take_floats(s, c->n * c->n_cols);
  s->op.of.product.y = mt_take_out(s, c->n * c->n_rows);
  s->op.of.product.add = c->add;
  s->op.of.product.generated = c->generated;
}

GW_FN void mt_build_gated(mt_scene *s, const mt_case *c) {
  s->op.kind = QI_OP_GATED;
  s->op.n = c->n;
  s->op.of.gated.gate = mt_take_matrix(s, c->format, c->n_rows, c->n_cols, c->n_rows, c->bias, true);
  s->op.of.gated.up = mt_take_matrix(s, c->format, c->n_rows, c->n_cols, c->n_rows, !c->bias, false);
  s->op.of.gated.x = mt_take_floats(s, c->n * c->n_cols);
  s->op.of.gated.y = mt_take_out(s, c->n * c->n_rows);
  s->op.of.gated.relu2 = c->kind == QI_OP_RELU2;
}

GW_FN qi_op_row *mt_take_rows(mt_scene *s, size_t n) {
  qi_op_row *rows = (qi_op_row *)mt_take(s, n * sizeof *rows);
  for (size_t i = 0; i < n && !s->failed; i++) rows[i].token = (int32_t)(rm_next(&s->seed) % 20);
  return rows;
}

GW_FN void mt_build_embed(mt_scene *s, const mt_case *c) {
  s->op.kind = QI_OP_EMBED;
  s->op.n = 3;
  s->op.of.embed.rows = mt_take_rows(s, 3);
  s->op.of.embed.w = mt_take_matrix(s, c->format, 20, c->n_cols, 20, false, true);
  s->op.of.embed.y = mt_take_out(s, 3 * c->n_cols);
}

GW_FN void mt_build_norm(mt_scene *s, const mt_case *c) {
  uint32_t *index = (uint32_t *)mt_take(s, 3 * sizeof *index);
  for (uint32_t i = 0; i < 3; i++) index[i] = 2 * i + 1;
  float *x = c->in_place ? mt_take_out(s, 7 * c->n_cols) : mt_take_floats(s, 7 * c->n_cols);
  s->op.kind = QI_OP_RMS_NORM;
  s->op.n = c->index ? 3 : 7;
  s->op.of.norm.x = x;
  s->op.of.norm.index = c->index ? index : NULL;
  s->op.of.norm.weight = mt_take_floats(s, c->n_cols);
  s->op.of.norm.y = c->in_place ? x : mt_take_out(s, s->op.n * c->n_cols);
  s->op.of.norm.width = c->n_cols;
  s->op.of.norm.eps = 1e-5f;
}

GW_FN void mt_build_gate(mt_scene *s, const mt_case *c) {
  float *x = mt_take_floats(s, 3 * c->n_cols);
  for (size_t i = 0; i < 3 * c->n_cols; i++) x[i] *= i % 50 ? 8.0f : 200.0f; // exp that overflows, too
  s->op.kind = c->kind;
  s->op.n = 3;
  s->op.of.gate.width = c->n_cols;
  s->op.of.gate.x = x;
  s->op.of.gate.up = mt_take_floats(s, 3 * c->n_cols);
  s->op.of.gate.y = mt_take_out(s, 3 * c->n_cols);
}

// Logits of few values, most of them several times; one of three rows is NaN but for a few.
GW_FN void mt_build_top(mt_scene *s, const mt_case *c) {
  size_t n = c->n_cols;
  float *x = mt_take_floats(s, 3 * n);
  for (size_t i = 0; i < 3 * n && !s->failed; i++) {
    x[i] = (float)(rm_next(&s->seed) % (n / 2 + 3)) - (float)(n / 4);
    if (i % 7 == 0 && x[i] == 0) x[i] = -0.0f;
    if (i % 11 == 0) x[i] = i % 2 ? -INFINITY : INFINITY;
    if (i >= 2 * n && i % 5) x[i] = NAN;
  }
  s->op.kind = QI_OP_TOP;
  s->op.n = 3;
  s->op.of.top.x = x;
  s->op.of.top.width = n;
  s->op.of.top.k = c->n;
  s->op.of.top.y = (qi_op_candidate *)(void *)mt_take_out(s, 3 * c->n * 2);
}

// ---- keys and values ----

// Two layers, of which the second is looked at; two sequences of three pages each in mixed order; rows all over them.
enum { MT_PAGES = 7, MT_ROWS = 9 };
static const uint32_t mt_table[6] = {4, 0, 5, 1, 6, 2};
static const qi_op_row mt_rows[MT_ROWS] = {{0, 0, 300, 0}, {0, 1, 7, 0},  {0, 0, 127, 0}, {0, 1, 256, 0}, {0, 0, 0, 0},
                                           {0, 1, 100, 0}, {0, 1, 31, 0}, {0, 1, 32, 0},  {0, 0, 200, 0}};

GW_FN qi_op_kv mt_take_kv(mt_scene *s, const mt_case *c, bool out) {
  qi__kv_layout l = qi__kv_layout_of(c->kv_type, c->dim_k, c->dim_v);
  uint32_t *table = (uint32_t *)mt_take(s, sizeof mt_table);
  memcpy(table, mt_table, sizeof mt_table);
  size_t size = 2 * c->n_kv_heads * MT_PAGES * l.bytes;
  char *data = (char *)mt_take(s, size);
  if (out) s->pages = data, s->n_pages = size;
  qi_op_kv kv = {c->kv_type, data, table, 1, c->n_kv_heads, MT_PAGES, l.bytes, 3, c->dim_k, c->dim_v, l.k_scale, l.v, l.v_scale};
  return kv;
}

GW_FN uint8_t *mt_page(const qi_op_kv *kv, size_t head, size_t page) {
  return (uint8_t *)kv->data + ((kv->layer * kv->n_kv_heads + head) * MT_PAGES + page) * kv->page_bytes;
}

GW_FN void mt_build_rope(mt_scene *s, const mt_case *c) {
  qi_op_row *rows = mt_take_rows(s, MT_ROWS);
  memcpy(rows, mt_rows, sizeof mt_rows);
  size_t n_q = MT_ROWS * c->n_heads * c->dim_k, n_k = MT_ROWS * c->n_kv_heads * c->dim_k;
  s->op.kind = QI_OP_ROPE;
  s->op.n = MT_ROWS;
  s->op.of.rope.rows = rows;
  s->op.of.rope.cos_sin = mt_take_floats(s, MT_ROWS * 2 * c->n_pairs);
  s->op.of.rope.q_norm = c->q_norm ? mt_take_floats(s, c->dim_k) : NULL;
  s->op.of.rope.k_norm = c->k_norm ? mt_take_floats(s, c->dim_k) : NULL;
  s->op.of.rope.v = mt_take_floats(s, MT_ROWS * c->n_kv_heads * c->dim_v);
  s->op.of.rope.q = mt_take_out(s, n_q);
  s->op.of.rope.k = mt_take_floats(s, n_k);
  s->n_out = (size_t)(s->op.of.rope.k + n_k - s->op.of.rope.q); // and what lies between
  s->op.of.rope.kv = mt_take_kv(s, c, true);
  s->op.of.rope.n_heads = c->n_heads;
  s->op.of.rope.n_pairs = c->n_pairs;
  s->op.of.rope.eps = 1e-6f;
  s->op.of.rope.neighbours = c->neighbours;
}

// Element i of what a run stored of row `row`.
GW_FN float mt_stored(const mt_scene *s, bool key, size_t row, size_t head, size_t i) {
  qi_op_kv kv = s->op.of.rope.kv;
  size_t page = mt_table[mt_rows[row].seq * 3 + mt_rows[row].pos / 128], p = mt_rows[row].pos % 128;
  kv.data = s->pages;
  return key ? pb_key(&kv, mt_page(&kv, head, page), p, i) : pb_value(&kv, mt_page(&kv, head, page), p, i);
}

// The value of a position, and its key if asked, become `bits`: a half (or scale) that is no finite number.
GW_FN void mt_spoil(const qi_op_kv *kv, size_t seq, size_t pos, bool key, uint16_t bits) {
  bool f16 = kv->type == QI_KV_F16;
  size_t p = pos % 128, step = f16 ? 1 : 32;
  for (size_t head = 0; head < kv->n_kv_heads; head++) {
    uint8_t *page = mt_page(kv, head, mt_table[seq * 3 + pos / 128]);
    uint16_t *k = (uint16_t *)(void *)(page + (f16 ? 0 : kv->k_scale));
    uint16_t *v = (uint16_t *)(void *)(page + (f16 ? kv->v : kv->v_scale));
    for (size_t i = 0; key && i < kv->dim_k; i += step) k[f16 ? pb_key_at(kv, p, i) : pb_key_scale_at(kv, p, i)] = bits;
    for (size_t i = 0; i < kv->dim_v; i += step) v[f16 ? pb_value_at(kv, p, i) : pb_value_scale_at(p, i)] = bits;
  }
}

GW_FN void mt_build_attention(mt_scene *s, const mt_case *c) {
  qi_op_row *rows = mt_take_rows(s, MT_ROWS);
  size_t n_q = MT_ROWS * c->n_heads * c->dim_k;
  qi_op_kv kv = mt_take_kv(s, c, false);
  float k[256], v[256];
  for (size_t page = 0; page < MT_PAGES && !s->failed; page++)
    for (size_t p = 0; p < 128; p++)
      for (size_t head = 0; head < c->n_kv_heads; head++) {
        for (size_t i = 0; i < c->dim_k; i++) k[i] = rm_uniform(&s->seed);
        for (size_t i = 0; i < c->dim_v; i++) v[i] = rm_uniform(&s->seed);
        pb_store(&kv, mt_page(&kv, head, page), p, k, v);
      }
  for (size_t pos = 257; pos < 384 && !s->failed; pos++) { // nothing was stored there yet
    mt_spoil(&kv, 1, pos, true, 0x7e00);
    if (pos > 300) mt_spoil(&kv, 0, pos, true, 0x7e00);
  }
  if (c->poison && !s->failed) mt_spoil(&kv, 1, 5, false, 0x7c00);
  float *q = mt_take_floats(s, n_q);
  for (size_t i = 0; i < n_q; i++) q[i] *= 4; // attention that prefers
  for (size_t i = 0; i < MT_ROWS; i++) {
    rows[i] = mt_rows[i];
    if (c->window && rows[i].pos >= c->window) rows[i].first = (uint32_t)(rows[i].pos + 1 - c->window);
  }
  s->op.kind = QI_OP_ATTENTION;
  s->op.n = MT_ROWS;
  s->op.of.attention.rows = rows;
  s->op.of.attention.q = q;
  s->op.of.attention.kv = kv;
  s->op.of.attention.n_heads = c->n_heads;
  s->op.of.attention.generated = c->generated;
  s->op.of.attention.y = mt_take_out(s, MT_ROWS * c->n_heads * c->dim_v);
}

// ---- cases ----

static const qi_format mt_formats[] = {
    QI_FORMAT_F32,  QI_FORMAT_F16,   QI_FORMAT_BF16, QI_FORMAT_Q4_0,  QI_FORMAT_Q8_0,    QI_FORMAT_Q4_K,    QI_FORMAT_Q5_K,
    QI_FORMAT_Q6_K, QI_FORMAT_TQ2_0, QI_FORMAT_I2_S, QI_FORMAT_QINS8, QI_FORMAT_QINS8_K, QI_FORMAT_QINS4_K,
};
#define MT_FORMATS (sizeof mt_formats / sizeof mt_formats[0])

// Rows and columns around the sizes of tiles; columns that are no multiple of 16, for formats without blocks.
static const mt_case mt_products[] = {
    {.n_rows = 37, .n_cols = 512, .n = 1, .generated = true},
    {.n_rows = 8, .n_cols = 768, .n = 6, .generated = true, .add = true, .bias = true},
    {.n_rows = 65, .n_cols = 256, .n = 33, .add = true},
    {.n_rows = 130, .n_cols = 256, .n = 2, .bias = true},
    {.n_rows = 1, .n_cols = 172, .n = 3, .generated = true, .bias = true},
    {.n_rows = 66, .n_cols = 20, .n = 5},
    {.build = mt_build_gated, .n_rows = 9, .n_cols = 512, .n = 1, .generated = true, .bias = true},
    {.build = mt_build_gated, .kind = QI_OP_RELU2, .n_rows = 6, .n_cols = 768, .n = 5, .generated = true},
    {.build = mt_build_gated, .n_rows = 3, .n_cols = 44, .n = 2, .generated = true},
};
#define MT_PRODUCTS (sizeof mt_products / sizeof mt_products[0])

static const mt_case mt_vectors[] = {
    {.name = "norm of 4", .build = mt_build_norm, .bound = 1e-5, .n_cols = 4},
    {.name = "norm of 1000, some rows", .build = mt_build_norm, .bound = 1e-5, .n_cols = 1000, .index = true},
    {.name = "norm of 64 in place", .build = mt_build_norm, .bound = 1e-5, .n_cols = 64, .in_place = true},
    {.name = "norm of 257", .build = mt_build_norm, .bound = 1e-5, .n_cols = 257},
    {.name = "SwiGLU", .build = mt_build_gate, .bound = 1e-6, .kind = QI_OP_SWIGLU, .n_cols = 333},
    {.name = "ReLU2", .build = mt_build_gate, .bound = 1e-6, .kind = QI_OP_RELU2, .n_cols = 333},
    {.name = "the first of 5000", .build = mt_build_top, .n_cols = 5000, .n = 1, .exact = true},
    {.name = "the first 41 of 2000", .build = mt_build_top, .n_cols = 2000, .n = 41, .exact = true},
    {.name = "the first 128 of 128", .build = mt_build_top, .n_cols = 128, .n = 128, .exact = true},
    {.name = "the first 7 of 20", .build = mt_build_top, .n_cols = 20, .n = 7, .exact = true},
};
#define MT_VECTORS (sizeof mt_vectors / sizeof mt_vectors[0])

static const mt_case mt_heads[] = {
    {.kv_type = QI_KV_F16, .dim_k = 16, .dim_v = 16, .n_heads = 2, .n_kv_heads = 2, .n_pairs = 8, .neighbours = true},
    {.kv_type = QI_KV_F16, .dim_k = 80, .dim_v = 48, .n_heads = 4, .n_kv_heads = 2, .n_pairs = 20, .q_norm = true, .k_norm = true,
     .window = 100},
    {.kv_type = QI_KV_F16, .dim_k = 128, .dim_v = 100, .n_heads = 8, .n_kv_heads = 2, .n_pairs = 64, .q_norm = true},
    {.kv_type = QI_KV_F16, .dim_k = 256, .dim_v = 256, .n_heads = 4, .n_kv_heads = 1, .n_pairs = 64, .k_norm = true,
     .neighbours = true},
    {.kv_type = QI_KV_Q8, .dim_k = 16, .dim_v = 20, .n_heads = 2, .n_kv_heads = 1, .n_pairs = 8, .neighbours = true},
    {.kv_type = QI_KV_Q8, .dim_k = 80, .dim_v = 96, .n_heads = 4, .n_kv_heads = 4, .n_pairs = 40, .q_norm = true, .k_norm = true,
     .window = 33},
    {.kv_type = QI_KV_Q8, .dim_k = 128, .dim_v = 128, .n_heads = 4, .n_kv_heads = 1, .n_pairs = 64},
    {.kv_type = QI_KV_F16, .dim_k = 20, .dim_v = 12, .n_heads = 10, .n_kv_heads = 2, .n_pairs = 10, .poison = true},
    {.kv_type = QI_KV_Q8, .dim_k = 64, .dim_v = 36, .n_heads = 5, .n_kv_heads = 1, .n_pairs = 32, .poison = true},
    {.kv_type = QI_KV_Q8, .dim_k = 256, .dim_v = 160, .n_heads = 2, .n_kv_heads = 1, .n_pairs = 32, .window = 20},
};
#define MT_HEADS (sizeof mt_heads / sizeof mt_heads[0])

// Case i; false behind the last one. Cases that a format cannot have are left out: they have no build.
GW_FN bool mt_case_at(size_t i, mt_case *c) {
  size_t part = MT_FORMATS * MT_PRODUCTS;
  if (i < part) {
    *c = mt_products[i % MT_PRODUCTS];
    c->format = mt_formats[i / MT_PRODUCTS];
    const qi_format_info *info = qi_format_get(c->format);
    snprintf(c->name, sizeof c->name, "%s [%d, %d] of %s by %d %s", c->build ? "gate and up" : "product", (int)c->n_rows,
             (int)c->n_cols, info->name, (int)c->n, c->generated ? "generated" : "of a prompt");
    if (!c->build) c->build = mt_build_product;
    if (c->n_cols % (size_t)info->block_len) c->build = NULL;
    c->bound = 1e-5;
    return true;
  }
  i -= part;
  if (i < MT_FORMATS) {
    memset(c, 0, sizeof *c);
    c->format = mt_formats[i];
    c->n_cols = c->format <= QI_FORMAT_BF16 ? 1036 : 1280;
    c->build = mt_build_embed;
    c->bound = 1e-6;
    snprintf(c->name, sizeof c->name, "embeddings of %s", qi_format_get(c->format)->name);
    return true;
  }
  i -= MT_FORMATS;
  if (i < MT_VECTORS) {
    *c = mt_vectors[i];
    return true;
  }
  i -= MT_VECTORS;
  if (i >= 3 * MT_HEADS) return false;
  static const char *const kinds[] = {"rotation", "attention of generated rows", "attention of a prompt"};
  *c = mt_heads[i / 3];
  c->build = i % 3 ? mt_build_attention : mt_build_rope;
  c->generated = i % 3 == 1;
  c->bound = 1e-5;
  snprintf(c->name, sizeof c->name, "%s, heads of %d and %d in %s", kinds[i % 3], (int)c->dim_k, (int)c->dim_v,
           qi_kv_type_name(c->kv_type));
  return true;
}

// ---- running ----

typedef struct mt_place {
  const qi_backend *backend;
  void *device;
} mt_place;

GW_FN qi_result mt_open(mt_place *p, qi_error *err) {
  qi_allocator allocator;
  qi_result r = qi__allocator_resolve(NULL, &allocator, err);
  return r ? r : p->backend->open(p->backend->user, &allocator, &p->device, err);
}
GW_FN void mt_close(mt_place *p) {
  if (p->device) p->backend->close(p->device);
  p->device = NULL;
}

// The operation, `times` in one submission, in memory of a queue.
GW_FN qi_result mt_submit(const mt_place *p, void *queue, const mt_case *c, int times, mt_scene *s, qi_error *err) {
  memset(s->base, 0, s->room);
  c->build(s, c);
  if (s->failed) return qi__fail(err, QI_ERR_LIMIT, "%s: the case could not be made", c->name);
  if (!p->backend->supports(p->device, &s->op)) return qi__fail(err, QI_ERR_UNSUPPORTED, "%s: not supported", c->name);
  qi_op *ops = (qi_op *)malloc((size_t)times * sizeof *ops);
  if (!ops) return qi__fail_oom(err, c->name, 0);
  for (int i = 0; i < times; i++) ops[i] = s->op;
  uint64_t start = qi__now_us();
  qi_result r = p->backend->submit(queue, ops, (size_t)times, err), waited = p->backend->wait(queue, r ? NULL : err);
  s->seconds = (double)(qi__now_us() - start) * 1e-6 / times;
  free(ops);
  return r ? r : waited;
}

// Runs a case; what is left of its memory is in *s (s->base: malloc), also the time that it took.
GW_FN qi_result mt_run(const mt_place *p, const mt_case *c, int times, size_t room, mt_scene *s, qi_error *err) {
  void *queue = NULL;
  char *copy = (char *)malloc(room), *base = NULL;
  memset(s, 0, sizeof *s);
  s->seed = 5;
  s->room = room;
  qi_result r = copy ? p->backend->queue_open(p->device, &queue, err) : qi__fail_oom(err, c->name, room);
  if (!r && !(base = s->base = (char *)p->backend->alloc(queue, room))) r = qi__fail_oom(err, c->name, room);
  if (!r) r = mt_submit(p, queue, c, times, s, err);
  if (!r) {
    memcpy(copy, base, room);
    s->out = (float *)(void *)(copy + ((char *)s->out - base));
    if (s->pages) s->pages = copy + (s->pages - base);
  }
  s->base = copy;
  if (base) p->backend->free(queue, base, room);
  if (queue) p->backend->queue_close(queue);
  return r;
}

// The greatest difference between results, relative to the greatest of them or 1; what they stored counts with its own step.
GW_FN double mt_difference(const mt_scene *want, const mt_scene *got, const mt_case *c) {
  double max = 1, most = 0;
  if (c->exact) return memcmp(want->out, got->out, want->n_out * sizeof *want->out) ? 1e30 : 0;
  for (size_t i = 0; i < want->n_out; i++)
    if (isfinite(want->out[i])) max = fmax(max, fabs((double)want->out[i]));
  for (size_t i = 0; i < want->n_out; i++) {
    if (c->poison && !isfinite(want->out[i])) continue;
    double d = fabs((double)got->out[i] - (double)want->out[i]) / max;
    if (!(d <= most)) most = d < 1e30 ? d : 1e30; // NaN too
  }
  for (size_t row = 0; want->pages && row < MT_ROWS; row++)
    for (size_t head = 0; head < c->n_kv_heads; head++)
      for (size_t i = 0; i < c->dim_k + c->dim_v; i++) {
        bool key = i < c->dim_k;
        double a = (double)mt_stored(want, key, row, head, key ? i : i - c->dim_k);
        double b = (double)mt_stored(got, key, row, head, key ? i : i - c->dim_k);
        double step = c->kv_type == QI_KV_Q8 ? 0.02 : fabs(a) / 1000 + 1e-6; // may be rounded to the other side
        if (!(fabs(a - b) <= step)) most = 1e30;
      }
  return most;
}

#endif // QINFER_TESTS_METAL_SCENES_H
