// ==== >>json : reading JSON piece by piece, without memory ====
#ifndef QI__MODEL_JSON_H
#define QI__MODEL_JSON_H

#include "../base/file.h"

// RFC 8259, nothing more: no comments, no trailing commas, no NaN. The reader walks over a file's bytes once and hands out
// values as they come; what is not wanted is skipped, and checked all the same. It needs no memory but a window on the stack, and
// its cost grows with the bytes. After the first error every call does nothing, so that loops end and one look at `result` is
// enough:
//
//   qi__json_init(&j, &file, 0, file.size, err);
//   for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);)
//     if (qi__json_key_is(&j, "width")) qi__json_u32(&j, &width);
//     else qi__json_skip(&j);
//   qi__json_end(&j);
//   return j.result;

#define QI__JSON_MAX_DEPTH 64   // bits of qi__json.objects
#define QI__JSON_MAX_KEY 255    // longer keys are read, but kept only so far
#define QI__JSON_MAX_NUMBER 128 // characters

typedef enum qi__json_type {
  QI__JSON_NONE, // no value begins here, or something failed before
  QI__JSON_NULL,
  QI__JSON_BOOL,
  QI__JSON_NUMBER,
  QI__JSON_STRING,
  QI__JSON_ARRAY,
  QI__JSON_OBJECT
} qi__json_type;

typedef struct qi__json {
  const qi__file *file;
  uint64_t begin, end;      // the text's bytes in the file
  qi_error *err;
  qi_result result;         // of the first step that failed
  int depth;                // arrays and objects that are open
  uint64_t objects, begun;  // bit d: the value at depth d + 1 is an object; has had an element
  char key[QI__JSON_MAX_KEY + 1]; // the last key, decoded and terminated
  size_t key_len;           // its full length
  uint64_t key_pos;         // where its quote is
  const uint8_t *from, *at, *stop; // bytes at hand; `at` is next
  uint64_t from_pos;        // place of `from` in the file
  uint8_t window[4096];     // of a file without map
} qi__json;

// ---- bytes and errors ----

// Reads bytes begin..begin+size-1 of an open file.
QI__FN void qi__json_init(qi__json *j, const qi__file *file, uint64_t begin, uint64_t size, qi_error *err) {
  j->file = file;
  j->begin = begin <= file->size ? begin : file->size;
  j->end = size <= file->size - j->begin ? j->begin + size : file->size;
  j->err = err;
  j->result = QI_OK;
  j->depth = 0;
  j->objects = j->begun = 0;
  j->key[0] = 0;
  j->key_len = 0;
  j->key_pos = begin;
  j->from = j->at = j->stop = file->map ? file->map + (size_t)j->begin : j->window;
  if (file->map) j->stop = file->map + (size_t)j->end;
  j->from_pos = j->begin;
}

QI__INLINE uint64_t qi__json_pos(const qi__json *j) { return j->from_pos + (uint64_t)(j->at - j->from); }

// Line and column of a place, both from 1; the text is read again for it.
QI__FN void qi__json_place(const qi__json *j, uint64_t pos, uint64_t *line, uint64_t *column) {
  uint8_t bytes[512];
  *line = *column = 1;
  for (uint64_t at = j->begin; at < pos;) {
    size_t n = pos - at < sizeof bytes ? (size_t)(pos - at) : sizeof bytes;
    if (qi__file_pull(j->file, at, bytes, n)) return;
    for (size_t i = 0; i < n; i++) {
      if (bytes[i] == '\n') ++*line, *column = 0;
      ++*column;
    }
    at += n;
  }
}

// Fails at the byte that is next. The first error stays.
QI__FN QI__PRINTF(3, 4) void qi__json_fail(qi__json *j, qi_result code, const char *fmt, ...) {
  if (j->result) return;
  j->result = code;
  if (!j->err) return;
  char what[160];
  va_list args;
  va_start(args, fmt);
  vsnprintf(what, sizeof what, fmt, args);
  va_end(args);
  uint64_t line, column;
  qi__json_place(j, qi__json_pos(j), &line, &column);
  qi__fail(j->err, code, "line %llu, column %llu: %s", (unsigned long long)line, (unsigned long long)column, what);
}

// The next byte stays where it is; -1 at the end, or after an error.
QI__FN int qi__json_refill(qi__json *j) {
  uint64_t pos = qi__json_pos(j);
  if (j->result || j->file->map || pos >= j->end) return -1;
  size_t n = j->end - pos < sizeof j->window ? (size_t)(j->end - pos) : sizeof j->window;
  j->from = j->at = j->stop = j->window;
  j->from_pos = pos;
  j->result = qi__file_read(j->file, pos, j->window, n, j->err);
  if (j->result) return -1;
  j->stop = j->window + n;
  return *j->at;
}
QI__INLINE int qi__json_look(qi__json *j) { return j->at < j->stop && !j->result ? *j->at : qi__json_refill(j); }

// The next byte behind white space.
QI__FN int qi__json_look_solid(qi__json *j) {
  int c;
  while ((c = qi__json_look(j)) == ' ' || c == '\n' || c == '\r' || c == '\t') j->at++;
  return c;
}

QI__FN qi__json_type qi__json_type_of(int c) {
  if (c == '{') return QI__JSON_OBJECT;
  if (c == '[') return QI__JSON_ARRAY;
  if (c == '"') return QI__JSON_STRING;
  if (c == 't' || c == 'f') return QI__JSON_BOOL;
  if (c == 'n') return QI__JSON_NULL;
  return c == '-' || (c >= '0' && c <= '9') ? QI__JSON_NUMBER : QI__JSON_NONE;
}

QI__FN const char *qi__json_type_name(qi__json_type type) {
  static const char *const names[] = {"no value", "null", "a bool", "a number", "a string", "an array", "an object"};
  return names[type];
}

// Type of the value that is next; it is not read yet.
QI__FN qi__json_type qi__json_peek(qi__json *j) { return qi__json_type_of(qi__json_look_solid(j)); }

// "found X, expected Y" at the next byte.
QI__FN void qi__json_unexpected(qi__json *j, const char *expected) {
  int c = qi__json_look_solid(j);
  qi__json_type type = qi__json_type_of(c);
  char byte[16];
  const char *found = type ? qi__json_type_name(type) : byte;
  if (c < 0) found = "the end";
  else if (c >= 0x20 && c < 0x7f) snprintf(byte, sizeof byte, "'%c'", c);
  else snprintf(byte, sizeof byte, "byte 0x%02x", (unsigned)c & 255u);
  bool in_object = j->depth && (j->objects >> (j->depth - 1) & 1);
  if (in_object && j->key_len)
    qi__json_fail(j, QI_ERR_FORMAT, "key %s: found %s, expected %s", qi__show_text(j->key).s, found, expected);
  else
    qi__json_fail(j, QI_ERR_FORMAT, "found %s, expected %s", found, expected);
}

// True when a value of this type is next; else fails.
QI__FN bool qi__json_expect(qi__json *j, qi__json_type type) {
  if (qi__json_peek(j) == type && !j->result) return true;
  qi__json_unexpected(j, qi__json_type_name(type));
  return false;
}

// ---- strings ----

// Decoded bytes: those that fit are kept, all are counted.
typedef struct qi__json_sink {
  char *out;
  size_t cap, len;
} qi__json_sink;

QI__INLINE void qi__json_put(qi__json_sink *sink, unsigned byte) {
  if (sink->len < sink->cap) sink->out[sink->len] = (char)byte;
  sink->len++;
}

QI__FN void qi__json_put_char(qi__json_sink *sink, uint32_t cp) {
  if (cp < 0x80) {
    qi__json_put(sink, cp);
  } else if (cp < 0x800) {
    qi__json_put(sink, 0xC0 | cp >> 6);
    qi__json_put(sink, 0x80 | (cp & 63));
  } else {
    if (cp < 0x10000) {
      qi__json_put(sink, 0xE0 | cp >> 12);
    } else {
      qi__json_put(sink, 0xF0 | cp >> 18);
      qi__json_put(sink, 0x80 | (cp >> 12 & 63));
    }
    qi__json_put(sink, 0x80 | (cp >> 6 & 63));
    qi__json_put(sink, 0x80 | (cp & 63));
  }
}

// Four hexadecimal digits behind \u.
QI__FN uint32_t qi__json_hex(qi__json *j) {
  uint32_t v = 0;
  for (int i = 0; i < 4; i++) {
    int c = qi__json_look(j);
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) {
      qi__json_fail(j, QI_ERR_FORMAT, "four hexadecimal digits must follow \\u");
      return 0;
    }
    v = v << 4 | (uint32_t)digit;
    j->at++;
  }
  return v;
}

// What follows a backslash.
QI__FN void qi__json_escape(qi__json *j, qi__json_sink *sink) {
  static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
  int c = qi__json_look(j);
  const char *name = c > 0 ? strchr(names, c) : NULL;
  if (name) {
    j->at++;
    qi__json_put(sink, (unsigned char)bytes[name - names]);
    return;
  }
  if (c != 'u') {
    qi__json_fail(j, QI_ERR_FORMAT, "a backslash must be followed by one of \"\\/bfnrtu");
    return;
  }
  j->at++;
  uint32_t cp = qi__json_hex(j);
  if (cp >= 0xD800 && cp < 0xDC00) { // the other half must follow
    bool u = qi__json_look(j) == '\\' && (j->at++, qi__json_look(j) == 'u');
    if (u) j->at++;
    uint32_t low = u ? qi__json_hex(j) : 0;
    if (low < 0xDC00 || low >= 0xE000) {
      qi__json_fail(j, QI_ERR_FORMAT, "\\u%04x is half of a surrogate pair, the other half does not follow", (unsigned)cp);
      return;
    }
    cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
  } else if (cp >= 0xDC00 && cp < 0xE000) {
    qi__json_fail(j, QI_ERR_FORMAT, "\\u%04x is the second half of a surrogate pair, without the first", (unsigned)cp);
    return;
  }
  qi__json_put_char(sink, cp);
}

// One character of two to four bytes, in its shortest form, no surrogate, at most U+10FFFF (Unicode, table 3-7).
QI__FN void qi__json_utf8(qi__json *j, qi__json_sink *sink) {
  int lead = *j->at, n = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  int low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80, high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (lead < 0xC2 || lead > 0xF4) {
    qi__json_fail(j, QI_ERR_FORMAT, "byte 0x%02x begins no UTF-8 character", (unsigned)lead);
    return;
  }
  qi__json_put(sink, (unsigned)lead);
  j->at++;
  for (; n; n--, low = 0x80, high = 0xBF) {
    int c = qi__json_look(j);
    if (c < low || c > high) {
      qi__json_fail(j, QI_ERR_FORMAT, "a UTF-8 character that begins with 0x%02x is cut short or not allowed", (unsigned)lead);
      return;
    }
    qi__json_put(sink, (unsigned)c);
    j->at++;
  }
}

// The string whose quote is next. Fast where it matters: vocabularies are megabytes.
QI__FN void qi__json_read_string(qi__json *j, qi__json_sink *sink) {
  for (j->at++;;) {
    const uint8_t *p = j->at;
    while (p < j->stop && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\') p++;
    size_t n = (size_t)(p - j->at), room = sink->cap > sink->len ? sink->cap - sink->len : 0;
    if (n && room) memcpy(sink->out + sink->len, j->at, qi__min_size(n, room));
    sink->len += n;
    j->at = p;
    int c = qi__json_look(j);
    if (c == '"') {
      j->at++;
      return;
    }
    if (c < 0) qi__json_fail(j, QI_ERR_FORMAT, "the text ends inside a string");
    else if (c < 0x20) qi__json_fail(j, QI_ERR_FORMAT, "a string has a control character, 0x%02x", (unsigned)c);
    else if (c == '\\') j->at++, qi__json_escape(j, sink);
    else if (c >= 0x80) qi__json_utf8(j, sink);
    if (j->result) return;
  }
}

// A string, decoded: at most cap bytes to `out` (no terminator), its full length to *len, 0 on failure. out NULL with cap 0 skips.
QI__FN void qi__json_string(qi__json *j, char *out, size_t cap, size_t *len) {
  qi__json_sink sink = {out, cap, 0};
  if (qi__json_expect(j, QI__JSON_STRING)) qi__json_read_string(j, &sink);
  if (len) *len = j->result ? 0 : sink.len;
}

// The same, cut to cap - 1 bytes and terminated.
QI__FN void qi__json_text(qi__json *j, char *out, size_t cap) {
  size_t len;
  qi__json_string(j, out, cap - 1, &len);
  out[qi__min_size(len, cap - 1)] = 0;
}

// The string whose quote is at a place that was passed before. The walk cannot go on where it was.
QI__FN void qi__json_string_at(qi__json *j, uint64_t pos, char *out, size_t cap, size_t *len) {
  if (pos >= j->from_pos && pos - j->from_pos <= (uint64_t)(j->stop - j->from)) {
    j->at = j->from + (size_t)(pos - j->from_pos);
  } else { // only without map: forget the window
    j->from = j->at = j->stop = j->window;
    j->from_pos = pos;
  }
  qi__json_string(j, out, cap, len);
}

// ---- numbers ----

// Takes the characters of a number and checks their grammar: -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
QI__FN bool qi__json_number_text(qi__json *j, char text[QI__JSON_MAX_NUMBER + 1]) {
  size_t n = 0;
  int c;
  text[0] = 0;
  if (!qi__json_expect(j, QI__JSON_NUMBER)) return false;
  while ((c = qi__json_look(j)) == '-' || c == '+' || c == '.' || c == 'e' || c == 'E' || (c >= '0' && c <= '9')) {
    if (n == QI__JSON_MAX_NUMBER) {
      qi__json_fail(j, QI_ERR_LIMIT, "a number of more than %d characters", QI__JSON_MAX_NUMBER);
      return false;
    }
    text[n++] = (char)c;
    j->at++;
  }
  if (j->result) return false;
  text[n] = 0;
  const char *p = text + (text[0] == '-');
  size_t digits = strspn(p, "0123456789");
  bool ok = digits && (digits == 1 || *p != '0');
  p += digits;
  if (*p == '.') {
    digits = strspn(++p, "0123456789");
    ok = ok && digits;
    p += digits;
  }
  if (*p == 'e' || *p == 'E') {
    p++;
    p += *p == '+' || *p == '-';
    digits = strspn(p, "0123456789");
    ok = ok && digits;
    p += digits;
  }
  if (!ok || *p) qi__json_fail(j, QI_ERR_FORMAT, "'%s' is no number", qi__show(text, qi__min_size(n, 40)).s);
  return !j->result;
}

// v * 10^e. Powers up to 10^22 are exact in a double, so most numbers that people write come out right to the last bit.
QI__FN double qi__json_scale(double v, int e) {
  static const double small[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  for (; e > 22 && v < 1e300; e -= 22) v *= 1e22;
  for (; e < -22 && v > 0; e += 22) v /= 1e22;
  if (e > 22) return HUGE_VAL;
  if (e < -22) return 0;
  return e < 0 ? v / small[-e] : v * small[e];
}

// Value of a checked text; within two units of the last place. Not strtod: that one asks the locale for the point.
QI__FN double qi__json_value(const char *text) {
  uint64_t mantissa = 0;
  int exponent = 0, said = 0;
  bool negative = *text == '-', fraction = false;
  for (text += negative; *text && *text != 'e' && *text != 'E'; text++) {
    if (*text == '.') {
      fraction = true;
    } else if (mantissa < UINT64_MAX / 10 - 1) {
      mantissa = mantissa * 10 + (uint64_t)(*text - '0');
      exponent -= fraction;
    } else {
      exponent += !fraction;
    }
  }
  if (*text) {
    bool minus = text[1] == '-';
    for (text += 1 + (minus || text[1] == '+'); *text; text++)
      if (said < 100000) said = said * 10 + (*text - '0');
    exponent += minus ? -said : said;
  }
  double v = mantissa ? qi__json_scale((double)mantissa, exponent) : 0;
  return negative ? -v : v;
}

// A number that a double holds.
QI__FN void qi__json_number(qi__json *j, double *out) {
  char text[QI__JSON_MAX_NUMBER + 1];
  if (!qi__json_number_text(j, text)) return;
  double v = qi__json_value(text);
  if (v >= -DBL_MAX && v <= DBL_MAX) *out = v;
  else qi__json_fail(j, QI_ERR_FORMAT, "%s is beyond the range of numbers", qi__show(text, qi__min_size(strlen(text), 40)).s);
}

// A whole number from 0 to max, also written 4096.0 or 1e6.
QI__FN void qi__json_u64(qi__json *j, uint64_t max, uint64_t *out) {
  char text[QI__JSON_MAX_NUMBER + 1];
  if (!qi__json_number_text(j, text)) return;
  uint64_t v = 0;
  bool ok = true;
  if (text[strspn(text, "0123456789")]) {
    double d = qi__json_value(text);
    ok = d >= 0 && d <= 9007199254740992.0 && d == floor(d);
    if (ok) v = (uint64_t)d;
  } else {
    for (const char *p = text; *p && ok; p++) ok = qi__mul_u64(v, 10, &v) && qi__add_u64(v, (uint64_t)(*p - '0'), &v);
  }
  if (!ok || v > max)
    qi__json_fail(j, QI_ERR_FORMAT, "%s%sfound %s, expected a whole number from 0 to %llu", qi__show_text(j->key).s,
                  j->key_len ? ": " : "", qi__show(text, qi__min_size(strlen(text), 40)).s, (unsigned long long)max);
  else
    *out = v;
}

QI__FN void qi__json_u32(qi__json *j, uint32_t *out) {
  uint64_t v = *out;
  qi__json_u64(j, UINT32_MAX, &v);
  *out = (uint32_t)v;
}

// ---- words ----

QI__FN void qi__json_word(qi__json *j, const char *word) {
  for (const char *p = word; *p; p++, j->at++)
    if (qi__json_look(j) != *p) {
      qi__json_fail(j, QI_ERR_FORMAT, "a word that is not %s", word);
      return;
    }
}

QI__FN void qi__json_bool(qi__json *j, bool *out) {
  if (!qi__json_expect(j, QI__JSON_BOOL)) return;
  bool v = *j->at == 't';
  qi__json_word(j, v ? "true" : "false");
  if (!j->result) *out = v;
}

QI__FN void qi__json_null(qi__json *j) {
  if (qi__json_expect(j, QI__JSON_NULL)) qi__json_word(j, "null");
}

// ---- arrays and objects ----

// Opens the array or object that is next; false on failure.
QI__FN bool qi__json_enter(qi__json *j, qi__json_type type) {
  if (!qi__json_expect(j, type)) return false;
  if (j->depth == QI__JSON_MAX_DEPTH) {
    qi__json_fail(j, QI_ERR_LIMIT, "arrays and objects nest deeper than %d", QI__JSON_MAX_DEPTH);
    return false;
  }
  j->at++;
  uint64_t bit = (uint64_t)1 << j->depth++;
  j->objects = type == QI__JSON_OBJECT ? j->objects | bit : j->objects & ~bit;
  j->begun &= ~bit;
  return true;
}

// Steps to the next element of the value that is open, over the comma; false when it ends here (then it is closed) or on failure.
QI__FN bool qi__json_step(qi__json *j, char close) {
  if (j->result) return false;
  uint64_t bit = (uint64_t)1 << (j->depth - 1);
  bool begun = (j->begun & bit) != 0;
  int c = qi__json_look_solid(j);
  if (c == close) {
    j->at++;
    j->depth--;
    return false;
  }
  if (begun && c != ',') {
    j->key_len = 0;
    qi__json_unexpected(j, close == '}' ? "',' or '}'" : "',' or ']'");
    return false;
  }
  if (begun) j->at++;
  j->begun |= bit;
  return !j->result;
}

// Each element of an array: while (qi__json_next(&j)) read or skip one value.
QI__FN bool qi__json_next(qi__json *j) { return qi__json_step(j, ']'); }

// Each member of an object: the key goes to `key`, the value must be read or skipped.
QI__FN bool qi__json_next_key(qi__json *j) {
  if (!qi__json_step(j, '}')) return false;
  j->key_len = 0;
  if (qi__json_look_solid(j) != '"') {
    qi__json_unexpected(j, "a key");
    return false;
  }
  j->key_pos = qi__json_pos(j);
  qi__json_sink sink = {j->key, QI__JSON_MAX_KEY, 0};
  qi__json_read_string(j, &sink);
  j->key[qi__min_size(sink.len, QI__JSON_MAX_KEY)] = 0;
  if (!j->result && qi__json_look_solid(j) != ':') qi__json_unexpected(j, "':'");
  if (j->result) return false;
  j->at++;
  j->key_len = sink.len;
  return true;
}

QI__FN bool qi__json_key_is(const qi__json *j, const char *key) {
  size_t n = strlen(key);
  return n == j->key_len && n <= QI__JSON_MAX_KEY && !memcmp(j->key, key, n);
}

// Steps over one value, whatever it is. Clobbers `key`.
QI__FN void qi__json_skip(qi__json *j) {
  int floor_depth = j->depth;
  char text[QI__JSON_MAX_NUMBER + 1];
  bool flag;
  do {
    qi__json_type type = qi__json_peek(j);
    switch (type) {
    case QI__JSON_OBJECT: case QI__JSON_ARRAY: qi__json_enter(j, type); break;
    case QI__JSON_STRING: qi__json_string(j, NULL, 0, NULL); break;
    case QI__JSON_NUMBER: qi__json_number_text(j, text); break;
    case QI__JSON_BOOL: qi__json_bool(j, &flag); break;
    case QI__JSON_NULL: qi__json_null(j); break;
    case QI__JSON_NONE: qi__json_unexpected(j, "a value"); break;
    }
    while (!j->result && j->depth > floor_depth) // out of what ends here
      if (j->objects >> (j->depth - 1) & 1 ? qi__json_next_key(j) : qi__json_next(j)) break;
  } while (!j->result && j->depth > floor_depth);
}

// A null where another value may stand: true when there was one.
QI__FN bool qi__json_take_null(qi__json *j) {
  if (qi__json_peek(j) != QI__JSON_NULL) return false;
  qi__json_null(j);
  return true;
}

// Nothing but white space may be left.
QI__FN void qi__json_end(qi__json *j) {
  if (j->result) return;
  j->key_len = 0;
  if (qi__json_look_solid(j) >= 0) qi__json_unexpected(j, "the end");
}

#endif // QI__MODEL_JSON_H
