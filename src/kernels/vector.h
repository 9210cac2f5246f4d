// ==== >>vector : norms, rotary positions, gates ====
#ifndef QI__KERNELS_VECTOR_H
#define QI__KERNELS_VECTOR_H

#include "../base/memory.h"
#include "math.h"

// y[i] = x[i] / sqrt(mean(x^2) + eps) * w[i]      i < n; y may be x
// The sum runs in eight lanes (element j in lane j % 8, one fma each), then qi__sum_lanes. (Zhang and Sennrich 2019)
QI__FN void qi__rms_norm_ref(const float *x, const float *w, float eps, size_t n, float *y) {
  float lane[8] = {0};
  for (size_t i = 0; i < n; i++) lane[i % 8] = fmaf(x[i], x[i], lane[i % 8]);
  float scale = 1.0f / sqrtf(qi__sum_lanes(lane) / (float)n + eps);
  for (size_t i = 0; i < n; i++) {
    float normed = x[i] * scale;
    y[i] = normed * w[i];
  }
}

// y[i] += x[i]
QI__FN void qi__add_ref(const float *x, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] += x[i];
}

// SwiGLU: y[i] = silu(gate[i]) * up[i]; y may be gate or up. (Shazeer 2020)
QI__FN void qi__swiglu_ref(const float *gate, const float *up, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = qi__silu_ref(gate[i]) * up[i];
}

// Rotates n_pairs pairs of one head by the angles of a position: cos_sin holds [n_pairs] of (cos, sin). `neighbours`: pair i is
// (x[2i], x[2i+1]) as in llama; else (x[i], x[i + n_pairs]) as in qwen and phi. Elements beyond 2 * n_pairs stay. (Su et al. 2021)
QI__FN void qi__rope_ref(float *x, const float *cos_sin, size_t n_pairs, bool neighbours) {
  size_t step = neighbours ? 2 : 1, apart = neighbours ? 1 : n_pairs;
  for (size_t i = 0; i < n_pairs; i++) {
    float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = x[step * i], b = x[step * i + apart];
    float as = a * s, bs = b * s;
    x[step * i] = fmaf(a, c, -bs);
    x[step * i + apart] = fmaf(b, c, as);
  }
}

#endif // QI__KERNELS_VECTOR_H
