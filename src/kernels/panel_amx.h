// ==== >>panel_amx : panels of blocks of 256 on a matrix unit ====
#ifndef QI__KERNELS_PANEL_AMX_H
#define QI__KERNELS_PANEL_AMX_H

#include "panel_q8_x86.h"
#include "tiles.h"

#if defined(QI__HAS_AMX)

// A matrix unit adds products of bytes along 64 columns, and scales change within them. So codes are scaled first, as two bytes:
//
//   small   codes below 32, scales below 64: codes times the lower and the upper three bits of the scale, 217 at most
//   others  code * scale, of no more than 15 bits with its sign, as low + 128 * high, low in 0..127
//
// Sums over a block of both fit into int32 as the block's total does, which is low sums + 8 or 128 * high sums.

// Only 16 weight rows at a time: with all 32, 32 rows of activations took 7 % longer (Sapphire Rapids, shared core).

// Tiles of weights: [k / 64][low, high][k % 64 / 4][row, k % 4].
typedef struct qi__scaled_half {
  uint8_t part[4][2][16][64];
} qi__scaled_half;

// Sums of 16 rows of activations: [low, high][activations][row].
typedef int32_t qi__scaled_sums[2][16][16];

#define QI__SCALED_FROM 24 // rows of activations from which this pays (Sapphire Rapids): up to 20 VNNI is faster
#define QI__ODD_BYTES 0xaaaaaaaaaaaaaaaau

QI__STATIC_ASSERT(QI__SCALED_FROM >= 16 && QI__SCALED_FROM > QI__STORED_FEW, scaled_from); // a whole tile, and no nibbles

// Which of the two.
QI__INLINE bool qi__scaled_small(const qi__format *f) {
  return f->id == QI_FORMAT_Q2_K || f->id == QI_FORMAT_Q4_K || f->id == QI_FORMAT_Q5_K;
}

// A line of 4 columns of 16 rows, scaled. scale: of the rows, in all their bytes; offset: of the codes
typedef void (*qi__scale_line_fn)(__m512i code, __m512i scale, int offset, uint8_t *low, uint8_t *high);

// No product of a byte reaches the next one.
QI__INLINE QI__AVX512 void qi__scale_small_avx512(__m512i code, __m512i scale, int offset, uint8_t *low, uint8_t *high) {
  const __m512i low3 = _mm512_set1_epi16(7);
  (void)offset;
  _mm512_store_si512((void *)low, _mm512_mullo_epi16(code, _mm512_and_si512(scale, low3)));
  _mm512_store_si512((void *)high, _mm512_mullo_epi16(code, _mm512_and_si512(_mm512_srli_epi16(scale, 3), low3)));
}

// In each 16 bits one of two codes is multiplied at a time.
QI__INLINE QI__AVX512 void qi__scale_wide_avx512(__m512i code, __m512i scale, int offset, uint8_t *low, uint8_t *high) {
  const __m512i first = _mm512_set1_epi16(255);
  const __m512i minus = _mm512_mullo_epi16(_mm512_srai_epi16(scale, 8), _mm512_set1_epi16((short)offset));
  __m512i a = _mm512_sub_epi16(_mm512_maddubs_epi16(code, _mm512_and_si512(scale, first)), minus);
  __m512i b = _mm512_sub_epi16(_mm512_maddubs_epi16(code, _mm512_andnot_si512(first, scale)), minus);
  __m512i lows = _mm512_mask_blend_epi8(QI__ODD_BYTES, a, _mm512_slli_epi16(b, 8));
  _mm512_store_si512((void *)low, _mm512_and_si512(lows, _mm512_set1_epi8(127)));
  _mm512_store_si512((void *)high, _mm512_mask_blend_epi8(QI__ODD_BYTES, _mm512_srai_epi16(a, 7), _mm512_slli_epi16(b, 1)));
}

// All but the last three are constants where this is inlined.
QI__INLINE QI__AVX512 void qi__scale_lines_avx512(qi__scale_line_fn line, int group, int offset, const qi__q8_panel *p, int half,
                                                  qi__scaled_half *w) {
  const __m512i each4 = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
  for (int g = 0; g < 256 / group; g++) {
    const int first = g * group / 4;
    const uint8_t *code = p->code + 64 * half + 128 * first;
    uint8_t *low = w->part[first / 16][0][first % 16], *high = low + sizeof w->part[0][0];
    __m512i scale = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p->scale[g] + 16 * half)));
    scale = _mm512_shuffle_epi8(scale, each4);
    QI__UNROLL for (int i = 0; i < group / 4; i++, code += 128, low += 64, high += 64)
      line(_mm512_loadu_si512((const void *)code), scale, offset, low, high);
  }
}

QI__FN QI__AVX512 void qi__scale_half_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, int half, qi__scaled_half *w) {
  const bool small = qi__scaled_small(plan->format), by16 = plan->format->group == 16;
  if (small && by16) qi__scale_lines_avx512(qi__scale_small_avx512, 16, 0, p, half, w);
  else if (small) qi__scale_lines_avx512(qi__scale_small_avx512, 32, 0, p, half, w);
  else if (by16) qi__scale_lines_avx512(qi__scale_wide_avx512, 16, plan->offset, p, half, w);
  else qi__scale_lines_avx512(qi__scale_wide_avx512, 32, plan->offset, p, half, w);
}

// Sums of 16 rows of activations at x, k bytes apart.
QI__INLINE QI__AMX void qi__scaled_tiles_amx(bool small, const qi__scaled_half *w, const int8_t *x, size_t k, qi__scaled_sums sum) {
  QI__TILE_BARRIER();
  _tile_zero(0);
  _tile_zero(1);
  QI__UNROLL for (int c = 0; c < 4; c++) {
    _tile_loadd(2, x + 64 * c, k);
    _tile_loadd(3, w->part[c][0], 64);
    _tile_dpbsud(0, 2, 3);
    _tile_loadd(3, w->part[c][1], 64);
    if (small) _tile_dpbsud(1, 2, 3);
    else _tile_dpbssd(1, 2, 3);
  }
  _tile_stored(0, sum[0], 64);
  _tile_stored(1, sum[1], 64);
  QI__TILE_BARRIER();
}

// Totals of n rows of activations, whose sums begin with row i, and their mins, to their lanes.
QI__INLINE QI__AVX512_VNNI void qi__scaled_take_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, int half,
                                                       const qi__panel_x *x, qi__scaled_sums sum, size_t i, int n) {
  const qi__format *f = plan->format;
  const __mmask16 old = x->fresh ? 0 : 0xffff;
  const unsigned shift = qi__scaled_small(f) ? 3 : 7;
  const __m512 d = _mm512_loadu_ps(p->d[0] + 16 * half);
  __m512 v[QI__PANEL_X], d_x[QI__PANEL_X];
  QI__UNROLL for (int j = 0; j < n; j++) {
    __m512i low = _mm512_load_si512((const void *)sum[0][i + (size_t)j]);
    __m512i total = _mm512_add_epi32(low, _mm512_slli_epi32(_mm512_load_si512((const void *)sum[1][i + (size_t)j]), shift));
    d_x[j] = _mm512_set1_ps(x->d[(size_t)j * x->blocks]);
    v[j] = qi__panel_add_avx512(_mm512_maskz_loadu_ps(old, x->lane + j * QI__Q8_LANES + 16 * half), d, d_x[j], total);
  }
  if (f->has_min) {
    const __m512 minus_dmin = _mm512_loadu_ps(p->minus_dmin[0] + 16 * half);
    int16_t sums[QI__PANEL_X][16];
    __m512i mins[QI__PANEL_X];
    QI__UNROLL for (int j = 0; j < n; j++) {
      qi__group_sums_avx2(f->group, x->sum + (size_t)j * (x->k / 16), sums[j]);
      mins[j] = _mm512_setzero_si512();
    }
    for (int g = 0; g < 128 / f->group; g++) {
      __m512i pair = _mm512_cvtepi8_epi16(qi__bytes_avx2((const uint8_t *)p->min[g][16 * half]));
      QI__UNROLL for (int j = 0; j < n; j++)
        mins[j] = _mm512_dpwssd_epi32(mins[j], pair, _mm512_set1_epi32(qi__load_4(sums[j] + 2 * g)));
    }
    QI__UNROLL for (int j = 0; j < n; j++) v[j] = qi__panel_add_avx512(v[j], minus_dmin, d_x[j], mins[j]);
  }
  QI__UNROLL for (int j = 0; j < n; j++) _mm512_storeu_ps(x->lane + j * QI__Q8_LANES + 16 * half, v[j]);
}

// 16 weight rows with n_x rows of activations, 16 or more.
QI__INLINE QI__AMX void qi__scaled_half_amx(const qi__q8_plan *plan, const qi__q8_panel *p, int half, qi__panel_x *x, size_t n_x) {
  qi__scaled_half w __attribute__((aligned(QI__CACHE_LINE)));
  qi__scaled_sums sum __attribute__((aligned(QI__CACHE_LINE)));
  qi__scale_half_avx512(plan, p, half, &w);
  for (size_t n, left = n_x; left; left -= n) {
    n = qi__min_size(left, 16);
    const int8_t *q = x->q - (16 - n) * x->k; // where less are left, some once more
    if (qi__scaled_small(plan->format)) qi__scaled_tiles_amx(true, &w, q, x->k, sum);
    else qi__scaled_tiles_amx(false, &w, q, x->k, sum);
    for (size_t i = 0, rows; i < n; i += rows) {
      rows = n - i >= 4 ? 4 : 1;
      qi__panel_fetch(&x->ahead, rows, left - i + (half ? 0 : n_x));
      if (rows == 4) qi__scaled_take_avx512(plan, p, half, x, sum, 16 - n + i, 4);
      else qi__scaled_take_avx512(plan, p, half, x, sum, 16 - n + i, 1);
      qi__panel_x_advance(x, rows);
    }
  }
}

// As qi__panel_multiply_avx512.
QI__FN QI__AMX void qi__panel_multiply_amx(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks,
                                           size_t n_x, bool two_halves) {
  if (n_x < QI__SCALED_FROM) { // the last ones
    qi__panel_multiply_avx512(plan, p, x, n_blocks, n_x, two_halves);
    return;
  }
  qi__panel_x second = x;
  qi__scaled_half_amx(plan, p, 0, &x, n_x);
  second.ahead = x.ahead;
  if (two_halves) qi__scaled_half_amx(plan, p, 1, &second, n_x);
}

// ---- the kernels ----

QI__INLINE bool qi__scaled_pays(const qi__dot_q8_args *a) {
  return a->n_x >= QI__SCALED_FROM && a->format->info.block_len == 256 && !a->format->wide;
}

QI__FN QI__AMX void qi__dot_panels_amx(const qi__dot_q8_args *a, qi__panel_fill_fn fill) {
  qi__tiles_begin(16);
  qi__dot_panels_x86(a, true, fill, qi__panel_multiply_amx);
  _tile_release();
}

QI__FN void qi__dot_q8_amx(const qi__dot_q8_args *a) {
  if (qi__scaled_pays(a)) qi__dot_panels_amx(a, qi__panel_fill_avx512);
  else qi__dot_q8_avx512(a);
}

QI__FN void qi__dot_stored_amx(const qi__dot_q8_args *a) {
  if (qi__scaled_pays(a)) qi__dot_panels_amx(a, qi__panel_fill_stored);
  else qi__dot_stored_avx512(a);
}

static const qi__stored_q8_kernels qi__stored_q8_amx = {qi__q8_stored_bytes, qi__stored_from_avx512, qi__q8_store_avx2,
                                                        qi__dot_stored_amx};
#endif

#endif // QI__KERNELS_PANEL_AMX_H
