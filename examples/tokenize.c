// Text to token ids.      cc -O2 examples/tokenize.c -o build/tokenize -lm -lpthread
//
//   build/tokenize -m model.gguf -p "Hello world"
//   build/tokenize -m model.gguf -f text.txt --special
//
// Prints the ids on one line. Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRAM "tokenize"

// ---- options ----

typedef struct settings {
  const char *model, *text, *file;
  bool special, parse_special, help;
} settings;

typedef struct option {
  const char *name, *alias;
  const char **text; // one of text and flag is set
  bool *flag;
  const char *help;
} option;

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
    } else {
      *options[i].text = argv[++a];
    }
  }
  return true;
}

// Fills *c; 0 to go on, else what main returns, plus one.
static int read_settings(int argc, char **argv, settings *c) {
  const option options[] = {
    {"-m", "--model", &c->model, NULL, "FILE  the model, or a GGUF file with a vocabulary alone"},
    {"-p", "--prompt", &c->text, NULL, "TEXT  what to tokenize"},
    {"-f", "--file", &c->file, NULL, "FILE  take the text from a file, all of its bytes"},
    {"", "--special", NULL, &c->special, "      add begin and end tokens where the model says so"},
    {"", "--parse-special", NULL, &c->parse_special, "      names of control tokens in the text become those tokens"},
    {"-h", "--help", NULL, &c->help, "      this text"},
  };
  size_t n = sizeof options / sizeof options[0];
  if (!parse_options(argc, argv, options, n)) return 3;
  if (c->help) {
    printf("Shows the token ids of a text.\n\n  " PROGRAM " -m FILE -f TEXTFILE [options]\n\n");
    for (size_t i = 0; i < n; i++) printf("  %-3s %-18s %s\n", options[i].name, options[i].alias, options[i].help);
    return 1;
  }
  if (c->model && !c->text != !c->file) return 0;
  const char *needed = c->model ? "give the text with -p or -f, one of them" : "-m FILE is needed";
  fprintf(stderr, PROGRAM ": %s (--help lists all)\n", needed);
  return 3;
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

static qi_result print_ids(const qi_model *m, const char *text, size_t len, int flags, qi_error *err) {
  size_t n, n_written;
  qi_result r = qi_tokenize(m, text, len, flags, NULL, 0, &n, err);
  if (r) return r;
  qi_token *ids = (qi_token *)malloc((n ? n : 1) * sizeof *ids);
  if (!ids) {
    snprintf(err->msg, sizeof err->msg, "no memory for %zu ids", n);
    return err->code = QI_ERR_OOM;
  }
  r = qi_tokenize(m, text, len, flags, ids, n, &n_written, err);
  for (size_t i = 0; !r && i < n; i++) printf("%s%d", i ? " " : "", (int)ids[i]);
  if (!r) putchar('\n');
  free(ids);
  return r;
}

int main(int argc, char **argv) {
  settings c = {0};
  int stop = read_settings(argc, argv, &c);
  if (stop) return stop - 1;
  size_t len = c.text ? strlen(c.text) : 0;
  char *text = c.text ? NULL : read_file(c.file, &len);
  if (!c.text && !text) return 1;
  qi_model_desc md = {.path = c.model, .load = QI_LOAD_VOCAB};
  qi_error err = {0};
  qi_model *m = NULL;
  int flags = (c.special ? QI_TOKENIZE_ADD_SPECIAL : 0) | (c.parse_special ? QI_TOKENIZE_PARSE_SPECIAL : 0);
  qi_result r = qi_model_open(&m, &md, &err);
  if (!r) r = print_ids(m, text ? text : c.text, len, flags, &err);
  bool written = !fflush(stdout) && !ferror(stdout);
  if (r) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  else if (!written) fprintf(stderr, PROGRAM ": standard output cannot be written\n");
  qi_model_close(m);
  free(text);
  return r || !written ? 1 : 0;
}
