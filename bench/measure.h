// Clock, samples, messages, and what the machine is.
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdarg.h>
#include <time.h>
#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#else
#include <unistd.h>
#endif

#define PROGRAM "bench"
#define MAX_SAMPLES 256 // repetitions

// ---- messages ----

// One line on standard error; returns false, so that callers can write `return complain(...)`.
__attribute__((format(printf, 1, 2))) static bool complain(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, PROGRAM ": ");
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  return false;
}

// What is being done now, in place on a terminal; nothing elsewhere. An empty text wipes it.
__attribute__((format(printf, 1, 2))) static void progress(const char *format, ...) {
  if (!isatty(2)) return;
  char text[80];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  fprintf(stderr, "\r%-79s\r%s", "", text);
}

// ---- time ----

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// ---- samples ----

typedef struct samples {
  double v[MAX_SAMPLES];
  int n;
} samples;

static void samples_add(samples *s, double v) {
  if (s->n < MAX_SAMPLES) s->v[s->n++] = v;
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef struct spread {
  double median, min, max;
} spread;

// All 0 without samples.
static spread samples_spread(const samples *s) {
  double v[MAX_SAMPLES];
  size_t n = (size_t)s->n;
  if (n == 0) return (spread){0, 0, 0};
  memcpy(v, s->v, n * sizeof *v);
  qsort(v, n, sizeof *v, compare_doubles);
  return (spread){(v[(n - 1) / 2] + v[n / 2]) / 2, v[0], v[n - 1]};
}

// ---- memory of the machine ----

// First number of a small file, in its unit; 0 when there is none ("max" too).
static uint64_t number_in_file(const char *path, const char *after) {
  char line[256];
  unsigned long long v = 0;
  FILE *f = fopen(path, "r");
  while (f && fgets(line, sizeof line, f)) {
    size_t n = strlen(after);
    if (strncmp(line, after, n) != 0) continue;
    if (sscanf(line + n, "%llu", &v) != 1) v = 0;
    break;
  }
  if (f) fclose(f);
  return v;
}

// Bytes that a new allocation can have without swapping, within the limit of the control group; 0 = the system does not tell.
static uint64_t memory_available(void) {
  uint64_t free_bytes = number_in_file("/proc/meminfo", "MemAvailable:") * 1024;
  uint64_t limit = number_in_file("/sys/fs/cgroup/memory.max", ""), used = number_in_file("/sys/fs/cgroup/memory.current", "");
  uint64_t cache = number_in_file("/sys/fs/cgroup/memory.stat", "file ");
  used -= cache < used ? cache : used;
  uint64_t in_group = limit - (used < limit ? used : limit);
  return limit && (!free_bytes || in_group < free_bytes) ? in_group : free_bytes;
}

// Whether `bytes` more fit, with some room for everybody else. Says both numbers when they do not.
static bool memory_fits(const char *what, uint64_t bytes) {
  const uint64_t room = 128u << 20;
  uint64_t have = memory_available();
  if (!have || (bytes <= have && have - bytes >= room)) return true;
  return complain("%s: needs %.2f GB, the machine has %.2f GB to give", what, (double)bytes * 1e-9, (double)have * 1e-9);
}

// ---- machine ----

typedef struct machine {
  char cpu[96], compiler[64], date[32];
  int n_cores;
} machine;

static void machine_cpu(char *name, size_t cap) {
  char line[256];
  snprintf(name, cap, "unknown");
  FILE *f = fopen("/proc/cpuinfo", "r");
  while (f && fgets(line, sizeof line, f)) {
    char *colon = strchr(line, ':');
    if (!colon || (strncmp(line, "model name", 10) != 0 && strncmp(line, "Model", 5) != 0)) continue;
    colon[strcspn(colon, "\n")] = 0;
    snprintf(name, cap, "%.90s", colon + 1 + (colon[1] == ' '));
    break;
  }
  if (f) fclose(f);
#if defined(__APPLE__)
  size_t size = cap;
  if (sysctlbyname("machdep.cpu.brand_string", name, &size, NULL, 0) != 0) snprintf(name, cap, "unknown");
#endif
}

static machine machine_read(void) {
  machine m;
  memset(&m, 0, sizeof m);
  machine_cpu(m.cpu, sizeof m.cpu);
#if defined(__clang__)
  snprintf(m.compiler, sizeof m.compiler, "clang %d.%d.%d", __clang_major__, __clang_minor__, __clang_patchlevel__);
#elif defined(__GNUC__)
  snprintf(m.compiler, sizeof m.compiler, "gcc %d.%d.%d", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
  time_t now = time(NULL);
  struct tm *utc = gmtime(&now);
  if (utc) strftime(m.date, sizeof m.date, "%Y-%m-%d %H:%M UTC", utc);
  m.n_cores = qi__cpu_count();
  return m;
}

#endif // BENCH_MEASURE_H
