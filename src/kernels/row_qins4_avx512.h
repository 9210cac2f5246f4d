// ==== >>row_qins4_avx512 : one row of activations with QINS4_K, 512 bits ====
#ifndef QI__KERNELS_ROW_QINS4_AVX512_H
#define QI__KERNELS_ROW_QINS4_AVX512_H

#include "row_k_avx512.h"

#if defined(QI__X86_64)

// The products of dot_q8.h for QINS4_K. VPERMB looks up 64 values: those of both tables, and the same with the sign turned, for
// negative activations. So activations are multiplied as sizes; two products are at most 2 * 127 * 127 < 2^15, int16, and one more
// instruction multiplies them by scales and adds them. Activations are brought into the order of the codes once for all weight
// rows, as in row_k_avx512.h.

typedef struct qi__row_qins4 {
  uint8_t size[QI__ROW_K_SLICE * 256]; // [block][4 registers][64]
  uint8_t sign[QI__ROW_K_SLICE * 256]; // 32 where they are negative
  qi__fetch fetch;                     // of weights
} qi__row_qins4;

// Codes of a block lie in four registers, each with two groups of 32 weights: low nibbles of 64 bytes, their high nibbles, those of
// the next 64 bytes.
static const uint8_t qi__row_qins4_order[8] = {0, 2, 1, 3, 4, 6, 5, 7};

QI__INLINE QI__AVX512_VBMI void qi__row_qins4_take(const int8_t *q, size_t n_blocks, qi__row_qins4 *out) {
  for (size_t b = 0; b < n_blocks; b++)
    QI__UNROLL for (int g = 0; g < 8; g++) {
      __m256i v = qi__bytes_avx2((const uint8_t *)q + 256 * b + 32 * qi__row_qins4_order[g]);
      qi__store_bytes_avx2(out->size + 256 * b + 32 * g, _mm256_abs_epi8(v));
      v = _mm256_and_si256(v, _mm256_set1_epi32((int)0x80808080));
      qi__store_bytes_avx2(out->sign + 256 * b + 32 * g, _mm256_srli_epi16(v, 2));
    }
}

// What four blocks have in front.
typedef struct qi__qins4_heads {
  __m512i head;       // the 16 bytes of each
  __m512i scale[4];   // of each block, int16 [4 groups of 128 bits][4 registers][2]: the same twice
} qi__qins4_heads;

// The bits of plane p (see qi__unpack_seven_bits) of four blocks, by group.
QI__INLINE QI__AVX512_VBMI __mmask64 qi__qins4_plane_vbmi(__m512i head, int p) {
  const long long low = (10 + 2 * p) * 0x0101010101010101, high = low + 0x0101010101010101;
  __m512i bytes = _mm512_shuffle_epi8(head, _mm512_setr_epi64(low, high, low, high, low, high, low, high));
  return _mm512_test_epi8_mask(bytes, _mm512_set1_epi64((long long)0x8040201008040201u));
}

// The groups of 16 codes that 128 bits of each register hold, plus `first`: of low nibbles 0, 1, 4 and 5 of each eight, of high
// ones those after them.
QI__INLINE QI__AVX512_VBMI __m512i qi__qins4_groups_vbmi(int first) {
  const __m512i v = _mm512_setr_epi32(0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15);
  return _mm512_add_epi16(_mm512_or_si512(v, _mm512_slli_epi32(v, 16)), _mm512_set1_epi16((short)first));
}

// Dword j of each 128 bits, four times.
QI__INLINE QI__AVX512_VBMI __m512i qi__repeat_dword_avx512(__m512i v, int j) {
  switch (j) { // instructions want a constant
  case 0: return _mm512_shuffle_epi32(v, (_MM_PERM_ENUM)0x00);
  case 1: return _mm512_shuffle_epi32(v, (_MM_PERM_ENUM)0x55);
  case 2: return _mm512_shuffle_epi32(v, (_MM_PERM_ENUM)0xaa);
  default: return _mm512_shuffle_epi32(v, (_MM_PERM_ENUM)0xff);
  }
}

// Of blocks at w, n <= 4 of them; zero for the others.
QI__INLINE QI__AVX512_VBMI void qi__qins4_heads_vbmi(const uint8_t *w, int n, qi__qins4_heads *h) {
  const __m512i sizes = _mm512_broadcast_i32x4(_mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
  __m512i v = _mm512_setzero_si512();
  QI__UNROLL for (int i = 0; i < 4; i++)
    if (i < n) {
      __m128i head = _mm_loadu_si128((const __m128i *)(const void *)(w + 144 * (size_t)i));
      v = _mm512_mask_broadcast_i32x4(v, (__mmask16)(0xf << 4 * i), head);
    }
  __m512i s = _mm512_shuffle_epi8(v, sizes);
  s = _mm512_and_si512(_mm512_mask_srli_epi16(s, 0xf0f0f0f0u, s, 4), _mm512_set1_epi8(15));
  s = _mm512_mask_add_epi8(s, qi__qins4_plane_vbmi(v, 0), s, _mm512_set1_epi8(16));
  s = _mm512_mask_sub_epi8(s, qi__qins4_plane_vbmi(v, 1), _mm512_setzero_si512(), s);
  h->head = v;
  QI__UNROLL for (int i = 0; i < 4; i += 2) {
    __m512i words = _mm512_cvtepi8_epi16(i ? _mm512_extracti64x4_epi64(s, 1) : _mm512_castsi512_si256(s)); // of two blocks
    h->scale[i] = _mm512_permutexvar_epi16(qi__qins4_groups_vbmi(0), words);
    h->scale[i + 1] = _mm512_permutexvar_epi16(qi__qins4_groups_vbmi(16), words);
  }
}

// Total of block `b` of four, at w, in 16 lanes.
QI__INLINE QI__AVX512_VBMI __m512i qi__qins4_block_vbmi(const uint8_t *w, const qi__qins4_heads *h, int b, const uint8_t *size,
                                                        const uint8_t *sign, __m512i values) {
  const __m512i low4 = _mm512_set1_epi8(15), second = _mm512_set1_epi8(16);
  const __m512i tables = _mm512_set1_epi32((int)qi__load_u32(w + 12)); // from bit 16 on: plane 2, group by group
  __m512i total = _mm512_setzero_si512();
  QI__UNROLL for (int j = 0; j < 4; j++) { // j / 2: 64 bytes, j % 2: which nibbles
    __m512i v = _mm512_loadu_si512((const void *)(w + 16 + 64 * (j / 2)));
    __m512i place = _mm512_loadu_si512((const void *)(sign + 64 * j));
    const int g = 16 + 8 * (j / 2) + 2 * (j % 2); // the groups here: see qi__qins4_groups_vbmi
    const int a = 1 << g, c = 2 << g, d = 16 << g, e = (int)(32u << g);
    __mmask16 in_second = _mm512_test_epi32_mask(tables, _mm512_setr_epi32(a, a, a, a, c, c, c, c, d, d, d, d, e, e, e, e));
    place = _mm512_mask_or_epi32(place, in_second, place, second);
    place = _mm512_ternarylogic_epi32(j % 2 ? _mm512_srli_epi16(v, 4) : v, place, low4, 0xec); // (v & 15) | place
    v = _mm512_maddubs_epi16(_mm512_loadu_si512((const void *)(size + 64 * j)), _mm512_permutexvar_epi8(place, values));
    total = _mm512_dpwssd_epi32(total, v, qi__repeat_dword_avx512(h->scale[b], j));
  }
  return total;
}

// Lanes after n <= 8 blocks at w, which are at `at` in x; n is a constant where it is 8.
QI__INLINE QI__AVX512_VBMI __m256 qi__qins4_chunk_vbmi(const uint8_t *w, const qi__row_qins4 *x, size_t at, const float *x_d, int n,
                                                       __m512i values, __m256 lanes) {
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
  const uint8_t *size = x->size + 256 * at, *sign = x->sign + 256 * at;
  qi__qins4_heads h[2];
  __m512i total[8];
  QI__UNROLL for (int i = 0; i < 2; i++) qi__qins4_heads_vbmi(w + 576 * (size_t)i, n - 4 * i, &h[i]);
  QI__UNROLL for (int b = 0; b < 8; b++) {
    total[b] = _mm512_setzero_si512();
    if (b >= n) continue;
    qi__row_k_fetch_avx2(x->fetch, w, 144, b);
    total[b] = qi__qins4_block_vbmi(w + 144 * (size_t)b, &h[b / 4], b % 4, size + 256 * b, sign + 256 * b, values);
    __asm__ volatile("" : "+v"(total[b]) : : "memory"); // clang would load all blocks at once and spill them: 12 GB/s, not 19
  }
  __m256i halves = _mm512_castsi512_si256(_mm512_permutex2var_epi32(h[0].head, first, h[1].head)); // d, and what is behind
  __m256 d = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_cvtepi32_epi16(halves)), _mm256_set1_ps(0x1p-10f));
  return qi__take_blocks_avx2(lanes, _mm256_mul_ps(d, qi__chunk_d_avx2(x_d, n)), qi__fold8_avx512(total), n);
}

// The 64 values by code, 16 for the second table, 32 for negative activations.
QI__INLINE QI__AVX512_VBMI __m512i qi__qins4_values_vbmi(void) {
  __m256i v = qi__bytes_avx2((const uint8_t *)qi__qins4_values);
  return _mm512_inserti64x4(_mm512_castsi256_si512(v), _mm256_sub_epi8(_mm256_setzero_si256(), v), 1);
}

// All weight rows with one row of activations.
QI__FN QI__AVX512_VBMI void qi__dot_row_qins4_k_vbmi(const qi__dot_q8_args *a) {
  const __m512i values = qi__qins4_values_vbmi();
  const size_t n_blocks = a->x->k / 256;
  qi__row_qins4 x;
  x.fetch = a->fetch;
  __m256 lanes[QI__Q8_RUN];
  for (size_t r = 0; r < a->n_w; r++) lanes[r] = _mm256_setzero_ps();
  for (size_t first = 0; first < n_blocks; first += QI__ROW_K_SLICE) {
    const qi__q8_chunk slice = qi__q8_chunk_at(a->x, a->x_row, 256 * first);
    size_t n = qi__min_size(QI__ROW_K_SLICE, n_blocks - first);
    qi__row_qins4_take(slice.q, n, &x);
    for (size_t r = 0; r < a->n_w; r++) {
      const uint8_t *w = a->w + r * a->w_stride + first * 144;
      size_t b = 0;
      for (; b + 8 <= n; b += 8, w += 8 * 144) lanes[r] = qi__qins4_chunk_vbmi(w, &x, b, slice.d + b, 8, values, lanes[r]);
      if (b < n) lanes[r] = qi__qins4_chunk_vbmi(w, &x, b, slice.d + b, (int)(n - b), values, lanes[r]);
    }
  }
  for (size_t r = 0; r < a->n_w; r++) a->y[r] = qi__sum_lanes_avx2(lanes[r]);
}
#endif

#endif // QI__KERNELS_ROW_QINS4_AVX512_H
