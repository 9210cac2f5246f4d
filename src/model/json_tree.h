// ==== >>json_tree : a JSON text as a tree, for texts that are walked over more than once ====
#ifndef QI__JSON_TREE_H
#define QI__JSON_TREE_H

#include "../base/memory.h"
#include "json.h"

#define QI__JSON_TREE_MAX ((size_t)1 << 24) // bytes of text

// Numbers of nodes are indices; the root is 0, so 0 also stands for none.
typedef struct qi__json_node {
  qi__json_type type;
  bool flag;               // BOOL: its value
  uint32_t pos;            // where the value begins in the text
  uint32_t child, next;    // first element or member; the one behind this one
  uint32_t n;              // elements, or members
  uint32_t key, key_len;   // of a member, decoded: bytes of the pool
  uint32_t text, text_len; // STRING decoded, NUMBER as it is written: bytes of the pool
} qi__json_node;

typedef struct qi__json_tree {
  qi__json_node *nodes; // [cap]
  char *pool;           // [cap_pool]
  size_t n, cap, n_pool, cap_pool;
  const char *source;
  size_t len;
  void *memory;
  size_t bytes;
} qi__json_tree;

QI__FN void qi__json_tree_free(qi__json_tree *t, const qi_allocator *allocator) {
  qi__free(allocator, t->memory, t->bytes);
  memset(t, 0, sizeof *t);
}

// Reads the value that is next.
QI__FN uint32_t qi__json_tree_value(qi__json_tree *t, qi__json *j) {
  qi__json_type type = qi__json_peek(j);
  uint32_t id = (uint32_t)t->n, last = 0;
  if (t->n == t->cap) { // more than the text's commas and colons: it is no JSON, and the reader says why
    qi__json_skip(j);
    return 0;
  }
  qi__json_node *node = &t->nodes[t->n++];
  memset(node, 0, sizeof *node);
  node->type = type;
  node->pos = (uint32_t)qi__json_pos(j);
  char *pool = t->pool + t->n_pool;
  size_t room = t->cap_pool - t->n_pool, len = 0;
  node->text = (uint32_t)t->n_pool;
  switch (type) {
  case QI__JSON_NULL: qi__json_null(j); break;
  case QI__JSON_BOOL: qi__json_bool(j, &node->flag); break;
  case QI__JSON_NUMBER: {
    char text[QI__JSON_MAX_NUMBER + 1];
    if (qi__json_number_text(j, text)) len = strlen(text);
    memcpy(pool, text, qi__min_size(len, room));
    break;
  }
  case QI__JSON_STRING: qi__json_string(j, pool, room, &len); break;
  case QI__JSON_ARRAY: case QI__JSON_OBJECT:
    qi__json_enter(j, type);
    while (type == QI__JSON_OBJECT ? qi__json_next_key(j) : qi__json_next(j)) {
      uint32_t key = (uint32_t)t->n_pool, key_len = type == QI__JSON_OBJECT ? (uint32_t)j->key_len : 0;
      if (key_len > QI__JSON_MAX_KEY) qi__json_fail(j, QI_ERR_LIMIT, "a key of more than %d bytes", QI__JSON_MAX_KEY);
      if (j->result || key_len > t->cap_pool - t->n_pool) break;
      memcpy(t->pool + t->n_pool, j->key, key_len);
      t->n_pool += key_len;
      uint32_t child = qi__json_tree_value(t, j);
      if (j->result) break;
      t->nodes[child].key = key;
      t->nodes[child].key_len = key_len;
      *(last ? &t->nodes[last].next : &t->nodes[id].child) = child;
      t->nodes[id].n++;
      last = child;
    }
    return id;
  case QI__JSON_NONE: qi__json_unexpected(j, "a value"); break;
  }
  node->text_len = (uint32_t)len;
  t->n_pool += qi__min_size(len, room);
  return id;
}

// Reads a text, which must stay. One block of memory of some 50 bytes for each value. Errors: QI_ERR_FORMAT (with line and column),
// QI_ERR_LIMIT, QI_ERR_OOM. Nothing is to be freed after a failure.
QI__FN qi_result qi__json_tree_read(qi__json_tree *t, const char *text, size_t len, const qi_allocator *allocator, qi_error *err) {
  memset(t, 0, sizeof *t);
  if (len > QI__JSON_TREE_MAX)
    return qi__fail(err, QI_ERR_LIMIT, "%zu bytes of JSON, at most %zu are allowed", len, QI__JSON_TREE_MAX);
  t->cap = 1;
  for (size_t i = 0; i < len; i++) t->cap += text[i] == ',' || text[i] == ':' || text[i] == '[';
  t->cap_pool = len + 1;
  t->source = text;
  t->len = len;
  t->bytes = t->cap * sizeof *t->nodes + t->cap_pool;
  t->memory = qi__alloc(allocator, t->bytes, sizeof(void *));
  if (!t->memory) return qi__fail_oom(err, "JSON", t->bytes);
  t->nodes = (qi__json_node *)t->memory;
  t->pool = (char *)(t->nodes + t->cap);
  qi__file file;
  qi__json j;
  qi_result r = qi__file_open_memory(&file, text, len, err);
  if (!r) {
    qi__json_init(&j, &file, 0, len, err);
    qi__json_tree_value(t, &j);
    qi__json_end(&j);
    r = j.result;
  }
  if (r) qi__json_tree_free(t, allocator);
  return r;
}

// Member of an object; 0 = none.
QI__FN uint32_t qi__json_tree_find(const qi__json_tree *t, uint32_t id, const char *key, size_t len) {
  if (t->nodes[id].type != QI__JSON_OBJECT) return 0;
  for (uint32_t child = t->nodes[id].child; child; child = t->nodes[child].next)
    if (t->nodes[child].key_len == len && !memcmp(t->pool + t->nodes[child].key, key, len)) return child;
  return 0;
}

// Line and column of a node, both from 1.
QI__FN void qi__json_tree_place(const qi__json_tree *t, uint32_t id, size_t *line, size_t *column) {
  *line = *column = 1;
  for (size_t i = 0; i < t->nodes[id].pos; i++) {
    if (t->source[i] == '\n') ++*line, *column = 0;
    ++*column;
  }
}

#endif // QI__JSON_TREE_H
