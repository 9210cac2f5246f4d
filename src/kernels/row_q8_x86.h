// ==== >>row_q8_x86 : one row of activations, by format ====
#ifndef QI__KERNELS_ROW_Q8_X86_H
#define QI__KERNELS_ROW_Q8_X86_H

#include "dot_q8_x86.h"
#include "row_k_avx512.h"

#if defined(QI__X86_64)

// One function a format, and the choice between them. `any` is for formats with blocks of 256 that have no case above.
#define QI__DOT_ROWS(isa, target, vnni, name, ID) \
  QI__FN target void qi__dot_rows_##name##_##isa(const qi__dot_q8_args *a) { \
    qi__dot_rows_avx2(ID, vnni, qi__words_##isa, qi__step_bytes_##isa, a); \
  }
#define QI__DOT_ROWS_K(isa, target, vnni) \
  QI__DOT_ROWS(isa, target, vnni, q4_k, QI_FORMAT_Q4_K) \
  QI__DOT_ROWS(isa, target, vnni, q5_k, QI_FORMAT_Q5_K) \
  QI__DOT_ROWS(isa, target, vnni, q6_k, QI_FORMAT_Q6_K)
#define QI__DOT_ROW(isa, target, vnni) \
  QI__DOT_ROWS(isa, target, vnni, q4_0, QI_FORMAT_Q4_0) \
  QI__DOT_ROWS(isa, target, vnni, q4_1, QI_FORMAT_Q4_1) \
  QI__DOT_ROWS(isa, target, vnni, q5_0, QI_FORMAT_Q5_0) \
  QI__DOT_ROWS(isa, target, vnni, q5_1, QI_FORMAT_Q5_1) \
  QI__DOT_ROWS(isa, target, vnni, q8_0, QI_FORMAT_Q8_0) \
  QI__DOT_ROWS(isa, target, vnni, q2_k, QI_FORMAT_Q2_K) \
  QI__DOT_ROWS(isa, target, vnni, q3_k, QI_FORMAT_Q3_K) \
  QI__DOT_ROWS(isa, target, vnni, iq4_nl, QI_FORMAT_IQ4_NL) \
  QI__DOT_ROWS(isa, target, vnni, iq4_xs, QI_FORMAT_IQ4_XS) \
  QI__DOT_ROWS(isa, target, vnni, mxfp4, QI_FORMAT_MXFP4) \
  QI__DOT_ROWS(isa, target, vnni, qins4_k, QI_FORMAT_QINS4_K) \
  QI__DOT_ROWS(isa, target, vnni, any, QI_FORMAT_NONE) \
  QI__FN void qi__dot_row_##isa(const qi__dot_q8_args *a) { \
    switch (qi__format_id(a->format)) { \
    case QI_FORMAT_Q4_0: qi__dot_rows_q4_0_##isa(a); break; \
    case QI_FORMAT_Q4_1: qi__dot_rows_q4_1_##isa(a); break; \
    case QI_FORMAT_Q5_0: qi__dot_rows_q5_0_##isa(a); break; \
    case QI_FORMAT_Q5_1: qi__dot_rows_q5_1_##isa(a); break; \
    case QI_FORMAT_Q8_0: qi__dot_rows_q8_0_##isa(a); break; \
    case QI_FORMAT_Q2_K: qi__dot_rows_q2_k_##isa(a); break; \
    case QI_FORMAT_Q3_K: qi__dot_rows_q3_k_##isa(a); break; \
    case QI_FORMAT_Q4_K: qi__dot_rows_q4_k_##isa(a); break; \
    case QI_FORMAT_Q5_K: qi__dot_rows_q5_k_##isa(a); break; \
    case QI_FORMAT_Q6_K: qi__dot_rows_q6_k_##isa(a); break; \
    case QI_FORMAT_IQ4_NL: qi__dot_rows_iq4_nl_##isa(a); break; \
    case QI_FORMAT_IQ4_XS: qi__dot_rows_iq4_xs_##isa(a); break; \
    case QI_FORMAT_MXFP4: qi__dot_rows_mxfp4_##isa(a); break; \
    case QI_FORMAT_QINS4_K: qi__dot_rows_qins4_k_##isa(a); break; \
    default: qi__dot_rows_any_##isa(a); break; \
    } \
  }

QI__DOT_ROWS_K(avx2, QI__AVX2, false)
QI__DOT_ROW(avx2, QI__AVX2, false)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_ROWS_K(avx_vnni, QI__AVX_VNNI, true)
QI__DOT_ROW(avx_vnni, QI__AVX_VNNI, true)
#endif
QI__DOT_ROW(avx512, QI__AVX512_VNNI, true) // k-quants: row_k_avx512.h
#undef QI__DOT_ROW
#undef QI__DOT_ROWS_K
#undef QI__DOT_ROWS
#endif

#endif // QI__KERNELS_ROW_Q8_X86_H
