// ==== >>automaton : states of a grammar, found as they are needed ====
#ifndef QI__AUTOMATON_H
#define QI__AUTOMATON_H

#include "grammar.h"

// After some bytes a grammar may be at several places at once, each with the calls it has to return from. A place is a pair
//
//   pc << 32 | stack          stack: a set of pairs (where to go on, stack below)
//
// and a state is a set of places; all calls of a rule at the same byte share one stack, as in Earley's parser, so that ambiguous
// grammars do not multiply. Equal sets have equal numbers: states make a finite automaton whose transitions are looked up after
// they were computed once. Calls with nothing behind them leave no trace.
#define QI__GRAMMAR_ACCEPT UINT32_MAX // pc behind the root rule
#define QI__AUTOMATON_STATES 4096
#define QI__AUTOMATON_STACKS 4096
#define QI__AUTOMATON_MASKS 128
#define QI__AUTOMATON_MAX_PLACES ((size_t)1 << 17) // looked at for one byte

// In place of the number of a state.
#define QI__STATE_DEAD 0u             // no text goes on so
#define QI__STATE_UNKNOWN UINT32_MAX  // not computed yet
#define QI__STATE_FULL (UINT32_MAX - 1)
#define QI__STATE_COMPLEX (UINT32_MAX - 2)
#define QI__STATE_MAX (UINT32_MAX - 3)

QI__INLINE uint64_t qi__pair(uint32_t pc, uint32_t stack) { return (uint64_t)pc << 32 | stack; }

// ---- sets of numbers, each kept once ----

typedef struct qi__sets {
  uint64_t *items;  // [cap_items] of all sets, each sorted
  size_t *start;    // [cap + 1] set i is items[start[i]] to items[start[i + 1] - 1]
  uint32_t *slots;  // [n_slots] set plus 1, by hash; n_slots a power of two
  size_t n, cap, cap_items, n_slots;
} qi__sets;

QI__FN void qi__sets_layout(qi__sets *s, qi__arena *arena, size_t cap, size_t cap_items) {
  s->cap = cap;
  s->cap_items = cap_items;
  for (s->n_slots = 1; s->n_slots < 2 * cap;) s->n_slots *= 2;
  s->items = QI__ARENA_ARRAY(arena, uint64_t, cap_items);
  s->start = QI__ARENA_ARRAY(arena, size_t, cap + 1);
  s->slots = QI__ARENA_ARRAY(arena, uint32_t, s->n_slots);
}

QI__FN void qi__sets_clear(qi__sets *s) {
  s->n = 0;
  s->start[0] = 0;
  memset(s->slots, 0, s->n_slots * sizeof *s->slots);
}

QI__INLINE uint64_t qi__mix(uint64_t h, uint64_t x) {
  h = (h ^ x) * 0x9e3779b97f4a7c15u;
  return h ^ h >> 29;
}

// Where a set is or belongs.
QI__FN uint32_t *qi__sets_slot(const qi__sets *s, const uint64_t *items, size_t n) {
  uint64_t h = n;
  for (size_t i = 0; i < n; i++) h = qi__mix(h, items[i]);
  for (size_t slot = (size_t)(h >> 7) & (s->n_slots - 1);; slot = (slot + 1) & (s->n_slots - 1)) {
    uint32_t id = s->slots[slot];
    if (!id) return &s->slots[slot];
    size_t begin = s->start[id - 1];
    if (s->start[id] - begin == n && !memcmp(s->items + begin, items, n * sizeof *items)) return &s->slots[slot];
  }
}

// Number of a sorted set; QI__STATE_FULL when it is new and there is no room.
QI__FN uint32_t qi__sets_put(qi__sets *s, const uint64_t *items, size_t n) {
  uint32_t *slot = qi__sets_slot(s, items, n);
  if (*slot) return *slot - 1;
  if (s->n == s->cap || n > s->cap_items - s->start[s->n]) return QI__STATE_FULL;
  memcpy(s->items + s->start[s->n], items, n * sizeof *items);
  s->start[s->n + 1] = s->start[s->n] + n;
  *slot = (uint32_t)++s->n;
  return *slot - 1;
}

// Keeps the sets whose `number` is not 0, and gives them numbers in the order they had: number[i] becomes the new one. Stacks
// inside are renamed by `stacks`, which is in order too, so sets stay sorted.
QI__FN void qi__sets_keep(qi__sets *s, uint32_t *number, const uint32_t *stacks) {
  size_t n = s->n, begin = 0;
  qi__sets_clear(s);
  for (size_t i = 0; i < n; i++) {
    size_t end = s->start[i + 1], len = end - begin, to = s->start[s->n];
    if (number[i]) {
      for (size_t k = 0; k < len; k++) {
        uint64_t pair = s->items[begin + k];
        s->items[to + k] = qi__pair((uint32_t)(pair >> 32), stacks[(uint32_t)pair]);
      }
      *qi__sets_slot(s, s->items + to, len) = (uint32_t)(s->n + 1);
      number[i] = (uint32_t)s->n++;
      s->start[s->n] = to + len;
    }
    begin = end;
  }
}

// Heap sort, and equals once; returns how many are left.
QI__FN size_t qi__sort_unique(uint64_t *x, size_t n) {
  for (size_t end = n, top = n / 2; end > 1;) {
    uint64_t v;
    if (top) {
      v = x[--top];
    } else {
      v = x[--end];
      x[end] = x[0];
    }
    size_t i = top;
    for (size_t child; (child = 2 * i + 1) < end; i = child) {
      if (child + 1 < end && x[child + 1] > x[child]) child++;
      if (x[child] <= v) break;
      x[i] = x[child];
    }
    x[i] = v;
  }
  size_t m = 0;
  for (size_t i = 0; i < n; i++)
    if (!i || x[i] != x[i - 1]) x[m++] = x[i];
  return m;
}

// ---- the automaton ----

#define QI__STACK_OPEN 0x80000000u // with the number of a rule: its stack at this byte, which is not complete yet

// A call of a rule: what its stack will hold.
typedef struct qi__grammar_caller {
  uint64_t pair;  // where to go on, and the stack below; pc QI__GRAMMAR_ACCEPT - 1: nothing follows, so what that stack holds
  uint32_t next;  // caller of the same rule, plus 1
} qi__grammar_caller;

// One sequence's place in the automaton.
struct qi_matcher {
  struct qi__automaton *automaton;
  qi_matcher *next; // in the automaton's list
  uint32_t state;
  qi_allocator allocator;
};

typedef struct qi__automaton {
  const qi_grammar *grammar;
  qi__sets stacks, states;
  uint32_t *next;           // [cap of states, n_classes]
  uint32_t *masks;          // [QI__AUTOMATON_MASKS, n_words] allowed tokens
  uint32_t *mask_owner;     // [QI__AUTOMATON_MASKS] state, UNKNOWN = free
  uint32_t *mask_of;        // [cap of states] mask, UNKNOWN = none
  uint32_t mask_hand;       // the one that is given up next
  uint32_t start;           // the state before any text; never forgotten
  qi_matcher *matchers;     // all that are in a state
  uint32_t *path;           // [max_depth + 1] states along the bytes of a token; those in use are path[0..n_path)
  size_t n_path;
  char *piece;              // [max_token] bytes of one token

  // While a state is computed.
  size_t max_places, n_seen, n_found, n_callers, n_open;
  uint64_t *seen;           // [max_places] places, in the order they were found
  uint32_t *seen_slots;     // [2 * max_places] index in seen plus 1
  uint64_t *found;          // [max_places] places that take a byte
  qi__grammar_caller *callers; // [max_places]
  uint64_t *gathered;       // [max_places] one stack
  uint64_t *open;           // [n_rules] rank << 32 | rule of rules that begin here
  uint32_t *open_callers;   // [n_rules] first caller plus 1, 0 = not begun here
  uint32_t *open_stack;     // [n_rules] when it is complete
  uint32_t *keep;           // [cap of states], and of stacks behind it

  int refs;
  qi_allocator allocator;
  size_t bytes;
} qi__automaton;

#define QI__GRAMMAR_TAIL (QI__GRAMMAR_ACCEPT - 1)

// Fills in *a and returns where it is to be kept: at the beginning of the block.
QI__FN qi__automaton *qi__automaton_layout(qi__automaton *a, qi__arena *arena, const qi_grammar *g) {
  qi__automaton *home = QI__ARENA_ARRAY(arena, qi__automaton, 1);
  memset(a, 0, sizeof *a);
  const qi__grammar_program *p = &g->program;
  size_t n = qi__min_size(2 * p->n_code + 4096, QI__AUTOMATON_MAX_PLACES), places = 4096;
  while (places < n) places *= 2;
  a->grammar = g;
  a->max_places = places;
  qi__sets_layout(&a->stacks, arena, QI__AUTOMATON_STACKS, 4 * QI__AUTOMATON_STACKS + 2 * places);
  qi__sets_layout(&a->states, arena, QI__AUTOMATON_STATES, 16 * QI__AUTOMATON_STATES + 2 * places);
  a->next = QI__ARENA_ARRAY(arena, uint32_t, QI__AUTOMATON_STATES * (size_t)p->n_classes);
  a->masks = QI__ARENA_ARRAY(arena, uint32_t, QI__AUTOMATON_MASKS * g->trie->n_words);
  a->mask_owner = QI__ARENA_ARRAY(arena, uint32_t, QI__AUTOMATON_MASKS);
  a->mask_of = QI__ARENA_ARRAY(arena, uint32_t, QI__AUTOMATON_STATES);
  a->path = QI__ARENA_ARRAY(arena, uint32_t, g->trie->max_depth + 2);
  a->piece = QI__ARENA_ARRAY(arena, char, g->model->vocab.max_token);
  a->seen = QI__ARENA_ARRAY(arena, uint64_t, places);
  a->seen_slots = QI__ARENA_ARRAY(arena, uint32_t, 2 * places);
  a->found = QI__ARENA_ARRAY(arena, uint64_t, places);
  a->callers = QI__ARENA_ARRAY(arena, qi__grammar_caller, places);
  a->gathered = QI__ARENA_ARRAY(arena, uint64_t, places);
  a->open = QI__ARENA_ARRAY(arena, uint64_t, p->n_rules);
  a->open_callers = QI__ARENA_ARRAY(arena, uint32_t, p->n_rules);
  a->open_stack = QI__ARENA_ARRAY(arena, uint32_t, p->n_rules);
  a->keep = QI__ARENA_ARRAY(arena, uint32_t, QI__AUTOMATON_STATES + QI__AUTOMATON_STACKS);
  return home;
}

// ---- places ----

// Notes a place once. False when there are too many.
QI__FN bool qi__automaton_see(qi__automaton *a, uint32_t pc, uint32_t stack) {
  uint64_t pair = qi__pair(pc, stack);
  size_t mask = 2 * a->max_places - 1, slot = (size_t)(qi__mix(0, pair) >> 7) & mask;
  for (; a->seen_slots[slot]; slot = (slot + 1) & mask)
    if (a->seen[a->seen_slots[slot] - 1] == pair) return true;
  if (a->n_seen == a->max_places) return false;
  a->seen[a->n_seen++] = pair;
  a->seen_slots[slot] = (uint32_t)a->n_seen;
  return true;
}

QI__FN void qi__automaton_forget(qi__automaton *a) {
  size_t mask = 2 * a->max_places - 1;
  if (a->n_seen * 8 > a->max_places) {
    memset(a->seen_slots, 0, 2 * a->max_places * sizeof *a->seen_slots);
  } else {
    for (size_t i = 0; i < a->n_seen; i++) { // a run of slots begins at the hash of its first place
      size_t slot = (size_t)(qi__mix(0, a->seen[i]) >> 7) & mask;
      for (; a->seen_slots[slot]; slot = (slot + 1) & mask) a->seen_slots[slot] = 0;
    }
  }
  for (size_t i = 0; i < a->n_open; i++) a->open_callers[(uint32_t)a->open[i]] = 0;
  a->n_seen = a->n_found = a->n_callers = a->n_open = 0;
}

// A rule is called: it begins here, and where it can be empty, what follows does too.
QI__FN bool qi__automaton_call(qi__automaton *a, uint32_t pc, uint32_t stack) {
  const qi__grammar_program *p = &a->grammar->program;
  const qi__grammar_instr *i = &p->code[pc];
  uint32_t rule = (uint32_t)i->arg;
  if (a->n_callers == a->max_places) return false;
  if (!a->open_callers[rule]) a->open[a->n_open++] = qi__pair(p->rank[rule], rule);
  a->callers[a->n_callers] = (qi__grammar_caller){qi__pair(i->lo ? QI__GRAMMAR_TAIL : pc + 1, stack), a->open_callers[rule]};
  a->open_callers[rule] = (uint32_t)++a->n_callers;
  return qi__automaton_see(a, p->start[rule], QI__STACK_OPEN | rule) && (!p->nullable[rule] || qi__automaton_see(a, pc + 1, stack));
}

// The end of a rule: goes on wherever it was called. Not from a stack that begins here: that is the empty text, see above.
QI__FN bool qi__automaton_return(qi__automaton *a, uint32_t stack) {
  if (stack & QI__STACK_OPEN) return true;
  for (size_t i = a->stacks.start[stack]; i < a->stacks.start[stack + 1]; i++)
    if (!qi__automaton_see(a, (uint32_t)(a->stacks.items[i] >> 32), (uint32_t)a->stacks.items[i])) return false;
  return true;
}

// From the places in `seen` on, all that can be reached without a byte; `found` are those that take one, or end the text.
QI__FN bool qi__automaton_close_over(qi__automaton *a) {
  const qi__grammar_instr *code = a->grammar->program.code;
  for (size_t k = 0; k < a->n_seen; k++) {
    uint32_t pc = (uint32_t)(a->seen[k] >> 32), stack = (uint32_t)a->seen[k];
    bool room = true;
    if (pc == QI__GRAMMAR_ACCEPT) {
      a->found[a->n_found++] = a->seen[k];
      continue;
    }
    const qi__grammar_instr *i = &code[pc];
    uint32_t target = (uint32_t)((int64_t)pc + i->arg);
    switch (i->op) {
    case QI__GRAMMAR_BYTE: a->found[a->n_found++] = a->seen[k]; break;
    case QI__GRAMMAR_SPLIT: room = qi__automaton_see(a, pc + 1, stack) && qi__automaton_see(a, target, stack); break;
    case QI__GRAMMAR_JUMP: room = qi__automaton_see(a, target, stack); break;
    case QI__GRAMMAR_CALL: room = qi__automaton_call(a, pc, stack); break;
    case QI__GRAMMAR_RETURN: room = qi__automaton_return(a, stack); break;
    }
    if (!room) return false;
  }
  return true;
}

QI__INLINE uint32_t qi__automaton_stack(const qi__automaton *a, uint32_t stack) {
  return stack & QI__STACK_OPEN ? a->open_stack[stack & ~QI__STACK_OPEN] : stack;
}

// Completes the stacks of the rules that begin here, callers before those they call. Returns 0, or why it failed.
QI__FN uint32_t qi__automaton_stacks(qi__automaton *a) {
  a->n_open = qi__sort_unique(a->open, a->n_open);
  for (size_t k = 0; k < a->n_open; k++) {
    uint32_t rule = (uint32_t)a->open[k];
    size_t n = 0;
    for (uint32_t c = a->open_callers[rule]; c; c = a->callers[c - 1].next) {
      uint32_t pc = (uint32_t)(a->callers[c - 1].pair >> 32);
      uint32_t stack = qi__automaton_stack(a, (uint32_t)a->callers[c - 1].pair);
      size_t more = pc == QI__GRAMMAR_TAIL ? a->stacks.start[stack + 1] - a->stacks.start[stack] : 1;
      if (more > a->max_places - n) return QI__STATE_COMPLEX;
      if (pc == QI__GRAMMAR_TAIL) memcpy(a->gathered + n, a->stacks.items + a->stacks.start[stack], more * sizeof *a->gathered);
      else a->gathered[n] = qi__pair(pc, stack);
      n += more;
    }
    a->open_stack[rule] = qi__sets_put(&a->stacks, a->gathered, qi__sort_unique(a->gathered, n));
    if (a->open_stack[rule] == QI__STATE_FULL) return QI__STATE_FULL;
  }
  return 0;
}

// Number of the state of these places, sorted; QI__STATE_FULL when it is new and there is no room.
QI__FN uint32_t qi__automaton_put(qi__automaton *a, const uint64_t *places, size_t n) {
  size_t before = a->states.n, n_classes = a->grammar->program.n_classes;
  uint32_t id = qi__sets_put(&a->states, places, n);
  if (a->states.n > before) {
    memset(a->next + id * n_classes, 0xff, n_classes * sizeof *a->next); // UNKNOWN
    a->mask_of[id] = QI__STATE_UNKNOWN;
  }
  return id;
}

// The state of the places in `seen`, and what follows from them.
QI__FN uint32_t qi__automaton_state(qi__automaton *a) {
  uint32_t id = qi__automaton_close_over(a) ? qi__automaton_stacks(a) : QI__STATE_COMPLEX;
  if (!id) {
    for (size_t i = 0; i < a->n_found; i++)
      a->found[i] = qi__pair((uint32_t)(a->found[i] >> 32), qi__automaton_stack(a, (uint32_t)a->found[i]));
    id = qi__automaton_put(a, a->found, qi__sort_unique(a->found, a->n_found));
  }
  qi__automaton_forget(a);
  return id;
}

// The state after one more byte.
QI__FN uint32_t qi__automaton_compute(qi__automaton *a, uint32_t state, uint8_t byte) {
  const qi__grammar_instr *code = a->grammar->program.code;
  for (size_t i = a->states.start[state]; i < a->states.start[state + 1]; i++) {
    uint32_t pc = (uint32_t)(a->states.items[i] >> 32);
    if (pc == QI__GRAMMAR_ACCEPT || byte < code[pc].lo || byte > code[pc].hi) continue;
    if (!qi__automaton_see(a, pc + 1, (uint32_t)a->states.items[i])) {
      qi__automaton_forget(a);
      return QI__STATE_COMPLEX;
    }
  }
  return qi__automaton_state(a);
}

QI__FN bool qi__automaton_can_end(const qi__automaton *a, uint32_t state) { // the greatest pc is the last
  size_t end = a->states.start[state + 1];
  return end > a->states.start[state] && a->states.items[end - 1] >> 32 == QI__GRAMMAR_ACCEPT;
}

// ---- memory ----

// An automaton with the stack below all, the dead state and the start; false when that is too complex.
QI__FN bool qi__automaton_init(qi__automaton *a) {
  const qi__grammar_program *p = &a->grammar->program;
  uint64_t bottom = qi__pair(QI__GRAMMAR_ACCEPT, 0);
  qi__sets_clear(&a->stacks);
  qi__sets_clear(&a->states);
  qi__sets_put(&a->stacks, &bottom, 1);
  qi__sets_put(&a->states, &bottom, 0);
  memset(a->seen_slots, 0, 2 * a->max_places * sizeof *a->seen_slots);
  memset(a->open_callers, 0, p->n_rules * sizeof *a->open_callers);
  memset(a->next, 0, p->n_classes * sizeof *a->next);
  memset(a->mask_owner, 0xff, QI__AUTOMATON_MASKS * sizeof *a->mask_owner);
  a->mask_of[0] = QI__STATE_UNKNOWN;
  qi__automaton_see(a, p->start[p->root], 0);
  a->start = qi__automaton_state(a);
  return a->start <= QI__STATE_MAX;
}

// Forgets all but the states that matchers and the path are in, and their stacks. A stack is newer than those below it.
QI__FN void qi__automaton_collect(qi__automaton *a) {
  uint32_t *states = a->keep, *stacks = a->keep + QI__AUTOMATON_STATES;
  memset(a->keep, 0, (QI__AUTOMATON_STATES + QI__AUTOMATON_STACKS) * sizeof *a->keep);
  states[0] = states[a->start] = stacks[0] = 1;
  for (const qi_matcher *m = a->matchers; m; m = m->next) states[m->state] = 1;
  for (size_t i = 0; i < a->n_path; i++) states[a->path[i]] = 1;
  for (size_t s = 0; s < a->states.n; s++)
    for (size_t i = a->states.start[s]; states[s] && i < a->states.start[s + 1]; i++) stacks[(uint32_t)a->states.items[i]] = 1;
  for (size_t s = a->stacks.n; s-- > 0;)
    for (size_t i = a->stacks.start[s]; stacks[s] && i < a->stacks.start[s + 1]; i++) stacks[(uint32_t)a->stacks.items[i]] = 1;
  // Numbers follow in order: what is below a stack has its new one when it is looked at.
  qi__sets_keep(&a->stacks, stacks, stacks);
  qi__sets_keep(&a->states, states, stacks);
  a->start = states[a->start];
  for (qi_matcher *m = a->matchers; m; m = m->next) m->state = states[m->state];
  for (size_t i = 0; i < a->n_path; i++) a->path[i] = states[a->path[i]];
  size_t n_classes = a->grammar->program.n_classes;
  memset(a->next, 0xff, a->states.n * n_classes * sizeof *a->next);
  memset(a->next, 0, n_classes * sizeof *a->next); // what is dead stays dead
  memset(a->mask_of, 0xff, a->states.n * sizeof *a->mask_of);
  memset(a->mask_owner, 0xff, QI__AUTOMATON_MASKS * sizeof *a->mask_owner);
}

// ---- steps ----

QI__FN qi_result qi__automaton_fail(uint32_t why, qi_error *err) {
  if (why == QI__STATE_COMPLEX)
    return qi__fail(err, QI_ERR_LIMIT, "grammar: the text can be read in more than %zu ways", QI__AUTOMATON_MAX_PLACES);
  return qi__fail(err, QI_ERR_LIMIT, "grammar: rules within rules deeper than some %d", QI__AUTOMATON_STACKS);
}

// Goes from the last state of the path by one byte; the new state is appended, dead or not.
QI__FN qi_result qi__automaton_step(qi__automaton *a, uint8_t byte, qi_error *err) {
  const qi__grammar_program *p = &a->grammar->program;
  uint8_t c = p->byte_class[byte];
  for (int attempt = 0;; attempt++) {
    uint32_t from = a->path[a->n_path - 1];
    uint32_t *next = &a->next[from * (size_t)p->n_classes + c];
    if (*next == QI__STATE_UNKNOWN) {
      uint32_t to = qi__automaton_compute(a, from, p->class_byte[c]);
      if (to == QI__STATE_FULL && attempt == 0) {
        qi__automaton_collect(a);
        continue;
      }
      if (to > QI__STATE_MAX) return qi__automaton_fail(to, err);
      *next = to;
    }
    a->path[a->n_path++] = *next;
    return QI_OK;
  }
}

#endif // QI__AUTOMATON_H
