// qinfer.h: run quantised language models on the CPU, from one header.
//
//   #define QINFER_IMPLEMENTATION        // in exactly one C file, before its other includes
//   #include "qinfer.h"
//
//   cc -O2 app.c -lm -lpthread           // Linux, macOS; MinGW: the same
//
// The implementation is C99 or later; the declarations also serve C++. It needs stb_ds.h (Debian: libstb-dev) where the
// implementation is compiled, nothing else beyond libc, libm and pthreads.
//
//   qi_model_desc  md = { .path = "model.gguf" };   // zero = documented default, everywhere
//   qi_session_desc sd = { .n_ctx = 4096 };
//   qi_error err = {0};
//   qi_model *m = NULL; qi_session *s = NULL; qi_piece p;
//   if (qi_model_open(&m, &md, &err) || qi_session_open(&s, m, &sd, &err) || qi_prompt(s, "Once upon a time", &err)) goto fail;
//   while (qi_next(s, &p, &err) == QI_OK) fwrite(p.text, 1, p.len, stdout);
//
// Three levels, each usable alone:
//   (a) text in, text out                     qi_prompt, qi_next
//   (b) tokens, sequences, logits, samplers   qi_tokenize, qi_decode, qi_logits, qi_sampler_*
//   (c) the numeric floor                     qi_dequantize, qi_quantize, qi_matmul
//
// Options: define before including. "all" must be the same in every file, "impl" matters only beside QINFER_IMPLEMENTATION.
//   name                  where  meaning
//   QI_STATIC             all    every function is static: the library lives in one file, several copies may coexist
//   QI_API                all    linkage of public functions (default: extern)
//   QI_NO_THREADS         impl   no pthreads; everything runs in the caller
//   QI_NO_STDIO           impl   no files: models come from memory or read callbacks; qi_log_stderr is silent
//   QI_NO_MMAP            impl   files are read, never mapped
//   QI_NO_SIMD            impl   reference kernels only
//   QI_ASSERT(x)          impl   check of the library's own invariants, never of input (default: nothing)
//
// Rules that hold for every function:
//   - Input never crashes the library: wrong arguments, damaged files and failed allocations are result codes with a message.
//   - It never prints, exits, reads the environment or keeps mutable globals; what is not in an argument does not count.
//   - Text is UTF-8. Sizes are bytes unless a name says otherwise. Matrices are row-major.
//   - A qi_error* may be NULL. It is written only on failure. On failure, output pointers are left NULL or unchanged.
//   - A model is immutable once open: any number of threads and sessions may use it. Sessions, samplers and pools belong to one
//     thread at a time; only qi_cancel may be called from any thread at any time.
//   - "Zero" is the default in every desc: start from {0}.
#ifndef QINFER_H
#define QINFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Major changes when a program must be changed, minor when something is added.
#define QI_VERSION_MAJOR 0
#define QI_VERSION_MINOR 1
#define QI_VERSION_PATCH 0

#ifndef QI_API
#ifdef QI_STATIC
#ifdef __GNUC__
#define QI_API static __attribute__((unused))
#else
#define QI_API static
#endif
#else
#define QI_API extern
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

// ---- results and errors ----

// What calls return; negative: an error.
typedef enum qi_result {
  QI_OK = 0,
  QI_END = 1,              // no more text: end token, stop string or token limit
  QI_AGAIN = 2,            // the time budget is spent, work is left: call again
  QI_ERR_ARGUMENT = -1,    // the caller's argument is wrong
  QI_ERR_OOM = -2,         // the allocator returned NULL
  QI_ERR_IO = -3,          // a file cannot be opened or read
  QI_ERR_FORMAT = -4,      // the file is damaged or not what its header says
  QI_ERR_UNSUPPORTED = -5, // a sound file or request that this library does not handle
  QI_ERR_LIMIT = -6,       // beyond a limit stated in this header
  QI_ERR_CONTEXT = -7,     // the context is full
  QI_ERR_CANCELLED = -8,   // qi_cancel or a callback stopped the call; the state is as before it
  QI_ERR_STATE = -9,       // not possible now (for example: logits asked for before any were computed)
  QI_ERR_DEVICE = -10      // the device of a backend failed
} qi_result;

// What went wrong, in the caller's own memory. `msg` says where, what was expected and what was found; always terminated.
typedef struct qi_error {
  qi_result code; // what the call returned
  char msg[256];
} qi_error;

// Name of a result code, for example "QI_ERR_FORMAT"; static text, never NULL.
QI_API const char *qi_result_name(qi_result r);

// ---- hooks ----

// Memory. alloc returns NULL on failure; `align` is a power of two, at most 4096. free is given the size that was asked for and is
// never called with NULL. Both or neither; neither = malloc. Called from the thread that opens or closes an object, never while
// decoding. Not covered: file mappings, thread stacks, and what a backend takes. In blocks of 16 MB and more the default asks Linux
// for huge pages (weights are read up to half as fast again); a hook of your own may do the same (align to 2 MB, MADV_HUGEPAGE).
typedef struct qi_allocator {
  void *(*alloc)(size_t size, size_t align, void *user);
  void (*free)(void *ptr, size_t size, void *user);
  void *user; // given to both; this holds for the `user` of every hook
} qi_allocator;

// INFO: good to know. WARN: results may be worse than they could be.
typedef enum qi_log_level { QI_LOG_INFO = 0, QI_LOG_WARN = 1 } qi_log_level;

// Notes that are no errors (a key that is ignored, a fallback taken). One line without newline. fn NULL = silent.
typedef struct qi_logger {
  void (*fn)(void *user, qi_log_level level, const char *msg); // in the thread of the call that has something to say
  void *user;
} qi_logger;

// A ready logger that writes to standard error: md.logger.fn = qi_log_stderr. Does nothing with QI_NO_STDIO.
QI_API void qi_log_stderr(void *user, qi_log_level level, const char *msg);

// Progress of a long call; `done` runs from 0 to 1. Return false to stop the call with QI_ERR_CANCELLED.
typedef struct qi_progress {
  bool (*fn)(void *user, float done); // in the thread of the long call; NULL = none
  void *user;
} qi_progress;

// A file behind callbacks (pak archive, APK, network). read copies `size` bytes at `offset` to `dst` and returns true, or returns
// false on failure; it is never asked beyond `size`. Called only while a model is opened or validated, or a session loaded, in the
// thread of that call.
typedef struct qi_reader {
  bool (*read)(void *user, uint64_t offset, void *dst, size_t size);
  uint64_t size; // of the whole file
  void *user;
} qi_reader;

// Where bytes go: `write` is given them in order, in parts, and returns false to stop the call.
typedef struct qi_writer {
  bool (*write)(void *user, const void *bytes, size_t n);
  void *user;
} qi_writer;

// The host's job system. parallel_for runs fn(arg, i) for i = 0..n-1, in any order, on any threads, and returns when all are done.
// Calls may run one after another; the library never waits for one call inside another.
typedef struct qi_parallel {
  void (*parallel_for)(void *user, void (*fn)(void *arg, int index), void *arg, int n);
  void *user;
} qi_parallel;

// ---- weight formats ----

// How weights are stored, by the names of ggml: Q and IQ with the bits of a code, _K and IQ in blocks of 256 (but IQ4_NL: 32), TQ
// ternary. The numbers are qinfer's own; qi_format_info has the GGUF id.
//
// Beyond ggml's:
//   I2_S     bitnet.cpp's ternary weights: two bits a weight, one float32 scale for the tensor.
//   QINS8    logarithmic, 9 bits a weight. Code c = 1..255 and sign: |w| = exp(log_min + (255 - c) / 254 * (log_max - log_min)), so
//            a larger code is a smaller weight; code 0 is zero. log_min and log_max are of the whole tensor. Integer products take
//            |w| with an error of at most exp(log_max) / 21800.
//   QINS8_K  sign and 7-bit logarithmic code under a scale for 16 weights, 8.5 bits a weight (as Q8_0).
//   QINS4_K  4-bit logarithmic code, scale for 16 weights, one of two ranges for 256; 4.5 bits a weight (as Q4_0, Q4_K, IQ4_NL).
//
// Blocks, little-endian, bytes at these offsets (d: float16):
//   I2_S     256 weights,  64 bytes  0 pairs[64]: byte 32 h + l has weights 128 h + l, + 32, + 64, + 96, highest bits first;
//                                    0, 1, 2 for -1, 0, 1
//            tail           32 bytes  0 scale (float32), the rest zero
//   QINS8     32 weights,  36 bytes  0 signs[4]: bit i % 8 of byte i / 8, set = negative; 4 codes[32]
//            tail           32 bytes  0 log_min, 4 log_max (float32), the rest zero
//   QINS8_K  256 weights, 272 bytes  0 s[7], 7 d, 9 s[7], 16 codes[256]: w = d / 2^10 * s * V[c], c = bits 0..6, bit 7 sign;
//                                    V[c] = round(255 (4^(c / 127) - 1) / 3)
//   QINS4_K  256 weights, 144 bytes  0 s[7], 7 d, 9 s[7], 16 nibbles[128]: w = |d| / 2^10 * s * T[t][c], t: sign of d; code n is
//                                    the lower half of byte n / 128 * 64 + n % 64, the upper half where n / 64 is odd
//            T[0] = -110 -89 -71 -54 -39 -25 -13 -1 10 22 35 50 66 85 105 127
//            T[1] = -101 -79 -60 -44 -30 -19 -9 0 9 19 30 44 60 79 101 127
//   Codes of both are turned: that of weight 64 t + 16 l + 4 j + b is number 64 j + 16 l + 4 t + b (t, l, j, b < 4).
//   s: seven bits for each 16 weights, in order from the lowest bit on, of the first 128 weights at 0, of the others at 9. QINS8_K:
//   0..127; QINS4_K: two's complement, -63..63.
//
// A tail is behind the last row of a tensor and belongs to all of its rows: such tensors are dequantised, quantised and multiplied
// whole. In GGUF the QINS types have ids of their own (0x5149....) that other programs refuse; I2_S has bitnet.cpp's (36).
typedef enum qi_format {
  QI_FORMAT_NONE = 0,
  QI_FORMAT_F32,
  QI_FORMAT_F16,
  QI_FORMAT_BF16,
  QI_FORMAT_Q4_0,
  QI_FORMAT_Q4_1,
  QI_FORMAT_Q5_0,
  QI_FORMAT_Q5_1,
  QI_FORMAT_Q8_0,
  QI_FORMAT_Q2_K,
  QI_FORMAT_Q3_K,
  QI_FORMAT_Q4_K,
  QI_FORMAT_Q5_K,
  QI_FORMAT_Q6_K,
  QI_FORMAT_IQ1_S,
  QI_FORMAT_IQ1_M,
  QI_FORMAT_IQ2_XXS,
  QI_FORMAT_IQ2_XS,
  QI_FORMAT_IQ2_S,
  QI_FORMAT_IQ3_XXS,
  QI_FORMAT_IQ3_S,
  QI_FORMAT_IQ4_NL,
  QI_FORMAT_IQ4_XS,
  QI_FORMAT_TQ1_0,
  QI_FORMAT_TQ2_0,
  QI_FORMAT_MXFP4,
  QI_FORMAT_I2_S,
  QI_FORMAT_QINS8,
  QI_FORMAT_QINS8_K,
  QI_FORMAT_QINS4_K,
  QI_FORMAT_COUNT
} qi_format;

// What a format is; see qi_format_get.
typedef struct qi_format_info {
  const char *name;     // "Q4_K"
  int gguf_id;          // type number in GGUF files
  int block_len;        // weights in a block; a row holds a whole number of blocks
  int block_bytes;      // bytes of a block
  bool can_quantize;    // qi_quantize writes it
  int tail_bytes;       // behind the rows of a tensor: parameters of the whole tensor; 0 = none
} qi_format_info;

// Facts of a format; NULL when `format` is none of the list. Static memory.
QI_API const qi_format_info *qi_format_get(qi_format format);

// Format of a name ("Q4_K", any case); QI_FORMAT_NONE when unknown.
QI_API qi_format qi_format_from_name(const char *name);

// Bytes of n weights, of a whole tensor with its tail if the format has one; 0 when n is not a multiple of the block length, or on
// overflow.
QI_API size_t qi_format_bytes(qi_format format, size_t n);

// n weights from `src` (no alignment needed) to float32. n: a multiple of the block length. Formats with a tail: a whole tensor.
// Errors: QI_ERR_ARGUMENT, QI_ERR_FORMAT (the tail holds no sound parameters).
QI_API qi_result qi_dequantize(qi_format format, const void *src, float *dst, size_t n, qi_error *err);

// n float32 weights to `format`. `importance` (may be NULL) holds n_cols non-negative weights, one for each column of a row of
// n_cols: errors count that much. n: a multiple of n_cols; n_cols: a multiple of the block length. NaN and infinity are refused.
// Formats with a tail: the whole tensor in one call.
// Errors: QI_ERR_ARGUMENT, QI_ERR_UNSUPPORTED (can_quantize is false).
QI_API qi_result qi_quantize(qi_format format, const float *src, void *dst, size_t n, size_t n_cols, const float *importance,
                             qi_error *err);

// ---- threads and instruction sets ----

// Highest instruction set to use; what the CPU lacks is never used. AUTO = the fastest there is.
typedef enum qi_isa {
  QI_ISA_AUTO = 0,
  QI_ISA_SCALAR,
  QI_ISA_AVX2,        // with FMA and F16C
  QI_ISA_AVX_VNNI,
  QI_ISA_AVX512,      // F, BW, DQ, VL and VNNI
  QI_ISA_AVX512_BF16, // on Intel slower than AVX512: only if asked for
  QI_ISA_AMX,         // INT8 and BF16
  QI_ISA_NEON,
  QI_ISA_DOTPROD,
  QI_ISA_I8MM,        // with BF16
  QI_ISA_COUNT
} qi_isa;

// "avx2" and so on; static text, "?" when out of range. qi_isa_from_name: -1 when unknown.
QI_API const char *qi_isa_name(qi_isa isa);
QI_API int qi_isa_from_name(const char *name);

// Threads and kernels to compute with. Sessions make their own, or share one (one call at a time).
typedef struct qi_pool qi_pool;

// How a pool shall be; zero = default.
//
// n_threads 0: begins with as many as there are fast cores that this process may use, at most 8. Generation is bound by memory
// sooner or later than that, so a session of such a pool measures its first steps with other numbers too, fewer, and up to 32 where
// there are so many cores, and keeps what is clearly faster: qi_session_stats tells. A number that is worth it takes 24 steps, one
// that is not mostly 6. Only whole steps without a prompt count, each of as many tokens as the others; with a draft, or on a
// backend, nothing is measured. Prompts, and steps of other numbers of tokens, never have fewer threads than at first.
// With any other n_threads so many work, always. Results do not depend on it.
typedef struct qi_pool_desc {
  int n_threads;           // 0 = chosen as told above; 1 = only the calling thread; at most 256
  qi_isa isa;              // default AUTO
  qi_parallel parallel;    // the host's job system instead of own threads; then n_threads must be set
  qi_allocator allocator;  // default malloc
} qi_pool_desc;

// Starts the threads; they sleep when nothing is to be done. Close with qi_pool_close, which waits for them to end.
// Errors: QI_ERR_ARGUMENT, QI_ERR_OOM, QI_ERR_LIMIT (more than 256 threads), QI_ERR_UNSUPPORTED (isa of another architecture).
QI_API qi_result qi_pool_open(qi_pool **out, const qi_pool_desc *desc, qi_error *err);
QI_API void qi_pool_close(qi_pool *pool); // NULL is fine; no session may still use it

QI_API int qi_pool_n_threads(const qi_pool *pool); // that work at present, with the calling one; 0 for NULL
QI_API qi_isa qi_pool_isa(const qi_pool *pool); // what AUTO became, or the forced one if the CPU has it, else a lower one

// Arithmetic of matrix products. Results never depend on threads or on how work was cut.
//   INTEGER  activations to int8 per block, exact integer products in a block, float32 over blocks in one order: the same bits on
//            every CPU. Formats without integer form (F32, F16, BF16) multiply in float32 in the same fixed order. Ternary formats
//            (TQ1_0, TQ2_0, I2_S) as in BitNet: activations to int8 by the greatest of the whole row, and exact sums as far along a
//            weight row as its scale stays the same; equal weights give the same bits in all three.
//   BF16     weights and activations rounded to bfloat16, float32 sums: fastest for many rows; same bits on one instruction set.
//   FLOAT    weights dequantised to float32, float32 activations and sums: the most exact, same bits on every CPU.
//   AUTO     F32 and F16 weights FLOAT; generated tokens and ternary weights INTEGER; prompts BF16 where the CPU has a matrix unit
//            for it (AMX), and for weights in BF16, else INTEGER: what is fastest. With a matrix unit prompts have their attention
//            in bfloat16 too, unless weights are F32 or F16.
typedef enum qi_path { QI_PATH_AUTO = 0, QI_PATH_INTEGER, QI_PATH_BF16, QI_PATH_FLOAT } qi_path;

// A weight matrix of `n_rows` outputs by `n_cols` inputs; rows follow each other without gap, then the tail if the format has one.
typedef struct qi_matrix {
  qi_format format;
  const void *data;       // n_rows * qi_format_bytes(format, n_cols) bytes, at any alignment; stays the caller's
  int64_t n_rows, n_cols; // n_cols: a multiple of the block length
} qi_matrix;

// y[i, r] = sum_c w[r, c] * x[i, c] for i in 0..n-1.   x: float32 [n, n_cols]; y: float32 [n, n_rows], must not overlap x or w.
// `path` AUTO = INTEGER for n == 1, else as for prompts. pool NULL = calling thread, best instruction set, malloc for scratch.
// Errors: QI_ERR_ARGUMENT, QI_ERR_OOM (scratch: the pool's allocator).
QI_API qi_result qi_matmul(qi_pool *pool, qi_path path, const qi_matrix *w, const float *x, size_t n, float *y, qi_error *err);

// A matrix made ready for many products: unpacked once instead of in each, beside its own data, which must stay. The results have
// the same bits. What it takes: with BF16 2 bytes a weight, with FLOAT 4, with INTEGER about as many as the matrix itself; nothing
// where there is nothing to spare (then products are those of qi_matmul). Immutable: any number of threads may use it.
typedef struct qi_weight qi_weight;

// For products on `path`, with the instruction set of `pool`, whose threads make it ready; NULL as in qi_matmul. allocator NULL =
// malloc. Close with qi_weight_close. Errors: QI_ERR_ARGUMENT, QI_ERR_OOM, QI_ERR_LIMIT, QI_ERR_FORMAT (the tail of the matrix).
QI_API qi_result qi_weight_open(qi_weight **out, qi_pool *pool, qi_path path, const qi_matrix *w, const qi_allocator *allocator,
                                qi_error *err);
QI_API void qi_weight_close(qi_weight *w); // NULL is fine

// Bytes that qi_weight_open would ask of the allocator. Errors: QI_ERR_ARGUMENT, QI_ERR_LIMIT.
QI_API qi_result qi_weight_memory(qi_pool *pool, qi_path path, const qi_matrix *w, uint64_t *bytes, qi_error *err);

// As qi_matmul. `path` and the instruction set of `pool` may differ from those of qi_weight_open: then it spares less, or nothing.
QI_API qi_result qi_weight_matmul(qi_pool *pool, qi_path path, const qi_weight *w, const float *x, size_t n, float *y,
                                  qi_error *err);

// ---- key/value types ----

// How keys and values are kept: bits an element, and what an element x loses at most when it is stored; `max` is the greatest of
// the 32 beside it in its head. In brackets what the logits of a small random model lose (tests/test_kv.c; root mean square of
// the difference over theirs, computed in float32 otherwise).
typedef enum qi_kv_type {
  QI_KV_AUTO = 0,  // F16
  QI_KV_F32,       // 32   nothing
  QI_KV_F16,       // 16   2^-11 |x|, or 2^-25; finite below 65520 (0.02 %)
  QI_KV_BF16,      // 16   2^-8 |x| (0.15 %)
  QI_KV_Q8,        // 8.5  max / 225: int8, and a scale for each 32. Attention over it is computed in integers (0.6 %)
  QI_KV_FP8,       // 8    2^-4 |x|, or 2^-10: E4M3; at most 448 (2.6 %)
  QI_KV_Q4,        // 4.5  max / 9: 16 levels, and a scale for each 32; as Q8 otherwise (7 %)
  QI_KV_COUNT
} qi_kv_type;

// "f16"; "auto" for AUTO; NULL when `type` is none of the list. Static memory.
QI_API const char *qi_kv_type_name(qi_kv_type type);

// ---- backends ----

// What computes instead of the CPU: a table of functions, given in qi_model_desc. qinfer_metal.m has one; a program may bring its
// own. The library walks through the model and hands over lists of operations. Sequences, pages of the cache, sampling, time slices
// and cancelling stay with it, and a backend knows nothing of them.
//
// Pointers in operations are the host's, into memory that was mapped or that came from alloc. The host uses that memory too, but
// never between submit and the end of wait. So a device with memory of its own copies what is mapped, and gives from alloc what
// both sides reach. (Where the candidates of QI_OP_TOP are enough, the host reads no logits.) Results must depend on nothing but
// the row and whether it was generated: not on n, and not on what is submitted together.

// A token of a step.
typedef struct qi_op_row {
  int32_t token;
  uint32_t seq;   // row of qi_op_kv's table
  uint32_t pos;   // in the sequence
  uint32_t first; // it sees positions first..pos
} qi_op_row;

// A weight matrix as it lies in the file. Its rows may begin at any address.
typedef struct qi_op_matrix {
  qi_format format;
  const void *data;
  size_t n_rows, n_cols, row_bytes;
  float param[2];    // what the tail of the tensor says. I2_S: scale; QINS8: log_min, log_max
  const float *bias; // [n_rows], or NULL
} qi_op_matrix;

// Keys and values. Position p of sequence s is in page table[s, p / 128], at p % 128 there. A page holds, for one head of one
// layer, with P = 128 and groups of 32 elements, the last filled up with zeros:
//   F16  k [P / 16][dim_k][16]                               v [P][dim_v]
//   Q8   k int8 [P / 16][groups_k][8][16][4]                 v int8 [groups_v][P / 2][32][2]
//        k_scale f16 [P / 16][groups_k][16]                  v_scale f16 [groups_v][P]
// In Q8 the scale is the greatest of the group in size / 127; element 32 g + 4 i + j of key p is at [p / 16][g][i][p % 16][j],
// element 32 g + i of value p at [g][p / 2][i][p % 2]. Other types of qi_kv_type may be refused (supports).
typedef struct qi_op_kv {
  qi_kv_type type;
  void *data;                  // [n_layers, n_kv_heads, n_pages, page_bytes]
  const uint32_t *table;       // [n_seqs, n_table] pages
  size_t layer, n_kv_heads, n_pages, page_bytes, n_table;
  size_t dim_k, dim_v;         // elements of a head
  size_t k_scale, v, v_scale;  // offsets in a page; k lies at 0
} qi_op_kv;

// A token that may be chosen next.
typedef struct qi_op_candidate {
  float logit; // NaN is -infinity here, -0 is 0
  int32_t token;
} qi_op_candidate;

// What a device does. All vectors are float32. Each operation sees what those before it in the list have written. Those marked *
// may be refused (supports): then there is another way.
typedef enum qi_op_kind {
  QI_OP_EMBED = 0, // embed:     y[i] = row rows[i].token of w
  QI_OP_RMS_NORM,  // norm:      y[i] = x[j] / sqrt(mean of the squares of x[j] + eps) * weight; j = index ? index[i] : i
  QI_OP_PRODUCT,   // product:   y[i] = w x[i] + bias, or y[i] += that
  QI_OP_ROPE,      // rope:      queries and keys normed and rotated; keys and values go to their pages
  QI_OP_ATTENTION, // attention: softmax over q k / sqrt(dim_k) of the positions that a row sees, times v
  QI_OP_SWIGLU,    // gate:      y = x / (1 + exp(-x)) * up
  QI_OP_RELU2,     // gate:      y = max(x, 0)^2 * up
  QI_OP_GATED,     // gated *:   y = SWIGLU or RELU2 of gate x + bias and up x + bias, of generated tokens, in one
  QI_OP_TOP,       // top *:     y[i] = the first k of x[i], higher logits first, of equals lower tokens
  QI_OP_COUNT
} qi_op_kind;

typedef struct qi_op {
  qi_op_kind kind;
  size_t n; // rows
  union {
    struct {
      qi_op_matrix w;
      const qi_op_row *rows; // [n]
      float *y;              // [n, w.n_cols]
    } embed;
    struct {
      const float *x;        // [.., width]
      const uint32_t *index; // [n], or NULL
      const float *weight;   // [width]
      float *y;              // [n, width]; may be x without index
      size_t width;
      float eps;
    } norm;
    struct {
      qi_op_matrix w;
      const float *x;        // [n, w.n_cols]
      float *y;              // [n, w.n_rows]
      bool add, generated;   // generated: rows of generated tokens, else of prompts
    } product;
    struct {
      const qi_op_row *rows;         // [n]
      const float *cos_sin;          // [n, 2 * n_pairs] cosine and sine of each pair, in turn
      const float *q_norm, *k_norm;  // [dim_k] norm of each head before it is rotated; NULL = none
      float *q, *k;                  // [n, n_heads, dim_k], [n, n_kv_heads, dim_k]. k may be left as it is
      const float *v;                // [n, n_kv_heads, dim_v]
      qi_op_kv kv;
      size_t n_heads, n_pairs;
      float eps;
      bool neighbours;               // pairs are elements 2 i, 2 i + 1; else i, n_pairs + i
    } rope;
    struct {
      const qi_op_row *rows; // [n]
      const float *q;        // [n, n_heads, dim_k]
      float *y;              // [n, n_heads, dim_v]
      qi_op_kv kv;
      size_t n_heads;        // n_heads / n_kv_heads in a row share keys and values
      bool generated;        // as of products
    } attention;
    struct {
      const float *x, *up;   // [n, width]
      float *y;              // [n, width]; may be x
      size_t width;
    } gate;
    struct {
      qi_op_matrix gate, up; // of the same format and shape
      const float *x;        // [n, gate.n_cols]
      float *y;              // [n, gate.n_rows]
      bool relu2;
    } gated;
    struct {
      const float *x;     // [n, width] logits
      qi_op_candidate *y; // [n, k]
      size_t width, k;    // k at most 128 and at most width
    } top;
  } of;
} qi_op;

// The table. A device belongs to a model, queues of it to its sessions. Functions of a device may be called from several threads at
// once (open, map and close are not), those of a queue are not. Failures: a negative result with a message in err.
typedef struct qi_backend {
  const char *name; // "metal"; static text
  void *user;       // for open
  // A device to compute on. QI_ERR_UNSUPPORTED: there is none that will do.
  qi_result (*open)(void *user, const qi_allocator *allocator, void **device, qi_error *err);
  void (*close)(void *device); // its queues are closed
  const char *(*device_name)(const void *device); // "Apple M1"; as long as the device
  // Whether it computes such an operation; pointers in it may be NULL.
  bool (*supports)(const void *device, const qi_op *op);
  // Most bytes that one call of map may show.
  size_t (*map_limit)(const void *device);
  // Shows memory with weights, which stays as it is until close. Calls may overlap by some bytes, and what an operation reads lies
  // within one of them.
  qi_result (*map)(void *device, const void *data, size_t size, qi_error *err);
  qi_result (*queue_open)(void *device, void **queue, qi_error *err);
  void (*queue_close)(void *queue); // NULL never comes; nothing is submitted, all memory was freed
  // Memory for operations of this queue, aligned to 64 bytes; NULL = there is none. Contents: any.
  void *(*alloc)(void *queue, size_t size);
  void (*free)(void *queue, void *data, size_t size); // NULL never comes
  // Begins a list of operations, and copies what it needs of it. wait ends it, and must be called before the next one, also when
  // submit failed.
  qi_result (*submit)(void *queue, const qi_op *ops, size_t n, qi_error *err);
  qi_result (*wait)(void *queue, qi_error *err);
} qi_backend;

// Apple GPUs of family 7 (M1) and later, macOS 12 and later. Only in programs with qinfer_metal.m:
//   clang -O2 app.c qinfer_metal.m -framework Metal -framework Foundation
extern const qi_backend *qi_metal(void);

// ---- models ----

// An open model: metadata, tokenizer and weights.
typedef struct qi_model qi_model;

// How much of a file is made ready.
typedef enum qi_load {
  QI_LOAD_ALL = 0,   // ready for sessions
  QI_LOAD_VOCAB,     // metadata and tokenizer only: qi_tokenize, qi_token_piece
  QI_LOAD_METADATA   // metadata and tensor list only; works for any architecture
} qi_load;

// Where a model comes from: exactly one of path, data, reader.
typedef struct qi_model_desc {
  const char *path;           // GGUF file; of a split model, the first file (name ends in -00001-of-0000N.gguf). Or a Hugging Face
                              // folder with config.json, tokenizer.json and model*.safetensors, or one of these files
  const void *data;           // whole file in memory; must stay until qi_model_close; any alignment
  size_t data_size;           // bytes of data
  qi_reader reader;           // a file behind callbacks: tensors are then copied to memory of the allocator
  qi_load load;               // default QI_LOAD_ALL
  bool no_mmap;               // read the file into memory of the allocator instead of mapping it. Slower to open; generates faster
                              // where the system has no huge pages for mapped files
  qi_allocator allocator;     // default malloc
  qi_logger logger;           // default silent
  qi_progress progress;       // while tensors are read (not for mappings), and while the cache is filled
  uint64_t cache_bytes;       // memory beside the file's weights, at most, for weights ready to be multiplied; 0 = none,
                              // UINT64_MAX = for all. No result changes a bit; QI_LOAD_ALL only. See qi_cache_info
  qi_path cache_path;         // what it shall serve: the path of sessions, default AUTO
  qi_pool *cache_pool;        // fills it, and says for which instruction set. NULL = the calling thread and the best one. Sessions
                              // of another instruction set use what they can of it
  const qi_backend *backend;  // computes instead of the CPU, for all sessions; must stay. QI_LOAD_ALL only; there is no cache then.
                              // Weights are mapped for it without a copy where it can do that. default NULL = the CPU
  bool backend_fallback;      // take the CPU (and log why) when the backend has no usable device or cannot compute this model
} qi_model_desc;

// Opens a model. The desc and its path are not needed afterwards (data is). Close with qi_model_close. A Hugging Face folder looks
// like a GGUF file afterwards: metadata and names of tensors are translated (of the tokenizer from QI_LOAD_VOCAB on). Its tensors
// are F32, F16, BF16, or packed ternary of BitNet, which is converted to I2_S; what cannot give the model's own results is refused.
// Errors: QI_ERR_ARGUMENT, _OOM, _IO, _FORMAT, _UNSUPPORTED (architecture, tokenizer, weight format or backend named in the
// message), _LIMIT, _CANCELLED, _DEVICE.
QI_API qi_result qi_model_open(qi_model **out, const qi_model_desc *desc, qi_error *err);
QI_API void qi_model_close(qi_model *m); // NULL is fine; sessions must be closed first

// Checks a file as qi_model_open with this desc does (structure, metadata, tokenizer, names and shapes of tensors), and keeps
// nothing. Where the file is not mapped, values of tensors are not read. Errors: those of qi_model_open.
QI_API qi_result qi_model_validate(const qi_model_desc *desc, qi_error *err);

// Bytes that a model takes.
typedef struct qi_memory {
  uint64_t heap;    // bytes asked of the allocator by the open call, all of them until close
  uint64_t mapped;  // bytes of files mapped (paged in and out by the system)
} qi_memory;

// What qi_model_open with this desc will take, before it is taken: walks over the file's header a few times and asks the allocator
// for nothing (but needs some 20 KB of stack); of a Hugging Face folder, or with a cache, it builds the index and gives it back.
// Errors: those of qi_model_open that show in the header alone. Not looked for: names that occur twice, tensors that overlap,
// missing tensors, wrong shapes; qi_model_validate does, with memory.
QI_API qi_result qi_model_memory(const qi_model_desc *desc, qi_memory *out, qi_error *err);

// A part of the cache.
typedef struct qi_cache_kind {
  int n_matrices; // that it holds, whole or in part
  uint64_t bytes;
} qi_cache_kind;

// Weights beside the file's blocks, in forms that need no unpacking. Which ones get the bytes is measured when the model is opened:
// those come first for which a byte saves most time. What saves none is left out, so some of the bytes may stay unused.
typedef struct qi_cache_info {
  uint64_t bytes;        // taken, part of qi_memory.heap
  qi_cache_kind integer; // INTEGER: rows side by side, about as large as in the file (x86; used from a few rows of activations on)
  qi_cache_kind bf16;    // BF16: bfloat16 in the order that the CPU multiplies
  qi_cache_kind f32;     // FLOAT: float32
  double seconds;        // measuring and filling took
} qi_cache_info;

// What a model is.
typedef struct qi_model_info {
  const char *architecture;    // "llama"; text lives as long as the model
  const char *name;            // general.name, "" if absent
  const char *chat_template;   // tokenizer.chat_template, "" if absent
  int n_vocab;                 // tokens
  int n_ctx_train;             // tokens of context that it was trained for
  int n_layers;                // blocks of attention and feed-forward
  int n_embd;                  // width of what goes from layer to layer
  int n_heads, n_kv_heads;     // attention heads, and those of keys and values
  int head_dim;                // width of a head's query and key
  int n_ff;                    // width inside a feed-forward block
  uint64_t n_params;           // weights in all tensors
  uint64_t n_tensor_bytes;     // their bytes as stored
  qi_memory memory;            // what qi_model_memory told
  qi_cache_info cache;         // all 0 without
  const char *backend;         // name of the backend that computes; "" = the CPU
  const char *device;          // name of its device; ""
} qi_model_info;

// Fields that the load level did not read are 0 or "". m NULL: all zero, texts NULL.
QI_API void qi_model_get_info(const qi_model *m, qi_model_info *out);

// Types of metadata values; the numbers are GGUF's.
typedef enum qi_meta_type {
  QI_META_U8 = 0, QI_META_I8, QI_META_U16, QI_META_I16, QI_META_U32, QI_META_I32, QI_META_F32, QI_META_BOOL,
  QI_META_STRING, QI_META_ARRAY, QI_META_U64, QI_META_I64, QI_META_F64
} qi_meta_type;

// One entry of the file's metadata. `text`, `key` live as long as the model.
typedef struct qi_meta {
  const char *key;         // not terminated: key_len bytes
  size_t key_len;          // bytes
  qi_meta_type type;       // of the value; ARRAY: element_type and count say more
  qi_meta_type element_type;
  uint64_t count;          // elements of an array, 1 for scalars, bytes for strings
  union {
    uint64_t u;            // U8 to U64, BOOL
    int64_t i;             // I8 to I64
    double f;              // F32, F64
    const char *text;      // STRING, not terminated: count bytes
  } value;
} qi_meta;

// Entries are numbered from 0 in the file's order. Errors of all below: QI_ERR_ARGUMENT (no such entry or element; no array).
QI_API size_t qi_meta_count(const qi_model *m); // 0 for NULL
QI_API qi_result qi_meta_get(const qi_model *m, size_t i, qi_meta *out, qi_error *err);
// Element `k` of array entry `i`, as if it were an entry of its own (key is that of the array). Cost: strings are walked from the
// start of the array.
QI_API qi_result qi_meta_element(const qi_model *m, size_t i, uint64_t k, qi_meta *out, qi_error *err);
// Elements k..k+n-1 to out[0..n-1], at the cost of one walk: for copying long arrays.
QI_API qi_result qi_meta_elements(const qi_model *m, size_t i, uint64_t k, size_t n, qi_meta *out, qi_error *err);

// One tensor of the file. What it points to lives as long as the model.
typedef struct qi_tensor {
  const char *name;        // terminated
  qi_format format;        // NONE when the file's type is unknown here
  int gguf_id;             // the file's number for the type
  int n_dims;              // 1..4
  uint64_t shape[4];       // GGUF order: shape[0] runs fastest (a row of weights); unused ones are 1
  uint64_t n_bytes;        // 0 when the type is unknown
  const void *data;        // at any alignment; NULL unless QI_LOAD_ALL or mapped
} qi_tensor;

// Tensors are numbered from 0 in the file's order. Errors: QI_ERR_ARGUMENT (no such tensor).
QI_API size_t qi_tensor_count(const qi_model *m); // 0 for NULL
QI_API qi_result qi_tensor_get(const qi_model *m, size_t i, qi_tensor *out, qi_error *err);
QI_API qi_result qi_tensor_find(const qi_model *m, const char *name, qi_tensor *out, qi_error *err);

// ---- tokens ----

typedef int32_t qi_token; // 0 to n_vocab - 1; -1 where there is none

// For qi_tokenize; to be combined with |.
typedef enum qi_tokenize_flags {
  QI_TOKENIZE_PLAIN = 0,
  QI_TOKENIZE_ADD_SPECIAL = 1,   // add begin and end tokens where the model's file says so
  QI_TOKENIZE_PARSE_SPECIAL = 2  // names of control tokens in the text ("<|im_end|>") become those tokens
} qi_tokenize_flags;

// Text to tokens. Writes at most `cap` ids to `out` (NULL with cap 0 to ask) and the full number to *n_out: two calls size a
// buffer. Any bytes are accepted; what is not UTF-8 is encoded byte by byte. Time grows as len * log(len). Asks the allocator of
// the model for some 40 bytes a byte of text while it runs.
// Errors: QI_ERR_ARGUMENT, QI_ERR_OOM, QI_ERR_STATE (no tokenizer loaded), QI_ERR_LIMIT (text of 2^30 bytes or more).
QI_API qi_result qi_tokenize(const qi_model *m, const char *text, size_t len, int flags, qi_token *out, size_t cap, size_t *n_out,
                             qi_error *err);

// Bytes that a token stands for, unescaped; may be a part of a UTF-8 character. Control tokens give no bytes unless `special`, then
// their name. Writes at most cap bytes (no terminator) and returns the full number; 0 for ids out of range.
QI_API size_t qi_token_piece(const qi_model *m, qi_token id, bool special, char *out, size_t cap);

// Tokens to text, as qi_next would give it: the space that SentencePiece models add before the first word is removed.
// Writes at most cap bytes (no terminator) and the full number to *len_out.
// Errors: QI_ERR_ARGUMENT (also ids out of range), QI_ERR_STATE (no tokenizer loaded).
QI_API qi_result qi_detokenize(const qi_model *m, const qi_token *ids, size_t n, bool special, char *out, size_t cap,
                               size_t *len_out, qi_error *err);

// Special tokens of the model; -1 = the model has none.
typedef struct qi_special_tokens {
  qi_token bos, eos;     // begin and end of a text
  qi_token eot;          // end of a turn in a conversation
  qi_token unk;          // what has no token
  qi_token pad;          // filler
  qi_token nl;           // a line break
  bool add_bos, add_eos; // what QI_TOKENIZE_ADD_SPECIAL adds
} qi_special_tokens;
// Without tokenizer: none.
QI_API void qi_model_special_tokens(const qi_model *m, qi_special_tokens *out);
QI_API bool qi_token_is_end(const qi_model *m, qi_token id);     // ends generation: eos, eot and their kin
QI_API bool qi_token_is_control(const qi_model *m, qi_token id); // no text, but a signal; false for both: ids out of range
// Token whose text is exactly `text` (escaped as in the vocabulary); -1 if there is none.
QI_API qi_token qi_token_find(const qi_model *m, const char *text, size_t len);

// Tokens whose bytes contain `text` (a line break, a quotation mark). Writes at most cap ids, ascending, and returns the full
// number; 0 for empty text or a model without tokenizer. Of tokens beyond 512 bytes the first 512 count.
QI_API size_t qi_tokens_containing(const qi_model *m, const char *text, size_t len, qi_token *out, size_t cap);

// ---- conversations ----

// Who said it. SYSTEM: what the model shall be.
typedef enum qi_chat_role { QI_CHAT_SYSTEM = 0, QI_CHAT_USER, QI_CHAT_ASSISTANT } qi_chat_role;

typedef struct qi_chat_message {
  qi_chat_role role;
  const char *text; // UTF-8, not terminated
  size_t len;       // bytes
} qi_chat_message;

// How messages are written for a model: what it was trained on. MISTRAL: its first models; V3 and TEKKEN: later tokenizers.
typedef enum qi_chat_format {
  QI_CHAT_NONE = 0,
  QI_CHAT_LLAMA_2,
  QI_CHAT_LLAMA_3,
  QI_CHAT_CHATML,
  QI_CHAT_MISTRAL,
  QI_CHAT_MISTRAL_V3,
  QI_CHAT_MISTRAL_TEKKEN,
  QI_CHAT_PHI_3,
  QI_CHAT_GEMMA,
  QI_CHAT_ZEPHYR,
  QI_CHAT_COUNT
} qi_chat_format;

// "llama-3", "chatml" and so on; static text, "?" when out of range. qi_chat_format_from_name: -1 when unknown.
QI_API const char *qi_chat_format_name(qi_chat_format format);
QI_API int qi_chat_format_from_name(const char *name);

// The format of a model, by what its template holds (templates are programs in Jinja and are not run) or, without one, by its
// tokens. Errors: QI_ERR_ARGUMENT, QI_ERR_STATE (no tokenizer loaded), QI_ERR_UNSUPPORTED (another kind; the message says what to
// do).
QI_API qi_result qi_chat_detect(const qi_model *m, qi_chat_format *out, qi_error *err);

// Messages as tokens for qi_prompt_tokens, begin token included. The first n_done messages are in the context already, the last of
// them with the answer that was generated for it or as that answer; what closes that answer is written first. At the end the
// beginning of an answer is written; if the last message is an answer itself, it is left open to be continued. Text of messages
// never becomes a control token, even where it looks like the name of one.
// Writes at most `cap` ids to `out` (NULL with cap 0 to ask) and the full number to *n_out. Asks the allocator of the model for
// some 45 bytes a byte of text while it runs. Errors: QI_ERR_ARGUMENT (also a system message at the end where the format has it
// inside the user's), QI_ERR_OOM, QI_ERR_STATE (no tokenizer loaded), QI_ERR_LIMIT (texts of 2^30 bytes or more).
QI_API qi_result qi_chat_tokens(const qi_model *m, qi_chat_format format, const qi_chat_message *messages, size_t n, size_t n_done,
                                qi_token *out, size_t cap, size_t *n_out, qi_error *err);

// ---- grammars ----

// What generated text may be: tokens that would leave the grammar are not chosen, and generation ends only where the grammar does.
// Grammars are compiled to bytes, so text is whole UTF-8 at the end whatever the tokens hold.
//
// GBNF, as in llama.cpp: rules `name ::= alternatives`, the text is `root`. "literal", [a-z] and [^a-z], . (any character),
// (group), a | b, and behind any of them * + ? {n} {n,} {n,m}; \n \r \t \\ \" \xHH \uHHHH \UHHHHHHHH; # comments. Refused: rules
// that may begin with themselves (left recursion), that never end, that are not defined or defined twice.
//
// JSON schemas: type (also a list), properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength,
// maxLength, format (date, time, date-time, uuid), minimum, maximum and their exclusive kin (of integers), enum, const, anyOf,
// oneOf (as anyOf), allOf of one, $ref to a place in the same text, true. Annotations (title, description, default, ...) are
// ignored, every other keyword is refused. Members come in the order of `properties`; where these are given, others are only
// allowed by additionalProperties; beside prefixItems, others only by items. Blanks are allowed as people write them; numbers have
// at most 18 digits.
typedef struct qi_grammar qi_grammar;

// Where a grammar comes from: exactly one of gbnf, json_schema, choices.
typedef struct qi_grammar_desc {
  const char *gbnf;            // rules, UTF-8
  const char *json_schema;     // JSON, at most 2^18 bytes; what it is made into: qi_json_schema_gbnf
  const char *const *choices;  // n_choices strings, UTF-8, not empty: the text is one of them
  int n_choices;               // at most 65536
  size_t len;                  // bytes of gbnf (at most 2^20) or json_schema; 0 = up to its terminator
  const qi_grammar *share;     // a grammar of the same model whose table of tokens (some MB) is used too; default an own one
  qi_allocator allocator;      // default: the model's
} qi_grammar_desc;

// Compiles a grammar for the tokens of a model (opened with its tokenizer), which must outlive it. Immutable: any number of threads
// and matchers may use it. The desc and what it points to are not needed afterwards.
// Errors: QI_ERR_ARGUMENT, QI_ERR_FORMAT (with line and column), QI_ERR_UNSUPPORTED (a keyword of a schema), QI_ERR_LIMIT (too
// large or nested too deep), QI_ERR_STATE (model without tokenizer), QI_ERR_OOM.
QI_API qi_result qi_grammar_open(qi_grammar **out, const qi_model *m, const qi_grammar_desc *desc, qi_error *err);
QI_API void qi_grammar_close(qi_grammar *g); // NULL is fine; matchers must be closed first

// A JSON schema (len bytes) as GBNF, to look at or to change. Writes at most cap bytes (no terminator) and the full number to
// *n_out: two calls size a buffer. allocator NULL = malloc; all is given back. Errors: as qi_grammar_open.
QI_API qi_result qi_json_schema_gbnf(const char *json_schema, size_t len, const qi_allocator *allocator, char *out, size_t cap,
                                     size_t *n_out, qi_error *err);

// Where a text is in a grammar. What is found out about the grammar on the way (which tokens may follow where) is kept, so it costs
// little when it is needed again.
typedef struct qi_matcher qi_matcher;

// At the beginning of the grammar. `share` (may be NULL): a matcher of the same grammar whose knowledge is used and added to; both
// then belong to the same thread. Any order of closing is fine. Takes all its memory here, from allocator (NULL = the grammar's).
// Errors: QI_ERR_ARGUMENT, QI_ERR_OOM, QI_ERR_LIMIT (the grammar can be read in too many ways).
QI_API qi_result qi_matcher_open(qi_matcher **out, const qi_grammar *g, const qi_matcher *share, const qi_allocator *allocator,
                                 qi_error *err);
QI_API void qi_matcher_close(qi_matcher *mt); // NULL is fine
// Bytes that qi_matcher_open asks for, with share or without; 0 for NULL.
QI_API size_t qi_matcher_memory(const qi_grammar *g, bool shared);

// Back to the beginning.
QI_API void qi_matcher_reset(qi_matcher *mt);
// `to` goes where `from` is. Errors: QI_ERR_ARGUMENT (they were not opened with share).
QI_API qi_result qi_matcher_copy(qi_matcher *to, const qi_matcher *from, qi_error *err);

// Goes on by a token, or by text that is there already. Tokens that end generation are fine where the grammar may end, and change
// nothing. Errors: QI_ERR_ARGUMENT (the grammar does not allow it; nothing changes), QI_ERR_LIMIT (rules within rules too deep).
QI_API qi_result qi_matcher_accept(qi_matcher *mt, qi_token token, qi_error *err);
QI_API qi_result qi_matcher_accept_text(qi_matcher *mt, const char *text, size_t len, qi_error *err);

// Tokens that may come next: bit t % 32 of (*allowed)[t / 32], (n_vocab + 31) / 32 words, valid until the next call on this matcher
// or one that shares with it. Tokens that end generation are among them exactly when the grammar may end here.
// Errors: QI_ERR_STATE (the grammar goes on, but no token of the vocabulary fits), QI_ERR_LIMIT.
QI_API qi_result qi_matcher_allowed(qi_matcher *mt, const uint32_t **allowed, qi_error *err);
QI_API bool qi_matcher_can_end(const qi_matcher *mt); // the text so far is complete; false for NULL

// ---- samplers ----

// Makes a token more or less likely.
typedef struct qi_logit_bias {
  qi_token token;   // ids out of range are refused
  float bias;       // added to the logit; -INFINITY forbids the token
} qi_logit_bias;

// What a sampler does, in the order in which it does it unless a chain says otherwise. Steps whose parameters are off do nothing.
typedef enum qi_sampler_step {
  QI_STEP_PENALTIES = 0, // repetition_penalty, frequency_penalty, presence_penalty
  QI_STEP_DRY,           // dry_*
  QI_STEP_TOP_N_SIGMA,
  QI_STEP_TOP_K,
  QI_STEP_TYPICAL,
  QI_STEP_TOP_P,
  QI_STEP_MIN_P,
  QI_STEP_XTC,           // xtc_*
  QI_STEP_TEMPERATURE,   // temperature*; steps before it see probabilities at temperature 1, those behind at this one
  QI_STEP_MIROSTAT,      // mirostat_*
  QI_STEP_COUNT
} qi_sampler_step;

// Bias comes first, a draw last. Zero = off, but for what only refines another field.
typedef struct qi_sampler_desc {
  float temperature;         // 0 = greedy: the highest logit, the lowest id among equals; only penalties and DRY count then
  int top_k;                 // keep the k most likely; 0 = all
  float top_p;               // keep the smallest set with this much probability; 0 or 1 = all
  float min_p;               // drop what is less than min_p times the most likely; 0 = none
  float repetition_penalty;  // divides positive logits (multiplies negative) of recent tokens; 0 or 1 = off
  float frequency_penalty;   // subtracted once for each recent occurrence
  float presence_penalty;    // subtracted once if it occurred
  int penalty_last_n;        // how many recent tokens count; 0 = 64, at most 65536
  uint64_t seed;             // 0 is a seed like any other: the same words again
  const qi_logit_bias *logit_bias; // copied
  int n_logit_bias;          // entries of logit_bias
  float typical_p;           // keep those whose surprise is closest to the expected one, up to this probability; 0 or 1 = all
  float top_n_sigma;         // keep those within so many standard deviations of logits from the highest; 0 = all
  float xtc_probability;     // how often XTC happens: all tokens above the threshold but the least likely of them are dropped
  float xtc_threshold;       // probability; 0 = 0.1, above 0.5 nothing happens
  float temperature_range;   // the temperature is temperature -/+ range by how undecided the model is; 0 = fixed
  float temperature_exponent; // of that: (entropy / greatest possible)^exponent; 0 = 1
  float dry_multiplier;      // DRY: what continues a repetition of len tokens loses multiplier * base^(len - allowed_length)
  float dry_base;            // 0 = 1.75
  int dry_allowed_length;    // shorter repetitions are fine; 0 = 2
  int dry_last_n;            // how many recent tokens are looked at; 0 = 1024, at most 65536
  const qi_token *dry_breakers; // tokens that repetitions do not reach over, see qi_tokens_containing; copied
  int n_dry_breakers;        // entries of dry_breakers
  float mirostat_tau;        // Mirostat 2: aims at this surprise (in bits) of each token; 0 = off
  float mirostat_eta;        // how fast it learns; 0 = 0.1
  const qi_sampler_step *chain; // n_chain steps, each at most once, in this order; those left out do not happen. Copied
  int n_chain;               // 0 = all, in the order of qi_sampler_step
} qi_sampler_desc;

// Chooses tokens: the desc, a random number generator, and recent tokens.
typedef struct qi_sampler qi_sampler;

// A sampler for logits of n_vocab tokens. Memory is taken here (allocator NULL = malloc), none later.
// Errors: QI_ERR_ARGUMENT (a field out of range, named), QI_ERR_OOM.
QI_API qi_result qi_sampler_open(qi_sampler **out, int n_vocab, const qi_sampler_desc *desc, const qi_allocator *allocator,
                                 qi_error *err);
QI_API void qi_sampler_close(qi_sampler *sp); // NULL is fine

// Chooses a token; logits: float32 [n_vocab], unchanged. NaN counts as -infinity. Does not remember it: see qi_sampler_accept.
// -1 when an argument is NULL.
QI_API qi_token qi_sampler_sample(qi_sampler *sp, const float *logits);
// The same among the tokens whose bits are set, as qi_matcher_allowed tells them; NULL = all.
QI_API qi_token qi_sampler_sample_allowed(qi_sampler *sp, const float *logits, const uint32_t *allowed);
// Puts a token into the history that penalties look at (prompt tokens too, if they shall count).
QI_API void qi_sampler_accept(qi_sampler *sp, qi_token token);
// Forgets history; random numbers start again from `seed`.
QI_API void qi_sampler_reset(qi_sampler *sp, uint64_t seed);

// A token and the natural logarithm of its probability.
typedef struct qi_logprob {
  qi_token token;
  float logprob;
} qi_logprob;

// The n (1 to 1024) most likely tokens, in order, equals by id, from logits of n_vocab tokens as they are (temperature 1, nothing
// taken out). Returns how many were written: fewer when fewer have a probability above 0. 0 for wrong arguments. Asks for no
// memory.
QI_API int qi_top_logprobs(const float *logits, int n_vocab, qi_logprob *out, int n);

// ---- sessions ----

// A place where a model runs: key-value cache, scratch memory, threads, sampler.
typedef struct qi_session qi_session;

// Looks at what goes into matrix products: called before each one, in the thread of the call, with the name of the tensor and its
// inputs, float32 [n, n_cols]. For statistics, such as which columns of a tensor matter. fn NULL = none.
typedef struct qi_observer {
  void (*fn)(void *user, const char *tensor, const float *x, size_t n, size_t n_cols);
  void *user;
} qi_observer;

// How a session shall be; zero = default.
typedef struct qi_session_desc {
  int n_ctx;                 // tokens of context for each sequence; 0 = what the model was trained for, at most 4096
  int n_seqs;                // sequences; 0 = 1, at most 1024
  int n_batch;               // tokens computed at once; 0 = 256. Bits do not depend on it
  int n_logits;              // rows of logits kept by one qi_decode; 0 = n_seqs
  int n_threads;             // as in qi_pool_desc; but 0 = 1 where a backend computes, for the draft model too
  qi_isa isa;                // as in qi_pool_desc
  qi_parallel parallel;      // as in qi_pool_desc
  qi_pool *pool;             // shared pool instead of an own one; must outlive the session; the three above then do not count
  qi_path path;              // default AUTO; else all tokens take this one
  qi_kv_type kv_type;        // default F16
  int n_kv_tokens;           // tokens that the cache has room for, of all sequences together, in pages of 128; 0 = what n_seqs
                             // sequences of n_ctx take, and never more. What sequences share counts once
  qi_sampler_desc sampler;   // used by qi_next
  const char *const *stop;   // n_stop strings that end generation; not part of the text. Copied; at most 64, UTF-8 of 1..256 bytes
  int n_stop;                // strings of stop
  int n_predict;             // tokens that qi_next gives after a prompt; 0 = until the end
  bool ignore_end;           // go on after end tokens
  bool no_add_special;       // qi_prompt adds no begin token
  bool no_parse_special;     // qi_prompt takes names of control tokens as plain text (for text of strangers)
  bool print_special;        // pieces show names of control tokens
  bool lookup;               // guess ahead what followed the last tokens where they occurred before; see below
  const qi_model *draft;     // guess ahead with this model, where lookup finds nothing; must outlive the session
  int n_draft;               // tokens guessed at once; 0 = 16, at most 32. Matters only with lookup or draft
  qi_observer observer;      // default none
  qi_allocator allocator;    // default: the model's
} qi_session_desc;

// Guessing ahead (speculation, off by default): with each token of an answer up to n_draft guessed ones behind it are computed, and
// qi_next goes on without computing as far as they come true. Each token is still drawn by the sampler from the logits of the
// tokens before it, so words, logits and saved sessions are the same to the bit, for every sampler, grammar and path. How many are
// guessed follows from how many came true, never from time.
//
//   lookup  finds the last 4 or more tokens earlier in the text. Costs nothing but the rows of wrong guesses: for edits, quotes,
//           code, lists.
//   draft   a smaller model whose tokens have the same texts (up to 1024 more or fewer at the end). It needs memory for its own
//           keys and values, of the same n_ctx, kv_type and sequences, and computes the prompt too.
//
// It pays where several rows cost less than as many tokens: long runs of right guesses, or more cores than memory can feed.
// Measured on 2 threads of a Zen 4, a 1.1B model in Q4_K_M: 5 rows take 4.7 times as long as one, 17 rows 7.4, 33 rows 10.8.
// Writing a function of 2 KB again with changes: 84 tokens a second with lookup instead of 40; text and code that are new: 46 and
// 45 instead of 46. There a draft model pays only if it is nearly always right.

// All memory is taken here; nothing is allocated while decoding (qi_prompt's text excepted: qi_tokenize).
// On a backend: path does not count (weights are multiplied as they are, in float32), kv_type must be one that it has, an observer
// is refused; most of the memory comes from the backend. A saved session may go on there, and back on the CPU.
// Errors: QI_ERR_ARGUMENT (also: draft has another vocabulary), QI_ERR_OOM, QI_ERR_STATE (model or draft not opened with
// QI_LOAD_ALL), QI_ERR_LIMIT, QI_ERR_UNSUPPORTED (of the backend), QI_ERR_DEVICE.
QI_API qi_result qi_session_open(qi_session **out, const qi_model *m, const qi_session_desc *desc, qi_error *err);
QI_API void qi_session_close(qi_session *s); // NULL is fine

// Bytes that qi_session_open with this desc will ask of the allocator or of the model's backend, all of them until close. Asks for
// nothing itself.
// Errors: those of qi_session_open but QI_ERR_OOM.
QI_API qi_result qi_session_memory(const qi_model *m, const qi_session_desc *desc, uint64_t *bytes, qi_error *err);

// (a) Text. One conversation, in sequence 0.

// Text produced by one step. `text` is valid until the next call on the session. It holds whole UTF-8 characters and nothing of a
// stop string: len may be 0 while text is held back.
typedef struct qi_piece {
  const char *text; // not terminated
  size_t len;       // bytes
  qi_token token;   // what was chosen; -1 when this call chose none
} qi_piece;

// Appends text to the context and computes it. Special tokens as the desc says. On failure the context is as before.
// Errors: QI_ERR_CONTEXT (says how many tokens did not fit), _CANCELLED, _ARGUMENT, _OOM; QI_ERR_DEVICE of this and of everything
// below that computes on a backend.
QI_API qi_result qi_prompt(qi_session *s, const char *text, qi_error *err);
// The same for text with a length (may hold zeros), or ids. They only take note: the work is done by qi_step, or the next qi_next.
// Errors: as above, _CANCELLED only while text is taken apart into tokens; QI_ERR_STATE (earlier work is unfinished).
QI_API qi_result qi_prompt_begin(qi_session *s, const char *text, size_t len, qi_error *err);
QI_API qi_result qi_prompt_tokens(qi_session *s, const qi_token *ids, size_t n, qi_error *err);

// One token more. QI_OK: *out holds a piece. QI_END: generation ended; *out holds the last held-back text (often len 0). Call
// qi_prompt to go on. Errors: QI_ERR_CONTEXT, QI_ERR_STATE (no prompt yet), QI_ERR_CANCELLED.
QI_API qi_result qi_next(qi_session *s, qi_piece *out, qi_error *err);
// As qi_next, for at most about budget_us microseconds: QI_AGAIN when the token is not ready; call again, any time later.
QI_API qi_result qi_next_within(qi_session *s, qi_piece *out, uint32_t budget_us, qi_error *err);

// Binds the answers to a grammar: each begins it anew, and ends where it ends (tokens that end generation count even with
// ignore_end; n_predict and stop strings may cut it short). NULL takes the grammar away. The matcher stays the caller's and must
// not be used or closed before that or qi_session_close. In the middle of an answer the grammar begins with the text that is still
// to come. Where only one token fits, it is taken without computing anything, and computed later together with the next ones: the
// words are the same. jump: so is text about which the grammar leaves no choice, in the longest tokens that it begins with (not
// where its last one might be the beginning of a longer token): that text is the same, and faster, but its tokens may be others
// than sampling would have chosen, and what comes behind it may differ then. Errors: QI_ERR_ARGUMENT (a matcher of another model),
// QI_ERR_STATE (unfinished work).
QI_API qi_result qi_session_constrain(qi_session *s, qi_matcher *mt, bool jump, qi_error *err);

// Stops a running call of this session from any thread: it returns QI_ERR_CANCELLED within milliseconds and leaves the context as
// it was before (qi_seq_shift says where it cannot). With no call running, the next one that computes, tokenizes, moves, saves or
// loads is stopped, unless the session is reset before: what was to be stopped is gone then.
QI_API void qi_cancel(qi_session *s);

// (b) Tokens.

// A token to be computed.
typedef struct qi_decode_token {
  qi_token token;
  int seq;              // 0..n_seqs-1; goes to the end of that sequence
  bool generated;       // chosen by a sampler (takes the arithmetic of generation); false = prompt
  bool want_logits;     // qi_logits shall have a row for it
} qi_decode_token;

// Computes n tokens of one or several sequences together; weights are read once for all. n = 0 changes nothing. On failure all
// sequences are as before. Errors: QI_ERR_ARGUMENT (which token, why), _CONTEXT (n_ctx, or n_kv_tokens: room for all of them is
// taken first), _LIMIT (more than n_logits rows wanted), _CANCELLED, _STATE (unfinished work).
QI_API qi_result qi_decode(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err);
// Takes note of the same work; qi_step does it. At most n_seqs * n_ctx tokens.
QI_API qi_result qi_decode_begin(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err);
// Works for about budget_us microseconds (0 = until done). QI_OK = nothing is left to do; QI_AGAIN = call again.
// Errors: QI_ERR_CANCELLED (the work is dropped).
QI_API qi_result qi_step(qi_session *s, uint32_t budget_us, qi_error *err);

// Logits of the i-th wanting token of the last qi_decode or prompt (-1 = the last one): float32 [n_vocab], valid until the next
// call that computes. NULL when there is none.
QI_API const float *qi_logits(const qi_session *s, int i);

// Tokens in a sequence; -1 when seq is out of range.
QI_API int qi_seq_length(const qi_session *s, int seq);
// Cuts a sequence to its first n tokens. Errors: QI_ERR_ARGUMENT, QI_ERR_STATE (unfinished work), QI_ERR_CONTEXT (of models with a
// sliding window: a token there would see some whose room was given back; n = 0 always works).
QI_API qi_result qi_seq_truncate(qi_session *s, int seq, int n, qi_error *err);
// Sequence `to` becomes the first n tokens of `from`: what it held is forgotten. Costs next to nothing: keys and values are shared
// until either sequence goes on in a page of 128 tokens that both have, which is then copied. Logits of what follows have the same
// bits as if `to` had been given these tokens itself. Errors: as qi_seq_truncate; from and to must differ.
QI_API qi_result qi_seq_fork(qi_session *s, int from, int to, int n, qi_error *err);
// Context shift: drops n_drop tokens after the first n_keep; those behind them move down, their keys are rotated to the new
// positions (and rounded again to kv_type). The sequence goes on as if it had these positions, but what keys and values of later
// tokens took from the dropped ones stays in them: logits are not those of the shorter text. Takes time for each token that moves.
// Where there are unused pages (of 128 tokens, out of n_kv_tokens) for all those that tokens move to, it can be cancelled
// all the time; with fewer they move in place, and once that has begun it goes on to its end.
// Errors: QI_ERR_ARGUMENT, QI_ERR_STATE (unfinished work), QI_ERR_CONTEXT (as qi_seq_truncate; or no unused page for what others
// share), QI_ERR_CANCELLED. On failure nothing is changed.
QI_API qi_result qi_seq_shift(qi_session *s, int seq, int n_keep, int n_drop, qi_error *err);
// Forgets all sequences, unfinished work, the sampler's history, and a qi_cancel that has stopped nothing yet.
QI_API void qi_session_reset(qi_session *s);

// Save and restore. A saved session holds tokens, keys and values of all sequences (what they share once), logits of the last call,
// the text interface with held-back text and pending tokens, where it is in a grammar, and the sampler's random state and history.
// Loaded into a session with the same desc, what follows has the same bits as if it had not been stopped. It does not hold: the
// desc with sampling parameters and stop strings, the grammar itself, statistics. About as large as the pages that are in use.
//
// It can be loaded into sessions of the same model file with the same kv_type that have room for it: n_ctx, n_seqs, n_kv_tokens,
// n_logits, and stop strings as long as the text held back. (Of models with two sets of rotations, for short and for long contexts,
// n_ctx must also choose the same one.) One that follows a grammar needs a session that is constrained to the same one before; what
// was saved without begins it anew. path, threads and sampling may differ. Files of other machines will do if these order bytes
// alike. Anything else, and damaged or hostile files, are refused and leave the session as it was; unfinished work is
// dropped only where loading succeeds. Any number of bytes of a file may be wrong: what passes its checks does no harm.

// Writes the session to out[0..*n_out-1]. out NULL and cap 0: only *n_out. All of them: the same state gives the same bytes.
// Errors: QI_ERR_ARGUMENT, QI_ERR_STATE (unfinished work), QI_ERR_LIMIT (cap is less than *n_out: nothing was written),
// QI_ERR_CANCELLED (what was written is of no use).
QI_API qi_result qi_session_save(qi_session *s, void *out, size_t cap, size_t *n_out, qi_error *err);
// The same in parts. Errors: as above, and QI_ERR_IO (`write` returned false).
QI_API qi_result qi_session_save_to(qi_session *s, const qi_writer *writer, qi_error *err);
// The same to a file, which is written as "PATH.part", brought to the disk and renamed: at the path is the old file or the new one,
// also when the process is killed meanwhile. Asks the session's allocator for the length of the path.
// Errors: as above; QI_ERR_IO with the system's reason (also: another save to this path is under way), QI_ERR_OOM,
// QI_ERR_UNSUPPORTED (QI_NO_STDIO).
QI_API qi_result qi_session_save_path(qi_session *s, const char *path, qi_error *err);

// The session becomes the saved one. Errors: QI_ERR_ARGUMENT (another model, kv_type, set of rotations or grammar), QI_ERR_CONTEXT
// and QI_ERR_LIMIT (no room), QI_ERR_FORMAT (damaged), QI_ERR_UNSUPPORTED (of another version or order of bytes), QI_ERR_CANCELLED
// (the session is as before or, when most was done, reset).
QI_API qi_result qi_session_load(qi_session *s, const void *data, size_t size, qi_error *err);
// The same from callbacks, or a path. It is read twice: once to check it. Should the second time fail or bring something else, the
// session is reset. Errors: as above, QI_ERR_IO, QI_ERR_UNSUPPORTED (a path with QI_NO_STDIO).
QI_API qi_result qi_session_load_from(qi_session *s, const qi_reader *reader, qi_error *err);
QI_API qi_result qi_session_load_path(qi_session *s, const char *path, qi_error *err);

// What a session did and has.
typedef struct qi_session_stats {
  uint64_t n_prompt, n_generated;          // tokens computed in each role
  double prompt_seconds, generate_seconds; // spent on them
  uint64_t heap_bytes, kv_bytes;           // of the allocator; of that, the key-value cache
  uint64_t kv_tokens, kv_tokens_unused;    // tokens that the cache has room for; of these, in pages that no sequence uses
  uint64_t n_drafted, n_accepted;          // tokens guessed ahead (n_generated counts them too); of these, that came true
  int n_threads;                           // that generate; see qi_pool_desc
  bool tuning;                             // n_threads is still being measured
  qi_isa isa;                              // in use
} qi_session_stats;
// s NULL: all zero.
QI_API void qi_session_get_stats(const qi_session *s, qi_session_stats *out);

// ---- batches ----

// Many requests at once, each with its own text, sampler and end, over the sequences of a session that belongs to the batch:
// weights are read once for all. Each answer has the bits of a lone session of the same desc, whatever else runs beside it.
//
//   while ((r = qi_batch_step(b, 0, &err)) >= 0 && r != QI_END)
//     while (qi_batch_poll(b, &event)) ...
//
// Who comes next: higher priority first, then in the order of submission. A request that 16 later ones have overtaken counts as one
// priority higher, and so on, so none waits forever. The first one waits until a sequence is free and the cache has room for its
// tokens; smaller ones behind it do not go before it. Requests that run are not stopped for those that wait.
//
// When the cache gets full, the last of the running requests in that order gives its room back, waits, and is computed again later:
// its text goes on where it was. One that runs alone and still finds no room ends with QI_DONE_CONTEXT.
typedef struct qi_batch qi_batch;

// How a batch shall be; zero = default.
typedef struct qi_batch_desc {
  qi_session_desc session;   // n_seqs: requests that run at once; n_kv_tokens: tokens of all of them. sampler and stop are no
                             // defaults: they say how much memory those of one request may take (and 1 KB more). Temperature,
                             // top_k, top_p, min_p, typical_p and the like take none; penalties, DRY and long lists do.
                             // Of no meaning: n_logits, n_predict, ignore_end
  int n_requests;            // that are there at once: waiting, running, kept, or with results not polled; 0 = 4 * n_seqs, at
                             // most 65536. Each takes 5 * n_ctx bytes
  int n_step_tokens;         // tokens computed in a step while any request generates: one of each of these, then prompts, and
                             // guesses (see qi_session_desc) in what these leave. So it says how long prompts hold up the others.
                             // 0 = 64; at least n_seqs. Else a step has n_batch
} qi_batch_desc;

// All memory is taken here; later only qi_batch_submit asks for some when it is given text, and gives it back (qi_tokenize).
// Errors: as qi_session_open.
QI_API qi_result qi_batch_open(qi_batch **out, const qi_model *m, const qi_batch_desc *desc, qi_error *err);
QI_API void qi_batch_close(qi_batch *b); // NULL is fine; requests are forgotten

// Bytes that qi_batch_open with this desc will ask of the allocator, all of them until close. Errors: as qi_session_memory.
QI_API qi_result qi_batch_memory(const qi_model *m, const qi_batch_desc *desc, uint64_t *bytes, qi_error *err);

// What is asked for. Nothing of it needs to stay, but the matcher.
typedef struct qi_batch_request {
  const char *text;          // the prompt: either text (special tokens as the session's desc says) ...
  size_t len;                // its bytes; 0 = up to its terminator
  const qi_token *ids;       // ... or n_ids tokens
  size_t n_ids;
  qi_sampler_desc sampler;   // zero = greedy
  const char *const *stop;   // n_stop strings that end the answer, as in qi_session_desc
  int n_stop;
  qi_matcher *matcher;       // the answer follows its grammar, as in qi_session_constrain without jump. One of its
                             // own for each request (they may share); not to be used or closed before the end is polled
  int priority;              // higher goes first; any number
  int n_predict;             // tokens of the answer; 0 = until the end, -1 = none: only the prompt is computed
  bool ignore_end;           // go on after end tokens
  bool keep;                 // its sequence stays after the end for others to share, until qi_batch_cancel. At most n_seqs - 1
  uint64_t share;            // another request: what the texts have in common from the start on is computed once. Of one that has
                             // ended the answer counts too, as if its conversation went on. 0 = none
  void *user;                // comes back in events
} qi_batch_request;

// Takes note of a request; *id is its name from now on, never 0. The work is done by qi_batch_step.
// Errors: QI_ERR_ARGUMENT, QI_ERR_CONTEXT (it would never fit), QI_ERR_LIMIT (n_requests are there, n_seqs - 1 are kept, or its
// sampler and stop strings take too much memory), QI_ERR_OOM (text), QI_ERR_CANCELLED (text, while qi_cancel stops the session).
// After one nothing has changed.
QI_API qi_result qi_batch_submit(qi_batch *b, const qi_batch_request *request, uint64_t *id, qi_error *err);

// Works on the next token of each running request, for about budget_us microseconds (0 = until the step is done). QI_OK: the step
// is done, there may be something to poll, call again for more. QI_AGAIN: the budget is spent in mid-step. QI_END: nothing is left
// to do or to poll. A request whose last piece has not been polled does not go on. Where guesses came true, the next steps are only
// for these requests, and compute nothing.
// Errors: QI_ERR_CANCELLED (qi_cancel; the step is dropped, no request is lost: call again).
QI_API qi_result qi_batch_step(qi_batch *b, uint32_t budget_us, qi_error *err);

// Why a request ended.
typedef enum qi_done {
  QI_DONE_NOT = 0,   // it goes on
  QI_DONE_END,       // an end token
  QI_DONE_STOP,      // a stop string
  QI_DONE_LIMIT,     // n_predict tokens are there
  QI_DONE_CANCELLED, // qi_batch_cancel
  QI_DONE_CONTEXT,   // n_ctx tokens are there, or the cache has no room left
  QI_DONE_GRAMMAR,   // the grammar cannot go on: qi_matcher_allowed says why
  QI_DONE_COUNT
} qi_done;
QI_API const char *qi_done_name(qi_done done); // "end" and so on; static text, "?" when out of range

// A piece of an answer, or its end.
typedef struct qi_batch_event {
  uint64_t id;
  void *user;
  qi_piece piece;    // text valid until the next qi_batch_poll or qi_batch_step. At the end: text that was held back, and the end
                     // token or -1
  qi_done done;      // not 0: the last event of this request; its id is then free, unless it is kept
} qi_batch_event;

// The next event; false when there is none. Pieces of one request come in order, its end last.
QI_API bool qi_batch_poll(qi_batch *b, qi_batch_event *out);

// Ends a request; its last event is still to be polled. What is kept is forgotten, without an event. Takes effect at once, or after
// the step that is under way; none on a request that has ended by itself. Errors: QI_ERR_ARGUMENT (no such request, or its last
// event has been polled).
QI_API qi_result qi_batch_cancel(qi_batch *b, uint64_t id, qi_error *err);

// The session that computes, for qi_cancel and qi_session_get_stats; other calls would disturb the batch. NULL for NULL.
QI_API qi_session *qi_batch_session(qi_batch *b);

typedef struct qi_batch_stats {
  size_t n_waiting, n_running; // requests now
  uint64_t n_put_back;         // how often one gave its room back
} qi_batch_stats;
// b NULL: all zero.
QI_API void qi_batch_get_stats(const qi_batch *b, qi_batch_stats *out);

#ifdef __cplusplus
}
#endif
#endif // QINFER_H
