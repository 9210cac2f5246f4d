// ==== >>tiles : AMX tiles ====
#ifndef QI__KERNELS_TILES_H
#define QI__KERNELS_TILES_H

#include "simd.h"

#if defined(QI__HAS_AMX)

// Tiles: 0..3 sums (activation half, weight half), 4 5 activations, 6 7 weights, each up to 16 rows of 64 bytes.
typedef struct qi__tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} qi__tile_config;

// The compiler must have written memory before tiles are loaded, and read it after they are stored: GCC's intrinsics do not say so.
#define QI__TILE_BARRIER() __asm__ volatile("" ::: "memory")

// For n <= 32 rows of activations: what is loaded and stored ends with them. Without rows 16.. their tiles must not be used.
QI__FN qi__tile_config qi__tile_config_of(size_t n) {
  static const uint8_t half[8] = {0, 0, 1, 1, 0, 1, 2, 2}; // 2: weights
  const uint8_t rows[3] = {(uint8_t)qi__min_size(n, 16), (uint8_t)(n > 16 ? n - 16 : 0), 16};
  qi__tile_config config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int t = 0; t < 8; t++) {
    config.rows[t] = rows[half[t]];
    config.row_bytes[t] = config.rows[t] ? 64 : 0;
  }
  return config;
}

QI__INLINE QI__AMX void qi__tiles_begin(size_t n) {
  qi__tile_config config = qi__tile_config_of(n);
  __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
#endif

#endif // QI__KERNELS_TILES_H
