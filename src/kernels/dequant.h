// ==== >>dequant : packed weights to float32 and bfloat16 ====
#ifndef QI__KERNELS_DEQUANT_H
#define QI__KERNELS_DEQUANT_H

#include "../formats/table.h"
#include "simd.h"
#include "unpack_iq_x86.h"

// SIMD forms of qi__dequantize_blocks with the same bits: of each block the scales as float32, then 32 integer codes at a time.
// `id` is a constant where these are inlined; QI_FORMAT_NONE stands for formats without a case, which their `unpack` takes apart.

#if defined(QI__X86_64)

// Of a block: w[i] = scale[i / group] * code[i] - offset[i / group].
typedef struct qi__block_scales {
  float scale[QI__BLOCK_MAX / 16], offset[QI__BLOCK_MAX / 16];
} qi__block_scales;

// ---- scales ----

QI__INLINE QI__AVX2 float qi__half_avx2(const uint8_t *src) { return _cvtsh_ss(qi__load_u16(src)); }

// Eight bytes times d.
QI__INLINE QI__AVX2 void qi__scale_bytes_avx2(uint64_t bytes, float d, float *out) {
  __m256i v = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(v)));
}

QI__INLINE QI__AVX2 void qi__scale_words_avx2(const int16_t *words, float d, float *out) {
  __m256i v = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)words));
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(v)));
}

// The layout of qi__unpack_scales_k4, four bytes at a time.
QI__INLINE QI__AVX2 void qi__scales_k4_avx2(const uint8_t *src, float d, float dmin, qi__block_scales *out) {
  uint32_t a = qi__load_u32(src), b = qi__load_u32(src + 4), c = qi__load_u32(src + 8);
  uint64_t scale = (a & 0x3f3f3f3fu) | (uint64_t)((c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u)) << 32;
  uint64_t min = (b & 0x3f3f3f3fu) | (uint64_t)((c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u)) << 32;
  qi__scale_bytes_avx2(scale, d, out->scale);
  qi__scale_bytes_avx2(min, dmin, out->offset);
}

// Bits shift..shift+n-1 of each byte.
QI__INLINE QI__AVX2 __m256i qi__bits_avx2(__m256i v, int shift, int n) {
  return _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8((char)((1 << n) - 1)));
}

// Scales of a block of QINS8_K or QINS4_K, a byte for each group.
QI__INLINE QI__AVX2 __m128i qi__qins_scales_avx2(qi_format id, const uint8_t *src) {
  // Words that begin with the byte in which the seven bits of group g begin, and what lifts these to the top.
  const __m256i bytes = _mm256_setr_epi8(0, 1, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 9, 10, 9, 10, 10, 11, 11, 12, 12, 13, 13,
                                         14, 14, 15, 15, 15);
  const __m256i lift = _mm256_broadcastsi128_si256(_mm_setr_epi16(512, 4, 8, 16, 32, 64, 128, 256));
  __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)src));
  v = _mm256_mullo_epi16(_mm256_shuffle_epi8(v, bytes), lift);
  v = id == QI_FORMAT_QINS4_K ? _mm256_srai_epi16(v, 9) : _mm256_srli_epi16(v, 9);
  return _mm_packs_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

// Their d. The sign of QINS4_K's is a number of its own.
QI__INLINE QI__AVX2 float qi__qins_d_avx2(qi_format id, const uint8_t *src) {
  float d = qi__half_avx2(src + QI__QINS_D_AT) * 0x1p-10f;
  return id == QI_FORMAT_QINS4_K ? fabsf(d) : d;
}

// 256 bytes turned (formats/qins.h), from either order to the other.
QI__INLINE QI__AVX2 void qi__turn_avx2(const uint8_t *src, uint8_t *dst) {
  QI__UNROLL for (int h = 0; h < 2; h++) { // halves of registers of 64 bytes
    __m256i v[4], pair[4];
    QI__UNROLL for (int j = 0; j < 4; j++) v[j] = qi__bytes_avx2(src + 64 * j + 32 * h);
    QI__UNROLL for (int i = 0; i < 2; i++) {
      pair[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
      pair[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    QI__UNROLL for (int t = 0; t < 4; t++) {
      __m256i first = pair[t / 2], last = pair[2 + t / 2];
      __m256i out = t % 2 ? _mm256_unpackhi_epi64(first, last) : _mm256_unpacklo_epi64(first, last);
      qi__store_bytes_avx2(dst + 64 * t + 32 * h, out);
    }
  }
}

// Codes of a block of QINS4_K in the order of the weights.
QI__INLINE QI__AVX2 void qi__qins4_codes_avx2(const uint8_t *src, uint8_t *codes) {
  uint8_t turned[256];
  QI__UNROLL for (int i = 0; i < 8; i++) // half i % 2 of register i / 2
    qi__store_bytes_avx2(turned + 32 * i, qi__bits_avx2(qi__bytes_avx2(src + 16 + i / 4 * 64 + i % 2 * 32), i / 2 % 2 * 4, 4));
  qi__turn_avx2(turned, codes);
}

// Of a format without a case: `block` is unpacked, too.
QI__INLINE QI__AVX2 void qi__scales_any_avx2(const qi__format *f, const uint8_t *src, qi__block *block, qi__block_scales *out) {
  qi__unpack_avx2(f, src, block);
  for (int g = 0; g < f->info.block_len / f->group; g++) {
    out->scale[g] = block->d * (float)block->scale[g];
    if (f->has_min) out->offset[g] = block->dmin * (float)block->min[g];
  }
}

QI__INLINE QI__AVX2 void qi__block_scales_avx2(qi_format id, const qi__format *f, const uint8_t *src, qi__block *block,
                                               qi__block_scales *out) {
  int16_t words[16];
  switch (id) {
  case QI_FORMAT_Q4_0:
  case QI_FORMAT_Q5_0:
  case QI_FORMAT_Q8_0:
  case QI_FORMAT_IQ4_NL: out->scale[0] = qi__half_avx2(src); break;
  case QI_FORMAT_MXFP4: out->scale[0] = qi__e8m0_half_to_f32(src[0]); break;
  case QI_FORMAT_Q4_1:
  case QI_FORMAT_Q5_1:
    out->scale[0] = qi__half_avx2(src);
    out->offset[0] = -qi__half_avx2(src + 2);
    break;
  case QI_FORMAT_Q2_K: {
    uint64_t low = qi__load_u64(src), high = qi__load_u64(src + 8), nibbles = 0x0f0f0f0f0f0f0f0fu;
    float d = qi__half_avx2(src + 80), dmin = qi__half_avx2(src + 82);
    qi__scale_bytes_avx2(low & nibbles, d, out->scale);
    qi__scale_bytes_avx2(high & nibbles, d, out->scale + 8);
    qi__scale_bytes_avx2(low >> 4 & nibbles, dmin, out->offset);
    qi__scale_bytes_avx2(high >> 4 & nibbles, dmin, out->offset + 8);
    break;
  }
  case QI_FORMAT_Q3_K:
    qi__unpack_scales_k3(src + 96, words);
    qi__scale_words_avx2(words, qi__half_avx2(src + 108), out->scale);
    qi__scale_words_avx2(words + 8, qi__half_avx2(src + 108), out->scale + 8);
    break;
  case QI_FORMAT_Q4_K:
  case QI_FORMAT_Q5_K: qi__scales_k4_avx2(src + 4, qi__half_avx2(src), qi__half_avx2(src + 2), out); break;
  case QI_FORMAT_Q6_K:
    for (int g = 0; g < 16; g++) words[g] = (int8_t)src[192 + g];
    qi__scale_words_avx2(words, qi__half_avx2(src + 208), out->scale);
    qi__scale_words_avx2(words + 8, qi__half_avx2(src + 208), out->scale + 8);
    break;
  case QI_FORMAT_IQ4_XS:
    for (int g = 0; g < 8; g++)
      words[g] = (int16_t)(((src[4 + g / 2] >> (g % 2 * 4) & 15) | (qi__load_u16(src + 2) >> (2 * g) & 3) << 4) - 32);
    qi__scale_words_avx2(words, qi__half_avx2(src), out->scale);
    break;
  case QI_FORMAT_TQ1_0: _mm256_storeu_ps(out->scale, _mm256_set1_ps(qi__half_avx2(src + 52))); break;
  case QI_FORMAT_TQ2_0: _mm256_storeu_ps(out->scale, _mm256_set1_ps(qi__half_avx2(src + 64))); break;
  case QI_FORMAT_I2_S: _mm256_storeu_ps(out->scale, _mm256_set1_ps(f->param[0])); break;
  case QI_FORMAT_QINS8_K:
  case QI_FORMAT_QINS4_K: {
    __m128i v = qi__qins_scales_avx2(id, src);
    if (id == QI_FORMAT_QINS4_K) qi__qins4_codes_avx2(src, (uint8_t *)block->q);
    __m256 d = _mm256_set1_ps(qi__qins_d_avx2(id, src));
    _mm256_storeu_ps(out->scale, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v))));
    _mm256_storeu_ps(out->scale + 8, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)))));
    break;
  }
  default: qi__scales_any_avx2(f, src, block, out); break;
  }
}

// ---- codes ----

// 16 bytes: the low nibbles, then the high ones.
QI__INLINE QI__AVX2 __m256i qi__nibbles_avx2(const uint8_t *p) {
  __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
  return _mm256_and_si256(_mm256_srlv_epi32(v, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)), _mm256_set1_epi8(15));
}

QI__INLINE QI__AVX2 __m256i qi__lookup_avx2(const int8_t *table, __m256i nibbles) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table)), nibbles);
}

// Bit `from` of each byte as bit `to`.
QI__INLINE QI__AVX2 __m256i qi__move_bit_avx2(__m256i v, int from, int to) {
  v = from < to ? _mm256_slli_epi16(v, to - from) : _mm256_srli_epi16(v, from - to);
  return _mm256_and_si256(v, _mm256_set1_epi8((char)(1 << to)));
}

// Low bytes of the products of bytes.
QI__INLINE QI__AVX2 __m256i qi__multiply_bytes_avx2(__m256i a, __m256i b) {
  __m256i even = _mm256_and_si256(_mm256_mullo_epi16(a, b), _mm256_set1_epi16(0xff));
  __m256i odd = _mm256_mullo_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
  return _mm256_or_si256(even, _mm256_slli_epi16(odd, 8));
}

// TQ1_0: digit n of a byte is floor(3 f / 256) of its fraction f times 3^n; that is 1 from 86 and 2 from 171 on.
QI__INLINE QI__AVX2 __m256i qi__digits_avx2(const uint8_t *src, int g) {
  static const uint8_t powers[5] = {1, 3, 9, 27, 81};
  __m256i bytes, times;
  if (g < 5) {
    bytes = qi__bytes_avx2(src);
    times = _mm256_set1_epi8((char)powers[g]);
  } else {
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)(src + 32));
    __m128i high = g < 7 ? low : _mm_set1_epi32((int)qi__load_u32(src + 48));
    __m128i times_high = _mm_setr_epi32(0x01010101, 0x03030303, 0x09090909, 0x1b1b1b1b); // rest: digit by digit
    if (g < 7) times_high = _mm_set1_epi8((char)powers[2 * (g - 5) + 1]);
    bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    times = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_set1_epi8((char)powers[2 * (g - 5)])), times_high, 1);
  }
  __m256i f = qi__multiply_bytes_avx2(bytes, times);
  __m256i from1 = _mm256_cmpeq_epi8(_mm256_max_epu8(f, _mm256_set1_epi8(86)), f);
  __m256i from2 = _mm256_cmpeq_epi8(_mm256_max_epu8(f, _mm256_set1_epi8((char)171)), f);
  return _mm256_sub_epi8(_mm256_set1_epi32(-1), _mm256_add_epi8(from1, from2));
}

// Codes of weights 32 g .. 32 g + 31 of a block as int8. `block`: unpacked, for formats without a case;
// of QINS4_K its codes, which come with the scales.
QI__INLINE QI__AVX2 __m256i qi__codes_avx2(qi_format id, const uint8_t *src, int g, const qi__block *block) {
  int half = g / 4, quarter = g % 4;
  switch (id) {
  case QI_FORMAT_Q4_0: return _mm256_sub_epi8(qi__nibbles_avx2(src + 2), _mm256_set1_epi8(8));
  case QI_FORMAT_Q4_1: return qi__nibbles_avx2(src + 4);
  case QI_FORMAT_Q5_0:
    return _mm256_sub_epi8(_mm256_or_si256(qi__nibbles_avx2(src + 6), qi__spread_bits_avx2(qi__load_u32(src + 2), 16)),
                           _mm256_set1_epi8(16));
  case QI_FORMAT_Q5_1: return _mm256_or_si256(qi__nibbles_avx2(src + 8), qi__spread_bits_avx2(qi__load_u32(src + 4), 16));
  case QI_FORMAT_Q8_0: return qi__bytes_avx2(src + 2);
  case QI_FORMAT_IQ4_NL: return qi__lookup_avx2(qi__iq4_values, qi__nibbles_avx2(src + 2));
  case QI_FORMAT_IQ4_XS: return qi__lookup_avx2(qi__iq4_values, qi__nibbles_avx2(src + 8 + 16 * g));
  case QI_FORMAT_MXFP4: return qi__lookup_avx2(qi__mxfp4_values, qi__nibbles_avx2(src + 1));
  case QI_FORMAT_Q2_K: return qi__bits_avx2(qi__bytes_avx2(src + 16 + 32 * half), 2 * quarter, 2);
  case QI_FORMAT_Q3_K:
    return _mm256_sub_epi8(_mm256_or_si256(qi__bits_avx2(qi__bytes_avx2(src + 32 + 32 * half), 2 * quarter, 2),
                                           qi__move_bit_avx2(qi__bytes_avx2(src), g, 2)),
                           _mm256_set1_epi8(4));
  case QI_FORMAT_Q4_K: return qi__bits_avx2(qi__bytes_avx2(src + 16 + 32 * (g / 2)), g % 2 * 4, 4);
  case QI_FORMAT_Q5_K:
    return _mm256_or_si256(qi__bits_avx2(qi__bytes_avx2(src + 48 + 32 * (g / 2)), g % 2 * 4, 4),
                           qi__move_bit_avx2(qi__bytes_avx2(src + 16), g, 4));
  case QI_FORMAT_Q6_K: {
    __m256i low = qi__bits_avx2(qi__bytes_avx2(src + 64 * half + 32 * (quarter % 2)), quarter / 2 * 4, 4);
    __m256i high = qi__bits_avx2(qi__bytes_avx2(src + 128 + 32 * half), 2 * quarter, 2);
    return _mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16(high, 4)), _mm256_set1_epi8(32));
  }
  case QI_FORMAT_TQ1_0: return qi__digits_avx2(src, g);
  case QI_FORMAT_TQ2_0:
    return _mm256_sub_epi8(qi__bits_avx2(qi__bytes_avx2(src + 32 * half), 2 * quarter, 2), _mm256_set1_epi8(1));
  case QI_FORMAT_I2_S:
    return _mm256_sub_epi8(qi__bits_avx2(qi__bytes_avx2(src + 32 * half), 6 - 2 * quarter, 2), _mm256_set1_epi8(1));
  case QI_FORMAT_QINS4_K:
    return qi__lookup_avx2(qi__qins4_values[qi__qins4_t(src)], qi__bytes_avx2((const uint8_t *)block->q + 32 * g));
  default: return qi__bytes_avx2((const uint8_t *)block->q + 32 * g);
  }
}

// ---- AVX2: to float32 ----

// Weights 32 g .. 32 g + 31 of a block.
QI__INLINE QI__AVX2 void qi__dequantize_part_avx2(qi_format id, const qi__format *f, const uint8_t *src, int g,
                                                  const qi__block *block, const qi__block_scales *s, float *dst) {
  __m256i codes = qi__codes_avx2(id, src, g, block);
  QI__UNROLL for (int e = 0; e < 4; e++) {
    int group = (32 * g + 8 * e) / f->group;
    __m128i part = e < 2 ? _mm256_castsi256_si128(codes) : _mm256_extracti128_si256(codes, 1);
    __m256 v = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(e % 2 ? _mm_srli_si128(part, 8) : part));
    v = _mm256_mul_ps(_mm256_broadcast_ss(&s->scale[group]), v);
    if (f->has_min) v = _mm256_sub_ps(v, _mm256_broadcast_ss(&s->offset[group]));
    _mm256_storeu_ps(dst + 8 * e, v);
  }
}

QI__INLINE QI__AVX2 void qi__dequantize_row_avx2(qi_format id, const qi__format *bound, const uint8_t *src, float *dst, size_t n) {
  const qi__format *f = id ? &qi__formats[id] : bound; // constants
  qi__block block;
  qi__block_scales s;
  int len = f->info.block_len;
  for (size_t i = 0; i < n; i += (size_t)len, src += f->info.block_bytes) {
    qi__block_scales_avx2(id, bound, src, &block, &s);
    if (id && len == 256) {
      QI__UNROLL for (int g = 0; g < 8; g++) qi__dequantize_part_avx2(id, f, src, g, &block, &s, dst + i + 32 * g);
    } else {
      for (int g = 0; g < len / 32; g++) qi__dequantize_part_avx2(id, f, src, g, &block, &s, dst + i + 32 * g);
    }
  }
}

// ---- logarithmic codes of eight bits ----

// 32 factors, A and B (formats/qins.h), as tables for byte shuffles: low and high bytes of A, then of B.
QI__INLINE QI__AVX2 void qi__log_tables_avx2(const int16_t *factors, __m256i *table) {
  QI__UNROLL for (int f = 0; f < 2; f++) {
    __m256i words = qi__bytes_avx2((const uint8_t *)(factors + 16 * f));
    __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(words, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(words, 8));
    bytes = _mm256_permute4x64_epi64(bytes, 0xd8); // packing works in halves
    table[2 * f] = _mm256_permute2x128_si256(bytes, bytes, 0x00);
    table[2 * f + 1] = _mm256_permute2x128_si256(bytes, bytes, 0x11);
  }
}

// (A[i] * B[j] + 2^14) >> 15 of 32 bytes whose quarters are in the order 0 2 1 3: words[0] has the first 16.
QI__INLINE QI__AVX2 void qi__log_products_avx2(const __m256i *table, __m256i i, __m256i j, __m256i *words) {
  __m256i a0 = _mm256_shuffle_epi8(table[0], i), a1 = _mm256_shuffle_epi8(table[1], i);
  __m256i b0 = _mm256_shuffle_epi8(table[2], j), b1 = _mm256_shuffle_epi8(table[3], j);
  words[0] = _mm256_mulhrs_epi16(_mm256_unpacklo_epi8(a0, a1), _mm256_unpacklo_epi8(b0, b1));
  words[1] = _mm256_mulhrs_epi16(_mm256_unpackhi_epi8(a0, a1), _mm256_unpackhi_epi8(b0, b1));
}

// qi__qins8_size of 32 codes: of the first 16, then of the others.
QI__INLINE QI__AVX2 void qi__qins8_words_avx2(const __m256i *table, __m256i codes, __m256i *words) {
  __m256i t = _mm256_add_epi8(_mm256_permute4x64_epi64(codes, 0xd8), _mm256_set1_epi32(-1));
  __m256i zero = _mm256_cmpeq_epi8(t, _mm256_set1_epi32(-1)); // index 255: a shuffle gives 0
  qi__log_products_avx2(table, _mm256_or_si256(qi__bits_avx2(t, 4, 4), zero), qi__bits_avx2(t, 0, 4), words);
}

// qi__qins8_sizes of 32 codes whose quarters are in the order 0 2 1 3: of the first 16, then of the others.
QI__INLINE QI__AVX2 void qi__qins8_k_words_avx2(const __m256i *table, __m256i codes, __m256i *words) {
  const __m256i base = _mm256_set1_epi16(QI__QINS8_K_BASE);
  qi__log_products_avx2(table, qi__bits_avx2(codes, 4, 4), qi__bits_avx2(codes, 0, 4), words);
  QI__UNROLL for (int h = 0; h < 2; h++) words[h] = _mm256_srli_epi16(_mm256_sub_epi16(words[h], base), 4);
}

// words[h], of codes 16 h .. 16 h + 15, with the signs of 32 bytes that are not 0.
QI__INLINE QI__AVX2 __m256i qi__signed_words_avx2(const __m256i *words, __m256i signs, int h) {
  __m128i half = h ? _mm256_extracti128_si256(signs, 1) : _mm256_castsi256_si128(signs);
  return _mm256_sign_epi16(words[h], _mm256_cvtepi8_epi16(half));
}

// Weights of 32 codes of QINS8_K without their scale: eight in each of v.
QI__INLINE QI__AVX2 void qi__qins8_k_floats_avx2(const __m256i *table, const uint8_t *src, __m256 *v) {
  __m256i sizes[2], codes = qi__bytes_avx2(src), signs = _mm256_or_si256(codes, _mm256_set1_epi8(1));
  qi__qins8_k_words_avx2(table, _mm256_permute4x64_epi64(codes, 0xd8), sizes);
  QI__UNROLL for (int e = 0; e < 4; e++) {
    __m256i words = qi__signed_words_avx2(sizes, signs, e / 2);
    __m128i half = e % 2 ? _mm256_extracti128_si256(words, 1) : _mm256_castsi256_si128(words);
    v[e] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(half));
  }
}

QI__FN QI__AVX2 void qi__dequantize_qins8_k_avx2(const uint8_t *src, float *dst, size_t n) {
  qi__block_scales s;
  uint8_t codes[256];
  __m256i table[4];
  qi__log_tables_avx2(qi__qins8_k_factors, table);
  for (size_t i = 0; i < n; i += 256, src += 272) {
    qi__turn_avx2(src + 16, codes);
    qi__block_scales_avx2(QI_FORMAT_QINS8_K, NULL, src, NULL, &s);
    for (int g = 0; g < 8; g++) {
      __m256 v[4];
      qi__qins8_k_floats_avx2(table, codes + 32 * g, v);
      QI__UNROLL for (int e = 0; e < 4; e++)
        _mm256_storeu_ps(dst + i + (size_t)(32 * g + 8 * e), _mm256_mul_ps(_mm256_broadcast_ss(&s.scale[2 * g + e / 2]), v[e]));
    }
  }
}

// Eight weights of QINS8 from their codes and, in the lowest bits, their signs.
QI__INLINE QI__AVX2 __m256 qi__qins8_avx2(const float *values, const uint8_t *codes, uint32_t signs) {
  __m256i at = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)codes));
  __m256i minus = _mm256_sllv_epi32(_mm256_set1_epi32((int)signs), _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
  minus = _mm256_and_si256(minus, _mm256_set1_epi32((int)0x80000000u));
  return _mm256_xor_ps(_mm256_i32gather_ps(values, at, 4), _mm256_castsi256_ps(minus));
}

QI__FN QI__AVX2 void qi__dequantize_qins8_avx2(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  for (size_t i = 0; i < n; i += 32, src += 36) {
    uint32_t signs = qi__load_u32(src);
    QI__UNROLL for (int e = 0; e < 4; e++)
      _mm256_storeu_ps(dst + i + 8 * e, qi__qins8_avx2(f->values, src + 4 + 8 * e, signs >> 8 * e));
  }
}

// Quantised formats; `f` is a row of the table, or bound.
QI__FN QI__AVX2 void qi__dequantize_avx2(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  switch (f->id) {
  case QI_FORMAT_Q4_0: qi__dequantize_row_avx2(QI_FORMAT_Q4_0, f, src, dst, n); break;
  case QI_FORMAT_Q4_1: qi__dequantize_row_avx2(QI_FORMAT_Q4_1, f, src, dst, n); break;
  case QI_FORMAT_Q5_0: qi__dequantize_row_avx2(QI_FORMAT_Q5_0, f, src, dst, n); break;
  case QI_FORMAT_Q5_1: qi__dequantize_row_avx2(QI_FORMAT_Q5_1, f, src, dst, n); break;
  case QI_FORMAT_Q8_0: qi__dequantize_row_avx2(QI_FORMAT_Q8_0, f, src, dst, n); break;
  case QI_FORMAT_Q2_K: qi__dequantize_row_avx2(QI_FORMAT_Q2_K, f, src, dst, n); break;
  case QI_FORMAT_Q3_K: qi__dequantize_row_avx2(QI_FORMAT_Q3_K, f, src, dst, n); break;
  case QI_FORMAT_Q4_K: qi__dequantize_row_avx2(QI_FORMAT_Q4_K, f, src, dst, n); break;
  case QI_FORMAT_Q5_K: qi__dequantize_row_avx2(QI_FORMAT_Q5_K, f, src, dst, n); break;
  case QI_FORMAT_Q6_K: qi__dequantize_row_avx2(QI_FORMAT_Q6_K, f, src, dst, n); break;
  case QI_FORMAT_IQ4_NL: qi__dequantize_row_avx2(QI_FORMAT_IQ4_NL, f, src, dst, n); break;
  case QI_FORMAT_IQ4_XS: qi__dequantize_row_avx2(QI_FORMAT_IQ4_XS, f, src, dst, n); break;
  case QI_FORMAT_TQ1_0: qi__dequantize_row_avx2(QI_FORMAT_TQ1_0, f, src, dst, n); break;
  case QI_FORMAT_TQ2_0: qi__dequantize_row_avx2(QI_FORMAT_TQ2_0, f, src, dst, n); break;
  case QI_FORMAT_MXFP4: qi__dequantize_row_avx2(QI_FORMAT_MXFP4, f, src, dst, n); break;
  case QI_FORMAT_I2_S: qi__dequantize_row_avx2(QI_FORMAT_I2_S, f, src, dst, n); break;
  case QI_FORMAT_QINS4_K: qi__dequantize_row_avx2(QI_FORMAT_QINS4_K, f, src, dst, n); break;
  case QI_FORMAT_QINS8_K: qi__dequantize_qins8_k_avx2(src, dst, n); break;
  case QI_FORMAT_QINS8: qi__dequantize_qins8_avx2(f, src, dst, n); break;
  default: qi__dequantize_row_avx2(QI_FORMAT_NONE, f, src, dst, n); break;
  }
}

QI__FN QI__AVX2 void qi__dequantize_f16_avx2(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i))));
  qi__dequantize_blocks(f, src + 2 * i, dst + i, n - i);
}

QI__FN QI__AVX2 void qi__dequantize_bf16_avx2(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i)));
    _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)));
  }
  qi__dequantize_blocks(f, src + 2 * i, dst + i, n - i);
}

QI__FN void qi__dequantize_f32_x86(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  memcpy(dst, src, n * sizeof *dst); // little-endian
}

// ---- AVX512-BF16: to bfloat16 ----

#if defined(QI__HAS_AVX512_BF16)

// 32 float32 as bfloat16, rounded to nearest even. Unlike qi__f32_to_bf16 this makes zeros of subnormals.
QI__INLINE QI__AVX512_BF16 void qi__store_bf16_avx512(uint16_t *dst, __m512 low, __m512 high) {
  _mm512_storeu_si512((void *)dst, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// Of formats that have 16 values a scale: the values before that, and which of them weights 32 g .. 32 g + 31 of a block are.
QI__INLINE const int8_t *qi__values16(qi_format id) {
  static const int8_t ascending[24] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  switch (id) {
  case QI_FORMAT_Q4_0: return ascending;
  case QI_FORMAT_Q4_1:
  case QI_FORMAT_Q4_K: return ascending + 8;
  case QI_FORMAT_IQ4_NL:
  case QI_FORMAT_IQ4_XS: return qi__iq4_values;
  case QI_FORMAT_MXFP4: return qi__mxfp4_values;
  default: return NULL;
  }
}
QI__INLINE QI__AVX2 __m256i qi__indices16_avx2(qi_format id, const uint8_t *src, int g) {
  switch (id) {
  case QI_FORMAT_Q4_0:
  case QI_FORMAT_IQ4_NL: return qi__nibbles_avx2(src + 2);
  case QI_FORMAT_IQ4_XS: return qi__nibbles_avx2(src + 8 + 16 * g);
  case QI_FORMAT_MXFP4: return qi__nibbles_avx2(src + 1);
  default: return qi__codes_avx2(id, src, g, NULL); // from 0 on
  }
}

// Weights 32 g .. 32 g + 31 of such a block: the 16 values are rounded, not the weights.
QI__INLINE QI__AVX512_BF16 void qi__part16_to_bf16_avx512(qi_format id, const qi__format *f, const uint8_t *src, int g,
                                                          const qi__block_scales *s, uint16_t *dst) {
  int group = 32 * g / f->group;
  __m512 v = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)qi__values16(id))));
  v = _mm512_mul_ps(_mm512_set1_ps(s->scale[group]), v);
  if (f->has_min) v = _mm512_sub_ps(v, _mm512_set1_ps(s->offset[group]));
  __m512i table = _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(v));
  __m512i index = _mm512_cvtepu8_epi16(qi__indices16_avx2(id, src, g));
  _mm512_storeu_si512((void *)dst, _mm512_permutexvar_epi16(index, table));
}

// Weights 32 g .. 32 g + 31 of a block.
QI__INLINE QI__AVX512_BF16 void qi__part_to_bf16_avx512(qi_format id, const qi__format *f, const uint8_t *src, int g,
                                                        const qi__block *block, const qi__block_scales *s, uint16_t *dst) {
  if (qi__values16(id)) {
    qi__part16_to_bf16_avx512(id, f, src, g, s, dst);
    return;
  }
  __m256i codes = qi__codes_avx2(id, src, g, block);
  __m512 v[2];
  v[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)));
  v[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)));
  QI__UNROLL for (int e = 0; e < 2; e++) {
    int group = (32 * g + 16 * e) / f->group;
    v[e] = _mm512_mul_ps(_mm512_set1_ps(s->scale[group]), v[e]);
    if (f->has_min) v[e] = _mm512_sub_ps(v[e], _mm512_set1_ps(s->offset[group]));
  }
  qi__store_bf16_avx512(dst, v[0], v[1]);
}

// 32 weights to dst, the next 32 `apart` elements from there, and so on.
QI__INLINE QI__AVX512_BF16 void qi__row_to_bf16_avx512(qi_format id, const qi__format *bound, const uint8_t *src, size_t n,
                                                       uint16_t *dst, size_t apart) {
  const qi__format *f = id ? &qi__formats[id] : bound; // constants
  qi__block block;
  qi__block_scales s;
  int len = f->info.block_len;
  for (size_t i = 0; i < n; i += (size_t)len, src += f->info.block_bytes) {
    qi__block_scales_avx2(id, bound, src, &block, &s);
    if (len == 256) __asm__("" : "+m"(s)); // loads broadcast scales; out of registers each takes shuffles, which bound this loop
    if (id && len == 256) {
      QI__UNROLL for (int g = 0; g < 8; g++, dst += apart) qi__part_to_bf16_avx512(id, f, src, g, &block, &s, dst);
    } else {
      for (int g = 0; g < len / 32; g++, dst += apart) qi__part_to_bf16_avx512(id, f, src, g, &block, &s, dst);
    }
  }
}

// Float formats. Reads nothing beyond n, writes up to the next multiple of 32.
QI__INLINE QI__AVX512_BF16 void qi__floats_to_bf16_avx512(qi_format id, const uint8_t *src, size_t n, uint16_t *dst,
                                                          size_t apart) {
  for (size_t i = 0; i < n; i += 32, dst += apart) {
    __m512 v[2];
    QI__UNROLL for (int e = 0; e < 2; e++) {
      size_t at = i + (size_t)(16 * e);
      __mmask16 mask = at < n ? qi__tail_mask_avx512(n - at) : 0;
      if (id == QI_FORMAT_F32) v[e] = _mm512_maskz_loadu_ps(mask, src + 4 * at);
      else v[e] = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, src + 2 * at));
    }
    qi__store_bf16_avx512(dst, v[0], v[1]);
  }
}

// Lanes e of 32 weights, eight each, as bfloat16.
QI__INLINE QI__AVX512_BF16 void qi__lanes_to_bf16_avx512(const __m256 *v, uint16_t *dst) {
  qi__store_bf16_avx512(dst, _mm512_insertf32x8(_mm512_castps256_ps512(v[0]), v[1], 1),
                        _mm512_insertf32x8(_mm512_castps256_ps512(v[2]), v[3], 1));
}

QI__FN QI__AVX512_BF16 void qi__qins8_k_to_bf16_avx512(const uint8_t *src, size_t n, uint16_t *dst, size_t apart) {
  qi__block_scales s;
  uint8_t codes[256];
  __m256i table[4];
  qi__log_tables_avx2(qi__qins8_k_factors, table);
  for (size_t i = 0; i < n; i += 256, src += 272) {
    qi__block_scales_avx2(QI_FORMAT_QINS8_K, NULL, src, NULL, &s);
    qi__turn_avx2(src + 16, codes);
    for (int g = 0; g < 8; g++, dst += apart) {
      __m256 v[4];
      qi__qins8_k_floats_avx2(table, codes + 32 * g, v);
      QI__UNROLL for (int e = 0; e < 4; e++) v[e] = _mm256_mul_ps(_mm256_broadcast_ss(&s.scale[2 * g + e / 2]), v[e]);
      qi__lanes_to_bf16_avx512(v, dst);
    }
  }
}

QI__FN QI__AVX512_BF16 void qi__qins8_to_bf16_avx512(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst,
                                                     size_t apart) {
  for (size_t i = 0; i < n; i += 32, src += 36, dst += apart) {
    uint32_t signs = qi__load_u32(src);
    __m256 v[4];
    QI__UNROLL for (int e = 0; e < 4; e++) v[e] = qi__qins8_avx2(f->values, src + 4 + 8 * e, signs >> 8 * e);
    qi__lanes_to_bf16_avx512(v, dst);
  }
}

QI__INLINE QI__AVX512_BF16 void qi__bf16_apart_avx512(const uint8_t *src, size_t n, uint16_t *dst, size_t apart) {
  for (; n >= 32; n -= 32, src += 64, dst += apart) _mm512_storeu_si512((void *)dst, _mm512_loadu_si512((const void *)src));
  memcpy(dst, src, 2 * n);
}

// n weights, whole blocks, as bfloat16; `f` is a row of the table, or bound; dst has room for the next multiple of 32.
QI__FN QI__AVX512_BF16 void qi__to_bf16_apart_avx512(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst,
                                                     size_t apart) {
  switch (f->id) {
  case QI_FORMAT_F32: qi__floats_to_bf16_avx512(QI_FORMAT_F32, src, n, dst, apart); break;
  case QI_FORMAT_F16: qi__floats_to_bf16_avx512(QI_FORMAT_F16, src, n, dst, apart); break;
  case QI_FORMAT_BF16: qi__bf16_apart_avx512(src, n, dst, apart); break;
  case QI_FORMAT_Q4_0: qi__row_to_bf16_avx512(QI_FORMAT_Q4_0, f, src, n, dst, apart); break;
  case QI_FORMAT_Q4_1: qi__row_to_bf16_avx512(QI_FORMAT_Q4_1, f, src, n, dst, apart); break;
  case QI_FORMAT_Q5_0: qi__row_to_bf16_avx512(QI_FORMAT_Q5_0, f, src, n, dst, apart); break;
  case QI_FORMAT_Q5_1: qi__row_to_bf16_avx512(QI_FORMAT_Q5_1, f, src, n, dst, apart); break;
  case QI_FORMAT_Q8_0: qi__row_to_bf16_avx512(QI_FORMAT_Q8_0, f, src, n, dst, apart); break;
  case QI_FORMAT_Q2_K: qi__row_to_bf16_avx512(QI_FORMAT_Q2_K, f, src, n, dst, apart); break;
  case QI_FORMAT_Q3_K: qi__row_to_bf16_avx512(QI_FORMAT_Q3_K, f, src, n, dst, apart); break;
  case QI_FORMAT_Q4_K: qi__row_to_bf16_avx512(QI_FORMAT_Q4_K, f, src, n, dst, apart); break;
  case QI_FORMAT_Q5_K: qi__row_to_bf16_avx512(QI_FORMAT_Q5_K, f, src, n, dst, apart); break;
  case QI_FORMAT_Q6_K: qi__row_to_bf16_avx512(QI_FORMAT_Q6_K, f, src, n, dst, apart); break;
  case QI_FORMAT_IQ4_NL: qi__row_to_bf16_avx512(QI_FORMAT_IQ4_NL, f, src, n, dst, apart); break;
  case QI_FORMAT_IQ4_XS: qi__row_to_bf16_avx512(QI_FORMAT_IQ4_XS, f, src, n, dst, apart); break;
  case QI_FORMAT_TQ1_0: qi__row_to_bf16_avx512(QI_FORMAT_TQ1_0, f, src, n, dst, apart); break;
  case QI_FORMAT_TQ2_0: qi__row_to_bf16_avx512(QI_FORMAT_TQ2_0, f, src, n, dst, apart); break;
  case QI_FORMAT_MXFP4: qi__row_to_bf16_avx512(QI_FORMAT_MXFP4, f, src, n, dst, apart); break;
  case QI_FORMAT_I2_S: qi__row_to_bf16_avx512(QI_FORMAT_I2_S, f, src, n, dst, apart); break;
  case QI_FORMAT_QINS4_K: qi__row_to_bf16_avx512(QI_FORMAT_QINS4_K, f, src, n, dst, apart); break;
  case QI_FORMAT_QINS8_K: qi__qins8_k_to_bf16_avx512(src, n, dst, apart); break;
  case QI_FORMAT_QINS8: qi__qins8_to_bf16_avx512(f, src, n, dst, apart); break;
  default: qi__row_to_bf16_avx512(QI_FORMAT_NONE, f, src, n, dst, apart); break;
  }
}

QI__FN QI__AVX512_BF16 void qi__to_bf16_avx512(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst) {
  qi__to_bf16_apart_avx512(f, src, n, dst, 32);
}

// A row of tiles of 16 rows.
QI__FN QI__AVX512_BF16 void qi__to_bf16_tiles_avx512(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst) {
  qi__to_bf16_apart_avx512(f, src, n, dst, 512);
}
#endif
#endif

#endif // QI__KERNELS_DEQUANT_H
