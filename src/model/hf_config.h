// ==== >>hf_config : config.json of Hugging Face models, and names of their tensors ====
#ifndef QI__MODEL_HF_CONFIG_H
#define QI__MODEL_HF_CONFIG_H

#include "hparams.h"
#include "meta_write.h"

// config.json says what GGUF says in metadata, under other names and with defaults that depend on the model. What is translated
// here ends up under GGUF's keys; what would change the result and is not known is refused.

#define QI__HF_ABSENT UINT32_MAX  // of numbers
#define QI__HF_MAX_IDS 32
#define QI__HF_MAX_FACTORS 2048   // half of the widest head

typedef struct qi__hf_ids {
  uint32_t id[QI__HF_MAX_IDS];
  uint32_t n;
} qi__hf_ids;

// Frequency factors of long contexts.
typedef struct qi__hf_factors {
  uint32_t n;
  uint8_t *out; // float32 [n] to fill in; NULL: count
} qi__hf_factors;

typedef struct qi__hf_config {
  char model_type[32], hidden_act[32];
  uint32_t n_embd, n_layers, n_heads, n_kv_heads, head_dim, n_ff, n_ctx, n_vocab, n_ctx_orig, window, max_window_layers;
  double rms_norm_eps, rope_theta, partial_rotary; // negative: absent
  int use_window, tied;                            // -1: absent
  qi__hf_ids bos, eos, pad;
  char quant_method[32], linear_class[32], quant_mode[32];
  char rope_type[32];
  double rope_factor, low_factor, high_factor, beta_fast, beta_slow, attn_factor;
  uint32_t rope_n_ctx_orig;
  qi__hf_factors short_factor, long_factor;
} qi__hf_config;

// ---- reading ----

typedef enum qi__hf_kind {
  QI__HF_SIZE, QI__HF_REAL, QI__HF_FLAG, QI__HF_TEXT, QI__HF_IDS, QI__HF_FACTORS, QI__HF_OBJECT
} qi__hf_kind;

// A key and the member of qi__hf_config that it fills. null stands for an absent key.
typedef struct qi__hf_field {
  const char *key;
  qi__hf_kind kind;
  size_t at;
} qi__hf_field;

#define QI__AT(member) offsetof(qi__hf_config, member)
static const qi__hf_field qi__hf_fields[] = {
    {"model_type", QI__HF_TEXT, QI__AT(model_type)},
    {"hidden_act", QI__HF_TEXT, QI__AT(hidden_act)},
    {"hidden_size", QI__HF_SIZE, QI__AT(n_embd)},
    {"num_hidden_layers", QI__HF_SIZE, QI__AT(n_layers)},
    {"num_attention_heads", QI__HF_SIZE, QI__AT(n_heads)},
    {"num_key_value_heads", QI__HF_SIZE, QI__AT(n_kv_heads)},
    {"head_dim", QI__HF_SIZE, QI__AT(head_dim)},
    {"intermediate_size", QI__HF_SIZE, QI__AT(n_ff)},
    {"max_position_embeddings", QI__HF_SIZE, QI__AT(n_ctx)},
    {"original_max_position_embeddings", QI__HF_SIZE, QI__AT(n_ctx_orig)},
    {"vocab_size", QI__HF_SIZE, QI__AT(n_vocab)},
    {"sliding_window", QI__HF_SIZE, QI__AT(window)},
    {"use_sliding_window", QI__HF_FLAG, QI__AT(use_window)},
    {"max_window_layers", QI__HF_SIZE, QI__AT(max_window_layers)},
    {"rms_norm_eps", QI__HF_REAL, QI__AT(rms_norm_eps)},
    {"rope_theta", QI__HF_REAL, QI__AT(rope_theta)},
    {"partial_rotary_factor", QI__HF_REAL, QI__AT(partial_rotary)},
    {"tie_word_embeddings", QI__HF_FLAG, QI__AT(tied)},
    {"bos_token_id", QI__HF_IDS, QI__AT(bos)},
    {"eos_token_id", QI__HF_IDS, QI__AT(eos)},
    {"pad_token_id", QI__HF_IDS, QI__AT(pad)},
    {"rope_scaling", QI__HF_OBJECT, 0},
    {"rope_parameters", QI__HF_OBJECT, 0},
    {"quantization_config", QI__HF_OBJECT, 1},
};
static const qi__hf_field qi__hf_rope_fields[] = {
    {"type", QI__HF_TEXT, QI__AT(rope_type)}, // of old files; rope_type is the same
    {"rope_type", QI__HF_TEXT, QI__AT(rope_type)},
    {"factor", QI__HF_REAL, QI__AT(rope_factor)},
    {"low_freq_factor", QI__HF_REAL, QI__AT(low_factor)},
    {"high_freq_factor", QI__HF_REAL, QI__AT(high_factor)},
    {"beta_fast", QI__HF_REAL, QI__AT(beta_fast)},
    {"beta_slow", QI__HF_REAL, QI__AT(beta_slow)},
    {"attention_factor", QI__HF_REAL, QI__AT(attn_factor)},
    {"original_max_position_embeddings", QI__HF_SIZE, QI__AT(rope_n_ctx_orig)},
    {"rope_theta", QI__HF_REAL, QI__AT(rope_theta)},
    {"partial_rotary_factor", QI__HF_REAL, QI__AT(partial_rotary)},
    {"short_factor", QI__HF_FACTORS, QI__AT(short_factor)},
    {"long_factor", QI__HF_FACTORS, QI__AT(long_factor)},
};
static const qi__hf_field qi__hf_quant_fields[] = {
    {"quant_method", QI__HF_TEXT, QI__AT(quant_method)},
    {"linear_class", QI__HF_TEXT, QI__AT(linear_class)},
    {"quantization_mode", QI__HF_TEXT, QI__AT(quant_mode)},
};
#undef QI__AT

// One id, or an array of them.
QI__FN void qi__hf_read_ids(qi__json *j, qi__hf_ids *ids) {
  bool array = qi__json_peek(j) == QI__JSON_ARRAY;
  ids->n = 0;
  if (array) qi__json_enter(j, QI__JSON_ARRAY);
  while (array ? qi__json_next(j) : !ids->n && !j->result) {
    double id = 0;
    qi__json_number(j, &id);
    if (ids->n == QI__HF_MAX_IDS) qi__json_fail(j, QI_ERR_LIMIT, "more than %d ids", QI__HF_MAX_IDS);
    if (j->result) return;
    bool none = !(id >= 0 && id < QI__HF_ABSENT); // files write -1 for none
    if (!none) ids->id[ids->n++] = (uint32_t)id;
    if (none && !array) return;
  }
}

QI__FN void qi__hf_read_factors(qi__json *j, qi__hf_factors *f) {
  uint32_t max = f->out ? f->n : QI__HF_MAX_FACTORS;
  f->n = 0;
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) {
    double v = 0;
    qi__json_number(j, &v);
    if (f->n == max) qi__json_fail(j, QI_ERR_LIMIT, "more than %u factors", max);
    if (j->result) return;
    uint32_t bits = qi__f32_bits((float)(v > (double)FLT_MAX ? 0 : v < -(double)FLT_MAX ? 0 : v)); // 0 is refused later
    for (int k = 0; f->out && k < 4; k++) f->out[4 * f->n + (uint32_t)k] = (uint8_t)(bits >> (8 * k));
    f->n++;
  }
}

// The value of one known key.
QI__FN void qi__hf_read_value(qi__json *j, const qi__hf_field *field, char *base) {
  void *at = base + field->at;
  bool flag = false;
  if (qi__json_take_null(j)) return;
  switch (field->kind) {
  case QI__HF_SIZE: qi__json_u32(j, (uint32_t *)at); break;
  case QI__HF_REAL: qi__json_number(j, (double *)at); break;
  case QI__HF_FLAG:
    qi__json_bool(j, &flag);
    *(int *)at = flag;
    break;
  case QI__HF_TEXT: qi__json_text(j, (char *)at, 32); break;
  case QI__HF_IDS: qi__hf_read_ids(j, (qi__hf_ids *)at); break;
  case QI__HF_FACTORS: qi__hf_read_factors(j, (qi__hf_factors *)at); break;
  case QI__HF_OBJECT: break; // the caller's
  }
}

// The object that is next; keys that are not in the list are skipped.
QI__FN void qi__hf_read_object(qi__json *j, const qi__hf_field *fields, size_t n, qi__hf_config *c) {
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    const qi__hf_field *field = NULL;
    for (size_t i = 0; i < n && !field; i++)
      if (qi__json_key_is(j, fields[i].key)) field = &fields[i];
    if (!field) qi__json_skip(j);
    else if (field->kind != QI__HF_OBJECT) qi__hf_read_value(j, field, (char *)c);
    else if (!qi__json_take_null(j)) {
      if (field->at) qi__hf_read_object(j, qi__hf_quant_fields, QI__COUNT_OF(qi__hf_quant_fields), c);
      else qi__hf_read_object(j, qi__hf_rope_fields, QI__COUNT_OF(qi__hf_rope_fields), c);
    }
  }
}

// Everything absent; outputs of factors stay.
QI__FN void qi__hf_config_init(qi__hf_config *c) {
  memset(c, 0, sizeof *c);
  c->n_embd = c->n_layers = c->n_heads = c->n_kv_heads = c->head_dim = c->n_ff = c->n_ctx = c->n_vocab = QI__HF_ABSENT;
  c->n_ctx_orig = c->window = c->max_window_layers = c->rope_n_ctx_orig = QI__HF_ABSENT;
  c->rms_norm_eps = c->rope_theta = c->partial_rotary = -1;
  c->rope_factor = c->low_factor = c->high_factor = c->beta_fast = c->beta_slow = c->attn_factor = -1;
  c->use_window = c->tied = -1;
}

// Reads an open config.json, or generation_config.json, over what `c` holds. Errors: those of JSON.
QI__FN qi_result qi__hf_config_read(qi__hf_config *c, const qi__file *f, qi_error *err) {
  qi__json j;
  qi__json_init(&j, f, 0, f->size, err);
  qi__hf_read_object(&j, qi__hf_fields, QI__COUNT_OF(qi__hf_fields), c);
  qi__json_end(&j);
  return j.result;
}

// ---- facts ----

QI__INLINE bool qi__hf_is(const char *text, const char *name) { return !strcmp(text, name); }

QI__FN bool qi__hf_has_silu(const qi__hf_config *c) { return qi__hf_is(c->hidden_act, "silu") || qi__hf_is(c->hidden_act, "swish");
    }

QI__FN const char *qi__hf_architecture(const qi__hf_config *c) {
  if (qi__hf_is(c->model_type, "mistral")) return "llama";
  if (qi__hf_is(c->model_type, "bitnet")) return qi__hf_has_silu(c) ? "bitnet" : "bitnet-b1.58";
  return c->model_type;
}

// Values that the library of these models takes where the file does not say.
QI__FN double qi__hf_rms_norm_eps(const qi__hf_config *c) {
  bool larger = qi__hf_is(c->model_type, "phi3") || qi__hf_is(c->model_type, "bitnet");
  return c->rms_norm_eps >= 0 ? c->rms_norm_eps : larger ? 1e-5 : 1e-6;
}
QI__FN double qi__hf_rope_theta(const qi__hf_config *c) {
  return c->rope_theta > 0 ? c->rope_theta : qi__hf_is(c->model_type, "bitnet") ? 500000 : 10000;
}

QI__FN uint32_t qi__hf_head_dim(const qi__hf_config *c) {
  if (c->head_dim != QI__HF_ABSENT) return c->head_dim;
  return c->n_embd != QI__HF_ABSENT && c->n_heads != QI__HF_ABSENT && c->n_heads ? c->n_embd / c->n_heads : 0;
}

// Elements of a head that are rotated; 0 when the file does not say enough.
QI__FN uint32_t qi__hf_n_rot(const qi__hf_config *c) {
  double part = c->partial_rotary;
  return part > 0 && part < 1 ? (uint32_t)(qi__hf_head_dim(c) * part) : qi__hf_head_dim(c);
}

QI__FN bool qi__hf_is_longrope(const qi__hf_config *c) { return qi__hf_is(c->rope_type, "longrope") || qi__hf_is(c->rope_type,
    "su"); }

QI__FN uint32_t qi__hf_n_ctx_orig(const qi__hf_config *c) {
  if (c->rope_n_ctx_orig != QI__HF_ABSENT) return c->rope_n_ctx_orig;
  return c->n_ctx_orig != QI__HF_ABSENT ? c->n_ctx_orig : c->n_ctx;
}

// Packed ternary weights; their scale multiplies the weights, or divides them (the older class of layers).
QI__FN bool qi__hf_is_ternary(const qi__hf_config *c) { return qi__hf_is(c->quant_method, "bitnet"); }
QI__FN bool qi__hf_scale_divides(const qi__hf_config *c) { return !qi__hf_is(c->linear_class, "autobitlinear"); }

// Window of attention, the same for all layers; 0 = none. QI__HF_ABSENT: some layers have one, some have none.
QI__FN uint32_t qi__hf_window(const qi__hf_config *c) {
  bool qwen = qi__hf_is(c->model_type, "qwen2") || qi__hf_is(c->model_type, "qwen3");
  bool known = qwen || qi__hf_is(c->model_type, "mistral") || qi__hf_is(c->model_type, "phi3");
  if (!known || c->window == QI__HF_ABSENT || c->use_window == 0 || (qwen && c->use_window != 1)) return 0;
  if (!qwen || c->max_window_layers == 0) return c->window;
  return c->max_window_layers == QI__HF_ABSENT || c->max_window_layers < c->n_layers ? QI__HF_ABSENT : 0; // from that layer on
}

// Refuses what would give other results. Only for weights that shall be used.
QI__FN qi_result qi__hf_config_check(const qi__hf_config *c, qi_error *err) {
  static const char *const rope_types[] = {"", "default", "linear", "llama3", "yarn", "longrope", "su"};
  bool bitnet = qi__hf_is(c->model_type, "bitnet"), known = false;
  if (!c->model_type[0]) return qi__fail(err, QI_ERR_FORMAT, "model_type: missing");
  if (c->hidden_act[0] && !qi__hf_has_silu(c) && !(bitnet && qi__hf_is(c->hidden_act, "relu2")))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "hidden_act: '%s' is not supported for %s", qi__show_text(c->hidden_act).s,
                    qi__show_text(c->model_type).s);
  if (c->quant_method[0] && !qi__hf_is_ternary(c))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "quantization_config: method '%s' is not supported; known is bitnet",
                    qi__show_text(c->quant_method).s);
  if (qi__hf_is_ternary(c) && qi__hf_is(c->quant_mode, "online"))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "quantization_config: weights that are still to be quantised (mode 'online') are not "
                    "supported; expected 'offline'");
  for (size_t i = 0; i < QI__COUNT_OF(rope_types); i++) known = known || qi__hf_is(c->rope_type, rope_types[i]);
  if (!known)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "rope_scaling: type '%s' is not supported; known are linear, llama3, yarn, longrope",
                    qi__show_text(c->rope_type).s);
  if (qi__hf_is(c->rope_type, "yarn") && ((c->beta_fast >= 0 && c->beta_fast != 32) || (c->beta_slow >= 0 && c->beta_slow != 1)))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "rope_scaling: beta_fast %g, beta_slow %g are not supported; known are 32 and 1",
                    c->beta_fast, c->beta_slow);
  if (qi__hf_window(c) == QI__HF_ABSENT)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "sliding_window: a window for some layers only (max_window_layers) is not supported");
  if (qi__hf_is_longrope(c) && (c->short_factor.n != qi__hf_n_rot(c) / 2 || c->long_factor.n != qi__hf_n_rot(c) / 2))
    return qi__fail(err, QI_ERR_FORMAT, "rope_scaling: %u short and %u long factors, expected %u", c->short_factor.n,
                    c->long_factor.n, qi__hf_n_rot(c) / 2);
  if (qi__hf_is(c->rope_type, "llama3") &&
      !(c->rope_factor > 0 && c->low_factor > 0 && c->high_factor > c->low_factor && qi__hf_n_ctx_orig(c) != QI__HF_ABSENT))
    return qi__fail(err, QI_ERR_FORMAT, "rope_scaling: llama3 needs factor, low_freq_factor below high_freq_factor, and "
                    "original_max_position_embeddings");
  return QI_OK;
}

// ---- rotary factors ----

// Number of each of the factor tensors that stand in for rope_scaling: 0 = none.
QI__FN uint32_t qi__hf_n_factors(const qi__hf_config *c) {
  bool needed = qi__hf_is(c->rope_type, "llama3") || qi__hf_is_longrope(c);
  return needed && qi__hf_n_rot(c) / 2 <= QI__HF_MAX_FACTORS ? qi__hf_n_rot(c) / 2 : 0;
}

// What Llama 3 divides frequency i by (its published code): long waves by `factor`, short ones by 1, those between by a blend.
QI__FN float qi__hf_llama3_factor(const qi__hf_config *c, uint32_t i) {
  const double two_pi = 6.283185307179586;
  double n_ctx = qi__hf_n_ctx_orig(c), wave = two_pi * qi__pow(qi__hf_rope_theta(c), 2.0 * i / qi__hf_n_rot(c));
  if (wave < n_ctx / c->high_factor) return 1;
  if (wave > n_ctx / c->low_factor) return (float)c->rope_factor;
  double smooth = (n_ctx / wave - c->low_factor) / (c->high_factor - c->low_factor);
  return (float)(1 / ((1 - smooth) / c->rope_factor + smooth));
}

// What longrope multiplies cos and sin with.
QI__FN double qi__hf_longrope_attn_factor(const qi__hf_config *c) {
  double n_orig = qi__hf_n_ctx_orig(c), scale = c->rope_factor > 0 ? c->rope_factor : (double)c->n_ctx / n_orig;
  if (c->attn_factor >= 0) return c->attn_factor;
  return scale > 1 && n_orig > 1 ? sqrt(1 + qi__ln(scale) / qi__ln(n_orig)) : 1;
}

// ---- metadata ----

// Key "<arch>.<suffix>"; absent numbers are not written.
QI__FN void qi__hf_put_size(qi__meta_writer *w, const qi__hf_config *c, const char *suffix, uint32_t v) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", qi__hf_architecture(c), suffix);
  if (v != QI__HF_ABSENT) qi__meta_put_u32(w, key, v);
}
QI__FN void qi__hf_put_real(qi__meta_writer *w, const qi__hf_config *c, const char *suffix, double v) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", qi__hf_architecture(c), suffix);
  if (v >= 0 && v <= (double)FLT_MAX) qi__meta_put_f32(w, key, v);
}
QI__FN void qi__hf_put_text(qi__meta_writer *w, const qi__hf_config *c, const char *suffix, const char *s) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", qi__hf_architecture(c), suffix);
  qi__meta_put_str(w, key, s);
}

QI__FN void qi__hf_write_rope(qi__meta_writer *w, const qi__hf_config *c) {
  qi__hf_put_real(w, c, "rope.freq_base", qi__hf_rope_theta(c));
  if (qi__hf_n_rot(c)) qi__hf_put_size(w, c, "rope.dimension_count", qi__hf_n_rot(c));
  bool linear = qi__hf_is(c->rope_type, "linear"), yarn = qi__hf_is(c->rope_type, "yarn");
  if (linear || yarn) {
    qi__hf_put_text(w, c, "rope.scaling.type", c->rope_type);
    qi__hf_put_real(w, c, "rope.scaling.factor", c->rope_factor);
  }
  if (yarn) { // GGUF's factor is in addition to the usual one
    qi__hf_put_size(w, c, "rope.scaling.original_context_length", qi__hf_n_ctx_orig(c));
    if (c->attn_factor >= 0 && c->rope_factor >= 1)
      qi__hf_put_real(w, c, "rope.scaling.attn_factor", c->attn_factor / (1 + 0.1 * qi__ln(c->rope_factor)));
  }
  if (qi__hf_is_longrope(c)) {
    qi__hf_put_text(w, c, "rope.scaling.type", "longrope");
    qi__hf_put_size(w, c, "rope.scaling.original_context_length", qi__hf_n_ctx_orig(c));
    qi__hf_put_real(w, c, "rope.scaling.attn_factor", qi__hf_longrope_attn_factor(c));
  }
}

// GGUF's keys for a config. `name` is the model's, for people.
QI__FN void qi__hf_write_config(qi__meta_writer *w, const qi__hf_config *c, const char *name) {
  qi__meta_put_str(w, "general.architecture", qi__hf_architecture(c));
  qi__meta_put_str(w, "general.name", name);
  qi__hf_put_size(w, c, "block_count", c->n_layers);
  qi__hf_put_size(w, c, "context_length", c->n_ctx);
  qi__hf_put_size(w, c, "embedding_length", c->n_embd);
  qi__hf_put_size(w, c, "feed_forward_length", c->n_ff);
  qi__hf_put_size(w, c, "attention.head_count", c->n_heads);
  qi__hf_put_size(w, c, "attention.head_count_kv", c->n_kv_heads);
  if (c->head_dim != QI__HF_ABSENT) {
    qi__hf_put_size(w, c, "attention.key_length", c->head_dim);
    qi__hf_put_size(w, c, "attention.value_length", c->head_dim);
  }
  qi__hf_put_real(w, c, "attention.layer_norm_rms_epsilon", qi__hf_rms_norm_eps(c));
  uint32_t window = qi__hf_window(c);
  if (window) qi__hf_put_size(w, c, "attention.sliding_window", window);
  qi__hf_write_rope(w, c);
  // GGUF's llama has the rows of q and k in another order, so that rotary pairs are neighbours.
  if (qi__hf_is(qi__hf_architecture(c), "llama")) qi__meta_put_bool(w, QI__KEY_ROPE_HALVES, true);
}

// ---- names of tensors ----

// The name in GGUF of tensor `name`: a copy of the same when there is none. `out` has QI__GGUF_MAX_NAME + 1 bytes. A tied
// lm_head.weight keeps its name: nothing shall use it.
QI__FN void qi__hf_tensor_name(const qi__hf_config *c, const char *name, char *out) {
  static const char *const whole[][2] = {
      {"embed_tokens.weight", "token_embd.weight"}, {"embed_tokens.weight_scale", "token_embd.weight_scale"},
      {"lm_head.weight", "output.weight"},          {"lm_head.weight_scale", "output.weight_scale"},
      {"norm.weight", "output_norm.weight"}};
  static const char *const layer[][2] = {
      {"input_layernorm", "attn_norm"},          {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},            {"self_attn.v_proj", "attn_v"},
      {"self_attn.qkv_proj", "attn_qkv"},        {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},       {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.attn_sub_norm", "attn_sub_norm"}, {"self_attn.inner_attn_ln", "attn_sub_norm"},
      {"post_attention_layernorm", "ffn_norm"},  {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},                 {"mlp.gate_up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},             {"mlp.ffn_sub_norm", "ffn_sub_norm"},
      {"mlp.ffn_layernorm", "ffn_sub_norm"}};
  snprintf(out, QI__GGUF_MAX_NAME + 1, "%s", name);
  const char *s = strncmp(name, "model.", 6) ? name : name + 6;
  if (c->tied == 1 && qi__hf_is(s, "lm_head.weight")) return;
  for (size_t i = 0; i < QI__COUNT_OF(whole); i++)
    if (qi__hf_is(s, whole[i][0])) snprintf(out, QI__GGUF_MAX_NAME + 1, "%s", whole[i][1]);
  if (strncmp(s, "layers.", 7)) return;
  const char *number = s + 7, *rest = number + strspn(number, "0123456789");
  size_t digits = (size_t)(rest - number);
  if (!digits || digits > 6 || *rest != '.') return;
  for (size_t i = 0; i < QI__COUNT_OF(layer); i++) {
    size_t n = strlen(layer[i][0]);
    const char *end = rest + 1 + n;
    if (strncmp(rest + 1, layer[i][0], n) || *end != '.') continue;
    if (!qi__hf_is(end, ".weight") && !qi__hf_is(end, ".bias") && !qi__hf_is(end, ".weight_scale")) continue;
    snprintf(out, QI__GGUF_MAX_NAME + 1, "blk.%.*s.%s%s", (int)digits, number, layer[i][1], end);
  }
}

#endif // QI__MODEL_HF_CONFIG_H
