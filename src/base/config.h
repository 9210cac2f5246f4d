// ==== >>config : system headers, compilers, small helpers ====
#ifndef QI__CONFIG_H
#define QI__CONFIG_H

#include "../api.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h> // vsnprintf, also with QI_NO_STDIO
#include <stdlib.h>
#include <string.h>

#ifndef QI_ASSERT
#define QI_ASSERT(x) ((void)0)
#endif

#if defined(__GNUC__) || defined(__clang__)
// Kernels are made of inlined parts with constant arguments. Without optimisation that would only make objects large and compiling
// slow (30 s in place of 2).
#if defined(__OPTIMIZE__)
#define QI__INLINE static inline __attribute__((always_inline, unused))
#else
#define QI__INLINE static inline __attribute__((unused))
#endif
#define QI__FN static __attribute__((unused)) // a part may be used by tests only, or by no one under QI_NO_*
#define QI__PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define QI__TARGET(features) __attribute__((target(features)))
#else
#define QI__INLINE static inline
#define QI__FN static
#define QI__PRINTF(fmt, args)
#define QI__TARGET(features)
#endif

// Loops over registers must be unrolled whole, or the registers live in memory.
#if defined(__clang__)
#define QI__UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define QI__UNROLL _Pragma("GCC unroll 32")
#else
#define QI__UNROLL
#endif

#define QI__COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))
#define QI__CACHE_LINE 64

// Names a compile-time check; C99 has no _Static_assert.
#define QI__STATIC_ASSERT(cond, name) typedef char qi__static_assert_##name[(cond) ? 1 : -1]

QI__STATIC_ASSERT(CHAR_BIT == 8 && sizeof(float) == 4 && sizeof(double) == 8 && sizeof(int) >= 4, machine);

QI__INLINE int64_t qi__min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
QI__INLINE int64_t qi__max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
QI__INLINE size_t qi__min_size(size_t a, size_t b) { return a < b ? a : b; }
QI__INLINE size_t qi__max_size(size_t a, size_t b) { return a > b ? a : b; }

// Little-endian values at any address.
QI__INLINE uint16_t qi__load_u16(const void *p) {
  const uint8_t *b = (const uint8_t *)p;
  return (uint16_t)(b[0] | b[1] << 8);
}
QI__INLINE uint32_t qi__load_u32(const void *p) {
  const uint8_t *b = (const uint8_t *)p;
  return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
QI__INLINE uint64_t qi__load_u64(const void *p) {
  return (uint64_t)qi__load_u32(p) | (uint64_t)qi__load_u32((const uint8_t *)p + 4) << 32;
}
QI__INLINE void qi__store_u16(void *p, uint16_t v) {
  uint8_t *b = (uint8_t *)p;
  b[0] = (uint8_t)v;
  b[1] = (uint8_t)(v >> 8);
}

QI__INLINE float qi__bits_f32(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
QI__INLINE uint32_t qi__f32_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
QI__INLINE void qi__store_f32(void *p, float f) {
  uint32_t u = qi__f32_bits(f);
  qi__store_u16(p, (uint16_t)u);
  qi__store_u16((uint8_t *)p + 2, (uint16_t)(u >> 16));
}

// Eight lanes added in the order of a 256-bit register that is folded in halves.
QI__INLINE float qi__sum_lanes(const float *a) {
  return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

// True for finite numbers; works on bits, so no compiler flag can decide it beforehand.
QI__INLINE bool qi__is_finite(float f) { return (qi__f32_bits(f) & 0x7f800000u) != 0x7f800000u; }
QI__INLINE bool qi__is_nan(float f) { return (qi__f32_bits(f) & 0x7fffffffu) > 0x7f800000u; }

// clang before 19 splits fmaf into a product and a sum under the host's -ffast-math, whatever its pragmas say; not under another
// name.
#if defined(__clang__) && defined(__FAST_MATH__) && defined(__x86_64__) && defined(__ELF__) && !defined(__FMA__)
extern float qi__libm_fmaf(float a, float b, float c) __asm__("fmaf");
#define fmaf(a, b, c) qi__libm_fmaf(a, b, c)
#endif

#endif // QI__CONFIG_H
