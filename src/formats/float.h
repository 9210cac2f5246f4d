// ==== >>float : rows of F32, F16 and BF16 ====
#ifndef QI__FORMATS_FLOAT_H
#define QI__FORMATS_FLOAT_H

#include "block.h"
#include "half.h"

// Little-endian values without gaps, any alignment. Block length 1.

QI__FN void qi__dequantize_f32(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  for (size_t i = 0; i < n; i++) dst[i] = qi__bits_f32(qi__load_u32(src + 4 * i));
}

QI__FN void qi__dequantize_f16(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  for (size_t i = 0; i < n; i++) dst[i] = qi__f16_to_f32(qi__load_u16(src + 2 * i));
}

QI__FN void qi__dequantize_bf16(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  for (size_t i = 0; i < n; i++) dst[i] = qi__bf16_to_f32(qi__load_u16(src + 2 * i));
}

QI__FN void qi__quantize_f32(const float *src, uint8_t *dst, size_t n, const float *importance) {
  (void)importance;
  for (size_t i = 0; i < n; i++) qi__store_f32(dst + 4 * i, src[i]);
}

// A weight that does not fit becomes the greatest one that does: an infinite weight would make every result NaN.
QI__FN void qi__quantize_f16(const float *src, uint8_t *dst, size_t n, const float *importance) {
  (void)importance;
  for (size_t i = 0; i < n; i++) {
    uint16_t h = qi__f32_to_f16(src[i]);
    if ((h & 0x7fffu) == 0x7c00u) h--;
    qi__store_u16(dst + 2 * i, h);
  }
}

QI__FN void qi__quantize_bf16(const float *src, uint8_t *dst, size_t n, const float *importance) {
  (void)importance;
  for (size_t i = 0; i < n; i++) {
    uint16_t b = qi__f32_to_bf16(src[i]);
    if ((b & 0x7fffu) == 0x7f80u) b--;
    qi__store_u16(dst + 2 * i, b);
  }
}

#endif // QI__FORMATS_FLOAT_H
