// ==== >>dot_qins_x86 : integer products of QINS8_K with VBMI ====
#ifndef QI__KERNELS_DOT_QINS_X86_H
#define QI__KERNELS_DOT_QINS_X86_H

#include "dot_q8_x86.h"

#if defined(QI__X86_64)

// VPERMI2B looks up 64 codes at once in a table of 128 bytes, two registers; it takes no notice of the sign in bit 7.
#define QI__AVX512_VBMI QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")

// Integer lanes of a block, as qi__row_qins8_avx2.
QI__INLINE QI__AVX512_VBMI __m256i qi__block_qins8_vbmi(const uint8_t *w, const int8_t *x, const __m512i *table) {
  const __m512i zero = _mm512_setzero_si512(), group = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  __m512i scale = _mm512_cvtepu8_epi32(qi__seven_bits_avx2(w + 2)), total = zero;
  QI__UNROLL for (int j = 0; j < 4; j++) {
    __m512i xj = _mm512_loadu_si512((const void *)(x + 64 * j)), groups = _mm512_add_epi32(group, _mm512_set1_epi32(4 * j));
    __m512i codes = _mm512_loadu_si512((const void *)(w + 16 + 64 * j));
    __m512i sizes = _mm512_permutex2var_epi8(table[0], codes, table[1]);
    __m512i products = _mm512_dpbusd_epi32(zero, sizes, _mm512_mask_sub_epi8(xj, _mm512_movepi8_mask(codes), zero, xj));
    total = _mm512_add_epi32(total, _mm512_mullo_epi32(products, _mm512_permutexvar_epi32(groups, scale)));
  }
  return _mm256_add_epi32(_mm512_castsi512_si256(total), _mm512_extracti64x4_epi64(total, 1));
}

// The lanes of weight row w and activation row `row`.
QI__INLINE QI__AVX512_VBMI __m256 qi__row_qins8_vbmi(const qi__dot_q8_args *a, const uint8_t *w, size_t row) {
  const size_t n_blocks = a->x->k / 256;
  const uint8_t *sizes = qi__qins8_sizes;
  const __m512i table[2] = {_mm512_loadu_si512((const void *)sizes), _mm512_loadu_si512((const void *)(sizes + 64))};
  qi__q8_chunk x = qi__q8_chunk_at(a->x, row, 0);
  __m256 lanes = _mm256_setzero_ps();
  qi__row_sums p;
  memset(&p, 0, sizeof p);
  for (size_t b = 0; b < n_blocks; b += 8, x.d += 8) {
    size_t n = qi__min_size(8, n_blocks - b);
    const uint8_t *first = w;
    for (size_t i = 0; i < n; i++, w += 272, x.q += 256) p.total[i] = qi__block_qins8_vbmi(w, x.q, table);
    lanes = qi__row_take_avx2(QI_FORMAT_QINS8_K, a->format, &p, first, x.d, (int)n, lanes);
  }
  return lanes;
}

QI__FN QI__AVX512_VBMI void qi__dot_qins8_k_vbmi(const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i++)
      a->y[i * a->y_stride + r] = qi__sum_lanes_avx2(qi__row_qins8_vbmi(a, a->w + r * a->w_stride, a->x_row + i));
}
#endif

#endif // QI__KERNELS_DOT_QINS_X86_H
