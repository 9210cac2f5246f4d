// What qinfer_metal.m takes from libc, for -target arm64-apple-macos without Apple's headers.
#ifndef STUB_LIBC_H
#define STUB_LIBC_H
#include <stddef.h>
#include <stdint.h>
int snprintf(char *out, size_t n, const char *format, ...) __attribute__((format(printf, 3, 4)));
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int getpagesize(void);
typedef struct {
  long sig;
  char opaque[56];
} pthread_mutex_t;
int pthread_mutex_init(pthread_mutex_t *m, const void *attributes);
int pthread_mutex_destroy(pthread_mutex_t *m);
int pthread_mutex_lock(pthread_mutex_t *m);
int pthread_mutex_unlock(pthread_mutex_t *m);
#endif
