// Instructions that this machine may lack, as functions: AMX tiles as far as INT8 kernels use them, and AVX-VNNI. Include before
// qinfer.h.
//
// As Intel's manual (volume 2) defines them; for tiles with the traps: one that the configuration leaves out, or one of more rows
// than its partner, is an error.
#ifndef EMULATE_X86_H
#define EMULATE_X86_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 // what qinfer.h asks for comes too late after the headers below
#endif
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_config;

static tile_config tiles_config;
static int tiles_emulated; // else tiles are those of the processor, whose configuration is made by qinfer.h
static uint8_t tiles_data[8][16][64];

static void tiles_need(int ok, const char *what, int t) {
  if (ok) return;
  fprintf(stderr, "tile %d: %s\n", t, what);
  abort();
}

static __attribute__((unused)) void tiles_configure(const void *config) {
  memcpy(&tiles_config, config, sizeof tiles_config);
  memset(tiles_data, 0xaa, sizeof tiles_data);
  tiles_need(tiles_config.palette == 1 && !tiles_config.start_row, "palette or start row", -1);
  for (int t = 0; t < 8; t++) {
    tiles_need(tiles_config.rows[t] <= 16 && tiles_config.row_bytes[t] <= 64, "too large", t);
    tiles_need(!tiles_config.rows[t] == !tiles_config.row_bytes[t], "rows or bytes alone are 0", t);
  }
}

static __attribute__((unused)) void tiles_zero(int t) {
  tiles_need(tiles_config.rows[t], "is not configured", t);
  memset(tiles_data[t], 0, sizeof tiles_data[t]);
}

static __attribute__((unused)) void tiles_load(int t, const void *p, size_t stride) {
  tiles_need(tiles_config.rows[t], "is not configured", t);
  memset(tiles_data[t], 0, sizeof tiles_data[t]);
  size_t bytes = tiles_config.row_bytes[t];
  for (size_t r = 0; r < tiles_config.rows[t]; r++) memcpy(tiles_data[t][r], (const uint8_t *)p + r * stride, bytes);
}

static __attribute__((unused)) void tiles_store(int t, void *p, size_t stride) {
  tiles_need(tiles_config.rows[t], "is not configured", t);
  for (size_t r = 0; r < tiles_config.rows[t]; r++) memcpy((uint8_t *)p + r * stride, tiles_data[t][r], tiles_config.row_bytes[t]);
}

// c[m][n] += sum over k, i of a[m][4 k + i] * b[k][4 n + i], a signed, b where b_signed
static __attribute__((unused)) void tiles_dpb(int c, int a, int b, int b_signed) {
  const tile_config *g = &tiles_config;
  tiles_need(g->rows[c] && g->rows[c] == g->rows[a], "sums and first factor differ in rows", c);
  tiles_need(g->row_bytes[a] == 4 * g->rows[b], "factors do not fit", a);
  tiles_need(g->row_bytes[c] == g->row_bytes[b], "sums and second factor differ in columns", c);
  for (int m = 0; m < g->rows[c]; m++)
    for (int n = 0; n < g->row_bytes[c] / 4; n++) {
      int32_t sum;
      memcpy(&sum, &tiles_data[c][m][4 * n], 4);
      for (int k = 0; k < g->rows[b]; k++)
        for (int i = 0; i < 4; i++) {
          int v = tiles_data[b][k][4 * n + i];
          sum += (int8_t)tiles_data[a][m][4 * k + i] * (b_signed && v > 127 ? v - 256 : v);
        }
      memcpy(&tiles_data[c][m][4 * n], &sum, 4);
    }
}

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbsud
#define TILES(emulated, ...) \
  do { \
    if (tiles_emulated) emulated; \
    else __asm__ volatile(__VA_ARGS__); \
  } while (0)
#define _tile_zero(t) TILES(tiles_zero(t), "tilezero %%tmm" #t ::)
#define _tile_loadd(t, p, stride) \
  TILES(tiles_load(t, p, stride), "tileloadd (%0,%1,1), %%tmm" #t ::"r"((const void *)(p)), "r"((size_t)(stride)))
#define _tile_stored(t, p, stride) \
  TILES(tiles_store(t, p, stride), "tilestored %%tmm" #t ", (%0,%1,1)" ::"r"((void *)(p)), "r"((size_t)(stride)) : "memory")
#define _tile_dpbssd(c, a, b) TILES(tiles_dpb(c, a, b, 1), "tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
#define _tile_dpbsud(c, a, b) TILES(tiles_dpb(c, a, b, 0), "tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

// ---- AVX-VNNI ----

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

#endif // EMULATE_X86_H
