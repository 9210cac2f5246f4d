// ==== >>kernels : which variant of each kernel runs ====
#ifndef QI__KERNELS_TABLE_H
#define QI__KERNELS_TABLE_H

#include "../base/cpu.h"
#include "attention_q8.h"
#include "bf16.h"
#include "bf16_neon.h"
#include "dequant.h"
#include "dot_f32.h"
#include "dot_q8.h"
#include "dot_qins_neon.h"
#include "dot_qins_x86.h"
#include "dot_ternary.h"
#include "dot_ternary_neon.h"
#include "dot_ternary_x86.h"
#include "panel_amx.h"
#include "panel_f32.h"
#include "panel_float.h"
#include "panel_q8_neon.h"
#include "panel_q8_x86.h"

// One pointer a kernel family; contracts stand at the reference of each.
typedef struct qi__kernels {
  void (*quantize_q8)(const float *x, const qi__q8 *out, size_t row);
  qi__dot_float_fn dot_float[QI_FORMAT_BF16 + 1]; // by format of the weights: F32, F16, BF16
  qi__dot_q8_fn dot_q8[QI_FORMAT_COUNT]; // NULL for float formats
  void (*dequantize[QI_FORMAT_COUNT])(const qi__format *f, const uint8_t *src, float *dst, size_t n);
  void (*rms_norm)(const float *x, const float *w, float eps, size_t n, float *y);
  void (*take)(const qi__results *r);
  void (*swiglu)(const float *gate, const float *up, size_t n, float *y);
  void (*relu2)(const float *gate, const float *up, size_t n, float *y);
  void (*rope)(float *x, const float *cos_sin, size_t n_pairs, bool neighbours);
  void (*round_bf16)(const float *x, size_t n, float *y);
  void (*to_f16)(const float *x, size_t n, uint16_t *y);
  void (*f32_panel)(const qi__f32_panel *p);
  void (*float_panel)(const qi__float_panel *p); // NULL: rows are taken as a whole
  void (*attention_scores)(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score);
  void (*attention_softmax)(float *score, size_t n_q, size_t begin, size_t end, size_t n, float *max, float *sum);
  void (*attention_values)(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end, size_t dim,
                           float *out);
  void (*attention_scores_q8)(const qi__kv_queries *q, size_t first, size_t n_q, const qi__kv_codes *k, float *score);
  void (*attention_weights)(const float *weight, size_t n_q, const float *scale, size_t n, int16_t *out, float *unit);
  void (*attention_values_q8)(const int16_t *weight, size_t n_q, const qi__kv_codes *v, int32_t *sum);
  void (*attention_scale)(const int32_t *sum, const float *unit, size_t n_q, size_t n, size_t dim, float *out);
  void (*fp8_floats)(const uint8_t *src, size_t n, float *dst);
  void (*kv_unpack_q4)(const uint8_t *src, size_t n_bytes, size_t step, int8_t *dst);
  void (*kv_key_floats)(const qi__kv_layout *l, const int8_t *codes, const uint16_t *scale, size_t n, float *k);
  void (*kv_value_floats)(const qi__kv_layout *l, const int8_t *codes, const uint16_t *scale, size_t n, float *v);
  void (*attention_join)(const float *max, const float *sum, size_t n, const qi__softmax_state *all);
  void (*attention_blend)(const float *piece, const float *keep, const float *add, size_t n, size_t dim, float *values);
  void (*attention_panel)(const void *b, size_t b_step, size_t n, size_t n_lanes, qi_kv_type type, bool finite,
                          uint16_t *panel); // NULL: prompts have no attention on a matrix unit
  bool matrix_unit;      // bf16 runs on one
  qi__fetch fetch;       // of weights, for a few rows of activations
  qi__bf16_kernels bf16; // all NULL where there are no such instructions
  qi__stored_q8_kernels stored_q8;
} qi__kernels;

QI__FN void qi__kernels_init_ref(qi__kernels *k) {
  memset(k, 0, sizeof *k);
  k->quantize_q8 = qi__quantize_q8_ref;
  k->dot_float[QI_FORMAT_F32] = qi__dot_f32_ref;
  k->dot_float[QI_FORMAT_F16] = qi__dot_f16_ref;
  k->dot_float[QI_FORMAT_BF16] = qi__dot_bf16_ref;
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (qi__formats[f].unpack) k->dot_q8[f] = qi__formats[f].ternary ? qi__dot_ternary_ref : qi__dot_q8_ref;
    k->dequantize[f] = qi__dequantize_blocks;
  }
  k->rms_norm = qi__rms_norm_ref;
  k->take = qi__take_ref;
  k->swiglu = qi__swiglu_ref;
  k->relu2 = qi__relu2_ref;
  k->rope = qi__rope_ref;
  k->round_bf16 = qi__round_bf16_ref;
  k->to_f16 = qi__to_f16_ref;
  k->f32_panel = qi__f32_panel_ref;
  k->attention_scores = qi__attention_scores_ref;
  k->attention_softmax = qi__attention_softmax_ref;
  k->attention_values = qi__attention_values_ref;
  k->attention_join = qi__attention_join_ref;
  k->attention_blend = qi__attention_blend_ref;
  k->attention_scores_q8 = qi__attention_scores_q8_ref;
  k->attention_weights = qi__attention_weights_ref;
  k->attention_values_q8 = qi__attention_values_q8_ref;
  k->attention_scale = qi__attention_scale_ref;
  k->fp8_floats = qi__fp8_floats_ref;
  k->kv_unpack_q4 = qi__kv_unpack_q4_ref;
  k->kv_key_floats = qi__kv_key_floats_ref;
  k->kv_value_floats = qi__kv_value_floats_ref;
}

#if defined(QI__X86_64)
QI__FN void qi__kernels_set_dot_q8(qi__kernels *k, qi__dot_q8_fn dot, qi__dot_q8_fn dot_ternary) {
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (qi__formats[f].ternary) k->dot_q8[f] = dot_ternary;
    else if (qi__dot_q8_x86_has((qi_format)f)) k->dot_q8[f] = dot;
  }
}

QI__FN void qi__kernels_init_avx2(qi__kernels *k) {
  k->quantize_q8 = qi__quantize_q8_avx2;
  qi__kernels_set_dot_q8(k, qi__dot_q8_avx2, qi__dot_ternary_avx2);
  k->dot_q8[QI_FORMAT_QINS8] = qi__dot_qins8_avx2;
  k->dot_q8[QI_FORMAT_QINS8_K] = qi__dot_qins8_k_avx2;
  k->stored_q8 = qi__stored_q8_avx2;
  k->dot_float[QI_FORMAT_F32] = qi__dot_f32_avx2;
  k->dot_float[QI_FORMAT_F16] = qi__dot_f16_avx2;
  k->dot_float[QI_FORMAT_BF16] = qi__dot_bf16_avx2;
  k->rms_norm = qi__rms_norm_avx2;
  k->take = qi__take_avx2;
  k->swiglu = qi__swiglu_avx2;
  k->relu2 = qi__relu2_avx2;
  k->rope = qi__rope_avx2;
  k->round_bf16 = qi__round_bf16_avx2;
  k->to_f16 = qi__to_f16_avx2;
  k->f32_panel = qi__f32_panel_avx2;
  k->attention_scores = qi__attention_scores_avx2;
  k->attention_softmax = qi__attention_softmax_avx2;
  k->attention_values = qi__attention_values_avx2;
  k->attention_join = qi__attention_join_avx2;
  k->attention_blend = qi__attention_blend_avx2;
  k->attention_scores_q8 = qi__attention_scores_q8_avx2;
  k->attention_weights = qi__attention_weights_avx2;
  k->attention_values_q8 = qi__attention_values_q8_avx2;
  k->attention_scale = qi__attention_scale_avx2;
  k->fp8_floats = qi__fp8_floats_avx2;
  k->kv_unpack_q4 = qi__kv_unpack_q4_avx2;
  for (int f = QI_FORMAT_F32; f < QI_FORMAT_COUNT; f++) k->dequantize[f] = qi__dequantize_avx2;
  k->dequantize[QI_FORMAT_F32] = qi__dequantize_f32_x86;
  k->dequantize[QI_FORMAT_F16] = qi__dequantize_f16_avx2;
  k->dequantize[QI_FORMAT_BF16] = qi__dequantize_bf16_avx2;
}

QI__FN void qi__kernels_init_avx512(qi__kernels *k) {
  qi__kernels_set_dot_q8(k, qi__dot_q8_avx512, qi__dot_ternary_avx512);
  k->dot_q8[QI_FORMAT_QINS8] = qi__dot_qins8_avx512;
  k->dot_q8[QI_FORMAT_QINS8_K] = qi__dot_qins8_k_avx512;
  k->stored_q8 = qi__stored_q8_avx512;
  k->dot_float[QI_FORMAT_F32] = qi__dot_f32_avx512;
  k->dot_float[QI_FORMAT_F16] = qi__dot_f16_avx512;
  k->dot_float[QI_FORMAT_BF16] = qi__dot_bf16_avx512;
  k->f32_panel = qi__f32_panel_avx512;
  k->float_panel = qi__float_panel_avx512;
  k->swiglu = qi__swiglu_avx512;
  k->attention_scores = qi__attention_scores_avx512;
  k->attention_softmax = qi__attention_softmax_avx512;
  k->attention_values = qi__attention_values_avx512;
  k->attention_scores_q8 = qi__attention_scores_q8_avx512;
  k->attention_weights = qi__attention_weights_avx512;
  k->attention_values_q8 = qi__attention_values_q8_avx512;
  k->kv_key_floats = qi__kv_key_floats_avx512;
  k->kv_value_floats = qi__kv_value_floats_avx512;
}

#if defined(QI__HAS_AMX)
QI__FN void qi__kernels_init_amx(qi__kernels *k) {
  k->bf16 = qi__bf16_amx;
  k->matrix_unit = true;
  k->stored_q8 = qi__stored_q8_amx;
  for (int f = 1; f < QI_FORMAT_COUNT; f++)
    if (qi__formats[f].ternary) k->dot_q8[f] = qi__dot_ternary_amx;
    else if (k->dot_q8[f] == qi__dot_q8_avx512) k->dot_q8[f] = qi__dot_q8_amx;
}
#endif
#elif defined(QI__ARM64)
QI__FN void qi__kernels_set_dot_q8(qi__kernels *k, qi__dot_q8_fn dot, qi__dot_q8_fn dot_ternary) {
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (qi__formats[f].ternary) k->dot_q8[f] = dot_ternary;
    else if (qi__formats[f].unpack && !qi__formats[f].wide) k->dot_q8[f] = dot;
  }
}

QI__FN void qi__kernels_init_neon(qi__kernels *k) {
  k->quantize_q8 = qi__quantize_q8_neon;
  qi__kernels_set_dot_q8(k, qi__dot_q8_neon, qi__dot_ternary_neon);
  k->dot_q8[QI_FORMAT_QINS8] = qi__dot_qins8_neon;
  k->dot_q8[QI_FORMAT_QINS8_K] = qi__dot_qins8_k_neon;
  k->dot_float[QI_FORMAT_F32] = qi__dot_f32_neon;
  k->dot_float[QI_FORMAT_F16] = qi__dot_f16_neon;
  k->dot_float[QI_FORMAT_BF16] = qi__dot_bf16_neon;
  k->rms_norm = qi__rms_norm_neon;
  k->take = qi__take_neon;
  k->swiglu = qi__swiglu_neon;
  k->relu2 = qi__relu2_neon;
  k->rope = qi__rope_neon;
  k->round_bf16 = qi__round_bf16_neon;
  k->to_f16 = qi__to_f16_neon;
  k->f32_panel = qi__f32_panel_neon;
  k->attention_scores = qi__attention_scores_neon;
  k->attention_softmax = qi__attention_softmax_neon;
  k->attention_values = qi__attention_values_neon;
  k->attention_join = qi__attention_join_neon;
  k->attention_blend = qi__attention_blend_neon;
  k->attention_scores_q8 = qi__attention_scores_q8_neon;
  k->attention_weights = qi__attention_weights_neon;
  k->attention_values_q8 = qi__attention_values_q8_neon;
  k->attention_scale = qi__attention_scale_neon;
  k->fp8_floats = qi__fp8_floats_neon;
  k->kv_unpack_q4 = qi__kv_unpack_q4_neon;
  for (int f = QI_FORMAT_F32; f < QI_FORMAT_COUNT; f++)
    if (qi__dequantize_neon_has((qi_format)f)) k->dequantize[f] = qi__dequantize_neon;
  k->dequantize[QI_FORMAT_F32] = qi__dequantize_f32_neon;
  k->dequantize[QI_FORMAT_F16] = qi__dequantize_f16_neon;
  k->dequantize[QI_FORMAT_BF16] = qi__dequantize_bf16_neon;
}
#endif

#if defined(QI__KERNELS_ELSEWHERE)
// Tests: compiling the kernels takes longer than all else, so one object has them for many programs (tests/support/kernels.c).
void qi__kernels_elsewhere(qi__kernels *k, const qi__cpu *cpu);
QI__FN void qi__kernels_init(qi__kernels *k, const qi__cpu *cpu) { qi__kernels_elsewhere(k, cpu); }
#else
// References first; then each variant that `cpu` allows replaces what it improves.
QI__FN void qi__kernels_init(qi__kernels *k, const qi__cpu *cpu) {
  qi__kernels_init_ref(k);
  k->fetch = cpu->intel ? QI__FETCH_PAGES : QI__FETCH_LINES;
#if defined(QI__X86_64)
  if (cpu->avx2) qi__kernels_init_avx2(k);
#if defined(QI__HAS_AVX_VNNI)
  if (cpu->avx_vnni) {
    qi__kernels_set_dot_q8(k, qi__dot_q8_avx_vnni, qi__dot_ternary_avx_vnni);
    k->dot_q8[QI_FORMAT_QINS8_K] = qi__dot_qins8_k_avx_vnni;
    k->attention_scores_q8 = qi__attention_scores_q8_avx_vnni;
    k->attention_values_q8 = qi__attention_values_q8_avx_vnni;
  }
#endif
  if (cpu->avx512) qi__kernels_init_avx512(k);
  if (cpu->avx512_vbmi) {
    k->dot_q8[QI_FORMAT_QINS8] = qi__dot_qins8_vbmi;
    k->dot_q8[QI_FORMAT_QINS8_K] = qi__dot_qins8_k_vbmi;
    k->dot_q8[QI_FORMAT_QINS4_K] = qi__dot_qins4_k_vbmi;
  }
#if defined(QI__HAS_AVX512_BF16)
  if (cpu->avx512_bf16) k->bf16 = qi__bf16_avx512;
  if (cpu->avx512_bf16) k->attention_panel = qi__attention_panel_avx512;
#endif
#if defined(QI__HAS_AMX)
  if (cpu->amx) qi__kernels_init_amx(k);
#endif
#elif defined(QI__ARM64)
  if (cpu->neon) qi__kernels_init_neon(k);
  if (cpu->dotprod) {
    qi__kernels_set_dot_q8(k, qi__dot_q8_dotprod, qi__dot_ternary_dotprod);
    k->dot_q8[QI_FORMAT_QINS8_K] = qi__dot_qins8_k_dotprod;
    k->attention_scores_q8 = qi__attention_scores_q8_dotprod;
  }
#if defined(QI__HAS_I8MM)
  if (cpu->i8mm) qi__kernels_set_dot_q8(k, qi__dot_q8_i8mm, qi__dot_ternary_i8mm);
#endif
#if defined(QI__HAS_NEON_BF16)
  if (cpu->i8mm) k->bf16 = qi__bf16_neon;
#endif
#else
  (void)cpu;
#endif
}
#endif // QI__KERNELS_ELSEWHERE

#endif // QI__KERNELS_TABLE_H
