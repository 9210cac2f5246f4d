// ==== >>gguf_load : opening GGUF files, whole or split ====
#ifndef QI__MODEL_GGUF_LOAD_H
#define QI__MODEL_GGUF_LOAD_H

#include "../base/map.h"
#include "gguf_scan.h"

#define QI__GGUF_MAX_PARTS 512
#define QI__GGUF_MAX_SPLIT_PATH 4096

// What opening takes: all files are scanned for this before any memory is asked for.
typedef struct qi__gguf_plan {
  qi__gguf_counts first;   // of the only, or first, file: its metadata is the model's
  uint64_t n_parts;
  uint64_t n_tensors;      // of all parts
  uint64_t text_bytes;     // keys and tensor names
  uint64_t resident_bytes; // copy of the metadata; 0 where the file can be looked at in place
  uint64_t mapped;         // bytes of mapped files
  uint64_t copy_bytes;     // of the tensors of files that cannot be looked at in place
  uint64_t vector_bytes;   // of float32 copies of all vectors
} qi__gguf_plan;

typedef struct qi__gguf_part {
  qi__file file;
  uint64_t data_offset;
} qi__gguf_part;

// An open file: its index is in memory, tensor data is in the files. Unchanging, but for qi__gguf_release and _close.
typedef struct qi__gguf {
  qi_meta *metas;          // [n_metas] in the file's order; key terminated; of arrays value.u is the offset of the elements
  size_t n_metas;
  qi__tensor_info *tensors; // [n_tensors] in the files' order
  size_t n_tensors;
  qi__gguf_part *parts;    // [n_parts]
  size_t n_parts;
  qi__str_map meta_index, tensor_index;
  qi__file resident;       // the first file from its begin through the metadata: in place, or our copy
  uint8_t *copy;
  char *text;              // [text_size] terminated keys and tensor names
  size_t text_size, text_used;
  uint32_t *order;         // [n_tensors] scratch: tensors of a part by offset
  uint64_t mapped, copy_bytes, vector_bytes; // as in the plan
  qi_allocator allocator;
  qi__arena arena;         // all of the above
} qi__gguf;

// ---- files ----

// Length of the path without "-00001-of-000NN.gguf"; 0 when it does not end so.
QI__FN size_t qi__split_stem(const char *path, uint64_t n_parts) {
  char suffix[32];
  size_t n = strlen(path);
  int len = snprintf(suffix, sizeof suffix, "-00001-of-%05u.gguf", (unsigned)n_parts);
  if (len <= 0 || n <= (size_t)len || strcmp(path + n - (size_t)len, suffix)) return 0;
  return n - (size_t)len;
}

QI__FN qi_result qi__gguf_open_split(qi__file *f, const qi_model_desc *desc, uint64_t part, uint64_t n_parts, qi_error *err) {
  char path[QI__GGUF_MAX_SPLIT_PATH];
  size_t stem = qi__split_stem(desc->path, n_parts);
  if (!stem) // the caller has looked before
    return qi__fail(err, QI_ERR_FORMAT, "%s: is no name of a first part", qi__path_tail(desc->path, 160));
  if (stem > sizeof path - 32)
    return qi__fail(err, QI_ERR_LIMIT, "path of a split model: %zu bytes, at most %zu are allowed", strlen(desc->path),
                    sizeof path);
  memcpy(path, desc->path, stem);
  snprintf(path + stem, sizeof path - stem, "-%05u-of-%05u.gguf", (unsigned)part + 1, (unsigned)n_parts);
  qi_result r = qi__file_open_path(f, path, desc->no_mmap, err);
  if (r) qi__fail_prefix(err, "part %u of %u: ", (unsigned)part + 1, (unsigned)n_parts);
  return r;
}

// Part 0 is what the desc names.
QI__FN qi_result qi__gguf_open_part(qi__file *f, const qi_model_desc *desc, uint64_t part, uint64_t n_parts, qi_error *err) {
  if (part) return qi__gguf_open_split(f, desc, part, n_parts, err);
  if (desc->path) return qi__file_open_path(f, desc->path, desc->no_mmap, err);
  if (desc->data) return qi__file_open_memory(f, desc->data, desc->data_size, err);
  return qi__file_open_reader(f, &desc->reader, err);
}

// Puts the file's name in front of a message; those of reading have it already.
QI__FN qi_result qi__gguf_blame(const qi__file *f, qi_result r, qi_error *err) {
  if (r && r != QI_ERR_IO && f->name[0]) qi__fail_prefix(err, "%s: ", f->name);
  return r;
}

// ---- planning ----

QI__FN qi_result qi__gguf_plan_parts(const qi_model_desc *desc, qi__gguf_plan *plan, qi_error *err) {
  const qi__gguf_counts *c = &plan->first;
  plan->n_parts = c->split_count != QI__GGUF_NO_SPLIT && c->split_count ? c->split_count : 1;
  if (plan->n_parts == 1) return QI_OK;
  if (plan->n_parts > QI__GGUF_MAX_PARTS)
    return qi__fail(err, QI_ERR_LIMIT, "key split.count: %llu parts, at most %d are allowed", (unsigned long long)plan->n_parts,
                    QI__GGUF_MAX_PARTS);
  if (!desc->path)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "key split.count: one of %u parts; a split model can only be opened by path",
                    (unsigned)plan->n_parts);
  if (c->split_no != 0)
    return qi__fail(err, QI_ERR_FORMAT, "key split.no: %s; open the first part (its name ends in -00001-of-%05u.gguf)",
                    c->split_no == QI__GGUF_NO_SPLIT ? "missing" : "not the first part", (unsigned)plan->n_parts);
  if (!qi__split_stem(desc->path, plan->n_parts))
    return qi__fail(err, QI_ERR_FORMAT, "one of %u parts, but the name does not end in -00001-of-%05u.gguf",
                    (unsigned)plan->n_parts, (unsigned)plan->n_parts);
  return QI_OK;
}

QI__FN qi_result qi__gguf_check_part(const qi__gguf_counts *c, uint64_t part, uint64_t n_parts, qi_error *err) {
  if (c->split_no != part)
    return qi__fail(err, QI_ERR_FORMAT, "key split.no: %lld, expected %u", (long long)c->split_no, (unsigned)part);
  if (c->split_count != n_parts)
    return qi__fail(err, QI_ERR_FORMAT, "key split.count: %lld, but the first part says %u", (long long)c->split_count,
                    (unsigned)n_parts);
  return QI_OK;
}

QI__FN uint64_t qi__gguf_add_vectors(uint64_t bytes, const qi__gguf_counts *c) {
  return qi__add_u64(bytes, c->vector_bytes, &bytes) ? bytes : UINT64_MAX;
}

// Scans one part and adds it to the plan.
QI__FN qi_result qi__gguf_plan_part(const qi_model_desc *desc, uint64_t part, qi__gguf_plan *plan, qi_error *err) {
  qi__file f;
  qi__gguf_counts counts;
  qi_result r = qi__gguf_open_part(&f, desc, part, plan->n_parts, err);
  if (r) return r;
  r = qi__gguf_scan(&f, &counts, err);
  if (!r && part) r = qi__gguf_check_part(&counts, part, plan->n_parts, err);
  if (!r) {
    plan->n_tensors += counts.n_tensors;
    plan->text_bytes += counts.name_bytes;
    plan->mapped += f.mapped ? f.size : 0;
    plan->copy_bytes += f.map ? 0 : counts.copy_bytes;
    plan->vector_bytes = qi__gguf_add_vectors(plan->vector_bytes, &counts);
  }
  if (!r && !part) {
    plan->first = counts;
    plan->text_bytes += counts.key_bytes;
    plan->resident_bytes = f.map ? 0 : counts.metas_end;
    r = qi__gguf_plan_parts(desc, plan, err);
  }
  qi__gguf_blame(&f, r, err);
  qi__file_close(&f);
  return r;
}

QI__FN qi_result qi__gguf_make_plan(const qi_model_desc *desc, qi__gguf_plan *plan, qi_error *err) {
  memset(plan, 0, sizeof *plan);
  qi_result r = qi__gguf_plan_part(desc, 0, plan, err);
  for (uint64_t part = 1; !r && part < plan->n_parts; part++) r = qi__gguf_plan_part(desc, part, plan, err);
  if (r) return r;
  if (plan->n_tensors > QI__GGUF_MAX_ENTRIES)
    return qi__fail(err, QI_ERR_LIMIT, "%llu tensors in all parts, at most %u are allowed", (unsigned long long)plan->n_tensors,
                    QI__GGUF_MAX_ENTRIES);
  uint64_t said = plan->first.split_n_tensors;
  if (plan->n_parts > 1 && said != QI__GGUF_NO_SPLIT && said != plan->n_tensors)
    return qi__fail(err, QI_ERR_FORMAT, "key split.tensors.count: %llu, but the %u parts have %llu tensors",
                    (unsigned long long)said, (unsigned)plan->n_parts, (unsigned long long)plan->n_tensors);
  if (plan->resident_bytes > SIZE_MAX || plan->text_bytes > SIZE_MAX)
    return qi__fail(err, QI_ERR_LIMIT, "metadata of %llu bytes does not fit into this machine's address space",
                    (unsigned long long)plan->resident_bytes);
  return QI_OK;
}

// Runs twice: counting, then over the block.
QI__FN void qi__gguf_layout(qi__gguf *g, qi__arena *arena, const qi__gguf_plan *plan) {
  size_t n_metas = (size_t)plan->first.n_metas, n_tensors = (size_t)plan->n_tensors;
  g->parts = QI__ARENA_ARRAY(arena, qi__gguf_part, (size_t)plan->n_parts);
  g->metas = QI__ARENA_ARRAY(arena, qi_meta, n_metas);
  g->tensors = QI__ARENA_ARRAY(arena, qi__tensor_info, n_tensors);
  g->order = QI__ARENA_ARRAY(arena, uint32_t, n_tensors);
  g->text = QI__ARENA_ARRAY(arena, char, (size_t)plan->text_bytes);
  g->text_size = (size_t)plan->text_bytes;
  g->copy = QI__ARENA_ARRAY(arena, uint8_t, (size_t)plan->resident_bytes);
  qi__str_map_init(&g->meta_index, arena, n_metas);
  qi__str_map_init(&g->tensor_index, arena, n_tensors);
}

// ---- filling ----

// A file that is written to while it is opened may tell something else the second time.
QI__FN qi_result qi__gguf_changed(qi_error *err) {
  return qi__fail(err, QI_ERR_FORMAT, "the file changed while it was being opened");
}

// A terminated copy; NULL when the plan knew of less.
QI__FN const char *qi__gguf_keep_text(qi__gguf *g, const char *s) {
  size_t n = strlen(s) + 1;
  if (n > g->text_size - g->text_used) return NULL;
  char *copy = g->text + g->text_used;
  memcpy(copy, s, n);
  g->text_used += n;
  return copy;
}

QI__FN qi_result qi__gguf_load_metas(qi__gguf *g, const qi__gguf_plan *plan, qi__gguf_counts *counts, qi_error *err) {
  const qi__file *f = &g->parts[0].file;
  uint64_t end = plan->first.metas_end;
  if (counts->n_metas != plan->first.n_metas || end > f->size || (!f->map && end != plan->resident_bytes))
    return qi__gguf_changed(err);
  qi_result r = f->map ? QI_OK : qi__file_read(f, 0, g->copy, (size_t)end, err);
  if (!r) r = qi__file_open_memory(&g->resident, f->map ? f->map : g->copy, (size_t)end, err);
  if (r) return r;
  qi__gguf_cursor c;
  qi__cursor_init(&c, &g->resident, QI__GGUF_HEADER_BYTES, err);
  for (uint64_t i = 0; i < counts->n_metas; i++) {
    qi_meta *meta = &g->metas[i];
    if ((r = qi__gguf_walk_meta(&c, i, counts, meta))) return r;
    meta->key = qi__gguf_keep_text(g, c.name);
    if (!meta->key) return qi__gguf_changed(err);
    meta->key_len = strlen(meta->key);
    if (!qi__str_map_put(&g->meta_index, meta->key, (int32_t)i))
      return qi__fail(err, QI_ERR_FORMAT, "key %.96s: occurs twice", meta->key);
    g->n_metas++;
  }
  counts->metas_end = c.pos;
  return c.pos == end ? QI_OK : qi__gguf_changed(err);
}

// Steps over the metadata of the parts behind the first: theirs only repeats how the model is split.
QI__FN qi_result qi__gguf_skip_metas(const qi__file *f, qi__gguf_counts *counts, qi_error *err) {
  qi__gguf_cursor c;
  qi__cursor_init(&c, f, QI__GGUF_HEADER_BYTES, err);
  for (uint64_t i = 0; i < counts->n_metas; i++) {
    qi_meta meta;
    qi_result r = qi__gguf_walk_meta(&c, i, counts, &meta);
    if (r) return r;
  }
  counts->metas_end = c.pos;
  return QI_OK;
}

QI__FN qi_result qi__gguf_load_tensors(qi__gguf *g, size_t part, const qi__gguf_plan *plan, qi__gguf_counts *counts,
                                       qi_error *err) {
  if (counts->n_tensors > plan->n_tensors - g->n_tensors) return qi__gguf_changed(err);
  qi__gguf_cursor c;
  qi__cursor_init(&c, &g->parts[part].file, counts->metas_end, err);
  for (uint64_t i = 0; i < counts->n_tensors; i++) {
    qi__tensor_info *t = &g->tensors[g->n_tensors];
    qi_result r = qi__gguf_walk_tensor(&c, i, counts->alignment, t);
    if (r) return r;
    qi__gguf_note_tensor(t, counts);
    t->part = (int)part;
    t->name = qi__gguf_keep_text(g, c.name);
    if (!t->name) return qi__gguf_changed(err);
    if (!qi__str_map_put(&g->tensor_index, t->name, (int32_t)g->n_tensors))
      return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: occurs twice", t->name);
    g->n_tensors++;
  }
  counts->infos_end = c.pos;
  return QI_OK;
}

// ---- places of tensors ----

// Restores the heap below `i` (largest offset on top) of order[0..n-1].
QI__FN void qi__order_sift(const qi__tensor_info *tensors, uint32_t *order, size_t i, size_t n) {
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= n) return;
    if (child + 1 < n && tensors[order[child]].offset < tensors[order[child + 1]].offset) child++;
    if (tensors[order[i]].offset >= tensors[order[child]].offset) return;
    uint32_t other = order[i];
    order[i] = order[child];
    order[child] = other;
    i = child;
  }
}

// order = 0..n-1 sorted by offset. Heapsort: libc's qsort may ask for memory, and may be quadratic.
QI__FN void qi__order_by_offset(const qi__tensor_info *tensors, uint32_t *order, size_t n) {
  for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
  for (size_t i = n / 2; i-- > 0;) qi__order_sift(tensors, order, i, n);
  for (size_t end = n; end-- > 1;) {
    uint32_t last = order[end];
    order[end] = order[0];
    order[0] = last;
    qi__order_sift(tensors, order, 0, end);
  }
}

// Whether n bytes are what a tensor takes of its room: all but padding.
QI__INLINE bool qi__gguf_fills(uint64_t n, uint64_t room, uint64_t alignment) { return n <= room && room - n < alignment; }

// False when a contested type number is that of another fork. 36 is I2_S in bitnet.cpp and IQ4_NL_4_4 in ggml (18 bytes for 32
// weights); where the room suits both, the architecture tells.
QI__FN bool qi__gguf_is_ours(const qi__gguf *g, const qi__tensor_info *t, uint64_t n, uint64_t room, uint64_t alignment) {
  int32_t i;
  if (!qi__gguf_fills(t->n_bytes, room, alignment)) return false;
  if (t->format != QI_FORMAT_I2_S || !qi__gguf_fills(n / 32 * 18, room, alignment)) return true;
  const qi_meta *arch = qi__str_map_get(&g->meta_index, "general.architecture", &i) ? &g->metas[i] : NULL;
  return arch && arch->type == QI_META_STRING && arch->count >= 6 && !memcmp(arch->value.text, "bitnet", 6);
}

// Checks that a tensor ends before the next one (NULL: it is the last), and settles contested types by the room it has.
QI__FN qi_result qi__gguf_place(const qi__gguf *g, qi__tensor_info *t, const qi__tensor_info *next, uint64_t end,
                                uint64_t alignment, qi_error *err) {
  uint64_t room = (next ? next->offset : end) - t->offset;
  uint64_t n = t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
  const char *name = t->name;
  if (t->format != QI_FORMAT_NONE && qi__gguf_contested(t->gguf_id) && !qi__gguf_is_ours(g, t, n, room, alignment)) {
    t->format = QI_FORMAT_NONE; // another fork's type of this number
    t->n_bytes = 0;
  }
  if (n > SIZE_MAX / 2 || t->n_bytes > SIZE_MAX / 2)
    return qi__fail(err, QI_ERR_LIMIT, "tensor %.96s: %llu weights do not fit into this machine's address space", name,
                    (unsigned long long)n);
  uint64_t least = t->format != QI_FORMAT_NONE ? t->n_bytes : n / 32 + 1;
  if (!next || least <= room) return QI_OK; // qi__gguf_locate_tensor has compared with the end
  return qi__fail(err, QI_ERR_FORMAT, "tensor %.64s: %llu bytes at offset %llu overlap tensor %.64s at %llu", name,
                  (unsigned long long)least, (unsigned long long)t->offset, next->name, (unsigned long long)next->offset);
}

// Turns the offsets of a part's tensors, `first` and following, into offsets in the file, and checks each place.
QI__FN qi_result qi__gguf_place_tensors(qi__gguf *g, size_t part, size_t first, const qi__gguf_counts *counts, qi_error *err) {
  const qi__file *f = &g->parts[part].file;
  qi__tensor_info *tensors = g->tensors + first;
  size_t n = g->n_tensors - first;
  for (size_t i = 0; i < n; i++) {
    qi_result r = qi__gguf_locate_tensor(f, counts, tensors[i].name, &tensors[i], err);
    if (r) return r;
  }
  qi__order_by_offset(tensors, g->order, n);
  for (size_t i = 0; i < n; i++) {
    const qi__tensor_info *next = i + 1 < n ? &tensors[g->order[i + 1]] : NULL;
    qi_result r = qi__gguf_place(g, &tensors[g->order[i]], next, f->size, counts->alignment, err);
    if (r) return r;
  }
  return QI_OK;
}

// ---- open and close ----

QI__FN qi_result qi__gguf_load_part(qi__gguf *g, size_t part, const qi__gguf_plan *plan, qi_error *err) {
  qi__file *f = &g->parts[part].file;
  qi__gguf_counts counts;
  size_t first = g->n_tensors;
  qi_result r = qi__gguf_walk_header(f, &counts, err);
  if (!r) r = part ? qi__gguf_skip_metas(f, &counts, err) : qi__gguf_load_metas(g, plan, &counts, err);
  if (!r) r = qi__gguf_load_tensors(g, part, plan, &counts, err);
  if (!r) r = qi__gguf_find_data(f, &counts, err);
  if (!r) r = qi__gguf_place_tensors(g, part, first, &counts, err);
  g->parts[part].data_offset = counts.data_offset;
  g->mapped += f->mapped ? f->size : 0;
  g->copy_bytes += f->map ? 0 : counts.copy_bytes;
  g->vector_bytes = qi__gguf_add_vectors(g->vector_bytes, &counts);
  return qi__gguf_blame(f, r, err);
}

// Closes files and readers that are not looked at in place; after the last qi__gguf_read_tensor.
QI__FN void qi__gguf_release(qi__gguf *g) {
  for (size_t i = 0; i < g->n_parts; i++)
    if (!g->parts[i].file.map) qi__file_close(&g->parts[i].file);
}

// Closes all; a zeroed structure is fine.
QI__FN void qi__gguf_close(qi__gguf *g) {
  for (size_t i = 0; i < g->n_parts; i++) qi__file_close(&g->parts[i].file);
  qi_allocator allocator = g->allocator;
  if (g->arena.base) qi__arena_close(&g->arena, &allocator);
  memset(g, 0, sizeof *g);
}

// Says what a user may wonder about later.
QI__FN void qi__gguf_log(const qi__gguf *g, const qi_model_desc *desc, const qi_logger *log) {
  const qi__tensor_info *first = NULL;
  size_t n_unknown = 0;
#ifndef QI_NO_MMAP
  if (desc->path && !desc->no_mmap && !g->mapped)
    qi__log(log, QI_LOG_INFO, "%s: cannot be mapped here, is read instead", g->parts[0].file.name);
#else
  (void)desc;
#endif
  for (size_t i = 0; i < g->n_tensors; i++)
    if (g->tensors[i].format == QI_FORMAT_NONE && !n_unknown++) first = &g->tensors[i];
  if (first)
    qi__log(log, QI_LOG_WARN, "%zu tensors have a weight type that is unknown here; the first is %s (type %d)", n_unknown,
            first->name, first->gguf_id);
}

// Opens the file of the desc (exactly one source is set) and those that it is split into, and loads their index: one block of the
// allocator, qi__gguf_measure tells its size before. `g` need not be set before; on failure it is zeroed.
// Errors: QI_ERR_IO, QI_ERR_FORMAT, QI_ERR_UNSUPPORTED, QI_ERR_LIMIT, QI_ERR_OOM.
QI__FN qi_result qi__gguf_open(qi__gguf *g, const qi_model_desc *desc, const qi_allocator *allocator, const qi_logger *log,
                               qi_error *err) {
  qi__gguf_plan plan;
  memset(g, 0, sizeof *g);
  qi_result r = qi__gguf_make_plan(desc, &plan, err);
  if (r) return r;
  g->allocator = *allocator;
  qi__gguf_layout(g, &g->arena, &plan);
  if ((r = qi__arena_open(&g->arena, allocator, "index of the file", err))) {
    memset(g, 0, sizeof *g);
    return r;
  }
  qi__gguf_layout(g, &g->arena, &plan);
  for (size_t part = 0; !r && part < plan.n_parts; part++) {
    r = qi__gguf_open_part(&g->parts[part].file, desc, part, plan.n_parts, err);
    if (r) break;
    g->n_parts++;
    r = qi__gguf_load_part(g, part, &plan, err);
  }
  if (!r && g->n_tensors != plan.n_tensors) r = qi__gguf_changed(err);
  if (r) qi__gguf_close(g);
  else qi__gguf_log(g, desc, log);
  return r;
}

// What qi__gguf_open would take: bytes of the allocator, bytes of mapped files. Asks for nothing. `plan` may be NULL.
QI__FN qi_result qi__gguf_measure(const qi_model_desc *desc, uint64_t *heap, uint64_t *mapped, qi__gguf_plan *plan, qi_error *err) {
  qi__gguf_plan own;
  qi__gguf g;
  if (!plan) plan = &own;
  qi_result r = qi__gguf_make_plan(desc, plan, err);
  if (r) return r;
  qi__arena arena = {NULL, 0, 0, false};
  memset(&g, 0, sizeof g);
  qi__gguf_layout(&g, &arena, plan);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "index of the file: does not fit into this machine's address space");
  *heap = arena.used;
  *mapped = plan->mapped;
  return QI_OK;
}

QI__INLINE uint64_t qi__gguf_heap(const qi__gguf *g) { return g->arena.size; }
QI__INLINE uint64_t qi__gguf_mapped(const qi__gguf *g) { return g->mapped; }

#endif // QI__MODEL_GGUF_LOAD_H
