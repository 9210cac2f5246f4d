// qinfer_metal.m on the fake runtime: every kernel against the backend in plain C, whole models as on the CPU and against float64,
// failures of every call, devices that will not do. With the argument "quick": fewer models, for builds with sanitizers.
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/backend_cases.h"
#include "../support/plain_backend.h"
#include "fake/fake.h"

static bool quick;

static int reset(void **state) {
  (void)state;
  fake_reset();
  return 0;
}
static int expect_no_leaks(void **state) {
  (void)state;
  return fake_leaks(true) != 0;
}

// ---- kernels ----

#define MEMORY (4 << 20)

// One operation in memory of its own: what is taken from it is the same on both sides.
typedef struct scene {
  char *base;
  size_t used;
  uint64_t seed;
  qi_op op;
  float *out; // [n_out] what the operation writes
  size_t n_out;
  char *pages; // keys and values that it writes; NULL = none
  size_t n_pages;
} scene;

static void *take(scene *s, size_t size) {
  void *p = s->base + s->used;
  s->used += (size + 63) / 64 * 64;
  assert_true(s->used <= MEMORY);
  return p;
}

static float *take_floats(scene *s, size_t n) {
  float *x = (float *)take(s, n * sizeof *x);
  for (size_t i = 0; i < n; i++) x[i] = rm_uniform(&s->seed);
  return x;
}

static float *take_out(scene *s, size_t n) {
  s->n_out = n;
  return s->out = take_floats(s, n);
}

static qi_op_matrix take_matrix(scene *s, qi_format format, size_t n_rows, size_t n_cols, bool bias) {
  size_t n = n_rows * n_cols;
  float *values = (float *)malloc(n * sizeof *values);
  qi_error err = {QI_OK, ""};
  qi_op_matrix w;
  qi__bound bound;
  memset(&w, 0, sizeof w);
  assert_non_null(values);
  for (size_t i = 0; i < n; i++) values[i] = rm_uniform(&s->seed);
  size_t bytes = qi_format_bytes(format, n), tail = (size_t)qi_format_get(format)->tail_bytes;
  void *data = take(s, bytes);
  RUN_OK(qi_quantize(format, values, data, n, n_cols, NULL, &err), err);
  RUN_OK(qi__format_bind(&bound, format, (uint8_t *)data + bytes - tail, "matrix", &err), err);
  free(values);
  w.format = format;
  w.data = data;
  w.n_rows = n_rows;
  w.n_cols = n_cols;
  w.row_bytes = qi__row_bytes(format, n_cols);
  w.param[0] = bound.format.param[0];
  w.param[1] = bound.format.param[1];
  w.bias = bias ? take_floats(s, n_rows) : NULL;
  return w;
}

// Runs what `build` makes, on Metal or in plain C; the memory (malloc).
static char *run_scene(const qi_backend *backend, void (*build)(scene *s, const void *arg), const void *arg, scene *s) {
  qi_allocator allocator;
  qi_error err = {QI_OK, ""};
  void *device = NULL, *queue = NULL;
  memset(s, 0, sizeof *s);
  s->seed = 5;
  RUN_OK(qi__allocator_resolve(NULL, &allocator, &err), err);
  RUN_OK(backend->open(backend->user, &allocator, &device, &err), err);
  RUN_OK(backend->queue_open(device, &queue, &err), err);
  s->base = (char *)backend->alloc(queue, MEMORY);
  assert_non_null(s->base);
  memset(s->base, 0, MEMORY);
  build(s, arg);
  assert_true(backend->supports(device, &s->op));
  RUN_OK(backend->submit(queue, &s->op, 1, &err), err);
  RUN_OK(backend->wait(queue, &err), err);
  char *copy = (char *)malloc(MEMORY), *base = s->base;
  assert_non_null(copy);
  memcpy(copy, base, MEMORY);
  s->out = (float *)(void *)(copy + ((char *)s->out - base));
  if (s->pages) s->pages = copy + (s->pages - base);
  s->base = copy;
  backend->free(queue, base, MEMORY);
  backend->queue_close(queue);
  backend->close(device);
  return copy;
}

// What Metal writes is what plain C writes, within `bound` of the greatest; nothing else changes. The same bits in three orders of
// threads.
static void expect_scene(void (*build)(scene *s, const void *arg), const void *arg, double bound, const char *what) {
  static const int orders[] = {0, 1, 7};
  pb_world world = {0};
  qi_backend plain = pb_backend(&world);
  scene want, got, again;
  run_scene(&plain, build, arg, &want);
  run_scene(qi_metal(), build, arg, &got);
  double max = 1;
  for (size_t i = 0; i < want.n_out; i++) max = fmax(max, fabs((double)want.out[i]));
  for (size_t i = 0; i < want.n_out; i++)
    if (!(fabs((double)got.out[i] - (double)want.out[i]) <= bound * max))
      fail_msg("%s: element %d is %.9g, expected %.9g", what, (int)i, (double)got.out[i], (double)want.out[i]);
  for (size_t o = 1; o < 3; o++) {
    fake.order = orders[o];
    run_scene(qi_metal(), build, arg, &again);
    fake.order = 0;
    if (memcmp(again.base, got.base, MEMORY)) fail_msg("%s: other bits in another order of threads", what);
    free(again.base);
  }
  memcpy(got.out, want.out, want.n_out * sizeof *want.out);
  if (want.pages) memcpy(got.pages, want.pages, want.n_pages);
  for (size_t i = 0; i < MEMORY; i++)
    if (got.base[i] != want.base[i]) fail_msg("%s: byte %d was changed", what, (int)i);
  free(want.base);
  free(got.base);
  if (world.wrong) fail_msg("%s: %s", what, world.why);
}

static const qi_format formats[] = {
    QI_FORMAT_F32,  QI_FORMAT_F16,   QI_FORMAT_BF16, QI_FORMAT_Q4_0,  QI_FORMAT_Q8_0,    QI_FORMAT_Q4_K,    QI_FORMAT_Q5_K,
    QI_FORMAT_Q6_K, QI_FORMAT_TQ2_0, QI_FORMAT_I2_S, QI_FORMAT_QINS8, QI_FORMAT_QINS8_K, QI_FORMAT_QINS4_K,
};
#define N_FORMATS (sizeof formats / sizeof formats[0])

typedef struct product_case {
  qi_format format;
  size_t n_rows, n_cols, n;
  bool generated, add, bias;
} product_case;

static void build_product(scene *s, const void *arg) {
  const product_case *c = (const product_case *)arg;
  s->op.kind = QI_OP_PRODUCT;
  s->op.n = c->n;
  s->op.of.product.w = take_matrix(s, c->format, c->n_rows, c->n_cols, c->bias);
  s->op.of.product.x = take_floats(s, c->n * c->n_cols);
  s->op.of.product.y = take_out(s, c->n * c->n_rows);
  s->op.of.product.add = c->add;
  s->op.of.product.generated = c->generated;
}

// Rows and columns around the sizes of tiles; columns that are no multiple of 16 where the format has no blocks.
static void test_products(void **state) {
  (void)state;
  static const product_case shapes[] = {
      {QI_FORMAT_NONE, 37, 512, 1, true, false, false},  {QI_FORMAT_NONE, 8, 768, 6, true, true, true},
      {QI_FORMAT_NONE, 65, 256, 33, false, true, false}, {QI_FORMAT_NONE, 130, 256, 2, false, false, true},
      {QI_FORMAT_NONE, 1, 172, 3, true, false, true},    {QI_FORMAT_NONE, 66, 20, 5, false, false, false},
  };
  for (size_t f = 0; f < N_FORMATS; f++)
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
      product_case c = shapes[i];
      char what[96];
      c.format = formats[f];
      const qi_format_info *info = qi_format_get(c.format);
      if (c.n_cols % (size_t)info->block_len) continue;
      if (quick && f > 5 && i % 2) continue;
      snprintf(what, sizeof what, "product %d of %s", (int)i, info->name);
      expect_scene(build_product, &c, 1e-5, what);
    }
}

static void take_rows(scene *s, size_t n, qi_op_row **out) {
  qi_op_row *rows = (qi_op_row *)take(s, n * sizeof *rows);
  for (size_t i = 0; i < n; i++) rows[i].token = (int32_t)(rm_next(&s->seed) % 20);
  *out = rows;
}

static void build_embed(scene *s, const void *arg) {
  qi_op_row *rows;
  qi_format format = *(const qi_format *)arg;
  take_rows(s, 3, &rows);
  s->op.kind = QI_OP_EMBED;
  s->op.n = 3;
  s->op.of.embed.w = take_matrix(s, format, 20, format <= QI_FORMAT_BF16 ? 1036 : 1280, false);
  s->op.of.embed.rows = rows;
  s->op.of.embed.y = take_out(s, 3 * s->op.of.embed.w.n_cols);
}

static void test_embed(void **state) {
  (void)state;
  for (size_t f = 0; f < N_FORMATS; f++) expect_scene(build_embed, &formats[f], 1e-6, qi_format_get(formats[f])->name);
}

typedef struct norm_case {
  size_t width;
  bool index, in_place;
} norm_case;

static void build_norm(scene *s, const void *arg) {
  const norm_case *c = (const norm_case *)arg;
  uint32_t *index = (uint32_t *)take(s, 3 * sizeof *index);
  for (uint32_t i = 0; i < 3; i++) index[i] = 2 * i + 1;
  float *x = c->in_place ? take_out(s, 7 * c->width) : take_floats(s, 7 * c->width);
  s->op.kind = QI_OP_RMS_NORM;
  s->op.n = c->index ? 3 : 7;
  s->op.of.norm.x = x;
  s->op.of.norm.index = c->index ? index : NULL;
  s->op.of.norm.weight = take_floats(s, c->width);
  s->op.of.norm.y = c->in_place ? x : take_out(s, s->op.n * c->width);
  s->op.of.norm.width = c->width;
  s->op.of.norm.eps = 1e-5f;
}

static void test_norms(void **state) {
  (void)state;
  static const norm_case cases[] = {{4, false, false}, {1000, true, false}, {64, false, true}, {257, false, false}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) expect_scene(build_norm, &cases[i], 1e-5, "norm");
}

static void build_gate(scene *s, const void *arg) {
  s->op.kind = *(const qi_op_kind *)arg;
  s->op.n = 3;
  s->op.of.gate.width = 333;
  s->op.of.gate.x = take_floats(s, 999);
  for (size_t i = 0; i < 999; i++) ((float *)(uintptr_t)s->op.of.gate.x)[i] *= i % 50 ? 8.0f : 200.0f;
  s->op.of.gate.up = take_floats(s, 999);
  s->op.of.gate.y = take_out(s, 999);
}

static void test_gates(void **state) {
  (void)state;
  static const qi_op_kind kinds[] = {QI_OP_SWIGLU, QI_OP_RELU2};
  for (size_t i = 0; i < 2; i++) expect_scene(build_gate, &kinds[i], 1e-6, i ? "ReLU2" : "SwiGLU");
}

typedef struct kv_case {
  qi_kv_type type;
  size_t dim_k, dim_v, n_heads, n_kv_heads, n_pairs;
  bool neighbours, q_norm, k_norm;
  size_t window;
} kv_case;

static const kv_case kv_cases[] = {
    {QI_KV_F16, 16, 16, 2, 2, 8, true, false, false, 0},     {QI_KV_F16, 80, 48, 4, 2, 20, false, true, true, 100},
    {QI_KV_F16, 128, 128, 6, 1, 64, false, true, false, 0},  {QI_KV_F16, 256, 256, 2, 1, 64, true, false, true, 0},
    {QI_KV_Q8, 16, 20, 2, 1, 8, true, false, false, 0},      {QI_KV_Q8, 80, 96, 4, 4, 40, false, true, true, 33},
    {QI_KV_Q8, 128, 200, 4, 2, 64, false, false, false, 0},
};
#define N_KV_CASES (quick ? (size_t)4 : sizeof kv_cases / sizeof kv_cases[0])

// Two layers, two sequences of three pages each in mixed order, of which the second layer is looked at. `out`: pages are written.
static qi_op_kv take_kv(scene *s, const kv_case *c, bool out) {
  qi__kv_layout l = qi__kv_layout_of(c->type, c->dim_k, c->dim_v);
  static const uint32_t order[6] = {4, 0, 5, 1, 6, 2};
  uint32_t *table = (uint32_t *)take(s, sizeof order);
  memcpy(table, order, sizeof order);
  size_t size = 2 * c->n_kv_heads * 7 * l.bytes;
  char *data = (char *)take(s, size);
  if (out) s->pages = data, s->n_pages = size;
  qi_op_kv kv = {c->type, data, table, 1, c->n_kv_heads, 7, l.bytes, 3, c->dim_k, c->dim_v, l.k_scale, l.v, l.v_scale};
  return kv;
}

static const qi_op_row kv_rows[] = {{0, 0, 300, 0}, {0, 1, 7, 0}, {0, 0, 127, 0}, {0, 1, 256, 0}, {0, 0, 0, 0}};
#define N_KV_ROWS (sizeof kv_rows / sizeof kv_rows[0])

static void build_rope(scene *s, const void *arg) {
  const kv_case *c = (const kv_case *)arg;
  qi_op_row *rows;
  take_rows(s, N_KV_ROWS, &rows);
  memcpy(rows, kv_rows, sizeof kv_rows);
  size_t n_q = N_KV_ROWS * c->n_heads * c->dim_k, n_k = N_KV_ROWS * c->n_kv_heads * c->dim_k;
  s->op.kind = QI_OP_ROPE;
  s->op.n = N_KV_ROWS;
  s->op.of.rope.rows = rows;
  s->op.of.rope.cos_sin = take_floats(s, N_KV_ROWS * 2 * c->n_pairs);
  s->op.of.rope.q_norm = c->q_norm ? take_floats(s, c->dim_k) : NULL;
  s->op.of.rope.k_norm = c->k_norm ? take_floats(s, c->dim_k) : NULL;
  s->op.of.rope.v = take_floats(s, N_KV_ROWS * c->n_kv_heads * c->dim_v);
  s->op.of.rope.q = take_out(s, n_q);
  s->op.of.rope.k = take_floats(s, n_k);
  s->n_out = (size_t)(s->op.of.rope.k + n_k - s->op.of.rope.q); // and what lies between
  s->op.of.rope.kv = take_kv(s, c, true);
  s->op.of.rope.n_heads = c->n_heads;
  s->op.of.rope.n_pairs = c->n_pairs;
  s->op.of.rope.eps = 1e-6f;
  s->op.of.rope.neighbours = c->neighbours;
}

// An element of the stored keys (or values) of either run.
static float stored(const scene *s, const kv_case *c, bool key, size_t row, size_t head, size_t i) {
  qi_op_kv kv = s->op.of.rope.kv;
  static const uint32_t order[6] = {4, 0, 5, 1, 6, 2};
  uint32_t page = order[kv_rows[row].seq * 3 + kv_rows[row].pos / 128];
  const uint8_t *p = (const uint8_t *)s->pages + ((kv.layer * c->n_kv_heads + head) * 7 + page) * kv.page_bytes;
  return key ? pb_key(&kv, p, kv_rows[row].pos % 128, i) : pb_value(&kv, p, kv_rows[row].pos % 128, i);
}

// What is stored may be rounded to the other side: one step of the type.
static void expect_stored(const kv_case *c) {
  pb_world world = {0};
  qi_backend plain = pb_backend(&world);
  scene want, got;
  run_scene(&plain, build_rope, c, &want);
  run_scene(qi_metal(), build_rope, c, &got);
  for (size_t row = 0; row < N_KV_ROWS; row++)
    for (size_t head = 0; head < c->n_kv_heads; head++)
      for (size_t key = 0; key < 2; key++)
        for (size_t i = 0; i < (key ? c->dim_k : c->dim_v); i++) {
          double a = (double)stored(&want, c, key, row, head, i), b = (double)stored(&got, c, key, row, head, i);
          double step = c->type == QI_KV_Q8 ? 2.0 / 100 : fabs(a) / 1000 + 1e-6;
          if (!(fabs(a - b) <= step)) fail_msg("stored element %d is %.6g, expected %.6g", (int)i, b, a);
        }
  free(want.base);
  free(got.base);
}

static void test_rope(void **state) {
  (void)state;
  for (size_t i = 0; i < N_KV_CASES; i++) {
    expect_scene(build_rope, &kv_cases[i], 1e-5, "rope");
    expect_stored(&kv_cases[i]);
  }
}

static void build_attention(scene *s, const void *arg) {
  const kv_case *c = (const kv_case *)arg;
  qi_op_row *rows;
  take_rows(s, N_KV_ROWS, &rows);
  memcpy(rows, kv_rows, sizeof kv_rows);
  qi_op_kv kv = take_kv(s, c, false);
  float k[256], v[256];
  for (size_t page = 0; page < 7; page++)
    for (size_t p = 0; p < 128; p++)
      for (size_t head = 0; head < c->n_kv_heads; head++) {
        for (size_t i = 0; i < c->dim_k; i++) k[i] = rm_uniform(&s->seed);
        for (size_t i = 0; i < c->dim_v; i++) v[i] = rm_uniform(&s->seed);
        pb_store(&kv, (uint8_t *)kv.data + ((c->n_kv_heads + head) * 7 + page) * kv.page_bytes, p, k, v);
      }
  for (size_t i = 0; i < N_KV_ROWS; i++)
    rows[i].first = (uint32_t)(c->window && rows[i].pos >= c->window ? rows[i].pos + 1 - c->window : 0);
  s->op.kind = QI_OP_ATTENTION;
  s->op.n = N_KV_ROWS;
  s->op.of.attention.rows = rows;
  s->op.of.attention.q = take_floats(s, N_KV_ROWS * c->n_heads * c->dim_k);
  for (size_t i = 0; i < N_KV_ROWS * c->n_heads * c->dim_k; i++) ((float *)(uintptr_t)s->op.of.attention.q)[i] *= 4;
  s->op.of.attention.kv = kv;
  s->op.of.attention.n_heads = c->n_heads;
  s->op.of.attention.y = take_out(s, N_KV_ROWS * c->n_heads * c->dim_v);
}

static void test_attention(void **state) {
  (void)state;
  for (size_t i = 0; i < N_KV_CASES; i++) expect_scene(build_attention, &kv_cases[i], 1e-5, "attention");
}

// ---- models ----

static void test_models(void **state) {
  (void)state;
  for (size_t i = 0; i < BC_N_MODELS; i++)
    if (!quick || i % 5 == 1) bc_expect_model(&bc_models[i], QI_KV_F16, qi_metal(), 1e-6);
}

static void test_kv_q8(void **state) {
  (void)state;
  bc_expect_model(&bc_models[0], QI_KV_Q8, qi_metal(), 1e-4); // the CPU rounds queries and weights, too
  if (!quick) bc_expect_model(&bc_models[9], QI_KV_Q8, qi_metal(), 1e-4);
}

// Shaders compiled with fast math, should a system do that whatever it is told.
static void test_fast_math(void **state) {
  (void)state;
  fake.fast_math = true;
  bc_expect_model(&bc_models[1], QI_KV_F16, qi_metal(), 1e-5);
}

static void test_reference(void **state) {
  (void)state;
  if (quick) skip();
  for (size_t i = 0; i < BC_N_MODELS; i++) {
    rm_desc d = bc_desc(&bc_models[i]);
    bc_pair p = bc_open(&d, qi_metal());
    qi_session_desc sd = bc_session_desc(QI_KV_F16);
    r64_model r;
    r64_options o;
    qi_token ids[BC_PROMPT];
    memset(&o, 0, sizeof o);
    o.n_ctx = (size_t)sd.n_ctx;
    assert_true(r64_open(&r, p.cpu.m));
    run_random_tokens(11, run_n_vocab(p.device), ids, BC_PROMPT);
    double *want = run_reference(&r, &o, ids, BC_PROMPT);
    for (int generated = 0; generated < 2; generated++) {
      float *got = run_logits(p.device, &sd, ids, BC_PROMPT, generated);
      r64_diff diff = r64_compare(got, want, BC_PROMPT, r.n_vocab);
      run_expect_close(diff, 1e-4, 0.1, bc_models[i].name, "float64");
      free(got);
    }
    free(want);
    r64_close(&r);
    bc_close(&p);
  }
}

static void test_sessions(void **state) {
  (void)state;
  bc_expect_slices(qi_metal());
  if (quick) return;
  bc_expect_sequences(qi_metal());
  bc_expect_batch(qi_metal());
}

// Text of the story model, greedy.
static void tell(const qi_backend *backend, char *out, size_t cap) {
  qi_model_desc md;
  qi_session_desc sd;
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  qi_session *s = NULL;
  qi_piece piece;
  memset(&md, 0, sizeof md);
  memset(&sd, 0, sizeof sd);
  md.path = "../shared/models/stories260K.gguf";
  md.backend = backend;
  sd.n_predict = 60;
  sd.path = QI_PATH_FLOAT;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  RUN_OK(qi_session_open(&s, m, &sd, &err), err);
  RUN_OK(qi_prompt(s, "Once upon a time", &err), err);
  out[0] = 0;
  while (qi_next(s, &piece, &err) == QI_OK)
    snprintf(out + strlen(out), cap - strlen(out), "%.*s", (int)piece.len, piece.text);
  qi_session_close(s);
  qi_model_close(m);
}

static void test_story(void **state) {
  (void)state;
  static char want[4096], got[4096];
  FILE *f = fopen("../shared/models/stories260K.gguf", "rb");
  if (quick || !f) skip();
  fclose(f);
  tell(NULL, want, sizeof want);
  tell(qi_metal(), got, sizeof got);
  assert_true(strlen(want) > 100);
  assert_string_equal(got, want);
}

// ---- devices and failures ----

static void expect_open(qi_result want, const char *message) {
  rm_desc d = rm_llama();
  run_model file = run_build(&d);
  qi_error err = {QI_OK, ""};
  run_expect(bc_use(&file, qi_metal(), &err), want, &err, message);
  if (want && !strstr(err.msg, message)) fail_msg("'%s', expected '%s'", err.msg, message);
  run_free(&file);
}

static void test_devices(void **state) {
  (void)state;
  fake.no_device = true;
  expect_open(QI_ERR_UNSUPPORTED, "metal: there is no Metal device");
  fake_reset();
  fake.family = 6;
  expect_open(QI_ERR_UNSUPPORTED, "metal: the GPU is older than family Apple 7 (M1)");
  fake_reset();
  fake.working_set = 32768;
  expect_open(QI_ERR_OOM, "metal: the weights are more than the GPU can hold");
  fake_reset();
  fake.max_threads = 96;
  expect_open(QI_ERR_UNSUPPORTED, "backend metal: no products of");
  fake.max_threads = 224;
  expect_open(QI_OK, "");
  fake_reset();
  fake.max_buffer = 28 * 16384; // less than all weights: two buffers
  expect_open(QI_OK, "");
}

static void test_failures(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  d.n_layers = 1;
  run_model file = run_build(&d);
  qi_error err = {QI_OK, ""};
  RUN_OK(bc_use(&file, qi_metal(), &err), err);
  int n_calls = fake.n_calls;
  assert_true(n_calls > 20);
  for (int i = 1; i <= n_calls; i += quick ? 5 : 1) {
    fake_reset();
    fake.fail_at = i;
    err.msg[0] = 0;
    qi_result r = bc_use(&file, qi_metal(), &err);
    if (r >= 0 || !err.msg[0]) fail_msg("call %d of %d failed, and the result was %s", i, n_calls, qi_result_name(r));
    if (fake_leaks(true)) fail_msg("call %d of %d failed, and something was left", i, n_calls);
  }
  run_free(&file);
}

static void *use_in_thread(void *arg) {
  qi_token ids[BC_PROMPT + BC_NEXT];
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  return bc_run((const qi_model *)arg, &sd, 16, 7, ids);
}

// Sessions of two threads on one model.
static void test_threads(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, qi_metal());
  pthread_t thread;
  void *there = NULL;
  assert_int_equal(pthread_create(&thread, NULL, use_in_thread, p.device), 0);
  float *here = (float *)use_in_thread(p.device);
  assert_int_equal(pthread_join(thread, &there), 0);
  run_expect_bits((const float *)there, here, (BC_PROMPT + BC_NEXT) * (size_t)run_n_vocab(p.device), "another thread", "this one");
  free(here);
  free(there);
  bc_close(&p);
}

int main(int argc, char **argv) {
  quick = argc > 1 && !strcmp(argv[1], "quick");
#define METAL_TEST(f) cmocka_unit_test_setup_teardown(f, reset, expect_no_leaks)
  const struct CMUnitTest tests[] = {
      METAL_TEST(test_products), METAL_TEST(test_embed),     METAL_TEST(test_norms),    METAL_TEST(test_gates),
      METAL_TEST(test_rope),     METAL_TEST(test_attention), METAL_TEST(test_models),   METAL_TEST(test_kv_q8),
      METAL_TEST(test_fast_math), METAL_TEST(test_reference), METAL_TEST(test_sessions), METAL_TEST(test_story),
      METAL_TEST(test_devices),  METAL_TEST(test_failures),  METAL_TEST(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
