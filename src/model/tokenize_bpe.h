// ==== >>tokenize_bpe : byte-level byte-pair encoding ====
#ifndef QI__TOKENIZE_BPE_H
#define QI__TOKENIZE_BPE_H

#include "tokenize_merge.h"

// Text is cut into words (pretokenize.h); inside a word, which begins as one symbol a byte, the neighbours with the lowest rank in
// the list of merges are joined first.

QI__FN bool qi__bpe_pair(const qi__merger *m, uint32_t left, uint32_t right, uint32_t *key, qi_token *joined) {
  int64_t value;
  qi_token a = m->symbols[left].id, b = m->symbols[right].id;
  if (a < 0 || b < 0 || !qi__pair_map_get(&m->v->merges, (uint32_t)a, (uint32_t)b, &value)) return false;
  *key = (uint32_t)((uint64_t)value >> 32);
  *joined = (qi_token)(uint32_t)value;
  return true;
}

// Token of a whole word, -1 = none.
QI__FN qi_token qi__bpe_lookup(const qi__merger *m, const char *word, size_t len) {
  size_t n = 0, max = m->v->max_token;
  if (len > max) return -1;
  for (size_t i = 0; i < len; i++) {
    char bytes[4];
    size_t size = qi__utf8_put(qi__byte_to_char((uint8_t)word[i]), bytes);
    if (n + size > max) return -1;
    memcpy(m->key + n, bytes, size);
    n += size;
  }
  m->key[n] = 0;
  qi_token id = qi__token_by_name(m->v, m->key);
  return qi__token_is_control(m->v, id) ? -1 : id;
}

QI__FN void qi__bpe_word(qi__merger *m, const char *word, size_t len, qi__token_sink *sink) {
  if (m->v->pre->flags & QI__PRE_IGNORE_MERGES) {
    qi_token id = qi__bpe_lookup(m, word, len);
    if (id >= 0) {
      qi__emit(sink, id);
      return;
    }
  }
  uint32_t n = (uint32_t)len;
  for (uint32_t i = 0; i < n; i++) m->symbols[i].id = m->v->byte_ids[(uint8_t)word[i]];
  qi__merge(m, n);
  for (uint32_t i = 0; i < n && !qi__merge_stopped(m); i = m->symbols[i].next) {
    if (m->symbols[i].id >= 0) qi__emit(sink, m->symbols[i].id);
    else qi__emit_byte(sink, m->v, (uint8_t)word[i]);
  }
}

// One piece of text without special tokens. Needs symbols for len bytes.
QI__FN void qi__bpe_encode(qi__merger *m, const char *text, size_t len, qi__token_sink *sink) {
  m->pair = qi__bpe_pair;
  qi__pretokenizer words = qi__pretokenize(m->v->pre, text, len);
  size_t start, end;
  while (!qi__merge_stopped(m) && qi__pretokenize_next(&words, &start, &end)) qi__bpe_word(m, text + start, end - start, sink);
}

#endif // QI__TOKENIZE_BPE_H
