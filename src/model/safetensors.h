// ==== >>safetensors : the header of a safetensors file ====
#ifndef QI__MODEL_SAFETENSORS_H
#define QI__MODEL_SAFETENSORS_H

#include "gguf.h"
#include "json.h"

// A safetensors file:
//
//   u64 n (little-endian)    n bytes of JSON    tensor data to the end of the file
//   {"__metadata__": {text: text, ...}, name: {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end]}, ...}
//
// Offsets count from the begin of the data. Tensors cover the data without overlap and without gap (as the reference reader
// demands), in any order in the header; the last dimension runs fastest; nothing is aligned.

#define QI__ST_MAX_HEADER 100000000u // that of the reference reader

typedef struct qi__st_dtype {
  const char *name;
  int bits;
  qi_format format; // NONE: not used as weights
  int gguf_id;      // of the same type in GGUF, -1 = it has none
} qi__st_dtype;

static const qi__st_dtype qi__st_dtypes[] = {
    {"F32", 32, QI_FORMAT_F32, 0}, {"F16", 16, QI_FORMAT_F16, 1},       {"BF16", 16, QI_FORMAT_BF16, 30},
    {"U8", 8, QI_FORMAT_NONE, -1}, {"I8", 8, QI_FORMAT_NONE, 24},       {"I16", 16, QI_FORMAT_NONE, 25},
    {"I32", 32, QI_FORMAT_NONE, 26}, {"I64", 64, QI_FORMAT_NONE, 27},   {"F64", 64, QI_FORMAT_NONE, 28},
    {"U16", 16, QI_FORMAT_NONE, -1}, {"U32", 32, QI_FORMAT_NONE, -1},   {"U64", 64, QI_FORMAT_NONE, -1},
    {"BOOL", 8, QI_FORMAT_NONE, -1}, {"F8_E4M3", 8, QI_FORMAT_NONE, -1}, {"F8_E5M2", 8, QI_FORMAT_NONE, -1},
    {"F8_E8M0", 8, QI_FORMAT_NONE, -1}, {"F6_E2M3", 6, QI_FORMAT_NONE, -1}, {"F6_E3M2", 6, QI_FORMAT_NONE, -1},
    {"F4", 4, QI_FORMAT_NONE, -1}, {"C64", 64, QI_FORMAT_NONE, -1},
};

// One tensor of the header.
typedef struct qi__st_entry {
  char name[QI__GGUF_MAX_NAME + 1];
  const qi__st_dtype *dtype;
  int n_dims;          // 1..4
  uint64_t shape[4];   // GGUF's order: shape[0] runs fastest; unused ones are 1. More than four dimensions are joined in shape[3]
  uint64_t begin, end; // in the data
} qi__st_entry;

typedef struct qi__st_header {
  qi__json json;
  uint64_t data_offset, data_bytes;
} qi__st_header;

// ---- walk ----

// Begins to walk over the header of an open file. Errors: QI_ERR_FORMAT, QI_ERR_LIMIT, QI_ERR_IO.
QI__FN qi_result qi__st_begin(qi__st_header *h, const qi__file *f, qi_error *err) {
  uint8_t b[8] = {0};
  if (f->size < 8) return qi__fail(err, QI_ERR_FORMAT, "header: the file ends after %llu bytes", (unsigned long long)f->size);
  qi_result r = qi__file_read(f, 0, b, sizeof b, err);
  if (r) return r;
  uint64_t n = qi__load_u64(b);
  if (n > QI__ST_MAX_HEADER)
    return qi__fail(err, QI_ERR_LIMIT, "header: %llu bytes, at most %u are allowed (or this is no safetensors file)",
                    (unsigned long long)n, QI__ST_MAX_HEADER);
  if (n > f->size - 8)
    return qi__fail(err, QI_ERR_FORMAT, "header: %llu bytes, but the file has only %llu more", (unsigned long long)n,
                    (unsigned long long)(f->size - 8));
  h->data_offset = 8 + n;
  h->data_bytes = f->size - h->data_offset;
  qi__json_init(&h->json, f, 8, n, err);
  qi__json_enter(&h->json, QI__JSON_OBJECT);
  return h->json.result;
}

QI__FN void qi__st_read_shape(qi__json *j, qi__st_entry *e, uint64_t *n_weights) {
  uint64_t dims[8];
  int n = 0;
  *n_weights = 1;
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j); n++) {
    uint64_t dim = 0;
    if (n == 8) qi__json_fail(j, QI_ERR_LIMIT, "more than 8 dimensions");
    qi__json_u64(j, INT64_MAX, &dim);
    if (j->result) return;
    dims[n] = dim;
    if (!qi__mul_u64(*n_weights, dim, n_weights) || *n_weights > INT64_MAX)
      qi__json_fail(j, QI_ERR_FORMAT, "the number of weights overflows");
  }
  if (j->result) return;
  e->n_dims = n < 1 ? 1 : n > 4 ? 4 : n;
  for (int i = 0; i < n && *n_weights; i++) e->shape[i < 3 ? i : 3] *= dims[n - 1 - i];
}

QI__FN void qi__st_read_dtype(qi__json *j, qi__st_entry *e) {
  char name[16];
  qi__json_text(j, name, sizeof name);
  for (size_t i = 0; i < QI__COUNT_OF(qi__st_dtypes) && !j->result; i++)
    if (!strcmp(name, qi__st_dtypes[i].name)) e->dtype = &qi__st_dtypes[i];
  if (!e->dtype) qi__json_fail(j, QI_ERR_UNSUPPORTED, "dtype '%s' is unknown", qi__show_text(name).s);
}

QI__FN void qi__st_read_offsets(qi__json *j, qi__st_entry *e) {
  int n = 0;
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j); n++) {
    uint64_t v = 0;
    qi__json_u64(j, INT64_MAX, &v);
    if (n == 0) e->begin = v;
    if (n == 1) e->end = v;
  }
  if (n != 2) qi__json_fail(j, QI_ERR_FORMAT, "%d data_offsets, expected begin and end", n);
}

// Checks that the offsets are in the data and hold what dtype and shape say.
QI__FN void qi__st_check(qi__st_header *h, const qi__st_entry *e, uint64_t n_weights) {
  uint64_t bits = 0;
  if (e->begin > e->end || e->end > h->data_bytes)
    qi__json_fail(&h->json, QI_ERR_FORMAT, "data_offsets [%llu, %llu], but there are %llu bytes of data",
                  (unsigned long long)e->begin, (unsigned long long)e->end, (unsigned long long)h->data_bytes);
  else if (!qi__mul_u64(n_weights, (uint64_t)e->dtype->bits, &bits) || bits % 8 || bits / 8 != e->end - e->begin)
    qi__json_fail(&h->json, QI_ERR_FORMAT, "%llu weights of type %s need %llu bytes, data_offsets have %llu",
                  (unsigned long long)n_weights, e->dtype->name, (unsigned long long)(bits / 8),
                  (unsigned long long)(e->end - e->begin));
}

QI__FN void qi__st_read_entry(qi__st_header *h, qi__st_entry *e) {
  qi__json *j = &h->json;
  uint64_t n_weights = 0;
  unsigned seen = 0;
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    unsigned bit = qi__json_key_is(j, "dtype") ? 1 : qi__json_key_is(j, "shape") ? 2 : qi__json_key_is(j, "data_offsets") ? 4 : 0;
    if (bit & seen) qi__json_fail(j, QI_ERR_FORMAT, "%s occurs twice", j->key);
    seen |= bit;
    if (bit == 1) qi__st_read_dtype(j, e);
    else if (bit == 2) qi__st_read_shape(j, e, &n_weights);
    else if (bit == 4) qi__st_read_offsets(j, e);
    else qi__json_skip(j);
  }
  if (!j->result && seen != 7)
    qi__json_fail(j, QI_ERR_FORMAT, "%s is missing", !(seen & 1) ? "dtype" : !(seen & 2) ? "shape" : "data_offsets");
  if (!j->result) qi__st_check(h, e, n_weights);
}

// The next tensor; false at the end of the header, and on failure (then json.result says so). Names are 1 to 127 bytes without
// control characters.
QI__FN bool qi__st_next(qi__st_header *h, qi__st_entry *e) {
  qi__json *j = &h->json;
  memset(e, 0, sizeof *e);
  for (int i = 0; i < 4; i++) e->shape[i] = 1;
  bool more;
  while ((more = qi__json_next_key(j)) && qi__json_key_is(j, "__metadata__")) qi__json_skip(j);
  if (!more) {
    qi__json_end(j);
    return false;
  }
  if (!j->key_len || j->key_len > QI__GGUF_MAX_NAME) {
    qi__json_fail(j, QI_ERR_FORMAT, "a tensor name has %zu bytes, expected 1 to %d", j->key_len, QI__GGUF_MAX_NAME);
    return false;
  }
  for (size_t i = 0; i < j->key_len; i++)
    if ((uint8_t)j->key[i] < 0x20 || j->key[i] == 0x7f)
      qi__json_fail(j, QI_ERR_FORMAT, "a tensor name has a control character, %d", j->key[i]);
  memcpy(e->name, j->key, j->key_len + 1);
  qi__st_read_entry(h, e);
  if (j->result && j->result != QI_ERR_IO) qi__fail_prefix(j->err, "header: tensor %.64s: ", e->name);
  return !j->result;
}

#endif // QI__MODEL_SAFETENSORS_H
