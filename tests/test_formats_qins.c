// QINS8, QINS8_K, QINS4_K and I2_S: definitions, tails, quantisers against their rivals, files; packed ternary weights of Hugging
// Face.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/gguf_cases.h"
#include "support/run_model.h"

static uint64_t next_random(uint64_t *seed) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 7;
  *seed ^= *seed << 17;
  return *seed;
}

static double uniform(uint64_t *seed) { return (double)(next_random(seed) >> 11) / 9007199254740992.0; }

static double normal(uint64_t *seed) { // sum of twelve
  double sum = -6;
  for (int i = 0; i < 12; i++) sum += uniform(seed);
  return sum;
}

// ---- definitions ----

// |w| = exp(log_min + (255 - c) / 254 * (log_max - log_min)), by libm.
static double qins8_value(int c, double log_min, double log_max) {
  return c ? exp(log_min + (255 - c) / 254.0 * (log_max - log_min)) : 0;
}

// A tensor of 256 QINS8 weights with codes 0..255 and every third negative.
static void make_qins8(uint8_t *bytes, float log_min, float log_max) {
  memset(bytes, 0, 8 * 36 + 32);
  for (int i = 0; i < 256; i++) {
    uint8_t *block = bytes + i / 32 * 36;
    if (i % 3 == 0) block[i % 32 / 8] = (uint8_t)(block[i % 32 / 8] | 1 << i % 8);
    block[4 + i % 32] = (uint8_t)i;
  }
  qi__store_f32(bytes + 8 * 36, log_min);
  qi__store_f32(bytes + 8 * 36 + 4, log_max);
}

static void test_qins8_definition(void **state) {
  (void)state;
  static const float ranges[][2] = {{-9, -1}, {0, 0}, {-3.5f, 4.25f}, {-87, 88}, {-100, -90}, {-700, 2}};
  uint8_t bytes[1 + 8 * 36 + 32];
  float w[256];
  qi_error err;
  assert_int_equal(qi_format_bytes(QI_FORMAT_QINS8, 256), 8 * 36 + 32); // 9 bits a weight, and the tail
  for (size_t r = 0; r < QI__COUNT_OF(ranges); r++) {
    make_qins8(bytes + 1, ranges[r][0], ranges[r][1]); // at an odd address
    assert_int_equal(qi_dequantize(QI_FORMAT_QINS8, bytes + 1, w, 256, &err), QI_OK);
    for (int c = 0; c < 256; c++) {
      double want = qins8_value(c, ranges[r][0], ranges[r][1]) * (c % 3 ? 1 : -1);
      if (!(fabs(w[c] - want) <= 1e-7 * fabs(want) + 1e-45))
        fail_msg("range %zu, code %d: %g, expected %g", r, c, (double)w[c], want);
    }
    assert_true(w[1] == (float)exp((double)ranges[r][1]) || fabs(w[1] / exp((double)ranges[r][1]) - 1) < 1e-7);
  }
  make_qins8(bytes + 1, 88, 88.72284f); // rounds up to above the greatest float32
  assert_int_equal(qi_dequantize(QI_FORMAT_QINS8, bytes + 1, w, 256, &err), QI_OK);
  assert_true(qi__is_finite(w[1]));
}

static void test_tables(void **state) {
  (void)state;
  for (int c = 0; c < 128; c++) assert_int_equal(qi__qins8_sizes[c], (int)floor(255 * (pow(4, c / 127.0) - 1) / 3 + 0.5));
  for (int c = 0; c < 256; c++) { // with the sign in bit 7
    int product = (qi__qins8_k_factors[c / 16] * qi__qins8_k_factors[16 + c % 16] + 0x4000) >> 15;
    assert_int_equal((product - QI__QINS8_K_BASE) >> 4, qi__qins8_sizes[c % 128]);
  }
  static const double m[2] = {1.25, 2.5}, o[2] = {0.125, 0};
  for (int t = 0; t < 2; t++)
    for (int c = 0; c < 16; c++) {
      double a = (c - 7 - o[t]) / 8, size = floor(127 * (pow(1 + m[t], fabs(a)) - 1) / (pow(1 + m[t], (8 - o[t]) / 8) - 1) + 0.5);
      assert_int_equal(qi__qins4_values[t][c], (int)(a < 0 ? -size : size));
    }
}

// Blocks worked out by hand. Scales of groups 0: 5; 3: `third`; 7: 2; 8: 64; 15: 81.
static void make_head(uint8_t *block, unsigned d, int third) {
  block[0] = 5;
  block[2] = (uint8_t)(third << 5); // from bit 21 on
  block[3] = (uint8_t)(third >> 3);
  block[6] = 2 << 1;                // 49
  block[7] = (uint8_t)d;
  block[8] = (uint8_t)(d >> 8);
  block[9] = 64;
  block[15] = 81 << 1;
}

static void test_qins8_k_vector(void **state) {
  (void)state;
  uint8_t block[272] = {0};
  float w[256];
  make_head(block, 0x6400, 127); // d: 1024
  block[16] = 127;
  block[16 + 1] = 128 | 19;
  block[16 + 64 + 2] = 1;         // weight 6
  block[16 + 48] = 128 | 127;
  block[16 + 64 + 48 + 1] = 77;   // weight 53
  block[16 + 50] = 128;
  block[16 + 255] = 1;
  block[16 + 128 + 48 + 12] = 19; // weight 248
  block[16 + 52] = 19;            // weight 112
  block[16 + 8] = 77;             // weight 128
  block[16 + 16] = 77;            // weight 16, of a group of scale 0
  assert_int_equal(qi_dequantize(QI_FORMAT_QINS8_K, block, w, 256, NULL), QI_OK);
  assert_true(w[0] == 5 * 255 && w[1] == 5 * -20 && w[2] == 0 && w[6] == 5);
  assert_true(w[48] == -127 * 255 && w[50] == 0 && w[53] == 127 * qi__qins8_sizes[77]);
  assert_true(w[255] == 81 && w[248] == 81 * 20 && w[112] == 2 * 20 && w[128] == 64 * qi__qins8_sizes[77] && w[16] == 0);
}

static void test_qins4_k_vector(void **state) {
  (void)state;
  static const int8_t first[2] = {-110, -101}, third[2] = {-54, -44}, eighth[2] = {10, 9};
  for (unsigned t = 0; t < 2; t++) {
    uint8_t block[144] = {0};
    float w[256];
    make_head(block, 0x6400 | t << 15, -31 & 127);
    block[16] = 0xf0;       // weights 0 and 4
    block[16 + 64] = 0x0f;  // 8 and 12
    block[16 + 49] = 0x30;  // 49 and 53
    block[16 + 127] = 0x80; // 251 and 255, whose scale is 81 - 128
    assert_int_equal(qi_dequantize(QI_FORMAT_QINS4_K, block, w, 256, NULL), QI_OK);
    assert_true(w[0] == 5 * first[t] && w[4] == 5 * 127 && w[8] == 5 * 127 && w[12] == 5 * first[t] && w[32] == 0);
    assert_true(w[49] == -31 * first[t] && w[53] == -31 * third[t] && w[112] == 2 * first[t] && w[128] == -64 * first[t]);
    assert_true(w[251] == -47 * first[t] && w[255] == -47 * eighth[t]);
  }
}

// The sign of a d that was found goes to the scales: its place is taken.
static void test_qins4_k_pack(void **state) {
  (void)state;
  for (int other = 0; other < 2; other++) {
    qi__fitted f = {.d = 0xe400, .other = other == 1};
    uint8_t block[144];
    float w[256];
    for (int g = 0; g < 16; g++) f.scale[g] = g - 8;
    for (int i = 0; i < 256; i++) f.code[i] = (uint8_t)(i * 7 % 16);
    qi__pack_qins4_k(&f, block);
    assert_int_equal(qi_dequantize(QI_FORMAT_QINS4_K, block, w, 256, NULL), QI_OK);
    for (int i = 0; i < 256; i++) assert_true(w[i] == (float)((8 - i / 16) * qi__qins4_values[other][i * 7 % 16]));
  }
}

static void test_i2_s_vector(void **state) {
  (void)state;
  uint8_t bytes[64 + 32];
  float w[256];
  memset(bytes, 0x55, 64); // zeros
  memset(bytes + 64, 0, 32);
  bytes[0] = 0x86;      // weights 0, 32, 64, 96: 2 0 1 2
  bytes[63] = 0x15;     // 159, 191, 223, 255: 0 1 1 1
  bytes[64 + 2] = 0x20; // 2.5
  bytes[64 + 3] = 0x40;
  assert_int_equal(qi_format_bytes(QI_FORMAT_I2_S, 256), sizeof bytes);
  assert_int_equal(qi_dequantize(QI_FORMAT_I2_S, bytes, w, 256, NULL), QI_OK);
  assert_true(w[0] == 2.5f && w[32] == -2.5f && w[64] == 0 && w[96] == 2.5f && w[159] == -2.5f && w[191] == 0 && w[1] == 0);
}

// ---- tails that are not sound ----

static void test_bad_tails(void **state) {
  (void)state;
  static const float bad[][2] = {{NAN, 0}, {0, NAN}, {-INFINITY, 0}, {0, INFINITY}, {1, 0.5f}, {0, 89}};
  uint8_t bytes[8 * 36 + 32];
  float w[256], x[256] = {0}, y[8];
  for (size_t i = 0; i < QI__COUNT_OF(bad); i++) {
    qi_error err = {QI_OK, ""};
    make_qins8(bytes, bad[i][0], bad[i][1]);
    assert_int_equal(qi_dequantize(QI_FORMAT_QINS8, bytes, w, 256, &err), QI_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "QINS8"));
    qi_matrix m = {QI_FORMAT_QINS8, bytes, 8, 32};
    assert_int_equal(qi_matmul(NULL, QI_PATH_AUTO, &m, x, 1, y, &err), QI_ERR_FORMAT);
  }
  memset(bytes, 0, sizeof bytes);
  for (int i = 0; i < 2; i++) {
    qi_error err = {QI_OK, ""};
    qi__store_f32(bytes + 64, i ? NAN : -INFINITY);
    assert_int_equal(qi_dequantize(QI_FORMAT_I2_S, bytes, w, 256, &err), QI_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "I2_S"));
    qi_matrix m = {QI_FORMAT_I2_S, bytes, 1, 256};
    assert_int_equal(qi_matmul(NULL, QI_PATH_AUTO, &m, x, 1, y, &err), QI_ERR_FORMAT);
  }
}

// ---- quantisers ----

#define N 16384
typedef enum data_kind { GAUSS, LAPLACE, HEAVY, UNEVEN, N_KINDS } data_kind;

// HEAVY: third power of normal numbers, kurtosis 46. UNEVEN: normal, every 16 of another size between 1/8 and 8.
static void make_data(data_kind kind, float *x) {
  uint64_t seed = 88172645463325252u + (uint64_t)kind;
  for (int i = 0; i < N; i++) {
    double v = normal(&seed);
    if (kind == LAPLACE) v = (next_random(&seed) & 1 ? 1 : -1) * -qi__ln(uniform(&seed) + 1e-12);
    if (kind == HEAVY) v = v * v * v;
    if (kind == UNEVEN) v = ldexp(v, (i / 16 * 5) % 7 - 3);
    x[i] = (float)(0.02 * v);
  }
}

// Root of sum w (x - y)^2 / sum w x^2; importance for columns of rows of 1024.
static double error_of(qi_format format, const float *x, const float *importance) {
  static uint8_t bytes[2 * N];
  static float y[N];
  qi_error err = {QI_OK, ""};
  run_expect(qi_quantize(format, x, bytes, N, 1024, importance, &err), QI_OK, &err, "qi_quantize");
  run_expect(qi_dequantize(format, bytes, y, N, &err), QI_OK, &err, "qi_dequantize");
  double e = 0, s = 0;
  for (int i = 0; i < N; i++) {
    double d = (double)x[i] - y[i], w = importance ? importance[i % 1024] : 1;
    e += w * d * d;
    s += w * x[i] * x[i];
  }
  return sqrt(e / s);
}

// At equal size the grouped kinds have the lower error on every kind of data: by so much.
static void test_rivals(void **state) {
  (void)state;
  static const struct {
    qi_format ours, rival;
    double ratio[N_KINDS];
  } pairs[] = {
    {QI_FORMAT_QINS8_K, QI_FORMAT_Q8_0, {0.89, 0.71, 0.52, 0.69}},
    {QI_FORMAT_QINS4_K, QI_FORMAT_Q4_0, {0.82, 0.68, 0.59, 0.72}},
    {QI_FORMAT_QINS4_K, QI_FORMAT_Q4_K, {0.94, 0.85, 0.74, 0.83}},
    {QI_FORMAT_QINS4_K, QI_FORMAT_IQ4_NL, {0.89, 0.82, 0.71, 0.83}},
  };
  static float x[N], w[1024];
  uint64_t seed = 5;
  for (int i = 0; i < 1024; i++) {
    double u = uniform(&seed);
    w[i] = (float)(u * u * u);
  }
  for (int kind = 0; kind < N_KINDS; kind++) {
    make_data((data_kind)kind, x);
    for (size_t p = 0; p < QI__COUNT_OF(pairs); p++)
      for (int weighted = 0; weighted < 2; weighted++) {
        double ours = error_of(pairs[p].ours, x, weighted ? w : NULL), rival = error_of(pairs[p].rival, x, weighted ? w : NULL);
        if (!(ours <= pairs[p].ratio[kind] * rival))
          fail_msg("%s, data %d%s: error %.5f, %s has %.5f", qi_format_get(pairs[p].ours)->name, kind, weighted ? ", weighted" : "",
                   ours, qi_format_get(pairs[p].rival)->name, rival);
      }
    assert_true(error_of(QI_FORMAT_QINS8, x, NULL) < 0.0085);
    assert_true(error_of(QI_FORMAT_QINS8, x, w) < 0.0085);
  }
}

// Blocks of QINS4_K with the second range: of weights that lie evenly none, of heavy tails most.
static void test_qins4_ranges(void **state) {
  (void)state;
  static float x[N];
  static uint8_t bytes[N / 256 * 144];
  for (int heavy = 0; heavy < 2; heavy++) {
    qi_error err = {QI_OK, ""};
    int n = 0;
    make_data(HEAVY, x);
    for (int i = 0; i < N && !heavy; i++) x[i] = (float)(i * 37 % 256) - 127.5f;
    run_expect(qi_quantize(QI_FORMAT_QINS4_K, x, bytes, N, 1024, NULL, &err), QI_OK, &err, "qi_quantize");
    for (int b = 0; b < N / 256; b++) n += bytes[144 * b + 8] >> 7;
    assert_in_range(n, heavy ? N / 256 * 3 / 4 : 0, heavy ? N / 256 : 0);
  }
}

// The range is the best there is, but for what bins and the density inside of steps hide.
static void test_qins8_range(void **state) {
  (void)state;
  static float x[N];
  static uint8_t bytes[2 * N];
  for (int kind = 0; kind < N_KINDS; kind++) {
    make_data((data_kind)kind, x);
    double found = error_of(QI_FORMAT_QINS8, x, NULL), best = 1;
    float max = 0;
    for (int i = 0; i < N; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    for (double range = 1; range < 14; range += 0.25)
      for (double top = 0; top < 0.8; top += 0.2) {
        float values[256];
        float log_max = (float)(log(max) - top);
        qi__qins8_table(log_max - (float)range, log_max, values);
        double e = 0, s = 0;
        for (int i = 0; i < N; i++) {
          double d = fabs(x[i]) - values[qi__qins8_code(values, fabsf(x[i]))];
          e += d * d;
          s += (double)x[i] * x[i];
        }
        best = sqrt(e / s) < best ? sqrt(e / s) : best;
      }
    if (!(found <= 1.02 * best)) fail_msg("data %d: error %.5f, best of all ranges %.5f", kind, found, best);
  }
  // Codes are those of the nearest values, signs included.
  make_data(HEAVY, x);
  qi_quantize(QI_FORMAT_QINS8, x, bytes, N, 1024, NULL, NULL);
  qi__bound bound;
  assert_int_equal(qi__format_bind(&bound, QI_FORMAT_QINS8, bytes + N / 32 * 36, "", NULL), QI_OK);
  for (int i = 0; i < N; i += 7) {
    int nearest = 0, code = bytes[i / 32 * 36 + 4 + i % 32], sign = bytes[i / 32 * 36 + i % 32 / 8] >> i % 8 & 1;
    for (int c = 1; c < 256; c++)
      if (fabsf(bound.values[c] - fabsf(x[i])) < fabsf(bound.values[nearest] - fabsf(x[i]))) nearest = c;
    assert_int_equal(sign, x[i] < 0);
    if (code != nearest) assert_true(fabs(fabs(bound.values[code] - fabs(x[i])) - fabs(bound.values[nearest] - fabs(x[i]))) < 1e-7);
  }
}

// The integers of the codes are within their bound of what the codes stand for, and descend with them.
static void test_qins8_sizes(void **state) {
  (void)state;
  static const float ranges[][2] = {{-9, -2}, {0, 0}, {-0.5f, 0}, {-20, 88.7f}, {-80, -60}, {-3e38f, 5}};
  for (size_t r = 0; r < QI__COUNT_OF(ranges); r++) {
    uint8_t tail[32] = {0};
    qi__bound bound;
    qi__store_f32(tail, ranges[r][0]);
    qi__store_f32(tail + 4, ranges[r][1]);
    assert_int_equal(qi__format_bind(&bound, QI_FORMAT_QINS8, tail, "", NULL), QI_OK);
    double d = qi__qins8_d(&bound.format);
    assert_int_equal(qi__qins8_size(bound.factors, 0), 0);
    assert_int_equal(qi__qins8_size(bound.factors, 1), 32766);
    for (int c = 1; c < 256; c++) {
      int size = qi__qins8_size(bound.factors, c);
      double exact = bound.values[c], rounding = 2e-7 * exact; // of d and the value to float32
      if (!(fabs(d * size - exact) <= 1.5 * d + rounding)) fail_msg("range %zu, code %d: %g for %g", r, c, d * size, exact);
      assert_true(size <= qi__qins8_size(bound.factors, c - 1) || c == 1);
    }
  }
}

// ---- ternary ----

// Random codes 0..2 of [n_rows, n_cols].
static void random_trits(uint8_t *code, size_t n, uint64_t *seed) {
  for (size_t i = 0; i < n; i++) code[i] = (uint8_t)((next_random(seed) >> 33) % 3);
}

static void pack_hf(const uint8_t *code, size_t n_rows, size_t n_cols, uint8_t *packed) {
  memset(packed, 0, n_rows / 4 * n_cols);
  for (size_t r = 0; r < n_rows; r++)
    for (size_t c = 0; c < n_cols; c++) {
      uint8_t *byte = packed + r % (n_rows / 4) * n_cols + c;
      *byte = (uint8_t)(*byte | code[r * n_cols + c] << r / (n_rows / 4) * 2);
    }
}

static void test_hugging_face(void **state) {
  (void)state;
  enum { ROWS = 12, COLS = 512, SIZE = ROWS * COLS };
  static uint8_t code[SIZE], packed[SIZE / 4], i2_s[SIZE / 4 + 32], wrong[SIZE / 4 + 32], written[SIZE / 4 + 32];
  static float w[SIZE];
  uint64_t seed = 77;
  random_trits(code, SIZE, &seed);
  pack_hf(code, ROWS, COLS, packed);
  assert_true(qi__hf_ternary_to_i2_s(packed, ROWS, COLS, 0.7f, i2_s));
  assert_int_equal(qi_dequantize(QI_FORMAT_I2_S, i2_s, w, SIZE, NULL), QI_OK);
  for (int i = 0; i < SIZE; i++) assert_true(w[i] == 0.7f * (float)(code[i] - 1));
  // The quantiser finds the same bytes, and no other scale.
  assert_int_equal(qi_quantize(QI_FORMAT_I2_S, w, written, SIZE, COLS, NULL, NULL), QI_OK);
  assert_memory_equal(written, i2_s, sizeof i2_s);
  assert_false(qi__hf_ternary_to_i2_s(packed, ROWS - 1, COLS, 1, wrong));
  assert_false(qi__hf_ternary_to_i2_s(packed, ROWS, COLS - 128, 1, wrong));
  packed[COLS + 9] |= 3 << 4;
  assert_false(qi__hf_ternary_to_i2_s(packed, ROWS, COLS, 1, wrong));
}

// One ternary matrix in two formats: the same bits on every path that rounds the scale the same way.
static void test_same_as_tq2_0(void **state) {
  (void)state;
  enum { ROWS = 37, COLS = 768, SIZE = ROWS * COLS, MOST = 9 };
  static uint8_t code[SIZE], i2_s[SIZE / 4 + 32], tq2_0[SIZE / 256 * 66], tq1_0[SIZE / 256 * 54];
  static float w[SIZE], x[MOST * COLS], y[3][MOST * ROWS];
  uint64_t seed = 3;
  random_trits(code, SIZE, &seed);
  for (int i = 0; i < SIZE; i++) w[i] = 0.40625f * (float)(code[i] - 1);
  for (int i = 0; i < MOST * COLS; i++) x[i] = (float)normal(&seed);
  assert_int_equal(qi_quantize(QI_FORMAT_I2_S, w, i2_s, SIZE, COLS, NULL, NULL), QI_OK);
  assert_int_equal(qi_quantize(QI_FORMAT_TQ2_0, w, tq2_0, SIZE, COLS, NULL, NULL), QI_OK);
  assert_int_equal(qi_quantize(QI_FORMAT_TQ1_0, w, tq1_0, SIZE, COLS, NULL, NULL), QI_OK);
  qi_matrix m[3] = {{QI_FORMAT_I2_S, i2_s, ROWS, COLS}, {QI_FORMAT_TQ2_0, tq2_0, ROWS, COLS}, {QI_FORMAT_TQ1_0, tq1_0, ROWS, COLS}};
  for (int isa = QI_ISA_AUTO; isa < QI_ISA_COUNT; isa++) {
    qi_pool_desc desc;
    qi_pool *pool = NULL;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = 1;
    desc.isa = (qi_isa)isa;
    if (qi_pool_open(&pool, &desc, NULL) != QI_OK) continue; // of another architecture
    for (int path = QI_PATH_INTEGER; path <= QI_PATH_FLOAT; path++)
      for (size_t n = 1; n <= MOST; n += 4) {
        for (int f = 0; f < 3; f++) assert_int_equal(qi_matmul(pool, (qi_path)path, &m[f], x, n, y[f], NULL), QI_OK);
        assert_memory_equal(y[0], y[1], n * ROWS * sizeof(float));
        assert_memory_equal(y[0], y[2], n * ROWS * sizeof(float));
      }
    qi_pool_close(pool);
  }
}

// ---- products ----

// Integer products of the grouped kinds are the sums of what the blocks hold, on every instruction set the same bits.
static void test_products(void **state) {
  (void)state;
  enum { ROWS = 35, COLS = 512, SIZE = ROWS * COLS, MOST = 6 };
  static const qi_format formats[] = {QI_FORMAT_I2_S, QI_FORMAT_QINS8, QI_FORMAT_QINS8_K, QI_FORMAT_QINS4_K};
  static uint8_t bytes[2 * SIZE];
  static float w[SIZE], x[MOST * COLS], want[MOST * ROWS], got[MOST * ROWS];
  uint64_t seed = 9;
  for (int i = 0; i < SIZE; i++) w[i] = (float)(0.03 * normal(&seed));
  for (int i = 0; i < MOST * COLS; i++) x[i] = (float)normal(&seed);
  for (size_t f = 0; f < QI__COUNT_OF(formats); f++) {
    qi_pool_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = 1;
    assert_int_equal(qi_quantize(formats[f], w, bytes, SIZE, COLS, NULL, NULL), QI_OK);
    qi_matrix m = {formats[f], bytes, ROWS, COLS};
    for (int isa = QI_ISA_SCALAR; isa < QI_ISA_COUNT; isa++) {
      qi_pool *pool = NULL;
      desc.isa = (qi_isa)isa;
      if (qi_pool_open(&pool, &desc, NULL) != QI_OK) continue;
      for (size_t n = 1; n <= MOST; n += MOST - 1) { // ends with all rows
        float *y = isa == QI_ISA_SCALAR ? want : got;
        assert_int_equal(qi_matmul(pool, QI_PATH_INTEGER, &m, x, n, y, NULL), QI_OK);
        if (isa == QI_ISA_SCALAR) assert_int_equal(qi_matmul(pool, QI_PATH_FLOAT, &m, x, n, got, NULL), QI_OK);
        for (size_t i = 0; i < n * ROWS; i++) {
          double gap = fabs((double)want[i] - (double)got[i]);
          if (isa == QI_ISA_SCALAR ? gap > 0.03 : gap != 0)
            fail_msg("%s, isa %d, %zu rows: y[%zu] is %g, expected %g", qi_format_get(formats[f])->name, isa, n, i, (double)got[i],
                     (double)want[i]);
        }
      }
      qi_pool_close(pool);
    }
  }
}

// ---- files ----

// A model in each format opens and gives the logits of the float64 reference; opened from a copy, the same bits.
static void test_models(void **state) {
  (void)state;
  static const qi_format formats[] = {QI_FORMAT_I2_S, QI_FORMAT_QINS8, QI_FORMAT_QINS8_K, QI_FORMAT_QINS4_K};
  static const qi_token tokens[] = {1, 17, 99, 4, 23};
  enum { COUNT = 5 };
  for (size_t f = 0; f < QI__COUNT_OF(formats); f++) {
    rm_desc d = rm_llama_256(formats[f]);
    run_model r = run_build(&d);
    qi_tensor t;
    assert_int_equal(qi_tensor_find(r.m, "blk.0.ffn_up.weight", &t, NULL), QI_OK);
    assert_int_equal(t.format, formats[f]);
    assert_int_equal(t.n_bytes, qi_format_bytes(formats[f], (size_t)(t.shape[0] * t.shape[1])));
    r64_model reference;
    if (!r64_open(&reference, r.m)) fail_msg("%s", reference.error);
    double *want = (double *)malloc(COUNT * (size_t)reference.n_vocab * sizeof *want);
    r64_options options;
    memset(&options, 0, sizeof options);
    options.n_ctx = 16;
    r64_forward(&reference, &options, tokens, COUNT, want);
    qi_session_desc sd = run_session_desc(16, QI_PATH_FLOAT);
    qi_session *s = run_session(r.m, &sd);
    qi_decode_token batch[COUNT];
    memset(batch, 0, sizeof batch);
    for (int i = 0; i < COUNT; i++) {
      batch[i].token = tokens[i];
      batch[i].want_logits = true;
    }
    qi_error err = {QI_OK, ""};
    RUN_OK(qi_decode(s, batch, COUNT, &err), err);
    for (int i = 0; i < COUNT; i++)
      for (size_t v = 0; v < (size_t)reference.n_vocab; v++) {
        double got = qi_logits(s, i)[v], expected = want[(size_t)i * (size_t)reference.n_vocab + v];
        if (!(fabs(got - expected) < 2e-4 * (1 + fabs(expected))))
          fail_msg("%s: logit %zu of token %d is %g, expected %g", qi_format_get(formats[f])->name, v, i, got, expected);
      }
    qi_session_close(s);
    free(want);
    r64_close(&reference);
    run_free(&r);
  }
}

// A model whose tail is broken is refused, with the tensor's name.
static void test_models_bad_tail(void **state) {
  (void)state;
  static const qi_format formats[] = {QI_FORMAT_I2_S, QI_FORMAT_QINS8};
  for (size_t f = 0; f < QI__COUNT_OF(formats); f++) {
    rm_desc d = rm_llama_256(formats[f]);
    run_model r = run_build(&d);
    qi_tensor t;
    assert_int_equal(qi_tensor_find(r.m, "blk.1.attn_k.weight", &t, NULL), QI_OK);
    uint8_t *tail = r.file + ((const uint8_t *)t.data - r.file) + t.n_bytes - 32;
    qi_model_close(r.m);
    qi__store_f32(tail, NAN);
    qi_model_desc md;
    memset(&md, 0, sizeof md);
    md.data = r.file;
    md.data_size = r.size;
    qi_error err = {QI_OK, ""};
    assert_int_equal(qi_model_open(&r.m, &md, &err), QI_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "blk.1.attn_k.weight"));
    assert_null(r.m);
    free(r.file);
  }
}

// Number 36 is I2_S (a quarter byte a weight and 32 bytes) in bitnet.cpp and IQ4_NL_4_4 (18 bytes for 32 weights) in old ggml.
static void test_id_36(void **state) {
  (void)state;
  static const struct {
    const char *arch;
    uint32_t alignment;
    uint64_t cols, rows;
    size_t bytes;
    bool followed, ours;
  } cases[] = {
    {"llama", 32, 512, 3, 384 + 32, true, true},
    {"llama", 32, 512, 3, 384 + 32, false, true},
    {"llama", 32, 512, 3, 864, true, false},
    {"llama", 32, 512, 3, 864, false, false},
    {"bitnet-b1.58", 32, 512, 3, 864, true, false},
    {"llama", 32, 512, 3, 384, true, false},     // no tail
    {"llama", 32, 512, 3, 384, false, false},
    {"llama", 32, 640, 2, 320 + 32, true, false}, // rows of two and a half blocks
    {"llama", 1024, 512, 3, 384 + 32, true, false}, // room for either
    {"bitnet-25", 1024, 512, 3, 384 + 32, true, true},
    {"llama", 1024, 512, 12, 1536 + 32, true, true},
  };
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    gw_file w;
    gc_open o;
    gw_begin(&w, 3);
    if (cases[i].alignment != 32) gw_align(&w, cases[i].alignment);
    gw_kv_str(&w, "general.architecture", cases[i].arch);
    gw_tensor(&w, "x", 36, 2, (uint64_t[]){cases[i].cols, cases[i].rows}, NULL, cases[i].bytes);
    if (cases[i].followed) gw_tensor(&w, "y", 0, 1, (uint64_t[]){1}, NULL, 4);
    gc_open_file(&o, &w, SOURCE_MEMORY);
    gw_free(&w);
    if (o.result != QI_OK || (o.g.tensors[0].format == QI_FORMAT_I2_S) != cases[i].ours)
      fail_msg("case %zu: result %d, format %d", i, o.result, (int)o.g.tensors[0].format);
    assert_int_equal(o.g.tensors[0].n_bytes, cases[i].ours ? cases[i].bytes : 0);
    gc_close(&o);
  }
}

// Files that end inside of rows or tail.
static void test_truncated(void **state) {
  (void)state;
  static const qi_format formats[] = {QI_FORMAT_QINS8, QI_FORMAT_QINS8_K, QI_FORMAT_QINS4_K};
  for (size_t f = 0; f < QI__COUNT_OF(formats); f++)
    for (size_t missing = 1; missing < 100; missing += 33) {
      gw_file w;
      gc_open o;
      gw_begin(&w, 3);
      size_t bytes = qi_format_bytes(formats[f], 512);
      gw_tensor(&w, "x", (uint32_t)qi_format_get(formats[f])->gguf_id, 2, (uint64_t[]){256, 2}, NULL, bytes - missing);
      gc_open_file(&o, &w, SOURCE_MEMORY);
      gw_free(&w);
      assert_int_equal(o.result, missing < 32 && bytes % 32 >= missing ? o.result : QI_ERR_FORMAT);
      gc_close(&o);
    }
}

// Ids of layouts that are not there any more.
static void test_gone(void **state) {
  (void)state;
  for (uint32_t id = 0x51490002; id <= 0x51490005; id++) {
    gw_file w;
    gc_open o;
    gw_begin(&w, 3);
    gw_tensor(&w, "x", id, 2, (uint64_t[]){256, 2}, NULL, 2 * 272);
    gc_open_file(&o, &w, SOURCE_MEMORY);
    gw_free(&w);
    assert_int_equal(o.result, QI_OK);
    assert_int_equal(o.g.tensors[0].format, QI_FORMAT_NONE);
    gc_close(&o);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_qins8_definition), cmocka_unit_test(test_tables),      cmocka_unit_test(test_qins8_k_vector),
    cmocka_unit_test(test_qins4_k_vector),   cmocka_unit_test(test_i2_s_vector), cmocka_unit_test(test_bad_tails),
    cmocka_unit_test(test_rivals),           cmocka_unit_test(test_qins8_range), cmocka_unit_test(test_hugging_face),
    cmocka_unit_test(test_same_as_tq2_0),    cmocka_unit_test(test_products),    cmocka_unit_test(test_models),
    cmocka_unit_test(test_models_bad_tail),  cmocka_unit_test(test_id_36),       cmocka_unit_test(test_truncated),
    cmocka_unit_test(test_gone),             cmocka_unit_test(test_qins4_ranges), cmocka_unit_test(test_qins4_k_pack),
    cmocka_unit_test(test_qins8_sizes),
  };
  return cmocka_run_group_tests_name("qins", tests, NULL, NULL);
}
