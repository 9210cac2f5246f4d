// ==== >>spectrum : how large the weights of a tensor are ====
#ifndef QI__FORMATS_SPECTRUM_H
#define QI__FORMATS_SPECTRUM_H

#include "block.h"

// Formats with one scale or range for a whole tensor choose it by sums over all weights of a size |x|. Bins follow each other from
// the greatest size down, 32 to a power of two, over 20 powers of two; the last takes all that is smaller.
#define QI__SPECTRUM_BINS 640

typedef struct qi__spectrum {
  float max, min;   // greatest size, and least above zero; 0 when all weights are zero
  // Sums over the bins before: of importance, importance * |x|, importance * x^2.
  double w[QI__SPECTRUM_BINS + 1], wx[QI__SPECTRUM_BINS + 1], wxx[QI__SPECTRUM_BINS + 1];
} qi__spectrum;

// Importance as the sums take it: nothing that is not finite, never quite zero. `greatest`: of all columns; 0 = none matters.
QI__INLINE float qi__spectrum_weight(const float *importance, size_t column, float greatest) {
  if (!(greatest > 0.0f)) return 1.0f;
  float w = qi__is_finite(importance[column]) ? importance[column] / greatest : 0.0f;
  return w > 1e-7f ? w : 1e-7f;
}

QI__FN float qi__spectrum_greatest(const float *importance, size_t n_cols) {
  float greatest = 0.0f;
  for (size_t i = 0; importance && i < n_cols; i++)
    if (qi__is_finite(importance[i]) && importance[i] > greatest) greatest = importance[i];
  return greatest;
}

// src: [n_rows, n_cols], finite; importance: NULL or [n_cols].
QI__FN void qi__spectrum_take(qi__spectrum *s, const float *src, size_t n_rows, size_t n_cols, const float *importance) {
  memset(s, 0, sizeof *s);
  float greatest = qi__spectrum_greatest(importance, n_cols);
  for (size_t i = 0; i < n_rows * n_cols; i++) {
    float a = fabsf(src[i]);
    if (a > s->max) s->max = a;
    if (a > 0.0f && (a < s->min || s->min == 0.0f)) s->min = a;
  }
  uint32_t top = qi__f32_bits(s->max) >> 18; // exponent and five bits
  for (size_t i = 0; i < n_rows * n_cols; i++) {
    float a = fabsf(src[i]), w = qi__spectrum_weight(importance, i % n_cols, greatest);
    uint32_t below = top - (qi__f32_bits(a) >> 18);
    size_t bin = below < QI__SPECTRUM_BINS ? below : QI__SPECTRUM_BINS - 1;
    s->w[bin + 1] += w;
    s->wx[bin + 1] += (double)w * a;
    s->wxx[bin + 1] += (double)w * a * a;
  }
  for (int k = 0; k < QI__SPECTRUM_BINS; k++) {
    s->w[k + 1] += s->w[k];
    s->wx[k + 1] += s->wx[k];
    s->wxx[k + 1] += s->wxx[k];
  }
}

// Upper end of bin k; 0 where there are no such sizes.
QI__INLINE float qi__spectrum_size(const qi__spectrum *s, int k) {
  uint32_t top = qi__f32_bits(s->max) >> 18;
  if (!k) return s->max;
  return (uint32_t)k <= top ? qi__bits_f32((top - (uint32_t)k + 1) << 18) : 0.0f;
}

#endif // QI__FORMATS_SPECTRUM_H
