// Shapes of known models, and which weight format each matrix of a file gets.
#ifndef BENCH_SHAPES_H
#define BENCH_SHAPES_H

#include "measure.h"

typedef struct shape {
  const char *name, *arch;
  int n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
  bool tied; // the embedding serves as output
  float rope_theta;
} shape;

// From the config.json of each model. bitnet-2b: without the two extra norms of its own architecture. The origin-* shapes are those
// that the origin document on ternary models states (layers, widths); its heads and vocabulary are not told and assumed.
static const shape shapes[] = {
    {"tinyllama", "llama", 22, 2048, 32, 4, 64, 5632, 32000, false, 1e4f},
    {"llama2-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32000, false, 1e4f},
    {"llama3-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, false, 5e5f},
    {"phi-3.5", "phi3", 32, 3072, 32, 32, 96, 8192, 32064, false, 1e4f},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, true, 1e6f},
    {"qwen2.5-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151936, true, 1e6f},
    {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, false, 1e6f},
    {"qwen2.5-14b", "qwen2", 48, 5120, 40, 8, 128, 13824, 152064, false, 1e6f},
    {"qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, 151936, true, 1e6f},
    {"qwen3-4b", "qwen3", 36, 2560, 32, 8, 128, 9728, 151936, true, 1e6f},
    {"qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, 151936, false, 1e6f},
    {"smollm2-360m", "llama", 32, 960, 15, 5, 64, 2560, 49152, true, 1e5f},
    {"bitnet-2b", "llama", 30, 2560, 20, 5, 128, 6912, 128256, true, 5e5f},
    {"falcon3-7b", "llama", 28, 3072, 12, 4, 256, 23040, 131072, false, 1000042.0f},
    {"origin-2b", "llama", 24, 2048, 32, 32, 64, 5632, 32000, false, 1e4f},
    {"origin-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32000, false, 1e4f},
    {"tiny", "llama", 2, 256, 4, 2, 64, 512, 320, false, 1e4f},
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

static const shape *shape_find(const char *name, size_t len) {
  for (size_t i = 0; i < N_SHAPES; i++)
    if (strlen(shapes[i].name) == len && strncmp(shapes[i].name, name, len) == 0) return &shapes[i];
  return NULL;
}

// ---- formats of a file ----

// A file in one format: every matrix has it, embedding and output too. Q4_K_M, Q5_K_M: mixes as llama.cpp makes them:
//   attn_v, ffn_down   Q6_K in the first and last eighth of the layers and in each third one between, else as the rest
//   attn_qkv (phi-3)   Q5_K in Q4_K_M, Q6_K in Q5_K_M
//   output             Q6_K (also the embedding, where it serves as output)
//   all else           Q4_K, Q5_K
// Ternary files have their embedding in Q4_K and their output in Q6_K, as in llama.cpp.
typedef struct file_type {
  const char *name;
  qi_format base, wide, fused, embedding, output; // wide = in the layers named above
} file_type;

static bool file_type_parse(const char *name, file_type *out) {
  static const file_type mixes[] = {
      {"Q4_K_M", QI_FORMAT_Q4_K, QI_FORMAT_Q6_K, QI_FORMAT_Q5_K, QI_FORMAT_Q4_K, QI_FORMAT_Q6_K},
      {"Q5_K_M", QI_FORMAT_Q5_K, QI_FORMAT_Q6_K, QI_FORMAT_Q6_K, QI_FORMAT_Q5_K, QI_FORMAT_Q6_K},
      {"TQ1_0", QI_FORMAT_TQ1_0, QI_FORMAT_TQ1_0, QI_FORMAT_TQ1_0, QI_FORMAT_Q4_K, QI_FORMAT_Q6_K},
      {"TQ2_0", QI_FORMAT_TQ2_0, QI_FORMAT_TQ2_0, QI_FORMAT_TQ2_0, QI_FORMAT_Q4_K, QI_FORMAT_Q6_K},
  };
  for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++)
    if (strcmp(mixes[i].name, name) == 0) {
      *out = mixes[i];
      return true;
    }
  qi_format f = qi_format_from_name(name);
  if (f == QI_FORMAT_NONE) return false;
  *out = (file_type){qi_format_get(f)->name, f, f, f, f, f};
  return true;
}

static bool layer_is_wide(int layer, int n_layers) {
  int eighth = n_layers / 8;
  return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

// What llama.cpp takes where rows are no multiple of 256.
static qi_format format_for_width(qi_format f, int n_cols) {
  if (n_cols % qi_format_get(f)->block_len == 0) return f;
  qi_format g = f == QI_FORMAT_Q4_K ? QI_FORMAT_Q5_0
              : f == QI_FORMAT_Q5_K ? QI_FORMAT_Q5_1
              : f == QI_FORMAT_Q6_K ? QI_FORMAT_Q8_0
              : f == QI_FORMAT_TQ1_0 || f == QI_FORMAT_TQ2_0 ? QI_FORMAT_Q4_0
                                                             : QI_FORMAT_IQ4_NL;
  return n_cols % qi_format_get(g)->block_len ? QI_FORMAT_F16 : g;
}

#endif // BENCH_SHAPES_H
