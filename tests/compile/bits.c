// Prints hashes of what the numeric floor computes. The lines must not depend on compiler or flags, -ffast-math included.
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"

enum { N_ROWS = 5, N_COLS = 512, N_VECTORS = 3 };

// FNV-1a over the bits; all NaN count as one, because which payload survives is up to the processor.
static uint64_t hash_floats(const float *x, size_t n) {
  uint64_t h = 14695981039346656037u;
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, &x[i], sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) bits = 0x7fc00000u;
    h = (h ^ bits) * 1099511628211u;
  }
  return h;
}

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

static void fill_floats(float *x, size_t n, uint32_t seed) {
  for (size_t i = 0; i < n; i++) x[i] = (float)((int32_t)(next_random(&seed) & 0xffffu) - 32768) / 32768.0f;
}

// Any bytes are a block of any format.
static void print_dequantized(qi_format format) {
  static uint8_t blocks[N_COLS * 4];
  static float out[N_COLS];
  uint32_t seed = (uint32_t)format;
  for (size_t i = 0; i < sizeof blocks; i++) blocks[i] = (uint8_t)next_random(&seed);
  if (qi_dequantize(format, blocks, out, N_COLS, NULL)) return;
  printf("%s dequantized %016llx\n", qi_format_get(format)->name, (unsigned long long)hash_floats(out, N_COLS));
}

static void print_products(qi_format format) {
  static float weights[N_ROWS * N_COLS], x[N_VECTORS * N_COLS], y[N_VECTORS * N_ROWS];
  static uint8_t packed[N_ROWS * N_COLS * 4];
  fill_floats(weights, N_ROWS * N_COLS, 1);
  fill_floats(x, N_VECTORS * N_COLS, 2);
  if (!qi_format_get(format)->can_quantize) return;
  if (qi_quantize(format, weights, packed, N_ROWS * N_COLS, N_COLS, NULL, NULL)) return;
  qi_matrix w = {format, packed, N_ROWS, N_COLS};
  for (int path = QI_PATH_INTEGER; path <= QI_PATH_FLOAT; path++) {
    qi_result r = qi_matmul(NULL, (qi_path)path, &w, x, N_VECTORS, y, NULL);
    printf("%s path %d result %d %016llx\n", qi_format_get(format)->name, path, (int)r,
           (unsigned long long)hash_floats(y, N_VECTORS * N_ROWS));
  }
}

int main(void) {
  for (int f = QI_FORMAT_NONE + 1; f < QI_FORMAT_COUNT; f++) {
    print_dequantized((qi_format)f);
    print_products((qi_format)f);
  }
  return 0;
}
