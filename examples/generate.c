// Continues a text.      cc -O2 examples/generate.c -o build/generate -lm -lpthread
//
//   build/generate -m model.gguf -p "Once upon a time" -n 100 --temp 0
//
// Prompt and continuation go to standard output, everything else to standard error. Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#else
#include <unistd.h>
#endif

#define PROGRAM "generate"

// ---- options ----

typedef enum kind { FLAG, TEXT, INT, REAL, SEED, BYTES } kind;

typedef struct option {
  const char *name, *alias;
  kind kind;
  void *value; // bool, const char *, int, float, uint64_t
  double min, max;
  const char *help;
} option;

typedef struct settings {
  const char *model, *prompt, *prompt_file, *isa, *path;
  uint64_t cache_bytes;
  int n_predict, n_threads, n_ctx, n_batch, top_k, repeat_last_n;
  float temp, top_p, min_p, repeat_penalty;
  uint64_t seed;
  bool no_mmap, ignore_end, help;
} settings;

static bool parse_int(const char *s, const option *o) {
  char *end;
  errno = 0;
  long long v = strtoll(s, &end, 10);
  if (errno || end == s || *end || isspace((unsigned char)*s) || (double)v < o->min || (double)v > o->max) return false;
  *(int *)o->value = (int)v;
  return true;
}

static bool parse_real(const char *s, const option *o) {
  char *end;
  double v = strtod(s, &end);
  if (end == s || *end || isspace((unsigned char)*s) || !(v >= o->min && v <= o->max)) return false;
  *(float *)o->value = (float)v;
  return true;
}

// A whole number below 2^64; for BYTES also "all".
static bool parse_u64(const char *s, const option *o) {
  char *end;
  errno = 0;
  bool all = o->kind == BYTES && !strcmp(s, "all");
  unsigned long long v = all ? UINT64_MAX : strtoull(s, &end, 10);
  if (!all && (errno || *end || !isdigit((unsigned char)*s))) return false;
  *(uint64_t *)o->value = v;
  return true;
}

static bool set_option(const option *o, const char *s) {
  bool good = o->kind == INT ? parse_int(s, o) : o->kind == REAL ? parse_real(s, o) : o->kind >= SEED ? parse_u64(s, o) : true;
  if (o->kind == TEXT) *(const char **)o->value = s;
  if (!good && o->kind >= SEED)
    fprintf(stderr, PROGRAM ": %s %s: not a whole number below 2^64%s\n", o->alias, s, o->kind == BYTES ? " or \"all\"" : "");
  else if (!good)
    fprintf(stderr, PROGRAM ": %s %s: not a %snumber from %g to %g\n", o->alias, s, o->kind == INT ? "whole " : "", o->min, o->max);
  return good;
}

static bool parse_options(int argc, char **argv, const option *options, size_t n) {
  for (int a = 1; a < argc; a++) {
    size_t i = 0;
    while (i < n && strcmp(argv[a], options[i].name) != 0 && strcmp(argv[a], options[i].alias) != 0) i++;
    if (i == n) {
      fprintf(stderr, PROGRAM ": unknown option %s (--help lists all)\n", argv[a]);
      return false;
    }
    if (options[i].kind == FLAG) {
      *(bool *)options[i].value = true;
    } else if (a + 1 == argc) {
      fprintf(stderr, PROGRAM ": %s needs a value\n", argv[a]);
      return false;
    } else if (!set_option(&options[i], argv[++a])) {
      return false;
    }
  }
  return true;
}

static void print_help(const option *options, size_t n) {
  printf("Continues a text with a GGUF model.\n\n  " PROGRAM " -m FILE -p TEXT [options]\n\n");
  for (size_t i = 0; i < n; i++) printf("  %-3s %-18s %s\n", options[i].name, options[i].alias, options[i].help);
}

// Fills *c; 0 to go on, else what main returns, plus one.
static int read_settings(int argc, char **argv, settings *c) {
  const option options[] = {
    {"-m", "--model", TEXT, &c->model, 0, 0, "FILE  the model"},
    {"-p", "--prompt", TEXT, &c->prompt, 0, 0, "TEXT  what to continue"},
    {"-f", "--file", TEXT, &c->prompt_file, 0, 0, "FILE  take the prompt from a file (without its last newline)"},
    {"-n", "--n-predict", INT, &c->n_predict, -1, INT_MAX, "N     tokens to generate, -1 = until the model ends (default -1)"},
    {"-t", "--threads", INT, &c->n_threads, 0, 256, "N     threads, 0 = cores, at most 8 (default 0)"},
    {"-c", "--ctx-size", INT, &c->n_ctx, 0, INT_MAX, "N     context in tokens, 0 = the model's, at most 4096 (default 0)"},
    {"-b", "--batch-size", INT, &c->n_batch, 0, INT_MAX, "N     prompt tokens computed at once, 0 = 256 (default 0)"},
    {"", "--temp", REAL, &c->temp, 0, 100, "X     temperature, 0 = always the likeliest token (default 0.8)"},
    {"", "--top-k", INT, &c->top_k, 0, INT_MAX, "N     choose among the N likeliest, 0 = all (default 40)"},
    {"", "--top-p", REAL, &c->top_p, 0, 1, "X     choose among those with this probability in sum, 1 = all (default 0.95)"},
    {"", "--min-p", REAL, &c->min_p, 0, 1, "X     drop tokens less likely than X times the likeliest (default 0.05)"},
    {"", "--repeat-penalty", REAL, &c->repeat_penalty, 0, 100, "X     makes recent tokens less likely, 1 = off (default 1)"},
    {"", "--repeat-last-n", INT, &c->repeat_last_n, 0, 65536, "N     how many tokens are recent, 0 = 64 (default 0)"},
    {"-s", "--seed", SEED, &c->seed, 0, 0, "N     same seed, same words (default 0)"},
    {"", "--isa", TEXT, &c->isa, 0, 0, "NAME  highest instruction set: auto, scalar, avx2, ... (default auto)"},
    {"", "--path", TEXT, &c->path, 0, 0, "NAME  arithmetic: auto, integer, bf16, float (default auto)"},
    {"", "--cache", BYTES, &c->cache_bytes, 0, 0, "BYTES memory for weights made ready to be multiplied, or all (default 0)"},
    {"", "--no-mmap", FLAG, &c->no_mmap, 0, 0, "      read the model into memory instead of mapping it"},
    {"", "--ignore-eos", FLAG, &c->ignore_end, 0, 0, "      go on after end tokens"},
    {"-h", "--help", FLAG, &c->help, 0, 0, "      this text"},
  };
  size_t n = sizeof options / sizeof options[0];
  if (!parse_options(argc, argv, options, n)) return 3;
  if (c->help) {
    print_help(options, n);
    return 1;
  }
  if (c->model && !c->prompt != !c->prompt_file) return 0;
  const char *needed = c->model ? "give the prompt with -p or -f, one of them" : "-m FILE is needed";
  fprintf(stderr, PROGRAM ": %s (--help lists all)\n", needed);
  return 3;
}

static bool find_isa(const char *name, qi_isa *out) {
  int isa = qi_isa_from_name(name);
  if (isa < 0) fprintf(stderr, PROGRAM ": --isa %s: no such instruction set\n", name);
  else *out = (qi_isa)isa;
  return isa >= 0;
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

// ---- work ----

// The whole file in memory of malloc; NULL after a message.
static char *read_file(const char *path, size_t *len) {
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
  if (!good) {
    fprintf(stderr, PROGRAM ": %s: %s\n", path, errno ? strerror(errno) : "cannot be read");
    free(text);
    text = NULL;
  }
  if (f) fclose(f);
  return text;
}

static bool show_progress(void *user, float done) {
  (void)user;
  fprintf(stderr, "\rloading: %3.0f %%", 100.0 * (double)done);
  return true;
}

// The prompt, then text until the model ends or n tokens are there.
static qi_result generate(qi_session *s, const char *prompt, size_t len, int n_predict, qi_error *err) {
  qi_piece p;
  if (qi_prompt_begin(s, prompt, len, err) || qi_step(s, 0, err)) return err->code;
  fwrite(prompt, 1, len, stdout);
  fflush(stdout);
  qi_result r = n_predict ? QI_OK : QI_END;
  while (r == QI_OK) {
    r = qi_next(s, &p, err);
    if (r == QI_OK || r == QI_END) fwrite(p.text, 1, p.len, stdout);
    fflush(stdout);
  }
  putchar('\n');
  if (r == QI_ERR_CONTEXT)
    fprintf(stderr, PROGRAM ": stopped, the context of %d tokens is full (-c sets it)\n", qi_seq_length(s, 0));
  return r == QI_END || r == QI_ERR_CONTEXT ? QI_OK : r;
}

static void print_speed(const qi_session *s) {
  qi_session_stats st;
  qi_session_get_stats(s, &st);
  double prompt = st.prompt_seconds > 0 ? (double)st.n_prompt / st.prompt_seconds : 0;
  double generated = st.generate_seconds > 0 ? (double)st.n_generated / st.generate_seconds : 0;
  fprintf(stderr, "prompt: %llu tokens, %.1f tokens/s; ", (unsigned long long)st.n_prompt, prompt);
  fprintf(stderr, "generated: %llu tokens, %.1f tokens/s ", (unsigned long long)st.n_generated, generated);
  fprintf(stderr, "(%d threads, %s)\n", st.n_threads, qi_isa_name(st.isa));
}

static void print_cache(const qi_model *m) {
  qi_model_info info;
  qi_model_get_info(m, &info);
  const qi_cache_kind *kinds[] = {&info.cache.integer, &info.cache.bf16, &info.cache.f32};
  const char *names[] = {"integer", "bf16", "float"};
  fprintf(stderr, "cache: %.1f MB, filled in %.2f s", (double)info.cache.bytes * 1e-6, info.cache.seconds);
  for (int i = 0; i < 3; i++)
    if (kinds[i]->n_matrices)
      fprintf(stderr, "; %d matrices for %s, %.1f MB", kinds[i]->n_matrices, names[i], (double)kinds[i]->bytes * 1e-6);
  fprintf(stderr, "\n");
}

static int run(const settings *c, const qi_session_desc *sd, const char *prompt, size_t len) {
  bool terminal = isatty(2);
  qi_model_desc md = {.path = c->model, .no_mmap = c->no_mmap, .cache_bytes = c->cache_bytes, .cache_path = sd->path,
                      .cache_pool = sd->pool};
  if (terminal) md.progress.fn = show_progress;
  qi_error err = {0};
  qi_model *m = NULL;
  qi_session *s = NULL;
  if (terminal) show_progress(NULL, 0);
  qi_result r = qi_model_open(&m, &md, &err);
  if (terminal) fprintf(stderr, "\r                \r");
  if (!r) r = qi_session_open(&s, m, sd, &err);
  if (!r) r = generate(s, prompt, len, c->n_predict, &err);
  bool written = !fflush(stdout) && !ferror(stdout);
  if (r) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  else if (!written) fprintf(stderr, PROGRAM ": standard output cannot be written\n");
  else print_speed(s);
  if (m && c->cache_bytes) print_cache(m);
  qi_session_close(s);
  qi_model_close(m);
  return r || !written ? 1 : 0;
}

int main(int argc, char **argv) {
  settings c = {.n_predict = -1, .top_k = 40, .temp = 0.8f, .top_p = 0.95f, .min_p = 0.05f, .isa = "auto", .path = "auto"};
  int stop = read_settings(argc, argv, &c);
  if (stop) return stop - 1;
  qi_session_desc sd = {.n_ctx = c.n_ctx, .n_batch = c.n_batch, .ignore_end = c.ignore_end};
  sd.n_predict = c.n_predict > 0 ? c.n_predict : 0;
  sd.sampler = (qi_sampler_desc){.temperature = c.temp, .top_k = c.top_k, .top_p = c.top_p, .min_p = c.min_p, .seed = c.seed,
                                 .repetition_penalty = c.repeat_penalty, .penalty_last_n = c.repeat_last_n};
  if (!find_isa(c.isa, &sd.isa) || !find_path(c.path, &sd.path)) return 2;
  size_t len = c.prompt ? strlen(c.prompt) : 0;
  char *text = c.prompt ? NULL : read_file(c.prompt_file, &len);
  if (!c.prompt && !text) return 1;
  if (text && len && text[len - 1] == '\n') len--;
  qi_pool_desc pd = {.n_threads = c.n_threads, .isa = sd.isa}; // of the session, and of what fills the cache
  qi_error err = {0};
  int code = 1;
  if (qi_pool_open(&sd.pool, &pd, &err)) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  else code = run(&c, &sd, text ? text : c.prompt, len);
  qi_pool_close(sd.pool);
  free(text);
  return code;
}
