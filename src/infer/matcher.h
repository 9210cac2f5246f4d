// ==== >>matcher : where a text is in a grammar, and which tokens may follow ====
#ifndef QI__MATCHER_H
#define QI__MATCHER_H

#include "automaton.h"

// ---- open and close ----

QI__FN void qi__matcher_close(qi_matcher *m) {
  if (!m) return;
  qi__automaton *a = m->automaton;
  qi_allocator allocator = m->allocator;
  for (qi_matcher **at = &a->matchers; *at; at = &(*at)->next)
    if (*at == m) {
      *at = m->next;
      break;
    }
  qi__free(&allocator, m, sizeof *m);
  if (--a->refs) return;
  allocator = a->allocator;
  qi__free(&allocator, a, a->bytes);
}

QI__FN qi_result qi__automaton_open(qi__automaton **out, const qi_grammar *g, const qi_allocator *allocator, qi_error *err) {
  qi__arena arena = {0};
  qi__automaton layout;
  qi__automaton_layout(&layout, &arena, g);
  qi_result r = qi__arena_open(&arena, allocator, "matcher", err);
  if (r) return r;
  qi__automaton *a = qi__automaton_layout(&layout, &arena, g);
  *a = layout;
  a->allocator = *allocator;
  a->bytes = arena.size;
  if (qi__automaton_init(a)) *out = a;
  else r = qi__automaton_fail(a->start, err);
  if (r) qi__arena_close(&arena, allocator);
  return r;
}

QI__INLINE void qi__matcher_reset(qi_matcher *m) { m->state = m->automaton->start; }

QI__FN qi_result qi__matcher_open(qi_matcher **out, const qi_grammar *g, const qi_matcher *share, const qi_allocator *hook,
                                  qi_error *err) {
  qi_allocator allocator;
  if (share && share->automaton->grammar != g) return qi__fail(err, QI_ERR_ARGUMENT, "matcher: share is of another grammar");
  qi_result r = qi__allocator_resolve(hook && (hook->alloc || hook->free) ? hook : &g->allocator, &allocator, err);
  if (r) return r;
  qi_matcher *m = (qi_matcher *)qi__alloc(&allocator, sizeof *m, QI__CACHE_LINE);
  if (!m) return qi__fail_oom(err, "matcher", sizeof *m);
  qi__automaton *a = share ? share->automaton : NULL;
  if (!a && (r = qi__automaton_open(&a, g, &allocator, err))) {
    qi__free(&allocator, m, sizeof *m);
    return r;
  }
  a->refs++;
  *m = (qi_matcher){a, a->matchers, a->start, allocator};
  a->matchers = m;
  *out = m;
  return QI_OK;
}

// Bytes that qi__matcher_open asks for.
QI__FN size_t qi__matcher_memory(const qi_grammar *g, bool shared) {
  qi__arena arena = {0};
  qi__automaton layout;
  if (!shared) qi__automaton_layout(&layout, &arena, g);
  return arena.used + sizeof(qi_matcher);
}

// ---- text ----

// Goes on by bytes if the grammar allows all of them: *ok, else nothing changes.
QI__FN qi_result qi__matcher_bytes(qi_matcher *m, const char *bytes, size_t n, bool *ok, qi_error *err) {
  qi__automaton *a = m->automaton;
  qi_result r = QI_OK;
  a->path[0] = m->state;
  for (size_t i = 0; i < n && !r && a->path[0]; i++) {
    a->n_path = 1;
    r = qi__automaton_step(a, (uint8_t)bytes[i], err);
    a->path[0] = a->path[1];
  }
  *ok = !r && a->path[0];
  if (*ok) m->state = a->path[0];
  a->n_path = 0;
  return r;
}

// ---- masks ----

typedef struct qi__mask {
  const uint32_t *allowed; // bit t: token t may come next; valid until the automaton is used again
  size_t n;                // tokens that take bytes
  qi_token only;           // when it is one; else -1
  bool can_end;            // tokens that end generation are allowed
} qi__mask;

// Walks over all tokens along the transitions; what no text begins with is left out with all that begins with it.
QI__FN qi_result qi__automaton_walk(qi__automaton *a, uint32_t *mask, qi_error *err) {
  const qi__token_trie *t = a->grammar->trie;
  const qi__trie_node *nodes = t->nodes;
  const uint8_t *byte_class = a->grammar->program.byte_class;
  size_t n_classes = a->grammar->program.n_classes;
  for (size_t i = 0; i < t->n_nodes;) {
    size_t depth = nodes[i].depth;
    uint32_t state = a->next[a->path[depth - 1] * n_classes + byte_class[nodes[i].byte]];
    if (state == QI__STATE_UNKNOWN) {
      a->n_path = depth;
      qi_result r = qi__automaton_step(a, nodes[i].byte, err);
      if (r) return r;
      state = a->path[depth];
    }
    if (state == QI__STATE_DEAD) {
      i = nodes[i].skip;
      continue;
    }
    a->path[depth] = state;
    for (uint32_t k = nodes[i].first; k < nodes[i + 1].first; k++) mask[t->ids[k] / 32] |= 1u << (t->ids[k] % 32);
    i++;
  }
  return QI_OK;
}

// A mask for the state; the one given up is the oldest.
QI__FN qi_result qi__automaton_mask(qi__automaton *a, qi_matcher *m, uint32_t **out, qi_error *err) {
  const qi__token_trie *t = a->grammar->trie;
  uint32_t slot = a->mask_of[m->state];
  if (slot != QI__STATE_UNKNOWN) {
    *out = a->masks + slot * t->n_words;
    return QI_OK;
  }
  slot = a->mask_hand;
  a->mask_hand = (slot + 1) % QI__AUTOMATON_MASKS;
  if (a->mask_owner[slot] != QI__STATE_UNKNOWN) a->mask_of[a->mask_owner[slot]] = QI__STATE_UNKNOWN;
  a->mask_owner[slot] = QI__STATE_UNKNOWN;
  uint32_t *mask = a->masks + slot * t->n_words;
  memset(mask, 0, t->n_words * sizeof *mask);
  a->path[0] = m->state;
  qi_result r = qi__automaton_walk(a, mask, err);
  a->n_path = 0;
  if (r) return r;
  for (size_t w = 0; w < t->n_words && qi__automaton_can_end(a, m->state); w++) mask[w] |= t->ends[w];
  a->mask_of[m->state] = slot;
  a->mask_owner[slot] = m->state;
  *out = mask;
  return QI_OK;
}

// Which tokens may follow. Errors: QI_ERR_LIMIT; QI_ERR_STATE where the grammar goes on and no token of the vocabulary fits.
QI__FN qi_result qi__matcher_mask(qi_matcher *m, qi__mask *out, qi_error *err) {
  qi__automaton *a = m->automaton;
  const qi__token_trie *t = a->grammar->trie;
  uint32_t *mask;
  qi_result r = qi__automaton_mask(a, m, &mask, err);
  if (r) return r;
  *out = (qi__mask){mask, 0, -1, qi__automaton_can_end(a, m->state)};
  for (size_t w = 0; w < t->n_words && out->n < 2; w++)
    for (uint32_t bits = mask[w] & ~t->ends[w]; bits && out->n < 2; bits &= bits - 1) {
      uint32_t bit = 0;
      while (!(bits >> bit & 1)) bit++;
      out->only = (qi_token)(32 * w + bit);
      out->n++;
    }
  if (out->n != 1) out->only = -1;
  if (!out->n && !out->can_end) return qi__fail(err, QI_ERR_STATE, "grammar: no token of the vocabulary fits here");
  return QI_OK;
}

// The only byte that may come next; -1 when there are several or the text may end.
QI__FN int qi__automaton_only_byte(const qi__automaton *a, uint32_t state) {
  const qi__grammar_instr *code = a->grammar->program.code;
  int only = -1;
  for (size_t i = a->states.start[state]; i < a->states.start[state + 1]; i++) {
    uint32_t pc = (uint32_t)(a->states.items[i] >> 32);
    if (pc == QI__GRAMMAR_ACCEPT || code[pc].lo != code[pc].hi || (only >= 0 && only != code[pc].lo)) return -1;
    only = code[pc].lo;
  }
  return only;
}

// Where the grammar leaves one text: the longest token that this text begins with; -1 = none, or it may be the beginning of a
// longer token that reaches beyond.
QI__FN qi_result qi__matcher_jump(qi_matcher *m, qi_token *out, qi_error *err) {
  qi__automaton *a = m->automaton;
  const qi__token_trie *t = a->grammar->trie;
  size_t node = 0, end = t->n_nodes;
  qi_result r = QI_OK;
  int byte;
  *out = -1;
  a->path[0] = m->state;
  a->n_path = 1;
  while (!r && (byte = qi__automaton_only_byte(a, a->path[a->n_path - 1])) >= 0) {
    while (node < end && t->nodes[node].byte != byte) node = t->nodes[node].skip;
    if (node >= end) break;
    if (t->nodes[node].first < t->nodes[node + 1].first) *out = t->ids[t->nodes[node].first];
    end = t->nodes[node].skip;
    node++;
    r = qi__automaton_step(a, (uint8_t)byte, err);
  }
  if (r || (byte < 0 && node < end)) *out = -1;
  a->n_path = 0;
  return r;
}

// Goes on by a token. Errors: QI_ERR_ARGUMENT (the grammar does not allow it; nothing changes), QI_ERR_LIMIT.
QI__FN qi_result qi__matcher_accept(qi_matcher *m, qi_token token, qi_error *err) {
  qi__automaton *a = m->automaton;
  const qi__vocab *v = &a->grammar->model->vocab;
  if (!qi__token_valid(v, token))
    return qi__fail(err, QI_ERR_ARGUMENT, "grammar: token is %d, expected 0 to %u", (int)token, v->n_tokens - 1);
  if (qi__token_is_end(v, token)) {
    if (qi__automaton_can_end(a, m->state)) return QI_OK;
    return qi__fail(err, QI_ERR_ARGUMENT, "grammar: the text cannot end here");
  }
  size_t len = qi__token_piece(v, token, false, a->piece, v->max_token);
  bool ok = len > 0;
  qi_result r = ok ? qi__matcher_bytes(m, a->piece, len, &ok, err) : QI_OK;
  if (!r && !ok) return qi__fail(err, QI_ERR_ARGUMENT, "grammar: token %d does not fit here", (int)token);
  return r;
}

#endif // QI__MATCHER_H
