// Runs a grid on the CPU: a fiber for each thread of a threadgroup. A fiber runs until it waits at a barrier or a simdgroup
// function; when all have come that far, those that wait together go on. Threadgroups run one after another.
//
// Never instrumented itself, but it tells the sanitizers about its fibers. The thread sanitizer sees each fiber as a thread of its
// own, ordered only by barriers that name memory: a missing one is a race even though all runs in turn.
#define _GNU_SOURCE
#include "msl_exec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// There in programs with a sanitizer only.
#define MAYBE __attribute__((weak))
MAYBE void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
MAYBE void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size);
MAYBE void *__tsan_create_fiber(unsigned flags);
MAYBE void *__tsan_get_current_fiber(void);
MAYBE void __tsan_switch_to_fiber(void *fiber, unsigned flags);
MAYBE void __tsan_acquire(void *address);
MAYBE void __tsan_release(void *address);

static void acquire(void *p) {
  if (__tsan_acquire) __tsan_acquire(p);
}
static void release(void *p) {
  if (__tsan_release) __tsan_release(p);
}

// The sanitizers watch libc's.
static void copy(void *to, const void *from, size_t n) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}
static void fill_nan(void *to, size_t n) { __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0xff) : "memory"); }

// ---- state ----

enum { STACK = 256 * 1024, MAX_THREADS = 1024, SIMD = 32, MAX_VALUE = 64, MAX_LOCALS = 64, SYNCS = 4096 };

typedef enum fiber_state { READY, AT_SIMD, AT_BARRIER, DONE } fiber_state;

// A stack, and the identity that the thread sanitizer gives it.
typedef struct context {
  char *stack;
  void *tsan;
} context;

typedef struct fiber {
  void *sp;
  context *context;
  void *asan;
  fiber_state state;
  unsigned line, flags;           // where it waits, and for which memory
  int exchanges;                  // a simdgroup function rather than a barrier
  unsigned char value[MAX_VALUE]; // that it brings to it
  int snapshot;
  uint32_t active; // lanes that took part
  msl_lane lane;
} fiber;

static fiber fibers[MAX_THREADS];
static int current = -1; // fiber; -1 = the host
static const msl_dispatch_args *now;
static void *shared[MSL_MAX_INDEX];
static struct {
  void *p;
  unsigned line;
} locals[MAX_LOCALS]; // threadgroup variables of kernels, by their line
static int n_locals;
// What all lanes of a simdgroup brought, twice: some may still read the last one.
static struct {
  unsigned char value[2][SIMD * MAX_VALUE];
  int last;
} exchanged[MAX_THREADS / SIMD];
// Addresses that order what the sanitizer sees; other ones for each threadgroup, so that threadgroups stay unordered.
static int group_sync[SYNCS], simd_sync[SYNCS], begin_sync, end_sync;
static unsigned generation;
static unsigned random_state;

void msl_fault(const char *what, unsigned line) {
  fprintf(stderr, "MSL fault: %s (kernel %s, MSL line %u, thread %u of threadgroup %u)\n", what, now ? now->entry->name : "?",
          line >> 10, current >= 0 ? fibers[current].lane.index_in_group : 0,
          current >= 0 ? fibers[current].lane.group_in_grid[0] : 0);
  abort();
}

// ---- switching ----

static struct {
  void *sp, *tsan, *asan;
  const void *stack;
  size_t stack_size;
} host;

void msl_swap(void **save, void *to);
#if defined(__x86_64__)
__asm__(".text\n.globl msl_swap\n.type msl_swap,@function\nmsl_swap:\n"
        " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        " mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
        " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n.size msl_swap,.-msl_swap\n");
#else
#error "a context switch for this machine is missing"
#endif

static void to_host(fiber *f, int dying) {
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(dying ? NULL : &f->asan, host.stack, host.stack_size);
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(host.tsan, 1);
  msl_swap(&f->sp, host.sp);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(f->asan, &host.stack, &host.stack_size);
}

static void to_fiber(int i) {
  fiber *f = &fibers[i];
  current = i;
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&host.asan, f->context->stack, STACK);
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(f->context->tsan, 1);
  msl_swap(&host.sp, f->sp);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(host.asan, NULL, NULL);
  current = -1;
}

// Where fibers begin.
static void fiber_main(void) {
  fiber *f = &fibers[current];
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(NULL, &host.stack, &host.stack_size);
  acquire(&begin_sync);
  msl_env env = {(void **)now->buffers, shared, &f->lane};
  now->entry->run(&env);
  release(&end_sync);
  fibers[current].state = DONE;
  to_host(&fibers[current], 1);
}

// The sanitizer tells 256 threads apart, so identities are used again, by another thread of the next threadgroup: else the two
// threadgroups would be ordered.
enum { IDENTITIES = 240, IDENTITY_SHIFT = 31 };

static void fiber_start(int i) {
  static context contexts[MAX_THREADS];
  unsigned identity = (unsigned)i;
  if (__tsan_create_fiber && i < IDENTITIES) identity = ((unsigned)i + generation * IDENTITY_SHIFT) % IDENTITIES;
  context *c = &contexts[identity];
  if (!c->stack) {
    c->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(c->stack, 4096, PROT_NONE);
    if (__tsan_create_fiber) c->tsan = __tsan_create_fiber(0);
  }
  void **sp = (void **)(c->stack + STACK);
  *--sp = NULL; // keeps the alignment at entry
  *--sp = (void *)fiber_main;
  for (int k = 0; k < 6; k++) *--sp = NULL; // registers
  fibers[i].context = c;
  fibers[i].sp = sp;
  fibers[i].state = READY;
}

// ---- what kernels call (include/metal_stdlib) ----

msl_lane *msl_self(void) { return &fibers[current].lane; }

// Brings a value to the simdgroup; returns those of all lanes, MAX_VALUE apart, and which took part.
const unsigned char *msl_exchange(const void *in, unsigned size, unsigned line, uint32_t *active) {
  fiber *f = &fibers[current];
  copy(f->value, in, size);
  f->state = AT_SIMD;
  f->line = line;
  f->exchanges = 1;
  f->flags = 0;
  to_host(f, 0);
  f = &fibers[current];
  *active = f->active;
  return exchanged[f->lane.simd_in_group].value[f->snapshot];
}

// Waits for the others. Only a barrier that names memory (flags) orders what is written to it.
static void wait_at(fiber_state state, unsigned flags, unsigned line, int *sync) {
  fiber *f = &fibers[current];
  f->state = state;
  f->line = line;
  f->exchanges = 0;
  f->flags = flags;
  if (flags) release(sync);
  to_host(f, 0);
  if (flags) acquire(sync);
}
void msl_simd_barrier(unsigned flags, unsigned line) {
  wait_at(AT_SIMD, flags, line, &simd_sync[(generation * SIMD + fibers[current].lane.simd_in_group) % SYNCS]);
}
void msl_tg_barrier(unsigned flags, unsigned line) { wait_at(AT_BARRIER, flags, line, &group_sync[generation % SYNCS]); }

// Threadgroup memory is filled with NaN. Under the address sanitizer each piece is an allocation of its exact size; under the
// thread sanitizer no address comes twice soon, else threadgroups would seem to share.
static void *group_memory(size_t n) {
  enum { ARENA = 64 << 20 };
  static char *arena;
  static size_t used;
  if (!__tsan_acquire) {
    void *p = malloc(n);
    fill_nan(p, n);
    return p;
  }
  if (!arena || used + n > ARENA) {
    if (arena) munmap(arena, ARENA);
    arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    used = 0;
  }
  void *p = arena + used;
  used += (n + 63) & ~(size_t)63;
  fill_nan(p, n);
  return p;
}
static void group_memory_free(void *p) {
  if (!__tsan_acquire) free(p);
}

// A threadgroup variable of a kernel: the same for all its threads.
void *msl_tg_local(unsigned long n, unsigned line) {
  for (int i = 0; i < n_locals; i++)
    if (locals[i].line == line) return locals[i].p;
  if (n_locals == MAX_LOCALS) msl_fault("too many threadgroup variables", line);
  locals[n_locals].line = line;
  return locals[n_locals++].p = group_memory(n);
}

// ---- scheduling ----

// Lets those fibers of a simdgroup go on that wait at `line`.
static void simd_go_on(int simd, int first, int end, unsigned line, int divergent) {
  uint32_t active = 0;
  unsigned flags = 0;
  int exchanges = 0, snapshot = exchanged[simd].last ^= 1;
  for (int i = first; i < end; i++) {
    const fiber *f = &fibers[i];
    if (f->state != AT_SIMD || f->line != line) continue;
    active |= 1u << (i - first);
    exchanges |= f->exchanges;
    flags |= f->flags;
    copy(exchanged[simd].value[snapshot] + MAX_VALUE * (i - first), f->value, MAX_VALUE);
  }
  current = first;
  if (divergent && !exchanges && flags) msl_fault("simdgroup_barrier in divergent control flow", line);
  current = -1;
  for (int i = first; i < end; i++) {
    if (!(active >> (i - first) & 1)) continue;
    fibers[i].active = active;
    fibers[i].snapshot = snapshot;
    fibers[i].state = READY;
  }
}

// Each simdgroup whose fibers wait for one another goes on: those at the earliest place in the text first. 0: there is none.
static int simds_go_on(int n) {
  int any = 0;
  for (int first = 0; first < n; first += SIMD) {
    int end = first + SIMD < n ? first + SIMD : n, waiting = 0, others = 0;
    unsigned line = ~0u, last = 0;
    for (int i = first; i < end; i++) {
      const fiber *f = &fibers[i];
      if (f->state != AT_SIMD) {
        others = 1;
        continue;
      }
      waiting = 1;
      if (f->line < line) line = f->line;
      if (f->line > last) last = f->line;
    }
    if (waiting) simd_go_on(first / SIMD, first, end, line, others || line != last);
    any |= waiting;
  }
  return any;
}

// All fibers have ended (1), or all wait at the same barrier and go on (0); anything else is a fault.
static int group_goes_on(int n) {
  int done = 0, at = -1;
  for (int i = 0; i < n; i++) {
    if (fibers[i].state == DONE)
      done++;
    else
      at = i;
  }
  if (done == n) return 1;
  current = at;
  if (done) msl_fault("threadgroup_barrier not reached by every thread of the threadgroup", fibers[at].line);
  for (int i = 0; i < n; i++)
    if (fibers[i].line != fibers[at].line)
      msl_fault("threads of one threadgroup wait at different threadgroup_barriers", fibers[at].line);
  current = -1;
  for (int i = 0; i < n; i++) fibers[i].state = READY;
  return 0;
}

static unsigned next_random(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  random_state ^= random_state << 5;
  return random_state;
}

// Runs n fibers to their ends.
static void run_group(int n) {
  int order[MAX_THREADS];
  for (int i = 0; i < n; i++) order[i] = now->order == 1 ? n - 1 - i : i;
  for (;;) {
    for (int i = n - 1; now->order >= 2 && i > 0; i--) {
      int j = (int)(next_random() % (unsigned)(i + 1)), t = order[i];
      order[i] = order[j];
      order[j] = t;
    }
    for (int k = 0; k < n; k++)
      if (fibers[order[k]].state == READY) to_fiber(order[k]);
    if (simds_go_on(n)) continue;
    if (group_goes_on(n)) return;
  }
}

// Places fiber i of a threadgroup of `size` at `group` of n_groups.
static void place(int i, int n, const uint32_t group[3], const uint32_t size[3], const uint32_t n_groups[3]) {
  msl_lane *l = &fibers[i].lane;
  const uint32_t u = (uint32_t)i, at[3] = {u % size[0], u / size[0] % size[1], u / size[0] / size[1]};
  for (int k = 0; k < 3; k++) {
    l->thread_in_group[k] = at[k];
    l->group_in_grid[k] = group[k];
    l->thread_in_grid[k] = group[k] * now->group[k] + at[k];
    l->threads_per_group[k] = size[k];
    l->dispatched_per_group[k] = now->group[k];
    l->groups_per_grid[k] = n_groups[k];
    l->threads_per_grid[k] = now->grid[k];
  }
  l->index_in_group = u;
  l->index_in_simd = u % SIMD;
  l->simd_in_group = u / SIMD;
  l->n_simds = (uint32_t)(n + SIMD - 1) / SIMD;
  l->simd_width = SIMD;
}

void msl_dispatch(const msl_dispatch_args *args) {
  static msl_dispatch_args own; // of the caller's stack the sanitizers would see too much
  copy(&own, args, sizeof own);
  now = &own;
  random_state = now->order >= 2 ? (unsigned)now->order * 2654435761u | 1 : 1;
  host.tsan = __tsan_get_current_fiber ? __tsan_get_current_fiber() : NULL;
  if (!now->concurrent) acquire(&end_sync);
  uint32_t n_groups[3];
  for (int k = 0; k < 3; k++) n_groups[k] = (now->grid[k] + now->group[k] - 1) / now->group[k];
  uint64_t total = (uint64_t)n_groups[0] * n_groups[1] * n_groups[2];
  for (uint64_t i = 0; i < total; i++) {
    uint64_t g = now->order == 1 ? total - 1 - i : now->order >= 2 ? (i + (uint64_t)now->order) % total : i;
    uint32_t size[3], group[3] = {(uint32_t)(g % n_groups[0]), (uint32_t)(g / n_groups[0] % n_groups[1]),
                                  (uint32_t)(g / n_groups[0] / n_groups[1])};
    int n = 1;
    for (int k = 0; k < 3; k++) {
      uint32_t left = now->grid[k] - group[k] * now->group[k];
      size[k] = left < now->group[k] ? left : now->group[k];
      n *= (int)size[k];
    }
    for (int k = 0; k < MSL_MAX_INDEX; k++) shared[k] = now->shared[k] ? group_memory(now->shared[k]) : NULL;
    n_locals = 0;
    generation++;
    release(&begin_sync);
    for (int k = 0; k < n; k++) {
      fiber_start(k);
      place(k, n, group, size, n_groups);
    }
    run_group(n);
    for (int k = 0; k < MSL_MAX_INDEX; k++)
      if (shared[k]) group_memory_free(shared[k]);
    for (int k = 0; k < n_locals; k++) group_memory_free(locals[k].p);
  }
  now = NULL;
}

void msl_finish(void) { acquire(&end_sync); }
