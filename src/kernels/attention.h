// ==== >>attention : one query group over a run of keys ====
#ifndef QI__KERNELS_ATTENTION_H
#define QI__KERNELS_ATTENTION_H

#include "../formats/half.h"
#include "vector.h"

// Keys are taken in pieces of this many positions, cut at multiples of it, whatever the chunk or the batch: each piece gives a
// maximum, a sum and a weighted value, and pieces are joined in ascending order. So bits depend on positions alone, and long contexts
// can be split over threads piece by piece.
#define QI__ATTENTION_PIECE 256

// Keys and values of one head of one sequence at consecutive positions, in float32 or float16.
typedef struct qi__kv_run {
  const void *k; // [n, head_dim_k]
  const void *v; // [n, head_dim_v]
  size_t n;
  bool half;
} qi__kv_run;

// One query head against a piece: running maximum, sum of exponentials, values weighted by them (not yet divided).
typedef struct qi__softmax_state {
  float max, sum;
} qi__softmax_state;

// score[j] = scale * dot(q, k[j]) with the lanes of qi__dot_f32_ref.
QI__FN void qi__attention_scores_ref(const float *q, const qi__kv_run *run, size_t dim, float scale, float *score) {
  for (size_t j = 0; j < run->n; j++) {
    float lane[8] = {0};
    for (size_t i = 0; i < dim; i++) {
      float k = run->half ? qi__f16_to_f32(((const uint16_t *)run->k)[j * dim + i]) : ((const float *)run->k)[j * dim + i];
      lane[i % 8] = fmaf(q[i], k, lane[i % 8]);
    }
    score[j] = qi__sum_lanes(lane) * scale;
  }
}

// score[j] = exp(score[j] - max); returns their sum, in lanes of j % 8.
QI__FN float qi__attention_exp_ref(float *score, size_t n, float max) {
  float lane[8] = {0};
  for (size_t j = 0; j < n; j++) {
    score[j] = qi__exp_ref(score[j] - max);
    lane[j % 8] += score[j];
  }
  return qi__sum_lanes(lane);
}

// out[i] = sum_j weight[j] * v[j, i], j ascending, one fma each.
QI__FN void qi__attention_values_ref(const float *weight, const qi__kv_run *run, size_t dim, float *out) {
  for (size_t i = 0; i < dim; i++) out[i] = 0;
  for (size_t j = 0; j < run->n; j++)
    for (size_t i = 0; i < dim; i++) {
      float v = run->half ? qi__f16_to_f32(((const uint16_t *)run->v)[j * dim + i]) : ((const float *)run->v)[j * dim + i];
      out[i] = fmaf(weight[j], v, out[i]);
    }
}

// Joins a piece (max, sum, values [dim]) to what came before.
QI__FN void qi__attention_join_ref(qi__softmax_state *all, float *values, float max, float sum, const float *piece, size_t dim) {
  float joint = max > all->max ? max : all->max;
  float keep = qi__exp_ref(all->max - joint), add = qi__exp_ref(max - joint);
  float kept = all->sum * keep;
  all->sum = fmaf(sum, add, kept);
  all->max = joint;
  for (size_t i = 0; i < dim; i++) {
    float old = values[i] * keep;
    values[i] = fmaf(piece[i], add, old);
  }
}

#endif // QI__KERNELS_ATTENTION_H
