// Weights made ready to be multiplied (qi_weight, the cache of a model): the bits of results stay, for all formats, paths,
// instruction sets, budgets and shapes; what is told is what is taken; opening shows progress, can be stopped and fails without a
// trace.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <cmocka.h>

#include "support/gguf_cases.h"
#include "support/run_model.h"
#include "support/sparse.h"

static const qi_path paths[] = {QI_PATH_AUTO, QI_PATH_INTEGER, QI_PATH_BF16, QI_PATH_FLOAT};
enum { N_PATHS = 4 };

// Pools of one thread of all instruction sets that this machine has, the best one last.
static qi_pool *pools[QI_ISA_COUNT];
static int n_pools;

static int set_up(void **state) {
  (void)state;
  for (int isa = QI_ISA_SCALAR; isa < QI_ISA_COUNT; isa++) {
    qi_pool_desc pd;
    memset(&pd, 0, sizeof pd);
    pd.n_threads = 1;
    pd.isa = (qi_isa)isa;
    qi_pool *pool = NULL;
    if (qi_pool_open(&pool, &pd, NULL)) continue;
    if (qi_pool_isa(pool) == (qi_isa)isa) pools[n_pools++] = pool;
    else qi_pool_close(pool);
  }
  return n_pools ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  while (n_pools) qi_pool_close(pools[--n_pools]);
  return 0;
}

// ---- products ----

// Any bytes are a block, but a scale that is no number shows little.
static void random_blocks(qi_format f, uint8_t *b, size_t n_blocks, uint64_t *seed) {
  size_t size = (size_t)qi_format_get(f)->block_bytes;
  for (; n_blocks; n_blocks--, b += size) {
    for (size_t i = 0; i < size; i++) b[i] = (uint8_t)(rm_next(seed) >> 32);
    if (f == QI_FORMAT_IQ1_M) b[55] &= 0xbf;
    else if (f == QI_FORMAT_MXFP4) b[0] = (uint8_t)(110 + b[0] % 16);
    else b[1] &= 0xbf;
  }
}

static void *random_matrix(qi_format f, size_t n_rows, size_t n_cols, uint64_t *seed) {
  size_t n = n_rows * n_cols;
  uint8_t *data = (uint8_t *)malloc(qi_format_bytes(f, n));
  float *values = (float *)malloc(n * sizeof *values);
  assert_true(data && values);
  for (size_t i = 0; i < n; i++) values[i] = rm_uniform(seed);
  qi_error err = {QI_OK, ""};
  if (qi_format_get(f)->can_quantize) RUN_OK(qi_quantize(f, values, data, n, n_cols, NULL, &err), err);
  else random_blocks(f, data, n / (size_t)qi_format_get(f)->block_len, seed);
  free(values);
  return data;
}

enum { MAX_N = 20, MAX_COLS = 2560, MAX_ROWS = 70 };
static float x[MAX_N * MAX_COLS], want[MAX_N * MAX_ROWS], got[MAX_N * MAX_ROWS];

// Made ready with one instruction set, multiplied with another, for several numbers of rows.
static void check_product(const qi_matrix *m, qi_path made_for, qi_path path, qi_pool *maker, qi_pool *user) {
  static const size_t counts[] = {1, 3, 11};
  qi_error err = {QI_OK, ""};
  qi_weight *w = NULL;
  char what[128];
  snprintf(what, sizeof what, "%s [%d, %d] for path %d on %s", qi_format_get(m->format)->name, (int)m->n_rows, (int)m->n_cols,
           (int)made_for, qi_isa_name(qi_pool_isa(maker)));
  RUN_OK(qi_weight_open(&w, maker, made_for, m, NULL, &err), err);
  for (size_t i = 0; i < QI__COUNT_OF(counts); i++) {
    size_t n = counts[i], n_y = n * (size_t)m->n_rows;
    memset(got, 7, sizeof got);
    RUN_OK(qi_matmul(user, path, m, x, n, want, &err), err);
    RUN_OK(qi_weight_matmul(user, path, w, x, n, got, &err), err);
    for (size_t k = 0; k < n_y; k++)
      if (memcmp(&got[k], &want[k], sizeof *got) && !(qi__is_nan(got[k]) && qi__is_nan(want[k])))
        fail_msg("%s, path %d on %s, %d rows: y[%d] is %.9g, expected %.9g", what, (int)path, qi_isa_name(qi_pool_isa(user)),
                 (int)n, (int)k, (double)got[k], (double)want[k]);
  }
  qi_weight_close(w);
}

static void check_format(qi_format f, size_t n_rows, size_t n_cols, uint64_t *seed) {
  void *data = random_matrix(f, n_rows, n_cols, seed);
  qi_matrix m = {f, data, (int64_t)n_rows, (int64_t)n_cols};
  for (int p = 0; p < N_PATHS; p++)
    for (int i = 0; i < n_pools; i++) {
      check_product(&m, paths[p], paths[p], pools[i], pools[i]);
      if (i + 1 == n_pools) check_product(&m, paths[p], paths[(p + 1) % N_PATHS], pools[i], pools[i]);
      else check_product(&m, paths[p], paths[p], pools[i], pools[n_pools - 1]);
      if (i + 2 == n_pools) check_product(&m, paths[p], paths[p], pools[n_pools - 1], pools[i]);
    }
  free(data);
}

static void test_products(void **state) {
  (void)state;
  uint64_t seed = 1;
  for (size_t i = 0; i < QI__COUNT_OF(x); i++) x[i] = rm_uniform(&seed);
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    size_t block = (size_t)qi_format_get((qi_format)f)->block_len;
    check_format((qi_format)f, 1, block, &seed);
    check_format((qi_format)f, 33, block == 1 ? 45 : block == 32 ? 288 + 32 * (size_t)(f % 7) : 512, &seed);
  }
  check_format(QI_FORMAT_Q4_K, 70, 2560, &seed); // two slices of bfloat16
  check_format(QI_FORMAT_Q5_0, 64, 2144, &seed);
}

// Stored panels for numbers of rows at which one row at a time would be taken, and for more than stay as nibbles.
static void check_stored(const qi__kernels *k, qi_format f, size_t n_w, size_t cols, const qi__q8 *in, const char *isa,
                         uint64_t *seed) {
  static const size_t counts[] = {1, 2, 3, 4, 7, 20, 27};
  size_t chunk = k->stored_q8.chunk_bytes(&qi__formats[f]);
  void *data = random_matrix(f, 32, cols, seed);
  uint8_t *tile = NULL, *scratch = NULL;
  qi__bound bound;
  assert_int_equal(qi__format_bind(&bound, f, (uint8_t *)data + 32 * qi__row_bytes(f, cols), "test", NULL), QI_OK);
  assert_int_equal(posix_memalign((void **)&tile, QI__CACHE_LINE, (cols + 255) / 256 * chunk), 0);
  assert_int_equal(posix_memalign((void **)&scratch, QI__CACHE_LINE, qi__q8_scratch(32) * sizeof(float)), 0);
  qi__dot_q8_args a = {&bound.format, (const uint8_t *)data,    qi__row_bytes(f, cols), n_w, in, 0, 0, NULL, 32,
                       (float *)(void *)scratch, QI__FETCH_LINES};
  k->stored_q8.store(&a, cols, tile);
  for (size_t i = 0; i < QI__COUNT_OF(counts); i++) {
    a.n_x = counts[i];
    a.y = want;
    a.w = (const uint8_t *)data;
    a.w_stride = qi__row_bytes(f, cols);
    memset(want, 7, sizeof want);
    memset(got, 7, sizeof got);
    qi__dot_q8_ref(&a);
    a.y = got;
    a.w = tile;
    a.w_stride = chunk;
    k->stored_q8.dot(&a);
    if (memcmp(got, want, sizeof got))
      fail_msg("%s on %s, %d x %d by %d rows: not the bits of the reference", qi_format_get(f)->name, isa, (int)n_w, (int)cols,
               (int)counts[i]);
  }
  free(data);
  free(tile);
  free(scratch);
}

static void test_stored_kernels(void **state) {
  (void)state;
  uint64_t seed = 9;
  static int8_t q[27 * 1536];
  static float d[27 * 48];
  static int16_t sum[27 * 96];
  for (int i = 0; i < n_pools; i++) {
    qi__kernels k;
    qi__kernels_init(&k, &pools[i]->cpu);
    for (int f = 1; f < QI_FORMAT_COUNT && k.stored_q8.dot; f++) {
      if (!k.stored_q8.chunk_bytes(&qi__formats[f])) continue;
      bool small = qi__formats[f].info.block_len == 32;
      size_t cols = small ? 1120 : 1536; // more than a slice
      qi__q8 in = {q, d, sum, small ? 32 : 256, cols, cols};
      for (size_t r = 0; r < 27; r++) qi__quantize_q8_ref(x + r * 64, &in, r);
      check_stored(&k, (qi_format)f, 32, cols, &in, qi_isa_name(qi_pool_isa(pools[i])), &seed);
      check_stored(&k, (qi_format)f, 9, cols, &in, qi_isa_name(qi_pool_isa(pools[i])), &seed);
    }
  }
}

// The form is what is multiplied: with zeros in it, results are zero.
static void test_form_is_used(void **state) {
  (void)state;
  uint64_t seed = 3;
  qi_error err = {QI_OK, ""};
  void *data = random_matrix(QI_FORMAT_Q4_K, 40, 256, &seed);
  qi_matrix m = {QI_FORMAT_Q4_K, data, 40, 256};
  qi_pool *pool = pools[n_pools - 1];
  qi__kernels kernels;
  qi__kernels_init(&kernels, &pool->cpu);
  for (int p = 1; p < N_PATHS; p++) {
    qi_weight *w = NULL;
    uint64_t bytes = 0;
    RUN_OK(qi_weight_open(&w, pool, paths[p], &m, NULL, &err), err);
    RUN_OK(qi_weight_memory(pool, paths[p], &m, &bytes, &err), err);
    qi__arithmetic a = qi__arithmetic_of(&kernels, &w->w, paths[p], false);
    const qi__form *form = &w->forms.of[a];
    assert_int_equal(form->n_tiles > 0, a != QI__INTEGER || kernels.stored_q8.dot != NULL);
    assert_true(bytes >= sizeof *w + form->n_tiles * form->tile_bytes);
    memset((uint8_t *)(uintptr_t)form->data, 0, form->n_tiles * form->tile_bytes);
    RUN_OK(qi_weight_matmul(pool, paths[p], w, x, 8, got, &err), err);
    for (size_t i = 0; i < 8 * 40 && form->n_tiles; i++) assert_true(got[i] == 0);
    qi_weight_close(w);
  }
  free(data);
}

static void test_weight_memory(void **state) {
  (void)state;
  uint64_t seed = 4;
  void *data = random_matrix(QI_FORMAT_Q4_K, 40, 256, &seed);
  qi_matrix m = {QI_FORMAT_Q4_K, data, 40, 256};
  for (int p = 0; p < N_PATHS; p++) {
    gc_heap heap;
    qi_allocator allocator = {gc_heap_alloc, gc_heap_free, &heap};
    qi_error err = {QI_OK, ""};
    qi_weight *w = NULL;
    uint64_t bytes = 0;
    memset(&heap, 0, sizeof heap);
    RUN_OK(qi_weight_memory(NULL, paths[p], &m, &bytes, &err), err);
    RUN_OK(qi_weight_open(&w, NULL, paths[p], &m, &allocator, &err), err);
    assert_int_equal(heap.asked, bytes);
    qi_weight_close(w);
    assert_int_equal(heap.n_live, 0);
    memset(&heap, 0, sizeof heap);
    heap.fail_at = 1;
    run_expect(qi_weight_open(&w, NULL, paths[p], &m, &allocator, &err), QI_ERR_OOM, &err, "failing allocator");
    assert_null(w);
  }
  free(data);
}

static void test_weight_arguments(void **state) {
  (void)state;
  uint64_t seed = 5, bytes;
  void *data = random_matrix(QI_FORMAT_Q8_0, 2, 64, &seed);
  qi_weight *w = NULL;
  qi_error err = {QI_OK, ""};
  static const qi_matrix bad[] = {{QI_FORMAT_NONE, "", 2, 64}, {QI_FORMAT_Q8_0, NULL, 2, 64}, {QI_FORMAT_Q8_0, "", 2, 63},
                                  {QI_FORMAT_Q8_0, "", 0, 64}, {QI_FORMAT_Q8_0, "", 2, 0},    {QI_FORMAT_Q8_0, "", -1, 64},
                                  {QI_FORMAT_Q8_0, "", 2, -64}, {QI_FORMAT_Q8_0, "", INT64_MAX, 64}};
  for (size_t i = 0; i < QI__COUNT_OF(bad); i++) {
    run_expect(qi_weight_open(&w, NULL, QI_PATH_AUTO, &bad[i], NULL, &err), QI_ERR_ARGUMENT, &err, "open");
    run_expect(qi_weight_memory(NULL, QI_PATH_AUTO, &bad[i], &bytes, &err), QI_ERR_ARGUMENT, &err, "memory");
    assert_null(w);
  }
  qi_matrix m = {QI_FORMAT_Q8_0, data, 2, 64};
  qi_matrix huge = {QI_FORMAT_Q8_0, data, INT64_MAX / 4096, 64};
  run_expect(qi_weight_memory(NULL, QI_PATH_FLOAT, &huge, &bytes, &err), QI_OK, &err, "huge");
  run_expect(qi_weight_open(&w, NULL, (qi_path)9, &m, NULL, &err), QI_ERR_ARGUMENT, &err, "path");
  run_expect(qi_weight_open(NULL, NULL, QI_PATH_AUTO, &m, NULL, &err), QI_ERR_ARGUMENT, &err, "out");
  run_expect(qi_weight_open(&w, NULL, QI_PATH_AUTO, NULL, NULL, &err), QI_ERR_ARGUMENT, &err, "matrix");
  run_expect(qi_weight_memory(NULL, QI_PATH_AUTO, &m, NULL, &err), QI_ERR_ARGUMENT, &err, "bytes");
  RUN_OK(qi_weight_open(&w, NULL, QI_PATH_AUTO, &m, NULL, &err), err);
  run_expect(qi_weight_matmul(NULL, QI_PATH_AUTO, NULL, x, 1, got, &err), QI_ERR_ARGUMENT, &err, "weight");
  run_expect(qi_weight_matmul(NULL, (qi_path)-1, w, x, 1, got, &err), QI_ERR_ARGUMENT, &err, "path");
  run_expect(qi_weight_matmul(NULL, QI_PATH_AUTO, w, NULL, 1, got, &err), QI_ERR_ARGUMENT, &err, "x");
  run_expect(qi_weight_matmul(NULL, QI_PATH_AUTO, w, x, 1, NULL, &err), QI_ERR_ARGUMENT, &err, "y");
  run_expect(qi_weight_matmul(NULL, QI_PATH_AUTO, w, x, SIZE_MAX / 8, got, &err), QI_ERR_ARGUMENT, &err, "n");
  RUN_OK(qi_weight_matmul(NULL, QI_PATH_AUTO, w, NULL, 0, NULL, &err), err);
  qi_weight_close(w);
  qi_weight_close(NULL);
  free(data);
}

// ---- models ----

// Counts calls; stops at one of them.
typedef struct watcher {
  int n_calls, stop_at;
  float last;
  bool wrong; // went back, or beyond 1
} watcher;

static bool watch(void *user, float done) {
  watcher *w = (watcher *)user;
  if (done < w->last || done > 1) w->wrong = true;
  w->last = done;
  return ++w->n_calls != w->stop_at;
}

typedef struct cached_model {
  run_model r;
  qi_model_desc md;
  gc_heap heap;
  watcher watcher;
} cached_model;

// A model in memory and a desc to open it with a cache.
static void cached_build(cached_model *c, const rm_desc *d) {
  memset(c, 0, sizeof *c);
  c->r = run_build(d);
  c->md.data = c->r.file;
  c->md.data_size = c->r.size;
  c->md.allocator.alloc = gc_heap_alloc;
  c->md.allocator.free = gc_heap_free;
  c->md.allocator.user = &c->heap;
  c->md.progress.fn = watch;
  c->md.progress.user = &c->watcher;
}

static qi_result cached_open(cached_model *c, qi_model **m, qi_error *err) {
  memset(&c->watcher, 0, sizeof c->watcher - sizeof c->watcher.wrong);
  memset(&c->heap, 0, sizeof c->heap);
  qi_result r = qi_model_open(m, &c->md, err);
  assert_false(c->watcher.wrong);
  return r;
}

enum { N_TOKENS = 20 };

// Prompt and generated logits of a model with a cache against those of the same model without.
static void check_model(cached_model *c, const qi_session_desc *sd, const char *what) {
  qi_token ids[N_TOKENS];
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  size_t n_vocab = (size_t)run_n_vocab(c->r.m);
  run_random_tokens(11, (int)n_vocab, ids, N_TOKENS);
  RUN_OK(cached_open(c, &m, &err), err);
  for (int generated = 0; generated < 2; generated++) {
    float *plain = run_logits(c->r.m, sd, ids, N_TOKENS, generated != 0);
    float *cached = run_logits(m, sd, ids, N_TOKENS, generated != 0);
    run_expect_bits(cached, plain, N_TOKENS * n_vocab, what, generated ? "generated" : "prompt");
    free(plain);
    free(cached);
  }
  qi_model_close(m);
  assert_int_equal(c->heap.n_live, 0);
}

static qi_session_desc session_desc(qi_path path, qi_pool *pool) {
  qi_session_desc sd = run_session_desc(N_TOKENS, path);
  sd.pool = pool;
  return sd;
}

// Formats of several families, fused and biased matrices, a tied embedding; budgets from nothing to all.
static void test_models(void **state) {
  (void)state;
  for (int k = 0; k < 6; k++) {
    static const qi_format formats[] = {QI_FORMAT_Q4_K, QI_FORMAT_Q8_0, QI_FORMAT_F16,
                                        QI_FORMAT_BF16, QI_FORMAT_TQ2_0, QI_FORMAT_Q6_K};
    rm_desc d = k == 1 ? rm_phi3() : k == 3 ? rm_qwen2() : rm_llama_256(formats[k]);
    d.format = formats[k];
    d.tied = k == 5;
    d.n_layers = 1;
    cached_model c;
    cached_build(&c, &d);
    for (int p = 0; p < N_PATHS; p++)
      for (int b = 0; b < 5; b++) {
        static const uint64_t budgets[] = {1, 5000, 70000, 400000, UINT64_MAX};
        char what[96];
        c.md.cache_bytes = budgets[b];
        c.md.cache_path = paths[p];
        c.md.cache_pool = b % 2 ? pools[n_pools - 1] : NULL;
        snprintf(what, sizeof what, "%s, path %d, budget %d", qi_format_get(formats[k])->name, (int)paths[p], b);
        qi_session_desc sd = session_desc(paths[p], pools[n_pools - 1]);
        check_model(&c, &sd, what);
      }
    run_free(&c.r);
  }
}

// Made for one instruction set, used with others.
static void test_other_isa(void **state) {
  (void)state;
  rm_desc d = rm_llama_256(QI_FORMAT_Q4_K);
  d.output_format = QI_FORMAT_Q6_K;
  cached_model c;
  cached_build(&c, &d);
  c.md.cache_bytes = UINT64_MAX;
  for (int p = 0; p < N_PATHS; p++)
    for (int maker = 0; maker < n_pools; maker++)
      for (int user = 0; user < n_pools; user++) {
        int apart = abs(maker - user);
        if (apart != 1 && apart != n_pools - 1) continue; // neighbours, and the first and the last
        if (SPARSE && (maker + user / 2) % N_PATHS != p) continue;
        char what[96];
        c.md.cache_path = paths[p];
        c.md.cache_pool = pools[maker];
        snprintf(what, sizeof what, "path %d, made on %s, used on %s", (int)paths[p], qi_isa_name(qi_pool_isa(pools[maker])),
                 qi_isa_name(qi_pool_isa(pools[user])));
        qi_session_desc sd = session_desc(paths[p], pools[user]);
        check_model(&c, &sd, what);
      }
  run_free(&c.r);
}

// What is told is taken, within the budget, and filled.
static void test_model_memory(void **state) {
  (void)state;
  rm_desc d = rm_llama_256(QI_FORMAT_Q4_K);
  cached_model c;
  cached_build(&c, &d);
  qi_memory none;
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_model_memory(&c.md, &none, &err), err);
  for (int p = 0; p < N_PATHS; p++)
    for (uint64_t budget = 1; budget; budget = budget > UINT64_MAX / 64 ? 0 : budget * 64) {
      qi_memory memory;
      qi_model *m = NULL;
      qi_model_info info;
      c.md.cache_bytes = budget;
      c.md.cache_path = paths[p];
      memset(&c.heap, 0, sizeof c.heap);
      RUN_OK(qi_model_memory(&c.md, &memory, &err), err);
      assert_int_equal(c.heap.n_live, 0);
      RUN_OK(cached_open(&c, &m, &err), err);
      assert_int_equal(c.heap.asked, memory.heap);
      assert_int_equal(c.heap.live_bytes, memory.heap);
      qi_model_get_info(m, &info);
      uint64_t held = info.cache.integer.bytes + info.cache.bf16.bytes + info.cache.f32.bytes;
      assert_int_equal(info.memory.heap, memory.heap);
      assert_true(info.cache.bytes <= budget && held <= info.cache.bytes);
      assert_in_range(memory.heap - none.heap, info.cache.bytes, info.cache.bytes + 256); // and what aligns it
      assert_true(info.cache.seconds >= 0);
      qi_model_close(m);
    }
  run_free(&c.r);
}

// A model so small that a block for all of it has no room to measure in: then all matrices are in.
static rm_desc tiny_model(void) {
  rm_desc d = rm_llama();
  d.n_embd = d.n_ff = 32;
  d.n_vocab = 40;
  d.format = QI_FORMAT_Q8_0;
  return d;
}

// Each path has its kind.
static void test_info(void **state) {
  (void)state;
  rm_desc d = tiny_model();
  cached_model c;
  cached_build(&c, &d);
  c.md.cache_bytes = UINT64_MAX;
  for (int p = 1; p < N_PATHS; p++)
    for (int i = 0; i < n_pools; i++) {
      qi_model *m = NULL;
      qi_model_info info;
      qi_error err = {QI_OK, ""};
      qi__kernels kernels;
      c.md.cache_path = paths[p];
      c.md.cache_pool = pools[i];
      RUN_OK(cached_open(&c, &m, &err), err);
      qi_model_get_info(m, &info);
      qi__kernels_init(&kernels, &pools[i]->cpu);
      const qi_cache_kind *kinds[] = {&info.cache.integer, &info.cache.bf16, &info.cache.f32};
      for (int k = 0; k < 3; k++) {
        int n = k != p - 1 || (k == 0 && !kernels.stored_q8.dot) ? 0 : 1 + 7 * d.n_layers;
        if (kinds[k]->n_matrices != n) fail_msg("path %d: kind %d has %d matrices, expected %d", p, k, kinds[k]->n_matrices, n);
        assert_int_equal(kinds[k]->bytes != 0, n != 0);
      }
      qi_model_close(m);
    }
  run_free(&c.r);
}

// A model that is large enough to be measured.
static void test_measured(void **state) {
  (void)state;
  rm_desc d = rm_llama_256(QI_FORMAT_Q4_K);
  d.output_format = QI_FORMAT_Q6_K;
  d.n_vocab = 4000;
  d.n_layers = 1;
  cached_model c;
  cached_build(&c, &d);
  for (int p = 0; p < N_PATHS; p++) {
    qi_session_desc sd = session_desc(paths[p], NULL);
    c.md.cache_bytes = UINT64_MAX;
    c.md.cache_path = paths[p];
    check_model(&c, &sd, "measured");
  }
  run_free(&c.r);
}

static void test_load_levels(void **state) {
  (void)state;
  rm_desc d = rm_llama_256(QI_FORMAT_Q4_K);
  cached_model c;
  cached_build(&c, &d);
  c.md.cache_bytes = UINT64_MAX;
  for (int load = QI_LOAD_VOCAB; load <= QI_LOAD_METADATA; load++) {
    qi_memory with, without;
    qi_error err = {QI_OK, ""};
    qi_model *m = NULL;
    qi_model_info info;
    c.md.load = (qi_load)load;
    c.md.cache_bytes = 0;
    RUN_OK(qi_model_memory(&c.md, &without, &err), err);
    c.md.cache_bytes = UINT64_MAX;
    RUN_OK(qi_model_memory(&c.md, &with, &err), err);
    assert_int_equal(with.heap, without.heap);
    RUN_OK(cached_open(&c, &m, &err), err);
    assert_int_equal(c.heap.asked, with.heap);
    qi_model_get_info(m, &info);
    assert_int_equal(info.cache.bytes, 0);
    qi_model_close(m);
  }
  c.md.load = QI_LOAD_ALL;
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_model_validate(&c.md, &err), err);
  c.md.cache_path = (qi_path)7;
  qi_model *m = NULL;
  run_expect(qi_model_open(&m, &c.md, &err), QI_ERR_ARGUMENT, &err, "cache_path");
  run_free(&c.r);
}

// Every allocation fails once, every call of the progress callback stops once.
static void test_failures(void **state) {
  (void)state;
  rm_desc d = tiny_model();
  cached_model c;
  cached_build(&c, &d);
  c.md.cache_bytes = UINT64_MAX;
  c.md.cache_path = QI_PATH_FLOAT;
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  RUN_OK(cached_open(&c, &m, &err), err);
  size_t n_allocs = c.heap.n_calls;
  int n_calls = c.watcher.n_calls;
  assert_int_equal(n_calls, 1 + 7 * d.n_layers); // mapped: only the cache shows
  qi_model_close(m);
  for (size_t i = 1; i <= n_allocs; i++) {
    memset(&c.heap, 0, sizeof c.heap);
    memset(&c.watcher, 0, sizeof c.watcher);
    c.heap.fail_at = i;
    run_expect(qi_model_open(&m, &c.md, &err), QI_ERR_OOM, &err, "failing allocator");
    assert_int_equal(c.heap.n_live, 0);
    assert_null(m);
  }
  for (int i = 1; i <= n_calls; i++) {
    memset(&c.heap, 0, sizeof c.heap);
    memset(&c.watcher, 0, sizeof c.watcher);
    c.watcher.stop_at = i;
    run_expect(qi_model_open(&m, &c.md, &err), QI_ERR_CANCELLED, &err, "stopped");
    assert_int_equal(c.heap.n_live, 0);
    assert_null(m);
  }
  run_free(&c.r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_products),     cmocka_unit_test(test_stored_kernels),
      cmocka_unit_test(test_form_is_used), cmocka_unit_test(test_weight_memory),
      cmocka_unit_test(test_weight_arguments), cmocka_unit_test(test_models),   cmocka_unit_test(test_other_isa),
      cmocka_unit_test(test_model_memory), cmocka_unit_test(test_info),         cmocka_unit_test(test_measured),
      cmocka_unit_test(test_load_levels),  cmocka_unit_test(test_failures),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
