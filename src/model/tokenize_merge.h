// ==== >>tokenize_merge : merging neighbours, best pair first ====
#ifndef QI__TOKENIZE_MERGE_H
#define QI__TOKENIZE_MERGE_H

#include "vocab.h"

// Both tokenizers join neighbouring symbols until no pair is left that may be joined: always the pair with the smallest key, the
// leftmost among equals. Pairs wait in a binary heap; one that has changed meanwhile is left there and known by its symbol's key.

#define QI__NO_SYMBOL UINT32_MAX
#define QI__NO_PAIR UINT32_MAX // key of a symbol that cannot be joined with the next one, or is gone

typedef struct qi__symbol {
  uint32_t prev, next; // symbol n is the end; the first has no prev
  uint32_t start;      // SPM: where its text begins; it ends where the next one begins
  qi_token id;         // -1: no token
  uint32_t key;        // of the pair with the next symbol
  qi_token joined;     // and the token of both
} qi__symbol;

typedef struct qi__merger {
  const qi__vocab *v;
  qi__symbol *symbols; // [n + 1]
  uint64_t *heap;      // [2 * n] key << 32 | left symbol: every join takes one pair out and puts at most two in
  size_t n_heap;
  const char *text;    // SPM: what `start` counts in
  char *key;           // [max_token + 1] a text to look up
  const int *cancel;   // not 0 = leave everything unfinished; NULL = nobody stops it
  // Token and key of symbols `left` and `right` joined; false = they stay apart.
  bool (*pair)(const struct qi__merger *m, uint32_t left, uint32_t right, uint32_t *key, qi_token *joined);
} qi__merger;

QI__INLINE bool qi__merge_stopped(const qi__merger *m) { return m->cancel && __atomic_load_n(m->cancel, __ATOMIC_RELAXED); }

// Bytes of working memory for n symbols: symbols and heap.
#define QI__MERGE_BYTES (sizeof(qi__symbol) + 2 * sizeof(uint64_t))

QI__FN void qi__heap_down(uint64_t *heap, size_t n, size_t i) {
  uint64_t node = heap[i];
  for (size_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (node <= heap[child]) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = node;
}

QI__FN void qi__heap_push(uint64_t *heap, size_t *n, uint64_t node) {
  size_t i = (*n)++;
  for (; i && heap[(i - 1) / 2] > node; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
  heap[i] = node;
}

QI__FN uint64_t qi__heap_pop(uint64_t *heap, size_t *n) {
  uint64_t top = heap[0];
  heap[0] = heap[--*n];
  if (*n) qi__heap_down(heap, *n, 0);
  return top;
}

// Looks at the pair that begins with `left` anew; true = it may be joined.
QI__FN bool qi__merge_look(qi__merger *m, uint32_t left, uint32_t end) {
  qi__symbol *s = &m->symbols[left];
  s->key = QI__NO_PAIR;
  uint32_t key;
  if (s->next == end || !m->pair(m, left, s->next, &key, &s->joined)) return false;
  s->key = key;
  return true;
}

// Joins symbols 0..n-1 (start and id given; symbols[n].start too) as far as it goes. What remains is the list from symbol 0 on,
// unless it was stopped.
QI__FN void qi__merge(qi__merger *m, uint32_t n) {
  qi__symbol *s = m->symbols;
  for (uint32_t i = 0; i <= n; i++) {
    s[i].prev = i ? i - 1 : QI__NO_SYMBOL;
    s[i].next = i + 1;
  }
  m->n_heap = 0;
  for (uint32_t i = 0; i < n && !qi__merge_stopped(m); i++)
    if (qi__merge_look(m, i, n)) m->heap[m->n_heap++] = (uint64_t)s[i].key << 32 | i;
  for (size_t i = m->n_heap / 2; i-- > 0 && !qi__merge_stopped(m);) qi__heap_down(m->heap, m->n_heap, i);
  while (m->n_heap && !qi__merge_stopped(m)) {
    uint64_t top = qi__heap_pop(m->heap, &m->n_heap);
    uint32_t left = (uint32_t)top, prev = s[left].prev;
    if (s[left].key != (uint32_t)(top >> 32)) continue;
    uint32_t right = s[left].next;
    s[left].id = s[left].joined;
    s[right].key = QI__NO_PAIR;
    s[left].next = s[right].next;
    s[s[left].next].prev = left;
    if (qi__merge_look(m, left, n)) qi__heap_push(m->heap, &m->n_heap, (uint64_t)s[left].key << 32 | left);
    if (prev != QI__NO_SYMBOL && qi__merge_look(m, prev, n))
      qi__heap_push(m->heap, &m->n_heap, (uint64_t)s[prev].key << 32 | prev);
  }
}

// ---- what comes out ----

// Tokens for the caller: all are counted, those that fit are kept.
typedef struct qi__token_sink {
  qi_token *out;
  size_t cap, n;
} qi__token_sink;

QI__INLINE void qi__emit(qi__token_sink *sink, qi_token id) {
  if (sink->n < sink->cap) sink->out[sink->n] = id;
  sink->n++;
}

// A byte that no other token covers.
QI__INLINE void qi__emit_byte(qi__token_sink *sink, const qi__vocab *v, uint8_t byte) {
  qi_token id = v->byte_ids[byte] >= 0 ? v->byte_ids[byte] : v->special.unk;
  if (id >= 0) qi__emit(sink, id);
}

#endif // QI__TOKENIZE_MERGE_H
