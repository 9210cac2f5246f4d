// ==== >>tokenize_spm : SentencePiece byte-pair encoding ====
#ifndef QI__TOKENIZE_SPM_H
#define QI__TOKENIZE_SPM_H

#include "tokenize_merge.h"

// Text is cut into characters; the neighbours whose joined text is the token with the highest score are joined first. Characters
// that end up in no token become byte tokens. A blank is written U+2581 in the vocabulary. Joining never makes control tokens.
//
// Positions count one more than the text's bytes: position 0 is the blank that is put before it.

#define QI__SPM_BLANK "\xE2\x96\x81"

// Scores ordered as unsigned numbers, the best one smallest; never QI__NO_PAIR. NaN has a place like any other.
QI__FN uint32_t qi__spm_key(float score) {
  uint32_t bits = qi__f32_bits(score);
  if (bits == 0x80000000u) bits = 0; // -0 is 0
  uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return ascending ? ~ascending : 0xFFFFFFFEu;
}

// Token of the text at positions start..end-1; -1 = none that plain text may become.
QI__FN qi_token qi__spm_lookup(const qi__merger *m, size_t start, size_t end) {
  size_t n = 0, max = m->v->max_token;
  if (end - start > max) return -1;
  for (size_t p = start; p < end; p++) {
    char c = p ? m->text[p - 1] : ' ';
    size_t size = c == ' ' ? 3 : 1;
    if (!c || n + size > max) return -1;
    if (c == ' ') memcpy(m->key + n, QI__SPM_BLANK, 3);
    else m->key[n] = c;
    n += size;
  }
  m->key[n] = 0;
  qi_token id = qi__token_by_name(m->v, m->key);
  if (id < 0) return -1;
  unsigned type = qi__token_type(m->v, (uint32_t)id);
  return type == QI__TOKEN_CONTROL || type == QI__TOKEN_UNKNOWN || type == QI__TOKEN_BYTE ? -1 : id;
}

QI__FN bool qi__spm_pair(const qi__merger *m, uint32_t left, uint32_t right, uint32_t *key, qi_token *joined) {
  const qi__symbol *s = m->symbols;
  qi_token id = qi__spm_lookup(m, s[left].start, s[s[right].next].start);
  if (id < 0 || qi__f32_bits(m->v->scores[id]) == 0xff800000u) return false; // minus infinity: never joined
  *joined = id;
  *key = qi__spm_key(m->v->scores[id]);
  return true;
}

// One piece of text without special tokens. `blank`: put a blank before it. Needs symbols for len + 1 characters.
QI__FN void qi__spm_encode(qi__merger *m, const char *text, size_t len, bool blank, qi__token_sink *sink) {
  m->text = text;
  m->pair = qi__spm_pair;
  uint32_t n = 0;
  size_t p = blank ? 0 : 1;
  while (p < len + 1 && !qi__merge_stopped(m)) {
    m->symbols[n].start = (uint32_t)p;
    m->symbols[n].id = -1;
    uint32_t cp;
    p += p ? qi__utf8_next(text + p - 1, len + 1 - p, &cp) : 1;
    n++;
  }
  m->symbols[n].start = (uint32_t)(len + 1);
  qi__merge(m, n);
  for (uint32_t i = 0; i < n && !qi__merge_stopped(m); i = m->symbols[i].next) {
    const qi__symbol *s = &m->symbols[i];
    size_t end = m->symbols[s->next].start;
    qi_token id = s->id >= 0 ? s->id : qi__spm_lookup(m, s->start, end);
    if (id >= 0) qi__emit(sink, id);
    else if (end - s->start == 1 && (s->start == 0 || text[s->start - 1] == ' '))
      for (int k = 0; k < 3; k++) qi__emit_byte(sink, m->v, (uint8_t)QI__SPM_BLANK[k]);
    else
      for (size_t q = s->start; q < end; q++) qi__emit_byte(sink, m->v, (uint8_t)text[q - 1]);
  }
}

#endif // QI__TOKENIZE_SPM_H
