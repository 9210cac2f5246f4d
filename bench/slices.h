// Time slices and cancelling: how far slices go beyond their budget, what they cost, how soon a call returns that another thread
// cancels. Beside each, what the machine does in the same seconds to threads that only look at the clock.
#ifndef BENCH_SLICES_H
#define BENCH_SLICES_H

#include <pthread.h>

#include "report.h"
#include "synth.h"

typedef struct slice_settings {
  int n_threads, n_prompt, n_gen, depth, reps;
  qi_isa isa;
  qi_path path;
  qi_kv_type kv_type;
} slice_settings;

// ---- distributions ----

typedef struct times {
  double *v; // microseconds
  size_t n, cap;
} times;

static bool times_add(times *t, double us) {
  if (t->n == t->cap) {
    size_t cap = t->cap ? 2 * t->cap : 4096;
    double *v = (double *)realloc(t->v, cap * sizeof *v);
    if (!v) return complain("no memory for %zu times", cap);
    t->v = v;
    t->cap = cap;
  }
  t->v[t->n++] = us;
  return true;
}

static void times_sort(times *t) {
  if (t->n) qsort(t->v, t->n, sizeof *t->v, compare_doubles);
}

// Of sorted times: the least that is as great as this part of them; NaN without any.
static double times_part(const times *t, double part) {
  if (!t->n) return (double)NAN;
  size_t i = (size_t)(part * (double)(t->n - 1) + 0.5);
  return t->v[i];
}

// ---- what the machine does by itself ----

static double clock_us(void) { return seconds_now() * 1e6; }

static void spin_task(void *arg, int worker, int64_t begin, int64_t end) {
  const double *until = (const double *)arg;
  (void)worker, (void)begin, (void)end;
  while (clock_us() < *until) {
  }
}

// How late all threads of a pool are back that have nothing to do but to wait for a time.
static double machine_late(qi_pool *pool, double us) {
  double until = clock_us() + us;
  qi__pool_run(pool, spin_task, &until, pool->n_threads, 1);
  return clock_us() - until;
}

// ---- slices ----

static const char *const op_names[QI__OP_DONE + 1] = {
    "embed", "attn norm", "qkv", "rope", "attention", "attn input", "attn out", "ffn norm", "gate up", "swiglu", "down",
    "output norm", "output", "token"};

typedef struct slicer {
  const bench_model *m;
  slice_settings c;
  qi_pool *pool;
  qi_session *s;
  qi_token *ids;      // [max(n_prompt, depth)]
  uint64_t state;
  // Of a row.
  double budget_us;   // 0 = none
  times over, machine;
  int op[QI__OP_DONE + 1]; // slices that were 100 us late or more, by what was being done
  double seconds;     // in calls
} slicer;

// What the last slice did at its end.
static int slice_op(const slicer *k, qi_result r) {
  const qi__forward *f = &k->s->forward;
  if (r != QI_AGAIN || f->op == QI__OP_DONE) return QI__OP_DONE;
  if (f->unit) return (int)f->op;
  if (f->op == QI__OP_ATTN_NORM && f->layer) return QI__OP_DOWN;
  return f->op == QI__OP_EMBED ? QI__OP_DONE : (int)f->op - 1;
}

static bool slice_note(slicer *k, qi_result r, double us) {
  double over = us - k->budget_us;
  k->seconds += us * 1e-6;
  if (k->budget_us <= 0 || (r != QI_AGAIN && over <= 0)) return true; // the work was shorter
  if (over >= 100) k->op[slice_op(k, r)]++;
  return times_add(&k->over, over) && times_add(&k->machine, machine_late(k->pool, k->budget_us));
}

static qi_result slicer_prompt(slicer *k, int n, qi_error *err) {
  for (int i = 0; i < n; i++) k->ids[i] = (qi_token)(random_next(&k->state) % (uint64_t)k->m->info.n_vocab);
  return n ? qi_prompt_tokens(k->s, k->ids, (size_t)n, err) : QI_OK;
}

// Work that is noted, in slices.
static qi_result slicer_work(slicer *k, qi_error *err) {
  qi_result r;
  do {
    double start = clock_us();
    r = qi_step(k->s, (uint32_t)k->budget_us, err);
    if (r >= 0 && !slice_note(k, r, clock_us() - start)) return QI_ERR_OOM;
  } while (r == QI_AGAIN);
  return r;
}

static qi_result slicer_generate(slicer *k, int n, qi_error *err) {
  qi_piece p;
  for (int i = 0; i < n;) {
    double start = clock_us();
    qi_result r = k->budget_us > 0 ? qi_next_within(k->s, &p, (uint32_t)k->budget_us, err) : qi_next(k->s, &p, err);
    if (r >= 0 && !slice_note(k, r, clock_us() - start)) return QI_ERR_OOM;
    if (r < 0) return r;
    i += r == QI_OK;
  }
  return QI_OK;
}

// The context before a test, without slices.
static qi_result slicer_begin(slicer *k, int n, qi_error *err) {
  qi_session_reset(k->s);
  qi_result r = slicer_prompt(k, n, err);
  return r ? r : qi_step(k->s, 0, err);
}

// One test: seconds in calls.
static bool slicer_test(slicer *k, bool prompt, double budget_us) {
  qi_error err = {QI_OK, ""};
  k->over.n = k->machine.n = 0;
  k->seconds = 0;
  k->budget_us = budget_us;
  memset(k->op, 0, sizeof k->op);
  for (int i = 0; i < k->c.reps; i++) {
    progress("%s in slices of %.0f us: %d of %d", prompt ? "prompt" : "generation", budget_us, i + 1, k->c.reps);
    qi_result r = slicer_begin(k, k->c.depth ? k->c.depth : 1, &err);
    if (!r && prompt) r = slicer_prompt(k, k->c.n_prompt, &err);
    if (!r) r = prompt ? slicer_work(k, &err) : slicer_generate(k, k->c.n_gen, &err);
    if (r) return complain("slices: %s", err.msg);
  }
  progress("%s", "");
  return true;
}

static void slicer_row(report *out, const slicer *k, const char *name, double lost) {
  static const double parts[] = {0.5, 0.9, 0.99, 0.999, 1};
  static const char *const names[] = {"50 %", "90 %", "99 %", "99.9 %", "most"};
  static const char *const machine[] = {"machine 50 %", "machine 90 %", "machine 99 %", "machine 99.9 %", "machine most"};
  char where[64] = "";
  int best = 0;
  row r;
  memset(&r, 0, sizeof r);
  for (int i = 1; i <= QI__OP_DONE; i++)
    if (k->op[i] > k->op[best]) best = i;
  if (k->op[best]) snprintf(where, sizeof where, "%s %d", op_names[best], k->op[best]);
  row_text(&r, "test", 22, name);
  row_number(&r, "budget us", 9, 0, k->budget_us > 0 ? k->budget_us : (double)NAN);
  row_number(&r, "times", 6, 0, (double)k->over.n);
  for (int i = 0; i < 5; i++) row_number(&r, names[i], 6, 0, times_part(&k->over, parts[i]));
  for (int i = 0; i < 5; i++) row_number(&r, machine[i], 6, 0, times_part(&k->machine, parts[i]));
  row_text(&r, "100 us late, most often in", 16, where);
  row_number(&r, "speed lost %", 6, 1, lost);
  report_row(out, &r);
}

static bool slicer_slices(report *out, slicer *k, bool prompt) {
  static const double budgets[] = {500, 2000, 8000};
  char name[64];
  if (!(prompt ? k->c.n_prompt : k->c.n_gen)) return true;
  snprintf(name, sizeof name, "%s%d @ d%d", prompt ? "pp" : "tg", prompt ? k->c.n_prompt : k->c.n_gen, k->c.depth);
  for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
    if (!slicer_test(k, prompt, 0)) return false; // beside each, as the machine's speed changes
    double whole = k->seconds;
    if (!slicer_test(k, prompt, budgets[i])) return false;
    times_sort(&k->over);
    times_sort(&k->machine);
    slicer_row(out, k, name, 100 * (1 - whole / k->seconds));
  }
  return true;
}

// ---- cancelling ----

typedef struct cancel_from {
  qi_session *s;
  double after_us, at_us; // when it is to be; when it was
} cancel_from;

static void *cancel_thread(void *arg) {
  cancel_from *c = (cancel_from *)arg;
  struct timespec t = {(time_t)(c->after_us * 1e-6), (long)(c->after_us * 1e3) % 1000000000};
  nanosleep(&t, NULL);
  c->at_us = clock_us();
  qi_cancel(c->s);
  return NULL;
}

typedef enum cancel_kind { CANCEL_PROMPT, CANCEL_GENERATE, CANCEL_SAVE, CANCEL_LOAD } cancel_kind;

typedef struct saved {
  uint8_t *data;
  size_t size;
} saved;

// What is cancelled; goes on until it is.
static qi_result cancel_call(slicer *k, cancel_kind kind, const saved *file, qi_error *err) {
  qi_piece p;
  qi_result r = QI_OK;
  size_t n;
  while (r >= 0) {
    if (kind == CANCEL_PROMPT) {
      r = slicer_begin(k, 1, err);
      if (!r) r = slicer_prompt(k, k->c.n_prompt, err);
      if (!r) r = qi_step(k->s, 0, err);
    } else if (kind == CANCEL_GENERATE) {
      r = qi_next(k->s, &p, err);
      if (r == QI_ERR_CONTEXT) r = slicer_begin(k, 1, err);
    } else {
      r = kind == CANCEL_SAVE ? qi_session_save(k->s, file->data, file->size, &n, err)
                              : qi_session_load(k->s, file->data, file->size, err);
    }
  }
  return r;
}

// At random moments of up to `most_us`, n times: from qi_cancel to the return of the call.
static bool cancel_test(report *out, slicer *k, cancel_kind kind, const char *name, const saved *file, int n, double most_us) {
  k->over.n = k->machine.n = 0;
  k->budget_us = 0;
  memset(k->op, 0, sizeof k->op);
  for (int i = 0; i < n; i++) {
    qi_error err = {QI_OK, ""};
    cancel_from c = {k->s, most_us * (double)(random_next(&k->state) % 1000) / 1000, 0};
    pthread_t thread;
    progress("%s: %d of %d", name, i + 1, n);
    if (kind == CANCEL_GENERATE && slicer_begin(k, 1, &err)) return complain("%s: %s", name, err.msg);
    if (pthread_create(&thread, NULL, cancel_thread, &c)) return complain("%s: no thread", name);
    qi_result r = cancel_call(k, kind, file, &err);
    double end = clock_us();
    pthread_join(thread, NULL);
    if (r != QI_ERR_CANCELLED) return complain("%s: %s", name, err.msg);
    if (!times_add(&k->over, end - c.at_us) || !times_add(&k->machine, machine_late(k->pool, 2000))) return false;
  }
  progress("%s", "");
  times_sort(&k->over);
  times_sort(&k->machine);
  slicer_row(out, k, name, (double)NAN);
  return true;
}

static bool slicer_cancels(report *out, slicer *k) {
  enum { N = 200 };
  qi_error err = {QI_OK, ""};
  saved file = {NULL, 0};
  bool good = !k->c.n_prompt || cancel_test(out, k, CANCEL_PROMPT, "cancel a prompt", NULL, N, 60000);
  if (good && k->c.n_gen) good = cancel_test(out, k, CANCEL_GENERATE, "cancel generation", NULL, N, 60000);
  if (!good) return false;
  qi_result r = slicer_begin(k, k->c.n_prompt + k->c.depth + 1, &err);
  if (!r) r = qi_session_save(k->s, NULL, 0, &file.size, &err);
  if (!r) file.data = (uint8_t *)malloc(file.size);
  if (!r && !file.data) return complain("no memory for a saved session of %zu bytes", file.size);
  if (!r) r = qi_session_save(k->s, file.data, file.size, &file.size, &err);
  if (r) good = complain("a saved session: %s", err.msg);
  saved scratch = {(uint8_t *)malloc(file.size), file.size};
  if (good && scratch.data) good = cancel_test(out, k, CANCEL_SAVE, "cancel saving", &scratch, N, 30000);
  if (good) good = cancel_test(out, k, CANCEL_LOAD, "cancel loading", &file, N, 30000);
  free(scratch.data);
  free(file.data);
  return good;
}

// ---- all ----

static bool slicer_open(slicer *k, const bench_model *m, const slice_settings *c) {
  qi_pool_desc pd = {.n_threads = c->n_threads, .isa = c->isa};
  qi_error err = {QI_OK, ""};
  memset(k, 0, sizeof *k);
  k->m = m;
  k->c = *c;
  k->state = 1;
  qi_session_desc sd = {.n_ctx = c->depth + c->n_prompt + c->n_gen + 2, .path = c->path, .kv_type = c->kv_type, .ignore_end = true};
  sd.sampler = (qi_sampler_desc){.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repetition_penalty = 1.1f};
  k->ids = (qi_token *)calloc((size_t)sd.n_ctx, sizeof *k->ids);
  if (!k->ids) return complain("no memory for %d tokens", sd.n_ctx);
  if (qi_pool_open(&k->pool, &pd, &err)) return complain("%s", err.msg);
  sd.pool = k->pool;
  return qi_session_open(&k->s, m->model, &sd, &err) ? complain("%s", err.msg) : true;
}

static void slicer_close(slicer *k) {
  qi_session_close(k->s);
  qi_pool_close(k->pool);
  free(k->ids);
  free(k->over.v);
  free(k->machine.v);
}

// False after a message.
static bool slices_run(report *out, const bench_model *m, const slice_settings *c) {
  slicer k;
  bool good = slicer_open(&k, m, c) && slicer_slices(out, &k, true) && slicer_slices(out, &k, false) && slicer_cancels(out, &k);
  slicer_close(&k);
  return good;
}

#endif // BENCH_SLICES_H
