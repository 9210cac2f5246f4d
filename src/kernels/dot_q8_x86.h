// ==== >>dot_q8_x86 : integer products with AVX2 and VNNI ====
#ifndef QI__KERNELS_DOT_Q8_X86_H
#define QI__KERNELS_DOT_Q8_X86_H

#include "dequant.h"
#include "dot_q8.h"

#if defined(QI__X86_64)

// The instructions multiply unsigned by signed bytes, so
//
//   small codes   u = q + offset, and offset * sum x is taken off again; that term is shared by all weight rows
//   wide codes    |q| times x with the sign of q; 128 * 127 * 2 still fits into int16
//
// One row of activations, or a few: blocks are taken apart in registers, one weight row after the other, so that memory is read in
// the order of its addresses. The integer sums of a block lie in eight lanes of a
// register; those of eight blocks are folded into one, which is the eight lanes of the contract. More rows: panel_q8_x86.h.
//
// All works in chunks: one block of 256 weights, or up to eight of 32.

#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define QI__HAS_AVX_VNNI 1
#define QI__AVX_VNNI QI__TARGET("avx2,fma,f16c,avxvnni")
#endif
#define QI__AVX512_VNNI QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#define QI__AVX512_VBMI QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")

// ---- what differs between the instruction sets ----

// Two steps, which the loops below get as constants and inline.
typedef __m256i (*qi__step_fn)(__m256i sum, __m256i a, __m256i b);


QI__INLINE QI__AVX2 __m256i qi__words_avx2(__m256i sum, __m256i a, __m256i b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
QI__INLINE QI__AVX2 __m256i qi__step_bytes_avx2(__m256i sum, __m256i a, __m256i b) {
  return qi__words_avx2(sum, _mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1));
}

#if defined(QI__HAS_AVX_VNNI)
QI__INLINE QI__AVX_VNNI __m256i qi__words_avx_vnni(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
QI__INLINE QI__AVX_VNNI __m256i qi__step_bytes_avx_vnni(__m256i sum, __m256i a, __m256i b) {
  return _mm256_dpbusd_avx_epi32(sum, a, b);
}
#endif

QI__INLINE QI__AVX512_VNNI __m256i qi__words_avx512(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_epi32(sum, a, b); }
QI__INLINE QI__AVX512_VNNI __m256i qi__step_bytes_avx512(__m256i sum, __m256i a, __m256i b) {
  return _mm256_dpbusd_epi32(sum, a, b);
}

// ---- formats ----

#define QI__WIDE (-1)

// What makes codes unsigned; QI__WIDE = codes of any size, also of formats without a case in qi__codes_avx2.
QI__INLINE int qi__q8_offset(qi_format id) {
  switch (id) {
  case QI_FORMAT_Q4_1:
  case QI_FORMAT_Q5_1:
  case QI_FORMAT_Q2_K:
  case QI_FORMAT_Q4_K:
  case QI_FORMAT_Q5_K: return 0;
  case QI_FORMAT_Q3_K: return 4;
  case QI_FORMAT_Q4_0: return 8;
  case QI_FORMAT_MXFP4: return 12;
  case QI_FORMAT_Q5_0: return 16;
  case QI_FORMAT_Q6_K: return 32;
  default: return QI__WIDE;
  }
}

// Whether the kernels below take a format; what they do not is left to the reference.
QI__INLINE bool qi__dot_q8_x86_has(qi_format id) {
  const qi__format *f = &qi__formats[id];
  if (!f->unpack || f->ternary || f->wide) return false; // wide formats: dot_qins_x86.h
  return f->info.block_len == 256 || qi__q8_offset(id) != QI__WIDE || id == QI_FORMAT_Q8_0 || id == QI_FORMAT_IQ4_NL;
}

// Codes plus offset (compilers fold it into what the codes subtract last), or signed codes when offset is QI__WIDE.
QI__INLINE QI__AVX2 __m256i qi__q8_codes_avx2(qi_format id, const uint8_t *src, int g, const qi__block *block, int offset) {
  __m256i q = qi__codes_avx2(id, src, g, block);
  return offset > 0 ? _mm256_add_epi8(q, _mm256_set1_epi8((char)offset)) : q;
}

// Integer scales and mins of a block of 256 weights, and their floats.
typedef struct qi__q8_scales {
  __m256i scale; // int16: word g of the lower half belongs to integer lanes 0..3 of group g (of 32 codes), of the upper to 4..7
  __m256i min;   // int16: word j belongs to codes 16 j..
  float d, dmin;
} qi__q8_scales;

// 16 bytes, one for each 16 codes, signed or not, to the order of `scale`.
QI__INLINE QI__AVX2 __m256i qi__scales16_avx2(__m128i bytes, bool is_signed) {
  __m128i even = is_signed ? _mm_srai_epi16(_mm_slli_epi16(bytes, 8), 8) : _mm_and_si128(bytes, _mm_set1_epi16(0xff));
  __m128i odd = is_signed ? _mm_srai_epi16(bytes, 8) : _mm_srli_epi16(bytes, 8);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(even), odd, 1);
}

// 16 words to the order of `scale`.
QI__INLINE QI__AVX2 __m256i qi__words16_avx2(const int16_t *words) {
  const __m256i apart = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(qi__bytes_avx2((const uint8_t *)words), apart), 0xd8);
}

// Eight words, one for each 32 codes.
QI__INLINE QI__AVX2 __m256i qi__scales32_avx2(__m128i words) { return _mm256_broadcastsi128_si256(words); }

// Q3_K: sixteen scales of the block at src, in the layout of qi__unpack_scales_k3. Bytes 94 and 95 are only loaded along.
QI__INLINE QI__AVX2 __m128i qi__scale_bytes_k3_avx2(const uint8_t *src) {
  const __m128i low_bytes = _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9);
  const __m128i high_bytes = _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13);
  __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(src + 94));
  __m128i low = _mm_srlv_epi32(_mm_shuffle_epi8(v, low_bytes), _mm_setr_epi32(0, 0, 4, 4));
  __m128i high = _mm_sllv_epi32(_mm_shuffle_epi8(v, high_bytes), _mm_setr_epi32(4, 2, 0, 0));
  high = _mm_srlv_epi32(high, _mm_setr_epi32(0, 0, 0, 2));
  v = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(0x0f)), _mm_and_si128(high, _mm_set1_epi8(0x30)));
  return _mm_sub_epi8(v, _mm_set1_epi8(32));
}

// Q4_K, Q5_K: eight scales and eight mins of the block at src, in the layout of qi__unpack_scales_k4.
QI__INLINE QI__AVX2 void qi__q8_scales_k4_avx2(const uint8_t *src, qi__q8_scales *s) {
  const __m128i low_bytes = _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m128i high_bytes = _mm_setr_epi32(-1, 0x07060504, -1, 0x0b0a0908); // -1: zeros
  // Words 0xff00 + i: byte i and a zero.
  const __m256i scale_words = _mm256_broadcastsi128_si256(_mm_setr_epi16(~255, ~254, ~253, ~252, ~251, ~250, ~249, ~248));
  const __m256i min_words = _mm256_setr_epi16(~247, ~247, ~246, ~246, ~245, ~245, ~244, ~244, ~243, ~243, ~242, ~242, ~241, ~241,
                                              ~240, ~240);
  __m128i v = _mm_loadu_si128((const __m128i *)(const void *)src);
  __m128i low = _mm_srlv_epi32(_mm_shuffle_epi8(v, low_bytes), _mm_setr_epi32(0, 0, 0, 4));
  __m128i high = _mm_srli_epi32(_mm_shuffle_epi8(v, high_bytes), 2);
  low = _mm_and_si128(low, _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
  __m256i both = _mm256_broadcastsi128_si256(_mm_or_si128(low, _mm_and_si128(high, _mm_set1_epi8(0x30))));
  s->scale = _mm256_shuffle_epi8(both, scale_words);
  s->min = _mm256_shuffle_epi8(both, min_words);
}

// IQ4_XS: low four bits in src[4..7], top two in the word at src + 2.
QI__INLINE QI__AVX2 __m256i qi__q8_scales_iq4_avx2(const uint8_t *src) {
  uint32_t nibbles = qi__load_u32(src + 4);
  __m128i even = _mm_cvtsi32_si128((int)(nibbles & 0x0f0f0f0fu)), odd = _mm_cvtsi32_si128((int)(nibbles >> 4 & 0x0f0f0f0fu));
  __m128i low = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(even, odd));
  // Times 2^(14 - 2 g): the pair of group g comes to the top.
  const __m128i lift = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 64, 16, 4, 1);
  __m128i top = _mm_mullo_epi16(_mm_set1_epi16((short)qi__load_u16(src + 2)), lift);
  top = _mm_and_si128(_mm_srli_epi16(top, 10), _mm_set1_epi16(0x30));
  return qi__scales32_avx2(_mm_sub_epi16(_mm_or_si128(low, top), _mm_set1_epi16(32)));
}

QI__INLINE QI__AVX2 void qi__q8_scales_block_avx2(const qi__format *f, const qi__block *block, qi__q8_scales *s) {
  __m256i m = qi__bytes_avx2((const uint8_t *)block->min);
  if (f->group == 32) {
    __m128i low = _mm256_castsi256_si128(m);
    s->scale = qi__scales32_avx2(_mm_loadu_si128((const __m128i *)(const void *)block->scale));
    s->min = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(low, low)), _mm_unpackhi_epi16(low, low), 1);
  } else {
    s->scale = qi__words16_avx2(block->scale);
    s->min = m;
  }
  s->d = block->d;
  s->dmin = block->dmin;
}

// Of the block of 256 at src. What has no case is unpacked to `block`.
QI__INLINE QI__AVX2 void qi__q8_scales_avx2(qi_format id, const qi__format *f, const uint8_t *src, qi__block *block,
                                            qi__q8_scales *s) {
  s->min = s->scale = _mm256_setzero_si256();
  s->dmin = 0;
  switch (id) {
  case QI_FORMAT_Q2_K: {
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)src), low = _mm_set1_epi8(15);
    s->scale = qi__scales16_avx2(_mm_and_si128(v, low), false);
    s->min = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(v, 4), low));
    s->d = qi__half_avx2(src + 80);
    s->dmin = qi__half_avx2(src + 82);
    break;
  }
  case QI_FORMAT_Q3_K:
    s->scale = qi__scales16_avx2(qi__scale_bytes_k3_avx2(src), true);
    s->d = qi__half_avx2(src + 108);
    break;
  case QI_FORMAT_Q4_K:
  case QI_FORMAT_Q5_K:
    qi__q8_scales_k4_avx2(src, s);
    s->d = qi__half_avx2(src);
    s->dmin = qi__half_avx2(src + 2);
    break;
  case QI_FORMAT_Q6_K:
    s->scale = qi__scales16_avx2(_mm_loadu_si128((const __m128i *)(const void *)(src + 192)), true);
    s->d = qi__half_avx2(src + 208);
    break;
  case QI_FORMAT_IQ4_XS:
    s->scale = qi__q8_scales_iq4_avx2(src);
    s->d = qi__half_avx2(src);
    break;
  case QI_FORMAT_QINS4_K:
    s->scale = qi__scales16_avx2(qi__qins_scales_avx2(id, src), true);
    qi__qins4_codes_avx2(src, (uint8_t *)block->q);
    s->d = qi__qins_d_avx2(id, src);
    break;
  default:
    qi__unpack_avx2(f, src, block);
    qi__q8_scales_block_avx2(f, block, s);
    break;
  }
}

// Where a block of 256 has d as float16, and after it dmin if it has one; -1 = not there, or no case above. Not of those that
// row_k_avx2.h takes.
QI__INLINE int qi__q8_d_at(qi_format id) {
  switch (id) {
  case QI_FORMAT_IQ4_XS: return 0;
  case QI_FORMAT_Q2_K: return 80;
  case QI_FORMAT_Q3_K: return 108;
  default: return -1;
  }
}

// ---- scales of blocks of 32 ----

// Words of eight blocks, `at` bytes into each; zero for those from n on.
QI__INLINE QI__AVX2 __m128i qi__block_words_avx2(const uint8_t *src, size_t size, int n, size_t at) {
  src += at;
  if (n < 8) {
    uint16_t words[8] = {0};
    for (int b = 0; b < n; b++) words[b] = qi__load_u16(src + (size_t)b * size);
    return _mm_loadu_si128((const __m128i *)(const void *)words);
  }
  __m128i v = _mm_cvtsi32_si128(qi__load_u16(src));
  v = _mm_insert_epi16(v, (short)qi__load_u16(src + size), 1);
  v = _mm_insert_epi16(v, (short)qi__load_u16(src + 2 * size), 2);
  v = _mm_insert_epi16(v, (short)qi__load_u16(src + 3 * size), 3);
  v = _mm_insert_epi16(v, (short)qi__load_u16(src + 4 * size), 4);
  v = _mm_insert_epi16(v, (short)qi__load_u16(src + 5 * size), 5);
  v = _mm_insert_epi16(v, (short)qi__load_u16(src + 6 * size), 6);
  return _mm_insert_epi16(v, (short)qi__load_u16(src + 7 * size), 7);
}

// d of n <= 8 blocks.
QI__INLINE QI__AVX2 __m256 qi__block_d_avx2(qi_format id, const qi__format *f, const uint8_t *src, int n) {
  __m128i words = qi__block_words_avx2(src, (size_t)f->info.block_bytes, n, 0);
  if (id != QI_FORMAT_MXFP4) return _mm256_cvtph_ps(words);
  __m256i e = _mm256_cvtepu16_epi32(_mm_and_si128(words, _mm_set1_epi16(0xff))); // qi__e8m0_half_to_f32
  __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
  __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), e);
  return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}

// -dmin of n <= 8 blocks of Q4_1 or Q5_1, whose integer min is 1: the half that they hold.
QI__INLINE QI__AVX2 __m256 qi__block_offset_avx2(const qi__format *f, const uint8_t *src, int n) {
  return _mm256_cvtph_ps(qi__block_words_avx2(src, (size_t)f->info.block_bytes, n, 2));
}

// ---- activations of a chunk ----

typedef struct qi__q8_chunk {
  const int8_t *q;
  const float *d;
  const int16_t *sum;
} qi__q8_chunk;

// Of activation row `row`, from column `at` on.
QI__INLINE qi__q8_chunk qi__q8_chunk_at(const qi__q8 *x, size_t row, size_t at) {
  size_t i = row * x->k + at;
  return (qi__q8_chunk){x->q + i, x->d + (i >> (x->block == 32 ? 5 : 8)), x->sum + i / 16};
}

// Ones in the first n of eight lanes.
QI__INLINE QI__AVX2 __m256i qi__first_lanes_avx2(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// d of n <= 8 blocks; nothing beyond is read, and zero.
QI__INLINE QI__AVX2 __m256 qi__chunk_d_avx2(const float *d, int n) {
  return n == 8 ? _mm256_loadu_ps(d) : _mm256_maskload_ps(d, qi__first_lanes_avx2(n));
}

// The sums of the codes of n <= 8 blocks of 32.
QI__INLINE QI__AVX2 __m256i qi__chunk_sums_avx2(const int16_t *sum, int n) {
  const int *pairs = (const int *)(const void *)sum;
  __m256i v = n == 8 ? qi__bytes_avx2((const uint8_t *)pairs) : _mm256_maskload_epi32(pairs, qi__first_lanes_avx2(n));
  return _mm256_madd_epi16(v, _mm256_set1_epi16(1));
}

// ---- products of 32 codes ----

// The scale of group g for the pairs of products in each lane.
QI__INLINE QI__AVX2 __m256i qi__group_scale_avx2(__m256i scale, int g) {
  return _mm256_shuffle_epi8(scale, _mm256_set1_epi16((short)(2 * g | (2 * g + 1) << 8)));
}

// sum + scale * (products of 32 codes).
QI__INLINE QI__AVX2 __m256i qi__add_scaled_avx2(qi__step_fn words, int offset, __m256i sum, __m256i code, __m256i x,
                                                __m256i scale) {
  if (offset == QI__WIDE) return words(sum, _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(x, code)), scale);
  return words(sum, _mm256_maddubs_epi16(code, x), scale);
}

// offset * scales * sums of the activations, which `sums` has in the order of the scales.
QI__INLINE QI__AVX2 __m256i qi__offset_sums_avx2(int offset, __m256i scale, __m256i sums) {
  return _mm256_mullo_epi32(_mm256_madd_epi16(scale, sums), _mm256_set1_epi32(offset));
}

// The sums of the lanes of eight registers, in order. A step is blends and one shuffle, where a horizontal addition has two.
QI__INLINE QI__AVX2 __m256i qi__fold8_avx2(const __m256i *v) {
  __m256i two[4], four[2];
  QI__UNROLL for (int i = 0; i < 4; i++) { // a0+a1 b0+b1 a2+a3 b2+b3 ..
    __m256i a = v[2 * i], b = v[2 * i + 1];
    two[i] = _mm256_add_epi32(_mm256_blend_epi32(a, b, 0xaa), _mm256_shuffle_epi32(_mm256_blend_epi32(b, a, 0xaa), 0xb1));
  }
  QI__UNROLL for (int i = 0; i < 2; i++) {
    __m256i a = two[2 * i], b = two[2 * i + 1];
    four[i] = _mm256_add_epi32(_mm256_blend_epi32(a, b, 0xcc), _mm256_shuffle_epi32(_mm256_blend_epi32(b, a, 0xcc), 0x4e));
  }
  return _mm256_add_epi32(_mm256_blend_epi32(four[0], four[1], 0xf0), _mm256_permute2x128_si256(four[0], four[1], 0x21));
}

// Blocks 0..n-1 into lanes 0..n-1: fma(d, integers, lanes). What lies beyond n does not count.
QI__INLINE QI__AVX2 __m256 qi__take_blocks_avx2(__m256 lanes, __m256 d, __m256i integers, int n) {
  __m256 sum = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(integers), lanes);
  return n == 8 ? sum : _mm256_blendv_ps(lanes, sum, _mm256_castsi256_ps(qi__first_lanes_avx2(n)));
}

// VNNI has room for wide codes as unsigned bytes.
QI__INLINE int qi__q8_offset32(qi_format id, bool vnni) {
  int offset = qi__q8_offset(id);
  return vnni && offset == QI__WIDE ? 128 : offset;
}

// ---- a few rows of activations ----

// n rows of activations, a constant where these are inlined: blocks are taken apart once for all of them.
#define QI__ROW_X 4

// qi__prefetch_ahead for the n bytes at w. Never faults, also beyond the matrix. No compiler may move fetches from here: GCC puts
// those of eight blocks into one burst, which leaves no room for other misses (Q4_K, one thread of Zen 4: 15 GB/s in place of 26).
QI__INLINE QI__AVX2 void qi__fetch_far_avx2(qi__fetch fetch, const uint8_t *w, size_t n) {
  __asm__ volatile("");
  qi__prefetch_ahead(fetch, (uintptr_t)w, n);
}

// Integer lanes of a block of 256 with integer scales, with one row of activations.
QI__INLINE QI__AVX2 __m256i qi__row_scaled_avx2(qi_format id, qi__step_fn words, const uint8_t *w, const qi__block *block,
                                                const qi__q8_scales *s, const qi__q8_chunk *x) {
  const int offset = qi__q8_offset(id);
  __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}; // shorter chains than of one
  QI__UNROLL for (int g = 0; g < 8; g++) {
    __m256i code = qi__q8_codes_avx2(id, w, g, block, offset), scale = qi__group_scale_avx2(s->scale, g);
    sum[g % 2] = qi__add_scaled_avx2(words, offset, sum[g % 2], code, qi__bytes_avx2((const uint8_t *)x->q + 32 * g), scale);
  }
  __m256i total = _mm256_add_epi32(sum[0], sum[1]);
  return offset <= 0 ? total : _mm256_sub_epi32(total, qi__offset_sums_avx2(offset, s->scale, qi__words16_avx2(x->sum)));
}

// What blocks of a row have added up to, until eight of them are taken to the lanes.
typedef struct qi__row_sums {
  __m256i total[8], mins[8];
  float d[8], dmin[8]; // of formats without qi__q8_d_at
} qi__row_sums;

// A block of 256 at w, as number b of eight.
QI__INLINE QI__AVX2 void qi__row_block_avx2(qi_format id, const qi__format *bound, qi__step_fn words, const uint8_t *w,
                                            const qi__q8_chunk *x, size_t b, qi__row_sums *p) {
  qi__block block;
  qi__q8_scales s;
  qi__q8_scales_avx2(id, bound, w, &block, &s);
  p->total[b] = qi__row_scaled_avx2(id, words, w, &block, &s, x);
  if ((id ? &qi__formats[id] : bound)->has_min) p->mins[b] = _mm256_madd_epi16(s.min, qi__bytes_avx2((const uint8_t *)x->sum));
  if (qi__q8_d_at(id) >= 0) return;
  p->d[b] = s.d;
  p->dmin[b] = s.dmin;
}

// Lanes after n_blocks blocks of 256 at w, which p has added up; d_x: of the activations.
QI__INLINE QI__AVX2 __m256 qi__row_take_avx2(qi_format id, const qi__format *f, const qi__row_sums *p, const uint8_t *w,
                                             const float *d_x, int n_blocks, __m256 lanes) {
  const __m256 minus = _mm256_set1_ps(-0.0f), x = qi__chunk_d_avx2(d_x, n_blocks);
  size_t size = (size_t)f->info.block_bytes, at = (size_t)qi__q8_d_at(id);
  bool half = qi__q8_d_at(id) >= 0;
  __m256 d = half ? _mm256_cvtph_ps(qi__block_words_avx2(w, size, n_blocks, at)) : _mm256_loadu_ps(p->d);
  lanes = qi__take_blocks_avx2(lanes, _mm256_mul_ps(d, x), qi__fold8_avx2(p->total), n_blocks);
  if (!f->has_min) return lanes;
  __m256 dmin = half ? _mm256_cvtph_ps(qi__block_words_avx2(w, size, n_blocks, at + 2)) : _mm256_loadu_ps(p->dmin);
  return qi__take_blocks_avx2(lanes, _mm256_xor_ps(minus, _mm256_mul_ps(dmin, x)), qi__fold8_avx2(p->mins), n_blocks);
}

QI__INLINE QI__AVX2 __m256 qi__row_256_avx2(qi_format id, qi__step_fn words, const qi__dot_q8_args *a, const uint8_t *w) {
  const qi__format *bound = a->format, *f = id ? &qi__formats[id] : bound;
  size_t n_blocks = a->x->k / 256, size = (size_t)f->info.block_bytes;
  qi__q8_chunk x = qi__q8_chunk_at(a->x, a->x_row, 0);
  __m256 lanes = _mm256_setzero_ps();
  qi__row_sums p;
  for (size_t b = 0; b < n_blocks; b += 8, x.d += 8) {
    size_t eight = qi__min_size(8, n_blocks - b);
    const uint8_t *first = w;
    for (size_t i = 0; i < eight; i++, w += size, x.q += 256, x.sum += 16) {
      qi__fetch_far_avx2(a->fetch, w, size);
      qi__row_block_avx2(id, bound, words, w, &x, i, &p);
    }
    for (size_t i = eight; i < 8; i++) { // blocks that are not there
      p.total[i] = p.mins[i] = _mm256_setzero_si256();
      p.d[i] = p.dmin[i] = 0;
    }
    lanes = qi__row_take_avx2(id, f, &p, first, x.d, (int)eight, lanes);
  }
  return lanes;
}

// Lanes after n_blocks <= 8 blocks of 32 at w. A float minimum has the integer 1, so its sum is that of the codes.
QI__INLINE QI__AVX2 void qi__row_chunk_avx2(qi_format id, bool vnni, qi__step_fn bytes, qi__fetch fetch, const uint8_t *w,
                                            const qi__q8_chunk *x, size_t k, int n_blocks, int n, __m256 *lanes) {
  const qi__format *f = &qi__formats[id];
  int offset = qi__q8_offset32(id, vnni);
  __m256i totals[QI__ROW_X][8], zero = _mm256_setzero_si256();
  qi__fetch_far_avx2(fetch, w, 8 * (size_t)f->info.block_bytes);
  QI__UNROLL for (int b = 0; b < 8; b++) {
    QI__UNROLL for (int i = 0; i < n; i++) totals[i][b] = zero;
    if (b >= n_blocks) continue;
    __m256i code = qi__q8_codes_avx2(id, w + b * f->info.block_bytes, 0, NULL, offset);
    QI__UNROLL for (int i = 0; i < n; i++) {
      __m256i xb = qi__bytes_avx2((const uint8_t *)x->q + (size_t)i * k + 32 * b);
      if (offset == QI__WIDE) totals[i][b] = bytes(zero, _mm256_abs_epi8(code), _mm256_sign_epi8(xb, code));
      else totals[i][b] = bytes(zero, code, xb);
    }
  }
  __m256 d_w = qi__block_d_avx2(id, f, w, n_blocks), m_w = f->has_min ? qi__block_offset_avx2(f, w, n_blocks) : d_w;
  QI__UNROLL for (int i = 0; i < n; i++) {
    __m256 d = qi__chunk_d_avx2(x->d + (size_t)i * (k / 32), n_blocks);
    __m256i total = qi__fold8_avx2(totals[i]), sums = qi__chunk_sums_avx2(x->sum + (size_t)i * (k / 16), n_blocks);
    if (offset > 0) total = _mm256_sub_epi32(total, _mm256_mullo_epi32(sums, _mm256_set1_epi32(offset)));
    lanes[i] = qi__take_blocks_avx2(lanes[i], _mm256_mul_ps(d_w, d), total, n_blocks);
    if (f->has_min) lanes[i] = qi__take_blocks_avx2(lanes[i], _mm256_mul_ps(m_w, d), sums, n_blocks);
  }
}

QI__INLINE QI__AVX2 void qi__row_32_avx2(qi_format id, bool vnni, qi__step_fn bytes, const qi__dot_q8_args *a, const uint8_t *w,
                                         int n, __m256 *lanes) {
  qi__q8_chunk x = qi__q8_chunk_at(a->x, a->x_row, 0);
  size_t size = (size_t)qi__formats[id].info.block_bytes, k = a->x->k, n_blocks = k / 32;
  for (; n_blocks >= 8; n_blocks -= 8, w += 8 * size, x.q += 256, x.d += 8, x.sum += 16) {
    qi__row_chunk_avx2(id, vnni, bytes, a->fetch, w, &x, k, 8, n, lanes);
  }
  if (n_blocks) qi__row_chunk_avx2(id, vnni, bytes, a->fetch, w, &x, k, (int)n_blocks, n, lanes);
}

// All weight rows with n rows of activations from a->x_row on: of formats with blocks of 256 one row. id = NONE: one of those
// without a case above.
QI__INLINE QI__AVX2 void qi__dot_rows_avx2(qi_format id, bool vnni, qi__step_fn words, qi__step_fn bytes, int n,
                                           const qi__dot_q8_args *a) {
  bool small = id && qi__formats[id].info.block_len == 32;
  const uint8_t *w = a->w;
  for (size_t r = 0; r < a->n_w; r++, w += a->w_stride) {
    __m256 lanes[QI__ROW_X];
    QI__UNROLL for (int i = 0; i < n; i++) lanes[i] = _mm256_setzero_ps();
    if (small) qi__row_32_avx2(id, vnni, bytes, a, w, n, lanes);
    else lanes[0] = qi__row_256_avx2(id, words, a, w);
    QI__UNROLL for (int i = 0; i < n; i++) a->y[(size_t)i * a->y_stride + r] = qi__sum_lanes_avx2(lanes[i]);
  }
}
#endif

#endif // QI__KERNELS_DOT_Q8_X86_H
