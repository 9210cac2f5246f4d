// ==== >>bf16_neon : products of bfloat16 panels with bfmmla ====
#ifndef QI__KERNELS_BF16_NEON_H
#define QI__KERNELS_BF16_NEON_H

#include "bf16.h"
#include "dequant_neon.h"

#if defined(QI__ARM64)

// The integer steps of qi__f32_to_bf16. A NaN, whose payload the addition would carry into the exponent, is taken by itself.
QI__FN void qi__round_bf16_neon(const float *x, size_t n, float *y) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    float32x4_t v = vld1q_f32(x + i);
    uint32x4_t u = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t nan = vcgtq_u32(vandq_u32(u, vdupq_n_u32(0x7fffffffu)), vdupq_n_u32(0x7f800000u));
    uint32x4_t rounded = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
    u = vbslq_u32(nan, vorrq_u32(u, vdupq_n_u32(0x400000)), rounded);
    vst1q_f32(y + i, vreinterpretq_f32_u32(vandq_u32(u, vdupq_n_u32(0xffff0000u))));
  }
  qi__round_bf16_ref(x + i, n - i, y + i);
}

#if defined(__clang__) || __GNUC__ >= 10
#define QI__HAS_NEON_BF16 1
#if defined(__clang__)
#define QI__NEON_BF16 QI__TARGET("bf16")
#else
#define QI__NEON_BF16 QI__TARGET("+bf16")
#endif

// The contract of bf16.h with bfmmla: it adds, for each of 2 x 2 sums, the products of k, k + 1, then those of k + 2, k + 3. A pair
// of products is added up first; pairs and sums round to odd, each off by less than a unit. That is half as many roundings as
// additions, each twice as large: the bound is the same. (Arm ARM, BFMMLA with FPCR.EBF = 0, which qi__fp_enter sees to: all CPUs
// give the same bits.) The layout of a panel is what the instruction wants:
//
//   panel: [2][k / 4][8][2][4]      two blocks of 16 weight rows, in pairs; four of k beside each other

// ---- instructions; their intrinsics are hidden, see dot_q8_neon.h ----

// sum[2 i + j] + products of row i of a [2, 4] and row j of b [2, 4]
QI__INLINE QI__NEON_BF16 float32x4_t qi__bfmmla_neon(float32x4_t sum, uint16x8_t a, uint16x8_t b) {
  __asm__("bfmmla %0.4s, %1.8h, %2.8h" : "+w"(sum) : "w"(a), "w"(b));
  return sum;
}

// Rounds to nearest, ties to even: qi__f32_to_bf16.
QI__INLINE QI__NEON_BF16 uint16x8_t qi__to_bf16x8_neon(float32x4_t low, float32x4_t high) {
  uint16x8_t v;
  __asm__("bfcvtn %0.4h, %1.4s\n\tbfcvtn2 %0.8h, %2.4s" : "=&w"(v) : "w"(low), "w"(high));
  return v;
}

// ---- layout ----

QI__INLINE QI__NEON_BF16 void qi__store16_bf16_neon(void *dst, size_t i, const float32x4_t *v) {
  uint16_t *p = (uint16_t *)dst + i;
  vst1q_u16(p, qi__to_bf16x8_neon(v[0], v[1]));
  vst1q_u16(p + 8, qi__to_bf16x8_neon(v[2], v[3]));
}

QI__INLINE QI__NEON_BF16 void qi__f32_to_bf16_neon(const float *src, size_t n, uint16_t *dst) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) vst1q_u16(dst + i, qi__to_bf16x8_neon(vld1q_f32(src + i), vld1q_f32(src + i + 4)));
  for (; i < n; i++) dst[i] = qi__f32_to_bf16(src[i]);
}

// Row `row` of packed activations.
QI__FN QI__NEON_BF16 void qi__bf16_pack_neon(const float *x, size_t k, uint16_t *packed, size_t row) {
  uint16_t *dst = packed + qi__bf16_row(k, row);
  for (size_t j = 0; j < k; j += 32, dst += 512) {
    size_t n = qi__min_size(32, k - j);
    qi__f32_to_bf16_neon(x + j, n, dst);
    memset(dst + n, 0, (32 - n) * sizeof *dst);
  }
}

// n weights, whole blocks, as bfloat16; `f` is a row of the table, or bound.
QI__FN QI__NEON_BF16 void qi__to_bf16_neon(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst) {
  qi_format id = f->id;
  if (id == QI_FORMAT_BF16) {
    memcpy(dst, src, 2 * n);
  } else if (qi__dequantize_neon_has(id)) {
    qi__dequantize_rows_neon(f, src, qi__store16_bf16_neon, dst, n);
  } else {
    float v[QI__BF16_STEP];
    for (size_t i = 0, part; i < n; i += part, src += part / (size_t)f->info.block_len * (size_t)f->info.block_bytes) {
      part = qi__min_size(QI__BF16_STEP, n - i);
      if (id == QI_FORMAT_F16) qi__dequantize_f16_neon(f, src, v, part);
      else qi__dequantize_blocks(f, src, v, part);
      qi__f32_to_bf16_neon(v, part, dst + i);
    }
  }
}

// First and second halves of two registers.
QI__INLINE void qi__transpose_halves_neon(uint16x8_t a, uint16x8_t b, uint16x8_t *first, uint16x8_t *second) {
  uint64x2_t a2 = vreinterpretq_u64_u16(a), b2 = vreinterpretq_u64_u16(b);
  *first = vreinterpretq_u16_u64(vtrn1q_u64(a2, b2));
  *second = vreinterpretq_u16_u64(vtrn2q_u64(a2, b2));
}

// One block of the panel from 16 rows of n_k, QI__BF16_STRIDE apart.
QI__FN void qi__bf16_interleave_neon(const uint16_t *rows, size_t n_k, uint16_t *panel) {
  for (size_t j = 0; j < n_k; j += 8, rows += 8, panel += 128)
    QI__UNROLL for (size_t pair = 0; pair < 8; pair++) {
      const uint16_t *row = rows + 2 * pair * QI__BF16_STRIDE;
      uint16x8_t first, second;
      qi__transpose_halves_neon(vld1q_u16(row), vld1q_u16(row + QI__BF16_STRIDE), &first, &second);
      vst1q_u16(panel + 8 * pair, first);
      vst1q_u16(panel + 64 + 8 * pair, second);
    }
}

// ---- product ----

// Sums of two weight rows; `n` of them are there.
QI__INLINE float32x2_t qi__load_sums_neon(const float *y, size_t n) {
  if (n >= 2) return vld1_f32(y);
  return n ? vset_lane_f32(*y, vdup_n_f32(0), 0) : vdup_n_f32(0);
}
QI__INLINE void qi__store_sums_neon(float *y, size_t n, float32x2_t v) {
  if (n >= 2) vst1_f32(y, v);
  else if (n) *y = vget_lane_f32(v, 0);
}

// n activation rows of one tile (a constant: 8, 4, 2 or 1), the first at `x`, times weight rows first .. first + 7. A row alone is
// its own partner.
QI__INLINE QI__NEON_BF16 void qi__bf16_rows_neon(const qi__bf16_args *a, const uint16_t *x, int n, size_t first, float *y) {
  const uint16_t *w = a->panel + first / 16 * a->second + first % 16 * 4, *x_end = x + a->n_k * 16;
  const int n_pairs = (n + 1) / 2, n_both = n > 1 ? 2 : 1;
  float32x4_t sum[4][4];
  QI__UNROLL for (int i = 0; i < n_pairs; i++) QI__UNROLL for (size_t p = 0; p < 4; p++) {
    float32x2_t row[2] = {vdup_n_f32(0), vdup_n_f32(0)};
    size_t left = a->n_w > first + 2 * p ? a->n_w - first - 2 * p : 0;
    if (!a->first)
      QI__UNROLL for (int e = 0; e < n_both; e++)
        row[e] = qi__load_sums_neon(y + (size_t)(2 * i + e) * a->y_stride + first + 2 * p, left);
    sum[i][p] = vcombine_f32(row[0], row[1]);
  }
  for (; x < x_end; x += 480)
    for (int j = 0; j < 4; j++, x += 8, w += 128) { // eight of k
      uint16x8_t v[4][2];
      QI__UNROLL for (int i = 0; i < n_pairs; i++)
        qi__transpose_halves_neon(vld1q_u16(x + 64 * i), vld1q_u16(x + 64 * i + 32 * (n_both - 1)), &v[i][0], &v[i][1]);
      QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int p = 0; p < 4; p++) {
        uint16x8_t weights = vld1q_u16(w + 64 * h + 8 * p);
        QI__UNROLL for (int i = 0; i < n_pairs; i++) sum[i][p] = qi__bfmmla_neon(sum[i][p], v[i][h], weights);
      }
    }
  QI__UNROLL for (int i = 0; i < n_pairs; i++) QI__UNROLL for (size_t p = 0; p < 4; p++) {
    float32x2_t row[2] = {vget_low_f32(sum[i][p]), vget_high_f32(sum[i][p])};
    size_t left = a->n_w > first + 2 * p ? a->n_w - first - 2 * p : 0;
    QI__UNROLL for (int e = 0; e < n_both; e++)
      qi__store_sums_neon(y + (size_t)(2 * i + e) * a->y_stride + first + 2 * p, left, row[e]);
  }
}

QI__FN QI__NEON_BF16 void qi__bf16_multiply_neon(const qi__bf16_args *a) {
  for (size_t i = 0; i < a->n_x;) {
    size_t row = a->x_row + i, n = qi__min_size(a->n_x - i, 16 - row % 16);
    const uint16_t *x = a->x + row / 16 * a->x_stride + row % 16 * 32;
    float *y = a->y + i * a->y_stride;
    n = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
    for (size_t first = 0; first < a->n_w; first += 8) {
      if (n == 8) qi__bf16_rows_neon(a, x, 8, first, y);
      else if (n == 4) qi__bf16_rows_neon(a, x, 4, first, y);
      else if (n == 2) qi__bf16_rows_neon(a, x, 2, first, y);
      else qi__bf16_rows_neon(a, x, 1, first, y);
    }
    i += n;
  }
}

// A slice of 512 leaves room in the first-level cache beside a panel of 32 KB.
static const qi__bf16_kernels qi__bf16_neon = {512, 512, qi__bf16_pack_neon, qi__to_bf16_neon, qi__bf16_interleave_neon,
                                               qi__bf16_multiply_neon, NULL, NULL, NULL, NULL, NULL};
#endif
#endif

#endif // QI__KERNELS_BF16_NEON_H
