// ==== >>row_ternary_avx512 : one row of activations with ternary rows of one scale, 512 bits ====
#ifndef QI__KERNELS_ROW_TERNARY_AVX512_H
#define QI__KERNELS_ROW_TERNARY_AVX512_H

#include "dot_ternary.h"
#include "row_k_avx512.h"

#if defined(QI__X86_64)

// The products of dot_ternary.h for weight rows whose blocks all have the same scale: those of real ternary models. Scales are
// compared on the way; where they differ the sums are thrown away.
//
// A register gets the bytes of a block. Those of TQ2_0 and I2_S hold four codes in pairs of bits, which are multiplied where they
// stand, 1, 4, 16 or 64 times too large. Those of TQ1_0 are fractions of five digits: a digit is (3 f - next f) / 256 of fractions
// that follow each other. Such sums are divided at the end, exactly. Activations are brought, once for all weight rows, into the
// order of the codes: [block][place in a byte][64]. As in dot_ternary_x86.h a code is u = code + 1, and the sum of the activations
// is taken off again.

// GCC 12 copies a sum of VNNI twice at each step while its type is that of the intrinsics, a vector of 64-bit integers.
typedef int qi__i32x8 __attribute__((vector_size(32)));
typedef int qi__i32x16 __attribute__((vector_size(64)));

// Codes in a byte.
QI__INLINE int qi__ternary_places(qi_format id) { return id == QI_FORMAT_TQ1_0 ? 5 : 4; }

// ---- activations in order ----

// Of one block, to out[place][64].
QI__INLINE QI__AVX512_VNNI void qi__ternary_order_block_avx512(qi_format id, const int8_t *q, int8_t *out) {
  const int places = qi__ternary_places(id);
  QI__UNROLL for (int e = 0; e < places; e++, out += 64) {
    if (id == QI_FORMAT_TQ1_0) { // 32 bytes, 16 bytes, 4 bytes of four codes; nothing belongs to the rest of the register
      memset(out + 48, 0, 16);
      memcpy(out, q + 32 * e, 32);
      memcpy(out + 32, q + 160 + 16 * e, 16);
      if (e < 4) memcpy(out + 48, q + 240 + 4 * e, 4);
    } else { // I2_S has its order in a byte the other way round
      const uint8_t *x = (const uint8_t *)q + 32 * (id == QI_FORMAT_TQ2_0 ? e : 3 - e);
      qi__store_bytes_avx2(out, qi__bytes_avx2(x));
      qi__store_bytes_avx2(out + 32, qi__bytes_avx2(x + 128));
    }
  }
}

// Returns the sum of the activations.
QI__INLINE QI__AVX512_VNNI int32_t qi__ternary_order_avx512(qi_format id, const qi__q8 *x, size_t row, int8_t *out) {
  const int8_t *q = x->q + row * x->stride;
  const int16_t *sum = x->sum + row * (x->k / 16);
  qi__i32x16 total = {0};
  for (size_t b = 0; b < x->k / 256; b++, q += 256, sum += 16, out += 64 * qi__ternary_places(id)) {
    total += (qi__i32x16)_mm512_cvtepi16_epi32(qi__bytes_avx2((const uint8_t *)sum));
    qi__ternary_order_block_avx512(id, q, out);
  }
  return _mm512_reduce_add_epi32((__m512i)total);
}

// ---- codes ----

#define QI__TERNARY_SUMS 4 // of a row, apart

// Adds the products of a block v of codes with activations in order. TQ2_0, I2_S: sum e is 4^e times too large. TQ1_0: sums 0 and 1
// of fractions, 2 and 3 of those that follow them.
QI__INLINE QI__AVX512_VNNI void qi__ternary_block_avx512(qi_format id, __m512i v, const __m512i *x, qi__i32x16 *total) {
  if (id == QI_FORMAT_TQ1_0) {
    QI__UNROLL for (int e = 0; e < 5; e++) {
      total[e % 2] = (qi__i32x16)_mm512_dpbusd_epi32((__m512i)total[e % 2], v, x[e]);
      v = _mm512_add_epi8(_mm512_add_epi8(v, v), v);
      total[2 + e % 2] = (qi__i32x16)_mm512_dpbusd_epi32((__m512i)total[2 + e % 2], v, x[e]);
    }
  } else {
    QI__UNROLL for (int e = 0; e < 4; e++) {
      __m512i u = _mm512_and_si512(v, _mm512_set1_epi32((int)(0x03030303u << 2 * e)));
      total[e] = (qi__i32x16)_mm512_dpbusd_epi32((__m512i)total[e], u, x[e]);
    }
  }
}

// What they add up to.
QI__INLINE QI__AVX512_VNNI __m512i qi__ternary_join_avx512(qi_format id, const qi__i32x16 *total) {
  if (id == QI_FORMAT_TQ1_0) return (__m512i)((3 * (total[0] + total[1]) - (total[2] + total[3])) >> 8);
  return (__m512i)((total[0] + (total[1] >> 2)) + ((total[2] >> 4) + (total[3] >> 6)));
}

// ---- weight rows ----

// Where the scale is in a block; I2_S has none.
QI__INLINE size_t qi__ternary_d_at(qi_format id) { return id == QI_FORMAT_TQ1_0 ? 52 : 64; }

// Sums of two weight rows, `stride` bytes apart, over all their blocks, in 16 lanes each; x: in order. Returns 0 if each row has
// one scale. The rows follow each other, so what is fetched ahead (see qi__fetch_far_avx2) are addresses in order.
QI__INLINE QI__AVX512_VNNI unsigned qi__ternary_two_rows_avx512(qi_format id, qi__fetch fetch, const uint8_t *w, size_t stride,
                                                                const int8_t *x, size_t n_blocks, __m512i *lanes) {
  const size_t size = (size_t)qi__formats[id].info.block_bytes, d_at = qi__ternary_d_at(id);
  const bool scaled = id != QI_FORMAT_I2_S;
  const int places = qi__ternary_places(id);
  const unsigned scale[2] = {scaled ? qi__load_u16(w + d_at) : 0u, scaled ? qi__load_u16(w + stride + d_at) : 0u};
  qi__i32x16 total[2][QI__TERNARY_SUMS];
  unsigned differs = 0;
  uintptr_t now = (uintptr_t)w; // how much of both rows together has been read
  QI__UNROLL for (int e = 0; e < QI__TERNARY_SUMS; e++) total[0][e] = total[1][e] = (qi__i32x16)_mm512_setzero_si512();
  for (size_t b = 0; b < n_blocks; b++, w += size, x += 64 * places, now += 2 * size) {
    __asm__ volatile("");
    qi__prefetch_block(fetch, now, b, 2 * size);
    __m512i xe[5];
    QI__UNROLL for (int e = 0; e < places; e++) {
      xe[e] = _mm512_loadu_si512((const void *)(x + 64 * e));
      __asm__("" : "+v"(xe[e])); // GCC would load it again for the second row, and loads are what there is too much of
    }
    QI__UNROLL for (int r = 0; r < 2; r++) {
      const uint8_t *row = w + (size_t)r * stride;
      if (scaled) differs |= scale[r] ^ qi__load_u16(row + d_at);
      if (size < 64) qi__ternary_block_avx512(id, _mm512_maskz_loadu_epi8(((__mmask64)1 << d_at) - 1, row), xe, total[r]);
      else qi__ternary_block_avx512(id, _mm512_loadu_si512((const void *)row), xe, total[r]);
    }
  }
  QI__UNROLL for (int r = 0; r < 2; r++) lanes[r] = qi__ternary_join_avx512(id, total[r]);
  return differs;
}

// Results of eight weight rows at w, of which n are there; false if a row has more than one scale.
QI__INLINE QI__AVX512_VNNI bool qi__ternary_eight_rows_avx512(qi_format id, const qi__dot_q8_args *a, const uint8_t *w, size_t n,
                                                              const int8_t *x, int32_t x_sum, float *y) {
  const size_t n_blocks = a->x->k / 256;
  __m512i lanes[8];
  __m256 d = _mm256_set1_ps(a->format->param[0]);
  unsigned differs = 0;
  if (n_blocks > 1 && qi__ternary_scale_changes(a->format, w, 0)) return false; // then most will, and nothing was done in vain
  QI__UNROLL for (size_t r = 0; r < 8; r += 2) {
    size_t first = qi__min_size(r, n - 1), stride = first + 1 < n ? a->w_stride : 0; // beyond the last row the last again
    differs |= qi__ternary_two_rows_avx512(id, a->fetch, w + first * a->w_stride, stride, x, n_blocks, &lanes[r]);
  }
  if (id != QI_FORMAT_I2_S) {
    uint16_t halves[8];
    for (size_t r = 0; r < 8; r++) halves[r] = qi__load_u16(w + qi__min_size(r, n - 1) * a->w_stride + qi__ternary_d_at(id));
    d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)halves));
  }
  __m256i total = _mm256_sub_epi32(qi__fold8_avx512(lanes), _mm256_set1_epi32(x_sum));
  d = _mm256_mul_ps(d, _mm256_set1_ps(a->x->d[a->x_row]));
  d = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(total), _mm256_setzero_ps());
  _mm256_mask_storeu_ps(y, (__mmask8)((1u << n) - 1), d);
  return !differs;
}

// All weight rows with activation row a->x_row; where scales differ, or the activations do not fit, `other` takes them.
QI__INLINE QI__AVX512_VNNI void qi__ternary_even_rows_avx512(qi_format id, const qi__dot_q8_args *a, qi__dot_q8_fn other) {
  int8_t *x = (int8_t *)a->scratch;
  size_t n_blocks = a->x->k / 256, room = qi__q8_scratch(0) * sizeof(float);
  bool fits = n_blocks <= QI__TERNARY_RUN && n_blocks * 64 * (size_t)qi__ternary_places(id) <= room;
  int32_t x_sum = fits ? qi__ternary_order_avx512(id, a->x, a->x_row, x) : 0;
  for (size_t r = 0; r < a->n_w; r += 8) {
    qi__dot_q8_args rows = *a;
    rows.w = a->w + r * a->w_stride;
    rows.n_w = qi__min_size(8, a->n_w - r);
    rows.n_x = 1;
    rows.y = a->y + r;
    if (!fits || !qi__ternary_eight_rows_avx512(id, a, rows.w, rows.n_w, x, x_sum, rows.y)) other(&rows);
  }
}

QI__FN QI__AVX512_VNNI void qi__ternary_even_avx512(const qi__dot_q8_args *a, qi__dot_q8_fn other) {
  switch (a->format->id) {
  case QI_FORMAT_TQ1_0: qi__ternary_even_rows_avx512(QI_FORMAT_TQ1_0, a, other); break;
  case QI_FORMAT_TQ2_0: qi__ternary_even_rows_avx512(QI_FORMAT_TQ2_0, a, other); break;
  default: qi__ternary_even_rows_avx512(QI_FORMAT_I2_S, a, other); break;
  }
}
#endif

#endif // QI__KERNELS_ROW_TERNARY_AVX512_H
