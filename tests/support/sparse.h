// SPARSE: 1 where programs run slowly (sanitizers; emulation, as tests/run.sh says): long tests take some of their cases.
#ifndef SPARSE
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SPARSE 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SPARSE 1
#endif
#endif
#endif
#ifndef SPARSE
#define SPARSE 0
#endif
