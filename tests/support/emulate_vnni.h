// AVX-VNNI's instructions, which this machine may lack, as functions. Include before qinfer.h.
#ifndef EMULATE_VNNI_H
#define EMULATE_VNNI_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 // what qinfer.h asks for comes too late after the headers below
#endif
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

// Four products of unsigned a with signed b to each lane.
static __attribute__((unused, noinline, target("avx2"))) __m256i emulated_dpbusd(__m256i sum, __m256i a, __m256i b) {
  int32_t s[8];
  uint8_t u[32];
  int8_t v[32];
  memcpy(s, &sum, 32), memcpy(u, &a, 32), memcpy(v, &b, 32);
  for (int i = 0; i < 32; i++) s[i / 4] += u[i] * v[i];
  memcpy(&sum, s, 32);
  return sum;
}

// Two products of int16 to each lane.
static __attribute__((unused, noinline, target("avx2"))) __m256i emulated_dpwssd(__m256i sum, __m256i a, __m256i b) {
  int32_t s[8];
  int16_t u[16], v[16];
  memcpy(s, &sum, 32), memcpy(u, &a, 32), memcpy(v, &b, 32);
  for (int i = 0; i < 16; i++) s[i / 2] += u[i] * v[i];
  memcpy(&sum, s, 32);
  return sum;
}

#undef _mm256_dpbusd_avx_epi32
#undef _mm256_dpwssd_avx_epi32
#define _mm256_dpbusd_avx_epi32(sum, a, b) emulated_dpbusd(sum, a, b)
#define _mm256_dpwssd_avx_epi32(sum, a, b) emulated_dpwssd(sum, a, b)

#endif // EMULATE_VNNI_H
