// ==== >>panel_q8_neon : integer products with NEON and many rows of activations ====
#ifndef QI__KERNELS_PANEL_Q8_NEON_H
#define QI__KERNELS_PANEL_Q8_NEON_H

#include "dot_q8_neon.h"

#if defined(QI__ARM64)

// A chunk of 256 columns (one block, or up to eight of 32) of all weight rows is taken apart into a panel, which meets all rows of
// activations; their sums wait in eight lanes each until the next chunk. Everything goes in tiles of 2 x 2 sums
//
//   (x0 w0) (x0 w1) (x1 w0) (x1 w1)       w0, w1: weight rows, x0, x1: rows of activations
//
// which is what smmla makes of eight codes of x0 and eight of x1 with eight of w0 and eight of w1. With sdot a register of weights
// meets eight codes of x0, twice, then of x1, and neighbours are added.
typedef struct qi__panel_neon {
  int8_t code[8][QI__Q8_ROWS / 2][64];                  // [k / 32][row / 2]: eight codes of one row, eight of the other, and so on
  int32_t scale[16][QI__Q8_ROWS], min[16][QI__Q8_ROWS]; // [k / 16]; formats with one scale a block leave `scale` out
  float d[8][QI__Q8_ROWS], dmin[8][QI__Q8_ROWS];        // [block]
} qi__panel_neon;

// [2 rows of activations][lane][weight rows / 2]: tiles
typedef float qi__tiles_neon[8][QI__Q8_ROWS / 2][4];

// An odd last row of activations has a partner beyond the rows that qi__q8_scratch counts.
QI__STATIC_ASSERT(sizeof(qi__panel_neon) + sizeof(qi__tiles_neon) / 2 <= QI__Q8_PANEL_FLOATS * sizeof(float), panel_neon);

// ---- weights to a panel ----

// Row r of the panel: n blocks at w.
QI__INLINE void qi__panel_row_neon(qi_format id, const qi__format *bound, const uint8_t *w, int n, size_t r, qi__panel_neon *p) {
  const qi__format *f = qi__format_neon(id, bound);
  const int len = f->info.block_len;
  qi__block block;
  qi__scales_neon s;
  for (int b = 0; b < n; b++, w += f->info.block_bytes) {
    qi__block_scales_neon(id, bound, w, &block, &s);
    p->d[b][r] = s.d;
    p->dmin[b][r] = s.dmin;
    for (int i = 0; i < len / 16; i++) {
      int at = b * (len / 16) + i;
      if (!qi__one_scale_neon(id)) p->scale[at][r] = s.scale[i];
      if (f->has_min) p->min[at][r] = qi__one_scale_neon(id) ? 1 : s.min[i];
    }
    for (int g = 0; g < len / 32; g++) {
      qi__codes32_neon codes = qi__codes_neon(id, w, g, &block);
      int8_t *dst = p->code[b * (len / 32) + g][r / 2] + r % 2 * 8;
      QI__UNROLL for (int h = 0; h < 2; h++) {
        vst1_s8(dst + 32 * h, vget_low_s8(codes.half[h]));
        vst1_s8(dst + 32 * h + 16, vget_high_s8(codes.half[h]));
      }
    }
  }
}

// n blocks at column `at` of all weight rows, and of the last one again until there are `n_rows`.
QI__FN void qi__panel_fill_neon(const qi__dot_q8_args *a, size_t n_rows, size_t at, int n, qi__panel_neon *p) {
  const qi__format *f = a->format;
  const uint8_t *first = a->w + at / (size_t)f->info.block_len * (size_t)f->info.block_bytes;
  for (size_t r = 0; r < n_rows; r++) {
    const uint8_t *w = first + qi__min_size(r, a->n_w - 1) * a->w_stride;
#define QI__CASE(name, id) case id: qi__panel_row_neon(id, f, w, n, r, p); break;
    switch (f->id) {
      QI__NEON_BLOCK_FORMATS(QI__CASE)
    default: qi__panel_row_neon(QI_FORMAT_NONE, f, w, n, r, p); break;
    }
#undef QI__CASE
  }
}

// ---- what differs between the instruction sets; constants where the loops below are inlined ----

// Codes 32 g .. 32 g + 31 of two rows of activations, as `products` wants them.
typedef void (*qi__load_x_neon)(const int8_t *const *q, int g, int8x16_t *x);

// sum + products of codes 8 first .. 8 (first + n) - 1 of 32: a tile.
typedef int32x4_t (*qi__products_neon)(int32x4_t sum, const int8_t *code, const int8x16_t *x, int first, int n);

// Eight codes twice; x0, then x1.
QI__INLINE void qi__load_x_twice_neon(const int8_t *const *q, int g, int8x16_t *x) {
  QI__UNROLL for (int i = 0; i < 8; i++) {
    int8x8_t v = vld1_s8(q[i / 4] + 32 * g + i % 4 * 8);
    x[i] = vcombine_s8(v, v);
  }
}

QI__INLINE int32x4_t qi__products_dot4_neon(qi__dot4_fn dot, int32x4_t sum, const int8_t *code, const int8x16_t *x, int first,
                                            int n) {
  int32x4_t part[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
  QI__UNROLL for (int i = first; i < first + n; i++) {
    int8x16_t w = vld1q_s8(code + 16 * i);
    part[0] = dot(part[0], w, x[i]);
    part[1] = dot(part[1], w, x[4 + i]);
  }
  return vaddq_s32(sum, vpaddq_s32(part[0], part[1]));
}

QI__INLINE int32x4_t qi__products_plain_neon(int32x4_t sum, const int8_t *code, const int8x16_t *x, int first, int n) {
  return qi__products_dot4_neon(qi__dot4_neon, sum, code, x, first, n);
}

QI__INLINE QI__DOTPROD int32x4_t qi__products_dotprod_neon(int32x4_t sum, const int8_t *code, const int8x16_t *x, int first,
                                                           int n) {
  return qi__products_dot4_neon(qi__dot4_dotprod, sum, code, x, first, n);
}

#if defined(QI__HAS_I8MM)

// Eight codes of x0 and eight of x1.
QI__INLINE void qi__load_x_pairs_neon(const int8_t *const *q, int g, int8x16_t *x) {
  QI__UNROLL for (int i = 0; i < 2; i++) {
    int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(q[0] + 32 * g + 16 * i));
    int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(q[1] + 32 * g + 16 * i));
    x[2 * i] = vreinterpretq_s8_s64(vtrn1q_s64(a, b));
    x[2 * i + 1] = vreinterpretq_s8_s64(vtrn2q_s64(a, b));
  }
}

QI__INLINE QI__I8MM int32x4_t qi__products_i8mm_neon(int32x4_t sum, const int8_t *code, const int8x16_t *x, int first, int n) {
  QI__UNROLL for (int i = first; i < first + n; i++)
    __asm__(QI__ASM_SMMLA " %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x[i]), "w"(vld1q_s8(code + 16 * i)));
  return sum;
}
#endif

// ---- tiles ----

// Two values, twice.
QI__INLINE int32x4_t qi__twice_s32_neon(const int32_t *p) {
  int32x2_t v = vld1_s32(p);
  return vcombine_s32(v, v);
}
QI__INLINE float32x4_t qi__twice_f32_neon(const float *p) {
  float32x2_t v = vld1_f32(p);
  return vcombine_f32(v, v);
}

// Two rows of activations: a chunk of them.
typedef struct qi__x_pair_neon {
  const int8_t *q[2];
  float d[8][4];       // [block]: of x0, x0, x1, x1
  int32_t sum[16][4];  // the same of each group of 16, or of 32, if the format has a minimum
  qi__tiles_neon *tiles;
} qi__x_pair_neon;

QI__INLINE void qi__x_pair_at_neon(const qi__dot_q8_args *a, size_t row, size_t partner, size_t at, int n, int group,
                                   qi__x_pair_neon *out) {
  qi__x_neon x[2] = {qi__x_at_neon(a->x, row, at), qi__x_at_neon(a->x, partner, at)};
  for (int j = 0; j < 2; j++) {
    out->q[j] = x[j].q;
    for (int b = 0; b < n; b++) out->d[b][2 * j] = out->d[b][2 * j + 1] = x[j].d[b];
    if (!a->format->has_min) continue;
    for (int i = 0; i < n * a->format->info.block_len / group; i++) {
      int32_t sum = group == 16 ? x[j].sum[i] : x[j].sum[2 * i] + x[j].sum[2 * i + 1];
      out->sum[i][2 * j] = out->sum[i][2 * j + 1] = sum;
    }
  }
}

// What is a constant where loops are inlined.
typedef struct qi__panel_kind_neon {
  qi__load_x_neon load;
  qi__products_neon products;
  int n_pairs; // of rows of activations at a time: 1, or 2 where registers suffice
  int block_len, group;
  bool one_scale;
} qi__panel_kind_neon;

#define QI__NEON_TILES 4 // pairs of weight rows that are multiplied at a time

// Integer sums of block b: pairs of weight rows first .. first + 3, times n_pairs of rows of activations.
QI__INLINE void qi__panel_products_neon(qi__panel_kind_neon kind, const qi__panel_neon *p, size_t first, int b,
                                        const qi__x_pair_neon *x, int32x4_t (*sum)[QI__NEON_TILES]) {
  const int32x4_t zero = vdupq_n_s32(0);
  const int n = kind.block_len / 32;
  QI__UNROLL for (int j = 0; j < kind.n_pairs; j++) QI__UNROLL for (int t = 0; t < QI__NEON_TILES; t++) sum[j][t] = zero;
  for (int g = b * n; g < (b + 1) * n; g++) {
    int8x16_t v[2][8];
    QI__UNROLL for (int j = 0; j < kind.n_pairs; j++) kind.load(x[j].q, g, v[j]);
    QI__UNROLL for (size_t t = 0; t < QI__NEON_TILES; t++) {
      const int8_t *code = p->code[g][first + t];
      const int32_t *scale = &p->scale[2 * g][2 * (first + t)];
      QI__UNROLL for (int j = 0; j < kind.n_pairs; j++) {
        if (kind.one_scale) {
          sum[j][t] = kind.products(sum[j][t], code, v[j], 0, 4);
        } else if (kind.group == 32) {
          sum[j][t] = vmlaq_s32(sum[j][t], kind.products(zero, code, v[j], 0, 4), qi__twice_s32_neon(scale));
        } else {
          sum[j][t] = vmlaq_s32(sum[j][t], kind.products(zero, code, v[j], 0, 2), qi__twice_s32_neon(scale));
          sum[j][t] = vmlaq_s32(sum[j][t], kind.products(zero, code, v[j], 2, 2), qi__twice_s32_neon(scale + QI__Q8_ROWS));
        }
      }
    }
  }
}

// Adds block b to lane `lane`.
QI__INLINE void qi__panel_block_neon(qi__panel_kind_neon kind, bool has_min, const qi__panel_neon *p, size_t first, int b,
                                     size_t lane, const qi__x_pair_neon *x) {
  const int n_mins = kind.block_len / kind.group;
  int32x4_t sum[2][QI__NEON_TILES];
  qi__panel_products_neon(kind, p, first, b, x, sum);
  QI__UNROLL for (int j = 0; j < kind.n_pairs; j++) QI__UNROLL for (size_t t = 0; t < QI__NEON_TILES; t++) {
    float *at = (*x[j].tiles)[lane][first + t];
    size_t row = 2 * (first + t);
    float32x4_t d_x = vld1q_f32(x[j].d[b]), y = vld1q_f32(at);
    y = vfmaq_f32(y, vmulq_f32(qi__twice_f32_neon(p->d[b] + row), d_x), vcvtq_f32_s32(sum[j][t]));
    if (has_min) {
      int32x4_t mins = vdupq_n_s32(0);
      for (int i = b * n_mins; i < (b + 1) * n_mins; i++)
        mins = vmlaq_s32(mins, qi__twice_s32_neon(&p->min[i * (kind.group / 16)][row]), vld1q_s32(x[j].sum[i]));
      y = vfmsq_f32(y, vmulq_f32(qi__twice_f32_neon(p->dmin[b] + row), d_x), vcvtq_f32_s32(mins));
    }
    vst1q_f32(at, y);
  }
}

// ---- all rows ----

// What a batch of rows of activations meets.
typedef struct qi__panel_run_neon {
  const qi__dot_q8_args *a;
  size_t begin, n_x; // rows of activations a->x_row + begin ..
  size_t at;         // column
  int n;             // blocks
  size_t n_tiles;
  const qi__panel_neon *panel;
  qi__tiles_neon *tiles; // [n_x / 2]
} qi__panel_run_neon;

// kind.n_pairs pairs of rows, from i on. An odd last row is its own partner.
QI__INLINE void qi__panel_pairs_neon(qi__panel_kind_neon kind, const qi__panel_run_neon *run, size_t i) {
  qi__x_pair_neon x[2];
  size_t row = run->a->x_row + run->begin, n = (size_t)(256 / kind.block_len);
  for (int j = 0; j < kind.n_pairs; j++, i += 2) {
    qi__x_pair_at_neon(run->a, row + i, row + qi__min_size(i + 1, run->n_x - 1), run->at, run->n, kind.group, &x[j]);
    x[j].tiles = &run->tiles[i / 2];
  }
  for (int b = 0; b < run->n; b++)
    for (size_t first = 0; first < run->n_tiles; first += QI__NEON_TILES)
      qi__panel_block_neon(kind, run->a->format->has_min, run->panel, first, b, (run->at / 256 * n + (size_t)b) % 8, x);
}

QI__INLINE void qi__panel_run_neon_kind(qi__panel_kind_neon kind, const qi__panel_run_neon *run) {
  size_t i = 0;
  if (kind.n_pairs == 2)
    for (; i + 2 < run->n_x; i += 4) qi__panel_pairs_neon(kind, run, i);
  kind.n_pairs = 1;
  for (; i < run->n_x; i += 2) qi__panel_pairs_neon(kind, run, i);
}

// One scale a block: none in the loops. Blocks of 32 without a case: theirs are kept for each 16 codes.
QI__INLINE void qi__panel_run_any_neon(qi__load_x_neon load, qi__products_neon products, int n_pairs, bool one_scale,
                                       const qi__panel_run_neon *run) {
  const qi__format *f = run->a->format;
  if (f->info.block_len == 32) {
    if (one_scale) qi__panel_run_neon_kind((qi__panel_kind_neon){load, products, n_pairs, 32, 32, true}, run);
    else qi__panel_run_neon_kind((qi__panel_kind_neon){load, products, n_pairs, 32, 16, false}, run);
  } else if (f->group == 32) {
    qi__panel_run_neon_kind((qi__panel_kind_neon){load, products, n_pairs, 256, 32, false}, run);
  } else {
    qi__panel_run_neon_kind((qi__panel_kind_neon){load, products, n_pairs, 256, 16, false}, run);
  }
}

// y of the batch: qi__sum_lanes of each tile.
QI__FN void qi__panel_finish_neon(const qi__panel_run_neon *run) {
  for (size_t i = 0; i < run->n_x; i += 2)
    for (size_t r = 0; r < run->a->n_w; r += 2) {
      float32x4_t lane[8];
      float sum[4];
      for (int l = 0; l < 8; l++) lane[l] = vld1q_f32(run->tiles[i / 2][l][r / 2]);
      float32x4_t even = vaddq_f32(vaddq_f32(lane[0], lane[4]), vaddq_f32(lane[2], lane[6]));
      float32x4_t odd = vaddq_f32(vaddq_f32(lane[1], lane[5]), vaddq_f32(lane[3], lane[7]));
      vst1q_f32(sum, vaddq_f32(even, odd));
      for (size_t j = 0; j < 4; j++)
        if (i + j / 2 < run->n_x && r + j % 2 < run->a->n_w)
          run->a->y[(run->begin + i + j / 2) * run->a->y_stride + r + j % 2] = sum[j];
    }
}

QI__FN bool qi__has_one_scale_neon(qi_format id) {
#define QI__CASE(name, id) case id: return qi__one_scale_neon(id);
  switch (id) {
    QI__NEON_BLOCK_FORMATS(QI__CASE)
  default: return false;
  }
#undef QI__CASE
}

QI__INLINE void qi__dot_panels_neon(qi__load_x_neon load, qi__products_neon products, int n_pairs, const qi__dot_q8_args *a) {
  qi__panel_neon *panel = (qi__panel_neon *)(void *)a->scratch;
  qi__tiles_neon *tiles = (qi__tiles_neon *)(void *)(panel + 1);
  size_t len = (size_t)a->format->info.block_len;
  size_t n_tiles = (a->n_w + 2 * QI__NEON_TILES - 1) / (2 * QI__NEON_TILES) * QI__NEON_TILES;
  bool one_scale = qi__has_one_scale_neon(a->format->id);
  for (size_t begin = 0; begin < a->n_x; begin += QI__Q8_BATCH) {
    qi__panel_run_neon run = {a, begin, qi__min_size(QI__Q8_BATCH, a->n_x - begin), 0, 0, n_tiles, panel, tiles};
    memset(tiles, 0, (run.n_x + 1) / 2 * sizeof *tiles);
    for (run.at = 0; run.at < a->x->k; run.at += 256) {
      run.n = (int)(qi__min_size(256, a->x->k - run.at) / len);
      qi__panel_fill_neon(a, 2 * n_tiles, run.at, run.n, panel);
      qi__panel_run_any_neon(load, products, n_pairs, one_scale, &run);
    }
    qi__panel_finish_neon(&run);
  }
}

// ---- the kernels ----

QI__FN void qi__dot_several_neon(const qi__dot_q8_args *a) {
  qi__dot_panels_neon(qi__load_x_twice_neon, qi__products_plain_neon, 1, a);
}

QI__FN QI__DOTPROD void qi__dot_several_dotprod(const qi__dot_q8_args *a) {
  qi__dot_panels_neon(qi__load_x_twice_neon, qi__products_dotprod_neon, 1, a);
}

QI__FN void qi__dot_one_of_neon(const qi__dot_q8_fn *kernels, const qi__dot_q8_args *a) {
  qi__dot_q8_fn kernel = kernels[a->format->id];
  (kernel ? kernel : kernels[QI_FORMAT_NONE])(a);
}

QI__FN void qi__dot_q8_neon(const qi__dot_q8_args *a) {
  if (a->n_x == 1) qi__dot_one_of_neon(qi__dot_one_neon, a);
  else qi__dot_several_neon(a);
}

QI__FN void qi__dot_q8_dotprod(const qi__dot_q8_args *a) {
  if (a->n_x == 1) qi__dot_one_of_neon(qi__dot_one_dotprod, a);
  else qi__dot_several_dotprod(a);
}

#if defined(QI__HAS_I8MM)
QI__FN QI__I8MM void qi__dot_several_i8mm(const qi__dot_q8_args *a) {
  qi__dot_panels_neon(qi__load_x_pairs_neon, qi__products_i8mm_neon, 2, a);
}

// One row leaves half of smmla without work.
QI__FN void qi__dot_q8_i8mm(const qi__dot_q8_args *a) {
  if (a->n_x == 1) qi__dot_one_of_neon(qi__dot_one_dotprod, a);
  else qi__dot_several_i8mm(a);
}
#endif
#endif

#endif // QI__KERNELS_PANEL_Q8_NEON_H
