// What training computes with: matrix products, norms, rotary positions, attention, SwiGLU, BitNet's rounding; each forward and
// backward. Row-major; `n` counts rows (tokens). Gradients of inputs are written or added as said, those of weights always added.
#ifndef TRAIN_MATH_H
#define TRAIN_MATH_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// double in tests, where gradients are compared with differences.
#ifdef TRAIN_DOUBLE
typedef double real;
#else
typedef float real;
#endif

#if defined(HAVE_OPENBLAS) && !defined(TRAIN_DOUBLE)
#define TRAIN_BLAS
#include <cblas.h>
#endif

#ifdef __GNUC__
#define TRAIN_FN static __attribute__((unused))
#else
#define TRAIN_FN static
#endif

// ---- matrix products ----

// c[m, n] = a[m, k] b[k, n] + beta c. `ta`: a is stored [k, m]; `tb`: b is stored [n, k]. lda, ldb, ldc: from row to row as stored.
TRAIN_FN void train_gemm(bool ta, bool tb, size_t m, size_t n, size_t k, const real *a, size_t lda, const real *b, size_t ldb,
                         real beta, real *c, size_t ldc) {
#ifdef TRAIN_BLAS
  cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1, a, (int)lda,
              b, (int)ldb, beta, c, (int)ldc);
#else
  for (size_t i = 0; i < m; i++) {
    real *row = c + i * ldc;
    for (size_t j = 0; j < n; j++) row[j] = beta == 0 ? 0 : beta * row[j];
    for (size_t p = 0; p < k; p++) {
      real x = ta ? a[p * lda + i] : a[i * lda + p];
      if (tb)
        for (size_t j = 0; j < n; j++) row[j] += x * b[j * ldb + p];
      else
        for (size_t j = 0; j < n; j++) row[j] += x * b[p * ldb + j];
    }
  }
#endif
}

// y[n, n_out] = x[n, n_in] w^T      w: [n_out, n_in]
TRAIN_FN void train_linear(const real *x, const real *w, size_t n, size_t n_in, size_t n_out, real *y) {
  train_gemm(false, true, n, n_out, n_in, x, n_in, w, n_in, 0, y, n_out);
}
// dx = dy w + beta dx, dw += dy^T x
TRAIN_FN void train_linear_back(const real *x, const real *w, const real *dy, size_t n, size_t n_in, size_t n_out, real beta,
                                real *dx, real *dw) {
  train_gemm(false, false, n, n_in, n_out, dy, n_out, w, n_in, beta, dx, n_in);
  train_gemm(true, false, n_out, n_in, n, dy, n_out, x, n_in, 1, dw, n_in);
}

// ---- exp, as loops that compilers vectorise ----

TRAIN_FN real train_exp(real x) {
#ifdef TRAIN_DOUBLE
  return exp(x);
#else
  // 2^n * 2^f with f in -1/2..1/2; the sum with 1.5 * 2^23 rounds, and leaves n in the low bits. Relative error about 2e-7.
  x = x < -87 ? -87 : x > 88 ? 88 : x;
  float t = x * 1.44269504f + 12582912.0f, f = x * 1.44269504f - (t - 12582912.0f);
  float p = 1.5403530e-4f;
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1;
  uint32_t bits, n;
  memcpy(&n, &t, 4);
  memcpy(&bits, &p, 4);
  bits += n << 23;
  memcpy(&p, &bits, 4);
  return p;
#endif
}

TRAIN_FN real train_sqrt(real x) {
#ifdef TRAIN_DOUBLE
  return sqrt(x);
#else
  return sqrtf(x);
#endif
}

// Sums in eight lanes, which compilers may keep in vectors.
TRAIN_FN real train_dot(const real *a, const real *b, size_t n) {
  real lane[8] = {0}, sum = 0;
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (size_t k = 0; k < 8; k++) lane[k] += a[i + k] * b[i + k];
  for (; i < n; i++) sum += a[i] * b[i];
  for (size_t k = 0; k < 8; k++) sum += lane[k];
  return sum;
}

// ---- RMS norm ----

// y = x * scale * w, scale = 1 / sqrt(mean(x^2) + eps), which is kept for the way back.
TRAIN_FN void train_norm(const real *x, const real *w, size_t n, size_t width, real eps, real *y, real *scale) {
  for (size_t i = 0; i < n; i++) {
    const real *row = x + i * width;
    real s = 1 / (real)sqrt((double)(train_dot(row, row, width) / (real)width + eps));
    for (size_t k = 0; k < width; k++) y[i * width + k] = row[k] * s * w[k];
    scale[i] = s;
  }
}
// dx = beta dx + scale (w dy) - x scale^3 / width sum(x w dy); dx may be dy when beta is 0. dw += sum dy x scale
TRAIN_FN void train_norm_back(const real *x, const real *w, const real *scale, const real *dy, size_t n, size_t width, real beta,
                              real *dx, real *dw) {
  for (size_t i = 0; i < n; i++) {
    const real *row = x + i * width, *d = dy + i * width;
    real s = scale[i], lane[8] = {0}, sum = 0;
    size_t k = 0;
    for (; k + 8 <= width; k += 8)
      for (size_t j = 0; j < 8; j++) lane[j] += row[k + j] * w[k + j] * d[k + j];
    for (; k < width; k++) sum += row[k] * w[k] * d[k];
    for (size_t j = 0; j < 8; j++) sum += lane[j];
    sum *= s * s * s / (real)width;
    real *out = dx + i * width;
    for (k = 0; k < width; k++) {
      real dk = d[k];
      dw[k] += dk * row[k] * s;
      out[k] = (beta == 0 ? 0 : beta * out[k]) + s * w[k] * dk - row[k] * sum;
    }
  }
}

// ---- rotary positions ----

// Turns the pairs of each head; pairs are neighbours, or halves of the head. direction -1: back. cos_sin: [n_ctx, head_dim / 2, 2].
TRAIN_FN void train_rope(real *x, const real *cos_sin, size_t n, size_t n_ctx, size_t n_heads, size_t head_dim, bool neighbours,
                         real direction) {
  for (size_t i = 0; i < n; i++)
    for (size_t h = 0; h < n_heads; h++) {
      real *head = x + (i * n_heads + h) * head_dim;
      const real *turn = cos_sin + i % n_ctx * head_dim;
      for (size_t p = 0; p < head_dim / 2; p++) {
        size_t first = neighbours ? 2 * p : p, second = neighbours ? 2 * p + 1 : p + head_dim / 2;
        real c = turn[2 * p], s = turn[2 * p + 1] * direction, a = head[first], b = head[second];
        head[first] = a * c - b * s;
        head[second] = a * s + b * c;
      }
    }
}

// ---- attention ----

enum { TRAIN_BLOCK = 64 }; // queries at a time: what is above the diagonal is mostly not computed

// Sizes of a call: sequences of n_ctx tokens; rows of q are [n_heads, head_dim], those of k and v [n_kv_heads, head_dim].
typedef struct train_attention {
  size_t n_seqs, n_ctx, n_heads, n_kv_heads, head_dim;
} train_attention;

// p[row, 0..n_keys-1] = softmax of scores * scale up to the diagonal, 0 behind it.
TRAIN_FN void train_softmax_rows(real *p, size_t ld, size_t first, size_t n_rows, size_t n_keys, real scale) {
  for (size_t r = 0; r < n_rows; r++) {
    real *row = p + r * ld, most = row[0], sum = 0, lane[8] = {0};
    size_t n = first + r + 1, k = 0;
    for (size_t j = 1; j < n; j++) most = row[j] > most ? row[j] : most;
    for (size_t j = 0; j < n; j++) row[j] = train_exp((row[j] - most) * scale);
    for (; k + 8 <= n; k += 8)
      for (size_t j = 0; j < 8; j++) lane[j] += row[k + j];
    for (; k < n; k++) sum += row[k];
    for (size_t j = 0; j < 8; j++) sum += lane[j];
    for (size_t j = 0; j < n; j++) row[j] /= sum;
    for (size_t j = n; j < n_keys; j++) row[j] = 0;
  }
}

// out: like q. p: [n_seqs, n_heads, n_ctx, n_ctx], kept for the way back (beyond each block's keys it is not written).
TRAIN_FN void train_attend(const train_attention *a, const real *q, const real *k, const real *v, real *p, real *out) {
  size_t d = a->head_dim, ldq = a->n_heads * d, ldk = a->n_kv_heads * d, t = a->n_ctx;
  for (size_t s = 0; s < a->n_seqs; s++)
    for (size_t h = 0; h < a->n_heads; h++) {
      size_t kv = h / (a->n_heads / a->n_kv_heads);
      const real *qh = q + s * t * ldq + h * d, *kh = k + s * t * ldk + kv * d, *vh = v + s * t * ldk + kv * d;
      real *ph = p + (s * a->n_heads + h) * t * t, *oh = out + s * t * ldq + h * d;
      for (size_t r = 0; r < t; r += TRAIN_BLOCK) {
        size_t n = t - r < TRAIN_BLOCK ? t - r : TRAIN_BLOCK, keys = r + n;
        train_gemm(false, true, n, keys, d, qh + r * ldq, ldq, kh, ldk, 0, ph + r * t, t);
        train_softmax_rows(ph + r * t, t, r, n, keys, (real)(1 / sqrt((double)d)));
        train_gemm(false, false, n, d, keys, ph + r * t, t, vh, ldk, 0, oh + r * ldq, ldq);
      }
    }
}

// dq, dk, dv are written. scratch: [TRAIN_BLOCK, n_ctx]
TRAIN_FN void train_attend_back(const train_attention *a, const real *q, const real *k, const real *v, const real *p,
                                const real *dout, real *dq, real *dk, real *dv, real *scratch) {
  size_t d = a->head_dim, ldq = a->n_heads * d, ldk = a->n_kv_heads * d, t = a->n_ctx;
  real scale = (real)(1 / sqrt((double)d));
  memset(dk, 0, a->n_seqs * t * ldk * sizeof *dk);
  memset(dv, 0, a->n_seqs * t * ldk * sizeof *dv);
  for (size_t s = 0; s < a->n_seqs; s++)
    for (size_t h = 0; h < a->n_heads; h++) {
      size_t kv = h / (a->n_heads / a->n_kv_heads), at = s * t * ldq + h * d, at_kv = s * t * ldk + kv * d;
      const real *ph = p + (s * a->n_heads + h) * t * t;
      for (size_t r = 0; r < t; r += TRAIN_BLOCK) {
        size_t n = t - r < TRAIN_BLOCK ? t - r : TRAIN_BLOCK, keys = r + n;
        const real *dob = dout + at + r * ldq, *pb = ph + r * t;
        train_gemm(true, false, keys, d, n, pb, t, dob, ldq, 1, dv + at_kv, ldk);
        train_gemm(false, true, n, keys, d, dob, ldq, v + at_kv, ldk, 0, scratch, keys);
        for (size_t i = 0; i < n; i++) { // through the softmax: ds = p (dp - sum(p dp))
          real *ds = scratch + i * keys, sum = train_dot(ds, pb + i * t, keys);
          for (size_t j = 0; j < keys; j++) ds[j] = pb[i * t + j] * (ds[j] - sum) * scale;
        }
        train_gemm(false, false, n, d, keys, scratch, keys, k + at_kv, ldk, 0, dq + at + r * ldq, ldq);
        train_gemm(true, false, keys, d, n, scratch, keys, q + at + r * ldq, ldq, 1, dk + at_kv, ldk);
      }
    }
}

// ---- SwiGLU ----

// h = gate sigmoid(gate) up
TRAIN_FN void train_swiglu(const real *gate, const real *up, size_t n, real *h) {
  for (size_t i = 0; i < n; i++) h[i] = gate[i] / (1 + train_exp(-gate[i])) * up[i];
}
// dh becomes the gradient of the gate; up's is written.
TRAIN_FN void train_swiglu_back(const real *gate, const real *up, size_t n, real *dh, real *dup) {
  for (size_t i = 0; i < n; i++) {
    real s = 1 / (1 + train_exp(-gate[i])), g = gate[i], d = dh[i];
    dup[i] = d * g * s;
    dh[i] = d * up[i] * s * (1 + g * (1 - s));
  }
}

// ---- BitNet b1.58 (Ma et al. 2024) ----

// Weights to -1, 0 and 1 times their mean size, which is rounded to float16's 11 bits so that TQ2_0 holds exactly this.
TRAIN_FN void train_ternary(const real *w, size_t n, real *out) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += fabs((double)w[i]);
  int exponent;
  double part = frexp(sum / (double)n + 1e-9, &exponent);
  real scale = (real)ldexp(nearbyint(part * 2048) / 2048, exponent), inverse = 1 / scale;
  for (size_t i = 0; i < n; i++) {
    real x = w[i] * inverse;
    out[i] = x > (real)0.5 ? scale : x < (real)-0.5 ? -scale : 0;
  }
}

// Rows to int8 by their greatest value, and back, in place. The gradient goes straight through.
TRAIN_FN void train_round_rows(real *x, size_t n, size_t width) {
  for (size_t i = 0; i < n; i++) {
    real *row = x + i * width, most = 0;
    for (size_t k = 0; k < width; k++) {
      real size = row[k] < 0 ? -row[k] : row[k];
      most = size > most ? size : most;
    }
    if (most == 0) continue;
    real scale = most / 127, inverse = 127 / most;
    for (size_t k = 0; k < width; k++) { // nearest, as int: |x| <= 127
      real v = row[k] * inverse;
      row[k] = (real)(int)(v < 0 ? v - (real)0.5 : v + (real)0.5) * scale;
    }
  }
}

#endif // TRAIN_MATH_H
