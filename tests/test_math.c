// exp, sine, logarithm and powers: against libm in higher precision, at their seams and limits, and SIMD variants bit for bit.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#define LANES 16 // of the widest variant
#define N_RANDOM 10000000

// ---- helpers ----

static uint64_t next_random(uint64_t *state) { // splitmix64
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static double uniform(uint64_t *state, double low, double high) {
  // Volatile keeps the compiler from an fma: test_bits needs the same inputs everywhere.
  volatile double part = (high - low) * ((double)(next_random(state) >> 11) * 0x1p-53);
  return low + part;
}

static uint64_t hash_u64(uint64_t h, uint64_t v) { return (h ^ v) * 0x100000001b3u ^ h >> 29; }

static float infinity_f32(void) { return qi__bits_f32(0x7f800000u); }
static double nan_f64(void) { return qi__bits_f64(0x7ff8000000000000u); }

// Distance of a float from the exact value, in units of the exact value's last place as a float.
static double ulps(float got, long double exact) {
  int e;
  frexpl(exact, &e);
  return (double)(fabsl((long double)got - exact) / ldexpl(1, (e < -125 ? -125 : e) - 24));
}

static float step(float x, int n) { return qi__bits_f32(qi__f32_bits(x) + (uint32_t)n); }

// ---- exp in float32 ----

static void test_exp_accuracy(void **state) {
  (void)state;
  double worst = 0;
  for (uint32_t u = 0x2f000000u; u <= qi__f32_bits(QI__EXP_MAX); u += 211)
    for (uint32_t sign = 0; sign < 2; sign++) {
      float x = qi__bits_f32(u | sign << 31);
      if (x < QI__EXP_MIN) continue;
      double error = ulps(qi__exp_ref(x), exp((double)x));
      if (error > worst) worst = error;
    }
  assert_true(worst < 1.02);
  assert_true(worst > 0.5); // else nothing was measured
}

static void test_exp_special_values(void **state) {
  (void)state;
  float inf = infinity_f32();
  assert_int_equal(qi__f32_bits(qi__exp_ref(0.0f)), 0x3f800000);
  assert_int_equal(qi__f32_bits(qi__exp_ref(-0.0f)), 0x3f800000);
  assert_int_equal(qi__f32_bits(qi__exp_ref(1e-40f)), 0x3f800000);
  assert_int_equal(qi__f32_bits(qi__exp_ref(-inf)), 0);
  assert_int_equal(qi__f32_bits(qi__exp_ref(inf)), 0x7f800000);
  assert_int_equal(qi__f32_bits(qi__exp_ref(3e38f)), 0x7f800000);
  assert_int_equal(qi__f32_bits(qi__exp_ref(-3e38f)), 0);
  for (uint32_t nan = 0x7f800001u; nan < 0x7fffffffu; nan += 0x12345) {
    assert_int_equal(qi__f32_bits(qi__exp_ref(qi__bits_f32(nan))), 0x7fc00000);
    assert_int_equal(qi__f32_bits(qi__exp_ref(qi__bits_f32(nan | 0x80000000u))), 0x7fc00000);
  }
  assert_true(qi__is_finite(qi__exp_ref(QI__EXP_MAX)));
  assert_int_equal(qi__f32_bits(qi__exp_ref(step(QI__EXP_MAX, 1))), 0x7f800000);
  assert_true(exp((double)step(QI__EXP_MAX, 1)) > 0x1.ffffffp+127);
  assert_true(qi__f32_bits(qi__exp_ref(QI__EXP_MIN)) >= 0x00800000u);
  assert_int_equal(qi__f32_bits(qi__exp_ref(step(QI__EXP_MIN, 1))), 0);
  assert_true(exp((double)step(QI__EXP_MIN, 1)) < 0x1p-126);
}

// Around each change of n, the ends, and 0.
static void test_exp_is_monotonic(void **state) {
  (void)state;
  for (int n = -127; n <= 128; n++) {
    float seam = (float)((n + 0.5) * 0.69314718055994531), x = step(seam, -3000);
    bool growing = seam > 0;
    float last = qi__exp_ref(x);
    for (int i = 0; i < 6000; i++) {
      x = step(x, 1);
      float y = qi__exp_ref(x);
      if (growing ? y < last : y > last) fail_msg("e^x turns at %a", (double)x);
      last = y;
    }
  }
  for (uint32_t u = 0x32000000u; u < 0x34000000u; u += 97) {
    assert_true(qi__exp_ref(qi__bits_f32(u)) <= qi__exp_ref(qi__bits_f32(u + 97)));
    assert_true(qi__exp_ref(-qi__bits_f32(u)) >= qi__exp_ref(-qi__bits_f32(u + 97)));
  }
}

// ---- variants of exp ----

// y[i] = e^x[i] for LANES of i.
typedef void (*exp_fn)(const float *x, float *y);

#if defined(QI__X86_64)
static QI__TARGET("avx2,fma") void exp_lanes_avx2(const float *x, float *y) {
  for (int i = 0; i < LANES; i += 8) _mm256_storeu_ps(y + i, qi__exp_avx2(_mm256_loadu_ps(x + i)));
}
static QI__TARGET("avx512f") void exp_lanes_avx512(const float *x, float *y) {
  _mm512_storeu_ps(y, qi__exp_avx512(_mm512_loadu_ps(x)));
}
#elif defined(QI__ARM64)
static void exp_lanes_neon(const float *x, float *y) {
  for (int i = 0; i < LANES; i += 4) vst1q_f32(y + i, qi__exp_neon(vld1q_f32(x + i)));
}
#endif

static void same_lanes(exp_fn variant, const float *x) {
  float y[LANES];
  variant(x, y);
  for (int i = 0; i < LANES; i++)
    if (qi__f32_bits(y[i]) != qi__f32_bits(qi__exp_ref(x[i])))
      fail_msg("e^%a (bits %08x): %a, expected %a", (double)x[i], qi__f32_bits(x[i]), (double)y[i], (double)qi__exp_ref(x[i]));
}

static void same_as_reference(exp_fn variant) {
  float x[LANES];
  uint64_t seed = 1;
  for (uint32_t high = 0; high < 0x200; high++) // every sign and exponent
    for (int round = 0; round < 64; round++) {
      for (int i = 0; i < LANES; i++) {
        uint32_t low = (uint32_t)next_random(&seed) & 0x7fffffu;
        x[i] = qi__bits_f32(high << 23 | (i == 0 ? 0 : i == 1 ? 0x7fffffu : i == 2 ? 1 : low));
      }
      same_lanes(variant, x);
    }
  for (int k = -2000; k < 2000; k += LANES) // ends, and neighbours in different lanes
    for (int end = 0; end < 3; end++) {
      for (int i = 0; i < LANES; i++) x[i] = step(end == 0 ? QI__EXP_MAX : end == 1 ? QI__EXP_MIN : 0x1.8p+0f, k + i);
      same_lanes(variant, x);
    }
  for (int round = 0; round < N_RANDOM; round += LANES) {
    for (int i = 0; i < LANES; i++)
      x[i] = i % 2 ? (float)uniform(&seed, -90, 90) : qi__bits_f32((uint32_t)next_random(&seed));
    same_lanes(variant, x);
  }
}

static void test_exp_variants(void **state) {
  (void)state;
  qi__cpu cpu = qi__cpu_detect();
  int n_variants = 0;
#if defined(QI__X86_64)
  if (cpu.avx2) same_as_reference(exp_lanes_avx2), n_variants++;
  if (cpu.avx512) same_as_reference(exp_lanes_avx512), n_variants++;
#elif defined(QI__ARM64)
  if (cpu.neon) same_as_reference(exp_lanes_neon), n_variants++;
#endif
  (void)cpu;
  (void)same_as_reference;
  if (n_variants) return;
  print_message("no SIMD variant of exp runs on this CPU\n");
  skip();
}

// ---- activation functions ----

static void test_activations(void **state) {
  (void)state;
  uint64_t seed = 2;
  for (int i = 0; i < 300000; i++) {
    float x = (float)(i % 3 == 0 ? uniform(&seed, -90, 90) : i % 3 == 1 ? uniform(&seed, -6, 6) : uniform(&seed, -0.01, 0.01));
    double d = x, silu = d / (1 + exp(-d));
    double u = 0.79788456080286536 * (d + 0.044715 * d * d * d), gelu = d / (1 + exp(-2 * u));
    // Below, the denominator overflows or the result is nearly subnormal.
    if (x > -87) assert_true(ulps(qi__silu_ref(x), silu) < 2.6);
    else assert_true(fabs((double)qi__silu_ref(x)) < 1.6e-36);
    if (-2 * u < 87) {
      // exp turns the rounding of its argument, about two last places, into a relative error.
      double bound = 2.6 + 2.5 * fabs(2 * u) / (1 + exp(2 * u));
      if (!(ulps(qi__gelu_tanh_ref(x), gelu) < bound)) fail_msg("gelu(%a) = %a", d, (double)qi__gelu_tanh_ref(x));
    } else {
      assert_true(fabs((double)qi__gelu_tanh_ref(x)) < 1.6e-36);
    }
    assert_true(qi__relu_squared_ref(x) == (x > 0 ? x * x : 0));
  }
}

static void test_activations_special_values(void **state) {
  (void)state;
  float inf = infinity_f32(), nan = qi__bits_f32(0x7fc00000u);
  float (*const functions[])(float) = {qi__silu_ref, qi__gelu_tanh_ref, qi__relu_squared_ref};
  for (int i = 0; i < 3; i++) {
    assert_true(functions[i](0.0f) == 0);
    assert_true(functions[i](inf) == inf);
    assert_true(qi__is_nan(functions[i](nan)));
    assert_true(functions[i](-3e38f) == 0);
    assert_true(functions[i](3e38f) == (i == 2 ? inf : 3e38f));
  }
  assert_true(qi__relu_squared_ref(-inf) == 0);
}

// ---- sine and cosine ----

static double worst_sincos; // of one test, in ulp

static void check_sincos(double x) {
  float s, c;
  qi__sincos(x, &s, &c);
  // A long double that is only a double is good enough: libm's sine of a double is within 1 ulp of that.
  double a = ulps(s, sinl((long double)x)), b = ulps(c, cosl((long double)x));
  if (a > worst_sincos) worst_sincos = a;
  if (b > worst_sincos) worst_sincos = b;
  if (!(a < 0.6) || !(b < 0.6)) fail_msg("x = %a: sin %a (%f ulp), cos %a (%f ulp)", x, (double)s, a, (double)c, b);
}

static void test_sincos_accuracy(void **state) {
  (void)state;
  uint64_t seed = 3;
  worst_sincos = 0;
  for (int i = 0; i < 200000; i++) {
    check_sincos(uniform(&seed, -1e7, 1e7));
    check_sincos(uniform(&seed, -10, 10));
    check_sincos((double)(int)uniform(&seed, 0, 1 << 20)); // positions with frequency 1
    check_sincos(ldexp(uniform(&seed, -1, 1), (int)(next_random(&seed) % 100) - 80));
  }
  assert_true(worst_sincos > 0.4 && worst_sincos < 0.51);
}

// Neighbours of multiples of pi/4: changes of quadrant, and results near zero.
static void test_sincos_at_seams(void **state) {
  (void)state;
  const double quarter_pi = 0x1.921fb54442d18p-1;
  for (int n = -3000; n <= 3000; n++) {
    int64_t m = n < -2000 ? -12732000 + n : n > 2000 ? 12727000 + n : n; // near -1e7, 1e7 and 0
    double x = (double)m * quarter_pi;
    for (int i = 0; i < 4; i++) x = nextafter(x, -1e9);
    for (int i = 0; i < 8; i++, x = nextafter(x, 1e9))
      if (fabs(x) <= QI__SINCOS_MAX) check_sincos(x);
  }
}

static void test_sincos_special_values(void **state) {
  (void)state;
  const double outside[] = {1.0000001e7, -1.0000001e7, 1e300, -1e300, 1e8, HUGE_VAL, -HUGE_VAL, nan_f64()};
  float s, c;
  for (size_t i = 0; i < QI__COUNT_OF(outside); i++) {
    s = c = 0;
    qi__sincos(outside[i], &s, &c);
    assert_true(qi__is_nan(s) && qi__is_nan(c));
  }
  qi__sincos(0, &s, &c);
  assert_true(s == 0 && c == 1);
  qi__sincos(1e-300, &s, &c);
  assert_true(s == 0 && c == 1);
  qi__sincos(QI__SINCOS_MAX, &s, &c);
  assert_true(!qi__is_nan(s) && !qi__is_nan(c));
  for (double x = 0; x < 100; x += 0.37) { // odd and even
    float s2, c2;
    qi__sincos(x, &s, &c);
    qi__sincos(-x, &s2, &c2);
    assert_true(s == -s2 && c == c2);
  }
}

// ---- exp, ln, pow in float64 ----

static double relative(double got, long double exact) { return (double)fabsl(((long double)got - exact) / exact); }

static void test_exp_f64(void **state) {
  (void)state;
  uint64_t seed = 4;
  for (int i = 0; i < 300000; i++) {
    double x = i % 2 ? uniform(&seed, -708, 709.7) : uniform(&seed, -2, 2);
    if (!(relative(qi__exp(x), expl((long double)x)) < 5e-16)) fail_msg("e^%a", x);
  }
  for (int n = -1020; n <= 1022; n++) { // seams
    double x = (n + 0.5) * 0.69314718055994531;
    for (int i = 0; i < 4; i++, x = nextafter(x, 1e9)) assert_true(relative(qi__exp(x), expl((long double)x)) < 5e-16);
  }
  assert_true(qi__exp(0) == 1 && qi__exp(-0.0) == 1);
  assert_true(qi__exp(709.79) == HUGE_VAL && qi__exp(1e300) == HUGE_VAL && qi__exp(HUGE_VAL) == HUGE_VAL);
  assert_true(qi__exp(709.78) < HUGE_VAL);
  assert_true(qi__exp(-746) == 0 && qi__exp(-1e300) == 0 && qi__exp(-HUGE_VAL) == 0);
  assert_true(fabs(qi__exp(-740) - exp(-740)) <= 0x1p-1074);
  assert_true(qi__exp(nan_f64()) != qi__exp(nan_f64()));
}

static void test_ln(void **state) {
  (void)state;
  uint64_t seed = 5;
  for (int i = 0; i < 300000; i++) {
    double x = i % 3 == 0 ? ldexp(uniform(&seed, 1, 2), (int)(next_random(&seed) % 2090) - 1070)
             : i % 3 == 1 ? uniform(&seed, 0.5, 2) : 1 + ldexp(uniform(&seed, -1, 1), -(int)(next_random(&seed) % 52) - 1);
    if (x == 1) continue;
    if (!(relative(qi__ln(x), logl((long double)x)) < 5e-16)) fail_msg("ln %a", x);
  }
  assert_true(qi__ln(1) == 0);
  assert_true(qi__ln(0) == -HUGE_VAL && qi__ln(-0.0) == -HUGE_VAL && qi__ln(HUGE_VAL) == HUGE_VAL);
  assert_true(qi__ln(-1) != qi__ln(-1) && qi__ln(-HUGE_VAL) != qi__ln(-HUGE_VAL) && qi__ln(nan_f64()) != qi__ln(nan_f64()));
}

static void test_pow(void **state) {
  (void)state;
  const double thetas[] = {10000, 100000, 500000, 1000000, 10000000, 1000000000, 8.5, 1.5};
  for (size_t t = 0; t < QI__COUNT_OF(thetas); t++)
    for (int dim = 16; dim <= 512; dim *= 2)
      for (int i = 0; i < dim / 2; i++) {
        double exponent = -2.0 * i / dim;
        assert_true(relative(qi__pow(thetas[t], exponent), powl((long double)thetas[t], (long double)exponent)) < 1e-14);
      }
  uint64_t seed = 6;
  for (int i = 0; i < 100000; i++) {
    double base = exp(uniform(&seed, -20, 20)), exponent = uniform(&seed, -1.1, 1.1);
    assert_true(relative(qi__pow(base, exponent), powl((long double)base, (long double)exponent)) < 1e-14);
  }
  assert_true(qi__pow(123.4, 0) == 1 && qi__pow(1, 55.5) == 1);
  assert_true(qi__pow(0, 1) != qi__pow(0, 1) && qi__pow(-2, 2) != qi__pow(-2, 2));
  assert_true(qi__pow(10, 400) == HUGE_VAL && qi__pow(10, -400) == 0);
}

// ---- the same bits everywhere ----

// The constants come from one machine; any other compiler or CPU must arrive at them.
static void test_bits(void **state) {
  (void)state;
  uint64_t seed = 7, h[6] = {0};
  for (int i = 0; i < 100000; i++) {
    float x = (float)uniform(&seed, -90, 90), s, c;
    double wide = uniform(&seed, -1e6, 1e6), small = uniform(&seed, -30, 30), positive = uniform(&seed, 1e-9, 1000);
    qi__sincos(wide, &s, &c);
    h[0] = hash_u64(h[0], qi__f32_bits(qi__exp_ref(x)));
    h[1] = hash_u64(h[1], (uint64_t)qi__f32_bits(s) << 32 | qi__f32_bits(c));
    h[2] = hash_u64(h[2], qi__f64_bits(qi__exp(small)));
    h[3] = hash_u64(h[3], qi__f64_bits(qi__ln(positive)));
    h[4] = hash_u64(h[4], qi__f64_bits(qi__pow(positive, small / 30)));
    h[5] = hash_u64(h[5], (uint64_t)qi__f32_bits(qi__silu_ref(x)) << 32 | qi__f32_bits(qi__gelu_tanh_ref(x / 16)));
  }
  const uint64_t expected[6] = {
    0x8c217ff26fed71afu, 0x840c796c4bf5cf12u, 0x8df1a0d67809d1b4u,
    0x693e24840fcb02f4u, 0xee4263a90d9110c8u, 0x58b4e85a359c0d2fu
  };
  for (int i = 0; i < 6; i++)
    if (h[i] != expected[i]) fail_msg("hash %d: 0x%016llxu", i, (unsigned long long)h[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_exp_accuracy),
    cmocka_unit_test(test_exp_special_values),
    cmocka_unit_test(test_exp_is_monotonic),
    cmocka_unit_test(test_exp_variants),
    cmocka_unit_test(test_activations),
    cmocka_unit_test(test_activations_special_values),
    cmocka_unit_test(test_sincos_accuracy),
    cmocka_unit_test(test_sincos_at_seams),
    cmocka_unit_test(test_sincos_special_values),
    cmocka_unit_test(test_exp_f64),
    cmocka_unit_test(test_ln),
    cmocka_unit_test(test_pow),
    cmocka_unit_test(test_bits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
