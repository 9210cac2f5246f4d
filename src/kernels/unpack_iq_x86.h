// ==== >>unpack_iq_x86 : blocks of the IQ grid formats with AVX2 ====
#ifndef QI__KERNELS_UNPACK_IQ_X86_H
#define QI__KERNELS_UNPACK_IQ_X86_H

#include "../formats/table.h"
#include "simd.h"

#if defined(QI__X86_64)

// qi__unpack with the same results for the formats of formats/iq.h, where the fields are described. Points are looked up one by one
// and stay packed; 32 values are then spread to bytes at once, and a byte shuffle makes codes of them.

// ---- 32 codes ----

// Four packed points beside each other.
QI__INLINE QI__AVX2 __m128i qi__iq_join4_avx2(uint16_t a, uint16_t b, uint16_t c, uint16_t d) {
  __m128i v = _mm_insert_epi16(_mm_cvtsi32_si128(a), (short)b, 1);
  return _mm_insert_epi16(_mm_insert_epi16(v, (short)c, 2), (short)d, 3);
}

// Four points of 8 values of 2 bits to their values.
QI__INLINE QI__AVX2 __m256i qi__iq_points8_avx2(__m128i points, __m256i values) {
  __m256i v = _mm256_cvtepu8_epi32(points); // four values in each dword
  v = _mm256_or_si256(v, _mm256_slli_epi32(v, 12));
  v = _mm256_or_si256(v, _mm256_slli_epi32(v, 6));
  return _mm256_shuffle_epi8(values, _mm256_and_si256(v, _mm256_set1_epi8(3)));
}

// Eight points of 4 values of 3 bits to their values.
QI__INLINE QI__AVX2 __m256i qi__iq_points4_avx2(__m128i first, __m128i last, __m256i values) {
  __m256i v = _mm256_cvtepu16_epi32(_mm_unpacklo_epi64(first, last)); // four values in each dword
  __m256i high = _mm256_and_si256(_mm256_slli_epi32(v, 10), _mm256_set1_epi32(0x3f0000));
  v = _mm256_or_si256(_mm256_and_si256(v, _mm256_set1_epi32(0x3f)), high);
  v = _mm256_or_si256(v, _mm256_slli_epi32(v, 5));
  return _mm256_shuffle_epi8(values, _mm256_and_si256(v, _mm256_set1_epi8(7)));
}

QI__INLINE QI__AVX2 __m256i qi__iq_values4_avx2(const int8_t values[4]) { return _mm256_set1_epi32((int)qi__load_u32(values)); }
QI__INLINE QI__AVX2 __m256i qi__iq_values8_avx2(const int8_t values[8]) {
  return _mm256_set1_epi64x((long long)qi__load_u64(values));
}

// Codes with byte i negated where bit i of `signs` is set, to dst.
QI__INLINE QI__AVX2 void qi__iq_store_signed_avx2(__m256i codes, uint32_t signs, int8_t *dst) {
  __m256i minus = qi__spread_bits_avx2(signs, 0xff);
  qi__store_bytes_avx2(dst, _mm256_sub_epi8(_mm256_xor_si256(codes, minus), minus));
}

// ---- signs and scales of a block ----

// qi__iq_sign_code of bytes, whose upper bit is 0.
QI__INLINE QI__AVX2 __m256i qi__iq_sign_bytes_avx2(__m256i codes) {
  const char o = (char)0x80; // for an odd number of ones in four bits
  const __m256i odd = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, o, o, 0, o, 0, 0, o, o, 0, 0, o, 0, o, o, 0));
  __m256i halves = _mm256_and_si256(_mm256_xor_si256(codes, _mm256_srli_epi16(codes, 4)), _mm256_set1_epi8(15));
  return _mm256_or_si256(codes, _mm256_shuffle_epi8(odd, halves));
}

// Eight words of 4 x 7 sign code, 4 s: scales to the block, signs of 32 codes each to `signs`.
QI__INLINE QI__AVX2 void qi__iq_sign_words_avx2(__m256i words, qi__block *out, uint32_t signs[8]) {
  __m256i scale = _mm256_packs_epi32(_mm256_srli_epi32(words, 28), _mm256_setzero_si256());
  scale = _mm256_permute4x64_epi64(_mm256_slli_epi16(scale, 1), 0xd8);
  qi__store_bytes_avx2(out->scale, _mm256_or_si256(scale, _mm256_set1_epi16(1)));
  __m256i low = _mm256_and_si256(words, _mm256_set1_epi32(0x3fff)); // 7 bits to each byte in two steps
  __m256i high = _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x3fff0000));
  __m256i pairs = _mm256_or_si256(low, high);
  low = _mm256_and_si256(pairs, _mm256_set1_epi16(0x7f));
  high = _mm256_and_si256(_mm256_slli_epi16(pairs, 1), _mm256_set1_epi16(0x7f00));
  qi__store_bytes_avx2(signs, qi__iq_sign_bytes_avx2(_mm256_or_si256(low, high)));
}

// 2 s + 1 of 16 nibbles, low half of a byte first, to the block. Scales that a format does not have may be written, too.
QI__INLINE QI__AVX2 void qi__iq_scales4_avx2(uint64_t nibbles, qi__block *out) {
  __m128i v = _mm_cvtsi64_si128((long long)nibbles);
  v = _mm_and_si128(_mm_unpacklo_epi8(v, _mm_srli_epi16(v, 4)), _mm_set1_epi8(15));
  v = _mm_or_si128(_mm_slli_epi16(v, 1), _mm_set1_epi8(1));
  qi__store_bytes_avx2(out->scale, _mm256_cvtepu8_epi16(v));
}

QI__INLINE QI__AVX2 void qi__iq_begin_avx2(qi__block *out, uint16_t half, float fraction) {
  out->d = _cvtsh_ss(half) * fraction;
  out->dmin = 0;
  qi__store_bytes_avx2(out->min, _mm256_setzero_si256());
}

// ---- two bits ----

QI__FN QI__AVX2 void qi__unpack_iq2_xxs_avx2(const uint8_t *src, qi__block *out) {
  const __m256i values = qi__iq_values4_avx2(qi__iq2_values);
  const uint16_t *grid = qi__iq2_xxs_grid;
  uint32_t signs[8];
  qi__iq_begin_avx2(out, qi__load_u16(src), 0.125f);
  src += 2;
  __m256 a = _mm256_castsi256_ps(qi__bytes_avx2(src)), b = _mm256_castsi256_ps(qi__bytes_avx2(src + 32));
  __m256i words = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)); // each second one
  qi__iq_sign_words_avx2(_mm256_permute4x64_epi64(words, 0xd8), out, signs);
  for (int g = 0; g < 8; g++, src += 8) {
    __m128i points = qi__iq_join4_avx2(grid[src[0]], grid[src[1]], grid[src[2]], grid[src[3]]);
    qi__iq_store_signed_avx2(qi__iq_points8_avx2(points, values), signs[g], out->q + 32 * g);
  }
}

// A point of IQ2_XS.
QI__INLINE uint16_t qi__iq2_xs_point(const uint8_t *src) { return qi__iq2_xs_grid[qi__load_u16(src) & 511]; }

QI__FN QI__AVX2 void qi__unpack_iq2_xs_avx2(const uint8_t *src, qi__block *out) {
  const __m256i values = qi__iq_values4_avx2(qi__iq2_values);
  uint32_t signs[8];
  qi__iq_begin_avx2(out, qi__load_u16(src), 0.125f);
  qi__iq_scales4_avx2(qi__load_u64(src + 66), out);
  src += 2;
  __m256i codes = _mm256_packus_epi16(_mm256_srli_epi16(qi__bytes_avx2(src), 9), _mm256_srli_epi16(qi__bytes_avx2(src + 32), 9));
  qi__store_bytes_avx2(signs, qi__iq_sign_bytes_avx2(_mm256_permute4x64_epi64(codes, 0xd8)));
  for (int g = 0; g < 8; g++, src += 8) {
    __m128i points =
        qi__iq_join4_avx2(qi__iq2_xs_point(src), qi__iq2_xs_point(src + 2), qi__iq2_xs_point(src + 4), qi__iq2_xs_point(src + 6));
    qi__iq_store_signed_avx2(qi__iq_points8_avx2(points, values), signs[g], out->q + 32 * g);
  }
}

QI__FN QI__AVX2 void qi__unpack_iq2_s_avx2(const uint8_t *src, qi__block *out) {
  const __m256i values = qi__iq_values4_avx2(qi__iq2_values);
  const uint16_t *grid = qi__iq2_s_grid;
  qi__iq_begin_avx2(out, qi__load_u16(src), 0.125f);
  qi__iq_scales4_avx2(qi__load_u64(src + 74), out);
  for (int g = 0; g < 8; g++) {
    const uint8_t *low = src + 2 + 4 * g;
    unsigned high = src[66 + g];
    __m128i points = qi__iq_join4_avx2(grid[low[0] | (high << 8 & 0x300)], grid[low[1] | (high << 6 & 0x300)],
                                   grid[low[2] | (high << 4 & 0x300)], grid[low[3] | (high << 2 & 0x300)]);
    qi__iq_store_signed_avx2(qi__iq_points8_avx2(points, values), qi__load_u32(low + 32), out->q + 32 * g);
  }
}

// ---- three bits ----

QI__FN QI__AVX2 void qi__unpack_iq3_xxs_avx2(const uint8_t *src, qi__block *out) {
  const __m256i values = qi__iq_values8_avx2(qi__iq3_xxs_values);
  const uint16_t *grid = qi__iq3_xxs_grid;
  uint32_t signs[8];
  qi__iq_begin_avx2(out, qi__load_u16(src), 0.25f);
  qi__iq_sign_words_avx2(qi__bytes_avx2(src + 66), out, signs);
  src += 2;
  for (int g = 0; g < 8; g++, src += 8) {
    __m128i first = qi__iq_join4_avx2(grid[src[0]], grid[src[1]], grid[src[2]], grid[src[3]]);
    __m128i last = qi__iq_join4_avx2(grid[src[4]], grid[src[5]], grid[src[6]], grid[src[7]]);
    qi__iq_store_signed_avx2(qi__iq_points4_avx2(first, last, values), signs[g], out->q + 32 * g);
  }
}

QI__FN QI__AVX2 void qi__unpack_iq3_s_avx2(const uint8_t *src, qi__block *out) {
  const __m256i values = qi__iq_values8_avx2(qi__iq3_s_values);
  const uint16_t *grid = qi__iq3_s_grid;
  qi__iq_begin_avx2(out, qi__load_u16(src), 1);
  qi__iq_scales4_avx2(qi__load_u32(src + 106), out);
  for (int g = 0; g < 8; g++) {
    const uint8_t *low = src + 2 + 8 * g;
    unsigned high = src[66 + g];
    __m128i first = qi__iq_join4_avx2(grid[low[0] | (high << 8 & 256)], grid[low[1] | (high << 7 & 256)],
                                  grid[low[2] | (high << 6 & 256)], grid[low[3] | (high << 5 & 256)]);
    __m128i last = qi__iq_join4_avx2(grid[low[4] | (high << 4 & 256)], grid[low[5] | (high << 3 & 256)],
                                 grid[low[6] | (high << 2 & 256)], grid[low[7] | (high << 1 & 256)]);
    qi__iq_store_signed_avx2(qi__iq_points4_avx2(first, last, values), qi__load_u32(src + 74 + 4 * g), out->q + 32 * g);
  }
}

// ---- one bit ----

// 2 s + 1 of sixteen words with s in their upper three bits, to the block.
QI__INLINE QI__AVX2 void qi__iq1_scales_avx2(__m256i words, qi__block *out) {
  words = _mm256_slli_epi16(_mm256_srli_epi16(words, 13), 1);
  qi__store_bytes_avx2(out->scale, _mm256_or_si256(words, _mm256_set1_epi16(1)));
}

QI__FN QI__AVX2 void qi__unpack_iq1_s_avx2(const uint8_t *src, qi__block *out) {
  const __m256i values = qi__iq_values4_avx2(qi__iq1_values);
  const uint16_t *grid = qi__iq1_grid;
  qi__iq_begin_avx2(out, qi__load_u16(src), 0.125f);
  __m128i words = _mm_loadu_si128((const __m128i *)(const void *)(src + 34));
  qi__iq1_scales_avx2(_mm256_broadcastsi128_si256(_mm_slli_epi16(words, 1)), out);
  for (int g = 0; g < 8; g++) {
    const uint8_t *low = src + 2 + 4 * g;
    unsigned word = qi__load_u16(src + 34 + 2 * g);
    __m128i points = qi__iq_join4_avx2(grid[low[0] | (word << 8 & 0x700)], grid[low[1] | (word << 5 & 0x700)],
                                   grid[low[2] | (word << 2 & 0x700)], grid[low[3] | (word >> 1 & 0x700)]);
    __m256i delta = _mm256_set1_epi8((char)(word >> 15 ? -1 : 1));
    qi__store_bytes_avx2(out->q + 32 * g, _mm256_add_epi8(qi__iq_points8_avx2(points, values), delta));
  }
}

QI__FN QI__AVX2 void qi__unpack_iq1_m_avx2(const uint8_t *src, qi__block *out) {
  const __m256i values = qi__iq_values4_avx2(qi__iq1_values);
  const __m256i word_of = _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5, 4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6,
                                           7, 6, 7);
  const __m256i byte_of = _mm256_setr_epi64x(0, 0, 0x0101010101010101, 0x0101010101010101);
  const __m256i delta_bit = _mm256_set_epi64x((long long)0x8080808080808080u, 0x0808080808080808,
                                              (long long)0x8080808080808080u, 0x0808080808080808);
  const uint16_t *grid = qi__iq1_grid;
  uint64_t words = qi__load_u64(src + 48);
  qi__iq_begin_avx2(out, (uint16_t)((words >> 12 & 15) | (words >> 24 & 0xf0) | (words >> 36 & 0xf00) | (words >> 48 & 0xf000)),
                    0.125f);
  __m256i scales = _mm256_shuffle_epi8(_mm256_set1_epi64x((long long)words), word_of);
  qi__iq1_scales_avx2(_mm256_mullo_epi16(scales, _mm256_set1_epi64x(0x0010008004002000)), out); // times 2^(13 - 3 l)
  for (int g = 0; g < 8; g++) {
    const uint8_t *low = src + 4 * g;
    unsigned high = qi__load_u16(src + 32 + 2 * g);
    __m128i points = qi__iq_join4_avx2(grid[low[0] | (high << 8 & 0x700)], grid[low[1] | (high << 4 & 0x700)],
                                   grid[low[2] | (high & 0x700)], grid[low[3] | (high >> 4 & 0x700)]);
    __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi16((short)high), byte_of), delta_bit);
    __m256i delta = _mm256_or_si256(_mm256_cmpeq_epi8(bits, delta_bit), _mm256_set1_epi8(1));
    qi__store_bytes_avx2(out->q + 32 * g, _mm256_add_epi8(qi__iq_points8_avx2(points, values), delta));
  }
}

// ---- all formats ----

// Whether the kernels unpack a format to a block before anything else.
QI__INLINE bool qi__is_iq_grid(qi_format id) {
  switch (id) {
  case QI_FORMAT_IQ2_XXS:
  case QI_FORMAT_IQ2_XS:
  case QI_FORMAT_IQ2_S:
  case QI_FORMAT_IQ3_XXS:
  case QI_FORMAT_IQ3_S:
  case QI_FORMAT_IQ1_S:
  case QI_FORMAT_IQ1_M: return true;
  default: return false;
  }
}

// qi__unpack.
QI__FN QI__AVX2 void qi__unpack_avx2(const qi__format *f, const uint8_t *src, qi__block *out) {
  switch (f->id) {
  case QI_FORMAT_IQ2_XXS: qi__unpack_iq2_xxs_avx2(src, out); break;
  case QI_FORMAT_IQ2_XS: qi__unpack_iq2_xs_avx2(src, out); break;
  case QI_FORMAT_IQ2_S: qi__unpack_iq2_s_avx2(src, out); break;
  case QI_FORMAT_IQ3_XXS: qi__unpack_iq3_xxs_avx2(src, out); break;
  case QI_FORMAT_IQ3_S: qi__unpack_iq3_s_avx2(src, out); break;
  case QI_FORMAT_IQ1_S: qi__unpack_iq1_s_avx2(src, out); break;
  case QI_FORMAT_IQ1_M: qi__unpack_iq1_m_avx2(src, out); break;
  default: qi__unpack(f, src, out); break;
  }
}
#endif

#endif // QI__KERNELS_UNPACK_IQ_X86_H
