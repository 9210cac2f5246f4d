// Measures qinfer.      make build/bench      or: cc -O2 bench/bench.c -o build/bench -lm -lpthread
//
//   build/bench -m model.gguf -p 512 -n 128 -t 2          prompts and generation, as llama-bench does
//   build/bench --synth tinyllama:Q4_K_M -p 256 -n 32     the same, with random weights in a known shape
//   build/bench --tables                                  the tables of the origin documents, theirs beside ours
//   build/bench --matmul 4096x4096x64:TQ2_0               one product: our paths, OpenBLAS, oneDNN
//   build/bench --formats -m f32.gguf                     what each format costs and keeps
//   build/bench --slices -m model.gguf -p 512 -n 64       how far time slices overshoot, how soon calls are cancelled
//
// Results go to standard output, progress and messages to standard error. Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <ctype.h>
#include <errno.h>

#include "formats.h"
#include "products.h"
#include "runs.h"
#include "slices.h"
#include "tables.h"

// ---- options ----

typedef enum kind { FLAG, TEXTS, NAMES, INTS, INT, PAIRS, TABLES } kind;

#define MAX_LIST 32

typedef struct text_list {
  const char *v[MAX_LIST];
  int n;
} text_list;

typedef struct int_list {
  int v[MAX_LIST];
  int n;
} int_list;

typedef struct option {
  const char *name, *alias;
  kind kind;
  void *value;  // bool, text_list, text_list, int_list, int, int_list (two for each pair), const char *
  int min, max; // of numbers
  const char *help;
} option;

typedef struct settings {
  text_list models, synths, products, isas, paths, caches;
  int_list n_prompt, n_gen, pairs, depth, n_batch, n_seqs, n_threads;
  const char *tables;
  text_list kv_types, forms;
  int n_ctx, reps, bandwidth_mb;
  text_list texts, shapes, types;
  bool formats, slices, no_mmap, no_warm_up, quick, list, help;
} settings;

static bool parse_number(const char *s, size_t len, int min, int max, int *out) {
  char text[16], *end;
  if (len == 0 || len >= sizeof text || !isdigit((unsigned char)*s)) return false;
  memcpy(text, s, len);
  text[len] = 0;
  long v = strtol(text, &end, 10);
  if (*end || v < min || v > max) return false;
  *out = (int)v;
  return true;
}

// "1,2,4"
static bool parse_ints(const option *o, const char *s, char separator, int count) {
  int_list *list = (int_list *)o->value;
  for (int n = 0;; n++) {
    const char *end = strchr(s, separator);
    size_t len = end ? (size_t)(end - s) : strlen(s);
    int v;
    if (list->n == MAX_LIST) return complain("%s: more than %d values", o->name, MAX_LIST);
    if (!parse_number(s, len, o->min, o->max, &v))
      return complain("%s %.*s: not a whole number from %d to %d", o->name, (int)(len < 40 ? len : 40), s, o->min, o->max);
    list->v[list->n++] = v;
    if (!end) return count == 0 || n + 1 == count ? true : complain("%s: expected %d numbers", o->name, count);
    s = end + 1;
  }
}

static bool add_text(const option *o, const char *s) {
  text_list *list = (text_list *)o->value;
  if (list->n == MAX_LIST) return complain("%s: more than %d values", o->name, MAX_LIST);
  list->v[list->n++] = s;
  return true;
}

// Splits at commas, in the argument itself.
static bool add_names(const option *o, char *s) {
  for (;;) {
    char *comma = strchr(s, ',');
    if (comma) *comma = 0;
    if (!add_text(o, s)) return false;
    if (!comma) return true;
    s = comma + 1;
  }
}

static bool set_option(const option *o, char *s) {
  switch (o->kind) {
  case TEXTS: return add_text(o, s);
  case NAMES: return add_names(o, s);
  case INTS: return parse_ints(o, s, ',', 0);
  case PAIRS: return parse_ints(o, s, ',', 2);
  case INT:
    if (parse_number(s, strlen(s), o->min, o->max, (int *)o->value)) return true;
    return complain("%s %.40s: not a whole number from %d to %d", o->name, s, o->min, o->max);
  default: return true;
  }
}

static bool parse_options(int argc, char **argv, const option *options, size_t n) {
  for (int a = 1; a < argc; a++) {
    size_t i = 0;
    while (i < n && strcmp(argv[a], options[i].name) != 0 && strcmp(argv[a], options[i].alias) != 0) i++;
    if (i == n) return complain("unknown option %.60s (--help lists all)", argv[a]);
    bool has_value = a + 1 < argc;
    if (options[i].kind == FLAG) {
      *(bool *)options[i].value = true;
    } else if (options[i].kind == TABLES) { // the name may be left out
      *(const char **)options[i].value = has_value && argv[a + 1][0] != '-' ? argv[++a] : "all";
    } else if (!has_value) {
      return complain("%s needs a value", argv[a]);
    } else if (!set_option(&options[i], argv[++a])) {
      return false;
    }
  }
  return true;
}

static void print_help(const option *options, size_t n) {
  printf("Measures qinfer.\n\n  " PROGRAM " -m FILE | --synth SHAPE:TYPE | --tables [NAME] | --matmul RxCxN[:TYPE]  [options]\n\n");
  for (size_t i = 0; i < n; i++) printf("  %-3s %-16s %s\n", options[i].name, options[i].alias, options[i].help);
  printf("\nLIST: values with commas between; all combinations are measured.\n"
         "%% bandwidth: bytes of weights and cached keys and values that must be read, over what the threads can read from\n"
         "memory. %% peak: two operations a weight and token, over what the unit of that arithmetic can do. Both limits are\n"
         "measured beside each repetition, on the same threads.\n");
}

static void print_lists(void) {
  printf("shapes:");
  for (size_t i = 0; i < N_SHAPES; i++) printf(" %s", shapes[i].name);
  printf("\ntypes: Q4_K_M Q5_K_M");
  for (int f = 1; f < QI_FORMAT_COUNT; f++) printf(" %s", qi_format_get((qi_format)f)->name);
  printf("\ntables:");
  for (size_t i = 0; i < N_TABLES; i++) printf(" %s", tables[i].name);
  printf("\ninstruction sets:");
  for (int i = 0; i < QI_ISA_COUNT; i++) printf(" %s", qi_isa_name((qi_isa)i));
  printf("\n");
}

static void default_int(int_list *list, int v) {
  if (list->n == 0) list->v[list->n++] = v;
}
static void default_text(text_list *list, const char *v) {
  if (list->n == 0) list->v[list->n++] = v;
}

static void set_defaults(settings *c) {
  if (c->pairs.n == 0) default_int(&c->n_prompt, 512);
  if (c->pairs.n == 0) default_int(&c->n_gen, 128);
  default_int(&c->depth, 0);
  default_int(&c->n_batch, 0);
  default_int(&c->n_seqs, 1);
  default_int(&c->n_threads, 0);
  default_text(&c->isas, "auto");
  default_text(&c->paths, "auto");
  default_text(&c->caches, "0");
  default_text(&c->kv_types, "f16");
  default_text(&c->forms, "md");
}

// Fills *c; 0 to go on, else what main returns, plus one.
static int read_settings(int argc, char **argv, settings *c) {
  const option options[] = {
      {"-m", "--model", TEXTS, &c->models, 0, 0, "FILE   a model; may be given several times"},
      {"", "--synth", TEXTS, &c->synths, 0, 0, "S:T    random weights of shape S in type T; may be given several times"},
      {"", "--tables", TABLES, &c->tables, 0, 0, "NAME   a table of the origin documents, or all"},
      {"", "--matmul", TEXTS, &c->products, 0, 0, "SPEC   ROWSxCOLSxN[:TYPE], weights [ROWS, COLS] by N rows of activations"},
      {"", "--formats", FLAG, &c->formats, 0, 0, "       error, distance and speed of each format, of the float32 model of -m"},
      {"", "--text", TEXTS, &c->texts, 0, 0, "FILE   text for --formats (default: sampled from the model)"},
      {"", "--shape", TEXTS, &c->shapes, 0, 0, "NAME   for --formats: also speeds, of random weights in this shape (--list)"},
      {"", "--types", NAMES, &c->types, 0, 0, "LIST   formats of --formats (default all that can be written)"},
      {"", "--slices", FLAG, &c->slices, 0, 0, "       overshoot of time slices, latency of cancelling; of -m or --synth"},
      {"", "--list", FLAG, &c->list, 0, 0, "       shapes, types, tables, instruction sets"},
      {"-p", "--n-prompt", INTS, &c->n_prompt, 0, 1 << 20, "LIST   prompt tokens, 0 = no such test (default 512)"},
      {"-n", "--n-gen", INTS, &c->n_gen, 0, 1 << 20, "LIST   tokens to generate, 0 = no such test (default 128)"},
      {"-pg", "--prompt-gen", PAIRS, &c->pairs, 0, 1 << 20, "P,N    prompt and generation together; may be given several times"},
      {"-d", "--n-depth", INTS, &c->depth, 0, 1 << 20, "LIST   positions of random keys and values before (default 0)"},
      {"-s", "--n-seqs", INTS, &c->n_seqs, 1, 1024, "LIST   sequences that generate together (default 1)"},
      {"-c", "--ctx-size", INT, &c->n_ctx, 0, 1 << 21, "N      context in tokens, 0 = what the test needs (default 0)"},
      {"-b", "--batch-size", INTS, &c->n_batch, 0, 1 << 16, "LIST   prompt tokens computed at once, 0 = 256 (default 0)"},
      {"-t", "--threads", INTS, &c->n_threads, 0, 256, "LIST   threads, 0 = cores, at most 8 (default 0)"},
      {"", "--isa", NAMES, &c->isas, 0, 0, "LIST   highest instruction set: auto, scalar, avx2, ... (default auto)"},
      {"", "--path", NAMES, &c->paths, 0, 0, "LIST   arithmetic: auto, integer, bf16, float (default auto)"},
      {"", "--cache", NAMES, &c->caches, 0, 0, "LIST   megabytes for weights made ready to be multiplied, or all (default 0)"},
      {"", "--kv-type", NAMES, &c->kv_types, 0, 0, "LIST   keys and values: f32, f16, bf16, q8, fp8, q4 (default f16)"},
      {"-r", "--repetitions", INT, &c->reps, 1, MAX_SAMPLES, "N      repetitions; median, least and most are shown (default 5)"},
      {"-o", "--output", NAMES, &c->forms, 0, 0, "NAME   md, json or csv (default md)"},
      {"", "--bw-mb", INT, &c->bandwidth_mb, 16, 1 << 16, "N      megabytes that read bandwidth is measured with (default 256)"},
      {"", "--no-mmap", FLAG, &c->no_mmap, 0, 0, "       read the model into memory instead of mapping it"},
      {"", "--no-warmup", FLAG, &c->no_warm_up, 0, 0, "       no run before the repetitions"},
      {"", "--quick", FLAG, &c->quick, 0, 0, "       tables in small sizes: shows that all work, measures nothing of use"},
      {"-h", "--help", FLAG, &c->help, 0, 0, "       this text"},
  };
  size_t n = sizeof options / sizeof options[0];
  if (!parse_options(argc, argv, options, n)) return 3;
  if (c->help) print_help(options, n);
  else if (c->list) print_lists();
  if (c->help || c->list) return 1;
  set_defaults(c);
  int modes = (c->models.n || c->synths.n) + (c->tables != NULL) + (c->products.n > 0);
  bool misfit = c->formats ? c->models.n != 1 || c->synths.n || c->texts.n > 1 || c->shapes.n > 1
                           : c->texts.n || c->shapes.n || c->types.n;
  if (misfit) {
    complain("--formats takes one -m, one --text, one --shape and --types, which belong to it (--help lists all)");
    return 3;
  }
  if (c->slices && (c->formats || c->pairs.n || !(c->models.n + c->synths.n))) {
    complain("--slices takes -m or --synth, -p, -n, -d, -t, -r (--help lists all)");
    return 3;
  }
  if (modes == 1) return 0;
  complain("give %s of -m or --synth, --tables, --matmul (--help lists all)", modes ? "only one" : "one");
  return 3;
}

// ---- names to values ----

static bool find_isa(const char *name, qi_isa *out) {
  int isa = qi_isa_from_name(name);
  if (isa < 0) return complain("--isa %.40s: no such instruction set", name);
  *out = (qi_isa)isa;
  return true;
}

static bool find_path(const char *name, qi_path *out) {
  for (int i = 0; i < 4; i++)
    if (strcmp(name, path_names[i]) == 0) {
      *out = (qi_path)i;
      return true;
    }
  return complain("--path %.40s: neither auto, integer, bf16 nor float", name);
}

static bool find_cache(const char *text, uint64_t *bytes) {
  int megabytes;
  *bytes = UINT64_MAX;
  if (strcmp(text, "all") == 0) return true;
  if (!parse_number(text, strlen(text), 0, 1 << 30, &megabytes))
    return complain("--cache %.40s: neither \"all\" nor a number of megabytes", text);
  *bytes = (uint64_t)megabytes * 1000000;
  return true;
}

static bool find_kv_type(const char *name, qi_kv_type *out) {
  for (int i = QI_KV_F32; i < QI_KV_COUNT; i++)
    if (strcmp(name, qi_kv_type_name((qi_kv_type)i)) == 0) {
      *out = (qi_kv_type)i;
      return true;
    }
  return complain("--kv-type %.40s: none of f32, f16, bf16, q8, fp8, q4", name);
}

static format_settings settings_of_formats(const settings *c) {
  format_settings f = {.model = c->models.v[0], .types = c->types.v, .n_types = c->types.n};
  f.text = c->texts.n ? c->texts.v[0] : NULL;
  f.shape = c->shapes.n ? c->shapes.v[0] : NULL;
  f.n_prompt = c->n_prompt.v[0];
  f.n_gen = c->n_gen.v[0];
  f.common = (common_settings){.n_threads = c->n_threads.v[0], .reps = c->reps, .bandwidth_mb = c->bandwidth_mb};
  return f;
}

// All that can be wrong with the words is found before anything is measured.
static bool check_settings(const settings *c, report_form *form) {
  qi_isa isa;
  qi_path path;
  qi_kv_type kv;
  uint64_t bytes;
  const shape *s;
  file_type type;
  for (int i = 0; i < c->isas.n; i++)
    if (!find_isa(c->isas.v[i], &isa)) return false;
  for (int i = 0; i < c->paths.n; i++)
    if (!find_path(c->paths.v[i], &path)) return false;
  for (int i = 0; i < c->caches.n; i++)
    if (!find_cache(c->caches.v[i], &bytes)) return false;
  for (int i = 0; i < c->synths.n; i++)
    if (!synth_spec_parse(c->synths.v[i], &s, &type)) return false;
  for (int i = 0; i < c->kv_types.n; i++)
    if (!find_kv_type(c->kv_types.v[i], &kv)) return false;
  const char *form_name = c->forms.v[0];
  *form = !strcmp(form_name, "json") ? REPORT_JSON : !strcmp(form_name, "csv") ? REPORT_CSV : REPORT_MD;
  if ((*form == REPORT_MD && strcmp(form_name, "md")) || c->forms.n > 1)
    return complain("-o %.40s: neither md, json nor csv", form_name);
  format_settings f = settings_of_formats(c);
  if (c->formats && !formats_check(&f)) return false;
  for (int i = 0; i < c->products.n; i++)
    if (!product_spec_check(c->products.v[i])) return false;
  return !c->tables || tables_known(c->tables);
}

// ---- models ----

static bool measure_test(report *out, const settings *c, const bench_model *m, rooflines *roof, const run_test *t) {
  char label[128], name[96];
  run_result result;
  run_test_name(t, name, sizeof name);
  snprintf(label, sizeof label, "%.40s, %.40s", m->name, name);
  if (!run_measure(&result, m, t, roof, c->reps, !c->no_warm_up, label)) return false;
  run_report(out, m, t, roof, &result);
  return true;
}

// Prompts of each length, then generation in each number of sequences, then pairs.
static bool measure_tests(report *out, const settings *c, const bench_model *m, rooflines *roof, run_test t) {
  bool good = true;
  for (int i = 0; i < c->n_prompt.n && good; i++) {
    t.n_prompt = c->n_prompt.v[i];
    t.n_gen = 0;
    t.n_seqs = 1;
    if (t.n_prompt) good = measure_test(out, c, m, roof, &t);
  }
  for (int i = 0; i < c->n_gen.n * c->n_seqs.n && good; i++) {
    t.n_prompt = 0;
    t.n_gen = c->n_gen.v[i / c->n_seqs.n];
    t.n_seqs = c->n_seqs.v[i % c->n_seqs.n];
    if (t.n_gen) good = measure_test(out, c, m, roof, &t);
  }
  for (int i = 0; i + 1 < c->pairs.n && good; i += 2) {
    t.n_prompt = c->pairs.v[i];
    t.n_gen = c->pairs.v[i + 1];
    t.n_seqs = 1;
    if (t.n_prompt || t.n_gen) good = measure_test(out, c, m, roof, &t);
  }
  return good;
}

// All combinations that share threads, instruction set, path and cache.
static bool measure_batches(report *out, const settings *c, const bench_model *m, rooflines *roof, qi_path path) {
  bool good = true;
  for (int k = 0; k < c->kv_types.n && good; k++)
    for (int i = 0; i < c->n_batch.n * c->depth.n && good; i++) {
      run_test t = {.depth = c->depth.v[i % c->depth.n], .n_batch = c->n_batch.v[i / c->depth.n], .n_ctx = c->n_ctx, .path = path};
      good = find_kv_type(c->kv_types.v[k], &t.kv_type) && measure_tests(out, c, m, roof, t);
    }
  return good;
}

// All combinations that share threads and instruction set.
static bool measure_with_pool(report *out, const settings *c, const bench_model *m, qi_pool *pool) {
  rooflines roof;
  if (!rooflines_open(&roof, pool, c->bandwidth_mb)) return false;
  bool good = true;
  for (int i = 0; i < c->paths.n * c->caches.n && good; i++) {
    qi_path path = QI_PATH_AUTO;
    uint64_t bytes = 0;
    bench_model cached = *m;
    good = find_path(c->paths.v[i / c->caches.n], &path) && find_cache(c->caches.v[i % c->caches.n], &bytes);
    if (good && bytes) good = model_open_cached(&cached, m, bytes, path, pool);
    if (good) good = measure_batches(out, c, &cached, &roof, path);
    if (cached.model != m->model) qi_model_close(cached.model);
  }
  rooflines_close(&roof);
  return good;
}

static bool measure_model(report *out, const settings *c, const bench_model *m) {
  bool good = true;
  for (int t = 0; t < c->n_threads.n && good; t++)
    for (int i = 0; i < c->isas.n && good; i++) {
      qi_pool_desc pd = {.n_threads = c->n_threads.v[t]};
      qi_error err = {QI_OK, ""};
      qi_pool *pool = NULL;
      good = find_isa(c->isas.v[i], &pd.isa);
      if (good && qi_pool_open(&pool, &pd, &err)) good = complain("%s", err.msg);
      if (good) good = measure_with_pool(out, c, m, pool);
      qi_pool_close(pool);
    }
  return good;
}

static bool measure_slices(report *out, const settings *c, const bench_model *m) {
  slice_settings s = {.n_threads = c->n_threads.v[0], .n_prompt = c->n_prompt.v[0], .n_gen = c->n_gen.v[0],
                      .depth = c->depth.v[0], .reps = c->reps};
  return find_kv_type(c->kv_types.v[0], &s.kv_type) && find_isa(c->isas.v[0], &s.isa) && find_path(c->paths.v[0], &s.path) &&
         slices_run(out, m, &s);
}

static bool model_open_file(bench_model *m, const char *path, bool no_mmap) {
  qi_model_desc md = {.path = path, .no_mmap = no_mmap};
  qi_error err = {QI_OK, ""};
  memset(m, 0, sizeof *m);
  m->desc = md;
  progress("opening %.60s", path);
  qi_result r = qi_model_open(&m->model, &md, &err);
  progress("%s", "");
  if (r) return complain("%s", err.msg);
  qi_model_get_info(m->model, &m->info);
  const char *slash = strrchr(path, '/');
  snprintf(m->name, sizeof m->name, "%.90s", slash ? slash + 1 : path);
  return true;
}

static bool measure_models(report *out, const settings *c) {
  bool good = true;
  for (int i = 0; i < c->models.n + c->synths.n && good; i++) {
    bench_model m;
    const shape *s;
    file_type type;
    if (i < c->models.n) good = model_open_file(&m, c->models.v[i], c->no_mmap);
    else good = synth_spec_parse(c->synths.v[i - c->models.n], &s, &type) && model_open_synth(&m, s, &type);
    if (!good) break;
    good = c->slices ? measure_slices(out, c, &m) : measure_model(out, c, &m);
    model_close(&m);
  }
  return good;
}

// ---- products and tables ----

static bool measure_others(report *out, const settings *c) {
  common_settings common = {.n_threads = c->n_threads.v[0], .reps = c->reps, .bandwidth_mb = c->bandwidth_mb, .quick = c->quick};
  if (!find_isa(c->isas.v[0], &common.isa)) return false;
  if (c->tables) return tables_run(out, c->tables, &common);
  for (int i = 0; i < c->products.n; i++)
    if (!product_run(out, c->products.v[i], &common)) return false;
  return true;
}

static bool measure_formats(report *out, const settings *c) {
  format_settings f = settings_of_formats(c);
  return find_isa(c->isas.v[0], &f.common.isa) && formats_run(out, &f);
}

int main(int argc, char **argv) {
  settings c = {.reps = 5, .bandwidth_mb = 256};
  report out;
  report_form form = REPORT_MD;
  int stop = read_settings(argc, argv, &c);
  if (stop) return stop - 1;
  if (!check_settings(&c, &form)) return 2;
  report_begin(&out, form);
  bool models = c.models.n || c.synths.n;
  bool good = c.formats ? measure_formats(&out, &c) : models ? measure_models(&out, &c) : measure_others(&out, &c);
  return report_end(&out) && good ? 0 : 1;
}
