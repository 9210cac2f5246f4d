// Small models with random weights, as GGUF files in memory, for tests of whole forward passes. Weights go through qi_quantize, so
// that the file holds real blocks; the vocabulary is a small SentencePiece one with byte tokens where there is room for them.
//
//   rm_desc d = rm_llama();          // or rm_qwen2(), rm_qwen3(), rm_phi3(), rm_bitnet(arch); then change fields
//   d.format = QI_FORMAT_Q4_K;
//   size_t size;
//   uint8_t *file = rm_build(&d, &size);   // free() it; NULL: no memory, or qi_quantize refused
#ifndef QINFER_TESTS_RANDOM_MODEL_H
#define QINFER_TESTS_RANDOM_MODEL_H

#include "gguf_write.h"

#include <math.h>
#include <stdbool.h>

// A metadata value that replaces (or adds) a key of the architecture: {"block_count", 0, NULL} for llama.block_count.
typedef struct rm_override {
  const char *key;
  int64_t value;
  const char *text; // not NULL: a string instead of a u32
} rm_override;

#define RM_MAX_OVERRIDES 4

typedef struct rm_desc {
  const char *arch;
  const char *tensor_arch; // whose tensors to write when arch is a made-up name; NULL = arch
  int n_layers, n_embd, n_heads, n_kv_heads, n_ff, n_vocab, n_ctx_train;
  int head_dim;             // 0 = n_embd / n_heads, keys absent; else attention.key_length and value_length
  int head_dim_v;           // 0 = head_dim; needs head_dim
  int n_rot;                // 0 = head_dim, key absent; -1 = head_dim, key present
  float freq_base;          // 0 = key absent
  qi_format format;         // of matrices; those with rows that are no whole blocks become F16
  qi_format output_format;  // NONE = format
  bool tied;                // no output.weight
  bool rope_freqs;          // rope_freqs.weight
  bool qkv_bias;            // in any architecture; qwen2 always has them
  bool ffn_bias;            // and attn_output.bias
  bool sub_norms;           // attn_sub_norm.weight, ffn_sub_norm.weight; in any architecture
  const char *scaling_type; // NULL = key absent
  float scaling_factor;     // 0 = key absent
  float attn_factor;        // 0 = key absent
  int n_ctx_orig;           // 0 = key absent
  bool rope_long_short;     // rope_factors_long.weight, rope_factors_short.weight
  int window;               // sliding_window; -1 = key absent
  uint64_t seed;
  const char *skip_key;    // without this key of the architecture ("embedding_length")
  const char *skip_tensor; // without this tensor
  const char *wide_tensor; // this tensor with one block a row more than it should have (norms: one value)
  const char *long_tensor; // this tensor with one row more
  rm_override override[RM_MAX_OVERRIDES];
} rm_desc;

// ---- random numbers (splitmix64) ----

GW_FN uint64_t rm_next(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
// Uniform in -1..1.
GW_FN float rm_uniform(uint64_t *state) { return (float)((double)(rm_next(state) >> 11) * 0x1p-52 - 1.0); }

// ---- metadata ----

GW_FN void rm_key(const rm_desc *d, const char *key, char full[128]) { snprintf(full, 128, "%s.%s", d->arch, key); }

GW_FN bool rm_replaced(const rm_desc *d, const char *key) {
  if (d->skip_key && !strcmp(d->skip_key, key)) return true;
  for (int i = 0; i < RM_MAX_OVERRIDES; i++)
    if (d->override[i].key && !strcmp(d->override[i].key, key)) return true;
  return false;
}
GW_FN void rm_u32(gw_file *w, const rm_desc *d, const char *key, int v) {
  char full[128];
  rm_key(d, key, full);
  if (!rm_replaced(d, key)) gw_kv_u32(w, full, (uint32_t)v);
}
GW_FN void rm_f32(gw_file *w, const rm_desc *d, const char *key, float v) {
  char full[128];
  rm_key(d, key, full);
  if (!rm_replaced(d, key)) gw_kv_f32(w, full, v);
}

GW_FN void rm_write_hparams(gw_file *w, const rm_desc *d) {
  char full[128];
  gw_kv_str(w, "general.architecture", d->arch);
  gw_kv_str(w, "general.name", "random");
  rm_u32(w, d, "block_count", d->n_layers);
  rm_u32(w, d, "context_length", d->n_ctx_train);
  rm_u32(w, d, "embedding_length", d->n_embd);
  rm_u32(w, d, "feed_forward_length", d->n_ff);
  rm_u32(w, d, "attention.head_count", d->n_heads);
  rm_u32(w, d, "attention.head_count_kv", d->n_kv_heads);
  rm_f32(w, d, "attention.layer_norm_rms_epsilon", 1e-5f);
  if (d->head_dim) {
    rm_u32(w, d, "attention.key_length", d->head_dim);
    rm_u32(w, d, "attention.value_length", d->head_dim_v ? d->head_dim_v : d->head_dim);
  }
  if (d->n_rot) rm_u32(w, d, "rope.dimension_count", d->n_rot > 0 ? d->n_rot : d->head_dim ? d->head_dim : d->n_embd / d->n_heads);
  if (d->freq_base != 0) rm_f32(w, d, "rope.freq_base", d->freq_base);
  rm_key(d, "rope.scaling.type", full);
  if (d->scaling_type) gw_kv_str(w, full, d->scaling_type);
  if (d->scaling_factor != 0) rm_f32(w, d, "rope.scaling.factor", d->scaling_factor);
  if (d->attn_factor != 0) rm_f32(w, d, "rope.scaling.attn_factor", d->attn_factor);
  if (d->n_ctx_orig) rm_u32(w, d, "rope.scaling.original_context_length", d->n_ctx_orig);
  if (d->window >= 0) rm_u32(w, d, "attention.sliding_window", d->window);
  for (int i = 0; i < RM_MAX_OVERRIDES; i++) {
    if (!d->override[i].key) continue;
    rm_key(d, d->override[i].key, full);
    if (d->override[i].text)
      gw_kv_str(w, full, d->override[i].text);
    else
      gw_kv_u32(w, full, (uint32_t)d->override[i].value);
  }
}

// Three special tokens, bytes where n_vocab has room for them, the space mark, letters, then pairs of letters.
GW_FN void rm_write_vocab(gw_file *w, const rm_desc *d) {
  size_t n = (size_t)d->n_vocab, at = 0;
  char(*text)[16] = (char(*)[16])calloc(n, 16);
  const char **texts = (const char **)calloc(n, sizeof *texts);
  float *score = (float *)calloc(n, sizeof *score);
  int32_t *type = (int32_t *)calloc(n, sizeof *type);
  static const char *const special[] = {"<unk>", "<s>", "</s>"};
  static const char letters[] = "etaoinshrdlucmfwygpbvkxqjzTHESAIW.,!?'0123456789";
  if (text && texts && score && type) {
    for (size_t i = 0; i < 3 && at < n; i++, at++) {
      type[at] = i ? 3 : 2; // control, unknown
      snprintf(text[at], 16, "%s", special[i]);
    }
    for (unsigned i = 0; i < 256 && n >= 300; i++, at++) {
      type[at] = 6; // byte
      snprintf(text[at], 16, "<0x%02X>", i);
    }
    for (size_t i = at; i < n; i++) {
      size_t j = i - at, n_letters = sizeof letters - 1;
      type[i] = 1; // normal
      score[i] = -(float)j;
      if (j == 0)
        snprintf(text[i], 16, "\xe2\x96\x81");
      else if (j <= n_letters)
        snprintf(text[i], 16, "%c", letters[j - 1]);
      else if (j <= 2 * n_letters)
        snprintf(text[i], 16, "\xe2\x96\x81%c", letters[j - 1 - n_letters]);
      else
        snprintf(text[i], 16, "%c%c", letters[(j - 1) / n_letters % n_letters], letters[(j - 1) % n_letters]);
    }
    for (size_t i = 0; i < n; i++) texts[i] = text[i];
    gw_kv_str(w, "tokenizer.ggml.model", "llama");
    gw_kv_strs(w, "tokenizer.ggml.tokens", texts, NULL, n);
    gw_kv_f32s(w, "tokenizer.ggml.scores", score, n);
    gw_kv_i32s(w, "tokenizer.ggml.token_type", type, n);
    gw_kv_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    gw_kv_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gw_kv_u32(w, "tokenizer.ggml.eos_token_id", 2);
  } else {
    w->out.failed = 1;
  }
  free(text);
  free(texts);
  free(score);
  free(type);
}

// ---- tensors ----

typedef struct rm_writer {
  gw_file w;
  const rm_desc *d;
  uint64_t rng;
  bool failed;
} rm_writer;

// Random tensor [n_rows, n_cols] around `mean`, uniform with standard deviation `std`; n_rows 0 = a vector in F32. The same values
// on every machine: fmaf leaves compilers no choice.
GW_FN void rm_tensor(rm_writer *b, const char *name, int n_rows, int n_cols, float mean, float std, qi_format format) {
  if (b->failed || (b->d->skip_tensor && !strcmp(b->d->skip_tensor, name))) return;
  bool vector = n_rows == 0;
  const qi_format_info *info = qi_format_get(vector ? QI_FORMAT_F32 : format);
  if (!info || n_cols % info->block_len) {
    format = QI_FORMAT_F16;
    info = qi_format_get(format);
  }
  if (vector) format = QI_FORMAT_F32;
  if (b->d->wide_tensor && !strcmp(b->d->wide_tensor, name)) n_cols += info->block_len;
  if (b->d->long_tensor && !strcmp(b->d->long_tensor, name)) n_rows++;
  size_t rows = vector ? 1 : (size_t)n_rows, cols = (size_t)n_cols, n = rows * cols, bytes = qi_format_bytes(format, n);
  float *values = (float *)malloc(n * sizeof *values);
  void *blocks = malloc(bytes ? bytes : 1);
  if (values && blocks && bytes) {
    for (size_t i = 0; i < n; i++) values[i] = fmaf(std * 1.7320508f, rm_uniform(&b->rng), mean);
    if (format == QI_FORMAT_F32)
      memcpy(blocks, values, bytes);
    else if (qi_quantize(format, values, blocks, n, cols, NULL, NULL) != QI_OK)
      b->failed = true;
    uint64_t shape[2] = {cols, rows};
    gw_tensor(&b->w, name, (uint32_t)info->gguf_id, vector ? 1 : 2, shape, blocks, bytes);
  } else {
    b->failed = true;
  }
  free(values);
  free(blocks);
}

// In a layer, matrices scaled so that values keep their size; `gain` 1 = inputs of size 1 give outputs of size 1.
GW_FN void rm_matrix(rm_writer *b, int layer, const char *name, int n_rows, int n_cols, float gain) {
  char full[64];
  snprintf(full, sizeof full, "blk.%d.%s", layer, name);
  rm_tensor(b, full, n_rows, n_cols, 0, gain / sqrtf((float)n_cols), b->d->format);
}
GW_FN void rm_vector(rm_writer *b, int layer, const char *name, int n, float mean, float std) {
  char full[64];
  snprintf(full, sizeof full, "blk.%d.%s", layer, name);
  rm_tensor(b, full, 0, n, mean, std, QI_FORMAT_F32);
}

GW_FN void rm_write_layer(rm_writer *b, int i, bool fused, bool head_norms, bool biased) {
  const rm_desc *d = b->d;
  int hd = d->head_dim ? d->head_dim : d->n_embd / d->n_heads, nq = d->n_heads * hd, nk = d->n_kv_heads * hd;
  int hv = d->head_dim_v ? d->head_dim_v : hd, nv = d->n_kv_heads * hv;
  rm_vector(b, i, "attn_norm.weight", d->n_embd, 1, 0.3f);
  if (fused) {
    rm_matrix(b, i, "attn_qkv.weight", nq + nk + nv, d->n_embd, 1.3f);
  } else {
    rm_matrix(b, i, "attn_q.weight", nq, d->n_embd, 1.3f); // scores with a spread of about 1.7: attention that prefers
    rm_matrix(b, i, "attn_k.weight", nk, d->n_embd, 1.3f);
    rm_matrix(b, i, "attn_v.weight", nv, d->n_embd, 1);
  }
  if (biased) {
    rm_vector(b, i, "attn_q.bias", nq, 0.2f, 0.5f);
    rm_vector(b, i, "attn_k.bias", nk, -0.2f, 0.5f);
    rm_vector(b, i, "attn_v.bias", nv, 0.1f, 0.5f);
  }
  if (head_norms) {
    rm_vector(b, i, "attn_q_norm.weight", hd, 1, 0.3f);
    rm_vector(b, i, "attn_k_norm.weight", hd, 1, 0.3f);
  }
  if (d->sub_norms) rm_vector(b, i, "attn_sub_norm.weight", d->n_heads * hv, 1, 0.3f);
  rm_matrix(b, i, "attn_output.weight", d->n_embd, d->n_heads * hv, 1);
  rm_vector(b, i, "ffn_norm.weight", d->n_embd, 1, 0.3f);
  if (!fused) rm_matrix(b, i, "ffn_gate.weight", d->n_ff, d->n_embd, 1);
  rm_matrix(b, i, "ffn_up.weight", fused ? 2 * d->n_ff : d->n_ff, d->n_embd, 1);
  if (d->sub_norms) rm_vector(b, i, "ffn_sub_norm.weight", d->n_ff, 1, 0.3f);
  rm_matrix(b, i, "ffn_down.weight", d->n_embd, d->n_ff, 1);
  if (d->ffn_bias) {
    rm_vector(b, i, "attn_output.bias", d->n_embd, 0, 0.3f);
    rm_vector(b, i, "ffn_gate.bias", d->n_ff, 0, 0.3f);
    rm_vector(b, i, "ffn_up.bias", d->n_ff, 0, 0.3f);
    rm_vector(b, i, "ffn_down.bias", d->n_embd, 0, 0.3f);
  }
}

// The file (malloc). NULL on failure.
GW_FN uint8_t *rm_build(const rm_desc *d, size_t *size) {
  rm_writer b;
  memset(&b, 0, sizeof b);
  b.d = d;
  b.rng = d->seed + 12345;
  const char *arch = d->tensor_arch ? d->tensor_arch : d->arch;
  int hd = d->head_dim ? d->head_dim : d->n_embd / d->n_heads, half = (d->n_rot > 0 ? d->n_rot : hd) / 2;
  gw_begin(&b.w, 3);
  rm_write_hparams(&b.w, d);
  rm_write_vocab(&b.w, d);
  rm_tensor(&b, "token_embd.weight", d->n_vocab, d->n_embd, 0, 1, d->format);
  rm_tensor(&b, "output_norm.weight", 0, d->n_embd, 1, 0.3f, QI_FORMAT_F32);
  if (!d->tied)
    rm_tensor(&b, "output.weight", d->n_vocab, d->n_embd, 0, 1.5f / sqrtf((float)d->n_embd),
              d->output_format ? d->output_format : d->format);
  if (d->rope_freqs) rm_tensor(&b, "rope_freqs.weight", 0, half, 4, 1.5f, QI_FORMAT_F32);
  if (d->rope_long_short) {
    rm_tensor(&b, "rope_factors_long.weight", 0, half, 8, 3, QI_FORMAT_F32);
    rm_tensor(&b, "rope_factors_short.weight", 0, half, 1.2f, 0.1f, QI_FORMAT_F32);
  }
  for (int i = 0; i < d->n_layers; i++)
    rm_write_layer(&b, i, !strcmp(arch, "phi3"), !strcmp(arch, "qwen3"), d->qkv_bias || !strcmp(arch, "qwen2"));
  size_t bytes = 0;
  const uint8_t *file = gw_finish(&b.w, &bytes);
  uint8_t *copy = file && !b.failed ? (uint8_t *)malloc(bytes) : NULL;
  if (copy) memcpy(copy, file, bytes);
  gw_free(&b.w);
  *size = copy ? bytes : 0;
  return copy;
}

// ---- starting points ----

// Width 64 with heads of 16: rows that hold whole blocks of 32, none of 256. Plain: as many key heads as heads, F32.
GW_FN rm_desc rm_llama(void) {
  rm_desc d;
  memset(&d, 0, sizeof d);
  d.arch = "llama";
  d.n_layers = 2;
  d.n_embd = 64;
  d.n_heads = d.n_kv_heads = 4;
  d.n_ff = 96;
  d.n_vocab = 320;
  d.n_ctx_train = 128;
  d.n_rot = -1;
  d.freq_base = 10000.0f;
  d.format = QI_FORMAT_F32;
  d.window = -1;
  d.seed = 1;
  return d;
}
// Width 256, feed-forward 512: whole blocks in every format. Few tokens, which is most of the time it takes.
GW_FN rm_desc rm_llama_256(qi_format format) {
  rm_desc d = rm_llama();
  d.n_embd = 256;
  d.n_ff = 512;
  d.n_vocab = 130;
  d.n_kv_heads = 2;
  d.format = format;
  return d;
}
GW_FN rm_desc rm_qwen2(void) {
  rm_desc d = rm_llama();
  d.arch = "qwen2";
  d.n_kv_heads = 2;
  d.n_rot = 0;
  d.freq_base = 1000000.0f;
  d.tied = true;
  return d;
}
GW_FN rm_desc rm_qwen3(void) {
  rm_desc d = rm_llama();
  d.arch = "qwen3";
  d.n_kv_heads = 2;
  d.head_dim = 32; // twice n_embd / n_heads
  d.n_rot = 0;
  d.freq_base = 1000000.0f;
  d.tied = true;
  return d;
}
// arch: bitnet (SiLU), bitnet-b1.58 or bitnet-25 (squared ReLU).
GW_FN rm_desc rm_bitnet(const char *arch) {
  rm_desc d = rm_llama();
  d.arch = arch;
  d.n_kv_heads = 2;
  d.sub_norms = true;
  d.tied = true;
  return d;
}
// Context of 8192 stretched from 64: sessions up to 64 take the short factors.
GW_FN rm_desc rm_phi3(void) {
  rm_desc d = rm_llama();
  d.arch = "phi3";
  d.n_ctx_train = 8192;
  d.n_ctx_orig = 64;
  d.attn_factor = 1.19f;
  d.rope_long_short = true;
  d.window = 0;
  return d;
}

#endif // QINFER_TESTS_RANDOM_MODEL_H
