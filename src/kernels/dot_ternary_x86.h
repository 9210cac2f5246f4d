// ==== >>dot_ternary_x86 : products of ternary rows with AVX2, VNNI and AMX ====
#ifndef QI__KERNELS_DOT_TERNARY_X86_H
#define QI__KERNELS_DOT_TERNARY_X86_H

#include "dot_ternary.h"
#include "panel_q8_x86.h"
#include "panel_ternary.h"
#include "row_ternary_avx512.h"
#include "tiles.h"

#if defined(QI__X86_64)

// Codes are multiplied as u = code + 1, and the sum of the activations is taken off again.

QI__INLINE QI__AVX2 int32_t qi__sum_i32_avx2(__m256i v) {
  __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  a = _mm_add_epi32(a, _mm_unpackhi_epi64(a, a));
  return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 1)));
}

// ---- one row of activations: blocks of a pair of weight rows ----

// qi__prefetch_block for block b of both rows. Never faults, also beyond the matrix.
QI__INLINE QI__AVX2 void qi__prefetch_far_avx2(const qi__ternary_pair *p, size_t b) {
  size_t n = QI__TERNARY_PAIR * (size_t)p->f->info.block_bytes;
  qi__prefetch_block(p->fetch, (uintptr_t)p->w[0] + b * n, b, n);
}

// lanes[r] = products of row r; their total counts. Blocks from b on, until a scale changes or block `end` is reached: that is
// returned. Constants where the loops below are inlined.
typedef size_t (*qi__ternary_lanes_fn)(qi_format id, const qi__ternary_pair *p, size_t b, size_t end, __m256i *lanes);

// Pairs of bits are multiplied where they stand, 1, 4, 16 or 64 times too large; such sums are divided at the end, exactly.
// low_first: TQ2_0, else I2_S, whose order in a byte is the other way round.

// A block adds up to 4 * 4 * 3 * 127 * 2 = 12192 and 4 * 12 * 127 * 2 = 12192 to an int16, four times its sum.
QI__INLINE QI__AVX2 size_t qi__ternary_pairs_avx2(bool low_first, const qi__ternary_pair *p, size_t b, size_t end,
                                                  __m256i *lanes) {
  const __m256i mask1 = _mm256_set1_epi8(3), mask4 = _mm256_set1_epi8(12), one = _mm256_set1_epi16(1);
  const int at[4] = {low_first ? 0 : 96, low_first ? 32 : 64, low_first ? 64 : 32, low_first ? 96 : 0}; // of bits 0, 2, 4, 6
  __m256i total[QI__TERNARY_PAIR], x_sum = _mm256_setzero_si256();
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) total[r] = _mm256_setzero_si256();
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
      __m256i sum1 = _mm256_setzero_si256(), sum4 = sum1;
      QI__UNROLL for (int h = 0; h < 2; h++) {
        const uint8_t *xh = (const uint8_t *)x + 128 * h;
        __m256i low = qi__bytes_avx2(w[r] + 32 * (size_t)h), high = _mm256_srli_epi16(low, 4);
        sum1 = _mm256_add_epi16(sum1, _mm256_maddubs_epi16(_mm256_and_si256(low, mask1), qi__bytes_avx2(xh + at[0])));
        sum4 = _mm256_add_epi16(sum4, _mm256_maddubs_epi16(_mm256_and_si256(low, mask4), qi__bytes_avx2(xh + at[1])));
        sum1 = _mm256_add_epi16(sum1, _mm256_maddubs_epi16(_mm256_and_si256(high, mask1), qi__bytes_avx2(xh + at[2])));
        sum4 = _mm256_add_epi16(sum4, _mm256_maddubs_epi16(_mm256_and_si256(high, mask4), qi__bytes_avx2(xh + at[3])));
      }
      total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(_mm256_add_epi16(_mm256_slli_epi16(sum1, 2), sum4), one));
    }
    x_sum = _mm256_add_epi32(x_sum, _mm256_madd_epi16(qi__bytes_avx2(sum), one));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) lanes[r] = _mm256_sub_epi32(_mm256_srai_epi32(total[r], 2), x_sum);
  return b;
}

#if defined(QI__HAS_AVX_VNNI)
QI__INLINE QI__AVX_VNNI size_t qi__ternary_pairs_avx_vnni(bool low_first, const qi__ternary_pair *p, size_t b, size_t end,
                                                          __m256i *lanes) {
  qi__i32x8 total[QI__TERNARY_PAIR][4], minus = {0};
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) QI__UNROLL for (int e = 0; e < 4; e++) total[r][e] = minus;
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      QI__UNROLL for (int e = 0; e < 4; e++) {
        __m256i xe = qi__bytes_avx2((const uint8_t *)x + 128 * h + 32 * (low_first ? e : 3 - e));
        QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
          __m256i pairs = _mm256_and_si256(qi__bytes_avx2(w[r] + 32 * (size_t)h), _mm256_set1_epi8((char)(3 << 2 * e)));
          total[r][e] = (qi__i32x8)_mm256_dpbusd_avx_epi32((__m256i)total[r][e], pairs, xe);
        }
      }
    }
    minus = (qi__i32x8)_mm256_dpwssd_avx_epi32((__m256i)minus, qi__bytes_avx2(sum), _mm256_set1_epi16(-1));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    lanes[r] = (__m256i)minus;
    QI__UNROLL for (int e = 0; e < 4; e++) lanes[r] = _mm256_add_epi32(lanes[r], _mm256_srai_epi32((__m256i)total[r][e], 2 * e));
  }
  return b;
}
#endif

// 32 bytes twice: the halves of a register mask different pairs, so that 64 activations in order meet them.
QI__INLINE QI__AVX512_VNNI size_t qi__ternary_pairs_avx512(bool low_first, const qi__ternary_pair *p, size_t b, size_t end,
                                                           __m256i *lanes) {
  __m512i mask[2], shift[2];
  qi__i32x16 total[QI__TERNARY_PAIR][2][2]; // [row][halves of a block: shorter chains][e]
  qi__i32x8 minus = {0};
  QI__UNROLL for (int e = 0; e < 2; e++) {
    int low = low_first ? 4 * e : 6 - 4 * e, high = low_first ? low + 2 : low - 2;
    mask[e] = _mm512_inserti64x4(_mm512_set1_epi8((char)(3 << low)), _mm256_set1_epi8((char)(3 << high)), 1);
    shift[e] = _mm512_inserti64x4(_mm512_set1_epi32(low), _mm256_set1_epi32(high), 1);
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) total[r][0][e] = total[r][1][e] = (qi__i32x16)_mm512_setzero_si512();
  }
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      QI__UNROLL for (int e = 0; e < 2; e++) {
        __m512i xe = _mm512_loadu_si512((const void *)(x + 128 * h + 64 * e));
        QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
          __m512i v = _mm512_broadcast_i64x4(qi__bytes_avx2(w[r] + 32 * (size_t)h));
          total[r][h][e] = (qi__i32x16)_mm512_dpbusd_epi32((__m512i)total[r][h][e], _mm512_and_si512(v, mask[e]), xe);
        }
      }
    }
    minus = (qi__i32x8)_mm256_dpwssd_epi32((__m256i)minus, qi__bytes_avx2(sum), _mm256_set1_epi16(-1));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    __m512i all = _mm512_add_epi32(_mm512_srav_epi32((__m512i)(total[r][0][0] + total[r][1][0]), shift[0]),
                                   _mm512_srav_epi32((__m512i)(total[r][0][1] + total[r][1][1]), shift[1]));
    lanes[r] = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    lanes[r] = _mm256_add_epi32(lanes[r], (__m256i)minus);
  }
  return b;
}

// ---- TQ1_0 ----

QI__INLINE QI__AVX2 __m256i qi__times3_avx2(__m256i v) { return _mm256_add_epi8(_mm256_add_epi8(v, v), v); }

// 16 bytes of each row: row 0 in the lower half.
QI__INLINE QI__AVX2 __m256i qi__both_rows_avx2(__m128i row0, __m128i row1) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(row0), row1, 1);
}

// Bytes 32..47 of a block of both rows.
QI__INLINE QI__AVX2 __m256i qi__tq1_0_middle_avx2(const uint8_t *w0, const uint8_t *w1) {
  return qi__both_rows_avx2(_mm_loadu_si128((const __m128i *)(const void *)(w0 + 32)),
                            _mm_loadu_si128((const __m128i *)(const void *)(w1 + 32)));
}

// The fractions of the four digits of bytes 48..51, digit by digit, of both rows; `top` is added to the bytes.
QI__INLINE QI__AVX2 __m256i qi__tq1_0_rest_avx2(const uint8_t *w0, const uint8_t *w1, uint32_t top) {
  const __m256i odd = _mm256_set1_epi64x((long long)0xffffffff00000000u);
  uint32_t rest0 = qi__load_u32(w0 + 48) ^ top, rest1 = qi__load_u32(w1 + 48) ^ top;
  __m256i v = qi__both_rows_avx2(_mm_set1_epi32((int)rest0), _mm_set1_epi32((int)rest1));
  v = _mm256_blendv_epi8(v, qi__times3_avx2(v), odd); // times 1 3 1 3
  return _mm256_blend_epi32(v, qi__times3_avx2(qi__times3_avx2(v)), 0xcc);
}

// 16 activations for both rows.
QI__INLINE QI__AVX2 __m256i qi__x_twice_avx2(const int8_t *x) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)x));
}

// The digits of fractions + 128: 1 from 86 and 2 from 171 on.
QI__INLINE QI__AVX2 __m256i qi__ternary_digits_avx2(__m256i f) {
  __m256i from1 = _mm256_cmpgt_epi8(f, _mm256_set1_epi8((char)(85 - 128)));
  __m256i from2 = _mm256_cmpgt_epi8(f, _mm256_set1_epi8((char)(170 - 128)));
  return _mm256_abs_epi8(_mm256_add_epi8(from1, from2));
}

// The halves of v, which belong to two rows, to lanes of each.
QI__INLINE QI__AVX2 void qi__add_halves_avx2(__m256i v, __m256i *lanes) {
  const __m256i zero = _mm256_setzero_si256();
  lanes[0] = _mm256_add_epi32(lanes[0], _mm256_blend_epi32(v, zero, 0xf0));
  lanes[1] = _mm256_add_epi32(lanes[1], _mm256_blend_epi32(v, zero, 0x0f));
}

// Fractions have 128 added, which three times as much keeps modulo 256. A block adds up to 6 * 2 * 2 * 127 to an int16.
QI__INLINE QI__AVX2 size_t qi__ternary_tq1_0_avx2(const qi__ternary_pair *p, size_t b, size_t end, __m256i *lanes) {
  const __m256i one = _mm256_set1_epi16(1), top = _mm256_set1_epi8((char)-128);
  __m256i both = _mm256_setzero_si256();
  lanes[0] = lanes[1] = both;
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    __m256i v[QI__TERNARY_PAIR], total[QI__TERNARY_PAIR], x_sum = qi__bytes_avx2(sum);
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
      v[r] = _mm256_xor_si256(qi__bytes_avx2(w[r]), top);
      total[r] = _mm256_sub_epi16(_mm256_setzero_si256(), x_sum);
    }
    QI__UNROLL for (int digit = 0; digit < 5; digit++) {
      QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
        __m256i xd = qi__bytes_avx2((const uint8_t *)x + 32 * digit);
        total[r] = _mm256_add_epi16(total[r], _mm256_maddubs_epi16(qi__ternary_digits_avx2(v[r]), xd));
        if (digit < 4) v[r] = qi__times3_avx2(v[r]);
      }
    }
    __m256i rest = qi__ternary_digits_avx2(qi__tq1_0_rest_avx2(w[0], w[1], 0x80808080u));
    __m256i middle = _mm256_xor_si256(qi__tq1_0_middle_avx2(w[0], w[1]), top);
    rest = _mm256_maddubs_epi16(rest, qi__x_twice_avx2(x + 240));
    QI__UNROLL for (int digit = 0; digit < 5; digit++) {
      __m256i xd = qi__x_twice_avx2(x + 160 + 16 * digit);
      rest = _mm256_add_epi16(rest, _mm256_maddubs_epi16(qi__ternary_digits_avx2(middle), xd));
      if (digit < 4) middle = qi__times3_avx2(middle);
    }
    both = _mm256_add_epi32(both, _mm256_madd_epi16(rest, one));
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) lanes[r] = _mm256_add_epi32(lanes[r], _mm256_madd_epi16(total[r], one));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  qi__add_halves_avx2(both, lanes);
  return b;
}

// A digit is (3 f - next f) / 256 of fractions that follow each other: two products, and no comparing.
QI__INLINE QI__AVX2 size_t qi__ternary_tq1_0_vnni(qi__step_fn bytes, qi__step_fn words, const qi__ternary_pair *p, size_t b,
                                                  size_t end, __m256i *lanes) {
  qi__i32x8 now[QI__TERNARY_PAIR][2], next[QI__TERNARY_PAIR][2], now2[2], next2[2], minus = {0}; // [2]: odd digits, shorter chains
  QI__UNROLL for (int e = 0; e < 2; e++) now[0][e] = now[1][e] = next[0][e] = next[1][e] = now2[e] = next2[e] = minus;
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    __m256i v[QI__TERNARY_PAIR] = {qi__bytes_avx2(w[0]), qi__bytes_avx2(w[1])};
    QI__UNROLL for (int digit = 0; digit < 5; digit++) {
      __m256i xd = qi__bytes_avx2((const uint8_t *)x + 32 * digit);
      QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
        now[r][digit % 2] = (qi__i32x8)bytes((__m256i)now[r][digit % 2], v[r], xd);
        v[r] = qi__times3_avx2(v[r]);
        next[r][digit % 2] = (qi__i32x8)bytes((__m256i)next[r][digit % 2], v[r], xd);
      }
    }
    __m256i both = qi__tq1_0_middle_avx2(w[0], w[1]);
    QI__UNROLL for (int digit = 0; digit < 6; digit++) {
      __m256i xd = qi__x_twice_avx2(x + 160 + 16 * digit);
      if (digit == 5) both = qi__tq1_0_rest_avx2(w[0], w[1], 0);
      now2[digit % 2] = (qi__i32x8)bytes((__m256i)now2[digit % 2], both, xd);
      both = qi__times3_avx2(both);
      next2[digit % 2] = (qi__i32x8)bytes((__m256i)next2[digit % 2], both, xd);
    }
    minus = (qi__i32x8)words((__m256i)minus, qi__bytes_avx2(sum), _mm256_set1_epi16(-1));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    qi__i32x8 all = 3 * (now[r][0] + now[r][1]) - (next[r][0] + next[r][1]);
    lanes[r] = _mm256_add_epi32(_mm256_srai_epi32((__m256i)all, 8), (__m256i)minus);
  }
  qi__add_halves_avx2(_mm256_srai_epi32((__m256i)(3 * (now2[0] + now2[1]) - (next2[0] + next2[1])), 8), lanes);
  return b;
}


// ---- one row of activations: all runs ----

QI__INLINE QI__AVX2 size_t qi__ternary_lanes_avx2(qi_format id, const qi__ternary_pair *p, size_t b, size_t end, __m256i *lanes) {
  if (id == QI_FORMAT_TQ1_0) return qi__ternary_tq1_0_avx2(p, b, end, lanes);
  return qi__ternary_pairs_avx2(id == QI_FORMAT_TQ2_0, p, b, end, lanes);
}
#if defined(QI__HAS_AVX_VNNI)
QI__INLINE QI__AVX_VNNI size_t qi__ternary_lanes_avx_vnni(qi_format id, const qi__ternary_pair *p, size_t b, size_t end,
                                                          __m256i *lanes) {
  if (id == QI_FORMAT_TQ1_0) return qi__ternary_tq1_0_vnni(qi__step_bytes_avx_vnni, qi__words_avx_vnni, p, b, end, lanes);
  return qi__ternary_pairs_avx_vnni(id == QI_FORMAT_TQ2_0, p, b, end, lanes);
}
#endif
QI__INLINE QI__AVX512_VNNI size_t qi__ternary_lanes_avx512(qi_format id, const qi__ternary_pair *p, size_t b, size_t end,
                                                           __m256i *lanes) {
  if (id == QI_FORMAT_TQ1_0) return qi__ternary_tq1_0_vnni(qi__step_bytes_avx512, qi__words_avx512, p, b, end, lanes);
  return qi__ternary_pairs_avx512(id == QI_FORMAT_TQ2_0, p, b, end, lanes);
}

// From block b on: as far as no scale changes, or eight blocks if one does soon. Returns how far.
QI__INLINE QI__AVX2 size_t qi__ternary_step_avx2(qi_format id, qi__ternary_lanes_fn lanes, qi__ternary_pair *p, size_t b) {
  __m256i sum[QI__TERNARY_PAIR], blocks[QI__TERNARY_PAIR][8];
  size_t end = qi__min_size(p->n_blocks, b / QI__TERNARY_RUN * QI__TERNARY_RUN + QI__TERNARY_RUN);
  if (end - b < 8 || !(qi__ternary_pair_changes(p, b) || qi__ternary_pair_changes(p, b + 1))) {
    end = lanes(id, p, b, end, sum);
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
      float d = p->f->info.tail_bytes ? p->d : qi__half_avx2(qi__ternary_block(p, r, end) - 2);
      qi__ternary_pair_add(p, r, qi__sum_i32_avx2(sum[r]), end - 1, d * p->d_x);
    }
    return end;
  }
  for (size_t j = 0; j < 8; j++) {
    lanes(id, p, b + j, b + j + 1, sum);
    blocks[0][j] = sum[0];
    blocks[1][j] = sum[1];
  }
  const size_t size = (size_t)p->f->info.block_bytes;
  int32_t total[QI__TERNARY_PAIR][8];
  float d[QI__TERNARY_PAIR][8];
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    __m128i halves = qi__block_words_avx2(qi__ternary_block(p, r, b), size, 8, size - 2);
    qi__store_bytes_avx2(total[r], qi__fold8_avx2(blocks[r]));
    _mm256_storeu_ps(d[r], _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(p->d_x)));
  }
  for (size_t j = 0; j < 8; j++) // both rows: their chains of additions overlap
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) qi__ternary_pair_add(p, r, total[r][j], b + j, d[r][j]);
  return b + 8;
}

QI__INLINE QI__AVX2 void qi__ternary_rows_avx2(qi_format id, qi__ternary_lanes_fn lanes, const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r += QI__TERNARY_PAIR) {
    qi__ternary_pair p = qi__ternary_pair_of(id, a, r);
    for (size_t i = 0; i < a->n_x; i++) {
      qi__ternary_pair_start(&p, a->x, a->x_row + i);
      for (size_t b = 0; b < p.n_blocks;) b = qi__ternary_step_avx2(id, lanes, &p, b);
      qi__ternary_pair_finish(&p, a, r, a->y + i * a->y_stride);
    }
  }
}

#define QI__TERNARY_ROW(isa, target) \
  QI__FN target void qi__ternary_row_##isa(const qi__dot_q8_args *a) { \
    qi_format id = a->format->id; \
    if (id == QI_FORMAT_TQ1_0) qi__ternary_rows_avx2(QI_FORMAT_TQ1_0, qi__ternary_lanes_##isa, a); \
    else if (id == QI_FORMAT_TQ2_0) qi__ternary_rows_avx2(QI_FORMAT_TQ2_0, qi__ternary_lanes_##isa, a); \
    else qi__ternary_rows_avx2(QI_FORMAT_I2_S, qi__ternary_lanes_##isa, a); \
  }
QI__TERNARY_ROW(avx2, QI__AVX2)
#if defined(QI__HAS_AVX_VNNI)
QI__TERNARY_ROW(avx_vnni, QI__AVX_VNNI)
#endif
QI__TERNARY_ROW(avx512, QI__AVX512_VNNI)
#undef QI__TERNARY_ROW

// Rows of activations one by one; weight rows of more than one scale as above.
QI__FN void qi__ternary_few_avx512(const qi__dot_q8_args *a) {
  qi__dot_q8_args one = *a;
  for (size_t i = 0; i < a->n_x; i++, one.x_row++, one.y += a->y_stride) qi__ternary_even_avx512(&one, qi__ternary_row_avx512);
}

// ---- many rows of activations ----

// The panel holds u, for AMX u - 1: [block][rows / 16][k / 4][row % 16, k % 4].
#define QI__TERNARY_HALF (64 * 64) // bytes of 16 rows of a block

QI__INLINE QI__AVX2 void qi__ternary_codes_avx2(qi_format id, const uint8_t *const *w, uint8_t (*codes)[256]) {
  for (int r = 0; r < 8; r++)
    QI__UNROLL for (int g = 0; g < 8; g++)
      qi__store_bytes_avx2(codes[r] + 32 * g, _mm256_add_epi8(qi__codes_avx2(id, w[r], g, NULL), _mm256_set1_epi8(1)));
}

QI__FN QI__AVX2 void qi__ternary_pack_avx2(qi_format id, const uint8_t *const *w, uint8_t *code) {
  for (size_t r = 0; r < QI__Q8_ROWS; r += 8, w += 8) {
    uint8_t codes[8][256];
    if (id == QI_FORMAT_TQ1_0) qi__ternary_codes_avx2(QI_FORMAT_TQ1_0, w, codes);
    else if (id == QI_FORMAT_TQ2_0) qi__ternary_codes_avx2(QI_FORMAT_TQ2_0, w, codes);
    else qi__ternary_codes_avx2(QI_FORMAT_I2_S, w, codes);
    qi__panel_interleave_avx2(codes, code + r / 16 * QI__TERNARY_HALF + r / 8 % 2 * 32, 64);
  }
}

QI__FN QI__AVX2 void qi__ternary_take_avx2(const qi__ternary_end *e) {
  for (size_t i = 0; i < e->n_x; i++)
    for (size_t r = 0; r < QI__Q8_ROWS; r += 8) {
      float *to = e->y + i * e->y_stride + r;
      __m256i total = qi__bytes_avx2((const uint8_t *)(e->total[i] + r));
      __m256i ends = qi__bytes_avx2((const uint8_t *)(e->panel->ends[e->b] + r));
      __m256 y = e->first ? _mm256_setzero_ps() : _mm256_loadu_ps(to);
      __m256 d = _mm256_mul_ps(_mm256_loadu_ps(e->panel->d[e->b] + r), _mm256_set1_ps(e->d_x[i]));
      __m256 sum = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(total), y);
      _mm256_storeu_ps(to, _mm256_blendv_ps(y, sum, _mm256_castsi256_ps(ends)));
      qi__store_bytes_avx2(e->total[i] + r, _mm256_andnot_si256(ends, total));
    }
}

// What total i begins with, in all lanes: less the sum of the activations.
QI__INLINE QI__AVX2 __m256i qi__ternary_minus_avx2(const qi__ternary_segment *s, size_t i) {
  const int16_t *sum = s->sum + i * s->sum_stride;
  __m256i all = _mm256_setzero_si256();
  for (size_t b = 0; b < s->n_blocks; b++)
    all = _mm256_add_epi32(all, _mm256_madd_epi16(qi__bytes_avx2((const uint8_t *)(sum + 16 * b)), _mm256_set1_epi16(-1)));
  return _mm256_set1_epi32(qi__sum_i32_avx2(all));
}

// 16 weight rows (`half`) with n rows of activations from `row` on; n is a constant where this is inlined. AVX2 adds products in
// int16 for half a block: 32 * 2 * 3 * 127 < 2^15.
QI__INLINE QI__AVX2 void qi__ternary_tile_avx2(bool vnni, qi__step_fn bytes, const qi__ternary_segment *s, int half, size_t row,
                                               int n) {
  const int8_t *x = s->x + row * s->stride;
  __m256i total[2][4];
  QI__UNROLL for (int i = 0; i < n; i++) {
    const uint8_t *from = (const uint8_t *)(s->total[row + (size_t)i] + 16 * half);
    total[0][i] = total[1][i] = qi__ternary_minus_avx2(s, row + (size_t)i);
    if (s->fresh) continue;
    total[0][i] = _mm256_add_epi32(total[0][i], qi__bytes_avx2(from));
    total[1][i] = _mm256_add_epi32(total[1][i], qi__bytes_avx2(from + 32));
  }
  for (size_t part = 0; part < 2 * s->n_blocks; part++, x += 128) {
    const uint8_t *w = s->code + (part / 2 * 2 + (size_t)half) * QI__TERNARY_HALF + part % 2 * (QI__TERNARY_HALF / 2);
    __m256i pairs[2][4];
    QI__UNROLL for (int i = 0; i < n; i++) pairs[0][i] = pairs[1][i] = _mm256_setzero_si256();
    for (int step = 0; step < 32; step++, w += 64) {
      __m256i w0 = qi__bytes_avx2(w), w1 = qi__bytes_avx2(w + 32);
      QI__UNROLL for (int i = 0; i < n; i++) {
        __m256i v = _mm256_set1_epi32(qi__load_4(x + (size_t)i * s->stride + 4 * step));
        if (vnni) {
          total[0][i] = bytes(total[0][i], w0, v);
          total[1][i] = bytes(total[1][i], w1, v);
        } else {
          pairs[0][i] = _mm256_add_epi16(pairs[0][i], _mm256_maddubs_epi16(w0, v));
          pairs[1][i] = _mm256_add_epi16(pairs[1][i], _mm256_maddubs_epi16(w1, v));
        }
      }
    }
    if (vnni) continue;
    QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++)
      total[h][i] = _mm256_add_epi32(total[h][i], _mm256_madd_epi16(pairs[h][i], _mm256_set1_epi16(1)));
  }
  QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++)
    qi__store_bytes_avx2(s->total[row + (size_t)i] + 16 * half + 8 * h, total[h][i]);
}

QI__INLINE QI__AVX2 void qi__ternary_tiles_avx2(bool vnni, qi__step_fn bytes, const qi__ternary_segment *s) {
  size_t i = 0;
  for (; i + 4 <= s->n_x; i += 4)
    for (int half = 0; half < 2; half++) qi__ternary_tile_avx2(vnni, bytes, s, half, i, 4);
  for (; i < s->n_x; i++)
    for (int half = 0; half < 2; half++) qi__ternary_tile_avx2(vnni, bytes, s, half, i, 1);
}

QI__FN QI__AVX2 void qi__ternary_multiply_avx2(const qi__ternary_segment *s) {
  qi__ternary_tiles_avx2(false, qi__step_bytes_avx2, s);
}
#if defined(QI__HAS_AVX_VNNI)
QI__FN QI__AVX_VNNI void qi__ternary_multiply_avx_vnni(const qi__ternary_segment *s) {
  qi__ternary_tiles_avx2(true, qi__step_bytes_avx_vnni, s);
}
#endif

// ---- many rows of activations, 512 bits ----

// Codes of place e of bytes, as u - minus; v: fractions of TQ1_0 times 3^e, else the bytes.
QI__INLINE QI__AVX512 __m512i qi__ternary_place_avx512(qi_format id, __m512i v, int e, int minus) {
  const __m512i one = _mm512_set1_epi8(1), first = _mm512_set1_epi8((char)-minus);
  if (id == QI_FORMAT_TQ1_0) { // see qi__digits_avx2
    __m512i u = _mm512_mask_add_epi8(first, _mm512_cmpge_epu8_mask(v, _mm512_set1_epi8(86)), first, one);
    return _mm512_mask_add_epi8(u, _mm512_cmpge_epu8_mask(v, _mm512_set1_epi8((char)171)), u, one);
  }
  int bit = id == QI_FORMAT_TQ2_0 ? 2 * e : 6 - 2 * e;
  __m512i u = _mm512_and_si512(_mm512_srli_epi32(v, (unsigned)bit), _mm512_set1_epi8(3));
  return minus ? _mm512_add_epi8(u, first) : u;
}

// 16 rows of a block: four bytes of each row in a register first, then the codes in them.
QI__INLINE QI__AVX512 void qi__ternary_pack16_avx512(qi_format id, int minus, const uint8_t *const *w, uint8_t *code) {
  __m512i v[16];
  const int n = id == QI_FORMAT_TQ1_0 ? 13 : 16;
  QI__UNROLL for (int r = 0; r < 16; r++) v[r] = _mm512_maskz_loadu_epi32((__mmask16)((1u << n) - 1), w[r]);
  qi__transpose16_avx512(v);
  QI__UNROLL for (int j = 0; j < n; j++) {
    // The first of its columns / 4, and how far the next place in the byte is: TQ1_0 32 bytes, 16 bytes, 4 bytes of four codes
    const int at = n == 16 ? j / 8 * 32 + j % 8 : j < 8 ? j : j < 12 ? 32 + j : 60, step = n == 16 || j < 8 ? 8 : j < 12 ? 4 : 1;
    const int places = n == 16 || j == 12 ? 4 : 5;
    QI__UNROLL for (int e = 0; e < places; e++) {
      _mm512_storeu_si512((void *)(code + 64 * (at + step * e)), qi__ternary_place_avx512(id, v[j], e, minus));
      if (id == QI_FORMAT_TQ1_0) v[j] = _mm512_add_epi8(_mm512_add_epi8(v[j], v[j]), v[j]);
    }
  }
}

#define QI__TERNARY_PACK(name, minus) \
  QI__FN QI__AVX512 void name(qi_format id, const uint8_t *const *w, uint8_t *code) { \
    for (size_t h = 0; h < 2; h++, w += 16, code += QI__TERNARY_HALF) { \
      if (id == QI_FORMAT_TQ1_0) qi__ternary_pack16_avx512(QI_FORMAT_TQ1_0, minus, w, code); \
      else if (id == QI_FORMAT_TQ2_0) qi__ternary_pack16_avx512(QI_FORMAT_TQ2_0, minus, w, code); \
      else qi__ternary_pack16_avx512(QI_FORMAT_I2_S, minus, w, code); \
    } \
  }
QI__TERNARY_PACK(qi__ternary_pack_avx512, 0)
QI__TERNARY_PACK(qi__ternary_pack_signed_avx512, 1)
#undef QI__TERNARY_PACK

// Rows of y lie far from each other: they are fetched so many early.
#define QI__TERNARY_TAKE_AHEAD 12

QI__FN QI__AVX512 void qi__ternary_take_avx512(const qi__ternary_end *e) {
  const qi__ternary_panel *p = e->panel;
  const bool all = p->all_end[e->b];
  __m512 d[2];
  __mmask16 ends[2];
  QI__UNROLL for (size_t h = 0; h < 2; h++) {
    d[h] = _mm512_loadu_ps(p->d[e->b] + 16 * h);
    ends[h] = _mm512_movepi32_mask(_mm512_loadu_si512((const void *)(p->ends[e->b] + 16 * h)));
  }
  for (size_t i = 0; i < e->n_x; i++) {
    const __m512 d_x = _mm512_set1_ps(e->d_x[i]);
    const size_t ahead = qi__min_size(i + QI__TERNARY_TAKE_AHEAD, e->n_x - 1);
    QI__UNROLL for (size_t h = 0; h < 2; h++) {
      float *to = e->y + i * e->y_stride + 16 * h;
      int32_t *total = e->total[i] + 16 * h;
      _mm_prefetch((const char *)(e->y + ahead * e->y_stride + 16 * h), _MM_HINT_T0);
      __m512 y = e->first ? _mm512_setzero_ps() : _mm512_loadu_ps(to), sum = _mm512_mul_ps(d[h], d_x);
      y = _mm512_mask3_fmadd_ps(sum, _mm512_cvtepi32_ps(_mm512_loadu_si512((const void *)total)), y, ends[h]);
      _mm512_storeu_ps(to, y);
      if (!all) _mm512_mask_storeu_epi32(total, ends[h], _mm512_setzero_si512());
    }
  }
}

// 32 weight rows with n rows of activations from `row` on; n is a constant where this is inlined.
QI__INLINE QI__AVX512_VNNI void qi__ternary_tile_avx512(const qi__ternary_segment *s, size_t row, int n) {
  const uint8_t *code = s->code;
  const int8_t *x = s->x + row * s->stride;
  __m512i total[2][8];
  QI__UNROLL for (int i = 0; i < n; i++) {
    const int32_t *from = s->total[row + (size_t)i];
    total[0][i] = total[1][i] = _mm512_broadcast_i64x4(qi__ternary_minus_avx2(s, row + (size_t)i));
    if (s->fresh) continue;
    total[0][i] = _mm512_add_epi32(total[0][i], _mm512_loadu_si512((const void *)from));
    total[1][i] = _mm512_add_epi32(total[1][i], _mm512_loadu_si512((const void *)(from + 16)));
  }
  for (size_t b = 0; b < s->n_blocks; b++, code += QI__TERNARY_HALF)
    for (int step = 0; step < 64; step++, x += 4, code += 64) {
      __m512i w0 = _mm512_loadu_si512((const void *)code), w1 = _mm512_loadu_si512((const void *)(code + QI__TERNARY_HALF));
      QI__UNROLL for (int i = 0; i < n; i++) {
        __m512i v = _mm512_set1_epi32(qi__load_4(x + (size_t)i * s->stride));
        total[0][i] = _mm512_dpbusd_epi32(total[0][i], w0, v);
        total[1][i] = _mm512_dpbusd_epi32(total[1][i], w1, v);
      }
    }
  QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++)
    _mm512_storeu_si512((void *)(s->total[row + (size_t)i] + 16 * h), total[h][i]);
}

QI__FN QI__AVX512_VNNI void qi__ternary_multiply_avx512(const qi__ternary_segment *s) {
  for (size_t i = 0; i < s->n_x;) {
    size_t n = s->n_x - i >= 8 ? 8 : s->n_x - i >= 4 ? 4 : 1;
    if (n == 8) qi__ternary_tile_avx512(s, i, 8);
    else if (n == 4) qi__ternary_tile_avx512(s, i, 4);
    else qi__ternary_tile_avx512(s, i, 1);
    i += n;
  }
}

// ---- AMX ----

#if defined(QI__HAS_AMX)

// Both factors are signed: there is no sum of activations to take off.

QI__INLINE QI__AMX void qi__ternary_fetch_amx(const int8_t *x, size_t stride, size_t first, size_t n) {
  QI__UNROLL for (size_t r = first; r < first + n; r++) _mm_prefetch((const char *)(x + r * stride), _MM_HINT_T0);
}

// Rows of activations from `row` on, as many as the configuration says, times n_blocks blocks from `first` on. Tiles of the panel
// as they lie there, 16 weight rows and 64 columns each; tiles of activations from their rows, which are fetched two steps ahead:
// see qi__tiles_step.
QI__INLINE QI__AMX void qi__ternary_tiles_amx(const qi__ternary_segment *s, size_t first, size_t n_blocks, size_t row) {
  const size_t k = s->stride, bytes = sizeof s->total[0];
  const uint8_t *code = s->code + 2 * QI__TERNARY_HALF * first;
  const int8_t *x = s->x + row * k + 256 * first, *next = x + 16 * k; // the rows that follow
  int32_t *c = s->total[row];
  QI__TILE_BARRIER();
  if (s->fresh && !first) {
    _tile_zero(0);
    _tile_zero(1);
  } else {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + 16, bytes);
  }
  for (size_t b = 0; b < n_blocks; b++, code += QI__TERNARY_HALF) {
    const int8_t *after = b + 1 < n_blocks ? x + 256 : next;
    QI__UNROLL for (int part = 0; part < 4; part++, code += QI__TERNARY_HALF / 4, x += 64) {
      const int8_t *ahead = part < 2 ? x + 128 : after + 64 * (part - 2);
      _tile_loadd(2, x, k);
      qi__ternary_fetch_amx(ahead, k, 0, 3);
      _tile_loadd(3, code, 64);
      qi__ternary_fetch_amx(ahead, k, 3, 3);
      _tile_dpbssd(0, 2, 3);
      qi__ternary_fetch_amx(ahead, k, 6, 3);
      _tile_loadd(3, code + QI__TERNARY_HALF, 64);
      qi__ternary_fetch_amx(ahead, k, 9, 3);
      _tile_dpbssd(1, 2, 3);
      qi__ternary_fetch_amx(ahead, k, 12, 4);
    }
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + 16, bytes);
  QI__TILE_BARRIER();
}

// Rows first .. end - 1, as many at a time as the configuration says.
QI__INLINE QI__AMX void qi__ternary_passes_amx(const qi__ternary_segment *s, size_t first, size_t end) {
  for (size_t b = 0; b < s->n_blocks; b += QI__TERNARY_PART)
    for (size_t i = first; i < end; i += 16) {
      qi__lines_fetch(s->next);
      qi__ternary_tiles_amx(s, b, qi__min_size(QI__TERNARY_PART, s->n_blocks - b), i);
    }
}

QI__FN QI__AMX void qi__ternary_multiply_amx(const qi__ternary_segment *s) {
  const size_t rest = s->n_x % 16, whole = s->n_x - rest;
  if (whole) {
    qi__tiles_begin(16);
    qi__ternary_passes_amx(s, 0, whole);
  }
  if (rest) {
    qi__tiles_begin(rest);
    qi__ternary_passes_amx(s, whole, s->n_x);
  }
  _tile_release();
}
#endif

// ---- the kernels ----

// Rows of activations from which a panel pays (Zen 4, two threads, weights from memory).
QI__INLINE size_t qi__ternary_panel_from(const qi__format *f, bool avx512) {
  if (f->id == QI_FORMAT_TQ1_0) return avx512 ? 9 : 5;
  return avx512 ? 20 : 32;
}

#define QI__DOT_TERNARY(isa, avx512, pack, take, row, fetches) \
  QI__FN void qi__dot_ternary_##isa(const qi__dot_q8_args *a) { \
    static const qi__ternary_kernels kernels = {pack, qi__ternary_multiply_##isa, take, fetches}; \
    if (a->n_x >= qi__ternary_panel_from(a->format, avx512)) qi__dot_ternary_panels(&kernels, a); \
    else row(a); \
  }
QI__DOT_TERNARY(avx2, false, qi__ternary_pack_avx2, qi__ternary_take_avx2, qi__ternary_row_avx2, false)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_TERNARY(avx_vnni, false, qi__ternary_pack_avx2, qi__ternary_take_avx2, qi__ternary_row_avx_vnni, false)
#endif
QI__DOT_TERNARY(avx512, true, qi__ternary_pack_avx512, qi__ternary_take_avx512, qi__ternary_few_avx512, false)
#if defined(QI__HAS_AMX)
QI__DOT_TERNARY(amx, true, qi__ternary_pack_signed_avx512, qi__ternary_take_avx512, qi__ternary_few_avx512, true)
#endif
#undef QI__DOT_TERNARY
#endif

#endif // QI__KERNELS_DOT_TERNARY_X86_H
