// ==== >>attention : query heads over a piece of the cache ====
#ifndef QI__KERNELS_ATTENTION_H
#define QI__KERNELS_ATTENTION_H

#include "kv_page.h"
#include "vector.h"

// Keys are taken in pieces of this many positions, cut at multiples of it, whatever the chunk or the batch: each piece gives a
// maximum, a sum and a weighted value, and pieces are joined in ascending order. So bits depend on positions alone, long contexts
// can be split over threads piece by piece, and rows that go through a piece together get what each would get alone.
#define QI__ATTENTION_PIECE 256

// Keys and values of one head of one sequence at consecutive positions of a page.
typedef struct qi__kv_run {
  const void *k; // [(n + 15) / 16][head_dim_k][16]: the first position is a multiple of 16; what lies beyond the last is ignored
  const void *v; // [n, head_dim_v]
  size_t n;      // at most QI__ATTENTION_PIECE
  qi_kv_type type; // F32, F16 or BF16
  const void *next; // keys that are wanted next, or any other memory: fetched while values are multiplied
  qi__fetch fetch;  // in which order; no results depend on it
} qi__kv_run;

// Both products of attention are sums over t of a[g, t] * b[t, lane], one chain of fused multiply-adds each, t ascending:
//   scores: g query row, t element of the head, lane a position     values: g query row, t position, lane an element of the head
// Query rows are heads that share a key/value head, of one or several tokens: what is loaded and converted serves several of them.

// Element i; `type` is a constant where this is inlined.
QI__INLINE float qi__kv_value(const void *p, size_t i, qi_kv_type type) {
  if (type == QI_KV_F32) return ((const float *)p)[i];
  uint16_t x = ((const uint16_t *)p)[i];
  return type == QI_KV_F16 ? qi__f16_to_f32(x) : qi__bf16_to_f32(x);
}
QI__INLINE const void *qi__kv_at(const void *p, size_t i, qi_kv_type type) { return (const uint8_t *)p + qi__kv_size(type, i); }

// score[g * QI__ATTENTION_PIECE + j] = dot(q[g], k[j])      g < n_q, q: [n_q, dim], j < n rounded up to QI__KEY_BLOCK
// Scores from n on are whatever memory gives.
QI__FN void qi__attention_scores_ref(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score) {
  for (size_t g = 0; g < n_q; g++, q += dim, score += QI__ATTENTION_PIECE)
    for (size_t j = 0; j < run->n; j += QI__KEY_BLOCK) {
      for (size_t l = 0; l < QI__KEY_BLOCK; l++) score[j + l] = 0;
      for (size_t t = 0; t < dim; t++)
        for (size_t l = 0; l < QI__KEY_BLOCK; l++)
          score[j + l] = fmaf(q[t], qi__kv_value(run->k, j * dim + t * QI__KEY_BLOCK + l, run->type), score[j + l]);
    }
}

// The greater; b when they cannot be ordered, as in MAXPS.
QI__INLINE float qi__greater(float a, float b) { return a > b ? a : b; }

// Scores that a query row does not see: those outside begin..end-1 of n become minus infinity, whose exponential is 0.
QI__INLINE void qi__attention_mask(float *score, size_t begin, size_t end, size_t n) {
  for (size_t j = 0; j < begin; j++) score[j] = -INFINITY;
  for (size_t j = end; j < n; j++) score[j] = -INFINITY;
}

// For each of n_q rows of scores: max[g] = greatest score of begin..end-1 (NaN counts as none); score[g, j] = exp(score[g, j] -
// max[g]) there and 0 elsewhere; sum[g] = their sum. Both run in 16 lanes of j % 16 that are folded in halves, the sum's last eight
// as qi__sum_lanes does. begin < end <= n, n a multiple of 16.
QI__FN void qi__attention_softmax_ref(float *score, size_t n_q, size_t begin, size_t end, size_t n, float *max, float *sum) {
  for (size_t g = 0; g < n_q; g++, score += QI__ATTENTION_PIECE) {
    float lane[16];
    qi__attention_mask(score, begin, end, n);
    for (int l = 0; l < 16; l++) lane[l] = -INFINITY;
    for (size_t j = 0; j < n; j++) lane[j % 16] = qi__greater(score[j], lane[j % 16]);
    for (int w = 8; w > 0; w /= 2)
      for (int l = 0; l < w; l++) lane[l] = qi__greater(lane[l + w], lane[l]);
    max[g] = lane[0];
    memset(lane, 0, sizeof lane);
    for (size_t j = 0; j < n; j++) {
      score[j] = qi__exp_ref(score[j] - max[g]);
      lane[j % 16] += score[j];
    }
    for (int l = 0; l < 8; l++) lane[l] += lane[l + 8];
    sum[g] = qi__sum_lanes(lane);
  }
}

// Elements from i = first on.
QI__INLINE void qi__attention_values_from(const float *weight, size_t n_q, const void *v, size_t n, size_t dim, qi_kv_type type,
                                          size_t first, float *out) {
  for (size_t g = 0; g < n_q; g++, weight += QI__ATTENTION_PIECE, out += dim)
    for (size_t j = 0; j < n; j++)
      for (size_t i = first; i < dim; i++) out[i] = fmaf(weight[j], qi__kv_value(v, j * dim + i, type), out[i]);
}

// out[g * dim + i] += sum_j weight[g * QI__ATTENTION_PIECE + j] * v[j, i]      begin <= j < end, one chain that begins with `out`
QI__FN void qi__attention_values_ref(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end, size_t dim,
                                     float *out) {
  qi__attention_values_from(weight + begin, n_q, qi__kv_at(run->v, begin * dim, run->type), end - begin, dim, run->type, 0, out);
}

// Of query rows, [n] each: running maximum and sum of exponentials; what the values so far and those of the last piece are
// multiplied by.
typedef struct qi__softmax_state {
  float *max, *sum, *keep, *add;
} qi__softmax_state;

// Joins a piece (max and sum of each row) to what came before; `blend` does the same to the values with keep and add.
QI__FN void qi__attention_join_ref(const float *max, const float *sum, size_t n, const qi__softmax_state *all) {
  for (size_t g = 0; g < n; g++) {
    float joint = qi__greater(max[g], all->max[g]);
    all->keep[g] = qi__exp_ref(all->max[g] - joint);
    all->add[g] = qi__exp_ref(max[g] - joint);
    float kept = all->sum[g] * all->keep[g];
    all->sum[g] = fmaf(sum[g], all->add[g], kept);
    all->max[g] = joint;
  }
}

// values[g, i] = values[g, i] * keep[g] + piece[g, i] * add[g]      g < n, i < dim
QI__FN void qi__attention_blend_ref(const float *piece, const float *keep, const float *add, size_t n, size_t dim, float *values) {
  for (size_t g = 0; g < n; g++, piece += dim, values += dim)
    for (size_t i = 0; i < dim; i++) {
      float old = values[i] * keep[g];
      values[i] = fmaf(piece[i], add[g], old);
    }
}

// One of the two products: out[g * out_stride + lane] = sum_t a[g * a_stride + t] * b[t, lane], n_q query rows and n_r registers.
// b[t] lies b_step elements after b[t - 1]; each 16 lanes lie b_next elements after those before.
typedef struct qi__attention_product {
  const float *a;
  size_t a_stride, n_q;
  const void *b;
  size_t b_step, b_next, n_r, n; // t < n
  const uint8_t *ahead;          // see qi__attention_fetch
  size_t turns;                  // bytes of it whose pages take turns
  float *out;
  size_t out_stride;
} qi__attention_product;

// Whole turns of what a product of n elements fetches: as much as it reads.
QI__INLINE size_t qi__attention_turns(const qi__kv_run *run, size_t n) {
  return run->fetch == QI__FETCH_PAGES ? qi__kv_size(run->type, n) & ~(size_t)(QI__FETCH_TURN - 1) : 0;
}

// `lanes` of a register divide 16.
QI__INLINE qi__attention_product qi__attention_scores_of(const float *q, size_t n_q, const qi__kv_run *run, size_t dim,
                                                         size_t lanes, float *score) {
  size_t n_r = (run->n + QI__KEY_BLOCK - 1) / QI__KEY_BLOCK * (QI__KEY_BLOCK / lanes);
  return (qi__attention_product){
    .a = q, .a_stride = dim, .n_q = n_q,
    .b = run->k, .b_step = QI__KEY_BLOCK, .b_next = dim * QI__KEY_BLOCK, .n_r = n_r, .n = dim,
    .ahead = (const uint8_t *)run->v, .turns = qi__attention_turns(run, n_r * lanes * dim),
    .out = score, .out_stride = QI__ATTENTION_PIECE,
  };
}

QI__INLINE qi__attention_product qi__attention_values_of(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin,
                                                         size_t end, size_t dim, size_t lanes, float *out) {
  return (qi__attention_product){
    .a = weight + begin, .a_stride = QI__ATTENTION_PIECE, .n_q = n_q,
    .b = qi__kv_at(run->v, begin * dim, run->type), .b_step = dim, .b_next = 16, .n_r = dim / lanes, .n = end - begin,
    .ahead = (const uint8_t *)run->next, .turns = qi__attention_turns(run, (end - begin) * dim),
    .out = out, .out_stride = dim,
  };
}

// What is left of values when all registers are done.
QI__INLINE void qi__attention_values_rest(const qi__attention_product *p, size_t lanes, qi_kv_type type) {
  if (p->n_r * lanes < p->b_step)
    qi__attention_values_from(p->a, p->n_q, p->b, p->n, p->b_step, type, p->n_r * lanes, p->out);
}

// Values come into the cache while scores are computed, the next keys while values are: row t of a tile that begins with lane
// `first` fetches as many bytes of `ahead` as it reads. The CPU's own prefetching begins anew with each block, which costs a third
// of the speed.
QI__INLINE void qi__attention_fetch(const qi__attention_product *p, size_t first, size_t t, int lanes, qi_kv_type type) {
  const int bytes = (int)qi__kv_size(type, (size_t)lanes);
  QI__UNROLL for (int i = 0; i < bytes; i += QI__CACHE_LINE) {
    size_t at = qi__kv_size(type, first * p->n) + t * (size_t)bytes + (size_t)i;
    qi__prefetch(p->ahead + (at < p->turns ? qi__fetch_turn(at) : at));
  }
}

// A tile of n_q query rows from g on, times n_r registers from r on, has its sums in registers. Its sizes, `type` and `go_on` (sums
// begin with what is in `out`, not with 0) are constants where it is inlined. No sum depends on the sizes.

#if defined(QI__X86_64)

// ---- AVX2 ----

// n_q * n_r <= 8
QI__INLINE QI__AVX2 void qi__attention_tile_avx2(const qi__attention_product *p, size_t g, size_t r, int n_q, int n_r,
                                                 qi_kv_type type, bool go_on) {
  const float *a = p->a + g * p->a_stride;
  const void *b = qi__kv_at(p->b, r / 2 * p->b_next + r % 2 * 8, type);
  float *out = p->out + g * p->out_stride + 8 * r;
  const size_t a_stride = p->a_stride, b_step = p->b_step, b_next = p->b_next;
  __m256 sum[4][8];
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    sum[i][c] = go_on ? _mm256_loadu_ps(out + (size_t)i * p->out_stride + 8 * c) : _mm256_setzero_ps();
  for (size_t t = 0; t < p->n; t++) {
    __m256 row[8];
    qi__attention_fetch(p, r * 8, t, n_r * 8, type);
    QI__UNROLL for (int c = 0; c < n_r; c++)
      row[c] = qi__load_kv_avx2(b, t * b_step + (size_t)(c / 2) * b_next + (size_t)(c % 2 * 8), type);
    QI__UNROLL for (int i = 0; i < n_q; i++) {
      __m256 v = _mm256_broadcast_ss(a + (size_t)i * a_stride + t);
      QI__UNROLL for (int c = 0; c < n_r; c++) sum[i][c] = _mm256_fmadd_ps(v, row[c], sum[i][c]);
    }
  }
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    _mm256_storeu_ps(out + (size_t)i * p->out_stride + 8 * c, sum[i][c]);
}

QI__INLINE QI__AVX2 void qi__attention_tiles_avx2(const qi__attention_product *p, qi_kv_type type, bool go_on) {
  for (size_t g = 0, rows; g < p->n_q; g += rows) {
    rows = p->n_q - g >= 4 ? 4 : p->n_q - g >= 2 ? 2 : 1;
    for (size_t r = 0, regs; r < p->n_r; r += regs) {
      regs = p->n_r - r >= 8 / rows ? 8 / rows : p->n_r - r >= 2 ? 2 : 1;
      if (rows == 4 && regs == 2) qi__attention_tile_avx2(p, g, r, 4, 2, type, go_on);
      else if (rows == 4) qi__attention_tile_avx2(p, g, r, 4, 1, type, go_on);
      else if (rows == 2 && regs == 4) qi__attention_tile_avx2(p, g, r, 2, 4, type, go_on);
      else if (rows == 2 && regs == 2) qi__attention_tile_avx2(p, g, r, 2, 2, type, go_on);
      else if (rows == 2) qi__attention_tile_avx2(p, g, r, 2, 1, type, go_on);
      else if (regs == 8) qi__attention_tile_avx2(p, g, r, 1, 8, type, go_on);
      else if (regs == 2) qi__attention_tile_avx2(p, g, r, 1, 2, type, go_on);
      else qi__attention_tile_avx2(p, g, r, 1, 1, type, go_on);
    }
  }
}

QI__INLINE QI__AVX2 void qi__attention_product_avx2(const qi__attention_product *p, qi_kv_type type, bool go_on) {
  if (type == QI_KV_F16) qi__attention_tiles_avx2(p, QI_KV_F16, go_on);
  else if (type == QI_KV_BF16) qi__attention_tiles_avx2(p, QI_KV_BF16, go_on);
  else qi__attention_tiles_avx2(p, QI_KV_F32, go_on);
}

QI__FN QI__AVX2 void qi__attention_scores_avx2(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score) {
  qi__attention_product p = qi__attention_scores_of(q, n_q, run, dim, 8, score);
  qi__attention_product_avx2(&p, run->type, false);
}

QI__FN QI__AVX2 void qi__attention_values_avx2(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end,
                                               size_t dim, float *out) {
  qi__attention_product p = qi__attention_values_of(weight, n_q, run, begin, end, dim, 8, out);
  qi__attention_product_avx2(&p, run->type, true);
  qi__attention_values_rest(&p, 8, run->type);
}

// The greatest of eight lanes, folded in halves.
QI__INLINE QI__AVX2 float qi__greatest_avx2(__m256 v) {
  __m128 a = _mm_max_ps(_mm256_extractf128_ps(v, 1), _mm256_castps256_ps128(v));
  a = _mm_max_ps(_mm_movehl_ps(a, a), a);
  return _mm_cvtss_f32(_mm_max_ss(_mm_shuffle_ps(a, a, 1), a));
}

QI__FN QI__AVX2 void qi__attention_softmax_avx2(float *score, size_t n_q, size_t begin, size_t end, size_t n, float *max,
                                                float *sum) {
  for (size_t g = 0; g < n_q; g++, score += QI__ATTENTION_PIECE) {
    __m256 most[2], total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    qi__attention_mask(score, begin, end, n);
    most[0] = most[1] = _mm256_set1_ps(-INFINITY);
    for (size_t j = 0; j < n; j += 16) {
      most[0] = _mm256_max_ps(_mm256_loadu_ps(score + j), most[0]);
      most[1] = _mm256_max_ps(_mm256_loadu_ps(score + j + 8), most[1]);
    }
    max[g] = qi__greatest_avx2(_mm256_max_ps(most[1], most[0]));
    const __m256 minus = _mm256_set1_ps(max[g]);
    for (size_t j = 0; j < n; j += 16)
      QI__UNROLL for (int i = 0; i < 2; i++) {
        __m256 e = qi__exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(score + j + 8 * i), minus));
        _mm256_storeu_ps(score + j + 8 * i, e);
        total[i] = _mm256_add_ps(total[i], e);
      }
    sum[g] = qi__sum_lanes_avx2(_mm256_add_ps(total[0], total[1]));
  }
}

QI__FN QI__AVX2 void qi__attention_join_avx2(const float *max, const float *sum, size_t n, const qi__softmax_state *all) {
  size_t g = 0;
  for (; g + 8 <= n; g += 8) {
    __m256 before = _mm256_loadu_ps(all->max + g), now = _mm256_loadu_ps(max + g), joint = _mm256_max_ps(now, before);
    __m256 keep = qi__exp_avx2(_mm256_sub_ps(before, joint)), add = qi__exp_avx2(_mm256_sub_ps(now, joint));
    __m256 kept = _mm256_mul_ps(_mm256_loadu_ps(all->sum + g), keep);
    _mm256_storeu_ps(all->keep + g, keep);
    _mm256_storeu_ps(all->add + g, add);
    _mm256_storeu_ps(all->sum + g, _mm256_fmadd_ps(_mm256_loadu_ps(sum + g), add, kept));
    _mm256_storeu_ps(all->max + g, joint);
  }
  qi__softmax_state rest = {all->max + g, all->sum + g, all->keep + g, all->add + g};
  qi__attention_join_ref(max + g, sum + g, n - g, &rest);
}

QI__FN QI__AVX2 void qi__attention_blend_avx2(const float *piece, const float *keep, const float *add, size_t n, size_t dim,
                                              float *values) {
  for (size_t g = 0; g < n; g++, piece += dim, values += dim) {
    const __m256 keeps = _mm256_set1_ps(keep[g]), adds = _mm256_set1_ps(add[g]);
    size_t i = 0;
    for (; i + 8 <= dim; i += 8) {
      __m256 old = _mm256_mul_ps(_mm256_loadu_ps(values + i), keeps);
      _mm256_storeu_ps(values + i, _mm256_fmadd_ps(_mm256_loadu_ps(piece + i), adds, old));
    }
    qi__attention_blend_ref(piece + i, keep + g, add + g, 1, dim - i, values + i);
  }
}

// ---- AVX-512 ----

// n_q * n_r <= 16
QI__INLINE QI__AVX512 void qi__attention_tile_avx512(const qi__attention_product *p, size_t g, size_t r, int n_q, int n_r,
                                                     qi_kv_type type, bool go_on) {
  const float *a = p->a + g * p->a_stride;
  const void *b = qi__kv_at(p->b, r * p->b_next, type);
  float *out = p->out + g * p->out_stride + 16 * r;
  const size_t a_stride = p->a_stride, b_step = p->b_step, b_next = p->b_next;
  __m512 sum[8][4];
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    sum[i][c] = go_on ? _mm512_loadu_ps(out + (size_t)i * p->out_stride + 16 * c) : _mm512_setzero_ps();
  for (size_t t = 0; t < p->n; t++) {
    __m512 row[4];
    qi__attention_fetch(p, r * 16, t, n_r * 16, type);
    QI__UNROLL for (int c = 0; c < n_r; c++) row[c] = qi__load_kv_avx512(b, t * b_step + (size_t)c * b_next, type);
    QI__UNROLL for (int i = 0; i < n_q; i++) {
      __m512 v = _mm512_set1_ps(a[(size_t)i * a_stride + t]);
      QI__UNROLL for (int c = 0; c < n_r; c++) sum[i][c] = _mm512_fmadd_ps(v, row[c], sum[i][c]);
    }
  }
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    _mm512_storeu_ps(out + (size_t)i * p->out_stride + 16 * c, sum[i][c]);
}

QI__INLINE QI__AVX512 void qi__attention_tiles_avx512(const qi__attention_product *p, qi_kv_type type, bool go_on) {
  for (size_t g = 0, rows; g < p->n_q; g += rows) {
    size_t left = p->n_q - g;
    rows = left >= 8 ? 8 : left == 7 || left == 4 ? 4 : left >= 3 ? 3 : left; // 5 = 3 + 2, 6 = 3 + 3
    for (size_t r = 0, regs; r < p->n_r; r += regs) {
      regs = rows == 8 ? 2 : 4;
      if (p->n_r - r < regs) regs = 1;
      if (rows == 8 && regs == 2) qi__attention_tile_avx512(p, g, r, 8, 2, type, go_on);
      else if (rows == 8) qi__attention_tile_avx512(p, g, r, 8, 1, type, go_on);
      else if (rows == 4 && regs == 4) qi__attention_tile_avx512(p, g, r, 4, 4, type, go_on);
      else if (rows == 4) qi__attention_tile_avx512(p, g, r, 4, 1, type, go_on);
      else if (rows == 3 && regs == 4) qi__attention_tile_avx512(p, g, r, 3, 4, type, go_on);
      else if (rows == 3) qi__attention_tile_avx512(p, g, r, 3, 1, type, go_on);
      else if (rows == 2 && regs == 4) qi__attention_tile_avx512(p, g, r, 2, 4, type, go_on);
      else if (rows == 2) qi__attention_tile_avx512(p, g, r, 2, 1, type, go_on);
      else if (regs == 4) qi__attention_tile_avx512(p, g, r, 1, 4, type, go_on);
      else qi__attention_tile_avx512(p, g, r, 1, 1, type, go_on);
    }
  }
}

QI__INLINE QI__AVX512 void qi__attention_product_avx512(const qi__attention_product *p, qi_kv_type type, bool go_on) {
  if (type == QI_KV_F16) qi__attention_tiles_avx512(p, QI_KV_F16, go_on);
  else if (type == QI_KV_BF16) qi__attention_tiles_avx512(p, QI_KV_BF16, go_on);
  else qi__attention_tiles_avx512(p, QI_KV_F32, go_on);
}

QI__FN QI__AVX512 void qi__attention_scores_avx512(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score) {
  qi__attention_product p = qi__attention_scores_of(q, n_q, run, dim, 16, score);
  qi__attention_product_avx512(&p, run->type, false);
}

// Elements that do not fill a register are done as in AVX2.
QI__FN QI__AVX512 void qi__attention_values_avx512(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end,
                                                   size_t dim, float *out) {
  qi__attention_product p = qi__attention_values_of(weight, n_q, run, begin, end, dim, 16, out);
  qi__attention_product_avx512(&p, run->type, true);
  if (dim % 16 == 0) return;
  qi__attention_product rest = p;
  rest.b = qi__kv_at(p.b, dim / 16 * 16, run->type);
  rest.out = out + dim / 16 * 16;
  rest.n_r = dim % 16 / 8;
  if (rest.n_r) qi__attention_product_avx2(&rest, run->type, true);
  p.n_r = dim / 8;
  qi__attention_values_rest(&p, 8, run->type);
}

QI__INLINE QI__AVX512 float qi__greatest_avx512(__m512 v) {
  return qi__greatest_avx2(_mm256_max_ps(_mm512_extractf32x8_ps(v, 1), _mm512_castps512_ps256(v)));
}

// Rows at once: a row alone waits for its own maximum.
QI__INLINE QI__AVX512 void qi__attention_softmax_rows_avx512(float *score, int rows, size_t n, float *max, float *sum) {
  __m512 most[4], total[4];
  QI__UNROLL for (int r = 0; r < rows; r++) most[r] = _mm512_set1_ps(-INFINITY), total[r] = _mm512_setzero_ps();
  for (size_t j = 0; j < n; j += 16)
    QI__UNROLL for (int r = 0; r < rows; r++)
      most[r] = _mm512_max_ps(_mm512_loadu_ps(score + r * QI__ATTENTION_PIECE + j), most[r]);
  QI__UNROLL for (int r = 0; r < rows; r++) {
    max[r] = qi__greatest_avx512(most[r]);
    most[r] = _mm512_set1_ps(max[r]);
  }
  for (size_t j = 0; j < n; j += 16)
    QI__UNROLL for (int r = 0; r < rows; r++) {
      float *at = score + r * QI__ATTENTION_PIECE + j;
      __m512 e = qi__exp_avx512(_mm512_sub_ps(_mm512_loadu_ps(at), most[r]));
      _mm512_storeu_ps(at, e);
      total[r] = _mm512_add_ps(total[r], e);
    }
  QI__UNROLL for (int r = 0; r < rows; r++)
    sum[r] = qi__sum_lanes_avx2(_mm256_add_ps(_mm512_castps512_ps256(total[r]), _mm512_extractf32x8_ps(total[r], 1)));
}

QI__FN QI__AVX512 void qi__attention_softmax_avx512(float *score, size_t n_q, size_t begin, size_t end, size_t n, float *max,
                                                    float *sum) {
  size_t g = 0;
  for (; g < n_q; g++) qi__attention_mask(score + g * QI__ATTENTION_PIECE, begin, end, n);
  for (g = 0; g + 4 <= n_q; g += 4) qi__attention_softmax_rows_avx512(score + g * QI__ATTENTION_PIECE, 4, n, max + g, sum + g);
  for (; g < n_q; g++) qi__attention_softmax_rows_avx512(score + g * QI__ATTENTION_PIECE, 1, n, max + g, sum + g);
}

#if defined(QI__HAS_AVX512_BF16)

// ---- panels for the matrix unit ----

// qi__load_kv_avx512 of some lanes, 0 in the others, which are not read.
QI__INLINE QI__AVX512 __m512 qi__load_lanes_avx512(const void *p, __mmask16 mask, qi_kv_type type) {
  if (type == QI_KV_F32) return _mm512_maskz_loadu_ps(mask, p);
  __m256i x = _mm256_maskz_loadu_epi16(mask, p);
  return type == QI_KV_F16 ? _mm512_cvtph_ps(x) : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// Lanes of b as weight rows of a panel of kernels/bf16.h: panel[t / 2][lane][t % 2] = b[t, lane] rounded to bfloat16, t < n rounded
// up to 32, lane < 16; 0 where t >= n or lane >= n_lanes. `finite`: what is infinite or NaN becomes the greatest number, so that a
// weight of 0 takes it away.
QI__FN QI__AVX512_BF16 void qi__attention_panel_avx512(const void *b, size_t b_step, size_t n, size_t n_lanes, qi_kv_type type,
                                                       bool finite, uint16_t *panel) {
  static const uint16_t pairs[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                     8,  24, 9,  25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_loadu_si512((const void *)pairs);
  const __m512 most = _mm512_castsi512_ps(_mm512_set1_epi32(0x7f7f0000)), least = _mm512_sub_ps(_mm512_setzero_ps(), most);
  const __mmask16 mask = qi__tail_mask_avx512(n_lanes);
  for (size_t t = 0; t < (n + 31) / 32 * 32; t += 2, panel += 32) {
    __m512 two[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t i = 0; i < 2 && t + i < n; i++) {
      two[i] = qi__load_lanes_avx512(qi__kv_at(b, (t + i) * b_step, type), mask, type);
      if (finite) two[i] = _mm512_max_ps(_mm512_min_ps(two[i], most), least);
    }
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(two[1], two[0]);
    _mm512_storeu_si512((void *)panel, _mm512_permutexvar_epi16(order, both));
  }
}
#endif
#endif

// ---- NEON ----

#if defined(QI__ARM64)

// n_q * n_r <= 16
QI__INLINE void qi__attention_tile_neon(const qi__attention_product *p, size_t g, size_t r, int n_q, int n_r, qi_kv_type type,
                                        bool go_on) {
  const float *a = p->a + g * p->a_stride;
  const void *b = qi__kv_at(p->b, r / 4 * p->b_next + r % 4 * 4, type);
  float *out = p->out + g * p->out_stride + 4 * r;
  const size_t a_stride = p->a_stride, b_step = p->b_step, b_next = p->b_next;
  float32x4_t sum[4][8];
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    sum[i][c] = go_on ? vld1q_f32(out + (size_t)i * p->out_stride + 4 * c) : vdupq_n_f32(0);
  for (size_t t = 0; t < p->n; t++) {
    float32x4_t row[8];
    qi__attention_fetch(p, r * 4, t, n_r * 4, type);
    QI__UNROLL for (int c = 0; c < n_r; c++)
      row[c] = qi__load_kv_neon(b, t * b_step + (size_t)(c / 4) * b_next + (size_t)(c % 4 * 4), type);
    QI__UNROLL for (int i = 0; i < n_q; i++) {
      float32x4_t v = vld1q_dup_f32(a + (size_t)i * a_stride + t);
      QI__UNROLL for (int c = 0; c < n_r; c++) sum[i][c] = vfmaq_f32(sum[i][c], v, row[c]);
    }
  }
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    vst1q_f32(out + (size_t)i * p->out_stride + 4 * c, sum[i][c]);
}

QI__INLINE void qi__attention_tiles_neon(const qi__attention_product *p, qi_kv_type type, bool go_on) {
  for (size_t g = 0, rows; g < p->n_q; g += rows) {
    rows = p->n_q - g >= 4 ? 4 : p->n_q - g >= 2 ? 2 : 1;
    for (size_t r = 0, regs; r < p->n_r; r += regs) {
      regs = rows == 4 ? 4 : 8;
      if (p->n_r - r < regs) regs = 1;
      if (rows == 4 && regs == 4) qi__attention_tile_neon(p, g, r, 4, 4, type, go_on);
      else if (rows == 4) qi__attention_tile_neon(p, g, r, 4, 1, type, go_on);
      else if (rows == 2 && regs == 8) qi__attention_tile_neon(p, g, r, 2, 8, type, go_on);
      else if (rows == 2) qi__attention_tile_neon(p, g, r, 2, 1, type, go_on);
      else if (regs == 8) qi__attention_tile_neon(p, g, r, 1, 8, type, go_on);
      else qi__attention_tile_neon(p, g, r, 1, 1, type, go_on);
    }
  }
}

QI__INLINE void qi__attention_product_neon(const qi__attention_product *p, qi_kv_type type, bool go_on) {
  if (type == QI_KV_F16) qi__attention_tiles_neon(p, QI_KV_F16, go_on);
  else if (type == QI_KV_BF16) qi__attention_tiles_neon(p, QI_KV_BF16, go_on);
  else qi__attention_tiles_neon(p, QI_KV_F32, go_on);
}

QI__FN void qi__attention_scores_neon(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score) {
  qi__attention_product p = qi__attention_scores_of(q, n_q, run, dim, 4, score);
  qi__attention_product_neon(&p, run->type, false);
}

QI__FN void qi__attention_values_neon(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end, size_t dim,
                                      float *out) {
  qi__attention_product p = qi__attention_values_of(weight, n_q, run, begin, end, dim, 4, out);
  qi__attention_product_neon(&p, run->type, true);
  qi__attention_values_rest(&p, 4, run->type);
}

// a > b ? a : b in each lane, which FMAX is not for NaN.
QI__INLINE float32x4_t qi__greater_neon(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

QI__FN void qi__attention_softmax_neon(float *score, size_t n_q, size_t begin, size_t end, size_t n, float *max, float *sum) {
  for (size_t g = 0; g < n_q; g++, score += QI__ATTENTION_PIECE) {
    float lane[8];
    float32x4_t most[4], total[4];
    qi__attention_mask(score, begin, end, n);
    QI__UNROLL for (int i = 0; i < 4; i++) most[i] = vdupq_n_f32(-INFINITY), total[i] = vdupq_n_f32(0);
    for (size_t j = 0; j < n; j += 16)
      QI__UNROLL for (int i = 0; i < 4; i++) most[i] = qi__greater_neon(vld1q_f32(score + j + 4 * i), most[i]);
    vst1q_f32(lane, qi__greater_neon(qi__greater_neon(most[3], most[1]), qi__greater_neon(most[2], most[0])));
    for (int w = 2; w > 0; w /= 2)
      for (int l = 0; l < w; l++) lane[l] = qi__greater(lane[l + w], lane[l]);
    max[g] = lane[0];
    const float32x4_t minus = vdupq_n_f32(max[g]);
    for (size_t j = 0; j < n; j += 16)
      QI__UNROLL for (int i = 0; i < 4; i++) {
        float32x4_t e = qi__exp_neon(vsubq_f32(vld1q_f32(score + j + 4 * i), minus));
        vst1q_f32(score + j + 4 * i, e);
        total[i] = vaddq_f32(total[i], e);
      }
    vst1q_f32(lane, vaddq_f32(total[0], total[2]));
    vst1q_f32(lane + 4, vaddq_f32(total[1], total[3]));
    sum[g] = qi__sum_lanes(lane);
  }
}

QI__FN void qi__attention_join_neon(const float *max, const float *sum, size_t n, const qi__softmax_state *all) {
  size_t g = 0;
  for (; g + 4 <= n; g += 4) {
    float32x4_t before = vld1q_f32(all->max + g), now = vld1q_f32(max + g), joint = qi__greater_neon(now, before);
    float32x4_t keep = qi__exp_neon(vsubq_f32(before, joint)), add = qi__exp_neon(vsubq_f32(now, joint));
    float32x4_t kept = vmulq_f32(vld1q_f32(all->sum + g), keep);
    vst1q_f32(all->keep + g, keep);
    vst1q_f32(all->add + g, add);
    vst1q_f32(all->sum + g, vfmaq_f32(kept, vld1q_f32(sum + g), add));
    vst1q_f32(all->max + g, joint);
  }
  qi__softmax_state rest = {all->max + g, all->sum + g, all->keep + g, all->add + g};
  qi__attention_join_ref(max + g, sum + g, n - g, &rest);
}

QI__FN void qi__attention_blend_neon(const float *piece, const float *keep, const float *add, size_t n, size_t dim, float *values) {
  for (size_t g = 0; g < n; g++, piece += dim, values += dim) {
    size_t i = 0;
    for (; i + 4 <= dim; i += 4) {
      float32x4_t old = vmulq_n_f32(vld1q_f32(values + i), keep[g]);
      vst1q_f32(values + i, vfmaq_f32(old, vld1q_f32(piece + i), vdupq_n_f32(add[g])));
    }
    qi__attention_blend_ref(piece + i, keep + g, add + g, 1, dim - i, values + i);
  }
}
#endif

#endif // QI__KERNELS_ATTENTION_H
