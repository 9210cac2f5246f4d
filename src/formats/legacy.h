// ==== >>legacy : Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: 32 weights under one scale ====
#ifndef QI__FORMATS_LEGACY_H
#define QI__FORMATS_LEGACY_H

#include "quantize.h"

// Blocks of ggml (ggml-common.h). d, m: halves; all numbers little-endian; 32 weights a block.
//
//   format  bytes  bits  weight             offsets
//   Q4_0     18    4.5   d * (q - 8)        0 d, 2 nibbles[16]
//   Q4_1     20    5.0   d * q + m          0 d, 2 m, 4 nibbles[16]
//   Q5_0     22    5.5   d * (q - 16)       0 d, 2 high[4], 6 nibbles[16]
//   Q5_1     24    6.0   d * q + m          0 d, 2 m, 4 high[4], 8 nibbles[16]
//   Q8_0     34    8.5   d * q              0 d, 2 int8[32]
//
// Nibble byte j holds weight j in its low and weight j + 16 in its high half. Bit i of high[] is the fifth bit of weight i.

// ---- unpacking ----

QI__INLINE void qi__unpack_one_scale(qi__block *out, float d, float dmin, int min) {
  out->d = d;
  out->dmin = dmin;
  out->scale[0] = 1;
  out->min[0] = (int16_t)min;
}

// 32 codes minus `offset` from 16 bytes of nibbles and 32 fifth bits.
QI__INLINE void qi__unpack_nibbles(const uint8_t *nibbles, uint32_t high, int offset, int8_t *q) {
  for (int j = 0; j < 16; j++) {
    q[j] = (int8_t)((int)(nibbles[j] & 15u) + (int)(high >> j & 1u) * 16 - offset);
    q[j + 16] = (int8_t)((int)(nibbles[j] >> 4) + (int)(high >> (j + 16) & 1u) * 16 - offset);
  }
}

QI__FN void qi__unpack_q4_0(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), 0.0f, 0);
  qi__unpack_nibbles(src + 2, 0, 8, out->q);
}

QI__FN void qi__unpack_q4_1(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), -qi__f16_to_f32(qi__load_u16(src + 2)), 1);
  qi__unpack_nibbles(src + 4, 0, 0, out->q);
}

QI__FN void qi__unpack_q5_0(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), 0.0f, 0);
  qi__unpack_nibbles(src + 6, qi__load_u32(src + 2), 16, out->q);
}

QI__FN void qi__unpack_q5_1(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), -qi__f16_to_f32(qi__load_u16(src + 2)), 1);
  qi__unpack_nibbles(src + 8, qi__load_u32(src + 4), 0, out->q);
}

QI__FN void qi__unpack_q8_0(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), 0.0f, 0);
  memcpy(out->q, src + 2, 32);
}

// ---- packing ----

QI__FN void qi__pack_nibbles(const uint8_t *code, uint8_t *nibbles) {
  for (int j = 0; j < 16; j++) nibbles[j] = (uint8_t)((code[j] & 15u) | (code[j + 16] & 15u) << 4);
}

QI__FN void qi__pack_fifth_bits(const uint8_t *code, uint8_t *high) {
  memset(high, 0, 4);
  for (int i = 0; i < 32; i++) high[i / 8] = (uint8_t)(high[i / 8] | (code[i] >> 4 & 1u) << (i % 8));
}

// The files hold m = -dmin.
QI__FN void qi__pack_offset(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->dmin & 0x7fffu ? (uint16_t)(f->dmin ^ 0x8000u) : 0);
}

QI__FN void qi__pack_q4_0(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_nibbles(f->code, dst + 2);
}

QI__FN void qi__pack_q4_1(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_offset(f, dst + 2);
  qi__pack_nibbles(f->code, dst + 4);
}

QI__FN void qi__pack_q5_0(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_fifth_bits(f->code, dst + 2);
  qi__pack_nibbles(f->code, dst + 6);
}

QI__FN void qi__pack_q5_1(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_offset(f, dst + 2);
  qi__pack_fifth_bits(f->code, dst + 4);
  qi__pack_nibbles(f->code, dst + 8);
}

QI__FN void qi__pack_q8_0(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  for (int i = 0; i < 32; i++) dst[2 + i] = (uint8_t)(f->code[i] - 127);
}

static const qi__block_shape qi__shape_q4_0 = {.len = 32, .group = 32, .code = {.lo = -8, .hi = 7}, .s_lo = 1, .s_hi = 1};
static const qi__block_shape qi__shape_q4_1 = {.len = 32, .group = 32, .code = {.lo = 0, .hi = 15}, .s_lo = 1, .s_hi = 1,
  .m_lo = 1, .m_hi = 1};
static const qi__block_shape qi__shape_q5_0 = {.len = 32, .group = 32, .code = {.lo = -16, .hi = 15}, .s_lo = 1, .s_hi = 1};
static const qi__block_shape qi__shape_q5_1 = {.len = 32, .group = 32, .code = {.lo = 0, .hi = 31}, .s_lo = 1, .s_hi = 1,
  .m_lo = 1, .m_hi = 1};
// Not -128: |q| then fits into int8, which products of signed bytes by sign and magnitude need.
static const qi__block_shape qi__shape_q8_0 = {.len = 32, .group = 32, .code = {.lo = -127, .hi = 127}, .s_lo = 1, .s_hi = 1};

QI__FN void qi__quantize_q4_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q4_0, qi__pack_q4_0, 18, src, dst, n, importance);
}
QI__FN void qi__quantize_q4_1(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q4_1, qi__pack_q4_1, 20, src, dst, n, importance);
}
QI__FN void qi__quantize_q5_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q5_0, qi__pack_q5_0, 22, src, dst, n, importance);
}
QI__FN void qi__quantize_q5_1(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q5_1, qi__pack_q5_1, 24, src, dst, n, importance);
}
QI__FN void qi__quantize_q8_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q8_0, qi__pack_q8_0, 34, src, dst, n, importance);
}

#endif // QI__FORMATS_LEGACY_H
