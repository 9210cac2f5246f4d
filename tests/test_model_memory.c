// qi_model_memory: it tells what qi_model_open takes, to the byte, asks the allocator for nothing, and refuses with the words of
// qi_model_open.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <cmocka.h>

#include "support/gguf_cases.h"
#include "support/random_model.h"

// ---- what must hold ----

// Asks, opens and closes; true when the model opens.
static bool check_desc(qi_model_desc desc, const char *what) {
  gc_heap heap;
  memset(&heap, 0, sizeof heap);
  desc.allocator.alloc = gc_heap_alloc;
  desc.allocator.free = gc_heap_free;
  desc.allocator.user = &heap;
  qi_memory memory = {1, 2};
  qi_error told = {QI_OK, ""}, err = {QI_OK, ""};
  qi_result r = qi_model_memory(&desc, &memory, &told);
  assert_int_equal(heap.n_calls, 0);
  qi_model *m = NULL;
  qi_result opened = qi_model_open(&m, &desc, &err);
  if (r) {
    if (opened != r || strcmp(told.msg, err.msg))
      fail_msg("%s: asking says \"%s\", opening %s \"%s\"", what, told.msg, qi_result_name(opened), err.msg);
    assert_true(memory.heap == 1 && memory.mapped == 2);
  }
  if (opened) {
    assert_int_equal(heap.n_live, 0);
    return false;
  }
  if (heap.live_bytes != memory.heap || heap.asked != memory.heap)
    fail_msg("%s: %lu bytes live, %lu asked for, but %lu were told", what, (unsigned long)heap.live_bytes,
             (unsigned long)heap.asked, (unsigned long)memory.heap);
  qi_model_info info;
  qi_model_get_info(m, &info);
  assert_int_equal(info.memory.heap, memory.heap);
  assert_int_equal(info.memory.mapped, memory.mapped);
  qi_model_close(m);
  assert_int_equal(heap.n_live, 0);
  assert_int_equal(heap.live_bytes, 0);
  return true;
}

// A file from every source, at every load level; returns how many opened.
static int check_bytes(const uint8_t *bytes, size_t size, const char *what) {
  int n = 0;
  for (int source = 0; source < SOURCE_COUNT; source++) {
    gc_bytes b;
    qi_model_desc desc;
    gc_bytes_begin(&b, bytes, size, (gc_source)source);
    gc_bytes_desc(&b, &desc);
    for (int load = QI_LOAD_ALL; load <= QI_LOAD_METADATA; load++) {
      desc.load = (qi_load)load;
      n += check_desc(desc, what);
    }
    gc_bytes_end(&b);
  }
  return n;
}

// ---- sound models ----

// Small models of each architecture; with keys and tensors that others lack.
static rm_desc model_desc(int i) {
  rm_desc d = i == 0 ? rm_llama() : i == 1 ? rm_qwen2() : i == 2 ? rm_qwen3() : rm_phi3();
  d.n_layers = 1 + i;
  d.format = i == 0 ? QI_FORMAT_Q4_0 : i == 1 ? QI_FORMAT_F16 : i == 2 ? QI_FORMAT_BF16 : QI_FORMAT_Q8_0;
  d.rope_freqs = i == 0;
  d.ffn_bias = i == 0;
  return d;
}
enum { N_MODELS = 4 };

static void test_models(void **state) {
  (void)state;
  for (int i = 0; i < N_MODELS; i++) {
    size_t size;
    rm_desc d = model_desc(i);
    uint8_t *bytes = rm_build(&d, &size);
    assert_non_null(bytes);
    assert_int_equal(check_bytes(bytes, size, d.arch), SOURCE_COUNT * 3);
    free(bytes);
  }
}

// One of n_parts of a file: the tensors are dealt out, the metadata goes to the first part.
static void begin_part(gw_file *w, const uint8_t *bytes, size_t size, int part, int n_parts) {
  gc_open o;
  gc_open_bytes(&o, bytes, size, SOURCE_MEMORY, 0);
  assert_int_equal(o.result, QI_OK);
  qi__gguf_counts counts;
  assert_int_equal(qi__gguf_scan(&o.g.parts[0].file, &counts, NULL), QI_OK);
  gw_begin(w, 3);
  if (!part) gw_bytes(&w->kv, bytes + QI__GGUF_HEADER_BYTES, (size_t)counts.metas_end - QI__GGUF_HEADER_BYTES);
  if (!part) w->n_kv = counts.n_metas;
  gw_kv_u16(w, "split.no", (uint16_t)part);
  gw_kv_u16(w, "split.count", (uint16_t)n_parts);
  for (size_t i = (size_t)part; i < o.g.n_tensors; i += (size_t)n_parts) {
    const qi__tensor_info *t = &o.g.tensors[i];
    gw_tensor(w, t->name, (uint32_t)t->gguf_id, (uint32_t)t->n_dims, t->shape, qi__gguf_tensor_data(&o.g, t), (size_t)t->n_bytes);
  }
  gc_close(&o);
}

static void write_parts(const char *dir, const uint8_t *bytes, size_t size, int n_parts) {
  for (int part = 0; part < n_parts; part++) {
    gw_file w;
    begin_part(&w, bytes, size, part, n_parts);
    char path[512];
    size_t part_size;
    const uint8_t *part_bytes = gw_finish(&w, &part_size);
    snprintf(path, sizeof path, "%s/m-%05d-of-%05d.gguf", dir, part + 1, n_parts);
    assert_non_null(part_bytes);
    assert_true(gw_save(part_bytes, part_size, path));
    gw_free(&w);
  }
}

static void test_split_models(void **state) {
  (void)state;
  for (int i = 0; i < N_MODELS; i++) {
    enum { N_PARTS = 3 };
    size_t size;
    rm_desc d = model_desc(i);
    uint8_t *bytes = rm_build(&d, &size);
    char dir[256], path[512];
    assert_non_null(bytes);
    gc_make_dir(dir);
    write_parts(dir, bytes, size, N_PARTS);
    snprintf(path, sizeof path, "%s/m-00001-of-%05d.gguf", dir, N_PARTS);
    for (int how = 0; how < 6; how++) {
      qi_model_desc desc;
      memset(&desc, 0, sizeof desc);
      desc.path = path;
      desc.no_mmap = how % 2 != 0;
      desc.load = (qi_load)(how / 2);
      assert_true(check_desc(desc, "split"));
    }
    for (int part = 1; part <= N_PARTS; part++) {
      snprintf(path, sizeof path, "%s/m-%05d-of-%05d.gguf", dir, part, N_PARTS);
      remove(path);
    }
    remove(dir);
    free(bytes);
  }
}

// Number 39 is MXFP4 here, and of another size in a fork; only the neighbours tell. What is told is what is taken, and no more than
// the file can hold, even when such tensors promise more.
static void test_contested_types(void **state) {
  (void)state;
  size_t model_size;
  rm_desc d = model_desc(0);
  uint8_t *model = rm_build(&d, &model_size);
  assert_non_null(model);
  for (int how = 0; how < 3; how++) {
    gw_file w;
    size_t size;
    begin_part(&w, model, model_size, 0, 1);
    for (int i = 0; i < 16; i++) {
      char name[16];
      snprintf(name, sizeof name, "extra.%d", i);
      uint64_t shape[] = {64, how == 2 ? 4096 : 2};
      gw_tensor(&w, name, 39, 2, shape, NULL, how == 0 ? 68 : how == 1 ? 28 : 8200);
    }
    const uint8_t *bytes = gw_finish(&w, &size);
    assert_non_null(bytes);
    assert_int_equal(check_bytes(bytes, size, "contested"), SOURCE_COUNT * 3);
    gc_bytes b;
    qi_model_desc desc;
    qi_memory in_place, copied;
    gc_bytes_begin(&b, bytes, size, SOURCE_READER);
    gc_bytes_desc(&b, &desc);
    assert_int_equal(qi_model_memory(&desc, &copied, NULL), QI_OK);
    memset(&desc, 0, sizeof desc);
    desc.data = bytes;
    desc.data_size = size;
    assert_int_equal(qi_model_memory(&desc, &in_place, NULL), QI_OK);
    assert_in_range(copied.heap - in_place.heap, size - size / 4, 2 * size); // tensors and, behind a reader, metadata
    gc_bytes_end(&b);
    gw_free(&w);
  }
  free(model);
}

static void test_shared_models(void **state) {
  (void)state;
  static const char *const paths[] = {"../shared/models/stories260K.gguf", "../shared/vocab/ggml-vocab-falcon.gguf",
                                      "../shared/golden/logits/nano-tq1_0.gguf", "../shared/golden/logits/nano-f32.gguf"};
  for (size_t i = 0; i < QI__COUNT_OF(paths); i++) {
    FILE *probe = fopen(paths[i], "rb");
    if (!probe) {
      print_message("%s is not here\n", paths[i]);
      skip();
    }
    fclose(probe);
    for (int how = 0; how < 6; how++) {
      qi_model_desc desc;
      memset(&desc, 0, sizeof desc);
      desc.path = paths[i];
      desc.no_mmap = how % 2 != 0;
      desc.load = (qi_load)(how / 2);
      bool opened = check_desc(desc, paths[i]);
      assert_true(opened || (desc.load == QI_LOAD_ALL && strstr(paths[i], "vocab")));
    }
  }
}

// ---- damaged ones ----

// Every number among the model's keys, as a number of another kind, and out of range.
static void test_wrong_keys(void **state) {
  (void)state;
  static const char *const more[] = {"expert_count", "attention.key_length", "attention.value_length", "rope.freq_base",
                                     "rope.scale_linear", "rope.scaling.factor", "rope.scaling.attn_factor",
                                     "rope.scaling.original_context_length", "attention.sliding_window",
                                     "rope.dimension_count"};
  static const char *const have[] = {"block_count", "context_length", "embedding_length", "feed_forward_length",
                                     "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"};
  for (size_t i = 0; i < QI__COUNT_OF(more) + QI__COUNT_OF(have); i++)
    for (int how = 0; how < 4; how++) {
      const char *key = i < QI__COUNT_OF(more) ? more[i] : have[i - QI__COUNT_OF(more)];
      gw_file w;
      char full[128];
      size_t size;
      rm_desc d = rm_llama();
      d.skip_key = key;
      gw_begin(&w, 3);
      rm_write_vocab(&w, &d);
      rm_write_hparams(&w, &d); // the name of the architecture comes last
      rm_key(&d, key, full);
      if (how == 0) gw_kv_str(&w, full, "text");
      if (how == 1) gw_kv_i64(&w, full, -1);
      if (how == 2) gw_kv_f32(&w, full, -1);
      if (how == 3) gw_kv_u64(&w, full, UINT64_MAX);
      const uint8_t *bytes = gw_finish(&w, &size);
      assert_non_null(bytes);
      assert_int_equal(check_bytes(bytes, size, key), SOURCE_COUNT * 2);
      qi_model_desc desc;
      qi_memory memory;
      memset(&desc, 0, sizeof desc);
      desc.data = bytes;
      desc.data_size = size;
      if (qi_model_memory(&desc, &memory, NULL) != QI_ERR_FORMAT) fail_msg("%s, %d: is not looked at", full, how);
      gw_free(&w);
    }
}

static void test_wrong_tokenizers(void **state) {
  (void)state;
  for (int how = 0; how < 6; how++) {
    static const char *const tokens[] = {"a", "b", "<|im_end|>"};
    const int32_t types[] = {1, 1, 3, 1};
    gw_file w;
    size_t size;
    gw_begin(&w, 3);
    char name[100];
    memset(name, 'x', sizeof name);
    if (how != 0) gw_kv_strn(&w, "tokenizer.ggml.model", how == 1 ? name : "llama", how == 1 ? sizeof name : 5);
    if (how == 2) gw_kv_i32s(&w, "tokenizer.ggml.tokens", types, 3);
    else if (how != 3) gw_kv_strs(&w, "tokenizer.ggml.tokens", tokens, NULL, how == 4 ? 0 : 3);
    gw_kv_i32s(&w, "tokenizer.ggml.token_type", types, how == 5 ? 4 : 3);
    const uint8_t *bytes = gw_finish(&w, &size);
    assert_non_null(bytes);
    assert_int_equal(check_bytes(bytes, size, "tokenizer"), SOURCE_COUNT); // metadata only
    gw_free(&w);
  }
}

static void test_truncated_and_flipped(void **state) {
  (void)state;
  size_t size;
  rm_desc d = rm_llama();
  d.n_layers = 1;
  d.n_vocab = 60;
  d.format = QI_FORMAT_Q4_0;
  uint8_t *bytes = rm_build(&d, &size);
  assert_non_null(bytes);
  qi_model_desc desc;
  gc_bytes b;
  for (int reader = 0; reader < 2; reader++) {
    for (size_t n = 0; n < size; n += 97) {
      gc_bytes_begin(&b, bytes, n, reader ? SOURCE_READER : SOURCE_MEMORY);
      gc_bytes_desc(&b, &desc);
      assert_false(check_desc(desc, "truncated"));
      gc_bytes_end(&b);
    }
    uint64_t seed = 7;
    gc_bytes_begin(&b, bytes, size, reader ? SOURCE_READER : SOURCE_MEMORY);
    gc_bytes_desc(&b, &desc);
    for (int i = 0; i < 3000; i++) {
      uint64_t random = rm_next(&seed);
      size_t at = (size_t)(random >> 8) % (i % 2 ? size : 4000);
      b.block[at] ^= (uint8_t)(1u << (random & 7));
      desc.load = (qi_load)(i % 3);
      check_desc(desc, "flipped");
      b.block[at] = bytes[at];
    }
    gc_bytes_end(&b);
  }
  free(bytes);
}

// Every read fails once.
static void test_failing_reads(void **state) {
  (void)state;
  size_t size;
  rm_desc d = rm_llama();
  uint8_t *bytes = rm_build(&d, &size);
  assert_non_null(bytes);
  gc_bytes b;
  qi_model_desc desc;
  gc_bytes_begin(&b, bytes, size, SOURCE_READER);
  gc_bytes_desc(&b, &desc);
  for (size_t n = 1;; n++) {
    qi_memory memory;
    qi_error err = {QI_OK, ""};
    b.n_reads = 0;
    b.fail_at = n;
    qi_result r = qi_model_memory(&desc, &memory, &err);
    if (!r) break;
    assert_int_equal(r, QI_ERR_IO);
    assert_non_null(strstr(err.msg, "the reader's callback failed"));
    assert_in_range(n, 1, 200);
  }
  gc_bytes_end(&b);
  free(bytes);
}

// ---- huge pages ----

#if defined(__linux__)
// Whether the mapping that holds p is marked as one for huge pages; -1 when the system does not tell.
static int wants_huge_pages(const void *p) {
  char line[512];
  bool inside = false;
  int found = -1;
  FILE *f = fopen("/proc/self/smaps", "r");
  while (f && fgets(line, sizeof line, f)) {
    unsigned long begin, end;
    if (sscanf(line, "%lx-%lx ", &begin, &end) == 2) inside = (uintptr_t)p >= begin && (uintptr_t)p < end;
    if (inside && strncmp(line, "VmFlags:", 8) == 0) found = strstr(line, " hg") != NULL;
  }
  if (f) fclose(f);
  return found;
}

static void test_huge_pages(void **state) {
  (void)state;
  char path[] = "/tmp/qinfer_test_XXXXXX";
  uint8_t *p = (uint8_t *)qi__malloc(QI__HUGE_FROM, 64, NULL), *small = (uint8_t *)qi__malloc(QI__HUGE_FROM - 1, 64, NULL);
  assert_true(p && small);
  assert_int_equal((uintptr_t)p % QI__HUGE_PAGE, 0);
  p[0] = p[QI__HUGE_FROM - 1] = small[0] = small[QI__HUGE_FROM - 2] = 1;
  bool told = access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) == 0 && wants_huge_pages(p) >= 0;
  if (told) assert_int_equal(wants_huge_pages(p), 1);
  qi__malloc_free(p, QI__HUGE_FROM, NULL);
  qi__malloc_free(small, QI__HUGE_FROM - 1, NULL);
  int fd = mkstemp(path);
  assert_true(fd >= 0 && ftruncate(fd, 5 << 20) == 0); // a hole
  close(fd);
  qi__file file;
  assert_int_equal(qi__file_open_path(&file, path, false, NULL), QI_OK);
  assert_true(file.mapped);
  uintptr_t whole = ((uintptr_t)file.map + QI__HUGE_PAGE - 1) & ~(uintptr_t)(QI__HUGE_PAGE - 1);
  if (told) assert_int_equal(wants_huge_pages((const void *)whole), 1);
  assert_int_equal(file.map[(5 << 20) - 1], 0);
  qi__file_close(&file);
  unlink(path);
  if (!told) {
    print_message("note: no huge pages here\n");
    skip();
  }
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_models),           cmocka_unit_test(test_split_models),     cmocka_unit_test(test_contested_types),
      cmocka_unit_test(test_shared_models),    cmocka_unit_test(test_wrong_keys),       cmocka_unit_test(test_wrong_tokenizers),
      cmocka_unit_test(test_truncated_and_flipped), cmocka_unit_test(test_failing_reads),
#if defined(__linux__)
      cmocka_unit_test(test_huge_pages),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
