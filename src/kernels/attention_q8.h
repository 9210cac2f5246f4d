// ==== >>attention_q8 : query heads over int8 keys and values ====
#ifndef QI__KERNELS_ATTENTION_Q8_H
#define QI__KERNELS_ATTENTION_Q8_H

#include "attention.h"
#include "dot_q8_neon.h"
#include "dot_q8_x86.h"
#include "kv_page.h"

// Both products of attention in integers, for pages of type Q8 (Q4 unpacked to it). Queries are int8 codes in groups of 32 like
// the keys; the weights of the softmax, times the scales of the values, are 15-bit integers relative to the greatest of the piece,
// so a weight is off by at most 1.02 * 2^-16 of it. Sums over integers are exact: they are made in any order, and each variant
// returns the bits of the reference. What is seen by one query row never touches another.

// Query rows as integers: x = d * codes in each group of 32. Eight rows lie together, so that four codes of each are in one
// register.
typedef struct qi__kv_queries {
  int8_t *q;     // [n / 8][groups][8][8 rows][4]
  float *d;      // [n / 8][groups][8 rows]
  int32_t *bias; // the same of -128 times the sum of the codes: for units that multiply unsigned keys, code + 128
  size_t groups;
} qi__kv_queries;

// Where group b of row g is in d and bias, and where its codes begin in q: four of them, the next four 32 bytes on.
QI__INLINE size_t qi__kv_query_at(const qi__kv_queries *q, size_t g, size_t b) { return (g / 8 * q->groups + b) * 8 + g % 8; }
QI__INLINE size_t qi__kv_query_codes_at(const qi__kv_queries *q, size_t g, size_t b) {
  return (g / 8 * q->groups + b) * 256 + g % 8 * 4;
}

// Rows of `left` to take at once from row g on: 8, 4, 2 or 1 that lie together, at most `most`.
QI__INLINE size_t qi__kv_query_rows(size_t g, size_t left, size_t most) {
  while (most > left || g % most) most /= 2;
  return most;
}

// Part of a page of one head.
typedef struct qi__kv_codes {
  const int8_t *codes;    // of keys, or of one group of values
  const uint16_t *scale;  // of keys
  size_t n;               // positions 0..n-1 are wanted, at most QI__KV_PAGE
  const void *ahead;      // as many bytes as codes that are wanted soon: fetched meanwhile
} qi__kv_codes;

// For each query row g < n_q and position j < n rounded up to 16, in float32, groups b ascending:
//
//   s = fma((float)(sum of the 32 products of codes) * scale[j, b], d[g, b], s)      s = 0 at first
//
// to score[g * QI__ATTENTION_PIECE + j].
QI__FN void qi__attention_scores_q8_ref(const qi__kv_queries *q, size_t first, size_t n_q, const qi__kv_codes *k, float *score) {
  for (size_t g = first; g < first + n_q; g++, score += QI__ATTENTION_PIECE)
    for (size_t j = 0; j < (k->n + 15) / 16 * 16; j++) {
      score[j] = 0;
      for (size_t b = 0; b < q->groups; b++) {
        const int8_t *codes = k->codes + (j / 16 * q->groups + b) * 512 + j % 16 * 4, *mine = q->q + qi__kv_query_codes_at(q, g, b);
        int32_t sum = 0;
        for (size_t i = 0; i < 32; i++) sum += mine[i / 4 * 32 + i % 4] * codes[i / 4 * 64 + i % 4];
        float part = (float)sum * qi__f16_to_f32(k->scale[(j / 16 * q->groups + b) * 16 + j % 16]);
        score[j] = fmaf(part, q->d[qi__kv_query_at(q, g, b)], score[j]);
      }
    }
}

#define QI__ATTENTION_WEIGHT 32767.0f
#define QI__ATTENTION_LEAST 0x1p-100f // below it weights count as zero: their inverse would not be finite

// What the products of a row of weights are multiplied by, `max` the greatest of them; *unit becomes what a weight of 1 stands for.
QI__INLINE float qi__attention_inverse(float max, float *unit) {
  bool counts = max > QI__ATTENTION_LEAST;
  *unit = counts ? max * (1.0f / QI__ATTENTION_WEIGHT) : 0;
  return counts ? QI__ATTENTION_WEIGHT / max : 0;
}

// For each of n_q rows: out[g, j] = round(weight[g, j] * scale[j] * (32767 / max)), ties to even, max the greatest of the row's
// products; unit[g] = what a weight of 1 stands for. j < n, a multiple of 16. NaN, also that of what is not stored, becomes 0.
QI__FN void qi__attention_weights_ref(const float *weight, size_t n_q, const float *scale, size_t n, int16_t *out, float *unit) {
  for (size_t g = 0; g < n_q; g++, weight += QI__ATTENTION_PIECE, out += QI__ATTENTION_PIECE) {
    float max = 0;
    for (size_t j = 0; j < n; j++) max = qi__greater(weight[j] * scale[j], max);
    float inverse = qi__attention_inverse(max, &unit[g]);
    for (size_t j = 0; j < n; j++) {
      float product = weight[j] * scale[j], x = qi__greater(product * inverse, 0);
      out[j] = (int16_t)qi__round_even(x < QI__ATTENTION_WEIGHT ? x : QI__ATTENTION_WEIGHT);
    }
  }
}

// sum[g * 32 + i] += sum_j weight[g * QI__ATTENTION_PIECE + j] * codes[j / 2][i][j % 2]      g < n_q, i < 32, j < n rounded up to
// 16. Exact: a piece of 256 times 32767 times 127 is less than 2^30.
QI__FN void qi__attention_values_q8_ref(const int16_t *weight, size_t n_q, const qi__kv_codes *v, int32_t *sum) {
  for (size_t g = 0; g < n_q; g++, weight += QI__ATTENTION_PIECE, sum += 32)
    for (size_t j = 0; j < (v->n + 15) / 16 * 16; j++)
      for (size_t i = 0; i < 32; i++) sum[i] += weight[j] * v->codes[j / 2 * 64 + i * 2 + j % 2];
}

// out[g * dim + i] = (float)sum[g * 32 + i] * unit[g]      g < n_q, i < n <= 32
QI__FN void qi__attention_scale_ref(const int32_t *sum, const float *unit, size_t n_q, size_t n, size_t dim, float *out) {
  for (size_t g = 0; g < n_q; g++, sum += 32, out += dim)
    for (size_t i = 0; i < n; i++) out[i] = (float)sum[i] * unit[g];
}

#if defined(QI__X86_64)

// ---- AVX2 and VNNI with 256 bits ----

// Keys by their size, queries with the keys' sign: 127 * 127 * 2 fits into int16. 8 positions in a register.
QI__INLINE QI__AVX2 void qi__attention_scores8_x86(const qi__kv_queries *q, size_t g, int n_q, const qi__kv_codes *k, size_t j,
                                                   qi__step_fn step, float *score) {
  __m256 s[4];
  QI__UNROLL for (int r = 0; r < n_q; r++) s[r] = _mm256_setzero_ps();
  for (size_t b = 0; b < q->groups; b++) {
    size_t block = j / 16 * q->groups + b;
    const int8_t *codes = k->codes + block * 512 + j % 16 * 4, *mine = q->q + qi__kv_query_codes_at(q, g, b);
    const float *d = q->d + qi__kv_query_at(q, g, b);
    __m256i sum[4];
    QI__UNROLL for (int r = 0; r < n_q; r++) sum[r] = _mm256_setzero_si256();
    for (size_t t = 0; t < 8; t++) {
      __m256i c = _mm256_loadu_si256((const __m256i *)(const void *)(codes + 64 * t)), size = _mm256_abs_epi8(c);
      qi__prefetch((const uint8_t *)k->ahead + block * 512 + j % 16 / 8 * 256 + t * 32);
      QI__UNROLL for (int r = 0; r < n_q; r++) {
        __m256i four = _mm256_set1_epi32((int)qi__load_u32(mine + 32 * t + 4 * r));
        sum[r] = step(sum[r], size, _mm256_sign_epi8(four, c));
      }
    }
    __m256 scale = qi__load_kv_avx2(k->scale, block * 16 + j % 16, QI_KV_F16);
    QI__UNROLL for (int r = 0; r < n_q; r++) {
      __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r]), scale);
      s[r] = _mm256_fmadd_ps(part, _mm256_set1_ps(d[r]), s[r]);
    }
  }
  QI__UNROLL for (int r = 0; r < n_q; r++) _mm256_storeu_ps(score + (size_t)r * QI__ATTENTION_PIECE + j, s[r]);
}

QI__INLINE QI__AVX2 void qi__attention_scores_q8_x86(const qi__kv_queries *q, size_t first, size_t n_q, const qi__kv_codes *k,
                                                     qi__step_fn step, float *score) {
  for (size_t g = 0, rows; g < n_q; g += rows, score += rows * QI__ATTENTION_PIECE) {
    rows = qi__kv_query_rows(first + g, n_q - g, 4);
    for (size_t j = 0; j < (k->n + 15) / 16 * 16; j += 8) {
      if (rows == 4) qi__attention_scores8_x86(q, first + g, 4, k, j, step, score);
      else if (rows == 2) qi__attention_scores8_x86(q, first + g, 2, k, j, step, score);
      else qi__attention_scores8_x86(q, first + g, 1, k, j, step, score);
    }
  }
}

QI__FN QI__AVX2 void qi__attention_scores_q8_avx2(const qi__kv_queries *q, size_t first, size_t n_q, const qi__kv_codes *k,
                                                  float *score) {
  qi__attention_scores_q8_x86(q, first, n_q, k, qi__step_bytes_avx2, score);
}

QI__FN QI__AVX2 void qi__attention_weights_avx2(const float *weight, size_t n_q, const float *scale, size_t n, int16_t *out,
                                                float *unit) {
  const __m256 top = _mm256_set1_ps(QI__ATTENTION_WEIGHT);
  for (size_t g = 0; g < n_q; g++, weight += QI__ATTENTION_PIECE, out += QI__ATTENTION_PIECE) {
    __m256 most[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t j = 0; j < n; j += 16)
      QI__UNROLL for (int i = 0; i < 2; i++)
        most[i] = _mm256_max_ps(_mm256_mul_ps(_mm256_loadu_ps(weight + j + 8 * i), _mm256_loadu_ps(scale + j + 8 * i)), most[i]);
    const __m256 inverse = _mm256_set1_ps(qi__attention_inverse(qi__greatest_avx2(_mm256_max_ps(most[1], most[0])), &unit[g]));
    for (size_t j = 0; j < n; j += 16) {
      __m256i part[2];
      QI__UNROLL for (int i = 0; i < 2; i++) {
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(weight + j + 8 * i), _mm256_loadu_ps(scale + j + 8 * i));
        x = _mm256_max_ps(_mm256_mul_ps(x, inverse), _mm256_setzero_ps());
        part[i] = _mm256_cvtps_epi32(_mm256_min_ps(x, top));
      }
      __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(part[0], part[1]), 0xd8); // packs work in halves
      _mm256_storeu_si256((__m256i *)(void *)(out + j), both);
    }
  }
}

QI__FN QI__AVX2 void qi__attention_scale_avx2(const int32_t *sum, const float *unit, size_t n_q, size_t n, size_t dim, float *out) {
  for (size_t g = 0; g < n_q; g++, sum += 32, out += dim) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
      __m256 x = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(const void *)(sum + i)));
      _mm256_storeu_ps(out + i, _mm256_mul_ps(x, _mm256_set1_ps(unit[g])));
    }
    for (; i < n; i++) out[i] = (float)sum[i] * unit[g];
  }
}

// 8 elements in a register, 2 query rows.
QI__INLINE QI__AVX2 void qi__attention_values8_x86(const int16_t *weight, int n_q, const qi__kv_codes *v, qi__step_fn words,
                                                   int32_t *sum) {
  __m256i s[2][4];
  QI__UNROLL for (int r = 0; r < n_q; r++) QI__UNROLL for (int c = 0; c < 4; c++)
    s[r][c] = _mm256_loadu_si256((const __m256i *)(const void *)(sum + 32 * r + 8 * c));
  for (size_t j = 0; j < (v->n + 15) / 16 * 16; j += 2) {
    __m256i w[2];
    qi__prefetch((const uint8_t *)v->ahead + 32 * j);
    QI__UNROLL for (int r = 0; r < n_q; r++)
      w[r] = _mm256_set1_epi32((int)qi__load_u32(weight + (size_t)r * QI__ATTENTION_PIECE + j));
    QI__UNROLL for (int c = 0; c < 4; c++) {
      __m256i row = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(v->codes + 32 * j + 16 * c)));
      QI__UNROLL for (int r = 0; r < n_q; r++) s[r][c] = words(s[r][c], row, w[r]);
    }
  }
  QI__UNROLL for (int r = 0; r < n_q; r++) QI__UNROLL for (int c = 0; c < 4; c++)
    _mm256_storeu_si256((__m256i *)(void *)(sum + 32 * r + 8 * c), s[r][c]);
}

QI__INLINE QI__AVX2 void qi__attention_values_q8_x86(const int16_t *weight, size_t n_q, const qi__kv_codes *v, qi__step_fn words,
                                                     int32_t *sum) {
  size_t g = 0;
  for (; g + 2 <= n_q; g += 2) qi__attention_values8_x86(weight + g * QI__ATTENTION_PIECE, 2, v, words, sum + 32 * g);
  if (g < n_q) qi__attention_values8_x86(weight + g * QI__ATTENTION_PIECE, 1, v, words, sum + 32 * g);
}

QI__FN QI__AVX2 void qi__attention_values_q8_avx2(const int16_t *weight, size_t n_q, const qi__kv_codes *v, int32_t *sum) {
  qi__attention_values_q8_x86(weight, n_q, v, qi__words_avx2, sum);
}

#if defined(QI__HAS_AVX_VNNI)
QI__FN QI__AVX_VNNI void qi__attention_scores_q8_avx_vnni(const qi__kv_queries *q, size_t first, size_t n_q, const qi__kv_codes *k,
                                                          float *score) {
  qi__attention_scores_q8_x86(q, first, n_q, k, qi__step_bytes_avx_vnni, score);
}
QI__FN QI__AVX_VNNI void qi__attention_values_q8_avx_vnni(const int16_t *weight, size_t n_q, const qi__kv_codes *v, int32_t *sum) {
  qi__attention_values_q8_x86(weight, n_q, v, qi__words_avx_vnni, sum);
}
#endif

// ---- AVX-512 with VNNI ----

// Keys plus 128 are unsigned; `bias` takes that off again. n_b blocks of 16 positions: what is loaded of a query serves them all.
QI__INLINE QI__AVX512_VNNI void qi__attention_scores16_avx512(const qi__kv_queries *q, size_t g, int n_q, const qi__kv_codes *k,
                                                              size_t block, int n_b, float *score) {
  const __m512i flip = _mm512_set1_epi8((char)0x80);
  const size_t groups = q->groups;
  __m512 s[8][2];
  QI__UNROLL for (int r = 0; r < n_q; r++) QI__UNROLL for (int c = 0; c < n_b; c++) s[r][c] = _mm512_setzero_ps();
  for (size_t b = 0; b < groups; b++) {
    const size_t at = qi__kv_query_at(q, g, b), from = block * groups + b;
    const int8_t *codes = k->codes + from * 512, *mine = q->q + qi__kv_query_codes_at(q, g, b);
    const uint8_t *ahead = (const uint8_t *)k->ahead + from * 512;
    __m512i sum[8][2];
    QI__UNROLL for (int r = 0; r < n_q; r++) QI__UNROLL for (int c = 0; c < n_b; c++)
      sum[r][c] = _mm512_set1_epi32(q->bias[at + (size_t)r]);
    QI__UNROLL for (size_t t = 0; t < 8; t++) {
      __m512i key[2];
      QI__UNROLL for (int c = 0; c < n_b; c++) {
        size_t offset = (size_t)c * groups * 512 + 64 * t;
        key[c] = _mm512_xor_si512(_mm512_loadu_si512((const void *)(codes + offset)), flip);
        qi__prefetch(ahead + offset);
      }
      QI__UNROLL for (int r = 0; r < n_q; r++) {
        const __m512i four = _mm512_set1_epi32((int)qi__load_u32(mine + 32 * t + 4 * r));
        QI__UNROLL for (int c = 0; c < n_b; c++) sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], key[c], four);
      }
    }
    QI__UNROLL for (int c = 0; c < n_b; c++) {
      __m512 scale = qi__load_kv_avx512(k->scale, (from + (size_t)c * groups) * 16, QI_KV_F16);
      QI__UNROLL for (int r = 0; r < n_q; r++) {
        __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][c]), scale);
        s[r][c] = _mm512_fmadd_ps(part, _mm512_set1_ps(q->d[at + (size_t)r]), s[r][c]);
      }
    }
  }
  QI__UNROLL for (int r = 0; r < n_q; r++) QI__UNROLL for (int c = 0; c < n_b; c++)
    _mm512_storeu_ps(score + (size_t)r * QI__ATTENTION_PIECE + 16 * (block + (size_t)c), s[r][c]);
}

QI__FN QI__AVX512_VNNI void qi__attention_scores_q8_avx512(const qi__kv_queries *q, size_t first, size_t n_q, const qi__kv_codes *k,
                                                           float *score) {
  for (size_t g = 0, rows; g < n_q; g += rows, score += rows * QI__ATTENTION_PIECE) {
    rows = qi__kv_query_rows(first + g, n_q - g, 8);
    for (size_t block = 0, n = (k->n + 15) / 16, two; block < n; block += 1 + two) {
      two = rows >= 4 && block + 2 <= n;
      if (rows == 8 && two) qi__attention_scores16_avx512(q, first + g, 8, k, block, 2, score);
      else if (rows == 8) qi__attention_scores16_avx512(q, first + g, 8, k, block, 1, score);
      else if (rows == 4 && two) qi__attention_scores16_avx512(q, first + g, 4, k, block, 2, score);
      else if (rows == 4) qi__attention_scores16_avx512(q, first + g, 4, k, block, 1, score);
      else if (rows == 2) qi__attention_scores16_avx512(q, first + g, 2, k, block, 1, score);
      else qi__attention_scores16_avx512(q, first + g, 1, k, block, 1, score);
    }
  }
}

// Rows at once: a row alone waits for its own maximum.
QI__INLINE QI__AVX512 void qi__attention_weights_rows_avx512(const float *weight, int rows, const float *scale, size_t n,
                                                             int16_t *out, float *unit) {
  const __m512 top = _mm512_set1_ps(QI__ATTENTION_WEIGHT);
  __m512 most[4];
  QI__UNROLL for (int r = 0; r < rows; r++) most[r] = _mm512_setzero_ps();
  for (size_t j = 0; j < n; j += 16) {
    const __m512 scales = _mm512_loadu_ps(scale + j);
    QI__UNROLL for (int r = 0; r < rows; r++)
      most[r] = _mm512_max_ps(_mm512_mul_ps(_mm512_loadu_ps(weight + r * QI__ATTENTION_PIECE + j), scales), most[r]);
  }
  QI__UNROLL for (int r = 0; r < rows; r++)
    most[r] = _mm512_set1_ps(qi__attention_inverse(qi__greatest_avx512(most[r]), &unit[r]));
  for (size_t j = 0; j < n; j += 16) {
    const __m512 scales = _mm512_loadu_ps(scale + j);
    QI__UNROLL for (int r = 0; r < rows; r++) {
      __m512 x = _mm512_mul_ps(_mm512_loadu_ps(weight + r * QI__ATTENTION_PIECE + j), scales);
      x = _mm512_max_ps(_mm512_mul_ps(x, most[r]), _mm512_setzero_ps());
      __m512i code = _mm512_cvtps_epi32(_mm512_min_ps(x, top));
      _mm256_storeu_si256((__m256i *)(void *)(out + r * QI__ATTENTION_PIECE + j), _mm512_cvtepi32_epi16(code));
    }
  }
}

QI__FN QI__AVX512 void qi__attention_weights_avx512(const float *weight, size_t n_q, const float *scale, size_t n, int16_t *out,
                                                    float *unit) {
  size_t g = 0, row = QI__ATTENTION_PIECE;
  for (; g + 4 <= n_q; g += 4) qi__attention_weights_rows_avx512(weight + g * row, 4, scale, n, out + g * row, unit + g);
  for (; g < n_q; g++) qi__attention_weights_rows_avx512(weight + g * row, 1, scale, n, out + g * row, unit + g);
}

QI__INLINE QI__AVX512_VNNI void qi__attention_values16_avx512(const int16_t *weight, int n_q, const qi__kv_codes *v, int32_t *sum) {
  __m512i s[8][2];
  QI__UNROLL for (int r = 0; r < n_q; r++) QI__UNROLL for (int c = 0; c < 2; c++)
    s[r][c] = _mm512_loadu_si512((const void *)(sum + 32 * r + 16 * c));
  for (size_t j = 0; j < (v->n + 15) / 16 * 16; j += 2) {
    __m512i row[2];
    qi__prefetch((const uint8_t *)v->ahead + 32 * j);
    QI__UNROLL for (int c = 0; c < 2; c++)
      row[c] = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(v->codes + 32 * j + 32 * c)));
    QI__UNROLL for (int r = 0; r < n_q; r++) {
      __m512i w = _mm512_set1_epi32((int)qi__load_u32(weight + (size_t)r * QI__ATTENTION_PIECE + j));
      QI__UNROLL for (int c = 0; c < 2; c++) s[r][c] = _mm512_dpwssd_epi32(s[r][c], row[c], w);
    }
  }
  QI__UNROLL for (int r = 0; r < n_q; r++) QI__UNROLL for (int c = 0; c < 2; c++)
    _mm512_storeu_si512((void *)(sum + 32 * r + 16 * c), s[r][c]);
}

QI__FN QI__AVX512_VNNI void qi__attention_values_q8_avx512(const int16_t *weight, size_t n_q, const qi__kv_codes *v, int32_t *sum) {
  for (size_t rows; n_q; n_q -= rows, weight += rows * QI__ATTENTION_PIECE, sum += 32 * rows) {
    rows = n_q >= 8 ? 8 : n_q >= 4 ? 4 : n_q >= 2 ? 2 : 1;
    if (rows == 8) qi__attention_values16_avx512(weight, 8, v, sum);
    else if (rows == 4) qi__attention_values16_avx512(weight, 4, v, sum);
    else if (rows == 2) qi__attention_values16_avx512(weight, 2, v, sum);
    else qi__attention_values16_avx512(weight, 1, v, sum);
  }
}
#endif

// ---- NEON ----

#if defined(QI__ARM64)

// 4 positions in a register.
QI__INLINE void qi__attention_scores4_neon(const qi__kv_queries *q, size_t g, int n_q, const qi__kv_codes *k, size_t j,
                                           qi__dot4_fn dot, float *score) {
  float32x4_t s[4];
  QI__UNROLL for (int r = 0; r < n_q; r++) s[r] = vdupq_n_f32(0);
  for (size_t b = 0; b < q->groups; b++) {
    size_t block = j / 16 * q->groups + b;
    const int8_t *codes = k->codes + block * 512 + j % 16 * 4, *mine = q->q + qi__kv_query_codes_at(q, g, b);
    const float *d = q->d + qi__kv_query_at(q, g, b);
    int32x4_t sum[4];
    QI__UNROLL for (int r = 0; r < n_q; r++) sum[r] = vdupq_n_s32(0);
    for (size_t t = 0; t < 8; t++) {
      int8x16_t c = vld1q_s8(codes + 64 * t);
      QI__UNROLL for (int r = 0; r < n_q; r++) {
        int32x4_t four = vdupq_n_s32((int)qi__load_u32(mine + 32 * t + 4 * r));
        sum[r] = dot(sum[r], c, vreinterpretq_s8_s32(four));
      }
    }
    float32x4_t scale = qi__load_kv_neon(k->scale, block * 16 + j % 16, QI_KV_F16);
    QI__UNROLL for (int r = 0; r < n_q; r++) {
      float32x4_t part = vmulq_f32(vcvtq_f32_s32(sum[r]), scale);
      s[r] = vfmaq_n_f32(s[r], part, d[r]);
    }
  }
  QI__UNROLL for (int r = 0; r < n_q; r++) vst1q_f32(score + (size_t)r * QI__ATTENTION_PIECE + j, s[r]);
}

QI__INLINE void qi__attention_scores_q8_arm(const qi__kv_queries *q, size_t first, size_t n_q, const qi__kv_codes *k,
                                            qi__dot4_fn dot, float *score) {
  for (size_t g = 0, rows; g < n_q; g += rows, score += rows * QI__ATTENTION_PIECE) {
    rows = qi__kv_query_rows(first + g, n_q - g, 4);
    for (size_t j = 0; j < (k->n + 15) / 16 * 16; j += 4) {
      if (rows == 4) qi__attention_scores4_neon(q, first + g, 4, k, j, dot, score);
      else if (rows == 2) qi__attention_scores4_neon(q, first + g, 2, k, j, dot, score);
      else qi__attention_scores4_neon(q, first + g, 1, k, j, dot, score);
    }
  }
}

QI__FN void qi__attention_scores_q8_neon(const qi__kv_queries *q, size_t first, size_t n_q, const qi__kv_codes *k, float *score) {
  qi__attention_scores_q8_arm(q, first, n_q, k, qi__dot4_neon, score);
}
QI__FN QI__DOTPROD void qi__attention_scores_q8_dotprod(const qi__kv_queries *q, size_t first, size_t n_q, const qi__kv_codes *k,
                                                        float *score) {
  qi__attention_scores_q8_arm(q, first, n_q, k, qi__dot4_dotprod, score);
}

// FMAX and FMIN are not those of the contract for NaN, hence the comparisons.
QI__FN void qi__attention_weights_neon(const float *weight, size_t n_q, const float *scale, size_t n, int16_t *out, float *unit) {
  for (size_t g = 0; g < n_q; g++, weight += QI__ATTENTION_PIECE, out += QI__ATTENTION_PIECE) {
    float32x4_t most = vdupq_n_f32(0);
    float lane[4], max = 0;
    for (size_t j = 0; j < n; j += 4) most = qi__greater_neon(vmulq_f32(vld1q_f32(weight + j), vld1q_f32(scale + j)), most);
    vst1q_f32(lane, most);
    for (int l = 0; l < 4; l++) max = qi__greater(lane[l], max);
    const float inverse = qi__attention_inverse(max, &unit[g]);
    for (size_t j = 0; j < n; j += 4) {
      float32x4_t x = vmulq_n_f32(vmulq_f32(vld1q_f32(weight + j), vld1q_f32(scale + j)), inverse);
      x = vminq_f32(qi__greater_neon(x, vdupq_n_f32(0)), vdupq_n_f32(QI__ATTENTION_WEIGHT));
      vst1_s16(out + j, vmovn_s32(vcvtnq_s32_f32(x)));
    }
  }
}

QI__FN void qi__attention_scale_neon(const int32_t *sum, const float *unit, size_t n_q, size_t n, size_t dim, float *out) {
  for (size_t g = 0; g < n_q; g++, sum += 32, out += dim) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, vmulq_n_f32(vcvtq_f32_s32(vld1q_s32(sum + i)), unit[g]));
    for (; i < n; i++) out[i] = (float)sum[i] * unit[g];
  }
}

// 4 elements in a register: the even and the odd positions of a pair.
QI__FN void qi__attention_values_q8_neon(const int16_t *weight, size_t n_q, const qi__kv_codes *v, int32_t *sum) {
  for (size_t g = 0; g < n_q; g++, weight += QI__ATTENTION_PIECE, sum += 32) {
    int32x4_t s[8];
    QI__UNROLL for (int c = 0; c < 8; c++) s[c] = vld1q_s32(sum + 4 * c);
    for (size_t j = 0; j < (v->n + 15) / 16 * 16; j += 2)
      QI__UNROLL for (int c = 0; c < 4; c++) {
        int8x8x2_t pair = vld2_s8(v->codes + 32 * j + 16 * c);
        QI__UNROLL for (int i = 0; i < 2; i++) {
          int16x8_t row = vmovl_s8(pair.val[i]);
          s[2 * c] = vmlal_n_s16(s[2 * c], vget_low_s16(row), weight[j + (size_t)i]);
          s[2 * c + 1] = vmlal_n_s16(s[2 * c + 1], vget_high_s16(row), weight[j + (size_t)i]);
        }
      }
    QI__UNROLL for (int c = 0; c < 8; c++) vst1q_s32(sum + 4 * c, s[c]);
  }
}
#endif

#endif // QI__KERNELS_ATTENTION_Q8_H
