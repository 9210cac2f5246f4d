// ==== >>dot_qins_x86 : integer products of QINS8_K with VBMI ====
#ifndef QI__KERNELS_DOT_QINS_X86_H
#define QI__KERNELS_DOT_QINS_X86_H

#include "dot_q8_x86.h"

#if defined(QI__X86_64)

// VPERMI2B looks up 64 codes at once in a table of 128 bytes, two registers; it takes no notice of the sign in bit 7.
#define QI__AVX512_VBMI QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")

// Integer lanes of a block of two weight rows, as in qi__pair_qins8_avx2.
QI__INLINE QI__AVX512_VBMI void qi__pair_qins8_vbmi(const uint8_t *const *w, const int8_t *x, const __m512i *table, __m256i *sum) {
  const __m512i zero = _mm512_setzero_si512(), group = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  __m512i scale[QI__PAIR], total[QI__PAIR];
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
    scale[r] = _mm512_cvtepu8_epi32(qi__seven_bits_avx2(w[r] + 2));
    total[r] = zero;
  }
  QI__UNROLL for (int j = 0; j < 4; j++) {
    __m512i xj = _mm512_loadu_si512((const void *)(x + 64 * j)), groups = _mm512_add_epi32(group, _mm512_set1_epi32(4 * j));
    QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
      __m512i codes = _mm512_loadu_si512((const void *)(w[r] + 16 + 64 * j));
      __m512i sizes = _mm512_permutex2var_epi8(table[0], codes, table[1]);
      __m512i products = _mm512_dpbusd_epi32(zero, sizes, _mm512_mask_sub_epi8(xj, _mm512_movepi8_mask(codes), zero, xj));
      total[r] = _mm512_add_epi32(total[r], _mm512_mullo_epi32(products, _mm512_permutexvar_epi32(groups, scale[r])));
    }
  }
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++)
    sum[r] = _mm256_add_epi32(_mm512_castsi512_si256(total[r]), _mm512_extracti64x4_epi64(total[r], 1));
}

// Two weight rows from `first` on with activation row `row`.
QI__INLINE QI__AVX512_VBMI void qi__pair_qins8_rows_vbmi(const qi__dot_q8_args *a, size_t first, size_t row, __m256 *lanes) {
  const size_t size = 272, n_blocks = a->x->k / 256;
  const uint8_t *sizes = qi__qins8_sizes;
  const __m512i table[2] = {_mm512_loadu_si512((const void *)sizes), _mm512_loadu_si512((const void *)(sizes + 64))};
  const uint8_t *w[QI__PAIR], *first_row;
  qi__pair_sums p;
  memset(&p, 0, sizeof p);
  qi__pair_rows(a, first, w);
  first_row = w[0];
  for (size_t b = 0; b < n_blocks; b++) {
    qi__q8_chunk x = qi__q8_chunk_at(a->x, row, 256 * b);
    __m256i sum[QI__PAIR];
    qi__prefetch_pair_avx2(first_row, w[0], a->w_stride, QI__PAIR * size);
    qi__pair_qins8_vbmi(w, x.q, table, sum);
    QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
      p.total[r][b % 8] = sum[r];
      p.d[r][b % 8] = qi__half_avx2(w[r]) * 0x1p-10f;
      w[r] += size;
    }
    if (b % 8 == 7 || b + 1 == n_blocks) qi__pair_take_avx2(&p, x.d - b % 8, (int)(b % 8) + 1, false, lanes);
  }
}

QI__FN QI__AVX512_VBMI void qi__dot_qins8_k_vbmi(const qi__dot_q8_args *a) {
  for (size_t first = 0; first < a->n_w; first += QI__PAIR)
    for (size_t i = 0; i < a->n_x; i++) {
      __m256 lanes[QI__PAIR];
      QI__UNROLL for (int r = 0; r < QI__PAIR; r++) lanes[r] = _mm256_setzero_ps();
      qi__pair_qins8_rows_vbmi(a, first, a->x_row + i, lanes);
      QI__UNROLL for (size_t r = 0; r < QI__PAIR; r++)
        if (first + r < a->n_w) a->y[i * a->y_stride + first + r] = qi__sum_lanes_avx2(lanes[r]);
    }
}
#endif

#endif // QI__KERNELS_DOT_QINS_X86_H
