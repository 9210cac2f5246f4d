// ==== >>row_qins_avx2 : one row of activations with QINS8_K and QINS4_K ====
#ifndef QI__KERNELS_ROW_QINS_AVX2_H
#define QI__KERNELS_ROW_QINS_AVX2_H

#include "row_k_avx2.h"

#if defined(QI__X86_64)

// The products of dot_q8.h for the grouped kinds of QINS. Codes are turned (formats/qins.h): dword n of each of the four registers
// of a block belongs to one group, so products of bytes add up group by group, and the 16 sums are multiplied by their scales at
// the end. Activations are turned once for all weight rows.

typedef struct qi__row_qins { // in the scratch of a product
  int8_t q[QI__ROW_K_SLICE * 256];    // [block][4 registers][64]
  int32_t bias[QI__ROW_K_SLICE * 16]; // for row_qins_avx512.h: [block][dword]
  qi__fetch fetch;                    // of weights
} qi__row_qins;

QI__STATIC_ASSERT(sizeof(qi__row_qins) <= QI__Q8_PANEL_FLOATS * sizeof(float), row_qins_in_scratch);

// Two steps, which the loop below gets as constants and inlines: n_blocks blocks of a row of activations to their order, and the
// lanes after n <= 8 blocks at w, of which the first is number `at` of x. n is a constant where it is 8.
typedef void (*qi__qins_take_fn)(const int8_t *q, size_t n_blocks, qi__row_qins *out);
typedef __m256 (*qi__qins_chunk_fn)(qi_format id, qi__step_fn step, const void *tables, const uint8_t *w, const qi__row_qins *x,
                                    size_t at, const float *x_d, int n, __m256 lanes);

// All weight rows with one row of activations.
QI__INLINE QI__AVX2 void qi__dot_row_qins(qi__qins_take_fn take, qi__qins_chunk_fn chunk, qi_format id, qi__step_fn step,
                                          const void *tables, const qi__dot_q8_args *a) {
  const size_t n_blocks = a->x->k / 256, size = (size_t)qi__formats[id].info.block_bytes;
  qi__row_qins *x = (qi__row_qins *)(void *)a->scratch;
  x->fetch = a->fetch;
  __m256 lanes[QI__Q8_RUN];
  for (size_t r = 0; r < a->n_w; r++) lanes[r] = _mm256_setzero_ps();
  for (size_t first = 0; first < n_blocks; first += QI__ROW_K_SLICE) {
    const qi__q8_chunk slice = qi__q8_chunk_at(a->x, a->x_row, 256 * first);
    size_t n = qi__min_size(QI__ROW_K_SLICE, n_blocks - first);
    take(slice.q, n, x);
    for (size_t r = 0; r < a->n_w; r++) {
      const uint8_t *w = a->w + r * a->w_stride + first * size;
      size_t b = 0;
      for (; b + 8 <= n; b += 8, w += 8 * size) lanes[r] = chunk(id, step, tables, w, x, b, slice.d + b, 8, lanes[r]);
      if (b < n) lanes[r] = chunk(id, step, tables, w, x, b, slice.d + b, (int)(n - b), lanes[r]);
    }
  }
  for (size_t r = 0; r < a->n_w; r++) a->y[r] = qi__sum_lanes_avx2(lanes[r]);
}

QI__INLINE QI__AVX2 void qi__row_qins_take_avx2(const int8_t *q, size_t n_blocks, qi__row_qins *out) {
  for (size_t b = 0; b < n_blocks; b++) qi__turn_avx2((const uint8_t *)q + 256 * b, (uint8_t *)out->q + 256 * b);
}

// Sums of the groups of dwords 8 h .. 8 h + 7 of QINS4_K.
QI__INLINE QI__AVX2 __m256i qi__qins4_k_sums_avx2(qi__step_fn bytes, __m256i table, const uint8_t *w, const int8_t *x, int h) {
  __m256i sum = _mm256_setzero_si256();
  QI__UNROLL for (int j = 0; j < 4; j++) {
    __m256i v = qi__bits_avx2(qi__bytes_avx2(w + 16 + 64 * (j / 2) + 32 * h), j % 2 * 4, 4);
    __m256i xj = qi__bytes_avx2((const uint8_t *)x + 64 * j + 32 * h);
    sum = bytes(sum, _mm256_abs_epi8(xj), _mm256_sign_epi8(_mm256_shuffle_epi8(table, v), xj));
  }
  return sum;
}

// The same of QINS8_K: sizes are words, so two dwords of a register belong to a group. tables: see qi__log_tables_avx2.
QI__INLINE QI__AVX2 __m256i qi__qins8_k_sums_avx2(qi__step_fn words, const __m256i *tables, const uint8_t *w, const int8_t *x,
                                                  int h) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i sum[2] = {zero, zero};
  QI__UNROLL for (int j = 0; j < 4; j++) {
    __m256i sizes[2], codes = qi__bytes_avx2(w + 16 + 64 * j + 32 * h);
    __m256i v = _mm256_sign_epi8(qi__bytes_avx2((const uint8_t *)x + 64 * j + 32 * h), codes); // what code 0 gets does not matter
    qi__qins8_k_words_avx2(tables, codes, sizes); // of the first eight codes of each 16, then of the others
    sum[0] = words(sum[0], sizes[0], _mm256_unpacklo_epi8(zero, v)); // times 256: at most 16 * 255 * 127 * 2^8 < 2^31
    sum[1] = words(sum[1], sizes[1], _mm256_unpackhi_epi8(zero, v));
  }
  return _mm256_srai_epi32(_mm256_hadd_epi32(sum[0], sum[1]), 8);
}

// d of n <= 8 blocks times that of their activations.
QI__INLINE QI__AVX2 __m256 qi__qins_chunk_d_avx2(qi_format id, const uint8_t *w, size_t size, const float *x_d, int n) {
  __m128i halves = qi__block_words_avx2(w, size, n, QI__QINS_D_AT);
  if (id == QI_FORMAT_QINS4_K) halves = _mm_and_si128(halves, _mm_set1_epi16(0x7fff));
  __m256 d = _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(0x1p-10f));
  return _mm256_mul_ps(d, qi__chunk_d_avx2(x_d, n));
}

QI__INLINE QI__AVX2 __m256 qi__qins_chunk_avx2(qi_format id, qi__step_fn step, const void *tables, const uint8_t *w,
                                               const qi__row_qins *x, size_t at, const float *x_d, int n, __m256 lanes) {
  const __m128i group = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); // of dwords
  const size_t size = (size_t)qi__formats[id].info.block_bytes;
  const uint8_t *block = w;
  const int8_t *q = x->q + 256 * at;
  __m256i total[8];
  for (int b = 0; b < n; b++, block += size, q += 256) {
    qi__row_k_fetch_avx2(x->fetch, w, size, b);
    __m128i scales = _mm_shuffle_epi8(qi__qins_scales_avx2(id, block), group);
    total[b] = _mm256_setzero_si256();
    QI__UNROLL for (int h = 0; h < 2; h++) {
      const __m256i *t = (const __m256i *)tables;
      __m256i sum, scale = _mm256_cvtepi8_epi32(h ? _mm_srli_si128(scales, 8) : scales);
      if (id == QI_FORMAT_QINS4_K) sum = qi__qins4_k_sums_avx2(step, t[qi__qins4_t(block)], block, q, h);
      else sum = qi__qins8_k_sums_avx2(step, t, block, q, h);
      total[b] = _mm256_add_epi32(total[b], _mm256_mullo_epi32(sum, scale));
    }
  }
  for (int b = n; b < 8; b++) total[b] = _mm256_setzero_si256(); // blocks that are not there
  return qi__take_blocks_avx2(lanes, qi__qins_chunk_d_avx2(id, w, size, x_d, n), qi__fold8_avx2(total), n);
}

QI__INLINE QI__AVX2 void qi__dot_row_qins4_k(qi__step_fn bytes, const qi__dot_q8_args *a) {
  __m256i tables[2];
  QI__UNROLL for (int t = 0; t < 2; t++)
    tables[t] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)qi__qins4_values[t]));
  qi__dot_row_qins(qi__row_qins_take_avx2, qi__qins_chunk_avx2, QI_FORMAT_QINS4_K, bytes, tables, a);
}

QI__INLINE QI__AVX2 void qi__dot_row_qins8_k(qi__step_fn words, const qi__dot_q8_args *a) {
  __m256i tables[4];
  qi__log_tables_avx2(qi__qins8_k_factors, tables);
  qi__dot_row_qins(qi__row_qins_take_avx2, qi__qins_chunk_avx2, QI_FORMAT_QINS8_K, words, tables, a);
}
#endif

#endif // QI__KERNELS_ROW_QINS_AVX2_H
