// ==== >>ternary : TQ1_0, TQ2_0: -1, 0 or 1 times a scale ====
#ifndef QI__FORMATS_TERNARY_H
#define QI__FORMATS_TERNARY_H

#include "quantize.h"

// Blocks of ggml (ggml-common.h): w = d * (q - 1), q in 0..2; d: half, little-endian; 256 weights a block.
//
//   format  bytes  bits    offsets
//   TQ1_0    54    1.6875  0 digits[48], 48 rest[4], 52 d
//   TQ2_0    66    2.0625  0 pairs[64], 64 d
//
// TQ2_0: byte 32h + l holds weights 128h + l, + 32, + 64, + 96, two bits each, lowest bits first. A pair of 3 is not forbidden:
// q - 1 = 2.
//
// TQ1_0: a byte holds five digits of base 3, first digit highest, as the fraction ceil(number * 256 / 243) / 256. Digit n is
// what crosses 256 when the fraction, times 3^n modulo 256, is multiplied by 3. Byte l < 32 of digits holds weights l, l + 32,
// ..., l + 128; byte 32 + l (l < 16) weights 160 + l, 176 + l, ..., 224 + l; byte l of rest weights 240 + l, 244 + l, 248 + l,
// 252 + l (and a zero).

QI__FN void qi__unpack_ternary_scale(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = 0.0f;
  for (int g = 0; g < 8; g++) {
    out->scale[g] = 1;
    out->min[g] = 0;
  }
}

// n_digits weights of each of n_bytes bytes; q[digit * n_bytes + byte].
QI__INLINE void qi__unpack_digits(const uint8_t *src, int n_bytes, int n_digits, int8_t *q) {
  unsigned power = 1;
  for (int digit = 0; digit < n_digits; digit++, power *= 3)
    for (int l = 0; l < n_bytes; l++) {
      unsigned fraction = src[l] * power & 255u;
      q[digit * n_bytes + l] = (int8_t)((int)(fraction * 3 >> 8) - 1);
    }
}

QI__FN void qi__unpack_tq1_0(const uint8_t *src, qi__block *out) {
  qi__unpack_ternary_scale(src + 52, out);
  qi__unpack_digits(src, 32, 5, out->q);
  qi__unpack_digits(src + 32, 16, 5, out->q + 160);
  qi__unpack_digits(src + 48, 4, 4, out->q + 240);
}

QI__FN void qi__unpack_tq2_0(const uint8_t *src, qi__block *out) {
  qi__unpack_ternary_scale(src + 64, out);
  for (int i = 0; i < 256; i++) out->q[i] = (int8_t)((src[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) - 1);
}

QI__FN void qi__pack_digits(const uint8_t *code, int n_bytes, int n_digits, uint8_t *dst) {
  for (int l = 0; l < n_bytes; l++) {
    unsigned number = 0;
    for (int digit = 0; digit < 5; digit++) number = number * 3 + (digit < n_digits ? code[digit * n_bytes + l] : 0u);
    dst[l] = (uint8_t)((number * 256 + 242) / 243);
  }
}

QI__FN void qi__pack_tq1_0(const qi__fitted *f, uint8_t *dst) {
  qi__pack_digits(f->code, 32, 5, dst);
  qi__pack_digits(f->code + 160, 16, 5, dst + 32);
  qi__pack_digits(f->code + 240, 4, 4, dst + 48);
  qi__store_u16(dst + 52, f->d);
}

QI__FN void qi__pack_tq2_0(const qi__fitted *f, uint8_t *dst) {
  memset(dst, 0, 64);
  for (int i = 0; i < 256; i++) {
    uint8_t *b = dst + i / 128 * 32 + i % 32;
    *b = (uint8_t)(*b | f->code[i] << (i / 32 % 4 * 2));
  }
  qi__store_u16(dst + 64, f->d);
}

static const qi__block_shape qi__shape_ternary = {256, 256, {-1, 1, NULL}, 1, 1, 0, 0};

QI__FN void qi__quantize_tq1_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_ternary, qi__pack_tq1_0, 54, src, dst, n, importance);
}
QI__FN void qi__quantize_tq2_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_ternary, qi__pack_tq2_0, 66, src, dst, n, importance);
}

#endif // QI__FORMATS_TERNARY_H
