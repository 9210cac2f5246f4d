// ==== >>kv_page : how keys and values lie in a page ====
#ifndef QI__KERNELS_KV_PAGE_H
#define QI__KERNELS_KV_PAGE_H

#include "../base/memory.h"
#include "../formats/half.h"
#include "activation.h"

#define QI__KV_PAGE 128  // positions of a page; with 64, generation after 8000 tokens is 8 % slower (Zen 4, F16, attention alone)
#define QI__KEY_BLOCK 16 // positions whose keys are stored so that one register holds the same elements of several of them
#define QI__KV_GROUP 32  // elements of a head that share a scale in Q8 and Q4; the last group is filled up with zeros

// One key/value head of one layer in one page. Groups are [dim / 32], rounded up.
//
//   F32 F16 BF16 FP8   k [P / 16][dim_k][16]                          v [P][dim_v]
//   Q8                 k int8 [P / 16][groups][8][16][4]              v int8 [groups][P / 2][32][2]
//                      k_scale f16 [P / 16][groups][16]               v_scale f16 [groups][P]
//   Q4                 Q8 with two codes of one position in a byte: see qi__kv_unpack_q4_ref
//
// So one register holds 4 elements of a key at 16 positions, which dpbusd and sdot add up, or one element of a value at 2 positions
// for dpwssd. Positions that are not stored yet may hold anything: their weight is 0.
typedef struct qi__kv_layout {
  qi_kv_type type;
  size_t dim_k, dim_v, groups_k, groups_v;
  size_t k_scale, v, v_scale, bytes; // offsets of the parts; k lies at 0
} qi__kv_layout;

// Scales instead of floats.
QI__INLINE bool qi__kv_is_integer(qi_kv_type type) { return type == QI_KV_Q8 || type == QI_KV_Q4; }

// Bytes of n elements or codes.
QI__INLINE size_t qi__kv_size(qi_kv_type type, size_t n) {
  switch (type) {
  case QI_KV_F32: return 4 * n;
  case QI_KV_FP8:
  case QI_KV_Q8: return n;
  case QI_KV_Q4: return n / 2;
  default: return 2 * n;
  }
}

// dim_k and dim_v are below 2^20: nothing can overflow.
QI__FN qi__kv_layout qi__kv_layout_of(qi_kv_type type, size_t dim_k, size_t dim_v) {
  bool integer = qi__kv_is_integer(type);
  size_t groups_k = (dim_k + QI__KV_GROUP - 1) / QI__KV_GROUP, groups_v = (dim_v + QI__KV_GROUP - 1) / QI__KV_GROUP;
  qi__kv_layout l = {type, dim_k, dim_v, groups_k, groups_v, 0, 0, 0, 0};
  l.k_scale = qi__kv_size(type, QI__KV_PAGE * (integer ? groups_k * QI__KV_GROUP : dim_k));
  l.v = l.k_scale + (integer ? QI__KV_PAGE * groups_k * sizeof(uint16_t) : 0);
  l.v_scale = l.v + qi__kv_size(type, QI__KV_PAGE * (integer ? groups_v * QI__KV_GROUP : dim_v));
  l.bytes = l.v_scale + (integer ? QI__KV_PAGE * groups_v * sizeof(uint16_t) : 0);
  return l;
}

// ---- FP8: OCP E4M3, sign, 4 bits of exponent with bias 7, 3 of mantissa ----

// Rounds to nearest, ties to even; what is greater than 448, infinite or NaN becomes 448 with its sign: the codes
// that the standard has for NaN are not used.
QI__FN uint8_t qi__f32_to_fp8(float f) {
  uint32_t u = qi__f32_bits(f), sign = u >> 24 & 0x80u, a = u & 0x7fffffffu;
  if (a >= 0x43e00000u) return (uint8_t)(sign | 0x7eu);
  if (a < 0x3c800000u) { // below 2^-6: multiples of 2^-9
    float steps = qi__bits_f32(a) * 512.0f;
    return (uint8_t)(sign | (uint32_t)qi__round_even(steps));
  }
  uint32_t kept = (a - (120u << 23)) >> 20, rest = a & 0xfffffu;
  if (rest > 0x80000u || (rest == 0x80000u && (kept & 1))) kept++;
  return (uint8_t)(sign | (kept < 0x7eu ? kept : 0x7eu));
}

// Exact: as a half with the same bits it is 2^-8 times too small.
QI__INLINE float qi__fp8_to_f32(uint8_t c) { return qi__f16_to_f32((uint16_t)((c & 0x80u) << 8 | (c & 0x7fu) << 7)) * 256.0f; }

QI__FN void qi__fp8_floats_ref(const uint8_t *src, size_t n, float *dst) {
  for (size_t i = 0; i < n; i++) dst[i] = qi__fp8_to_f32(src[i]);
}

// ---- Q4: one of 16 codes of Q8 ----

// The best 16 with 127 among them for normally distributed elements, scaled so that the greatest of 32 is 127 (Lloyd's algorithm on
// 12,000 such groups): off by 8.1 % of their size in the root mean square, equal steps by 8.7 %. Indices 8 to 15 are negative.
static const int8_t qi__kv_codes_q4[16] = {6, 20, 33, 47, 63, 80, 101, 127, -6, -20, -33, -47, -63, -80, -101, -127};

// Index of the code next to c, -127..127.
QI__FN uint8_t qi__kv_index_q4(int8_t c) {
  int a = c < 0 ? -c : c, i = 0;
  while (i < 7 && 2 * a > qi__kv_codes_q4[i] + qi__kv_codes_q4[i + 1]) i++;
  return (uint8_t)(c < 0 ? i + 8 : i);
}

// Codes of Q8 from those of Q4. Of each `step` bytes the lower halves are as many codes, the upper ones those after them. Steps are
// such that a byte holds codes of one position alone, as threads store positions at the same time.
#define QI__KV_KEY_STEP 64
#define QI__KV_VALUE_STEP 32
QI__FN void qi__kv_unpack_q4_ref(const uint8_t *src, size_t n_bytes, size_t step, int8_t *dst) {
  for (size_t i = 0; i < n_bytes; i++) {
    size_t at = i / step * 2 * step + i % step;
    dst[at] = qi__kv_codes_q4[src[i] & 15];
    dst[at + step] = qi__kv_codes_q4[src[i] >> 4];
  }
}

// ---- Q8: one position ----

// Where the codes of element 32 g + i of position p are, i a multiple of 4 for keys; and their scale.
QI__INLINE size_t qi__kv_key_at(const qi__kv_layout *l, size_t p, size_t g, size_t i) {
  return ((p / 16 * l->groups_k + g) * 8 + i / 4) * 64 + p % 16 * 4 + i % 4;
}
QI__INLINE size_t qi__kv_key_scale_at(const qi__kv_layout *l, size_t p, size_t g) {
  return (p / 16 * l->groups_k + g) * 16 + p % 16;
}
QI__INLINE size_t qi__kv_value_at(size_t p, size_t g, size_t i) { return (g * (QI__KV_PAGE / 2) + p / 2) * 64 + i * 2 + p % 2; }
QI__INLINE size_t qi__kv_value_scale_at(size_t p, size_t g) { return g * QI__KV_PAGE + p; }

// Code number `at`, in the order of Q8, of either type; `step` for keys or for values.
QI__INLINE int8_t qi__kv_code(qi_kv_type type, const uint8_t *codes, size_t at, size_t step) {
  if (type == QI_KV_Q8) return (int8_t)codes[at];
  uint8_t pair = codes[at / (2 * step) * step + at % step];
  return qi__kv_codes_q4[at / step % 2 ? pair >> 4 : pair & 15];
}
QI__INLINE void qi__kv_set_code(qi_kv_type type, uint8_t *codes, size_t at, size_t step, int8_t code) {
  if (type == QI_KV_Q8) {
    codes[at] = (uint8_t)code;
    return;
  }
  uint8_t *pair = &codes[at / (2 * step) * step + at % step], index = qi__kv_index_q4(code);
  *pair = (uint8_t)(at / step % 2 ? (*pair & 0x0f) | index << 4 : (*pair & 0xf0) | index);
}

// Keys, and values, of a page's first n positions from Q8 to float32: k [n / 16, rounded up][dim_k][16], v [n][dim_v].
QI__FN void qi__kv_key_floats_ref(const qi__kv_layout *l, const int8_t *codes, const uint16_t *scale, size_t n, float *k) {
  for (size_t p = 0; p < (n + 15) / 16 * 16; p++)
    for (size_t i = 0; i < l->dim_k; i++)
      k[(p / 16 * l->dim_k + i) * 16 + p % 16] =
          qi__f16_to_f32(scale[qi__kv_key_scale_at(l, p, i / 32)]) * codes[qi__kv_key_at(l, p, i / 32, i % 32)];
}
QI__FN void qi__kv_value_floats_ref(const qi__kv_layout *l, const int8_t *codes, const uint16_t *scale, size_t n, float *v) {
  for (size_t p = 0; p < n; p++)
    for (size_t i = 0; i < l->dim_v; i++)
      v[p * l->dim_v + i] = qi__f16_to_f32(scale[qi__kv_value_scale_at(p, i / 32)]) * codes[qi__kv_value_at(p, i / 32, i % 32)];
}

#if defined(QI__X86_64)

QI__FN QI__AVX2 void qi__fp8_floats_avx2(const uint8_t *src, size_t n, float *dst) {
  const __m128i sign = _mm_set1_epi16((short)0x8000), rest = _mm_set1_epi16(0x3f80);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m128i c = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)(src + i)));
    __m128i h = _mm_or_si128(_mm_and_si128(_mm_slli_epi16(c, 8), sign), _mm_and_si128(_mm_slli_epi16(c, 7), rest));
    _mm256_storeu_ps(dst + i, _mm256_mul_ps(_mm256_cvtph_ps(h), _mm256_set1_ps(256.0f)));
  }
  qi__fp8_floats_ref(src + i, n - i, dst + i);
}

QI__FN QI__AVX2 void qi__kv_unpack_q4_avx2(const uint8_t *src, size_t n_bytes, size_t step, int8_t *dst) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)qi__kv_codes_q4));
  const __m256i low = _mm256_set1_epi8(15);
  for (size_t i = 0; i < n_bytes; i += 32) {
    __m256i pair = _mm256_loadu_si256((const __m256i *)(const void *)(src + i));
    int8_t *to = dst + i / step * 2 * step + i % step;
    __m256i a = _mm256_and_si256(pair, low), b = _mm256_and_si256(_mm256_srli_epi16(pair, 4), low);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_shuffle_epi8(table, a));
    _mm256_storeu_si256((__m256i *)(void *)(to + step), _mm256_shuffle_epi8(table, b));
  }
}

QI__FN QI__AVX512 void qi__kv_key_floats_avx512(const qi__kv_layout *l, const int8_t *codes, const uint16_t *scale, size_t n,
                                                float *k) {
  for (size_t j = 0; j < (n + 15) / 16; j++, k += 16 * l->dim_k)
    for (size_t g = 0; g < l->groups_k; g++, codes += 512, scale += 16) {
      const __m512 scales = qi__load_kv_avx512(scale, 0, QI_KV_F16);
      for (size_t i = 32 * g; i < qi__min_size(32 * g + 32, l->dim_k); i++) {
        __m512i four = _mm512_loadu_si512((const void *)(codes + i % 32 / 4 * 64));
        four = _mm512_srai_epi32(_mm512_sll_epi32(four, _mm_cvtsi32_si128((int)(24 - 8 * (i % 4)))), 24);
        _mm512_storeu_ps(k + 16 * i, _mm512_mul_ps(_mm512_cvtepi32_ps(four), scales));
      }
    }
}

QI__FN QI__AVX512 void qi__kv_value_floats_avx512(const qi__kv_layout *l, const int8_t *codes, const uint16_t *scale, size_t n,
                                                  float *v) {
  for (size_t i = 0; i < l->dim_v; i += 16) {
    const __mmask16 mask = qi__tail_mask_avx512(l->dim_v - i);
    const uint16_t *scales = scale + i / 32 * QI__KV_PAGE;
    for (size_t p = 0; p < n; p++) {
      const int8_t *pair = codes + qi__kv_value_at(p / 2 * 2, i / 32, i % 32);
      __m512i two = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)pair));
      if (p % 2 == 0) two = _mm512_slli_epi32(two, 16);
      __m512 x = _mm512_cvtepi32_ps(_mm512_srai_epi32(two, 16));
      _mm512_mask_storeu_ps(v + p * l->dim_v + i, mask, _mm512_mul_ps(x, _mm512_set1_ps(qi__f16_to_f32(scales[p]))));
    }
  }
}
#endif

#if defined(QI__ARM64)

QI__FN void qi__fp8_floats_neon(const uint8_t *src, size_t n, float *dst) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint16x8_t c = vmovl_u8(vld1_u8(src + i));
    uint16x8_t h = vorrq_u16(vandq_u16(vshlq_n_u16(c, 8), vdupq_n_u16(0x8000)), vandq_u16(vshlq_n_u16(c, 7), vdupq_n_u16(0x3f80)));
    vst1q_f32(dst + i, vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h))), 256.0f));
    vst1q_f32(dst + i + 4, vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(h))), 256.0f));
  }
  qi__fp8_floats_ref(src + i, n - i, dst + i);
}

QI__FN void qi__kv_unpack_q4_neon(const uint8_t *src, size_t n_bytes, size_t step, int8_t *dst) {
  const int8x16_t table = vld1q_s8(qi__kv_codes_q4);
  for (size_t i = 0; i < n_bytes; i += 16) {
    uint8x16_t pair = vld1q_u8(src + i);
    int8_t *to = dst + i / step * 2 * step + i % step;
    vst1q_s8(to, vqtbl1q_s8(table, vandq_u8(pair, vdupq_n_u8(15))));
    vst1q_s8(to + step, vqtbl1q_s8(table, vshrq_n_u8(pair, 4)));
  }
}
#endif

#endif // QI__KERNELS_KV_PAGE_H
