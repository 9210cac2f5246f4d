// ==== >>kernels : which variant of each kernel runs ====
#ifndef QI__KERNELS_TABLE_H
#define QI__KERNELS_TABLE_H

#include "../base/cpu.h"
#include "attention.h"
#include "dot_f32.h"
#include "dot_q8.h"

// One pointer a kernel family; contracts stand at the reference of each.
typedef struct qi__kernels {
  void (*quantize_q8)(const float *x, const qi__q8 *out, size_t row);
  qi__dot_f32_fn dot_f32;
  qi__dot_q8_fn dot_q8[QI_FORMAT_COUNT]; // NULL for float formats
  void (*dequantize[QI_FORMAT_COUNT])(const qi__format *f, const uint8_t *src, float *dst, size_t n);
  void (*rms_norm)(const float *x, const float *w, float eps, size_t n, float *y);
  void (*add)(const float *x, size_t n, float *y);
  void (*swiglu)(const float *gate, const float *up, size_t n, float *y);
  void (*rope)(float *x, const float *cos_sin, size_t n_pairs, bool neighbours);
  void (*attention_scores)(const float *q, const qi__kv_run *run, size_t dim, float scale, float *score);
  float (*attention_exp)(float *score, size_t n, float max);
  void (*attention_values)(const float *weight, const qi__kv_run *run, size_t dim, float *out);
  void (*attention_join)(qi__softmax_state *all, float *values, float max, float sum, const float *piece, size_t dim);
} qi__kernels;

QI__FN void qi__kernels_init_ref(qi__kernels *k) {
  memset(k, 0, sizeof *k);
  k->quantize_q8 = qi__quantize_q8_ref;
  k->dot_f32 = qi__dot_f32_ref;
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (qi__formats[f].unpack) k->dot_q8[f] = qi__dot_q8_ref;
    k->dequantize[f] = qi__dequantize_blocks;
  }
  k->rms_norm = qi__rms_norm_ref;
  k->add = qi__add_ref;
  k->swiglu = qi__swiglu_ref;
  k->rope = qi__rope_ref;
  k->attention_scores = qi__attention_scores_ref;
  k->attention_exp = qi__attention_exp_ref;
  k->attention_values = qi__attention_values_ref;
  k->attention_join = qi__attention_join_ref;
}

// References first; then each variant that `cpu` allows replaces what it improves.
QI__FN void qi__kernels_init(qi__kernels *k, const qi__cpu *cpu) {
  qi__kernels_init_ref(k);
#if defined(QI__X86_64)
  if (cpu->avx2) k->dot_f32 = qi__dot_f32_avx2;
#else
  (void)cpu;
#endif
}

#endif // QI__KERNELS_TABLE_H
