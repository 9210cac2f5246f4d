// GGUF files: sound ones from every source, lookups, split models, and memory. Hostile files: test_gguf_hostile.c.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <cmocka.h>
#include <sys/stat.h>

#include "support/gguf_cases.h"

// ---- sound files ----

// One entry of each type, arrays of most, three tensors.
static void write_good(gw_file *w, uint32_t version, uint32_t alignment) {
  static const char *const words[] = {"one", "", "three"};
  const int32_t ids[] = {-1, 0, 2147483647};
  const float scores[] = {0.5f, -2.0f};
  const uint8_t flags[] = {1, 0, 1};
  float data[64];
  for (int i = 0; i < 64; i++) data[i] = (float)i;
  gw_begin(w, version);
  gw_kv_str(w, "general.architecture", "llama");
  if (alignment) gw_align(w, alignment);
  gw_kv_u8(w, "t.u8", 255);
  gw_kv_i8(w, "t.i8", -128);
  gw_kv_u16(w, "t.u16", 65535);
  gw_kv_i16(w, "t.i16", -32768);
  gw_kv_u32(w, "t.u32", 4294967295u);
  gw_kv_i32(w, "t.i32", -2147483647 - 1);
  gw_kv_f32(w, "t.f32", 1.5f);
  gw_kv_bool(w, "t.bool", 1);
  gw_kv_u64(w, "t.u64", UINT64_MAX);
  gw_kv_i64(w, "t.i64", INT64_MIN);
  gw_kv_f64(w, "t.f64", -0.1);
  gw_kv_str(w, "t.empty", "");
  gw_kv_strs(w, "t.words", words, NULL, 3);
  gw_kv_i32s(w, "t.ids", ids, 3);
  gw_kv_f32s(w, "t.scores", scores, 2);
  gw_kv_array(w, "t.flags", GW_BOOL, flags, 3);
  gw_kv_array(w, "t.none", GW_U64, NULL, 0);
  gw_tensor(w, "a", 0, 2, (uint64_t[]){4, 3}, data, 48);
  gw_tensor(w, "b", 0, 1, (uint64_t[]){1}, data + 20, 4);
  gw_tensor(w, "c.weight", 8, 3, (uint64_t[]){32, 2, 1}, NULL, 68); // Q8_0
}

static void check_scalar(const qi__gguf *g, const char *key, qi_meta_type type, uint64_t u) {
  const qi_meta *m = qi__gguf_find(g, key);
  assert_non_null(m);
  assert_int_equal(m->type, type);
  assert_int_equal(m->count, 1);
  assert_true(m->value.u == u);
  assert_string_equal(m->key, key);
  assert_int_equal(m->key_len, strlen(key));
}

static void check_good(const qi__gguf *g, bool aligned) {
  qi_error err = {QI_OK, ""};
  assert_int_equal(g->n_metas, aligned ? 19 : 18);
  check_scalar(g, "t.u8", QI_META_U8, 255);
  check_scalar(g, "t.i8", QI_META_I8, (uint64_t)-128);
  check_scalar(g, "t.u16", QI_META_U16, 65535);
  check_scalar(g, "t.i16", QI_META_I16, (uint64_t)-32768);
  check_scalar(g, "t.u32", QI_META_U32, 4294967295u);
  check_scalar(g, "t.i32", QI_META_I32, (uint64_t)-2147483648LL);
  check_scalar(g, "t.bool", QI_META_BOOL, 1);
  check_scalar(g, "t.u64", QI_META_U64, UINT64_MAX);
  check_scalar(g, "t.i64", QI_META_I64, (uint64_t)INT64_MIN);
  assert_true(qi__gguf_find(g, "t.f32")->value.f == 1.5);
  assert_true(qi__gguf_find(g, "t.f64")->value.f == -0.1);
  assert_null(qi__gguf_find(g, "t.absent"));

  const char *text = NULL;
  size_t len = 9;
  assert_int_equal(qi__gguf_str(g, "general.architecture", true, &text, &len, &err), QI_OK);
  assert_int_equal(len, 5);
  assert_memory_equal(text, "llama", 5);
  assert_int_equal(qi__gguf_str(g, "t.empty", true, &text, &len, &err), QI_OK);
  assert_int_equal(len, 0);

  assert_int_equal(g->n_tensors, 3);
  const qi__tensor_info *a = qi__gguf_tensor(g, "a"), *c = qi__gguf_tensor(g, "c.weight");
  assert_ptr_equal(a, &g->tensors[0]);
  assert_ptr_equal(c, &g->tensors[2]);
  assert_null(qi__gguf_tensor(g, "d"));
  assert_int_equal(a->format, QI_FORMAT_F32);
  assert_int_equal(a->n_dims, 2);
  assert_int_equal(a->shape[0], 4);
  assert_int_equal(a->shape[1], 3);
  assert_int_equal(a->shape[2], 1);
  assert_int_equal(a->n_bytes, 48);
  assert_int_equal(c->format, QI_FORMAT_Q8_0);
  assert_int_equal(c->gguf_id, 8);
  assert_int_equal(c->n_bytes, 68);

  uint8_t bytes[12];
  assert_int_equal(qi__gguf_read_tensor(g, a, 36, bytes, 12, &err), QI_OK);
  assert_true(qi__bits_f32(qi__load_u32(bytes)) == 9.0f && qi__bits_f32(qi__load_u32(bytes + 8)) == 11.0f);
  const uint8_t *data = (const uint8_t *)qi__gguf_tensor_data(g, a);
  if (data) assert_memory_equal(data + 36, bytes, 12);
  assert_int_equal(qi__gguf_read_tensor(g, a, 37, bytes, 12, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__gguf_read_tensor(g, a, UINT64_MAX, bytes, 2, &err), QI_ERR_ARGUMENT);
}

static void test_versions_alignments_sources(void **state) {
  (void)state;
  static const uint32_t alignments[] = {0, 8, 32, 64, 4096};
  for (uint32_t version = 2; version <= 3; version++)
    for (size_t i = 0; i < QI__COUNT_OF(alignments); i++)
      for (int source = 0; source < SOURCE_COUNT; source++) {
        gw_file w;
        write_good(&w, version, alignments[i]);
        gc_open o;
        gc_open_file(&o, &w, (gc_source)source);
        if (o.result) fail_msg("version %u, alignment %u, source %d: %s", version, alignments[i], source, o.err.msg);
        check_good(&o.g, alignments[i] != 0);
        assert_int_equal(qi__gguf_mapped(&o.g), source == SOURCE_PATH ? o.size : 0);
        assert_int_equal(qi__gguf_tensor_data(&o.g, o.g.tensors) != NULL, source == SOURCE_MEMORY || source == SOURCE_PATH);
        gc_close(&o);
        gw_free(&w);
      }
}

static void test_arrays_and_elements(void **state) {
  (void)state;
  for (int source = 0; source < SOURCE_COUNT; source++) {
    gw_file w;
    write_good(&w, 3, 0);
    gw_key(&w, "t.nested", GW_ARRAY); // [["x"], ["y", "zz"]]
    gw_uint(&w.kv, GW_ARRAY, 4);
    gw_uint(&w.kv, 2, 8);
    for (uint64_t i = 1; i <= 2; i++) {
      gw_uint(&w.kv, GW_STRING, 4);
      gw_uint(&w.kv, i, 8);
      gw_text(&w.kv, i == 1 ? "x" : "y", 1);
      if (i == 2) gw_text(&w.kv, "zz", 2);
    }
    gc_open o;
    gc_open_file(&o, &w, (gc_source)source);
    assert_int_equal(o.result, QI_OK);
    const qi__gguf *g = &o.g;
    qi_error err = {QI_OK, ""};
    qi__gguf_array a;
    const char *text;
    size_t len;
    assert_int_equal(qi__gguf_get_array(g, "t.words", QI_META_STRING, true, &a, &err), QI_OK);
    assert_int_equal(a.count, 3);
    assert_true(qi__gguf_next_string(&a, &text, &len) && len == 3 && !memcmp(text, "one", 3));
    assert_true(qi__gguf_next_string(&a, &text, &len) && len == 0);
    assert_true(qi__gguf_next_string(&a, &text, &len) && len == 5 && !memcmp(text, "three", 5));
    assert_false(qi__gguf_next_string(&a, &text, &len));
    assert_int_equal(qi__gguf_get_array(g, "t.ids", QI_META_U32, true, &a, &err), QI_OK);
    assert_int_equal(a.count, 3);
    assert_int_equal(a.end - a.data, 12);
    assert_int_equal(qi__load_u32(a.data + 8), 2147483647);
    assert_int_equal(qi__gguf_get_array(g, "t.none", QI_META_U64, true, &a, &err), QI_OK);
    assert_int_equal(a.count, 0);
    assert_int_equal(qi__gguf_get_array(g, "t.absent", QI_META_U64, false, &a, &err), QI_OK);
    assert_int_equal(a.count, 0);
    assert_int_equal(qi__gguf_get_array(g, "t.absent", QI_META_U64, true, &a, &err), QI_ERR_FORMAT);
    assert_string_equal(err.msg, "key t.absent: missing");

    qi_meta e;
    size_t ids = (size_t)(qi__gguf_find(g, "t.ids") - g->metas), words = (size_t)(qi__gguf_find(g, "t.words") - g->metas);
    size_t flags = (size_t)(qi__gguf_find(g, "t.flags") - g->metas), nested = (size_t)(qi__gguf_find(g, "t.nested") - g->metas);
    assert_int_equal(qi__gguf_element(g, ids, 0, &e, &err), QI_OK);
    assert_true(e.type == QI_META_I32 && e.value.i == -1 && !strcmp(e.key, "t.ids") && e.key_len == 5);
    assert_int_equal(qi__gguf_element(g, flags, 1, &e, &err), QI_OK);
    assert_true(e.type == QI_META_BOOL && e.value.u == 0);
    assert_int_equal(qi__gguf_element(g, words, 2, &e, &err), QI_OK);
    assert_true(e.type == QI_META_STRING && e.count == 5 && !memcmp(e.value.text, "three", 5));
    assert_int_equal(qi__gguf_element(g, nested, 1, &e, &err), QI_OK);
    assert_true(e.type == QI_META_ARRAY && e.element_type == QI_META_STRING && e.count == 2);
    assert_int_equal(qi__gguf_element(g, words, 3, &e, &err), QI_ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "element 3 of 3"));
    assert_int_equal(qi__gguf_element(g, 0, 0, &e, &err), QI_ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "expected an array"));
    gc_close(&o);
    gw_free(&w);
  }
}

static void expect_message(qi_result r, qi_error *err, const char *msg) {
  assert_int_equal(r, QI_ERR_FORMAT);
  assert_int_equal(err->code, QI_ERR_FORMAT);
  assert_string_equal(err->msg, msg);
}

static void test_getters(void **state) {
  (void)state;
  gw_file w;
  write_good(&w, 3, 0);
  gw_kv_f64(&w, "t.huge", 1e300);
  gw_kv_i64(&w, "t.seven", 7);
  gc_open o;
  gc_open_file(&o, &w, SOURCE_MEMORY);
  assert_int_equal(o.result, QI_OK);
  const qi__gguf *g = &o.g;
  qi_error err = {QI_OK, ""};
  uint32_t u = 5;
  float f = 2;
  bool b = false;
  const char *text = "keep";
  size_t len = 4;
  qi__gguf_array a;
  assert_int_equal(qi__gguf_u32(g, "t.absent", false, &u, &err), QI_OK);
  assert_int_equal(u, 5);
  assert_int_equal(qi__gguf_str(g, "t.absent", false, &text, &len, &err), QI_OK);
  assert_string_equal(text, "keep");
  assert_int_equal(qi__gguf_u32(g, "t.u32", true, &u, &err), QI_OK);
  assert_true(u == 4294967295u);
  assert_int_equal(qi__gguf_u32(g, "t.seven", true, &u, &err), QI_OK);
  assert_int_equal(u, 7);
  assert_int_equal(qi__gguf_f32(g, "t.f64", true, &f, &err), QI_OK);
  assert_true(f == -0.1f);
  assert_int_equal(qi__gguf_bool(g, "t.bool", true, &b, &err), QI_OK);
  assert_true(b);
  expect_message(qi__gguf_u32(g, "t.absent", true, &u, &err), &err, "key t.absent: missing");
  expect_message(qi__gguf_u32(g, "t.u64", true, &u, &err), &err, "key t.u64: is 18446744073709551615, expected below 2^32");
  expect_message(qi__gguf_u32(g, "t.i8", true, &u, &err), &err, "key t.i8: is -128, expected an unsigned integer");
  expect_message(qi__gguf_u32(g, "t.empty", true, &u, &err), &err, "key t.empty: type string, expected an unsigned integer");
  expect_message(qi__gguf_u32(g, "t.bool", true, &u, &err), &err, "key t.bool: type bool, expected an unsigned integer");
  expect_message(qi__gguf_f32(g, "t.u8", true, &f, &err), &err, "key t.u8: type u8, expected a floating-point number");
  expect_message(qi__gguf_f32(g, "t.huge", true, &f, &err), &err, "key t.huge: is 1e+300, expected a float32");
  expect_message(qi__gguf_bool(g, "t.u8", true, &b, &err), &err, "key t.u8: type u8, expected a bool");
  expect_message(qi__gguf_str(g, "t.ids", true, &text, &len, &err), &err, "key t.ids: type array of i32, expected a string");
  expect_message(qi__gguf_get_array(g, "t.words", QI_META_F32, true, &a, &err), &err,
                 "key t.words: type array of string, expected array of f32");
  expect_message(qi__gguf_get_array(g, "t.u8", QI_META_U8, true, &a, &err), &err, "key t.u8: type u8, expected array of u8");
  gc_close(&o);
  gw_free(&w);
}

// A file of metadata only needs no padding behind it.
static void test_no_tensors(void **state) {
  (void)state;
  for (int empty = 0; empty < 2; empty++) {
    gw_file w;
    gw_begin(&w, 3);
    w.no_data = 1;
    if (!empty) gw_kv_str(&w, "general.architecture", "x");
    gc_open o;
    gc_open_file(&o, &w, SOURCE_MEMORY);
    assert_int_equal(o.result, QI_OK);
    assert_int_equal(o.g.n_tensors, 0);
    assert_int_equal(o.g.n_metas, empty ? 0 : 1);
    assert_null(qi__gguf_find(&o.g, "y"));
    assert_null(qi__gguf_tensor(&o.g, "y"));
    gc_close(&o);
    gw_free(&w);
  }
}

// Places may come in any order, and leave gaps.
static void test_order_of_places(void **state) {
  (void)state;
  gw_file w;
  gw_begin(&w, 3);
  enum { N = 41 };
  for (uint64_t i = 0; i < N; i++) {
    char name[8];
    snprintf(name, sizeof name, "t%u", (unsigned)i);
    gw_tensor_info(&w, name, 0, 1, (uint64_t[]){8}, i * 17 % N * 64);
  }
  gw_bytes(&w.data, NULL, (N - 1) * 64 + 32);
  gc_open o;
  gc_open_file(&o, &w, SOURCE_MEMORY);
  assert_int_equal(o.result, QI_OK);
  for (uint64_t i = 0; i < N; i++) assert_int_equal(o.g.tensors[i].offset, w.data_offset + i * 17 % N * 64);
  gc_close(&o);
  gw_free(&w);
}

// ---- weight types ----

// Opens a file with one tensor of 64 x 2 weights of a type and so many bytes, perhaps another behind it.
static void open_type(gc_open *o, uint32_t type, size_t bytes, bool followed) {
  gw_file w;
  gw_begin(&w, 3);
  gw_tensor(&w, "x", type, 2, (uint64_t[]){64, 2}, NULL, bytes);
  if (followed) gw_tensor(&w, "y", 0, 1, (uint64_t[]){1}, NULL, 4);
  gc_open_file(o, &w, SOURCE_MEMORY);
  gw_free(&w);
}

// Number 39 is MXFP4 (17 bytes for 32 weights) in ggml and TL2 in bitnet.cpp: the room tells.
static void test_contested_type(void **state) {
  (void)state;
  static const struct {
    size_t bytes;
    bool followed;
    qi_format format;
  } cases[] = {{68, true, QI_FORMAT_MXFP4}, {68, false, QI_FORMAT_MXFP4}, {28, true, QI_FORMAT_NONE},
               {28, false, QI_FORMAT_NONE}, {128, true, QI_FORMAT_NONE}};
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    gc_open o;
    open_type(&o, 39, cases[i].bytes, cases[i].followed);
    assert_int_equal(o.result, QI_OK);
    assert_int_equal(o.g.tensors[0].format, cases[i].format);
    assert_int_equal(o.g.tensors[0].gguf_id, 39);
    assert_int_equal(o.g.tensors[0].n_bytes, cases[i].format ? 68 : 0);
    gc_close(&o);
  }
}

static void count_logs(void *user, qi_log_level level, const char *msg) {
  (void)level;
  if (strstr(msg, "unknown here; the first is x (type 999)")) ++*(int *)user;
}

static void test_unknown_type(void **state) {
  (void)state;
  gc_open o;
  open_type(&o, 999, 40, true);
  assert_int_equal(o.result, QI_OK);
  assert_int_equal(o.g.tensors[0].format, QI_FORMAT_NONE);
  assert_int_equal(o.g.tensors[0].gguf_id, 999);
  assert_int_equal(o.g.tensors[0].n_bytes, 0);
  qi_logger log = {count_logs, NULL};
  int n = 0;
  log.user = &n;
  qi_model_desc desc;
  memset(&desc, 0, sizeof desc);
  qi__gguf_log(&o.g, &desc, &log);
  assert_int_equal(n, 1);
  gc_close(&o);
}

static void test_every_format(void **state) {
  (void)state;
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    const qi_format_info *info = &qi__format_get((qi_format)f)->info;
    gw_file w;
    gw_begin(&w, 3);
    uint64_t shape[] = {2 * (uint64_t)info->block_len, 3};
    size_t bytes = 6 * (size_t)info->block_bytes + (size_t)info->tail_bytes;
    gw_tensor(&w, "x", (uint32_t)info->gguf_id, 2, shape, NULL, bytes);
    gc_open o;
    gc_open_file(&o, &w, SOURCE_MEMORY);
    assert_int_equal(o.result, QI_OK);
    assert_int_equal(o.g.tensors[0].format, f);
    assert_int_equal(o.g.tensors[0].n_bytes, bytes);
    gc_close(&o);
    gw_free(&w);
  }
}

// ---- split models ----

typedef struct split_case {
  int no[3], count[3]; // what the parts say
  int n_said;          // split.tensors.count; -1 = absent
  int missing;         // this part is not written; -1 = none
  bool same_name;      // parts 0 and 2 have a tensor of the same name
} split_case;

static const split_case split_good = {{0, 1, 2}, {3, 3, 3}, 6, -1, false};

static void split_path(char path[512], const char *dir, int part) {
  snprintf(path, 512, "%s/m-%05d-of-00003.gguf", dir, part + 1);
}

static void write_split(const char *dir, const split_case *s) {
  for (int part = 0; part < 3; part++) {
    if (part == s->missing) continue;
    gw_file w;
    gw_begin(&w, 3);
    if (!part) gw_kv_str(&w, "general.architecture", "llama");
    gw_kv_u16(&w, "split.no", (uint16_t)s->no[part]);
    gw_kv_u16(&w, "split.count", (uint16_t)s->count[part]);
    if (s->n_said >= 0) gw_kv_i32(&w, "split.tensors.count", s->n_said);
    if (part == 1) gw_align(&w, 64);
    for (int i = 0; i < 2; i++) {
      char name[16];
      snprintf(name, sizeof name, "t%d", s->same_name && part == 2 ? i : 2 * part + i);
      float v[2] = {(float)(2 * part + i), 0};
      gw_tensor(&w, name, 0, 1, (uint64_t[]){2}, v, 8);
    }
    size_t size;
    const uint8_t *bytes = gw_finish(&w, &size);
    char path[512];
    split_path(path, dir, part);
    assert_non_null(bytes);
    assert_true(gw_save(bytes, size, path));
    gw_free(&w);
  }
}

static void remove_split(const char *dir) {
  char path[512];
  for (int part = 0; part < 3; part++) {
    split_path(path, dir, part);
    remove(path);
  }
  remove(dir);
}

// Opens part `first` of the case.
static void open_split(gc_open *o, const split_case *s, int first, bool no_mmap) {
  char dir[256], path[512];
  gc_make_dir(dir);
  write_split(dir, s);
  split_path(path, dir, first);
  qi_model_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.path = path;
  desc.no_mmap = no_mmap;
  gc_open_desc(o, &desc);
  remove_split(dir); // open files stay readable
}

static void test_split(void **state) {
  (void)state;
  for (int no_mmap = 0; no_mmap < 2; no_mmap++) {
    gc_open o;
    open_split(&o, &split_good, 0, no_mmap != 0);
    if (o.result) fail_msg("%s", o.err.msg);
    assert_int_equal(o.g.n_parts, 3);
    assert_int_equal(o.g.n_tensors, 6);
    assert_int_equal(o.g.n_metas, 4); // those of the first part
    for (int i = 0; i < 6; i++) {
      char name[8];
      uint8_t bytes[4];
      qi_error err;
      snprintf(name, sizeof name, "t%d", i);
      const qi__tensor_info *t = qi__gguf_tensor(&o.g, name);
      assert_ptr_equal(t, &o.g.tensors[i]);
      assert_int_equal(t->part, i / 2);
      assert_int_equal(qi__gguf_read_tensor(&o.g, t, 0, bytes, 4, &err), QI_OK);
      assert_true(qi__bits_f32(qi__load_u32(bytes)) == (float)i);
    }
    gc_close(&o);
  }
}

static void refuse_split(const split_case *s, int first, qi_result code, const char *phrase) {
  gc_open o;
  open_split(&o, s, first, false);
  gc_expect(&o, code, phrase);
}

static void test_split_damaged(void **state) {
  (void)state;
  split_case s = split_good;
  s.missing = 1;
  refuse_split(&s, 0, QI_ERR_IO, "part 2 of 3: ");
  refuse_split(&s, 0, QI_ERR_IO, "m-00002-of-00003.gguf: cannot be opened: ");
  s = split_good;
  s.no[2] = 1;
  refuse_split(&s, 0, QI_ERR_FORMAT, "key split.no: 1, expected 2");
  s = split_good;
  s.count[1] = 4;
  refuse_split(&s, 0, QI_ERR_FORMAT, "key split.count: 4, but the first part says 3");
  s = split_good;
  s.n_said = 7;
  refuse_split(&s, 0, QI_ERR_FORMAT, "key split.tensors.count: 7, but the 3 parts have 6 tensors");
  s = split_good;
  s.same_name = true;
  refuse_split(&s, 0, QI_ERR_FORMAT, "tensor t0: occurs twice");
  refuse_split(&split_good, 1, QI_ERR_FORMAT, "open the first part");
  s = split_good;
  s.count[0] = 2;
  refuse_split(&s, 0, QI_ERR_FORMAT, "the name does not end in -00001-of-00002.gguf");
  s.count[0] = 513;
  refuse_split(&s, 0, QI_ERR_LIMIT, "513 parts, at most 512");
  s = split_good;
  s.n_said = -1; // not said: not checked
  gc_open o;
  open_split(&o, &s, 0, false);
  assert_int_equal(o.result, QI_OK);
  gc_close(&o);
}

static void test_split_needs_paths(void **state) {
  (void)state;
  gw_file w;
  gw_begin(&w, 3);
  gw_kv_u16(&w, "split.no", 0);
  gw_kv_u16(&w, "split.count", 2);
  gc_refuse(&w, QI_ERR_UNSUPPORTED, "can only be opened by path");
  gw_begin(&w, 3);
  gw_kv_u16(&w, "split.no", 0);
  gw_kv_u16(&w, "split.count", 1); // one part is a whole model
  gc_open o;
  gc_open_file(&o, &w, SOURCE_MEMORY);
  assert_int_equal(o.result, QI_OK);
  gc_close(&o);
  gw_free(&w);
}

// ---- files ----

static void test_paths(void **state) {
  (void)state;
  char dir[256], path[512];
  qi__file f;
  qi_error err;
  gc_make_dir(dir);
  assert_int_equal(qi__file_open_path(&f, dir, false, &err), QI_ERR_IO);
  assert_non_null(strstr(err.msg, dir));
  assert_non_null(strstr(err.msg, "it is a directory"));
  snprintf(path, sizeof path, "%s/none.gguf", dir);
  assert_int_equal(qi__file_open_path(&f, path, false, &err), QI_ERR_IO);
  assert_non_null(strstr(err.msg, path));
  assert_non_null(strstr(err.msg, strerror(ENOENT)));
  snprintf(path, sizeof path, "%s/empty.gguf", dir);
  assert_true(gw_save("", 0, path));
  assert_int_equal(qi__file_open_path(&f, path, false, &err), QI_ERR_FORMAT);
  assert_non_null(strstr(err.msg, "the file is empty"));
  assert_int_equal(chmod(path, 0), 0);
  if (geteuid()) { // root reads everything
    assert_int_equal(qi__file_open_path(&f, path, false, &err), QI_ERR_IO);
    assert_non_null(strstr(err.msg, strerror(EACCES)));
  }
  remove(path);
  snprintf(path, sizeof path, "%s/fifo.gguf", dir);
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_int_equal(qi__file_open_path(&f, path, false, &err), QI_ERR_IO);
  assert_non_null(strstr(err.msg, "it is no regular file"));
  remove(path);
  remove(dir);
  char deep[1200];
  memset(deep, 'x', sizeof deep - 1);
  deep[sizeof deep - 1] = 0;
  assert_int_equal(qi__file_open_path(&f, deep, false, &err), QI_ERR_IO);
  assert_non_null(strstr(err.msg, "cannot be opened: "));
  qi__file_close(&f); // after a failure: nothing to do
}

static void test_file_ranges(void **state) {
  (void)state;
  const uint8_t bytes[4] = {1, 2, 3, 4};
  for (int source = 0; source < SOURCE_COUNT; source++) {
    gc_bytes b;
    qi__file f;
    qi_error err;
    uint8_t got[4] = {0};
    gc_bytes_begin(&b, bytes, 4, (gc_source)source);
    assert_int_equal(gc_bytes_open(&b, &f, &err), QI_OK);
    assert_int_equal(f.size, 4);
    assert_int_equal(qi__file_read(&f, 1, got, 3, &err), QI_OK);
    assert_memory_equal(got, bytes + 1, 3);
    assert_int_equal(qi__file_read(&f, 4, got, 0, &err), QI_OK);
    assert_int_equal(qi__file_read(&f, 2, got, 3, &err), QI_ERR_IO);
    assert_non_null(strstr(err.msg, "3 bytes at 2 cannot be read: beyond the end"));
    assert_int_equal(qi__file_read(&f, UINT64_MAX, got, 2, &err), QI_ERR_IO);
    qi__file_close(&f);
    gc_bytes_end(&b);
  }
}

// Another process cuts a file that we read (not mapped) from.
static void test_file_shrinks(void **state) {
  (void)state;
  gc_bytes b;
  qi__file f;
  qi_error err;
  uint8_t got[4];
  gc_bytes_begin(&b, "abcd", 4, SOURCE_READ);
  assert_int_equal(gc_bytes_open(&b, &f, &err), QI_OK);
  assert_int_equal(truncate(b.path, 2), 0);
  assert_int_equal(qi__file_read(&f, 0, got, 4, &err), QI_ERR_IO);
  assert_non_null(strstr(err.msg, "became shorter"));
  qi__file_close(&f);
  gc_bytes_end(&b);
}

// ---- memory ----

static void test_measure_is_exact(void **state) {
  (void)state;
  for (int source = 0; source < SOURCE_COUNT; source++) {
    gw_file w;
    write_good(&w, 3, 32);
    gc_open o;
    gc_open_file(&o, &w, (gc_source)source); // compares what was measured with what was asked for
    assert_int_equal(o.result, QI_OK);
    assert_int_equal(o.heap.n_calls, 1);
    gc_close(&o);
    gw_free(&w);
  }
}

static void test_failing_allocator(void **state) {
  (void)state;
  for (int source = 0; source < SOURCE_COUNT; source++) {
    gw_file w;
    size_t size;
    write_good(&w, 3, 32);
    const uint8_t *bytes = gw_finish(&w, &size);
    gc_open o;
    for (size_t n = 1;; n++) {
      gc_open_bytes(&o, bytes, size, (gc_source)source, n);
      if (!o.result) break;
      assert_int_equal(o.result, QI_ERR_OOM);
      assert_int_equal(o.err.code, QI_ERR_OOM);
      assert_non_null(strstr(o.err.msg, "the allocator gave no"));
      gc_close(&o);
      assert_in_range(n, 1, 100);
    }
    assert_int_equal(o.heap.n_calls, 1);
    gc_close(&o);
    gw_free(&w);
  }
}

// ---- the real files ----

static void test_shared_files(void **state) {
  (void)state;
  static const struct {
    const char *path;
    size_t n_tensors;
  } files[] = {{"../shared/models/stories260K.gguf", 48}, {"../shared/vocab/ggml-vocab-llama-spm.gguf", 0},
               {"../shared/vocab/ggml-vocab-gpt-2.gguf", 0}, {"../shared/golden/logits/nano-q4_k.gguf", 21}};
  for (size_t i = 0; i < QI__COUNT_OF(files); i++) {
    FILE *probe = fopen(files[i].path, "rb");
    if (!probe) {
      print_message("%s is not here\n", files[i].path);
      skip();
    }
    fclose(probe);
    gc_open o[2];
    qi_model_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.path = files[i].path;
    for (int k = 0; k < 2; k++) {
      desc.no_mmap = k != 0;
      gc_open_desc(&o[k], &desc);
      if (o[k].result) fail_msg("%s", o[k].err.msg);
      assert_int_equal(o[k].g.n_tensors, files[i].n_tensors);
      gc_touch(&o[k].g);
    }
    for (size_t m = 0; m < o[0].g.n_metas; m++) {
      assert_string_equal(o[0].g.metas[m].key, o[1].g.metas[m].key);
      assert_int_equal(o[0].g.metas[m].count, o[1].g.metas[m].count);
    }
    gc_close(&o[0]);
    gc_close(&o[1]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_versions_alignments_sources), cmocka_unit_test(test_arrays_and_elements),
      cmocka_unit_test(test_getters), cmocka_unit_test(test_no_tensors), cmocka_unit_test(test_order_of_places),
      cmocka_unit_test(test_contested_type), cmocka_unit_test(test_unknown_type), cmocka_unit_test(test_every_format),
      cmocka_unit_test(test_split), cmocka_unit_test(test_split_damaged), cmocka_unit_test(test_split_needs_paths),
      cmocka_unit_test(test_paths), cmocka_unit_test(test_file_ranges), cmocka_unit_test(test_file_shrinks),
      cmocka_unit_test(test_measure_is_exact), cmocka_unit_test(test_failing_allocator), cmocka_unit_test(test_shared_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
