// Products of OpenBLAS (-DHAVE_OPENBLAS) and oneDNN (-DHAVE_DNNL), to compare with. bench.mk finds out whether they are there by
// compiling this file, so it includes all that it needs.
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

#include <stdbool.h>
#include <stdlib.h>

// y[i, r] = sum_c w[r, c] * x[i, c];  x: [n, n_cols], w: [n_rows, n_cols], y: [n, n_rows], all float32.
typedef struct peer_product {
  const float *x, *w;
  float *y;
  int n, n_rows, n_cols;
} peer_product;

#ifdef HAVE_OPENBLAS
#include <cblas.h>

static void peer_openblas_threads(int n) { openblas_set_num_threads(n); }

static void peer_openblas_run(void *arg) {
  const peer_product *p = (const peer_product *)arg;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p->n, p->n_rows, p->n_cols, 1.0f, p->x, p->n_cols, p->w, p->n_cols, 0.0f,
              p->y, p->n_rows);
}
#endif

#ifdef HAVE_DNNL
#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_version.h>

// oneDNN takes its threads from the OpenMP that it is linked with, if it is.
void omp_set_num_threads(int n) __attribute__((weak));

static void peer_dnnl_threads(int n) {
  if (omp_set_num_threads) omp_set_num_threads(n);
}

// A primitive with its memory. Weights are reordered once to the layout that it asks for, activations of bfloat16 converted once:
// neither is part of what is measured.
typedef struct peer_dnnl {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  dnnl_primitive_t primitive;
  dnnl_memory_t src, weights, dst;
} peer_dnnl;

// Version 3 made memory descriptors pointers.
#if DNNL_VERSION_MAJOR >= 3
#define PEER_MD(md) (md)
static bool peer_md(dnnl_memory_desc_t *md, int rows, int cols, dnnl_data_type_t type, dnnl_format_tag_t tag) {
  dnnl_dims_t dims = {rows, cols};
  return dnnl_memory_desc_create_with_tag(md, 2, dims, type, tag) == dnnl_success;
}
static bool peer_matmul_pd(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, dnnl_memory_desc_t md[3]) {
  return dnnl_matmul_primitive_desc_create(pd, engine, md[0], md[1], NULL, md[2], NULL) == dnnl_success;
}
static void peer_md_free(dnnl_memory_desc_t md) {
  if (md) dnnl_memory_desc_destroy(md);
}
#else
#define PEER_MD(md) (&(md))
static bool peer_md(dnnl_memory_desc_t *md, int rows, int cols, dnnl_data_type_t type, dnnl_format_tag_t tag) {
  dnnl_dims_t dims = {rows, cols};
  return dnnl_memory_desc_init_by_tag(md, 2, dims, type, tag) == dnnl_success;
}
static bool peer_matmul_pd(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, dnnl_memory_desc_t md[3]) {
  dnnl_matmul_desc_t desc;
  return dnnl_matmul_desc_init(&desc, &md[0], &md[1], NULL, &md[2]) == dnnl_success &&
         dnnl_primitive_desc_create(pd, &desc, NULL, engine, NULL) == dnnl_success;
}
static void peer_md_free(dnnl_memory_desc_t md) { (void)md; }
#endif

// Copies `from` to `to`, converting type and layout.
static bool peer_reorder(peer_dnnl *d, dnnl_memory_t from, dnnl_memory_t to) {
  dnnl_primitive_desc_t pd = NULL;
  dnnl_primitive_t reorder = NULL;
#if DNNL_VERSION_MAJOR >= 3
  const_dnnl_memory_desc_t a, b;
#else
  const dnnl_memory_desc_t *a, *b;
#endif
  dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  bool good = dnnl_memory_get_memory_desc(from, &a) == dnnl_success && dnnl_memory_get_memory_desc(to, &b) == dnnl_success &&
              dnnl_reorder_primitive_desc_create(&pd, a, d->engine, b, d->engine, NULL) == dnnl_success &&
              dnnl_primitive_create(&reorder, pd) == dnnl_success &&
              dnnl_primitive_execute(reorder, d->stream, 2, args) == dnnl_success && dnnl_stream_wait(d->stream) == dnnl_success;
  if (reorder) dnnl_primitive_destroy(reorder);
  if (pd) dnnl_primitive_desc_destroy(pd);
  return good;
}

// A float32 array [rows, cols] (or its transpose) in memory of the layout that argument `which` of `pd` has.
static bool peer_place(peer_dnnl *d, dnnl_primitive_desc_t pd, dnnl_query_t which, dnnl_memory_desc_t plain, const float *values,
                       dnnl_memory_t *out) {
  dnnl_memory_t from = NULL;
  bool good =
      dnnl_memory_create(&from, PEER_MD(plain), d->engine, (void *)(size_t)values) == dnnl_success &&
      dnnl_memory_create(out, dnnl_primitive_desc_query_md(pd, which, 0), d->engine, DNNL_MEMORY_ALLOCATE) == dnnl_success &&
      peer_reorder(d, from, *out);
  if (from) dnnl_memory_destroy(from);
  return good;
}

static void peer_dnnl_close(peer_dnnl *d) {
  if (d->src) dnnl_memory_destroy(d->src);
  if (d->weights) dnnl_memory_destroy(d->weights);
  if (d->dst) dnnl_memory_destroy(d->dst);
  if (d->primitive) dnnl_primitive_destroy(d->primitive);
  if (d->stream) dnnl_stream_destroy(d->stream);
  if (d->engine) dnnl_engine_destroy(d->engine);
  *d = (peer_dnnl){0};
}

// False when oneDNN has no such product here; then nothing is open.
static bool peer_dnnl_open(peer_dnnl *d, const peer_product *p, bool bf16) {
  dnnl_memory_desc_t md[3] = {0}, plain_x = {0}, plain_w = {0};
  dnnl_primitive_desc_t pd = NULL;
  dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
  *d = (peer_dnnl){0};
  bool good = dnnl_engine_create(&d->engine, dnnl_cpu, 0) == dnnl_success &&
              dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags) == dnnl_success &&
              peer_md(&md[0], p->n, p->n_cols, type, dnnl_ab) && peer_md(&md[1], p->n_cols, p->n_rows, type, dnnl_format_tag_any) &&
              peer_md(&md[2], p->n, p->n_rows, dnnl_f32, dnnl_ab) && peer_md(&plain_x, p->n, p->n_cols, dnnl_f32, dnnl_ab) &&
              peer_md(&plain_w, p->n_cols, p->n_rows, dnnl_f32, dnnl_ba) && peer_matmul_pd(&pd, d->engine, md) &&
              dnnl_primitive_create(&d->primitive, pd) == dnnl_success &&
              peer_place(d, pd, dnnl_query_src_md, plain_x, p->x, &d->src) &&
              peer_place(d, pd, dnnl_query_weights_md, plain_w, p->w, &d->weights) &&
              dnnl_memory_create(&d->dst, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0), d->engine, p->y) == dnnl_success;
  if (pd) dnnl_primitive_desc_destroy(pd);
  for (int i = 0; i < 3; i++) peer_md_free(md[i]);
  peer_md_free(plain_x);
  peer_md_free(plain_w);
  if (!good) peer_dnnl_close(d);
  return good;
}

static void peer_dnnl_run(void *arg) {
  peer_dnnl *d = (peer_dnnl *)arg;
  dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, d->src}, {DNNL_ARG_WEIGHTS, d->weights}, {DNNL_ARG_DST, d->dst}};
  dnnl_primitive_execute(d->primitive, d->stream, 3, args);
  dnnl_stream_wait(d->stream);
}
#endif

#endif // BENCH_PEERS_H
