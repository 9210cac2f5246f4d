// ==== >>model : an open model ====
#ifndef QI__MODEL_H
#define QI__MODEL_H

#include "cache.h"
#include "hf_load.h"
#include "tokenize.h"
#include "weights.h"

struct qi_model {
  qi_allocator allocator;
  qi_logger logger;
  qi_progress progress;
  qi_load load;
  bool check_only;      // qi_model_validate: tensors that are not mapped are not read
  qi_memory memory;
  qi__gguf gguf;
  qi__hparams h;        // QI_LOAD_ALL
  qi__vocab vocab;      // QI_LOAD_ALL and QI_LOAD_VOCAB
  qi__weights weights;  // QI_LOAD_ALL
  qi__cache cache;      // QI_LOAD_ALL
  const uint8_t **data; // QI_LOAD_ALL: [n_tensors] bytes of each tensor
  const char *info[3];  // terminated copies of the strings of qi__info_keys
  qi__arena arena;      // all of the above but the GGUF index
  const qi_backend *backend; // computes for sessions; NULL = the CPU
  void *device;         // of the backend
};

// ---- memory ----

// Strings of the metadata that qi_model_info gives.
static const char *const qi__info_keys[] = {"general.architecture", "general.name", "tokenizer.chat_template"};

// A string of the metadata; empty if there is none.
QI__FN const char *qi__model_string(const qi__gguf *g, const char *key, size_t *len) {
  const qi_meta *meta = qi__gguf_find(g, key);
  *len = meta && meta->type == QI_META_STRING ? (size_t)meta->count : 0;
  return *len ? meta->value.text : "";
}

QI__FN uint8_t *qi__arena_take_u64(qi__arena *arena, uint64_t bytes) {
  if (bytes > SIZE_MAX) arena->overflow = true;
  return arena->overflow ? NULL : (uint8_t *)qi__arena_take(arena, (size_t)bytes, 1, QI__CACHE_LINE);
}

// Where files are not mapped, or tensors must be converted, they are copied.
QI__FN void qi__tensors_layout(qi_model *m, qi__arena *arena) {
  const qi__gguf *g = &m->gguf;
  m->data = QI__ARENA_ARRAY(arena, const uint8_t *, g->n_tensors);
  uint8_t *copy = m->check_only ? NULL : qi__arena_take_u64(arena, g->copy_bytes);
  m->cache.block = qi__arena_take_u64(arena, m->cache.bytes);
  for (size_t i = 0; m->data && i < g->n_tensors; i++) {
    const qi__tensor_info *t = &g->tensors[i];
    m->data[i] = (const uint8_t *)qi__gguf_tensor_data(g, t);
    if (m->data[i] || !copy) continue;
    m->data[i] = copy;
    copy += ((size_t)t->n_bytes + QI__CACHE_LINE - 1) & ~(size_t)(QI__CACHE_LINE - 1);
  }
}

// Memory beyond the GGUF index. Runs twice: counting, then over the block; weights and vectors are taken while they are loaded.
QI__FN void qi__model_layout(qi_model *m, qi__arena *arena, const qi__vocab_counts *counts) {
  for (size_t i = 0; i < QI__COUNT_OF(qi__info_keys); i++) {
    size_t len;
    const char *s = qi__model_string(&m->gguf, qi__info_keys[i], &len);
    char *copy = QI__ARENA_ARRAY(arena, char, len + 1);
    if (!copy) continue;
    memcpy(copy, s, len);
    copy[len] = 0;
    m->info[i] = copy;
  }
  if (m->load == QI_LOAD_METADATA) return;
  qi__vocab_layout(&m->vocab, arena, counts);
  if (m->load == QI_LOAD_ALL) qi__tensors_layout(m, arena);
}

// Counts the room that qi__weights_load will take.
QI__FN void qi__weights_count(const qi_model *m, qi__arena *arena) {
  QI__ARENA_ARRAY(arena, qi__layer, m->h.n_layers);
  qi__arena_take_u64(arena, m->gguf.vector_bytes);
}

// What the load level needs, by the file's index or qi__gguf_peek: all that this may look at is in qi__info_keys,
// qi__vocab_keys, qi__hparam_keys and the plan.
QI__FN qi_result qi__model_count(qi_model *m, qi__arena *arena, qi__vocab_counts *counts, qi_error *err) {
  qi_result r = QI_OK;
  if (m->load != QI_LOAD_METADATA) r = qi__vocab_count(&m->gguf, counts, err);
  if (!r && m->load == QI_LOAD_ALL) r = qi__hparams_load(&m->h, &m->gguf, err);
  if (r) return r;
  if (m->load == QI_LOAD_ALL && !m->check_only) qi__cache_count(&m->cache, &m->gguf, &m->h);
  qi__model_layout(m, arena, counts);
  if (m->load == QI_LOAD_ALL) qi__weights_count(m, arena);
  return arena->overflow ? qi__fail(err, QI_ERR_LIMIT, "model: does not fit into this machine's address space") : QI_OK;
}

// ---- loading ----

// Tells the host how far it is. Errors: QI_ERR_CANCELLED.
QI__FN qi_result qi__model_progress(const qi_model *m, uint64_t done, uint64_t total, qi_error *err) {
  if (!m->progress.fn || m->progress.fn(m->progress.user, (float)((double)done / (double)total))) return QI_OK;
  return qi__fail(err, QI_ERR_CANCELLED, "loading was stopped by the progress callback");
}

QI__FN uint64_t qi__model_tensor_bytes(const qi_model *m) {
  uint64_t total = 0;
  for (size_t i = 0; i < m->gguf.n_tensors; i++) total += m->gguf.tensors[i].n_bytes;
  return total;
}

// Reads tensors that are not mapped, in parts, so that progress shows and the host can stop it.
QI__FN qi_result qi__model_read_tensors(qi_model *m, qi_error *err) {
  const uint64_t part = 4u << 20;
  uint64_t total = qi__model_tensor_bytes(m) + m->cache.bytes, done = 0;
  for (size_t i = 0; i < m->gguf.n_tensors; i++) {
    const qi__tensor_info *t = &m->gguf.tensors[i];
    bool mapped = m->check_only || qi__gguf_tensor_data(&m->gguf, t) != NULL;
    bool packed = t->scale > 0, in_place = m->gguf.parts[t->part].file.map != NULL;
    if (packed && (!m->check_only || in_place)) {
      qi_result r = qi__hf_convert(&m->gguf, t, m->check_only ? NULL : (uint8_t *)(uintptr_t)m->data[i], err);
      if (r) return r;
      if ((r = qi__model_progress(m, done + t->n_bytes, total, err))) return r;
    }
    for (uint64_t at = 0; at < t->n_bytes && !mapped && !packed; at += part) {
      uint64_t n = t->n_bytes - at < part ? t->n_bytes - at : part;
      qi_result r = qi__gguf_read_tensor(&m->gguf, t, at, (uint8_t *)(uintptr_t)m->data[i] + at, (size_t)n, err);
      if (r) return r;
      if ((r = qi__model_progress(m, done + at + n, total, err))) return r;
    }
    done += t->n_bytes;
  }
  return QI_OK;
}

QI__FN qi_result qi__model_load(qi_model *m, qi_error *err) {
  qi__vocab_counts counts;
  memset(&counts, 0, sizeof counts);
  qi_result r = qi__model_count(m, &m->arena, &counts, err);
  if (r) return r;
  if ((r = qi__arena_open(&m->arena, &m->allocator, "model", err))) return r;
  m->memory.heap += m->arena.size;
  qi__model_layout(m, &m->arena, &counts);
  if (m->load == QI_LOAD_METADATA) return QI_OK;
  if ((r = qi__vocab_load(&m->vocab, &m->gguf, &m->logger, err))) return r;
  qi__hf_keep_scores(&m->gguf, &m->vocab);
  if (m->load == QI_LOAD_VOCAB) return QI_OK;
  m->h.n_vocab = m->vocab.n_tokens;
  if ((r = qi__model_read_tensors(m, err))) return r;
  qi__gguf_release(&m->gguf);
  qi__weights_loader loader = {&m->gguf, &m->h, &m->arena, m->data, err};
  if ((r = qi__weights_load(&m->weights, &loader))) return r;
  return qi__cache_open(&m->cache, &m->weights, m->h.n_layers, &m->progress, qi__model_tensor_bytes(m), err);
}

// ---- open and close ----

QI__FN void qi__model_close(qi_model *m) {
  if (!m) return;
  qi_allocator allocator = m->allocator;
  if (m->backend) m->backend->close(m->device);
  qi__arena_close(&m->arena, &allocator);
  qi__gguf_close(&m->gguf);
  qi__free(&allocator, m, sizeof *m);
}

QI__FN qi_result qi__model_check_desc(const qi_model_desc *desc, qi_error *err) {
  int sources = (desc->path != NULL) + (desc->data != NULL) + (desc->reader.read != NULL);
  if (sources != 1)
    return qi__fail(err, QI_ERR_ARGUMENT, "model: %d sources given, expected exactly one of path, data, reader", sources);
  if (desc->load < QI_LOAD_ALL || desc->load > QI_LOAD_METADATA)
    return qi__fail(err, QI_ERR_ARGUMENT, "model: load is %d, expected a qi_load", (int)desc->load);
  if (desc->cache_path < QI_PATH_AUTO || desc->cache_path > QI_PATH_FLOAT)
    return qi__fail(err, QI_ERR_ARGUMENT, "model: cache_path is %d, expected a qi_path", (int)desc->cache_path);
  return QI_OK;
}

// A model with its file's index, nothing loaded yet.
QI__FN qi_result qi__model_new(qi_model **out, const qi_model_desc *desc, qi_error *err) {
  qi_allocator allocator;
  qi_result r = qi__model_check_desc(desc, err);
  if (r) return r;
  if ((r = qi__allocator_resolve(&desc->allocator, &allocator, err))) return r;
  qi_model *m = (qi_model *)qi__alloc(&allocator, sizeof *m, QI__CACHE_LINE);
  if (!m) return qi__fail_oom(err, "model", sizeof *m);
  memset(m, 0, sizeof *m);
  m->allocator = allocator;
  m->logger = desc->logger;
  m->progress = desc->progress;
  m->load = desc->load;
  m->cache.budget = desc->backend ? 0 : desc->cache_bytes;
  m->cache.path = desc->cache_path;
  m->cache.pool = desc->cache_pool;
  r = qi__hf_is_source(desc) ? qi__hf_open(&m->gguf, desc, &allocator, err)
                             : qi__gguf_open(&m->gguf, desc, &allocator, &m->logger, err);
  if (r) {
    qi__free(&allocator, m, sizeof *m);
    return r;
  }
  m->memory.heap = sizeof *m + qi__gguf_heap(&m->gguf);
  m->memory.mapped = qi__gguf_mapped(&m->gguf);
  *out = m;
  return QI_OK;
}

QI__FN qi_result qi__model_open(qi_model **out, const qi_model_desc *desc, bool check_only, qi_error *err) {
  qi_model *m = NULL;
  qi_result r = qi__model_new(&m, desc, err);
  if (r) return r;
  m->check_only = check_only;
  if ((r = qi__model_load(m, err))) {
    qi__model_close(m);
    return r;
  }
  *out = m;
  return QI_OK;
}

// ---- memory before opening ----

// The metadata that the load level counts with.
QI__FN qi_result qi__model_peek(qi__gguf_peek *p, const qi__gguf_plan *plan, qi_load load, qi_error *err) {
  const qi__key_set fixed[2] = {{"", qi__info_keys, QI__COUNT_OF(qi__info_keys)},
                                {"", qi__vocab_keys, QI__COUNT_OF(qi__vocab_keys)}};
  const qi__architecture *arch;
  qi_result r = qi__gguf_peek_keys(p, plan, fixed, load == QI_LOAD_METADATA ? 1 : 2, err);
  if (r || load != QI_LOAD_ALL || qi__architecture_find(&p->gguf, &arch, NULL)) return r; // counting tells what is wrong with it
  char prefix[QI__GGUF_PEEK_BYTES];
  snprintf(prefix, sizeof prefix, "%s.", arch->name);
  const qi__key_set numbers = {prefix, qi__hparam_keys, QI__COUNT_OF(qi__hparam_keys)};
  return qi__gguf_peek_keys(p, plan, &numbers, 1, err);
}

// The same for a Hugging Face folder, or with a cache: the index is built for it, and given back.
QI__FN qi_result qi__model_index_memory(const qi_model_desc *desc, qi_memory *out, qi_error *err) {
  qi_model *m = NULL;
  qi__vocab_counts counts;
  qi__arena arena = {NULL, 0, 0, false};
  qi_result r = qi__model_new(&m, desc, err);
  if (r) return r;
  memset(&counts, 0, sizeof counts);
  if (!(r = qi__model_count(m, &arena, &counts, err))) {
    *out = m->memory;
    out->heap += arena.used;
  }
  qi__model_close(m);
  return r;
}

// Counts what qi__model_open will take, by walks over the file; asks for no memory, but some 20 KB of stack.
QI__FN qi_result qi__model_memory(const qi_model_desc *desc, qi_memory *out, qi_error *err) {
  qi_allocator allocator;
  qi__gguf_plan plan;
  uint64_t index_bytes = 0, mapped = 0;
  qi_result r = qi__model_check_desc(desc, err);
  bool cached = desc->cache_bytes && desc->load == QI_LOAD_ALL;
  if (!r && (cached || qi__hf_is_source(desc))) return qi__model_index_memory(desc, out, err);
  if (!r) r = qi__allocator_resolve(&desc->allocator, &allocator, err);
  if (!r) r = qi__gguf_measure(desc, &index_bytes, &mapped, &plan, err);
  if (r) return r;
  qi__gguf_peek peek;
  qi__arena arena = {NULL, 0, 0, false};
  r = qi__gguf_peek_open(&peek, desc, &plan, err);
  if (!r) r = qi__model_peek(&peek, &plan, desc->load, err);
  if (!r) {
    qi_model m;
    qi__vocab_counts counts;
    memset(&m, 0, sizeof m);
    memset(&counts, 0, sizeof counts);
    m.load = desc->load;
    m.gguf = peek.gguf;
    r = qi__model_count(&m, &arena, &counts, err);
  }
  qi__gguf_peek_close(&peek);
  if (r) return r;
  out->heap = sizeof(qi_model) + index_bytes + arena.used;
  out->mapped = mapped;
  return QI_OK;
}

// ---- facts ----

QI__FN void qi__model_info(const qi_model *m, qi_model_info *out) {
  out->architecture = m->info[0];
  out->name = m->info[1];
  out->chat_template = m->info[2];
  out->n_vocab = (int)m->vocab.n_tokens;
  out->n_ctx_train = (int)m->h.n_ctx_train;
  out->n_layers = (int)m->h.n_layers;
  out->n_embd = (int)m->h.n_embd;
  out->n_heads = (int)m->h.n_heads;
  out->n_kv_heads = (int)m->h.n_kv_heads;
  out->head_dim = (int)m->h.head_dim_k;
  out->n_ff = (int)m->h.n_ff;
  out->memory = m->memory;
  out->cache = m->cache.info;
  out->backend = m->backend ? m->backend->name : "";
  out->device = m->backend ? m->backend->device_name(m->device) : "";
  for (size_t i = 0; i < m->gguf.n_tensors; i++) {
    const qi__tensor_info *t = &m->gguf.tensors[i];
    out->n_params += t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
    out->n_tensor_bytes += t->n_bytes;
  }
}

QI__FN void qi__model_tensor(const qi_model *m, const qi__tensor_info *t, qi_tensor *out) {
  memset(out, 0, sizeof *out);
  out->name = t->name;
  out->format = t->format;
  out->gguf_id = t->gguf_id;
  out->n_dims = t->n_dims;
  memcpy(out->shape, t->shape, sizeof out->shape);
  out->n_bytes = t->n_bytes;
  out->data = m->load == QI_LOAD_ALL ? m->data[t - m->gguf.tensors] : qi__gguf_tensor_data(&m->gguf, t);
}

#endif // QI__MODEL_H
