// What the machine can do at best: bytes read from memory and operations of the matrix units, on the threads of a pool.
// A multiplication and an addition are two operations.
#ifndef BENCH_ROOFLINES_H
#define BENCH_ROOFLINES_H

#include "measure.h"

#if defined(QI__X86_64)
#include <immintrin.h>
#elif defined(QI__ARM64)
#include <arm_neon.h>
#endif

// Which units the compiler knows.
#if defined(QI__X86_64)
#if defined(__clang__)
#define BENCH_AVX_VNNI (__clang_major__ >= 12)
#define BENCH_AMX (__clang_major__ >= 12)
#else
#define BENCH_AVX_VNNI (__GNUC__ >= 11)
#define BENCH_AMX (__GNUC__ >= 11)
#endif
#define BENCH_AVX512_BF16 1
#else
#define BENCH_AVX_VNNI 0
#define BENCH_AMX 0
#define BENCH_AVX512_BF16 0
#endif

#define STREAM_CHUNK (1u << 20) // bytes that a thread takes at a time
#define CHAINS 12               // independent sums: more than latency times units, fewer than registers
#define CHAINS_AVX2 8           // where sums and what is between share 16 registers

// ---- read bandwidth ----

// Reads n bytes at p, aligned to 64, and returns something that depends on all of them. n: a multiple of 512.
typedef uint64_t (*stream_fn)(const uint8_t *p, size_t n);

static uint64_t stream_scalar(const uint8_t *p, size_t n) {
  uint64_t s[8] = {0}, v;
  for (size_t i = 0; i < n; i += 64) {
    QI__UNROLL for (size_t k = 0; k < 8; k++) {
      memcpy(&v, p + i + 8 * k, 8);
      s[k] += v;
    }
  }
  return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

#if defined(QI__X86_64)
QI__TARGET("avx2") static uint64_t stream_avx2(const uint8_t *p, size_t n) {
  __m256i s[8];
  QI__UNROLL for (int k = 0; k < 8; k++) s[k] = _mm256_setzero_si256();
  for (size_t i = 0; i < n; i += 256) {
    QI__UNROLL for (size_t k = 0; k < 8; k++)
      s[k] = _mm256_add_epi64(s[k], _mm256_load_si256((const __m256i *)(const void *)(p + i + 32 * k)));
  }
  QI__UNROLL for (int k = 1; k < 8; k++) s[0] = _mm256_add_epi64(s[0], s[k]);
  return (uint64_t)_mm_cvtsi128_si64(_mm256_castsi256_si128(s[0]));
}

// Eight pages at once: see QI__FETCH_PAGES.
QI__TARGET("avx2") static uint64_t stream_pages_avx2(const uint8_t *p, size_t n) {
  size_t whole = n / QI__FETCH_WINDOW * QI__FETCH_WINDOW;
  __m256i s[8];
  QI__UNROLL for (int k = 0; k < 8; k++) s[k] = _mm256_setzero_si256();
  for (size_t i = 0; i < whole; i += QI__FETCH_WINDOW) {
    for (size_t line = 0; line < QI__FETCH_PAGE; line += QI__CACHE_LINE) {
      QI__UNROLL for (size_t k = 0; k < 8; k++) {
        const __m256i *at = (const __m256i *)(const void *)(p + i + k * QI__FETCH_PAGE + line);
        s[k] = _mm256_add_epi64(s[k], _mm256_add_epi64(_mm256_load_si256(at), _mm256_load_si256(at + 1)));
      }
    }
  }
  QI__UNROLL for (int k = 1; k < 8; k++) s[0] = _mm256_add_epi64(s[0], s[k]);
  return (uint64_t)_mm_cvtsi128_si64(_mm256_castsi256_si128(s[0])) + stream_avx2(p + whole, n - whole);
}

QI__TARGET("avx512f") static uint64_t stream_avx512(const uint8_t *p, size_t n) {
  __m512i s[8];
  QI__UNROLL for (int k = 0; k < 8; k++) s[k] = _mm512_setzero_si512();
  for (size_t i = 0; i < n; i += 512) {
    QI__UNROLL for (size_t k = 0; k < 8; k++) s[k] = _mm512_add_epi64(s[k], _mm512_load_si512(p + i + 64 * k));
  }
  QI__UNROLL for (int k = 1; k < 8; k++) s[0] = _mm512_add_epi64(s[0], s[k]);
  return (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(s[0]));
}
#elif defined(QI__ARM64)
static uint64_t stream_neon(const uint8_t *p, size_t n) {
  uint64x2_t s[8];
  QI__UNROLL for (int k = 0; k < 8; k++) s[k] = vdupq_n_u64(0);
  for (size_t i = 0; i < n; i += 128) {
    QI__UNROLL for (size_t k = 0; k < 8; k++) s[k] = vaddq_u64(s[k], vreinterpretq_u64_u8(vld1q_u8(p + i + 16 * k)));
  }
  QI__UNROLL for (int k = 1; k < 8; k++) s[0] = vaddq_u64(s[0], s[k]);
  return vgetq_lane_u64(s[0], 0);
}
#endif

// The loops that may be the fastest, NULL after the last: 256 bits read faster than 512 on Zen 4 (35 and 32 GB/s a thread), pages
// in turns faster than one after the other on Sapphire Rapids (17 and 10).
#define STREAM_LOOPS 3
static void stream_select(const qi__cpu *cpu, stream_fn out[STREAM_LOOPS + 1]) {
  int n = 0;
#if defined(QI__X86_64)
  if (cpu->avx512) out[n++] = stream_avx512;
  if (cpu->avx2) out[n++] = stream_avx2;
  if (cpu->avx2) out[n++] = stream_pages_avx2;
#elif defined(QI__ARM64)
  if (cpu->neon) out[n++] = stream_neon;
#endif
  (void)cpu;
  if (!n) out[n++] = stream_scalar;
  out[n] = NULL;
}

// ---- matrix units ----

// Runs n rounds of the unit and returns something that depends on all of them.
typedef float (*peak_fn)(int64_t n);

// Hides a value from the compiler: it may neither know that factors never change, nor that all sums are equal, or it would leave
// rounds and sums out.
#define HIDE_256(v) __asm__ volatile("" : "+x"(v))
#define HIDE_512(v) __asm__ volatile("" : "+v"(v))
#define HIDE_NEON(v) __asm__ volatile("" : "+w"(v))
#define HIDE_INT(v) __asm__ volatile("" : "+r"(v))
#if defined(__x86_64__)
#define HIDE_FLOAT(v) __asm__ volatile("" : "+x"(v))
#elif defined(__aarch64__)
#define HIDE_FLOAT(v) __asm__ volatile("" : "+w"(v))
#else
#define HIDE_FLOAT(v) __asm__ volatile("" : "+m"(v))
#endif

static float peak_f32_scalar(int64_t n) {
  float s[8], a = 1.0f, b = 1e-9f;
  QI__UNROLL for (int k = 0; k < 8; k++) {
    s[k] = 0;
    HIDE_FLOAT(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    QI__UNROLL for (int k = 0; k < 8; k++) {
      HIDE_FLOAT(a); // the product too would be the same in all sums
      s[k] += a * b;
    }
  }
  return qi__sum_lanes(s);
}

static float peak_int8_scalar(int64_t n) {
  uint32_t s[8], a = 1, b = 3;
  QI__UNROLL for (int k = 0; k < 8; k++) {
    s[k] = 0;
    HIDE_INT(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    QI__UNROLL for (int k = 0; k < 8; k++) {
      HIDE_INT(a); // the product too would be the same in all sums
      s[k] += a * b;
    }
  }
  return (float)(s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7]);
}

#if defined(QI__X86_64)
QI__TARGET("avx2,fma") static float peak_f32_avx2(int64_t n) {
  __m256 s[CHAINS], a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(1e-9f);
  QI__UNROLL for (int k = 0; k < CHAINS; k++) {
    s[k] = _mm256_setzero_ps();
    HIDE_256(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    HIDE_256(a);
    HIDE_256(b);
    QI__UNROLL for (int k = 0; k < CHAINS; k++) s[k] = _mm256_fmadd_ps(a, b, s[k]);
  }
  QI__UNROLL for (int k = 1; k < CHAINS; k++) s[0] = _mm256_add_ps(s[0], s[k]);
  return _mm256_cvtss_f32(s[0]);
}

// Two instructions for 32 products, the widest that AVX2 has for bytes, added as int16, which may wrap around: four-bit weights
// need no more until a chain of sums ends.
QI__TARGET("avx2") static float peak_int8_avx2(int64_t n) {
  __m256i s[CHAINS_AVX2], a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(3);
  QI__UNROLL for (int k = 0; k < CHAINS_AVX2; k++) {
    s[k] = _mm256_setzero_si256();
    HIDE_256(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    QI__UNROLL for (int k = 0; k < CHAINS_AVX2; k++) {
      HIDE_256(a);
      HIDE_256(b);
      s[k] = _mm256_add_epi16(s[k], _mm256_maddubs_epi16(a, b));
    }
  }
  QI__UNROLL for (int k = 1; k < CHAINS_AVX2; k++) s[0] = _mm256_add_epi16(s[0], s[k]);
  return (float)_mm_cvtsi128_si32(_mm256_castsi256_si128(s[0]));
}

QI__TARGET("avx512f") static float peak_f32_avx512(int64_t n) {
  __m512 s[CHAINS], a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(1e-9f);
  QI__UNROLL for (int k = 0; k < CHAINS; k++) {
    s[k] = _mm512_setzero_ps();
    HIDE_512(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    HIDE_512(a);
    HIDE_512(b);
    QI__UNROLL for (int k = 0; k < CHAINS; k++) s[k] = _mm512_fmadd_ps(a, b, s[k]);
  }
  QI__UNROLL for (int k = 1; k < CHAINS; k++) s[0] = _mm512_add_ps(s[0], s[k]);
  return _mm512_cvtss_f32(s[0]);
}

QI__TARGET("avx512f,avx512vnni") static float peak_int8_avx512(int64_t n) {
  __m512i s[CHAINS], a = _mm512_set1_epi32(0x01010101), b = _mm512_set1_epi32(0x03030303);
  QI__UNROLL for (int k = 0; k < CHAINS; k++) {
    s[k] = _mm512_setzero_si512();
    HIDE_512(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    HIDE_512(a);
    HIDE_512(b);
    QI__UNROLL for (int k = 0; k < CHAINS; k++) s[k] = _mm512_dpbusd_epi32(s[k], a, b);
  }
  QI__UNROLL for (int k = 1; k < CHAINS; k++) s[0] = _mm512_add_epi32(s[0], s[k]);
  return (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(s[0]));
}
#endif

#if BENCH_AVX_VNNI
QI__TARGET("avx2,avxvnni") static float peak_int8_avx_vnni(int64_t n) {
  __m256i s[CHAINS], a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(3);
  QI__UNROLL for (int k = 0; k < CHAINS; k++) {
    s[k] = _mm256_setzero_si256();
    HIDE_256(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    HIDE_256(a);
    HIDE_256(b);
    QI__UNROLL for (int k = 0; k < CHAINS; k++) s[k] = _mm256_dpbusd_avx_epi32(s[k], a, b);
  }
  QI__UNROLL for (int k = 1; k < CHAINS; k++) s[0] = _mm256_add_epi32(s[0], s[k]);
  return (float)_mm_cvtsi128_si32(_mm256_castsi256_si128(s[0]));
}
#endif

#if BENCH_AVX512_BF16
QI__TARGET("avx512f,avx512bf16") static float peak_bf16_avx512(int64_t n) {
  __m512 s[CHAINS];
  __m512i a = _mm512_set1_epi32(0x3f803f80), b = _mm512_set1_epi32(0x30803080); // pairs of 1 and 9.3e-10
  QI__UNROLL for (int k = 0; k < CHAINS; k++) {
    s[k] = _mm512_setzero_ps();
    HIDE_512(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    HIDE_512(a);
    HIDE_512(b);
    QI__UNROLL for (int k = 0; k < CHAINS; k++) s[k] = _mm512_dpbf16_ps(s[k], (__m512bh)a, (__m512bh)b);
  }
  QI__UNROLL for (int k = 1; k < CHAINS; k++) s[0] = _mm512_add_ps(s[0], s[k]);
  return _mm512_cvtss_f32(s[0]);
}
#endif

#if BENCH_AMX
typedef struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16]; // of a row
  uint8_t rows[16];
} tile_config;

// Eight tiles of 16 rows of 64 bytes. The clobber keeps GCC 12 from dropping the stores to the configuration.
QI__TARGET("amx-tile") static void peak_tiles_open(void) {
  tile_config c;
  memset(&c, 0, sizeof c);
  c.palette = 1;
  for (int i = 0; i < 8; i++) c.bytes[i] = 64, c.rows[i] = 16;
  __asm__ volatile("" ::"r"(&c) : "memory");
  _tile_loadconfig(&c);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
}

QI__TARGET("amx-tile,amx-bf16") static float peak_bf16_amx(int64_t n) {
  peak_tiles_open();
  for (int64_t i = 0; i < n; i++) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_release();
  return 0;
}

QI__TARGET("amx-tile,amx-int8") static float peak_int8_amx(int64_t n) {
  peak_tiles_open();
  for (int64_t i = 0; i < n; i++) {
    _tile_dpbusd(0, 4, 5);
    _tile_dpbusd(1, 4, 5);
    _tile_dpbusd(2, 4, 5);
    _tile_dpbusd(3, 4, 5);
  }
  _tile_release();
  return 0;
}
#endif

#if defined(QI__ARM64)
static float peak_f32_neon(int64_t n) {
  float32x4_t s[CHAINS], a = vdupq_n_f32(1.0f), b = vdupq_n_f32(1e-9f);
  QI__UNROLL for (int k = 0; k < CHAINS; k++) {
    s[k] = vdupq_n_f32(0);
    HIDE_NEON(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    HIDE_NEON(a);
    HIDE_NEON(b);
    QI__UNROLL for (int k = 0; k < CHAINS; k++) s[k] = vfmaq_f32(s[k], a, b);
  }
  QI__UNROLL for (int k = 1; k < CHAINS; k++) s[0] = vaddq_f32(s[0], s[k]);
  return vgetq_lane_f32(s[0], 0);
}

// Two instructions for 8 products, without the dot product extension.
static float peak_int8_neon(int64_t n) {
  int32x4_t s[CHAINS];
  int8x8_t a = vdup_n_s8(1), b = vdup_n_s8(3);
  QI__UNROLL for (int k = 0; k < CHAINS; k++) {
    s[k] = vdupq_n_s32(0);
    HIDE_NEON(s[k]);
  }
  for (int64_t i = 0; i < n; i++) {
    QI__UNROLL for (int k = 0; k < CHAINS; k++) {
      HIDE_NEON(a);
      HIDE_NEON(b);
      s[k] = vpadalq_s16(s[k], vmull_s8(a, b));
    }
  }
  QI__UNROLL for (int k = 1; k < CHAINS; k++) s[0] = vaddq_s32(s[0], s[k]);
  return (float)vgetq_lane_s32(s[0], 0);
}

// The instructions by their codes, so that neither compiler nor assembler must know the extension: v0..v11 += v30 times v31.
#define ARM_CHAINS12(code) \
  ".inst " code "\n.inst " code "+1\n.inst " code "+2\n.inst " code "+3\n.inst " code "+4\n.inst " code "+5\n" \
  ".inst " code "+6\n.inst " code "+7\n.inst " code "+8\n.inst " code "+9\n.inst " code "+10\n.inst " code "+11\n"
#define ARM_CHANGED "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11"

static float peak_int8_dotprod(int64_t n) {
  for (int64_t i = 0; i < n; i++) __asm__ volatile(ARM_CHAINS12("0x4e9f97c0") ::: ARM_CHANGED); // sdot v0.4s, v30.16b, v31.16b
  return 0;
}
static float peak_int8_i8mm(int64_t n) {
  for (int64_t i = 0; i < n; i++) __asm__ volatile(ARM_CHAINS12("0x4e9fa7c0") ::: ARM_CHANGED); // smmla v0.4s, v30.16b, v31.16b
  return 0;
}
static float peak_bf16_neon(int64_t n) {
  for (int64_t i = 0; i < n; i++) __asm__ volatile(ARM_CHAINS12("0x6e5fefc0") ::: ARM_CHANGED); // bfmmla v0.4s, v30.8h, v31.8h
  return 0;
}
#endif

// ---- choice ----

typedef enum unit_kind { UNIT_F32, UNIT_BF16, UNIT_INT8, UNIT_COUNT } unit_kind;

typedef struct peak_unit {
  const char *name;
  peak_fn run;
  double operations; // of a round
} peak_unit;

static peak_unit peak_select_f32(const qi__cpu *cpu) {
#if defined(QI__X86_64)
  if (cpu->avx512) return (peak_unit){"f32 avx512", peak_f32_avx512, 2.0 * 16 * CHAINS};
  if (cpu->avx2) return (peak_unit){"f32 avx2", peak_f32_avx2, 2.0 * 8 * CHAINS};
#elif defined(QI__ARM64)
  if (cpu->neon) return (peak_unit){"f32 neon", peak_f32_neon, 2.0 * 4 * CHAINS};
#endif
  (void)cpu;
  return (peak_unit){"f32 scalar", peak_f32_scalar, 2.0 * 8};
}

// Without a unit for bfloat16 that path multiplies in float32.
static peak_unit peak_select_bf16(const qi__cpu *cpu) {
#if BENCH_AMX
  if (cpu->amx) return (peak_unit){"bf16 amx", peak_bf16_amx, 4 * 2.0 * 16 * 16 * 32};
#endif
#if BENCH_AVX512_BF16
  if (cpu->avx512_bf16) return (peak_unit){"bf16 avx512", peak_bf16_avx512, 2.0 * 32 * CHAINS};
#endif
#if defined(QI__ARM64)
  if (cpu->i8mm) return (peak_unit){"bf16 neon", peak_bf16_neon, 2.0 * 16 * CHAINS};
#endif
  return peak_select_f32(cpu);
}

static peak_unit peak_select_int8(const qi__cpu *cpu) {
#if BENCH_AMX
  if (cpu->amx) return (peak_unit){"int8 amx", peak_int8_amx, 4 * 2.0 * 16 * 16 * 64};
#endif
#if defined(QI__X86_64)
  if (cpu->avx512) return (peak_unit){"int8 avx512", peak_int8_avx512, 2.0 * 64 * CHAINS};
#endif
#if BENCH_AVX_VNNI
  if (cpu->avx_vnni) return (peak_unit){"int8 vnni", peak_int8_avx_vnni, 2.0 * 32 * CHAINS};
#endif
#if defined(QI__X86_64)
  if (cpu->avx2) return (peak_unit){"int8 avx2", peak_int8_avx2, 2.0 * 32 * CHAINS_AVX2};
#elif defined(QI__ARM64)
  if (cpu->i8mm) return (peak_unit){"int8 i8mm", peak_int8_i8mm, 2.0 * 32 * CHAINS};
  if (cpu->dotprod) return (peak_unit){"int8 dotprod", peak_int8_dotprod, 2.0 * 16 * CHAINS};
  if (cpu->neon) return (peak_unit){"int8 neon", peak_int8_neon, 2.0 * 8 * CHAINS};
#endif
  (void)cpu;
  return (peak_unit){"int8 scalar", peak_int8_scalar, 2.0 * 8};
}

// ---- measuring ----

typedef struct rooflines {
  qi_pool *pool;
  uint8_t *stream;         // [bytes], of qi__malloc: in huge pages where there are
  size_t bytes;            // a multiple of STREAM_CHUNK
  stream_fn stream_runs[STREAM_LOOPS + 1]; // NULL after the last
  stream_fn stream_run;     // the one that is measured
  peak_unit unit[UNIT_COUNT];
  int64_t rounds[UNIT_COUNT]; // of one piece of work
  peak_unit current;
  int64_t current_rounds;
  double sink[QI__THREADS_MAX]; // keeps results alive
} rooflines;

static void stream_task(void *arg, int worker, int64_t begin, int64_t end) {
  rooflines *r = (rooflines *)arg;
  for (int64_t i = begin; i < end; i++)
    r->sink[worker] += (double)r->stream_run(r->stream + (size_t)i * STREAM_CHUNK, STREAM_CHUNK);
}

// Pages that were never written are all the same zeros.
static void stream_fill_task(void *arg, int worker, int64_t begin, int64_t end) {
  const rooflines *r = (const rooflines *)arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++) memset(r->stream + (size_t)i * STREAM_CHUNK, (int)i, STREAM_CHUNK);
}

static void peak_task(void *arg, int worker, int64_t begin, int64_t end) {
  rooflines *r = (rooflines *)arg;
  for (int64_t i = begin; i < end; i++) r->sink[worker] += (double)r->current.run(r->current_rounds);
}

// Bytes a second read by all threads: the best of two passes over the buffer with each loop.
static double roofline_bandwidth(rooflines *r) {
  double best = 0;
  for (int pass = 0; pass < 2; pass++)
    for (const stream_fn *run = r->stream_runs; *run; run++) {
      r->stream_run = *run;
      double start = seconds_now();
      qi__pool_run(r->pool, stream_task, r, (int64_t)(r->bytes / STREAM_CHUNK), 1);
      double rate = (double)r->bytes / (seconds_now() - start);
      if (rate > best) best = rate;
    }
  return best;
}

// Operations a second of all threads: the better of two rounds of some milliseconds.
static double roofline_peak(rooflines *r, unit_kind kind) {
  int64_t pieces = 4 * (int64_t)qi_pool_n_threads(r->pool);
  double best = 0;
  r->current = r->unit[kind];
  r->current_rounds = r->rounds[kind];
  for (int pass = 0; pass < 2; pass++) {
    double start = seconds_now();
    qi__pool_run(r->pool, peak_task, r, pieces, 1);
    double rate = (double)pieces * (double)r->current_rounds * r->current.operations / (seconds_now() - start);
    if (rate > best) best = rate;
  }
  return best;
}

// Rounds that keep one thread busy for about a millisecond.
static void roofline_calibrate(rooflines *r, unit_kind kind) {
  int64_t n = 1000;
  for (;;) {
    double start = seconds_now();
    r->sink[0] += (double)r->unit[kind].run(n);
    double seconds = seconds_now() - start;
    if (seconds > 1e-3 || n > (int64_t)1 << 40) break;
    n *= 2;
  }
  r->rounds[kind] = n;
}

static void rooflines_close(rooflines *r) {
  if (r->stream) qi__malloc_free(r->stream, r->bytes, NULL);
  r->stream = NULL;
}

// The pool must outlive it. False after a message.
static bool rooflines_open(rooflines *r, qi_pool *pool, int megabytes) {
  memset(r, 0, sizeof *r);
  r->pool = pool;
  r->bytes = (size_t)megabytes * STREAM_CHUNK;
  if (!memory_fits("bandwidth buffer (--bw-mb)", r->bytes)) return false;
  r->stream = (uint8_t *)qi__malloc(r->bytes, QI__CACHE_LINE, NULL);
  if (!r->stream) return complain("no memory for the %d MB that bandwidth is measured with (--bw-mb)", megabytes);
  stream_select(&pool->cpu, r->stream_runs);
  r->unit[UNIT_F32] = peak_select_f32(&pool->cpu);
  r->unit[UNIT_BF16] = peak_select_bf16(&pool->cpu);
  r->unit[UNIT_INT8] = peak_select_int8(&pool->cpu);
  qi__pool_run(pool, stream_fill_task, r, (int64_t)(r->bytes / STREAM_CHUNK), 1);
  for (int k = 0; k < UNIT_COUNT; k++) roofline_calibrate(r, (unit_kind)k);
  return true;
}

// The unit that an arithmetic uses.
static unit_kind unit_of(qi__arithmetic arithmetic) {
  return arithmetic == QI__INTEGER ? UNIT_INT8 : arithmetic == QI__BF16 ? UNIT_BF16 : UNIT_F32;
}

#endif // BENCH_ROOFLINES_H
