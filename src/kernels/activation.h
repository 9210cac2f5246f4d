// ==== >>activation : activations as int8 ====
#ifndef QI__KERNELS_ACTIVATION_H
#define QI__KERNELS_ACTIVATION_H

#include "../formats/table.h"

// Rows of activations in the form that integer products take: in each block of `block` values (the block length of the weight
// format: 32 or 256)
//
//   d = max |x| / 127      q = round(x * (127 / max |x|)), ties to even      x ~ d * q
//
// with the sums of each 16 codes, which the offsets of formats with a minimum need.
typedef struct qi__q8 {
  int8_t *q;    // [n, k]
  float *d;     // [n, k / block]
  int16_t *sum; // [n, k / 16]
  int block;
  size_t k;     // a multiple of block
} qi__q8;

// Adding 1.5 * 2^23 leaves the rounded integer in the low bits of a float32 below 2^22 in size: what SIMD conversions do.
QI__INLINE int32_t qi__round_even(float x) {
  return (int32_t)(qi__f32_bits(x + 12582912.0f) - 0x4b400000u);
}

QI__INLINE int8_t qi__clamp_i8(int32_t v) { return (int8_t)(v < -127 ? -127 : v > 127 ? 127 : v); }

// Row `row` of `out` from x [k].
QI__FN void qi__quantize_q8_ref(const float *x, const qi__q8 *out, size_t row) {
  size_t k = out->k, block = (size_t)out->block;
  int8_t *q = out->q + row * k;
  float *d = out->d + row * (k / block);
  int16_t *sum = out->sum + row * (k / 16);
  for (size_t b = 0; b < k / block; b++, x += block, q += block, sum += block / 16) {
    float max = 0;
    for (size_t i = 0; i < block; i++) {
      float a = fabsf(x[i]);
      if (a > max) max = a;
    }
    float inverse = max > 0 ? 127.0f / max : 0;
    d[b] = max / 127.0f;
    if (!qi__is_finite(inverse)) inverse = d[b] = 0; // subnormal maximum: as good as zero
    for (size_t i = 0; i < block; i++) q[i] = qi__clamp_i8(qi__round_even(x[i] * inverse));
    for (size_t g = 0; g < block / 16; g++) {
      int s = 0;
      for (size_t i = 0; i < 16; i++) s += q[16 * g + i];
      sum[g] = (int16_t)s;
    }
  }
}

#endif // QI__KERNELS_ACTIVATION_H
