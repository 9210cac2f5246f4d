// ==== >>gguf : looking things up in an open GGUF file ====
#ifndef QI__MODEL_GGUF_H
#define QI__MODEL_GGUF_H

#include "gguf_load.h"

// ---- single values ----

// NULL when the key is absent.
QI__FN const qi_meta *qi__gguf_find(const qi__gguf *g, const char *key) {
  int32_t i;
  for (size_t k = 0; !g->meta_index.entries && k < g->n_metas; k++) // qi__gguf_peek: a few entries, no index
    if (!strcmp(g->metas[k].key, key)) return &g->metas[k];
  return qi__str_map_get(&g->meta_index, key, &i) ? &g->metas[i] : NULL;
}

QI__FN qi_result qi__gguf_wrong_type(const qi_meta *m, const char *key, const char *expected, qi_error *err) {
  bool array = m->type == QI_META_ARRAY;
  return qi__fail(err, QI_ERR_FORMAT, "key %s: type %s%s, expected %s", key, array ? "array of " : "",
                  qi__meta_type_name(array ? m->element_type : m->type), expected);
}

// Entry of a key. *out is NULL when it is absent, which is an error if it is required.
QI__FN qi_result qi__gguf_need(const qi__gguf *g, const char *key, bool required, const qi_meta **out, qi_error *err) {
  *out = qi__gguf_find(g, key);
  return *out || !required ? QI_OK : qi__fail(err, QI_ERR_FORMAT, "key %s: missing", key);
}

// The getters below keep *inout as it is when the key is absent and not required. Errors: QI_ERR_FORMAT (missing, another type).

// Any integer type that holds 0 to 2^32 - 1.
QI__FN qi_result qi__gguf_u32(const qi__gguf *g, const char *key, bool required, uint32_t *inout, qi_error *err) {
  const qi_meta *m;
  uint64_t v = 0;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  if (!qi__meta_unsigned(m, &v)) {
    if (m->type == QI_META_I8 || m->type == QI_META_I16 || m->type == QI_META_I32 || m->type == QI_META_I64)
      return qi__fail(err, QI_ERR_FORMAT, "key %s: is %lld, expected an unsigned integer", key, (long long)m->value.i);
    return qi__gguf_wrong_type(m, key, "an unsigned integer", err);
  }
  if (v > UINT32_MAX) return qi__fail(err, QI_ERR_FORMAT, "key %s: is %llu, expected below 2^32", key, (unsigned long long)v);
  *inout = (uint32_t)v;
  return QI_OK;
}

// F32, or F64 within its range. May be infinite or not a number, as the file has it.
QI__FN qi_result qi__gguf_f32(const qi__gguf *g, const char *key, bool required, float *inout, qi_error *err) {
  const qi_meta *m;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  if (m->type != QI_META_F32 && m->type != QI_META_F64) return qi__gguf_wrong_type(m, key, "a floating-point number", err);
  const double max = 3.4028234663852886e38; // FLT_MAX: what is greater has no float32 to convert to
  if (m->type == QI_META_F64 && !(m->value.f >= -max && m->value.f <= max))
    return qi__fail(err, QI_ERR_FORMAT, "key %s: is %g, expected a float32", key, m->value.f);
  *inout = (float)m->value.f;
  return QI_OK;
}

QI__FN qi_result qi__gguf_bool(const qi__gguf *g, const char *key, bool required, bool *inout, qi_error *err) {
  const qi_meta *m;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  if (m->type != QI_META_BOOL) return qi__gguf_wrong_type(m, key, "a bool", err);
  *inout = m->value.u != 0;
  return QI_OK;
}

// Bytes, not terminated; they live as long as g.
QI__FN qi_result qi__gguf_str(const qi__gguf *g, const char *key, bool required, const char **text, size_t *len, qi_error *err) {
  const qi_meta *m;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  if (m->type != QI_META_STRING) return qi__gguf_wrong_type(m, key, "a string", err);
  *text = m->value.text;
  *len = (size_t)m->count;
  return QI_OK;
}

// ---- arrays ----

typedef struct qi__gguf_array {
  qi_meta_type type;   // of the elements
  uint64_t count;      // elements from `data` on
  uint64_t at;         // offset of the first in g->resident
  const uint8_t *data; // as in the file, little-endian, at any address; NULL behind qi__gguf_peek
  const uint8_t *end;  // of the bytes that may be read
} qi__gguf_array;

QI__FN void qi__gguf_array_of(const qi__gguf *g, const qi_meta *m, qi__gguf_array *out) {
  out->type = m->element_type;
  out->count = m->count;
  out->at = m->value.u;
  if (!g->resident.map) return;
  out->data = g->resident.map + (size_t)out->at;
  size_t size = qi__meta_type_bytes(m->element_type);
  out->end = size ? out->data + (size_t)m->count * size : g->resident.map + (size_t)g->resident.size;
}

// An array whose elements are of `type`; I32 and U32 stand for each other. Empty when absent and not required.
// Errors: QI_ERR_FORMAT (missing, another type).
QI__FN qi_result qi__gguf_get_array(const qi__gguf *g, const char *key, qi_meta_type type, bool required, qi__gguf_array *out,
                                    qi_error *err) {
  const qi_meta *m;
  memset(out, 0, sizeof *out);
  out->type = type;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  qi_meta_type found = m->element_type;
  bool same = found == type || (found == QI_META_I32 && type == QI_META_U32) || (found == QI_META_U32 && type == QI_META_I32);
  if (m->type != QI_META_ARRAY || !same) {
    char expected[32];
    snprintf(expected, sizeof expected, "array of %s", qi__meta_type_name(type));
    return qi__gguf_wrong_type(m, key, expected, err);
  }
  qi__gguf_array_of(g, m, out);
  return QI_OK;
}

// The first string of an array of strings, which then begins behind it. False when there is none.
QI__FN bool qi__gguf_next_string(qi__gguf_array *it, const char **text, size_t *len) {
  if (!it->count || it->end - it->data < 8) return false;
  uint64_t n = qi__load_u64(it->data);
  if (n > (uint64_t)(it->end - it->data) - 8) return false;
  *text = (const char *)it->data + 8;
  *len = (size_t)n;
  it->data += 8 + (size_t)n;
  it->count--;
  return true;
}

// Elements k..k+n-1 of array entry i, each as an entry of its own with the array's key. Strings and arrays are walked from the
// start.
// Errors: QI_ERR_ARGUMENT (no array, or no such elements).
QI__FN qi_result qi__gguf_elements(const qi__gguf *g, size_t i, uint64_t k, size_t n, qi_meta *out, qi_error *err) {
  const qi_meta *m = &g->metas[i];
  if (m->type != QI_META_ARRAY)
    return qi__fail(err, QI_ERR_ARGUMENT, "key %.96s: type %s, expected an array", m->key,
                    qi__meta_type_name(m->type));
  if (k > m->count || n > m->count - k)
    return qi__fail(err, QI_ERR_ARGUMENT, "key %.96s: %zu elements from %llu on, it has %llu", m->key, n, (unsigned long long)k,
                    (unsigned long long)m->count);
  qi__gguf_cursor c;
  qi_meta element;
  size_t size = qi__meta_type_bytes(m->element_type);
  qi__cursor_init(&c, &g->resident, m->value.u, err);
  qi_result r = size ? qi__cursor_skip(&c, k * size) : QI_OK;
  for (uint64_t at = size ? k : 0; at < k && !r; at++) r = qi__cursor_value(&c, m->element_type, 1, &element);
  for (size_t at = 0; at < n && !r; at++) {
    r = qi__cursor_value(&c, m->element_type, 1, &out[at]);
    out[at].key = m->key;
    out[at].key_len = m->key_len;
  }
  return r;
}

// One of them.
QI__FN qi_result qi__gguf_element(const qi__gguf *g, size_t i, uint64_t k, qi_meta *out, qi_error *err) {
  const qi_meta *m = &g->metas[i];
  if (m->type == QI_META_ARRAY && k >= m->count)
    return qi__fail(err, QI_ERR_ARGUMENT, "key %.96s: element %llu of %llu", m->key, (unsigned long long)k,
                    (unsigned long long)m->count);
  qi_meta element;
  qi_result r = qi__gguf_elements(g, i, k, 1, &element, err);
  if (!r) *out = element;
  return r;
}

// ---- tensors ----

// NULL when there is none of this name.
QI__FN const qi__tensor_info *qi__gguf_tensor(const qi__gguf *g, const char *name) {
  int32_t i;
  return qi__str_map_get(&g->tensor_index, name, &i) ? &g->tensors[i] : NULL;
}

// Its bytes in place, at any alignment; NULL when they must be read or converted.
QI__FN const void *qi__gguf_tensor_data(const qi__gguf *g, const qi__tensor_info *t) {
  const qi__file *f = &g->parts[t->part].file;
  return f->map && !(t->scale > 0) ? f->map + (size_t)t->offset : NULL;
}

// Bytes offset..offset+n-1 of a tensor. Errors: QI_ERR_IO, QI_ERR_ARGUMENT (beyond its end).
QI__FN qi_result qi__gguf_read_tensor(const qi__gguf *g, const qi__tensor_info *t, uint64_t offset, void *dst, size_t n,
                                     qi_error *err) {
  if (offset > t->n_bytes || n > t->n_bytes - offset)
    return qi__fail(err, QI_ERR_ARGUMENT, "tensor %.96s: %zu bytes at %llu of %llu", t->name, n, (unsigned long long)offset,
                    (unsigned long long)t->n_bytes);
  qi_result r = qi__file_read(&g->parts[t->part].file, t->offset + offset, dst, n, err);
  if (r) qi__fail_prefix(err, "tensor %.96s: ", t->name);
  return r;
}

// ---- without memory ----

// What qi_model_memory looks at: a few entries of the metadata, found by walking, in place of the index. `gguf` serves
// qi__gguf_find, the getters of single values, and arrays by their offset in gguf.resident, which is the file itself.
#define QI__GGUF_MAX_PEEKED 32
#define QI__GGUF_PEEK_BYTES 64
typedef struct qi__gguf_peek {
  qi__gguf gguf;
  qi_meta metas[QI__GGUF_MAX_PEEKED];
  char keys[QI__GGUF_MAX_PEEKED][QI__GGUF_PEEK_BYTES];
  char texts[QI__GGUF_MAX_PEEKED][QI__GGUF_PEEK_BYTES]; // first bytes of strings that cannot be looked at in place
} qi__gguf_peek;

// Opens the (first) file of a plan; close it with qi__gguf_peek_close, also after a failure.
QI__FN qi_result qi__gguf_peek_open(qi__gguf_peek *p, const qi_model_desc *desc, const qi__gguf_plan *plan, qi_error *err) {
  memset(&p->gguf, 0, sizeof p->gguf);
  p->gguf.metas = p->metas;
  p->gguf.n_tensors = (size_t)plan->n_tensors;
  p->gguf.mapped = plan->mapped;
  p->gguf.copy_bytes = plan->copy_bytes;
  p->gguf.vector_bytes = plan->vector_bytes;
  return qi__gguf_open_part(&p->gguf.resident, desc, 0, plan->n_parts, err);
}

QI__FN void qi__gguf_peek_close(qi__gguf_peek *p) { qi__file_close(&p->gguf.resident); }

// Keys prefix + one of n suffixes.
typedef struct qi__key_set {
  const char *prefix;
  const char *const *suffixes;
  size_t n;
} qi__key_set;

QI__FN bool qi__key_set_has(const qi__key_set *set, const char *key) {
  size_t len = strlen(set->prefix);
  if (strncmp(key, set->prefix, len)) return false;
  for (size_t i = 0; i < set->n; i++)
    if (!strcmp(key + len, set->suffixes[i])) return true;
  return false;
}

// Keeps the entry that the cursor has just passed.
QI__FN qi_result qi__gguf_peek_keep(qi__gguf_peek *p, const qi__gguf_cursor *c, const qi_meta *found, qi_error *err) {
  size_t i = p->gguf.n_metas, len = strlen(c->name);
  if (qi__gguf_find(&p->gguf, c->name)) return qi__fail(err, QI_ERR_FORMAT, "key %.96s: occurs twice", c->name);
  if (i == QI__GGUF_MAX_PEEKED || len >= QI__GGUF_PEEK_BYTES)
    return qi__fail(err, QI_ERR_LIMIT, "key %.96s: more keys than can be kept", c->name);
  qi_meta *meta = &p->metas[i];
  *meta = *found;
  memcpy(p->keys[i], c->name, len + 1);
  meta->key = p->keys[i];
  meta->key_len = len;
  if (meta->type == QI_META_STRING && !c->file->map) {
    size_t n = meta->count < QI__GGUF_PEEK_BYTES ? (size_t)meta->count : QI__GGUF_PEEK_BYTES;
    qi_result r = qi__file_read(c->file, c->pos - meta->count, p->texts[i], n, err);
    if (r) return r;
    meta->value.text = p->texts[i];
  }
  p->gguf.n_metas++;
  return QI_OK;
}

// Adds the entries of all keys in the sets, by one walk; those that the file does not have stay absent.
QI__FN qi_result qi__gguf_peek_keys(qi__gguf_peek *p, const qi__gguf_plan *plan, const qi__key_set *sets, size_t n_sets,
                                    qi_error *err) {
  qi__gguf_counts counts = plan->first;
  qi__gguf_cursor c;
  qi_result r = QI_OK;
  qi__cursor_init(&c, &p->gguf.resident, QI__GGUF_HEADER_BYTES, err);
  for (uint64_t i = 0; i < counts.n_metas && !r; i++) {
    qi_meta meta;
    r = qi__gguf_walk_meta(&c, i, &counts, &meta);
    for (size_t k = 0; k < n_sets && !r; k++)
      if (qi__key_set_has(&sets[k], c.name)) r = qi__gguf_peek_keep(p, &c, &meta, err);
  }
  return qi__gguf_blame(&p->gguf.resident, r, err);
}

#endif // QI__MODEL_GGUF_H
