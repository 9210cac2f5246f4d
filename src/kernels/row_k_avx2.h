// ==== >>row_k_avx2 : a few rows of activations with k-quants ====
#ifndef QI__KERNELS_ROW_K_AVX2_H
#define QI__KERNELS_ROW_K_AVX2_H

#include "dot_q8_x86.h"

#if defined(QI__X86_64)

// The products of dot_q8.h for Q4_K, Q5_K and Q6_K with one row of activations, or a few. Sums of some products fit into int16: two
// registers of such sums become one before they are multiplied by their scales. What it costs to take codes apart decides, so
// activations are brought, once for all weight rows, into the order in which registers get codes.

// A word four times, for constants.
#define QI__FOUR_WORDS(v) ((long long)((uint64_t)(v) * 0x0001000100010001u))

// ---- slices ----

// qi__fetch_far_avx2 for block b of eight at w: each line once. (Emerald Rapids, Q4_K out of the second level, GB/s of one thread:
// as qi__prefetch_ahead asks, by blocks, 29; by lines 33.)
QI__INLINE QI__AVX2 void qi__row_k_fetch_avx2(qi__fetch fetch, const uint8_t *w, size_t size, int b) {
  const size_t line = QI__CACHE_LINE, first = (size * (size_t)b + line - 1) / line * line, end = size * (size_t)(b + 1);
  const uintptr_t now = (uintptr_t)w;
  __asm__ volatile("");
  if (fetch == QI__FETCH_PAGES) {
    qi__prefetch_pages(now + size * (size_t)b, size);
    for (size_t at = first; at < end; at += line) qi__prefetch_near((const void *)(now + at + QI__FETCH_NEAR));
  } else if (first < end) {
    qi__prefetch_ahead(fetch, now + first, end - first);
  }
}

// Blocks that are taken at a time by all weight rows, of all rows of activations together. Where rows are longer, memory is read in
// jumps: 4096 rows of 11008 columns of Q4_K, in slices of 32 blocks, at 30 GB/s (two threads of Zen 4) in place of 53.
#define QI__ROW_K_SLICE 128

typedef struct qi__row_k {
  int8_t q[QI__ROW_K_SLICE * 256];   // in the order of the format
  int16_t sum[QI__ROW_K_SLICE * 16]; // Q4_K, Q5_K: [block][8] of 32 activations; Q6_K: [block][16] of 16
} qi__row_k;

QI__STATIC_ASSERT(QI__ROW_K_SLICE / QI__ROW_X % 4 == 0, row_k_fours);
QI__STATIC_ASSERT(QI__Q8_RUN <= QI__Q8_ROWS * QI__ROW_X, row_k_lanes);
QI__STATIC_ASSERT(sizeof(qi__row_k) <= QI__Q8_PANEL_FLOATS * sizeof(float), row_k_in_scratch);

// Rows of activations in that order, from some block on: of the first row, and how far apart they are.
typedef struct qi__row_k_x {
  const int8_t *q;
  const int16_t *sum;
  const float *d;
  size_t q_stride, sum_stride, d_stride;
  qi__fetch fetch; // of weights
} qi__row_k_x;

// Two steps, which the loop below gets as constants and inlines: n_blocks blocks of a row of activations to their order, and the
// lanes of n rows, a constant, after n_blocks <= 8 blocks at w.
typedef void (*qi__row_k_take_fn)(const qi__q8_chunk *x, size_t n_blocks, int8_t *q, int16_t *sum);
typedef void (*qi__row_k_chunk_fn)(qi_format id, qi__step_fn words, const uint8_t *w, const qi__row_k_x *x, int n_blocks, int n,
                                   __m256 *lanes);

// n_blocks blocks of n rows of activations, from block `first` on. Rows lie close to each other, so that they share the cache well.
QI__INLINE QI__AVX2 qi__row_k_x qi__row_k_take(qi__row_k_take_fn take, const qi__dot_q8_args *a, size_t first, size_t n_blocks,
                                               int n) {
  qi__row_k *to = (qi__row_k *)(void *)a->scratch;
  size_t room = (n_blocks + 3) / 4 * 4;
  qi__row_k_x x = {to->q, to->sum, qi__q8_chunk_at(a->x, a->x_row, 256 * first).d, 256 * room, 16 * room, a->x->k / 256,
                   a->fetch};
  for (size_t i = 0; i < (size_t)n; i++) {
    qi__q8_chunk from = qi__q8_chunk_at(a->x, a->x_row + i, 256 * first);
    take(&from, n_blocks, to->q + i * x.q_stride, to->sum + i * x.sum_stride);
  }
  return x;
}

// From block b on.
QI__INLINE qi__row_k_x qi__row_k_at(qi_format id, const qi__row_k_x *x, size_t b) {
  qi__row_k_x at = *x;
  at.q += 256 * b, at.sum += (id == QI_FORMAT_Q6_K ? 16 : 8) * b, at.d += b;
  return at;
}

// Lanes after n_blocks blocks at w. Whole chunks have a body of their own only for one row: more have less to gain than it is long.
QI__INLINE QI__AVX2 void qi__row_k_blocks(qi_format id, qi__step_fn words, qi__row_k_chunk_fn chunk, const uint8_t *w,
                                          const qi__row_k_x *x, size_t n_blocks, int n, __m256 *lanes) {
  const size_t size = (size_t)qi__formats[id].info.block_bytes;
  size_t b = 0;
  if (n == 1) {
    for (; b + 8 <= n_blocks; b += 8) {
      qi__row_k_x now = qi__row_k_at(id, x, b);
      chunk(id, words, w + b * size, &now, 8, n, lanes);
    }
  }
  for (; b < n_blocks; b += 8) {
    qi__row_k_x now = qi__row_k_at(id, x, b);
    chunk(id, words, w + b * size, &now, (int)qi__min_size(8, n_blocks - b), n, lanes);
  }
}

// All weight rows, with n rows of activations from a->x_row on.
QI__INLINE QI__AVX2 void qi__dot_rows_k(qi_format id, qi__step_fn words, qi__row_k_take_fn take, qi__row_k_chunk_fn chunk, int n,
                                        const qi__dot_q8_args *a) {
  const size_t size = (size_t)qi__formats[id].info.block_bytes, n_blocks = a->x->k / 256, slice = QI__ROW_K_SLICE / (size_t)n;
  __m256 lanes[QI__Q8_ROWS * QI__ROW_X]; // [n_w, n]
  for (size_t i = 0; i < a->n_w * (size_t)n; i++) lanes[i] = _mm256_setzero_ps();
  for (size_t first = 0; first < n_blocks; first += slice) {
    const size_t now = qi__min_size(slice, n_blocks - first);
    const qi__row_k_x x = qi__row_k_take(take, a, first, now, n);
    for (size_t r = 0; r < a->n_w; r++)
      qi__row_k_blocks(id, words, chunk, a->w + r * a->w_stride + first * size, &x, now, n, lanes + r * (size_t)n);
  }
  for (size_t r = 0; r < a->n_w; r++)
    QI__UNROLL for (int i = 0; i < n; i++) a->y[(size_t)i * a->y_stride + r] = qi__sum_lanes_avx2(lanes[r * (size_t)n + (size_t)i]);
}

// sum + scale * (products of the codes in two registers).
QI__INLINE QI__AVX2 __m256i qi__row_k_add_avx2(qi__step_fn words, __m256i sum, const __m256i *code, const int8_t *x,
                                               __m256i scale) {
  __m256i low = _mm256_maddubs_epi16(code[0], qi__bytes_avx2((const uint8_t *)x));
  __m256i high = _mm256_maddubs_epi16(code[1], qi__bytes_avx2((const uint8_t *)x + 32));
  return words(sum, _mm256_add_epi16(low, high), scale);
}

// ---- Q4_K and Q5_K ----

// Two blocks beside each other, 16 bytes of each: groups of 32 codes lie in two registers, whose products are added up, at most
// 31 * 127 * 4 = 15748, or twice that where codes are doubled, before they are multiplied by a scale.

QI__INLINE QI__AVX2 __m256i qi__two_avx2(const uint8_t *p, const uint8_t *q) {
  __m128i low = _mm_loadu_si128((const __m128i *)(const void *)p), high = _mm_loadu_si128((const __m128i *)(const void *)q);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

// Sums of 32 activations of n blocks; zeros up to a multiple of four blocks.
QI__INLINE QI__AVX2 void qi__row_k4_sums_avx2(const int16_t *sum, size_t n, int16_t *out) {
  for (size_t b = 0; b < n; b++) {
    __m256i v = _mm256_madd_epi16(qi__bytes_avx2((const uint8_t *)(sum + 16 * b)), _mm256_set1_epi16(1));
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storeu_si128((__m128i *)(void *)(out + 8 * b), words);
  }
  for (size_t b = n; b % 4; b++) memset(out + 8 * b, 0, 8 * sizeof *out);
}

// Activations: [two blocks][group][half]. Those of a block that is missing are zeros.
QI__INLINE QI__AVX2 void qi__row_k4_take_avx2(const qi__q8_chunk *x, size_t n, int8_t *q, int16_t *sum) {
  static const int8_t none[256] = {0};
  for (size_t b = 0; b < n; b += 2) {
    const uint8_t *first = (const uint8_t *)x->q + 256 * b, *second = b + 1 < n ? first + 256 : (const uint8_t *)none;
    for (size_t i = 0; i < 256; i += 16) qi__store_bytes_avx2(q + 256 * b + 2 * i, qi__two_avx2(first + i, second + i));
  }
  qi__row_k4_sums_avx2(x->sum, n, sum);
}

// What eight blocks add up to, two of them in a register, for each row of activations.
typedef struct qi__k4_sums {
  __m256i head[4];             // the first 16 bytes
  __m256i total[QI__ROW_X][4]; // int32 [block][4]: parts of the sums
  __m256i mins[QI__ROW_X][4];
} qi__k4_sums;

// Scales and mins of the two blocks with the first bytes `head`: eight bytes each. See qi__q8_scales_k4_avx2.
QI__INLINE QI__AVX2 __m256i qi__k4_scales_avx2(__m256i head) {
  const __m128i low_bytes = _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m128i high_bytes = _mm_setr_epi32(-1, 0x07060504, -1, 0x0b0a0908); // -1: zeros
  const __m256i low_mask = _mm256_set1_epi64x(0x0f0f0f0f3f3f3f3f);
  __m256i low = _mm256_shuffle_epi8(head, _mm256_broadcastsi128_si256(low_bytes));
  __m256i high = _mm256_shuffle_epi8(head, _mm256_broadcastsi128_si256(high_bytes));
  low = _mm256_and_si256(_mm256_srlv_epi32(low, _mm256_setr_epi32(0, 0, 0, 4, 0, 0, 0, 4)), low_mask);
  return _mm256_or_si256(low, _mm256_and_si256(_mm256_srli_epi32(high, 2), _mm256_set1_epi8(0x30)));
}

// Codes of the low nibbles of v (an even group) or of the high ones, with bits 4 and 5 of `fifth`; the latter doubled for Q5_K.
QI__INLINE QI__AVX2 __m256i qi__k4_codes_avx2(qi_format id, __m256i v, __m256i fifth, bool odd) {
  if (id == QI_FORMAT_Q4_K) return qi__bits_avx2(v, odd ? 4 : 0, 4);
  v = odd ? _mm256_and_si256(_mm256_srli_epi16(v, 3), _mm256_set1_epi8(0x1e)) : qi__bits_avx2(v, 0, 4);
  return _mm256_or_si256(v, _mm256_and_si256(fifth, _mm256_set1_epi8(odd ? 0x20 : 0x10)));
}

// Totals of blocks p and q for each row of activations: four lanes of one, four of the other.
QI__INLINE QI__AVX2 void qi__k4_totals_avx2(qi_format id, qi__step_fn words, const uint8_t *p, const uint8_t *q, __m256i scales,
                                            const int8_t *x, size_t x_stride, int n, __m256i *total) {
  const bool q5 = id == QI_FORMAT_Q5_K;
  __m256i fifth[2] = {qi__two_avx2(p + 16, q + 16), qi__two_avx2(p + 32, q + 32)}; // Q5_K
  __m256i sum[QI__ROW_X][2];                                                       // of even groups, of odd ones
  QI__UNROLL for (int i = 0; i < n; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  QI__UNROLL for (int j = 0; j < 4; j++) { // groups 2 j and 2 j + 1
    const size_t at = (size_t)(q5 ? 48 : 16) + 32 * (size_t)j;
    __m256i v[2], bits[2];
    QI__UNROLL for (int h = 0; h < 2; h++) {
      v[h] = qi__two_avx2(p + at + 16 * h, q + at + 16 * h);
      bits[h] = j < 2 ? _mm256_slli_epi16(fifth[h], 4 - 2 * j) : _mm256_srli_epi16(fifth[h], 2 * j - 4);
    }
    QI__UNROLL for (int odd = 0; odd < 2; odd++) {
      __m256i code[2] = {qi__k4_codes_avx2(id, v[0], bits[0], odd), qi__k4_codes_avx2(id, v[1], bits[1], odd)};
      __m256i scale = _mm256_shuffle_epi8(scales, _mm256_set1_epi16((short)(~255 + 2 * j + odd))); // a byte and a zero
      QI__UNROLL for (int i = 0; i < n; i++) {
        const int8_t *xi = x + (size_t)i * x_stride + 128 * j + 64 * odd;
        sum[i][odd] = qi__row_k_add_avx2(words, sum[i][odd], code, xi, scale);
      }
    }
  }
  QI__UNROLL for (int i = 0; i < n; i++) {
    __m256i odd = q5 ? _mm256_srai_epi32(sum[i][1], 1) : sum[i][1];
    total[i] = _mm256_add_epi32(sum[i][0], odd);
  }
}

// Blocks 2 p and 2 p + 1 of n_blocks at w; what belongs to those that are missing is zero.
QI__INLINE QI__AVX2 void qi__k4_pair_avx2(qi_format id, qi__step_fn words, const uint8_t *w, const qi__row_k_x *x, int p,
                                          int n_blocks, int n, qi__k4_sums *out) {
  const __m128i min_words = _mm_setr_epi16(~247, ~246, ~245, ~244, ~243, ~242, ~241, ~240); // a byte and a zero
  const size_t size = (size_t)qi__formats[id].info.block_bytes;
  const uint8_t *first = w + 2 * size * (size_t)p, *second = 2 * p + 1 < n_blocks ? first + size : first;
  QI__UNROLL for (int i = 0; i < n; i++) out->total[i][p] = out->mins[i][p] = _mm256_setzero_si256();
  out->head[p] = _mm256_setzero_si256();
  if (2 * p >= n_blocks) return;
  __m256i total[QI__ROW_X], head = qi__two_avx2(first, second), scales = qi__k4_scales_avx2(head);
  __m256i mins = _mm256_shuffle_epi8(scales, _mm256_broadcastsi128_si256(min_words));
  out->head[p] = head;
  qi__k4_totals_avx2(id, words, first, second, scales, x->q + 512 * p, x->q_stride, n, total);
  QI__UNROLL for (int i = 0; i < n; i++) {
    const int16_t *sums = x->sum + (size_t)i * x->sum_stride + 16 * p;
    out->mins[i][p] = _mm256_madd_epi16(mins, qi__bytes_avx2((const uint8_t *)sums));
    out->total[i][p] = total[i];
  }
}

// The sums of neighbouring lanes: in each 128 bits two of a, two of b.
QI__INLINE QI__AVX2 __m256i qi__add_neighbours_avx2(__m256i a, __m256i b) {
  __m256 p = _mm256_castsi256_ps(a), q = _mm256_castsi256_ps(b);
  return _mm256_add_epi32(_mm256_castps_si256(_mm256_shuffle_ps(p, q, 0x88)), _mm256_castps_si256(_mm256_shuffle_ps(p, q, 0xdd)));
}

// The sums of each four lanes, in order.
QI__INLINE QI__AVX2 __m256 qi__k4_fold_avx2(const __m256i *v) {
  __m256i a = qi__add_neighbours_avx2(v[0], v[1]), b = qi__add_neighbours_avx2(v[2], v[3]);
  a = qi__add_neighbours_avx2(a, b); // 0 2 4 6 1 3 5 7
  return _mm256_cvtepi32_ps(_mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

// d and dmin of eight blocks.
QI__INLINE QI__AVX2 void qi__k4_d_avx2(const __m256i *head, __m256 *d, __m256 *dmin) {
  const __m128i apart = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  __m256i v = _mm256_unpacklo_epi64(_mm256_unpacklo_epi32(head[0], head[1]), _mm256_unpacklo_epi32(head[2], head[3]));
  v = _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(apart)); // d of blocks 0 2 4 6, their dmin; of 1 3 5 7
  __m128i even = _mm256_castsi256_si128(v), odd = _mm256_extracti128_si256(v, 1);
  *d = _mm256_cvtph_ps(_mm_unpacklo_epi16(even, odd));
  *dmin = _mm256_cvtph_ps(_mm_unpackhi_epi16(even, odd));
}

// Lanes of n rows after n_blocks <= 8 blocks at w. One row gains by what is unrolled, more do not.
QI__INLINE QI__AVX2 void qi__k4_chunk_avx2(qi_format id, qi__step_fn words, const uint8_t *w, const qi__row_k_x *x, int n_blocks,
                                           int n, __m256 *lanes) {
  const size_t size = (size_t)qi__formats[id].info.block_bytes;
  const __m256 taken = _mm256_castsi256_ps(qi__first_lanes_avx2(n_blocks));
  __m256 d, dmin;
  qi__k4_sums s;
  if (n == 1) {
    QI__UNROLL for (int p = 0; p < 4; p++) {
      qi__row_k_fetch_avx2(x->fetch, w, size, 2 * p);
      qi__row_k_fetch_avx2(x->fetch, w, size, 2 * p + 1);
      qi__k4_pair_avx2(id, words, w, x, p, n_blocks, n, &s);
    }
  } else {
    for (int p = 0; p < 4; p++) {
      qi__fetch_far_avx2(x->fetch, w + 2 * size * (size_t)p, 2 * size);
      qi__k4_pair_avx2(id, words, w, x, p, n_blocks, n, &s);
    }
  }
  qi__k4_d_avx2(s.head, &d, &dmin);
  QI__UNROLL for (int i = 0; i < n; i++) {
    __m256 d_x = qi__chunk_d_avx2(x->d + (size_t)i * x->d_stride, n_blocks);
    __m256 sum = _mm256_fmadd_ps(_mm256_mul_ps(d, d_x), qi__k4_fold_avx2(s.total[i]), lanes[i]);
    sum = _mm256_fnmadd_ps(_mm256_mul_ps(dmin, d_x), qi__k4_fold_avx2(s.mins[i]), sum);
    lanes[i] = n_blocks == 8 ? sum : _mm256_blendv_ps(lanes[i], sum, taken);
  }
}

// ---- Q6_K ----

// Scales are for 16 codes, which is half a register: those of a group lie in two registers, eight in each, and beside them those of
// the group 128 weights later. Sums of four products are at most 63 * 127 * 4 = 32004.

// Eight bytes of a, eight of b, and so on: those of even places, then of odd ones.
QI__INLINE QI__AVX2 void qi__in_turns_avx2(__m256i a, __m256i b, __m256i *out) {
  out[0] = _mm256_unpacklo_epi64(a, b);
  out[1] = _mm256_unpackhi_epi64(a, b);
}

// Activations: [block][group % 4][2 registers]; sums in the order of the scales.
QI__INLINE QI__AVX2 void qi__row_q6_k_take_avx2(const qi__q8_chunk *x, size_t n, int8_t *q, int16_t *sum) {
  for (size_t b = 0; b < n; b++) {
    for (size_t g = 0; g < 4; g++) {
      const uint8_t *p = (const uint8_t *)x->q + 256 * b + 32 * g;
      __m256i v[2];
      qi__in_turns_avx2(qi__bytes_avx2(p), qi__bytes_avx2(p + 128), v);
      qi__store_bytes_avx2(q + 256 * b + 64 * g, v[0]);
      qi__store_bytes_avx2(q + 256 * b + 64 * g + 32, v[1]);
    }
    qi__store_bytes_avx2(sum + 16 * b, qi__words16_avx2(x->sum + 16 * b));
  }
}

// Totals of block b of n_blocks at w, in eight lanes, for each row of activations; zero if it is missing.
QI__INLINE QI__AVX2 void qi__q6_k_block_avx2(qi__step_fn words, const uint8_t *w, const qi__row_k_x *x, int b, int n_blocks, int n,
                                             __m256i (*total)[8]) {
  const __m256i up = _mm256_set1_epi8(0x30);
  QI__UNROLL for (int i = 0; i < n; i++) total[i][b] = _mm256_setzero_si256();
  if (b >= n_blocks) return;
  w += (size_t)b * (size_t)qi__formats[QI_FORMAT_Q6_K].info.block_bytes;
  __m256i scale = qi__scales16_avx2(_mm_loadu_si128((const __m128i *)(const void *)(w + 192)), true), sum[QI__ROW_X];
  QI__UNROLL for (int i = 0; i < n; i++) {
    const int16_t *sums = x->sum + (size_t)i * x->sum_stride + 16 * b;
    sum[i] = qi__offset_sums_avx2(-32, scale, qi__bytes_avx2((const uint8_t *)sums));
  }
  __m256i low[2][2], high[2];
  QI__UNROLL for (int j = 0; j < 2; j++) qi__in_turns_avx2(qi__bytes_avx2(w + 32 * j), qi__bytes_avx2(w + 64 + 32 * j), low[j]);
  qi__in_turns_avx2(qi__bytes_avx2(w + 128), qi__bytes_avx2(w + 160), high);
  QI__UNROLL for (int g = 0; g < 4; g++) { // and g + 4
    const long long one = QI__FOUR_WORDS(0x0100 + 0x0202 * g), other = one + QI__FOUR_WORDS(0x0808);
    __m256i code[2], scales = _mm256_shuffle_epi8(scale, _mm256_setr_epi64x(one, other, one, other));
    QI__UNROLL for (int h = 0; h < 2; h++) {
      __m256i two = g < 2 ? _mm256_slli_epi16(high[h], 4 - 2 * g) : _mm256_srli_epi16(high[h], 2 * g - 4);
      code[h] = _mm256_or_si256(qi__bits_avx2(low[g % 2][h], g / 2 * 4, 4), _mm256_and_si256(two, up));
    }
    QI__UNROLL for (int i = 0; i < n; i++)
      sum[i] = qi__row_k_add_avx2(words, sum[i], code, x->q + (size_t)i * x->q_stride + 256 * b + 64 * g, scales);
  }
  QI__UNROLL for (int i = 0; i < n; i++) total[i][b] = sum[i];
}

// Lanes of n rows after n_blocks <= 8 blocks at w; unrolled as above.
QI__INLINE QI__AVX2 void qi__q6_k_chunk_avx2(qi_format id, qi__step_fn words, const uint8_t *w, const qi__row_k_x *x, int n_blocks,
                                             int n, __m256 *lanes) {
  const size_t size = (size_t)qi__formats[id].info.block_bytes;
  __m256i total[QI__ROW_X][8];
  if (n == 1) {
    QI__UNROLL for (int b = 0; b < 8; b++) {
      qi__row_k_fetch_avx2(x->fetch, w, size, b);
      qi__q6_k_block_avx2(words, w, x, b, n_blocks, n, total);
    }
  } else {
    for (int b = 0; b < 8; b++) {
      qi__fetch_far_avx2(x->fetch, w + size * (size_t)b, size);
      qi__q6_k_block_avx2(words, w, x, b, n_blocks, n, total);
    }
  }
  __m256 d = _mm256_cvtph_ps(qi__block_words_avx2(w, size, n_blocks, 208));
  QI__UNROLL for (int i = 0; i < n; i++) {
    __m256 d_x = qi__chunk_d_avx2(x->d + (size_t)i * x->d_stride, n_blocks);
    lanes[i] = qi__take_blocks_avx2(lanes[i], _mm256_mul_ps(d, d_x), qi__fold8_avx2(total[i]), n_blocks);
  }
}

// ---- all weight rows ----

QI__INLINE QI__AVX2 void qi__dot_rows_k_avx2(qi_format id, qi__step_fn words, int n, const qi__dot_q8_args *a) {
  if (id == QI_FORMAT_Q6_K) qi__dot_rows_k(id, words, qi__row_q6_k_take_avx2, qi__q6_k_chunk_avx2, n, a);
  else qi__dot_rows_k(id, words, qi__row_k4_take_avx2, qi__k4_chunk_avx2, n, a);
}
#endif

#endif // QI__KERNELS_ROW_K_AVX2_H
