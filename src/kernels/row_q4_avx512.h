// ==== >>row_q4_avx512 : one row of activations with Q4_0 and IQ4_NL, 512 bits ====
#ifndef QI__KERNELS_ROW_Q4_AVX512_H
#define QI__KERNELS_ROW_Q4_AVX512_H

#include "row_k_avx512.h"

#if defined(QI__X86_64)

// The products of dot_q8.h for blocks of 18 bytes: d and 32 codes of four bits, the first 16 in the lower ones. Four blocks beside
// each other, each in 128 bits of a register, so the sums of eight blocks need little folding. The activations are brought into
// that order once for all weight rows. Loads are what there is too much of.

#define QI__ROW_Q4_SLICE (QI__ROW_K_SLICE * 8) // blocks that are taken at a time by all weight rows

typedef struct qi__row_q4 {
  int8_t q[QI__ROW_Q4_SLICE * 32];  // [four blocks][low or high codes][block][16]; zeros where blocks are missing
  int32_t offset[QI__ROW_Q4_SLICE]; // of each block: what its sum is too large by
  qi__fetch fetch;                  // of weights
} qi__row_q4;

// Ones for the first n of 64 bytes.
QI__INLINE __mmask64 qi__first_bytes(size_t n) { return n < 64 ? ((__mmask64)1 << n) - 1 : ~(__mmask64)0; }

QI__INLINE QI__AVX512_VNNI void qi__row_q4_take_avx512(const qi__q8_chunk *x, size_t n, int offset, qi__row_q4 *out) {
  for (size_t b = 0; b < n; b += 8) {
    const size_t eight = qi__min_size(8, n - b);
    __m256i sums = _mm256_mullo_epi32(qi__chunk_sums_avx2(x->sum + 2 * b, (int)eight), _mm256_set1_epi32(offset));
    qi__store_bytes_avx2(out->offset + b, sums);
    QI__UNROLL for (size_t i = 0; i < 2; i++) {
      const size_t bytes = 32 * (eight - qi__min_size(4 * i, eight));
      const int8_t *q = x->q + 32 * b + 128 * i;
      __m512i u = _mm512_maskz_loadu_epi8(qi__first_bytes(bytes), q);
      __m512i v = _mm512_maskz_loadu_epi8(qi__first_bytes(bytes - qi__min_size(64, bytes)), q + 64);
      _mm512_storeu_si512((void *)(out->q + 32 * b + 128 * i), _mm512_shuffle_i32x4(u, v, 0x88));
      _mm512_storeu_si512((void *)(out->q + 32 * b + 128 * i + 64), _mm512_shuffle_i32x4(u, v, 0xdd));
    }
  }
}

// Codes, unsigned, from four bits each.
QI__INLINE QI__AVX512_VNNI __m512i qi__q4_codes_avx512(qi_format id, __m512i v) {
  v = _mm512_and_si512(v, _mm512_set1_epi8(15));
  if (id == QI_FORMAT_Q4_0) return v;
  __m128i values = _mm_loadu_si128((const __m128i *)(const void *)qi__iq4_values);
  values = _mm_xor_si128(values, _mm_set1_epi32((int)0x80808080)); // plus 128
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), v);
}

// Four blocks at w of which n are there (zeros for the others): the bytes up to the last block, and totals, four lanes each.
QI__INLINE QI__AVX512_VNNI __m512i qi__q4_four_avx512(qi_format id, const uint8_t *w, int n, const int8_t *q, __m512i *bytes) {
  const __m512i words = _mm512_broadcast_i32x4(_mm_setr_epi16(1, 2, 3, 4, 5, 6, 7, 8));
  const __m512i order = _mm512_add_epi16(words, _mm512_setr_epi64(0, 0, 0x0009000900090009, 0x0009000900090009, 0x0012001200120012,
                                                                  0x0012001200120012, 0, 0));
  if (n >= 4) *bytes = _mm512_loadu_si512((const void *)w);
  else *bytes = _mm512_maskz_loadu_epi8(qi__first_bytes(18 * (size_t)n), w);
  __asm__("" : "+v"(*bytes)); // GCC would load them again for d
  __m512i v = _mm512_permutexvar_epi16(order, *bytes);
  // Codes of the last block end behind the register.
  if (n >= 4) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(w + 56)), 3);
  __m512i total = _mm512_dpbusd_epi32(_mm512_setzero_si512(), qi__q4_codes_avx512(id, v), _mm512_loadu_si512((const void *)q));
  v = qi__q4_codes_avx512(id, _mm512_srli_epi16(v, 4));
  return _mm512_dpbusd_epi32(total, v, _mm512_loadu_si512((const void *)(q + 64)));
}

// Lanes after n <= 8 blocks at w, with activations from block `at` of x on; n is a constant where it is 8.
QI__INLINE QI__AVX512_VNNI __m256 qi__q4_chunk_avx512(qi_format id, const uint8_t *w, const qi__row_q4 *x, size_t at,
                                                      const float *x_d, int n, __m256 lanes) {
  const __m512i by_block = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512i halves = _mm512_castsi128_si512(_mm_setr_epi16(0, 9, 18, 27, 32, 41, 50, 59));
  __m512i bytes[2], total[2];
  QI__UNROLL for (int i = 0; i < 2; i++) {
    const int left = n > 4 * i ? n - 4 * i : 0;
    qi__row_k_fetch_avx2(x->fetch, w, 72, i);
    total[i] = qi__q4_four_avx512(id, w + 72 * i, left, x->q + 32 * at + 128 * i, &bytes[i]);
  }
  __m512i t = _mm512_add_epi32(_mm512_unpacklo_epi32(total[0], total[1]), _mm512_unpackhi_epi32(total[0], total[1]));
  t = _mm512_add_epi32(t, _mm512_shuffle_epi32(t, (_MM_PERM_ENUM)0x4e));
  __m256 d = _mm256_cvtph_ps(_mm512_castsi512_si128(_mm512_permutex2var_epi16(bytes[0], halves, bytes[1])));
  d = _mm256_mul_ps(d, qi__chunk_d_avx2(x_d, n));
  __m256i sum = _mm512_castsi512_si256(_mm512_permutexvar_epi32(by_block, t));
  return qi__take_blocks_avx2(lanes, d, _mm256_sub_epi32(sum, qi__bytes_avx2((const uint8_t *)(x->offset + at))), n);
}

// All weight rows with one row of activations.
QI__INLINE QI__AVX512_VNNI void qi__dot_row_q4_avx512(qi_format id, const qi__dot_q8_args *a) {
  const size_t n_blocks = a->x->k / 32;
  qi__row_q4 x;
  x.fetch = a->fetch;
  __m256 lanes[QI__Q8_RUN];
  for (size_t r = 0; r < a->n_w; r++) lanes[r] = _mm256_setzero_ps();
  for (size_t first = 0; first < n_blocks; first += QI__ROW_Q4_SLICE) {
    const qi__q8_chunk slice = qi__q8_chunk_at(a->x, a->x_row, 32 * first);
    size_t n = qi__min_size(QI__ROW_Q4_SLICE, n_blocks - first);
    qi__row_q4_take_avx512(&slice, n, qi__q8_offset32(id, true), &x);
    for (size_t r = 0; r < a->n_w; r++) {
      const uint8_t *w = a->w + r * a->w_stride + first * 18;
      __m256 sum = lanes[r];
      size_t b = 0;
      for (; b + 8 <= n; b += 8, w += 8 * 18) sum = qi__q4_chunk_avx512(id, w, &x, b, slice.d + b, 8, sum);
      if (b < n) sum = qi__q4_chunk_avx512(id, w, &x, b, slice.d + b, (int)(n - b), sum);
      lanes[r] = sum;
    }
  }
  for (size_t r = 0; r < a->n_w; r++) a->y[r] = qi__sum_lanes_avx2(lanes[r]);
}

QI__FN QI__AVX512_VNNI void qi__dot_row_q4_0_avx512(const qi__dot_q8_args *a) { qi__dot_row_q4_avx512(QI_FORMAT_Q4_0, a); }
QI__FN QI__AVX512_VNNI void qi__dot_row_iq4_nl_avx512(const qi__dot_q8_args *a) { qi__dot_row_q4_avx512(QI_FORMAT_IQ4_NL, a); }
#endif

#endif // QI__KERNELS_ROW_Q4_AVX512_H
