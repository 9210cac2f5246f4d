// For tests of GGUF files: bytes as every kind of source, an allocator that counts and fails, and opening, with all that must hold
// checked.
#ifndef QINFER_TESTS_GGUF_CASES_H
#define QINFER_TESTS_GGUF_CASES_H

#include "gguf_write.h"

#include <unistd.h>

// ---- allocator ----

// Counts, and fails call number `fail_at` (from 1; 0 = never) and what is absurd.
typedef struct gc_heap {
  size_t n_calls, n_live, asked, live_bytes, fail_at;
} gc_heap;

GW_FN void *gc_heap_alloc(size_t size, size_t align, void *user) {
  gc_heap *h = (gc_heap *)user;
  if (++h->n_calls == h->fail_at || size >> 30) return NULL; // a gigabyte is more than any test needs
  void *p = NULL;
  if (posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, size)) return NULL;
  memset(p, 0xa5, size); // nobody may rely on zeros
  h->n_live++;
  h->asked += size;
  h->live_bytes += size;
  return p;
}
GW_FN void gc_heap_free(void *p, size_t size, void *user) {
  gc_heap *h = (gc_heap *)user;
  assert_non_null(p);
  h->n_live--;
  h->live_bytes -= size;
  free(p);
}

// ---- sources ----

typedef enum gc_source { SOURCE_MEMORY, SOURCE_PATH, SOURCE_READ, SOURCE_READER, SOURCE_COUNT } gc_source;

// A folder of its own in the system's place for such.
GW_FN void gc_make_dir(char dir[256]) {
  snprintf(dir, 256, "%s/qinfer-XXXXXX", P_tmpdir);
  assert_non_null(mkdtemp(dir));
}

// Bytes as a source. In memory they are an exact block: a sanitizer sees any step beyond.
typedef struct gc_bytes {
  gc_source source;
  uint8_t *block;
  size_t size;
  char dir[256], path[512];
  size_t n_reads, fail_at; // SOURCE_READER: read number fail_at fails (0 = none)
} gc_bytes;

GW_FN bool gc_bytes_read(void *user, uint64_t offset, void *dst, size_t n) {
  gc_bytes *b = (gc_bytes *)user;
  assert_true(offset <= b->size && n <= b->size - offset);
  if (++b->n_reads == b->fail_at) return false;
  memcpy(dst, b->block + offset, n);
  return true;
}

GW_FN void gc_bytes_begin(gc_bytes *b, const void *bytes, size_t size, gc_source source) {
  memset(b, 0, sizeof *b);
  b->source = source;
  b->size = size;
  b->block = (uint8_t *)malloc(size ? size : 1);
  assert_non_null(b->block);
  if (size) memcpy(b->block, bytes, size);
  if (source != SOURCE_PATH && source != SOURCE_READ) return;
  gc_make_dir(b->dir);
  snprintf(b->path, sizeof b->path, "%s/model.gguf", b->dir);
  assert_true(gw_save(bytes, size, b->path));
}

GW_FN void gc_bytes_end(gc_bytes *b) {
  if (b->path[0]) {
    remove(b->path);
    remove(b->dir);
  }
  free(b->block);
  memset(b, 0, sizeof *b);
}

GW_FN void gc_bytes_desc(gc_bytes *b, qi_model_desc *desc) {
  memset(desc, 0, sizeof *desc);
  desc->no_mmap = b->source == SOURCE_READ;
  if (b->path[0]) desc->path = b->path;
  if (b->source == SOURCE_MEMORY) {
    desc->data = b->block;
    desc->data_size = b->size;
  }
  if (b->source == SOURCE_READER) {
    desc->reader.read = gc_bytes_read;
    desc->reader.size = b->size;
    desc->reader.user = b;
  }
}

GW_FN qi_result gc_bytes_open(gc_bytes *b, qi__file *f, qi_error *err) {
  qi_model_desc desc;
  gc_bytes_desc(b, &desc);
  return qi__gguf_open_part(f, &desc, 0, 1, err);
}

// ---- opening ----

typedef struct gc_open {
  qi__gguf g;
  qi_result result;
  qi_error err;
  gc_heap heap;
  gc_bytes bytes;
  size_t size;
} gc_open;

// Opens; o->bytes are the caller's. What was measured must be what is asked for, and a failure must leave nothing behind.
GW_FN void gc_open_source(gc_open *o, const qi_model_desc *desc, size_t fail_at) {
  memset(&o->heap, 0, sizeof o->heap);
  memset(&o->err, 0, sizeof o->err);
  memset(&o->g, 0xa5, sizeof o->g); // need not be set before
  qi_allocator allocator = {gc_heap_alloc, gc_heap_free, NULL};
  qi_logger silent = {NULL, NULL};
  allocator.user = &o->heap;
  uint64_t heap = 0, mapped = 0;
  qi_result measured = qi__gguf_measure(desc, &heap, &mapped, NULL, NULL);
  assert_int_equal(o->heap.n_calls, 0);
  o->heap.fail_at = fail_at;
  o->result = qi__gguf_open(&o->g, desc, &allocator, &silent, &o->err);
  if (o->result) {
    assert_int_equal(o->err.code, o->result);
    assert_int_equal(strlen(o->err.msg) > 8, 1);
    assert_int_equal(o->heap.n_live, 0);
    assert_int_equal(o->heap.live_bytes, 0);
    assert_int_equal(qi__gguf_open(&o->g, desc, &allocator, &silent, NULL) != QI_OK, !o->heap.fail_at); // err may be NULL
    qi__gguf_close(&o->g);
    return;
  }
  assert_int_equal(measured, QI_OK);
  assert_int_equal(o->heap.asked, heap);
  assert_int_equal(qi__gguf_heap(&o->g), heap);
  assert_int_equal(qi__gguf_mapped(&o->g), mapped);
}

GW_FN void gc_close(gc_open *o) {
  if (!o->result) qi__gguf_close(&o->g);
  assert_int_equal(o->heap.n_live, 0);
  assert_int_equal(o->heap.live_bytes, 0);
  gc_bytes_end(&o->bytes);
}

// fail_at: which call of the allocator fails, 0 = none.
GW_FN void gc_open_bytes(gc_open *o, const void *bytes, size_t size, gc_source source, size_t fail_at) {
  memset(o, 0, sizeof *o);
  gc_bytes_begin(&o->bytes, bytes, size, source);
  qi_model_desc desc;
  gc_bytes_desc(&o->bytes, &desc);
  o->size = size;
  gc_open_source(o, &desc, fail_at);
}

GW_FN void gc_open_desc(gc_open *o, const qi_model_desc *desc) {
  memset(o, 0, sizeof *o);
  gc_open_source(o, desc, 0);
}

GW_FN void gc_open_file(gc_open *o, gw_file *w, gc_source source) {
  size_t size;
  const uint8_t *bytes = gw_finish(w, &size);
  assert_non_null(bytes);
  gc_open_bytes(o, bytes, size, source, 0);
}

// It was refused with this code, and the message says so. Closes.
GW_FN void gc_expect(gc_open *o, qi_result code, const char *phrase) {
  if (o->result != code || !strstr(o->err.msg, phrase))
    fail_msg("result %s, \"%s\"; expected %s, \"%s\"", qi_result_name(o->result), o->err.msg, qi_result_name(code), phrase);
  gc_close(o);
}

// These bytes are refused so, in memory and behind a reader.
GW_FN void gc_refuse_bytes(const void *bytes, size_t size, qi_result code, const char *phrase) {
  gc_open o;
  gc_open_bytes(&o, bytes, size, SOURCE_MEMORY, 0);
  gc_expect(&o, code, phrase);
  gc_open_bytes(&o, bytes, size, SOURCE_READER, 0);
  gc_expect(&o, code, phrase);
}

// This file is refused so; frees it.
GW_FN void gc_refuse(gw_file *w, qi_result code, const char *phrase) {
  size_t size;
  const uint8_t *bytes = gw_finish(w, &size);
  assert_non_null(bytes);
  gc_refuse_bytes(bytes, size, code, phrase);
  gw_free(w);
}

// Reads every byte that an open file promises; returns a sum so that nothing is optimised away.
GW_FN uint64_t gc_touch(const qi__gguf *g) {
  uint64_t sum = 0;
  for (size_t i = 0; i < g->n_metas; i++) {
    const qi_meta *m = &g->metas[i];
    assert_ptr_equal(qi__gguf_find(g, m->key), m);
    for (uint64_t k = 0; m->type == QI_META_STRING && k < m->count; k++) sum += (uint8_t)m->value.text[k];
    qi_meta e;
    for (uint64_t k = 0; m->type == QI_META_ARRAY && k < m->count && k < 20; k++)
      assert_int_equal(qi__gguf_element(g, i, k, &e, NULL), QI_OK);
    qi__gguf_array a;
    const char *text;
    size_t len;
    if (m->type != QI_META_ARRAY || m->element_type != QI_META_STRING) continue;
    assert_int_equal(qi__gguf_get_array(g, m->key, QI_META_STRING, true, &a, NULL), QI_OK);
    while (qi__gguf_next_string(&a, &text, &len))
      for (size_t k = 0; k < len; k++) sum += (uint8_t)text[k];
    assert_int_equal(a.count, 0);
  }
  for (size_t i = 0; i < g->n_tensors; i++) {
    const qi__tensor_info *t = &g->tensors[i];
    assert_ptr_equal(qi__gguf_tensor(g, t->name), t);
    uint8_t byte;
    const uint8_t *data = (const uint8_t *)qi__gguf_tensor_data(g, t);
    for (uint64_t k = 0; data && k < t->n_bytes; k++) sum += data[k];
    if (t->n_bytes) assert_int_equal(qi__gguf_read_tensor(g, t, t->n_bytes - 1, &byte, 1, NULL), QI_OK);
  }
  return sum;
}

#endif // QINFER_TESTS_GGUF_CASES_H
