// The IQ grid formats: own blocks with known weights, grids, every d, damaged input, and ../shared/golden when it is there.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/iq_vectors.h"

#define N_BLOCK 256
#define MAX_BYTES 110

typedef struct iq_case {
  const char *name;
  void (*unpack)(const uint8_t *src, qi__block *out);
  size_t bytes;
  int group;
  float fraction;
  const uint8_t *blocks[2];
  const int16_t *weights[2];
  int8_t magnitudes[8]; // what |q| may be
} iq_case;

#define VECTORS(n) {n##_block0, n##_block1}, {n##_weights0, n##_weights1}
static const iq_case cases[] = {
  {"IQ2_XXS", qi__unpack_iq2_xxs, QI__IQ2_XXS_BYTES, 32, 0.125f, VECTORS(iq2_xxs), {8, 25, 43}},
  {"IQ2_XS", qi__unpack_iq2_xs, QI__IQ2_XS_BYTES, 16, 0.125f, VECTORS(iq2_xs), {8, 25, 43}},
  {"IQ2_S", qi__unpack_iq2_s, QI__IQ2_S_BYTES, 16, 0.125f, VECTORS(iq2_s), {8, 25, 43}},
  {"IQ3_XXS", qi__unpack_iq3_xxs, QI__IQ3_XXS_BYTES, 32, 0.25f, VECTORS(iq3_xxs), {4, 12, 20, 28, 36, 44, 52, 62}},
  {"IQ3_S", qi__unpack_iq3_s, QI__IQ3_S_BYTES, 32, 1.0f, VECTORS(iq3_s), {1, 3, 5, 7, 9, 11, 13, 15}},
  {"IQ1_S", qi__unpack_iq1_s, QI__IQ1_S_BYTES, 32, 0.125f, VECTORS(iq1_s), {1, 7, 9}},
  {"IQ1_M", qi__unpack_iq1_m, QI__IQ1_M_BYTES, 16, 0.125f, VECTORS(iq1_m), {1, 7, 9}},
};
#define N_CASES (sizeof cases / sizeof cases[0])

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 16;
}

static float weight(const iq_case *c, const qi__block *b, int i) {
  float scale = b->d * b->scale[i / c->group];
  return scale * b->q[i];
}

static void set_d(const iq_case *c, uint8_t *block, uint16_t d) {
  if (c->bytes != QI__IQ1_M_BYTES) {
    qi__store_u16(block, d);
    return;
  }
  for (int i = 0; i < 4; i++) block[49 + 2 * i] = (uint8_t)((block[49 + 2 * i] & 15) | (d >> 4 * i & 15) << 4);
}

// Unpacks from memory of just the block's size at an odd address, so that sanitizers see a read beyond it.
static void unpack_exact(const iq_case *c, const uint8_t *block, qi__block *out) {
  uint8_t *copy = (uint8_t *)malloc(c->bytes + 1);
  assert_non_null(copy);
  memcpy(copy + 1, block, c->bytes);
  memset(out, 0x55, sizeof *out);
  c->unpack(copy + 1, out);
  free(copy);
}

static void test_known_blocks(void **state) {
  (void)state;
  for (size_t k = 0; k < 2 * N_CASES; k++) {
    const iq_case *c = &cases[k / 2];
    float unit = k % 2 ? c->fraction / 16777216.0f : c->fraction;
    qi__block b;
    unpack_exact(c, c->blocks[k % 2], &b);
    for (int i = 0; i < N_BLOCK; i++) {
      float expected = (float)c->weights[k % 2][i] * unit;
      if (qi__f32_bits(weight(c, &b, i)) != qi__f32_bits(expected))
        fail_msg("%s block %d weight %d: %a, expected %a", c->name, (int)(k % 2), i, (double)weight(c, &b, i), (double)expected);
    }
  }
}

static void test_every_d(void **state) {
  (void)state;
  for (size_t k = 0; k < N_CASES; k++) {
    uint8_t block[MAX_BYTES] = {0};
    qi__block b;
    for (uint32_t d = 0; d < 0x10000; d++) {
      float f = qi__f16_to_f32((uint16_t)d);
      set_d(&cases[k], block, (uint16_t)d);
      cases[k].unpack(block, &b);
      if (qi__is_nan(f)) assert_true(qi__is_nan(b.d));
      else assert_int_equal(qi__f32_bits(b.d), qi__f32_bits(f * cases[k].fraction));
    }
  }
}

static void test_random_bytes_stay_in_range(void **state) {
  (void)state;
  uint32_t seed = 7;
  for (size_t k = 0; k < N_CASES; k++)
    for (int round = 0; round < 500; round++) {
      const iq_case *c = &cases[k];
      uint8_t block[MAX_BYTES];
      for (size_t i = 0; i < c->bytes; i++) block[i] = round == 0 ? 0 : round == 1 ? 255 : (uint8_t)next_random(&seed);
      qi__block b;
      unpack_exact(c, block, &b);
      assert_true(b.dmin == 0);
      for (size_t g = 0; g < QI__COUNT_OF(b.min); g++) assert_int_equal(b.min[g], 0);
      for (int g = 0; g < N_BLOCK / c->group; g++) assert_true(b.scale[g] % 2 == 1 && b.scale[g] >= 1 && b.scale[g] <= 31);
      for (int i = 0; i < N_BLOCK; i++) {
        bool found = false;
        for (int j = 0; j < 8; j++) found |= c->magnitudes[j] && abs(b.q[i]) == c->magnitudes[j];
        if (!found) fail_msg("%s: q = %d", c->name, b.q[i]);
      }
    }
}

// FNV-1a over the expanded grid, in the bytes of ggml's tables.
static uint32_t hash_grid(const uint16_t *grid, size_t n, int width, const int8_t *values) {
  uint32_t h = 2166136261u;
  for (size_t p = 0; p < n; p++) {
    int8_t q[8];
    if (width == 8) qi__iq_point8(grid[p], values, q);
    else qi__iq_point4(grid[p], values, q);
    for (int j = 0; j < width; j++) h = (h ^ (uint8_t)q[j]) * 16777619u;
  }
  return h;
}

static void test_grids(void **state) {
  (void)state;
  static const int8_t trits[4] = {-1, 0, 1, 99};
  assert_int_equal(hash_grid(qi__iq2_xxs_grid, 256, 8, qi__iq2_values), 0x3db4a16eu);
  assert_int_equal(hash_grid(qi__iq2_xs_grid, 512, 8, qi__iq2_values), 0xebeb17ddu);
  assert_int_equal(hash_grid(qi__iq2_s_grid, 1024, 8, qi__iq2_values), 0x82981110u);
  assert_int_equal(hash_grid(qi__iq3_xxs_grid, 256, 4, qi__iq3_xxs_values), 0x49a45035u);
  assert_int_equal(hash_grid(qi__iq3_s_grid, 512, 4, qi__iq3_s_values), 0x71cc6c89u);
  assert_int_equal(hash_grid(qi__iq1_grid, 2048, 8, trits), 0x2fe8cbceu);
  for (int i = 0; i < 3; i++) assert_int_equal(qi__iq1_values[i], 8 * trits[i]);
}

static void test_sign_codes(void **state) {
  (void)state;
  for (uint32_t code = 0; code < 128; code++) {
    uint32_t signs = qi__iq_sign_code(code);
    int8_t q[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    int n_negative = 0;
    assert_int_equal(signs & 127, code);
    assert_true(signs < 256);
    qi__iq_apply_signs(signs, q);
    for (int j = 0; j < 8; j++) {
      assert_int_equal(q[j], signs >> j & 1 ? -(j + 1) : j + 1);
      n_negative += q[j] < 0;
    }
    assert_int_equal(n_negative % 2, 0);
  }
}

// Whole file of at most `cap` bytes; 0 when it cannot be opened.
static size_t read_golden(const char *name, const char *ending, uint8_t *dst, size_t cap) {
  char path[128];
  snprintf(path, sizeof path, "../shared/golden/dequant/%s.%s", name, ending);
  FILE *f = fopen(path, "rb");
  if (!f) return 0;
  size_t n = fread(dst, 1, cap, f);
  fclose(f);
  return n;
}

static void test_golden(void **state) {
  (void)state;
  enum { N_GOLDEN = 8 };
  static uint8_t blocks[N_GOLDEN * MAX_BYTES + 1], floats[N_GOLDEN * N_BLOCK * 4 + 1];
  int n_files = 0;
  for (size_t k = 0; k < N_CASES; k++) {
    const iq_case *c = &cases[k];
    size_t n = read_golden(c->name, "blocks", blocks, sizeof blocks);
    if (!n) continue;
    assert_int_equal(n, N_GOLDEN * c->bytes);
    assert_int_equal(read_golden(c->name, "f32", floats, sizeof floats), N_GOLDEN * N_BLOCK * 4);
    for (size_t i = 0; i < N_GOLDEN; i++) {
      qi__block b;
      unpack_exact(c, blocks + i * c->bytes, &b);
      for (int j = 0; j < N_BLOCK; j++)
        if (qi__f32_bits(weight(c, &b, j)) != qi__load_u32(floats + 4 * (i * N_BLOCK + (size_t)j)))
          fail_msg("%s block %d weight %d differs", c->name, (int)i, j);
    }
    n_files++;
  }
  if (!n_files) {
    print_message("no ../shared/golden/dequant\n");
    skip();
  }
  assert_int_equal(n_files, 6); // there is none of IQ1_M
}

#if defined(QI__X86_64)
// The SIMD form gives the same blocks, from memory of just their size.
static void test_avx2(void **state) {
  (void)state;
  uint32_t seed = 11;
  if (!qi__cpu_detect().avx2) skip();
  for (size_t k = 0; k < N_CASES; k++)
    for (int round = 0; round < 2000; round++) {
      const iq_case *c = &cases[k];
      uint8_t *src = (uint8_t *)malloc(c->bytes);
      qi__block expected, found;
      assert_non_null(src);
      for (size_t i = 0; i < c->bytes; i++) src[i] = round < 256 ? (uint8_t)round : (uint8_t)next_random(&seed);
      const qi__format *f = qi__formats;
      while (f->unpack != c->unpack) f++;
      memset(&found, 0x55, sizeof found);
      c->unpack(src, &expected);
      qi__unpack_avx2(f, src, &found);
      if (qi__is_nan(expected.d)) assert_true(qi__is_nan(found.d));
      else assert_int_equal(qi__f32_bits(expected.d), qi__f32_bits(found.d));
      assert_true(found.dmin == 0);
      assert_memory_equal(expected.q, found.q, sizeof found.q);
      assert_memory_equal(expected.scale, found.scale, sizeof(int16_t) * N_BLOCK / (size_t)c->group);
      assert_memory_equal(expected.min, found.min, sizeof found.min);
      free(src);
    }
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_known_blocks), cmocka_unit_test(test_every_d),    cmocka_unit_test(test_random_bytes_stay_in_range),
    cmocka_unit_test(test_grids),        cmocka_unit_test(test_sign_codes), cmocka_unit_test(test_golden),
#if defined(QI__X86_64)
    cmocka_unit_test(test_avx2),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
