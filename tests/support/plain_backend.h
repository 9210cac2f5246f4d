// A backend in plain C, written against the table in api.h: one loop an operation, CPU memory, nothing fast. It shows that the
// boundary is enough for another device, and it is strict: an operation that reaches outside what was mapped or allocated, a queue
// that is used out of order, or something that was not given back is counted in `wrong` with the reason in `why`.
//
//   pb_world world = {0};                    // fail_at: that call of the table fails (1 = the first; 0 = none)
//   qi_backend backend = pb_backend(&world);
#ifndef QINFER_TESTS_PLAIN_BACKEND_H
#define QINFER_TESTS_PLAIN_BACKEND_H

#include <stdlib.h>
#include <string.h>

#include "gguf_write.h"

#define PB_MAX_RANGES 256

typedef struct pb_range {
  const char *begin, *end;
  void *queue; // NULL = mapped
} pb_range;

typedef struct pb_world {
  int fail_at, n_calls;   // calls that can fail
  size_t map_limit;       // 0 = SIZE_MAX
  qi_format no_format;    // refused
  unsigned no_kinds;      // bit k: operations of kind k are refused
  bool spoil;             // logits are NaN once there are candidates: nobody looks at them
  int n_devices, n_queues, n_submitted, n_ops, n_maps;
  int n_kinds[QI_OP_COUNT]; // operations done
  pb_range ranges[PB_MAX_RANGES];
  size_t n_ranges;
  void (*in_submit)(void *user); // called by each submit
  void *user;
  int wrong;
  char why[128];
} pb_world;

typedef struct pb_queue {
  pb_world *world;
  bool busy;
} pb_queue;

GW_FN void pb_wrong(pb_world *w, const char *why) {
  if (!w->wrong++) snprintf(w->why, sizeof w->why, "%s", why);
}

GW_FN bool pb_fails(pb_world *w) { return ++w->n_calls == w->fail_at; }

GW_FN qi_result pb_error(qi_error *err, qi_result r, const char *msg) {
  if (err) {
    err->code = r;
    snprintf(err->msg, sizeof err->msg, "plain: %s", msg);
  }
  return r;
}

// ---- memory ----

GW_FN void pb_add(pb_world *w, const void *data, size_t size, void *queue) {
  if (w->n_ranges == PB_MAX_RANGES) {
    pb_wrong(w, "too many ranges");
    return;
  }
  w->ranges[w->n_ranges].begin = (const char *)data;
  w->ranges[w->n_ranges].end = (const char *)data + size;
  w->ranges[w->n_ranges++].queue = queue;
}

// Whether n bytes lie in one range that the queue may use.
GW_FN void pb_look(const pb_queue *q, const void *data, size_t n, const char *what) {
  const char *p = (const char *)data;
  for (size_t i = 0; i < q->world->n_ranges; i++) {
    const pb_range *r = &q->world->ranges[i];
    if ((!r->queue || r->queue == q) && p >= r->begin && p <= r->end && (size_t)(r->end - p) >= n) return;
  }
  pb_wrong(q->world, what);
}

static void *pb_alloc(void *queue, size_t size) {
  pb_queue *q = (pb_queue *)queue;
  if (pb_fails(q->world)) return NULL;
  void *p = qi__malloc(size, 64, NULL);
  if (!p) return NULL;
  memset(p, 0xff, size);
  pb_add(q->world, p, size, q);
  return p;
}

static void pb_free(void *queue, void *data, size_t size) {
  pb_queue *q = (pb_queue *)queue;
  for (size_t i = 0; i < q->world->n_ranges; i++) {
    pb_range *r = &q->world->ranges[i];
    if (r->queue != q || r->begin != (const char *)data || (size_t)(r->end - r->begin) != size) continue;
    *r = q->world->ranges[--q->world->n_ranges];
    qi__malloc_free(data, size, NULL);
    return;
  }
  pb_wrong(q->world, "free of what was not allocated");
}

// ---- operations ----

// The format of a matrix with its parameters; values: [256]
GW_FN qi__format pb_format(const qi_op_matrix *w, float *values) {
  qi__format f = qi__formats[w->format];
  f.param[0] = w->param[0];
  f.param[1] = w->param[1];
  f.values = values;
  if (w->format == QI_FORMAT_QINS8) qi__qins8_table(w->param[0], w->param[1], values);
  return f;
}

// Row r of a matrix as float32 [n_cols].
GW_FN void pb_row(const qi_op_matrix *w, const qi__format *f, size_t r, float *out) {
  qi__dequantize_blocks(f, (const uint8_t *)w->data + r * w->row_bytes, out, w->n_cols);
}

GW_FN void pb_look_matrix(const pb_queue *q, const qi_op_matrix *w) {
  pb_look(q, w->data, w->n_rows * w->row_bytes, "weights outside");
  if (w->bias) pb_look(q, w->bias, w->n_rows * sizeof(float), "bias outside");
}

GW_FN void pb_embed(const pb_queue *q, const qi_op *op) {
  size_t n_cols = op->of.embed.w.n_cols;
  float values[256];
  qi__format f = pb_format(&op->of.embed.w, values);
  pb_look_matrix(q, &op->of.embed.w);
  pb_look(q, op->of.embed.rows, op->n * sizeof(qi_op_row), "rows outside");
  pb_look(q, op->of.embed.y, op->n * n_cols * sizeof(float), "embeddings outside");
  for (size_t i = 0; i < op->n; i++)
    pb_row(&op->of.embed.w, &f, (size_t)op->of.embed.rows[i].token, op->of.embed.y + i * n_cols);
}

GW_FN void pb_norm(const pb_queue *q, const qi_op *op) {
  size_t width = op->of.norm.width, bytes = width * sizeof(float);
  pb_look(q, op->of.norm.weight, bytes, "weight of a norm outside");
  pb_look(q, op->of.norm.y, op->n * bytes, "result of a norm outside");
  if (op->of.norm.index) pb_look(q, op->of.norm.index, op->n * sizeof(uint32_t), "index outside");
  for (size_t i = 0; i < op->n; i++) {
    const float *x = op->of.norm.x + (op->of.norm.index ? op->of.norm.index[i] : i) * width;
    pb_look(q, x, bytes, "input of a norm outside");
    qi__rms_norm_ref(x, op->of.norm.weight, op->of.norm.eps, width, op->of.norm.y + i * width);
  }
}

// y[i] = w x[i] + bias, or y[i] += that, for n rows.
GW_FN void pb_multiply(const pb_queue *q, const qi_op_matrix *w, const float *x, size_t n, bool add, float *y) {
  float values[256], *row = (float *)malloc(w->n_cols * sizeof *row);
  qi__format f = pb_format(w, values);
  pb_look_matrix(q, w);
  pb_look(q, x, n * w->n_cols * sizeof(float), "input of a product outside");
  for (size_t r = 0; row && r < w->n_rows; r++) {
    pb_row(w, &f, r, row);
    for (size_t i = 0; i < n; i++) {
      double sum = w->bias ? (double)w->bias[r] : 0;
      for (size_t k = 0; k < w->n_cols; k++) sum += (double)row[k] * (double)x[i * w->n_cols + k];
      y[i * w->n_rows + r] = (float)(add ? (double)y[i * w->n_rows + r] + sum : sum);
    }
  }
  free(row);
}

GW_FN void pb_product(const pb_queue *q, const qi_op *op) {
  const qi_op_matrix *w = &op->of.product.w;
  pb_look(q, op->of.product.y, op->n * w->n_rows * sizeof(float), "result of a product outside");
  pb_multiply(q, w, op->of.product.x, op->n, op->of.product.add, op->of.product.y);
}

// The page of position `pos` for one head; looks at it.
GW_FN uint8_t *pb_page(const pb_queue *q, const qi_op_kv *kv, size_t seq, size_t pos, size_t head) {
  const uint32_t *slot = kv->table + seq * kv->n_table + pos / 128;
  pb_look(q, slot, sizeof *slot, "table of pages outside");
  if (pos / 128 >= kv->n_table || *slot >= kv->n_pages) {
    pb_wrong(q->world, "a position without page");
    return NULL;
  }
  uint8_t *page = (uint8_t *)kv->data + ((kv->layer * kv->n_kv_heads + head) * kv->n_pages + *slot) * kv->page_bytes;
  pb_look(q, page, kv->page_bytes, "page outside");
  return page;
}

// Where element i of position p lies in a page, in elements of its part; and the scale of its group.
GW_FN size_t pb_key_at(const qi_op_kv *kv, size_t p, size_t i) {
  if (kv->type == QI_KV_F16) return (p / 16 * kv->dim_k + i) * 16 + p % 16;
  return ((p / 16 * ((kv->dim_k + 31) / 32) + i / 32) * 8 + i % 32 / 4) * 64 + p % 16 * 4 + i % 4;
}
GW_FN size_t pb_key_scale_at(const qi_op_kv *kv, size_t p, size_t i) {
  return (p / 16 * ((kv->dim_k + 31) / 32) + i / 32) * 16 + p % 16;
}
GW_FN size_t pb_value_at(const qi_op_kv *kv, size_t p, size_t i) {
  if (kv->type == QI_KV_F16) return p * kv->dim_v + i;
  return (i / 32 * 64 + p / 2) * 64 + i % 32 * 2 + p % 2;
}
GW_FN size_t pb_value_scale_at(size_t p, size_t i) { return i / 32 * 128 + p; }

// Elements 32 g .. of x [dim], the last ones filled up, as codes; returns the scale.
GW_FN float pb_codes(const float *x, size_t dim, size_t g, int8_t q[32]) {
  float max = 0;
  for (size_t i = 32 * g; i < 32 * g + 32 && i < dim; i++) max = fmaxf(max, fabsf(x[i]));
  float d = max / 127, inverse = max > 0 ? 127 / max : 0;
  for (size_t i = 32 * g; i < 32 * g + 32; i++) q[i - 32 * g] = (int8_t)(i < dim ? nearbyintf(x[i] * inverse) : 0);
  return d;
}

GW_FN void pb_store(const qi_op_kv *kv, uint8_t *page, size_t p, const float *k, const float *v) {
  uint16_t *half = (uint16_t *)(void *)page, *v_half = (uint16_t *)(void *)(page + kv->v);
  if (kv->type == QI_KV_F16) {
    for (size_t i = 0; i < kv->dim_k; i++) half[pb_key_at(kv, p, i)] = qi__f32_to_f16(k[i]);
    for (size_t i = 0; i < kv->dim_v; i++) v_half[pb_value_at(kv, p, i)] = qi__f32_to_f16(v[i]);
    return;
  }
  int8_t q[32];
  for (size_t g = 0; g < (kv->dim_k + 31) / 32; g++) {
    ((uint16_t *)(void *)(page + kv->k_scale))[pb_key_scale_at(kv, p, 32 * g)] = qi__f32_to_f16(pb_codes(k, kv->dim_k, g, q));
    for (size_t i = 0; i < 32; i++) page[pb_key_at(kv, p, 32 * g + i)] = (uint8_t)q[i];
  }
  for (size_t g = 0; g < (kv->dim_v + 31) / 32; g++) {
    ((uint16_t *)(void *)(page + kv->v_scale))[pb_value_scale_at(p, 32 * g)] = qi__f32_to_f16(pb_codes(v, kv->dim_v, g, q));
    for (size_t i = 0; i < 32; i++) page[kv->v + pb_value_at(kv, p, 32 * g + i)] = (uint8_t)q[i];
  }
}

GW_FN float pb_key(const qi_op_kv *kv, const uint8_t *page, size_t p, size_t i) {
  size_t at = pb_key_at(kv, p, i);
  if (kv->type == QI_KV_F16) return qi__f16_to_f32(((const uint16_t *)(const void *)page)[at]);
  const uint16_t *scale = (const uint16_t *)(const void *)(page + kv->k_scale);
  return (float)(int8_t)page[at] * qi__f16_to_f32(scale[pb_key_scale_at(kv, p, i)]);
}
GW_FN float pb_value(const qi_op_kv *kv, const uint8_t *page, size_t p, size_t i) {
  size_t at = pb_value_at(kv, p, i);
  if (kv->type == QI_KV_F16) return qi__f16_to_f32(((const uint16_t *)(const void *)(page + kv->v))[at]);
  const uint16_t *scale = (const uint16_t *)(const void *)(page + kv->v_scale);
  return (float)(int8_t)page[kv->v + at] * qi__f16_to_f32(scale[pb_value_scale_at(p, i)]);
}

GW_FN void pb_rope(const pb_queue *q, const qi_op *op) {
  const qi_op_kv *kv = &op->of.rope.kv;
  size_t n_heads = op->of.rope.n_heads, dim = kv->dim_k, bytes = sizeof(float) * op->n;
  pb_look(q, op->of.rope.cos_sin, bytes * 2 * op->of.rope.n_pairs, "angles outside");
  pb_look(q, op->of.rope.q, bytes * n_heads * dim, "queries outside");
  pb_look(q, op->of.rope.k, bytes * kv->n_kv_heads * dim, "keys outside");
  pb_look(q, op->of.rope.v, bytes * kv->n_kv_heads * kv->dim_v, "values outside");
  for (size_t i = 0; i < op->n; i++) {
    const qi_op_row *row = &op->of.rope.rows[i];
    const float *cos_sin = op->of.rope.cos_sin + i * 2 * op->of.rope.n_pairs;
    for (size_t h = 0; h < n_heads + kv->n_kv_heads; h++) {
      bool query = h < n_heads;
      float *x = query ? op->of.rope.q + (i * n_heads + h) * dim : op->of.rope.k + (i * kv->n_kv_heads + h - n_heads) * dim;
      const float *norm = query ? op->of.rope.q_norm : op->of.rope.k_norm;
      if (norm) qi__rms_norm_ref(x, norm, op->of.rope.eps, dim, x);
      qi__rope_ref(x, cos_sin, op->of.rope.n_pairs, op->of.rope.neighbours);
      uint8_t *page = query ? NULL : pb_page(q, kv, row->seq, row->pos, h - n_heads);
      if (page) pb_store(kv, page, row->pos % 128, x, op->of.rope.v + (i * kv->n_kv_heads + h - n_heads) * kv->dim_v);
    }
  }
}

GW_FN void pb_attend(const pb_queue *queue, const qi_op *op, size_t i, size_t head) {
  const qi_op_kv *kv = &op->of.attention.kv;
  const qi_op_row *row = &op->of.attention.rows[i];
  size_t at = i * op->of.attention.n_heads + head, kv_head = head / (op->of.attention.n_heads / kv->n_kv_heads);
  const float *q = op->of.attention.q + at * kv->dim_k;
  float *y = op->of.attention.y + at * kv->dim_v;
  double max = -1e30, sum = 0;
  for (int round = 0; round < 2; round++) {
    if (round) memset(y, 0, kv->dim_v * sizeof *y);
    for (size_t p = row->first; p <= row->pos; p++) {
      const uint8_t *page = pb_page(queue, kv, row->seq, p, kv_head);
      double score = 0;
      for (size_t e = 0; page && e < kv->dim_k; e++) score += (double)q[e] * (double)pb_key(kv, page, p % 128, e);
      score /= sqrt((double)kv->dim_k);
      if (!round) max = fmax(max, score);
      double weight = round ? exp(score - max) : 0;
      sum += weight;
      for (size_t e = 0; page && round && e < kv->dim_v; e++) y[e] += (float)(weight * (double)pb_value(kv, page, p % 128, e));
    }
  }
  for (size_t e = 0; e < kv->dim_v; e++) y[e] = (float)((double)y[e] / sum);
}

GW_FN void pb_attention(const pb_queue *q, const qi_op *op) {
  const qi_op_kv *kv = &op->of.attention.kv;
  size_t n = op->n * op->of.attention.n_heads;
  pb_look(q, op->of.attention.rows, op->n * sizeof(qi_op_row), "rows outside");
  pb_look(q, op->of.attention.q, n * kv->dim_k * sizeof(float), "queries outside");
  pb_look(q, op->of.attention.y, n * kv->dim_v * sizeof(float), "result of attention outside");
  for (size_t i = 0; i < n; i++) pb_attend(q, op, i / op->of.attention.n_heads, i % op->of.attention.n_heads);
}

GW_FN void pb_activate(const float *x, const float *up, size_t n, bool relu2, float *y) {
  if (!relu2) qi__swiglu_ref(x, up, n, y);
  else
    for (size_t i = 0; i < n; i++) y[i] = qi__relu_squared_ref(x[i]) * up[i];
}

GW_FN void pb_gate(const pb_queue *q, const qi_op *op) {
  size_t n = op->n * op->of.gate.width;
  pb_look(q, op->of.gate.x, n * sizeof(float), "gate outside");
  pb_look(q, op->of.gate.up, n * sizeof(float), "up outside");
  pb_look(q, op->of.gate.y, n * sizeof(float), "result of a gate outside");
  pb_activate(op->of.gate.x, op->of.gate.up, n, op->kind == QI_OP_RELU2, op->of.gate.y);
}

GW_FN void pb_gated(const pb_queue *q, const qi_op *op) {
  const qi_op_matrix *gate = &op->of.gated.gate, *up = &op->of.gated.up;
  size_t n = op->n * gate->n_rows;
  float *ups = (float *)malloc(n * sizeof *ups);
  pb_look(q, op->of.gated.y, n * sizeof(float), "result of a gate outside");
  if (gate->format != up->format || gate->n_rows != up->n_rows || gate->n_cols != up->n_cols) pb_wrong(q->world, "not alike");
  if (!ups) return;
  pb_multiply(q, gate, op->of.gated.x, op->n, false, op->of.gated.y);
  pb_multiply(q, up, op->of.gated.x, op->n, false, ups);
  pb_activate(op->of.gated.y, ups, n, op->of.gated.relu2, op->of.gated.y);
  free(ups);
}

// The k best, one after another.
GW_FN void pb_top(const pb_queue *q, const qi_op *op) {
  size_t width = op->of.top.width, k = op->of.top.k;
  pb_look(q, op->of.top.x, op->n * width * sizeof(float), "logits outside");
  pb_look(q, op->of.top.y, op->n * k * sizeof *op->of.top.y, "candidates outside");
  if (k > 128 || k > width) pb_wrong(q->world, "too many candidates");
  for (size_t i = 0; i < op->n; i++) {
    qi_op_candidate last = {INFINITY, -1};
    for (size_t c = 0; c < k; c++) {
      qi_op_candidate best = {-INFINITY, INT32_MAX};
      for (size_t t = 0; t < width; t++) {
        float x = op->of.top.x[i * width + t], logit = isnan(x) ? -INFINITY : x + 0.0f; // no -0
        bool behind = logit < last.logit || (logit == last.logit && (int32_t)t > last.token);
        if (behind && (logit > best.logit || best.token == INT32_MAX)) best.logit = logit, best.token = (int32_t)t;
      }
      op->of.top.y[i * k + c] = last = best;
    }
    for (size_t t = 0; t < width && q->world->spoil; t++) ((float *)(uintptr_t)op->of.top.x)[i * width + t] = NAN;
  }
}

static void (*const pb_ops[QI_OP_COUNT])(const pb_queue *q, const qi_op *op) = {
    pb_embed, pb_norm, pb_product, pb_rope, pb_attention, pb_gate, pb_gate, pb_gated, pb_top,
};

// ---- the table ----

static qi_result pb_open(void *user, const qi_allocator *allocator, void **device, qi_error *err) {
  pb_world *w = (pb_world *)user;
  (void)allocator;
  if (pb_fails(w)) return pb_error(err, QI_ERR_UNSUPPORTED, "no device");
  w->n_devices++;
  *device = w;
  return QI_OK;
}

static void pb_close(void *device) {
  pb_world *w = (pb_world *)device;
  if (w->n_queues) pb_wrong(w, "the device is closed before its queues");
  w->n_devices--;
  w->n_ranges = 0;
}

static const char *pb_device_name(const void *device) {
  (void)device;
  return "loops in C";
}

static bool pb_supports(const void *device, const qi_op *op) {
  const pb_world *w = (const pb_world *)device;
  if (w->no_kinds >> op->kind & 1) return false;
  if (op->kind == QI_OP_PRODUCT) return op->of.product.w.format != w->no_format;
  if (op->kind == QI_OP_ROPE) return op->of.rope.kv.type == QI_KV_F16 || op->of.rope.kv.type == QI_KV_Q8;
  return true;
}

static size_t pb_map_limit(const void *device) {
  const pb_world *w = (const pb_world *)device;
  return w->map_limit ? w->map_limit : SIZE_MAX;
}

static qi_result pb_map(void *device, const void *data, size_t size, qi_error *err) {
  pb_world *w = (pb_world *)device;
  if (pb_fails(w)) return pb_error(err, QI_ERR_OOM, "no room for weights");
  w->n_maps++;
  pb_add(w, data, size, NULL);
  return QI_OK;
}

static qi_result pb_queue_open(void *device, void **queue, qi_error *err) {
  pb_world *w = (pb_world *)device;
  pb_queue *q = pb_fails(w) ? NULL : (pb_queue *)calloc(1, sizeof *q);
  if (!q) return pb_error(err, QI_ERR_DEVICE, "no queue");
  q->world = w;
  w->n_queues++;
  *queue = q;
  return QI_OK;
}

static void pb_queue_close(void *queue) {
  pb_queue *q = (pb_queue *)queue;
  for (size_t i = 0; i < q->world->n_ranges; i++)
    if (q->world->ranges[i].queue == q) pb_wrong(q->world, "a queue is closed before its memory is freed");
  if (q->busy) pb_wrong(q->world, "a queue is closed while it computes");
  q->world->n_queues--;
  free(q);
}

static qi_result pb_submit(void *queue, const qi_op *ops, size_t n, qi_error *err) {
  pb_queue *q = (pb_queue *)queue;
  pb_world *w = q->world;
  if (q->busy) pb_wrong(w, "submit before wait");
  q->busy = true;
  w->n_submitted++;
  w->n_ops += (int)n;
  if (w->in_submit) w->in_submit(w->user);
  if (pb_fails(w)) return pb_error(err, QI_ERR_DEVICE, "submit failed");
  for (size_t i = 0; i < n; i++) {
    w->n_kinds[ops[i].kind]++;
    pb_ops[ops[i].kind](q, &ops[i]);
  }
  return QI_OK;
}

static qi_result pb_wait(void *queue, qi_error *err) {
  pb_queue *q = (pb_queue *)queue;
  if (!q->busy) pb_wrong(q->world, "wait without submit");
  q->busy = false;
  return pb_fails(q->world) ? pb_error(err, QI_ERR_DEVICE, "the device hung") : QI_OK;
}

GW_FN qi_backend pb_backend(pb_world *world) {
  qi_backend b = {"plain", world,         pb_open,        pb_close, pb_device_name, pb_supports, pb_map_limit,
                  pb_map,  pb_queue_open, pb_queue_close, pb_alloc, pb_free,        pb_submit,   pb_wait};
  return b;
}

#endif // QINFER_TESTS_PLAIN_BACKEND_H
