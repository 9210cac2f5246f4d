// Matrix products: our paths beside OpenBLAS and oneDNN; and the way in which whatever is compared takes turns.
#ifndef BENCH_PRODUCTS_H
#define BENCH_PRODUCTS_H

#include "peers.h"
#include "report.h"
#include "rooflines.h"
#include "synth.h"

typedef struct common_settings {
  int n_threads, reps, bandwidth_mb;
  qi_isa isa;
  bool quick;
} common_settings;

// ---- taking turns ----

// Something to time. `turns` runs make one sample, so that short ones can be timed.
typedef struct contender {
  const char *name;
  void (*run)(void *arg);
  void *arg;
  int turns;
  samples seconds; // of one run
} contender;

// Threads of other libraries stay awake for a while after their work; they shall not disturb the next one.
static void settle(void) {
  struct timespec t = {0, 2000000};
  nanosleep(&t, NULL);
}

// One repetition of each: a run that is not timed, then a sample of at least some milliseconds.
static void contenders_sample(contender *c, int n) {
  for (int i = 0; i < n; i++) {
    settle();
    c[i].run(c[i].arg);
    for (;;) {
      double start = seconds_now();
      for (int k = 0; k < (c[i].turns ? c[i].turns : 1); k++) c[i].run(c[i].arg);
      double seconds = seconds_now() - start;
      bool long_enough = c[i].turns > 0 || seconds > 5e-3;
      if (c[i].turns == 0) c[i].turns = seconds > 5e-3 ? 1 : (int)(6e-3 / (seconds + 1e-9)) + 1;
      if (!long_enough) continue;
      samples_add(&c[i].seconds, seconds / c[i].turns);
      break;
    }
  }
}

static void contenders_run(contender *c, int n, int reps, const char *label) {
  for (int i = 0; i < reps; i++) {
    progress("%s: %d of %d", label, i + 1, reps);
    contenders_sample(c, n);
  }
  progress("%s", "");
}

// ---- operands ----

// A random matrix in a format. False after a message; free((void *)m->data).
static bool random_matrix(qi_matrix *m, qi_format f, int n_rows, int n_cols, qi_pool *pool) {
  size_t bytes = qi_format_bytes(f, (size_t)n_rows * (size_t)n_cols);
  uint8_t *data = memory_fits("matrix", bytes) ? (uint8_t *)malloc(bytes + 64) : NULL;
  *m = (qi_matrix){f, data, n_rows, n_cols};
  if (!data) return complain("no memory for a matrix of %.1f MB", (double)bytes * 1e-6);
  fill_matrix(pool, f, data, bytes, 1.0f / sqrtf((float)n_cols), 1);
  return true;
}

#if defined(HAVE_OPENBLAS) || defined(HAVE_DNNL)
// The same values as float32, for the peers. Whole tensors, since some formats end in parameters of all their rows
// (qi_format_info.tail_bytes).
static bool float_matrix(qi_matrix *out, const qi_matrix *m) {
  size_t n = (size_t)m->n_rows * (size_t)m->n_cols;
  float *values = memory_fits("matrix", 4 * n) ? (float *)malloc(4 * n) : NULL;
  qi_result r = values ? qi_dequantize(m->format, m->data, values, n, NULL) : QI_ERR_OOM;
  if (r) free(values);
  *out = (qi_matrix){QI_FORMAT_F32, r ? NULL : values, m->n_rows, m->n_cols};
  return !r || complain("a matrix of %.1f MB: %s", (double)n * 4e-6, qi_result_name(r));
}
#endif

static void matrix_free(qi_matrix *m) {
  free((void *)(uintptr_t)m->data);
  m->data = NULL;
}

// n values between -1 and 1; NULL after a message.
static float *random_floats(size_t n) {
  float *v = (float *)malloc(n * sizeof *v);
  uint64_t state = 7;
  for (size_t i = 0; v && i < n; i++) v[i] = (float)((double)(random_next(&state) >> 11) * 0x1p-52 - 1.0);
  if (!v) complain("no memory for %.1f MB of activations", (double)n * 4e-6);
  return v;
}

// One of our products, as a contender.
typedef struct own_product {
  qi_pool *pool;
  qi_path path;
  const qi_matrix *w;
  const qi_weight *ready; // of w; NULL = straight from w
  const float *x;
  int n;
  float *y;
  qi_result result;
} own_product;

static void own_product_run(void *arg) {
  own_product *p = (own_product *)arg;
  qi_result r = p->ready ? qi_weight_matmul(p->pool, p->path, p->ready, p->x, (size_t)p->n, p->y, NULL)
                         : qi_matmul(p->pool, p->path, p->w, p->x, (size_t)p->n, p->y, NULL);
  if (r) p->result = r;
}

// ---- one product, all ways ----

typedef struct product_spec {
  int n_rows, n_cols, n;
  qi_format format;
} product_spec;

static bool product_spec_parse(const char *s, product_spec *p) {
  int end = 0;
  p->format = QI_FORMAT_Q4_K;
  if (sscanf(s, "%7dx%7dx%7d%n", &p->n_rows, &p->n_cols, &p->n, &end) != 3 || (s[end] && s[end] != ':'))
    return complain("--matmul %.60s: expected ROWSxCOLSxN[:TYPE], for example 4096x4096x64:Q4_K", s);
  if (s[end] && (p->format = qi_format_from_name(s + end + 1)) == QI_FORMAT_NONE)
    return complain("--matmul %.60s: no such type (--list shows all)", s);
  const int most = 1 << 20;
  if (p->n_rows < 1 || p->n_cols < 1 || p->n < 1 || p->n_rows > most || p->n_cols > most || p->n > most)
    return complain("--matmul %.60s: sizes are from 1 to %d", s, most);
  int block = qi_format_get(p->format)->block_len;
  if (p->n_cols % block)
    return complain("--matmul %.60s: %d columns, expected a multiple of %d for %s", s, p->n_cols, block,
                    qi_format_get(p->format)->name);
  return true;
}

static bool product_spec_check(const char *s) {
  product_spec p;
  return product_spec_parse(s, &p);
}

enum { OWN_PATHS = 3, MAX_WAYS = 2 * OWN_PATHS + 3 };

// One way to compute the product: what it reads and which unit it uses.
typedef struct way {
  unit_kind unit;
  double weight_bytes;
  float *y; // [n, n_rows] of its own
} way;

typedef struct product_bench {
  product_spec spec;
  rooflines *roof;
  qi_matrix w, w32;
  float *x;
  contender turn[MAX_WAYS];
  way ways[MAX_WAYS];
  own_product own[2 * OWN_PATHS];
  qi_weight *ready[OWN_PATHS];
  peer_product peer;
#ifdef HAVE_DNNL
  peer_dnnl dnnl[2];
#endif
  int n;
} product_bench;

// False after a message.
static bool product_way(product_bench *b, const char *name, unit_kind unit, double weight_bytes, void (*run)(void *), void *arg) {
  way *w = &b->ways[b->n];
  *w = (way){unit, weight_bytes, (float *)malloc((size_t)b->spec.n * (size_t)b->spec.n_rows * sizeof(float))};
  if (!w->y) return complain("no memory for the results of %s", name);
  memset(&b->turn[b->n], 0, sizeof b->turn[b->n]);
  b->turn[b->n] = (contender){.name = name, .run = run, .arg = arg};
  b->n++;
  return true;
}

// Each path straight from the blocks, and with weights made ready beforehand, where that spares something.
static bool product_own_ways(product_bench *b) {
  static const char *const names[][2] = {{"float", "float ready"}, {"integer", "int ready"}, {"bf16", "bf16 ready"}};
  static const qi_path paths[] = {QI_PATH_FLOAT, QI_PATH_INTEGER, QI_PATH_BF16};
  uint64_t packed = (uint64_t)qi_format_bytes(b->spec.format, (size_t)b->spec.n_rows * (size_t)b->spec.n_cols);
  qi__weight w = {b->spec.format, qi__format_get(b->spec.format), NULL, 0, 0, 0, NULL, NULL};
  for (int i = 0; i < 2 * OWN_PATHS; i++) {
    qi_path path = paths[i / 2];
    uint64_t bytes = packed;
    qi_error err = {QI_OK, ""};
    if (path == QI_PATH_INTEGER && !w.format->unpack) continue; // float formats have no integer form
    if (i % 2) {
      if (qi_weight_memory(b->roof->pool, path, &b->w, &bytes, &err)) return complain("%s", err.msg);
      if (bytes < packed / 2) continue; // nothing to spare
      if (!memory_fits("weights made ready", (size_t)bytes)) return false;
      if (qi_weight_open(&b->ready[i / 2], b->roof->pool, path, &b->w, NULL, &err)) return complain("%s", err.msg);
    }
    unit_kind unit = unit_of(qi__arithmetic_of(NULL, &w, path, false));
    if (!product_way(b, names[i / 2][i % 2], unit, (double)bytes, own_product_run, &b->own[i])) return false;
    qi_weight *ready = i % 2 ? b->ready[i / 2] : NULL;
    b->own[i] = (own_product){b->roof->pool, path, &b->w, ready, b->x, b->spec.n, b->ways[b->n - 1].y, QI_OK};
  }
  return true;
}

// They get their weights as float32 or bfloat16, ready to use: more bytes, but no work to unpack them.
static bool product_peer_ways(product_bench *b) {
  int threads = qi_pool_n_threads(b->roof->pool);
  double weights = (double)b->spec.n_rows * b->spec.n_cols;
  (void)threads;
  (void)weights;
#ifdef HAVE_OPENBLAS
  peer_openblas_threads(threads);
  if (!product_way(b, "OpenBLAS f32", UNIT_F32, 4 * weights, peer_openblas_run, &b->peer)) return false;
  b->peer = (peer_product){b->x, (const float *)b->w32.data, b->ways[b->n - 1].y, b->spec.n, b->spec.n_rows, b->spec.n_cols};
#endif
#ifdef HAVE_DNNL
  static const char *const names[] = {"oneDNN f32", "oneDNN bf16"};
  peer_dnnl_threads(threads);
  for (int i = 0; i < 2; i++) {
    if (!product_way(b, names[i], i ? UNIT_BF16 : UNIT_F32, (i ? 2 : 4) * weights, peer_dnnl_run, &b->dnnl[i])) return false;
    peer_product p = {b->x, (const float *)b->w32.data, b->ways[b->n - 1].y, b->spec.n, b->spec.n_rows, b->spec.n_cols};
    if (peer_dnnl_open(&b->dnnl[i], &p, i == 1)) continue;
    free(b->ways[--b->n].y); // not on this machine
  }
#endif
  return true;
}

// Root mean square of the difference to the first way, relative to that of its values.
static double product_error(const product_bench *b, int i) {
  double difference = 0, size = 0;
  size_t n = (size_t)b->spec.n * (size_t)b->spec.n_rows;
  for (size_t k = 0; k < n; k++) {
    double a = (double)b->ways[0].y[k], d = (double)b->ways[i].y[k] - a;
    difference += d * d;
    size += a * a;
  }
  return size > 0 ? sqrt(difference / size) : 0;
}

static void product_report(report *out, const product_bench *b, int i, const samples *bandwidth, const samples peak[UNIT_COUNT]) {
  const product_spec *s = &b->spec;
  const contender *c = &b->turn[i];
  const way *w = &b->ways[i];
  double operations = 2.0 * s->n_rows * s->n_cols * s->n;
  double bytes = w->weight_bytes + 4.0 * s->n * (s->n_rows + s->n_cols);
  samples bandwidth_part = {.n = 0}, peak_part = {.n = 0};
  for (int k = 0; k < c->seconds.n; k++) {
    samples_add(&bandwidth_part, bytes / c->seconds.v[k] / bandwidth->v[k]);
    samples_add(&peak_part, operations / c->seconds.v[k] / peak[w->unit].v[k]);
  }
  char size[64];
  spread ms = samples_spread(&c->seconds);
  row r;
  memset(&r, 0, sizeof r);
  snprintf(size, sizeof size, "%dx%dx%d", s->n_rows, s->n_cols, s->n);
  row_text(&r, "product", 16, size);
  row_text(&r, "type", 7, qi_format_get(s->format)->name);
  row_number(&r, "threads", 7, 0, qi_pool_n_threads(b->roof->pool));
  row_text(&r, "isa", 11, qi_isa_name(qi_pool_isa(b->roof->pool)));
  row_text(&r, "path", 12, c->name);
  row_value(&r, "ms", 8, 1e3 * ms.median);
  row_value(&r, "min", 8, 1e3 * ms.min);
  row_value(&r, "max", 8, 1e3 * ms.max);
  row_number(&r, "GFLOPS", 8, 1, 1e-9 * operations / ms.median);
  row_number(&r, "% bandwidth", 11, 1, 100 * samples_spread(&bandwidth_part).median);
  row_number(&r, "% peak", 6, 1, 100 * samples_spread(&peak_part).median);
  row_number(&r, "peak GFLOPS", 11, 0, 1e-9 * samples_spread(&peak[w->unit]).median);
  row_text(&r, "unit", 11, b->roof->unit[w->unit].name);
  row_number(&r, "rms error", 9, 6, product_error(b, i));
  row_samples(&r, "samples s", &c->seconds);
  report_row(out, &r);
}

// Bandwidth, peaks, then each way once; so often.
static bool product_measure(report *out, product_bench *b, int reps) {
  samples bandwidth = {.n = 0}, peak[UNIT_COUNT] = {{.n = 0}, {.n = 0}, {.n = 0}};
  for (int k = 0; k < reps; k++) {
    progress("product: %d of %d", k + 1, reps);
    samples_add(&bandwidth, roofline_bandwidth(b->roof));
    for (int u = 0; u < UNIT_COUNT; u++) samples_add(&peak[u], roofline_peak(b->roof, (unit_kind)u));
    contenders_sample(b->turn, b->n);
  }
  for (int i = 0; i < 2 * OWN_PATHS; i++)
    if (b->own[i].result) return complain("qi_matmul: %s", qi_result_name(b->own[i].result));
  for (int i = 0; i < b->n; i++) product_report(out, b, i, &bandwidth, peak);
  return true;
}

static bool product_with_pool(report *out, const product_spec *spec, rooflines *roof, int reps) {
  product_bench b;
  memset(&b, 0, sizeof b);
  b.spec = *spec;
  b.roof = roof;
  bool good = random_matrix(&b.w, spec->format, spec->n_rows, spec->n_cols, roof->pool);
#if defined(HAVE_OPENBLAS) || defined(HAVE_DNNL)
  good = good && float_matrix(&b.w32, &b.w);
#endif
  good = good && (b.x = random_floats((size_t)spec->n * (size_t)spec->n_cols)) != NULL;
  good = good && product_own_ways(&b) && product_peer_ways(&b) && product_measure(out, &b, reps);
#ifdef HAVE_DNNL
  for (int i = 0; i < 2; i++) peer_dnnl_close(&b.dnnl[i]);
#endif
  for (int i = 0; i < OWN_PATHS; i++) qi_weight_close(b.ready[i]);
  for (int i = 0; i < b.n; i++) free(b.ways[i].y);
  free(b.x);
  matrix_free(&b.w);
  matrix_free(&b.w32);
  return good;
}

static bool product_run(report *out, const char *text, const common_settings *c) {
  product_spec spec;
  rooflines roof;
  qi_pool_desc pd = {.n_threads = c->n_threads, .isa = c->isa};
  qi_pool *pool = NULL;
  qi_error err = {QI_OK, ""};
  if (!product_spec_parse(text, &spec)) return false;
  if (qi_pool_open(&pool, &pd, &err)) return complain("%s", err.msg);
  bool good = rooflines_open(&roof, pool, c->bandwidth_mb);
  if (good) {
    good = product_with_pool(out, &spec, &roof, c->reps);
    rooflines_close(&roof);
  }
  qi_pool_close(pool);
  return good;
}

#endif // BENCH_PRODUCTS_H
