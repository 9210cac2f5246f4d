// Float kernels: every variant that this CPU has against its reference, bit for bit; the BF16 product against a bound.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/sparse.h"

// ---- helpers ----

static uint64_t next_random(uint64_t *state) { // splitmix64
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static float uniform(uint64_t *state) { return (float)(int32_t)(next_random(state) >> 40) * 0x1p-23f - 1.0f; }

// Kinds of inputs: ordinary numbers; small and subnormal ones with zeros of both signs; large ones with infinities.
enum { ORDINARY, TINY, HUGE_ONES, N_KINDS };

static float number(uint64_t *state, int kind) {
  float v = uniform(state);
  unsigned choice = (unsigned)(next_random(state) >> 60);
  if (kind == TINY) return choice == 0 ? 0.0f : choice == 1 ? -0.0f : choice < 8 ? v * 0x1p-130f : v * 0x1p-70f;
  if (kind == HUGE_ONES) return choice == 0 ? INFINITY : choice == 1 ? -INFINITY : choice < 8 ? v * 0x1p120f : v;
  return v * 4;
}

static void fill(uint64_t *state, int kind, float *x, size_t n) {
  for (size_t i = 0; i < n; i++) x[i] = number(state, kind);
}

// Equal bits, but any NaN equals any other: which one comes out of two is not fixed.
static bool same(const float *a, const float *b, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (qi__f32_bits(a[i]) != qi__f32_bits(b[i]) && !(qi__is_nan(a[i]) && qi__is_nan(b[i]))) return false;
  return true;
}

#define ASSERT_SAME(a, b, n, ...)                                                                                                  \
  do {                                                                                                                             \
    if (!same(a, b, n)) {                                                                                                          \
      print_error(__VA_ARGS__);                                                                                                    \
      fail();                                                                                                                      \
    }                                                                                                                              \
  } while (0)

// Kernel tables of the levels that this machine has, references first; no table twice.
typedef struct level {
  const char *name;
  qi__cpu cpu;
  qi__kernels kernels;
} level;

static level levels[QI_ISA_COUNT];
static int n_levels;
static qi__kernels ref;

static int set_up(void **state) {
  (void)state;
  qi__kernels_init_ref(&ref);
  for (int isa = QI_ISA_SCALAR; isa < QI_ISA_COUNT; isa++) {
    qi_isa chosen;
    level *l = &levels[n_levels];
    if (qi__isa_choose((qi_isa)isa, &chosen, &l->cpu, NULL) || chosen != (qi_isa)isa) continue;
    l->name = qi__isa_name(chosen);
    qi__kernels_init(&l->kernels, &l->cpu);
    if (!n_levels || memcmp(&l->kernels, &levels[n_levels - 1].kernels, sizeof l->kernels) != 0) n_levels++;
  }
  return n_levels ? 0 : -1;
}

// The n-th length to try.
static size_t length(int n) {
  static const size_t longer[] = {95, 96, 127, 128, 129, 255, 256, 257, 511, 1000};
  return n <= 70 ? (size_t)n : longer[n - 71];
}
#define N_LENGTHS 81

#define ROOM 8192
static float a[ROOM], b[ROOM], want[ROOM], got[ROOM];
static uint16_t halves_want[ROOM], halves_got[ROOM];
static uint8_t bytes[65536];

// ---- vectors ----

static void test_vectors(void **state) {
  (void)state;
  uint64_t random = 1;
  for (int l = 0; l < n_levels; l++) {
    const qi__kernels *k = &levels[l].kernels;
    for (int kind = 0; kind < N_KINDS; kind++)
      for (int i = 0; i < N_LENGTHS; i++) {
        size_t n = length(i), off = next_random(&random) % 9;
        float *x = a + off, *y = b + 1, *r = want + 3, *g = got + 3;
        fill(&random, kind, a, n + 16);
        fill(&random, kind, b, n + 16);
        memset(got, 7, sizeof got);
        memset(want, 7, sizeof want);

        ref.rms_norm(x, y, 1e-5f, n, r);
        k->rms_norm(x, y, 1e-5f, n, g);
        ASSERT_SAME(want, got, n + 8, "%s rms_norm %zu\n", levels[l].name, n);
        for (int form = 0; form < 4; form++) { // two rows, with and without bias, set and added to
          qi__results to = {x, n / 2, form & 1 ? y : NULL, n / 2, 2, form & 2, r, n / 2 + 1};
          memcpy(want, a, sizeof want);
          memcpy(got, a, sizeof got);
          ref.take(&to);
          to.y = g;
          k->take(&to);
          ASSERT_SAME(want, got, n + 8, "%s take, form %d, %zu\n", levels[l].name, form, n);
        }
        ref.swiglu(x, y, n, r);
        k->swiglu(x, y, n, g);
        ASSERT_SAME(want, got, n + 8, "%s swiglu %zu\n", levels[l].name, n);
        ref.relu2(x, y, n, r);
        k->relu2(x, y, n, g);
        ASSERT_SAME(want, got, n + 8, "%s relu2 %zu\n", levels[l].name, n);
        ref.round_bf16(x, n, r);
        k->round_bf16(x, n, g);
        ASSERT_SAME(want, got, n + 8, "%s round_bf16 %zu\n", levels[l].name, n);

        memset(halves_want, 7, sizeof halves_want);
        memset(halves_got, 7, sizeof halves_got);
        ref.to_f16(x, n, halves_want + 1);
        k->to_f16(x, n, halves_got + 1);
        assert_memory_equal(halves_want, halves_got, 2 * (n + 8));
      }
  }
}

// In place: y may be x.
static void test_vectors_in_place(void **state) {
  (void)state;
  uint64_t random = 2;
  for (int l = 0; l < n_levels; l++)
    for (int i = 0; i < N_LENGTHS; i++) {
      size_t n = length(i);
      fill(&random, ORDINARY, a, n);
      fill(&random, ORDINARY, b, n);
      memcpy(want, a, sizeof a);
      memcpy(got, a, sizeof a);
      ref.rms_norm(want, b, 1e-6f, n, want);
      levels[l].kernels.rms_norm(got, b, 1e-6f, n, got);
      ASSERT_SAME(want, got, n, "%s rms_norm in place %zu\n", levels[l].name, n);
      ref.swiglu(want, b, n, want);
      levels[l].kernels.swiglu(got, b, n, got);
      ASSERT_SAME(want, got, n, "%s swiglu in place %zu\n", levels[l].name, n);
      ref.relu2(want, b, n, want);
      levels[l].kernels.relu2(got, b, n, got);
      ASSERT_SAME(want, got, n, "%s relu2 in place %zu\n", levels[l].name, n);
      ref.round_bf16(want, n, want);
      levels[l].kernels.round_bf16(got, n, got);
      ASSERT_SAME(want, got, n, "%s round_bf16 in place %zu\n", levels[l].name, n);
    }
}

// Conversions at the edges of rounding, and NaNs with their payload: here NaNs must be equal, too.
static void test_conversions(void **state) {
  (void)state;
  uint64_t random = 3;
  for (size_t i = 0; i < 4096; i++) {
    uint32_t u = (uint32_t)next_random(&random);
    if (i % 4 == 0) u = (u & 0xffff0000u) | (0x7fffu + u % 3);                      // ties of bfloat16
    if (i % 4 == 1) u = (u & 0x80ffe000u) | 0x38000000u | (0x0fffu + (u & 0xfff) % 3); // ties of float16
    if (i % 64 == 2) u |= 0x7f800000u;                                               // NaN
    a[i] = qi__bits_f32(u);
  }
  for (int l = 0; l < n_levels; l++) {
    ref.round_bf16(a, 4096, want);
    levels[l].kernels.round_bf16(a, 4096, got);
    assert_memory_equal(want, got, 4096 * sizeof *want);
    ref.to_f16(a, 4096, halves_want);
    levels[l].kernels.to_f16(a, 4096, halves_got);
    assert_memory_equal(halves_want, halves_got, 4096 * sizeof *halves_want);
  }
}

static void test_rope(void **state) {
  (void)state;
  uint64_t random = 4;
  for (int l = 0; l < n_levels; l++)
    for (int neighbours = 0; neighbours < 2; neighbours++)
      for (int kind = 0; kind < 2; kind++)
        for (size_t n = 0; n <= 70; n++) {
          fill(&random, ORDINARY, b, 2 * n + 1);
          fill(&random, kind, want, 2 * n + 8);
          memcpy(got, want, sizeof got);
          ref.rope(want + 1, b + 1, n, neighbours);
          levels[l].kernels.rope(got + 1, b + 1, n, neighbours);
          ASSERT_SAME(want, got, 2 * n + 8, "%s rope %zu %d\n", levels[l].name, n, neighbours);
        }
}

// ---- what is fetched ahead ----

// The groups of a window ask for each of its lines once, of each page in order.
static void test_fetch_groups(void **state) {
  (void)state;
  enum { GROUP = 8 * QI__CACHE_LINE, N = QI__FETCH_WINDOW / GROUP };
  const uintptr_t window = (uintptr_t)QI__FETCH_WINDOW * 12345;
  for (uintptr_t i = 0; i < N; i++) assert_int_equal(window + i * QI__CACHE_LINE, qi__fetch_group(window / GROUP + i));
  assert_int_equal(QI__FETCH_PAGE, N * QI__CACHE_LINE);
  assert_int_equal(window + QI__FETCH_WINDOW, qi__fetch_group(window / GROUP + N));
}

// Turns ask for each line once, four pages beside each other.
static void test_fetch_turns(void **state) {
  (void)state;
  enum { N = QI__FETCH_TURN / QI__CACHE_LINE };
  bool seen[2 * N] = {false};
  for (size_t i = 0; i < 2 * N; i++) {
    size_t at = qi__fetch_turn(i * QI__CACHE_LINE), page = at / QI__FETCH_PAGE;
    assert_int_equal(page, i / N * 4 + i % 4);
    assert_int_equal(at % QI__CACHE_LINE, 0);
    assert_true(at / QI__CACHE_LINE < 2 * N && !seen[at / QI__CACHE_LINE]);
    seen[at / QI__CACHE_LINE] = true;
  }
}

// Only processors of one maker are asked for pages in turns.
static void test_fetch_choice(void **state) {
  (void)state;
  qi__kernels kernels;
  qi__cpu cpu;
  memset(&cpu, 0, sizeof cpu);
  qi__kernels_init(&kernels, &cpu);
  assert_int_equal(QI__FETCH_LINES, kernels.fetch);
  cpu.intel = true;
  qi__kernels_init(&kernels, &cpu);
  assert_int_equal(QI__FETCH_PAGES, kernels.fetch);
}

// ---- products of floats ----

static void test_dot_float(void **state) {
  (void)state;
  uint64_t random = 5;
  for (int l = 0; l < n_levels; l++)
    for (int format = QI_FORMAT_F32; format <= QI_FORMAT_BF16; format++)
      for (int i = 0; i < N_LENGTHS; i++) {
        size_t k = length(i), n_w = next_random(&random) % 20, n_x = next_random(&random) % 15;
        if (k > 200) n_w %= 10, n_x %= 8;
        size_t x_stride = k + next_random(&random) % 3, element = format == QI_FORMAT_F32 ? 4 : 2;
        size_t w_stride = element * k + next_random(&random) % 5, y_stride = n_w + next_random(&random) % 3;
        uint8_t *w = bytes + next_random(&random) % 7;
        float *x = a + next_random(&random) % 3;
        int kind = (int)(next_random(&random) % N_KINDS);
        fill(&random, kind, a, ROOM);
        for (size_t r = 0; r < n_w; r++) {
          fill(&random, ORDINARY, b, k);
          qi__formats[format].quantize(b, w + r * w_stride, k, NULL);
        }
        memset(want, 0, sizeof want);
        memset(got, 0, sizeof got);
        ref.dot_float[format](w, w_stride, n_w, x, x_stride, n_x, k, want, y_stride, QI__FETCH_LINES);
        levels[l].kernels.dot_float[format](w, w_stride, n_w, x, x_stride, n_x, k, got, y_stride, (qi__fetch)(i % 2));
        ASSERT_SAME(want, got, ROOM, "%s dot_float format %d: %zu x %zu x %zu\n", levels[l].name, format, n_w, n_x, k);
      }
}

// Rows longer than QI__FLOAT_LONG, which one row of activations takes some beside each other; tails of rows and of columns.
static void test_dot_float_long(void **state) {
  (void)state;
  enum { N_W = 13, N_X = 4, K = QI__FLOAT_LONG + 11 };
  static float x[N_X * K], row[K], y[2][N_X * N_W];
  static uint8_t w[N_W * (4 * K + 1)];
  uint64_t random = 7;
  fill(&random, ORDINARY, x, N_X * K);
  for (int l = 0; l < n_levels; l++)
    for (int format = QI_FORMAT_F32; format <= QI_FORMAT_BF16; format++)
      for (size_t k = QI__FLOAT_LONG; k <= K; k += 11) {
        size_t stride = (format == QI_FORMAT_F32 ? 4 : 2) * k + 1;
        for (size_t r = 0; r < N_W; r++) {
          fill(&random, ORDINARY, row, k);
          qi__formats[format].quantize(row, w + r * stride, k, NULL);
        }
        for (size_t n_x = 1; n_x <= N_X; n_x += N_X - 1) {
          ref.dot_float[format](w, stride, N_W, x, K, n_x, k, y[0], N_W, QI__FETCH_LINES);
          for (int fetch = QI__FETCH_LINES; fetch <= QI__FETCH_PAGES; fetch++) {
            levels[l].kernels.dot_float[format](w, stride, N_W, x, K, n_x, k, y[1], N_W, (qi__fetch)fetch);
            ASSERT_SAME(y[0], y[1], n_x * N_W, "%s dot_float format %d: %zu x %zu\n", levels[l].name, format, n_x, k);
          }
        }
      }
}

// ---- attention ----

#define MAX_ROWS 19
#define MAX_DIM 256

static float q[MAX_ROWS * MAX_DIM + 1], scores[2][MAX_ROWS * QI__ATTENTION_PIECE], keys[QI__ATTENTION_PIECE * MAX_DIM];
static const qi_kv_type float_types[] = {QI_KV_F32, QI_KV_F16, QI_KV_BF16};

// x [n] in another type; itself where it is F32.
static const void *as_type(const float *x, size_t n, qi_kv_type type) {
  static uint16_t y[QI__ATTENTION_PIECE * MAX_DIM];
  if (type == QI_KV_F32) return x;
  for (size_t i = 0; i < n; i++) y[i] = type == QI_KV_F16 ? qi__f32_to_f16(x[i]) : qi__f32_to_bf16(x[i]);
  return y;
}

// Every number of query rows up to more than two tiles, heads of all kinds of sizes, whole and begun pieces. The same memory serves
// as keys and as values.
static void test_attention(void **state) {
  (void)state;
  uint64_t random = 6;
  static const size_t dims[] = {1, 4, 7, 8, 16, 20, 32, 64, 72, 80, 96, 100, 112, 128, 192, 256};
  for (int l = 0; l < n_levels; l++)
    for (size_t d = 0; d < QI__COUNT_OF(dims); d++)
      for (size_t t = 0; t < 3 * MAX_ROWS; t += SPARSE ? 4 : 1) {
        const qi__kernels *k = &levels[l].kernels;
        size_t dim = dims[d], n = t % 5 == 0 ? 256 : 1 + next_random(&random) % 100, n_q = 1 + t / 3;
        size_t begin = next_random(&random) % n, end = begin + 1 + next_random(&random) % (n - begin), whole = (n + 15) / 16 * 16;
        qi_kv_type type = float_types[t % 3];
        fill(&random, ORDINARY, q, n_q * dim + 1);
        fill(&random, ORDINARY, keys, whole * dim);
        const void *kv = as_type(keys, whole * dim, type);
        qi__kv_run run = {kv, kv, n, type, kv, t % 2 ? QI__FETCH_PAGES : QI__FETCH_LINES};
        for (int i = 0; i < 2; i++) fill(&random, ORDINARY, scores[i], n_q * QI__ATTENTION_PIECE);
        ref.attention_scores(q + 1, n_q, &run, dim, scores[0]);
        k->attention_scores(q + 1, n_q, &run, dim, scores[1]);
        for (size_t g = 0; g < n_q; g++)
          ASSERT_SAME(scores[0] + g * QI__ATTENTION_PIECE, scores[1] + g * QI__ATTENTION_PIECE, n, "%s scores %zu %zu %zu\n",
                      levels[l].name, n_q, n, dim);
        fill(&random, ORDINARY, want, n_q * dim + 8);
        memcpy(got, want, sizeof got);
        ref.attention_values(scores[0], n_q, &run, begin, end, dim, want);
        k->attention_values(scores[0], n_q, &run, begin, end, dim, got);
        ASSERT_SAME(want, got, n_q * dim + 8, "%s values %zu %zu..%zu %zu\n", levels[l].name, n_q, begin, end, dim);
      }
}

// Integer attention: any rows of any number, pages begun and whole.
#define MAX_GROUPS 4

static void fill_codes(uint64_t *state, int8_t *codes, size_t n) {
  for (size_t i = 0; i < n; i++) codes[i] = (int8_t)((int)(next_random(state) % 255) - 127);
}

static void test_attention_q8(void **state) {
  (void)state;
  uint64_t random = 21;
  static int8_t q_codes[24 * MAX_GROUPS * 32], kv_codes[QI__KV_PAGE * MAX_GROUPS * 32];
  static float d[24 * MAX_GROUPS];
  static int32_t bias[24 * MAX_GROUPS], sums[2][MAX_ROWS * 32];
  static uint16_t scale[QI__KV_PAGE * MAX_GROUPS];
  static int16_t weights[2][MAX_ROWS * QI__ATTENTION_PIECE];
  for (int l = 0; l < n_levels; l++)
    for (size_t t = 0; t < 300; t++) {
      const qi__kernels *k = &levels[l].kernels;
      qi__kv_queries queries = {q_codes, d, bias, 1 + next_random(&random) % MAX_GROUPS};
      size_t first = next_random(&random) % 6, n_q = 1 + next_random(&random) % (MAX_ROWS - 1);
      size_t n = 1 + next_random(&random) % QI__KV_PAGE;
      qi__kv_codes page = {kv_codes, scale, n, kv_codes};
      fill_codes(&random, q_codes, sizeof q_codes);
      fill_codes(&random, kv_codes, sizeof kv_codes);
      if (t % 7 == 0) memset(q_codes, 127, sizeof q_codes), memset(kv_codes, t % 2 ? 127 : -127, sizeof kv_codes);
      fill(&random, t % 5 == 4 ? HUGE_ONES : ORDINARY, d, sizeof d / sizeof *d);
      for (size_t i = 0; i < QI__KV_PAGE * MAX_GROUPS; i++) scale[i] = qi__f32_to_f16(fabsf(number(&random, ORDINARY)) * 0.01f);
      for (size_t g = 0; g < 24; g++)
        for (size_t group = 0; group < queries.groups; group++) {
          int sum = 0;
          for (size_t i = 0; i < 32; i++) sum += q_codes[qi__kv_query_codes_at(&queries, g, group) + i / 4 * 32 + i % 4];
          bias[qi__kv_query_at(&queries, g, group)] = -128 * sum;
        }
      size_t whole = (n + 15) / 16 * 16;
      ref.attention_scores_q8(&queries, first, n_q, &page, scores[0]);
      k->attention_scores_q8(&queries, first, n_q, &page, scores[1]);
      for (size_t g = 0; g < n_q; g++)
        ASSERT_SAME(scores[0] + g * QI__ATTENTION_PIECE, scores[1] + g * QI__ATTENTION_PIECE, whole, "%s scores_q8 %zu+%zu %zu\n",
                    levels[l].name, first, n_q, n);
      for (int i = 0; i < 2; i++) {
        uint64_t same_random = t;
        for (size_t j = 0; j < n_q * QI__ATTENTION_PIECE; j++)
          weights[i][j] = t % 7 ? (int16_t)(next_random(&same_random) % 32768) : 32767;
        for (size_t j = 0; j < n_q * 32; j++) sums[i][j] = (int32_t)(next_random(&same_random) % 2000) - 1000;
      }
      ref.attention_values_q8(weights[0], n_q, &page, sums[0]);
      k->attention_values_q8(weights[0], n_q, &page, sums[1]);
      assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
      size_t n_dim = 1 + next_random(&random) % 32, dim = n_dim + next_random(&random) % 40;
      fill(&random, ORDINARY, want, n_q * dim + 8);
      memcpy(got, want, sizeof got);
      ref.attention_scale(sums[0], d, n_q, n_dim, dim, want);
      k->attention_scale(sums[0], d, n_q, n_dim, dim, got);
      ASSERT_SAME(want, got, n_q * dim + 8, "%s scale %zu %zu\n", levels[l].name, n_q, n_dim);
    }
}

// Weights of the softmax as integers: a row's greatest product is 32767, the others are that near, and NaN is nothing.
static void expect_weights(const float *weight, const float *scale, size_t n, const int16_t *out, float unit) {
  float most = 0;
  for (size_t j = 0; j < n; j++) {
    float product = j % 5 == 4 ? 0 : weight[j] * scale[j];
    if (product > most) most = product;
  }
  for (size_t j = 0; j < n; j++) {
    float product = j % 5 == 4 ? 0 : weight[j] * scale[j];
    assert_true(fabs((double)out[j] * (double)unit - (double)product) <= 0x1.05p-16 * (double)most);
  }
}

static void test_attention_weights(void **state) {
  (void)state;
  uint64_t random = 22;
  static int16_t out[2][7 * QI__ATTENTION_PIECE];
  float *weight = scores[0], scale[QI__ATTENTION_PIECE];
  for (int l = 0; l < n_levels; l++)
    for (size_t t = 0; t < 300; t++) {
      size_t n = 16 * (1 + next_random(&random) % 16), n_q = 1 + t % 7;
      int kind = (int)(t % N_KINDS);
      float unit[2][7];
      for (size_t j = 0; j < n_q * QI__ATTENTION_PIECE; j++)
        weight[j] = j % QI__ATTENTION_PIECE % 5 == 4 ? 0 : fabsf(number(&random, kind));
      for (size_t j = 0; j < n; j++) {
        scale[j] = fabsf(number(&random, kind == HUGE_ONES ? HUGE_ONES : ORDINARY));
        if (kind == ORDINARY && j % 5 == 4) scale[j] = t % 2 ? NAN : INFINITY; // not stored yet: the weight is 0
      }
      memset(out, 0, sizeof out);
      ref.attention_weights(weight, n_q, scale, n, out[0], unit[0]);
      levels[l].kernels.attention_weights(weight, n_q, scale, n, out[1], unit[1]);
      ASSERT_SAME(unit[0], unit[1], n_q, "%s weights %zu kind %d\n", levels[l].name, n, kind);
      assert_memory_equal(out[0], out[1], sizeof out[0]);
      for (size_t g = 0; kind == ORDINARY && g < n_q; g++)
        expect_weights(weight + g * QI__ATTENTION_PIECE, scale, n, out[0] + g * QI__ATTENTION_PIECE, unit[0][g]);
    }
}

// What pages are turned into.
static void test_kv_conversions(void **state) {
  (void)state;
  uint64_t random = 23;
  static uint8_t packed[2048];
  static int8_t codes[2][4096];
  static uint16_t scale[QI__KV_PAGE * 3];
  for (int l = 0; l < n_levels; l++)
    for (size_t t = 0; t < 60; t++) {
      const qi__kernels *k = &levels[l].kernels;
      for (size_t i = 0; i < sizeof packed; i++) packed[i] = (uint8_t)next_random(&random);
      for (size_t step = 32; step <= 64; step *= 2) {
        size_t n = 64 * (1 + next_random(&random) % 32);
        ref.kv_unpack_q4(packed, n, step, codes[0]);
        k->kv_unpack_q4(packed, n, step, codes[1]);
        assert_memory_equal(codes[0], codes[1], 2 * n);
        for (size_t at = 0; at < 2 * n; at += 37) assert_int_equal(codes[0][at], qi__kv_code(QI_KV_Q4, packed, at, step));
      }
      size_t n = 1 + next_random(&random) % sizeof packed;
      ref.fp8_floats(packed, n, want);
      k->fp8_floats(packed, n, got);
      ASSERT_SAME(want, got, n, "%s fp8 %zu\n", levels[l].name, n);
      size_t dim = 1 + next_random(&random) % 64, n_pos = 1 + next_random(&random) % QI__KV_PAGE;
      qi__kv_layout layout = qi__kv_layout_of(QI_KV_Q8, dim, dim);
      fill_codes(&random, codes[0], sizeof codes[0]);
      for (size_t i = 0; i < sizeof scale / sizeof *scale; i++) scale[i] = qi__f32_to_f16(fabsf(number(&random, ORDINARY)));
      ref.kv_key_floats(&layout, codes[0], scale, n_pos, want);
      k->kv_key_floats(&layout, codes[0], scale, n_pos, got);
      ASSERT_SAME(want, got, (n_pos + 15) / 16 * 16 * dim, "%s key floats %zu %zu\n", levels[l].name, n_pos, dim);
      ref.kv_value_floats(&layout, codes[0], scale, n_pos, want);
      k->kv_value_floats(&layout, codes[0], scale, n_pos, got);
      ASSERT_SAME(want, got, n_pos * dim, "%s value floats %zu %zu\n", levels[l].name, n_pos, dim);
    }
}

// The chain of values may be cut anywhere; scores are those of each row alone, and are dot products.
static void test_attention_cuts(void **state) {
  (void)state;
  uint64_t random = 12;
  static const size_t dims[] = {20, 64, 80, 128};
  for (int l = 0; l < n_levels; l++)
    for (size_t d = 0; d < QI__COUNT_OF(dims); d++)
      for (size_t type = 0; type < 3; type++) {
        const qi__kernels *k = &levels[l].kernels;
        size_t dim = dims[d], n = 200;
        fill(&random, ORDINARY, q, MAX_ROWS * dim);
        fill(&random, ORDINARY, keys, 208 * dim);
        const void *kv = as_type(keys, 208 * dim, float_types[type]);
        qi__kv_run run = {kv, kv, n, float_types[type], kv, QI__FETCH_LINES};
        k->attention_scores(q, MAX_ROWS, &run, dim, scores[0]);
        memset(want, 0, sizeof want);
        memset(got, 0, sizeof got);
        k->attention_values(scores[0], MAX_ROWS, &run, 3, n, dim, want);
        for (size_t g = 0; g < MAX_ROWS; g++) {
          k->attention_scores(q + g * dim, 1, &run, dim, scores[1]);
          ASSERT_SAME(scores[0] + g * QI__ATTENTION_PIECE, scores[1], n, "%s scores of row %zu\n", levels[l].name, g);
          size_t cut = 3 + next_random(&random) % (n - 3);
          k->attention_values(scores[1], 1, &run, 3, cut, dim, got + g * dim);
          k->attention_values(scores[1], 1, &run, cut, n, dim, got + g * dim);
          for (size_t j = 0; j < n; j += 37) {
            double dot = 0, size = 0;
            for (size_t t = 0; t < dim; t++) {
              size_t at = j / 16 * 16 * dim + t * 16 + j % 16;
              double term = (double)q[g * dim + t] * (double)qi__kv_value(kv, at, float_types[type]);
              dot += term;
              size += fabs(term);
            }
            assert_true(fabs((double)scores[1][j] - dot) <= (double)dim * 0x1p-24 * size);
          }
        }
        ASSERT_SAME(want, got, MAX_ROWS * dim, "%s values in two parts, %zu\n", levels[l].name, dim);
      }
}

// Every range that a row may see; what lies outside does not matter and becomes 0.
static void test_softmax(void **state) {
  (void)state;
  uint64_t random = 7;
  for (int l = 0; l < n_levels; l++)
    for (int kind = 0; kind < N_KINDS + 1; kind++)
      for (int i = 0; i < 200; i++) {
        size_t n = 16 * (1 + next_random(&random) % 16), begin = next_random(&random) % n, n_q = 1 + (size_t)i % 7;
        if (i % 2) begin = 0;
        size_t end = begin + 1 + next_random(&random) % (n - begin), outside = 0;
        const size_t n_all = n_q * QI__ATTENTION_PIECE;
        for (size_t j = 0; j < n_all; j++)
          scores[0][j] = scores[1][j] = kind == N_KINDS ? -INFINITY : i % 4 ? number(&random, kind) * 20 : j % 3 ? -0.0f : 0.0f;
        if (kind == ORDINARY && i % 3 == 0) scores[0][n / 2] = scores[1][n / 2] = -INFINITY;
        if (kind == ORDINARY && i % 5 == 0) scores[0][n / 3] = scores[1][n / 3] = NAN;
        for (size_t j = 0; j < n_all; j++) {
          size_t at = j % QI__ATTENTION_PIECE;
          if (at < begin || (at >= end && at < n)) scores[1][j] = NAN;
        }
        float max[2][7], sum[2][7];
        ref.attention_softmax(scores[0], n_q, begin, end, n, max[0], sum[0]);
        levels[l].kernels.attention_softmax(scores[1], n_q, begin, end, n, max[1], sum[1]);
        ASSERT_SAME(scores[0], scores[1], n_all, "%s softmax %zu..%zu kind %d\n", levels[l].name, begin, end, kind);
        ASSERT_SAME(sum[0], sum[1], n_q, "%s softmax sum %zu..%zu kind %d\n", levels[l].name, begin, end, kind);
        ASSERT_SAME(max[0], max[1], n_q, "%s softmax max %zu..%zu kind %d\n", levels[l].name, begin, end, kind);
        for (size_t j = 0; j < n; j++) outside += (j < begin || j >= end) && scores[1][j] != 0;
        if (kind == ORDINARY) assert_int_equal(outside, 0);
        if (kind == ORDINARY && i % 3 && i % 5) assert_true(sum[0][0] >= 1.0f - 1e-6f);
      }
}

static void test_attention_joins(void **state) {
  (void)state;
  uint64_t random = 13;
  for (int l = 0; l < n_levels; l++)
    for (int kind = 0; kind < N_KINDS; kind++)
      for (size_t n = 0; n < 40; n++) {
        float all[2][4][40], *x = a + n % 3;
        size_t dim = length((int)n * 2);
        fill(&random, kind, a, 2 * 40 + 3);
        for (int i = 0; i < 4; i++) fill(&random, kind, all[0][i], 40);
        memcpy(all[1], all[0], sizeof all[1]);
        qi__softmax_state states[2];
        for (int i = 0; i < 2; i++) states[i] = (qi__softmax_state){all[i][0], all[i][1], all[i][2], all[i][3]};
        ref.attention_join(x, x + 40, n, &states[0]);
        levels[l].kernels.attention_join(x, x + 40, n, &states[1]);
        ASSERT_SAME(all[0][0], all[1][0], sizeof all[0] / sizeof(float), "%s attention_join %zu\n", levels[l].name, n);
        fill(&random, kind, b, 5 * dim);
        fill(&random, ORDINARY, want, ROOM);
        memcpy(got, want, sizeof got);
        ref.attention_blend(b, x, x + 40, 5, dim, want + 3);
        levels[l].kernels.attention_blend(b, x, x + 40, 5, dim, got + 3);
        ASSERT_SAME(want, got, ROOM, "%s attention_blend %zu\n", levels[l].name, dim);
      }
}

// Softmax over two pieces is softmax over both.
static void test_attention_join(void **state) {
  (void)state;
  float score[2][16] = {{0.5f, -1.0f, 2.0f}, {3.0f, 0.25f, -4.0f}}, value[6] = {1, 2, 3, 4, 5, 6}, out = 0;
  double sum = 0, dot = 0;
  for (int i = 0; i < 6; i++) {
    sum += exp((double)score[i / 3][i % 3]);
    dot += exp((double)score[i / 3][i % 3]) * (double)value[i];
  }
  float all_max = -INFINITY, all_sum = 0, keep, add;
  qi__softmax_state all = {&all_max, &all_sum, &keep, &add};
  for (int piece = 0; piece < 2; piece++) {
    float max, part = 0;
    qi__kv_run run = {NULL, value + 3 * piece, 3, QI_KV_F32, value, QI__FETCH_LINES};
    float piece_sum;
    ref.attention_softmax(score[piece], 1, 0, 3, 16, &max, &piece_sum);
    ref.attention_join(&max, &piece_sum, 1, &all);
    ref.attention_values(score[piece], 1, &run, 0, 3, 1, &part);
    ref.attention_blend(&part, &keep, &add, 1, 1, &out);
  }
  assert_true(fabs((double)(out / all_sum) - dot / sum) < 1e-6);
}

// A panel holds what it should, rounded, and zeros around it.
static void test_attention_panel(void **state) {
  (void)state;
  uint64_t random = 14;
  for (int l = 0; l < n_levels; l++)
    for (size_t t = 0; levels[l].kernels.attention_panel && t < 400; t++) {
      size_t n = 1 + next_random(&random) % 100, n_lanes = 1 + next_random(&random) % 16;
      size_t step = n_lanes + next_random(&random) % 20;
      bool finite = t / 3 % 2;
      qi_kv_type type = float_types[t % 3];
      fill(&random, ORDINARY, keys, n * step);
      if (t % 8 > 5) keys[next_random(&random) % (n * step)] = t % 3 ? INFINITY : NAN;
      const void *kv = as_type(keys, n * step, type);
      memset(halves_got, 7, sizeof halves_got);
      levels[l].kernels.attention_panel(kv, step, n, n_lanes, type, finite, halves_got);
      for (size_t i = 0; i < (n + 31) / 32 * 32; i++)
        for (size_t lane = 0; lane < 16; lane++) {
          float v = i >= n || lane >= n_lanes ? 0 : qi__kv_value(kv, i * step + lane, type);
          float in = qi__bf16_to_f32(halves_got[i / 2 * 32 + lane * 2 + i % 2]), expected = qi__bf16_to_f32(qi__f32_to_bf16(v));
          if (finite && !qi__is_finite(v)) assert_true(qi__is_finite(in));
          else ASSERT_SAME(&in, &expected, 1, "panel %zu %zu: %g, not %g\n", i, lane, (double)in, (double)expected);
        }
      assert_int_equal(halves_got[(n + 31) / 32 * 512], 0x0707);
    }
}

// ---- dequantisation ----

// Random bytes are blocks of any format; scales that are infinite or NaN are left out.
static bool finite_values(const float *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!qi__is_finite(x[i])) return false;
  return true;
}

static void test_dequantize(void **state) {
  (void)state;
  uint64_t random = 8;
  for (int l = 0; l < n_levels; l++)
    for (int format = 1; format < QI_FORMAT_COUNT; format++) {
      static const float tails[][2] = {{0.37f, 0}, {-9, 1}}; // I2_S: scale; QINS8: log_min, log_max
      uint8_t tail[32];
      qi__bound bound;
      for (int i = 0; i < 2; i++) qi__store_f32(tail + 4 * i, tails[format == QI_FORMAT_QINS8][i]);
      assert_int_equal(qi__format_bind(&bound, (qi_format)format, tail, "", NULL), QI_OK);
      const qi__format *f = &bound.format;
      int finite = 0;
      for (int t = 0; t < 200; t++) {
        size_t n = (size_t)f->info.block_len * (size_t)(f->info.block_len == 1 ? length(t % N_LENGTHS) : (size_t)(1 + t % 5));
        size_t size = n / (size_t)f->info.block_len * (size_t)f->info.block_bytes;
        uint8_t *src = bytes + next_random(&random) % 9;
        for (size_t i = 0; i < size; i++) src[i] = (uint8_t)(next_random(&random) >> 32);
        memset(want, 7, sizeof want);
        memset(got, 7, sizeof got);
        ref.dequantize[format](f, src, want + 1, n);
        levels[l].kernels.dequantize[format](f, src, got + 1, n);
        ASSERT_SAME(want, got, n + 8, "%s dequantize %s %zu\n", levels[l].name, f->info.name, n);
        finite += finite_values(want + 1, n);
      }
      assert_true(finite > 10);
    }
}

// ---- products of quantised weights ----

// A weight matrix, activations in every form, and room for what the product needs.
typedef struct product {
  qi__weight w;
  qi__bound bound;
  qi__inputs in;
  size_t n;
  float *x, *y, *scratch;
  uint8_t *data, *block;
} product;

static void product_open(product *p, qi_format format, size_t n_rows, size_t k, size_t n, uint64_t *random) {
  memset(p, 0, sizeof *p);
  p->n = n;
  p->w.id = format;
  p->w.format = &p->bound.format;
  p->w.n_rows = n_rows;
  p->w.n_cols = k;
  p->w.row_bytes = qi__row_bytes(format, k);
  p->data = (uint8_t *)malloc(qi__format_bytes(format, n_rows * k));
  p->w.data = p->data;
  p->x = (float *)malloc(n * k * sizeof(float));
  p->y = (float *)malloc(n * n_rows * sizeof(float));
  qi__arena arena = {0};
  for (int pass = 0; pass < 2; pass++) {
    qi__inputs_layout(&p->in, &arena, n, k);
    p->scratch = QI__ARENA_ARRAY(&arena, float, qi__tile_scratch(k, n));
    if (pass) break;
    arena.size = arena.used;
    arena.used = 0;
    p->block = (uint8_t *)qi__malloc(arena.size, QI__CACHE_LINE, NULL);
    memset(p->block, 0xff, arena.size); // NaN: nothing may be read that was not written
    arena.base = p->block;
  }
  assert_false(arena.overflow);
  fill(random, ORDINARY, p->x, n * k);
  float *rows = (float *)malloc(n_rows * k * sizeof *rows);
  for (size_t r = 0; r < n_rows; r++) {
    fill(random, ORDINARY, rows + r * k, k);
    if (!qi__formats[format].info.can_quantize)
      for (size_t i = 0; i < p->w.row_bytes; i++) p->data[r * p->w.row_bytes + i] = (uint8_t)(next_random(random) >> 40 & 0x7b);
  }
  if (qi__formats[format].info.can_quantize) qi__quantize(format, rows, p->data, n_rows, k, NULL);
  assert_int_equal(qi__format_bind(&p->bound, format, p->data + n_rows * p->w.row_bytes, "", NULL), QI_OK);
  free(rows);
}

static void product_close(product *p) {
  free(p->data);
  free(p->x);
  free(p->y);
  qi__malloc_free(p->block, 0, NULL);
}

// Rows 0..n-1, in chunks and from the places that `cut` says (0: all at once).
static void product_run(product *p, const qi__kernels *k, qi__arithmetic arithmetic, size_t cut) {
  qi__inputs_set_width(&p->in, p->w.n_cols);
  for (size_t i = 0; i < p->n; i++) {
    memcpy(p->in.x + i * p->w.n_cols, p->x + i * p->w.n_cols, p->w.n_cols * sizeof(float));
    qi__inputs_prepare(k, &p->in, i, qi__inputs_need(&p->w, arithmetic));
  }
  qi__inputs_turn(k, &p->in, 0, p->n, qi__inputs_need(&p->w, arithmetic));
  for (size_t first = 0, n_w; first < p->w.n_rows; first += n_w) {
    n_w = qi__min_size(QI__TILE_ROWS * (cut ? 1 : qi__tiles_at_once(k, arithmetic, p->n)), p->w.n_rows - first);
    for (size_t i = 0, n; i < p->n; i += n) {
      n = cut ? qi__min_size(1 + (i * 7 + cut) % (2 * cut), p->n - i) : p->n;
      qi__matmul_tile(k, arithmetic, &p->w, first, n_w, &p->in, i, n, p->y + i * p->w.n_rows + first, p->w.n_rows, false,
                      p->scratch);
    }
  }
}

// Sums of a matrix unit go to where packed rows of them are once they are turned, those of rows first .. end - 1 and no others.
static void test_pack_turned(void **state) {
  (void)state;
  uint64_t random = 21;
  float sums[512], rows[512];
  uint16_t expected[512], found[512];
  for (int l = 0; l < n_levels; l++) {
    const qi__bf16_kernels *k = &levels[l].kernels.bf16;
    for (size_t t = 0; k->turn && t < 256; t++) {
      const size_t first = t % 16, end = t / 16 + 1;
      fill(&random, ORDINARY, sums, 512);
      for (size_t half = 0; half < 32; half += 16) k->turn(sums + 16 * half, 16, rows + half, 32);
      for (size_t i = 0; i < 512; i++) assert_memory_equal(&rows[i], &sums[i % 32 * 16 + i / 32], sizeof *rows);
      for (size_t r = 0; r < 16; r++) k->pack(rows + 32 * r, 32, expected, r);
      k->turn(expected, 16, expected, 16);
      memset(found, 7, sizeof found);
      if (first < end) k->pack_turned(sums, found, first, end);
      for (size_t i = 0; i < 512; i++) assert_int_equal(found[i], i / 2 % 16 >= first && i / 2 % 16 < end ? expected[i] : 0x0707);
    }
  }
}

// Any number of rows of activations, two slices of k, weights in float32 and as bfloat16: the same chain of multiply-adds.
static void test_f32_panel(void **state) {
  (void)state;
  enum { X_STRIDE = QI__F32_STRIDE, X_ROWS = 31, W_BYTES = 2 * QI__F32_STEP + 6 };
  static float w[QI__F32_ROWS * QI__F32_STRIDE], x[X_ROWS * X_STRIDE], sums[3][X_ROWS * QI__F32_ROWS];
  static uint8_t bf16[1 + QI__F32_ROWS * W_BYTES]; // at no alignment
  float *panel = (float *)qi__malloc(QI__F32_COLUMNS * QI__F32_ROWS * sizeof *panel, QI__CACHE_LINE, NULL);
  qi__lines next = {(uintptr_t)w, 256, 256, 8, 0, 3};
  uint64_t random = 22;
  for (int kind = 0; kind < N_KINDS; kind++)
    for (int l = 0; l < n_levels; l++)
      for (size_t n_x = 1; n_x <= X_ROWS; n_x += n_x < 14 ? 1 : 17) {
        const bool pairs = next_random(&random) % 2; // columns by which bfloat16 can be taken, too
        const size_t unit = pairs ? 32 : 1, most = QI__F32_COLUMNS / unit;
        const size_t n_k[2] = {unit * (1 + next_random(&random) % most), unit * (1 + next_random(&random) % most)};
        fill(&random, kind, w, QI__COUNT_OF(w));
        fill(&random, kind, x, QI__COUNT_OF(x));
        for (size_t r = 0; r < QI__F32_ROWS; r++)
          for (size_t j = 0; j < QI__F32_STEP; j++) {
            const uint16_t bits = qi__f32_to_bf16(w[r * QI__F32_STRIDE + j]);
            memcpy(bf16 + 1 + r * W_BYTES + 2 * j, &bits, sizeof bits);
            w[r * QI__F32_STRIDE + j] = qi__bf16_to_f32(bits);
          }
        memset(sums, 7, sizeof sums);
        for (size_t slice = 0, at = 0; slice < 2; at += n_k[slice++]) {
          qi__f32_panel p = {w + at, QI__F32_STRIDE, NULL, n_k[slice], x + at, X_STRIDE, n_x, slice == 0, sums[0], panel, &next};
          qi__f32_panel_ref(&p);
          p.sums = sums[1];
          levels[l].kernels.f32_panel(&p);
          p.sums = sums[2];
          if (pairs) p.w = NULL, p.w_stride = W_BYTES, p.bf16 = bf16 + 1 + 2 * at;
          levels[l].kernels.f32_panel(&p);
        }
        for (size_t i = 0; kind == ORDINARY && i < n_x * QI__F32_ROWS; i++) {
          float sum = 0;
          const float *w_row = w + i % QI__F32_ROWS * QI__F32_STRIDE, *x_row = x + i / QI__F32_ROWS * X_STRIDE;
          for (size_t j = 0; j < n_k[0] + n_k[1]; j++) sum = fmaf(w_row[j], x_row[j], sum);
          assert_memory_equal(&sum, &sums[0][i], sizeof sum);
        }
        for (int i = 1; i < 3; i++)
          ASSERT_SAME(sums[0], sums[i], X_ROWS * QI__F32_ROWS, "%s f32_panel %zu + %zu, %zu rows%s\n", levels[l].name, n_k[0],
                      n_k[1], n_x, i == 2 && pairs ? " of bfloat16" : "");
      }
  qi__malloc_free(panel, 0, NULL);
}

// Against float64 sums of the same rounded inputs; the bound stands in kernels/bf16.h.
static void product_check(const product *p, qi__arithmetic arithmetic, const char *level_name) {
  size_t k = p->w.n_cols;
  float *row = (float *)malloc(k * sizeof *row);
  double unit = (double)k * 0x1p-24, lost = (double)k * 0x1p-126;
  for (size_t r = 0; r < p->w.n_rows; r++) {
    qi__dequantize_blocks(p->w.format, p->data + r * p->w.row_bytes, row, k);
    for (size_t i = 0; i < p->n; i++) {
      double sum = 0, size = 0, greatest = 1;
      for (size_t j = 0; j < k; j++) {
        float w = row[j], x = p->x[i * k + j];
        if (arithmetic == QI__BF16) w = qi__bf16_to_f32(qi__f32_to_bf16(w)), x = qi__bf16_to_f32(qi__f32_to_bf16(x));
        double term = (double)w * (double)x;
        sum += term;
        size += fabs(term);
        greatest = fmax(greatest, fmax(fabs((double)w), fabs((double)x)));
      }
      double error = fabs((double)p->y[i * p->w.n_rows + r] - sum);
      if (!(error <= unit / (1 - unit) * size + lost * (1 + 2 * greatest))) {
        print_error("%s %s [%zu, %zu] x %zu: y[%zu, %zu] is off by %g of %g\n", level_name, p->w.format->info.name,
                    p->w.n_rows, k, p->n, i, r, error, size);
        fail();
      }
    }
  }
  free(row);
}

static void test_product_bound(void **state) {
  (void)state;
  uint64_t random = 9;
  static const size_t shapes[][3] = {{32, 256, 1}, {1, 512, 2}, {17, 256, 16}, {33, 2304, 33}, {5, 4352, 7}, {16, 768, 70}};
  for (int l = 0; l < n_levels; l++)
    for (int format = 1; format < QI_FORMAT_COUNT; format++)
      for (size_t s = 0; s < QI__COUNT_OF(shapes); s++) {
        if (s > 1 && format > QI_FORMAT_Q4_0 && (size_t)format % 4 != s % 4) continue; // slow ones: some formats each
        product p;
        product_open(&p, (qi_format)format, shapes[s][0], shapes[s][1], shapes[s][2], &random);
        for (int a2 = QI__FLOAT; a2 <= QI__BF16; a2++) {
          product_run(&p, &levels[l].kernels, (qi__arithmetic)a2, 0);
          product_check(&p, (qi__arithmetic)a2, levels[l].name);
        }
        product_close(&p);
      }
}

// Lengths that are no multiple of anything exist in float formats only. FLOAT has the bits of the reference.
static void test_product_odd_lengths(void **state) {
  (void)state;
  uint64_t random = 10;
  for (int l = 0; l < n_levels; l++)
    for (int format = QI_FORMAT_F32; format <= QI_FORMAT_BF16; format++)
      for (int i = 1; i < N_LENGTHS; i++) {
        product p;
        product_open(&p, (qi_format)format, 1 + next_random(&random) % 40, length(i), 1 + next_random(&random) % 30, &random);
        const size_t n_y = p.n * p.w.n_rows;
        assert_true(n_y <= ROOM);
        product_run(&p, &ref, QI__FLOAT, 0);
        memcpy(want, p.y, n_y * sizeof *want);
        product_run(&p, &levels[l].kernels, QI__FLOAT, 0);
        ASSERT_SAME(want, p.y, n_y, "%s %s [%zu, %zu] x %zu\n", levels[l].name, p.w.format->info.name, p.w.n_rows, p.w.n_cols, p.n);
        for (int a2 = QI__FLOAT; a2 <= QI__BF16; a2++) {
          product_run(&p, &levels[l].kernels, (qi__arithmetic)a2, 0);
          product_check(&p, (qi__arithmetic)a2, levels[l].name);
        }
        product_close(&p);
      }
}

// Bits depend neither on the rows of activations beside a row nor on where they begin.
static void test_product_cuts(void **state) {
  (void)state;
  uint64_t random = 11;
  static const int formats[] = {QI_FORMAT_F32, QI_FORMAT_F16, QI_FORMAT_BF16, QI_FORMAT_Q4_K, QI_FORMAT_Q8_0};
  for (int l = 0; l < n_levels; l++)
    for (size_t f = 0; f < QI__COUNT_OF(formats); f++)
      for (int arithmetic = QI__INTEGER; arithmetic <= QI__BF16; arithmetic++) {
        if (arithmetic == QI__INTEGER && formats[f] <= QI_FORMAT_BF16) continue;
        if (SPARSE && (l + (int)f + arithmetic) % 3) continue;
        product p;
        product_open(&p, (qi_format)formats[f], 37, 2816, 50, &random);
        size_t size = p.n * p.w.n_rows * sizeof(float);
        float *whole = (float *)malloc(size);
        product_run(&p, &levels[l].kernels, (qi__arithmetic)arithmetic, 0);
        memcpy(whole, p.y, size);
        for (size_t cut = 1; cut <= 16; cut += 5) {
          memset(p.y, 0xff, size);
          product_run(&p, &levels[l].kernels, (qi__arithmetic)arithmetic, cut);
          assert_memory_equal(p.y, whole, size);
        }
        free(whole);
        product_close(&p);
      }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_vectors), cmocka_unit_test(test_vectors_in_place), cmocka_unit_test(test_conversions),
    cmocka_unit_test(test_rope), cmocka_unit_test(test_fetch_groups), cmocka_unit_test(test_fetch_turns),
    cmocka_unit_test(test_fetch_choice), cmocka_unit_test(test_dot_float), cmocka_unit_test(test_dot_float_long),
    cmocka_unit_test(test_attention),
    cmocka_unit_test(test_attention_q8), cmocka_unit_test(test_attention_weights), cmocka_unit_test(test_kv_conversions),
    cmocka_unit_test(test_attention_cuts),
    cmocka_unit_test(test_attention_joins), cmocka_unit_test(test_attention_panel), cmocka_unit_test(test_softmax),
    cmocka_unit_test(test_attention_join), cmocka_unit_test(test_dequantize), cmocka_unit_test(test_product_bound),
    cmocka_unit_test(test_pack_turned), cmocka_unit_test(test_f32_panel), cmocka_unit_test(test_product_odd_lengths),
    cmocka_unit_test(test_product_cuts),
  };
  return cmocka_run_group_tests_name("kernels", tests, set_up, NULL);
}
