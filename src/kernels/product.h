// ==== >>product : threaded products for callers' own nets ====
#ifndef QI__KERNELS_PRODUCT_H
#define QI__KERNELS_PRODUCT_H

#include "../base/threads.h"
#include "matmul.h"

#define QI__PRODUCT_ROWS 256 // activation rows that are prepared at a time

typedef struct qi__product_run {
  qi__kernels kernels;
  qi__weight w;
  qi__bound bound;  // its format
  qi__arithmetic arithmetic;
  qi__inputs in;
  size_t n;         // rows of activations in this round
  float *y;         // [n, n_rows]
  float *scratch;   // [n_threads, scratch_floats]
  size_t scratch_floats;
} qi__product_run;

QI__FN void qi__product_prepare(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__product_run *p = (const qi__product_run *)arg;
  (void)worker;
  unsigned need = qi__inputs_need(&p->w, p->arithmetic);
  for (int64_t i = begin; i < end; i++) qi__inputs_prepare(&p->kernels, &p->in, (size_t)i, need);
}

QI__FN void qi__product_tiles(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__product_run *p = (const qi__product_run *)arg;
  float *scratch = p->scratch + (size_t)worker * p->scratch_floats;
  for (int64_t tile = begin; tile < end; tile++) {
    size_t first = (size_t)tile * QI__TILE_ROWS, n_w = qi__min_size(QI__TILE_ROWS, p->w.n_rows - first);
    qi__matmul_tile(&p->kernels, p->arithmetic, &p->w, first, n_w, &p->in, 0, p->n, p->y + first, p->w.n_rows, scratch);
  }
}

QI__FN void qi__product_layout(qi__product_run *p, qi__arena *arena, size_t n, int n_threads) {
  qi__inputs_layout(&p->in, arena, n, p->w.n_cols);
  p->scratch_floats = (qi__tile_scratch(p->w.n_cols, n) + 15) / 16 * 16;
  p->scratch = QI__ARENA_ARRAY(arena, float, (size_t)n_threads * p->scratch_floats);
}

QI__FN qi_result qi__product_check(const qi_matrix *w, size_t n, qi_error *err) {
  const qi__format *f = qi__format_get(w->format);
  if (!f) return qi__fail(err, QI_ERR_ARGUMENT, "qi_matmul: format %d is unknown", (int)w->format);
  if (w->n_cols == 0 || w->n_cols % f->info.block_len)
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_matmul: %lld columns, expected a multiple of %d for %s", (long long)w->n_cols,
                    f->info.block_len, f->info.name);
  uint64_t size;
  if (!qi__mul_u64((uint64_t)w->n_rows, (uint64_t)w->n_cols, &size) || size > SIZE_MAX / 8 ||
      !qi__mul_u64(n, (uint64_t)(w->n_rows > w->n_cols ? w->n_rows : w->n_cols), &size) || size > SIZE_MAX / 8)
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_matmul: %zu x [%lld, %lld] is larger than memory", n, (long long)w->n_rows,
                    (long long)w->n_cols);
  return QI_OK;
}

// See qi_matmul. Sizes are not 0.
QI__FN qi_result qi__matmul(qi_pool *pool, qi_path path, const qi_matrix *w, const float *x, size_t n, float *y, qi_error *err) {
  qi_result r = qi__product_check(w, n, err);
  if (r) return r;
  qi__product_run p;
  memset(&p, 0, sizeof p);
  qi__kernels_init(&p.kernels, &pool->cpu);
  p.w = (qi__weight){w->format, &p.bound.format, (const uint8_t *)w->data, (size_t)w->n_rows, (size_t)w->n_cols,
                     qi__row_bytes(w->format, (size_t)w->n_cols), NULL};
  if ((r = qi__format_bind(&p.bound, w->format, p.w.data + p.w.n_rows * p.w.row_bytes, "qi_matmul", err))) return r;
  p.arithmetic = qi__arithmetic_of(&p.kernels, &p.w, path, n == 1);
  size_t round = qi__min_size(n, QI__PRODUCT_ROWS);
  qi__arena arena = {0};
  qi__product_layout(&p, &arena, round, pool->n_threads);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "qi_matmul: scratch does not fit into this machine's address space");
  arena.size = arena.used;
  arena.used = 0;
  arena.base = (uint8_t *)qi__pool_scratch(pool, arena.size);
  if (!arena.base) return qi__fail_oom(err, "qi_matmul", arena.size);
  qi__product_layout(&p, &arena, round, pool->n_threads);
  qi__inputs_set_width(&p.in, p.w.n_cols);
  int64_t tiles = (int64_t)((p.w.n_rows + QI__TILE_ROWS - 1) / QI__TILE_ROWS);
  for (size_t i = 0; i < n; i += round) {
    p.n = qi__min_size(round, n - i);
    p.y = y + i * p.w.n_rows;
    memcpy(p.in.x, x + i * p.w.n_cols, p.n * p.w.n_cols * sizeof *x);
    qi__pool_run(pool, qi__product_prepare, &p, (int64_t)p.n, 1);
    qi__pool_run(pool, qi__product_tiles, &p, tiles, qi__max_i64(1, tiles / (pool->n_threads * 8)));
  }
  return QI_OK;
}

#endif // QI__KERNELS_PRODUCT_H
