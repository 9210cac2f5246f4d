// ==== >>half : 16-bit floats and power-of-two scales ====
#ifndef QI__FORMATS_HALF_H
#define QI__FORMATS_HALF_H

#include "../base/config.h"

// Everything here works on bits, so neither -ffast-math nor a processor that flushes subnormals can change a result.

// ---- IEEE binary16 ----

#define QI__F16_MAX 65504.0f // greatest finite value

// Exact. A signalling NaN becomes quiet, as in the processors' instructions (VCVTPH2PS, FCVT).
QI__INLINE float qi__f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  uint32_t exponent = (h >> 10) & 0x1fu;
  uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) return qi__bits_f32(sign | 0x7f800000u | (mantissa ? 0x400000u : 0) | mantissa << 13);
  if (exponent) return qi__bits_f32(sign | (exponent + 112) << 23 | mantissa << 13);
  if (!mantissa) return qi__bits_f32(sign);
  exponent = 113; // mantissa * 2^-24: shift its highest bit to where it is implied
  while (!(mantissa & 0x400u)) {
    mantissa <<= 1;
    exponent--;
  }
  return qi__bits_f32(sign | exponent << 23 | (mantissa & 0x3ffu) << 13);
}

// Rounds to nearest, ties to even; beyond the greatest half: infinity. NaN stays NaN (quiet, upper payload bits).
QI__INLINE uint16_t qi__f32_to_f16(float f) {
  uint32_t u = qi__f32_bits(f);
  uint32_t sign = (u >> 16) & 0x8000u;
  uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); // 65520 and more
  if (a <= 0x33000000u) return (uint16_t)sign;             // half of the least subnormal, 2^-25: a tie, to even
  uint32_t exponent = a >> 23;
  // Bits to drop: 13 for normal halves, one more for each power of two below 2^-14.
  uint32_t drop = exponent >= 113 ? 13 : 126 - exponent;
  uint32_t mantissa = exponent >= 113 ? a - (112u << 23) : (a & 0x7fffffu) | 0x800000u;
  uint32_t kept = mantissa >> drop;
  uint32_t rest = mantissa & ((1u << drop) - 1);
  uint32_t tie = 1u << (drop - 1);
  if (rest > tie || (rest == tie && (kept & 1))) kept++; // a carry runs into the exponent, which is right
  return (uint16_t)(sign | kept);
}

// ---- bfloat16: the upper half of a float32 ----

QI__INLINE float qi__bf16_to_f32(uint16_t b) { return qi__bits_f32((uint32_t)b << 16); }

// Rounds to nearest, ties to even; NaN stays NaN and becomes quiet.
QI__INLINE uint16_t qi__f32_to_bf16(float f) {
  uint32_t u = qi__f32_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

// ---- E8M0: an exponent alone (OCP Microscaling Formats 1.0) ----

// 2^(e - 127); e = 255 (NaN in the standard) is infinity here, as in ggml.
QI__INLINE float qi__e8m0_to_f32(uint8_t e) { return qi__bits_f32(e ? (uint32_t)e << 23 : 0x400000u); }

// 2^(e - 128), subnormal for e below 2: the scale of element values that are stored doubled.
QI__INLINE float qi__e8m0_half_to_f32(uint8_t e) {
  return qi__bits_f32(e < 2 ? 0x200000u << e : (uint32_t)(e - 1) << 23);
}

#endif // QI__FORMATS_HALF_H
