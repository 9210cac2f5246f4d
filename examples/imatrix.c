// Which columns of the weights matter: mean squares of what they are multiplied with, while the model reads a text.
//                                                            cc -O2 examples/imatrix.c -o build/imatrix -lm -lpthread
//   build/imatrix -m f16.gguf -f text.txt -o imatrix.dat
//   build/quantize --imatrix imatrix.dat f16.gguf q4.gguf Q4_K_M
//
// The file is llama.cpp's .dat, which all its versions read. It appears under its name only when it is complete. Exit code: 0,
// 1 failure, 2 wrong options.
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

#define PROGRAM "imatrix"

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
  const char *model, *text, *out, *isa, *path;
  int n_ctx, n_chunks, n_threads, n_batch;
  bool process_output, no_mmap, help;
} settings;

typedef struct option {
  const char *name, *alias;
  const char **text; // one of text, number and flag is set
  int *number;
  bool *flag;
  int min, max;      // of a number
  const char *help;
} option;

static bool parse_number(const option *o, const char *name, const char *s) {
  char *end;
  errno = 0;
  long long v = strtoll(s, &end, 10);
  if (errno || end == s || *end || isspace((unsigned char)*s) || v < o->min || v > o->max) {
    fprintf(stderr, PROGRAM ": %s %s: not a whole number from %d to %d\n", name, s, o->min, o->max);
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

// Fills *c; 0 to go on, else what main returns, plus one.
static int read_settings(int argc, char **argv, settings *c) {
  const option options[] = {
    {"-m", "--model", &c->model, NULL, NULL, 0, 0, "FILE  the model, best in F16, BF16 or F32"},
    {"-f", "--file", &c->text, NULL, NULL, 0, 0, "FILE  a text like those that the model will read"},
    {"-o", "--output", &c->out, NULL, NULL, 0, 0, "FILE  where the importance goes"},
    {"-c", "--ctx-size", NULL, &c->n_ctx, NULL, 1, 1 << 20, "N     the text is read in windows of N tokens (default 512)"},
    {"", "--chunks", NULL, &c->n_chunks, NULL, 0, INT_MAX, "N     windows to read, 0 = all (default 0)"},
    {"", "--process-output", NULL, NULL, &c->process_output, 0, 0, "      the output matrix as well"},
    {"-t", "--threads", NULL, &c->n_threads, NULL, 0, 256, "N     threads, 0 = cores, at most 8 (default 0)"},
    {"-b", "--batch-size", NULL, &c->n_batch, NULL, 0, 65536, "N     tokens computed at once, 0 = 256 (default 0)"},
    {"", "--isa", &c->isa, NULL, NULL, 0, 0, "NAME  highest instruction set: auto, scalar, avx2, ... (default auto)"},
    {"", "--path", &c->path, NULL, NULL, 0, 0, "NAME  arithmetic: auto, integer, bf16, float (default auto: as for prompts)"},
    {"", "--no-mmap", NULL, NULL, &c->no_mmap, 0, 0, "      read the model into memory instead of mapping it"},
    {"-h", "--help", NULL, NULL, &c->help, 0, 0, "      this text"},
  };
  size_t n = sizeof options / sizeof options[0];
  if (!parse_options(argc, argv, options, n)) return 3;
  if (c->help) {
    printf("Measures which columns of the weights matter, for quantize.\n\n  " PROGRAM " -m FILE -f TEXT -o FILE [options]\n\n");
    for (size_t i = 0; i < n; i++) printf("  %-3s %-18s %s\n", options[i].name, options[i].alias, options[i].help);
    return 1;
  }
  if (c->model && c->text && c->out) return 0;
  fprintf(stderr, PROGRAM ": -m FILE, -f FILE and -o FILE are needed (--help lists all)\n");
  return 3;
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

// ---- collecting ----

// Squares of the inputs of one tensor.
typedef struct column_sums {
  char name[128];
  double *sums; // [n_cols]
  size_t n_cols;
  uint64_t n;   // rows that were added
} column_sums;

typedef struct collector {
  column_sums *tensors;
  size_t n, cap;
  bool process_output, no_memory;
} collector;

static void free_collector(collector *c) {
  for (size_t i = 0; i < c->n; i++) free(c->tensors[i].sums);
  free(c->tensors);
}

// The sums of a tensor, zeros when it comes for the first time; NULL when memory ran out.
static column_sums *find_sums(collector *c, const char *tensor, size_t n_cols) {
  for (size_t i = 0; i < c->n; i++)
    if (strcmp(c->tensors[i].name, tensor) == 0) return &c->tensors[i];
  if (c->n == c->cap) {
    column_sums *larger = (column_sums *)realloc(c->tensors, (c->cap * 2 + 64) * sizeof *larger);
    if (!larger) return NULL;
    c->tensors = larger;
    c->cap = c->cap * 2 + 64;
  }
  column_sums *t = &c->tensors[c->n];
  memset(t, 0, sizeof *t);
  snprintf(t->name, sizeof t->name, "%s", tensor);
  t->n_cols = n_cols;
  t->sums = (double *)calloc(n_cols, sizeof *t->sums);
  if (!t->sums) return NULL;
  c->n++;
  return t;
}

// The session's observer. Layers always; the output matrix when asked for.
static void collect(void *user, const char *tensor, const float *x, size_t n, size_t n_cols) {
  collector *c = (collector *)user;
  if (strncmp(tensor, "blk.", 4) != 0 && !c->process_output) return;
  column_sums *t = find_sums(c, tensor, n_cols);
  if (!t) c->no_memory = true;
  if (!t || t->n_cols != n_cols) return;
  for (size_t row = 0; row < n; row++, x += n_cols)
    for (size_t i = 0; i < n_cols; i++) t->sums[i] += (double)x[i] * (double)x[i];
  t->n += n;
}

// ---- reading the text ----

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

static qi_result tokenize(const qi_model *m, const char *path, qi_token **tokens, size_t *n, qi_error *err) {
  size_t len;
  char *text = read_file(path, &len, err);
  if (!text) return err->code;
  if (len && text[len - 1] == '\n') len--;
  qi_result r = qi_tokenize(m, text, len, QI_TOKENIZE_ADD_SPECIAL, NULL, 0, n, err);
  if (!r) *tokens = (qi_token *)malloc((*n + 1) * sizeof **tokens);
  if (!r && !*tokens) r = fail(err, QI_ERR_OOM, "no memory for %zu tokens", *n);
  if (!r) r = qi_tokenize(m, text, len, QI_TOKENIZE_ADD_SPECIAL, *tokens, *n, n, err);
  if (!r && *n < 2) r = fail(err, QI_ERR_ARGUMENT, "%.180s: no text in it", path);
  free(text);
  return r;
}

// One window, alone in the context, after a begin token where the model has one.
static qi_result read_window(qi_session *s, const qi_token *tokens, int n, int n_at_once, qi_token bos, bool logits,
                             qi_error *err) {
  qi_decode_token batch[512];
  if (qi_seq_truncate(s, 0, 0, err)) return err->code;
  for (int at = 0, count; at < n; at += count) {
    count = n - at < n_at_once ? n - at : n_at_once;
    for (int i = 0; i < count; i++) batch[i] = (qi_decode_token){.token = tokens[at + i], .want_logits = logits};
    if (!at && bos >= 0) batch[0].token = bos;
    if (qi_decode(s, batch, (size_t)count, err)) return err->code;
    if (interrupted) return fail(err, QI_ERR_CANCELLED, "interrupted");
  }
  return QI_OK;
}

static qi_result read_text(const qi_model *m, const settings *c, qi_session_desc *sd, collector *sums, int *n_windows,
                           qi_error *err) {
  qi_token *tokens = NULL;
  qi_session *s = NULL;
  qi_special_tokens special;
  size_t n_tokens = 0;
  int n_at_once = c->process_output ? 64 : 512; // rows of logits take memory
  qi_model_special_tokens(m, &special);
  qi_result r = tokenize(m, c->text, &tokens, &n_tokens, err);
  if (!r) {
    sd->n_ctx = n_tokens < (size_t)c->n_ctx ? (int)n_tokens : c->n_ctx;
    size_t n = n_tokens / (size_t)sd->n_ctx;
    *n_windows = c->n_chunks && n > (size_t)c->n_chunks ? c->n_chunks : n < INT_MAX ? (int)n : INT_MAX;
    sd->observer = (qi_observer){collect, sums};
    sd->n_logits = c->process_output ? n_at_once : 1;
    r = qi_session_open(&s, m, sd, err);
  }
  for (int i = 0; !r && i < *n_windows; i++) {
    const qi_token *window = tokens + (size_t)i * (size_t)sd->n_ctx;
    r = read_window(s, window, sd->n_ctx, n_at_once, special.add_bos ? special.bos : -1, c->process_output, err);
    if (!r && sums->no_memory) r = fail(err, QI_ERR_OOM, "no memory for the sums");
    if (isatty(2)) fprintf(stderr, "\rwindow %d of %d", i + 1, *n_windows);
  }
  if (isatty(2)) fprintf(stderr, "\r%40s\r", "");
  qi_session_close(s);
  free(tokens);
  return r;
}

// ---- writing ----

static void put_int(FILE *f, uint64_t v) {
  unsigned char b[4];
  for (int i = 0; i < 4; i++) b[i] = (unsigned char)(v >> 8 * i);
  fwrite(b, 1, 4, f);
}
static void put_text(FILE *f, const char *s) {
  put_int(f, strlen(s));
  fwrite(s, 1, strlen(s), f);
}

// int32 entries; of each: text name, int32 calls, int32 n, float32[n] mean squares times calls; then int32 windows, text source.
static void put_imatrix(FILE *f, const collector *c, int n_windows, const char *source) {
  put_int(f, c->n);
  for (size_t i = 0; i < c->n; i++) {
    const column_sums *t = &c->tensors[i];
    put_text(f, t->name);
    put_int(f, (uint64_t)n_windows);
    put_int(f, t->n_cols);
    for (size_t k = 0; k < t->n_cols; k++) {
      float v = (float)(t->sums[k] / (double)t->n * n_windows);
      uint32_t u;
      memcpy(&u, &v, sizeof u);
      put_int(f, u);
    }
  }
  put_int(f, (uint64_t)n_windows);
  put_text(f, source);
}

// Squares that no float32 holds: the model computes nonsense.
static qi_result check_sums(const collector *c, qi_error *err) {
  if (!c->n) return fail(err, QI_ERR_STATE, "no tensor was multiplied with anything");
  for (size_t i = 0; i < c->n; i++)
    for (size_t k = 0; k < c->tensors[i].n_cols; k++) {
      double v = c->tensors[i].sums[k];
      if (!(v < 1e30)) return fail(err, QI_ERR_FORMAT, "%.100s: the sum of squares of column %zu is %g", c->tensors[i].name, k, v);
    }
  return QI_OK;
}

// Through a file beside the wanted one, which it becomes at the end.
static qi_result write_imatrix(const collector *c, int n_windows, const settings *s, qi_error *err) {
  char temporary[4096];
  if (check_sums(c, err)) return err->code;
  if (snprintf(temporary, sizeof temporary, "%s.part", s->out) >= (int)sizeof temporary)
    return fail(err, QI_ERR_ARGUMENT, "-o: the name is too long");
  FILE *f = fopen(temporary, "wb");
  if (!f) return fail(err, QI_ERR_IO, "%.180s: %s", temporary, strerror(errno));
  put_imatrix(f, c, n_windows, s->text);
  bool written = !fflush(f) && !ferror(f);
  written &= fclose(f) == 0;
  if (written && rename(temporary, s->out) == 0) return QI_OK;
  fail(err, QI_ERR_IO, "%.180s: %s", s->out, strerror(errno));
  remove(temporary);
  return err->code;
}

int main(int argc, char **argv) {
  settings c = {.n_ctx = 512, .isa = "auto", .path = "auto"};
  int stop = read_settings(argc, argv, &c);
  if (stop) return stop - 1;
  qi_session_desc sd = {.n_batch = c.n_batch, .n_threads = c.n_threads};
  int isa = qi_isa_from_name(c.isa), n_windows = 0;
  if (isa < 0) fprintf(stderr, PROGRAM ": --isa %s: no such instruction set\n", c.isa);
  if (isa < 0 || !find_path(c.path, &sd.path)) return 2;
  sd.isa = (qi_isa)isa;
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);
  qi_model_desc md = {.path = c.model, .no_mmap = c.no_mmap};
  collector sums = {.process_output = c.process_output};
  qi_error err = {0};
  qi_model *m = NULL;
  qi_result r = qi_model_open(&m, &md, &err);
  if (!r) r = read_text(m, &c, &sd, &sums, &n_windows, &err);
  if (!r) r = write_imatrix(&sums, n_windows, &c, &err);
  if (!r) printf("%s: importance of %zu tensors from %d windows of %d tokens\n", c.out, sums.n, n_windows, sd.n_ctx);
  if (r) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  free_collector(&sums);
  qi_model_close(m);
  return r ? 1 : 0;
}
