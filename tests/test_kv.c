// sanitize: thread
// The key/value cache: what each type loses, pages and who has them, forks, truncation, sliding windows, context shift.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/run_model.h"

static size_t pick(uint64_t *rng, size_t n) { return (size_t)(rm_next(rng) % n); }
static float uniform(uint64_t *rng) { return (float)((double)(rm_next(rng) >> 11) * 0x1p-53 * 2 - 1); }

// ---- types ----

// All codes of FP8 that are used are themselves; numbers between go to the nearest, ties to even.
static void test_fp8(void **state) {
  (void)state;
  for (int c = 0; c < 127; c++) {
    float v = qi__fp8_to_f32((uint8_t)c), next = c < 126 ? qi__fp8_to_f32((uint8_t)(c + 1)) : 480;
    assert_int_equal(qi__f32_to_fp8(v), c);
    assert_int_equal(qi__f32_to_fp8(-v), c + 128);
    float middle = (v + next) / 2;
    int even = c < 126 ? c + c % 2 : 126;
    assert_int_equal(qi__f32_to_fp8(middle), even);
    assert_int_equal(qi__f32_to_fp8(nextafterf(middle, 0)), c);
    assert_int_equal(qi__f32_to_fp8(nextafterf(middle, 1000)), c < 126 ? c + 1 : 126);
  }
  assert_true(qi__fp8_to_f32(1) == 0x1p-9f && qi__fp8_to_f32(8) == 0x1p-6f && qi__fp8_to_f32(0x38) == 1);
  assert_true(qi__fp8_to_f32(126) == 448);
  assert_int_equal(qi__f32_to_fp8(INFINITY), 126);
  assert_int_equal(qi__f32_to_fp8(-1e30f), 254);
}

static void test_q4_codes(void **state) {
  (void)state;
  for (int c = -127; c <= 127; c++) {
    int found = qi__kv_codes_q4[qi__kv_index_q4((int8_t)c)];
    for (int i = 0; i < 16; i++) assert_true(abs(found - c) <= abs(qi__kv_codes_q4[i] - c));
  }
}

// What kv_store.h says that is lost at most, of x beside others of which `max` is the greatest.
static double loss_bound(qi_kv_type type, double x, double max) {
  double scale = max / 127 < 0x1p-14 ? 127 * 0x1p-25 : max * 0x1p-11;
  switch (type) {
  case QI_KV_F16: return fabs(x) < 0x1p-14 ? 0x1p-25 : fabs(x) * 0x1p-11;
  case QI_KV_BF16: return fabs(x) * 0x1p-8;
  case QI_KV_FP8: return fabs(x) < 0x1p-6 ? 0x1p-10 : fabs(x) * 0x1p-4;
  case QI_KV_Q8: return max / 254 + scale;
  case QI_KV_Q4: return max * 14 / 127 + scale;
  default: return 0;
  }
}

static void expect_loss(qi_kv_type type, const float *x, const float *got, size_t dim, double *square, double *size) {
  for (size_t i = 0; i < dim; i++) {
    double max = 0, d = (double)got[i] - (double)x[i];
    for (size_t j = i / 32 * 32; j < dim && j < i / 32 * 32 + 32; j++) max = fmax(max, fabs((double)x[j]));
    if (fabs(d) > loss_bound(type, (double)x[i], max) * 1.000001)
      fail_msg("%s: %.9g became %.9g beside %.9g", qi_kv_type_name(type), (double)x[i], (double)got[i], max);
    *square += d * d;
    *size += (double)x[i] * (double)x[i];
  }
}

// A cache of its own, without a model.
typedef struct cache {
  qi__kv kv;
  qi__arena arena;
  qi_allocator allocator;
  qi__hparams h;
} cache;

static void cache_open(cache *c, size_t n_seqs, size_t n_ctx, size_t n_tokens, size_t dim, size_t window, qi_kv_type type) {
  memset(c, 0, sizeof *c);
  c->h.n_layers = 2;
  c->h.n_kv_heads = 2;
  c->h.head_dim_k = dim;
  c->h.head_dim_v = dim > 8 ? dim - 4 : dim;
  c->h.sliding_window = window;
  assert_int_equal(qi__allocator_resolve(NULL, &c->allocator, NULL), QI_OK);
  qi__kv_open(&c->kv, &c->arena, &c->h, n_seqs, n_ctx, n_tokens, type);
  assert_int_equal(qi__arena_open(&c->arena, &c->allocator, "cache", NULL), QI_OK);
  qi__kv_open(&c->kv, &c->arena, &c->h, n_seqs, n_ctx, n_tokens, type);
}
static void cache_close(cache *c) { qi__arena_close(&c->arena, &c->allocator); }

static void load(const qi__kv *kv, size_t layer, size_t seq, size_t head, size_t pos, float *k, float *v) {
  const qi__kv_layout *l = &kv->head;
  const uint8_t *page = qi__kv_head(kv, layer, seq, head, pos), *values = page + l->v;
  const uint16_t *scale = (const uint16_t *)(const void *)(page + l->v_scale);
  const size_t p = pos % QI__KV_PAGE;
  qi__kv_load_key(l, page, p, k);
  if (!qi__kv_is_integer(l->type)) {
    qi__kv_load_floats(l->type, values + qi__kv_size(l->type, p * l->dim_v), 1, l->dim_v, v);
    return;
  }
  for (size_t i = 0; i < l->dim_v; i++)
    v[i] = qi__f16_to_f32(scale[qi__kv_value_scale_at(p, i / 32)]) *
           qi__kv_code(l->type, values, qi__kv_value_at(p, i / 32, i % 32), QI__KV_VALUE_STEP);
}

// Values that are moved are the same at other positions, of another page and of the same.
static void expect_moved(const cache *c) {
  const qi__kv_layout *l = &c->kv.head;
  float k[80], v[80], got[80];
  for (size_t u = 0; u < 4; u++)
    for (size_t p = 0; p < QI__KV_PAGE; p++) {
      const uint8_t *from = qi__kv_head(&c->kv, u % 2, 0, u / 2, p);
      uint8_t *to = qi__kv_head(&c->kv, u % 2, 0, u / 2, QI__KV_PAGE);
      size_t there = (5 * p + 3) % QI__KV_PAGE;
      qi__kv_move_value(l, from, p, to, there);
      load(&c->kv, u % 2, 0, u / 2, p, k, v);
      load(&c->kv, u % 2, 0, u / 2, QI__KV_PAGE + there, k, got);
      assert_memory_equal(got, v, l->dim_v * sizeof *v);
      qi__kv_move_value(l, to, there, to, (there + 1) % QI__KV_PAGE);
      load(&c->kv, u % 2, 0, u / 2, QI__KV_PAGE + (there + 1) % QI__KV_PAGE, k, got);
      assert_memory_equal(got, v, l->dim_v * sizeof *v);
    }
}

// What goes in comes out, within the loss; stored again it is the same; positions and heads do not touch each other.
static void test_losses(void **state) {
  (void)state;
  // Root mean square of the loss over that of the numbers, measured: 1.9e-4, 1.5e-3, 5.5e-3, 0.024, 0.087
  static const double most[QI_KV_COUNT] = {0, 0, 2.5e-4, 2e-3, 7e-3, 0.03, 0.11};
  static const size_t dims[] = {4, 20, 32, 64, 80};
  qi__kernels kernels;
  qi__kernels_init_ref(&kernels);
  for (int type = QI_KV_F32; type < QI_KV_COUNT; type++)
    for (size_t d = 0; d < 5; d++) {
      cache c;
      size_t dim = dims[d], n = 2 * QI__KV_PAGE, all = 4 * n * dim;
      cache_open(&c, 1, n, 0, dim, 0, (qi_kv_type)type);
      size_t dim_v = c.h.head_dim_v;
      float *k = (float *)malloc(all * sizeof *k), *v = (float *)malloc(all * sizeof *v), got[2][80], again[2][80];
      assert_true(k && v);
      uint64_t rng = 1;
      for (size_t i = 0; i < all; i++) {
        k[i] = uniform(&rng) * (i % 97 ? 1.0f : 5.0f);
        v[i] = uniform(&rng) * (i % 13 ? 1.0f : 1e-3f);
      }
      assert_int_equal(qi__kv_reserve(&c.kv, &n, NULL), QI_OK);
      for (size_t i = 0; i < 4 * n; i++) qi__kv_store(&c.kv, &kernels, i % 2, 0, i / 2 % 2, i / 4, k + i * dim, v + i * dim_v);
      double square = 0, size = 0;
      for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < 4 * n; i++) {
          load(&c.kv, i % 2, 0, i / 2 % 2, i / 4, got[0], got[1]);
          expect_loss((qi_kv_type)type, k + i * dim, got[0], dim, &square, &size);
          expect_loss((qi_kv_type)type, v + i * dim_v, got[1], dim_v, &square, &size);
          qi__kv_store(&c.kv, &kernels, i % 2, 0, i / 2 % 2, i / 4, got[0], got[1]);
          load(&c.kv, i % 2, 0, i / 2 % 2, i / 4, again[0], again[1]);
          assert_memory_equal(got[0], again[0], dim * sizeof(float));
          assert_memory_equal(got[1], again[1], dim_v * sizeof(float));
        }
      expect_moved(&c);
      if (sqrt(square / size) > most[type])
        fail_msg("%s: root mean square of the loss %.3g", qi_kv_type_name((qi_kv_type)type), sqrt(square / size));
      free(k);
      free(v);
      cache_close(&c);
    }
}

// ---- pages ----

#define N_SEQS 5
#define N_CTX 650

// A plain model of sequences: what each holds, as numbers that say which token it is.
typedef struct book {
  uint32_t token[N_SEQS][N_CTX];
  size_t n[N_SEQS], first[N_SEQS];
  uint32_t next;
} book;

static void write_token(const cache *c, const qi__kernels *kernels, size_t seq, size_t pos, uint32_t token) {
  float k[4], v[4];
  for (size_t i = 0; i < 4; i++) k[i] = (float)token, v[i] = (float)(token + i);
  for (size_t u = 0; u < 4; u++) qi__kv_store(&c->kv, kernels, u % 2, seq, u / 2, pos, k, v);
}

// Everything that a later token could see is what it should be; every page is in as many tables as it says, and none is lost.
static void expect_book(const cache *c, const book *b) {
  const qi__kv *kv = &c->kv;
  uint32_t refs[N_SEQS * 6] = {0};
  size_t used = 0;
  float k[4], v[4];
  for (size_t seq = 0; seq < N_SEQS; seq++) {
    assert_int_equal(kv->length[seq], b->n[seq]);
    assert_true(kv->first[seq] <= qi__kv_sees_from(kv, b->n[seq]));
    for (size_t pos = kv->first[seq]; pos < b->n[seq]; pos++) {
      load(kv, pos % 2, seq, pos / 2 % 2, pos, k, v);
      assert_true(k[0] == (float)b->token[seq][pos] && v[3] == (float)(b->token[seq][pos] + 3));
    }
    for (size_t i = 0; i < kv->n_table; i++) {
      uint32_t page = kv->table[seq * kv->n_table + i];
      if (page == QI__KV_NO_PAGE) continue;
      assert_true(page < kv->n_pages);
      assert_true(i < qi__kv_pages(b->n[seq]) && (i + 1) * QI__KV_PAGE > kv->first[seq]);
      if (refs[page]++ == 0) used++;
    }
  }
  for (size_t page = 0; page < kv->n_pages; page++) assert_int_equal(kv->refs[page], refs[page]);
  assert_int_equal(used + kv->n_unused, kv->n_pages);
  for (size_t i = 0; i < kv->n_unused; i++) assert_int_equal(kv->refs[kv->unused[i]], 0);
}

// Some tokens to some sequences; now and then taken back, as when work is cancelled.
static void step_append(cache *c, const qi__kernels *kernels, book *b, uint64_t *rng) {
  size_t to[N_SEQS];
  bool drop = pick(rng, 5) == 0;
  for (size_t seq = 0; seq < N_SEQS; seq++) {
    to[seq] = b->n[seq] + (pick(rng, 3) ? 0 : pick(rng, 2) ? 1 : pick(rng, 300));
    if (to[seq] > N_CTX) to[seq] = N_CTX;
  }
  size_t needs = qi__kv_needs(&c->kv, to), unused = c->kv.n_unused;
  qi_error err = {QI_OK, ""};
  if (needs > unused) {
    assert_int_equal(qi__kv_reserve(&c->kv, to, &err), QI_ERR_CONTEXT);
    assert_non_null(strstr(err.msg, "cache is full"));
    assert_int_equal(c->kv.n_unused, unused);
    return;
  }
  RUN_OK(qi__kv_reserve(&c->kv, to, &err), err);
  assert_int_equal(c->kv.n_unused, unused - needs);
  for (size_t seq = 0; seq < N_SEQS; seq++) {
    for (size_t pos = b->n[seq]; pos < to[seq]; pos++) {
      write_token(c, kernels, seq, pos, b->next);
      if (!drop) b->token[seq][pos] = b->next++;
    }
    if (drop) {
      qi__kv_cut(&c->kv, seq, b->n[seq]);
    } else {
      c->kv.length[seq] = b->n[seq] = to[seq];
      qi__kv_slide(&c->kv, seq);
    }
  }
}

// Cancels the shift in its n-th rotation.
static struct {
  int cancel, left;
  size_t n_cancelled, n_in_place, n_done;
} shifts;

static void rope_until(float *x, const float *cos_sin, size_t n_pairs, bool neighbours) {
  if (shifts.left-- == 0) shifts.cancel = 1;
  qi__rope_ref(x, cos_sin, n_pairs, neighbours);
}

// Now and then one that is cancelled before it begins, or while it moves. What moves in place is not stopped then.
static void step_shift(cache *c, const qi__kernels *kernels, book *b, uint64_t *rng, size_t seq) {
  static const float still[2] = {1, 0};
  float scratch[4];
  qi_pool pool;
  qi_pool_desc pd = {1, QI_ISA_AUTO, {NULL, NULL}, {NULL, NULL, NULL}};
  if (b->n[seq] < 2) return;
  size_t keep = pick(rng, b->n[seq]), drop = 1 + pick(rng, b->n[seq] - keep), unused = c->kv.n_unused;
  qi__kernels own = *kernels;
  own.rope = rope_until;
  shifts.cancel = pick(rng, 10) == 0;
  shifts.left = pick(rng, 3) ? -1 : (int)pick(rng, 4 * b->n[seq]);
  bool before = shifts.cancel;
  qi__kv_shift shift = {.kv = &c->kv, .kernels = &own, .cancel = &shifts.cancel, .seq = seq, .cos_sin = still, .n_pairs = 1,
                        .scratch = scratch, .stride = 4};
  assert_int_equal(qi__pool_init(&pool, &pd, NULL), QI_OK);
  qi_result r = qi__kv_shift_run(&shift, &pool, keep, drop, NULL);
  qi__pool_destroy(&pool);
  bool stopped = before || (shifts.cancel && !shift.in_place);
  assert_true((r == QI_ERR_CANCELLED) == stopped);
  shifts.n_cancelled += stopped && !before;
  if (r) { // cancelled, no page, or the window's are gone: nothing has changed
    assert_true(stopped || r == QI_ERR_CONTEXT);
    assert_int_equal(c->kv.n_unused, unused);
    return;
  }
  *(shift.in_place ? &shifts.n_in_place : &shifts.n_done) += 1;
  memmove(&b->token[seq][keep], &b->token[seq][keep + drop], (b->n[seq] - keep - drop) * sizeof(uint32_t));
  b->n[seq] -= drop;
}

static void run_book(size_t n_tokens, size_t window, uint64_t seed) {
  cache c;
  book *b = (book *)calloc(1, sizeof *b);
  assert_non_null(b);
  uint64_t rng = seed;
  qi__kernels kernels;
  qi__kernels_init_ref(&kernels);
  cache_open(&c, N_SEQS, N_CTX, n_tokens, 4, window, QI_KV_F32);
  for (int step = 0; step < 300; step++) {
    size_t seq = pick(&rng, N_SEQS), other = pick(&rng, N_SEQS), n = pick(&rng, b->n[seq] + 1);
    switch (pick(&rng, 8)) {
    case 0:
      if (seq == other || !qi__kv_can_cut(&c.kv, seq, n)) break;
      qi__kv_fork(&c.kv, seq, other, n);
      memcpy(b->token[other], b->token[seq], n * sizeof(uint32_t));
      b->n[other] = n;
      break;
    case 1:
      if (pick(&rng, 4) == 0) n = 0;
      if (!qi__kv_can_cut(&c.kv, seq, n)) break;
      qi__kv_cut(&c.kv, seq, n);
      b->n[seq] = n;
      break;
    case 2: step_shift(&c, &kernels, b, &rng, seq); break;
    default: step_append(&c, &kernels, b, &rng);
    }
    expect_book(&c, b);
  }
  for (size_t seq = 0; seq < N_SEQS; seq++) qi__kv_cut(&c.kv, seq, 0);
  assert_int_equal(c.kv.n_unused, c.kv.n_pages);
  free(b);
  cache_close(&c);
}

static void test_pages(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 12; seed++) {
    run_book(0, 0, seed);
    run_book(0, 100, seed);
    run_book(1000, 0, seed);
    run_book(1300, 70, seed);
    run_book(600, 1, seed);
  }
  assert_true(shifts.n_cancelled > 20 && shifts.n_in_place > 20 && shifts.n_done > 20);
}

// Default room is enough for all sequences to their ends, whatever they shared before.
static void test_default_room(void **state) {
  (void)state;
  cache c;
  size_t to[N_SEQS], half[N_SEQS] = {200, 0, 0, 0, 0};
  cache_open(&c, N_SEQS, N_CTX, 0, 4, 0, QI_KV_F16);
  assert_int_equal(qi__kv_reserve(&c.kv, half, NULL), QI_OK);
  c.kv.length[0] = 200;
  for (size_t seq = 1; seq < N_SEQS; seq++) qi__kv_fork(&c.kv, 0, seq, 200);
  assert_int_equal(c.kv.n_unused, c.kv.n_pages - 2);
  for (size_t seq = 0; seq < N_SEQS; seq++) to[seq] = N_CTX;
  assert_int_equal(qi__kv_reserve(&c.kv, to, NULL), QI_OK);
  assert_int_equal(c.kv.n_unused, N_SEQS - 1); // of two, the first page stays shared
  cache_close(&c);
}

// ---- through the public interface ----

#define N_TEXT 400

static run_model kv_model(int window) {
  rm_desc d = rm_llama();
  d.n_heads = 4;
  d.n_kv_heads = 2;
  d.head_dim = 40;
  d.n_vocab = 60;
  d.n_ctx_train = 1024;
  d.window = window ? window : -1;
  d.format = QI_FORMAT_Q8_0;
  return run_build(&d);
}

static qi_session_desc kv_session(int n_seqs, qi_kv_type type, qi_path path) {
  qi_session_desc sd = run_session_desc(N_TEXT + 100, path);
  sd.n_seqs = n_seqs;
  sd.kv_type = type;
  return sd;
}

static uint64_t unused(const qi_session *s) {
  qi_session_stats stats;
  qi_session_get_stats(s, &stats);
  return stats.kv_tokens_unused;
}

// Three characters with one prompt: each goes its own way with the bits of a lone run, and so does what is left of the first.
static void run_forks(const run_model *rm, qi_kv_type type, qi_path path, int n_threads, size_t n_prompt) {
  qi_error err = {QI_OK, ""};
  qi_token ids[4][N_TEXT];
  size_t n_vocab = 60, n_own = 40;
  float *want = (float *)malloc(N_TEXT * n_vocab * sizeof *want), *got = (float *)malloc(N_TEXT * n_vocab * sizeof *got);
  assert_true(want && got);
  qi_session_desc sd = kv_session(4, type, path);
  sd.n_threads = n_threads;
  qi_session *s = run_session(rm->m, &sd);
  for (int i = 0; i < 4; i++) {
    run_random_tokens(7, 60, ids[i], n_prompt);
    run_random_tokens(20 + (uint64_t)i, 60, ids[i] + n_prompt, n_own);
  }
  run_decode(s, rm->m, ids[0], n_prompt, 0, 0, false, got);
  uint64_t before = unused(s);
  for (int i = 1; i < 4; i++) RUN_OK(qi_seq_fork(s, 0, i, (int)n_prompt, &err), err);
  assert_true(unused(s) == before);
  for (int i = 3; i >= 0; i--) {
    sd.n_seqs = 1;
    run_decode(s, rm->m, ids[i] + n_prompt, n_own, 3, i, true, got);
    qi_session *lone = run_session(rm->m, &sd);
    run_decode(lone, rm->m, ids[i], n_prompt, 0, 0, false, want);
    run_decode(lone, rm->m, ids[i] + n_prompt, n_own, 0, 0, true, want);
    run_expect_bits(got, want, n_own * n_vocab, "forked", qi_kv_type_name(type));
    qi_session_close(lone);
  }
  qi_session_reset(s);
  qi_session_stats stats;
  qi_session_get_stats(s, &stats);
  assert_true(stats.kv_tokens == stats.kv_tokens_unused);
  qi_session_close(s);
  free(want);
  free(got);
}

static void test_forks(void **state) {
  (void)state;
  static const qi_path paths[] = {QI_PATH_AUTO, QI_PATH_INTEGER, QI_PATH_FLOAT};
  for (int window = 0; window < 100; window += 50) {
    run_model rm = kv_model(window);
    for (int type = QI_KV_F32; type < QI_KV_COUNT; type++)
      run_forks(&rm, (qi_kv_type)type, paths[type % 3], 1 + type % 3, type % 2 ? 140 : 128);
    run_free(&rm);
  }
}

// The integer path gives the same bits with every instruction set, for every type.
static void test_instruction_sets(void **state) {
  (void)state;
  run_model rm = kv_model(0);
  qi_token ids[N_TEXT];
  run_random_tokens(3, 60, ids, N_TEXT);
  for (int type = QI_KV_F32; type < QI_KV_COUNT; type++) {
    qi_session_desc sd = kv_session(1, (qi_kv_type)type, QI_PATH_INTEGER);
    sd.isa = QI_ISA_SCALAR;
    float *want = run_logits(rm.m, &sd, ids, N_TEXT, true);
    for (int isa = QI_ISA_SCALAR + 1; isa < QI_ISA_COUNT; isa++) {
      qi_isa chosen;
      qi__cpu cpu;
      if (qi__isa_choose((qi_isa)isa, &chosen, &cpu, NULL) || chosen != (qi_isa)isa) continue;
      sd.isa = (qi_isa)isa;
      float *got = run_logits(rm.m, &sd, ids, N_TEXT, true);
      run_expect_bits(got, want, N_TEXT * 60, qi_kv_type_name((qi_kv_type)type), qi_isa_name((qi_isa)isa));
      free(got);
    }
    free(want);
  }
  run_free(&rm);
}

// Logits with each type against those with F32: root mean square of the difference over theirs.
static void test_logits_loss(void **state) {
  (void)state;
  // Measured: 1.9e-4, 1.5e-3, 5.7e-3, 0.026, 0.073; where activations are int8 as well: 0.013, 0.015, 0.017, 0.03, 0.075
  static const double most[2][QI_KV_COUNT] = {{0, 0, 4e-4, 3e-3, 0.01, 0.05, 0.12}, {0, 0, 0.03, 0.03, 0.035, 0.06, 0.12}};
  static const qi_path paths[] = {QI_PATH_FLOAT, QI_PATH_INTEGER};
  run_model rm = kv_model(0);
  qi_token ids[N_TEXT];
  run_random_tokens(3, 60, ids, N_TEXT);
  for (int p = 0; p < 2; p++) {
    qi_session_desc sd = kv_session(1, QI_KV_F32, paths[p]);
    float *want = run_logits(rm.m, &sd, ids, N_TEXT, false);
    for (int type = QI_KV_F16; type < QI_KV_COUNT; type++) {
      double square = 0, size = 0;
      sd.kv_type = (qi_kv_type)type;
      float *got = run_logits(rm.m, &sd, ids, N_TEXT, false);
      for (size_t i = 0; i < N_TEXT * 60; i++) {
        square += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        size += (double)want[i] * (double)want[i];
      }
      assert_true(sqrt(square / size) <= most[p][type]);
      free(got);
    }
    free(want);
  }
  run_free(&rm);
}

// Out of pages: an error that says so, and everything as before; with room it works.
static void test_full_cache(void **state) {
  (void)state;
  run_model rm = kv_model(0);
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = kv_session(3, QI_KV_F16, QI_PATH_AUTO);
  sd.n_kv_tokens = 384;
  sd.n_logits = 1;
  uint64_t bytes, all;
  RUN_OK(qi_session_memory(rm.m, &sd, &bytes, &err), err);
  sd.n_kv_tokens = 0;
  RUN_OK(qi_session_memory(rm.m, &sd, &all, &err), err);
  sd.n_kv_tokens = 384;
  qi_session *s = run_session(rm.m, &sd);
  qi_session_stats stats;
  qi_session_get_stats(s, &stats);
  assert_true(stats.heap_bytes == bytes && bytes < all && stats.kv_tokens == 384);
  assert_true(stats.kv_bytes == 384 * 2 * 2 * (40 + 40) * 2); // tokens, layers, heads, elements, bytes
  qi_decode_token t[400];
  for (int i = 0; i < 400; i++) {
    qi_decode_token one = {i % 60, i < 260 ? 0 : 1, false, false};
    t[i] = one;
  }
  run_expect(qi_decode(s, t, 400, &err), QI_ERR_CONTEXT, &err, "more tokens than the cache holds");
  assert_non_null(strstr(err.msg, "cache is full"));
  assert_int_equal(qi_seq_length(s, 0), 0);
  assert_int_equal(unused(s), 384);
  RUN_OK(qi_decode(s, t, 256, &err), err);
  RUN_OK(qi_decode(s, t + 264, 128, &err), err);
  run_expect(qi_decode(s, t, 1, &err), QI_ERR_CONTEXT, &err, "one token more than the cache holds");
  RUN_OK(qi_seq_truncate(s, 1, 0, &err), err);
  RUN_OK(qi_seq_fork(s, 0, 1, 256, &err), err);
  RUN_OK(qi_seq_fork(s, 0, 2, 256, &err), err);
  RUN_OK(qi_decode(s, t, 1, &err), err);
  run_expect(qi_decode(s, t + 399, 1, &err), QI_ERR_CONTEXT, &err, "a fork without a page");
  qi_session_close(s);
  run_free(&rm);
}

// A long text over a small cache, where the window lets go of pages; the logits are those with all the room.
static void test_window(void **state) {
  (void)state;
  run_model rm = kv_model(50);
  qi_error err = {QI_OK, ""};
  qi_token ids[N_TEXT];
  run_random_tokens(9, 60, ids, N_TEXT);
  qi_session_desc sd = kv_session(1, QI_KV_F16, QI_PATH_AUTO);
  float *want = run_logits(rm.m, &sd, ids, N_TEXT, true), *got = (float *)malloc(N_TEXT * 60 * sizeof *got);
  assert_non_null(got);
  sd.n_kv_tokens = 256;
  qi_session *s = run_session(rm.m, &sd);
  run_decode(s, rm.m, ids, N_TEXT, 10, 0, true, got);
  run_expect_bits(got, want, N_TEXT * 60, "window", "small cache");
  assert_int_equal(unused(s), 0); // tokens 351 to 399: two pages
  run_expect(qi_seq_truncate(s, 0, 280, &err), QI_ERR_CONTEXT, &err, "back to where the window is gone");
  assert_non_null(strstr(err.msg, "window"));
  RUN_OK(qi_seq_truncate(s, 0, 380, &err), err);
  run_decode(s, rm.m, ids + 380, 20, 0, 0, true, got + 380 * 60);
  run_expect_bits(got, want, N_TEXT * 60, "window", "after going back");
  RUN_OK(qi_seq_truncate(s, 0, 0, &err), err);
  assert_int_equal(unused(s), 256);
  qi_session_close(s);
  free(want);
  free(got);
  run_free(&rm);
}

// One layer of keys that depend on token and position alone: after a shift they are those of the shorter text, but for rounding.
static void test_shift(void **state) {
  (void)state;
  // Measured: 2.1e-7, 1.9e-4, 2.2e-3, 2.2e-3, 0.03, 0.043
  static const double most[QI_KV_COUNT] = {0, 1e-6, 5e-4, 5e-3, 5e-3, 0.06, 0.1};
  rm_desc d = rm_llama();
  d.n_layers = 1;
  d.n_vocab = 60;
  d.n_kv_heads = 2;
  d.n_ctx_train = 1024;
  d.format = QI_FORMAT_F32;
  run_model rm = run_build(&d);
  qi_error err = {QI_OK, ""};
  qi_token ids[N_TEXT], shorter[N_TEXT];
  run_random_tokens(5, 60, ids, N_TEXT);
  for (int type = QI_KV_F32; type < QI_KV_COUNT; type++)
    for (int keep = 0; keep < 30; keep += 29) {
      const size_t drop = 71, n = N_TEXT - drop;
      memcpy(shorter, ids, (size_t)keep * sizeof *ids);
      memcpy(shorter + keep, ids + keep + drop, (n - (size_t)keep) * sizeof *ids);
      qi_session_desc sd = kv_session(2, (qi_kv_type)type, QI_PATH_FLOAT);
      sd.n_threads = 1 + keep % 2;
      float *want = run_logits(rm.m, &sd, shorter, n, false), *all = (float *)malloc(N_TEXT * 60 * sizeof *all), got[60];
      assert_non_null(all);
      qi_session *s = run_session(rm.m, &sd);
      run_decode(s, rm.m, ids, N_TEXT - 1, 0, 0, false, all);
      RUN_OK(qi_seq_fork(s, 0, 1, N_TEXT - 1, &err), err);
      RUN_OK(qi_seq_shift(s, 0, keep, (int)drop, &err), err);
      assert_int_equal(qi_seq_length(s, 0), n - 1);
      run_decode(s, rm.m, ids + N_TEXT - 1, 1, 0, 0, false, got);
      double square = 0, size = 0;
      for (size_t i = 0; i < 60; i++) {
        double delta = (double)got[i] - (double)want[(n - 1) * 60 + i];
        square += delta * delta;
        size += (double)got[i] * (double)got[i];
      }
      assert_true(sqrt(square / size) <= most[type]);
      // The fork has kept what was shifted in the other.
      qi_session *lone = run_session(rm.m, &sd);
      run_decode(lone, rm.m, ids, N_TEXT, 0, 0, false, all);
      run_decode(s, rm.m, ids + N_TEXT - 1, 1, 0, 1, false, got);
      run_expect_bits(got, all + (N_TEXT - 1) * 60, 60, "beside a shift", qi_kv_type_name((qi_kv_type)type));
      qi_session_close(lone);
      qi_session_close(s);
      free(want);
      free(all);
    }
  run_free(&rm);
}

static void test_arguments(void **state) {
  (void)state;
  run_model rm = kv_model(0);
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = kv_session(2, QI_KV_AUTO, QI_PATH_AUTO);
  sd.n_kv_tokens = -1;
  qi_session *s = NULL;
  assert_int_equal(qi_session_open(&s, rm.m, &sd, &err), QI_ERR_ARGUMENT);
  assert_non_null(strstr(err.msg, "n_kv_tokens"));
  sd.n_kv_tokens = INT32_MAX; // never more than the sequences can use
  s = run_session(rm.m, &sd);
  qi_session_stats stats;
  qi_session_get_stats(s, &stats);
  assert_true(stats.kv_tokens == 2 * 512);
  qi_decode_token t[5] = {
      {5, 0, false, false}, {6, 0, false, true}, {7, 0, false, false}, {8, 0, false, false}, {9, 1, false, false}};
  RUN_OK(qi_decode(s, t, 5, &err), err);
  assert_int_equal(qi_seq_fork(s, 0, 0, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_fork(s, 0, 2, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_fork(s, -1, 0, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_fork(s, 0, 1, 5, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_fork(s, 0, 1, -1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_fork(NULL, 0, 1, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_shift(s, 0, 5, 0, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_shift(s, 0, 2, 3, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_shift(s, 0, -1, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_shift(s, 0, INT32_MAX, INT32_MAX, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_shift(s, 0, 0, INT32_MAX, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_shift(s, 2, 0, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_seq_length(s, 0), 4);
  assert_int_equal(qi_seq_length(s, 1), 1);
  RUN_OK(qi_decode_begin(s, t, 2, &err), err);
  assert_int_equal(qi_seq_fork(s, 0, 1, 1, &err), QI_ERR_STATE);
  assert_int_equal(qi_seq_shift(s, 0, 0, 1, &err), QI_ERR_STATE);
  RUN_OK(qi_step(s, 0, &err), err);
  qi_cancel(s);
  run_expect(qi_seq_shift(s, 0, 0, 5, &err), QI_ERR_CANCELLED, &err, "qi_seq_shift, cancelled before");
  assert_int_equal(qi_seq_length(s, 0), 6);
  RUN_OK(qi_seq_shift(s, 0, 0, 6, &err), err);
  RUN_OK(qi_seq_fork(s, 0, 1, 0, &err), err);
  assert_int_equal(unused(s), 2 * 512);
  for (int i = -1; i <= QI_KV_COUNT; i++) assert_true((qi_kv_type_name((qi_kv_type)i) != NULL) == (i >= 0 && i < QI_KV_COUNT));
  qi_session_close(s);
  run_free(&rm);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fp8),         cmocka_unit_test(test_q4_codes),         cmocka_unit_test(test_losses),
      cmocka_unit_test(test_pages),       cmocka_unit_test(test_default_room),     cmocka_unit_test(test_forks),
      cmocka_unit_test(test_window),      cmocka_unit_test(test_instruction_sets), cmocka_unit_test(test_logits_loss),
      cmocka_unit_test(test_full_cache),  cmocka_unit_test(test_shift),            cmocka_unit_test(test_arguments),
  };
  return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
