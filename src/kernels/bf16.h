// ==== >>bf16 : products of bfloat16 panels ====
#ifndef QI__KERNELS_BF16_H
#define QI__KERNELS_BF16_H

#include "dequant.h"
#include "tiles.h"
#include "vector.h"

// The BF16 path on CPUs that multiply bfloat16: weights and activations are rounded to bfloat16, products are exact, sums are
// float32. Without such instructions the rounded values are multiplied as float32: panel_f32.h.
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
//
// A matrix unit wants pairs of k beside each other in one of the factors. Activations are fewer than weights, so they have them
// there for products: they are turned, and weights stay as they are.
//
//   panel:       [2][k / 32][16][32]          two blocks of 16 weight rows, in tiles
//   activations: [n / 16][k / 32][16][16][2]  pairs of k; then the rows
//   sums:        [n / 16][32][16]             weight rows; rows of activations

#define QI__BF16_ROWS 32   // weight rows of a panel
#define QI__BF16_SLICE_MAX 2048 // largest slice of k
#define QI__BF16_BATCH 256 // rows of activations at a time: a slice of them and a panel fit into a second-level cache of 2 MB
#define QI__BF16_STEP 256  // weights of a row that are unpacked at a time: the longest block
#define QI__BF16_STRIDE (QI__BF16_STEP + 32) // of rows that are unpacked: not all into the same cache set

QI__INLINE size_t qi__bf16_width(size_t k) { return (k + 31) / 32 * 32; }

typedef struct qi__bf16_args {
  const uint16_t *panel;
  size_t n_w, n_k;   // weight rows in the panel; columns to be multiplied, a multiple of 32
  size_t second;     // elements from the first 16 rows of the panel to the others
  const uint16_t *x; // first tile of the slice
  size_t x_stride;   // elements from 16 rows of activations to the next 16
  size_t x_row, n_x;
  bool first;        // slice: y is set, later ones add to it
  float *y;          // [n_x, n_w]
  size_t y_stride;
  qi__lines *next;   // of weights that are needed next; NULL: unknown
} qi__bf16_args;

// `multiply` is NULL where there are no instructions.
typedef struct qi__bf16_kernels {
  size_t slice; // of k, a multiple of QI__BF16_STEP
  size_t part;  // of a slice: columns that are best multiplied at a time, a multiple of 32
  void (*pack)(const float *x, size_t k, uint16_t *packed, size_t row);
  void (*unpack)(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst);
  void (*interleave)(const uint16_t *rows, size_t n_k, uint16_t *panel);
  void (*multiply)(const qi__bf16_args *a);
  void (*begin)(void), (*end)(void); // around products of a thread; NULL where there is nothing to be done
  // Where activations are turned, else NULL: `interleave` is NULL then, and `unpack` writes rows of tiles.
  void (*turn)(const void *from, size_t from_stride, void *to, size_t to_stride); // 16 rows of 16 words of 32 bits; strides: words
  void (*multiply_turned)(const qi__bf16_args *a); // y: sums as above, from row x_row / 16 * 16 on
  void (*pack_turned)(const float *sums, uint16_t *tile, size_t first, size_t end); // these of 16 rows, to a tile
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
  __mmask16 mask[2] = {qi__tail_mask_avx512(a->n_w), a->n_w > 16 ? qi__tail_mask_avx512(a->n_w - 16) : (__mmask16)0};
  __m512 sum[8][2];
  QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int b = 0; b < 2; b++)
    sum[i][b] = a->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask[b], y + (size_t)i * a->y_stride + 16 * b);
  for (; w < w_end; x += 480)
    for (int pair = 0; pair < 16; pair++, w += 32, x += 2) {
      __m512bh w0 = (__m512bh)_mm512_loadu_si512((const void *)w), w1 = (__m512bh)_mm512_loadu_si512((const void *)(w + a->second));
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

static const qi__bf16_kernels qi__bf16_avx512 = {
    QI__BF16_SLICE_MAX, QI__BF16_SLICE_MAX, qi__bf16_pack_avx512, qi__to_bf16_avx512, qi__bf16_interleave_avx512,
    qi__bf16_multiply_avx512, NULL, NULL, NULL, NULL, NULL};
#endif

// ---- AMX ----

#if defined(QI__HAS_AMX)

// Columns of a panel that stay in the first-level cache while all rows of activations pass: see tiles.h.
#define QI__TILE_PART 384

// Activations are fetched into the first-level cache this many elements before they are loaded, some lines after each tile
// instruction: without a gap between them they take up to a third longer.
#define QI__TILE_AHEAD 1024

QI__INLINE QI__AMX void qi__tile_fetch(const uint16_t *tile, int first, int n) {
  QI__UNROLL for (int i = 0; i < n; i++) _mm_prefetch((const char *)(tile + 32 * (first + i)), _MM_HINT_T0);
}

// Tiles at x and w are multiplied into the sums; lines at `ahead` are fetched.
QI__INLINE QI__AMX void qi__tiles_step(const uint16_t *x, const uint16_t *w, size_t second, bool wide, bool turned,
                                       const uint16_t *ahead) {
  _tile_loadd(2, x, 64);
  qi__tile_fetch(ahead, 0, 3);
  _tile_loadd(3, w, 64);
  qi__tile_fetch(ahead, 3, 3);
  if (turned) _tile_dpbf16ps(0, 3, 2);
  else _tile_dpbf16ps(0, 2, 3);
  qi__tile_fetch(ahead, 6, 3);
  if (wide) _tile_loadd(3, w + second, 64);
  qi__tile_fetch(ahead, 9, 3);
  if (wide && turned) _tile_dpbf16ps(1, 3, 2);
  else if (wide) _tile_dpbf16ps(1, 2, 3);
  qi__tile_fetch(ahead, 12, 4);
}

// 16 activation rows times 16 weight rows of the panel, or 32 if `wide`. c: sums, rows c_stride floats apart, the others c_second
// from these.
QI__INLINE QI__AMX void qi__tiles_multiply(const qi__bf16_args *a, const uint16_t *x, bool wide, bool turned, float *c,
                                           size_t c_stride, size_t c_second) {
  const size_t second = a->second, n = a->n_k * 16, bytes = c_stride * sizeof *c;
  const uint16_t *w = a->panel, *x_next = x + a->x_stride; // the rows that follow
  size_t i = 0;
  QI__TILE_BARRIER();
  if (a->first) {
    _tile_zero(0);
    _tile_zero(1);
  } else {
    _tile_loadd(0, c, bytes);
    if (wide) _tile_loadd(1, c + c_second, bytes);
  }
  for (; i + QI__TILE_AHEAD < n; i += 512) qi__tiles_step(x + i, w + i, second, wide, turned, x + i + QI__TILE_AHEAD);
  for (; i < n; i += 512, x_next += 512) qi__tiles_step(x + i, w + i, second, wide, turned, x_next);
  _tile_stored(0, c, bytes);
  if (wide) _tile_stored(1, c + c_second, bytes);
  QI__TILE_BARRIER();
}

// Between y and sums [16, 32] of tiles that reach beyond it: the rows that y has, of those from `row` on.
QI__INLINE QI__AMX void qi__tiles_copy(const qi__bf16_args *a, size_t row, float *sums, bool to_y) {
  __mmask16 mask[2] = {qi__tail_mask_avx512(a->n_w), a->n_w > 16 ? qi__tail_mask_avx512(a->n_w - 16) : (__mmask16)0};
  for (size_t i = 0; i < 16; i++, sums += 32) {
    if (row + i < a->x_row || row + i >= a->x_row + a->n_x) continue;
    float *y = a->y + (row + i - a->x_row) * a->y_stride;
    for (int b = 0; b < 2; b++) {
      if (to_y) _mm512_mask_storeu_ps(y + 16 * b, mask[b], _mm512_loadu_ps(sums + 16 * b));
      else _mm512_storeu_ps(sums + 16 * b, _mm512_maskz_loadu_ps(mask[b], y + 16 * b));
    }
  }
}

// Rows of activations go 16 at a time from a multiple of 16 on; sums of rows that are not asked for are thrown away.
QI__FN QI__AMX void qi__bf16_multiply_amx(const qi__bf16_args *a) {
  float sums[16 * 32];
  const size_t end = a->x_row + a->n_x;
  const bool wide = a->n_w > 16;
  for (size_t row = a->x_row / 16 * 16; row < end; row += 16) {
    const uint16_t *x = a->x + row / 16 * a->x_stride;
    if (a->next) qi__lines_fetch(a->next);
    if (row >= a->x_row && row + 16 <= end && a->n_w % 16 == 0) {
      qi__tiles_multiply(a, x, wide, false, a->y + (row - a->x_row) * a->y_stride, a->y_stride, 16);
    } else {
      if (!a->first) {
        memset(sums, 0, sizeof sums);
        qi__tiles_copy(a, row, sums, false);
      }
      qi__tiles_multiply(a, x, wide, false, sums, 32, 16);
      qi__tiles_copy(a, row, sums, true);
    }
  }
}

// ---- activations turned ----

QI__FN QI__AVX512 void qi__turn_avx512(const void *from, size_t from_stride, void *to, size_t to_stride) {
  __m512i v[16];
  QI__UNROLL for (size_t r = 0; r < 16; r++) v[r] = _mm512_loadu_si512((const uint32_t *)from + r * from_stride);
  qi__transpose16_avx512(v);
  QI__UNROLL for (size_t r = 0; r < 16; r++) _mm512_storeu_si512((uint32_t *)to + r * to_stride, v[r]);
}

QI__FN QI__AMX void qi__bf16_multiply_turned_amx(const qi__bf16_args *a) {
  const size_t end = a->x_row + a->n_x;
  float *sums = a->y;
  for (size_t row = a->x_row / 16 * 16; row < end; row += 16, sums += 16 * QI__BF16_ROWS) {
    qi__lines_fetch(a->next);
    qi__tiles_multiply(a, a->x + row / 16 * a->x_stride, true, true, sums, 16, 256);
  }
}

// sums: [32][16], weight rows and rows of activations, of which first .. end - 1 go to a tile [16][16][2].
QI__FN QI__AVX512_BF16 void qi__bf16_pack_turned_avx512(const float *sums, uint16_t *tile, size_t first, size_t end) {
  const __mmask16 rows = (__mmask16)((1u << end) - (1u << first));
  const __m512i pairs = _mm512_mask_mov_epi16(
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), 0xaaaaaaaau,
      _mm512_slli_epi32(_mm512_set_epi32(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16), 16));
  QI__UNROLL for (size_t p = 0; p < 16; p++) {
    __m512 even = _mm512_loadu_ps(sums + 32 * p), odd = _mm512_loadu_ps(sums + 32 * p + 16);
    __m512i v = _mm512_permutexvar_epi16(pairs, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
    _mm512_mask_storeu_epi32(tile + 32 * p, rows, v);
  }
}

QI__FN QI__AMX void qi__bf16_begin_amx(void) { qi__tiles_begin(16); }
QI__FN QI__AMX void qi__bf16_end_amx(void) { _tile_release(); }

static const qi__bf16_kernels qi__bf16_amx = {
    QI__BF16_SLICE_MAX, QI__TILE_PART, qi__bf16_pack_avx512, qi__to_bf16_tiles_avx512, NULL, qi__bf16_multiply_amx,
    qi__bf16_begin_amx, qi__bf16_end_amx, qi__turn_avx512, qi__bf16_multiply_turned_amx, qi__bf16_pack_turned_avx512};
#endif

#endif // QI__KERNELS_BF16_H
