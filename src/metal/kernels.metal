// Shaders of qinfer. Operations are those of qi_op_kind in qinfer.h, layouts those of qi_op_matrix and qi_op_kv.
//
// Written for every version of the compiler since MSL 2.4: an address space on each pointer, one threadgroup variable a
// declaration, constructors instead of casts, finite masks. 32 lanes a simdgroup.
#include <metal_stdlib>
using namespace metal;

#include "args.inc"

#define UNROLL _Pragma("clang loop unroll(full)") // what these loops index shall be registers

struct qi_op_row {
  int token;
  uint seq, pos, first;
};

struct qi_op_candidate {
  float logit;
  int token;
};

// ---- formats ----

// One struct a weight format. unpack gives weights 16 u .. 16 u + 15 of a row as codes q and (scale, min): w = scale * q - min.
// `left` is the number of weights from there to the end of the row; only formats without blocks may have less than 16.

// 16 bytes at an address that is a multiple of 2.
inline uint4 load16(device const uchar *p) {
  device const ushort *s = (device const ushort *)p;
  return uint4(uint(s[0]) | uint(s[1]) << 16, uint(s[2]) | uint(s[3]) << 16, uint(s[4]) | uint(s[5]) << 16,
               uint(s[6]) | uint(s[7]) << 16);
}
// The same at a multiple of 16.
inline uint4 load16_aligned(device const uchar *p) { return *(device const uint4 *)p; }

// 16 bytes as codes.
inline void codes(uint4 v, thread float4 *q) {
  UNROLL for (short i = 0; i < 4; i++) q[i] = float4(as_type<uchar4>(v[i]));
}
inline void signed_codes(uint4 v, thread float4 *q) {
  UNROLL for (short i = 0; i < 4; i++) q[i] = float4(as_type<char4>(v[i]));
}
inline float half_at(device const uchar *p) { return float(*(device const half *)p); }

// Formats without blocks: rows are multiples of 4 weights, which are loaded together.
struct f32 {
  static float2 unpack(device const uchar *row, uint u, uint left, constant qi__mtl_matrix &, thread float4 *q) {
    device const float4 *w = (device const float4 *)row + 4 * u;
    UNROLL for (short i = 0; i < 4; i++) q[i] = uint(4 * i) < left ? w[i] : float4(0.0f);
    return float2(1.0f, 0.0f);
  }
};

struct f16 {
  static float2 unpack(device const uchar *row, uint u, uint left, constant qi__mtl_matrix &, thread float4 *q) {
    device const half4 *w = (device const half4 *)row + 4 * u;
    UNROLL for (short i = 0; i < 4; i++) q[i] = uint(4 * i) < left ? float4(w[i]) : float4(0.0f);
    return float2(1.0f, 0.0f);
  }
};

struct bf16 { // the upper half of a float; MSL before 3.1 has no type for it
  static float2 unpack(device const uchar *row, uint u, uint left, constant qi__mtl_matrix &, thread float4 *q) {
    device const ushort4 *w = (device const ushort4 *)row + 4 * u;
    UNROLL for (short i = 0; i < 4; i++) q[i] = uint(4 * i) < left ? as_type<float4>(uint4(w[i]) << 16) : float4(0.0f);
    return float2(1.0f, 0.0f);
  }
};

// 18 bytes: d, nibbles[16]: low 0..15, high 16..31. d * (q - 8)
struct q4_0 {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {
    device const uchar *b = row + 18 * (u / 2);
    float d = half_at(b);
    codes(load16(b + 2) >> (u % 2 * 4) & 0x0f0f0f0fu, q);
    return float2(d, 8.0f * d);
  }
};

// 34 bytes: d, int8 q[32]. d * q
struct q8_0 {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {
    device const uchar *b = row + 34 * (u / 2);
    signed_codes(load16(b + 2 + u % 2 * 16), q);
    return float2(half_at(b), 0.0f);
  }
};

// (d * scale, dmin * min) of group j < 8 of a block of Q4_K or Q5_K: 0 d, 2 dmin, 4 six-bit scales and mins.
inline float2 scales_k4(device const uchar *b, uint j) {
  device const uchar *s = b + 4;
  uint scale = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | uint(s[j - 4] >> 6) << 4;
  uint min = j < 4 ? s[j + 4] & 63u : uint(s[j + 4] >> 4) | uint(s[j] >> 6) << 4;
  return float2(half_at(b) * float(scale), half_at(b + 2) * float(min));
}

// 144 bytes: d, dmin, scales[12], 16 nibbles[128]: byte 32 c + l has weights 64 c + l and 64 c + 32 + l. d s q - dmin m
struct q4_k {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {
    device const uchar *b = row + 144 * (u / 16);
    uint i = u % 16;
    codes(load16_aligned(b + 16 + i / 4 * 32 + i % 2 * 16) >> (i / 2 % 2 * 4) & 0x0f0f0f0fu, q);
    return scales_k4(b, i / 2);
  }
};

// 176 bytes: d, dmin, scales[12], 16 high[32], 48 nibbles[128]; bit k of high[l] belongs to weight 32 k + l.
struct q5_k {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {
    device const uchar *b = row + 176 * (u / 16);
    uint i = u % 16;
    uint4 low = load16_aligned(b + 48 + i / 4 * 32 + i % 2 * 16) >> (i / 2 % 2 * 4) & 0x0f0f0f0fu;
    uint4 high = load16_aligned(b + 16 + i % 2 * 16) >> (i / 2) & 0x01010101u;
    codes(low | high << 4, q);
    return scales_k4(b, i / 2);
  }
};

// 210 bytes: nibbles[128], 128 high[64], 192 int8 scales[16], 208 d. d * s * (q - 32), see kquant.h
struct q6_k {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {
    device const uchar *b = row + 210 * (u / 16);
    uint i = u % 16, h = i / 8;
    uint4 low = load16(b + 64 * h + i % 4 * 16) >> (i / 4 % 2 * 4) & 0x0f0f0f0fu;
    uint4 high = load16(b + 128 + 32 * h + i % 2 * 16) >> (i / 2 % 4 * 2) & 0x03030303u;
    codes(low | high << 4, q);
    float scale = half_at(b + 208) * float(((device const char *)b)[192 + i]);
    return float2(scale, 32.0f * scale);
  }
};

// 66 bytes: pairs[64], d: byte 32 h + l has weights 128 h + l, + 32, + 64, + 96, lowest bits first. d * (q - 1)
struct tq2_0 {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {
    device const uchar *b = row + 66 * (u / 16);
    uint i = u % 16;
    codes(load16(b + i / 8 * 32 + i % 2 * 16) >> (i / 2 % 4 * 2) & 0x03030303u, q);
    float d = half_at(b + 64);
    return float2(d, d);
  }
};

// 64 bytes: as TQ2_0, highest bits first; one scale for the tensor, param[0].
struct i2_s {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &m, thread float4 *q) {
    uint i = u % 16;
    codes(load16_aligned(row + 64 * (u / 16) + i / 8 * 32 + i % 2 * 16) >> (6 - i / 2 % 4 * 2) & 0x03030303u, q);
    return float2(m.param[0], m.param[0]);
  }
};

// 36 bytes: signs[4], codes[32]. Code c: exp(log_min + (255 - c) / 254 * (log_max - log_min)); 0: zero
struct qins8 {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &m, thread float4 *q) {
    device const uchar *b = row + 36 * (u / 2);
    uint signs = *(device const uint *)b >> (u % 2 * 16);
    float step = (m.param[1] - m.param[0]) / 254.0f;
    codes(load16(b + 4 + u % 2 * 16), q);
    UNROLL for (short i = 0; i < 16; i++) {
      float c = q[i / 4][i % 4], size = c > 0.0f ? exp(m.param[0] + (255.0f - c) * step) : 0.0f;
      q[i / 4][i % 4] = signs >> i & 1u ? -size : size;
    }
    return float2(1.0f, 0.0f);
  }
};

// Group g of a block of QINS8_K or QINS4_K: the seven bits of its scale, and where its first four codes are; see qi_format.
inline uint seven_bits(device const uchar *b, uint g) {
  uint at = g / 8 * 72 + g % 8 * 7;
  return (uint(b[at / 8]) | uint(b[at / 8 + 1]) << 8) >> (at % 8) & 127u;
}
inline float qins_d(device const uchar *b) {
  return float(as_type<half>(ushort(uint(b[7]) | uint(b[8]) << 8))) * (1.0f / 1024.0f);
}
inline device const uint *turned(device const uchar *b, uint g) {
  return (device const uint *)(b + 16 + g % 4 * 16 + g / 4 * 4);
}

constant uchar qins8_sizes[128] = {
    0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,  15,  16,  17,  18,  20,  21,  22,
    23,  24,  25,  27,  28,  29,  30,  32,  33,  34,  36,  37,  38,  40,  41,  42,  44,  45,  47,  48,  49,  51,
    52,  54,  55,  57,  59,  60,  62,  63,  65,  67,  68,  70,  72,  73,  75,  77,  79,  80,  82,  84,  86,  88,
    90,  92,  94,  96,  98,  100, 102, 104, 106, 108, 110, 112, 114, 116, 119, 121, 123, 125, 128, 130, 132, 135,
    137, 140, 142, 145, 147, 150, 152, 155, 157, 160, 163, 165, 168, 171, 174, 177, 180, 182, 185, 188, 191, 194,
    197, 201, 204, 207, 210, 213, 217, 220, 223, 227, 230, 233, 237, 240, 244, 248, 251, 255};

// 272 bytes: s[7], 7 d, 9 s[7], 16 codes[256]: sign in bit 7. d / 2^10 * s * +-V[c]
struct qins8_k {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {
    device const uchar *b = row + 272 * (u / 16);
    uint i = u % 16;
    device const uint *p = turned(b, i);
    codes(uint4(p[0], p[16], p[32], p[48]), q);
    UNROLL for (short j = 0; j < 16; j++) {
      uint c = uint(q[j / 4][j % 4]);
      float size = float(qins8_sizes[c & 127u]);
      q[j / 4][j % 4] = c & 128u ? -size : size;
    }
    return float2(qins_d(b) * float(seven_bits(b, i)), 0.0f);
  }
};

constant char qins4_values[32] = {-110, -89, -71, -54, -39, -25, -13, -1, 10, 22, 35, 50, 66, 85, 105, 127,
                                  -101, -79, -60, -44, -30, -19, -9,  0,  9,  19, 30, 44, 60, 79, 101, 127};

// 144 bytes: s[7], 7 d, 9 s[7], 16 nibbles[128]. |d| / 2^10 * s * T[sign of d][c]
struct qins4_k {
  static float2 unpack(device const uchar *row, uint u, uint, constant qi__mtl_matrix &, thread float4 *q) {
    device const uchar *b = row + 144 * (u / 16);
    uint i = u % 16, s = seven_bits(b, i), table = uint(b[8] >> 7) << 4;
    device const uint *p = turned(b, i);
    codes(uint4(p[0], p[0] >> 4, p[16], p[16] >> 4) & 0x0f0f0f0fu, q);
    UNROLL for (short j = 0; j < 16; j++) q[j / 4][j % 4] = float(qins4_values[table + uint(q[j / 4][j % 4])]);
    return float2(fabs(qins_d(b)) * (float(s & 63u) - float(s & 64u)), 0.0f);
  }
};

// Row r of a matrix.
inline device const uchar *row_at(device const uchar *w, constant qi__mtl_matrix &m, uint r) {
  return w + m.skip + ulong(r) * m.row_bytes;
}

// ---- embeddings ----

// y[i] = row rows[i].token of w. Grid: units of 16 weights, rows.
template <typename F>
kernel void embed(constant qi__mtl_matrix &m [[buffer(0)]], device const uchar *w [[buffer(1)]],
                  device const qi_op_row *rows [[buffer(2)]], device float *y [[buffer(3)]],
                  uint2 at [[thread_position_in_grid]]) {
  if (16 * at.x >= m.n_cols) return;
  float4 q[4];
  uint left = min(m.n_cols - 16 * at.x, 16u);
  float2 s = F::unpack(row_at(w, m, uint(rows[at.y].token)), at.x, left, m, q);
  device float *to = y + ulong(at.y) * m.n_cols + 16 * at.x;
  for (uint i = 0; i < left; i++) to[i] = s.x * q[i / 4][i % 4] - s.y;
}

// ---- products ----

#define ROWS 4 // weight rows of a simdgroup

// A lane's part of sum[r][i] = row r of the weights times row first_x + i of x, of n: 16 columns of every 512. Each sum is what it
// is alone. Weights: ROWS rows from `first` on of a matrix (M = 1), or half of them of this and half of the other (M = 2).
template <typename F, short N, short M>
inline void dot_rows(constant qi__mtl_matrix &m, device const uchar *w, constant qi__mtl_matrix &other_m,
                     device const uchar *other, device const float *x, uint first, uint first_x, ushort lane,
                     thread float *sum) {
  UNROLL for (short i = 0; i < ROWS * N; i++) sum[i] = 0.0f;
  for (uint u = lane; 16 * u < m.n_cols; u += 32) {
    float4 xs[N][4];
    float total[N];
    uint left = m.n_cols - 16 * u;
    UNROLL for (short i = 0; i < N; i++) {
      device const float4 *from = (device const float4 *)(x + ulong(min(first_x + i, m.n - 1)) * m.n_cols + 16 * u);
      total[i] = 0.0f;
      UNROLL for (short j = 0; j < 4; j++) {
        xs[i][j] = uint(4 * j) < left ? from[j] : float4(0.0f);
        total[i] += xs[i][j].x + xs[i][j].y + xs[i][j].z + xs[i][j].w;
      }
    }
    UNROLL for (short r = 0; r < ROWS; r++) {
      const bool mine = r < ROWS / M;
      uint row = min(first + r % (ROWS / M), m.n_rows - 1);
      float4 q[4];
      float2 s = mine ? F::unpack(row_at(w, m, row), u, left, m, q) : F::unpack(row_at(other, other_m, row), u, left, other_m, q);
      UNROLL for (short i = 0; i < N; i++) {
        float part = dot(q[0], xs[i][0]) + dot(q[1], xs[i][1]) + dot(q[2], xs[i][2]) + dot(q[3], xs[i][3]);
        sum[r * N + i] += s.x * part - s.y * total[i];
      }
    }
  }
}

// y[i] = w x[i] + bias, or y[i] += that, for up to N rows of x at once. Grid: threadgroups of 2 simdgroups with ROWS rows each, N
// rows of x.
template <typename F, short N>
kernel void matvec(constant qi__mtl_matrix &m [[buffer(0)]], device const uchar *w [[buffer(1)]],
                   device const float *x [[buffer(2)]], device const float *bias [[buffer(3)]], device float *y [[buffer(4)]],
                   uint2 at [[threadgroup_position_in_grid]], ushort lane [[thread_index_in_simdgroup]],
                   ushort sg [[simdgroup_index_in_threadgroup]], ushort n_sg [[simdgroups_per_threadgroup]]) {
  uint first = (at.x * n_sg + sg) * ROWS, first_x = at.y * N;
  float sum[ROWS * N];
  dot_rows<F, N, 1>(m, w, m, w, x, first, first_x, lane, sum);
  UNROLL for (short r = 0; r < ROWS; r++)
    UNROLL for (short i = 0; i < N; i++) {
      float v = simd_sum(sum[r * N + i]);
      if (lane != 0 || first + r >= m.n_rows || first_x + i >= m.n) continue;
      device float *to = y + ulong(first_x + i) * m.n_rows + first + r;
      if (m.has_bias) v += bias[first + r];
      *to = m.add ? *to + v : v;
    }
}

// max(v, 0)^2, or v / (1 + e^-v)
inline float activate(float v, bool relu2) {
  float r = max(v, 0.0f);
  return relu2 ? r * r : v / (1.0f + exp(-v));
}

// y[i] = activate(gate x[i] + bias) * (up x[i] + bias): sums as in matvec. A simdgroup has ROWS / 2 rows of both.
template <typename F, short N>
kernel void gated(constant qi__mtl_gated &a [[buffer(0)]], device const uchar *gate [[buffer(1)]],
                  device const float *x [[buffer(2)]], device const float *gate_bias [[buffer(3)]], device float *y [[buffer(4)]],
                  device const uchar *up [[buffer(5)]], device const float *up_bias [[buffer(6)]],
                  uint2 at [[threadgroup_position_in_grid]], ushort lane [[thread_index_in_simdgroup]],
                  ushort sg [[simdgroup_index_in_threadgroup]], ushort n_sg [[simdgroups_per_threadgroup]]) {
  uint first = (at.x * n_sg + sg) * (ROWS / 2), first_x = at.y * N;
  float sum[ROWS * N];
  dot_rows<F, N, 2>(a.gate, gate, a.up, up, x, first, first_x, lane, sum);
  UNROLL for (short r = 0; r < ROWS / 2; r++)
    UNROLL for (short i = 0; i < N; i++) {
      float g = simd_sum(sum[r * N + i]), u = simd_sum(sum[(r + ROWS / 2) * N + i]);
      if (lane != 0 || first + r >= a.gate.n_rows || first_x + i >= a.gate.n) continue;
      if (a.gate.has_bias) g += gate_bias[first + r];
      if (a.up.has_bias) u += up_bias[first + r];
      y[ulong(first_x + i) * a.gate.n_rows + first + r] = activate(g, a.relu2) * u;
    }
}

#define TILE_W 64 // weight rows of a threadgroup
#define TILE_X 32 // rows of x
#define TILE_K 32 // columns at a time

// The same for many rows of x, on simdgroup matrices in float32. 4 simdgroups; each has 16 rows of x by 32 weight rows.
// shared: TILE_W * TILE_K floats of weights, TILE_X * TILE_K of x; the result lies over both.
template <typename F>
kernel void matmul(constant qi__mtl_matrix &m [[buffer(0)]], device const uchar *w [[buffer(1)]],
                   device const float *x [[buffer(2)]], device const float *bias [[buffer(3)]], device float *y [[buffer(4)]],
                   threadgroup float *shared [[threadgroup(0)]], uint2 at [[threadgroup_position_in_grid]],
                   ushort t [[thread_index_in_threadgroup]],
                   ushort sg [[simdgroup_index_in_threadgroup]]) {
  threadgroup float *ws = shared;
  threadgroup float *xs = shared + TILE_W * TILE_K;
  uint first = at.x * TILE_W, first_x = at.y * TILE_X, w_row = first + t / 2, x_row = first_x + t / 4;
  simdgroup_float8x8 sum[2][4];
  UNROLL for (short i = 0; i < 8; i++) sum[i / 4][i % 4] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint k = 0; k < m.n_cols; k += TILE_K) {
    uint u = k / 16 + t % 2; // 16 weights a thread
    float4 q[4];
    float2 s = float2(0.0f, 0.0f);
    UNROLL for (short i = 0; i < 4; i++) q[i] = float4(0.0f);
    if (w_row < m.n_rows && 16 * u < m.n_cols) s = F::unpack(row_at(w, m, w_row), u, m.n_cols - 16 * u, m, q);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    threadgroup float *w_to = ws + t / 2 * TILE_K + t % 2 * 16;
    UNROLL for (short i = 0; i < 16; i++) w_to[i] = 16 * u + i < m.n_cols ? s.x * q[i / 4][i % 4] - s.y : 0.0f;
    UNROLL for (short i = 0; i < 8; i++) { // 8 activations a thread
      uint col = k + t % 4 * 8 + i;
      xs[t / 4 * TILE_K + t % 4 * 8 + i] = x_row < m.n && col < m.n_cols ? x[ulong(x_row) * m.n_cols + col] : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (short kk = 0; kk < TILE_K; kk += 8) {
      simdgroup_float8x8 a[2], b[4];
      UNROLL for (short i = 0; i < 2; i++) simdgroup_load(a[i], xs + (sg / 2 * 16 + i * 8) * TILE_K + kk, TILE_K);
      UNROLL for (short j = 0; j < 4; j++) simdgroup_load(b[j], ws + (sg % 2 * 32 + j * 8) * TILE_K + kk, TILE_K, 0, true);
      UNROLL for (short i = 0; i < 8; i++) simdgroup_multiply_accumulate(sum[i / 4][i % 4], a[i / 4], b[i % 4], sum[i / 4][i % 4]);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  UNROLL for (short i = 0; i < 8; i++)
    simdgroup_store(sum[i / 4][i % 4], shared + (sg / 2 * 16 + i / 4 * 8) * TILE_W + sg % 2 * 32 + i % 4 * 8, TILE_W);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = t; i < TILE_X * TILE_W; i += 128) {
    uint row = first_x + i / TILE_W, r = first + i % TILE_W;
    if (row >= m.n || r >= m.n_rows) continue;
    device float *to = y + ulong(row) * m.n_rows + r;
    float v = m.has_bias ? shared[i] + bias[r] : shared[i];
    *to = m.add ? *to + v : v;
  }
}

#define NAME(name) #name
#define HOST_NAME(name) NAME(name)
#define FORMAT(F) \
  template [[host_name(HOST_NAME(embed_##F))]] kernel void embed<F>(constant qi__mtl_matrix &, device const uchar *, \
                                                                    device const qi_op_row *, device float *, uint2); \
  template [[host_name(HOST_NAME(matvec1_##F))]] kernel void matvec<F, 1>( \
      constant qi__mtl_matrix &, device const uchar *, device const float *, device const float *, device float *, uint2, ushort, \
      ushort, ushort); \
  template [[host_name(HOST_NAME(matvec4_##F))]] kernel void matvec<F, 4>( \
      constant qi__mtl_matrix &, device const uchar *, device const float *, device const float *, device float *, uint2, ushort, \
      ushort, ushort); \
  template [[host_name(HOST_NAME(gated1_##F))]] kernel void gated<F, 1>( \
      constant qi__mtl_gated &, device const uchar *, device const float *, device const float *, device float *, \
      device const uchar *, device const float *, uint2, ushort, ushort, ushort); \
  template [[host_name(HOST_NAME(gated4_##F))]] kernel void gated<F, 4>( \
      constant qi__mtl_gated &, device const uchar *, device const float *, device const float *, device float *, \
      device const uchar *, device const float *, uint2, ushort, ushort, ushort); \
  template [[host_name(HOST_NAME(matmul_##F))]] kernel void matmul<F>( \
      constant qi__mtl_matrix &, device const uchar *, device const float *, device const float *, device float *, \
      threadgroup float *, uint2, ushort, ushort);

FORMAT(f32)
FORMAT(f16)
FORMAT(bf16)
FORMAT(q4_0)
FORMAT(q8_0)
FORMAT(q4_k)
FORMAT(q5_k)
FORMAT(q6_k)
FORMAT(tq2_0)
FORMAT(i2_s)
FORMAT(qins8)
FORMAT(qins8_k)
FORMAT(qins4_k)

// ---- vectors ----

// y[i] = x[j] / sqrt(mean of the squares + eps) * weight. One threadgroup a row.
kernel void rms_norm(constant qi__mtl_norm &a [[buffer(0)]], device const float *x [[buffer(1)]],
                     device const uint *index [[buffer(2)]], device const float *weight [[buffer(3)]],
                     device float *y [[buffer(4)]], uint i [[threadgroup_position_in_grid]],
                     uint t [[thread_position_in_threadgroup]],
                     uint n_t [[threads_per_threadgroup]], ushort lane [[thread_index_in_simdgroup]],
                     ushort sg [[simdgroup_index_in_threadgroup]], ushort n_sg [[simdgroups_per_threadgroup]]) {
  threadgroup float part[32];
  device const float *from = x + ulong(a.has_index ? index[i] : i) * a.width;
  float sum = 0.0f;
  for (uint k = t; k < a.width; k += n_t) sum += from[k] * from[k];
  sum = simd_sum(sum);
  if (lane == 0) part[sg] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = simd_sum(lane < n_sg ? part[lane] : 0.0f);
  float scale = 1.0f / sqrt(sum / float(a.width) + a.eps);
  for (uint k = t; k < a.width; k += n_t) y[ulong(i) * a.width + k] = from[k] * scale * weight[k];
}

// y = activate(x) * up. y may be x.
kernel void gate(constant qi__mtl_gate &a [[buffer(0)]], device const float *x [[buffer(1)]], device const float *up [[buffer(2)]],
                 device float *y [[buffer(3)]], uint i [[thread_position_in_grid]]) {
  if (i < a.n) y[i] = activate(x[i], a.relu2) * up[i];
}

// ---- candidates ----

// A number that grows with the logit and is never 0: NaN counts as -infinity, -0 as 0. Integers, so that no way of compiling floats
// can change the order.
inline uint rank_of(float logit) {
  uint u = as_type<uint>(logit);
  if ((u & 0x7fffffffu) > 0x7f800000u) u = 0xff800000u;
  if (u == 0x80000000u) u = 0;
  return u >> 31 ? ~u : u | 0x80000000u;
}
inline float logit_of(uint rank) { return as_type<float>(rank >> 31 ? rank & 0x7fffffffu : ~rank); }

// The first of tokens from, from + step, .. < n among those behind (rank, token); its rank is 0 if there is none. As (rank, token).
inline uint2 first_behind(device const float *x, uint n, uint from, uint step, uint2 last) {
  uint2 best = uint2(0, 0xffffffffu);
  for (uint i = from; i < n; i += step) {
    uint rank = rank_of(x[i]);
    bool behind = rank < last.x || (rank == last.x && i > last.y);
    if (behind && rank > best.x) best = uint2(rank, i);
  }
  return best;
}

// The first of those that the lanes of a simdgroup bring.
inline uint2 first_of_lanes(uint2 mine) {
  uint rank = simd_max(mine.x);
  return uint2(rank, simd_min(mine.x == rank ? mine.y : 0xffffffffu));
}

// The first k of x in order, one after another. Thread t knows the first one left of tokens t, t + n_t, ..; the one that was taken
// is replaced by all lanes of its simdgroup together. One threadgroup a row.
kernel void top(constant qi__mtl_top &a [[buffer(0)]], device const float *x [[buffer(1)]],
                device qi_op_candidate *y [[buffer(2)]], uint i [[threadgroup_position_in_grid]],
                uint t [[thread_position_in_threadgroup]], uint n_t [[threads_per_threadgroup]],
                ushort lane [[thread_index_in_simdgroup]], ushort sg [[simdgroup_index_in_threadgroup]],
                ushort n_sg [[simdgroups_per_threadgroup]]) {
  threadgroup uint2 part[2][32]; // in turn: one barrier a candidate
  device const float *from = x + ulong(i) * a.width;
  uint2 mine = first_behind(from, a.width, t, n_t, uint2(0xffffffffu, 0));
  for (uint c = 0; c < a.k; c++) {
    uint2 best = first_of_lanes(mine);
    if (lane == 0) part[c % 2][sg] = best;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    best = first_of_lanes(lane < n_sg ? part[c % 2][lane] : uint2(0, 0));
    if (t == 0) {
      y[ulong(i) * a.k + c].logit = logit_of(best.x);
      y[ulong(i) * a.k + c].token = int(best.y);
    }
    uint owner = best.y % n_t;
    if (owner / 32 != sg) continue;
    best = first_of_lanes(first_behind(from, a.width, owner + lane * n_t, 32 * n_t, best));
    if (lane == owner % 32) mine = best;
  }
}

// ---- keys and values ----

// One head of the page that holds position `pos`.
inline device uchar *page_of(device uchar *pages, device const uint *table, constant qi__mtl_kv &kv, uint seq, uint pos,
                             uint head) {
  uint page = table[seq * kv.n_table + pos / 128];
  return pages + (ulong(kv.first_unit + head) * kv.n_pages + page) * kv.page_bytes;
}

// One struct a type of keys and values, for positions p < 128 of a page: store by a whole simdgroup; of a lane's own
// position the products with R queries, added to 0; an element of a value; 4 elements from i on, a multiple of 4.

struct kv_f16 {
  static void store_key(device uchar *page, constant qi__mtl_kv &kv, uint p, device const float *k, ushort lane) {
    for (uint i = lane; i < kv.dim_k; i += 32) ((device half *)page)[(p / 16 * kv.dim_k + i) * 16 + p % 16] = half(k[i]);
  }
  static void store_value(device uchar *page, constant qi__mtl_kv &kv, uint p, device const float *v, ushort lane) {
    for (uint i = lane; i < kv.dim_v; i += 32) ((device half *)(page + kv.v))[p * kv.dim_v + i] = half(v[i]);
  }
  template <short R>
  static void scores(device const uchar *page, constant qi__mtl_kv &kv, uint p, device const float *q, thread float *score) {
    device const half *k = (device const half *)page + p / 16 * kv.dim_k * 16 + p % 16;
    for (uint i = 0; i < kv.dim_k; i++) {
      float x = float(k[16 * i]);
      UNROLL for (short r = 0; r < R; r++) score[r] += q[r * kv.dim_k + i] * x;
    }
  }
  static float value(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {
    return float(((device const half *)(page + kv.v))[p * kv.dim_v + i]);
  }
  static float4 key4(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {
    device const half *k = (device const half *)page + (p / 16 * kv.dim_k + i) * 16 + p % 16;
    return float4(float(k[0]), float(k[16]), float(k[32]), float(k[48]));
  }
  static float4 value4(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {
    return float4(((device const half4 *)(page + kv.v))[(p * kv.dim_v + i) / 4]);
  }
};

// Code of a lane's element of a group, and the scale of the group.
inline char quantize(float x, thread float &scale) {
  float max = simd_max(fabs(x));
  scale = max / 127.0f;
  return char(max > 0.0f ? rint(x * (127.0f / max)) : 0.0f);
}

struct kv_q8 {
  static void store_key(device uchar *page, constant qi__mtl_kv &kv, uint p, device const float *k, ushort lane) {
    uint groups = (kv.dim_k + 31) / 32;
    for (uint g = 0; g < groups; g++) {
      float scale;
      char c = quantize(32 * g + lane < kv.dim_k ? k[32 * g + lane] : 0.0f, scale);
      uint at = p / 16 * groups + g;
      ((device char *)page)[(at * 8 + lane / 4) * 64 + p % 16 * 4 + lane % 4] = c;
      if (lane == 0) ((device half *)(page + kv.k_scale))[at * 16 + p % 16] = half(scale);
    }
  }
  static void store_value(device uchar *page, constant qi__mtl_kv &kv, uint p, device const float *v, ushort lane) {
    for (uint g = 0; g < (kv.dim_v + 31) / 32; g++) {
      float scale;
      char c = quantize(32 * g + lane < kv.dim_v ? v[32 * g + lane] : 0.0f, scale);
      ((device char *)(page + kv.v))[(g * 64 + p / 2) * 64 + lane * 2 + p % 2] = c;
      if (lane == 0) ((device half *)(page + kv.v_scale))[g * 128 + p] = half(scale);
    }
  }
  template <short R>
  static void scores(device const uchar *page, constant qi__mtl_kv &kv, uint p, device const float *q, thread float *score) {
    uint groups = (kv.dim_k + 31) / 32;
    for (uint g = 0; g < groups; g++) {
      uint at = p / 16 * groups + g;
      device const char4 *k = (device const char4 *)page + at * 128 + p % 16;
      float scale = float(((device const half *)(page + kv.k_scale))[at * 16 + p % 16]), part[R];
      UNROLL for (short r = 0; r < R; r++) part[r] = 0.0f;
      for (uint i = 32 * g; i < min(32 * g + 32, kv.dim_k); i += 4) {
        float4 x = float4(k[i % 32 * 4]);
        UNROLL for (short r = 0; r < R; r++) part[r] += dot(x, *(device const float4 *)(q + r * kv.dim_k + i));
      }
      UNROLL for (short r = 0; r < R; r++) score[r] += part[r] * scale;
    }
  }
  static float value(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {
    float c = float(((device const char *)(page + kv.v))[(i / 32 * 64 + p / 2) * 64 + i % 32 * 2 + p % 2]);
    return c * float(((device const half *)(page + kv.v_scale))[i / 32 * 128 + p]);
  }
  static float4 key4(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {
    uint at = p / 16 * ((kv.dim_k + 31) / 32) + i / 32;
    float4 c = float4(((device const char4 *)page)[at * 128 + i % 32 * 4 + p % 16]);
    return c * float(((device const half *)(page + kv.k_scale))[at * 16 + p % 16]);
  }
  static float4 value4(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint i) {
    device const char *c = (device const char *)(page + kv.v) + (i / 32 * 64 + p / 2) * 64 + i % 32 * 2 + p % 2;
    float scale = float(((device const half *)(page + kv.v_scale))[i / 32 * 128 + p]);
    return float4(float(c[0]), float(c[2]), float(c[4]), float(c[6])) * scale;
  }
};

// A head normed and rotated in place. Each lane reads and writes its own pairs, and its own elements behind them.
inline void rotate(device float *x, constant qi__mtl_rope &a, bool has_norm, device const float *norm, device const float *cos_sin,
                   ushort lane) {
  uint step = a.neighbours ? 2 : 1, other = a.neighbours ? 1 : a.n_pairs;
  float scale = 1.0f, sum = 0.0f;
  if (has_norm) {
    for (uint p = lane; p < a.n_pairs; p += 32) sum += x[p * step] * x[p * step] + x[p * step + other] * x[p * step + other];
    for (uint i = 2 * a.n_pairs + lane; i < a.kv.dim_k; i += 32) sum += x[i] * x[i];
    scale = 1.0f / sqrt(simd_sum(sum) / float(a.kv.dim_k) + a.eps);
  }
  for (uint p = lane; p < a.n_pairs; p += 32) {
    uint i = p * step, j = i + other;
    float u = has_norm ? x[i] * scale * norm[i] : x[i], v = has_norm ? x[j] * scale * norm[j] : x[j];
    float c = cos_sin[2 * p], s = cos_sin[2 * p + 1];
    x[i] = u * c - v * s;
    x[j] = u * s + v * c;
  }
  if (!has_norm) return;
  for (uint i = 2 * a.n_pairs + lane; i < a.kv.dim_k; i += 32) x[i] = x[i] * scale * norm[i];
}

// Queries and keys rotated; keys and values to their pages. One simdgroup a head of q, then of k, then of v; rows.
template <typename KV>
kernel void rope(constant qi__mtl_rope &a [[buffer(0)]], device const qi_op_row *rows [[buffer(1)]],
                 device const float *cos_sin [[buffer(2)]], device const float *q_norm [[buffer(3)]],
                 device const float *k_norm [[buffer(4)]], device float *q [[buffer(5)]], device float *k [[buffer(6)]],
                 device const float *v [[buffer(7)]], device const uint *table [[buffer(8)]], device uchar *pages [[buffer(9)]],
                 uint2 at [[threadgroup_position_in_grid]], ushort lane [[thread_index_in_simdgroup]]) {
  constant qi__mtl_kv &kv = a.kv;
  uint i = at.y, pos = rows[i].pos, seq = rows[i].seq;
  device const float *angles = cos_sin + ulong(i) * 2 * a.n_pairs;
  if (at.x < kv.n_heads) {
    rotate(q + (ulong(i) * kv.n_heads + at.x) * kv.dim_k, a, a.has_q_norm, q_norm, angles, lane);
  } else if (at.x < kv.n_heads + kv.n_kv_heads) {
    uint head = at.x - kv.n_heads;
    device float *x = k + (ulong(i) * kv.n_kv_heads + head) * kv.dim_k;
    rotate(x, a, a.has_k_norm, k_norm, angles, lane);
    simdgroup_barrier(mem_flags::mem_device);
    KV::store_key(page_of(pages, table, kv, seq, pos, head), kv, pos % 128, x, lane);
  } else {
    uint head = at.x - kv.n_heads - kv.n_kv_heads;
    device const float *x = v + (ulong(i) * kv.n_kv_heads + head) * kv.dim_v;
    KV::store_value(page_of(pages, table, kv, seq, pos, head), kv, pos % 128, x, lane);
  }
}

// ---- attention of generated rows ----

// y = softmax(q k / sqrt(dim_k)) v over positions rows[i].first .. pos, each read once (flash attention). A threadgroup has R heads
// of a row that share keys and values; its simdgroups take 32 positions in turn, a lane one position of keys, then N elements of
// values: lane, lane + 32, ... Each head has the sums that it has alone.
// shared: for each simdgroup and head 32 N values, greatest score, sum of weights.
template <typename KV, short N, short R>
kernel void attention(constant qi__mtl_kv &kv [[buffer(0)]], device const qi_op_row *rows [[buffer(1)]],
                      device const float *q [[buffer(2)]], device float *y [[buffer(3)]], device const uint *table [[buffer(4)]],
                      device uchar *pages [[buffer(5)]], threadgroup float *shared [[threadgroup(0)]],
                      uint2 at [[threadgroup_position_in_grid]], ushort t [[thread_index_in_threadgroup]],
                      ushort lane [[thread_index_in_simdgroup]], ushort sg [[simdgroup_index_in_threadgroup]],
                      ushort n_sg [[simdgroups_per_threadgroup]]) {
  const uint stride = 32 * N + 2;
  uint head = at.x * R, kv_head = head / (kv.n_heads / kv.n_kv_heads);
  uint seq = rows[at.y].seq, pos = rows[at.y].pos, first = rows[at.y].first;
  device const float *query = q + (ulong(at.y) * kv.n_heads + head) * kv.dim_k;
  float scale = 1.0f / sqrt(float(kv.dim_k)), greatest[R], total[R], sum[R][N];
  UNROLL for (short r = 0; r < R; r++) {
    greatest[r] = -1e30f;
    total[r] = 0.0f;
    UNROLL for (short i = 0; i < N; i++) sum[r][i] = 0.0f;
  }
  for (uint begin = (first / 32 + sg) * 32; begin <= pos; begin += 32 * n_sg) {
    device const uchar *page = page_of(pages, table, kv, seq, begin, kv_head);
    uint p = begin % 128, from = begin < first ? first - begin : 0, to = min(pos - begin, 31u);
    bool seen = lane >= from && lane <= to;
    float weight[R];
    UNROLL for (short r = 0; r < R; r++) weight[r] = 0.0f;
    if (seen) KV::template scores<R>(page, kv, p + lane, query, weight);
    UNROLL for (short r = 0; r < R; r++) {
      float score = seen ? weight[r] * scale : -1e30f, most = max(greatest[r], simd_max(score)), keep = exp(greatest[r] - most);
      weight[r] = seen ? exp(score - most) : 0.0f;
      total[r] = total[r] * keep + simd_sum(weight[r]);
      greatest[r] = most;
      UNROLL for (short i = 0; i < N; i++) sum[r][i] *= keep;
    }
    for (uint j = from; j <= to; j++) {
      float one[R];
      UNROLL for (short r = 0; r < R; r++) one[r] = simd_shuffle(weight[r], ushort(j));
      UNROLL for (short i = 0; i < N; i++) {
        if (32u * i + lane >= kv.dim_v) continue;
        float value = KV::value(page, kv, p + j, 32u * i + lane);
        UNROLL for (short r = 0; r < R; r++) sum[r][i] += one[r] * value;
      }
    }
  }
  UNROLL for (short r = 0; r < R; r++) {
    threadgroup float *part = shared + (sg * R + r) * stride;
    UNROLL for (short i = 0; i < N; i++) part[32 * i + lane] = sum[r][i];
    if (lane == 0) {
      part[32 * N] = greatest[r];
      part[32 * N + 1] = total[r];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint e = t; e < R * kv.dim_v; e += 32 * n_sg) {
    threadgroup const float *part = shared + e / kv.dim_v * stride;
    float most = -1e30f, weights = 0.0f, v = 0.0f;
    for (ushort s = 0; s < n_sg; s++) most = max(most, part[s * R * stride + 32 * N]);
    for (ushort s = 0; s < n_sg; s++) {
      float keep = exp(part[s * R * stride + 32 * N] - most);
      weights += keep * part[s * R * stride + 32 * N + 1];
      v += keep * part[s * R * stride + e % kv.dim_v];
    }
    y[(ulong(at.y) * kv.n_heads + head) * kv.dim_v + e] = v / weights;
  }
}

// ---- attention of prompts ----

#define TILE_P 16           // positions at a time
#define STRIDE (32 * N + 4) // floats from one position to the next in threadgroup memory
#define AREA (8 * TILE_P + 64) // floats of a simdgroup: weights [8][TILE_P], then a matrix [8][8]

// TILE_P keys or values from position p of a page on, as float32 [TILE_P][STRIDE]; zeros from the n-th on, and up to a multiple
// of 8 behind the last element. By 128 threads, of which neighbours read what lies side by side. Values are made finite: they are
// multiplied by weights of all queries of a tile, and those that do not see them have weight 0.
template <typename KV, short N, bool KEYS>
inline void stage(device const uchar *page, constant qi__mtl_kv &kv, uint p, uint n, threadgroup float *to, uint t) {
  const uint dim = KEYS ? kv.dim_k : kv.dim_v;
  for (uint e = t; e < TILE_P * 8 * N; e += 128) {
    uint j = KEYS ? e % TILE_P : e / (8 * N), i = 4 * (KEYS ? e / TILE_P : e % (8 * N));
    if (i >= (dim + 7) / 8 * 8) continue;
    float4 x = float4(0.0f);
    if (j < n && i < dim) x = KEYS ? KV::key4(page, kv, p + j, i) : KV::value4(page, kv, p + j, i);
    UNROLL for (short k = 0; k < 4 && !KEYS; k++) x[k] = x[k] == x[k] ? clamp(x[k], -65504.0f, 65504.0f) : 0.0f;
    *(threadgroup float4 *)(to + j * STRIDE + i) = x;
  }
}

// Eight queries of dim elements, scaled, to matrices of 8 elements each. query: the lane's, number lane / 4; zeros if it is not
// there.
template <short N>
inline void load_queries(device const float *query, bool there, uint dim, threadgroup float *matrix,
                         thread simdgroup_float8x8 *q, ushort lane) {
  float scale = 1.0f / sqrt(float(dim));
  UNROLL for (short j = 0; j < 4 * N; j++) {
    if (8u * j >= dim) continue;
    UNROLL for (short i = 0; i < 2; i++) {
      uint e = 8 * j + lane % 4 * 2 + i;
      matrix[2 * lane + i] = there && e < dim ? query[e] * scale : 0.0f;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_load(q[j], matrix, 8);
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

// weights = q keys: [8][TILE_P]
template <short N>
inline void tile_scores(thread simdgroup_float8x8 *q, uint dim, threadgroup const float *keys, threadgroup float *weights) {
  simdgroup_float8x8 score[2], k;
  UNROLL for (short h = 0; h < 2; h++) score[h] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  UNROLL for (short j = 0; j < 4 * N; j++) {
    if (8u * j >= dim) continue;
    UNROLL for (short h = 0; h < 2; h++) {
      simdgroup_load(k, keys + 8 * h * STRIDE + 8 * j, STRIDE, 0, true);
      simdgroup_multiply_accumulate(score[h], q[j], k, score[h]);
    }
  }
  UNROLL for (short h = 0; h < 2; h++) simdgroup_store(score[h], weights + 8 * h, TILE_P);
  simdgroup_barrier(mem_flags::mem_threadgroup);
}

// sum = keep sum + weights values, keep being that of the lane's query. A query that does not see these positions keeps its bits.
template <short N>
inline void tile_values(thread simdgroup_float8x8 *sum, float keep, uint dim, threadgroup const float *values,
                        threadgroup const float *weights, threadgroup float *matrix, ushort lane) {
  simdgroup_float8x8 w[2], v;
  bool shrinks = simd_min(keep) < 1.0f;
  UNROLL for (short h = 0; h < 2; h++) simdgroup_load(w[h], weights + 8 * h, TILE_P);
  UNROLL for (short j = 0; j < 4 * N; j++) {
    if (8u * j >= dim) continue;
    if (shrinks) {
      simdgroup_store(sum[j], matrix, 8);
      simdgroup_barrier(mem_flags::mem_threadgroup);
      UNROLL for (short i = 0; i < 2; i++) matrix[2 * lane + i] *= keep;
      simdgroup_barrier(mem_flags::mem_threadgroup);
      simdgroup_load(sum[j], matrix, 8);
      simdgroup_barrier(mem_flags::mem_threadgroup);
    }
    UNROLL for (short h = 0; h < 2; h++) {
      simdgroup_load(v, values + 8 * h * STRIDE + 8 * j, STRIDE);
      simdgroup_multiply_accumulate(sum[j], w[h], v, sum[j]);
    }
  }
}

// What a lane knows of its query: it sees positions first..last; its greatest score so far, and its share of the sum of weights.
struct softmax {
  uint first, last;
  float greatest, total;
};

// Scores of positions p.. to weights: of the lane's query those at lane % 4 * 4. Returns what the sums so far shrink by.
inline float tile_weights(thread softmax &s, uint p, threadgroup float *weights, ushort lane) {
  threadgroup float *w = weights + 4 * lane;
  float most = s.greatest, total = 0.0f;
  p += lane % 4 * 4;
  UNROLL for (short i = 0; i < 4; i++)
    if (p + i >= s.first && p + i <= s.last) most = max(most, w[i]);
  most = max(most, simd_shuffle_xor(most, 1));
  most = max(most, simd_shuffle_xor(most, 2));
  UNROLL for (short i = 0; i < 4; i++) {
    w[i] = p + i >= s.first && p + i <= s.last ? exp(w[i] - most) : 0.0f;
    total += w[i];
  }
  float keep = exp(s.greatest - most);
  s.total = s.total * keep + total;
  s.greatest = most;
  return keep;
}

// The same for prompts, on simdgroup matrices: keys and values are read once for 32 queries. Those of a group of heads that share
// keys and values are numbered row by row; 4 simdgroups have 8 of them each. Neighbouring rows of one sequence are seen to
// together, then the next ones; what is computed for others meanwhile has weight 0. Grid: heads of keys, 32 queries each.
// shared: [TILE_P][STRIDE] of keys, then of values; AREA of each simdgroup.
template <typename KV, short N>
kernel void attention_tile(constant qi__mtl_kv &kv [[buffer(0)]], device const qi_op_row *rows [[buffer(1)]],
                           device const float *q [[buffer(2)]], device float *y [[buffer(3)]],
                           device const uint *table [[buffer(4)]], device uchar *pages [[buffer(5)]],
                           threadgroup float *shared [[threadgroup(0)]], uint2 at [[threadgroup_position_in_grid]],
                           ushort t [[thread_index_in_threadgroup]], ushort lane [[thread_index_in_simdgroup]],
                           ushort sg [[simdgroup_index_in_threadgroup]]) {
  const uint group = kv.n_heads / kv.n_kv_heads, n = kv.n * group, own = 32 * at.y + 8 * sg + lane / 4;
  const uint row = min(own, n - 1) / group, head = row * kv.n_heads + at.x * group + min(own, n - 1) % group;
  threadgroup float *weights = shared + TILE_P * STRIDE + sg * AREA;
  threadgroup float *matrix = weights + 8 * TILE_P;
  simdgroup_float8x8 queries[4 * N], sum[4 * N];
  UNROLL for (short j = 0; j < 4 * N; j++) sum[j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  load_queries<N>(q + ulong(head) * kv.dim_k, own < n, kv.dim_k, matrix, queries, lane);
  softmax s;
  s.greatest = -1e30f;
  s.total = 0.0f;
  uint last_row = min(32 * at.y + 31, n - 1) / group, next;
  for (uint r = 32 * at.y / group; r <= last_row; r = next) {
    uint seq = rows[r].seq, begin = rows[r].first, end = rows[r].pos;
    for (next = r + 1; next <= last_row && rows[next].seq == seq; next++) {
      begin = min(begin, rows[next].first);
      end = max(end, rows[next].pos);
    }
    bool here = own < n && row >= r && row < next;
    s.first = here ? rows[row].first : 1;
    s.last = here ? rows[row].pos : 0;
    for (uint p = begin / TILE_P * TILE_P; p <= end; p += TILE_P) {
      device const uchar *page = page_of(pages, table, kv, seq, p, at.x);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      stage<KV, N, true>(page, kv, p % 128, end + 1 - p, shared, t);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      tile_scores<N>(queries, kv.dim_k, shared, weights);
      float keep = tile_weights(s, p, weights, lane);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      stage<KV, N, false>(page, kv, p % 128, end + 1 - p, shared, t);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      tile_values<N>(sum, keep, kv.dim_v, shared, weights, matrix, lane);
    }
  }
  float total = s.total + simd_shuffle_xor(s.total, 1);
  total += simd_shuffle_xor(total, 2);
  UNROLL for (short j = 0; j < 4 * N; j++) {
    if (8u * j >= kv.dim_v) continue;
    simdgroup_store(sum[j], matrix, 8);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    UNROLL for (short i = 0; i < 2; i++) {
      uint e = 8 * j + lane % 4 * 2 + i;
      if (own < n && e < kv.dim_v) y[ulong(head) * kv.dim_v + e] = matrix[2 * lane + i] / total;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

#define ATTENTION(KV, N, R) \
  template [[host_name(HOST_NAME(attention##N##x##R##_##KV))]] kernel void attention<KV, N, R>( \
      constant qi__mtl_kv &, device const qi_op_row *, device const float *, device float *, device const uint *, device uchar *, \
      threadgroup float *, uint2, ushort, ushort, ushort, ushort);
#define ATTENTION_TILE(KV, N) \
  template [[host_name(HOST_NAME(attention_tile##N##_##KV))]] kernel void attention_tile<KV, N>( \
      constant qi__mtl_kv &, device const qi_op_row *, device const float *, device float *, device const uint *, device uchar *, \
      threadgroup float *, uint2, ushort, ushort, ushort);
#define KV_TYPE(KV) \
  template [[host_name(HOST_NAME(rope_##KV))]] kernel void rope<KV>( \
      constant qi__mtl_rope &, device const qi_op_row *, device const float *, device const float *, device const float *, \
      device float *, device float *, device const float *, device const uint *, device uchar *, uint2, ushort); \
  ATTENTION(KV, 1, 1) \
  ATTENTION(KV, 2, 1) \
  ATTENTION(KV, 4, 1) \
  ATTENTION(KV, 8, 1) \
  ATTENTION(KV, 1, 4) \
  ATTENTION(KV, 2, 4) \
  ATTENTION(KV, 4, 4) \
  ATTENTION(KV, 8, 4) \
  ATTENTION_TILE(KV, 1) \
  ATTENTION_TILE(KV, 2) \
  ATTENTION_TILE(KV, 4) \
  ATTENTION_TILE(KV, 8)

KV_TYPE(kv_f16)
KV_TYPE(kv_q8)
