// Models of a shape with random weights: GGUF files in memory, their blocks made straight in the format (nothing is quantised), on
// all threads of a pool. Scales are set so that the values of a matrix spread by 1 / sqrt(columns): activations stay finite.
#ifndef BENCH_SYNTH_H
#define BENCH_SYNTH_H

#include "shapes.h"

#define SYNTH_CHUNK (256u << 10) // bytes, about, that a thread fills at a time

// ---- random blocks ----

// splitmix64 (Steele, Lea, Flood 2014)
static uint64_t random_next(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static void random_bytes(uint8_t *dst, size_t n, uint64_t *state) {
  for (; n >= 8; n -= 8, dst += 8) {
    uint64_t v = random_next(state);
    memcpy(dst, &v, 8);
  }
  uint64_t v = random_next(state);
  memcpy(dst, &v, n);
}

// Where the scales (float16) of a block are. An offset that is taken off or added has its own, set to factor * scale so that random
// codes have a mean of 0. Offsets in bytes, -1 = none.
typedef struct scale_place {
  qi_format format;
  int scale, offset;
  float factor;
} scale_place;

static const scale_place scale_places[] = {
    {QI_FORMAT_Q4_0, 0, -1, 0},    {QI_FORMAT_Q4_1, 0, 2, -7.5f},  {QI_FORMAT_Q5_0, 0, -1, 0},    {QI_FORMAT_Q5_1, 0, 2, -15.5f},
    {QI_FORMAT_Q8_0, 0, -1, 0},    {QI_FORMAT_Q2_K, 80, 82, 1.5f}, {QI_FORMAT_Q3_K, 108, -1, 0},  {QI_FORMAT_Q4_K, 0, 2, 7.5f},
    {QI_FORMAT_Q5_K, 0, 2, 15.5f}, {QI_FORMAT_Q6_K, 208, -1, 0},   {QI_FORMAT_IQ1_S, 0, -1, 0},   {QI_FORMAT_IQ2_XXS, 0, -1, 0},
    {QI_FORMAT_IQ2_XS, 0, -1, 0},  {QI_FORMAT_IQ2_S, 0, -1, 0},    {QI_FORMAT_IQ3_XXS, 0, -1, 0}, {QI_FORMAT_IQ3_S, 0, -1, 0},
    {QI_FORMAT_IQ4_NL, 0, -1, 0},  {QI_FORMAT_IQ4_XS, 0, -1, 0},   {QI_FORMAT_TQ1_0, 52, -1, 0},  {QI_FORMAT_TQ2_0, 64, -1, 0},
    {QI_FORMAT_QINS8_K, 7, -1, 0}, {QI_FORMAT_QINS4_K, 7, -1, 0},
};

static const scale_place *scale_place_of(qi_format f) {
  for (size_t i = 0; i < sizeof scale_places / sizeof scale_places[0]; i++)
    if (scale_places[i].format == f) return &scale_places[i];
  return NULL;
}

// IQ1_M: the four parts of the scale are the upper bits of the last four words.
static void set_scale_iq1_m(uint8_t *block, uint16_t scale) {
  for (int i = 0; i < 4; i++) {
    uint8_t *high = block + 48 + 2 * i + 1;
    *high = (uint8_t)((*high & 0x0f) | (scale >> (4 * i) & 0xf) << 4);
  }
}

// TQ2_0 and I2_S know the codes 0, 1, 2: a byte of four of them, from a random byte.
static uint8_t ternary_byte(uint8_t r) {
  unsigned v = r % 81u;
  return (uint8_t)(v % 3 | v / 3 % 3 << 2 | v / 9 % 3 << 4 | v / 27 << 6);
}

// Float formats: sign and mantissa at random, exponents so that |w| is between s and 2 s, s a power of two.
static void fill_floats(qi_format f, uint8_t *dst, size_t n, float s, uint64_t *state) {
  uint32_t f32 = qi__f32_bits(s) & 0x7f800000u;
  uint16_t f16 = (uint16_t)(qi__f32_to_f16(qi__bits_f32(f32)) & 0x7c00);
  uint32_t keep = f == QI_FORMAT_F32 ? 0x807fffffu : f == QI_FORMAT_F16 ? 0x83ff83ffu : 0x807f807fu;
  uint32_t set = f == QI_FORMAT_F32 ? f32 : f == QI_FORMAT_F16 ? f16 * 0x10001u : (f32 >> 16) * 0x10001u;
  uint64_t keep2 = (uint64_t)keep << 32 | keep, set2 = (uint64_t)set << 32 | set;
  for (; n >= 8; n -= 8, dst += 8) {
    uint64_t v = (random_next(state) & keep2) | set2;
    memcpy(dst, &v, 8);
  }
  uint64_t v = (random_next(state) & keep2) | set2;
  memcpy(dst, &v, n);
}

// n bytes of whole blocks with the given scale (of a float format: the size of values).
static void fill_blocks(qi_format f, uint8_t *dst, size_t n, float scale, uint64_t *state) {
  const qi_format_info *info = qi_format_get(f);
  const scale_place *place = scale_place_of(f);
  if (info->block_len == 1) {
    fill_floats(f, dst, n, scale, state);
    return;
  }
  random_bytes(dst, n, state);
  uint16_t d = qi__f32_to_f16(scale), m = qi__f32_to_f16(place ? place->factor * scale : 0);
  for (size_t i = 0; i < n; i += (size_t)info->block_bytes) {
    uint8_t *block = dst + i;
    if (f == QI_FORMAT_TQ2_0 || f == QI_FORMAT_I2_S)
      for (int k = 0; k < 64; k++) block[k] = ternary_byte(block[k]);
    if (f == QI_FORMAT_MXFP4) block[0] = (uint8_t)(qi__f32_bits(scale) >> 23);
    if (f == QI_FORMAT_IQ1_M) set_scale_iq1_m(block, d);
    const unsigned range = f == QI_FORMAT_QINS4_K ? block[place->scale + 1] & 0x80u : 0; // one of two, at random
    if (place) qi__store_u16(block + place->scale, (uint16_t)(d | range << 8));
    if (place && place->offset >= 0) qi__store_u16(block + place->offset, m);
  }
}

// What is behind all blocks of some formats. Sizes of QINS8 span a factor of e^7.
static void set_tail(qi_format f, uint8_t *tail, float scale) {
  memset(tail, 0, (size_t)qi_format_get(f)->tail_bytes);
  if (f == QI_FORMAT_I2_S) qi__store_f32(tail, scale);
  if (f != QI_FORMAT_QINS8) return;
  float log_max = (float)log((double)scale);
  qi__store_f32(tail, log_max - 7);
  qi__store_f32(tail + 4, log_max);
}

// The scale with which random blocks have a root mean square of `rms`, found from some that are made with a scale of 1.
static float scale_for_rms(qi_format f, float rms) {
  enum { N_BLOCKS = 64 };
  const qi_format_info *info = qi_format_get(f);
  uint8_t blocks[N_BLOCKS * 320];
  float values[N_BLOCKS * QI__BLOCK_MAX];
  double sum = 0;
  uint64_t state = 1;
  if (info->block_len == 1) return rms / 1.4f;
  fill_blocks(f, blocks, (size_t)(N_BLOCKS * info->block_bytes), 1.0f, &state);
  set_tail(f, blocks + N_BLOCKS * info->block_bytes, 1.0f);
  qi__dequantize(f, blocks, values, (size_t)(N_BLOCKS * info->block_len));
  for (int i = 0; i < N_BLOCKS * info->block_len; i++) sum += (double)values[i] * (double)values[i];
  return (float)((double)rms / sqrt(sum / (N_BLOCKS * info->block_len)));
}

// ---- filling on all threads ----

typedef struct fill_job {
  qi_format format;
  uint8_t *dst;
  size_t bytes, chunk; // chunk: whole blocks
  float scale;
  uint64_t seed;
} fill_job;

static void fill_task(void *arg, int worker, int64_t begin, int64_t end) {
  const fill_job *j = (const fill_job *)arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++) {
    uint64_t state = j->seed + (uint64_t)i * 0x632be59bd9b4e019u;
    size_t at = (size_t)i * j->chunk;
    fill_blocks(j->format, j->dst + at, qi__min_size(j->chunk, j->bytes - at), j->scale, &state);
  }
}

// A matrix of `bytes` bytes.
static void fill_matrix(qi_pool *pool, qi_format f, uint8_t *dst, size_t bytes, float rms, uint64_t seed) {
  bytes -= (size_t)qi_format_get(f)->tail_bytes;
  fill_job j = {f, dst, bytes, 0, scale_for_rms(f, rms), seed};
  // A multiple of 8: fill_floats writes pairs and fours.
  size_t block = (size_t)qi_format_get(f)->block_bytes;
  j.chunk = SYNTH_CHUNK / block / 8 * 8 * block;
  qi__pool_run(pool, fill_task, &j, (int64_t)((bytes + j.chunk - 1) / j.chunk), 1);
  set_tail(f, dst + bytes, j.scale);
}

// ---- the file ----

// Header and metadata grow here; tensor data is written in place once all sizes are known.
typedef struct synth_tensor {
  qi_format format; // F32 with one dimension: a vector of ones (norms) or zeros (biases)
  int n_cols, n_rows;
  uint64_t offset, bytes;
  float rms; // of a matrix; value of a vector
} synth_tensor;

typedef struct synth {
  const shape *s;
  const file_type *type;
  uint8_t *head; // of malloc
  size_t head_size, head_cap;
  synth_tensor *tensors;
  size_t n_tensors, cap_tensors;
  uint64_t data_size, n_kv;
  bool failed; // out of memory
} synth;

static void put(synth *b, const void *bytes, size_t n) {
  if (b->failed) return;
  if (b->head_cap - b->head_size < n) {
    size_t cap = b->head_cap * 2 + n + 4096;
    uint8_t *head = (uint8_t *)realloc(b->head, cap);
    if (!head) {
      b->failed = true;
      return;
    }
    b->head = head;
    b->head_cap = cap;
  }
  memcpy(b->head + b->head_size, bytes, n);
  b->head_size += n;
}

// Numbers as the file has them, little-endian.
static void put_int(synth *b, uint64_t v, int n) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(v >> (8 * i));
  put(b, bytes, (size_t)n);
}
static void put_text(synth *b, const char *s) {
  put_int(b, strlen(s), 8);
  put(b, s, strlen(s));
}
static void put_key(synth *b, const char *key, qi_meta_type type) {
  b->n_kv++;
  put_text(b, key);
  put_int(b, type, 4);
}
static void put_u32(synth *b, const char *key, int v) {
  char full[96];
  snprintf(full, sizeof full, "%s.%s", b->s->arch, key);
  put_key(b, full, QI_META_U32);
  put_int(b, (uint32_t)v, 4);
}
static void put_f32(synth *b, const char *key, float v) {
  char full[96];
  snprintf(full, sizeof full, "%s.%s", b->s->arch, key);
  put_key(b, full, QI_META_F32);
  put_int(b, qi__f32_bits(v), 4);
}

// Tokens "t0", "t1", ... of the SentencePiece kind: enough for a tokenizer to load; nothing is tokenised.
static void put_vocab(synth *b) {
  char text[24];
  put_key(b, "tokenizer.ggml.model", QI_META_STRING);
  put_text(b, "llama");
  put_key(b, "tokenizer.ggml.tokens", QI_META_ARRAY);
  put_int(b, QI_META_STRING, 4);
  put_int(b, (uint64_t)b->s->n_vocab, 8);
  for (int i = 0; i < b->s->n_vocab; i++) {
    snprintf(text, sizeof text, "t%d", i);
    put_text(b, text);
  }
  put_key(b, "tokenizer.ggml.scores", QI_META_ARRAY);
  put_int(b, QI_META_F32, 4);
  put_int(b, (uint64_t)b->s->n_vocab, 8);
  for (int i = 0; i < b->s->n_vocab; i++) put_int(b, qi__f32_bits((float)-i), 4);
  put_key(b, "tokenizer.ggml.token_type", QI_META_ARRAY);
  put_int(b, QI_META_I32, 4);
  put_int(b, (uint64_t)b->s->n_vocab, 8);
  for (int i = 0; i < b->s->n_vocab; i++) put_int(b, i == 0 ? 2 : i < 3 ? 3 : 1, 4); // unknown, control, normal
}

static void put_metadata(synth *b) {
  const shape *s = b->s;
  char name[64];
  put_key(b, "general.architecture", QI_META_STRING);
  put_text(b, s->arch);
  put_key(b, "general.name", QI_META_STRING);
  snprintf(name, sizeof name, "%s %s, random weights", s->name, b->type->name);
  put_text(b, name);
  put_u32(b, "block_count", s->n_layers);
  put_u32(b, "context_length", 131072);
  put_u32(b, "embedding_length", s->n_embd);
  put_u32(b, "feed_forward_length", s->n_ff);
  put_u32(b, "attention.head_count", s->n_heads);
  put_u32(b, "attention.head_count_kv", s->n_kv_heads);
  put_u32(b, "attention.key_length", s->head_dim);
  put_u32(b, "attention.value_length", s->head_dim);
  put_f32(b, "attention.layer_norm_rms_epsilon", 1e-5f);
  put_f32(b, "rope.freq_base", s->rope_theta);
  put_vocab(b);
}

// ---- tensors ----

static synth_tensor *add_tensor(synth *b) {
  if (b->n_tensors == b->cap_tensors) {
    size_t cap = b->cap_tensors * 2 + 64;
    synth_tensor *tensors = (synth_tensor *)realloc(b->tensors, cap * sizeof *tensors);
    if (!tensors) {
      b->failed = true;
      return NULL;
    }
    b->tensors = tensors;
    b->cap_tensors = cap;
  }
  return &b->tensors[b->n_tensors++];
}

// Index entry and a place behind the tensors so far. n_rows 0 = vector.
static void put_tensor(synth *b, int layer, const char *name, qi_format f, int n_cols, int n_rows, float rms) {
  char full[64];
  if (layer >= 0) snprintf(full, sizeof full, "blk.%d.%s", layer, name);
  else snprintf(full, sizeof full, "%s", name);
  synth_tensor *t = add_tensor(b);
  if (!t) return;
  *t = (synth_tensor){f, n_cols, n_rows, b->data_size, 0, rms};
  t->bytes = qi_format_bytes(f, (size_t)n_cols * (size_t)(n_rows ? n_rows : 1));
  b->data_size += (t->bytes + 31) / 32 * 32;
  put_text(b, full);
  put_int(b, n_rows ? 2 : 1, 4);
  put_int(b, (uint64_t)n_cols, 8);
  if (n_rows) put_int(b, (uint64_t)n_rows, 8);
  put_int(b, (uint64_t)qi_format_get(f)->gguf_id, 4);
  put_int(b, t->offset, 8);
}
static void put_matrix(synth *b, int layer, const char *name, qi_format f, int n_cols, int n_rows) {
  put_tensor(b, layer, name, format_for_width(f, n_cols), n_cols, n_rows, 1.0f / sqrtf((float)n_cols));
}
static void put_vector(synth *b, int layer, const char *name, int n, float value) {
  put_tensor(b, layer, name, QI_FORMAT_F32, n, 0, value);
}

static void put_attention(synth *b, int layer, qi_format wide) {
  const shape *s = b->s;
  qi_format base = b->type->base;
  int nq = s->n_heads * s->head_dim, nk = s->n_kv_heads * s->head_dim;
  put_vector(b, layer, "attn_norm.weight", s->n_embd, 1);
  if (!strcmp(s->arch, "phi3")) {
    put_matrix(b, layer, "attn_qkv.weight", b->type->fused, s->n_embd, nq + 2 * nk);
  } else {
    put_matrix(b, layer, "attn_q.weight", base, s->n_embd, nq);
    put_matrix(b, layer, "attn_k.weight", base, s->n_embd, nk);
    put_matrix(b, layer, "attn_v.weight", wide, s->n_embd, nk);
  }
  if (!strcmp(s->arch, "qwen2")) {
    put_vector(b, layer, "attn_q.bias", nq, 0);
    put_vector(b, layer, "attn_k.bias", nk, 0);
    put_vector(b, layer, "attn_v.bias", nk, 0);
  }
  if (!strcmp(s->arch, "qwen3")) {
    put_vector(b, layer, "attn_q_norm.weight", s->head_dim, 1);
    put_vector(b, layer, "attn_k_norm.weight", s->head_dim, 1);
  }
  put_matrix(b, layer, "attn_output.weight", base, nq, s->n_embd);
}

static void put_feed_forward(synth *b, int layer, qi_format wide) {
  const shape *s = b->s;
  bool fused = !strcmp(s->arch, "phi3");
  put_vector(b, layer, "ffn_norm.weight", s->n_embd, 1);
  if (!fused) put_matrix(b, layer, "ffn_gate.weight", b->type->base, s->n_embd, s->n_ff);
  put_matrix(b, layer, "ffn_up.weight", b->type->base, s->n_embd, fused ? 2 * s->n_ff : s->n_ff);
  put_matrix(b, layer, "ffn_down.weight", wide, s->n_ff, s->n_embd);
}

// Header, metadata and index; no data yet.
static void put_head(synth *b) {
  const shape *s = b->s;
  put(b, "GGUF", 4);
  put_int(b, 3, 4);
  put_int(b, 0, 8); // counts come later
  put_int(b, 0, 8);
  put_metadata(b);
  put_matrix(b, -1, "token_embd.weight", s->tied ? b->type->output : b->type->embedding, s->n_embd, s->n_vocab);
  put_vector(b, -1, "output_norm.weight", s->n_embd, 1);
  if (!s->tied) put_matrix(b, -1, "output.weight", b->type->output, s->n_embd, s->n_vocab);
  for (int i = 0; i < s->n_layers; i++) {
    qi_format wide = layer_is_wide(i, s->n_layers) ? b->type->wide : b->type->base;
    put_attention(b, i, wide);
    put_feed_forward(b, i, wide);
  }
  while (!b->failed && b->head_size % 32) put_int(b, 0, 1);
  if (b->failed) return;
  for (int i = 0; i < 8; i++) {
    b->head[8 + i] = (uint8_t)((uint64_t)b->n_tensors >> (8 * i));
    b->head[16 + i] = (uint8_t)(b->n_kv >> (8 * i));
  }
}

static void fill_tensor(qi_pool *pool, const synth_tensor *t, uint8_t *data, uint64_t seed) {
  if (t->n_rows) {
    fill_matrix(pool, t->format, data + t->offset, (size_t)t->bytes, t->rms, seed);
    return;
  }
  for (int i = 0; i < t->n_cols; i++) memcpy(data + t->offset + 4 * (size_t)i, &t->rms, 4);
}

typedef struct synth_file {
  uint8_t *bytes; // of qi__malloc: in huge pages, as mapped files are where the system can
  size_t size;
} synth_file;

static void synth_free(synth_file *file) {
  if (file->bytes) qi__malloc_free(file->bytes, file->size, NULL);
  file->bytes = NULL;
}

// The file of shape `s` in type `type`. False after a message. Free it with synth_free.
static bool synth_build(synth_file *file, const shape *s, const file_type *type, qi_pool *pool) {
  synth b;
  char what[96];
  memset(&b, 0, sizeof b);
  file->bytes = NULL;
  b.s = s;
  b.type = type;
  put_head(&b);
  file->size = b.head_size + (size_t)b.data_size;
  snprintf(what, sizeof what, "%s:%s", s->name, type->name);
  bool good = !b.failed && memory_fits(what, file->size);
  if (good) file->bytes = (uint8_t *)qi__malloc(file->size, QI__CACHE_LINE, NULL);
  if (b.failed || (good && !file->bytes)) complain("%s: no memory for %.2f GB", what, (double)file->size * 1e-9);
  if (file->bytes) {
    memcpy(file->bytes, b.head, b.head_size);
    for (size_t i = 0; i < b.n_tensors; i++) {
      progress("making %s: %3.0f %%", what, 100.0 * (double)b.tensors[i].offset / (double)b.data_size);
      fill_tensor(pool, &b.tensors[i], file->bytes + b.head_size, 1000 * i);
    }
    progress("%s", "");
  }
  free(b.head);
  free(b.tensors);
  return file->bytes != NULL;
}

// ---- models ----

// A model and the memory that it lives in.
typedef struct bench_model {
  qi_model *model;
  synth_file file; // bytes NULL: a file of the user's
  qi_model_desc desc; // what it was opened with
  qi_model_info info;
  char name[96];
} bench_model;

static void model_close(bench_model *m) {
  qi_model_close(m->model);
  synth_free(&m->file);
  memset(m, 0, sizeof *m);
}

// The same model once more, with a cache. False after a message; close only out->model.
static bool model_open_cached(bench_model *out, const bench_model *m, uint64_t cache_bytes, qi_path path, qi_pool *pool) {
  qi_error err = {QI_OK, ""};
  qi_memory memory;
  *out = *m;
  out->model = NULL;
  out->desc.cache_bytes = cache_bytes;
  out->desc.cache_path = path;
  out->desc.cache_pool = pool;
  if (qi_model_memory(&out->desc, &memory, &err)) return complain("%s", err.msg);
  if (!memory_fits("cache", memory.heap)) return false;
  progress("%s: filling the cache", m->name);
  qi_result r = qi_model_open(&out->model, &out->desc, &err);
  progress("%s", "");
  if (r) return complain("%s", err.msg);
  qi_model_get_info(out->model, &out->info);
  return true;
}

static bool model_open_synth(bench_model *m, const shape *s, const file_type *type) {
  qi_error err = {QI_OK, ""};
  qi_pool *pool = NULL;
  memset(m, 0, sizeof *m);
  if (qi_pool_open(&pool, NULL, &err)) return complain("%s", err.msg);
  bool good = synth_build(&m->file, s, type, pool);
  qi_pool_close(pool);
  if (!good) return false;
  qi_model_desc md = {.data = m->file.bytes, .data_size = m->file.size};
  m->desc = md;
  snprintf(m->name, sizeof m->name, "%s %s", s->name, type->name);
  if (qi_model_open(&m->model, &md, &err)) {
    model_close(m);
    return complain("%s:%s: %s", s->name, type->name, err.msg);
  }
  qi_model_get_info(m->model, &m->info);
  return true;
}

// "SHAPE:TYPE" to its parts. False after a message.
static bool synth_spec_parse(const char *spec, const shape **s, file_type *type) {
  const char *colon = strchr(spec, ':');
  if (!colon) return complain("--synth %s: expected SHAPE:TYPE, for example tinyllama:Q4_K_M", spec);
  *s = shape_find(spec, (size_t)(colon - spec));
  if (!*s) return complain("--synth %s: no such shape (--list shows all)", spec);
  if (!file_type_parse(colon + 1, type)) return complain("--synth %s: no such type (--list shows all)", spec);
  return true;
}

#endif // BENCH_SYNTH_H
