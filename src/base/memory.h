// ==== >>memory : checked sizes, the allocator hook, arenas ====
#ifndef QI__MEMORY_H
#define QI__MEMORY_H

#include "error.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

// ---- sizes ----

// *out = a * b or a + b; false on overflow (then *out is unchanged).
QI__INLINE bool qi__mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
  if (b && a > UINT64_MAX / b) return false;
  *out = a * b;
  return true;
}
QI__INLINE bool qi__add_u64(uint64_t a, uint64_t b, uint64_t *out) {
  if (a > UINT64_MAX - b) return false;
  *out = a + b;
  return true;
}
QI__INLINE bool qi__mul_size(size_t a, size_t b, size_t *out) {
  if (b && a > SIZE_MAX / b) return false;
  *out = a * b;
  return true;
}
QI__INLINE bool qi__add_size(size_t a, size_t b, size_t *out) {
  if (a > SIZE_MAX - b) return false;
  *out = a + b;
  return true;
}

// n rounded up to a power of two; false on overflow.
QI__INLINE bool qi__align_up(size_t n, size_t align, size_t *out) {
  if (!qi__add_size(n, align - 1, out)) return false;
  *out &= ~(align - 1);
  return true;
}

// ---- huge pages ----

// Reading 5 GB of weights in pages of 4 KB is 1.2 million look-ups of addresses; in a virtual machine (Zen 4, two threads) 33 GB/s
// became 48 with pages of 2 MB. Linux gives them for the asking in its usual setting "madvise".
#define QI__HUGE_PAGE ((size_t)2 << 20)
#define QI__HUGE_FROM ((size_t)16 << 20) // bytes of a block from which they are asked for

// Asks for huge pages in n bytes at p, memory or a mapped file; whatever comes of it, what is in there stays.
QI__FN void qi__want_huge_pages(const void *p, size_t n) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  uintptr_t begin = ((uintptr_t)p + QI__HUGE_PAGE - 1) & ~(uintptr_t)(QI__HUGE_PAGE - 1);
  uintptr_t end = ((uintptr_t)p + n) & ~(uintptr_t)(QI__HUGE_PAGE - 1);
  if (n >= QI__HUGE_PAGE && begin < end) (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE); // may be refused
#else
  (void)p;
  (void)n;
#endif
}

// ---- allocator ----

// malloc aligns to 16 at most, so the default hook keeps the start of each block just below what it hands out.
static void *qi__malloc(size_t size, size_t align, void *user) {
  (void)user;
  size_t total;
  if (size >= QI__HUGE_FROM && align < QI__HUGE_PAGE) align = QI__HUGE_PAGE;
  if (align < sizeof(void *)) align = sizeof(void *);
  if (!qi__add_size(size, align + sizeof(void *), &total)) return NULL;
  char *block = (char *)malloc(total);
  if (!block) return NULL;
  uintptr_t p = ((uintptr_t)block + sizeof(void *) + align - 1) & ~(uintptr_t)(align - 1);
  ((void **)p)[-1] = block;
  if (size >= QI__HUGE_FROM) qi__want_huge_pages((void *)p, size);
  return (void *)p;
}

static void qi__malloc_free(void *ptr, size_t size, void *user) {
  (void)size;
  (void)user;
  free(((void **)ptr)[-1]);
}

// The hook of a desc with its default filled in.
QI__FN qi_result qi__allocator_resolve(const qi_allocator *hook, qi_allocator *out, qi_error *err) {
  out->alloc = qi__malloc;
  out->free = qi__malloc_free;
  out->user = NULL;
  if (hook && (!hook->alloc != !hook->free))
    return qi__fail(err, QI_ERR_ARGUMENT, "allocator: alloc and free must be given both, or neither");
  if (hook && hook->alloc) *out = *hook;
  return QI_OK;
}

QI__INLINE void *qi__alloc(const qi_allocator *a, size_t size, size_t align) { return a->alloc(size ? size : 1, align, a->user); }
QI__INLINE void qi__free(const qi_allocator *a, void *ptr, size_t size) {
  if (ptr) a->free(ptr, size ? size : 1, a->user);
}

// ---- arenas ----

// Memory of an object in one block. The same layout function runs twice: first with base NULL, which only counts, then over a block
// of that size. So the bytes that are announced are the bytes that are used.
typedef struct qi__arena {
  uint8_t *base; // NULL while counting; aligned to QI__CACHE_LINE
  size_t size;   // of the block; nothing beyond it is handed out
  size_t used;
  bool overflow; // a size did not fit into size_t: used means nothing
} qi__arena;

// n elements of `size` bytes, aligned to `align` (a power of two, at most QI__CACHE_LINE). NULL while counting, or
// when the block is full.
QI__FN void *qi__arena_take(qi__arena *a, size_t n, size_t size, size_t align) {
  size_t bytes, start, end;
  if (!qi__mul_size(n, size, &bytes) || !qi__align_up(a->used, align, &start) || !qi__add_size(start, bytes, &end) ||
      (a->base && end > a->size)) {
    a->overflow = true;
    return NULL;
  }
  a->used = end;
  return a->base ? a->base + start : NULL;
}

// Ends counting: asks for the block, so that the layout can run again. `what` names the object in the error.
QI__FN qi_result qi__arena_open(qi__arena *a, const qi_allocator *allocator, const char *what, qi_error *err) {
  if (a->overflow) return qi__fail(err, QI_ERR_LIMIT, "%s: does not fit into this machine's address space", what);
  a->size = a->used;
  a->used = 0;
  a->base = (uint8_t *)qi__alloc(allocator, a->size, QI__CACHE_LINE);
  return a->base ? QI_OK : qi__fail_oom(err, what, a->size);
}

QI__FN void qi__arena_close(qi__arena *a, const qi_allocator *allocator) {
  qi__free(allocator, a->base, a->size);
  memset(a, 0, sizeof *a);
}

#define QI__ARENA_ARRAY(arena, type, n) ((type *)qi__arena_take((arena), (n), sizeof(type), QI__CACHE_LINE))

#endif // QI__MEMORY_H
