// ==== >>tokenize : text to tokens and back ====
#ifndef QI__TOKENIZE_H
#define QI__TOKENIZE_H

#include "tokenize_bpe.h"
#include "tokenize_spm.h"

#define QI__TEXT_LIMIT ((size_t)1 << 30)

// ---- special tokens in text ----

// First index in [lo, hi) of v->specials, all longer than k and equal up to there, whose byte k is at least c (c up to 256).
QI__FN size_t qi__special_bound(const qi__vocab *v, size_t lo, size_t hi, size_t k, unsigned c) {
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if ((uint8_t)v->texts[v->offsets[v->specials[mid]] + k] < c) lo = mid + 1;
    else hi = mid;
  }
  return lo;
}

// The longest special token that text (avail >= 1 bytes) begins with: user-defined ones always, others only with `parse`. Returns
// its bytes, 0 = none. Narrows the sorted list by one byte after another, so thousands of specials cost no more than a few.
QI__FN size_t qi__special_match(const qi__vocab *v, const char *text, size_t avail, bool parse, qi_token *id) {
  uint8_t first = (uint8_t)text[0];
  if (!(v->special_first[first >> 5] >> (first & 31) & 1)) return 0;
  size_t lo = 0, hi = v->n_specials, best = 0;
  for (size_t k = 0; k < avail; k++) {
    unsigned c = (uint8_t)text[k];
    lo = qi__special_bound(v, lo, hi, k, c);
    hi = qi__special_bound(v, lo, hi, k, c + 1);
    for (size_t len; lo < hi; lo++) { // those that end here come first
      uint32_t special = v->specials[lo];
      qi__token_text(v, special, &len);
      if (len != k + 1) break;
      if (best != len && (parse || qi__token_type(v, special) == QI__TOKEN_USER)) {
        best = len;
        *id = (qi_token)special;
      }
    }
    if (lo == hi) break;
  }
  return best;
}

// ---- text to tokens ----

QI__INLINE bool qi__is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Encodes text[start..end), which holds no special token.
QI__FN void qi__encode_plain(qi__merger *m, const char *text, size_t start, size_t end, bool after_special, qi__token_sink *sink) {
  if (start == end) return;
  if (m->v->kind == QI__VOCAB_BPE) qi__bpe_encode(m, text + start, end - start, sink);
  else qi__spm_encode(m, text + start, end - start, after_special && m->v->space_prefix, sink);
}

QI__FN void qi__encode(qi__merger *m, const char *text, size_t len, int flags, qi__token_sink *sink) {
  const qi__vocab *v = m->v;
  const qi_special_tokens *special = &v->special;
  bool add = (flags & QI_TOKENIZE_ADD_SPECIAL) != 0, parse = (flags & QI_TOKENIZE_PARSE_SPECIAL) != 0;
  bool after_special = true; // the beginning counts as such
  size_t start = 0, pos = 0;
  if (add && special->add_bos && special->bos >= 0) qi__emit(sink, special->bos);
  while (pos < len && !qi__merge_stopped(m)) {
    qi_token id = -1;
    size_t n = qi__special_match(v, text + pos, len - pos, parse, &id);
    if (!n) {
      pos++;
      continue;
    }
    qi__encode_plain(m, text, start, pos, after_special, sink);
    qi__emit(sink, id);
    pos += n;
    if (v->attrs[id] & QI__TOKEN_RSTRIP)
      while (pos < len && qi__is_ascii_space(text[pos])) pos++;
    start = pos;
    after_special = true;
  }
  qi__encode_plain(m, text, start, len, after_special, sink);
  if (add && special->add_eos && special->eos >= 0) qi__emit(sink, special->eos);
}

// qi_tokenize. One block of memory for the call: QI__MERGE_BYTES (40) a byte of text and a little. cancel: see qi__merger; then
// QI_ERR_CANCELLED.
QI__FN qi_result qi__tokenize(const qi__vocab *v, const qi_allocator *allocator, const char *text, size_t len, int flags,
                              const int *cancel, qi_token *out, size_t cap, size_t *n_out, qi_error *err) {
  const int known = QI_TOKENIZE_ADD_SPECIAL | QI_TOKENIZE_PARSE_SPECIAL;
  if (!n_out || (len && !text) || (cap && !out))
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_tokenize: text, out or n_out is NULL");
  if (flags & ~known)
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_tokenize: flags are 0x%x, known are 0x%x", (unsigned)flags, (unsigned)known);
  if (len >= QI__TEXT_LIMIT) return qi__fail(err, QI_ERR_LIMIT, "qi_tokenize: %zu bytes of text, the limit is 2^30 - 1", len);
  size_t n = len + 2, bytes = 0; // the blank before the text, and the end
  if (!qi__mul_size(n, QI__MERGE_BYTES, &bytes) || !qi__add_size(bytes, (size_t)v->max_token + 1, &bytes))
    return qi__fail(err, QI_ERR_LIMIT, "qi_tokenize: %zu bytes of text are too many for this machine", len);
  void *memory = qi__alloc(allocator, bytes, QI__CACHE_LINE);
  if (!memory) return qi__fail_oom(err, "qi_tokenize", bytes);
  qi__merger m = {0};
  m.v = v;
  m.heap = (uint64_t *)memory;
  m.symbols = (qi__symbol *)(void *)(m.heap + 2 * n);
  m.key = (char *)(m.symbols + n);
  m.cancel = cancel;
  qi__token_sink sink = {out, cap, 0};
  qi__encode(&m, text, len, flags, &sink);
  qi__free(allocator, memory, bytes);
  if (qi__merge_stopped(&m)) return qi__fail(err, QI_ERR_CANCELLED, "qi_tokenize: cancelled");
  *n_out = sink.n;
  return QI_OK;
}

// ---- tokens to text ----

typedef struct qi__byte_sink {
  char *out;
  size_t cap, n;
  bool strip; // a blank that comes next was put before the text by the tokenizer
} qi__byte_sink;

QI__INLINE void qi__put_bytes(qi__byte_sink *sink, const char *bytes, size_t n) {
  if (!n) return;
  if (sink->n < sink->cap) memcpy(sink->out + sink->n, bytes, qi__min_size(n, sink->cap - sink->n));
  sink->n += n;
  sink->strip = false;
}

QI__FN void qi__put_spm(qi__byte_sink *sink, const char *text, size_t len) {
  for (size_t i = 0; i < len;) {
    bool blank = len - i >= 3 && !memcmp(text + i, QI__SPM_BLANK, 3);
    if (blank && sink->strip) sink->strip = false;
    else qi__put_bytes(sink, blank ? " " : text + i, 1);
    i += blank ? 3 : 1;
  }
}

// Characters that stand for no byte are given as they are.
QI__FN void qi__put_bpe(qi__byte_sink *sink, const char *text, size_t len) {
  for (size_t i = 0; i < len;) {
    uint32_t cp;
    size_t n = qi__utf8_next(text + i, len - i, &cp);
    int byte = qi__char_to_byte(cp);
    char c = (char)byte;
    if (byte >= 0) qi__put_bytes(sink, &c, 1);
    else qi__put_bytes(sink, text + i, n);
    i += n;
  }
}

QI__FN void qi__put_token(const qi__vocab *v, uint32_t id, bool special, qi__byte_sink *sink) {
  size_t len;
  const char *text = qi__token_text(v, id, &len);
  unsigned type = qi__token_type(v, id);
  int byte = type == QI__TOKEN_BYTE ? qi__byte_name_value(text, len) : -1;
  if (type == QI__TOKEN_CONTROL || type == QI__TOKEN_UNKNOWN) {
    bool strip = sink->strip; // a name is no text: the blank that the tokenizer puts behind it is still to come
    if (special) qi__put_bytes(sink, text, len);
    sink->strip = strip;
  } else if (type == QI__TOKEN_USER) {
    qi__put_bytes(sink, text, len);
  } else if (byte >= 0) {
    char c = (char)byte;
    qi__put_bytes(sink, &c, 1);
  } else if (v->kind == QI__VOCAB_BPE) {
    qi__put_bpe(sink, text, len);
  } else {
    qi__put_spm(sink, text, len);
  }
}

// qi_token_piece: the bytes of a token, at most cap of them written; returns their full number.
QI__FN size_t qi__token_piece(const qi__vocab *v, qi_token id, bool special, char *out, size_t cap) {
  qi__byte_sink sink = {out, cap, 0, false};
  if (qi__token_valid(v, id)) qi__put_token(v, (uint32_t)id, special, &sink);
  return sink.n;
}

// qi_tokens_containing. Of longer tokens the first bytes are looked at.
QI__FN size_t qi__tokens_containing(const qi__vocab *v, const char *text, size_t len, qi_token *out, size_t cap) {
  char piece[512];
  size_t n = 0;
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    size_t n_piece = qi__min_size(qi__token_piece(v, (qi_token)id, false, piece, sizeof piece), sizeof piece), at = 0;
    while (at + len <= n_piece && memcmp(piece + at, text, len)) at++;
    if (at + len > n_piece) continue;
    if (n < cap) out[n] = (qi_token)id;
    n++;
  }
  return n;
}

// qi_detokenize. The blank that SentencePiece models put before text is left out once.
QI__FN qi_result qi__detokenize(const qi__vocab *v, const qi_token *ids, size_t n, bool special, char *out, size_t cap,
                                size_t *len_out, qi_error *err) {
  if (!len_out || (n && !ids) || (cap && !out))
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_detokenize: ids, out or len_out is NULL");
  for (size_t i = 0; i < n; i++)
    if (!qi__token_valid(v, ids[i]))
      return qi__fail(err, QI_ERR_ARGUMENT, "qi_detokenize: token %zu is %d, valid are 0 to %u", i, (int)ids[i], v->n_tokens - 1);
  qi__byte_sink sink = {out, cap, 0, v->space_prefix};
  for (size_t i = 0; i < n; i++) qi__put_token(v, (uint32_t)ids[i], special, &sink);
  *len_out = sink.n;
  return QI_OK;
}

#endif // QI__TOKENIZE_H
