// A small GGUF writer for tests: builds a whole file in a growable malloc buffer. It checks nothing, so that tests can write broken
// files on purpose; a failed malloc is remembered and gw_finish then returns NULL.
//
//   gw_file w;
//   gw_begin(&w, 3);                                     // GGUF version
//   gw_kv_str(&w, "general.architecture", "llama");      // metadata and tensors in any order
//   gw_tensor(&w, "token_embd.weight", 0, 2, (uint64_t[]){64, 512}, data, bytes);   // 0 = ggml's id of F32; data is copied
//   size_t size; const uint8_t *bytes = gw_finish(&w, &size);     // belongs to w
//   gw_free(&w);
#ifndef QINFER_TESTS_GGUF_WRITE_H
#define QINFER_TESTS_GGUF_WRITE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define GW_FN static __attribute__((unused))
#else
#define GW_FN static
#endif

// Types of metadata values as the file has them.
enum {
  GW_U8 = 0, GW_I8, GW_U16, GW_I16, GW_U32, GW_I32, GW_F32, GW_BOOL, GW_STRING, GW_ARRAY, GW_U64, GW_I64, GW_F64
};

typedef struct gw_buf {
  uint8_t *data;
  size_t size, cap;
  int failed;
} gw_buf;

typedef struct gw_file {
  gw_buf kv, infos, data, out;
  uint32_t version, alignment;
  uint64_t n_kv, n_tensors;
  uint64_t infos_end;    // after gw_finish: where the tensor infos end
  uint64_t data_offset;  // after gw_finish: where tensor data begins
  int no_data;           // set to write the header only (no padding, no tensor data)
} gw_file;

// ---- bytes ----

GW_FN void gw_bytes(gw_buf *b, const void *p, size_t n) {
  if (b->failed) return;
  if (b->cap - b->size < n) {
    size_t cap = b->cap ? b->cap : 1024;
    while (cap - b->size < n) cap *= 2;
    uint8_t *data = (uint8_t *)realloc(b->data, cap);
    if (!data) {
      b->failed = 1;
      return;
    }
    b->data = data;
    b->cap = cap;
  }
  if (p && n) memcpy(b->data + b->size, p, n);
  else if (n) memset(b->data + b->size, 0, n);
  b->size += n;
}
// The `n` low bytes of v, little-endian.
GW_FN void gw_uint(gw_buf *b, uint64_t v, int n) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(v >> (8 * i));
  gw_bytes(b, bytes, (size_t)n);
}
GW_FN void gw_text(gw_buf *b, const char *s, size_t len) {
  gw_uint(b, len, 8);
  gw_bytes(b, s, len);
}
GW_FN void gw_pad(gw_buf *b, size_t align) {
  if (align && b->size % align) gw_bytes(b, NULL, align - b->size % align);
}
GW_FN uint32_t gw_f32_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
GW_FN uint64_t gw_f64_bits(double f) {
  uint64_t u;
  memcpy(&u, &f, 8);
  return u;
}
// Bytes of a scalar of metadata; 0 for strings, arrays and what does not exist.
GW_FN int gw_type_bytes(int type) {
  static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type >= 0 && type < (int)sizeof bytes ? bytes[type] : 0;
}

// ---- file ----

GW_FN void gw_begin(gw_file *w, uint32_t version) {
  memset(w, 0, sizeof *w);
  w->version = version;
  w->alignment = 32;
}
GW_FN void gw_free(gw_file *w) {
  free(w->kv.data);
  free(w->infos.data);
  free(w->data.data);
  free(w->out.data);
  memset(w, 0, sizeof *w);
}

// Key and type of one more entry; its value follows by gw_uint and friends into w->kv. For odd entries; the rest is below.
GW_FN void gw_key(gw_file *w, const char *key, int type) {
  w->n_kv++;
  gw_text(&w->kv, key, strlen(key));
  gw_uint(&w->kv, (uint32_t)type, 4);
}

// ---- metadata ----

// A scalar of any integer type or BOOL, by its bits.
GW_FN void gw_kv_int(gw_file *w, const char *key, int type, int64_t v) {
  gw_key(w, key, type);
  gw_uint(&w->kv, (uint64_t)v, gw_type_bytes(type));
}
GW_FN void gw_kv_u8(gw_file *w, const char *key, uint8_t v) { gw_kv_int(w, key, GW_U8, v); }
GW_FN void gw_kv_i8(gw_file *w, const char *key, int8_t v) { gw_kv_int(w, key, GW_I8, v); }
GW_FN void gw_kv_u16(gw_file *w, const char *key, uint16_t v) { gw_kv_int(w, key, GW_U16, v); }
GW_FN void gw_kv_i16(gw_file *w, const char *key, int16_t v) { gw_kv_int(w, key, GW_I16, v); }
GW_FN void gw_kv_u32(gw_file *w, const char *key, uint32_t v) { gw_kv_int(w, key, GW_U32, v); }
GW_FN void gw_kv_i32(gw_file *w, const char *key, int32_t v) { gw_kv_int(w, key, GW_I32, v); }
GW_FN void gw_kv_u64(gw_file *w, const char *key, uint64_t v) { gw_kv_int(w, key, GW_U64, (int64_t)v); }
GW_FN void gw_kv_i64(gw_file *w, const char *key, int64_t v) { gw_kv_int(w, key, GW_I64, v); }
GW_FN void gw_kv_bool(gw_file *w, const char *key, int v) { gw_kv_int(w, key, GW_BOOL, v); }
GW_FN void gw_kv_f32(gw_file *w, const char *key, float v) {
  gw_key(w, key, GW_F32);
  gw_uint(&w->kv, gw_f32_bits(v), 4);
}
GW_FN void gw_kv_f64(gw_file *w, const char *key, double v) {
  gw_key(w, key, GW_F64);
  gw_uint(&w->kv, gw_f64_bits(v), 8);
}
GW_FN void gw_kv_strn(gw_file *w, const char *key, const char *s, size_t len) {
  gw_key(w, key, GW_STRING);
  gw_text(&w->kv, s, len);
}
GW_FN void gw_kv_str(gw_file *w, const char *key, const char *s) { gw_kv_strn(w, key, s, strlen(s)); }

// An array of scalars: `bytes` holds n values as the file has them (on a little-endian machine: a C array).
GW_FN void gw_kv_array(gw_file *w, const char *key, int element_type, const void *bytes, size_t n) {
  gw_key(w, key, GW_ARRAY);
  gw_uint(&w->kv, (uint32_t)element_type, 4);
  gw_uint(&w->kv, n, 8);
  gw_bytes(&w->kv, bytes, n * (size_t)gw_type_bytes(element_type));
}
GW_FN void gw_kv_f32s(gw_file *w, const char *key, const float *v, size_t n) {
  gw_key(w, key, GW_ARRAY);
  gw_uint(&w->kv, GW_F32, 4);
  gw_uint(&w->kv, n, 8);
  for (size_t i = 0; i < n; i++) gw_uint(&w->kv, gw_f32_bits(v[i]), 4);
}
GW_FN void gw_kv_i32s(gw_file *w, const char *key, const int32_t *v, size_t n) {
  gw_key(w, key, GW_ARRAY);
  gw_uint(&w->kv, GW_I32, 4);
  gw_uint(&w->kv, n, 8);
  for (size_t i = 0; i < n; i++) gw_uint(&w->kv, (uint32_t)v[i], 4);
}
// lens NULL = terminated texts.
GW_FN void gw_kv_strs(gw_file *w, const char *key, const char *const *s, const size_t *lens, size_t n) {
  gw_key(w, key, GW_ARRAY);
  gw_uint(&w->kv, GW_STRING, 4);
  gw_uint(&w->kv, n, 8);
  for (size_t i = 0; i < n; i++) gw_text(&w->kv, s[i], lens ? lens[i] : strlen(s[i]));
}
// Alignment of tensor data, with its key. Before the first tensor.
GW_FN void gw_align(gw_file *w, uint32_t alignment) {
  w->alignment = alignment;
  gw_kv_u32(w, "general.alignment", alignment);
}

// ---- tensors ----

// Name, shape, type and place as given; no data. For broken files.
GW_FN void gw_tensor_info(gw_file *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *shape, uint64_t offset) {
  w->n_tensors++;
  gw_text(&w->infos, name, strlen(name));
  gw_uint(&w->infos, n_dims, 4);
  for (uint32_t i = 0; i < n_dims; i++) gw_uint(&w->infos, shape[i], 8);
  gw_uint(&w->infos, type, 4);
  gw_uint(&w->infos, offset, 8);
}
// A tensor behind those that are there. shape[0] runs fastest. data NULL = zeros.
GW_FN void gw_tensor(gw_file *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *shape, const void *data,
                     size_t bytes) {
  gw_pad(&w->data, w->alignment);
  gw_tensor_info(w, name, type, n_dims, shape, w->data.size);
  gw_bytes(&w->data, data, bytes);
}

// The file: header, metadata, tensor infos, padding, data. NULL when memory ran out. May be called again after more was added.
GW_FN uint8_t *gw_finish(gw_file *w, size_t *size) {
  w->out.size = 0;
  gw_bytes(&w->out, "GGUF", 4);
  gw_uint(&w->out, w->version, 4);
  gw_uint(&w->out, w->n_tensors, 8);
  gw_uint(&w->out, w->n_kv, 8);
  gw_bytes(&w->out, w->kv.data, w->kv.size);
  gw_bytes(&w->out, w->infos.data, w->infos.size);
  w->infos_end = w->out.size;
  if (!w->no_data) gw_pad(&w->out, w->alignment);
  w->data_offset = w->out.size;
  if (!w->no_data) gw_bytes(&w->out, w->data.data, w->data.size);
  if (w->kv.failed || w->infos.failed || w->data.failed || w->out.failed) return NULL;
  *size = w->out.size;
  return w->out.data;
}

// 1 on success.
GW_FN int gw_save(const void *bytes, size_t size, const char *path) {
  FILE *f = fopen(path, "wb");
  if (!f) return 0;
  int ok = fwrite(bytes, 1, size, f) == size;
  return fclose(f) == 0 && ok;
}

#endif // QINFER_TESTS_GGUF_WRITE_H
