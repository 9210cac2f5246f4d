// ==== >>panel_wide_x86 : integer products of wide codes with many rows of activations ====
#ifndef QI__KERNELS_PANEL_WIDE_X86_H
#define QI__KERNELS_PANEL_WIDE_X86_H

#include "panel_q8_x86.h"

#if defined(QI__X86_64)

// Panels as in panel_q8_x86.h for codes of more than eight bits: weights are int16, scales of groups multiplied in, so that a block
// has only its d, and multiply two codes at a time (VPMADDWD, VPDPWSSD). A product of 256 of QINS8_K is at most 256 * 127 * 255 *
// 127 < 2^31, one of 32 of QINS8 less.
typedef struct qi__wide_panel {
  int16_t word[2][128][16][2]; // [rows / 16][k / 2][row % 16][k % 2]
  float d[8][QI__Q8_ROWS];     // [block of 32], or [0]
} qi__wide_panel;

QI__STATIC_ASSERT(sizeof(qi__wide_panel) <= sizeof(qi__q8_own_panel), wide_panel);

// ---- weights to a panel ----

// Columns of a row: up to eight blocks of 32 or one of 256 at w, to words [2][8][128] of which this row is one of eight, and to the
// d of its blocks, which are QI__Q8_ROWS apart.
typedef void (*qi__wide_row_fn)(const qi__format *f, const __m256i *table, const uint8_t *w, int n, int16_t *words, float *d);

QI__INLINE QI__AVX2 void qi__wide_row_qins8_avx2(const qi__format *f, const __m256i *table, const uint8_t *w, int n, int16_t *words,
                                                 float *d) {
  for (int b = 0; b < n; b++, w += 36) {
    __m256i sizes[2], signs = _mm256_or_si256(qi__spread_bits_avx2(qi__load_u32(w), 255), _mm256_set1_epi8(1));
    qi__qins8_words_avx2(table, qi__bytes_avx2(w + 4), sizes);
    QI__UNROLL for (int h = 0; h < 2; h++)
      qi__store_bytes_avx2(words + b / 4 * 8 * 128 + b % 4 * 32 + 16 * h, qi__signed_words_avx2(sizes, signs, h));
    d[b * QI__Q8_ROWS] = qi__qins8_d(f);
  }
}

QI__INLINE QI__AVX2 void qi__wide_row_qins8_k_avx2(const qi__format *f, const __m256i *table, const uint8_t *w, int n,
                                                   int16_t *words, float *d) {
  (void)f, (void)n;
  uint8_t scale[16];
  _mm_storeu_si128((__m128i *)(void *)scale, qi__seven_bits_avx2(w + 2));
  *d = qi__half_avx2(w) * 0x1p-10f;
  for (int g = 0; g < 8; g++) {
    __m256i sizes[2], codes = qi__bytes_avx2(w + 16 + 32 * g), signs = _mm256_or_si256(codes, _mm256_set1_epi8(1));
    qi__qins8_k_words_avx2(table, codes, sizes);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      __m256i scaled = _mm256_mullo_epi16(qi__signed_words_avx2(sizes, signs, h), _mm256_set1_epi16(scale[2 * g + h]));
      qi__store_bytes_avx2(words + g / 4 * 8 * 128 + g % 4 * 32 + 16 * h, scaled);
    }
  }
}

// The chunk at column `at`. Rows beyond the last are the last again.
QI__INLINE QI__AVX2 qi__q8_panel qi__wide_fill_avx2(qi__wide_row_fn row, const __m256i *table, const qi__dot_q8_args *a, size_t at,
                                                    int n, qi__q8_own_panel *own) {
  qi__wide_panel *p = (qi__wide_panel *)(void *)own;
  const qi__format *f = a->format;
  int16_t words[2][8][128]; // [k / 128][row][k % 128]
  for (size_t r = 0; r < QI__Q8_ROWS; r++) {
    const uint8_t *w = a->w + qi__min_size(r, a->n_w - 1) * a->w_stride;
    w += at / (size_t)f->info.block_len * (size_t)f->info.block_bytes;
    row(f, table, w, n, words[0][r % 8], &p->d[0][r]);
    if (r % 8 != 7) continue;
    for (int part = 0; part < 2; part++)
      qi__panel_interleave_avx2((uint8_t(*)[256])(void *)words[part], (uint8_t *)p->word[r / 16][64 * part][r / 8 % 2 * 8]);
  }
  return qi__panel_view(own);
}

QI__FN QI__AVX2 qi__q8_panel qi__wide_fill_qins8_avx2(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n,
                                                      size_t n_x, qi__q8_own_panel *own) {
  __m256i table[4];
  (void)plan, (void)n_x;
  qi__log_tables_avx2(a->format->factors, table);
  return qi__wide_fill_avx2(qi__wide_row_qins8_avx2, table, a, at, n, own);
}

QI__FN QI__AVX2 qi__q8_panel qi__wide_fill_qins8_k_avx2(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n,
                                                        size_t n_x, qi__q8_own_panel *own) {
  __m256i table[4];
  (void)plan, (void)n_x;
  qi__log_tables_avx2(qi__qins8_k_factors, table);
  return qi__wide_fill_avx2(qi__wide_row_qins8_k_avx2, table, a, at, n, own);
}

// ---- a panel with rows of activations ----

#define QI__WIDE_ROWS 4 // of activations at a time

// `len` codes of n rows as int16.
QI__INLINE QI__AVX2 void qi__wide_x_avx2(const qi__panel_x *x, int n, int len, int16_t (*words)[256]) {
  for (int i = 0; i < n; i++)
    for (int j = 0; j < len; j += 16) {
      __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)(x->q + (size_t)i * x->k + j));
      qi__store_bytes_avx2(words[i] + j, _mm256_cvtepi8_epi16(codes));
    }
}

// 16 weight rows (`half`) and n rows of activations; n is a constant where this is inlined.
QI__INLINE QI__AVX2 void qi__wide_rows_avx2(const qi__wide_panel *p, int half, const qi__panel_x *x, int16_t (*words)[256],
                                            int block, int n_blocks, int n) {
  for (int b = 0; b < n_blocks; b++) {
    __m256i total[2][QI__WIDE_ROWS];
    QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm256_setzero_si256();
    for (int s = b * block / 2; s < (b + 1) * block / 2; s++) {
      const uint8_t *w = (const uint8_t *)p->word[half][s];
      __m256i w0 = qi__bytes_avx2(w), w1 = qi__bytes_avx2(w + 32);
      QI__UNROLL for (int i = 0; i < n; i++) {
        __m256i v = _mm256_set1_epi32(qi__load_4(words[i] + 2 * s));
        total[0][i] = qi__words_avx2(total[0][i], w0, v);
        total[1][i] = qi__words_avx2(total[1][i], w1, v);
      }
    }
    QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
      int row = 16 * half + 8 * h;
      float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + row, d_x = x->d[(size_t)i * x->blocks + (size_t)b];
      qi__panel_add_avx2(lane, p->d[b] + row, d_x, total[h][i]);
    }
  }
}

// All 32 weight rows.
QI__INLINE QI__AVX512_VNNI void qi__wide_rows_avx512(const qi__wide_panel *p, const qi__panel_x *x, int16_t (*words)[256],
                                                     int block, int n_blocks, int n) {
  for (int b = 0; b < n_blocks; b++) {
    __m512i total[2][QI__WIDE_ROWS];
    QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm512_setzero_si512();
    for (int s = b * block / 2; s < (b + 1) * block / 2; s++) {
      __m512i w0 = _mm512_loadu_si512((const void *)p->word[0][s]), w1 = _mm512_loadu_si512((const void *)p->word[1][s]);
      QI__UNROLL for (int i = 0; i < n; i++) {
        __m512i v = _mm512_set1_epi32(qi__load_4(words[i] + 2 * s));
        total[0][i] = _mm512_dpwssd_epi32(total[0][i], w0, v);
        total[1][i] = _mm512_dpwssd_epi32(total[1][i], w1, v);
      }
    }
    QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
      float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + 16 * h, d_x = x->d[(size_t)i * x->blocks + (size_t)b];
      qi__panel_add_avx512(lane, p->d[b] + 16 * h, d_x, total[h][i]);
    }
  }
}

// As qi__panel_multiply_avx2.
QI__FN QI__AVX2 void qi__wide_multiply_avx2(const qi__q8_plan *plan, const qi__q8_panel *panel, qi__panel_x x, int n_blocks,
                                            size_t n_x, bool two_halves) {
  const qi__wide_panel *p = (const qi__wide_panel *)(const void *)panel->code;
  const int block = plan->format->info.block_len;
  int16_t words[QI__WIDE_ROWS][256];
  if (block == 256) n_blocks = 1;
  for (size_t i = 0; i < n_x;) {
    int n = n_x - i >= QI__WIDE_ROWS ? QI__WIDE_ROWS : 1;
    qi__wide_x_avx2(&x, n, n_blocks * block, words);
    for (int half = 0; half < (two_halves ? 2 : 1); half++) {
      if (n == 1) qi__wide_rows_avx2(p, half, &x, words, block, n_blocks, 1);
      else qi__wide_rows_avx2(p, half, &x, words, block, n_blocks, QI__WIDE_ROWS);
    }
    i += (size_t)n;
    qi__panel_x_advance(&x, (size_t)n);
  }
}

QI__FN QI__AVX512_VNNI void qi__wide_multiply_avx512(const qi__q8_plan *plan, const qi__q8_panel *panel, qi__panel_x x,
                                                     int n_blocks, size_t n_x, bool two_halves) {
  const qi__wide_panel *p = (const qi__wide_panel *)(const void *)panel->code;
  const int block = plan->format->info.block_len;
  int16_t words[QI__WIDE_ROWS][256];
  (void)two_halves;
  if (block == 256) n_blocks = 1;
  for (size_t i = 0; i < n_x;) {
    int n = n_x - i >= QI__WIDE_ROWS ? QI__WIDE_ROWS : 1;
    qi__wide_x_avx2(&x, n, n_blocks * block, words);
    if (n == 1) qi__wide_rows_avx512(p, &x, words, block, n_blocks, 1);
    else qi__wide_rows_avx512(p, &x, words, block, n_blocks, QI__WIDE_ROWS);
    i += (size_t)n;
    qi__panel_x_advance(&x, (size_t)n);
  }
}
#endif

#endif // QI__KERNELS_PANEL_WIDE_X86_H
