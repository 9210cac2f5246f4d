// ==== >>backend : the forward pass as lists of operations for a device ====
#ifndef QI__INFER_BACKEND_H
#define QI__INFER_BACKEND_H

#include "../model/model.h"
#include "forward.h"
#include "sampler.h"

// The state machine of forward.h says which operation comes next; here each becomes one or a few for the device, and layers are
// submitted together. Between submissions the pass can stop: cancelled, or because its time is over. A submission takes about
// QI__DEVICE_SLICE_US, so cancelling takes no longer.
#define QI__DEVICE_SLICE_US 10000
#define QI__LAYER_OPS 32 // more than any layer takes, with embeddings before it and logits behind it
#define QI__MAP_GAP 65536 // weights this close are mapped together

typedef struct qi__device_pass {
  const qi_backend *backend; // NULL = none
  void *queue;
  qi_op_row *rows;     // [n_batch] of the chunk
  uint32_t *index;     // [n_batch] its rows whose logits are wanted
  qi_op *ops;          // [n_layers * QI__LAYER_OPS]
  size_t n_ops;
  qi_op_candidate *top; // [n_logits, n_top], room for QI__TOP_MAX
  size_t n_top;        // candidates of each row of logits; 0 = none are looked for
  bool has_top, has_gated; // the device can (QI_OP_TOP, QI_OP_GATED)
  size_t n_rows;       // of the chunk that us_per_layer was measured with
  double us_per_layer; // 0 = not known
} qi__device_pass;

// ---- queue and memory ----

QI__FN qi_result qi__device_open(qi__device_pass *d, const qi_backend *backend, void *device, qi_error *err) {
  qi_result r = backend->queue_open(device, &d->queue, err);
  if (!r) d->backend = backend;
  return r;
}

QI__FN void qi__device_close(qi__device_pass *d) {
  if (d->backend) d->backend->queue_close(d->queue);
  d->backend = NULL;
}

// As qi_allocator's; user: qi__device_pass.
static void *qi__device_alloc(size_t size, size_t align, void *user) {
  const qi__device_pass *d = (const qi__device_pass *)user;
  (void)align; // at most QI__CACHE_LINE: what the backend gives
  return d->backend->alloc(d->queue, size);
}
static void qi__device_free(void *ptr, size_t size, void *user) {
  const qi__device_pass *d = (const qi__device_pass *)user;
  d->backend->free(d->queue, ptr, size);
}

QI__FN void qi__device_layout(qi__device_pass *d, qi__arena *arena, const qi__hparams *h, size_t n_batch, size_t n_logits) {
  d->rows = QI__ARENA_ARRAY(arena, qi_op_row, n_batch);
  d->index = QI__ARENA_ARRAY(arena, uint32_t, n_batch);
  d->ops = QI__ARENA_ARRAY(arena, qi_op, h->n_layers * QI__LAYER_OPS);
  d->top = QI__ARENA_ARRAY(arena, qi_op_candidate, n_logits * QI__TOP_MAX);
}

// ---- operations ----

QI__FN qi_op *qi__device_op(qi__device_pass *d, qi_op_kind kind, size_t n) {
  qi_op *op = &d->ops[d->n_ops++];
  memset(op, 0, sizeof *op);
  op->kind = kind;
  op->n = n;
  return op;
}

QI__FN qi_op_matrix qi__op_matrix(const qi__weight *w) {
  qi_op_matrix m = {w->id, w->data, w->n_rows, w->n_cols, w->row_bytes, {w->format->param[0], w->format->param[1]}, w->bias};
  return m;
}

QI__FN qi_op_kv qi__op_kv(const qi__forward *f) {
  const qi__kv *kv = f->kv;
  const qi__kv_layout *l = &kv->head;
  qi_op_kv out = {l->type, kv->data, kv->table, f->layer, kv->n_kv_heads, kv->n_pages, l->bytes, kv->n_table,
                  l->dim_k, l->dim_v, l->k_scale, l->v, l->v_scale};
  return out;
}

QI__FN void qi__encode_norm(qi__device_pass *d, const qi__forward *f, size_t n, const float *x, const uint32_t *index, size_t width,
                            const float *weight, float *y) {
  if (!weight) return;
  qi_op *op = qi__device_op(d, QI_OP_RMS_NORM, n);
  op->of.norm.x = x;
  op->of.norm.index = index;
  op->of.norm.weight = weight;
  op->of.norm.y = y;
  op->of.norm.width = width;
  op->of.norm.eps = f->h->rms_norm_eps;
}

// x from element n on; NULL stays NULL, while operations are only asked about.
QI__INLINE float *qi__from(float *x, size_t n) { return x ? x + n : NULL; }

// The products of the operation with the first `rows` of x: rows of prompts, then generated ones.
QI__FN void qi__encode_products(qi__device_pass *d, const qi__forward *f, float *x, size_t rows) {
  qi__product products[3];
  size_t n = qi__products(f, f->op, products), prompt = f->op == QI__OP_OUTPUT ? f->n_wanted_prompt : f->n_prompt;
  for (size_t i = 0; i < 2 * n; i++) {
    const qi__product *p = &products[i / 2];
    bool generated = i % 2;
    size_t first = generated ? prompt : 0, count = generated ? rows - prompt : prompt;
    if (!count) continue;
    qi_op *op = qi__device_op(d, QI_OP_PRODUCT, count);
    op->of.product.w = qi__op_matrix(p->w);
    op->of.product.x = qi__from(x, first * p->w->n_cols);
    op->of.product.y = qi__from(p->y, first * p->w->n_rows);
    op->of.product.add = p->add;
    op->of.product.generated = generated;
  }
}

QI__FN void qi__encode_embed(qi__device_pass *d, const qi__forward *f) {
  qi_op *op = qi__device_op(d, QI_OP_EMBED, f->n_rows);
  op->of.embed.w = qi__op_matrix(&f->w->embedding);
  op->of.embed.rows = d->rows;
  op->of.embed.y = f->x;
}

QI__FN void qi__encode_rope(qi__device_pass *d, const qi__forward *f) {
  const qi__layer *l = &f->w->layers[f->layer];
  qi_op *op = qi__device_op(d, QI_OP_ROPE, f->n_rows);
  op->of.rope.rows = d->rows;
  op->of.rope.cos_sin = f->cos_sin;
  op->of.rope.q_norm = l->q_norm;
  op->of.rope.k_norm = l->k_norm;
  op->of.rope.q = f->q;
  op->of.rope.k = f->k;
  op->of.rope.v = f->v;
  op->of.rope.kv = qi__op_kv(f);
  op->of.rope.n_heads = f->h->n_heads;
  op->of.rope.n_pairs = f->h->n_rot / 2;
  op->of.rope.eps = f->h->rms_norm_eps;
  op->of.rope.neighbours = (f->h->arch->features & QI__ROPE_NEIGHBOURS) != 0;
}

// Rows of prompts, then generated ones.
QI__FN void qi__encode_attention(qi__device_pass *d, const qi__forward *f) {
  size_t n_heads = f->h->n_heads;
  for (int generated = 0; generated < 2; generated++) {
    size_t first = generated ? f->n_prompt : 0, n = generated ? f->n_rows - f->n_prompt : f->n_prompt;
    if (!n) continue;
    qi_op *op = qi__device_op(d, QI_OP_ATTENTION, n);
    op->of.attention.rows = d->rows ? d->rows + first : NULL;
    op->of.attention.q = qi__from(f->q, first * n_heads * f->h->head_dim_k);
    op->of.attention.y = qi__from(f->in.x, first * n_heads * f->h->head_dim_v);
    op->of.attention.kv = qi__op_kv(f);
    op->of.attention.n_heads = n_heads;
    op->of.attention.generated = generated;
  }
}

// Gate and up of the generated rows, and what becomes of them.
QI__FN void qi__encode_gated(qi__device_pass *d, const qi__forward *f) {
  const qi__layer *l = &f->w->layers[f->layer];
  if (f->n_rows == f->n_prompt) return;
  qi_op *op = qi__device_op(d, QI_OP_GATED, f->n_rows - f->n_prompt);
  op->of.gated.gate = qi__op_matrix(&l->gate);
  op->of.gated.up = qi__op_matrix(&l->up);
  op->of.gated.x = qi__from(f->in.x, f->n_prompt * l->gate.n_cols);
  op->of.gated.y = qi__from(f->gate, f->n_prompt * l->gate.n_rows);
  op->of.gated.relu2 = (f->h->arch->features & QI__RELU2) != 0;
}

// The input of the last product of a layer goes over `gate`: while it is made in one, the next rows still read theirs in `in`.
QI__FN void qi__encode_gate(qi__device_pass *d, const qi__forward *f, size_t n) {
  if (!n) return;
  qi_op *op = qi__device_op(d, f->h->arch->features & QI__RELU2 ? QI_OP_RELU2 : QI_OP_SWIGLU, n);
  op->of.gate.x = f->gate;
  op->of.gate.up = f->up;
  op->of.gate.y = f->gate;
  op->of.gate.width = f->h->n_ff;
}

QI__FN void qi__encode_top(qi__device_pass *d, const qi__forward *f, size_t n, size_t k) {
  qi_op *op = qi__device_op(d, QI_OP_TOP, n);
  op->of.top.x = qi__from(f->logits, f->logits_row * f->h->n_vocab);
  op->of.top.y = d->top ? d->top + f->logits_row * k : NULL;
  op->of.top.width = f->h->n_vocab;
  op->of.top.k = k;
}

// The current operation of the pass.
QI__FN void qi__encode_op(qi__device_pass *d, const qi__forward *f) {
  const qi__layer *l = &f->w->layers[f->layer];
  size_t n_embd = f->h->n_embd, n_attn = f->h->n_heads * f->h->head_dim_v, n = f->n_rows, n_ff = f->h->n_ff;
  size_t n_ungated = d->has_gated ? f->n_prompt : n; // rows whose gate and up are products of their own
  float *x = f->in.x;
  switch (f->op) {
  case QI__OP_EMBED: qi__encode_embed(d, f); break;
  case QI__OP_ATTN_NORM: qi__encode_norm(d, f, n, f->x, NULL, n_embd, l->attn_norm, x); break;
  case QI__OP_ROPE: qi__encode_rope(d, f); break;
  case QI__OP_ATTENTION: qi__encode_attention(d, f); break;
  case QI__OP_ATTN_INPUT: qi__encode_norm(d, f, n, x, NULL, n_attn, l->attn_sub_norm, x); break;
  case QI__OP_FFN_NORM: qi__encode_norm(d, f, n, f->x, NULL, n_embd, l->ffn_norm, x); break;
  case QI__OP_QKV:
  case QI__OP_ATTN_OUT: qi__encode_products(d, f, x, n); break;
  case QI__OP_GATE_UP:
    qi__encode_products(d, f, x, n_ungated);
    if (d->has_gated) qi__encode_gated(d, f);
    break;
  case QI__OP_SWIGLU:
    qi__encode_gate(d, f, n_ungated);
    qi__encode_norm(d, f, n, f->gate, NULL, n_ff, l->ffn_sub_norm, f->gate);
    break;
  case QI__OP_DOWN: qi__encode_products(d, f, f->gate, n); break;
  case QI__OP_OUTPUT_NORM: qi__encode_norm(d, f, f->n_wanted, f->x, d->index, n_embd, f->w->output_norm, x); break;
  case QI__OP_OUTPUT:
    qi__encode_products(d, f, x, f->n_wanted);
    if (d->n_top) qi__encode_top(d, f, f->n_wanted, d->n_top);
    break;
  case QI__OP_DONE: break;
  }
}

// What remains of the pass, up to the end of n_layers layers; the last one takes the logits with it. Returns the layers.
QI__FN size_t qi__encode_layers(qi__device_pass *d, qi__forward *f, size_t n_layers) {
  size_t n = 0;
  d->n_ops = 0;
  while (f->op != QI__OP_DONE && n < n_layers) {
    qi__encode_op(d, f);
    qi__op op = f->op;
    qi__forward_next_op(f);
    n += f->op == QI__OP_DONE || (op == QI__OP_DOWN && f->op == QI__OP_ATTN_NORM);
  }
  return n;
}

// ---- the pass ----

// What the device reads of the chunk's rows.
QI__FN void qi__device_begin(qi__device_pass *d, qi__forward *f) {
  for (size_t i = 0; i < f->n_rows; i++) {
    const qi__row *r = &f->rows[i];
    qi_op_row row = {r->token, (uint32_t)r->seq, (uint32_t)r->pos, (uint32_t)qi__kv_sees_from(f->kv, r->pos)};
    d->rows[i] = row;
    qi__row_angles(f, i);
  }
  for (size_t i = 0; i < f->n_wanted; i++) d->index[i] = (uint32_t)f->wanted[i];
  if (d->n_rows != f->n_rows) d->us_per_layer = 0;
  d->n_rows = f->n_rows;
}

// Layers for the next submission: what fits into a slice and into the time that is left, and at least one.
QI__FN size_t qi__device_slab(const qi__device_pass *d, const qi__forward *f, uint64_t deadline_us) {
  uint64_t now = deadline_us ? qi__now_us() : 0, left = deadline_us > now ? deadline_us - now : 0;
  double time = deadline_us && left < QI__DEVICE_SLICE_US ? (double)left : QI__DEVICE_SLICE_US;
  double fits = d->us_per_layer > 0 ? time / d->us_per_layer : 1;
  if (fits < 1) return 1;
  return fits < (double)f->h->n_layers ? (size_t)fits : f->h->n_layers;
}

// As qi__forward_run; other errors are the device's. Nothing is under way when it returns.
QI__FN qi_result qi__device_run(qi__device_pass *d, qi__forward *f, uint64_t deadline_us, qi_error *err) {
  if (f->op == QI__OP_EMBED) qi__device_begin(d, f);
  while (f->op != QI__OP_DONE) {
    if (__atomic_load_n(f->cancel, __ATOMIC_RELAXED)) return QI_ERR_CANCELLED;
    size_t n = qi__encode_layers(d, f, qi__device_slab(d, f, deadline_us));
    uint64_t start = qi__now_us();
    qi_result r = d->backend->submit(d->queue, d->ops, d->n_ops, err), waited = d->backend->wait(d->queue, r ? NULL : err);
    if (!r) r = waited;
    if (r) return r;
    uint64_t now = qi__now_us();
    d->us_per_layer = (double)(now - start + 1) / (double)n;
    if (deadline_us && now >= deadline_us && f->op != QI__OP_DONE) return QI_AGAIN;
  }
  return __atomic_load_n(f->cancel, __ATOMIC_RELAXED) ? QI_ERR_CANCELLED : QI_OK;
}

// ---- models ----

QI__FN qi_result qi__backend_refuse(const qi_backend *backend, const qi_op *op, qi_kv_type kv_type, qi_error *err) {
  static const char *const names[QI_OP_RELU2 + 1] = {"embeddings", "norms",  "products", "rotations",
                                                      "attention",  "SwiGLU", "ReLU2"}; // others may be refused
  if (op->kind == QI_OP_EMBED || op->kind == QI_OP_PRODUCT) {
    const qi_op_matrix *w = op->kind == QI_OP_EMBED ? &op->of.embed.w : &op->of.product.w;
    return qi__fail(err, QI_ERR_UNSUPPORTED, "backend %s: no %s of [%zu, %zu] weights in %s", backend->name, names[op->kind],
                    w->n_rows, w->n_cols, qi__formats[w->format].info.name);
  }
  if (op->kind == QI_OP_ROPE || op->kind == QI_OP_ATTENTION)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "backend %s: no %s with heads of %zu, keys and values in %s", backend->name,
                    names[op->kind], op->of.rope.kv.dim_k, qi_kv_type_name(kv_type));
  return qi__fail(err, QI_ERR_UNSUPPORTED, "backend %s: no %s of this model's shape", backend->name, names[op->kind]);
}

// Whether a device computes all operations of a model, of prompts and of generated tokens.
QI__FN qi_result qi__backend_check(const qi_backend *backend, const void *device, const qi__hparams *h, const qi__weights *w,
                                   qi_kv_type kv_type, qi_error *err) {
  static const struct {
    size_t n_rows, n_prompt;
  } steps[] = {{64, 64}, {64, 0}, {2, 0}, {1, 0}}; // few rows, or one, may have kernels of their own
  qi_op ops[QI__LAYER_OPS];
  qi__device_pass d;
  qi__forward f;
  qi__kv kv;
  float logits;
  memset(&d, 0, sizeof d);
  memset(&f, 0, sizeof f);
  memset(&kv, 0, sizeof kv);
  d.ops = ops;
  kv.head = qi__kv_layout_of(kv_type, h->head_dim_k, h->head_dim_v);
  kv.n_kv_heads = h->n_kv_heads;
  f.h = h;
  f.w = w;
  f.kv = &kv;
  f.logits = &logits;
  f.on_device = true;
  for (size_t step = 0; step < QI__COUNT_OF(steps); step++) {
    f.n_rows = f.n_wanted = steps[step].n_rows;
    f.n_prompt = f.n_wanted_prompt = steps[step].n_prompt;
    f.op = QI__OP_EMBED;
    f.layer = 0;
    while (f.op != QI__OP_DONE) {
      qi__encode_layers(&d, &f, 1);
      for (size_t i = 0; i < d.n_ops; i++)
        if (!backend->supports(device, &ops[i])) return qi__backend_refuse(backend, &ops[i], kv_type, err);
    }
  }
  return QI_OK;
}

// What a device can beyond that, for all layers.
QI__FN void qi__device_look(qi__device_pass *p, const void *device, const qi__hparams *h, const qi__weights *w) {
  static const size_t n_rows[] = {64, 2, 1};
  qi_op op;
  qi__device_pass d;
  qi__forward f;
  memset(&d, 0, sizeof d);
  memset(&f, 0, sizeof f);
  d.ops = &op;
  f.h = h;
  f.w = w;
  qi__encode_top(&d, &f, 1, qi__min_size(QI__TOP_MAX, h->n_vocab));
  p->has_top = p->backend->supports(device, &op);
  p->has_gated = true;
  for (f.layer = 0; f.layer < h->n_layers && p->has_gated; f.layer++) {
    const qi__weight *gate = &w->layers[f.layer].gate, *up = &w->layers[f.layer].up;
    p->has_gated = gate->id == up->id && gate->n_rows == up->n_rows && gate->n_cols == up->n_cols;
    for (size_t i = 0; i < QI__COUNT_OF(n_rows) && p->has_gated; i++) {
      f.n_rows = n_rows[i];
      d.n_ops = 0;
      qi__encode_gated(&d, &f);
      p->has_gated = p->backend->supports(device, &op);
    }
  }
}

// Memory that is to be mapped: pieces grow into ranges.
typedef struct qi__mapping {
  const qi_backend *backend;
  void *device;
  uintptr_t begin, end; // 0 = none
  qi_error *err;
} qi__mapping;

QI__FN qi_result qi__mapping_flush(qi__mapping *m) {
  if (!m->begin) return QI_OK;
  qi_result r = m->backend->map(m->device, (const void *)m->begin, (size_t)(m->end - m->begin), m->err);
  m->begin = m->end = 0;
  return r;
}

// Adds a piece, or begins another range with it where the two are far apart or too large together.
QI__FN qi_result qi__mapping_add(qi__mapping *m, const void *data, size_t size) {
  uintptr_t p = (uintptr_t)data;
  if (!p || !size) return QI_OK;
  bool near_end = m->begin && p >= m->begin && (p <= m->end || p - m->end <= QI__MAP_GAP);
  if (near_end && p + size <= m->end) return QI_OK;
  if (near_end && p + size - m->begin <= m->backend->map_limit(m->device)) {
    m->end = p + size;
    return QI_OK;
  }
  qi_result r = qi__mapping_flush(m);
  m->begin = p;
  m->end = p + size;
  return r;
}

// Vectors of the structure at `base` that these slots describe.
QI__FN qi_result qi__mapping_add_vectors(qi__mapping *m, const qi__hparams *h, const qi__slot *slots, size_t n, const void *base) {
  qi_result r = QI_OK;
  for (size_t i = 0; i < n && !r; i++) {
    const char *at = (const char *)base + slots[i].part[0].at;
    size_t bytes = qi__dim_length(h, slots[i].cols) * sizeof(float);
    if (slots[i].kind == QI__VECTOR) r = qi__mapping_add(m, *(const float *const *)(const void *)at, bytes);
    if (slots[i].kind == QI__BIAS) r = qi__mapping_add(m, ((const qi__weight *)(const void *)at)->bias, bytes);
  }
  return r;
}

// Shows the device all weights: matrices as they lie in the file, then vectors.
QI__FN qi_result qi__backend_map(const qi_model *m, const qi_backend *backend, void *device, qi_error *err) {
  qi__mapping map = {backend, device, 0, 0, err};
  qi_result r = QI_OK;
  for (size_t i = 0; i < m->gguf.n_tensors && !r; i++) {
    const qi__tensor_info *t = &m->gguf.tensors[i];
    if (t->format) r = qi__mapping_add(&map, m->data[i], (size_t)t->n_bytes);
  }
  if (!r) r = qi__mapping_add_vectors(&map, &m->h, qi__model_slots, QI__COUNT_OF(qi__model_slots), &m->weights);
  for (size_t i = 0; i < m->h.n_layers && !r; i++)
    r = qi__mapping_add_vectors(&map, &m->h, qi__layer_slots, QI__COUNT_OF(qi__layer_slots), &m->weights.layers[i]);
  return r ? r : qi__mapping_flush(&map);
}

// Gives a model that was just opened the backend of its desc, if there is one.
QI__FN qi_result qi__backend_attach(qi_model *m, const qi_model_desc *desc, qi_error *err) {
  const qi_backend *backend = desc->backend;
  qi_error why = {QI_OK, ""};
  void *device = NULL;
  if (!backend || m->load != QI_LOAD_ALL) return QI_OK;
  qi_result r = backend->open(backend->user, &m->allocator, &device, &why);
  if (!r && !(r = qi__backend_check(backend, device, &m->h, &m->weights, QI_KV_F16, &why)))
    r = qi__backend_map(m, backend, device, &why);
  if (!r) {
    m->backend = backend;
    m->device = device;
    return QI_OK;
  }
  if (device) backend->close(device);
  if (!desc->backend_fallback) return qi__fail(err, r, "%s", why.msg);
  qi__log(&m->logger, QI_LOG_WARN, "the CPU computes: %s", why.msg);
  return QI_OK;
}

#endif // QI__INFER_BACKEND_H
