// Prompts and generations of whole models: llama-bench's tests, with what they reach of bandwidth and matrix peak.
#ifndef BENCH_RUNS_H
#define BENCH_RUNS_H

#include "report.h"
#include "rooflines.h"
#include "synth.h"

// One test. Generation: n_gen steps of one token in each of n_seqs sequences; n_prompt tokens before them in each, if not 0.
typedef struct run_test {
  int n_prompt, n_gen, depth, n_seqs, n_batch, n_ctx;
  qi_path path;
  qi_kv_type kv_type;
} run_test;

// ---- what a model asks of the machine ----

typedef struct run_cost {
  uint64_t weight_bytes;             // read for each batch: all matrices but the embedding (which is read where it is the output)
  double layer_weights, head_weights; // multiplications a token, in the layers and in the output
  double kv_bytes;                   // of one token of context
  double weights_by[QI__BF16 + 1][2]; // weights multiplied in each arithmetic: [.][generated]
} run_cost;

static bool tensor_is_output(const qi_model *m, const qi_tensor *t) {
  qi_tensor output;
  if (!strcmp(t->name, "output.weight")) return true;
  return !strcmp(t->name, "token_embd.weight") && qi_tensor_find(m, "output.weight", &output, NULL) != QI_OK;
}

static run_cost run_cost_of(const bench_model *m, const qi__cpu *cpu, qi_path path, qi_kv_type kv_type) {
  qi__kernels kernels;
  qi__kernels_init(&kernels, cpu);
  run_cost c;
  memset(&c, 0, sizeof c);
  for (size_t i = 0; i < qi_tensor_count(m->model); i++) {
    qi_tensor t;
    if (qi_tensor_get(m->model, i, &t, NULL) || t.n_dims < 2) continue;
    bool output = tensor_is_output(m->model, &t);
    if (!output && !strcmp(t.name, "token_embd.weight")) continue;
    double n = (double)t.shape[0] * (double)t.shape[1];
    qi__weight w = {t.format, qi__format_get(t.format), NULL, 0, 0, 0, NULL, NULL};
    c.weight_bytes += t.n_bytes;
    *(output ? &c.head_weights : &c.layer_weights) += n;
    for (int role = 0; role < 2; role++) c.weights_by[qi__arithmetic_of(&kernels, &w, path, role)][role] += n;
  }
  const qi_model_info *info = &m->info;
  qi__kv_layout head = qi__kv_layout_of(kv_type ? kv_type : QI_KV_F16, (size_t)info->head_dim, (size_t)info->head_dim);
  c.kv_bytes = (double)head.bytes / QI__KV_PAGE * info->n_layers * info->n_kv_heads;
  return c;
}

// The unit that most multiplications of a role take.
static unit_kind run_unit(const run_cost *c, bool generated) {
  int best = 0;
  for (int a = 1; a <= QI__BF16; a++)
    if (c->weights_by[a][generated] > c->weights_by[best][generated]) best = a;
  return unit_of((qi__arithmetic)best);
}

// Bytes that a test must read at least: the weights once a batch, the cached keys and values of the context once a batch (of each
// sequence when generating). Operations: two a weight and token; logits only where they are wanted.
static void run_totals(const run_cost *c, const run_test *t, double *bytes, double *operations) {
  int batch = t->n_batch ? t->n_batch : 256;
  *bytes = *operations = 0;
  for (int at = 0; at < t->n_prompt; at += batch) {
    int end = at + batch < t->n_prompt ? at + batch : t->n_prompt;
    *bytes += (double)c->weight_bytes + c->kv_bytes * (t->depth + end);
  }
  if (t->n_prompt) *operations += 2 * (c->layer_weights * t->n_prompt + c->head_weights);
  double context = t->depth + t->n_prompt + (t->n_gen + 1) / 2.0;
  *bytes += t->n_gen * ((double)c->weight_bytes + c->kv_bytes * context * t->n_seqs);
  *operations += 2 * (c->layer_weights + c->head_weights) * t->n_gen * t->n_seqs;
}

// ---- doing it ----

// n tokens at the end of sequence `seq`: ids do not matter for speed, but differ.
static void run_tokens(qi_decode_token *tokens, int n, int seq, int n_vocab, uint64_t *state) {
  for (int i = 0; i < n; i++) {
    tokens[i] = (qi_decode_token){(qi_token)(random_next(state) % (uint64_t)n_vocab), seq, false, false};
  }
}

typedef struct runner {
  qi_session *session;
  qi_decode_token *tokens; // [max(depth, n_prompt, n_seqs)]
  int n_vocab;
  uint64_t state;
} runner;

static qi_result runner_prompt(runner *r, int n, int seq, bool want_logits, qi_error *err) {
  if (n == 0) return QI_OK;
  run_tokens(r->tokens, n, seq, r->n_vocab, &r->state);
  r->tokens[n - 1].want_logits = want_logits;
  return qi_decode(r->session, r->tokens, (size_t)n, err);
}

// One step of generation in n_seqs sequences.
static qi_result runner_generate(runner *r, int n_seqs, qi_error *err) {
  for (int s = 0; s < n_seqs; s++) {
    run_tokens(&r->tokens[s], 1, s, r->n_vocab, &r->state);
    r->tokens[s].generated = r->tokens[s].want_logits = true;
  }
  return qi_decode(r->session, r->tokens, (size_t)n_seqs, err);
}

// A context of n positions of random keys and values: computing them takes a minute where they are many, and speed does not depend
// on what they are.
static qi_result runner_fill(runner *r, int n, int seq, qi_error *err) {
  qi_session *s = r->session;
  qi__kv *kv = &s->kv;
  const qi__kv_layout *head = &kv->head;
  float x[1024];
  size_t room = sizeof x / sizeof *x, to[QI__MAX_SEQS];
  if (head->dim_k + head->dim_v > room) return runner_prompt(r, n, seq, false, err);
  for (size_t i = 0; i < room; i++) x[i] = (float)(random_next(&r->state) >> 40) * 0x1p-23f - 1;
  for (size_t i = 0; i < kv->n_seqs; i++) to[i] = i == (size_t)seq ? (size_t)n : kv->length[i];
  qi_result result = qi__kv_reserve(kv, to, err);
  for (size_t u = 0; u < (size_t)n * kv->n_layers * kv->n_kv_heads && !result; u++) {
    const float *k = x + random_next(&r->state) % (room - head->dim_k - head->dim_v + 1);
    size_t unit = u / (size_t)n;
    qi__kv_store(kv, &s->kernels, unit / kv->n_kv_heads, (size_t)seq, unit % kv->n_kv_heads, u % (size_t)n, k, k + head->dim_k);
  }
  if (result) return result;
  for (int i = 0; i < n; i++) qi__kv_ids(kv, (size_t)seq)[i] = 0;
  kv->length[seq] = (size_t)n;
  qi__kv_slide(kv, (size_t)seq);
  return QI_OK;
}

// What a test begins with: what is there already of it is taken again.
static qi_result runner_begin(runner *r, const run_test *t, qi_error *err) {
  qi_result result = QI_OK;
  for (int s = 0; s < t->n_seqs && !result; s++) {
    if (qi_seq_length(r->session, s) >= t->depth && qi_seq_truncate(r->session, s, t->depth, NULL) == QI_OK) continue;
    qi_seq_truncate(r->session, s, 0, NULL);
    result = runner_fill(r, t->depth, s, err);
  }
  return result;
}

// One repetition; *seconds without the time for the depth.
static qi_result runner_run(runner *r, const run_test *t, double *seconds, qi_error *err) {
  qi_result result = runner_begin(r, t, err);
  double start = seconds_now();
  if (!result) result = runner_prompt(r, t->n_prompt, 0, true, err);
  for (int i = 0; i < t->n_gen && !result; i++) result = runner_generate(r, t->n_seqs, err);
  *seconds = seconds_now() - start;
  return result;
}

// A model of random weights may overflow; then its speed would mean nothing (NaN may be slow, or fast).
static bool runner_logits_finite(const runner *r) {
  const float *logits = qi_logits(r->session, -1);
  for (int i = 0; logits && i < r->n_vocab; i++)
    if (!qi__is_finite(logits[i])) return false;
  return logits != NULL;
}

static void runner_close(runner *r) {
  qi_session_close(r->session);
  free(r->tokens);
  memset(r, 0, sizeof *r);
}

// False after a message; then nothing is open.
static bool runner_open(runner *r, const bench_model *m, const run_test *t, qi_pool *pool) {
  qi_session_desc sd = {.n_ctx = t->n_ctx, .n_seqs = t->n_seqs, .n_batch = t->n_batch, .pool = pool, .path = t->path,
                        .kv_type = t->kv_type};
  qi_error err = {QI_OK, ""};
  uint64_t bytes = 0;
  int need = t->depth + t->n_prompt + t->n_gen, most = t->n_seqs;
  memset(r, 0, sizeof *r);
  if (!sd.n_ctx) sd.n_ctx = need;
  if (need > sd.n_ctx) return complain("the test needs a context of %d tokens, -c gives %d", need, sd.n_ctx);
  if (qi_session_memory(m->model, &sd, &bytes, &err)) return complain("%s", err.msg);
  if (!memory_fits("session", bytes)) return false;
  if (most < t->depth) most = t->depth;
  if (most < t->n_prompt) most = t->n_prompt;
  r->n_vocab = m->info.n_vocab;
  r->tokens = (qi_decode_token *)calloc((size_t)most, sizeof *r->tokens);
  if (!r->tokens) return complain("no memory for %d tokens", most);
  if (qi_session_open(&r->session, m->model, &sd, &err)) {
    runner_close(r);
    return complain("%s", err.msg);
  }
  return true;
}

// ---- results ----

// Sampled together, so that what else the machine does meets all alike: percentages are made within a repetition.
typedef struct run_result {
  samples seconds, speed;            // speed: tokens a second
  samples bandwidth, peak;           // of the machine, around each repetition
  samples bandwidth_part, peak_part; // 0..1
  unit_kind unit;
} run_result;

static void run_sample(run_result *out, const run_test *t, const run_cost *c, double seconds, const double bandwidth[2],
                       const double peak[2]) {
  double bytes, operations;
  run_totals(c, t, &bytes, &operations);
  double around_bandwidth = (bandwidth[0] + bandwidth[1]) / 2, around_peak = (peak[0] + peak[1]) / 2;
  samples_add(&out->seconds, seconds);
  samples_add(&out->speed, (double)(t->n_prompt + t->n_gen * t->n_seqs) / seconds);
  samples_add(&out->bandwidth, around_bandwidth);
  samples_add(&out->peak, around_peak);
  samples_add(&out->bandwidth_part, bytes / seconds / around_bandwidth);
  samples_add(&out->peak_part, operations / seconds / around_peak);
}

// False after a message.
static bool run_measure(run_result *out, const bench_model *m, const run_test *t, rooflines *roof, int reps, bool warm_up,
                        const char *label) {
  runner r;
  qi_error err = {QI_OK, ""};
  memset(out, 0, sizeof *out);
  if (!runner_open(&r, m, t, roof->pool)) return false;
  run_cost cost = run_cost_of(m, &roof->pool->cpu, t->path, t->kv_type);
  out->unit = run_unit(&cost, t->n_prompt == 0);
  run_test first = *t;
  if (first.n_gen > 1) first.n_gen = 1;
  double seconds, bandwidth[2], peak[2];
  progress("%s: warming up", label);
  qi_result result = warm_up ? runner_run(&r, &first, &seconds, &err) : QI_OK;
  bandwidth[0] = roofline_bandwidth(roof);
  peak[0] = roofline_peak(roof, out->unit);
  for (int i = 0; i < reps && !result; i++) {
    progress("%s: %d of %d", label, i + 1, reps);
    result = runner_run(&r, t, &seconds, &err);
    bandwidth[1] = roofline_bandwidth(roof);
    peak[1] = roofline_peak(roof, out->unit);
    if (!result) run_sample(out, t, &cost, seconds, bandwidth, peak);
    bandwidth[0] = bandwidth[1];
    peak[0] = peak[1];
  }
  bool finite = result || runner_logits_finite(&r);
  runner_close(&r);
  progress("%s", "");
  if (!finite) return complain("%s: logits are not finite", label);
  return result ? complain("%s: %s", label, err.msg) : true;
}

// "pp256", "tg32", "pp256+tg32", "tg32 x 8", "tg32 @ d512"
static void run_test_name(const run_test *t, char *name, size_t cap) {
  char prompt[24] = "", gen[24] = "", seqs[24] = "", depth[24] = "";
  if (t->n_prompt) snprintf(prompt, sizeof prompt, "pp%d", t->n_prompt);
  if (t->n_gen) snprintf(gen, sizeof gen, "%stg%d", t->n_prompt ? "+" : "", t->n_gen);
  if (t->n_seqs > 1) snprintf(seqs, sizeof seqs, " x %d", t->n_seqs);
  if (t->depth) snprintf(depth, sizeof depth, " @ d%d", t->depth);
  snprintf(name, cap, "%s%s%s%s", prompt, gen, seqs, depth);
}

static const char *const path_names[] = {"auto", "integer", "bf16", "float"}; // in the order of qi_path

static void run_report(report *out, const bench_model *m, const run_test *t, const rooflines *roof, const run_result *result) {
  row r;
  char name[128];
  spread speed = samples_spread(&result->speed);
  memset(&r, 0, sizeof r);
  run_test_name(t, name, sizeof name);
  row_text(&r, "model", 24, m->name);
  row_number(&r, "size MB", 8, 1, (double)m->info.n_tensor_bytes * 1e-6);
  row_number(&r, "params M", 8, 1, (double)m->info.n_params * 1e-6);
  row_number(&r, "threads", 7, 0, qi_pool_n_threads(roof->pool));
  row_text(&r, "isa", 11, qi_isa_name(qi_pool_isa(roof->pool)));
  row_text(&r, "path", 7, path_names[t->path]);
  const qi_cache_info *cache = &m->info.cache;
  row_number(&r, "cache MB", 8, 1, (double)(cache->integer.bytes + cache->bf16.bytes + cache->f32.bytes) * 1e-6);
  row_number(&r, "n_batch", 7, 0, t->n_batch ? t->n_batch : 256);
  row_text(&r, "kv", 4, qi_kv_type_name(t->kv_type));
  row_text(&r, "test", 12, name);
  row_value(&r, "t/s", 8, speed.median);
  row_value(&r, "min", 8, speed.min);
  row_value(&r, "max", 8, speed.max);
  row_number(&r, "% bandwidth", 11, 1, 100 * samples_spread(&result->bandwidth_part).median);
  row_number(&r, "% peak", 6, 1, 100 * samples_spread(&result->peak_part).median);
  row_number(&r, "GB/s", 6, 1, 1e-9 * samples_spread(&result->bandwidth).median);
  row_number(&r, "peak GFLOPS", 11, 0, 1e-9 * samples_spread(&result->peak).median);
  row_text(&r, "unit", 11, roof->unit[result->unit].name);
  row_samples(&r, "samples t/s", &result->speed);
  row_samples(&r, "samples bandwidth part", &result->bandwidth_part);
  row_samples(&r, "samples peak part", &result->peak_part);
  report_row(out, &r);
}

#endif // BENCH_RUNS_H
