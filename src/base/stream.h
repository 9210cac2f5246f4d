// ==== >>stream : bytes out and in by blocks, with a checksum ====
#ifndef QI__STREAM_H
#define QI__STREAM_H

#include "file.h"

#define QI__STREAM_BLOCK 16384

// Checksum of the blocks so far, then of one more: FNV-1a (xor, multiply by an odd number) by words of 8 bytes, and a rotation, as
// in a product upper bits do not reach lower ones. Each step can be undone, so a change within one word always shows.
QI__INLINE uint64_t qi__digest_word(uint64_t digest, uint64_t word) {
  uint64_t h = (digest ^ word) * 0x9e3779b97f4a7c15u;
  return h << 29 | h >> 35;
}
QI__FN uint64_t qi__digest(uint64_t digest, const void *bytes, size_t n) {
  const uint8_t *p = (const uint8_t *)bytes;
  uint8_t rest[8] = {0};
  size_t whole = n / 8 * 8;
  for (size_t i = 0; i < whole; i += 8) digest = qi__digest_word(digest, qi__load_u64(p + i));
  for (size_t i = whole; i < n; i++) rest[i - whole] = p[i];
  return qi__digest_word(qi__digest_word(digest, qi__load_u64(rest)), n);
}

// ---- out ----

typedef struct qi__sink {
  qi_writer writer;
  uint64_t digest; // of the blocks that were written
  size_t used;     // bytes of `block`
  bool failed;     // the writer refused; nothing more is given to it
  uint8_t block[QI__STREAM_BLOCK];
} qi__sink;

QI__FN void qi__sink_init(qi__sink *s, const qi_writer *writer) {
  s->writer = *writer;
  s->digest = 0;
  s->used = 0;
  s->failed = false;
}

QI__FN void qi__sink_flush(qi__sink *s) {
  s->digest = qi__digest(s->digest, s->block, s->used);
  if (!s->failed && s->used) s->failed = !s->writer.write(s->writer.user, s->block, s->used);
  s->used = 0;
}

QI__FN void qi__sink_put(qi__sink *s, const void *bytes, size_t n) {
  const uint8_t *p = (const uint8_t *)bytes;
  while (n && !s->failed) {
    size_t part = qi__min_size(n, QI__STREAM_BLOCK - s->used);
    memcpy(s->block + s->used, p, part);
    s->used += part;
    p += part;
    n -= part;
    if (s->used == QI__STREAM_BLOCK) qi__sink_flush(s);
  }
}

// Little-endian, the lowest n_bytes.
QI__FN void qi__sink_number(qi__sink *s, uint64_t v, size_t n_bytes) {
  uint8_t b[8];
  for (size_t i = 0; i < 8; i++) b[i] = (uint8_t)(v >> (8 * i));
  qi__sink_put(s, b, n_bytes);
}

// What is left, then the checksum of all. False when the writer refused anything.
QI__FN bool qi__sink_end(qi__sink *s) {
  qi__sink_flush(s);
  qi__sink_number(s, s->digest, 8);
  qi__sink_flush(s);
  return !s->failed;
}

// ---- in ----

// What a sink wrote.
typedef struct qi__source {
  const qi__file *file;
  qi_error *err;
  uint64_t at, end; // next block to be read; where the checksum is
  uint64_t digest;  // of the blocks that were read
  size_t used, have;
  uint8_t block[QI__STREAM_BLOCK];
} qi__source;

// A file without room for a checksum has no other bytes either.
QI__FN void qi__source_init(qi__source *s, const qi__file *file, qi_error *err) {
  s->file = file;
  s->err = err;
  s->at = s->digest = 0;
  s->end = file->size < 8 ? 0 : file->size - 8;
  s->used = s->have = 0;
}

// The next n bytes; dst NULL = only past them. Errors: QI_ERR_IO, QI_ERR_FORMAT (there are not so many).
QI__FN qi_result qi__source_get(qi__source *s, void *dst, size_t n) {
  uint8_t *p = (uint8_t *)dst;
  while (n) {
    if (s->used == s->have) {
      s->used = 0;
      s->have = s->end - s->at < QI__STREAM_BLOCK ? (size_t)(s->end - s->at) : QI__STREAM_BLOCK;
      if (!s->have) return qi__fail(s->err, QI_ERR_FORMAT, "ends after %llu bytes", (unsigned long long)s->file->size);
      qi_result r = qi__file_read(s->file, s->at, s->block, s->have, s->err);
      if (r) {
        s->have = 0;
        return r;
      }
      s->digest = qi__digest(s->digest, s->block, s->have);
      s->at += s->have;
    }
    size_t part = qi__min_size(n, s->have - s->used);
    if (p) {
      memcpy(p, s->block + s->used, part);
      p += part;
    }
    s->used += part;
    n -= part;
  }
  return QI_OK;
}

QI__FN qi_result qi__source_number(qi__source *s, size_t n_bytes, uint64_t *out) {
  uint8_t b[8] = {0};
  qi_result r = qi__source_get(s, b, n_bytes);
  if (!r) *out = qi__load_u64(b);
  return r;
}

// After the last byte: whether the checksum is that of what was read. Errors: QI_ERR_IO, QI_ERR_FORMAT.
QI__FN qi_result qi__source_end(qi__source *s) {
  uint8_t b[8];
  qi_result r = qi__file_read(s->file, s->end, b, 8, s->err);
  if (r || qi__load_u64(b) == s->digest) return r;
  return qi__fail(s->err, QI_ERR_FORMAT, "is damaged: its checksum is %016llx, expected %016llx",
                  (unsigned long long)qi__load_u64(b), (unsigned long long)s->digest);
}

#endif // QI__STREAM_H
