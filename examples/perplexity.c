// How well a model predicts a text, and how far it is from another.
//                                                      cc -O2 examples/perplexity.c -o build/perplexity -lm -lpthread
//   build/perplexity -m f16.gguf -f text.txt --save-logits base.bin
//   build/perplexity -m q4.gguf --kl base.bin
//
// Perplexity as llama.cpp computes it: the text in windows of -c tokens, each after a begin token where the model has one, the
// second half of each window scored. The saved file is llama.cpp's as well. Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#else
#include <unistd.h>
#endif

#define PROGRAM "perplexity"

enum { ROWS_AT_ONCE = 128 }; // logits that are held; bits do not depend on it

static volatile sig_atomic_t interrupted;
static void on_signal(int number) { // a second one ends the program at once
  interrupted = number;
  signal(number, SIG_DFL);
}

static qi_result fail(qi_error *err, qi_result code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(err->msg, sizeof err->msg, format, args);
  va_end(args);
  return err->code = code;
}

// ---- options ----

typedef struct settings {
  const char *model, *text, *save, *kl, *isa, *path;
  int n_ctx, n_chunks, stride, n_threads, n_batch;
  bool no_mmap, help;
} settings;

typedef struct option {
  const char *name, *alias;
  const char **text; // one of text, number and flag is set
  int *number;
  bool *flag;
  long long max;     // of a number
  const char *help;
} option;

static bool parse_number(const option *o, const char *name, const char *s) {
  char *end;
  errno = 0;
  long long v = strtoll(s, &end, 10);
  if (errno || end == s || *end || isspace((unsigned char)*s) || v < 0 || v > o->max) {
    fprintf(stderr, PROGRAM ": %s %s: not a whole number from 0 to %lld\n", name, s, o->max);
    return false;
  }
  *o->number = (int)v;
  return true;
}

static bool parse_options(int argc, char **argv, const option *options, size_t n) {
  for (int a = 1; a < argc; a++) {
    size_t i = 0;
    while (i < n && strcmp(argv[a], options[i].name) != 0 && strcmp(argv[a], options[i].alias) != 0) i++;
    if (i == n) {
      fprintf(stderr, PROGRAM ": unknown option %s (--help lists all)\n", argv[a]);
      return false;
    }
    if (options[i].flag) {
      *options[i].flag = true;
    } else if (a + 1 == argc) {
      fprintf(stderr, PROGRAM ": %s needs a value\n", argv[a]);
      return false;
    } else if (options[i].text) {
      *options[i].text = argv[++a];
    } else {
      if (!parse_number(&options[i], argv[a], argv[a + 1])) return false;
      a++;
    }
  }
  return true;
}

// What is wrong with options that are well-formed; NULL = nothing.
static const char *contradiction(const settings *c) {
  if (!c->model) return "-m FILE is needed";
  if (!c->text == !c->kl) return "give the text with -f, or a saved baseline with --kl, one of them";
  if (c->save && (c->kl || c->stride)) return "--save-logits goes with neither --kl nor --stride";
  if (c->kl && c->stride) return "--kl does not go with --stride";
  if (c->n_ctx < 2) return "-c must be at least 2";
  if (c->stride >= c->n_ctx) return "--stride must be less than -c";
  return NULL;
}

// Fills *c; 0 to go on, else what main returns, plus one.
static int read_settings(int argc, char **argv, settings *c) {
  const option options[] = {
    {"-m", "--model", &c->model, NULL, NULL, 0, "FILE  the model"},
    {"-f", "--file", &c->text, NULL, NULL, 0, "FILE  the text (without its last newline); at least twice -c tokens"},
    {"-c", "--ctx-size", NULL, &c->n_ctx, NULL, 1 << 20, "N     tokens of a window (default 512)"},
    {"", "--chunks", NULL, &c->n_chunks, NULL, INT_MAX, "N     windows to compute, 0 = all (default 0)"},
    {"", "--stride", NULL, &c->stride, NULL, 1 << 20, "N     windows overlap: each begins N tokens later, its last N are scored"},
    {"", "--save-logits", &c->save, NULL, NULL, 0, "FILE  write probabilities of all tokens, as a baseline"},
    {"", "--kl", &c->kl, NULL, NULL, 0, "FILE  compare with a baseline, on its text"},
    {"-t", "--threads", NULL, &c->n_threads, NULL, 256, "N     threads, 0 = cores, at most 8 (default 0)"},
    {"-b", "--batch-size", NULL, &c->n_batch, NULL, 65536, "N     tokens computed at once, 0 = 256 (default 0)"},
    {"", "--isa", &c->isa, NULL, NULL, 0, "NAME  highest instruction set: auto, scalar, avx2, ... (default auto)"},
    {"", "--path", &c->path, NULL, NULL, 0, "NAME  arithmetic: auto, integer, bf16, float (default auto: as for prompts)"},
    {"", "--no-mmap", NULL, NULL, &c->no_mmap, 0, "      read the model into memory instead of mapping it"},
    {"-h", "--help", NULL, NULL, &c->help, 0, "      this text"},
  };
  size_t n = sizeof options / sizeof options[0];
  if (!parse_options(argc, argv, options, n)) return 3;
  if (c->help) {
    printf("Perplexity of a text, or the distance of two models.\n\n  " PROGRAM " -m FILE -f TEXT [options]\n\n");
    for (size_t i = 0; i < n; i++) printf("  %-3s %-18s %s\n", options[i].name, options[i].alias, options[i].help);
    return 1;
  }
  const char *wrong = contradiction(c);
  if (wrong) fprintf(stderr, PROGRAM ": %s (--help lists all)\n", wrong);
  return wrong ? 3 : 0;
}

static bool find_path(const char *name, qi_path *out) {
  const char *names[] = {"auto", "integer", "bf16", "float"}; // in the order of qi_path
  for (int i = 0; i < 4; i++)
    if (strcmp(name, names[i]) == 0) {
      *out = (qi_path)i;
      return true;
    }
  fprintf(stderr, PROGRAM ": --path %s: neither auto, integer, bf16 nor float\n", name);
  return false;
}

// ---- text ----

// Windows of a text: window i begins at token i * step and has n_ctx tokens. Positions first..n_ctx-2 are scored: each predicts the
// token behind it.
typedef struct windows {
  qi_token *tokens;
  size_t n_tokens;
  int n_ctx, step, first, n;
} windows;

static int n_scored(const windows *w) { return w->n_ctx - 1 - w->first; }

// The whole file in memory of malloc; NULL after a failure.
static char *read_file(const char *path, size_t *len, qi_error *err) {
  FILE *f = fopen(path, "rb");
  char *text = NULL;
  size_t cap = 0;
  *len = 0;
  while (f && !ferror(f) && !feof(f)) {
    if (*len == cap) {
      char *larger = (char *)realloc(text, cap = cap * 2 + 4096);
      if (!larger) break;
      text = larger;
    }
    *len += fread(text + *len, 1, cap - *len, f);
  }
  bool good = f && feof(f) && !ferror(f);
  if (!good) fail(err, QI_ERR_IO, "%.180s: %s", path, errno ? strerror(errno) : "cannot be read");
  if (f) fclose(f);
  if (good) return text;
  free(text);
  return NULL;
}

static qi_result tokenize(const qi_model *m, const char *path, windows *w, qi_error *err) {
  size_t len;
  char *text = read_file(path, &len, err);
  if (!text) return err->code;
  if (len && text[len - 1] == '\n') len--;
  qi_result r = qi_tokenize(m, text, len, QI_TOKENIZE_ADD_SPECIAL, NULL, 0, &w->n_tokens, err);
  if (!r) w->tokens = (qi_token *)malloc((w->n_tokens + 1) * sizeof *w->tokens);
  if (!r && !w->tokens) r = fail(err, QI_ERR_OOM, "no memory for %zu tokens", w->n_tokens);
  if (!r) r = qi_tokenize(m, text, len, QI_TOKENIZE_ADD_SPECIAL, w->tokens, w->n_tokens, &w->n_tokens, err);
  free(text);
  return r;
}

static qi_result cut_windows(const qi_model *m, const settings *c, windows *w, qi_error *err) {
  if (tokenize(m, c->text, w, err)) return err->code;
  w->n_ctx = c->n_ctx;
  w->step = c->stride ? c->stride : w->n_ctx;
  w->first = c->stride ? w->n_ctx - c->stride - 1 : w->n_ctx / 2;
  size_t n_ctx = (size_t)w->n_ctx, step = (size_t)w->step;
  if (w->n_tokens < 2 * n_ctx)
    return fail(err, QI_ERR_ARGUMENT, "%.120s: %zu tokens, expected at least %zu: two windows (-c)", c->text, w->n_tokens,
                2 * n_ctx);
  size_t n = c->stride ? (w->n_tokens - n_ctx + step - 1) / step : w->n_tokens / n_ctx;
  if (c->n_chunks && n > (size_t)c->n_chunks) n = (size_t)c->n_chunks;
  if (n > INT_MAX / n_ctx) return fail(err, QI_ERR_LIMIT, "%.120s: %zu tokens are too many", c->text, w->n_tokens);
  w->n = (int)n;
  return QI_OK;
}

// ---- baselines ----

// A file of llama.cpp's kind: "_logits_", int32 n_ctx, n_vocab, number of windows, their tokens, and for each scored position
//
//   float32 scale, least; uint16 code[n_vocab], padded to even      log probability = scale * code + least
//
// where `least` stands for all that are e^-16 times as likely as the likeliest token, or less.
typedef struct baseline {
  FILE *file;
  bool writes;
  int n_vocab;
  unsigned char *row;
} baseline;

static size_t row_bytes(int n_vocab) { return 8 + 2 * (((size_t)n_vocab + 1) / 2 * 2); }

static bool write_ints(FILE *f, const int32_t *v, size_t n) { return fwrite(v, sizeof *v, n, f) == n; }

static qi_result begin_baseline(baseline *b, const windows *w, qi_error *err) {
  const int32_t sizes[] = {w->n_ctx, b->n_vocab, w->n};
  b->writes = true;
  b->row = (unsigned char *)calloc(row_bytes(b->n_vocab), 1);
  if (!b->row) return fail(err, QI_ERR_OOM, "no memory for a row of %d probabilities", b->n_vocab);
  if (fwrite("_logits_", 1, 8, b->file) != 8 || !write_ints(b->file, sizes, 3) ||
      !write_ints(b->file, w->tokens, (size_t)w->n * (size_t)w->n_ctx))
    return fail(err, QI_ERR_IO, "--save-logits: %s", strerror(errno));
  return QI_OK;
}

// Text and sizes of a baseline.
static qi_result open_baseline(baseline *b, const char *path, int n_chunks, windows *w, qi_error *err) {
  char magic[8];
  int32_t sizes[3];
  b->file = fopen(path, "rb");
  if (!b->file) return fail(err, QI_ERR_IO, "%.180s: %s", path, strerror(errno));
  if (fread(magic, 1, 8, b->file) != 8 || memcmp(magic, "_logits_", 8) != 0 || fread(sizes, 4, 3, b->file) != 3)
    return fail(err, QI_ERR_FORMAT, "%.180s: not a file of --save-logits", path);
  if (sizes[1] != b->n_vocab)
    return fail(err, QI_ERR_FORMAT, "%.180s: of a model with %d tokens, this one has %d", path, (int)sizes[1], b->n_vocab);
  if (sizes[0] < 2 || sizes[0] > 1 << 22 || sizes[2] < 1 || sizes[2] > INT_MAX / sizes[0])
    return fail(err, QI_ERR_FORMAT, "%.180s: damaged: %d windows of %d tokens", path, (int)sizes[2], (int)sizes[0]);
  w->n_ctx = w->step = sizes[0];
  w->first = w->n_ctx / 2;
  w->n = sizes[2];
  w->n_tokens = (size_t)w->n * (size_t)w->n_ctx;
  w->tokens = (qi_token *)malloc(w->n_tokens * sizeof *w->tokens);
  b->row = (unsigned char *)malloc(row_bytes(b->n_vocab));
  if (!w->tokens || !b->row) return fail(err, QI_ERR_OOM, "%.180s: no memory for %zu tokens", path, w->n_tokens);
  if (fread(w->tokens, sizeof *w->tokens, w->n_tokens, b->file) != w->n_tokens)
    return fail(err, QI_ERR_FORMAT, "%.180s: the file ends early", path);
  if (n_chunks && w->n > n_chunks) w->n = n_chunks;
  return QI_OK;
}

static bool save_row(baseline *b, const float *logits, float max, float log_sum) {
  float min = max;
  for (int i = 0; i < b->n_vocab; i++) min = logits[i] < min ? logits[i] : min;
  if (!(min > max - 16)) min = max - 16;
  float head[2] = {(max - min) / 65535.0f, min - max - log_sum}, inverse = head[0] > 0 ? 1 / head[0] : 0;
  memcpy(b->row, head, sizeof head);
  for (int i = 0; i < b->n_vocab; i++) {
    long code = logits[i] > min ? lrintf(inverse * (logits[i] - min)) : 0;
    uint16_t u = (uint16_t)(code < 65535 ? code : 65535);
    memcpy(b->row + 8 + 2 * i, &u, sizeof u);
  }
  return fwrite(b->row, 1, row_bytes(b->n_vocab), b->file) == row_bytes(b->n_vocab);
}

// ---- scores ----

// What is known of each scored token; the last three only beside a baseline.
typedef struct scores {
  double *nll;      // -ln p
  double *nll_base; // of the baseline
  double *kl;       // sum over all tokens of p_base * ln(p_base / p)
  double *dp;       // p - p_base
  size_t n, n_same; // n_same: the likeliest token is the same
} scores;

// Kullback-Leibler divergence of a row from the baseline's, and the rest of what a baseline tells.
static void compare_row(const baseline *b, const float *logits, double log_norm, int top, qi_token token, scores *s) {
  float head[2], best = 0;
  double sum = 0;
  int top_base = 0;
  memcpy(head, b->row, sizeof head);
  for (int i = 0; i < b->n_vocab; i++) {
    uint16_t code;
    memcpy(&code, b->row + 8 + 2 * i, sizeof code);
    float lp = head[0] * (float)code + head[1];
    if (!i || lp > best) best = lp, top_base = i;
    if (lp > -16.0f) sum += (double)expf(lp) * ((double)lp - (double)logits[i] + log_norm);
    if (i == token) s->nll_base[s->n] = -(double)lp;
  }
  s->kl[s->n] = sum;
  s->dp[s->n] = exp(-s->nll[s->n]) - exp(-s->nll_base[s->n]);
  s->n_same += top == top_base;
}

// One row of logits, and the token that followed.
static qi_result score_row(baseline *b, const float *logits, qi_token token, scores *s, qi_error *err) {
  int n_vocab = b->n_vocab, top = 0;
  double sum = 0;
  for (int i = 1; i < n_vocab; i++) top = logits[i] > logits[top] ? i : top;
  for (int i = 0; i < n_vocab; i++) sum += (double)expf(logits[i] - logits[top]);
  double log_norm = (double)logits[top] + log(sum); // ln of the sum of e^logit
  s->nll[s->n] = log_norm - (double)logits[token];
  if (b->file && b->writes && !save_row(b, logits, logits[top], (float)log(sum)))
    return fail(err, QI_ERR_IO, "--save-logits: %s", strerror(errno));
  if (b->file && !b->writes) {
    if (fread(b->row, 1, row_bytes(n_vocab), b->file) != row_bytes(n_vocab))
      return fail(err, QI_ERR_FORMAT, "--kl: the file ends early, at token %zu", s->n);
    compare_row(b, logits, log_norm, top, token, s);
  }
  s->n++;
  return QI_OK;
}

// Window i from its beginning; the token at its start is a begin token where the model has one.
static qi_result score_window(qi_session *s, const windows *w, int i, qi_token bos, baseline *b, scores *out, qi_error *err) {
  const qi_token *tokens = w->tokens + (size_t)i * (size_t)w->step;
  if (qi_seq_truncate(s, 0, 0, err)) return err->code;
  for (int at = 0, n; at < w->n_ctx - 1; at += n) {
    qi_decode_token batch[ROWS_AT_ONCE];
    int end = at < w->first ? w->first : w->n_ctx - 1;
    n = end - at < ROWS_AT_ONCE ? end - at : ROWS_AT_ONCE;
    for (int k = 0; k < n; k++) batch[k] = (qi_decode_token){.token = tokens[at + k], .want_logits = at >= w->first};
    if (!at && bos >= 0) batch[0].token = bos;
    if (qi_decode(s, batch, (size_t)n, err)) return err->code;
    if (interrupted) return fail(err, QI_ERR_CANCELLED, "interrupted");
    for (int k = 0; k < n && at >= w->first; k++)
      if (score_row(b, qi_logits(s, k), tokens[at + k + 1], out, err)) return err->code;
  }
  return QI_OK;
}

// ---- statistics ----

typedef struct estimate {
  double mean, error; // error: standard error of the mean
} estimate;

static estimate mean_of(const double *v, const double *minus, size_t n) {
  double sum = 0, squares = 0;
  for (size_t i = 0; i < n; i++) {
    double x = minus ? v[i] - minus[i] : v[i];
    sum += x;
    squares += x * x;
  }
  double mean = n ? sum / (double)n : 0, variance = n ? squares / (double)n - mean * mean : 0;
  return (estimate){mean, n > 1 && variance > 0 ? sqrt(variance / (double)(n - 1)) : 0};
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// Of sorted values, between neighbours where need be.
static double percentile(const double *v, size_t n, double part) {
  double at = part * (double)(n - 1);
  size_t i = (size_t)at, next = i + 1 < n ? i + 1 : i;
  return v[i] + (at - (double)i) * (v[next] - v[i]);
}

static void print_perplexity(const char *name, estimate nll) {
  double ppl = exp(nll.mean);
  printf(ppl < 1e9 ? "%-24s %.6f +/- %.6f\n" : "%-24s %.6g +/- %.6g\n", name, ppl, ppl * nll.error);
}

static void print_scores(scores *s) {
  estimate nll = mean_of(s->nll, NULL, s->n);
  print_perplexity("PPL", nll);
  if (!s->kl) return;
  print_perplexity("PPL of the baseline", mean_of(s->nll_base, NULL, s->n));
  estimate ratio = mean_of(s->nll, s->nll_base, s->n), kl = mean_of(s->kl, NULL, s->n);
  printf("%-24s %.6f +/- %.6f\n", "ln(PPL / baseline)", ratio.mean, ratio.error);
  printf("%-24s %.6f +/- %.6f\n", "KL divergence, mean", kl.mean, kl.error);
  qsort(s->kl, s->n, sizeof *s->kl, ascending);
  static const struct {
    const char *name;
    double part;
  } parts[] = {{"median", 0.5}, {"99 %", 0.99}, {"99.9 %", 0.999}, {"most", 1}};
  for (int i = 0; i < 4; i++) printf("KL divergence, %-9s %.6f\n", parts[i].name, percentile(s->kl, s->n, parts[i].part));
  for (size_t i = 0; i < s->n; i++) s->dp[i] *= s->dp[i];
  estimate dp = mean_of(s->dp, NULL, s->n);
  double rms = sqrt(dp.mean), same = (double)s->n_same / (double)s->n, n1 = s->n > 1 ? (double)(s->n - 1) : 1;
  printf("%-24s %.4f +/- %.4f %%\n", "RMS change of p", 100 * rms, rms > 0 ? 100 * dp.error / (2 * rms) : 0);
  printf("%-24s %.4f +/- %.4f %%\n", "same likeliest token", 100 * same, 100 * sqrt(same * (1 - same) / n1));
}

// ---- work ----

static qi_result score_text(const qi_model *m, const settings *c, qi_session_desc *sd, const windows *w, baseline *b, scores *out,
                            qi_error *err) {
  qi_session *s = NULL;
  qi_special_tokens special;
  bool terminal = isatty(2);
  qi_model_special_tokens(m, &special);
  sd->n_ctx = w->n_ctx;
  sd->n_logits = ROWS_AT_ONCE;
  qi_result r = qi_session_open(&s, m, sd, err);
  for (int i = 0; !r && i < w->n; i++) {
    r = score_window(s, w, i, special.add_bos && !c->stride ? special.bos : -1, b, out, err);
    double nll = mean_of(out->nll, NULL, out->n).mean;
    if (!r && terminal) fprintf(stderr, "\rwindow %d of %d, PPL so far %.4f  ", i + 1, w->n, exp(nll));
  }
  if (terminal) fprintf(stderr, "\r%70s\r", "");
  qi_session_close(s);
  return r;
}

// The text in windows, the baseline beside it, and room for the scores.
static qi_result prepare(const qi_model *m, const settings *c, windows *w, baseline *b, scores *s, const char *temporary,
                         qi_error *err) {
  qi_model_info info;
  qi_model_get_info(m, &info);
  b->n_vocab = info.n_vocab;
  qi_result r = c->kl ? open_baseline(b, c->kl, c->n_chunks, w, err) : cut_windows(m, c, w, err);
  if (r) return r;
  if (w->n_ctx > info.n_ctx_train && info.n_ctx_train)
    fprintf(stderr, PROGRAM ": windows of %d tokens, the model was trained for %d\n", w->n_ctx, info.n_ctx_train);
  size_t n = (size_t)w->n * (size_t)n_scored(w);
  double *values = (double *)calloc(n, (c->kl ? 4 : 1) * sizeof *values);
  if (!values) return fail(err, QI_ERR_OOM, "no memory for %zu scores", n);
  s->nll = values;
  if (c->kl) s->nll_base = values + n, s->kl = values + 2 * n, s->dp = values + 3 * n;
  if (!c->save) return QI_OK;
  b->file = fopen(temporary, "wb");
  return b->file ? begin_baseline(b, w, err) : fail(err, QI_ERR_IO, "%.180s: %s", temporary, strerror(errno));
}

// The saved file takes its name when it is complete.
static qi_result run(const settings *c, qi_session_desc *sd, qi_error *err) {
  qi_model_desc md = {.path = c->model, .no_mmap = c->no_mmap};
  qi_model *m = NULL;
  windows w = {.n = 0};
  baseline b = {.n_vocab = 0};
  scores s = {.n = 0};
  char temporary[4096] = "";
  qi_result r = QI_OK;
  if (c->save && snprintf(temporary, sizeof temporary, "%s.part", c->save) >= (int)sizeof temporary)
    r = fail(err, QI_ERR_ARGUMENT, "--save-logits: the name is too long");
  if (!r) r = qi_model_open(&m, &md, err);
  if (!r) r = prepare(m, c, &w, &b, &s, temporary, err);
  if (!r) r = score_text(m, c, sd, &w, &b, &s, err);
  bool closed = !b.file || fclose(b.file) == 0;
  if (!r && c->save && (!closed || rename(temporary, c->save) != 0))
    r = fail(err, QI_ERR_IO, "%.180s: %s", c->save, strerror(errno));
  if (r && b.writes) remove(temporary);
  if (!r) printf("%-24s %d windows of %d tokens, %zu scored\n", "text", w.n, w.n_ctx, s.n);
  if (!r) print_scores(&s);
  free(w.tokens);
  free(b.row);
  free(s.nll);
  qi_model_close(m);
  return r;
}

int main(int argc, char **argv) {
  settings c = {.n_ctx = 512, .isa = "auto", .path = "auto"};
  int stop = read_settings(argc, argv, &c);
  if (stop) return stop - 1;
  qi_session_desc sd = {.n_batch = c.n_batch, .n_threads = c.n_threads};
  int isa = qi_isa_from_name(c.isa);
  if (isa < 0) fprintf(stderr, PROGRAM ": --isa %s: no such instruction set\n", c.isa);
  if (isa < 0 || !find_path(c.path, &sd.path)) return 2;
  sd.isa = (qi_isa)isa;
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);
  qi_error err = {0};
  qi_result r = run(&c, &sd, &err);
  bool written = !fflush(stdout) && !ferror(stdout);
  if (r) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  else if (!written) fprintf(stderr, PROGRAM ": standard output cannot be written\n");
  return r || !written ? 1 : 0;
}
