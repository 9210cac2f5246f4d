// ==== >>block : what all weight formats have in common ====
#ifndef QI__FORMATS_BLOCK_H
#define QI__FORMATS_BLOCK_H

#include "../base/memory.h"

#define QI__BLOCK_MAX 256 // longest block: k-quants, IQ, ternary

// A block taken apart into integers and their scales, the same for every quantised format:
//
//   w[i] = (d * scale[g]) * q[i] - dmin * min[g]      g = i / group, each product rounded to float32
//
// One function a format takes blocks apart; dequantisation, the reference dot product and the tests all start from this.
// Formats with a fractional grid fold its power of two into d (exact): IQ1 stores 8 * (grid + delta) and d / 8.
typedef struct qi__block {
  float d, dmin;        // dmin = 0 and min = 0 where a format has no offset
  int8_t q[QI__BLOCK_MAX];
  int16_t scale[QI__BLOCK_MAX / 16]; // block_len / group of them; 1 in formats with only d
  int16_t min[QI__BLOCK_MAX / 16];
} qi__block;

typedef struct qi__format {
  qi_format_info info;
  int group;            // codes that share a scale: 16 or 32; 0 in float formats
  bool has_min;         // dmin and min are used
  // One block at `src` (any alignment) to integers. NULL in float formats.
  void (*unpack)(const uint8_t *src, qi__block *out);
  // n weights to float32; NULL = through unpack (qi__dequantize_blocks).
  void (*dequantize)(const uint8_t *src, float *dst, size_t n);
  // One row of n weights; importance NULL or [n]. NULL = cannot be written.
  void (*quantize)(const float *src, uint8_t *dst, size_t n, const float *importance);
} qi__format;

#endif // QI__FORMATS_BLOCK_H
