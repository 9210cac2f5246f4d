// ==== >>dot_qins_x86 : integer products of logarithmic formats ====
#ifndef QI__KERNELS_DOT_QINS_X86_H
#define QI__KERNELS_DOT_QINS_X86_H

#include "panel_wide_x86.h"
#include "row_qins_avx512.h"

#if defined(QI__X86_64)

// One row of activations; more of them: panel_wide_x86.h.

// Two weight rows beside each other: chains of additions overlap.
#define QI__PAIR 2

// Weight rows first, first + 1; beyond the last row the last again.
QI__INLINE void qi__pair_rows(const qi__dot_q8_args *a, size_t first, const uint8_t **w) {
  for (size_t r = 0; r < QI__PAIR; r++) w[r] = a->w + qi__min_size(first + r, a->n_w - 1) * a->w_stride;
}

// qi__fetch_far_avx2 for n bytes of both rows: they follow each other, so these are taken in the order of their addresses.
QI__INLINE QI__AVX2 void qi__prefetch_far_pair_avx2(qi__fetch fetch, const uint8_t *first_row, const uint8_t *now,
                                                   size_t n) {
  qi__fetch_far_avx2(fetch, (const uint8_t *)((uintptr_t)first_row + QI__PAIR * (size_t)(now - first_row)), n);
}

// ---- QINS8 with AVX2 ----

// Total of a block, in eight lanes: sizes as int16 times activations with the signs of the weights.
QI__INLINE QI__AVX2 __m256i qi__qins8_block_avx2(const __m256i *table, const uint8_t *w, const int8_t *x) {
  __m256i sizes[2], signs = _mm256_or_si256(qi__spread_bits_avx2(qi__load_u32(w), 255), _mm256_set1_epi8(1));
  __m256i v = _mm256_sign_epi8(qi__bytes_avx2((const uint8_t *)x), signs);
  qi__qins8_words_avx2(table, qi__bytes_avx2(w + 4), sizes);
  return qi__words_avx2(_mm256_madd_epi16(sizes[0], _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v))), sizes[1],
                        _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1)));
}

// All weight rows with one row of activations.
QI__FN QI__AVX2 void qi__dot_row_qins8_avx2(const qi__dot_q8_args *a) {
  const __m256 d_w = _mm256_set1_ps(qi__qins8_d(a->format));
  __m256i table[4];
  qi__log_tables_avx2(a->format->factors, table);
  for (size_t first = 0; first < a->n_w; first += QI__PAIR) {
    const uint8_t *w[QI__PAIR], *first_row;
    __m256 lanes[QI__PAIR] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    __m256i total[QI__PAIR][8];
    qi__pair_rows(a, first, w);
    first_row = w[0];
    for (size_t at = 0; at < a->x->k; at += 256) {
      qi__q8_chunk x = qi__q8_chunk_at(a->x, a->x_row, at);
      int n = (int)qi__min_size(8, (a->x->k - at) / 32);
      __m256 d = _mm256_mul_ps(d_w, qi__chunk_d_avx2(x.d, n));
      qi__prefetch_far_pair_avx2(a->fetch, first_row, w[0], QI__PAIR * 8 * 36);
      for (int b = 0; b < n; b++)
        QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
          total[r][b] = qi__qins8_block_avx2(table, w[r], x.q + 32 * b);
          w[r] += 36;
        }
      for (int b = n; b < 8; b++) total[0][b] = total[1][b] = _mm256_setzero_si256(); // blocks that are not there
      QI__UNROLL for (int r = 0; r < QI__PAIR; r++) lanes[r] = qi__take_blocks_avx2(lanes[r], d, qi__fold8_avx2(total[r]), n);
    }
    QI__UNROLL for (size_t r = 0; r < QI__PAIR; r++)
      if (first + r < a->n_w) a->y[first + r] = qi__sum_lanes_avx2(lanes[r]);
  }
}

// ---- QINS8_K with AVX2 and VNNI ----

QI__FN QI__AVX2 void qi__dot_row_qins8_k_avx2(const qi__dot_q8_args *a) { qi__dot_row_qins8_k(qi__words_avx2, a); }
#if defined(QI__HAS_AVX_VNNI)
QI__FN QI__AVX_VNNI void qi__dot_row_qins8_k_avx_vnni(const qi__dot_q8_args *a) { qi__dot_row_qins8_k(qi__words_avx_vnni, a); }
#endif
QI__FN QI__AVX512_VNNI void qi__dot_row_qins8_k_avx512(const qi__dot_q8_args *a) { qi__dot_row_qins8_k(qi__words_avx512, a); }

// ---- QINS8 with VBMI ----

// VPERMB looks up 64 codes at once in a table of 64 bytes, one register, by their lower six bits. It is one instruction inside the
// processor where that for two registers is three.

// Low bytes of the 256 sizes in table[0..3], high bytes in table[4..7].
QI__INLINE QI__AVX512_VBMI void qi__qins8_sizes_vbmi(const int16_t *factors, __m512i *table) {
  int16_t sizes[257]; // of code t + 1 behind that of code t; the last is beyond
  sizes[0] = 0;
  for (int i = 0; i < 16; i++)
    qi__store_bytes_avx2(sizes + 1 + 16 * i, _mm256_mulhrs_epi16(_mm256_set1_epi16(factors[i]),
                                                                 qi__bytes_avx2((const uint8_t *)(factors + 16))));
  QI__UNROLL for (int q = 0; q < 4; q++) {
    __m512i first = _mm512_loadu_si512((const void *)(sizes + 64 * q));
    __m512i last = _mm512_loadu_si512((const void *)(sizes + 64 * q + 32));
    QI__UNROLL for (int part = 0; part < 2; part++) {
      __m256i low = _mm512_cvtepi16_epi8(part ? _mm512_srli_epi16(first, 8) : first);
      __m256i high = _mm512_cvtepi16_epi8(part ? _mm512_srli_epi16(last, 8) : last);
      table[4 * part + q] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
  }
}

// quarter[q - 1]: where codes are from 64 * q on and not from the next quarter on; of the last two either may be set for the last.
QI__INLINE QI__AVX512_VBMI __m512i qi__lookup256_vbmi(const __m512i *table, __m512i codes, const __mmask64 *quarter) {
  __m512i v = _mm512_permutexvar_epi8(codes, table[0]);
  QI__UNROLL for (int q = 1; q < 4; q++) v = _mm512_mask_permutexvar_epi8(v, quarter[q - 1], codes, table[q]);
  return v;
}

// Totals of a block of two weight rows, eight lanes each.
QI__INLINE QI__AVX512_VBMI __m512i qi__qins8_block_vbmi(const __m512i *table, const uint8_t *const *w, const int8_t *x) {
  const __m512i zero = _mm512_setzero_si512();
  __m512i codes = _mm512_inserti64x4(_mm512_castsi256_si512(qi__bytes_avx2(w[0] + 4)), qi__bytes_avx2(w[1] + 4), 1);
  __m512i v = _mm512_broadcast_i64x4(qi__bytes_avx2((const uint8_t *)x));
  __mmask64 bit7 = _mm512_movepi8_mask(codes), bit6 = _mm512_movepi8_mask(_mm512_add_epi8(codes, codes));
  __mmask64 quarter[3] = {bit6, bit7, bit6 & bit7}, minus = qi__load_u32(w[0]) | (uint64_t)qi__load_u32(w[1]) << 32;
  v = _mm512_mask_sub_epi8(v, minus, zero, v);
  __m512i high = _mm512_dpbusd_epi32(zero, qi__lookup256_vbmi(table + 4, codes, quarter), v);
  return _mm512_dpbusd_epi32(_mm512_slli_epi32(high, 8), qi__lookup256_vbmi(table, codes, quarter), v);
}

// The sums of each half of eight registers, in order: of lower halves, then of upper ones.
QI__INLINE QI__AVX512_VBMI __m512i qi__fold8_halves_avx512(const __m512i *v) {
  const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  __m512i a[4], b[2];
  QI__UNROLL for (int i = 0; i < 4; i++)
    a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
  QI__UNROLL for (int i = 0; i < 2; i++)
    b[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
  return _mm512_add_epi32(_mm512_permutex2var_epi64(b[0], even, b[1]), _mm512_permutex2var_epi64(b[0], odd, b[1]));
}

// n <= 8 blocks of two weight rows: totals of one row, then of the other. n is a constant where it is 8.
QI__INLINE QI__AVX512_VBMI __m512i qi__qins8_chunk_vbmi(const __m512i *table, const uint8_t *const *w, const int8_t *x, int n) {
  __m512i total[8];
  QI__UNROLL for (int b = 0; b < 8; b++) {
    const uint8_t *block[QI__PAIR] = {w[0] + 36 * b, w[1] + 36 * b};
    total[b] = b < n ? qi__qins8_block_vbmi(table, block, x + 32 * b) : _mm512_setzero_si512();
  }
  return qi__fold8_halves_avx512(total);
}

// Two weight rows from `first` on: the lanes of one, then of the other.
QI__INLINE QI__AVX512_VBMI __m512 qi__pair_qins8_vbmi(const qi__dot_q8_args *a, const __m512i *table, float d_w, size_t first) {
  const uint8_t *w[QI__PAIR], *first_row;
  size_t at = 0, k = a->x->k;
  __m512 lanes = _mm512_setzero_ps();
  qi__pair_rows(a, first, w);
  first_row = w[0];
  for (; at + 256 <= k; at += 256, w[0] += 8 * 36, w[1] += 8 * 36) {
    qi__q8_chunk x = qi__q8_chunk_at(a->x, a->x_row, at);
    __m512 d = _mm512_broadcast_f32x8(_mm256_mul_ps(_mm256_set1_ps(d_w), _mm256_loadu_ps(x.d)));
    qi__prefetch_far_pair_avx2(a->fetch, first_row, w[0], QI__PAIR * 8 * 36);
    lanes = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(qi__qins8_chunk_vbmi(table, w, x.q, 8)), lanes);
  }
  if (at < k) {
    int n = (int)((k - at) / 32);
    qi__q8_chunk x = qi__q8_chunk_at(a->x, a->x_row, at);
    __m512 d = _mm512_broadcast_f32x8(_mm256_mul_ps(_mm256_set1_ps(d_w), qi__chunk_d_avx2(x.d, n)));
    __mmask16 taken = (__mmask16)(((1u << n) - 1) * 0x101);
    lanes = _mm512_mask3_fmadd_ps(d, _mm512_cvtepi32_ps(qi__qins8_chunk_vbmi(table, w, x.q, n)), lanes, taken);
  }
  return lanes;
}

// Results of two weight rows from their lanes; the second may be beyond the last.
QI__INLINE QI__AVX512_VBMI void qi__store_pair_avx512(const qi__dot_q8_args *a, size_t first, __m512 lanes) {
  a->y[first] = qi__sum_lanes_avx2(_mm512_castps512_ps256(lanes));
  if (first + 1 < a->n_w) a->y[first + 1] = qi__sum_lanes_avx2(_mm512_extractf32x8_ps(lanes, 1));
}

QI__FN QI__AVX512_VBMI void qi__dot_row_qins8_vbmi(const qi__dot_q8_args *a) {
  __m512i table[8];
  qi__qins8_sizes_vbmi(a->format->factors, table);
  for (size_t first = 0; first < a->n_w; first += QI__PAIR)
    qi__store_pair_avx512(a, first, qi__pair_qins8_vbmi(a, table, qi__qins8_d(a->format), first));
}

// ---- the kernels ----

// Few rows of activations one by one, many in panels: from the number that was measured on Zen 4, two threads, weights from memory.
#define QI__DOT_QINS(name, row_fn, fill, multiply) \
  QI__FN void name(const qi__dot_q8_args *a) { \
    if (a->n_x >= (a->format->wide ? 6 : 4)) { \
      qi__dot_panels_x86(a, true, fill, multiply); \
      return; \
    } \
    qi__dot_q8_args row = *a; \
    for (size_t i = 0; i < a->n_x; i++, row.x_row++, row.y += a->y_stride) row_fn(&row); \
  }

QI__DOT_QINS(qi__dot_qins8_avx2, qi__dot_row_qins8_avx2, qi__wide_fill_qins8_avx2, qi__panel_multiply_avx2)
QI__DOT_QINS(qi__dot_qins8_avx512, qi__dot_row_qins8_avx2, qi__wide_fill_qins8_avx2, qi__panel_multiply_avx512)
QI__DOT_QINS(qi__dot_qins8_vbmi, qi__dot_row_qins8_vbmi, qi__wide_fill_qins8_avx2, qi__panel_multiply_avx512)
QI__DOT_QINS(qi__dot_qins8_k_avx2, qi__dot_row_qins8_k_avx2, qi__wide_fill_qins8_k_avx2, qi__panel_multiply_avx2)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_QINS(qi__dot_qins8_k_avx_vnni, qi__dot_row_qins8_k_avx_vnni, qi__wide_fill_qins8_k_avx2, qi__panel_multiply_avx2)
#endif
QI__DOT_QINS(qi__dot_qins8_k_avx512, qi__dot_row_qins8_k_avx512, qi__wide_fill_qins8_k_avx2, qi__panel_multiply_avx512)
QI__DOT_QINS(qi__dot_qins8_k_vbmi, qi__dot_row_qins8_k_vbmi, qi__wide_fill_qins8_k_avx2, qi__panel_multiply_avx512)
QI__DOT_QINS(qi__dot_qins4_k_vbmi, qi__dot_row_qins4_k_vbmi, qi__panel_fill_avx2, qi__panel_multiply_avx512)
#undef QI__DOT_QINS
#endif

#endif // QI__KERNELS_DOT_QINS_X86_H
