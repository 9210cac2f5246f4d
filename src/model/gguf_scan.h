// ==== >>gguf_scan : walking over the structure of a GGUF file ====
#ifndef QI__MODEL_GGUF_SCAN_H
#define QI__MODEL_GGUF_SCAN_H

#include "../base/file.h"
#include "../formats/table.h"

// A GGUF file, versions 2 and 3, all numbers little-endian:
//
//   char magic[4] = "GGUF"    u32 version    u64 n_tensors    u64 n_metas
//   n_metas times:    string key    u32 type    value
//   n_tensors times:  string name   u32 n_dims  u64 shape[n_dims]  u32 type  u64 offset (from the begin of tensor data)
//   zeros up to a multiple of the alignment (key general.alignment, else 32), then tensor data
//
//   string: u64 length, bytes     bool: a byte, 0 or 1     array: u32 element type, u64 count, elements (arrays may nest)
//
// The walk below is the only parser: it runs once to count and once to fill what was counted, believes nothing that it has not
// compared with the bytes that are left, and needs no memory but a window on the stack. Its cost grows with the header's bytes.

#define QI__GGUF_MAX_ENTRIES (1u << 20) // metadata entries, and tensors, of a file
#define QI__GGUF_MAX_KEY 1024
#define QI__GGUF_MAX_NAME 127           // ggml allows 63
#define QI__GGUF_MAX_NESTING 4          // arrays in arrays
#define QI__GGUF_HEADER_BYTES 24
#define QI__GGUF_MIN_META_BYTES 14      // key of one byte, type, value of one byte
#define QI__GGUF_MIN_TENSOR_BYTES 33    // name of one byte, one dimension

// What one walk found.
typedef struct qi__gguf_counts {
  uint32_t version;
  uint64_t alignment;
  uint64_t n_metas, n_tensors;
  uint64_t key_bytes, name_bytes; // each with its terminator
  uint64_t metas_end;             // offset behind the metadata
  uint64_t infos_end;             // offset behind the tensor infos
  uint64_t data_offset;           // begin of tensor data; may lie beyond the end of a file without tensors
  uint64_t copy_bytes;            // enough for copies of all tensors, each rounded up to QI__CACHE_LINE
  uint64_t vector_bytes;          // of float32 copies of all vectors, and bound formats, likewise; UINT64_MAX on overflow
  uint64_t split_no, split_count, split_n_tensors; // QI__GGUF_NO_SPLIT when the key is absent
} qi__gguf_counts;
#define QI__GGUF_NO_SPLIT UINT64_MAX

typedef struct qi__tensor_info {
  const char *name;  // terminated
  qi_format format;  // NONE: unknown here, then n_bytes is 0
  int gguf_id;
  int n_dims;
  uint64_t shape[4]; // unused ones are 1; their product fits int64_t
  uint64_t n_bytes;
  int part;          // of a split model
  uint64_t offset;   // in that part's file
  const char *dtype; // name of the type in safetensors; NULL in GGUF
  float scale;       // > 0: packed ternary of Hugging Face, converted when it is loaded; the above says what it becomes
} qi__tensor_info;

// ---- cursor ----

typedef struct qi__gguf_cursor {
  const qi__file *file;
  uint64_t pos;          // at most file->size
  qi_error *err;
  qi_result result;      // of the step that failed
  char name[QI__GGUF_MAX_KEY + 1]; // terminated key or tensor name of the entry at hand
  uint64_t window_at;
  size_t window_len;
  uint8_t window[4096];  // bytes window_at.. of a file without map
} qi__gguf_cursor;

QI__FN void qi__cursor_init(qi__gguf_cursor *c, const qi__file *file, uint64_t pos, qi_error *err) {
  c->file = file;
  c->pos = pos;
  c->err = err;
  c->result = QI_OK;
  c->name[0] = 0;
  c->window_at = 0;
  c->window_len = 0;
}

QI__INLINE uint64_t qi__cursor_left(const qi__gguf_cursor *c) { return c->file->size - c->pos; }

// Steps over n bytes without looking at them.
QI__FN qi_result qi__cursor_skip(qi__gguf_cursor *c, uint64_t n) {
  if (n > qi__cursor_left(c))
    return c->result = qi__fail(c->err, QI_ERR_FORMAT, "%llu bytes needed at offset %llu, but the file has only %llu more",
                                (unsigned long long)n, (unsigned long long)c->pos, (unsigned long long)qi__cursor_left(c));
  c->pos += n;
  return QI_OK;
}

// The next n bytes (at most a window), valid until the next call. NULL: see `result`.
QI__FN const uint8_t *qi__cursor_take(qi__gguf_cursor *c, size_t n) {
  uint64_t at = c->pos;
  if (qi__cursor_skip(c, n)) return NULL;
  if (c->file->map) return c->file->map + (size_t)at;
  if (at < c->window_at || at - c->window_at > c->window_len || n > c->window_len - (size_t)(at - c->window_at)) {
    size_t len = c->file->size - at < sizeof c->window ? (size_t)(c->file->size - at) : sizeof c->window;
    c->window_len = 0;
    c->result = qi__file_read(c->file, at, c->window, len, c->err);
    if (c->result) return NULL;
    c->window_at = at;
    c->window_len = len;
  }
  return c->window + (size_t)(at - c->window_at);
}

// The next number; 0 on failure.
QI__FN qi_result qi__cursor_u32(qi__gguf_cursor *c, uint32_t *out) {
  *out = 0;
  const uint8_t *p = qi__cursor_take(c, 4);
  if (!p) return c->result;
  *out = qi__load_u32(p);
  return QI_OK;
}

QI__FN qi_result qi__cursor_u64(qi__gguf_cursor *c, uint64_t *out) {
  *out = 0;
  const uint8_t *p = qi__cursor_take(c, 8);
  if (!p) return c->result;
  *out = qi__load_u64(p);
  return QI_OK;
}

// A key or a tensor name to c->name: 1 to max bytes without control characters, so that messages may show it.
QI__FN qi_result qi__cursor_name(qi__gguf_cursor *c, const char *what, size_t max) {
  uint64_t len;
  if (qi__cursor_u64(c, &len)) return c->result;
  if (!len || len > max)
    return qi__fail(c->err, QI_ERR_FORMAT, "%s has a length of %llu, expected 1 to %zu", what, (unsigned long long)len, max);
  const uint8_t *p = qi__cursor_take(c, (size_t)len);
  if (!p) return c->result;
  for (size_t i = 0; i < (size_t)len; i++)
    if (p[i] < 0x20 || p[i] == 0x7f) return qi__fail(c->err, QI_ERR_FORMAT, "%s has a control character, %d", what, p[i]);
  memcpy(c->name, p, (size_t)len);
  c->name[len] = 0;
  return QI_OK;
}

// ---- metadata ----

static const char *const qi__meta_type_names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64",
                                                  "i64", "f64"};

QI__FN const char *qi__meta_type_name(qi_meta_type type) {
  return (size_t)type < QI__COUNT_OF(qi__meta_type_names) ? qi__meta_type_names[type] : "?";
}

// Bytes of a scalar; 0 for strings and arrays.
QI__FN size_t qi__meta_type_bytes(qi_meta_type type) {
  static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return (size_t)type < QI__COUNT_OF(bytes) ? bytes[type] : 0;
}

QI__FN qi_result qi__cursor_meta_type(qi__gguf_cursor *c, const char *what, qi_meta_type *out) {
  uint32_t type;
  if (qi__cursor_u32(c, &type)) return c->result;
  if (type >= QI__COUNT_OF(qi__meta_type_names))
    return qi__fail(c->err, QI_ERR_FORMAT, "%s is %u, expected 0 to %zu", what, type, QI__COUNT_OF(qi__meta_type_names) - 1);
  *out = (qi_meta_type)type;
  return QI_OK;
}

// A scalar's bytes to a value.
QI__FN void qi__meta_scalar(qi_meta_type type, const uint8_t *p, qi_meta *out) {
  double f = 0;
  switch (type) {
  case QI_META_U8: case QI_META_BOOL: out->value.u = p[0]; break;
  case QI_META_I8: out->value.i = (int8_t)p[0]; break;
  case QI_META_U16: out->value.u = qi__load_u16(p); break;
  case QI_META_I16: out->value.i = (int16_t)qi__load_u16(p); break;
  case QI_META_U32: out->value.u = qi__load_u32(p); break;
  case QI_META_I32: out->value.i = (int32_t)qi__load_u32(p); break;
  case QI_META_F32: out->value.f = (double)qi__bits_f32(qi__load_u32(p)); break;
  case QI_META_U64: out->value.u = qi__load_u64(p); break;
  case QI_META_I64: out->value.i = (int64_t)qi__load_u64(p); break;
  case QI_META_F64: {
    uint64_t bits = qi__load_u64(p);
    memcpy(&f, &bits, sizeof f);
    out->value.f = f;
    break;
  }
  default: break; // strings and arrays are no scalars
  }
}

QI__FN qi_result qi__cursor_bools(qi__gguf_cursor *c, uint64_t n) {
  while (n) {
    size_t part = n < sizeof c->window ? (size_t)n : sizeof c->window;
    const uint8_t *p = qi__cursor_take(c, part);
    if (!p) return c->result;
    for (size_t i = 0; i < part; i++)
      if (p[i] > 1) return qi__fail(c->err, QI_ERR_FORMAT, "bool has the value %d, expected 0 or 1", p[i]);
    n -= part;
  }
  return QI_OK;
}

QI__FN qi_result qi__cursor_value(qi__gguf_cursor *c, qi_meta_type type, int depth, qi_meta *out);

// Element type, count and elements. out->value.u is the offset in the file where the elements begin.
QI__FN qi_result qi__cursor_array(qi__gguf_cursor *c, int depth, qi_meta *out) {
  if (depth >= QI__GGUF_MAX_NESTING)
    return qi__fail(c->err, QI_ERR_UNSUPPORTED, "arrays nest deeper than %d", QI__GGUF_MAX_NESTING);
  qi_result r = qi__cursor_meta_type(c, "element type", &out->element_type);
  if (r) return r;
  if (qi__cursor_u64(c, &out->count)) return c->result;
  size_t size = qi__meta_type_bytes(out->element_type);
  size_t least = size ? size : out->element_type == QI_META_STRING ? 8 : 12;
  if (out->count > qi__cursor_left(c) / least)
    return qi__fail(c->err, QI_ERR_FORMAT, "array of %llu %s elements, but the file has only %llu more bytes",
                    (unsigned long long)out->count, qi__meta_type_name(out->element_type),
                    (unsigned long long)qi__cursor_left(c));
  out->value.u = c->pos;
  if (out->element_type == QI_META_BOOL) return qi__cursor_bools(c, out->count);
  if (size) return qi__cursor_skip(c, out->count * size);
  qi_meta element;
  for (uint64_t i = 0; i < out->count; i++)
    if ((r = qi__cursor_value(c, out->element_type, depth + 1, &element))) return r;
  return QI_OK;
}

// A value of `type`. Text is a pointer into the map; NULL when there is none. out->key and key_len stay as they are.
QI__FN qi_result qi__cursor_value(qi__gguf_cursor *c, qi_meta_type type, int depth, qi_meta *out) {
  out->type = type;
  out->element_type = type;
  out->count = 1;
  out->value.u = 0;
  if (type == QI_META_ARRAY) return qi__cursor_array(c, depth, out);
  if (type == QI_META_STRING) {
    if (qi__cursor_u64(c, &out->count)) return c->result;
    out->value.text = c->file->map ? (const char *)c->file->map + (size_t)c->pos : NULL;
    return qi__cursor_skip(c, out->count);
  }
  const uint8_t *p = qi__cursor_take(c, qi__meta_type_bytes(type));
  if (!p) return c->result;
  if (type == QI_META_BOOL && p[0] > 1) return qi__fail(c->err, QI_ERR_FORMAT, "bool has the value %d, expected 0 or 1", p[0]);
  qi__meta_scalar(type, p, out);
  return QI_OK;
}

// A scalar of any integer type that is not negative; false for all else.
QI__FN bool qi__meta_unsigned(const qi_meta *m, uint64_t *out) {
  switch (m->type) {
  case QI_META_U8: case QI_META_U16: case QI_META_U32: case QI_META_U64: *out = m->value.u; return true;
  case QI_META_I8: case QI_META_I16: case QI_META_I32: case QI_META_I64:
    *out = (uint64_t)m->value.i;
    return m->value.i >= 0;
  default: return false;
  }
}

// Keys that the structure of the file itself depends on.
QI__FN qi_result qi__gguf_note_meta(const qi__gguf_cursor *c, const qi_meta *m, qi__gguf_counts *counts) {
  if (!strcmp(c->name, "general.alignment")) {
    if (m->type != QI_META_U32)
      return qi__fail(c->err, QI_ERR_FORMAT, "type %s, expected u32", qi__meta_type_name(m->type));
    uint64_t a = m->value.u;
    if (a < 8 || a > 1u << 20 || (a & (a - 1)))
      return qi__fail(c->err, QI_ERR_FORMAT, "is %llu, expected a power of two, 8 to 1048576", (unsigned long long)a);
    counts->alignment = a;
    return QI_OK;
  }
  uint64_t *split = !strcmp(c->name, "split.no")              ? &counts->split_no
                    : !strcmp(c->name, "split.count")         ? &counts->split_count
                    : !strcmp(c->name, "split.tensors.count") ? &counts->split_n_tensors
                                                              : NULL;
  if (split && !qi__meta_unsigned(m, split))
    return qi__fail(c->err, QI_ERR_FORMAT, "type %s or a negative value, expected an unsigned integer",
                    qi__meta_type_name(m->type));
  return QI_OK;
}

// One entry: key to c->name, value to *out.
QI__FN qi_result qi__gguf_walk_meta(qi__gguf_cursor *c, uint64_t index, qi__gguf_counts *counts, qi_meta *out) {
  c->name[0] = 0;
  qi_meta_type type = QI_META_U8;
  qi_result r = qi__cursor_name(c, "key", QI__GGUF_MAX_KEY);
  if (!r) r = qi__cursor_meta_type(c, "type", &type);
  if (!r) r = qi__cursor_value(c, type, 0, out);
  if (!r) r = qi__gguf_note_meta(c, out, counts);
  if (r && c->name[0]) qi__fail_prefix(c->err, "key %.96s: ", c->name);
  if (r && !c->name[0]) qi__fail_prefix(c->err, "metadata entry %llu: ", (unsigned long long)index);
  return r;
}

// ---- tensors ----

// Type numbers that forks of ggml gave different meanings: 36 and 39 are I2_S and TL2 in bitnet.cpp, IQ4_NL_4_4 and MXFP4 in ggml;
// 38 is TL1 or IQ4_NL_8_8; 40 NVFP4 or an old Q1_0; 41 and 42 have two block lengths. The room in the file tells (qi__gguf_place).
QI__FN bool qi__gguf_contested(int id) { return id == 36 || (id >= 38 && id <= 42); }

// Format and bytes from the type number and the shape.
QI__FN qi_result qi__gguf_size_tensor(const qi__gguf_cursor *c, qi__tensor_info *t, uint64_t n_elements) {
  t->format = qi__format_from_gguf(t->gguf_id);
  const qi__format *f = qi__format_get(t->format);
  if (!f) return QI_OK;
  uint64_t len = (uint64_t)f->info.block_len;
  if (t->shape[0] % len) {
    if (!qi__gguf_contested(t->gguf_id))
      return qi__fail(c->err, QI_ERR_FORMAT, "rows of %llu weights, expected a multiple of %s's block of %llu",
                      (unsigned long long)t->shape[0], f->info.name, (unsigned long long)len);
    t->format = QI_FORMAT_NONE;
    return QI_OK;
  }
  if (!qi__mul_u64(n_elements / len, (uint64_t)f->info.block_bytes, &t->n_bytes) ||
      !qi__add_u64(t->n_bytes, (uint64_t)f->info.tail_bytes, &t->n_bytes) || t->n_bytes > INT64_MAX)
    return qi__fail(c->err, QI_ERR_FORMAT, "%llu weights of type %s: their size overflows", (unsigned long long)n_elements,
                    f->info.name);
  return QI_OK;
}

QI__FN qi_result qi__gguf_walk_shape(qi__gguf_cursor *c, qi__tensor_info *t) {
  uint32_t n_dims, id;
  if (qi__cursor_u32(c, &n_dims)) return c->result;
  if (n_dims < 1 || n_dims > 4) return qi__fail(c->err, QI_ERR_FORMAT, "%u dimensions, expected 1 to 4", n_dims);
  t->n_dims = (int)n_dims;
  uint64_t n = 1;
  for (uint32_t i = 0; i < n_dims; i++) {
    if (qi__cursor_u64(c, &t->shape[i])) return c->result;
    if (!t->shape[i]) return qi__fail(c->err, QI_ERR_FORMAT, "dimension %u is 0, expected at least 1", i);
    if (!qi__mul_u64(n, t->shape[i], &n) || n > INT64_MAX)
      return qi__fail(c->err, QI_ERR_FORMAT, "dimension %u is %llu: the number of weights overflows", i,
                      (unsigned long long)t->shape[i]);
  }
  if (qi__cursor_u32(c, &id)) return c->result;
  if (id > INT32_MAX) return qi__fail(c->err, QI_ERR_FORMAT, "weight type %u, expected below 2^31", id);
  t->gguf_id = (int)id;
  return qi__gguf_size_tensor(c, t, n);
}

// One entry: name to c->name, the rest to *out; its offset is still relative to the tensor data.
QI__FN qi_result qi__gguf_walk_tensor(qi__gguf_cursor *c, uint64_t index, uint64_t alignment, qi__tensor_info *out) {
  memset(out, 0, sizeof *out);
  for (int i = 0; i < 4; i++) out->shape[i] = 1;
  c->name[0] = 0;
  qi_result r = qi__cursor_name(c, "name", QI__GGUF_MAX_NAME);
  if (!r) r = qi__gguf_walk_shape(c, out);
  if (!r) r = qi__cursor_u64(c, &out->offset);
  if (!r && out->offset % alignment)
    r = qi__fail(c->err, QI_ERR_FORMAT, "offset %llu, expected a multiple of the alignment, %llu", (unsigned long long)out->offset,
                 (unsigned long long)alignment);
  if (r && c->name[0]) qi__fail_prefix(c->err, "tensor %.96s: ", c->name);
  if (r && !c->name[0]) qi__fail_prefix(c->err, "tensor %llu: ", (unsigned long long)index);
  return r;
}

QI__INLINE bool qi__tensor_has_tail(const qi__tensor_info *t) {
  const qi__format *f = qi__format_get(t->format);
  return f && f->info.tail_bytes;
}

// Adds what the copies of a tensor take; a format with a tail is copied, too (qi__bound). Which fork a contested type is of shows
// only among its neighbours, and is open here.
QI__FN void qi__gguf_note_tensor(const qi__tensor_info *t, qi__gguf_counts *counts) {
  const uint64_t line = QI__CACHE_LINE, most = UINT64_MAX / 8;
  bool is_vector = t->shape[1] == 1 && t->shape[2] == 1 && t->shape[3] == 1 && t->format != QI_FORMAT_NONE;
  uint64_t n_floats = is_vector ? t->shape[0] : 0;
  uint64_t copy = (t->n_bytes + line - 1) & ~(line - 1);
  uint64_t vector = n_floats > most ? UINT64_MAX : (4 * n_floats + line - 1) & ~(line - 1);
  if (qi__tensor_has_tail(t) && !qi__add_u64(vector, (sizeof(qi__bound) + line - 1) & ~(line - 1), &vector)) vector = UINT64_MAX;
  if (!qi__add_u64(counts->copy_bytes, copy, &counts->copy_bytes)) counts->copy_bytes = UINT64_MAX;
  if (!qi__add_u64(counts->vector_bytes, vector, &counts->vector_bytes)) counts->vector_bytes = UINT64_MAX;
}

// Turns the offset in the tensor data into one in the file. No tensor may end behind the file: where its bytes are not known for
// sure, it takes a quarter of a bit a weight at least, as every type does, so that what unknown types promise is bounded by the
// file, too.
QI__FN qi_result qi__gguf_locate_tensor(const qi__file *f, const qi__gguf_counts *counts, const char *name, qi__tensor_info *t,
                                        qi_error *err) {
  uint64_t offset, n = t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
  if (!qi__add_u64(counts->data_offset, t->offset, &offset) || offset > f->size)
    return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: begins %llu bytes behind offset %llu, but the file ends at %llu", name,
                    (unsigned long long)t->offset, (unsigned long long)counts->data_offset, (unsigned long long)f->size);
  t->offset = offset;
  uint64_t least = t->format != QI_FORMAT_NONE && !qi__gguf_contested(t->gguf_id) ? t->n_bytes : n / 32 + 1;
  if (least <= f->size - offset) return QI_OK;
  return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: %llu bytes at offset %llu, but the file ends at %llu", name,
                  (unsigned long long)least, (unsigned long long)offset, (unsigned long long)f->size);
}

// ---- header ----

QI__FN qi_result qi__gguf_check_count(const qi__file *f, const char *what, uint64_t n, uint64_t least_bytes, qi_error *err) {
  if (n > (f->size - QI__GGUF_HEADER_BYTES) / least_bytes)
    return qi__fail(err, QI_ERR_FORMAT, "header: %llu %s cannot fit into a file of %llu bytes", (unsigned long long)n, what,
                    (unsigned long long)f->size);
  if (n > QI__GGUF_MAX_ENTRIES)
    return qi__fail(err, QI_ERR_LIMIT, "header: %llu %s, at most %u are allowed", (unsigned long long)n, what,
                    QI__GGUF_MAX_ENTRIES);
  return QI_OK;
}

QI__FN qi_result qi__gguf_header_ends(const qi__file *f, qi_error *err) {
  return qi__fail(err, QI_ERR_FORMAT, "header: the file ends after %llu bytes", (unsigned long long)f->size);
}

// Magic, version and the two counts.
QI__FN qi_result qi__gguf_walk_header(const qi__file *f, qi__gguf_counts *out, qi_error *err) {
  uint8_t b[QI__GGUF_HEADER_BYTES] = {0};
  memset(out, 0, sizeof *out);
  out->alignment = 32;
  out->split_no = out->split_count = out->split_n_tensors = QI__GGUF_NO_SPLIT;
  qi_result r = qi__file_read(f, 0, b, f->size < sizeof b ? (size_t)f->size : sizeof b, err);
  if (r) return r;
  if (memcmp(b, "GGUF", 4))
    return qi__fail(err, QI_ERR_FORMAT, "header: magic bytes are %02x %02x %02x %02x ('%s'), expected 'GGUF'", b[0], b[1], b[2],
                    b[3], qi__show((const char *)b, 4).s);
  if (f->size < 8) return qi__gguf_header_ends(f, err);
  out->version = qi__load_u32(b + 4);
  if (out->version && !(out->version & 0xffff))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "header: a big-endian file (version 0x%08x), only little-endian is supported",
                    out->version);
  if (out->version != 2 && out->version != 3)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "header: GGUF version %u, supported are 2 and 3", out->version);
  if (f->size < sizeof b) return qi__gguf_header_ends(f, err);
  out->n_tensors = qi__load_u64(b + 8);
  out->n_metas = qi__load_u64(b + 16);
  r = qi__gguf_check_count(f, "tensors", out->n_tensors, QI__GGUF_MIN_TENSOR_BYTES, err);
  return r ? r : qi__gguf_check_count(f, "metadata entries", out->n_metas, QI__GGUF_MIN_META_BYTES, err);
}

// Begin of tensor data, now that the end of the infos is known.
QI__FN qi_result qi__gguf_find_data(const qi__file *f, qi__gguf_counts *counts, qi_error *err) {
  if (!qi__add_u64(counts->infos_end, counts->alignment - 1, &counts->data_offset))
    return qi__fail(err, QI_ERR_FORMAT, "header: its end overflows");
  counts->data_offset &= ~(counts->alignment - 1);
  if (counts->n_tensors && counts->data_offset > f->size)
    return qi__fail(err, QI_ERR_FORMAT, "header: tensor data begins at offset %llu, but the file has only %llu bytes",
                    (unsigned long long)counts->data_offset, (unsigned long long)f->size);
  // Tensors share no bytes: this bounds what contested types promise.
  uint64_t data_bytes = f->size > counts->data_offset ? f->size - counts->data_offset : 0;
  uint64_t most = UINT64_MAX;
  if (qi__add_u64(data_bytes, counts->n_tensors * QI__CACHE_LINE, &most) && counts->copy_bytes > most) counts->copy_bytes = most;
  return QI_OK;
}

// ---- scan ----

// Walks over the tensor infos once more, now that it is known where their data begins.
QI__FN qi_result qi__gguf_scan_places(const qi__file *f, const qi__gguf_counts *counts, qi_error *err) {
  qi__gguf_cursor c;
  qi__cursor_init(&c, f, counts->metas_end, err);
  for (uint64_t i = 0; i < counts->n_tensors; i++) {
    qi__tensor_info info;
    qi_result r = qi__gguf_walk_tensor(&c, i, counts->alignment, &info);
    if (!r) r = qi__gguf_locate_tensor(f, counts, c.name, &info, err);
    if (r) return r;
  }
  return QI_OK;
}

// Walks over the header, all metadata and all tensor infos, and keeps nothing but counts. What takes memory to see (names that
// occur twice, tensors that overlap) is left to loading.
// Errors: QI_ERR_FORMAT, QI_ERR_UNSUPPORTED, QI_ERR_LIMIT, QI_ERR_IO.
QI__FN qi_result qi__gguf_scan(const qi__file *f, qi__gguf_counts *out, qi_error *err) {
  qi_result r = qi__gguf_walk_header(f, out, err);
  if (r) return r;
  qi__gguf_cursor c;
  qi__cursor_init(&c, f, QI__GGUF_HEADER_BYTES, err);
  for (uint64_t i = 0; i < out->n_metas; i++) {
    qi_meta meta;
    if ((r = qi__gguf_walk_meta(&c, i, out, &meta))) return r;
    out->key_bytes += strlen(c.name) + 1;
  }
  out->metas_end = c.pos;
  for (uint64_t i = 0; i < out->n_tensors; i++) {
    qi__tensor_info info;
    if ((r = qi__gguf_walk_tensor(&c, i, out->alignment, &info))) return r;
    out->name_bytes += strlen(c.name) + 1;
    qi__gguf_note_tensor(&info, out);
  }
  out->infos_end = c.pos;
  r = qi__gguf_find_data(f, out, err);
  return r ? r : qi__gguf_scan_places(f, out, err);
}

#endif // QI__MODEL_GGUF_SCAN_H
