// ==== >>panel_multiply_x86 : a panel with rows of activations ====
#ifndef QI__KERNELS_PANEL_MULTIPLY_X86_H
#define QI__KERNELS_PANEL_MULTIPLY_X86_H

#include "panel_x86.h"

#if defined(QI__X86_64)

// Sums of weight rows wait in eight float32 lanes for each row of activations until the next chunk.

// Memory that is fetched while rows of activations are multiplied: never faults.
typedef struct qi__panel_ahead {
  uintptr_t p;
  size_t n_lines;
} qi__panel_ahead;

// Takes the part for n rows of n_left.
QI__INLINE qi__panel_ahead qi__panel_ahead_part(qi__panel_ahead *a, size_t n, size_t n_left) {
  qi__panel_ahead part = {a->p, (a->n_lines * n + n_left - 1) / n_left};
  a->p += part.n_lines * QI__CACHE_LINE;
  a->n_lines -= part.n_lines;
  return part;
}

// That part. All at once it would fill the queue in which reads from the second-level cache wait, too.
QI__INLINE void qi__panel_fetch(qi__panel_ahead *a, size_t n, size_t n_left) {
  qi__panel_ahead part = qi__panel_ahead_part(a, n, n_left);
  for (size_t i = 0; i < part.n_lines; i++) __builtin_prefetch((const void *)(part.p + i * QI__CACHE_LINE));
}

// Rows of activations at one chunk, and where their sums wait.
typedef struct qi__panel_x {
  const int8_t *q;    // rows `k` apart
  const int16_t *sum; // rows k / 16 apart
  const float *d;     // rows `blocks` apart
  size_t k, blocks;
  float *lane;        // rows QI__Q8_LANES apart: [8][32], from the lane of the chunk's first block on
  bool fresh;         // lanes hold nothing yet, that is 0
  qi__panel_ahead ahead;
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
    __m256i w0 = qi__bytes_avx2(w + 128 * s), w1 = qi__bytes_avx2(w + 128 * s + 32);
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

// lane = fma(d_w * d_x, integers, lane) for eight weight rows, where fresh: from 0 instead of lane.
QI__INLINE QI__AVX2 void qi__panel_add_avx2(float *lane, bool fresh, const float *d_w, float d_x, __m256i integers) {
  __m256 d = _mm256_mul_ps(_mm256_loadu_ps(d_w), _mm256_set1_ps(d_x)), old = _mm256_loadu_ps(lane);
  if (fresh) old = _mm256_setzero_ps();
  _mm256_storeu_ps(lane, _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(integers), old));
}

// Totals of block b of 16 weight rows (`half`) and n rows of activations, to their lanes.
QI__INLINE QI__AVX2 void qi__panel_take_avx2(const float (*d)[QI__Q8_ROWS], int half, const qi__panel_x *x, bool fresh, int b,
                                             int n, __m256i (*total)[QI__PANEL_X]) {
  QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
    int row = 16 * half + 8 * h;
    float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + row;
    qi__panel_add_avx2(lane, fresh, d[b] + row, x->d[(size_t)i * x->blocks + (size_t)b], total[h][i]);
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
  qi__panel_take_avx2(p->minus_dmin, half, x, false, 0, n, total);
}

// A block of 256; n and chain are constants where this is inlined.
QI__INLINE QI__AVX2 void qi__panel_256_avx2(const qi__q8_panel *p, int half, const qi__panel_x *x, const qi__panel_ready_x *r,
                                            int chain, int n) {
  __m256i total[2][QI__PANEL_X];
  QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm256_setzero_si256();
  const uint8_t *w = p->code + 64 * half;
  for (int c = 0; c < 64 / chain; c++, w += 128 * chain) {
    __m256i sum[2][QI__PANEL_X];
    QI__UNROLL for (int i = 0; i < n; i++)
      sum[0][i] = sum[1][i] = chain == 4 ? _mm256_set1_epi32(r->start[i][c]) : _mm256_setzero_si256();
    qi__panel_chain_avx2(w, x, 4 * chain * c, chain, n, sum);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      __m256i scale = qi__bytes_avx2((const uint8_t *)(p->scale_pair[c] + 16 * half + 8 * h));
      QI__UNROLL for (int i = 0; i < n; i++) total[h][i] = qi__words_avx2(total[h][i], sum[h][i], scale);
    }
  }
  qi__panel_take_avx2(p->d, half, x, x->fresh, 0, n, total);
}

// Blocks of 32; n and chain are constants where this is inlined.
QI__INLINE QI__AVX2 void qi__panel_32_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, const qi__panel_x *x,
                                           int n_blocks, int chain, int n) {
  const uint8_t *w = p->code + 64 * half;
  for (int b = 0; b < n_blocks; b++) {
    __m256i total[2][QI__PANEL_X], sums[2][QI__PANEL_X];
    QI__UNROLL for (int i = 0; i < n; i++) {
      const int16_t *sum = x->sum + (size_t)i * (x->k / 16) + 2 * b;
      sums[0][i] = sums[1][i] = _mm256_set1_epi32(sum[0] + sum[1]);
      total[0][i] = total[1][i] = _mm256_set1_epi32(-plan->offset * (sum[0] + sum[1]));
    }
    for (int s = 0; s < 8; s += chain, w += 128 * chain) {
      __m256i sum[2][QI__PANEL_X];
      QI__UNROLL for (int i = 0; i < n; i++) sum[0][i] = sum[1][i] = _mm256_setzero_si256();
      qi__panel_chain_avx2(w, x, 32 * b + 4 * s, chain, n, sum);
      QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++)
        total[h][i] = qi__words_avx2(total[h][i], sum[h][i], _mm256_set1_epi16(1));
    }
    qi__panel_take_avx2(p->d, half, x, x->fresh, b, n, total);
    if (plan->format->has_min) qi__panel_take_avx2(p->minus_dmin, half, x, false, b, n, sums);
  }
}

// ---- AVX2: words ----

// Blocks of `block` columns; n is a constant where this is inlined.
QI__INLINE QI__AVX2 void qi__panel_words_rows_avx2(const qi__q8_panel *p, int half, const qi__panel_x *x,
                                                   const qi__panel_ready_x *r, int block, int n_blocks, int n) {
  const uint8_t *w = p->code + 64 * half;
  for (int b = 0; b < n_blocks; b++) {
    __m256i total[2][QI__PANEL_X];
    QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm256_setzero_si256();
    for (int at = b * block; at < (b + 1) * block; at += 8, w += 4 * 128)
      QI__UNROLL for (int s = 0; s < 4; s++) {
        __m256i w0 = qi__bytes_avx2(w + 128 * s), w1 = qi__bytes_avx2(w + 128 * s + 32);
        QI__UNROLL for (int i = 0; i < n; i++) {
          __m256i v = _mm256_set1_epi32(qi__load_4(r->word[i] + at + 2 * s));
          total[0][i] = qi__keep_avx2(qi__words_avx2(total[0][i], w0, v));
          total[1][i] = qi__keep_avx2(qi__words_avx2(total[1][i], w1, v));
        }
      }
    qi__panel_take_avx2(p->d, half, x, x->fresh, b, n, total);
  }
}

// ---- AVX2: signs ----

#define QI__SIGNS_BLOCKS 4 // of 32 columns: all versions of so many leave room in the first-level cache
#define QI__SIGNS_AHEAD 4  // rows of activations: so early are they fetched

// What so many blocks of a row of activations give. In registers, so that no store crosses a cache line: parts are loaded soon.
typedef struct qi__signs_x {
  __m256i size[QI__SIGNS_BLOCKS];    // bytes
  __m256i sign[QI__SIGNS_BLOCKS];    // int16 of pairs: 1 or -1, or anything where both are 0
  __m256i version[QI__SIGNS_BLOCKS]; // int32 of steps: where it begins
  __m128i start;                     // int32 of blocks: what is taken off, from which sums start
} qi__signs_x;

// Codes of n blocks; what is beyond them is taken to be 0.
QI__INLINE QI__AVX2 void qi__signs_x_avx2(const int8_t *q, int n, qi__signs_x *out) {
  const __m256i first = _mm256_set1_epi32(-QI__SIGNS_LINE & 0xffff), second = _mm256_set1_epi32(-2 * QI__SIGNS_LINE * 65536);
  const __m256i plus128 = _mm256_set1_epi8((char)-128), version = _mm256_or_si256(first, second);
  int8_t all[32 * QI__SIGNS_BLOCKS];
  if (n < QI__SIGNS_BLOCKS) {
    memset(all, 0, sizeof all);
    q = (const int8_t *)memcpy(all, q, 32 * (size_t)n);
  }
  __m256i off[QI__SIGNS_BLOCKS];
  QI__UNROLL for (int b = 0; b < QI__SIGNS_BLOCKS; b++) {
    __m256i x = qi__bytes_avx2((const uint8_t *)q + 32 * b);
    __m256i differ = _mm256_srai_epi16(_mm256_xor_si256(x, _mm256_slli_epi16(x, 8)), 15);
    out->size[b] = _mm256_abs_epi8(x);
    out->sign[b] = _mm256_sign_epi16(_mm256_set1_epi16(1), x);
    out->version[b] = _mm256_madd_epi16(differ, version);
    off[b] = _mm256_and_si256(_mm256_srli_epi16(differ, 8), x);
  }
  __m128i sum[2]; // of bytes + 128, of two blocks: 16 of each
  QI__UNROLL for (int i = 0; i < 2; i++) {
    __m256i bytes = _mm256_xor_si256(_mm256_packus_epi16(off[2 * i], off[2 * i + 1]), plus128);
    __m256i eights = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
    sum[i] = _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
  }
  __m128 sums = _mm_shuffle_ps(_mm_castsi128_ps(sum[0]), _mm_castsi128_ps(sum[1]), 0x88);
  out->start = _mm_sub_epi32(_mm_set1_epi32(16 * 128), _mm_castps_si128(sums));
}

// All weight rows with block b of x. code, d_w and lane are those of the block.
QI__INLINE QI__AVX2 void qi__panel_signs_block_avx2(const uint8_t *code, const float *d_w, const qi__signs_x *x, int b, float d_x,
                                                    bool fresh, float *lane) {
  const char *sizes = (const char *)&x->size[b], *signs = (const char *)&x->sign[b], *versions = (const char *)&x->version[b];
  __m256i total[4];
  QI__UNROLL for (int h = 0; h < 4; h++) total[h] = _mm256_set1_epi32(qi__load_4((const char *)&x->start + 4 * b));
  QI__UNROLL for (int s = 0; s < 8; s++) {
    const uint8_t *w = code + (uint32_t)qi__load_4(versions + 4 * s) + 4 * QI__SIGNS_LINE * s;
    __m256i size = _mm256_set1_epi32(qi__load_4(sizes + 4 * s)), sign = _mm256_set1_epi32(qi__load_4(signs + 4 * s));
    QI__UNROLL for (int h = 0; h < 4; h++)
      total[h] = qi__keep_avx2(qi__words_avx2(total[h], _mm256_maddubs_epi16(size, qi__bytes_avx2(w + 32 * h)), sign));
  }
  if (fresh) QI__UNROLL for (int h = 0; h < 4; h++) qi__panel_add_avx2(lane + 8 * h, true, d_w + 8 * h, d_x, total[h]);
  else QI__UNROLL for (int h = 0; h < 4; h++) qi__panel_add_avx2(lane + 8 * h, false, d_w + 8 * h, d_x, total[h]);
}

// n blocks from `first` on with n_x rows of activations, each of which is made ready while the one before is multiplied. n_left:
// rows until all that lies ahead is fetched.
QI__INLINE QI__AVX2 void qi__panel_signs_rows_avx2(const qi__q8_panel *p, qi__panel_x x, int first, int n, size_t n_x,
                                                   qi__panel_ahead *ahead, size_t n_left) {
  qi__signs_x ready[2];
  const uint8_t *code = p->code + 32 * QI__SIGNS_LINE * first;
  const float (*d)[QI__Q8_ROWS] = p->d + first;
  const int8_t *q = x.q + 32 * first;
  x.d += first;
  x.lane += QI__Q8_ROWS * first;
  qi__signs_x_avx2(q, n, &ready[0]);
  for (size_t i = 0; i < n_x; i++, n_left--) {
    uintptr_t later = (uintptr_t)q + QI__SIGNS_AHEAD * x.k;
    for (int line = 0; line < QI__SIGNS_BLOCKS / 2; line++, later += QI__CACHE_LINE) __builtin_prefetch((const void *)later);
    qi__panel_fetch(ahead, 1, n_left);
    q += x.k;
    if (i + 1 < n_x) qi__signs_x_avx2(q, n, &ready[(i + 1) % 2]);
    for (int b = 0; b < n; b++)
      qi__panel_signs_block_avx2(code + 32 * QI__SIGNS_LINE * b, d[b], &ready[i % 2], b, x.d[b], x.fresh, x.lane + QI__Q8_ROWS * b);
    qi__panel_x_advance(&x, 1);
  }
}

QI__FN QI__AVX2 void qi__panel_multiply_signs_avx2(const qi__q8_panel *p, const qi__panel_x *x, int n_blocks, size_t n_x) {
  qi__panel_ahead ahead = x->ahead;
  for (int first = 0; first < n_blocks; first += QI__SIGNS_BLOCKS) {
    int left = n_blocks - first, n = left < QI__SIGNS_BLOCKS ? left : QI__SIGNS_BLOCKS;
    size_t n_left = (size_t)((left + QI__SIGNS_BLOCKS - 1) / QI__SIGNS_BLOCKS) * n_x;
    qi__panel_signs_rows_avx2(p, *x, first, n, n_x, &ahead, n_left);
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
  if (plan->signs) {
    qi__panel_multiply_signs_avx2(p, &x, n_blocks, n_x);
    return;
  }
  for (size_t n; n_x; n_x -= n) {
    n = n_x >= 4 ? 4 : n_x >= 2 ? 2 : 1;
    qi__panel_fetch(&x.ahead, n, n_x);
    if (n == 4) qi__panel_rows_avx2(plan, p, &x, n_blocks, two_halves, 4);
    else if (n == 2) qi__panel_rows_avx2(plan, p, &x, n_blocks, two_halves, 2);
    else qi__panel_rows_avx2(plan, p, &x, n_blocks, two_halves, 1);
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

// sum[h][i] += products of 32 weight rows, whose line is w, and n rows of activations, whose codes begin at q, k apart.
QI__INLINE QI__AVX512_VNNI void qi__panel_step_avx512(const __m512i *w, const int8_t *q, size_t k, int n,
                                                      __m512i (*sum)[QI__PANEL_X]) {
  QI__UNROLL for (int i = 0; i < n; i++) {
    __m512i v = _mm512_set1_epi32(qi__load_4(q + (size_t)i * k));
    sum[0][i] = _mm512_dpbusd_epi32(sum[0][i], w[0], v);
    sum[1][i] = _mm512_dpbusd_epi32(sum[1][i], w[1], v);
  }
}

// The same for `steps` lines from `line` on. All but pointers and k are constants where this is inlined.
QI__INLINE QI__AVX512_VNNI void qi__panel_steps_avx512(const uint8_t *line, bool nibbles, int steps, const int8_t *q, size_t k,
                                                       int n, __m512i (*sum)[QI__PANEL_X]) {
  const __m512i low4 = _mm512_set1_epi8(15);
  QI__UNROLL for (int s = 0; s < steps; s += nibbles ? 2 : 1, line += 128) {
    __m512i w[2] = {_mm512_loadu_si512((const void *)line), _mm512_loadu_si512((const void *)(line + 64))};
    if (!nibbles) {
      qi__panel_step_avx512(w, q + 4 * s, k, n, sum);
      continue;
    }
    __m512i low[2] = {_mm512_and_si512(w[0], low4), _mm512_and_si512(w[1], low4)};
    qi__panel_step_avx512(low, q + 4 * s, k, n, sum);
    QI__UNROLL for (int h = 0; h < 2; h++) w[h] = _mm512_and_si512(_mm512_srli_epi16(w[h], 4), low4);
    qi__panel_step_avx512(w, q + 4 * s + 4, k, n, sum);
  }
}

// lane = fma(d_w * d_x, total, lane) for 16 weight rows.
QI__INLINE QI__AVX512_VNNI __m512 qi__panel_add_avx512(__m512 lane, __m512 d_w, __m512 d_x, __m512i total) {
  return _mm512_fmadd_ps(_mm512_mul_ps(d_w, d_x), _mm512_cvtepi32_ps(total), lane);
}

// Totals of block b, and where the format has them sums for its mins, to the lanes of n rows of activations.
QI__INLINE QI__AVX512_VNNI void qi__panel_take_avx512(const qi__q8_panel *p, bool has_min, const qi__panel_x *x, int b, int n,
                                                      __m512i (*total)[QI__PANEL_X], __m512i (*mins)[QI__PANEL_X]) {
  const __mmask16 old = x->fresh ? 0 : 0xffff;
  QI__UNROLL for (int h = 0; h < 2; h++) {
    __m512 d = _mm512_loadu_ps(p->d[b] + 16 * h), minus_dmin = has_min ? _mm512_loadu_ps(p->minus_dmin[b] + 16 * h) : d;
    QI__UNROLL for (int i = 0; i < n; i++) {
      float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + 16 * h;
      __m512 d_x = _mm512_set1_ps(x->d[(size_t)i * x->blocks + (size_t)b]);
      __m512 v = qi__panel_add_avx512(_mm512_maskz_loadu_ps(old, lane), d, d_x, total[h][i]);
      if (has_min) v = qi__panel_add_avx512(v, minus_dmin, d_x, mins[h][i]);
      _mm512_storeu_ps(lane, v);
    }
  }
}

// sums[h][i] for the mins of a block of 256.
QI__INLINE QI__AVX512_VNNI void qi__panel_mins_avx512(const qi__q8_panel *p, int group, const qi__panel_ready_x *r, int n,
                                                      __m512i (*sums)[QI__PANEL_X]) {
  QI__UNROLL for (int i = 0; i < n; i++) sums[0][i] = sums[1][i] = _mm512_setzero_si512();
  for (int g = 0; g < 128 / group; g++) QI__UNROLL for (int h = 0; h < 2; h++) {
    __m512i pair = _mm512_cvtepi8_epi16(qi__bytes_avx2((const uint8_t *)p->min[g][16 * h]));
    QI__UNROLL for (int i = 0; i < n; i++)
      sums[h][i] = _mm512_dpwssd_epi32(sums[h][i], pair, _mm512_set1_epi32(qi__load_4(r->sum[i] + 2 * g)));
  }
}

// total[h][i] += sum[h][i] * scale of 16 weight rows. Narrow: sums fit into int16, whose products are added in one instruction.
QI__INLINE QI__AVX512_VNNI void qi__panel_scale_avx512(const int8_t *scale, bool narrow, int n, __m512i (*sum)[QI__PANEL_X],
                                                       __m512i (*total)[QI__PANEL_X]) {
  QI__UNROLL for (int h = 0; h < 2; h++) {
    __m512i s = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(scale + 16 * h)));
    if (narrow) s = _mm512_maskz_mov_epi16(0x55555555u, s);
    QI__UNROLL for (int i = 0; i < n; i++)
      total[h][i] = narrow ? _mm512_dpwssd_epi32(total[h][i], sum[h][i], s)
                           : _mm512_add_epi32(total[h][i], _mm512_mullo_epi32(sum[h][i], s));
  }
}

// A block of 256 in pieces of a group, or of half a group; all but pointers are constants where this is inlined.
QI__INLINE QI__AVX512_VNNI void qi__panel_256_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, bool nibbles, bool narrow,
                                                     int group, const qi__panel_x *x, const qi__panel_ready_x *r, int n) {
  const int piece = narrow ? 16 : group;
  __m512i total[2][QI__PANEL_X], sum[2][QI__PANEL_X];
  QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm512_setzero_si512();
  const uint8_t *line = p->code;
  for (int at = 0; at < 256; at += piece, line += (nibbles ? 16 : 32) * piece) {
    const int g = at / group;
    QI__UNROLL for (int i = 0; i < n; i++)
      sum[0][i] = sum[1][i] = piece == group ? _mm512_set1_epi32(r->start[i][g]) : _mm512_setzero_si512();
    qi__panel_steps_avx512(line, nibbles, piece / 4, x->q + at, x->k, n, sum);
    qi__panel_scale_avx512(p->scale[g], narrow, n, sum, total);
  }
  if (plan->format->has_min) {
    qi__panel_mins_avx512(p, group, r, n, sum);
    qi__panel_take_avx512(p, true, x, 0, n, total, sum);
  } else {
    qi__panel_take_avx512(p, false, x, 0, n, total, NULL);
  }
}

// Blocks of 32; nibbles and n are constants where this is inlined.
QI__INLINE QI__AVX512_VNNI void qi__panel_32_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, bool nibbles,
                                                    const qi__panel_x *x, int n_blocks, int n) {
  for (int b = 0; b < n_blocks; b++) {
    __m512i total[2][QI__PANEL_X], sums[2][QI__PANEL_X];
    QI__UNROLL for (int i = 0; i < n; i++) {
      const int16_t *sum = x->sum + (size_t)i * (x->k / 16) + 2 * b;
      sums[0][i] = sums[1][i] = _mm512_set1_epi32(sum[0] + sum[1]);
      total[0][i] = total[1][i] = _mm512_set1_epi32(-plan->offset * (sum[0] + sum[1]));
    }
    qi__panel_steps_avx512(p->code + (nibbles ? 512 : 1024) * b, nibbles, 8, x->q + 32 * b, x->k, n, total);
    if (plan->format->has_min) qi__panel_take_avx512(p, true, x, b, n, total, sums);
    else qi__panel_take_avx512(p, false, x, b, n, total, NULL);
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
    for (int at = b * block; at < (b + 1) * block; at += 2, w += 128) {
      __m512i w0 = _mm512_loadu_si512((const void *)w), w1 = _mm512_loadu_si512((const void *)(w + 64));
      QI__UNROLL for (int i = 0; i < n; i++) {
        __m512i v = _mm512_set1_epi32(qi__load_4(r->word[i] + at));
        total[0][i] = _mm512_dpwssd_epi32(total[0][i], w0, v);
        total[1][i] = _mm512_dpwssd_epi32(total[1][i], w1, v);
      }
    }
    qi__panel_take_avx512(p, false, x, b, n, total, NULL);
  }
}

// ---- AVX-512 VNNI ----

QI__INLINE QI__AVX512_VNNI void qi__panel_rows_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, const qi__panel_x *x,
                                                      qi__panel_ready_x *r, int n_blocks, int n) {
  const int block = plan->format->info.block_len, group = plan->format->group;
  bool short_blocks = block == 32;
  if (plan->words) {
    if (!short_blocks) n_blocks = 1;
    qi__panel_x_words_avx2(x, n, n_blocks * block, r);
    qi__panel_words_rows_avx512(p, x, r, block, n_blocks, n);
    return;
  }
  if (short_blocks && p->nibbles) qi__panel_32_avx512(plan, p, true, x, n_blocks, n);
  else if (short_blocks) qi__panel_32_avx512(plan, p, false, x, n_blocks, n);
  else if (p->nibbles && group == 32) qi__panel_256_avx512(plan, p, true, true, 32, x, r, n);
  else if (p->nibbles) qi__panel_256_avx512(plan, p, true, true, 16, x, r, n);
  else if (plan->narrow && group == 32) qi__panel_256_avx512(plan, p, false, true, 32, x, r, n);
  else if (plan->narrow) qi__panel_256_avx512(plan, p, false, true, 16, x, r, n);
  else if (group == 32) qi__panel_256_avx512(plan, p, false, false, 32, x, r, n);
  else qi__panel_256_avx512(plan, p, false, false, 16, x, r, n);
}

QI__FN QI__AVX512_VNNI void qi__panel_multiply_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks,
                                                      size_t n_x, bool two_halves) {
  const qi__format *f = plan->format;
  qi__panel_ready_x r;
  (void)two_halves;
  memset(r.start, 0, sizeof r.start);
  for (size_t n; n_x; n_x -= n) {
    n = n_x >= 4 ? 4 : n_x >= 2 ? 2 : 1;
    for (size_t i = 0; f->info.block_len == 256 && i < n; i++) {
      const int16_t *sum = x.sum + i * (x.k / 16);
      if (plan->offset) qi__group_starts_avx2(plan->offset, f->group, sum, r.start[i]);
      if (f->has_min) qi__group_sums_avx2(f->group, sum, r.sum[i]);
    }
    qi__panel_fetch(&x.ahead, n, n_x);
    if (n == 4) qi__panel_rows_avx512(plan, p, &x, &r, n_blocks, 4);
    else if (n == 2) qi__panel_rows_avx512(plan, p, &x, &r, n_blocks, 2);
    else qi__panel_rows_avx512(plan, p, &x, &r, n_blocks, 1);
    qi__panel_x_advance(&x, n);
  }
}
#endif

#endif // QI__KERNELS_PANEL_MULTIPLY_X86_H
