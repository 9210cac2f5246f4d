// ==== >>formats : the table of weight formats ====
#ifndef QI__FORMATS_TABLE_H
#define QI__FORMATS_TABLE_H

#include "block.h"
#include "float.h"
#include "iq.h"
#include "kquant.h"
#include "legacy.h"
#include "table4.h"
#include "ternary.h"

// A new format is a row here, its functions in a file of its family and its name in qi_format.
//   { { name, GGUF id, weights and bytes of a block, can_quantize }, group, has_min, unpack, dequantize, quantize }
// clang-format off
static const qi__format qi__formats[QI_FORMAT_COUNT] = {
  [QI_FORMAT_F32] = {{"F32", 0, 1, 4, true}, 0, false, NULL, qi__dequantize_f32, qi__quantize_f32},
  [QI_FORMAT_F16] = {{"F16", 1, 1, 2, true}, 0, false, NULL, qi__dequantize_f16, qi__quantize_f16},
  [QI_FORMAT_BF16] = {{"BF16", 30, 1, 2, true}, 0, false, NULL, qi__dequantize_bf16, qi__quantize_bf16},
  [QI_FORMAT_Q4_0] = {{"Q4_0", 2, 32, 18, true}, 32, false, qi__unpack_q4_0, NULL, qi__quantize_q4_0},
  [QI_FORMAT_Q4_1] = {{"Q4_1", 3, 32, 20, true}, 32, true, qi__unpack_q4_1, NULL, qi__quantize_q4_1},
  [QI_FORMAT_Q5_0] = {{"Q5_0", 6, 32, 22, true}, 32, false, qi__unpack_q5_0, NULL, qi__quantize_q5_0},
  [QI_FORMAT_Q5_1] = {{"Q5_1", 7, 32, 24, true}, 32, true, qi__unpack_q5_1, NULL, qi__quantize_q5_1},
  [QI_FORMAT_Q8_0] = {{"Q8_0", 8, 32, 34, true}, 32, false, qi__unpack_q8_0, NULL, qi__quantize_q8_0},
  [QI_FORMAT_Q2_K] = {{"Q2_K", 10, 256, 84, true}, 16, true, qi__unpack_q2_k, NULL, qi__quantize_q2_k},
  [QI_FORMAT_Q3_K] = {{"Q3_K", 11, 256, 110, true}, 16, false, qi__unpack_q3_k, NULL, qi__quantize_q3_k},
  [QI_FORMAT_Q4_K] = {{"Q4_K", 12, 256, 144, true}, 32, true, qi__unpack_q4_k, NULL, qi__quantize_q4_k},
  [QI_FORMAT_Q5_K] = {{"Q5_K", 13, 256, 176, true}, 32, true, qi__unpack_q5_k, NULL, qi__quantize_q5_k},
  [QI_FORMAT_Q6_K] = {{"Q6_K", 14, 256, 210, true}, 16, false, qi__unpack_q6_k, NULL, qi__quantize_q6_k},
  [QI_FORMAT_IQ1_S] = {{"IQ1_S", 19, 256, QI__IQ1_S_BYTES, false}, 32, false, qi__unpack_iq1_s, NULL, NULL},
  [QI_FORMAT_IQ1_M] = {{"IQ1_M", 29, 256, QI__IQ1_M_BYTES, false}, 16, false, qi__unpack_iq1_m, NULL, NULL},
  [QI_FORMAT_IQ2_XXS] = {{"IQ2_XXS", 16, 256, QI__IQ2_XXS_BYTES, false}, 32, false, qi__unpack_iq2_xxs, NULL, NULL},
  [QI_FORMAT_IQ2_XS] = {{"IQ2_XS", 17, 256, QI__IQ2_XS_BYTES, false}, 16, false, qi__unpack_iq2_xs, NULL, NULL},
  [QI_FORMAT_IQ2_S] = {{"IQ2_S", 22, 256, QI__IQ2_S_BYTES, false}, 16, false, qi__unpack_iq2_s, NULL, NULL},
  [QI_FORMAT_IQ3_XXS] = {{"IQ3_XXS", 18, 256, QI__IQ3_XXS_BYTES, false}, 32, false, qi__unpack_iq3_xxs, NULL, NULL},
  [QI_FORMAT_IQ3_S] = {{"IQ3_S", 21, 256, QI__IQ3_S_BYTES, false}, 32, false, qi__unpack_iq3_s, NULL, NULL},
  [QI_FORMAT_IQ4_NL] = {{"IQ4_NL", 20, 32, 18, true}, 32, false, qi__unpack_iq4_nl, NULL, qi__quantize_iq4_nl},
  [QI_FORMAT_IQ4_XS] = {{"IQ4_XS", 23, 256, 136, true}, 32, false, qi__unpack_iq4_xs, NULL, qi__quantize_iq4_xs},
  [QI_FORMAT_TQ1_0] = {{"TQ1_0", 34, 256, 54, true}, 32, false, qi__unpack_tq1_0, NULL, qi__quantize_tq1_0},
  [QI_FORMAT_TQ2_0] = {{"TQ2_0", 35, 256, 66, true}, 32, false, qi__unpack_tq2_0, NULL, qi__quantize_tq2_0},
  [QI_FORMAT_MXFP4] = {{"MXFP4", 39, 32, 17, false}, 32, false, qi__unpack_mxfp4, NULL, NULL},
};
// clang-format on

// NULL when `format` is out of range or NONE.
QI__FN const qi__format *qi__format_get(qi_format format) {
  if ((int)format <= 0 || (int)format >= QI_FORMAT_COUNT) return NULL;
  return &qi__formats[format];
}

// Format of a type number in a GGUF file; QI_FORMAT_NONE when it is none of ours.
QI__FN qi_format qi__format_from_gguf(int id) {
  for (int f = QI_FORMAT_NONE + 1; f < QI_FORMAT_COUNT; f++)
    if (qi__formats[f].info.gguf_id == id) return (qi_format)f;
  return QI_FORMAT_NONE;
}

// Bytes of n weights; 0 when the format is unknown, n is no multiple of the block length, or on overflow.
QI__FN size_t qi__format_bytes(qi_format format, size_t n) {
  const qi__format *f = qi__format_get(format);
  size_t bytes;
  if (!f || n % (size_t)f->info.block_len) return 0;
  if (!qi__mul_size(n / (size_t)f->info.block_len, (size_t)f->info.block_bytes, &bytes)) return 0;
  return bytes;
}

// Values of an unpacked block of `len` weights: the formula in block.h, each product rounded by itself.
QI__INLINE void qi__block_values(const qi__block *b, int len, int group, bool has_min, float *dst) {
  for (int g = 0; g < len / group; g++) {
    float scale = b->d * (float)b->scale[g];
    float offset = has_min ? b->dmin * (float)b->min[g] : 0.0f;
    for (int i = g * group; i < (g + 1) * group; i++) {
      float product = scale * (float)b->q[i];
      dst[i] = has_min ? product - offset : product;
    }
  }
}

// n weights (whole blocks) to float32; src at any alignment.
QI__FN void qi__dequantize_blocks(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  if (f->dequantize) {
    f->dequantize(src, dst, n);
    return;
  }
  qi__block block;
  size_t len = (size_t)f->info.block_len;
  for (size_t i = 0; i + len <= n; i += len, src += f->info.block_bytes) {
    f->unpack(src, &block);
    qi__block_values(&block, f->info.block_len, f->group, f->has_min, dst + i);
  }
}

// The same by name of the format, which must be one of the table.
QI__FN void qi__dequantize(qi_format format, const void *src, float *dst, size_t n) {
  qi__dequantize_blocks(&qi__formats[format], (const uint8_t *)src, dst, n);
}

#endif // QI__FORMATS_TABLE_H
