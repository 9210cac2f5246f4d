// ==== >>dequant_neon : packed weights to float32 with NEON ====
#ifndef QI__KERNELS_DEQUANT_NEON_H
#define QI__KERNELS_DEQUANT_NEON_H

#include "../formats/table.h"
#include "simd.h"

#if defined(QI__ARM64)

// Blocks are taken apart in registers: their scales, then 32 integer codes at a time. Dequantisation here and the integer products
// in dot_q8_neon.h start from these. `id` is a constant where they are inlined; QI_FORMAT_NONE stands for formats without a case,
// which their `unpack` takes apart.

// X(name, id) for all formats with a case; ternary ones have integer products of their own (dot_ternary_neon.h).
#define QI__NEON_BLOCK_FORMATS(X) \
  X(q4_0, QI_FORMAT_Q4_0) \
  X(q4_1, QI_FORMAT_Q4_1) \
  X(q5_0, QI_FORMAT_Q5_0) \
  X(q5_1, QI_FORMAT_Q5_1) \
  X(q8_0, QI_FORMAT_Q8_0) \
  X(q2_k, QI_FORMAT_Q2_K) \
  X(q3_k, QI_FORMAT_Q3_K) \
  X(q4_k, QI_FORMAT_Q4_K) \
  X(q5_k, QI_FORMAT_Q5_K) \
  X(q6_k, QI_FORMAT_Q6_K) \
  X(iq4_nl, QI_FORMAT_IQ4_NL) \
  X(iq4_xs, QI_FORMAT_IQ4_XS) \
  X(mxfp4, QI_FORMAT_MXFP4) \
  X(qins4_k, QI_FORMAT_QINS4_K)
#define QI__NEON_FORMATS(X) \
  QI__NEON_BLOCK_FORMATS(X) \
  X(tq1_0, QI_FORMAT_TQ1_0) \
  X(tq2_0, QI_FORMAT_TQ2_0) \
  X(i2_s, QI_FORMAT_I2_S)

// Row of the table, a constant, for formats with a case.
QI__INLINE const qi__format *qi__format_neon(qi_format id, const qi__format *bound) { return id ? &qi__formats[id] : bound; }

// ---- scales ----

// Of a block: w[i] = (d * scale[i / 16]) * code[i] - dmin * min[i / 16], also where a group has 32 codes. Formats with one scale a
// block leave `scale` and `min` out: they are 1.
typedef struct qi__scales_neon {
  float d, dmin;
  int32_t scale[QI__BLOCK_MAX / 16];
  int16_t min[QI__BLOCK_MAX / 16];
} qi__scales_neon;

QI__INLINE bool qi__one_scale_neon(qi_format id) {
  return id && (qi__formats[id].info.block_len == 32 || id == QI_FORMAT_TQ1_0 || id == QI_FORMAT_TQ2_0 || id == QI_FORMAT_I2_S);
}

QI__INLINE float qi__half_neon(const uint8_t *src) {
  float16_t h;
  memcpy(&h, src, sizeof h);
  return (float)h;
}

QI__INLINE void qi__set_scales_neon(qi__scales_neon *s, int16x8_t low, int16x8_t high) {
  vst1q_s32(s->scale, vmovl_s16(vget_low_s16(low)));
  vst1q_s32(s->scale + 4, vmovl_high_s16(low));
  vst1q_s32(s->scale + 8, vmovl_s16(vget_low_s16(high)));
  vst1q_s32(s->scale + 12, vmovl_high_s16(high));
}
// 16 scales as bytes.
QI__INLINE void qi__set_scales16_neon(qi__scales_neon *s, int8x16_t scale) {
  qi__set_scales_neon(s, vmovl_s8(vget_low_s8(scale)), vmovl_high_s8(scale));
}
// 8 scales, of groups of 32.
QI__INLINE void qi__set_scales32_neon(qi__scales_neon *s, int16x8_t scale) {
  qi__set_scales_neon(s, vzip1q_s16(scale, scale), vzip2q_s16(scale, scale));
}

QI__INLINE int16x8_t qi__bytes_to_words_neon(uint64_t bytes) { return vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(bytes))); }

QI__INLINE void qi__scales_q2_k_neon(const uint8_t *src, qi__scales_neon *s) {
  uint8x16_t v = vld1q_u8(src), min = vshrq_n_u8(v, 4);
  qi__set_scales16_neon(s, vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15))));
  vst1q_s16(s->min, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(min))));
  vst1q_s16(s->min + 8, vreinterpretq_s16_u16(vmovl_high_u8(min)));
}

// The layout of qi__unpack_scales_k3, four bytes at a time.
QI__INLINE void qi__scales_k3_neon(const uint8_t *src, qi__scales_neon *s) {
  const uint32_t low = 0x0f0f0f0fu, top = 0x30303030u;
  uint32_t a = qi__load_u32(src), b = qi__load_u32(src + 4), c = qi__load_u32(src + 8);
  uint64_t first = ((a & low) | (c << 4 & top)) | (uint64_t)((b & low) | (c << 2 & top)) << 32;
  uint64_t second = ((a >> 4 & low) | (c & top)) | (uint64_t)((b >> 4 & low) | (c >> 2 & top)) << 32;
  qi__set_scales16_neon(s, vsubq_s8(vcombine_s8(vcreate_s8(first), vcreate_s8(second)), vdupq_n_s8(32)));
}

// The layout of qi__unpack_scales_k4, four bytes at a time.
QI__INLINE void qi__scales_k4_neon(const uint8_t *src, qi__scales_neon *s) {
  uint32_t a = qi__load_u32(src), b = qi__load_u32(src + 4), c = qi__load_u32(src + 8);
  uint64_t scale = (a & 0x3f3f3f3fu) | (uint64_t)((c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u)) << 32;
  uint64_t min = (b & 0x3f3f3f3fu) | (uint64_t)((c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u)) << 32;
  int16x8_t mins = qi__bytes_to_words_neon(min);
  qi__set_scales32_neon(s, qi__bytes_to_words_neon(scale));
  vst1q_s16(s->min, vzip1q_s16(mins, mins));
  vst1q_s16(s->min + 8, vzip2q_s16(mins, mins));
}

// IQ4_XS: low four bits in src[4..7], top two in the word at src + 2.
QI__INLINE void qi__scales_iq4_xs_neon(const uint8_t *src, qi__scales_neon *s) {
  static const int16_t shifts[8] = {4, 2, 0, -2, -4, -6, -8, -10}; // the pair of group g to bits 4, 5
  uint32_t nibbles = qi__load_u32(src + 4);
  uint8x8_t even = vcreate_u8(nibbles & 0x0f0f0f0fu), odd = vcreate_u8(nibbles >> 4 & 0x0f0f0f0fu);
  uint16x8_t top = vandq_u16(vshlq_u16(vdupq_n_u16(qi__load_u16(src + 2)), vld1q_s16(shifts)), vdupq_n_u16(0x30));
  uint16x8_t scale = vorrq_u16(vmovl_u8(vzip1_u8(even, odd)), top);
  qi__set_scales32_neon(s, vsubq_s16(vreinterpretq_s16_u16(scale), vdupq_n_s16(32)));
}

// QINS8_K, QINS4_K: scales of the block at src, a byte for each group.
QI__INLINE int8x16_t qi__qins_scales_neon(qi_format id, const uint8_t *src) {
  // Words that begin with the byte in which the seven bits of group g begin, and what lifts these to the top.
  static const uint8_t bytes[32] = {0, 1, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7,
                                    9, 10, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 15};
  static const int16_t lift[8] = {9, 2, 3, 4, 5, 6, 7, 8};
  uint8x16_t v = vld1q_u8(src);
  int8x8_t scale[2];
  QI__UNROLL for (int h = 0; h < 2; h++) {
    int16x8_t seven = vshlq_s16(vreinterpretq_s16_u8(vqtbl1q_u8(v, vld1q_u8(bytes + 16 * h))), vld1q_s16(lift));
    if (id == QI_FORMAT_QINS4_K) seven = vshrq_n_s16(seven, 9);
    else seven = vreinterpretq_s16_u16(vshrq_n_u16(vreinterpretq_u16_s16(seven), 9));
    scale[h] = vmovn_s16(seven);
  }
  return vcombine_s8(scale[0], scale[1]);
}

// Their d. The sign of QINS4_K's is a number of its own.
QI__INLINE float qi__qins_d_neon(qi_format id, const uint8_t *src) {
  float d = qi__half_neon(src + QI__QINS_D_AT) * 0x1p-10f;
  return id == QI_FORMAT_QINS4_K ? fabsf(d) : d;
}

// Their codes in the order of the weights (formats/qins.h).
QI__INLINE void qi__qins_codes_neon(qi_format id, const uint8_t *src, uint8_t *codes) {
  QI__UNROLL for (int l = 0; l < 4; l++) { // quarters of registers of 64 bytes
    uint32x4_t v[4], pair[4];
    QI__UNROLL for (int j = 0; j < 4; j++) {
      uint8x16_t c = vld1q_u8(src + 16 + 64 * (id == QI_FORMAT_QINS4_K ? j / 2 : j) + 16 * l);
      if (id == QI_FORMAT_QINS4_K) c = j % 2 ? vshrq_n_u8(c, 4) : vandq_u8(c, vdupq_n_u8(15));
      v[j] = vreinterpretq_u32_u8(c);
    }
    QI__UNROLL for (int i = 0; i < 2; i++) {
      pair[2 * i] = vzip1q_u32(v[2 * i], v[2 * i + 1]);
      pair[2 * i + 1] = vzip2q_u32(v[2 * i], v[2 * i + 1]);
    }
    QI__UNROLL for (int t = 0; t < 4; t++) {
      uint64x2_t first = vreinterpretq_u64_u32(pair[t / 2]), last = vreinterpretq_u64_u32(pair[2 + t / 2]);
      vst1q_u8(codes + 64 * t + 16 * l, vreinterpretq_u8_u64(t % 2 ? vzip2q_u64(first, last) : vzip1q_u64(first, last)));
    }
  }
}

QI__INLINE void qi__scales_block_neon(const qi__format *f, const qi__block *block, qi__scales_neon *s) {
  s->d = block->d;
  s->dmin = block->dmin;
  for (int i = 0; i < f->info.block_len / 16; i++) {
    s->scale[i] = block->scale[16 * i / f->group];
    s->min[i] = block->min[16 * i / f->group];
  }
}

// Of the block at src. What has no case is unpacked to `block`. f: bound, if the format has a tail.
QI__INLINE void qi__block_scales_neon(qi_format id, const qi__format *f, const uint8_t *src, qi__block *block, qi__scales_neon *s) {
  s->dmin = 0;
  switch (id) {
  case QI_FORMAT_Q4_0:
  case QI_FORMAT_Q5_0:
  case QI_FORMAT_Q8_0:
  case QI_FORMAT_IQ4_NL: s->d = qi__half_neon(src); break;
  case QI_FORMAT_MXFP4: s->d = qi__e8m0_half_to_f32(src[0]); break;
  case QI_FORMAT_Q4_1:
  case QI_FORMAT_Q5_1:
    s->d = qi__half_neon(src);
    s->dmin = -qi__half_neon(src + 2);
    break;
  case QI_FORMAT_Q2_K:
    qi__scales_q2_k_neon(src, s);
    s->d = qi__half_neon(src + 80);
    s->dmin = qi__half_neon(src + 82);
    break;
  case QI_FORMAT_Q3_K:
    qi__scales_k3_neon(src + 96, s);
    s->d = qi__half_neon(src + 108);
    break;
  case QI_FORMAT_Q4_K:
  case QI_FORMAT_Q5_K:
    qi__scales_k4_neon(src + 4, s);
    s->d = qi__half_neon(src);
    s->dmin = qi__half_neon(src + 2);
    break;
  case QI_FORMAT_Q6_K:
    qi__set_scales16_neon(s, vreinterpretq_s8_u8(vld1q_u8(src + 192)));
    s->d = qi__half_neon(src + 208);
    break;
  case QI_FORMAT_IQ4_XS:
    qi__scales_iq4_xs_neon(src, s);
    s->d = qi__half_neon(src);
    break;
  case QI_FORMAT_TQ1_0: s->d = qi__half_neon(src + 52); break;
  case QI_FORMAT_TQ2_0: s->d = qi__half_neon(src + 64); break;
  case QI_FORMAT_I2_S: s->d = f->param[0]; break;
  case QI_FORMAT_QINS4_K:
    qi__set_scales16_neon(s, qi__qins_scales_neon(id, src));
    qi__qins_codes_neon(id, src, (uint8_t *)block->q);
    s->d = qi__qins_d_neon(id, src);
    break;
  default:
    qi__unpack(f, src, block);
    qi__scales_block_neon(f, block, s);
    break;
  }
}

// ---- codes ----

// 32 of them.
typedef struct qi__codes32_neon {
  int8x16_t half[2];
} qi__codes32_neon;

QI__INLINE uint8x16x2_t qi__bytes_neon(const uint8_t *p) { return (uint8x16x2_t){{vld1q_u8(p), vld1q_u8(p + 16)}}; }

QI__INLINE uint8x16_t qi__shift_right_neon(uint8x16_t v, int shift) {
  switch (shift) { // instructions want a constant
  case 2: return vshrq_n_u8(v, 2);
  case 4: return vshrq_n_u8(v, 4);
  case 6: return vshrq_n_u8(v, 6);
  default: return v;
  }
}

// Bits shift..shift+n-1 of each of 32 bytes.
QI__INLINE uint8x16x2_t qi__bits_neon(const uint8_t *p, int shift, int n) {
  uint8x16x2_t v = qi__bytes_neon(p);
  QI__UNROLL for (int h = 0; h < 2; h++) {
    v.val[h] = qi__shift_right_neon(v.val[h], shift);
    if (shift + n < 8) v.val[h] = vandq_u8(v.val[h], vdupq_n_u8((uint8_t)((1 << n) - 1)));
  }
  return v;
}

// 16 bytes: the low nibbles, then the high ones.
QI__INLINE uint8x16x2_t qi__nibbles_neon(const uint8_t *p) {
  uint8x16_t v = vld1q_u8(p);
  return (uint8x16x2_t){{vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8(v, 4)}};
}

// `value` where bit i of `bits` is set, for byte i.
QI__INLINE uint8x16x2_t qi__spread_bits_neon(uint32_t bits, int value) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
  uint8x16x2_t v;
  QI__UNROLL for (int h = 0; h < 2; h++, bits >>= 16) {
    uint8x16_t bytes = vcombine_u8(vdup_n_u8((uint8_t)bits), vdup_n_u8((uint8_t)(bits >> 8)));
    v.val[h] = vandq_u8(vtstq_u8(bytes, bit), vdupq_n_u8((uint8_t)value));
  }
  return v;
}

// `value` where bit `bit` of the byte is set.
QI__INLINE uint8x16x2_t qi__flags_neon(const uint8_t *p, int bit, int value) {
  uint8x16x2_t v = qi__bytes_neon(p);
  QI__UNROLL for (int h = 0; h < 2; h++)
    v.val[h] = vandq_u8(vtstq_u8(v.val[h], vdupq_n_u8((uint8_t)(1 << bit))), vdupq_n_u8((uint8_t)value));
  return v;
}

QI__INLINE uint8x16x2_t qi__either_neon(uint8x16x2_t a, uint8x16x2_t b) {
  return (uint8x16x2_t){{vorrq_u8(a.val[0], b.val[0]), vorrq_u8(a.val[1], b.val[1])}};
}

QI__INLINE qi__codes32_neon qi__subtract_neon(uint8x16x2_t v, int offset) {
  int8x16_t o = vdupq_n_s8((int8_t)offset);
  return (qi__codes32_neon){{vsubq_s8(vreinterpretq_s8_u8(v.val[0]), o), vsubq_s8(vreinterpretq_s8_u8(v.val[1]), o)}};
}

QI__INLINE qi__codes32_neon qi__signed_neon(uint8x16x2_t v) {
  return (qi__codes32_neon){{vreinterpretq_s8_u8(v.val[0]), vreinterpretq_s8_u8(v.val[1])}};
}

QI__INLINE qi__codes32_neon qi__lookup_neon(const int8_t *table, uint8x16x2_t nibbles) {
  int8x16_t t = vld1q_s8(table);
  return (qi__codes32_neon){{vqtbl1q_s8(t, nibbles.val[0]), vqtbl1q_s8(t, nibbles.val[1])}};
}

// TQ1_0: digit n of a byte is floor(3 f / 256) of its fraction f = byte * 3^n mod 256; that is 1 from 86 and 2 from 171 on.
QI__INLINE int8x16_t qi__digit_neon(uint8x16_t bytes, uint8x16_t power) {
  uint8x16_t f = vmulq_u8(bytes, power);
  uint8x16_t from1 = vcgeq_u8(f, vdupq_n_u8(86)), from2 = vcgeq_u8(f, vdupq_n_u8(171));
  return vsubq_s8(vdupq_n_s8(-1), vreinterpretq_s8_u8(vaddq_u8(from1, from2)));
}

QI__INLINE qi__codes32_neon qi__digits_neon(const uint8_t *src, int g) {
  static const uint8_t powers[5] = {1, 3, 9, 27, 81};
  if (g < 5) {
    uint8x16_t power = vdupq_n_u8(powers[g]);
    return (qi__codes32_neon){{qi__digit_neon(vld1q_u8(src), power), qi__digit_neon(vld1q_u8(src + 16), power)}};
  }
  uint8x16_t low = vld1q_u8(src + 32), high = low, power = vdupq_n_u8(g < 7 ? powers[2 * g - 9] : 0);
  if (g == 7) { // rest: digit by digit
    high = vreinterpretq_u8_u32(vdupq_n_u32(qi__load_u32(src + 48)));
    power = vcombine_u8(vcreate_u8(0x0303030301010101u), vcreate_u8(0x1b1b1b1b09090909u));
  }
  return (qi__codes32_neon){{qi__digit_neon(low, vdupq_n_u8(powers[2 * g - 10])), qi__digit_neon(high, power)}};
}

// Codes of weights 32 g .. 32 g + 31 of a block. `block`: unpacked, for formats without a case; of
// QINS4_K its codes, which come with the scales.
QI__INLINE qi__codes32_neon qi__codes_neon(qi_format id, const uint8_t *src, int g, const qi__block *block) {
  int half = g / 4, quarter = g % 4;
  switch (id) {
  case QI_FORMAT_Q4_0: return qi__subtract_neon(qi__nibbles_neon(src + 2), 8);
  case QI_FORMAT_Q4_1: return qi__signed_neon(qi__nibbles_neon(src + 4));
  case QI_FORMAT_Q5_0:
    return qi__subtract_neon(qi__either_neon(qi__nibbles_neon(src + 6), qi__spread_bits_neon(qi__load_u32(src + 2), 16)), 16);
  case QI_FORMAT_Q5_1:
    return qi__signed_neon(qi__either_neon(qi__nibbles_neon(src + 8), qi__spread_bits_neon(qi__load_u32(src + 4), 16)));
  case QI_FORMAT_Q8_0: return qi__signed_neon(qi__bytes_neon(src + 2));
  case QI_FORMAT_IQ4_NL: return qi__lookup_neon(qi__iq4_values, qi__nibbles_neon(src + 2));
  case QI_FORMAT_IQ4_XS: return qi__lookup_neon(qi__iq4_values, qi__nibbles_neon(src + 8 + 16 * g));
  case QI_FORMAT_MXFP4: return qi__lookup_neon(qi__mxfp4_values, qi__nibbles_neon(src + 1));
  case QI_FORMAT_Q2_K: return qi__signed_neon(qi__bits_neon(src + 16 + 32 * half, 2 * quarter, 2));
  case QI_FORMAT_Q3_K:
    return qi__subtract_neon(qi__either_neon(qi__bits_neon(src + 32 + 32 * half, 2 * quarter, 2), qi__flags_neon(src, g, 4)), 4);
  case QI_FORMAT_Q4_K: return qi__signed_neon(qi__bits_neon(src + 16 + 32 * (g / 2), g % 2 * 4, 4));
  case QI_FORMAT_Q5_K:
    return qi__signed_neon(qi__either_neon(qi__bits_neon(src + 48 + 32 * (g / 2), g % 2 * 4, 4), qi__flags_neon(src + 16, g, 16)));
  case QI_FORMAT_Q6_K: {
    uint8x16x2_t low = qi__bits_neon(src + 64 * half + 32 * (quarter % 2), quarter / 2 * 4, 4);
    uint8x16x2_t high = qi__bits_neon(src + 128 + 32 * half, 2 * quarter, 2);
    QI__UNROLL for (int h = 0; h < 2; h++) high.val[h] = vsliq_n_u8(low.val[h], high.val[h], 4);
    return qi__subtract_neon(high, 32);
  }
  case QI_FORMAT_TQ1_0: return qi__digits_neon(src, g);
  case QI_FORMAT_TQ2_0: return qi__subtract_neon(qi__bits_neon(src + 32 * half, 2 * quarter, 2), 1);
  case QI_FORMAT_I2_S: return qi__subtract_neon(qi__bits_neon(src + 32 * half, 6 - 2 * quarter, 2), 1);
  case QI_FORMAT_QINS4_K: {
    qi__codes32_neon codes;
    int8x16_t table = vld1q_s8(qi__qins4_values[qi__qins4_t(src)]);
    QI__UNROLL for (int h = 0; h < 2; h++)
      codes.half[h] = vqtbl1q_s8(table, vld1q_u8((const uint8_t *)block->q + 32 * g + 16 * h));
    return codes;
  }
  default: return qi__signed_neon(qi__bytes_neon((const uint8_t *)block->q + 32 * g));
  }
}

// ---- dequantisation ----

// Writes weights i .. i + 15 of a row as float32, or as something else.
typedef void (*qi__store16_neon)(void *dst, size_t i, const float32x4_t *v);

QI__INLINE void qi__store16_f32_neon(void *dst, size_t i, const float32x4_t *v) {
  float *p = (float *)dst + i;
  QI__UNROLL for (int e = 0; e < 4; e++) vst1q_f32(p + 4 * e, v[e]);
}

// Of a block: w[i] = scale[i / 16] * code[i] - offset[i / 16].
typedef struct qi__float_scales_neon {
  float scale[QI__BLOCK_MAX / 16], offset[QI__BLOCK_MAX / 16];
} qi__float_scales_neon;

QI__INLINE void qi__to_float_scales_neon(qi_format id, const qi__format *f, const qi__scales_neon *s, qi__float_scales_neon *out) {
  for (int i = 0; i < f->info.block_len / 16; i++) {
    out->scale[i] = qi__one_scale_neon(id) ? s->d : s->d * (float)s->scale[i];
    if (f->has_min) out->offset[i] = qi__one_scale_neon(id) ? s->dmin : s->dmin * (float)s->min[i];
  }
}

// 16 words times a scale, minus an offset if there is one.
QI__INLINE void qi__store_words_neon(int16x8_t low, int16x8_t high, const float *scale, const float *offset, qi__store16_neon store,
                                     void *dst, size_t i) {
  int32x4_t words[4] = {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)};
  float32x4_t v[4];
  QI__UNROLL for (int e = 0; e < 4; e++) {
    v[e] = vmulq_n_f32(vcvtq_f32_s32(words[e]), *scale);
    if (offset) v[e] = vsubq_f32(v[e], vdupq_n_f32(*offset));
  }
  store(dst, i, v);
}

// Weights 32 g .. 32 g + 31 of a block, which become weights i .. of the row.
QI__INLINE void qi__dequantize_part_neon(qi_format id, const qi__format *f, const uint8_t *src, int g, const qi__block *block,
                                         const qi__float_scales_neon *s, qi__store16_neon store, void *dst, size_t i) {
  qi__codes32_neon codes = qi__codes_neon(id, src, g, block);
  QI__UNROLL for (int h = 0; h < 2; h++) {
    const float *scale = &s->scale[2 * g + h], *offset = f->has_min ? &s->offset[2 * g + h] : NULL;
    int16x8_t low = vmovl_s8(vget_low_s8(codes.half[h])), high = vmovl_high_s8(codes.half[h]);
    qi__store_words_neon(low, high, scale, offset, store, dst, i + (size_t)(16 * h));
  }
}

QI__INLINE void qi__dequantize_row_neon(qi_format id, const qi__format *bound, const uint8_t *src, qi__store16_neon store,
                                        void *dst, size_t n) {
  const qi__format *f = qi__format_neon(id, bound);
  qi__block block;
  qi__scales_neon s;
  qi__float_scales_neon scales;
  int len = f->info.block_len;
  for (size_t i = 0; i < n; i += (size_t)len, src += f->info.block_bytes) {
    qi__block_scales_neon(id, bound, src, &block, &s);
    qi__to_float_scales_neon(id, f, &s, &scales);
    if (id && len == 256) {
      QI__UNROLL for (int g = 0; g < 8; g++)
        qi__dequantize_part_neon(id, f, src, g, &block, &scales, store, dst, i + (size_t)(32 * g));
    } else {
      for (int g = 0; g < len / 32; g++)
        qi__dequantize_part_neon(id, f, src, g, &block, &scales, store, dst, i + (size_t)(32 * g));
    }
  }
}

// QINS8_K: qi__qins8_sizes as two tables that both give 0 for an index of 64 or more.
typedef struct qi__qins8_tables_neon {
  uint8x16x4_t half[2];
} qi__qins8_tables_neon;

QI__INLINE qi__qins8_tables_neon qi__load_qins8_tables_neon(void) {
  qi__qins8_tables_neon t;
  QI__UNROLL for (int i = 0; i < 8; i++) t.half[i / 4].val[i % 4] = vld1q_u8(qi__qins8_sizes + 16 * i);
  return t;
}

QI__INLINE uint8x16_t qi__qins8_sizes_neon(const qi__qins8_tables_neon *tables, uint8x16_t codes) {
  uint8x16_t at = vandq_u8(codes, vdupq_n_u8(127));
  return vorrq_u8(vqtbl4q_u8(tables->half[0], at), vqtbl4q_u8(tables->half[1], vsubq_u8(at, vdupq_n_u8(64))));
}

// Eight of these with the signs of their codes.
QI__INLINE int16x8_t qi__signed_sizes_neon(uint8x8_t sizes, int8x8_t codes) {
  int16x8_t minus = vshrq_n_s16(vmovl_s8(codes), 15), v = vreinterpretq_s16_u16(vmovl_u8(sizes));
  return vsubq_s16(veorq_s16(v, minus), minus);
}

QI__INLINE void qi__dequantize_qins8_k_neon(const uint8_t *src, qi__store16_neon store, void *dst, size_t n) {
  const qi__qins8_tables_neon tables = qi__load_qins8_tables_neon();
  for (size_t i = 0; i < n; i += 256, src += 272) {
    int8_t scale[16];
    uint8_t code[256];
    float d = qi__qins_d_neon(QI_FORMAT_QINS8_K, src);
    vst1q_s8(scale, qi__qins_scales_neon(QI_FORMAT_QINS8_K, src));
    qi__qins_codes_neon(QI_FORMAT_QINS8_K, src, code);
    for (size_t g = 0; g < 16; g++) {
      float scale_d = d * (float)scale[g];
      uint8x16_t codes = vld1q_u8(code + 16 * g), sizes = qi__qins8_sizes_neon(&tables, codes);
      int8x16_t sign = vreinterpretq_s8_u8(codes);
      qi__store_words_neon(qi__signed_sizes_neon(vget_low_u8(sizes), vget_low_s8(sign)),
                           qi__signed_sizes_neon(vget_high_u8(sizes), vget_high_s8(sign)), &scale_d, NULL, store, dst, i + 16 * g);
    }
  }
}

// Whether qi__dequantize_rows_neon takes a format.
QI__INLINE bool qi__dequantize_neon_has(qi_format id) {
  return qi__formats[id].unpack && (!qi__formats[id].wide || id == QI_FORMAT_QINS8_K);
}

// `f` is a row of the table, or bound.
QI__INLINE void qi__dequantize_rows_neon(const qi__format *f, const uint8_t *src, qi__store16_neon store, void *dst, size_t n) {
#define QI__CASE(name, id) case id: qi__dequantize_row_neon(id, f, src, store, dst, n); break;
  switch (f->id) {
    QI__NEON_FORMATS(QI__CASE)
  case QI_FORMAT_QINS8_K: qi__dequantize_qins8_k_neon(src, store, dst, n); break;
  default: qi__dequantize_row_neon(QI_FORMAT_NONE, f, src, store, dst, n); break;
  }
#undef QI__CASE
}

QI__FN void qi__dequantize_neon(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  qi__dequantize_rows_neon(f, src, qi__store16_f32_neon, dst, n);
}

QI__FN void qi__dequantize_f16_neon(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    vst1q_f32(dst + i, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(src + 2 * i))));
  qi__dequantize_blocks(f, src + 2 * i, dst + i, n - i);
}

QI__FN void qi__dequantize_bf16_neon(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    vst1q_f32(dst + i, vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(src + 2 * i)), 16)));
  qi__dequantize_blocks(f, src + 2 * i, dst + i, n - i);
}

QI__FN void qi__dequantize_f32_neon(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  memcpy(dst, src, n * sizeof *dst); // little-endian
}
#endif

#endif // QI__KERNELS_DEQUANT_NEON_H
