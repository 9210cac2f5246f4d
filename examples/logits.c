// Logits of a row of tokens, for comparing engines.      cc -O2 examples/logits.c -o build/logits -lm -lpthread
//
//   build/logits -m model.gguf --ids tokens.txt -o logits.f32 --path integer
//
// tokens.txt: ids separated by white space, taken as they are. The output holds float32 [n_tokens, n_vocab]; it appears under its
// name only when it is complete. Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRAM "logits"

enum { N_ROWS_AT_ONCE = 32 }; // bits do not depend on it

// ---- options ----

typedef struct settings {
  const char *model, *ids, *out, *isa, *path;
  int n_threads, n_batch;
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

static bool parse_number(const option *o, const char *s) {
  char *end;
  errno = 0;
  long long v = strtoll(s, &end, 10);
  if (errno || end == s || *end || isspace((unsigned char)*s) || v < 0 || v > o->max) {
    fprintf(stderr, PROGRAM ": %s %s: not a whole number from 0 to %lld\n", o->name, s, o->max);
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
    } else if (!parse_number(&options[i], argv[++a])) {
      return false;
    }
  }
  return true;
}

// Fills *c; 0 to go on, else what main returns, plus one.
static int read_settings(int argc, char **argv, settings *c) {
  const option options[] = {
    {"-m", "--model", &c->model, NULL, NULL, 0, "FILE  the model"},
    {"", "--ids", &c->ids, NULL, NULL, 0, "FILE  token ids, separated by white space"},
    {"-o", "--output", &c->out, NULL, NULL, 0, "FILE  where float32 [n_tokens, n_vocab] goes"},
    {"-t", "--threads", NULL, &c->n_threads, NULL, 256, "N     threads, 0 = cores, at most 8 (default 0)"},
    {"-b", "--batch-size", NULL, &c->n_batch, NULL, INT_MAX, "N     tokens computed at once, 0 = 256 (default 0)"},
    {"", "--isa", &c->isa, NULL, NULL, 0, "NAME  highest instruction set: auto, scalar, avx2, ... (default auto)"},
    {"", "--path", &c->path, NULL, NULL, 0, "NAME  arithmetic: auto, integer, bf16, float (default auto: as for prompts)"},
    {"", "--no-mmap", NULL, NULL, &c->no_mmap, 0, "      read the model into memory instead of mapping it"},
    {"-h", "--help", NULL, NULL, &c->help, 0, "      this text"},
  };
  size_t n = sizeof options / sizeof options[0];
  if (!parse_options(argc, argv, options, n)) return 3;
  if (c->help) {
    printf("Writes the logits of a row of tokens.\n\n  " PROGRAM " -m FILE --ids FILE -o FILE [options]\n\n");
    for (size_t i = 0; i < n; i++) printf("  %-3s %-18s %s\n", options[i].name, options[i].alias, options[i].help);
    return 1;
  }
  if (c->model && c->ids && c->out) return 0;
  fprintf(stderr, PROGRAM ": -m FILE, --ids FILE and -o FILE are needed (--help lists all)\n");
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

// ---- work ----

// Ids of a file in memory of malloc; NULL after a message.
static qi_token *read_ids(const char *path, int *n) {
  FILE *f = fopen(path, "r");
  qi_token *ids = NULL;
  size_t count = 0, cap = 0;
  char word[16];
  bool good = f != NULL;
  while (good && fscanf(f, "%15s", word) == 1) {
    char *end;
    long long v = strtoll(word, &end, 10);
    good = isdigit((unsigned char)*word) && !*end && end < word + 15 && v <= INT32_MAX && count < INT_MAX;
    if (!good) fprintf(stderr, PROGRAM ": %s: word %zu is \"%s\", expected a token id\n", path, count + 1, word);
    if (good && count == cap) {
      qi_token *larger = (qi_token *)realloc(ids, (cap = cap * 2 + 256) * sizeof *ids);
      good = larger != NULL;
      if (larger) ids = larger;
      else fprintf(stderr, PROGRAM ": no memory for %zu ids\n", cap);
    }
    if (good) ids[count++] = (qi_token)v;
  }
  if (!f || ferror(f)) fprintf(stderr, PROGRAM ": %s: %s\n", path, strerror(errno));
  else if (good && !count) fprintf(stderr, PROGRAM ": %s: no ids in it\n", path);
  if (!f || ferror(f) || !good || !count) {
    free(ids);
    ids = NULL;
  }
  if (f) fclose(f);
  *n = (int)count;
  return ids;
}

// All tokens go to sequence 0 as a prompt, some at a time; the rows go to `out` in their order.
static qi_result write_logits(qi_session *s, const qi_token *ids, int n, size_t n_vocab, FILE *out, qi_error *err) {
  for (int start = 0; start < n; start += N_ROWS_AT_ONCE) {
    qi_decode_token tokens[N_ROWS_AT_ONCE];
    int count = n - start < N_ROWS_AT_ONCE ? n - start : N_ROWS_AT_ONCE;
    for (int i = 0; i < count; i++) tokens[i] = (qi_decode_token){.token = ids[start + i], .want_logits = true};
    if (qi_decode(s, tokens, (size_t)count, err)) return err->code;
    for (int i = 0; i < count; i++) {
      if (fwrite(qi_logits(s, i), sizeof(float), n_vocab, out) == n_vocab) continue;
      snprintf(err->msg, sizeof err->msg, "output cannot be written: %s", strerror(errno));
      return err->code = QI_ERR_IO;
    }
  }
  return QI_OK;
}

// Writes through a file beside the wanted one, which it becomes at the end.
static qi_result write_output(qi_session *s, const qi_token *ids, int n, size_t n_vocab, const char *path, qi_error *err) {
  char temporary[4096];
  if (snprintf(temporary, sizeof temporary, "%s.part", path) >= (int)sizeof temporary) {
    snprintf(err->msg, sizeof err->msg, "-o: the name is too long");
    return err->code = QI_ERR_ARGUMENT;
  }
  FILE *out = fopen(temporary, "wb");
  if (!out) {
    snprintf(err->msg, sizeof err->msg, "%.180s: %.60s", temporary, strerror(errno));
    return err->code = QI_ERR_IO;
  }
  qi_result r = write_logits(s, ids, n, n_vocab, out, err);
  bool closed = fclose(out) == 0;
  if (!r && (!closed || rename(temporary, path) != 0)) {
    snprintf(err->msg, sizeof err->msg, "%.180s: %.60s", path, strerror(errno));
    r = err->code = QI_ERR_IO;
  }
  if (r) remove(temporary);
  return r;
}

int main(int argc, char **argv) {
  settings c = {.isa = "auto", .path = "auto"};
  int stop = read_settings(argc, argv, &c);
  if (stop) return stop - 1;
  qi_session_desc sd = {.kv_type = QI_KV_F32, .n_batch = c.n_batch, .n_logits = N_ROWS_AT_ONCE, .n_threads = c.n_threads};
  int isa = qi_isa_from_name(c.isa);
  if (isa < 0) fprintf(stderr, PROGRAM ": --isa %s: no such instruction set\n", c.isa);
  if (isa < 0 || !find_path(c.path, &sd.path)) return 2;
  sd.isa = (qi_isa)isa;
  qi_token *ids = read_ids(c.ids, &sd.n_ctx);
  if (!ids) return 1;
  qi_model_desc md = {.path = c.model, .no_mmap = c.no_mmap};
  qi_error err = {0};
  qi_model *m = NULL;
  qi_session *s = NULL;
  qi_model_info info;
  qi_result r = qi_model_open(&m, &md, &err);
  if (!r) r = qi_session_open(&s, m, &sd, &err);
  if (!r) {
    qi_model_get_info(m, &info);
    r = write_output(s, ids, sd.n_ctx, (size_t)info.n_vocab, c.out, &err);
  }
  if (r) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  qi_session_close(s);
  qi_model_close(m);
  free(ids);
  return r ? 1 : 0;
}
