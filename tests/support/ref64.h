// The forward pass in float64, for tests: hyper-parameters through qi_meta_*, weights through qi_tensor_find and qi_dequantize, all
// arithmetic in double with libm, attention over the whole text at once. It shares nothing with the library's kernels.
// Conventions (names, keys, order of operations) are those of llama.cpp, February 2025: src/llama-model.cpp (load_hparams,
// load_tensors), src/llama.cpp (build_llama, build_qwen2, build_phi3, build_rope_factors), rope in ggml-cpu.c; qwen3 as in
// ik_llama.cpp.
//
//   r64_model r;
//   if (!r64_open(&r, model)) fail(r.error);
//   r64_forward(&r, &(r64_options){.n_ctx = 128}, tokens, n, logits);   // logits: double [n, r.n_vocab]
//   r64_close(&r);
#ifndef QINFER_TESTS_REF64_H
#define QINFER_TESTS_REF64_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define R64_FN static __attribute__((unused))
#else
#define R64_FN static
#endif

typedef struct r64_matrix {
  float *w;      // [n_rows, n_cols]
  int block_len; // activations that share a scale: a block of the format it is stored in; 1 = F32, F16, BF16; 0 = a row (ternary)
} r64_matrix;

typedef struct r64_layer {
  r64_matrix q, k, v, o, gate, up, down;
  float *attn_norm, *ffn_norm, *q_norm, *k_norm, *attn_sub_norm, *ffn_sub_norm;
  float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
} r64_layer;

typedef struct r64_model {
  char arch[32];
  char error[256]; // why r64_open returned false
  const qi_model *model;
  size_t n_vocab, n_layers, n_embd, n_heads, n_kv_heads, head_dim, head_dim_v, n_ff, n_rot, n_ctx_orig, window; // window 0 = none
  double eps, freq_base, freq_scale, attn_factor;
  bool yarn;
  bool rope_halves;        // pairs (i, i + n_rot / 2) instead of (2i, 2i + 1)
  r64_matrix embd, output; // output.w == embd.w when tied
  float *output_norm;
  float *rope_freqs, *rope_long, *rope_short;
  r64_layer *layers;
} r64_model;

// What the path under test rounds on purpose; the reference can round alike, so that only rounding of sums is left to differ.
typedef struct r64_options {
  int n_ctx;   // context length of the session: chooses between long and short rope factors
  bool kv_f16; // keys and values rounded to half floats
  int bf16;    // 1: weights and activations of matrix products rounded to bfloat16; 2: what attention multiplies, too
  bool int8;   // activations of products with block formats to int8, block_len of them with one scale
} r64_options;

// ---- metadata ----

R64_FN bool r64_meta(const qi_model *m, const char *key, qi_meta *out) {
  size_t len = strlen(key);
  for (size_t i = 0; i < qi_meta_count(m); i++)
    if (qi_meta_get(m, i, out, NULL) == QI_OK && out->key_len == len && !memcmp(out->key, key, len)) return true;
  return false;
}

// A key of the architecture ("block_count" for "llama.block_count") as a number; `fallback` when absent.
R64_FN double r64_number(const r64_model *r, const char *key, double fallback) {
  char full[128];
  qi_meta v;
  snprintf(full, sizeof full, "%s.%s", r->arch, key);
  if (!r64_meta(r->model, full, &v)) return fallback;
  switch (v.type) {
  case QI_META_F32:
  case QI_META_F64: return v.value.f;
  case QI_META_I8:
  case QI_META_I16:
  case QI_META_I32:
  case QI_META_I64: return (double)v.value.i;
  case QI_META_U8:
  case QI_META_U16:
  case QI_META_U32:
  case QI_META_U64:
  case QI_META_BOOL: return (double)v.value.u;
  default: return fallback;
  }
}

R64_FN bool r64_text_is(const r64_model *r, const char *key, const char *text) {
  char full[128];
  qi_meta v;
  snprintf(full, sizeof full, "%s.%s", r->arch, key);
  if (!r64_meta(r->model, full, &v) || v.type != QI_META_STRING) return false;
  return v.count == strlen(text) && !memcmp(v.value.text, text, strlen(text));
}

R64_FN bool r64_hparams(r64_model *r) {
  qi_meta v;
  if (!r64_meta(r->model, "general.architecture", &v) || v.type != QI_META_STRING || v.count >= sizeof r->arch) {
    snprintf(r->error, sizeof r->error, "no general.architecture");
    return false;
  }
  memcpy(r->arch, v.value.text, (size_t)v.count);
  r->arch[v.count] = 0;
  if (strcmp(r->arch, "llama") && strcmp(r->arch, "qwen2") && strcmp(r->arch, "qwen3") && strcmp(r->arch, "phi3") &&
      strncmp(r->arch, "bitnet", 6)) {
    snprintf(r->error, sizeof r->error, "architecture %s", r->arch);
    return false;
  }
  r->rope_halves = strcmp(r->arch, "llama") != 0;
  r->n_layers = (size_t)r64_number(r, "block_count", 0);
  r->n_embd = (size_t)r64_number(r, "embedding_length", 0);
  r->n_ff = (size_t)r64_number(r, "feed_forward_length", 0);
  r->n_heads = (size_t)r64_number(r, "attention.head_count", 0);
  r->n_kv_heads = (size_t)r64_number(r, "attention.head_count_kv", (double)r->n_heads);
  if (!r->n_layers || !r->n_embd || !r->n_ff || !r->n_heads || !r->n_kv_heads || r->n_heads % r->n_kv_heads) {
    snprintf(r->error, sizeof r->error, "hyper-parameters");
    return false;
  }
  r->head_dim = (size_t)r64_number(r, "attention.key_length", (double)(r->n_embd / r->n_heads));
  r->head_dim_v = (size_t)r64_number(r, "attention.value_length", (double)(r->n_embd / r->n_heads));
  r->n_rot = (size_t)r64_number(r, "rope.dimension_count", (double)r->head_dim);
  r->window = (size_t)r64_number(r, "attention.sliding_window", 0);
  r->eps = r64_number(r, "attention.layer_norm_rms_epsilon", 0);
  r->freq_base = r64_number(r, "rope.freq_base", 10000.0);
  r->n_ctx_orig = (size_t)r64_number(r, "rope.scaling.original_context_length", r64_number(r, "context_length", 0));
  r->attn_factor = r64_number(r, "rope.scaling.attn_factor", 1.0);
  // The factor counts unless the type is "none"; an absent type means "linear".
  double factor = r64_number(r, "rope.scaling.factor", r64_number(r, "rope.scale_linear", 0));
  r->freq_scale = factor == 0 || r64_text_is(r, "rope.scaling.type", "none") ? 1.0 : 1.0 / factor;
  r->yarn = r64_text_is(r, "rope.scaling.type", "yarn");
  return true;
}

// ---- weights ----

// Tensor [n_rows, n_cols] as floats (malloc). No weights and no error when absent and not `required`; else r->error is set.
R64_FN r64_matrix r64_load(r64_model *r, const char *name, size_t n_rows, size_t n_cols, bool required) {
  r64_matrix m = {NULL, 1};
  qi_tensor t;
  if (r->error[0]) return m;
  if (qi_tensor_find(r->model, name, &t, NULL) != QI_OK) {
    if (required) snprintf(r->error, sizeof r->error, "tensor %s is missing", name);
    return m;
  }
  if (t.shape[0] != n_cols || t.shape[1] != n_rows || t.shape[2] != 1 || t.shape[3] != 1 || !t.data || !qi_format_get(t.format)) {
    snprintf(r->error, sizeof r->error, "tensor %s has a wrong shape, no data or an unknown format", name);
    return m;
  }
  bool ternary = t.format == QI_FORMAT_TQ1_0 || t.format == QI_FORMAT_TQ2_0 || t.format == QI_FORMAT_I2_S;
  m.block_len = ternary ? 0 : qi_format_get(t.format)->block_len;
  m.w = (float *)malloc(n_rows * n_cols * sizeof *m.w);
  if (!m.w || qi_dequantize(t.format, t.data, m.w, n_rows * n_cols, NULL) != QI_OK) {
    snprintf(r->error, sizeof r->error, "tensor %s: no memory, or qi_dequantize failed", name);
    free(m.w);
    m.w = NULL;
  }
  return m;
}

R64_FN r64_matrix r64_load_layer(r64_model *r, size_t layer, const char *name, size_t n_rows, size_t n_cols, bool required) {
  char full[64];
  snprintf(full, sizeof full, "blk.%u.%s", (unsigned)layer, name);
  return r64_load(r, full, n_rows, n_cols, required);
}
R64_FN float *r64_load_vector(r64_model *r, size_t layer, const char *name, size_t n, bool required) {
  return r64_load_layer(r, layer, name, 1, n, required).w;
}

// Rows first .. first + n_rows - 1 of a fused matrix, as a matrix of their own.
R64_FN r64_matrix r64_slice(const r64_matrix *m, size_t first, size_t n_rows, size_t n_cols) {
  r64_matrix out = {m->w ? (float *)malloc(n_rows * n_cols * sizeof *out.w) : NULL, m->block_len};
  if (out.w) memcpy(out.w, m->w + first * n_cols, n_rows * n_cols * sizeof *out.w);
  return out;
}

R64_FN void r64_load_attention(r64_model *r, size_t i) {
  r64_layer *l = &r->layers[i];
  size_t e = r->n_embd, nq = r->n_heads * r->head_dim, nk = r->n_kv_heads * r->head_dim, nv = r->n_kv_heads * r->head_dim_v;
  bool biased = !strcmp(r->arch, "qwen2"), head_norms = !strcmp(r->arch, "qwen3");
  l->attn_norm = r64_load_vector(r, i, "attn_norm.weight", e, true);
  if (!strcmp(r->arch, "phi3")) { // one matrix: q, k, v
    r64_matrix fused = r64_load_layer(r, i, "attn_qkv.weight", nq + nk + nv, e, true);
    l->q = r64_slice(&fused, 0, nq, e);
    l->k = r64_slice(&fused, nq, nk, e);
    l->v = r64_slice(&fused, nq + nk, nv, e);
    free(fused.w);
  } else {
    l->q = r64_load_layer(r, i, "attn_q.weight", nq, e, true);
    l->k = r64_load_layer(r, i, "attn_k.weight", nk, e, true);
    l->v = r64_load_layer(r, i, "attn_v.weight", nv, e, true);
  }
  l->q_bias = r64_load_vector(r, i, "attn_q.bias", nq, biased);
  l->k_bias = r64_load_vector(r, i, "attn_k.bias", nk, biased);
  l->v_bias = r64_load_vector(r, i, "attn_v.bias", nv, biased);
  l->q_norm = r64_load_vector(r, i, "attn_q_norm.weight", r->head_dim, head_norms);
  l->k_norm = r64_load_vector(r, i, "attn_k_norm.weight", r->head_dim, head_norms);
  l->attn_sub_norm = r64_load_vector(r, i, "attn_sub_norm.weight", r->n_heads * r->head_dim_v, !strncmp(r->arch, "bitnet", 6));
  l->o = r64_load_layer(r, i, "attn_output.weight", e, r->n_heads * r->head_dim_v, true);
  l->o_bias = r64_load_vector(r, i, "attn_output.bias", e, false);
}

R64_FN void r64_load_ffn(r64_model *r, size_t i) {
  r64_layer *l = &r->layers[i];
  size_t e = r->n_embd, ff = r->n_ff;
  l->ffn_norm = r64_load_vector(r, i, "ffn_norm.weight", e, true);
  if (!strcmp(r->arch, "phi3")) { // one matrix: first the gate, then up (ggml's SWIGLU)
    r64_matrix fused = r64_load_layer(r, i, "ffn_up.weight", 2 * ff, e, true);
    l->gate = r64_slice(&fused, 0, ff, e);
    l->up = r64_slice(&fused, ff, ff, e);
    free(fused.w);
  } else {
    l->gate = r64_load_layer(r, i, "ffn_gate.weight", ff, e, true);
    l->up = r64_load_layer(r, i, "ffn_up.weight", ff, e, true);
    l->gate_bias = r64_load_vector(r, i, "ffn_gate.bias", ff, false);
    l->up_bias = r64_load_vector(r, i, "ffn_up.bias", ff, false);
  }
  l->ffn_sub_norm = r64_load_vector(r, i, "ffn_sub_norm.weight", ff, !strncmp(r->arch, "bitnet", 6));
  l->down = r64_load_layer(r, i, "ffn_down.weight", e, ff, true);
  l->down_bias = r64_load_vector(r, i, "ffn_down.bias", e, false);
}

R64_FN void r64_close(r64_model *r) {
  for (size_t i = 0; r->layers && i < r->n_layers; i++) {
    r64_layer *l = &r->layers[i];
    float *all[] = {l->q.w,    l->k.w,    l->v.w,    l->o.w,    l->gate.w, l->up.w,   l->down.w,    l->attn_norm, l->ffn_norm,
                    l->q_norm, l->k_norm, l->q_bias, l->k_bias, l->v_bias, l->o_bias, l->gate_bias, l->up_bias,   l->down_bias,
                    l->attn_sub_norm, l->ffn_sub_norm};
    for (size_t j = 0; j < sizeof all / sizeof all[0]; j++) free(all[j]);
  }
  if (r->output.w != r->embd.w) free(r->output.w);
  free(r->embd.w);
  free(r->output_norm);
  free(r->rope_freqs);
  free(r->rope_long);
  free(r->rope_short);
  free(r->layers);
  r->layers = NULL;
  r->embd.w = r->output.w = r->output_norm = r->rope_freqs = r->rope_long = r->rope_short = NULL;
}

// False: r->error says why, nothing to close.
R64_FN bool r64_open(r64_model *r, const qi_model *m) {
  qi_tensor t;
  memset(r, 0, sizeof *r);
  r->model = m;
  if (!r64_hparams(r)) return false;
  if (qi_tensor_find(m, "token_embd.weight", &t, NULL) != QI_OK) {
    snprintf(r->error, sizeof r->error, "tensor token_embd.weight is missing");
    return false;
  }
  r->n_vocab = (size_t)t.shape[1];
  r->embd = r64_load(r, "token_embd.weight", r->n_vocab, r->n_embd, true);
  r->output_norm = r64_load(r, "output_norm.weight", 1, r->n_embd, true).w;
  r->output = r64_load(r, "output.weight", r->n_vocab, r->n_embd, false);
  if (!r->output.w) r->output = r->embd;
  r->rope_freqs = r64_load(r, "rope_freqs.weight", 1, r->n_rot / 2, false).w;
  r->rope_long = r64_load(r, "rope_factors_long.weight", 1, r->n_rot / 2, false).w;
  r->rope_short = r64_load(r, "rope_factors_short.weight", 1, r->n_rot / 2, false).w;
  r->layers = (r64_layer *)calloc(r->n_layers, sizeof *r->layers);
  for (size_t i = 0; r->layers && i < r->n_layers; i++) {
    r64_load_attention(r, i);
    r64_load_ffn(r, i);
  }
  if (!r->layers) snprintf(r->error, sizeof r->error, "no memory");
  if (!r->error[0]) return true;
  r64_close(r);
  return false;
}

// ---- roundings ----

// To `bits` significant bits, ties to even; `min_exp`: exponent below which spacing stays that of subnormals.
R64_FN double r64_round_bits(double x, int bits, int min_exp) {
  int e;
  if (x == 0 || !isfinite(x)) return x;
  frexp(x, &e); // |x| in [2^(e-1), 2^e)
  if (e < min_exp) e = min_exp;
  return ldexp(nearbyint(ldexp(x, bits - e)), e - bits);
}
R64_FN double r64_round_f16(double x) {
  double y = r64_round_bits(x, 11, -13);
  return fabs(y) > 65504.0 ? (y < 0 ? -INFINITY : INFINITY) : y;
}
R64_FN double r64_round_bf16(double x) { return r64_round_bits(x, 8, -125); }
// The same for what is a finite float: quick enough for weights.
R64_FN float r64_round_bf16_float(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  u = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
  memcpy(&x, &u, 4);
  return x;
}

// x[n] as the sums of a path with rounded activations see it.
R64_FN void r64_round_activations(const r64_options *o, size_t block, double *x, size_t n) {
  if (o->bf16)
    for (size_t i = 0; i < n; i++) x[i] = r64_round_bf16(x[i]);
  for (size_t b = 0; o->int8 && block > 1 && b < n; b += block) {
    double amax = 0;
    for (size_t i = b; i < b + block; i++) amax = fmax(amax, fabs(x[i]));
    double d = amax / 127.0;
    for (size_t i = b; i < b + block; i++) x[i] = d > 0 ? nearbyint(x[i] / d) * d : 0;
  }
}

// ---- layers ----

// y[n_rows] = W x (+ bias)
R64_FN void r64_matmul(const r64_options *o, const r64_matrix *m, const float *bias, size_t n_rows, size_t n_cols, const double *x,
                       double *y) {
  double *xr = (double *)malloc(n_cols * sizeof *xr);
  if (!xr) return;
  memcpy(xr, x, n_cols * sizeof *xr);
  r64_round_activations(o, m->block_len ? (size_t)m->block_len : n_cols, xr, n_cols);
  for (size_t r = 0; r < n_rows; r++) {
    const float *w = m->w + r * n_cols;
    double sum[4] = {0, 0, 0, 0}; // several, so that additions overlap
    for (size_t c = 0; c < n_cols; c++) sum[c % 4] += (double)(o->bf16 ? r64_round_bf16_float(w[c]) : w[c]) * xr[c];
    y[r] = sum[0] + sum[1] + (sum[2] + sum[3]) + (bias ? (double)bias[r] : 0);
  }
  free(xr);
}

R64_FN void r64_rms_norm(const double *x, const float *w, size_t n, double eps, double *y) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += x[i] * x[i];
  double scale = 1.0 / sqrt(sum / (double)n + eps);
  for (size_t i = 0; i < n; i++) y[i] = x[i] * scale * (double)w[i];
}

// Yarn (ggml_rope_yarn_corr_dims, beta_fast 32, beta_slow 1): 1 for pairs that turn often enough in the original context to keep
// their frequency, 0 for those that are slowed down, between them a ramp.
R64_FN double r64_yarn_keep(const r64_model *r, size_t i) {
  double two_pi = 2.0 * acos(-1.0), n = (double)r->n_rot, orig = (double)r->n_ctx_orig, scale = 2.0 * log(r->freq_base);
  double low = fmax(0.0, floor(n * log(orig / (32.0 * two_pi)) / scale));
  double high = fmin(n - 1.0, ceil(n * log(orig / (1.0 * two_pi)) / scale));
  return 1.0 - fmin(1.0, fmax(0.0, ((double)i - low) / fmax(0.001, high - low)));
}

// Rotates the first n_rot values of a head by position * freq_base^(-2i / n_rot) / factor_i * freq_scale; the others stay.
R64_FN void r64_rope(const r64_model *r, const float *factors, size_t pos, double *head) {
  double magnitude = r->attn_factor * (r->yarn ? 1.0 + 0.1 * log(1.0 / r->freq_scale) : 1.0);
  for (size_t i = 0; i < r->n_rot / 2; i++) {
    double theta = (double)pos * pow(r->freq_base, -2.0 * (double)i / (double)r->n_rot);
    if (factors) theta /= (double)factors[i];
    double keep = r->yarn ? r64_yarn_keep(r, i) : 0.0;
    theta = theta * r->freq_scale * (1.0 - keep) + theta * keep;
    double c = cos(theta) * magnitude, s = sin(theta) * magnitude;
    double *a = r->rope_halves ? head + i : head + 2 * i, *b = r->rope_halves ? a + r->n_rot / 2 : a + 1;
    double a0 = *a, b0 = *b;
    *a = a0 * c - b0 * s;
    *b = a0 * s + b0 * c;
  }
}

// Buffers of a forward pass, all tokens at once.
typedef struct r64_buffers {
  double *x, *h, *q, *k, *v, *a, *gate, *up, *score;
} r64_buffers;

R64_FN void r64_qkv(const r64_model *r, const r64_options *o, const r64_layer *l, size_t n, r64_buffers *b) {
  size_t hd = r->head_dim, nq = r->n_heads * hd, nk = r->n_kv_heads * hd, nv = r->n_kv_heads * r->head_dim_v;
  const float *factors = r->rope_freqs ? r->rope_freqs : (size_t)o->n_ctx > r->n_ctx_orig ? r->rope_long : r->rope_short;
  for (size_t t = 0; t < n; t++) {
    double *q = b->q + t * nq, *k = b->k + t * nk, *v = b->v + t * nv;
    r64_rms_norm(b->x + t * r->n_embd, l->attn_norm, r->n_embd, r->eps, b->h);
    r64_matmul(o, &l->q, l->q_bias, nq, r->n_embd, b->h, q);
    r64_matmul(o, &l->k, l->k_bias, nk, r->n_embd, b->h, k);
    r64_matmul(o, &l->v, l->v_bias, nv, r->n_embd, b->h, v);
    for (size_t i = 0; i < r->n_heads; i++) {
      if (l->q_norm) r64_rms_norm(q + i * hd, l->q_norm, hd, r->eps, q + i * hd);
      r64_rope(r, factors, t, q + i * hd);
    }
    for (size_t i = 0; i < r->n_kv_heads; i++) {
      if (l->k_norm) r64_rms_norm(k + i * hd, l->k_norm, hd, r->eps, k + i * hd);
      r64_rope(r, factors, t, k + i * hd);
    }
    for (size_t i = 0; o->kv_f16 && i < nk; i++) k[i] = r64_round_f16(k[i]);
    for (size_t i = 0; o->kv_f16 && i < nv; i++) v[i] = r64_round_f16(v[i]);
    // Queries are multiplied by 1 / sqrt(head_dim) before they are rounded.
    double scale = o->bf16 == 2 ? (double)(1.0f / sqrtf((float)hd)) : 1.0;
    for (size_t i = 0; o->bf16 == 2 && i < nq; i++) q[i] = r64_round_bf16(q[i] * scale) / scale;
    for (size_t i = 0; o->bf16 == 2 && i < nk; i++) k[i] = r64_round_bf16(k[i]);
    for (size_t i = 0; o->bf16 == 2 && i < nv; i++) v[i] = r64_round_bf16(v[i]);
  }
}

// exp(score[j] - max). Attention on a matrix unit rounds the exponentials of each piece of 256 positions, relative to the greatest
// score that the piece has among first..t.
R64_FN double r64_softmax_weight(const r64_options *o, const double *score, size_t first, size_t t, size_t j, double max) {
  double most = -INFINITY;
  if (o->bf16 < 2) return exp(score[j] - max);
  for (size_t i = j / 256 * 256; i < j / 256 * 256 + 256; i++)
    if (i >= first && i <= t) most = fmax(most, score[i]);
  return r64_round_bf16(exp(score[j] - most)) * exp(most - max);
}

// a = softmax(q[t] k / sqrt(head_dim)) v over the positions that t sees: itself and those before, within the window.
R64_FN void r64_attend(const r64_model *r, const r64_options *o, size_t t, const r64_buffers *b) {
  size_t hd = r->head_dim, hv = r->head_dim_v, group = r->n_heads / r->n_kv_heads;
  size_t first = r->window && t >= r->window ? t - r->window + 1 : 0;
  for (size_t i = 0; i < r->n_heads; i++) {
    const double *q = b->q + (t * r->n_heads + i) * hd;
    double *a = b->a + i * hv, max = -INFINITY, sum = 0;
    for (size_t j = first; j <= t; j++) {
      const double *k = b->k + (j * r->n_kv_heads + i / group) * hd;
      double dot = 0;
      for (size_t c = 0; c < hd; c++) dot += q[c] * k[c];
      b->score[j] = dot / sqrt((double)hd);
      max = fmax(max, b->score[j]);
    }
    for (size_t j = first; j <= t; j++) sum += exp(b->score[j] - max);
    for (size_t c = 0; c < hv; c++) a[c] = 0;
    for (size_t j = first; j <= t; j++) {
      const double *v = b->v + (j * r->n_kv_heads + i / group) * hv;
      double weight = r64_softmax_weight(o, b->score, first, t, j, max) / sum;
      for (size_t c = 0; c < hv; c++) a[c] += weight * v[c];
    }
  }
}

// What follows attention for one token: output projection, feed-forward, both added to x.
R64_FN void r64_mix(const r64_model *r, const r64_options *o, const r64_layer *l, double *x, const r64_buffers *b) {
  size_t width = r->n_heads * r->head_dim_v;
  bool relu2 = !strcmp(r->arch, "bitnet-b1.58") || !strcmp(r->arch, "bitnet-25");
  if (l->attn_sub_norm) r64_rms_norm(b->a, l->attn_sub_norm, width, r->eps, b->a);
  r64_matmul(o, &l->o, l->o_bias, r->n_embd, r->n_heads * r->head_dim_v, b->a, b->h);
  for (size_t i = 0; i < r->n_embd; i++) x[i] += b->h[i];
  r64_rms_norm(x, l->ffn_norm, r->n_embd, r->eps, b->h);
  r64_matmul(o, &l->gate, l->gate_bias, r->n_ff, r->n_embd, b->h, b->gate);
  r64_matmul(o, &l->up, l->up_bias, r->n_ff, r->n_embd, b->h, b->up);
  for (size_t i = 0; i < r->n_ff; i++) {
    double g = b->gate[i], relu = g > 0 ? g : 0;
    b->gate[i] = (relu2 ? relu * relu : g / (1.0 + exp(-g))) * b->up[i];
  }
  if (l->ffn_sub_norm) r64_rms_norm(b->gate, l->ffn_sub_norm, r->n_ff, r->eps, b->gate);
  r64_matmul(o, &l->down, l->down_bias, r->n_embd, r->n_ff, b->gate, b->h);
  for (size_t i = 0; i < r->n_embd; i++) x[i] += b->h[i];
}

// Logits after each of n tokens, which stand at positions 0..n-1: double [n, n_vocab]. False when memory ran out or an id is wrong.
R64_FN bool r64_forward(const r64_model *r, const r64_options *o, const qi_token *tokens, size_t n, double *logits) {
  size_t nq = r->n_heads * r->head_dim, nk = r->n_kv_heads * r->head_dim, nv = r->n_kv_heads * r->head_dim_v, e = r->n_embd;
  size_t sizes[] = {n * e, e, n * nq, n * nk, n * nv, r->n_heads * r->head_dim_v, r->n_ff, r->n_ff, n};
  size_t total = 0;
  for (size_t i = 0; i < 9; i++) total += sizes[i];
  double *all = (double *)calloc(total + 1, sizeof *all), *p = all;
  if (!all) return false;
  r64_buffers b;
  double **fields[] = {&b.x, &b.h, &b.q, &b.k, &b.v, &b.a, &b.gate, &b.up, &b.score};
  for (size_t i = 0; i < 9; i++) {
    *fields[i] = p;
    p += sizes[i];
  }
  bool ok = true;
  for (size_t t = 0; t < n && ok; t++) {
    ok = tokens[t] >= 0 && (size_t)tokens[t] < r->n_vocab;
    for (size_t i = 0; ok && i < e; i++) b.x[t * e + i] = (double)r->embd.w[(size_t)tokens[t] * e + i];
  }
  for (size_t i = 0; ok && i < r->n_layers; i++) {
    r64_qkv(r, o, &r->layers[i], n, &b);
    for (size_t t = 0; t < n; t++) {
      r64_attend(r, o, t, &b);
      r64_mix(r, o, &r->layers[i], b.x + t * e, &b);
    }
  }
  for (size_t t = 0; t < n && ok; t++) {
    r64_rms_norm(b.x + t * e, r->output_norm, e, r->eps, b.h);
    r64_matmul(o, &r->output, NULL, r->n_vocab, e, b.h, logits + t * r->n_vocab);
  }
  free(all);
  return ok;
}

// ---- comparison ----

typedef struct r64_diff {
  double cosine;   // smallest over the rows
  double best;     // the highest cosine of a row
  double max_diff; // greatest difference of two logits, in units of the root mean square of the wanted ones
  size_t n_argmax; // rows whose best token differs
} r64_diff;

R64_FN int r64_descending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? 1 : x > y ? -1 : 0;
}

// Compares rows of logits: `got` float [n_rows, n_vocab] against `want`. A NaN anywhere gives cosine -1.
R64_FN r64_diff r64_compare(const float *got, const double *want, size_t n_rows, size_t n_vocab) {
  r64_diff d = {1.0, -1.0, 0, 0};
  double squares = 0, *cosines = (double *)calloc(n_rows + 1, sizeof *cosines);
  if (!cosines) d.cosine = -1.0;
  for (size_t r = 0; r < n_rows; r++) {
    const float *g = got + r * n_vocab;
    const double *w = want + r * n_vocab;
    double gg = 0, ww = 0, gw = 0;
    size_t best_g = 0, best_w = 0;
    for (size_t i = 0; i < n_vocab; i++) {
      gg += (double)g[i] * (double)g[i];
      ww += w[i] * w[i];
      gw += (double)g[i] * w[i];
      d.max_diff = fmax(d.max_diff, fabs((double)g[i] - w[i]));
      if (g[i] > g[best_g]) best_g = i;
      if (w[i] > w[best_w]) best_w = i;
    }
    double cosine = gw / sqrt(gg * ww);
    if (isnan(cosine)) cosine = -1.0;
    if (cosine < d.cosine) d.cosine = cosine;
    if (cosines) cosines[r] = cosine;
    d.n_argmax += best_g != best_w;
    squares += ww;
  }
  if (cosines) {
    qsort(cosines, n_rows, sizeof *cosines, r64_descending);
    d.best = cosines[0];
  }
  free(cosines);
  d.max_diff /= sqrt(squares / ((double)n_rows * (double)n_vocab));
  return d;
}

#endif // QINFER_TESTS_REF64_H
