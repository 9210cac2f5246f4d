// ==== >>panel_x86 : weights as panels for many rows of activations ====
#ifndef QI__KERNELS_PANEL_X86_H
#define QI__KERNELS_PANEL_X86_H

#include "dot_q8_x86.h"

#if defined(QI__X86_64)

// A chunk of 256 columns of 32 weight rows is taken apart into a panel, whose lanes are weight rows, and meets all rows of
// activations: panel_multiply_x86.h. Codes are one of
//
//   bytes   unsigned, code + offset; the offset times the sum of the activations is taken off again
//   signs   signed codes in blocks of 32, where no instruction multiplies such (VNNI), in four versions: see below
//   words   code * scale of its group as int16: other codes of any size, where there is no instruction for wide ones (VNNI) or none
//           at all (more than eight bits). Products of 256 such words fit into int32: 256 * 128 * 128 * 127, and of QINS8_K, whose
//           scaled words reach 127 * 255, too.
//
// AVX2 multiplies bytes only where those of one side have no sign, and adds two such products as int16. For signs, activations give
// their sizes, at most 127, and weights take their signs. Two columns, xe * we + xo * wo, are with the sign s of xo
//
//   s * (|xe| * we + |xo| * wo)          where s is also the sign of xe
//   s * (|xe| * ~we + |xo| * wo) - xe    where it is not: ~we = -we - 1
//
// in which no sum is beyond 127 * 256 < 2^15. A step of four columns has two such pairs. Its versions hold we as it is or inverted
// in none of them, in the first, in the second, in both. Which one to take, each s, and the sum of what is taken off depend on the
// activations alone. Other ways need four instructions for 32 products, this one three: two multiply, one adds.
typedef struct qi__q8_panel {
  const uint8_t *code; // lines of 64 bytes, [step][rows / 16][row % 16][4 bytes of k]; signs: [step][version][row][4]
  bool nibbles;        // as qi__q8_stored says
  const int8_t (*scale)[QI__Q8_ROWS];         // [group]; none in blocks of 32
  const int8_t (*min)[QI__Q8_ROWS][2];        // [group / 2]; formats with mins
  const int32_t (*scale_pair)[QI__Q8_ROWS];   // AVX2: [step / chain] pairs of equal int16
  const int32_t (*min_pair)[QI__Q8_ROWS];     // AVX2: [group / 2] the mins of two groups as int16
  const float (*d)[QI__Q8_ROWS], (*minus_dmin)[QI__Q8_ROWS]; // [block of 32], or [0]
} qi__q8_panel;

#define QI__PANEL_LINES 128 // of words; bytes take 64

#define QI__SIGNS_LINE 128 // bytes of one version of a step

// Codes as signs, which lie behind the panel that they belong to.
typedef struct qi__q8_signs {
  uint8_t code[64][4][QI__SIGNS_LINE];
} qi__q8_signs;

// A panel that is not taken from a cache. Its size is a multiple of the cache line: several lie one after another.
typedef struct qi__q8_own_panel {
  uint8_t code[QI__PANEL_LINES][2][64];
  int8_t scale[16][QI__Q8_ROWS], min[8][QI__Q8_ROWS][2];
  float d[8][QI__Q8_ROWS], minus_dmin[8][QI__Q8_ROWS];
  int32_t scale_pair[16][QI__Q8_ROWS], min_pair[8][QI__Q8_ROWS];
} qi__q8_own_panel;

QI__STATIC_ASSERT(sizeof(qi__q8_own_panel) % QI__CACHE_LINE == 0, q8_panel_lines);
QI__STATIC_ASSERT(sizeof(qi__q8_own_panel) + sizeof(qi__q8_signs) <= QI__Q8_PANEL_FLOATS * sizeof(float), q8_panel);

// What the variants need to know of a format.
typedef struct qi__q8_plan {
  const qi__format *format;
  qi_format id;
  int offset;  // of bytes: code + offset is unsigned
  int chain;   // steps of 4 codes whose products AVX2 adds up as pairs of int16, 4 or 8; never more than a group
  bool narrow; // codes below 16, whose products with 16 activations add up to int16
  bool signs, words, vnni;
} qi__q8_plan;

// Formats whose codes + offset are below 16.
QI__INLINE bool qi__is_nibble(qi_format id) {
  return id == QI_FORMAT_Q4_0 || id == QI_FORMAT_Q4_1 || id == QI_FORMAT_Q2_K || id == QI_FORMAT_Q3_K || id == QI_FORMAT_Q4_K;
}

// Chains of 8: 15 * 127 * 2 * 8 < 2^15; of 4: 31 * 127 * 2 * 4, and Q6_K by sums that start from its offset: see
// qi__chain_starts_avx2.
QI__INLINE qi__q8_plan qi__q8_plan_of(const qi__format *f, bool vnni) {
  qi_format id = f->id;
  qi__q8_plan p = {f, id, qi__q8_offset(id), 8, qi__is_nibble(id), false, false, vnni};
  bool five_bits = id == QI_FORMAT_Q5_0 || id == QI_FORMAT_Q5_1 || id == QI_FORMAT_Q5_K || id == QI_FORMAT_MXFP4;
  if (f->group == 16 || five_bits) p.chain = 4;
  if (p.offset != QI__WIDE) return p;
  p.offset = 128;
  p.signs = !f->wide && !vnni && f->info.block_len == 32;
  p.words = f->wide || (!vnni && !p.signs);
  return p;
}

// ---- weights to a panel ----

// Eight rows of 256 codes, 4 at a time, to parts of lines that are `next` bytes apart: dst[k / 4][row, k % 4].
QI__FN QI__AVX2 void qi__panel_interleave_avx2(uint8_t (*rows)[256], uint8_t *dst, size_t next) {
  for (size_t k = 0; k < 256; k += 32) qi__transpose8_avx2(rows[0] + k, 256, dst + k / 4 * next, next);
}

// A chunk of eight rows that are taken apart one after another.
typedef struct qi__panel_rows {
  uint8_t code[8][256];
  int8_t scale[8][32];             // scales of up to 16 groups, then their mins
  float d[8][8], minus_dmin[8][8]; // of blocks of 32, or [0]
} qi__panel_rows;

// Row r of eight: n blocks of 32 or one of 256 at w. id is a constant where this is inlined.
QI__INLINE QI__AVX2 void qi__panel_row_avx2(qi_format id, const qi__q8_plan *plan, const uint8_t *w, int n, size_t r,
                                            qi__panel_rows *rows) {
  const qi__format *f = id ? &qi__formats[id] : plan->format;
  int offset = qi__q8_offset(id);
  const __m256i wide = _mm256_set1_epi8(offset == QI__WIDE ? (char)-128 : 0);
  uint8_t *codes = rows->code[r];
  if (id && f->info.block_len == 32) {
    _mm256_storeu_ps(rows->d[r], qi__block_d_avx2(id, f, w, n));
    if (f->has_min) _mm256_storeu_ps(rows->minus_dmin[r], qi__block_offset_avx2(f, w, n));
    for (int b = 0; b < n; b++, w += f->info.block_bytes)
      qi__store_bytes_avx2(codes + 32 * b, _mm256_xor_si256(qi__q8_codes_avx2(id, w, 0, NULL, offset), wide));
    return;
  }
  qi__block block;
  qi__q8_scales s;
  qi__q8_scales_avx2(id, plan->format, w, &block, &s);
  rows->d[r][0] = s.d;
  rows->minus_dmin[r][0] = -s.dmin;
  __m128i first = _mm256_castsi256_si128(s.scale), second = _mm256_extracti128_si256(s.scale, 1); // 16 codes of each 32
  __m128i scale = _mm_packs_epi16(first, first);
  __m128i min = _mm_packs_epi16(_mm256_castsi256_si128(s.min), _mm256_extracti128_si256(s.min, 1)); // one for each 16 codes
  if (f->group == 16) scale = _mm_unpacklo_epi8(scale, _mm_packs_epi16(second, second));
  else min = _mm_shuffle_epi8(min, _mm_setr_epi32(0x06040200, 0x0e0c0a08, -1, -1));
  _mm_storeu_si128((__m128i *)(void *)rows->scale[r], scale);
  _mm_storeu_si128((__m128i *)(void *)(rows->scale[r] + 16), min);
  QI__UNROLL for (int g = 0; g < 8; g++)
    qi__store_bytes_avx2(codes + 32 * g, _mm256_xor_si256(qi__q8_codes_avx2(id, w, g, &block, offset), wide));
}

// Scales and mins of eight rows, to rows r.. of the panel.
QI__INLINE QI__AVX2 void qi__panel_scales_avx2(const qi__panel_rows *rows, bool has_min, size_t r, qi__q8_own_panel *p) {
  const __m256i single = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m256i paired = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  uint8_t line[8][32], out[32]; // [group / 4][row][group % 4]
  qi__transpose8_avx2((const uint8_t *)rows->scale[0], sizeof rows->scale[0], line[0], sizeof line[0]);
  for (int c = 0; c < 4; c++) {
    qi__store_bytes_avx2(out, _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(qi__bytes_avx2(line[c]), single), in_order));
    for (int g = 0; g < 4; g++) memcpy(p->scale[4 * c + g] + r, out + 8 * g, 8);
  }
  for (int c = 0; has_min && c < 4; c++) {
    qi__store_bytes_avx2(out, _mm256_permute4x64_epi64(_mm256_shuffle_epi8(qi__bytes_avx2(line[4 + c]), paired), 0xd8));
    for (int g = 0; g < 2; g++) memcpy(p->min[2 * c + g][r], out + 16 * g, 16);
  }
}

// Eight rows to rows r.. of the panel.
QI__INLINE QI__AVX2 void qi__panel_put_avx2(const qi__q8_plan *plan, qi__panel_rows *rows, size_t r, qi__q8_own_panel *p) {
  const qi__format *f = plan->format;
  const size_t row = sizeof rows->d[0], line = sizeof p->d[0];
  qi__panel_interleave_avx2(rows->code, p->code[0][0] + 4 * r, 128);
  if (f->info.block_len == 256) {
    qi__panel_scales_avx2(rows, f->has_min, r, p);
    for (int i = 0; i < 8; i++) {
      p->d[0][r + (size_t)i] = rows->d[i][0];
      p->minus_dmin[0][r + (size_t)i] = rows->minus_dmin[i][0];
    }
    return;
  }
  qi__transpose8_avx2((const uint8_t *)rows->d, row, (uint8_t *)(p->d[0] + r), line);
  if (f->has_min) qi__transpose8_avx2((const uint8_t *)rows->minus_dmin, row, (uint8_t *)(p->minus_dmin[0] + r), line);
}

QI__INLINE qi__q8_panel qi__panel_view(const qi__q8_own_panel *p) {
  qi__q8_panel v;
  v.code = p->code[0][0];
  v.nibbles = false;
  v.scale = (const int8_t (*)[QI__Q8_ROWS])p->scale;
  v.min = (const int8_t (*)[QI__Q8_ROWS][2])p->min;
  v.d = (const float (*)[QI__Q8_ROWS])p->d;
  v.minus_dmin = (const float (*)[QI__Q8_ROWS])p->minus_dmin;
  v.scale_pair = (const int32_t (*)[QI__Q8_ROWS])p->scale_pair;
  v.min_pair = (const int32_t (*)[QI__Q8_ROWS])p->min_pair;
  return v;
}

// What AVX2 multiplies with, from int8.
QI__FN QI__AVX2 void qi__panel_widen_avx2(const qi__q8_plan *plan, const int8_t (*scale)[QI__Q8_ROWS],
                                          const int8_t (*min)[QI__Q8_ROWS][2], qi__q8_own_panel *p) {
  const qi__format *f = plan->format;
  for (int c = 0; f->info.block_len == 256 && c < 64 / plan->chain; c++)
    for (int r = 0; r < QI__Q8_ROWS; r += 8) {
      __m128i v = _mm_loadl_epi64((const __m128i *)(const void *)(scale[4 * c * plan->chain / f->group] + r));
      qi__store_bytes_avx2(p->scale_pair[c] + r, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(v, v)));
    }
  for (int g = 0; f->has_min && g < 128 / f->group; g++)
    for (int r = 0; r < QI__Q8_ROWS; r += 8) {
      __m128i v = _mm_loadu_si128((const __m128i *)(const void *)min[g][r]);
      qi__store_bytes_avx2(p->min_pair[g] + r, _mm256_cvtepi8_epi16(v));
    }
}

// Lines of bytes, code + 128, to the words of p, which has its scale_pair. src may be p->code: words of a step are written after
// its bytes, and those of all steps below it, are read.
QI__FN QI__AVX2 void qi__panel_words_avx2(const qi__q8_plan *plan, const uint8_t *src, qi__q8_own_panel *p) {
  const __m256i sign = _mm256_set1_epi8((char)-128);
  const int chain_bits = plan->chain == 8 ? 3 : 2;
  for (size_t r = 0; r < QI__Q8_ROWS; r += 8)
    for (size_t step = 64; step-- > 0;) {
      __m256i v = _mm256_xor_si256(qi__bytes_avx2(src + 128 * step + 4 * r), sign);
      __m256 a = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(v)));
      __m256 b = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1)));
      __m256i even = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), 0xd8);
      __m256i odd = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)), 0xd8);
      if (plan->format->info.block_len == 256) {
        __m256i scale = qi__bytes_avx2((const uint8_t *)(p->scale_pair[step >> chain_bits] + r));
        even = _mm256_mullo_epi16(even, scale);
        odd = _mm256_mullo_epi16(odd, scale);
      }
      qi__store_bytes_avx2(p->code[2 * step][0] + 4 * r, even);
      qi__store_bytes_avx2(p->code[2 * step + 1][0] + 4 * r, odd);
    }
}

// The same of n blocks of 32 to signs behind p, as the codes of v.
QI__FN QI__AVX2 void qi__panel_signs_avx2(const uint8_t *src, int n, qi__q8_own_panel *p, qi__q8_panel *v) {
  const __m256i sign = _mm256_set1_epi8((char)-128), first = _mm256_set1_epi32(0xff), second = _mm256_set1_epi32(0xff0000);
  uint8_t *to = (uint8_t *)(p + 1);
  v->code = to;
  for (int step = 0; step < 8 * n; step++, to += 3 * QI__SIGNS_LINE)
    for (int i = 0; i < 4; i++, src += 32, to += 32) {
      __m256i plain = _mm256_xor_si256(qi__bytes_avx2(src), sign), inverted = _mm256_xor_si256(plain, first);
      qi__store_bytes_avx2(to, plain);
      qi__store_bytes_avx2(to + QI__SIGNS_LINE, inverted);
      qi__store_bytes_avx2(to + 2 * QI__SIGNS_LINE, _mm256_xor_si256(plain, second));
      qi__store_bytes_avx2(to + 3 * QI__SIGNS_LINE, _mm256_xor_si256(inverted, second));
    }
}

// qi__panel_fill_fn of weights as they are in their file. Rows beyond the last are the last again.
QI__FN QI__AVX2 qi__q8_panel qi__panel_fill_avx2(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n, size_t n_x,
                                                 qi__q8_own_panel *p) {
  const qi__format *f = plan->format;
  qi__panel_rows rows;
  (void)n_x;
  for (size_t r = 0; r < QI__Q8_ROWS; r++) {
    const uint8_t *w = a->w + qi__min_size(r, a->n_w - 1) * a->w_stride;
    w += at / (size_t)f->info.block_len * (size_t)f->info.block_bytes;
#define QI__CASE(ID) case ID: qi__panel_row_avx2(ID, plan, w, n, r % 8, &rows); break
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
    default: qi__panel_row_avx2(QI_FORMAT_NONE, plan, w, n, r % 8, &rows); break;
    }
#undef QI__CASE
    if (r % 8 == 7) qi__panel_put_avx2(plan, &rows, r - 7, p);
  }
  qi__q8_panel v = qi__panel_view(p);
  if (plan->vnni) return v;
  qi__panel_widen_avx2(plan, (const int8_t (*)[QI__Q8_ROWS])p->scale, (const int8_t (*)[QI__Q8_ROWS][2])p->min, p);
  if (plan->signs) qi__panel_signs_avx2(p->code[0][0], n, p, &v);
  else if (plan->words) qi__panel_words_avx2(plan, p->code[0][0], p);
  return v;
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
  qi_format id = f->id;
  qi__q8_stored s;
  bool scales = f->info.block_len == 256;
  size_t row = QI__Q8_ROWS, groups = scales ? 256 / (size_t)f->group : 0, floats = 256 / (size_t)f->info.block_len * sizeof(float);
  s.nibbles = qi__is_nibble(id);
  s.scale = row * (s.nibbles ? 128 : 256);
  s.min = s.scale + row * groups;
  s.d = s.min + (f->has_min ? row * groups : 0);
  s.minus_dmin = s.d + row * floats;
  s.bytes = s.minus_dmin + (f->has_min ? row * floats : 0);
  return s;
}

// Bytes of a chunk; 0 = not for panels.
QI__FN size_t qi__q8_stored_bytes(const qi__format *f) {
  return f->wide || !qi__dot_q8_x86_has(f->id) ? 0 : qi__q8_stored_of(f).bytes;
}

// Chunks of the tile a->w, a->n_w, a->w_stride of rows of k columns to `dst`.
QI__FN QI__AVX2 void qi__q8_store_avx2(const qi__dot_q8_args *a, size_t k, uint8_t *dst) {
  qi__q8_own_panel p;
  qi__q8_plan plan = qi__q8_plan_of(a->format, true);
  qi__q8_stored s = qi__q8_stored_of(a->format);
  memset(&p, 0, sizeof p);
  for (size_t at = 0; at < k; at += 256, dst += s.bytes) {
    qi__panel_fill_avx2(a, &plan, at, (int)qi__min_size(8, (k - at) / 32), 0, &p);
    if (!s.nibbles) memcpy(dst, p.code, s.scale);
    for (size_t i = 0; s.nibbles && i < s.scale; i += 32) {
      const uint8_t *line = p.code[i / 128 * 2][0] + i % 128;
      qi__store_bytes_avx2(dst + i, _mm256_or_si256(qi__bytes_avx2(line), _mm256_slli_epi16(qi__bytes_avx2(line + 128), 4)));
    }
    memcpy(dst + s.scale, p.scale, s.min - s.scale);
    memcpy(dst + s.min, p.min, s.d - s.min);
    memcpy(dst + s.d, p.d, s.minus_dmin - s.d);
    memcpy(dst + s.minus_dmin, p.minus_dmin, s.bytes - s.minus_dmin);
  }
}

// Nibbles of a stored chunk to a line each.
QI__FN QI__AVX2 void qi__panel_load_nibbles_avx2(const uint8_t *src, qi__q8_own_panel *p) {
  const __m256i low4 = _mm256_set1_epi8(15);
  for (size_t i = 0; i < 128 * QI__Q8_ROWS; i += 32) {
    uint8_t *line = p->code[i / 128 * 2][0] + i % 128;
    __m256i v = qi__bytes_avx2(src + i);
    qi__store_bytes_avx2(line, _mm256_and_si256(v, low4));
    qi__store_bytes_avx2(line + 128, _mm256_and_si256(_mm256_srli_epi16(v, 4), low4));
  }
}

// A stored chunk as a panel; n as in qi__panel_fill_fn. Bytes stay where they are, with VNNI and few rows of activations also
// nibbles.
QI__FN QI__AVX2 qi__q8_panel qi__panel_load_avx2(const qi__q8_plan *plan, const qi__q8_stored *s, const uint8_t *src, int n,
                                                 bool few, qi__q8_own_panel *own) {
  qi__q8_panel v = qi__panel_view(own);
  v.nibbles = s->nibbles && plan->vnni && few;
  v.scale = (const int8_t (*)[QI__Q8_ROWS])(const void *)(src + s->scale);
  v.min = (const int8_t (*)[QI__Q8_ROWS][2])(const void *)(src + s->min);
  v.d = (const float (*)[QI__Q8_ROWS])(const void *)(src + s->d);
  v.minus_dmin = (const float (*)[QI__Q8_ROWS])(const void *)(src + s->minus_dmin);
  if (!plan->vnni) qi__panel_widen_avx2(plan, v.scale, v.min, own);
  if (plan->signs) qi__panel_signs_avx2(src, n, own, &v);
  else if (plan->words) qi__panel_words_avx2(plan, src, own);
  else if (s->nibbles && !v.nibbles) qi__panel_load_nibbles_avx2(src, own);
  else v.code = src;
  return v;
}

#define QI__STORED_FEW 16 // rows of activations up to which nibbles are taken apart for each of them

// qi__panel_fill_fn where a->w is a tile of stored panels.
QI__FN qi__q8_panel qi__panel_fill_stored(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n, size_t n_x,
                                          qi__q8_own_panel *own) {
  qi__q8_stored layout = qi__q8_stored_of(plan->format);
  return qi__panel_load_avx2(plan, &layout, a->w + at / 256 * a->w_stride, n, n_x <= QI__STORED_FEW, own);
}
#endif

#endif // QI__KERNELS_PANEL_X86_H
