// Every supported architecture against the float64 reference, on small random models; results that may not depend on threads,
// batches, slices, other sequences or the instruction set; and files that contradict themselves.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/run_model.h"

#define N 40      // tokens of most tests
#define N_BITS 24 // tokens of tests that compare bits, which run often

// ---- variants ----

typedef struct variant {
  const char *name;
  rm_desc d;
  int n_ctx; // of the session; 0 = N
} variant;

#define MAX_VARIANTS 40

static rm_desc *add_variant(variant *list, size_t *n, const char *name, rm_desc d) {
  assert_true(*n < MAX_VARIANTS);
  variant v = {name, d, 0};
  list[*n] = v;
  list[*n].d.seed = *n + 1;
  return &list[(*n)++].d;
}

static void add_llama_variants(variant *list, size_t *n) {
  rm_desc *d;
  add_variant(list, n, "llama F32", rm_llama());
  d = add_variant(list, n, "llama F16, grouped heads", rm_llama());
  d->n_kv_heads = 2;
  d->format = QI_FORMAT_F16;
  add_variant(list, n, "llama, tied output", rm_llama())->tied = true;
  d = add_variant(list, n, "llama, rope_freqs", rm_llama());
  d->rope_freqs = true;
  d->freq_base = 500000.0f;
  d->n_kv_heads = 1;
  d = add_variant(list, n, "llama, heads of 20 in 64", rm_llama());
  d->head_dim = 20;
  d->format = QI_FORMAT_F16;
  d = add_variant(list, n, "llama, keys of 24, values of 16", rm_llama());
  d->head_dim = 24;
  d->head_dim_v = 16;
  d->n_kv_heads = 2;
  d = add_variant(list, n, "llama, width 72, no keys of rope", rm_llama());
  d->n_embd = 72;
  d->n_heads = d->n_kv_heads = 6;
  d->n_ff = 100;
  d->n_vocab = 301;
  d->n_rot = 0;
  d->freq_base = 0;
  d = add_variant(list, n, "llama F16, width 100", rm_llama());
  d->n_embd = 100;
  d->n_heads = 5;
  d->n_kv_heads = 1;
  d->n_ff = 173;
  d->format = QI_FORMAT_F16;
  d = add_variant(list, n, "llama, linear scaling", rm_llama());
  d->scaling_type = "linear";
  d->scaling_factor = 4;
  d = add_variant(list, n, "llama, scaling without its type", rm_llama());
  d->scaling_factor = 2.5f;
  d = add_variant(list, n, "llama, scaling of type none", rm_llama());
  d->scaling_type = "none";
  d->scaling_factor = 4;
  d = add_variant(list, n, "llama, yarn", rm_llama());
  d->scaling_type = "yarn";
  d->scaling_factor = 4;
  d->n_ctx_orig = 32;
  d->head_dim = 32;
  d = add_variant(list, n, "llama, window of 16", rm_llama());
  d->window = 16;
  d->n_kv_heads = 2;
  d->freq_base = 1000000.0f;
  d = add_variant(list, n, "llama, biases everywhere", rm_llama());
  d->qkv_bias = d->ffn_bias = true;
  d = add_variant(list, n, "llama, 100 tokens, 3 layers", rm_llama());
  d->n_vocab = 100;
  d->n_layers = 3;
}

static void add_other_variants(variant *list, size_t *n) {
  rm_desc *d;
  add_variant(list, n, "qwen2", rm_qwen2());
  d = add_variant(list, n, "qwen2 Q8_0, output of its own", rm_qwen2());
  d->format = QI_FORMAT_Q8_0;
  d->tied = false;
  add_variant(list, n, "qwen3", rm_qwen3());
  add_variant(list, n, "qwen3 Q4_0", rm_qwen3())->format = QI_FORMAT_Q4_0;
  d = add_variant(list, n, "qwen3 BF16, width 72", rm_qwen3());
  d->n_embd = 72;
  d->format = QI_FORMAT_BF16;
  add_variant(list, n, "phi3, short factors", rm_phi3());
  d = add_variant(list, n, "phi3, at the end of the short factors", rm_phi3());
  list[*n - 1].n_ctx = d->n_ctx_orig;
  d = add_variant(list, n, "phi3, long factors", rm_phi3());
  list[*n - 1].n_ctx = d->n_ctx_orig + 1;
  d = add_variant(list, n, "phi3 F16, window of 20", rm_phi3());
  d->window = 20;
  d->n_kv_heads = 2;
  d->format = QI_FORMAT_F16;
  d = add_variant(list, n, "phi3, three quarters rotated, tied", rm_phi3());
  d->n_rot = 12;
  d->tied = true;
  d->window = -1;
  list[*n - 1].n_ctx = 100;
  d = add_variant(list, n, "phi3, no stretching", rm_phi3());
  d->rope_long_short = false;
  d->attn_factor = 0;
  d->n_ctx_orig = 0;
}

// Whole blocks of 256, and one whose feed-forward rows are none, so that formats mix.
static void add_format_variants(variant *list, size_t *n) {
  static const struct {
    const char *name;
    qi_format format;
  } formats[] = {{"llama BF16", QI_FORMAT_BF16}, {"llama Q4_0", QI_FORMAT_Q4_0}, {"llama Q8_0", QI_FORMAT_Q8_0},
                 {"llama Q4_K", QI_FORMAT_Q4_K}, {"llama Q6_K", QI_FORMAT_Q6_K}, {"llama TQ2_0", QI_FORMAT_TQ2_0}};
  rm_desc *d;
  for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
    add_variant(list, n, formats[i].name, rm_llama_256(formats[i].format));
  d = add_variant(list, n, "phi3 Q4_K", rm_llama_256(QI_FORMAT_Q4_K));
  d->arch = "phi3";
  d->output_format = QI_FORMAT_Q6_K;
  d = add_variant(list, n, "qwen3 Q6_K and F16", rm_llama_256(QI_FORMAT_Q6_K));
  d->arch = "qwen3";
  d->n_ff = 352;
}

static size_t variants(variant list[MAX_VARIANTS]) {
  size_t n = 0;
  add_llama_variants(list, &n);
  add_other_variants(list, &n);
  add_format_variants(list, &n);
  return n;
}

// ---- against the reference ----

// Losses are 1 - cosine, of rows of logits; differences are in units of their root mean square.
typedef struct bound {
  const char *name;
  qi_path path;
  qi_kv_type kv;
  r64_options alike;        // what the reference rounds as the path does
  double best, worst;       // losses against that reference: of one row in ten, of all; see run_expect_alike
  double max_diff;          // greatest difference from it
  double exact, exact_diff; // the same against the exact reference, all rows
} bound;

// Measured over all variants: FLOAT 2e-13 and 2e-6; half cache 2e-8 and 5e-4, exact 6e-7 and 4e-3; INTEGER 2e-4 and 0.07, exact
// 5e-4 and 0.1; BF16 3e-5 and 0.03, exact 1.1e-4 and 0.05; the best rows 1e-13, with a half cache 3e-10.
static const bound bounds[] = {
    {"FLOAT", QI_PATH_FLOAT, QI_KV_F32, {0, false, 0, false}, 1e-11, 1e-11, 2e-5, 1e-11, 2e-5},
    {"FLOAT, half cache", QI_PATH_FLOAT, QI_KV_F16, {0, true, 0, false}, 1e-8, 1e-6, 5e-3, 2e-6, 1e-2},
    {"INTEGER", QI_PATH_INTEGER, QI_KV_F32, {0, false, 0, true}, 1e-10, 1e-3, 0.15, 1e-3, 0.2},
    {"BF16", QI_PATH_BF16, QI_KV_F32, {0, false, 1, false}, 1e-10, 1e-4, 0.06, 3e-4, 0.1},
};

static void check_variant(const variant *v, size_t n) {
  run_model rm = run_build(&v->d);
  r64_model r;
  if (!r64_open(&r, rm.m)) fail_msg("%s: reference: %s", v->name, r.error);
  qi_token *ids = (qi_token *)malloc(n * sizeof *ids);
  assert_non_null(ids);
  run_random_tokens(v->d.seed, v->d.n_vocab, ids, n);
  r64_options exact = {v->n_ctx ? v->n_ctx : (int)n, false, 0, false};
  double *want = run_reference(&r, &exact, ids, n);
  for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++) {
    const bound *b = &bounds[i];
    r64_options o = b->alike;
    o.n_ctx = exact.n_ctx;
    if (o.bf16) o.bf16 = run_bf16_roundings();
    qi_session_desc sd = run_session_desc((int)n, b->path);
    sd.n_ctx = exact.n_ctx;
    sd.kv_type = b->kv;
    double *alike = run_reference(&r, &o, ids, n);
    float *got = run_logits(rm.m, &sd, ids, n, false);
    run_expect_alike(r64_compare(got, alike, n, r.n_vocab), b->best, b->worst, b->max_diff, b->name, v->name);
    run_expect_close(r64_compare(got, want, n, r.n_vocab), b->exact, b->exact_diff, b->name, v->name);
    free(alike);
    free(got);
  }
  free(want);
  free(ids);
  r64_close(&r);
  run_free(&rm);
}

static void test_variants(void **state) {
  (void)state;
  variant list[MAX_VARIANTS];
  size_t n = variants(list);
  for (size_t i = 0; i < n; i++) check_variant(&list[i], N);
}

// Longer than a piece of attention (256 positions), with and without a window that begins inside one.
static void test_long_context(void **state) {
  (void)state;
  variant v = {"llama, 300 tokens", rm_llama(), 0};
  v.d.n_embd = 32;
  v.d.n_heads = v.d.n_kv_heads = 2;
  v.d.n_ctx_train = 512;
  check_variant(&v, 300);
  v.name = "llama, 300 tokens, window of 100";
  v.d.window = 100;
  check_variant(&v, 300);
}

// ---- the same bits ----

// Models whose results are compared bit by bit: block formats, float formats, fused matrices, a window, mixed formats.
static size_t bit_variants(variant *list) {
  size_t n = 0;
  rm_desc *d = add_variant(list, &n, "llama Q4_K, window of 16", rm_llama_256(QI_FORMAT_Q4_K));
  d->window = 16;
  d = add_variant(list, &n, "phi3 F16", rm_phi3());
  d->format = QI_FORMAT_F16;
  d = add_variant(list, &n, "qwen3 Q8_0", rm_qwen3());
  d->format = QI_FORMAT_Q8_0;
  d = add_variant(list, &n, "qwen2 Q6_K and F16", rm_llama_256(QI_FORMAT_Q6_K));
  d->arch = "qwen2";
  d->n_ff = 352;
  return n;
}

// A model, the tokens, and the logits that one thread gets in one call.
typedef struct bits {
  const char *name;
  run_model rm;
  qi_session_desc sd;
  qi_token ids[N_BITS];
  bool generated;
  size_t n_vocab;
  float *want; // [N_BITS, n_vocab]
} bits;

static void bits_expect(const bits *b, const float *got, const char *what) {
  char which[96];
  snprintf(which, sizeof which, "%s, path %d, %s", b->name, (int)b->sd.path, b->generated ? "generated" : "prompt");
  run_expect_bits(got, b->want, N_BITS * b->n_vocab, what, which);
}

// In a fresh session of desc sd, `chunk` tokens a call (0 = all at once).
static void bits_run(const bits *b, const qi_session_desc *sd, size_t chunk, const char *what) {
  float *got = (float *)malloc(N_BITS * b->n_vocab * sizeof *got);
  assert_non_null(got);
  qi_session *s = run_session(b->rm.m, sd);
  run_decode(s, b->rm.m, b->ids, N_BITS, chunk, 0, b->generated, got);
  bits_expect(b, got, what);
  qi_session_close(s);
  free(got);
}

static void bits_threads_and_chunks(const bits *b) {
  static const int n_threads[] = {2, 3, 8}, n_batch[] = {1, 7, 256};
  static const size_t chunk[] = {1, 3, 23};
  qi_session_desc sd = b->sd;
  for (int i = 0; i < 3; i++) {
    sd.n_threads = n_threads[i];
    sd.n_batch = 0;
    bits_run(b, &sd, 0, "threads");
    sd.n_batch = n_batch[i];
    bits_run(b, &sd, 0, "threads and n_batch");
    sd.n_threads = 1;
    bits_run(b, &sd, 0, "n_batch");
    bits_run(b, &b->sd, chunk[i], "tokens a call");
  }
}

// As test code runs the host's job system: backwards.
static void parallel_backwards(void *user, void (*fn)(void *arg, int index), void *arg, int n) {
  ++*(int *)user;
  for (int i = n - 1; i >= 0; i--) fn(arg, i);
}

static void bits_parallel_hook(const bits *b) {
  int calls = 0;
  qi_session_desc sd = b->sd;
  sd.n_threads = 5;
  sd.parallel.parallel_for = parallel_backwards;
  sd.parallel.user = &calls;
  bits_run(b, &sd, 0, "parallel_for");
  assert_true(calls > 0);
}

// Two sequences in one call, tokens mixed; the other one has other tokens in the other role.
static void bits_two_sequences(const bits *b) {
  qi_session_desc sd = b->sd;
  sd.n_seqs = 2;
  sd.n_logits = 2 * N_BITS;
  sd.n_batch = 11;
  qi_session *s = run_session(b->rm.m, &sd);
  qi_decode_token t[2 * N_BITS];
  qi_token other[N_BITS];
  size_t mine[N_BITS], n_other = 0, n_mine = 0;
  uint64_t rng = 99;
  run_random_tokens(7, (int)b->n_vocab, other, N_BITS);
  for (size_t i = 0; i < 2 * N_BITS; i++) {
    bool first = n_other == N_BITS || (n_mine < N_BITS && rm_next(&rng) % 2);
    qi_decode_token a = {first ? b->ids[n_mine] : other[n_other], first ? 1 : 0, first ? b->generated : !b->generated, true};
    if (first)
      mine[n_mine++] = i;
    else
      n_other++;
    t[i] = a;
  }
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_decode(s, t, 2 * N_BITS, &err), err);
  float *got = (float *)malloc(N_BITS * b->n_vocab * sizeof *got);
  assert_non_null(got);
  for (size_t i = 0; i < N_BITS; i++) {
    const float *row = qi_logits(s, (int)mine[i]);
    assert_non_null(row);
    memcpy(got + i * b->n_vocab, row, b->n_vocab * sizeof *row);
  }
  bits_expect(b, got, "beside another sequence");
  free(got);
  qi_session_close(s);
}

static void bits_truncate(const bits *b) {
  qi_error err = {QI_OK, ""};
  qi_session *s = run_session(b->rm.m, &b->sd);
  float *got = (float *)malloc(N_BITS * b->n_vocab * sizeof *got);
  qi_token wrong[N_BITS];
  assert_non_null(got);
  run_random_tokens(11, (int)b->n_vocab, wrong, N_BITS);
  memcpy(wrong, b->ids, 13 * sizeof *wrong);
  run_decode(s, b->rm.m, wrong, N_BITS, 0, 0, b->generated, got);
  RUN_OK(qi_seq_truncate(s, 0, 13, &err), err);
  assert_int_equal(qi_seq_length(s, 0), 13);
  run_decode(s, b->rm.m, b->ids + 13, N_BITS - 13, 0, 0, b->generated, got + 13 * b->n_vocab);
  bits_expect(b, got, "after qi_seq_truncate");
  qi_session_reset(s);
  assert_int_equal(qi_seq_length(s, 0), 0);
  run_decode(s, b->rm.m, b->ids, N_BITS, 0, 0, b->generated, got);
  bits_expect(b, got, "after qi_session_reset");
  free(got);
  qi_session_close(s);
}

static void bits_slices(const bits *b, uint32_t budget_us) {
  qi_error err = {QI_OK, ""};
  qi_session *s = run_session(b->rm.m, &b->sd);
  qi_decode_token *t = run_tokens(b->ids, N_BITS, 0, b->generated);
  RUN_OK(qi_decode_begin(s, t, N_BITS, &err), err);
  memset(t, 0xff, N_BITS * sizeof *t); // it took note: the array is ours again
  qi_result r;
  while ((r = qi_step(s, budget_us, &err)) == QI_AGAIN) {
  }
  run_expect(r, QI_OK, &err, "qi_step");
  float *got = (float *)malloc(N_BITS * b->n_vocab * sizeof *got);
  assert_non_null(got);
  run_take_logits(s, N_BITS, b->n_vocab, got);
  bits_expect(b, got, "in slices");
  free(got);
  free(t);
  qi_session_close(s);
}

// INTEGER and FLOAT: the same on every instruction set. A set that this CPU lacks becomes the next lower one.
static void bits_isas(const bits *b) {
  qi_session_desc sd = b->sd;
  for (int isa = QI_ISA_SCALAR; isa < QI_ISA_COUNT; isa++) {
    qi_session *s = NULL;
    qi_error err = {QI_OK, ""};
    sd.isa = (qi_isa)isa;
    qi_result r = qi_session_open(&s, b->rm.m, &sd, &err);
    if (r == QI_ERR_UNSUPPORTED) continue; // of another processor family
    run_expect(r, QI_OK, &err, qi_isa_name((qi_isa)isa));
    qi_session_close(s);
    bits_run(b, &sd, 0, qi_isa_name((qi_isa)isa));
  }
}

static void check_bits(const variant *v, qi_path path, bool generated) {
  bits b;
  b.name = v->name;
  b.rm = run_build(&v->d);
  b.sd = run_session_desc(N_BITS, path);
  b.generated = generated;
  b.n_vocab = (size_t)v->d.n_vocab;
  run_random_tokens(v->d.seed, v->d.n_vocab, b.ids, N_BITS);
  b.want = run_logits(b.rm.m, &b.sd, b.ids, N_BITS, generated);
  bits_threads_and_chunks(&b);
  bits_parallel_hook(&b);
  bits_two_sequences(&b);
  bits_truncate(&b);
  bits_slices(&b, 1);
  bits_slices(&b, 200);
  if (path == QI_PATH_INTEGER || path == QI_PATH_FLOAT) bits_isas(&b);
  free(b.want);
  run_free(&b.rm);
}

static void test_bits_float(void **state) {
  (void)state;
  variant list[MAX_VARIANTS];
  size_t n = bit_variants(list);
  for (size_t i = 0; i < n; i++) check_bits(&list[i], QI_PATH_FLOAT, false);
}
static void test_bits_integer(void **state) {
  (void)state;
  variant list[MAX_VARIANTS];
  size_t n = bit_variants(list);
  for (size_t i = 0; i < n; i++) check_bits(&list[i], QI_PATH_INTEGER, true);
}
static void test_bits_bf16(void **state) {
  (void)state;
  variant list[MAX_VARIANTS];
  size_t n = bit_variants(list);
  for (size_t i = 0; i < n; i++) check_bits(&list[i], QI_PATH_BF16, false);
}
static void test_bits_auto(void **state) {
  (void)state;
  variant list[MAX_VARIANTS];
  size_t n = bit_variants(list);
  for (size_t i = 0; i < n; i++) {
    check_bits(&list[i], QI_PATH_AUTO, false);
    check_bits(&list[i], QI_PATH_AUTO, true);
  }
}

// AUTO is INTEGER for generated tokens; for prompts BF16, but FLOAT where weights are F32 or F16.
static bool matrix_unit(void) {
  qi_isa isa;
  qi__cpu cpu;
  return !qi__isa_choose(QI_ISA_AUTO, &isa, &cpu, NULL) && cpu.amx;
}

static void test_auto_is(void **state) {
  (void)state;
  variant list[MAX_VARIANTS];
  size_t n = 0;
  add_variant(list, &n, "llama Q4_K", rm_llama_256(QI_FORMAT_Q4_K));
  add_variant(list, &n, "qwen3 Q8_0", rm_qwen3())->format = QI_FORMAT_Q8_0;
  add_variant(list, &n, "phi3 F32", rm_phi3());
  for (size_t i = 0; i < n; i++)
    for (int generated = 0; generated < 2; generated++) {
      bool exact = list[i].d.format == QI_FORMAT_F32;
      run_model rm = run_build(&list[i].d);
      qi_token ids[N];
      run_random_tokens(5, list[i].d.n_vocab, ids, N);
      qi_path path = exact ? QI_PATH_FLOAT : generated || !matrix_unit() ? QI_PATH_INTEGER : QI_PATH_BF16;
      qi_session_desc sd = run_session_desc(N, path);
      float *want = run_logits(rm.m, &sd, ids, N, generated != 0);
      sd.path = QI_PATH_AUTO;
      float *got = run_logits(rm.m, &sd, ids, N, generated != 0);
      run_expect_bits(got, want, (size_t)N * (size_t)list[i].d.n_vocab, "AUTO", list[i].name);
      free(got);
      free(want);
      run_free(&rm);
    }
}

// ---- the same bits everywhere ----

// FNV-1a of values as little-endian bits.
static uint64_t hash_floats(const float *v, size_t n) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < n; i++) {
    uint32_t u = gw_f32_bits(v[i]);
    for (int k = 0; k < 4; k++) h = (h ^ (u >> 8 * k & 0xff)) * 0x100000001b3u;
  }
  return h;
}
static uint64_t hash_bytes(const uint8_t *v, size_t n) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < n; i++) h = (h ^ v[i]) * 0x100000001b3u;
  return h;
}

// INTEGER and FLOAT promise the same bits on every CPU and from every compiler. These are theirs. They change when the documented
// order of sums or our exp, sin and cos change, which is a new numeric contract; if only the file differs, qi_quantize changed.
static void test_known_bits(void **state) {
  (void)state;
  static const struct {
    const char *name;
    qi_format format;
    uint64_t file, integer, exact;
  } known[] = {
      {"F32", QI_FORMAT_F32, 0x4e95394a6fdcdef3u, 0x41322336befdc8c5u, 0x41322336befdc8c5u},
      {"Q8_0", QI_FORMAT_Q8_0, 0x730f2b4c4f1012aeu, 0x4f0ff8136733b172u, 0xfb03b217f7667ec6u},
      {"Q4_K", QI_FORMAT_Q4_K, 0xf141a2898298b03eu, 0xb5912b029c1dacbfu, 0x84e85a2b40e88887u},
  };
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    rm_desc d = rm_llama_256(known[i].format);
    d.rope_freqs = true;
    run_model rm = run_build(&d);
    uint64_t file = hash_bytes(rm.file, rm.size);
    if (file != known[i].file) fail_msg("%s: the file has hash 0x%llx", known[i].name, (unsigned long long)file);
    qi_token ids[N];
    run_random_tokens(1, d.n_vocab, ids, N);
    for (int exact = 0; exact < 2; exact++) {
      qi_session_desc sd = run_session_desc(N, exact ? QI_PATH_FLOAT : QI_PATH_INTEGER);
      sd.kv_type = QI_KV_F16;
      float *got = run_logits(rm.m, &sd, ids, N, !exact);
      uint64_t h = hash_floats(got, N * (size_t)d.n_vocab), want = exact ? known[i].exact : known[i].integer;
      if (h != want)
        fail_msg("%s, %s: logits of other bits: hash 0x%llx, expected 0x%llx", known[i].name, exact ? "FLOAT" : "INTEGER",
                 (unsigned long long)h, (unsigned long long)want);
      free(got);
    }
    run_free(&rm);
  }
}

// A prompt, then generated tokens: the same whether they came in one call or two, with other tokens in the batch or not.
static void test_mixed_roles(void **state) {
  (void)state;
  rm_desc d = rm_llama_256(QI_FORMAT_Q4_K);
  run_model rm = run_build(&d);
  qi_error err = {QI_OK, ""};
  qi_token ids[N];
  run_random_tokens(3, d.n_vocab, ids, N);
  qi_session_desc sd = run_session_desc(N, QI_PATH_AUTO);
  qi_session *s = run_session(rm.m, &sd);
  size_t bytes = N * (size_t)d.n_vocab * sizeof(float);
  float *want = (float *)malloc(bytes), *got = (float *)malloc(bytes);
  assert_non_null(want);
  assert_non_null(got);
  run_decode(s, rm.m, ids, 25, 0, 0, false, want);
  run_decode(s, rm.m, ids + 25, N - 25, 1, 0, true, want + 25 * (size_t)d.n_vocab);
  qi_session_reset(s);
  qi_decode_token *t = run_tokens(ids, N, 0, false);
  for (size_t i = 25; i < N; i++) t[i].generated = true;
  RUN_OK(qi_decode(s, t, N, &err), err);
  run_take_logits(s, N, (size_t)d.n_vocab, got);
  run_expect_bits(got, want, N * (size_t)d.n_vocab, "prompt and generated tokens in one call", "llama Q4_K");
  free(t);
  free(got);
  free(want);
  qi_session_close(s);
  run_free(&rm);
}

// ---- files that contradict themselves ----

// Opening must fail with this code and a message that holds all the words.
static void expect_refused(const rm_desc *d, qi_result code, const char *w1, const char *w2, const char *w3) {
  const char *words[] = {w1, w2, w3};
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  size_t size;
  uint8_t *file = rm_build(d, &size);
  assert_non_null(file);
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.data = file;
  md.data_size = size;
  qi_result r = qi_model_open(&m, &md, &err);
  if (r != code) fail_msg("wanted %s about %s, got %s (%s)", qi_result_name(code), w1, qi_result_name(r), err.msg);
  assert_null(m);
  assert_int_equal(err.code, code);
  for (int i = 0; i < 3; i++)
    if (words[i] && !strstr(err.msg, words[i])) fail_msg("\"%s\" does not say %s", err.msg, words[i]);
  assert_int_equal(qi_model_validate(&md, &err), code);
  md.load = QI_LOAD_METADATA; // what the file holds can be looked at all the same
  RUN_OK(qi_model_open(&m, &md, &err), err);
  qi_model_close(m);
  free(file);
}

static void test_unknown_architecture(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  d.arch = "mamba9";
  d.tensor_arch = "llama";
  expect_refused(&d, QI_ERR_UNSUPPORTED, "mamba9", "llama", NULL);
  d = rm_llama();
  d.scaling_type = "spiral";
  expect_refused(&d, QI_ERR_UNSUPPORTED, "rope.scaling.type", "spiral", NULL);
  d = rm_llama();
  d.override[0] = (rm_override){"expert_count", 8, NULL};
  expect_refused(&d, QI_ERR_UNSUPPORTED, "expert_count", "8", NULL);
}

static void test_missing_tensors(void **state) {
  (void)state;
  static const char *const names[] = {"token_embd.weight",        "output_norm.weight",    "blk.0.attn_norm.weight",
                                      "blk.1.attn_q.weight",      "blk.0.attn_k.weight",   "blk.1.attn_v.weight",
                                      "blk.0.attn_output.weight", "blk.1.ffn_norm.weight", "blk.1.ffn_gate.weight",
                                      "blk.0.ffn_up.weight",      "blk.1.ffn_down.weight"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    rm_desc d = rm_llama();
    d.skip_tensor = names[i];
    expect_refused(&d, QI_ERR_FORMAT, names[i], NULL, NULL);
  }
  rm_desc d = rm_qwen2();
  d.skip_tensor = "blk.1.attn_k.bias";
  expect_refused(&d, QI_ERR_FORMAT, d.skip_tensor, NULL, NULL);
  d = rm_qwen3();
  d.skip_tensor = "blk.0.attn_q_norm.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.skip_tensor, NULL, NULL);
  d = rm_phi3();
  d.skip_tensor = "blk.1.attn_qkv.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.skip_tensor, NULL, NULL);
}

// Name, shape found, shape expected.
static void test_wrong_shapes(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  d.wide_tensor = "blk.0.attn_k.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.wide_tensor, "65, 64", "64, 64");
  d.wide_tensor = "output_norm.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.wide_tensor, "65", "64");
  d.wide_tensor = "blk.1.ffn_down.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.wide_tensor, "97, 64", "96, 64");
  d.wide_tensor = NULL;
  d.long_tensor = "blk.1.ffn_up.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.long_tensor, "64, 97", "64, 96");
  d.long_tensor = "output.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.long_tensor, "64, 321", "64, 320");
  d.long_tensor = "token_embd.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.long_tensor, "64, 321", "64, 320");
  d = rm_phi3();
  d.long_tensor = "blk.0.attn_qkv.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.long_tensor, "64, 193", "64, 192");
  d.long_tensor = NULL;
  d.wide_tensor = "rope_factors_long.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.wide_tensor, "9", "8");
  d = rm_qwen2();
  d.wide_tensor = "blk.1.attn_v.bias";
  expect_refused(&d, QI_ERR_FORMAT, d.wide_tensor, "33", "32");
  d = rm_qwen3();
  d.wide_tensor = "blk.1.attn_k_norm.weight";
  expect_refused(&d, QI_ERR_FORMAT, d.wide_tensor, "33", "32");
}

static void test_missing_keys(void **state) {
  (void)state;
  static const char *const keys[] = {"block_count", "embedding_length", "feed_forward_length", "attention.head_count",
                                     "attention.layer_norm_rms_epsilon"};
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    rm_desc d = rm_llama();
    d.skip_key = keys[i];
    expect_refused(&d, QI_ERR_FORMAT, keys[i], NULL, NULL);
  }
}

// As many key heads as heads when the key is absent.
static void test_default_keys(void **state) {
  (void)state;
  variant v = {"llama without head_count_kv", rm_llama(), 0};
  v.d.skip_key = "attention.head_count_kv";
  check_variant(&v, 8);
}

static void test_contradictions(void **state) {
  (void)state;
  static const struct {
    rm_override change;
    const char *word;
  } cases[] = {
      {{"attention.head_count_kv", 3, NULL}, "head_count_kv"},
      {{"attention.head_count_kv", 0, NULL}, "head_count_kv"},
      {{"attention.head_count_kv", 8, NULL}, "head_count_kv"},
      {{"attention.head_count", 0, NULL}, "head_count"},
      {{"attention.head_count", 0x7fffffff, NULL}, "head_count"},
      {{"block_count", 0, NULL}, "block_count"},
      {{"block_count", -1, NULL}, "block_count"},
      {{"block_count", 3, NULL}, "blk.2."},
      {{"block_count", 0, "two"}, "block_count"},
      {{"embedding_length", 0, NULL}, "embedding_length"},
      {{"embedding_length", -1, NULL}, "embedding_length"},
      {{"embedding_length", 128, NULL}, "token_embd.weight"},
      {{"feed_forward_length", 0, NULL}, "feed_forward_length"},
      {{"rope.dimension_count", 18, NULL}, "rope.dimension_count"},
      {{"rope.dimension_count", 15, NULL}, "rope.dimension_count"},
      {{"rope.dimension_count", 0, NULL}, "rope.dimension_count"},
      {{"attention.key_length", 15, NULL}, "15"},
      {{"attention.key_length", 0, NULL}, "key_length"},
      {{"attention.value_length", 0, NULL}, "value_length"},
      {{"context_length", 0, NULL}, "context_length"},
      {{"rope.scaling.type", 7, NULL}, "rope.scaling.type"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    rm_desc d = rm_llama();
    d.n_rot = 0;
    d.override[0] = cases[i].change;
    expect_refused(&d, QI_ERR_FORMAT, cases[i].word, NULL, NULL);
  }
  rm_desc d = rm_llama();
  d.freq_base = -10000.0f;
  expect_refused(&d, QI_ERR_FORMAT, "rope.freq_base", NULL, NULL);
  d.freq_base = NAN;
  expect_refused(&d, QI_ERR_FORMAT, "rope.freq_base", NULL, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_variants),        cmocka_unit_test(test_long_context),
      cmocka_unit_test(test_bits_float),      cmocka_unit_test(test_bits_integer),
      cmocka_unit_test(test_bits_bf16),       cmocka_unit_test(test_bits_auto),
      cmocka_unit_test(test_auto_is),         cmocka_unit_test(test_known_bits),
      cmocka_unit_test(test_mixed_roles),     cmocka_unit_test(test_unknown_architecture),
      cmocka_unit_test(test_missing_tensors), cmocka_unit_test(test_wrong_shapes),
      cmocka_unit_test(test_missing_keys),    cmocka_unit_test(test_default_keys),
      cmocka_unit_test(test_contradictions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
