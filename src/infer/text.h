// ==== >>text : bytes of tokens to text, in a stream ====
#ifndef QI__TEXT_H
#define QI__TEXT_H

#include "../base/memory.h"

#define QI__STOP_MAX 64       // strings
#define QI__STOP_LEN_MAX 256  // bytes of one

// ---- UTF-8 (Unicode 15, table 3-7) ----

static const char qi__utf8_replacement[] = "\xef\xbf\xbd"; // U+FFFD

// A character whose bytes have not all come yet.
typedef struct qi__utf8 {
  uint8_t bytes[4];
  uint8_t len;     // bytes so far
  uint8_t need;    // bytes still to come; 0 = between characters
  uint8_t lo, hi;  // range of the next one
} qi__utf8;

// Takes a byte that begins a character; false when none begins with it. ASCII is whole at once: need 0.
QI__FN bool qi__utf8_begin(qi__utf8 *u, uint8_t byte) {
  u->need = byte < 0x80 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
  u->lo = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;  // no longer forms than needed
  u->hi = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;  // no surrogates, nothing above U+10FFFF
  u->bytes[0] = byte;
  u->len = 1;
  if (byte < 0x80 || (byte >= 0xc2 && byte <= 0xf4)) return true;
  u->need = 0;
  return false;
}

// Takes a byte inside a character; false (nothing changed) when it cannot be there.
QI__FN bool qi__utf8_continue(qi__utf8 *u, uint8_t byte) {
  if (byte < u->lo || byte > u->hi) return false;
  u->bytes[u->len++] = byte;
  u->need--;
  u->lo = 0x80;
  u->hi = 0xbf;
  return true;
}

QI__FN bool qi__utf8_valid(const char *s, size_t n) {
  qi__utf8 u = {{0}, 0, 0, 0, 0};
  for (size_t i = 0; i < n; i++)
    if (u.need ? !qi__utf8_continue(&u, (uint8_t)s[i]) : !qi__utf8_begin(&u, (uint8_t)s[i])) return false;
  return u.need == 0;
}

// ---- the stream ----

// One stop string and how much of it the text ends with: the automaton of Knuth, Morris and Pratt. fail[k] = length of the longest
// proper prefix of the string that its first k + 1 bytes end with.
typedef struct qi__stop {
  char *bytes;
  uint16_t *fail;
  uint16_t len, matched;
} qi__stop;

// Text on its way out. Bytes become whole characters first (what can never be UTF-8 becomes U+FFFD, one for each longest beginning
// of a character, as browsers do), then stop strings are looked for. Held back is what may still become a stop string: it begins
// with a whole character, since stop strings are UTF-8.
typedef struct qi__text {
  qi__stop *stops;
  int n_stops;
  size_t max_piece;  // most bytes of one push
  char *buf;         // characters: delivered by the last call [0, given), held back [given, used)
  size_t given, used;
  qi__utf8 partial;
  bool ended;        // a stop string was complete
} qi__text;

// Errors: QI_ERR_ARGUMENT, QI_ERR_LIMIT.
QI__FN qi_result qi__text_check(const char *const *stop, int n_stop, qi_error *err) {
  if (n_stop < 0) return qi__fail(err, QI_ERR_ARGUMENT, "stop: n_stop is %d, expected 0 to %d", n_stop, QI__STOP_MAX);
  if (n_stop > QI__STOP_MAX) return qi__fail(err, QI_ERR_LIMIT, "stop: n_stop is %d, expected at most %d", n_stop, QI__STOP_MAX);
  if (n_stop && !stop) return qi__fail(err, QI_ERR_ARGUMENT, "stop: NULL, but n_stop is %d", n_stop);
  for (int i = 0; i < n_stop; i++) {
    if (!stop[i]) return qi__fail(err, QI_ERR_ARGUMENT, "stop[%d]: NULL", i);
    size_t len = 0;
    while (len <= QI__STOP_LEN_MAX && stop[i][len]) len++;
    if (len == 0) return qi__fail(err, QI_ERR_ARGUMENT, "stop[%d]: empty, expected 1 to %d bytes", i, QI__STOP_LEN_MAX);
    if (len > QI__STOP_LEN_MAX)
      return qi__fail(err, QI_ERR_LIMIT, "stop[%d]: more than %d bytes long", i, QI__STOP_LEN_MAX);
    if (!qi__utf8_valid(stop[i], len)) return qi__fail(err, QI_ERR_ARGUMENT, "stop[%d]: not UTF-8", i);
  }
  return QI_OK;
}

// Forgets held-back text: a new answer begins.
QI__FN void qi__text_reset(qi__text *t) {
  for (int i = 0; i < t->n_stops; i++) t->stops[i].matched = 0;
  t->given = t->used = 0;
  t->partial.need = 0;
  t->ended = false;
}

// Fills in fail[] of a stop string.
QI__FN void qi__stop_prepare(qi__stop *s) {
  uint16_t k = 0;
  s->fail[0] = 0;
  for (uint16_t i = 1; i < s->len; i++) {
    while (k && s->bytes[k] != s->bytes[i]) k = s->fail[k - 1];
    if (s->bytes[k] == s->bytes[i]) k++;
    s->fail[i] = k;
  }
}

// Lays out a stream for checked stop strings (copied) and tokens of at most max_piece bytes; ready to use over a real block.
QI__FN void qi__text_layout(qi__text *t, qi__arena *arena, const char *const *stop, int n_stop, size_t max_piece) {
  memset(t, 0, sizeof *t);
  t->n_stops = n_stop;
  t->max_piece = max_piece;
  t->stops = QI__ARENA_ARRAY(arena, qi__stop, (size_t)n_stop);
  size_t longest = 1, cap = 0;
  for (int i = 0; i < n_stop; i++) {
    size_t len = strlen(stop[i]);
    char *bytes = QI__ARENA_ARRAY(arena, char, len);
    uint16_t *fail = QI__ARENA_ARRAY(arena, uint16_t, len);
    if (len > longest) longest = len;
    if (!arena->base) continue;
    memcpy(bytes, stop[i], len);
    t->stops[i].bytes = bytes;
    t->stops[i].fail = fail;
    t->stops[i].len = (uint16_t)len;
    t->stops[i].matched = 0;
    qi__stop_prepare(&t->stops[i]);
  }
  // Held back at most longest - 1; each byte of a piece becomes 3 at most (U+FFFD), as does an unfinished character before it.
  if (!qi__add_size(max_piece, 1, &cap) || !qi__mul_size(cap, 3, &cap) || !qi__add_size(cap, longest - 1, &cap))
    arena->overflow = true;
  t->buf = QI__ARENA_ARRAY(arena, char, cap);
}

// Appends whole characters and moves the automata on. True when a stop string is complete; then text from it on is cut off. If
// several end at the same byte, the longest counts.
QI__FN bool qi__text_append(qi__text *t, const void *bytes, size_t n) {
  for (size_t j = 0; j < n; j++) {
    char byte = ((const char *)bytes)[j];
    size_t cut = 0;
    t->buf[t->used++] = byte;
    for (int i = 0; i < t->n_stops; i++) {
      qi__stop *s = &t->stops[i];
      while (s->matched && s->bytes[s->matched] != byte) s->matched = s->fail[s->matched - 1];
      if (s->bytes[s->matched] == byte) s->matched++;
      if (s->matched == s->len && s->len > cut) cut = s->len;
    }
    if (cut) {
      t->used -= cut;
      t->ended = true;
      return true;
    }
  }
  return false;
}

// One byte of a token. True when a stop string is complete.
QI__FN bool qi__text_byte(qi__text *t, uint8_t byte) {
  qi__utf8 *u = &t->partial;
  if (!u->need || !qi__utf8_continue(u, byte)) {
    bool cut_short = u->need != 0;
    u->need = 0;
    if (cut_short && qi__text_append(t, qi__utf8_replacement, 3)) return true;
    if (!qi__utf8_begin(u, byte)) return qi__text_append(t, qi__utf8_replacement, 3);
  }
  return u->need == 0 && qi__text_append(t, u->bytes, u->len);
}

// Drops what the last call delivered.
QI__FN void qi__text_advance(qi__text *t) {
  t->used -= t->given;
  memmove(t->buf, t->buf + t->given, t->used);
  t->given = 0;
}

// Takes the bytes of a token (at most max_piece) and sets text and len of *out: what is certain by now, valid until the next call.
// True when a stop string is complete: *out holds the text before it, and nothing more will come until qi__text_reset.
QI__FN bool qi__text_push(qi__text *t, const char *bytes, size_t n, qi_piece *out) {
  size_t held = 0;
  QI_ASSERT(n <= t->max_piece);
  n = qi__min_size(n, t->max_piece);
  qi__text_advance(t);
  for (size_t i = 0; i < n && !t->ended; i++) t->ended = qi__text_byte(t, (uint8_t)bytes[i]);
  for (int i = 0; i < t->n_stops && !t->ended; i++)
    if (t->stops[i].matched > held) held = t->stops[i].matched;
  t->given = t->used - held;
  out->text = t->buf;
  out->len = t->given;
  return t->ended;
}

// Generation ended otherwise: sets text and len of *out to all that was held back; an unfinished character becomes U+FFFD.
QI__FN void qi__text_flush(qi__text *t, qi_piece *out) {
  qi__text_advance(t);
  if (t->partial.need && !t->ended) t->ended = qi__text_append(t, qi__utf8_replacement, 3);
  t->given = t->used;
  t->partial.need = 0;
  for (int i = 0; i < t->n_stops; i++) t->stops[i].matched = 0;
  out->text = t->buf;
  out->len = t->given;
}

#endif // QI__TEXT_H
