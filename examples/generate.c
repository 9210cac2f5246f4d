// Continues a text.      cc -O2 examples/generate.c -o build/generate -lm -lpthread
//   on a Mac, with Metal:  clang -O2 -DUSE_METAL examples/generate.c qinfer_metal.m -framework Metal -framework Foundation -o ...
//
//   build/generate -m model.gguf -p "Once upon a time" -n 100 --temp 0
//
// Prompt and continuation go to standard output, everything else to standard error. Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#else
#include <unistd.h>
#endif

#define PROGRAM "generate"
#include "options.h"

// ---- settings ----

typedef struct settings {
  const char *model, *prompt, *prompt_file, *isa, *path, *backend;
  uint64_t cache_bytes;
  int n_predict, n_threads, n_ctx, n_batch;
  bool no_mmap, ignore_end, help;
  sampling sampling;
  guessing guessing;
} settings;

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
    {"", "--isa", TEXT, &c->isa, 0, 0, "NAME  highest instruction set: auto, scalar, avx2, ... (default auto)"},
    {"", "--path", TEXT, &c->path, 0, 0, "NAME  arithmetic: auto, integer, bf16, float (default auto)"},
    {"", "--backend", TEXT, &c->backend, 0, 0, "NAME  what computes: cpu, metal (default cpu)"},
    {"", "--cache", BYTES, &c->cache_bytes, 0, 0, "BYTES memory for weights made ready to be multiplied, or all (default 0)"},
    {"", "--no-mmap", FLAG, &c->no_mmap, 0, 0, "      read the model into memory instead of mapping it"},
    {"", "--ignore-eos", FLAG, &c->ignore_end, 0, 0, "      go on after end tokens"},
    {"-h", "--help", FLAG, &c->help, 0, 0, "      this text"},
  };
  option more[N_SAMPLING], guesses[N_GUESSING];
  const option_table tables[] = {{options, sizeof options / sizeof options[0]}, sampling_table(&c->sampling, more),
                                 guessing_table(&c->guessing, guesses)};
  if (!parse_options(argc, argv, tables, 3)) return 3;
  if (c->help) {
    print_help("Continues a text with a GGUF model.\n\n  " PROGRAM " -m FILE -p TEXT [options]", tables, 3);
    return 1;
  }
  if (c->model && !c->prompt != !c->prompt_file) {
    int failed = read_sampling(&c->sampling);
    return failed ? failed + 1 : 0;
  }
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

// What computes; NULL = the CPU.
static bool find_backend(const char *name, const qi_backend **out) {
  *out = NULL;
  if (!strcmp(name, "cpu")) return true;
#ifdef USE_METAL
  if (!strcmp(name, "metal")) *out = qi_metal();
#endif
  if (!*out) fprintf(stderr, PROGRAM ": --backend %s: not in this program (metal needs a build with USE_METAL)\n", name);
  return *out != NULL;
}

// ---- work ----

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

static void print_speed(const qi_session *s, const qi_model *m) {
  qi_session_stats st;
  qi_model_info info;
  qi_session_get_stats(s, &st);
  qi_model_get_info(m, &info);
  double prompt = st.prompt_seconds > 0 ? (double)st.n_prompt / st.prompt_seconds : 0;
  uint64_t n = st.n_generated - st.n_drafted + st.n_accepted; // those that count
  double generated = st.generate_seconds > 0 ? (double)n / st.generate_seconds : 0;
  fprintf(stderr, "prompt: %llu tokens, %.1f tokens/s; ", (unsigned long long)st.n_prompt, prompt);
  fprintf(stderr, "generated: %llu tokens, %.1f tokens/s ", (unsigned long long)n, generated);
  if (info.backend[0]) fprintf(stderr, "(%s, %s)\n", info.backend, info.device);
  else fprintf(stderr, "(%d threads, %s)\n", st.n_threads, qi_isa_name(st.isa));
  print_guessing(&st);
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

static int run(settings *c, qi_session_desc *sd, const char *prompt, size_t len) {
  bool terminal = isatty(2);
  qi_model_desc md = {.path = c->model, .no_mmap = c->no_mmap, .cache_bytes = c->cache_bytes, .cache_path = sd->path,
                      .cache_pool = sd->pool};
  if (terminal) md.progress.fn = show_progress;
  if (!find_backend(c->backend, &md.backend)) return 2;
  qi_error err = {0};
  qi_model *m = NULL;
  qi_session *s = NULL;
  if (terminal) show_progress(NULL, 0);
  qi_result r = qi_model_open(&m, &md, &err);
  if (terminal) fprintf(stderr, "\r                \r");
  if (!r) r = open_sampling(&c->sampling, m, &err);
  sd->sampler = c->sampling.desc;
  if (!r) r = open_guessing(&c->guessing, sd, &err);
  if (!r) r = qi_session_open(&s, m, sd, &err);
  if (!r) r = qi_session_constrain(s, c->sampling.mt, c->sampling.jump, &err);
  if (!r) r = generate(s, prompt, len, c->n_predict, &err);
  bool written = !fflush(stdout) && !ferror(stdout);
  if (r) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  else if (!written) fprintf(stderr, PROGRAM ": standard output cannot be written\n");
  else print_speed(s, m);
  if (m && c->cache_bytes) print_cache(m);
  qi_session_close(s);
  close_sampling(&c->sampling);
  close_guessing(&c->guessing);
  qi_model_close(m);
  return r || !written ? 1 : 0;
}

int main(int argc, char **argv) {
  settings c = {.n_predict = -1, .isa = "auto", .path = "auto", .backend = "cpu", .sampling = sampling_defaults};
  int stop = read_settings(argc, argv, &c);
  if (stop) return stop - 1;
  qi_session_desc sd = {.n_ctx = c.n_ctx, .n_batch = c.n_batch, .ignore_end = c.ignore_end};
  sd.n_predict = c.n_predict > 0 ? c.n_predict : 0;
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
