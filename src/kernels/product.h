// ==== >>product : threaded products for callers' own nets ====
#ifndef QI__KERNELS_PRODUCT_H
#define QI__KERNELS_PRODUCT_H

#include "forms.h"

#define QI__PRODUCT_ROWS 256 // activation rows that are prepared at a time

typedef struct qi__product_run {
  qi__kernels kernels;
  qi__weight w;
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
  qi__inputs_turn(&p->kernels, &p->in, (size_t)begin, (size_t)end, need);
}

QI__FN void qi__product_tiles(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__product_run *p = (const qi__product_run *)arg;
  float *scratch = p->scratch + (size_t)worker * p->scratch_floats;
  size_t run = qi__tiles_at_once(&p->kernels, p->arithmetic, p->n) * QI__TILE_ROWS;
  size_t end_row = qi__min_size((size_t)end * QI__TILE_ROWS, p->w.n_rows);
  for (size_t first = (size_t)begin * QI__TILE_ROWS, n_w; first < end_row; first += n_w) {
    n_w = qi__min_size(run, end_row - first);
    qi__matmul_tile(&p->kernels, p->arithmetic, &p->w, first, n_w, &p->in, 0, p->n, p->y + first, p->w.n_rows, false,
                    scratch);
  }
}

QI__FN void qi__product_layout(qi__product_run *p, qi__arena *arena, size_t n, int n_threads) {
  qi__inputs_layout(&p->in, arena, n, p->w.n_cols);
  p->scratch_floats = (qi__tile_scratch(p->w.n_cols, n) + 15) / 16 * 16;
  p->scratch = QI__ARENA_ARRAY(arena, float, (size_t)n_threads * p->scratch_floats);
}

QI__FN qi_result qi__product_check(const char *who, const qi_matrix *w, size_t n, qi_error *err) {
  const qi__format *f = qi__format_get(w->format);
  if (!f) return qi__fail(err, QI_ERR_ARGUMENT, "%s: format %d is unknown", who, (int)w->format);
  if (w->n_rows < 0 || w->n_cols < 0) return qi__fail(err, QI_ERR_ARGUMENT, "%s: a matrix of negative size", who);
  if (w->n_cols == 0 || w->n_cols % f->info.block_len)
    return qi__fail(err, QI_ERR_ARGUMENT, "%s: %lld columns, expected a multiple of %d for %s", who, (long long)w->n_cols,
                    f->info.block_len, f->info.name);
  uint64_t size;
  if (!qi__mul_u64((uint64_t)w->n_rows, (uint64_t)w->n_cols, &size) || size > SIZE_MAX / 8 ||
      !qi__mul_u64(n, (uint64_t)(w->n_rows > w->n_cols ? w->n_rows : w->n_cols), &size) || size > SIZE_MAX / 8)
    return qi__fail(err, QI_ERR_ARGUMENT, "%s: %zu x [%lld, %lld] is larger than memory", who, n, (long long)w->n_rows,
                    (long long)w->n_cols);
  return QI_OK;
}

// The matrix with its format bound. Checked before.
QI__FN qi_result qi__product_weight(const char *who, const qi_matrix *m, qi__bound *bound, qi__weight *out, qi_error *err) {
  *out = (qi__weight){m->format, &bound->format, (const uint8_t *)m->data, (size_t)m->n_rows, (size_t)m->n_cols,
                      qi__row_bytes(m->format, (size_t)m->n_cols), NULL, NULL};
  return qi__format_bind(bound, m->format, out->data + out->n_rows * out->row_bytes, who, err);
}

// See qi_matmul. Sizes are not 0 and checked.
QI__FN qi_result qi__matmul(qi_pool *pool, qi_path path, const qi__weight *w, const float *x, size_t n, float *y, qi_error *err) {
  qi__product_run p;
  memset(&p, 0, sizeof p);
  qi__kernels_init(&p.kernels, &pool->cpu);
  p.w = *w;
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
  int64_t tiles = (int64_t)qi__n_tiles(p.w.n_rows);
  for (size_t i = 0; i < n; i += round) {
    p.n = qi__min_size(round, n - i);
    p.y = y + i * p.w.n_rows;
    p.in.x = (float *)(uintptr_t)(x + i * p.w.n_cols); // only read
    qi__pool_run(pool, qi__product_prepare, &p, (int64_t)p.n, p.kernels.bf16.turn ? 16 : 1);
    qi__pool_run(pool, qi__product_tiles, &p, tiles, qi__max_i64(1, tiles / (pool->n_active * 64)));
  }
  return QI_OK;
}

// ---- weights for many products ----

// In one block: this, and the tiles of its forms.
struct qi_weight {
  qi_allocator allocator;
  qi__arena arena;
  qi__weight w;
  qi__bound bound; // its format
  qi__forms forms;
};

// Takes all forms that the path may want.
QI__FN qi_weight *qi__weight_layout(qi__arena *arena, const qi__kernels *kernels, qi_path path, const qi_matrix *m,
                                    qi__forms *forms) {
  qi__weight w;
  memset(&w, 0, sizeof w);
  memset(forms, 0, sizeof *forms);
  w.id = m->format;
  w.format = &qi__formats[m->format];
  qi_weight *weight = QI__ARENA_ARRAY(arena, qi_weight, 1);
  for (int generated = 0; generated < 2; generated++) {
    qi__arithmetic a = qi__arithmetic_of(kernels, &w, path, generated);
    qi__form *form = &forms->of[a];
    size_t tile_bytes = qi__form_tile_bytes(kernels, a, w.id, (size_t)m->n_cols);
    if (!tile_bytes || form->n_tiles) continue;
    form->tile_bytes = tile_bytes;
    form->n_tiles = qi__n_tiles((size_t)m->n_rows);
    form->data = (uint8_t *)qi__arena_take(arena, form->n_tiles, tile_bytes, QI__CACHE_LINE);
  }
  forms->bf16 = kernels->bf16;
  return weight;
}

QI__FN qi_result qi__weight_memory(qi_pool *pool, qi_path path, const qi_matrix *m, uint64_t *bytes, qi_error *err) {
  qi__kernels kernels;
  qi__forms forms;
  qi__arena arena = {0};
  qi__kernels_init(&kernels, &pool->cpu);
  qi__weight_layout(&arena, &kernels, path, m, &forms);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "qi_weight_open: does not fit into this machine's address space");
  *bytes = arena.used;
  return QI_OK;
}

// See qi_weight_open. Sizes are not 0 and checked.
QI__FN qi_result qi__weight_open(qi_weight **out, qi_pool *pool, qi_path path, const qi_matrix *m, const qi_allocator *hook,
                                 qi_error *err) {
  qi_allocator allocator;
  qi__kernels kernels;
  qi__forms forms;
  qi__arena arena = {0};
  qi_result r = qi__allocator_resolve(hook, &allocator, err);
  if (r) return r;
  qi__kernels_init(&kernels, &pool->cpu);
  qi__weight_layout(&arena, &kernels, path, m, &forms);
  if ((r = qi__arena_open(&arena, &allocator, "qi_weight_open", err))) return r;
  qi_weight *weight = qi__weight_layout(&arena, &kernels, path, m, &forms);
  memset(weight, 0, sizeof *weight);
  if ((r = qi__product_weight("qi_weight_open", m, &weight->bound, &weight->w, err))) {
    qi__arena_close(&arena, &allocator);
    return r;
  }
  for (int a = 0; a < QI__ARITHMETICS; a++) {
    const qi__form *form = &forms.of[a];
    qi__form_job job = {&kernels, &weight->w, (qi__arithmetic)a, (uint8_t *)(uintptr_t)form->data, form->tile_bytes, 0};
    qi__pool_run(pool, qi__form_task, &job, (int64_t)form->n_tiles, 1);
  }
  weight->allocator = allocator;
  weight->arena = arena;
  weight->forms = forms;
  weight->w.forms = &weight->forms;
  *out = weight;
  return QI_OK;
}

QI__FN void qi__weight_close(qi_weight *weight) {
  if (!weight) return;
  qi_allocator allocator = weight->allocator;
  qi__arena arena = weight->arena;
  qi__arena_close(&arena, &allocator);
}

#endif // QI__KERNELS_PRODUCT_H
