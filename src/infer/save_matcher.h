// ==== >>save_matcher : a matcher's place in its grammar as bytes, and back ====
#ifndef QI__INFER_SAVE_MATCHER_H
#define QI__INFER_SAVE_MATCHER_H

#include "../base/stream.h"
#include "matcher.h"

// Sets of pairs (u32 pc, u32 stack), each with their number (u32) before them and sorted: the stacks that the place needs, then the
// place. Stack 0 is the one below all and is not there; stack k has only those below k in it. Stacks are in the order of their
// height, then of a hash of what they are, so that the same place gives the same bytes whatever else the automaton has seen.
typedef struct qi__matcher_size {
  uint64_t n_stacks, n_pairs; // pairs of all sets
} qi__matcher_size;

// What the numbers in it mean: the grammar's code. Never 0.
QI__FN uint64_t qi__matcher_digest(const qi_matcher *m) {
  const qi__grammar_program *p = &m->automaton->grammar->program;
  uint64_t digest = qi__digest_word(qi__digest_word(p->root, p->n_code), p->n_rules);
  for (size_t i = 0; i < p->n_code; i++) {
    const qi__grammar_instr *c = &p->code[i];
    digest = qi__digest_word(digest, (uint64_t)c->op << 48 | (uint64_t)c->lo << 40 | (uint64_t)c->hi << 32 | (uint32_t)c->arg);
  }
  for (size_t i = 0; i < p->n_rules; i++) digest = qi__digest_word(digest, p->start[i]);
  return digest | 1;
}

// ---- out ----

// height << 52 | 40 bits of the hash << 12 | number in the automaton
QI__STATIC_ASSERT(QI__AUTOMATON_STACKS <= 4096, stacks_have_12_bits);

// Finds the stacks that the matcher's state needs: a->gathered[k - 1] % 4096 is stack k, and a->keep[QI__AUTOMATON_STATES + stack]
// its k. They stay until the automaton is used again. Uses a->seen for hashes.
QI__FN qi__matcher_size qi__matcher_number(const qi_matcher *m) {
  qi__automaton *a = m->automaton;
  const qi__sets *stacks = &a->stacks;
  uint32_t *number = a->keep + QI__AUTOMATON_STATES; // 1: needed; then the height plus 1; then k
  size_t begin = a->states.start[m->state], end = a->states.start[m->state + 1], n = 0;
  qi__matcher_size size = {0, end - begin};
  memset(number, 0, stacks->n * sizeof *number);
  for (size_t i = begin; i < end; i++) number[(uint32_t)a->states.items[i]] = 1;
  for (size_t s = stacks->n; s-- > 1;)
    for (size_t i = stacks->start[s]; number[s] && i < stacks->start[s + 1]; i++) number[(uint32_t)stacks->items[i]] = 1;
  number[0] = 1;
  a->seen[0] = 0;
  for (size_t s = 1; s < stacks->n; s++) {
    uint64_t sum = 0;
    for (size_t i = stacks->start[s]; number[s] && i < stacks->start[s + 1]; i++) {
      uint32_t below = (uint32_t)stacks->items[i];
      sum += qi__mix(qi__mix(0, stacks->items[i] >> 32), a->seen[below]); // in any order
      if (number[below] >= number[s]) number[s] = number[below] + 1;
    }
    a->seen[s] = qi__mix(0, sum);
    if (!number[s]) continue;
    a->gathered[n++] = (uint64_t)(number[s] - 1) << 52 | a->seen[s] >> 24 << 12 | s;
    size.n_pairs += stacks->start[s + 1] - stacks->start[s];
  }
  size.n_stacks = qi__sort_unique(a->gathered, n);
  number[0] = 0;
  for (size_t k = 0; k < n; k++) number[a->gathered[k] % 4096] = (uint32_t)k + 1;
  return size;
}

// One set with its stacks as qi__matcher_number has numbered them.
QI__FN void qi__matcher_put_set(qi__sink *out, qi__automaton *a, const qi__sets *sets, size_t set) {
  const uint32_t *number = a->keep + QI__AUTOMATON_STATES;
  size_t begin = sets->start[set], n = sets->start[set + 1] - begin;
  for (size_t i = 0; i < n; i++) {
    uint64_t pair = sets->items[begin + i];
    a->found[i] = qi__pair((uint32_t)(pair >> 32), number[(uint32_t)pair]);
  }
  n = qi__sort_unique(a->found, n);
  qi__sink_number(out, n, 4);
  for (size_t i = 0; i < n; i++) {
    qi__sink_number(out, a->found[i] >> 32, 4);
    qi__sink_number(out, (uint32_t)a->found[i], 4);
  }
}

// After qi__matcher_number.
QI__FN void qi__matcher_put(qi__sink *out, const qi_matcher *m, const qi__matcher_size *size) {
  qi__automaton *a = m->automaton;
  for (size_t k = 0; k < size->n_stacks; k++) qi__matcher_put_set(out, a, &a->stacks, (size_t)(a->gathered[k] % 4096));
  qi__matcher_put_set(out, a, &a->states, m->state);
}

// ---- in ----

// Room for so many stacks and pairs, and a state of these; what is not needed is forgotten if need be.
QI__FN bool qi__matcher_has_room(const qi__automaton *a, const qi__matcher_size *size) {
  const qi__sets *sets[] = {&a->stacks, &a->states};
  for (int i = 0; i < 2; i++)
    if (sets[i]->cap - sets[i]->n < (i ? 1 : size->n_stacks) || sets[i]->cap_items - sets[i]->start[sets[i]->n] < size->n_pairs)
      return false;
  return true;
}

// Whether a pair can be in a stack (behind a call), or in a state (a byte is taken there); `below`: numbers of stacks it may have.
QI__FN bool qi__matcher_pair_sound(const qi__automaton *a, uint64_t pc, uint64_t stack, uint64_t below, bool is_state) {
  const qi__grammar_program *p = &a->grammar->program;
  if (pc == QI__GRAMMAR_ACCEPT) return stack == 0;
  if (pc >= p->n_code || stack >= below) return false;
  return is_state ? p->code[pc].op == QI__GRAMMAR_BYTE : pc > 0 && p->code[pc - 1].op == QI__GRAMMAR_CALL;
}

// The next set into a->gathered, with the automaton's numbers of stacks.
QI__FN qi_result qi__matcher_get_set(qi__source *in, qi__automaton *a, uint64_t *n_pairs, uint64_t below, bool is_state,
                                     size_t *n) {
  const uint32_t *stack_of = a->keep + QI__AUTOMATON_STATES;
  uint64_t count = 0, pc = 0, stack = 0;
  qi_result r = qi__source_number(in, 4, &count);
  if (r) return r;
  if (!count || count > *n_pairs || count > a->max_places)
    return qi__fail(in->err, QI_ERR_FORMAT, "is damaged: a place in the grammar has %llu parts", (unsigned long long)count);
  *n_pairs -= count;
  for (size_t i = 0; i < count; i++) {
    if ((r = qi__source_number(in, 4, &pc)) || (r = qi__source_number(in, 4, &stack))) return r;
    if (!qi__matcher_pair_sound(a, pc, stack, below, is_state))
      return qi__fail(in->err, QI_ERR_FORMAT, "is damaged: the grammar has no such place");
    a->gathered[i] = qi__pair((uint32_t)pc, stack_of[stack]);
  }
  *n = qi__sort_unique(a->gathered, (size_t)count);
  return QI_OK;
}

// Finds the state that was written; the matcher goes there only with `apply`. Errors: QI_ERR_FORMAT, QI_ERR_IO, QI_ERR_LIMIT.
QI__FN qi_result qi__matcher_get(qi__source *in, qi_matcher *m, const qi__matcher_size *size, bool apply) {
  qi__automaton *a = m->automaton;
  uint32_t *stack_of = a->keep + QI__AUTOMATON_STATES;
  uint64_t n_pairs = size->n_pairs;
  size_t n = 0;
  qi_result r = QI_OK;
  if (!qi__matcher_has_room(a, size)) qi__automaton_collect(a);
  if (!qi__matcher_has_room(a, size)) return qi__automaton_fail(QI__STATE_FULL, in->err);
  stack_of[0] = 0;
  for (uint64_t k = 1; k <= size->n_stacks; k++) {
    if ((r = qi__matcher_get_set(in, a, &n_pairs, k, false, &n))) return r;
    stack_of[k] = qi__sets_put(&a->stacks, a->gathered, n);
  }
  if ((r = qi__matcher_get_set(in, a, &n_pairs, size->n_stacks + 1, true, &n))) return r;
  if (n_pairs) return qi__fail(in->err, QI_ERR_FORMAT, "is damaged: a place in the grammar has more parts than it says");
  uint32_t state = qi__automaton_put(a, a->gathered, n);
  if (apply) m->state = state;
  return QI_OK;
}

#endif // QI__INFER_SAVE_MATCHER_H
