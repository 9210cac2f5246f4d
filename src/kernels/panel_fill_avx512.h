// ==== >>panel_fill_avx512 : panels of the common formats with AVX-512 ====
#ifndef QI__KERNELS_PANEL_FILL_AVX512_H
#define QI__KERNELS_PANEL_FILL_AVX512_H

#include "panel_x86.h"

#if defined(QI__X86_64)

// Packed bytes of 16 weight rows are put into lines first and taken apart then, all rows at once, scales too: less to move, and
// nothing waits in memory between.

// line[c] = dword c of the 16 bytes at w[r] + at of rows r = 0..15.
QI__INLINE QI__AVX512_VNNI void qi__rows16_avx512(const uint8_t *const *w, size_t at, __m512i *line) {
  __m512i v[4]; // v[j]: rows j, 4 + j, 8 + j, 12 + j
  QI__UNROLL for (int j = 0; j < 4; j++) {
    __m128i part[4];
    QI__UNROLL for (int i = 0; i < 4; i++) part[i] = _mm_loadu_si128((const __m128i *)(const void *)(w[4 * i + j] + at));
    v[j] = _mm512_inserti32x4(_mm512_castsi128_si512(part[0]), part[1], 1);
    v[j] = _mm512_inserti32x4(_mm512_inserti32x4(v[j], part[2], 2), part[3], 3);
  }
  __m512i low[2], high[2]; // dwords 0 and 1, 2 and 3 of rows 2 i and 2 i + 1 of four
  QI__UNROLL for (int i = 0; i < 2; i++) {
    low[i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    high[i] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  line[0] = _mm512_unpacklo_epi64(low[0], low[1]);
  line[1] = _mm512_unpackhi_epi64(low[0], low[1]);
  line[2] = _mm512_unpacklo_epi64(high[0], high[1]);
  line[3] = _mm512_unpackhi_epi64(high[0], high[1]);
}

// Four bits of each byte, the upper ones where `high`.
QI__INLINE QI__AVX512_VNNI __m512i qi__nibbles_avx512(__m512i v, bool high) {
  return _mm512_and_si512(high ? _mm512_srli_epi16(v, 4) : v, _mm512_set1_epi8(15));
}

// Dword r: bytes of four groups from `group` on of row r.
QI__INLINE QI__AVX512_VNNI void qi__put_scales_avx512(__m512i v, int8_t (*scale)[QI__Q8_ROWS]) {
  QI__UNROLL for (int g = 0; g < 4; g++)
    _mm_storeu_si128((__m128i *)(void *)scale[g], _mm512_cvtepi32_epi8(_mm512_srli_epi32(v, (unsigned)(8 * g))));
}

// The halves in the low words of dwords.
QI__INLINE QI__AVX512_VNNI __m512 qi__halves16_avx512(__m512i v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }

// The first 16 bytes of blocks of Q4_K and Q5_K: d, dmin, scales and mins as qi__unpack_scales_k4 says. r: the first row
QI__INLINE QI__AVX512_VNNI void qi__put_scales_k4_avx512(const __m512i *head, size_t r, qi__q8_own_panel *p) {
  const __m512i low6 = _mm512_set1_epi8(0x3f), top2 = _mm512_set1_epi8(0x30);
  __m512i scale = qi__nibbles_avx512(head[3], false), min = qi__nibbles_avx512(head[3], true), m[2];
  scale = _mm512_or_si512(scale, _mm512_and_si512(_mm512_srli_epi16(head[1], 2), top2));
  m[1] = _mm512_or_si512(min, _mm512_and_si512(_mm512_srli_epi16(head[2], 2), top2));
  m[0] = _mm512_and_si512(head[2], low6);
  qi__put_scales_avx512(_mm512_and_si512(head[1], low6), (int8_t(*)[QI__Q8_ROWS])(void *)(p->scale[0] + r));
  qi__put_scales_avx512(scale, (int8_t(*)[QI__Q8_ROWS])(void *)(p->scale[4] + r));
  QI__UNROLL for (int i = 0; i < 2; i++) {
    qi__store_bytes_avx2(p->min[2 * i][r], _mm512_cvtepi32_epi16(m[i]));
    qi__store_bytes_avx2(p->min[2 * i + 1][r], _mm512_cvtepi32_epi16(_mm512_srli_epi32(m[i], 16)));
  }
  __m512 dmin = qi__halves16_avx512(_mm512_srli_epi32(head[0], 16));
  _mm512_storeu_ps(p->d[0] + r, qi__halves16_avx512(head[0]));
  _mm512_storeu_ps(p->minus_dmin[0] + r, _mm512_xor_ps(dmin, _mm512_set1_ps(-0.0f)));
}

// Rows r.. of Q4_K, of Q5_K where five_bits, a constant where this is inlined.
QI__INLINE QI__AVX512_VNNI void qi__fill16_k4_avx512(const uint8_t *const *w, bool five_bits, size_t r, qi__q8_own_panel *p) {
  const __m512i bit = _mm512_set1_epi8(16);
  __m512i head[4], high[8], v[4];
  qi__rows16_avx512(w, 0, head);
  qi__put_scales_k4_avx512(head, r, p);
  if (five_bits) qi__rows16_avx512(w, 16, high), qi__rows16_avx512(w, 32, high + 4);
  for (size_t c = 0; c < 4; c++) { // 64 columns, the second 32 in the high halves of bytes
    uint8_t (*line)[2][64] = &p->code[16 * c];
    QI__UNROLL for (size_t half = 0; half < 2; half++) {
      qi__rows16_avx512(w, (five_bits ? 48 : 16) + 32 * c + 16 * half, v);
      QI__UNROLL for (size_t i = 0; i < 4; i++) {
        __m512i a = qi__nibbles_avx512(v[i], false), b = qi__nibbles_avx512(v[i], true);
        if (five_bits) { // bits 0 and 1 of `high`
          a = _mm512_or_si512(a, _mm512_and_si512(_mm512_slli_epi16(high[4 * half + i], 4), bit));
          b = _mm512_or_si512(b, _mm512_and_si512(_mm512_slli_epi16(high[4 * half + i], 3), bit));
          high[4 * half + i] = _mm512_srli_epi16(high[4 * half + i], 2);
        }
        _mm512_storeu_si512((void *)(line[4 * half + i][0] + 4 * r), a);
        _mm512_storeu_si512((void *)(line[4 * half + i + 8][0] + 4 * r), b);
      }
    }
  }
}

// Rows r.. of Q6_K.
QI__INLINE QI__AVX512_VNNI void qi__fill16_q6_k_avx512(const uint8_t *const *w, size_t r, qi__q8_own_panel *p) {
  const __m512i top2 = _mm512_set1_epi8(0x30);
  __m512i v[4], low[2][4], high[4];
  for (size_t part = 0; part < 4; part++) { // columns 128 (part / 2) + 16 (part % 2) + 0, 32, 64, 96
    size_t at = 64 * (part / 2) + 16 * (part % 2);
    qi__rows16_avx512(w, at, low[0]);
    qi__rows16_avx512(w, at + 32, low[1]);
    qi__rows16_avx512(w, 128 + 16 * part, high);
    uint8_t (*line)[2][64] = &p->code[32 * (part / 2) + 4 * (part % 2)];
    QI__UNROLL for (size_t i = 0; i < 4; i++) {
      __m512i top[4] = {_mm512_slli_epi16(high[i], 4), _mm512_slli_epi16(high[i], 2), high[i], _mm512_srli_epi16(high[i], 2)};
      QI__UNROLL for (size_t q = 0; q < 4; q++) {
        __m512i code = qi__nibbles_avx512(low[q % 2][i], q >= 2);
        code = _mm512_or_si512(code, _mm512_and_si512(top[q], top2));
        _mm512_storeu_si512((void *)(line[8 * q + i][0] + 4 * r), code);
      }
    }
  }
  qi__rows16_avx512(w, 192, v);
  QI__UNROLL for (size_t g = 0; g < 4; g++) qi__put_scales_avx512(v[g], (int8_t(*)[QI__Q8_ROWS])(void *)(p->scale[4 * g] + r));
  qi__rows16_avx512(w, 194, v); // ends with d
  _mm512_storeu_ps(p->d[0] + r, qi__halves16_avx512(_mm512_srli_epi32(v[3], 16)));
}

// Rows r.. of n blocks of Q4_0.
QI__INLINE QI__AVX512_VNNI void qi__fill16_q4_0_avx512(const uint8_t *const *w, size_t n, size_t r, qi__q8_own_panel *p) {
  __m512i v[4];
  for (size_t b = 0; b < n; b++) {
    qi__rows16_avx512(w, 18 * b, v);
    _mm512_storeu_ps(p->d[b] + r, qi__halves16_avx512(v[0]));
    qi__rows16_avx512(w, 18 * b + 2, v);
    QI__UNROLL for (size_t i = 0; i < 4; i++) {
      _mm512_storeu_si512((void *)(p->code[8 * b + i][0] + 4 * r), qi__nibbles_avx512(v[i], false));
      _mm512_storeu_si512((void *)(p->code[8 * b + i + 4][0] + 4 * r), qi__nibbles_avx512(v[i], true));
    }
  }
}

// Rows r.. of n blocks of Q8_0.
QI__INLINE QI__AVX512_VNNI void qi__fill16_q8_0_avx512(const uint8_t *const *w, size_t n, size_t r, qi__q8_own_panel *p) {
  const __m512i sign = _mm512_set1_epi8((char)-128);
  __m512i v[4];
  for (size_t b = 0; b < n; b++) {
    qi__rows16_avx512(w, 34 * b, v);
    _mm512_storeu_ps(p->d[b] + r, qi__halves16_avx512(v[0]));
    QI__UNROLL for (size_t half = 0; half < 2; half++) {
      qi__rows16_avx512(w, 34 * b + 2 + 16 * half, v);
      QI__UNROLL for (size_t i = 0; i < 4; i++)
        _mm512_storeu_si512((void *)(p->code[8 * b + 4 * half + i][0] + 4 * r), _mm512_xor_si512(v[i], sign));
    }
  }
}

// As qi__panel_fill_avx2: the same panel.
QI__FN QI__AVX512_VNNI qi__q8_panel qi__panel_fill_avx512(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n,
                                                          size_t n_x, qi__q8_own_panel *p) {
  const qi_format_info *info = &plan->format->info;
  for (size_t r = 0; r < QI__Q8_ROWS; r += 16) {
    const uint8_t *w[16];
    for (size_t i = 0; i < 16; i++)
      w[i] = a->w + qi__min_size(r + i, a->n_w - 1) * a->w_stride + at / (size_t)info->block_len * (size_t)info->block_bytes;
    switch (plan->id) {
    case QI_FORMAT_Q4_K: qi__fill16_k4_avx512(w, false, r, p); break;
    case QI_FORMAT_Q5_K: qi__fill16_k4_avx512(w, true, r, p); break;
    case QI_FORMAT_Q6_K: qi__fill16_q6_k_avx512(w, r, p); break;
    case QI_FORMAT_Q4_0: qi__fill16_q4_0_avx512(w, (size_t)n, r, p); break;
    case QI_FORMAT_Q8_0: qi__fill16_q8_0_avx512(w, (size_t)n, r, p); break;
    default: return qi__panel_fill_avx2(a, plan, at, n, n_x, p);
    }
  }
  return qi__panel_view(p);
}
#endif

#endif // QI__KERNELS_PANEL_FILL_AVX512_H
