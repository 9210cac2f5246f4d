// ==== >>qins : QINS8, QINS8_K, QINS4_K: logarithmic codes ====
#ifndef QI__FORMATS_QINS_H
#define QI__FORMATS_QINS_H

#include "../base/real.h"
#include "kquant.h"
#include "spectrum.h"

// All numbers little-endian; d: half.
//
//   format   len  bytes  bits  group  weight                                  offsets
//   QINS8     32    36   9.0     -    +-exp(log_min + (255 - c) / 254 * R)    0 signs[4], 4 codes[32];  tail: 0 log_min, 4 log_max
//   QINS8_K  256   272   8.5    16    d / 2^10 * s[g] * (+-V[c])              0 s[7], 7 d, 9 s[7], 16 codes[256]
//   QINS4_K  256   144   4.5    16    |d| / 2^10 * s[g] * T[t][c]             0 s[7], 7 d, 9 s[7], 16 nibbles[128]
//
// QINS8: R = log_max - log_min, two float32 in the tensor's tail (32 bytes, the rest zero). Code 1 is the greatest size, 255 the
// least; 0 is zero. Bit i % 8 of signs[i / 8] is set where weight i is negative. In float32 a weight is what the formula says; in
// integers it is d times the size of its code. e^x is multiplicative, so a size is made of two of 32 factors, which byte shuffles
// find (t = c - 1, h = R / 254):
//
//   size[c] = (A[t / 16] * B[t % 16] + 2^14) >> 15        A[i] = round(32767 exp(-16 i h))        B[j] = round(32767 exp(-j h))
//   size[0] = 0,  d = exp(log_max) * 2^15 / 32767^2
//
// Factors are off by at most 1/2 and size[c] rounds once more, so d * size[c] is off by at most 1.5 d, which is less than
// exp(log_max) / 21800. (At the greatest size half a step of the codes, (1 - exp(-h)) / 2, is 1/72 of it for R = 7.)
//
// Codes of the grouped kinds are turned: the code of weight 64 t + 16 l + 4 j + b is number 64 j + 16 l + 4 t + b (t, l, j, b < 4).
// So, of codes in registers of 64 bytes, each dword belongs to one group in all four of them (dword 4 l + t to group 4 t + l):
// products of bytes add up group by group. Nibbles: code n is in byte n / 128 * 64 + n % 64, in its upper half if n / 64 is odd.
// Scales have seven bits, those of groups 0 .. 7 one after the other from the lowest bit of the block on, those of the others from
// byte 9 on. QINS8_K: s = 0..127. QINS4_K: two's complement; t is the sign of d.
//
// Steps grow with the weight: with the code in -1..1 as a,
//
//   |w| / max = ((1 + m)^|a| - 1) / m
//
// which is nearly linear below max / m and logarithmic above. A pure logarithm (QINS8) spends its codes on sizes that hardly add to
// an error; m = 3 leaves least of it with 7 bits. Rounded to integers, sums of products stay exact.
//
//   QINS8_K  bits 0..6 of a code are c, bit 7 the sign; V[c] = round(255 (4^(c / 127) - 1) / 3)
//   QINS4_K  a = (c - 7 - o) / 8, round(127 ((1 + m)^|a| - 1) / ((1 + m)^((8 - o) / 8) - 1)) with a's sign,
//            m = 5/4 and o = 1/8 in T[0], m = 5/2 and o = 0 in T[1]: a block takes the range that suits it
//
// One side of T reaches further than the other; which one is the sign of s.

#define QI__QINS_TAIL 32
#define QI__QINS_D_AT 7 // where blocks of the grouped kinds have d
#define QI__QINS_D 10 // d is that of a weight near 1: halves have all their bits there
#define QI__QINS8_LOG_MAX 88.73f // e^x is beyond float32

static const uint8_t qi__qins8_sizes[128] = {
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23, 24,
  25, 27, 28, 29, 30, 32, 33, 34, 36, 37, 38, 40, 41, 42, 44, 45, 47, 48, 49, 51, 52, 54, 55, 57,
  59, 60, 62, 63, 65, 67, 68, 70, 72, 73, 75, 77, 79, 80, 82, 84, 86, 88, 90, 92, 94, 96, 98, 100,
  102, 104, 106, 108, 110, 112, 114, 116, 119, 121, 123, 125, 128, 130, 132, 135, 137, 140, 142, 145, 147, 150, 152, 155,
  157, 160, 163, 165, 168, 171, 174, 177, 180, 182, 185, 188, 191, 194, 197, 201, 204, 207, 210, 213, 217, 220, 223, 227,
  230, 233, 237, 240, 244, 248, 251, 255
};

// The same from 32 factors, as in QINS8: (((A[c / 16] * B[c % 16] + 2^14) >> 15) - QI__QINS8_K_BASE) >> 4, exactly. (A b is about
// 85 * 2^4 * 4^(c / 127); found by trying scales of B. A is there twice, so that the sign does not matter.)
#define QI__QINS8_K_BASE 1352
static const int16_t qi__qins8_k_factors[32] = {
  1602, 1908, 2272, 2706, 3222, 3837, 4569, 5441, 1602, 1908, 2272, 2706, 3222, 3837, 4569, 5441,
  27813, 28118, 28427, 28739, 29054, 29373, 29696, 30021, 30351, 30684, 31021, 31361, 31706, 32054, 32405, 32761
};

static const int8_t qi__qins4_values[2][16] = {
  {-110, -89, -71, -54, -39, -25, -13, -1, 10, 22, 35, 50, 66, 85, 105, 127},
  {-101, -79, -60, -44, -30, -19, -9, 0, 9, 19, 30, 44, 60, 79, 101, 127}
};

// ---- QINS8 ----

// What the 256 codes stand for. log_min <= log_max <= QI__QINS8_LOG_MAX
QI__FN void qi__qins8_table(float log_min, float log_max, float *values) {
  values[0] = 0.0f;
  for (int c = 1; c < 256; c++) {
    double v = qi__exp((double)log_min + (255 - c) / 254.0 * ((double)log_max - (double)log_min));
    values[c] = v < FLT_MAX ? (float)v : FLT_MAX;
  }
}

// A, then B.
QI__FN void qi__qins8_factors(float log_min, float log_max, int16_t *factors) {
  double h = ((double)log_max - (double)log_min) / 254;
  for (int i = 0; i < 16; i++) {
    factors[i] = (int16_t)qi__nearest(32767 * qi__exp(-16 * i * h));
    factors[16 + i] = (int16_t)qi__nearest(32767 * qi__exp(-i * h));
  }
}

QI__INLINE int qi__qins8_size(const int16_t *factors, int c) {
  return c ? (factors[(c - 1) / 16] * factors[16 + (c - 1) % 16] + 0x4000) >> 15 : 0;
}

// d, from a bound format: the value of code 1 is exp(log_max).
QI__INLINE float qi__qins8_d(const qi__format *f) { return f->values[1] * 0x1.0004p-15f; } // 2^15 / 32767^2

// NULL, or what the tail should be.
QI__FN const char *qi__read_tail_qins8(const uint8_t *tail, float *param, float *values, int16_t *factors) {
  float log_min = param[0] = qi__bits_f32(qi__load_u32(tail)), log_max = param[1] = qi__bits_f32(qi__load_u32(tail + 4));
  if (!qi__is_finite(log_min) || !qi__is_finite(log_max) || log_min > log_max || log_max > QI__QINS8_LOG_MAX)
    return "log_min <= log_max <= 88.73";
  qi__qins8_table(log_min, log_max, values);
  qi__qins8_factors(log_min, log_max, factors);
  return NULL;
}

// Codes with their signs; qi__apply_tail_qins8 makes sizes of them.
QI__FN void qi__unpack_qins8(const uint8_t *src, qi__block *out) {
  uint32_t signs = qi__load_u32(src);
  out->d = out->dmin = 0.0f;
  out->scale[0] = 1;
  out->min[0] = 0;
  for (int i = 0; i < 32; i++) out->wide[i] = (int16_t)(signs >> i & 1 ? -src[4 + i] : src[4 + i]);
}

QI__FN void qi__apply_tail_qins8(const qi__format *f, qi__block *out) {
  out->d = qi__qins8_d(f);
  for (int i = 0; i < 32; i++) {
    int c = out->wide[i], size = qi__qins8_size(f->factors, abs(c));
    out->wide[i] = (int16_t)(c < 0 ? -size : size);
  }
}

QI__FN void qi__dequantize_qins8(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  for (size_t i = 0; i < n; i += 32, src += 36) {
    uint32_t signs = qi__load_u32(src);
    for (int j = 0; j < 32; j++) dst[i + (size_t)j] = qi__bits_f32(qi__f32_bits(f->values[src[4 + j]]) ^ (signs >> j & 1) << 31);
  }
}

// The code whose value is nearest to size a.
QI__FN uint8_t qi__qins8_code(const float *values, float a) {
  int c = 1;
  for (int step = 128; step; step /= 2)
    if (c + step < 256 && a < 0.5f * values[c + step - 1] + 0.5f * values[c + step]) c += step;
  return c == 255 && a < 0.5f * values[255] ? 0 : (uint8_t)c;
}

// The range with the least error by the sums of sizes. A code's weights lie evenly in its step of R / 254, so inside of the range
// the relative error squared is (R / 254)^2 / 12; greater sizes become the greatest, smaller ones the least or zero.
QI__FN void qi__qins8_range(const qi__spectrum *s, float *log_min, float *log_max) {
  const double step = 0x1.62e42fefa39efp-1 / 32 / 254; // ln 2 / 32: from bin to bin
  const int n = QI__SPECTRUM_BINS;
  double best = 1e300;
  float top = s->max, bottom = s->min;
  *log_min = *log_max = 0.0f;
  if (!(s->max > 0.0f)) return;
  for (int a = 0; a < 64; a++) {
    if (!(qi__spectrum_size(s, a) > 0.0f)) break;
    double high = qi__spectrum_size(s, a), above = s->wxx[a] - 2 * high * s->wx[a] + high * high * s->w[a];
    for (int b = a + 1; b < n; b++) {
      float size = qi__spectrum_size(s, b), low = size > s->min ? size : s->min;
      int zero = b + 32 < n ? b + 32 : n; // half of low, where zero is nearer
      double inside = step * step / 12 * (b - a) * (b - a) * (s->wxx[b] - s->wxx[a]);
      double below = (double)low * low * (s->w[zero] - s->w[b]) - 2.0 * low * (s->wx[zero] - s->wx[b]) + s->wxx[n] - s->wxx[b];
      if (above + inside + below < best) best = above + inside + below, top = (float)high, bottom = low;
      if (size <= s->min) break;
    }
  }
  if (!(top > bottom)) bottom = top;
  *log_max = (float)qi__ln((double)top);
  *log_min = (float)qi__ln((double)bottom);
  if (*log_min > *log_max) *log_min = *log_max;
}

QI__FN void qi__quantize_tensor_qins8(const float *src, uint8_t *dst, size_t n_rows, size_t n_cols, const float *importance) {
  qi__spectrum spectrum;
  float log_min, log_max, values[256];
  qi__spectrum_take(&spectrum, src, n_rows, n_cols, importance);
  qi__qins8_range(&spectrum, &log_min, &log_max);
  qi__qins8_table(log_min, log_max, values);
  for (size_t i = 0; i < n_rows * n_cols; i += 32, dst += 36) {
    memset(dst, 0, 4);
    for (size_t j = 0; j < 32; j++) {
      if (src[i + j] < 0.0f) dst[j / 8] = (uint8_t)(dst[j / 8] | 1u << j % 8);
      dst[4 + j] = spectrum.max > 0.0f ? qi__qins8_code(values, fabsf(src[i + j])) : 0;
    }
  }
  memset(dst, 0, QI__QINS_TAIL);
  qi__store_f32(dst, log_min);
  qi__store_f32(dst + 4, log_max);
}

// ---- groups ----

// The code that belongs to weight i, and the weight that belongs to code i.
QI__INLINE int qi__qins_turned(int i) { return (i & 0x33) | (i >> 4 & 0x0c) | (i & 0x0c) << 4; }

// Where the seven bits of group g begin.
QI__INLINE int qi__qins_scale_at(int g) { return g / 8 * 72 + g % 8 * 7; }

QI__INLINE int qi__qins_scale(const uint8_t *src, int g) {
  int at = qi__qins_scale_at(g);
  return qi__load_u16(src + at / 8) >> at % 8 & 127;
}

QI__FN void qi__qins_pack_head(const qi__fitted *f, uint8_t *dst) {
  memset(dst, 0, 17); // the last store is of a word
  for (int g = 0; g < 16; g++) {
    int at = qi__qins_scale_at(g);
    qi__store_u16(dst + at / 8, (uint16_t)(qi__load_u16(dst + at / 8) | (f->scale[g] & 127) << at % 8));
  }
  qi__store_u16(dst + QI__QINS_D_AT, f->d);
}

QI__FN void qi__unpack_qins8_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src + QI__QINS_D_AT)) * 0x1p-10f;
  out->dmin = 0.0f;
  for (int g = 0; g < 16; g++) {
    out->scale[g] = (int16_t)qi__qins_scale(src, g);
    out->min[g] = 0;
  }
  for (int i = 0; i < 256; i++) {
    int c = src[16 + qi__qins_turned(i)], size = qi__qins8_sizes[c & 127];
    out->wide[i] = (int16_t)(c & 128 ? -size : size);
  }
}

// t, which is the sign of d.
QI__INLINE int qi__qins4_t(const uint8_t *src) { return src[QI__QINS_D_AT + 1] >> 7; }

QI__FN void qi__unpack_qins4_k(const uint8_t *src, qi__block *out) {
  const int8_t *values = qi__qins4_values[qi__qins4_t(src)];
  out->d = qi__f16_to_f32(qi__load_u16(src + QI__QINS_D_AT) & 0x7fff) * 0x1p-10f;
  out->dmin = 0.0f;
  for (int g = 0; g < 16; g++) {
    int s = qi__qins_scale(src, g);
    out->scale[g] = (int16_t)((s & 63) - (s & 64));
    out->min[g] = 0;
  }
  for (int i = 0; i < 256; i++) {
    int n = qi__qins_turned(i), c = src[16 + n / 128 * 64 + n % 64] >> (n / 64 % 2 * 4) & 15;
    out->q[i] = values[c];
  }
}

QI__FN void qi__pack_qins8_k(const qi__fitted *f, uint8_t *dst) {
  qi__qins_pack_head(f, dst);
  for (int i = 0; i < 256; i++) dst[16 + i] = f->code[qi__qins_turned(i)];
}

QI__FN void qi__pack_qins4_k(const qi__fitted *f, uint8_t *dst) {
  qi__fitted head = *f;
  for (int g = 0; g < 16 && f->d >> 15; g++) head.scale[g] = -f->scale[g];
  head.d = (uint16_t)((f->d & 0x7fff) | (f->other ? 0x8000 : 0));
  qi__qins_pack_head(&head, dst);
  for (int i = 0; i < 128; i++) { // codes n, n + 64
    int n = i / 64 * 128 + i % 64;
    dst[16 + i] = (uint8_t)(f->code[qi__qins_turned(n)] | f->code[qi__qins_turned(n + 64)] << 4);
  }
}

static const qi__block_shape qi__shape_qins8_k = {.len = 256, .group = 16, .code = {.lo = -255, .hi = 255,
  .sizes = qi__qins8_sizes}, .d_exponent = QI__QINS_D, .s_hi = 127, .s_reach = 8};
static const qi__block_shape qi__shape_qins4_other = {.len = 256, .group = 16, .code = {.lo = -101, .hi = 127,
  .values = qi__qins4_values[1]}, .d_exponent = QI__QINS_D, .s_lo = -63, .s_hi = 63, .s_reach = 1};
static const qi__block_shape qi__shape_qins4_k = {.len = 256, .group = 16, .code = {.lo = -110, .hi = 127,
  .values = qi__qins4_values[0]}, .other = &qi__shape_qins4_other, .d_exponent = QI__QINS_D, .s_lo = -63, .s_hi = 63, .s_reach = 1};

QI__FN void qi__quantize_qins8_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__block_shape shape = qi__shape_qins8_k;
  uint8_t place[256];
  for (int v = 0, k = 0; v < 256; v++) {
    k += k < 127 && qi__qins8_sizes[k + 1] <= v ? 1 : 0;
    place[v] = (uint8_t)k;
  }
  shape.code.place = place;
  qi__quantize_row(&shape, qi__pack_qins8_k, 272, src, dst, n, importance);
}
QI__FN void qi__quantize_qins4_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_qins4_k, qi__pack_qins4_k, 144, src, dst, n, importance);
}

#endif // QI__FORMATS_QINS_H
