// sanitize: thread
// Soak: a batch under everything at once, for as long as one likes. Requests come at random, with grammars, priorities, shared
// beginnings, kept ones, and wrong ones among them; some are cancelled, and another thread stops steps at any time; batches close
// in the middle and open again, now and then without getting memory. Answers must be those of lone sessions, nothing may be
// allocated between opening and closing, and nothing may be left behind.
//
//   make soak SECONDS=3600
//   build/soak 3600 2        seconds, threads; without arguments a short run of fixed length
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/gguf_cases.h"
#include "support/sparse.h"
#include "support/stories.h"

static int soak_seconds, soak_threads = 2; // 0 seconds: the short run

enum { N_BANKS = 4, N_STORIES = 40, N_ASKED = 48, ROUND_REQUESTS = 600, SHORT_ROUNDS = 4, SHORT_REQUESTS = 60 };

// ---- banks of stories with the answers that are wanted ----

typedef struct bank {
  uint8_t *file;
  story_model sm;
  qi_session_desc base; // path and kv_type
  story story[N_STORIES];
} bank;

static void bank_open(bank *k, const rm_desc *d, qi_path path, qi_kv_type kv_type, uint64_t *rng) {
  size_t size;
  k->file = rm_build(d, &size);
  assert_non_null(k->file);
  k->sm = story_model_open(k->file, size, 0);
  memset(&k->base, 0, sizeof k->base);
  k->base.path = path;
  k->base.kv_type = kv_type;
  for (size_t i = 0; i < N_STORIES; i++) {
    story_draw(&k->story[i], k->story, i, k->sm.n_vocab, rng);
    story_tell(&k->story[i], &k->sm, &k->base);
  }
}

static void bank_close(bank *k) {
  story_model_close(&k->sm);
  free(k->file);
}

static bank *open_banks(uint64_t *rng) {
  bank *banks = (bank *)calloc(N_BANKS, sizeof *banks);
  assert_non_null(banks);
  rm_desc d = rm_llama();
  d.n_kv_heads = 2;
  d.n_vocab = 200;
  d.format = QI_FORMAT_Q8_0;
  bank_open(&banks[0], &d, QI_PATH_AUTO, QI_KV_F16, rng);
  d.window = 20;
  d.format = QI_FORMAT_BF16;
  bank_open(&banks[1], &d, QI_PATH_AUTO, QI_KV_BF16, rng);
  d = rm_qwen3();
  d.format = QI_FORMAT_Q4_0;
  bank_open(&banks[2], &d, QI_PATH_INTEGER, QI_KV_Q8, rng);
  d = SPARSE ? rm_llama() : rm_llama_256(QI_FORMAT_TQ2_0); // with a sanitizer its kernels take minutes
  bank_open(&banks[3], &d, QI_PATH_AUTO, QI_KV_Q4, rng);
  return banks;
}

// ---- what goes on ----

typedef struct asked {
  uint64_t id; // 0 = a free place
  const story *story;
  int matcher;          // of its grammar
  bool keep, cancelled; // keep: asked for, until it is cancelled
  story_answer got;
} asked;

typedef struct totals {
  uint64_t rounds, refused_memory, requests, refused, tokens, done[QI_DONE_COUNT], stopped_steps;
} totals;

typedef struct soak {
  uint64_t rng;
  bank *bank;
  qi_batch *b;
  int n_ctx;
  bool tight;           // too few pages: requests may end for lack of them
  bool matcher_used[STORY_GRAMMARS][STORY_MATCHERS + 1];
  asked asked[N_ASKED];
  gc_heap heap;
  totals totals;
  int stop;             // tells the thread that cancels to end
} soak;

static bool one_in(soak *k, size_t n) { return story_one_in(&k->rng, n); }
static size_t below(soak *k, size_t n) { return story_below(&k->rng, n); }

// Stops a step every few milliseconds.
static void *canceller(void *arg) {
  soak *k = (soak *)arg;
  uint64_t rng = 99;
  while (!__atomic_load_n(&k->stop, __ATOMIC_RELAXED)) {
    struct timespec t = {0, 1000 * (long)(200 + story_below(&rng, 20000))};
    nanosleep(&t, NULL);
    qi_cancel(qi_batch_session(k->b));
  }
  return NULL;
}

// ---- opening ----

static qi_batch_desc draw_desc(soak *k) {
  qi_batch_desc bd;
  memset(&bd, 0, sizeof bd);
  bd.session = k->bank->base;
  bd.session.n_ctx = k->n_ctx = STORY_MAX + 1 + (int)below(k, 100);
  bd.session.n_seqs = 1 + (int)below(k, 12);
  bd.session.n_batch = one_in(k, 2) ? 0 : 1 + (int)below(k, 64);
  bd.session.n_threads = soak_threads;
  bd.session.sampler = story_sampler_most();
  bd.session.stop = story_stops();
  bd.session.n_stop = 3;
  k->tight = one_in(k, 2);
  if (k->tight) bd.session.n_kv_tokens = (4 + (int)below(k, 6)) * QI__KV_PAGE;
  bd.session.allocator.alloc = gc_heap_alloc;
  bd.session.allocator.free = gc_heap_free;
  bd.session.allocator.user = &k->heap;
  bd.n_requests = 4 + (int)below(k, N_ASKED);
  bd.n_step_tokens = one_in(k, 2) ? 0 : 1 + (int)below(k, 60);
  return bd;
}

// Without memory first, another call each time, which leaves nothing behind; then with all that was told.
static void open_batch(soak *k) {
  qi_error err = {QI_OK, ""};
  qi_batch_desc bd = draw_desc(k);
  uint64_t bytes = 0;
  memset(&k->heap, 0, sizeof k->heap);
  k->heap.fail_at = 1 + k->totals.rounds % 6;
  qi_result r = qi_batch_open(&k->b, k->bank->sm.m, &bd, &err);
  if (r) {
    run_expect(r, QI_ERR_OOM, &err, "qi_batch_open without memory");
    k->totals.refused_memory++;
  } else {
    qi_batch_close(k->b);
  }
  assert_int_equal(k->heap.live_bytes, 0);
  k->heap.fail_at = 0;
  RUN_OK(qi_batch_memory(k->bank->sm.m, &bd, &bytes, &err), err);
  RUN_OK(qi_batch_open(&k->b, k->bank->sm.m, &bd, &err), err);
  assert_int_equal(k->heap.live_bytes, bytes);
}

// ---- requests ----

static asked *random_asked(soak *k) {
  asked *a = &k->asked[below(k, N_ASKED)];
  return a->id ? a : NULL;
}

static void free_place(soak *k, asked *a) {
  if (a->matcher) k->matcher_used[a->story->grammar - 1][a->matcher] = false;
  memset(a, 0, sizeof *a);
}

// Requests that can never be: each is refused for its own reason, and changes nothing.
static void ask_wrong(soak *k, const qi_batch_request *sound) {
  static const qi_result codes[] = {QI_ERR_CONTEXT, QI_ERR_ARGUMENT, QI_ERR_ARGUMENT, QI_ERR_LIMIT};
  qi_token ids[STORY_MAX + 102];
  qi_error err = {QI_OK, ""};
  qi_batch_request q = *sound;
  uint64_t id = 0;
  size_t which = below(k, sizeof codes / sizeof codes[0]);
  q.share = 0;
  q.keep = false;
  run_random_tokens(rm_next(&k->rng), k->bank->sm.n_vocab, ids, (size_t)k->n_ctx + 1);
  if (which == 0) q.ids = ids, q.n_ids = (size_t)k->n_ctx + 1;
  if (which == 1) q.share = UINT64_MAX;
  if (which == 2) q.sampler.temperature = -1;
  if (which == 3) q.sampler.penalty_last_n = 60000, q.sampler.repetition_penalty = 2;
  run_expect(qi_batch_submit(k->b, &q, &id, &err), codes[which], &err, "a wrong request");
  assert_int_equal(id, 0);
  k->totals.refused++;
}

// A matcher that is not in use; 0 = there is none.
static int free_matcher(const soak *k, int grammar) {
  for (int i = 1; i <= STORY_MATCHERS; i++)
    if (!k->matcher_used[grammar - 1][i]) return i;
  return 0;
}

static void ask(soak *k) {
  asked *a = &k->asked[below(k, N_ASKED)], *other = random_asked(k);
  const story *t = &k->bank->story[below(k, N_STORIES)];
  int matcher = t->grammar ? free_matcher(k, t->grammar) : 0;
  qi_error err = {QI_OK, ""};
  qi_batch_request q;
  if (a->id || (t->grammar && !matcher)) return;
  memset(&q, 0, sizeof q);
  q.ids = t->ids;
  q.n_ids = t->n_prompt;
  q.sampler = t->sampler;
  q.stop = story_stops();
  q.n_stop = t->n_stop;
  q.n_predict = t->n_predict;
  q.ignore_end = t->ignore_end;
  q.priority = (int)below(k, 5) - 2;
  q.keep = one_in(k, 10);
  q.user = a;
  if (other && !other->got.done) q.share = other->id;
  if (one_in(k, 12) && k->b->stats.n_waiting + k->b->stats.n_running + k->b->n_events + k->b->n_keep < k->b->n_requests) {
    ask_wrong(k, &q);
    return;
  }
  if (matcher) q.matcher = k->bank->sm.matcher[t->grammar - 1][matcher];
  qi_result r = qi_batch_submit(k->b, &q, &a->id, &err);
  if (r) { // as many as may be there, or kept
    run_expect(r, QI_ERR_LIMIT, &err, "qi_batch_submit");
    k->totals.refused++;
    return;
  }
  a->story = t;
  a->matcher = matcher;
  a->keep = q.keep;
  if (matcher) k->matcher_used[t->grammar - 1][matcher] = true;
  k->totals.requests++;
}

static void cancel(soak *k, asked *a) {
  qi_error err = {QI_OK, ""};
  qi_result r = qi_batch_cancel(k->b, a->id, &err);
  // One that ended before it had a sequence leaves nothing to keep.
  if (a->got.done != QI_DONE_CONTEXT || r != QI_ERR_ARGUMENT) run_expect(r, QI_OK, &err, "qi_batch_cancel");
  a->cancelled = true;
  if (a->got.done) free_place(k, a); // it was kept
}

// What came until then is right. The end of an answer makes U+FFFD of a character that is not whole yet.
static void expect_beginning(const asked *a) {
  const story_answer *want = &a->story->want, *got = &a->got;
  size_t len = got->len;
  bool cut = len >= 3 && !memcmp(got->text + len - 3, "\xef\xbf\xbd", 3);
  if (cut && (len > want->len || memcmp(got->text, want->text, len))) len -= 3;
  if (got->n > want->n || memcmp(got->ids, want->ids, got->n * sizeof got->ids[0]) || len > want->len ||
      memcmp(got->text, want->text, len))
    fail_msg("an answer that ended early (%s) is not the beginning of the lone one", qi_done_name(got->done));
}

static void finish(soak *k, asked *a) {
  k->totals.done[a->got.done]++;
  k->totals.tokens += a->got.n;
  bool early = (a->cancelled && a->got.done == QI_DONE_CANCELLED) || (k->tight && a->got.done == QI_DONE_CONTEXT);
  if (!early) story_expect_answer(a->story, &a->got, "in the soak");
  if (!early || !a->story->n_stop) expect_beginning(a);
  if (!a->keep || a->cancelled) free_place(k, a);
}

static void poll_all(soak *k) {
  qi_batch_event e;
  while (qi_batch_poll(k->b, &e)) {
    asked *a = (asked *)e.user;
    assert_int_equal(a->id, e.id);
    assert_int_equal(a->got.done, QI_DONE_NOT);
    story_add(&a->got, &e.piece);
    a->got.done = e.done;
    if (e.done) finish(k, a);
  }
}

static qi_result step(soak *k) {
  static const uint32_t budgets[] = {0, 0, 0, 1, 50, 500};
  qi_error err = {QI_OK, ""};
  qi_result r = qi_batch_step(k->b, budgets[below(k, sizeof budgets / sizeof budgets[0])], &err);
  if (r < 0) {
    run_expect(r, QI_ERR_CANCELLED, &err, "qi_batch_step");
    k->totals.stopped_steps++;
  }
  return r;
}

// ---- rounds ----

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Of this process, in KB; 0 = the system does not tell.
static long resident(void) {
  long pages = 0, all = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (f && fscanf(f, "%ld %ld", &all, &pages) != 2) pages = 0;
  if (f) fclose(f);
  return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

// Everything comes to its end; then all room is free.
static void drain(soak *k) {
  for (int i = 0; i < N_ASKED; i++)
    if (k->asked[i].id && k->asked[i].keep && !k->asked[i].cancelled) cancel(k, &k->asked[i]);
  qi_result r;
  do {
    r = step(k);
    poll_all(k);
  } while (r != QI_END);
  for (int i = 0; i < N_ASKED; i++) assert_int_equal(k->asked[i].id, 0);
  assert_int_equal(k->b->session->kv.n_unused, k->b->session->kv.n_pages);
}

// A batch from opening to closing: sometimes when all is done, sometimes in the middle.
static void run_round(soak *k, uint64_t n_requests, double end) {
  pthread_t thread;
  open_batch(k);
  size_t calls = k->heap.n_calls;
  uint64_t last = k->totals.requests + n_requests;
  k->stop = 0;
  assert_int_equal(pthread_create(&thread, NULL, canceller, k), 0);
  while (k->totals.requests < last && (end == 0 || now() < end)) {
    for (size_t n = below(k, 3); n; n--) ask(k);
    asked *a = one_in(k, 12) ? random_asked(k) : NULL;
    if (a && (!a->got.done || a->keep) && !a->cancelled) cancel(k, a);
    step(k);
    if (!one_in(k, 4)) poll_all(k);
  }
  if (!one_in(k, 4)) drain(k);
  __atomic_store_n(&k->stop, 1, __ATOMIC_RELAXED);
  pthread_join(thread, NULL);
  assert_int_equal(k->heap.n_calls, calls);
  qi_batch_close(k->b);
  assert_int_equal(k->heap.live_bytes, 0);
  assert_int_equal(k->heap.n_live, 0);
  for (int i = 0; i < N_ASKED; i++) free_place(k, &k->asked[i]);
  memset(k->matcher_used, 0, sizeof k->matcher_used);
  k->totals.rounds++;
}

static void report(const soak *k, double seconds, long start_kb) {
  const totals *t = &k->totals;
  print_message("%6.0f s: %llu batches, %llu openings without memory, %llu requests, %llu refused, %llu tokens, %llu steps "
                "stopped;", seconds, (unsigned long long)t->rounds, (unsigned long long)t->refused_memory,
                (unsigned long long)t->requests, (unsigned long long)t->refused, (unsigned long long)t->tokens,
                (unsigned long long)t->stopped_steps);
  for (int i = 1; i < QI_DONE_COUNT; i++) print_message(" %s %llu", qi_done_name((qi_done)i), (unsigned long long)t->done[i]);
  print_message("; resident %ld KB, %ld KB at the start\n", resident(), start_kb);
  fflush(NULL);
}

static void test_soak(void **state) {
  (void)state;
  soak *k = (soak *)calloc(1, sizeof *k);
  assert_non_null(k);
  k->rng = 2026;
  bank *banks = open_banks(&k->rng);
  double start = now(), end = soak_seconds ? start + soak_seconds : 0, next_report = start + 10;
  long start_kb = 0;
  for (uint64_t round = 0; soak_seconds ? now() < end : round < SHORT_ROUNDS; round++) {
    if (round == 4 * N_BANKS) start_kb = resident(); // what the system's allocator keeps has settled
    k->bank = &banks[round % N_BANKS];
    run_round(k, soak_seconds ? ROUND_REQUESTS : SHORT_REQUESTS, end);
    if (soak_seconds && now() >= next_report) {
      report(k, now() - start, start_kb);
      next_report += now() - start < 100 ? 10 : 60;
    }
  }
  report(k, now() - start, start_kb);
  for (int i = QI_DONE_END; i < QI_DONE_GRAMMAR; i++)
    if (soak_seconds > 5) assert_true(k->totals.done[i] > 0);
  assert_true(k->totals.refused_memory && k->totals.refused && k->totals.requests);
  if (start_kb) assert_true(resident() < start_kb + start_kb / 4);
  for (int i = 0; i < N_BANKS; i++) bank_close(&banks[i]);
  free(banks);
  free(k);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_soak)};
  if (argc > 1) soak_seconds = atoi(argv[1]);
  if (argc > 2) soak_threads = atoi(argv[2]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
