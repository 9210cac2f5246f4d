// ==== >>cpu : instruction sets, cores, clock, floating-point mode ====
#ifndef QI__CPU_H
#define QI__CPU_H

#include "error.h"

#include <time.h>
#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

// QI__X86 and QI__ARM say whose levels of qi_isa mean something here; QI__X86_64 and QI__ARM64 that SIMD kernels can be compiled.
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#define QI__X86 1
#elif defined(__aarch64__) || defined(__arm__) || defined(_M_ARM64)
#define QI__ARM 1
#endif
#if defined(__GNUC__) && !defined(QI_NO_SIMD)
#if defined(__x86_64__)
#define QI__X86_64 1
#include <cpuid.h>
#elif defined(__aarch64__) && !defined(__AARCH64EB__) // lanes are counted in little-endian order
#define QI__ARM64 1
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif
#endif

// ---- names ----

static const char *const qi__isa_names[QI_ISA_COUNT] = {"auto",        "scalar", "avx2", "avx_vnni", "avx512",
                                                        "avx512_bf16", "amx",    "neon", "dotprod",  "i8mm"};

QI__FN const char *qi__isa_name(qi_isa isa) { return (unsigned)isa < QI_ISA_COUNT ? qi__isa_names[isa] : "?"; }

// Any case; -1 when unknown.
QI__FN int qi__isa_from_name(const char *name) {
  for (int i = 0; name && i < QI_ISA_COUNT; i++) {
    const char *a = qi__isa_names[i], *b = name;
    while (*a && *a == (*b >= 'A' && *b <= 'Z' ? *b + 32 : *b)) a++, b++;
    if (!*a && !*b) return i;
  }
  return -1;
}

// ---- features ----

// What kernels may use: what the CPU and the operating system have, masked by the chosen level of qi_isa. Kernel tables look here.
typedef struct qi__cpu {
  bool avx2;        // with FMA and F16C
  bool avx_vnni;    // VEX-coded vpdpbusd
  bool avx512;      // F, BW, DQ, VL, VNNI
  bool avx512_vbmi; // also; part of the level where the CPU has it
  bool avx512_bf16;
  bool amx;         // tiles, INT8, BF16; Linux let us use them
  bool intel;       // made by Intel, at any level: how it reads memory
  bool neon;
  bool dotprod;
  bool i8mm;        // with BF16
} qi__cpu;

#if defined(QI__X86_64)
// Tests may put functions in the place of tile instructions, see tests/support/emulate_tiles.h.
#if !defined(QI__TILES_EMULATED)
#define QI__TILES_EMULATED 0
#endif

// Register sets that the operating system saves; needs OSXSAVE. Spelled as bytes: the mnemonic needs a target option.
QI__FN uint64_t qi__xgetbv(void) {
  uint32_t lo, hi;
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

// Linux hands out tile registers only to processes that ask: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), once, for good.
// Refused by kernels before 5.16, by some sandboxes, and when an alternate signal stack is too small for the larger frames.
QI__FN bool qi__amx_permitted(void) {
#if QI__TILES_EMULATED
  return true;
#elif defined(__linux__) && defined(__LP64__)
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(158L), "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
  return result == 0;
#else
  return false;
#endif
}

QI__FN void qi__cpu_detect_x86(qi__cpu *cpu) {
  unsigned a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return;
  cpu->intel = b == 0x756e6547 && d == 0x49656e69 && c == 0x6c65746e; // "GenuineIntel"
  if (!__get_cpuid(1, &a, &b, &c, &d)) return;
  const unsigned base = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29; // FMA, OSXSAVE, AVX, F16C
  if ((c & base) != base) return;
  uint64_t saved = qi__xgetbv();
  if ((saved & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return; // xmm, ymm
  unsigned max_subleaf = a, a1 = 0, b1, c1, d1;
  if (max_subleaf >= 1) __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
  const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; // F, DQ, BW, VL
  const unsigned amx = 1u << 22 | 1u << 24 | 1u << 25;               // BF16, TILE, INT8
  cpu->avx2 = b >> 5 & 1;
  cpu->avx_vnni = cpu->avx2 && (a1 >> 4 & 1);
  cpu->avx512 = cpu->avx2 && (saved & 0xe6) == 0xe6 && (b & avx512) == avx512 && (c >> 11 & 1); // opmask, zmm
  cpu->avx512_vbmi = cpu->avx512 && (c >> 1 & 1);
  cpu->avx512_bf16 = cpu->avx512 && (a1 >> 5 & 1);
  const bool tiles = (saved & 0x60000) == 0x60000 && (d & amx) == amx; // tile configuration, tile data
  cpu->amx = cpu->avx512_bf16 && (tiles || QI__TILES_EMULATED);
}
#endif

#if defined(QI__ARM64)
#if defined(__APPLE__)
QI__FN bool qi__sysctl_flag(const char *name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}
#endif

QI__FN void qi__cpu_detect_arm(qi__cpu *cpu) {
  cpu->neon = true; // part of every AArch64
#if defined(__linux__)
  unsigned long cap = getauxval(AT_HWCAP), cap2 = getauxval(26); // AT_HWCAP2
  cpu->dotprod = cap >> 20 & 1;                                  // HWCAP_ASIMDDP
  cpu->i8mm = cpu->dotprod && (cap2 >> 13 & 1) && (cap2 >> 14 & 1); // HWCAP2_I8MM, HWCAP2_BF16
#elif defined(__APPLE__)
  cpu->dotprod = qi__sysctl_flag("hw.optional.arm.FEAT_DotProd");
  cpu->i8mm = cpu->dotprod && qi__sysctl_flag("hw.optional.arm.FEAT_I8MM") && qi__sysctl_flag("hw.optional.arm.FEAT_BF16");
#endif
}
#endif

// All that the machine has; tiles are listed without being asked for.
QI__FN qi__cpu qi__cpu_detect(void) {
  qi__cpu cpu;
  memset(&cpu, 0, sizeof cpu);
#if defined(QI__X86_64)
  qi__cpu_detect_x86(&cpu);
#elif defined(QI__ARM64)
  qi__cpu_detect_arm(&cpu);
#endif
  return cpu;
}

// ---- choice of a level ----

// Whether all kernels that are special to a level can run.
QI__FN bool qi__cpu_has(const qi__cpu *cpu, qi_isa isa) {
  switch (isa) {
  case QI_ISA_SCALAR: return true;
  case QI_ISA_AVX2: return cpu->avx2;
  case QI_ISA_AVX_VNNI: return cpu->avx_vnni;
  case QI_ISA_AVX512: return cpu->avx512;
  case QI_ISA_AVX512_BF16: return cpu->avx512_bf16;
  case QI_ISA_AMX: return cpu->amx;
  case QI_ISA_NEON: return cpu->neon;
  case QI_ISA_DOTPROD: return cpu->dotprod;
  case QI_ISA_I8MM: return cpu->i8mm;
  default: return false;
  }
}

// A level allows itself and what is below, so the levels of the other architecture need no care: their flags are false.
QI__FN void qi__cpu_mask(qi__cpu *cpu, qi_isa isa) {
  cpu->avx2 = cpu->avx2 && isa >= QI_ISA_AVX2;
  cpu->avx_vnni = cpu->avx_vnni && isa >= QI_ISA_AVX_VNNI;
  cpu->avx512 = cpu->avx512 && isa >= QI_ISA_AVX512;
  cpu->avx512_vbmi = cpu->avx512_vbmi && isa >= QI_ISA_AVX512;
  cpu->avx512_bf16 = cpu->avx512_bf16 && isa >= QI_ISA_AVX512_BF16;
  cpu->amx = cpu->amx && isa >= QI_ISA_AMX;
  cpu->neon = cpu->neon && isa >= QI_ISA_NEON;
  cpu->dotprod = cpu->dotprod && isa >= QI_ISA_DOTPROD;
  cpu->i8mm = cpu->i8mm && isa >= QI_ISA_I8MM;
}

// Highest level at or below `isa` that `cpu` has.
QI__FN qi_isa qi__isa_lower(const qi__cpu *cpu, qi_isa isa) {
  while (isa > QI_ISA_SCALAR && !qi__cpu_has(cpu, isa)) isa = (qi_isa)(isa - 1);
  return isa;
}

// The level for what a caller wants; AUTO: up to `last`. Intel's vectors multiply bfloat16 at half the speed of float32 (Emerald
// Rapids, two threads: 166 and 338 GFLOPS), so only who asks for that level gets it.
QI__FN qi_isa qi__isa_best(const qi__cpu *cpu, qi_isa wanted, qi_isa last) {
  qi_isa isa = qi__isa_lower(cpu, wanted == QI_ISA_AUTO ? last : wanted);
  return isa == QI_ISA_AVX512_BF16 && wanted != isa && cpu->intel ? QI_ISA_AVX512 : isa;
}

// The level to compute with and the features it allows. Which: see qi__isa_best; never one that the CPU lacks.
// Tiles are asked of Linux only if AMX would be chosen. cpu may be NULL.
// Errors: QI_ERR_ARGUMENT (out of range), QI_ERR_UNSUPPORTED (isa of another architecture).
QI__FN qi_result qi__isa_choose(qi_isa wanted, qi_isa *isa, qi__cpu *cpu, qi_error *err) {
#if defined(QI__X86)
  const qi_isa first = QI_ISA_AVX2, last = QI_ISA_AMX;
#elif defined(QI__ARM)
  const qi_isa first = QI_ISA_NEON, last = QI_ISA_I8MM;
#else
  const qi_isa first = QI_ISA_SCALAR, last = QI_ISA_SCALAR;
#endif
  if ((unsigned)wanted >= QI_ISA_COUNT)
    return qi__fail(err, QI_ERR_ARGUMENT, "isa: %d, expected 0..%d", (int)wanted, QI_ISA_COUNT - 1);
  if (wanted > QI_ISA_SCALAR && (wanted < first || wanted > last))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "isa: %s is of another architecture; this one has up to %s", qi__isa_name(wanted),
                    qi__isa_name(last));
  qi__cpu found = qi__cpu_detect();
  qi_isa chosen = qi__isa_best(&found, wanted, last);
#if defined(QI__X86_64)
  if (chosen == QI_ISA_AMX && !qi__amx_permitted()) {
    found.amx = false;
    chosen = qi__isa_best(&found, wanted, last);
  }
#endif
  qi__cpu_mask(&found, chosen);
  *isa = chosen;
  if (cpu) *cpu = found;
  return QI_OK;
}

// ---- cores ----

#define QI__CPUS_MAX 8192 // Linux's own limit (CONFIG_NR_CPUS)

#if defined(__linux__)
// Set of CPU numbers that the calling thread may run on; false when the system does not tell.
typedef struct qi__cpu_list {
  unsigned char bits[QI__CPUS_MAX / 8]; // more than cpu_set_t holds
} qi__cpu_list;

QI__FN bool qi__cpu_list_get(qi__cpu_list *list) {
  memset(list, 0, sizeof *list);
  // The C function is hidden from hosts that included headers before us without _GNU_SOURCE.
  return syscall(SYS_sched_getaffinity, 0, sizeof *list, list->bits) > 0;
}

// The kernel's masks are arrays of unsigned long.
QI__FN bool qi__cpu_list_has(const qi__cpu_list *list, int i) {
  const size_t word_bits = sizeof(unsigned long) * 8;
  unsigned long word;
  memcpy(&word, list->bits + (size_t)i / word_bits * sizeof word, sizeof word);
  return word >> ((size_t)i % word_bits) & 1;
}

#if !defined(QI_NO_STDIO)
// A small file of /proc or /sys, terminated; false when it cannot be read.
QI__FN bool qi__read_system_file(const char *path, char *text, size_t cap) {
  FILE *f = fopen(path, "r");
  if (!f) return false;
  size_t n = fread(text, 1, cap - 1, f);
  fclose(f);
  text[n] = 0;
  return n > 0;
}

// Whether a list as in "0-7,16" has i; false for what is no list.
QI__FN bool qi__cpu_text_has(const char *text, long i) {
  for (char *end; *text >= '0' && *text <= '9'; text = end + 1) {
    long first = strtol(text, &end, 10), last = first;
    if (*end == '-') last = strtol(end + 1, &end, 10);
    if (i >= first && i <= last) return true;
    if (*end != ',') break;
  }
  return false;
}

// How fast a CPU is: its capacity (ARM), or its highest frequency; 0 when the system does not tell. root: "/sys/devices".
QI__FN long qi__cpu_speed(const char *root, int i) {
  static const char *const files[] = {"cpu_capacity", "cpufreq/cpuinfo_max_freq"};
  char path[256], text[64];
  for (size_t k = 0; k < QI__COUNT_OF(files); k++) {
    snprintf(path, sizeof path, "%s/system/cpu/cpu%d/%s", root, i, files[k]);
    if (qi__read_system_file(path, text, sizeof text)) return strtol(text, NULL, 10);
  }
  return 0;
}

// Leaves out of `list` the slow cores of a machine that has two kinds of them: all wait for the last one. Intel's performance
// cores are told by name; else slow is below two thirds of the fastest. What would leave no core changes nothing.
QI__FN void qi__cpu_list_fast(const char *root, qi__cpu_list *list) {
  const size_t word = sizeof(unsigned long), word_bits = 8 * word;
  char path[256], text[256] = "";
  long fastest = 0;
  qi__cpu_list fast = {{0}};
  snprintf(path, sizeof path, "%s/cpu_core/cpus", root);
  bool named = qi__read_system_file(path, text, sizeof text), any = false;
  for (int i = 0; i < QI__CPUS_MAX && !named; i++)
    if (qi__cpu_list_has(list, i)) fastest = (long)qi__max_i64(fastest, qi__cpu_speed(root, i));
  for (int i = 0; i < QI__CPUS_MAX; i++) {
    if (!qi__cpu_list_has(list, i)) continue;
    if (named ? !qi__cpu_text_has(text, i) : qi__cpu_speed(root, i) < fastest - fastest / 3) continue;
    unsigned long bits;
    memcpy(&bits, fast.bits + (size_t)i / word_bits * word, word);
    bits |= 1ul << ((size_t)i % word_bits);
    memcpy(fast.bits + (size_t)i / word_bits * word, &bits, word);
    any = true;
  }
  if (any) *list = fast;
}

// Hyperthreads share a core; a core counts once, by its lowest sibling. 0 when /sys does not tell. root: "/sys/devices".
QI__FN int qi__count_cores(const char *root, const qi__cpu_list *list) {
  unsigned char seen[QI__CPUS_MAX / 8] = {0};
  char path[256], text[256];
  int n = 0;
  for (int i = 0; i < QI__CPUS_MAX; i++) {
    if (!qi__cpu_list_has(list, i)) continue;
    snprintf(path, sizeof path, "%s/system/cpu/cpu%d/topology/thread_siblings_list", root, i);
    if (!qi__read_system_file(path, text, sizeof text)) return 0;
    long sibling = strtol(text, NULL, 10); // "0,64" or "0-1", ascending
    if (sibling < 0 || sibling >= QI__CPUS_MAX) return 0;
    if (!(seen[sibling / 8] >> (sibling % 8) & 1)) n++;
    seen[sibling / 8] |= (unsigned char)(1u << (sibling % 8));
  }
  return n;
}

// CPUs' worth of time that the control group `dir` may use, rounded to whole ones but at least 1; INT_MAX = no limit.
QI__FN int qi__cgroup_quota(const char *dir, bool v2) {
  char path[1200], text[128];
  double quota = 0, period = 0;
  snprintf(path, sizeof path, v2 ? "%s/cpu.max" : "%s/cpu.cfs_quota_us", dir);
  if (!qi__read_system_file(path, text, sizeof text)) return INT_MAX;
  char *rest = text;
  quota = (double)strtol(text, &rest, 10); // "max" reads as 0, v1 has -1 for no limit
  if (v2) {
    period = (double)strtol(rest, NULL, 10);
  } else {
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    if (qi__read_system_file(path, text, sizeof text)) period = (double)strtol(text, NULL, 10);
  }
  if (quota <= 0 || period <= 0 || quota / period > 1e6) return INT_MAX;
  return (int)qi__max_i64(1, (int64_t)(quota / period + 0.5));
}

// Smallest quota of a group and all above it: `dir` is shortened until only its first `root` characters are left.
QI__FN int qi__cgroup_walk(char *dir, size_t root, bool v2) {
  int least = INT_MAX;
  for (;;) {
    int quota = qi__cgroup_quota(dir, v2);
    if (quota < least) least = quota;
    size_t n = strlen(dir);
    if (n <= root) return least;
    while (n > root && dir[n - 1] != '/') n--;
    dir[n > root ? n - 1 : root] = 0;
  }
}

// Limit of this process's control groups, v1 or v2; INT_MAX = none. Lines: "0::/path" (v2), "4:cpu,cpuacct:/path" (v1).
QI__FN int qi__cgroup_limit(void) {
  char text[4096], dir[1100];
  int least = INT_MAX;
  if (!qi__read_system_file("/proc/self/cgroup", text, sizeof text)) return least;
  for (char *line = text; line && *line;) {
    char *end = strchr(line, '\n');
    if (end) *end = 0;
    char *kind = strchr(line, ':'), *path = kind ? strchr(kind + 1, ':') : NULL;
    if (path) {
      *path++ = 0;
      kind++;
      bool v2 = *kind == 0, v1 = strcmp(kind, "cpu") == 0 || strncmp(kind, "cpu,", 4) == 0 || strstr(kind, ",cpu") != NULL;
      const char *root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
      if ((v1 || v2) && strlen(path) < 1024) {
        snprintf(dir, sizeof dir, "%s%s", root, strcmp(path, "/") == 0 ? "" : path);
        int quota = qi__cgroup_walk(dir, strlen(root), v2);
        if (quota < least) least = quota;
      }
    }
    line = end ? end + 1 : NULL;
  }
  return least;
}
#endif // QI_NO_STDIO
#endif // __linux__

// Hardware threads that this process may use, at least 1.
QI__FN int qi__cpu_count_logical(void) {
  long n = 0;
#if defined(__linux__)
  qi__cpu_list list;
  if (qi__cpu_list_get(&list))
    for (int i = 0; i < QI__CPUS_MAX; i++) n += qi__cpu_list_has(&list, i);
#endif
#if defined(_WIN32)
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  n = (long)info.dwNumberOfProcessors;
#elif defined(_SC_NPROCESSORS_ONLN)
  if (n < 1) n = sysconf(_SC_NPROCESSORS_ONLN);
#endif
  return n < 1 ? 1 : (int)qi__min_i64(n, QI__CPUS_MAX);
}

// Cores that this process may use, at least 1: affinity and (Linux) quota of the control group count; hyperthreads of a core count
// once, and of two kinds of cores only the fast ones, where the system tells.
QI__FN int qi__cpu_count(void) {
  int n = qi__cpu_count_logical();
#if defined(__linux__) && !defined(QI_NO_STDIO)
  const char *root = "/sys/devices";
  qi__cpu_list list;
  int cores = 0;
  if (qi__cpu_list_get(&list)) {
    qi__cpu_list_fast(root, &list);
    cores = qi__count_cores(root, &list);
  }
  if (cores > 0 && cores < n) n = cores;
  int quota = qi__cgroup_limit();
  if (quota < n) n = quota;
#elif defined(__APPLE__)
  int cores = 0;
  size_t size = sizeof cores;
  if (sysctlbyname("hw.perflevel0.physicalcpu", &cores, &size, NULL, 0) != 0) {
    size = sizeof cores;
    if (sysctlbyname("hw.physicalcpu", &cores, &size, NULL, 0) != 0) cores = 0;
  }
  if (cores > 0 && cores < n) n = cores;
#endif
  return n;
}

// ---- clock ----

// Microseconds of a clock that never goes back; its zero means nothing.
QI__FN uint64_t qi__now_us(void) {
#if defined(_WIN32)
  LARGE_INTEGER now, per_second;
  QueryPerformanceCounter(&now);
  QueryPerformanceFrequency(&per_second);
  uint64_t t = (uint64_t)now.QuadPart, f = (uint64_t)per_second.QuadPart;
  return t / f * 1000000u + t % f * 1000000u / f;
#else
  struct timespec t;
  if (clock_gettime(CLOCK_MONOTONIC, &t) != 0) return 0;
  return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
#endif
}

// ---- floating-point mode ----

// Results must not depend on what a host did to its threads (flush to zero, another rounding, traps; a program linked with
// -ffast-math starts that way). Whoever computes on a thread of the host does it between these two.
typedef uint64_t qi__fp_mode;

// Compilers do not know that arithmetic depends on the mode: this keeps loads and stores, and so what they feed, on their side.
#if defined(__GNUC__)
#define QI__FP_BARRIER() __asm__ volatile("" ::: "memory")
#else
#define QI__FP_BARRIER() ((void)0)
#endif

// Sets round to nearest, denormals, no traps for the calling thread; returns the mode to give back to qi__fp_leave.
QI__FN qi__fp_mode qi__fp_enter(void) {
#if defined(__GNUC__) && defined(__x86_64__)
  unsigned mode = __builtin_ia32_stmxcsr();
  if ((mode & ~0x3fu) != 0x1f80) __builtin_ia32_ldmxcsr(0x1f80); // the low bits only note what happened
  QI__FP_BARRIER();
  return mode;
#elif defined(__GNUC__) && defined(__aarch64__)
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  if (mode) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
  QI__FP_BARRIER();
  return mode;
#else
  return 0;
#endif
}

QI__FN void qi__fp_leave(qi__fp_mode mode) {
  QI__FP_BARRIER();
#if defined(__GNUC__) && defined(__x86_64__)
  if ((mode & ~0x3fu) != 0x1f80) __builtin_ia32_ldmxcsr((unsigned)mode);
#elif defined(__GNUC__) && defined(__aarch64__)
  if (mode) __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
  (void)mode;
#endif
}

#endif // QI__CPU_H
