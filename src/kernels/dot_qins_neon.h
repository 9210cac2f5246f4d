// ==== >>dot_qins_neon : integer products of QINS8 with NEON ====
#ifndef QI__KERNELS_DOT_QINS_NEON_H
#define QI__KERNELS_DOT_QINS_NEON_H

#include "dot_q8_neon.h"

#if defined(QI__ARM64)

// Factors of QINS8 as tables for byte shuffles: low and high bytes of A, then of B.
typedef struct qi__qins8_factors_neon {
  uint8x16_t byte[4];
} qi__qins8_factors_neon;

QI__INLINE qi__qins8_factors_neon qi__load_qins8_factors_neon(const int16_t *factors) {
  qi__qins8_factors_neon t;
  QI__UNROLL for (int f = 0; f < 2; f++) {
    uint8x16_t first = vreinterpretq_u8_s16(vld1q_s16(factors + 16 * f));
    uint8x16_t last = vreinterpretq_u8_s16(vld1q_s16(factors + 16 * f + 8));
    t.byte[2 * f] = vuzp1q_u8(first, last);
    t.byte[2 * f + 1] = vuzp2q_u8(first, last);
  }
  return t;
}

// qi__qins8_size of 16 codes: words[0] of the first eight.
QI__INLINE void qi__qins8_words_neon(const qi__qins8_factors_neon *table, uint8x16_t codes, int16x8_t *words) {
  uint8x16_t t = vsubq_u8(codes, vdupq_n_u8(1)), zero = vceqzq_u8(codes);
  uint8x16_t i = vorrq_u8(vshrq_n_u8(t, 4), zero), j = vandq_u8(t, vdupq_n_u8(15)); // a shuffle gives 0 for index 255
  uint8x16_t a0 = vqtbl1q_u8(table->byte[0], i), a1 = vqtbl1q_u8(table->byte[1], i);
  uint8x16_t b0 = vqtbl1q_u8(table->byte[2], j), b1 = vqtbl1q_u8(table->byte[3], j);
  words[0] = vqrdmulhq_s16(vreinterpretq_s16_u8(vzip1q_u8(a0, a1)), vreinterpretq_s16_u8(vzip1q_u8(b0, b1)));
  words[1] = vqrdmulhq_s16(vreinterpretq_s16_u8(vzip2q_u8(a0, a1)), vreinterpretq_s16_u8(vzip2q_u8(b0, b1)));
}

// Total of a block, in four lanes.
QI__INLINE int32x4_t qi__qins8_block_neon(const qi__qins8_factors_neon *table, const uint8_t *w, const int8_t *x) {
  uint8x16x2_t minus = qi__spread_bits_neon(qi__load_u32(w), 255);
  int32x4_t sum = vdupq_n_s32(0);
  QI__UNROLL for (int h = 0; h < 2; h++) {
    int8x16_t m = vreinterpretq_s8_u8(minus.val[h]), v = vsubq_s8(veorq_s8(vld1q_s8(x + 16 * h), m), m);
    int16x8_t words[2], low = vmovl_s8(vget_low_s8(v)), high = vmovl_high_s8(v);
    qi__qins8_words_neon(table, vld1q_u8(w + 4 + 16 * h), words);
    sum = vmlal_high_s16(vmlal_s16(sum, vget_low_s16(words[0]), vget_low_s16(low)), words[0], low);
    sum = vmlal_high_s16(vmlal_s16(sum, vget_low_s16(words[1]), vget_low_s16(high)), words[1], high);
  }
  return sum;
}

QI__FN void qi__dot_qins8_neon(const qi__dot_q8_args *a) {
  const qi__qins8_factors_neon table = qi__load_qins8_factors_neon(a->format->factors);
  const float d_w = qi__qins8_d(a->format);
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i++) {
      const uint8_t *w = a->w + r * a->w_stride;
      qi__x_neon x = qi__x_at_neon(a->x, a->x_row + i, 0);
      float lane[8] = {0};
      for (size_t b = 0; b < a->x->k / 32; b++, w += 36) {
        int32_t total = vaddvq_s32(qi__qins8_block_neon(&table, w, x.q));
        lane[b % 8] = fmaf(d_w * *x.d, (float)total, lane[b % 8]);
        qi__x_advance_neon(&x, 1, 32);
      }
      a->y[i * a->y_stride + r] = qi__sum_lanes(lane);
    }
}
#endif

#endif // QI__KERNELS_DOT_QINS_NEON_H
