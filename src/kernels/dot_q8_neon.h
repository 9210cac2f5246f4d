// ==== >>dot_q8_neon : integer products with NEON and sdot ====
#ifndef QI__KERNELS_DOT_Q8_NEON_H
#define QI__KERNELS_DOT_Q8_NEON_H

#include "dequant_neon.h"
#include "dot_q8.h"

#if defined(QI__ARM64)

// One row of activations: blocks are taken apart in registers, two weight rows beside each other. Codes are signed, as they are
// multiplied. More rows: panel_q8_neon.h.

// ---- four products by four ----

// sum[l] + a[4 l] * b[4 l] + .. + a[4 l + 3] * b[4 l + 3] for b in -127..127; a constant where the loops below are inlined.
typedef int32x4_t (*qi__dot4_fn)(int32x4_t sum, int8x16_t a, int8x16_t b);

// Two products are at most 2 * 128 * 127, which fits into int16.
QI__INLINE int32x4_t qi__dot4_neon(int32x4_t sum, int8x16_t a, int8x16_t b) {
  int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
  return vpadalq_s16(sum, vpaddq_s16(low, high));
}

// Intrinsics are hidden by clang before 16 unless the whole file is compiled for such a CPU; in GCC before 14 they ask for more of
// their caller than the feature. GNU's assembler wants Armv8.2 besides sdot and smmla: an architecture that is new enough is named
// before each, and the compiler names its own again at the next function.
#if defined(__clang__)
#define QI__DOTPROD QI__TARGET("dotprod")
#define QI__I8MM QI__TARGET("i8mm")
#else
#define QI__DOTPROD QI__TARGET("+dotprod")
#define QI__I8MM QI__TARGET("+i8mm")
#endif
#if defined(__clang__) || __GNUC__ >= 10
#define QI__HAS_I8MM 1
#endif
#if defined(__clang__) || defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_SVE)
#define QI__ASM_SDOT "sdot"
#define QI__ASM_SMMLA "smmla"
#else
#define QI__ASM_SDOT ".arch armv8.4-a+crypto+fp16\n\tsdot"
#define QI__ASM_SMMLA ".arch armv8.6-a+crypto+fp16\n\tsmmla"
#endif

QI__INLINE QI__DOTPROD int32x4_t qi__dot4_dotprod(int32x4_t sum, int8x16_t a, int8x16_t b) {
  __asm__(QI__ASM_SDOT " %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
  return sum;
}

// ---- one row of activations ----

// The row from some block on.
typedef struct qi__x_neon {
  const int8_t *q;
  const float *d;
  const int16_t *sum;
} qi__x_neon;

QI__INLINE qi__x_neon qi__x_at_neon(const qi__q8 *x, size_t row, size_t at) {
  size_t i = row * x->k + at;
  return (qi__x_neon){x->q + i, x->d + i / x->block, x->sum + i / 16};
}

#define QI__NEON_PAIR 2 // weight rows: chains of additions overlap

// Adds the products of codes 32 g .. 32 g + 31 of a block, times their scales.
QI__INLINE void qi__pair_part_neon(qi_format id, const qi__format *f, qi__dot4_fn dot, const uint8_t *const *w,
                                   const qi__block *block, const qi__scales_neon *s, const int8_t *x, int g, int32x4_t *sum) {
  const int32x4_t zero = vdupq_n_s32(0);
  int8x16_t xg[2] = {vld1q_s8(x + 32 * g), vld1q_s8(x + 32 * g + 16)};
  QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
    qi__codes32_neon codes = qi__codes_neon(id, w[r], g, &block[r]);
    if (qi__one_scale_neon(id)) {
      sum[r] = dot(dot(sum[r], codes.half[0], xg[0]), codes.half[1], xg[1]);
    } else if (f->group == 32) {
      sum[r] = vmlaq_n_s32(sum[r], dot(dot(zero, codes.half[0], xg[0]), codes.half[1], xg[1]), s[r].scale[2 * g]);
    } else {
      sum[r] = vmlaq_n_s32(sum[r], dot(zero, codes.half[0], xg[0]), s[r].scale[2 * g]);
      sum[r] = vmlaq_n_s32(sum[r], dot(zero, codes.half[1], xg[1]), s[r].scale[2 * g + 1]);
    }
  }
}

// mins of the contract.
QI__INLINE int32_t qi__total_mins_neon(qi_format id, const qi__format *f, const qi__scales_neon *s, const int16_t *sum) {
  if (f->info.block_len == 32) return qi__one_scale_neon(id) ? sum[0] + sum[1] : s->min[0] * sum[0] + s->min[1] * sum[1];
  int16x8_t m[2] = {vld1q_s16(s->min), vld1q_s16(s->min + 8)}, v[2] = {vld1q_s16(sum), vld1q_s16(sum + 8)};
  int32x4_t total = vmull_s16(vget_low_s16(m[0]), vget_low_s16(v[0]));
  total = vmlal_high_s16(total, m[0], v[0]);
  total = vmlal_s16(total, vget_low_s16(m[1]), vget_low_s16(v[1]));
  return vaddvq_s32(vmlal_high_s16(total, m[1], v[1]));
}

// Block b of both rows.
QI__INLINE void qi__pair_block_neon(qi_format id, const qi__format *bound, qi__dot4_fn dot, const uint8_t *const *w,
                                    const qi__x_neon *x, size_t b, float (*lanes)[8]) {
  const qi__format *f = qi__format_neon(id, bound);
  const int len = f->info.block_len;
  qi__block block[QI__NEON_PAIR];
  qi__scales_neon s[QI__NEON_PAIR];
  int32x4_t sum[QI__NEON_PAIR];
  QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
    qi__block_scales_neon(id, bound, w[r], &block[r], &s[r]);
    sum[r] = vdupq_n_s32(0);
  }
  if (id && len == 256) {
    QI__UNROLL for (int g = 0; g < 8; g++) qi__pair_part_neon(id, f, dot, w, block, s, x->q, g, sum);
  } else {
    for (int g = 0; g < len / 32; g++) qi__pair_part_neon(id, f, dot, w, block, s, x->q, g, sum);
  }
  QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
    float *lane = &lanes[r][b % 8];
    *lane = fmaf(s[r].d * *x->d, (float)vaddvq_s32(sum[r]), *lane);
    if (f->has_min) *lane = fmaf(-(s[r].dmin * *x->d), (float)qi__total_mins_neon(id, f, &s[r], x->sum), *lane);
  }
}

// Four blocks of 32, which end in four lanes, with one scale each.
QI__INLINE void qi__pair_quad_neon(qi_format id, const qi__format *f, qi__dot4_fn dot, const uint8_t *const *w, const qi__x_neon *x,
                                   float32x4_t *lane) {
  qi__block block[QI__NEON_PAIR]; // unused: these formats have a case
  qi__scales_neon s[4][QI__NEON_PAIR];
  int32x4_t sum[4][QI__NEON_PAIR];
  QI__UNROLL for (int b = 0; b < 4; b++) {
    const uint8_t *wb[QI__NEON_PAIR];
    QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
      wb[r] = w[r] + b * f->info.block_bytes;
      qi__block_scales_neon(id, f, wb[r], &block[r], &s[b][r]);
      sum[b][r] = vdupq_n_s32(0);
    }
    qi__pair_part_neon(id, f, dot, wb, block, s[b], x->q + 32 * b, 0, sum[b]);
  }
  float32x4_t d_x = vld1q_f32(x->d);
  QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
    int32x4_t totals = vpaddq_s32(vpaddq_s32(sum[0][r], sum[1][r]), vpaddq_s32(sum[2][r], sum[3][r]));
    float32x4_t d = {s[0][r].d, s[1][r].d, s[2][r].d, s[3][r].d};
    lane[r] = vfmaq_f32(lane[r], vmulq_f32(d, d_x), vcvtq_f32_s32(totals));
    if (f->has_min) {
      float32x4_t dmin = {s[0][r].dmin, s[1][r].dmin, s[2][r].dmin, s[3][r].dmin};
      lane[r] = vfmsq_f32(lane[r], vmulq_f32(dmin, d_x), vcvtq_f32_s32(vpaddlq_s16(vld1q_s16(x->sum))));
    }
  }
}

QI__INLINE void qi__x_advance_neon(qi__x_neon *x, size_t n_blocks, size_t len) {
  x->q += n_blocks * len;
  x->d += n_blocks;
  x->sum += n_blocks * len / 16;
}

// Weight rows first, first + 1; beyond the last row the last again.
QI__INLINE void qi__dot_pair_neon(qi_format id, qi__dot4_fn dot, const qi__dot_q8_args *a, size_t first) {
  const qi__format *f = qi__format_neon(id, a->format);
  const size_t len = (size_t)f->info.block_len, size = (size_t)f->info.block_bytes, n_blocks = a->x->k / len;
  const uint8_t *w[QI__NEON_PAIR];
  float lanes[QI__NEON_PAIR][8] = {{0}};
  qi__x_neon x = qi__x_at_neon(a->x, a->x_row, 0);
  size_t b = 0;
  QI__UNROLL for (size_t r = 0; r < QI__NEON_PAIR; r++) w[r] = a->w + qi__min_size(first + r, a->n_w - 1) * a->w_stride;
  if (id && len == 32) {
    float32x4_t lane[2][QI__NEON_PAIR];
    QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) lane[h][r] = vdupq_n_f32(0);
    for (; b + 8 <= n_blocks; b += 8)
      QI__UNROLL for (int h = 0; h < 2; h++) {
        qi__pair_quad_neon(id, f, dot, w, &x, lane[h]);
        qi__x_advance_neon(&x, 4, len);
        QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) w[r] += 4 * size;
      }
    QI__UNROLL for (int h = 0; h < 2; h++)
      QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) vst1q_f32(lanes[r] + 4 * h, lane[h][r]);
  }
  for (; b < n_blocks; b++) {
    qi__pair_block_neon(id, a->format, dot, w, &x, b, lanes);
    qi__x_advance_neon(&x, 1, len);
    QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) w[r] += size;
  }
  QI__UNROLL for (size_t r = 0; r < QI__NEON_PAIR; r++)
    if (first + r < a->n_w) a->y[first + r] = qi__sum_lanes(lanes[r]);
}

// ---- QINS8_K ----

// Its codes need nine bits: the sign goes to x, sizes 0..255 are 2 * (size / 2) + size % 2. For 16 codes.
QI__INLINE int32x4_t qi__qins8_products_neon(qi__dot4_fn dot, const qi__qins8_tables_neon *tables, uint8x16_t codes, int8x16_t x) {
  uint8x16_t sizes = qi__qins8_sizes_neon(tables, codes);
  int8x16_t minus = vshrq_n_s8(vreinterpretq_s8_u8(codes), 7), v = vsubq_s8(veorq_s8(x, minus), minus);
  int32x4_t halves = dot(vdupq_n_s32(0), vreinterpretq_s8_u8(vshrq_n_u8(sizes, 1)), v);
  return dot(vaddq_s32(halves, halves), vreinterpretq_s8_u8(vandq_u8(sizes, vdupq_n_u8(1))), v);
}

// One weight row with one row of activations.
QI__INLINE float qi__dot_qins8_k_row_neon(qi__dot4_fn dot, const qi__qins8_tables_neon *tables, const uint8_t *w, qi__x_neon x,
                                          size_t n_blocks) {
  float lane[8] = {0};
  for (size_t b = 0; b < n_blocks; b++, w += 272) {
    int8_t scale[16];
    uint8_t code[256];
    int32x4_t sum = vdupq_n_s32(0);
    vst1q_s8(scale, qi__qins_scales_neon(QI_FORMAT_QINS8_K, w));
    qi__qins_codes_neon(QI_FORMAT_QINS8_K, w, code);
    for (int g = 0; g < 16; g++)
      sum = vmlaq_n_s32(sum, qi__qins8_products_neon(dot, tables, vld1q_u8(code + 16 * g), vld1q_s8(x.q + 16 * g)), scale[g]);
    lane[b % 8] = fmaf(qi__qins_d_neon(QI_FORMAT_QINS8_K, w) * *x.d, (float)vaddvq_s32(sum), lane[b % 8]);
    qi__x_advance_neon(&x, 1, 256);
  }
  return qi__sum_lanes(lane);
}

QI__INLINE void qi__dot_qins8_k_rows_neon(qi__dot4_fn dot, const qi__dot_q8_args *a) {
  const qi__qins8_tables_neon tables = qi__load_qins8_tables_neon();
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i++) {
      qi__x_neon x = qi__x_at_neon(a->x, a->x_row + i, 0);
      a->y[i * a->y_stride + r] = qi__dot_qins8_k_row_neon(dot, &tables, a->w + r * a->w_stride, x, a->x->k / 256);
    }
}

QI__FN void qi__dot_qins8_k_neon(const qi__dot_q8_args *a) { qi__dot_qins8_k_rows_neon(qi__dot4_neon, a); }
QI__FN QI__DOTPROD void qi__dot_qins8_k_dotprod(const qi__dot_q8_args *a) { qi__dot_qins8_k_rows_neon(qi__dot4_dotprod, a); }

// ---- the other formats ----

// All weight rows, one function a format; [QI_FORMAT_NONE] takes all formats that have no other.
#define QI__DOT_ONE(name, id) \
  QI__FN void qi__dot_one_##name##_neon(const qi__dot_q8_args *a) { \
    for (size_t r = 0; r < a->n_w; r += QI__NEON_PAIR) qi__dot_pair_neon(id, qi__dot4_neon, a, r); \
  } \
  QI__FN QI__DOTPROD void qi__dot_one_##name##_dotprod(const qi__dot_q8_args *a) { \
    for (size_t r = 0; r < a->n_w; r += QI__NEON_PAIR) qi__dot_pair_neon(id, qi__dot4_dotprod, a, r); \
  }
QI__NEON_BLOCK_FORMATS(QI__DOT_ONE)
QI__DOT_ONE(any, QI_FORMAT_NONE)
#undef QI__DOT_ONE

#define QI__DOT_ONE(name, id) [id] = qi__dot_one_##name##_neon,
static const qi__dot_q8_fn qi__dot_one_neon[QI_FORMAT_COUNT] = {QI__NEON_BLOCK_FORMATS(QI__DOT_ONE)
                                                                QI__DOT_ONE(any, QI_FORMAT_NONE)};
#undef QI__DOT_ONE

#define QI__DOT_ONE(name, id) [id] = qi__dot_one_##name##_dotprod,
static const qi__dot_q8_fn qi__dot_one_dotprod[QI_FORMAT_COUNT] = {QI__NEON_BLOCK_FORMATS(QI__DOT_ONE)
                                                                   QI__DOT_ONE(any, QI_FORMAT_NONE)};
#undef QI__DOT_ONE

// ---- activations ----

// qi__round_even of four x * inverse, limited to -127..127.
QI__INLINE int16x4_t qi__codes4_neon(const float *x, float inverse) {
  float32x4_t v = vaddq_f32(vmulq_n_f32(vld1q_f32(x), inverse), vdupq_n_f32(12582912.0f));
  int32x4_t q = vsubq_s32(vreinterpretq_s32_f32(v), vdupq_n_s32(0x4b400000));
  return vmovn_s32(vminq_s32(vmaxq_s32(q, vdupq_n_s32(-127)), vdupq_n_s32(127)));
}

// max |x|; NaN does not count. n: a multiple of 16
QI__INLINE float qi__max_size_neon(const float *x, size_t n) {
  float32x4_t max[4];
  QI__UNROLL for (int e = 0; e < 4; e++) max[e] = vdupq_n_f32(0);
  for (size_t i = 0; i < n; i += 16)
    QI__UNROLL for (size_t e = 0; e < 4; e++) {
      float32x4_t v = vabsq_f32(vld1q_f32(x + i + 4 * e));
      max[e] = vbslq_f32(vcgtq_f32(v, max[e]), v, max[e]);
    }
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(max[0], max[1]), vmaxq_f32(max[2], max[3])));
}

QI__FN void qi__quantize_q8_neon(const float *x, const qi__q8 *out, size_t row) {
  size_t k = out->k, block = out->block;
  int8_t *q = out->q + row * out->stride;
  float *d = out->d + row * (k / block);
  int16_t *sum = out->sum + row * (k / 16);
  for (size_t b = 0; b < k / block; b++) {
    float max = qi__max_size_neon(x + b * block, block);
    float inverse = max > 0 ? 127.0f / max : 0;
    d[b] = max / 127.0f;
    if (!qi__is_finite(inverse)) inverse = d[b] = 0;
    for (size_t i = b * block; i < (b + 1) * block; i += 16) {
      int16x8_t low = vcombine_s16(qi__codes4_neon(x + i, inverse), qi__codes4_neon(x + i + 4, inverse));
      int16x8_t high = vcombine_s16(qi__codes4_neon(x + i + 8, inverse), qi__codes4_neon(x + i + 12, inverse));
      vst1q_s8(q + i, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
      sum[i / 16] = vaddvq_s16(vaddq_s16(low, high));
    }
  }
}
#endif

#endif // QI__KERNELS_DOT_Q8_NEON_H
