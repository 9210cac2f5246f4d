// ==== >>file : one source of bytes: a path, a memory block or a reader ====
#ifndef QI__FILE_H
#define QI__FILE_H

#include "memory.h"

// POSIX files are descriptors, read by pread and mapped by mmap; elsewhere they are streams, mapped on Windows only.
#if !defined(QI_NO_STDIO) && (defined(__unix__) || defined(__APPLE__))
#define QI__FILE_POSIX
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#ifndef QI_NO_MMAP
#include <sys/mman.h>
#endif
#elif !defined(QI_NO_STDIO)
#define QI__FILE_STREAM
#include <errno.h>
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <io.h>
#include <windows.h>
#endif
#endif

// Bytes 0..size-1. With `map` they can be looked at in place, else only copied out by qi__file_read. A mapped file must not be
// shortened while it is open: no system can make that safe.
typedef struct qi__file {
  const uint8_t *map; // NULL: read only
  uint64_t size;
  bool mapped;        // map is ours, to be unmapped
  qi_reader reader;   // read != NULL: the source
#if defined(QI__FILE_POSIX)
  int fd;             // -1: none
#elif defined(QI__FILE_STREAM)
  FILE *stream;       // NULL: none
#endif
  char name[64];      // end of the path for messages, "" if there is none
} qi__file;

QI__FN void qi__file_init(qi__file *f) {
  memset(f, 0, sizeof *f);
#ifdef QI__FILE_POSIX
  f->fd = -1;
#endif
}

// The last bytes of a path that leave room for the reason in a message.
QI__FN const char *qi__path_tail(const char *path, size_t max) {
  size_t n = strlen(path);
  return n > max ? path + (n - max) : path;
}

// What lies at a path.
typedef enum qi__path_kind { QI__PATH_MISSING, QI__PATH_FILE, QI__PATH_FOLDER } qi__path_kind;

// ---- memory and readers ----

// `data` stays the caller's and must live as long as the file.
QI__FN qi_result qi__file_open_memory(qi__file *f, const void *data, size_t size, qi_error *err) {
  qi__file_init(f);
  if (!data || !size) return qi__fail(err, QI_ERR_FORMAT, "memory block: is empty, expected a whole file");
  f->map = (const uint8_t *)data;
  f->size = size;
  return QI_OK;
}

QI__FN qi_result qi__file_open_reader(qi__file *f, const qi_reader *reader, qi_error *err) {
  qi__file_init(f);
  if (!reader->read) return qi__fail(err, QI_ERR_ARGUMENT, "reader: read is NULL");
  if (!reader->size) return qi__fail(err, QI_ERR_FORMAT, "reader: is empty, expected a whole file");
  f->reader = *reader;
  f->size = reader->size;
  return QI_OK;
}

// ---- paths: POSIX ----

#ifdef QI__FILE_POSIX
QI__FN void qi__file_close_path(qi__file *f) {
#ifndef QI_NO_MMAP
  if (f->mapped) munmap((void *)(uintptr_t)f->map, (size_t)f->size);
#endif
  if (f->fd >= 0) close(f->fd);
}

// Leaves `map` NULL when the system cannot map: then the file is read.
QI__FN void qi__file_map(qi__file *f) {
#ifndef QI_NO_MMAP
  if (f->size > SIZE_MAX) return;
  void *map = mmap(NULL, (size_t)f->size, PROT_READ, MAP_PRIVATE, f->fd, 0);
  if (map == MAP_FAILED) return;
  f->map = (const uint8_t *)map;
  f->mapped = true;
  qi__want_huge_pages(map, (size_t)f->size); // files that are not cached yet come in such pages (ext4, XFS, Btrfs of Linux 6.16)
  close(f->fd); // a mapping needs no descriptor
  f->fd = -1;
#else
  (void)f;
#endif
}

// Sets fd and size, or returns why not.
QI__FN const char *qi__file_open_descriptor(qi__file *f, const char *path) {
  int flags = O_RDONLY | O_NONBLOCK; // so that opening a FIFO does not wait for a writer; regular files do not care
#ifdef O_CLOEXEC
  flags |= O_CLOEXEC;
#endif
  do f->fd = open(path, flags);
  while (f->fd < 0 && errno == EINTR);
  if (f->fd < 0) return strerror(errno);
  struct stat st;
  if (fstat(f->fd, &st)) return strerror(errno);
  if (S_ISDIR(st.st_mode)) return "it is a directory";
  if (!S_ISREG(st.st_mode)) return "it is no regular file";
  f->size = st.st_size > 0 ? (uint64_t)st.st_size : 0;
  return NULL;
}

QI__FN qi__path_kind qi__path_look(const char *path) {
  struct stat st;
  if (stat(path, &st)) return QI__PATH_MISSING;
  return S_ISDIR(st.st_mode) ? QI__PATH_FOLDER : QI__PATH_FILE;
}

// NULL when done, else why not.
QI__FN const char *qi__file_pull_path(const qi__file *f, uint64_t offset, void *dst, size_t n) {
  uint8_t *p = (uint8_t *)dst;
  while (n) {
    size_t part = qi__min_size(n, (size_t)1 << 30); // systems refuse, or cut, reads of 2 GiB
    ssize_t got = pread(f->fd, p, part, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return strerror(errno);
    if (got == 0) return "the file became shorter";
    p += got;
    offset += (uint64_t)got;
    n -= (size_t)got;
  }
  return NULL;
}
#endif

// ---- paths: streams ----

#ifdef QI__FILE_STREAM
#ifdef _WIN32
QI__INLINE int qi__stream_seek(FILE *s, int64_t offset, int origin) { return _fseeki64(s, offset, origin); }
QI__INLINE int64_t qi__stream_tell(FILE *s) { return _ftelli64(s); }

// Paths are UTF-8; the C library of Windows would take them for the system's code page.
typedef struct qi__wide_path {
  wchar_t s[1024];
} qi__wide_path;

QI__FN bool qi__widen(const char *path, qi__wide_path *wide) {
  return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide->s, (int)QI__COUNT_OF(wide->s)) != 0;
}

QI__FN FILE *qi__stream_open(const char *path) {
  qi__wide_path wide;
  if (qi__widen(path, &wide)) return _wfopen(wide.s, L"rb");
  errno = EINVAL;
  return NULL;
}

QI__FN qi__path_kind qi__path_look(const char *path) {
  qi__wide_path wide;
  DWORD found = qi__widen(path, &wide) ? GetFileAttributesW(wide.s) : INVALID_FILE_ATTRIBUTES;
  if (found == INVALID_FILE_ATTRIBUTES) return QI__PATH_MISSING;
  return found & FILE_ATTRIBUTE_DIRECTORY ? QI__PATH_FOLDER : QI__PATH_FILE;
}

QI__FN void qi__file_map(qi__file *f) {
#ifndef QI_NO_MMAP
  if (f->size > SIZE_MAX) return;
  HANDLE mapping = CreateFileMappingW((HANDLE)_get_osfhandle(_fileno(f->stream)), NULL, PAGE_READONLY, 0, 0, NULL);
  if (!mapping) return;
  f->map = (const uint8_t *)MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
  CloseHandle(mapping); // the view keeps it alive
  f->mapped = f->map != NULL;
#else
  (void)f;
#endif
}
#else
QI__INLINE int qi__stream_seek(FILE *s, int64_t offset, int origin) {
  if (offset > LONG_MAX) return -1;
  return fseek(s, (long)offset, origin);
}
QI__INLINE int64_t qi__stream_tell(FILE *s) { return ftell(s); }
QI__FN FILE *qi__stream_open(const char *path) { return fopen(path, "rb"); }
QI__FN void qi__file_map(qi__file *f) { (void)f; }

// What cannot be opened may be a folder; C alone cannot tell.
QI__FN qi__path_kind qi__path_look(const char *path) {
  FILE *f = fopen(path, "rb");
  if (f) fclose(f);
  return f ? QI__PATH_FILE : QI__PATH_MISSING;
}
#endif

QI__FN void qi__file_close_path(qi__file *f) {
#if defined(_WIN32) && !defined(QI_NO_MMAP)
  if (f->mapped) UnmapViewOfFile(f->map);
#endif
  if (f->stream) fclose(f->stream);
}

QI__FN const char *qi__file_open_descriptor(qi__file *f, const char *path) {
  f->stream = qi__stream_open(path);
  if (!f->stream) return strerror(errno);
  if (qi__stream_seek(f->stream, 0, SEEK_END)) return "its end cannot be found";
  int64_t size = qi__stream_tell(f->stream);
  if (size < 0) return "its size cannot be told (a directory?)";
  f->size = (uint64_t)size;
  return NULL;
}

QI__FN const char *qi__file_pull_path(const qi__file *f, uint64_t offset, void *dst, size_t n) {
  if (offset > INT64_MAX || qi__stream_seek(f->stream, (int64_t)offset, SEEK_SET)) return "the position cannot be reached";
  return fread(dst, 1, n, f->stream) == n ? NULL : "the file could not be read to the end";
}
#endif

// ---- any source ----

#ifdef QI_NO_STDIO
QI__FN qi__path_kind qi__path_look(const char *path) {
  (void)path;
  return QI__PATH_MISSING;
}
#endif

QI__FN void qi__file_close(qi__file *f) {
#ifndef QI_NO_STDIO
  qi__file_close_path(f);
#endif
  qi__file_init(f);
}

// Maps the file unless no_mmap, or the system cannot. The path is not needed afterwards.
// Errors: QI_ERR_IO (with the system's reason), QI_ERR_FORMAT (an empty file), QI_ERR_UNSUPPORTED (QI_NO_STDIO).
QI__FN qi_result qi__file_open_path(qi__file *f, const char *path, bool no_mmap, qi_error *err) {
  qi__file_init(f);
#ifdef QI_NO_STDIO
  (void)no_mmap;
  return qi__fail(err, QI_ERR_UNSUPPORTED, "%s: this build opens no paths (QI_NO_STDIO), only memory and readers",
                  qi__path_tail(path, 140));
#else
  const char *reason = qi__file_open_descriptor(f, path);
  if (reason || !f->size) {
    qi__file_close(f);
    if (!reason) return qi__fail(err, QI_ERR_FORMAT, "%s: the file is empty", qi__path_tail(path, 180));
    return qi__fail(err, QI_ERR_IO, "%s: cannot be opened: %s", qi__path_tail(path, 160), reason);
  }
  const char *tail = qi__path_tail(path, sizeof f->name - 1);
  memcpy(f->name, tail, strlen(tail) + 1);
  if (!no_mmap) qi__file_map(f);
  return QI_OK;
#endif
}

// Copies bytes offset..offset+n-1 to dst. NULL when done, else why not.
QI__FN const char *qi__file_pull(const qi__file *f, uint64_t offset, void *dst, size_t n) {
  if (offset > f->size || n > f->size - offset) return "beyond the end of the file";
  if (!n) return NULL;
  if (f->map) {
    memcpy(dst, f->map + (size_t)offset, n);
    return NULL;
  }
  if (f->reader.read) return f->reader.read(f->reader.user, offset, dst, n) ? NULL : "the reader's callback failed";
#ifdef QI_NO_STDIO
  return "the file is closed";
#else
  return qi__file_pull_path(f, offset, dst, n);
#endif
}

// The same with a message. Errors: QI_ERR_IO.
QI__FN qi_result qi__file_read(const qi__file *f, uint64_t offset, void *dst, size_t n, qi_error *err) {
  const char *reason = qi__file_pull(f, offset, dst, n);
  if (!reason) return QI_OK;
  return qi__fail(err, QI_ERR_IO, "%s%s%zu bytes at %llu cannot be read: %s", f->name, f->name[0] ? ": " : "", n,
                  (unsigned long long)offset, reason);
}

#endif // QI__FILE_H
