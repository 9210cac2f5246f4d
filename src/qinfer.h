// The order of everything: tools/amalgamate.py inlines these parts into ../qinfer.h. A part includes what it uses, so any of them
// may be read alone.

// Systems hide what the implementation needs behind these; they count only before the first system header.
#if defined(QINFER_IMPLEMENTATION) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#if defined(QINFER_IMPLEMENTATION) && !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64
#endif
#include "api.h"

#if defined(QINFER_IMPLEMENTATION) && !defined(QINFER_IMPLEMENTATION_DONE)
#define QINFER_IMPLEMENTATION_DONE
#ifdef __cplusplus
#error "qinfer: compile the implementation in a C file (declarations alone work in C++)"
#endif

// The host's -ffast-math or contraction must not change our arithmetic. (clang knows float_control on x86 only.)
#if defined(__clang__)
#if defined(__x86_64__) || defined(__i386__)
#pragma float_control(push)
#pragma float_control(precise, on)
#endif
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("no-fast-math", "fp-contract=off")
#endif

#include "public.h"

#if defined(__clang__)
#if defined(__x86_64__) || defined(__i386__)
#pragma float_control(pop)
#endif
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif // QINFER_IMPLEMENTATION
