// ==== >>iq : the IQ grid formats of ggml ====
#ifndef QI__FORMATS_IQ_H
#define QI__FORMATS_IQ_H

#include "block.h"
#include "half.h"
#include "iq_tables.h"

// Blocks of 256 weights. A code picks a point of 8 (IQ2, IQ1) or 4 (IQ3) values from a grid; IQ2 and IQ3 store magnitudes there and
// signs apart. d is a float16 and s the stored scale of a group, so that with 2 s + 1 as the integer scale
//
//   IQ2            w = d * (0.5 + s) / 4 * (+-grid)  =  d / 8 * (2 s + 1) * (+-grid)
//   IQ3_XXS        w = d * (0.5 + s) / 2 * (+-grid)  =  d / 4 * (2 s + 1) * (+-grid)
//   IQ3_S          w = d * (2 s + 1) * (+-grid)
//   IQ1            w = d * (2 s + 1) * (trit +- 1/8) =  d / 8 * (2 s + 1) * (8 trit +- 1)
//
// No product rounds: 11 bits of d, 5 of the scale and 6 of the grid fit into a float32, also for subnormal d.
//
// Fields of a block at byte offsets; p counts points of 8 (of 4 in IQ3), g groups. All words are little-endian.
//
//   IQ2_XXS  66 bytes  2.0625 bits   0 d   2 + 8 g: 4 bytes of grid, then 32 bits: 4 x 7 sign code, 4 s          group 32
//   IQ2_XS   74 bytes  2.3125 bits   0 d   2 + 2 p: 9 bits of grid, 7 sign code   66: s, 4 bits a group          group 16
//   IQ2_S    82 bytes  2.5625 bits   0 d   2 + p: grid low 8   34 + p: signs   66: grid high 2   74: s, 4 bits   group 16
//   IQ3_XXS  98 bytes  3.0625 bits   0 d   2 + p: grid   66 + 4 g: 4 x 7 sign code, 4 s                          group 32
//   IQ3_S   110 bytes  3.4375 bits   0 d   2 + p: grid low 8   66: grid high 1   74: signs   106: s, 4 bits      group 32
//   IQ1_S    50 bytes  1.5625 bits   0 d   2 + p: grid low 8   34 + 2 g: 4 x 3 grid high, 3 s, 1 sign of delta   group 32
//   IQ1_M    56 bytes  1.75 bits     p: grid low 8   32: 3 grid high, 1 sign of delta a point                    group 16
//                                    48: four words of 4 x 3 bits s, 4 bits of d (lowest first)
#define QI__IQ2_XXS_BYTES 66
#define QI__IQ2_XS_BYTES 74
#define QI__IQ2_S_BYTES 82
#define QI__IQ3_XXS_BYTES 98
#define QI__IQ3_S_BYTES 110
#define QI__IQ1_S_BYTES 50
#define QI__IQ1_M_BYTES 56

// ---- points and signs ----

// A point of 8 values at 2 bits each, of 4 values at 3.
QI__INLINE void qi__iq_point8(uint16_t point, const int8_t values[4], int8_t *q) {
  for (int j = 0; j < 8; j++) q[j] = values[point >> 2 * j & 3];
}
QI__INLINE void qi__iq_point4(uint16_t point, const int8_t values[8], int8_t *q) {
  for (int j = 0; j < 4; j++) q[j] = values[point >> 3 * j & 7];
}

// Negates q[j] where bit j is set.
QI__INLINE void qi__iq_apply_signs(uint32_t signs, int8_t q[8]) {
  for (int j = 0; j < 8; j++) {
    int negative = (int)(signs >> j & 1);
    q[j] = (int8_t)((q[j] ^ -negative) + negative);
  }
}

// Seven stored signs to eight: the last makes the number of negative values even.
QI__INLINE uint32_t qi__iq_sign_code(uint32_t code) {
  uint32_t parity = code ^ code >> 4;
  parity = 0x6996u >> (parity & 15) & 1;
  return code | parity << 7;
}

// Scale 2 s + 1 of group g from 4-bit s, two a byte, low half first.
QI__INLINE int16_t qi__iq_scale4(const uint8_t *s, int g) { return (int16_t)(2 * (s[g / 2] >> 4 * (g % 2) & 15) + 1); }

QI__INLINE void qi__iq_begin(qi__block *out, uint16_t half, float fraction) {
  out->d = qi__f16_to_f32(half) * fraction;
  out->dmin = 0;
  memset(out->min, 0, sizeof out->min);
}

// ---- two bits ----

QI__FN void qi__unpack_iq2_xxs(const uint8_t *src, qi__block *out) {
  qi__iq_begin(out, qi__load_u16(src), 0.125f);
  for (int g = 0; g < 8; g++) {
    const uint8_t *grid = src + 2 + 8 * g;
    uint32_t word = qi__load_u32(grid + 4);
    out->scale[g] = (int16_t)(2 * (word >> 28) + 1);
    for (int l = 0; l < 4; l++) {
      int8_t *q = out->q + 32 * g + 8 * l;
      qi__iq_point8(qi__iq2_xxs_grid[grid[l]], qi__iq2_values, q);
      qi__iq_apply_signs(qi__iq_sign_code(word >> 7 * l & 127), q);
    }
  }
}

QI__FN void qi__unpack_iq2_xs(const uint8_t *src, qi__block *out) {
  qi__iq_begin(out, qi__load_u16(src), 0.125f);
  for (int g = 0; g < 16; g++) out->scale[g] = qi__iq_scale4(src + 66, g);
  for (int p = 0; p < 32; p++) {
    uint32_t word = qi__load_u16(src + 2 + 2 * p);
    qi__iq_point8(qi__iq2_xs_grid[word & 511], qi__iq2_values, out->q + 8 * p);
    qi__iq_apply_signs(qi__iq_sign_code(word >> 9), out->q + 8 * p);
  }
}

QI__FN void qi__unpack_iq2_s(const uint8_t *src, qi__block *out) {
  const uint8_t *low = src + 2, *signs = src + 34, *high = src + 66;
  qi__iq_begin(out, qi__load_u16(src), 0.125f);
  for (int g = 0; g < 16; g++) out->scale[g] = qi__iq_scale4(src + 74, g);
  for (int p = 0; p < 32; p++) {
    int index = low[p] | (high[p / 4] >> 2 * (p % 4) & 3) << 8;
    qi__iq_point8(qi__iq2_s_grid[index], qi__iq2_values, out->q + 8 * p);
    qi__iq_apply_signs(signs[p], out->q + 8 * p);
  }
}

// ---- three bits ----

QI__FN void qi__unpack_iq3_xxs(const uint8_t *src, qi__block *out) {
  qi__iq_begin(out, qi__load_u16(src), 0.25f);
  for (int p = 0; p < 64; p++) qi__iq_point4(qi__iq3_xxs_grid[src[2 + p]], qi__iq3_xxs_values, out->q + 4 * p);
  for (int g = 0; g < 8; g++) {
    uint32_t word = qi__load_u32(src + 66 + 4 * g);
    out->scale[g] = (int16_t)(2 * (word >> 28) + 1);
    for (int l = 0; l < 4; l++) qi__iq_apply_signs(qi__iq_sign_code(word >> 7 * l & 127), out->q + 32 * g + 8 * l);
  }
}

QI__FN void qi__unpack_iq3_s(const uint8_t *src, qi__block *out) {
  const uint8_t *low = src + 2, *high = src + 66, *signs = src + 74;
  qi__iq_begin(out, qi__load_u16(src), 1);
  for (int g = 0; g < 8; g++) out->scale[g] = qi__iq_scale4(src + 106, g);
  for (int p = 0; p < 64; p++) {
    int index = low[p] | (high[p / 8] >> p % 8 & 1) << 8;
    qi__iq_point4(qi__iq3_s_grid[index], qi__iq3_s_values, out->q + 4 * p);
  }
  for (int i = 0; i < 32; i++) qi__iq_apply_signs(signs[i], out->q + 8 * i);
}

// ---- one bit ----

// Point `index` plus or minus the delta, in eighths.
QI__INLINE void qi__iq1_point(int index, bool minus, int8_t *q) {
  qi__iq_point8(qi__iq1_grid[index], qi__iq1_values, q);
  for (int j = 0; j < 8; j++) q[j] = (int8_t)(q[j] + (minus ? -1 : 1));
}

QI__FN void qi__unpack_iq1_s(const uint8_t *src, qi__block *out) {
  qi__iq_begin(out, qi__load_u16(src), 0.125f);
  for (int g = 0; g < 8; g++) {
    const uint8_t *low = src + 2 + 4 * g;
    int word = qi__load_u16(src + 34 + 2 * g);
    out->scale[g] = (int16_t)(2 * (word >> 12 & 7) + 1);
    for (int l = 0; l < 4; l++) qi__iq1_point(low[l] | (word >> 3 * l & 7) << 8, word >> 15, out->q + 32 * g + 8 * l);
  }
}

QI__FN void qi__unpack_iq1_m(const uint8_t *src, qi__block *out) {
  unsigned d = 0;
  for (int i = 0; i < 4; i++) {
    int word = qi__load_u16(src + 48 + 2 * i);
    d |= (unsigned)(word >> 12) << 4 * i;
    for (int l = 0; l < 4; l++) out->scale[4 * i + l] = (int16_t)(2 * (word >> 3 * l & 7) + 1);
  }
  qi__iq_begin(out, (uint16_t)d, 0.125f);
  for (int p = 0; p < 32; p++) {
    int high = src[32 + p / 2] >> 4 * (p % 2);
    qi__iq1_point(src[p] | (high & 7) << 8, high & 8, out->q + 8 * p);
  }
}

#endif // QI__FORMATS_IQ_H
