// Weight formats: 16-bit floats, the table, unpacking of every format but the IQ grids (test_formats_iq.c), and the quantisers.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// ---- 16-bit floats ----

static bool same_bits(float a, float b) { return memcmp(&a, &b, 4) == 0; }

// The value by its definition; exact in double.
static double half_value(unsigned h) {
  int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
  double v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
  return h & 0x8000 ? -v : v;
}

static void test_half_to_float(void **state) {
  (void)state;
  for (unsigned h = 0; h < 0x10000; h++) {
    float f = qi__f16_to_f32((uint16_t)h);
    if ((h & 0x7c00) != 0x7c00) {
      assert_true(same_bits(f, (float)half_value(h)));
      assert_int_equal(qi__f32_to_f16(f), h);
    } else if (h & 0x3ff) {
      assert_true(qi__is_nan(f));
      assert_int_equal(qi__f32_to_f16(f), h | 0x200); // quiet, otherwise the same
    } else {
      assert_int_equal(qi__f32_bits(f), h & 0x8000 ? 0xff800000u : 0x7f800000u);
      assert_int_equal(qi__f32_to_f16(f), h);
    }
  }
}

// Between each pair of neighbours: the middle goes to the even one, a float beside the middle to the nearer one.
static void test_half_rounding(void **state) {
  (void)state;
  for (unsigned h = 0; h < 0x7c00; h++) {
    double next = h == 0x7bff ? 65536.0 : half_value(h + 1);
    float middle = (float)((half_value(h) + next) / 2);
    uint32_t bits = qi__f32_bits(middle);
    for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
      assert_int_equal(qi__f32_to_f16(qi__bits_f32(bits | sign << 16)), sign | (h + (h & 1)));
      assert_int_equal(qi__f32_to_f16(qi__bits_f32((bits - 1) | sign << 16)), sign | h);
      assert_int_equal(qi__f32_to_f16(qi__bits_f32((bits + 1) | sign << 16)), sign | (h + 1));
    }
  }
  assert_int_equal(qi__f32_to_f16(1e-45f), 0);
  assert_int_equal(qi__f32_to_f16(3.4e38f), 0x7c00);
}

static void test_bfloat16(void **state) {
  (void)state;
  for (uint32_t b = 0; b < 0x10000; b++) {
    float f = qi__bf16_to_f32((uint16_t)b);
    assert_int_equal(qi__f32_bits(f), b << 16);
    if (qi__is_nan(f)) {
      assert_int_equal(qi__f32_to_bf16(f), b | 0x40);
      continue;
    }
    assert_int_equal(qi__f32_to_bf16(f), b);
    if ((b & 0x7f80) == 0x7f80) continue;
    assert_int_equal(qi__f32_to_bf16(qi__bits_f32(b << 16 | 0x7fff)), b);
    assert_int_equal(qi__f32_to_bf16(qi__bits_f32(b << 16 | 0x8000)), b + (b & 1));
    assert_int_equal(qi__f32_to_bf16(qi__bits_f32(b << 16 | 0x8001)), b + 1);
  }
  assert_true(qi__is_nan(qi__bf16_to_f32(qi__f32_to_bf16(qi__bits_f32(0x7f800001u))))); // payload only in the half that goes
}

static void test_e8m0(void **state) {
  (void)state;
  for (int e = 0; e < 255; e++) {
    assert_true(same_bits(qi__e8m0_to_f32((uint8_t)e), (float)ldexp(1, e - 127)));
    assert_true(same_bits(qi__e8m0_half_to_f32((uint8_t)e), (float)ldexp(1, e - 128)));
  }
  assert_true(same_bits(qi__e8m0_half_to_f32(255), (float)ldexp(1, 127)));
}

// ---- the table ----

static void test_table(void **state) {
  (void)state;
  assert_null(qi__format_get(QI_FORMAT_NONE));
  assert_null(qi__format_get(QI_FORMAT_COUNT));
  assert_null(qi__format_get((qi_format)-1));
  assert_int_equal(qi__format_from_gguf(9), QI_FORMAT_NONE); // Q8_1
  assert_int_equal(qi__format_from_gguf(-1), QI_FORMAT_NONE);
  for (int i = 1; i < QI_FORMAT_COUNT; i++) {
    const qi__format *f = qi__format_get((qi_format)i);
    assert_non_null(f->info.name);
    assert_int_equal(qi__format_from_gguf(f->info.gguf_id), i); // so no id occurs twice
    assert_true((f->quantize || f->quantize_tensor) == f->info.can_quantize);
    assert_true((f->unpack != NULL) == (f->info.block_len > 1));
    assert_true(f->unpack ? f->group == 16 || f->group == 32 : f->dequantize && f->group == 0);
    assert_true((f->read_tail != NULL) == (f->info.tail_bytes > 0));
    assert_true((f->quantize_tensor != NULL) == (f->info.tail_bytes > 0));
    assert_int_equal(f->id, i);
    size_t len = (size_t)f->info.block_len, bytes = (size_t)f->info.block_bytes, tail = (size_t)f->info.tail_bytes;
    assert_int_equal(qi__format_bytes((qi_format)i, 0), 0);
    assert_int_equal(qi__row_bytes((qi_format)i, 3 * len), 3 * bytes);
    assert_int_equal(qi__format_bytes((qi_format)i, 3 * len), 3 * bytes + tail);
    if (len > 1) assert_int_equal(qi__format_bytes((qi_format)i, 3 * len + 1), 0);
  }
  assert_int_equal(qi__format_bytes(QI_FORMAT_F32, SIZE_MAX / 4), SIZE_MAX / 4 * 4);
  assert_int_equal(qi__format_bytes(QI_FORMAT_F32, SIZE_MAX / 4 + 1), 0);
  assert_int_equal(qi__format_bytes(QI_FORMAT_NONE, 256), 0);
}

// ---- blocks worked out by hand from the layouts ----

typedef struct poke {
  int at, byte;
} poke;
typedef struct expected {
  int index;
  float value;
} expected;

// A block of zero bytes but for `bytes`, and some of its weights; lists end with index -1. Halves: 0x3400 = 0.25, 0x3800 = 0.5,
// 0x3c00 = 1, 0x4000 = 2, 0xc000 = -2.
typedef struct vector {
  qi_format format;
  poke bytes[20];
  expected weights[10];
} vector;

static const vector vectors[] = {
  {QI_FORMAT_F32, {{2, 0xc0}, {3, 0x3f}, {-1, 0}}, {{0, 1.5f}, {-1, 0}}},
  {QI_FORMAT_F16, {{0, 0x55}, {1, 0x35}, {-1, 0}}, {{0, 0.333251953125f}, {-1, 0}}},
  {QI_FORMAT_BF16, {{0, 0xc0}, {1, 0xbf}, {-1, 0}}, {{0, -1.5f}, {-1, 0}}},
  {QI_FORMAT_Q4_0,
   {{1, 0x38}, {2, 0xf3}, {17, 0x9a}, {-1, 0}},
   {{0, -2.5f}, {1, -4}, {15, 1}, {16, 3.5f}, {31, 0.5f}, {-1, 0}}},
  {QI_FORMAT_Q4_1,
   {{1, 0x3c}, {3, 0xc0}, {4, 0x5f}, {19, 0x1e}, {-1, 0}},
   {{0, 13}, {1, -2}, {15, 12}, {16, 3}, {31, -1}, {-1, 0}}},
  // high bits of weights 0, 16 and 31
  {QI_FORMAT_Q5_0,
   {{1, 0x40}, {2, 0x01}, {4, 0x01}, {5, 0x80}, {6, 0x3c}, {21, 0x72}, {-1, 0}},
   {{0, 24}, {1, -32}, {15, -28}, {16, 6}, {31, 14}, {-1, 0}}},
  // high bits of weights 1 and 30
  {QI_FORMAT_Q5_1,
   {{1, 0x3c}, {3, 0x3c}, {4, 0x02}, {7, 0x40}, {9, 0x21}, {22, 0xf0}, {-1, 0}},
   {{0, 1}, {1, 18}, {14, 1}, {17, 3}, {30, 32}, {-1, 0}}},
  {QI_FORMAT_Q8_0, {{1, 0x34}, {2, 0x81}, {33, 0x7f}, {-1, 0}}, {{0, -31.75f}, {1, 0}, {31, 31.75f}, {-1, 0}}},
  // d 1, dmin 0.5; (scale, min): 0 (2, 3), 2 (1, 0), 4 (3, 0), 6 (1, 2), 15 (1, 15)
  {QI_FORMAT_Q2_K,
   {{81, 0x3c}, {83, 0x38}, {0, 0x32}, {2, 0x01}, {4, 0x03}, {6, 0x21}, {15, 0xf1}, {16, 0xe4}, {79, 0x80}, {-1, 0}},
   {{0, -1.5f}, {1, -1.5f}, {32, 1}, {64, 6}, {96, 2}, {240, -7.5f}, {255, -5.5f}, {-1, 0}}},
  // d 1; scales: 0 = 3, 8 = -11, 15 = 31, others with bits of zero = -32
  {QI_FORMAT_Q3_K,
   {{109, 0x3c}, {96, 0x53}, {104, 0x12}, {103, 0xf0}, {107, 0xc0}, {0, 0x01}, {31, 0x80}, {32, 0x02}, {64, 0x03}, {95, 0x40},
    {-1, 0}},
   {{0, 6}, {1, -12}, {16, 128}, {128, 11}, {254, -124}, {255, 31}, {-1, 0}}},
  // d 1, dmin 0.5; (scale, min): 0 (5, 6), 3 (63, 0), 4 (55, 41), 7 (15, 1)
  {QI_FORMAT_Q4_K,
   {{1, 0x3c}, {3, 0x38}, {4, 0xc5}, {7, 0x3f}, {8, 0x86}, {12, 0x97}, {15, 0x1f}, {16, 0xb2}, {48, 0x40}, {80, 0x0f}, {143, 0xe0},
    {-1, 0}},
   {{0, 7}, {1, -3}, {32, 0}, {64, 0}, {96, 252}, {128, 804.5f}, {129, -20.5f}, {255, 209.5f}, {-1, 0}}},
  // as Q4_K; fifth bits of weights 0, 128 and 255
  {QI_FORMAT_Q5_K,
   {{1, 0x3c}, {3, 0x38}, {4, 0xc5}, {8, 0x86}, {12, 0x97}, {15, 0x1f}, {16, 0x11}, {47, 0x80}, {48, 0xb2}, {112, 0x0f},
    {175, 0xe0}, {-1, 0}},
   {{0, 87}, {1, -3}, {32, 0}, {128, 1684.5f}, {255, 449.5f}, {-1, 0}}},
  // d 0.25; scales: 0 = 4, 4 = 2, 15 = -1
  {QI_FORMAT_Q6_K,
   {{209, 0x34}, {192, 4}, {196, 2}, {207, 0xff}, {0, 0xa5}, {127, 0xc0}, {128, 0x13}, {191, 0x80}, {-1, 0}},
   {{0, 21}, {1, -32}, {64, -3}, {254, 8}, {255, -3}, {-1, 0}}},
  {QI_FORMAT_IQ4_NL, {{1, 0x3c}, {2, 0xf0}, {17, 0x87}, {-1, 0}}, {{0, -127}, {1, -127}, {15, -10}, {16, 113}, {31, 1}, {-1, 0}}},
  // d 1; scales: 0 = 1, 7 = 31, others -32
  {QI_FORMAT_IQ4_XS,
   {{1, 0x3c}, {2, 0x02}, {3, 0xc0}, {4, 0x01}, {7, 0xf0}, {8, 0x9f}, {135, 0x10}, {-1, 0}},
   {{0, 113}, {1, -127}, {16, 13}, {32, 4064}, {239, -3937}, {255, -3224}, {-1, 0}}},
  // digits: byte 0 = 2 1 0 2 1 (196 of 243), byte 47 = 0 0 1 1 2 (14), byte 51 = 1 2 0 2 (141)
  {QI_FORMAT_TQ1_0,
   {{53, 0x38}, {0, 207}, {47, 15}, {51, 149}, {-1, 0}},
   {{0, 0.5f}, {32, 0}, {64, -0.5f}, {96, 0.5f}, {128, 0}, {191, -0.5f}, {207, 0}, {239, 0.5f}, {247, 0.5f}, {-1, 0}}},
  {QI_FORMAT_TQ2_0,
   {{65, 0x40}, {0, 0x86}, {63, 0x40}, {-1, 0}},
   {{0, 2}, {1, -2}, {32, 0}, {64, -2}, {96, 2}, {159, -2}, {255, 0}, {-1, 0}}},
  {QI_FORMAT_MXFP4, {{0, 128}, {1, 0xf7}, {16, 0x92}, {-1, 0}}, {{0, 12}, {1, 0}, {15, 2}, {16, -12}, {31, -1}, {-1, 0}}},
};

static void test_vectors(void **state) {
  (void)state;
  for (size_t v = 0; v < QI__COUNT_OF(vectors); v++) {
    uint8_t bytes[1 + 256] = {0};
    float w[QI__BLOCK_MAX];
    const qi__format *f = qi__format_get(vectors[v].format);
    for (const poke *p = vectors[v].bytes; p->at >= 0; p++) {
      assert_true(p->at < f->info.block_bytes);
      bytes[1 + p->at] = (uint8_t)p->byte; // at an odd address
    }
    qi__dequantize(vectors[v].format, bytes + 1, w, (size_t)f->info.block_len);
    for (const expected *e = vectors[v].weights; e->index >= 0; e++)
      if (w[e->index] != e->value)
        fail_msg("%s: weight %d is %g, expected %g", f->info.name, e->index, (double)w[e->index], (double)e->value);
  }
}

// ---- golden blocks ----

static size_t read_file(const char *path, void *dst, size_t max) {
  FILE *file = fopen(path, "rb");
  if (!file) return 0;
  size_t n = fread(dst, 1, max, file);
  fclose(file);
  return n;
}

static void test_golden(void **state) {
  (void)state;
  static uint8_t blocks[1 << 16];
  static float want[1 << 14], got[1 << 14];
  char line[256], name[32], path[256];
  int id, len, bytes, n_blocks, n, n_types = 0;
  FILE *index = fopen("../shared/golden/dequant/index.tsv", "r");
  if (!index) {
    print_message("no ../shared/golden: skipped\n");
    skip();
  }
  while (fgets(line, sizeof line, index)) {
    if (sscanf(line, "%31s %d %d %d %d %d", name, &id, &len, &bytes, &n_blocks, &n) != 6) continue;
    const qi__format *f = qi__format_get(qi__format_from_gguf(id));
    assert_non_null(f);
    assert_string_equal(f->info.name, name);
    assert_int_equal(f->info.block_len, len);
    assert_int_equal(f->info.block_bytes, bytes);
    snprintf(path, sizeof path, "../shared/golden/dequant/%s.blocks", name);
    assert_int_equal(read_file(path, blocks, sizeof blocks), n_blocks * bytes);
    snprintf(path, sizeof path, "../shared/golden/dequant/%s.f32", name);
    assert_int_equal(read_file(path, want, sizeof want), n * 4);
    qi__dequantize_blocks(f, blocks, got, (size_t)n);
    assert_memory_equal(got, want, (size_t)n * 4);
    n_types++;
  }
  fclose(index);
  assert_int_equal(n_types, 20);
}

// ---- quantisers ----

#define N 8192

typedef enum data_kind { GAUSS, HEAVY, UNEVEN, N_KINDS } data_kind;

static double uniform(uint64_t *seed) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 7;
  *seed ^= *seed << 17;
  return (double)(*seed >> 11) / 9007199254740992.0;
}

static double normal(uint64_t *seed) { // sum of twelve: no libm, the same numbers everywhere
  double sum = -6;
  for (int i = 0; i < 12; i++) sum += uniform(seed);
  return sum;
}

// GAUSS: normal. HEAVY: its third power, kurtosis 46. UNEVEN: normal, every 16 of another size between 1/8 and 8.
static void make_data(data_kind kind, float *x, float *importance) {
  uint64_t seed = 88172645463325252u + (uint64_t)kind;
  for (int i = 0; i < N; i++) {
    double v = normal(&seed);
    if (kind == HEAVY) v = v * v * v;
    if (kind == UNEVEN) v = ldexp(v, (i / 16 * 5) % 7 - 3);
    x[i] = (float)(0.02 * v);
    double u = uniform(&seed);
    importance[i] = (float)(u * u * u);
  }
}

// sum w (x - y)^2 / sum w x^2
static double relative_error(const float *x, const float *y, const float *w, size_t n) {
  double e = 0, s = 0;
  for (size_t i = 0; i < n; i++) {
    double d = (double)x[i] - y[i], weight = w ? w[i] : 1;
    e += weight * d * d;
    s += weight * x[i] * x[i];
  }
  return e / s;
}

static void round_trip(qi_format format, const float *x, const float *importance, size_t n, float *y) {
  static uint8_t bytes[4 * N + 1];
  bytes[qi__format_bytes(format, n)] = 0xa5;
  qi__quantize(format, x, bytes, 1, n, importance);
  assert_int_equal(bytes[qi__format_bytes(format, n)], 0xa5); // nothing behind the end
  qi__dequantize(format, bytes, y, n);
}

// Root of the relative error that llama.cpp's quantisers (ggml-quants.c, February 2025) leave on make_data, weighted and
// measured the same way: without importance, with it. Ours may not be larger.
typedef struct bound {
  qi_format format;
  double plain[N_KINDS], weighted[N_KINDS];
} bound;

static const bound bounds[] = {
  {QI_FORMAT_F16, {0.000282, 0.000282, 0.000282}, {0.000282, 0.000282, 0.000282}}, // rounding alone: 2^-11 / sqrt(3)
  {QI_FORMAT_BF16, {0.002256, 0.002256, 0.002256}, {0.002256, 0.002256, 0.002256}}, // 2^-8 / sqrt(3)
  {QI_FORMAT_Q4_0, {0.083850, 0.111633, 0.093965}, {0.074284, 0.107209, 0.085409}},
  {QI_FORMAT_Q4_1, {0.076655, 0.110224, 0.094096}, {0.061241, 0.082269, 0.074909}},
  {QI_FORMAT_Q5_0, {0.042086, 0.058954, 0.049126}, {0.037372, 0.058490, 0.045648}},
  {QI_FORMAT_Q5_1, {0.037419, 0.055256, 0.044792}, {0.029902, 0.043143, 0.037442}},
  {QI_FORMAT_Q8_0, {0.005279, 0.008609, 0.006393}, {0.005237, 0.008998, 0.006625}},
  {QI_FORMAT_Q2_K, {0.289861, 0.387012, 0.296239}, {0.226535, 0.244407, 0.237647}},
  {QI_FORMAT_Q3_K, {0.147559, 0.155862, 0.147357}, {0.128421, 0.147920, 0.132067}},
  {QI_FORMAT_Q4_K, {0.070220, 0.088897, 0.080207}, {0.062166, 0.086600, 0.077169}},
  {QI_FORMAT_Q5_K, {0.035380, 0.050215, 0.042308}, {0.031966, 0.049614, 0.039972}},
  {QI_FORMAT_Q6_K, {0.017372, 0.025026, 0.017354}, {0.015532, 0.025237, 0.016517}},
  {QI_FORMAT_TQ1_0, {0.783744, 0.753511, 0.730575}, {0.784369, 0.784856, 0.760264}},
  {QI_FORMAT_TQ2_0, {0.783744, 0.753511, 0.730575}, {0.784369, 0.784856, 0.760264}},
  {QI_FORMAT_IQ4_NL, {0.074992, 0.091095, 0.080167}, {0.068561, 0.086087, 0.075398}},
  {QI_FORMAT_IQ4_XS, {0.075418, 0.092252, 0.080990}, {0.069281, 0.088605, 0.076579}},
  {QI_FORMAT_I2_S, {0.783744, 0.753511, 0.730575}, {0.784369, 0.784856, 0.760264}},
  {QI_FORMAT_QINS8_K, {0.005279, 0.008609, 0.006393}, {0.005237, 0.008998, 0.006625}}, // of Q8_0, which has the same size
  {QI_FORMAT_QINS4_K, {0.070220, 0.088897, 0.080207}, {0.062166, 0.086600, 0.077169}}, // of Q4_K, which has the same size
};

static void test_error_bounds(void **state) {
  (void)state;
  static float x[N], w[N], y[N];
  for (int kind = 0; kind < N_KINDS; kind++) {
    make_data((data_kind)kind, x, w);
    for (size_t b = 0; b < QI__COUNT_OF(bounds); b++) {
      const char *name = qi__formats[bounds[b].format].info.name;
      round_trip(bounds[b].format, x, NULL, N, y);
      double plain = sqrt(relative_error(x, y, NULL, N)), unaware = relative_error(x, y, w, N);
      if (!(plain <= bounds[b].plain[kind]))
        fail_msg("%s, data %d: error %.6f, reference %.6f", name, kind, plain, bounds[b].plain[kind]);
      round_trip(bounds[b].format, x, w, N, y);
      double weighted = sqrt(relative_error(x, y, w, N));
      if (!(weighted <= bounds[b].weighted[kind]))
        fail_msg("%s, data %d: weighted error %.6f, reference %.6f", name, kind, weighted, bounds[b].weighted[kind]);
      bool one_scale = bounds[b].format == QI_FORMAT_I2_S; // importance that knows nothing of the weights does not change it
      if (bounds[b].format >= QI_FORMAT_Q4_0 && !one_scale && !(weighted * weighted < 0.995 * unaware))
        fail_msg("%s, data %d: importance lowers its error only from %.3e to %.3e", name, kind, unaware, weighted * weighted);
    }
  }
}

// Least sum w (x - d * level)^2 over all halves d.
static double brute_force(const float *x, const float *w, int n, int lo, int hi) {
  double best = 1e30;
  for (unsigned h = 0; h < 0x7c00; h++) {
    double d = half_value(h);
    for (int sign = -1; sign <= 1; sign += 2) {
      double error = 0;
      for (int i = 0; i < n && error < best; i++) {
        double level = h ? floor(x[i] / d * sign + 0.5) : 0;
        level = level < lo ? lo : level > hi ? hi : level;
        double e = x[i] - d * sign * level;
        error += w[i] * e * e;
      }
      best = error < best ? error : best;
    }
  }
  return best;
}

static void test_brute_force(void **state) {
  (void)state;
  static const struct {
    qi_format format;
    int lo, hi;
    double slack; // allowed above the best possible
  } cases[] = {
    {QI_FORMAT_Q4_0, -8, 7, 1.10},
    {QI_FORMAT_Q8_0, -127, 127, 1.35},
    {QI_FORMAT_TQ2_0, -1, 1, 1.001},
  };
  static float x[N], w[N], y[N];
  for (int kind = 0; kind < N_KINDS; kind++) {
    make_data((data_kind)kind, x, w);
    for (size_t c = 0; c < QI__COUNT_OF(cases); c++) {
      size_t len = (size_t)qi__formats[cases[c].format].info.block_len;
      double ours = 0, best = 0;
      round_trip(cases[c].format, x, w, N, y);
      for (size_t i = 0; i < 16 * len; i += len) {
        for (size_t j = i; j < i + len; j++) ours += w[j] * ((double)x[j] - y[j]) * ((double)x[j] - y[j]);
        best += brute_force(x + i, w + i, (int)len, cases[c].lo, cases[c].hi);
      }
      if (!(ours <= cases[c].slack * best))
        fail_msg("%s, data %d: error %.4e, best %.4e", qi__formats[cases[c].format].info.name, kind, ours, best);
    }
  }
}

static bool equal_floats(const float *a, const float *b, int n) { // -0 == 0
  for (int i = 0; i < n; i++)
    if (a[i] != b[i]) return false;
  return true;
}

// What a format can hold comes back.
static void test_exact(void **state) {
  (void)state;
  float x[256], y[256];
  for (int i = 0; i < 256; i++) x[i] = 0.375f * (float)(i * 7 % 3 - 1);
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (!qi__formats[f].info.can_quantize) continue;
    round_trip((qi_format)f, x, NULL, 256, y);
    bool exact = f < QI_FORMAT_Q4_0 || f == QI_FORMAT_TQ1_0 || f == QI_FORMAT_TQ2_0 || f == QI_FORMAT_I2_S;
    bool table = f == QI_FORMAT_IQ4_NL || f == QI_FORMAT_IQ4_XS; // has no -1, 0, 1 nor a multiple of them
    if (exact) assert_true(equal_floats(x, y, 256));
    else if (!(relative_error(x, y, NULL, 256) < (table ? 2e-3 : 1e-6))) // 1e-6: d as a half
      fail_msg("%s: relative error %g", qi__formats[f].info.name, relative_error(x, y, NULL, 256));
  }
  for (int i = 0; i < 256; i++) x[i] = 0.5f * (float)(i % 16 - 8);
  round_trip(QI_FORMAT_Q4_0, x, NULL, 256, y);
  assert_true(equal_floats(x, y, 256));
  for (int i = 0; i < 256; i++) x[i] = -0.125f * (float)(i % 32 * 8 - 121);
  round_trip(QI_FORMAT_Q8_0, x, NULL, 256, y);
  assert_true(relative_error(x, y, NULL, 256) < 1e-5);
}

// Blocks of a row do not influence each other, and the place of the bytes does not matter.
static void test_rows(void **state) {
  (void)state;
  static float x[N], w[N];
  static uint8_t whole[4 * N], parts[4 * N + 1];
  make_data(HEAVY, x, w);
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (!qi__formats[f].quantize) continue;
    size_t half = qi__format_bytes((qi_format)f, 256);
    qi__formats[f].quantize(x, whole, 512, w);
    qi__formats[f].quantize(x, parts + 1, 256, w);
    qi__formats[f].quantize(x + 256, parts + 1 + half, 256, w + 256);
    assert_memory_equal(whole, parts + 1, 2 * half);
  }
}

// ---- hard inputs ----

static void check_block(qi_format format, const char *what, const float *x, const float *w) {
  float y[256], greatest = 0;
  round_trip(format, x, w, 256, y);
  for (int i = 0; i < 256; i++) greatest = fabsf(x[i]) > greatest ? fabsf(x[i]) : greatest;
  for (int i = 0; i < 256; i++) {
    if (!qi__is_finite(y[i])) fail_msg("%s, %s: weight %d is not finite", qi__formats[format].info.name, what, i);
    // Never further off than twice the greatest weight, but for the least steps of a half.
    if (fabsf(y[i]) > 2 * greatest + 1e-4f)
      fail_msg("%s, %s: weight %d of %g became %g", qi__formats[format].info.name, what, i, (double)x[i], (double)y[i]);
    if (greatest == 0 && y[i] != 0) fail_msg("%s: zero became %g", qi__formats[format].info.name, (double)y[i]);
  }
}

static void test_hard_inputs(void **state) {
  (void)state;
  static const float sizes[] = {0, 1e-45f, 1e-40f, 1e-30f, 1e-9f, 4e-8f, 1e-7f, 1e-6f, 1e-4f, 1, 6e4f, 1e6f, 1e9f, 1e30f, 3.4e38f};
  static float data[N], importance[N];
  float x[256], w[256];
  make_data(GAUSS, data, importance);
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (!qi__formats[f].info.can_quantize) continue;
    for (size_t s = 0; s < QI__COUNT_OF(sizes); s++) {
      float size = sizes[s];
      for (int i = 0; i < 256; i++) x[i] = size * (data[i] > 0.1f ? 1 : data[i] < -0.1f ? -1 : 10 * data[i]);
      check_block((qi_format)f, "normal", x, NULL);
      for (int i = 0; i < 256; i++) x[i] = i == 77 ? size : 0;
      check_block((qi_format)f, "one", x, NULL);
      for (int i = 0; i < 256; i++) x[i] = i == 77 ? -size : 1e-3f * data[i];
      check_block((qi_format)f, "outlier", x, importance);
      for (int i = 0; i < 256; i++) x[i] = size;
      check_block((qi_format)f, "constant", x, NULL);
      for (int i = 0; i < 256; i++) x[i] = -size * (1 + 1e-6f * (float)(i % 3)) / 1.001f;
      check_block((qi_format)f, "nearly constant", x, importance);
    }
    static const float weights[] = {0, 1e-45f, 1e-30f, 1e30f, 3.4e38f};
    for (size_t s = 0; s < QI__COUNT_OF(weights); s++) {
      for (int i = 0; i < 256; i++) w[i] = i % 3 ? weights[s] : 0;
      check_block((qi_format)f, "importance", data, w);
      for (int i = 0; i < 256; i++) w[i] = i == 5 ? weights[s] : 1;
      check_block((qi_format)f, "one importance", data, w);
    }
  }
}

// Weights of a few steps of the least half. The scale must not fall to zero while codes could still tell them apart.
static void test_small_scale(void **state) {
  (void)state;
  static float data[N], importance[N], y[N];
  make_data(GAUSS, data, importance);
  for (int i = 0; i < 256; i++) data[i] *= 2e-5f; // standard deviation 4e-7
  for (int f = QI_FORMAT_Q4_0; f < QI_FORMAT_COUNT; f++) {
    if (!qi__formats[f].info.can_quantize) continue;
    round_trip((qi_format)f, data, NULL, 256, y);
    double error = sqrt(relative_error(data, y, NULL, 256));
    if (!(error < 0.55)) fail_msg("%s: relative error %.3f", qi__formats[f].info.name, error);
  }
}

// Beyond the greatest half, weights saturate.
static void test_large_scale(void **state) {
  (void)state;
  float x[256], y[256];
  for (int i = 0; i < 256; i++) x[i] = i % 2 ? 1e30f : -1e30f;
  round_trip(QI_FORMAT_F16, x, NULL, 256, y);
  assert_true(y[0] == -65504 && y[1] == 65504);
  round_trip(QI_FORMAT_Q8_0, x, NULL, 256, y);
  assert_true(y[0] == -65504.0f * 127 && y[1] == 65504.0f * 127);
  round_trip(QI_FORMAT_TQ2_0, x, NULL, 256, y);
  assert_true(y[0] == -65504 && y[1] == 65504);
  round_trip(QI_FORMAT_Q6_K, x, NULL, 256, y);
  assert_true(y[0] <= -65504.0f * 120 * 31 && y[1] >= 65504.0f * 120 * 31);
  for (int i = 0; i < 256; i++) x[i] = 3.4028235e38f;
  round_trip(QI_FORMAT_BF16, x, NULL, 256, y);
  assert_true(qi__f32_bits(y[0]) == 0x7f7f0000u);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_half_to_float), cmocka_unit_test(test_half_rounding), cmocka_unit_test(test_bfloat16),
    cmocka_unit_test(test_e8m0),          cmocka_unit_test(test_table),         cmocka_unit_test(test_vectors),
    cmocka_unit_test(test_golden),        cmocka_unit_test(test_error_bounds),  cmocka_unit_test(test_brute_force),
    cmocka_unit_test(test_exact),         cmocka_unit_test(test_rows),          cmocka_unit_test(test_hard_inputs),
    cmocka_unit_test(test_small_scale),   cmocka_unit_test(test_large_scale),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
