// ==== >>unicode : UTF-8 and character classes ====
#ifndef QI__UNICODE_H
#define QI__UNICODE_H

#include "unicode_data.h"

// Bits of a character's class; tools/unicode_tables.py writes them. A character has at most one of the first five.
enum {
  QI__LETTER = 1, // \p{L}
  QI__NUMBER = 2, // \p{N}
  QI__PUNCT = 4,  // \p{P}
  QI__SYMBOL = 8, // \p{S}
  QI__MARK = 16,  // \p{M}
  QI__SPACE = 32  // \s
};

#define QI__NO_CHAR 0xFFFFFFFFu // where text has ended
#define QI__BAD_CHAR 0xFFFDu    // stands for a byte that is not part of UTF-8

// ---- UTF-8 ----

// Second to last bytes of a character: n of them at s into *cp, six bits each; false when one is missing.
QI__INLINE bool qi__utf8_tail(const uint8_t *s, size_t avail, size_t n, uint32_t *cp) {
  if (avail < n) return false;
  for (size_t i = 0; i < n; i++) {
    if ((s[i] & 0xC0) != 0x80) return false;
    *cp = *cp << 6 | (s[i] & 0x3Fu);
  }
  return true;
}

// Character at text (avail >= 1 bytes) and its bytes. What is not UTF-8 (also overlong forms, surrogates, all beyond 0x10FFFF)
// is QI__BAD_CHAR of one byte, so every byte of a text belongs to exactly one character.
QI__INLINE size_t qi__utf8_next(const char *text, size_t avail, uint32_t *cp) {
  static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
  const uint8_t *s = (const uint8_t *)text;
  if (s[0] < 0x80) {
    *cp = s[0];
    return 1;
  }
  size_t n = s[0] >= 0xF8 || s[0] < 0xC0 ? 0 : s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
  if (n) {
    uint32_t c = s[0] & (0x7Fu >> n);
    if (qi__utf8_tail(s + 1, avail - 1, n - 1, &c) && c >= least[n] && c < 0x110000 && (c < 0xD800 || c > 0xDFFF)) {
      *cp = c;
      return n;
    }
  }
  *cp = QI__BAD_CHAR;
  return 1;
}

// Writes cp (at most 0x10FFFF) and returns its bytes, 1 to 4.
QI__FN size_t qi__utf8_put(uint32_t cp, char out[4]) {
  if (cp < 0x80) {
    out[0] = (char)cp;
    return 1;
  }
  size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
  out[0] = (char)((0xF00u >> n & 0xFF) | cp);
  return n;
}

// ---- classes ----

QI__INLINE unsigned qi__char_class(uint32_t cp) {
  if (cp < 0x80) return qi__ascii_classes[cp];
  if (cp > 0x10FFFF) return 0;
  size_t lo = 0, hi = QI__COUNT_OF(qi__unicode_runs); // run lo begins at or before cp, run hi after it
  while (hi - lo > 1) {
    size_t mid = (lo + hi) / 2;
    if (qi__unicode_runs[mid] >> 8 <= cp) lo = mid;
    else hi = mid;
  }
  return qi__unicode_runs[lo] & 0xFF;
}

// A character of a text, with its class.
typedef struct qi__char {
  uint32_t cp; // QI__NO_CHAR (size 0, no class) at the end
  unsigned cls;
  size_t size; // bytes
} qi__char;

QI__INLINE qi__char qi__char_at(const char *text, size_t pos, size_t end) {
  qi__char c = {QI__NO_CHAR, 0, 0};
  if (pos >= end) return c;
  c.size = qi__utf8_next(text + pos, end - pos, &c.cp);
  c.cls = qi__char_class(c.cp);
  return c;
}

#endif // QI__UNICODE_H
