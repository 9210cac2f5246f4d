// ==== >>dot_ternary_neon : products of ternary rows with NEON, sdot and smmla ====
#ifndef QI__KERNELS_DOT_TERNARY_NEON_H
#define QI__KERNELS_DOT_TERNARY_NEON_H

#include "dot_ternary.h"
#include "panel_q8_neon.h"
#include "panel_ternary.h"

#if defined(QI__ARM64)

// ---- one row of activations ----

// 16 bytes of row r times activations: pairs of bits are multiplied where they stand, 1, 4 or 16 times too large; such sums are
// divided at the end, exactly. x: what the lowest bits meet; step: from there to the next.
QI__INLINE void qi__ternary_pairs_neon(qi__dot4_fn dot, uint8x16_t v, const int8_t *x, int step, int32x4_t *sum) {
  int8x16_t low = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(3))), second = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(12)));
  int8x16_t third = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(48))), top = vreinterpretq_s8_u8(vshrq_n_u8(v, 6));
  sum[0] = dot(sum[0], low, vld1q_s8(x));
  sum[1] = dot(sum[1], second, vld1q_s8(x + step));
  sum[2] = dot(sum[2], third, vld1q_s8(x + 2 * step));
  sum[3] = dot(sum[3], top, vld1q_s8(x + 3 * step));
}

// total[r] = products of row r; blocks from b on, until a scale changes: how far is returned.
QI__INLINE size_t qi__ternary_run_neon(qi_format id, qi__dot4_fn dot, const qi__ternary_pair *p, size_t b, int32_t *total) {
  size_t end = qi__min_size(p->n_blocks, b / QI__TERNARY_RUN * QI__TERNARY_RUN + QI__TERNARY_RUN);
  int32x4_t sum[QI__TERNARY_PAIR][4], x_sum = vdupq_n_s32(0);
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) QI__UNROLL for (int e = 0; e < 4; e++) sum[r][e] = x_sum;
  do {
    const int8_t *x = p->x + 256 * b;
    const int16_t *sums = p->sum + 16 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)};
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
      if (id == QI_FORMAT_TQ1_0) {
        QI__UNROLL for (int g = 0; g < 8; g++) {
          qi__codes32_neon codes = qi__codes_neon(id, w[r], g, NULL);
          sum[r][g % 4] = dot(sum[r][g % 4], codes.half[0], vld1q_s8(x + 32 * g));
          sum[r][g % 4] = dot(sum[r][g % 4], codes.half[1], vld1q_s8(x + 32 * g + 16));
        }
      } else {
        QI__UNROLL for (int i = 0; i < 4; i++) {
          const int8_t *xi = x + i / 2 * 128 + i % 2 * 16;
          if (id == QI_FORMAT_TQ2_0) qi__ternary_pairs_neon(dot, vld1q_u8(w[r] + 16 * i), xi, 32, sum[r]);
          else qi__ternary_pairs_neon(dot, vld1q_u8(w[r] + 16 * i), xi + 96, -32, sum[r]);
        }
      }
    }
    x_sum = vpadalq_s16(vpadalq_s16(x_sum, vld1q_s16(sums)), vld1q_s16(sums + 8));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    if (id != QI_FORMAT_TQ1_0) { // u = code + 1 was multiplied
      sum[r][0] = vsubq_s32(sum[r][0], x_sum);
      sum[r][1] = vshrq_n_s32(sum[r][1], 2);
      sum[r][2] = vshrq_n_s32(sum[r][2], 4);
    }
    total[r] = vaddvq_s32(vaddq_s32(vaddq_s32(sum[r][0], sum[r][1]), vaddq_s32(sum[r][2], sum[r][3])));
  }
  return b;
}

QI__INLINE void qi__ternary_rows_neon(qi_format id, qi__dot4_fn dot, const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r += QI__TERNARY_PAIR) {
    qi__ternary_pair p = qi__ternary_pair_of(id, a, r);
    for (size_t i = 0; i < a->n_x; i++) {
      qi__ternary_pair_start(&p, a->x, a->x_row + i);
      for (size_t b = 0; b < p.n_blocks;) {
        int32_t total[QI__TERNARY_PAIR];
        b = qi__ternary_run_neon(id, dot, &p, b, total);
        for (int j = 0; j < QI__TERNARY_PAIR; j++) {
          float d = p.f->info.tail_bytes ? p.d : qi__half_neon(qi__ternary_block(&p, j, b) - 2);
          qi__ternary_pair_add(&p, j, total[j], b - 1, d * p.d_x);
        }
      }
      qi__ternary_pair_finish(&p, a, r, a->y + i * a->y_stride);
    }
  }
}

// ---- many rows of activations ----

// The panel holds signed codes: [k / 32][row / 2][64] as in panel_q8_neon.h.
QI__INLINE void qi__ternary_pack_neon_of(qi_format id, const uint8_t *const *w, uint8_t *code) {
  for (size_t r = 0; r < QI__Q8_ROWS; r++)
    for (int g = 0; g < 8; g++) {
      qi__codes32_neon codes = qi__codes_neon(id, w[r], g, NULL);
      int8_t *dst = (int8_t *)code + ((size_t)g * (QI__Q8_ROWS / 2) + r / 2) * 64 + r % 2 * 8;
      QI__UNROLL for (int h = 0; h < 2; h++) {
        vst1_s8(dst + 32 * h, vget_low_s8(codes.half[h]));
        vst1_s8(dst + 32 * h + 16, vget_high_s8(codes.half[h]));
      }
    }
}

QI__FN void qi__ternary_pack_neon(qi_format id, const uint8_t *const *w, uint8_t *code) {
  if (id == QI_FORMAT_TQ1_0) qi__ternary_pack_neon_of(QI_FORMAT_TQ1_0, w, code);
  else if (id == QI_FORMAT_TQ2_0) qi__ternary_pack_neon_of(QI_FORMAT_TQ2_0, w, code);
  else qi__ternary_pack_neon_of(QI_FORMAT_I2_S, w, code);
}

QI__FN void qi__ternary_take_neon(const qi__ternary_end *e) {
  const float *d = e->panel->d[e->b];
  for (size_t i = 0; i < e->n_x; i++)
    for (size_t r = 0; r < QI__Q8_ROWS; r += 4) {
      float *to = e->y + i * e->y_stride + r;
      int32x4_t total = vld1q_s32(e->total[i] + r), ends = vld1q_s32(e->panel->ends[e->b] + r);
      float32x4_t y = e->first ? vdupq_n_f32(0) : vld1q_f32(to);
      float32x4_t sum = vfmaq_f32(y, vmulq_n_f32(vld1q_f32(d + r), e->d_x[i]), vcvtq_f32_s32(total));
      vst1q_f32(to, vbslq_f32(vreinterpretq_u32_s32(ends), sum, y));
      vst1q_s32(e->total[i] + r, vbicq_s32(total, ends));
    }
}

// n_pairs of rows of activations at a time, in tiles as in panel_q8_neon.h; beyond the last row the last again.
QI__INLINE void qi__ternary_tiles_neon(qi__load_x_neon load, qi__products_neon products, int n_pairs,
                                       const qi__ternary_segment *s) {
  for (size_t i = 0; i < s->n_x; i += 2 * (size_t)n_pairs) {
    size_t row[2][2];
    const int8_t *q[2][2];
    for (size_t j = 0; j < 2 * (size_t)n_pairs; j++) {
      row[j / 2][j % 2] = qi__min_size(i + j, s->n_x - 1);
      q[j / 2][j % 2] = s->x + row[j / 2][j % 2] * s->stride;
    }
    for (size_t first = 0; first < QI__Q8_ROWS / 2; first += QI__NEON_TILES) {
      int32x4_t sum[2][QI__NEON_TILES];
      QI__UNROLL for (int j = 0; j < n_pairs; j++) QI__UNROLL for (size_t t = 0; t < QI__NEON_TILES; t++) {
        const int32_t *total[2] = {s->total[row[j][0]] + 2 * (first + t), s->total[row[j][1]] + 2 * (first + t)};
        sum[j][t] = s->fresh ? vdupq_n_s32(0) : vcombine_s32(vld1_s32(total[0]), vld1_s32(total[1]));
      }
      for (size_t g = 0; g < 8 * s->n_blocks; g++) {
        int8x16_t v[2][8];
        QI__UNROLL for (int j = 0; j < n_pairs; j++) load(q[j], (int)g, v[j]);
        QI__UNROLL for (size_t t = 0; t < QI__NEON_TILES; t++) {
          const int8_t *w = (const int8_t *)s->code + (g * (QI__Q8_ROWS / 2) + first + t) * 64;
          QI__UNROLL for (int j = 0; j < n_pairs; j++) sum[j][t] = products(sum[j][t], w, v[j], 0, 4);
        }
      }
      QI__UNROLL for (int j = 0; j < n_pairs; j++) QI__UNROLL for (size_t t = 0; t < QI__NEON_TILES; t++) {
        vst1_s32(s->total[row[j][0]] + 2 * (first + t), vget_low_s32(sum[j][t]));
        vst1_s32(s->total[row[j][1]] + 2 * (first + t), vget_high_s32(sum[j][t]));
      }
    }
  }
}

// ---- the kernels ----

#define QI__TERNARY_MULTIPLY(isa, target, load, products, n_pairs) \
  QI__FN target void qi__ternary_multiply_##isa(const qi__ternary_segment *s) { \
    qi__ternary_tiles_neon(load, products, n_pairs, s); \
  }
QI__TERNARY_MULTIPLY(neon, , qi__load_x_twice_neon, qi__products_plain_neon, 1)
QI__TERNARY_MULTIPLY(dotprod, QI__DOTPROD, qi__load_x_twice_neon, qi__products_dotprod_neon, 1)
#if defined(QI__HAS_I8MM)
QI__TERNARY_MULTIPLY(i8mm, QI__I8MM, qi__load_x_pairs_neon, qi__products_i8mm_neon, 2)
#endif
#undef QI__TERNARY_MULTIPLY

#define QI__TERNARY_ROW(isa, target, dot) \
  QI__FN target void qi__ternary_row_##isa(const qi__dot_q8_args *a) { \
    qi_format id = a->format->id; \
    if (id == QI_FORMAT_TQ1_0) qi__ternary_rows_neon(QI_FORMAT_TQ1_0, dot, a); \
    else if (id == QI_FORMAT_TQ2_0) qi__ternary_rows_neon(QI_FORMAT_TQ2_0, dot, a); \
    else qi__ternary_rows_neon(QI_FORMAT_I2_S, dot, a); \
  }
QI__TERNARY_ROW(neon, , qi__dot4_neon)
QI__TERNARY_ROW(dotprod, QI__DOTPROD, qi__dot4_dotprod)
#undef QI__TERNARY_ROW

// One row leaves half of smmla without work.
#define QI__DOT_TERNARY(isa, row) \
  QI__FN void qi__dot_ternary_##isa(const qi__dot_q8_args *a) { \
    static const qi__ternary_kernels kernels = {qi__ternary_pack_neon, qi__ternary_multiply_##isa, qi__ternary_take_neon, false}; \
    if (a->n_x == 1) row(a); \
    else qi__dot_ternary_panels(&kernels, a); \
  }
QI__DOT_TERNARY(neon, qi__ternary_row_neon)
QI__DOT_TERNARY(dotprod, qi__ternary_row_dotprod)
#if defined(QI__HAS_I8MM)
QI__DOT_TERNARY(i8mm, qi__ternary_row_dotprod)
#endif
#undef QI__DOT_TERNARY
#endif

#endif // QI__KERNELS_DOT_TERNARY_NEON_H
