// The tables of the origin documents, theirs beside ours. The numbers under "origin" are theirs, measured on their machines
// (ternary: 16-core desktop, torch; TinyLlama and Llama-2: Apple Silicon with Metal, Rust; 128 x 128 product and 14B: Go; QINS: M4,
// torch).
#ifndef BENCH_TABLES_H
#define BENCH_TABLES_H

#include "products.h"
#include "runs.h"

typedef struct table_context {
  report *out;
  common_settings c;
  qi_pool *pool;
  const char *name; // of the table
} table_context;

typedef enum better { LOWER, HIGHER } better;

// "times better": above 1, ours is the better one. origin 0 = the documents have no such number.
static void table_row(const table_context *t, const char *what, const char *unit, better b, double origin, spread ours) {
  row r;
  memset(&r, 0, sizeof r);
  if (t->c.quick) origin = 0; // other sizes than theirs
  if (t->out->form != REPORT_MD) row_text(&r, "table", 10, t->name);
  row_text(&r, "what", 57, what);
  row_text(&r, "unit", 8, unit);
  row_value(&r, "origin", 9, origin > 0 ? origin : (double)NAN);
  row_value(&r, "ours", 9, ours.median);
  row_value(&r, "min", 9, ours.min);
  row_value(&r, "max", 9, ours.max);
  row_number(&r, "times better", 12, 2, origin <= 0 ? (double)NAN : b == LOWER ? origin / ours.median : ours.median / origin);
  report_row(t->out, &r);
}

static spread one_value(double v) { return (spread){v, v, v}; }

static spread spread_times(spread s, double factor) { return (spread){s.median * factor, s.min * factor, s.max * factor}; }

// Milliseconds of a contender, after `prefix`.
static void table_time(const table_context *t, const char *prefix, const contender *c, double origin) {
  char what[128];
  snprintf(what, sizeof what, "%s%s", prefix, c->name);
  table_row(t, what, "ms", LOWER, origin, spread_times(samples_spread(&c->seconds), 1e3));
}

// ---- operands of a ternary product ----

// A ternary matrix, the same made ready as float32 and as bfloat16, and activations.
typedef struct ternary_set {
  qi_matrix w;
  qi_weight *f32, *bf16;
  float *x, *y, *unpacked;
  int size, n;
} ternary_set;

static void ternary_close(ternary_set *s) {
  qi_weight_close(s->f32);
  qi_weight_close(s->bf16);
  matrix_free(&s->w);
  free(s->x);
  free(s->y);
  free(s->unpacked);
  memset(s, 0, sizeof *s);
}

// For up to n rows of activations. False after a message.
static bool ternary_open(ternary_set *s, int size, int n, qi_pool *pool) {
  memset(s, 0, sizeof *s);
  s->size = size;
  s->n = n;
  size_t cells = (size_t)size * (size_t)size, inputs = (size_t)n * (size_t)size;
  bool good = memory_fits("product", cells * 11 + inputs * 8) && random_matrix(&s->w, QI_FORMAT_TQ2_0, size, size, pool) &&
              !qi_weight_open(&s->f32, pool, QI_PATH_FLOAT, &s->w, NULL, NULL) &&
              !qi_weight_open(&s->bf16, pool, QI_PATH_BF16, &s->w, NULL, NULL) &&
              (s->x = random_floats(inputs)) != NULL && (s->y = random_floats(inputs)) != NULL &&
              (s->unpacked = random_floats(cells)) != NULL;
  if (!good) ternary_close(s);
  return good || complain("no memory for a product of %d x %d", size, size);
}

// The naive way: all weights to float32 by one thread, then the product, each time.
typedef struct naive_product {
  const qi_matrix *w;
  float *unpacked;
  own_product product; // over `unpacked`
} naive_product;

static void naive_product_run(void *arg) {
  naive_product *p = (naive_product *)arg;
  qi_dequantize(p->w->format, p->w->data, p->unpacked, (size_t)p->w->n_rows * (size_t)p->w->n_cols, NULL);
  own_product_run(&p->product);
}

// ---- stages ----

// 4096 x 4096 ternary weights by 1 and 64 rows, from dequantising each time to the fused integer product.
static bool table_stages(const table_context *t) {
  static const struct {
    const char *name;
    double origin[2];
  } stages[] = {
      {"dequantise all, then multiply, each time", {53.46, 55.21}}, {"dequantise by tiles each time (float)", {27.71, 29.70}},
      {"cached as F32 (float)", {1.89, 3.59}},                      {"cached as BF16 (bf16)", {0.225, 1.05}},
      {"unpacked to BF16 each time (bf16)", {0.235, 1.03}},         {"integer, straight from blocks (integer)", {0.235, 1.03}},
  };
  enum { N = sizeof stages / sizeof stages[0] };
  ternary_set s;
  int size = t->c.quick ? 256 : 4096;
  if (!ternary_open(&s, size, 64, t->pool)) return false;
  for (int k = 0; k < 2; k++) {
    int n = k ? 64 : 1;
    contender c[N] = {{.turns = 0}};
    qi_matrix all = {QI_FORMAT_F32, s.unpacked, size, size};
    naive_product naive = {&s.w, s.unpacked, {t->pool, QI_PATH_FLOAT, &all, NULL, s.x, n, s.y, QI_OK}};
    own_product p[N] = {{.pool = NULL}};
    const qi_weight *ready[N] = {NULL, NULL, s.f32, s.bf16, NULL, NULL};
    const qi_path path[N] = {QI_PATH_FLOAT, QI_PATH_FLOAT, QI_PATH_FLOAT, QI_PATH_BF16, QI_PATH_BF16, QI_PATH_INTEGER};
    for (int i = 0; i < N; i++) {
      p[i] = (own_product){t->pool, path[i], &s.w, ready[i], s.x, n, s.y, QI_OK};
      c[i] = (contender){.name = stages[i].name, .run = i ? own_product_run : naive_product_run, .arg = i ? (void *)&p[i] : &naive};
    }
    contenders_run(c, N, t->c.reps, "stages");
    for (int i = 0; i < N; i++) table_time(t, k ? "64 rows: " : "1 row: ", &c[i], stages[i].origin[k]);
  }
  double cells = (double)size * size;
  double packed = (double)qi_format_bytes(QI_FORMAT_TQ2_0, (size_t)cells);
  table_row(t, "bytes of weights", "MB", LOWER, 4.194304, one_value(packed * 1e-6));
  table_row(t, "bytes of weights as F32", "MB", LOWER, 67.108864, one_value(cells * 4e-6));
  ternary_close(&s);
  return true;
}

// ---- threads ----

// The product of their last stage (cached BF16), and our integer one, by number of threads.
static bool table_threads_row(const table_context *t, const ternary_set *s, int threads, double origin[2]) {
  qi_pool_desc pd = {.n_threads = threads, .isa = t->c.isa};
  qi_pool *pool = NULL;
  qi_error err = {QI_OK, ""};
  if (qi_pool_open(&pool, &pd, &err)) return complain("%s", err.msg);
  for (int k = 0; k < 2; k++) {
    char prefix[64];
    own_product p[2] = {{pool, QI_PATH_BF16, &s->w, s->bf16, s->x, k ? 64 : 1, s->y, QI_OK},
                        {pool, QI_PATH_INTEGER, &s->w, NULL, s->x, k ? 64 : 1, s->y, QI_OK}};
    contender c[2] = {{.name = "cached as BF16", .run = own_product_run, .arg = &p[0]},
                      {.name = "integer", .run = own_product_run, .arg = &p[1]}};
    snprintf(prefix, sizeof prefix, "%d thread%s, %s: ", threads, threads > 1 ? "s" : "", k ? "64 rows" : "1 row");
    contenders_run(c, 2, t->c.reps, "threads");
    for (int i = 0; i < 2; i++) table_time(t, prefix, &c[i], origin[k]);
  }
  qi_pool_close(pool);
  return true;
}

static bool table_threads(const table_context *t) {
  double origin[][3] = {{1, 1.33, 7.63}, {2, 0.78, 3.92}, {4, 0.42, 2.01}, {8, 0.23, 1.06}, {16, 0.20, 1.06}};
  ternary_set s;
  int cores = qi__cpu_count(), last = 0;
  if (!ternary_open(&s, t->c.quick ? 256 : 4096, 64, t->pool)) return false;
  bool good = true;
  for (int i = 0; i < 5 && good && (int)origin[i][0] <= cores; i++)
    good = table_threads_row(t, &s, last = (int)origin[i][0], &origin[i][1]);
  double none[2] = {0, 0};
  if (good && cores != last && cores <= QI__THREADS_MAX) good = table_threads_row(t, &s, cores, none);
  ternary_close(&s);
  return good;
}

// ---- dequantisation ----

typedef struct unpack_job {
  qi_pool *pool; // NULL = one thread, the public function
  qi__kernels kernels;
  const qi_matrix *w;
  float *dst;
} unpack_job;

static void unpack_rows(void *arg, int worker, int64_t begin, int64_t end) {
  const unpack_job *j = (const unpack_job *)arg;
  qi_format f = j->w->format;
  size_t cols = (size_t)j->w->n_cols, first = (size_t)begin, n = (size_t)(end - begin);
  (void)worker;
  const uint8_t *src = (const uint8_t *)j->w->data + first * qi_format_bytes(f, cols);
  j->kernels.dequantize[f](qi__format_get(f), src, j->dst + first * cols, n * cols);
}

static void unpack_run(void *arg) {
  unpack_job *j = (unpack_job *)arg;
  if (j->pool) qi__pool_run(j->pool, unpack_rows, j, j->w->n_rows, 16);
  else qi_dequantize(j->w->format, j->w->data, j->dst, (size_t)j->w->n_rows * (size_t)j->w->n_cols, NULL);
}

static bool table_dequant(const table_context *t) {
  const double origin[3][3] = {{1024, 0.05, 0.37}, {4096, 8.80, 24.26}, {8192, 33.52, 95.17}};
  const qi_format formats[] = {QI_FORMAT_TQ2_0, QI_FORMAT_TQ1_0};
  for (int i = 0; i < (t->c.quick ? 1 : 3); i++)
    for (int f = 0; f < 2; f++) {
      int size = (int)origin[i][0];
      size_t cells = (size_t)size * (size_t)size;
      qi_matrix w;
      char prefix[64];
      if (!memory_fits("dequantisation", cells * 5) || !random_matrix(&w, formats[f], size, size, t->pool)) return false;
      unpack_job all = {.pool = t->pool, .w = &w, .dst = random_floats(cells)}, one = {.w = &w, .dst = all.dst};
      qi__kernels_init(&all.kernels, &t->pool->cpu);
      contender c[2] = {{.name = "all threads (theirs: Numba)", .run = unpack_run, .arg = &all},
                        {.name = "one thread (theirs: LUT)", .run = unpack_run, .arg = &one}};
      snprintf(prefix, sizeof prefix, "%d x %d %s: ", size, size, qi_format_get(formats[f])->name);
      if (all.dst) contenders_run(c, 2, t->c.reps, "dequant");
      for (int k = 0; k < 2 && all.dst; k++) table_time(t, prefix, &c[k], origin[i][1 + k]);
      free(all.dst);
      matrix_free(&w);
      if (!all.dst) return false;
    }
  return true;
}

// ---- cold and warm cache ----

// Ten passes of one layer. The document does not tell its size: ours is 1024 x 1024, one row.
static bool table_cache(const table_context *t) {
  ternary_set s;
  if (!ternary_open(&s, t->c.quick ? 256 : 1024, 1, t->pool)) return false;
  qi_matrix all = {QI_FORMAT_F32, s.unpacked, s.size, s.size};
  naive_product naive = {&s.w, s.unpacked, {t->pool, QI_PATH_FLOAT, &all, NULL, s.x, 1, s.y, QI_OK}};
  own_product p[3] = {{t->pool, QI_PATH_FLOAT, &s.w, s.f32, s.x, 1, s.y, QI_OK},
                      {t->pool, QI_PATH_BF16, &s.w, s.bf16, s.x, 1, s.y, QI_OK},
                      {t->pool, QI_PATH_INTEGER, &s.w, NULL, s.x, 1, s.y, QI_OK}};
  contender c[4] = {{.name = "10 passes, cold: dequantised in each", .run = naive_product_run, .arg = &naive},
                    {.name = "10 passes, warm: cached as F32", .run = own_product_run, .arg = &p[0]},
                    {.name = "10 passes, warm: cached as BF16", .run = own_product_run, .arg = &p[1]},
                    {.name = "10 passes, integer, no cache", .run = own_product_run, .arg = &p[2]}};
  const double origin[4] = {673.4, 0.3, 0.3, 0.3};
  contenders_run(c, 4, t->c.reps, "cache");
  for (int i = 0; i < 4; i++) {
    for (int k = 0; k < c[i].seconds.n; k++) c[i].seconds.v[k] *= 10;
    table_time(t, "", &c[i], origin[i]);
  }
  double cold = samples_spread(&c[0].seconds).median;
  table_row(t, "cold / warm as F32 (theirs: 2060)", "times", LOWER, 0, one_value(cold / samples_spread(&c[1].seconds).median));
  table_row(t, "cold / integer without cache", "times", LOWER, 0, one_value(cold / samples_spread(&c[3].seconds).median));
  ternary_close(&s);
  return true;
}

// ---- with and without cached keys and values ----

static bool table_model(bench_model *m, const char *spec) {
  const shape *s;
  file_type type;
  return synth_spec_parse(spec, &s, &type) && model_open_synth(m, s, &type);
}

enum { KV_PROMPT = 8 };

// Seconds for n tokens after a prompt of KV_PROMPT; without cache the whole text is computed for each of them. Negative after a
// message.
static double kv_seconds(runner *r, int n, bool cached) {
  qi_error err = {QI_OK, ""};
  double start = seconds_now();
  qi_session_reset(r->session);
  qi_result result = cached ? runner_prompt(r, KV_PROMPT, 0, true, &err) : QI_OK;
  for (int i = 0; i < n && !result; i++) {
    if (cached) {
      result = runner_generate(r, 1, &err);
    } else {
      qi_session_reset(r->session);
      result = runner_prompt(r, KV_PROMPT + i, 0, true, &err);
    }
  }
  if (!result) return seconds_now() - start;
  complain("%s", err.msg);
  return -1;
}

static bool table_kv(const table_context *t) {
  const double origin[3][3] = {{10, 0.60, 0.2}, {50, 0.53, 0.2}, {100, 0.91, 0.2}};
  bench_model m;
  runner r;
  if (!table_model(&m, t->c.quick ? "tiny:Q4_K_M" : "tinyllama:Q4_K_M")) return false;
  run_test size = {.n_prompt = KV_PROMPT + 100, .n_gen = 1, .n_seqs = 1};
  bool good = runner_open(&r, &m, &size, t->pool);
  for (int i = 0; i < 3 && good; i++) {
    int n = (int)origin[i][0];
    for (int cached = 1; cached >= 0 && good; cached--) {
      samples speed = {.n = 0};
      char what[160];
      // Recomputing takes long, and its time says little more when it is taken often.
      for (int k = 0; k < (cached || t->c.reps < 2 ? t->c.reps : 2) && good; k++) {
        progress("kv: %d tokens %s cache", n, cached ? "with" : "without");
        double seconds = kv_seconds(&r, n, cached != 0);
        good = seconds > 0;
        if (good) samples_add(&speed, n / seconds);
      }
      snprintf(what, sizeof what, "%s, %d tokens, %s", m.name, n, cached ? "with cache" : "whole text each time");
      if (good) table_row(t, what, "tokens/s", HIGHER, origin[i][cached ? 1 : 2], samples_spread(&speed));
    }
  }
  if (r.session) runner_close(&r);
  model_close(&m);
  return good;
}

// ---- batches ----

// Our products by rows of activations. The documents have 1 and 64.
static bool table_rows(const table_context *t) {
  ternary_set s;
  int most = t->c.quick ? 16 : 512;
  if (!ternary_open(&s, t->c.quick ? 256 : 4096, most, t->pool)) return false;
  for (int n = 1; n <= most; n *= 2) {
    char prefix[64];
    own_product p[2] = {{t->pool, QI_PATH_INTEGER, &s.w, NULL, s.x, n, s.y, QI_OK},
                        {t->pool, QI_PATH_BF16, &s.w, NULL, s.x, n, s.y, QI_OK}};
    contender c[2] = {{.name = "integer", .run = own_product_run, .arg = &p[0]},
                      {.name = "bf16", .run = own_product_run, .arg = &p[1]}};
    snprintf(prefix, sizeof prefix, "product, %d row%s: ", n, n > 1 ? "s" : "");
    contenders_run(c, 2, t->c.reps, "rows");
    for (int i = 0; i < 2; i++) table_time(t, prefix, &c[i], n == 1 ? 0.235 : n == 64 ? 1.03 : 0);
  }
  ternary_close(&s);
  return true;
}

// Tokens a second of `n_seqs` sequences that generate together. A model that does not fit in memory is passed over.
static bool table_generation(const table_context *t, const bench_model *m, rooflines *roof, qi_path path, int n_seqs, int n_gen,
                             double origin) {
  char what[160];
  run_result result;
  run_test test = {.n_gen = n_gen, .n_seqs = n_seqs, .path = path};
  snprintf(what, sizeof what, "%s, %d sequence%s, %s", m->name, n_seqs, n_seqs > 1 ? "s" : "", path_names[path]);
  if (!run_measure(&result, m, &test, roof, t->c.reps, true, what)) return true;
  table_row(t, what, "tokens/s", HIGHER, origin, samples_spread(&result.speed));
  return true;
}

static bool table_batch(const table_context *t) {
  static const struct {
    const char *model;
    int n_seqs;
    double origin;
  } cases[] = {{"origin-2b:TQ2_0", 1, 14.2},    {"origin-2b:TQ2_0", 32, 372.6},  {"origin-7b:TQ2_0", 1, 3.7},
               {"origin-7b:TQ2_0", 32, 104.5},  {"origin-7b:TQ2_0", 128, 228.7}, {"origin-7b:TQ2_0", 256, 256.1},
               {"origin-7b:TQ2_0", 384, 262.8}, {"origin-7b:TQ2_0", 512, 0}};
  rooflines roof;
  if (!rooflines_open(&roof, t->pool, t->c.bandwidth_mb)) return false;
  bench_model m;
  const char *open = NULL;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const char *spec = t->c.quick ? "tiny:TQ2_0" : cases[i].model;
    if (open && strcmp(open, spec) != 0) model_close(&m), open = NULL;
    if (!open && !table_model(&m, spec)) continue;
    open = spec;
    int n_gen = cases[i].n_seqs == 1 ? 16 : 2;
    table_generation(t, &m, &roof, QI_PATH_AUTO, cases[i].n_seqs, n_gen, cases[i].origin);
    if (cases[i].n_seqs > 1) table_generation(t, &m, &roof, QI_PATH_BF16, cases[i].n_seqs, n_gen, cases[i].origin);
  }
  if (open) model_close(&m);
  rooflines_close(&roof);
  return true;
}

// ---- the 128 x 128 x 128 product ----

typedef struct counter {
  int calls;
  size_t bytes;
} counter;

static void *counting_alloc(size_t size, size_t align, void *user) {
  counter *n = (counter *)user;
  n->calls++;
  n->bytes += size;
  return qi__malloc(size, align, NULL);
}
static void counting_free(void *ptr, size_t size, void *user) {
  (void)user;
  qi__malloc_free(ptr, size, NULL);
}

// Rows of Q4_K hold a multiple of 256: the fused product is of 64 x 256 by 128, the same number of weights and multiplications; the
// one that dequantises first has their very shape.
static bool table_q4k128_measure(const table_context *t, qi_pool *pool, counter *count) {
  qi_matrix w;
  float unpacked[128 * 128], *y = random_floats(128 * 128), *x = random_floats(128 * 256);
  bool good = y && x && random_matrix(&w, QI_FORMAT_Q4_K, 64, 256, pool);
  if (good) {
    qi_matrix all = {QI_FORMAT_F32, unpacked, 128, 128};
    naive_product naive = {&w, unpacked, {pool, QI_PATH_FLOAT, &all, NULL, x, 128, y, QI_OK}};
    own_product p[3] = {{pool, QI_PATH_INTEGER, &w, NULL, x, 128, y, QI_OK}, {pool, QI_PATH_BF16, &w, NULL, x, 128, y, QI_OK},
                        {pool, QI_PATH_FLOAT, &w, NULL, x, 128, y, QI_OK}};
    contender c[4] = {{.name = "dequantise, then multiply: 128 x 128 x 128", .run = naive_product_run, .arg = &naive},
                      {.name = "fused, integer: 64 x 256 x 128", .run = own_product_run, .arg = &p[0]},
                      {.name = "fused, bf16: 64 x 256 x 128", .run = own_product_run, .arg = &p[1]},
                      {.name = "fused, float: 64 x 256 x 128", .run = own_product_run, .arg = &p[2]}};
    const double origin[4] = {0.488, 8.0, 8.0, 8.0};
    *count = (counter){0, 0};
    own_product_run(&p[0]);
    counter first = *count;
    contenders_run(c, 4, t->c.reps, "q4k128");
    *count = (counter){0, 0};
    for (int i = 0; i < 4; i++) c[i].run(c[i].arg);
    for (int i = 0; i < 4; i++) table_time(t, "", &c[i], origin[i]);
    for (int i = 1; i < 4; i++) table_time(t, "against their fastest: ", &c[i], origin[0]);
    table_row(t, "allocations, first product of a pool (theirs: 44 in each)", "calls", LOWER, 44, one_value(first.calls));
    table_row(t, "bytes of them (theirs: in each)", "KB", LOWER, 212, one_value((double)first.bytes * 1e-3));
    table_row(t, "allocations, 4 later products (theirs: 44 in each)", "calls", LOWER, 0, one_value(count->calls));
    matrix_free(&w);
  }
  free(x);
  free(y);
  return good;
}

static bool table_q4k128(const table_context *t) {
  counter count = {0, 0};
  qi_pool_desc pd = {.n_threads = t->c.n_threads, .isa = t->c.isa, .allocator = {counting_alloc, counting_free, &count}};
  qi_pool *pool = NULL;
  qi_error err = {QI_OK, ""};
  if (qi_pool_open(&pool, &pd, &err)) return complain("%s", err.msg);
  bool good = table_q4k128_measure(t, pool, &count);
  qi_pool_close(pool);
  return good;
}

// ---- bytes of keys and values ----

// From sessions over one layer of the shape: bytes grow with layers exactly.
static bool table_kv_bytes(const table_context *t) {
  static const struct {
    const char *shape;
    int n_ctx;
    double origin; // MB, as they state it
    const char *note;
  } cases[] = {{"tinyllama", 100, 4.5, ""},
               {"tinyllama", 2048, 0, ""},
               {"llama2-7b", 100, 13, " (theirs: 1024 of the 8192 columns)"},
               {"llama2-7b", 4096, 0, ""},
               {"llama3-8b", 8192, 0, ""}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    bench_model m;
    file_type type;
    shape layer = *shape_find(cases[i].shape, strlen(cases[i].shape));
    int n_layers = layer.n_layers;
    layer.n_layers = 1;
    layer.n_vocab = 320;
    if (!file_type_parse("TQ2_0", &type) || !model_open_synth(&m, &layer, &type)) return false;
    for (int f32 = 0; f32 < 2; f32++) {
      qi_session_desc sd = {.n_ctx = cases[i].n_ctx, .pool = t->pool, .kv_type = f32 ? QI_KV_F32 : QI_KV_F16};
      qi_session *s = NULL;
      qi_session_stats stats;
      qi_error err = {QI_OK, ""};
      char what[96];
      if (qi_session_open(&s, m.model, &sd, &err)) {
        model_close(&m);
        return complain("%s", err.msg);
      }
      qi_session_get_stats(s, &stats);
      qi_session_close(s);
      snprintf(what, sizeof what, "%s, %d tokens, %s%s", cases[i].shape, cases[i].n_ctx, f32 ? "F32" : "F16", cases[i].note);
      table_row(t, what, "MB", LOWER, cases[i].origin, one_value((double)stats.kv_bytes * n_layers * 1e-6));
    }
    model_close(&m);
  }
  return true;
}

// ---- whole models ----

static bool table_speed(const table_context *t) {
  static const struct {
    const char *model, *quick;
    double origin;
  } cases[] = {{"tinyllama:Q4_K_M", "tiny:Q4_K_M", 0.91}, {"phi-3.5:Q8_0", "tiny:Q8_0", 0.53},
               {"origin-2b:TQ2_0", "tiny:TQ2_0", 14.2},   {"origin-7b:TQ2_0", NULL, 3.7},
               {"llama2-7b:Q4_K_M", NULL, 0},             {"qwen2.5-14b:Q4_K_M", NULL, 0.05}};
  rooflines roof;
  if (!rooflines_open(&roof, t->pool, t->c.bandwidth_mb)) return false;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const char *spec = t->c.quick ? cases[i].quick : cases[i].model;
    bench_model m;
    if (!spec || !table_model(&m, spec)) continue; // what does not fit is said and passed over
    table_generation(t, &m, &roof, QI_PATH_AUTO, 1, 16, cases[i].origin);
    model_close(&m);
  }
  rooflines_close(&roof);
  return true;
}

// ---- all tables ----

static const struct {
  const char *name, *title;
  bool (*run)(const table_context *t);
} tables[] = {
    {"stages", "Ternary 4096 x 4096 by stage of optimisation", table_stages},
    {"threads", "Ternary 4096 x 4096 by threads", table_threads},
    {"dequant", "Dequantisation of ternary weights by size", table_dequant},
    {"cache", "Cold and warm cache of weights, one layer of 1024 x 1024, one row", table_cache},
    {"q4k128", "Product of 128 x 128 Q4_K weights, and its allocations", table_q4k128},
    {"kvbytes", "Bytes of cached keys and values by context", table_kv_bytes},
    {"kv", "With and without cached keys and values", table_kv},
    {"rows", "Ternary 4096 x 4096 by rows of activations", table_rows},
    {"batch", "Sequences of a model that generate together", table_batch},
    {"speed", "Generation, one sequence", table_speed},
};
#define N_TABLES (sizeof tables / sizeof tables[0])

static bool tables_known(const char *name) {
  for (size_t i = 0; i < N_TABLES; i++)
    if (!strcmp(tables[i].name, name) || !strcmp(name, "all")) return true;
  return complain("--tables %.40s: no such table (--list shows all)", name);
}

static bool tables_run(report *out, const char *name, const common_settings *c) {
  table_context t = {.out = out, .c = *c};
  qi_pool_desc pd = {.n_threads = c->n_threads, .isa = c->isa};
  qi_error err = {QI_OK, ""};
  if (qi_pool_open(&t.pool, &pd, &err)) return complain("%s", err.msg);
  bool good = true;
  for (size_t i = 0; i < N_TABLES && good; i++) {
    if (strcmp(name, "all") && strcmp(name, tables[i].name)) continue;
    char title[192];
    t.name = tables[i].name;
    snprintf(title, sizeof title, "%s (%s): %d threads, %s%s", tables[i].title, tables[i].name, qi_pool_n_threads(t.pool),
             qi_isa_name(qi_pool_isa(t.pool)), c->quick ? "; --quick: smaller than that" : "");
    report_title(out, title);
    good = tables[i].run(&t);
  }
  qi_pool_close(t.pool);
  return good;
}

#endif // BENCH_TABLES_H
