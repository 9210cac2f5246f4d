// A program for tests/check_*.sh: writes files that they need.
//
//   write_model model OUT N_LAYERS N_EMBD N_FF N_HEADS N_KV_HEADS [tied]   a random llama in F32
//   write_model folder IN DIR                                             a GGUF model as a Hugging Face folder, which exists
//   write_model imatrix IN OUT                                            importance from llama.cpp's .dat to its GGUF
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "hf_write.h"
#include "random_model.h"

static int write_random(char **argv, bool tied) {
  rm_desc d = rm_llama();
  d.n_layers = atoi(argv[1]);
  d.n_embd = atoi(argv[2]);
  d.n_ff = atoi(argv[3]);
  d.n_heads = atoi(argv[4]);
  d.n_kv_heads = atoi(argv[5]);
  d.tied = tied;
  size_t size = 0;
  uint8_t *file = rm_build(&d, &size);
  int good = file && gw_save(file, size, argv[0]);
  free(file);
  return !good;
}

static int write_folder(const char *in, const char *dir) {
  qi_model_desc md = {.path = in};
  qi_model *m = NULL;
  hw_folder h;
  hw_options o = {.with_prefix = true};
  if (qi_model_open(&m, &md, NULL)) return 1;
  memset(&h, 0, sizeof h);
  snprintf(h.dir, sizeof h.dir, "%s", dir);
  hw_model(&h, m, &o);
  qi_model_close(m);
  return 0;
}

// As written by llama.cpp since 2025: sums of squares and how many rows they are of. The rows are made up.
static int convert_imatrix(const char *in, const char *out) {
  FILE *f = fopen(in, "rb");
  int32_t n = 0, len, n_calls, n_values, rows = 1000;
  char name[160];
  gw_file w;
  gw_begin(&w, 3);
  gw_kv_str(&w, "general.type", "imatrix");
  gw_kv_strs(&w, "imatrix.datasets", (const char *const[]){"text.txt"}, NULL, 1);
  gw_kv_u32(&w, "imatrix.chunk_size", 512);
  bool good = f && fread(&n, 4, 1, f) == 1;
  for (int i = 0; i < n && good; i++) {
    good = fread(&len, 4, 1, f) == 1 && len > 0 && len < 128 && fread(name, 1, (size_t)len, f) == (size_t)len &&
           fread(&n_calls, 4, 1, f) == 1 && fread(&n_values, 4, 1, f) == 1;
    float *values = good ? (float *)malloc((size_t)n_values * sizeof *values) : NULL, count = (float)rows;
    good = values && fread(values, 4, (size_t)n_values, f) == (size_t)n_values;
    for (int k = 0; k < n_values && good; k++) values[k] *= count / (float)n_calls;
    uint64_t shapes[2][2] = {{(uint64_t)n_values, 1}, {1, 1}};
    snprintf(name + len, sizeof name - (size_t)len, ".in_sum2");
    if (good) gw_tensor(&w, name, 0, 2, shapes[0], values, (size_t)n_values * sizeof *values);
    snprintf(name + len, sizeof name - (size_t)len, ".counts");
    if (good) gw_tensor(&w, name, 0, 2, shapes[1], &count, sizeof count);
    free(values);
  }
  good = good && fread(&n, 4, 1, f) == 1;
  gw_kv_u32(&w, "imatrix.chunk_count", (uint32_t)n);
  size_t size = 0;
  const uint8_t *bytes = gw_finish(&w, &size);
  good = good && bytes && gw_save(bytes, size, out);
  gw_free(&w);
  if (f) fclose(f);
  return !good;
}

int main(int argc, char **argv) {
  if (argc >= 8 && strcmp(argv[1], "model") == 0) return write_random(argv + 2, argc > 8);
  if (argc == 4 && strcmp(argv[1], "folder") == 0) return write_folder(argv[2], argv[3]);
  if (argc == 4 && strcmp(argv[1], "imatrix") == 0) return convert_imatrix(argv[2], argv[3]);
  return 2;
}
