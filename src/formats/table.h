// ==== >>formats : the table of weight formats ====
#ifndef QI__FORMATS_TABLE_H
#define QI__FORMATS_TABLE_H

#include "block.h"
#include "float.h"
#include "iq.h"
#include "kquant.h"
#include "legacy.h"
#include "qins.h"
#include "table4.h"
#include "ternary.h"

// A new format is a row here, its functions in a file of its family and its name in qi_format.
//   .info = { name, GGUF id, weights and bytes of a block, can_quantize, bytes of the tail }
//
// GGUF ids of our own begin with the letters QI (0x5149): no other loader knows them. 0x51490002 to 0x51490005 are not to be used
// again: files with other layouts have them.
// clang-format off
static const qi__format qi__formats[QI_FORMAT_COUNT] = {
  [QI_FORMAT_F32] = {.id = QI_FORMAT_F32, .info = {"F32", 0, 1, 4, true, 0},
    .dequantize = qi__dequantize_f32, .quantize = qi__quantize_f32},
  [QI_FORMAT_F16] = {.id = QI_FORMAT_F16, .info = {"F16", 1, 1, 2, true, 0},
    .dequantize = qi__dequantize_f16, .quantize = qi__quantize_f16},
  [QI_FORMAT_BF16] = {.id = QI_FORMAT_BF16, .info = {"BF16", 30, 1, 2, true, 0},
    .dequantize = qi__dequantize_bf16, .quantize = qi__quantize_bf16},
  [QI_FORMAT_Q4_0] = {.id = QI_FORMAT_Q4_0, .info = {"Q4_0", 2, 32, 18, true, 0},
    .group = 32, .unpack = qi__unpack_q4_0, .quantize = qi__quantize_q4_0},
  [QI_FORMAT_Q4_1] = {.id = QI_FORMAT_Q4_1, .info = {"Q4_1", 3, 32, 20, true, 0},
    .group = 32, .has_min = true, .unpack = qi__unpack_q4_1, .quantize = qi__quantize_q4_1},
  [QI_FORMAT_Q5_0] = {.id = QI_FORMAT_Q5_0, .info = {"Q5_0", 6, 32, 22, true, 0},
    .group = 32, .unpack = qi__unpack_q5_0, .quantize = qi__quantize_q5_0},
  [QI_FORMAT_Q5_1] = {.id = QI_FORMAT_Q5_1, .info = {"Q5_1", 7, 32, 24, true, 0},
    .group = 32, .has_min = true, .unpack = qi__unpack_q5_1, .quantize = qi__quantize_q5_1},
  [QI_FORMAT_Q8_0] = {.id = QI_FORMAT_Q8_0, .info = {"Q8_0", 8, 32, 34, true, 0},
    .group = 32, .unpack = qi__unpack_q8_0, .quantize = qi__quantize_q8_0},
  [QI_FORMAT_Q2_K] = {.id = QI_FORMAT_Q2_K, .info = {"Q2_K", 10, 256, 84, true, 0},
    .group = 16, .has_min = true, .unpack = qi__unpack_q2_k, .quantize = qi__quantize_q2_k},
  [QI_FORMAT_Q3_K] = {.id = QI_FORMAT_Q3_K, .info = {"Q3_K", 11, 256, 110, true, 0},
    .group = 16, .unpack = qi__unpack_q3_k, .quantize = qi__quantize_q3_k},
  [QI_FORMAT_Q4_K] = {.id = QI_FORMAT_Q4_K, .info = {"Q4_K", 12, 256, 144, true, 0},
    .group = 32, .has_min = true, .unpack = qi__unpack_q4_k, .quantize = qi__quantize_q4_k},
  [QI_FORMAT_Q5_K] = {.id = QI_FORMAT_Q5_K, .info = {"Q5_K", 13, 256, 176, true, 0},
    .group = 32, .has_min = true, .unpack = qi__unpack_q5_k, .quantize = qi__quantize_q5_k},
  [QI_FORMAT_Q6_K] = {.id = QI_FORMAT_Q6_K, .info = {"Q6_K", 14, 256, 210, true, 0},
    .group = 16, .unpack = qi__unpack_q6_k, .quantize = qi__quantize_q6_k},
  [QI_FORMAT_IQ1_S] = {.id = QI_FORMAT_IQ1_S, .info = {"IQ1_S", 19, 256, QI__IQ1_S_BYTES, false, 0},
    .group = 32, .unpack = qi__unpack_iq1_s},
  [QI_FORMAT_IQ1_M] = {.id = QI_FORMAT_IQ1_M, .info = {"IQ1_M", 29, 256, QI__IQ1_M_BYTES, false, 0},
    .group = 16, .unpack = qi__unpack_iq1_m},
  [QI_FORMAT_IQ2_XXS] = {.id = QI_FORMAT_IQ2_XXS, .info = {"IQ2_XXS", 16, 256, QI__IQ2_XXS_BYTES, false, 0},
    .group = 32, .unpack = qi__unpack_iq2_xxs},
  [QI_FORMAT_IQ2_XS] = {.id = QI_FORMAT_IQ2_XS, .info = {"IQ2_XS", 17, 256, QI__IQ2_XS_BYTES, false, 0},
    .group = 16, .unpack = qi__unpack_iq2_xs},
  [QI_FORMAT_IQ2_S] = {.id = QI_FORMAT_IQ2_S, .info = {"IQ2_S", 22, 256, QI__IQ2_S_BYTES, false, 0},
    .group = 16, .unpack = qi__unpack_iq2_s},
  [QI_FORMAT_IQ3_XXS] = {.id = QI_FORMAT_IQ3_XXS, .info = {"IQ3_XXS", 18, 256, QI__IQ3_XXS_BYTES, false, 0},
    .group = 32, .unpack = qi__unpack_iq3_xxs},
  [QI_FORMAT_IQ3_S] = {.id = QI_FORMAT_IQ3_S, .info = {"IQ3_S", 21, 256, QI__IQ3_S_BYTES, false, 0},
    .group = 32, .unpack = qi__unpack_iq3_s},
  [QI_FORMAT_IQ4_NL] = {.id = QI_FORMAT_IQ4_NL, .info = {"IQ4_NL", 20, 32, 18, true, 0},
    .group = 32, .unpack = qi__unpack_iq4_nl, .quantize = qi__quantize_iq4_nl},
  [QI_FORMAT_IQ4_XS] = {.id = QI_FORMAT_IQ4_XS, .info = {"IQ4_XS", 23, 256, 136, true, 0},
    .group = 32, .unpack = qi__unpack_iq4_xs, .quantize = qi__quantize_iq4_xs},
  [QI_FORMAT_TQ1_0] = {.id = QI_FORMAT_TQ1_0, .info = {"TQ1_0", 34, 256, 54, true, 0},
    .group = 32, .ternary = true, .unpack = qi__unpack_tq1_0, .quantize = qi__quantize_tq1_0},
  [QI_FORMAT_TQ2_0] = {.id = QI_FORMAT_TQ2_0, .info = {"TQ2_0", 35, 256, 66, true, 0},
    .group = 32, .ternary = true, .unpack = qi__unpack_tq2_0,
    .dequantize = qi__dequantize_tq2_0, .quantize = qi__quantize_tq2_0},
  [QI_FORMAT_MXFP4] = {.id = QI_FORMAT_MXFP4, .info = {"MXFP4", 39, 32, 17, false, 0}, .group = 32, .unpack = qi__unpack_mxfp4},
  [QI_FORMAT_I2_S] = {.id = QI_FORMAT_I2_S, .info = {"I2_S", 36, 256, 64, true, QI__I2_S_TAIL},
    .group = 32, .ternary = true, .unpack = qi__unpack_i2_s, .dequantize = qi__dequantize_i2_s,
    .quantize_tensor = qi__quantize_tensor_i2_s, .read_tail = qi__read_tail_i2_s,
    .apply_tail = qi__apply_tail_i2_s},
  [QI_FORMAT_QINS8] = {.id = QI_FORMAT_QINS8, .info = {"QINS8", 0x51490001, 32, 36, true, QI__QINS_TAIL}, .group = 32, .wide = true,
    .unpack = qi__unpack_qins8, .dequantize = qi__dequantize_qins8, .quantize_tensor = qi__quantize_tensor_qins8,
    .read_tail = qi__read_tail_qins8, .apply_tail = qi__apply_tail_qins8},
  [QI_FORMAT_QINS8_K] = {.id = QI_FORMAT_QINS8_K, .info = {"QINS8_K", 0x51490006, 256, 272, true, 0}, .group = 16, .wide = true,
    .unpack = qi__unpack_qins8_k, .quantize = qi__quantize_qins8_k},
  [QI_FORMAT_QINS4_K] = {.id = QI_FORMAT_QINS4_K, .info = {"QINS4_K", 0x51490007, 256, 144, true, 0},
    .group = 16, .unpack = qi__unpack_qins4_k,
    .quantize = qi__quantize_qins4_k},
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

// Bytes of a row of n weights; 0 when the format is unknown, n is no multiple of the block length, or on overflow.
QI__FN size_t qi__row_bytes(qi_format format, size_t n) {
  const qi__format *f = qi__format_get(format);
  size_t bytes;
  if (!f || n % (size_t)f->info.block_len) return 0;
  if (!qi__mul_size(n / (size_t)f->info.block_len, (size_t)f->info.block_bytes, &bytes)) return 0;
  return bytes;
}

// Bytes of a whole tensor of n weights: its rows and its tail. 0 as above.
QI__FN size_t qi__format_bytes(qi_format format, size_t n) {
  size_t bytes = qi__row_bytes(format, n);
  return bytes && !qi__add_size(bytes, (size_t)qi__formats[format].info.tail_bytes, &bytes) ? 0 : bytes;
}

// ---- parameters of a tensor ----

// A row of the table for one tensor, with what its tail says. Must not be copied: its format points into it.
typedef struct qi__bound {
  qi__format format;
  float values[256];
  int16_t factors[32];
} qi__bound;

// `tail`: behind the rows of the tensor `name`; NULL = only the structure counts, weights are not looked at. Formats without a tail
// can be bound, too. Errors: QI_ERR_FORMAT.
QI__FN qi_result qi__format_bind(qi__bound *out, qi_format format, const uint8_t *tail, const char *name, qi_error *err) {
  out->format = qi__formats[format];
  out->format.values = out->values;
  out->format.factors = out->factors;
  if (!out->format.read_tail || !tail) return QI_OK;
  float *param = out->format.param;
  const char *expected = out->format.read_tail(tail, param, out->values, out->factors);
  if (!expected) return QI_OK;
  return qi__fail(err, QI_ERR_FORMAT, "%.96s: parameters of %s are %g, %g, expected %s", name, out->format.info.name,
                  (double)param[0], (double)param[1], expected);
}

// ---- dequantising ----

// Values of an unpacked block: the formula in block.h, each product rounded by itself.
QI__INLINE void qi__block_values(const qi__format *f, const qi__block *b, float *dst) {
  int len = f->info.block_len, group = f->group;
  bool has_min = f->has_min;
  for (int g = 0; g < len / group; g++) {
    float scale = b->d * (float)b->scale[g];
    float offset = has_min ? b->dmin * (float)b->min[g] : 0.0f;
    for (int i = g * group; i < (g + 1) * group; i++) {
      float product = scale * (float)qi__block_code(f, b, i);
      dst[i] = has_min ? product - offset : product;
    }
  }
}

// n weights (whole blocks) to float32; src at any alignment. `f`: bound, if the format has a tail.
QI__FN void qi__dequantize_blocks(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  if (f->dequantize) {
    f->dequantize(f, src, dst, n);
    return;
  }
  qi__block block;
  size_t len = (size_t)f->info.block_len;
  for (size_t i = 0; i + len <= n; i += len, src += f->info.block_bytes) {
    qi__unpack(f, src, &block);
    qi__block_values(f, &block, dst + i);
  }
}

// A whole tensor of n weights by name of the format, which must be one of the table. NaN where its tail is not sound.
QI__FN void qi__dequantize(qi_format format, const void *src, float *dst, size_t n) {
  const qi__format *f = &qi__formats[format];
  qi__bound bound;
  if (f->read_tail) {
    if (qi__format_bind(&bound, format, (const uint8_t *)src + qi__row_bytes(format, n), "", NULL)) {
      for (size_t i = 0; i < n; i++) dst[i] = qi__bits_f32(0x7fc00000u);
      return;
    }
    f = &bound.format;
  }
  qi__dequantize_blocks(f, (const uint8_t *)src, dst, n);
}

// ---- quantising ----

// A whole tensor [n_rows, n_cols] to qi__format_bytes(format, n_rows * n_cols) bytes. The format can be written; see qi_quantize.
QI__FN void qi__quantize(qi_format format, const float *src, uint8_t *dst, size_t n_rows, size_t n_cols, const float *importance) {
  const qi__format *f = &qi__formats[format];
  if (f->quantize_tensor) {
    f->quantize_tensor(src, dst, n_rows, n_cols, importance);
    return;
  }
  size_t row_bytes = qi__row_bytes(format, n_cols);
  for (size_t row = 0; row < n_rows; row++) f->quantize(src + row * n_cols, dst + row * row_bytes, n_cols, importance);
}

#endif // QI__FORMATS_TABLE_H
