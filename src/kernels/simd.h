// ==== >>simd : what the SIMD variants of all kernels share ====
#ifndef QI__KERNELS_SIMD_H
#define QI__KERNELS_SIMD_H

#include "../base/cpu.h"

#if defined(QI__X86_64)
#include <immintrin.h>
#elif defined(QI__ARM64)
#include <arm_neon.h>
#endif

// The instruction sets of the levels in base/cpu.h. What an old compiler does not know is left out of the table.
#if defined(QI__X86_64)
#define QI__AVX2 QI__TARGET("avx2,fma,f16c")
#define QI__AVX512 QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
#if defined(__clang__) || __GNUC__ >= 10
#define QI__HAS_AVX512_BF16 1
#define QI__AVX512_BF16 QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define QI__HAS_AMX 1
#define QI__AMX QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16")
#endif
#endif

// A sum in eight float32 lanes has the same bits in a 256-bit register, in half of a 512-bit one and in two of 128. Elements that
// do not fill a register are taken by the reference, or by scalar code that goes on with the stored lanes.

// Asks for the cache line of an address, which need not be sound. Into the second level: more lines can be on their way to it than
// to the first, which is full soon besides (Zen 4, one thread, attention over 8000 positions in float32: 22 GB/s instead of 14).
QI__INLINE void qi__prefetch(const void *p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#else
  (void)p;
#endif
}

// Into the first level.
QI__INLINE void qi__prefetch_near(const void *p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 3);
#else
  (void)p;
#endif
}

// How what reads weights once asks for the lines that it will need. What processors fetch of their own accord ends with a page, and
// is late for kernels that have to wait for it.
typedef enum qi__fetch {
  QI__FETCH_LINES, // line after line, far ahead, and again nearer: a processor that has no room for one more line forgets it
  QI__FETCH_PAGES, // of the pages of the next window in turns
} qi__fetch;

// LINES, GB/s of two threads of Zen 4, which can read 70, if lines are asked for never, once, twice: Q4_K with 2048 columns 38, 58,
// 62, Q8_0 with 14336 31, 55, 66.
#define QI__FETCH_AHEAD 12288
#define QI__FETCH_AGAIN 7168

// PAGES: a core of Intel has 16 lines on their way at most, but in a page where lines are asked for in order it runs ahead, with
// room for more. Eight pages at once (Sapphire Rapids, GB/s of one thread, of two: 16.7, 28.6; line after line 10.8, 19.6).
#define QI__FETCH_PAGE 4096
#define QI__FETCH_WINDOW (8 * QI__FETCH_PAGE)

// Group g of eight lines, counted from address 0, stands for one line of each page of a window, QI__FETCH_PAGE apart: where the
// first one is. All groups of a window are all its lines.
QI__INLINE uintptr_t qi__fetch_group(uintptr_t g) {
  const uintptr_t lines = QI__FETCH_PAGE / QI__CACHE_LINE;
  return g / lines * QI__FETCH_WINDOW + g % lines * QI__CACHE_LINE;
}

// Where less memory than a window is read in order: line by line of four pages in turns. Offsets from where it begins; all lines of
// QI__FETCH_TURN bytes give all of them.
#define QI__FETCH_TURN (4 * QI__FETCH_PAGE)
QI__INLINE size_t qi__fetch_turn(size_t offset) {
  const size_t line = offset % QI__FETCH_TURN / QI__CACHE_LINE;
  return offset / QI__FETCH_TURN * QI__FETCH_TURN + line % 4 * QI__FETCH_PAGE + line / 4 * QI__CACHE_LINE;
}

// PAGES: as much of the next window as n bytes at `now`.
QI__INLINE void qi__prefetch_pages(uintptr_t now, size_t n) {
  const size_t group = 8 * QI__CACHE_LINE, ahead = QI__FETCH_WINDOW / group;
  for (uintptr_t g = now / group; g < (now + n) / group; g++) {
    uintptr_t p = qi__fetch_group(g + ahead);
    QI__UNROLL for (uintptr_t page = 0; page < QI__FETCH_WINDOW; page += QI__FETCH_PAGE) qi__prefetch((const void *)(p + page));
  }
}

// And from there to the first level, shortly before they are read (Emerald Rapids, two threads, Q8_0: 87 to 89 % of what can be
// read, without it 82 to 84).
#define QI__FETCH_NEAR 2048

// While n bytes at `now` are read, which need not be sound, of memory that is read in order.
QI__INLINE void qi__prefetch_ahead(qi__fetch fetch, uintptr_t now, size_t n) {
  if (fetch == QI__FETCH_PAGES) qi__prefetch_pages(now, n);
  for (uintptr_t p = now; p < now + n; p += QI__CACHE_LINE) {
    if (fetch == QI__FETCH_PAGES) {
      qi__prefetch_near((const void *)(p + QI__FETCH_NEAR));
    } else {
      qi__prefetch((const void *)(p + QI__FETCH_AHEAD));
      qi__prefetch((const void *)(p + QI__FETCH_AGAIN));
    }
  }
}

// The same while block b of small blocks is read, which are n bytes each: in PAGES those of four blocks come together (Emerald
// Rapids, TQ2_0 out of the second level, 6912 columns, GB/s of one thread: block by block 23, in fours 33, in eights 31).
QI__INLINE void qi__prefetch_block(qi__fetch fetch, uintptr_t now, size_t b, size_t n) {
  if (fetch != QI__FETCH_PAGES) qi__prefetch_ahead(QI__FETCH_LINES, now, n);
  else if (b % 4 == 0) qi__prefetch_ahead(QI__FETCH_PAGES, now, 4 * n);
}

// Rows of memory that are fetched, some lines at a time, while a product computes.
typedef struct qi__lines {
  uintptr_t row;
  size_t stride, row_bytes, n_rows;
  size_t at;   // in the row
  size_t each; // lines at a time
} qi__lines;

// Lines to be fetched in each of n_steps.
QI__INLINE size_t qi__lines_each(const qi__lines *l, size_t n_steps) {
  return (l->n_rows * (l->row_bytes / QI__CACHE_LINE + 1) + n_steps - 1) / n_steps;
}

QI__FN void qi__lines_fetch(qi__lines *l) {
  for (size_t n = l->each; n && l->n_rows; n--) {
    qi__prefetch((const void *)(l->row + l->at));
    l->at += QI__CACHE_LINE;
    if (l->at < l->row_bytes) continue;
    l->at = 0;
    l->row += l->stride;
    l->n_rows--;
  }
}

#if defined(QI__X86_64)

QI__INLINE QI__AVX2 __m256i qi__bytes_avx2(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
QI__INLINE QI__AVX2 void qi__store_bytes_avx2(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

// `value` where bit i of `bits` is set, for byte i.
QI__INLINE QI__AVX2 __m256i qi__spread_bits_avx2(uint32_t bits, int value) {
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
  __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte), bit);
  return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8((char)value));
}

// qi__sum_lanes of a register.
QI__INLINE QI__AVX2 float qi__sum_lanes_avx2(__m256 v) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); // 0+4 1+5 2+6 3+7
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}

// Elements i.. of type F32, F16 or BF16 as float32: a register of them. `type` is a constant where this is inlined.
QI__INLINE QI__AVX2 __m256 qi__load_kv_avx2(const void *p, size_t i, qi_kv_type type) {
  if (type == QI_KV_F32) return _mm256_loadu_ps((const float *)p + i);
  __m128i x = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)p + i));
  if (type == QI_KV_F16) return _mm256_cvtph_ps(x);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

QI__INLINE QI__AVX512 __m512 qi__load_kv_avx512(const void *p, size_t i, qi_kv_type type) {
  if (type == QI_KV_F32) return _mm512_loadu_ps((const float *)p + i);
  __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)((const uint16_t *)p + i));
  if (type == QI_KV_F16) return _mm512_cvtph_ps(x);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// qi__sum_lanes of four registers.
QI__INLINE QI__AVX2 __m128 qi__sum_lanes4_avx2(__m256 a, __m256 b, __m256 c, __m256 d) {
  __m128 p = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); // 0+4 1+5 2+6 3+7
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  __m128 r = _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
  p = _mm_add_ps(_mm_movelh_ps(p, q), _mm_movehl_ps(q, p)); // of a and b: (0+4)+(2+6) (1+5)+(3+7)
  r = _mm_add_ps(_mm_movelh_ps(r, s), _mm_movehl_ps(s, r));
  return _mm_add_ps(_mm_shuffle_ps(p, r, 0x88), _mm_shuffle_ps(p, r, 0xdd));
}

// Ones in the first n lanes; n may be more than 16.
QI__INLINE QI__AVX512 __mmask16 qi__tail_mask_avx512(size_t n) { return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1); }

// Dword c of row r of src to dword r of row c of dst, 8 x 8.
QI__INLINE QI__AVX2 void qi__transpose8_avx2(const uint8_t *src, size_t src_stride, uint8_t *dst, size_t dst_stride) {
  __m256i a[8], b[8];
  QI__UNROLL for (size_t r = 0; r < 8; r++) a[r] = qi__bytes_avx2(src + r * src_stride);
  QI__UNROLL for (int r = 0; r < 8; r += 2) {
    b[r] = _mm256_unpacklo_epi32(a[r], a[r + 1]);
    b[r + 1] = _mm256_unpackhi_epi32(a[r], a[r + 1]);
  }
  // a[4 i + c], half l: dword 4 l + c of rows 4 i .. 4 i + 3
  QI__UNROLL for (int r = 0; r < 8; r += 4) {
    a[r] = _mm256_unpacklo_epi64(b[r], b[r + 2]);
    a[r + 1] = _mm256_unpackhi_epi64(b[r], b[r + 2]);
    a[r + 2] = _mm256_unpacklo_epi64(b[r + 1], b[r + 3]);
    a[r + 3] = _mm256_unpackhi_epi64(b[r + 1], b[r + 3]);
  }
  QI__UNROLL for (size_t c = 0; c < 4; c++) {
    qi__store_bytes_avx2(dst + c * dst_stride, _mm256_permute2x128_si256(a[c], a[4 + c], 0x20));
    qi__store_bytes_avx2(dst + (c + 4) * dst_stride, _mm256_permute2x128_si256(a[c], a[4 + c], 0x31));
  }
}

// Transposes 16 rows of 16 32-bit values.
QI__INLINE QI__AVX512 void qi__transpose16_avx512(__m512i *a) {
  __m512i b[16];
  QI__UNROLL for (int r = 0; r < 16; r += 2) {
    b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
  }
  // a[4i + c], 128-bit lane l: value 4l + c of rows 4i .. 4i + 3
  QI__UNROLL for (int r = 0; r < 16; r += 4) {
    a[r] = _mm512_unpacklo_epi64(b[r], b[r + 2]);
    a[r + 1] = _mm512_unpackhi_epi64(b[r], b[r + 2]);
    a[r + 2] = _mm512_unpacklo_epi64(b[r + 1], b[r + 3]);
    a[r + 3] = _mm512_unpackhi_epi64(b[r + 1], b[r + 3]);
  }
  QI__UNROLL for (int c = 0; c < 4; c++) {
    __m512i even0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), even1 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
    __m512i odd0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd), odd1 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
    a[c] = _mm512_shuffle_i32x4(even0, even1, 0x88);
    a[c + 4] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
    a[c + 8] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
    a[c + 12] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
  }
}
#endif

#if defined(QI__ARM64)

QI__INLINE float32x4_t qi__load_kv_neon(const void *p, size_t i, qi_kv_type type) {
  if (type == QI_KV_F32) return vld1q_f32((const float *)p + i);
  uint16x4_t x = vld1_u16((const uint16_t *)p + i);
  if (type == QI_KV_F16) return vcvt_f32_f16(vreinterpret_f16_u16(x));
  return vreinterpretq_f32_u32(vshll_n_u16(x, 16));
}
#endif

#endif // QI__KERNELS_SIMD_H
