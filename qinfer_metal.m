// generated from src/metal/backend.m: edit there
// qinfer_metal.m: qinfer on Apple GPUs.
//
//   clang -O2 app.c qinfer_metal.m -framework Metal -framework Foundation      (with or without -fobjc-arc)
//
//   qi_model_desc md = { .path = "model.gguf", .backend = qi_metal(), .backend_fallback = true };
//
// Needs macOS 12 and a GPU of family Apple 7 (M1) or later. Weights stay where the file is mapped; keys, values and everything
// else of a session lie in memory that CPU and GPU share. Formats: see qi__mtl_formats; keys and values in F16 and Q8. Weights are
// multiplied in float32. Numbers of columns and widths of heads must be multiples of 4, heads at most 256 wide.
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include "qinfer.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// Arguments of the kernels, the same text for the host (C) and the shaders (MSL).

typedef struct qi__mtl_matrix {
  uint32_t n_rows, n_cols, row_bytes;
  uint32_t skip;    // bytes from where the buffer is bound to the first row
  float param[2];   // of the format
  uint32_t n;       // rows of x and y
  uint32_t add;     // y += instead of y =
  uint32_t has_bias;
} qi__mtl_matrix;

typedef struct qi__mtl_gated {
  qi__mtl_matrix gate, up;
  uint32_t relu2;
} qi__mtl_gated;

typedef struct qi__mtl_norm {
  uint32_t width, has_index;
  float eps;
} qi__mtl_norm;

typedef struct qi__mtl_kv {
  uint32_t first_unit, n_pages, page_bytes, n_table; // unit: layer * n_kv_heads
  uint32_t n_heads, n_kv_heads, dim_k, dim_v;
  uint32_t k_scale, v, v_scale;
  uint32_t n; // rows
} qi__mtl_kv;

typedef struct qi__mtl_rope {
  qi__mtl_kv kv;
  uint32_t n_pairs, neighbours, has_q_norm, has_k_norm;
  float eps;
} qi__mtl_rope;

typedef struct qi__mtl_gate {
  uint32_t n, relu2;
} qi__mtl_gate;

typedef struct qi__mtl_top {
  uint32_t width, k;
} qi__mtl_top;

static const char qi__mtl_source[] =
    "// Shaders of qinfer. Operations are those of qi_op_kind in qinfer.h, layouts those of qi_op_matrix and qi_op_kv.\n"
    "//\n"
    "// Written for every version of the compiler since MSL 2.4: an address space on each pointer, one threadgroup variable a\n"
    "// declaration, constructors instead of casts, finite masks. 32 lanes a simdgroup.\n"
    "#include <metal_stdlib>\n"
    "using namespace metal;\n"
    "\n"
    "// Arguments of the kernels, the same text for the host (C) and the shaders (MSL).\n"
    "\n"
    "typedef struct qi__mtl_matrix {\n"
    "  uint32_t n_rows, n_cols, row_bytes;\n"
    "  uint32_t skip;    // bytes from where the buffer is bound to the first row\n"
    "  float param[2];   // of the format\n"
    "  uint32_t n;       // rows of x and y\n"
    "  uint32_t add;     // y += instead of y =\n"
    "  uint32_t has_bias;\n"
    "} qi__mtl_matrix;\n"
    "\n"
    "typedef struct qi__mtl_gated {\n"
    "  qi__mtl_matrix gate, up;\n"
    "  uint32_t relu2;\n"
    "} qi__mtl_gated;\n"
    "\n"
    "typedef struct qi__mtl_norm {\n"
    "  uint32_t width, has_index;\n"
    "  float eps;\n"
    "} qi__mtl_norm;\n"
    "\n"
    "typedef struct qi__mtl_kv {\n"
    "  uint32_t first_unit, n_pages, page_bytes, n_table; // unit: layer * n_kv_heads\n"
    "  uint32_t n_heads, n_kv_heads, dim_k, dim_v;\n"
    "  uint32_t k_scale, v, v_scale;\n"
    "  uint32_t n; // rows\n"
    "} qi__mtl_kv;\n"
    "\n"
    "typedef struct qi__mtl_rope {\n"
    "  qi__mtl_kv kv;\n"
    "  uint32_t n_pairs, neighbours, has_q_norm, has_k_norm;\n"
    "  float eps;\n"
    "} qi__mtl_rope;\n"
    "\n"
    "typedef struct qi__mtl_gate {\n"
    "  uint32_t n, relu2;\n"
    "} qi__mtl_gate;\n"
    "\n"
    "typedef struct qi__mtl_top {\n"
    "  uint32_t width, k;\n"
    "} qi__mtl_top;\n"
    "\n"
    "#define UNROLL _Pragma(\"clang loop unroll(full)\") // what these loops index shall be registers\n"
    "\n"
    "struct qi_op_row {\n"
    "  int token;\n"
    "  uint seq, pos, first;\n"
    "};\n"
    "\n"
    "struct qi_op_candidate {\n"
    "  float logit;\n"
    "  int token;\n"
    "};\n"
    "\n"
    "// ---- formats ----\n"
    "\n"
    "// One struct a weight format. unpack gives weights 16 u .. 16 u + 15 of a row as codes q and (scale, min): w = scale * q - min.\n"
    "// `left` is the number of weights from there to the end of the row; only formats without blocks may have less than 16.\n"
    "\n"
    "// 16 bytes at an address that is a multiple of 2.\n"
    "inline uint4 load16(device const uchar *p) {\n"
    "  device const ushort *s = (device const ushort *)p;\n"
    "  return uint4(uint(s[0]) | uint(s[1]) << 16, uint(s[2]) | uint(s[3]) << 16, uint(s[4]) | uint(s[5]) << 16,\n"
    "               uint(s[6]) | uint(s[7]) << 16);\n"
    "}\n"
    "// The same at a multiple of 16.\n"
    "inline uint4 load16_aligned(device const uchar *p) { return *(device const uint4 *)p; }\n"
    "\n"
    "// 16 bytes as codes.\n"
    "inline void codes(uint4 v, thread float4 *q) {\n"
    "  UNROLL for (short i = 0; i < 4; i++) q[i] = float4(as_type<uchar4>(v[i]));\n"
    "}\n"
    "inline void signed_codes(uint4 v, thread float4 *q) {\n"
    "  UNROLL for (short i = 0; i < 4; i++) q[i] = float4(as_type<char4>(v[i]));\n"
    "}\n"
    "inline float half_at(device const uchar *p) { return float(*(device const half *)p); }\n"
    "\n"
    "// Formats without blocks: rows are multiples of 4 weights, which are loaded together.\n"
    "struct f32 {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint left, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const float4 *w = (device const float4 *)row + 4 * u;\n"
    "    UNROLL for (short i = 0; i < 4; i++) q[i] = uint(4 * i) < left ? w[i] : float4(0.0f);\n"
    "    return float2(1.0f, 0.0f);\n"
    "  }\n"
    "};\n"
    "\n"
    "struct f16 {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint left, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const half4 *w = (device const half4 *)row + 4 * u;\n"
    "    UNROLL for (short i = 0; i < 4; i++) q[i] = uint(4 * i) < left ? float4(w[i]) : float4(0.0f);\n"
    "    return float2(1.0f, 0.0f);\n"
    "  }\n"
    "};\n"
    "\n"
    "struct bf16 { // the upper half of a float; MSL before 3.1 has no type for it\n"
    "  static float2 unpack(device const uchar *row, uint u, uint left, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const ushort4 *w = (device const ushort4 *)row + 4 * u;\n"
    "    UNROLL for (short i = 0; i < 4; i++) q[i] = uint(4 * i) < left ? as_type<float4>(uint4(w[i]) << 16) : float4(0.0f);\n"
    "    return float2(1.0f, 0.0f);\n"
    "  }\n"
    "};\n"
    "\n"
    "// 18 bytes: d, nibbles[16]: low 0..15, high 16..31. d * (q - 8)\n"
    "struct q4_0 {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const uchar *b = row + 18 * (u / 2);\n"
    "    float d = half_at(b);\n"
    "    codes(load16(b + 2) >> (u % 2 * 4) & 0x0f0f0f0fu, q);\n"
    "    return float2(d, 8.0f * d);\n"
    "  }\n"
    "};\n"
    "\n"
    "// 34 bytes: d, int8 q[32]. d * q\n"
    "struct q8_0 {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const uchar *b = row + 34 * (u / 2);\n"
    "    signed_codes(load16(b + 2 + u % 2 * 16), q);\n"
    "    return float2(half_at(b), 0.0f);\n"
    "  }\n"
    "};\n"
    "\n"
    "// (d * scale, dmin * min) of group j < 8 of a block of Q4_K or Q5_K: 0 d, 2 dmin, 4 six-bit scales and mins.\n"
    "inline float2 scales_k4(device const uchar *b, uint j) {\n"
    "  device const uchar *s = b + 4;\n"
    "  uint scale = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | uint(s[j - 4] >> 6) << 4;\n"
    "  uint min = j < 4 ? s[j + 4] & 63u : uint(s[j + 4] >> 4) | uint(s[j] >> 6) << 4;\n"
    "  return float2(half_at(b) * float(scale), half_at(b + 2) * float(min));\n"
    "}\n"
    "\n"
    "// 144 bytes: d, dmin, scales[12], 16 nibbles[128]: byte 32 c + l has weights 64 c + l and 64 c + 32 + l. d s q - dmin m\n"
    "struct q4_k {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const uchar *b = row + 144 * (u / 16);\n"
    "    uint i = u % 16;\n"
    "    codes(load16_aligned(b + 16 + i / 4 * 32 + i % 2 * 16) >> (i / 2 % 2 * 4) & 0x0f0f0f0fu, q);\n"
    "    return scales_k4(b, i / 2);\n"
    "  }\n"
    "};\n"
    "\n"
    "// 176 bytes: d, dmin, scales[12], 16 high[32], 48 nibbles[128]; bit k of high[l] belongs to weight 32 k + l.\n"
    "struct q5_k {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const uchar *b = row + 176 * (u / 16);\n"
    "    uint i = u % 16;\n"
    "    uint4 low = load16_aligned(b + 48 + i / 4 * 32 + i % 2 * 16) >> (i / 2 % 2 * 4) & 0x0f0f0f0fu;\n"
    "    uint4 high = load16_aligned(b + 16 + i % 2 * 16) >> (i / 2) & 0x01010101u;\n"
    "    codes(low | high << 4, q);\n"
    "    return scales_k4(b, i / 2);\n"
    "  }\n"
    "};\n"
    "\n"
    "// 210 bytes: nibbles[128], 128 high[64], 192 int8 scales[16], 208 d. d * s * (q - 32), see kquant.h\n"
    "struct q6_k {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const uchar *b = row + 210 * (u / 16);\n"
    "    uint i = u % 16, h = i / 8;\n"
    "    uint4 low = load16(b + 64 * h + i % 4 * 16) >> (i / 4 % 2 * 4) & 0x0f0f0f0fu;\n"
    "    uint4 high = load16(b + 128 + 32 * h + i % 2 * 16) >> (i / 2 % 4 * 2) & 0x03030303u;\n"
    "    codes(low | high << 4, q);\n"
    "    float scale = half_at(b + 208) * float(((device const char *)b)[192 + i]);\n"
    "    return float2(scale, 32.0f * scale);\n"
    "  }\n"
    "};\n"
    "\n"
    "// 66 bytes: pairs[64], d: byte 32 h + l has weights 128 h + l, + 32, + 64, + 96, lowest bits first. d * (q - 1)\n"
    "struct tq2_0 {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const uchar *b = row + 66 * (u / 16);\n"
    "    uint i = u % 16;\n"
    "    codes(load16(b + i / 8 * 32 + i % 2 * 16) >> (i / 2 % 4 * 2) & 0x03030303u, q);\n"
    "    float d = half_at(b + 64);\n"
    "    return float2(d, d);\n"
    "  }\n"
    "};\n"
    "\n"
    "// 64 bytes: as TQ2_0, highest bits first; one scale for the tensor, param[0].\n"
    "struct i2_s {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &m, thread float4 *q) {\n"
    "    uint i = u % 16;\n"
    "    codes(load16_aligned(row + 64 * (u / 16) + i / 8 * 32 + i % 2 * 16) >> (6 - i / 2 % 4 * 2) & 0x03030303u, q);\n"
    "    return float2(m.param[0], m.param[0]);\n"
    "  }\n"
    "};\n"
    "\n"
    "// 36 bytes: signs[4], codes[32]. Code c: exp(log_min + (255 - c) / 254 * (log_max - log_min)); 0: zero\n"
    "struct qins8 {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &m, thread float4 *q) {\n"
    "    device const uchar *b = row + 36 * (u / 2);\n"
    "    uint signs = *(device const uint *)b >> (u % 2 * 16);\n"
    "    float step = (m.param[1] - m.param[0]) / 254.0f;\n"
    "    codes(load16(b + 4 + u % 2 * 16), q);\n"
    "    UNROLL for (short i = 0; i < 16; i++) {\n"
    "      float c = q[i / 4][i % 4], size = c > 0.0f ? exp(m.param[0] + (255.0f - c) * step) : 0.0f;\n"
    "      q[i / 4][i % 4] = signs >> i & 1u ? -size : size;\n"
    "    }\n"
    "    return float2(1.0f, 0.0f);\n"
    "  }\n"
    "};\n"
    "\n"
    "// Group g of a block of QINS8_K or QINS4_K: the seven bits of its scale, and where its first four codes are; see qi_format.\n"
    "inline uint seven_bits(device const uchar *b, uint g) {\n"
    "  uint at = g / 8 * 72 + g % 8 * 7;\n"
    "  return (uint(b[at / 8]) | uint(b[at / 8 + 1]) << 8) >> (at % 8) & 127u;\n"
    "}\n"
    "inline float qins_d(device const uchar *b) {\n"
    "  return float(as_type<half>(ushort(uint(b[7]) | uint(b[8]) << 8))) * (1.0f / 1024.0f);\n"
    "}\n"
    "inline device const uint *turned(device const uchar *b, uint g) {\n"
    "  return (device const uint *)(b + 16 + g % 4 * 16 + g / 4 * 4);\n"
    "}\n"
    "\n"
    "constant uchar qins8_sizes[128] = {\n"
    "    0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,  15,  16,  17,  18,  20,  21,  22,\n"
    "    23,  24,  25,  27,  28,  29,  30,  32,  33,  34,  36,  37,  38,  40,  41,  42,  44,  45,  47,  48,  49,  51,\n"
    "    52,  54,  55,  57,  59,  60,  62,  63,  65,  67,  68,  70,  72,  73,  75,  77,  79,  80,  82,  84,  86,  88,\n"
    "    90,  92,  94,  96,  98,  100, 102, 104, 106, 108, 110, 112, 114, 116, 119, 121, 123, 125, 128, 130, 132, 135,\n"
    "    137, 140, 142, 145, 147, 150, 152, 155, 157, 160, 163, 165, 168, 171, 174, 177, 180, 182, 185, 188, 191, 194,\n"
    "    197, 201, 204, 207, 210, 213, 217, 220, 223, 227, 230, 233, 237, 240, 244, 248, 251, 255};\n"
    "\n"
    "// 272 bytes: s[7], 7 d, 9 s[7], 16 codes[256]: sign in bit 7. d / 2^10 * s * +-V[c]\n"
    "struct qins8_k {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const uchar *b = row + 272 * (u / 16);\n"
    "    uint i = u % 16;\n"
    "    device const uint *p = turned(b, i);\n"
    "    codes(uint4(p[0], p[16], p[32], p[48]), q);\n"
    "    UNROLL for (short j = 0; j < 16; j++) {\n"
    "      uint c = uint(q[j / 4][j % 4]);\n"
    "      float size = float(qins8_sizes[c & 127u]);\n"
    "      q[j / 4][j % 4] = c & 128u ? -size : size;\n"
    "    }\n"
    "    return float2(qins_d(b) * float(seven_bits(b, i)), 0.0f);\n"
    "  }\n"
    "};\n"
    "\n"
    "constant char qins4_values[32] = {-110, -89, -71, -54, -39, -25, -13, -1, 10, 22, 35, 50, 66, 85, 105, 127,\n"
    "                                  -101, -79, -60, -44, -30, -19, -9,  0,  9,  19, 30, 44, 60, 79, 101, 127};\n"
    "\n"
    "// 144 bytes: s[7], 7 d, 9 s[7], 16 nibbles[128]. |d| / 2^10 * s * T[sign of d][c]\n"
    "struct qins4_k {\n"
    "  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {\n"
    "    device const uchar *b = row + 144 * (u / 16);\n"
    "    uint i = u % 16, s = seven_bits(b, i), table = uint(b[8] >> 7) << 4;\n"
    "    device const uint *p = turned(b, i);\n"
    "    codes(uint4(p[0], p[0] >> 4, p[16], p[16] >> 4) & 0x0f0f0f0fu, q);\n"
    "    UNROLL for (short j = 0; j < 16; j++) q[j / 4][j % 4] = float(qins4_values[table + uint(q[j / 4][j % 4])]);\n"
    "    return float2(fabs(qins_d(b)) * (float(s & 63u) - float(s & 64u)), 0.0f);\n"
    "  }\n"
    "};\n"
    "\n"
    "// Row r of a matrix.\n"
    "inline device const uchar *row_at(device const uchar *w, constant qi__mtl_matrix &m, uint r) {\n"
    "  return w + m.skip + ulong(r) * m.row_bytes;\n"
    "}\n"
    "\n"
    "// ---- embeddings ----\n"
    "\n"
    "// y[i] = row rows[i].token of w. Grid: units of 16 weights, rows.\n"
    "template <typename F>\n"
    "kernel void embed(constant qi__mtl_matrix &m [[buffer(0)]], device const uchar *w [[buffer(1)]],\n"
    "                  device const qi_op_row *rows [[buffer(2)]], device float *y [[buffer(3)]],\n"
    "                  uint2 at [[thread_position_in_grid]]) {\n"
    "  if (16 * at.x >= m.n_cols) return;\n"
    "  float4 q[4];\n"
    "  uint left = min(m.n_cols - 16 * at.x, 16u);\n"
    "  float2 s = F::unpack(row_at(w, m, uint(rows[at.y].token)), at.x, left, m, q);\n"
    "  device float *to = y + ulong(at.y) * m.n_cols + 16 * at.x;\n"
    "  for (uint i = 0; i < left; i++) to[i] = s.x * q[i / 4][i % 4] - s.y;\n"
    "}\n"
    "\n"
    "// ---- products ----\n"
    "\n"
    "#define ROWS 4 // weight rows of a simdgroup\n"
    "\n"
    "// A lane's part of sum[r][i] = row r of the weights times row first_x + i of x, of n: 16 columns of every 512. Each sum is what it\n"
    "// is alone. Weights: ROWS rows from `first` on of a matrix (M = 1), or half of them of this and half of the other (M = 2).\n"
    "template <typename F, short N, short M>\n"
    "inline void dot_rows(constant qi__mtl_matrix &m, device const uchar *w, constant qi__mtl_matrix &other_m,\n"
    "                     device const uchar *other, device const float *x, uint first, uint first_x, ushort lane,\n"
    "                     thread float *sum) {\n"
    "  UNROLL for (short i = 0; i < ROWS * N; i++) sum[i] = 0.0f;\n"
    "  for (uint u = lane; 16 * u < m.n_cols; u += 32) {\n"
    "    float4 xs[N][4];\n"
    "    float total[N];\n"
    "    uint left = m.n_cols - 16 * u;\n"
    "    UNROLL for (short i = 0; i < N; i++) {\n"
    "      device const float4 *from = (device const float4 *)(x + ulong(min(first_x + i, m.n - 1)) * m.n_cols + 16 * u);\n"
    "      total[i] = 0.0f;\n"
    "      UNROLL for (short j = 0; j < 4; j++) {\n"
    "        xs[i][j] = uint(4 * j) < left ? from[j] : float4(0.0f);\n"
    "        total[i] += xs[i][j].x + xs[i][j].y + xs[i][j].z + xs[i][j].w;\n"
    "      }\n"
    "    }\n"
    "    UNROLL for (short r = 0; r < ROWS; r++) {\n"
    "      const bool mine = r < ROWS / M;\n"
    "      uint row = min(first + r % (ROWS / M), m.n_rows - 1);\n"
    "      float4 q[4];\n"
    "      float2 s = mine ? F::unpack(row_at(w, m, row), u, left, m, q) : F::unpack(row_at(other, other_m, row), u, left, other_m, q);\n"
    "      UNROLL for (short i = 0; i < N; i++) {\n"
    "        float part = dot(q[0], xs[i][0]) + dot(q[1], xs[i][1]) + dot(q[2], xs[i][2]) + dot(q[3], xs[i][3]);\n"
    "        sum[r * N + i] += s.x * part - s.y * total[i];\n"
    "      }\n"
    "    }\n"
    "  }\n"
    "}\n"
    "\n"
    "// y[i] = w x[i] + bias, or y[i] += that, for up to N rows of x at once. Grid: threadgroups of 2 simdgroups with ROWS rows each, N\n"
    "// rows of x.\n"
    "template <typename F, short N>\n"
    "kernel void matvec(constant qi__mtl_matrix &m [[buffer(0)]], device const uchar *w [[buffer(1)]],\n"
    "                   device const float *x [[buffer(2)]], device const float *bias [[buffer(3)]], device float *y [[buffer(4)]],\n"
    "                   uint2 at [[threadgroup_position_in_grid]], ushort lane [[thread_index_in_simdgroup]],\n"
    "                   ushort sg [[simdgroup_index_in_threadgroup]], ushort n_sg [[simdgroups_per_threadgroup]]) {\n"
    "  uint first = (at.x * n_sg + sg) * ROWS, first_x = at.y * N;\n"
    "  float sum[ROWS * N];\n"
    "  dot_rows<F, N, 1>(m, w, m, w, x, first, first_x, lane, sum);\n"
    "  UNROLL for (short r = 0; r < ROWS; r++)\n"
    "    UNROLL for (short i = 0; i < N; i++) {\n"
    "      float v = simd_sum(sum[r * N + i]);\n"
    "      if (lane != 0 || first + r >= m.n_rows || first_x + i >= m.n) continue;\n"
    "      device float *to = y + ulong(first_x + i) * m.n_rows + first + r;\n"
    "      if (m.has_bias) v += bias[first + r];\n"
    "      *to = m.add ? *to + v : v;\n"
    "    }\n"
    "}\n"
    "\n"
    "// max(v, 0)^2, or v / (1 + e^-v)\n"
    "inline float activate(float v, bool relu2) {\n"
    "  float r = max(v, 0.0f);\n"
    "  return relu2 ? r * r : v / (1.0f + exp(-v));\n"
    "}\n"
    "\n"
    "// y[i] = activate(gate x[i] + bias) * (up x[i] + bias): sums as in matvec. A simdgroup has ROWS / 2 rows of both.\n"
    "template <typename F, short N>\n"
    "kernel void gated(constant qi__mtl_gated &a [[buffer(0)]], device const uchar *gate [[buffer(1)]],\n"
    "                  device const float *x [[buffer(2)]], device const float *gate_bias [[buffer(3)]], device float *y [[buffer(4)]],\n"
    "                  device const uchar *up [[buffer(5)]], device const float *up_bias [[buffer(6)]],\n"
    "                  uint2 at [[threadgroup_position_in_grid]], ushort lane [[thread_index_in_simdgroup]],\n"
    "                  ushort sg [[simdgroup_index_in_threadgroup]], ushort n_sg [[simdgroups_per_threadgroup]]) {\n"
    "  uint first = (at.x * n_sg + sg) * (ROWS / 2), first_x = at.y * N;\n"
    "  float sum[ROWS * N];\n"
    "  dot_rows<F, N, 2>(a.gate, gate, a.up, up, x, first, first_x, lane, sum);\n"
    "  UNROLL for (short r = 0; r < ROWS / 2; r++)\n"
    "    UNROLL for (short i = 0; i < N; i++) {\n"
    "      float g = simd_sum(sum[r * N + i]), u = simd_sum(sum[(r + ROWS / 2) * N + i]);\n"
    "      if (lane != 0 || first + r >= a.gate.n_rows || first_x + i >= a.gate.n) continue;\n"
    "      if (a.gate.has_bias) g += gate_bias[first + r];\n"
    "      if (a.up.has_bias) u += up_bias[first + r];\n"
    "      y[ulong(first_x + i) * a.gate.n_rows + first + r] = activate(g, a.relu2) * u;\n"
    "    }\n"
    "}\n"
    "\n"
    "#define TILE_W 64 // weight rows of a threadgroup\n"
    "#define TILE_X 32 // rows of x\n"
    "#define TILE_K 32 // columns at a time\n"
    "\n"
    "// The same for many rows of x, on simdgroup matrices in float32. 4 simdgroups; each has 16 rows of x by 32 weight rows.\n"
    "// shared: TILE_W * TILE_K floats of weights, TILE_X * TILE_K of x; the result lies over both.\n"
    "template <typename F>\n"
    "kernel void matmul(constant qi__mtl_matrix &m [[buffer(0)]], device const uchar *w [[buffer(1)]],\n"
    "                   device const float *x [[buffer(2)]], device const float *bias [[buffer(3)]], device float *y [[buffer(4)]],\n"
    "                   threadgroup float *shared [[threadgroup(0)]], uint2 at [[threadgroup_position_in_grid]],\n"
    "                   ushort t [[thread_index_in_threadgroup]],\n"
    "                   ushort sg [[simdgroup_index_in_threadgroup]]) {\n"
    "  threadgroup float *ws = shared;\n"
    "  threadgroup float *xs = shared + TILE_W * TILE_K;\n"
    "  uint first = at.x * TILE_W, first_x = at.y * TILE_X, w_row = first + t / 2, x_row = first_x + t / 4;\n"
    "  simdgroup_float8x8 sum[2][4];\n"
    "  UNROLL for (short i = 0; i < 8; i++) sum[i / 4][i % 4] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);\n"
    "  for (uint k = 0; k < m.n_cols; k += TILE_K) {\n"
    "    uint u = k / 16 + t % 2; // 16 weights a thread\n"
    "    float4 q[4];\n"
    "    float2 s = float2(0.0f, 0.0f);\n"
    "    UNROLL for (short i = 0; i < 4; i++) q[i] = float4(0.0f);\n"
    "    if (w_row < m.n_rows && 16 * u < m.n_cols) s = F::unpack(row_at(w, m, w_row), u, m.n_cols - 16 * u, m, q);\n"
    "    threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "    threadgroup float *w_to = ws + t / 2 * TILE_K + t % 2 * 16;\n"
    "    UNROLL for (short i = 0; i < 16; i++) w_to[i] = 16 * u + i < m.n_cols ? s.x * q[i / 4][i % 4] - s.y : 0.0f;\n"
    "    UNROLL for (short i = 0; i < 8; i++) { // 8 activations a thread\n"
    "      uint col = k + t % 4 * 8 + i;\n"
    "      xs[t / 4 * TILE_K + t % 4 * 8 + i] = x_row < m.n && col < m.n_cols ? x[ulong(x_row) * m.n_cols + col] : 0.0f;\n"
    "    }\n"
    "    threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "    for (short kk = 0; kk < TILE_K; kk += 8) {\n"
    "      simdgroup_float8x8 a[2], b[4];\n"
    "      UNROLL for (short i = 0; i < 2; i++) simdgroup_load(a[i], xs + (sg / 2 * 16 + i * 8) * TILE_K + kk, TILE_K);\n"
    "      UNROLL for (short j = 0; j < 4; j++) simdgroup_load(b[j], ws + (sg % 2 * 32 + j * 8) * TILE_K + kk, TILE_K, 0, true);\n"
    "      UNROLL for (short i = 0; i < 8; i++) simdgroup_multiply_accumulate(sum[i / 4][i % 4], a[i / 4], b[i % 4], sum[i / 4][i % 4]);\n"
    "    }\n"
    "  }\n"
    "  threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "  UNROLL for (short i = 0; i < 8; i++)\n"
    "    simdgroup_store(sum[i / 4][i % 4], shared + (sg / 2 * 16 + i / 4 * 8) * TILE_W + sg % 2 * 32 + i % 4 * 8, TILE_W);\n"
    "  threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "  for (uint i = t; i < TILE_X * TILE_W; i += 128) {\n"
    "    uint row = first_x + i / TILE_W, r = first + i % TILE_W;\n"
    "    if (row >= m.n || r >= m.n_rows) continue;\n"
    "    device float *to = y + ulong(row) * m.n_rows + r;\n"
    "    float v = m.has_bias ? shared[i] + bias[r] : shared[i];\n"
    "    *to = m.add ? *to + v : v;\n"
    "  }\n"
    "}\n"
    "\n"
    "#define NAME(name) #name\n"
    "#define HOST_NAME(name) NAME(name)\n"
    "#define FORMAT(F) \\\n"
    "  template [[host_name(HOST_NAME(embed_##F))]] kernel void embed<F>(constant qi__mtl_matrix &, device const uchar *, \\\n"
    "                                                                    device const qi_op_row *, device float *, uint2); \\\n"
    "  template [[host_name(HOST_NAME(matvec1_##F))]] kernel void matvec<F, 1>( \\\n"
    "      constant qi__mtl_matrix &, device const uchar *, device const float *, device const float *, device float *, uint2, ushort, \\\n"
    "      ushort, ushort); \\\n"
    "  template [[host_name(HOST_NAME(matvec4_##F))]] kernel void matvec<F, 4>( \\\n"
    "      constant qi__mtl_matrix &, device const uchar *, device const float *, device const float *, device float *, uint2, ushort, \\\n"
    "      ushort, ushort); \\\n"
    "  template [[host_name(HOST_NAME(gated1_##F))]] kernel void gated<F, 1>( \\\n"
    "      constant qi__mtl_gated &, device const uchar *, device const float *, device const float *, device float *, \\\n"
    "      device const uchar *, device const float *, uint2, ushort, ushort, ushort); \\\n"
    "  template [[host_name(HOST_NAME(gated4_##F))]] kernel void gated<F, 4>( \\\n"
    "      constant qi__mtl_gated &, device const uchar *, device const float *, device const float *, device float *, \\\n"
    "      device const uchar *, device const float *, uint2, ushort, ushort, ushort); \\\n"
    "  template [[host_name(HOST_NAME(matmul_##F))]] kernel void matmul<F>( \\\n"
    "      constant qi__mtl_matrix &, device const uchar *, device const float *, device const float *, device float *, \\\n"
    "      threadgroup float *, uint2, ushort, ushort);\n"
    "\n"
    "FORMAT(f32)\n"
    "FORMAT(f16)\n"
    "FORMAT(bf16)\n"
    "FORMAT(q4_0)\n"
    "FORMAT(q8_0)\n"
    "FORMAT(q4_k)\n"
    "FORMAT(q5_k)\n"
    "FORMAT(q6_k)\n"
    "FORMAT(tq2_0)\n"
    "FORMAT(i2_s)\n"
    "FORMAT(qins8)\n"
    "FORMAT(qins8_k)\n"
    "FORMAT(qins4_k)\n"
    "\n"
    "// ---- vectors ----\n"
    "\n"
    "// y[i] = x[j] / sqrt(mean of the squares + eps) * weight. One threadgroup a row.\n"
    "kernel void rms_norm(constant qi__mtl_norm &a [[buffer(0)]], device const float *x [[buffer(1)]],\n"
    "                     device const uint *index [[buffer(2)]], device const float *weight [[buffer(3)]],\n"
    "                     device float *y [[buffer(4)]], uint i [[threadgroup_position_in_grid]],\n"
    "                     uint t [[thread_position_in_threadgroup]],\n"
    "                     uint n_t [[threads_per_threadgroup]], ushort lane [[thread_index_in_simdgroup]],\n"
    "                     ushort sg [[simdgroup_index_in_threadgroup]], ushort n_sg [[simdgroups_per_threadgroup]]) {\n"
    "  threadgroup float part[32];\n"
    "  device const float *from = x + ulong(a.has_index ? index[i] : i) * a.width;\n"
    "  float sum = 0.0f;\n"
    "  for (uint k = t; k < a.width; k += n_t) sum += from[k] * from[k];\n"
    "  sum = simd_sum(sum);\n"
    "  if (lane == 0) part[sg] = sum;\n"
    "  threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "  sum = simd_sum(lane < n_sg ? part[lane] : 0.0f);\n"
    "  float scale = 1.0f / sqrt(sum / float(a.width) + a.eps);\n"
    "  for (uint k = t; k < a.width; k += n_t) y[ulong(i) * a.width + k] = from[k] * scale * weight[k];\n"
    "}\n"
    "\n"
    "// y = activate(x) * up. y may be x.\n"
    "kernel void gate(constant qi__mtl_gate &a [[buffer(0)]], device const float *x [[buffer(1)]], device const float *up [[buffer(2)]],\n"
    "                 device float *y [[buffer(3)]], uint i [[thread_position_in_grid]]) {\n"
    "  if (i < a.n) y[i] = activate(x[i], a.relu2) * up[i];\n"
    "}\n"
    "\n"
    "// ---- candidates ----\n"
    "\n"
    "// A number that grows with the logit and is never 0: NaN counts as -infinity, -0 as 0. Integers, so that no way of compiling floats\n"
    "// can change the order.\n"
    "inline uint rank_of(float logit) {\n"
    "  uint u = as_type<uint>(logit);\n"
    "  if ((u & 0x7fffffffu) > 0x7f800000u) u = 0xff800000u;\n"
    "  if (u == 0x80000000u) u = 0;\n"
    "  return u >> 31 ? ~u : u | 0x80000000u;\n"
    "}\n"
    "inline float logit_of(uint rank) { return as_type<float>(rank >> 31 ? rank & 0x7fffffffu : ~rank); }\n"
    "\n"
    "// The first of tokens from, from + step, .. < n among those behind (rank, token); its rank is 0 if there is none. As (rank, token).\n"
    "inline uint2 first_behind(device const float *x, uint n, uint from, uint step, uint2 last) {\n"
    "  uint2 best = uint2(0, 0xffffffffu);\n"
    "  for (uint i = from; i < n; i += step) {\n"
    "    uint rank = rank_of(x[i]);\n"
    "    bool behind = rank < last.x || (rank == last.x && i > last.y);\n"
    "    if (behind && rank > best.x) best = uint2(rank, i);\n"
    "  }\n"
    "  return best;\n"
    "}\n"
    "\n"
    "// The first of those that the lanes of a simdgroup bring.\n"
    "inline uint2 first_of_lanes(uint2 mine) {\n"
    "  uint rank = simd_max(mine.x);\n"
    "  return uint2(rank, simd_min(mine.x == rank ? mine.y : 0xffffffffu));\n"
    "}\n"
    "\n"
    "// The first k of x in order, one after another. Thread t knows the first one left of tokens t, t + n_t, ..; the one that was taken\n"
    "// is replaced by all lanes of its simdgroup together. One threadgroup a row.\n"
    "kernel void top(constant qi__mtl_top &a [[buffer(0)]], device const float *x [[buffer(1)]],\n"
    "                device qi_op_candidate *y [[buffer(2)]], uint i [[threadgroup_position_in_grid]],\n"
    "                uint t [[thread_position_in_threadgroup]], uint n_t [[threads_per_threadgroup]],\n"
    "                ushort lane [[thread_index_in_simdgroup]], ushort sg [[simdgroup_index_in_threadgroup]],\n"
    "                ushort n_sg [[simdgroups_per_threadgroup]]) {\n"
    "  threadgroup uint2 part[2][32]; // in turn: one barrier a candidate\n"
    "  device const float *from = x + ulong(i) * a.width;\n"
    "  uint2 mine = first_behind(from, a.width, t, n_t, uint2(0xffffffffu, 0));\n"
    "  for (uint c = 0; c < a.k; c++) {\n"
    "    uint2 best = first_of_lanes(mine);\n"
    "    if (lane == 0) part[c % 2][sg] = best;\n"
    "    threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "    best = first_of_lanes(lane < n_sg ? part[c % 2][lane] : uint2(0, 0));\n"
    "    if (t == 0) {\n"
    "      y[ulong(i) * a.k + c].logit = logit_of(best.x);\n"
    "      y[ulong(i) * a.k + c].token = int(best.y);\n"
    "    }\n"
    "    uint owner = best.y % n_t;\n"
    "    if (owner / 32 != sg) continue;\n"
    "    best = first_of_lanes(first_behind(from, a.width, owner + lane * n_t, 32 * n_t, best));\n"
    "    if (lane == owner % 32) mine = best;\n"
    "  }\n"
    "}\n"
    "\n"
    "// ---- keys and values ----\n"
    "\n"
    "// One head of the page that holds position `pos`.\n"
    "inline device uchar *page_of(device uchar *pages, device const uint *table, constant qi__mtl_kv &kv, uint seq, uint pos,\n"
    "                             uint head) {\n"
    "  uint page = table[seq * kv.n_table + pos / 128];\n"
    "  return pages + (ulong(kv.first_unit + head) * kv.n_pages + page) * kv.page_bytes;\n"
    "}\n"
    "\n"
    "// One struct a type of keys and values, for positions p < 128 of a page: store by a whole simdgroup; of a lane's own\n"
    "// position the products with R queries, added to 0; an element of a value; 4 elements from i on, a multiple of 4.\n"
    "\n"
    "struct kv_f16 {\n"
    "  static void store_key(device uchar *page, constant qi__mtl_kv &kv, uint p, device const float *k, ushort lane) {\n"
    "    for (uint i = lane; i < kv.dim_k; i += 32) ((device half *)page)[(p / 16 * kv.dim_k + i) * 16 + p % 16] = half(k[i]);\n"
    "  }\n"
    "  static void store_value(device uchar *page, constant qi__mtl_kv &kv, uint p, device const float *v, ushort lane) {\n"
    "    for (uint i = lane; i < kv.dim_v; i += 32) ((device half *)(page + kv.v))[p * kv.dim_v + i] = half(v[i]);\n"
    "  }\n"
    "  template <short R>\n"
    "  static void scores(device const uchar *page, constant qi__mtl_kv &kv, uint p, device const float *q, thread float *score) {\n"
    "    device const half *k = (device const half *)page + p / 16 * kv.dim_k * 16 + p % 16;\n"
    "    for (uint i = 0; i < kv.dim_k; i++) {\n"
    "      float x = float(k[16 * i]);\n"
    "      UNROLL for (short r = 0; r < R; r++) score[r] += q[r * kv.dim_k + i] * x;\n"
    "    }\n"
    "  }\n"
    "  static float value(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {\n"
    "    return float(((device const half *)(page + kv.v))[p * kv.dim_v + i]);\n"
    "  }\n"
    "  static float4 key4(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {\n"
    "    device const half *k = (device const half *)page + (p / 16 * kv.dim_k + i) * 16 + p % 16;\n"
    "    return float4(float(k[0]), float(k[16]), float(k[32]), float(k[48]));\n"
    "  }\n"
    "  static float4 value4(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {\n"
    "    return float4(((device const half4 *)(page + kv.v))[(p * kv.dim_v + i) / 4]);\n"
    "  }\n"
    "};\n"
    "\n"
    "// Code of a lane's element of a group, and the scale of the group.\n"
    "inline char quantize(float x, thread float &scale) {\n"
    "  float max = simd_max(fabs(x));\n"
    "  scale = max / 127.0f;\n"
    "  return char(max > 0.0f ? rint(x * (127.0f / max)) : 0.0f);\n"
    "}\n"
    "\n"
    "struct kv_q8 {\n"
    "  static void store_key(device uchar *page, constant qi__mtl_kv &kv, uint p, device const float *k, ushort lane) {\n"
    "    uint groups = (kv.dim_k + 31) / 32;\n"
    "    for (uint g = 0; g < groups; g++) {\n"
    "      float scale;\n"
    "      char c = quantize(32 * g + lane < kv.dim_k ? k[32 * g + lane] : 0.0f, scale);\n"
    "      uint at = p / 16 * groups + g;\n"
    "      ((device char *)page)[(at * 8 + lane / 4) * 64 + p % 16 * 4 + lane % 4] = c;\n"
    "      if (lane == 0) ((device half *)(page + kv.k_scale))[at * 16 + p % 16] = half(scale);\n"
    "    }\n"
    "  }\n"
    "  static void store_value(device uchar *page, constant qi__mtl_kv &kv, uint p, device const float *v, ushort lane) {\n"
    "    for (uint g = 0; g < (kv.dim_v + 31) / 32; g++) {\n"
    "      float scale;\n"
    "      char c = quantize(32 * g + lane < kv.dim_v ? v[32 * g + lane] : 0.0f, scale);\n"
    "      ((device char *)(page + kv.v))[(g * 64 + p / 2) * 64 + lane * 2 + p % 2] = c;\n"
    "      if (lane == 0) ((device half *)(page + kv.v_scale))[g * 128 + p] = half(scale);\n"
    "    }\n"
    "  }\n"
    "  template <short R>\n"
    "  static void scores(device const uchar *page, constant qi__mtl_kv &kv, uint p, device const float *q, thread float *score) {\n"
    "    uint groups = (kv.dim_k + 31) / 32;\n"
    "    for (uint g = 0; g < groups; g++) {\n"
    "      uint at = p / 16 * groups + g;\n"
    "      device const char4 *k = (device const char4 *)page + at * 128 + p % 16;\n"
    "      float scale = float(((device const half *)(page + kv.k_scale))[at * 16 + p % 16]), part[R];\n"
    "      UNROLL for (short r = 0; r < R; r++) part[r] = 0.0f;\n"
    "      for (uint i = 32 * g; i < min(32 * g + 32, kv.dim_k); i += 4) {\n"
    "        float4 x = float4(k[i % 32 * 4]);\n"
    "        UNROLL for (short r = 0; r < R; r++) part[r] += dot(x, *(device const float4 *)(q + r * kv.dim_k + i));\n"
    "      }\n"
    "      UNROLL for (short r = 0; r < R; r++) score[r] += part[r] * scale;\n"
    "    }\n"
    "  }\n"
    "  static float value(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {\n"
    "    float c = float(((device const char *)(page + kv.v))[(i / 32 * 64 + p / 2) * 64 + i % 32 * 2 + p % 2]);\n"
    "    return c * float(((device const half *)(page + kv.v_scale))[i / 32 * 128 + p]);\n"
    "  }\n"
    "  static float4 key4(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {\n"
    "    uint at = p / 16 * ((kv.dim_k + 31) / 32) + i / 32;\n"
    "    float4 c = float4(((device const char4 *)page)[at * 128 + i % 32 * 4 + p % 16]);\n"
    "    return c * float(((device const half *)(page + kv.k_scale))[at * 16 + p % 16]);\n"
    "  }\n"
    "  static float4 value4(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {\n"
    "    device const char *c = (device const char *)(page + kv.v) + (i / 32 * 64 + p / 2) * 64 + i % 32 * 2 + p % 2;\n"
    "    float scale = float(((device const half *)(page + kv.v_scale))[i / 32 * 128 + p]);\n"
    "    return float4(float(c[0]), float(c[2]), float(c[4]), float(c[6])) * scale;\n"
    "  }\n"
    "};\n"
    "\n"
    "// A head normed and rotated in place. Each lane reads and writes its own pairs, and its own elements behind them.\n"
    "inline void rotate(device float *x, constant qi__mtl_rope &a, bool has_norm, device const float *norm, device const float *cos_sin,\n"
    "                   ushort lane) {\n"
    "  uint step = a.neighbours ? 2 : 1, other = a.neighbours ? 1 : a.n_pairs;\n"
    "  float scale = 1.0f, sum = 0.0f;\n"
    "  if (has_norm) {\n"
    "    for (uint p = lane; p < a.n_pairs; p += 32) sum += x[p * step] * x[p * step] + x[p * step + other] * x[p * step + other];\n"
    "    for (uint i = 2 * a.n_pairs + lane; i < a.kv.dim_k; i += 32) sum += x[i] * x[i];\n"
    "    scale = 1.0f / sqrt(simd_sum(sum) / float(a.kv.dim_k) + a.eps);\n"
    "  }\n"
    "  for (uint p = lane; p < a.n_pairs; p += 32) {\n"
    "    uint i = p * step, j = i + other;\n"
    "    float u = has_norm ? x[i] * scale * norm[i] : x[i], v = has_norm ? x[j] * scale * norm[j] : x[j];\n"
    "    float c = cos_sin[2 * p], s = cos_sin[2 * p + 1];\n"
    "    x[i] = u * c - v * s;\n"
    "    x[j] = u * s + v * c;\n"
    "  }\n"
    "  if (!has_norm) return;\n"
    "  for (uint i = 2 * a.n_pairs + lane; i < a.kv.dim_k; i += 32) x[i] = x[i] * scale * norm[i];\n"
    "}\n"
    "\n"
    "// Queries and keys rotated; keys and values to their pages. One simdgroup a head of q, then of k, then of v; rows.\n"
    "template <typename KV>\n"
    "kernel void rope(constant qi__mtl_rope &a [[buffer(0)]], device const qi_op_row *rows [[buffer(1)]],\n"
    "                 device const float *cos_sin [[buffer(2)]], device const float *q_norm [[buffer(3)]],\n"
    "                 device const float *k_norm [[buffer(4)]], device float *q [[buffer(5)]], device float *k [[buffer(6)]],\n"
    "                 device const float *v [[buffer(7)]], device const uint *table [[buffer(8)]], device uchar *pages [[buffer(9)]],\n"
    "                 uint2 at [[threadgroup_position_in_grid]], ushort lane [[thread_index_in_simdgroup]]) {\n"
    "  constant qi__mtl_kv &kv = a.kv;\n"
    "  uint i = at.y, pos = rows[i].pos, seq = rows[i].seq;\n"
    "  device const float *angles = cos_sin + ulong(i) * 2 * a.n_pairs;\n"
    "  if (at.x < kv.n_heads) {\n"
    "    rotate(q + (ulong(i) * kv.n_heads + at.x) * kv.dim_k, a, a.has_q_norm, q_norm, angles, lane);\n"
    "  } else if (at.x < kv.n_heads + kv.n_kv_heads) {\n"
    "    uint head = at.x - kv.n_heads;\n"
    "    device float *x = k + (ulong(i) * kv.n_kv_heads + head) * kv.dim_k;\n"
    "    rotate(x, a, a.has_k_norm, k_norm, angles, lane);\n"
    "    simdgroup_barrier(mem_flags::mem_device);\n"
    "    KV::store_key(page_of(pages, table, kv, seq, pos, head), kv, pos % 128, x, lane);\n"
    "  } else {\n"
    "    uint head = at.x - kv.n_heads - kv.n_kv_heads;\n"
    "    device const float *x = v + (ulong(i) * kv.n_kv_heads + head) * kv.dim_v;\n"
    "    KV::store_value(page_of(pages, table, kv, seq, pos, head), kv, pos % 128, x, lane);\n"
    "  }\n"
    "}\n"
    "\n"
    "// ---- attention of generated rows ----\n"
    "\n"
    "// y = softmax(q k / sqrt(dim_k)) v over positions rows[i].first .. pos, each read once (flash attention). A threadgroup has R heads\n"
    "// of a row that share keys and values; its simdgroups take 32 positions in turn, a lane one position of keys, then N elements of\n"
    "// values: lane, lane + 32, ... Each head has the sums that it has alone.\n"
    "// shared: for each simdgroup and head 32 N values, greatest score, sum of weights.\n"
    "template <typename KV, short N, short R>\n"
    "kernel void attention(constant qi__mtl_kv &kv [[buffer(0)]], device const qi_op_row *rows [[buffer(1)]],\n"
    "                      device const float *q [[buffer(2)]], device float *y [[buffer(3)]], device const uint *table [[buffer(4)]],\n"
    "                      device uchar *pages [[buffer(5)]], threadgroup float *shared [[threadgroup(0)]],\n"
    "                      uint2 at [[threadgroup_position_in_grid]], ushort t [[thread_index_in_threadgroup]],\n"
    "                      ushort lane [[thread_index_in_simdgroup]], ushort sg [[simdgroup_index_in_threadgroup]],\n"
    "                      ushort n_sg [[simdgroups_per_threadgroup]]) {\n"
    "  const uint stride = 32 * N + 2;\n"
    "  uint head = at.x * R, kv_head = head / (kv.n_heads / kv.n_kv_heads);\n"
    "  uint seq = rows[at.y].seq, pos = rows[at.y].pos, first = rows[at.y].first;\n"
    "  device const float *query = q + (ulong(at.y) * kv.n_heads + head) * kv.dim_k;\n"
    "  float scale = 1.0f / sqrt(float(kv.dim_k)), greatest[R], total[R], sum[R][N];\n"
    "  UNROLL for (short r = 0; r < R; r++) {\n"
    "    greatest[r] = -1e30f;\n"
    "    total[r] = 0.0f;\n"
    "    UNROLL for (short i = 0; i < N; i++) sum[r][i] = 0.0f;\n"
    "  }\n"
    "  for (uint begin = (first / 32 + sg) * 32; begin <= pos; begin += 32 * n_sg) {\n"
    "    device const uchar *page = page_of(pages, table, kv, seq, begin, kv_head);\n"
    "    uint p = begin % 128, from = begin < first ? first - begin : 0, to = min(pos - begin, 31u);\n"
    "    bool seen = lane >= from && lane <= to;\n"
    "    float weight[R];\n"
    "    UNROLL for (short r = 0; r < R; r++) weight[r] = 0.0f;\n"
    "    if (seen) KV::template scores<R>(page, kv, p + lane, query, weight);\n"
    "    UNROLL for (short r = 0; r < R; r++) {\n"
    "      float score = seen ? weight[r] * scale : -1e30f, most = max(greatest[r], simd_max(score)), keep = exp(greatest[r] - most);\n"
    "      weight[r] = seen ? exp(score - most) : 0.0f;\n"
    "      total[r] = total[r] * keep + simd_sum(weight[r]);\n"
    "      greatest[r] = most;\n"
    "      UNROLL for (short i = 0; i < N; i++) sum[r][i] *= keep;\n"
    "    }\n"
    "    for (uint j = from; j <= to; j++) {\n"
    "      float one[R];\n"
    "      UNROLL for (short r = 0; r < R; r++) one[r] = simd_shuffle(weight[r], ushort(j));\n"
    "      UNROLL for (short i = 0; i < N; i++) {\n"
    "        if (32u * i + lane >= kv.dim_v) continue;\n"
    "        float value = KV::value(page, kv, p + j, 32u * i + lane);\n"
    "        UNROLL for (short r = 0; r < R; r++) sum[r][i] += one[r] * value;\n"
    "      }\n"
    "    }\n"
    "  }\n"
    "  UNROLL for (short r = 0; r < R; r++) {\n"
    "    threadgroup float *part = shared + (sg * R + r) * stride;\n"
    "    UNROLL for (short i = 0; i < N; i++) part[32 * i + lane] = sum[r][i];\n"
    "    if (lane == 0) {\n"
    "      part[32 * N] = greatest[r];\n"
    "      part[32 * N + 1] = total[r];\n"
    "    }\n"
    "  }\n"
    "  threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "  for (uint e = t; e < R * kv.dim_v; e += 32 * n_sg) {\n"
    "    threadgroup const float *part = shared + e / kv.dim_v * stride;\n"
    "    float most = -1e30f, weights = 0.0f, v = 0.0f;\n"
    "    for (ushort s = 0; s < n_sg; s++) most = max(most, part[s * R * stride + 32 * N]);\n"
    "    for (ushort s = 0; s < n_sg; s++) {\n"
    "      float keep = exp(part[s * R * stride + 32 * N] - most);\n"
    "      weights += keep * part[s * R * stride + 32 * N + 1];\n"
    "      v += keep * part[s * R * stride + e % kv.dim_v];\n"
    "    }\n"
    "    y[(ulong(at.y) * kv.n_heads + head) * kv.dim_v + e] = v / weights;\n"
    "  }\n"
    "}\n"
    "\n"
    "// ---- attention of prompts ----\n"
    "\n"
    "#define TILE_P 16           // positions at a time\n"
    "#define STRIDE (32 * N + 4) // floats from one position to the next in threadgroup memory\n"
    "#define AREA (8 * TILE_P + 64) // floats of a simdgroup: weights [8][TILE_P], then a matrix [8][8]\n"
    "\n"
    "// TILE_P keys or values from position p of a page on, as float32 [TILE_P][STRIDE]; zeros from the n-th on, and up to a multiple\n"
    "// of 8 behind the last element. By 128 threads, of which neighbours read what lies side by side. Values are made finite: they are\n"
    "// multiplied by weights of all queries of a tile, and those that do not see them have weight 0.\n"
    "template <typename KV, short N, bool KEYS>\n"
    "inline void stage(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint n, threadgroup float *to, uint t) {\n"
    "  const uint dim = KEYS ? kv.dim_k : kv.dim_v;\n"
    "  for (uint e = t; e < TILE_P * 8 * N; e += 128) {\n"
    "    uint j = KEYS ? e % TILE_P : e / (8 * N), i = 4 * (KEYS ? e / TILE_P : e % (8 * N));\n"
    "    if (i >= (dim + 7) / 8 * 8) continue;\n"
    "    float4 x = float4(0.0f);\n"
    "    if (j < n && i < dim) x = KEYS ? KV::key4(page, kv, p + j, i) : KV::value4(page, kv, p + j, i);\n"
    "    UNROLL for (short k = 0; k < 4 && !KEYS; k++) x[k] = x[k] == x[k] ? clamp(x[k], -65504.0f, 65504.0f) : 0.0f;\n"
    "    *(threadgroup float4 *)(to + j * STRIDE + i) = x;\n"
    "  }\n"
    "}\n"
    "\n"
    "// Eight queries of dim elements, scaled, to matrices of 8 elements each. query: the lane's, number lane / 4; zeros if it is not\n"
    "// there.\n"
    "template <short N>\n"
    "inline void load_queries(device const float *query, bool there, uint dim, threadgroup float *matrix,\n"
    "                         thread simdgroup_float8x8 *q, ushort lane) {\n"
    "  float scale = 1.0f / sqrt(float(dim));\n"
    "  UNROLL for (short j = 0; j < 4 * N; j++) {\n"
    "    if (8u * j >= dim) continue;\n"
    "    UNROLL for (short i = 0; i < 2; i++) {\n"
    "      uint e = 8 * j + lane % 4 * 2 + i;\n"
    "      matrix[2 * lane + i] = there && e < dim ? query[e] * scale : 0.0f;\n"
    "    }\n"
    "    simdgroup_barrier(mem_flags::mem_threadgroup);\n"
    "    simdgroup_load(q[j], matrix, 8);\n"
    "    simdgroup_barrier(mem_flags::mem_threadgroup);\n"
    "  }\n"
    "}\n"
    "\n"
    "// weights = q keys: [8][TILE_P]\n"
    "template <short N>\n"
    "inline void tile_scores(thread simdgroup_float8x8 *q, uint dim, threadgroup const float *keys, threadgroup float *weights) {\n"
    "  simdgroup_float8x8 score[2], k;\n"
    "  UNROLL for (short h = 0; h < 2; h++) score[h] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);\n"
    "  UNROLL for (short j = 0; j < 4 * N; j++) {\n"
    "    if (8u * j >= dim) continue;\n"
    "    UNROLL for (short h = 0; h < 2; h++) {\n"
    "      simdgroup_load(k, keys + 8 * h * STRIDE + 8 * j, STRIDE, 0, true);\n"
    "      simdgroup_multiply_accumulate(score[h], q[j], k, score[h]);\n"
    "    }\n"
    "  }\n"
    "  UNROLL for (short h = 0; h < 2; h++) simdgroup_store(score[h], weights + 8 * h, TILE_P);\n"
    "  simdgroup_barrier(mem_flags::mem_threadgroup);\n"
    "}\n"
    "\n"
    "// sum = keep sum + weights values, keep being that of the lane's query. A query that does not see these positions keeps its bits.\n"
    "template <short N>\n"
    "inline void tile_values(thread simdgroup_float8x8 *sum, float keep, uint dim, threadgroup const float *values,\n"
    "                        threadgroup const float *weights, threadgroup float *matrix, ushort lane) {\n"
    "  simdgroup_float8x8 w[2], v;\n"
    "  bool shrinks = simd_min(keep) < 1.0f;\n"
    "  UNROLL for (short h = 0; h < 2; h++) simdgroup_load(w[h], weights + 8 * h, TILE_P);\n"
    "  UNROLL for (short j = 0; j < 4 * N; j++) {\n"
    "    if (8u * j >= dim) continue;\n"
    "    if (shrinks) {\n"
    "      simdgroup_store(sum[j], matrix, 8);\n"
    "      simdgroup_barrier(mem_flags::mem_threadgroup);\n"
    "      UNROLL for (short i = 0; i < 2; i++) matrix[2 * lane + i] *= keep;\n"
    "      simdgroup_barrier(mem_flags::mem_threadgroup);\n"
    "      simdgroup_load(sum[j], matrix, 8);\n"
    "      simdgroup_barrier(mem_flags::mem_threadgroup);\n"
    "    }\n"
    "    UNROLL for (short h = 0; h < 2; h++) {\n"
    "      simdgroup_load(v, values + 8 * h * STRIDE + 8 * j, STRIDE);\n"
    "      simdgroup_multiply_accumulate(sum[j], w[h], v, sum[j]);\n"
    "    }\n"
    "  }\n"
    "}\n"
    "\n"
    "// What a lane knows of its query: it sees positions first..last; its greatest score so far, and its share of the sum of weights.\n"
    "struct softmax {\n"
    "  uint first, last;\n"
    "  float greatest, total;\n"
    "};\n"
    "\n"
    "// Scores of positions p.. to weights: of the lane's query those at lane % 4 * 4. Returns what the sums so far shrink by.\n"
    "inline float tile_weights(thread softmax &s, uint p, threadgroup float *weights, ushort lane) {\n"
    "  threadgroup float *w = weights + 4 * lane;\n"
    "  float most = s.greatest, total = 0.0f;\n"
    "  p += lane % 4 * 4;\n"
    "  UNROLL for (short i = 0; i < 4; i++)\n"
    "    if (p + i >= s.first && p + i <= s.last) most = max(most, w[i]);\n"
    "  most = max(most, simd_shuffle_xor(most, 1));\n"
    "  most = max(most, simd_shuffle_xor(most, 2));\n"
    "  UNROLL for (short i = 0; i < 4; i++) {\n"
    "    w[i] = p + i >= s.first && p + i <= s.last ? exp(w[i] - most) : 0.0f;\n"
    "    total += w[i];\n"
    "  }\n"
    "  float keep = exp(s.greatest - most);\n"
    "  s.total = s.total * keep + total;\n"
    "  s.greatest = most;\n"
    "  return keep;\n"
    "}\n"
    "\n"
    "// The same for prompts, on simdgroup matrices: keys and values are read once for 32 queries. Those of a group of heads that share\n"
    "// keys and values are numbered row by row; 4 simdgroups have 8 of them each. Neighbouring rows of one sequence are seen to\n"
    "// together, then the next ones; what is computed for others meanwhile has weight 0. Grid: heads of keys, 32 queries each.\n"
    "// shared: [TILE_P][STRIDE] of keys, then of values; AREA of each simdgroup.\n"
    "template <typename KV, short N>\n"
    "kernel void attention_tile(constant qi__mtl_kv &kv [[buffer(0)]], device const qi_op_row *rows [[buffer(1)]],\n"
    "                           device const float *q [[buffer(2)]], device float *y [[buffer(3)]],\n"
    "                           device const uint *table [[buffer(4)]], device uchar *pages [[buffer(5)]],\n"
    "                           threadgroup float *shared [[threadgroup(0)]], uint2 at [[threadgroup_position_in_grid]],\n"
    "                           ushort t [[thread_index_in_threadgroup]], ushort lane [[thread_index_in_simdgroup]],\n"
    "                           ushort sg [[simdgroup_index_in_threadgroup]]) {\n"
    "  const uint group = kv.n_heads / kv.n_kv_heads, n = kv.n * group, own = 32 * at.y + 8 * sg + lane / 4;\n"
    "  const uint row = min(own, n - 1) / group, head = row * kv.n_heads + at.x * group + min(own, n - 1) % group;\n"
    "  threadgroup float *weights = shared + TILE_P * STRIDE + sg * AREA;\n"
    "  threadgroup float *matrix = weights + 8 * TILE_P;\n"
    "  simdgroup_float8x8 queries[4 * N], sum[4 * N];\n"
    "  UNROLL for (short j = 0; j < 4 * N; j++) sum[j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);\n"
    "  load_queries<N>(q + ulong(head) * kv.dim_k, own < n, kv.dim_k, matrix, queries, lane);\n"
    "  softmax s;\n"
    "  s.greatest = -1e30f;\n"
    "  s.total = 0.0f;\n"
    "  uint last_row = min(32 * at.y + 31, n - 1) / group, next;\n"
    "  for (uint r = 32 * at.y / group; r <= last_row; r = next) {\n"
    "    uint seq = rows[r].seq, begin = rows[r].first, end = rows[r].pos;\n"
    "    for (next = r + 1; next <= last_row && rows[next].seq == seq; next++) {\n"
    "      begin = min(begin, rows[next].first);\n"
    "      end = max(end, rows[next].pos);\n"
    "    }\n"
    "    bool here = own < n && row >= r && row < next;\n"
    "    s.first = here ? rows[row].first : 1;\n"
    "    s.last = here ? rows[row].pos : 0;\n"
    "    for (uint p = begin / TILE_P * TILE_P; p <= end; p += TILE_P) {\n"
    "      device const uchar *page = page_of(pages, table, kv, seq, p, at.x);\n"
    "      threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "      stage<KV, N, true>(page, kv, p % 128, end + 1 - p, shared, t);\n"
    "      threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "      tile_scores<N>(queries, kv.dim_k, shared, weights);\n"
    "      float keep = tile_weights(s, p, weights, lane);\n"
    "      threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "      stage<KV, N, false>(page, kv, p % 128, end + 1 - p, shared, t);\n"
    "      threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "      tile_values<N>(sum, keep, kv.dim_v, shared, weights, matrix, lane);\n"
    "    }\n"
    "  }\n"
    "  float total = s.total + simd_shuffle_xor(s.total, 1);\n"
    "  total += simd_shuffle_xor(total, 2);\n"
    "  UNROLL for (short j = 0; j < 4 * N; j++) {\n"
    "    if (8u * j >= kv.dim_v) continue;\n"
    "    simdgroup_store(sum[j], matrix, 8);\n"
    "    simdgroup_barrier(mem_flags::mem_threadgroup);\n"
    "    UNROLL for (short i = 0; i < 2; i++) {\n"
    "      uint e = 8 * j + lane % 4 * 2 + i;\n"
    "      if (own < n && e < kv.dim_v) y[ulong(head) * kv.dim_v + e] = matrix[2 * lane + i] / total;\n"
    "    }\n"
    "    simdgroup_barrier(mem_flags::mem_threadgroup);\n"
    "  }\n"
    "}\n"
    "\n"
    "#define ATTENTION(KV, N, R) \\\n"
    "  template [[host_name(HOST_NAME(attention##N##x##R##_##KV))]] kernel void attention<KV, N, R>( \\\n"
    "      constant qi__mtl_kv &, device const qi_op_row *, device const float *, device float *, device const uint *, device uchar *, \\\n"
    "      threadgroup float *, uint2, ushort, ushort, ushort, ushort);\n"
    "#define ATTENTION_TILE(KV, N) \\\n"
    "  template [[host_name(HOST_NAME(attention_tile##N##_##KV))]] kernel void attention_tile<KV, N>( \\\n"
    "      constant qi__mtl_kv &, device const qi_op_row *, device const float *, device float *, device const uint *, device uchar *, \\\n"
    "      threadgroup float *, uint2, ushort, ushort, ushort);\n"
    "#define KV_TYPE(KV) \\\n"
    "  template [[host_name(HOST_NAME(rope_##KV))]] kernel void rope<KV>( \\\n"
    "      constant qi__mtl_rope &, device const qi_op_row *, device const float *, device const float *, device const float *, \\\n"
    "      device float *, device float *, device const float *, device const uint *, device uchar *, uint2, ushort); \\\n"
    "  ATTENTION(KV, 1, 1) \\\n"
    "  ATTENTION(KV, 2, 1) \\\n"
    "  ATTENTION(KV, 4, 1) \\\n"
    "  ATTENTION(KV, 8, 1) \\\n"
    "  ATTENTION(KV, 1, 4) \\\n"
    "  ATTENTION(KV, 2, 4) \\\n"
    "  ATTENTION(KV, 4, 4) \\\n"
    "  ATTENTION(KV, 8, 4) \\\n"
    "  ATTENTION_TILE(KV, 1) \\\n"
    "  ATTENTION_TILE(KV, 2) \\\n"
    "  ATTENTION_TILE(KV, 4) \\\n"
    "  ATTENTION_TILE(KV, 8)\n"
    "\n"
    "KV_TYPE(kv_f16)\n"
    "KV_TYPE(kv_q8)\n"
    ;

#if __has_feature(objc_arc)
#define QI__RETAIN(x) (x)
#define QI__RELEASE(x) ((x) = nil)
#else
#define QI__RETAIN(x) [(x) retain]
#define QI__RELEASE(x) ([(x) release], (x) = nil)
#endif

// ---- pipelines ----

// Weight formats and what their kernels ask of an address.
static const struct {
  qi_format format;
  const char *name;
  size_t align;
} qi__mtl_formats[] = {
    {QI_FORMAT_F32, "f32", 16},     {QI_FORMAT_F16, "f16", 8},        {QI_FORMAT_BF16, "bf16", 8},
    {QI_FORMAT_Q4_0, "q4_0", 2},    {QI_FORMAT_Q8_0, "q8_0", 2},      {QI_FORMAT_Q4_K, "q4_k", 16},
    {QI_FORMAT_Q5_K, "q5_k", 16},   {QI_FORMAT_Q6_K, "q6_k", 2},      {QI_FORMAT_TQ2_0, "tq2_0", 2},
    {QI_FORMAT_I2_S, "i2_s", 16},   {QI_FORMAT_QINS8, "qins8", 4},    {QI_FORMAT_QINS8_K, "qins8_k", 16},
    {QI_FORMAT_QINS4_K, "qins4_k", 16},
};
#define QI__MTL_FORMATS (sizeof qi__mtl_formats / sizeof qi__mtl_formats[0])

// Kernels by slot: those of a format, those of a type of keys and values, the rest.
enum { QI__MTL_EMBED, QI__MTL_MATVEC, QI__MTL_GATED = QI__MTL_MATVEC + 2, QI__MTL_MATMUL = QI__MTL_GATED + 2, QI__MTL_OF_FORMAT };
// Attention: of one head, of 4, of tiles; each for heads of up to 32, 64, 128, 256.
enum { QI__MTL_ROPE, QI__MTL_ATTENTION, QI__MTL_OF_KV = QI__MTL_ATTENTION + 12 };
static const char *const qi__mtl_of_format[QI__MTL_OF_FORMAT] = {"embed_%s",  "matvec1_%s", "matvec4_%s",
                                                                 "gated1_%s", "gated4_%s",  "matmul_%s"};
static const char *const qi__mtl_of_kv[QI__MTL_OF_KV] = {
    "rope_%s",
    "attention1x1_%s",    "attention2x1_%s",    "attention4x1_%s",    "attention8x1_%s",
    "attention1x4_%s",    "attention2x4_%s",    "attention4x4_%s",    "attention8x4_%s",
    "attention_tile1_%s", "attention_tile2_%s", "attention_tile4_%s", "attention_tile8_%s",
};
static const char *const qi__mtl_kv_types[2] = {"kv_f16", "kv_q8"};
static const char *const qi__mtl_others[] = {"rms_norm", "gate", "top"};
enum {
  QI__MTL_FIRST_KV = QI__MTL_FORMATS * QI__MTL_OF_FORMAT,
  QI__MTL_NORM = QI__MTL_FIRST_KV + 2 * QI__MTL_OF_KV,
  QI__MTL_GATE,
  QI__MTL_TOP,
  QI__MTL_PIPELINES
};
#define QI__MTL_NONE (-1)

static void qi__mtl_name(int slot, char name[32]) {
  int kv = slot - QI__MTL_FIRST_KV;
  if (slot >= QI__MTL_NORM) snprintf(name, 32, "%s", qi__mtl_others[slot - QI__MTL_NORM]);
  else if (kv >= 0) snprintf(name, 32, qi__mtl_of_kv[kv % QI__MTL_OF_KV], qi__mtl_kv_types[kv / QI__MTL_OF_KV]);
  else snprintf(name, 32, qi__mtl_of_format[slot % QI__MTL_OF_FORMAT], qi__mtl_formats[slot / QI__MTL_OF_FORMAT].name);
}

// ---- device and queue ----

#define QI__MTL_RANGES 256
#define QI__MTL_BLOCKS 4

// Memory of the host that the device sees as a buffer.
typedef struct qi__mtl_range {
  uintptr_t begin, end;
  uintptr_t base; // what the buffer begins with; at or before `begin`
  id<MTLBuffer> buffer;
} qi__mtl_range;

typedef struct qi__mtl_device {
  qi_allocator allocator;
  id<MTLDevice> device;
  id<MTLLibrary> library;
  pthread_mutex_t mutex; // of pipelines
  id<MTLComputePipelineState> pipelines[QI__MTL_PIPELINES]; // nil = not made yet
  qi__mtl_range ranges[QI__MTL_RANGES];
  size_t n_ranges;
  uint64_t mapped;
  char name[64];
} qi__mtl_device;

typedef struct qi__mtl_queue {
  qi__mtl_device *device;
  id<MTLCommandQueue> queue;
  id<MTLCommandBuffer> pending; // submitted
  qi__mtl_range blocks[QI__MTL_BLOCKS]; // of alloc; a session has one
} qi__mtl_queue;

static qi_result qi__mtl_fail(qi_error *err, qi_result code, const char *what, NSError *why) {
  if (err) {
    err->code = code;
    snprintf(err->msg, sizeof err->msg, "metal: %s%s%s", what, why ? ": " : "", why ? why.localizedDescription.UTF8String : "");
  }
  return code;
}

// The pipeline of a slot, made when it is asked for first; nil: it cannot be had.
static id<MTLComputePipelineState> qi__mtl_pipeline(qi__mtl_device *d, int slot, qi_error *err) {
  char name[32];
  qi__mtl_name(slot, name);
  pthread_mutex_lock(&d->mutex);
  if (!d->pipelines[slot]) {
    @autoreleasepool {
      NSError *why = nil;
      NSString *text = [[NSString alloc] initWithUTF8String:name];
      id<MTLFunction> function = [d->library newFunctionWithName:text];
      if (function) d->pipelines[slot] = [d->device newComputePipelineStateWithFunction:function error:&why];
      if (!d->pipelines[slot]) qi__mtl_fail(err, QI_ERR_DEVICE, name, why);
      QI__RELEASE(function);
      QI__RELEASE(text);
    }
  }
  id<MTLComputePipelineState> pipeline = d->pipelines[slot];
  pthread_mutex_unlock(&d->mutex);
  return pipeline;
}

static void qi__mtl_close(void *device) {
  qi__mtl_device *d = (qi__mtl_device *)device;
  qi_allocator allocator = d->allocator;
  for (size_t i = 0; i < d->n_ranges; i++) QI__RELEASE(d->ranges[i].buffer);
  for (int i = 0; i < QI__MTL_PIPELINES; i++) QI__RELEASE(d->pipelines[i]);
  QI__RELEASE(d->library);
  QI__RELEASE(d->device);
  pthread_mutex_destroy(&d->mutex);
  allocator.free(d, sizeof *d, allocator.user);
}

// Finds the GPU and compiles the shaders for it.
static qi_result qi__mtl_start(qi__mtl_device *d, qi_error *err) {
  NSError *why = nil;
  d->device = MTLCreateSystemDefaultDevice();
  if (!d->device) return qi__mtl_fail(err, QI_ERR_UNSUPPORTED, "there is no Metal device", nil);
  if (![d->device supportsFamily:MTLGPUFamilyApple7])
    return qi__mtl_fail(err, QI_ERR_UNSUPPORTED, "the GPU is older than family Apple 7 (M1)", nil);
  snprintf(d->name, sizeof d->name, "%s", d->device.name.UTF8String);
  MTLCompileOptions *options = [MTLCompileOptions new];
  NSString *source = [[NSString alloc] initWithUTF8String:qi__mtl_source];
  options.languageVersion = MTLLanguageVersion2_4;
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wdeprecated-declarations" // mathMode instead of it needs macOS 15
  options.fastMathEnabled = NO; // exp and division as on the CPU; the kernels wait for memory, not for these
#pragma clang diagnostic pop
  d->library = [d->device newLibraryWithSource:source options:options error:&why];
  QI__RELEASE(source);
  QI__RELEASE(options);
  return d->library ? QI_OK : qi__mtl_fail(err, QI_ERR_DEVICE, "shaders", why);
}

static qi_result qi__mtl_open(void *user, const qi_allocator *allocator, void **device, qi_error *err) {
  qi__mtl_device *d = (qi__mtl_device *)allocator->alloc(sizeof *d, 64, allocator->user);
  qi_result r;
  (void)user;
  if (!d) return qi__mtl_fail(err, QI_ERR_OOM, "the allocator gave nothing", nil);
  memset((void *)d, 0, sizeof *d);
  d->allocator = *allocator;
  pthread_mutex_init(&d->mutex, NULL);
  @autoreleasepool {
    r = qi__mtl_start(d, err);
  }
  if (r) qi__mtl_close(d);
  else *device = d;
  return r;
}

static const char *qi__mtl_device_name(const void *device) { return ((const qi__mtl_device *)device)->name; }

// ---- memory ----

static uintptr_t qi__mtl_page(void) { return (uintptr_t)getpagesize(); }

// Two pages are lost to rounding.
static size_t qi__mtl_map_limit(const void *device) {
  const qi__mtl_device *d = (const qi__mtl_device *)device;
  return (size_t)d->device.maxBufferLength - 2 * qi__mtl_page();
}

// A buffer of the same memory, in whole pages; nil where the system will not (memory that malloc has put together, say).
NS_RETURNS_RETAINED static id<MTLBuffer> qi__mtl_share(const qi__mtl_device *d, uintptr_t data, size_t size, uintptr_t *base) {
  uintptr_t page = qi__mtl_page(), end = (data + size + page - 1) / page * page;
  *base = data / page * page;
  return [d->device newBufferWithBytesNoCopy:(void *)*base
                                      length:end - *base
                                     options:MTLResourceStorageModeShared
                                 deallocator:nil];
}

// A buffer with a copy, aligned as the memory is.
NS_RETURNS_RETAINED static id<MTLBuffer> qi__mtl_copy(const qi__mtl_device *d, uintptr_t data, size_t size, uintptr_t *base) {
  *base = data / 16 * 16;
  id<MTLBuffer> buffer = [d->device newBufferWithLength:data - *base + size options:MTLResourceStorageModeShared];
  if (buffer) memcpy((char *)buffer.contents + (data - *base), (const void *)data, size);
  return buffer;
}

static qi_result qi__mtl_map(void *device, const void *data, size_t size, qi_error *err) {
  qi__mtl_device *d = (qi__mtl_device *)device;
  uintptr_t begin = (uintptr_t)data, base;
  if (d->n_ranges == QI__MTL_RANGES) return qi__mtl_fail(err, QI_ERR_LIMIT, "weights lie in too many places", nil);
  if (d->mapped + size > d->device.recommendedMaxWorkingSetSize)
    return qi__mtl_fail(err, QI_ERR_OOM, "the weights are more than the GPU can hold", nil);
  id<MTLBuffer> buffer = qi__mtl_share(d, begin, size, &base);
  if (!buffer) buffer = qi__mtl_copy(d, begin, size, &base);
  if (!buffer) return qi__mtl_fail(err, QI_ERR_OOM, "no buffer for weights", nil);
  d->mapped += size;
  d->ranges[d->n_ranges].begin = begin;
  d->ranges[d->n_ranges].end = begin + size;
  d->ranges[d->n_ranges].base = base;
  d->ranges[d->n_ranges++].buffer = buffer;
  return QI_OK;
}

static qi_result qi__mtl_queue_open(void *device, void **queue, qi_error *err) {
  qi__mtl_device *d = (qi__mtl_device *)device;
  qi__mtl_queue *q = (qi__mtl_queue *)d->allocator.alloc(sizeof *q, 64, d->allocator.user);
  if (!q) return qi__mtl_fail(err, QI_ERR_OOM, "the allocator gave nothing", nil);
  memset((void *)q, 0, sizeof *q);
  q->device = d;
  q->queue = [d->device newCommandQueue];
  if (q->queue) {
    *queue = q;
    return QI_OK;
  }
  d->allocator.free(q, sizeof *q, d->allocator.user);
  return qi__mtl_fail(err, QI_ERR_DEVICE, "no command queue", nil);
}

static void qi__mtl_queue_close(void *queue) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  qi_allocator allocator = q->device->allocator;
  QI__RELEASE(q->queue);
  allocator.free(q, sizeof *q, allocator.user);
}

static void *qi__mtl_alloc(void *queue, size_t size) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  qi__mtl_range *r = q->blocks;
  while (r < q->blocks + QI__MTL_BLOCKS && r->buffer) r++;
  if (r == q->blocks + QI__MTL_BLOCKS) return NULL;
  r->buffer = [q->device->device newBufferWithLength:size options:MTLResourceStorageModeShared];
  if (!r->buffer) return NULL;
  r->begin = r->base = (uintptr_t)r->buffer.contents;
  r->end = r->begin + size;
  return r->buffer.contents;
}

static void qi__mtl_free(void *queue, void *data, size_t size) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  (void)size;
  for (size_t i = 0; i < QI__MTL_BLOCKS; i++) {
    if (q->blocks[i].begin != (uintptr_t)data) continue;
    QI__RELEASE(q->blocks[i].buffer);
    q->blocks[i].begin = q->blocks[i].end = 0;
  }
}

// ---- encoding ----

// A list of operations on its way into a command buffer.
typedef struct qi__mtl_encoder {
  qi__mtl_queue *queue;
  __unsafe_unretained id<MTLComputeCommandEncoder> encoder;
  qi_error *err;
  bool failed;
} qi__mtl_encoder;

// The buffer that p lies in; NULL = none.
static const qi__mtl_range *qi__mtl_find(const qi__mtl_queue *q, uintptr_t p) {
  for (size_t i = 0; i < QI__MTL_BLOCKS; i++)
    if (p >= q->blocks[i].begin && p < q->blocks[i].end) return &q->blocks[i];
  for (size_t i = 0; i < q->device->n_ranges; i++)
    if (p >= q->device->ranges[i].begin && p < q->device->ranges[i].end) return &q->device->ranges[i];
  return NULL;
}

// Binds memory from `data` on, or from the last multiple of `align` before it, and returns how many bytes those are. `other` stands
// in for a NULL that the kernel does not look at.
static uint32_t qi__mtl_bind(qi__mtl_encoder *e, const void *data, const void *other, uintptr_t align, NSUInteger index) {
  uintptr_t p = (uintptr_t)(data ? data : other);
  const qi__mtl_range *r = qi__mtl_find(e->queue, p);
  if (!r) {
    qi__mtl_fail(e->err, QI_ERR_DEVICE, "an operation on memory that was not mapped", nil);
    e->failed = true;
    return 0;
  }
  uintptr_t offset = p - r->base, rest = offset % align;
  [e->encoder setBuffer:r->buffer offset:offset - rest atIndex:index];
  return (uint32_t)rest;
}

static void qi__mtl_bind_vector(qi__mtl_encoder *e, const void *data, NSUInteger index) { qi__mtl_bind(e, data, NULL, 4, index); }

// Makes a pipeline the encoder's; threads: as many of `want` as a threadgroup of it may have, in whole simdgroups. 0: failed.
static NSUInteger qi__mtl_use(qi__mtl_encoder *e, int slot, NSUInteger want) {
  id<MTLComputePipelineState> pipeline = qi__mtl_pipeline(e->queue->device, slot, e->err);
  if (!pipeline) {
    e->failed = true;
    return 0;
  }
  [e->encoder setComputePipelineState:pipeline];
  NSUInteger most = pipeline.maxTotalThreadsPerThreadgroup / 32 * 32;
  return want < most ? want : most;
}

static void qi__mtl_dispatch(qi__mtl_encoder *e, size_t x, size_t y, NSUInteger threads) {
  if (e->failed) return;
  [e->encoder dispatchThreadgroups:MTLSizeMake(x, y, 1) threadsPerThreadgroup:MTLSizeMake(threads, 1, 1)];
}

static int qi__mtl_format_slot(qi_format format, int kernel) {
  for (size_t i = 0; i < QI__MTL_FORMATS; i++)
    if (qi__mtl_formats[i].format == format) return (int)i * QI__MTL_OF_FORMAT + kernel;
  return QI__MTL_NONE;
}

static int qi__mtl_kv_slot(const qi_op_kv *kv, int kernel) {
  if (kv->type != QI_KV_F16 && kv->type != QI_KV_Q8) return QI__MTL_NONE;
  return QI__MTL_FIRST_KV + (kv->type == QI_KV_Q8 ? QI__MTL_OF_KV : 0) + kernel;
}

static qi__mtl_matrix qi__mtl_matrix_of(const qi_op_matrix *w, size_t n) {
  qi__mtl_matrix m;
  memset(&m, 0, sizeof m);
  m.n_rows = (uint32_t)w->n_rows;
  m.n_cols = (uint32_t)w->n_cols;
  m.row_bytes = (uint32_t)w->row_bytes;
  m.param[0] = w->param[0];
  m.param[1] = w->param[1];
  m.n = (uint32_t)n;
  m.has_bias = w->bias != NULL;
  return m;
}

static qi__mtl_kv qi__mtl_kv_of(const qi_op_kv *kv, size_t n_heads, size_t n) {
  qi__mtl_kv a = {(uint32_t)(kv->layer * kv->n_kv_heads), (uint32_t)kv->n_pages, (uint32_t)kv->page_bytes, (uint32_t)kv->n_table,
                  (uint32_t)n_heads, (uint32_t)kv->n_kv_heads, (uint32_t)kv->dim_k, (uint32_t)kv->dim_v,
                  (uint32_t)kv->k_scale, (uint32_t)kv->v, (uint32_t)kv->v_scale, (uint32_t)n};
  return a;
}

static void qi__mtl_encode_embed(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_matrix *w = &op->of.embed.w;
  qi__mtl_matrix m = qi__mtl_matrix_of(w, op->n);
  NSUInteger threads = qi__mtl_use(e, slot, 64);
  if (!threads) return;
  m.skip = qi__mtl_bind(e, w->data, NULL, 16, 1);
  [e->encoder setBytes:&m length:sizeof m atIndex:0];
  qi__mtl_bind_vector(e, op->of.embed.rows, 2);
  qi__mtl_bind_vector(e, op->of.embed.y, 3);
  qi__mtl_dispatch(e, (w->n_cols + 16 * threads - 1) / (16 * threads), op->n, threads);
}

// Rows of x that a kernel of generated rows takes at a time.
static size_t qi__mtl_at_once(size_t n) { return n > 1 ? 4 : 1; }

// Generated rows: up to 4 at a time over each weight row. Prompts: tiles. Sizes as in kernels.metal.
static void qi__mtl_encode_product(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_matrix *w = &op->of.product.w;
  qi__mtl_matrix m = qi__mtl_matrix_of(w, op->n);
  bool tiles = !op->of.product.generated;
  size_t rows = tiles ? 32 : qi__mtl_at_once(op->n);
  NSUInteger threads = qi__mtl_use(e, slot, tiles ? 128 : 64);
  if (!threads) return;
  m.add = op->of.product.add;
  m.skip = qi__mtl_bind(e, w->data, NULL, 16, 1);
  [e->encoder setBytes:&m length:sizeof m atIndex:0];
  qi__mtl_bind_vector(e, op->of.product.x, 2);
  qi__mtl_bind(e, w->bias, op->of.product.x, 4, 3);
  qi__mtl_bind_vector(e, op->of.product.y, 4);
  if (tiles) [e->encoder setThreadgroupMemoryLength:(64 + 32) * 32 * sizeof(float) atIndex:0];
  size_t w_rows = tiles ? 64 : threads / 32 * 4;
  qi__mtl_dispatch(e, (w->n_rows + w_rows - 1) / w_rows, (op->n + rows - 1) / rows, threads);
}

static void qi__mtl_encode_gated(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_matrix *gate = &op->of.gated.gate, *up = &op->of.gated.up;
  qi__mtl_gated a = {qi__mtl_matrix_of(gate, op->n), qi__mtl_matrix_of(up, op->n), op->of.gated.relu2};
  NSUInteger threads = qi__mtl_use(e, slot, 64);
  if (!threads) return;
  a.gate.skip = qi__mtl_bind(e, gate->data, NULL, 16, 1);
  a.up.skip = qi__mtl_bind(e, up->data, NULL, 16, 5);
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.gated.x, 2);
  qi__mtl_bind(e, gate->bias, op->of.gated.x, 4, 3);
  qi__mtl_bind_vector(e, op->of.gated.y, 4);
  qi__mtl_bind(e, up->bias, op->of.gated.x, 4, 6);
  size_t rows = qi__mtl_at_once(op->n), w_rows = threads / 32 * 2;
  qi__mtl_dispatch(e, (gate->n_rows + w_rows - 1) / w_rows, (op->n + rows - 1) / rows, threads);
}

static void qi__mtl_encode_norm(qi__mtl_encoder *e, const qi_op *op, int slot) {
  qi__mtl_norm a = {(uint32_t)op->of.norm.width, op->of.norm.index != NULL, op->of.norm.eps};
  NSUInteger threads = qi__mtl_use(e, slot, 256);
  if (!threads) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.norm.x, 1);
  qi__mtl_bind(e, op->of.norm.index, op->of.norm.x, 4, 2);
  qi__mtl_bind_vector(e, op->of.norm.weight, 3);
  qi__mtl_bind_vector(e, op->of.norm.y, 4);
  qi__mtl_dispatch(e, op->n, 1, threads);
}

static void qi__mtl_encode_rope(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_kv *kv = &op->of.rope.kv;
  qi__mtl_rope a = {qi__mtl_kv_of(kv, op->of.rope.n_heads, op->n), (uint32_t)op->of.rope.n_pairs, op->of.rope.neighbours,
                    op->of.rope.q_norm != NULL, op->of.rope.k_norm != NULL, op->of.rope.eps};
  if (!qi__mtl_use(e, slot, 32)) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.rope.rows, 1);
  qi__mtl_bind_vector(e, op->of.rope.cos_sin, 2);
  qi__mtl_bind(e, op->of.rope.q_norm, op->of.rope.cos_sin, 4, 3);
  qi__mtl_bind(e, op->of.rope.k_norm, op->of.rope.cos_sin, 4, 4);
  qi__mtl_bind_vector(e, op->of.rope.q, 5);
  qi__mtl_bind_vector(e, op->of.rope.k, 6);
  qi__mtl_bind_vector(e, op->of.rope.v, 7);
  qi__mtl_bind_vector(e, kv->table, 8);
  qi__mtl_bind_vector(e, kv->data, 9);
  qi__mtl_dispatch(e, op->of.rope.n_heads + 2 * kv->n_kv_heads, op->n, 32);
}

// Heads that a threadgroup of attention of generated rows has: several spare reading keys and values again, but for few rows there
// would be too few threadgroups.
static size_t qi__mtl_heads(const qi_op *op) {
  size_t group = op->of.attention.n_heads / op->of.attention.kv.n_kv_heads;
  return op->n >= 8 && group % 4 == 0 ? 4 : 1;
}

// Heads are up to 32 << this wide.
static int qi__mtl_width(const qi_op_kv *kv) {
  size_t dim = kv->dim_k > kv->dim_v ? kv->dim_k : kv->dim_v;
  return dim <= 32 ? 0 : dim <= 64 ? 1 : dim <= 128 ? 2 : 3;
}

static void qi__mtl_encode_attention(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_kv *kv = &op->of.attention.kv;
  qi__mtl_kv a = qi__mtl_kv_of(kv, op->of.attention.n_heads, op->n);
  size_t n_heads = op->of.attention.n_heads, heads = qi__mtl_heads(op), wide = (size_t)32 << qi__mtl_width(kv);
  NSUInteger threads = qi__mtl_use(e, slot, 128); // always: sums depend on it
  if (!threads) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.attention.rows, 1);
  qi__mtl_bind_vector(e, op->of.attention.q, 2);
  qi__mtl_bind_vector(e, op->of.attention.y, 3);
  qi__mtl_bind_vector(e, kv->table, 4);
  qi__mtl_bind_vector(e, kv->data, 5);
  bool tiles = !op->of.attention.generated;
  NSUInteger floats = tiles ? 16 * (wide + 4) + threads / 32 * (8 * 16 + 64) : threads / 32 * heads * (wide + 2);
  [e->encoder setThreadgroupMemoryLength:(floats * sizeof(float) + 15) / 16 * 16 atIndex:0];
  if (tiles) qi__mtl_dispatch(e, kv->n_kv_heads, (op->n * (n_heads / kv->n_kv_heads) + 31) / 32, threads);
  else qi__mtl_dispatch(e, n_heads / heads, op->n, threads);
}

static void qi__mtl_encode_gate(qi__mtl_encoder *e, const qi_op *op, int slot) {
  qi__mtl_gate a = {(uint32_t)(op->n * op->of.gate.width), op->kind == QI_OP_RELU2};
  NSUInteger threads = qi__mtl_use(e, slot, 256);
  if (!threads) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.gate.x, 1);
  qi__mtl_bind_vector(e, op->of.gate.up, 2);
  qi__mtl_bind_vector(e, op->of.gate.y, 3);
  qi__mtl_dispatch(e, (a.n + threads - 1) / threads, 1, threads);
}

static void qi__mtl_encode_top(qi__mtl_encoder *e, const qi_op *op, int slot) {
  qi__mtl_top a = {(uint32_t)op->of.top.width, (uint32_t)op->of.top.k};
  NSUInteger threads = qi__mtl_use(e, slot, 1024);
  if (!threads) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.top.x, 1);
  qi__mtl_bind_vector(e, op->of.top.y, 2);
  qi__mtl_dispatch(e, op->n, 1, threads);
}

static void (*const qi__mtl_encode[QI_OP_COUNT])(qi__mtl_encoder *e, const qi_op *op, int slot) = {
    qi__mtl_encode_embed, qi__mtl_encode_norm, qi__mtl_encode_product, qi__mtl_encode_rope,
    qi__mtl_encode_attention, qi__mtl_encode_gate, qi__mtl_encode_gate, qi__mtl_encode_gated, qi__mtl_encode_top,
};

// The pipeline that an operation takes; QI__MTL_NONE where there is no kernel for it.
static int qi__mtl_slot(const qi_op *op) {
  const qi_op_kv *kv = &op->of.attention.kv;
  int attention;
  switch (op->kind) {
  case QI_OP_EMBED: return qi__mtl_format_slot(op->of.embed.w.format, QI__MTL_EMBED);
  case QI_OP_PRODUCT:
    return qi__mtl_format_slot(op->of.product.w.format,
                               op->of.product.generated ? QI__MTL_MATVEC + (op->n > 1) : QI__MTL_MATMUL);
  case QI_OP_GATED: return qi__mtl_format_slot(op->of.gated.gate.format, QI__MTL_GATED + (op->n > 1));
  case QI_OP_ROPE: return qi__mtl_kv_slot(&op->of.rope.kv, QI__MTL_ROPE);
  case QI_OP_ATTENTION:
    attention = !op->of.attention.generated ? 8 : qi__mtl_heads(op) == 4 ? 4 : 0;
    return qi__mtl_kv_slot(kv, QI__MTL_ATTENTION + attention + qi__mtl_width(kv));
  case QI_OP_RMS_NORM: return QI__MTL_NORM;
  case QI_OP_SWIGLU:
  case QI_OP_RELU2: return QI__MTL_GATE;
  case QI_OP_TOP: return QI__MTL_TOP;
  case QI_OP_COUNT: break;
  }
  return QI__MTL_NONE;
}

// Whether weights lie as the kernels of their format want them.
static bool qi__mtl_fits(const qi_op_matrix *w) {
  for (size_t i = 0; i < QI__MTL_FORMATS; i++)
    if (qi__mtl_formats[i].format == w->format)
      return w->n_cols % 4 == 0 && ((uintptr_t)w->data | w->row_bytes) % qi__mtl_formats[i].align == 0;
  return false;
}

static bool qi__mtl_supports(const void *device, const qi_op *op) {
  const qi_op_kv *kv = op->kind == QI_OP_ROPE ? &op->of.rope.kv : &op->of.attention.kv;
  int slot = qi__mtl_slot(op);
  if (slot == QI__MTL_NONE) return false;
  if (op->kind == QI_OP_EMBED && !qi__mtl_fits(&op->of.embed.w)) return false;
  if (op->kind == QI_OP_PRODUCT && !qi__mtl_fits(&op->of.product.w)) return false;
  if (op->kind == QI_OP_GATED && !(qi__mtl_fits(&op->of.gated.gate) && qi__mtl_fits(&op->of.gated.up))) return false;
  bool prompt = op->kind == QI_OP_PRODUCT && !op->of.product.generated;
  bool heads = op->kind == QI_OP_ROPE || op->kind == QI_OP_ATTENTION;
  if (heads && (kv->dim_k % 4 || kv->dim_v % 4 || kv->dim_k > 256 || kv->dim_v > 256)) return false;
  @autoreleasepool { // ARC autoreleases what a function returns
    id<MTLComputePipelineState> pipeline = qi__mtl_pipeline((qi__mtl_device *)(uintptr_t)device, slot, NULL);
    return pipeline && pipeline.maxTotalThreadsPerThreadgroup >= (prompt || op->kind == QI_OP_ATTENTION ? 128 : 32);
  }
}

// ---- submissions ----

// Whether an operation needs nothing of what the one before it writes: products of the same x; attention of prompts and of others.
static bool qi__mtl_beside(const qi_op *last, const qi_op *op) {
  if (last->kind == QI_OP_ATTENTION && op->kind == QI_OP_ATTENTION)
    return last->of.attention.generated != op->of.attention.generated;
  return last->kind == QI_OP_PRODUCT && op->kind == QI_OP_PRODUCT && op->of.product.y != last->of.product.y &&
         (op->of.product.x == last->of.product.x || last->of.product.generated != op->of.product.generated) &&
         op->of.product.x != last->of.product.y;
}

static qi_result qi__mtl_submit(void *queue, const qi_op *ops, size_t n, qi_error *err) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  qi__mtl_encoder e = {q, nil, err, false};
  @autoreleasepool {
    id<MTLCommandBuffer> commands = [q->queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
    if (!encoder) return qi__mtl_fail(err, QI_ERR_DEVICE, "no command buffer", nil);
    e.encoder = encoder;
    for (size_t i = 0; i < n && !e.failed; i++) {
      if (i && !qi__mtl_beside(&ops[i - 1], &ops[i])) [encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
      qi__mtl_encode[ops[i].kind](&e, &ops[i], qi__mtl_slot(&ops[i]));
    }
    [encoder endEncoding];
    if (e.failed) return QI_ERR_DEVICE;
    [commands commit];
    q->pending = QI__RETAIN(commands);
  }
  return QI_OK;
}

static qi_result qi__mtl_wait(void *queue, qi_error *err) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  qi_result r = QI_OK;
  if (!q->pending) return QI_OK; // submit failed
  @autoreleasepool {
    [q->pending waitUntilCompleted];
    if (q->pending.status != MTLCommandBufferStatusCompleted)
      r = qi__mtl_fail(err, QI_ERR_DEVICE, "the GPU did not finish", q->pending.error);
    QI__RELEASE(q->pending);
  }
  return r;
}

const qi_backend *qi_metal(void) {
  static const qi_backend backend = {
      "metal",     NULL,        qi__mtl_open,       qi__mtl_close,       qi__mtl_device_name, qi__mtl_supports, qi__mtl_map_limit,
      qi__mtl_map, qi__mtl_queue_open, qi__mtl_queue_close, qi__mtl_alloc, qi__mtl_free, qi__mtl_submit, qi__mtl_wait,
  };
  return &backend;
}
