// ==== >>row_qins_avx512 : one row of activations with QINS8_K and QINS4_K, 512 bits ====
#ifndef QI__KERNELS_ROW_QINS_AVX512_H
#define QI__KERNELS_ROW_QINS_AVX512_H

#include "row_k_avx512.h"
#include "row_qins_avx2.h"

#if defined(QI__X86_64)

// row_qins_avx2.h with registers of 64 bytes. Values of QINS4_K plus 128 have no sign, which VPDPBUSD wants; what that adds to the
// sums is in `bias`: -128 times the sum of the activations of each group.

QI__INLINE QI__AVX512_VBMI void qi__row_qins_take_vbmi(const int8_t *q, size_t n_blocks, qi__row_qins *out) {
  for (size_t b = 0; b < n_blocks; b++) {
    __m512i v[4], pair[4], sum = _mm512_setzero_si512();
    QI__UNROLL for (int t = 0; t < 4; t++) v[t] = _mm512_loadu_si512((const void *)(q + 256 * b + 64 * t));
    QI__UNROLL for (int i = 0; i < 2; i++) {
      pair[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
      pair[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    QI__UNROLL for (int j = 0; j < 4; j++) {
      __m512i first = pair[j / 2], last = pair[2 + j / 2];
      __m512i turned = j % 2 ? _mm512_unpackhi_epi64(first, last) : _mm512_unpacklo_epi64(first, last);
      _mm512_storeu_si512((void *)(out->q + 256 * b + 64 * j), turned);
      sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), turned);
    }
    sum = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum, 7));
    _mm512_storeu_si512((void *)(out->bias + 16 * b), sum);
  }
}

// The scale of each dword, in its seven uppermost bits; what is below them is not its own. Even qwords have groups 0 .. 7.
QI__INLINE QI__AVX512_VBMI __m512i qi__qins_scales_vbmi(const uint8_t *w) {
  // Byte 3 of each dword: from one bit before the scale on.
  const __m512i from = _mm512_setr_epi64(0x1b0000003f000000, 0x2300000007000000, 0x2200000006000000, 0x2a0000000e000000,
                                         0x290000000d000000, 0x3100000015000000, 0x3000000014000000, 0x380000001c000000);
  return _mm512_multishift_epi64_epi8(from, _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)w)));
}

// Total of the block at w, in 16 lanes. values: T[0] + 128, nothing, T[1] + 128, so that the bit t is an offset; each four times: a
// lookup takes six bits, of which two are another code's.
QI__INLINE QI__AVX512_VBMI __m512i qi__qins4_k_block_vbmi(const uint8_t *w, const int8_t *x, const int32_t *bias,
                                                          const __m512i *values) {
  __m512i table = _mm512_load_si512((const void *)((const uint8_t *)values + (w[QI__QINS_D_AT + 1] & 128)));
  __m512i sum = _mm512_loadu_si512((const void *)bias);
  QI__UNROLL for (int h = 0; h < 2; h++, x += 128) {
    __m512i low = _mm512_loadu_si512((const void *)(w + 16 + 64 * h));
    __asm__("" : "+v"(low)); // GCC would load it twice, by way of the stack
    __m512i high = _mm512_srli_epi16(low, 4);
    sum = _mm512_dpbusd_epi32(sum, _mm512_permutexvar_epi8(low, table), _mm512_loadu_si512((const void *)x));
    sum = _mm512_dpbusd_epi32(sum, _mm512_permutexvar_epi8(high, table), _mm512_loadu_si512((const void *)(x + 64)));
  }
  return _mm512_mullo_epi32(sum, _mm512_srai_epi32(qi__qins_scales_vbmi(w), 25));
}

// The same. values: sizes of codes 0 .. 63, of the others.
QI__INLINE QI__AVX512_VBMI __m512i qi__qins8_k_block_vbmi(const uint8_t *w, const int8_t *x, const __m512i *values) {
  const __m512i zero = _mm512_setzero_si512();
  __m512i sum = zero;
  QI__UNROLL for (int j = 0; j < 4; j++) {
    __m512i codes = _mm512_loadu_si512((const void *)(w + 16 + 64 * j)), v = _mm512_loadu_si512((const void *)(x + 64 * j));
    v = _mm512_mask_sub_epi8(v, _mm512_movepi8_mask(codes), zero, v);
    sum = _mm512_dpbusd_epi32(sum, _mm512_permutex2var_epi8(values[0], codes, values[1]), v);
  }
  return _mm512_mullo_epi32(sum, _mm512_srli_epi32(qi__qins_scales_vbmi(w), 25));
}

QI__INLINE QI__AVX512_VBMI __m256 qi__qins_chunk_vbmi(qi_format id, qi__step_fn step, const void *tables, const uint8_t *w,
                                                      const qi__row_qins *x, size_t at, const float *x_d, int n, __m256 lanes) {
  const size_t size = (size_t)qi__formats[id].info.block_bytes;
  const __m512i *values = (const __m512i *)tables;
  __m512i total[8];
  QI__UNROLL for (int b = 0; b < 8; b++) {
    total[b] = _mm512_setzero_si512();
    if (b < n) {
      const int8_t *q = x->q + 256 * (at + (size_t)b);
      if (id == QI_FORMAT_QINS8_K || x->fetch != QI__FETCH_PAGES) qi__row_k_fetch_avx2(x->fetch, w, size, b);
      else if (b % 4 == 0) qi__prefetch_ahead(QI__FETCH_PAGES, (uintptr_t)w + size * (size_t)b, 4 * size); // see qi__prefetch_block
      if (id == QI_FORMAT_QINS4_K)
        total[b] = qi__qins4_k_block_vbmi(w + size * (size_t)b, q, x->bias + 16 * (at + (size_t)b), values);
      else
        total[b] = qi__qins8_k_block_vbmi(w + size * (size_t)b, q, values);
      __asm__ volatile("" : "+v"(total[b])); // clang would load all blocks at once and spill them
    }
    qi__fold_early_avx512(total, b);
  }
  (void)step;
  return qi__take_blocks_avx2(lanes, qi__qins_chunk_d_avx2(id, w, size, x_d, n), qi__fold_rest_avx512(total), n);
}

QI__FN QI__AVX512_VBMI void qi__dot_row_qins4_k_vbmi(const qi__dot_q8_args *a) {
  __m512i values[3] = {_mm512_setzero_si512()};
  QI__UNROLL for (int t = 0; t < 2; t++) {
    values[2 * t] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)qi__qins4_values[t]));
    values[2 * t] = _mm512_xor_si512(values[2 * t], _mm512_set1_epi8((char)-128));
  }
  qi__dot_row_qins(qi__row_qins_take_vbmi, qi__qins_chunk_vbmi, QI_FORMAT_QINS4_K, qi__words_avx512, values, a);
}

QI__FN QI__AVX512_VBMI void qi__dot_row_qins8_k_vbmi(const qi__dot_q8_args *a) {
  const uint8_t *sizes = qi__qins8_sizes;
  const __m512i values[2] = {_mm512_loadu_si512((const void *)sizes), _mm512_loadu_si512((const void *)(sizes + 64))};
  qi__dot_row_qins(qi__row_qins_take_vbmi, qi__qins_chunk_vbmi, QI_FORMAT_QINS8_K, qi__words_avx512, values, a);
}
#endif

#endif // QI__KERNELS_ROW_QINS_AVX512_H
