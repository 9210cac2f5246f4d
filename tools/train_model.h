// The model that is trained: llama's architecture, or BitNet's (ternary weights, int8 activations, norms in front of attn_output
// and ffn_down); embeddings serve as the output too. Forward, backward, and the loss, for a shard of sequences.
#ifndef TRAIN_MODEL_H
#define TRAIN_MODEL_H

#include <stdio.h>
#include <stdlib.h>

#include "train_math.h"

#define TRAIN_EPS ((real)1e-5)
#define TRAIN_THETA 10000.0
enum { TRAIN_OUTPUT_ROWS = 256 }; // tokens whose logits are held at a time

typedef struct train_config {
  int32_t n_vocab, n_ctx, n_embd, n_layers, n_heads, n_kv_heads, n_ff, ternary;
} train_config;

// ---- parameters ----

enum { ATTN_NORM, ATTN_Q, ATTN_K, ATTN_V, ATTN_SUB_NORM, ATTN_OUTPUT, FFN_NORM, FFN_GATE, FFN_UP, FFN_SUB_NORM, FFN_DOWN,
       N_LAYER_TENSORS };

typedef struct train_tensor {
  char name[48]; // as in GGUF
  size_t at;     // first number among the parameters
  size_t rows, cols; // a vector has one row; no rows: this model has it not
  bool ternary;
} train_tensor;

typedef struct train_model {
  train_config c;
  train_tensor *tensors; // embedding, tensors of the layers, output norm
  size_t n_tensors, n_params;
  real *params;    // [n_params]
  real *effective; // what products see: params, or ternary matrices among copies
  real *cos_sin;   // [n_ctx, head_dim / 2, 2]
  bool exact;      // BitNet without its rounding, for tests of gradients
} train_model;

TRAIN_FN size_t train_head_dim(const train_config *c) { return (size_t)(c->n_embd / c->n_heads); }
TRAIN_FN size_t train_kv_width(const train_config *c) { return train_head_dim(c) * (size_t)c->n_kv_heads; }
TRAIN_FN size_t train_tensor_size(const train_tensor *t) { return t->rows * t->cols; }

// Number of a layer's tensor.
TRAIN_FN size_t train_index(int layer, int kind) { return 1 + (size_t)layer * N_LAYER_TENSORS + (size_t)kind; }

TRAIN_FN void train_add_tensor(train_model *m, size_t i, const char *name, int layer, size_t rows, size_t cols, bool ternary) {
  train_tensor *t = &m->tensors[i];
  *t = (train_tensor){.at = m->n_params, .rows = rows, .cols = cols, .ternary = ternary};
  if (layer >= 0) snprintf(t->name, sizeof t->name, "blk.%d.%s.weight", layer, name);
  else snprintf(t->name, sizeof t->name, "%s.weight", name);
  m->n_params += rows * cols;
}

TRAIN_FN void train_list_tensors(train_model *m) {
  const train_config *c = &m->c;
  size_t d = (size_t)c->n_embd, kv = train_kv_width(c), ff = (size_t)c->n_ff, sub = c->ternary ? 1 : 0;
  const struct {
    const char *name;
    size_t rows, cols;
    bool matrix;
  } kinds[N_LAYER_TENSORS] = {
      {"attn_norm", 1, d, false}, {"attn_q", d, d, true},          {"attn_k", kv, d, true},    {"attn_v", kv, d, true},
      {"attn_sub_norm", sub, d, false}, {"attn_output", d, d, true}, {"ffn_norm", 1, d, false}, {"ffn_gate", ff, d, true},
      {"ffn_up", ff, d, true},    {"ffn_sub_norm", sub, ff, false}, {"ffn_down", d, ff, true}};
  m->n_params = 0;
  train_add_tensor(m, 0, "token_embd", -1, (size_t)c->n_vocab, d, false);
  for (int l = 0; l < c->n_layers; l++)
    for (int k = 0; k < N_LAYER_TENSORS; k++)
      train_add_tensor(m, train_index(l, k), kinds[k].name, l, kinds[k].rows, kinds[k].cols, c->ternary && kinds[k].matrix);
  train_add_tensor(m, m->n_tensors - 1, "output_norm", -1, 1, d, false);
}

TRAIN_FN uint64_t train_random(uint64_t *state) { // splitmix64
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
// About normal, of variance 1: a sum of four uniform numbers, the same on every machine.
TRAIN_FN real train_normal(uint64_t *state) {
  double sum = 0;
  for (int i = 0; i < 4; i++) sum += (double)(train_random(state) >> 11) * 0x1p-53 - 0.5;
  return (real)(sum * 1.7320508075688772);
}

// Norms 1; matrices by the number of their inputs, those that add to the stream smaller the more layers there are.
TRAIN_FN void train_init_params(train_model *m, uint64_t seed) {
  uint64_t state = seed;
  for (size_t i = 0; i < m->n_tensors; i++) {
    const train_tensor *t = &m->tensors[i];
    bool adds = strstr(t->name, "attn_output") || strstr(t->name, "ffn_down");
    double size = i == 0 ? 0.05 : 0.6 / sqrt((double)t->cols) / (adds ? sqrt(2.0 * m->c.n_layers) : 1);
    for (size_t k = 0; k < train_tensor_size(t); k++) m->params[t->at + k] = t->rows == 1 ? 1 : (real)size * train_normal(&state);
  }
}

TRAIN_FN void train_model_free(train_model *m) {
  if (m->effective != m->params) free(m->effective);
  free(m->params);
  free(m->tensors);
  free(m->cos_sin);
  memset(m, 0, sizeof *m);
}

// After each change of the parameters.
TRAIN_FN void train_update_effective(train_model *m) {
  for (size_t i = 0; m->effective != m->params && i < m->n_tensors; i++) {
    const train_tensor *t = &m->tensors[i];
    if (t->ternary && !m->exact) train_ternary(m->params + t->at, train_tensor_size(t), m->effective + t->at);
    else memcpy(m->effective + t->at, m->params + t->at, train_tensor_size(t) * sizeof(real));
  }
}

// False when there is no memory.
TRAIN_FN bool train_model_init(train_model *m, const train_config *c, uint64_t seed) {
  memset(m, 0, sizeof *m);
  m->c = *c;
  m->n_tensors = 2 + (size_t)c->n_layers * N_LAYER_TENSORS;
  size_t half = train_head_dim(c) / 2;
  m->tensors = (train_tensor *)calloc(m->n_tensors, sizeof *m->tensors);
  m->cos_sin = (real *)malloc((size_t)c->n_ctx * half * 2 * sizeof(real));
  if (m->tensors) train_list_tensors(m);
  m->params = (real *)malloc(m->n_params * sizeof(real));
  m->effective = c->ternary ? (real *)malloc(m->n_params * sizeof(real)) : m->params;
  if (!m->tensors || !m->cos_sin || !m->params || !m->effective) {
    train_model_free(m);
    return false;
  }
  for (size_t i = 0; i < (size_t)c->n_ctx * half; i++) {
    double angle = (double)(i / half) * pow(TRAIN_THETA, -(double)(i % half) / (double)half);
    m->cos_sin[2 * i] = (real)cos(angle);
    m->cos_sin[2 * i + 1] = (real)sin(angle);
  }
  train_init_params(m, seed);
  train_update_effective(m);
  return true;
}

// ---- a shard: some sequences with all that is kept for the way back ----

typedef struct train_layer_state {
  real *x, *n1, *q, *k, *v, *p, *att, *att_n, *x1, *n2, *gate, *up, *h, *h_n; // [rows, their width]; p: see train_attend
  real *scale1, *scale_att, *scale2, *scale_h;                                // [rows]
} train_layer_state;

typedef struct train_shard {
  size_t n_seqs, rows;     // rows = n_seqs * n_ctx
  train_layer_state *layers;
  real *x, *n, *scale;     // behind the last layer, normed
  real *logits;            // [TRAIN_OUTPUT_ROWS, n_vocab]
  real *dx, *da, *db, *dc; // [rows, widest]
  real *scratch;           // [TRAIN_BLOCK, n_ctx]
  real *grads;             // [n_params]
  real *memory;            // all of the above
  int32_t *tokens, *targets; // [rows]; target -1: not scored
  const real *emphasis;    // [n_vocab] how much a target counts in what is minimised, of the caller; NULL: 1 each
  double loss;             // sum over the scored rows, in nats
  size_t n_scored;
} train_shard;

// Gives out pieces of `base` (NULL: counts).
TRAIN_FN real *train_take(real *base, size_t *used, size_t n) {
  real *p = base ? base + *used : NULL;
  *used += (n + 15) / 16 * 16;
  return p;
}

TRAIN_FN size_t train_shard_layout(train_shard *s, const train_model *m, real *base) {
  const train_config *c = &m->c;
  size_t used = 0, d = (size_t)c->n_embd, kv = train_kv_width(c), ff = (size_t)c->n_ff, n = s->rows, t = (size_t)c->n_ctx;
  for (int l = 0; l < c->n_layers; l++) {
    train_layer_state *a = &s->layers[l];
    real **of_d[] = {&a->x, &a->n1, &a->q, &a->att, &a->x1, &a->n2};
    real **of_kv[] = {&a->k, &a->v}, **of_ff[] = {&a->gate, &a->up, &a->h};
    real **of_1[] = {&a->scale1, &a->scale_att, &a->scale2, &a->scale_h};
    for (int i = 0; i < 6; i++) *of_d[i] = train_take(base, &used, n * d);
    for (int i = 0; i < 2; i++) *of_kv[i] = train_take(base, &used, n * kv);
    for (int i = 0; i < 3; i++) *of_ff[i] = train_take(base, &used, n * ff);
    for (int i = 0; i < 4; i++) *of_1[i] = train_take(base, &used, n);
    a->att_n = c->ternary ? train_take(base, &used, n * d) : a->att;
    a->h_n = c->ternary ? train_take(base, &used, n * ff) : a->h;
    a->p = train_take(base, &used, s->n_seqs * (size_t)c->n_heads * t * t);
  }
  size_t widest = ff > d ? ff : d;
  s->x = train_take(base, &used, n * d);
  s->n = train_take(base, &used, n * d);
  s->scale = train_take(base, &used, n);
  s->logits = train_take(base, &used, TRAIN_OUTPUT_ROWS * (size_t)c->n_vocab);
  s->dx = train_take(base, &used, n * d);
  s->da = train_take(base, &used, n * widest);
  s->db = train_take(base, &used, n * widest);
  s->dc = train_take(base, &used, n * widest);
  s->scratch = train_take(base, &used, TRAIN_BLOCK * t);
  s->grads = train_take(base, &used, m->n_params);
  return used;
}

TRAIN_FN void train_shard_free(train_shard *s) {
  free(s->memory);
  free(s->layers);
  free(s->tokens);
  memset(s, 0, sizeof *s);
}

TRAIN_FN bool train_shard_init(train_shard *s, const train_model *m, size_t n_seqs) {
  memset(s, 0, sizeof *s);
  s->n_seqs = n_seqs;
  s->rows = n_seqs * (size_t)m->c.n_ctx;
  s->layers = (train_layer_state *)calloc((size_t)m->c.n_layers, sizeof *s->layers);
  s->tokens = (int32_t *)calloc(2 * s->rows, sizeof *s->tokens);
  s->targets = s->tokens ? s->tokens + s->rows : NULL;
  size_t n = s->layers ? train_shard_layout(s, m, NULL) : 0;
  s->memory = n ? (real *)calloc(n, sizeof(real)) : NULL;
  if (!s->memory || !s->tokens) {
    train_shard_free(s);
    return false;
  }
  train_shard_layout(s, m, s->memory);
  return true;
}

TRAIN_FN train_attention train_attention_of(const train_model *m, const train_shard *s) {
  return (train_attention){s->n_seqs, (size_t)m->c.n_ctx, (size_t)m->c.n_heads, (size_t)m->c.n_kv_heads, train_head_dim(&m->c)};
}

// ---- forward ----

// The parameters of a tensor of a layer, and their gradients.
TRAIN_FN const real *train_weight(const train_model *m, int layer, int kind) {
  return m->effective + m->tensors[train_index(layer, kind)].at;
}
TRAIN_FN real *train_grad(const train_model *m, const train_shard *s, int layer, int kind) {
  return s->grads + m->tensors[train_index(layer, kind)].at;
}

TRAIN_FN void train_rope_both(const train_model *m, const train_shard *s, real *q, real *k, real direction) {
  const train_config *c = &m->c;
  size_t t = (size_t)c->n_ctx, d = train_head_dim(c);
  train_rope(q, m->cos_sin, s->rows, t, (size_t)c->n_heads, d, !c->ternary, direction);
  train_rope(k, m->cos_sin, s->rows, t, (size_t)c->n_kv_heads, d, !c->ternary, direction);
}

// out = a->x after the layer
TRAIN_FN void train_layer_forward(const train_model *m, train_shard *s, int l, real *out) {
  const train_config *c = &m->c;
  train_layer_state *a = &s->layers[l];
  size_t n = s->rows, d = (size_t)c->n_embd, kv = train_kv_width(c), ff = (size_t)c->n_ff;
  train_attention attention = train_attention_of(m, s);
  train_norm(a->x, train_weight(m, l, ATTN_NORM), n, d, TRAIN_EPS, a->n1, a->scale1);
  if (c->ternary && !m->exact) train_round_rows(a->n1, n, d);
  train_linear(a->n1, train_weight(m, l, ATTN_Q), n, d, d, a->q);
  train_linear(a->n1, train_weight(m, l, ATTN_K), n, d, kv, a->k);
  train_linear(a->n1, train_weight(m, l, ATTN_V), n, d, kv, a->v);
  train_rope_both(m, s, a->q, a->k, 1);
  train_attend(&attention, a->q, a->k, a->v, a->p, a->att);
  if (c->ternary) {
    train_norm(a->att, train_weight(m, l, ATTN_SUB_NORM), n, d, TRAIN_EPS, a->att_n, a->scale_att);
    if (!m->exact) train_round_rows(a->att_n, n, d);
  }
  train_linear(a->att_n, train_weight(m, l, ATTN_OUTPUT), n, d, d, a->x1);
  for (size_t i = 0; i < n * d; i++) a->x1[i] += a->x[i];
  train_norm(a->x1, train_weight(m, l, FFN_NORM), n, d, TRAIN_EPS, a->n2, a->scale2);
  if (c->ternary && !m->exact) train_round_rows(a->n2, n, d);
  train_linear(a->n2, train_weight(m, l, FFN_GATE), n, d, ff, a->gate);
  train_linear(a->n2, train_weight(m, l, FFN_UP), n, d, ff, a->up);
  train_swiglu(a->gate, a->up, n * ff, a->h);
  if (c->ternary) {
    train_norm(a->h, train_weight(m, l, FFN_SUB_NORM), n, ff, TRAIN_EPS, a->h_n, a->scale_h);
    if (!m->exact) train_round_rows(a->h_n, n, ff);
  }
  train_linear(a->h_n, train_weight(m, l, FFN_DOWN), n, ff, d, out);
  for (size_t i = 0; i < n * d; i++) out[i] += a->x1[i];
}

// ---- backward ----

// s->dx: gradient of what the layer gives, becomes that of its input.
TRAIN_FN void train_ffn_back(const train_model *m, train_shard *s, int l) {
  const train_layer_state *a = &s->layers[l];
  size_t n = s->rows, d = (size_t)m->c.n_embd, ff = (size_t)m->c.n_ff;
  train_linear_back(a->h_n, train_weight(m, l, FFN_DOWN), s->dx, n, ff, d, 0, s->da, train_grad(m, s, l, FFN_DOWN));
  if (m->c.ternary)
    train_norm_back(a->h, train_weight(m, l, FFN_SUB_NORM), a->scale_h, s->da, n, ff, 0, s->da, train_grad(m, s, l, FFN_SUB_NORM));
  train_swiglu_back(a->gate, a->up, n * ff, s->da, s->db);
  train_linear_back(a->n2, train_weight(m, l, FFN_GATE), s->da, n, d, ff, 0, s->dc, train_grad(m, s, l, FFN_GATE));
  train_linear_back(a->n2, train_weight(m, l, FFN_UP), s->db, n, d, ff, 1, s->dc, train_grad(m, s, l, FFN_UP));
  train_norm_back(a->x1, train_weight(m, l, FFN_NORM), a->scale2, s->dc, n, d, 1, s->dx, train_grad(m, s, l, FFN_NORM));
}

TRAIN_FN void train_attention_back(const train_model *m, train_shard *s, int l) {
  const train_layer_state *a = &s->layers[l];
  size_t n = s->rows, d = (size_t)m->c.n_embd, kv = train_kv_width(&m->c);
  train_attention attention = train_attention_of(m, s);
  real *dq = s->db, *dk = s->dc, *dv = s->dc + n * kv; // kv is at most half as wide as d
  train_linear_back(a->att_n, train_weight(m, l, ATTN_OUTPUT), s->dx, n, d, d, 0, s->da, train_grad(m, s, l, ATTN_OUTPUT));
  if (m->c.ternary)
    train_norm_back(a->att, train_weight(m, l, ATTN_SUB_NORM), a->scale_att, s->da, n, d, 0, s->da,
                    train_grad(m, s, l, ATTN_SUB_NORM));
  train_attend_back(&attention, a->q, a->k, a->v, a->p, s->da, dq, dk, dv, s->scratch);
  train_rope_both(m, s, dq, dk, -1);
  train_linear_back(a->n1, train_weight(m, l, ATTN_Q), dq, n, d, d, 0, s->da, train_grad(m, s, l, ATTN_Q));
  train_linear_back(a->n1, train_weight(m, l, ATTN_K), dk, n, d, kv, 1, s->da, train_grad(m, s, l, ATTN_K));
  train_linear_back(a->n1, train_weight(m, l, ATTN_V), dv, n, d, kv, 1, s->da, train_grad(m, s, l, ATTN_V));
  train_norm_back(a->x, train_weight(m, l, ATTN_NORM), a->scale1, s->da, n, d, 1, s->dx, train_grad(m, s, l, ATTN_NORM));
}

// ---- the loss ----

// Cross-entropy of one row of logits, which become their gradient times `weight`.
TRAIN_FN double train_row_loss(real *logits, size_t n_vocab, int32_t target, real weight) {
  real most = logits[0], lane[8] = {0}, sum = 0;
  size_t k = 0;
  for (size_t i = 1; i < n_vocab; i++) most = logits[i] > most ? logits[i] : most;
  double at_target = (double)(logits[target] - most);
  for (size_t i = 0; i < n_vocab; i++) logits[i] = train_exp(logits[i] - most);
  for (; k + 8 <= n_vocab; k += 8)
    for (size_t j = 0; j < 8; j++) lane[j] += logits[k + j];
  for (; k < n_vocab; k++) sum += logits[k];
  for (size_t j = 0; j < 8; j++) sum += lane[j];
  real factor = weight / sum;
  for (size_t i = 0; i < n_vocab; i++) logits[i] *= factor;
  logits[target] -= weight;
  return log((double)sum) - at_target;
}

// Loss of the shard, without emphasis; with backward, s->dx gets the gradient of s->x. weight: of one row in the loss that is
// minimised.
TRAIN_FN void train_output(const train_model *m, train_shard *s, real weight, bool backward) {
  size_t d = (size_t)m->c.n_embd, n_vocab = (size_t)m->c.n_vocab;
  const train_tensor *norm = &m->tensors[m->n_tensors - 1];
  train_norm(s->x, m->effective + norm->at, s->rows, d, TRAIN_EPS, s->n, s->scale);
  s->loss = 0;
  s->n_scored = 0;
  for (size_t r = 0; r < s->rows; r += TRAIN_OUTPUT_ROWS) {
    size_t n = s->rows - r < TRAIN_OUTPUT_ROWS ? s->rows - r : TRAIN_OUTPUT_ROWS;
    train_linear(s->n + r * d, m->effective, n, d, n_vocab, s->logits);
    for (size_t i = 0; i < n; i++) {
      int32_t target = s->targets[r + i];
      real row_weight = target >= 0 && s->emphasis ? weight * s->emphasis[target] : weight;
      if (target >= 0) s->loss += train_row_loss(s->logits + i * n_vocab, n_vocab, target, row_weight), s->n_scored++;
      else memset(s->logits + i * n_vocab, 0, n_vocab * sizeof(real));
    }
    if (backward) train_linear_back(s->n + r * d, m->effective, s->logits, n, d, n_vocab, 0, s->da + r * d, s->grads);
  }
  if (backward) train_norm_back(s->x, m->effective + norm->at, s->scale, s->da, s->rows, d, 0, s->dx, s->grads + norm->at);
}

// Loss of s->tokens and s->targets; with backward also s->grads.
TRAIN_FN void train_run(const train_model *m, train_shard *s, real weight, bool backward) {
  size_t d = (size_t)m->c.n_embd;
  int n_layers = m->c.n_layers;
  for (size_t i = 0; i < s->rows; i++)
    memcpy(s->layers[0].x + i * d, m->effective + (size_t)s->tokens[i] * d, d * sizeof(real));
  for (int l = 0; l < n_layers; l++) train_layer_forward(m, s, l, l + 1 < n_layers ? s->layers[l + 1].x : s->x);
  if (backward) memset(s->grads, 0, m->n_params * sizeof(real));
  train_output(m, s, weight, backward);
  if (!backward) return;
  for (int l = n_layers - 1; l >= 0; l--) {
    train_ffn_back(m, s, l);
    train_attention_back(m, s, l);
  }
  for (size_t i = 0; i < s->rows; i++) {
    real *g = s->grads + (size_t)s->tokens[i] * d;
    for (size_t k = 0; k < d; k++) g[k] += s->dx[i * d + k];
  }
}

// ---- AdamW (Loshchilov and Hutter 2019) ----

typedef struct train_adam {
  real *m, *v; // [n_params]
  double beta1, beta2, eps, decay, clip;
} train_adam;

// One step (counted from 1); grads: [n_params], are scaled so that their norm is at most clip. Returns their norm before that.
// Norms and biases do not decay.
TRAIN_FN double train_adam_step(train_adam *a, train_model *m, real *grads, int step, double rate) {
  double squares = 0;
  for (size_t i = 0; i < m->n_params; i += 4096) {
    size_t n = m->n_params - i < 4096 ? m->n_params - i : 4096;
    squares += (double)train_dot(grads + i, grads + i, n);
  }
  double norm = sqrt(squares);
  real scale = norm > a->clip ? (real)(a->clip / norm) : 1, b1 = (real)a->beta1, b2 = (real)a->beta2, eps = (real)a->eps;
  real rate_m = (real)(rate / (1 - pow(a->beta1, step))), inverse_v = (real)(1 / (1 - pow(a->beta2, step)));
  for (size_t i = 0; i < m->n_tensors; i++) {
    const train_tensor *t = &m->tensors[i];
    real keep = t->rows > 1 ? (real)(1 - rate * a->decay) : 1;
    for (size_t k = t->at; k < t->at + train_tensor_size(t); k++) {
      real g = grads[k] * scale;
      a->m[k] = b1 * a->m[k] + (1 - b1) * g;
      a->v[k] = b2 * a->v[k] + (1 - b2) * g * g;
      m->params[k] = keep * m->params[k] - rate_m * a->m[k] / (train_sqrt(a->v[k] * inverse_v) + eps);
    }
  }
  train_update_effective(m);
  return norm;
}

#endif // TRAIN_MODEL_H
