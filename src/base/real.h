// ==== >>real : exponential and logarithm in float64 with the same bits on every CPU ====
#ifndef QI__REAL_H
#define QI__REAL_H

#include "config.h"

// For tables, angles, frequencies and other numbers of which there are few: short series, no tables, no fma. Only + - * /, which
// IEEE 754 rounds in one way; libm may differ in the last bit from one system to the next.

static const double qi__inverse_factorial[17] = {
  1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800,
  1.0 / 479001600, 1.0 / 6227020800, 1.0 / 87178291200, 1.0 / 1307674368000, 1.0 / 20922789888000
};

#define QI__LN2_HIGH 0x1.62e42fefa2p-1          // 40 bits: times an integer of 13 bits is exact
#define QI__LN2_LOW 0x1.9ef35793c7673p-41
#define QI__INF64_BITS 0x7ff0000000000000u
#define QI__NAN64_BITS 0x7ff8000000000000u
#define QI__SIGN64_BIT 0x8000000000000000u

QI__INLINE double qi__bits_f64(uint64_t u) {
  double d;
  memcpy(&d, &u, 8);
  return d;
}
QI__INLINE uint64_t qi__f64_bits(double d) {
  uint64_t u;
  memcpy(&u, &d, 8);
  return u;
}

// Nearest integer of |v| < 2^51. Near halves either neighbour would do where this is used.
QI__INLINE int64_t qi__nearest(double v) { return (int64_t)(v + (v < 0 ? -0.5 : 0.5)); }

// 2^e, e in -1022..1023.
QI__INLINE double qi__power_of_two(int e) { return qi__bits_f64((uint64_t)(e + 1023) << 52); }

// e^x, relative error below 5e-16; gradual underflow, infinity on overflow.
QI__FN double qi__exp(double x) {
  if (x > 710) return qi__bits_f64(QI__INF64_BITS);
  if (x < -746) return 0;
  if (!(x <= 710)) return qi__bits_f64(QI__NAN64_BITS);
  int n = (int)qi__nearest(x * 0x1.71547652b82fep+0);
  double r = (x - n * QI__LN2_HIGH) - n * QI__LN2_LOW;
  double p = qi__inverse_factorial[13];
  for (int k = 12; k >= 0; k--) p = p * r + qi__inverse_factorial[k];
  return p * qi__power_of_two(n / 2) * qi__power_of_two(n - n / 2);
}

// Natural logarithm, relative error below 5e-16; minus infinity for 0, NaN below.
// x = 2^e m with m in sqrt(1/2)..sqrt(2):  ln m = 2 atanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...),  s = (m - 1) / (m + 1)
QI__FN double qi__ln(double x) {
  if (!(x > 0)) return qi__bits_f64(x == 0 ? QI__SIGN64_BIT | QI__INF64_BITS : QI__NAN64_BITS);
  int e = 0;
  if (x < 0x1p-1022) {
    x *= 0x1p54;
    e = -54;
  }
  uint64_t bits = qi__f64_bits(x);
  if (bits >> 52 == 0x7ff) return x;
  e += (int)(bits >> 52) - 1023;
  double m = qi__bits_f64((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
  if (m > 0x1.6a09e667f3bcdp+0) {
    m *= 0.5;
    e++;
  }
  double s = (m - 1) / (m + 1), z = s * s, series = 1.0 / 23;
  for (int k = 21; k > 0; k -= 2) series = series * z + 1.0 / k;
  return e * QI__LN2_HIGH + (2 * s * series + e * QI__LN2_LOW);
}

// base^exponent for base > 0, relative error below 1e-14 while the result lies in 1e-10..1e10 (it grows with the size of
// exponent * ln(base)). Exactly 1 for exponent 0 and for base 1. NaN for other bases.
QI__FN double qi__pow(double base, double exponent) {
  return base > 0 ? qi__exp(exponent * qi__ln(base)) : qi__bits_f64(QI__NAN64_BITS);
}

#endif // QI__REAL_H
