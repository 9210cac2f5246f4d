// ==== >>cache : weights kept ready to be multiplied, within a budget of bytes ====
#ifndef QI__MODEL_CACHE_H
#define QI__MODEL_CACHE_H

#include "../kernels/forms.h"
#include "weights.h"

// One block of memory: a qi__forms for each matrix, then tiles. Its size follows from the index of the file, the path and the
// instruction set alone, so that it is known before anything is read; what goes into it is decided by measuring.
typedef struct qi__cache {
  qi_pool *pool;   // the caller's; NULL = the calling thread and the best instruction set
  qi_path path;
  uint64_t budget, bytes; // granted; of the block
  uint8_t *block;
  qi_cache_info info;
} qi__cache;

#define QI__CACHE_PART (8u << 20) // bytes that are filled between two calls of the host
#define QI__CACHE_TRIAL_ROWS 16   // rows of activations that gains are measured with
#define QI__CACHE_TRIAL_TILES 2

// ---- bytes ----

// The arithmetics that the path takes for matrices of a format, one for each role; false when both take the same.
QI__FN bool qi__cache_arithmetics(const qi__kernels *kernels, qi_path path, qi_format id, qi__arithmetic out[2]) {
  qi__weight w;
  memset(&w, 0, sizeof w);
  w.id = id;
  w.format = &qi__formats[id];
  for (int role = 0; role < 2; role++) out[role] = qi__arithmetic_of(kernels, &w, path, role == 1);
  return out[0] != out[1];
}

#define QI__LAYER_MATRICES 7

// Bytes of all forms of a matrix that the path takes, UINT64_MAX if too many.
QI__FN uint64_t qi__cache_matrix_bytes(const qi__kernels *kernels, qi_path path, qi_format id, uint64_t n_rows, uint64_t n_cols) {
  qi__arithmetic a[2];
  int n = qi__cache_arithmetics(kernels, path, id, a) ? 2 : 1;
  uint64_t sum = 0;
  for (int i = 0; i < n; i++) {
    uint64_t bytes = n_cols > SIZE_MAX ? SIZE_MAX : qi__form_tile_bytes(kernels, a[i], id, (size_t)n_cols);
    uint64_t n_tiles = n_rows / QI__TILE_ROWS + (n_rows % QI__TILE_ROWS != 0);
    if (!qi__mul_u64(bytes, n_tiles, &bytes) || !qi__add_u64(sum, bytes, &sum)) return UINT64_MAX;
  }
  return sum;
}

// Adds what the matrices of a slot take; false when the file has no such tensor.
QI__FN bool qi__cache_count_slot(const qi__cache *c, const qi__kernels *kernels, const qi__gguf *g, const qi__hparams *h,
                                 const char *prefix, const qi__slot *slot, uint64_t *sum) {
  char name[64];
  snprintf(name, sizeof name, "%s%s", prefix, slot->name);
  const qi__tensor_info *t = slot->kind == QI__MATRIX && qi__slot_in_layout(slot, h) ? qi__gguf_tensor(g, name) : NULL;
  if (!t || t->format == QI_FORMAT_NONE) return false;
  bool fused = slot->part[1].rows != QI__DIM_ONE;
  for (int p = 0; p < 3 && slot->part[p].rows != QI__DIM_ONE; p++) {
    uint64_t rows = fused ? qi__dim_length(h, slot->part[p].rows) : t->shape[1];
    uint64_t bytes = qi__cache_matrix_bytes(kernels, c->path, t->format, rows, t->shape[0]);
    if (!qi__add_u64(*sum, bytes, sum)) *sum = UINT64_MAX;
  }
  return true;
}

QI__FN void qi__cache_kernels(const qi__cache *c, qi__kernels *kernels) {
  qi__cpu cpu;
  qi_isa isa;
  if (c->pool) cpu = c->pool->cpu;
  else qi__isa_choose(QI_ISA_AUTO, &isa, &cpu, NULL);
  qi__kernels_init(kernels, &cpu);
}

// Sets c->bytes: the budget, or what all matrices take if that is less.
QI__FN void qi__cache_count(qi__cache *c, const qi__gguf *g, const qi__hparams *h) {
  qi__kernels kernels;
  uint64_t sum, forms = sizeof(qi__forms) * QI__LAYER_MATRICES;
  c->bytes = 0;
  if (!c->budget) return;
  if (!qi__mul_u64(h->n_layers, forms, &sum) || !qi__add_u64(sum, sizeof(qi__forms) + QI__CACHE_LINE, &sum)) sum = UINT64_MAX;
  qi__cache_kernels(c, &kernels);
  bool tied = !qi__gguf_tensor(g, "output.weight");
  for (size_t i = 0; i < QI__COUNT_OF(qi__model_slots); i++) {
    bool embedding = qi__model_slots[i].part[0].at == offsetof(qi__weights, embedding);
    if (tied || !embedding) qi__cache_count_slot(c, &kernels, g, h, "", &qi__model_slots[i], &sum);
  }
  bool more = true;
  for (size_t layer = 0; layer < h->n_layers && more; layer++) { // of layers that are missing no more than one is looked for
    char prefix[32];
    snprintf(prefix, sizeof prefix, "blk.%zu.", layer);
    more = false;
    for (size_t i = 0; i < QI__COUNT_OF(qi__layer_slots); i++)
      if (qi__cache_count_slot(c, &kernels, g, h, prefix, &qi__layer_slots[i], &sum)) more = true;
  }
  c->bytes = sum < c->budget ? sum : c->budget;
}

// ---- what goes into it ----

// The i-th matrix that takes part in products; the output comes first. NULL beyond the last.
QI__FN qi__weight *qi__weights_matrix(qi__weights *w, size_t n_layers, size_t i) {
  if (i == 0) return &w->output;
  if ((i - 1) / QI__LAYER_MATRICES >= n_layers) return NULL;
  qi__layer *l = &w->layers[(i - 1) / QI__LAYER_MATRICES];
  qi__weight *all[QI__LAYER_MATRICES] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate, &l->up, &l->down};
  return all[(i - 1) % QI__LAYER_MATRICES];
}

// Matrices of one format in one form.
typedef struct qi__cache_class {
  const qi__weight *example;
  qi__arithmetic arithmetic;
  double gain; // seconds saved in a product, for each byte
} qi__cache_class;

#define QI__CACHE_CLASSES (2 * QI_FORMAT_COUNT)

// A cache while it is filled.
typedef struct qi__cache_fill {
  qi__cache *c;
  qi__kernels kernels;
  qi_pool *pool;
  qi__weights *w;
  size_t n_layers;
  qi_progress progress;
  uint64_t done, total; // of progress
  qi__forms *forms;     // next free
  size_t used;          // of the block
  qi__cache_class classes[QI__CACHE_CLASSES];
  size_t n_classes;
} qi__cache_fill;

QI__FN void qi__cache_add_class(qi__cache_fill *f, const qi__weight *w, qi__arithmetic a) {
  for (size_t i = 0; i < f->n_classes; i++)
    if (f->classes[i].example->id == w->id && f->classes[i].arithmetic == a) return;
  size_t bytes = qi__form_tile_bytes(&f->kernels, a, w->id, w->n_cols);
  // Until something is measured: all forms spare the same work for each weight.
  if (bytes) f->classes[f->n_classes++] = (qi__cache_class){w, a, (double)(QI__TILE_ROWS * w->n_cols) / (double)bytes};
}

// What a trial needs, in the block that is empty yet.
typedef struct qi__cache_trial {
  qi__inputs in;
  float *y, *scratch;
  uint8_t *tiles;
} qi__cache_trial;

QI__FN void qi__cache_trial_layout(qi__cache_trial *t, qi__arena *arena, size_t n_cols, size_t tile_bytes) {
  const size_t n = QI__CACHE_TRIAL_ROWS;
  qi__inputs_layout(&t->in, arena, n, n_cols);
  t->y = QI__ARENA_ARRAY(arena, float, n * QI__TILE_ROWS);
  t->scratch = QI__ARENA_ARRAY(arena, float, qi__tile_scratch(n_cols, n));
  t->tiles = QI__ARENA_ARRAY(arena, uint8_t, QI__CACHE_TRIAL_TILES * tile_bytes);
}

// Seconds for n_tiles tiles of w: the least of some runs.
QI__FN double qi__cache_time(const qi__cache_fill *f, const qi__cache_trial *t, qi__arithmetic a, const qi__weight *w,
                             size_t n_tiles) {
  double best = 0;
  for (int run = 0; run < 4; run++) {
    uint64_t start = qi__now_us();
    for (size_t i = 0; i < 2 * n_tiles; i++)
      qi__matmul_tile(&f->kernels, a, w, i % n_tiles * QI__TILE_ROWS, QI__TILE_ROWS, &t->in, 0, QI__CACHE_TRIAL_ROWS, t->y,
                      QI__TILE_ROWS, false, t->scratch);
    double seconds = (double)(qi__now_us() - start) * 1e-6 / 2;
    if (run == 1 || (run > 1 && seconds < best)) best = seconds; // the first brings weights into the caches
  }
  return best;
}

// Measures the gain of a class with its first matrix; false when the block has no room for that, or the matrix too few rows.
QI__FN bool qi__cache_measure(const qi__cache_fill *f, qi__cache_class *class) {
  qi__weight w = *class->example;
  qi__cache_trial t;
  size_t tile_bytes = qi__form_tile_bytes(&f->kernels, class->arithmetic, w.id, w.n_cols);
  size_t n_tiles = qi__min_size(w.n_rows / QI__TILE_ROWS, QI__CACHE_TRIAL_TILES);
  qi__arena arena = {f->c->block, (size_t)f->c->bytes, f->used, false};
  qi__cache_trial_layout(&t, &arena, w.n_cols, tile_bytes);
  if (arena.overflow || !n_tiles) return false;
  qi__inputs_set_width(&t.in, w.n_cols);
  for (size_t i = 0; i < QI__CACHE_TRIAL_ROWS * w.n_cols; i++) t.in.x[i] = (float)(i % 17) - 8.0f;
  const unsigned need = qi__inputs_need(&w, class->arithmetic);
  for (size_t i = 0; i < QI__CACHE_TRIAL_ROWS; i++) qi__inputs_prepare(&f->kernels, &t.in, i, need);
  qi__inputs_turn(&f->kernels, &t.in, 0, QI__CACHE_TRIAL_ROWS, need);
  qi__forms forms;
  memset(&forms, 0, sizeof forms);
  forms.bf16 = f->kernels.bf16;
  forms.of[class->arithmetic] = (qi__form){t.tiles, n_tiles, tile_bytes};
  for (size_t i = 0; i < n_tiles; i++) qi__form_fill(&f->kernels, class->arithmetic, &w, i, t.tiles + i * tile_bytes);
  w.bias = NULL;
  double plain = qi__cache_time(f, &t, class->arithmetic, &w, n_tiles);
  w.forms = &forms;
  double ready = qi__cache_time(f, &t, class->arithmetic, &w, n_tiles);
  class->gain = (plain - ready) / (double)(n_tiles * tile_bytes);
  return true;
}

// Finds the classes and orders them by gain; those without are dropped.
QI__FN void qi__cache_choose(qi__cache_fill *f) {
  qi__weight *w;
  qi__arithmetic a[2];
  for (size_t i = 0; (w = qi__weights_matrix(f->w, f->n_layers, i)) != NULL; i++) {
    int n = qi__cache_arithmetics(&f->kernels, f->c->path, w->id, a) ? 2 : 1;
    for (int k = 0; k < n; k++) qi__cache_add_class(f, w, a[k]);
  }
  qi__cache_class measured[QI__CACHE_CLASSES];
  memcpy(measured, f->classes, sizeof measured);
  bool all = true;
  for (size_t i = 0; i < f->n_classes && all; i++) all = qi__cache_measure(f, &measured[i]);
  if (all) memcpy(f->classes, measured, sizeof measured);
  size_t n = 0;
  for (size_t i = 0; i < f->n_classes; i++) {
    qi__cache_class class = f->classes[i];
    if (!(class.gain > 0)) continue;
    size_t at = n++;
    for (; at > 0 && f->classes[at - 1].gain < class.gain; at--) f->classes[at] = f->classes[at - 1];
    f->classes[at] = class;
  }
  f->n_classes = n;
}

// ---- filling ----

QI__FN qi_cache_kind *qi__cache_kind(qi__cache *c, qi__arithmetic a) {
  return a == QI__INTEGER ? &c->info.integer : a == QI__FLOAT ? &c->info.f32 : &c->info.bf16;
}

// As many tiles of w as there is room for.
QI__FN qi_result qi__cache_fill_matrix(qi__cache_fill *f, qi__weight *w, qi__arithmetic a, qi_error *err) {
  qi__cache *c = f->c;
  qi__form_job job = {&f->kernels, w, a, c->block + f->used, qi__form_tile_bytes(&f->kernels, a, w->id, w->n_cols), 0};
  size_t n_tiles = qi__min_size(qi__n_tiles(w->n_rows), ((size_t)c->bytes - f->used) / job.tile_bytes);
  size_t part = 1 + QI__CACHE_PART / job.tile_bytes;
  if (!n_tiles) return QI_OK;
  for (; job.begin < n_tiles; job.begin += part) {
    size_t n = qi__min_size(part, n_tiles - job.begin);
    qi__pool_run(f->pool, qi__form_task, &job, (int64_t)n, 1);
    f->done += n * job.tile_bytes;
    if (f->progress.fn && !f->progress.fn(f->progress.user, (float)((double)f->done / (double)f->total)))
      return qi__fail(err, QI_ERR_CANCELLED, "loading was stopped by the progress callback");
  }
  qi__forms *forms = w->forms ? (qi__forms *)(uintptr_t)w->forms : f->forms++;
  forms->bf16 = f->kernels.bf16;
  forms->of[a] = (qi__form){job.data, n_tiles, job.tile_bytes};
  w->forms = forms;
  f->used += n_tiles * job.tile_bytes;
  qi__cache_kind(c, a)->n_matrices++;
  qi__cache_kind(c, a)->bytes += n_tiles * job.tile_bytes;
  return QI_OK;
}

QI__FN qi_result qi__cache_fill_all(qi__cache_fill *f, qi_error *err) {
  qi__weight *w;
  size_t n_matrices = 1 + f->n_layers * QI__LAYER_MATRICES;
  qi__arena arena = {f->c->block, (size_t)f->c->bytes, 0, false};
  f->forms = QI__ARENA_ARRAY(&arena, qi__forms, n_matrices);
  if (!f->forms || !qi__align_up(arena.used, QI__CACHE_LINE, &f->used) || f->used > f->c->bytes) return QI_OK;
  memset(f->forms, 0, n_matrices * sizeof *f->forms);
  qi__cache_choose(f);
  for (size_t k = 0; k < f->n_classes; k++)
    for (size_t i = 0; (w = qi__weights_matrix(f->w, f->n_layers, i)) != NULL; i++) {
      if (w->id != f->classes[k].example->id) continue;
      qi_result r = qi__cache_fill_matrix(f, w, f->classes[k].arithmetic, err);
      if (r) return r;
    }
  return QI_OK;
}

// Fills the block and wires it to the weights. `done` of the progress is counted in bytes, of which `before` are done.
// Errors: QI_ERR_CANCELLED, QI_ERR_OOM.
QI__FN qi_result qi__cache_open(qi__cache *c, qi__weights *w, size_t n_layers, const qi_progress *progress, uint64_t before,
                                qi_error *err) {
  if (!c->bytes) return QI_OK;
  qi_pool own;
  const qi_pool_desc one = {1, QI_ISA_AUTO, {NULL, NULL}, {NULL, NULL, NULL}};
  qi_result r = c->pool ? QI_OK : qi__pool_init(&own, &one, err);
  if (r) return r;
  uint64_t start = qi__now_us();
  qi__cache_fill f;
  memset(&f, 0, sizeof f);
  f.c = c;
  f.pool = c->pool ? c->pool : &own;
  f.w = w;
  f.n_layers = n_layers;
  f.progress = *progress;
  f.done = before;
  f.total = before + c->bytes;
  qi__kernels_init(&f.kernels, &f.pool->cpu);
  r = qi__cache_fill_all(&f, err);
  if (!c->pool) qi__pool_destroy(&own);
  c->info.bytes = c->bytes;
  c->info.seconds = (double)(qi__now_us() - start) * 1e-6;
  return r;
}

#endif // QI__MODEL_CACHE_H
