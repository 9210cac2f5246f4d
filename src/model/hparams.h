// ==== >>hparams : architectures as data, and the numbers of a model ====
#ifndef QI__MODEL_HPARAMS_H
#define QI__MODEL_HPARAMS_H

#include "../kernels/math.h"
#include "gguf.h"

// ---- architectures ----

// What an architecture has beyond the common shape: pre-norm blocks of grouped-query attention with rotary positions, then SwiGLU.
enum {
  QI__HAS_SPLIT_QKV = 1,  // attn_q, attn_k, attn_v
  QI__HAS_FUSED_QKV = 2,  // attn_qkv: rows of q, then k, then v
  QI__HAS_GATE = 4,       // ffn_gate and ffn_up
  QI__HAS_FUSED_GATE = 8, // ffn_up: rows of the gate, then of up
  QI__HAS_QKV_BIAS = 16,  // attn_q.bias and so on are needed (elsewhere they may be there)
  QI__HAS_QK_NORM = 32,   // RMS norm of each query and key head before rotation
  QI__ROPE_NEIGHBOURS = 64, // rotary pairs are neighbours, else halves of the head
  QI__SUB_NORMS = 128,    // RMS norm of the attention's output and of what goes into ffn_down (elsewhere they may be there)
  QI__RELU2 = 256         // max(gate, 0)^2 * up instead of SwiGLU
};

// Of ours, a bool: rows of q and k are in the order that makes rotary pairs halves, whatever the architecture says. So Hugging Face
// has them; GGUF's llama has them in another order.
#define QI__KEY_ROPE_HALVES "qinfer.rope_halves"

typedef struct qi__architecture {
  const char *name; // general.architecture, also the prefix of its keys
  unsigned features;
} qi__architecture;

// One row adds an architecture of the common shape; new features get a bit, and a line where the forward pass looks at it.
static const qi__architecture qi__architectures[] = {
    {"llama", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__ROPE_NEIGHBOURS},
    {"qwen2", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__HAS_QKV_BIAS},
    {"qwen3", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__HAS_QK_NORM},
    {"phi3", QI__HAS_FUSED_QKV | QI__HAS_FUSED_GATE},
    {"bitnet", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__SUB_NORMS},
    {"bitnet-b1.58", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__SUB_NORMS | QI__RELU2},
    {"bitnet-25", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__SUB_NORMS | QI__RELU2},
    {"llama", QI__HAS_SPLIT_QKV | QI__HAS_GATE}, // with QI__KEY_ROPE_HALVES
};

QI__FN qi_result qi__architecture_find(const qi__gguf *g, const qi__architecture **out, qi_error *err) {
  const char *name;
  size_t len;
  qi_result r = qi__gguf_str(g, "general.architecture", true, &name, &len, err);
  bool halves = false;
  if (!r) r = qi__gguf_bool(g, QI__KEY_ROPE_HALVES, false, &halves, err);
  if (r) return r;
  char known[160];
  size_t used = 0;
  for (size_t i = 0; i < QI__COUNT_OF(qi__architectures); i++) {
    const qi__architecture *a = &qi__architectures[i];
    if (strlen(a->name) == len && !memcmp(a->name, name, len)) {
      if (halves && (a->features & QI__ROPE_NEIGHBOURS)) continue;
      *out = a;
      return QI_OK;
    }
    if (i && !strcmp(a->name, qi__architectures[0].name)) continue;
    int n = snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", a->name);
    if (n > 0) used = qi__min_size(used + (size_t)n, sizeof known - 1);
  }
  return qi__fail(err, QI_ERR_UNSUPPORTED, "general.architecture: '%s' is not supported; known are %s", qi__show(name, len).s,
                  known);
}

// ---- numbers ----

typedef enum qi__rope_scaling { QI__ROPE_PLAIN, QI__ROPE_LINEAR, QI__ROPE_YARN, QI__ROPE_LONG } qi__rope_scaling;

typedef struct qi__hparams {
  const qi__architecture *arch;
  size_t n_vocab, n_ctx_train, n_layers, n_embd, n_heads, n_kv_heads, head_dim_k, head_dim_v, n_ff;
  size_t n_rot;           // elements of a head that are rotated; even
  size_t sliding_window;  // position j is seen from i when i - j < sliding_window; 0 = all
  float rms_norm_eps;
  double rope_theta;
  qi__rope_scaling rope_scaling;
  double rope_factor;     // positions are divided by it (linear, yarn)
  double rope_attn_factor; // scales cos and sin
  size_t rope_n_ctx_orig; // context before scaling
} qi__hparams;

// What qi__hparams_load looks at, behind "<arch>.".
static const char *const qi__hparam_keys[] = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "expert_count", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.sliding_window",
    "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scaling.original_context_length",
};

// Limits against hostile files; far above any model.
#define QI__MAX_LAYERS 1024
#define QI__MAX_WIDTH (1u << 20)

// The key "<arch>.<suffix>".
typedef struct qi__key {
  char s[96];
} qi__key;

QI__FN qi__key qi__arch_key(const qi__hparams *h, const char *suffix) {
  qi__key key;
  snprintf(key.s, sizeof key.s, "%s.%s", h->arch->name, suffix);
  return key;
}

// A whole number within [min, max]; *out keeps its default when the key is absent and not required.
QI__FN qi_result qi__hparam_size(const qi__gguf *g, const qi__hparams *h, const char *suffix, bool required, size_t min, size_t max,
                                 size_t *out, qi_error *err) {
  qi__key key = qi__arch_key(h, suffix);
  uint32_t v = (uint32_t)*out;
  qi_result r = qi__gguf_u32(g, key.s, required, &v, err);
  if (r) return r;
  if (v < min || v > max) return qi__fail(err, QI_ERR_FORMAT, "key %s: is %u, expected %zu to %zu", key.s, v, min, max);
  *out = v;
  return QI_OK;
}

// A finite number within [min, max].
QI__FN qi_result qi__hparam_float(const qi__gguf *g, const qi__hparams *h, const char *suffix, bool required, float min, float max,
                                  float *out, qi_error *err) {
  qi__key key = qi__arch_key(h, suffix);
  qi_result r = qi__gguf_f32(g, key.s, required, out, err);
  if (r) return r;
  if (!qi__is_finite(*out) || *out < min || *out > max)
    return qi__fail(err, QI_ERR_FORMAT, "key %s: is %g, expected %g to %g", key.s, (double)*out, (double)min, (double)max);
  return QI_OK;
}

QI__FN qi_result qi__hparams_shape(qi__hparams *h, const qi__gguf *g, qi_error *err) {
  qi_result r;
  h->n_ctx_train = 2048;
  if ((r = qi__hparam_size(g, h, "block_count", true, 1, QI__MAX_LAYERS, &h->n_layers, err))) return r;
  if ((r = qi__hparam_size(g, h, "context_length", false, 1, INT32_MAX, &h->n_ctx_train, err))) return r;
  if ((r = qi__hparam_size(g, h, "embedding_length", true, 1, QI__MAX_WIDTH, &h->n_embd, err))) return r;
  if ((r = qi__hparam_size(g, h, "feed_forward_length", true, 1, QI__MAX_WIDTH, &h->n_ff, err))) return r;
  if ((r = qi__hparam_size(g, h, "attention.head_count", true, 1, QI__MAX_WIDTH, &h->n_heads, err))) return r;
  h->n_kv_heads = h->n_heads;
  if ((r = qi__hparam_size(g, h, "attention.head_count_kv", false, 1, h->n_heads, &h->n_kv_heads, err))) return r;
  h->head_dim_k = h->head_dim_v = h->n_embd / h->n_heads;
  if ((r = qi__hparam_size(g, h, "attention.key_length", false, 1, 4096, &h->head_dim_k, err))) return r;
  if ((r = qi__hparam_size(g, h, "attention.value_length", false, 1, 4096, &h->head_dim_v, err))) return r;
  if (h->n_heads % h->n_kv_heads)
    return qi__fail(err, QI_ERR_FORMAT, "attention.head_count: %zu is no multiple of attention.head_count_kv, %zu", h->n_heads,
                    h->n_kv_heads);
  if (h->n_heads * h->head_dim_k > QI__MAX_WIDTH || h->n_heads * h->head_dim_v > QI__MAX_WIDTH)
    return qi__fail(err, QI_ERR_FORMAT, "%zu heads of %zu: wider than %u", h->n_heads, h->head_dim_k, QI__MAX_WIDTH);
  h->n_rot = h->head_dim_k;
  if ((r = qi__hparam_size(g, h, "rope.dimension_count", false, 2, h->head_dim_k, &h->n_rot, err))) return r;
  if (h->n_rot % 2) return qi__fail(err, QI_ERR_FORMAT, "rope.dimension_count: %zu is odd", h->n_rot);
  if ((r = qi__hparam_size(g, h, "attention.sliding_window", false, 0, INT32_MAX, &h->sliding_window, err))) return r;
  size_t n_experts = 0;
  if ((r = qi__hparam_size(g, h, "expert_count", false, 0, INT32_MAX, &n_experts, err))) return r;
  if (!n_experts) return QI_OK;
  return qi__fail(err, QI_ERR_UNSUPPORTED, "%s.expert_count: %zu; experts are not supported", h->arch->name, n_experts);
}

// Names of rope.scaling.type. Longrope is told by its factor tensors; the name only announces them.
QI__FN qi_result qi__hparams_rope_scaling(qi__hparams *h, const qi__gguf *g, qi_error *err) {
  static const struct {
    const char *name;
    qi__rope_scaling scaling;
  } known[] = {{"none", QI__ROPE_PLAIN}, {"linear", QI__ROPE_LINEAR}, {"yarn", QI__ROPE_YARN}, {"longrope", QI__ROPE_LONG},
               {"su", QI__ROPE_LONG}};
  qi__key key = qi__arch_key(h, "rope.scaling.type");
  const char *name = NULL;
  size_t len = 0;
  qi_result r = qi__gguf_str(g, key.s, false, &name, &len, err);
  if (r) return r;
  if (!name) {
    h->rope_scaling = h->rope_factor != 1 ? QI__ROPE_LINEAR : QI__ROPE_PLAIN;
    return QI_OK;
  }
  for (size_t i = 0; i < QI__COUNT_OF(known); i++)
    if (strlen(known[i].name) == len && !memcmp(known[i].name, name, len)) {
      h->rope_scaling = known[i].scaling;
      return QI_OK;
    }
  return qi__fail(err, QI_ERR_UNSUPPORTED, "key %s: '%s' is not supported", key.s, qi__show(name, len).s);
}

QI__FN qi_result qi__hparams_rope(qi__hparams *h, const qi__gguf *g, qi_error *err) {
  float theta = 10000, factor = 1, attn_factor = 1;
  qi_result r;
  if ((r = qi__hparam_float(g, h, "rope.freq_base", false, 1, 1e12f, &theta, err))) return r;
  if ((r = qi__hparam_float(g, h, "rope.scale_linear", false, 0, 1e6f, &factor, err))) return r; // files of 2023
  if ((r = qi__hparam_float(g, h, "rope.scaling.factor", false, 0, 1e6f, &factor, err))) return r;
  if ((r = qi__hparam_float(g, h, "rope.scaling.attn_factor", false, 0, 1e3f, &attn_factor, err))) return r;
  h->rope_theta = theta;
  h->rope_factor = factor > 0 ? factor : 1; // 0 = not scaled
  h->rope_attn_factor = attn_factor > 0 ? attn_factor : 1;
  h->rope_n_ctx_orig = h->n_ctx_train;
  if ((r = qi__hparam_size(g, h, "rope.scaling.original_context_length", false, 1, INT32_MAX, &h->rope_n_ctx_orig, err))) return r;
  return qi__hparams_rope_scaling(h, g, err);
}

// n_vocab is that of the tokenizer, if there is one; weights check it against their shapes.
QI__FN qi_result qi__hparams_load(qi__hparams *h, const qi__gguf *g, qi_error *err) {
  memset(h, 0, sizeof *h);
  qi_result r;
  if ((r = qi__architecture_find(g, &h->arch, err))) return r;
  if ((r = qi__hparams_shape(h, g, err))) return r;
  if ((r = qi__hparam_float(g, h, "attention.layer_norm_rms_epsilon", true, 0, 1, &h->rms_norm_eps, err))) return r;
  return qi__hparams_rope(h, g, err);
}

// ---- rotary frequencies ----

// Where yarn's ramp between scaled and unscaled dimensions has its ends (Peng et al. 2023, equation 17): the dimension whose
// wavelength makes `turns` turns in the original context.
QI__FN double qi__yarn_dimension(const qi__hparams *h, double turns) {
  const double two_pi = 6.283185307179586;
  return (double)h->n_rot * qi__ln((double)h->rope_n_ctx_orig / (turns * two_pi)) / (2 * qi__ln(h->rope_theta));
}

QI__FN double qi__yarn_ramp(const qi__hparams *h, size_t pair) {
  double low = floor(qi__yarn_dimension(h, 32)), high = ceil(qi__yarn_dimension(h, 1));
  if (low < 0) low = 0;
  if (high > (double)h->n_rot - 1) high = (double)h->n_rot - 1;
  double width = high - low > 0.001 ? high - low : 0.001;
  double t = ((double)pair - low) / width;
  return 1 - (t < 0 ? 0 : t > 1 ? 1 : t); // 1 = keep the frequency, 0 = divide it
}

// Angle per position of each rotated pair: frequency[i] = theta^(-2i / n_rot), divided by factors[i] (Llama-3 and phi-3; may be
// NULL) and by the scaling of the model. Returns what cos and sin are multiplied with.
QI__FN double qi__rope_frequencies(const qi__hparams *h, const float *factors, double *frequency) {
  for (size_t i = 0; i < h->n_rot / 2; i++) {
    double f = qi__pow(h->rope_theta, -2.0 * (double)i / (double)h->n_rot);
    if (factors) f /= factors[i];
    if (h->rope_scaling == QI__ROPE_LINEAR) f /= h->rope_factor;
    if (h->rope_scaling == QI__ROPE_YARN) {
      double keep = qi__yarn_ramp(h, i), scaled = f / h->rope_factor;
      f = scaled * (1 - keep) + f * keep;
    }
    frequency[i] = f;
  }
  double magnitude = h->rope_attn_factor;
  if (h->rope_scaling == QI__ROPE_YARN) magnitude *= 1 + 0.1 * qi__ln(h->rope_factor);
  return magnitude;
}

#endif // QI__MODEL_HPARAMS_H
