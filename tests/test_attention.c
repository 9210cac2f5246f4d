// sanitize: thread
// Attention over contexts of several pieces: the same bits however the work is cut. Prompts go in tiles of tokens, generation is
// split over pieces of the cache where few tokens are computed and many threads wait; neither may show in a single bit.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/run_model.h"

#define N_PROMPT 560 // two pieces and a bit
#define N_TOKENS 580 // the rest is generated
#define N_MIXES 9

// One layer is enough to see a difference, a second one to see it in keys and values as well.
typedef struct shape {
  const char *name;
  int n_heads, n_kv_heads, head_dim, window;
  qi_kv_type kv;
  qi_path path;
} shape;

static const shape shapes[] = {
    {"64, 8 heads a group", 8, 1, 64, 0, QI_KV_F16, QI_PATH_AUTO},
    {"64, 3 heads a group, window of 300", 6, 2, 64, 300, QI_KV_F16, QI_PATH_AUTO},
    {"80, 1 head a group", 2, 2, 80, 0, QI_KV_F32, QI_PATH_AUTO},
    {"128, 5 heads a group, window of 257", 5, 1, 128, 257, QI_KV_F16, QI_PATH_FLOAT},
    {"20, 2 heads a group", 4, 2, 20, 0, QI_KV_F32, QI_PATH_FLOAT},
    {"12, 4 heads a group, window of 31", 4, 1, 12, 31, QI_KV_F16, QI_PATH_BF16},
    {"64, 1 head a group", 3, 3, 64, 0, QI_KV_F16, QI_PATH_INTEGER},
    {"8, 80 heads a group", 80, 1, 8, 0, QI_KV_F16, QI_PATH_AUTO},
    {"64, 8 heads a group, Q8", 8, 1, 64, 0, QI_KV_Q8, QI_PATH_INTEGER},
    {"64, 8 heads a group, Q8", 8, 1, 64, 0, QI_KV_Q8, QI_PATH_AUTO},
    {"80, 3 heads a group, window of 300, Q8", 6, 2, 80, 300, QI_KV_Q8, QI_PATH_FLOAT},
    {"20, 5 heads a group, window of 31, Q4", 5, 1, 20, 31, QI_KV_Q4, QI_PATH_INTEGER},
    {"96, 2 heads a group, Q4", 4, 2, 96, 0, QI_KV_Q4, QI_PATH_BF16},
    {"20, 3 heads a group, window of 257, FP8", 3, 1, 20, 257, QI_KV_FP8, QI_PATH_AUTO},
    {"64, 2 heads a group, BF16", 4, 2, 64, 0, QI_KV_BF16, QI_PATH_INTEGER},
    {"72, 4 heads a group, window of 65, BF16", 4, 1, 72, 65, QI_KV_BF16, QI_PATH_AUTO},
};

static rm_desc shape_desc(const shape *s) {
  rm_desc d = rm_llama();
  d.n_layers = 2;
  d.n_embd = 32;
  d.n_ff = 32;
  d.n_vocab = 40;
  d.n_heads = s->n_heads;
  d.n_kv_heads = s->n_kv_heads;
  d.head_dim = s->head_dim;
  d.window = s->window ? s->window : -1;
  d.n_ctx_train = 1024;
  d.format = s->path == QI_PATH_FLOAT ? QI_FORMAT_F32 : QI_FORMAT_Q8_0;
  d.seed = (uint64_t)(s - shapes) + 1;
  return d;
}

typedef struct text {
  const shape *shape;
  const qi_model *m;
  size_t n_vocab;
  qi_token ids[N_TOKENS];
  float *want; // [N_TOKENS, n_vocab]
} text;

static qi_session_desc text_session(const text *t) {
  qi_session_desc sd = run_session_desc(N_TOKENS, t->shape->path);
  sd.kv_type = t->shape->kv;
  return sd;
}

// Everything in one call on one thread: no tile is cut short, nothing is split.
static text text_open(const shape *s, const qi_model *m) {
  text t;
  memset(&t, 0, sizeof t);
  t.shape = s;
  t.m = m;
  t.n_vocab = (size_t)run_n_vocab(m);
  run_random_tokens(3, (int)t.n_vocab, t.ids, N_TOKENS);
  t.want = (float *)malloc(N_TOKENS * t.n_vocab * sizeof *t.want);
  assert_non_null(t.want);
  qi_session_desc sd = text_session(&t);
  sd.n_batch = N_TOKENS;
  qi_session *session = run_session(m, &sd);
  run_decode(session, m, t.ids, N_PROMPT, 0, 0, false, t.want);
  run_decode(session, m, t.ids + N_PROMPT, N_TOKENS - N_PROMPT, 0, 0, true, t.want + N_PROMPT * t.n_vocab);
  qi_session_close(session);
  return t;
}

static void text_close(text *t) { free(t->want); }

static size_t pick(uint64_t *rng, size_t n) { return (size_t)(rm_next(rng) % n); }

// The next call: `n` tokens of our sequence among up to as many of the other, in any order.
static size_t fill_call(const text *t, uint64_t *rng, size_t at, size_t n, int seq, bool others, qi_decode_token *out) {
  size_t count = 0, n_mine = 0;
  while (n_mine < n) {
    qi_decode_token token = {t->ids[at + n_mine], seq, at + n_mine >= N_PROMPT, true};
    if (others && pick(rng, 3) == 0) {
      qi_decode_token other = {t->ids[pick(rng, N_TOKENS)], 1 - seq, pick(rng, 2) != 0, false};
      token = other;
    } else {
      n_mine++;
    }
    out[count++] = token;
    if (count == N_TOKENS) return count;
  }
  return count;
}

static void expect_call(const text *t, const qi_session *s, size_t at, size_t n, const char *what) {
  for (size_t i = 0; i < n; i++) {
    const float *row = qi_logits(s, (int)i);
    char which[96];
    snprintf(which, sizeof which, "%s, token %lu", t->shape->name, (unsigned long)(at + i));
    assert_non_null(row);
    run_expect_bits(row, t->want + (at + i) * t->n_vocab, t->n_vocab, what, which);
  }
}

// The whole text in a random mix of threads, batches, calls, slices and other sequences.
static void run_mix(const text *t, uint64_t seed) {
  uint64_t rng = seed;
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = text_session(t);
  static qi_decode_token tokens[N_TOKENS];
  bool others = pick(&rng, 2) != 0, sliced = pick(&rng, 4) == 0;
  int seq = others && pick(&rng, 2) != 0;
  size_t most = pick(&rng, 3) ? 1 + pick(&rng, 300) : 1 + pick(&rng, 20);
  sd.n_seqs = others ? 2 : 1;
  sd.n_ctx = 2 * N_TOKENS + (int)pick(&rng, 40);
  sd.n_threads = 1 + (int)pick(&rng, 8);
  sd.n_batch = 1 + (int)pick(&rng, 200);
  char what[128];
  snprintf(what, sizeof what, "mix %lu: %d threads, batches of %d, calls up to %lu%s%s", (unsigned long)seed, sd.n_threads,
           sd.n_batch, (unsigned long)most, others ? ", another sequence" : "", sliced ? ", slices" : "");
  qi_session *s = run_session(t->m, &sd);
  for (size_t at = 0, n; at < N_TOKENS; at += n) {
    n = 1 + pick(&rng, at >= N_PROMPT && pick(&rng, 2) ? 1 : most);
    if (n > N_TOKENS - at) n = N_TOKENS - at;
    size_t count = fill_call(t, &rng, at, n, seq, others, tokens);
    n = 0;
    for (size_t i = 0; i < count; i++) n += tokens[i].seq == seq;
    if (others && qi_seq_length(s, 1 - seq) + (int)count > N_TOKENS)
      RUN_OK(qi_seq_truncate(s, 1 - seq, (int)pick(&rng, 30), &err), err);
    qi_result r = sliced ? qi_decode_begin(s, tokens, count, &err) : qi_decode(s, tokens, count, &err);
    while (sliced && r == QI_OK && (r = qi_step(s, 1 + (uint32_t)pick(&rng, 300), &err)) == QI_AGAIN) r = QI_OK;
    run_expect(r, QI_OK, &err, what);
    expect_call(t, s, at, n, what);
  }
  qi_session_close(s);
}

static void test_mixes(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    rm_desc d = shape_desc(&shapes[i]);
    run_model rm = run_build(&d);
    text t = text_open(&shapes[i], rm.m);
    for (uint64_t seed = 1; seed <= N_MIXES; seed++) run_mix(&t, seed + 100 * i);
    text_close(&t);
    run_free(&rm);
  }
}

// One token after a long context gives every thread something to do; short contexts, many tokens and lone threads need no parts.
static void test_split(void **state) {
  (void)state;
  rm_desc d = shape_desc(&shapes[0]);
  run_model rm = run_build(&d);
  text t = text_open(&shapes[0], rm.m);
  for (int n_threads = 1; n_threads <= 4; n_threads *= 2) {
    qi_session_desc sd = text_session(&t);
    sd.n_threads = n_threads;
    qi_session *s = run_session(rm.m, &sd);
    const qi__attention *a = &s->forward.attention;
    float *got = (float *)malloc(N_TOKENS * t.n_vocab * sizeof *got);
    assert_non_null(got);
    run_decode(s, rm.m, t.ids, N_PROMPT, 0, 0, false, got);
    run_decode(s, rm.m, t.ids + N_PROMPT, 1, 0, 0, true, got + N_PROMPT * t.n_vocab);
    assert_int_equal(a->split, n_threads > 1);
    assert_int_equal(qi__attention_units(a), n_threads > 1 ? 3 : 1);
    run_expect_bits(got, t.want, (N_PROMPT + 1) * t.n_vocab, "split", shapes[0].name);
    run_decode(s, rm.m, t.ids + N_PROMPT + 1, 19, 0, 0, true, got + (N_PROMPT + 1) * t.n_vocab);
    assert_int_equal(a->split, 0);
    run_expect_bits(got, t.want, N_TOKENS * t.n_vocab, "not split", shapes[0].name);
    free(got);
    qi_session_close(s);
  }
  text_close(&t);
  run_free(&rm);
}

// What the parts need is counted, is bounded by threads and not by the batch, and is nothing where one thread works or one piece is
// the context.
static void test_memory(void **state) {
  (void)state;
  rm_desc d = shape_desc(&shapes[0]);
  run_model rm = run_build(&d);
  static const int n_ctx[] = {256, 4096};
  uint64_t parts[2][2][2];
  for (int c = 0; c < 2; c++)
    for (int b = 0; b < 2; b++)
      for (int many = 0; many < 2; many++) {
        qi_error err = {QI_OK, ""};
        qi_session_desc sd = run_session_desc(0, QI_PATH_AUTO);
        sd.n_ctx = n_ctx[c];
        sd.n_logits = 1;
        sd.n_batch = b ? 256 : 64;
        sd.n_threads = many ? 4 : 1;
        uint64_t bytes = 0;
        RUN_OK(qi_session_memory(rm.m, &sd, &bytes, &err), err);
        qi_session *s = run_session(rm.m, &sd);
        qi_session_stats stats;
        qi_session_get_stats(s, &stats);
        assert_true(stats.heap_bytes == bytes);
        const qi__attention *a = &s->forward.attention;
        parts[c][b][many] = a->n_split * a->n_pieces * 8 * (64 + 2) * sizeof(float);
        qi_session_close(s);
      }
  for (int b = 0; b < 2; b++) {
    assert_true(parts[0][b][0] == 0 && parts[0][b][1] == 0 && parts[1][b][0] == 0);
    assert_true(parts[1][b][1] > 0 && parts[1][b][1] <= 15 * 16 * 8 * 66 * sizeof(float));
  }
  run_free(&rm);
}

// Prompts have their attention in bfloat16 where a matrix unit is, also with ternary weights; not where another path is asked for,
// and not with weights that are exact.
static void test_on_matrix(void **state) {
  (void)state;
  static const struct {
    qi_format format;
    qi_path path;
    bool on_matrix;
  } cases[] = {{QI_FORMAT_Q8_0, QI_PATH_AUTO, true},      {QI_FORMAT_TQ2_0, QI_PATH_AUTO, true},
               {QI_FORMAT_TQ2_0, QI_PATH_INTEGER, false}, {QI_FORMAT_TQ2_0, QI_PATH_FLOAT, false},
               {QI_FORMAT_F32, QI_PATH_AUTO, false}};
  qi_isa isa;
  qi__cpu cpu;
  bool matrix_unit = !qi__isa_choose(QI_ISA_AUTO, &isa, &cpu, NULL) && cpu.amx;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    rm_desc d = rm_llama_256(cases[i].format);
    run_model rm = run_build(&d);
    qi_session_desc sd = run_session_desc(0, cases[i].path);
    qi_session *s = run_session(rm.m, &sd);
    assert_int_equal(qi__attention_on_matrix(&s->forward), matrix_unit && cases[i].on_matrix);
    qi_session_close(s);
    run_free(&rm);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_mixes),
      cmocka_unit_test(test_split),
      cmocka_unit_test(test_memory),
      cmocka_unit_test(test_on_matrix),
  };
  return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
