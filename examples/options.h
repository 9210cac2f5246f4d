// Command lines of generate.c, batch.c and chat.c: options of all kinds, and those about sampling, grammars and guessing ahead.
// Include it behind qinfer.h, with PROGRAM defined as the program's name.
#ifndef EXAMPLES_OPTIONS_H
#define EXAMPLES_OPTIONS_H

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- options ----

typedef enum kind { FLAG, TEXT, INT, REAL, SEED, BYTES, LIST } kind;

typedef struct option {
  const char *name, *alias;
  kind kind;
  void *value; // bool, const char *, int, float, uint64_t, text_list
  double min, max;
  const char *help;
} option;

typedef struct option_table {
  const option *options;
  size_t n;
} option_table;

// Of an option that may be given more than once.
typedef struct text_list {
  const char *at[64];
  int n;
} text_list;

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

static bool add_text(const option *o, const char *s) {
  text_list *list = (text_list *)o->value;
  if (list->n == (int)(sizeof list->at / sizeof *list->at)) {
    fprintf(stderr, PROGRAM ": %s is given more than %d times\n", o->alias, list->n);
    return false;
  }
  list->at[list->n++] = s;
  return true;
}

static bool set_option(const option *o, const char *s) {
  bool whole = o->kind == SEED || o->kind == BYTES;
  if (o->kind == LIST) return add_text(o, s);
  if (o->kind == TEXT) *(const char **)o->value = s;
  bool good = o->kind == INT ? parse_int(s, o) : o->kind == REAL ? parse_real(s, o) : whole ? parse_u64(s, o) : true;
  if (!good && whole)
    fprintf(stderr, PROGRAM ": %s %s: not a whole number below 2^64%s\n", o->alias, s, o->kind == BYTES ? " or \"all\"" : "");
  else if (!good)
    fprintf(stderr, PROGRAM ": %s %s: not a %snumber from %g to %g\n", o->alias, s, o->kind == INT ? "whole " : "", o->min, o->max);
  return good;
}

static const option *find_option(const option_table *tables, size_t n_tables, const char *name) {
  for (size_t t = 0; t < n_tables && *name; t++)
    for (size_t i = 0; i < tables[t].n; i++) {
      const option *o = &tables[t].options[i];
      if (strcmp(name, o->name) == 0 || strcmp(name, o->alias) == 0) return o;
    }
  return NULL;
}

static bool parse_options(int argc, char **argv, const option_table *tables, size_t n_tables) {
  for (int a = 1; a < argc; a++) {
    const option *o = find_option(tables, n_tables, argv[a]);
    if (!o) {
      fprintf(stderr, PROGRAM ": unknown option %s (--help lists all)\n", argv[a]);
      return false;
    }
    if (o->kind == FLAG) {
      *(bool *)o->value = true;
    } else if (a + 1 == argc) {
      fprintf(stderr, PROGRAM ": %s needs a value\n", argv[a]);
      return false;
    } else if (!set_option(o, argv[++a])) {
      return false;
    }
  }
  return true;
}

static void print_help(const char *intro, const option_table *tables, size_t n_tables) {
  printf("%s\n", intro);
  for (size_t t = 0; t < n_tables; t++) {
    printf("\n");
    for (size_t i = 0; i < tables[t].n; i++)
      printf("  %-3s %-22s %s\n", tables[t].options[i].name, tables[t].options[i].alias, tables[t].options[i].help);
  }
}

// The whole file in memory of malloc, terminated; NULL after a message.
static char *read_file(const char *path, size_t *len) {
  FILE *f = fopen(path, "rb");
  char *text = NULL;
  size_t cap = 0;
  *len = 0;
  while (f && !ferror(f) && !feof(f)) {
    if (*len + 1 >= cap) {
      char *larger = (char *)realloc(text, cap = cap * 2 + 4096);
      if (!larger) break;
      text = larger;
    }
    *len += fread(text + *len, 1, cap - 1 - *len, f);
  }
  bool good = f && feof(f) && !ferror(f);
  if (good) {
    text[*len] = 0;
  } else {
    fprintf(stderr, PROGRAM ": %s: %s\n", path, errno ? strerror(errno) : "cannot be read");
    free(text);
    text = NULL;
  }
  if (f) fclose(f);
  return text;
}

// ---- sampling and grammars ----

typedef struct sampling {
  qi_sampler_desc desc;
  const char *order, *grammar, *schema;
  text_list breakers, choices;
  bool jump;
  qi_sampler_step steps[QI_STEP_COUNT];
  qi_token *breaker_ids; // malloc
  char *grammar_text;    // malloc; of --grammar or --json-schema
  size_t grammar_len;
  qi_grammar *g;
  qi_matcher *mt;
} sampling;

#define N_SAMPLING 27

static const sampling sampling_defaults = {
  .desc = {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f},
};

// Their options; the table lives as long as *s.
static option_table sampling_table(sampling *s, option table[N_SAMPLING]) {
  qi_sampler_desc *d = &s->desc;
  const option options[N_SAMPLING] = {
    {"-s", "--seed", SEED, &d->seed, 0, 0, "N     same seed, same words (default 0)"},
    {"", "--temp", REAL, &d->temperature, 0, 100, "X     temperature, 0 = always the likeliest token (default 0.8)"},
    {"", "--top-k", INT, &d->top_k, 0, INT_MAX, "N     choose among the N likeliest, 0 = all (default 40)"},
    {"", "--top-p", REAL, &d->top_p, 0, 1, "X     choose among those with this probability in sum, 1 = all (default 0.95)"},
    {"", "--min-p", REAL, &d->min_p, 0, 1, "X     drop tokens less likely than X times the likeliest (default 0.05)"},
    {"", "--repeat-penalty", REAL, &d->repetition_penalty, 0, 100, "X     makes recent tokens less likely, 1 = off (default 1)"},
    {"", "--frequency-penalty", REAL, &d->frequency_penalty, -100, 100, "X     the more the more often they occurred (default 0)"},
    {"", "--presence-penalty", REAL, &d->presence_penalty, -100, 100, "X     if they occurred at all (default 0)"},
    {"", "--repeat-last-n", INT, &d->penalty_last_n, 0, 65536, "N     how many tokens are recent, 0 = 64 (default 0)"},
    {"", "--typical", REAL, &d->typical_p, 0, 1, "X     keep the most typical ones, 0 or 1 = off (default 0)"},
    {"", "--top-nsigma", REAL, &d->top_n_sigma, 0, 100, "X     keep those within X standard deviations, 0 = off (default 0)"},
    {"", "--xtc-probability", REAL, &d->xtc_probability, 0, 1, "X     how often the likeliest are left out (default 0)"},
    {"", "--xtc-threshold", REAL, &d->xtc_threshold, 0, 1, "X     ... those with this probability, 0 = 0.1 (default 0)"},
    {"", "--dynatemp-range", REAL, &d->temperature_range, 0, 100, "X     temperature by how undecided the model is (default 0)"},
    {"", "--dynatemp-exp", REAL, &d->temperature_exponent, 0, 100, "X     exponent of that, 0 = 1 (default 0)"},
    {"", "--dry-multiplier", REAL, &d->dry_multiplier, 0, 100, "X     strength of DRY against repeated phrases (default 0)"},
    {"", "--dry-base", REAL, &d->dry_base, 0, 100, "X     how it grows with their length, 0 = 1.75 (default 0)"},
    {"", "--dry-allowed-length", INT, &d->dry_allowed_length, 0, 65536, "N     shorter ones are fine, 0 = 2 (default 0)"},
    {"", "--dry-penalty-last-n", INT, &d->dry_last_n, 0, 65536, "N     how far it looks back, 0 = 1024 (default 0)"},
    {"", "--dry-sequence-breaker", LIST, &s->breakers, 0, 0, "TEXT  phrases end at it; may be repeated (default newline : \" *)"},
    {"", "--mirostat-ent", REAL, &d->mirostat_tau, 0, 100, "X     Mirostat 2: surprise aimed at, in bits, 0 = off (default 0)"},
    {"", "--mirostat-lr", REAL, &d->mirostat_eta, 0, 100, "X     how fast it learns, 0 = 0.1 (default 0)"},
    {"", "--samplers", TEXT, &s->order, 0, 0,
     "LIST  steps in order: penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature;mirostat"},
    {"", "--grammar", TEXT, &s->grammar, 0, 0, "FILE  the text follows this GBNF grammar"},
    {"", "--json-schema", TEXT, &s->schema, 0, 0, "FILE  the text is JSON of this schema"},
    {"", "--choice", LIST, &s->choices, 0, 0, "TEXT  the text is this, or one of several choices"},
    {"", "--jump", FLAG, &s->jump, 0, 0, "      take text that the grammar leaves no choice about in few tokens: faster"},
  };
  memcpy(table, options, sizeof options);
  return (option_table){table, N_SAMPLING};
}

// Looks at --samplers and reads files; 0 to go on, else the exit code, after a message.
static int read_sampling(sampling *s) {
  static const char *const names[] = {"penalties", "dry", "top_n_sigma", "top_k", "typ_p",
                                      "top_p",     "min_p", "xtc",       "temperature", "mirostat"}; // as qi_sampler_step
  for (const char *p = s->order; p && *p;) {
    size_t len = strcspn(p, ";"), i = 0;
    while (i < QI_STEP_COUNT && (strlen(names[i]) != len || memcmp(names[i], p, len))) i++;
    bool known = i < QI_STEP_COUNT;
    for (int k = 0; k < s->desc.n_chain; k++) known = known && s->steps[k] != (qi_sampler_step)i;
    if (!known) {
      fprintf(stderr, PROGRAM ": --samplers %s: %.*s is not a step, or there twice\n", s->order, (int)len, p);
      return 2;
    }
    s->steps[s->desc.n_chain++] = (qi_sampler_step)i;
    p += len + (p[len] == ';');
  }
  s->desc.chain = s->desc.n_chain ? s->steps : NULL;
  if (!!s->grammar + !!s->schema + (s->choices.n > 0) > 1) {
    fprintf(stderr, PROGRAM ": --grammar, --json-schema and --choice: give one of them\n");
    return 2;
  }
  const char *path = s->grammar ? s->grammar : s->schema;
  if (path) s->grammar_text = read_file(path, &s->grammar_len);
  return path && !s->grammar_text ? 1 : 0;
}

// Tokens at which phrases end.
static qi_result find_breakers(sampling *s, const qi_model *m, qi_error *err) {
  static const text_list usual = {{"\n", ":", "\"", "*"}, 4};
  const text_list *list = s->breakers.n ? &s->breakers : &usual;
  size_t n = 0, at = 0;
  if (s->desc.dry_multiplier == 0) return QI_OK;
  for (int i = 0; i < list->n; i++) n += qi_tokens_containing(m, list->at[i], strlen(list->at[i]), NULL, 0);
  s->breaker_ids = (qi_token *)malloc((n + 1) * sizeof *s->breaker_ids);
  if (!s->breaker_ids) {
    snprintf(err->msg, sizeof err->msg, "out of memory");
    return err->code = QI_ERR_OOM;
  }
  for (int i = 0; i < list->n; i++)
    at += qi_tokens_containing(m, list->at[i], strlen(list->at[i]), s->breaker_ids + at, n - at);
  s->desc.dry_breakers = s->breaker_ids;
  s->desc.n_dry_breakers = (int)n;
  return QI_OK;
}

// What needs the model: call before the session is opened, and constrain it with s->mt afterwards if that is not NULL.
static qi_result open_sampling(sampling *s, const qi_model *m, qi_error *err) {
  qi_grammar_desc gd = {.len = s->grammar_len};
  qi_result r = find_breakers(s, m, err);
  if (s->grammar) gd.gbnf = s->grammar_text;
  else if (s->schema) gd.json_schema = s->grammar_text;
  else if (s->choices.n) gd.choices = s->choices.at, gd.n_choices = s->choices.n;
  else return r;
  if (!r) r = qi_grammar_open(&s->g, m, &gd, err);
  return r ? r : qi_matcher_open(&s->mt, s->g, NULL, NULL, err);
}

// Behind the session.
static void close_sampling(sampling *s) {
  qi_matcher_close(s->mt);
  qi_grammar_close(s->g);
  free(s->breaker_ids);
  free(s->grammar_text);
}

// ---- guessing ahead ----

typedef struct guessing {
  const char *draft;
  bool lookup;
  int n_draft;
  qi_model *model;
} guessing;

#define N_GUESSING 3

// Their options; the table lives as long as *g.
static option_table guessing_table(guessing *g, option table[N_GUESSING]) {
  const option options[N_GUESSING] = {
    {"", "--lookup", FLAG, &g->lookup, 0, 0, "      guess ahead what followed the last tokens where they stand already"},
    {"", "--draft", TEXT, &g->draft, 0, 0, "FILE  guess ahead with this model: smaller, with the same vocabulary"},
    {"", "--draft-max", INT, &g->n_draft, 0, 32, "N     tokens guessed at once, 0 = 16 (default 0)"},
  };
  memcpy(table, options, sizeof options);
  return (option_table){table, N_GUESSING};
}

// Before the session is opened. The words are the same with it and without.
static qi_result open_guessing(guessing *g, qi_session_desc *sd, qi_error *err) {
  qi_model_desc md = {.path = g->draft};
  qi_result r = g->draft ? qi_model_open(&g->model, &md, err) : QI_OK;
  sd->draft = g->model;
  sd->lookup = g->lookup;
  sd->n_draft = g->n_draft;
  return r;
}

// Behind the session.
static void close_guessing(guessing *g) { qi_model_close(g->model); }

// What came of it, if anything was guessed.
static void print_guessing(const qi_session_stats *st) {
  if (st->n_drafted)
    fprintf(stderr, "guessed ahead: %llu tokens, %llu came true\n", (unsigned long long)st->n_drafted,
            (unsigned long long)st->n_accepted);
}

#endif // EXAMPLES_OPTIONS_H
