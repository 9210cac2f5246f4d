// AMX, which this machine may lack, as functions: a processor that has AVX512-BF16 then seems to have tiles, too. For a whole
// program: cc -include tests/support/emulate_tiles.h, as tests/run.sh does with the address sanitizer.
//
// Instructions do what Intel's manual (volume 2) says. Its traps end the program: a tile that the configuration leaves out, factors
// that do not fit, more rows than there are. Memory is read and written by memcpy, which sanitizers watch.
#ifndef EMULATE_TILES_H
#define EMULATE_TILES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE // what qinfer.h asks for comes too late after the headers below
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QI__TILES_EMULATED 1

typedef struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_config;

static _Thread_local tile_config tiles_config;
static _Thread_local uint8_t tiles_data[8][16][64];

static void tiles_need(int ok, const char *what, int t) {
  if (ok) return;
  fprintf(stderr, "tile %d: %s\n", t, what);
  abort();
}

static __attribute__((unused)) void tiles_configure(const void *config) {
  memcpy(&tiles_config, config, sizeof tiles_config);
  memset(tiles_data, 0xaa, sizeof tiles_data); // zeros in a processor: who relies on them forgets them the second time
  tiles_need(tiles_config.palette == 1 && !tiles_config.start_row, "palette or start row", -1);
  for (int t = 0; t < 16; t++) {
    tiles_need(t < 8 || !tiles_config.rows[t], "there are eight", t);
    tiles_need(tiles_config.rows[t] <= 16 && tiles_config.row_bytes[t] <= 64, "too large", t);
    tiles_need(!tiles_config.rows[t] == !tiles_config.row_bytes[t], "rows or bytes alone are 0", t);
  }
}

static __attribute__((unused)) void tiles_release(void) { memset(&tiles_config, 0, sizeof tiles_config); }

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

static void tiles_need_factors(int c, int a, int b) {
  const tile_config *g = &tiles_config;
  tiles_need(g->rows[c] && g->rows[c] == g->rows[a], "sums and first factor differ in rows", c);
  tiles_need(g->row_bytes[a] == 4 * g->rows[b], "factors do not fit", a);
  tiles_need(g->row_bytes[c] == g->row_bytes[b], "sums and second factor differ in columns", c);
}

#define TILES_VECTORS static __attribute__((unused, target("avx512f,avx512bw,fma"), no_sanitize("address", "undefined")))

// c[m][n] += sum over k, i of a[m][4 k + i] * b[k][4 n + i], a signed, b where b_signed
TILES_VECTORS void tiles_multiply_bytes(int c, int a, int b, int b_signed) {
  tiles_need_factors(c, a, b);
  for (int m = 0; m < tiles_config.rows[c]; m++) {
    __m512i sum = _mm512_loadu_si512(tiles_data[c][m]);
    for (int k = 0; k < 4 * tiles_config.rows[b]; k++) {
      __m512i v = _mm512_slli_epi32(_mm512_loadu_si512(tiles_data[b][k / 4]), (unsigned)(24 - k % 4 * 8));
      v = b_signed ? _mm512_srai_epi32(v, 24) : _mm512_srli_epi32(v, 24);
      sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(_mm512_set1_epi32((int8_t)tiles_data[a][m][k]), v));
    }
    _mm512_storeu_si512(tiles_data[c][m], sum);
  }
}

// c[m][n] += even[k] + odd[k], chains of their own over pairs k: of a[m][2 k] * b[k][2 n], of a[m][2 k + 1] * b[k][2 n + 1].
// Rounded to nearest whatever the thread's mode is; subnormals are zeros, of factors and of sums.
TILES_VECTORS void tiles_multiply_bf16(int c, int a, int b) {
  const unsigned mode = _mm_getcsr();
  tiles_need_factors(c, a, b);
  _mm_setcsr(0x9fc0); // no exceptions, to nearest, flush to zero, denormals are zeros
  for (int m = 0; m < tiles_config.rows[c]; m++) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < tiles_config.rows[b]; k++) {
      const uint8_t *pair = &tiles_data[a][m][4 * k];
      const __m512i v = _mm512_loadu_si512(tiles_data[b][k]);
      const __m512 lower = _mm512_castsi512_ps(_mm512_set1_epi32((int)((unsigned)(pair[0] | pair[1] << 8) << 16)));
      const __m512 upper = _mm512_castsi512_ps(_mm512_set1_epi32((int)((unsigned)(pair[2] | pair[3] << 8) << 16)));
      even = _mm512_fmadd_ps(lower, _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), even);
      odd = _mm512_fmadd_ps(upper, _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000))), odd);
    }
    _mm512_storeu_ps(tiles_data[c][m], _mm512_add_ps(_mm512_loadu_ps(tiles_data[c][m]), _mm512_add_ps(even, odd)));
  }
  _mm_setcsr(mode);
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) tiles_configure(config)
#define _tile_release() tiles_release()
#define _tile_zero(t) tiles_zero(t)
#define _tile_loadd(t, p, stride) tiles_load(t, p, stride)
#define _tile_stored(t, p, stride) tiles_store(t, p, stride)
#define _tile_dpbssd(c, a, b) tiles_multiply_bytes(c, a, b, 1)
#define _tile_dpbsud(c, a, b) tiles_multiply_bytes(c, a, b, 0)
#define _tile_dpbf16ps(c, a, b) tiles_multiply_bf16(c, a, b)
#endif

#endif // EMULATE_TILES_H
