// ==== >>panel_multiply_x86 : a panel with rows of activations ====
#ifndef QI__KERNELS_PANEL_MULTIPLY_X86_H
#define QI__KERNELS_PANEL_MULTIPLY_X86_H

#include "panel_x86.h"

#if defined(QI__X86_64)

// Sums of weight rows wait in eight float32 lanes for each row of activations until the next chunk.

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

#define QI__PANEL_X 4 // rows of activations at a time

// What is made of them beforehand.
typedef struct qi__panel_ready_x {
  int16_t word[QI__PANEL_X][256];   // their codes, for words
  int32_t start[QI__PANEL_X][16];   // of sums: [chain] (AVX2) or [group] (AVX-512)
  int16_t sum[QI__PANEL_X][16];     // of the codes in each group
} qi__panel_ready_x;

// `len` codes of n rows as int16.
QI__INLINE QI__AVX2 void qi__panel_x_words_avx2(const qi__panel_x *x, int n, int len, qi__panel_ready_x *out) {
  for (int i = 0; i < n; i++)
    for (int j = 0; j < len; j += 16) {
      __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)(x->q + (size_t)i * x->k + j));
      qi__store_bytes_avx2(out->word[i] + j, _mm256_cvtepi8_epi16(codes));
    }
}

// Sums of the activations in each group of 16 or 32.
QI__INLINE QI__AVX2 void qi__group_sums_avx2(int group, const int16_t *sum, int16_t *out) {
  __m256i sums = qi__bytes_avx2((const uint8_t *)sum);
  if (group == 32) sums = _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)), sums), 0x08);
  qi__store_bytes_avx2(out, sums);
}

// ---- AVX2: bytes ----

// Products of two bytes are added as int16 for a chain of steps, sums times scales as int32. GCC would add in another order, which
// wants more registers than there are: this keeps it from that.
QI__INLINE QI__AVX2 __m256i qi__keep_avx2(__m256i v) {
  __asm__("" : "+x"(v));
  return v;
}

// sum[h][i] += products of a chain: 16 weight rows, whose lines begin at w, with n rows of activations from column `at` on.
QI__INLINE QI__AVX2 void qi__panel_chain_avx2(const uint8_t *w, const qi__panel_x *x, int at, int chain, int n,
                                              __m256i (*sum)[QI__PANEL_X]) {
  QI__UNROLL for (int s = 0; s < chain; s++) {
    __m256i w0 = qi__bytes_avx2(w + 64 * s), w1 = qi__bytes_avx2(w + 64 * s + 32);
    QI__UNROLL for (int i = 0; i < n; i++) {
      __m256i v = _mm256_set1_epi32(qi__load_4(x->q + (size_t)i * x->k + at + 4 * s));
      sum[0][i] = qi__keep_avx2(_mm256_add_epi16(sum[0][i], _mm256_maddubs_epi16(w0, v)));
      sum[1][i] = qi__keep_avx2(_mm256_add_epi16(sum[1][i], _mm256_maddubs_epi16(w1, v)));
    }
  }
}

// Dword c: pairs of int16, the sums of dwords 4 c .. 4 c + 3 of four registers.
QI__INLINE QI__AVX2 __m256i qi__fold4_words_avx2(const __m256i *v) {
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i two[2];
  QI__UNROLL for (int i = 0; i < 2; i++) {
    __m256i a = v[2 * i], b = v[2 * i + 1];
    two[i] = _mm256_add_epi16(_mm256_blend_epi32(a, b, 0xaa), _mm256_shuffle_epi32(_mm256_blend_epi32(b, a, 0xaa), 0xb1));
  }
  __m256i swapped = _mm256_shuffle_epi32(_mm256_blend_epi32(two[1], two[0], 0xcc), 0x4e);
  return _mm256_permutevar8x32_epi32(_mm256_add_epi16(_mm256_blend_epi32(two[0], two[1], 0xcc), swapped), in_order);
}

// start[c] = -offset * (sums of the activations of chain c, of 16 codes), in the pairs in which their products are added. Sums
// that start there may wrap around between: what they come to, products with code - offset, fits.
QI__INLINE QI__AVX2 void qi__chain_starts_avx2(int offset, const int8_t *q, int32_t *start) {
  const __m256i ones = _mm256_set1_epi8(1), minus = _mm256_set1_epi16((short)-offset);
  for (int half = 0; half < 2; half++) {
    __m256i pairs[4];
    QI__UNROLL for (int g = 0; g < 4; g++)
      pairs[g] = _mm256_maddubs_epi16(ones, qi__bytes_avx2((const uint8_t *)q + 128 * half + 32 * g));
    qi__store_bytes_avx2(start + 8 * half, _mm256_mullo_epi16(qi__fold4_words_avx2(pairs), minus));
  }
}

// lane = fma(d_w * d_x, integers, lane) for eight weight rows.
QI__INLINE QI__AVX2 void qi__panel_add_avx2(float *lane, const float *d_w, float d_x, __m256i integers) {
  __m256 d = _mm256_mul_ps(_mm256_loadu_ps(d_w), _mm256_set1_ps(d_x));
  _mm256_storeu_ps(lane, _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(integers), _mm256_loadu_ps(lane)));
}

// Totals of block b of 16 weight rows (`half`) and n rows of activations, to their lanes.
QI__INLINE QI__AVX2 void qi__panel_take_avx2(const float (*d)[QI__Q8_ROWS], int half, const qi__panel_x *x, int b, int n,
                                             __m256i (*total)[QI__PANEL_X]) {
  QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
    int row = 16 * half + 8 * h;
    float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + row;
    qi__panel_add_avx2(lane, d[b] + row, x->d[(size_t)i * x->blocks + (size_t)b], total[h][i]);
  }
}

// The part of the mins in a block of 256.
QI__INLINE QI__AVX2 void qi__panel_mins_avx2(const qi__q8_panel *p, int half, const qi__panel_x *x, const qi__panel_ready_x *r,
                                             int groups, int n) {
  __m256i total[2][QI__PANEL_X];
  QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm256_setzero_si256();
  for (int g = 0; g < groups / 2; g++) {
    const uint8_t *min = (const uint8_t *)(p->min_pair[g] + 16 * half);
    __m256i m0 = qi__bytes_avx2(min), m1 = qi__bytes_avx2(min + 32);
    QI__UNROLL for (int i = 0; i < n; i++) {
      __m256i sums = _mm256_set1_epi32(qi__load_4(r->sum[i] + 2 * g));
      total[0][i] = qi__words_avx2(total[0][i], m0, sums);
      total[1][i] = qi__words_avx2(total[1][i], m1, sums);
    }
  }
  qi__panel_take_avx2(p->minus_dmin, half, x, 0, n, total);
}

// A block of 256; n and chain are constants where this is inlined.
QI__INLINE QI__AVX2 void qi__panel_256_avx2(const qi__q8_panel *p, int half, const qi__panel_x *x, const qi__panel_ready_x *r,
                                            int chain, int n) {
  __m256i total[2][QI__PANEL_X];
  QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm256_setzero_si256();
  const uint8_t *w = p->code + half * QI__PANEL_LINES * 64;
  for (int c = 0; c < 64 / chain; c++, w += 64 * chain) {
    __m256i sum[2][QI__PANEL_X];
    QI__UNROLL for (int i = 0; i < n; i++)
      sum[0][i] = sum[1][i] = chain == 4 ? _mm256_set1_epi32(r->start[i][c]) : _mm256_setzero_si256();
    qi__panel_chain_avx2(w, x, 4 * chain * c, chain, n, sum);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      __m256i scale = qi__bytes_avx2((const uint8_t *)(p->scale_pair[c] + 16 * half + 8 * h));
      QI__UNROLL for (int i = 0; i < n; i++) total[h][i] = qi__words_avx2(total[h][i], sum[h][i], scale);
    }
  }
  qi__panel_take_avx2(p->d, half, x, 0, n, total);
}

// Blocks of 32; n and chain are constants where this is inlined.
QI__INLINE QI__AVX2 void qi__panel_32_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, const qi__panel_x *x,
                                           int n_blocks, int chain, int n) {
  const uint8_t *w = p->code + half * QI__PANEL_LINES * 64;
  for (int b = 0; b < n_blocks; b++) {
    __m256i total[2][QI__PANEL_X], sums[2][QI__PANEL_X];
    QI__UNROLL for (int i = 0; i < n; i++) {
      const int16_t *sum = x->sum + (size_t)i * (x->k / 16) + 2 * b;
      sums[0][i] = sums[1][i] = _mm256_set1_epi32(sum[0] + sum[1]);
      total[0][i] = total[1][i] = _mm256_set1_epi32(-plan->offset * (sum[0] + sum[1]));
    }
    for (int s = 0; s < 8; s += chain, w += 64 * chain) {
      __m256i sum[2][QI__PANEL_X];
      QI__UNROLL for (int i = 0; i < n; i++) sum[0][i] = sum[1][i] = _mm256_setzero_si256();
      qi__panel_chain_avx2(w, x, 32 * b + 4 * s, chain, n, sum);
      QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++)
        total[h][i] = qi__words_avx2(total[h][i], sum[h][i], _mm256_set1_epi16(1));
    }
    qi__panel_take_avx2(p->d, half, x, b, n, total);
    if (plan->format->has_min) qi__panel_take_avx2(p->minus_dmin, half, x, b, n, sums);
  }
}

// ---- AVX2: words ----

// Blocks of `block` columns; n is a constant where this is inlined.
QI__INLINE QI__AVX2 void qi__panel_words_rows_avx2(const qi__q8_panel *p, int half, const qi__panel_x *x,
                                                   const qi__panel_ready_x *r, int block, int n_blocks, int n) {
  const uint8_t *w = p->code + half * QI__PANEL_LINES * 64;
  for (int b = 0; b < n_blocks; b++) {
    __m256i total[2][QI__PANEL_X];
    QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm256_setzero_si256();
    for (int at = b * block; at < (b + 1) * block; at += 8, w += 4 * 64)
      QI__UNROLL for (int s = 0; s < 4; s++) {
        __m256i w0 = qi__bytes_avx2(w + 64 * s), w1 = qi__bytes_avx2(w + 64 * s + 32);
        QI__UNROLL for (int i = 0; i < n; i++) {
          __m256i v = _mm256_set1_epi32(qi__load_4(r->word[i] + at + 2 * s));
          total[0][i] = qi__keep_avx2(qi__words_avx2(total[0][i], w0, v));
          total[1][i] = qi__keep_avx2(qi__words_avx2(total[1][i], w1, v));
        }
      }
    qi__panel_take_avx2(p->d, half, x, b, n, total);
  }
}

// ---- AVX2 ----

QI__INLINE QI__AVX2 void qi__panel_rows_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, const qi__panel_x *x, int n_blocks,
                                             bool two_halves, int n) {
  const qi__format *f = plan->format;
  bool long_blocks = f->info.block_len == 256;
  qi__panel_ready_x r;
  if (long_blocks) n_blocks = 1;
  if (plan->words) qi__panel_x_words_avx2(x, n, n_blocks * f->info.block_len, &r);
  if (long_blocks && !plan->words && plan->chain == 4)
    for (int i = 0; i < n; i++) qi__chain_starts_avx2(plan->offset, x->q + (size_t)i * x->k, r.start[i]);
  if (long_blocks && f->has_min)
    for (int i = 0; i < n; i++) qi__group_sums_avx2(f->group, x->sum + (size_t)i * (x->k / 16), r.sum[i]);
  for (int half = 0; half < (two_halves ? 2 : 1); half++) {
    if (plan->words) qi__panel_words_rows_avx2(p, half, x, &r, f->info.block_len, n_blocks, n);
    else if (!long_blocks && plan->chain == 8) qi__panel_32_avx2(plan, p, half, x, n_blocks, 8, n);
    else if (!long_blocks) qi__panel_32_avx2(plan, p, half, x, n_blocks, 4, n);
    else if (plan->chain == 8) qi__panel_256_avx2(p, half, x, &r, 8, n);
    else qi__panel_256_avx2(p, half, x, &r, 4, n);
    if (long_blocks && f->has_min) qi__panel_mins_avx2(p, half, x, &r, 256 / f->group, n);
  }
}

// The panel with n_x rows of activations.
QI__FN QI__AVX2 void qi__panel_multiply_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks,
                                             size_t n_x, bool two_halves) {
  for (size_t i = 0; i < n_x;) {
    size_t n = n_x - i >= 4 ? 4 : n_x - i >= 2 ? 2 : 1;
    if (n == 4) qi__panel_rows_avx2(plan, p, &x, n_blocks, two_halves, 4);
    else if (n == 2) qi__panel_rows_avx2(plan, p, &x, n_blocks, two_halves, 2);
    else qi__panel_rows_avx2(plan, p, &x, n_blocks, two_halves, 1);
    i += n;
    qi__panel_x_advance(&x, n);
  }
}

// ---- AVX-512 VNNI: bytes ----

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
  const size_t half = p->stored ? 64 : QI__PANEL_LINES * 64, next = p->stored ? 128 : 64;
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

// ---- AVX-512 VNNI: words ----

// As qi__panel_words_rows_avx2, all 32 weight rows.
QI__INLINE QI__AVX512_VNNI void qi__panel_words_rows_avx512(const qi__q8_panel *p, const qi__panel_x *x,
                                                            const qi__panel_ready_x *r, int block, int n_blocks, int n) {
  const uint8_t *w = p->code;
  for (int b = 0; b < n_blocks; b++) {
    __m512i total[2][QI__PANEL_X];
    QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm512_setzero_si512();
    for (int at = b * block; at < (b + 1) * block; at += 2, w += 64) {
      __m512i w0 = _mm512_loadu_si512((const void *)w), w1 = _mm512_loadu_si512((const void *)(w + QI__PANEL_LINES * 64));
      QI__UNROLL for (int i = 0; i < n; i++) {
        __m512i v = _mm512_set1_epi32(qi__load_4(r->word[i] + at));
        total[0][i] = _mm512_dpwssd_epi32(total[0][i], w0, v);
        total[1][i] = _mm512_dpwssd_epi32(total[1][i], w1, v);
      }
    }
    QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
      float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + 16 * h;
      qi__panel_add_avx512(lane, p->d[b] + 16 * h, x->d[(size_t)i * x->blocks + (size_t)b], total[h][i]);
    }
  }
}

// ---- AVX-512 VNNI ----

QI__INLINE QI__AVX512_VNNI void qi__panel_rows_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, const qi__panel_x *x,
                                                      int n_blocks, int n) {
  const int block = plan->format->info.block_len;
  bool short_blocks = block == 32;
  if (plan->words) {
    qi__panel_ready_x r;
    if (!short_blocks) n_blocks = 1;
    qi__panel_x_words_avx2(x, n, n_blocks * block, &r);
    qi__panel_words_rows_avx512(p, x, &r, block, n_blocks, n);
    return;
  }
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
#endif

#endif // QI__KERNELS_PANEL_MULTIPLY_X86_H
