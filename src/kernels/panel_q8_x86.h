// ==== >>panel_q8_x86 : integer products with many rows of activations ====
#ifndef QI__KERNELS_PANEL_Q8_X86_H
#define QI__KERNELS_PANEL_Q8_X86_H

#include "dot_q8_x86.h"

#if defined(QI__X86_64)

// A chunk of 32 weight rows is taken apart into a panel, whose lanes are weight rows, and meets all rows of activations; sums wait
// in eight float32 lanes a row until the next chunk. Codes are unsigned, code + offset; the offset times the sum of the
// activations is taken off again, either before (VNNI: sums start from it) or after.
//
// AVX2 adds products of two bytes in int16 for as many steps as fit (`chain`). Wide codes, up to 255, do not fit even once: they
// are cut into two planes of four bits, the second counting 16 times.
typedef struct qi__q8_panel {
  const uint8_t *code;               // lines of 64 bytes: [plane][rows / 16][k / 4][row % 16, k % 4], or stored (VNNI)
  bool stored, nibbles;              // see below: as qi__q8_stored says
  const int8_t (*scale)[QI__Q8_ROWS]; // [group]; none in blocks of 32
  const int8_t (*min)[QI__Q8_ROWS][2]; // [group / 2]; formats with mins
  const int32_t (*scale_twice)[QI__Q8_ROWS]; // AVX2: [group] pairs of equal int16
  const int32_t (*pair)[QI__Q8_ROWS]; // AVX2: [group / 2] of two groups, what meets the sums of their activations: mins, or scales
  const float (*d)[QI__Q8_ROWS], (*minus_dmin)[QI__Q8_ROWS]; // [block of 32], or [0]
} qi__q8_panel;

// A panel that is not taken from a cache. Its size is a multiple of the cache line: several lie one after another.
typedef struct qi__q8_own_panel {
  uint8_t code[2][2][64][64];
  int8_t scale[16][QI__Q8_ROWS], min[8][QI__Q8_ROWS][2];
  float d[8][QI__Q8_ROWS], minus_dmin[8][QI__Q8_ROWS];
  int32_t scale_twice[16][QI__Q8_ROWS], pair[8][QI__Q8_ROWS];
} qi__q8_own_panel;

QI__STATIC_ASSERT(sizeof(qi__q8_own_panel) % QI__CACHE_LINE == 0, q8_panel_lines);
QI__STATIC_ASSERT(sizeof(qi__q8_own_panel) <= QI__Q8_PANEL_FLOATS * sizeof(float), q8_panel);

// What the variants need to know of a format.
typedef struct qi__q8_plan {
  const qi__format *format;
  qi_format id;
  int offset; // code + offset is unsigned
  int chain;  // products of pairs that fit into int16: steps of 4 codes
  bool planes, vnni;
} qi__q8_plan;

QI__INLINE qi__q8_plan qi__q8_plan_of(const qi__format *f, bool vnni) {
  qi_format id = qi__format_id(f);
  qi__q8_plan p = {f, id, qi__q8_offset(id), 8, false, vnni};
  if (p.offset == QI__WIDE) {
    p.offset = 128;
    p.planes = !vnni;
  } else if (id == QI_FORMAT_Q6_K) {
    p.chain = 2; // 2 * 63 * 127 * 2
  } else if (id == QI_FORMAT_Q5_0 || id == QI_FORMAT_Q5_1 || id == QI_FORMAT_Q5_K || id == QI_FORMAT_MXFP4) {
    p.chain = 4; // 4 * 31 * 127 * 2
  }
  if (f->group == 16 && p.chain > 4) p.chain = 4;
  return p;
}

// ---- weights to a panel ----

// Eight rows of 256 codes, 4 at a time, to one half of the lines of a plane: dst[k / 4][row, k % 4].
QI__FN QI__AVX2 void qi__panel_interleave_avx2(uint8_t (*rows)[256], uint8_t *dst) {
  for (int k = 0; k < 256; k += 32, dst += 8 * 64) {
    __m256i a[8], b[8];
    QI__UNROLL for (int r = 0; r < 8; r++) a[r] = qi__bytes_avx2(rows[r] + k);
    QI__UNROLL for (int r = 0; r < 8; r += 2) {
      b[r] = _mm256_unpacklo_epi32(a[r], a[r + 1]);
      b[r + 1] = _mm256_unpackhi_epi32(a[r], a[r + 1]);
    }
    // a[4 i + c], half l: dword 4 l + c of rows 4 i .. 4 i + 3
    QI__UNROLL for (int r = 0; r < 8; r += 4) {
      a[r] = _mm256_unpacklo_epi64(b[r], b[r + 2]);
      a[r + 1] = _mm256_unpackhi_epi64(b[r], b[r + 2]);
      a[r + 2] = _mm256_unpacklo_epi64(b[r + 1], b[r + 3]);
      a[r + 3] = _mm256_unpackhi_epi64(b[r + 1], b[r + 3]);
    }
    QI__UNROLL for (int c = 0; c < 4; c++) {
      qi__store_bytes_avx2(dst + 64 * c, _mm256_permute2x128_si256(a[c], a[4 + c], 0x20));
      qi__store_bytes_avx2(dst + 64 * (c + 4), _mm256_permute2x128_si256(a[c], a[4 + c], 0x31));
    }
  }
}

// Scales and mins of row r, from the words of its block.
QI__INLINE void qi__panel_scales(const qi__format *f, const int16_t *scale, const int16_t *min, size_t r, qi__q8_own_panel *p) {
  // scale[g], scale[8 + g] belong to the first and second 16 codes of group g of 32
  for (int g = 0; g < 8; g++) {
    if (f->group == 32) {
      p->scale[g][r] = (int8_t)scale[g];
    } else {
      p->scale[2 * g][r] = (int8_t)scale[g];
      p->scale[2 * g + 1][r] = (int8_t)scale[8 + g];
    }
  }
  // Words of min are in order, one for each 16 codes.
  for (int g = 0; f->has_min && g < 256 / f->group; g++) p->min[g / 2][r][g % 2] = (int8_t)min[f->group / 16 * g];
}

// Row r: scales to the panel, codes to `codes`; n blocks of 32 or one of 256 at w. id is a constant where this is inlined.
QI__INLINE QI__AVX2 void qi__panel_row_avx2(qi_format id, const qi__q8_plan *plan, const uint8_t *w, int n, size_t r,
                                            qi__q8_own_panel *p, uint8_t *codes) {
  const qi__format *f = id ? &qi__formats[id] : plan->format;
  int offset = qi__q8_offset(id);
  const __m256i wide = _mm256_set1_epi8(offset == QI__WIDE ? (char)-128 : 0);
  if (id && f->info.block_len == 32) {
    float d[8], minus_dmin[8] = {0};
    _mm256_storeu_ps(d, qi__block_d_avx2(id, f, w, n));
    if (f->has_min) _mm256_storeu_ps(minus_dmin, qi__block_offset_avx2(f, w, n));
    for (int b = 0; b < n; b++, w += f->info.block_bytes) {
      p->d[b][r] = d[b];
      p->minus_dmin[b][r] = minus_dmin[b];
      qi__store_bytes_avx2(codes + 32 * b, _mm256_xor_si256(qi__q8_codes_avx2(id, w, 0, NULL, offset), wide));
    }
    return;
  }
  qi__block block;
  qi__q8_scales s;
  int16_t scale[16], min[16];
  qi__q8_scales_avx2(id, plan->format, w, &block, &s);
  p->d[0][r] = s.d;
  p->minus_dmin[0][r] = -s.dmin;
  qi__store_bytes_avx2(scale, s.scale);
  qi__store_bytes_avx2(min, s.min);
  qi__panel_scales(plan->format, scale, min, r, p);
  QI__UNROLL for (int g = 0; g < 8; g++)
    qi__store_bytes_avx2(codes + 32 * g, _mm256_xor_si256(qi__q8_codes_avx2(id, w, g, &block, offset), wide));
}

QI__INLINE qi__q8_panel qi__panel_view(const qi__q8_own_panel *p) {
  qi__q8_panel v;
  v.code = p->code[0][0][0];
  v.stored = v.nibbles = false;
  v.scale = (const int8_t (*)[QI__Q8_ROWS])p->scale;
  v.min = (const int8_t (*)[QI__Q8_ROWS][2])p->min;
  v.d = (const float (*)[QI__Q8_ROWS])p->d;
  v.minus_dmin = (const float (*)[QI__Q8_ROWS])p->minus_dmin;
  v.scale_twice = (const int32_t (*)[QI__Q8_ROWS])p->scale_twice;
  v.pair = (const int32_t (*)[QI__Q8_ROWS])p->pair;
  return v;
}

// Eight int8 at a and eight at b as pairs of int16.
QI__INLINE QI__AVX2 __m256i qi__byte_pairs_avx2(const int8_t *a, const int8_t *b) {
  __m128i first = _mm_loadl_epi64((const __m128i *)(const void *)a), second = _mm_loadl_epi64((const __m128i *)(const void *)b);
  return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(first, second));
}

// What AVX2 multiplies with, from int8.
QI__FN QI__AVX2 void qi__panel_widen_avx2(const qi__q8_plan *plan, const int8_t (*scale)[QI__Q8_ROWS],
                                          const int8_t (*min)[QI__Q8_ROWS][2], qi__q8_own_panel *p) {
  int groups = plan->format->info.block_len == 32 ? 0 : 256 / plan->format->group;
  for (int g = 0; g < groups; g++)
    for (int r = 0; r < QI__Q8_ROWS; r += 8) {
      qi__store_bytes_avx2(p->scale_twice[g] + r, qi__byte_pairs_avx2(scale[g] + r, scale[g] + r));
      if (g % 2) continue;
      __m256i pair;
      if (plan->format->has_min) pair = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)min[g / 2][r]));
      else pair = qi__byte_pairs_avx2(scale[g] + r, scale[g + 1] + r);
      qi__store_bytes_avx2(p->pair[g / 2] + r, pair);
    }
}

// qi__panel_fill_fn of weights as they are in their file. Rows beyond the last are the last again.
QI__FN QI__AVX2 qi__q8_panel qi__panel_fill_avx2(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n, size_t n_x,
                                                 qi__q8_own_panel *p) {
  const qi__format *f = plan->format;
  uint8_t codes[8][256], high[8][256];
  const __m256i low4 = _mm256_set1_epi8(15);
  (void)n_x;
  for (size_t r = 0; r < QI__Q8_ROWS; r++) {
    const uint8_t *w = a->w + qi__min_size(r, a->n_w - 1) * a->w_stride;
    w += at / (size_t)f->info.block_len * (size_t)f->info.block_bytes;
#define QI__CASE(ID) case ID: qi__panel_row_avx2(ID, plan, w, n, r, p, codes[r % 8]); break
    switch (plan->id) {
      QI__CASE(QI_FORMAT_Q4_0);
      QI__CASE(QI_FORMAT_Q4_1);
      QI__CASE(QI_FORMAT_Q5_0);
      QI__CASE(QI_FORMAT_Q5_1);
      QI__CASE(QI_FORMAT_Q8_0);
      QI__CASE(QI_FORMAT_IQ4_NL);
      QI__CASE(QI_FORMAT_MXFP4);
      QI__CASE(QI_FORMAT_Q2_K);
      QI__CASE(QI_FORMAT_Q3_K);
      QI__CASE(QI_FORMAT_Q4_K);
      QI__CASE(QI_FORMAT_Q5_K);
      QI__CASE(QI_FORMAT_Q6_K);
      QI__CASE(QI_FORMAT_IQ4_XS);
      QI__CASE(QI_FORMAT_QINS4_K);
    default: qi__panel_row_avx2(QI_FORMAT_NONE, plan, w, n, r, p, codes[r % 8]); break;
    }
#undef QI__CASE
    if (r % 8 != 7) continue;
    size_t half = r / 16, place = r / 8 % 2 * 32;
    if (plan->planes) {
      for (int i = 0; i < 8 * 256; i += 32) {
        uint8_t *code = codes[i / 256] + i % 256;
        __m256i v = qi__bytes_avx2(code);
        qi__store_bytes_avx2(high[i / 256] + i % 256, _mm256_and_si256(_mm256_srli_epi16(v, 4), low4));
        qi__store_bytes_avx2(code, _mm256_and_si256(v, low4));
      }
      qi__panel_interleave_avx2(high, p->code[1][half][0] + place);
    }
    qi__panel_interleave_avx2(codes, p->code[0][half][0] + place);
  }
  if (!plan->vnni)
    qi__panel_widen_avx2(plan, (const int8_t (*)[QI__Q8_ROWS])p->scale, (const int8_t (*)[QI__Q8_ROWS][2])p->min, p);
  return qi__panel_view(p);
}

// ---- a panel with rows of activations ----

// Rows of activations at one chunk, and where their sums wait.
typedef struct qi__panel_x {
  const int8_t *q;    // rows `k` apart
  const int16_t *sum; // rows k / 16 apart
  const float *d;     // rows `blocks` apart
  size_t k, blocks;
  float *lane;        // rows QI__Q8_LANES apart: [8][32], from the lane of the chunk's first block on
} qi__panel_x;

QI__INLINE void qi__panel_x_advance(qi__panel_x *x, size_t n) {
  x->q += n * x->k;
  x->sum += n * (x->k / 16);
  x->d += n * x->blocks;
  x->lane += n * QI__Q8_LANES;
}

QI__INLINE int qi__load_4(const void *p) {
  int v;
  memcpy(&v, p, sizeof v);
  return v;
}

// start[g] = -offset * (sum of the codes in group g) of a row, groups of 16 or 32.
QI__INLINE QI__AVX2 void qi__group_starts_avx2(int offset, int group, const int16_t *sum, int32_t *start) {
  __m256i sums = qi__bytes_avx2((const uint8_t *)sum), minus = _mm256_set1_epi32(-offset);
  if (group == 32) {
    qi__store_bytes_avx2(start, _mm256_madd_epi16(sums, _mm256_set1_epi16((short)-offset)));
  } else {
    __m256i first = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sums));
    __m256i last = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sums, 1));
    qi__store_bytes_avx2(start, _mm256_mullo_epi32(first, minus));
    qi__store_bytes_avx2(start + 8, _mm256_mullo_epi32(last, minus));
  }
}

// AVX2: 16 weight rows (`half`) and n rows of activations; n is a constant where this is inlined.
// total[h][i] += products of `steps` steps from `step` on, times the scales of a group, or 1.
QI__INLINE QI__AVX2 void qi__panel_group_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, int step, int steps,
                                              const int32_t *scale, const qi__panel_x *x, int n, __m256i (*total)[4]) {
  __m256i weight[2];
  QI__UNROLL for (int h = 0; h < 2; h++)
    weight[h] = scale ? qi__bytes_avx2((const uint8_t *)(scale + 16 * half + 8 * h)) : _mm256_set1_epi16(1);
  for (int plane = 0; plane <= plan->planes; plane++)
    for (int s = step; s < step + steps; s += plan->chain) {
      const uint8_t *w = p->code + 64 * ((2 * plane + half) * 64 + s);
      __m256i pairs[2][4];
      QI__UNROLL for (int i = 0; i < n; i++) pairs[0][i] = pairs[1][i] = _mm256_setzero_si256();
      for (int c = 0; c < plan->chain; c++) {
        __m256i w0 = qi__bytes_avx2(w + 64 * c), w1 = qi__bytes_avx2(w + 64 * c + 32);
        QI__UNROLL for (int i = 0; i < n; i++) {
          __m256i v = _mm256_set1_epi32(qi__load_4(x->q + (size_t)i * x->k + 4 * (s + c)));
          __m256i v0 = _mm256_maddubs_epi16(w0, v), v1 = _mm256_maddubs_epi16(w1, v);
          pairs[0][i] = _mm256_add_epi16(pairs[0][i], v0);
          pairs[1][i] = _mm256_add_epi16(pairs[1][i], v1);
        }
      }
      QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++) {
        __m256i v = _mm256_madd_epi16(pairs[h][i], weight[h]);
        total[h][i] = _mm256_add_epi32(total[h][i], plane ? _mm256_slli_epi32(v, 4) : v);
      }
    }
}

// Sums of the activations in each group of 16 or 32.
QI__INLINE QI__AVX2 void qi__group_sums_avx2(int group, const int16_t *sum, int16_t *out) {
  __m256i sums = qi__bytes_avx2((const uint8_t *)sum);
  if (group == 32) sums = _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)), sums), 0x08);
  qi__store_bytes_avx2(out, sums);
}

// The sums with the pairs of eight rows from `row` on.
QI__INLINE QI__AVX2 __m256i qi__panel_pairs_avx2(const qi__q8_panel *p, int n_pairs, int row, const int16_t *sums) {
  __m256i all = _mm256_setzero_si256();
  for (int g = 0; g < n_pairs; g++) {
    __m256i pair = qi__bytes_avx2((const uint8_t *)(p->pair[g] + row));
    all = _mm256_add_epi32(all, _mm256_madd_epi16(pair, _mm256_set1_epi32(qi__load_4(sums + 2 * g))));
  }
  return all;
}

// lane = fma(d_w * d_x, integers, lane) for eight weight rows.
QI__INLINE QI__AVX2 void qi__panel_add_avx2(float *lane, const float *d_w, float d_x, __m256i integers) {
  __m256 d = _mm256_mul_ps(_mm256_loadu_ps(d_w), _mm256_set1_ps(d_x));
  _mm256_storeu_ps(lane, _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(integers), _mm256_loadu_ps(lane)));
}

// A block of 256.
QI__INLINE QI__AVX2 void qi__panel_256_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, const qi__panel_x *x, int n) {
  const int groups = 256 / plan->format->group;
  __m256i total[2][4];
  QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++) total[h][i] = _mm256_setzero_si256();
  for (int g = 0; g < groups; g++)
    qi__panel_group_avx2(plan, p, half, g * 64 / groups, 64 / groups, p->scale_twice[g], x, n, total);
  QI__UNROLL for (int i = 0; i < n; i++) {
    const int16_t *sum = x->sum + (size_t)i * (x->k / 16);
    float d_x = x->d[(size_t)i * x->blocks];
    int16_t sums[16];
    qi__group_sums_avx2(256 / groups, sum, sums);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      int row = 16 * half + 8 * h;
      float *lane = x->lane + i * QI__Q8_LANES + row;
      __m256i pairs = _mm256_setzero_si256(), offset = _mm256_set1_epi32(plan->offset);
      if (plan->format->has_min || plan->offset) pairs = qi__panel_pairs_avx2(p, groups / 2, row, sums);
      if (plan->offset) total[h][i] = _mm256_sub_epi32(total[h][i], _mm256_mullo_epi32(pairs, offset));
      qi__panel_add_avx2(lane, p->d[0] + row, d_x, total[h][i]);
      if (plan->format->has_min) qi__panel_add_avx2(lane, p->minus_dmin[0] + row, d_x, pairs);
    }
  }
}

// Blocks of 32.
QI__INLINE QI__AVX2 void qi__panel_32_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, const qi__panel_x *x,
                                           int n_blocks, int n) {
  for (int b = 0; b < n_blocks; b++) {
    __m256i total[2][4];
    int32_t sums[4];
    QI__UNROLL for (int i = 0; i < n; i++) {
      const int16_t *sum = x->sum + (size_t)i * (x->k / 16) + 2 * b;
      sums[i] = sum[0] + sum[1];
      total[0][i] = total[1][i] = _mm256_set1_epi32(-plan->offset * sums[i]);
    }
    qi__panel_group_avx2(plan, p, half, 8 * b, 8, NULL, x, n, total);
    QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
      int row = 16 * half + 8 * h;
      float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + row, d_x = x->d[(size_t)i * x->blocks + (size_t)b];
      qi__panel_add_avx2(lane, p->d[b] + row, d_x, total[h][i]);
      if (plan->format->has_min) qi__panel_add_avx2(lane, p->minus_dmin[b] + row, d_x, _mm256_set1_epi32(sums[i]));
    }
  }
}

QI__INLINE QI__AVX2 void qi__panel_rows_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, const qi__panel_x *x,
                                             int n_blocks, int n) {
  if (plan->format->info.block_len == 32) qi__panel_32_avx2(plan, p, half, x, n_blocks, n);
  else qi__panel_256_avx2(plan, p, half, x, n);
}

// The panel with n_x rows of activations.
QI__FN QI__AVX2 void qi__panel_multiply_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks,
                                             size_t n_x, bool two_halves) {
  for (size_t i = 0; i < n_x;) {
    int n = n_x - i >= 4 ? 4 : n_x - i >= 2 ? 2 : 1;
    for (int half = 0; half < (two_halves ? 2 : 1); half++) {
      if (n == 4) qi__panel_rows_avx2(plan, p, half, &x, n_blocks, 4);
      else if (n == 2) qi__panel_rows_avx2(plan, p, half, &x, n_blocks, 2);
      else qi__panel_rows_avx2(plan, p, half, &x, n_blocks, 1);
    }
    i += (size_t)n;
    qi__panel_x_advance(&x, (size_t)n);
  }
}

// ---- AVX-512 VNNI ----

// sum[h][i] += products of step `step`, of 32 weight rows and n rows of activations.
QI__INLINE QI__AVX512_VNNI void qi__panel_step_avx512(__m512i w0, __m512i w1, int step, const qi__panel_x *x, int n,
                                                      __m512i (*sum)[4]) {
  QI__UNROLL for (int i = 0; i < n; i++) {
    __m512i v = _mm512_set1_epi32(qi__load_4(x->q + (size_t)i * x->k + 4 * step));
    sum[0][i] = _mm512_dpbusd_epi32(sum[0][i], w0, v);
    sum[1][i] = _mm512_dpbusd_epi32(sum[1][i], w1, v);
  }
}

// The same for `steps` steps; nibbles is a constant where this is inlined.
QI__INLINE QI__AVX512_VNNI void qi__panel_steps_avx512(const qi__q8_panel *p, bool nibbles, int step, int steps,
                                                       const qi__panel_x *x, int n, __m512i (*sum)[4]) {
  const __m512i low4 = _mm512_set1_epi8(15);
  const size_t half = p->stored ? 64 : 64 * 64, next = p->stored ? 128 : 64;
  const uint8_t *line = p->code + (size_t)(nibbles ? step / 2 : step) * next;
  for (int s = 0; s < steps; s += nibbles ? 2 : 1, line += next) {
    __m512i w0 = _mm512_loadu_si512((const void *)line), w1 = _mm512_loadu_si512((const void *)(line + half));
    if (!nibbles) {
      qi__panel_step_avx512(w0, w1, step + s, x, n, sum);
      continue;
    }
    qi__panel_step_avx512(_mm512_and_si512(w0, low4), _mm512_and_si512(w1, low4), step + s, x, n, sum);
    w0 = _mm512_and_si512(_mm512_srli_epi16(w0, 4), low4);
    w1 = _mm512_and_si512(_mm512_srli_epi16(w1, 4), low4);
    qi__panel_step_avx512(w0, w1, step + s + 1, x, n, sum);
  }
}

QI__INLINE QI__AVX512_VNNI void qi__panel_add_avx512(float *lane, const float *d_w, float d_x, __m512i integers) {
  __m512 d = _mm512_mul_ps(_mm512_loadu_ps(d_w), _mm512_set1_ps(d_x));
  _mm512_storeu_ps(lane, _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(integers), _mm512_loadu_ps(lane)));
}

QI__INLINE QI__AVX512_VNNI void qi__panel_256_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, bool nibbles,
                                                     const qi__panel_x *x, int n) {
  const int groups = 256 / plan->format->group;
  int32_t start[4][16];
  __m512i total[2][4], sum[2][4];
  QI__UNROLL for (int i = 0; i < n; i++) {
    const int16_t *sums = x->sum + (size_t)i * (x->k / 16);
    qi__group_starts_avx2(plan->offset, plan->format->group, sums, start[i]);
    total[0][i] = total[1][i] = _mm512_setzero_si512();
  }
  for (int g = 0; g < groups; g++) {
    QI__UNROLL for (int i = 0; i < n; i++) sum[0][i] = sum[1][i] = _mm512_set1_epi32(start[i][g]);
    qi__panel_steps_avx512(p, nibbles, g * 64 / groups, 64 / groups, x, n, sum);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      __m512i scale = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p->scale[g] + 16 * h)));
      QI__UNROLL for (int i = 0; i < n; i++) total[h][i] = _mm512_add_epi32(total[h][i], _mm512_mullo_epi32(sum[h][i], scale));
    }
  }
  bool has_min = plan->format->has_min;
  QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++) sum[h][i] = _mm512_setzero_si512();
  if (has_min) {
    int16_t sums[4][16];
    QI__UNROLL for (int i = 0; i < n; i++) qi__group_sums_avx2(256 / groups, x->sum + (size_t)i * (x->k / 16), sums[i]);
    for (int g = 0; g < groups / 2; g++) QI__UNROLL for (int h = 0; h < 2; h++) {
      __m512i pair = _mm512_cvtepi8_epi16(qi__bytes_avx2((const uint8_t *)p->min[g][16 * h]));
      QI__UNROLL for (int i = 0; i < n; i++)
        sum[h][i] = _mm512_dpwssd_epi32(sum[h][i], pair, _mm512_set1_epi32(qi__load_4(sums[i] + 2 * g)));
    }
  }
  QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
    float *lane = x->lane + i * QI__Q8_LANES + 16 * h, d_x = x->d[(size_t)i * x->blocks];
    qi__panel_add_avx512(lane, p->d[0] + 16 * h, d_x, total[h][i]);
    if (has_min) qi__panel_add_avx512(lane, p->minus_dmin[0] + 16 * h, d_x, sum[h][i]);
  }
}

QI__INLINE QI__AVX512_VNNI void qi__panel_32_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, bool nibbles,
                                                    const qi__panel_x *x, int n_blocks, int n) {
  for (int b = 0; b < n_blocks; b++) {
    __m512i total[2][4];
    int32_t sums[4];
    QI__UNROLL for (int i = 0; i < n; i++) {
      const int16_t *sum = x->sum + (size_t)i * (x->k / 16) + 2 * b;
      sums[i] = sum[0] + sum[1];
      total[0][i] = total[1][i] = _mm512_set1_epi32(-plan->offset * sums[i]);
    }
    qi__panel_steps_avx512(p, nibbles, 8 * b, 8, x, n, total);
    QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
      float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + 16 * h, d_x = x->d[(size_t)i * x->blocks + (size_t)b];
      qi__panel_add_avx512(lane, p->d[b] + 16 * h, d_x, total[h][i]);
      if (plan->format->has_min) qi__panel_add_avx512(lane, p->minus_dmin[b] + 16 * h, d_x, _mm512_set1_epi32(sums[i]));
    }
  }
}

QI__INLINE QI__AVX512_VNNI void qi__panel_rows_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, const qi__panel_x *x,
                                                      int n_blocks, int n) {
  bool short_blocks = plan->format->info.block_len == 32;
  if (short_blocks && p->nibbles) qi__panel_32_avx512(plan, p, true, x, n_blocks, n);
  else if (short_blocks) qi__panel_32_avx512(plan, p, false, x, n_blocks, n);
  else if (p->nibbles) qi__panel_256_avx512(plan, p, true, x, n);
  else qi__panel_256_avx512(plan, p, false, x, n);
}

QI__FN QI__AVX512_VNNI void qi__panel_multiply_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks,
                                                      size_t n_x, bool two_halves) {
  (void)two_halves;
  for (size_t i = 0; i < n_x;) {
    size_t n = n_x - i >= 4 ? 4 : n_x - i >= 2 ? 2 : 1;
    if (n == 4) qi__panel_rows_avx512(plan, p, &x, n_blocks, 4);
    else if (n == 2) qi__panel_rows_avx512(plan, p, &x, n_blocks, 2);
    else qi__panel_rows_avx512(plan, p, &x, n_blocks, 1);
    i += n;
    qi__panel_x_advance(&x, n);
  }
}

// ---- stored panels ----

// Panels of a cache: as few bytes as hold them, the same for all variants. A tile of 32 weight rows is a row of chunks of 256
// columns, each of these parts one after another, as in qi__q8_panel:
//   codes   lines [k / 4][rows / 16][row % 16, k % 4] of code + offset, in the order in which VNNI reads them; as nibbles where
//           all are below 16: two steps of k a line, the first in the low halves of its bytes
//   scales  [256 / group][32], none in blocks of 32; mins [128 / group][32][2], formats with mins
//   d       [256 / block][32], then -dmin the same, formats with mins
typedef struct qi__q8_stored {
  bool nibbles;
  size_t scale, min, d, minus_dmin, bytes; // where parts begin; min = d, minus_dmin = bytes where there are none
} qi__q8_stored;

QI__FN qi__q8_stored qi__q8_stored_of(const qi__format *f) {
  qi_format id = qi__format_id(f);
  qi__q8_stored s;
  bool scales = f->info.block_len == 256;
  size_t row = QI__Q8_ROWS, groups = scales ? 256 / (size_t)f->group : 0, floats = 256 / (size_t)f->info.block_len * sizeof(float);
  s.nibbles = id == QI_FORMAT_Q4_0 || id == QI_FORMAT_Q4_1 || id == QI_FORMAT_Q2_K || id == QI_FORMAT_Q3_K ||
              id == QI_FORMAT_Q4_K;
  s.scale = row * (s.nibbles ? 128 : 256);
  s.min = s.scale + row * groups;
  s.d = s.min + (f->has_min ? row * groups : 0);
  s.minus_dmin = s.d + row * floats;
  s.bytes = s.minus_dmin + (f->has_min ? row * floats : 0);
  return s;
}

// Bytes of a chunk; 0 = not for panels.
QI__FN size_t qi__q8_stored_bytes(const qi__format *f) {
  return f->wide || !qi__dot_q8_x86_has(qi__format_id(f)) ? 0 : qi__q8_stored_of(f).bytes;
}

// Chunks of the tile a->w, a->n_w, a->w_stride of rows of k columns to `dst`.
QI__FN QI__AVX2 void qi__q8_store_avx2(const qi__dot_q8_args *a, size_t k, uint8_t *dst) {
  qi__q8_own_panel p;
  qi__q8_plan plan = qi__q8_plan_of(a->format, true);
  qi__q8_stored s = qi__q8_stored_of(a->format);
  memset(&p, 0, sizeof p);
  for (size_t at = 0; at < k; at += 256, dst += s.bytes) {
    qi__panel_fill_avx2(a, &plan, at, (int)qi__min_size(8, (k - at) / 32), 0, &p);
    for (size_t i = 0; i < s.scale; i += 32) {
      const uint8_t *line = p.code[0][i / 64 % 2][i / 128 * (s.nibbles ? 2 : 1)] + i % 64;
      __m256i v = qi__bytes_avx2(line);
      if (s.nibbles) v = _mm256_or_si256(v, _mm256_slli_epi16(qi__bytes_avx2(line + 64), 4));
      qi__store_bytes_avx2(dst + i, v);
    }
    memcpy(dst + s.scale, p.scale, s.min - s.scale);
    memcpy(dst + s.min, p.min, s.d - s.min);
    memcpy(dst + s.d, p.d, s.minus_dmin - s.d);
    memcpy(dst + s.minus_dmin, p.minus_dmin, s.bytes - s.minus_dmin);
  }
}

// Codes of a stored chunk as AVX2 wants them: nibbles to a line each, or the halves of wide codes to a plane each.
QI__FN QI__AVX2 void qi__panel_load_codes_avx2(const qi__q8_plan *plan, const qi__q8_stored *s, const uint8_t *src,
                                               qi__q8_own_panel *p) {
  const __m256i low4 = _mm256_set1_epi8(15);
  for (size_t i = 0; i < s->scale; i += 32) {
    uint8_t *first = p->code[0][i / 64 % 2][i / 128 * (s->nibbles ? 2 : 1)] + i % 64;
    __m256i v = qi__bytes_avx2(src + i);
    if (s->nibbles || plan->planes) {
      qi__store_bytes_avx2(s->nibbles ? first + 64 : first + 2 * 64 * 64, _mm256_and_si256(_mm256_srli_epi16(v, 4), low4));
      v = _mm256_and_si256(v, low4);
    }
    qi__store_bytes_avx2(first, v);
  }
}

// A stored chunk as a panel. With VNNI and few rows of activations all stays where it is; else codes go to `own`.
QI__FN QI__AVX2 qi__q8_panel qi__panel_load_avx2(const qi__q8_plan *plan, const qi__q8_stored *s, const uint8_t *src, bool few,
                                                 qi__q8_own_panel *own) {
  qi__q8_panel v = qi__panel_view(own);
  v.stored = plan->vnni && (few || !s->nibbles);
  v.nibbles = v.stored && s->nibbles;
  if (!v.stored) qi__panel_load_codes_avx2(plan, s, src, own);
  v.code = v.stored ? src : own->code[0][0][0];
  v.scale = (const int8_t (*)[QI__Q8_ROWS])(const void *)(src + s->scale);
  v.min = (const int8_t (*)[QI__Q8_ROWS][2])(const void *)(src + s->min);
  v.d = (const float (*)[QI__Q8_ROWS])(const void *)(src + s->d);
  v.minus_dmin = (const float (*)[QI__Q8_ROWS])(const void *)(src + s->minus_dmin);
  if (!plan->vnni) qi__panel_widen_avx2(plan, v.scale, v.min, own);
  return v;
}

#define QI__STORED_FEW 16 // rows of activations up to which nibbles are taken apart for each of them

// qi__panel_fill_fn where a->w is a tile of stored panels.
QI__FN qi__q8_panel qi__panel_fill_stored(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n, size_t n_x,
                                          qi__q8_own_panel *own) {
  qi__q8_stored layout = qi__q8_stored_of(plan->format);
  (void)n;
  return qi__panel_load_avx2(plan, &layout, a->w + at / 256 * a->w_stride, n_x <= QI__STORED_FEW, own);
}

// ---- all columns ----

// y[r] = qi__sum_lanes of each weight row, r < n_w.
QI__FN QI__AVX2 void qi__panel_sums_avx2(const float *lane, size_t n_w, float *y) {
  float sums[QI__Q8_ROWS];
  for (size_t r = 0; r < n_w; r += 8) {
    __m256 v[4];
    QI__UNROLL for (size_t l = 0; l < 4; l++)
      v[l] = _mm256_add_ps(_mm256_loadu_ps(lane + l * QI__Q8_ROWS + r), _mm256_loadu_ps(lane + (l + 4) * QI__Q8_ROWS + r));
    _mm256_storeu_ps(sums + r, _mm256_add_ps(_mm256_add_ps(v[0], v[2]), _mm256_add_ps(v[1], v[3])));
  }
  memcpy(y, sums, n_w * sizeof *y);
}

// The panel of the chunk at column `at`, n blocks of 32 or one of 256, for n_x rows of activations. `own`: room for it.
typedef qi__q8_panel (*qi__panel_fill_fn)(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n, size_t n_x,
                                          qi__q8_own_panel *own);
typedef void (*qi__panel_multiply_fn)(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks, size_t n_x,
                                      bool two_halves);

#define QI__STORED_AHEAD 4 // chunks: so early are they fetched from memory. Beyond a tile the next one follows

// Into the second-level cache.
QI__INLINE void qi__prefetch_chunk(const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i += QI__CACHE_LINE) __builtin_prefetch(p + i, 0, 2);
}

// All weight rows with n_x rows of activations from `first` on. The panels of a slice lie in the second-level cache; the sums of 16
// rows stay in the first while the slice passes. What a->w is, `fill` knows.
QI__FN void qi__dot_batch_x86(const qi__dot_q8_args *a, const qi__q8_plan *plan, qi__panel_fill_fn fill,
                              qi__panel_multiply_fn multiply, size_t first, size_t n_x) {
  qi__q8_own_panel *own = (qi__q8_own_panel *)(void *)a->scratch;
  qi__q8_panel panels[QI__Q8_PANELS];
  bool stored = fill == qi__panel_fill_stored;
  float *lanes = a->scratch + QI__Q8_PANELS * QI__Q8_PANEL_FLOATS;
  size_t k = a->x->k, block = a->x->block;
  memset(lanes, 0, n_x * QI__Q8_LANES * sizeof *lanes);
  for (size_t slice = 0; slice < k; slice += 256 * QI__Q8_PANELS) {
    size_t n_panels = (qi__min_size(256 * QI__Q8_PANELS, k - slice) + 255) / 256;
    for (size_t c = 0; c < n_panels; c++) {
      size_t at = slice + 256 * c;
      panels[c] = fill(a, plan, at, (int)qi__min_size(8, (k - at) / 32), n_x, &own[c]);
    }
    for (size_t i = 0; i < n_x; i += 16)
      for (size_t c = 0; c < n_panels; c++) {
        size_t at = slice + 256 * c;
        qi__q8_chunk q = qi__q8_chunk_at(a->x, a->x_row + first + i, at);
        float *lane = lanes + i * QI__Q8_LANES + at / block % 8 * QI__Q8_ROWS;
        qi__panel_x x = {q.q, q.sum, q.d, k, k / block, lane};
        if (stored && !i) qi__prefetch_chunk(a->w + (at / 256 + QI__STORED_AHEAD) * a->w_stride, a->w_stride);
        multiply(plan, &panels[c], x, (int)qi__min_size(8, (k - at) / 32), qi__min_size(16, n_x - i), a->n_w > 16);
      }
  }
  for (size_t i = 0; i < n_x; i++) qi__panel_sums_avx2(lanes + i * QI__Q8_LANES, a->n_w, a->y + (first + i) * a->y_stride);
}

QI__FN void qi__dot_panels_x86(const qi__dot_q8_args *a, bool vnni, qi__panel_fill_fn fill, qi__panel_multiply_fn multiply) {
  qi__q8_plan plan = qi__q8_plan_of(a->format, vnni);
  for (size_t first = 0; first < a->n_x; first += QI__Q8_BATCH)
    qi__dot_batch_x86(a, &plan, fill, multiply, first, qi__min_size(QI__Q8_BATCH, a->n_x - first));
}

// ---- the kernels ----

#define QI__PANEL_FROM 4 // rows of activations from which a panel pays, formats with kernels of their own

// The same for the kernels here (Zen 4, two threads, weights from memory): the longer one row takes, the fewer rows. Without VNNI
// wide codes meet the activations twice.
QI__FN size_t qi__panel_from(const qi__format *f, bool vnni) {
  qi_format id = qi__format_id(f);
  if (qi__is_iq_grid(id)) return 2;
  if (id == QI_FORMAT_Q8_0) return vnni ? 6 : 20;
  if (!vnni) return 7;
  return id == QI_FORMAT_Q4_K ? 5 : 4;
}

#define QI__DOT_Q8(isa, vnni, multiply) \
  QI__FN void qi__dot_q8_##isa(const qi__dot_q8_args *a) { \
    if (a->n_x >= qi__panel_from(a->format, vnni)) { \
      qi__dot_panels_x86(a, vnni, qi__panel_fill_avx2, multiply); \
      return; \
    } \
    qi__dot_q8_args row = *a; \
    for (size_t i = 0; i < a->n_x; i++, row.x_row++, row.y += a->y_stride) qi__dot_row_##isa(&row); \
  }

QI__DOT_Q8(avx2, false, qi__panel_multiply_avx2)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_Q8(avx_vnni, false, qi__panel_multiply_avx2) // these need no VNNI
#endif
QI__DOT_Q8(avx512, true, qi__panel_multiply_avx512)

QI__FN void qi__dot_stored_avx2(const qi__dot_q8_args *a) {
  qi__dot_panels_x86(a, false, qi__panel_fill_stored, qi__panel_multiply_avx2);
}
QI__FN void qi__dot_stored_avx512(const qi__dot_q8_args *a) {
  qi__dot_panels_x86(a, true, qi__panel_fill_stored, qi__panel_multiply_avx512);
}

// From how many rows on a stored tile is faster than the one-row kernels, both read from memory (Zen 4, two threads). One row is
// bound by memory, and stored tiles are never smaller; they win where its kernel computes for longer.
QI__FN size_t qi__stored_from_avx2(const qi__format *f) { return qi__is_iq_grid(qi__format_id(f)) ? 1 : 4; }

QI__FN size_t qi__stored_from_avx512(const qi__format *f) {
  qi_format id = qi__format_id(f);
  return qi__is_iq_grid(id) ? 1 : id == QI_FORMAT_Q6_K ? 3 : 2;
}

static const qi__stored_q8_kernels qi__stored_q8_avx2 = {qi__q8_stored_bytes, qi__stored_from_avx2, qi__q8_store_avx2,
                                                         qi__dot_stored_avx2};
static const qi__stored_q8_kernels qi__stored_q8_avx512 = {qi__q8_stored_bytes, qi__stored_from_avx512, qi__q8_store_avx2,
                                                           qi__dot_stored_avx512};
#endif

#endif // QI__KERNELS_PANEL_Q8_X86_H
