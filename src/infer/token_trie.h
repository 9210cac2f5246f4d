// ==== >>token_trie : the bytes of all tokens as a tree ====
#ifndef QI__TOKEN_TRIE_H
#define QI__TOKEN_TRIE_H

#include "../model/tokenize.h"

// A node in preorder: what begins with the bytes of node i are the nodes from i to skip - 1.
typedef struct qi__trie_node {
  uint32_t skip;
  uint32_t first;  // ids[first .. first of the next node) are the tokens that end here
  uint16_t depth;  // bytes up to here, from 1
  uint8_t byte;    // the last of them
} qi__trie_node;

// Tokens that have bytes, but for those that end generation. Immutable, and shared: `refs` counts its users.
typedef struct qi__token_trie {
  qi__trie_node *nodes;  // [n_nodes + 1]; the last one ends the ids of the one before
  qi_token *ids;         // [n_ids]
  uint32_t *ends;        // [n_words] bit t: token t ends generation
  size_t n_nodes, n_ids, n_words, max_depth;
  int refs;
  qi_allocator allocator;
  size_t bytes;
} qi__token_trie;

// The tree while it is built: children hang together in a list. Indices are of links, ids are plus 1; 0 = none.
typedef struct qi__trie_link {
  uint32_t child, sibling, parent, id;
  uint8_t byte;
} qi__trie_link;

typedef struct qi__trie_builder {
  qi__trie_link *links; // [cap]; 0 is the root
  uint32_t *same;       // [n_tokens] next token with the same bytes, plus 1
  char *piece;          // [max_token]
  uint32_t top[256];    // children of the root by byte
  size_t n, cap, n_ids, max_depth;
} qi__trie_builder;

QI__FN bool qi__trie_wants(const qi__vocab *v, uint32_t id) { return !(v->attrs[id] & QI__TOKEN_END); }

QI__FN void qi__trie_builder_layout(qi__trie_builder *b, qi__arena *arena, const qi__vocab *v) {
  memset(b, 0, sizeof *b);
  b->cap = 1;
  for (uint32_t id = 0; id < v->n_tokens; id++)
    if (qi__trie_wants(v, id)) b->cap += qi__token_piece(v, (qi_token)id, false, NULL, 0);
  b->links = QI__ARENA_ARRAY(arena, qi__trie_link, b->cap);
  b->same = QI__ARENA_ARRAY(arena, uint32_t, v->n_tokens);
  b->piece = QI__ARENA_ARRAY(arena, char, v->max_token + 1);
}

QI__FN void qi__trie_add(qi__trie_builder *b, uint32_t id, const char *bytes, size_t len) {
  uint32_t at = 0;
  for (size_t i = 0; i < len; i++) {
    uint8_t byte = (uint8_t)bytes[i];
    uint32_t child = i ? b->links[at].child : b->top[byte];
    while (child && b->links[child].byte != byte) child = b->links[child].sibling;
    if (!child) {
      child = (uint32_t)b->n++;
      b->links[child] = (qi__trie_link){0, b->links[at].child, at, 0, byte};
      b->links[at].child = child;
      if (!i) b->top[byte] = child;
    }
    at = child;
  }
  b->same[id] = b->links[at].id;
  b->links[at].id = id + 1;
  b->n_ids++;
  if (len > b->max_depth) b->max_depth = len;
}

QI__FN void qi__trie_fill(qi__trie_builder *b, const qi__vocab *v) {
  memset(&b->links[0], 0, sizeof b->links[0]);
  b->n = 1;
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    if (!qi__trie_wants(v, id)) continue;
    size_t len = qi__token_piece(v, (qi_token)id, false, b->piece, v->max_token + 1);
    if (len) qi__trie_add(b, id, b->piece, len);
  }
}

QI__FN qi__token_trie *qi__trie_layout(qi__arena *arena, const qi__trie_builder *b, size_t n_tokens) {
  qi__token_trie *t = QI__ARENA_ARRAY(arena, qi__token_trie, 1);
  qi__trie_node *nodes = QI__ARENA_ARRAY(arena, qi__trie_node, b->n);
  qi_token *ids = QI__ARENA_ARRAY(arena, qi_token, b->n_ids);
  size_t n_words = (n_tokens + 31) / 32;
  uint32_t *ends = QI__ARENA_ARRAY(arena, uint32_t, n_words);
  if (!t) return NULL;
  memset(t, 0, sizeof *t);
  memset(ends, 0, n_words * sizeof *ends);
  t->nodes = nodes;
  t->ids = ids;
  t->ends = ends;
  t->n_words = n_words;
  t->max_depth = b->max_depth;
  t->refs = 1;
  return t;
}

// Writes the nodes in preorder. A node that was written keeps its place in `id`.
QI__FN void qi__trie_flatten(qi__token_trie *t, const qi__trie_builder *b) {
  size_t depth = 0;
  uint32_t at = 0;
  for (;;) {
    const qi__trie_link *link = &b->links[at];
    uint32_t next = link->child;
    depth += next != 0;
    while (!next && at) { // no child: to the next one beside it, or beside what is above it
      next = b->links[at].sibling;
      uint32_t node = b->links[at].id;
      t->nodes[node].skip = (uint32_t)t->n_nodes;
      if (next) break;
      at = b->links[at].parent;
      depth--;
    }
    if (!next) break;
    at = next;
    qi__trie_link *here = &b->links[at];
    t->nodes[t->n_nodes] = (qi__trie_node){0, (uint32_t)t->n_ids, (uint16_t)depth, here->byte};
    for (uint32_t id = here->id; id; id = b->same[id - 1]) t->ids[t->n_ids++] = (qi_token)(id - 1);
    here->id = (uint32_t)t->n_nodes++;
  }
  t->nodes[t->n_nodes] = (qi__trie_node){(uint32_t)t->n_nodes, (uint32_t)t->n_ids, 0, 0};
}

// The tree of a vocabulary. While it is built it takes some 24 bytes for each byte of all tokens, afterwards 12 for each node.
QI__FN qi_result qi__trie_open(qi__token_trie **out, const qi__vocab *v, const qi_allocator *allocator, qi_error *err) {
  qi__trie_builder b;
  qi__arena temp = {0}, arena = {0};
  qi__trie_builder_layout(&b, &temp, v);
  qi_result r = qi__arena_open(&temp, allocator, "grammar: tokens", err);
  if (r) return r;
  qi__trie_builder_layout(&b, &temp, v);
  qi__trie_fill(&b, v);
  qi__trie_layout(&arena, &b, v->n_tokens);
  r = qi__arena_open(&arena, allocator, "grammar: tokens", err);
  if (!r) {
    qi__token_trie *t = qi__trie_layout(&arena, &b, v->n_tokens);
    qi__trie_flatten(t, &b);
    for (uint32_t id = 0; id < v->n_tokens; id++)
      if (v->attrs[id] & QI__TOKEN_END) t->ends[id / 32] |= 1u << (id % 32);
    t->allocator = *allocator;
    t->bytes = arena.size;
    *out = t;
  }
  qi__arena_close(&temp, allocator);
  return r;
}

QI__FN void qi__trie_close(qi__token_trie *t) {
  if (!t || __atomic_sub_fetch(&t->refs, 1, __ATOMIC_ACQ_REL)) return;
  qi_allocator a = t->allocator;
  qi__free(&a, t, t->bytes);
}

#endif // QI__TOKEN_TRIE_H
