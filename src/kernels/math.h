// ==== >>math : exp, sine, logarithm with the same bits on every CPU ====
#ifndef QI__KERNELS_MATH_H
#define QI__KERNELS_MATH_H

#include "../base/cpu.h"
#include "../base/real.h"

#if defined(QI__X86_64)
#include <immintrin.h>
#elif defined(QI__ARM64)
#include <arm_neon.h>
#endif

// libm may differ in the last bit from one system to the next, so what reaches logits is computed here. Only operations that
// IEEE 754 rounds in one way are used: + - * / and, where written, fma. Rounding is to nearest; double is evaluated as double
// (on 32-bit x86 that takes -msse2 -mfpmath=sse). No unary minus on variables: under a host's -ffast-math clang gives that operator
// alone fast semantics whatever the pragmas around the implementation say.

// ---- exp in float32 ----

// e^x = 2^n e^r with n = round(x / ln 2), r = x - n ln 2 in two parts (the first step is exact), and
//
//   e^r ~ 1 + r + c2 r^2 + ... + c6 r^6      |r| <= ln 2 / 2, relative error 3.2e-9 (minimax, coefficients refitted as they round)
//
// Adding 1.5 * 2^23 rounds to an integer and leaves n in the low bits of the float, from where it is added to the exponent.
#define QI__EXP_MAX 0x1.62e42ep+6f  // 88.72283: above it e^x exceeds FLT_MAX
#define QI__EXP_MIN -0x1.5d589ep+6f // -87.33654: below it e^x would be subnormal
#define QI__EXP_LOG2E 0x1.715476p+0f
#define QI__EXP_ROUND 0x1.8p+23f
#define QI__EXP_MINUS_LN2_HIGH -0x1.62e43p-1f
#define QI__EXP_MINUS_LN2_LOW 0x1.05c61p-29f
#define QI__EXP_C6 0x1.6a4b38p-10f
#define QI__EXP_C5 0x1.12398ep-7f
#define QI__EXP_C4 0x1.5558b2p-5f
#define QI__EXP_C3 0x1.555492p-3f
#define QI__EXP_C2 0x1.fffffcp-2f
#define QI__INF_BITS 0x7f800000u
#define QI__NAN_BITS 0x7fc00000u

// e^x within 1.02 ulp (over all x), non-decreasing. Infinity above QI__EXP_MAX; 0 below QI__EXP_MIN, so never subnormal; 1 for 0;
// NaN for NaN, always the same one.
QI__FN float qi__exp_ref(float x) {
  if (qi__is_nan(x)) return qi__bits_f32(QI__NAN_BITS);
  if (x > QI__EXP_MAX) return qi__bits_f32(QI__INF_BITS);
  if (x < QI__EXP_MIN) return 0;
  float t = fmaf(x, QI__EXP_LOG2E, QI__EXP_ROUND);
  float n = t - QI__EXP_ROUND;
  float r = fmaf(n, QI__EXP_MINUS_LN2_HIGH, x);
  r = fmaf(n, QI__EXP_MINUS_LN2_LOW, r);
  float p = fmaf(QI__EXP_C6, r, QI__EXP_C5);
  p = fmaf(p, r, QI__EXP_C4);
  p = fmaf(p, r, QI__EXP_C3);
  p = fmaf(p, r, QI__EXP_C2);
  float square = r * r;
  p = 1.0f + fmaf(p, square, r); // two more steps of Horner's scheme are closer (0.9 ulp) but not monotonic
  return qi__bits_f32(qi__f32_bits(p) + (qi__f32_bits(t) << 23));
}

// The variants compute every lane to the end and replace what was out of range.

#if defined(QI__X86_64)
QI__INLINE QI__TARGET("avx2,fma") __m256 qi__exp_avx2(__m256 x) {
  const __m256 round = _mm256_set1_ps(QI__EXP_ROUND);
  __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(QI__EXP_LOG2E), round);
  __m256 n = _mm256_sub_ps(t, round);
  __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(QI__EXP_MINUS_LN2_HIGH), x);
  r = _mm256_fmadd_ps(n, _mm256_set1_ps(QI__EXP_MINUS_LN2_LOW), r);
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(QI__EXP_C6), r, _mm256_set1_ps(QI__EXP_C5));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QI__EXP_C4));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QI__EXP_C3));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QI__EXP_C2));
  p = _mm256_add_ps(_mm256_set1_ps(1.0f), _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r));
  __m256 y = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
  __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(QI__EXP_MAX), _CMP_GT_OQ);
  __m256 below = _mm256_cmp_ps(x, _mm256_set1_ps(QI__EXP_MIN), _CMP_LT_OQ);
  y = _mm256_blendv_ps(y, _mm256_castsi256_ps(_mm256_set1_epi32((int)QI__INF_BITS)), above);
  y = _mm256_blendv_ps(y, _mm256_castsi256_ps(_mm256_set1_epi32((int)QI__NAN_BITS)), _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_andnot_ps(below, y);
}

QI__INLINE QI__TARGET("avx512f") __m512 qi__exp_avx512(__m512 x) {
  const __m512 round = _mm512_set1_ps(QI__EXP_ROUND);
  __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(QI__EXP_LOG2E), round);
  __m512 n = _mm512_sub_ps(t, round);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(QI__EXP_MINUS_LN2_HIGH), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(QI__EXP_MINUS_LN2_LOW), r);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(QI__EXP_C6), r, _mm512_set1_ps(QI__EXP_C5));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QI__EXP_C4));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QI__EXP_C3));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QI__EXP_C2));
  p = _mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r));
  __m512i y = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23));
  __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(QI__EXP_MAX), _CMP_GT_OQ);
  __mmask16 not_below = _mm512_cmp_ps_mask(x, _mm512_set1_ps(QI__EXP_MIN), _CMP_NLT_UQ);
  y = _mm512_mask_mov_epi32(y, above, _mm512_set1_epi32((int)QI__INF_BITS));
  y = _mm512_mask_mov_epi32(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32((int)QI__NAN_BITS));
  return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(not_below, y));
}
#endif

#if defined(QI__ARM64)
QI__INLINE float32x4_t qi__exp_neon(float32x4_t x) {
  const float32x4_t round = vdupq_n_f32(QI__EXP_ROUND);
  float32x4_t t = vfmaq_f32(round, x, vdupq_n_f32(QI__EXP_LOG2E));
  float32x4_t n = vsubq_f32(t, round);
  float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(QI__EXP_MINUS_LN2_HIGH));
  r = vfmaq_f32(r, n, vdupq_n_f32(QI__EXP_MINUS_LN2_LOW));
  float32x4_t p = vfmaq_f32(vdupq_n_f32(QI__EXP_C5), vdupq_n_f32(QI__EXP_C6), r);
  p = vfmaq_f32(vdupq_n_f32(QI__EXP_C4), p, r);
  p = vfmaq_f32(vdupq_n_f32(QI__EXP_C3), p, r);
  p = vfmaq_f32(vdupq_n_f32(QI__EXP_C2), p, r);
  p = vaddq_f32(vdupq_n_f32(1.0f), vfmaq_f32(r, p, vmulq_f32(r, r)));
  uint32x4_t y = vaddq_u32(vreinterpretq_u32_f32(p), vshlq_n_u32(vreinterpretq_u32_f32(t), 23));
  y = vbslq_u32(vcgtq_f32(x, vdupq_n_f32(QI__EXP_MAX)), vdupq_n_u32(QI__INF_BITS), y);
  y = vbslq_u32(vceqq_f32(x, x), y, vdupq_n_u32(QI__NAN_BITS));
  return vreinterpretq_f32_u32(vbicq_u32(y, vcltq_f32(x, vdupq_n_f32(QI__EXP_MIN))));
}
#endif

// ---- activation functions ----

// x / (1 + e^-x), also called swish. -0 where e^-x overflows; NaN for minus infinity.
QI__FN float qi__silu_ref(float x) { return x / (1.0f + qi__exp_ref(0.0f - x)); }

// GELU by its tanh approximation, x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016); since
// (1 + tanh(u)) / 2 = 1 / (1 + e^-2u) it needs no tanh. NaN for minus infinity.
QI__FN float qi__gelu_tanh_ref(float x) {
  const float linear = 1.5957691216f, cubic = 0.0713548163f; // 2 sqrt(2 / pi) times 1 and 0.044715
  float square = x * x;
  float slope = fmaf(cubic, square, linear);
  return x / (1.0f + qi__exp_ref(0.0f - x * slope));
}

// max(x, 0)^2; NaN for NaN.
QI__FN float qi__relu_squared_ref(float x) { return x < 0 ? 0 : x * x; }

// ---- float64: angles ----

#define QI__SINCOS_MAX 1e7

// Sine and cosine of x radians, |x| <= 1e7: the exact value rounded to float32 but for a relative error of 1e-9 before rounding (so
// within 0.51 ulp). Beyond, and for NaN: both NaN.
// x = n pi/2 + r (Cody and Waite 1980): the first two parts of pi/2 have 30 bits, so their products with n < 2^23 are exact.
QI__FN void qi__sincos(double x, float *s, float *c) {
  if (!(x >= -QI__SINCOS_MAX && x <= QI__SINCOS_MAX)) {
    *s = *c = qi__bits_f32(QI__NAN_BITS);
    return;
  }
  int64_t quarter = qi__nearest(x * 0x1.45f306dc9c883p-1); // 2 / pi
  double n = (double)quarter;
  double r = ((x - n * 0x1.921fb54p+0) - n * 0x1.10b46118p-30) - n * 0x1.313198a2e037p-61;
  double z = r * r;
  double sine = qi__inverse_factorial[15], cosine = qi__inverse_factorial[16];
  for (int k = 13; k > 0; k -= 2) sine = qi__inverse_factorial[k] - z * sine;
  for (int k = 14; k >= 0; k -= 2) cosine = qi__inverse_factorial[k] - z * cosine;
  sine *= r;
  bool swap = quarter & 1;
  *s = (float)((swap ? cosine : sine) * (quarter & 2 ? -1.0 : 1.0));
  *c = (float)((swap ? sine : cosine) * ((quarter + 1) & 2 ? -1.0 : 1.0));
}

#endif // QI__KERNELS_MATH_H
