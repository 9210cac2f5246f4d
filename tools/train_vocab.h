// A vocabulary of byte-pair pieces, learnt from a text: SentencePiece's kind as GGUF has it (tokenizer.ggml.model "llama").
//
// Pieces hold letters of one word, with the blank before it or without, or signs that stand together. An empty line is a piece of
// its own and ends a document, so a plain text file is exactly what models are trained on.
#ifndef TRAIN_VOCAB_H
#define TRAIN_VOCAB_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tests/support/gguf_write.h"

enum { VOCAB_UNKNOWN, VOCAB_BEGIN, VOCAB_END, VOCAB_BYTES, VOCAB_BLANK = VOCAB_BYTES + 256 }; // ids
enum { VOCAB_MAX_PIECE = 48, VOCAB_PAIR_SLOTS = 1 << 17, VOCAB_WORD_SLOTS = 1 << 17, VOCAB_MAX_WORD = 40 };

typedef struct train_vocab {
  int n, cap;
  char (*texts)[VOCAB_MAX_PIECE];
  float *scores;
  int32_t *types; // as in tokenizer.ggml.token_type
} train_vocab;

// A word of the text with the pieces it is made of so far.
typedef struct vocab_word {
  const char *text;
  uint16_t len, n;
  uint32_t count;
  uint16_t pieces[VOCAB_MAX_WORD];
} vocab_word;

typedef struct vocab_pair {
  uint32_t key; // left << 16 | right; 0 = free
  uint64_t count;
} vocab_pair;

typedef struct vocab_learner {
  vocab_word *words; // [VOCAB_WORD_SLOTS], a hash table
  vocab_pair *pairs; // [VOCAB_PAIR_SLOTS], a hash table
  int char_ids[256];
} vocab_learner;

GW_FN void vocab_add(train_vocab *v, const char *text, int32_t type, float score) {
  snprintf(v->texts[v->n], VOCAB_MAX_PIECE, "%s", text);
  v->types[v->n] = type;
  v->scores[v->n++] = score;
}

GW_FN void train_vocab_free(train_vocab *v) {
  free(v->texts);
  free(v->scores);
  free(v->types);
  memset(v, 0, sizeof *v);
}

GW_FN bool vocab_is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// End of the word at p: a blank, then letters or signs. Line ends are words that are not counted.
GW_FN const char *vocab_word_end(const char *p, const char *end) {
  if (*p == '\n') return p + 1;
  if (*p == ' ') p++;
  if (p < end && vocab_is_letter(*p)) {
    while (p < end && (vocab_is_letter(*p) || (*p == '\'' && p + 1 < end && vocab_is_letter(p[1])))) p++;
    return p;
  }
  while (p < end && !vocab_is_letter(*p) && *p != ' ' && *p != '\n') p++;
  return p;
}

GW_FN void vocab_count_words(vocab_learner *l, const char *text, size_t size) {
  const char *end = text + size;
  for (const char *p = text, *next; p < end; p = next) {
    next = vocab_word_end(p, end);
    size_t len = (size_t)(next - p);
    if (*p == '\n' || len > VOCAB_MAX_WORD) continue;
    uint32_t slot = 2166136261u;
    for (size_t i = 0; i < len; i++) slot = (slot ^ (uint8_t)p[i]) * 16777619u;
    for (slot %= VOCAB_WORD_SLOTS; l->words[slot].len; slot = (slot + 1) % VOCAB_WORD_SLOTS)
      if (l->words[slot].len == len && !memcmp(l->words[slot].text, p, len)) break;
    l->words[slot].text = p;
    l->words[slot].len = (uint16_t)len;
    l->words[slot].count++;
  }
}

// Special pieces, bytes, the blank and all characters of the words, which are cut into them.
GW_FN void vocab_begin(train_vocab *v, vocab_learner *l) {
  char name[8];
  vocab_add(v, "<unk>", 2, 0);
  vocab_add(v, "<s>", 3, 0);
  vocab_add(v, "\n\n", 1, 1); // is joined before anything else
  for (int b = 0; b < 256; b++) {
    snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
    vocab_add(v, name, 6, 0);
  }
  vocab_add(v, "\xE2\x96\x81", 1, -1e6f);
  bool used[256] = {false};
  for (int i = 0; i < VOCAB_WORD_SLOTS; i++)
    for (int k = 0; k < l->words[i].len; k++) used[(uint8_t)l->words[i].text[k]] = true;
  l->char_ids[' '] = VOCAB_BLANK;
  for (int c = '!'; c < 127; c++)
    if (used[c]) {
      name[0] = (char)c;
      name[1] = 0;
      l->char_ids[c] = v->n;
      vocab_add(v, name, 1, -1e6f);
    }
  for (int i = 0; i < VOCAB_WORD_SLOTS; i++) {
    vocab_word *w = &l->words[i];
    w->n = w->len;
    for (int k = 0; k < w->len; k++) w->pieces[k] = (uint16_t)l->char_ids[(uint8_t)w->text[k]];
  }
}

// The pair of neighbours that occurs most; of equal ones that with the lowest ids. 0: there is none.
GW_FN uint32_t vocab_best_pair(vocab_learner *l) {
  memset(l->pairs, 0, VOCAB_PAIR_SLOTS * sizeof *l->pairs);
  vocab_pair best = {0, 0};
  for (int i = 0; i < VOCAB_WORD_SLOTS; i++) {
    const vocab_word *w = &l->words[i];
    for (int k = 0; k + 1 < w->n; k++) {
      uint32_t key = (uint32_t)w->pieces[k] << 16 | w->pieces[k + 1], slot = (key * 2654435761u) >> 15;
      while (l->pairs[slot].key && l->pairs[slot].key != key) slot = (slot + 1) % VOCAB_PAIR_SLOTS;
      l->pairs[slot].key = key;
      l->pairs[slot].count += w->count;
      if (l->pairs[slot].count > best.count || (l->pairs[slot].count == best.count && key < best.key)) best = l->pairs[slot];
    }
  }
  return best.key;
}

GW_FN void vocab_join(vocab_learner *l, uint32_t key, uint16_t joined) {
  for (int i = 0; i < VOCAB_WORD_SLOTS; i++) {
    vocab_word *w = &l->words[i];
    int n = 0;
    for (int k = 0; k < w->n; k++) {
      bool pair = k + 1 < w->n && w->pieces[k] == key >> 16 && w->pieces[k + 1] == (key & 0xffff);
      w->pieces[n++] = pair ? joined : w->pieces[k];
      k += pair;
    }
    w->n = (uint16_t)n;
  }
}

// At most n pieces (fewer if the text has no more to join); n < 65536. False when there is no memory.
GW_FN bool train_vocab_learn(train_vocab *v, const char *text, size_t size, int n) {
  vocab_learner l;
  memset(&l, 0, sizeof l);
  memset(v, 0, sizeof *v);
  v->cap = n > VOCAB_BLANK + 128 ? n : VOCAB_BLANK + 128;
  v->texts = (char(*)[VOCAB_MAX_PIECE])calloc((size_t)v->cap, sizeof *v->texts);
  v->scores = (float *)calloc((size_t)v->cap, sizeof *v->scores);
  v->types = (int32_t *)calloc((size_t)v->cap, sizeof *v->types);
  l.words = (vocab_word *)calloc(VOCAB_WORD_SLOTS, sizeof *l.words);
  l.pairs = (vocab_pair *)calloc(VOCAB_PAIR_SLOTS, sizeof *l.pairs);
  bool good = v->texts && v->scores && v->types && l.words && l.pairs;
  if (good) {
    vocab_count_words(&l, text, size);
    vocab_begin(v, &l);
  }
  for (uint32_t key; good && v->n < n && (key = vocab_best_pair(&l)) != 0;) {
    char joined[VOCAB_MAX_PIECE];
    snprintf(joined, sizeof joined, "%.23s%.23s", v->texts[key >> 16], v->texts[key & 0xffff]);
    vocab_join(&l, key, (uint16_t)v->n);
    vocab_add(v, joined, 1, (float)-v->n);
  }
  free(l.words);
  free(l.pairs);
  if (!good) train_vocab_free(v);
  return good;
}

// The tokenizer's keys.
GW_FN void train_vocab_write(const train_vocab *v, gw_file *w) {
  gw_kv_str(w, "tokenizer.ggml.model", "llama");
  gw_key(w, "tokenizer.ggml.tokens", GW_ARRAY);
  gw_uint(&w->kv, GW_STRING, 4);
  gw_uint(&w->kv, (uint64_t)v->n, 8);
  for (int i = 0; i < v->n; i++) gw_text(&w->kv, v->texts[i], strlen(v->texts[i]));
  gw_kv_f32s(w, "tokenizer.ggml.scores", v->scores, (size_t)v->n);
  gw_kv_i32s(w, "tokenizer.ggml.token_type", v->types, (size_t)v->n);
  gw_kv_u32(w, "tokenizer.ggml.unknown_token_id", VOCAB_UNKNOWN);
  gw_kv_u32(w, "tokenizer.ggml.bos_token_id", VOCAB_BEGIN);
  gw_kv_u32(w, "tokenizer.ggml.eos_token_id", VOCAB_END);
  gw_kv_bool(w, "tokenizer.ggml.add_bos_token", 1);
  gw_kv_bool(w, "tokenizer.ggml.add_eos_token", 0);
  gw_kv_bool(w, "tokenizer.ggml.add_space_prefix", 0);
}

#endif // TRAIN_VOCAB_H
