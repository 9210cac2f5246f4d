// ==== >>weights : which tensors a model has, and where they lie ====
#ifndef QI__MODEL_WEIGHTS_H
#define QI__MODEL_WEIGHTS_H

#include "../kernels/matmul.h"
#include "hparams.h"

// One block. Vectors are float32 copies; matrices stay as stored. Biases are NULL where the model has none.
typedef struct qi__layer {
  const float *attn_norm; // [n_embd]
  qi__weight wq;          // [n_heads * head_dim_k, n_embd]
  qi__weight wk;          // [n_kv_heads * head_dim_k, n_embd]
  qi__weight wv;          // [n_kv_heads * head_dim_v, n_embd]
  const float *q_norm;    // [head_dim_k], QI__HAS_QK_NORM
  const float *k_norm;    // [head_dim_k]
  const float *attn_sub_norm; // [n_heads * head_dim_v], of what goes into wo; NULL = none
  qi__weight wo;          // [n_embd, n_heads * head_dim_v]
  const float *ffn_norm;  // [n_embd]
  qi__weight gate;        // [n_ff, n_embd]
  qi__weight up;          // [n_ff, n_embd]
  const float *ffn_sub_norm; // [n_ff], of what goes into down; NULL = none
  qi__weight down;        // [n_embd, n_ff]
} qi__layer;

typedef struct qi__weights {
  qi__weight embedding;      // [n_vocab, n_embd]
  const float *output_norm;  // [n_embd]
  qi__weight output;         // [n_vocab, n_embd]; the embedding when tied
  const float *rope_factors; // [n_rot / 2], NULL if none: Llama-3, one for all contexts
  const float *rope_long;    // [n_rot / 2], NULL if none: phi-3, contexts beyond rope_n_ctx_orig
  const float *rope_short;   // [n_rot / 2], NULL if none: phi-3, up to it
  qi__layer *layers;         // [n_layers]
} qi__weights;

// ---- slots ----

// Lengths that shapes are made of.
typedef enum qi__dim {
  QI__DIM_ONE, QI__DIM_EMBD, QI__DIM_Q, QI__DIM_K, QI__DIM_V, QI__DIM_ATTN, QI__DIM_FF, QI__DIM_VOCAB, QI__DIM_HEAD, QI__DIM_ROT
} qi__dim;

QI__FN size_t qi__dim_length(const qi__hparams *h, qi__dim dim) {
  switch (dim) {
  case QI__DIM_ONE: return 1;
  case QI__DIM_EMBD: return h->n_embd;
  case QI__DIM_Q: return h->n_heads * h->head_dim_k;
  case QI__DIM_K: return h->n_kv_heads * h->head_dim_k;
  case QI__DIM_V: return h->n_kv_heads * h->head_dim_v;
  case QI__DIM_ATTN: return h->n_heads * h->head_dim_v;
  case QI__DIM_FF: return h->n_ff;
  case QI__DIM_VOCAB: return h->n_vocab;
  case QI__DIM_HEAD: return h->head_dim_k;
  case QI__DIM_ROT: return h->n_rot / 2;
  }
  return 0;
}

typedef enum qi__slot_kind { QI__MATRIX, QI__VECTOR, QI__BIAS } qi__slot_kind;

// One tensor of the file and the places it goes to: a matrix, or the rows of up to three matrices one after another (fused), or a
// vector. `at` is the offset of the qi__weight or of the float pointer in qi__layer or qi__weights.
typedef struct qi__slot {
  const char *name;
  qi__slot_kind kind;
  qi__dim cols;
  unsigned needed; // required by architectures with one of these features; ~0u = by all; 0 = may be missing
  struct {
    qi__dim rows;
    size_t at;
  } part[3]; // ends at the first QI__DIM_ONE; vectors have one part, their length is `cols`
} qi__slot;

#define QI__AT(member) offsetof(qi__layer, member)
static const qi__slot qi__layer_slots[] = {
    {"attn_norm.weight", QI__VECTOR, QI__DIM_EMBD, ~0u, {{QI__DIM_ONE, QI__AT(attn_norm)}}},
    {"attn_q.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_SPLIT_QKV, {{QI__DIM_Q, QI__AT(wq)}}},
    {"attn_k.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_SPLIT_QKV, {{QI__DIM_K, QI__AT(wk)}}},
    {"attn_v.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_SPLIT_QKV, {{QI__DIM_V, QI__AT(wv)}}},
    {"attn_qkv.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_FUSED_QKV,
     {{QI__DIM_Q, QI__AT(wq)}, {QI__DIM_K, QI__AT(wk)}, {QI__DIM_V, QI__AT(wv)}}},
    {"attn_q.bias", QI__BIAS, QI__DIM_Q, QI__HAS_QKV_BIAS, {{QI__DIM_Q, QI__AT(wq)}}},
    {"attn_k.bias", QI__BIAS, QI__DIM_K, QI__HAS_QKV_BIAS, {{QI__DIM_K, QI__AT(wk)}}},
    {"attn_v.bias", QI__BIAS, QI__DIM_V, QI__HAS_QKV_BIAS, {{QI__DIM_V, QI__AT(wv)}}},
    {"attn_q_norm.weight", QI__VECTOR, QI__DIM_HEAD, QI__HAS_QK_NORM, {{QI__DIM_ONE, QI__AT(q_norm)}}},
    {"attn_k_norm.weight", QI__VECTOR, QI__DIM_HEAD, QI__HAS_QK_NORM, {{QI__DIM_ONE, QI__AT(k_norm)}}},
    {"attn_sub_norm.weight", QI__VECTOR, QI__DIM_ATTN, QI__SUB_NORMS, {{QI__DIM_ONE, QI__AT(attn_sub_norm)}}},
    {"attn_output.weight", QI__MATRIX, QI__DIM_ATTN, ~0u, {{QI__DIM_EMBD, QI__AT(wo)}}},
    {"attn_output.bias", QI__BIAS, QI__DIM_EMBD, 0, {{QI__DIM_EMBD, QI__AT(wo)}}},
    {"ffn_norm.weight", QI__VECTOR, QI__DIM_EMBD, ~0u, {{QI__DIM_ONE, QI__AT(ffn_norm)}}},
    {"ffn_gate.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_GATE, {{QI__DIM_FF, QI__AT(gate)}}},
    {"ffn_up.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_GATE, {{QI__DIM_FF, QI__AT(up)}}},
    {"ffn_up.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_FUSED_GATE, {{QI__DIM_FF, QI__AT(gate)}, {QI__DIM_FF, QI__AT(up)}}},
    {"ffn_gate.bias", QI__BIAS, QI__DIM_FF, 0, {{QI__DIM_FF, QI__AT(gate)}}},
    {"ffn_up.bias", QI__BIAS, QI__DIM_FF, 0, {{QI__DIM_FF, QI__AT(up)}}},
    {"ffn_sub_norm.weight", QI__VECTOR, QI__DIM_FF, QI__SUB_NORMS, {{QI__DIM_ONE, QI__AT(ffn_sub_norm)}}},
    {"ffn_down.weight", QI__MATRIX, QI__DIM_FF, ~0u, {{QI__DIM_EMBD, QI__AT(down)}}},
    {"ffn_down.bias", QI__BIAS, QI__DIM_EMBD, 0, {{QI__DIM_EMBD, QI__AT(down)}}},
};
#undef QI__AT
#define QI__AT(member) offsetof(qi__weights, member)
static const qi__slot qi__model_slots[] = {
    {"token_embd.weight", QI__MATRIX, QI__DIM_EMBD, ~0u, {{QI__DIM_VOCAB, QI__AT(embedding)}}},
    {"output_norm.weight", QI__VECTOR, QI__DIM_EMBD, ~0u, {{QI__DIM_ONE, QI__AT(output_norm)}}},
    {"output.weight", QI__MATRIX, QI__DIM_EMBD, 0, {{QI__DIM_VOCAB, QI__AT(output)}}},
    {"rope_freqs.weight", QI__VECTOR, QI__DIM_ROT, 0, {{QI__DIM_ONE, QI__AT(rope_factors)}}},
    {"rope_factors_long.weight", QI__VECTOR, QI__DIM_ROT, 0, {{QI__DIM_ONE, QI__AT(rope_long)}}},
    {"rope_factors_short.weight", QI__VECTOR, QI__DIM_ROT, 0, {{QI__DIM_ONE, QI__AT(rope_short)}}},
};
#undef QI__AT

// Whether architectures like this one keep these matrices in this slot, not fused with others or apart from them.
QI__FN bool qi__slot_in_layout(const qi__slot *slot, const qi__hparams *h) {
  return slot->kind != QI__MATRIX || !slot->needed || slot->needed == ~0u || (slot->needed & h->arch->features);
}

// ---- loading ----

// Where vectors are copied to, and tensor bytes where files are not mapped.
typedef struct qi__weights_loader {
  const qi__gguf *gguf;
  const qi__hparams *h;
  qi__arena *arena;
  const uint8_t *const *data; // [n_tensors] bytes of each tensor; NULL = only check
  qi_error *err;
} qi__weights_loader;

QI__FN qi_result qi__tensor_shape_error(qi_error *err, const qi__tensor_info *t, size_t cols, size_t rows) {
  char found[96] = "";
  size_t used = 0;
  for (int i = 0; i < t->n_dims && used < sizeof found; i++) {
    int n = snprintf(found + used, sizeof found - used, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    if (n > 0) used += (size_t)n;
  }
  return qi__fail(err, QI_ERR_FORMAT, "tensor %s: shape [%s], expected [%zu, %zu]", t->name, found, cols, rows);
}

QI__FN qi_result qi__tensor_expect(const qi__weights_loader *l, const qi__tensor_info *t, size_t cols, size_t rows) {
  if (t->shape[0] != cols || t->shape[1] != rows || t->shape[2] != 1 || t->shape[3] != 1)
    return qi__tensor_shape_error(l->err, t, cols, rows);
  if (t->format == QI_FORMAT_NONE && t->dtype)
    return qi__fail(l->err, QI_ERR_UNSUPPORTED, "tensor %s: weight type %s is not supported", t->name, t->dtype);
  if (t->format == QI_FORMAT_NONE)
    return qi__fail(l->err, QI_ERR_UNSUPPORTED, "tensor %s: weight type %d is not supported", t->name, t->gguf_id);
  return QI_OK;
}

// The format of a tensor with what its tail says.
QI__FN qi_result qi__bind_tensor(const qi__weights_loader *l, const qi__tensor_info *t, qi__bound *out) {
  const uint8_t *data = l->data[t - l->gguf->tensors];
  char name[QI__GGUF_MAX_NAME + 16];
  snprintf(name, sizeof name, "tensor %s", t->name);
  if (data) data += (size_t)t->n_bytes - (size_t)qi__formats[t->format].info.tail_bytes;
  return qi__format_bind(out, t->format, data, name, l->err);
}

// Vectors are few and small: float32 copies spare the forward pass their formats.
QI__FN qi_result qi__load_vector(const qi__weights_loader *l, const qi__tensor_info *t, size_t n, const float **out) {
  qi_result r = qi__tensor_expect(l, t, n, 1);
  if (r) return r;
  float *v = QI__ARENA_ARRAY(l->arena, float, n);
  if (!v) return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: more vectors than the file's index tells", t->name);
  const uint8_t *data = l->data[t - l->gguf->tensors];
  for (size_t i = 0; i < n && !data; i++) v[i] = 1; // only checked: any sound value
  qi__bound bound;
  if ((r = qi__bind_tensor(l, t, &bound))) return r;
  if (data) qi__dequantize_blocks(&bound.format, data, v, n);
  for (size_t i = 0; i < n; i++)
    if (!qi__is_finite(v[i])) return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: element %zu is not finite", t->name, i);
  *out = v;
  return QI_OK;
}

QI__FN qi_result qi__load_matrix(const qi__weights_loader *l, const qi__tensor_info *t, const qi__slot *slot, char *base) {
  size_t cols = qi__dim_length(l->h, slot->cols), rows = 0;
  for (int p = 0; p < 3 && slot->part[p].rows != QI__DIM_ONE; p++) rows += qi__dim_length(l->h, slot->part[p].rows);
  qi_result r = qi__tensor_expect(l, t, cols, rows);
  if (r) return r;
  const uint8_t *data = l->data[t - l->gguf->tensors];
  const qi__format *format = qi__format_get(t->format);
  if (format->info.tail_bytes) {
    qi__bound *bound = QI__ARENA_ARRAY(l->arena, qi__bound, 1);
    if (!bound) return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: more matrices than the file's index tells", t->name);
    if ((r = qi__bind_tensor(l, t, bound))) return r;
    format = &bound->format;
  }
  size_t row_bytes = qi__row_bytes(t->format, cols);
  for (int p = 0; p < 3 && slot->part[p].rows != QI__DIM_ONE; p++) {
    qi__weight *w = (qi__weight *)(void *)(base + slot->part[p].at);
    w->id = t->format;
    w->format = format;
    w->data = data;
    w->n_rows = qi__dim_length(l->h, slot->part[p].rows);
    w->n_cols = cols;
    w->row_bytes = row_bytes;
    if (data) data += w->n_rows * row_bytes;
  }
  return QI_OK;
}

// One slot of the structure at `base`, named prefix + slot name.
QI__FN qi_result qi__load_slot(const qi__weights_loader *l, const qi__slot *slot, const char *prefix, void *base) {
  char name[64];
  snprintf(name, sizeof name, "%s%s", prefix, slot->name);
  unsigned features = l->h->arch->features;
  if (!qi__slot_in_layout(slot, l->h)) return QI_OK;
  const qi__tensor_info *t = qi__gguf_tensor(l->gguf, name);
  if (!t) {
    if (slot->needed & features) return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: missing", name);
    return QI_OK;
  }
  size_t n = qi__dim_length(l->h, slot->cols);
  char *at = (char *)base + slot->part[0].at;
  if (slot->kind == QI__VECTOR) return qi__load_vector(l, t, n, (const float **)(void *)at);
  if (slot->kind == QI__BIAS) return qi__load_vector(l, t, n, &((qi__weight *)(void *)at)->bias);
  // Ternary files of 2024 have the scale of a matrix beside it: "blk.0.attn_q.scale".
  size_t stem = strlen(name) - strlen(".weight");
  snprintf(name + stem, sizeof name - stem, ".scale");
  if (qi__gguf_tensor(l->gguf, name))
    return qi__fail(l->err, QI_ERR_UNSUPPORTED, "tensor %s: a scale beside its matrix is not supported; newer files have it inside",
                    name);
  return qi__load_matrix(l, t, slot, (char *)base);
}

// A factor divides a frequency.
QI__FN qi_result qi__check_rope_factors(const qi__weights_loader *l, const char *name, const float *factors) {
  for (size_t i = 0; factors && i < l->h->n_rot / 2; i++)
    if (!(factors[i] > 0))
      return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: factor %zu is %g, expected above 0", name, i, (double)factors[i]);
  return QI_OK;
}

// Fills `w`; the arena has room for its layers and vectors (qi__weights_heap).
QI__FN qi_result qi__weights_load(qi__weights *w, const qi__weights_loader *l) {
  qi_result r;
  memset(w, 0, sizeof *w);
  w->layers = QI__ARENA_ARRAY(l->arena, qi__layer, l->h->n_layers);
  if (!w->layers) return qi__fail(l->err, QI_ERR_FORMAT, "%zu layers: more than the file's index tells", l->h->n_layers);
  memset(w->layers, 0, l->h->n_layers * sizeof *w->layers);
  for (size_t i = 0; i < QI__COUNT_OF(qi__model_slots); i++)
    if ((r = qi__load_slot(l, &qi__model_slots[i], "", w))) return r;
  if (!w->output.format) w->output = w->embedding;
  if ((r = qi__check_rope_factors(l, "rope_freqs.weight", w->rope_factors))) return r;
  if ((r = qi__check_rope_factors(l, "rope_factors_long.weight", w->rope_long))) return r;
  if ((r = qi__check_rope_factors(l, "rope_factors_short.weight", w->rope_short))) return r;
  for (size_t layer = 0; layer < l->h->n_layers; layer++) {
    char prefix[32];
    snprintf(prefix, sizeof prefix, "blk.%zu.", layer);
    for (size_t i = 0; i < QI__COUNT_OF(qi__layer_slots); i++)
      if ((r = qi__load_slot(l, &qi__layer_slots[i], prefix, &w->layers[layer]))) return r;
  }
  return QI_OK;
}

#endif // QI__MODEL_WEIGHTS_H
