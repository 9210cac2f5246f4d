// Integer products: every variant that this CPU has gives the bits of the reference, for all formats and shapes.
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11) && !defined(QI_NO_SIMD)
#define EMULATED_VNNI 1
#include "support/emulate_vnni.h"
#endif
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/sparse.h"

enum { MAX_W = 32, MAX_X = 80, MAX_K = 2048 };
enum { IN_PANELS = 33 }; // so many rows of activations are never taken by the kernels for a few

typedef struct shape {
  size_t n_w, n_x, k, x_row, gap; // gap: bytes between weight rows
} shape;

// ZEROS: as EXTREME, but half of the activations are 0.
typedef enum contents { RANDOM, ALL_ONES, EXTREME, ZEROS, BIG_SCALES, RUNS } contents;

static uint32_t random_state = 1;
static uint32_t next_random(void) {
  random_state = random_state * 1664525u + 1013904223u;
  return random_state >> 8;
}

// A half that is no NaN and no infinity.
static uint16_t finite_half(uint16_t h) { return (h & 0x7c00) == 0x7c00 ? (uint16_t)(h & ~0x4000u) : h; }

static void make_finite(uint8_t *p) { qi__store_u16(p, finite_half(qi__load_u16(p))); }

// Any bytes are a block; only its halves must not be NaN, whose sign and payload may differ between instructions.
static void make_block_finite(qi_format id, uint8_t *b) {
  switch (id) {
  case QI_FORMAT_Q2_K: make_finite(b + 80), make_finite(b + 82); break;
  case QI_FORMAT_Q3_K: make_finite(b + 108); break;
  case QI_FORMAT_Q6_K: make_finite(b + 208); break;
  case QI_FORMAT_TQ1_0: make_finite(b + 52); break;
  case QI_FORMAT_TQ2_0: make_finite(b + 64); break;
  case QI_FORMAT_QINS8_K:
  case QI_FORMAT_QINS4_K: make_finite(b + 7); break;
  case QI_FORMAT_MXFP4:
    if (b[0] > 250) b[0] = 250;
    break;
  case QI_FORMAT_IQ1_M: b[55] &= 0xbf; break; // the top four bits of d
  case QI_FORMAT_Q4_1:
  case QI_FORMAT_Q5_1:
  case QI_FORMAT_Q4_K:
  case QI_FORMAT_Q5_K: make_finite(b + 2); // fall through
  default: make_finite(b); break;
  }
}

// The format with a tail, if it has one: of QINS8 a usual range, no range (all codes but 0 are the greatest size), one in which
// most codes have the size 0, and one with weights near the end of float32.
static const qi__format *bind(qi__bound *out, qi_format id, contents what) {
  static const float ranges[][2] = {{-9.5f, -2.25f}, {0.5f, 0.5f}, {-900.0f, 1.0f}, {-9.5f, -2.25f}, {76.0f, 84.0f}, {-7.0f, 0.0f}};
  uint8_t tail[32] = {0};
  qi__store_f32(tail, id == QI_FORMAT_I2_S ? -0.37f : ranges[what][0]);
  qi__store_f32(tail + 4, ranges[what][1]);
  assert_int_equal(qi__format_bind(out, id, tail, "", NULL), QI_OK);
  return &out->format;
}

// RUNS: ternary blocks that have the scale of the block before, but for one in `change` (0: all have one scale).
static uint32_t change;

static void fill_weights(qi_format id, contents what, uint8_t *w, size_t n_blocks) {
  size_t size = (size_t)qi__formats[id].info.block_bytes;
  bool scales = qi__formats[id].ternary && !qi__formats[id].info.tail_bytes;
  for (size_t b = 0; b < n_blocks; b++, w += size) {
    for (size_t i = 0; i < size; i++) {
      uint32_t r = next_random();
      bool extreme = what == EXTREME || what == ZEROS;
      w[i] = what == ALL_ONES ? 0xff : extreme ? (r & 1 ? 0x80 : r & 2 ? 0x7f : r & 4 ? 0 : 0xff) : (uint8_t)r;
    }
    make_block_finite(id, w);
    if (what == BIG_SCALES && qi__formats[id].info.block_len == 32) qi__store_u16(w, 0x7bff);
    if (what == RUNS && scales && b && (!change || next_random() % change)) memcpy(w + size - 2, w - 2, 2);
  }
}

static void fill_activations(const qi__q8 *x, size_t n, contents what) {
  bool extreme = what == ALL_ONES || what == EXTREME || what == ZEROS;
  for (size_t i = 0; i < n * x->k; i++) {
    uint32_t r = next_random();
    int8_t *q = &x->q[i / x->k * x->stride + i % x->k];
    *q = extreme ? (r & 1 ? 127 : -127) : (int8_t)((int)(r % 255) - 127);
    if (what == ZEROS && r & 2) *q = 0;
  }
  for (size_t i = 0; i < n * x->k; i += 16) {
    int s = 0;
    for (size_t j = i; j < i + 16; j++) s += x->q[j / x->k * x->stride + j % x->k];
    x->sum[i / 16] = (int16_t)s;
  }
  for (size_t i = 0; i < n * x->k / (size_t)x->block; i++)
    x->d[i] = (float)((int)(next_random() & 0xffff) - 0x8000) * 0.000123f;
}

static float scratch[QI__Q8_PANEL_FLOATS + QI__Q8_BATCH * QI__Q8_LANES];
static float expected[MAX_W * MAX_X], found[MAX_W * MAX_X];

static void reference(const qi__dot_q8_args *a) {
  if (a->format->ternary) qi__dot_ternary_ref(a);
  else qi__dot_q8_ref(a);
}

// Exact ends of the arrays, so that a sanitizer sees each byte read too far.
static void compare(qi_format id, qi__dot_q8_fn dot, const shape *s, contents what) {
  qi__bound bound;
  const qi__format *f = bind(&bound, id, what);
  size_t row = s->k / (size_t)f->info.block_len * (size_t)f->info.block_bytes, stride = row + s->gap;
  size_t block = f->ternary ? s->k : (size_t)f->info.block_len; // of activations
  size_t n_rows = s->x_row + s->n_x, n_bytes = (s->n_w - 1) * stride + row;
  uint8_t *w = malloc(n_bytes + 1), *weights = w + 1;
  float *d = malloc(n_rows * (s->k / block) * sizeof *d);
  int16_t *sum = malloc(n_rows * (s->k / 16) * sizeof *sum);
  size_t x_stride = f->ternary ? s->k + 64 * (s->n_x % 3) : s->k;
  qi__q8 x = {malloc((n_rows - 1) * x_stride + s->k), d, sum, block, s->k, x_stride};
  assert_true(w && x.q && x.d && x.sum);
  memset(w, 0xee, n_bytes + 1);
  for (size_t r = 0; r < s->n_w; r++) fill_weights(id, what, weights + r * stride, s->k / (size_t)f->info.block_len);
  fill_activations(&x, n_rows, what);
  size_t y_stride = s->n_w + s->gap % 3;
  for (size_t i = 0; i < MAX_W * MAX_X; i++) expected[i] = found[i] = 1234.5f;
  qi__dot_q8_args args = {f, weights, stride, s->n_w, &x, s->x_row, s->n_x, expected, y_stride, scratch,
                          (qi__fetch)(s->gap % 2)};
  reference(&args);
  args.y = found;
  dot(&args);
  if (memcmp(expected, found, sizeof found))
    for (size_t i = 0; i < s->n_x; i++)
      for (size_t r = 0; r < s->n_w; r++)
        if (memcmp(&expected[i * y_stride + r], &found[i * y_stride + r], 4))
          fail_msg("%s: n_w %zu, n_x %zu, k %zu, contents %d: row %zu of %zu: %a, expected %a", f->info.name, s->n_w, s->n_x, s->k,
                   (int)what, r, i, (double)found[i * y_stride + r], (double)expected[i * y_stride + r]);
  assert_memory_equal(expected, found, sizeof found); // nothing beside the result is written
  free(w), free(x.q), free(x.d), free(x.sum);
}

// Calls `check` for each variant of this CPU and each format.
static void for_each_variant(void (*check)(qi_format id, qi__dot_q8_fn dot)) {
  static const qi__cpu plain;
  qi__kernels ref; // from where the others come: two objects of a program have references of their own
  qi__kernels_init(&ref, &plain);
  for (int isa = QI_ISA_SCALAR + 1; isa < QI_ISA_COUNT; isa++) {
    qi_isa chosen;
    qi__cpu cpu;
    if (qi__isa_choose((qi_isa)isa, &chosen, &cpu, NULL) || chosen != (qi_isa)isa) continue;
    qi__kernels k;
    qi__kernels_init(&k, &cpu);
    for (int id = QI_FORMAT_NONE + 1; id < QI_FORMAT_COUNT; id++)
      if (k.dot_q8[id] != ref.dot_q8[id]) check((qi_format)id, k.dot_q8[id]);
  }
#if defined(EMULATED_VNNI)
  if (!qi__cpu_detect().avx2) return;
  for (int id = QI_FORMAT_NONE + 1; id < QI_FORMAT_COUNT; id++) {
    if (qi__formats[id].ternary) check((qi_format)id, qi__dot_ternary_avx_vnni);
    else if (qi__dot_q8_x86_has((qi_format)id)) check((qi_format)id, qi__dot_q8_avx_vnni);
  }
#endif
}

static void check_shapes(qi_format id, qi__dot_q8_fn dot) {
  size_t block = (size_t)qi__formats[id].info.block_len;
  for (size_t n_w = 1; n_w <= MAX_W; n_w++) compare(id, dot, &(shape){n_w, 1, 3 * block, 0, n_w % 4}, RANDOM);
  for (size_t n_w = MAX_W + 1; n_w <= QI__Q8_RUN; n_w += 19) compare(id, dot, &(shape){n_w, 1, 9 * block, n_w % 2, 2}, RANDOM);
  for (size_t n_x = 1; n_x <= 40; n_x++) compare(id, dot, &(shape){1 + n_x % 6, n_x, 2 * block, n_x % 3, 0}, RANDOM);
  for (size_t blocks = 1; blocks <= 19 && blocks * block <= MAX_K; blocks++) {
    compare(id, dot, &(shape){3, 1, blocks * block, 1, 5}, RANDOM);
    compare(id, dot, &(shape){5, 3, blocks * block, 0, 0}, RANDOM);
    compare(id, dot, &(shape){2, 6, blocks * block, 2, 3}, RANDOM);
    compare(id, dot, &(shape){17, IN_PANELS, blocks * block, 1, 1}, RANDOM);
  }
  compare(id, dot, &(shape){MAX_W, MAX_X, 256, 0, 0}, RANDOM);
  compare(id, dot, &(shape){MAX_W - 1, IN_PANELS, 512, 1, 2}, EXTREME);
  compare(id, dot, &(shape){2, QI__Q8_BATCH + 5, 256, 1, 0}, RANDOM); // in two parts
  for (size_t blocks = 31; blocks <= 77; blocks += 1 + blocks % 7) { // beyond what kernels take at a time
    compare(id, dot, &(shape){3, 1, blocks * block, 0, 1}, RANDOM);
    compare(id, dot, &(shape){2, 6, blocks * block, 1, 1}, RANDOM);
  }
  for (size_t blocks = 127; blocks <= 141; blocks += 7) compare(id, dot, &(shape){3, 1, blocks * block, 0, 1}, RANDOM);
  for (size_t blocks = 1021; blocks <= 1035 && block == 32; blocks += 7)
    compare(id, dot, &(shape){3, 1, blocks * block, 0, 1}, RANDOM);
}
static void test_shapes(void **state) {
  (void)state;
  for_each_variant(check_shapes);
}

static void check_contents(qi_format id, qi__dot_q8_fn dot) {
  for (int round = 0; round < (SPARSE ? 2 : 8); round++)
    for (contents what = RANDOM; what <= BIG_SCALES; what++) {
      compare(id, dot, &(shape){6, 1, 2048, 0, 1}, what);
      compare(id, dot, &(shape){6, 3, 2048, 0, 1}, what);
      compare(id, dot, &(shape){6, 4, 2048, 0, 1}, what);
      compare(id, dot, &(shape){6, IN_PANELS, 2048, 0, 1}, what);
    }
}
static void test_contents(void **state) {
  (void)state;
  for_each_variant(check_contents);
}

// ---- ternary rows ----

// Scales that change here and there, also beyond the longest run.
static void check_runs(qi_format id, qi__dot_q8_fn dot) {
  if (!qi__formats[id].ternary) return;
  static const uint32_t changes[] = {0, 2, 3, 6, 20};
  for (size_t c = 0; c < QI__COUNT_OF(changes); c++) {
    change = changes[c];
    for (size_t blocks = 1; blocks <= 40; blocks += 1 + blocks / 12) {
      compare(id, dot, &(shape){3, 1, blocks * 256, 1, 5}, RUNS);
      compare(id, dot, &(shape){33 - blocks % 32, 7, blocks * 256, 1, 0}, RUNS);
    }
    for (size_t n_w = 1; n_w <= MAX_W; n_w++) compare(id, dot, &(shape){n_w, 1 + n_w % 3, (1 + n_w) * 256, 0, n_w % 4}, RUNS);
    compare(id, dot, &(shape){QI__Q8_RUN, 1, 768, 0, 0}, RUNS);
    compare(id, dot, &(shape){3, 1, (QI__TERNARY_RUN + 9) * 256, 0, 0}, RUNS);
    compare(id, dot, &(shape){2, 5, (QI__TERNARY_RUN + 9) * 256, 0, 0}, RUNS);
  }
  change = 0;
  for (size_t blocks = 350; blocks < QI__TERNARY_RUN; blocks += 8) // rows of one scale: about where scratch is too small for them
    compare(id, dot, &(shape){2, 1, blocks * 256, 0, 0}, ALL_ONES);
  compare(id, dot, &(shape){2, 1, QI__TERNARY_RUN * 256, 0, 0}, ALL_ONES); // the greatest sums
  compare(id, dot, &(shape){2, 4, QI__TERNARY_RUN * 256, 0, 0}, ALL_ONES);
}
static void test_ternary_runs(void **state) {
  (void)state;
  for_each_variant(check_runs);
}

// The reference against the definition: runs as 64-bit sums, then one fused addition each.
static void test_ternary_reference(void **state) {
  (void)state;
  enum { BLOCKS = QI__TERNARY_RUN + 20, K = 256 * BLOCKS };
  static uint8_t w[BLOCKS * 66];
  static int8_t q[K];
  static int16_t sum[K / 16];
  float d_x = 0.0173f, y;
  change = 5;
  fill_weights(QI_FORMAT_TQ2_0, RUNS, w, BLOCKS);
  qi__q8 x = {q, &d_x, sum, K, K, K};
  fill_activations(&x, 1, EXTREME);
  d_x = 0.0173f;
  for (size_t i = 0; i < K; i++) q[i] = w[i / 256 * 66 + i % 32] & 1 ? 127 : -127; // not about 0
  qi__dot_q8_args args = {&qi__formats[QI_FORMAT_TQ2_0], w, sizeof w, 1, &x, 0, 1, &y, 1, scratch, QI__FETCH_LINES};
  qi__dot_ternary_ref(&args);
  float expected_y = 0;
  for (size_t b = 0, n_runs = 0; b < BLOCKS; n_runs++) {
    int64_t total = 0;
    uint16_t scale = qi__load_u16(w + 66 * b + 64);
    do {
      for (size_t i = 0; i < 256; i++)
        total += ((w[66 * b + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) - 1) * q[256 * b + i];
    } while (++b < BLOCKS && b % QI__TERNARY_RUN && qi__load_u16(w + 66 * b + 64) == scale);
    expected_y = fmaf(qi__f16_to_f32(scale) * d_x, (float)total, expected_y);
    assert_true(b < BLOCKS || n_runs > 50);
  }
  assert_memory_equal(&y, &expected_y, sizeof y);
}

// Equal weights give equal bits in all three formats.
static void test_ternary_formats(void **state) {
  (void)state;
  enum { ROWS = 5, K = 2560, N = 6, BLOCKS = K / 256 };
  static float w[ROWS * K];
  static uint8_t data[3][ROWS * K];
  static float y[4][ROWS * N];
  static int8_t q[N * K];
  static int16_t sum[N * K / 16];
  static float d[N];
  static const qi_format ids[3] = {QI_FORMAT_TQ1_0, QI_FORMAT_TQ2_0, QI_FORMAT_I2_S};
  qi__q8 x = {q, d, sum, K, K, K};
  for (size_t i = 0; i < ROWS * K; i++) w[i] = (float)((int)(next_random() % 3) - 1) * 0.375f;
  for (size_t i = 0; i < ROWS * K; i += 256) w[i] = 0.375f;
  fill_activations(&x, N, RANDOM);
  for (int isa = QI_ISA_SCALAR; isa < QI_ISA_COUNT; isa++) {
    qi_isa chosen;
    qi__cpu cpu;
    if (qi__isa_choose((qi_isa)isa, &chosen, &cpu, NULL) || chosen != (qi_isa)isa) continue;
    qi__kernels k;
    qi__kernels_init(&k, &cpu);
    for (size_t n_x = 1; n_x <= N; n_x += N - 1)
      for (int f = 0; f < 3; f++) {
        qi__quantize(ids[f], w, data[f], ROWS, K, NULL);
        qi__bound bound;
        size_t row_bytes = qi__row_bytes(ids[f], K);
        assert_int_equal(qi__format_bind(&bound, ids[f], data[f] + ROWS * row_bytes, "", NULL), QI_OK);
        qi__dot_q8_args args = {&bound.format, data[f], row_bytes, ROWS, &x, 0, n_x, y[f], ROWS, scratch, QI__FETCH_PAGES};
        k.dot_q8[ids[f]](&args);
        assert_memory_equal(y[f], y[0], ROWS * n_x * sizeof(float));
        if (isa == QI_ISA_SCALAR && f == 0 && n_x == N) memcpy(y[3], y[0], sizeof y[3]);
      }
    assert_memory_equal(y[0], y[3], sizeof y[3]);
  }
}

// Each byte of a block takes each value, so that every code, scale and index occurs in every place.
static void check_bytes(qi_format id, qi__dot_q8_fn dot) {
  qi__bound bound;
  const qi__format *f = bind(&bound, id, RANDOM);
  size_t block = (size_t)f->info.block_len, size = (size_t)f->info.block_bytes;
  static uint8_t w[16 * 320];
  static int8_t q[256];
  static float d[1] = {0.25f}, a[16], b[16];
  static int16_t sum[16];
  qi__q8 x = {q, d, sum, block, block, block};
  fill_activations(&x, 1, RANDOM);
  for (int value = 0; value < 256; value += 16) {
    for (size_t r = 0; r < 16; r++) {
      memset(w + r * size, value + (int)r, size);
      make_block_finite(id, w + r * size);
    }
    qi__dot_q8_args args = {f, w, size, 16, &x, 0, 1, a, 16, scratch, QI__FETCH_LINES};
    reference(&args);
    args.y = b;
    dot(&args);
    assert_memory_equal(a, b, sizeof a);
  }
}
static void test_bytes(void **state) {
  (void)state;
  for_each_variant(check_bytes);
}

// ---- activations ----

static void compare_quantized(void (*quantize)(const float *, const qi__q8 *, size_t), const float *x, size_t block, size_t k) {
  static int8_t q[2][2 * MAX_K + 64];
  static float d[2][2 * MAX_K / 32];
  static int16_t sum[2][2 * MAX_K / 16];
  memset(q, 55, sizeof q), memset(d, 55, sizeof d), memset(sum, 55, sizeof sum);
  for (int v = 0; v < 2; v++) {
    qi__q8 out = {q[v], d[v], sum[v], block, k, block == k ? k + 64 : k};
    (v ? quantize : qi__quantize_q8_ref)(x, &out, 1);
  }
  assert_memory_equal(q[0], q[1], sizeof q[0]);
  assert_memory_equal(d[0], d[1], sizeof d[0]);
  assert_memory_equal(sum[0], sum[1], sizeof sum[0]);
}

static void check_quantize(void (*quantize)(const float *, const qi__q8 *, size_t)) {
  static float x[MAX_K + 1];
  static const float special[] = {0.0f, -0.0f, 1e-45f, -1e-40f, 3e38f, 1.0f, 0.5f, 127.0f, -126.5f, 63.5f, INFINITY, NAN};
  for (int round = 0; round < 60; round++) {
    uint32_t n_special = round < 20 ? 0 : round < 40 ? 10 : 12, every = 1 + next_random() % 64;
    float scale = ldexpf(1.0f, round % 40 * 4 - 80);
    for (size_t i = 0; i <= MAX_K; i++) {
      x[i] = (float)((int)(next_random() & 0xffffff) - 0x800000) * scale;
      if (round % 5 == 0) x[i] = (float)((int)(next_random() % 509) - 254) * 0.5f; // ties
      if (n_special && next_random() % every == 0) x[i] = special[next_random() % n_special];
    }
    compare_quantized(quantize, x + 1, 32, 32 * (1 + next_random() % 64));
    compare_quantized(quantize, x + 1, 256, 256 * (1 + next_random() % 8));
    size_t row = 256 * (1 + next_random() % 8);
    compare_quantized(quantize, x + 1, row, row); // as ternary weights want it
  }
}

static void test_quantize(void **state) {
  (void)state;
  for (int isa = QI_ISA_SCALAR + 1; isa < QI_ISA_COUNT; isa++) {
    qi_isa chosen;
    qi__cpu cpu;
    if (qi__isa_choose((qi_isa)isa, &chosen, &cpu, NULL) || chosen != (qi_isa)isa) continue;
    qi__kernels k;
    qi__kernels_init(&k, &cpu);
    check_quantize(k.quantize_q8);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_shapes),
      cmocka_unit_test(test_contents),
      cmocka_unit_test(test_bytes),
      cmocka_unit_test(test_ternary_runs),
      cmocka_unit_test(test_ternary_reference),
      cmocka_unit_test(test_ternary_formats),
      cmocka_unit_test(test_quantize),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
