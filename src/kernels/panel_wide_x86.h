// ==== >>panel_wide_x86 : panels of formats with wide codes ====
#ifndef QI__KERNELS_PANEL_WIDE_X86_H
#define QI__KERNELS_PANEL_WIDE_X86_H

#include "panel_q8_x86.h"

#if defined(QI__X86_64)

// Panels of words (panel_x86.h) for codes of more than eight bits, scales of groups multiplied in. A product of 256 of QINS8_K is
// at most 256 * 127 * 255 * 127 < 2^31, one of 32 of QINS8 less.

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
  uint8_t scale[16], code[256];
  _mm_storeu_si128((__m128i *)(void *)scale, qi__qins_scales_avx2(QI_FORMAT_QINS8_K, w));
  qi__turn_avx2(w + 16, code);
  *d = qi__qins_d_avx2(QI_FORMAT_QINS8_K, w);
  for (int g = 0; g < 8; g++) {
    __m256i sizes[2], codes = qi__bytes_avx2(code + 32 * g), signs = _mm256_or_si256(codes, _mm256_set1_epi8(1));
    qi__qins8_k_words_avx2(table, _mm256_permute4x64_epi64(codes, 0xd8), sizes);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      __m256i scaled = _mm256_mullo_epi16(qi__signed_words_avx2(sizes, signs, h), _mm256_set1_epi16(scale[2 * g + h]));
      qi__store_bytes_avx2(words + g / 4 * 8 * 128 + g % 4 * 32 + 16 * h, scaled);
    }
  }
}

// The chunk at column `at`. Rows beyond the last are the last again.
QI__INLINE QI__AVX2 qi__q8_panel qi__wide_fill_avx2(qi__wide_row_fn row, const __m256i *table, const qi__dot_q8_args *a, size_t at,
                                                    int n, qi__q8_own_panel *own) {
  const qi__format *f = a->format;
  int16_t words[2][8][128]; // [k / 128][row][k % 128]
  for (size_t r = 0; r < QI__Q8_ROWS; r++) {
    const uint8_t *w = a->w + qi__min_size(r, a->n_w - 1) * a->w_stride;
    w += at / (size_t)f->info.block_len * (size_t)f->info.block_bytes;
    row(f, table, w, n, words[0][r % 8], &own->d[0][r]);
    if (r % 8 != 7) continue;
    for (int part = 0; part < 2; part++)
      qi__panel_interleave_avx2((uint8_t(*)[256])(void *)words[part], own->code[64 * part][0] + 4 * (r - 7), 128);
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
#endif

#endif // QI__KERNELS_PANEL_WIDE_X86_H
