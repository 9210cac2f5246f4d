// ==== >>threads : the thread pool ====
#ifndef QI__THREADS_H
#define QI__THREADS_H

#include "cpu.h"
#include "memory.h"

#ifndef QI_NO_THREADS
#include <pthread.h>
#include <signal.h>
#endif

#define QI__THREADS_MAX 256         // with the caller
#define QI__THREADS_DEFAULT_MAX 8   // memory bandwidth is spent by then on nearly all machines
#define QI__THREADS_TUNED_MAX 32    // what measuring may go up to: each has scratch memory in every session
#define QI__THREAD_STACK (512u << 10)
#define QI__SPIN_US 40              // how long to wait awake for the next run: some gaps between operations of a forward pass

// Work on units [begin, end). `worker` in 0..n_threads-1 is different for all that run at the same time: it picks scratch memory.
typedef void (*qi__task_fn)(void *arg, int worker, int64_t begin, int64_t end);

// One run: what workers need to take pieces of it.
typedef struct qi__job {
  qi__task_fn fn;
  void *arg;
  int64_t n_units, grain;
  size_t n_pieces;
  size_t n_ranges; // of pieces: each worker begins with one of its own
} qi__job;

// Pieces first..end-1 that are not taken yet: `left` = first | end << 16. On a cache line of its own: for most of a run only the
// worker whose range it is writes to it.
typedef struct qi__range {
  char pad[QI__CACHE_LINE];
  uint32_t left;
} qi__range;

#define QI__PIECES_MAX 0x8000
#define QI__TAKE_PART 4 // of what is left of its range a worker takes one part in so many at once

// The gate through which workers enter a run is one word, `gate`:
//   bits 0..8 workers inside    bit 9 open    bit 10 the caller sleeps until all are out    bit 11 the pool closes
//   from bit 12 on: number of the run
// The caller opens it, takes pieces itself until none is left, closes it and waits for those inside. A worker that wakes up late
// finds it closed: nobody waits for threads that the system does not run. `job` is written only while the gate is closed and empty.
#define QI__GATE_INSIDE 0x1ffu
#define QI__GATE_OPEN 0x200u
#define QI__GATE_WAITED 0x400u
#define QI__GATE_QUIT 0x800u
#define QI__GATE_RUN_SHIFT 12

struct qi_pool {
  qi__cpu cpu;             // kernels look at these flags
  qi_isa isa;
  int n_threads;           // with the caller: those that there are
  int n_active;            // of these, the first so many work; written between runs only
  int n_start;             // how many that were at first
  bool may_change;         // n_active: the desc left the number open
  qi_parallel parallel;    // parallel_for NULL: own threads
  qi_allocator allocator;
  void *scratch;           // see qi__pool_scratch
  size_t scratch_bytes;
  qi__job job;
  qi__range ranges[QI__THREADS_MAX];
#ifndef QI_NO_THREADS
  char pad1[QI__CACHE_LINE]; // what is written by many threads has a cache line of its own
  uint32_t gate;
  char pad2[QI__CACHE_LINE];
  uint32_t n_asleep;
  char pad3[QI__CACHE_LINE];
  uint32_t n_started;
  uint32_t run;            // number of the last run
  bool may_spin;           // each thread can have a CPU of its own
  int n_workers;           // threads to join
  pthread_mutex_t mutex;
  pthread_cond_t wake, done;
  pthread_cond_t park;     // where workers sleep that are not active
  pthread_t threads[QI__THREADS_MAX - 1];
#endif
};

// ---- taking pieces ----

QI__INLINE void qi__cpu_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory"); // yield does nothing on most cores
#else
  __asm__ volatile("" ::: "memory");
#endif
}

// First piece of range r; of r = n_ranges, their number.
QI__INLINE size_t qi__job_range(const qi__job *job, size_t r) {
  return job->n_pieces / job->n_ranges * r + qi__min_size(r, job->n_pieces % job->n_ranges);
}

// Takes pieces from one of the ends of what is left: from the end one, from the front a part of them, which gets smaller. Returns
// how many; *piece is the first.
QI__INLINE uint32_t qi__range_take(qi__range *range, bool front, uint32_t *piece) {
  uint32_t left = __atomic_load_n(&range->left, __ATOMIC_RELAXED), then, n;
  do {
    uint32_t first = left & 0xffff, end = left >> 16;
    if (first >= end) return 0;
    n = front && end - first > QI__TAKE_PART ? (end - first) / QI__TAKE_PART : 1;
    *piece = front ? first : end - n;
    then = front ? left + n : left - (n << 16);
  } while (!__atomic_compare_exchange_n(&range->left, &left, then, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return n;
}

QI__FN void qi__job_pieces(const qi__job *job, int worker, uint32_t first, uint32_t n) {
  int64_t begin = first * job->grain;
  job->fn(job->arg, worker, begin, begin + qi__min_i64(n * job->grain, job->n_units - begin));
}

// Runs pieces until none is left: those of the worker's own range in order, then what is left of others, from their ends. So each
// thread reads one long piece of memory, along which its core fetches ahead (2 threads of Zen 4: halves 61 GB/s, pieces of 64 KB
// in turns 46, of 16 KB 28).
QI__FN void qi__job_work(const qi__job *job, qi__range *ranges, int worker) {
  for (size_t k = 0; k < job->n_ranges; k++) {
    qi__range *range = &ranges[((size_t)worker + k) % job->n_ranges];
    for (uint32_t i, n; (n = qi__range_take(range, k == 0, &i)) != 0;) qi__job_pieces(job, worker, i, n);
  }
}

// One index of the host's parallel_for.
QI__FN void qi__pool_host_index(void *arg, int index) {
  qi_pool *p = (qi_pool *)arg;
  if (index < 0 || index >= p->n_threads) return;
  qi__fp_mode mode = qi__fp_enter();
  qi__job_work(&p->job, p->ranges, index);
  qi__fp_leave(mode);
}

// ---- own threads ----

#ifndef QI_NO_THREADS

QI__INLINE bool qi__worker_is_active(const qi_pool *p, int worker) {
  return worker < __atomic_load_n(&p->n_active, __ATOMIC_RELAXED);
}

// Tries to enter an open run that this worker has not been in; *seen becomes its number. 1 = inside, 0 = nothing to do, -1 = quit.
// n_active was written before the gate of a run was opened, so who finds it open sees it. Cache lines come from the core that wrote
// them in a quarter of a microsecond each: those that the worker reads next are asked for together with the gate's.
QI__FN int qi__gate_enter(qi_pool *p, int worker, uint32_t *seen) {
  uint32_t gate = __atomic_load_n(&p->gate, __ATOMIC_ACQUIRE);
  for (;;) {
    if (gate & QI__GATE_QUIT) return -1;
    if (!(gate & QI__GATE_OPEN) || gate >> QI__GATE_RUN_SHIFT == *seen || !qi__worker_is_active(p, worker)) return 0;
    __builtin_prefetch(&p->job);
    __builtin_prefetch(&p->ranges[worker].left);
    if (__atomic_compare_exchange_n(&p->gate, &gate, gate + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) break;
  }
  *seen = gate >> QI__GATE_RUN_SHIFT;
  return 1;
}

QI__FN void qi__gate_leave(qi_pool *p) {
  uint32_t before = __atomic_fetch_sub(&p->gate, 1, __ATOMIC_ACQ_REL);
  if (!(before & QI__GATE_WAITED) || (before & QI__GATE_INSIDE) != 1) return;
  pthread_mutex_lock(&p->mutex);
  pthread_cond_signal(&p->done);
  pthread_mutex_unlock(&p->mutex);
}

// Sleeps until a run is open or the pool closes; results of qi__gate_enter, 0 when it is to sleep elsewhere. No wake-up is lost:
// the worker counts itself in before it looks at the gate, the caller opens the gate before it looks at the count, and both change
// the count, if by 0: who comes second sees what the first did before. Those that are not active are not counted: no run is for
// them.
QI__FN int qi__worker_sleep(qi_pool *p, int worker, uint32_t *seen) {
  int entered;
  pthread_mutex_lock(&p->mutex);
  while (!qi__worker_is_active(p, worker) && !(__atomic_load_n(&p->gate, __ATOMIC_RELAXED) & QI__GATE_QUIT))
    pthread_cond_wait(&p->park, &p->mutex);
  __atomic_fetch_add(&p->n_asleep, 1, __ATOMIC_ACQ_REL); // see qi__pool_run_threads
  while ((entered = qi__gate_enter(p, worker, seen)) == 0 && qi__worker_is_active(p, worker))
    pthread_cond_wait(&p->wake, &p->mutex);
  __atomic_fetch_sub(&p->n_asleep, 1, __ATOMIC_ACQ_REL);
  pthread_mutex_unlock(&p->mutex);
  return entered;
}

// True while it is worth to stay awake; *start = 0 begins the count.
QI__FN bool qi__spin(const qi_pool *p, uint64_t *start) {
  if (!p->may_spin) return false;
  uint64_t now = qi__now_us();
  if (!*start) *start = now;
  if (now - *start > QI__SPIN_US) return false;
  for (int i = 0; i < 4; i++) qi__cpu_pause();
  return true;
}

QI__FN void *qi__worker_main(void *arg) {
  qi_pool *p = (qi_pool *)arg;
  int worker = (int)__atomic_add_fetch(&p->n_started, 1, __ATOMIC_RELAXED);
  uint32_t seen = 0;
  qi__fp_enter();
  for (;;) {
    uint64_t start = 0;
    int entered;
    while ((entered = qi__gate_enter(p, worker, &seen)) == 0 && qi__worker_is_active(p, worker) && qi__spin(p, &start)) {
    }
    if (entered == 0) entered = qi__worker_sleep(p, worker, &seen);
    if (entered < 0) return NULL;
    if (entered == 0) continue;
    qi__job_work(&p->job, p->ranges, worker);
    qi__gate_leave(p);
  }
}

// Waits until no worker is inside the closed gate.
QI__FN void qi__gate_drain(qi_pool *p) {
  uint64_t start = 0;
  while (__atomic_load_n(&p->gate, __ATOMIC_ACQUIRE) & QI__GATE_INSIDE) {
    if (qi__spin(p, &start)) continue;
    pthread_mutex_lock(&p->mutex);
    __atomic_fetch_or(&p->gate, QI__GATE_WAITED, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&p->gate, __ATOMIC_ACQUIRE) & QI__GATE_INSIDE) pthread_cond_wait(&p->done, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
    return;
  }
}

// Wakes as many workers as have something to do, if some are asleep.
QI__FN void qi__pool_wake(qi_pool *p, size_t asleep) {
  size_t useful = p->job.n_pieces - 1;
  if (!asleep) return;
  pthread_mutex_lock(&p->mutex);
  if (useful >= asleep) pthread_cond_broadcast(&p->wake);
  for (size_t i = useful; useful < asleep && i > 0; i--) pthread_cond_signal(&p->wake);
  pthread_mutex_unlock(&p->mutex);
}

// The caller takes its first pieces before it opens the gate, and does nothing that waits for the gate's cache line, which is with
// a worker, before these are done (0.5 us on Zen 4). Who falls asleep just then is woken up after them.
QI__FN void qi__pool_run_threads(qi_pool *p) {
  uint32_t first = 0, n = qi__range_take(&p->ranges[0], true, &first);
  p->run = (p->run + 1) & (UINT32_MAX >> QI__GATE_RUN_SHIFT);
  __atomic_store_n(&p->gate, p->run << QI__GATE_RUN_SHIFT | QI__GATE_OPEN, __ATOMIC_RELEASE);
  qi__pool_wake(p, __atomic_load_n(&p->n_asleep, __ATOMIC_RELAXED));
  qi__job_pieces(&p->job, 0, first, n);
  qi__pool_wake(p, __atomic_fetch_add(&p->n_asleep, 0, __ATOMIC_ACQ_REL));
  qi__job_work(&p->job, p->ranges, 0);
  __atomic_fetch_and(&p->gate, ~QI__GATE_OPEN, __ATOMIC_ACQ_REL);
  qi__gate_drain(p);
}

// Ends and joins the workers that run.
QI__FN void qi__pool_stop_threads(qi_pool *p) {
  pthread_mutex_lock(&p->mutex);
  __atomic_store_n(&p->gate, QI__GATE_QUIT, __ATOMIC_SEQ_CST);
  pthread_cond_broadcast(&p->wake);
  pthread_cond_broadcast(&p->park);
  pthread_mutex_unlock(&p->mutex);
  for (int i = 0; i < p->n_workers; i++) pthread_join(p->threads[i], NULL);
  pthread_cond_destroy(&p->park);
  pthread_cond_destroy(&p->done);
  pthread_cond_destroy(&p->wake);
  pthread_mutex_destroy(&p->mutex);
}

// Sanitizers need larger stacks than we do.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QI__THREAD_STACK_DEFAULT 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define QI__THREAD_STACK_DEFAULT 1
#endif
#endif

// A small stack; the system's default where that is refused (glibc puts all thread-local data of the program on it).
QI__FN int qi__thread_create(pthread_t *thread, qi_pool *p) {
#ifndef QI__THREAD_STACK_DEFAULT
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) == 0) {
    int code = pthread_attr_setstacksize(&attr, QI__THREAD_STACK);
    if (code == 0) code = pthread_create(thread, &attr, qi__worker_main, p);
    pthread_attr_destroy(&attr);
    if (code == 0) return 0;
  }
#endif
  return pthread_create(thread, NULL, qi__worker_main, p);
}

// The mutex and what is waited for with it; false: nothing is left behind.
QI__FN bool qi__pool_open_locks(qi_pool *p) {
  pthread_cond_t *conds[] = {&p->wake, &p->done, &p->park};
  if (pthread_mutex_init(&p->mutex, NULL) != 0) return false;
  for (size_t i = 0; i < QI__COUNT_OF(conds); i++) {
    if (pthread_cond_init(conds[i], NULL) == 0) continue;
    while (i-- > 0) pthread_cond_destroy(conds[i]);
    pthread_mutex_destroy(&p->mutex);
    return false;
  }
  return true;
}

// Starts n_threads - 1 workers. They leave the host's signals to the host's threads; only what a thread does to itself, and
// profilers, reach them. Where the system has no more than the first n_start, these will do. On failure nothing is left behind.
QI__FN qi_result qi__pool_start_threads(qi_pool *p, qi_error *err) {
  int code = 0;
  p->gate = p->n_asleep = p->n_started = p->run = 0;
  p->n_workers = 0;
  p->may_spin = p->n_threads <= qi__cpu_count_logical();
  if (!qi__pool_open_locks(p)) return qi__fail(err, QI_ERR_OOM, "pool: no mutex or condition variable could be made");
#ifndef _WIN32
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (size_t i = 0; i < QI__COUNT_OF(own); i++) sigdelset(&blocked, own[i]);
  bool masked = pthread_sigmask(SIG_SETMASK, &blocked, &before) == 0;
#endif
  while (code == 0 && p->n_workers < p->n_threads - 1)
    if ((code = qi__thread_create(&p->threads[p->n_workers], p)) == 0) p->n_workers++;
#ifndef _WIN32
  if (masked) pthread_sigmask(SIG_SETMASK, &before, NULL);
#endif
  if (code != 0 && p->n_workers + 1 >= p->n_start) p->n_threads = p->n_workers + 1;
  if (p->n_workers + 1 == p->n_threads) return QI_OK;
  int failed = p->n_workers + 2; // the caller is the first
  qi__pool_stop_threads(p);
  return qi__fail(err, QI_ERR_OOM, "pool: thread %d of %d could not be started: %s", failed, p->n_threads, strerror(code));
}

#endif // QI_NO_THREADS

// ---- the pool ----

// Whether the pool has threads of its own to wake and join.
QI__INLINE bool qi__pool_has_threads(const qi_pool *p) {
#ifdef QI_NO_THREADS
  (void)p;
  return false;
#else
  return p->n_threads > 1 && !p->parallel.parallel_for;
#endif
}

// Runs fn over the units [0, n_units), which are taken in pieces of `grain` >= 1 units (more where there would be more than
// QI__PIECES_MAX): several that follow each other while there are many left, then one by one, so that uneven work balances. Returns
// when all are done. What fn wrote is then visible to the caller. The calling thread takes part as worker 0.
// fn must not run the same pool. One caller at a time. Allocates nothing, cannot fail.
QI__FN void qi__pool_run(qi_pool *p, qi__task_fn fn, void *arg, int64_t n_units, int64_t grain) {
  if (n_units <= 0) return;
  grain = qi__max_i64(qi__max_i64(grain, 1), (n_units - 1) / QI__PIECES_MAX + 1);
  size_t n_pieces = (size_t)((n_units - 1) / grain) + 1;
  bool alone = p->n_active == 1 || n_pieces == 1;
  p->job.fn = fn;
  p->job.arg = arg;
  p->job.n_units = n_units;
  p->job.grain = grain;
  p->job.n_pieces = n_pieces;
  p->job.n_ranges = qi__min_size(n_pieces, (size_t)p->n_active);
  for (size_t r = 0; r < p->job.n_ranges; r++)
    p->ranges[r].left = (uint32_t)qi__job_range(&p->job, r) | (uint32_t)qi__job_range(&p->job, r + 1) << 16;
  if (!alone && p->parallel.parallel_for) {
    p->parallel.parallel_for(p->parallel.user, qi__pool_host_index, p, (int)p->job.n_ranges);
    qi__pool_host_index(p, 0); // finds nothing, unless the host skipped indices
    return;
  }
  qi__fp_mode mode = qi__fp_enter();
  if (alone) qi__job_work(&p->job, p->ranges, 0);
#ifndef QI_NO_THREADS
  else qi__pool_run_threads(p);
#endif
  qi__fp_leave(mode);
}

// How many threads take part in the runs to come: 1..n_threads. Only between runs.
QI__FN void qi__pool_set_active(qi_pool *p, int n) {
  if (n == p->n_active) return;
#ifndef QI_NO_THREADS
  if (qi__pool_has_threads(p)) {
    pthread_mutex_lock(&p->mutex);
    __atomic_store_n(&p->n_active, n, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&p->wake); // each goes to sleep where it belongs
    pthread_cond_broadcast(&p->park);
    pthread_mutex_unlock(&p->mutex);
    return;
  }
#endif
  p->n_active = n;
}

// Memory of at least `bytes` bytes, aligned to QI__CACHE_LINE, for the caller of qi__pool_run until the next call of this function;
// what was in it is lost when it grows. NULL = the allocator gave none.
QI__FN void *qi__pool_scratch(qi_pool *p, size_t bytes) {
  if (bytes > p->scratch_bytes) {
    qi__free(&p->allocator, p->scratch, p->scratch_bytes);
    p->scratch_bytes = 0;
    p->scratch = qi__alloc(&p->allocator, bytes, QI__CACHE_LINE);
    if (p->scratch) p->scratch_bytes = bytes;
  }
  return p->scratch;
}

// Checks a desc (NULL = all defaults) and fills in what it leaves open; *p holds no threads yet.
QI__FN qi_result qi__pool_configure(qi_pool *p, const qi_pool_desc *desc, qi_error *err) {
  memset(p, 0, sizeof *p);
  int n = desc ? desc->n_threads : 0;
  if (n < 0) return qi__fail(err, QI_ERR_ARGUMENT, "pool: n_threads is %d, expected 0..%d", n, QI__THREADS_MAX);
  if (n > QI__THREADS_MAX) return qi__fail(err, QI_ERR_LIMIT, "pool: n_threads is %d, expected at most %d", n, QI__THREADS_MAX);
  if (desc) p->parallel = desc->parallel;
  if (p->parallel.parallel_for && n == 0)
    return qi__fail(err, QI_ERR_ARGUMENT, "pool: n_threads is 0; with parallel.parallel_for, expected how many calls run at once");
  qi_result r = qi__allocator_resolve(desc ? &desc->allocator : NULL, &p->allocator, err);
  if (r) return r;
  r = qi__isa_choose(desc ? desc->isa : QI_ISA_AUTO, &p->isa, &p->cpu, err);
  if (r) return r;
#ifdef QI_NO_THREADS
  if (!p->parallel.parallel_for) n = 1;
#endif
  p->n_threads = n ? n : (int)qi__min_i64(qi__cpu_count(), QI__THREADS_TUNED_MAX);
  p->may_change = n == 0;
  p->n_start = p->n_active = n ? n : (int)qi__min_i64(p->n_threads, QI__THREADS_DEFAULT_MAX);
  return QI_OK;
}

// A pool in memory of the caller's (a session embeds one). On failure nothing is left behind and *p must not be used.
// Errors: as qi_pool_open.
QI__FN qi_result qi__pool_init(qi_pool *p, const qi_pool_desc *desc, qi_error *err) {
  qi_result r = qi__pool_configure(p, desc, err);
#ifndef QI_NO_THREADS
  if (r == QI_OK && qi__pool_has_threads(p)) r = qi__pool_start_threads(p, err);
#endif
  return r;
}

// Only after a successful qi__pool_init; no run may be going on.
QI__FN void qi__pool_destroy(qi_pool *p) {
#ifndef QI_NO_THREADS
  if (qi__pool_has_threads(p)) qi__pool_stop_threads(p);
#endif
  qi__free(&p->allocator, p->scratch, p->scratch_bytes);
}

QI__FN qi_result qi__pool_open(qi_pool **out, const qi_pool_desc *desc, qi_error *err) {
  if (!out) return qi__fail(err, QI_ERR_ARGUMENT, "pool: out is NULL");
  *out = NULL;
  qi_allocator allocator = {NULL, NULL, NULL};
  qi_result r = qi__allocator_resolve(desc ? &desc->allocator : NULL, &allocator, err);
  if (r) return r;
  qi_pool *p = (qi_pool *)qi__alloc(&allocator, sizeof *p, QI__CACHE_LINE);
  if (!p) return qi__fail_oom(err, "pool", sizeof *p);
  r = qi__pool_init(p, desc, err);
  if (r) {
    qi__free(&allocator, p, sizeof *p);
    return r;
  }
  *out = p;
  return QI_OK;
}

QI__FN void qi__pool_close(qi_pool *p) {
  if (!p) return;
  qi_allocator allocator = p->allocator;
  qi__pool_destroy(p);
  qi__free(&allocator, p, sizeof *p);
}

#endif // QI__THREADS_H
