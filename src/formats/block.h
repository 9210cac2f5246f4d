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
  int16_t wide[QI__BLOCK_MAX]; // instead of q in wide formats
  int16_t scale[QI__BLOCK_MAX / 16]; // block_len / group of them; 1 in formats with only d
  int16_t min[QI__BLOCK_MAX / 16];
} qi__block;

typedef struct qi__format {
  qi_format id;
  qi_format_info info;
  int group;            // codes that share a scale: 16 or 32; 0 in formats without integer form
  bool has_min;         // dmin and min are used
  bool wide;            // codes need more than 8 bits: the block's `wide`
  bool ternary;         // one scale a block of 256, codes -1..2: integer products of a whole row (kernels/dot_ternary.h)
  // One block at `src` (any alignment) to integers; NULL without integer form. Call qi__unpack.
  void (*unpack)(const uint8_t *src, qi__block *out);
  // n weights to float32; NULL = through unpack (qi__dequantize_blocks).
  void (*dequantize)(const struct qi__format *f, const uint8_t *src, float *dst, size_t n);
  // One row of n weights; importance NULL or [n]. NULL = cannot be written row by row.
  void (*quantize)(const float *src, uint8_t *dst, size_t n, const float *importance);
  // Formats with a tail (info.tail_bytes): the whole tensor with its tail; importance NULL or [n_cols].
  void (*quantize_tensor)(const float *src, uint8_t *dst, size_t n_rows, size_t n_cols, const float *importance);
  // Parameters of a tensor from its tail to param, values[256] and factors[32]; NULL, or what was expected there.
  const char *(*read_tail)(const uint8_t *tail, float *param, float *values, int16_t *factors);
  // What they say, to a block as unpack left it.
  void (*apply_tail)(const struct qi__format *f, qi__block *out);

  // What a tail says is filled in by qi__format_bind in a copy of the row, which then goes where the row would.
  float param[2];
  const float *values;          // what the codes stand for
  const int16_t *factors;       // and their integers: see qi__qins8_size
} qi__format;

// Takes a block apart. `f`: bound, if the format has a tail.
QI__INLINE void qi__unpack(const qi__format *f, const uint8_t *src, qi__block *out) {
  f->unpack(src, out);
  if (f->apply_tail) f->apply_tail(f, out);
}

QI__INLINE int qi__block_code(const qi__format *f, const qi__block *b, int i) { return f->wide ? b->wide[i] : b->q[i]; }

#endif // QI__FORMATS_BLOCK_H
