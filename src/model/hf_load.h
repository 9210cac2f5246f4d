// ==== >>hf_load : opening a Hugging Face folder as if it were a GGUF file ====
#ifndef QI__MODEL_HF_LOAD_H
#define QI__MODEL_HF_LOAD_H

#include "hf_tokenizer.h"
#include "safetensors.h"

// A folder holds config.json, tokenizer.json, maybe tokenizer_config.json, generation_config.json and chat_template.jinja, and the
// weights: model.safetensors, or model.safetensors.index.json with model-00001-of-0000N.safetensors and so on. All of it becomes
// one qi__gguf: part 0 is a block of memory with the metadata in GGUF's form and the factors of rope_scaling as tensors, the other
// parts are the files of weights, whose tensors get GGUF's names and stay where they are.

#define QI__HF_MAX_PATH 4096
#define QI__HF_MAX_FILE 256

typedef struct qi__hf {
  const qi_model_desc *desc;
  char dir[QI__HF_MAX_PATH];       // with a slash at the end; "" = the current one
  char weights[QI__HF_MAX_FILE];   // name of the only, or any, file of weights; "" = none
  size_t stem;                     // bytes of it before "-00001-of-..."; 0 = one file
  uint32_t n_files;                // of weights
  qi__file tokenizer_file, settings_file, template_file, index_file; // size 0: not there
  qi__file config_file;
  qi__hf_config config;
  qi__hf_tokenizer tokenizer;
  qi__hf_index index;
  qi__gguf_plan plan;
  uint64_t factors_at;             // offset of the factor tensors in part 0
  char name[64];                   // of the folder
} qi__hf;

// ---- paths ----

QI__FN bool qi__ends_with(const char *s, const char *end) {
  size_t n = strlen(s), m = strlen(end);
  return n >= m && !memcmp(s + n - m, end, m);
}

// True when the desc's path means a Hugging Face folder: the folder itself, or one of its files.
QI__FN bool qi__hf_is_source(const qi_model_desc *desc) {
  if (!desc->path) return false;
  if (qi__ends_with(desc->path, ".safetensors") || qi__ends_with(desc->path, ".json")) return true;
  return qi__path_look(desc->path) == QI__PATH_FOLDER;
}

// Bytes of a path up to its last component.
QI__FN size_t qi__path_parent(const char *path) {
  size_t n = strlen(path);
  while (n && path[n - 1] != '/') {
#ifdef _WIN32
    if (path[n - 1] == '\\') break;
#endif
    n--;
  }
  return n;
}

// Bytes before "-00001-of-00002.safetensors", and its two numbers; 0 when a name does not end so.
QI__FN size_t qi__hf_split_name(const char *name, uint32_t *part, uint32_t *n_parts) {
  const size_t tail = strlen("-00001-of-00002.safetensors");
  size_t n = strlen(name);
  char again[32];
  if (n <= tail || !qi__ends_with(name, ".safetensors")) return 0;
  const char *s = name + n - tail;
  *part = *n_parts = 0;
  for (int i = 0; i < 5; i++) { // what is no digit gives another text again
    *part = *part * 10 + (uint32_t)(uint8_t)(s[1 + i] - '0');
    *n_parts = *n_parts * 10 + (uint32_t)(uint8_t)(s[10 + i] - '0');
  }
  snprintf(again, sizeof again, "-%05u-of-%05u.safetensors", *part, *n_parts);
  return !strcmp(s, again) && *part && *part <= *n_parts ? n - tail : 0;
}

// Opens a file of the folder; *f has size 0 when it is not there and not required. f->name is the plain name.
QI__FN qi_result qi__hf_open_file(const qi__hf *hf, const char *name, bool required, qi__file *f, qi_error *err) {
  char path[QI__HF_MAX_PATH + QI__HF_MAX_FILE];
  qi__file_init(f);
  snprintf(path, sizeof path, "%s%s", hf->dir, name);
  if (!required && qi__path_look(path) == QI__PATH_MISSING) return QI_OK;
  qi_result r = qi__file_open_path(f, path, hf->desc->no_mmap, err);
  if (!r) snprintf(f->name, sizeof f->name, "%s", qi__path_tail(name, sizeof f->name - 1));
  return r;
}

QI__FN bool qi__hf_has_file(const qi__hf *hf, const char *name) {
  char path[QI__HF_MAX_PATH + QI__HF_MAX_FILE];
  snprintf(path, sizeof path, "%s%s", hf->dir, name);
  return qi__path_look(path) == QI__PATH_FILE;
}

// Folder and, when the path names one, file of weights.
QI__FN qi_result qi__hf_find_folder(qi__hf *hf, qi_error *err) {
  const char *path = hf->desc->path;
  size_t n = strlen(path), parent = qi__path_parent(path);
  bool folder = qi__path_look(path) == QI__PATH_FOLDER;
  if (n > QI__HF_MAX_PATH - 2) return qi__fail(err, QI_ERR_LIMIT, "path: %zu bytes, at most %d are allowed", n,
      QI__HF_MAX_PATH - 2);
  memcpy(hf->dir, path, folder ? n : parent);
  hf->dir[folder ? n : parent] = 0;
  if (folder && parent != n) memcpy(hf->dir + n, "/", 2);
  if (!folder && qi__ends_with(path, ".safetensors")) {
    if (n - parent >= QI__HF_MAX_FILE) return qi__fail(err, QI_ERR_LIMIT, "path: a file name of %zu bytes", n - parent);
    memcpy(hf->weights, path + parent, n - parent + 1);
  }
  size_t end = strlen(hf->dir);
  while (end && hf->dir[end - 1] == '/') end--;
  size_t begin = end;
  while (begin && hf->dir[begin - 1] != '/') begin--;
  snprintf(hf->name, sizeof hf->name, "%.*s", (int)qi__min_size(end - begin, sizeof hf->name - 1), hf->dir + begin);
  return QI_OK;
}

// ---- index of files ----

// Names in the index are plain file names: nothing leads out of the folder.
QI__FN bool qi__hf_is_plain_name(const char *name) { return qi__ends_with(name, ".safetensors") && !strpbrk(name, "/\\:"); }

// Walks over weight_map of the index: first without an open model, to learn the files' names; then with one, to see that each
// tensor is where the index says.
QI__FN qi_result qi__hf_walk_index(qi__hf *hf, const qi__gguf *g, qi_error *err) {
  qi__json j;
  char tensor[QI__GGUF_MAX_NAME + 1], name[QI__HF_MAX_FILE], mapped[QI__GGUF_MAX_NAME + 1];
  qi__json_init(&j, &hf->index_file, 0, hf->index_file.size, err);
  for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);) {
    if (!qi__json_key_is(&j, "weight_map")) {
      qi__json_skip(&j);
      continue;
    }
    for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);) {
      uint32_t part = 1, n_parts = 1;
      snprintf(tensor, sizeof tensor, "%.*s", QI__GGUF_MAX_NAME, j.key);
      qi__json_text(&j, name, sizeof name);
      if (j.result) break;
      size_t stem = qi__hf_split_name(name, &part, &n_parts);
      if (!stem) part = n_parts = 1;
      if (!hf->weights[0]) {
        memcpy(hf->weights, name, sizeof name);
        hf->stem = stem;
        hf->n_files = n_parts;
      }
      if (!qi__hf_is_plain_name(name) || stem != hf->stem || n_parts != hf->n_files || memcmp(name, hf->weights, stem) ||
          (!stem && strcmp(name, hf->weights)))
        qi__json_fail(&j, QI_ERR_UNSUPPORTED, "file '%s', expected names like model-00001-of-00002.safetensors",
                      qi__show_text(name).s);
      if (!g || j.result) continue;
      qi__hf_tensor_name(&hf->config, tensor, mapped);
      const qi__tensor_info *t = qi__gguf_tensor(g, mapped);
      if (!t || t->part != (int)part)
        qi__json_fail(&j, QI_ERR_FORMAT, "tensor %s: is not in %s", qi__show_text(tensor).s,
                      qi__show_text(name).s);
    }
  }
  qi__json_end(&j);
  if (!j.result && !hf->weights[0]) return qi__fail(err, QI_ERR_FORMAT, "weight_map: missing or empty");
  return j.result;
}

// Which files hold the weights.
QI__FN qi_result qi__hf_find_weights(qi__hf *hf, qi_error *err) {
  const char *index = "model.safetensors.index.json";
  uint32_t part;
  qi_result r;
  hf->n_files = 1;
  if (hf->weights[0]) {
    hf->stem = qi__hf_split_name(hf->weights, &part, &hf->n_files);
    if (!hf->stem) hf->n_files = 1;
  } else if (qi__hf_has_file(hf, "model.safetensors") && !qi__ends_with(hf->desc->path, index)) {
    snprintf(hf->weights, sizeof hf->weights, "model.safetensors");
  } else {
    if ((r = qi__hf_open_file(hf, index, false, &hf->index_file, err))) return r;
    if (hf->index_file.size) return qi__gguf_blame(&hf->index_file, qi__hf_walk_index(hf, NULL, err), err);
    if (hf->desc->load == QI_LOAD_ALL)
      return qi__fail(err, QI_ERR_IO, "%s: has neither model.safetensors nor %s", hf->name[0] ? hf->name : "folder", index);
    hf->n_files = 0;
  }
  return QI_OK;
}

// File `part` (from 1) of the weights.
QI__FN qi_result qi__hf_open_weights(const qi__hf *hf, uint32_t part, qi__file *f, qi_error *err) {
  char name[QI__HF_MAX_FILE + 32];
  if (hf->stem) snprintf(name, sizeof name, "%.*s-%05u-of-%05u.safetensors", (int)hf->stem, hf->weights, part, hf->n_files);
  else snprintf(name, sizeof name, "%s", hf->weights);
  return qi__hf_open_file(hf, name, true, f, err);
}

// ---- planning ----

QI__FN qi_result qi__hf_read_config(qi__hf *hf, qi_error *err) {
  qi__file generation;
  qi_result r = qi__hf_open_file(hf, "config.json", true, &hf->config_file, err);
  if (r) return r;
  qi__hf_config_init(&hf->config);
  r = qi__hf_config_read(&hf->config, &hf->config_file, err);
  if (!r && hf->desc->load == QI_LOAD_ALL) r = qi__hf_config_check(&hf->config, err);
  if (qi__gguf_blame(&hf->config_file, r, err)) return r;
  if ((r = qi__hf_open_file(hf, "generation_config.json", false, &generation, err))) return r;
  if (generation.size) {
    qi__hf_config own = hf->config;
    r = qi__gguf_blame(&generation, qi__hf_config_read(&own, &generation, err), err);
    hf->config.bos = own.bos;
    hf->config.eos = own.eos;
    hf->config.pad = own.pad;
  }
  qi__file_close(&generation);
  return r;
}

QI__FN qi_result qi__hf_read_tokenizer(qi__hf *hf, qi_error *err) {
  qi__file *f = &hf->tokenizer_file;
  qi_result r = qi__hf_open_file(hf, "tokenizer.json", true, f, err);
  if (!r) r = qi__gguf_blame(f, qi__hf_tokenizer_scan(&hf->tokenizer, f, err), err);
  if (!r) r = qi__hf_open_file(hf, "tokenizer_config.json", false, &hf->settings_file, err);
  if (!r && hf->settings_file.size)
    r = qi__gguf_blame(&hf->settings_file, qi__hf_tokenizer_config(&hf->tokenizer, &hf->settings_file, err), err);
  if (!r) r = qi__hf_open_file(hf, "chat_template.jinja", false, &hf->template_file, err);
  if (!r) r = qi__gguf_blame(f, qi__hf_find_specials(&hf->tokenizer, &hf->config, f, err), err);
  if (!r) r = qi__gguf_blame(f, qi__hf_count_tokens(&hf->tokenizer, &hf->config, &hf->index.n_tokens, err), err);
  return r;
}

// Counts the tensors of one file.
QI__FN qi_result qi__hf_plan_file(qi__hf *hf, uint32_t part, qi_error *err) {
  qi__file f;
  qi__st_header h;
  qi__st_entry e;
  char name[QI__GGUF_MAX_NAME + 1];
  qi_result r = qi__hf_open_weights(hf, part, &f, err);
  if (r) return r;
  r = qi__st_begin(&h, &f, err);
  while (!r && qi__st_next(&h, &e)) {
    qi__hf_tensor_name(&hf->config, e.name, name);
    hf->plan.text_bytes += strlen(name) + 1;
    hf->plan.n_tensors++;
  }
  if (!r) r = h.json.result;
  hf->plan.mapped += f.mapped ? f.size : 0;
  qi__gguf_blame(&f, r, err);
  qi__file_close(&f);
  return r;
}

QI__FN void qi__hf_write_template(qi__meta_writer *w, const qi__hf *hf, qi_error *err, qi_result *result) {
  qi__json j;
  if (hf->template_file.size) {
    size_t n = hf->template_file.size < SIZE_MAX ? (size_t)hf->template_file.size : SIZE_MAX;
    qi__meta_key(w, "tokenizer.chat_template", QI_META_STRING);
    qi__meta_u64(w, n);
    uint8_t *text = qi__meta_room(w, n);
    if (text) *result = qi__file_read(&hf->template_file, 0, text, n, err);
  } else if (hf->tokenizer.template_pos) {
    qi__json_init(&j, &hf->settings_file, hf->tokenizer.template_pos, hf->settings_file.size, err);
    qi__meta_key(w, "tokenizer.chat_template", QI_META_STRING);
    qi__meta_json_text(w, &j);
    *result = j.result;
  }
}

// All metadata. n_metas: as counted before.
QI__FN qi_result qi__hf_write_metas(qi__meta_writer *w, const qi__hf *hf, uint64_t n_metas, qi_error *err) {
  qi_result r = QI_OK;
  qi__meta_header(w, n_metas);
  qi__hf_write_config(w, &hf->config, hf->name);
  if (hf->desc->load == QI_LOAD_METADATA) return QI_OK;
  r = qi__hf_write_tokenizer(w, &hf->tokenizer, &hf->config, &hf->index, &hf->tokenizer_file, err);
  if (r) return qi__gguf_blame(&hf->tokenizer_file, r, err);
  qi__hf_write_template(w, hf, err, &r);
  return qi__gguf_blame(hf->template_file.size ? &hf->template_file : &hf->settings_file, r, err);
}

// Names of the factor tensors; NULL ends the list.
QI__FN const char *const *qi__hf_factor_names(const qi__hf_config *c) {
  static const char *const none[] = {NULL, NULL, NULL}, *const llama3[] = {"rope_freqs.weight", NULL, NULL};
  static const char *const both[] = {"rope_factors_short.weight", "rope_factors_long.weight", NULL};
  return !qi__hf_n_factors(c) ? none : qi__hf_is_longrope(c) ? both : llama3;
}

// Opens the files that are no weights and counts everything. hf->desc is set; close it with qi__hf_close, also after a failure.
QI__FN qi_result qi__hf_make_plan(qi__hf *hf, qi_error *err) {
  qi__gguf_plan *plan = &hf->plan;
  qi_result r = qi__hf_find_folder(hf, err);
  if (!r) r = qi__hf_read_config(hf, err);
  if (!r && hf->desc->load != QI_LOAD_METADATA) r = qi__hf_read_tokenizer(hf, err);
  if (!r) r = qi__hf_find_weights(hf, err);
  if (!r && hf->n_files >= QI__GGUF_MAX_PARTS)
    r = qi__fail(err, QI_ERR_LIMIT, "%u files of weights, at most %d are allowed", hf->n_files, QI__GGUF_MAX_PARTS - 1);
  for (uint32_t part = 1; !r && part <= hf->n_files; part++) r = qi__hf_plan_file(hf, part, err);
  if (r) return r;
  qi__meta_writer count = {NULL, 0, 0, 0, 0, false};
  if ((r = qi__hf_write_metas(&count, hf, 0, err))) return r;
  size_t factors = 4 * (size_t)qi__hf_n_factors(&hf->config), size = 0;
  bool fits = !count.overflow && qi__align_up(count.used, QI__CACHE_LINE, &size);
  hf->factors_at = size;
  plan->resident_bytes = (uint64_t)size;
  for (const char *const *name = qi__hf_factor_names(&hf->config); *name; name++) {
    plan->resident_bytes += factors;
    plan->text_bytes += strlen(*name) + 1;
    plan->n_tensors++;
  }
  plan->n_parts = 1 + (uint64_t)hf->n_files;
  plan->first.n_metas = count.n_metas;
  plan->text_bytes += count.key_bytes;
  if (plan->n_tensors > QI__GGUF_MAX_ENTRIES)
    return qi__fail(err, QI_ERR_LIMIT, "%llu tensors in all files, at most %u are allowed", (unsigned long long)plan->n_tensors,
                    QI__GGUF_MAX_ENTRIES);
  if (!fits || plan->resident_bytes > SIZE_MAX || plan->text_bytes > SIZE_MAX)
    return qi__fail(err, QI_ERR_LIMIT, "metadata: does not fit into this machine's address space");
  return QI_OK;
}

QI__FN void qi__hf_close(qi__hf *hf) {
  qi__file_close(&hf->config_file);
  qi__file_close(&hf->tokenizer_file);
  qi__file_close(&hf->settings_file);
  qi__file_close(&hf->template_file);
  qi__file_close(&hf->index_file);
}

// Runs twice: counting, then over the block.
QI__FN void qi__hf_layout(qi__hf *hf, qi__gguf *g, qi__arena *arena) {
  qi__gguf_layout(g, arena, &hf->plan);
  if (hf->desc->load == QI_LOAD_METADATA) return;
  hf->index.pos = QI__ARENA_ARRAY(arena, uint32_t, hf->index.n_tokens);
  hf->index.type = QI__ARENA_ARRAY(arena, uint8_t, hf->index.n_tokens);
}

// ---- filling ----

// Metadata to part 0, and its index.
QI__FN qi_result qi__hf_load_metas(qi__hf *hf, qi__gguf *g, qi_error *err) {
  qi__gguf_plan plan = hf->plan;
  qi__gguf_counts counts;
  qi__meta_writer w = {g->copy, 0, (size_t)hf->factors_at, 0, 0, false};
  qi_result r = QI_OK;
  if (hf->desc->load != QI_LOAD_METADATA)
    r = qi__gguf_blame(&hf->tokenizer_file, qi__hf_index_tokens(&hf->tokenizer, &hf->tokenizer_file, &hf->index, err), err);
  if (!r) r = qi__hf_write_metas(&w, hf, plan.first.n_metas, err);
  if (r) return r;
  if (w.overflow || w.n_metas != plan.first.n_metas) return qi__gguf_changed(err);
  r = qi__file_open_memory(&g->parts[0].file, g->copy, (size_t)plan.resident_bytes, err);
  if (r) return r;
  g->n_parts = 1;
  memset(&counts, 0, sizeof counts);
  counts.n_metas = plan.first.n_metas;
  plan.first.metas_end = w.used;
  return qi__gguf_load_metas(g, &plan, &counts, err);
}

// A new entry of the list of tensors, with a copy of this name; NULL on failure.
QI__FN qi__tensor_info *qi__hf_new_tensor(qi__hf *hf, qi__gguf *g, const char *name, size_t part, qi_error *err) {
  qi__tensor_info *t = &g->tensors[g->n_tensors];
  const char *copy = g->n_tensors < hf->plan.n_tensors ? qi__gguf_keep_text(g, name) : NULL;
  if (!copy) {
    qi__gguf_changed(err);
    return NULL;
  }
  if (!qi__str_map_put(&g->tensor_index, copy, (int32_t)g->n_tensors)) {
    qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: occurs twice", copy);
    return NULL;
  }
  memset(t, 0, sizeof *t);
  t->name = copy;
  t->part = (int)part;
  for (int i = 0; i < 4; i++) t->shape[i] = 1;
  g->n_tensors++;
  return t;
}

// The factor tensors, as GGUF files have them.
QI__FN qi_result qi__hf_load_factors(qi__hf *hf, qi__gguf *g, qi_error *err) {
  uint32_t n = qi__hf_n_factors(&hf->config);
  uint8_t *at = g->copy + (size_t)hf->factors_at;
  qi__hf_config again;
  for (const char *const *name = qi__hf_factor_names(&hf->config); *name; name++) {
    qi__tensor_info *t = qi__hf_new_tensor(hf, g, *name, 0, err);
    if (!t) return err ? err->code : QI_ERR_FORMAT;
    t->format = QI_FORMAT_F32;
    t->n_dims = 1;
    t->shape[0] = n;
    t->n_bytes = 4 * (uint64_t)n;
    t->offset = hf->factors_at + (uint64_t)(name - qi__hf_factor_names(&hf->config)) * t->n_bytes;
  }
  if (!n) return QI_OK;
  if (!qi__hf_is_longrope(&hf->config)) {
    for (uint32_t i = 0; i < n; i++) {
      uint32_t bits = qi__f32_bits(qi__hf_llama3_factor(&hf->config, i));
      for (int k = 0; k < 4; k++) at[4 * (size_t)i + (size_t)k] = (uint8_t)(bits >> (8 * k));
    }
    return QI_OK;
  }
  memset(at, 0, 8 * (size_t)n);
  qi__hf_config_init(&again);
  again.short_factor.out = at;
  again.long_factor.out = at + 4 * (size_t)n;
  again.short_factor.n = again.long_factor.n = n;
  return qi__gguf_blame(&hf->config_file, qi__hf_config_read(&again, &hf->config_file, err), err);
}

QI__FN qi_result qi__hf_load_entries(qi__hf *hf, qi__gguf *g, size_t part, qi_error *err) {
  qi__st_header h;
  qi__st_entry e;
  char name[QI__GGUF_MAX_NAME + 1];
  qi_result r = qi__st_begin(&h, &g->parts[part].file, err);
  if (r) return r;
  g->parts[part].data_offset = h.data_offset;
  while (qi__st_next(&h, &e)) {
    qi__hf_tensor_name(&hf->config, e.name, name);
    qi__tensor_info *t = qi__hf_new_tensor(hf, g, name, part, err);
    if (!t) return err ? err->code : QI_ERR_FORMAT;
    t->format = e.dtype->format;
    t->gguf_id = e.dtype->gguf_id;
    t->dtype = e.dtype->name;
    t->n_dims = e.n_dims;
    memcpy(t->shape, e.shape, sizeof t->shape);
    t->n_bytes = e.end - e.begin; // of all types, until places are checked
    t->offset = h.data_offset + e.begin;
  }
  return h.json.result;
}

// Tensors `first` and following must cover the data of their file, each byte once.
QI__FN qi_result qi__hf_place_tensors(qi__gguf *g, size_t part, size_t first, qi_error *err) {
  const qi__file *f = &g->parts[part].file;
  qi__tensor_info *tensors = g->tensors + first;
  size_t n = g->n_tensors - first;
  uint64_t end = g->parts[part].data_offset;
  qi__order_by_offset(tensors, g->order, n);
  for (size_t i = 0; i < n; i++) {
    qi__tensor_info *t = &tensors[g->order[i]];
    if (!t->n_bytes) continue;
    if (t->offset != end)
      return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: begins at offset %llu, expected %llu: tensors %s", t->name,
                      (unsigned long long)t->offset, (unsigned long long)end, t->offset < end ? "overlap" : "leave a hole");
    if (t->n_bytes > SIZE_MAX / 2)
      return qi__fail(err, QI_ERR_LIMIT, "tensor %.96s: does not fit into this machine's address space", t->name);
    end += t->n_bytes;
  }
  if (end == f->size) return QI_OK;
  return qi__fail(err, QI_ERR_FORMAT, "tensors end at offset %llu, but the file at %llu", (unsigned long long)end,
                  (unsigned long long)f->size);
}

QI__FN qi_result qi__hf_load_file(qi__hf *hf, qi__gguf *g, uint32_t part, qi_error *err) {
  qi__file *f = &g->parts[part].file;
  size_t first = g->n_tensors;
  qi_result r = qi__hf_open_weights(hf, part, f, err);
  if (r) return r;
  g->n_parts++;
  g->mapped += f->mapped ? f->size : 0;
  r = qi__hf_load_entries(hf, g, part, err);
  if (!r) r = qi__hf_place_tensors(g, part, first, err);
  return qi__gguf_blame(f, r, err);
}

// ---- ternary ----

// The one number in a tensor, which must be finite and above 0.
QI__FN qi_result qi__hf_read_scale(const qi__gguf *g, const qi__tensor_info *t, float *out, qi_error *err) {
  uint8_t bytes[4];
  if (t->format == QI_FORMAT_NONE || t->n_bytes > sizeof bytes || t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3] != 1)
    return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: expected one number of type F32, F16 or BF16", t->name);
  qi_result r = qi__gguf_read_tensor(g, t, 0, bytes, (size_t)t->n_bytes, err);
  if (r) return r;
  qi__dequantize(t->format, bytes, out, 1);
  if (qi__is_finite(*out) && *out > 0) return QI_OK;
  return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: is %g, expected a number above 0", t->name, (double)*out);
}

// A layer whose scale multiplies its whole output scales its bias too (AutoBitLinear of transformers): ours would not.
QI__FN qi_result qi__hf_check_bias(const qi__hf *hf, const qi__gguf *g, const qi__tensor_info *t, qi_error *err) {
  char name[QI__GGUF_MAX_NAME + 8];
  size_t n = strlen(t->name), suffix = strlen(".weight");
  if (qi__hf_scale_divides(&hf->config) || n < suffix || strcmp(t->name + n - suffix, ".weight")) return QI_OK;
  snprintf(name, sizeof name, "%.*s.bias", (int)(n - suffix), t->name);
  if (!qi__gguf_tensor(g, name)) return QI_OK;
  return qi__fail(err, QI_ERR_UNSUPPORTED, "tensor %.96s: a bias beside packed weights whose scale multiplies it is not supported",
                  name);
}

// Uint8 tensors with a scale beside them become what they are converted to when they are loaded.
QI__FN qi_result qi__hf_note_packed(const qi__hf *hf, qi__gguf *g, qi__tensor_info *t, qi_error *err) {
  char name[QI__GGUF_MAX_NAME + 8];
  float scale;
  if (strcmp(t->dtype, "U8") || t->n_dims != 2 || !t->n_bytes) return QI_OK;
  snprintf(name, sizeof name, "%s_scale", t->name);
  const qi__tensor_info *s = qi__gguf_tensor(g, name);
  if (!s) return QI_OK;
  qi_result r = qi__hf_read_scale(g, s, &scale, err);
  if (!r) r = qi__hf_check_bias(hf, g, t, err);
  if (r) return r;
  if (qi__hf_scale_divides(&hf->config)) scale = 1 / scale;
  if (!qi__is_finite(scale) || !(scale > 0))
    return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: weights of %g, expected a number above 0", name, (double)scale);
  if (t->shape[0] % 256)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "tensor %.96s: packed rows of %llu weights, expected a multiple of 256", t->name,
                    (unsigned long long)t->shape[0]);
  if (t->n_bytes > SIZE_MAX / 256) return qi__fail(err, QI_ERR_LIMIT, "tensor %.96s: is too large", t->name);
  t->shape[1] *= 4;
  t->format = QI_FORMAT_I2_S;
  t->gguf_id = qi__format_get(QI_FORMAT_I2_S)->info.gguf_id;
  t->n_bytes = qi__format_bytes(QI_FORMAT_I2_S, (size_t)(t->shape[0] * t->shape[1]));
  t->scale = scale;
  return QI_OK;
}

// Reads a packed tensor and converts it to `dst`, t->n_bytes; dst NULL only checks it. Errors: QI_ERR_IO, QI_ERR_FORMAT (a
// code that is none).
QI__FN qi_result qi__hf_convert(const qi__gguf *g, const qi__tensor_info *t, uint8_t *dst, qi_error *err) {
  uint8_t bytes[4096], unused[1024]; // whole blocks
  size_t n_cols = (size_t)t->shape[0], n_rows = (size_t)t->shape[1] / 4, row_bytes = qi__row_bytes(t->format, n_cols);
  for (size_t row = 0; row < n_rows; row++)
    for (size_t c = 0; c < n_cols; c += sizeof bytes) {
      size_t n = qi__min_size(sizeof bytes, n_cols - c);
      qi_result r = qi__file_read(&g->parts[t->part].file, t->offset + row * n_cols + c, bytes, n, err);
      if (r) return r;
      for (unsigned k = 0; k < 4; k++) {
        uint8_t *at = dst ? dst + (row + k * n_rows) * row_bytes + qi__row_bytes(t->format, c) : unused;
        if (!qi__hf_ternary_row(bytes, k, n, at))
          return qi__fail(err, QI_ERR_FORMAT, "tensor %s: packed row %zu has the code 3, expected 0 to 2", t->name, row);
      }
    }
  if (dst) qi__store_tail_i2_s(dst + t->shape[1] * row_bytes, t->scale);
  return QI_OK;
}

// ---- open ----

// What is left when all tensors are there: packed ones, what the configs promise, sums.
QI__FN qi_result qi__hf_finish(qi__hf *hf, qi__gguf *g, qi_error *err) {
  qi_result r = QI_OK;
  qi__gguf_counts counts, one;
  memset(&counts, 0, sizeof counts);
  for (size_t i = 0; i < g->n_tensors && !r; i++) {
    qi__tensor_info *t = &g->tensors[i];
    if (t->dtype && qi__hf_is_ternary(&hf->config)) r = qi__hf_note_packed(hf, g, t, err);
    if (t->format == QI_FORMAT_NONE) t->n_bytes = 0; // as for GGUF's unknown types
    memset(&one, 0, sizeof one);
    qi__gguf_note_tensor(t, &one);
    if (g->parts[t->part].file.map && !(t->scale > 0)) one.copy_bytes = 0;
    if (!qi__add_u64(g->copy_bytes, one.copy_bytes, &g->copy_bytes)) g->copy_bytes = UINT64_MAX;
    g->vector_bytes = qi__gguf_add_vectors(g->vector_bytes, &one);
  }
  if (!r && hf->index_file.size) r = qi__gguf_blame(&hf->index_file, qi__hf_walk_index(hf, g, err), err);
  if (!r && hf->desc->load == QI_LOAD_ALL && hf->config.tied == 0 && !qi__gguf_tensor(g, "output.weight"))
    r = qi__fail(err, QI_ERR_FORMAT, "tensor lm_head.weight: missing, but config.json says that it is not tied to the embedding");
  return r;
}

// Opens the folder that the desc's path means. As qi__gguf_open; close it with qi__gguf_close.
// Errors: QI_ERR_IO, QI_ERR_FORMAT, QI_ERR_UNSUPPORTED, QI_ERR_LIMIT, QI_ERR_OOM.
QI__FN qi_result qi__hf_open(qi__gguf *g, const qi_model_desc *desc, const qi_allocator *allocator, qi_error *err) {
  qi__hf hf;
  qi_error own = {QI_OK, ""};
  if (!err) err = &own; // the functions above read codes back
  memset(g, 0, sizeof *g);
  memset(&hf, 0, sizeof hf);
  hf.desc = desc;
  qi__file_init(&hf.config_file);
  qi__file_init(&hf.tokenizer_file);
  qi__file_init(&hf.settings_file);
  qi__file_init(&hf.template_file);
  qi__file_init(&hf.index_file);
  qi_result r = qi__hf_make_plan(&hf, err);
  if (!r) {
    g->allocator = *allocator;
    qi__hf_layout(&hf, g, &g->arena);
    r = qi__arena_open(&g->arena, allocator, "index of the folder", err);
    if (!r) {
      qi__hf_layout(&hf, g, &g->arena);
      r = qi__hf_load_metas(&hf, g, err);
      if (!r) r = qi__hf_load_factors(&hf, g, err);
      for (uint32_t part = 1; !r && part <= hf.n_files; part++) r = qi__hf_load_file(&hf, g, part, err);
      if (!r && g->n_tensors != hf.plan.n_tensors) r = qi__gguf_changed(err);
      if (!r) r = qi__hf_finish(&hf, g, err);
    }
  }
  qi__hf_close(&hf);
  if (r) qi__gguf_close(g);
  return r;
}

// The scores that loading the vocabulary made go to the metadata, so that it is whole for those who copy it.
QI__FN void qi__hf_keep_scores(qi__gguf *g, const qi__vocab *v) {
  const qi_meta *m = qi__gguf_find(g, QI__KEY_SCORES);
  bool ours = g->copy && g->parts[0].file.map == g->copy;
  if (!ours || !m || !v->scores || m->type != QI_META_ARRAY || m->count != v->n_tokens) return;
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    uint32_t bits = qi__f32_bits(v->scores[id]);
    uint8_t *p = g->copy + (size_t)m->value.u + 4 * (size_t)id;
    for (int k = 0; k < 4; k++) p[k] = (uint8_t)(bits >> (8 * k));
  }
}

#endif // QI__MODEL_HF_LOAD_H
