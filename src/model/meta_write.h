// ==== >>meta_write : metadata of other containers, written as GGUF has it ====
#ifndef QI__MODEL_META_WRITE_H
#define QI__MODEL_META_WRITE_H

#include "gguf.h"
#include "json.h"

// Models that are no GGUF files get their metadata translated to the keys of GGUF, in a block that the GGUF walk then reads: so
// nothing behind it knows of other containers. The same functions run twice, like a layout: first they only count.
typedef struct qi__meta_writer {
  uint8_t *out;       // NULL: count
  size_t used, cap;   // bytes; cap counts when `out` is there
  uint64_t n_metas, key_bytes; // keys with their terminators
  bool overflow;      // more than fits, or than was counted: the rest is dropped
} qi__meta_writer;

// Room for n bytes; NULL while counting, and when there is none.
QI__FN uint8_t *qi__meta_room(qi__meta_writer *w, size_t n) {
  size_t end;
  if (w->overflow || !qi__add_size(w->used, n, &end) || (w->out && end > w->cap)) {
    w->overflow = true;
    return NULL;
  }
  uint8_t *p = w->out ? w->out + w->used : NULL;
  w->used = end;
  return p;
}

QI__FN void qi__meta_bytes(qi__meta_writer *w, const void *src, size_t n) {
  uint8_t *p = qi__meta_room(w, n);
  if (p && n) memcpy(p, src, n);
}

QI__FN void qi__meta_u32(qi__meta_writer *w, uint32_t v) {
  uint8_t *p = qi__meta_room(w, 4);
  if (!p) return;
  qi__store_u16(p, (uint16_t)v);
  qi__store_u16(p + 2, (uint16_t)(v >> 16));
}
QI__FN void qi__meta_u64(qi__meta_writer *w, uint64_t v) {
  qi__meta_u32(w, (uint32_t)v);
  qi__meta_u32(w, (uint32_t)(v >> 32));
}

// Magic, version, no tensors, and how many entries follow.
QI__FN void qi__meta_header(qi__meta_writer *w, uint64_t n_metas) {
  qi__meta_bytes(w, "GGUF", 4);
  qi__meta_u32(w, 3);
  qi__meta_u64(w, 0);
  qi__meta_u64(w, n_metas);
}

QI__FN void qi__meta_text(qi__meta_writer *w, const char *s, size_t len) {
  qi__meta_u64(w, len);
  qi__meta_bytes(w, s, len);
}

// Key and type; the value must follow.
QI__FN void qi__meta_key(qi__meta_writer *w, const char *key, qi_meta_type type) {
  size_t len = strlen(key);
  w->n_metas++;
  w->key_bytes += len + 1;
  qi__meta_text(w, key, len);
  qi__meta_u32(w, (uint32_t)type);
}

QI__FN void qi__meta_put_u32(qi__meta_writer *w, const char *key, uint32_t v) {
  qi__meta_key(w, key, QI_META_U32);
  qi__meta_u32(w, v);
}
QI__FN void qi__meta_put_f32(qi__meta_writer *w, const char *key, double v) {
  qi__meta_key(w, key, QI_META_F32);
  qi__meta_u32(w, qi__f32_bits((float)v));
}
QI__FN void qi__meta_put_bool(qi__meta_writer *w, const char *key, bool v) {
  uint8_t byte = v;
  qi__meta_key(w, key, QI_META_BOOL);
  qi__meta_bytes(w, &byte, 1);
}
QI__FN void qi__meta_put_str(qi__meta_writer *w, const char *key, const char *s) {
  qi__meta_key(w, key, QI_META_STRING);
  qi__meta_text(w, s, strlen(s));
}

// Key, element type and count; the elements must follow.
QI__FN void qi__meta_put_array(qi__meta_writer *w, const char *key, qi_meta_type element, uint64_t n) {
  qi__meta_key(w, key, QI_META_ARRAY);
  qi__meta_u32(w, (uint32_t)element);
  qi__meta_u64(w, n);
}

// ---- texts that come from JSON ----

// Length of a text that is to be written behind it.
typedef struct qi__meta_open {
  uint8_t *length; // NULL while counting
  size_t begin;
} qi__meta_open;

QI__FN qi__meta_open qi__meta_text_begin(qi__meta_writer *w) {
  qi__meta_open o;
  o.length = qi__meta_room(w, 8);
  o.begin = w->used;
  return o;
}
QI__FN void qi__meta_text_end(qi__meta_writer *w, qi__meta_open o) {
  qi__meta_writer length = {o.length, 0, 8, 0, 0, false};
  if (o.length) qi__meta_u64(&length, w->used - o.begin);
}

// Appends the JSON string that is next, decoded, without its length.
QI__FN void qi__meta_json_bytes(qi__meta_writer *w, qi__json *j) {
  size_t len = 0, room = w->out && !w->overflow ? w->cap - w->used : 0;
  qi__json_string(j, w->out ? (char *)w->out + w->used : NULL, room, &len);
  qi__meta_room(w, len);
}
// The same with its length.
QI__FN void qi__meta_json_text(qi__meta_writer *w, qi__json *j) {
  qi__meta_open o = qi__meta_text_begin(w);
  qi__meta_json_bytes(w, j);
  qi__meta_text_end(w, o);
}

#endif // QI__MODEL_META_WRITE_H
