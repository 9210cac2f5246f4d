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
// One row of activations: blocks are taken apart in registers, two weight rows beside each other. The integer sums of a block lie
// in eight lanes of a register; those of eight blocks are folded into one, which is the eight lanes of the contract. More rows:
// panel_q8_x86.h.
//
// All works in chunks: one block of 256 weights, or up to eight of 32.

#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define QI__HAS_AVX_VNNI 1
#define QI__AVX_VNNI QI__TARGET("avx2,fma,f16c,avxvnni")
#endif
#define QI__AVX512_VNNI QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

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
  case QI_FORMAT_TQ1_0:
  case QI_FORMAT_TQ2_0:
  case QI_FORMAT_I2_S: return 1;
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
  if (!f->unpack) return false;
  return f->info.block_len == 256 || qi__q8_offset(id) != QI__WIDE || id == QI_FORMAT_Q8_0 || id == QI_FORMAT_IQ4_NL;
}

// Ternary blocks: one scale for 256 weights.
QI__INLINE bool qi__q8_one_scale(qi_format id) {
  return id == QI_FORMAT_TQ1_0 || id == QI_FORMAT_TQ2_0 || id == QI_FORMAT_I2_S;
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

// Eight words, one for each 32 codes.
QI__INLINE QI__AVX2 __m256i qi__scales32_avx2(__m128i words) { return _mm256_broadcastsi128_si256(words); }

// The layout of qi__unpack_scales_k3, four bytes at a time.
QI__INLINE QI__AVX2 __m128i qi__scale_bytes_k3_avx2(const uint8_t *src) {
  const uint32_t low = 0x0f0f0f0fu, top = 0x30303030u;
  uint32_t a = qi__load_u32(src), b = qi__load_u32(src + 4), c = qi__load_u32(src + 8);
  __m128i v = _mm_setr_epi32((int)((a & low) | (c << 4 & top)), (int)((b & low) | (c << 2 & top)),
                             (int)((a >> 4 & low) | (c & top)), (int)((b >> 4 & low) | (c >> 2 & top)));
  return _mm_sub_epi8(v, _mm_set1_epi8(32));
}

// Q4_K, Q5_K: eight scales and eight mins of src[12].
QI__INLINE QI__AVX2 void qi__q8_scales_k4_avx2(const uint8_t *src, qi__q8_scales *s) {
  uint32_t a = qi__load_u32(src), b = qi__load_u32(src + 4), c = qi__load_u32(src + 8);
  uint64_t scale = (a & 0x3f3f3f3fu) | (uint64_t)((c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u)) << 32;
  uint64_t min = (b & 0x3f3f3f3fu) | (uint64_t)((c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u)) << 32;
  __m128i m = _mm_cvtsi64_si128((long long)min);
  s->scale = qi__scales32_avx2(_mm_cvtepu8_epi16(_mm_cvtsi64_si128((long long)scale)));
  s->min = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(m, m));
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
  __m256i v = qi__bytes_avx2((const uint8_t *)block->scale), m = qi__bytes_avx2((const uint8_t *)block->min);
  if (f->group == 32) {
    __m128i low = _mm256_castsi256_si128(m);
    s->scale = qi__scales32_avx2(_mm256_castsi256_si128(v));
    s->min = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(low, low)), _mm_unpackhi_epi16(low, low), 1);
  } else {
    const __m256i apart = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    s->scale = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, apart), 0xd8);
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
    s->scale = qi__scales16_avx2(qi__scale_bytes_k3_avx2(src + 96), true);
    s->d = qi__half_avx2(src + 108);
    break;
  case QI_FORMAT_Q4_K:
  case QI_FORMAT_Q5_K:
    qi__q8_scales_k4_avx2(src + 4, s);
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
  case QI_FORMAT_TQ1_0: s->d = qi__half_avx2(src + 52); break;
  case QI_FORMAT_TQ2_0: s->d = qi__half_avx2(src + 64); break;
  case QI_FORMAT_I2_S: s->d = f->param[0]; break;
  case QI_FORMAT_QINS8_K:
    s->scale = qi__scales16_avx2(qi__seven_bits_avx2(src + 2), false);
    s->d = qi__half_avx2(src) * 0x1p-10f;
    break;
  case QI_FORMAT_QINS4_K:
    s->scale = qi__scales16_avx2(qi__qins4_scales_avx2(qi__seven_bits_avx2(src + 2)), true);
    s->d = qi__half_avx2(src) * 0x1p-10f;
    break;
  default:
    qi__unpack(f, src, block);
    qi__q8_scales_block_avx2(f, block, s);
    break;
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
QI__INLINE QI__AVX2 __m256 qi__chunk_d_avx2(const float *d, int n) { return _mm256_maskload_ps(d, qi__first_lanes_avx2(n)); }

// The sums of the codes of n <= 8 blocks of 32.
QI__INLINE QI__AVX2 __m256i qi__chunk_sums_avx2(const int16_t *sum, int n) {
  return _mm256_madd_epi16(_mm256_maskload_epi32((const int *)(const void *)sum, qi__first_lanes_avx2(n)), _mm256_set1_epi16(1));
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

// The sums of the lanes of eight registers, in order.
QI__INLINE QI__AVX2 __m256i qi__fold8_avx2(const __m256i *v) {
  __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
  __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
  return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
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

// ---- one row of activations ----

// Two weight rows: chains of additions overlap, and the rows lie close enough to be fetched as one stream.
#define QI__PAIR 2

// Weight rows first, first + 1; beyond the last row the last again.
QI__INLINE void qi__pair_rows(const qi__dot_q8_args *a, size_t first, const uint8_t **w) {
  for (size_t r = 0; r < QI__PAIR; r++) w[r] = a->w + qi__min_size(first + r, a->n_w - 1) * a->w_stride;
}

// Fetches the rows of the next pair in the order of their addresses, n bytes of them: row by row the processor would see streams
// that begin and end every few kilobytes. Each byte is used once, so only the first-level cache gets it (a quarter faster for Q8_0
// than into all of them). Never faults, also beyond the matrix.
QI__INLINE QI__AVX2 void qi__prefetch_pair_avx2(const uint8_t *first_row, const uint8_t *now, size_t stride, size_t n) {
  uintptr_t next = (uintptr_t)first_row + QI__PAIR * (stride + (size_t)(now - first_row));
  for (size_t i = 0; i < n; i += QI__CACHE_LINE) _mm_prefetch((const char *)(next + i), _MM_HINT_NTA);
}

// Integer lanes of a block of 256 with integer scales; sums: of the activations.
QI__INLINE QI__AVX2 void qi__pair_scaled_avx2(qi_format id, qi__step_fn words, const uint8_t *const *w, const qi__block *block,
                                              const qi__q8_scales *s, const int8_t *x, __m256i sums, __m256i *sum) {
  const __m256i apart = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  int offset = qi__q8_offset(id);
  __m256i odd[QI__PAIR]; // sums of odd groups: shorter chains
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) sum[r] = odd[r] = _mm256_setzero_si256();
  QI__UNROLL for (int g = 0; g < 8; g++) {
    __m256i xg = qi__bytes_avx2((const uint8_t *)x + 32 * g), *to = g % 2 ? odd : sum;
    QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
      __m256i code = qi__q8_codes_avx2(id, w[r], g, &block[r], offset);
      to[r] = qi__add_scaled_avx2(words, offset, to[r], code, xg, qi__group_scale_avx2(s[r].scale, g));
    }
  }
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) sum[r] = _mm256_add_epi32(sum[r], odd[r]);
  if (offset <= 0) return;
  sums = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(sums, apart), 0xd8); // to the order of the scales
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) sum[r] = _mm256_sub_epi32(sum[r], qi__offset_sums_avx2(offset, s[r].scale, sums));
}

// Integer lanes of a ternary block. Without VNNI: 8 pairs of products, up to 2 * 2 * 127 each, fit into int16.
QI__INLINE QI__AVX2 void qi__pair_ternary_avx2(qi_format id, bool vnni, qi__step_fn bytes, const uint8_t *const *w, const int8_t *x,
                                               __m256i sums, __m256i *sum) {
  const __m256i one = _mm256_set1_epi16(1);
  __m256i odd[QI__PAIR]; // sums of odd groups: shorter chains
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) sum[r] = odd[r] = _mm256_setzero_si256();
  QI__UNROLL for (int g = 0; g < 8; g++) {
    __m256i xg = qi__bytes_avx2((const uint8_t *)x + 32 * g), *to = g % 2 ? odd : sum;
    QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
      __m256i u = qi__q8_codes_avx2(id, w[r], g, NULL, 1);
      to[r] = vnni ? bytes(to[r], u, xg) : _mm256_add_epi16(to[r], _mm256_maddubs_epi16(u, xg));
    }
  }
  sums = _mm256_madd_epi16(sums, one);
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
    __m256i total = vnni ? _mm256_add_epi32(sum[r], odd[r]) : _mm256_madd_epi16(_mm256_add_epi16(sum[r], odd[r]), one);
    sum[r] = _mm256_sub_epi32(total, sums);
  }
}

// Integer lanes of a block of QINS8_K. Sizes up to 255 do not fit: they are taken as twice a half, up to 127, and a rest.
QI__INLINE QI__AVX2 void qi__pair_qins8_avx2(qi__step_fn words, const uint8_t *const *w, const qi__q8_scales *s, const int8_t *x,
                                             __m256i *sum) {
  const __m256i one = _mm256_set1_epi8(1);
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) sum[r] = _mm256_setzero_si256();
  QI__UNROLL for (int g = 0; g < 8; g++) {
    __m256i xg = qi__bytes_avx2((const uint8_t *)x + 32 * g);
    QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
      __m256i codes = qi__bytes_avx2(w[r] + 16 + 32 * g), sizes = qi__qins8_sizes_avx2(codes);
      __m256i signed_x = _mm256_sign_epi8(xg, _mm256_or_si256(codes, one));
      __m256i half = qi__bits_avx2(sizes, 1, 7), rest = _mm256_and_si256(sizes, one);
      __m256i scale = qi__group_scale_avx2(s[r].scale, g);
      sum[r] = words(sum[r], _mm256_maddubs_epi16(half, signed_x), _mm256_add_epi16(scale, scale));
      sum[r] = words(sum[r], _mm256_maddubs_epi16(rest, signed_x), scale);
    }
  }
}

// What blocks of a pair of rows have added up to, until eight of them are taken to the lanes.
typedef struct qi__pair_sums {
  __m256i total[QI__PAIR][8], mins[QI__PAIR][8];
  float d[QI__PAIR][8], minus_dmin[QI__PAIR][8];
} qi__pair_sums;

// n blocks of 256, which have the scales d_x.
QI__INLINE QI__AVX2 void qi__pair_take_avx2(const qi__pair_sums *p, const float *d_x, int n, bool has_min, __m256 *lanes) {
  __m256 d = qi__chunk_d_avx2(d_x, n);
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
    lanes[r] = qi__take_blocks_avx2(lanes[r], _mm256_mul_ps(_mm256_loadu_ps(p->d[r]), d), qi__fold8_avx2(p->total[r]), n);
    if (!has_min) continue;
    __m256 minus_d = _mm256_mul_ps(_mm256_loadu_ps(p->minus_dmin[r]), d);
    lanes[r] = qi__take_blocks_avx2(lanes[r], minus_d, qi__fold8_avx2(p->mins[r]), n);
  }
}

// n blocks of 32: `offset` is still in their totals. A float minimum has the integer 1, so `mins` is the sum of the codes.
QI__INLINE QI__AVX2 void qi__pair_take32_avx2(const qi__pair_sums *p, const qi__q8_chunk *x, int n, int offset, bool has_min,
                                              __m256 *lanes) {
  const __m256 d = qi__chunk_d_avx2(x->d, n);
  const __m256i sums = qi__chunk_sums_avx2(x->sum, n), taken = _mm256_mullo_epi32(sums, _mm256_set1_epi32(offset));
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
    __m256i total = qi__fold8_avx2(p->total[r]);
    if (offset > 0) total = _mm256_sub_epi32(total, taken);
    lanes[r] = qi__take_blocks_avx2(lanes[r], _mm256_mul_ps(_mm256_loadu_ps(p->d[r]), d), total, n);
    if (has_min) lanes[r] = qi__take_blocks_avx2(lanes[r], _mm256_mul_ps(_mm256_loadu_ps(p->minus_dmin[r]), d), sums, n);
  }
}

// A block of 256 at w[], as number b of eight.
QI__INLINE QI__AVX2 void qi__pair_block_avx2(qi_format id, const qi__format *bound, bool vnni, qi__step_fn words,
                                             qi__step_fn bytes, const uint8_t *const *w, const qi__q8_chunk *x, size_t b,
                                             qi__pair_sums *p) {
  const qi__format *f = id ? &qi__formats[id] : bound;
  qi__block block[QI__PAIR];
  qi__q8_scales s[QI__PAIR];
  __m256i sum[QI__PAIR], sums = qi__bytes_avx2((const uint8_t *)x->sum);
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) qi__q8_scales_avx2(id, bound, w[r], &block[r], &s[r]);
  if (qi__q8_one_scale(id)) qi__pair_ternary_avx2(id, vnni, bytes, w, x->q, sums, sum);
  else if (id == QI_FORMAT_QINS8_K) qi__pair_qins8_avx2(words, w, s, x->q, sum);
  else qi__pair_scaled_avx2(id, words, w, block, s, x->q, sums, sum);
  QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
    p->total[r][b] = sum[r];
    p->d[r][b] = s[r].d;
    if (f->has_min) {
      p->mins[r][b] = _mm256_madd_epi16(s[r].min, sums);
      p->minus_dmin[r][b] = -s[r].dmin;
    }
  }
}

QI__INLINE QI__AVX2 void qi__pair_256_avx2(qi_format id, bool vnni, qi__step_fn words, qi__step_fn bytes, const qi__dot_q8_args *a,
                                           size_t first, __m256 *lanes) {
  const qi__format *f = id ? &qi__formats[id] : a->format;
  size_t size = (size_t)f->info.block_bytes, n_blocks = a->x->k / 256;
  const uint8_t *w[QI__PAIR], *first_row;
  qi__pair_sums p;
  if (n_blocks % 8) memset(&p, 0, sizeof p); // blocks that are not there
  qi__pair_rows(a, first, w);
  first_row = w[0];
  for (size_t b = 0; b < n_blocks; b++) {
    qi__q8_chunk x = qi__q8_chunk_at(a->x, a->x_row, 256 * b);
    qi__prefetch_pair_avx2(first_row, w[0], a->w_stride, QI__PAIR * size);
    qi__pair_block_avx2(id, a->format, vnni, words, bytes, w, &x, b % 8, &p);
    if (b % 8 == 7 || b + 1 == n_blocks) qi__pair_take_avx2(&p, x.d - b % 8, (int)(b % 8) + 1, f->has_min, lanes);
    QI__UNROLL for (int r = 0; r < QI__PAIR; r++) w[r] += size;
  }
}

QI__INLINE QI__AVX2 void qi__pair_32_avx2(qi_format id, bool vnni, qi__step_fn bytes, const qi__dot_q8_args *a, size_t first,
                                          __m256 *lanes) {
  const qi__format *f = &qi__formats[id];
  size_t size = (size_t)f->info.block_bytes;
  int offset = qi__q8_offset32(id, vnni);
  const uint8_t *w[QI__PAIR], *first_row;
  qi__pair_sums p;
  if (a->x->k % 256) memset(&p, 0, sizeof p); // blocks that are not there
  qi__pair_rows(a, first, w);
  first_row = w[0];
  for (size_t at = 0; at < a->x->k; at += 256) {
    qi__q8_chunk x = qi__q8_chunk_at(a->x, a->x_row, at);
    int n = (int)qi__min_size(8, (a->x->k - at) / 32);
    qi__prefetch_pair_avx2(first_row, w[0], a->w_stride, QI__PAIR * 8 * size);
    QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
      _mm256_storeu_ps(p.d[r], qi__block_d_avx2(id, f, w[r], n));
      if (f->has_min) _mm256_storeu_ps(p.minus_dmin[r], qi__block_offset_avx2(f, w[r], n));
    }
    for (int b = 0; b < n; b++) {
      __m256i xb = qi__bytes_avx2((const uint8_t *)x.q + 32 * b), zero = _mm256_setzero_si256();
      QI__UNROLL for (int r = 0; r < QI__PAIR; r++) {
        __m256i code = qi__q8_codes_avx2(id, w[r], 0, NULL, offset);
        if (offset == QI__WIDE) p.total[r][b] = bytes(zero, _mm256_abs_epi8(code), _mm256_sign_epi8(xb, code));
        else p.total[r][b] = bytes(zero, code, xb);
        w[r] += size;
      }
    }
    qi__pair_take32_avx2(&p, &x, n, offset, f->has_min, lanes);
  }
}

// All weight rows with one row of activations. id = NONE: a format with blocks of 256 and no case above.
QI__INLINE QI__AVX2 void qi__dot_pairs_avx2(qi_format id, bool vnni, qi__step_fn words, qi__step_fn bytes,
                                            const qi__dot_q8_args *a) {
  bool small = id && qi__formats[id].info.block_len == 32;
  for (size_t first = 0; first < a->n_w; first += QI__PAIR) {
    __m256 lanes[QI__PAIR];
    QI__UNROLL for (int r = 0; r < QI__PAIR; r++) lanes[r] = _mm256_setzero_ps();
    if (small) qi__pair_32_avx2(id, vnni, bytes, a, first, lanes);
    else qi__pair_256_avx2(id, vnni, words, bytes, a, first, lanes);
    QI__UNROLL for (size_t r = 0; r < QI__PAIR; r++)
      if (first + r < a->n_w) a->y[first + r] = qi__sum_lanes_avx2(lanes[r]);
  }
}

// ---- one row of activations, by format ----

// One function a format, and the choice between them. `any` is for formats with blocks of 256 that have no case above.
#define QI__DOT_PAIRS(isa, target, vnni, name, ID) \
  QI__FN target void qi__dot_pairs_##name##_##isa(const qi__dot_q8_args *a) { \
    qi__dot_pairs_avx2(ID, vnni, qi__words_##isa, qi__step_bytes_##isa, a); \
  }
#define QI__DOT_ROW(isa, target, vnni) \
  QI__DOT_PAIRS(isa, target, vnni, q4_0, QI_FORMAT_Q4_0) \
  QI__DOT_PAIRS(isa, target, vnni, q4_1, QI_FORMAT_Q4_1) \
  QI__DOT_PAIRS(isa, target, vnni, q5_0, QI_FORMAT_Q5_0) \
  QI__DOT_PAIRS(isa, target, vnni, q5_1, QI_FORMAT_Q5_1) \
  QI__DOT_PAIRS(isa, target, vnni, q8_0, QI_FORMAT_Q8_0) \
  QI__DOT_PAIRS(isa, target, vnni, q2_k, QI_FORMAT_Q2_K) \
  QI__DOT_PAIRS(isa, target, vnni, q3_k, QI_FORMAT_Q3_K) \
  QI__DOT_PAIRS(isa, target, vnni, q4_k, QI_FORMAT_Q4_K) \
  QI__DOT_PAIRS(isa, target, vnni, q5_k, QI_FORMAT_Q5_K) \
  QI__DOT_PAIRS(isa, target, vnni, q6_k, QI_FORMAT_Q6_K) \
  QI__DOT_PAIRS(isa, target, vnni, iq4_nl, QI_FORMAT_IQ4_NL) \
  QI__DOT_PAIRS(isa, target, vnni, iq4_xs, QI_FORMAT_IQ4_XS) \
  QI__DOT_PAIRS(isa, target, vnni, mxfp4, QI_FORMAT_MXFP4) \
  QI__DOT_PAIRS(isa, target, vnni, tq1_0, QI_FORMAT_TQ1_0) \
  QI__DOT_PAIRS(isa, target, vnni, tq2_0, QI_FORMAT_TQ2_0) \
  QI__DOT_PAIRS(isa, target, vnni, i2_s, QI_FORMAT_I2_S) \
  QI__DOT_PAIRS(isa, target, vnni, qins8_k, QI_FORMAT_QINS8_K) \
  QI__DOT_PAIRS(isa, target, vnni, qins4_k, QI_FORMAT_QINS4_K) \
  QI__DOT_PAIRS(isa, target, vnni, any, QI_FORMAT_NONE) \
  QI__FN void qi__dot_row_##isa(const qi__dot_q8_args *a) { \
    switch (qi__format_id(a->format)) { \
    case QI_FORMAT_Q4_0: qi__dot_pairs_q4_0_##isa(a); break; \
    case QI_FORMAT_Q4_1: qi__dot_pairs_q4_1_##isa(a); break; \
    case QI_FORMAT_Q5_0: qi__dot_pairs_q5_0_##isa(a); break; \
    case QI_FORMAT_Q5_1: qi__dot_pairs_q5_1_##isa(a); break; \
    case QI_FORMAT_Q8_0: qi__dot_pairs_q8_0_##isa(a); break; \
    case QI_FORMAT_Q2_K: qi__dot_pairs_q2_k_##isa(a); break; \
    case QI_FORMAT_Q3_K: qi__dot_pairs_q3_k_##isa(a); break; \
    case QI_FORMAT_Q4_K: qi__dot_pairs_q4_k_##isa(a); break; \
    case QI_FORMAT_Q5_K: qi__dot_pairs_q5_k_##isa(a); break; \
    case QI_FORMAT_Q6_K: qi__dot_pairs_q6_k_##isa(a); break; \
    case QI_FORMAT_IQ4_NL: qi__dot_pairs_iq4_nl_##isa(a); break; \
    case QI_FORMAT_IQ4_XS: qi__dot_pairs_iq4_xs_##isa(a); break; \
    case QI_FORMAT_MXFP4: qi__dot_pairs_mxfp4_##isa(a); break; \
    case QI_FORMAT_TQ1_0: qi__dot_pairs_tq1_0_##isa(a); break; \
    case QI_FORMAT_TQ2_0: qi__dot_pairs_tq2_0_##isa(a); break; \
    case QI_FORMAT_I2_S: qi__dot_pairs_i2_s_##isa(a); break; \
    case QI_FORMAT_QINS8_K: qi__dot_pairs_qins8_k_##isa(a); break; \
    case QI_FORMAT_QINS4_K: qi__dot_pairs_qins4_k_##isa(a); break; \
    default: qi__dot_pairs_any_##isa(a); break; \
    } \
  }

QI__DOT_ROW(avx2, QI__AVX2, false)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_ROW(avx_vnni, QI__AVX_VNNI, true)
#endif
QI__DOT_ROW(avx512, QI__AVX512_VNNI, true)
#endif

#endif // QI__KERNELS_DOT_Q8_X86_H
