// The thread pool: every unit exactly once, worker numbers unique, nothing lost between runs, clean failures.
// sanitize: thread
#define _GNU_SOURCE
#include <pthread.h>

// Fails the call after `creates_left` more; negative = never.
static int creates_left = -1;
static int test_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg) {
  if (creates_left == 0) return 11; // EAGAIN
  if (creates_left > 0) creates_left--;
  return pthread_create(thread, attr, fn, arg);
}
#define pthread_create test_pthread_create
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"
#undef pthread_create

#include <fenv.h>
#include <signal.h>
#include <unistd.h>

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#define UNITS_MAX 4096

typedef struct record {
  uint8_t hits[UNITS_MAX]; // plain: each unit belongs to one thread
  uint32_t busy[QI__THREADS_MAX];
  uint32_t n_wrong;
  int n_threads;
  int64_t grain, n_units;
} record;

static void wrong(record *r) { __atomic_fetch_add(&r->n_wrong, 1, __ATOMIC_RELAXED); }

static void task_record(void *arg, int worker, int64_t begin, int64_t end) {
  record *r = (record *)arg;
  bool pieces = begin % r->grain == 0 && (end % r->grain == 0 || end == r->n_units);
  if (worker < 0 || worker >= r->n_threads || begin < 0 || begin >= end || end > r->n_units || !pieces) {
    wrong(r);
    return;
  }
  if (__atomic_fetch_add(&r->busy[worker], 1, __ATOMIC_RELAXED) != 0) wrong(r);
  for (int64_t i = begin; i < end; i++) r->hits[i]++;
  __atomic_fetch_sub(&r->busy[worker], 1, __ATOMIC_RELAXED);
}

static void check_all_units(qi_pool *p) {
  static const int64_t sizes[] = {0, 1, 2, 3, 7, 64, 100, 1000, UNITS_MAX}, grains[] = {-1, 0, 1, 2, 3, 16, 999, 5000};
  static record r;
  for (size_t s = 0; s < QI__COUNT_OF(sizes); s++)
    for (size_t g = 0; g < QI__COUNT_OF(grains); g++) {
      memset(&r, 0, sizeof r);
      r.n_threads = p->n_active;
      r.n_units = sizes[s];
      r.grain = grains[g] < 1 ? 1 : grains[g];
      qi__pool_run(p, task_record, &r, sizes[s], grains[g]);
      assert_int_equal(r.n_wrong, 0);
      for (int64_t i = 0; i < UNITS_MAX; i++) assert_int_equal(r.hits[i], i < sizes[s]);
    }
}

static void test_all_units_once(void **state) {
  (void)state;
  static const int threads[] = {1, 2, 3, 4, 8, 17};
  for (size_t t = 0; t < QI__COUNT_OF(threads); t++) {
    qi_pool_desc d = {.n_threads = threads[t]};
    qi_pool *p = NULL;
    qi_error err = {QI_OK, ""};
    assert_int_equal(qi__pool_open(&p, &d, &err), QI_OK);
    check_all_units(p);
    qi__pool_close(p);
  }
}

typedef struct sum {
  int64_t values[64], total;
} sum;

static void task_fill(void *arg, int worker, int64_t begin, int64_t end) {
  (void)worker;
  for (int64_t i = begin; i < end; i++) ((sum *)arg)->values[i] += i;
}

// Runs that follow each other at once; what workers wrote is seen without further care.
static void test_short_runs(void **state) {
  (void)state;
  for (int n_threads = 2; n_threads <= 6; n_threads += 2) {
    qi_pool_desc d = {.n_threads = n_threads};
    qi_pool *p = NULL;
    assert_int_equal(qi__pool_open(&p, &d, NULL), QI_OK);
    sum s;
    memset(&s, 0, sizeof s);
    for (int run = 0; run < 10000; run++) {
      qi__pool_run(p, task_fill, &s, 64, 1 + run % 40);
      if (run % 2500 == 0) usleep(2000); // workers fall asleep
      s.total += s.values[63];
    }
    for (int i = 0; i < 64; i++) assert_int_equal(s.values[i], 10000 * i);
    assert_int_equal(s.total, (int64_t)63 * 10000 * 10001 / 2);
    qi__pool_close(p);
  }
}

typedef struct meeting {
  int n_threads;
  uint32_t arrived, seen[QI__THREADS_MAX], n_wrong;
} meeting;

// (fegetround looks at the x87, which nobody uses.)
static bool rounds_to_nearest(void) {
  volatile float one = 1.0f, three = 3.0f;
  float third = one / three;
  return qi__f32_bits(third) == 0x3eaaaaab && qi__f32_bits(-one / three) == 0xbeaaaaab && qi__f32_bits(one / 10.0f) == 0x3dcccccd;
}

// Every piece waits until all threads have one.
static void task_meet(void *arg, int worker, int64_t begin, int64_t end) {
  meeting *m = (meeting *)arg;
  if (end != begin + 1 || __atomic_fetch_add(&m->seen[worker], 1, __ATOMIC_RELAXED))
    __atomic_fetch_add(&m->n_wrong, 1, __ATOMIC_RELAXED);
#if defined(__x86_64__) || defined(__aarch64__)
  if (!rounds_to_nearest()) __atomic_fetch_add(&m->n_wrong, 1, __ATOMIC_RELAXED);
#endif
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, NULL, &blocked);
  if (worker > 0 && (!sigismember(&blocked, SIGINT) || !sigismember(&blocked, SIGUSR1) || sigismember(&blocked, SIGSEGV)))
    __atomic_fetch_add(&m->n_wrong, 1, __ATOMIC_RELAXED);
  __atomic_fetch_add(&m->arrived, 1, __ATOMIC_RELAXED);
  while (__atomic_load_n(&m->arrived, __ATOMIC_RELAXED) < (uint32_t)m->n_threads) usleep(100);
}

static void test_all_threads_take_part(void **state) {
  (void)state;
  for (int n_threads = 2; n_threads <= 8; n_threads *= 2) {
    qi_pool_desc d = {.n_threads = n_threads};
    qi_pool *p = NULL;
    sigset_t before, after;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    fesetround(FE_UPWARD); // neither the workers nor the pieces of the caller may notice
    bool upward = !rounds_to_nearest(); // false in valgrind, which ignores it
    assert_int_equal(qi__pool_open(&p, &d, NULL), QI_OK);
    for (int run = 0; run < 20; run++) {
      meeting m;
      memset(&m, 0, sizeof m);
      m.n_threads = n_threads;
      if (run % 5 == 4) usleep(1000);
      qi__pool_run(p, task_meet, &m, n_threads, 1);
      assert_int_equal(m.n_wrong, 0);
      assert_int_equal(m.arrived, n_threads);
    }
#if defined(__x86_64__) || defined(__aarch64__)
    assert_int_equal(rounds_to_nearest(), !upward);
#else
    (void)upward;
#endif
    fesetround(FE_TONEAREST);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    assert_int_equal(sigismember(&after, SIGUSR1), sigismember(&before, SIGUSR1));
    qi__pool_close(p);
  }
}

// The first workers alone take part, and all that are wanted do.
static void test_active(void **state) {
  (void)state;
  static const int active[] = {6, 2, 1, 5, 6, 3, 4, 4};
  qi_pool_desc d = {.n_threads = 6};
  qi_pool *p = NULL;
  assert_int_equal(qi__pool_open(&p, &d, NULL), QI_OK);
  for (size_t i = 0; i < QI__COUNT_OF(active); i++) {
    qi__pool_set_active(p, active[i]);
    if (i % 2) usleep(2000); // workers fall asleep
    check_all_units(p);
    meeting m;
    memset(&m, 0, sizeof m);
    m.n_threads = active[i];
    qi__pool_run(p, task_meet, &m, active[i], 1);
    assert_int_equal(m.n_wrong, 0);
    assert_int_equal(m.arrived, active[i]);
  }
  qi__pool_close(p);
}

static void task_slow_worker(void *arg, int worker, int64_t begin, int64_t end) {
  (void)end;
  if (worker != 0) usleep(300);
  ((uint8_t *)arg)[begin]++;
}

// The caller has nothing left and must wait, asleep, for a worker.
static void test_caller_waits(void **state) {
  (void)state;
  qi_pool_desc d = {.n_threads = 3};
  qi_pool *p = NULL;
  assert_int_equal(qi__pool_open(&p, &d, NULL), QI_OK);
  for (int run = 0; run < 50; run++) {
    uint8_t hits[6] = {0};
    qi__pool_run(p, task_slow_worker, hits, 6, 1);
    for (int i = 0; i < 6; i++) assert_int_equal(hits[i], 1);
  }
  qi__pool_close(p);
}

// ---- the host's threads ----

typedef struct host {
  int mode, calls, last_n;
} host;

typedef struct host_thread {
  void (*fn)(void *arg, int index);
  void *arg;
  int index;
} host_thread;

static void *host_main(void *arg) {
  host_thread *t = (host_thread *)arg;
  t->fn(t->arg, t->index);
  return NULL;
}

// Modes: 0 forwards, 1 backwards, 2 real threads, 3 breaks its promise and runs nothing.
static void host_parallel_for(void *user, void (*fn)(void *arg, int index), void *arg, int n) {
  host *h = (host *)user;
  h->calls++;
  h->last_n = n;
  if (h->mode < 2) {
    for (int i = 0; i < n; i++) fn(arg, h->mode ? n - 1 - i : i);
  } else if (h->mode == 2) {
    pthread_t threads[16];
    host_thread args[16];
    for (int i = 0; i < n; i++) {
      args[i] = (host_thread){fn, arg, i};
      assert_int_equal(pthread_create(&threads[i], NULL, host_main, &args[i]), 0);
    }
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
  }
}

static void test_host_hook(void **state) {
  (void)state;
  for (int mode = 0; mode < 4; mode++) {
    host h = {mode, 0, 0};
    qi_pool_desc d = {.n_threads = 5, .parallel = {host_parallel_for, &h}};
    qi_pool *p = NULL;
    creates_left = 0; // no own threads
    assert_int_equal(qi__pool_open(&p, &d, NULL), QI_OK);
    creates_left = -1;
    check_all_units(p);
    assert_true(h.calls > 0);
    sum s;
    memset(&s, 0, sizeof s);
    qi__pool_run(p, task_fill, &s, 64, 1);
    assert_int_equal(h.last_n, 5);
    qi__pool_run(p, task_fill, &s, 64, 32);
    assert_int_equal(h.last_n, 2); // no more calls than pieces
    qi__pool_close(p);
  }
}

// ---- who takes what ----

typedef struct order {
  int64_t begin[16];
  int n;
} order;

static void task_order(void *arg, int worker, int64_t begin, int64_t end) {
  order *o = (order *)arg;
  (void)worker;
  (void)end;
  o->begin[o->n++] = begin;
}

static void host_runs_index_2(void *user, void (*fn)(void *arg, int index), void *arg, int n) {
  (void)user;
  assert_int_equal(n, 3);
  fn(arg, 2);
}

// 11 pieces of 10 units for three: 4, 4 and 3. The third takes its own first, along memory, then what the others have left,
// from the end on.
static void test_own_range_first(void **state) {
  (void)state;
  qi_pool_desc d = {.n_threads = 3, .parallel = {host_runs_index_2, NULL}};
  qi_pool *p = NULL;
  order o = {{0}, 0};
  assert_int_equal(qi__pool_open(&p, &d, NULL), QI_OK);
  qi__pool_run(p, task_order, &o, 105, 10);
  const int64_t expected[] = {80, 90, 100, 30, 20, 10, 0, 70, 60, 50, 40};
  assert_int_equal(o.n, 11);
  for (int i = 0; i < 11; i++) assert_int_equal(o.begin[i], expected[i]);
  qi__pool_close(p);
}

static void task_count(void *arg, int worker, int64_t begin, int64_t end) {
  (void)worker;
  for (int64_t i = begin; i < end; i++) ((uint8_t *)arg)[i]++;
}

// More pieces than a range can count.
static void test_many_pieces(void **state) {
  (void)state;
  enum { N = 3 * QI__PIECES_MAX + 1 };
  static uint8_t hits[N + 1];
  for (int n_threads = 1; n_threads <= 3; n_threads++) {
    qi_pool_desc d = {.n_threads = n_threads};
    qi_pool *p = NULL;
    memset(hits, 0, sizeof hits);
    assert_int_equal(qi__pool_open(&p, &d, NULL), QI_OK);
    qi__pool_run(p, task_count, hits, N, 1);
    assert_true(p->job.n_pieces <= QI__PIECES_MAX);
    for (int i = 0; i <= N; i++) assert_int_equal(hits[i], i < N);
    qi__pool_close(p);
  }
}

// ---- descs, failures, scratch ----

static void test_arguments(void **state) {
  (void)state;
  qi_pool *p = (qi_pool *)&state;
  qi_error err = {QI_OK, ""};
  host h = {0, 0, 0};
  qi_pool_desc negative = {.n_threads = -1}, many = {.n_threads = 257}, hook = {.parallel = {host_parallel_for, &h}};
  qi_pool_desc half = {.allocator = {.alloc = qi__malloc}}, isa = {.isa = (qi_isa)77};
#if defined(__aarch64__)
  qi_pool_desc foreign = {.isa = QI_ISA_AVX2};
#else
  qi_pool_desc foreign = {.isa = QI_ISA_NEON};
#endif
  assert_int_equal(qi__pool_open(&p, &negative, &err), QI_ERR_ARGUMENT);
  assert_null(p);
  assert_string_equal(err.msg, "pool: n_threads is -1, expected 0..256");
  assert_int_equal(qi__pool_open(&p, &many, &err), QI_ERR_LIMIT);
  assert_int_equal(qi__pool_open(&p, &hook, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__pool_open(&p, &half, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__pool_open(&p, &isa, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__pool_open(&p, &foreign, &err), QI_ERR_UNSUPPORTED);
  assert_int_equal(qi__pool_open(NULL, NULL, NULL), QI_ERR_ARGUMENT);
  qi__pool_close(NULL);
}

static void test_defaults(void **state) {
  (void)state;
  qi_pool *p = NULL;
  qi_isa best;
  assert_int_equal(qi__pool_open(&p, NULL, NULL), QI_OK);
  assert_int_equal(qi__isa_choose(QI_ISA_AUTO, &best, NULL, NULL), QI_OK);
  assert_true(p->n_start >= 1 && p->n_start <= 8 && p->n_threads >= p->n_start && p->n_threads <= 32);
  assert_int_equal(p->n_active, p->n_start);
  assert_true(p->may_change);
  assert_int_equal(p->isa, best);
  qi__pool_close(p);
}

typedef struct counter {
  int left; // allocations until one fails; negative = never
  size_t bytes;
} counter;

static void *counting_alloc(size_t size, size_t align, void *user) {
  counter *c = (counter *)user;
  if (c->left == 0) return NULL;
  if (c->left > 0) c->left--;
  c->bytes += size;
  return qi__malloc(size, align, NULL);
}

static void counting_free(void *ptr, size_t size, void *user) {
  ((counter *)user)->bytes -= size;
  qi__malloc_free(ptr, size, NULL);
}

// Where the number was left open, the threads to begin with are enough.
static void test_fewer_threads(void **state) {
  (void)state;
  for (int n_start = 3; n_start <= 5; n_start++) {
    qi_pool_desc d = {.n_threads = 8};
    qi_pool p;
    assert_int_equal(qi__pool_configure(&p, &d, NULL), QI_OK);
    p.n_start = p.n_active = n_start;
    creates_left = 3; // three workers and the caller
    qi_result r = qi__pool_start_threads(&p, NULL);
    creates_left = -1;
    assert_int_equal(r, n_start <= 4 ? QI_OK : QI_ERR_OOM);
    if (r) continue;
    assert_int_equal(p.n_threads, 4);
    check_all_units(&p);
    qi__pool_destroy(&p);
  }
}

static void test_failures_leave_nothing(void **state) {
  (void)state;
  counter c = {-1, 0};
  qi_pool_desc d = {.n_threads = 8, .allocator = {counting_alloc, counting_free, &c}};
  qi_pool *p = NULL;
  qi_error err = {QI_OK, ""};
  creates_left = 1; // the second worker is the third thread; the fallback to the default stack fails as well
  assert_int_equal(qi__pool_open(&p, &d, &err), QI_ERR_OOM);
  creates_left = -1;
  assert_null(p);
  assert_int_equal(c.bytes, 0);
  assert_int_equal(strncmp(err.msg, "pool: thread 3 of 8 could not be started: ", 42), 0);
  c.left = 0;
  assert_int_equal(qi__pool_open(&p, &d, &err), QI_ERR_OOM);
  c.left = -1;
  assert_int_equal(qi__pool_open(&p, &d, &err), QI_OK);
  assert_true(c.bytes > 0);
  qi__pool_close(p);
  assert_int_equal(c.bytes, 0);
}

static void test_scratch(void **state) {
  (void)state;
  counter c = {-1, 0};
  qi_pool_desc d = {.n_threads = 1, .allocator = {counting_alloc, counting_free, &c}};
  qi_pool *p = NULL;
  assert_int_equal(qi__pool_open(&p, &d, NULL), QI_OK);
  char *a = (char *)qi__pool_scratch(p, 100);
  assert_non_null(a);
  assert_int_equal((uintptr_t)a % 64, 0);
  memset(a, 1, 100);
  assert_ptr_equal(qi__pool_scratch(p, 50), a);
  char *b = (char *)qi__pool_scratch(p, 5000);
  memset(b, 2, 5000);
  assert_int_equal((uintptr_t)b % 64, 0);
  c.left = 0;
  assert_null(qi__pool_scratch(p, 6000));
  c.left = -1;
  assert_non_null(qi__pool_scratch(p, 10));
  qi__pool_close(p);
  assert_int_equal(c.bytes, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_all_units_once), cmocka_unit_test(test_short_runs), cmocka_unit_test(test_all_threads_take_part),
    cmocka_unit_test(test_caller_waits), cmocka_unit_test(test_host_hook), cmocka_unit_test(test_own_range_first),
    cmocka_unit_test(test_many_pieces), cmocka_unit_test(test_arguments), cmocka_unit_test(test_defaults),
    cmocka_unit_test(test_active), cmocka_unit_test(test_fewer_threads), cmocka_unit_test(test_failures_leave_nothing),
    cmocka_unit_test(test_scratch),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
