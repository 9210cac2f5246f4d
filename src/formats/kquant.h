// ==== >>kquant : Q2_K to Q6_K: 256 weights, integer scales for each 16 or 32 of them ====
#ifndef QI__FORMATS_KQUANT_H
#define QI__FORMATS_KQUANT_H

#include "quantize.h"

// Blocks of ggml (ggml-common.h). d, dmin: halves; all numbers little-endian; 256 weights a block; g = group of weight i.
//
//   format  bytes  bits    group  weight                               offsets
//   Q2_K     84    2.625    16    d * s[g] * q - dmin * m[g]           0 scales[16], 16 low[64], 80 d, 82 dmin
//   Q3_K    110    3.4375   16    d * (s[g] - 32) * (q - 4)            0 high[32], 32 low[64], 96 scales[12], 108 d
//   Q4_K    144    4.5      32    d * s[g] * q - dmin * m[g]           0 d, 2 dmin, 4 scales[12], 16 nibbles[128]
//   Q5_K    176    5.5      32    d * s[g] * q - dmin * m[g]           0 d, 2 dmin, 4 scales[12], 16 high[32], 48 nibbles[128]
//   Q6_K    210    6.5625   16    d * s[g] * (q - 32)                  0 nibbles[128], 128 high[64], 192 int8 scales[16], 208 d
//
// Easy to get wrong:
//   - Q2_K, Q3_K low[]: byte 32h + l (h = half of the block, l < 32) holds weights 128h + l, + 32, + 64, + 96, lowest bits first.
//   - Q3_K high[l]: bit k belongs to weight 32k + l, over the whole block; a bit that is clear subtracts 4.
//   - Q4_K, Q5_K nibbles: byte 32c + l holds weight 64c + l low and 64c + 32 + l high. Q5_K high[l]: bit k = weight 32k + l.
//   - Q6_K nibbles: byte 64h + l (l < 64) holds weight 128h + l low and 128h + 64 + l high. high[32h + l]: as low[] of Q2_K.
//   - The min of Q2_K, Q4_K and Q5_K is subtracted.

// ---- packed scales ----

// Q4_K, Q5_K: eight 6-bit scales and mins in 12 bytes. Bytes 0..3: scales 0..3, above them the top two bits of scales 4..7;
// bytes 4..7: the same with mins; bytes 8..11: the low four bits of scales 4..7 and, above, of mins 4..7.
QI__INLINE void qi__unpack_scales_k4(const uint8_t *src, int16_t *scale, int16_t *min) {
  for (int j = 0; j < 4; j++) {
    scale[j] = (int16_t)(src[j] & 63);
    min[j] = (int16_t)(src[j + 4] & 63);
    scale[j + 4] = (int16_t)((src[j + 8] & 15) | (src[j] >> 6) << 4);
    min[j + 4] = (int16_t)(src[j + 8] >> 4 | (src[j + 4] >> 6) << 4);
  }
}

QI__FN void qi__pack_scales_k4(const int *scale, const int *min, uint8_t *dst) {
  for (int j = 0; j < 4; j++) {
    dst[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
    dst[j + 4] = (uint8_t)(min[j] | (min[j + 4] >> 4) << 6);
    dst[j + 8] = (uint8_t)((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
  }
}

// Q3_K: sixteen 6-bit scales in 12 bytes, 32 added. Bytes 0..7: low four bits of scales 0..7 and, above, of 8..15; bits 2k, 2k +
// 1 of byte 8 + j: top two bits of scale 4k + j.
QI__INLINE void qi__unpack_scales_k3(const uint8_t *src, int16_t *scale) {
  for (int j = 0; j < 16; j++) {
    int low = src[j % 8] >> (j / 8 * 4) & 15;
    int top = src[8 + j % 4] >> (j / 4 * 2) & 3;
    scale[j] = (int16_t)((low | top << 4) - 32);
  }
}

QI__FN void qi__pack_scales_k3(const int *scale, uint8_t *dst) {
  memset(dst, 0, 12);
  for (int j = 0; j < 16; j++) {
    int s = scale[j] + 32;
    dst[j % 8] = (uint8_t)(dst[j % 8] | (s & 15) << (j / 8 * 4));
    dst[8 + j % 4] = (uint8_t)(dst[8 + j % 4] | (s >> 4) << (j / 4 * 2));
  }
}

// ---- unpacking ----

// Two bits of weight i out of low[64] of Q2_K and Q3_K, or high[64] of Q6_K.
QI__INLINE int qi__pair_bits(const uint8_t *src, int i) { return src[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3; }

QI__FN void qi__unpack_q2_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src + 80));
  out->dmin = qi__f16_to_f32(qi__load_u16(src + 82));
  for (int g = 0; g < 16; g++) {
    out->scale[g] = (int16_t)(src[g] & 15);
    out->min[g] = (int16_t)(src[g] >> 4);
  }
  for (int i = 0; i < 256; i++) out->q[i] = (int8_t)qi__pair_bits(src + 16, i);
}

QI__FN void qi__unpack_q3_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src + 108));
  out->dmin = 0.0f;
  qi__unpack_scales_k3(src + 96, out->scale);
  memset(out->min, 0, sizeof out->min);
  for (int i = 0; i < 256; i++) {
    int high = src[i % 32] >> (i / 32) & 1;
    out->q[i] = (int8_t)(qi__pair_bits(src + 32, i) + high * 4 - 4);
  }
}

QI__FN void qi__unpack_q4_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = qi__f16_to_f32(qi__load_u16(src + 2));
  qi__unpack_scales_k4(src + 4, out->scale, out->min);
  for (int c = 0; c < 4; c++)
    for (int l = 0; l < 32; l++) {
      uint8_t b = src[16 + 32 * c + l];
      out->q[64 * c + l] = (int8_t)(b & 15);
      out->q[64 * c + 32 + l] = (int8_t)(b >> 4);
    }
}

QI__FN void qi__unpack_q5_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = qi__f16_to_f32(qi__load_u16(src + 2));
  qi__unpack_scales_k4(src + 4, out->scale, out->min);
  for (int c = 0; c < 4; c++)
    for (int l = 0; l < 32; l++) {
      uint8_t b = src[48 + 32 * c + l], high = src[16 + l];
      out->q[64 * c + l] = (int8_t)((b & 15) | (high >> (2 * c) & 1) << 4);
      out->q[64 * c + 32 + l] = (int8_t)(b >> 4 | (high >> (2 * c + 1) & 1) << 4);
    }
}

QI__FN void qi__unpack_q6_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src + 208));
  out->dmin = 0.0f;
  for (int g = 0; g < 16; g++) out->scale[g] = (int8_t)src[192 + g];
  memset(out->min, 0, sizeof out->min);
  for (int i = 0; i < 256; i++) {
    int low = src[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
    out->q[i] = (int8_t)((low | qi__pair_bits(src + 128, i) << 4) - 32);
  }
}

// ---- packing ----

// The inverse of qi__pair_bits for the bits `shift` and `shift` + 1 of all codes; dst: 64 bytes.
QI__FN void qi__pack_pair_bits(const uint8_t *code, int shift, uint8_t *dst) {
  memset(dst, 0, 64);
  for (int i = 0; i < 256; i++) {
    uint8_t *b = dst + i / 128 * 32 + i % 32;
    *b = (uint8_t)(*b | (code[i] >> shift & 3) << (i / 32 % 4 * 2));
  }
}

// Bit `bit` of each code to bit i / 32 of dst[i % 32].
QI__FN void qi__pack_high_bits(const uint8_t *code, int bit, uint8_t *dst) {
  memset(dst, 0, 32);
  for (int i = 0; i < 256; i++) dst[i % 32] = (uint8_t)(dst[i % 32] | (code[i] >> bit & 1) << (i / 32));
}

QI__FN void qi__pack_q2_k(const qi__fitted *f, uint8_t *dst) {
  for (int g = 0; g < 16; g++) dst[g] = (uint8_t)(f->scale[g] | f->min[g] << 4);
  qi__pack_pair_bits(f->code, 0, dst + 16);
  qi__store_u16(dst + 80, f->d);
  qi__store_u16(dst + 82, f->dmin);
}

QI__FN void qi__pack_q3_k(const qi__fitted *f, uint8_t *dst) {
  qi__pack_high_bits(f->code, 2, dst);
  qi__pack_pair_bits(f->code, 0, dst + 32);
  qi__pack_scales_k3(f->scale, dst + 96);
  qi__store_u16(dst + 108, f->d);
}

// Nibbles of Q4_K and Q5_K: 128 bytes.
QI__FN void qi__pack_nibbles_k(const uint8_t *code, uint8_t *dst) {
  for (int c = 0; c < 4; c++)
    for (int l = 0; l < 32; l++) dst[32 * c + l] = (uint8_t)((code[64 * c + l] & 15) | (code[64 * c + 32 + l] & 15) << 4);
}

QI__FN void qi__pack_q4_k(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__store_u16(dst + 2, f->dmin);
  qi__pack_scales_k4(f->scale, f->min, dst + 4);
  qi__pack_nibbles_k(f->code, dst + 16);
}

QI__FN void qi__pack_q5_k(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__store_u16(dst + 2, f->dmin);
  qi__pack_scales_k4(f->scale, f->min, dst + 4);
  qi__pack_high_bits(f->code, 4, dst + 16);
  qi__pack_nibbles_k(f->code, dst + 48);
}

QI__FN void qi__pack_q6_k(const qi__fitted *f, uint8_t *dst) {
  for (int i = 0; i < 128; i++) {
    const uint8_t *code = f->code + i / 64 * 128 + i % 64;
    dst[i] = (uint8_t)((code[0] & 15) | (code[64] & 15) << 4);
  }
  qi__pack_pair_bits(f->code, 4, dst + 128);
  for (int g = 0; g < 16; g++) dst[192 + g] = (uint8_t)f->scale[g];
  qi__store_u16(dst + 208, f->d);
}

static const qi__block_shape qi__shape_q2_k = {.len = 256, .group = 16, .code = {.lo = 0, .hi = 3}, .s_hi = 15, .m_hi = 15};
static const qi__block_shape qi__shape_q3_k = {.len = 256, .group = 16, .code = {.lo = -4, .hi = 3}, .s_lo = -32, .s_hi = 31};
static const qi__block_shape qi__shape_q4_k = {.len = 256, .group = 32, .code = {.lo = 0, .hi = 15}, .s_hi = 63, .m_hi = 63};
static const qi__block_shape qi__shape_q5_k = {.len = 256, .group = 32, .code = {.lo = 0, .hi = 31}, .s_hi = 63, .m_hi = 63};
static const qi__block_shape qi__shape_q6_k = {.len = 256, .group = 16, .code = {.lo = -32, .hi = 31}, .s_lo = -128, .s_hi = 127};

QI__FN void qi__quantize_q2_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q2_k, qi__pack_q2_k, 84, src, dst, n, importance);
}
QI__FN void qi__quantize_q3_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q3_k, qi__pack_q3_k, 110, src, dst, n, importance);
}
QI__FN void qi__quantize_q4_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q4_k, qi__pack_q4_k, 144, src, dst, n, importance);
}
QI__FN void qi__quantize_q5_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q5_k, qi__pack_q5_k, 176, src, dst, n, importance);
}
QI__FN void qi__quantize_q6_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q6_k, qi__pack_q6_k, 210, src, dst, n, importance);
}

#endif // QI__FORMATS_KQUANT_H
