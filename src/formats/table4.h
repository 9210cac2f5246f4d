// ==== >>table4 : IQ4_NL, IQ4_XS, MXFP4: four bits that name one of 16 values ====
#ifndef QI__FORMATS_TABLE4_H
#define QI__FORMATS_TABLE4_H

#include "quantize.h"

// Blocks of ggml (ggml-common.h), all numbers little-endian; T = table of 16 integers, c = nibble of the weight.
//
//   format  len  bytes  bits  weight                          offsets
//   IQ4_NL   32   18    4.5   d * T[c]                        0 d (half), 2 nibbles[16]
//   IQ4_XS  256  136    4.25  d * (s[i / 32] - 32) * T[c]     0 d (half), 2 top[2], 4 low[4], 8 nibbles[128]
//   MXFP4    32   17    4.25  2^(e - 128) * T[c]              0 e (E8M0), 1 nibbles[16]
//
// Of each 16 bytes of nibbles, byte j holds weight j low and weight j + 16 high. IQ4_XS scales have 6 bits: low[k] the low four of
// scale 2k and, above, of 2k + 1; bits 2k, 2k + 1 of top (16 bits) the top two of scale k.

// Denser near zero, as weights are; both IQ4 formats.
static const int8_t qi__iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// E2M1 floats 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, doubled; hence 2^(e - 128) for 2^(e - 127).
static const int8_t qi__mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

QI__INLINE void qi__unpack_table_nibbles(const int8_t *values, const uint8_t *src, int8_t *q) {
  for (int j = 0; j < 16; j++) {
    q[j] = values[src[j] & 15];
    q[j + 16] = values[src[j] >> 4];
  }
}

QI__FN void qi__unpack_iq4_nl(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = 0.0f;
  out->scale[0] = 1;
  out->min[0] = 0;
  qi__unpack_table_nibbles(qi__iq4_values, src + 2, out->q);
}

QI__FN void qi__unpack_iq4_xs(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = 0.0f;
  int top = qi__load_u16(src + 2);
  for (int g = 0; g < 8; g++) {
    int low = src[4 + g / 2] >> (g % 2 * 4) & 15;
    out->scale[g] = (int16_t)((low | (top >> (2 * g) & 3) << 4) - 32);
    out->min[g] = 0;
    qi__unpack_table_nibbles(qi__iq4_values, src + 8 + 16 * g, out->q + 32 * g);
  }
}

QI__FN void qi__unpack_mxfp4(const uint8_t *src, qi__block *out) {
  out->d = qi__e8m0_half_to_f32(src[0]);
  out->dmin = 0.0f;
  out->scale[0] = 1;
  out->min[0] = 0;
  qi__unpack_table_nibbles(qi__mxfp4_values, src + 1, out->q);
}

QI__FN void qi__pack_table_nibbles(const uint8_t *code, uint8_t *dst) {
  for (int j = 0; j < 16; j++) dst[j] = (uint8_t)(code[j] | code[j + 16] << 4);
}

QI__FN void qi__pack_iq4_nl(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_table_nibbles(f->code, dst + 2);
}

QI__FN void qi__pack_iq4_xs(const qi__fitted *f, uint8_t *dst) {
  unsigned top = 0;
  memset(dst + 4, 0, 4);
  for (int g = 0; g < 8; g++) {
    unsigned s = (unsigned)(f->scale[g] + 32);
    dst[4 + g / 2] = (uint8_t)(dst[4 + g / 2] | (s & 15) << (g % 2 * 4));
    top |= (s >> 4) << (2 * g);
    qi__pack_table_nibbles(f->code + 32 * g, dst + 8 + 16 * g);
  }
  qi__store_u16(dst, f->d);
  qi__store_u16(dst + 2, (uint16_t)top);
}

static const qi__block_shape qi__shape_iq4_nl = {.len = 32, .group = 32, .code = {.lo = -127, .hi = 113,
  .values = qi__iq4_values}, .s_lo = 1, .s_hi = 1};
static const qi__block_shape qi__shape_iq4_xs = {.len = 256, .group = 32, .code = {.lo = -127, .hi = 113,
  .values = qi__iq4_values}, .s_lo = -32, .s_hi = 31};

QI__FN void qi__quantize_iq4_nl(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_iq4_nl, qi__pack_iq4_nl, 18, src, dst, n, importance);
}
QI__FN void qi__quantize_iq4_xs(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_iq4_xs, qi__pack_iq4_xs, 136, src, dst, n, importance);
}

#endif // QI__FORMATS_TABLE4_H
