// ==== >>row_k_avx512 : one row of activations with k-quants, 512 bits ====
#ifndef QI__KERNELS_ROW_K_AVX512_H
#define QI__KERNELS_ROW_K_AVX512_H

#include "dot_q8_x86.h"

#if defined(QI__X86_64)

// The products of dot_q8.h for Q4_K, Q5_K and Q6_K with one row of activations. Sums of four products fit into int16, at most
// 63 * 127 * 4 = 32004: two registers of sums are packed into one before they are multiplied by their scales. What it costs to take
// codes apart decides, so activations are brought, once for all weight rows, into the order in which registers get codes.

// Of eight blocks at w, fetches what lies QI__FETCH_AHEAD behind block b into the second-level cache, each line of it: what the
// processor fetches of its own accord ends with a page and is too late for kernels as fast as these. Never faults, also beyond the
// matrix. No compiler may move fetches from here: GCC puts those of eight blocks into one burst, which leaves no room for other
// misses (15 GB/s a thread of Zen 4 in place of 26).
QI__INLINE QI__AVX2 void qi__row_k_fetch_avx2(const uint8_t *w, size_t size, int b) {
  const size_t line = QI__CACHE_LINE, first = (size * (size_t)b + line - 1) / line * line, end = size * (size_t)(b + 1);
  __asm__ volatile("");
  uintptr_t ahead = (uintptr_t)w + QI__FETCH_AHEAD;
  QI__UNROLL for (size_t at = first; at < end; at += line) _mm_prefetch((const char *)(ahead + at), _MM_HINT_T1);
}

// Blocks of a row that are taken at a time by all weight rows. Where rows are longer, memory is read in jumps: 4096 rows of 11008
// columns of Q4_K, in slices of 32 blocks, at 30 GB/s (two threads of Zen 4) in place of 53.
#define QI__ROW_K_SLICE 128

typedef struct qi__row_k {
  int8_t q[QI__ROW_K_SLICE * 256];   // [block][8 groups in the order of the format][32]
  int16_t sum[QI__ROW_K_SLICE * 16]; // Q4_K, Q5_K: [block][8] of 32 activations; Q6_K: [block][16] of 16
} qi__row_k;

// Codes of a block lie in four registers, each with two groups of 32 weights.
//   Q4_K, Q5_K   low nibbles of 64 bytes, their high nibbles, those of the next 64 bytes
//   Q6_K         groups 0 to 3, each with that 128 weights later
static const uint8_t qi__row_k4_order[8] = {0, 2, 1, 3, 4, 6, 5, 7};
static const uint8_t qi__row_q6_k_order[8] = {0, 4, 1, 5, 2, 6, 3, 7};

QI__INLINE QI__AVX512_VNNI void qi__row_k_take_avx512(const qi__q8_chunk *x, size_t n, const uint8_t *order, bool pairs,
                                                      qi__row_k *out) {
  for (size_t b = 0; b < n; b++) {
    QI__UNROLL for (int g = 0; g < 8; g++)
      qi__store_bytes_avx2(out->q + 256 * b + 32 * g, qi__bytes_avx2((const uint8_t *)x->q + 256 * b + 32 * order[g]));
    __m256i sums = qi__bytes_avx2((const uint8_t *)(x->sum + 16 * b));
    __m128i sums32 = _mm256_cvtepi32_epi16(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
    if (pairs) _mm_storeu_si128((__m128i *)(void *)(out->sum + 8 * b), sums32);
    else qi__store_bytes_avx2(out->sum + 16 * b, sums);
  }
  for (size_t b = n; pairs && b % 8; b++) memset(out->sum + 8 * b, 0, 8 * sizeof *out->sum); // read along with the last blocks
}

// The sums of all 16 lanes of eight registers, in order: blends and one shuffle for each addition, as in qi__fold8_avx2.
QI__INLINE QI__AVX512_VNNI __m256i qi__fold8_avx512(const __m512i *v) {
  const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  __m512i a[4], b[2];
  QI__UNROLL for (int i = 0; i < 4; i++) {
    __m512i p = v[2 * i], q = v[2 * i + 1];
    __m512i swapped = _mm512_shuffle_epi32(_mm512_mask_blend_epi32(0x5555, p, q), (_MM_PERM_ENUM)0xb1);
    a[i] = _mm512_add_epi32(_mm512_mask_blend_epi32(0xaaaa, p, q), swapped);
  }
  QI__UNROLL for (int i = 0; i < 2; i++) {
    __m512i p = a[2 * i], q = a[2 * i + 1];
    __m512i swapped = _mm512_shuffle_epi32(_mm512_mask_blend_epi32(0x3333, p, q), (_MM_PERM_ENUM)0x4e);
    b[i] = _mm512_add_epi32(_mm512_mask_blend_epi32(0xcccc, p, q), swapped);
  }
  b[0] = _mm512_add_epi32(_mm512_permutex2var_epi64(b[0], even, b[1]), _mm512_permutex2var_epi64(b[0], odd, b[1]));
  return _mm256_add_epi32(_mm512_castsi512_si256(b[0]), _mm512_extracti64x4_epi64(b[0], 1));
}

// A word four times, for constants.
#define QI__FOUR_WORDS(v) ((long long)((uint64_t)(v) * 0x0001000100010001u))

// ---- Q4_K and Q5_K ----

// What four blocks have in front.
typedef struct qi__k4_heads {
  __m512i head;  // the 16 bytes of each
  __m512i scale; // int16 [4][8]
  __m512i mins;  // int32 [4][4]: parts of the sums of mins times sums of activations
} qi__k4_heads;

// Of blocks at w, `size` bytes apart, n <= 4 of them; zero for the others. See qi__q8_scales_k4_avx2.
QI__INLINE QI__AVX512_VNNI void qi__k4_heads_avx512(const uint8_t *w, size_t size, int n, const int16_t *sums, qi__k4_heads *h) {
  const __m128i low_bytes = _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m128i high_bytes = _mm_setr_epi32(-1, 0x07060504, -1, 0x0b0a0908); // -1: zeros
  const __m128i low_mask = _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f);
  const __m128i scale_words = _mm_setr_epi16(~255, ~254, ~253, ~252, ~251, ~250, ~249, ~248);
  const __m128i min_words = _mm_setr_epi16(~247, ~246, ~245, ~244, ~243, ~242, ~241, ~240);
  __m512i v = _mm512_setzero_si512();
  QI__UNROLL for (int i = 0; i < 4; i++)
    if (i < n) {
      __m128i head = _mm_loadu_si128((const __m128i *)(const void *)(w + (size_t)i * size));
      v = _mm512_mask_broadcast_i32x4(v, (__mmask16)(0xf << 4 * i), head);
    }
  __m512i low = _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(low_bytes));
  __m512i high = _mm512_srli_epi32(_mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(high_bytes)), 2);
  low = _mm512_srlv_epi32(low, _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0, 4)));
  low = _mm512_and_si512(low, _mm512_broadcast_i32x4(low_mask));
  low = _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(0x30), 0xf8); // low | (high & 0x30): scales, mins
  h->head = v;
  h->scale = _mm512_shuffle_epi8(low, _mm512_broadcast_i32x4(scale_words));
  h->mins = _mm512_madd_epi16(_mm512_shuffle_epi8(low, _mm512_broadcast_i32x4(min_words)), _mm512_loadu_si512((const void *)sums));
}

// int32, block b in lane b.
QI__INLINE QI__AVX512_VNNI __m256i qi__k4_mins_avx512(const qi__k4_heads *h) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
  __m512i sum = _mm512_add_epi32(_mm512_unpacklo_epi32(h[0].mins, h[1].mins), _mm512_unpackhi_epi32(h[0].mins, h[1].mins));
  sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, (_MM_PERM_ENUM)0x4e));
  return _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, sum));
}

// Codes of 64 bytes: low nibbles, high ones.
QI__INLINE QI__AVX512_VNNI void qi__k4_codes_avx512(qi_format id, const uint8_t *w, int j, __m512i *code) {
  const __m512i low4 = _mm512_set1_epi8(15);
  __m512i v = _mm512_loadu_si512((const void *)(w + (id == QI_FORMAT_Q5_K ? 48 : 16) + 64 * j));
  code[0] = _mm512_and_si512(v, low4);
  code[1] = _mm512_and_si512(_mm512_srli_epi32(v, 4), low4);
  if (id != QI_FORMAT_Q5_K) return;
  __m512i high = _mm512_broadcast_i64x4(qi__bytes_avx2(w + 16)); // bit g belongs to group g
  QI__UNROLL for (int i = 0; i < 2; i++) {
    const int g = 4 * j + i;
    const __m512i bit = _mm512_inserti64x4(_mm512_set1_epi8((char)(1 << g)), _mm256_set1_epi8((char)(4 << g)), 1);
    code[i] = _mm512_mask_add_epi8(code[i], _mm512_test_epi8_mask(high, bit), code[i], _mm512_set1_epi8(16));
  }
}

// Total of block `b` of four, at w, in 16 lanes.
QI__INLINE QI__AVX512_VNNI __m512i qi__k4_block_avx512(qi_format id, const uint8_t *w, __m512i scales, int b, const int8_t *x) {
  const __m512i zero = _mm512_setzero_si512();
  __m512i total = zero;
  QI__UNROLL for (int j = 0; j < 2; j++) {
    __m512i code[2], sum[2];
    qi__k4_codes_avx512(id, w, j, code);
    QI__UNROLL for (int i = 0; i < 2; i++)
      sum[i] = _mm512_dpbusd_epi32(zero, code[i], _mm512_loadu_si512((const void *)(x + 128 * j + 64 * i)));
    // Packed: groups 4 j and 4 j + 1 in the lower two 128 bits, 4 j + 2 and 4 j + 3 in the upper.
    const long long g0 = QI__FOUR_WORDS(8 * b + 4 * j), one = QI__FOUR_WORDS(1), g1 = g0 + one, g2 = g1 + one, g3 = g2 + one;
    __m512i scale = _mm512_permutexvar_epi16(_mm512_setr_epi64(g0, g1, g0, g1, g2, g3, g2, g3), scales);
    total = _mm512_dpwssd_epi32(total, _mm512_packs_epi32(sum[0], sum[1]), scale);
  }
  return total;
}

// Lanes after n <= 8 blocks at w; n is a constant where it is 8.
QI__INLINE QI__AVX512_VNNI __m256 qi__k4_chunk_avx512(qi_format id, const uint8_t *w, const qi__q8_chunk *x, int n, __m256 lanes) {
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
  const size_t size = (size_t)qi__formats[id].info.block_bytes;
  qi__k4_heads h[2];
  __m512i total[8];
  QI__UNROLL for (int i = 0; i < 2; i++) qi__k4_heads_avx512(w + 4 * (size_t)i * size, size, n - 4 * i, x->sum + 32 * i, &h[i]);
  QI__UNROLL for (int b = 0; b < 8; b++) {
    total[b] = _mm512_setzero_si512();
    if (b >= n) continue;
    qi__row_k_fetch_avx2(w, size, b);
    total[b] = qi__k4_block_avx512(id, w + (size_t)b * size, h[b / 4].scale, b % 4, x->q + 256 * b);
  }
  __m256i halves = _mm512_castsi512_si256(_mm512_permutex2var_epi32(h[0].head, first, h[1].head)); // d, dmin
  __m256 x_d = qi__chunk_d_avx2(x->d, n), d = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_cvtepi32_epi16(halves)), x_d);
  __m256 dmin = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_cvtepi32_epi16(_mm256_srli_epi32(halves, 16))), x_d);
  lanes = qi__take_blocks_avx2(lanes, d, qi__fold8_avx512(total), n);
  return qi__take_blocks_avx2(lanes, _mm256_xor_ps(_mm256_set1_ps(-0.0f), dmin), qi__k4_mins_avx512(h), n);
}

// ---- Q6_K ----

// 32 bytes at p, and at q.
QI__INLINE QI__AVX512_VNNI __m512i qi__two_avx512(const uint8_t *p, const uint8_t *q) {
  return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(qi__bytes_avx2(p)), 0xf0, qi__bytes_avx2(q));
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

// Lanes after n <= 8 blocks at w; n is a constant where it is 8.
QI__INLINE QI__AVX512_VNNI __m256 qi__q6_k_chunk_avx512(const uint8_t *w, const qi__q8_chunk *x, int n, __m256 lanes) {
  const size_t size = 210;
  __m512i total[8];
  QI__UNROLL for (int b = 0; b < 8; b++) {
    total[b] = _mm512_setzero_si512();
    if (b >= n) continue;
    qi__row_k_fetch_avx2(w, size, b);
    total[b] = qi__q6_k_block_avx512(w + (size_t)b * size, x->q + 256 * b, x->sum + 16 * b);
  }
  __m256 d = _mm256_cvtph_ps(qi__block_words_avx2(w, size, n, 208));
  return qi__take_blocks_avx2(lanes, _mm256_mul_ps(d, qi__chunk_d_avx2(x->d, n)), qi__fold8_avx512(total), n);
}

// ---- all weight rows ----

QI__INLINE QI__AVX512_VNNI __m256 qi__row_k_chunk_avx512(qi_format id, const uint8_t *w, const qi__q8_chunk *x, int n,
                                                         __m256 lanes) {
  return id == QI_FORMAT_Q6_K ? qi__q6_k_chunk_avx512(w, x, n, lanes) : qi__k4_chunk_avx512(id, w, x, n, lanes);
}

QI__INLINE QI__AVX512_VNNI void qi__dot_rows_k_avx512(qi_format id, const qi__dot_q8_args *a) {
  const size_t size = (size_t)qi__formats[id].info.block_bytes, n_blocks = a->x->k / 256;
  const bool q6 = id == QI_FORMAT_Q6_K;
  qi__row_k x;
  __m256 lanes[QI__Q8_ROWS];
  for (size_t r = 0; r < a->n_w; r++) lanes[r] = _mm256_setzero_ps();
  for (size_t first = 0; first < n_blocks; first += QI__ROW_K_SLICE) {
    const qi__q8_chunk slice = qi__q8_chunk_at(a->x, a->x_row, 256 * first);
    size_t n = qi__min_size(QI__ROW_K_SLICE, n_blocks - first);
    qi__row_k_take_avx512(&slice, n, q6 ? qi__row_q6_k_order : qi__row_k4_order, !q6, &x);
    for (size_t r = 0; r < a->n_w; r++) {
      const uint8_t *w = a->w + r * a->w_stride + first * size;
      qi__q8_chunk now = {x.q, slice.d, x.sum};
      size_t left = n;
      for (; left >= 8; left -= 8, w += 8 * size, now.q += 2048, now.d += 8, now.sum += q6 ? 128 : 64)
        lanes[r] = qi__row_k_chunk_avx512(id, w, &now, 8, lanes[r]);
      if (left) lanes[r] = qi__row_k_chunk_avx512(id, w, &now, (int)left, lanes[r]);
    }
  }
  for (size_t r = 0; r < a->n_w; r++) a->y[r] = qi__sum_lanes_avx2(lanes[r]);
}

QI__FN QI__AVX512_VNNI void qi__dot_row_q4_k_avx512(const qi__dot_q8_args *a) { qi__dot_rows_k_avx512(QI_FORMAT_Q4_K, a); }
QI__FN QI__AVX512_VNNI void qi__dot_row_q5_k_avx512(const qi__dot_q8_args *a) { qi__dot_rows_k_avx512(QI_FORMAT_Q5_K, a); }
QI__FN QI__AVX512_VNNI void qi__dot_row_q6_k_avx512(const qi__dot_q8_args *a) { qi__dot_rows_k_avx512(QI_FORMAT_Q6_K, a); }
#endif

#endif // QI__KERNELS_ROW_K_AVX512_H
