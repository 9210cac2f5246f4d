// ==== >>file_replace : a file is written beside its path and takes it when it is whole ====
#ifndef QI__FILE_REPLACE_H
#define QI__FILE_REPLACE_H

#include "file.h"

#if defined(QI__FILE_POSIX)
#include <sys/file.h>
#endif

// At the path lies the old file or the new one at any time, also when the process or the machine stops in the middle: the new one
// is written to "PATH.part", brought to the disk, and then renamed. What a process that was killed leaves of it is written over the
// next time. On systems that are neither POSIX nor Windows renaming may refuse to replace a file.
typedef struct qi__replace {
  const char *path;
  char *part;         // "PATH.part"
  size_t part_bytes;
  qi_allocator allocator;
  const char *reason; // why something failed; NULL so far
#if defined(QI__FILE_POSIX)
  int fd;
#elif defined(QI__FILE_STREAM)
  FILE *stream;
#endif
} qi__replace;

// ---- POSIX ----

#ifdef QI__FILE_POSIX
// Opens and locks the part; NULL or why not. Another save to this path may have locked it, and rename it at any time.
QI__FN const char *qi__replace_lock(qi__replace *f) {
  int flags = O_RDWR | O_CREAT | O_NONBLOCK;
#ifdef O_CLOEXEC
  flags |= O_CLOEXEC;
#endif
#ifdef O_NOFOLLOW
  flags |= O_NOFOLLOW;
#endif
  for (;;) {
    struct stat ours, there;
    f->fd = open(f->part, flags, 0666);
    if (f->fd < 0 && errno == EINTR) continue;
    if (f->fd < 0 || fstat(f->fd, &ours)) return strerror(errno);
    if (!S_ISREG(ours.st_mode)) return "what lies at PATH.part is no regular file";
    // Where the file system knows no locks, one save at a time must do.
    if (flock(f->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) return "another save to this path is under way";
    if (!stat(f->part, &there) && there.st_ino == ours.st_ino && there.st_dev == ours.st_dev) return NULL;
    close(f->fd);
  }
}

QI__FN const char *qi__replace_open_part(qi__replace *f) {
  struct stat old;
  const char *reason = qi__replace_lock(f);
  if (!reason && ftruncate(f->fd, 0)) reason = strerror(errno);
  // Who may read the old file may read the new one, and no one else.
  if (!reason && !stat(f->path, &old) && fchmod(f->fd, old.st_mode & 07777)) reason = strerror(errno);
  return reason;
}

QI__FN const char *qi__replace_put(qi__replace *f, const void *bytes, size_t n) {
  const uint8_t *p = (const uint8_t *)bytes;
  while (n) {
    ssize_t done = write(f->fd, p, n);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return strerror(errno);
    p += done;
    n -= (size_t)done;
  }
  return NULL;
}

// The new name must reach the disk too: it is in the folder. Not all file systems can; the file is whole in any case.
QI__FN void qi__replace_sync_folder(qi__replace *f) {
  char *slash = strrchr(f->part, '/');
  if (slash) slash[slash == f->part] = 0; // PATH.part is not needed any more
  int fd = open(slash ? f->part : ".", O_RDONLY);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

QI__FN const char *qi__replace_rename(qi__replace *f) {
  if (fsync(f->fd) || rename(f->part, f->path)) return strerror(errno);
  qi__replace_sync_folder(f);
  return NULL;
}

QI__FN void qi__replace_close_part(qi__replace *f, bool drop) {
  if (f->fd < 0) return;
  if (drop) unlink(f->part); // while it is locked
  close(f->fd);
}
#endif

// ---- streams ----

#ifdef QI__FILE_STREAM
#ifdef _WIN32
QI__FN FILE *qi__replace_stream(const char *part) {
  qi__wide_path wide;
  if (qi__widen(part, &wide)) return _wfopen(wide.s, L"wb");
  errno = EINVAL;
  return NULL;
}
QI__FN bool qi__replace_sync(FILE *stream) { return !fflush(stream) && !_commit(_fileno(stream)); }
QI__FN bool qi__replace_move(const char *from, const char *to) {
  qi__wide_path wide[2];
  return qi__widen(from, &wide[0]) && qi__widen(to, &wide[1]) &&
         MoveFileExW(wide[0].s, wide[1].s, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH);
}
#else
QI__FN FILE *qi__replace_stream(const char *part) { return fopen(part, "wb"); }
QI__FN bool qi__replace_sync(FILE *stream) { return !fflush(stream); }
QI__FN bool qi__replace_move(const char *from, const char *to) { return !rename(from, to); }
#endif

QI__FN const char *qi__replace_open_part(qi__replace *f) {
  f->stream = qi__replace_stream(f->part);
  return f->stream ? NULL : strerror(errno);
}

QI__FN const char *qi__replace_put(qi__replace *f, const void *bytes, size_t n) {
  return fwrite(bytes, 1, n, f->stream) == n ? NULL : "it could not be written to the end";
}

QI__FN const char *qi__replace_rename(qi__replace *f) {
  bool whole = qi__replace_sync(f->stream);
  if (fclose(f->stream)) whole = false;
  f->stream = NULL;
  if (!whole) return "it could not be brought to the disk";
  return qi__replace_move(f->part, f->path) ? NULL : "the file that is there could not be replaced";
}

QI__FN void qi__replace_close_part(qi__replace *f, bool drop) {
  if (f->stream) fclose(f->stream);
  if (drop) remove(f->part);
}
#endif

// ---- both ----

// Begins a file; end it with qi__replace_end, also after a failure. `path` must stay. Errors: QI_ERR_OOM, QI_ERR_IO,
// QI_ERR_UNSUPPORTED (QI_NO_STDIO).
QI__FN qi_result qi__replace_begin(qi__replace *f, const char *path, const qi_allocator *allocator, qi_error *err) {
  memset(f, 0, sizeof *f);
#ifdef QI_NO_STDIO
  (void)allocator;
  return qi__fail(err, QI_ERR_UNSUPPORTED, "%s: this build writes no files (QI_NO_STDIO)", qi__path_tail(path, 140));
#else
#ifdef QI__FILE_POSIX
  f->fd = -1;
#endif
  size_t n = strlen(path);
  f->path = path;
  f->allocator = *allocator;
  f->part_bytes = n + sizeof ".part";
  f->part = (char *)qi__alloc(allocator, f->part_bytes, 1);
  if (!f->part) return qi__fail_oom(err, "path", f->part_bytes);
  memcpy(f->part, path, n);
  memcpy(f->part + n, ".part", sizeof ".part");
  const char *reason = qi__replace_open_part(f);
  if (!reason) return QI_OK;
#ifdef QI__FILE_POSIX
  if (f->fd >= 0) close(f->fd); // what is there may be another's
  f->fd = -1;
#endif
  return qi__fail(err, QI_ERR_IO, "%s.part: cannot be opened: %s", qi__path_tail(path, 140), reason);
#endif
}

// The `write` of a qi_writer.
QI__FN bool qi__replace_write(void *user, const void *bytes, size_t n) {
  qi__replace *f = (qi__replace *)user;
#ifdef QI_NO_STDIO
  (void)bytes;
  (void)n;
#else
  if (!f->reason) f->reason = qi__replace_put(f, bytes, n);
#endif
  return !f->reason;
}

// With `keep` and after writes that were all done the file takes its path; else it is dropped. Errors: QI_ERR_IO.
QI__FN qi_result qi__replace_end(qi__replace *f, bool keep, qi_error *err) {
  qi_result r = QI_OK;
#ifdef QI_NO_STDIO
  (void)f;
  (void)keep;
  (void)err;
#else
  bool renamed = false;
  if (keep && !f->reason) {
    f->reason = qi__replace_rename(f);
    renamed = !f->reason;
  }
  if (f->reason) r = qi__fail(err, QI_ERR_IO, "%s.part: cannot be written: %s", qi__path_tail(f->path, 140), f->reason);
  if (f->part) qi__replace_close_part(f, !renamed);
  if (f->part) qi__free(&f->allocator, f->part, f->part_bytes);
#endif
  return r;
}

#endif // QI__FILE_REPLACE_H
