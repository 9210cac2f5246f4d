// What each writable format costs and keeps: error of the weights, distance of the model's predictions, bytes, speed.
#ifndef BENCH_FORMATS_H
#define BENCH_FORMATS_H

#include "products.h"
#include "runs.h"

#define FORMAT_WINDOWS 32  // of text, at most
#define FORMAT_WINDOW 128  // tokens of one, at most
#define FORMAT_VALUES ((size_t)1 << 26) // probabilities of the source that are kept, at most

typedef struct format_settings {
  const char *model, *text, *shape; // text NULL: sampled from the model; shape NULL: no speeds
  const char *const *types;         // n_types names; 0 = all that can be written
  int n_types, n_prompt, n_gen;
  common_settings common;
} format_settings;

// A float32 model in memory, a copy whose matrices go through a format, and what the source says about a text.
typedef struct probe {
  uint8_t *bytes, *copy;
  size_t size;
  qi_model *model;  // of bytes
  qi_token *tokens; // [n_windows, len]
  float *base;      // [n_windows, len, n_vocab]: ln p
  int n_windows, len, n_vocab;
} probe;

typedef struct format_score {
  double rms, kl, kl_error, same; // relative error of all matrices; mean, its standard error; part
  bool whole_rows;                // all rows are whole blocks
} format_score;

static void probe_close(probe *p) {
  qi_model_close(p->model);
  free(p->bytes), free(p->copy), free(p->tokens), free(p->base);
  memset(p, 0, sizeof *p);
}

// ---- predictions ----

// ln p of all tokens from their logits.
static void log_softmax(const float *logits, int n, float *out) {
  double sum = 0;
  float top = logits[0];
  for (int i = 1; i < n; i++) top = logits[i] > top ? logits[i] : top;
  for (int i = 0; i < n; i++) sum += exp((double)logits[i] - (double)top);
  double norm = (double)top + log(sum);
  for (int i = 0; i < n; i++) out[i] = (float)((double)logits[i] - norm);
}

static int likeliest(const float *v, int n) {
  int top = 0;
  for (int i = 1; i < n; i++) top = v[i] > v[top] ? i : top;
  return top;
}

// Float32 arithmetic throughout: only the weights differ.
static qi_session *probe_session(const qi_model *m, int len) {
  qi_session_desc sd = {.n_ctx = len, .n_logits = len, .path = QI_PATH_FLOAT, .kv_type = QI_KV_F32};
  qi_error err = {QI_OK, ""};
  qi_session *s = NULL;
  if (qi_session_open(&s, m, &sd, &err)) complain("%s", err.msg);
  return s;
}

// All logits of a window.
static bool probe_window(qi_session *s, const qi_token *tokens, int n) {
  qi_decode_token batch[FORMAT_WINDOW];
  qi_error err = {QI_OK, ""};
  for (int i = 0; i < n; i++) batch[i] = (qi_decode_token){.token = tokens[i], .want_logits = true};
  qi_session_reset(s);
  return qi_decode(s, batch, (size_t)n, &err) ? complain("%s", err.msg) : true;
}

// ---- text ----

// Each token drawn from what the source says, after a begin token where the model has one.
static bool sample_window(qi_session *s, int n_vocab, qi_token first, qi_token *tokens, int n, uint64_t *state) {
  float *p = (float *)malloc((size_t)n_vocab * sizeof *p);
  qi_error err = {QI_OK, ""};
  bool good = p != NULL;
  qi_session_reset(s);
  tokens[0] = first;
  for (int i = 0; i + 1 < n && good; i++) {
    qi_decode_token t = {.token = tokens[i], .want_logits = true};
    if (qi_decode(s, &t, 1, &err)) good = complain("%s", err.msg);
    if (!good) break;
    log_softmax(qi_logits(s, 0), n_vocab, p);
    double left = (double)(random_next(state) >> 11) * 0x1p-53;
    int k = 0;
    while (k + 1 < n_vocab && (left -= exp((double)p[k])) > 0) k++;
    tokens[i + 1] = k;
  }
  free(p);
  return good;
}

static bool sample_text(probe *p, qi_token first) {
  qi_session *s = probe_session(p->model, p->len);
  uint64_t state = 1;
  bool good = s != NULL;
  for (int w = 0; w < p->n_windows && good; w++) {
    progress("text: window %d of %d", w + 1, p->n_windows);
    good = sample_window(s, p->n_vocab, first, p->tokens + w * p->len, p->len, &state);
  }
  qi_session_close(s);
  return good;
}

// A whole file in memory of malloc; NULL after a message.
static uint8_t *read_whole(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  uint8_t *bytes = NULL;
  long end = f && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
  if (end >= 0 && memory_fits(path, 2 * (uint64_t)end) && fseek(f, 0, SEEK_SET) == 0) bytes = (uint8_t *)malloc((size_t)end + 1);
  if (bytes && fread(bytes, 1, (size_t)end, f) != (size_t)end) free(bytes), bytes = NULL;
  if (!bytes) complain("%s: %s", path, errno ? strerror(errno) : "cannot be read");
  if (f) fclose(f);
  *size = (size_t)end;
  return bytes;
}

static bool read_text(probe *p, const char *path, qi_token first) {
  size_t size, n = 0;
  qi_error err = {QI_OK, ""};
  char *text = (char *)read_whole(path, &size);
  qi_token *tokens = text ? (qi_token *)malloc((size + 16) * sizeof *tokens) : NULL; // a token is a byte at least
  bool good = tokens && !qi_tokenize(p->model, text, size, 0, tokens, size + 16, &n, &err);
  if (tokens && !good) complain("%s: %s", path, err.msg);
  size_t body = (size_t)p->len - 1, windows = n / body;
  if (good && windows == 0) good = complain("%s: %zu tokens, expected at least %zu", path, n, body);
  if (good && windows < (size_t)p->n_windows) p->n_windows = (int)windows;
  for (int w = 0; w < p->n_windows && good; w++) {
    p->tokens[w * p->len] = first;
    memcpy(p->tokens + w * p->len + 1, tokens + (size_t)w * body, body * sizeof *tokens);
  }
  free(text), free(tokens);
  return good;
}

// ---- the source ----

// Tensors that a format is tried on.
static bool is_matrix(const qi_tensor *t) { return t->n_dims >= 2 && t->shape[1] > 1; }

static bool check_source(const probe *p, const char *path) {
  for (size_t i = 0; i < qi_tensor_count(p->model); i++) {
    qi_tensor t;
    if (qi_tensor_get(p->model, i, &t, NULL) || !is_matrix(&t)) continue;
    if (t.format != QI_FORMAT_F32) return complain("%s: %s is not F32 (build/quantize IN OUT F32 makes it so)", path, t.name);
    const uint8_t *data = (const uint8_t *)t.data;
    if (data < p->bytes || data >= p->bytes + p->size) return complain("%s: %s is not in the file itself", path, t.name);
  }
  return true;
}

static bool probe_open(probe *p, const format_settings *c) {
  qi_error err = {QI_OK, ""};
  qi_model_info info;
  qi_special_tokens special;
  memset(p, 0, sizeof *p);
  p->bytes = read_whole(c->model, &p->size);
  if (!p->bytes) return false;
  p->copy = (uint8_t *)malloc(p->size + 1);
  qi_model_desc md = {.data = p->bytes, .data_size = p->size};
  if (!p->copy || qi_model_open(&p->model, &md, &err)) return complain("%s", p->copy ? err.msg : "no memory");
  if (!check_source(p, c->model)) return false;
  qi_model_get_info(p->model, &info);
  qi_model_special_tokens(p->model, &special);
  p->n_vocab = info.n_vocab;
  p->len = info.n_ctx_train && info.n_ctx_train < FORMAT_WINDOW ? info.n_ctx_train : FORMAT_WINDOW;
  size_t window = (size_t)p->len * (size_t)p->n_vocab, fit = FORMAT_VALUES / window;
  p->n_windows = fit < FORMAT_WINDOWS ? (int)fit : FORMAT_WINDOWS;
  if (p->n_windows == 0) return complain("%s: a vocabulary of %d tokens is too large for this", c->model, p->n_vocab);
  p->tokens = (qi_token *)malloc((size_t)p->n_windows * (size_t)p->len * sizeof *p->tokens);
  p->base = (float *)malloc((size_t)p->n_windows * window * sizeof *p->base);
  if (!p->tokens || !p->base) return complain("no memory");
  qi_token first = special.bos >= 0 ? special.bos : 0;
  if (!(c->text ? read_text(p, c->text, first) : sample_text(p, first))) return false;
  qi_session *s = probe_session(p->model, p->len);
  bool good = s != NULL;
  for (int w = 0; w < p->n_windows && good; w++) {
    good = probe_window(s, p->tokens + w * p->len, p->len);
    for (int i = 0; i < p->len && good; i++)
      log_softmax(qi_logits(s, i), p->n_vocab, p->base + ((size_t)w * (size_t)p->len + (size_t)i) * (size_t)p->n_vocab);
  }
  qi_session_close(s);
  return good;
}

// ---- a format ----

// A matrix through the format and back, in the copy. Rows that are no whole blocks are taken as one long row; what is still none
// stays as it is. Adds to the sums of squares: error, weights.
static bool through_format(probe *p, const qi_tensor *t, qi_format f, format_score *score, double sums[2]) {
  size_t n = (size_t)(t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3]), block = (size_t)qi_format_get(f)->block_len;
  size_t n_cols = (size_t)t->shape[0];
  const float *x = (const float *)t->data;
  if (n_cols % block) score->whole_rows = false, n_cols = n;
  if (n_cols % block) return true;
  uint8_t *packed = (uint8_t *)malloc(qi_format_bytes(f, n));
  float *source = (float *)malloc(2 * n * sizeof *source), *y = source + n;
  qi_error err = {QI_OK, ""};
  bool good = packed && source;
  if (good) memcpy(source, x, n * sizeof *source); // the file may not be aligned
  good = good && !qi_quantize(f, source, packed, n, n_cols, NULL, &err) && !qi_dequantize(f, packed, y, n, &err);
  if (!good) complain("%s: %s", t->name, err.msg);
  for (size_t i = 0; i < n && good; i++) {
    double e = (double)y[i] - (double)source[i];
    sums[0] += e * e;
    sums[1] += (double)source[i] * (double)source[i];
  }
  if (good) memcpy(p->copy + ((const uint8_t *)t->data - p->bytes), y, n * sizeof *y);
  free(packed), free(source);
  return good;
}

// Kullback-Leibler divergence of each position's prediction from the source's, in nats.
static bool score_copy(const probe *p, const qi_model *m, format_score *score) {
  qi_session *s = probe_session(m, p->len);
  float *row = (float *)malloc((size_t)p->n_vocab * sizeof *row);
  double sum = 0, squares = 0;
  int same = 0, n = p->n_windows * p->len;
  bool good = s && row;
  for (int i = 0; i < n && good; i++) {
    if (i % p->len == 0 && !probe_window(s, p->tokens + i, p->len)) good = false;
    if (!good) break;
    const float *base = p->base + (size_t)i * (size_t)p->n_vocab;
    double kl = 0;
    log_softmax(qi_logits(s, i % p->len), p->n_vocab, row);
    for (int v = 0; v < p->n_vocab; v++) kl += exp((double)base[v]) * ((double)base[v] - (double)row[v]);
    sum += kl;
    squares += kl * kl;
    same += likeliest(base, p->n_vocab) == likeliest(row, p->n_vocab);
  }
  score->kl = sum / n;
  double variance = squares / n - score->kl * score->kl;
  score->kl_error = variance > 0 ? sqrt(variance / n) : 0;
  score->same = (double)same / n;
  qi_session_close(s);
  free(row);
  return good;
}

static bool score_format(probe *p, qi_format f, format_score *score) {
  double sums[2] = {0, 0};
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  bool good = true;
  *score = (format_score){.whole_rows = true};
  memcpy(p->copy, p->bytes, p->size);
  for (size_t i = 0; i < qi_tensor_count(p->model) && good; i++) {
    qi_tensor t;
    if (qi_tensor_get(p->model, i, &t, NULL) || !is_matrix(&t)) continue;
    progress("%s: %s", qi_format_get(f)->name, t.name);
    good = through_format(p, &t, f, score, sums);
  }
  score->rms = sums[1] > 0 ? sqrt(sums[0] / sums[1]) : 0;
  qi_model_desc md = {.data = p->copy, .data_size = p->size};
  if (good && qi_model_open(&m, &md, &err)) good = complain("%s", err.msg);
  good = good && score_copy(p, m, score);
  qi_model_close(m);
  return good;
}

// ---- speed ----

typedef struct format_speed {
  double megabytes, cached_megabytes; // all tensors; what a cache without limit takes beside them
  double prompt, prompt_cached, gen, gen_cached; // tokens/s
  double gen_float;                   // the same, weights dequantised for each token
  double bandwidth_part;              // of gen
} format_speed;

static bool speed_test(double *speed, double *part, const bench_model *m, run_test t, rooflines *roof, int reps) {
  run_result result;
  if (!run_measure(&result, m, &t, roof, reps, true, m->name)) return false;
  *speed = samples_spread(&result.speed).median;
  if (part) *part = samples_spread(&result.bandwidth_part).median;
  return true;
}

// The model with all the cache that serves it.
static bool measure_cached(const bench_model *m, const run_test *prompt, const run_test *gen, rooflines *roof,
                           int reps, format_speed *out) {
  bench_model cached;
  if (!model_open_cached(&cached, m, UINT64_MAX, QI_PATH_AUTO, roof->pool)) return false;
  const qi_cache_info *cache = &cached.info.cache;
  out->cached_megabytes = (double)(cache->integer.bytes + cache->bf16.bytes + cache->f32.bytes) * 1e-6;
  bool good = speed_test(&out->prompt_cached, NULL, &cached, *prompt, roof, reps) &&
              speed_test(&out->gen_cached, NULL, &cached, *gen, roof, reps);
  qi_model_close(cached.model);
  return good;
}

// Random weights of a known shape in this format.
static bool measure_speed(const format_settings *c, qi_format f, rooflines *roof, format_speed *out) {
  char spec[96];
  const shape *s;
  file_type type;
  bench_model m;
  snprintf(spec, sizeof spec, "%.60s:%s", c->shape, qi_format_get(f)->name);
  if (!synth_spec_parse(spec, &s, &type) || !model_open_synth(&m, s, &type)) return false;
  run_test prompt = {.n_prompt = c->n_prompt, .n_seqs = 1, .kv_type = QI_KV_F16};
  run_test gen = {.n_gen = c->n_gen, .n_seqs = 1, .kv_type = QI_KV_F16}, slow = gen;
  slow.path = QI_PATH_FLOAT;
  slow.n_gen = (c->n_gen + 3) / 4;
  out->megabytes = (double)m.info.n_tensor_bytes * 1e-6;
  bool good = speed_test(&out->prompt, NULL, &m, prompt, roof, c->common.reps) &&
              speed_test(&out->gen, &out->bandwidth_part, &m, gen, roof, c->common.reps) &&
              speed_test(&out->gen_float, NULL, &m, slow, roof, c->common.reps) &&
              measure_cached(&m, &prompt, &gen, roof, c->common.reps, out);
  model_close(&m);
  return good;
}

// ---- the table ----

static void report_format(report *out, const format_settings *c, qi_format f, const format_score *score,
                          const format_speed *speed) {
  const qi_format_info *info = qi_format_get(f);
  row r;
  memset(&r, 0, sizeof r);
  row_text(&r, "format", 8, info->name);
  row_number(&r, "bits", 6, 3, 8.0 * info->block_bytes / info->block_len);
  row_text(&r, "blocks", 11, score->whole_rows ? "of rows" : "across rows");
  row_number(&r, "rms error %", 11, 4, 100 * score->rms);
  row_number(&r, "KL", 9, 6, score->kl);
  row_number(&r, "+/-", 8, 6, score->kl_error);
  row_number(&r, "same top %", 10, 2, 100 * score->same);
  if (c->shape) {
    row_number(&r, "MB", 7, 0, speed->megabytes);
    row_value(&r, "prompt t/s", 10, speed->prompt);
    row_value(&r, "gen t/s", 8, speed->gen);
    row_number(&r, "% bandwidth", 11, 1, 100 * speed->bandwidth_part);
    row_value(&r, "gen, dequantised t/s", 8, speed->gen_float);
    row_number(&r, "cached MB", 9, 0, speed->cached_megabytes);
    row_value(&r, "prompt, cached t/s", 10, speed->prompt_cached);
    row_value(&r, "gen, cached t/s", 8, speed->gen_cached);
  }
  report_row(out, &r);
}

static bool format_chosen(const format_settings *c, const qi_format_info *info) {
  if (c->n_types == 0) return info->can_quantize && info->block_len > 1;
  for (int i = 0; i < c->n_types; i++)
    if (info->can_quantize && strcmp(c->types[i], info->name) == 0) return true;
  return false;
}

static bool formats_check(const format_settings *c) {
  for (int i = 0; i < c->n_types; i++) {
    qi_format f = qi_format_from_name(c->types[i]);
    if (!f || !qi_format_get(f)->can_quantize) return complain("--types %.40s: no type that can be written", c->types[i]);
  }
  return !c->shape || shape_find(c->shape, strlen(c->shape)) || complain("--shape %.40s: no such shape (--list)", c->shape);
}

static bool formats_run(report *out, const format_settings *c) {
  probe p;
  rooflines roof;
  qi_pool *pool = NULL;
  qi_pool_desc pd = {.n_threads = c->common.n_threads, .isa = c->common.isa};
  qi_error err = {QI_OK, ""};
  if (!probe_open(&p, c)) {
    probe_close(&p);
    return false;
  }
  bool good = !qi_pool_open(&pool, &pd, &err) || complain("%s", err.msg);
  bool has_roof = good && c->shape && (good = rooflines_open(&roof, pool, c->common.bandwidth_mb));
  for (int f = QI_FORMAT_NONE + 1; f < QI_FORMAT_COUNT && good; f++) {
    format_score score;
    format_speed speed;
    memset(&speed, 0, sizeof speed);
    if (!format_chosen(c, qi_format_get((qi_format)f))) continue;
    good = score_format(&p, (qi_format)f, &score) && (!c->shape || measure_speed(c, (qi_format)f, &roof, &speed));
    if (good) report_format(out, c, (qi_format)f, &score, &speed);
  }
  if (has_roof) rooflines_close(&roof);
  qi_pool_close(pool);
  probe_close(&p);
  return good;
}

#endif // BENCH_FORMATS_H
