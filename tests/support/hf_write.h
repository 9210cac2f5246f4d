// Hugging Face folders for tests: written from a GGUF model that is open (LOAD_ALL), or file by file for broken ones.
//
//   hw_folder h;
//   hw_begin(&h);                        // a folder of its own in the system's place for such
//   hw_model(&h, m, &options);           // config.json, tokenizer.json, model*.safetensors: the same model
//   qi_model_desc md = {.path = h.dir};
//   hw_end(&h);                          // removes it
#ifndef QINFER_TESTS_HF_WRITE_H
#define QINFER_TESTS_HF_WRITE_H

#include "gguf_cases.h"

#include <stdbool.h>

typedef struct hw_folder {
  char dir[256];
  char names[16][64];
  int n_files;
} hw_folder;

GW_FN void hw_path(const hw_folder *h, const char *name, char path[512]) { snprintf(path, 512, "%s/%s", h->dir, name); }

GW_FN void hw_begin(hw_folder *h) {
  memset(h, 0, sizeof *h);
  gc_make_dir(h->dir);
}
GW_FN void hw_remove(hw_folder *h, const char *name) {
  char path[512];
  hw_path(h, name, path);
  remove(path);
}
GW_FN void hw_end(hw_folder *h) {
  for (int i = 0; i < h->n_files; i++) hw_remove(h, h->names[i]);
  remove(h->dir);
}
GW_FN void hw_file(hw_folder *h, const char *name, const void *bytes, size_t size) {
  char path[512];
  int i = 0;
  while (i < h->n_files && strcmp(h->names[i], name)) i++;
  if (i == h->n_files) snprintf(h->names[h->n_files++], 64, "%s", name);
  hw_path(h, name, path);
  remove(path); // never truncate what a model may have mapped
  assert_true(gw_save(bytes, size, path));
}
GW_FN void hw_text(hw_folder *h, const char *name, const char *text) { hw_file(h, name, text, strlen(text)); }

// ---- JSON ----

GW_FN void hw_put(gw_buf *b, const char *s) { gw_bytes(b, s, strlen(s)); }
GW_FN QI__PRINTF(2, 3) void hw_printf(gw_buf *b, const char *fmt, ...) {
  char text[1024];
  va_list args;
  va_start(args, fmt);
  int n = vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  assert_true(n >= 0 && (size_t)n < sizeof text);
  gw_bytes(b, text, (size_t)n);
}
GW_FN void hw_string(gw_buf *b, const char *s, size_t len) {
  hw_put(b, "\"");
  for (size_t i = 0; i < len; i++) {
    unsigned char c = (unsigned char)s[i];
    if (c < 0x20) hw_printf(b, "\\u%04x", c);
    else if (c == '"' || c == '\\') hw_printf(b, "\\%c", c);
    else gw_bytes(b, s + i, 1);
  }
  hw_put(b, "\"");
}
GW_FN void hw_save_buf(hw_folder *h, const char *name, gw_buf *b) {
  assert_false(b->failed);
  hw_file(h, name, b->data, b->size);
  free(b->data);
  memset(b, 0, sizeof *b);
}

// ---- safetensors ----

typedef struct hw_tensors {
  gw_buf header, data;
  int n;
} hw_tensors;

GW_FN void hw_tensor(hw_tensors *t, const char *name, const char *dtype, int n_dims, const uint64_t *shape, const void *bytes,
                     size_t size) {
  hw_printf(&t->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->n++ ? "," : "{\"__metadata__\":{\"format\":\"pt\"},", name,
      dtype);
  for (int i = 0; i < n_dims; i++) hw_printf(&t->header, "%s%llu", i ? "," : "", (unsigned long long)shape[i]);
  hw_printf(&t->header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)t->data.size,
      (unsigned long long)(t->data.size + size));
  gw_bytes(&t->data, bytes, size);
}
// Writes and frees. `pad`: spaces behind the header, so that the data may begin at any address.
GW_FN void hw_save_tensors(hw_folder *h, const char *name, hw_tensors *t, int pad) {
  gw_buf file;
  memset(&file, 0, sizeof file);
  if (!t->n) hw_put(&t->header, "{");
  hw_put(&t->header, "}");
  for (int i = 0; i < pad; i++) hw_put(&t->header, " ");
  gw_uint(&file, t->header.size, 8);
  gw_bytes(&file, t->header.data, t->header.size);
  gw_bytes(&file, t->data.data, t->data.size);
  free(t->header.data);
  free(t->data.data);
  memset(t, 0, sizeof *t);
  hw_save_buf(h, name, &file);
}

// ---- models ----

typedef struct hw_options {
  const char *model_type;  // NULL = the architecture's name
  const char *extra;       // more keys for config.json, each ending with a comma
  const char *hidden_act;  // NULL = silu
  int n_shards;            // 0 = one file without index
  int pad;                 // of each header
  bool pairs;              // merges as arrays of two
  bool packed;             // TQ2_0 matrices, each of one scale, as packed uint8 with weight_scale
  bool divides;            // and that scale divides
  bool bad_code;           // and one code is 3
  bool no_tokenizer;
  bool with_prefix;        // tokenizer puts a blank before text
} hw_options;

// Tensor name of Hugging Face; NULL: it has none (frequency factors).
GW_FN const char *hw_name(const char *gguf, bool fused, char out[128]) {
  static const char *const names[][2] = {
      {"attn_norm.", "input_layernorm."}, {"attn_q.", "self_attn.q_proj."}, {"attn_k.", "self_attn.k_proj."},
      {"attn_v.", "self_attn.v_proj."}, {"attn_qkv.", "self_attn.qkv_proj."}, {"attn_output.", "self_attn.o_proj."},
      {"attn_q_norm.", "self_attn.q_norm."}, {"attn_k_norm.", "self_attn.k_norm."}, {"attn_sub_norm.", "self_attn.attn_sub_norm."},
      {"ffn_norm.", "post_attention_layernorm."}, {"ffn_gate.", "mlp.gate_proj."}, {"ffn_down.", "mlp.down_proj."},
      {"ffn_up.", "mlp.up_proj."}, {"ffn_sub_norm.", "mlp.ffn_sub_norm."}};
  int layer, used = 0;
  if (!strcmp(gguf, "token_embd.weight")) return "model.embed_tokens.weight";
  if (!strcmp(gguf, "output_norm.weight")) return "model.norm.weight";
  if (!strcmp(gguf, "output.weight")) return "lm_head.weight";
  if (sscanf(gguf, "blk.%d.%n", &layer, &used) != 1) return NULL;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    size_t n = strlen(names[i][0]);
    if (strncmp(gguf + used, names[i][0], n)) continue;
    const char *module = fused && !strcmp(names[i][0], "ffn_up.") ? "mlp.gate_up_proj." : names[i][1];
    snprintf(out, 128, "model.layers.%d.%s%s", layer, module, gguf + used + n);
    return out;
  }
  return NULL;
}

// Row of GGUF's llama that is row r of Hugging Face: neighbours there, halves here.
GW_FN size_t hw_rope_row(size_t r, size_t head_dim) {
  size_t head = r / head_dim, i = r % head_dim, half = head_dim / 2;
  return head * head_dim + (i < half ? 2 * i : 2 * (i - half) + 1);
}

// Packed codes [rows / 4, cols] of a TQ2_0 matrix.
GW_FN uint8_t *hw_pack(const qi_tensor *t) {
  size_t cols = (size_t)t->shape[0], rows = (size_t)t->shape[1], packed_rows = rows / 4;
  uint8_t *out = (uint8_t *)calloc(packed_rows, cols);
  assert_non_null(out);
  for (size_t r = 0; r < rows; r++)
    for (size_t c = 0; c < cols; c++) {
      const uint8_t *block = (const uint8_t *)t->data + (r * cols + c) / 256 * 66;
      unsigned i = (unsigned)(c % 256), code = (unsigned)block[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3u;
      out[r % packed_rows * cols + c] |= (uint8_t)(code << (2 * (r / packed_rows)));
    }
  return out;
}

GW_FN void hw_add_packed(hw_tensors *out, const qi_tensor *t, const char *name, const hw_options *o) {
  char scale_name[160];
  uint64_t shape[2] = {t->shape[1] / 4, t->shape[0]}, one = 1;
  uint8_t *packed = hw_pack(t), bytes[4];
  float scale = qi__f16_to_f32(qi__load_u16((const uint8_t *)t->data + 64));
  if (o->divides) scale = 1 / scale;
  if (o->bad_code) packed[shape[0] * shape[1] - 1] |= 0x30;
  uint32_t bits = qi__f32_bits(scale);
  for (int k = 0; k < 4; k++) bytes[k] = (uint8_t)(bits >> (8 * k));
  hw_tensor(out, name, "U8", 2, shape, packed, (size_t)(shape[0] * shape[1]));
  snprintf(scale_name, sizeof scale_name, "%s_scale", name);
  hw_tensor(out, scale_name, "F32", 1, &one, bytes, 4);
  free(packed);
}

// One tensor, rows in the order of Hugging Face.
GW_FN void hw_add_tensor(hw_tensors *out, const qi_model *m, const qi_tensor *t, const hw_options *o) {
  qi_model_info info;
  char buffer[128];
  qi_model_get_info(m, &info);
  bool fused = !strcmp(info.architecture, "phi3");
  const char *name = hw_name(t->name, fused, buffer);
  if (!name) return;
  if (o->packed && t->format == QI_FORMAT_TQ2_0) {
    hw_add_packed(out, t, name, o);
    return;
  }
  const char *dtype = t->format == QI_FORMAT_F32 ? "F32" : t->format == QI_FORMAT_F16 ? "F16" : "BF16";
  assert_true(t->format == QI_FORMAT_F32 || t->format == QI_FORMAT_F16 || t->format == QI_FORMAT_BF16);
  bool rope = !strcmp(info.architecture, "llama") && (strstr(t->name, "attn_q.") || strstr(t->name, "attn_k."));
  size_t n_rows = t->n_dims == 1 ? (size_t)t->shape[0] : (size_t)t->shape[1], row_bytes = (size_t)t->n_bytes / n_rows;
  uint8_t *bytes = (uint8_t *)malloc((size_t)t->n_bytes);
  assert_non_null(bytes);
  for (size_t r = 0; r < n_rows; r++)
    memcpy(bytes + r * row_bytes, (const uint8_t *)t->data + (rope ? hw_rope_row(r, (size_t)info.head_dim) : r) * row_bytes,
        row_bytes);
  uint64_t shape[2] = {t->n_dims == 1 ? t->shape[0] : t->shape[1], t->shape[0]};
  hw_tensor(out, name, dtype, t->n_dims, shape, bytes, (size_t)t->n_bytes);
  free(bytes);
}

GW_FN void hw_weights(hw_folder *h, const qi_model *m, const hw_options *o) {
  int n_shards = o->n_shards ? o->n_shards : 1;
  size_t n = qi_tensor_count(m);
  gw_buf index;
  memset(&index, 0, sizeof index);
  hw_put(&index, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
  for (int s = 0; s < n_shards; s++) {
    hw_tensors out;
    char file[64] = "model.safetensors", buffer[128];
    memset(&out, 0, sizeof out);
    if (o->n_shards) snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", s + 1, n_shards);
    for (size_t i = (size_t)s; i < n; i += (size_t)n_shards) { // mixed, so that neighbours lie in different files
      qi_tensor t;
      assert_int_equal(qi_tensor_get(m, i, &t, NULL), QI_OK);
      hw_add_tensor(&out, m, &t, o);
      qi_model_info info;
      qi_model_get_info(m, &info);
      const char *name = hw_name(t.name, !strcmp(info.architecture, "phi3"), buffer);
      if (name) hw_printf(&index, "%s\"%s\":\"%s\"", index.data[index.size - 1] == '{' ? "" : ",", name, file);
    }
    hw_save_tensors(h, file, &out, o->pad);
  }
  hw_put(&index, "}}");
  if (o->n_shards) hw_save_buf(h, "model.safetensors.index.json", &index);
  free(index.data);
}

// Metadata of the model as a number; `fallback` when it is absent.
GW_FN double hw_meta(const qi_model *m, const char *suffix, double fallback) {
  qi_model_info info;
  char key[128];
  qi_model_get_info(m, &info);
  snprintf(key, sizeof key, "%s.%s", info.architecture, suffix);
  for (size_t i = 0; i < qi_meta_count(m); i++) {
    qi_meta v;
    assert_int_equal(qi_meta_get(m, i, &v, NULL), QI_OK);
    if (v.key_len != strlen(key) || memcmp(v.key, key, v.key_len)) continue;
    return v.type == QI_META_F32 || v.type == QI_META_F64 ? v.value.f : (double)v.value.u;
  }
  return fallback;
}

GW_FN void hw_config(hw_folder *h, const qi_model *m, const hw_options *o) {
  qi_model_info info;
  qi_tensor t;
  gw_buf b;
  memset(&b, 0, sizeof b);
  qi_model_get_info(m, &info);
  bool tied = qi_tensor_find(m, "output.weight", &t, NULL) != QI_OK;
  hw_printf(&b, "{\n  \"architectures\": [\"Test\"],\n  \"model_type\": \"%s\",\n",
      o->model_type ? o->model_type : info.architecture);
  hw_printf(&b, "  \"hidden_size\": %d, \"num_hidden_layers\": %d, \"intermediate_size\": %d,\n", info.n_embd, info.n_layers,
      info.n_ff);
  hw_printf(&b, "  \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": %d,\n", info.n_heads, info.n_kv_heads,
            info.head_dim);
  hw_printf(&b, "  \"max_position_embeddings\": %d, \"vocab_size\": %d, \"hidden_act\": \"%s\",\n", info.n_ctx_train, info.n_vocab,
            o->hidden_act ? o->hidden_act : "silu");
  hw_printf(&b, "  \"rms_norm_eps\": %.9g, \"rope_theta\": %.9g, \"tie_word_embeddings\": %s,\n",
            hw_meta(m, "attention.layer_norm_rms_epsilon", 1e-5), hw_meta(m, "rope.freq_base", 10000), tied ? "true" : "false");
  if (o->extra) hw_put(&b, o->extra);
  if (o->packed)
    hw_printf(&b, "  \"quantization_config\": {\"quant_method\": \"bitnet\", \"linear_class\": \"%s\","
        " \"quantization_mode\": \"offline\"},\n",
              o->divides ? "bitlinear" : "autobitlinear");
  hw_put(&b, "  \"torch_dtype\": \"float32\"\n}\n");
  hw_save_buf(h, "config.json", &b);
}

// ---- tokenizers ----

typedef struct hw_merge {
  int left, right, joined;
  float score;
} hw_merge;

GW_FN int hw_merge_order(const void *a, const void *b) {
  const hw_merge *x = (const hw_merge *)a, *y = (const hw_merge *)b;
  if (x->score != y->score) return x->score > y->score ? -1 : 1;
  if (x->joined != y->joined) return x->joined < y->joined ? -1 : 1;
  return x->left < y->left ? -1 : x->left > y->left;
}

// All splits of SentencePiece tokens into two tokens, by score: as Hugging Face converts them.
GW_FN hw_merge *hw_merges(const qi__vocab *v, size_t *n) {
  size_t cap = 1024;
  hw_merge *out = (hw_merge *)malloc(cap * sizeof *out);
  *n = 0;
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    size_t len;
    const char *text = qi__token_text(v, id, &len);
    unsigned type = qi__token_type(v, id);
    if (type == QI__TOKEN_BYTE || type == QI__TOKEN_CONTROL || type == QI__TOKEN_UNKNOWN) continue;
    for (size_t cut = 1; cut < len; cut++) {
      qi_token left = qi__token_find(v, text, cut), right = qi__token_find(v, text + cut, len - cut);
      if (left < 0 || right < 0) continue;
      if (*n == cap) out = (hw_merge *)realloc(out, (cap *= 2) * sizeof *out);
      assert_non_null(out);
      hw_merge one = {(int)left, (int)right, (int)id, v->scores[id]};
      out[(*n)++] = one;
    }
  }
  qsort(out, *n, sizeof *out, hw_merge_order);
  return out;
}

GW_FN void hw_put_merge(gw_buf *b, bool first, bool pairs, const char *left, size_t n_left, const char *right, size_t n_right) {
  if (!first) hw_put(b, ",");
  if (pairs) {
    hw_put(b, "[");
    hw_string(b, left, n_left);
    hw_put(b, ",");
    hw_string(b, right, n_right);
    hw_put(b, "]");
    return;
  }
  char text[1024];
  assert_true(n_left + n_right + 1 < sizeof text);
  memcpy(text, left, n_left);
  text[n_left] = ' ';
  memcpy(text + n_left + 1, right, n_right);
  hw_string(b, text, n_left + 1 + n_right);
}

// Added tokens first, then what is given for the pipeline, then the model.
GW_FN void hw_tokenizer_begin(gw_buf *b, const qi__vocab *v, const char *pipeline) {
  bool first = true;
  memset(b, 0, sizeof *b);
  hw_put(b, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    size_t len;
    const char *text = qi__token_text(v, id, &len);
    unsigned type = qi__token_type(v, id);
    if (type != QI__TOKEN_CONTROL && type != QI__TOKEN_UNKNOWN && type != QI__TOKEN_USER) continue;
    hw_printf(b, "%s{\"id\":%u,\"content\":", first ? "" : ",", id);
    hw_string(b, text, len);
    hw_printf(b, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":%s,\"normalized\":false,\"special\":%s}",
              v->attrs[id] & QI__TOKEN_RSTRIP ? "true" : "false", type == QI__TOKEN_USER ? "false" : "true");
    first = false;
  }
  hw_printf(b, "],%s\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":", pipeline);
  if (v->special.unk >= 0 && v->kind == QI__VOCAB_SPM) {
    size_t len;
    const char *text = qi__token_text(v, (uint32_t)v->special.unk, &len);
    hw_string(b, text, len);
  } else {
    hw_put(b, "null");
  }
  hw_put(b, ",\"vocab\":{");
}

GW_FN void hw_put_vocab(gw_buf *b, const qi__vocab *v) {
  bool first = true;
  for (uint32_t i = 0; i < v->n_tokens; i++) {
    uint32_t id = v->n_tokens - 1 - i; // the order must not matter
    size_t len;
    const char *text = qi__token_text(v, id, &len);
    unsigned type = qi__token_type(v, id);
    if (type == QI__TOKEN_UNUSED || (v->kind == QI__VOCAB_BPE && type != QI__TOKEN_NORMAL)) continue;
    if (!first) hw_put(b, ",");
    hw_string(b, text, len);
    hw_printf(b, ":%u", id);
    first = false;
  }
}

// tokenizer.json of a SentencePiece vocabulary.
GW_FN void hw_spm_tokenizer(hw_folder *h, const qi__vocab *v, const hw_options *o) {
  gw_buf b;
  size_t n;
  hw_merge *merges = hw_merges(v, &n);
  char pipeline[512];
  snprintf(pipeline, sizeof pipeline, "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[%s{\"type\":\"Replace\",\"patte"
      "rn\":{\"String\":\" \"},"
           "\"content\":\"\xE2\x96\x81\"}]},\"pre_tokenizer\":null,\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
           "[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]},\"decoder\":null,",
           o->with_prefix ? "{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"}," : "");
  hw_tokenizer_begin(&b, v, pipeline);
  hw_put_vocab(&b, v);
  hw_put(&b, "},\"fuse_unk\":true,\"byte_fallback\":true,\"ignore_merges\":false,\"merges\":[");
  for (size_t i = 0; i < n; i++) {
    size_t n_left, n_right;
    const char *left = qi__token_text(v, (uint32_t)merges[i].left, &n_left), *right = qi__token_text(v, (uint32_t)merges[i].right,
        &n_right);
    hw_put_merge(&b, i == 0, o->pairs, left, n_left, right, n_right);
  }
  hw_put(&b, "]}}");
  free(merges);
  hw_save_buf(h, "tokenizer.json", &b);
  gw_buf c;
  size_t len;
  memset(&c, 0, sizeof c);
  hw_put(&c, "{\"bos_token\":{\"lstrip\":false,\"content\":");
  const char *name = qi__token_text(v, (uint32_t)v->special.bos, &len);
  hw_string(&c, name, len);
  hw_put(&c, "},\"eos_token\":");
  name = qi__token_text(v, (uint32_t)v->special.eos, &len);
  hw_string(&c, name, len);
  hw_put(&c, ",\"pad_token\":null,\"model_max_length\":1000000000000000019884624838656,\"chat_template\":["
             "{\"name\":\"tool\",\"template\":\"no\"},{\"name\":\"default\",\"template\":\"{{ x }}\\n\"}]}");
  hw_save_buf(h, "tokenizer_config.json", &c);
}

GW_FN void hw_model(hw_folder *h, const qi_model *m, const hw_options *o) {
  hw_config(h, m, o);
  hw_weights(h, m, o);
  if (!o->no_tokenizer) hw_spm_tokenizer(h, &m->vocab, o);
}

#endif // QINFER_TESTS_HF_WRITE_H
