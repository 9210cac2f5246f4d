// ==== >>bf16 : products of bfloat16 panels ====
#ifndef QI__KERNELS_BF16_H
#define QI__KERNELS_BF16_H

#include "dequant.h"
#include "tiles.h"
#include "vector.h"

// The BF16 path on CPUs that multiply bfloat16: weights and activations are rounded to bfloat16, products are exact, sums are
// float32. Without such instructions the rounded values go through qi__dot_float_fn, which is the reference.
//
//   y[i, r] = sum_j w[r, j] * x[i, j]
//
// Weight rows are unpacked 32 at a time, a slice of k at a time, into a panel that stays in the second-level cache while all rows
// of activations pass it. Sums go on in y from one slice to the next. Each is a chain of its own over ascending k, so bits do not
// depend on the rows beside it, on slices or on threads; they do depend on the instruction set, since the instructions differ in
// the order inside their step and take subnormals for zeros. Of k additions, each off by at most half a unit:
//
//   |y - exact| <= k * 2^-24 / (1 - k * 2^-24) * sum_j |w[r, j] * x[i, j]| + k * 2^-126 * (1 + max |w| + max |x|)
//
// (Higham 2002, section 3.1; the last term is what is lost with subnormal inputs, products and sums.)
//
//   panel:       [2][k / 2][16][2]            two blocks of 16 weight rows; pairs of k beside each other
//   activations: [n / 16][k / 32][16][32]     tiles of 16 rows of 64 bytes: a row fills cache lines that no other thread writes
//
// k is rounded up to a multiple of 32 with zeros in both; weight rows that are not there are zeros, activation rows whatever is in
// memory: no other row sees them.

#define QI__BF16_ROWS 32   // weight rows of a panel
#define QI__BF16_TILES 32  // rows of activations that share what is loaded of a panel, from a multiple of 16 on
#define QI__BF16_SLICE_MAX 2048 // largest slice of k
#define QI__BF16_BATCH 256 // rows of activations at a time: a slice of them and a panel fit into a second-level cache of 2 MB
#define QI__BF16_STEP 256  // weights of a row that are unpacked at a time: the longest block
#define QI__BF16_STRIDE (QI__BF16_STEP + 32) // of rows that are unpacked: not all into the same cache set

QI__INLINE size_t qi__bf16_width(size_t k) { return (k + 31) / 32 * 32; }

// Rows of memory that may be fetched into the second-level cache while a matrix unit multiplies.
typedef struct qi__lines {
  uintptr_t row;
  size_t stride, row_bytes, n_rows;
  size_t at; // in the row
} qi__lines;

typedef struct qi__bf16_args {
  const uint16_t *panel;
  size_t n_w, n_k;   // weight rows in the panel; its width, a multiple of 32
  const uint16_t *x; // first tile of the slice
  size_t x_stride;   // elements from 16 rows of activations to the next 16
  size_t x_row, n_x;
  bool first;        // slice: y is set, later ones add to it
  float *y;          // [n_x, n_w]
  size_t y_stride;
  qi__lines next[2]; // needed next: where the sums are taken, and weights
} qi__bf16_args;

// `multiply` is NULL where there are no instructions.
typedef struct qi__bf16_kernels {
  size_t slice; // of k, a multiple of QI__BF16_STEP
  void (*pack)(const float *x, size_t k, uint16_t *packed, size_t row);
  void (*unpack)(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst);
  void (*interleave)(const uint16_t *rows, size_t n_k, uint16_t *panel);
  void (*multiply)(const qi__bf16_args *a);
  void (*begin)(void), (*end)(void); // around products of a thread; NULL where there is nothing to be done
} qi__bf16_kernels;

QI__INLINE void qi__bf16_begin(const qi__bf16_kernels *k) {
  if (k->begin) k->begin();
}
QI__INLINE void qi__bf16_end(const qi__bf16_kernels *k) {
  if (k->end) k->end();
}

// First element of row `row` in packed activations of width k.
QI__INLINE size_t qi__bf16_row(size_t k, size_t row) { return row / 16 * 16 * qi__bf16_width(k) + row % 16 * 32; }

#if defined(QI__HAS_AVX512_BF16)

// ---- layout ----

// Row `row` of packed activations.
QI__FN QI__AVX512_BF16 void qi__bf16_pack_avx512(const float *x, size_t k, uint16_t *packed, size_t row) {
  uint16_t *dst = packed + qi__bf16_row(k, row);
  for (size_t j = 0; j < k; j += 32, dst += 512) {
    __m512 low = _mm512_maskz_loadu_ps(qi__tail_mask_avx512(k - j), x + j), high = _mm512_setzero_ps();
    if (k - j > 16) high = _mm512_maskz_loadu_ps(qi__tail_mask_avx512(k - j - 16), x + j + 16);
    qi__store_bf16_avx512(dst, low, high);
  }
}

QI__INLINE QI__AVX512 __m128i qi__eight_avx512(const uint16_t *row) {
  return _mm_loadu_si128((const __m128i *)(const void *)row);
}

// Transposes pairs: panel[p][r] = rows[r][p] for 16 rows, QI__BF16_STRIDE apart, of n_k / 2 pairs.
QI__FN QI__AVX512 void qi__bf16_interleave_avx512(const uint16_t *rows, size_t n_k, uint16_t *panel) {
  const size_t next = 4 * QI__BF16_STRIDE;
  for (size_t j = 0; j < n_k; j += 8, rows += 8, panel += 128) {
    __m512i a[4], b[4];
    QI__UNROLL for (size_t r = 0; r < 4; r++) { // 128-bit lane l: four pairs of row 4l + r
      const uint16_t *row = rows + r * QI__BF16_STRIDE;
      a[r] = _mm512_castsi128_si512(qi__eight_avx512(row));
      a[r] = _mm512_inserti32x4(a[r], qi__eight_avx512(row + next), 1);
      a[r] = _mm512_inserti32x4(a[r], qi__eight_avx512(row + 2 * next), 2);
      a[r] = _mm512_inserti32x4(a[r], qi__eight_avx512(row + 3 * next), 3);
    }
    QI__UNROLL for (int r = 0; r < 4; r += 2) {
      b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
      b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
    }
    QI__UNROLL for (int p = 0; p < 2; p++) {
      _mm512_storeu_si512((void *)(panel + 64 * p), _mm512_unpacklo_epi64(b[p], b[p + 2]));
      _mm512_storeu_si512((void *)(panel + 64 * p + 32), _mm512_unpackhi_epi64(b[p], b[p + 2]));
    }
  }
}

// ---- AVX512-BF16 ----

// Clang 16 does not come to an end over the cast of a broadcast pair, unless it cannot see where the pair is from.
#if defined(__clang__) && __clang_major__ == 16
#define QI__BF16_PAIRS(v) __asm__("" : "+v"(v))
#else
#define QI__BF16_PAIRS(v) ((void)0)
#endif

// n <= 8 activation rows of one tile, the first at `x`; n is a constant where this is inlined. The lanes are weight rows.
QI__INLINE QI__AVX512_BF16 void qi__bf16_rows_avx512(const qi__bf16_args *a, const uint16_t *x, int n, float *y) {
  const uint16_t *w = a->panel, *w_end = w + a->n_k * 16;
  const size_t second = a->n_k * 16; // block of 16 weight rows
  __mmask16 mask[2] = {qi__tail_mask_avx512(a->n_w), a->n_w > 16 ? qi__tail_mask_avx512(a->n_w - 16) : (__mmask16)0};
  __m512 sum[8][2];
  QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int b = 0; b < 2; b++)
    sum[i][b] = a->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask[b], y + (size_t)i * a->y_stride + 16 * b);
  for (; w < w_end; x += 480)
    for (int pair = 0; pair < 16; pair++, w += 32, x += 2) {
      __m512bh w0 = (__m512bh)_mm512_loadu_si512((const void *)w), w1 = (__m512bh)_mm512_loadu_si512((const void *)(w + second));
      QI__UNROLL for (int i = 0; i < n; i++) {
        int both;
        memcpy(&both, x + 32 * i, sizeof both);
        __m512i v = _mm512_set1_epi32(both);
        QI__BF16_PAIRS(v);
        sum[i][0] = _mm512_dpbf16_ps(sum[i][0], w0, (__m512bh)v);
        sum[i][1] = _mm512_dpbf16_ps(sum[i][1], w1, (__m512bh)v);
      }
    }
  QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int b = 0; b < 2; b++)
    _mm512_mask_storeu_ps(y + (size_t)i * a->y_stride + 16 * b, mask[b], sum[i][b]);
}

QI__FN QI__AVX512_BF16 void qi__bf16_multiply_avx512(const qi__bf16_args *a) {
  for (size_t i = 0; i < a->n_x;) {
    size_t row = a->x_row + i, n = qi__min_size(a->n_x - i, 16 - row % 16);
    const uint16_t *x = a->x + row / 16 * a->x_stride + row % 16 * 32;
    float *y = a->y + i * a->y_stride;
    n = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
    if (n == 8) qi__bf16_rows_avx512(a, x, 8, y);
    else if (n == 4) qi__bf16_rows_avx512(a, x, 4, y);
    else if (n == 2) qi__bf16_rows_avx512(a, x, 2, y);
    else qi__bf16_rows_avx512(a, x, 1, y);
    i += n;
  }
}

static const qi__bf16_kernels qi__bf16_avx512 = {QI__BF16_SLICE_MAX, qi__bf16_pack_avx512, qi__to_bf16_avx512,
                                                 qi__bf16_interleave_avx512, qi__bf16_multiply_avx512, NULL, NULL};
#endif

// ---- AMX ----

#if defined(QI__HAS_AMX)

// Tiles are fetched into the first-level cache this many elements before they are loaded, half a tile after each load and each
// product. Where another process shares the core, tile instructions that follow each other without a gap took up to a third
// longer, and products that wait for a load in their midst twice as long: so all loads come before the products.
#define QI__TILE_AHEAD 1024

QI__INLINE QI__AMX void qi__tile_fetch(const uint16_t *half) {
  QI__UNROLL for (int i = 0; i < 8; i++) _mm_prefetch((const char *)(half + 32 * i), _MM_HINT_T0);
}

// So many lines have to be fetched in each of n_steps.
QI__INLINE size_t qi__lines_each(const qi__lines *l, size_t n_steps) {
  return (l->n_rows * (l->row_bytes / QI__CACHE_LINE + 1) + n_steps - 1) / n_steps;
}

QI__INLINE QI__AMX void qi__lines_fetch(qi__lines *l, size_t n) {
  for (; n && l->n_rows; n--) {
    _mm_prefetch((const char *)(l->row + l->at), _MM_HINT_T1);
    l->at += QI__CACHE_LINE;
    if (l->at < l->row_bytes) continue;
    l->at = 0;
    l->row += l->stride;
    l->n_rows--;
  }
}

// 16 activation rows, or 32 if `two`, times 16 weight rows of the panel, or 32 if `wide`. c: sums, rows c_stride floats apart.
QI__INLINE QI__AMX void qi__tiles_multiply(const qi__bf16_args *a, const uint16_t *x, bool two, bool wide, float *c,
                                           size_t c_stride) {
  const uint16_t *w = a->panel, *w_end = w + a->n_k * 16, *x1 = two ? x + a->x_stride : x;
  const size_t second = a->n_k * 16, bytes = c_stride * sizeof *c;
  float *c1 = c + 16 * c_stride;
  QI__TILE_BARRIER();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (!a->first) {
    _tile_loadd(0, c, bytes);
    if (wide) _tile_loadd(1, c + 16, bytes);
    if (two) _tile_loadd(2, c1, bytes);
    if (two && wide) _tile_loadd(3, c1 + 16, bytes);
  }
  const uint16_t *last = w_end - QI__TILE_AHEAD, *w_far = w + QI__TILE_AHEAD, *x_far = x + QI__TILE_AHEAD;
  const uint16_t *x_next = x + 2 * a->x_stride; // the rows that follow
  qi__lines results = a->next[0], weights = a->next[1];
  const size_t n_results = qi__lines_each(&results, a->n_k / 32), n_weights = qi__lines_each(&weights, a->n_k / 32);
  for (; w < w_end; w += 512, x += 512, x1 += 512, w_far += 512, x_far += 512) {
    if (w == last) w_far = a->panel, x_far = x_next;
    qi__lines_fetch(&results, n_results);
    qi__lines_fetch(&weights, n_weights);
    _tile_loadd(4, x, 64);
    qi__tile_fetch(w_far);
    _tile_loadd(6, w, 64);
    qi__tile_fetch(w_far + 256);
    if (two) _tile_loadd(5, x1, 64);
    if (wide) qi__tile_fetch(w_far + second);
    if (wide) _tile_loadd(7, w + second, 64);
    if (wide) qi__tile_fetch(w_far + second + 256);
    _tile_dpbf16ps(0, 4, 6);
    qi__tile_fetch(x_far);
    if (wide) _tile_dpbf16ps(1, 4, 7);
    qi__tile_fetch(x_far + 256);
    if (two) {
      _tile_dpbf16ps(2, 5, 6);
      qi__tile_fetch(x_far + a->x_stride);
      if (wide) _tile_dpbf16ps(3, 5, 7);
      qi__tile_fetch(x_far + a->x_stride + 256);
    }
  }
  _tile_stored(0, c, bytes);
  if (wide) _tile_stored(1, c + 16, bytes);
  if (two) _tile_stored(2, c1, bytes);
  if (two && wide) _tile_stored(3, c1 + 16, bytes);
  QI__TILE_BARRIER();
}

// Between y and sums [32, 32] of tiles that reach beyond it: the rows that y has, of those from `row` on.
QI__INLINE QI__AMX void qi__tiles_copy(const qi__bf16_args *a, size_t row, float *sums, bool to_y) {
  __mmask16 mask[2] = {qi__tail_mask_avx512(a->n_w), a->n_w > 16 ? qi__tail_mask_avx512(a->n_w - 16) : (__mmask16)0};
  for (size_t i = 0; i < 32; i++, sums += 32) {
    if (row + i < a->x_row || row + i >= a->x_row + a->n_x) continue;
    float *y = a->y + (row + i - a->x_row) * a->y_stride;
    for (int b = 0; b < 2; b++) {
      if (to_y) _mm512_mask_storeu_ps(y + 16 * b, mask[b], _mm512_loadu_ps(sums + 16 * b));
      else _mm512_storeu_ps(sums + 16 * b, _mm512_maskz_loadu_ps(mask[b], y + 16 * b));
    }
  }
}

// Rows of activations go 32 or 16 at a time from a multiple of 16 on; sums of rows that are not asked for are thrown away.
QI__FN QI__AMX void qi__bf16_multiply_amx(const qi__bf16_args *a) {
  float sums[32 * 32];
  size_t end = a->x_row + a->n_x;
  bool wide = a->n_w > 16;
  for (size_t row = a->x_row / 16 * 16; row < end; row += 32) {
    const uint16_t *x = a->x + row / 16 * a->x_stride;
    bool two = end - row > 16;
    if (row >= a->x_row && row + (two ? 32 : 16) <= end && a->n_w % 16 == 0) {
      qi__tiles_multiply(a, x, two, wide, a->y + (row - a->x_row) * a->y_stride, a->y_stride);
    } else {
      if (!a->first) {
        memset(sums, 0, sizeof sums);
        qi__tiles_copy(a, row, sums, false);
      }
      qi__tiles_multiply(a, x, two, wide, sums, 32);
      qi__tiles_copy(a, row, sums, true);
    }
  }
}

QI__FN QI__AMX void qi__bf16_begin_amx(void) { qi__tiles_begin(32); }
QI__FN QI__AMX void qi__bf16_end_amx(void) { _tile_release(); }

static const qi__bf16_kernels qi__bf16_amx = {
    QI__BF16_SLICE_MAX, qi__bf16_pack_avx512, qi__to_bf16_avx512, qi__bf16_interleave_avx512, qi__bf16_multiply_amx,
    qi__bf16_begin_amx, qi__bf16_end_amx};
#endif

#endif // QI__KERNELS_BF16_H
