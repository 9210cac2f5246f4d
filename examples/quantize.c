// Writes a model in another weight format.      cc -O2 examples/quantize.c -o build/quantize -lm -lpthread
//
//   build/quantize [--imatrix FILE] [--threads N] IN OUT TYPE          build/quantize --help lists the types
//
// IN: any model that qinfer opens, and GGUF files of other architectures; of a split model the first part. The mixes (Q4_K_M and so
// on) give tensors the formats that llama.cpp's quantize gives them. OUT appears under its name only when it is complete.
// Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
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

#define PROGRAM "quantize"

enum {
  ALIGNMENT = 32,       // of tensors in the file
  SLAB = 1 << 22,       // weights that are in work at a time
  N_ELEMENTS = 4096,    // of a metadata array that are copied at a time
  FILE_TYPE_OTHER = 1024 // general.file_type of what llama.cpp has no number for
};

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

// ---- types ----

// What TYPE may be. `format` is that of most tensors; `file_type` is llama.cpp's number of the mix.
typedef struct mix {
  const char *name;
  qi_format format;
  int file_type;
  const char *help;
} mix;

enum { Q4_0 = 2, Q5_0 = 8, Q2_K = 10, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M, Q2_K_S = 21, IQ4_NL = 25, IQ4_XS = 30,
       TQ1_0 = 36, TQ2_0 = 37, I2_S = 40 };

static const mix mixes[] = {
  {"F32", QI_FORMAT_F32, 0, "32 bits a weight"},
  {"F16", QI_FORMAT_F16, 1, "16"},
  {"BF16", QI_FORMAT_BF16, 32, "16"},
  {"Q8_0", QI_FORMAT_Q8_0, 7, "8.5"},
  {"Q6_K", QI_FORMAT_Q6_K, 18, "6.56"},
  {"Q5_K_M", QI_FORMAT_Q5_K, Q5_K_M, "5.5; attn_v and ffn_down of half of the layers Q6_K"},
  {"Q5_K_S", QI_FORMAT_Q5_K, Q5_K_S, "5.5"},
  {"Q4_K_M", QI_FORMAT_Q4_K, Q4_K_M, "4.5; attn_v and ffn_down of half of the layers Q6_K"},
  {"Q4_K_S", QI_FORMAT_Q4_K, Q4_K_S, "4.5; attn_v and ffn_down of the first layers Q5_K"},
  {"Q3_K_L", QI_FORMAT_Q3_K, Q3_K_L, "3.44; attn_v, attn_output and ffn_down Q5_K"},
  {"Q3_K_M", QI_FORMAT_Q3_K, Q3_K_M, "3.44; attn_v, attn_output and ffn_down Q4_K or Q5_K"},
  {"Q3_K_S", QI_FORMAT_Q3_K, Q3_K_S, "3.44"},
  {"Q2_K", QI_FORMAT_Q2_K, Q2_K, "2.63; attn_v, attn_output and ffn_down Q3_K or Q4_K"},
  {"Q2_K_S", QI_FORMAT_Q2_K, Q2_K_S, "2.63; best with --imatrix"},
  {"Q5_K", QI_FORMAT_Q5_K, Q5_K_M, "the same as Q5_K_M"},
  {"Q4_K", QI_FORMAT_Q4_K, Q4_K_M, "the same as Q4_K_M"},
  {"Q3_K", QI_FORMAT_Q3_K, Q3_K_M, "the same as Q3_K_M"},
  {"Q5_1", QI_FORMAT_Q5_1, 9, "6"},
  {"Q5_0", QI_FORMAT_Q5_0, Q5_0, "5.5"},
  {"Q4_1", QI_FORMAT_Q4_1, 3, "5"},
  {"Q4_0", QI_FORMAT_Q4_0, Q4_0, "4.5"},
  {"IQ4_NL", QI_FORMAT_IQ4_NL, IQ4_NL, "4.5; ffn_down of the first layers Q5_K"},
  {"IQ4_XS", QI_FORMAT_IQ4_XS, IQ4_XS, "4.25; ffn_down of the first layers Q5_K"},
  {"TQ2_0", QI_FORMAT_TQ2_0, TQ2_0, "2.06, for models trained ternary"},
  {"TQ1_0", QI_FORMAT_TQ1_0, TQ1_0, "1.69, for models trained ternary"},
  {"I2_S", QI_FORMAT_I2_S, I2_S, "2, for models trained ternary, with one scale for a tensor; for bitnet.cpp"},
  {"QINS8", QI_FORMAT_QINS8, FILE_TYPE_OTHER, "9, logarithmic; qinfer alone reads it"},
  {"QINS8_K", QI_FORMAT_QINS8_K, FILE_TYPE_OTHER, "8.5, logarithmic in groups; qinfer alone reads it"},
  {"QINS4_K", QI_FORMAT_QINS4_K, FILE_TYPE_OTHER, "4.5, logarithmic in groups; qinfer alone reads it"},
};

static bool same_name(const char *a, const char *b) {
  while (*a && toupper((unsigned char)*a) == toupper((unsigned char)*b)) a++, b++;
  return !*a && !*b;
}

// A mix of the list, or any other format that can be written.
static bool find_mix(const char *name, mix *out) {
  for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++)
    if (same_name(mixes[i].name, name)) {
      *out = mixes[i];
      return true;
    }
  qi_format format = qi_format_from_name(name);
  const qi_format_info *info = format ? qi_format_get(format) : NULL;
  if (info && info->can_quantize) *out = (mix){info->name, format, FILE_TYPE_OTHER, ""};
  else fprintf(stderr, PROGRAM ": %s: %s (--help lists all)\n", name, info ? "this type can be read, not written" : "no such type");
  return info && info->can_quantize;
}

static bool is_ternary(qi_format f) { return f == QI_FORMAT_TQ1_0 || f == QI_FORMAT_TQ2_0 || f == QI_FORMAT_I2_S; }

static double bits(qi_format format) {
  const qi_format_info *info = qi_format_get(format);
  return 8.0 * info->block_bytes / info->block_len;
}

// ---- options ----

typedef struct settings {
  const char *in, *out, *type, *imatrix, *output_type, *embedding_type;
  int n_threads;
  bool pure, verbose, help;
} settings;

typedef struct option {
  const char *name, *alias;
  const char **text; // one of text, number and flag is set
  int *number;
  bool *flag;
  const char *help;
} option;

static bool parse_threads(const char *name, const char *s, int *out) {
  char *end;
  errno = 0;
  long v = strtol(s, &end, 10);
  bool good = !errno && end != s && !*end && !isspace((unsigned char)*s) && v >= 0 && v <= 256;
  if (good) *out = (int)v;
  else fprintf(stderr, PROGRAM ": %s %s: not a whole number from 0 to 256\n", name, s);
  return good;
}

static bool parse_options(int argc, char **argv, const option *options, size_t n, settings *c) {
  const char **places[] = {&c->in, &c->out, &c->type};
  size_t n_places = 0;
  for (int a = 1; a < argc; a++) {
    size_t i = 0;
    while (i < n && strcmp(argv[a], options[i].name) != 0 && strcmp(argv[a], options[i].alias) != 0) i++;
    if (i == n && argv[a][0] != '-' && n_places < 3) {
      *places[n_places++] = argv[a];
    } else if (i == n) {
      const char *what = argv[a][0] == '-' ? "unknown option" : "one argument too many:";
      fprintf(stderr, PROGRAM ": %s %s (--help lists all)\n", what, argv[a]);
      return false;
    } else if (options[i].flag) {
      *options[i].flag = true;
    } else if (a + 1 == argc) {
      fprintf(stderr, PROGRAM ": %s needs a value\n", argv[a]);
      return false;
    } else if (options[i].text) {
      *options[i].text = argv[++a];
    } else if (!parse_threads(options[i].alias, argv[a + 1], options[i].number)) {
      return false;
    } else {
      a++;
    }
  }
  return true;
}

// Fills *c; 0 to go on, else what main returns, plus one.
static int read_settings(int argc, char **argv, settings *c) {
  const option options[] = {
    {"", "--imatrix", &c->imatrix, NULL, NULL, "FILE  importance of columns: of build/imatrix, or llama.cpp's (.dat or GGUF)"},
    {"-t", "--threads", NULL, &c->n_threads, NULL, "N     threads, 0 = cores, at most 8 (default 0)"},
    {"", "--pure", NULL, NULL, &c->pure, "      no mix: all matrices in the same format"},
    {"", "--output-tensor-type", &c->output_type, NULL, NULL, "TYPE  format of output.weight"},
    {"", "--token-embedding-type", &c->embedding_type, NULL, NULL, "TYPE  format of token_embd.weight"},
    {"-v", "--verbose", NULL, NULL, &c->verbose, "      a line for each tensor"},
    {"-h", "--help", NULL, NULL, &c->help, "      this text"},
  };
  size_t n = sizeof options / sizeof options[0];
  if (!parse_options(argc, argv, options, n, c)) return 3;
  if (c->help) {
    printf("Writes a model in another weight format.\n\n  " PROGRAM " [options] IN OUT TYPE\n\n");
    for (size_t i = 0; i < n; i++) printf("  %-3s %-23s %s\n", options[i].name, options[i].alias, options[i].help);
    printf("\nTypes (bits a weight of most tensors; output and embeddings may take more):\n\n");
    for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++) printf("  %-8s %s\n", mixes[i].name, mixes[i].help);
    printf("\nand any other format that qinfer writes.\n");
    return 1;
  }
  if (c->type) return 0;
  fprintf(stderr, PROGRAM ": IN, OUT and TYPE are needed (--help lists all)\n");
  return 3;
}

// ---- importance ----

// Mean squares of the inputs of each matrix: [n_mats, n_cols]; n_mats > 1 for experts.
typedef struct importance {
  char *name; // of the tensor
  float *values;
  size_t n;
} importance;

typedef struct imatrix {
  importance *entries;
  size_t n;
  char dataset[256];
  uint32_t n_chunks;
} imatrix;

static void free_imatrix(imatrix *im) {
  for (size_t i = 0; i < im->n; i++) free(im->entries[i].name), free(im->entries[i].values);
  free(im->entries);
  memset(im, 0, sizeof *im);
}

static const importance *find_importance(const imatrix *im, const char *name) {
  for (size_t i = 0; i < im->n; i++)
    if (strcmp(im->entries[i].name, name) == 0) return &im->entries[i];
  return NULL;
}

static bool read_int(FILE *f, uint32_t *v) {
  unsigned char b[4];
  if (fread(b, 1, 4, f) != 4) return false;
  *v = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
  return true;
}

// Takes room for one more entry; NULL when memory ran out.
static importance *add_importance(imatrix *im, const char *name, size_t name_len, size_t n) {
  importance *larger = (importance *)realloc(im->entries, (im->n + 1) * sizeof *larger);
  if (!larger) return NULL;
  im->entries = larger;
  importance *e = &larger[im->n];
  *e = (importance){(char *)calloc(name_len + 1, 1), (float *)calloc(n, sizeof(float)), n};
  im->n++;
  if (!e->name || !e->values) return NULL;
  memcpy(e->name, name, name_len);
  return e;
}

// One entry of llama.cpp's older format: int32 length, name, int32 calls, int32 n, n float32 of mean squares times calls.
static const char *read_dat_entry(FILE *f, uint64_t file_size, imatrix *im) {
  char name[1024];
  uint32_t len, n_calls, n;
  if (!read_int(f, &len) || !len || len >= sizeof name || fread(name, 1, len, f) != len) return "the name of an entry is damaged";
  if (!read_int(f, &n_calls) || !read_int(f, &n) || !n || n > file_size / 4) return "the size of an entry is damaged";
  importance *e = add_importance(im, name, len, n);
  if (!e) return "no memory";
  for (uint32_t i = 0; i < n; i++) {
    uint32_t u;
    if (!read_int(f, &u)) return "the file ends early";
    memcpy(&e->values[i], &u, 4);
    if (n_calls > 0) e->values[i] /= (float)n_calls;
  }
  return NULL;
}

// Ends with int32 chunks, int32 length, text it was made from; older files do without.
static const char *read_dat(FILE *f, imatrix *im) {
  uint32_t n_entries, len;
  fseek(f, 0, SEEK_END);
  long size = ftell(f);
  rewind(f);
  if (size < 4 || !read_int(f, &n_entries) || !n_entries || n_entries > 1u << 20) return "no importance file";
  for (uint32_t i = 0; i < n_entries; i++) {
    const char *wrong = read_dat_entry(f, (uint64_t)size, im);
    if (wrong) return wrong;
  }
  if (!read_int(f, &im->n_chunks) || !read_int(f, &len)) return NULL;
  size_t n = fread(im->dataset, 1, len < sizeof im->dataset ? len : sizeof im->dataset - 1, f);
  im->dataset[n] = 0;
  return NULL;
}

// llama.cpp's newer format: a GGUF file with tensors NAME.in_sum2 [n_cols, n_mats] and NAME.counts [1, n_mats].
static qi_result read_gguf_imatrix(const char *path, imatrix *im, qi_error *err) {
  qi_model_desc md = {.path = path, .load = QI_LOAD_METADATA};
  qi_model *m = NULL;
  qi_result r = qi_model_open(&m, &md, err);
  for (size_t i = 0; !r && i < qi_tensor_count(m); i++) {
    qi_tensor sums, counts;
    char name[256];
    if ((r = qi_tensor_get(m, i, &sums, err))) break;
    size_t len = strlen(sums.name);
    if (len <= 8 || len >= sizeof name || strcmp(sums.name + len - 8, ".in_sum2") != 0) continue;
    len -= 8;
    snprintf(name, sizeof name, "%.*s.counts", (int)len, sums.name);
    if ((r = qi_tensor_find(m, name, &counts, err))) break;
    size_t n_cols = (size_t)sums.shape[0], n_mats = (size_t)sums.shape[1];
    if (sums.format != QI_FORMAT_F32 || counts.format != QI_FORMAT_F32 || !sums.data || !counts.data ||
        counts.shape[0] * counts.shape[1] != n_mats) {
      r = fail(err, QI_ERR_FORMAT, "tensors %.80s, %.80s: expected float32 sums and their counts", sums.name, name);
      break;
    }
    importance *e = add_importance(im, name, len, n_cols * n_mats);
    if (!e) r = fail(err, QI_ERR_OOM, "no memory for %.80s", sums.name);
    else memcpy(e->values, sums.data, e->n * sizeof(float));
    for (size_t k = 0; e && k < e->n; k++) {
      float count;
      memcpy(&count, (const char *)counts.data + k / n_cols * sizeof count, sizeof count);
      e->values[k] = count > 0 ? e->values[k] / count : 1; // an expert that no token went to
    }
  }
  for (size_t i = 0; !r && i < qi_meta_count(m); i++) {
    qi_meta v;
    if ((r = qi_meta_get(m, i, &v, err))) break;
    if (v.key_len == 19 && memcmp(v.key, "imatrix.chunk_count", 19) == 0) im->n_chunks = (uint32_t)v.value.u;
  }
  qi_model_close(m);
  return r;
}

static qi_result read_imatrix(const char *path, imatrix *im, qi_error *err) {
  FILE *f = fopen(path, "rb");
  char magic[4] = "";
  if (!f) return fail(err, QI_ERR_IO, "%.160s: %s", path, strerror(errno));
  bool gguf = fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
  const char *wrong = gguf ? NULL : read_dat(f, im);
  fclose(f);
  if (wrong) return fail(err, QI_ERR_FORMAT, "%.160s: %s", path, wrong);
  if (gguf && read_gguf_imatrix(path, im, err)) return err->code;
  for (size_t i = 0; i < im->n; i++)
    for (size_t k = 0; k < im->entries[i].n; k++)
      if (!(im->entries[i].values[k] >= 0 && im->entries[i].values[k] <= 3e38f))
        return fail(err, QI_ERR_FORMAT, "%.120s: %.80s: importance %zu is %g", path, im->entries[i].name, k,
                    (double)im->entries[i].values[k]);
  return im->n ? QI_OK : fail(err, QI_ERR_FORMAT, "%.160s: no importance file", path);
}

// ---- which format for which tensor ----

typedef struct plan {
  qi_tensor t;
  qi_format to;
  uint64_t n_bytes, offset; // in the new file; the offset counts from the first tensor
  int layer;                // -1 = of no layer
  size_t pairs_dim;         // 0, or the head's width where RoPE's pairs are brought together; see source_row
  const importance *importance;
  double sums[4];           // of error^2, weight^2, and both times importance
} plan;

// Tensors whose rows are no whole blocks of the format that they should get.
typedef struct misfit {
  qi_format wanted, taken;
  uint64_t n_cols;
  size_t n;
  const char *first; // of their names
} misfit;

enum { MAX_MISFITS = 32 }; // kinds that are told apart

typedef struct work {
  const settings *settings;
  mix mix;
  qi_format output_type, embedding_type; // NONE = as the mix says
  qi_model *m;
  plan *plans;
  size_t n_plans;
  misfit misfits[MAX_MISFITS];
  size_t n_misfits;
  imatrix imatrix;
  int n_threads;
  // What the rules of the mixes ask about.
  int n_layers, n_experts, n_attn_v;
  double n_gqa; // query heads for each key head
  bool has_output, falcon, is_70b;
  size_t halves_dim; // width of heads whose RoPE pairs lie half a head apart; 0 = they are neighbours, or the architecture's way
  // While writing.
  FILE *out;
  bool terminal;
  const plan *shown; // the tensor that the bar names
  int shown_percent;
  uint64_t n_total, n_done; // bytes of the new file
} work;

static uint64_t n_rows_of(const qi_tensor *t) { return t->shape[1] * t->shape[2] * t->shape[3]; }

// <architecture>.<key> as a number, the first one of an array; `fallback` when there is none.
static double meta_number(const work *w, const char *key, double fallback) {
  qi_model_info info;
  char full[256];
  qi_model_get_info(w->m, &info);
  int len = snprintf(full, sizeof full, "%s.%s", info.architecture, key);
  for (size_t i = 0; i < qi_meta_count(w->m); i++) {
    qi_meta v;
    if (qi_meta_get(w->m, i, &v, NULL) || v.key_len != (size_t)len || memcmp(v.key, full, v.key_len) != 0) continue;
    if (v.type == QI_META_ARRAY && qi_meta_element(w->m, i, 0, &v, NULL)) return fallback;
    if (v.type == QI_META_F32 || v.type == QI_META_F64) return v.value.f;
    return v.type == QI_META_STRING || v.type == QI_META_ARRAY ? fallback : (double)v.value.u;
  }
  return fallback;
}

// Says that queries and keys of a Hugging Face model in llama's layout have the first and second numbers of RoPE's pairs in halves.
static const char *const halves_key = "qinfer.rope_halves";

static bool has_halves(const qi_model *m) {
  for (size_t i = 0; i < qi_meta_count(m); i++) {
    qi_meta v;
    bool found = !qi_meta_get(m, i, &v, NULL) && v.key_len == strlen(halves_key) && !memcmp(v.key, halves_key, v.key_len);
    if (found) return v.value.u != 0;
  }
  return false;
}

static void look_at_model(work *w) {
  qi_model_info info;
  qi_model_get_info(w->m, &info);
  w->halves_dim = has_halves(w->m) ? (size_t)info.head_dim : 0;
  w->n_layers = (int)meta_number(w, "block_count", 1);
  w->n_experts = (int)meta_number(w, "expert_count", 0);
  double n_kv_heads = meta_number(w, "attention.head_count_kv", 0);
  w->n_gqa = n_kv_heads > 0 ? meta_number(w, "attention.head_count", 1) / n_kv_heads : 1;
  w->falcon = strcmp(info.architecture, "falcon") == 0;
  w->is_70b = w->n_layers == 80 && w->n_gqa > 1 && (!strcmp(info.architecture, "llama") || !strcmp(info.architecture, "qwen2"));
  for (size_t i = 0; i < w->n_plans; i++) {
    const char *name = w->plans[i].t.name;
    bool rotated = strstr(name, ".attn_q.") || strstr(name, ".attn_k.");
    w->plans[i].pairs_dim = rotated ? w->halves_dim : 0;
    w->has_output |= strcmp(name, "output.weight") == 0;
    w->n_attn_v += strstr(name, "attn_v.weight") || strstr(name, "attn_qkv.weight") || strstr(name, "attn_kv_b.weight");
  }
}

// Layers that are worth more bits: the first and last eighth, and every third between.
static bool use_more_bits(int i, int n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

static qi_format format_of_attn_v(const work *w, const plan *p) {
  qi_format f = w->mix.format;
  int type = w->mix.file_type, i = 0;
  for (size_t k = 0; k < w->n_plans; k++) i += w->plans[k].layer < p->layer && strstr(w->plans[k].t.name, "attn_v.weight");
  if (type == Q2_K) f = w->n_gqa >= 4 ? QI_FORMAT_Q4_K : QI_FORMAT_Q3_K;
  else if (type == Q2_K_S && w->n_gqa >= 4) f = QI_FORMAT_Q4_K;
  else if (type == Q3_K_M) f = i < 2 ? QI_FORMAT_Q5_K : QI_FORMAT_Q4_K;
  else if (type == Q3_K_L) f = QI_FORMAT_Q5_K;
  else if ((type == IQ4_NL || type == IQ4_XS) && w->n_gqa >= 4) f = QI_FORMAT_Q5_K;
  else if ((type == Q4_K_M || type == Q5_K_M) && use_more_bits(i, w->n_attn_v)) f = QI_FORMAT_Q6_K;
  else if (type == Q4_K_S && i < 4) f = QI_FORMAT_Q5_K;
  if (w->is_70b && (f == QI_FORMAT_Q3_K || f == QI_FORMAT_Q4_K)) f = QI_FORMAT_Q5_K; // small beside attn_q there
  return w->n_experts == 8 ? QI_FORMAT_Q8_0 : f;
}

static qi_format format_of_ffn_down(const work *w, const plan *p) {
  int i = p->layer, n = w->n_layers;
  bool has_imatrix = w->imatrix.n > 0;
  switch (w->mix.file_type) {
  case Q2_K: return QI_FORMAT_Q3_K;
  case Q2_K_S: return i < n / 8 ? QI_FORMAT_Q4_K : QI_FORMAT_Q2_K;
  case Q3_K_M: return i < n / 16 ? QI_FORMAT_Q5_K : !w->falcon || use_more_bits(i, n) ? QI_FORMAT_Q4_K : QI_FORMAT_Q3_K;
  case Q3_K_L: return w->falcon ? QI_FORMAT_Q4_K : QI_FORMAT_Q5_K;
  case Q4_K_S: return !w->falcon && i < n / 8 ? QI_FORMAT_Q5_K : QI_FORMAT_Q4_K;
  case Q4_K_M:
    if (!w->falcon) return use_more_bits(i, n) ? QI_FORMAT_Q6_K : QI_FORMAT_Q4_K;
    return i < n / 16 ? QI_FORMAT_Q6_K : use_more_bits(i, n) ? QI_FORMAT_Q5_K : QI_FORMAT_Q4_K;
  case Q5_K_M: return use_more_bits(i, n) ? QI_FORMAT_Q6_K : QI_FORMAT_Q5_K;
  case IQ4_NL:
  case IQ4_XS: return i < n / 8 && !has_imatrix ? QI_FORMAT_Q5_K : w->mix.format;
  case Q4_0: return i < n / 8 && has_imatrix ? QI_FORMAT_Q4_1 : QI_FORMAT_Q4_0;
  case Q5_0: return i < n / 8 && has_imatrix ? QI_FORMAT_Q5_1 : QI_FORMAT_Q5_0;
  default: return w->mix.format;
  }
}

static qi_format format_of_attn_output(const work *w) {
  int type = w->mix.file_type;
  if (w->falcon) return type == Q3_K_L ? QI_FORMAT_Q4_K : w->mix.format;
  bool more = type == Q2_K || type == IQ4_NL || type == IQ4_XS || (type >= Q3_K_S && type <= Q4_K_M && type != Q3_K_L);
  if (w->n_experts == 8) return more ? QI_FORMAT_Q5_K : w->mix.format;
  return type == Q2_K ? QI_FORMAT_Q3_K : type == Q3_K_M ? QI_FORMAT_Q4_K : type == Q3_K_L ? QI_FORMAT_Q5_K : w->mix.format;
}

static qi_format format_of_attn_qkv(const work *w) {
  int type = w->mix.file_type;
  if (type == Q3_K_M || type == Q3_K_L) return QI_FORMAT_Q4_K;
  return type == Q4_K_M ? QI_FORMAT_Q5_K : type == Q5_K_M ? QI_FORMAT_Q6_K : w->mix.format;
}

// The rules are those of llama.cpp's quantize, so that a name means the same there and here.
static qi_format mixed_format(const work *w, const plan *p) {
  const char *name = p->t.name;
  qi_format f = w->mix.format;
  bool embedding = strcmp(name, "token_embd.weight") == 0;
  if (strcmp(name, "output.weight") == 0 || (embedding && !w->has_output)) {
    if (bits(f) >= 8) return f;
    return w->falcon || p->t.shape[0] % (uint64_t)qi_format_get(f)->block_len ? QI_FORMAT_Q8_0 : QI_FORMAT_Q6_K;
  }
  if (embedding) return is_ternary(f) ? QI_FORMAT_Q4_K : f;
  if (strstr(name, "attn_v.weight")) return format_of_attn_v(w, p);
  if (strstr(name, "attn_k.weight")) return w->n_experts == 8 ? QI_FORMAT_Q8_0 : f;
  if (strstr(name, "ffn_down")) return format_of_ffn_down(w, p);
  if (strstr(name, "attn_output.weight")) return format_of_attn_output(w);
  if (strstr(name, "attn_qkv.weight")) return format_of_attn_qkv(w);
  return f;
}

// A format with shorter blocks for rows that are no whole blocks of f.
static qi_format shorter_blocks(qi_format f, uint64_t n_cols) {
  qi_format other = bits(f) > 8 ? QI_FORMAT_Q8_0 : QI_FORMAT_IQ4_NL;
  if (is_ternary(f)) other = QI_FORMAT_Q4_0;
  if (f == QI_FORMAT_Q4_K) other = QI_FORMAT_Q5_0;
  if (f == QI_FORMAT_Q5_K) other = QI_FORMAT_Q5_1;
  if (f == QI_FORMAT_Q6_K) other = QI_FORMAT_Q8_0;
  return n_cols % (uint64_t)qi_format_get(other)->block_len ? QI_FORMAT_F16 : other;
}

// Matrices that stay as they are: small ones that decide much.
static bool is_quantized(const qi_tensor *t) {
  static const char *const kept[] = {
    "_norm.weight",       "ffn_gate_inp.weight", "position_embd.weight",     "token_types.weight",
    "ssm_conv1d.weight",  "attn_rel_b.weight",   "time_mix_first.weight",    "time_mix_w1.weight",
    "time_mix_w2.weight", "time_mix_decay_w1.",  "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
  };
  size_t len = strlen(t->name);
  if (len < 6 || strcmp(t->name + len - 6, "weight") != 0) return false;
  for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
    if (strstr(t->name, kept[i])) return false;
  return true;
}

static void add_misfit(work *w, const plan *p, qi_format wanted) {
  misfit found = {wanted, p->to, p->t.shape[0], 0, p->t.name};
  size_t i = 0;
  while (i < w->n_misfits && (w->misfits[i].wanted != wanted || w->misfits[i].n_cols != found.n_cols)) i++;
  if (i == MAX_MISFITS) return;
  if (i == w->n_misfits) w->misfits[w->n_misfits++] = found;
  w->misfits[i].n++;
}

static void print_misfits(const work *w) {
  for (const misfit *f = w->misfits; f < w->misfits + w->n_misfits; f++) {
    const qi_format_info *wanted = qi_format_get(f->wanted);
    fprintf(stderr, PROGRAM ": rows of %llu are no whole blocks of %s (%d): %s instead for %zu tensors, %s the first\n",
            (unsigned long long)f->n_cols, wanted->name, wanted->block_len, qi_format_get(f->taken)->name, f->n, f->first);
  }
}

static qi_result choose_format(work *w, plan *p, qi_error *err) {
  const qi_tensor *t = &p->t;
  if (t->format == QI_FORMAT_NONE)
    return fail(err, QI_ERR_UNSUPPORTED, "tensor %.120s: type %d is unknown here", t->name, t->gguf_id);
  p->to = t->format;
  if (n_rows_of(t) <= 1) { // vectors are small: exact, and what other programs expect
    if (t->format == QI_FORMAT_F16 || t->format == QI_FORMAT_BF16) p->to = QI_FORMAT_F32;
    return QI_OK;
  }
  if (!is_quantized(t)) return QI_OK;
  bool mixed = !w->settings->pure && qi_format_get(w->mix.format)->block_len > 1;
  p->to = mixed ? mixed_format(w, p) : w->mix.format;
  if (w->output_type && strcmp(t->name, "output.weight") == 0) p->to = w->output_type;
  if (w->embedding_type && strcmp(t->name, "token_embd.weight") == 0) p->to = w->embedding_type;
  qi_format wanted = p->to;
  if (t->shape[0] % (uint64_t)qi_format_get(wanted)->block_len == 0) return QI_OK;
  p->to = shorter_blocks(wanted, t->shape[0]);
  add_misfit(w, p, wanted);
  return QI_OK;
}

static qi_result choose_importance(const work *w, plan *p, qi_error *err) {
  bool one = p->t.shape[2] == 1 || !qi_format_get(p->to)->tail_bytes; // a tensor that is quantised whole has one row of importance
  p->importance = p->to == p->t.format || !one ? NULL : find_importance(&w->imatrix, p->t.name);
  if (!p->importance || p->importance->n == p->t.shape[0] * p->t.shape[2]) return QI_OK;
  size_t n = p->importance->n;
  p->importance = NULL; // of other columns: those of a tied output, say
  if (strcmp(p->t.name, "token_embd.weight") == 0) return QI_OK;
  return fail(err, QI_ERR_FORMAT, "%.80s: %.80s has %zu values, expected %llu: made from another model?", w->settings->imatrix,
              p->t.name, n, (unsigned long long)(p->t.shape[0] * p->t.shape[2]));
}

// Formats, sizes and places of all tensors.
static qi_result make_plan(work *w, qi_error *err) {
  w->n_plans = qi_tensor_count(w->m);
  w->plans = (plan *)calloc(w->n_plans + 1, sizeof *w->plans);
  if (!w->plans) return fail(err, QI_ERR_OOM, "no memory for a list of %zu tensors", w->n_plans);
  for (size_t i = 0; i < w->n_plans; i++) {
    plan *p = &w->plans[i];
    if (qi_tensor_get(w->m, i, &p->t, err)) return err->code;
    if (sscanf(p->t.name, "blk.%d.", &p->layer) != 1) p->layer = -1;
  }
  look_at_model(w);
  uint64_t end = 0;
  size_t n_again = 0, n_without = 0;
  for (size_t i = 0; i < w->n_plans; i++) {
    plan *p = &w->plans[i];
    const qi_tensor *t = &p->t;
    if (choose_format(w, p, err) || choose_importance(w, p, err)) return err->code;
    p->n_bytes = qi_format_bytes(p->to, (size_t)(t->shape[0] * n_rows_of(t)));
    p->offset = end;
    end += (p->n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    w->n_total += p->n_bytes;
    bool changed = p->to != t->format && qi_format_get(p->to)->block_len > 1;
    n_again += changed && qi_format_get(t->format)->block_len > 1;
    n_without += changed && w->imatrix.n && !p->importance;
  }
  print_misfits(w);
  if (n_again) fprintf(stderr, PROGRAM ": %zu tensors are quantised already: errors add up, better start from F16\n", n_again);
  if (n_without) fprintf(stderr, PROGRAM ": %s has nothing for %zu tensors\n", w->settings->imatrix, n_without);
  return QI_OK;
}

// ---- writing GGUF ----

static void put_bytes(work *w, const void *p, size_t n) { fwrite(p, 1, n, w->out); } // ferror tells in the end

static void put(work *w, uint64_t v, int n_bytes) {
  unsigned char b[8];
  for (int i = 0; i < 8; i++) b[i] = (unsigned char)(v >> 8 * i);
  put_bytes(w, b, (size_t)n_bytes);
}
static void put_text(work *w, const char *s, size_t len) {
  put(w, len, 8);
  put_bytes(w, s, len);
}
static void put_key(work *w, const char *key, qi_meta_type type) {
  put_text(w, key, strlen(key));
  put(w, (uint64_t)type, 4);
}
static void put_padding(work *w, uint64_t n) {
  static const char zeros[ALIGNMENT];
  put_bytes(w, zeros, (size_t)((ALIGNMENT - n % ALIGNMENT) % ALIGNMENT));
}

static void put_value(work *w, const qi_meta *v) {
  static const int n_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}; // in the order of qi_meta_type
  float f = (float)v->value.f;
  uint32_t u = 0;
  if (v->type == QI_META_STRING) {
    put_text(w, v->value.text, (size_t)v->count);
  } else if (v->type == QI_META_F32) {
    memcpy(&u, &f, sizeof u);
    put(w, u, 4);
  } else {
    put(w, v->value.u, n_bytes[v->type]); // of F64 and signed ones: their bits
  }
}

static qi_result put_array(work *w, size_t i, const qi_meta *v, qi_error *err) {
  int key_len = v->key_len < 100 ? (int)v->key_len : 100;
  if (v->element_type == QI_META_ARRAY)
    return fail(err, QI_ERR_UNSUPPORTED, "key %.*s: arrays of arrays are not copied", key_len, v->key);
  put(w, (uint64_t)v->element_type, 4);
  put(w, v->count, 8);
  qi_meta *elements = (qi_meta *)malloc(N_ELEMENTS * sizeof *elements);
  qi_result r = elements ? QI_OK : fail(err, QI_ERR_OOM, "no memory for metadata");
  for (uint64_t k = 0; !r && k < v->count; k += N_ELEMENTS) {
    size_t n = v->count - k < N_ELEMENTS ? (size_t)(v->count - k) : N_ELEMENTS;
    r = qi_meta_elements(w->m, i, k, n, elements, err);
    for (size_t j = 0; !r && j < n; j++) put_value(w, &elements[j]);
  }
  free(elements);
  return r;
}

// What is written anew, or true of the old file only.
static bool is_replaced(const qi_meta *v) {
  const char *const keys[] = {"general.alignment", "general.file_type", "general.quantization_version", halves_key};
  static const char *const groups[] = {"split.", "quantize.imatrix."};
  for (size_t i = 0; i < 4; i++)
    if (v->key_len == strlen(keys[i]) && memcmp(v->key, keys[i], v->key_len) == 0) return true;
  for (size_t i = 0; i < 2; i++)
    if (v->key_len > strlen(groups[i]) && memcmp(v->key, groups[i], strlen(groups[i])) == 0) return true;
  return false;
}

static qi_result put_metadata(work *w, qi_error *err) {
  for (size_t i = 0; i < qi_meta_count(w->m); i++) {
    qi_meta v;
    if (qi_meta_get(w->m, i, &v, err)) return err->code;
    if (is_replaced(&v)) continue;
    put_text(w, v.key, v.key_len);
    put(w, (uint64_t)v.type, 4);
    if (v.type != QI_META_ARRAY) put_value(w, &v);
    else if (put_array(w, i, &v, err)) return err->code;
  }
  put_key(w, "general.quantization_version", QI_META_U32);
  put(w, 2, 4);
  put_key(w, "general.file_type", QI_META_U32);
  put(w, (uint64_t)w->mix.file_type, 4);
  if (!w->imatrix.n) return QI_OK;
  put_key(w, "quantize.imatrix.file", QI_META_STRING);
  put_text(w, w->settings->imatrix, strlen(w->settings->imatrix));
  put_key(w, "quantize.imatrix.dataset", QI_META_STRING);
  put_text(w, w->imatrix.dataset, strlen(w->imatrix.dataset));
  put_key(w, "quantize.imatrix.entries_count", QI_META_I32);
  put(w, w->imatrix.n, 4);
  put_key(w, "quantize.imatrix.chunks_count", QI_META_I32);
  put(w, w->imatrix.n_chunks, 4);
  return QI_OK;
}

static qi_result put_header(work *w, qi_error *err) {
  uint64_t n_metas = w->imatrix.n ? 6 : 2;
  for (size_t i = 0; i < qi_meta_count(w->m); i++) {
    qi_meta v;
    if (qi_meta_get(w->m, i, &v, err)) return err->code;
    n_metas += !is_replaced(&v);
  }
  put_bytes(w, "GGUF", 4);
  put(w, 3, 4);
  put(w, w->n_plans, 8);
  put(w, n_metas, 8);
  if (put_metadata(w, err)) return err->code;
  for (size_t i = 0; i < w->n_plans; i++) {
    const plan *p = &w->plans[i];
    put_text(w, p->t.name, strlen(p->t.name));
    put(w, (uint64_t)p->t.n_dims, 4);
    for (int d = 0; d < p->t.n_dims; d++) put(w, p->t.shape[d], 8);
    put(w, (uint64_t)qi_format_get(p->to)->gguf_id, 4);
    put(w, p->offset, 8);
  }
  long at = ftell(w->out); // the header alone is far below 2^31
  put_padding(w, (uint64_t)at);
  return QI_OK;
}

// ---- quantising ----

// Some rows of a tensor, cut into pieces that threads take.
typedef struct slab {
  work *w;
  const plan *p;
  uint64_t first_row;
  size_t n_rows, piece; // rows
  uint8_t *out;
  double *sums;         // [n_rows, 4]: see plan.sums
  pthread_mutex_t lock; // of what follows
  size_t next;          // row that nobody has taken yet
  qi_error err;
} slab;

// A bar on the terminal; `n_rows` of the tensor are done. Called by one thread.
static void show_progress(work *w, const plan *p, uint64_t n_rows) {
  double here = (double)p->n_bytes * (double)n_rows / (double)n_rows_of(&p->t);
  double done = ((double)w->n_done + here) / (double)(w->n_total ? w->n_total : 1);
  if (!w->terminal || (w->shown == p && w->shown_percent == (int)(100 * done))) return;
  w->shown = p;
  w->shown_percent = (int)(100 * done);
  char bar[33];
  for (int i = 0; i < 32; i++) bar[i] = i < (int)(done * 32 + 0.5) ? '#' : '.';
  bar[32] = 0;
  fprintf(stderr, "\r[%s] %3d %%  %-8s %-40.40s", bar, w->shown_percent, qi_format_get(p->to)->name, p->t.name);
}

static size_t row_bytes(qi_format f, size_t n_cols) {
  return n_cols / (size_t)qi_format_get(f)->block_len * (size_t)qi_format_get(f)->block_bytes;
}

// Row `row` of a tensor of n_rows to float32. A row with the tensor's tail behind it is a tensor of one row; `room` is for that.
static qi_result read_row(qi_format f, const void *data, size_t row, size_t n_rows, size_t n_cols, uint8_t *room, float *x,
                          qi_error *err) {
  size_t n_bytes = row_bytes(f, n_cols), n_tail = (size_t)qi_format_get(f)->tail_bytes;
  const uint8_t *src = (const uint8_t *)data + row * n_bytes;
  if (!n_tail) return qi_dequantize(f, src, x, n_cols, err);
  memcpy(room, src, n_bytes);
  memcpy(room + n_bytes, (const uint8_t *)data + n_rows * n_bytes, n_tail);
  return qi_dequantize(f, room, x, n_cols, err);
}

// Where row (or element of a vector) `i` of the new file is in the old one. GGUF has RoPE's pairs of llama side by side: those of a
// head in halves, i and i + d / 2, become 2 i and 2 i + 1.
static size_t source_row(const plan *p, size_t i) {
  size_t d = p->pairs_dim, in_head = d ? i % d : 0;
  return d ? i - in_head + in_head / 2 + in_head % 2 * (d / 2) : i;
}

// Row `row` of the new file as float32; y: scratch of a row.
static qi_result read_source(const plan *p, size_t row, uint8_t *room, float *x, float *y, qi_error *err) {
  size_t n_cols = (size_t)p->t.shape[0], n_rows = (size_t)n_rows_of(&p->t);
  bool vector = p->t.n_dims == 1;
  qi_result r = read_row(p->t.format, p->t.data, vector ? row : source_row(p, row), n_rows, n_cols, room, x, err);
  if (r || !vector || !p->pairs_dim) return r;
  memcpy(y, x, n_cols * sizeof *x);
  for (size_t i = 0; i < n_cols; i++) x[i] = y[source_row(p, i)];
  return QI_OK;
}

// Scratch for one row: x, y: float32 [n_cols]; room: bytes of a row in any format, and a tail.
typedef struct row_scratch {
  float *x, *y;
  uint8_t *room;
} row_scratch;

static bool open_scratch(row_scratch *r, size_t n_cols) {
  r->x = (float *)malloc(3 * n_cols * sizeof(float) + 256);
  r->y = r->x ? r->x + n_cols : NULL;
  r->room = r->x ? (uint8_t *)(r->y + n_cols) : NULL;
  return r->x != NULL;
}

static void add_errors(const float *x, const float *y, size_t n, const float *per_column, double sums[4]) {
  for (size_t i = 0; i < n; i++) {
    double e = (double)y[i] - (double)x[i], v = x[i], weight = per_column ? per_column[i] : 0;
    sums[0] += e * e;
    sums[1] += v * v;
    sums[2] += weight * e * e;
    sums[3] += weight * v * v;
  }
}

// Row `row` of the slab through float32 to its new format, and back to see what it lost.
static qi_result quantize_row(slab *s, size_t row, const row_scratch *r, qi_error *err) {
  const plan *p = s->p;
  size_t n_cols = (size_t)p->t.shape[0], at = (size_t)s->first_row + row;
  const float *per_column = p->importance ? p->importance->values + at / p->t.shape[1] * n_cols : NULL;
  uint8_t *out = s->out + row * row_bytes(p->to, n_cols);
  if (read_source(p, at, r->room, r->x, r->y, err) ||
      qi_quantize(p->to, r->x, out, n_cols, n_cols, per_column, err) || qi_dequantize(p->to, out, r->y, n_cols, err))
    return err->code;
  add_errors(r->x, r->y, n_cols, per_column, s->sums + 4 * row);
  return QI_OK;
}

// Takes pieces until there are none. A thread of its own, or (main_thread) the program's.
static void quantize_pieces(slab *s, bool main_thread) {
  row_scratch scratch;
  qi_error err = {QI_OK, ""};
  if (!open_scratch(&scratch, (size_t)s->p->t.shape[0])) fail(&err, QI_ERR_OOM, "no memory for a row");
  while (!err.code && !interrupted) {
    pthread_mutex_lock(&s->lock);
    size_t row = s->err.code ? s->n_rows : s->next, end = s->n_rows - row < s->piece ? s->n_rows : row + s->piece;
    s->next = end;
    pthread_mutex_unlock(&s->lock);
    if (row == s->n_rows) break;
    for (; row < end && !err.code; row++) quantize_row(s, row, &scratch, &err);
    if (main_thread) show_progress(s->w, s->p, s->first_row + end);
  }
  free(scratch.x);
  pthread_mutex_lock(&s->lock);
  if (err.code && !s->err.code) s->err = err;
  pthread_mutex_unlock(&s->lock);
}

static void *thread_main(void *arg) {
  quantize_pieces((slab *)arg, false);
  return NULL;
}

// All pieces of the slab by all threads; the result does not depend on their number.
static qi_result quantize_slab(slab *s, qi_error *err) {
  pthread_t threads[256];
  int n_started = 0;
  memset(s->sums, 0, s->n_rows * 4 * sizeof *s->sums);
  s->next = 0;
  while (n_started < s->w->n_threads - 1 && pthread_create(&threads[n_started], NULL, thread_main, s) == 0) n_started++;
  quantize_pieces(s, true);
  for (int i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
  if (interrupted) return fail(err, QI_ERR_CANCELLED, "interrupted");
  return s->err.code ? fail(err, s->err.code, "tensor %.100s: %.140s", s->p->t.name, s->err.msg) : QI_OK;
}

static qi_result write_slabs(work *w, plan *p, qi_error *err) {
  uint64_t n_cols = p->t.shape[0], n_rows = n_rows_of(&p->t);
  uint64_t most = SLAB / n_cols ? SLAB / n_cols : 1, n_bytes = row_bytes(p->to, (size_t)n_cols);
  most = most < n_rows ? most : n_rows;
  slab s = {.w = w, .p = p, .piece = (size_t)(8192 / n_cols + 1)};
  s.out = (uint8_t *)malloc((size_t)(most * n_bytes));
  s.sums = (double *)malloc((size_t)most * 4 * sizeof *s.sums);
  qi_result r = s.out && s.sums ? QI_OK : fail(err, QI_ERR_OOM, "tensor %.120s: no memory for its rows", p->t.name);
  pthread_mutex_init(&s.lock, NULL);
  for (; !r && s.first_row < n_rows && !ferror(w->out); s.first_row += most) {
    s.n_rows = (size_t)(n_rows - s.first_row < most ? n_rows - s.first_row : most);
    r = quantize_slab(&s, err);
    for (size_t i = 0; !r && i < 4 * s.n_rows; i++) p->sums[i % 4] += s.sums[i];
    if (!r) put_bytes(w, s.out, (size_t)(s.n_rows * n_bytes));
  }
  pthread_mutex_destroy(&s.lock);
  free(s.out);
  free(s.sums);
  return r;
}

// Formats with a tail look at the whole tensor before they write its first row.
static qi_result write_whole(work *w, plan *p, qi_error *err) {
  size_t n_cols = (size_t)p->t.shape[0], n_rows = (size_t)n_rows_of(&p->t);
  const float *per_column = p->importance ? p->importance->values : NULL;
  float *x = (float *)malloc(n_rows * n_cols * sizeof *x);
  uint8_t *out = (uint8_t *)malloc((size_t)p->n_bytes);
  row_scratch scratch = {NULL, NULL, NULL};
  bool enough = x && out && open_scratch(&scratch, n_cols);
  qi_result r = enough ? QI_OK : fail(err, QI_ERR_OOM, "tensor %.120s: no memory for all of it", p->t.name);
  for (size_t i = 0; !r && i < n_rows; i++)
    r = read_source(p, i, scratch.room, x + i * n_cols, scratch.y, err);
  if (!r) show_progress(w, p, 0);
  if (!r) r = qi_quantize(p->to, x, out, n_rows * n_cols, n_cols, per_column, err);
  for (size_t i = 0; !r && i < n_rows; i++) {
    r = read_row(p->to, out, i, n_rows, n_cols, scratch.room, scratch.y, err);
    if (!r) add_errors(x + i * n_cols, scratch.y, n_cols, per_column, p->sums);
  }
  if (!r) put_bytes(w, out, (size_t)p->n_bytes);
  free(x);
  free(out);
  free(scratch.x);
  return r;
}

static double relative(const double *sums) { return sums[1] > 0 ? sqrt(sums[0] / sums[1]) : 0; }

// A tensor in the format that it has.
static void write_copy(work *w, const plan *p) {
  const uint8_t *src = (const uint8_t *)p->t.data;
  if (!p->pairs_dim) {
    put_bytes(w, src, (size_t)p->n_bytes);
    return;
  }
  // Of a vector, which is F32, F16 or BF16, the elements.
  const qi_format_info *f = qi_format_get(p->to);
  size_t n = p->t.n_dims == 1 ? (size_t)p->t.shape[0] : (size_t)n_rows_of(&p->t), n_tail = (size_t)f->tail_bytes;
  size_t size = p->t.n_dims == 1 ? (size_t)f->block_bytes : row_bytes(p->to, (size_t)p->t.shape[0]);
  for (size_t i = 0; i < n; i++) put_bytes(w, src + source_row(p, i) * size, size);
  put_bytes(w, src + n * size, n_tail);
}

static qi_result write_tensors(work *w, qi_error *err) {
  for (size_t i = 0; i < w->n_plans; i++) {
    plan *p = &w->plans[i];
    if (!p->t.data && p->n_bytes) return fail(err, QI_ERR_IO, "tensor %.120s: its bytes are not in memory", p->t.name);
    errno = 0;
    if (p->to == p->t.format) write_copy(w, p);
    else if (qi_format_get(p->to)->tail_bytes ? write_whole(w, p, err) : write_slabs(w, p, err)) return err->code;
    put_padding(w, p->n_bytes);
    if (interrupted) return fail(err, QI_ERR_CANCELLED, "interrupted");
    if (ferror(w->out)) return fail(err, QI_ERR_IO, "%.180s: %s", w->settings->out, strerror(errno));
    w->n_done += p->n_bytes;
    if (w->settings->verbose)
      printf("%-40s %-6s -> %-6s relative error %.6f\n", p->t.name, qi_format_get(p->t.format)->name, qi_format_get(p->to)->name,
             relative(p->sums));
  }
  return QI_OK;
}

// Writes through a file beside the wanted one, which it becomes at the end.
static qi_result write_output(work *w, qi_error *err) {
  char temporary[4096];
  const char *path = w->settings->out;
  if (snprintf(temporary, sizeof temporary, "%s.part", path) >= (int)sizeof temporary)
    return fail(err, QI_ERR_ARGUMENT, "%.100s...: the name is too long", path);
  w->out = fopen(temporary, "wb");
  if (!w->out) return fail(err, QI_ERR_IO, "%.180s: %s", temporary, strerror(errno));
  qi_result r = put_header(w, err);
  if (!r) r = write_tensors(w, err);
  if (w->terminal) fprintf(stderr, "\r%100s\r", "");
  bool written = !fflush(w->out) && !ferror(w->out);
  written &= fclose(w->out) == 0;
  if (!r && (!written || rename(temporary, path) != 0)) r = fail(err, QI_ERR_IO, "%.180s: %s", path, strerror(errno));
  if (r) remove(temporary);
  return r;
}

// ---- summary ----

static void print_size(const char *name, uint64_t n_bytes, uint64_t n_params) {
  printf("%s: %.2f MiB in tensors, %.3f bits a weight\n", name, (double)n_bytes / 1048576,
         n_params ? 8.0 * (double)n_bytes / (double)n_params : 0);
}

// Root of the mean square error, alone and beside that of the weights; `at` 2: both weighted by importance.
static void print_errors(const work *w, int at) {
  double sums[2] = {0, 0};
  uint64_t n = 0;
  const plan *worst = NULL;
  for (size_t i = 0; i < w->n_plans; i++) {
    const plan *p = &w->plans[i];
    if (p->to == p->t.format || (at && !p->importance)) continue;
    n += p->t.shape[0] * n_rows_of(&p->t);
    sums[0] += p->sums[at];
    sums[1] += p->sums[at + 1];
    if (!worst || relative(p->sums + at) > relative(worst->sums + at)) worst = p;
  }
  if (!worst) return;
  printf(at ? "error weighted by importance: " : "error: RMS %.4g, ", sqrt(sums[0] / (double)n));
  printf("%.4f %% of the weights' RMS (%llu weights); worst %s (%s): %.4f %%\n", 100 * relative(sums), (unsigned long long)n,
         worst->t.name, qi_format_get(worst->to)->name, 100 * relative(worst->sums + at));
}

static void print_summary(const work *w) {
  qi_model_info info;
  qi_model_get_info(w->m, &info);
  for (int f = QI_FORMAT_NONE + 1; f < QI_FORMAT_COUNT; f++) {
    uint64_t n = 0, n_bytes = 0;
    for (size_t i = 0; i < w->n_plans; i++) {
      bool same = w->plans[i].to == (qi_format)f;
      n += same;
      n_bytes += same ? w->plans[i].n_bytes : 0;
    }
    const char *name = qi_format_get((qi_format)f)->name;
    if (n) printf("  %-8s %5llu tensors %10.2f MiB\n", name, (unsigned long long)n, (double)n_bytes / 1048576);
  }
  print_size(w->settings->in, info.n_tensor_bytes, info.n_params);
  print_size(w->settings->out, w->n_total, info.n_params);
  print_errors(w, 0);
  print_errors(w, 2);
}

// Tensors in place where the file can be mapped, which serves any architecture; else all of them in memory.
static qi_result open_model(const char *path, qi_model **m, qi_error *err) {
  qi_model_desc md = {.path = path, .load = QI_LOAD_METADATA, .logger = {qi_log_stderr, NULL}};
  bool in_place = true, has_tokenizer = false;
  if (qi_model_open(m, &md, err)) return err->code;
  for (size_t i = 0; i < qi_tensor_count(*m) && in_place; i++) {
    qi_tensor t;
    if (qi_tensor_get(*m, i, &t, err)) return err->code;
    in_place = t.data || t.format == QI_FORMAT_NONE;
  }
  for (size_t i = 0; i < qi_meta_count(*m) && !has_tokenizer; i++) {
    qi_meta v;
    has_tokenizer = !qi_meta_get(*m, i, &v, NULL) && v.key_len > 10 && !memcmp(v.key, "tokenizer.", 10);
  }
  if (in_place && has_tokenizer) return QI_OK;
  qi_model *whole;
  md.load = QI_LOAD_ALL; // folders have their tokenizer only then
  qi_result r = qi_model_open(&whole, &md, err);
  if (r && in_place) return QI_OK;
  qi_model_close(*m);
  *m = r ? NULL : whole;
  return r;
}

// The format of an option; false after a message.
static bool find_format(const char *where, const char *name, qi_format *out) {
  if (!name) return true;
  *out = qi_format_from_name(name);
  bool good = *out && qi_format_get(*out)->can_quantize;
  if (!good) fprintf(stderr, PROGRAM ": %s %s: no type that can be written\n", where, name);
  return good;
}

int main(int argc, char **argv) {
  settings c = {.n_threads = 0};
  int stop = read_settings(argc, argv, &c);
  if (stop) return stop - 1;
  work w = {.settings = &c, .n_threads = c.n_threads, .terminal = isatty(2)};
  if (!find_mix(c.type, &w.mix) || !find_format("--output-tensor-type", c.output_type, &w.output_type) ||
      !find_format("--token-embedding-type", c.embedding_type, &w.embedding_type))
    return 2;
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);
  qi_error err = {0};
  qi_pool *pool = NULL; // only to ask how many threads this machine has
  if (!c.n_threads && !qi_pool_open(&pool, &(qi_pool_desc){.n_threads = 0}, &err)) w.n_threads = qi_pool_n_threads(pool);
  qi_pool_close(pool);
  qi_result r = open_model(c.in, &w.m, &err);
  if (!r && c.imatrix) r = read_imatrix(c.imatrix, &w.imatrix, &err);
  if (!r) r = make_plan(&w, &err);
  if (!r) r = write_output(&w, &err);
  if (!r) print_summary(&w);
  if (r) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  free_imatrix(&w.imatrix);
  free(w.plans);
  qi_model_close(w.m);
  return r ? 1 : 0;
}
