// Integer products: every variant that this CPU has gives the bits of the reference, for all formats and shapes.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { MAX_W = 32, MAX_X = 80, MAX_K = 2048 };

typedef struct shape {
  size_t n_w, n_x, k, x_row, gap; // gap: bytes between weight rows
} shape;

typedef enum contents { RANDOM, ALL_ONES, EXTREME, BIG_SCALES } contents;

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

static void fill_weights(qi_format id, contents what, uint8_t *w, size_t n_blocks) {
  size_t size = (size_t)qi__formats[id].info.block_bytes;
  for (size_t b = 0; b < n_blocks; b++, w += size) {
    for (size_t i = 0; i < size; i++) {
      uint32_t r = next_random();
      w[i] = what == ALL_ONES ? 0xff : what == EXTREME ? (r & 1 ? 0x80 : r & 2 ? 0x7f : r & 4 ? 0 : 0xff) : (uint8_t)r;
    }
    make_block_finite(id, w);
    if (what == BIG_SCALES && qi__formats[id].info.block_len == 32) qi__store_u16(w, 0x7bff);
  }
}

static void fill_activations(const qi__q8 *x, size_t n, bool extreme) {
  for (size_t i = 0; i < n * x->k; i++) {
    uint32_t r = next_random();
    x->q[i] = extreme ? (r & 1 ? 127 : -127) : (int8_t)((int)(r % 255) - 127);
  }
  for (size_t i = 0; i < n * x->k / 16; i++) {
    int s = 0;
    for (int j = 0; j < 16; j++) s += x->q[16 * i + (size_t)j];
    x->sum[i] = (int16_t)s;
  }
  for (size_t i = 0; i < n * x->k / (size_t)x->block; i++)
    x->d[i] = (float)((int)(next_random() & 0xffff) - 0x8000) * 0.000123f;
}

static float scratch[QI__Q8_PANELS * QI__Q8_PANEL_FLOATS + QI__Q8_BATCH * QI__Q8_LANES];
static float expected[MAX_W * MAX_X], found[MAX_W * MAX_X];

// Exact ends of the arrays, so that a sanitizer sees each byte read too far.
static void compare(qi_format id, qi__dot_q8_fn dot, const shape *s, contents what) {
  const qi__format *f = &qi__formats[id];
  size_t block = (size_t)f->info.block_len, row = s->k / block * (size_t)f->info.block_bytes, stride = row + s->gap;
  size_t n_rows = s->x_row + s->n_x, n_bytes = (s->n_w - 1) * stride + row;
  uint8_t *w = malloc(n_bytes + 1), *weights = w + 1;
  float *d = malloc(n_rows * (s->k / block) * sizeof *d);
  int16_t *sum = malloc(n_rows * (s->k / 16) * sizeof *sum);
  qi__q8 x = {malloc(n_rows * s->k), d, sum, (int)block, s->k};
  assert_true(w && x.q && x.d && x.sum);
  memset(w, 0xee, n_bytes + 1);
  for (size_t r = 0; r < s->n_w; r++) fill_weights(id, what, weights + r * stride, s->k / block);
  fill_activations(&x, n_rows, what == ALL_ONES || what == EXTREME);
  size_t y_stride = s->n_w + s->gap % 3;
  for (size_t i = 0; i < MAX_W * MAX_X; i++) expected[i] = found[i] = 1234.5f;
  qi__dot_q8_args args = {f, weights, stride, s->n_w, &x, s->x_row, s->n_x, expected, y_stride, scratch};
  qi__dot_q8_ref(&args);
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
  for (int isa = QI_ISA_SCALAR + 1; isa < QI_ISA_COUNT; isa++) {
    qi_isa chosen;
    qi__cpu cpu;
    if (qi__isa_choose((qi_isa)isa, &chosen, &cpu, NULL) || chosen != (qi_isa)isa) continue;
    qi__kernels k;
    qi__kernels_init(&k, &cpu);
    for (int id = QI_FORMAT_NONE + 1; id < QI_FORMAT_COUNT; id++)
      if (k.dot_q8[id] && k.dot_q8[id] != qi__dot_q8_ref) check((qi_format)id, k.dot_q8[id]);
  }
}

static void check_shapes(qi_format id, qi__dot_q8_fn dot) {
  size_t block = (size_t)qi__formats[id].info.block_len;
  for (size_t n_w = 1; n_w <= MAX_W; n_w++) compare(id, dot, &(shape){n_w, 1, 3 * block, 0, n_w % 4}, RANDOM);
  for (size_t n_x = 1; n_x <= 40; n_x++) compare(id, dot, &(shape){1 + n_x % 6, n_x, 2 * block, n_x % 3, 0}, RANDOM);
  for (size_t blocks = 1; blocks <= 19 && blocks * block <= MAX_K; blocks++) {
    compare(id, dot, &(shape){3, 1, blocks * block, 1, 5}, RANDOM);
    compare(id, dot, &(shape){5, 3, blocks * block, 0, 0}, RANDOM);
  }
  compare(id, dot, &(shape){MAX_W, MAX_X, 256, 0, 0}, RANDOM);
}
static void test_shapes(void **state) {
  (void)state;
  for_each_variant(check_shapes);
}

static void check_contents(qi_format id, qi__dot_q8_fn dot) {
  for (int round = 0; round < 8; round++)
    for (contents what = RANDOM; what <= BIG_SCALES; what++) {
      compare(id, dot, &(shape){6, 1, 2048, 0, 1}, what);
      compare(id, dot, &(shape){6, 4, 2048, 0, 1}, what);
    }
}
static void test_contents(void **state) {
  (void)state;
  for_each_variant(check_contents);
}

// Each byte of a block takes each value, so that every code, scale and index occurs in every place.
static void check_bytes(qi_format id, qi__dot_q8_fn dot) {
  const qi__format *f = &qi__formats[id];
  size_t block = (size_t)f->info.block_len, size = (size_t)f->info.block_bytes;
  static uint8_t w[16 * 320];
  static int8_t q[256];
  static float d[1] = {0.25f}, a[16], b[16];
  static int16_t sum[16];
  qi__q8 x = {q, d, sum, (int)block, block};
  fill_activations(&x, 1, false);
  for (int value = 0; value < 256; value += 16) {
    for (size_t r = 0; r < 16; r++) {
      memset(w + r * size, value + (int)r, size);
      make_block_finite(id, w + r * size);
    }
    qi__dot_q8_args args = {f, w, size, 16, &x, 0, 1, a, 16, scratch};
    qi__dot_q8_ref(&args);
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

static void compare_quantized(void (*quantize)(const float *, const qi__q8 *, size_t), const float *x, int block, size_t k) {
  static int8_t q[2][2 * MAX_K];
  static float d[2][2 * MAX_K / 32];
  static int16_t sum[2][2 * MAX_K / 16];
  memset(q, 55, sizeof q), memset(d, 55, sizeof d), memset(sum, 55, sizeof sum);
  for (int v = 0; v < 2; v++) {
    qi__q8 out = {q[v], d[v], sum[v], block, k};
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
      cmocka_unit_test(test_quantize),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
