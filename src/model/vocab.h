// ==== >>vocab : the tokens of a model ====
#ifndef QI__VOCAB_H
#define QI__VOCAB_H

#include "../base/map.h"
#include "gguf.h"
#include "pretokenize.h"

#define QI__VOCAB_MAX_TOKENS (1u << 24)
#define QI__VOCAB_MAX_MERGES (1u << 24)
#define QI__VOCAB_MAX_TOKEN_BYTES 65535u

typedef enum qi__vocab_kind {
  QI__VOCAB_SPM = 1, // SentencePiece byte-pair encoding: merges by score
  QI__VOCAB_BPE      // byte-level byte-pair encoding: merges by rank
} qi__vocab_kind;

// tokenizer.ggml.token_type, kept in the low bits of qi__vocab.attrs, and bits of ours above.
enum {
  QI__TOKEN_NORMAL = 1,
  QI__TOKEN_UNKNOWN = 2,
  QI__TOKEN_CONTROL = 3,
  QI__TOKEN_USER = 4,
  QI__TOKEN_UNUSED = 5,
  QI__TOKEN_BYTE = 6,
  QI__TOKEN_TYPE = 7,   // mask of the above
  QI__TOKEN_END = 8,    // ends generation
  QI__TOKEN_RSTRIP = 16 // swallows white space behind it
};

#define QI__KEY_SCORES "tokenizer.ggml.scores"
// Of ours, arrays of u32: ids that end generation beside eos; ids of tokens that swallow the white space behind them.
#define QI__KEY_END_IDS "tokenizer.qinfer.end_token_ids"
#define QI__KEY_RSTRIP_IDS "tokenizer.qinfer.rstrip_token_ids"

// What qi__vocab_layout must know of a file.
typedef struct qi__vocab_counts {
  qi__vocab_kind kind;
  uint32_t n_tokens, n_merges, n_specials; // n_specials: at most so many tokens are found by name in text
  uint32_t token_bytes;                    // of all texts, each with a terminator
  uint32_t max_token;                      // bytes of the longest text
} qi__vocab_counts;

// Immutable once loaded; all memory is the arena's.
typedef struct qi__vocab {
  qi__vocab_kind kind;
  uint32_t n_tokens, max_token;
  uint32_t *offsets;       // [n_tokens + 1]: text of id is texts[offsets[id] ..], with a terminator that counts
  char *texts;
  uint8_t *attrs;          // [n_tokens] type and bits
  float *scores;           // [n_tokens], SPM only
  qi__str_map ids;         // text to id; texts with a zero byte are not in it
  qi__pair_map merges;     // BPE: (left, right) to rank << 32 | joined id
  uint32_t *specials;      // [n_specials] ids of unknown, control and user-defined tokens, sorted by text, then id
  uint32_t n_specials;
  uint32_t special_first[8]; // bit c: a special begins with byte c
  qi_token byte_ids[256];  // token of a byte, -1 = none
  qi_special_tokens special;
  qi_token eom;
  bool space_prefix;       // SPM: a space is put before text
  const qi__pre_rule *pre; // BPE
  char *scratch;           // [2 * (max_token + 1)], while loading
} qi__vocab;

// ---- tokens ----

QI__INLINE const char *qi__token_text(const qi__vocab *v, uint32_t id, size_t *len) {
  *len = v->offsets[id + 1] - v->offsets[id] - 1;
  return v->texts + v->offsets[id];
}
QI__INLINE unsigned qi__token_type(const qi__vocab *v, uint32_t id) { return v->attrs[id] & QI__TOKEN_TYPE; }
QI__INLINE bool qi__token_valid(const qi__vocab *v, qi_token id) { return id >= 0 && (uint32_t)id < v->n_tokens; }

// Ends generation; shown only on request. False for ids out of range.
QI__FN bool qi__token_is_end(const qi__vocab *v, qi_token id) { return qi__token_valid(v, id) && (v->attrs[id] & QI__TOKEN_END); }
QI__FN bool qi__token_is_control(const qi__vocab *v, qi_token id) {
  if (!qi__token_valid(v, id)) return false;
  unsigned type = qi__token_type(v, (uint32_t)id);
  return type == QI__TOKEN_CONTROL || type == QI__TOKEN_UNKNOWN;
}

// Id of a terminated text, -1 = none.
QI__INLINE qi_token qi__token_by_name(const qi__vocab *v, const char *text) {
  int32_t id;
  return qi__str_map_get(&v->ids, text, &id) ? id : -1;
}

// The same for any text. Long ones are looked for one by one, which no one is in a hurry for.
QI__FN qi_token qi__token_find(const qi__vocab *v, const char *text, size_t len) {
  char key[256];
  if (!len || len > v->max_token || memchr(text, 0, len)) return -1;
  if (len < sizeof key) {
    memcpy(key, text, len);
    key[len] = 0;
    return qi__token_by_name(v, key);
  }
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    size_t n;
    const char *t = qi__token_text(v, id, &n);
    if (n == len && !memcmp(t, text, n)) return (qi_token)id;
  }
  return -1;
}

// Byte-level vocabularies write each byte as a character that can be seen: itself where that is so in Latin-1, else one from U+0100
// on (GPT-2's bytes_to_unicode).
QI__FN uint32_t qi__byte_to_char(uint8_t b) {
  if (b <= 0x20) return 0x100u + b;
  if (b >= 0x7F && b <= 0xA0) return 0x100u + 33 + (b - 0x7Fu);
  return b == 0xAD ? 0x100u + 67 : b;
}
// -1: the character stands for no byte.
QI__FN int qi__char_to_byte(uint32_t cp) {
  if (cp >= 0x100) {
    uint32_t k = cp - 0x100;
    return k < 33 ? (int)k : k < 67 ? (int)(0x7F + k - 33) : k == 67 ? 0xAD : -1;
  }
  return qi__byte_to_char((uint8_t)cp) == cp ? (int)cp : -1;
}

// Value of a text of the form <0x4A>; -1 for others.
QI__FN int qi__byte_name_value(const char *text, size_t len) {
  if (len != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
  int value = 0;
  for (int i = 3; i < 5; i++) {
    char c = text[i];
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// ---- counting ----

// What qi__vocab_count looks at.
static const char *const qi__vocab_keys[] = {"tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
                                             "tokenizer.ggml.merges"};

// Names of tokens that end generation wherever they occur, and of those that only serve as end of turn when the file names none.
// The list is llama.cpp's: files often do not say it.
static const char *const qi__end_names[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
    "<|end_of_text|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "<turn|>", "<end_of_utterance>",
    ("<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"), // DeepSeek
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<reponame>", "<|file_sep|>",
};
#define QI__N_EOT_NAMES 5 // the first ones may be the end of turn
#define QI__MAX_END_NAME 32

QI__FN bool qi__is_end_name(const char *text, size_t len) {
  for (size_t i = 0; i < QI__COUNT_OF(qi__end_names); i++)
    if (strlen(qi__end_names[i]) == len && !memcmp(qi__end_names[i], text, len)) return true;
  return false;
}

// Element i of an array of 32-bit numbers.
QI__INLINE uint32_t qi__array_u32(const qi__gguf_array *a, uint64_t i) { return qi__load_u32(a->data + 4 * i); }

// An array with one element a token; *out is empty when it is absent.
QI__FN qi_result qi__vocab_array(const qi__gguf *g, const char *key, qi_meta_type type, uint64_t n_tokens, qi__gguf_array *out,
                                 qi_error *err) {
  memset(out, 0, sizeof *out);
  if (!qi__gguf_find(g, key)) return QI_OK;
  qi_result r = qi__gguf_get_array(g, key, type, true, out, err);
  if (r) return r;
  if (out->count != n_tokens)
    return qi__fail(err, QI_ERR_FORMAT, "%s: %llu elements, but tokenizer.ggml.tokens has %llu", key,
                    (unsigned long long)out->count, (unsigned long long)n_tokens);
  return QI_OK;
}

QI__FN qi_result qi__vocab_find_kind(const qi__gguf *g, qi__vocab_kind *out, qi_error *err) {
  const char *name;
  size_t len;
  qi_result r = qi__gguf_str(g, "tokenizer.ggml.model", true, &name, &len, err);
  if (r) return r;
  if (len == 5 && !memcmp(name, "llama", 5)) *out = QI__VOCAB_SPM;
  else if (len == 4 && !memcmp(name, "gpt2", 4)) *out = QI__VOCAB_BPE;
  else
    return qi__fail(err, QI_ERR_UNSUPPORTED, "tokenizer.ggml.model: '%s' is not supported; known are llama, gpt2",
                    qi__show(name, len).s);
  return QI_OK;
}

// Lengths and kinds of the texts, through cursors: the file need not be in memory. A token that ends generation counts as special
// whatever the file says of it.
QI__FN qi_result qi__vocab_count_texts(const qi__gguf *g, const qi__gguf_array *tokens, const qi__gguf_array *types,
                                       qi__vocab_counts *c, qi_error *err) {
  qi__gguf_cursor text_at, type_at;
  qi__cursor_init(&text_at, &g->resident, tokens->at, err);
  qi__cursor_init(&type_at, &g->resident, types->at, err);
  uint64_t bytes = 0, len;
  for (uint32_t i = 0; i < c->n_tokens; i++) {
    uint32_t type = QI__TOKEN_NORMAL;
    if (qi__cursor_u64(&text_at, &len)) return text_at.result;
    if (len > QI__VOCAB_MAX_TOKEN_BYTES)
      return qi__fail(err, QI_ERR_LIMIT, "tokenizer.ggml.tokens: text %u has %llu bytes, at most %u are allowed", i,
                      (unsigned long long)len, QI__VOCAB_MAX_TOKEN_BYTES);
    bool is_end = false;
    if (len <= QI__MAX_END_NAME) {
      const char *text = (const char *)qi__cursor_take(&text_at, (size_t)len);
      is_end = text && qi__is_end_name(text, (size_t)len);
    } else qi__cursor_skip(&text_at, len);
    if (text_at.result) return text_at.result;
    if (types->count && qi__cursor_u32(&type_at, &type)) return type_at.result;
    if (len > c->max_token) c->max_token = (uint32_t)len;
    bytes += len + 1;
    c->n_specials += (type >= QI__TOKEN_UNKNOWN && type <= QI__TOKEN_USER) || is_end;
  }
  if (bytes >= UINT32_MAX)
    return qi__fail(err, QI_ERR_LIMIT, "tokenizer.ggml.tokens: texts of %llu bytes, fewer than 2^32 - 1 are allowed",
                    (unsigned long long)bytes);
  c->token_bytes = (uint32_t)bytes;
  return QI_OK;
}

// What a vocabulary will need. Errors: QI_ERR_UNSUPPORTED (kind of tokenizer), _FORMAT, _LIMIT.
QI__FN qi_result qi__vocab_count(const qi__gguf *g, qi__vocab_counts *c, qi_error *err) {
  memset(c, 0, sizeof *c);
  qi_result r = qi__vocab_find_kind(g, &c->kind, err);
  if (r) return r;
  qi__gguf_array tokens, types, merges;
  r = qi__gguf_get_array(g, "tokenizer.ggml.tokens", QI_META_STRING, true, &tokens, err);
  if (r) return r;
  if (!tokens.count || tokens.count > QI__VOCAB_MAX_TOKENS)
    return qi__fail(err, QI_ERR_LIMIT, "tokenizer.ggml.tokens: %llu tokens, 1 to %u are allowed", (unsigned long long)tokens.count,
                    QI__VOCAB_MAX_TOKENS);
  c->n_tokens = (uint32_t)tokens.count;
  r = qi__vocab_array(g, "tokenizer.ggml.token_type", QI_META_I32, tokens.count, &types, err);
  if (r) return r;
  r = qi__vocab_count_texts(g, &tokens, &types, c, err);
  if (r || c->kind != QI__VOCAB_BPE) return r;
  r = qi__gguf_get_array(g, "tokenizer.ggml.merges", QI_META_STRING, true, &merges, err);
  if (r) return r;
  if (merges.count > QI__VOCAB_MAX_MERGES)
    return qi__fail(err, QI_ERR_LIMIT, "tokenizer.ggml.merges: %llu merges, at most %u are allowed",
                    (unsigned long long)merges.count, QI__VOCAB_MAX_MERGES);
  c->n_merges = (uint32_t)merges.count;
  return QI_OK;
}

// Takes the memory of a vocabulary: once with a counting arena, once with a real one (then qi__vocab_load must follow).
QI__FN void qi__vocab_layout(qi__vocab *v, qi__arena *arena, const qi__vocab_counts *c) {
  memset(v, 0, sizeof *v);
  v->kind = c->kind;
  v->n_tokens = c->n_tokens;
  v->max_token = c->max_token;
  v->n_specials = c->n_specials;
  v->offsets = QI__ARENA_ARRAY(arena, uint32_t, (size_t)c->n_tokens + 1);
  v->texts = QI__ARENA_ARRAY(arena, char, c->token_bytes);
  v->attrs = QI__ARENA_ARRAY(arena, uint8_t, c->n_tokens);
  v->specials = QI__ARENA_ARRAY(arena, uint32_t, c->n_specials);
  v->scratch = QI__ARENA_ARRAY(arena, char, 2 * ((size_t)c->max_token + 1));
  qi__str_map_init(&v->ids, arena, c->n_tokens);
  if (c->kind == QI__VOCAB_SPM) v->scores = QI__ARENA_ARRAY(arena, float, c->n_tokens);
  else qi__pair_map_init(&v->merges, arena, c->n_merges);
}

// ---- loading ----

QI__FN qi_result qi__vocab_load_tokens(qi__vocab *v, const qi__gguf *g, qi_error *err) {
  qi__gguf_array tokens, types, scores;
  qi_result r = qi__gguf_get_array(g, "tokenizer.ggml.tokens", QI_META_STRING, true, &tokens, err);
  if (!r) r = qi__vocab_array(g, "tokenizer.ggml.token_type", QI_META_I32, v->n_tokens, &types, err);
  if (!r) r = qi__vocab_array(g, "tokenizer.ggml.scores", QI_META_F32, v->n_tokens, &scores, err);
  if (r) return r;
  uint32_t at = 0;
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    const char *text;
    size_t len;
    if (!qi__gguf_next_string(&tokens, &text, &len))
      return qi__fail(err, QI_ERR_FORMAT, "tokenizer.ggml.tokens: text %u lies beyond the array's end", id);
    v->offsets[id] = at;
    memcpy(v->texts + at, text, len);
    v->texts[at + len] = 0;
    if (len && !memchr(text, 0, len)) qi__str_map_put(&v->ids, v->texts + at, (int32_t)id);
    at += (uint32_t)len + 1;
    uint32_t type = types.count ? qi__array_u32(&types, id) : QI__TOKEN_NORMAL;
    v->attrs[id] = (uint8_t)(type >= QI__TOKEN_NORMAL && type <= QI__TOKEN_BYTE ? type : QI__TOKEN_NORMAL);
    if (v->scores) v->scores[id] = scores.count ? qi__bits_f32(qi__array_u32(&scores, id)) : 0;
  }
  v->offsets[v->n_tokens] = at;
  return QI_OK;
}

// Tokens that stand for single bytes.
QI__FN void qi__vocab_find_bytes(qi__vocab *v, const qi_logger *logger) {
  int n_missing = 0;
  for (int b = 0; b < 256; b++) {
    char name[8];
    if (v->kind == QI__VOCAB_SPM) {
      snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
      v->byte_ids[b] = qi__token_by_name(v, name);
    }
    if (v->kind == QI__VOCAB_BPE || v->byte_ids[b] < 0) {
      uint32_t cp = v->kind == QI__VOCAB_BPE ? qi__byte_to_char((uint8_t)b) : 0;
      size_t n = cp ? qi__utf8_put(cp, name) : 1;
      if (!cp) name[0] = (char)b;
      name[n] = 0;
      v->byte_ids[b] = name[0] ? qi__token_by_name(v, name) : -1;
    }
    n_missing += v->byte_ids[b] < 0;
  }
  if (n_missing)
    qi__log(logger, QI_LOG_INFO, "tokenizer.ggml.tokens: %d of 256 bytes have no token; in text they become unknown", n_missing);
}

// A special id from the file: -1 where it says nothing and `id` (the default) is not in the vocabulary.
QI__FN qi_result qi__vocab_special_id(const qi__vocab *v, const qi__gguf *g, const char *key, qi_token *id, qi_error *err) {
  uint32_t value = UINT32_MAX;
  bool present = qi__gguf_find(g, key) != NULL;
  if (!present) {
    if (!qi__token_valid(v, *id)) *id = -1;
    return QI_OK;
  }
  qi_result r = qi__gguf_u32(g, key, true, &value, err);
  if (r) return r;
  if (value == UINT32_MAX) { // some converters write "none" so
    *id = -1;
    return QI_OK;
  }
  if (value >= v->n_tokens) return qi__fail(err, QI_ERR_FORMAT, "%s: %u, but there are %u tokens", key, value, v->n_tokens);
  *id = (qi_token)value;
  return QI_OK;
}

QI__FN qi_result qi__vocab_load_special(qi__vocab *v, const qi__gguf *g, qi_error *err) {
  bool spm = v->kind == QI__VOCAB_SPM;
  qi_special_tokens *s = &v->special;
  s->bos = spm ? 1 : -1;
  s->eos = spm ? 2 : -1;
  s->unk = spm ? 0 : -1;
  s->eot = s->pad = v->eom = -1;
  s->add_bos = spm || (v->pre->flags & QI__PRE_ADD_BOS);
  s->add_eos = false;
  v->space_prefix = spm;
  qi_result r = qi__vocab_special_id(v, g, "tokenizer.ggml.bos_token_id", &s->bos, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.eos_token_id", &s->eos, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.eot_token_id", &s->eot, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.eom_token_id", &v->eom, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.unknown_token_id", &s->unk, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.padding_token_id", &s->pad, err);
  if (!r) r = qi__gguf_bool(g, "tokenizer.ggml.add_bos_token", false, &s->add_bos, err);
  if (!r) r = qi__gguf_bool(g, "tokenizer.ggml.add_eos_token", false, &s->add_eos, err);
  if (!r && spm) r = qi__gguf_bool(g, "tokenizer.ggml.add_space_prefix", false, &v->space_prefix, err);
  if (r) return r;
  qi_token newline = qi__token_by_name(v, "\n");
  s->nl = newline >= 0 && qi__token_type(v, (uint32_t)newline) == QI__TOKEN_USER ? newline : v->byte_ids['\n'];
  return QI_OK;
}

// Marks what ends generation, and finds the end of turn by its name when the file does not give it.
QI__FN void qi__vocab_mark_ends(qi__vocab *v, const qi_logger *logger) {
  for (size_t i = 0; i < QI__COUNT_OF(qi__end_names); i++) {
    qi_token id = qi__token_by_name(v, qi__end_names[i]);
    if (id < 0) continue;
    if (qi__token_type(v, (uint32_t)id) != QI__TOKEN_CONTROL)
      qi__log(logger, QI_LOG_WARN, "token %d '%s' ends generation, so it counts as a control token; the file has type %u", (int)id,
              qi__end_names[i], qi__token_type(v, (uint32_t)id));
    v->attrs[id] = QI__TOKEN_CONTROL | QI__TOKEN_END;
    if (v->special.eot < 0 && i < QI__N_EOT_NAMES) v->special.eot = id;
  }
  const qi_token ends[] = {v->special.eos, v->special.eot, v->eom};
  for (size_t i = 0; i < QI__COUNT_OF(ends); i++)
    if (ends[i] >= 0) v->attrs[ends[i]] |= QI__TOKEN_END;
}

// Sets a bit of the tokens in an array of ids; ids out of range do not count. *present: the file has the array.
QI__FN qi_result qi__vocab_mark_ids(qi__vocab *v, const qi__gguf *g, const char *key, unsigned bit, bool *present, qi_error *err) {
  qi__gguf_array ids;
  *present = qi__gguf_find(g, key) != NULL;
  qi_result r = qi__gguf_get_array(g, key, QI_META_U32, false, &ids, err);
  for (uint64_t i = 0; !r && i < ids.count; i++) {
    uint32_t id = qi__array_u32(&ids, i);
    if (id < v->n_tokens) v->attrs[id] = (uint8_t)(v->attrs[id] | bit);
  }
  return r;
}

// Copies a slice to the scratch space as a terminated text and looks it up; -1 = no token, or none that merging may make: the names
// of control tokens in a text of strangers must stay text.
QI__FN qi_token qi__vocab_lookup(const qi__vocab *v, char *scratch, const char *text, size_t len) {
  if (!len || len > v->max_token || memchr(text, 0, len)) return -1;
  memcpy(scratch, text, len);
  scratch[len] = 0;
  qi_token id = qi__token_by_name(v, scratch);
  return qi__token_is_control(v, id) ? -1 : id;
}

QI__FN qi_result qi__vocab_load_merges(qi__vocab *v, const qi__gguf *g, const qi_logger *logger, qi_error *err) {
  qi__gguf_array merges;
  qi_result r = qi__gguf_get_array(g, "tokenizer.ggml.merges", QI_META_STRING, true, &merges, err);
  if (r) return r;
  uint32_t n = (uint32_t)merges.count, n_ignored = 0;
  for (uint32_t rank = 0; rank < n; rank++) {
    const char *text;
    size_t len;
    if (!qi__gguf_next_string(&merges, &text, &len))
      return qi__fail(err, QI_ERR_FORMAT, "tokenizer.ggml.merges: text %u lies beyond the array's end", rank);
    const char *space = len > 1 ? (const char *)memchr(text + 1, ' ', len - 1) : NULL;
    size_t n_left = space ? (size_t)(space - text) : len, n_right = space ? len - n_left - 1 : 0;
    qi_token left = qi__vocab_lookup(v, v->scratch, text, n_left);
    qi_token right = space ? qi__vocab_lookup(v, v->scratch, space + 1, n_right) : -1;
    qi_token joined = -1;
    if (left >= 0 && right >= 0) { // each fits a half of the scratch space
      char *both = v->scratch + n_left;
      memcpy(v->scratch, text, n_left);
      memcpy(both, space + 1, n_right);
      both[n_right] = 0;
      joined = qi__token_by_name(v, v->scratch);
    }
    if (joined < 0 || qi__token_is_control(v, joined)) n_ignored++;
    else qi__pair_map_put(&v->merges, (uint32_t)left, (uint32_t)right, (int64_t)((uint64_t)rank << 32 | (uint32_t)joined));
  }
  if (n_ignored)
    qi__log(logger, QI_LOG_WARN, "tokenizer.ggml.merges: %u of %u are not made of tokens and were ignored", n_ignored, n);
  return QI_OK;
}

// SentencePiece's scores from the order of merges, for files that have merges and no scores but zeros: a token's score is minus the
// rank of the first merge that makes it. Tokens that no merge makes are never joined.
QI__FN qi_result qi__vocab_rank_scores(qi__vocab *v, const qi__gguf *g, qi_error *err) {
  qi__gguf_array merges;
  const uint32_t never = 0xff800000u; // minus infinity
  qi_result r = qi__gguf_get_array(g, "tokenizer.ggml.merges", QI_META_STRING, false, &merges, err);
  if (r || !merges.count) return r;
  for (uint32_t id = 0; id < v->n_tokens; id++)
    if (qi__f32_bits(v->scores[id]) & 0x7fffffffu) return QI_OK;
  for (uint32_t id = 0; id < v->n_tokens; id++) v->scores[id] = qi__bits_f32(never);
  const char *text;
  size_t len;
  for (uint64_t rank = 0; qi__gguf_next_string(&merges, &text, &len); rank++) {
    const char *space = len > 2 ? (const char *)memchr(text + 1, ' ', len - 2) : NULL;
    if (!space || len - 1 > v->max_token) continue;
    size_t n_left = (size_t)(space - text);
    memcpy(v->scratch, text, n_left);
    memcpy(v->scratch + n_left, space + 1, len - n_left - 1);
    v->scratch[len - 1] = 0;
    qi_token id = qi__token_by_name(v, v->scratch);
    if (id >= 0 && qi__f32_bits(v->scores[id]) == never) v->scores[id] = -(float)rank;
  }
  return QI_OK;
}

// ---- specials ----

QI__FN bool qi__special_before(const qi__vocab *v, uint32_t a, uint32_t b) {
  size_t n, m;
  const char *s = qi__token_text(v, a, &n), *t = qi__token_text(v, b, &m);
  int order = memcmp(s, t, qi__min_size(n, m));
  return order ? order < 0 : n != m ? n < m : a < b;
}

QI__FN void qi__specials_sift(const qi__vocab *v, size_t i, size_t n) {
  uint32_t *heap = v->specials, id = heap[i];
  for (size_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
    if (child + 1 < n && qi__special_before(v, heap[child], heap[child + 1])) child++;
    if (!qi__special_before(v, id, heap[child])) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = id;
}

// Index of the tokens that are found by name in text: heap sort, since qsort knows no context.
QI__FN void qi__vocab_index_specials(qi__vocab *v) {
  size_t n = 0;
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    unsigned type = qi__token_type(v, id);
    size_t len;
    const char *text = qi__token_text(v, id, &len);
    if (!len || type < QI__TOKEN_UNKNOWN || type > QI__TOKEN_USER) continue;
    v->specials[n++] = id;
    v->special_first[(uint8_t)text[0] >> 5] |= 1u << ((uint8_t)text[0] & 31);
  }
  v->n_specials = (uint32_t)n;
  for (size_t i = n / 2; i-- > 0;) qi__specials_sift(v, i, n);
  while (n > 1) {
    uint32_t last = v->specials[0];
    v->specials[0] = v->specials[--n];
    v->specials[n] = last;
    qi__specials_sift(v, 0, n);
  }
}

// Phi-3's added tokens take the white space behind them; files do not say so, llama.cpp knows it by the model's name.
QI__FN qi_result qi__vocab_mark_rstrip(qi__vocab *v, const qi__gguf *g, qi_error *err) {
  static const char *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};
  const char *name = NULL;
  size_t len = 0;
  bool listed;
  qi_result r = qi__vocab_mark_ids(v, g, QI__KEY_RSTRIP_IDS, QI__TOKEN_RSTRIP, &listed, err);
  if (r || listed) return r;
  r = qi__gguf_str(g, "general.name", false, &name, &len, err);
  if (r) return r;
  bool phi3 = false;
  for (size_t i = 0; name && i + 4 <= len && !phi3; i++) {
    if ((name[i] | 0x20) != 'p' || (name[i + 1] | 0x20) != 'h' || (name[i + 2] | 0x20) != 'i') continue;
    phi3 = name[i + 3] == '3' || (i + 5 <= len && name[i + 3] == '-' && name[i + 4] == '3');
  }
  if (!phi3) return QI_OK;
  for (uint32_t i = 0; i < v->n_specials; i++) v->attrs[v->specials[i]] |= QI__TOKEN_RSTRIP;
  for (size_t i = 0; i < QI__COUNT_OF(plain); i++) {
    qi_token id = qi__token_by_name(v, plain[i]);
    if (id >= 0) v->attrs[id] &= (uint8_t)~QI__TOKEN_RSTRIP;
  }
  return QI_OK;
}

// ---- all of it ----

QI__FN qi_result qi__vocab_load_pre(qi__vocab *v, const qi__gguf *g, const qi_logger *logger, qi_error *err) {
  const char *name = NULL;
  size_t len = 0;
  qi_result r = qi__gguf_str(g, "tokenizer.ggml.pre", false, &name, &len, err);
  if (r) return r;
  v->pre = name ? qi__pre_find(name, len) : NULL;
  if (v->pre) return QI_OK;
  v->pre = &qi__pre_rules[0];
  if (name)
    qi__log(logger, QI_LOG_WARN, "tokenizer.ggml.pre: '%s' is not known here, text is split by the default rule; results will be "
            "worse. A row in qi__pre_rules adds it", qi__show(name, len).s);
  else
    qi__log(logger, QI_LOG_WARN, "tokenizer.ggml.pre is missing, text is split by the default rule; results may be worse");
  return QI_OK;
}

// Fills in a vocabulary that was laid out for this file. Allocates nothing. Errors: QI_ERR_FORMAT (also special ids out of range).
QI__FN qi_result qi__vocab_load(qi__vocab *v, const qi__gguf *g, const qi_logger *logger, qi_error *err) {
  qi_result r = qi__vocab_load_tokens(v, g, err);
  if (!r && v->kind == QI__VOCAB_BPE) r = qi__vocab_load_pre(v, g, logger, err);
  if (r) return r;
  qi__vocab_find_bytes(v, logger);
  r = qi__vocab_load_special(v, g, err);
  if (r) return r;
  bool listed;
  qi__vocab_mark_ends(v, logger);
  r = qi__vocab_mark_ids(v, g, QI__KEY_END_IDS, QI__TOKEN_END, &listed, err);
  if (!r) r = v->kind == QI__VOCAB_BPE ? qi__vocab_load_merges(v, g, logger, err) : qi__vocab_rank_scores(v, g, err);
  if (r) return r;
  qi__vocab_index_specials(v);
  return qi__vocab_mark_rstrip(v, g, err);
}

#endif // QI__VOCAB_H
