// Hostile and damaged GGUF files: every class of known loader bugs is refused with a message that says why, from memory and from a
// reader; whatever else is done to a file, nothing is read or written beyond what is there (run this under sanitizers).
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <cmocka.h>

#include "support/gguf_cases.h"

// A file with a bit of everything.
static void write_small(gw_file *w) {
  static const char *const words[] = {"one", "", "three"};
  const int32_t ids[] = {1, 2, 3};
  const uint8_t flags[] = {1, 0};
  gw_begin(w, 3);
  gw_kv_str(w, "general.architecture", "llama");
  gw_align(w, 32);
  gw_kv_u32(w, "llama.block_count", 1);
  gw_kv_f32(w, "llama.f", 1.5f);
  gw_kv_strs(w, "tokenizer.ggml.tokens", words, NULL, 3);
  gw_kv_i32s(w, "tokenizer.ggml.token_type", ids, 3);
  gw_kv_array(w, "flags", GW_BOOL, flags, 2);
  gw_tensor(w, "token_embd.weight", 8, 2, (uint64_t[]){32, 3}, NULL, 102);
  gw_tensor(w, "norm", 0, 1, (uint64_t[]){8}, NULL, 32);
}

static void patch(uint8_t *bytes, size_t at, uint64_t v, int n) {
  for (int i = 0; i < n; i++) bytes[at + (size_t)i] = (uint8_t)(v >> (8 * i));
}

// The small file with n bytes at `at` replaced.
static void refuse_patched(size_t at, uint64_t v, int n, qi_result code, const char *phrase) {
  gw_file w;
  size_t size;
  write_small(&w);
  uint8_t *bytes = gw_finish(&w, &size);
  assert_non_null(bytes);
  patch(bytes, at, v, n);
  gc_refuse_bytes(bytes, size, code, phrase);
  gw_free(&w);
}

// A file with one tensor like this, and 64 bytes of data.
static void refuse_tensor(const char *name, uint32_t type, uint32_t n_dims, const uint64_t *shape, uint64_t offset, qi_result code,
                          const char *phrase) {
  gw_file w;
  gw_begin(&w, 3);
  gw_tensor_info(&w, name, type, n_dims, shape, offset);
  gw_bytes(&w.data, NULL, 64);
  gc_refuse(&w, code, phrase);
}

// ---- header ----

static void test_magic_and_version(void **state) {
  (void)state;
  refuse_patched(0, 'X', 1, QI_ERR_FORMAT, "magic bytes are 58 47 55 46 ('XGUF'), expected 'GGUF'");
  refuse_patched(4, 1, 4, QI_ERR_UNSUPPORTED, "GGUF version 1, supported are 2 and 3");
  refuse_patched(4, 4, 4, QI_ERR_UNSUPPORTED, "GGUF version 4, supported");
  refuse_patched(4, 0, 4, QI_ERR_UNSUPPORTED, "GGUF version 0");
  refuse_patched(4, 0x03000000, 4, QI_ERR_UNSUPPORTED, "a big-endian file (version 0x03000000)");
  gc_refuse_bytes("GGUF", 4, QI_ERR_FORMAT, "header: the file ends after 4 bytes");
  gc_refuse_bytes("GG", 2, QI_ERR_FORMAT, "magic");
  gc_refuse_bytes("", 0, QI_ERR_FORMAT, "is empty");
}

// CVE-2024-21802 and its kin: counts that overflow when multiplied by the size of an entry.
static void test_counts(void **state) {
  (void)state;
  static const uint64_t huge[] = {UINT64_MAX, UINT64_MAX / 8, (uint64_t)1 << 63, (uint64_t)1 << 32, 1 << 20, 1000};
  for (size_t i = 0; i < QI__COUNT_OF(huge); i++) {
    refuse_patched(8, huge[i], 8, QI_ERR_FORMAT, "tensors cannot fit into a file of");
    refuse_patched(16, huge[i], 8, QI_ERR_FORMAT, "metadata entries cannot fit into a file of");
  }
  refuse_patched(8, 3, 8, QI_ERR_FORMAT, "tensor 2: "); // one more than there is: reads data as an info
  refuse_patched(16, 8, 8, QI_ERR_FORMAT, "tensor 0: name has a length of"); // reads an info as metadata
}

// More entries than the stated limit, in a file that could hold them: only the reader's size is made up.
static bool read_zeros(void *user, uint64_t offset, void *dst, size_t n) {
  const gw_file *w = (const gw_file *)user;
  memset(dst, 0, n);
  if (offset < w->out.size) memcpy(dst, w->out.data + offset, n < w->out.size - offset ? n : (size_t)(w->out.size - offset));
  return true;
}
static void refuse_vast(gw_file *w, qi_result code, const char *phrase) {
  size_t size;
  assert_non_null(gw_finish(w, &size));
  qi_model_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.reader.read = read_zeros;
  desc.reader.size = (uint64_t)1 << 50;
  desc.reader.user = w;
  gc_open o;
  gc_open_desc(&o, &desc);
  gc_expect(&o, code, phrase);
  gw_free(w);
}
static void test_limits(void **state) {
  (void)state;
  gw_file w;
  gw_begin(&w, 3);
  w.n_kv = (1 << 20) + 1;
  refuse_vast(&w, QI_ERR_LIMIT, "1048577 metadata entries, at most 1048576");
  gw_begin(&w, 3);
  w.n_tensors = (1 << 20) + 1;
  refuse_vast(&w, QI_ERR_LIMIT, "1048577 tensors, at most 1048576");
  gw_begin(&w, 3); // a string of a petabyte is skipped, and then cannot be kept
  gw_key(&w, "k", GW_STRING);
  gw_uint(&w.kv, (uint64_t)1 << 49, 8);
  bool wide = sizeof(void *) == 8;
  refuse_vast(&w, wide ? QI_ERR_OOM : QI_ERR_LIMIT, wide ? "index of the file: the allocator gave no" : "address space");
}

// ---- metadata ----

static void test_keys(void **state) {
  (void)state;
  char key[1026];
  gw_file w;
  refuse_patched(24, 0, 8, QI_ERR_FORMAT, "metadata entry 0: key has a length of 0, expected 1 to 1024");
  refuse_patched(24, UINT64_MAX, 8, QI_ERR_FORMAT, "key has a length of 18446744073709551615, expected");
  refuse_patched(24, (uint64_t)1 << 32 | 20, 8, QI_ERR_FORMAT, "key has a length of 4294967316"); // CVE-2025-49847: cut to 32 bits
  refuse_patched(34, 0, 1, QI_ERR_FORMAT, "metadata entry 0: key has a control character, 0");
  memset(key, 'k', sizeof key);
  for (size_t len = 1024; len <= 1025; len++) {
    gw_begin(&w, 3);
    key[len] = 0;
    gw_kv_u8(&w, key, 1);
    key[len] = 'k';
    if (len == 1025) {
      gc_refuse(&w, QI_ERR_FORMAT, "key has a length of 1025");
      break;
    }
    gc_open o;
    gc_open_file(&o, &w, SOURCE_READER);
    assert_int_equal(o.result, QI_OK);
    gc_close(&o);
    gw_free(&w);
  }
  gw_begin(&w, 3);
  gw_kv_u8(&w, "bad\x1b[2J", 1);
  gc_refuse(&w, QI_ERR_FORMAT, "metadata entry 0: key has a control character, 27");
  refuse_tensor("two\nlines", 0, 1, (uint64_t[]){1}, 0, QI_ERR_FORMAT, "tensor 0: name has a control character, 10");
}

static void test_duplicate_keys(void **state) {
  (void)state;
  gw_file w;
  write_small(&w);
  gw_kv_u8(&w, "llama.block_count", 2);
  gc_refuse(&w, QI_ERR_FORMAT, "key llama.block_count: occurs twice");
}

static void test_types(void **state) {
  (void)state;
  gw_file w;
  gw_begin(&w, 3);
  gw_key(&w, "k", 13);
  gw_uint(&w.kv, 0, 8);
  gc_refuse(&w, QI_ERR_FORMAT, "key k: type is 13, expected 0 to 12");
  gw_begin(&w, 3);
  gw_key(&w, "k", -1);
  gw_uint(&w.kv, 0, 8);
  gc_refuse(&w, QI_ERR_FORMAT, "type is 4294967295");
  gw_begin(&w, 3);
  gw_key(&w, "k", GW_ARRAY);
  gw_uint(&w.kv, 77, 4);
  gw_uint(&w.kv, 0, 8);
  gc_refuse(&w, QI_ERR_FORMAT, "key k: element type is 77");
  gw_begin(&w, 3);
  gw_kv_u8(&w, "k", 0);
  gw_kv_int(&w, "flag", GW_BOOL, 2);
  gc_refuse(&w, QI_ERR_FORMAT, "key flag: bool has the value 2, expected 0 or 1");
  uint8_t flags[9000];
  memset(flags, 1, sizeof flags);
  flags[8999] = 255;
  gw_begin(&w, 3);
  gw_kv_array(&w, "flags", GW_BOOL, flags, sizeof flags);
  gc_refuse(&w, QI_ERR_FORMAT, "key flags: bool has the value 255");
}

// Lengths that overflow, or reach beyond the end (CVE-2024-23605, CVE-2025-66960).
static void test_strings(void **state) {
  (void)state;
  static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 8, (uint64_t)1 << 63, (uint64_t)1 << 32, 1000, 101};
  for (size_t i = 0; i < QI__COUNT_OF(lengths); i++) {
    gw_file w;
    gw_begin(&w, 3);
    w.no_data = 1;
    gw_key(&w, "k", GW_STRING);
    gw_uint(&w.kv, lengths[i], 8);
    gw_bytes(&w.kv, NULL, 100);
    gc_refuse(&w, QI_ERR_FORMAT, "but the file has only 100 more");
    gw_begin(&w, 3);
    w.no_data = 1;
    gw_key(&w, "k", GW_ARRAY);
    gw_uint(&w.kv, GW_STRING, 4);
    gw_uint(&w.kv, 2, 8);
    gw_text(&w.kv, "ok", 2);
    gw_uint(&w.kv, lengths[i], 8);
    gw_bytes(&w.kv, NULL, 100);
    gc_refuse(&w, QI_ERR_FORMAT, "key k: ");
  }
}

static void test_arrays(void **state) {
  (void)state;
  static const uint64_t counts[] = {UINT64_MAX, UINT64_MAX / 4, UINT64_MAX / 8 + 1, (uint64_t)1 << 62, (uint64_t)1 << 32, 200};
  for (int type = 0; type <= GW_F64; type++)
    for (size_t i = 0; i < QI__COUNT_OF(counts); i++) {
      gw_file w;
      gw_begin(&w, 3);
      w.no_data = 1;
      gw_key(&w, "k", GW_ARRAY);
      gw_uint(&w.kv, (uint64_t)type, 4);
      gw_uint(&w.kv, counts[i], 8);
      gw_bytes(&w.kv, NULL, 100);
      gc_refuse(&w, QI_ERR_FORMAT, "elements, but the file has only 100 more bytes");
    }
}

static void test_nesting(void **state) {
  (void)state;
  for (int depth = 4; depth <= 5000; depth = depth == 4 ? 5 : depth * 10) {
    gw_file w;
    gw_begin(&w, 3);
    gw_key(&w, "k", GW_ARRAY);
    for (int i = 1; i < depth; i++) {
      gw_uint(&w.kv, GW_ARRAY, 4);
      gw_uint(&w.kv, 1, 8);
    }
    gw_uint(&w.kv, GW_U8, 4);
    gw_uint(&w.kv, 1, 8);
    gw_uint(&w.kv, 7, 1);
    if (depth > 4) {
      gc_refuse(&w, QI_ERR_UNSUPPORTED, "key k: arrays nest deeper than 4");
      continue;
    }
    gc_open o;
    gc_open_file(&o, &w, SOURCE_READER);
    assert_int_equal(o.result, QI_OK);
    gc_touch(&o.g);
    gc_close(&o);
    gw_free(&w);
  }
}

static void test_alignment(void **state) {
  (void)state;
  static const uint32_t wrong[] = {0, 1, 4, 7, 24, 33, 1u << 21, 1u << 31, UINT32_MAX};
  gw_file w;
  for (size_t i = 0; i < QI__COUNT_OF(wrong); i++) {
    gw_begin(&w, 3);
    gw_kv_u32(&w, "general.alignment", wrong[i]);
    gc_refuse(&w, QI_ERR_FORMAT, "expected a power of two, 8 to 1048576");
  }
  gw_begin(&w, 3);
  gw_kv_u64(&w, "general.alignment", 32);
  gc_refuse(&w, QI_ERR_FORMAT, "key general.alignment: type u64, expected u32");
  gw_begin(&w, 3);
  gw_kv_str(&w, "split.count", "2");
  gc_refuse(&w, QI_ERR_FORMAT, "key split.count: type string");
  gw_begin(&w, 3);
  gw_kv_i32(&w, "split.no", -1);
  gc_refuse(&w, QI_ERR_FORMAT, "key split.no: type i32 or a negative value");
}

// ---- tensors ----

static void test_tensor_names(void **state) {
  (void)state;
  char name[129];
  uint64_t one[] = {1};
  memset(name, 'n', sizeof name);
  name[128] = 0;
  refuse_tensor(name, 0, 1, one, 0, QI_ERR_FORMAT, "tensor 0: name has a length of 128, expected 1 to 127");
  refuse_tensor("", 0, 1, one, 0, QI_ERR_FORMAT, "tensor 0: name has a length of 0");
  gw_file w;
  write_small(&w);
  gw_tensor(&w, "norm", 0, 1, one, NULL, 4);
  gc_refuse(&w, QI_ERR_FORMAT, "tensor norm: occurs twice");
}

static void test_dimensions(void **state) {
  (void)state;
  uint64_t shape[5] = {1, 1, 1, 1, 1};
  refuse_tensor("x", 0, 0, shape, 0, QI_ERR_FORMAT, "tensor x: 0 dimensions, expected 1 to 4");
  refuse_tensor("x", 0, 5, shape, 0, QI_ERR_FORMAT, "tensor x: 5 dimensions, expected 1 to 4");
  gw_file w;
  gw_begin(&w, 3); // n_dims that would overflow an array on the stack (CVE-2024-21802)
  w.n_tensors = 1;
  gw_text(&w.infos, "x", 1);
  gw_uint(&w.infos, UINT32_MAX, 4);
  gw_bytes(&w.infos, NULL, 400);
  gc_refuse(&w, QI_ERR_FORMAT, "tensor x: 4294967295 dimensions, expected 1 to 4");
  for (uint32_t i = 0; i < 4; i++) {
    shape[i] = 0;
    refuse_tensor("x", 0, 4, shape, 0, QI_ERR_FORMAT, "is 0, expected at least 1");
    shape[i] = 1;
  }
}

// CVE-2026-33298, CVE-2025-53630: products that wrap around to something small.
static void test_size_overflow(void **state) {
  (void)state;
  const uint64_t big = (uint64_t)1 << 32;
  refuse_tensor("x", 0, 1, (uint64_t[]){UINT64_MAX}, 0, QI_ERR_FORMAT, "the number of weights overflows");
  refuse_tensor("x", 0, 1, (uint64_t[]){(uint64_t)1 << 63}, 0, QI_ERR_FORMAT, "the number of weights overflows");
  refuse_tensor("x", 0, 2, (uint64_t[]){big, big}, 0, QI_ERR_FORMAT, "the number of weights overflows");
  refuse_tensor("x", 0, 4, (uint64_t[]){big, 1, big, 2}, 0, QI_ERR_FORMAT, "dimension 2 is 4294967296: the number of weights");
  refuse_tensor("x", 0, 1, (uint64_t[]){(uint64_t)1 << 62}, 0, QI_ERR_FORMAT, "weights of type F32: their size overflows");
  refuse_tensor("x", 1, 1, (uint64_t[]){((uint64_t)1 << 63) - 1}, 0, QI_ERR_FORMAT, "weights of type F16: their size overflows");
  refuse_tensor("x", 999, 1, (uint64_t[]){(uint64_t)1 << 60}, 0, QI_ERR_FORMAT, "but the file ends at"); // of unknown type
  if (sizeof(void *) == 8)
    refuse_tensor("x", 0, 1, (uint64_t[]){(uint64_t)1 << 60}, 0, QI_ERR_FORMAT, "4611686018427387904 bytes at offset");
  refuse_tensor("x", 999, 1, (uint64_t[]){((uint64_t)1 << 63) - 1}, 0, sizeof(void *) == 8 ? QI_ERR_FORMAT : QI_ERR_LIMIT,
                "tensor x: ");
}

static void test_blocks(void **state) {
  (void)state;
  refuse_tensor("x", 8, 2, (uint64_t[]){16, 2}, 0, QI_ERR_FORMAT, "rows of 16 weights, expected a multiple of Q8_0's block of 32");
  refuse_tensor("x", 12, 1, (uint64_t[]){257}, 0, QI_ERR_FORMAT, "expected a multiple of Q4_K's block of 256");
  refuse_tensor("x", 0x80000000u, 1, (uint64_t[]){1}, 0, QI_ERR_FORMAT, "weight type 2147483648, expected below 2^31");
}

// CVE-2026-7482: data beyond the end of the file.
static void test_offsets(void **state) {
  (void)state;
  uint64_t shape[] = {8};
  refuse_tensor("x", 0, 1, shape, 4, QI_ERR_FORMAT, "tensor x: offset 4, expected a multiple of the alignment, 32");
  refuse_tensor("x", 0, 1, shape, 64, QI_ERR_FORMAT, "tensor x: 32 bytes at offset 128, but the file ends at 128");
  refuse_tensor("x", 0, 1, shape, 96, QI_ERR_FORMAT, "tensor x: begins 96 bytes behind offset 64, but the file ends at 128");
  refuse_tensor("x", 0, 1, shape, (uint64_t)1 << 40, QI_ERR_FORMAT, "begins 1099511627776 bytes behind");
  refuse_tensor("x", 0, 1, shape, UINT64_MAX - 31, QI_ERR_FORMAT, "begins 18446744073709551584 bytes behind"); // wraps to before
  refuse_tensor("x", 0, 1, (uint64_t[]){17}, 0, QI_ERR_FORMAT, "68 bytes at offset 64, but the file ends at 128");
  refuse_tensor("x", 999, 1, shape, 64, QI_ERR_FORMAT, "but the file ends at");
}

static void test_overlap(void **state) {
  (void)state;
  static const struct {
    uint64_t a, b;
    const char *phrase;
  } cases[] = {{0, 0, "overlap tensor "}, {0, 32, "tensor a: 64 bytes at offset 96 overlap tensor b at 128"},
               {32, 0, "tensor b: 64 bytes at offset 96 overlap tensor a at 128"}};
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    gw_file w;
    gw_begin(&w, 3);
    gw_tensor_info(&w, "a", 0, 1, (uint64_t[]){16}, cases[i].a);
    gw_tensor_info(&w, "b", 0, 1, (uint64_t[]){16}, cases[i].b);
    gw_bytes(&w.data, NULL, 256);
    gc_refuse(&w, QI_ERR_FORMAT, cases[i].phrase);
  }
}

// Data that would begin behind the end.
static void test_no_data(void **state) {
  (void)state;
  gw_file w;
  gw_begin(&w, 3);
  w.no_data = 1;
  gw_tensor_info(&w, "x", 0, 1, (uint64_t[]){1}, 0);
  gc_refuse(&w, QI_ERR_FORMAT, "tensor data begins at offset 64, but the file has only 57 bytes");
}

// ---- readers ----

// Every read fails once; and the answer is never a wrong one.
static void test_failing_reader(void **state) {
  (void)state;
  gw_file w;
  size_t size;
  write_small(&w);
  const uint8_t *bytes = gw_finish(&w, &size);
  for (size_t n = 1;; n++) {
    gc_bytes b;
    qi_model_desc desc;
    gc_open o;
    gc_bytes_begin(&b, bytes, size, SOURCE_READER);
    gc_bytes_desc(&b, &desc);
    qi_allocator allocator = {gc_heap_alloc, gc_heap_free, NULL};
    qi_logger silent = {NULL, NULL};
    memset(&o, 0, sizeof o);
    allocator.user = &o.heap;
    b.fail_at = n;
    o.result = qi__gguf_open(&o.g, &desc, &allocator, &silent, &o.err);
    bool failed = b.n_reads >= n;
    assert_int_equal(o.result, failed ? QI_ERR_IO : QI_OK);
    if (failed) assert_non_null(strstr(o.err.msg, "the reader's callback failed"));
    gc_close(&o);
    gc_bytes_end(&b);
    if (!failed) break;
    assert_in_range(n, 1, 100);
  }
  gw_free(&w);
}

// A reader (or a file under our hands) that tells something else the second time: refused or not, but never a crash.
typedef struct fickle {
  const uint8_t *first, *second;
  size_t n_reads, change_at;
} fickle;
static bool read_fickle(void *user, uint64_t offset, void *dst, size_t n) {
  fickle *f = (fickle *)user;
  memcpy(dst, (++f->n_reads < f->change_at ? f->first : f->second) + offset, n);
  return true;
}
static void test_changing_file(void **state) {
  (void)state;
  enum { SIZE = 1 << 16 };
  static uint8_t first[SIZE], second[SIZE];
  int n_refused = 0;
  for (int kind = 0; kind < 4; kind++) {
    gw_file w;
    size_t size;
    memset(first, 0, SIZE);
    memset(second, 0, SIZE);
    write_small(&w);
    const uint8_t *bytes = gw_finish(&w, &size);
    assert_non_null(bytes);
    memcpy(first, bytes, size);
    gw_free(&w);
    write_small(&w); // more entries, more tensors, longer names, or fewer
    for (int i = 0; i < 200; i++) {
      char name[40];
      snprintf(name, sizeof name, "%036d", i);
      if (kind == 0) gw_kv_u32(&w, name, 1);
      if (kind == 1) gw_tensor(&w, name, 0, 1, (uint64_t[]){8}, NULL, 32);
    }
    if (kind == 2) {
      gw_free(&w);
      gw_begin(&w, 3);
      for (int i = 0; i < 7; i++) {
        char name[200];
        snprintf(name, sizeof name, "%0150d", i);
        gw_kv_u8(&w, name, 1);
      }
      gw_tensor(&w, "a.much.longer.name.than.before", 0, 1, (uint64_t[]){8}, NULL, 32);
      gw_tensor(&w, "another.much.longer.name.than.before", 0, 1, (uint64_t[]){8}, NULL, 32);
    }
    if (kind == 3) {
      gw_free(&w);
      gw_begin(&w, 3);
    }
    bytes = gw_finish(&w, &size);
    assert_non_null(bytes);
    assert_true(size < SIZE);
    memcpy(second, bytes, size);
    gw_free(&w);
    for (size_t at = 1; at < 12; at++) {
      fickle f = {first, second, 0, at};
      qi_model_desc desc;
      gc_open o;
      memset(&desc, 0, sizeof desc);
      memset(&o, 0, sizeof o);
      desc.reader.read = read_fickle;
      desc.reader.size = SIZE;
      desc.reader.user = &f;
      qi_allocator allocator = {gc_heap_alloc, gc_heap_free, NULL};
      qi_logger silent = {NULL, NULL};
      allocator.user = &o.heap;
      o.result = qi__gguf_open(&o.g, &desc, &allocator, &silent, &o.err);
      if (!o.result) gc_touch(&o.g);
      n_refused += o.result == QI_ERR_FORMAT;
      gc_close(&o);
    }
  }
  assert_in_range(n_refused, 8, 44);
}

// ---- anything ----

static void refuse_truncated(const uint8_t *bytes, size_t size, size_t step) {
  for (size_t n = 0; n < size; n += step)
    for (int source = SOURCE_MEMORY; source <= SOURCE_READER; source += SOURCE_READER - SOURCE_MEMORY) {
      gc_open o;
      gc_open_bytes(&o, bytes, n, (gc_source)source, 0);
      if (o.result != QI_ERR_FORMAT) fail_msg("cut to %zu of %zu bytes: result %d, %s", n, size, o.result, o.err.msg);
      gc_close(&o);
    }
}

static void test_truncated(void **state) {
  (void)state;
  gw_file w;
  size_t size;
  write_small(&w);
  const uint8_t *bytes = gw_finish(&w, &size);
  refuse_truncated(bytes, size, 1);
  for (int i = 0; i < 3000; i++) {
    char key[32];
    snprintf(key, sizeof key, "some.key.%d", i);
    gw_kv_u16(&w, key, 1);
    if (i % 30 == 0) gw_tensor(&w, key, 0, 2, (uint64_t[]){3, 3}, NULL, 36);
  }
  bytes = gw_finish(&w, &size);
  assert_true(size > 60000);
  refuse_truncated(bytes, size, 97);
  gw_free(&w);
}

static uint64_t next_random(uint64_t *x) {
  uint64_t z = *x += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// One to eight bytes of the header replaced, often by the values that break parsers; what opens can be read in full.
static void test_random_damage(void **state) {
  (void)state;
  static const uint64_t spice[] = {0, 1, 0x7f, 0xff, 0x7fffffff, 0x80000000, UINT32_MAX, INT64_MAX, UINT64_MAX, UINT64_MAX - 7};
  gw_file w;
  size_t size;
  uint64_t seed = 20240501;
  int n_opened = 0, n_refused = 0;
  write_small(&w);
  const uint8_t *good = gw_finish(&w, &size);
  for (int round = 0; round < 10000; round++) {
    gc_bytes b;
    qi_model_desc desc;
    gc_open o;
    gc_bytes_begin(&b, good, size, round % 4 ? SOURCE_MEMORY : SOURCE_READER);
    for (uint64_t n = 1 + next_random(&seed) % 8; n--;) {
      uint64_t r = next_random(&seed);
      size_t at = (size_t)(next_random(&seed) % (w.infos_end - 8));
      if (r % 3 == 0) b.block[at] ^= (uint8_t)(1u << (r >> 8) % 8);
      else if (r % 3 == 1) b.block[at] = (uint8_t)(r >> 8);
      else patch(b.block, at, spice[(r >> 8) % QI__COUNT_OF(spice)], 1 << (r >> 16) % 4);
    }
    gc_bytes_desc(&b, &desc);
    gc_open_desc(&o, &desc);
    if (!o.result) gc_touch(&o.g);
    n_opened += !o.result;
    n_refused += o.result != QI_OK;
    gc_close(&o);
    gc_bytes_end(&b);
  }
  gw_free(&w);
  assert_true(n_opened > 500); // else the damage was too great to test anything behind the first checks
  assert_true(n_refused > 5000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_magic_and_version), cmocka_unit_test(test_counts), cmocka_unit_test(test_limits),
      cmocka_unit_test(test_keys), cmocka_unit_test(test_duplicate_keys), cmocka_unit_test(test_types),
      cmocka_unit_test(test_strings), cmocka_unit_test(test_arrays), cmocka_unit_test(test_nesting),
      cmocka_unit_test(test_alignment), cmocka_unit_test(test_tensor_names), cmocka_unit_test(test_dimensions),
      cmocka_unit_test(test_size_overflow), cmocka_unit_test(test_blocks), cmocka_unit_test(test_offsets),
      cmocka_unit_test(test_overlap), cmocka_unit_test(test_no_data), cmocka_unit_test(test_failing_reader),
      cmocka_unit_test(test_changing_file), cmocka_unit_test(test_truncated), cmocka_unit_test(test_random_damage),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
