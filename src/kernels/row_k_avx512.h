// ==== >>row_k_avx512 : a few rows of activations with k-quants, 512 bits ====
#ifndef QI__KERNELS_ROW_K_AVX512_H
#define QI__KERNELS_ROW_K_AVX512_H

#include "row_k_avx2.h"

#if defined(QI__X86_64)

// What row_k_avx2.h does: Q4_K and Q5_K with one row of activations or a few, Q6_K with one, as 256 bits take more just as fast.

// The sums of all 16 lanes of eight registers, in order, as qi__fold8_avx2 makes them: two steps as soon as registers v[0..b] are
// there, so that shuffles come between products, and the rest.
QI__INLINE QI__AVX512_VNNI void qi__fold_early_avx512(__m512i *v, int b) {
  if (b % 2) {
    __m512i p = v[b - 1], q = v[b];
    v[b - 1] = _mm512_add_epi32(_mm512_mask_shuffle_epi32(p, 0xaaaa, q, (_MM_PERM_ENUM)0xb1),
                                _mm512_mask_shuffle_epi32(q, 0x5555, p, (_MM_PERM_ENUM)0xb1));
  }
  if (b % 4 == 3) {
    __m512i p = v[b - 3], q = v[b - 1];
    v[b - 3] = _mm512_add_epi32(_mm512_mask_shuffle_epi32(p, 0xcccc, q, (_MM_PERM_ENUM)0x4e),
                                _mm512_mask_shuffle_epi32(q, 0x3333, p, (_MM_PERM_ENUM)0x4e));
  }
}

QI__INLINE QI__AVX512_VNNI __m256i qi__fold_rest_avx512(const __m512i *v) {
  const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  __m512i sum = _mm512_add_epi32(_mm512_permutex2var_epi64(v[0], even, v[4]), _mm512_permutex2var_epi64(v[0], odd, v[4]));
  return _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
}

QI__INLINE QI__AVX512_VNNI __m256i qi__fold8_avx512(__m512i *v) {
  QI__UNROLL for (int b = 1; b < 8; b++) qi__fold_early_avx512(v, b);
  return qi__fold_rest_avx512(v);
}

// 32 bytes at p, and at q.
QI__INLINE QI__AVX512_VNNI __m512i qi__two_avx512(const uint8_t *p, const uint8_t *q) {
  return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(qi__bytes_avx2(p)), 0xf0, qi__bytes_avx2(q));
}

// ---- Q4_K and Q5_K ----

// Two blocks in turns of eight codes, which takes one instruction a register, and is more than won back behind it: a group has
// eight codes at the same place of two registers, whose products are added up, at most 31 * 127 * 8 = 31496, before they are
// multiplied by a scale, and the sums of both blocks need folding only once.

// Eight bytes of a, eight of b, and so on: those of even places, then of odd ones.
QI__INLINE QI__AVX512_VNNI void qi__in_turns_avx512(__m512i a, __m512i b, __m512i *out) {
  out[0] = _mm512_unpacklo_epi64(a, b);
  out[1] = _mm512_unpackhi_epi64(a, b);
}

// Activations: [two blocks][half][even groups, odd groups][2 registers]. Those of blocks that are missing are zeros.
QI__INLINE QI__AVX512_VNNI void qi__row_k4_take_avx512(const qi__q8_chunk *x, size_t n, int8_t *out, int16_t *sum) {
  static const int8_t none[256] = {0};
  for (size_t b = 0; b < n; b += 2) {
    const uint8_t *p = (const uint8_t *)x->q + 256 * b, *q = b + 1 < n ? p + 256 : (const uint8_t *)none;
    QI__UNROLL for (int i = 0; i < 4; i++) {
      const size_t at = (size_t)(i / 2 * 128 + i % 2 * 32);
      __m512i v[2];
      qi__in_turns_avx512(qi__two_avx512(p + at, p + at + 64), qi__two_avx512(q + at, q + at + 64), v);
      QI__UNROLL for (int h = 0; h < 2; h++) _mm512_storeu_si512((void *)(out + 256 * b + 128 * i + 64 * h), v[h]);
    }
  }
  qi__row_k4_sums_avx2(x->sum, n, sum);
}

// What four blocks have in front.
typedef struct qi__k4_heads {
  __m512i head;     // the 16 bytes of each
  __m512i min;      // int16 [block][8]
  __m512i scale[2]; // of two blocks: eight bytes of each, four times
} qi__k4_heads;

// See qi__q8_scales_k4_avx2.
QI__INLINE QI__AVX512_VNNI void qi__k4_heads_avx512(const uint8_t *const *w, qi__k4_heads *h) {
  const __m128i low_bytes = _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m128i high_bytes = _mm_setr_epi32(-1, 0x07060504, -1, 0x0b0a0908); // -1: zeros
  const __m128i low_mask = _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f);
  const __m128i min_words = _mm_setr_epi16(~247, ~246, ~245, ~244, ~243, ~242, ~241, ~240); // a byte and a zero
  __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)w[0]));
  QI__UNROLL for (int i = 1; i < 4; i++)
    v = _mm512_mask_broadcast_i32x4(v, (__mmask16)(0xf << 4 * i), _mm_loadu_si128((const __m128i *)(const void *)w[i]));
  __m512i low = _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(low_bytes));
  __m512i high = _mm512_srli_epi32(_mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(high_bytes)), 2);
  low = _mm512_srlv_epi32(low, _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0, 4)));
  low = _mm512_and_si512(low, _mm512_broadcast_i32x4(low_mask));
  low = _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(0x30), 0xf8); // low | (high & 0x30): scales, mins
  h->head = v;
  h->min = _mm512_shuffle_epi8(low, _mm512_broadcast_i32x4(min_words));
  h->scale[0] = _mm512_permutexvar_epi64(_mm512_set4_epi64(2, 0, 2, 0), low);
  h->scale[1] = _mm512_permutexvar_epi64(_mm512_set4_epi64(6, 4, 6, 4), low);
}

// Codes of bytes v, with the bits 4 (even groups) and 5 (odd ones) of `fifth`; those of odd groups are as much too large as
// qi__k4_odd_bits says.
QI__INLINE QI__AVX512_VNNI void qi__k4_codes_avx512(qi_format id, __m512i v, __m512i fifth, __m512i *even, __m512i *odd) {
  *even = _mm512_and_si512(v, _mm512_set1_epi8(0x0f));
  if (id == QI_FORMAT_Q4_K) {
    *odd = _mm512_and_si512(v, _mm512_set1_epi8((char)0xf0));
    return;
  }
  *odd = _mm512_and_si512(_mm512_srli_epi16(v, 3), _mm512_set1_epi8(0x1e));
  *even = _mm512_ternarylogic_epi32(*even, fifth, _mm512_set1_epi8(0x10), 0xf8); // even | (fifth & 0x10)
  *odd = _mm512_ternarylogic_epi32(*odd, fifth, _mm512_set1_epi8(0x20), 0xf8);
}
QI__INLINE unsigned qi__k4_odd_bits(qi_format id) { return id == QI_FORMAT_Q4_K ? 4 : 1; }

// Fifth bits of blocks p and q, of the first 128 codes of each, then of the others: from bit g of group g to where
// qi__k4_codes_avx512 wants them. The upper half of a register has groups 2 and 3, or 6 and 7.
QI__INLINE QI__AVX512_VNNI void qi__k4_fifths_avx512(const uint8_t *p, const uint8_t *q, __m512i (*out)[2]) {
  const __m512i up = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
  const __m512i down = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1);
  __m512i v[2];
  qi__in_turns_avx512(_mm512_broadcast_i64x4(qi__bytes_avx2(p)), _mm512_broadcast_i64x4(qi__bytes_avx2(q)), v);
  QI__UNROLL for (int h = 0; h < 2; h++) {
    out[0][h] = _mm512_sllv_epi16(v[h], up);
    out[1][h] = _mm512_srlv_epi16(v[h], down);
  }
}

// Totals of blocks w[0] and w[1], two lanes of one, two of the other, and so on; b: of w[0] in the chunk. ahead: for
// qi__row_k_fetch_avx2.
QI__INLINE QI__AVX512_VNNI void qi__k4_pair_avx512(qi_format id, const uint8_t *const *w, __m512i scales, const qi__row_k_x *x,
                                                   int n, const uint8_t *ahead, int b, __m512i *total) {
  const bool q5 = id == QI_FORMAT_Q5_K;
  const __m512i zero = _mm512_setzero_si512();
  __m512i fifth[2][2];
  if (q5) qi__k4_fifths_avx512(w[0] + 16, w[1] + 16, fifth);
  QI__UNROLL for (int j = 0; j < 2; j++) { // groups 4 j to 4 j + 3
    const size_t at = (size_t)(q5 ? 48 : 16) + 64 * (size_t)j;
    __m512i v[2], low[2], high[2];
    qi__row_k_fetch_avx2(x->fetch, ahead, (size_t)qi__formats[id].info.block_bytes, b + j);
    qi__in_turns_avx512(_mm512_loadu_si512((const void *)(w[0] + at)), _mm512_loadu_si512((const void *)(w[1] + at)), v);
    QI__UNROLL for (int h = 0; h < 2; h++) qi__k4_codes_avx512(id, v[h], q5 ? fifth[j][h] : v[h], &low[h], &high[h]);
    // A byte and a zero: scales of groups 4 j, 4 j + 1, or of the next two; eight bytes on, those of the other block.
    const long long one = QI__FOUR_WORDS(0x8000 + 4 * j) + 0x0001000000010000, two = one + QI__FOUR_WORDS(2);
    const long long eight = QI__FOUR_WORDS(8);
    const __m512i pick = _mm512_setr_epi64(one, one + eight, one, one + eight, two, two + eight, two, two + eight);
    __m512i scale = _mm512_shuffle_epi8(scales, pick);
    QI__UNROLL for (int i = 0; i < n; i++) {
      const int8_t *q = x->q + (size_t)i * x->q_stride + 256 * (b + j);
      __m512i even = _mm512_dpbusd_epi32(zero, low[0], _mm512_loadu_si512((const void *)q));
      __m512i odd = _mm512_dpbusd_epi32(zero, high[0], _mm512_loadu_si512((const void *)(q + 128)));
      even = _mm512_dpbusd_epi32(even, low[1], _mm512_loadu_si512((const void *)(q + 64)));
      odd = _mm512_dpbusd_epi32(odd, high[1], _mm512_loadu_si512((const void *)(q + 192)));
      __m512i words = _mm512_mask_blend_epi16(0xaaaaaaaau, even, _mm512_slli_epi32(odd, 16 - qi__k4_odd_bits(id)));
      total[i] = _mm512_dpwssd_epi32(j ? total[i] : zero, words, scale);
    }
  }
}

// The sums of neighbouring lanes: in each 128 bits two of a, two of b.
QI__INLINE QI__AVX512_VNNI __m512i qi__add_neighbours_avx512(__m512i a, __m512i b) {
  __m512 p = _mm512_castsi512_ps(a), q = _mm512_castsi512_ps(b);
  return _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(p, q, 0x88)), _mm512_castps_si512(_mm512_shuffle_ps(p, q, 0xdd)));
}

// Of eight blocks the integers of the contract: totals, then mins; min: parts of the latter, int32 [block][4].
QI__INLINE QI__AVX512_VNNI __m512i qi__k4_sums_avx512(const __m512i *total, const __m512i *min) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 20, 24, 28, 17, 21, 25, 29);
  const __m512i second = _mm512_setr_epi32(4, 5, 6, 7, 12, 13, 14, 15, 18, 22, 26, 30, 19, 23, 27, 31);
  __m512i a = qi__add_neighbours_avx512(total[0], total[1]), b = qi__add_neighbours_avx512(total[2], total[3]);
  __m512i t = _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee));
  __m512i m = _mm512_add_epi32(_mm512_unpacklo_epi32(min[0], min[1]), _mm512_unpackhi_epi32(min[0], min[1]));
  return _mm512_add_epi32(_mm512_permutex2var_epi32(t, first, m), _mm512_permutex2var_epi32(t, second, m));
}

// Lanes of n rows after n_blocks <= 8 blocks at w.
QI__INLINE QI__AVX512_VNNI void qi__k4_chunk_avx512(qi_format id, qi__step_fn words, const uint8_t *w, const qi__row_k_x *x,
                                                    int n_blocks, int n, __m256 *lanes) {
  const __m512i halves = _mm512_zextsi256_si512(_mm256_setr_epi16(0, 8, 16, 24, 32, 40, 48, 56, 1, 9, 17, 25, 33, 41, 49, 57));
  const size_t size = (size_t)qi__formats[id].info.block_bytes;
  const __mmask8 taken = (__mmask8)((1u << n_blocks) - 1);
  const uint8_t *block[8]; // beyond the last the last again: what belongs to it is zero
  qi__k4_heads h[2];
  __m512i total[4][QI__ROW_X]; // of pairs of blocks
  QI__UNROLL for (int b = 0; b < 8; b++) block[b] = w + size * (size_t)(b < n_blocks ? b : n_blocks - 1);
  QI__UNROLL for (int p = 0; p < 4; p++) {
    if (p % 2 == 0) {
      if (2 * p < n_blocks) qi__k4_heads_avx512(block + 2 * p, &h[p / 2]);
      else h[p / 2] = h[0];
    }
    if (2 * p < n_blocks) qi__k4_pair_avx512(id, block + 2 * p, h[p / 2].scale[p % 2], x, n, w, 2 * p, total[p]);
    else QI__UNROLL for (int i = 0; i < n; i++) total[p][i] = _mm512_setzero_si512();
  }
  __m512 d_w = _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutex2var_epi16(h[0].head, halves, h[1].head))); // d, dmin
  QI__UNROLL for (int i = 0; i < n; i++) {
    const int16_t *sum = x->sum + (size_t)i * x->sum_stride;
    const __m512i totals[4] = {total[0][i], total[1][i], total[2][i], total[3][i]};
    __m512i min[2];
    min[0] = _mm512_madd_epi16(h[0].min, _mm512_loadu_si512((const void *)sum));
    min[1] = n_blocks > 4 ? _mm512_madd_epi16(h[1].min, _mm512_loadu_si512((const void *)(sum + 32))) : min[0];
    __m512 sums = _mm512_cvtepi32_ps(qi__k4_sums_avx512(totals, min));
    __m512 d = _mm512_mul_ps(d_w, _mm512_broadcast_f32x8(qi__chunk_d_avx2(x->d + (size_t)i * x->d_stride, n_blocks)));
    lanes[i] = _mm256_mask3_fmadd_ps(_mm512_castps512_ps256(d), _mm512_castps512_ps256(sums), lanes[i], taken);
    lanes[i] = _mm256_mask3_fnmadd_ps(_mm512_extractf32x8_ps(d, 1), _mm512_extractf32x8_ps(sums, 1), lanes[i], taken);
  }
  (void)words;
}

// ---- Q6_K ----

// Sums of four products are at most 63 * 127 * 4 = 32004. Codes of a block lie in four registers, each with two groups of 32
// weights: groups 0 to 3, each with that 128 weights later.
QI__INLINE QI__AVX512_VNNI void qi__row_q6_k_take_avx512(const qi__q8_chunk *x, size_t n, int8_t *out, int16_t *sum) {
  for (size_t b = 0; b < n; b++) {
    QI__UNROLL for (int g = 0; g < 8; g++)
      qi__store_bytes_avx2(out + 256 * b + 32 * g, qi__bytes_avx2((const uint8_t *)x->q + 256 * b + g % 2 * 128 + g / 2 * 32));
    qi__store_bytes_avx2(sum + 16 * b, qi__bytes_avx2((const uint8_t *)(x->sum + 16 * b)));
  }
}

// Total of the block at w, in 16 lanes; sums: of 16 activations.
QI__INLINE QI__AVX512_VNNI __m512i qi__q6_k_block_avx512(const uint8_t *w, const int8_t *x, const int16_t *sums) {
  const __m512i zero = _mm512_setzero_si512(), low4 = _mm512_set1_epi8(15), high2 = _mm512_set1_epi8(0x30);
  __m256i scale = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(w + 192)));
  __m256i offset = _mm256_slli_epi32(_mm256_madd_epi16(scale, qi__bytes_avx2((const uint8_t *)sums)), 5);
  __m512i total = _mm512_zextsi256_si512(_mm256_sub_epi32(_mm256_setzero_si256(), offset)), scales = _mm512_castsi256_si512(scale);
  __m512i high = _mm512_loadu_si512((const void *)(w + 128)); // group g has the bits 2 (g % 4) of half its bytes
  // Low nibbles of bytes 32 j .., and of those 64 bytes later, are groups j and 4 + j; high ones j + 2 and 6 + j.
  QI__UNROLL for (int j = 0; j < 2; j++) {
    __m512i low = qi__two_avx512(w + 32 * j, w + 64 + 32 * j);
    __m512i up = j ? _mm512_slli_epi32(high, 2) : _mm512_slli_epi32(high, 4), down = j ? _mm512_srli_epi32(high, 2) : high;
    __m512i a = _mm512_or_si512(_mm512_and_si512(low, low4), _mm512_and_si512(up, high2));
    __m512i b = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(low, 4), low4), _mm512_and_si512(down, high2));
    a = _mm512_dpbusd_epi32(zero, a, _mm512_loadu_si512((const void *)(x + 64 * j)));
    b = _mm512_dpbusd_epi32(zero, b, _mm512_loadu_si512((const void *)(x + 128 + 64 * j)));
    // Scales are for 16 weights, which is 128 bits: of groups j and j + 2, then of 4 + j and 6 + j.
    const long long s = QI__FOUR_WORDS(2 * j), s1 = QI__FOUR_WORDS(1), s4 = QI__FOUR_WORDS(4), s8 = QI__FOUR_WORDS(8);
    const __m512i pick = _mm512_setr_epi64(s, s + s4, s + s1, s + s1 + s4, s + s8, s + s8 + s4, s + s8 + s1, s + s8 + s1 + s4);
    total = _mm512_dpwssd_epi32(total, _mm512_packs_epi32(a, b), _mm512_permutexvar_epi16(pick, scales));
  }
  return total;
}

// Lanes of one row, n = 1, after n_blocks <= 8 blocks at w.
QI__INLINE QI__AVX512_VNNI void qi__q6_k_chunk_avx512(qi_format id, qi__step_fn words, const uint8_t *w, const qi__row_k_x *x,
                                                      int n_blocks, int n, __m256 *lanes) {
  const size_t size = (size_t)qi__formats[id].info.block_bytes;
  __m512i total[8];
  QI__UNROLL for (int b = 0; b < 8; b++) {
    total[b] = _mm512_setzero_si512();
    if (b >= n_blocks) continue;
    qi__row_k_fetch_avx2(x->fetch, w, size, b);
    total[b] = qi__q6_k_block_avx512(w + (size_t)b * size, x->q + 256 * b, x->sum + 16 * b);
  }
  __m256 d = _mm256_cvtph_ps(qi__block_words_avx2(w, size, n_blocks, 208));
  *lanes = qi__take_blocks_avx2(*lanes, _mm256_mul_ps(d, qi__chunk_d_avx2(x->d, n_blocks)), qi__fold8_avx512(total), n_blocks);
  (void)words, (void)n;
}

// ---- all weight rows ----

QI__INLINE QI__AVX512_VNNI void qi__dot_k_avx512(qi_format id, int n, const qi__dot_q8_args *a) {
  if (id != QI_FORMAT_Q6_K) qi__dot_rows_k(id, qi__words_avx512, qi__row_k4_take_avx512, qi__k4_chunk_avx512, n, a);
  else if (n == 1) qi__dot_rows_k(id, qi__words_avx512, qi__row_q6_k_take_avx512, qi__q6_k_chunk_avx512, n, a);
  else qi__dot_rows_k_avx2(id, qi__words_avx512, n, a);
}
#endif

#endif // QI__KERNELS_ROW_K_AVX512_H
