// Answers many prompts at once.      cc -O2 examples/batch.c -o build/batch -lm -lpthread
//
//   build/batch -m model.gguf -f prompts.txt -n 100 -np 32
//
// One prompt a line; "\n" in it stands for a line break. Prompts and answers go to standard output, in the order of the file, as
// soon as those before them are there; everything else to standard error. Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <time.h>

#define PROGRAM "batch"
#include "options.h"

typedef struct settings {
  const char *model, *prompts;
  uint64_t cache_bytes;
  int n_predict, n_threads, n_ctx, n_seqs, n_step;
  bool ignore_end, quiet, help;
  sampling sampling;
  guessing guessing;
} settings;

typedef struct job {
  char *prompt; // in the text of the file
  char *answer; // malloc
  size_t len, cap;
  qi_matcher *mt;
  qi_done done;
} job;

typedef struct jobs {
  job *at;
  size_t n, n_submitted, n_done, n_printed, n_tokens;
} jobs;

// ---- settings ----

// Fills *c; 0 to go on, else what main returns, plus one.
static int read_settings(int argc, char **argv, settings *c) {
  const option options[] = {
    {"-m", "--model", TEXT, &c->model, 0, 0, "FILE  the model"},
    {"-f", "--file", TEXT, &c->prompts, 0, 0, "FILE  prompts, one a line"},
    {"-n", "--n-predict", INT, &c->n_predict, 1, INT_MAX, "N     tokens of each answer at most (default 128)"},
    {"-np", "--parallel", INT, &c->n_seqs, 1, 1024, "N     answers that are made at once (default 16)"},
    {"-t", "--threads", INT, &c->n_threads, 0, 256, "N     threads, 0 = cores, at most 8 (default 0)"},
    {"-c", "--ctx-size", INT, &c->n_ctx, 0, INT_MAX, "N     context in tokens of each (default 1024)"},
    {"", "--step", INT, &c->n_step, 0, INT_MAX, "N     tokens computed in a step beside answers, 0 = 64 (default 0)"},
    {"", "--cache", BYTES, &c->cache_bytes, 0, 0, "BYTES memory for weights made ready to be multiplied, or all (default 0)"},
    {"", "--ignore-eos", FLAG, &c->ignore_end, 0, 0, "      go on after end tokens"},
    {"-q", "--quiet", FLAG, &c->quiet, 0, 0, "      no progress"},
    {"-h", "--help", FLAG, &c->help, 0, 0, "      this text"},
  };
  option more[N_SAMPLING], guesses[N_GUESSING];
  const option_table tables[] = {{options, sizeof options / sizeof options[0]}, sampling_table(&c->sampling, more),
                                 guessing_table(&c->guessing, guesses)};
  if (!parse_options(argc, argv, tables, 3)) return 3;
  if (c->help) {
    print_help("Answers many prompts with a GGUF model.\n\n  " PROGRAM " -m FILE -f FILE [options]", tables, 3);
    return 1;
  }
  if (c->model && c->prompts) {
    int failed = read_sampling(&c->sampling);
    return failed ? failed + 1 : 0;
  }
  fprintf(stderr, PROGRAM ": -m FILE and -f FILE are needed (--help lists all)\n");
  return 3;
}

// ---- prompts ----

// Takes "\n" and "\\" for what they mean, in place.
static void unescape(char *line) {
  char *to = line;
  for (const char *p = line; *p; p++) {
    bool escaped = *p == '\\' && (p[1] == 'n' || p[1] == '\\');
    if (escaped) p++;
    *to++ = (char)(escaped && *p == 'n' ? '\n' : *p);
  }
  *to = 0;
}

// The lines of the text that are not empty become jobs; false when there is no memory.
static bool find_prompts(char *text, jobs *j) {
  size_t n_lines = 1;
  for (const char *p = text; *p; p++) n_lines += *p == '\n';
  j->at = (job *)calloc(n_lines, sizeof *j->at);
  for (char *line = text, *next; j->at && line; line = next) {
    next = strchr(line, '\n');
    if (next) *next++ = 0;
    line[strcspn(line, "\r")] = 0;
    unescape(line);
    if (*line) j->at[j->n++].prompt = line;
  }
  return j->at != NULL;
}

static bool add_text_to(job *t, const char *text, size_t len) {
  if (t->len + len > t->cap) {
    char *larger = (char *)realloc(t->answer, (t->len + len) * 2);
    if (!larger) return false;
    t->answer = larger;
    t->cap = (t->len + len) * 2;
  }
  if (len) memcpy(t->answer + t->len, text, len);
  t->len += len;
  return true;
}

// ---- work ----

// Hands over prompts until there is no room for more.
static qi_result submit(qi_batch *b, const settings *c, jobs *j, qi_error *err) {
  while (j->n_submitted < j->n) {
    job *t = &j->at[j->n_submitted];
    uint64_t id;
    qi_batch_request q = {.text = t->prompt, .sampler = c->sampling.desc, .n_predict = c->n_predict, .user = t};
    q.ignore_end = c->ignore_end;
    if (c->sampling.g && !t->mt && qi_matcher_open(&t->mt, c->sampling.g, c->sampling.mt, NULL, err)) return err->code;
    q.matcher = t->mt;
    qi_result r = qi_batch_submit(b, &q, &id, err);
    if (r == QI_ERR_LIMIT && j->n_submitted > j->n_done) return QI_OK; // later
    if (r) return r;
    j->n_submitted++;
  }
  return QI_OK;
}

static void print_done(jobs *j) {
  for (; j->n_printed < j->n && j->at[j->n_printed].done; j->n_printed++) {
    const job *t = &j->at[j->n_printed];
    printf("%s%.*s\n%s", t->prompt, (int)t->len, t->answer ? t->answer : "", j->n_printed + 1 < j->n ? "----\n" : "");
  }
  fflush(stdout);
}

static qi_result answer_all(qi_batch *b, const settings *c, jobs *j, qi_error *err) {
  qi_result r = submit(b, c, j, err);
  while (!r || r == QI_AGAIN) {
    qi_batch_event e;
    if ((r = qi_batch_step(b, 0, err))) break;
    while (qi_batch_poll(b, &e)) {
      job *t = (job *)e.user;
      j->n_tokens += e.piece.token >= 0;
      if (!add_text_to(t, e.piece.text, e.piece.len)) {
        snprintf(err->msg, sizeof err->msg, "out of memory");
        return err->code = QI_ERR_OOM;
      }
      if (!e.done) continue;
      t->done = e.done;
      j->n_done++;
      if (!c->quiet) fprintf(stderr, "\r%zu of %zu answers, %zu tokens ", j->n_done, j->n, j->n_tokens);
    }
    print_done(j);
    r = submit(b, c, j, err);
  }
  return r == QI_END ? QI_OK : r;
}

static double now(void) {
  struct timespec t;
  timespec_get(&t, TIME_UTC);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void print_speed(qi_batch *b, const jobs *j, double seconds) {
  qi_session_stats st;
  qi_session_get_stats(qi_batch_session(b), &st);
  double prompts = (double)st.n_prompt, answers = (double)(st.n_generated - st.n_drafted + st.n_accepted);
  if (seconds <= 0) seconds = 1e-9;
  fprintf(stderr, "\n%zu answers; %.0f tokens of prompts and %.0f of answers computed in %.2f s: %.1f and %.1f a second; ",
          j->n_done, prompts, answers, seconds, prompts / seconds, answers / seconds);
  fprintf(stderr, "%d threads, %s\n", st.n_threads, qi_isa_name(st.isa));
  print_guessing(&st);
}

static qi_result run(settings *c, jobs *j, qi_error *err) {
  qi_model_desc md = {.path = c->model, .cache_bytes = c->cache_bytes};
  qi_model *m = NULL;
  qi_batch *b = NULL;
  qi_result r = qi_model_open(&m, &md, err);
  if (!r) r = open_sampling(&c->sampling, m, err);
  qi_batch_desc bd = {.n_step_tokens = c->n_step};
  bd.session.n_ctx = c->n_ctx;
  bd.session.n_seqs = c->n_seqs;
  bd.session.n_threads = c->n_threads;
  bd.session.sampler = c->sampling.desc;
  if (!r) r = open_guessing(&c->guessing, &bd.session, err);
  if (!r) r = qi_batch_open(&b, m, &bd, err);
  double start = now();
  if (!r) r = answer_all(b, c, j, err);
  if (!r) print_speed(b, j, now() - start);
  qi_batch_close(b);
  for (size_t i = 0; i < j->n; i++) {
    qi_matcher_close(j->at[i].mt);
    free(j->at[i].answer);
  }
  close_sampling(&c->sampling);
  close_guessing(&c->guessing);
  qi_model_close(m);
  return r;
}

int main(int argc, char **argv) {
  settings c = {.n_predict = 128, .n_seqs = 16, .n_ctx = 1024, .sampling = sampling_defaults};
  qi_error err = {QI_OK, ""};
  jobs j = {NULL, 0, 0, 0, 0, 0};
  size_t len;
  int code = read_settings(argc, argv, &c);
  if (code) return code - 1;
  char *text = read_file(c.prompts, &len);
  if (!text) return 1;
  if (!find_prompts(text, &j)) fprintf(stderr, PROGRAM ": out of memory\n");
  else if (!j.n) fprintf(stderr, PROGRAM ": %s: no prompts\n", c.prompts);
  else if (run(&c, &j, &err)) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  code = j.n && j.n_printed == j.n ? 0 : 1;
  free(j.at);
  free(text);
  return code;
}
