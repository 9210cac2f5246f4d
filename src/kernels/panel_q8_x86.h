// ==== >>panel_q8_x86 : integer products with many rows of activations ====
#ifndef QI__KERNELS_PANEL_Q8_X86_H
#define QI__KERNELS_PANEL_Q8_X86_H

#include "panel_fill_avx512.h"
#include "panel_multiply_x86.h"
#include "row_q8_x86.h"

#if defined(QI__X86_64)

// ---- all columns ----

// y[r] = qi__sum_lanes of each weight row, r < n_w.
QI__FN QI__AVX2 void qi__panel_sums_avx2(const float *lane, size_t n_w, float *y) {
  float sums[QI__Q8_ROWS], *to = n_w == QI__Q8_ROWS ? y : sums;
  for (size_t r = 0; r < n_w; r += 8) {
    __m256 v[4];
    QI__UNROLL for (size_t l = 0; l < 4; l++)
      v[l] = _mm256_add_ps(_mm256_loadu_ps(lane + l * QI__Q8_ROWS + r), _mm256_loadu_ps(lane + (l + 4) * QI__Q8_ROWS + r));
    _mm256_storeu_ps(to + r, _mm256_add_ps(_mm256_add_ps(v[0], v[2]), _mm256_add_ps(v[1], v[3])));
  }
  if (to != y) memcpy(y, sums, n_w * sizeof *y);
}

// The panel of the chunk at column `at`, n blocks of 32 or one of 256, for n_x rows of activations. `own`: room for it, and behind
// it for signs.
typedef qi__q8_panel (*qi__panel_fill_fn)(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n, size_t n_x,
                                          qi__q8_own_panel *own);
typedef void (*qi__panel_multiply_fn)(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks, size_t n_x,
                                      bool two_halves);

#define QI__STORED_AHEAD 4 // chunks: so early are stored ones fetched from memory, others a tile early

// What is fetched while the chunk at column `at` is multiplied. It may lie beyond the weights.
QI__INLINE qi__panel_ahead qi__panel_ahead_of(const qi__dot_q8_args *a, bool stored, size_t at) {
  uintptr_t p = (uintptr_t)a->w + (at / 256 + QI__STORED_AHEAD) * a->w_stride;
  size_t n = a->w_stride;
  if (!stored) { // an equal part of the next tile, whose rows follow
    n = QI__Q8_ROWS * (256 / (size_t)a->format->info.block_len) * (size_t)a->format->info.block_bytes;
    p = (uintptr_t)a->w + QI__Q8_ROWS * a->w_stride + at / 256 * n;
  }
  return (qi__panel_ahead){p, n / QI__CACHE_LINE + 1};
}

#define QI__SUMS_ROWS 16 // rows of activations whose sums are taken at a time, while their lanes are in the first-level cache

// The last panel with n_x rows of activations, and their results to y.
QI__FN void qi__panel_last_x86(const qi__dot_q8_args *a, const qi__q8_plan *plan, qi__panel_multiply_fn multiply,
                               const qi__q8_panel *p, qi__panel_x x, int n_blocks, const float *lanes, float *y, size_t n_x) {
  qi__panel_ahead ahead = x.ahead;
  for (size_t n; n_x; n_x -= n) {
    n = qi__min_size(QI__SUMS_ROWS, n_x);
    x.ahead = qi__panel_ahead_part(&ahead, n, n_x);
    for (size_t i = 0; i < n; i++)
      for (size_t r = 0; r < a->n_w; r += QI__CACHE_LINE / sizeof *y) __builtin_prefetch(y + i * a->y_stride + r, 1);
    multiply(plan, p, x, n_blocks, n, a->n_w > 16);
    for (size_t i = 0; i < n; i++, lanes += QI__Q8_LANES, y += a->y_stride) qi__panel_sums_avx2(lanes, a->n_w, y);
    qi__panel_x_advance(&x, n);
  }
}

// All weight rows with n_x rows of activations from `first` on. What a->w is, `fill` knows.
QI__FN void qi__dot_batch_x86(const qi__dot_q8_args *a, const qi__q8_plan *plan, qi__panel_fill_fn fill,
                              qi__panel_multiply_fn multiply, size_t first, size_t n_x) {
  qi__q8_own_panel *own = (qi__q8_own_panel *)(void *)a->scratch;
  float *lanes = a->scratch + QI__Q8_PANEL_FLOATS;
  size_t k = a->x->k, block = a->x->block;
  if (k < 8 * block) memset(lanes, 0, n_x * QI__Q8_LANES * sizeof *lanes); // not all get something
  for (size_t at = 0; at < k; at += 256) {
    int n = (int)qi__min_size(8, (k - at) / 32);
    qi__q8_panel p = fill(a, plan, at, n, n_x, own);
    qi__q8_chunk q = qi__q8_chunk_at(a->x, a->x_row + first, at);
    qi__panel_x x = {q.q, q.sum, q.d, k, k / block, lanes + at / block % 8 * QI__Q8_ROWS, at < 8 * block,
                     qi__panel_ahead_of(a, fill == qi__panel_fill_stored, at)};
    if (at + 256 < k) multiply(plan, &p, x, n, n_x, a->n_w > 16);
    else qi__panel_last_x86(a, plan, multiply, &p, x, n, lanes, a->y + first * a->y_stride, n_x);
  }
}

QI__FN void qi__dot_panels_x86(const qi__dot_q8_args *a, bool vnni, qi__panel_fill_fn fill, qi__panel_multiply_fn multiply) {
  qi__q8_plan plan = qi__q8_plan_of(a->format, vnni);
  for (size_t first = 0; first < a->n_x; first += QI__Q8_BATCH)
    qi__dot_batch_x86(a, &plan, fill, multiply, first, qi__min_size(QI__Q8_BATCH, a->n_x - first));
}

// ---- the kernels ----

// Rows of activations from which a panel pays (Zen 4, two threads, weights from memory): the longer the row kernels take, the
// fewer.
QI__FN size_t qi__panel_from(const qi__format *f, bool vnni) {
  qi_format id = f->id;
  switch (id) {
  case QI_FORMAT_Q4_K: return vnni ? 9 : 11;
  case QI_FORMAT_Q5_K: return vnni ? 9 : 13;
  case QI_FORMAT_Q6_K: return vnni ? 11 : 13;
  case QI_FORMAT_Q8_0: return 9;
  case QI_FORMAT_Q4_0: return vnni ? 7 : 6;
  case QI_FORMAT_Q2_K: return vnni ? 4 : 5;
  default: return qi__is_iq_grid(id) ? 2 : vnni ? 3 : 4;
  }
}

// The same with AVX-512 on Intel (Sapphire Rapids, one thread).
QI__FN size_t qi__panel_from_intel(const qi__format *f) {
  if (f->id == QI_FORMAT_Q4_K || f->id == QI_FORMAT_Q5_K) return 5;
  return qi__is_iq_grid(f->id) ? 2 : 3;
}

QI__INLINE bool qi__panel_pays(const qi__dot_q8_args *a, bool vnni) {
  const bool intel = a->fetch == QI__FETCH_PAGES; // so read Intel's processors alone
  return a->n_x >= (vnni && intel ? qi__panel_from_intel(a->format) : qi__panel_from(a->format, vnni));
}

#define QI__DOT_Q8(isa, vnni, fill, multiply) \
  QI__FN void qi__dot_q8_##isa(const qi__dot_q8_args *a) { \
    if (qi__panel_pays(a, vnni)) { \
      qi__dot_panels_x86(a, vnni, fill, multiply); \
      return; \
    } \
    qi__dot_q8_args rows = *a; \
    for (size_t n; rows.n_x; rows.x_row += n, rows.n_x -= n, rows.y += n * a->y_stride) n = qi__dot_row_##isa(&rows); \
  }

QI__DOT_Q8(avx2, false, qi__panel_fill_avx2, qi__panel_multiply_avx2)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_Q8(avx_vnni, false, qi__panel_fill_avx2, qi__panel_multiply_avx2) // these need no VNNI
#endif
QI__DOT_Q8(avx512, true, qi__panel_fill_avx512, qi__panel_multiply_avx512)

QI__FN void qi__dot_stored_avx2(const qi__dot_q8_args *a) {
  qi__dot_panels_x86(a, false, qi__panel_fill_stored, qi__panel_multiply_avx2);
}
QI__FN void qi__dot_stored_avx512(const qi__dot_q8_args *a) {
  qi__dot_panels_x86(a, true, qi__panel_fill_stored, qi__panel_multiply_avx512);
}

// From how many rows on a stored tile is faster than the one-row kernels, both read from memory (Zen 4, two threads). One row is
// bound by memory, and stored tiles are never smaller; they win where its kernel computes for longer: late where that takes up to
// four rows at once.
QI__FN size_t qi__stored_from_avx2(const qi__format *f) {
  qi_format id = f->id;
  switch (id) {
  case QI_FORMAT_Q4_K: return 9;
  case QI_FORMAT_Q5_K:
  case QI_FORMAT_Q6_K: return 13;
  default: return qi__is_iq_grid(id) ? 1 : 4;
  }
}

QI__FN size_t qi__stored_from_avx512(const qi__format *f) {
  qi_format id = f->id;
  switch (id) {
  case QI_FORMAT_Q4_0:
  case QI_FORMAT_Q8_0: return 3;
  case QI_FORMAT_Q4_K: return 7;
  case QI_FORMAT_Q5_K:
  case QI_FORMAT_Q6_K: return 9;
  default: return qi__is_iq_grid(id) ? 1 : 2;
  }
}

static const qi__stored_q8_kernels qi__stored_q8_avx2 = {qi__q8_stored_bytes, qi__stored_from_avx2, qi__q8_store_avx2,
                                                         qi__dot_stored_avx2};
static const qi__stored_q8_kernels qi__stored_q8_avx512 = {qi__q8_stored_bytes, qi__stored_from_avx512, qi__q8_store_avx2,
                                                           qi__dot_stored_avx512};
#endif

#endif // QI__KERNELS_PANEL_Q8_X86_H
