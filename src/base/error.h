// ==== >>error : results with a message, and the log ====
#ifndef QI__ERROR_H
#define QI__ERROR_H

#include "config.h"

// Sets code and message (both may be ignored by a NULL err) and returns the code: `return qi__fail(err, QI_ERR_IO, "...", ...)`.
QI__FN QI__PRINTF(3, 4) qi_result qi__fail(qi_error *err, qi_result code, const char *fmt, ...) {
  if (err) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, args);
    va_end(args);
    err->code = code;
  }
  return code;
}

// Puts where in front of a message that an inner function wrote: "tensor blk.0.attn_q.weight: " + "offset ...".
QI__FN QI__PRINTF(2, 3) void qi__fail_prefix(qi_error *err, const char *fmt, ...) {
  if (!err) return;
  char inner[sizeof err->msg];
  memcpy(inner, err->msg, sizeof inner);
  va_list args;
  va_start(args, fmt);
  vsnprintf(err->msg, sizeof err->msg, fmt, args);
  va_end(args);
  size_t n = strlen(err->msg);
  size_t m = qi__min_size(strlen(inner), sizeof err->msg - 1 - n);
  memcpy(err->msg + n, inner, m);
  err->msg[n + m] = 0;
}

QI__FN qi_result qi__fail_oom(qi_error *err, const char *what, size_t bytes) {
  return qi__fail(err, QI_ERR_OOM, "%s: the allocator gave no %zu bytes", what, bytes);
}

QI__FN QI__PRINTF(3, 4) void qi__log(const qi_logger *logger, qi_log_level level, const char *fmt, ...) {
  if (!logger->fn) return;
  char line[512];
  va_list args;
  va_start(args, fmt);
  vsnprintf(line, sizeof line, fmt, args);
  va_end(args);
  logger->fn(logger->user, level, line);
}

// A slice of bytes of a file made fit for a message: at most 63 bytes, whatever is not printable ASCII shown as '?'.
typedef struct qi__printable {
  char s[64];
} qi__printable;

QI__FN qi__printable qi__show(const char *s, uint64_t len) {
  qi__printable out;
  size_t n = len < sizeof out.s - 1 ? (size_t)len : sizeof out.s - 1;
  for (size_t i = 0; i < n; i++) out.s[i] = s[i] >= 0x20 && s[i] < 0x7f ? s[i] : '?';
  out.s[n] = 0;
  return out;
}
QI__INLINE qi__printable qi__show_text(const char *s) { return qi__show(s, strlen(s)); }

#endif // QI__ERROR_H
