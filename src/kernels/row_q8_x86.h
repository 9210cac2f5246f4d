// ==== >>row_q8_x86 : a few rows of activations, by format ====
#ifndef QI__KERNELS_ROW_Q8_X86_H
#define QI__KERNELS_ROW_Q8_X86_H

#include "dot_q8_x86.h"
#include "row_k_avx2.h"
#include "row_k_avx512.h"
#include "row_q4_avx512.h"
#include "row_qins_avx2.h"

#if defined(QI__X86_64)

QI__INLINE QI__AVX2 void qi__dot_k_avx2(qi_format id, int n, const qi__dot_q8_args *a) {
  qi__dot_rows_k_avx2(id, qi__words_avx2, n, a);
}
#if defined(QI__HAS_AVX_VNNI)
QI__INLINE QI__AVX_VNNI void qi__dot_k_avx_vnni(qi_format id, int n, const qi__dot_q8_args *a) {
  qi__dot_rows_k_avx2(id, qi__words_avx_vnni, n, a);
}
#endif

// One function a format, and the choice between them. They take the first rows of activations, and return how many: always 1, or,
// of formats that most models have, 1, 2 or 4. `any` is for formats with blocks of 256 that have no case above.
#define QI__DOT_N(isa, vnni, ID, n) qi__dot_rows_avx2(ID, vnni, qi__words_##isa, qi__step_bytes_##isa, n, a)
#define QI__DOT_ONE(isa, target, name, one) \
  QI__FN target size_t qi__dot_rows_##name##_##isa(const qi__dot_q8_args *a) { \
    one; \
    return 1; \
  }
#define QI__DOT_FEW(isa, target, name, four, two, one) \
  QI__FN target size_t qi__dot_rows_##name##_##isa(const qi__dot_q8_args *a) { \
    if (a->n_x >= 4) { \
      four; \
      return 4; \
    } \
    if (a->n_x >= 2) { \
      two; \
      return 2; \
    } \
    one; \
    return 1; \
  }
#define QI__DOT_32(isa, target, vnni, name, ID, one) \
  QI__DOT_FEW(isa, target, name, QI__DOT_N(isa, vnni, ID, 4), QI__DOT_N(isa, vnni, ID, 2), one)
#define QI__DOT_K(isa, target, name, ID) \
  QI__DOT_FEW(isa, target, name, qi__dot_k_##isa(ID, 4, a), qi__dot_k_##isa(ID, 2, a), qi__dot_k_##isa(ID, 1, a))
#define QI__DOT_OWN(isa, target, vnni) \
  QI__DOT_32(isa, target, vnni, q4_0, QI_FORMAT_Q4_0, QI__DOT_N(isa, vnni, QI_FORMAT_Q4_0, 1)) \
  QI__DOT_ONE(isa, target, iq4_nl, QI__DOT_N(isa, vnni, QI_FORMAT_IQ4_NL, 1)) \
  QI__DOT_K(isa, target, q4_k, QI_FORMAT_Q4_K) \
  QI__DOT_K(isa, target, q5_k, QI_FORMAT_Q5_K) \
  QI__DOT_K(isa, target, q6_k, QI_FORMAT_Q6_K)
#define QI__DOT_ROW(isa, target, vnni) \
  QI__DOT_ONE(isa, target, q4_1, QI__DOT_N(isa, vnni, QI_FORMAT_Q4_1, 1)) \
  QI__DOT_ONE(isa, target, q5_0, QI__DOT_N(isa, vnni, QI_FORMAT_Q5_0, 1)) \
  QI__DOT_ONE(isa, target, q5_1, QI__DOT_N(isa, vnni, QI_FORMAT_Q5_1, 1)) \
  QI__DOT_32(isa, target, vnni, q8_0, QI_FORMAT_Q8_0, QI__DOT_N(isa, vnni, QI_FORMAT_Q8_0, 1)) \
  QI__DOT_ONE(isa, target, q2_k, QI__DOT_N(isa, vnni, QI_FORMAT_Q2_K, 1)) \
  QI__DOT_ONE(isa, target, q3_k, QI__DOT_N(isa, vnni, QI_FORMAT_Q3_K, 1)) \
  QI__DOT_ONE(isa, target, iq4_xs, QI__DOT_N(isa, vnni, QI_FORMAT_IQ4_XS, 1)) \
  QI__DOT_ONE(isa, target, mxfp4, QI__DOT_N(isa, vnni, QI_FORMAT_MXFP4, 1)) \
  QI__DOT_ONE(isa, target, qins4_k, qi__dot_row_qins4_k(qi__step_bytes_##isa, a)) \
  QI__DOT_ONE(isa, target, any, QI__DOT_N(isa, vnni, QI_FORMAT_NONE, 1)) \
  QI__FN size_t qi__dot_row_##isa(const qi__dot_q8_args *a) { \
    switch (a->format->id) { \
    case QI_FORMAT_Q4_0: return qi__dot_rows_q4_0_##isa(a); \
    case QI_FORMAT_Q4_1: return qi__dot_rows_q4_1_##isa(a); \
    case QI_FORMAT_Q5_0: return qi__dot_rows_q5_0_##isa(a); \
    case QI_FORMAT_Q5_1: return qi__dot_rows_q5_1_##isa(a); \
    case QI_FORMAT_Q8_0: return qi__dot_rows_q8_0_##isa(a); \
    case QI_FORMAT_Q2_K: return qi__dot_rows_q2_k_##isa(a); \
    case QI_FORMAT_Q3_K: return qi__dot_rows_q3_k_##isa(a); \
    case QI_FORMAT_Q4_K: return qi__dot_rows_q4_k_##isa(a); \
    case QI_FORMAT_Q5_K: return qi__dot_rows_q5_k_##isa(a); \
    case QI_FORMAT_Q6_K: return qi__dot_rows_q6_k_##isa(a); \
    case QI_FORMAT_IQ4_NL: return qi__dot_rows_iq4_nl_##isa(a); \
    case QI_FORMAT_IQ4_XS: return qi__dot_rows_iq4_xs_##isa(a); \
    case QI_FORMAT_MXFP4: return qi__dot_rows_mxfp4_##isa(a); \
    case QI_FORMAT_QINS4_K: return qi__dot_rows_qins4_k_##isa(a); \
    default: return qi__dot_rows_any_##isa(a); \
    } \
  }

QI__DOT_OWN(avx2, QI__AVX2, false)
QI__DOT_ROW(avx2, QI__AVX2, false)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_OWN(avx_vnni, QI__AVX_VNNI, true)
QI__DOT_ROW(avx_vnni, QI__AVX_VNNI, true)
#endif
QI__DOT_32(avx512, QI__AVX512_VNNI, true, q4_0, QI_FORMAT_Q4_0, qi__dot_row_q4_0_avx512(a))
QI__DOT_ONE(avx512, QI__AVX512_VNNI, iq4_nl, qi__dot_row_iq4_nl_avx512(a))
QI__DOT_K(avx512, QI__AVX512_VNNI, q4_k, QI_FORMAT_Q4_K)
QI__DOT_K(avx512, QI__AVX512_VNNI, q5_k, QI_FORMAT_Q5_K)
QI__DOT_K(avx512, QI__AVX512_VNNI, q6_k, QI_FORMAT_Q6_K)
QI__DOT_ROW(avx512, QI__AVX512_VNNI, true)
#undef QI__DOT_ROW
#undef QI__DOT_OWN
#undef QI__DOT_K
#undef QI__DOT_32
#undef QI__DOT_FEW
#undef QI__DOT_ONE
#undef QI__DOT_N
#endif

#endif // QI__KERNELS_ROW_Q8_X86_H
