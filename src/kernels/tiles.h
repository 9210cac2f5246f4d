// ==== >>tiles : AMX tiles ====
#ifndef QI__KERNELS_TILES_H
#define QI__KERNELS_TILES_H

#include "simd.h"

#if defined(QI__HAS_AMX)

// Where another process shares the core, tile instructions take the longer the more tiles hold values: products alone 7.5 ns with
// four tiles, 17 with eight (Sapphire Rapids; it seems that too few physical ones are left then for the next results). So only four
// are in use: 0 and 1 sums of 16 weight rows each, 2 activations, 3 weights; up to 16 rows of 64 bytes. Weights are loaded more
// often for it: they should lie in the first-level cache, in the half of it that such a process leaves.
typedef struct qi__tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} qi__tile_config;

// The compiler must have written memory before tiles are loaded, and read it after they are stored: GCC's intrinsics do not say so.
#define QI__TILE_BARRIER() __asm__ volatile("" ::: "memory")

// For n <= 16 rows of activations: what is loaded and stored ends with them.
QI__FN qi__tile_config qi__tile_config_of(size_t n) {
  qi__tile_config config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int t = 0; t < 4; t++) {
    config.rows[t] = t < 3 ? (uint8_t)n : 16;
    config.row_bytes[t] = 64;
  }
  return config;
}

QI__INLINE QI__AMX void qi__tiles_begin(size_t n) {
  qi__tile_config config = qi__tile_config_of(n);
  __asm__ volatile("" ::"m"(config) : "memory"); // GCC's intrinsic says of no more than eight bytes that it reads them
  _tile_loadconfig(&config);
}
#endif

#endif // QI__KERNELS_TILES_H
