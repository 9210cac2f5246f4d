// ==== >>ternary : TQ1_0, TQ2_0, I2_S: -1, 0 or 1 times a scale ====
#ifndef QI__FORMATS_TERNARY_H
#define QI__FORMATS_TERNARY_H

#include "quantize.h"
#include "spectrum.h"

// Blocks of ggml (ggml-common.h): w = d * (q - 1), q in 0..2; d: half, little-endian; 256 weights a block.
//
//   format  bytes  bits    offsets
//   TQ1_0    54    1.6875  0 digits[48], 48 rest[4], 52 d
//   TQ2_0    66    2.0625  0 pairs[64], 64 d
//   I2_S     64    2       0 pairs[64]; the tensor's tail has 32 bytes: 0 d (float32), the rest zero
//
// TQ2_0: byte 32h + l holds weights 128h + l, + 32, + 64, + 96, two bits each, lowest bits first. A pair of 3 is not forbidden:
// q - 1 = 2.
//
// I2_S (bitnet.cpp, its layout for x86): byte 32h + l holds weights 128h + l, + 32, + 64, + 96, highest bits first. There the unit
// is 128 weights; pairs of them make rows take the same kernels as TQ2_0, and every published model has rows of whole pairs.
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

// d is in the tail.
QI__FN void qi__unpack_i2_s(const uint8_t *src, qi__block *out) {
  out->d = 0.0f;
  out->dmin = 0.0f;
  for (int g = 0; g < 8; g++) {
    out->scale[g] = 1;
    out->min[g] = 0;
  }
  for (int i = 0; i < 256; i++) out->q[i] = (int8_t)((src[i / 128 * 32 + i % 32] >> (6 - i / 32 % 4 * 2) & 3) - 1);
}

// 64 bytes of four codes to 256 weights, through the four values that a code can have; `first`: shift of the first of the four,
// `next`: from one to the next. In 10^9 weights a second (gcc 12 -O2, Zen 4): 3.6; a table of 256 x 4 floats 3.7; arithmetic 1.7;
// qi__unpack 0.8; AVX2 16.6.
QI__INLINE void qi__dequantize_pairs(const uint8_t *src, float d, int first, int next, float *dst) {
  float values[4];
  for (int code = 0; code < 4; code++) values[code] = d * (float)(code - 1);
  for (int h = 0; h < 2; h++, src += 32, dst += 128)
    for (int l = 0; l < 32; l++)
      QI__UNROLL for (int k = 0; k < 4; k++) dst[32 * k + l] = values[src[l] >> (first + k * next) & 3];
}

QI__FN void qi__dequantize_tq2_0(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  for (size_t i = 0; i < n; i += 256, src += 66) qi__dequantize_pairs(src, qi__f16_to_f32(qi__load_u16(src + 64)), 0, 2, dst + i);
}

QI__FN void qi__dequantize_i2_s(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  for (size_t i = 0; i < n; i += 256, src += 64) qi__dequantize_pairs(src, f->param[0], 6, -2, dst + i);
}

// NULL, or what the tail should be.
QI__FN const char *qi__read_tail_i2_s(const uint8_t *tail, float *param, float *values, int16_t *factors) {
  (void)values;
  (void)factors;
  param[0] = qi__bits_f32(qi__load_u32(tail));
  return qi__is_finite(param[0]) ? NULL : "a finite scale";
}

QI__FN void qi__apply_tail_i2_s(const qi__format *f, qi__block *out) { out->d = f->param[0]; }

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

static const qi__block_shape qi__shape_ternary = {.len = 256, .group = 256, .code = {.lo = -1, .hi = 1}, .s_lo = 1, .s_hi = 1};

QI__FN void qi__quantize_tq1_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_ternary, qi__pack_tq1_0, 54, src, dst, n, importance);
}
QI__FN void qi__quantize_tq2_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_ternary, qi__pack_tq2_0, 66, src, dst, n, importance);
}

// ---- one scale for a tensor ----

#define QI__I2_S_TAIL 32

// 128 codes, 0..2, to 32 bytes.
QI__INLINE void qi__pack_i2_s(const uint8_t *code, uint8_t *dst) {
  for (int l = 0; l < 32; l++) dst[l] = (uint8_t)(code[l] << 6 | code[l + 32] << 4 | code[l + 64] << 2 | code[l + 96]);
}

QI__FN void qi__store_tail_i2_s(uint8_t *tail, float scale) {
  memset(tail, 0, QI__I2_S_TAIL);
  qi__store_f32(tail, scale);
}

// Sum and number of the sizes above a border, by their importance.
QI__FN float qi__ternary_mean(const float *src, size_t n_rows, size_t n_cols, const float *importance, float border) {
  double wx = 0, w = 0;
  float greatest = qi__spectrum_greatest(importance, n_cols);
  for (size_t i = 0; i < n_rows * n_cols; i++) {
    float a = fabsf(src[i]);
    if (!(a > border)) continue;
    double weight = qi__spectrum_weight(importance, i % n_cols, greatest);
    wx += weight * a;
    w += weight;
  }
  return w > 0 ? (float)(wx / w) : 0.0f;
}

// Sizes above a border become d, their mean; that takes (sum w |x|)^2 / sum w off the error. d is exact when all are of one size.
QI__FN void qi__quantize_tensor_i2_s(const float *src, uint8_t *dst, size_t n_rows, size_t n_cols, const float *importance) {
  qi__spectrum s;
  double best = 0;
  float d = 0.0f;
  qi__spectrum_take(&s, src, n_rows, n_cols, importance);
  for (int k = 1; k <= QI__SPECTRUM_BINS; k++)
    if (s.w[k] > 0 && s.wx[k] * s.wx[k] / s.w[k] > best) best = s.wx[k] * s.wx[k] / s.w[k], d = (float)(s.wx[k] / s.w[k]);
  for (int turn = 0; turn < 2; turn++) d = qi__ternary_mean(src, n_rows, n_cols, importance, 0.5f * d);
  for (size_t i = 0; i < n_rows * n_cols; i += 128, dst += 32) {
    uint8_t code[128];
    for (size_t j = 0; j < 128; j++) code[j] = src[i + j] > 0.5f * d ? 2 : src[i + j] < -0.5f * d ? 0 : 1;
    qi__pack_i2_s(code, dst);
  }
  qi__store_tail_i2_s(dst, d);
}

// ---- Hugging Face ----

// n codes (a multiple of 128) of a row from its packed bytes: bits 2k, 2k + 1 of each. False for a code of 3.
QI__FN bool qi__hf_ternary_row(const uint8_t *packed, unsigned k, size_t n, uint8_t *dst) {
  for (size_t i = 0; i < n; i += 128, dst += 32) {
    uint8_t code[128], wrong = 0;
    for (size_t j = 0; j < 128; j++) {
      code[j] = packed[i + j] >> (2 * k) & 3;
      wrong = (uint8_t)(wrong | (code[j] & code[j] >> 1));
    }
    if (wrong) return false;
    qi__pack_i2_s(code, dst);
  }
  return true;
}

// Packed weights of Hugging Face's BitNet: uint8 [n_rows / 4, n_cols]; byte (r, c) holds the codes 0..2 of rows r, r + n_rows / 4,
// r + n_rows / 2, r + 3 n_rows / 4 at column c, lowest bits first. To I2_S [n_rows, n_cols] with `scale`: dst has
// n_rows * n_cols / 4 bytes and a tail. False for a code of 3, or when n_rows is no multiple of 4, n_cols none of 256.
QI__FN bool qi__hf_ternary_to_i2_s(const uint8_t *packed, size_t n_rows, size_t n_cols, float scale, uint8_t *dst) {
  if (n_rows % 4 || n_cols % 256) return false;
  size_t quarter = n_rows / 4;
  for (size_t row = 0; row < n_rows; row++, dst += n_cols / 4)
    if (!qi__hf_ternary_row(packed + row % quarter * n_cols, (unsigned)(row / quarter), n_cols, dst)) return false;
  qi__store_tail_i2_s(dst, scale);
  return true;
}

#endif // QI__FORMATS_TERNARY_H
