// What any backend must do, through the public interface only: whole small models as on the CPU, token by token; sequences,
// batches, slices, saving. tests/test_backend.c runs it with the backend in plain C, tests/metal/test_metal.c with Metal.
#ifndef QINFER_TESTS_BACKEND_CASES_H
#define QINFER_TESTS_BACKEND_CASES_H

#include "run_model.h"

#define BC_PROMPT 37 // not a multiple of anything
#define BC_NEXT 12   // tokens chosen one after another

// ---- models ----

typedef struct bc_model {
  const char *name;
  rm_desc (*base)(void);
  const char *arch;     // of rm_bitnet instead of base
  qi_format format, output_format;
  int n_kv_heads, head_dim, window;
  bool wide;            // rows of 256: k-quants
  bool ffn_bias, tied;
} bc_model;

// The main types of models, and each format once. Heads of 16 (llama), 32 (qwen3), 64 (wide).
static const bc_model bc_models[] = {
    {"llama F32", rm_llama, NULL, QI_FORMAT_F32, QI_FORMAT_NONE, 0, 0, 0, false, false, false},
    {"llama F16, grouped queries, biases", rm_llama, NULL, QI_FORMAT_F16, QI_FORMAT_NONE, 1, 0, 0, false, true, false},
    {"llama BF16, tied", rm_llama, NULL, QI_FORMAT_BF16, QI_FORMAT_NONE, 2, 0, 0, false, false, true},
    {"llama Q4_0", rm_llama, NULL, QI_FORMAT_Q4_0, QI_FORMAT_Q8_0, 2, 0, 0, false, false, false},
    {"llama Q8_0", rm_llama, NULL, QI_FORMAT_Q8_0, QI_FORMAT_NONE, 2, 0, 0, false, false, false},
    {"llama Q4_K", rm_llama, NULL, QI_FORMAT_Q4_K, QI_FORMAT_Q6_K, 2, 0, 0, true, false, false},
    {"llama Q5_K", rm_llama, NULL, QI_FORMAT_Q5_K, QI_FORMAT_NONE, 2, 0, 0, true, false, false},
    {"llama Q6_K", rm_llama, NULL, QI_FORMAT_Q6_K, QI_FORMAT_NONE, 1, 0, 0, true, false, false},
    {"qwen2 Q8_0", rm_qwen2, NULL, QI_FORMAT_Q8_0, QI_FORMAT_NONE, 2, 0, 0, false, false, true},
    {"qwen3 F16", rm_qwen3, NULL, QI_FORMAT_F16, QI_FORMAT_NONE, 2, 32, 0, false, false, true},
    {"phi3 F16, window", rm_phi3, NULL, QI_FORMAT_F16, QI_FORMAT_NONE, 2, 0, 20, false, false, false},
    {"bitnet TQ2_0", NULL, "bitnet", QI_FORMAT_TQ2_0, QI_FORMAT_F16, 2, 0, 0, true, false, false},
    {"bitnet-b1.58 I2_S", NULL, "bitnet-b1.58", QI_FORMAT_I2_S, QI_FORMAT_F16, 2, 0, 0, true, false, false},
    {"llama QINS8", rm_llama, NULL, QI_FORMAT_QINS8, QI_FORMAT_NONE, 2, 0, 0, true, false, false},
    {"llama QINS8_K", rm_llama, NULL, QI_FORMAT_QINS8_K, QI_FORMAT_NONE, 2, 0, 0, true, false, false},
    {"llama QINS4_K", rm_llama, NULL, QI_FORMAT_QINS4_K, QI_FORMAT_NONE, 2, 0, 0, true, false, false},
};
#define BC_N_MODELS (sizeof bc_models / sizeof bc_models[0])

GW_FN rm_desc bc_desc(const bc_model *c) {
  rm_desc d = c->base ? c->base() : rm_bitnet(c->arch);
  d.format = c->format;
  d.output_format = c->output_format;
  if (c->n_kv_heads) d.n_kv_heads = c->n_kv_heads;
  if (c->head_dim) d.head_dim = c->head_dim;
  if (c->window) d.window = c->window;
  if (c->wide) d.n_layers = 1, d.n_embd = d.n_ff = 256, d.n_vocab = 130; // quantising takes most of the time
  d.ffn_bias = c->ffn_bias;
  d.tied = c->tied;
  return d;
}

// The same file twice: on the CPU and on the backend.
typedef struct bc_pair {
  run_model cpu;
  qi_model *device;
} bc_pair;

GW_FN bc_pair bc_open(const rm_desc *d, const qi_backend *backend) {
  bc_pair p;
  qi_error err = {QI_OK, ""};
  qi_model_desc md;
  p.cpu = run_build(d);
  memset(&md, 0, sizeof md);
  md.data = p.cpu.file;
  md.data_size = p.cpu.size;
  md.backend = backend;
  RUN_OK(qi_model_open(&p.device, &md, &err), err);
  qi_model_info info;
  qi_model_get_info(p.device, &info);
  assert_string_equal(info.backend, backend->name);
  assert_true(info.device[0] != 0);
  return p;
}

GW_FN void bc_close(bc_pair *p) {
  qi_model_close(p->device);
  run_free(&p->cpu);
}

GW_FN qi_session_desc bc_session_desc(qi_kv_type kv_type) {
  qi_session_desc sd = run_session_desc(BC_PROMPT + BC_NEXT, QI_PATH_FLOAT);
  sd.kv_type = kv_type;
  return sd;
}

GW_FN qi_token bc_best(const float *logits, size_t n) {
  size_t best = 0;
  for (size_t i = 1; i < n; i++)
    if (logits[i] > logits[best]) best = i;
  return (qi_token)best;
}

// Logits of a prompt and of greedy tokens after it, [BC_PROMPT + BC_NEXT - 1, n_vocab] (malloc); the tokens to `ids`.
GW_FN float *bc_run(const qi_model *m, const qi_session_desc *sd, size_t chunk, uint64_t seed, qi_token *ids) {
  size_t n_vocab = (size_t)run_n_vocab(m);
  float *out = (float *)malloc((BC_PROMPT + BC_NEXT) * n_vocab * sizeof *out);
  assert_non_null(out);
  qi_session *s = run_session(m, sd);
  run_random_tokens(seed, (int)n_vocab, ids, BC_PROMPT);
  run_decode(s, m, ids, BC_PROMPT, chunk, 0, false, out);
  for (size_t i = BC_PROMPT; i < BC_PROMPT + BC_NEXT; i++) {
    ids[i] = bc_best(out + (i - 1) * n_vocab, n_vocab);
    run_decode(s, m, ids + i, 1, 1, 0, true, out + i * n_vocab);
  }
  qi_session_close(s);
  return out;
}

// Whole text equal to the CPU's, logits close: 1 - cosine of all of them at most `loss`.
GW_FN void bc_expect_model(const bc_model *c, qi_kv_type kv_type, const qi_backend *backend, double loss) {
  rm_desc d = bc_desc(c);
  bc_pair p = bc_open(&d, backend);
  qi_session_desc sd = bc_session_desc(kv_type);
  qi_token want_ids[BC_PROMPT + BC_NEXT], got_ids[BC_PROMPT + BC_NEXT];
  size_t n = (BC_PROMPT + BC_NEXT) * (size_t)run_n_vocab(p.device);
  float *want = bc_run(p.cpu.m, &sd, 16, 7, want_ids), *got = bc_run(p.device, &sd, 16, 7, got_ids);
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < n; i++) {
    dot += (double)want[i] * (double)got[i];
    a += (double)want[i] * (double)want[i];
    b += (double)got[i] * (double)got[i];
  }
  double lost = 1 - dot / sqrt(a * b);
  if (!(lost <= loss)) fail_msg("%s, %s: cosine 1 - %.3g, expected 1 - %.3g", c->name, qi_kv_type_name(kv_type), lost, loss);
  for (size_t i = 0; i < BC_PROMPT + BC_NEXT; i++)
    if (want_ids[i] != got_ids[i]) fail_msg("%s: token %d is %d, expected %d", c->name, (int)i, (int)got_ids[i], (int)want_ids[i]);
  free(want);
  free(got);
  bc_close(&p);
}

// ---- sessions ----

// Bits do not depend on chunks, for prompts and for what is generated, nor on where slices of time end.
GW_FN void bc_expect_slices(const qi_backend *backend) {
  rm_desc d = rm_llama();
  d.n_layers = 3;
  d.n_kv_heads = 1; // heads that share keys may be computed together where there are many rows
  bc_pair p = bc_open(&d, backend);
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  qi_token ids[BC_PROMPT + BC_NEXT];
  qi_error err = {QI_OK, ""};
  size_t n_vocab = (size_t)run_n_vocab(p.device), n = BC_PROMPT * n_vocab;
  float *want = bc_run(p.device, &sd, 0, 7, ids), *got = bc_run(p.device, &sd, 5, 7, ids);
  run_expect_bits(got, want, n, "chunks of 5", "against one");
  for (int chunk = 0; chunk < 2; chunk++) {
    qi_session *generated = run_session(p.device, &sd);
    run_decode(generated, p.device, ids, BC_PROMPT, chunk ? 1 : 7, 0, true, chunk ? got : want);
    qi_session_close(generated);
  }
  run_expect_bits(got, want, n, "generated one at a time", "against seven");
  free(want);
  want = bc_run(p.device, &sd, 0, 7, ids);
  qi_session *s = run_session(p.device, &sd);
  qi_decode_token *t = run_tokens(ids, BC_PROMPT, 0, false);
  RUN_OK(qi_decode_begin(s, t, BC_PROMPT, &err), err);
  int slices = 1;
  qi_result r;
  while ((r = qi_step(s, 1, &err)) == QI_AGAIN) slices++;
  RUN_OK(r, err);
  assert_true(slices >= 3); // one layer at a time
  run_take_logits(s, BC_PROMPT, n_vocab, got);
  run_expect_bits(got, want, n, "slices", "against one");
  qi_session_close(s);
  free(t);
  free(want);
  free(got);
  bc_close(&p);
}

// Rows of logits of tokens in two sequences, forked from one, computed together; after a cut, a shift and a way through a file.
GW_FN void bc_sequences(const qi_model *m, const qi_model *next, float *out) {
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  qi_error err = {QI_OK, ""};
  sd.n_ctx = 200;
  sd.n_seqs = 2;
  sd.n_logits = 200;
  size_t n_vocab = (size_t)run_n_vocab(m), size = 0;
  qi_token ids[150];
  float *rows = (float *)malloc(150 * n_vocab * sizeof *rows);
  assert_non_null(rows);
  run_random_tokens(3, (int)n_vocab, ids, 150);
  qi_session *s = run_session(m, &sd);
  run_decode(s, m, ids, 150, 0, 0, false, rows); // two pages
  RUN_OK(qi_seq_fork(s, 0, 1, 140, &err), err); // the second one is shared, then copied
  const qi_decode_token both[] = {
      {ids[5], 0, true, true}, {ids[6], 1, true, true}, {ids[7], 1, false, true}, {ids[8], 0, true, true}};
  RUN_OK(qi_decode(s, both, 4, &err), err);
  run_take_logits(s, 4, n_vocab, out);
  RUN_OK(qi_seq_truncate(s, 0, 100, &err), err);
  RUN_OK(qi_seq_shift(s, 0, 10, 30, &err), err);
  RUN_OK(qi_session_save(s, NULL, 0, &size, &err), err);
  void *file = malloc(size);
  assert_non_null(file);
  RUN_OK(qi_session_save(s, file, size, &size, &err), err);
  qi_session_close(s);
  s = run_session(next, &sd);
  RUN_OK(qi_session_load(s, file, size, &err), err);
  run_decode(s, next, ids, 3, 0, 0, true, out + 4 * n_vocab);
  run_decode(s, next, ids, 3, 0, 1, true, out + 7 * n_vocab);
  qi_session_close(s);
  free(file);
  free(rows);
}

// The same as on the CPU; and a saved session goes from either to the other.
GW_FN void bc_expect_sequences(const qi_backend *backend) {
  rm_desc d = rm_llama();
  d.n_ctx_train = 256;
  d.n_kv_heads = 2;
  bc_pair p = bc_open(&d, backend);
  size_t n_vocab = (size_t)run_n_vocab(p.device), n = 10 * n_vocab;
  float *want = (float *)malloc(n * sizeof *want), *got = (float *)malloc(n * sizeof *got);
  assert_true(want && got);
  bc_sequences(p.cpu.m, p.cpu.m, want);
  for (int way = 0; way < 3; way++) {
    bc_sequences(way == 2 ? p.cpu.m : p.device, way == 1 ? p.cpu.m : p.device, got);
    for (size_t i = 0; i < n; i++)
      if (!(fabs((double)got[i] - (double)want[i]) < 2e-3)) // logits of size 1.5; keys and values are rounded to halves
        fail_msg("way %d: logit %d of row %d is %.6g, expected %.6g", way, (int)(i % n_vocab), (int)(i / n_vocab), (double)got[i],
                 (double)want[i]);
  }
  free(want);
  free(got);
  bc_close(&p);
}

// ---- choosing ----

typedef struct bc_sampling {
  const char *name;
  qi_sampler_desc sampler;
  bool whole; // needs all logits
} bc_sampling;

static const qi_logit_bias bc_bias = {7, 3};
static const bc_sampling bc_samplings[] = {
    {"greedy", {.temperature = 0}, false},
    {"top-k 40", {.temperature = 1.5f, .top_k = 40, .top_p = 0.9f, .seed = 3}, false},
    {"top-k 127", {.temperature = 3, .top_k = 127, .seed = 4}, false},
    {"top-k 128", {.temperature = 3, .top_k = 128, .seed = 5}, true},
    {"top-k 1000", {.temperature = 3, .top_k = 1000, .seed = 6}, true},
    {"temperature", {.temperature = 1, .seed = 7}, true},
    {"greedy with bias", {.logit_bias = &bc_bias, .n_logit_bias = 1}, true},
    {"top-k with penalties", {.temperature = 1, .top_k = 10, .repetition_penalty = 1.3f, .seed = 8}, true},
};
#define BC_SAMPLINGS (sizeof bc_samplings / sizeof bc_samplings[0])

// Tokens after a prompt, in the text interface; `lookup`: guessed ahead. `draft`: by that model, too.
GW_FN void bc_tell(const qi_model *m, const qi_sampler_desc *sampler, bool lookup, const qi_model *draft, qi_token *out, int n) {
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  qi_session *s;
  qi_error err = {QI_OK, ""};
  qi_piece piece;
  sd.n_logits = 0;
  sd.n_ctx = 128;
  sd.ignore_end = true;
  sd.sampler = *sampler;
  sd.lookup = lookup;
  sd.draft = draft;
  s = run_session(m, &sd);
  RUN_OK(qi_prompt(s, "the tea on the tea on the", &err), err);
  for (int i = 0; i < n; i++) {
    RUN_OK(qi_next(s, &piece, &err), err);
    out[i] = piece.token;
  }
  qi_session_stats stats;
  qi_session_get_stats(s, &stats);
  assert_true(lookup || draft || !stats.n_drafted);
  if (draft && sampler->temperature == 0) assert_true(stats.n_accepted > 0);
  qi_session_close(s);
}

#define BC_TOLD 40
GW_FN void bc_expect_same(const qi_token *got, const qi_token *want, const char *name, const char *how) {
  for (int i = 0; i < BC_TOLD; i++)
    if (got[i] != want[i]) fail_msg("%s, %s: token %d is %d, expected %d", name, how, i, (int)got[i], (int)want[i]);
}

// Texts of three requests with three samplers in a batch of two sequences, one after another in `out` [3][256].
GW_FN void bc_batch(const qi_model *m, bool lookup, const qi_model *draft, char out[3][256]) {
  qi_batch *b = NULL;
  qi_batch_desc bd;
  qi_error err = {QI_OK, ""};
  qi_batch_event e;
  qi_result r;
  uint64_t ids[3];
  static const char *const prompts[3] = {"the tea", "on a", "he saw it"};
  memset(&bd, 0, sizeof bd);
  memset(out, 0, 3 * sizeof out[0]);
  bd.session = bc_session_desc(QI_KV_F16);
  bd.session.n_ctx = 64;
  bd.session.n_logits = 0;
  bd.session.n_seqs = 2;
  bd.session.lookup = lookup;
  bd.session.draft = draft;
  RUN_OK(qi_batch_open(&b, m, &bd, &err), err);
  for (int i = 0; i < 3; i++) {
    qi_batch_request q;
    memset(&q, 0, sizeof q);
    q.text = prompts[i];
    q.n_predict = 10;
    q.sampler = bc_samplings[i].sampler;
    RUN_OK(qi_batch_submit(b, &q, &ids[i], &err), err);
  }
  while ((r = qi_batch_step(b, 0, &err)) >= 0 && r != QI_END)
    while (qi_batch_poll(b, &e))
      for (int i = 0; i < 3; i++)
        if (e.id == ids[i]) snprintf(out[i] + strlen(out[i]), 256 - strlen(out[i]), "%.*s|", (int)e.piece.len, e.piece.text);
  assert_int_equal(r, QI_END);
  qi_batch_close(b);
}

GW_FN void bc_expect_batch(const qi_backend *backend) {
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, backend);
  char want[3][256], got[3][256];
  bc_batch(p.cpu.m, false, NULL, want);
  for (int guess = 0; guess < 3; guess++) {
    bc_batch(p.device, guess == 1, guess == 2 ? p.device : NULL, got);
    for (int i = 0; i < 3; i++) assert_string_equal(got[i], want[i]);
  }
  bc_close(&p);
}

// What is chosen on the CPU is chosen here.
GW_FN void bc_expect_choice(const qi_backend *backend) {
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, backend);
  for (size_t i = 0; i < BC_SAMPLINGS; i++) {
    qi_token want[BC_TOLD], got[BC_TOLD];
    bc_tell(p.cpu.m, &bc_samplings[i].sampler, false, NULL, want, BC_TOLD);
    bc_tell(p.device, &bc_samplings[i].sampler, false, NULL, got, BC_TOLD);
    bc_expect_same(got, want, bc_samplings[i].name, "the device");
  }
  bc_close(&p);
}

// Guessing ahead changes no word: by lookup, by a model on the device, by one on the CPU.
GW_FN void bc_expect_guesses(const qi_backend *backend) {
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, backend);
  for (size_t i = 0; i < 2; i++) {
    const bc_sampling *c = &bc_samplings[i];
    qi_token want[BC_TOLD], got[BC_TOLD];
    bc_tell(p.device, &c->sampler, false, NULL, want, BC_TOLD);
    bc_tell(p.device, &c->sampler, true, NULL, got, BC_TOLD);
    bc_expect_same(got, want, c->name, "lookup");
    bc_tell(p.device, &c->sampler, true, p.device, got, BC_TOLD);
    bc_expect_same(got, want, c->name, "lookup and draft");
    bc_tell(p.device, &c->sampler, false, p.cpu.m, got, BC_TOLD);
    bc_expect_same(got, want, c->name, "draft on the CPU");
    bc_tell(p.cpu.m, &c->sampler, false, p.device, got, BC_TOLD);
    bc_expect_same(got, want, c->name, "draft on the device");
  }
  bc_close(&p);
}

// ---- failures ----

// Opens a model and a session and takes steps. Where a step fails, it is tried again. Returns the first failure.
GW_FN qi_result bc_use(const run_model *file, const qi_backend *backend, qi_error *err) {
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.data = file->file;
  md.data_size = file->size;
  md.backend = backend;
  qi_model *m = NULL;
  qi_session *s = NULL;
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  const qi_decode_token two[] = {{5, 0, false, false}, {6, 0, false, true}};
  qi_result r = qi_model_open(&m, &md, err);
  if (!r) r = qi_session_open(&s, m, &sd, err);
  for (int i = 0; i < 2 && s; i++) {
    qi_result step = qi_decode(s, two, 2, err);
    if (!r) r = step;
    assert_true(!step || qi_seq_length(s, 0) == 2 * i); // as before
    if (step) RUN_OK(qi_decode(s, two, 2, err), *err);
  }
  qi_session_close(s);
  qi_model_close(m);
  return r;
}

#endif // QINFER_TESTS_BACKEND_CASES_H
