// generated from src/qinfer.h: edit there
// The order of everything: tools/amalgamate.py inlines these parts into ../qinfer.h. A part includes what it uses, so any of them
// may be read alone.

// Systems hide what the implementation needs behind these; they count only before the first system header.
#if defined(QINFER_IMPLEMENTATION) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#if defined(QINFER_IMPLEMENTATION) && !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64
#endif
// generated from src/api.h: edit there
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
  QI_ERR_STATE = -9        // not possible now (for example: logits asked for before any were computed)
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
// decoding. Not covered: file mappings and thread stacks.
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
// false on failure; it is never asked beyond `size`. Called only while a model is opened or validated, from the opening thread.
typedef struct qi_reader {
  bool (*read)(void *user, uint64_t offset, void *dst, size_t size);
  uint64_t size; // of the whole file
  void *user;
} qi_reader;

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
//            a larger code is a smaller weight; code 0 is zero. log_min and log_max are of the whole tensor.
//   QINS8_K  sign and 7-bit logarithmic code under a scale for 16 weights, 8.5 bits a weight (as Q8_0).
//   QINS4_K  4-bit logarithmic code, scale and one of two ranges for 16 weights, 4.5 bits a weight (as Q4_0, Q4_K, IQ4_NL).
//
// Blocks, little-endian, bytes at these offsets (d: float16):
//   I2_S     256 weights,  64 bytes  0 pairs[64]: byte 32 h + l has weights 128 h + l, + 32, + 64, + 96, highest bits first;
//                                    0, 1, 2 for -1, 0, 1
//            tail           32 bytes  0 scale (float32), the rest zero
//   QINS8     32 weights,  36 bytes  0 signs[4]: bit i % 8 of byte i / 8, set = negative; 4 codes[32]
//            tail           32 bytes  0 log_min, 4 log_max (float32), the rest zero
//   QINS8_K  256 weights, 272 bytes  0 d, 2 groups[14], 16 codes[256]: w = d / 2^10 * s * V[c], c = bits 0..6, bit 7 sign;
//                                    V[c] = round(255 (4^(c / 127) - 1) / 3)
//   QINS4_K  256 weights, 144 bytes  0 d, 2 groups[14], 16 nibbles[128]: w = d / 2^10 * s * T[t][c]; byte 32 h + l has weights
//                                    64 h + l (low) and 64 h + 32 + l (high)
//            T[0] = -116 -95 -76 -59 -43 -29 -15 -3 9 22 36 51 68 86 105 127
//            T[1] = -98 -74 -55 -39 -26 -16 -7 0 7 16 26 39 55 74 98 127
//   groups[14]: seven bits for each 16 weights. Byte j < 8 has bits 0..3 of group j (low) and of group j + 8 (high); the 16-bit
//   words at 8, 10, 12 have bits 4, 5, 6 of group g at bit g. QINS8_K: s. QINS4_K: 0..4 size of s, 5 its sign (set = negative),
//   6 t.
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

// Highest instruction set to use; what the CPU lacks is never used. AUTO = the best there is.
typedef enum qi_isa {
  QI_ISA_AUTO = 0,
  QI_ISA_SCALAR,
  QI_ISA_AVX2,        // with FMA and F16C
  QI_ISA_AVX_VNNI,
  QI_ISA_AVX512,      // F, BW, DQ, VL and VNNI
  QI_ISA_AVX512_BF16,
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
typedef struct qi_pool_desc {
  int n_threads;           // 0 = cores this process may use, at most 8; 1 = only the calling thread
  qi_isa isa;              // default AUTO
  qi_parallel parallel;    // the host's job system instead of own threads; then n_threads must be set
  qi_allocator allocator;  // default malloc
} qi_pool_desc;

// Starts the threads; they sleep when nothing is to be done. Close with qi_pool_close, which waits for them to end.
// Errors: QI_ERR_ARGUMENT, QI_ERR_OOM, QI_ERR_LIMIT (more than 256 threads), QI_ERR_UNSUPPORTED (isa of another architecture).
QI_API qi_result qi_pool_open(qi_pool **out, const qi_pool_desc *desc, qi_error *err);
QI_API void qi_pool_close(qi_pool *pool); // NULL is fine; no session may still use it

QI_API int qi_pool_n_threads(const qi_pool *pool); // with the calling one; 0 for NULL
QI_API qi_isa qi_pool_isa(const qi_pool *pool); // what AUTO became, or the forced one if the CPU has it, else the next lower

// Arithmetic of matrix products. Results never depend on threads or on how work was cut.
//   INTEGER  activations to int8 per block, exact integer products in a block, float32 over blocks in one order: the same bits on
//            every CPU. Formats without integer form (F32, F16, BF16) multiply in float32 in the same fixed order.
//   BF16     weights and activations rounded to bfloat16, float32 sums: fastest for many rows; same bits on one instruction set.
//   FLOAT    weights dequantised to float32, float32 activations and sums: the most exact, same bits on every CPU.
//   AUTO     F32 and F16 weights FLOAT; generated tokens INTEGER; prompts BF16 where the CPU has a matrix unit for it (AMX), and
//            for weights in BF16, else INTEGER: what is fastest.
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
  bool no_mmap;               // read the file into memory of the allocator instead of mapping it
  qi_allocator allocator;     // default malloc
  qi_logger logger;           // default silent
  qi_progress progress;       // while tensors are read (not for mappings), and while the cache is filled
  uint64_t cache_bytes;       // memory beside the file's weights, at most, for weights ready to be multiplied; 0 = none,
                              // UINT64_MAX = for all. No result changes a bit; QI_LOAD_ALL only. See qi_cache_info
  qi_path cache_path;         // what it shall serve: the path of sessions, default AUTO
  qi_pool *cache_pool;        // fills it, and says for which instruction set. NULL = the calling thread and the best one. Sessions
                              // of another instruction set use what they can of it
} qi_model_desc;

// Opens a model. The desc and its path are not needed afterwards (data is). Close with qi_model_close. A Hugging Face folder looks
// like a GGUF file afterwards: metadata and names of tensors are translated (of the tokenizer from QI_LOAD_VOCAB on). Its tensors
// are F32, F16, BF16, or packed ternary of BitNet, which is converted to I2_S; what cannot give the model's own results is refused.
// Errors: QI_ERR_ARGUMENT, _OOM, _IO, _FORMAT, _UNSUPPORTED (architecture, tokenizer or weight format named in the message),
// _LIMIT, _CANCELLED.
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

// ---- samplers ----

// Makes a token more or less likely.
typedef struct qi_logit_bias {
  qi_token token;   // ids out of range are refused
  float bias;       // added to the logit; -INFINITY forbids the token
} qi_logit_bias;

// Applied in this order: bias, penalties, then (unless greedy) top_k, top_p, min_p, temperature, and a draw.
typedef struct qi_sampler_desc {
  float temperature;         // 0 = greedy: the highest logit, the lowest id among equals
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
// Puts a token into the history that penalties look at (prompt tokens too, if they shall count).
QI_API void qi_sampler_accept(qi_sampler *sp, qi_token token);
// Forgets history; random numbers start again from `seed`.
QI_API void qi_sampler_reset(qi_sampler *sp, uint64_t seed);

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
  int n_threads;             // as in qi_pool_desc
  qi_isa isa;                // as in qi_pool_desc
  qi_parallel parallel;      // as in qi_pool_desc
  qi_pool *pool;             // shared pool instead of an own one; must outlive the session; the three above then do not count
  qi_path path;              // default AUTO; else all tokens take this one
  qi_format kv_format;       // F16 (default) or F32
  qi_sampler_desc sampler;   // used by qi_next
  const char *const *stop;   // n_stop strings that end generation; not part of the text. Copied; at most 64, UTF-8 of 1..256 bytes
  int n_stop;                // strings of stop
  int n_predict;             // tokens that qi_next gives after a prompt; 0 = until the end
  bool ignore_end;           // go on after end tokens
  bool no_add_special;       // qi_prompt adds no begin token
  bool no_parse_special;     // qi_prompt takes names of control tokens as plain text (for text of strangers)
  bool print_special;        // pieces show names of control tokens
  qi_observer observer;      // default none
  qi_allocator allocator;    // default: the model's
} qi_session_desc;

// All memory is taken here; nothing is allocated while decoding (qi_prompt's text excepted: qi_tokenize).
// Errors: QI_ERR_ARGUMENT, QI_ERR_OOM, QI_ERR_STATE (model not opened with QI_LOAD_ALL), QI_ERR_LIMIT.
QI_API qi_result qi_session_open(qi_session **out, const qi_model *m, const qi_session_desc *desc, qi_error *err);
QI_API void qi_session_close(qi_session *s); // NULL is fine

// Bytes that qi_session_open with this desc will ask of the allocator, all of them until close. Asks for nothing itself.
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
// Errors: QI_ERR_CONTEXT (says how many tokens did not fit), _CANCELLED, _ARGUMENT, _OOM.
QI_API qi_result qi_prompt(qi_session *s, const char *text, qi_error *err);
// The same for text with a length (may hold zeros), or ids. They only take note: the work is done by qi_step, or the next qi_next.
// Errors: as above but _CANCELLED; QI_ERR_STATE (earlier work is unfinished).
QI_API qi_result qi_prompt_begin(qi_session *s, const char *text, size_t len, qi_error *err);
QI_API qi_result qi_prompt_tokens(qi_session *s, const qi_token *ids, size_t n, qi_error *err);

// One token more. QI_OK: *out holds a piece. QI_END: generation ended; *out holds the last held-back text (often len 0). Call
// qi_prompt to go on. Errors: QI_ERR_CONTEXT, QI_ERR_STATE (no prompt yet), QI_ERR_CANCELLED.
QI_API qi_result qi_next(qi_session *s, qi_piece *out, qi_error *err);
// As qi_next, for at most about budget_us microseconds: QI_AGAIN when the token is not ready; call again, any time later.
QI_API qi_result qi_next_within(qi_session *s, qi_piece *out, uint32_t budget_us, qi_error *err);

// Stops a running call of this session from any thread: it returns QI_ERR_CANCELLED within milliseconds and leaves the context as
// it was before. With no call running, the next one is stopped.
QI_API void qi_cancel(qi_session *s);

// (b) Tokens.

// A token to be computed.
typedef struct qi_decode_token {
  qi_token token;
  int seq;              // 0..n_seqs-1; goes to the end of that sequence
  bool generated;       // chosen by a sampler (takes the arithmetic of generation); false = prompt
  bool want_logits;     // qi_logits shall have a row for it
} qi_decode_token;

// Computes n tokens of one or several sequences together; weights are read once for all. On failure all sequences are as before.
// Errors: QI_ERR_ARGUMENT (which token, why), _CONTEXT, _LIMIT (more than n_logits rows wanted), _CANCELLED, _STATE (unfinished
// work).
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
// Cuts a sequence to its first n tokens. Errors: QI_ERR_ARGUMENT, QI_ERR_STATE (unfinished work).
QI_API qi_result qi_seq_truncate(qi_session *s, int seq, int n, qi_error *err);
// Forgets all sequences, unfinished work and the sampler's history.
QI_API void qi_session_reset(qi_session *s);

// What a session did and has.
typedef struct qi_session_stats {
  uint64_t n_prompt, n_generated;          // tokens computed in each role
  double prompt_seconds, generate_seconds; // spent on them
  uint64_t heap_bytes, kv_bytes;           // of the allocator; of that, the key-value cache
  int n_threads;                           // in use
  qi_isa isa;                              // in use
} qi_session_stats;
// s NULL: all zero.
QI_API void qi_session_get_stats(const qi_session *s, qi_session_stats *out);

#ifdef __cplusplus
}
#endif
#endif // QINFER_H

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

// generated from src/public.h: edit there
// ==== >>public : the functions of api.h: check arguments, call the parts ====
#ifndef QI__PUBLIC_H
#define QI__PUBLIC_H

// generated from src/infer/session.h: edit there
// ==== >>session : sequences, the work that is under way, and text ====
#ifndef QI__SESSION_H
#define QI__SESSION_H

// generated from src/model/model.h: edit there
// ==== >>model : an open model ====
#ifndef QI__MODEL_H
#define QI__MODEL_H

// generated from src/model/cache.h: edit there
// ==== >>cache : weights kept ready to be multiplied, within a budget of bytes ====
#ifndef QI__MODEL_CACHE_H
#define QI__MODEL_CACHE_H

// generated from src/kernels/forms.h: edit there
// ==== >>forms : weights made ready to be multiplied ====
#ifndef QI__KERNELS_FORMS_H
#define QI__KERNELS_FORMS_H

// generated from src/base/threads.h: edit there
// ==== >>threads : the thread pool ====
#ifndef QI__THREADS_H
#define QI__THREADS_H

// generated from src/base/cpu.h: edit there
// ==== >>cpu : instruction sets, cores, clock, floating-point mode ====
#ifndef QI__CPU_H
#define QI__CPU_H

// generated from src/base/error.h: edit there
// ==== >>error : results with a message, and the log ====
#ifndef QI__ERROR_H
#define QI__ERROR_H

// generated from src/base/config.h: edit there
// ==== >>config : system headers, compilers, small helpers ====
#ifndef QI__CONFIG_H
#define QI__CONFIG_H


#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h> // vsnprintf, also with QI_NO_STDIO
#include <stdlib.h>
#include <string.h>

#ifndef QI_ASSERT
#define QI_ASSERT(x) ((void)0)
#endif

#if defined(__GNUC__) || defined(__clang__)
// Kernels are made of inlined parts with constant arguments. Without optimisation that would only make objects large and compiling
// slow (30 s in place of 2).
#if defined(__OPTIMIZE__)
#define QI__INLINE static inline __attribute__((always_inline, unused))
#else
#define QI__INLINE static inline __attribute__((unused))
#endif
#define QI__FN static __attribute__((unused)) // a part may be used by tests only, or by no one under QI_NO_*
#define QI__PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define QI__TARGET(features) __attribute__((target(features)))
#else
#define QI__INLINE static inline
#define QI__FN static
#define QI__PRINTF(fmt, args)
#define QI__TARGET(features)
#endif

// Loops over registers must be unrolled whole, or the registers live in memory.
#if defined(__clang__)
#define QI__UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define QI__UNROLL _Pragma("GCC unroll 32")
#else
#define QI__UNROLL
#endif

#define QI__COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))
#define QI__CACHE_LINE 64

// Names a compile-time check; C99 has no _Static_assert.
#define QI__STATIC_ASSERT(cond, name) typedef char qi__static_assert_##name[(cond) ? 1 : -1]

QI__STATIC_ASSERT(CHAR_BIT == 8 && sizeof(float) == 4 && sizeof(double) == 8 && sizeof(int) >= 4, machine);

QI__INLINE int64_t qi__min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
QI__INLINE int64_t qi__max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
QI__INLINE size_t qi__min_size(size_t a, size_t b) { return a < b ? a : b; }

// Little-endian values at any address.
QI__INLINE uint16_t qi__load_u16(const void *p) {
  const uint8_t *b = (const uint8_t *)p;
  return (uint16_t)(b[0] | b[1] << 8);
}
QI__INLINE uint32_t qi__load_u32(const void *p) {
  const uint8_t *b = (const uint8_t *)p;
  return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
QI__INLINE uint64_t qi__load_u64(const void *p) {
  return (uint64_t)qi__load_u32(p) | (uint64_t)qi__load_u32((const uint8_t *)p + 4) << 32;
}
QI__INLINE void qi__store_u16(void *p, uint16_t v) {
  uint8_t *b = (uint8_t *)p;
  b[0] = (uint8_t)v;
  b[1] = (uint8_t)(v >> 8);
}

QI__INLINE float qi__bits_f32(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
QI__INLINE uint32_t qi__f32_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
QI__INLINE void qi__store_f32(void *p, float f) {
  uint32_t u = qi__f32_bits(f);
  qi__store_u16(p, (uint16_t)u);
  qi__store_u16((uint8_t *)p + 2, (uint16_t)(u >> 16));
}

// Eight lanes added in the order of a 256-bit register that is folded in halves.
QI__INLINE float qi__sum_lanes(const float *a) {
  return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

// True for finite numbers; works on bits, so no compiler flag can decide it beforehand.
QI__INLINE bool qi__is_finite(float f) { return (qi__f32_bits(f) & 0x7f800000u) != 0x7f800000u; }
QI__INLINE bool qi__is_nan(float f) { return (qi__f32_bits(f) & 0x7fffffffu) > 0x7f800000u; }

// clang before 19 splits fmaf into a product and a sum under the host's -ffast-math, whatever its pragmas say; not under another
// name.
#if defined(__clang__) && defined(__FAST_MATH__) && defined(__x86_64__) && defined(__ELF__) && !defined(__FMA__)
extern float qi__libm_fmaf(float a, float b, float c) __asm__("fmaf");
#define fmaf(a, b, c) qi__libm_fmaf(a, b, c)
#endif

#endif // QI__CONFIG_H

// Sets code and message (both may be ignored by a NULL err) and returns the code: `return qi__fail(err, QI_ERR_IO, "...", ...)`.
QI__FN QI__PRINTF(3, 4) qi_result qi__fail(qi_error *err, qi_result code, const char *fmt, ...) {
  if (err) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, args);
    va_end(args);
    err->code = code;
  }
  return code;
}

// Puts where in front of a message that an inner function wrote: "tensor blk.0.attn_q.weight: " + "offset ...".
QI__FN QI__PRINTF(2, 3) void qi__fail_prefix(qi_error *err, const char *fmt, ...) {
  if (!err) return;
  char inner[sizeof err->msg];
  memcpy(inner, err->msg, sizeof inner);
  va_list args;
  va_start(args, fmt);
  vsnprintf(err->msg, sizeof err->msg, fmt, args);
  va_end(args);
  size_t n = strlen(err->msg);
  size_t m = qi__min_size(strlen(inner), sizeof err->msg - 1 - n);
  memcpy(err->msg + n, inner, m);
  err->msg[n + m] = 0;
}

QI__FN qi_result qi__fail_oom(qi_error *err, const char *what, size_t bytes) {
  return qi__fail(err, QI_ERR_OOM, "%s: the allocator gave no %zu bytes", what, bytes);
}

QI__FN QI__PRINTF(3, 4) void qi__log(const qi_logger *logger, qi_log_level level, const char *fmt, ...) {
  if (!logger->fn) return;
  char line[512];
  va_list args;
  va_start(args, fmt);
  vsnprintf(line, sizeof line, fmt, args);
  va_end(args);
  logger->fn(logger->user, level, line);
}

// A slice of bytes of a file made fit for a message: at most 63 bytes, whatever is not printable ASCII shown as '?'.
typedef struct qi__printable {
  char s[64];
} qi__printable;

QI__FN qi__printable qi__show(const char *s, uint64_t len) {
  qi__printable out;
  size_t n = len < sizeof out.s - 1 ? (size_t)len : sizeof out.s - 1;
  for (size_t i = 0; i < n; i++) out.s[i] = s[i] >= 0x20 && s[i] < 0x7f ? s[i] : '?';
  out.s[n] = 0;
  return out;
}
QI__INLINE qi__printable qi__show_text(const char *s) { return qi__show(s, strlen(s)); }

#endif // QI__ERROR_H

#include <time.h>
#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

// QI__X86 and QI__ARM say whose levels of qi_isa mean something here; QI__X86_64 and QI__ARM64 that SIMD kernels can be compiled.
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#define QI__X86 1
#elif defined(__aarch64__) || defined(__arm__) || defined(_M_ARM64)
#define QI__ARM 1
#endif
#if defined(__GNUC__) && !defined(QI_NO_SIMD)
#if defined(__x86_64__)
#define QI__X86_64 1
#include <cpuid.h>
#elif defined(__aarch64__) && !defined(__AARCH64EB__) // lanes are counted in little-endian order
#define QI__ARM64 1
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif
#endif

// ---- names ----

static const char *const qi__isa_names[QI_ISA_COUNT] = {"auto",        "scalar", "avx2", "avx_vnni", "avx512",
                                                        "avx512_bf16", "amx",    "neon", "dotprod",  "i8mm"};

QI__FN const char *qi__isa_name(qi_isa isa) { return (unsigned)isa < QI_ISA_COUNT ? qi__isa_names[isa] : "?"; }

// Any case; -1 when unknown.
QI__FN int qi__isa_from_name(const char *name) {
  for (int i = 0; name && i < QI_ISA_COUNT; i++) {
    const char *a = qi__isa_names[i], *b = name;
    while (*a && *a == (*b >= 'A' && *b <= 'Z' ? *b + 32 : *b)) a++, b++;
    if (!*a && !*b) return i;
  }
  return -1;
}

// ---- features ----

// What kernels may use: what the CPU and the operating system have, masked by the chosen level of qi_isa. Kernel tables look here.
typedef struct qi__cpu {
  bool avx2;        // with FMA and F16C
  bool avx_vnni;    // VEX-coded vpdpbusd
  bool avx512;      // F, BW, DQ, VL, VNNI
  bool avx512_vbmi; // also; part of the level where the CPU has it
  bool avx512_bf16;
  bool amx;         // tiles, INT8, BF16; Linux let us use them
  bool neon;
  bool dotprod;
  bool i8mm;        // with BF16
} qi__cpu;

#if defined(QI__X86_64)
// Register sets that the operating system saves; needs OSXSAVE. Spelled as bytes: the mnemonic needs a target option.
QI__FN uint64_t qi__xgetbv(void) {
  uint32_t lo, hi;
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

// Linux hands out tile registers only to processes that ask: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), once, for good.
// Refused by kernels before 5.16, by some sandboxes, and when an alternate signal stack is too small for the larger frames.
QI__FN bool qi__amx_permitted(void) {
#if defined(__linux__) && defined(__LP64__)
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(158L), "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
  return result == 0;
#else
  return false;
#endif
}

QI__FN void qi__cpu_detect_x86(qi__cpu *cpu) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return;
  const unsigned base = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29; // FMA, OSXSAVE, AVX, F16C
  if ((c & base) != base) return;
  uint64_t saved = qi__xgetbv();
  if ((saved & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return; // xmm, ymm
  unsigned max_subleaf = a, a1 = 0, b1, c1, d1;
  if (max_subleaf >= 1) __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
  const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; // F, DQ, BW, VL
  const unsigned amx = 1u << 22 | 1u << 24 | 1u << 25;               // BF16, TILE, INT8
  cpu->avx2 = b >> 5 & 1;
  cpu->avx_vnni = cpu->avx2 && (a1 >> 4 & 1);
  cpu->avx512 = cpu->avx2 && (saved & 0xe6) == 0xe6 && (b & avx512) == avx512 && (c >> 11 & 1); // opmask, zmm
  cpu->avx512_vbmi = cpu->avx512 && (c >> 1 & 1);
  cpu->avx512_bf16 = cpu->avx512 && (a1 >> 5 & 1);
  cpu->amx = cpu->avx512_bf16 && (saved & 0x60000) == 0x60000 && (d & amx) == amx; // tile configuration, tile data
}
#endif

#if defined(QI__ARM64)
#if defined(__APPLE__)
QI__FN bool qi__sysctl_flag(const char *name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}
#endif

QI__FN void qi__cpu_detect_arm(qi__cpu *cpu) {
  cpu->neon = true; // part of every AArch64
#if defined(__linux__)
  unsigned long cap = getauxval(AT_HWCAP), cap2 = getauxval(26); // AT_HWCAP2
  cpu->dotprod = cap >> 20 & 1;                                  // HWCAP_ASIMDDP
  cpu->i8mm = cpu->dotprod && (cap2 >> 13 & 1) && (cap2 >> 14 & 1); // HWCAP2_I8MM, HWCAP2_BF16
#elif defined(__APPLE__)
  cpu->dotprod = qi__sysctl_flag("hw.optional.arm.FEAT_DotProd");
  cpu->i8mm = cpu->dotprod && qi__sysctl_flag("hw.optional.arm.FEAT_I8MM") && qi__sysctl_flag("hw.optional.arm.FEAT_BF16");
#endif
}
#endif

// All that the machine has; tiles are listed without being asked for.
QI__FN qi__cpu qi__cpu_detect(void) {
  qi__cpu cpu;
  memset(&cpu, 0, sizeof cpu);
#if defined(QI__X86_64)
  qi__cpu_detect_x86(&cpu);
#elif defined(QI__ARM64)
  qi__cpu_detect_arm(&cpu);
#endif
  return cpu;
}

// ---- choice of a level ----

// Whether all kernels that are special to a level can run.
QI__FN bool qi__cpu_has(const qi__cpu *cpu, qi_isa isa) {
  switch (isa) {
  case QI_ISA_SCALAR: return true;
  case QI_ISA_AVX2: return cpu->avx2;
  case QI_ISA_AVX_VNNI: return cpu->avx_vnni;
  case QI_ISA_AVX512: return cpu->avx512;
  case QI_ISA_AVX512_BF16: return cpu->avx512_bf16;
  case QI_ISA_AMX: return cpu->amx;
  case QI_ISA_NEON: return cpu->neon;
  case QI_ISA_DOTPROD: return cpu->dotprod;
  case QI_ISA_I8MM: return cpu->i8mm;
  default: return false;
  }
}

// A level allows itself and what is below, so the levels of the other architecture need no care: their flags are false.
QI__FN void qi__cpu_mask(qi__cpu *cpu, qi_isa isa) {
  cpu->avx2 = cpu->avx2 && isa >= QI_ISA_AVX2;
  cpu->avx_vnni = cpu->avx_vnni && isa >= QI_ISA_AVX_VNNI;
  cpu->avx512 = cpu->avx512 && isa >= QI_ISA_AVX512;
  cpu->avx512_vbmi = cpu->avx512_vbmi && isa >= QI_ISA_AVX512;
  cpu->avx512_bf16 = cpu->avx512_bf16 && isa >= QI_ISA_AVX512_BF16;
  cpu->amx = cpu->amx && isa >= QI_ISA_AMX;
  cpu->neon = cpu->neon && isa >= QI_ISA_NEON;
  cpu->dotprod = cpu->dotprod && isa >= QI_ISA_DOTPROD;
  cpu->i8mm = cpu->i8mm && isa >= QI_ISA_I8MM;
}

// Highest level at or below `isa` that `cpu` has.
QI__FN qi_isa qi__isa_lower(const qi__cpu *cpu, qi_isa isa) {
  while (isa > QI_ISA_SCALAR && !qi__cpu_has(cpu, isa)) isa = (qi_isa)(isa - 1);
  return isa;
}

// The level to compute with and the features it allows. AUTO = the best there is; one that the CPU lacks = the next lower.
// Tiles are asked of Linux only if AMX would be chosen. cpu may be NULL.
// Errors: QI_ERR_ARGUMENT (out of range), QI_ERR_UNSUPPORTED (isa of another architecture).
QI__FN qi_result qi__isa_choose(qi_isa wanted, qi_isa *isa, qi__cpu *cpu, qi_error *err) {
#if defined(QI__X86)
  const qi_isa first = QI_ISA_AVX2, last = QI_ISA_AMX;
#elif defined(QI__ARM)
  const qi_isa first = QI_ISA_NEON, last = QI_ISA_I8MM;
#else
  const qi_isa first = QI_ISA_SCALAR, last = QI_ISA_SCALAR;
#endif
  if ((unsigned)wanted >= QI_ISA_COUNT)
    return qi__fail(err, QI_ERR_ARGUMENT, "isa: %d, expected 0..%d", (int)wanted, QI_ISA_COUNT - 1);
  if (wanted > QI_ISA_SCALAR && (wanted < first || wanted > last))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "isa: %s is of another architecture; this one has up to %s", qi__isa_name(wanted),
                    qi__isa_name(last));
  qi__cpu found = qi__cpu_detect();
  qi_isa chosen = qi__isa_lower(&found, wanted == QI_ISA_AUTO ? last : wanted);
#if defined(QI__X86_64)
  if (chosen == QI_ISA_AMX && !qi__amx_permitted()) {
    found.amx = false;
    chosen = qi__isa_lower(&found, chosen);
  }
#endif
  qi__cpu_mask(&found, chosen);
  *isa = chosen;
  if (cpu) *cpu = found;
  return QI_OK;
}

// ---- cores ----

#define QI__CPUS_MAX 8192 // Linux's own limit (CONFIG_NR_CPUS)

#if defined(__linux__)
// Set of CPU numbers that the calling thread may run on; false when the system does not tell.
typedef struct qi__cpu_list {
  unsigned char bits[QI__CPUS_MAX / 8]; // more than cpu_set_t holds
} qi__cpu_list;

QI__FN bool qi__cpu_list_get(qi__cpu_list *list) {
  memset(list, 0, sizeof *list);
  // The C function is hidden from hosts that included headers before us without _GNU_SOURCE.
  return syscall(SYS_sched_getaffinity, 0, sizeof *list, list->bits) > 0;
}

// The kernel's masks are arrays of unsigned long.
QI__FN bool qi__cpu_list_has(const qi__cpu_list *list, int i) {
  const size_t word_bits = sizeof(unsigned long) * 8;
  unsigned long word;
  memcpy(&word, list->bits + (size_t)i / word_bits * sizeof word, sizeof word);
  return word >> ((size_t)i % word_bits) & 1;
}

#if !defined(QI_NO_STDIO)
// A small file of /proc or /sys, terminated; false when it cannot be read.
QI__FN bool qi__read_system_file(const char *path, char *text, size_t cap) {
  FILE *f = fopen(path, "r");
  if (!f) return false;
  size_t n = fread(text, 1, cap - 1, f);
  fclose(f);
  text[n] = 0;
  return n > 0;
}

// Hyperthreads share a core; a core counts once, by its lowest sibling. 0 when /sys does not tell.
QI__FN int qi__count_cores(const qi__cpu_list *list) {
  unsigned char seen[QI__CPUS_MAX / 8] = {0};
  char path[96], text[256];
  int n = 0;
  for (int i = 0; i < QI__CPUS_MAX; i++) {
    if (!qi__cpu_list_has(list, i)) continue;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", i);
    if (!qi__read_system_file(path, text, sizeof text)) return 0;
    long sibling = strtol(text, NULL, 10); // "0,64" or "0-1", ascending
    if (sibling < 0 || sibling >= QI__CPUS_MAX) return 0;
    if (!(seen[sibling / 8] >> (sibling % 8) & 1)) n++;
    seen[sibling / 8] |= (unsigned char)(1u << (sibling % 8));
  }
  return n;
}

// CPUs' worth of time that the control group `dir` may use, rounded to whole ones but at least 1; INT_MAX = no limit.
QI__FN int qi__cgroup_quota(const char *dir, bool v2) {
  char path[1200], text[128];
  double quota = 0, period = 0;
  snprintf(path, sizeof path, v2 ? "%s/cpu.max" : "%s/cpu.cfs_quota_us", dir);
  if (!qi__read_system_file(path, text, sizeof text)) return INT_MAX;
  char *rest = text;
  quota = (double)strtol(text, &rest, 10); // "max" reads as 0, v1 has -1 for no limit
  if (v2) {
    period = (double)strtol(rest, NULL, 10);
  } else {
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    if (qi__read_system_file(path, text, sizeof text)) period = (double)strtol(text, NULL, 10);
  }
  if (quota <= 0 || period <= 0 || quota / period > 1e6) return INT_MAX;
  return (int)qi__max_i64(1, (int64_t)(quota / period + 0.5));
}

// Smallest quota of a group and all above it: `dir` is shortened until only its first `root` characters are left.
QI__FN int qi__cgroup_walk(char *dir, size_t root, bool v2) {
  int least = INT_MAX;
  for (;;) {
    int quota = qi__cgroup_quota(dir, v2);
    if (quota < least) least = quota;
    size_t n = strlen(dir);
    if (n <= root) return least;
    while (n > root && dir[n - 1] != '/') n--;
    dir[n > root ? n - 1 : root] = 0;
  }
}

// Limit of this process's control groups, v1 or v2; INT_MAX = none. Lines: "0::/path" (v2), "4:cpu,cpuacct:/path" (v1).
QI__FN int qi__cgroup_limit(void) {
  char text[4096], dir[1100];
  int least = INT_MAX;
  if (!qi__read_system_file("/proc/self/cgroup", text, sizeof text)) return least;
  for (char *line = text; line && *line;) {
    char *end = strchr(line, '\n');
    if (end) *end = 0;
    char *kind = strchr(line, ':'), *path = kind ? strchr(kind + 1, ':') : NULL;
    if (path) {
      *path++ = 0;
      kind++;
      bool v2 = *kind == 0, v1 = strcmp(kind, "cpu") == 0 || strncmp(kind, "cpu,", 4) == 0 || strstr(kind, ",cpu") != NULL;
      const char *root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
      if ((v1 || v2) && strlen(path) < 1024) {
        snprintf(dir, sizeof dir, "%s%s", root, strcmp(path, "/") == 0 ? "" : path);
        int quota = qi__cgroup_walk(dir, strlen(root), v2);
        if (quota < least) least = quota;
      }
    }
    line = end ? end + 1 : NULL;
  }
  return least;
}
#endif // QI_NO_STDIO
#endif // __linux__

// Hardware threads that this process may use, at least 1.
QI__FN int qi__cpu_count_logical(void) {
  long n = 0;
#if defined(__linux__)
  qi__cpu_list list;
  if (qi__cpu_list_get(&list))
    for (int i = 0; i < QI__CPUS_MAX; i++) n += qi__cpu_list_has(&list, i);
#endif
#if defined(_WIN32)
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  n = (long)info.dwNumberOfProcessors;
#elif defined(_SC_NPROCESSORS_ONLN)
  if (n < 1) n = sysconf(_SC_NPROCESSORS_ONLN);
#endif
  return n < 1 ? 1 : (int)qi__min_i64(n, QI__CPUS_MAX);
}

// Cores that this process may use, at least 1: affinity and (Linux) quota of the control group count; hyperthreads of a core count
// once where the system tells; on Apple machines only the fast cores.
QI__FN int qi__cpu_count(void) {
  int n = qi__cpu_count_logical();
#if defined(__linux__) && !defined(QI_NO_STDIO)
  qi__cpu_list list;
  int cores = qi__cpu_list_get(&list) ? qi__count_cores(&list) : 0;
  if (cores > 0 && cores < n) n = cores;
  int quota = qi__cgroup_limit();
  if (quota < n) n = quota;
#elif defined(__APPLE__)
  int cores = 0;
  size_t size = sizeof cores;
  if (sysctlbyname("hw.perflevel0.physicalcpu", &cores, &size, NULL, 0) != 0) {
    size = sizeof cores;
    if (sysctlbyname("hw.physicalcpu", &cores, &size, NULL, 0) != 0) cores = 0;
  }
  if (cores > 0 && cores < n) n = cores;
#endif
  return n;
}

// ---- clock ----

// Microseconds of a clock that never goes back; its zero means nothing.
QI__FN uint64_t qi__now_us(void) {
#if defined(_WIN32)
  LARGE_INTEGER now, per_second;
  QueryPerformanceCounter(&now);
  QueryPerformanceFrequency(&per_second);
  uint64_t t = (uint64_t)now.QuadPart, f = (uint64_t)per_second.QuadPart;
  return t / f * 1000000u + t % f * 1000000u / f;
#else
  struct timespec t;
  if (clock_gettime(CLOCK_MONOTONIC, &t) != 0) return 0;
  return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
#endif
}

// ---- floating-point mode ----

// Results must not depend on what a host did to its threads (flush to zero, another rounding, traps; a program linked with
// -ffast-math starts that way). Whoever computes on a thread of the host does it between these two.
typedef uint64_t qi__fp_mode;

// Compilers do not know that arithmetic depends on the mode: this keeps loads and stores, and so what they feed, on their side.
#if defined(__GNUC__)
#define QI__FP_BARRIER() __asm__ volatile("" ::: "memory")
#else
#define QI__FP_BARRIER() ((void)0)
#endif

// Sets round to nearest, denormals, no traps for the calling thread; returns the mode to give back to qi__fp_leave.
QI__FN qi__fp_mode qi__fp_enter(void) {
#if defined(__GNUC__) && defined(__x86_64__)
  unsigned mode = __builtin_ia32_stmxcsr();
  if ((mode & ~0x3fu) != 0x1f80) __builtin_ia32_ldmxcsr(0x1f80); // the low bits only note what happened
  QI__FP_BARRIER();
  return mode;
#elif defined(__GNUC__) && defined(__aarch64__)
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  if (mode) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
  QI__FP_BARRIER();
  return mode;
#else
  return 0;
#endif
}

QI__FN void qi__fp_leave(qi__fp_mode mode) {
  QI__FP_BARRIER();
#if defined(__GNUC__) && defined(__x86_64__)
  if ((mode & ~0x3fu) != 0x1f80) __builtin_ia32_ldmxcsr((unsigned)mode);
#elif defined(__GNUC__) && defined(__aarch64__)
  if (mode) __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
  (void)mode;
#endif
}

#endif // QI__CPU_H
// generated from src/base/memory.h: edit there
// ==== >>memory : checked sizes, the allocator hook, arenas ====
#ifndef QI__MEMORY_H
#define QI__MEMORY_H


// ---- sizes ----

// *out = a * b or a + b; false on overflow (then *out is unchanged).
QI__INLINE bool qi__mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
  if (b && a > UINT64_MAX / b) return false;
  *out = a * b;
  return true;
}
QI__INLINE bool qi__add_u64(uint64_t a, uint64_t b, uint64_t *out) {
  if (a > UINT64_MAX - b) return false;
  *out = a + b;
  return true;
}
QI__INLINE bool qi__mul_size(size_t a, size_t b, size_t *out) {
  if (b && a > SIZE_MAX / b) return false;
  *out = a * b;
  return true;
}
QI__INLINE bool qi__add_size(size_t a, size_t b, size_t *out) {
  if (a > SIZE_MAX - b) return false;
  *out = a + b;
  return true;
}

// n rounded up to a power of two; false on overflow.
QI__INLINE bool qi__align_up(size_t n, size_t align, size_t *out) {
  if (!qi__add_size(n, align - 1, out)) return false;
  *out &= ~(align - 1);
  return true;
}

// ---- allocator ----

// malloc aligns to 16 at most, so the default hook keeps the start of each block just below what it hands out.
static void *qi__malloc(size_t size, size_t align, void *user) {
  (void)user;
  size_t total;
  if (align < sizeof(void *)) align = sizeof(void *);
  if (!qi__add_size(size, align + sizeof(void *), &total)) return NULL;
  char *block = (char *)malloc(total);
  if (!block) return NULL;
  uintptr_t p = ((uintptr_t)block + sizeof(void *) + align - 1) & ~(uintptr_t)(align - 1);
  ((void **)p)[-1] = block;
  return (void *)p;
}

static void qi__malloc_free(void *ptr, size_t size, void *user) {
  (void)size;
  (void)user;
  free(((void **)ptr)[-1]);
}

// The hook of a desc with its default filled in.
QI__FN qi_result qi__allocator_resolve(const qi_allocator *hook, qi_allocator *out, qi_error *err) {
  out->alloc = qi__malloc;
  out->free = qi__malloc_free;
  out->user = NULL;
  if (hook && (!hook->alloc != !hook->free))
    return qi__fail(err, QI_ERR_ARGUMENT, "allocator: alloc and free must be given both, or neither");
  if (hook && hook->alloc) *out = *hook;
  return QI_OK;
}

QI__INLINE void *qi__alloc(const qi_allocator *a, size_t size, size_t align) { return a->alloc(size ? size : 1, align, a->user); }
QI__INLINE void qi__free(const qi_allocator *a, void *ptr, size_t size) {
  if (ptr) a->free(ptr, size ? size : 1, a->user);
}

// ---- arenas ----

// Memory of an object in one block. The same layout function runs twice: first with base NULL, which only counts, then over a block
// of that size. So the bytes that are announced are the bytes that are used.
typedef struct qi__arena {
  uint8_t *base; // NULL while counting; aligned to QI__CACHE_LINE
  size_t size;   // of the block; nothing beyond it is handed out
  size_t used;
  bool overflow; // a size did not fit into size_t: used means nothing
} qi__arena;

// n elements of `size` bytes, aligned to `align` (a power of two, at most QI__CACHE_LINE). NULL while counting, or
// when the block is full.
QI__FN void *qi__arena_take(qi__arena *a, size_t n, size_t size, size_t align) {
  size_t bytes, start, end;
  if (!qi__mul_size(n, size, &bytes) || !qi__align_up(a->used, align, &start) || !qi__add_size(start, bytes, &end) ||
      (a->base && end > a->size)) {
    a->overflow = true;
    return NULL;
  }
  a->used = end;
  return a->base ? a->base + start : NULL;
}

// Ends counting: asks for the block, so that the layout can run again. `what` names the object in the error.
QI__FN qi_result qi__arena_open(qi__arena *a, const qi_allocator *allocator, const char *what, qi_error *err) {
  if (a->overflow) return qi__fail(err, QI_ERR_LIMIT, "%s: does not fit into this machine's address space", what);
  a->size = a->used;
  a->used = 0;
  a->base = (uint8_t *)qi__alloc(allocator, a->size, QI__CACHE_LINE);
  return a->base ? QI_OK : qi__fail_oom(err, what, a->size);
}

QI__FN void qi__arena_close(qi__arena *a, const qi_allocator *allocator) {
  qi__free(allocator, a->base, a->size);
  memset(a, 0, sizeof *a);
}

#define QI__ARENA_ARRAY(arena, type, n) ((type *)qi__arena_take((arena), (n), sizeof(type), QI__CACHE_LINE))

#endif // QI__MEMORY_H

#ifndef QI_NO_THREADS
#include <pthread.h>
#include <signal.h>
#endif

#define QI__THREADS_MAX 256         // with the caller
#define QI__THREADS_DEFAULT_MAX 8   // memory bandwidth is spent by then on nearly all machines
#define QI__THREAD_STACK (512u << 10)
#define QI__SPIN_US 40              // how long to wait awake for the next run: some gaps between operations of a forward pass

// Work on units [begin, end). `worker` in 0..n_threads-1 is different for all that run at the same time: it picks scratch memory.
typedef void (*qi__task_fn)(void *arg, int worker, int64_t begin, int64_t end);

// One run: what workers need to take pieces of it.
typedef struct qi__job {
  qi__task_fn fn;
  void *arg;
  int64_t n_units, grain;
  size_t n_pieces;
} qi__job;

// The gate through which workers enter a run is one word, `gate`:
//   bits 0..8 workers inside    bit 9 open    bit 10 the caller sleeps until all are out    bit 11 the pool closes
//   from bit 12 on: number of the run
// The caller opens it, takes pieces itself until none is left, closes it and waits for those inside. A worker that wakes up late
// finds it closed: nobody waits for threads that the system does not run. `job` is written only while the gate is closed and empty.
#define QI__GATE_INSIDE 0x1ffu
#define QI__GATE_OPEN 0x200u
#define QI__GATE_WAITED 0x400u
#define QI__GATE_QUIT 0x800u
#define QI__GATE_RUN_SHIFT 12

struct qi_pool {
  qi__cpu cpu;             // kernels look at these flags
  qi_isa isa;
  int n_threads;           // with the caller
  qi_parallel parallel;    // parallel_for NULL: own threads
  qi_allocator allocator;
  void *scratch;           // see qi__pool_scratch
  size_t scratch_bytes;
  qi__job job;
  char pad0[QI__CACHE_LINE]; // what is written by many threads has a cache line of its own
  size_t next_piece;
  char pad1[QI__CACHE_LINE];
#ifndef QI_NO_THREADS
  uint32_t gate;
  char pad2[QI__CACHE_LINE];
  uint32_t n_asleep;
  uint32_t n_started;
  uint32_t run;            // number of the last run
  bool may_spin;           // each thread can have a CPU of its own
  int n_workers;           // threads to join
  pthread_mutex_t mutex;
  pthread_cond_t wake, done;
  pthread_t threads[QI__THREADS_MAX - 1];
#endif
};

// ---- taking pieces ----

QI__INLINE void qi__cpu_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory"); // yield does nothing on most cores
#else
  __asm__ volatile("" ::: "memory");
#endif
}

// Runs pieces until none is left.
QI__FN void qi__job_work(const qi__job *job, size_t *next_piece, int worker) {
  for (;;) {
    size_t i = __atomic_fetch_add(next_piece, 1, __ATOMIC_RELAXED);
    if (i >= job->n_pieces) return;
    int64_t begin = (int64_t)i * job->grain;
    job->fn(job->arg, worker, begin, begin + qi__min_i64(job->grain, job->n_units - begin));
  }
}

// One index of the host's parallel_for.
QI__FN void qi__pool_host_index(void *arg, int index) {
  qi_pool *p = (qi_pool *)arg;
  if (index < 0 || index >= p->n_threads) return;
  qi__fp_mode mode = qi__fp_enter();
  qi__job_work(&p->job, &p->next_piece, index);
  qi__fp_leave(mode);
}

// ---- own threads ----

#ifndef QI_NO_THREADS

// Tries to enter an open run that this worker has not been in; *seen becomes its number. 1 = inside, 0 = nothing to do, -1 = quit.
QI__FN int qi__gate_enter(qi_pool *p, uint32_t *seen) {
  // Sequentially consistent: see qi__worker_sleep.
  uint32_t gate = __atomic_load_n(&p->gate, __ATOMIC_SEQ_CST);
  for (;;) {
    if (gate & QI__GATE_QUIT) return -1;
    if (!(gate & QI__GATE_OPEN) || gate >> QI__GATE_RUN_SHIFT == *seen) return 0;
    if (__atomic_compare_exchange_n(&p->gate, &gate, gate + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) break;
  }
  *seen = gate >> QI__GATE_RUN_SHIFT;
  return 1;
}

QI__FN void qi__gate_leave(qi_pool *p) {
  uint32_t before = __atomic_fetch_sub(&p->gate, 1, __ATOMIC_ACQ_REL);
  if (!(before & QI__GATE_WAITED) || (before & QI__GATE_INSIDE) != 1) return;
  pthread_mutex_lock(&p->mutex);
  pthread_cond_signal(&p->done);
  pthread_mutex_unlock(&p->mutex);
}

// Sleeps until a run is open or the pool closes; results of qi__gate_enter. No wake-up is lost: the worker counts itself in before
// it looks at the gate, the caller opens the gate before it looks at the count, and both in one total order.
QI__FN int qi__worker_sleep(qi_pool *p, uint32_t *seen) {
  int entered;
  pthread_mutex_lock(&p->mutex);
  __atomic_fetch_add(&p->n_asleep, 1, __ATOMIC_SEQ_CST);
  while ((entered = qi__gate_enter(p, seen)) == 0) pthread_cond_wait(&p->wake, &p->mutex);
  __atomic_fetch_sub(&p->n_asleep, 1, __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&p->mutex);
  return entered;
}

// True while it is worth to stay awake; *start = 0 begins the count.
QI__FN bool qi__spin(const qi_pool *p, uint64_t *start) {
  if (!p->may_spin) return false;
  uint64_t now = qi__now_us();
  if (!*start) *start = now;
  if (now - *start > QI__SPIN_US) return false;
  for (int i = 0; i < 16; i++) qi__cpu_pause();
  return true;
}

QI__FN void *qi__worker_main(void *arg) {
  qi_pool *p = (qi_pool *)arg;
  int worker = (int)__atomic_add_fetch(&p->n_started, 1, __ATOMIC_RELAXED);
  uint32_t seen = 0;
  qi__fp_enter();
  for (;;) {
    uint64_t start = 0;
    int entered;
    while ((entered = qi__gate_enter(p, &seen)) == 0 && qi__spin(p, &start)) {
    }
    if (entered == 0) entered = qi__worker_sleep(p, &seen);
    if (entered < 0) return NULL;
    qi__job_work(&p->job, &p->next_piece, worker);
    qi__gate_leave(p);
  }
}

// Waits until no worker is inside the closed gate.
QI__FN void qi__gate_drain(qi_pool *p) {
  uint64_t start = 0;
  while (__atomic_load_n(&p->gate, __ATOMIC_ACQUIRE) & QI__GATE_INSIDE) {
    if (qi__spin(p, &start)) continue;
    pthread_mutex_lock(&p->mutex);
    __atomic_fetch_or(&p->gate, QI__GATE_WAITED, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&p->gate, __ATOMIC_ACQUIRE) & QI__GATE_INSIDE) pthread_cond_wait(&p->done, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
    return;
  }
}

QI__FN void qi__pool_run_threads(qi_pool *p) {
  p->run = (p->run + 1) & (UINT32_MAX >> QI__GATE_RUN_SHIFT);
  __atomic_store_n(&p->gate, p->run << QI__GATE_RUN_SHIFT | QI__GATE_OPEN, __ATOMIC_SEQ_CST);
  size_t asleep = __atomic_load_n(&p->n_asleep, __ATOMIC_SEQ_CST), useful = p->job.n_pieces - 1;
  if (asleep) {
    pthread_mutex_lock(&p->mutex);
    if (useful >= asleep) pthread_cond_broadcast(&p->wake);
    for (size_t i = useful; useful < asleep && i > 0; i--) pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->mutex);
  }
  qi__job_work(&p->job, &p->next_piece, 0);
  __atomic_fetch_and(&p->gate, ~QI__GATE_OPEN, __ATOMIC_ACQ_REL);
  qi__gate_drain(p);
}

// Ends and joins the workers that run.
QI__FN void qi__pool_stop_threads(qi_pool *p) {
  pthread_mutex_lock(&p->mutex);
  __atomic_store_n(&p->gate, QI__GATE_QUIT, __ATOMIC_SEQ_CST);
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->mutex);
  for (int i = 0; i < p->n_workers; i++) pthread_join(p->threads[i], NULL);
  pthread_cond_destroy(&p->done);
  pthread_cond_destroy(&p->wake);
  pthread_mutex_destroy(&p->mutex);
}

// Sanitizers need larger stacks than we do.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QI__THREAD_STACK_DEFAULT 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define QI__THREAD_STACK_DEFAULT 1
#endif
#endif

// A small stack; the system's default where that is refused (glibc puts all thread-local data of the program on it).
QI__FN int qi__thread_create(pthread_t *thread, qi_pool *p) {
#ifndef QI__THREAD_STACK_DEFAULT
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) == 0) {
    int code = pthread_attr_setstacksize(&attr, QI__THREAD_STACK);
    if (code == 0) code = pthread_create(thread, &attr, qi__worker_main, p);
    pthread_attr_destroy(&attr);
    if (code == 0) return 0;
  }
#endif
  return pthread_create(thread, NULL, qi__worker_main, p);
}

// Starts n_threads - 1 workers. They leave the host's signals to the host's threads; only what a thread does to itself, and
// profilers, reach them. On failure nothing is left behind.
QI__FN qi_result qi__pool_start_threads(qi_pool *p, qi_error *err) {
  int code = 0;
  p->gate = p->n_asleep = p->n_started = p->run = 0;
  p->n_workers = 0;
  p->may_spin = p->n_threads <= qi__cpu_count_logical();
  if (pthread_mutex_init(&p->mutex, NULL) != 0) return qi__fail(err, QI_ERR_OOM, "pool: no mutex could be made");
  if (pthread_cond_init(&p->wake, NULL) != 0) {
    pthread_mutex_destroy(&p->mutex);
    return qi__fail(err, QI_ERR_OOM, "pool: no condition variable could be made");
  }
  if (pthread_cond_init(&p->done, NULL) != 0) {
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
    return qi__fail(err, QI_ERR_OOM, "pool: no condition variable could be made");
  }
#ifndef _WIN32
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (size_t i = 0; i < QI__COUNT_OF(own); i++) sigdelset(&blocked, own[i]);
  bool masked = pthread_sigmask(SIG_SETMASK, &blocked, &before) == 0;
#endif
  while (code == 0 && p->n_workers < p->n_threads - 1)
    if ((code = qi__thread_create(&p->threads[p->n_workers], p)) == 0) p->n_workers++;
#ifndef _WIN32
  if (masked) pthread_sigmask(SIG_SETMASK, &before, NULL);
#endif
  if (code == 0) return QI_OK;
  int failed = p->n_workers + 2; // the caller is the first
  qi__pool_stop_threads(p);
  return qi__fail(err, QI_ERR_OOM, "pool: thread %d of %d could not be started: %s", failed, p->n_threads, strerror(code));
}

#endif // QI_NO_THREADS

// ---- the pool ----

// Whether the pool has threads of its own to wake and join.
QI__INLINE bool qi__pool_has_threads(const qi_pool *p) {
#ifdef QI_NO_THREADS
  (void)p;
  return false;
#else
  return p->n_threads > 1 && !p->parallel.parallel_for;
#endif
}

// Runs fn over the units [0, n_units) in pieces of at most `grain` >= 1, handed out one by one so that uneven work balances;
// returns when all are done. What fn wrote is then visible to the caller. The calling thread takes part as worker 0.
// fn must not run the same pool. One caller at a time. Allocates nothing, cannot fail.
QI__FN void qi__pool_run(qi_pool *p, qi__task_fn fn, void *arg, int64_t n_units, int64_t grain) {
  if (n_units <= 0) return;
  if (grain < 1) grain = 1;
  uint64_t n_pieces = (uint64_t)((n_units - 1) / grain) + 1;
  bool alone = p->n_threads == 1 || n_pieces == 1 || n_pieces > SIZE_MAX / 2;
  p->job.fn = fn;
  p->job.arg = arg;
  p->job.n_units = n_units;
  p->job.grain = grain;
  p->job.n_pieces = (size_t)n_pieces;
  p->next_piece = 0;
  if (!alone && p->parallel.parallel_for) {
    int n = n_pieces < (uint64_t)p->n_threads ? (int)n_pieces : p->n_threads;
    p->parallel.parallel_for(p->parallel.user, qi__pool_host_index, p, n);
    qi__pool_host_index(p, 0); // finds nothing, unless the host skipped indices
    return;
  }
  qi__fp_mode mode = qi__fp_enter();
  if (alone) {
    for (int64_t begin = 0, n; begin < n_units; begin += n) {
      n = qi__min_i64(grain, n_units - begin);
      fn(arg, 0, begin, begin + n);
    }
  }
#ifndef QI_NO_THREADS
  else {
    qi__pool_run_threads(p);
  }
#endif
  qi__fp_leave(mode);
}

// Memory of at least `bytes` bytes, aligned to QI__CACHE_LINE, for the caller of qi__pool_run until the next call of this function;
// what was in it is lost when it grows. NULL = the allocator gave none.
QI__FN void *qi__pool_scratch(qi_pool *p, size_t bytes) {
  if (bytes > p->scratch_bytes) {
    qi__free(&p->allocator, p->scratch, p->scratch_bytes);
    p->scratch_bytes = 0;
    p->scratch = qi__alloc(&p->allocator, bytes, QI__CACHE_LINE);
    if (p->scratch) p->scratch_bytes = bytes;
  }
  return p->scratch;
}

// Checks a desc (NULL = all defaults) and fills in what it leaves open; *p holds no threads yet.
QI__FN qi_result qi__pool_configure(qi_pool *p, const qi_pool_desc *desc, qi_error *err) {
  memset(p, 0, sizeof *p);
  int n = desc ? desc->n_threads : 0;
  if (n < 0) return qi__fail(err, QI_ERR_ARGUMENT, "pool: n_threads is %d, expected 0..%d", n, QI__THREADS_MAX);
  if (n > QI__THREADS_MAX) return qi__fail(err, QI_ERR_LIMIT, "pool: n_threads is %d, expected at most %d", n, QI__THREADS_MAX);
  if (desc) p->parallel = desc->parallel;
  if (p->parallel.parallel_for && n == 0)
    return qi__fail(err, QI_ERR_ARGUMENT, "pool: n_threads is 0; with parallel.parallel_for, expected how many calls run at once");
  qi_result r = qi__allocator_resolve(desc ? &desc->allocator : NULL, &p->allocator, err);
  if (r) return r;
  r = qi__isa_choose(desc ? desc->isa : QI_ISA_AUTO, &p->isa, &p->cpu, err);
  if (r) return r;
#ifdef QI_NO_THREADS
  if (!p->parallel.parallel_for) n = 1;
#endif
  p->n_threads = n ? n : (int)qi__min_i64(qi__cpu_count(), QI__THREADS_DEFAULT_MAX);
  return QI_OK;
}

// A pool in memory of the caller's (a session embeds one). On failure nothing is left behind and *p must not be used.
// Errors: as qi_pool_open.
QI__FN qi_result qi__pool_init(qi_pool *p, const qi_pool_desc *desc, qi_error *err) {
  qi_result r = qi__pool_configure(p, desc, err);
#ifndef QI_NO_THREADS
  if (r == QI_OK && qi__pool_has_threads(p)) r = qi__pool_start_threads(p, err);
#endif
  return r;
}

// Only after a successful qi__pool_init; no run may be going on.
QI__FN void qi__pool_destroy(qi_pool *p) {
#ifndef QI_NO_THREADS
  if (qi__pool_has_threads(p)) qi__pool_stop_threads(p);
#endif
  qi__free(&p->allocator, p->scratch, p->scratch_bytes);
}

QI__FN qi_result qi__pool_open(qi_pool **out, const qi_pool_desc *desc, qi_error *err) {
  if (!out) return qi__fail(err, QI_ERR_ARGUMENT, "pool: out is NULL");
  *out = NULL;
  qi_allocator allocator = {NULL, NULL, NULL};
  qi_result r = qi__allocator_resolve(desc ? &desc->allocator : NULL, &allocator, err);
  if (r) return r;
  qi_pool *p = (qi_pool *)qi__alloc(&allocator, sizeof *p, QI__CACHE_LINE);
  if (!p) return qi__fail_oom(err, "pool", sizeof *p);
  r = qi__pool_init(p, desc, err);
  if (r) {
    qi__free(&allocator, p, sizeof *p);
    return r;
  }
  *out = p;
  return QI_OK;
}

QI__FN void qi__pool_close(qi_pool *p) {
  if (!p) return;
  qi_allocator allocator = p->allocator;
  qi__pool_destroy(p);
  qi__free(&allocator, p, sizeof *p);
}

#endif // QI__THREADS_H
// generated from src/kernels/matmul.h: edit there
// ==== >>matmul : a tile of a matrix product, by arithmetic and format ====
#ifndef QI__KERNELS_MATMUL_H
#define QI__KERNELS_MATMUL_H

// generated from src/kernels/table.h: edit there
// ==== >>kernels : which variant of each kernel runs ====
#ifndef QI__KERNELS_TABLE_H
#define QI__KERNELS_TABLE_H

// generated from src/kernels/attention.h: edit there
// ==== >>attention : query heads over a piece of the cache ====
#ifndef QI__KERNELS_ATTENTION_H
#define QI__KERNELS_ATTENTION_H

// generated from src/formats/half.h: edit there
// ==== >>half : 16-bit floats and power-of-two scales ====
#ifndef QI__FORMATS_HALF_H
#define QI__FORMATS_HALF_H


// Everything here works on bits, so neither -ffast-math nor a processor that flushes subnormals can change a result.

// ---- IEEE binary16 ----

#define QI__F16_MAX 65504.0f // greatest finite value

// Exact. A signalling NaN becomes quiet, as in the processors' instructions (VCVTPH2PS, FCVT).
QI__INLINE float qi__f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  uint32_t exponent = (h >> 10) & 0x1fu;
  uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) return qi__bits_f32(sign | 0x7f800000u | (mantissa ? 0x400000u : 0) | mantissa << 13);
  if (exponent) return qi__bits_f32(sign | (exponent + 112) << 23 | mantissa << 13);
  if (!mantissa) return qi__bits_f32(sign);
  exponent = 113; // mantissa * 2^-24: shift its highest bit to where it is implied
  while (!(mantissa & 0x400u)) {
    mantissa <<= 1;
    exponent--;
  }
  return qi__bits_f32(sign | exponent << 23 | (mantissa & 0x3ffu) << 13);
}

// Rounds to nearest, ties to even; beyond the greatest half: infinity. NaN stays NaN (quiet, upper payload bits).
QI__INLINE uint16_t qi__f32_to_f16(float f) {
  uint32_t u = qi__f32_bits(f);
  uint32_t sign = (u >> 16) & 0x8000u;
  uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); // 65520 and more
  if (a <= 0x33000000u) return (uint16_t)sign;             // half of the least subnormal, 2^-25: a tie, to even
  uint32_t exponent = a >> 23;
  // Bits to drop: 13 for normal halves, one more for each power of two below 2^-14.
  uint32_t drop = exponent >= 113 ? 13 : 126 - exponent;
  uint32_t mantissa = exponent >= 113 ? a - (112u << 23) : (a & 0x7fffffu) | 0x800000u;
  uint32_t kept = mantissa >> drop;
  uint32_t rest = mantissa & ((1u << drop) - 1);
  uint32_t tie = 1u << (drop - 1);
  if (rest > tie || (rest == tie && (kept & 1))) kept++; // a carry runs into the exponent, which is right
  return (uint16_t)(sign | kept);
}

// ---- bfloat16: the upper half of a float32 ----

QI__INLINE float qi__bf16_to_f32(uint16_t b) { return qi__bits_f32((uint32_t)b << 16); }

// Rounds to nearest, ties to even; NaN stays NaN and becomes quiet.
QI__INLINE uint16_t qi__f32_to_bf16(float f) {
  uint32_t u = qi__f32_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

// ---- E8M0: an exponent alone (OCP Microscaling Formats 1.0) ----

// 2^(e - 127); e = 255 (NaN in the standard) is infinity here, as in ggml.
QI__INLINE float qi__e8m0_to_f32(uint8_t e) { return qi__bits_f32(e ? (uint32_t)e << 23 : 0x400000u); }

// 2^(e - 128), subnormal for e below 2: the scale of element values that are stored doubled.
QI__INLINE float qi__e8m0_half_to_f32(uint8_t e) {
  return qi__bits_f32(e < 2 ? 0x200000u << e : (uint32_t)(e - 1) << 23);
}

#endif // QI__FORMATS_HALF_H
// generated from src/kernels/vector.h: edit there
// ==== >>vector : norms, rotary positions, gates ====
#ifndef QI__KERNELS_VECTOR_H
#define QI__KERNELS_VECTOR_H

// generated from src/kernels/math.h: edit there
// ==== >>math : exp, sine, logarithm with the same bits on every CPU ====
#ifndef QI__KERNELS_MATH_H
#define QI__KERNELS_MATH_H

// generated from src/base/real.h: edit there
// ==== >>real : exponential and logarithm in float64 with the same bits on every CPU ====
#ifndef QI__REAL_H
#define QI__REAL_H


// For tables, angles, frequencies and other numbers of which there are few: short series, no tables, no fma. Only + - * /, which
// IEEE 754 rounds in one way; libm may differ in the last bit from one system to the next.

static const double qi__inverse_factorial[17] = {
  1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800,
  1.0 / 479001600, 1.0 / 6227020800, 1.0 / 87178291200, 1.0 / 1307674368000, 1.0 / 20922789888000
};

#define QI__LN2_HIGH 0x1.62e42fefa2p-1          // 40 bits: times an integer of 13 bits is exact
#define QI__LN2_LOW 0x1.9ef35793c7673p-41
#define QI__INF64_BITS 0x7ff0000000000000u
#define QI__NAN64_BITS 0x7ff8000000000000u
#define QI__SIGN64_BIT 0x8000000000000000u

QI__INLINE double qi__bits_f64(uint64_t u) {
  double d;
  memcpy(&d, &u, 8);
  return d;
}
QI__INLINE uint64_t qi__f64_bits(double d) {
  uint64_t u;
  memcpy(&u, &d, 8);
  return u;
}

// Nearest integer of |v| < 2^51. Near halves either neighbour would do where this is used.
QI__INLINE int64_t qi__nearest(double v) { return (int64_t)(v + (v < 0 ? -0.5 : 0.5)); }

// 2^e, e in -1022..1023.
QI__INLINE double qi__power_of_two(int e) { return qi__bits_f64((uint64_t)(e + 1023) << 52); }

// e^x, relative error below 5e-16; gradual underflow, infinity on overflow.
QI__FN double qi__exp(double x) {
  if (x > 710) return qi__bits_f64(QI__INF64_BITS);
  if (x < -746) return 0;
  if (!(x <= 710)) return qi__bits_f64(QI__NAN64_BITS);
  int n = (int)qi__nearest(x * 0x1.71547652b82fep+0);
  double r = (x - n * QI__LN2_HIGH) - n * QI__LN2_LOW;
  double p = qi__inverse_factorial[13];
  for (int k = 12; k >= 0; k--) p = p * r + qi__inverse_factorial[k];
  return p * qi__power_of_two(n / 2) * qi__power_of_two(n - n / 2);
}

// Natural logarithm, relative error below 5e-16; minus infinity for 0, NaN below.
// x = 2^e m with m in sqrt(1/2)..sqrt(2):  ln m = 2 atanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...),  s = (m - 1) / (m + 1)
QI__FN double qi__ln(double x) {
  if (!(x > 0)) return qi__bits_f64(x == 0 ? QI__SIGN64_BIT | QI__INF64_BITS : QI__NAN64_BITS);
  int e = 0;
  if (x < 0x1p-1022) {
    x *= 0x1p54;
    e = -54;
  }
  uint64_t bits = qi__f64_bits(x);
  if (bits >> 52 == 0x7ff) return x;
  e += (int)(bits >> 52) - 1023;
  double m = qi__bits_f64((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
  if (m > 0x1.6a09e667f3bcdp+0) {
    m *= 0.5;
    e++;
  }
  double s = (m - 1) / (m + 1), z = s * s, series = 1.0 / 23;
  for (int k = 21; k > 0; k -= 2) series = series * z + 1.0 / k;
  return e * QI__LN2_HIGH + (2 * s * series + e * QI__LN2_LOW);
}

// base^exponent for base > 0, relative error below 1e-14 while the result lies in 1e-10..1e10 (it grows with the size of
// exponent * ln(base)). Exactly 1 for exponent 0 and for base 1. NaN for other bases.
QI__FN double qi__pow(double base, double exponent) {
  return base > 0 ? qi__exp(exponent * qi__ln(base)) : qi__bits_f64(QI__NAN64_BITS);
}

#endif // QI__REAL_H

#if defined(QI__X86_64)
#include <immintrin.h>
#elif defined(QI__ARM64)
#include <arm_neon.h>
#endif

// libm may differ in the last bit from one system to the next, so what reaches logits is computed here. Only operations that
// IEEE 754 rounds in one way are used: + - * / and, where written, fma. Rounding is to nearest; double is evaluated as double
// (on 32-bit x86 that takes -msse2 -mfpmath=sse). No unary minus on variables: under a host's -ffast-math clang gives that operator
// alone fast semantics whatever the pragmas around the implementation say.

// ---- exp in float32 ----

// e^x = 2^n e^r with n = round(x / ln 2), r = x - n ln 2 in two parts (the first step is exact), and
//
//   e^r ~ 1 + r + c2 r^2 + ... + c6 r^6      |r| <= ln 2 / 2, relative error 3.2e-9 (minimax, coefficients refitted as they round)
//
// Adding 1.5 * 2^23 rounds to an integer and leaves n in the low bits of the float, from where it is added to the exponent.
#define QI__EXP_MAX 0x1.62e42ep+6f  // 88.72283: above it e^x exceeds FLT_MAX
#define QI__EXP_MIN -0x1.5d589ep+6f // -87.33654: below it e^x would be subnormal
#define QI__EXP_LOG2E 0x1.715476p+0f
#define QI__EXP_ROUND 0x1.8p+23f
#define QI__EXP_MINUS_LN2_HIGH -0x1.62e43p-1f
#define QI__EXP_MINUS_LN2_LOW 0x1.05c61p-29f
#define QI__EXP_C6 0x1.6a4b38p-10f
#define QI__EXP_C5 0x1.12398ep-7f
#define QI__EXP_C4 0x1.5558b2p-5f
#define QI__EXP_C3 0x1.555492p-3f
#define QI__EXP_C2 0x1.fffffcp-2f
#define QI__INF_BITS 0x7f800000u
#define QI__NAN_BITS 0x7fc00000u

// e^x within 1.02 ulp (over all x), non-decreasing. Infinity above QI__EXP_MAX; 0 below QI__EXP_MIN, so never subnormal; 1 for 0;
// NaN for NaN, always the same one.
QI__FN float qi__exp_ref(float x) {
  if (qi__is_nan(x)) return qi__bits_f32(QI__NAN_BITS);
  if (x > QI__EXP_MAX) return qi__bits_f32(QI__INF_BITS);
  if (x < QI__EXP_MIN) return 0;
  float t = fmaf(x, QI__EXP_LOG2E, QI__EXP_ROUND);
  float n = t - QI__EXP_ROUND;
  float r = fmaf(n, QI__EXP_MINUS_LN2_HIGH, x);
  r = fmaf(n, QI__EXP_MINUS_LN2_LOW, r);
  float p = fmaf(QI__EXP_C6, r, QI__EXP_C5);
  p = fmaf(p, r, QI__EXP_C4);
  p = fmaf(p, r, QI__EXP_C3);
  p = fmaf(p, r, QI__EXP_C2);
  float square = r * r;
  p = 1.0f + fmaf(p, square, r); // two more steps of Horner's scheme are closer (0.9 ulp) but not monotonic
  return qi__bits_f32(qi__f32_bits(p) + (qi__f32_bits(t) << 23));
}

// The variants compute every lane to the end and replace what was out of range.

#if defined(QI__X86_64)
QI__INLINE QI__TARGET("avx2,fma") __m256 qi__exp_avx2(__m256 x) {
  const __m256 round = _mm256_set1_ps(QI__EXP_ROUND);
  __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(QI__EXP_LOG2E), round);
  __m256 n = _mm256_sub_ps(t, round);
  __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(QI__EXP_MINUS_LN2_HIGH), x);
  r = _mm256_fmadd_ps(n, _mm256_set1_ps(QI__EXP_MINUS_LN2_LOW), r);
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(QI__EXP_C6), r, _mm256_set1_ps(QI__EXP_C5));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QI__EXP_C4));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QI__EXP_C3));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QI__EXP_C2));
  p = _mm256_add_ps(_mm256_set1_ps(1.0f), _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r));
  __m256 y = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
  __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(QI__EXP_MAX), _CMP_GT_OQ);
  __m256 below = _mm256_cmp_ps(x, _mm256_set1_ps(QI__EXP_MIN), _CMP_LT_OQ);
  y = _mm256_blendv_ps(y, _mm256_castsi256_ps(_mm256_set1_epi32((int)QI__INF_BITS)), above);
  y = _mm256_blendv_ps(y, _mm256_castsi256_ps(_mm256_set1_epi32((int)QI__NAN_BITS)), _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_andnot_ps(below, y);
}

QI__INLINE QI__TARGET("avx512f") __m512 qi__exp_avx512(__m512 x) {
  const __m512 round = _mm512_set1_ps(QI__EXP_ROUND);
  __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(QI__EXP_LOG2E), round);
  __m512 n = _mm512_sub_ps(t, round);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(QI__EXP_MINUS_LN2_HIGH), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(QI__EXP_MINUS_LN2_LOW), r);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(QI__EXP_C6), r, _mm512_set1_ps(QI__EXP_C5));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QI__EXP_C4));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QI__EXP_C3));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QI__EXP_C2));
  p = _mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r));
  __m512i y = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23));
  __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(QI__EXP_MAX), _CMP_GT_OQ);
  __mmask16 not_below = _mm512_cmp_ps_mask(x, _mm512_set1_ps(QI__EXP_MIN), _CMP_NLT_UQ);
  y = _mm512_mask_mov_epi32(y, above, _mm512_set1_epi32((int)QI__INF_BITS));
  y = _mm512_mask_mov_epi32(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32((int)QI__NAN_BITS));
  return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(not_below, y));
}
#endif

#if defined(QI__ARM64)
QI__INLINE float32x4_t qi__exp_neon(float32x4_t x) {
  const float32x4_t round = vdupq_n_f32(QI__EXP_ROUND);
  float32x4_t t = vfmaq_f32(round, x, vdupq_n_f32(QI__EXP_LOG2E));
  float32x4_t n = vsubq_f32(t, round);
  float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(QI__EXP_MINUS_LN2_HIGH));
  r = vfmaq_f32(r, n, vdupq_n_f32(QI__EXP_MINUS_LN2_LOW));
  float32x4_t p = vfmaq_f32(vdupq_n_f32(QI__EXP_C5), vdupq_n_f32(QI__EXP_C6), r);
  p = vfmaq_f32(vdupq_n_f32(QI__EXP_C4), p, r);
  p = vfmaq_f32(vdupq_n_f32(QI__EXP_C3), p, r);
  p = vfmaq_f32(vdupq_n_f32(QI__EXP_C2), p, r);
  p = vaddq_f32(vdupq_n_f32(1.0f), vfmaq_f32(r, p, vmulq_f32(r, r)));
  uint32x4_t y = vaddq_u32(vreinterpretq_u32_f32(p), vshlq_n_u32(vreinterpretq_u32_f32(t), 23));
  y = vbslq_u32(vcgtq_f32(x, vdupq_n_f32(QI__EXP_MAX)), vdupq_n_u32(QI__INF_BITS), y);
  y = vbslq_u32(vceqq_f32(x, x), y, vdupq_n_u32(QI__NAN_BITS));
  return vreinterpretq_f32_u32(vbicq_u32(y, vcltq_f32(x, vdupq_n_f32(QI__EXP_MIN))));
}
#endif

// ---- activation functions ----

// x / (1 + e^-x), also called swish. -0 where e^-x overflows; NaN for minus infinity.
QI__FN float qi__silu_ref(float x) { return x / (1.0f + qi__exp_ref(0.0f - x)); }

// GELU by its tanh approximation, x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016); since
// (1 + tanh(u)) / 2 = 1 / (1 + e^-2u) it needs no tanh. NaN for minus infinity.
QI__FN float qi__gelu_tanh_ref(float x) {
  const float linear = 1.5957691216f, cubic = 0.0713548163f; // 2 sqrt(2 / pi) times 1 and 0.044715
  float square = x * x;
  float slope = fmaf(cubic, square, linear);
  return x / (1.0f + qi__exp_ref(0.0f - x * slope));
}

// max(x, 0)^2; NaN for NaN.
QI__FN float qi__relu_squared_ref(float x) { return x < 0 ? 0 : x * x; }

// ---- float64: angles ----

#define QI__SINCOS_MAX 1e7

// Sine and cosine of x radians, |x| <= 1e7: the exact value rounded to float32 but for a relative error of 1e-9 before rounding (so
// within 0.51 ulp). Beyond, and for NaN: both NaN.
// x = n pi/2 + r (Cody and Waite 1980): the first two parts of pi/2 have 30 bits, so their products with n < 2^23 are exact.
QI__FN void qi__sincos(double x, float *s, float *c) {
  if (!(x >= -QI__SINCOS_MAX && x <= QI__SINCOS_MAX)) {
    *s = *c = qi__bits_f32(QI__NAN_BITS);
    return;
  }
  int64_t quarter = qi__nearest(x * 0x1.45f306dc9c883p-1); // 2 / pi
  double n = (double)quarter;
  double r = ((x - n * 0x1.921fb54p+0) - n * 0x1.10b46118p-30) - n * 0x1.313198a2e037p-61;
  double z = r * r;
  double sine = qi__inverse_factorial[15], cosine = qi__inverse_factorial[16];
  for (int k = 13; k > 0; k -= 2) sine = qi__inverse_factorial[k] - z * sine;
  for (int k = 14; k >= 0; k -= 2) cosine = qi__inverse_factorial[k] - z * cosine;
  sine *= r;
  bool swap = quarter & 1;
  *s = (float)((swap ? cosine : sine) * (quarter & 2 ? -1.0 : 1.0));
  *c = (float)((swap ? sine : cosine) * ((quarter + 1) & 2 ? -1.0 : 1.0));
}

#endif // QI__KERNELS_MATH_H
// generated from src/kernels/simd.h: edit there
// ==== >>simd : what the SIMD variants of all kernels share ====
#ifndef QI__KERNELS_SIMD_H
#define QI__KERNELS_SIMD_H


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
#define QI__AMX QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-int8,amx-bf16")
#endif
#endif

// A sum in eight float32 lanes has the same bits in a 256-bit register, in half of a 512-bit one and in two of 128. Elements that
// do not fill a register are taken by the reference, or by scalar code that goes on with the stored lanes.

#if defined(QI__X86_64)

// qi__sum_lanes of a register.
QI__INLINE QI__AVX2 float qi__sum_lanes_avx2(__m256 v) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); // 0+4 1+5 2+6 3+7
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}

// Eight halves at p + i, or floats, as float32; `half` is a constant where this is inlined.
QI__INLINE QI__AVX2 __m256 qi__load_kv_avx2(const void *p, size_t i, bool half) {
  if (half) return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)p + i)));
  return _mm256_loadu_ps((const float *)p + i);
}

QI__INLINE QI__AVX512 __m512 qi__load_kv_avx512(const void *p, size_t i, bool half) {
  if (half) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)((const uint16_t *)p + i)));
  return _mm512_loadu_ps((const float *)p + i);
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
#endif

#if defined(QI__ARM64)

// Four halves or floats at p + i as float32.
QI__INLINE float32x4_t qi__load_kv_neon(const void *p, size_t i, bool half) {
  if (half) return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)p + i)));
  return vld1q_f32((const float *)p + i);
}
#endif

#endif // QI__KERNELS_SIMD_H

// y[i] = x[i] / sqrt(mean(x^2) + eps) * w[i]      i < n; y may be x
// The sum runs in eight lanes (element j in lane j % 8, one fma each), then qi__sum_lanes. (Zhang and Sennrich 2019)
QI__FN void qi__rms_norm_ref(const float *x, const float *w, float eps, size_t n, float *y) {
  float lane[8] = {0};
  for (size_t i = 0; i < n; i++) lane[i % 8] = fmaf(x[i], x[i], lane[i % 8]);
  float scale = 1.0f / sqrtf(qi__sum_lanes(lane) / (float)n + eps);
  for (size_t i = 0; i < n; i++) {
    float normed = x[i] * scale;
    y[i] = normed * w[i];
  }
}

// y[i] += x[i]
QI__FN void qi__add_ref(const float *x, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] += x[i];
}

// SwiGLU: y[i] = silu(gate[i]) * up[i]; y may be gate or up. (Shazeer 2020)
QI__FN void qi__swiglu_ref(const float *gate, const float *up, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = qi__silu_ref(gate[i]) * up[i];
}

// Rotates n_pairs pairs of one head by the angles of a position: cos_sin holds [n_pairs] of (cos, sin). `neighbours`: pair i is
// (x[2i], x[2i+1]) as in llama; else (x[i], x[i + n_pairs]) as in qwen and phi. Elements beyond 2 * n_pairs stay. (Su et al. 2021)
QI__INLINE void qi__rope_pairs(float *x, const float *cos_sin, size_t first, size_t n_pairs, bool neighbours) {
  size_t step = neighbours ? 2 : 1, apart = neighbours ? 1 : n_pairs;
  for (size_t i = first; i < n_pairs; i++) {
    float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = x[step * i], b = x[step * i + apart];
    float as = a * s, bs = b * s;
    x[step * i] = fmaf(a, c, -bs);
    x[step * i + apart] = fmaf(b, c, as);
  }
}

QI__FN void qi__rope_ref(float *x, const float *cos_sin, size_t n_pairs, bool neighbours) {
  qi__rope_pairs(x, cos_sin, 0, n_pairs, neighbours);
}

// y[i] = x[i] rounded to bfloat16, as float32; y may be x
QI__FN void qi__round_bf16_ref(const float *x, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = qi__bf16_to_f32(qi__f32_to_bf16(x[i]));
}

// y[i] = x[i] as a half
QI__FN void qi__to_f16_ref(const float *x, size_t n, uint16_t *y) {
  for (size_t i = 0; i < n; i++) y[i] = qi__f32_to_f16(x[i]);
}

#if defined(QI__X86_64)

// ---- AVX2 ----

QI__FN QI__AVX2 void qi__rms_norm_avx2(const float *x, const float *w, float eps, size_t n, float *y) {
  __m256 sum = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 v = _mm256_loadu_ps(x + i);
    sum = _mm256_fmadd_ps(v, v, sum);
  }
  float lane[8];
  _mm256_storeu_ps(lane, sum);
  for (; i < n; i++) lane[i % 8] = fmaf(x[i], x[i], lane[i % 8]);
  float scale = 1.0f / sqrtf(qi__sum_lanes(lane) / (float)n + eps);
  __m256 scales = _mm256_set1_ps(scale);
  for (i = 0; i + 8 <= n; i += 8)
    _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), scales), _mm256_loadu_ps(w + i)));
  for (; i < n; i++) {
    float normed = x[i] * scale;
    y[i] = normed * w[i];
  }
}

QI__FN QI__AVX2 void qi__add_avx2(const float *x, size_t n, float *y) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
  qi__add_ref(x + i, n - i, y + i);
}

QI__FN QI__AVX2 void qi__swiglu_avx2(const float *gate, const float *up, size_t n, float *y) {
  const __m256 one = _mm256_set1_ps(1.0f);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 g = _mm256_loadu_ps(gate + i);
    __m256 e = qi__exp_avx2(_mm256_sub_ps(_mm256_setzero_ps(), g));
    __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, e));
    _mm256_storeu_ps(y + i, _mm256_mul_ps(silu, _mm256_loadu_ps(up + i)));
  }
  qi__swiglu_ref(gate + i, up + i, n - i, y + i);
}

// Four pairs (a, b) beside each other: a c - b s in even places, b c + a s in odd ones.
QI__INLINE QI__AVX2 size_t qi__rope_neighbours_avx2(float *x, const float *cos_sin, size_t n_pairs) {
  size_t i = 0;
  for (; i + 4 <= n_pairs; i += 4) {
    __m256 v = _mm256_loadu_ps(x + 2 * i), cs = _mm256_loadu_ps(cos_sin + 2 * i);
    __m256 cross = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), _mm256_movehdup_ps(cs));
    _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, _mm256_moveldup_ps(cs), cross));
  }
  return i;
}

QI__INLINE QI__AVX2 size_t qi__rope_halves_avx2(float *x, const float *cos_sin, size_t n_pairs) {
  size_t i = 0;
  for (; i + 8 <= n_pairs; i += 8) {
    __m256 p = _mm256_loadu_ps(cos_sin + 2 * i), q = _mm256_loadu_ps(cos_sin + 2 * i + 8);
    __m256 low = _mm256_permute2f128_ps(p, q, 0x20), high = _mm256_permute2f128_ps(p, q, 0x31);
    __m256 c = _mm256_shuffle_ps(low, high, 0x88), s = _mm256_shuffle_ps(low, high, 0xdd);
    __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + n_pairs + i);
    _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
    _mm256_storeu_ps(x + n_pairs + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
  }
  return i;
}

QI__FN QI__AVX2 void qi__rope_avx2(float *x, const float *cos_sin, size_t n_pairs, bool neighbours) {
  size_t first = neighbours ? qi__rope_neighbours_avx2(x, cos_sin, n_pairs) : qi__rope_halves_avx2(x, cos_sin, n_pairs);
  qi__rope_pairs(x, cos_sin, first, n_pairs, neighbours);
}

// The integer steps of qi__f32_to_bf16. A NaN, whose payload the addition would carry into the exponent, is taken by itself.
QI__FN QI__AVX2 void qi__round_bf16_avx2(const float *x, size_t n, float *y) {
  const __m256i half = _mm256_set1_epi32(0x7fff), one = _mm256_set1_epi32(1), upper = _mm256_set1_epi32((int)0xffff0000u);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)(x + i));
    __m256i nan = _mm256_cmpgt_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff)), _mm256_set1_epi32(0x7f800000));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, half), _mm256_and_si256(_mm256_srli_epi32(u, 16), one));
    __m256i result = _mm256_blendv_epi8(rounded, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    _mm256_storeu_si256((__m256i *)(void *)(y + i), _mm256_and_si256(result, upper));
  }
  qi__round_bf16_ref(x + i, n - i, y + i);
}

QI__FN QI__AVX2 void qi__to_f16_avx2(const float *x, size_t n, uint16_t *y) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i *)(void *)(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  qi__to_f16_ref(x + i, n - i, y + i);
}

// ---- AVX-512 ----

QI__FN QI__AVX512 void qi__swiglu_avx512(const float *gate, const float *up, size_t n, float *y) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (size_t i = 0; i < n; i += 16) {
    __mmask16 mask = qi__tail_mask_avx512(n - i);
    __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
    __m512 e = qi__exp_avx512(_mm512_sub_ps(_mm512_setzero_ps(), g));
    __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
    _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, up + i)));
  }
}
#endif

// ---- NEON ----

#if defined(QI__ARM64)

QI__FN void qi__rms_norm_neon(const float *x, const float *w, float eps, size_t n, float *y) {
  float32x4_t low = vdupq_n_f32(0), high = low;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + i + 4);
    low = vfmaq_f32(low, a, a);
    high = vfmaq_f32(high, b, b);
  }
  float lane[8];
  vst1q_f32(lane, low);
  vst1q_f32(lane + 4, high);
  for (; i < n; i++) lane[i % 8] = fmaf(x[i], x[i], lane[i % 8]);
  float scale = 1.0f / sqrtf(qi__sum_lanes(lane) / (float)n + eps);
  for (i = 0; i + 4 <= n; i += 4) vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), scale), vld1q_f32(w + i)));
  for (; i < n; i++) {
    float normed = x[i] * scale;
    y[i] = normed * w[i];
  }
}

QI__FN void qi__add_neon(const float *x, size_t n, float *y) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vaddq_f32(vld1q_f32(y + i), vld1q_f32(x + i)));
  qi__add_ref(x + i, n - i, y + i);
}

QI__FN void qi__swiglu_neon(const float *gate, const float *up, size_t n, float *y) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    float32x4_t g = vld1q_f32(gate + i);
    float32x4_t e = qi__exp_neon(vsubq_f32(vdupq_n_f32(0), g));
    float32x4_t silu = vdivq_f32(g, vaddq_f32(vdupq_n_f32(1.0f), e));
    vst1q_f32(y + i, vmulq_f32(silu, vld1q_f32(up + i)));
  }
  qi__swiglu_ref(gate + i, up + i, n - i, y + i);
}

QI__FN void qi__rope_neon(float *x, const float *cos_sin, size_t n_pairs, bool neighbours) {
  size_t i = 0;
  for (; i + 4 <= n_pairs; i += 4) {
    float32x4x2_t cs = vld2q_f32(cos_sin + 2 * i), v;
    if (neighbours) v = vld2q_f32(x + 2 * i);
    else v.val[0] = vld1q_f32(x + i), v.val[1] = vld1q_f32(x + n_pairs + i);
    float32x4_t as = vmulq_f32(v.val[0], cs.val[1]), bs = vmulq_f32(v.val[1], cs.val[1]);
    v.val[0] = vfmaq_f32(vnegq_f32(bs), v.val[0], cs.val[0]);
    v.val[1] = vfmaq_f32(as, v.val[1], cs.val[0]);
    if (neighbours) vst2q_f32(x + 2 * i, v);
    else vst1q_f32(x + i, v.val[0]), vst1q_f32(x + n_pairs + i, v.val[1]);
  }
  qi__rope_pairs(x, cos_sin, i, n_pairs, neighbours);
}

QI__FN void qi__to_f16_neon(const float *x, size_t n, uint16_t *y) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
  qi__to_f16_ref(x + i, n - i, y + i);
}
#endif

#endif // QI__KERNELS_VECTOR_H

// Keys are taken in pieces of this many positions, cut at multiples of it, whatever the chunk or the batch: each piece gives a
// maximum, a sum and a weighted value, and pieces are joined in ascending order. So bits depend on positions alone, long contexts
// can be split over threads piece by piece, and rows that go through a piece together get what each would get alone.
#define QI__ATTENTION_PIECE 256
#define QI__KEY_BLOCK 16 // positions; keys are stored so that one register holds the same element of several positions

// Keys and values of one head of one sequence at consecutive positions, in float32 or float16.
typedef struct qi__kv_run {
  const void *k; // [(n + 15) / 16][head_dim_k][16]: the first position is a multiple of 16; what lies beyond the last is ignored
  const void *v; // [n, head_dim_v]
  size_t n;      // at most QI__ATTENTION_PIECE
  bool half;
  const void *next; // keys that are wanted next, or any other memory: fetched while values are multiplied
} qi__kv_run;

// Both products of attention are sums over t of a[g, t] * b[t, lane], one chain of fused multiply-adds each, t ascending:
//   scores: g query row, t element of the head, lane a position     values: g query row, t position, lane an element of the head
// Query rows are heads that share a key/value head, of one or several tokens: what is loaded and converted serves several of them.

// Element i; `half` is a constant where this is inlined.
QI__INLINE float qi__kv_value(const void *p, size_t i, bool half) {
  return half ? qi__f16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}
QI__INLINE const void *qi__kv_at(const void *p, size_t i, bool half) { return (const uint8_t *)p + i * (half ? 2 : 4); }

// score[g * QI__ATTENTION_PIECE + j] = dot(q[g], k[j])      g < n_q, q: [n_q, dim], j < n rounded up to QI__KEY_BLOCK
// Scores from n on are whatever memory gives.
QI__FN void qi__attention_scores_ref(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score) {
  for (size_t g = 0; g < n_q; g++, q += dim, score += QI__ATTENTION_PIECE)
    for (size_t j = 0; j < run->n; j += QI__KEY_BLOCK) {
      for (size_t l = 0; l < QI__KEY_BLOCK; l++) score[j + l] = 0;
      for (size_t t = 0; t < dim; t++)
        for (size_t l = 0; l < QI__KEY_BLOCK; l++)
          score[j + l] = fmaf(q[t], qi__kv_value(run->k, j * dim + t * QI__KEY_BLOCK + l, run->half), score[j + l]);
    }
}

// The greater; b when they cannot be ordered, as in MAXPS.
QI__INLINE float qi__greater(float a, float b) { return a > b ? a : b; }

// Scores that a query row does not see: those outside begin..end-1 of n become minus infinity, whose exponential is 0.
QI__INLINE void qi__attention_mask(float *score, size_t begin, size_t end, size_t n) {
  for (size_t j = 0; j < begin; j++) score[j] = -INFINITY;
  for (size_t j = end; j < n; j++) score[j] = -INFINITY;
}

// *max = greatest score of begin..end-1 (NaN counts as none); score[j] = exp(score[j] - *max) there and 0 elsewhere; returns their
// sum. Both run in lanes of j % 8. begin < end <= n, n a multiple of 16.
QI__FN float qi__attention_softmax_ref(float *score, size_t begin, size_t end, size_t n, float *max) {
  float lane[8] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
  qi__attention_mask(score, begin, end, n);
  for (size_t j = 0; j < n; j++) lane[j % 8] = qi__greater(score[j], lane[j % 8]);
  for (int l = 1; l < 8; l++) lane[0] = qi__greater(lane[l], lane[0]);
  *max = lane[0];
  memset(lane, 0, sizeof lane);
  for (size_t j = 0; j < n; j++) {
    score[j] = qi__exp_ref(score[j] - *max);
    lane[j % 8] += score[j];
  }
  return qi__sum_lanes(lane);
}

// Elements from i = first on.
QI__INLINE void qi__attention_values_from(const float *weight, size_t n_q, const void *v, size_t n, size_t dim, bool half,
                                          size_t first, float *out) {
  for (size_t g = 0; g < n_q; g++, weight += QI__ATTENTION_PIECE, out += dim)
    for (size_t j = 0; j < n; j++)
      for (size_t i = first; i < dim; i++) out[i] = fmaf(weight[j], qi__kv_value(v, j * dim + i, half), out[i]);
}

// out[g * dim + i] += sum_j weight[g * QI__ATTENTION_PIECE + j] * v[j, i]      begin <= j < end, one chain that begins with `out`
QI__FN void qi__attention_values_ref(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end, size_t dim,
                                     float *out) {
  qi__attention_values_from(weight + begin, n_q, qi__kv_at(run->v, begin * dim, run->half), end - begin, dim, run->half, 0, out);
}

// Of query rows, [n] each: running maximum and sum of exponentials; what the values so far and those of the last piece are
// multiplied by.
typedef struct qi__softmax_state {
  float *max, *sum, *keep, *add;
} qi__softmax_state;

// Joins a piece (max and sum of each row) to what came before; `blend` does the same to the values with keep and add.
QI__FN void qi__attention_join_ref(const float *max, const float *sum, size_t n, const qi__softmax_state *all) {
  for (size_t g = 0; g < n; g++) {
    float joint = qi__greater(max[g], all->max[g]);
    all->keep[g] = qi__exp_ref(all->max[g] - joint);
    all->add[g] = qi__exp_ref(max[g] - joint);
    float kept = all->sum[g] * all->keep[g];
    all->sum[g] = fmaf(sum[g], all->add[g], kept);
    all->max[g] = joint;
  }
}

// values[g, i] = values[g, i] * keep[g] + piece[g, i] * add[g]      g < n, i < dim
QI__FN void qi__attention_blend_ref(const float *piece, const float *keep, const float *add, size_t n, size_t dim, float *values) {
  for (size_t g = 0; g < n; g++, piece += dim, values += dim)
    for (size_t i = 0; i < dim; i++) {
      float old = values[i] * keep[g];
      values[i] = fmaf(piece[i], add[g], old);
    }
}

// One of the two products: out[g * out_stride + lane] = sum_t a[g * a_stride + t] * b[t, lane], n_q query rows and n_r registers.
// b[t] lies b_step elements after b[t - 1]; each 16 lanes lie b_next elements after those before.
typedef struct qi__attention_product {
  const float *a;
  size_t a_stride, n_q;
  const void *b;
  size_t b_step, b_next, n_r, n; // t < n
  const void *ahead;             // see qi__attention_fetch
  float *out;
  size_t out_stride;
} qi__attention_product;

// `lanes` of a register divide 16.
QI__INLINE qi__attention_product qi__attention_scores_of(const float *q, size_t n_q, const qi__kv_run *run, size_t dim,
                                                         size_t lanes, float *score) {
  size_t n_r = (run->n + QI__KEY_BLOCK - 1) / QI__KEY_BLOCK * (QI__KEY_BLOCK / lanes);
  qi__attention_product p = {q,   dim,    n_q,   run->k,            QI__KEY_BLOCK, dim * QI__KEY_BLOCK, n_r,
                             dim, run->v, score, QI__ATTENTION_PIECE};
  return p;
}

QI__INLINE qi__attention_product qi__attention_values_of(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin,
                                                         size_t end, size_t dim, size_t lanes, float *out) {
  const void *v = qi__kv_at(run->v, begin * dim, run->half);
  qi__attention_product p = {weight + begin, QI__ATTENTION_PIECE, n_q, v, dim, 16, dim / lanes, end - begin, run->next, out, dim};
  return p;
}

// What is left of values when all registers are done.
QI__INLINE void qi__attention_values_rest(const qi__attention_product *p, size_t lanes, bool half) {
  if (p->n_r * lanes < p->b_step)
    qi__attention_values_from(p->a, p->n_q, p->b, p->n, p->b_step, half, p->n_r * lanes, p->out);
}

// Values come into the cache while scores are computed, the next keys while values are: row t of a tile fetches as many bytes of
// `ahead` as it reads. The CPU's own prefetching begins anew with each block, which costs a third of the speed.
QI__INLINE void qi__attention_fetch(const void *ahead, size_t t, int lanes, bool half) {
#if defined(__GNUC__)
  const int bytes = lanes * (half ? 2 : 4);
  QI__UNROLL for (int i = 0; i < bytes; i += QI__CACHE_LINE) __builtin_prefetch((const uint8_t *)ahead + t * (size_t)bytes + i);
#else
  (void)ahead, (void)t, (void)lanes, (void)half;
#endif
}

// A tile of n_q query rows from g on, times n_r registers from r on, has its sums in registers. Its sizes, `half` and `go_on` (sums
// begin with what is in `out`, not with 0) are constants where it is inlined. No sum depends on the sizes.

#if defined(QI__X86_64)

// ---- AVX2 ----

// n_q * n_r <= 8
QI__INLINE QI__AVX2 void qi__attention_tile_avx2(const qi__attention_product *p, size_t g, size_t r, int n_q, int n_r, bool half,
                                                 bool go_on) {
  const float *a = p->a + g * p->a_stride;
  const void *b = qi__kv_at(p->b, r / 2 * p->b_next + r % 2 * 8, half), *ahead = qi__kv_at(p->ahead, r * 8 * p->n, half);
  float *out = p->out + g * p->out_stride + 8 * r;
  const size_t a_stride = p->a_stride, b_step = p->b_step, b_next = p->b_next;
  __m256 sum[4][8];
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    sum[i][c] = go_on ? _mm256_loadu_ps(out + (size_t)i * p->out_stride + 8 * c) : _mm256_setzero_ps();
  for (size_t t = 0; t < p->n; t++) {
    __m256 row[8];
    qi__attention_fetch(ahead, t, n_r * 8, half);
    QI__UNROLL for (int c = 0; c < n_r; c++)
      row[c] = qi__load_kv_avx2(b, t * b_step + (size_t)(c / 2) * b_next + (size_t)(c % 2 * 8), half);
    QI__UNROLL for (int i = 0; i < n_q; i++) {
      __m256 v = _mm256_broadcast_ss(a + (size_t)i * a_stride + t);
      QI__UNROLL for (int c = 0; c < n_r; c++) sum[i][c] = _mm256_fmadd_ps(v, row[c], sum[i][c]);
    }
  }
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    _mm256_storeu_ps(out + (size_t)i * p->out_stride + 8 * c, sum[i][c]);
}

QI__INLINE QI__AVX2 void qi__attention_tiles_avx2(const qi__attention_product *p, bool half, bool go_on) {
  for (size_t g = 0, rows; g < p->n_q; g += rows) {
    rows = p->n_q - g >= 4 ? 4 : p->n_q - g >= 2 ? 2 : 1;
    for (size_t r = 0, regs; r < p->n_r; r += regs) {
      regs = p->n_r - r >= 8 / rows ? 8 / rows : p->n_r - r >= 2 ? 2 : 1;
      if (rows == 4 && regs == 2) qi__attention_tile_avx2(p, g, r, 4, 2, half, go_on);
      else if (rows == 4) qi__attention_tile_avx2(p, g, r, 4, 1, half, go_on);
      else if (rows == 2 && regs == 4) qi__attention_tile_avx2(p, g, r, 2, 4, half, go_on);
      else if (rows == 2 && regs == 2) qi__attention_tile_avx2(p, g, r, 2, 2, half, go_on);
      else if (rows == 2) qi__attention_tile_avx2(p, g, r, 2, 1, half, go_on);
      else if (regs == 8) qi__attention_tile_avx2(p, g, r, 1, 8, half, go_on);
      else if (regs == 2) qi__attention_tile_avx2(p, g, r, 1, 2, half, go_on);
      else qi__attention_tile_avx2(p, g, r, 1, 1, half, go_on);
    }
  }
}

QI__FN QI__AVX2 void qi__attention_scores_avx2(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score) {
  qi__attention_product p = qi__attention_scores_of(q, n_q, run, dim, 8, score);
  if (run->half) qi__attention_tiles_avx2(&p, true, false);
  else qi__attention_tiles_avx2(&p, false, false);
}

QI__FN QI__AVX2 void qi__attention_values_avx2(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end,
                                               size_t dim, float *out) {
  qi__attention_product p = qi__attention_values_of(weight, n_q, run, begin, end, dim, 8, out);
  if (run->half) qi__attention_tiles_avx2(&p, true, true);
  else qi__attention_tiles_avx2(&p, false, true);
  qi__attention_values_rest(&p, 8, run->half);
}

QI__FN QI__AVX2 float qi__attention_softmax_avx2(float *score, size_t begin, size_t end, size_t n, float *max) {
  float lane[8];
  __m256 most = _mm256_set1_ps(-INFINITY), sum = _mm256_setzero_ps();
  qi__attention_mask(score, begin, end, n);
  for (size_t j = 0; j < n; j += 8) most = _mm256_max_ps(_mm256_loadu_ps(score + j), most);
  _mm256_storeu_ps(lane, most);
  for (int l = 1; l < 8; l++) lane[0] = qi__greater(lane[l], lane[0]);
  *max = lane[0];
  most = _mm256_set1_ps(*max);
  for (size_t j = 0; j < n; j += 8) {
    __m256 e = qi__exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(score + j), most));
    _mm256_storeu_ps(score + j, e);
    sum = _mm256_add_ps(sum, e);
  }
  return qi__sum_lanes_avx2(sum);
}

QI__FN QI__AVX2 void qi__attention_join_avx2(const float *max, const float *sum, size_t n, const qi__softmax_state *all) {
  size_t g = 0;
  for (; g + 8 <= n; g += 8) {
    __m256 before = _mm256_loadu_ps(all->max + g), now = _mm256_loadu_ps(max + g), joint = _mm256_max_ps(now, before);
    __m256 keep = qi__exp_avx2(_mm256_sub_ps(before, joint)), add = qi__exp_avx2(_mm256_sub_ps(now, joint));
    __m256 kept = _mm256_mul_ps(_mm256_loadu_ps(all->sum + g), keep);
    _mm256_storeu_ps(all->keep + g, keep);
    _mm256_storeu_ps(all->add + g, add);
    _mm256_storeu_ps(all->sum + g, _mm256_fmadd_ps(_mm256_loadu_ps(sum + g), add, kept));
    _mm256_storeu_ps(all->max + g, joint);
  }
  qi__softmax_state rest = {all->max + g, all->sum + g, all->keep + g, all->add + g};
  qi__attention_join_ref(max + g, sum + g, n - g, &rest);
}

QI__FN QI__AVX2 void qi__attention_blend_avx2(const float *piece, const float *keep, const float *add, size_t n, size_t dim,
                                              float *values) {
  for (size_t g = 0; g < n; g++, piece += dim, values += dim) {
    const __m256 keeps = _mm256_set1_ps(keep[g]), adds = _mm256_set1_ps(add[g]);
    size_t i = 0;
    for (; i + 8 <= dim; i += 8) {
      __m256 old = _mm256_mul_ps(_mm256_loadu_ps(values + i), keeps);
      _mm256_storeu_ps(values + i, _mm256_fmadd_ps(_mm256_loadu_ps(piece + i), adds, old));
    }
    qi__attention_blend_ref(piece + i, keep + g, add + g, 1, dim - i, values + i);
  }
}

// ---- AVX-512 ----

// n_q * n_r <= 16
QI__INLINE QI__AVX512 void qi__attention_tile_avx512(const qi__attention_product *p, size_t g, size_t r, int n_q, int n_r,
                                                     bool half, bool go_on) {
  const float *a = p->a + g * p->a_stride;
  const void *b = qi__kv_at(p->b, r * p->b_next, half), *ahead = qi__kv_at(p->ahead, r * 16 * p->n, half);
  float *out = p->out + g * p->out_stride + 16 * r;
  const size_t a_stride = p->a_stride, b_step = p->b_step, b_next = p->b_next;
  __m512 sum[8][4];
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    sum[i][c] = go_on ? _mm512_loadu_ps(out + (size_t)i * p->out_stride + 16 * c) : _mm512_setzero_ps();
  for (size_t t = 0; t < p->n; t++) {
    __m512 row[4];
    qi__attention_fetch(ahead, t, n_r * 16, half);
    QI__UNROLL for (int c = 0; c < n_r; c++) row[c] = qi__load_kv_avx512(b, t * b_step + (size_t)c * b_next, half);
    QI__UNROLL for (int i = 0; i < n_q; i++) {
      __m512 v = _mm512_set1_ps(a[(size_t)i * a_stride + t]);
      QI__UNROLL for (int c = 0; c < n_r; c++) sum[i][c] = _mm512_fmadd_ps(v, row[c], sum[i][c]);
    }
  }
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    _mm512_storeu_ps(out + (size_t)i * p->out_stride + 16 * c, sum[i][c]);
}

QI__INLINE QI__AVX512 void qi__attention_tiles_avx512(const qi__attention_product *p, bool half, bool go_on) {
  for (size_t g = 0, rows; g < p->n_q; g += rows) {
    size_t left = p->n_q - g;
    rows = left >= 8 ? 8 : left == 7 || left == 4 ? 4 : left >= 3 ? 3 : left; // 5 = 3 + 2, 6 = 3 + 3
    for (size_t r = 0, regs; r < p->n_r; r += regs) {
      regs = rows == 8 ? 2 : 4;
      if (p->n_r - r < regs) regs = 1;
      if (rows == 8 && regs == 2) qi__attention_tile_avx512(p, g, r, 8, 2, half, go_on);
      else if (rows == 8) qi__attention_tile_avx512(p, g, r, 8, 1, half, go_on);
      else if (rows == 4 && regs == 4) qi__attention_tile_avx512(p, g, r, 4, 4, half, go_on);
      else if (rows == 4) qi__attention_tile_avx512(p, g, r, 4, 1, half, go_on);
      else if (rows == 3 && regs == 4) qi__attention_tile_avx512(p, g, r, 3, 4, half, go_on);
      else if (rows == 3) qi__attention_tile_avx512(p, g, r, 3, 1, half, go_on);
      else if (rows == 2 && regs == 4) qi__attention_tile_avx512(p, g, r, 2, 4, half, go_on);
      else if (rows == 2) qi__attention_tile_avx512(p, g, r, 2, 1, half, go_on);
      else if (regs == 4) qi__attention_tile_avx512(p, g, r, 1, 4, half, go_on);
      else qi__attention_tile_avx512(p, g, r, 1, 1, half, go_on);
    }
  }
}

QI__FN QI__AVX512 void qi__attention_scores_avx512(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score) {
  qi__attention_product p = qi__attention_scores_of(q, n_q, run, dim, 16, score);
  if (run->half) qi__attention_tiles_avx512(&p, true, false);
  else qi__attention_tiles_avx512(&p, false, false);
}

// Elements that do not fill a register are done as in AVX2.
QI__FN QI__AVX512 void qi__attention_values_avx512(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end,
                                                   size_t dim, float *out) {
  qi__attention_product p = qi__attention_values_of(weight, n_q, run, begin, end, dim, 16, out);
  if (run->half) qi__attention_tiles_avx512(&p, true, true);
  else qi__attention_tiles_avx512(&p, false, true);
  if (dim % 16 == 0) return;
  qi__attention_product rest = p;
  rest.b = qi__kv_at(p.b, dim / 16 * 16, run->half);
  rest.out = out + dim / 16 * 16;
  rest.n_r = dim % 16 / 8;
  if (rest.n_r) run->half ? qi__attention_tiles_avx2(&rest, true, true) : qi__attention_tiles_avx2(&rest, false, true);
  p.n_r = dim / 8;
  qi__attention_values_rest(&p, 8, run->half);
}

// The maximum stays in eight lanes: which of two zeros it is depends on them.
QI__FN QI__AVX512 float qi__attention_softmax_avx512(float *score, size_t begin, size_t end, size_t n, float *max) {
  float lane[8];
  __m256 most = _mm256_set1_ps(-INFINITY), sum = _mm256_setzero_ps();
  qi__attention_mask(score, begin, end, n);
  for (size_t j = 0; j < n; j += 8) most = _mm256_max_ps(_mm256_loadu_ps(score + j), most);
  _mm256_storeu_ps(lane, most);
  for (int l = 1; l < 8; l++) lane[0] = qi__greater(lane[l], lane[0]);
  *max = lane[0];
  const __m512 minus = _mm512_set1_ps(*max);
  for (size_t j = 0; j < n; j += 16) {
    __m512 e = qi__exp_avx512(_mm512_sub_ps(_mm512_loadu_ps(score + j), minus));
    _mm512_storeu_ps(score + j, e);
    sum = _mm256_add_ps(sum, _mm512_castps512_ps256(e));
    sum = _mm256_add_ps(sum, _mm512_extractf32x8_ps(e, 1));
  }
  return qi__sum_lanes_avx2(sum);
}

#if defined(QI__HAS_AVX512_BF16)

// ---- panels for the matrix unit ----

// Lanes of b as weight rows of a panel of kernels/bf16.h: panel[t / 2][lane][t % 2] = b[t, lane] rounded to bfloat16, t < n rounded
// up to 32, lane < 16; 0 where t >= n or lane >= n_lanes. `finite`: what is infinite or NaN becomes the greatest number, so that a
// weight of 0 takes it away.
QI__FN QI__AVX512_BF16 void qi__attention_panel_avx512(const void *b, size_t b_step, size_t n, size_t n_lanes, bool half,
                                                       bool finite, uint16_t *panel) {
  static const uint16_t pairs[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                     8,  24, 9,  25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_loadu_si512((const void *)pairs);
  const __m512 most = _mm512_castsi512_ps(_mm512_set1_epi32(0x7f7f0000)), least = _mm512_sub_ps(_mm512_setzero_ps(), most);
  const __mmask16 mask = qi__tail_mask_avx512(n_lanes);
  for (size_t t = 0; t < (n + 31) / 32 * 32; t += 2, panel += 32) {
    __m512 two[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t i = 0; i < 2 && t + i < n; i++) {
      const void *row = qi__kv_at(b, (t + i) * b_step, half);
      two[i] = half ? _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row)) : _mm512_maskz_loadu_ps(mask, row);
      if (finite) two[i] = _mm512_max_ps(_mm512_min_ps(two[i], most), least);
    }
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(two[1], two[0]);
    _mm512_storeu_si512((void *)panel, _mm512_permutexvar_epi16(order, both));
  }
}
#endif
#endif

// ---- NEON ----

#if defined(QI__ARM64)

// n_q * n_r <= 16
QI__INLINE void qi__attention_tile_neon(const qi__attention_product *p, size_t g, size_t r, int n_q, int n_r, bool half,
                                        bool go_on) {
  const float *a = p->a + g * p->a_stride;
  const void *b = qi__kv_at(p->b, r / 4 * p->b_next + r % 4 * 4, half), *ahead = qi__kv_at(p->ahead, r * 4 * p->n, half);
  float *out = p->out + g * p->out_stride + 4 * r;
  const size_t a_stride = p->a_stride, b_step = p->b_step, b_next = p->b_next;
  float32x4_t sum[4][8];
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    sum[i][c] = go_on ? vld1q_f32(out + (size_t)i * p->out_stride + 4 * c) : vdupq_n_f32(0);
  for (size_t t = 0; t < p->n; t++) {
    float32x4_t row[8];
    qi__attention_fetch(ahead, t, n_r * 4, half);
    QI__UNROLL for (int c = 0; c < n_r; c++)
      row[c] = qi__load_kv_neon(b, t * b_step + (size_t)(c / 4) * b_next + (size_t)(c % 4 * 4), half);
    QI__UNROLL for (int i = 0; i < n_q; i++) {
      float32x4_t v = vld1q_dup_f32(a + (size_t)i * a_stride + t);
      QI__UNROLL for (int c = 0; c < n_r; c++) sum[i][c] = vfmaq_f32(sum[i][c], v, row[c]);
    }
  }
  QI__UNROLL for (int i = 0; i < n_q; i++) QI__UNROLL for (int c = 0; c < n_r; c++)
    vst1q_f32(out + (size_t)i * p->out_stride + 4 * c, sum[i][c]);
}

QI__INLINE void qi__attention_tiles_neon(const qi__attention_product *p, bool half, bool go_on) {
  for (size_t g = 0, rows; g < p->n_q; g += rows) {
    rows = p->n_q - g >= 4 ? 4 : p->n_q - g >= 2 ? 2 : 1;
    for (size_t r = 0, regs; r < p->n_r; r += regs) {
      regs = rows == 4 ? 4 : 8;
      if (p->n_r - r < regs) regs = 1;
      if (rows == 4 && regs == 4) qi__attention_tile_neon(p, g, r, 4, 4, half, go_on);
      else if (rows == 4) qi__attention_tile_neon(p, g, r, 4, 1, half, go_on);
      else if (rows == 2 && regs == 8) qi__attention_tile_neon(p, g, r, 2, 8, half, go_on);
      else if (rows == 2) qi__attention_tile_neon(p, g, r, 2, 1, half, go_on);
      else if (regs == 8) qi__attention_tile_neon(p, g, r, 1, 8, half, go_on);
      else qi__attention_tile_neon(p, g, r, 1, 1, half, go_on);
    }
  }
}

QI__FN void qi__attention_scores_neon(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score) {
  qi__attention_product p = qi__attention_scores_of(q, n_q, run, dim, 4, score);
  if (run->half) qi__attention_tiles_neon(&p, true, false);
  else qi__attention_tiles_neon(&p, false, false);
}

QI__FN void qi__attention_values_neon(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end, size_t dim,
                                      float *out) {
  qi__attention_product p = qi__attention_values_of(weight, n_q, run, begin, end, dim, 4, out);
  if (run->half) qi__attention_tiles_neon(&p, true, true);
  else qi__attention_tiles_neon(&p, false, true);
  qi__attention_values_rest(&p, 4, run->half);
}

// a > b ? a : b in each lane, which FMAX is not for NaN.
QI__INLINE float32x4_t qi__greater_neon(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

QI__FN float qi__attention_softmax_neon(float *score, size_t begin, size_t end, size_t n, float *max) {
  float lane[8];
  float32x4_t low = vdupq_n_f32(-INFINITY), high = low;
  qi__attention_mask(score, begin, end, n);
  for (size_t j = 0; j < n; j += 8) {
    low = qi__greater_neon(vld1q_f32(score + j), low);
    high = qi__greater_neon(vld1q_f32(score + j + 4), high);
  }
  vst1q_f32(lane, low);
  vst1q_f32(lane + 4, high);
  for (int l = 1; l < 8; l++) lane[0] = qi__greater(lane[l], lane[0]);
  *max = lane[0];
  float32x4_t most = vdupq_n_f32(*max);
  low = high = vdupq_n_f32(0);
  for (size_t j = 0; j < n; j += 8) {
    float32x4_t a = qi__exp_neon(vsubq_f32(vld1q_f32(score + j), most));
    float32x4_t b = qi__exp_neon(vsubq_f32(vld1q_f32(score + j + 4), most));
    vst1q_f32(score + j, a);
    vst1q_f32(score + j + 4, b);
    low = vaddq_f32(low, a);
    high = vaddq_f32(high, b);
  }
  vst1q_f32(lane, low);
  vst1q_f32(lane + 4, high);
  return qi__sum_lanes(lane);
}

QI__FN void qi__attention_join_neon(const float *max, const float *sum, size_t n, const qi__softmax_state *all) {
  size_t g = 0;
  for (; g + 4 <= n; g += 4) {
    float32x4_t before = vld1q_f32(all->max + g), now = vld1q_f32(max + g), joint = qi__greater_neon(now, before);
    float32x4_t keep = qi__exp_neon(vsubq_f32(before, joint)), add = qi__exp_neon(vsubq_f32(now, joint));
    float32x4_t kept = vmulq_f32(vld1q_f32(all->sum + g), keep);
    vst1q_f32(all->keep + g, keep);
    vst1q_f32(all->add + g, add);
    vst1q_f32(all->sum + g, vfmaq_f32(kept, vld1q_f32(sum + g), add));
    vst1q_f32(all->max + g, joint);
  }
  qi__softmax_state rest = {all->max + g, all->sum + g, all->keep + g, all->add + g};
  qi__attention_join_ref(max + g, sum + g, n - g, &rest);
}

QI__FN void qi__attention_blend_neon(const float *piece, const float *keep, const float *add, size_t n, size_t dim, float *values) {
  for (size_t g = 0; g < n; g++, piece += dim, values += dim) {
    size_t i = 0;
    for (; i + 4 <= dim; i += 4) {
      float32x4_t old = vmulq_n_f32(vld1q_f32(values + i), keep[g]);
      vst1q_f32(values + i, vfmaq_f32(old, vld1q_f32(piece + i), vdupq_n_f32(add[g])));
    }
    qi__attention_blend_ref(piece + i, keep + g, add + g, 1, dim - i, values + i);
  }
}
#endif

#endif // QI__KERNELS_ATTENTION_H
// generated from src/kernels/bf16.h: edit there
// ==== >>bf16 : products of bfloat16 panels ====
#ifndef QI__KERNELS_BF16_H
#define QI__KERNELS_BF16_H

// generated from src/kernels/dequant.h: edit there
// ==== >>dequant : packed weights to float32 and bfloat16 ====
#ifndef QI__KERNELS_DEQUANT_H
#define QI__KERNELS_DEQUANT_H

// generated from src/formats/table.h: edit there
// ==== >>formats : the table of weight formats ====
#ifndef QI__FORMATS_TABLE_H
#define QI__FORMATS_TABLE_H

// generated from src/formats/block.h: edit there
// ==== >>block : what all weight formats have in common ====
#ifndef QI__FORMATS_BLOCK_H
#define QI__FORMATS_BLOCK_H


#define QI__BLOCK_MAX 256 // longest block: k-quants, IQ, ternary

// A block taken apart into integers and their scales, the same for every quantised format:
//
//   w[i] = (d * scale[g]) * q[i] - dmin * min[g]      g = i / group, each product rounded to float32
//
// One function a format takes blocks apart; dequantisation, the reference dot product and the tests all start from this.
// Formats with a fractional grid fold its power of two into d (exact): IQ1 stores 8 * (grid + delta) and d / 8.
typedef struct qi__block {
  float d, dmin;        // dmin = 0 and min = 0 where a format has no offset
  int8_t q[QI__BLOCK_MAX];
  int16_t wide[QI__BLOCK_MAX]; // instead of q in wide formats
  int16_t scale[QI__BLOCK_MAX / 16]; // block_len / group of them; 1 in formats with only d
  int16_t min[QI__BLOCK_MAX / 16];
} qi__block;

typedef struct qi__format {
  qi_format_info info;
  int group;            // codes that share a scale: 16 or 32; 0 in formats without integer form
  bool has_min;         // dmin and min are used
  bool wide;            // codes need 9 bits: the block's `wide`
  bool ternary;         // one scale a block of 256, codes -1..2: integer products of a whole row (kernels/dot_ternary.h)
  // One block at `src` (any alignment) to integers; NULL without integer form. Call qi__unpack.
  void (*unpack)(const uint8_t *src, qi__block *out);
  // n weights to float32; NULL = through unpack (qi__dequantize_blocks).
  void (*dequantize)(const struct qi__format *f, const uint8_t *src, float *dst, size_t n);
  // One row of n weights; importance NULL or [n]. NULL = cannot be written row by row.
  void (*quantize)(const float *src, uint8_t *dst, size_t n, const float *importance);
  // Formats with a tail (info.tail_bytes): the whole tensor with its tail; importance NULL or [n_cols].
  void (*quantize_tensor)(const float *src, uint8_t *dst, size_t n_rows, size_t n_cols, const float *importance);
  // Parameters of a tensor from its tail to param and values[256]; NULL, or what was expected there.
  const char *(*read_tail)(const uint8_t *tail, float *param, float *values);

  // What a tail says is filled in by qi__format_bind in a copy of the row, which then goes where the row would.
  const struct qi__format *row; // of the table; NULL in the table itself
  float param[2];
  const float *values;          // what the codes stand for
} qi__format;

// Takes a block apart. `f`: bound, if the format has a tail; then d is a parameter of the tensor.
QI__INLINE void qi__unpack(const qi__format *f, const uint8_t *src, qi__block *out) {
  f->unpack(src, out);
  if (f->info.tail_bytes) out->d = f->param[0];
}

QI__INLINE int qi__block_code(const qi__format *f, const qi__block *b, int i) { return f->wide ? b->wide[i] : b->q[i]; }

#endif // QI__FORMATS_BLOCK_H
// generated from src/formats/float.h: edit there
// ==== >>float : rows of F32, F16 and BF16 ====
#ifndef QI__FORMATS_FLOAT_H
#define QI__FORMATS_FLOAT_H


// Little-endian values without gaps, any alignment. Block length 1.

QI__FN void qi__dequantize_f32(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  for (size_t i = 0; i < n; i++) dst[i] = qi__bits_f32(qi__load_u32(src + 4 * i));
}

QI__FN void qi__dequantize_f16(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  for (size_t i = 0; i < n; i++) dst[i] = qi__f16_to_f32(qi__load_u16(src + 2 * i));
}

QI__FN void qi__dequantize_bf16(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  for (size_t i = 0; i < n; i++) dst[i] = qi__bf16_to_f32(qi__load_u16(src + 2 * i));
}

QI__FN void qi__quantize_f32(const float *src, uint8_t *dst, size_t n, const float *importance) {
  (void)importance;
  for (size_t i = 0; i < n; i++) qi__store_f32(dst + 4 * i, src[i]);
}

// A weight that does not fit becomes the greatest one that does: an infinite weight would make every result NaN.
QI__FN void qi__quantize_f16(const float *src, uint8_t *dst, size_t n, const float *importance) {
  (void)importance;
  for (size_t i = 0; i < n; i++) {
    uint16_t h = qi__f32_to_f16(src[i]);
    if ((h & 0x7fffu) == 0x7c00u) h--;
    qi__store_u16(dst + 2 * i, h);
  }
}

QI__FN void qi__quantize_bf16(const float *src, uint8_t *dst, size_t n, const float *importance) {
  (void)importance;
  for (size_t i = 0; i < n; i++) {
    uint16_t b = qi__f32_to_bf16(src[i]);
    if ((b & 0x7fffu) == 0x7f80u) b--;
    qi__store_u16(dst + 2 * i, b);
  }
}

#endif // QI__FORMATS_FLOAT_H
// generated from src/formats/iq.h: edit there
// ==== >>iq : the IQ grid formats of ggml ====
#ifndef QI__FORMATS_IQ_H
#define QI__FORMATS_IQ_H

// generated from src/formats/iq_tables.h: edit there
// ==== >>iq_tables : the points of the IQ grid formats ====
#ifndef QI__FORMATS_IQ_TABLES_H
#define QI__FORMATS_IQ_TABLES_H


// Numbers that define the formats (ggml-common.h of ggml). Each entry packs one point of a lattice, value j in the bits from
// j * bits: points of 8 values take 2 bits a value, points of 4 take 3. A code is an index into the values below.
static const int8_t qi__iq1_values[4] = {-8, 0, 8, 0}; // eighths: the delta of a group is one eighth
static const int8_t qi__iq2_values[4] = {8, 25, 43, 0};
static const int8_t qi__iq3_xxs_values[8] = {4, 12, 20, 28, 36, 44, 52, 62};
static const int8_t qi__iq3_s_values[8] = {1, 3, 5, 7, 9, 11, 13, 15};

// IQ2_XXS: 256 points of 8 values.
static const uint16_t qi__iq2_xxs_grid[256] = {
  0x0000, 0x0002, 0x0005, 0x0008, 0x000a, 0x0011, 0x0014, 0x0020, 0x0022, 0x0028, 0x002a, 0x0041, 0x0044, 0x0050, 0x0058, 0x0061,
  0x0064, 0x0080, 0x0082, 0x008a, 0x00a2, 0x0101, 0x0104, 0x0110, 0x0115, 0x0140, 0x0184, 0x0198, 0x0200, 0x0202, 0x0222, 0x0282,
  0x0401, 0x0404, 0x0410, 0x0421, 0x0424, 0x0440, 0x0442, 0x0448, 0x0460, 0x0481, 0x0484, 0x0490, 0x04a4, 0x0500, 0x0502, 0x0508,
  0x0520, 0x0546, 0x0569, 0x0580, 0x0591, 0x0609, 0x0610, 0x0640, 0x0684, 0x06a4, 0x0800, 0x0805, 0x0808, 0x0814, 0x0828, 0x0841,
  0x0844, 0x0850, 0x0852, 0x0888, 0x0904, 0x0940, 0x0a02, 0x0a14, 0x1001, 0x1004, 0x1010, 0x1021, 0x1040, 0x1060, 0x1084, 0x1090,
  0x1095, 0x1100, 0x1108, 0x1120, 0x1150, 0x115a, 0x1180, 0x1224, 0x1245, 0x1400, 0x1408, 0x1420, 0x1425, 0x1449, 0x1480, 0x1518,
  0x1562, 0x1600, 0x1616, 0x1801, 0x1804, 0x1810, 0x1840, 0x1881, 0x1900, 0x1905, 0x19a0, 0x1a51, 0x2000, 0x2002, 0x200a, 0x2044,
  0x2061, 0x2080, 0x2082, 0x2129, 0x2148, 0x2200, 0x2202, 0x2401, 0x2404, 0x2410, 0x2440, 0x2456, 0x2500, 0x2541, 0x2564, 0x2690,
  0x2808, 0x2820, 0x2894, 0x2a44, 0x4001, 0x4004, 0x4010, 0x4018, 0x4021, 0x4024, 0x4040, 0x4048, 0x4056, 0x4060, 0x4081, 0x4084,
  0x4090, 0x4100, 0x4120, 0x4161, 0x4180, 0x4185, 0x4201, 0x4210, 0x4248, 0x4256, 0x4268, 0x4400, 0x4408, 0x4420, 0x4480, 0x4499,
  0x4512, 0x4524, 0x4600, 0x4801, 0x4804, 0x4810, 0x4840, 0x4845, 0x4900, 0x4958, 0x4961, 0x4982, 0x4a45, 0x4a90, 0x5000, 0x5008,
  0x5011, 0x5019, 0x5020, 0x5080, 0x5088, 0x5104, 0x5142, 0x51a4, 0x5291, 0x5490, 0x5492, 0x550a, 0x5601, 0x5654, 0x5800, 0x5811,
  0x5819, 0x5864, 0x5940, 0x5a08, 0x6004, 0x6010, 0x6040, 0x6068, 0x6100, 0x6155, 0x6218, 0x6260, 0x6400, 0x6405, 0x6510, 0x6512,
  0x6584, 0x6842, 0x8000, 0x8002, 0x800a, 0x8041, 0x8082, 0x8104, 0x8118, 0x8140, 0x8211, 0x8401, 0x8404, 0x8410, 0x8415, 0x8440,
  0x8460, 0x8500, 0x8546, 0x8594, 0x8609, 0x8640, 0x8660, 0x8802, 0x8904, 0x8a11, 0x9004, 0x9010, 0x9024, 0x9040, 0x90a1, 0x9116,
  0x9180, 0x9245, 0x9400, 0x9422, 0x9444, 0x9551, 0x9881, 0x9920, 0xa002, 0xa050, 0xa085, 0xa109, 0xa200, 0xa418, 0xa850, 0xa904
};

// IQ2_XS: 512 points of 8 values.
static const uint16_t qi__iq2_xs_grid[512] = {
  0x0000, 0x0002, 0x0005, 0x0008, 0x000a, 0x0011, 0x0014, 0x0016, 0x0019, 0x0020, 0x0022, 0x0025, 0x0028, 0x0041, 0x0044, 0x0046,
  0x0049, 0x0050, 0x0052, 0x0055, 0x0058, 0x0061, 0x0064, 0x0080, 0x0082, 0x0085, 0x0088, 0x0091, 0x0094, 0x0099, 0x00a0, 0x0101,
  0x0104, 0x0106, 0x0109, 0x0110, 0x0112, 0x0115, 0x0118, 0x011a, 0x0121, 0x0124, 0x0140, 0x0142, 0x0145, 0x0148, 0x0151, 0x0154,
  0x0160, 0x0168, 0x0181, 0x0184, 0x0190, 0x0200, 0x0202, 0x0205, 0x0208, 0x0211, 0x0214, 0x0220, 0x0241, 0x0244, 0x0250, 0x0255,
  0x0280, 0x028a, 0x0401, 0x0404, 0x0406, 0x0409, 0x0410, 0x0412, 0x0415, 0x0418, 0x0421, 0x0424, 0x0440, 0x0442, 0x0445, 0x0448,
  0x0451, 0x0454, 0x0456, 0x0460, 0x0481, 0x0484, 0x0490, 0x0500, 0x0502, 0x0505, 0x0508, 0x0511, 0x0514, 0x0520, 0x0541, 0x0544,
  0x0550, 0x0561, 0x0580, 0x0601, 0x0604, 0x0610, 0x0626, 0x0640, 0x0642, 0x0684, 0x0800, 0x0802, 0x0805, 0x0808, 0x080a, 0x0811,
  0x0814, 0x0820, 0x0825, 0x0841, 0x0844, 0x0850, 0x0858, 0x0880, 0x08a0, 0x08aa, 0x0901, 0x0904, 0x0910, 0x0940, 0x0981, 0x0989,
  0x0a00, 0x0a20, 0x0a28, 0x0a96, 0x0aa0, 0x1001, 0x1004, 0x1006, 0x1009, 0x1010, 0x1012, 0x1015, 0x1018, 0x1021, 0x1024, 0x1040,
  0x1042, 0x1045, 0x1048, 0x1051, 0x1054, 0x1060, 0x106a, 0x1081, 0x1084, 0x1090, 0x1100, 0x1102, 0x1105, 0x1108, 0x1111, 0x1114,
  0x1120, 0x1141, 0x1144, 0x1150, 0x1180, 0x1194, 0x1196, 0x1201, 0x1204, 0x1206, 0x1210, 0x1240, 0x1260, 0x1400, 0x1402, 0x1405,
  0x1408, 0x1411, 0x1414, 0x1420, 0x1441, 0x1444, 0x1449, 0x1450, 0x1464, 0x1480, 0x1501, 0x1504, 0x1510, 0x1540, 0x1600, 0x1614,
  0x1649, 0x1801, 0x1804, 0x1810, 0x1812, 0x1840, 0x1854, 0x1886, 0x1900, 0x1905, 0x1966, 0x1a51, 0x1aa9, 0x2000, 0x2002, 0x2005,
  0x2008, 0x200a, 0x2011, 0x2014, 0x2020, 0x2041, 0x2044, 0x2050, 0x2080, 0x20a0, 0x2101, 0x2104, 0x2110, 0x2140, 0x2148, 0x2165,
  0x2200, 0x2222, 0x2280, 0x22a8, 0x2401, 0x2404, 0x2410, 0x2429, 0x2440, 0x2500, 0x2541, 0x2552, 0x2599, 0x2601, 0x261a, 0x26a6,
  0x2800, 0x2808, 0x280a, 0x2820, 0x2855, 0x2888, 0x28a2, 0x2968, 0x2990, 0x2a08, 0x2a20, 0x2a82, 0x2a88, 0x2a8a, 0x4001, 0x4004,
  0x4006, 0x4009, 0x4010, 0x4012, 0x4015, 0x4018, 0x4021, 0x4024, 0x4040, 0x4042, 0x4045, 0x4048, 0x404a, 0x4051, 0x4054, 0x4060,
  0x4065, 0x4081, 0x4084, 0x4090, 0x4100, 0x4102, 0x4105, 0x4108, 0x4111, 0x4114, 0x4120, 0x4141, 0x4144, 0x4150, 0x4180, 0x4185,
  0x41a2, 0x4201, 0x4204, 0x4210, 0x4212, 0x4229, 0x4240, 0x4400, 0x4402, 0x4405, 0x4408, 0x4411, 0x4414, 0x4419, 0x4420, 0x4441,
  0x4444, 0x4450, 0x4480, 0x4494, 0x4501, 0x4504, 0x4510, 0x4524, 0x4540, 0x459a, 0x4600, 0x460a, 0x4644, 0x4650, 0x4801, 0x4804,
  0x4810, 0x4840, 0x4845, 0x4854, 0x4862, 0x4900, 0x4911, 0x4944, 0x4950, 0x4969, 0x4a04, 0x5000, 0x5002, 0x5005, 0x5008, 0x5011,
  0x5014, 0x5020, 0x5028, 0x5041, 0x5044, 0x5050, 0x5080, 0x5101, 0x5104, 0x5110, 0x5115, 0x5140, 0x5142, 0x5200, 0x5244, 0x52aa,
  0x5401, 0x5404, 0x5410, 0x5421, 0x5440, 0x5460, 0x5481, 0x54a1, 0x5500, 0x5508, 0x5580, 0x5588, 0x5621, 0x5668, 0x56a1, 0x5800,
  0x5814, 0x5841, 0x5850, 0x5899, 0x591a, 0x5940, 0x5942, 0x5a85, 0x6001, 0x6004, 0x6010, 0x6040, 0x6054, 0x6062, 0x6086, 0x60a9,
  0x6100, 0x6224, 0x624a, 0x6292, 0x6400, 0x6416, 0x6510, 0x6540, 0x6545, 0x65a4, 0x6801, 0x686a, 0x6925, 0x6a06, 0x6a54, 0x6a62,
  0x8000, 0x8002, 0x8005, 0x8008, 0x8011, 0x8014, 0x8020, 0x802a, 0x8041, 0x8044, 0x8050, 0x8080, 0x8082, 0x80a8, 0x80aa, 0x8101,
  0x8104, 0x8106, 0x8110, 0x8140, 0x8151, 0x8159, 0x8200, 0x8220, 0x8280, 0x8282, 0x82a0, 0x82a8, 0x8401, 0x8404, 0x8410, 0x8412,
  0x8415, 0x8440, 0x8460, 0x8489, 0x8500, 0x8544, 0x85a5, 0x8618, 0x866a, 0x8800, 0x8808, 0x8825, 0x885a, 0x8880, 0x8882, 0x88a8,
  0x8906, 0x8a22, 0x8a80, 0x8a88, 0x8a96, 0x8aa8, 0x9001, 0x9004, 0x9010, 0x9040, 0x9056, 0x9084, 0x9100, 0x9122, 0x9164, 0x9256,
  0x9289, 0x9400, 0x9405, 0x9444, 0x9450, 0x9458, 0x9529, 0x9590, 0x9592, 0x9641, 0x9851, 0x98a6, 0x9949, 0x9a15, 0x9a60, 0xa000,
  0xa002, 0xa008, 0xa00a, 0xa020, 0xa02a, 0xa0a0, 0xa151, 0xa159, 0xa1a6, 0xa200, 0xa202, 0xa208, 0xa22a, 0xa280, 0xa2a0, 0xa440,
  0xa495, 0xa665, 0xa698, 0xa80a, 0xa820, 0xa822, 0xa828, 0xa8a0, 0xa8a8, 0xa904, 0xa984, 0xa986, 0xaa28, 0xaa2a, 0xaa91, 0xaaaa
};

// IQ2_S: 1024 points of 8 values.
static const uint16_t qi__iq2_s_grid[1024] = {
  0x0000, 0x0002, 0x0005, 0x0008, 0x000a, 0x0011, 0x0014, 0x0016, 0x0019, 0x0020, 0x0022, 0x0025, 0x0028, 0x0041, 0x0044, 0x0046,
  0x0049, 0x0050, 0x0052, 0x0055, 0x0058, 0x0061, 0x0064, 0x0066, 0x0069, 0x0080, 0x0082, 0x0085, 0x0088, 0x0091, 0x0094, 0x00a0,
  0x00a5, 0x00aa, 0x0101, 0x0104, 0x0106, 0x0109, 0x0110, 0x0112, 0x0115, 0x0118, 0x0121, 0x0124, 0x0140, 0x0142, 0x0145, 0x0148,
  0x0151, 0x0154, 0x0156, 0x0159, 0x0160, 0x0165, 0x0168, 0x0181, 0x0184, 0x0190, 0x0192, 0x0195, 0x01a1, 0x01a4, 0x0200, 0x0202,
  0x0205, 0x0208, 0x0211, 0x0214, 0x0220, 0x022a, 0x0241, 0x0244, 0x0246, 0x0249, 0x0250, 0x0255, 0x0280, 0x0285, 0x028a, 0x0294,
  0x02a2, 0x0401, 0x0404, 0x0406, 0x0409, 0x0410, 0x0412, 0x0415, 0x0418, 0x0421, 0x0424, 0x0426, 0x0429, 0x0440, 0x0442, 0x0445,
  0x0448, 0x044a, 0x0451, 0x0454, 0x0456, 0x0459, 0x0460, 0x0462, 0x0465, 0x0481, 0x0484, 0x0486, 0x0489, 0x0490, 0x0495, 0x0498,
  0x04a1, 0x04a4, 0x0500, 0x0502, 0x0505, 0x0508, 0x050a, 0x0511, 0x0514, 0x0516, 0x0519, 0x0520, 0x0525, 0x0528, 0x0541, 0x0544,
  0x0546, 0x0549, 0x0550, 0x0552, 0x0555, 0x0558, 0x0561, 0x0564, 0x0580, 0x0582, 0x0585, 0x0588, 0x0591, 0x0594, 0x05a0, 0x0601,
  0x0604, 0x0606, 0x0609, 0x0610, 0x0615, 0x0640, 0x0645, 0x0648, 0x0651, 0x0654, 0x0660, 0x0681, 0x0684, 0x0690, 0x0800, 0x0802,
  0x0805, 0x0808, 0x0811, 0x0814, 0x0816, 0x0819, 0x0820, 0x0825, 0x082a, 0x0841, 0x0844, 0x0846, 0x0849, 0x0850, 0x0852, 0x0855,
  0x0858, 0x0861, 0x0864, 0x0880, 0x0885, 0x0894, 0x08aa, 0x0901, 0x0904, 0x0910, 0x0912, 0x0915, 0x0918, 0x0921, 0x0940, 0x0945,
  0x0948, 0x0951, 0x0954, 0x0960, 0x0981, 0x0990, 0x0a00, 0x0a11, 0x0a14, 0x0a22, 0x0a28, 0x0a2a, 0x0a50, 0x0a99, 0x1001, 0x1004,
  0x1006, 0x1009, 0x1010, 0x1012, 0x1015, 0x1018, 0x1021, 0x1024, 0x1026, 0x1040, 0x1042, 0x1045, 0x1048, 0x1051, 0x1054, 0x1056,
  0x1059, 0x1060, 0x1062, 0x1065, 0x1068, 0x1081, 0x1084, 0x1086, 0x1090, 0x1095, 0x1098, 0x10a1, 0x10a4, 0x1100, 0x1102, 0x1105,
  0x1108, 0x110a, 0x1111, 0x1114, 0x1116, 0x1119, 0x1120, 0x1122, 0x1125, 0x1128, 0x1141, 0x1144, 0x1146, 0x1149, 0x1150, 0x1152,
  0x1155, 0x1158, 0x1161, 0x1164, 0x1180, 0x1182, 0x1185, 0x1188, 0x1191, 0x1194, 0x1201, 0x1204, 0x1209, 0x1210, 0x1215, 0x1221,
  0x1224, 0x1240, 0x1245, 0x1251, 0x1254, 0x1281, 0x1284, 0x1290, 0x1400, 0x1402, 0x1405, 0x1408, 0x1411, 0x1414, 0x1416, 0x1419,
  0x1420, 0x1425, 0x1428, 0x1441, 0x1444, 0x1446, 0x1449, 0x1450, 0x1452, 0x1455, 0x1458, 0x1461, 0x1464, 0x1480, 0x1482, 0x1485,
  0x1488, 0x1491, 0x1494, 0x14a0, 0x1501, 0x1504, 0x1506, 0x1509, 0x1510, 0x1512, 0x1515, 0x1518, 0x1521, 0x1524, 0x1540, 0x1542,
  0x1545, 0x1548, 0x1551, 0x1554, 0x1560, 0x1581, 0x1584, 0x1590, 0x1600, 0x1605, 0x1608, 0x1611, 0x1614, 0x1620, 0x1641, 0x1644,
  0x1650, 0x1680, 0x16aa, 0x1801, 0x1804, 0x1806, 0x1809, 0x1810, 0x1815, 0x1818, 0x1821, 0x1840, 0x1842, 0x1845, 0x1848, 0x1851,
  0x1854, 0x1860, 0x1881, 0x1884, 0x1900, 0x1902, 0x1905, 0x1908, 0x1911, 0x1914, 0x1920, 0x1941, 0x1944, 0x1950, 0x1969, 0x19a2,
  0x1a04, 0x1a10, 0x1a40, 0x1a56, 0x2000, 0x2002, 0x2005, 0x2008, 0x2011, 0x2014, 0x2016, 0x2019, 0x2020, 0x2025, 0x202a, 0x2041,
  0x2044, 0x2050, 0x2052, 0x2055, 0x2064, 0x2080, 0x208a, 0x2094, 0x20aa, 0x2101, 0x2104, 0x2110, 0x2112, 0x2115, 0x2121, 0x2140,
  0x2142, 0x2145, 0x2151, 0x2154, 0x2160, 0x2181, 0x2184, 0x2190, 0x2200, 0x220a, 0x2222, 0x2228, 0x222a, 0x2244, 0x2250, 0x2288,
  0x228a, 0x22a8, 0x2401, 0x2404, 0x2406, 0x2409, 0x2410, 0x2415, 0x2418, 0x2421, 0x2424, 0x2440, 0x2442, 0x2445, 0x2448, 0x2451,
  0x2454, 0x2460, 0x2481, 0x2484, 0x2490, 0x2500, 0x2505, 0x2508, 0x2511, 0x2514, 0x2520, 0x2541, 0x2544, 0x2550, 0x2566, 0x2580,
  0x2601, 0x2604, 0x2610, 0x2640, 0x2659, 0x2800, 0x2805, 0x2811, 0x2814, 0x2841, 0x2844, 0x2850, 0x288a, 0x28aa, 0x2901, 0x2904,
  0x2910, 0x2995, 0x2a0a, 0x2a22, 0x2a64, 0x2a88, 0x2a8a, 0x4001, 0x4004, 0x4006, 0x4009, 0x4010, 0x4012, 0x4015, 0x4018, 0x401a,
  0x4021, 0x4024, 0x4026, 0x4040, 0x4042, 0x4045, 0x4048, 0x404a, 0x4051, 0x4054, 0x4056, 0x4059, 0x4060, 0x4062, 0x4065, 0x4081,
  0x4084, 0x4090, 0x4095, 0x4098, 0x40a1, 0x40a4, 0x4100, 0x4102, 0x4105, 0x4108, 0x4111, 0x4114, 0x4116, 0x4119, 0x4120, 0x4122,
  0x4125, 0x4141, 0x4144, 0x4146, 0x4149, 0x4150, 0x4152, 0x4155, 0x4158, 0x4161, 0x4164, 0x4180, 0x4182, 0x4185, 0x4188, 0x4191,
  0x4194, 0x41a0, 0x4201, 0x4204, 0x4210, 0x4212, 0x4215, 0x4218, 0x4224, 0x4240, 0x4245, 0x4248, 0x4251, 0x4254, 0x4260, 0x4281,
  0x4284, 0x4400, 0x4402, 0x4405, 0x4408, 0x440a, 0x4411, 0x4414, 0x4416, 0x4419, 0x4420, 0x4422, 0x4425, 0x4428, 0x4441, 0x4444,
  0x4446, 0x4449, 0x4450, 0x4452, 0x4455, 0x4458, 0x4461, 0x4464, 0x4480, 0x4482, 0x4485, 0x4488, 0x4491, 0x4494, 0x44a0, 0x4501,
  0x4504, 0x4506, 0x4509, 0x4510, 0x4512, 0x4515, 0x4518, 0x4521, 0x4524, 0x4540, 0x4542, 0x4545, 0x4548, 0x4551, 0x4554, 0x4560,
  0x456a, 0x4581, 0x4584, 0x4590, 0x4600, 0x4602, 0x4605, 0x4608, 0x4611, 0x4614, 0x4620, 0x4641, 0x4644, 0x4650, 0x4680, 0x46a5,
  0x4801, 0x4804, 0x4809, 0x4810, 0x4812, 0x4815, 0x4818, 0x4821, 0x4824, 0x4840, 0x4842, 0x4845, 0x4848, 0x4851, 0x4854, 0x4860,
  0x4884, 0x4890, 0x4900, 0x4902, 0x4905, 0x4908, 0x4911, 0x4914, 0x4920, 0x4941, 0x4944, 0x4950, 0x4980, 0x4996, 0x4a01, 0x4a04,
  0x4a10, 0x4a40, 0x5000, 0x5002, 0x5005, 0x5008, 0x5011, 0x5014, 0x5016, 0x5019, 0x5020, 0x5022, 0x5025, 0x5028, 0x5041, 0x5044,
  0x5046, 0x5049, 0x5050, 0x5052, 0x5055, 0x5058, 0x5061, 0x5064, 0x5080, 0x5082, 0x5085, 0x5088, 0x5091, 0x5094, 0x5101, 0x5104,
  0x5106, 0x5109, 0x5110, 0x5112, 0x5115, 0x5118, 0x5121, 0x5124, 0x5140, 0x5142, 0x5145, 0x5148, 0x5151, 0x5154, 0x5160, 0x5181,
  0x5184, 0x5190, 0x5200, 0x5205, 0x5208, 0x5211, 0x5214, 0x5220, 0x5241, 0x5244, 0x5250, 0x5269, 0x5280, 0x5401, 0x5404, 0x5406,
  0x5409, 0x5410, 0x5412, 0x5415, 0x5418, 0x5421, 0x5424, 0x5440, 0x5442, 0x5445, 0x5448, 0x5451, 0x5454, 0x5460, 0x5481, 0x5484,
  0x5490, 0x5500, 0x5502, 0x5505, 0x5508, 0x5511, 0x5514, 0x5520, 0x5541, 0x5544, 0x5550, 0x5580, 0x5601, 0x5604, 0x5610, 0x5626,
  0x5640, 0x5800, 0x5802, 0x5805, 0x5808, 0x5811, 0x5814, 0x5820, 0x5841, 0x5844, 0x5850, 0x585a, 0x5880, 0x5901, 0x5904, 0x5910,
  0x5940, 0x5a00, 0x5a19, 0x5a85, 0x5aa8, 0x6001, 0x6004, 0x6006, 0x6010, 0x6012, 0x6015, 0x6018, 0x6021, 0x6024, 0x6040, 0x6045,
  0x6048, 0x6051, 0x6054, 0x6060, 0x6084, 0x6090, 0x6100, 0x6102, 0x6105, 0x6108, 0x6111, 0x6114, 0x6120, 0x6141, 0x6144, 0x6150,
  0x6180, 0x6199, 0x6204, 0x6210, 0x6240, 0x6256, 0x62a1, 0x6400, 0x6405, 0x6408, 0x6411, 0x6414, 0x6420, 0x6441, 0x6444, 0x6450,
  0x6480, 0x6501, 0x6504, 0x6510, 0x6540, 0x654a, 0x6568, 0x6592, 0x6600, 0x6694, 0x6801, 0x6804, 0x6810, 0x6865, 0x6898, 0x6900,
  0x692a, 0x6a42, 0x6aa1, 0x8000, 0x8002, 0x8005, 0x8008, 0x8011, 0x8014, 0x8019, 0x8020, 0x8025, 0x8041, 0x8044, 0x8050, 0x8052,
  0x8055, 0x8058, 0x8061, 0x8080, 0x8085, 0x8091, 0x8094, 0x8101, 0x8104, 0x8109, 0x8110, 0x8112, 0x8115, 0x8118, 0x8121, 0x8124,
  0x8140, 0x8142, 0x8145, 0x8148, 0x8151, 0x8154, 0x8181, 0x8184, 0x8190, 0x81a9, 0x8200, 0x8205, 0x820a, 0x8211, 0x8214, 0x8241,
  0x8244, 0x8250, 0x8401, 0x8404, 0x8406, 0x8409, 0x8410, 0x8412, 0x8415, 0x8418, 0x8421, 0x8440, 0x8442, 0x8445, 0x8448, 0x8451,
  0x8454, 0x8460, 0x8481, 0x8484, 0x8490, 0x8500, 0x8502, 0x8505, 0x8508, 0x8511, 0x8514, 0x8520, 0x8541, 0x8544, 0x8550, 0x8580,
  0x858a, 0x8601, 0x8604, 0x8610, 0x8629, 0x8640, 0x8800, 0x8805, 0x8811, 0x8814, 0x8841, 0x8844, 0x8850, 0x88a2, 0x8901, 0x8904,
  0x8940, 0x8965, 0x8a22, 0x8a58, 0x8a5a, 0x8a82, 0x8aa2, 0x9001, 0x9004, 0x9009, 0x9010, 0x9012, 0x9015, 0x9018, 0x9024, 0x9040,
  0x9042, 0x9045, 0x9048, 0x9051, 0x9054, 0x9060, 0x9081, 0x9084, 0x9090, 0x9100, 0x9105, 0x9111, 0x9114, 0x9141, 0x9144, 0x9150,
  0x915a, 0x9201, 0x9204, 0x9210, 0x9240, 0x92a6, 0x9400, 0x9402, 0x9405, 0x9408, 0x9411, 0x9414, 0x9420, 0x9441, 0x9444, 0x9450,
  0x9480, 0x9496, 0x9501, 0x9504, 0x9510, 0x9540, 0x9598, 0x95a1, 0x9600, 0x9646, 0x9664, 0x9801, 0x9804, 0x9810, 0x9826, 0x9840,
  0x98a9, 0x9900, 0x9949, 0x9952, 0x9a90, 0xa000, 0xa005, 0xa00a, 0xa014, 0xa022, 0xa02a, 0xa041, 0xa044, 0xa050, 0xa0a2, 0xa0aa,
  0xa140, 0xa165, 0xa202, 0xa20a, 0xa222, 0xa228, 0xa22a, 0xa282, 0xa288, 0xa28a, 0xa2a8, 0xa401, 0xa404, 0xa410, 0xa440, 0xa489,
  0xa4a4, 0xa500, 0xa519, 0xa651, 0xa80a, 0xa828, 0xa8a2, 0xa954, 0xa986, 0xaa08, 0xaa0a, 0xaa20, 0xaa22, 0xaa28, 0xaa88, 0xaaaa
};

// IQ3_XXS: 256 points of 4 values.
static const uint16_t qi__iq3_xxs_grid[256] = {
  0x0000, 0x0002, 0x0004, 0x0009, 0x000b, 0x000f, 0x0010, 0x0012, 0x0019, 0x0022, 0x003b, 0x003d, 0x0041, 0x0043, 0x0048, 0x004a,
  0x0051, 0x0055, 0x0058, 0x005a, 0x0061, 0x006c, 0x0078, 0x0080, 0x0082, 0x0084, 0x0089, 0x0090, 0x0092, 0x0099, 0x009b, 0x009f,
  0x00a9, 0x00af, 0x00bd, 0x00c1, 0x00c7, 0x00c8, 0x00ca, 0x00d5, 0x00f8, 0x010b, 0x011f, 0x0124, 0x012f, 0x013b, 0x013d, 0x0141,
  0x0147, 0x015a, 0x016a, 0x019d, 0x01b4, 0x01c8, 0x01cc, 0x01ce, 0x01e3, 0x01f1, 0x0201, 0x0203, 0x0208, 0x020a, 0x0211, 0x0213,
  0x0218, 0x021a, 0x021c, 0x0227, 0x0228, 0x0240, 0x0242, 0x0249, 0x0250, 0x0252, 0x0281, 0x0283, 0x0288, 0x028a, 0x0291, 0x0298,
  0x02ba, 0x02c0, 0x02c2, 0x02d0, 0x02d9, 0x02e6, 0x02f6, 0x0301, 0x0305, 0x0328, 0x0350, 0x0354, 0x0366, 0x0379, 0x0385, 0x03d2,
  0x03e0, 0x0400, 0x0402, 0x0409, 0x040b, 0x0410, 0x0412, 0x0416, 0x0419, 0x0422, 0x0441, 0x0443, 0x0445, 0x0448, 0x044a, 0x0451,
  0x0458, 0x0473, 0x0477, 0x0478, 0x0480, 0x0482, 0x0489, 0x048f, 0x0490, 0x0492, 0x049f, 0x04a0, 0x04ad, 0x04c1, 0x04c8, 0x04cc,
  0x04f8, 0x04fc, 0x051d, 0x052b, 0x0543, 0x0557, 0x0561, 0x057c, 0x05c1, 0x05c3, 0x05ce, 0x05e5, 0x0601, 0x0608, 0x060a, 0x0611,
  0x0613, 0x0628, 0x0635, 0x063a, 0x0640, 0x0642, 0x0650, 0x0659, 0x0664, 0x0666, 0x0681, 0x0683, 0x0688, 0x0695, 0x06aa, 0x06ba,
  0x06c9, 0x06db, 0x0718, 0x0727, 0x073a, 0x0740, 0x0746, 0x0752, 0x076d, 0x078c, 0x079e, 0x07b3, 0x07db, 0x07f0, 0x0804, 0x080f,
  0x081d, 0x081f, 0x082b, 0x082f, 0x087c, 0x0890, 0x089f, 0x08a0, 0x08b0, 0x08b6, 0x08c7, 0x08e5, 0x0904, 0x0929, 0x0934, 0x0955,
  0x0963, 0x0978, 0x09c5, 0x09c8, 0x09ca, 0x09d8, 0x0a0a, 0x0a21, 0x0a38, 0x0a40, 0x0a46, 0x0a56, 0x0a6d, 0x0a8c, 0x0a9a, 0x0aba,
  0x0ac2, 0x0aeb, 0x0b08, 0x0b13, 0x0b17, 0x0b3a, 0x0b42, 0x0b59, 0x0ba8, 0x0bd4, 0x0be2, 0x0c14, 0x0c24, 0x0c26, 0x0c34, 0x0c51,
  0x0c71, 0x0c8f, 0x0cb4, 0x0cd8, 0x0cde, 0x0d24, 0x0d45, 0x0d6a, 0x0d9b, 0x0dc3, 0x0dd1, 0x0e03, 0x0e05, 0x0e07, 0x0e08, 0x0e1a,
  0x0e2a, 0x0e56, 0x0e60, 0x0e8a, 0x0ea5, 0x0eaa, 0x0ec0, 0x0ecd, 0x0edb, 0x0ef0, 0x0f11, 0x0f21, 0x0f40, 0x0f42, 0x0f54, 0x0f98
};

// IQ3_S: 512 points of 4 values.
static const uint16_t qi__iq3_s_grid[512] = {
  0x0000, 0x0001, 0x0002, 0x0005, 0x0007, 0x0008, 0x0009, 0x000a, 0x000c, 0x000e, 0x0010, 0x0011, 0x0015, 0x001b, 0x0020, 0x0022,
  0x0025, 0x0027, 0x0029, 0x002b, 0x0030, 0x0032, 0x0039, 0x003c, 0x003f, 0x0040, 0x0041, 0x0042, 0x0044, 0x0048, 0x0049, 0x004d,
  0x0050, 0x0053, 0x0057, 0x0059, 0x005d, 0x0064, 0x0071, 0x0075, 0x007a, 0x0080, 0x0081, 0x0085, 0x0087, 0x0088, 0x008b, 0x008e,
  0x0091, 0x0095, 0x0098, 0x009c, 0x00a2, 0x00a5, 0x00a7, 0x00a9, 0x00ab, 0x00b8, 0x00bb, 0x00c3, 0x00c9, 0x00cd, 0x00d0, 0x00d2,
  0x00d9, 0x00db, 0x00de, 0x00e4, 0x00e8, 0x00ea, 0x00f7, 0x00f9, 0x00fd, 0x0100, 0x010b, 0x010f, 0x0111, 0x0114, 0x011a, 0x0120,
  0x0123, 0x0129, 0x0138, 0x0142, 0x0144, 0x0150, 0x0152, 0x0156, 0x015b, 0x0161, 0x0165, 0x0167, 0x0176, 0x017b, 0x0186, 0x0189,
  0x018b, 0x0199, 0x01aa, 0x01b9, 0x01c0, 0x01c2, 0x01c4, 0x01d0, 0x01d2, 0x01d6, 0x01db, 0x01e8, 0x01ec, 0x0200, 0x0201, 0x0202,
  0x0204, 0x0208, 0x0209, 0x020b, 0x020d, 0x020f, 0x0210, 0x0212, 0x0219, 0x021c, 0x021e, 0x022c, 0x022e, 0x0231, 0x023a, 0x0240,
  0x0241, 0x0243, 0x0246, 0x0248, 0x024c, 0x0251, 0x0258, 0x025b, 0x0261, 0x0268, 0x026a, 0x0278, 0x027e, 0x0280, 0x028a, 0x028d,
  0x028f, 0x0290, 0x0294, 0x029a, 0x02a0, 0x02a3, 0x02ad, 0x02b0, 0x02ba, 0x02c1, 0x02c4, 0x02c7, 0x02c8, 0x02cb, 0x02d1, 0x02d7,
  0x02d8, 0x02dc, 0x02e1, 0x02f2, 0x02f8, 0x0303, 0x0305, 0x030a, 0x030c, 0x0319, 0x031b, 0x0322, 0x0326, 0x0328, 0x032c, 0x0341,
  0x0348, 0x034b, 0x0351, 0x0358, 0x035a, 0x0369, 0x0390, 0x0394, 0x0397, 0x03a4, 0x03a6, 0x03c1, 0x03c3, 0x03c8, 0x03ca, 0x03d1,
  0x03dd, 0x03e1, 0x03f2, 0x03f8, 0x0400, 0x0401, 0x0403, 0x0405, 0x0407, 0x0408, 0x040a, 0x040c, 0x040e, 0x0411, 0x0413, 0x0417,
  0x0418, 0x041a, 0x0421, 0x0423, 0x0425, 0x0428, 0x042a, 0x0437, 0x0438, 0x043b, 0x043d, 0x0440, 0x0442, 0x0448, 0x044b, 0x044f,
  0x0452, 0x0455, 0x0459, 0x045c, 0x0462, 0x0469, 0x0481, 0x0484, 0x0487, 0x0491, 0x0493, 0x0498, 0x049f, 0x04a1, 0x04ab, 0x04af,
  0x04b9, 0x04bc, 0x04c0, 0x04c2, 0x04c5, 0x04c9, 0x04d2, 0x04d4, 0x04d9, 0x04db, 0x04e2, 0x04e8, 0x04f6, 0x0501, 0x0507, 0x0510,
  0x0513, 0x051a, 0x051d, 0x0521, 0x053a, 0x053d, 0x0544, 0x0549, 0x0552, 0x055f, 0x0560, 0x056b, 0x0578, 0x0580, 0x0582, 0x0587,
  0x0591, 0x05ad, 0x05b1, 0x05c5, 0x05c9, 0x05d6, 0x05d8, 0x05e3, 0x05e8, 0x0602, 0x0609, 0x060b, 0x060d, 0x060f, 0x0612, 0x0619,
  0x061b, 0x061d, 0x0622, 0x0624, 0x0627, 0x0629, 0x0633, 0x0639, 0x0641, 0x0643, 0x0645, 0x064c, 0x0651, 0x0653, 0x0660, 0x0670,
  0x067a, 0x067e, 0x0680, 0x068a, 0x0690, 0x069a, 0x069c, 0x06a8, 0x06c1, 0x06c8, 0x06cc, 0x06d1, 0x06d3, 0x06d7, 0x06d8, 0x06e1,
  0x06e3, 0x06e7, 0x06ed, 0x06fb, 0x0703, 0x0709, 0x070e, 0x0712, 0x0719, 0x072a, 0x0730, 0x0734, 0x0741, 0x0748, 0x074a, 0x0755,
  0x075a, 0x0764, 0x076e, 0x077b, 0x078e, 0x07a1, 0x07c1, 0x07c3, 0x07d0, 0x07d2, 0x07dd, 0x0800, 0x0804, 0x080a, 0x0810, 0x0814,
  0x0817, 0x081a, 0x0821, 0x0828, 0x0838, 0x0842, 0x0847, 0x0849, 0x084b, 0x0852, 0x0858, 0x085d, 0x0863, 0x0869, 0x086d, 0x0881,
  0x0883, 0x0888, 0x088d, 0x0891, 0x089b, 0x08a0, 0x08af, 0x08b2, 0x08b8, 0x08c4, 0x08c9, 0x08cb, 0x08d0, 0x08d2, 0x08d9, 0x08dd,
  0x0900, 0x0902, 0x0914, 0x091f, 0x0920, 0x0939, 0x0945, 0x0947, 0x0951, 0x0972, 0x098b, 0x099c, 0x09b0, 0x09c8, 0x09cd, 0x09d8,
  0x09e3, 0x09e9, 0x0a02, 0x0a08, 0x0a0c, 0x0a12, 0x0a20, 0x0a24, 0x0a27, 0x0a2a, 0x0a36, 0x0a3c, 0x0a41, 0x0a43, 0x0a45, 0x0a4a,
  0x0a51, 0x0a5a, 0x0a7a, 0x0a80, 0x0a89, 0x0a93, 0x0a98, 0x0a9e, 0x0aab, 0x0ac2, 0x0ac7, 0x0ac8, 0x0ad7, 0x0ae4, 0x0ae9, 0x0af5,
  0x0afb, 0x0b01, 0x0b04, 0x0b10, 0x0b1a, 0x0b26, 0x0b4a, 0x0b56, 0x0b69, 0x0b6b, 0x0ba2, 0x0bc2, 0x0bc4, 0x0bd2, 0x0c09, 0x0c0b,
  0x0c0d, 0x0c19, 0x0c1b, 0x0c30, 0x0c40, 0x0c50, 0x0c57, 0x0c74, 0x0c8a, 0x0c9c, 0x0ca2, 0x0cad, 0x0cb2, 0x0cb8, 0x0cc0, 0x0ccc,
  0x0cd1, 0x0ce0, 0x0d15, 0x0d23, 0x0d32, 0x0d40, 0x0d43, 0x0d5c, 0x0d70, 0x0d85, 0x0da0, 0x0dc9, 0x0dcb, 0x0e00, 0x0e04, 0x0e07,
  0x0e10, 0x0e12, 0x0e1e, 0x0e20, 0x0e2c, 0x0e32, 0x0e42, 0x0e49, 0x0e54, 0x0e63, 0x0e65, 0x0e81, 0x0e84, 0x0e88, 0x0e8e, 0x0e91,
  0x0e98, 0x0ea9, 0x0ec2, 0x0eda, 0x0edd, 0x0eeb, 0x0f01, 0x0f05, 0x0f0b, 0x0f10, 0x0f28, 0x0f52, 0x0f62, 0x0f82, 0x0f99, 0x0fc0
};

// IQ1_S and IQ1_M: 2048 points of 8 values.
static const uint16_t qi__iq1_grid[2048] = {
  0x0000, 0x0002, 0x0005, 0x0008, 0x000a, 0x0011, 0x0015, 0x0020, 0x0022, 0x0028, 0x002a, 0x0045, 0x0051, 0x0054, 0x0056, 0x0065,
  0x0080, 0x0082, 0x0088, 0x008a, 0x0095, 0x00a0, 0x00a2, 0x00a8, 0x00aa, 0x0104, 0x0105, 0x0111, 0x0114, 0x0116, 0x0119, 0x011a,
  0x0125, 0x0141, 0x0146, 0x0149, 0x0152, 0x0155, 0x015a, 0x0161, 0x0164, 0x0166, 0x0168, 0x0185, 0x0191, 0x0194, 0x0196, 0x01a5,
  0x0200, 0x0202, 0x0208, 0x020a, 0x0215, 0x0220, 0x0222, 0x0228, 0x022a, 0x0245, 0x0251, 0x0259, 0x0264, 0x0269, 0x0280, 0x0282,
  0x0288, 0x028a, 0x0291, 0x0295, 0x0299, 0x02a0, 0x02a2, 0x02a8, 0x02aa, 0x0411, 0x0414, 0x0416, 0x0425, 0x0441, 0x0449, 0x0455,
  0x045a, 0x0464, 0x0465, 0x0491, 0x0499, 0x04a5, 0x0501, 0x0504, 0x0505, 0x0506, 0x0515, 0x0518, 0x051a, 0x0529, 0x0540, 0x0545,
  0x054a, 0x0550, 0x0551, 0x0554, 0x0555, 0x0556, 0x0559, 0x0560, 0x0562, 0x0565, 0x0568, 0x056a, 0x0581, 0x0591, 0x0595, 0x0598,
  0x059a, 0x05a1, 0x05a4, 0x05a5, 0x05a6, 0x05a9, 0x0614, 0x0619, 0x0641, 0x0644, 0x0650, 0x0652, 0x0655, 0x0658, 0x0660, 0x0661,
  0x0666, 0x0669, 0x0685, 0x0691, 0x0694, 0x0699, 0x0800, 0x0802, 0x0808, 0x080a, 0x0815, 0x0820, 0x0822, 0x0828, 0x082a, 0x0845,
  0x0851, 0x0856, 0x0865, 0x0880, 0x0882, 0x0888, 0x088a, 0x0895, 0x08a0, 0x08a2, 0x08a8, 0x08aa, 0x0905, 0x0911, 0x0914, 0x0919,
  0x0924, 0x0925, 0x0941, 0x0950, 0x0951, 0x0955, 0x0961, 0x0964, 0x0969, 0x0991, 0x0994, 0x0996, 0x0999, 0x09a5, 0x0a00, 0x0a02,
  0x0a08, 0x0a0a, 0x0a15, 0x0a20, 0x0a22, 0x0a28, 0x0a2a, 0x0a45, 0x0a51, 0x0a59, 0x0a61, 0x0a65, 0x0a80, 0x0a82, 0x0a85, 0x0a88,
  0x0a8a, 0x0a95, 0x0aa0, 0x0aa2, 0x0aa8, 0x0aaa, 0x1010, 0x1011, 0x1014, 0x1019, 0x1024, 0x1025, 0x1041, 0x1044, 0x1050, 0x1055,
  0x1058, 0x1061, 0x1064, 0x1065, 0x1069, 0x1091, 0x1094, 0x1096, 0x10a1, 0x10a5, 0x1101, 0x1104, 0x1106, 0x1109, 0x1110, 0x1112,
  0x1115, 0x1118, 0x1121, 0x1124, 0x1129, 0x1145, 0x114a, 0x1150, 0x1151, 0x1152, 0x1154, 0x1155, 0x1156, 0x1159, 0x1160, 0x1165,
  0x1184, 0x1192, 0x1195, 0x11a1, 0x11a4, 0x1211, 0x1214, 0x1216, 0x1225, 0x1240, 0x1246, 0x1249, 0x1252, 0x1255, 0x1258, 0x125a,
  0x1264, 0x1266, 0x1285, 0x1291, 0x1294, 0x1296, 0x12a5, 0x1401, 0x1406, 0x1409, 0x1414, 0x1415, 0x1418, 0x1419, 0x1421, 0x1426,
  0x1441, 0x1445, 0x1446, 0x1448, 0x144a, 0x1451, 0x1454, 0x1455, 0x1456, 0x1459, 0x1462, 0x1465, 0x1468, 0x1484, 0x1489, 0x1490,
  0x1494, 0x1495, 0x1498, 0x1499, 0x149a, 0x14a1, 0x14a4, 0x14a5, 0x14a9, 0x1502, 0x1505, 0x150a, 0x1511, 0x1514, 0x1515, 0x1516,
  0x1519, 0x1520, 0x1522, 0x1525, 0x1528, 0x152a, 0x1541, 0x1544, 0x1545, 0x1546, 0x1551, 0x1552, 0x1554, 0x1555, 0x1556, 0x1559,
  0x155a, 0x1561, 0x1564, 0x1565, 0x1566, 0x1569, 0x1580, 0x1582, 0x1584, 0x1585, 0x1588, 0x158a, 0x1590, 0x1591, 0x1594, 0x1595,
  0x1596, 0x1599, 0x159a, 0x15a0, 0x15a2, 0x15a5, 0x1601, 0x1604, 0x1605, 0x1606, 0x1615, 0x1616, 0x1618, 0x161a, 0x1621, 0x1626,
  0x1640, 0x1642, 0x1644, 0x1645, 0x1648, 0x164a, 0x1651, 0x1655, 0x1656, 0x1658, 0x1659, 0x1661, 0x1664, 0x1665, 0x1668, 0x1669,
  0x166a, 0x1686, 0x168a, 0x1692, 0x1695, 0x16a4, 0x16a9, 0x1811, 0x1816, 0x1825, 0x1841, 0x1844, 0x1846, 0x1849, 0x1850, 0x1855,
  0x1858, 0x185a, 0x1860, 0x1861, 0x1864, 0x1866, 0x1869, 0x1885, 0x1891, 0x1894, 0x18a5, 0x1910, 0x1912, 0x1915, 0x191a, 0x1921,
  0x1925, 0x1942, 0x1944, 0x1945, 0x1948, 0x1951, 0x1954, 0x1955, 0x1956, 0x1959, 0x195a, 0x1960, 0x1965, 0x196a, 0x1989, 0x1991,
  0x1992, 0x1995, 0x1998, 0x19a1, 0x19a6, 0x19a9, 0x1a09, 0x1a16, 0x1a24, 0x1a26, 0x1a44, 0x1a46, 0x1a49, 0x1a50, 0x1a52, 0x1a55,
  0x1a58, 0x1a61, 0x1a66, 0x1a69, 0x1a85, 0x1a91, 0x1a96, 0x1a9a, 0x2000, 0x2002, 0x2008, 0x200a, 0x2015, 0x2020, 0x2022, 0x2025,
  0x2028, 0x202a, 0x2045, 0x2051, 0x2059, 0x2061, 0x2065, 0x2080, 0x2082, 0x2088, 0x208a, 0x2095, 0x20a0, 0x20a2, 0x20a5, 0x20a8,
  0x20aa, 0x2105, 0x2111, 0x2114, 0x2119, 0x2125, 0x2142, 0x2144, 0x2149, 0x2155, 0x2158, 0x215a, 0x2161, 0x2164, 0x2165, 0x2166,
  0x2185, 0x2190, 0x2196, 0x2199, 0x21a5, 0x2201, 0x2208, 0x220a, 0x2211, 0x2215, 0x2220, 0x2222, 0x2228, 0x222a, 0x2245, 0x2251,
  0x2256, 0x2259, 0x2265, 0x2281, 0x2288, 0x228a, 0x2291, 0x2295, 0x22a0, 0x22a2, 0x22a8, 0x22aa, 0x2405, 0x2414, 0x2416, 0x2419,
  0x2425, 0x2444, 0x2445, 0x2446, 0x2449, 0x2452, 0x2455, 0x2458, 0x245a, 0x2466, 0x2485, 0x2491, 0x2494, 0x2499, 0x24a1, 0x24a5,
  0x2509, 0x2515, 0x2521, 0x2529, 0x2540, 0x2545, 0x2548, 0x2551, 0x2554, 0x2555, 0x2559, 0x2562, 0x2565, 0x2568, 0x2589, 0x2590,
  0x2594, 0x2595, 0x2598, 0x259a, 0x25a1, 0x25a4, 0x25a6, 0x25a9, 0x2605, 0x2610, 0x2612, 0x2619, 0x2625, 0x2641, 0x2649, 0x2655,
  0x2660, 0x2661, 0x2669, 0x2684, 0x2686, 0x2690, 0x269a, 0x2800, 0x2802, 0x2808, 0x280a, 0x2815, 0x2820, 0x2822, 0x2828, 0x282a,
  0x2845, 0x2851, 0x2854, 0x2865, 0x2880, 0x2882, 0x2888, 0x288a, 0x28a0, 0x28a2, 0x28a8, 0x28aa, 0x2909, 0x2911, 0x2914, 0x2919,
  0x2925, 0x2946, 0x2949, 0x2952, 0x2955, 0x2961, 0x2964, 0x2966, 0x2969, 0x2985, 0x2990, 0x2996, 0x2999, 0x29a4, 0x29a5, 0x2a00,
  0x2a02, 0x2a08, 0x2a0a, 0x2a20, 0x2a22, 0x2a28, 0x2a2a, 0x2a45, 0x2a51, 0x2a56, 0x2a59, 0x2a65, 0x2a80, 0x2a82, 0x2a88, 0x2a8a,
  0x2a95, 0x2aa0, 0x2aa2, 0x2aa8, 0x2aaa, 0x4005, 0x4011, 0x4016, 0x4025, 0x4049, 0x4052, 0x4055, 0x4058, 0x405a, 0x4061, 0x4064,
  0x4066, 0x4094, 0x4099, 0x40a1, 0x40a6, 0x4100, 0x4101, 0x4104, 0x4106, 0x4109, 0x4112, 0x4115, 0x4116, 0x4118, 0x411a, 0x4121,
  0x4126, 0x4129, 0x4145, 0x4148, 0x414a, 0x4151, 0x4154, 0x4155, 0x4156, 0x4159, 0x415a, 0x4165, 0x4168, 0x416a, 0x4181, 0x4184,
  0x4186, 0x4190, 0x4192, 0x4195, 0x41a0, 0x41a1, 0x41a2, 0x4205, 0x4211, 0x4214, 0x4216, 0x4225, 0x4241, 0x4252, 0x4255, 0x425a,
  0x4264, 0x4269, 0x4289, 0x4294, 0x42a5, 0x4401, 0x4415, 0x4419, 0x4429, 0x4445, 0x4448, 0x444a, 0x4451, 0x4454, 0x4455, 0x4456,
  0x4461, 0x4462, 0x4465, 0x4468, 0x446a, 0x4481, 0x4486, 0x4489, 0x4490, 0x4492, 0x4495, 0x44a0, 0x44a1, 0x44a9, 0x4501, 0x4502,
  0x4505, 0x450a, 0x4511, 0x4514, 0x4515, 0x4516, 0x4519, 0x4520, 0x4525, 0x452a, 0x4541, 0x4544, 0x4545, 0x4546, 0x4549, 0x4550,
  0x4551, 0x4554, 0x4555, 0x4556, 0x4558, 0x4559, 0x4561, 0x4564, 0x4565, 0x4566, 0x4569, 0x4582, 0x4584, 0x4585, 0x4588, 0x4591,
  0x4594, 0x4595, 0x4596, 0x4599, 0x459a, 0x45a5, 0x45a8, 0x45aa, 0x4601, 0x4605, 0x4609, 0x4614, 0x4615, 0x4618, 0x461a, 0x4621,
  0x4624, 0x4629, 0x4640, 0x4642, 0x4645, 0x4648, 0x4650, 0x4651, 0x4652, 0x4655, 0x4656, 0x4659, 0x4662, 0x4665, 0x4668, 0x4681,
  0x4685, 0x468a, 0x4694, 0x4695, 0x46a1, 0x46a4, 0x46a6, 0x4805, 0x4811, 0x4815, 0x481a, 0x4825, 0x4842, 0x4849, 0x4850, 0x4855,
  0x4858, 0x4861, 0x4864, 0x4866, 0x4869, 0x4885, 0x4891, 0x4894, 0x4896, 0x4899, 0x48a5, 0x4901, 0x4905, 0x4906, 0x490a, 0x4910,
  0x4914, 0x4915, 0x4918, 0x4921, 0x4924, 0x4926, 0x4940, 0x4945, 0x494a, 0x4951, 0x4952, 0x4954, 0x4955, 0x4956, 0x4959, 0x4960,
  0x4962, 0x4965, 0x4966, 0x496a, 0x4986, 0x4989, 0x4992, 0x4995, 0x4996, 0x4998, 0x49a1, 0x49a4, 0x49a6, 0x49a9, 0x4a16, 0x4a44,
  0x4a46, 0x4a49, 0x4a55, 0x4a58, 0x4a5a, 0x4a64, 0x4a69, 0x4a94, 0x4aa5, 0x5001, 0x5004, 0x5005, 0x5006, 0x5009, 0x5012, 0x5015,
  0x501a, 0x5021, 0x5024, 0x5029, 0x5040, 0x5045, 0x5048, 0x5051, 0x5054, 0x5055, 0x5056, 0x5059, 0x5065, 0x5068, 0x5086, 0x5089,
  0x5095, 0x5098, 0x50a0, 0x50a1, 0x50a6, 0x50a9, 0x5105, 0x5108, 0x5109, 0x510a, 0x5111, 0x5114, 0x5115, 0x5116, 0x5118, 0x5119,
  0x5120, 0x5125, 0x5126, 0x5128, 0x512a, 0x5141, 0x5144, 0x5145, 0x5146, 0x5149, 0x5150, 0x5151, 0x5152, 0x5154, 0x5155, 0x5156,
  0x5158, 0x5159, 0x515a, 0x5161, 0x5164, 0x5165, 0x5166, 0x5169, 0x5182, 0x5185, 0x5191, 0x5194, 0x5195, 0x5196, 0x5199, 0x51a0,
  0x51a5, 0x51aa, 0x5201, 0x5206, 0x5212, 0x5215, 0x521a, 0x5221, 0x5224, 0x5242, 0x5245, 0x524a, 0x5251, 0x5254, 0x5255, 0x5256,
  0x5259, 0x5262, 0x5265, 0x5285, 0x5290, 0x5292, 0x5295, 0x5299, 0x529a, 0x52a4, 0x5404, 0x5405, 0x5411, 0x5414, 0x5415, 0x5416,
  0x5418, 0x5419, 0x5421, 0x5425, 0x5428, 0x542a, 0x5441, 0x5444, 0x5445, 0x5446, 0x5449, 0x544a, 0x5450, 0x5451, 0x5454, 0x5455,
  0x5456, 0x5458, 0x5459, 0x545a, 0x5461, 0x5462, 0x5464, 0x5465, 0x5466, 0x5469, 0x5480, 0x5488, 0x548a, 0x5491, 0x5494, 0x5495,
  0x5496, 0x5499, 0x54a1, 0x54a4, 0x54a5, 0x54aa, 0x5501, 0x5502, 0x5504, 0x5505, 0x5506, 0x5509, 0x5510, 0x5511, 0x5512, 0x5514,
  0x5515, 0x5516, 0x5519, 0x551a, 0x5521, 0x5524, 0x5525, 0x5526, 0x5529, 0x5540, 0x5541, 0x5542, 0x5544, 0x5545, 0x5546, 0x5548,
  0x5549, 0x5550, 0x5551, 0x5552, 0x5554, 0x5555, 0x5556, 0x5558, 0x5559, 0x555a, 0x5560, 0x5561, 0x5564, 0x5565, 0x5566, 0x5568,
  0x5569, 0x556a, 0x5581, 0x5584, 0x5585, 0x5589, 0x558a, 0x5590, 0x5591, 0x5594, 0x5595, 0x5596, 0x5598, 0x5599, 0x55a1, 0x55a4,
  0x55a5, 0x55a6, 0x55a9, 0x5600, 0x5601, 0x5602, 0x5604, 0x5606, 0x5608, 0x5609, 0x5611, 0x5614, 0x5615, 0x5618, 0x5619, 0x5620,
  0x5621, 0x5622, 0x5624, 0x5625, 0x5626, 0x5628, 0x5629, 0x5641, 0x5645, 0x5646, 0x5648, 0x5649, 0x564a, 0x5650, 0x5651, 0x5652,
  0x5654, 0x5655, 0x5656, 0x5658, 0x5659, 0x565a, 0x5661, 0x5664, 0x5665, 0x5669, 0x5682, 0x5685, 0x5686, 0x5688, 0x5689, 0x568a,
  0x5691, 0x5695, 0x569a, 0x56a2, 0x56a5, 0x56a6, 0x56a8, 0x56a9, 0x5804, 0x5805, 0x5806, 0x5809, 0x5810, 0x5815, 0x5818, 0x5821,
  0x582a, 0x5845, 0x5848, 0x584a, 0x5851, 0x5854, 0x5855, 0x5856, 0x5858, 0x5859, 0x5860, 0x5862, 0x5864, 0x5865, 0x5882, 0x5889,
  0x5890, 0x5892, 0x5895, 0x5898, 0x58a1, 0x58a9, 0x5901, 0x5902, 0x5905, 0x590a, 0x5911, 0x5914, 0x5915, 0x5916, 0x5919, 0x5925,
  0x5941, 0x5944, 0x5945, 0x5946, 0x5949, 0x5950, 0x5951, 0x5952, 0x5954, 0x5955, 0x5956, 0x5958, 0x5959, 0x595a, 0x5961, 0x5964,
  0x5965, 0x5966, 0x5969, 0x5981, 0x5985, 0x5989, 0x5991, 0x5994, 0x5995, 0x5996, 0x5998, 0x5999, 0x59a5, 0x5a04, 0x5a08, 0x5a15,
  0x5a1a, 0x5a20, 0x5a25, 0x5a26, 0x5a29, 0x5a45, 0x5a48, 0x5a49, 0x5a51, 0x5a55, 0x5a56, 0x5a58, 0x5a59, 0x5a62, 0x5a65, 0x5a68,
  0x5a6a, 0x5a81, 0x5a8a, 0x5a92, 0x5a95, 0x5a96, 0x5a98, 0x5a9a, 0x5aa1, 0x6005, 0x6014, 0x6016, 0x6019, 0x6025, 0x6044, 0x6050,
  0x6055, 0x6056, 0x6058, 0x605a, 0x6061, 0x6064, 0x6066, 0x6069, 0x6081, 0x6096, 0x60a5, 0x6101, 0x6104, 0x6106, 0x6109, 0x6112,
  0x6115, 0x6121, 0x6122, 0x6126, 0x6129, 0x6145, 0x6149, 0x6151, 0x6155, 0x6156, 0x6159, 0x6165, 0x6166, 0x616a, 0x6184, 0x618a,
  0x6192, 0x6195, 0x61a1, 0x61a6, 0x61a9, 0x6211, 0x6216, 0x6219, 0x6240, 0x6241, 0x6246, 0x6255, 0x6256, 0x6258, 0x6260, 0x6285,
  0x6291, 0x6296, 0x62a5, 0x6411, 0x6412, 0x6415, 0x6416, 0x641a, 0x6421, 0x6426, 0x6429, 0x6440, 0x6442, 0x6445, 0x6448, 0x644a,
  0x6451, 0x6454, 0x6455, 0x6456, 0x6459, 0x645a, 0x6460, 0x6462, 0x6465, 0x6484, 0x6485, 0x6489, 0x6490, 0x6492, 0x6494, 0x6495,
  0x6496, 0x6498, 0x649a, 0x64a1, 0x64a4, 0x64a9, 0x6505, 0x6508, 0x650a, 0x6511, 0x6515, 0x6516, 0x6519, 0x6544, 0x6545, 0x6546,
  0x6549, 0x6550, 0x6551, 0x6554, 0x6555, 0x6556, 0x6559, 0x6561, 0x6564, 0x6565, 0x6566, 0x6569, 0x6586, 0x6589, 0x658a, 0x6591,
  0x6595, 0x6596, 0x6599, 0x659a, 0x65a2, 0x65a5, 0x65a6, 0x65a8, 0x6602, 0x6609, 0x6615, 0x6620, 0x6626, 0x6628, 0x6629, 0x6640,
  0x6645, 0x6648, 0x664a, 0x6651, 0x6654, 0x6655, 0x6656, 0x6658, 0x665a, 0x6660, 0x6665, 0x6668, 0x6680, 0x6682, 0x6685, 0x668a,
  0x6694, 0x6696, 0x6698, 0x6699, 0x66a0, 0x66a4, 0x66a6, 0x66aa, 0x6816, 0x6819, 0x6825, 0x6841, 0x6852, 0x6855, 0x685a, 0x6861,
  0x6869, 0x6885, 0x6891, 0x6898, 0x68a6, 0x6901, 0x6904, 0x6910, 0x6915, 0x6921, 0x6924, 0x6926, 0x6929, 0x6940, 0x6941, 0x6945,
  0x6946, 0x6948, 0x6951, 0x6954, 0x6955, 0x6956, 0x6959, 0x6960, 0x6965, 0x696a, 0x6982, 0x6984, 0x698a, 0x6995, 0x69a1, 0x69a4,
  0x69a5, 0x69a9, 0x6a11, 0x6a16, 0x6a18, 0x6a41, 0x6a44, 0x6a49, 0x6a50, 0x6a55, 0x6a58, 0x6a5a, 0x6a64, 0x6a65, 0x6a69, 0x6a86,
  0x6a94, 0x6a98, 0x6a9a, 0x6aa6, 0x8000, 0x8002, 0x8008, 0x800a, 0x8020, 0x8022, 0x8028, 0x802a, 0x8045, 0x8050, 0x8051, 0x8054,
  0x8056, 0x8059, 0x8065, 0x8080, 0x8082, 0x8088, 0x808a, 0x8095, 0x80a0, 0x80a2, 0x80a8, 0x80aa, 0x8105, 0x8111, 0x8114, 0x8116,
  0x8119, 0x8125, 0x8141, 0x8144, 0x8149, 0x8150, 0x8152, 0x8155, 0x8156, 0x8158, 0x8159, 0x8164, 0x8166, 0x8169, 0x8185, 0x8189,
  0x8194, 0x8196, 0x8199, 0x81a5, 0x8200, 0x8202, 0x8208, 0x820a, 0x8215, 0x8220, 0x8222, 0x8228, 0x822a, 0x8251, 0x8254, 0x8259,
  0x8265, 0x8280, 0x8282, 0x8288, 0x828a, 0x8295, 0x82a0, 0x82a2, 0x82a8, 0x82aa, 0x8414, 0x8419, 0x8441, 0x8444, 0x8451, 0x8455,
  0x845a, 0x8461, 0x8464, 0x8469, 0x8494, 0x8499, 0x8501, 0x8509, 0x8512, 0x8515, 0x851a, 0x8526, 0x8529, 0x8540, 0x8541, 0x8545,
  0x8548, 0x8551, 0x8554, 0x8555, 0x8556, 0x8559, 0x855a, 0x8565, 0x8566, 0x8568, 0x856a, 0x8581, 0x8584, 0x8586, 0x8589, 0x8590,
  0x8592, 0x8595, 0x8598, 0x85a6, 0x8611, 0x8616, 0x8619, 0x8625, 0x8641, 0x8644, 0x8649, 0x864a, 0x8650, 0x8655, 0x8659, 0x865a,
  0x8661, 0x8666, 0x866a, 0x8685, 0x8691, 0x869a, 0x86a4, 0x8800, 0x8802, 0x8808, 0x880a, 0x8815, 0x8820, 0x8822, 0x8828, 0x882a,
  0x8841, 0x8845, 0x8851, 0x8854, 0x8859, 0x8865, 0x8869, 0x8880, 0x8882, 0x8888, 0x888a, 0x8895, 0x88a0, 0x88a2, 0x88a8, 0x88aa,
  0x8905, 0x8906, 0x8911, 0x8914, 0x8916, 0x8925, 0x8941, 0x8944, 0x8946, 0x8949, 0x8950, 0x8952, 0x8955, 0x895a, 0x8961, 0x8964,
  0x8985, 0x8996, 0x8999, 0x89a5, 0x8a00, 0x8a02, 0x8a08, 0x8a0a, 0x8a15, 0x8a20, 0x8a22, 0x8a28, 0x8a2a, 0x8a45, 0x8a51, 0x8a54,
  0x8a56, 0x8a80, 0x8a82, 0x8a88, 0x8a8a, 0x8a95, 0x8aa0, 0x8aa2, 0x8aa8, 0x8aaa, 0x9005, 0x9011, 0x9016, 0x9018, 0x9019, 0x9025,
  0x9041, 0x9046, 0x9049, 0x9055, 0x9058, 0x905a, 0x9069, 0x906a, 0x9085, 0x9091, 0x9094, 0x9096, 0x9099, 0x90a5, 0x9101, 0x9104,
  0x9106, 0x9109, 0x9110, 0x9115, 0x9118, 0x911a, 0x9121, 0x9124, 0x9126, 0x9129, 0x9140, 0x9145, 0x9150, 0x9151, 0x9154, 0x9155,
  0x9156, 0x9159, 0x9162, 0x9165, 0x9184, 0x9186, 0x9192, 0x9195, 0x9198, 0x91a1, 0x91a4, 0x91a6, 0x91a9, 0x9205, 0x9211, 0x9214,
  0x9219, 0x9225, 0x9244, 0x9246, 0x9249, 0x9250, 0x9252, 0x9255, 0x9258, 0x9266, 0x9269, 0x9285, 0x9294, 0x9296, 0x92a9, 0x9401,
  0x9404, 0x9406, 0x9410, 0x9415, 0x9418, 0x9426, 0x9440, 0x944a, 0x9451, 0x9454, 0x9455, 0x9456, 0x9458, 0x9459, 0x9460, 0x9461,
  0x9462, 0x9465, 0x9484, 0x9486, 0x9492, 0x9494, 0x9495, 0x9498, 0x94a1, 0x94a9, 0x9500, 0x9505, 0x9508, 0x950a, 0x9510, 0x9511,
  0x9514, 0x9515, 0x9516, 0x9519, 0x9521, 0x9525, 0x9529, 0x952a, 0x9541, 0x9544, 0x9545, 0x9546, 0x9549, 0x9550, 0x9551, 0x9552,
  0x9554, 0x9555, 0x9556, 0x9558, 0x9559, 0x955a, 0x9561, 0x9564, 0x9565, 0x9566, 0x9569, 0x9581, 0x9585, 0x9588, 0x9591, 0x9592,
  0x9594, 0x9595, 0x9596, 0x9599, 0x959a, 0x95a0, 0x95a2, 0x95a5, 0x95a8, 0x95aa, 0x9601, 0x9604, 0x9610, 0x9615, 0x9619, 0x9620,
  0x9626, 0x9629, 0x9645, 0x9648, 0x9649, 0x9651, 0x9652, 0x9655, 0x9656, 0x9659, 0x9665, 0x9668, 0x9682, 0x9684, 0x9689, 0x968a,
  0x9692, 0x9694, 0x9695, 0x96a4, 0x96a6, 0x96a9, 0x9805, 0x9816, 0x9819, 0x9825, 0x9841, 0x9846, 0x9850, 0x9852, 0x9855, 0x9856,
  0x985a, 0x9864, 0x9865, 0x9885, 0x9891, 0x9896, 0x9899, 0x98a5, 0x9904, 0x9906, 0x9909, 0x9910, 0x9912, 0x9915, 0x9918, 0x991a,
  0x9920, 0x9921, 0x9924, 0x9926, 0x9940, 0x9942, 0x9945, 0x9948, 0x994a, 0x9951, 0x9954, 0x9955, 0x9956, 0x9959, 0x9962, 0x9965,
  0x9966, 0x996a, 0x9981, 0x9984, 0x9990, 0x9992, 0x9995, 0x999a, 0x99a1, 0x99a6, 0x9a05, 0x9a15, 0x9a25, 0x9a44, 0x9a46, 0x9a49,
  0x9a50, 0x9a55, 0x9a58, 0x9a61, 0x9a85, 0x9a91, 0x9a94, 0x9a95, 0x9a96, 0xa000, 0xa002, 0xa008, 0xa00a, 0xa015, 0xa020, 0xa022,
  0xa028, 0xa02a, 0xa045, 0xa051, 0xa054, 0xa056, 0xa059, 0xa080, 0xa082, 0xa088, 0xa08a, 0xa095, 0xa0a0, 0xa0a2, 0xa0a8, 0xa0aa,
  0xa105, 0xa109, 0xa111, 0xa114, 0xa116, 0xa119, 0xa11a, 0xa146, 0xa149, 0xa151, 0xa155, 0xa158, 0xa15a, 0xa161, 0xa164, 0xa185,
  0xa190, 0xa192, 0xa196, 0xa199, 0xa202, 0xa208, 0xa20a, 0xa210, 0xa219, 0xa222, 0xa228, 0xa22a, 0xa245, 0xa251, 0xa256, 0xa259,
  0xa265, 0xa280, 0xa282, 0xa288, 0xa28a, 0xa295, 0xa2a0, 0xa2a2, 0xa2a8, 0xa2aa, 0xa419, 0xa425, 0xa441, 0xa444, 0xa450, 0xa454,
  0xa455, 0xa458, 0xa45a, 0xa461, 0xa465, 0xa466, 0xa468, 0xa469, 0xa485, 0xa506, 0xa509, 0xa510, 0xa512, 0xa515, 0xa518, 0xa526,
  0xa529, 0xa542, 0xa545, 0xa551, 0xa554, 0xa555, 0xa556, 0xa559, 0xa565, 0xa56a, 0xa581, 0xa584, 0xa585, 0xa586, 0xa589, 0xa592,
  0xa595, 0xa598, 0xa605, 0xa611, 0xa616, 0xa61a, 0xa621, 0xa625, 0xa644, 0xa646, 0xa64a, 0xa652, 0xa655, 0xa656, 0xa658, 0xa660,
  0xa662, 0xa686, 0xa690, 0xa695, 0xa696, 0xa699, 0xa6a1, 0xa6a4, 0xa6a6, 0xa800, 0xa802, 0xa808, 0xa80a, 0xa820, 0xa822, 0xa828,
  0xa82a, 0xa851, 0xa854, 0xa856, 0xa859, 0xa880, 0xa882, 0xa888, 0xa88a, 0xa895, 0xa8a0, 0xa8a2, 0xa8a8, 0xa8aa, 0xa905, 0xa914,
  0xa919, 0xa921, 0xa925, 0xa941, 0xa950, 0xa955, 0xa95a, 0xa961, 0xa966, 0xa969, 0xa990, 0xa996, 0xaa00, 0xaa02, 0xaa08, 0xaa0a,
  0xaa20, 0xaa22, 0xaa28, 0xaa2a, 0xaa51, 0xaa54, 0xaa56, 0xaa80, 0xaa82, 0xaa88, 0xaa8a, 0xaa95, 0xaaa0, 0xaaa2, 0xaaa8, 0xaaaa
};

#endif // QI__FORMATS_IQ_TABLES_H

// Blocks of 256 weights. A code picks a point of 8 (IQ2, IQ1) or 4 (IQ3) values from a grid; IQ2 and IQ3 store magnitudes there and
// signs apart. d is a float16 and s the stored scale of a group, so that with 2 s + 1 as the integer scale
//
//   IQ2            w = d * (0.5 + s) / 4 * (+-grid)  =  d / 8 * (2 s + 1) * (+-grid)
//   IQ3_XXS        w = d * (0.5 + s) / 2 * (+-grid)  =  d / 4 * (2 s + 1) * (+-grid)
//   IQ3_S          w = d * (2 s + 1) * (+-grid)
//   IQ1            w = d * (2 s + 1) * (trit +- 1/8) =  d / 8 * (2 s + 1) * (8 trit +- 1)
//
// No product rounds: 11 bits of d, 5 of the scale and 6 of the grid fit into a float32, also for subnormal d.
//
// Fields of a block at byte offsets; p counts points of 8 (of 4 in IQ3), g groups. All words are little-endian.
//
//   IQ2_XXS  66 bytes  2.0625 bits   0 d   2 + 8 g: 4 bytes of grid, then 32 bits: 4 x 7 sign code, 4 s          group 32
//   IQ2_XS   74 bytes  2.3125 bits   0 d   2 + 2 p: 9 bits of grid, 7 sign code   66: s, 4 bits a group          group 16
//   IQ2_S    82 bytes  2.5625 bits   0 d   2 + p: grid low 8   34 + p: signs   66: grid high 2   74: s, 4 bits   group 16
//   IQ3_XXS  98 bytes  3.0625 bits   0 d   2 + p: grid   66 + 4 g: 4 x 7 sign code, 4 s                          group 32
//   IQ3_S   110 bytes  3.4375 bits   0 d   2 + p: grid low 8   66: grid high 1   74: signs   106: s, 4 bits      group 32
//   IQ1_S    50 bytes  1.5625 bits   0 d   2 + p: grid low 8   34 + 2 g: 4 x 3 grid high, 3 s, 1 sign of delta   group 32
//   IQ1_M    56 bytes  1.75 bits     p: grid low 8   32: 3 grid high, 1 sign of delta a point                    group 16
//                                    48: four words of 4 x 3 bits s, 4 bits of d (lowest first)
#define QI__IQ2_XXS_BYTES 66
#define QI__IQ2_XS_BYTES 74
#define QI__IQ2_S_BYTES 82
#define QI__IQ3_XXS_BYTES 98
#define QI__IQ3_S_BYTES 110
#define QI__IQ1_S_BYTES 50
#define QI__IQ1_M_BYTES 56

// ---- points and signs ----

// A point of 8 values at 2 bits each, of 4 values at 3.
QI__INLINE void qi__iq_point8(uint16_t point, const int8_t values[4], int8_t *q) {
  for (int j = 0; j < 8; j++) q[j] = values[point >> 2 * j & 3];
}
QI__INLINE void qi__iq_point4(uint16_t point, const int8_t values[8], int8_t *q) {
  for (int j = 0; j < 4; j++) q[j] = values[point >> 3 * j & 7];
}

// Negates q[j] where bit j is set.
QI__INLINE void qi__iq_apply_signs(uint32_t signs, int8_t q[8]) {
  for (int j = 0; j < 8; j++) {
    int negative = (int)(signs >> j & 1);
    q[j] = (int8_t)((q[j] ^ -negative) + negative);
  }
}

// Seven stored signs to eight: the last makes the number of negative values even.
QI__INLINE uint32_t qi__iq_sign_code(uint32_t code) {
  uint32_t parity = code ^ code >> 4;
  parity = 0x6996u >> (parity & 15) & 1;
  return code | parity << 7;
}

// Scale 2 s + 1 of group g from 4-bit s, two a byte, low half first.
QI__INLINE int16_t qi__iq_scale4(const uint8_t *s, int g) { return (int16_t)(2 * (s[g / 2] >> 4 * (g % 2) & 15) + 1); }

QI__INLINE void qi__iq_begin(qi__block *out, uint16_t half, float fraction) {
  out->d = qi__f16_to_f32(half) * fraction;
  out->dmin = 0;
  memset(out->min, 0, sizeof out->min);
}

// ---- two bits ----

QI__FN void qi__unpack_iq2_xxs(const uint8_t *src, qi__block *out) {
  qi__iq_begin(out, qi__load_u16(src), 0.125f);
  for (int g = 0; g < 8; g++) {
    const uint8_t *grid = src + 2 + 8 * g;
    uint32_t word = qi__load_u32(grid + 4);
    out->scale[g] = (int16_t)(2 * (word >> 28) + 1);
    for (int l = 0; l < 4; l++) {
      int8_t *q = out->q + 32 * g + 8 * l;
      qi__iq_point8(qi__iq2_xxs_grid[grid[l]], qi__iq2_values, q);
      qi__iq_apply_signs(qi__iq_sign_code(word >> 7 * l & 127), q);
    }
  }
}

QI__FN void qi__unpack_iq2_xs(const uint8_t *src, qi__block *out) {
  qi__iq_begin(out, qi__load_u16(src), 0.125f);
  for (int g = 0; g < 16; g++) out->scale[g] = qi__iq_scale4(src + 66, g);
  for (int p = 0; p < 32; p++) {
    uint32_t word = qi__load_u16(src + 2 + 2 * p);
    qi__iq_point8(qi__iq2_xs_grid[word & 511], qi__iq2_values, out->q + 8 * p);
    qi__iq_apply_signs(qi__iq_sign_code(word >> 9), out->q + 8 * p);
  }
}

QI__FN void qi__unpack_iq2_s(const uint8_t *src, qi__block *out) {
  const uint8_t *low = src + 2, *signs = src + 34, *high = src + 66;
  qi__iq_begin(out, qi__load_u16(src), 0.125f);
  for (int g = 0; g < 16; g++) out->scale[g] = qi__iq_scale4(src + 74, g);
  for (int p = 0; p < 32; p++) {
    int index = low[p] | (high[p / 4] >> 2 * (p % 4) & 3) << 8;
    qi__iq_point8(qi__iq2_s_grid[index], qi__iq2_values, out->q + 8 * p);
    qi__iq_apply_signs(signs[p], out->q + 8 * p);
  }
}

// ---- three bits ----

QI__FN void qi__unpack_iq3_xxs(const uint8_t *src, qi__block *out) {
  qi__iq_begin(out, qi__load_u16(src), 0.25f);
  for (int p = 0; p < 64; p++) qi__iq_point4(qi__iq3_xxs_grid[src[2 + p]], qi__iq3_xxs_values, out->q + 4 * p);
  for (int g = 0; g < 8; g++) {
    uint32_t word = qi__load_u32(src + 66 + 4 * g);
    out->scale[g] = (int16_t)(2 * (word >> 28) + 1);
    for (int l = 0; l < 4; l++) qi__iq_apply_signs(qi__iq_sign_code(word >> 7 * l & 127), out->q + 32 * g + 8 * l);
  }
}

QI__FN void qi__unpack_iq3_s(const uint8_t *src, qi__block *out) {
  const uint8_t *low = src + 2, *high = src + 66, *signs = src + 74;
  qi__iq_begin(out, qi__load_u16(src), 1);
  for (int g = 0; g < 8; g++) out->scale[g] = qi__iq_scale4(src + 106, g);
  for (int p = 0; p < 64; p++) {
    int index = low[p] | (high[p / 8] >> p % 8 & 1) << 8;
    qi__iq_point4(qi__iq3_s_grid[index], qi__iq3_s_values, out->q + 4 * p);
  }
  for (int i = 0; i < 32; i++) qi__iq_apply_signs(signs[i], out->q + 8 * i);
}

// ---- one bit ----

// Point `index` plus or minus the delta, in eighths.
QI__INLINE void qi__iq1_point(int index, bool minus, int8_t *q) {
  qi__iq_point8(qi__iq1_grid[index], qi__iq1_values, q);
  for (int j = 0; j < 8; j++) q[j] = (int8_t)(q[j] + (minus ? -1 : 1));
}

QI__FN void qi__unpack_iq1_s(const uint8_t *src, qi__block *out) {
  qi__iq_begin(out, qi__load_u16(src), 0.125f);
  for (int g = 0; g < 8; g++) {
    const uint8_t *low = src + 2 + 4 * g;
    int word = qi__load_u16(src + 34 + 2 * g);
    out->scale[g] = (int16_t)(2 * (word >> 12 & 7) + 1);
    for (int l = 0; l < 4; l++) qi__iq1_point(low[l] | (word >> 3 * l & 7) << 8, word >> 15, out->q + 32 * g + 8 * l);
  }
}

QI__FN void qi__unpack_iq1_m(const uint8_t *src, qi__block *out) {
  unsigned d = 0;
  for (int i = 0; i < 4; i++) {
    int word = qi__load_u16(src + 48 + 2 * i);
    d |= (unsigned)(word >> 12) << 4 * i;
    for (int l = 0; l < 4; l++) out->scale[4 * i + l] = (int16_t)(2 * (word >> 3 * l & 7) + 1);
  }
  qi__iq_begin(out, (uint16_t)d, 0.125f);
  for (int p = 0; p < 32; p++) {
    int high = src[32 + p / 2] >> 4 * (p % 2);
    qi__iq1_point(src[p] | (high & 7) << 8, high & 8, out->q + 8 * p);
  }
}

#endif // QI__FORMATS_IQ_H
// generated from src/formats/kquant.h: edit there
// ==== >>kquant : Q2_K to Q6_K: 256 weights, integer scales for each 16 or 32 of them ====
#ifndef QI__FORMATS_KQUANT_H
#define QI__FORMATS_KQUANT_H

// generated from src/formats/quantize.h: edit there
// ==== >>quantize : the search for scales and codes of a block ====
#ifndef QI__FORMATS_QUANTIZE_H
#define QI__FORMATS_QUANTIZE_H


// Every quantiser minimises sum_i importance[i] * (x[i] - w[i])^2 over one block of
//
//   w[i] = d * scale[g] * level[i] - dmin * min[g]      g = i / group
//
// where d and dmin are halves, scale and min small integers and level one of a few values. All formats share the search; a format
// adds the shape of its block and a function that packs the result. In steps:
//   1. each group alone: real scale (and offset) by a grid of candidates, each refitted by least squares;
//   2. d and dmin so that the groups' integers come near these;
//   3. in turns: integers of each group by trial in the neighbourhood, d and dmin by least squares, while the error falls.
// Only + - * / on float and double, sums in a fixed order: the same bytes on every machine.

typedef struct qi__levels {
  int lo, hi;           // the integers lo..hi
  const int8_t *values; // or 16 ascending values from lo to hi
  const uint8_t *sizes; // or 128 ascending sizes from 0 to hi, of either sign;
  const uint8_t *place; // [hi + 1]: which size is the last that is not above an integer
} qi__levels;

typedef struct qi__block_shape {
  int len, group;     // weights in a block and under one scale; both multiples of 16
  qi__levels code;
  const qi__levels *other; // that a group may take instead of `code`; NULL = none
  int d_exponent;     // d counts 2^-d_exponent
  int s_lo, s_hi;     // scales; 1, 1 where there is only d
  int s_reach;        // how much further than one beside the nearest scale the best is looked for at first
  int m_lo, m_hi;     // mins; 0, 0 where there are none; 1, 1: one offset of either sign (else it only lowers)
} qi__block_shape;

// A block as found, ready for packing. code[i] counts the levels from the lowest: level - lo, or the place in the table; of sizes
// the place, plus 128 where negative.
typedef struct qi__fitted {
  uint16_t d, dmin; // halves
  uint8_t code[QI__BLOCK_MAX];
  int scale[QI__BLOCK_MAX / 16];
  int min[QI__BLOCK_MAX / 16];
  bool other[QI__BLOCK_MAX / 16]; // the group has the other levels
} qi__fitted;

// What the search works on: weights scaled by 2^-exponent so that the greatest lies in 1..4. Then no square, sum or reciprocal
// leaves the range of float32. d and dmin are as stored, scaled the same way.
typedef struct qi__fit {
  const qi__block_shape *shape;
  int exponent;
  float x[QI__BLOCK_MAX];
  float w[QI__BLOCK_MAX]; // importance, greatest 1
  float q[QI__BLOCK_MAX]; // level of each weight
  float d, dmin;
  uint16_t d_bits, dmin_bits;
  int scale[QI__BLOCK_MAX / 16], min[QI__BLOCK_MAX / 16];
  bool other[QI__BLOCK_MAX / 16];
} qi__fit;

#define QI__FIT_TINY 1e-12f  // beside weights near 1: rounds to zero in every format
#define QI__FIT_WORST 3e38f  // above any error

// ---- levels and sums ----

// Place of the size nearest to v >= 0.
QI__INLINE int qi__nearest_size(const qi__levels *levels, float v) {
  const uint8_t *sizes = levels->sizes;
  if (!(v < (float)levels->hi)) return 127;
  int k = levels->place[(int)v];
  return v > 0.5f * (float)(sizes[k] + sizes[k + 1]) ? k + 1 : k;
}

// q[i] = the level nearest to (x[i] + m) * inv. Clamped as float: a conversion out of the range of int is undefined.
QI__FN void qi__nearest_levels(const qi__levels *levels, const float *x, int n, float m, float inv, float *q) {
  float lo = (float)levels->lo, top = (float)(levels->hi - levels->lo);
  if (levels->values) {
    float border[15]; // between neighbours
    for (int k = 0; k < 15; k++) border[k] = 0.5f * (float)(levels->values[k] + levels->values[k + 1]);
    for (int i = 0; i < n; i++) {
      float v = (x[i] + m) * inv;
      int k = 0;
      for (int step = 8; step; step /= 2) k += v > border[k + step - 1] ? step : 0;
      q[i] = (float)levels->values[k];
    }
    return;
  }
  if (levels->sizes) {
    for (int i = 0; i < n; i++) {
      float v = (x[i] + m) * inv, size = (float)levels->sizes[qi__nearest_size(levels, fabsf(v))];
      q[i] = v < 0.0f ? -size : size;
    }
    return;
  }
  for (int i = 0; i < n; i++) {
    float v = (x[i] + m) * inv + (0.5f - lo);
    v = v > 0.0f ? v : 0.0f;
    v = v < top ? v : top;
    q[i] = (float)(int32_t)v + lo;
  }
}

// sum w * q, sum w * q^2, sum w * x * q; eight lanes each, so that a compiler may use vectors. n: a multiple of 8.
typedef struct qi__fit_sums {
  float q, qq, xq;
} qi__fit_sums;

QI__FN qi__fit_sums qi__fit_sums_of(const float *x, const float *w, const float *q, int n) {
  float sq[8] = {0}, sqq[8] = {0}, sxq[8] = {0};
  for (int i = 0; i < n; i += 8)
    for (int j = 0; j < 8; j++) {
      float wq = w[i + j] * q[i + j];
      sq[j] += wq;
      sqq[j] += wq * q[i + j];
      sxq[j] += wq * x[i + j];
    }
  qi__fit_sums s = {qi__sum_lanes(sq), qi__sum_lanes(sqq), qi__sum_lanes(sxq)};
  return s;
}

// sum w * (d * q - m - x)^2
QI__FN float qi__fit_error(const float *x, const float *w, const float *q, int n, float d, float m) {
  float sum[8] = {0};
  for (int i = 0; i < n; i += 8)
    for (int j = 0; j < 8; j++) {
      float e = d * q[i + j] - m - x[i + j];
      sum[j] += w[i + j] * e * e;
    }
  return qi__sum_lanes(sum);
}

QI__INLINE float qi__reciprocal(float d) { return d > 1e-37f || d < -1e-37f ? 1.0f / d : 0.0f; }

// Nearest integer of v, at least lo and at most hi.
QI__FN int qi__round_clamped(float v, int lo, int hi) {
  if (!(v > (float)lo)) return lo;
  if (v >= (float)hi) return hi;
  return (int)(v - (float)lo + 0.5f) + lo;
}

// ---- one group, real scale ----

// Tries codes at 1 / inv. With the best d for them the error is sum w x^2 - gain, gain = (sum w x q)^2 / sum w q^2.
QI__FN float qi__try_scale(const qi__levels *levels, const float *x, const float *w, int n, float inv, float *d) {
  float q[QI__BLOCK_MAX];
  qi__nearest_levels(levels, x, n, 0.0f, inv, q);
  qi__fit_sums s = qi__fit_sums_of(x, w, q, n);
  if (!(s.qq > 0.0f)) return 0.0f;
  *d = s.xq / s.qq;
  return *d * s.xq;
}

// d that makes sum w * (x - d * level)^2 small. Candidates put the greatest weight on either end of the levels, or up to three
// times beyond (an outlier is better clipped), then lie closer around the best; at last codes and scale in turns.
QI__FN float qi__fit_scale(const qi__levels *levels, const float *x, const float *w, int n) {
  float max = 0.0f, best = 0.0f, best_inv = 0.0f, best_d = 0.0f, d;
  for (int i = 0; i < n; i++)
    if (fabsf(x[i]) > fabsf(max)) max = x[i];
  if (fabsf(max) < QI__FIT_TINY) return 0.0f;
  if (levels->sizes) max = fabsf(max); // their scales have no sign
  int ends = levels->lo == 0 || levels->lo == -levels->hi ? 1 : 2;
  bool fine = levels->hi > 63 && !levels->values; // gain nothing from clipping
  float ratio = fine ? 1.01f : 1.07f;
  int n_steps = levels->hi == 1 ? 48 : 18; // ternary: most of a heavy tail is clipped
  for (int end = 0; end < ends; end++) {
    float inv = (float)(end ? levels->lo : levels->hi) / max;
    inv = inv * (fine ? 0.97f : 0.9f);
    for (int k = 0; k < n_steps; k++, inv = inv * ratio) {
      float gain = qi__try_scale(levels, x, w, n, inv, &d);
      if (gain > best) best = gain, best_inv = inv, best_d = d;
    }
  }
  float center = best_inv;
  for (int k = -4; k <= 4; k++) {
    float inv = center * (1.0f + (float)k * (ratio - 1.0f) * 0.15f);
    float gain = qi__try_scale(levels, x, w, n, inv, &d);
    if (gain > best) best = gain, best_d = d;
  }
  for (int k = 0; k < 4; k++) {
    float gain = qi__try_scale(levels, x, w, n, qi__reciprocal(best_d), &d);
    if (!(gain > best)) break;
    best = gain, best_d = d;
  }
  return best_d;
}

// Least squares of x ~ d * q - m; m < 0 is not allowed unless `free`. False when there is no such d > 0.
QI__FN bool qi__solve_scale_min(qi__fit_sums s, float sw, float sx, bool free_min, float *d, float *m) {
  float det = sw * s.qq - s.q * s.q;
  if (!(det > 1e-6f * sw * s.qq)) return false;
  *d = (sw * s.xq - sx * s.q) / det;
  *m = (s.q * s.xq - s.qq * sx) / det;
  if (*m < 0.0f && !free_min) {
    *m = 0.0f;
    *d = s.xq / s.qq;
  }
  return *d > 0.0f;
}

typedef struct qi__scale_min {
  float d, m, error;
} qi__scale_min;

// Codes at (x + m) / d, then least squares, `rounds` times; keeps what is better than *best. Where least squares has no answer (one
// weight counts, the others nearly nothing), d and m stay.
QI__FN void qi__try_scale_min(const qi__levels *levels, const float *x, const float *w, int n, float sw, float sx, bool free_min,
                              float d, float m, int rounds, qi__scale_min *best) {
  float q[QI__BLOCK_MAX];
  for (int k = 0; k < rounds; k++) {
    qi__nearest_levels(levels, x, n, m, qi__reciprocal(d), q);
    float new_d, new_m;
    bool solved = qi__solve_scale_min(qi__fit_sums_of(x, w, q, n), sw, sx, free_min, &new_d, &new_m);
    if (solved) d = new_d, m = new_m;
    float error = qi__fit_error(x, w, q, n, d, m);
    bool better = error < best->error;
    if (better) best->d = d, best->m = m, best->error = error;
    if (!solved || (k && !better)) return;
  }
}

// d and m that make sum w * (x - d * level + m)^2 small, levels from 0. Candidates shrink the range of x from above or from below.
QI__FN qi__scale_min qi__fit_scale_min(const qi__levels *levels, const float *x, const float *w, int n, bool free_min) {
  float lo = x[0], hi = x[0], sw = 0.0f, sx = 0.0f;
  for (int i = 0; i < n; i++) {
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
    sw += w[i];
    sx += w[i] * x[i];
  }
  if (lo > 0.0f && !free_min) lo = 0.0f;
  float range = hi - lo;
  qi__scale_min best = {0.0f, free_min || sx < 0.0f ? -sx / sw : 0.0f, QI__FIT_WORST};
  if (range < QI__FIT_TINY) return best;
  float step = range / (float)levels->hi, most = (float)levels->hi / (float)(levels->hi - 1); // from one level unused
  int n_steps = levels->hi == 3 ? 22 : 12;
  for (int k = 0; k < n_steps; k++) {
    float d = step * (most - 0.05f * (float)k);
    qi__try_scale_min(levels, x, w, n, sw, sx, free_min, d, -lo, 2, &best);
    if (k > 1) qi__try_scale_min(levels, x, w, n, sw, sx, free_min, d, d * (float)levels->hi - hi, 2, &best);
  }
  qi__scale_min center = best;
  for (int k = -3; k <= 3; k++)
    qi__try_scale_min(levels, x, w, n, sw, sx, free_min, center.d * (1.0f + 0.01f * (float)k), center.m, 4, &best);
  return best;
}

// ---- the block ----

QI__INLINE float qi__pow2(int e) { return qi__bits_f32((uint32_t)(e + 127) << 23); } // e: -126..127

// A real scale to the half that stands for it, and to that half's value in the search's unit. Too large becomes the greatest
// half, and what is not zero does not become zero: codes are found for the scale as stored, so the nearest there is serves best.
QI__FN uint16_t qi__fit_half(const qi__fit *f, float v, float *stored) {
  float scaled = v * qi__pow2(f->exponent) * qi__pow2(f->shape->d_exponent);
  if (scaled > QI__F16_MAX) scaled = QI__F16_MAX;
  if (scaled < -QI__F16_MAX) scaled = -QI__F16_MAX;
  uint16_t h = qi__f32_to_f16(scaled);
  if (v != 0.0f && !(h & 0x7fffu)) h++;
  *stored = qi__f16_to_f32(h) * qi__pow2(-f->shape->d_exponent) * qi__pow2(-f->exponent);
  return h;
}

QI__FN void qi__fit_set_scales(qi__fit *f, float d, float dmin) {
  f->d_bits = qi__fit_half(f, d, &f->d);
  f->dmin_bits = qi__fit_half(f, dmin, &f->dmin);
}

// Takes in weights and importance. False when no half scale can tell the block from zeros.
QI__FN bool qi__fit_load(qi__fit *f, const qi__block_shape *shape, const float *src, const float *importance) {
  float amax = 0.0f, wmax = 0.0f;
  for (int i = 0; i < shape->len; i++) {
    amax = fabsf(src[i]) > amax ? fabsf(src[i]) : amax;
    if (importance && qi__is_finite(importance[i]) && importance[i] > wmax) wmax = importance[i];
  }
  memset(f, 0, sizeof *f);
  f->shape = shape;
  f->exponent = (int)(qi__f32_bits(amax) >> 23) - 127;
  if (f->exponent < -26) return false; // half of the least half is 2^-25
  if (f->exponent > 126) f->exponent = 126;
  float unit = qi__pow2(-f->exponent);
  for (int i = 0; i < shape->len; i++) {
    f->x[i] = src[i] * unit;
    float w = wmax > 0.0f && qi__is_finite(importance[i]) ? importance[i] / wmax : wmax > 0.0f ? 0.0f : 1.0f;
    f->w[i] = w > 1e-7f ? w : 1e-7f; // a group of no importance still deserves a scale
  }
  return true;
}

QI__INLINE const qi__levels *qi__fit_levels(const qi__fit *f, bool other) { return other ? f->shape->other : &f->shape->code; }

// Error of group g with scale s and min m; writes its levels.
QI__FN float qi__fit_group_error(const qi__fit *f, int g, bool other, int s, int m, float *q) {
  int n = f->shape->group;
  const float *x = f->x + g * n;
  float scale = f->d * (float)s, offset = f->dmin * (float)m;
  qi__nearest_levels(qi__fit_levels(f, other), x, n, offset, qi__reciprocal(scale), q);
  return qi__fit_error(x, f->w + g * n, q, n, scale, offset);
}

// The best integers for group g around those it has, scales up to `reach` beside. Returns the error.
QI__FN float qi__fit_search_group(qi__fit *f, int g, int reach) {
  const qi__block_shape *sh = f->shape;
  float q[QI__BLOCK_MAX], best = QI__FIT_WORST;
  int s0 = f->scale[g], m0 = f->min[g], n_s = 2 * reach + 1, n = 3 * n_s;
  for (int k = 0; k < (sh->other ? 2 * n : n); k++) {
    int s = s0 + k / 3 % n_s - reach, m = m0 + k % 3 - 1;
    if (s < sh->s_lo || s > sh->s_hi || m < sh->m_lo || m > sh->m_hi) continue;
    float error = qi__fit_group_error(f, g, k >= n, s, m, q);
    if (!(error < best)) continue;
    best = error;
    f->scale[g] = s;
    f->min[g] = m;
    f->other[g] = k >= n;
    memcpy(f->q + g * sh->group, q, (size_t)sh->group * sizeof *q);
  }
  return best;
}

// Least squares for d and dmin while codes, scales and mins stay. False when there is nothing to gain.
QI__FN bool qi__fit_refit(qi__fit *f) {
  const qi__block_shape *sh = f->shape;
  double a = 0, b = 0, c = 0, dx = 0, mx = 0; // of s q s q, s q m, m m, s q x, m x
  for (int g = 0; g < sh->len / sh->group; g++) {
    const float *x = f->x + g * sh->group, *w = f->w + g * sh->group;
    qi__fit_sums sums = qi__fit_sums_of(x, w, f->q + g * sh->group, sh->group);
    double s = f->scale[g], m = f->min[g], sw = 0, swx = 0;
    for (int i = 0; m != 0 && i < sh->group; i++) {
      sw += w[i];
      swx += (double)w[i] * x[i];
    }
    a += s * s * sums.qq;
    b += s * m * sums.q;
    c += m * m * sw;
    dx += s * sums.xq;
    mx += m * swx;
  }
  double det = a * c - b * b, d, dmin = 0;
  if (!(a > 0)) return false;
  d = dx / a;
  if (det > 1e-9 * a * c) {
    double both = (dx * b - a * mx) / det;
    if (both > 0 || sh->m_lo == 1) {
      dmin = both;
      d = (dx * c - mx * b) / det;
    }
  }
  if (sh->s_lo == 0 && !(d > 0)) return false;
  uint16_t d_bits = f->d_bits, dmin_bits = f->dmin_bits;
  qi__fit_set_scales(f, (float)d, (float)dmin);
  return f->d_bits != d_bits || f->dmin_bits != dmin_bits;
}

// Scale of group g with the levels that suit it better.
QI__FN float qi__fit_scale_either(qi__fit *f, int g) {
  int n = f->shape->group;
  const float *x = f->x + g * n, *w = f->w + g * n;
  float scale = qi__fit_scale(&f->shape->code, x, w, n), q[QI__BLOCK_MAX];
  if (!f->shape->other) return scale;
  float other = qi__fit_scale(f->shape->other, x, w, n);
  qi__nearest_levels(&f->shape->code, x, n, 0.0f, qi__reciprocal(scale), q);
  float error = qi__fit_error(x, w, q, n, scale, 0.0f);
  qi__nearest_levels(f->shape->other, x, n, 0.0f, qi__reciprocal(other), q);
  f->other[g] = qi__fit_error(x, w, q, n, other, 0.0f) < error;
  return f->other[g] ? other : scale;
}

// Steps 1 and 2: real scales of the groups, then d, dmin and the integers next to them.
QI__FN void qi__fit_start(qi__fit *f) {
  const qi__block_shape *sh = f->shape;
  int n = sh->group, n_groups = sh->len / n;
  float scale[16] = {0}, min[16] = {0}, weight[16] = {0}, q[QI__BLOCK_MAX];
  for (int g = 0; g < n_groups; g++) {
    const float *x = f->x + g * n, *w = f->w + g * n;
    if (sh->m_hi) {
      qi__scale_min fitted = qi__fit_scale_min(&sh->code, x, w, n, sh->m_lo == 1);
      scale[g] = fitted.d;
      min[g] = fitted.m;
    } else {
      scale[g] = qi__fit_scale_either(f, g);
    }
    qi__nearest_levels(qi__fit_levels(f, f->other[g]), x, n, min[g], qi__reciprocal(scale[g]), q);
    weight[g] = qi__fit_sums_of(x, w, q, n).qq + 1e-7f; // how fast the error grows beside scale[g]
  }
  qi__levels s_levels = {.lo = sh->s_lo, .hi = sh->s_hi}, m_levels = {.lo = sh->m_lo, .hi = sh->m_hi};
  float d = n_groups > 1 ? qi__fit_scale(&s_levels, scale, weight, n_groups) : scale[0];
  for (int g = 0; g < n_groups; g++) {
    weight[g] = 0.0f;
    for (int i = 0; i < n; i++) weight[g] += f->w[g * n + i];
  }
  float dmin = n_groups > 1 && sh->m_hi ? qi__fit_scale(&m_levels, min, weight, n_groups) : min[0];
  qi__fit_set_scales(f, d, dmin);
  for (int g = 0; g < n_groups; g++) {
    f->scale[g] = qi__round_clamped(scale[g] * qi__reciprocal(f->d), sh->s_lo, sh->s_hi);
    f->min[g] = qi__round_clamped(min[g] * qi__reciprocal(f->dmin), sh->m_lo, sh->m_hi);
  }
}

// See qi__fitted.
QI__FN uint8_t qi__level_code(const qi__levels *levels, int level) {
  if (levels->sizes) return (uint8_t)(qi__nearest_size(levels, (float)abs(level)) | (level < 0 ? 128 : 0));
  if (!levels->values) return (uint8_t)(level - levels->lo);
  int code = 0;
  for (int k = 1; k < 16; k++) code += levels->values[k] <= level;
  return (uint8_t)code;
}

QI__FN void qi__fit_block(const qi__block_shape *shape, const float *src, const float *importance, qi__fitted *out) {
  qi__fit now, best;
  float best_error = QI__FIT_WORST;
  bool any = qi__fit_load(&now, shape, src, importance);
  if (any) qi__fit_start(&now);
  else qi__nearest_levels(&shape->code, now.x, shape->len, 0.0f, 0.0f, now.q);
  best = now;
  for (int turn = 0; any && turn < 6; turn++) {
    float error = 0.0f;
    for (int g = 0; g < shape->len / shape->group; g++) error += qi__fit_search_group(&now, g, turn ? 1 : 1 + shape->s_reach);
    if (!(error < best_error)) break;
    best_error = error;
    best = now;
    if (!qi__fit_refit(&now)) break;
  }
  out->d = best.d_bits;
  out->dmin = best.dmin_bits;
  memcpy(out->scale, best.scale, sizeof out->scale);
  memcpy(out->min, best.min, sizeof out->min);
  memcpy(out->other, best.other, sizeof out->other);
  for (int i = 0; i < shape->len; i++)
    out->code[i] = qi__level_code(qi__fit_levels(&best, best.other[i / shape->group]), (int)best.q[i]);
}

// One row: n weights, a multiple of the block length; importance NULL or [n].
QI__FN void qi__quantize_row(const qi__block_shape *shape, void (*pack)(const qi__fitted *block, uint8_t *dst), size_t block_bytes,
                             const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__fitted fitted;
  size_t len = (size_t)shape->len;
  for (size_t i = 0; i + len <= n; i += len, dst += block_bytes) {
    qi__fit_block(shape, src + i, importance ? importance + i : NULL, &fitted);
    pack(&fitted, dst);
  }
}

#endif // QI__FORMATS_QUANTIZE_H

// Blocks of ggml (ggml-common.h). d, dmin: halves; all numbers little-endian; 256 weights a block; g = group of weight i.
//
//   format  bytes  bits    group  weight                               offsets
//   Q2_K     84    2.625    16    d * s[g] * q - dmin * m[g]           0 scales[16], 16 low[64], 80 d, 82 dmin
//   Q3_K    110    3.4375   16    d * (s[g] - 32) * (q - 4)            0 high[32], 32 low[64], 96 scales[12], 108 d
//   Q4_K    144    4.5      32    d * s[g] * q - dmin * m[g]           0 d, 2 dmin, 4 scales[12], 16 nibbles[128]
//   Q5_K    176    5.5      32    d * s[g] * q - dmin * m[g]           0 d, 2 dmin, 4 scales[12], 16 high[32], 48 nibbles[128]
//   Q6_K    210    6.5625   16    d * s[g] * (q - 32)                  0 nibbles[128], 128 high[64], 192 int8 scales[16], 208 d
//
// Easy to get wrong:
//   - Q2_K, Q3_K low[]: byte 32h + l (h = half of the block, l < 32) holds weights 128h + l, + 32, + 64, + 96, lowest bits first.
//   - Q3_K high[l]: bit k belongs to weight 32k + l, over the whole block; a bit that is clear subtracts 4.
//   - Q4_K, Q5_K nibbles: byte 32c + l holds weight 64c + l low and 64c + 32 + l high. Q5_K high[l]: bit k = weight 32k + l.
//   - Q6_K nibbles: byte 64h + l (l < 64) holds weight 128h + l low and 128h + 64 + l high. high[32h + l]: as low[] of Q2_K.
//   - The min of Q2_K, Q4_K and Q5_K is subtracted.

// ---- packed scales ----

// Q4_K, Q5_K: eight 6-bit scales and mins in 12 bytes. Bytes 0..3: scales 0..3, above them the top two bits of scales 4..7;
// bytes 4..7: the same with mins; bytes 8..11: the low four bits of scales 4..7 and, above, of mins 4..7.
QI__INLINE void qi__unpack_scales_k4(const uint8_t *src, int16_t *scale, int16_t *min) {
  for (int j = 0; j < 4; j++) {
    scale[j] = (int16_t)(src[j] & 63);
    min[j] = (int16_t)(src[j + 4] & 63);
    scale[j + 4] = (int16_t)((src[j + 8] & 15) | (src[j] >> 6) << 4);
    min[j + 4] = (int16_t)(src[j + 8] >> 4 | (src[j + 4] >> 6) << 4);
  }
}

QI__FN void qi__pack_scales_k4(const int *scale, const int *min, uint8_t *dst) {
  for (int j = 0; j < 4; j++) {
    dst[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
    dst[j + 4] = (uint8_t)(min[j] | (min[j + 4] >> 4) << 6);
    dst[j + 8] = (uint8_t)((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
  }
}

// Q3_K: sixteen 6-bit scales in 12 bytes, 32 added. Bytes 0..7: low four bits of scales 0..7 and, above, of 8..15; bits 2k, 2k +
// 1 of byte 8 + j: top two bits of scale 4k + j.
QI__INLINE void qi__unpack_scales_k3(const uint8_t *src, int16_t *scale) {
  for (int j = 0; j < 16; j++) {
    int low = src[j % 8] >> (j / 8 * 4) & 15;
    int top = src[8 + j % 4] >> (j / 4 * 2) & 3;
    scale[j] = (int16_t)((low | top << 4) - 32);
  }
}

QI__FN void qi__pack_scales_k3(const int *scale, uint8_t *dst) {
  memset(dst, 0, 12);
  for (int j = 0; j < 16; j++) {
    int s = scale[j] + 32;
    dst[j % 8] = (uint8_t)(dst[j % 8] | (s & 15) << (j / 8 * 4));
    dst[8 + j % 4] = (uint8_t)(dst[8 + j % 4] | (s >> 4) << (j / 4 * 2));
  }
}

// ---- unpacking ----

// Two bits of weight i out of low[64] of Q2_K and Q3_K, or high[64] of Q6_K.
QI__INLINE int qi__pair_bits(const uint8_t *src, int i) { return src[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3; }

QI__FN void qi__unpack_q2_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src + 80));
  out->dmin = qi__f16_to_f32(qi__load_u16(src + 82));
  for (int g = 0; g < 16; g++) {
    out->scale[g] = (int16_t)(src[g] & 15);
    out->min[g] = (int16_t)(src[g] >> 4);
  }
  for (int i = 0; i < 256; i++) out->q[i] = (int8_t)qi__pair_bits(src + 16, i);
}

QI__FN void qi__unpack_q3_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src + 108));
  out->dmin = 0.0f;
  qi__unpack_scales_k3(src + 96, out->scale);
  memset(out->min, 0, sizeof out->min);
  for (int i = 0; i < 256; i++) {
    int high = src[i % 32] >> (i / 32) & 1;
    out->q[i] = (int8_t)(qi__pair_bits(src + 32, i) + high * 4 - 4);
  }
}

QI__FN void qi__unpack_q4_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = qi__f16_to_f32(qi__load_u16(src + 2));
  qi__unpack_scales_k4(src + 4, out->scale, out->min);
  for (int c = 0; c < 4; c++)
    for (int l = 0; l < 32; l++) {
      uint8_t b = src[16 + 32 * c + l];
      out->q[64 * c + l] = (int8_t)(b & 15);
      out->q[64 * c + 32 + l] = (int8_t)(b >> 4);
    }
}

QI__FN void qi__unpack_q5_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = qi__f16_to_f32(qi__load_u16(src + 2));
  qi__unpack_scales_k4(src + 4, out->scale, out->min);
  for (int c = 0; c < 4; c++)
    for (int l = 0; l < 32; l++) {
      uint8_t b = src[48 + 32 * c + l], high = src[16 + l];
      out->q[64 * c + l] = (int8_t)((b & 15) | (high >> (2 * c) & 1) << 4);
      out->q[64 * c + 32 + l] = (int8_t)(b >> 4 | (high >> (2 * c + 1) & 1) << 4);
    }
}

QI__FN void qi__unpack_q6_k(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src + 208));
  out->dmin = 0.0f;
  for (int g = 0; g < 16; g++) out->scale[g] = (int8_t)src[192 + g];
  memset(out->min, 0, sizeof out->min);
  for (int i = 0; i < 256; i++) {
    int low = src[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
    out->q[i] = (int8_t)((low | qi__pair_bits(src + 128, i) << 4) - 32);
  }
}

// ---- packing ----

// The inverse of qi__pair_bits for the bits `shift` and `shift` + 1 of all codes; dst: 64 bytes.
QI__FN void qi__pack_pair_bits(const uint8_t *code, int shift, uint8_t *dst) {
  memset(dst, 0, 64);
  for (int i = 0; i < 256; i++) {
    uint8_t *b = dst + i / 128 * 32 + i % 32;
    *b = (uint8_t)(*b | (code[i] >> shift & 3) << (i / 32 % 4 * 2));
  }
}

// Bit `bit` of each code to bit i / 32 of dst[i % 32].
QI__FN void qi__pack_high_bits(const uint8_t *code, int bit, uint8_t *dst) {
  memset(dst, 0, 32);
  for (int i = 0; i < 256; i++) dst[i % 32] = (uint8_t)(dst[i % 32] | (code[i] >> bit & 1) << (i / 32));
}

QI__FN void qi__pack_q2_k(const qi__fitted *f, uint8_t *dst) {
  for (int g = 0; g < 16; g++) dst[g] = (uint8_t)(f->scale[g] | f->min[g] << 4);
  qi__pack_pair_bits(f->code, 0, dst + 16);
  qi__store_u16(dst + 80, f->d);
  qi__store_u16(dst + 82, f->dmin);
}

QI__FN void qi__pack_q3_k(const qi__fitted *f, uint8_t *dst) {
  qi__pack_high_bits(f->code, 2, dst);
  qi__pack_pair_bits(f->code, 0, dst + 32);
  qi__pack_scales_k3(f->scale, dst + 96);
  qi__store_u16(dst + 108, f->d);
}

// Nibbles of Q4_K and Q5_K: 128 bytes.
QI__FN void qi__pack_nibbles_k(const uint8_t *code, uint8_t *dst) {
  for (int c = 0; c < 4; c++)
    for (int l = 0; l < 32; l++) dst[32 * c + l] = (uint8_t)((code[64 * c + l] & 15) | (code[64 * c + 32 + l] & 15) << 4);
}

QI__FN void qi__pack_q4_k(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__store_u16(dst + 2, f->dmin);
  qi__pack_scales_k4(f->scale, f->min, dst + 4);
  qi__pack_nibbles_k(f->code, dst + 16);
}

QI__FN void qi__pack_q5_k(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__store_u16(dst + 2, f->dmin);
  qi__pack_scales_k4(f->scale, f->min, dst + 4);
  qi__pack_high_bits(f->code, 4, dst + 16);
  qi__pack_nibbles_k(f->code, dst + 48);
}

QI__FN void qi__pack_q6_k(const qi__fitted *f, uint8_t *dst) {
  for (int i = 0; i < 128; i++) {
    const uint8_t *code = f->code + i / 64 * 128 + i % 64;
    dst[i] = (uint8_t)((code[0] & 15) | (code[64] & 15) << 4);
  }
  qi__pack_pair_bits(f->code, 4, dst + 128);
  for (int g = 0; g < 16; g++) dst[192 + g] = (uint8_t)f->scale[g];
  qi__store_u16(dst + 208, f->d);
}

static const qi__block_shape qi__shape_q2_k = {.len = 256, .group = 16, .code = {.lo = 0, .hi = 3}, .s_hi = 15, .m_hi = 15};
static const qi__block_shape qi__shape_q3_k = {.len = 256, .group = 16, .code = {.lo = -4, .hi = 3}, .s_lo = -32, .s_hi = 31};
static const qi__block_shape qi__shape_q4_k = {.len = 256, .group = 32, .code = {.lo = 0, .hi = 15}, .s_hi = 63, .m_hi = 63};
static const qi__block_shape qi__shape_q5_k = {.len = 256, .group = 32, .code = {.lo = 0, .hi = 31}, .s_hi = 63, .m_hi = 63};
static const qi__block_shape qi__shape_q6_k = {.len = 256, .group = 16, .code = {.lo = -32, .hi = 31}, .s_lo = -128, .s_hi = 127};

QI__FN void qi__quantize_q2_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q2_k, qi__pack_q2_k, 84, src, dst, n, importance);
}
QI__FN void qi__quantize_q3_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q3_k, qi__pack_q3_k, 110, src, dst, n, importance);
}
QI__FN void qi__quantize_q4_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q4_k, qi__pack_q4_k, 144, src, dst, n, importance);
}
QI__FN void qi__quantize_q5_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q5_k, qi__pack_q5_k, 176, src, dst, n, importance);
}
QI__FN void qi__quantize_q6_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q6_k, qi__pack_q6_k, 210, src, dst, n, importance);
}

#endif // QI__FORMATS_KQUANT_H
// generated from src/formats/legacy.h: edit there
// ==== >>legacy : Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: 32 weights under one scale ====
#ifndef QI__FORMATS_LEGACY_H
#define QI__FORMATS_LEGACY_H


// Blocks of ggml (ggml-common.h). d, m: halves; all numbers little-endian; 32 weights a block.
//
//   format  bytes  bits  weight             offsets
//   Q4_0     18    4.5   d * (q - 8)        0 d, 2 nibbles[16]
//   Q4_1     20    5.0   d * q + m          0 d, 2 m, 4 nibbles[16]
//   Q5_0     22    5.5   d * (q - 16)       0 d, 2 high[4], 6 nibbles[16]
//   Q5_1     24    6.0   d * q + m          0 d, 2 m, 4 high[4], 8 nibbles[16]
//   Q8_0     34    8.5   d * q              0 d, 2 int8[32]
//
// Nibble byte j holds weight j in its low and weight j + 16 in its high half. Bit i of high[] is the fifth bit of weight i.

// ---- unpacking ----

QI__INLINE void qi__unpack_one_scale(qi__block *out, float d, float dmin, int min) {
  out->d = d;
  out->dmin = dmin;
  out->scale[0] = 1;
  out->min[0] = (int16_t)min;
}

// 32 codes minus `offset` from 16 bytes of nibbles and 32 fifth bits.
QI__INLINE void qi__unpack_nibbles(const uint8_t *nibbles, uint32_t high, int offset, int8_t *q) {
  for (int j = 0; j < 16; j++) {
    q[j] = (int8_t)((int)(nibbles[j] & 15u) + (int)(high >> j & 1u) * 16 - offset);
    q[j + 16] = (int8_t)((int)(nibbles[j] >> 4) + (int)(high >> (j + 16) & 1u) * 16 - offset);
  }
}

QI__FN void qi__unpack_q4_0(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), 0.0f, 0);
  qi__unpack_nibbles(src + 2, 0, 8, out->q);
}

QI__FN void qi__unpack_q4_1(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), -qi__f16_to_f32(qi__load_u16(src + 2)), 1);
  qi__unpack_nibbles(src + 4, 0, 0, out->q);
}

QI__FN void qi__unpack_q5_0(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), 0.0f, 0);
  qi__unpack_nibbles(src + 6, qi__load_u32(src + 2), 16, out->q);
}

QI__FN void qi__unpack_q5_1(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), -qi__f16_to_f32(qi__load_u16(src + 2)), 1);
  qi__unpack_nibbles(src + 8, qi__load_u32(src + 4), 0, out->q);
}

QI__FN void qi__unpack_q8_0(const uint8_t *src, qi__block *out) {
  qi__unpack_one_scale(out, qi__f16_to_f32(qi__load_u16(src)), 0.0f, 0);
  memcpy(out->q, src + 2, 32);
}

// ---- packing ----

QI__FN void qi__pack_nibbles(const uint8_t *code, uint8_t *nibbles) {
  for (int j = 0; j < 16; j++) nibbles[j] = (uint8_t)((code[j] & 15u) | (code[j + 16] & 15u) << 4);
}

QI__FN void qi__pack_fifth_bits(const uint8_t *code, uint8_t *high) {
  memset(high, 0, 4);
  for (int i = 0; i < 32; i++) high[i / 8] = (uint8_t)(high[i / 8] | (code[i] >> 4 & 1u) << (i % 8));
}

// The files hold m = -dmin.
QI__FN void qi__pack_offset(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->dmin & 0x7fffu ? (uint16_t)(f->dmin ^ 0x8000u) : 0);
}

QI__FN void qi__pack_q4_0(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_nibbles(f->code, dst + 2);
}

QI__FN void qi__pack_q4_1(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_offset(f, dst + 2);
  qi__pack_nibbles(f->code, dst + 4);
}

QI__FN void qi__pack_q5_0(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_fifth_bits(f->code, dst + 2);
  qi__pack_nibbles(f->code, dst + 6);
}

QI__FN void qi__pack_q5_1(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_offset(f, dst + 2);
  qi__pack_fifth_bits(f->code, dst + 4);
  qi__pack_nibbles(f->code, dst + 8);
}

QI__FN void qi__pack_q8_0(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  for (int i = 0; i < 32; i++) dst[2 + i] = (uint8_t)(f->code[i] - 127);
}

static const qi__block_shape qi__shape_q4_0 = {.len = 32, .group = 32, .code = {.lo = -8, .hi = 7}, .s_lo = 1, .s_hi = 1};
static const qi__block_shape qi__shape_q4_1 = {.len = 32, .group = 32, .code = {.lo = 0, .hi = 15}, .s_lo = 1, .s_hi = 1,
  .m_lo = 1, .m_hi = 1};
static const qi__block_shape qi__shape_q5_0 = {.len = 32, .group = 32, .code = {.lo = -16, .hi = 15}, .s_lo = 1, .s_hi = 1};
static const qi__block_shape qi__shape_q5_1 = {.len = 32, .group = 32, .code = {.lo = 0, .hi = 31}, .s_lo = 1, .s_hi = 1,
  .m_lo = 1, .m_hi = 1};
// Not -128: |q| then fits into int8, which products of signed bytes by sign and magnitude need.
static const qi__block_shape qi__shape_q8_0 = {.len = 32, .group = 32, .code = {.lo = -127, .hi = 127}, .s_lo = 1, .s_hi = 1};

QI__FN void qi__quantize_q4_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q4_0, qi__pack_q4_0, 18, src, dst, n, importance);
}
QI__FN void qi__quantize_q4_1(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q4_1, qi__pack_q4_1, 20, src, dst, n, importance);
}
QI__FN void qi__quantize_q5_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q5_0, qi__pack_q5_0, 22, src, dst, n, importance);
}
QI__FN void qi__quantize_q5_1(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q5_1, qi__pack_q5_1, 24, src, dst, n, importance);
}
QI__FN void qi__quantize_q8_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_q8_0, qi__pack_q8_0, 34, src, dst, n, importance);
}

#endif // QI__FORMATS_LEGACY_H
// generated from src/formats/qins.h: edit there
// ==== >>qins : QINS8, QINS8_K, QINS4_K: logarithmic codes ====
#ifndef QI__FORMATS_QINS_H
#define QI__FORMATS_QINS_H

// generated from src/formats/spectrum.h: edit there
// ==== >>spectrum : how large the weights of a tensor are ====
#ifndef QI__FORMATS_SPECTRUM_H
#define QI__FORMATS_SPECTRUM_H


// Formats with one scale or range for a whole tensor choose it by sums over all weights of a size |x|. Bins follow each other from
// the greatest size down, 32 to a power of two, over 20 powers of two; the last takes all that is smaller.
#define QI__SPECTRUM_BINS 640

typedef struct qi__spectrum {
  float max, min;   // greatest size, and least above zero; 0 when all weights are zero
  // Sums over the bins before: of importance, importance * |x|, importance * x^2.
  double w[QI__SPECTRUM_BINS + 1], wx[QI__SPECTRUM_BINS + 1], wxx[QI__SPECTRUM_BINS + 1];
} qi__spectrum;

// Importance as the sums take it: nothing that is not finite, never quite zero. `greatest`: of all columns; 0 = none matters.
QI__INLINE float qi__spectrum_weight(const float *importance, size_t column, float greatest) {
  if (!(greatest > 0.0f)) return 1.0f;
  float w = qi__is_finite(importance[column]) ? importance[column] / greatest : 0.0f;
  return w > 1e-7f ? w : 1e-7f;
}

QI__FN float qi__spectrum_greatest(const float *importance, size_t n_cols) {
  float greatest = 0.0f;
  for (size_t i = 0; importance && i < n_cols; i++)
    if (qi__is_finite(importance[i]) && importance[i] > greatest) greatest = importance[i];
  return greatest;
}

// src: [n_rows, n_cols], finite; importance: NULL or [n_cols].
QI__FN void qi__spectrum_take(qi__spectrum *s, const float *src, size_t n_rows, size_t n_cols, const float *importance) {
  memset(s, 0, sizeof *s);
  float greatest = qi__spectrum_greatest(importance, n_cols);
  for (size_t i = 0; i < n_rows * n_cols; i++) {
    float a = fabsf(src[i]);
    if (a > s->max) s->max = a;
    if (a > 0.0f && (a < s->min || s->min == 0.0f)) s->min = a;
  }
  uint32_t top = qi__f32_bits(s->max) >> 18; // exponent and five bits
  for (size_t i = 0; i < n_rows * n_cols; i++) {
    float a = fabsf(src[i]), w = qi__spectrum_weight(importance, i % n_cols, greatest);
    uint32_t below = top - (qi__f32_bits(a) >> 18);
    size_t bin = below < QI__SPECTRUM_BINS ? below : QI__SPECTRUM_BINS - 1;
    s->w[bin + 1] += w;
    s->wx[bin + 1] += (double)w * a;
    s->wxx[bin + 1] += (double)w * a * a;
  }
  for (int k = 0; k < QI__SPECTRUM_BINS; k++) {
    s->w[k + 1] += s->w[k];
    s->wx[k + 1] += s->wx[k];
    s->wxx[k + 1] += s->wxx[k];
  }
}

// Upper end of bin k; 0 where there are no such sizes.
QI__INLINE float qi__spectrum_size(const qi__spectrum *s, int k) {
  uint32_t top = qi__f32_bits(s->max) >> 18;
  if (!k) return s->max;
  return (uint32_t)k <= top ? qi__bits_f32((top - (uint32_t)k + 1) << 18) : 0.0f;
}

#endif // QI__FORMATS_SPECTRUM_H

// All numbers little-endian; d: half.
//
//   format   len  bytes  bits  group  weight                                  offsets
//   QINS8     32    36   9.0     -    +-exp(log_min + (255 - c) / 254 * R)    0 signs[4], 4 codes[32];  tail: 0 log_min, 4 log_max
//   QINS8_K  256   272   8.5    16    d / 2^10 * s[g] * (+-V[c])              0 d, 2 low[8], 10 planes[3], 16 codes[256]
//   QINS4_K  256   144   4.5    16    d / 2^10 * s[g] * T[t[g]][c]            0 d, 2 low[8], 10 planes[3], 16 nibbles[128]
//
// QINS8: R = log_max - log_min, two float32 in the tensor's tail (32 bytes, the rest zero). Code 1 is the greatest size, 255 the
// least; 0 is zero. Bit i % 8 of signs[i / 8] is set where weight i is negative.
//
// The grouped kinds have seven bits a group: low[j] holds the low four of group j and, above, of group j + 8; bit g of the word
// planes[p] is bit 4 + p of group g. In QINS8_K these are s, 0..127. In QINS4_K the five lowest are the size of s, the next its
// sign, the highest t. Steps grow with the weight: with the code in -1..1 as a,
//
//   |w| / max = ((1 + m)^|a| - 1) / m
//
// which is nearly linear below max / m and logarithmic above. A pure logarithm (QINS8) spends its codes on sizes that hardly add to
// an error; m = 3 leaves least of it with 7 bits. Rounded to integers, sums of products stay exact.
//
//   QINS8_K  bits 0..6 of a code are c, bit 7 the sign; V[c] = round(255 (4^(c / 127) - 1) / 3)
//   QINS4_K  nibbles as in Q4_K; a = (c - 7 - o) / 8, round(127 ((1 + m)^|a| - 1) / ((1 + m)^((8 - o) / 8) - 1)) with a's sign,
//            m = 1 and o = 1/4 in T[0], m = 4 and o = 0 in T[1]: a group takes the range that suits it
//
// One side of T reaches further than the other; which one is the sign of s.

#define QI__QINS_TAIL 32
#define QI__QINS_D 10 // d is that of a weight near 1: halves have all their bits there
#define QI__QINS8_LOG_MAX 88.73f // e^x is beyond float32

static const uint8_t qi__qins8_sizes[128] = {
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23, 24,
  25, 27, 28, 29, 30, 32, 33, 34, 36, 37, 38, 40, 41, 42, 44, 45, 47, 48, 49, 51, 52, 54, 55, 57,
  59, 60, 62, 63, 65, 67, 68, 70, 72, 73, 75, 77, 79, 80, 82, 84, 86, 88, 90, 92, 94, 96, 98, 100,
  102, 104, 106, 108, 110, 112, 114, 116, 119, 121, 123, 125, 128, 130, 132, 135, 137, 140, 142, 145, 147, 150, 152, 155,
  157, 160, 163, 165, 168, 171, 174, 177, 180, 182, 185, 188, 191, 194, 197, 201, 204, 207, 210, 213, 217, 220, 223, 227,
  230, 233, 237, 240, 244, 248, 251, 255
};

static const int8_t qi__qins4_values[2][16] = {
  {-116, -95, -76, -59, -43, -29, -15, -3, 9, 22, 36, 51, 68, 86, 105, 127},
  {-98, -74, -55, -39, -26, -16, -7, 0, 7, 16, 26, 39, 55, 74, 98, 127}
};

// T for two groups, by their two bits t.
static const int8_t qi__qins4_pairs[4][32] = {
  {-116, -95, -76, -59, -43, -29, -15, -3, 9, 22, 36, 51, 68, 86, 105, 127,
   -116, -95, -76, -59, -43, -29, -15, -3, 9, 22, 36, 51, 68, 86, 105, 127},
  {-98, -74, -55, -39, -26, -16, -7, 0, 7, 16, 26, 39, 55, 74, 98, 127,
   -116, -95, -76, -59, -43, -29, -15, -3, 9, 22, 36, 51, 68, 86, 105, 127},
  {-116, -95, -76, -59, -43, -29, -15, -3, 9, 22, 36, 51, 68, 86, 105, 127,
   -98, -74, -55, -39, -26, -16, -7, 0, 7, 16, 26, 39, 55, 74, 98, 127},
  {-98, -74, -55, -39, -26, -16, -7, 0, 7, 16, 26, 39, 55, 74, 98, 127,
   -98, -74, -55, -39, -26, -16, -7, 0, 7, 16, 26, 39, 55, 74, 98, 127}
};

// ---- QINS8 ----

// What the 256 codes stand for. log_min <= log_max <= QI__QINS8_LOG_MAX
QI__FN void qi__qins8_table(float log_min, float log_max, float *values) {
  values[0] = 0.0f;
  for (int c = 1; c < 256; c++) {
    double v = qi__exp((double)log_min + (255 - c) / 254.0 * ((double)log_max - (double)log_min));
    values[c] = v < FLT_MAX ? (float)v : FLT_MAX;
  }
}

// NULL, or what the tail should be.
QI__FN const char *qi__read_tail_qins8(const uint8_t *tail, float *param, float *values) {
  float log_min = param[0] = qi__bits_f32(qi__load_u32(tail)), log_max = param[1] = qi__bits_f32(qi__load_u32(tail + 4));
  if (!qi__is_finite(log_min) || !qi__is_finite(log_max) || log_min > log_max || log_max > QI__QINS8_LOG_MAX)
    return "log_min <= log_max <= 88.73";
  qi__qins8_table(log_min, log_max, values);
  return NULL;
}

QI__FN void qi__dequantize_qins8(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  for (size_t i = 0; i < n; i += 32, src += 36) {
    uint32_t signs = qi__load_u32(src);
    for (int j = 0; j < 32; j++) dst[i + (size_t)j] = qi__bits_f32(qi__f32_bits(f->values[src[4 + j]]) ^ (signs >> j & 1) << 31);
  }
}

// The code whose value is nearest to size a.
QI__FN uint8_t qi__qins8_code(const float *values, float a) {
  int c = 1;
  for (int step = 128; step; step /= 2)
    if (c + step < 256 && a < 0.5f * values[c + step - 1] + 0.5f * values[c + step]) c += step;
  return c == 255 && a < 0.5f * values[255] ? 0 : (uint8_t)c;
}

// The range with the least error by the sums of sizes. A code's weights lie evenly in its step of R / 254, so inside of the range
// the relative error squared is (R / 254)^2 / 12; greater sizes become the greatest, smaller ones the least or zero.
QI__FN void qi__qins8_range(const qi__spectrum *s, float *log_min, float *log_max) {
  const double step = 0x1.62e42fefa39efp-1 / 32 / 254; // ln 2 / 32: from bin to bin
  const int n = QI__SPECTRUM_BINS;
  double best = 1e300;
  float top = s->max, bottom = s->min;
  *log_min = *log_max = 0.0f;
  if (!(s->max > 0.0f)) return;
  for (int a = 0; a < 64; a++) {
    if (!(qi__spectrum_size(s, a) > 0.0f)) break;
    double high = qi__spectrum_size(s, a), above = s->wxx[a] - 2 * high * s->wx[a] + high * high * s->w[a];
    for (int b = a + 1; b < n; b++) {
      float size = qi__spectrum_size(s, b), low = size > s->min ? size : s->min;
      int zero = b + 32 < n ? b + 32 : n; // half of low, where zero is nearer
      double inside = step * step / 12 * (b - a) * (b - a) * (s->wxx[b] - s->wxx[a]);
      double below = (double)low * low * (s->w[zero] - s->w[b]) - 2.0 * low * (s->wx[zero] - s->wx[b]) + s->wxx[n] - s->wxx[b];
      if (above + inside + below < best) best = above + inside + below, top = (float)high, bottom = low;
      if (size <= s->min) break;
    }
  }
  if (!(top > bottom)) bottom = top;
  *log_max = (float)qi__ln((double)top);
  *log_min = (float)qi__ln((double)bottom);
  if (*log_min > *log_max) *log_min = *log_max;
}

QI__FN void qi__quantize_tensor_qins8(const float *src, uint8_t *dst, size_t n_rows, size_t n_cols, const float *importance) {
  qi__spectrum spectrum;
  float log_min, log_max, values[256];
  qi__spectrum_take(&spectrum, src, n_rows, n_cols, importance);
  qi__qins8_range(&spectrum, &log_min, &log_max);
  qi__qins8_table(log_min, log_max, values);
  for (size_t i = 0; i < n_rows * n_cols; i += 32, dst += 36) {
    memset(dst, 0, 4);
    for (size_t j = 0; j < 32; j++) {
      if (src[i + j] < 0.0f) dst[j / 8] = (uint8_t)(dst[j / 8] | 1u << j % 8);
      dst[4 + j] = spectrum.max > 0.0f ? qi__qins8_code(values, fabsf(src[i + j])) : 0;
    }
  }
  memset(dst, 0, QI__QINS_TAIL);
  qi__store_f32(dst, log_min);
  qi__store_f32(dst + 4, log_max);
}

// ---- groups ----

QI__INLINE void qi__unpack_seven_bits(const uint8_t *src, int *bits) {
  for (int g = 0; g < 16; g++) {
    bits[g] = src[g % 8] >> (g / 8 * 4) & 15;
    for (int p = 0; p < 3; p++) bits[g] |= (qi__load_u16(src + 8 + 2 * p) >> g & 1) << (4 + p);
  }
}

QI__FN void qi__pack_seven_bits(const int *bits, uint8_t *dst) {
  unsigned planes[3] = {0};
  for (int g = 0; g < 16; g++)
    for (int p = 0; p < 3; p++) planes[p] |= (unsigned)(bits[g] >> (4 + p) & 1) << g;
  for (int j = 0; j < 8; j++) dst[j] = (uint8_t)((bits[j] & 15) | (bits[j + 8] & 15) << 4);
  for (int p = 0; p < 3; p++) qi__store_u16(dst + 8 + 2 * p, (uint16_t)planes[p]);
}

QI__FN void qi__unpack_qins8_k(const uint8_t *src, qi__block *out) {
  int bits[16];
  qi__unpack_seven_bits(src + 2, bits);
  out->d = qi__f16_to_f32(qi__load_u16(src)) * 0x1p-10f;
  out->dmin = 0.0f;
  for (int g = 0; g < 16; g++) {
    out->scale[g] = (int16_t)bits[g];
    out->min[g] = 0;
  }
  for (int i = 0; i < 256; i++) {
    int c = src[16 + i], size = qi__qins8_sizes[c & 127];
    out->wide[i] = (int16_t)(c & 128 ? -size : size);
  }
}

QI__FN void qi__unpack_qins4_k(const uint8_t *src, qi__block *out) {
  int bits[16];
  qi__unpack_seven_bits(src + 2, bits);
  out->d = qi__f16_to_f32(qi__load_u16(src)) * 0x1p-10f;
  out->dmin = 0.0f;
  for (int g = 0; g < 16; g++) {
    out->scale[g] = (int16_t)(bits[g] & 32 ? -(bits[g] & 31) : bits[g] & 31);
    out->min[g] = 0;
  }
  for (int i = 0; i < 256; i++) {
    int c = src[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
    out->q[i] = qi__qins4_values[bits[i / 16] >> 6][c];
  }
}

QI__FN void qi__pack_qins8_k(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_seven_bits(f->scale, dst + 2);
  memcpy(dst + 16, f->code, 256);
}

QI__FN void qi__pack_qins4_k(const qi__fitted *f, uint8_t *dst) {
  int bits[16];
  for (int g = 0; g < 16; g++) bits[g] = abs(f->scale[g]) | (f->scale[g] < 0 ? 32 : 0) | (f->other[g] ? 64 : 0);
  qi__store_u16(dst, f->d);
  qi__pack_seven_bits(bits, dst + 2);
  qi__pack_nibbles_k(f->code, dst + 16);
}

static const qi__levels qi__qins4_other = {.lo = -98, .hi = 127, .values = qi__qins4_values[1]};
static const qi__block_shape qi__shape_qins8_k = {.len = 256, .group = 16, .code = {.lo = -255, .hi = 255,
  .sizes = qi__qins8_sizes}, .d_exponent = QI__QINS_D, .s_hi = 127, .s_reach = 8};
static const qi__block_shape qi__shape_qins4_k = {.len = 256, .group = 16, .code = {.lo = -116, .hi = 127,
  .values = qi__qins4_values[0]}, .other = &qi__qins4_other, .d_exponent = QI__QINS_D, .s_lo = -31, .s_hi = 31};

QI__FN void qi__quantize_qins8_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__block_shape shape = qi__shape_qins8_k;
  uint8_t place[256];
  for (int v = 0, k = 0; v < 256; v++) {
    k += k < 127 && qi__qins8_sizes[k + 1] <= v ? 1 : 0;
    place[v] = (uint8_t)k;
  }
  shape.code.place = place;
  qi__quantize_row(&shape, qi__pack_qins8_k, 272, src, dst, n, importance);
}
QI__FN void qi__quantize_qins4_k(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_qins4_k, qi__pack_qins4_k, 144, src, dst, n, importance);
}

#endif // QI__FORMATS_QINS_H
// generated from src/formats/table4.h: edit there
// ==== >>table4 : IQ4_NL, IQ4_XS, MXFP4: four bits that name one of 16 values ====
#ifndef QI__FORMATS_TABLE4_H
#define QI__FORMATS_TABLE4_H


// Blocks of ggml (ggml-common.h), all numbers little-endian; T = table of 16 integers, c = nibble of the weight.
//
//   format  len  bytes  bits  weight                          offsets
//   IQ4_NL   32   18    4.5   d * T[c]                        0 d (half), 2 nibbles[16]
//   IQ4_XS  256  136    4.25  d * (s[i / 32] - 32) * T[c]     0 d (half), 2 top[2], 4 low[4], 8 nibbles[128]
//   MXFP4    32   17    4.25  2^(e - 128) * T[c]              0 e (E8M0), 1 nibbles[16]
//
// Of each 16 bytes of nibbles, byte j holds weight j low and weight j + 16 high. IQ4_XS scales have 6 bits: low[k] the low four of
// scale 2k and, above, of 2k + 1; bits 2k, 2k + 1 of top (16 bits) the top two of scale k.

// Denser near zero, as weights are; both IQ4 formats.
static const int8_t qi__iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// E2M1 floats 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, doubled; hence 2^(e - 128) for 2^(e - 127).
static const int8_t qi__mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

QI__INLINE void qi__unpack_table_nibbles(const int8_t *values, const uint8_t *src, int8_t *q) {
  for (int j = 0; j < 16; j++) {
    q[j] = values[src[j] & 15];
    q[j + 16] = values[src[j] >> 4];
  }
}

QI__FN void qi__unpack_iq4_nl(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = 0.0f;
  out->scale[0] = 1;
  out->min[0] = 0;
  qi__unpack_table_nibbles(qi__iq4_values, src + 2, out->q);
}

QI__FN void qi__unpack_iq4_xs(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = 0.0f;
  int top = qi__load_u16(src + 2);
  for (int g = 0; g < 8; g++) {
    int low = src[4 + g / 2] >> (g % 2 * 4) & 15;
    out->scale[g] = (int16_t)((low | (top >> (2 * g) & 3) << 4) - 32);
    out->min[g] = 0;
    qi__unpack_table_nibbles(qi__iq4_values, src + 8 + 16 * g, out->q + 32 * g);
  }
}

QI__FN void qi__unpack_mxfp4(const uint8_t *src, qi__block *out) {
  out->d = qi__e8m0_half_to_f32(src[0]);
  out->dmin = 0.0f;
  out->scale[0] = 1;
  out->min[0] = 0;
  qi__unpack_table_nibbles(qi__mxfp4_values, src + 1, out->q);
}

QI__FN void qi__pack_table_nibbles(const uint8_t *code, uint8_t *dst) {
  for (int j = 0; j < 16; j++) dst[j] = (uint8_t)(code[j] | code[j + 16] << 4);
}

QI__FN void qi__pack_iq4_nl(const qi__fitted *f, uint8_t *dst) {
  qi__store_u16(dst, f->d);
  qi__pack_table_nibbles(f->code, dst + 2);
}

QI__FN void qi__pack_iq4_xs(const qi__fitted *f, uint8_t *dst) {
  unsigned top = 0;
  memset(dst + 4, 0, 4);
  for (int g = 0; g < 8; g++) {
    unsigned s = (unsigned)(f->scale[g] + 32);
    dst[4 + g / 2] = (uint8_t)(dst[4 + g / 2] | (s & 15) << (g % 2 * 4));
    top |= (s >> 4) << (2 * g);
    qi__pack_table_nibbles(f->code + 32 * g, dst + 8 + 16 * g);
  }
  qi__store_u16(dst, f->d);
  qi__store_u16(dst + 2, (uint16_t)top);
}

static const qi__block_shape qi__shape_iq4_nl = {.len = 32, .group = 32, .code = {.lo = -127, .hi = 113,
  .values = qi__iq4_values}, .s_lo = 1, .s_hi = 1};
static const qi__block_shape qi__shape_iq4_xs = {.len = 256, .group = 32, .code = {.lo = -127, .hi = 113,
  .values = qi__iq4_values}, .s_lo = -32, .s_hi = 31};

QI__FN void qi__quantize_iq4_nl(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_iq4_nl, qi__pack_iq4_nl, 18, src, dst, n, importance);
}
QI__FN void qi__quantize_iq4_xs(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_iq4_xs, qi__pack_iq4_xs, 136, src, dst, n, importance);
}

#endif // QI__FORMATS_TABLE4_H
// generated from src/formats/ternary.h: edit there
// ==== >>ternary : TQ1_0, TQ2_0, I2_S: -1, 0 or 1 times a scale ====
#ifndef QI__FORMATS_TERNARY_H
#define QI__FORMATS_TERNARY_H


// Blocks of ggml (ggml-common.h): w = d * (q - 1), q in 0..2; d: half, little-endian; 256 weights a block.
//
//   format  bytes  bits    offsets
//   TQ1_0    54    1.6875  0 digits[48], 48 rest[4], 52 d
//   TQ2_0    66    2.0625  0 pairs[64], 64 d
//   I2_S     64    2       0 pairs[64]; the tensor's tail has 32 bytes: 0 d (float32), the rest zero
//
// TQ2_0: byte 32h + l holds weights 128h + l, + 32, + 64, + 96, two bits each, lowest bits first. A pair of 3 is not forbidden:
// q - 1 = 2.
//
// I2_S (bitnet.cpp, its layout for x86): byte 32h + l holds weights 128h + l, + 32, + 64, + 96, highest bits first. There the unit
// is 128 weights; pairs of them make rows take the same kernels as TQ2_0, and every published model has rows of whole pairs.
//
// TQ1_0: a byte holds five digits of base 3, first digit highest, as the fraction ceil(number * 256 / 243) / 256. Digit n is
// what crosses 256 when the fraction, times 3^n modulo 256, is multiplied by 3. Byte l < 32 of digits holds weights l, l + 32,
// ..., l + 128; byte 32 + l (l < 16) weights 160 + l, 176 + l, ..., 224 + l; byte l of rest weights 240 + l, 244 + l, 248 + l,
// 252 + l (and a zero).

QI__FN void qi__unpack_ternary_scale(const uint8_t *src, qi__block *out) {
  out->d = qi__f16_to_f32(qi__load_u16(src));
  out->dmin = 0.0f;
  for (int g = 0; g < 8; g++) {
    out->scale[g] = 1;
    out->min[g] = 0;
  }
}

// n_digits weights of each of n_bytes bytes; q[digit * n_bytes + byte].
QI__INLINE void qi__unpack_digits(const uint8_t *src, int n_bytes, int n_digits, int8_t *q) {
  unsigned power = 1;
  for (int digit = 0; digit < n_digits; digit++, power *= 3)
    for (int l = 0; l < n_bytes; l++) {
      unsigned fraction = src[l] * power & 255u;
      q[digit * n_bytes + l] = (int8_t)((int)(fraction * 3 >> 8) - 1);
    }
}

QI__FN void qi__unpack_tq1_0(const uint8_t *src, qi__block *out) {
  qi__unpack_ternary_scale(src + 52, out);
  qi__unpack_digits(src, 32, 5, out->q);
  qi__unpack_digits(src + 32, 16, 5, out->q + 160);
  qi__unpack_digits(src + 48, 4, 4, out->q + 240);
}

QI__FN void qi__unpack_tq2_0(const uint8_t *src, qi__block *out) {
  qi__unpack_ternary_scale(src + 64, out);
  for (int i = 0; i < 256; i++) out->q[i] = (int8_t)((src[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) - 1);
}

// d is in the tail.
QI__FN void qi__unpack_i2_s(const uint8_t *src, qi__block *out) {
  out->d = 0.0f;
  out->dmin = 0.0f;
  for (int g = 0; g < 8; g++) {
    out->scale[g] = 1;
    out->min[g] = 0;
  }
  for (int i = 0; i < 256; i++) out->q[i] = (int8_t)((src[i / 128 * 32 + i % 32] >> (6 - i / 32 % 4 * 2) & 3) - 1);
}

// 64 bytes of four codes to 256 weights, through the four values that a code can have; `first`: shift of the first of the four,
// `next`: from one to the next. In 10^9 weights a second (gcc 12 -O2, Zen 4): 3.6; a table of 256 x 4 floats 3.7; arithmetic 1.7;
// qi__unpack 0.8; AVX2 16.6.
QI__INLINE void qi__dequantize_pairs(const uint8_t *src, float d, int first, int next, float *dst) {
  float values[4];
  for (int code = 0; code < 4; code++) values[code] = d * (float)(code - 1);
  for (int h = 0; h < 2; h++, src += 32, dst += 128)
    for (int l = 0; l < 32; l++)
      QI__UNROLL for (int k = 0; k < 4; k++) dst[32 * k + l] = values[src[l] >> (first + k * next) & 3];
}

QI__FN void qi__dequantize_tq2_0(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  for (size_t i = 0; i < n; i += 256, src += 66) qi__dequantize_pairs(src, qi__f16_to_f32(qi__load_u16(src + 64)), 0, 2, dst + i);
}

QI__FN void qi__dequantize_i2_s(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  for (size_t i = 0; i < n; i += 256, src += 64) qi__dequantize_pairs(src, f->param[0], 6, -2, dst + i);
}

// NULL, or what the tail should be.
QI__FN const char *qi__read_tail_i2_s(const uint8_t *tail, float *param, float *values) {
  (void)values;
  param[0] = qi__bits_f32(qi__load_u32(tail));
  return qi__is_finite(param[0]) ? NULL : "a finite scale";
}

QI__FN void qi__pack_digits(const uint8_t *code, int n_bytes, int n_digits, uint8_t *dst) {
  for (int l = 0; l < n_bytes; l++) {
    unsigned number = 0;
    for (int digit = 0; digit < 5; digit++) number = number * 3 + (digit < n_digits ? code[digit * n_bytes + l] : 0u);
    dst[l] = (uint8_t)((number * 256 + 242) / 243);
  }
}

QI__FN void qi__pack_tq1_0(const qi__fitted *f, uint8_t *dst) {
  qi__pack_digits(f->code, 32, 5, dst);
  qi__pack_digits(f->code + 160, 16, 5, dst + 32);
  qi__pack_digits(f->code + 240, 4, 4, dst + 48);
  qi__store_u16(dst + 52, f->d);
}

QI__FN void qi__pack_tq2_0(const qi__fitted *f, uint8_t *dst) {
  memset(dst, 0, 64);
  for (int i = 0; i < 256; i++) {
    uint8_t *b = dst + i / 128 * 32 + i % 32;
    *b = (uint8_t)(*b | f->code[i] << (i / 32 % 4 * 2));
  }
  qi__store_u16(dst + 64, f->d);
}

static const qi__block_shape qi__shape_ternary = {.len = 256, .group = 256, .code = {.lo = -1, .hi = 1}, .s_lo = 1, .s_hi = 1};

QI__FN void qi__quantize_tq1_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_ternary, qi__pack_tq1_0, 54, src, dst, n, importance);
}
QI__FN void qi__quantize_tq2_0(const float *src, uint8_t *dst, size_t n, const float *importance) {
  qi__quantize_row(&qi__shape_ternary, qi__pack_tq2_0, 66, src, dst, n, importance);
}

// ---- one scale for a tensor ----

#define QI__I2_S_TAIL 32

// 128 codes, 0..2, to 32 bytes.
QI__INLINE void qi__pack_i2_s(const uint8_t *code, uint8_t *dst) {
  for (int l = 0; l < 32; l++) dst[l] = (uint8_t)(code[l] << 6 | code[l + 32] << 4 | code[l + 64] << 2 | code[l + 96]);
}

QI__FN void qi__store_tail_i2_s(uint8_t *tail, float scale) {
  memset(tail, 0, QI__I2_S_TAIL);
  qi__store_f32(tail, scale);
}

// Sum and number of the sizes above a border, by their importance.
QI__FN float qi__ternary_mean(const float *src, size_t n_rows, size_t n_cols, const float *importance, float border) {
  double wx = 0, w = 0;
  float greatest = qi__spectrum_greatest(importance, n_cols);
  for (size_t i = 0; i < n_rows * n_cols; i++) {
    float a = fabsf(src[i]);
    if (!(a > border)) continue;
    double weight = qi__spectrum_weight(importance, i % n_cols, greatest);
    wx += weight * a;
    w += weight;
  }
  return w > 0 ? (float)(wx / w) : 0.0f;
}

// Sizes above a border become d, their mean; that takes (sum w |x|)^2 / sum w off the error. d is exact when all are of one size.
QI__FN void qi__quantize_tensor_i2_s(const float *src, uint8_t *dst, size_t n_rows, size_t n_cols, const float *importance) {
  qi__spectrum s;
  double best = 0;
  float d = 0.0f;
  qi__spectrum_take(&s, src, n_rows, n_cols, importance);
  for (int k = 1; k <= QI__SPECTRUM_BINS; k++)
    if (s.w[k] > 0 && s.wx[k] * s.wx[k] / s.w[k] > best) best = s.wx[k] * s.wx[k] / s.w[k], d = (float)(s.wx[k] / s.w[k]);
  for (int turn = 0; turn < 2; turn++) d = qi__ternary_mean(src, n_rows, n_cols, importance, 0.5f * d);
  for (size_t i = 0; i < n_rows * n_cols; i += 128, dst += 32) {
    uint8_t code[128];
    for (size_t j = 0; j < 128; j++) code[j] = src[i + j] > 0.5f * d ? 2 : src[i + j] < -0.5f * d ? 0 : 1;
    qi__pack_i2_s(code, dst);
  }
  qi__store_tail_i2_s(dst, d);
}

// ---- Hugging Face ----

// n codes (a multiple of 128) of a row from its packed bytes: bits 2k, 2k + 1 of each. False for a code of 3.
QI__FN bool qi__hf_ternary_row(const uint8_t *packed, unsigned k, size_t n, uint8_t *dst) {
  for (size_t i = 0; i < n; i += 128, dst += 32) {
    uint8_t code[128], wrong = 0;
    for (size_t j = 0; j < 128; j++) {
      code[j] = packed[i + j] >> (2 * k) & 3;
      wrong = (uint8_t)(wrong | (code[j] & code[j] >> 1));
    }
    if (wrong) return false;
    qi__pack_i2_s(code, dst);
  }
  return true;
}

// Packed weights of Hugging Face's BitNet: uint8 [n_rows / 4, n_cols]; byte (r, c) holds the codes 0..2 of rows r, r + n_rows / 4,
// r + n_rows / 2, r + 3 n_rows / 4 at column c, lowest bits first. To I2_S [n_rows, n_cols] with `scale`: dst has
// n_rows * n_cols / 4 bytes and a tail. False for a code of 3, or when n_rows is no multiple of 4, n_cols none of 256.
QI__FN bool qi__hf_ternary_to_i2_s(const uint8_t *packed, size_t n_rows, size_t n_cols, float scale, uint8_t *dst) {
  if (n_rows % 4 || n_cols % 256) return false;
  size_t quarter = n_rows / 4;
  for (size_t row = 0; row < n_rows; row++, dst += n_cols / 4)
    if (!qi__hf_ternary_row(packed + row % quarter * n_cols, (unsigned)(row / quarter), n_cols, dst)) return false;
  qi__store_tail_i2_s(dst, scale);
  return true;
}

#endif // QI__FORMATS_TERNARY_H

// A new format is a row here, its functions in a file of its family and its name in qi_format.
//   .info = { name, GGUF id, weights and bytes of a block, can_quantize, bytes of the tail }
//
// GGUF ids of our own begin with the letters QI (0x5149): no other loader knows them.
// clang-format off
static const qi__format qi__formats[QI_FORMAT_COUNT] = {
  [QI_FORMAT_F32] = {.info = {"F32", 0, 1, 4, true, 0},
    .dequantize = qi__dequantize_f32, .quantize = qi__quantize_f32},
  [QI_FORMAT_F16] = {.info = {"F16", 1, 1, 2, true, 0},
    .dequantize = qi__dequantize_f16, .quantize = qi__quantize_f16},
  [QI_FORMAT_BF16] = {.info = {"BF16", 30, 1, 2, true, 0},
    .dequantize = qi__dequantize_bf16, .quantize = qi__quantize_bf16},
  [QI_FORMAT_Q4_0] = {.info = {"Q4_0", 2, 32, 18, true, 0},
    .group = 32, .unpack = qi__unpack_q4_0, .quantize = qi__quantize_q4_0},
  [QI_FORMAT_Q4_1] = {.info = {"Q4_1", 3, 32, 20, true, 0},
    .group = 32, .has_min = true, .unpack = qi__unpack_q4_1, .quantize = qi__quantize_q4_1},
  [QI_FORMAT_Q5_0] = {.info = {"Q5_0", 6, 32, 22, true, 0},
    .group = 32, .unpack = qi__unpack_q5_0, .quantize = qi__quantize_q5_0},
  [QI_FORMAT_Q5_1] = {.info = {"Q5_1", 7, 32, 24, true, 0},
    .group = 32, .has_min = true, .unpack = qi__unpack_q5_1, .quantize = qi__quantize_q5_1},
  [QI_FORMAT_Q8_0] = {.info = {"Q8_0", 8, 32, 34, true, 0},
    .group = 32, .unpack = qi__unpack_q8_0, .quantize = qi__quantize_q8_0},
  [QI_FORMAT_Q2_K] = {.info = {"Q2_K", 10, 256, 84, true, 0},
    .group = 16, .has_min = true, .unpack = qi__unpack_q2_k, .quantize = qi__quantize_q2_k},
  [QI_FORMAT_Q3_K] = {.info = {"Q3_K", 11, 256, 110, true, 0},
    .group = 16, .unpack = qi__unpack_q3_k, .quantize = qi__quantize_q3_k},
  [QI_FORMAT_Q4_K] = {.info = {"Q4_K", 12, 256, 144, true, 0},
    .group = 32, .has_min = true, .unpack = qi__unpack_q4_k, .quantize = qi__quantize_q4_k},
  [QI_FORMAT_Q5_K] = {.info = {"Q5_K", 13, 256, 176, true, 0},
    .group = 32, .has_min = true, .unpack = qi__unpack_q5_k, .quantize = qi__quantize_q5_k},
  [QI_FORMAT_Q6_K] = {.info = {"Q6_K", 14, 256, 210, true, 0},
    .group = 16, .unpack = qi__unpack_q6_k, .quantize = qi__quantize_q6_k},
  [QI_FORMAT_IQ1_S] = {.info = {"IQ1_S", 19, 256, QI__IQ1_S_BYTES, false, 0},
    .group = 32, .unpack = qi__unpack_iq1_s},
  [QI_FORMAT_IQ1_M] = {.info = {"IQ1_M", 29, 256, QI__IQ1_M_BYTES, false, 0},
    .group = 16, .unpack = qi__unpack_iq1_m},
  [QI_FORMAT_IQ2_XXS] = {.info = {"IQ2_XXS", 16, 256, QI__IQ2_XXS_BYTES, false, 0},
    .group = 32, .unpack = qi__unpack_iq2_xxs},
  [QI_FORMAT_IQ2_XS] = {.info = {"IQ2_XS", 17, 256, QI__IQ2_XS_BYTES, false, 0},
    .group = 16, .unpack = qi__unpack_iq2_xs},
  [QI_FORMAT_IQ2_S] = {.info = {"IQ2_S", 22, 256, QI__IQ2_S_BYTES, false, 0},
    .group = 16, .unpack = qi__unpack_iq2_s},
  [QI_FORMAT_IQ3_XXS] = {.info = {"IQ3_XXS", 18, 256, QI__IQ3_XXS_BYTES, false, 0},
    .group = 32, .unpack = qi__unpack_iq3_xxs},
  [QI_FORMAT_IQ3_S] = {.info = {"IQ3_S", 21, 256, QI__IQ3_S_BYTES, false, 0},
    .group = 32, .unpack = qi__unpack_iq3_s},
  [QI_FORMAT_IQ4_NL] = {.info = {"IQ4_NL", 20, 32, 18, true, 0},
    .group = 32, .unpack = qi__unpack_iq4_nl, .quantize = qi__quantize_iq4_nl},
  [QI_FORMAT_IQ4_XS] = {.info = {"IQ4_XS", 23, 256, 136, true, 0},
    .group = 32, .unpack = qi__unpack_iq4_xs, .quantize = qi__quantize_iq4_xs},
  [QI_FORMAT_TQ1_0] = {.info = {"TQ1_0", 34, 256, 54, true, 0},
    .group = 32, .ternary = true, .unpack = qi__unpack_tq1_0, .quantize = qi__quantize_tq1_0},
  [QI_FORMAT_TQ2_0] = {.info = {"TQ2_0", 35, 256, 66, true, 0},
    .group = 32, .ternary = true, .unpack = qi__unpack_tq2_0,
    .dequantize = qi__dequantize_tq2_0, .quantize = qi__quantize_tq2_0},
  [QI_FORMAT_MXFP4] = {.info = {"MXFP4", 39, 32, 17, false, 0}, .group = 32, .unpack = qi__unpack_mxfp4},
  [QI_FORMAT_I2_S] = {.info = {"I2_S", 36, 256, 64, true, QI__I2_S_TAIL},
    .group = 32, .ternary = true, .unpack = qi__unpack_i2_s, .dequantize = qi__dequantize_i2_s,
    .quantize_tensor = qi__quantize_tensor_i2_s, .read_tail = qi__read_tail_i2_s},
  [QI_FORMAT_QINS8] = {.info = {"QINS8", 0x51490001, 32, 36, true, QI__QINS_TAIL}, .dequantize = qi__dequantize_qins8,
    .quantize_tensor = qi__quantize_tensor_qins8, .read_tail = qi__read_tail_qins8},
  [QI_FORMAT_QINS8_K] = {.info = {"QINS8_K", 0x51490002, 256, 272, true, 0}, .group = 16, .wide = true,
    .unpack = qi__unpack_qins8_k, .quantize = qi__quantize_qins8_k},
  [QI_FORMAT_QINS4_K] = {.info = {"QINS4_K", 0x51490003, 256, 144, true, 0},
    .group = 16, .unpack = qi__unpack_qins4_k,
    .quantize = qi__quantize_qins4_k},
};
// clang-format on

// NULL when `format` is out of range or NONE.
QI__FN const qi__format *qi__format_get(qi_format format) {
  if ((int)format <= 0 || (int)format >= QI_FORMAT_COUNT) return NULL;
  return &qi__formats[format];
}

// Format of a type number in a GGUF file; QI_FORMAT_NONE when it is none of ours.
QI__FN qi_format qi__format_from_gguf(int id) {
  for (int f = QI_FORMAT_NONE + 1; f < QI_FORMAT_COUNT; f++)
    if (qi__formats[f].info.gguf_id == id) return (qi_format)f;
  return QI_FORMAT_NONE;
}

// Which row of the table; `f` may be bound.
QI__INLINE qi_format qi__format_id(const qi__format *f) { return (qi_format)((f->row ? f->row : f) - qi__formats); }

// Bytes of a row of n weights; 0 when the format is unknown, n is no multiple of the block length, or on overflow.
QI__FN size_t qi__row_bytes(qi_format format, size_t n) {
  const qi__format *f = qi__format_get(format);
  size_t bytes;
  if (!f || n % (size_t)f->info.block_len) return 0;
  if (!qi__mul_size(n / (size_t)f->info.block_len, (size_t)f->info.block_bytes, &bytes)) return 0;
  return bytes;
}

// Bytes of a whole tensor of n weights: its rows and its tail. 0 as above.
QI__FN size_t qi__format_bytes(qi_format format, size_t n) {
  size_t bytes = qi__row_bytes(format, n);
  return bytes && !qi__add_size(bytes, (size_t)qi__formats[format].info.tail_bytes, &bytes) ? 0 : bytes;
}

// ---- parameters of a tensor ----

// A row of the table for one tensor, with what its tail says. Must not be copied: format.values points into it.
typedef struct qi__bound {
  qi__format format;
  float values[256];
} qi__bound;

// `tail`: behind the rows of the tensor `name`; NULL = only the structure counts, weights are not looked at. Formats without a tail
// can be bound, too. Errors: QI_ERR_FORMAT.
QI__FN qi_result qi__format_bind(qi__bound *out, qi_format format, const uint8_t *tail, const char *name, qi_error *err) {
  out->format = qi__formats[format];
  out->format.row = &qi__formats[format];
  out->format.values = out->values;
  if (!out->format.read_tail || !tail) return QI_OK;
  float *param = out->format.param;
  const char *expected = out->format.read_tail(tail, param, out->values);
  if (!expected) return QI_OK;
  return qi__fail(err, QI_ERR_FORMAT, "%.96s: parameters of %s are %g, %g, expected %s", name, out->format.info.name,
                  (double)param[0], (double)param[1], expected);
}

// ---- dequantising ----

// Values of an unpacked block: the formula in block.h, each product rounded by itself.
QI__INLINE void qi__block_values(const qi__format *f, const qi__block *b, float *dst) {
  int len = f->info.block_len, group = f->group;
  bool has_min = f->has_min;
  for (int g = 0; g < len / group; g++) {
    float scale = b->d * (float)b->scale[g];
    float offset = has_min ? b->dmin * (float)b->min[g] : 0.0f;
    for (int i = g * group; i < (g + 1) * group; i++) {
      float product = scale * (float)qi__block_code(f, b, i);
      dst[i] = has_min ? product - offset : product;
    }
  }
}

// n weights (whole blocks) to float32; src at any alignment. `f`: bound, if the format has a tail.
QI__FN void qi__dequantize_blocks(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  if (f->dequantize) {
    f->dequantize(f, src, dst, n);
    return;
  }
  qi__block block;
  size_t len = (size_t)f->info.block_len;
  for (size_t i = 0; i + len <= n; i += len, src += f->info.block_bytes) {
    qi__unpack(f, src, &block);
    qi__block_values(f, &block, dst + i);
  }
}

// A whole tensor of n weights by name of the format, which must be one of the table. NaN where its tail is not sound.
QI__FN void qi__dequantize(qi_format format, const void *src, float *dst, size_t n) {
  const qi__format *f = &qi__formats[format];
  qi__bound bound;
  if (f->read_tail) {
    if (qi__format_bind(&bound, format, (const uint8_t *)src + qi__row_bytes(format, n), "", NULL)) {
      for (size_t i = 0; i < n; i++) dst[i] = qi__bits_f32(0x7fc00000u);
      return;
    }
    f = &bound.format;
  }
  qi__dequantize_blocks(f, (const uint8_t *)src, dst, n);
}

// ---- quantising ----

// A whole tensor [n_rows, n_cols] to qi__format_bytes(format, n_rows * n_cols) bytes. The format can be written; see qi_quantize.
QI__FN void qi__quantize(qi_format format, const float *src, uint8_t *dst, size_t n_rows, size_t n_cols, const float *importance) {
  const qi__format *f = &qi__formats[format];
  if (f->quantize_tensor) {
    f->quantize_tensor(src, dst, n_rows, n_cols, importance);
    return;
  }
  size_t row_bytes = qi__row_bytes(format, n_cols);
  for (size_t row = 0; row < n_rows; row++) f->quantize(src + row * n_cols, dst + row * row_bytes, n_cols, importance);
}

#endif // QI__FORMATS_TABLE_H

// SIMD forms of qi__dequantize_blocks with the same bits: of each block the scales as float32, then 32 integer codes at a time.
// `id` is a constant where these are inlined; QI_FORMAT_NONE stands for formats without a case, which their `unpack` takes apart.

#if defined(QI__X86_64)

// Of a block: w[i] = scale[i / group] * code[i] - offset[i / group].
typedef struct qi__block_scales {
  float scale[QI__BLOCK_MAX / 16], offset[QI__BLOCK_MAX / 16];
} qi__block_scales;

// ---- scales ----

QI__INLINE QI__AVX2 float qi__half_avx2(const uint8_t *src) { return _cvtsh_ss(qi__load_u16(src)); }

// Eight bytes times d.
QI__INLINE QI__AVX2 void qi__scale_bytes_avx2(uint64_t bytes, float d, float *out) {
  __m256i v = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(v)));
}

QI__INLINE QI__AVX2 void qi__scale_words_avx2(const int16_t *words, float d, float *out) {
  __m256i v = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)words));
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(v)));
}

// The layout of qi__unpack_scales_k4, four bytes at a time.
QI__INLINE QI__AVX2 void qi__scales_k4_avx2(const uint8_t *src, float d, float dmin, qi__block_scales *out) {
  uint32_t a = qi__load_u32(src), b = qi__load_u32(src + 4), c = qi__load_u32(src + 8);
  uint64_t scale = (a & 0x3f3f3f3fu) | (uint64_t)((c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u)) << 32;
  uint64_t min = (b & 0x3f3f3f3fu) | (uint64_t)((c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u)) << 32;
  qi__scale_bytes_avx2(scale, d, out->scale);
  qi__scale_bytes_avx2(min, dmin, out->offset);
}

// The layout of qi__unpack_seven_bits: a byte a group.
QI__INLINE QI__AVX2 __m128i qi__seven_bits_avx2(const uint8_t *src) {
  const __m128i byte = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m128i bit = _mm_set1_epi64x((long long)0x8040201008040201u);
  __m128i low = _mm_cvtsi64_si128((long long)qi__load_u64(src));
  __m128i v = _mm_and_si128(_mm_unpacklo_epi64(low, _mm_srli_epi16(low, 4)), _mm_set1_epi8(15));
  QI__UNROLL for (int p = 0; p < 3; p++) {
    __m128i plane = _mm_and_si128(_mm_shuffle_epi8(_mm_cvtsi32_si128(qi__load_u16(src + 8 + 2 * p)), byte), bit);
    v = _mm_or_si128(v, _mm_and_si128(_mm_cmpeq_epi8(plane, bit), _mm_set1_epi8((char)(16 << p))));
  }
  return v;
}

// QINS4_K: the signed scales of these.
QI__INLINE QI__AVX2 __m128i qi__qins4_scales_avx2(__m128i bits) {
  __m128i size = _mm_and_si128(bits, _mm_set1_epi8(31)), minus = _mm_slli_epi16(_mm_and_si128(bits, _mm_set1_epi8(32)), 2);
  return _mm_sign_epi8(size, _mm_or_si128(minus, _mm_set1_epi8(1))); // -127 or 1
}

// Of a format without a case: `block` is unpacked, too.
QI__INLINE QI__AVX2 void qi__scales_any_avx2(const qi__format *f, const uint8_t *src, qi__block *block, qi__block_scales *out) {
  qi__unpack(f, src, block);
  for (int g = 0; g < f->info.block_len / f->group; g++) {
    out->scale[g] = block->d * (float)block->scale[g];
    if (f->has_min) out->offset[g] = block->dmin * (float)block->min[g];
  }
}

QI__INLINE QI__AVX2 void qi__block_scales_avx2(qi_format id, const qi__format *f, const uint8_t *src, qi__block *block,
                                               qi__block_scales *out) {
  int16_t words[16];
  switch (id) {
  case QI_FORMAT_Q4_0:
  case QI_FORMAT_Q5_0:
  case QI_FORMAT_Q8_0:
  case QI_FORMAT_IQ4_NL: out->scale[0] = qi__half_avx2(src); break;
  case QI_FORMAT_MXFP4: out->scale[0] = qi__e8m0_half_to_f32(src[0]); break;
  case QI_FORMAT_Q4_1:
  case QI_FORMAT_Q5_1:
    out->scale[0] = qi__half_avx2(src);
    out->offset[0] = -qi__half_avx2(src + 2);
    break;
  case QI_FORMAT_Q2_K: {
    uint64_t low = qi__load_u64(src), high = qi__load_u64(src + 8), nibbles = 0x0f0f0f0f0f0f0f0fu;
    float d = qi__half_avx2(src + 80), dmin = qi__half_avx2(src + 82);
    qi__scale_bytes_avx2(low & nibbles, d, out->scale);
    qi__scale_bytes_avx2(high & nibbles, d, out->scale + 8);
    qi__scale_bytes_avx2(low >> 4 & nibbles, dmin, out->offset);
    qi__scale_bytes_avx2(high >> 4 & nibbles, dmin, out->offset + 8);
    break;
  }
  case QI_FORMAT_Q3_K:
    qi__unpack_scales_k3(src + 96, words);
    qi__scale_words_avx2(words, qi__half_avx2(src + 108), out->scale);
    qi__scale_words_avx2(words + 8, qi__half_avx2(src + 108), out->scale + 8);
    break;
  case QI_FORMAT_Q4_K:
  case QI_FORMAT_Q5_K: qi__scales_k4_avx2(src + 4, qi__half_avx2(src), qi__half_avx2(src + 2), out); break;
  case QI_FORMAT_Q6_K:
    for (int g = 0; g < 16; g++) words[g] = (int8_t)src[192 + g];
    qi__scale_words_avx2(words, qi__half_avx2(src + 208), out->scale);
    qi__scale_words_avx2(words + 8, qi__half_avx2(src + 208), out->scale + 8);
    break;
  case QI_FORMAT_IQ4_XS:
    for (int g = 0; g < 8; g++)
      words[g] = (int16_t)(((src[4 + g / 2] >> (g % 2 * 4) & 15) | (qi__load_u16(src + 2) >> (2 * g) & 3) << 4) - 32);
    qi__scale_words_avx2(words, qi__half_avx2(src), out->scale);
    break;
  case QI_FORMAT_TQ1_0: _mm256_storeu_ps(out->scale, _mm256_set1_ps(qi__half_avx2(src + 52))); break;
  case QI_FORMAT_TQ2_0: _mm256_storeu_ps(out->scale, _mm256_set1_ps(qi__half_avx2(src + 64))); break;
  case QI_FORMAT_I2_S: _mm256_storeu_ps(out->scale, _mm256_set1_ps(f->param[0])); break;
  case QI_FORMAT_QINS8_K:
  case QI_FORMAT_QINS4_K: {
    __m128i v = qi__seven_bits_avx2(src + 2);
    if (id == QI_FORMAT_QINS4_K) v = qi__qins4_scales_avx2(v);
    __m256 d = _mm256_set1_ps(qi__half_avx2(src) * 0x1p-10f);
    _mm256_storeu_ps(out->scale, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v))));
    _mm256_storeu_ps(out->scale + 8, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)))));
    break;
  }
  default: qi__scales_any_avx2(f, src, block, out); break;
  }
}

// ---- codes ----

QI__INLINE QI__AVX2 __m256i qi__bytes_avx2(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

// Bits shift..shift+n-1 of each byte.
QI__INLINE QI__AVX2 __m256i qi__bits_avx2(__m256i v, int shift, int n) {
  return _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8((char)((1 << n) - 1)));
}

// 16 bytes: the low nibbles, then the high ones.
QI__INLINE QI__AVX2 __m256i qi__nibbles_avx2(const uint8_t *p) {
  __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
  return _mm256_and_si256(_mm256_srlv_epi32(v, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)), _mm256_set1_epi8(15));
}

QI__INLINE QI__AVX2 __m256i qi__lookup_avx2(const int8_t *table, __m256i nibbles) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table)), nibbles);
}

// `value` where bit i of `bits` is set, for byte i.
QI__INLINE QI__AVX2 __m256i qi__spread_bits_avx2(uint32_t bits, int value) {
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
  __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte), bit);
  return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8((char)value));
}

// Bit `from` of each byte as bit `to`.
QI__INLINE QI__AVX2 __m256i qi__move_bit_avx2(__m256i v, int from, int to) {
  v = from < to ? _mm256_slli_epi16(v, to - from) : _mm256_srli_epi16(v, from - to);
  return _mm256_and_si256(v, _mm256_set1_epi8((char)(1 << to)));
}

// Low bytes of the products of bytes.
QI__INLINE QI__AVX2 __m256i qi__multiply_bytes_avx2(__m256i a, __m256i b) {
  __m256i even = _mm256_and_si256(_mm256_mullo_epi16(a, b), _mm256_set1_epi16(0xff));
  __m256i odd = _mm256_mullo_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
  return _mm256_or_si256(even, _mm256_slli_epi16(odd, 8));
}

// TQ1_0: digit n of a byte is floor(3 f / 256) of its fraction f times 3^n; that is 1 from 86 and 2 from 171 on.
QI__INLINE QI__AVX2 __m256i qi__digits_avx2(const uint8_t *src, int g) {
  static const uint8_t powers[5] = {1, 3, 9, 27, 81};
  __m256i bytes, times;
  if (g < 5) {
    bytes = qi__bytes_avx2(src);
    times = _mm256_set1_epi8((char)powers[g]);
  } else {
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)(src + 32));
    __m128i high = g < 7 ? low : _mm_set1_epi32((int)qi__load_u32(src + 48));
    __m128i times_high = _mm_setr_epi32(0x01010101, 0x03030303, 0x09090909, 0x1b1b1b1b); // rest: digit by digit
    if (g < 7) times_high = _mm_set1_epi8((char)powers[2 * (g - 5) + 1]);
    bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    times = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_set1_epi8((char)powers[2 * (g - 5)])), times_high, 1);
  }
  __m256i f = qi__multiply_bytes_avx2(bytes, times);
  __m256i from1 = _mm256_cmpeq_epi8(_mm256_max_epu8(f, _mm256_set1_epi8(86)), f);
  __m256i from2 = _mm256_cmpeq_epi8(_mm256_max_epu8(f, _mm256_set1_epi8((char)171)), f);
  return _mm256_sub_epi8(_mm256_set1_epi32(-1), _mm256_add_epi8(from1, from2));
}

// Codes of weights 32 g .. 32 g + 31 of a block as int8. `block`: unpacked, for formats without a case.
QI__INLINE QI__AVX2 __m256i qi__codes_avx2(qi_format id, const uint8_t *src, int g, const qi__block *block) {
  int half = g / 4, quarter = g % 4;
  switch (id) {
  case QI_FORMAT_Q4_0: return _mm256_sub_epi8(qi__nibbles_avx2(src + 2), _mm256_set1_epi8(8));
  case QI_FORMAT_Q4_1: return qi__nibbles_avx2(src + 4);
  case QI_FORMAT_Q5_0:
    return _mm256_sub_epi8(_mm256_or_si256(qi__nibbles_avx2(src + 6), qi__spread_bits_avx2(qi__load_u32(src + 2), 16)),
                           _mm256_set1_epi8(16));
  case QI_FORMAT_Q5_1: return _mm256_or_si256(qi__nibbles_avx2(src + 8), qi__spread_bits_avx2(qi__load_u32(src + 4), 16));
  case QI_FORMAT_Q8_0: return qi__bytes_avx2(src + 2);
  case QI_FORMAT_IQ4_NL: return qi__lookup_avx2(qi__iq4_values, qi__nibbles_avx2(src + 2));
  case QI_FORMAT_IQ4_XS: return qi__lookup_avx2(qi__iq4_values, qi__nibbles_avx2(src + 8 + 16 * g));
  case QI_FORMAT_MXFP4: return qi__lookup_avx2(qi__mxfp4_values, qi__nibbles_avx2(src + 1));
  case QI_FORMAT_Q2_K: return qi__bits_avx2(qi__bytes_avx2(src + 16 + 32 * half), 2 * quarter, 2);
  case QI_FORMAT_Q3_K:
    return _mm256_sub_epi8(_mm256_or_si256(qi__bits_avx2(qi__bytes_avx2(src + 32 + 32 * half), 2 * quarter, 2),
                                           qi__move_bit_avx2(qi__bytes_avx2(src), g, 2)),
                           _mm256_set1_epi8(4));
  case QI_FORMAT_Q4_K: return qi__bits_avx2(qi__bytes_avx2(src + 16 + 32 * (g / 2)), g % 2 * 4, 4);
  case QI_FORMAT_Q5_K:
    return _mm256_or_si256(qi__bits_avx2(qi__bytes_avx2(src + 48 + 32 * (g / 2)), g % 2 * 4, 4),
                           qi__move_bit_avx2(qi__bytes_avx2(src + 16), g, 4));
  case QI_FORMAT_Q6_K: {
    __m256i low = qi__bits_avx2(qi__bytes_avx2(src + 64 * half + 32 * (quarter % 2)), quarter / 2 * 4, 4);
    __m256i high = qi__bits_avx2(qi__bytes_avx2(src + 128 + 32 * half), 2 * quarter, 2);
    return _mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16(high, 4)), _mm256_set1_epi8(32));
  }
  case QI_FORMAT_TQ1_0: return qi__digits_avx2(src, g);
  case QI_FORMAT_TQ2_0:
    return _mm256_sub_epi8(qi__bits_avx2(qi__bytes_avx2(src + 32 * half), 2 * quarter, 2), _mm256_set1_epi8(1));
  case QI_FORMAT_I2_S:
    return _mm256_sub_epi8(qi__bits_avx2(qi__bytes_avx2(src + 32 * half), 6 - 2 * quarter, 2), _mm256_set1_epi8(1));
  case QI_FORMAT_QINS4_K: {
    __m256i tables = qi__bytes_avx2((const uint8_t *)qi__qins4_pairs[src[14 + g / 4] >> (2 * g % 8) & 3]); // t: the third plane
    return _mm256_shuffle_epi8(tables, qi__bits_avx2(qi__bytes_avx2(src + 16 + 32 * (g / 2)), g % 2 * 4, 4));
  }
  default: return qi__bytes_avx2((const uint8_t *)block->q + 32 * g);
  }
}

// ---- AVX2: to float32 ----

// Weights 32 g .. 32 g + 31 of a block.
QI__INLINE QI__AVX2 void qi__dequantize_part_avx2(qi_format id, const qi__format *f, const uint8_t *src, int g,
                                                  const qi__block *block, const qi__block_scales *s, float *dst) {
  __m256i codes = qi__codes_avx2(id, src, g, block);
  QI__UNROLL for (int e = 0; e < 4; e++) {
    int group = (32 * g + 8 * e) / f->group;
    __m128i part = e < 2 ? _mm256_castsi256_si128(codes) : _mm256_extracti128_si256(codes, 1);
    __m256 v = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(e % 2 ? _mm_srli_si128(part, 8) : part));
    v = _mm256_mul_ps(_mm256_broadcast_ss(&s->scale[group]), v);
    if (f->has_min) v = _mm256_sub_ps(v, _mm256_broadcast_ss(&s->offset[group]));
    _mm256_storeu_ps(dst + 8 * e, v);
  }
}

QI__INLINE QI__AVX2 void qi__dequantize_row_avx2(qi_format id, const qi__format *bound, const uint8_t *src, float *dst, size_t n) {
  const qi__format *f = id ? &qi__formats[id] : bound; // constants
  qi__block block;
  qi__block_scales s;
  int len = f->info.block_len;
  for (size_t i = 0; i < n; i += (size_t)len, src += f->info.block_bytes) {
    qi__block_scales_avx2(id, bound, src, &block, &s);
    if (id && len == 256) {
      QI__UNROLL for (int g = 0; g < 8; g++) qi__dequantize_part_avx2(id, f, src, g, &block, &s, dst + i + 32 * g);
    } else {
      for (int g = 0; g < len / 32; g++) qi__dequantize_part_avx2(id, f, src, g, &block, &s, dst + i + 32 * g);
    }
  }
}

// ---- logarithmic codes of eight bits ----

// The sizes of QINS8_K for 32 codes: of 128 bytes, each 16 answer where the upper bits of the code are theirs.
QI__INLINE QI__AVX2 __m256i qi__qins8_sizes_avx2(__m256i codes) {
  __m256i c = _mm256_and_si256(codes, _mm256_set1_epi8(127)), sizes = _mm256_setzero_si256();
  QI__UNROLL for (int h = 0; h < 8; h++) {
    const uint8_t *table = qi__qins8_sizes + 16 * h;
    __m256i at = _mm256_adds_epu8(_mm256_xor_si256(c, _mm256_set1_epi8((char)(16 * h))), _mm256_set1_epi8(0x70)); // or 128 and more
    sizes = _mm256_or_si256(sizes, qi__lookup_avx2((const int8_t *)table, at));
  }
  return sizes;
}

// Weights 8 e .. 8 e + 7 of 32 sizes, with the signs of the codes.
QI__INLINE QI__AVX2 __m256 qi__signed_sizes_avx2(__m256i sizes, __m256i codes, int e) {
  __m128i size = e < 2 ? _mm256_castsi256_si128(sizes) : _mm256_extracti128_si256(sizes, 1);
  __m128i code = e < 2 ? _mm256_castsi256_si128(codes) : _mm256_extracti128_si256(codes, 1);
  if (e % 2) size = _mm_srli_si128(size, 8), code = _mm_srli_si128(code, 8);
  return _mm256_cvtepi32_ps(_mm256_sign_epi32(_mm256_cvtepu8_epi32(size), _mm256_cvtepi8_epi32(code)));
}

QI__FN QI__AVX2 void qi__dequantize_qins8_k_avx2(const uint8_t *src, float *dst, size_t n) {
  qi__block_scales s;
  for (size_t i = 0; i < n; i += 256, src += 272) {
    qi__block_scales_avx2(QI_FORMAT_QINS8_K, NULL, src, NULL, &s);
    for (int g = 0; g < 8; g++) {
      __m256i codes = qi__bytes_avx2(src + 16 + 32 * g), sizes = qi__qins8_sizes_avx2(codes);
      QI__UNROLL for (int e = 0; e < 4; e++) {
        __m256 v = _mm256_mul_ps(_mm256_broadcast_ss(&s.scale[2 * g + e / 2]), qi__signed_sizes_avx2(sizes, codes, e));
        _mm256_storeu_ps(dst + i + (size_t)(32 * g + 8 * e), v);
      }
    }
  }
}

// Eight weights of QINS8 from their codes and, in the lowest bits, their signs.
QI__INLINE QI__AVX2 __m256 qi__qins8_avx2(const float *values, const uint8_t *codes, uint32_t signs) {
  __m256i at = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)codes));
  __m256i minus = _mm256_sllv_epi32(_mm256_set1_epi32((int)signs), _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
  minus = _mm256_and_si256(minus, _mm256_set1_epi32((int)0x80000000u));
  return _mm256_xor_ps(_mm256_i32gather_ps(values, at, 4), _mm256_castsi256_ps(minus));
}

QI__FN QI__AVX2 void qi__dequantize_qins8_avx2(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  for (size_t i = 0; i < n; i += 32, src += 36) {
    uint32_t signs = qi__load_u32(src);
    QI__UNROLL for (int e = 0; e < 4; e++)
      _mm256_storeu_ps(dst + i + 8 * e, qi__qins8_avx2(f->values, src + 4 + 8 * e, signs >> 8 * e));
  }
}

// Quantised formats; `f` is a row of the table, or bound.
QI__FN QI__AVX2 void qi__dequantize_avx2(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  switch (qi__format_id(f)) {
  case QI_FORMAT_Q4_0: qi__dequantize_row_avx2(QI_FORMAT_Q4_0, f, src, dst, n); break;
  case QI_FORMAT_Q4_1: qi__dequantize_row_avx2(QI_FORMAT_Q4_1, f, src, dst, n); break;
  case QI_FORMAT_Q5_0: qi__dequantize_row_avx2(QI_FORMAT_Q5_0, f, src, dst, n); break;
  case QI_FORMAT_Q5_1: qi__dequantize_row_avx2(QI_FORMAT_Q5_1, f, src, dst, n); break;
  case QI_FORMAT_Q8_0: qi__dequantize_row_avx2(QI_FORMAT_Q8_0, f, src, dst, n); break;
  case QI_FORMAT_Q2_K: qi__dequantize_row_avx2(QI_FORMAT_Q2_K, f, src, dst, n); break;
  case QI_FORMAT_Q3_K: qi__dequantize_row_avx2(QI_FORMAT_Q3_K, f, src, dst, n); break;
  case QI_FORMAT_Q4_K: qi__dequantize_row_avx2(QI_FORMAT_Q4_K, f, src, dst, n); break;
  case QI_FORMAT_Q5_K: qi__dequantize_row_avx2(QI_FORMAT_Q5_K, f, src, dst, n); break;
  case QI_FORMAT_Q6_K: qi__dequantize_row_avx2(QI_FORMAT_Q6_K, f, src, dst, n); break;
  case QI_FORMAT_IQ4_NL: qi__dequantize_row_avx2(QI_FORMAT_IQ4_NL, f, src, dst, n); break;
  case QI_FORMAT_IQ4_XS: qi__dequantize_row_avx2(QI_FORMAT_IQ4_XS, f, src, dst, n); break;
  case QI_FORMAT_TQ1_0: qi__dequantize_row_avx2(QI_FORMAT_TQ1_0, f, src, dst, n); break;
  case QI_FORMAT_TQ2_0: qi__dequantize_row_avx2(QI_FORMAT_TQ2_0, f, src, dst, n); break;
  case QI_FORMAT_MXFP4: qi__dequantize_row_avx2(QI_FORMAT_MXFP4, f, src, dst, n); break;
  case QI_FORMAT_I2_S: qi__dequantize_row_avx2(QI_FORMAT_I2_S, f, src, dst, n); break;
  case QI_FORMAT_QINS4_K: qi__dequantize_row_avx2(QI_FORMAT_QINS4_K, f, src, dst, n); break;
  case QI_FORMAT_QINS8_K: qi__dequantize_qins8_k_avx2(src, dst, n); break;
  case QI_FORMAT_QINS8: qi__dequantize_qins8_avx2(f, src, dst, n); break;
  default: qi__dequantize_row_avx2(QI_FORMAT_NONE, f, src, dst, n); break;
  }
}

QI__FN QI__AVX2 void qi__dequantize_f16_avx2(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i))));
  qi__dequantize_blocks(f, src + 2 * i, dst + i, n - i);
}

QI__FN QI__AVX2 void qi__dequantize_bf16_avx2(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i)));
    _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)));
  }
  qi__dequantize_blocks(f, src + 2 * i, dst + i, n - i);
}

QI__FN void qi__dequantize_f32_x86(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  memcpy(dst, src, n * sizeof *dst); // little-endian
}

// ---- AVX512-BF16: to bfloat16 ----

#if defined(QI__HAS_AVX512_BF16)

// 32 float32 as bfloat16, rounded to nearest even. Unlike qi__f32_to_bf16 this makes zeros of subnormals.
QI__INLINE QI__AVX512_BF16 void qi__store_bf16_avx512(uint16_t *dst, __m512 low, __m512 high) {
  _mm512_storeu_si512((void *)dst, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// Weights 32 g .. 32 g + 31 of a block.
QI__INLINE QI__AVX512_BF16 void qi__part_to_bf16_avx512(qi_format id, const qi__format *f, const uint8_t *src, int g,
                                                        const qi__block *block, const qi__block_scales *s, uint16_t *dst) {
  __m256i codes = qi__codes_avx2(id, src, g, block);
  __m512 v[2];
  v[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)));
  v[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)));
  QI__UNROLL for (int e = 0; e < 2; e++) {
    int group = (32 * g + 16 * e) / f->group;
    v[e] = _mm512_mul_ps(_mm512_set1_ps(s->scale[group]), v[e]);
    if (f->has_min) v[e] = _mm512_sub_ps(v[e], _mm512_set1_ps(s->offset[group]));
  }
  qi__store_bf16_avx512(dst, v[0], v[1]);
}

QI__INLINE QI__AVX512_BF16 void qi__row_to_bf16_avx512(qi_format id, const qi__format *bound, const uint8_t *src, size_t n,
                                                       uint16_t *dst) {
  const qi__format *f = id ? &qi__formats[id] : bound; // constants
  qi__block block;
  qi__block_scales s;
  int len = f->info.block_len;
  for (size_t i = 0; i < n; i += (size_t)len, src += f->info.block_bytes) {
    qi__block_scales_avx2(id, bound, src, &block, &s);
    if (id && len == 256) {
      QI__UNROLL for (int g = 0; g < 8; g++) qi__part_to_bf16_avx512(id, f, src, g, &block, &s, dst + i + 32 * g);
    } else {
      for (int g = 0; g < len / 32; g++) qi__part_to_bf16_avx512(id, f, src, g, &block, &s, dst + i + 32 * g);
    }
  }
}

// Float formats. Reads nothing beyond n, writes up to the next multiple of 32.
QI__INLINE QI__AVX512_BF16 void qi__floats_to_bf16_avx512(qi_format id, const uint8_t *src, size_t n, uint16_t *dst) {
  for (size_t i = 0; i < n; i += 32) {
    __m512 v[2];
    QI__UNROLL for (int e = 0; e < 2; e++) {
      size_t at = i + (size_t)(16 * e);
      __mmask16 mask = at < n ? qi__tail_mask_avx512(n - at) : 0;
      if (id == QI_FORMAT_F32) v[e] = _mm512_maskz_loadu_ps(mask, src + 4 * at);
      else v[e] = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, src + 2 * at));
    }
    qi__store_bf16_avx512(dst + i, v[0], v[1]);
  }
}

// Lanes e of 32 weights, eight each, as bfloat16.
QI__INLINE QI__AVX512_BF16 void qi__lanes_to_bf16_avx512(const __m256 *v, uint16_t *dst) {
  qi__store_bf16_avx512(dst, _mm512_insertf32x8(_mm512_castps256_ps512(v[0]), v[1], 1),
                        _mm512_insertf32x8(_mm512_castps256_ps512(v[2]), v[3], 1));
}

QI__FN QI__AVX512_BF16 void qi__qins8_k_to_bf16_avx512(const uint8_t *src, size_t n, uint16_t *dst) {
  qi__block_scales s;
  for (size_t i = 0; i < n; i += 256, src += 272) {
    qi__block_scales_avx2(QI_FORMAT_QINS8_K, NULL, src, NULL, &s);
    for (int g = 0; g < 8; g++) {
      __m256i codes = qi__bytes_avx2(src + 16 + 32 * g), sizes = qi__qins8_sizes_avx2(codes);
      __m256 v[4];
      QI__UNROLL for (int e = 0; e < 4; e++)
        v[e] = _mm256_mul_ps(_mm256_broadcast_ss(&s.scale[2 * g + e / 2]), qi__signed_sizes_avx2(sizes, codes, e));
      qi__lanes_to_bf16_avx512(v, dst + i + 32 * g);
    }
  }
}

QI__FN QI__AVX512_BF16 void qi__qins8_to_bf16_avx512(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst) {
  for (size_t i = 0; i < n; i += 32, src += 36) {
    uint32_t signs = qi__load_u32(src);
    __m256 v[4];
    QI__UNROLL for (int e = 0; e < 4; e++) v[e] = qi__qins8_avx2(f->values, src + 4 + 8 * e, signs >> 8 * e);
    qi__lanes_to_bf16_avx512(v, dst + i);
  }
}

// n weights, whole blocks, as bfloat16; `f` is a row of the table, or bound; dst has room for the next multiple of 32.
QI__FN QI__AVX512_BF16 void qi__to_bf16_avx512(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst) {
  switch (qi__format_id(f)) {
  case QI_FORMAT_F32: qi__floats_to_bf16_avx512(QI_FORMAT_F32, src, n, dst); break;
  case QI_FORMAT_F16: qi__floats_to_bf16_avx512(QI_FORMAT_F16, src, n, dst); break;
  case QI_FORMAT_BF16: memcpy(dst, src, 2 * n); break;
  case QI_FORMAT_Q4_0: qi__row_to_bf16_avx512(QI_FORMAT_Q4_0, f, src, n, dst); break;
  case QI_FORMAT_Q4_1: qi__row_to_bf16_avx512(QI_FORMAT_Q4_1, f, src, n, dst); break;
  case QI_FORMAT_Q5_0: qi__row_to_bf16_avx512(QI_FORMAT_Q5_0, f, src, n, dst); break;
  case QI_FORMAT_Q5_1: qi__row_to_bf16_avx512(QI_FORMAT_Q5_1, f, src, n, dst); break;
  case QI_FORMAT_Q8_0: qi__row_to_bf16_avx512(QI_FORMAT_Q8_0, f, src, n, dst); break;
  case QI_FORMAT_Q2_K: qi__row_to_bf16_avx512(QI_FORMAT_Q2_K, f, src, n, dst); break;
  case QI_FORMAT_Q3_K: qi__row_to_bf16_avx512(QI_FORMAT_Q3_K, f, src, n, dst); break;
  case QI_FORMAT_Q4_K: qi__row_to_bf16_avx512(QI_FORMAT_Q4_K, f, src, n, dst); break;
  case QI_FORMAT_Q5_K: qi__row_to_bf16_avx512(QI_FORMAT_Q5_K, f, src, n, dst); break;
  case QI_FORMAT_Q6_K: qi__row_to_bf16_avx512(QI_FORMAT_Q6_K, f, src, n, dst); break;
  case QI_FORMAT_IQ4_NL: qi__row_to_bf16_avx512(QI_FORMAT_IQ4_NL, f, src, n, dst); break;
  case QI_FORMAT_IQ4_XS: qi__row_to_bf16_avx512(QI_FORMAT_IQ4_XS, f, src, n, dst); break;
  case QI_FORMAT_TQ1_0: qi__row_to_bf16_avx512(QI_FORMAT_TQ1_0, f, src, n, dst); break;
  case QI_FORMAT_TQ2_0: qi__row_to_bf16_avx512(QI_FORMAT_TQ2_0, f, src, n, dst); break;
  case QI_FORMAT_MXFP4: qi__row_to_bf16_avx512(QI_FORMAT_MXFP4, f, src, n, dst); break;
  case QI_FORMAT_I2_S: qi__row_to_bf16_avx512(QI_FORMAT_I2_S, f, src, n, dst); break;
  case QI_FORMAT_QINS4_K: qi__row_to_bf16_avx512(QI_FORMAT_QINS4_K, f, src, n, dst); break;
  case QI_FORMAT_QINS8_K: qi__qins8_k_to_bf16_avx512(src, n, dst); break;
  case QI_FORMAT_QINS8: qi__qins8_to_bf16_avx512(f, src, n, dst); break;
  default: qi__row_to_bf16_avx512(QI_FORMAT_NONE, f, src, n, dst); break;
  }
}
#endif
#endif

#endif // QI__KERNELS_DEQUANT_H
// generated from src/kernels/tiles.h: edit there
// ==== >>tiles : AMX tiles ====
#ifndef QI__KERNELS_TILES_H
#define QI__KERNELS_TILES_H


#if defined(QI__HAS_AMX)

// Tiles: 0..3 sums (activation half, weight half), 4 5 activations, 6 7 weights, each up to 16 rows of 64 bytes.
typedef struct qi__tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} qi__tile_config;

// The compiler must have written memory before tiles are loaded, and read it after they are stored: GCC's intrinsics do not say so.
#define QI__TILE_BARRIER() __asm__ volatile("" ::: "memory")

// For n <= 32 rows of activations: what is loaded and stored ends with them. Without rows 16.. their tiles must not be used.
QI__FN qi__tile_config qi__tile_config_of(size_t n) {
  static const uint8_t half[8] = {0, 0, 1, 1, 0, 1, 2, 2}; // 2: weights
  const uint8_t rows[3] = {(uint8_t)qi__min_size(n, 16), (uint8_t)(n > 16 ? n - 16 : 0), 16};
  qi__tile_config config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int t = 0; t < 8; t++) {
    config.rows[t] = rows[half[t]];
    config.row_bytes[t] = config.rows[t] ? 64 : 0;
  }
  return config;
}

QI__INLINE QI__AMX void qi__tiles_begin(size_t n) {
  qi__tile_config config = qi__tile_config_of(n);
  __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
#endif

#endif // QI__KERNELS_TILES_H

// The BF16 path on CPUs that multiply bfloat16: weights and activations are rounded to bfloat16, products are exact, sums are
// float32. Without such instructions the rounded values go through qi__dot_float_fn, which is the reference.
//
//   y[i, r] = sum_j w[r, j] * x[i, j]
//
// Weight rows are unpacked 32 at a time, a slice of k at a time, into a panel that stays in the second-level cache while all rows
// of activations pass it. Sums go on in y from one slice to the next. Each is a chain of its own over ascending k, so bits do not
// depend on the rows beside it, on slices or on threads; they do depend on the instruction set, since the instructions differ in
// the order inside their step and take subnormals for zeros. Of k additions, each off by at most half a unit:
//
//   |y - exact| <= k * 2^-24 / (1 - k * 2^-24) * sum_j |w[r, j] * x[i, j]| + k * 2^-126 * (1 + max |w| + max |x|)
//
// (Higham 2002, section 3.1; the last term is what is lost with subnormal inputs, products and sums.)
//
//   panel:       [2][k / 2][16][2]            two blocks of 16 weight rows; pairs of k beside each other
//   activations: [n / 16][k / 32][16][32]     tiles of 16 rows of 64 bytes: a row fills cache lines that no other thread writes
//
// k is rounded up to a multiple of 32 with zeros in both; weight rows that are not there are zeros, activation rows whatever is in
// memory: no other row sees them.

#define QI__BF16_ROWS 32   // weight rows of a panel
#define QI__BF16_SLICE_MAX 2048 // largest slice of k
#define QI__BF16_STEP 256  // weights of a row that are unpacked at a time: the longest block
#define QI__BF16_STRIDE (QI__BF16_STEP + 32) // of rows that are unpacked: not all into the same cache set

QI__INLINE size_t qi__bf16_width(size_t k) { return (k + 31) / 32 * 32; }

typedef struct qi__bf16_args {
  const uint16_t *panel;
  size_t n_w, n_k;   // weight rows in the panel; its width, a multiple of 32
  const uint16_t *x; // first tile of the slice
  size_t x_stride;   // elements from 16 rows of activations to the next 16
  size_t x_row, n_x;
  bool first;        // slice: y is set, later ones add to it
  float *y;          // [n_x, n_w]
  size_t y_stride;
} qi__bf16_args;

// `multiply` is NULL where there are no instructions.
typedef struct qi__bf16_kernels {
  size_t slice; // of k, a multiple of QI__BF16_STEP
  void (*pack)(const float *x, size_t k, uint16_t *packed, size_t row);
  void (*unpack)(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst);
  void (*interleave)(const uint16_t *rows, size_t n_k, uint16_t *panel);
  void (*multiply)(const qi__bf16_args *a);
} qi__bf16_kernels;

// First element of row `row` in packed activations of width k.
QI__INLINE size_t qi__bf16_row(size_t k, size_t row) { return row / 16 * 16 * qi__bf16_width(k) + row % 16 * 32; }

#if defined(QI__HAS_AVX512_BF16)

// ---- layout ----

// Row `row` of packed activations.
QI__FN QI__AVX512_BF16 void qi__bf16_pack_avx512(const float *x, size_t k, uint16_t *packed, size_t row) {
  uint16_t *dst = packed + qi__bf16_row(k, row);
  for (size_t j = 0; j < k; j += 32, dst += 512) {
    __m512 low = _mm512_maskz_loadu_ps(qi__tail_mask_avx512(k - j), x + j), high = _mm512_setzero_ps();
    if (k - j > 16) high = _mm512_maskz_loadu_ps(qi__tail_mask_avx512(k - j - 16), x + j + 16);
    qi__store_bf16_avx512(dst, low, high);
  }
}

// Transposes pairs: panel[p][r] = rows[r][p] for 16 rows, QI__BF16_STRIDE apart, of n_k / 2 pairs.
QI__FN QI__AVX512 void qi__bf16_interleave_avx512(const uint16_t *rows, size_t n_k, uint16_t *panel) {
  for (size_t j = 0; j < n_k; j += 32, rows += 32, panel += 512) {
    __m512i a[16], b[16];
    QI__UNROLL for (int r = 0; r < 16; r++) a[r] = _mm512_loadu_si512((const void *)(rows + r * QI__BF16_STRIDE));
    QI__UNROLL for (int r = 0; r < 16; r += 2) {
      b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
      b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
    }
    // a[4i + c], 128-bit lane l: pair 4l + c of rows 4i .. 4i + 3
    QI__UNROLL for (int r = 0; r < 16; r += 4) {
      a[r] = _mm512_unpacklo_epi64(b[r], b[r + 2]);
      a[r + 1] = _mm512_unpackhi_epi64(b[r], b[r + 2]);
      a[r + 2] = _mm512_unpacklo_epi64(b[r + 1], b[r + 3]);
      a[r + 3] = _mm512_unpackhi_epi64(b[r + 1], b[r + 3]);
    }
    QI__UNROLL for (int c = 0; c < 4; c++) {
      __m512i even0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), even1 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
      __m512i odd0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd), odd1 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
      _mm512_storeu_si512((void *)(panel + 32 * c), _mm512_shuffle_i32x4(even0, even1, 0x88));
      _mm512_storeu_si512((void *)(panel + 32 * (c + 4)), _mm512_shuffle_i32x4(odd0, odd1, 0x88));
      _mm512_storeu_si512((void *)(panel + 32 * (c + 8)), _mm512_shuffle_i32x4(even0, even1, 0xdd));
      _mm512_storeu_si512((void *)(panel + 32 * (c + 12)), _mm512_shuffle_i32x4(odd0, odd1, 0xdd));
    }
  }
}

// ---- AVX512-BF16 ----

// n <= 8 activation rows of one tile, the first at `x`; n is a constant where this is inlined. The lanes are weight rows.
QI__INLINE QI__AVX512_BF16 void qi__bf16_rows_avx512(const qi__bf16_args *a, const uint16_t *x, int n, float *y) {
  const uint16_t *w = a->panel, *w_end = w + a->n_k * 16;
  const size_t second = a->n_k * 16; // block of 16 weight rows
  __mmask16 mask[2] = {qi__tail_mask_avx512(a->n_w), a->n_w > 16 ? qi__tail_mask_avx512(a->n_w - 16) : (__mmask16)0};
  __m512 sum[8][2];
  QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int b = 0; b < 2; b++)
    sum[i][b] = a->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask[b], y + (size_t)i * a->y_stride + 16 * b);
  for (; w < w_end; x += 480)
    for (int pair = 0; pair < 16; pair++, w += 32, x += 2) {
      __m512bh w0 = (__m512bh)_mm512_loadu_si512((const void *)w), w1 = (__m512bh)_mm512_loadu_si512((const void *)(w + second));
      QI__UNROLL for (int i = 0; i < n; i++) {
        int both;
        memcpy(&both, x + 32 * i, sizeof both);
        __m512bh v = (__m512bh)_mm512_set1_epi32(both);
        sum[i][0] = _mm512_dpbf16_ps(sum[i][0], w0, v);
        sum[i][1] = _mm512_dpbf16_ps(sum[i][1], w1, v);
      }
    }
  QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int b = 0; b < 2; b++)
    _mm512_mask_storeu_ps(y + (size_t)i * a->y_stride + 16 * b, mask[b], sum[i][b]);
}

QI__FN QI__AVX512_BF16 void qi__bf16_multiply_avx512(const qi__bf16_args *a) {
  for (size_t i = 0; i < a->n_x;) {
    size_t row = a->x_row + i, n = qi__min_size(a->n_x - i, 16 - row % 16);
    const uint16_t *x = a->x + row / 16 * a->x_stride + row % 16 * 32;
    float *y = a->y + i * a->y_stride;
    n = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
    if (n == 8) qi__bf16_rows_avx512(a, x, 8, y);
    else if (n == 4) qi__bf16_rows_avx512(a, x, 4, y);
    else if (n == 2) qi__bf16_rows_avx512(a, x, 2, y);
    else qi__bf16_rows_avx512(a, x, 1, y);
    i += n;
  }
}

static const qi__bf16_kernels qi__bf16_avx512 = {QI__BF16_SLICE_MAX, qi__bf16_pack_avx512, qi__to_bf16_avx512,
                                                 qi__bf16_interleave_avx512, qi__bf16_multiply_avx512};
#endif

// ---- AMX ----

#if defined(QI__HAS_AMX)

// 16 activation rows, or 32 if `two`, times 16 weight rows of the panel, or 32 if `wide`. c: sums, rows c_stride floats apart.
QI__INLINE QI__AMX void qi__tiles_multiply(const qi__bf16_args *a, const uint16_t *x, bool two, bool wide, float *c,
                                           size_t c_stride) {
  const uint16_t *w = a->panel, *w_end = w + a->n_k * 16, *x1 = two ? x + a->x_stride : x;
  const size_t second = a->n_k * 16, bytes = c_stride * sizeof *c;
  float *c1 = c + 16 * c_stride;
  QI__TILE_BARRIER();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (!a->first) {
    _tile_loadd(0, c, bytes);
    if (wide) _tile_loadd(1, c + 16, bytes);
    if (two) _tile_loadd(2, c1, bytes);
    if (two && wide) _tile_loadd(3, c1 + 16, bytes);
  }
  for (; w < w_end; w += 512, x += 512, x1 += 512) {
    _tile_loadd(4, x, 64);
    _tile_loadd(6, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (wide) {
      _tile_loadd(7, w + second, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (two) {
      _tile_loadd(5, x1, 64);
      _tile_dpbf16ps(2, 5, 6);
      if (wide) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, bytes);
  if (wide) _tile_stored(1, c + 16, bytes);
  if (two) _tile_stored(2, c1, bytes);
  if (two && wide) _tile_stored(3, c1 + 16, bytes);
  QI__TILE_BARRIER();
}

// Between y and sums [32, 32] of tiles that reach beyond it: the rows that y has, of those from `row` on.
QI__INLINE QI__AMX void qi__tiles_copy(const qi__bf16_args *a, size_t row, float *sums, bool to_y) {
  __mmask16 mask[2] = {qi__tail_mask_avx512(a->n_w), a->n_w > 16 ? qi__tail_mask_avx512(a->n_w - 16) : (__mmask16)0};
  for (size_t i = 0; i < 32; i++, sums += 32) {
    if (row + i < a->x_row || row + i >= a->x_row + a->n_x) continue;
    float *y = a->y + (row + i - a->x_row) * a->y_stride;
    for (int b = 0; b < 2; b++) {
      if (to_y) _mm512_mask_storeu_ps(y + 16 * b, mask[b], _mm512_loadu_ps(sums + 16 * b));
      else _mm512_storeu_ps(sums + 16 * b, _mm512_maskz_loadu_ps(mask[b], y + 16 * b));
    }
  }
}

// Rows of activations go 32 or 16 at a time from a multiple of 16 on; sums of rows that are not asked for are thrown away.
QI__FN QI__AMX void qi__bf16_multiply_amx(const qi__bf16_args *a) {
  float sums[32 * 32];
  size_t end = a->x_row + a->n_x;
  bool wide = a->n_w > 16;
  memset(sums, 0, sizeof sums);
  qi__tiles_begin(32);
  for (size_t row = a->x_row / 16 * 16; row < end; row += 32) {
    const uint16_t *x = a->x + row / 16 * a->x_stride;
    bool two = end - row > 16;
    if (row >= a->x_row && row + (two ? 32 : 16) <= end && a->n_w % 16 == 0) {
      qi__tiles_multiply(a, x, two, wide, a->y + (row - a->x_row) * a->y_stride, a->y_stride);
    } else {
      if (!a->first) qi__tiles_copy(a, row, sums, false);
      qi__tiles_multiply(a, x, two, wide, sums, 32);
      qi__tiles_copy(a, row, sums, true);
    }
  }
  _tile_release();
}

// A slice of 512 leaves room in the first-level cache beside a panel of 32 KB.
static const qi__bf16_kernels qi__bf16_amx = {512, qi__bf16_pack_avx512, qi__to_bf16_avx512, qi__bf16_interleave_avx512,
                                              qi__bf16_multiply_amx};
#endif

#endif // QI__KERNELS_BF16_H
// generated from src/kernels/bf16_neon.h: edit there
// ==== >>bf16_neon : products of bfloat16 panels with bfmmla ====
#ifndef QI__KERNELS_BF16_NEON_H
#define QI__KERNELS_BF16_NEON_H

// generated from src/kernels/dequant_neon.h: edit there
// ==== >>dequant_neon : packed weights to float32 with NEON ====
#ifndef QI__KERNELS_DEQUANT_NEON_H
#define QI__KERNELS_DEQUANT_NEON_H


#if defined(QI__ARM64)

// Blocks are taken apart in registers: their scales, then 32 integer codes at a time. Dequantisation here and the integer products
// in dot_q8_neon.h start from these. `id` is a constant where they are inlined; QI_FORMAT_NONE stands for formats without a case,
// which their `unpack` takes apart.

// X(name, id) for all formats with a case; ternary ones have integer products of their own (dot_ternary_neon.h).
#define QI__NEON_BLOCK_FORMATS(X) \
  X(q4_0, QI_FORMAT_Q4_0) \
  X(q4_1, QI_FORMAT_Q4_1) \
  X(q5_0, QI_FORMAT_Q5_0) \
  X(q5_1, QI_FORMAT_Q5_1) \
  X(q8_0, QI_FORMAT_Q8_0) \
  X(q2_k, QI_FORMAT_Q2_K) \
  X(q3_k, QI_FORMAT_Q3_K) \
  X(q4_k, QI_FORMAT_Q4_K) \
  X(q5_k, QI_FORMAT_Q5_K) \
  X(q6_k, QI_FORMAT_Q6_K) \
  X(iq4_nl, QI_FORMAT_IQ4_NL) \
  X(iq4_xs, QI_FORMAT_IQ4_XS) \
  X(mxfp4, QI_FORMAT_MXFP4) \
  X(qins4_k, QI_FORMAT_QINS4_K)
#define QI__NEON_FORMATS(X) \
  QI__NEON_BLOCK_FORMATS(X) \
  X(tq1_0, QI_FORMAT_TQ1_0) \
  X(tq2_0, QI_FORMAT_TQ2_0) \
  X(i2_s, QI_FORMAT_I2_S)

// Row of the table, a constant, for formats with a case.
QI__INLINE const qi__format *qi__format_neon(qi_format id, const qi__format *bound) { return id ? &qi__formats[id] : bound; }

// ---- scales ----

// Of a block: w[i] = (d * scale[i / 16]) * code[i] - dmin * min[i / 16], also where a group has 32 codes. Formats with one scale a
// block leave `scale` and `min` out: they are 1.
typedef struct qi__scales_neon {
  float d, dmin;
  int32_t scale[QI__BLOCK_MAX / 16];
  int16_t min[QI__BLOCK_MAX / 16];
} qi__scales_neon;

QI__INLINE bool qi__one_scale_neon(qi_format id) {
  return id && (qi__formats[id].info.block_len == 32 || id == QI_FORMAT_TQ1_0 || id == QI_FORMAT_TQ2_0 || id == QI_FORMAT_I2_S);
}

QI__INLINE float qi__half_neon(const uint8_t *src) {
  float16_t h;
  memcpy(&h, src, sizeof h);
  return (float)h;
}

QI__INLINE void qi__set_scales_neon(qi__scales_neon *s, int16x8_t low, int16x8_t high) {
  vst1q_s32(s->scale, vmovl_s16(vget_low_s16(low)));
  vst1q_s32(s->scale + 4, vmovl_high_s16(low));
  vst1q_s32(s->scale + 8, vmovl_s16(vget_low_s16(high)));
  vst1q_s32(s->scale + 12, vmovl_high_s16(high));
}
// 16 scales as bytes.
QI__INLINE void qi__set_scales16_neon(qi__scales_neon *s, int8x16_t scale) {
  qi__set_scales_neon(s, vmovl_s8(vget_low_s8(scale)), vmovl_high_s8(scale));
}
// 8 scales, of groups of 32.
QI__INLINE void qi__set_scales32_neon(qi__scales_neon *s, int16x8_t scale) {
  qi__set_scales_neon(s, vzip1q_s16(scale, scale), vzip2q_s16(scale, scale));
}

QI__INLINE int16x8_t qi__bytes_to_words_neon(uint64_t bytes) { return vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(bytes))); }

QI__INLINE void qi__scales_q2_k_neon(const uint8_t *src, qi__scales_neon *s) {
  uint8x16_t v = vld1q_u8(src), min = vshrq_n_u8(v, 4);
  qi__set_scales16_neon(s, vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15))));
  vst1q_s16(s->min, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(min))));
  vst1q_s16(s->min + 8, vreinterpretq_s16_u16(vmovl_high_u8(min)));
}

// The layout of qi__unpack_scales_k3, four bytes at a time.
QI__INLINE void qi__scales_k3_neon(const uint8_t *src, qi__scales_neon *s) {
  const uint32_t low = 0x0f0f0f0fu, top = 0x30303030u;
  uint32_t a = qi__load_u32(src), b = qi__load_u32(src + 4), c = qi__load_u32(src + 8);
  uint64_t first = ((a & low) | (c << 4 & top)) | (uint64_t)((b & low) | (c << 2 & top)) << 32;
  uint64_t second = ((a >> 4 & low) | (c & top)) | (uint64_t)((b >> 4 & low) | (c >> 2 & top)) << 32;
  qi__set_scales16_neon(s, vsubq_s8(vcombine_s8(vcreate_s8(first), vcreate_s8(second)), vdupq_n_s8(32)));
}

// The layout of qi__unpack_scales_k4, four bytes at a time.
QI__INLINE void qi__scales_k4_neon(const uint8_t *src, qi__scales_neon *s) {
  uint32_t a = qi__load_u32(src), b = qi__load_u32(src + 4), c = qi__load_u32(src + 8);
  uint64_t scale = (a & 0x3f3f3f3fu) | (uint64_t)((c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u)) << 32;
  uint64_t min = (b & 0x3f3f3f3fu) | (uint64_t)((c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u)) << 32;
  int16x8_t mins = qi__bytes_to_words_neon(min);
  qi__set_scales32_neon(s, qi__bytes_to_words_neon(scale));
  vst1q_s16(s->min, vzip1q_s16(mins, mins));
  vst1q_s16(s->min + 8, vzip2q_s16(mins, mins));
}

// IQ4_XS: low four bits in src[4..7], top two in the word at src + 2.
QI__INLINE void qi__scales_iq4_xs_neon(const uint8_t *src, qi__scales_neon *s) {
  static const int16_t shifts[8] = {4, 2, 0, -2, -4, -6, -8, -10}; // the pair of group g to bits 4, 5
  uint32_t nibbles = qi__load_u32(src + 4);
  uint8x8_t even = vcreate_u8(nibbles & 0x0f0f0f0fu), odd = vcreate_u8(nibbles >> 4 & 0x0f0f0f0fu);
  uint16x8_t top = vandq_u16(vshlq_u16(vdupq_n_u16(qi__load_u16(src + 2)), vld1q_s16(shifts)), vdupq_n_u16(0x30));
  uint16x8_t scale = vorrq_u16(vmovl_u8(vzip1_u8(even, odd)), top);
  qi__set_scales32_neon(s, vsubq_s16(vreinterpretq_s16_u16(scale), vdupq_n_s16(32)));
}

// The layout of qi__unpack_seven_bits: a byte a group.
QI__INLINE uint8x16_t qi__seven_bits_neon(const uint8_t *src) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
  uint8x8_t low = vld1_u8(src);
  uint8x16_t v = vcombine_u8(vand_u8(low, vdup_n_u8(15)), vshr_n_u8(low, 4));
  QI__UNROLL for (int p = 0; p < 3; p++) {
    uint8x16_t plane = vcombine_u8(vdup_n_u8(src[8 + 2 * p]), vdup_n_u8(src[9 + 2 * p]));
    v = vorrq_u8(v, vandq_u8(vtstq_u8(plane, bit), vdupq_n_u8((uint8_t)(16 << p))));
  }
  return v;
}

// QINS4_K: the signed scales of these.
QI__INLINE int8x16_t qi__qins4_scales_neon(uint8x16_t bits) {
  int8x16_t size = vreinterpretq_s8_u8(vandq_u8(bits, vdupq_n_u8(31)));
  return vbslq_s8(vtstq_u8(bits, vdupq_n_u8(32)), vnegq_s8(size), size);
}

QI__INLINE void qi__scales_block_neon(const qi__format *f, const qi__block *block, qi__scales_neon *s) {
  s->d = block->d;
  s->dmin = block->dmin;
  for (int i = 0; i < f->info.block_len / 16; i++) {
    s->scale[i] = block->scale[16 * i / f->group];
    s->min[i] = block->min[16 * i / f->group];
  }
}

// Of the block at src. What has no case is unpacked to `block`. f: bound, if the format has a tail.
QI__INLINE void qi__block_scales_neon(qi_format id, const qi__format *f, const uint8_t *src, qi__block *block, qi__scales_neon *s) {
  s->dmin = 0;
  switch (id) {
  case QI_FORMAT_Q4_0:
  case QI_FORMAT_Q5_0:
  case QI_FORMAT_Q8_0:
  case QI_FORMAT_IQ4_NL: s->d = qi__half_neon(src); break;
  case QI_FORMAT_MXFP4: s->d = qi__e8m0_half_to_f32(src[0]); break;
  case QI_FORMAT_Q4_1:
  case QI_FORMAT_Q5_1:
    s->d = qi__half_neon(src);
    s->dmin = -qi__half_neon(src + 2);
    break;
  case QI_FORMAT_Q2_K:
    qi__scales_q2_k_neon(src, s);
    s->d = qi__half_neon(src + 80);
    s->dmin = qi__half_neon(src + 82);
    break;
  case QI_FORMAT_Q3_K:
    qi__scales_k3_neon(src + 96, s);
    s->d = qi__half_neon(src + 108);
    break;
  case QI_FORMAT_Q4_K:
  case QI_FORMAT_Q5_K:
    qi__scales_k4_neon(src + 4, s);
    s->d = qi__half_neon(src);
    s->dmin = qi__half_neon(src + 2);
    break;
  case QI_FORMAT_Q6_K:
    qi__set_scales16_neon(s, vreinterpretq_s8_u8(vld1q_u8(src + 192)));
    s->d = qi__half_neon(src + 208);
    break;
  case QI_FORMAT_IQ4_XS:
    qi__scales_iq4_xs_neon(src, s);
    s->d = qi__half_neon(src);
    break;
  case QI_FORMAT_TQ1_0: s->d = qi__half_neon(src + 52); break;
  case QI_FORMAT_TQ2_0: s->d = qi__half_neon(src + 64); break;
  case QI_FORMAT_I2_S: s->d = f->param[0]; break;
  case QI_FORMAT_QINS4_K:
    qi__set_scales16_neon(s, qi__qins4_scales_neon(qi__seven_bits_neon(src + 2)));
    s->d = qi__half_neon(src) * 0x1p-10f;
    break;
  default:
    qi__unpack(f, src, block);
    qi__scales_block_neon(f, block, s);
    break;
  }
}

// ---- codes ----

// 32 of them.
typedef struct qi__codes32_neon {
  int8x16_t half[2];
} qi__codes32_neon;

QI__INLINE uint8x16x2_t qi__bytes_neon(const uint8_t *p) { return (uint8x16x2_t){{vld1q_u8(p), vld1q_u8(p + 16)}}; }

QI__INLINE uint8x16_t qi__shift_right_neon(uint8x16_t v, int shift) {
  switch (shift) { // instructions want a constant
  case 2: return vshrq_n_u8(v, 2);
  case 4: return vshrq_n_u8(v, 4);
  case 6: return vshrq_n_u8(v, 6);
  default: return v;
  }
}

// Bits shift..shift+n-1 of each of 32 bytes.
QI__INLINE uint8x16x2_t qi__bits_neon(const uint8_t *p, int shift, int n) {
  uint8x16x2_t v = qi__bytes_neon(p);
  QI__UNROLL for (int h = 0; h < 2; h++) {
    v.val[h] = qi__shift_right_neon(v.val[h], shift);
    if (shift + n < 8) v.val[h] = vandq_u8(v.val[h], vdupq_n_u8((uint8_t)((1 << n) - 1)));
  }
  return v;
}

// 16 bytes: the low nibbles, then the high ones.
QI__INLINE uint8x16x2_t qi__nibbles_neon(const uint8_t *p) {
  uint8x16_t v = vld1q_u8(p);
  return (uint8x16x2_t){{vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8(v, 4)}};
}

// `value` where bit i of `bits` is set, for byte i.
QI__INLINE uint8x16x2_t qi__spread_bits_neon(uint32_t bits, int value) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
  uint8x16x2_t v;
  QI__UNROLL for (int h = 0; h < 2; h++, bits >>= 16) {
    uint8x16_t bytes = vcombine_u8(vdup_n_u8((uint8_t)bits), vdup_n_u8((uint8_t)(bits >> 8)));
    v.val[h] = vandq_u8(vtstq_u8(bytes, bit), vdupq_n_u8((uint8_t)value));
  }
  return v;
}

// `value` where bit `bit` of the byte is set.
QI__INLINE uint8x16x2_t qi__flags_neon(const uint8_t *p, int bit, int value) {
  uint8x16x2_t v = qi__bytes_neon(p);
  QI__UNROLL for (int h = 0; h < 2; h++)
    v.val[h] = vandq_u8(vtstq_u8(v.val[h], vdupq_n_u8((uint8_t)(1 << bit))), vdupq_n_u8((uint8_t)value));
  return v;
}

QI__INLINE uint8x16x2_t qi__either_neon(uint8x16x2_t a, uint8x16x2_t b) {
  return (uint8x16x2_t){{vorrq_u8(a.val[0], b.val[0]), vorrq_u8(a.val[1], b.val[1])}};
}

QI__INLINE qi__codes32_neon qi__subtract_neon(uint8x16x2_t v, int offset) {
  int8x16_t o = vdupq_n_s8((int8_t)offset);
  return (qi__codes32_neon){{vsubq_s8(vreinterpretq_s8_u8(v.val[0]), o), vsubq_s8(vreinterpretq_s8_u8(v.val[1]), o)}};
}

QI__INLINE qi__codes32_neon qi__signed_neon(uint8x16x2_t v) {
  return (qi__codes32_neon){{vreinterpretq_s8_u8(v.val[0]), vreinterpretq_s8_u8(v.val[1])}};
}

QI__INLINE qi__codes32_neon qi__lookup_neon(const int8_t *table, uint8x16x2_t nibbles) {
  int8x16_t t = vld1q_s8(table);
  return (qi__codes32_neon){{vqtbl1q_s8(t, nibbles.val[0]), vqtbl1q_s8(t, nibbles.val[1])}};
}

// TQ1_0: digit n of a byte is floor(3 f / 256) of its fraction f = byte * 3^n mod 256; that is 1 from 86 and 2 from 171 on.
QI__INLINE int8x16_t qi__digit_neon(uint8x16_t bytes, uint8x16_t power) {
  uint8x16_t f = vmulq_u8(bytes, power);
  uint8x16_t from1 = vcgeq_u8(f, vdupq_n_u8(86)), from2 = vcgeq_u8(f, vdupq_n_u8(171));
  return vsubq_s8(vdupq_n_s8(-1), vreinterpretq_s8_u8(vaddq_u8(from1, from2)));
}

QI__INLINE qi__codes32_neon qi__digits_neon(const uint8_t *src, int g) {
  static const uint8_t powers[5] = {1, 3, 9, 27, 81};
  if (g < 5) {
    uint8x16_t power = vdupq_n_u8(powers[g]);
    return (qi__codes32_neon){{qi__digit_neon(vld1q_u8(src), power), qi__digit_neon(vld1q_u8(src + 16), power)}};
  }
  uint8x16_t low = vld1q_u8(src + 32), high = low, power = vdupq_n_u8(g < 7 ? powers[2 * g - 9] : 0);
  if (g == 7) { // rest: digit by digit
    high = vreinterpretq_u8_u32(vdupq_n_u32(qi__load_u32(src + 48)));
    power = vcombine_u8(vcreate_u8(0x0303030301010101u), vcreate_u8(0x1b1b1b1b09090909u));
  }
  return (qi__codes32_neon){{qi__digit_neon(low, vdupq_n_u8(powers[2 * g - 10])), qi__digit_neon(high, power)}};
}

// Codes of weights 32 g .. 32 g + 31 of a block. `block`: unpacked, for formats without a case.
QI__INLINE qi__codes32_neon qi__codes_neon(qi_format id, const uint8_t *src, int g, const qi__block *block) {
  int half = g / 4, quarter = g % 4;
  switch (id) {
  case QI_FORMAT_Q4_0: return qi__subtract_neon(qi__nibbles_neon(src + 2), 8);
  case QI_FORMAT_Q4_1: return qi__signed_neon(qi__nibbles_neon(src + 4));
  case QI_FORMAT_Q5_0:
    return qi__subtract_neon(qi__either_neon(qi__nibbles_neon(src + 6), qi__spread_bits_neon(qi__load_u32(src + 2), 16)), 16);
  case QI_FORMAT_Q5_1:
    return qi__signed_neon(qi__either_neon(qi__nibbles_neon(src + 8), qi__spread_bits_neon(qi__load_u32(src + 4), 16)));
  case QI_FORMAT_Q8_0: return qi__signed_neon(qi__bytes_neon(src + 2));
  case QI_FORMAT_IQ4_NL: return qi__lookup_neon(qi__iq4_values, qi__nibbles_neon(src + 2));
  case QI_FORMAT_IQ4_XS: return qi__lookup_neon(qi__iq4_values, qi__nibbles_neon(src + 8 + 16 * g));
  case QI_FORMAT_MXFP4: return qi__lookup_neon(qi__mxfp4_values, qi__nibbles_neon(src + 1));
  case QI_FORMAT_Q2_K: return qi__signed_neon(qi__bits_neon(src + 16 + 32 * half, 2 * quarter, 2));
  case QI_FORMAT_Q3_K:
    return qi__subtract_neon(qi__either_neon(qi__bits_neon(src + 32 + 32 * half, 2 * quarter, 2), qi__flags_neon(src, g, 4)), 4);
  case QI_FORMAT_Q4_K: return qi__signed_neon(qi__bits_neon(src + 16 + 32 * (g / 2), g % 2 * 4, 4));
  case QI_FORMAT_Q5_K:
    return qi__signed_neon(qi__either_neon(qi__bits_neon(src + 48 + 32 * (g / 2), g % 2 * 4, 4), qi__flags_neon(src + 16, g, 16)));
  case QI_FORMAT_Q6_K: {
    uint8x16x2_t low = qi__bits_neon(src + 64 * half + 32 * (quarter % 2), quarter / 2 * 4, 4);
    uint8x16x2_t high = qi__bits_neon(src + 128 + 32 * half, 2 * quarter, 2);
    QI__UNROLL for (int h = 0; h < 2; h++) high.val[h] = vsliq_n_u8(low.val[h], high.val[h], 4);
    return qi__subtract_neon(high, 32);
  }
  case QI_FORMAT_TQ1_0: return qi__digits_neon(src, g);
  case QI_FORMAT_TQ2_0: return qi__subtract_neon(qi__bits_neon(src + 32 * half, 2 * quarter, 2), 1);
  case QI_FORMAT_I2_S: return qi__subtract_neon(qi__bits_neon(src + 32 * half, 6 - 2 * quarter, 2), 1);
  case QI_FORMAT_QINS4_K: {
    uint8x16x2_t nibbles = qi__bits_neon(src + 16 + 32 * (g / 2), g % 2 * 4, 4);
    qi__codes32_neon codes;
    QI__UNROLL for (int h = 0; h < 2; h++) { // t: the third plane
      const int8_t *table = qi__qins4_values[src[14 + g / 4] >> (2 * g % 8 + h) & 1];
      codes.half[h] = vqtbl1q_s8(vld1q_s8(table), nibbles.val[h]);
    }
    return codes;
  }
  default: return qi__signed_neon(qi__bytes_neon((const uint8_t *)block->q + 32 * g));
  }
}

// ---- dequantisation ----

// Writes weights i .. i + 15 of a row as float32, or as something else.
typedef void (*qi__store16_neon)(void *dst, size_t i, const float32x4_t *v);

QI__INLINE void qi__store16_f32_neon(void *dst, size_t i, const float32x4_t *v) {
  float *p = (float *)dst + i;
  QI__UNROLL for (int e = 0; e < 4; e++) vst1q_f32(p + 4 * e, v[e]);
}

// Of a block: w[i] = scale[i / 16] * code[i] - offset[i / 16].
typedef struct qi__float_scales_neon {
  float scale[QI__BLOCK_MAX / 16], offset[QI__BLOCK_MAX / 16];
} qi__float_scales_neon;

QI__INLINE void qi__to_float_scales_neon(qi_format id, const qi__format *f, const qi__scales_neon *s, qi__float_scales_neon *out) {
  for (int i = 0; i < f->info.block_len / 16; i++) {
    out->scale[i] = qi__one_scale_neon(id) ? s->d : s->d * (float)s->scale[i];
    if (f->has_min) out->offset[i] = qi__one_scale_neon(id) ? s->dmin : s->dmin * (float)s->min[i];
  }
}

// 16 words times a scale, minus an offset if there is one.
QI__INLINE void qi__store_words_neon(int16x8_t low, int16x8_t high, const float *scale, const float *offset, qi__store16_neon store,
                                     void *dst, size_t i) {
  int32x4_t words[4] = {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)};
  float32x4_t v[4];
  QI__UNROLL for (int e = 0; e < 4; e++) {
    v[e] = vmulq_n_f32(vcvtq_f32_s32(words[e]), *scale);
    if (offset) v[e] = vsubq_f32(v[e], vdupq_n_f32(*offset));
  }
  store(dst, i, v);
}

// Weights 32 g .. 32 g + 31 of a block, which become weights i .. of the row.
QI__INLINE void qi__dequantize_part_neon(qi_format id, const qi__format *f, const uint8_t *src, int g, const qi__block *block,
                                         const qi__float_scales_neon *s, qi__store16_neon store, void *dst, size_t i) {
  qi__codes32_neon codes = qi__codes_neon(id, src, g, block);
  QI__UNROLL for (int h = 0; h < 2; h++) {
    const float *scale = &s->scale[2 * g + h], *offset = f->has_min ? &s->offset[2 * g + h] : NULL;
    int16x8_t low = vmovl_s8(vget_low_s8(codes.half[h])), high = vmovl_high_s8(codes.half[h]);
    qi__store_words_neon(low, high, scale, offset, store, dst, i + (size_t)(16 * h));
  }
}

QI__INLINE void qi__dequantize_row_neon(qi_format id, const qi__format *bound, const uint8_t *src, qi__store16_neon store,
                                        void *dst, size_t n) {
  const qi__format *f = qi__format_neon(id, bound);
  qi__block block;
  qi__scales_neon s;
  qi__float_scales_neon scales;
  int len = f->info.block_len;
  for (size_t i = 0; i < n; i += (size_t)len, src += f->info.block_bytes) {
    qi__block_scales_neon(id, bound, src, &block, &s);
    qi__to_float_scales_neon(id, f, &s, &scales);
    if (id && len == 256) {
      QI__UNROLL for (int g = 0; g < 8; g++)
        qi__dequantize_part_neon(id, f, src, g, &block, &scales, store, dst, i + (size_t)(32 * g));
    } else {
      for (int g = 0; g < len / 32; g++)
        qi__dequantize_part_neon(id, f, src, g, &block, &scales, store, dst, i + (size_t)(32 * g));
    }
  }
}

// QINS8_K: qi__qins8_sizes as two tables that both give 0 for an index of 64 or more.
typedef struct qi__qins8_tables_neon {
  uint8x16x4_t half[2];
} qi__qins8_tables_neon;

QI__INLINE qi__qins8_tables_neon qi__load_qins8_tables_neon(void) {
  qi__qins8_tables_neon t;
  QI__UNROLL for (int i = 0; i < 8; i++) t.half[i / 4].val[i % 4] = vld1q_u8(qi__qins8_sizes + 16 * i);
  return t;
}

QI__INLINE uint8x16_t qi__qins8_sizes_neon(const qi__qins8_tables_neon *tables, uint8x16_t codes) {
  uint8x16_t at = vandq_u8(codes, vdupq_n_u8(127));
  return vorrq_u8(vqtbl4q_u8(tables->half[0], at), vqtbl4q_u8(tables->half[1], vsubq_u8(at, vdupq_n_u8(64))));
}

// Eight of these with the signs of their codes.
QI__INLINE int16x8_t qi__signed_sizes_neon(uint8x8_t sizes, int8x8_t codes) {
  int16x8_t minus = vshrq_n_s16(vmovl_s8(codes), 15), v = vreinterpretq_s16_u16(vmovl_u8(sizes));
  return vsubq_s16(veorq_s16(v, minus), minus);
}

QI__INLINE void qi__dequantize_qins8_k_neon(const uint8_t *src, qi__store16_neon store, void *dst, size_t n) {
  const qi__qins8_tables_neon tables = qi__load_qins8_tables_neon();
  for (size_t i = 0; i < n; i += 256, src += 272) {
    uint8_t scale[16];
    float d = qi__half_neon(src) * 0x1p-10f;
    vst1q_u8(scale, qi__seven_bits_neon(src + 2));
    for (size_t g = 0; g < 16; g++) {
      float scale_d = d * (float)scale[g];
      uint8x16_t codes = vld1q_u8(src + 16 + 16 * g), sizes = qi__qins8_sizes_neon(&tables, codes);
      int8x16_t sign = vreinterpretq_s8_u8(codes);
      qi__store_words_neon(qi__signed_sizes_neon(vget_low_u8(sizes), vget_low_s8(sign)),
                           qi__signed_sizes_neon(vget_high_u8(sizes), vget_high_s8(sign)), &scale_d, NULL, store, dst, i + 16 * g);
    }
  }
}

// Whether qi__dequantize_rows_neon takes a format.
QI__INLINE bool qi__dequantize_neon_has(qi_format id) {
  return qi__formats[id].unpack && (!qi__formats[id].wide || id == QI_FORMAT_QINS8_K);
}

// `f` is a row of the table, or bound.
QI__INLINE void qi__dequantize_rows_neon(const qi__format *f, const uint8_t *src, qi__store16_neon store, void *dst, size_t n) {
#define QI__CASE(name, id) case id: qi__dequantize_row_neon(id, f, src, store, dst, n); break;
  switch (qi__format_id(f)) {
    QI__NEON_FORMATS(QI__CASE)
  case QI_FORMAT_QINS8_K: qi__dequantize_qins8_k_neon(src, store, dst, n); break;
  default: qi__dequantize_row_neon(QI_FORMAT_NONE, f, src, store, dst, n); break;
  }
#undef QI__CASE
}

QI__FN void qi__dequantize_neon(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  qi__dequantize_rows_neon(f, src, qi__store16_f32_neon, dst, n);
}

QI__FN void qi__dequantize_f16_neon(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    vst1q_f32(dst + i, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(src + 2 * i))));
  qi__dequantize_blocks(f, src + 2 * i, dst + i, n - i);
}

QI__FN void qi__dequantize_bf16_neon(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    vst1q_f32(dst + i, vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(src + 2 * i)), 16)));
  qi__dequantize_blocks(f, src + 2 * i, dst + i, n - i);
}

QI__FN void qi__dequantize_f32_neon(const qi__format *f, const uint8_t *src, float *dst, size_t n) {
  (void)f;
  memcpy(dst, src, n * sizeof *dst); // little-endian
}
#endif

#endif // QI__KERNELS_DEQUANT_NEON_H

#if defined(QI__ARM64)

// The integer steps of qi__f32_to_bf16. A NaN, whose payload the addition would carry into the exponent, is taken by itself.
QI__FN void qi__round_bf16_neon(const float *x, size_t n, float *y) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    float32x4_t v = vld1q_f32(x + i);
    uint32x4_t u = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t nan = vcgtq_u32(vandq_u32(u, vdupq_n_u32(0x7fffffffu)), vdupq_n_u32(0x7f800000u));
    uint32x4_t rounded = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
    u = vbslq_u32(nan, vorrq_u32(u, vdupq_n_u32(0x400000)), rounded);
    vst1q_f32(y + i, vreinterpretq_f32_u32(vandq_u32(u, vdupq_n_u32(0xffff0000u))));
  }
  qi__round_bf16_ref(x + i, n - i, y + i);
}

#if defined(__clang__) || __GNUC__ >= 10
#define QI__HAS_NEON_BF16 1
#if defined(__clang__)
#define QI__NEON_BF16 QI__TARGET("bf16")
#else
#define QI__NEON_BF16 QI__TARGET("+bf16")
#endif

// The contract of bf16.h with bfmmla: it adds, for each of 2 x 2 sums, the products of k, k + 1, then those of k + 2, k + 3. A pair
// of products is added up first; pairs and sums round to odd, each off by less than a unit. That is half as many roundings as
// additions, each twice as large: the bound is the same. (Arm ARM, BFMMLA with FPCR.EBF = 0, which qi__fp_enter sees to: all CPUs
// give the same bits.) The layout of a panel is what the instruction wants:
//
//   panel: [2][k / 4][8][2][4]      two blocks of 16 weight rows, in pairs; four of k beside each other

// ---- instructions; their intrinsics are hidden, see dot_q8_neon.h ----

// sum[2 i + j] + products of row i of a [2, 4] and row j of b [2, 4]
QI__INLINE QI__NEON_BF16 float32x4_t qi__bfmmla_neon(float32x4_t sum, uint16x8_t a, uint16x8_t b) {
  __asm__("bfmmla %0.4s, %1.8h, %2.8h" : "+w"(sum) : "w"(a), "w"(b));
  return sum;
}

// Rounds to nearest, ties to even: qi__f32_to_bf16.
QI__INLINE QI__NEON_BF16 uint16x8_t qi__to_bf16x8_neon(float32x4_t low, float32x4_t high) {
  uint16x8_t v;
  __asm__("bfcvtn %0.4h, %1.4s\n\tbfcvtn2 %0.8h, %2.4s" : "=&w"(v) : "w"(low), "w"(high));
  return v;
}

// ---- layout ----

QI__INLINE QI__NEON_BF16 void qi__store16_bf16_neon(void *dst, size_t i, const float32x4_t *v) {
  uint16_t *p = (uint16_t *)dst + i;
  vst1q_u16(p, qi__to_bf16x8_neon(v[0], v[1]));
  vst1q_u16(p + 8, qi__to_bf16x8_neon(v[2], v[3]));
}

QI__INLINE QI__NEON_BF16 void qi__f32_to_bf16_neon(const float *src, size_t n, uint16_t *dst) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) vst1q_u16(dst + i, qi__to_bf16x8_neon(vld1q_f32(src + i), vld1q_f32(src + i + 4)));
  for (; i < n; i++) dst[i] = qi__f32_to_bf16(src[i]);
}

// Row `row` of packed activations.
QI__FN QI__NEON_BF16 void qi__bf16_pack_neon(const float *x, size_t k, uint16_t *packed, size_t row) {
  uint16_t *dst = packed + qi__bf16_row(k, row);
  for (size_t j = 0; j < k; j += 32, dst += 512) {
    size_t n = qi__min_size(32, k - j);
    qi__f32_to_bf16_neon(x + j, n, dst);
    memset(dst + n, 0, (32 - n) * sizeof *dst);
  }
}

// n weights, whole blocks, as bfloat16; `f` is a row of the table, or bound.
QI__FN QI__NEON_BF16 void qi__to_bf16_neon(const qi__format *f, const uint8_t *src, size_t n, uint16_t *dst) {
  qi_format id = qi__format_id(f);
  if (id == QI_FORMAT_BF16) {
    memcpy(dst, src, 2 * n);
  } else if (qi__dequantize_neon_has(id)) {
    qi__dequantize_rows_neon(f, src, qi__store16_bf16_neon, dst, n);
  } else {
    float v[QI__BF16_STEP];
    for (size_t i = 0, part; i < n; i += part, src += part / (size_t)f->info.block_len * (size_t)f->info.block_bytes) {
      part = qi__min_size(QI__BF16_STEP, n - i);
      if (id == QI_FORMAT_F16) qi__dequantize_f16_neon(f, src, v, part);
      else qi__dequantize_blocks(f, src, v, part);
      qi__f32_to_bf16_neon(v, part, dst + i);
    }
  }
}

// First and second halves of two registers.
QI__INLINE void qi__transpose_halves_neon(uint16x8_t a, uint16x8_t b, uint16x8_t *first, uint16x8_t *second) {
  uint64x2_t a2 = vreinterpretq_u64_u16(a), b2 = vreinterpretq_u64_u16(b);
  *first = vreinterpretq_u16_u64(vtrn1q_u64(a2, b2));
  *second = vreinterpretq_u16_u64(vtrn2q_u64(a2, b2));
}

// One block of the panel from 16 rows of n_k, QI__BF16_STRIDE apart.
QI__FN void qi__bf16_interleave_neon(const uint16_t *rows, size_t n_k, uint16_t *panel) {
  for (size_t j = 0; j < n_k; j += 8, rows += 8, panel += 128)
    QI__UNROLL for (size_t pair = 0; pair < 8; pair++) {
      const uint16_t *row = rows + 2 * pair * QI__BF16_STRIDE;
      uint16x8_t first, second;
      qi__transpose_halves_neon(vld1q_u16(row), vld1q_u16(row + QI__BF16_STRIDE), &first, &second);
      vst1q_u16(panel + 8 * pair, first);
      vst1q_u16(panel + 64 + 8 * pair, second);
    }
}

// ---- product ----

// Sums of two weight rows; `n` of them are there.
QI__INLINE float32x2_t qi__load_sums_neon(const float *y, size_t n) {
  if (n >= 2) return vld1_f32(y);
  return n ? vset_lane_f32(*y, vdup_n_f32(0), 0) : vdup_n_f32(0);
}
QI__INLINE void qi__store_sums_neon(float *y, size_t n, float32x2_t v) {
  if (n >= 2) vst1_f32(y, v);
  else if (n) *y = vget_lane_f32(v, 0);
}

// n activation rows of one tile (a constant: 8, 4, 2 or 1), the first at `x`, times weight rows first .. first + 7. A row alone is
// its own partner.
QI__INLINE QI__NEON_BF16 void qi__bf16_rows_neon(const qi__bf16_args *a, const uint16_t *x, int n, size_t first, float *y) {
  const uint16_t *w = a->panel + first / 16 * 16 * a->n_k + first % 16 * 4, *x_end = x + a->n_k * 16;
  const int n_pairs = (n + 1) / 2, n_both = n > 1 ? 2 : 1;
  float32x4_t sum[4][4];
  QI__UNROLL for (int i = 0; i < n_pairs; i++) QI__UNROLL for (size_t p = 0; p < 4; p++) {
    float32x2_t row[2] = {vdup_n_f32(0), vdup_n_f32(0)};
    size_t left = a->n_w > first + 2 * p ? a->n_w - first - 2 * p : 0;
    if (!a->first)
      QI__UNROLL for (int e = 0; e < n_both; e++)
        row[e] = qi__load_sums_neon(y + (size_t)(2 * i + e) * a->y_stride + first + 2 * p, left);
    sum[i][p] = vcombine_f32(row[0], row[1]);
  }
  for (; x < x_end; x += 480)
    for (int j = 0; j < 4; j++, x += 8, w += 128) { // eight of k
      uint16x8_t v[4][2];
      QI__UNROLL for (int i = 0; i < n_pairs; i++)
        qi__transpose_halves_neon(vld1q_u16(x + 64 * i), vld1q_u16(x + 64 * i + 32 * (n_both - 1)), &v[i][0], &v[i][1]);
      QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int p = 0; p < 4; p++) {
        uint16x8_t weights = vld1q_u16(w + 64 * h + 8 * p);
        QI__UNROLL for (int i = 0; i < n_pairs; i++) sum[i][p] = qi__bfmmla_neon(sum[i][p], v[i][h], weights);
      }
    }
  QI__UNROLL for (int i = 0; i < n_pairs; i++) QI__UNROLL for (size_t p = 0; p < 4; p++) {
    float32x2_t row[2] = {vget_low_f32(sum[i][p]), vget_high_f32(sum[i][p])};
    size_t left = a->n_w > first + 2 * p ? a->n_w - first - 2 * p : 0;
    QI__UNROLL for (int e = 0; e < n_both; e++)
      qi__store_sums_neon(y + (size_t)(2 * i + e) * a->y_stride + first + 2 * p, left, row[e]);
  }
}

QI__FN QI__NEON_BF16 void qi__bf16_multiply_neon(const qi__bf16_args *a) {
  for (size_t i = 0; i < a->n_x;) {
    size_t row = a->x_row + i, n = qi__min_size(a->n_x - i, 16 - row % 16);
    const uint16_t *x = a->x + row / 16 * a->x_stride + row % 16 * 32;
    float *y = a->y + i * a->y_stride;
    n = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
    for (size_t first = 0; first < a->n_w; first += 8) {
      if (n == 8) qi__bf16_rows_neon(a, x, 8, first, y);
      else if (n == 4) qi__bf16_rows_neon(a, x, 4, first, y);
      else if (n == 2) qi__bf16_rows_neon(a, x, 2, first, y);
      else qi__bf16_rows_neon(a, x, 1, first, y);
    }
    i += n;
  }
}

// A slice of 512 leaves room in the first-level cache beside a panel of 32 KB.
static const qi__bf16_kernels qi__bf16_neon = {512, qi__bf16_pack_neon, qi__to_bf16_neon, qi__bf16_interleave_neon,
                                               qi__bf16_multiply_neon};
#endif
#endif

#endif // QI__KERNELS_BF16_NEON_H
// generated from src/kernels/dot_f32.h: edit there
// ==== >>dot_f32 : products of float rows ====
#ifndef QI__KERNELS_DOT_F32_H
#define QI__KERNELS_DOT_F32_H


// Every sum over k runs in eight float32 lanes that qi__sum_lanes adds up, so that 256-bit registers, halves of 512-bit ones and
// pairs of 128-bit ones give the bits of the reference.

// y[i * y_stride + r] = sum_j w[r, j] * x[i * x_stride + j]      i < n_x, r < n_w, j < k
// w: rows w_stride bytes apart, any alignment, of float32, float16 or bfloat16, which float32 holds exactly. y overlaps nothing.
// In each piece of QI__FLOAT_PIECE columns, lane j % 8 takes product j with one fused multiply-add, j ascending; lanes of pieces are
// added up in order; then qi__sum_lanes. Pieces do not wait for each other: one row of weights, read as one stream, keeps up with
// the memory, where a single chain of additions would not.
#define QI__FLOAT_PIECE 128
typedef void (*qi__dot_float_fn)(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x, size_t k,
                                 float *y, size_t y_stride);

// Weight j of a row; `kind` (F32, F16 or BF16) is a constant where these are inlined.
QI__INLINE float qi__float_weight(qi_format kind, const uint8_t *row, size_t j) {
  if (kind == QI_FORMAT_F16) return qi__f16_to_f32(qi__load_u16(row + 2 * j));
  if (kind == QI_FORMAT_BF16) return qi__bf16_to_f32(qi__load_u16(row + 2 * j));
  return qi__bits_f32(qi__load_u32(row + 4 * j));
}

QI__INLINE void qi__dot_float_rows_ref(qi_format kind, const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride,
                                       size_t n_x, size_t k, float *y, size_t y_stride) {
  for (size_t i = 0; i < n_x; i++)
    for (size_t r = 0; r < n_w; r++) {
      const uint8_t *a = (const uint8_t *)w + r * w_stride;
      const float *b = x + i * x_stride;
      float total[8] = {0};
      for (size_t piece = 0; piece < k; piece += QI__FLOAT_PIECE) {
        size_t end = qi__min_size(piece + QI__FLOAT_PIECE, k);
        float lane[8] = {0};
        for (size_t j = piece; j < end; j++) lane[j % 8] = fmaf(qi__float_weight(kind, a, j), b[j], lane[j % 8]);
        for (int l = 0; l < 8; l++) total[l] += lane[l];
      }
      y[i * y_stride + r] = qi__sum_lanes(total);
    }
}

// The lanes at j, a multiple of 8, take the last products before k.
QI__INLINE void qi__dot_float_tail(qi_format kind, const uint8_t *w, const float *x, size_t j, size_t k, float *lane) {
  for (size_t t = j; t < k; t++) lane[t - j] = fmaf(qi__float_weight(kind, w, t), x[t], lane[t - j]);
}

QI__FN void qi__dot_f32_ref(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                            size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_ref(QI_FORMAT_F32, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
QI__FN void qi__dot_f16_ref(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                            size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_ref(QI_FORMAT_F16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
QI__FN void qi__dot_bf16_ref(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                             size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_ref(QI_FORMAT_BF16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}

// Tiles of weight rows times activation rows live in registers. What does not fill a tile goes through a smaller one: each sum is a
// lane of its own, so tiles do not change bits. The sizes of a tile are constants where it is inlined.

#if defined(QI__X86_64)

// ---- AVX2 ----

QI__INLINE QI__AVX2 __m256 qi__load_weights_avx2(qi_format kind, const uint8_t *row, size_t j) {
  if (kind == QI_FORMAT_F32) return _mm256_loadu_ps((const float *)(const void *)(row + 4 * j));
  __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(row + 2 * j));
  return kind == QI_FORMAT_F16 ? _mm256_cvtph_ps(v) : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

QI__INLINE QI__AVX2 __m256 qi__dot_float_tail_avx2(qi_format kind, const uint8_t *w, const float *x, size_t j, size_t k, __m256 sum) {
  float lane[8];
  _mm256_storeu_ps(lane, sum);
  qi__dot_float_tail(kind, w, x, j, k, lane);
  return _mm256_loadu_ps(lane);
}

// n_w <= 4 weight rows times n_x <= 3 activation rows: 12 sums, 3 registers of x and one of w are all there are.
QI__INLINE QI__AVX2 void qi__dot_float_tile_avx2(qi_format kind, const uint8_t *w, size_t w_stride, int n_w, const float *x,
                                                 size_t x_stride, int n_x, size_t k, float *y, size_t y_stride) {
  __m256 total[3][4];
  QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) total[i][r] = _mm256_setzero_ps();
  for (size_t j = 0; j < k;) {
    size_t end = qi__min_size(j + QI__FLOAT_PIECE, k);
    __m256 sum[3][4];
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) sum[i][r] = _mm256_setzero_ps();
    for (; j + 8 <= end; j += 8) {
      __m256 b[3];
      QI__UNROLL for (int i = 0; i < n_x; i++) b[i] = _mm256_loadu_ps(x + (size_t)i * x_stride + j);
      QI__UNROLL for (int r = 0; r < n_w; r++) {
        __m256 a = qi__load_weights_avx2(kind, w + (size_t)r * w_stride, j);
        QI__UNROLL for (int i = 0; i < n_x; i++) sum[i][r] = _mm256_fmadd_ps(a, b[i], sum[i][r]);
      }
    }
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) {
      const uint8_t *row = w + (size_t)r * w_stride;
      if (j < end) sum[i][r] = qi__dot_float_tail_avx2(kind, row, x + (size_t)i * x_stride, j, end, sum[i][r]);
      total[i][r] = _mm256_add_ps(total[i][r], sum[i][r]);
    }
    j = end;
  }
  QI__UNROLL for (int i = 0; i < n_x; i++) {
    float *out = y + (size_t)i * y_stride;
    if (n_w == 4) _mm_storeu_ps(out, qi__sum_lanes4_avx2(total[i][0], total[i][1], total[i][2], total[i][3]));
    else QI__UNROLL for (int r = 0; r < n_w; r++) out[r] = qi__sum_lanes_avx2(total[i][r]);
  }
}

// One row of activations takes one weight row after the other: rows beside each other are no stream for the hardware prefetcher.
QI__INLINE QI__AVX2 void qi__dot_float_rows_avx2(qi_format kind, const void *w, size_t w_stride, size_t n_w, const float *x,
                                                 size_t x_stride, size_t n_x, size_t k, float *y, size_t y_stride) {
  for (size_t i = 0; i < n_x;) {
    size_t rows = n_x - i >= 3 ? 3 : 1;
    const float *xi = x + i * x_stride;
    for (size_t r = 0; r < n_w;) {
      const uint8_t *wr = (const uint8_t *)w + r * w_stride;
      float *out = y + i * y_stride + r;
      bool four = n_w - r >= 4 && n_x > 1;
      if (four && rows == 3) qi__dot_float_tile_avx2(kind, wr, w_stride, 4, xi, x_stride, 3, k, out, y_stride);
      else if (four) qi__dot_float_tile_avx2(kind, wr, w_stride, 4, xi, x_stride, 1, k, out, y_stride);
      else if (rows == 3) qi__dot_float_tile_avx2(kind, wr, w_stride, 1, xi, x_stride, 3, k, out, y_stride);
      else qi__dot_float_tile_avx2(kind, wr, w_stride, 1, xi, x_stride, 1, k, out, y_stride);
      r += four ? 4 : 1;
    }
    i += rows;
  }
}

QI__FN QI__AVX2 void qi__dot_f32_avx2(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                      size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_avx2(QI_FORMAT_F32, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
QI__FN QI__AVX2 void qi__dot_f16_avx2(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                      size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_avx2(QI_FORMAT_F16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
QI__FN QI__AVX2 void qi__dot_bf16_avx2(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                       size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_avx2(QI_FORMAT_BF16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}

// ---- AVX-512 ----

// Weights j.. of a row in the lower half, of the next one in the upper.
QI__INLINE QI__AVX512 __m512 qi__load_weights_avx512(qi_format kind, const uint8_t *row, size_t w_stride, size_t j) {
  const uint8_t *next = row + w_stride;
  if (kind == QI_FORMAT_F32)
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps((const float *)(const void *)(row + 4 * j))),
                              _mm256_loadu_ps((const float *)(const void *)(next + 4 * j)), 1);
  __m256i v = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(row + 2 * j))),
                                      _mm_loadu_si128((const __m128i *)(const void *)(next + 2 * j)), 1);
  return kind == QI_FORMAT_F16 ? _mm512_cvtph_ps(v) : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

QI__INLINE QI__AVX512 __m512 qi__join_avx512(__m256 low, __m256 high) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

// Two weight rows share a register, so that the eight lanes of each sum stay: 8 weight rows times n_x <= 6 activation rows.
QI__INLINE QI__AVX512 void qi__dot_float_tile_avx512(qi_format kind, const uint8_t *w, size_t w_stride, const float *x,
                                                     size_t x_stride, int n_x, size_t k, float *y, size_t y_stride) {
  __m512 total[6][4];
  QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int p = 0; p < 4; p++) total[i][p] = _mm512_setzero_ps();
  for (size_t j = 0; j < k;) {
    size_t end = qi__min_size(j + QI__FLOAT_PIECE, k);
    __m512 sum[6][4];
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int p = 0; p < 4; p++) sum[i][p] = _mm512_setzero_ps();
    for (; j + 8 <= end; j += 8) {
      __m512 a[4];
      QI__UNROLL for (int p = 0; p < 4; p++) a[p] = qi__load_weights_avx512(kind, w + (size_t)(2 * p) * w_stride, w_stride, j);
      QI__UNROLL for (int i = 0; i < n_x; i++) {
        __m512 b = _mm512_broadcast_f32x8(_mm256_loadu_ps(x + (size_t)i * x_stride + j));
        QI__UNROLL for (int p = 0; p < 4; p++) sum[i][p] = _mm512_fmadd_ps(a[p], b, sum[i][p]);
      }
    }
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int p = 0; p < 4; p++) {
      if (j < end) {
        const uint8_t *row = w + (size_t)(2 * p) * w_stride;
        const float *xi = x + (size_t)i * x_stride;
        __m256 low = qi__dot_float_tail_avx2(kind, row, xi, j, end, _mm512_castps512_ps256(sum[i][p]));
        __m256 high = qi__dot_float_tail_avx2(kind, row + w_stride, xi, j, end, _mm512_extractf32x8_ps(sum[i][p], 1));
        sum[i][p] = qi__join_avx512(low, high);
      }
      total[i][p] = _mm512_add_ps(total[i][p], sum[i][p]);
    }
    j = end;
  }
  QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int p = 0; p < 4; p += 2) {
    __m128 four = qi__sum_lanes4_avx2(_mm512_castps512_ps256(total[i][p]), _mm512_extractf32x8_ps(total[i][p], 1),
                                      _mm512_castps512_ps256(total[i][p + 1]), _mm512_extractf32x8_ps(total[i][p + 1], 1));
    _mm_storeu_ps(y + (size_t)i * y_stride + 2 * p, four);
  }
}

// `rest` takes the rows that do not fill a tile, and all of them for one row of activations.
QI__INLINE QI__AVX512 void qi__dot_float_rows_avx512(qi_format kind, qi__dot_float_fn rest, const void *w, size_t w_stride,
                                                     size_t n_w, const float *x, size_t x_stride, size_t n_x, size_t k, float *y,
                                                     size_t y_stride) {
  size_t whole = n_x == 1 ? 0 : n_w / 8 * 8;
  for (size_t i = 0; i < n_x && whole;) {
    size_t rows = n_x - i >= 6 ? 6 : n_x - i >= 2 ? 2 : 1;
    const float *xi = x + i * x_stride;
    for (size_t r = 0; r < whole; r += 8) {
      const uint8_t *wr = (const uint8_t *)w + r * w_stride;
      float *out = y + i * y_stride + r;
      if (rows == 6) qi__dot_float_tile_avx512(kind, wr, w_stride, xi, x_stride, 6, k, out, y_stride);
      else if (rows == 2) qi__dot_float_tile_avx512(kind, wr, w_stride, xi, x_stride, 2, k, out, y_stride);
      else qi__dot_float_tile_avx512(kind, wr, w_stride, xi, x_stride, 1, k, out, y_stride);
    }
    i += rows;
  }
  if (whole < n_w) rest((const uint8_t *)w + whole * w_stride, w_stride, n_w - whole, x, x_stride, n_x, k, y + whole, y_stride);
}

QI__FN QI__AVX512 void qi__dot_f32_avx512(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                          size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_avx512(QI_FORMAT_F32, qi__dot_f32_avx2, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
QI__FN QI__AVX512 void qi__dot_f16_avx512(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                          size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_avx512(QI_FORMAT_F16, qi__dot_f16_avx2, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
QI__FN QI__AVX512 void qi__dot_bf16_avx512(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                                           size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_avx512(QI_FORMAT_BF16, qi__dot_bf16_avx2, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
#endif

// ---- NEON ----

#if defined(QI__ARM64)

QI__INLINE float32x4_t qi__load_weights_neon(qi_format kind, const uint8_t *row, size_t j) {
  if (kind == QI_FORMAT_F32) return vreinterpretq_f32_u8(vld1q_u8(row + 4 * j));
  uint16x4_t v = vreinterpret_u16_u8(vld1_u8(row + 2 * j));
  return kind == QI_FORMAT_F16 ? vcvt_f32_f16(vreinterpret_f16_u16(v)) : vreinterpretq_f32_u32(vshll_n_u16(v, 16));
}

// n_w <= 4 weight rows times n_x <= 2 activation rows, two registers a sum.
QI__INLINE void qi__dot_float_tile_neon(qi_format kind, const uint8_t *w, size_t w_stride, int n_w, const float *x, size_t x_stride,
                                        int n_x, size_t k, float *y, size_t y_stride) {
  float total[2][4][8] = {{{0}}};
  for (size_t j = 0; j < k;) {
    size_t end = qi__min_size(j + QI__FLOAT_PIECE, k);
    float32x4_t sum[2][4][2];
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) sum[i][r][0] = sum[i][r][1] = vdupq_n_f32(0);
    for (; j + 8 <= end; j += 8) {
      QI__UNROLL for (int half = 0; half < 2; half++) {
        size_t at = j + (size_t)(4 * half);
        float32x4_t b[2];
        QI__UNROLL for (int i = 0; i < n_x; i++) b[i] = vld1q_f32(x + (size_t)i * x_stride + at);
        QI__UNROLL for (int r = 0; r < n_w; r++) {
          float32x4_t a = qi__load_weights_neon(kind, w + (size_t)r * w_stride, at);
          QI__UNROLL for (int i = 0; i < n_x; i++) sum[i][r][half] = vfmaq_f32(sum[i][r][half], a, b[i]);
        }
      }
    }
    QI__UNROLL for (int i = 0; i < n_x; i++) QI__UNROLL for (int r = 0; r < n_w; r++) {
      float lane[8];
      vst1q_f32(lane, sum[i][r][0]);
      vst1q_f32(lane + 4, sum[i][r][1]);
      qi__dot_float_tail(kind, w + (size_t)r * w_stride, x + (size_t)i * x_stride, j, end, lane);
      for (int l = 0; l < 8; l++) total[i][r][l] += lane[l];
    }
    j = end;
  }
  for (int i = 0; i < n_x; i++)
    for (int r = 0; r < n_w; r++) y[(size_t)i * y_stride + (size_t)r] = qi__sum_lanes(total[i][r]);
}

QI__INLINE void qi__dot_float_rows_neon(qi_format kind, const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride,
                                        size_t n_x, size_t k, float *y, size_t y_stride) {
  for (size_t i = 0; i < n_x;) {
    size_t rows = n_x - i >= 2 ? 2 : 1;
    const float *xi = x + i * x_stride;
    for (size_t r = 0; r < n_w;) {
      const uint8_t *wr = (const uint8_t *)w + r * w_stride;
      float *out = y + i * y_stride + r;
      bool four = n_w - r >= 4 && n_x > 1;
      if (four && rows == 2) qi__dot_float_tile_neon(kind, wr, w_stride, 4, xi, x_stride, 2, k, out, y_stride);
      else if (four) qi__dot_float_tile_neon(kind, wr, w_stride, 4, xi, x_stride, 1, k, out, y_stride);
      else if (rows == 2) qi__dot_float_tile_neon(kind, wr, w_stride, 1, xi, x_stride, 2, k, out, y_stride);
      else qi__dot_float_tile_neon(kind, wr, w_stride, 1, xi, x_stride, 1, k, out, y_stride);
      r += four ? 4 : 1;
    }
    i += rows;
  }
}

QI__FN void qi__dot_f32_neon(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                             size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_neon(QI_FORMAT_F32, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
QI__FN void qi__dot_f16_neon(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                             size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_neon(QI_FORMAT_F16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
QI__FN void qi__dot_bf16_neon(const void *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride, size_t n_x,
                              size_t k, float *y, size_t y_stride) {
  qi__dot_float_rows_neon(QI_FORMAT_BF16, w, w_stride, n_w, x, x_stride, n_x, k, y, y_stride);
}
#endif

#endif // QI__KERNELS_DOT_F32_H
// generated from src/kernels/dot_q8.h: edit there
// ==== >>dot_q8 : products of packed weight rows and int8 activations ====
#ifndef QI__KERNELS_DOT_Q8_H
#define QI__KERNELS_DOT_Q8_H

// generated from src/kernels/activation.h: edit there
// ==== >>activation : activations as int8 ====
#ifndef QI__KERNELS_ACTIVATION_H
#define QI__KERNELS_ACTIVATION_H


// Rows of activations in the form that integer products take: in each block of `block` values (the block length of the weight
// format, 32 or 256; with ternary weights the whole row)
//
//   d = max |x| / 127      q = round(x * (127 / max |x|)), ties to even      x ~ d * q
//
// with the sums of each 16 codes, which the offsets of formats with a minimum need.
typedef struct qi__q8 {
  int8_t *q;    // [n, k]
  float *d;     // [n, k / block]
  int16_t *sum; // [n, k / 16]
  size_t block; // a multiple of 32
  size_t k;     // a multiple of block
} qi__q8;

// Adding 1.5 * 2^23 leaves the rounded integer in the low bits of a float32 below 2^22 in size: what SIMD conversions do.
QI__INLINE int32_t qi__round_even(float x) {
  return (int32_t)(qi__f32_bits(x + 12582912.0f) - 0x4b400000u);
}

QI__INLINE int8_t qi__clamp_i8(int32_t v) { return (int8_t)(v < -127 ? -127 : v > 127 ? 127 : v); }

// Row `row` of `out` from x [k].
QI__FN void qi__quantize_q8_ref(const float *x, const qi__q8 *out, size_t row) {
  size_t k = out->k, block = out->block;
  int8_t *q = out->q + row * k;
  float *d = out->d + row * (k / block);
  int16_t *sum = out->sum + row * (k / 16);
  for (size_t b = 0; b < k / block; b++, x += block, q += block, sum += block / 16) {
    float max = 0;
    for (size_t i = 0; i < block; i++) {
      float a = fabsf(x[i]);
      if (a > max) max = a;
    }
    float inverse = max > 0 ? 127.0f / max : 0;
    d[b] = max / 127.0f;
    if (!qi__is_finite(inverse)) inverse = d[b] = 0; // subnormal maximum: as good as zero
    for (size_t i = 0; i < block; i++) q[i] = qi__clamp_i8(qi__round_even(x[i] * inverse));
    for (size_t g = 0; g < block / 16; g++) {
      int s = 0;
      for (size_t i = 0; i < 16; i++) s += q[16 * g + i];
      sum[g] = (int16_t)s;
    }
  }
}

#if defined(QI__X86_64)

// qi__round_even and qi__clamp_i8 of eight x * inverse, step by step, so that NaN also gives the same.
QI__INLINE QI__AVX2 __m256i qi__codes8_avx2(const float *x, __m256 inverse) {
  __m256 v = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(x), inverse), _mm256_set1_ps(12582912.0f));
  __m256i q = _mm256_sub_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(0x4b400000));
  return _mm256_min_epi32(_mm256_max_epi32(q, _mm256_set1_epi32(-127)), _mm256_set1_epi32(127));
}

// max |x|; NaN does not count.
QI__INLINE QI__AVX2 float qi__max_size_avx2(const float *x, size_t n) {
  const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 max = _mm256_setzero_ps();
  for (size_t i = 0; i < n; i += 8) max = _mm256_max_ps(_mm256_and_ps(_mm256_loadu_ps(x + i), no_sign), max);
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

QI__FN QI__AVX2 void qi__quantize_q8_avx2(const float *x, const qi__q8 *out, size_t row) {
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
  size_t k = out->k, block = out->block;
  int8_t *q = out->q + row * k;
  float *d = out->d + row * (k / block);
  int16_t *sum = out->sum + row * (k / 16);
  for (size_t b = 0; b < k / block; b++) {
    float max = qi__max_size_avx2(x + b * block, block);
    float inverse = max > 0 ? 127.0f / max : 0;
    d[b] = max / 127.0f;
    if (!qi__is_finite(inverse)) inverse = d[b] = 0;
    __m256 scale = _mm256_set1_ps(inverse);
    for (size_t i = b * block; i < (b + 1) * block; i += 32) {
      __m256i low = _mm256_packs_epi32(qi__codes8_avx2(x + i, scale), qi__codes8_avx2(x + i + 8, scale));
      __m256i high = _mm256_packs_epi32(qi__codes8_avx2(x + i + 16, scale), qi__codes8_avx2(x + i + 24, scale));
      __m256i codes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), in_order); // packs work in halves
      _mm256_storeu_si256((__m256i *)(void *)(q + i), codes);
      __m256i four = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, codes), ones16); // sums of 4
      four = _mm256_add_epi32(four, _mm256_srli_epi64(four, 32));
      four = _mm256_add_epi32(four, _mm256_bsrli_epi128(four, 8));
      sum[i / 16] = (int16_t)_mm256_extract_epi16(four, 0);
      sum[i / 16 + 1] = (int16_t)_mm256_extract_epi16(four, 8);
    }
  }
}
#endif

#endif // QI__KERNELS_ACTIVATION_H

// The integer path: y[i * y_stride + r] = weight row r times activation row x_row + i. In block b, exactly (int32):
//
//   total = sum over codes of scale_w[group] * code_w * code_x
//   mins  = sum over groups of min_w[group] * (sum of the group's code_x)       formats with a minimum
//
// and then in float32, blocks ascending:
//
//   lane[b % 8] = fma(d_w * d_x, (float)total, lane[b % 8])
//   lane[b % 8] = fma(-(dmin_w * d_x), (float)mins, lane[b % 8])                formats with a minimum
//
// The result is qi__sum_lanes(lane). Because the sum in a block is exact, it may be made in any order and by any unit; the lanes
// keep additions independent and let eight blocks be taken at once.
#define QI__Q8_ROWS 32   // weight rows of one call, at most
#define QI__Q8_BATCH 256 // rows of activations that variants take at a time, at most

#define QI__Q8_LANES (8 * QI__Q8_ROWS) // sums of one row of activations

// Room for variants that take weights apart once for many rows of activations: some panels of 256 columns of all weight rows (see
// panel_q8_x86.h), and sums.
#define QI__Q8_PANEL_FLOATS 7168
#define QI__Q8_PANELS 4
QI__INLINE size_t qi__q8_scratch(size_t n_x) {
  return QI__Q8_PANELS * QI__Q8_PANEL_FLOATS + qi__min_size(n_x, QI__Q8_BATCH) * QI__Q8_LANES;
}

typedef struct qi__dot_q8_args {
  const qi__format *format;
  const uint8_t *w; // [n_w] rows, w_stride bytes apart, any alignment
  size_t w_stride, n_w; // n_w <= QI__Q8_ROWS
  const qi__q8 *x;
  size_t x_row, n_x;
  float *y;
  size_t y_stride;
  float *scratch; // [qi__q8_scratch(n_x)], aligned to a cache line; the reference needs none
} qi__dot_q8_args;

typedef void (*qi__dot_q8_fn)(const qi__dot_q8_args *a);

// Products with weights that a cache stores in another order, in tiles of QI__Q8_ROWS rows by chunks of 256 columns: the same bits.
// All NULL where there are none.
typedef struct qi__stored_q8_kernels {
  size_t (*chunk_bytes)(const qi__format *f);                          // 0 = not for this format
  void (*store)(const qi__dot_q8_args *a, size_t k, uint8_t *dst);     // rows a->w of k columns to the chunks of a tile
  void (*dot)(const qi__dot_q8_args *a);                               // a->w: a tile, a->w_stride: bytes of a chunk
  size_t from;                                                         // rows of activations from which this pays
} qi__stored_q8_kernels;

// One block with one row of activations: d_x, codes q and their sums by 16.
QI__FN float qi__dot_block_ref(const qi__format *f, const qi__block *w, float d_x, const int8_t *q, const int16_t *sum,
                              float lane) {
  int32_t total = 0, mins = 0;
  for (int i = 0; i < f->info.block_len; i++) total += w->scale[i / f->group] * (qi__block_code(f, w, i) * q[i]);
  lane = fmaf(w->d * d_x, (float)total, lane);
  if (!f->has_min) return lane;
  for (int i = 0; i < f->info.block_len; i += 16) mins += w->min[i / f->group] * sum[i / 16];
  return fmaf(-(w->dmin * d_x), (float)mins, lane);
}

// Takes each block of weights apart once for up to 16 rows of activations.
QI__FN void qi__dot_q8_row_ref(const qi__dot_q8_args *a, const uint8_t *w, size_t first, size_t n, float *y) {
  const qi__format *f = a->format;
  size_t block = (size_t)f->info.block_len, n_blocks = a->x->k / block;
  float lane[16][8] = {{0}};
  for (size_t b = 0; b < n_blocks; b++) {
    qi__block unpacked;
    qi__unpack(f, w + b * (size_t)f->info.block_bytes, &unpacked);
    for (size_t i = 0; i < n; i++) {
      size_t at = (first + i) * a->x->k + b * block;
      lane[i][b % 8] =
          qi__dot_block_ref(f, &unpacked, a->x->d[at / block], a->x->q + at, a->x->sum + at / 16, lane[i][b % 8]);
    }
  }
  for (size_t i = 0; i < n; i++) y[i * a->y_stride] = qi__sum_lanes(lane[i]);
}

QI__FN void qi__dot_q8_ref(const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i += 16)
      qi__dot_q8_row_ref(a, a->w + r * a->w_stride, a->x_row + i, qi__min_size(16, a->n_x - i), a->y + i * a->y_stride + r);
}

#endif // QI__KERNELS_DOT_Q8_H
// generated from src/kernels/dot_qins_x86.h: edit there
// ==== >>dot_qins_x86 : integer products of QINS8_K with VBMI ====
#ifndef QI__KERNELS_DOT_QINS_X86_H
#define QI__KERNELS_DOT_QINS_X86_H

// generated from src/kernels/dot_q8_x86.h: edit there
// ==== >>dot_q8_x86 : integer products with AVX2 and VNNI ====
#ifndef QI__KERNELS_DOT_Q8_X86_H
#define QI__KERNELS_DOT_Q8_X86_H


#if defined(QI__X86_64)

// The instructions multiply unsigned by signed bytes, so
//
//   small codes   u = q + offset, and offset * sum x is taken off again; that term is shared by all weight rows
//   wide codes    |q| times x with the sign of q; 128 * 127 * 2 still fits into int16
//
// One row of activations: blocks are taken apart in registers, one weight row after the other: the hardware prefetcher follows one
// stream; rows beside each other reach three quarters of its speed. The integer sums of a block lie in eight
// lanes of a register; those of eight blocks are folded into one, which is the eight lanes of the contract. More rows:
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
  if (!f->unpack || f->ternary) return false;
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
  const __m128i high_bytes = _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11);
  const __m256i scale_words = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 1, -1, 2, -1, 3, -1, 4, -1, 5, -1, 6, -1, 7, -1));
  const __m256i min_words = _mm256_setr_epi8(8, -1, 8, -1, 9, -1, 9, -1, 10, -1, 10, -1, 11, -1, 11, -1, 12, -1, 12, -1, 13, -1, 13,
                                             -1, 14, -1, 14, -1, 15, -1, 15, -1);
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

// Where a block of 256 has d as float16, and after it dmin if it has one; -1 = not there, or no case above.
QI__INLINE int qi__q8_d_at(qi_format id) {
  switch (id) {
  case QI_FORMAT_Q4_K:
  case QI_FORMAT_Q5_K:
  case QI_FORMAT_IQ4_XS:
  case QI_FORMAT_QINS8_K:
  case QI_FORMAT_QINS4_K: return 0;
  case QI_FORMAT_Q2_K: return 80;
  case QI_FORMAT_Q3_K: return 108;
  case QI_FORMAT_Q6_K: return 208;
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

// The sums of the lanes of eight registers, in order. Blends and one shuffle a step: half the time of horizontal additions.
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

// ---- one row of activations ----

// Two halves of a sum: shorter chains.
#define QI__HALVES 2

// The hardware prefetcher follows a row, but stops where a page of memory ends: one line for each block is asked for this far ahead,
// so that the next page is known, and its stream begun, when its turn comes. More lines would only take the places of its own.
#define QI__ROW_AHEAD 3072
QI__INLINE QI__AVX2 void qi__look_ahead_avx2(const uint8_t *w) { // never faults, also beyond the matrix
  _mm_prefetch((const char *)((uintptr_t)w + QI__ROW_AHEAD), _MM_HINT_T1);
}

// Integer lanes of a block of 256 with integer scales; sums: of the activations.
QI__INLINE QI__AVX2 __m256i qi__row_scaled_avx2(qi_format id, qi__step_fn words, const uint8_t *w, const qi__block *block,
                                                const qi__q8_scales *s, const int8_t *x, __m256i sums) {
  const __m256i apart = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  int offset = qi__q8_offset(id);
  __m256i sum[QI__HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  QI__UNROLL for (int g = 0; g < 8; g++) {
    __m256i xg = qi__bytes_avx2((const uint8_t *)x + 32 * g), code = qi__q8_codes_avx2(id, w, g, block, offset);
    sum[g % QI__HALVES] = qi__add_scaled_avx2(words, offset, sum[g % QI__HALVES], code, xg, qi__group_scale_avx2(s->scale, g));
  }
  __m256i total = _mm256_add_epi32(sum[0], sum[1]);
  if (offset <= 0) return total;
  sums = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(sums, apart), 0xd8); // to the order of the scales
  return _mm256_sub_epi32(total, qi__offset_sums_avx2(offset, s->scale, sums));
}

// Integer lanes of a block of QINS8_K. Sizes up to 255 do not fit: they are taken as twice a half, up to 127, and a rest.
QI__INLINE QI__AVX2 __m256i qi__row_qins8_avx2(qi__step_fn words, const uint8_t *w, const qi__q8_scales *s, const int8_t *x) {
  const __m256i one = _mm256_set1_epi8(1);
  __m256i sum = _mm256_setzero_si256();
  QI__UNROLL for (int g = 0; g < 8; g++) {
    __m256i xg = qi__bytes_avx2((const uint8_t *)x + 32 * g), codes = qi__bytes_avx2(w + 16 + 32 * g);
    __m256i sizes = qi__qins8_sizes_avx2(codes), signed_x = _mm256_sign_epi8(xg, _mm256_or_si256(codes, one));
    __m256i half = qi__bits_avx2(sizes, 1, 7), rest = _mm256_and_si256(sizes, one), scale = qi__group_scale_avx2(s->scale, g);
    sum = words(sum, _mm256_maddubs_epi16(half, signed_x), _mm256_add_epi16(scale, scale));
    sum = words(sum, _mm256_maddubs_epi16(rest, signed_x), scale);
  }
  return sum;
}

// What blocks of a row have added up to, until eight of them are taken to the lanes.
typedef struct qi__row_sums {
  __m256i total[8], mins[8];
  float d[8], dmin[8]; // of formats without qi__q8_d_at
} qi__row_sums;

// A block of 256 at w, as number b of eight, with codes x and their sums.
QI__INLINE QI__AVX2 void qi__row_block_avx2(qi_format id, const qi__format *bound, qi__step_fn words, const uint8_t *w,
                                            const int8_t *x, const int16_t *x_sums, size_t b, qi__row_sums *p) {
  qi__block block;
  qi__q8_scales s;
  __m256i sums = qi__bytes_avx2((const uint8_t *)x_sums);
  qi__q8_scales_avx2(id, bound, w, &block, &s);
  if (id == QI_FORMAT_QINS8_K) p->total[b] = qi__row_qins8_avx2(words, w, &s, x);
  else p->total[b] = qi__row_scaled_avx2(id, words, w, &block, &s, x, sums);
  if ((id ? &qi__formats[id] : bound)->has_min) p->mins[b] = _mm256_madd_epi16(s.min, sums);
  if (qi__q8_d_at(id) >= 0) return;
  p->d[b] = s.d;
  p->dmin[b] = s.dmin;
}

// Lanes after n blocks of 256 at w, which p has added up; d_x: of the activations.
QI__INLINE QI__AVX2 __m256 qi__row_take_avx2(qi_format id, const qi__format *f, const qi__row_sums *p, const uint8_t *w,
                                             const float *d_x, int n, __m256 lanes) {
  const __m256 minus = _mm256_set1_ps(-0.0f);
  size_t size = (size_t)f->info.block_bytes, at = (size_t)qi__q8_d_at(id);
  bool half = qi__q8_d_at(id) >= 0, qins = id == QI_FORMAT_QINS8_K || id == QI_FORMAT_QINS4_K;
  __m256 x = qi__chunk_d_avx2(d_x, n);
  __m256 d = half ? _mm256_cvtph_ps(qi__block_words_avx2(w, size, n, at)) : _mm256_loadu_ps(p->d);
  if (qins) d = _mm256_mul_ps(d, _mm256_set1_ps(0x1p-10f));
  lanes = qi__take_blocks_avx2(lanes, _mm256_mul_ps(d, x), qi__fold8_avx2(p->total), n);
  if (!f->has_min) return lanes;
  d = half ? _mm256_cvtph_ps(qi__block_words_avx2(w, size, n, at + 2)) : _mm256_loadu_ps(p->dmin);
  return qi__take_blocks_avx2(lanes, _mm256_xor_ps(minus, _mm256_mul_ps(d, x)), qi__fold8_avx2(p->mins), n);
}

QI__INLINE QI__AVX2 __m256 qi__row_256_avx2(qi_format id, qi__step_fn words, const qi__dot_q8_args *a, const uint8_t *w) {
  const qi__format *bound = a->format, *f = id ? &qi__formats[id] : bound;
  size_t n_blocks = a->x->k / 256, size = (size_t)f->info.block_bytes;
  qi__q8_chunk x = qi__q8_chunk_at(a->x, a->x_row, 0);
  __m256 lanes = _mm256_setzero_ps();
  qi__row_sums p;
  if (n_blocks % 8) memset(&p, 0, sizeof p); // blocks that are not there
  for (size_t b = 0; b < n_blocks; b += 8, x.d += 8) {
    size_t n = qi__min_size(8, n_blocks - b);
    const uint8_t *first = w;
    for (size_t i = 0; i < n; i++, w += size, x.q += 256, x.sum += 16) {
      qi__look_ahead_avx2(w);
      qi__row_block_avx2(id, bound, words, w, x.q, x.sum, i, &p);
    }
    lanes = qi__row_take_avx2(id, f, &p, first, x.d, (int)n, lanes);
  }
  return lanes;
}

// Lanes after n <= 8 blocks of 32 at w. A float minimum has the integer 1, so its sum is that of the codes.
QI__INLINE QI__AVX2 __m256 qi__row_chunk_avx2(qi_format id, bool vnni, qi__step_fn bytes, const uint8_t *w, const qi__q8_chunk *x,
                                              int n, __m256 lanes) {
  const qi__format *f = &qi__formats[id];
  int offset = qi__q8_offset32(id, vnni);
  __m256i totals[8], zero = _mm256_setzero_si256();
  QI__UNROLL for (int b = 0; b < 8; b++) {
    totals[b] = zero;
    if (b >= n) continue;
    __m256i code = qi__q8_codes_avx2(id, w + b * f->info.block_bytes, 0, NULL, offset);
    __m256i xb = qi__bytes_avx2((const uint8_t *)x->q + 32 * b);
    if (offset == QI__WIDE) totals[b] = bytes(zero, _mm256_abs_epi8(code), _mm256_sign_epi8(xb, code));
    else totals[b] = bytes(zero, code, xb);
  }
  __m256 d = qi__chunk_d_avx2(x->d, n);
  __m256i total = qi__fold8_avx2(totals), sums = qi__chunk_sums_avx2(x->sum, n);
  if (offset > 0) total = _mm256_sub_epi32(total, _mm256_mullo_epi32(sums, _mm256_set1_epi32(offset)));
  lanes = qi__take_blocks_avx2(lanes, _mm256_mul_ps(qi__block_d_avx2(id, f, w, n), d), total, n);
  if (f->has_min) lanes = qi__take_blocks_avx2(lanes, _mm256_mul_ps(qi__block_offset_avx2(f, w, n), d), sums, n);
  return lanes;
}

QI__INLINE QI__AVX2 __m256 qi__row_32_avx2(qi_format id, bool vnni, qi__step_fn bytes, const qi__dot_q8_args *a, const uint8_t *w) {
  qi__q8_chunk x = qi__q8_chunk_at(a->x, a->x_row, 0);
  size_t size = (size_t)qi__formats[id].info.block_bytes, n_blocks = a->x->k / 32;
  __m256 lanes = _mm256_setzero_ps();
  for (; n_blocks >= 8; n_blocks -= 8, w += 8 * size, x.q += 256, x.d += 8, x.sum += 16) {
    qi__look_ahead_avx2(w);
    lanes = qi__row_chunk_avx2(id, vnni, bytes, w, &x, 8, lanes);
  }
  return n_blocks ? qi__row_chunk_avx2(id, vnni, bytes, w, &x, (int)n_blocks, lanes) : lanes;
}

// All weight rows with one row of activations. id = NONE: a format with blocks of 256 and no case above.
QI__INLINE QI__AVX2 void qi__dot_rows_avx2(qi_format id, bool vnni, qi__step_fn words, qi__step_fn bytes,
                                           const qi__dot_q8_args *a) {
  bool small = id && qi__formats[id].info.block_len == 32;
  const uint8_t *w = a->w;
  for (size_t r = 0; r < a->n_w; r++, w += a->w_stride) {
    __m256 lanes = small ? qi__row_32_avx2(id, vnni, bytes, a, w) : qi__row_256_avx2(id, words, a, w);
    a->y[r] = qi__sum_lanes_avx2(lanes);
  }
}

// ---- one row of activations, by format ----

// One function a format, and the choice between them. `any` is for formats with blocks of 256 that have no case above.
#define QI__DOT_ROWS(isa, target, vnni, name, ID) \
  QI__FN target void qi__dot_rows_##name##_##isa(const qi__dot_q8_args *a) { \
    qi__dot_rows_avx2(ID, vnni, qi__words_##isa, qi__step_bytes_##isa, a); \
  }
#define QI__DOT_ROW(isa, target, vnni) \
  QI__DOT_ROWS(isa, target, vnni, q4_0, QI_FORMAT_Q4_0) \
  QI__DOT_ROWS(isa, target, vnni, q4_1, QI_FORMAT_Q4_1) \
  QI__DOT_ROWS(isa, target, vnni, q5_0, QI_FORMAT_Q5_0) \
  QI__DOT_ROWS(isa, target, vnni, q5_1, QI_FORMAT_Q5_1) \
  QI__DOT_ROWS(isa, target, vnni, q8_0, QI_FORMAT_Q8_0) \
  QI__DOT_ROWS(isa, target, vnni, q2_k, QI_FORMAT_Q2_K) \
  QI__DOT_ROWS(isa, target, vnni, q3_k, QI_FORMAT_Q3_K) \
  QI__DOT_ROWS(isa, target, vnni, q4_k, QI_FORMAT_Q4_K) \
  QI__DOT_ROWS(isa, target, vnni, q5_k, QI_FORMAT_Q5_K) \
  QI__DOT_ROWS(isa, target, vnni, q6_k, QI_FORMAT_Q6_K) \
  QI__DOT_ROWS(isa, target, vnni, iq4_nl, QI_FORMAT_IQ4_NL) \
  QI__DOT_ROWS(isa, target, vnni, iq4_xs, QI_FORMAT_IQ4_XS) \
  QI__DOT_ROWS(isa, target, vnni, mxfp4, QI_FORMAT_MXFP4) \
  QI__DOT_ROWS(isa, target, vnni, qins8_k, QI_FORMAT_QINS8_K) \
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
    case QI_FORMAT_QINS8_K: qi__dot_rows_qins8_k_##isa(a); break; \
    case QI_FORMAT_QINS4_K: qi__dot_rows_qins4_k_##isa(a); break; \
    default: qi__dot_rows_any_##isa(a); break; \
    } \
  }

QI__DOT_ROW(avx2, QI__AVX2, false)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_ROW(avx_vnni, QI__AVX_VNNI, true)
#endif
QI__DOT_ROW(avx512, QI__AVX512_VNNI, true)
#endif

#endif // QI__KERNELS_DOT_Q8_X86_H

#if defined(QI__X86_64)

// VPERMI2B looks up 64 codes at once in a table of 128 bytes, two registers; it takes no notice of the sign in bit 7.
#define QI__AVX512_VBMI QI__TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")

// Integer lanes of a block, as qi__row_qins8_avx2.
QI__INLINE QI__AVX512_VBMI __m256i qi__block_qins8_vbmi(const uint8_t *w, const int8_t *x, const __m512i *table) {
  const __m512i zero = _mm512_setzero_si512(), group = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  __m512i scale = _mm512_cvtepu8_epi32(qi__seven_bits_avx2(w + 2)), total = zero;
  QI__UNROLL for (int j = 0; j < 4; j++) {
    __m512i xj = _mm512_loadu_si512((const void *)(x + 64 * j)), groups = _mm512_add_epi32(group, _mm512_set1_epi32(4 * j));
    __m512i codes = _mm512_loadu_si512((const void *)(w + 16 + 64 * j));
    __m512i sizes = _mm512_permutex2var_epi8(table[0], codes, table[1]);
    __m512i products = _mm512_dpbusd_epi32(zero, sizes, _mm512_mask_sub_epi8(xj, _mm512_movepi8_mask(codes), zero, xj));
    total = _mm512_add_epi32(total, _mm512_mullo_epi32(products, _mm512_permutexvar_epi32(groups, scale)));
  }
  return _mm256_add_epi32(_mm512_castsi512_si256(total), _mm512_extracti64x4_epi64(total, 1));
}

// The lanes of weight row w and activation row `row`.
QI__INLINE QI__AVX512_VBMI __m256 qi__row_qins8_vbmi(const qi__dot_q8_args *a, const uint8_t *w, size_t row) {
  const size_t n_blocks = a->x->k / 256;
  const uint8_t *sizes = qi__qins8_sizes;
  const __m512i table[2] = {_mm512_loadu_si512((const void *)sizes), _mm512_loadu_si512((const void *)(sizes + 64))};
  qi__q8_chunk x = qi__q8_chunk_at(a->x, row, 0);
  __m256 lanes = _mm256_setzero_ps();
  qi__row_sums p;
  memset(&p, 0, sizeof p);
  for (size_t b = 0; b < n_blocks; b += 8, x.d += 8) {
    size_t n = qi__min_size(8, n_blocks - b);
    const uint8_t *first = w;
    for (size_t i = 0; i < n; i++, w += 272, x.q += 256) p.total[i] = qi__block_qins8_vbmi(w, x.q, table);
    lanes = qi__row_take_avx2(QI_FORMAT_QINS8_K, a->format, &p, first, x.d, (int)n, lanes);
  }
  return lanes;
}

QI__FN QI__AVX512_VBMI void qi__dot_qins8_k_vbmi(const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i++)
      a->y[i * a->y_stride + r] = qi__sum_lanes_avx2(qi__row_qins8_vbmi(a, a->w + r * a->w_stride, a->x_row + i));
}
#endif

#endif // QI__KERNELS_DOT_QINS_X86_H
// generated from src/kernels/dot_ternary.h: edit there
// ==== >>dot_ternary : products of ternary weight rows and int8 activations ====
#ifndef QI__KERNELS_DOT_TERNARY_H
#define QI__KERNELS_DOT_TERNARY_H


// TQ1_0, TQ2_0 and I2_S with BitNet's own arithmetic: one scale d_x for a whole row of activations (qi__q8 whose block is k), and a
// weight row as one exact integer sum for as long as its scale stays the same. Blocks beside each other whose scales have the same
// bits form a run, which also ends after each QI__TERNARY_RUN blocks of the row. In each run, exactly (int32):
//
//   total = sum of code_w * code_x        code_w: -1, 0, 1; also 2, since a pair of bits may be 3
//
// and then in float32, runs ascending, from y = 0 on:
//
//   y = fma(d_w * d_x, (float)total, y)
//
// Rows of real ternary models are one run: equal weights give equal bits in all three formats.

// Variants may hold sums of (code + 1) * 127 times up to 256 in eight lanes (the digits of TQ1_0 as fractions):
// 512 * 256 / 8 * 255 * 127 * 3 < 2^31.
#define QI__TERNARY_RUN 512

// Whether the scales of blocks b and b + 1 of `row` differ.
QI__INLINE bool qi__ternary_scale_changes(const qi__format *f, const uint8_t *row, size_t b) {
  if (f->info.tail_bytes) return false; // one scale for the tensor
  size_t size = (size_t)f->info.block_bytes;
  const uint8_t *d = row + (b + 1) * size - 2; // the last two bytes of a block
  return qi__load_u16(d) != qi__load_u16(d + size);
}

// Whether a run ends after block b of the n_blocks of `row`.
QI__INLINE bool qi__ternary_run_ends(const qi__format *f, const uint8_t *row, size_t b, size_t n_blocks) {
  return b + 1 == n_blocks || (b + 1) % QI__TERNARY_RUN == 0 || qi__ternary_scale_changes(f, row, b);
}

QI__FN int32_t qi__ternary_total_ref(const int8_t *code, const int8_t *x) {
  int32_t total = 0;
  for (int i = 0; i < 256; i++) total += code[i] * x[i];
  return total;
}

// Takes each block of weights apart once for up to 16 rows of activations.
QI__FN void qi__dot_ternary_row_ref(const qi__dot_q8_args *a, const uint8_t *w, size_t first, size_t n, float *y) {
  const qi__format *f = a->format;
  size_t k = a->x->k, n_blocks = k / 256;
  int32_t total[16] = {0};
  float sum[16] = {0};
  for (size_t b = 0; b < n_blocks; b++) {
    qi__block block;
    qi__unpack(f, w + b * (size_t)f->info.block_bytes, &block);
    bool ends = qi__ternary_run_ends(f, w, b, n_blocks);
    for (size_t i = 0; i < n; i++) {
      total[i] += qi__ternary_total_ref(block.q, a->x->q + (first + i) * k + 256 * b);
      if (!ends) continue;
      sum[i] = fmaf(block.d * a->x->d[first + i], (float)total[i], sum[i]);
      total[i] = 0;
    }
  }
  for (size_t i = 0; i < n; i++) y[i * a->y_stride] = sum[i];
}

QI__FN void qi__dot_ternary_ref(const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i += 16)
      qi__dot_ternary_row_ref(a, a->w + r * a->w_stride, a->x_row + i, qi__min_size(16, a->n_x - i), a->y + i * a->y_stride + r);
}

// ---- one row of activations: pairs of weight rows ----

#define QI__TERNARY_PAIR 2

// A pair of weight rows with a row of activations.
typedef struct qi__ternary_pair {
  const qi__format *f; // of the table
  const uint8_t *w[QI__TERNARY_PAIR];
  const int8_t *x;
  const int16_t *sum;
  size_t n_blocks;
  float d, d_x; // d: of the tensor
  int32_t total[QI__TERNARY_PAIR]; // of the run
  float y[QI__TERNARY_PAIR];
} qi__ternary_pair;

// Weight rows r, r + 1 of `a`, of format id; beyond the last row the last again.
QI__INLINE qi__ternary_pair qi__ternary_pair_of(qi_format id, const qi__dot_q8_args *a, size_t r) {
  const uint8_t *w = a->w + r * a->w_stride;
  qi__ternary_pair p = {&qi__formats[id], {w, w}, NULL, NULL, a->x->k / 256, a->format->param[0], 0, {0}, {0}};
  if (r + 1 < a->n_w) p.w[1] += a->w_stride;
  return p;
}

// Begins with activation row `row`.
QI__INLINE void qi__ternary_pair_start(qi__ternary_pair *p, const qi__q8 *x, size_t row) {
  p->x = x->q + row * x->k;
  p->sum = x->sum + row * (x->k / 16);
  p->d_x = x->d[row];
  p->y[0] = p->y[1] = 0;
}

QI__INLINE const uint8_t *qi__ternary_block(const qi__ternary_pair *p, int r, size_t b) {
  return p->w[r] + b * (size_t)p->f->info.block_bytes;
}

QI__INLINE bool qi__ternary_pair_changes(const qi__ternary_pair *p, size_t b) {
  return qi__ternary_scale_changes(p->f, p->w[0], b) || qi__ternary_scale_changes(p->f, p->w[1], b);
}

// Adds the sum of blocks up to b of row r. half: makes a float of one
QI__INLINE void qi__ternary_pair_add(qi__ternary_pair *p, int r, int32_t total, size_t b, float (*half)(const uint8_t *)) {
  p->total[r] += total;
  if (!qi__ternary_run_ends(p->f, p->w[r], b, p->n_blocks)) return;
  float d = p->f->info.tail_bytes ? p->d : half(qi__ternary_block(p, r, b + 1) - 2);
  p->y[r] = fmaf(d * p->d_x, (float)p->total[r], p->y[r]);
  p->total[r] = 0;
}

QI__INLINE void qi__ternary_pair_finish(const qi__ternary_pair *p, const qi__dot_q8_args *a, size_t r, float *y) {
  y[r] = p->y[0];
  if (r + 1 < a->n_w) y[r + 1] = p->y[1];
}

#endif // QI__KERNELS_DOT_TERNARY_H
// generated from src/kernels/dot_ternary_neon.h: edit there
// ==== >>dot_ternary_neon : products of ternary rows with NEON, sdot and smmla ====
#ifndef QI__KERNELS_DOT_TERNARY_NEON_H
#define QI__KERNELS_DOT_TERNARY_NEON_H

// generated from src/kernels/panel_q8_neon.h: edit there
// ==== >>panel_q8_neon : integer products with NEON and many rows of activations ====
#ifndef QI__KERNELS_PANEL_Q8_NEON_H
#define QI__KERNELS_PANEL_Q8_NEON_H

// generated from src/kernels/dot_q8_neon.h: edit there
// ==== >>dot_q8_neon : integer products with NEON and sdot ====
#ifndef QI__KERNELS_DOT_Q8_NEON_H
#define QI__KERNELS_DOT_Q8_NEON_H


#if defined(QI__ARM64)

// One row of activations: blocks are taken apart in registers, two weight rows beside each other. Codes are signed, as they are
// multiplied. More rows: panel_q8_neon.h.

// ---- four products by four ----

// sum[l] + a[4 l] * b[4 l] + .. + a[4 l + 3] * b[4 l + 3] for b in -127..127; a constant where the loops below are inlined.
typedef int32x4_t (*qi__dot4_fn)(int32x4_t sum, int8x16_t a, int8x16_t b);

// Two products are at most 2 * 128 * 127, which fits into int16.
QI__INLINE int32x4_t qi__dot4_neon(int32x4_t sum, int8x16_t a, int8x16_t b) {
  int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
  return vpadalq_s16(sum, vpaddq_s16(low, high));
}

// Intrinsics are hidden by clang before 16 unless the whole file is compiled for such a CPU; in GCC before 14 they ask for more of
// their caller than the feature. GNU's assembler wants Armv8.2 besides sdot and smmla: an architecture that is new enough is named
// before each, and the compiler names its own again at the next function.
#if defined(__clang__)
#define QI__DOTPROD QI__TARGET("dotprod")
#define QI__I8MM QI__TARGET("i8mm")
#else
#define QI__DOTPROD QI__TARGET("+dotprod")
#define QI__I8MM QI__TARGET("+i8mm")
#endif
#if defined(__clang__) || __GNUC__ >= 10
#define QI__HAS_I8MM 1
#endif
#if defined(__clang__) || defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_SVE)
#define QI__ASM_SDOT "sdot"
#define QI__ASM_SMMLA "smmla"
#else
#define QI__ASM_SDOT ".arch armv8.4-a+crypto+fp16\n\tsdot"
#define QI__ASM_SMMLA ".arch armv8.6-a+crypto+fp16\n\tsmmla"
#endif

QI__INLINE QI__DOTPROD int32x4_t qi__dot4_dotprod(int32x4_t sum, int8x16_t a, int8x16_t b) {
  __asm__(QI__ASM_SDOT " %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
  return sum;
}

// ---- one row of activations ----

// The row from some block on.
typedef struct qi__x_neon {
  const int8_t *q;
  const float *d;
  const int16_t *sum;
} qi__x_neon;

QI__INLINE qi__x_neon qi__x_at_neon(const qi__q8 *x, size_t row, size_t at) {
  size_t i = row * x->k + at;
  return (qi__x_neon){x->q + i, x->d + i / x->block, x->sum + i / 16};
}

#define QI__NEON_PAIR 2 // weight rows: chains of additions overlap

// Adds the products of codes 32 g .. 32 g + 31 of a block, times their scales.
QI__INLINE void qi__pair_part_neon(qi_format id, const qi__format *f, qi__dot4_fn dot, const uint8_t *const *w,
                                   const qi__block *block, const qi__scales_neon *s, const int8_t *x, int g, int32x4_t *sum) {
  const int32x4_t zero = vdupq_n_s32(0);
  int8x16_t xg[2] = {vld1q_s8(x + 32 * g), vld1q_s8(x + 32 * g + 16)};
  QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
    qi__codes32_neon codes = qi__codes_neon(id, w[r], g, &block[r]);
    if (qi__one_scale_neon(id)) {
      sum[r] = dot(dot(sum[r], codes.half[0], xg[0]), codes.half[1], xg[1]);
    } else if (f->group == 32) {
      sum[r] = vmlaq_n_s32(sum[r], dot(dot(zero, codes.half[0], xg[0]), codes.half[1], xg[1]), s[r].scale[2 * g]);
    } else {
      sum[r] = vmlaq_n_s32(sum[r], dot(zero, codes.half[0], xg[0]), s[r].scale[2 * g]);
      sum[r] = vmlaq_n_s32(sum[r], dot(zero, codes.half[1], xg[1]), s[r].scale[2 * g + 1]);
    }
  }
}

// mins of the contract.
QI__INLINE int32_t qi__total_mins_neon(qi_format id, const qi__format *f, const qi__scales_neon *s, const int16_t *sum) {
  if (f->info.block_len == 32) return qi__one_scale_neon(id) ? sum[0] + sum[1] : s->min[0] * sum[0] + s->min[1] * sum[1];
  int16x8_t m[2] = {vld1q_s16(s->min), vld1q_s16(s->min + 8)}, v[2] = {vld1q_s16(sum), vld1q_s16(sum + 8)};
  int32x4_t total = vmull_s16(vget_low_s16(m[0]), vget_low_s16(v[0]));
  total = vmlal_high_s16(total, m[0], v[0]);
  total = vmlal_s16(total, vget_low_s16(m[1]), vget_low_s16(v[1]));
  return vaddvq_s32(vmlal_high_s16(total, m[1], v[1]));
}

// Block b of both rows.
QI__INLINE void qi__pair_block_neon(qi_format id, const qi__format *bound, qi__dot4_fn dot, const uint8_t *const *w,
                                    const qi__x_neon *x, size_t b, float (*lanes)[8]) {
  const qi__format *f = qi__format_neon(id, bound);
  const int len = f->info.block_len;
  qi__block block[QI__NEON_PAIR];
  qi__scales_neon s[QI__NEON_PAIR];
  int32x4_t sum[QI__NEON_PAIR];
  QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
    qi__block_scales_neon(id, bound, w[r], &block[r], &s[r]);
    sum[r] = vdupq_n_s32(0);
  }
  if (id && len == 256) {
    QI__UNROLL for (int g = 0; g < 8; g++) qi__pair_part_neon(id, f, dot, w, block, s, x->q, g, sum);
  } else {
    for (int g = 0; g < len / 32; g++) qi__pair_part_neon(id, f, dot, w, block, s, x->q, g, sum);
  }
  QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
    float *lane = &lanes[r][b % 8];
    *lane = fmaf(s[r].d * *x->d, (float)vaddvq_s32(sum[r]), *lane);
    if (f->has_min) *lane = fmaf(-(s[r].dmin * *x->d), (float)qi__total_mins_neon(id, f, &s[r], x->sum), *lane);
  }
}

// Four blocks of 32, which end in four lanes, with one scale each.
QI__INLINE void qi__pair_quad_neon(qi_format id, const qi__format *f, qi__dot4_fn dot, const uint8_t *const *w, const qi__x_neon *x,
                                   float32x4_t *lane) {
  qi__block block[QI__NEON_PAIR]; // unused: these formats have a case
  qi__scales_neon s[4][QI__NEON_PAIR];
  int32x4_t sum[4][QI__NEON_PAIR];
  QI__UNROLL for (int b = 0; b < 4; b++) {
    const uint8_t *wb[QI__NEON_PAIR];
    QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
      wb[r] = w[r] + b * f->info.block_bytes;
      qi__block_scales_neon(id, f, wb[r], &block[r], &s[b][r]);
      sum[b][r] = vdupq_n_s32(0);
    }
    qi__pair_part_neon(id, f, dot, wb, block, s[b], x->q + 32 * b, 0, sum[b]);
  }
  float32x4_t d_x = vld1q_f32(x->d);
  QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) {
    int32x4_t totals = vpaddq_s32(vpaddq_s32(sum[0][r], sum[1][r]), vpaddq_s32(sum[2][r], sum[3][r]));
    float32x4_t d = {s[0][r].d, s[1][r].d, s[2][r].d, s[3][r].d};
    lane[r] = vfmaq_f32(lane[r], vmulq_f32(d, d_x), vcvtq_f32_s32(totals));
    if (f->has_min) {
      float32x4_t dmin = {s[0][r].dmin, s[1][r].dmin, s[2][r].dmin, s[3][r].dmin};
      lane[r] = vfmsq_f32(lane[r], vmulq_f32(dmin, d_x), vcvtq_f32_s32(vpaddlq_s16(vld1q_s16(x->sum))));
    }
  }
}

QI__INLINE void qi__x_advance_neon(qi__x_neon *x, size_t n_blocks, size_t len) {
  x->q += n_blocks * len;
  x->d += n_blocks;
  x->sum += n_blocks * len / 16;
}

// Weight rows first, first + 1; beyond the last row the last again.
QI__INLINE void qi__dot_pair_neon(qi_format id, qi__dot4_fn dot, const qi__dot_q8_args *a, size_t first) {
  const qi__format *f = qi__format_neon(id, a->format);
  const size_t len = (size_t)f->info.block_len, size = (size_t)f->info.block_bytes, n_blocks = a->x->k / len;
  const uint8_t *w[QI__NEON_PAIR];
  float lanes[QI__NEON_PAIR][8] = {{0}};
  qi__x_neon x = qi__x_at_neon(a->x, a->x_row, 0);
  size_t b = 0;
  QI__UNROLL for (size_t r = 0; r < QI__NEON_PAIR; r++) w[r] = a->w + qi__min_size(first + r, a->n_w - 1) * a->w_stride;
  if (id && len == 32) {
    float32x4_t lane[2][QI__NEON_PAIR];
    QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) lane[h][r] = vdupq_n_f32(0);
    for (; b + 8 <= n_blocks; b += 8)
      QI__UNROLL for (int h = 0; h < 2; h++) {
        qi__pair_quad_neon(id, f, dot, w, &x, lane[h]);
        qi__x_advance_neon(&x, 4, len);
        QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) w[r] += 4 * size;
      }
    QI__UNROLL for (int h = 0; h < 2; h++)
      QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) vst1q_f32(lanes[r] + 4 * h, lane[h][r]);
  }
  for (; b < n_blocks; b++) {
    qi__pair_block_neon(id, a->format, dot, w, &x, b, lanes);
    qi__x_advance_neon(&x, 1, len);
    QI__UNROLL for (int r = 0; r < QI__NEON_PAIR; r++) w[r] += size;
  }
  QI__UNROLL for (size_t r = 0; r < QI__NEON_PAIR; r++)
    if (first + r < a->n_w) a->y[first + r] = qi__sum_lanes(lanes[r]);
}

// ---- QINS8_K ----

// Its codes need nine bits: the sign goes to x, sizes 0..255 are 2 * (size / 2) + size % 2. For 16 codes.
QI__INLINE int32x4_t qi__qins8_products_neon(qi__dot4_fn dot, const qi__qins8_tables_neon *tables, uint8x16_t codes, int8x16_t x) {
  uint8x16_t sizes = qi__qins8_sizes_neon(tables, codes);
  int8x16_t minus = vshrq_n_s8(vreinterpretq_s8_u8(codes), 7), v = vsubq_s8(veorq_s8(x, minus), minus);
  int32x4_t halves = dot(vdupq_n_s32(0), vreinterpretq_s8_u8(vshrq_n_u8(sizes, 1)), v);
  return dot(vaddq_s32(halves, halves), vreinterpretq_s8_u8(vandq_u8(sizes, vdupq_n_u8(1))), v);
}

// One weight row with one row of activations.
QI__INLINE float qi__dot_qins8_k_row_neon(qi__dot4_fn dot, const qi__qins8_tables_neon *tables, const uint8_t *w, qi__x_neon x,
                                          size_t n_blocks) {
  float lane[8] = {0};
  for (size_t b = 0; b < n_blocks; b++, w += 272) {
    uint8_t scale[16];
    int32x4_t sum = vdupq_n_s32(0);
    vst1q_u8(scale, qi__seven_bits_neon(w + 2));
    for (int g = 0; g < 16; g++)
      sum = vmlaq_n_s32(sum, qi__qins8_products_neon(dot, tables, vld1q_u8(w + 16 + 16 * g), vld1q_s8(x.q + 16 * g)), scale[g]);
    lane[b % 8] = fmaf(qi__half_neon(w) * 0x1p-10f * *x.d, (float)vaddvq_s32(sum), lane[b % 8]);
    qi__x_advance_neon(&x, 1, 256);
  }
  return qi__sum_lanes(lane);
}

QI__INLINE void qi__dot_qins8_k_rows_neon(qi__dot4_fn dot, const qi__dot_q8_args *a) {
  const qi__qins8_tables_neon tables = qi__load_qins8_tables_neon();
  for (size_t r = 0; r < a->n_w; r++)
    for (size_t i = 0; i < a->n_x; i++) {
      qi__x_neon x = qi__x_at_neon(a->x, a->x_row + i, 0);
      a->y[i * a->y_stride + r] = qi__dot_qins8_k_row_neon(dot, &tables, a->w + r * a->w_stride, x, a->x->k / 256);
    }
}

QI__FN void qi__dot_qins8_k_neon(const qi__dot_q8_args *a) { qi__dot_qins8_k_rows_neon(qi__dot4_neon, a); }
QI__FN QI__DOTPROD void qi__dot_qins8_k_dotprod(const qi__dot_q8_args *a) { qi__dot_qins8_k_rows_neon(qi__dot4_dotprod, a); }

// ---- the other formats ----

// All weight rows, one function a format; [QI_FORMAT_NONE] takes all formats that have no other.
#define QI__DOT_ONE(name, id) \
  QI__FN void qi__dot_one_##name##_neon(const qi__dot_q8_args *a) { \
    for (size_t r = 0; r < a->n_w; r += QI__NEON_PAIR) qi__dot_pair_neon(id, qi__dot4_neon, a, r); \
  } \
  QI__FN QI__DOTPROD void qi__dot_one_##name##_dotprod(const qi__dot_q8_args *a) { \
    for (size_t r = 0; r < a->n_w; r += QI__NEON_PAIR) qi__dot_pair_neon(id, qi__dot4_dotprod, a, r); \
  }
QI__NEON_BLOCK_FORMATS(QI__DOT_ONE)
QI__DOT_ONE(any, QI_FORMAT_NONE)
#undef QI__DOT_ONE

#define QI__DOT_ONE(name, id) [id] = qi__dot_one_##name##_neon,
static const qi__dot_q8_fn qi__dot_one_neon[QI_FORMAT_COUNT] = {QI__NEON_BLOCK_FORMATS(QI__DOT_ONE)
                                                                QI__DOT_ONE(any, QI_FORMAT_NONE)};
#undef QI__DOT_ONE

#define QI__DOT_ONE(name, id) [id] = qi__dot_one_##name##_dotprod,
static const qi__dot_q8_fn qi__dot_one_dotprod[QI_FORMAT_COUNT] = {QI__NEON_BLOCK_FORMATS(QI__DOT_ONE)
                                                                   QI__DOT_ONE(any, QI_FORMAT_NONE)};
#undef QI__DOT_ONE

// ---- activations ----

// qi__round_even of four x * inverse, limited to -127..127.
QI__INLINE int16x4_t qi__codes4_neon(const float *x, float inverse) {
  float32x4_t v = vaddq_f32(vmulq_n_f32(vld1q_f32(x), inverse), vdupq_n_f32(12582912.0f));
  int32x4_t q = vsubq_s32(vreinterpretq_s32_f32(v), vdupq_n_s32(0x4b400000));
  return vmovn_s32(vminq_s32(vmaxq_s32(q, vdupq_n_s32(-127)), vdupq_n_s32(127)));
}

// max |x|; NaN does not count. n: a multiple of 16
QI__INLINE float qi__max_size_neon(const float *x, size_t n) {
  float32x4_t max[4];
  QI__UNROLL for (int e = 0; e < 4; e++) max[e] = vdupq_n_f32(0);
  for (size_t i = 0; i < n; i += 16)
    QI__UNROLL for (size_t e = 0; e < 4; e++) {
      float32x4_t v = vabsq_f32(vld1q_f32(x + i + 4 * e));
      max[e] = vbslq_f32(vcgtq_f32(v, max[e]), v, max[e]);
    }
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(max[0], max[1]), vmaxq_f32(max[2], max[3])));
}

QI__FN void qi__quantize_q8_neon(const float *x, const qi__q8 *out, size_t row) {
  size_t k = out->k, block = out->block;
  int8_t *q = out->q + row * k;
  float *d = out->d + row * (k / block);
  int16_t *sum = out->sum + row * (k / 16);
  for (size_t b = 0; b < k / block; b++) {
    float max = qi__max_size_neon(x + b * block, block);
    float inverse = max > 0 ? 127.0f / max : 0;
    d[b] = max / 127.0f;
    if (!qi__is_finite(inverse)) inverse = d[b] = 0;
    for (size_t i = b * block; i < (b + 1) * block; i += 16) {
      int16x8_t low = vcombine_s16(qi__codes4_neon(x + i, inverse), qi__codes4_neon(x + i + 4, inverse));
      int16x8_t high = vcombine_s16(qi__codes4_neon(x + i + 8, inverse), qi__codes4_neon(x + i + 12, inverse));
      vst1q_s8(q + i, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
      sum[i / 16] = vaddvq_s16(vaddq_s16(low, high));
    }
  }
}
#endif

#endif // QI__KERNELS_DOT_Q8_NEON_H

#if defined(QI__ARM64)

// A chunk of 256 columns (one block, or up to eight of 32) of all weight rows is taken apart into a panel, which meets all rows of
// activations; their sums wait in eight lanes each until the next chunk. Everything goes in tiles of 2 x 2 sums
//
//   (x0 w0) (x0 w1) (x1 w0) (x1 w1)       w0, w1: weight rows, x0, x1: rows of activations
//
// which is what smmla makes of eight codes of x0 and eight of x1 with eight of w0 and eight of w1. With sdot a register of weights
// meets eight codes of x0, twice, then of x1, and neighbours are added.
typedef struct qi__panel_neon {
  int8_t code[8][QI__Q8_ROWS / 2][64];                  // [k / 32][row / 2]: eight codes of one row, eight of the other, and so on
  int32_t scale[16][QI__Q8_ROWS], min[16][QI__Q8_ROWS]; // [k / 16]; formats with one scale a block leave `scale` out
  float d[8][QI__Q8_ROWS], dmin[8][QI__Q8_ROWS];        // [block]
} qi__panel_neon;

// [2 rows of activations][lane][weight rows / 2]: tiles
typedef float qi__tiles_neon[8][QI__Q8_ROWS / 2][4];

// An odd last row of activations has a partner beyond the rows that qi__q8_scratch counts.
QI__STATIC_ASSERT(sizeof(qi__panel_neon) + sizeof(qi__tiles_neon) / 2 <= QI__Q8_PANEL_FLOATS * sizeof(float), panel_neon);

// ---- weights to a panel ----

// Row r of the panel: n blocks at w.
QI__INLINE void qi__panel_row_neon(qi_format id, const qi__format *bound, const uint8_t *w, int n, size_t r, qi__panel_neon *p) {
  const qi__format *f = qi__format_neon(id, bound);
  const int len = f->info.block_len;
  qi__block block;
  qi__scales_neon s;
  for (int b = 0; b < n; b++, w += f->info.block_bytes) {
    qi__block_scales_neon(id, bound, w, &block, &s);
    p->d[b][r] = s.d;
    p->dmin[b][r] = s.dmin;
    for (int i = 0; i < len / 16; i++) {
      int at = b * (len / 16) + i;
      if (!qi__one_scale_neon(id)) p->scale[at][r] = s.scale[i];
      if (f->has_min) p->min[at][r] = qi__one_scale_neon(id) ? 1 : s.min[i];
    }
    for (int g = 0; g < len / 32; g++) {
      qi__codes32_neon codes = qi__codes_neon(id, w, g, &block);
      int8_t *dst = p->code[b * (len / 32) + g][r / 2] + r % 2 * 8;
      QI__UNROLL for (int h = 0; h < 2; h++) {
        vst1_s8(dst + 32 * h, vget_low_s8(codes.half[h]));
        vst1_s8(dst + 32 * h + 16, vget_high_s8(codes.half[h]));
      }
    }
  }
}

// n blocks at column `at` of all weight rows, and of the last one again until there are `n_rows`.
QI__FN void qi__panel_fill_neon(const qi__dot_q8_args *a, size_t n_rows, size_t at, int n, qi__panel_neon *p) {
  const qi__format *f = a->format;
  const uint8_t *first = a->w + at / (size_t)f->info.block_len * (size_t)f->info.block_bytes;
  for (size_t r = 0; r < n_rows; r++) {
    const uint8_t *w = first + qi__min_size(r, a->n_w - 1) * a->w_stride;
#define QI__CASE(name, id) case id: qi__panel_row_neon(id, f, w, n, r, p); break;
    switch (qi__format_id(f)) {
      QI__NEON_BLOCK_FORMATS(QI__CASE)
    default: qi__panel_row_neon(QI_FORMAT_NONE, f, w, n, r, p); break;
    }
#undef QI__CASE
  }
}

// ---- what differs between the instruction sets; constants where the loops below are inlined ----

// Codes 32 g .. 32 g + 31 of two rows of activations, as `products` wants them.
typedef void (*qi__load_x_neon)(const int8_t *const *q, int g, int8x16_t *x);

// sum + products of codes 8 first .. 8 (first + n) - 1 of 32: a tile.
typedef int32x4_t (*qi__products_neon)(int32x4_t sum, const int8_t *code, const int8x16_t *x, int first, int n);

// Eight codes twice; x0, then x1.
QI__INLINE void qi__load_x_twice_neon(const int8_t *const *q, int g, int8x16_t *x) {
  QI__UNROLL for (int i = 0; i < 8; i++) {
    int8x8_t v = vld1_s8(q[i / 4] + 32 * g + i % 4 * 8);
    x[i] = vcombine_s8(v, v);
  }
}

QI__INLINE int32x4_t qi__products_dot4_neon(qi__dot4_fn dot, int32x4_t sum, const int8_t *code, const int8x16_t *x, int first,
                                            int n) {
  int32x4_t part[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
  QI__UNROLL for (int i = first; i < first + n; i++) {
    int8x16_t w = vld1q_s8(code + 16 * i);
    part[0] = dot(part[0], w, x[i]);
    part[1] = dot(part[1], w, x[4 + i]);
  }
  return vaddq_s32(sum, vpaddq_s32(part[0], part[1]));
}

QI__INLINE int32x4_t qi__products_plain_neon(int32x4_t sum, const int8_t *code, const int8x16_t *x, int first, int n) {
  return qi__products_dot4_neon(qi__dot4_neon, sum, code, x, first, n);
}

QI__INLINE QI__DOTPROD int32x4_t qi__products_dotprod_neon(int32x4_t sum, const int8_t *code, const int8x16_t *x, int first,
                                                           int n) {
  return qi__products_dot4_neon(qi__dot4_dotprod, sum, code, x, first, n);
}

#if defined(QI__HAS_I8MM)

// Eight codes of x0 and eight of x1.
QI__INLINE void qi__load_x_pairs_neon(const int8_t *const *q, int g, int8x16_t *x) {
  QI__UNROLL for (int i = 0; i < 2; i++) {
    int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(q[0] + 32 * g + 16 * i));
    int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(q[1] + 32 * g + 16 * i));
    x[2 * i] = vreinterpretq_s8_s64(vtrn1q_s64(a, b));
    x[2 * i + 1] = vreinterpretq_s8_s64(vtrn2q_s64(a, b));
  }
}

QI__INLINE QI__I8MM int32x4_t qi__products_i8mm_neon(int32x4_t sum, const int8_t *code, const int8x16_t *x, int first, int n) {
  QI__UNROLL for (int i = first; i < first + n; i++)
    __asm__(QI__ASM_SMMLA " %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x[i]), "w"(vld1q_s8(code + 16 * i)));
  return sum;
}
#endif

// ---- tiles ----

// Two values, twice.
QI__INLINE int32x4_t qi__twice_s32_neon(const int32_t *p) {
  int32x2_t v = vld1_s32(p);
  return vcombine_s32(v, v);
}
QI__INLINE float32x4_t qi__twice_f32_neon(const float *p) {
  float32x2_t v = vld1_f32(p);
  return vcombine_f32(v, v);
}

// Two rows of activations: a chunk of them.
typedef struct qi__x_pair_neon {
  const int8_t *q[2];
  float d[8][4];       // [block]: of x0, x0, x1, x1
  int32_t sum[16][4];  // the same of each group of 16, or of 32, if the format has a minimum
  qi__tiles_neon *tiles;
} qi__x_pair_neon;

QI__INLINE void qi__x_pair_at_neon(const qi__dot_q8_args *a, size_t row, size_t partner, size_t at, int n, int group,
                                   qi__x_pair_neon *out) {
  qi__x_neon x[2] = {qi__x_at_neon(a->x, row, at), qi__x_at_neon(a->x, partner, at)};
  for (int j = 0; j < 2; j++) {
    out->q[j] = x[j].q;
    for (int b = 0; b < n; b++) out->d[b][2 * j] = out->d[b][2 * j + 1] = x[j].d[b];
    if (!a->format->has_min) continue;
    for (int i = 0; i < n * a->format->info.block_len / group; i++) {
      int32_t sum = group == 16 ? x[j].sum[i] : x[j].sum[2 * i] + x[j].sum[2 * i + 1];
      out->sum[i][2 * j] = out->sum[i][2 * j + 1] = sum;
    }
  }
}

// What is a constant where loops are inlined.
typedef struct qi__panel_kind_neon {
  qi__load_x_neon load;
  qi__products_neon products;
  int n_pairs; // of rows of activations at a time: 1, or 2 where registers suffice
  int block_len, group;
  bool one_scale;
} qi__panel_kind_neon;

#define QI__NEON_TILES 4 // pairs of weight rows that are multiplied at a time

// Integer sums of block b: pairs of weight rows first .. first + 3, times n_pairs of rows of activations.
QI__INLINE void qi__panel_products_neon(qi__panel_kind_neon kind, const qi__panel_neon *p, size_t first, int b,
                                        const qi__x_pair_neon *x, int32x4_t (*sum)[QI__NEON_TILES]) {
  const int32x4_t zero = vdupq_n_s32(0);
  const int n = kind.block_len / 32;
  QI__UNROLL for (int j = 0; j < kind.n_pairs; j++) QI__UNROLL for (int t = 0; t < QI__NEON_TILES; t++) sum[j][t] = zero;
  for (int g = b * n; g < (b + 1) * n; g++) {
    int8x16_t v[2][8];
    QI__UNROLL for (int j = 0; j < kind.n_pairs; j++) kind.load(x[j].q, g, v[j]);
    QI__UNROLL for (size_t t = 0; t < QI__NEON_TILES; t++) {
      const int8_t *code = p->code[g][first + t];
      const int32_t *scale = &p->scale[2 * g][2 * (first + t)];
      QI__UNROLL for (int j = 0; j < kind.n_pairs; j++) {
        if (kind.one_scale) {
          sum[j][t] = kind.products(sum[j][t], code, v[j], 0, 4);
        } else if (kind.group == 32) {
          sum[j][t] = vmlaq_s32(sum[j][t], kind.products(zero, code, v[j], 0, 4), qi__twice_s32_neon(scale));
        } else {
          sum[j][t] = vmlaq_s32(sum[j][t], kind.products(zero, code, v[j], 0, 2), qi__twice_s32_neon(scale));
          sum[j][t] = vmlaq_s32(sum[j][t], kind.products(zero, code, v[j], 2, 2), qi__twice_s32_neon(scale + QI__Q8_ROWS));
        }
      }
    }
  }
}

// Adds block b to lane `lane`.
QI__INLINE void qi__panel_block_neon(qi__panel_kind_neon kind, bool has_min, const qi__panel_neon *p, size_t first, int b,
                                     size_t lane, const qi__x_pair_neon *x) {
  const int n_mins = kind.block_len / kind.group;
  int32x4_t sum[2][QI__NEON_TILES];
  qi__panel_products_neon(kind, p, first, b, x, sum);
  QI__UNROLL for (int j = 0; j < kind.n_pairs; j++) QI__UNROLL for (size_t t = 0; t < QI__NEON_TILES; t++) {
    float *at = (*x[j].tiles)[lane][first + t];
    size_t row = 2 * (first + t);
    float32x4_t d_x = vld1q_f32(x[j].d[b]), y = vld1q_f32(at);
    y = vfmaq_f32(y, vmulq_f32(qi__twice_f32_neon(p->d[b] + row), d_x), vcvtq_f32_s32(sum[j][t]));
    if (has_min) {
      int32x4_t mins = vdupq_n_s32(0);
      for (int i = b * n_mins; i < (b + 1) * n_mins; i++)
        mins = vmlaq_s32(mins, qi__twice_s32_neon(&p->min[i * (kind.group / 16)][row]), vld1q_s32(x[j].sum[i]));
      y = vfmsq_f32(y, vmulq_f32(qi__twice_f32_neon(p->dmin[b] + row), d_x), vcvtq_f32_s32(mins));
    }
    vst1q_f32(at, y);
  }
}

// ---- all rows ----

// What a batch of rows of activations meets.
typedef struct qi__panel_run_neon {
  const qi__dot_q8_args *a;
  size_t begin, n_x; // rows of activations a->x_row + begin ..
  size_t at;         // column
  int n;             // blocks
  size_t n_tiles;
  const qi__panel_neon *panel;
  qi__tiles_neon *tiles; // [n_x / 2]
} qi__panel_run_neon;

// kind.n_pairs pairs of rows, from i on. An odd last row is its own partner.
QI__INLINE void qi__panel_pairs_neon(qi__panel_kind_neon kind, const qi__panel_run_neon *run, size_t i) {
  qi__x_pair_neon x[2];
  size_t row = run->a->x_row + run->begin, n = (size_t)(256 / kind.block_len);
  for (int j = 0; j < kind.n_pairs; j++, i += 2) {
    qi__x_pair_at_neon(run->a, row + i, row + qi__min_size(i + 1, run->n_x - 1), run->at, run->n, kind.group, &x[j]);
    x[j].tiles = &run->tiles[i / 2];
  }
  for (int b = 0; b < run->n; b++)
    for (size_t first = 0; first < run->n_tiles; first += QI__NEON_TILES)
      qi__panel_block_neon(kind, run->a->format->has_min, run->panel, first, b, (run->at / 256 * n + (size_t)b) % 8, x);
}

QI__INLINE void qi__panel_run_neon_kind(qi__panel_kind_neon kind, const qi__panel_run_neon *run) {
  size_t i = 0;
  if (kind.n_pairs == 2)
    for (; i + 2 < run->n_x; i += 4) qi__panel_pairs_neon(kind, run, i);
  kind.n_pairs = 1;
  for (; i < run->n_x; i += 2) qi__panel_pairs_neon(kind, run, i);
}

// One scale a block: none in the loops. Blocks of 32 without a case: theirs are kept for each 16 codes.
QI__INLINE void qi__panel_run_any_neon(qi__load_x_neon load, qi__products_neon products, int n_pairs, bool one_scale,
                                       const qi__panel_run_neon *run) {
  const qi__format *f = run->a->format;
  if (f->info.block_len == 32) {
    if (one_scale) qi__panel_run_neon_kind((qi__panel_kind_neon){load, products, n_pairs, 32, 32, true}, run);
    else qi__panel_run_neon_kind((qi__panel_kind_neon){load, products, n_pairs, 32, 16, false}, run);
  } else if (f->group == 32) {
    qi__panel_run_neon_kind((qi__panel_kind_neon){load, products, n_pairs, 256, 32, false}, run);
  } else {
    qi__panel_run_neon_kind((qi__panel_kind_neon){load, products, n_pairs, 256, 16, false}, run);
  }
}

// y of the batch: qi__sum_lanes of each tile.
QI__FN void qi__panel_finish_neon(const qi__panel_run_neon *run) {
  for (size_t i = 0; i < run->n_x; i += 2)
    for (size_t r = 0; r < run->a->n_w; r += 2) {
      float32x4_t lane[8];
      float sum[4];
      for (int l = 0; l < 8; l++) lane[l] = vld1q_f32(run->tiles[i / 2][l][r / 2]);
      float32x4_t even = vaddq_f32(vaddq_f32(lane[0], lane[4]), vaddq_f32(lane[2], lane[6]));
      float32x4_t odd = vaddq_f32(vaddq_f32(lane[1], lane[5]), vaddq_f32(lane[3], lane[7]));
      vst1q_f32(sum, vaddq_f32(even, odd));
      for (size_t j = 0; j < 4; j++)
        if (i + j / 2 < run->n_x && r + j % 2 < run->a->n_w)
          run->a->y[(run->begin + i + j / 2) * run->a->y_stride + r + j % 2] = sum[j];
    }
}

QI__FN bool qi__has_one_scale_neon(qi_format id) {
#define QI__CASE(name, id) case id: return qi__one_scale_neon(id);
  switch (id) {
    QI__NEON_BLOCK_FORMATS(QI__CASE)
  default: return false;
  }
#undef QI__CASE
}

QI__INLINE void qi__dot_panels_neon(qi__load_x_neon load, qi__products_neon products, int n_pairs, const qi__dot_q8_args *a) {
  qi__panel_neon *panel = (qi__panel_neon *)(void *)a->scratch;
  qi__tiles_neon *tiles = (qi__tiles_neon *)(void *)(panel + 1);
  size_t len = (size_t)a->format->info.block_len;
  size_t n_tiles = (a->n_w + 2 * QI__NEON_TILES - 1) / (2 * QI__NEON_TILES) * QI__NEON_TILES;
  bool one_scale = qi__has_one_scale_neon(qi__format_id(a->format));
  for (size_t begin = 0; begin < a->n_x; begin += QI__Q8_BATCH) {
    qi__panel_run_neon run = {a, begin, qi__min_size(QI__Q8_BATCH, a->n_x - begin), 0, 0, n_tiles, panel, tiles};
    memset(tiles, 0, (run.n_x + 1) / 2 * sizeof *tiles);
    for (run.at = 0; run.at < a->x->k; run.at += 256) {
      run.n = (int)(qi__min_size(256, a->x->k - run.at) / len);
      qi__panel_fill_neon(a, 2 * n_tiles, run.at, run.n, panel);
      qi__panel_run_any_neon(load, products, n_pairs, one_scale, &run);
    }
    qi__panel_finish_neon(&run);
  }
}

// ---- the kernels ----

QI__FN void qi__dot_several_neon(const qi__dot_q8_args *a) {
  qi__dot_panels_neon(qi__load_x_twice_neon, qi__products_plain_neon, 1, a);
}

QI__FN QI__DOTPROD void qi__dot_several_dotprod(const qi__dot_q8_args *a) {
  qi__dot_panels_neon(qi__load_x_twice_neon, qi__products_dotprod_neon, 1, a);
}

QI__FN void qi__dot_one_of_neon(const qi__dot_q8_fn *kernels, const qi__dot_q8_args *a) {
  qi__dot_q8_fn kernel = kernels[qi__format_id(a->format)];
  (kernel ? kernel : kernels[QI_FORMAT_NONE])(a);
}

QI__FN void qi__dot_q8_neon(const qi__dot_q8_args *a) {
  if (a->n_x == 1) qi__dot_one_of_neon(qi__dot_one_neon, a);
  else qi__dot_several_neon(a);
}

QI__FN void qi__dot_q8_dotprod(const qi__dot_q8_args *a) {
  if (a->n_x == 1) qi__dot_one_of_neon(qi__dot_one_dotprod, a);
  else qi__dot_several_dotprod(a);
}

#if defined(QI__HAS_I8MM)
QI__FN QI__I8MM void qi__dot_several_i8mm(const qi__dot_q8_args *a) {
  qi__dot_panels_neon(qi__load_x_pairs_neon, qi__products_i8mm_neon, 2, a);
}

// One row leaves half of smmla without work.
QI__FN void qi__dot_q8_i8mm(const qi__dot_q8_args *a) {
  if (a->n_x == 1) qi__dot_one_of_neon(qi__dot_one_dotprod, a);
  else qi__dot_several_i8mm(a);
}
#endif
#endif

#endif // QI__KERNELS_PANEL_Q8_NEON_H
// generated from src/kernels/panel_ternary.h: edit there
// ==== >>panel_ternary : products of ternary rows and many rows of activations ====
#ifndef QI__KERNELS_PANEL_TERNARY_H
#define QI__KERNELS_PANEL_TERNARY_H


// 32 weight rows are taken apart a slice of columns at a time; the panel stays in the second-level cache while all rows of
// activations pass it. Columns without the end of a run inside are a segment: there the product is one of integers alone.

#define QI__TERNARY_SLICE 12 // blocks
#define QI__TERNARY_X 32     // rows of activations at a time

typedef struct qi__ternary_panel {
  uint8_t code[QI__TERNARY_SLICE][QI__Q8_ROWS * 256]; // as the variant likes it
  float d[QI__TERNARY_SLICE][QI__Q8_ROWS];
  int32_t ends[QI__TERNARY_SLICE][QI__Q8_ROWS]; // -1: a run ends after this block
  bool any_ends[QI__TERNARY_SLICE];
  int32_t sums[QI__TERNARY_X][QI__Q8_ROWS]; // of a segment
} qi__ternary_panel;

// What a row of activations has added up to.
typedef struct qi__ternary_state {
  float y[QI__Q8_ROWS];
  int32_t total[QI__Q8_ROWS]; // of the run
} qi__ternary_state;

QI__STATIC_ASSERT(sizeof(qi__ternary_panel) <= QI__Q8_PANELS * QI__Q8_PANEL_FLOATS * sizeof(float), ternary_panel);
QI__STATIC_ASSERT(sizeof(qi__ternary_state) <= QI__Q8_LANES * sizeof(float), ternary_state);

// What differs between instruction sets.
typedef struct qi__ternary_kernels {
  // One block of weight rows r .. r + 7 to the panel.
  void (*pack)(qi_format id, const uint8_t *const *w, size_t r, uint8_t *code);
  // sums[i][r] = products of n_blocks blocks with n_x <= QI__TERNARY_X rows of activations, k bytes apart.
  void (*multiply)(const uint8_t *code, size_t n_blocks, const int8_t *x, size_t k, size_t n_x, int32_t (*sums)[QI__Q8_ROWS]);
  // Adds such sums, less x_sum, to a state; the segment ends with block b of the panel.
  void (*take)(const qi__ternary_panel *p, size_t b, const int32_t *sums, int32_t x_sum, float d_x, qi__ternary_state *s);
  // The sum of the activations of n_blocks blocks, from their sums by 16, if the panel holds code + 1; else NULL.
  int32_t (*x_sum)(const int16_t *sum, size_t n_blocks);
} qi__ternary_kernels;

// Blocks first .. first + n - 1 of all weight rows, and of the last one again until there are 32.
QI__FN void qi__ternary_fill(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, size_t first, size_t n,
                             qi__ternary_panel *p) {
  const qi__format *f = a->format;
  size_t size = (size_t)f->info.block_bytes, n_blocks = a->x->k / 256;
  for (size_t b = 0; b < n; b++) {
    const uint8_t *w[8];
    p->any_ends[b] = false;
    for (size_t r = 0; r < QI__Q8_ROWS; r++) {
      const uint8_t *row = a->w + qi__min_size(r, a->n_w - 1) * a->w_stride;
      bool ends = qi__ternary_run_ends(f, row, first + b, n_blocks);
      w[r % 8] = row + (first + b) * size;
      p->d[b][r] = f->info.tail_bytes ? f->param[0] : qi__f16_to_f32(qi__load_u16(w[r % 8] + size - 2));
      p->ends[b][r] = -ends;
      if (ends) p->any_ends[b] = true;
      if (r % 8 == 7) kernels->pack(qi__format_id(f), w, r - 7, p->code[b]);
    }
  }
}

// Blocks first .. first + n - 1, which are in the panel, with n_x rows of activations from `row` on.
QI__FN void qi__ternary_segments(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, qi__ternary_panel *p, size_t first,
                                 size_t n, size_t row, size_t n_x, qi__ternary_state *state) {
  size_t k = a->x->k;
  for (size_t b = 0, end; b < n; b = end) {
    for (end = b + 1; end < n && !p->any_ends[end - 1];) end++;
    kernels->multiply(p->code[b], end - b, a->x->q + row * k + 256 * (first + b), k, n_x, p->sums);
    for (size_t i = 0; i < n_x; i++) {
      const int16_t *sum = a->x->sum + (row + i) * (k / 16) + 16 * (first + b);
      int32_t x_sum = kernels->x_sum ? kernels->x_sum(sum, end - b) : 0;
      kernels->take(p, end - 1, p->sums[i], x_sum, a->x->d[row + i], &state[i]);
    }
  }
}

QI__FN void qi__ternary_batch(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a, size_t row, size_t n_x, float *y) {
  qi__ternary_panel *p = (qi__ternary_panel *)(void *)a->scratch;
  qi__ternary_state *state = (qi__ternary_state *)(void *)(a->scratch + QI__Q8_PANELS * QI__Q8_PANEL_FLOATS);
  size_t n_blocks = a->x->k / 256;
  memset(state, 0, n_x * sizeof *state);
  for (size_t first = 0; first < n_blocks; first += QI__TERNARY_SLICE) {
    size_t n = qi__min_size(QI__TERNARY_SLICE, n_blocks - first);
    qi__ternary_fill(kernels, a, first, n, p);
    for (size_t i = 0; i < n_x; i += QI__TERNARY_X)
      qi__ternary_segments(kernels, a, p, first, n, row + i, qi__min_size(QI__TERNARY_X, n_x - i), state + i);
  }
  for (size_t i = 0; i < n_x; i++) memcpy(y + i * a->y_stride, state[i].y, a->n_w * sizeof *y);
}

QI__FN void qi__dot_ternary_panels(const qi__ternary_kernels *kernels, const qi__dot_q8_args *a) {
  for (size_t i = 0; i < a->n_x; i += QI__Q8_BATCH)
    qi__ternary_batch(kernels, a, a->x_row + i, qi__min_size(QI__Q8_BATCH, a->n_x - i), a->y + i * a->y_stride);
}

#endif // QI__KERNELS_PANEL_TERNARY_H

#if defined(QI__ARM64)

// ---- one row of activations ----

// 16 bytes of row r times activations: pairs of bits are multiplied where they stand, 1, 4 or 16 times too large; such sums are
// divided at the end, exactly. x: what the lowest bits meet; step: from there to the next.
QI__INLINE void qi__ternary_pairs_neon(qi__dot4_fn dot, uint8x16_t v, const int8_t *x, int step, int32x4_t *sum) {
  int8x16_t low = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(3))), second = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(12)));
  int8x16_t third = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(48))), top = vreinterpretq_s8_u8(vshrq_n_u8(v, 6));
  sum[0] = dot(sum[0], low, vld1q_s8(x));
  sum[1] = dot(sum[1], second, vld1q_s8(x + step));
  sum[2] = dot(sum[2], third, vld1q_s8(x + 2 * step));
  sum[3] = dot(sum[3], top, vld1q_s8(x + 3 * step));
}

// total[r] = products of row r; blocks from b on, until a scale changes: how far is returned.
QI__INLINE size_t qi__ternary_run_neon(qi_format id, qi__dot4_fn dot, const qi__ternary_pair *p, size_t b, int32_t *total) {
  size_t end = qi__min_size(p->n_blocks, b / QI__TERNARY_RUN * QI__TERNARY_RUN + QI__TERNARY_RUN);
  int32x4_t sum[QI__TERNARY_PAIR][4], x_sum = vdupq_n_s32(0);
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) QI__UNROLL for (int e = 0; e < 4; e++) sum[r][e] = x_sum;
  do {
    const int8_t *x = p->x + 256 * b;
    const int16_t *sums = p->sum + 16 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)};
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
      if (id == QI_FORMAT_TQ1_0) {
        QI__UNROLL for (int g = 0; g < 8; g++) {
          qi__codes32_neon codes = qi__codes_neon(id, w[r], g, NULL);
          sum[r][g % 4] = dot(sum[r][g % 4], codes.half[0], vld1q_s8(x + 32 * g));
          sum[r][g % 4] = dot(sum[r][g % 4], codes.half[1], vld1q_s8(x + 32 * g + 16));
        }
      } else {
        QI__UNROLL for (int i = 0; i < 4; i++) {
          const int8_t *xi = x + i / 2 * 128 + i % 2 * 16;
          if (id == QI_FORMAT_TQ2_0) qi__ternary_pairs_neon(dot, vld1q_u8(w[r] + 16 * i), xi, 32, sum[r]);
          else qi__ternary_pairs_neon(dot, vld1q_u8(w[r] + 16 * i), xi + 96, -32, sum[r]);
        }
      }
    }
    x_sum = vpadalq_s16(vpadalq_s16(x_sum, vld1q_s16(sums)), vld1q_s16(sums + 8));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    if (id != QI_FORMAT_TQ1_0) { // u = code + 1 was multiplied
      sum[r][0] = vsubq_s32(sum[r][0], x_sum);
      sum[r][1] = vshrq_n_s32(sum[r][1], 2);
      sum[r][2] = vshrq_n_s32(sum[r][2], 4);
    }
    total[r] = vaddvq_s32(vaddq_s32(vaddq_s32(sum[r][0], sum[r][1]), vaddq_s32(sum[r][2], sum[r][3])));
  }
  return b;
}

QI__INLINE void qi__ternary_rows_neon(qi_format id, qi__dot4_fn dot, const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r += QI__TERNARY_PAIR) {
    qi__ternary_pair p = qi__ternary_pair_of(id, a, r);
    for (size_t i = 0; i < a->n_x; i++) {
      qi__ternary_pair_start(&p, a->x, a->x_row + i);
      for (size_t b = 0; b < p.n_blocks;) {
        int32_t total[QI__TERNARY_PAIR];
        b = qi__ternary_run_neon(id, dot, &p, b, total);
        for (int j = 0; j < QI__TERNARY_PAIR; j++) qi__ternary_pair_add(&p, j, total[j], b - 1, qi__half_neon);
      }
      qi__ternary_pair_finish(&p, a, r, a->y + i * a->y_stride);
    }
  }
}

// ---- many rows of activations ----

// The panel holds signed codes: [k / 32][row / 2][64] as in panel_q8_neon.h.
QI__INLINE void qi__ternary_pack_neon_of(qi_format id, const uint8_t *const *w, size_t first, uint8_t *code) {
  for (size_t r = 0; r < 8; r++)
    for (int g = 0; g < 8; g++) {
      qi__codes32_neon codes = qi__codes_neon(id, w[r], g, NULL);
      int8_t *dst = (int8_t *)code + ((size_t)g * (QI__Q8_ROWS / 2) + (first + r) / 2) * 64 + r % 2 * 8;
      QI__UNROLL for (int h = 0; h < 2; h++) {
        vst1_s8(dst + 32 * h, vget_low_s8(codes.half[h]));
        vst1_s8(dst + 32 * h + 16, vget_high_s8(codes.half[h]));
      }
    }
}

QI__FN void qi__ternary_pack_neon(qi_format id, const uint8_t *const *w, size_t r, uint8_t *code) {
  if (id == QI_FORMAT_TQ1_0) qi__ternary_pack_neon_of(QI_FORMAT_TQ1_0, w, r, code);
  else if (id == QI_FORMAT_TQ2_0) qi__ternary_pack_neon_of(QI_FORMAT_TQ2_0, w, r, code);
  else qi__ternary_pack_neon_of(QI_FORMAT_I2_S, w, r, code);
}

QI__FN void qi__ternary_take_neon(const qi__ternary_panel *p, size_t b, const int32_t *sums, int32_t x_sum, float d_x,
                                  qi__ternary_state *s) {
  for (size_t r = 0; r < QI__Q8_ROWS; r += 4) {
    int32x4_t total = vsubq_s32(vaddq_s32(vld1q_s32(s->total + r), vld1q_s32(sums + r)), vdupq_n_s32(x_sum));
    uint32x4_t ends = vreinterpretq_u32_s32(vld1q_s32(p->ends[b] + r));
    float32x4_t y = vld1q_f32(s->y + r), sum = vfmaq_f32(y, vmulq_n_f32(vld1q_f32(p->d[b] + r), d_x), vcvtq_f32_s32(total));
    vst1q_f32(s->y + r, vbslq_f32(ends, sum, y));
    vst1q_s32(s->total + r, vbicq_s32(total, vreinterpretq_s32_u32(ends)));
  }
}

// n_pairs of rows of activations at a time, in tiles as in panel_q8_neon.h; beyond the last row the last again.
QI__INLINE void qi__ternary_tiles_neon(qi__load_x_neon load, qi__products_neon products, int n_pairs, const uint8_t *code,
                                       size_t n_blocks, const int8_t *x, size_t k, size_t n_x, int32_t (*sums)[QI__Q8_ROWS]) {
  for (size_t i = 0; i < n_x; i += 2 * (size_t)n_pairs) {
    size_t row[2][2];
    const int8_t *q[2][2];
    for (size_t j = 0; j < 2 * (size_t)n_pairs; j++) {
      row[j / 2][j % 2] = qi__min_size(i + j, n_x - 1);
      q[j / 2][j % 2] = x + row[j / 2][j % 2] * k;
    }
    for (size_t first = 0; first < QI__Q8_ROWS / 2; first += QI__NEON_TILES) {
      int32x4_t sum[2][QI__NEON_TILES];
      QI__UNROLL for (int j = 0; j < n_pairs; j++) QI__UNROLL for (int t = 0; t < QI__NEON_TILES; t++) sum[j][t] = vdupq_n_s32(0);
      for (size_t g = 0; g < 8 * n_blocks; g++) {
        int8x16_t v[2][8];
        QI__UNROLL for (int j = 0; j < n_pairs; j++) load(q[j], (int)g, v[j]);
        QI__UNROLL for (size_t t = 0; t < QI__NEON_TILES; t++) {
          const int8_t *w = (const int8_t *)code + (g * (QI__Q8_ROWS / 2) + first + t) * 64;
          QI__UNROLL for (int j = 0; j < n_pairs; j++) sum[j][t] = products(sum[j][t], w, v[j], 0, 4);
        }
      }
      QI__UNROLL for (int j = 0; j < n_pairs; j++) QI__UNROLL for (size_t t = 0; t < QI__NEON_TILES; t++) {
        vst1_s32(sums[row[j][0]] + 2 * (first + t), vget_low_s32(sum[j][t]));
        vst1_s32(sums[row[j][1]] + 2 * (first + t), vget_high_s32(sum[j][t]));
      }
    }
  }
}

// ---- the kernels ----

#define QI__TERNARY_MULTIPLY(isa, target, load, products, n_pairs) \
  QI__FN target void qi__ternary_multiply_##isa(const uint8_t *code, size_t n_blocks, const int8_t *x, size_t k, size_t n_x, \
                                                int32_t (*sums)[QI__Q8_ROWS]) { \
    qi__ternary_tiles_neon(load, products, n_pairs, code, n_blocks, x, k, n_x, sums); \
  }
QI__TERNARY_MULTIPLY(neon, , qi__load_x_twice_neon, qi__products_plain_neon, 1)
QI__TERNARY_MULTIPLY(dotprod, QI__DOTPROD, qi__load_x_twice_neon, qi__products_dotprod_neon, 1)
#if defined(QI__HAS_I8MM)
QI__TERNARY_MULTIPLY(i8mm, QI__I8MM, qi__load_x_pairs_neon, qi__products_i8mm_neon, 2)
#endif
#undef QI__TERNARY_MULTIPLY

#define QI__TERNARY_ROW(isa, target, dot) \
  QI__FN target void qi__ternary_row_##isa(const qi__dot_q8_args *a) { \
    qi_format id = qi__format_id(a->format); \
    if (id == QI_FORMAT_TQ1_0) qi__ternary_rows_neon(QI_FORMAT_TQ1_0, dot, a); \
    else if (id == QI_FORMAT_TQ2_0) qi__ternary_rows_neon(QI_FORMAT_TQ2_0, dot, a); \
    else qi__ternary_rows_neon(QI_FORMAT_I2_S, dot, a); \
  }
QI__TERNARY_ROW(neon, , qi__dot4_neon)
QI__TERNARY_ROW(dotprod, QI__DOTPROD, qi__dot4_dotprod)
#undef QI__TERNARY_ROW

// One row leaves half of smmla without work.
#define QI__DOT_TERNARY(isa, row) \
  QI__FN void qi__dot_ternary_##isa(const qi__dot_q8_args *a) { \
    static const qi__ternary_kernels kernels = {qi__ternary_pack_neon, qi__ternary_multiply_##isa, qi__ternary_take_neon, NULL}; \
    if (a->n_x == 1) row(a); \
    else qi__dot_ternary_panels(&kernels, a); \
  }
QI__DOT_TERNARY(neon, qi__ternary_row_neon)
QI__DOT_TERNARY(dotprod, qi__ternary_row_dotprod)
#if defined(QI__HAS_I8MM)
QI__DOT_TERNARY(i8mm, qi__ternary_row_dotprod)
#endif
#undef QI__DOT_TERNARY
#endif

#endif // QI__KERNELS_DOT_TERNARY_NEON_H
// generated from src/kernels/dot_ternary_x86.h: edit there
// ==== >>dot_ternary_x86 : products of ternary rows with AVX2, VNNI and AMX ====
#ifndef QI__KERNELS_DOT_TERNARY_X86_H
#define QI__KERNELS_DOT_TERNARY_X86_H

// generated from src/kernels/panel_q8_x86.h: edit there
// ==== >>panel_q8_x86 : integer products with many rows of activations ====
#ifndef QI__KERNELS_PANEL_Q8_X86_H
#define QI__KERNELS_PANEL_Q8_X86_H


#if defined(QI__X86_64)

// A chunk of 32 weight rows is taken apart into a panel, whose lanes are weight rows, and meets all rows of activations; sums wait
// in eight float32 lanes a row until the next chunk. Codes are unsigned, code + offset; the offset times the sum of the
// activations is taken off again, either before (VNNI: sums start from it) or after.
//
// AVX2 adds products of two bytes in int16 for as many steps as fit (`chain`). Wide codes, up to 255, do not fit even once: they
// are cut into two planes of four bits, the second counting 16 times.
typedef struct qi__q8_panel {
  const uint8_t (*code)[64];      // [plane][rows / 16][k / 4] lines of [row % 16, k % 4]: `own`, or in a cache
  bool nibbles;                   // of a cache: two steps of k a line, the first in the low halves of its bytes (AVX-512)
  uint8_t own[2][2][64][64];
  int32_t scale[16][QI__Q8_ROWS]; // [group]: int32 for VNNI, a pair of equal int16 for AVX2; all 1 in formats without
  int32_t pair[8][QI__Q8_ROWS];   // [group / 2]: of two groups, what meets the sums of their activations: mins, or scales (AVX2)
  float d[8][QI__Q8_ROWS], minus_dmin[8][QI__Q8_ROWS]; // [block of 32], or [0]
} qi__q8_panel;

QI__STATIC_ASSERT(sizeof(qi__q8_panel) <= QI__Q8_PANEL_FLOATS * sizeof(float), q8_panel);

// What the variants need to know of a format.
typedef struct qi__q8_plan {
  const qi__format *format;
  qi_format id;
  int offset; // code + offset is unsigned
  int chain;  // products of pairs that fit into int16: steps of 4 codes
  bool planes, pairs;
} qi__q8_plan;

QI__INLINE qi__q8_plan qi__q8_plan_of(const qi__format *f, bool vnni) {
  qi_format id = qi__format_id(f);
  qi__q8_plan p = {f, id, qi__q8_offset(id), 8, false, !vnni};
  if (p.offset == QI__WIDE) {
    p.offset = 128;
    p.planes = !vnni;
  } else if (id == QI_FORMAT_Q6_K) {
    p.chain = 2; // 2 * 63 * 127 * 2
  } else if (id == QI_FORMAT_Q5_0 || id == QI_FORMAT_Q5_1 || id == QI_FORMAT_Q5_K || id == QI_FORMAT_MXFP4) {
    p.chain = 4; // 4 * 31 * 127 * 2
  }
  if (f->group == 16 && p.chain > 4) p.chain = 4;
  return p;
}

// ---- weights to a panel ----

QI__INLINE QI__AVX2 void qi__store_bytes_avx2(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

// Eight rows of 256 codes, 4 at a time, to one half of the lines of a plane: dst[k / 4][row, k % 4].
QI__FN QI__AVX2 void qi__panel_interleave_avx2(uint8_t (*rows)[256], uint8_t *dst) {
  for (int k = 0; k < 256; k += 32, dst += 8 * 64) {
    __m256i a[8], b[8];
    QI__UNROLL for (int r = 0; r < 8; r++) a[r] = qi__bytes_avx2(rows[r] + k);
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
    QI__UNROLL for (int c = 0; c < 4; c++) {
      qi__store_bytes_avx2(dst + 64 * c, _mm256_permute2x128_si256(a[c], a[4 + c], 0x20));
      qi__store_bytes_avx2(dst + 64 * (c + 4), _mm256_permute2x128_si256(a[c], a[4 + c], 0x31));
    }
  }
}

QI__INLINE int32_t qi__pair_i16(int low, int high) { return (int32_t)((uint32_t)low & 0xffff) | (int32_t)((uint32_t)high << 16); }

// Scales and mins of row r, from the words of its block.
QI__INLINE void qi__panel_scales(const qi__q8_plan *plan, const int16_t *scale, const int16_t *min, size_t r, qi__q8_panel *p) {
  // scale[g], scale[8 + g] belong to the first and second 16 codes of group g of 32
  for (int g = 0; g < 8; g++) {
    int first = scale[g], second = scale[8 + g];
    if (plan->format->group == 32) {
      p->scale[g][r] = plan->pairs ? qi__pair_i16(first, first) : first;
    } else {
      p->scale[2 * g][r] = plan->pairs ? qi__pair_i16(first, first) : first;
      p->scale[2 * g + 1][r] = plan->pairs ? qi__pair_i16(second, second) : second;
    }
  }
  // Words of min are in order, one for each 16 codes.
  for (int g = 0; g < 128 / plan->format->group; g++) {
    int step = plan->format->group / 16, next = step == 1 ? 8 : 1;
    if (plan->format->has_min) p->pair[g][r] = qi__pair_i16(min[2 * step * g], min[2 * step * g + step]);
    else p->pair[g][r] = qi__pair_i16(scale[step * g], scale[step * g + next]);
  }
}

// Row r: scales to the panel, codes to `codes`; n blocks of 32 or one of 256 at w. id is a constant where this is inlined.
QI__INLINE QI__AVX2 void qi__panel_row_avx2(qi_format id, const qi__q8_plan *plan, const uint8_t *w, int n, size_t r,
                                            qi__q8_panel *p, uint8_t *codes) {
  const qi__format *f = id ? &qi__formats[id] : plan->format;
  int offset = qi__q8_offset(id);
  const __m256i wide = _mm256_set1_epi8(offset == QI__WIDE ? (char)-128 : 0);
  if (id && f->info.block_len == 32) {
    float d[8], minus_dmin[8] = {0};
    _mm256_storeu_ps(d, qi__block_d_avx2(id, f, w, n));
    if (f->has_min) _mm256_storeu_ps(minus_dmin, qi__block_offset_avx2(f, w, n));
    for (int b = 0; b < n; b++, w += f->info.block_bytes) {
      p->d[b][r] = d[b];
      p->minus_dmin[b][r] = minus_dmin[b];
      qi__store_bytes_avx2(codes + 32 * b, _mm256_xor_si256(qi__q8_codes_avx2(id, w, 0, NULL, offset), wide));
    }
    return;
  }
  qi__block block;
  qi__q8_scales s;
  int16_t scale[16], min[16];
  qi__q8_scales_avx2(id, plan->format, w, &block, &s);
  p->d[0][r] = s.d;
  p->minus_dmin[0][r] = -s.dmin;
  qi__store_bytes_avx2(scale, s.scale);
  qi__store_bytes_avx2(min, s.min);
  qi__panel_scales(plan, scale, min, r, p);
  QI__UNROLL for (int g = 0; g < 8; g++)
    qi__store_bytes_avx2(codes + 32 * g, _mm256_xor_si256(qi__q8_codes_avx2(id, w, g, &block, offset), wide));
}

// The chunk at column `at`: n blocks of 32, or one of 256. Rows beyond the last are the last again.
QI__FN QI__AVX2 void qi__panel_fill_avx2(const qi__dot_q8_args *a, const qi__q8_plan *plan, size_t at, int n, qi__q8_panel *p) {
  const qi__format *f = plan->format;
  uint8_t codes[8][256], high[8][256];
  const __m256i low4 = _mm256_set1_epi8(15);
  for (size_t r = 0; r < QI__Q8_ROWS; r++) {
    const uint8_t *w = a->w + qi__min_size(r, a->n_w - 1) * a->w_stride;
    w += at / (size_t)f->info.block_len * (size_t)f->info.block_bytes;
#define QI__CASE(ID) case ID: qi__panel_row_avx2(ID, plan, w, n, r, p, codes[r % 8]); break
    switch (plan->id) {
      QI__CASE(QI_FORMAT_Q4_0);
      QI__CASE(QI_FORMAT_Q4_1);
      QI__CASE(QI_FORMAT_Q5_0);
      QI__CASE(QI_FORMAT_Q5_1);
      QI__CASE(QI_FORMAT_Q8_0);
      QI__CASE(QI_FORMAT_IQ4_NL);
      QI__CASE(QI_FORMAT_MXFP4);
      QI__CASE(QI_FORMAT_Q2_K);
      QI__CASE(QI_FORMAT_Q3_K);
      QI__CASE(QI_FORMAT_Q4_K);
      QI__CASE(QI_FORMAT_Q5_K);
      QI__CASE(QI_FORMAT_Q6_K);
      QI__CASE(QI_FORMAT_IQ4_XS);
      QI__CASE(QI_FORMAT_QINS4_K);
    default: qi__panel_row_avx2(QI_FORMAT_NONE, plan, w, n, r, p, codes[r % 8]); break;
    }
#undef QI__CASE
    if (r % 8 != 7) continue;
    size_t half = r / 16, place = r / 8 % 2 * 32;
    if (plan->planes) {
      for (int i = 0; i < 8 * 256; i += 32) {
        uint8_t *code = codes[i / 256] + i % 256;
        __m256i v = qi__bytes_avx2(code);
        qi__store_bytes_avx2(high[i / 256] + i % 256, _mm256_and_si256(_mm256_srli_epi16(v, 4), low4));
        qi__store_bytes_avx2(code, _mm256_and_si256(v, low4));
      }
      qi__panel_interleave_avx2(high, p->own[1][half][0] + place);
    }
    qi__panel_interleave_avx2(codes, p->own[0][half][0] + place);
  }
  p->code = (const uint8_t (*)[64])p->own[0][0];
  p->nibbles = false;
}

// ---- a panel with rows of activations ----

// Rows of activations at one chunk, and where their sums wait.
typedef struct qi__panel_x {
  const int8_t *q;    // rows `k` apart
  const int16_t *sum; // rows k / 16 apart
  const float *d;     // rows `blocks` apart
  size_t k, blocks;
  float *lane;        // rows QI__Q8_LANES apart: [8][32], from the lane of the chunk's first block on
} qi__panel_x;

QI__INLINE int qi__load_4(const void *p) {
  int v;
  memcpy(&v, p, sizeof v);
  return v;
}

// start[g] = -offset * (sum of the codes in group g) of a row, groups of 16 or 32.
QI__INLINE QI__AVX2 void qi__group_starts_avx2(int offset, int group, const int16_t *sum, int32_t *start) {
  __m256i sums = qi__bytes_avx2((const uint8_t *)sum), minus = _mm256_set1_epi32(-offset);
  if (group == 32) {
    qi__store_bytes_avx2(start, _mm256_madd_epi16(sums, _mm256_set1_epi16((short)-offset)));
  } else {
    __m256i first = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sums));
    __m256i last = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sums, 1));
    qi__store_bytes_avx2(start, _mm256_mullo_epi32(first, minus));
    qi__store_bytes_avx2(start + 8, _mm256_mullo_epi32(last, minus));
  }
}

// AVX2: 16 weight rows (`half`) and n rows of activations; n is a constant where this is inlined.
// total[h][i] += products of `steps` steps from `step` on, times the scales of a group, or 1.
QI__INLINE QI__AVX2 void qi__panel_group_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, int step, int steps,
                                              const int32_t *scale, const qi__panel_x *x, int n, __m256i (*total)[4]) {
  for (int plane = 0; plane <= plan->planes; plane++)
    for (int s = step; s < step + steps; s += plan->chain) {
      const uint8_t *w = p->code[(2 * plane + half) * 64 + s];
      __m256i pairs[2][4];
      QI__UNROLL for (int i = 0; i < n; i++) pairs[0][i] = pairs[1][i] = _mm256_setzero_si256();
      for (int c = 0; c < plan->chain; c++) {
        __m256i w0 = qi__bytes_avx2(w + 64 * c), w1 = qi__bytes_avx2(w + 64 * c + 32);
        QI__UNROLL for (int i = 0; i < n; i++) {
          __m256i v = _mm256_set1_epi32(qi__load_4(x->q + (size_t)i * x->k + 4 * (s + c)));
          __m256i v0 = _mm256_maddubs_epi16(w0, v), v1 = _mm256_maddubs_epi16(w1, v);
          pairs[0][i] = _mm256_add_epi16(pairs[0][i], v0);
          pairs[1][i] = _mm256_add_epi16(pairs[1][i], v1);
        }
      }
      QI__UNROLL for (int h = 0; h < 2; h++) {
        __m256i weight = scale ? qi__bytes_avx2((const uint8_t *)(scale + 16 * half + 8 * h)) : _mm256_set1_epi16(1);
        QI__UNROLL for (int i = 0; i < n; i++) {
          __m256i v = _mm256_madd_epi16(pairs[h][i], weight);
          total[h][i] = _mm256_add_epi32(total[h][i], plane ? _mm256_slli_epi32(v, 4) : v);
        }
      }
    }
}

// Sums of the activations in each group of 16 or 32.
QI__INLINE QI__AVX2 void qi__group_sums_avx2(int group, const int16_t *sum, int16_t *out) {
  __m256i sums = qi__bytes_avx2((const uint8_t *)sum);
  if (group == 32) sums = _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)), sums), 0x08);
  qi__store_bytes_avx2(out, sums);
}

// The sums with the pairs of the panel.
QI__INLINE QI__AVX2 __m256i qi__panel_pairs_avx2(const qi__q8_panel *p, int n_pairs, int row, const int16_t *sums) {
  __m256i all = _mm256_setzero_si256();
  for (int g = 0; g < n_pairs; g++) {
    __m256i pair = qi__bytes_avx2((const uint8_t *)(p->pair[g] + row));
    all = _mm256_add_epi32(all, _mm256_madd_epi16(pair, _mm256_set1_epi32(qi__load_4(sums + 2 * g))));
  }
  return all;
}

// lane = fma(d_w * d_x, integers, lane) for eight weight rows.
QI__INLINE QI__AVX2 void qi__panel_add_avx2(float *lane, const float *d_w, float d_x, __m256i integers) {
  __m256 d = _mm256_mul_ps(_mm256_loadu_ps(d_w), _mm256_set1_ps(d_x));
  _mm256_storeu_ps(lane, _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(integers), _mm256_loadu_ps(lane)));
}

// A block of 256.
QI__INLINE QI__AVX2 void qi__panel_256_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, const qi__panel_x *x, int n) {
  const int groups = 256 / plan->format->group;
  __m256i total[2][4];
  QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++) total[h][i] = _mm256_setzero_si256();
  for (int g = 0; g < groups; g++) qi__panel_group_avx2(plan, p, half, g * 64 / groups, 64 / groups, p->scale[g], x, n, total);
  QI__UNROLL for (int i = 0; i < n; i++) {
    const int16_t *sum = x->sum + (size_t)i * (x->k / 16);
    float d_x = x->d[(size_t)i * x->blocks];
    int16_t sums[16];
    qi__group_sums_avx2(256 / groups, sum, sums);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      int row = 16 * half + 8 * h;
      float *lane = x->lane + i * QI__Q8_LANES + row;
      __m256i pairs = _mm256_setzero_si256(), offset = _mm256_set1_epi32(plan->offset);
      if (plan->format->has_min || plan->offset) pairs = qi__panel_pairs_avx2(p, groups / 2, row, sums);
      if (plan->offset) total[h][i] = _mm256_sub_epi32(total[h][i], _mm256_mullo_epi32(pairs, offset));
      qi__panel_add_avx2(lane, p->d[0] + row, d_x, total[h][i]);
      if (plan->format->has_min) qi__panel_add_avx2(lane, p->minus_dmin[0] + row, d_x, pairs);
    }
  }
}

// Blocks of 32.
QI__INLINE QI__AVX2 void qi__panel_32_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, const qi__panel_x *x,
                                           int n_blocks, int n) {
  for (int b = 0; b < n_blocks; b++) {
    __m256i total[2][4];
    int32_t sums[4];
    QI__UNROLL for (int i = 0; i < n; i++) {
      const int16_t *sum = x->sum + (size_t)i * (x->k / 16) + 2 * b;
      sums[i] = sum[0] + sum[1];
      total[0][i] = total[1][i] = _mm256_set1_epi32(-plan->offset * sums[i]);
    }
    qi__panel_group_avx2(plan, p, half, 8 * b, 8, NULL, x, n, total);
    QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
      int row = 16 * half + 8 * h;
      float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + row, d_x = x->d[(size_t)i * x->blocks + (size_t)b];
      qi__panel_add_avx2(lane, p->d[b] + row, d_x, total[h][i]);
      if (plan->format->has_min) qi__panel_add_avx2(lane, p->minus_dmin[b] + row, d_x, _mm256_set1_epi32(sums[i]));
    }
  }
}

QI__INLINE QI__AVX2 void qi__panel_rows_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, int half, const qi__panel_x *x,
                                             int n_blocks, int n) {
  if (plan->format->info.block_len == 32) qi__panel_32_avx2(plan, p, half, x, n_blocks, n);
  else qi__panel_256_avx2(plan, p, half, x, n);
}

// The panel with n_x rows of activations.
QI__FN QI__AVX2 void qi__panel_multiply_avx2(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks,
                                             size_t n_x, bool two_halves) {
  for (size_t i = 0; i < n_x;) {
    int n = n_x - i >= 4 ? 4 : n_x - i >= 2 ? 2 : 1;
    for (int half = 0; half < (two_halves ? 2 : 1); half++) {
      if (n == 4) qi__panel_rows_avx2(plan, p, half, &x, n_blocks, 4);
      else if (n == 2) qi__panel_rows_avx2(plan, p, half, &x, n_blocks, 2);
      else qi__panel_rows_avx2(plan, p, half, &x, n_blocks, 1);
    }
    i += (size_t)n;
    x.q += (size_t)n * x.k;
    x.sum += (size_t)n * (x.k / 16);
    x.d += (size_t)n * x.blocks;
    x.lane += n * QI__Q8_LANES;
  }
}

// ---- AVX-512 VNNI ----

// sum[h][i] += products of step `step`, of 32 weight rows and n rows of activations.
QI__INLINE QI__AVX512_VNNI void qi__panel_step_avx512(__m512i w0, __m512i w1, int step, const qi__panel_x *x, int n,
                                                      __m512i (*sum)[4]) {
  QI__UNROLL for (int i = 0; i < n; i++) {
    __m512i v = _mm512_set1_epi32(qi__load_4(x->q + (size_t)i * x->k + 4 * step));
    sum[0][i] = _mm512_dpbusd_epi32(sum[0][i], w0, v);
    sum[1][i] = _mm512_dpbusd_epi32(sum[1][i], w1, v);
  }
}

// The same for `steps` steps; nibbles is a constant where this is inlined.
QI__INLINE QI__AVX512_VNNI void qi__panel_steps_avx512(const qi__q8_panel *p, bool nibbles, int step, int steps,
                                                       const qi__panel_x *x, int n, __m512i (*sum)[4]) {
  const __m512i low4 = _mm512_set1_epi8(15);
  const uint8_t(*half0)[64] = p->code + (nibbles ? step / 2 : step), (*half1)[64] = half0 + (nibbles ? 32 : 64);
  for (int s = 0; s < steps; s += nibbles ? 2 : 1, half0++, half1++) {
    __m512i w0 = _mm512_loadu_si512((const void *)*half0), w1 = _mm512_loadu_si512((const void *)*half1);
    if (!nibbles) {
      qi__panel_step_avx512(w0, w1, step + s, x, n, sum);
      continue;
    }
    qi__panel_step_avx512(_mm512_and_si512(w0, low4), _mm512_and_si512(w1, low4), step + s, x, n, sum);
    w0 = _mm512_and_si512(_mm512_srli_epi16(w0, 4), low4);
    w1 = _mm512_and_si512(_mm512_srli_epi16(w1, 4), low4);
    qi__panel_step_avx512(w0, w1, step + s + 1, x, n, sum);
  }
}

QI__INLINE QI__AVX512_VNNI void qi__panel_add_avx512(float *lane, const float *d_w, float d_x, __m512i integers) {
  __m512 d = _mm512_mul_ps(_mm512_loadu_ps(d_w), _mm512_set1_ps(d_x));
  _mm512_storeu_ps(lane, _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(integers), _mm512_loadu_ps(lane)));
}

QI__INLINE QI__AVX512_VNNI void qi__panel_256_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, bool nibbles,
                                                     const qi__panel_x *x, int n) {
  const int groups = 256 / plan->format->group;
  int32_t start[4][16];
  __m512i total[2][4], sum[2][4];
  QI__UNROLL for (int i = 0; i < n; i++) {
    const int16_t *sums = x->sum + (size_t)i * (x->k / 16);
    qi__group_starts_avx2(plan->offset, plan->format->group, sums, start[i]);
    total[0][i] = total[1][i] = _mm512_setzero_si512();
  }
  for (int g = 0; g < groups; g++) {
    QI__UNROLL for (int i = 0; i < n; i++) sum[0][i] = sum[1][i] = _mm512_set1_epi32(start[i][g]);
    qi__panel_steps_avx512(p, nibbles, g * 64 / groups, 64 / groups, x, n, sum);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      __m512i scale = _mm512_loadu_si512((const void *)(p->scale[g] + 16 * h));
      QI__UNROLL for (int i = 0; i < n; i++) total[h][i] = _mm512_add_epi32(total[h][i], _mm512_mullo_epi32(sum[h][i], scale));
    }
  }
  bool has_min = plan->format->has_min;
  QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++) sum[h][i] = _mm512_setzero_si512();
  if (has_min) {
    int16_t sums[4][16];
    QI__UNROLL for (int i = 0; i < n; i++) qi__group_sums_avx2(256 / groups, x->sum + (size_t)i * (x->k / 16), sums[i]);
    for (int g = 0; g < groups / 2; g++) QI__UNROLL for (int h = 0; h < 2; h++) {
      __m512i pair = _mm512_loadu_si512((const void *)(p->pair[g] + 16 * h));
      QI__UNROLL for (int i = 0; i < n; i++)
        sum[h][i] = _mm512_dpwssd_epi32(sum[h][i], pair, _mm512_set1_epi32(qi__load_4(sums[i] + 2 * g)));
    }
  }
  QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
    float *lane = x->lane + i * QI__Q8_LANES + 16 * h, d_x = x->d[(size_t)i * x->blocks];
    qi__panel_add_avx512(lane, p->d[0] + 16 * h, d_x, total[h][i]);
    if (has_min) qi__panel_add_avx512(lane, p->minus_dmin[0] + 16 * h, d_x, sum[h][i]);
  }
}

QI__INLINE QI__AVX512_VNNI void qi__panel_32_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, bool nibbles,
                                                    const qi__panel_x *x, int n_blocks, int n) {
  for (int b = 0; b < n_blocks; b++) {
    __m512i total[2][4];
    int32_t sums[4];
    QI__UNROLL for (int i = 0; i < n; i++) {
      const int16_t *sum = x->sum + (size_t)i * (x->k / 16) + 2 * b;
      sums[i] = sum[0] + sum[1];
      total[0][i] = total[1][i] = _mm512_set1_epi32(-plan->offset * sums[i]);
    }
    qi__panel_steps_avx512(p, nibbles, 8 * b, 8, x, n, total);
    QI__UNROLL for (int i = 0; i < n; i++) QI__UNROLL for (int h = 0; h < 2; h++) {
      float *lane = x->lane + i * QI__Q8_LANES + b * QI__Q8_ROWS + 16 * h, d_x = x->d[(size_t)i * x->blocks + (size_t)b];
      qi__panel_add_avx512(lane, p->d[b] + 16 * h, d_x, total[h][i]);
      if (plan->format->has_min) qi__panel_add_avx512(lane, p->minus_dmin[b] + 16 * h, d_x, _mm512_set1_epi32(sums[i]));
    }
  }
}

QI__INLINE QI__AVX512_VNNI void qi__panel_rows_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, const qi__panel_x *x,
                                                      int n_blocks, int n) {
  bool short_blocks = plan->format->info.block_len == 32;
  if (short_blocks && p->nibbles) qi__panel_32_avx512(plan, p, true, x, n_blocks, n);
  else if (short_blocks) qi__panel_32_avx512(plan, p, false, x, n_blocks, n);
  else if (p->nibbles) qi__panel_256_avx512(plan, p, true, x, n);
  else qi__panel_256_avx512(plan, p, false, x, n);
}

QI__FN QI__AVX512_VNNI void qi__panel_multiply_avx512(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks,
                                                      size_t n_x, bool two_halves) {
  (void)two_halves;
  for (size_t i = 0; i < n_x;) {
    size_t n = n_x - i >= 4 ? 4 : n_x - i >= 2 ? 2 : 1;
    if (n == 4) qi__panel_rows_avx512(plan, p, &x, n_blocks, 4);
    else if (n == 2) qi__panel_rows_avx512(plan, p, &x, n_blocks, 2);
    else qi__panel_rows_avx512(plan, p, &x, n_blocks, 1);
    i += n;
    x.q += n * x.k;
    x.sum += n * (x.k / 16);
    x.d += n * x.blocks;
    x.lane += n * QI__Q8_LANES;
  }
}

// ---- stored panels ----

// Panels of a cache: as few bytes as hold them, the same for all variants. A tile of 32 weight rows is a row of chunks of 256
// columns, each of these parts one after another:
//   codes   [rows / 16][k / 4][row % 16, k % 4] code + offset; below 16 in formats with `nibbles`: two steps of k a line, the first
//           in the low halves of its bytes
//   scales  int8 [256 / group][32], then mins the same; none in formats with one scale a block, or without mins
//   d       float32 [256 / block][32], then -dmin the same
typedef struct qi__q8_stored {
  bool nibbles;
  size_t scale, min, d, minus_dmin, bytes; // where parts begin; min = d, minus_dmin = bytes where there are none
} qi__q8_stored;

QI__FN qi__q8_stored qi__q8_stored_of(const qi__format *f) {
  qi_format id = qi__format_id(f);
  qi__q8_stored s;
  bool scales = f->info.block_len == 256;
  size_t row = QI__Q8_ROWS, groups = scales ? 256 / (size_t)f->group : 0, floats = 256 / (size_t)f->info.block_len * sizeof(float);
  s.nibbles = id == QI_FORMAT_Q4_0 || id == QI_FORMAT_Q4_1 || id == QI_FORMAT_Q2_K || id == QI_FORMAT_Q3_K ||
              id == QI_FORMAT_Q4_K;
  s.scale = row * (s.nibbles ? 128 : 256);
  s.min = s.scale + row * groups;
  s.d = s.min + (f->has_min ? row * groups : 0);
  s.minus_dmin = s.d + row * floats;
  s.bytes = s.minus_dmin + (f->has_min ? row * floats : 0);
  return s;
}

// Bytes of a chunk; 0 = not for panels.
QI__FN size_t qi__q8_stored_bytes(const qi__format *f) {
  return f->wide || !qi__dot_q8_x86_has(qi__format_id(f)) ? 0 : qi__q8_stored_of(f).bytes;
}

// Groups of one line each from int32 to int8.
QI__INLINE void qi__store_scales(const int32_t (*src)[QI__Q8_ROWS], size_t n, uint8_t *dst) {
  for (size_t i = 0; i < n * QI__Q8_ROWS; i++) dst[i] = (uint8_t)src[i / QI__Q8_ROWS][i % QI__Q8_ROWS];
}

// Chunks of the tile a->w, a->n_w, a->w_stride of rows of k columns to `dst`.
QI__FN QI__AVX2 void qi__q8_store_avx2(const qi__dot_q8_args *a, size_t k, uint8_t *dst) {
  qi__q8_panel p;
  qi__q8_plan plan = qi__q8_plan_of(a->format, true);
  qi__q8_stored s = qi__q8_stored_of(a->format);
  memset(&p, 0, sizeof p);
  for (size_t at = 0; at < k; at += 256, dst += s.bytes) {
    qi__panel_fill_avx2(a, &plan, at, (int)qi__min_size(8, (k - at) / 32), &p);
    const uint8_t *line = p.own[0][0][0];
    for (size_t i = 0; i < 2 * 64 * 64; i += 64)
      for (size_t j = i; j < i + 64; j += 32) {
        if (!s.nibbles) qi__store_bytes_avx2(dst + j, qi__bytes_avx2(line + j));
        else if (i % 128 == 0)
          qi__store_bytes_avx2(dst + i / 2 + j % 64, _mm256_or_si256(qi__bytes_avx2(line + j),
                                                                     _mm256_slli_epi16(qi__bytes_avx2(line + j + 64), 4)));
      }
    qi__store_scales((const int32_t (*)[QI__Q8_ROWS])p.scale, (s.min - s.scale) / QI__Q8_ROWS, dst + s.scale);
    for (size_t g = 0; g < (s.d - s.min) / QI__Q8_ROWS; g++)
      for (size_t r = 0; r < QI__Q8_ROWS; r++) dst[s.min + g * QI__Q8_ROWS + r] = (uint8_t)(p.pair[g / 2][r] >> (g % 2 ? 16 : 0));
    memcpy(dst + s.d, p.d, s.minus_dmin - s.d);
    memcpy(dst + s.minus_dmin, p.minus_dmin, s.bytes - s.minus_dmin);
  }
}

// Eight int8 as int32.
QI__INLINE QI__AVX2 __m256i qi__widen_avx2(const uint8_t *src) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)src));
}

// Pairs of int16 from two int32: the first in the low halves.
QI__INLINE QI__AVX2 __m256i qi__pairs_avx2(__m256i first, __m256i second) {
  return _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa);
}

// Codes of a stored chunk to p->own: nibbles to a line each, or the halves of wide codes to a plane each.
QI__FN QI__AVX2 void qi__panel_load_codes_avx2(const qi__q8_plan *plan, bool nibbles, const uint8_t *src, qi__q8_panel *p) {
  const __m256i low4 = _mm256_set1_epi8(15);
  uint8_t *first = p->own[0][0][0], *second = nibbles ? first + 64 : p->own[1][0][0];
  for (size_t i = 0; i < (nibbles ? 64u : 128u) * 64; i += 32) {
    __m256i v = qi__bytes_avx2(src + i);
    size_t to = nibbles ? i / 64 * 128 + i % 64 : i;
    if (nibbles || plan->planes) {
      qi__store_bytes_avx2(second + to, _mm256_and_si256(_mm256_srli_epi16(v, 4), low4));
      v = _mm256_and_si256(v, low4);
    }
    qi__store_bytes_avx2(first + to, v);
  }
}

// A stored chunk to a panel. With VNNI (no `pairs`) the codes stay where they are.
QI__FN QI__AVX2 void qi__panel_load_avx2(const qi__q8_plan *plan, const uint8_t *src, qi__q8_panel *p) {
  qi__q8_stored s = qi__q8_stored_of(plan->format);
  size_t groups = (s.min - s.scale) / QI__Q8_ROWS;
  const uint8_t *pairs = src + (plan->format->has_min ? s.min : s.scale);
  p->nibbles = s.nibbles && !plan->pairs;
  p->code = (const uint8_t (*)[64])(plan->pairs ? p->own[0][0][0] : src);
  if (plan->pairs) qi__panel_load_codes_avx2(plan, s.nibbles, src, p);
  for (size_t g = 0; g < groups; g++)
    for (size_t r = 0; r < QI__Q8_ROWS; r += 8) {
      __m256i v = qi__widen_avx2(src + s.scale + g * QI__Q8_ROWS + r);
      qi__store_bytes_avx2(p->scale[g] + r, plan->pairs ? qi__pairs_avx2(v, v) : v);
      if (g % 2 || !(plan->format->has_min || plan->pairs)) continue;
      const uint8_t *pair = pairs + g * QI__Q8_ROWS + r;
      qi__store_bytes_avx2(p->pair[g / 2] + r, qi__pairs_avx2(qi__widen_avx2(pair), qi__widen_avx2(pair + QI__Q8_ROWS)));
    }
  memcpy(p->d, src + s.d, s.minus_dmin - s.d);
  memcpy(p->minus_dmin, src + s.minus_dmin, s.bytes - s.minus_dmin);
}

// ---- all columns ----

// y[r] = qi__sum_lanes of each weight row, r < n_w.
QI__FN QI__AVX2 void qi__panel_sums_avx2(const float *lane, size_t n_w, float *y) {
  float sums[QI__Q8_ROWS];
  for (size_t r = 0; r < n_w; r += 8) {
    __m256 v[4];
    QI__UNROLL for (size_t l = 0; l < 4; l++)
      v[l] = _mm256_add_ps(_mm256_loadu_ps(lane + l * QI__Q8_ROWS + r), _mm256_loadu_ps(lane + (l + 4) * QI__Q8_ROWS + r));
    _mm256_storeu_ps(sums + r, _mm256_add_ps(_mm256_add_ps(v[0], v[2]), _mm256_add_ps(v[1], v[3])));
  }
  memcpy(y, sums, n_w * sizeof *y);
}

typedef void (*qi__panel_multiply_fn)(const qi__q8_plan *plan, const qi__q8_panel *p, qi__panel_x x, int n_blocks, size_t n_x,
                                      bool two_halves);

// All weight rows with n_x rows of activations from `first` on. The panels of a slice lie in the second-level cache; the sums of 16
// rows stay in the first while the slice passes. stored: a->w is a tile of stored panels (below), else weights as in their file.
QI__FN void qi__dot_batch_x86(const qi__dot_q8_args *a, const qi__q8_plan *plan, bool stored, qi__panel_multiply_fn multiply,
                              size_t first, size_t n_x) {
  qi__q8_panel *panels = (qi__q8_panel *)(void *)a->scratch;
  float *lanes = a->scratch + QI__Q8_PANELS * QI__Q8_PANEL_FLOATS;
  size_t k = a->x->k, block = a->x->block;
  memset(lanes, 0, n_x * QI__Q8_LANES * sizeof *lanes);
  for (size_t slice = 0; slice < k; slice += 256 * QI__Q8_PANELS) {
    size_t n_panels = (qi__min_size(256 * QI__Q8_PANELS, k - slice) + 255) / 256;
    for (size_t c = 0; c < n_panels; c++) {
      size_t at = slice + 256 * c;
      if (stored) qi__panel_load_avx2(plan, a->w + at / 256 * a->w_stride, &panels[c]);
      else qi__panel_fill_avx2(a, plan, at, (int)qi__min_size(8, (k - at) / 32), &panels[c]);
    }
    for (size_t i = 0; i < n_x; i += 16)
      for (size_t c = 0; c < n_panels; c++) {
        size_t at = slice + 256 * c;
        qi__q8_chunk q = qi__q8_chunk_at(a->x, a->x_row + first + i, at);
        float *lane = lanes + i * QI__Q8_LANES + at / block % 8 * QI__Q8_ROWS;
        qi__panel_x x = {q.q, q.sum, q.d, k, k / block, lane};
        multiply(plan, &panels[c], x, (int)qi__min_size(8, (k - at) / 32), qi__min_size(16, n_x - i), a->n_w > 16);
      }
  }
  for (size_t i = 0; i < n_x; i++) qi__panel_sums_avx2(lanes + i * QI__Q8_LANES, a->n_w, a->y + (first + i) * a->y_stride);
}

QI__FN void qi__dot_panels_x86(const qi__dot_q8_args *a, bool vnni, bool stored, qi__panel_multiply_fn multiply) {
  qi__q8_plan plan = qi__q8_plan_of(a->format, vnni);
  for (size_t first = 0; first < a->n_x; first += QI__Q8_BATCH)
    qi__dot_batch_x86(a, &plan, stored, multiply, first, qi__min_size(QI__Q8_BATCH, a->n_x - first));
}

// ---- the kernels ----

#define QI__PANEL_FROM 4 // rows of activations from which a panel pays

#define QI__DOT_Q8(isa, vnni, multiply) \
  QI__FN void qi__dot_q8_##isa(const qi__dot_q8_args *a) { \
    if (a->n_x >= QI__PANEL_FROM && !a->format->wide) { \
      qi__dot_panels_x86(a, vnni, false, multiply); \
      return; \
    } \
    qi__dot_q8_args row = *a; \
    for (size_t i = 0; i < a->n_x; i++, row.x_row++, row.y += a->y_stride) qi__dot_row_##isa(&row); \
  }

QI__DOT_Q8(avx2, false, qi__panel_multiply_avx2)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_Q8(avx_vnni, false, qi__panel_multiply_avx2) // these need no VNNI
#endif
QI__DOT_Q8(avx512, true, qi__panel_multiply_avx512)

QI__FN void qi__dot_stored_avx2(const qi__dot_q8_args *a) { qi__dot_panels_x86(a, false, true, qi__panel_multiply_avx2); }
QI__FN void qi__dot_stored_avx512(const qi__dot_q8_args *a) { qi__dot_panels_x86(a, true, true, qi__panel_multiply_avx512); }

static const qi__stored_q8_kernels qi__stored_q8_avx2 = {qi__q8_stored_bytes, qi__q8_store_avx2, qi__dot_stored_avx2, 4};
static const qi__stored_q8_kernels qi__stored_q8_avx512 = {qi__q8_stored_bytes, qi__q8_store_avx2, qi__dot_stored_avx512, 4};
#endif

#endif // QI__KERNELS_PANEL_Q8_X86_H

#if defined(QI__X86_64)

// Codes are multiplied as u = code + 1, and the sum of the activations is taken off again.

// GCC 12 copies a sum of VNNI twice at each step while its type is that of the intrinsics, a vector of 64-bit integers.
typedef int qi__i32x8 __attribute__((vector_size(32)));
typedef int qi__i32x16 __attribute__((vector_size(64)));

QI__INLINE QI__AVX2 int32_t qi__sum_i32_avx2(__m256i v) {
  __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  a = _mm_add_epi32(a, _mm_unpackhi_epi64(a, a));
  return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 1)));
}

// ---- one row of activations: blocks of a pair of weight rows ----

// Fetches what is used 8 KB later, as much as block b of both rows, into the second-level cache: the first has too few misses at a
// time for the bandwidth of the memory, and what the processor fetches of its own accord ends with a page. Never faults, also
// beyond the matrix.
QI__INLINE QI__AVX2 void qi__prefetch_far_avx2(const qi__ternary_pair *p, size_t b) {
  size_t n = QI__TERNARY_PAIR * (size_t)p->f->info.block_bytes;
  uintptr_t ahead = (uintptr_t)p->w[0] + b * n + 8192;
  QI__UNROLL for (size_t i = 0; i < n; i += QI__CACHE_LINE) _mm_prefetch((const char *)(ahead + i), _MM_HINT_T1);
}

// lanes[r] = products of row r; their total counts. Blocks from b on, until a scale changes or block `end` is reached: that is
// returned. Constants where the loops below are inlined.
typedef size_t (*qi__ternary_lanes_fn)(qi_format id, const qi__ternary_pair *p, size_t b, size_t end, __m256i *lanes);

// Pairs of bits are multiplied where they stand, 1, 4, 16 or 64 times too large; such sums are divided at the end, exactly.
// low_first: TQ2_0, else I2_S, whose order in a byte is the other way round.

// A block adds up to 4 * 4 * 3 * 127 * 2 = 12192 and 4 * 12 * 127 * 2 = 12192 to an int16, four times its sum.
QI__INLINE QI__AVX2 size_t qi__ternary_pairs_avx2(bool low_first, const qi__ternary_pair *p, size_t b, size_t end,
                                                  __m256i *lanes) {
  const __m256i mask1 = _mm256_set1_epi8(3), mask4 = _mm256_set1_epi8(12), one = _mm256_set1_epi16(1);
  const int at[4] = {low_first ? 0 : 96, low_first ? 32 : 64, low_first ? 64 : 32, low_first ? 96 : 0}; // of bits 0, 2, 4, 6
  __m256i total[QI__TERNARY_PAIR], x_sum = _mm256_setzero_si256();
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) total[r] = _mm256_setzero_si256();
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
      __m256i sum1 = _mm256_setzero_si256(), sum4 = sum1;
      QI__UNROLL for (int h = 0; h < 2; h++) {
        const uint8_t *xh = (const uint8_t *)x + 128 * h;
        __m256i low = qi__bytes_avx2(w[r] + 32 * (size_t)h), high = _mm256_srli_epi16(low, 4);
        sum1 = _mm256_add_epi16(sum1, _mm256_maddubs_epi16(_mm256_and_si256(low, mask1), qi__bytes_avx2(xh + at[0])));
        sum4 = _mm256_add_epi16(sum4, _mm256_maddubs_epi16(_mm256_and_si256(low, mask4), qi__bytes_avx2(xh + at[1])));
        sum1 = _mm256_add_epi16(sum1, _mm256_maddubs_epi16(_mm256_and_si256(high, mask1), qi__bytes_avx2(xh + at[2])));
        sum4 = _mm256_add_epi16(sum4, _mm256_maddubs_epi16(_mm256_and_si256(high, mask4), qi__bytes_avx2(xh + at[3])));
      }
      total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(_mm256_add_epi16(_mm256_slli_epi16(sum1, 2), sum4), one));
    }
    x_sum = _mm256_add_epi32(x_sum, _mm256_madd_epi16(qi__bytes_avx2(sum), one));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) lanes[r] = _mm256_sub_epi32(_mm256_srai_epi32(total[r], 2), x_sum);
  return b;
}

#if defined(QI__HAS_AVX_VNNI)
QI__INLINE QI__AVX_VNNI size_t qi__ternary_pairs_avx_vnni(bool low_first, const qi__ternary_pair *p, size_t b, size_t end,
                                                          __m256i *lanes) {
  qi__i32x8 total[QI__TERNARY_PAIR][4], minus = {0};
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) QI__UNROLL for (int e = 0; e < 4; e++) total[r][e] = minus;
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      QI__UNROLL for (int e = 0; e < 4; e++) {
        __m256i xe = qi__bytes_avx2((const uint8_t *)x + 128 * h + 32 * (low_first ? e : 3 - e));
        QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
          __m256i pairs = _mm256_and_si256(qi__bytes_avx2(w[r] + 32 * (size_t)h), _mm256_set1_epi8((char)(3 << 2 * e)));
          total[r][e] = (qi__i32x8)_mm256_dpbusd_avx_epi32((__m256i)total[r][e], pairs, xe);
        }
      }
    }
    minus = (qi__i32x8)_mm256_dpwssd_avx_epi32((__m256i)minus, qi__bytes_avx2(sum), _mm256_set1_epi16(-1));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    lanes[r] = (__m256i)minus;
    QI__UNROLL for (int e = 0; e < 4; e++) lanes[r] = _mm256_add_epi32(lanes[r], _mm256_srai_epi32((__m256i)total[r][e], 2 * e));
  }
  return b;
}
#endif

// 32 bytes twice: the halves of a register mask different pairs, so that 64 activations in order meet them.
QI__INLINE QI__AVX512_VNNI size_t qi__ternary_pairs_avx512(bool low_first, const qi__ternary_pair *p, size_t b, size_t end,
                                                           __m256i *lanes) {
  __m512i mask[2], shift[2];
  qi__i32x16 total[QI__TERNARY_PAIR][2][2]; // [row][halves of a block: shorter chains][e]
  qi__i32x8 minus = {0};
  QI__UNROLL for (int e = 0; e < 2; e++) {
    int low = low_first ? 4 * e : 6 - 4 * e, high = low_first ? low + 2 : low - 2;
    mask[e] = _mm512_inserti64x4(_mm512_set1_epi8((char)(3 << low)), _mm256_set1_epi8((char)(3 << high)), 1);
    shift[e] = _mm512_inserti64x4(_mm512_set1_epi32(low), _mm256_set1_epi32(high), 1);
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) total[r][0][e] = total[r][1][e] = (qi__i32x16)_mm512_setzero_si512();
  }
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    QI__UNROLL for (int h = 0; h < 2; h++) {
      QI__UNROLL for (int e = 0; e < 2; e++) {
        __m512i xe = _mm512_loadu_si512((const void *)(x + 128 * h + 64 * e));
        QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
          __m512i v = _mm512_broadcast_i64x4(qi__bytes_avx2(w[r] + 32 * (size_t)h));
          total[r][h][e] = (qi__i32x16)_mm512_dpbusd_epi32((__m512i)total[r][h][e], _mm512_and_si512(v, mask[e]), xe);
        }
      }
    }
    minus = (qi__i32x8)_mm256_dpwssd_epi32((__m256i)minus, qi__bytes_avx2(sum), _mm256_set1_epi16(-1));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    __m512i all = _mm512_add_epi32(_mm512_srav_epi32((__m512i)(total[r][0][0] + total[r][1][0]), shift[0]),
                                   _mm512_srav_epi32((__m512i)(total[r][0][1] + total[r][1][1]), shift[1]));
    lanes[r] = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    lanes[r] = _mm256_add_epi32(lanes[r], (__m256i)minus);
  }
  return b;
}

// ---- TQ1_0 ----

QI__INLINE QI__AVX2 __m256i qi__times3_avx2(__m256i v) { return _mm256_add_epi8(_mm256_add_epi8(v, v), v); }

// 16 bytes of each row: row 0 in the lower half.
QI__INLINE QI__AVX2 __m256i qi__both_rows_avx2(__m128i row0, __m128i row1) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(row0), row1, 1);
}

// Bytes 32..47 of a block of both rows.
QI__INLINE QI__AVX2 __m256i qi__tq1_0_middle_avx2(const uint8_t *w0, const uint8_t *w1) {
  return qi__both_rows_avx2(_mm_loadu_si128((const __m128i *)(const void *)(w0 + 32)),
                            _mm_loadu_si128((const __m128i *)(const void *)(w1 + 32)));
}

// The fractions of the four digits of bytes 48..51, digit by digit, of both rows; `top` is added to the bytes.
QI__INLINE QI__AVX2 __m256i qi__tq1_0_rest_avx2(const uint8_t *w0, const uint8_t *w1, uint32_t top) {
  const __m256i odd = _mm256_set1_epi64x((long long)0xffffffff00000000u);
  uint32_t rest0 = qi__load_u32(w0 + 48) ^ top, rest1 = qi__load_u32(w1 + 48) ^ top;
  __m256i v = qi__both_rows_avx2(_mm_set1_epi32((int)rest0), _mm_set1_epi32((int)rest1));
  v = _mm256_blendv_epi8(v, qi__times3_avx2(v), odd); // times 1 3 1 3
  return _mm256_blend_epi32(v, qi__times3_avx2(qi__times3_avx2(v)), 0xcc);
}

// 16 activations for both rows.
QI__INLINE QI__AVX2 __m256i qi__x_twice_avx2(const int8_t *x) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)x));
}

// The digits of fractions + 128: 1 from 86 and 2 from 171 on.
QI__INLINE QI__AVX2 __m256i qi__ternary_digits_avx2(__m256i f) {
  __m256i from1 = _mm256_cmpgt_epi8(f, _mm256_set1_epi8(85 - 128)), from2 = _mm256_cmpgt_epi8(f, _mm256_set1_epi8(170 - 128));
  return _mm256_abs_epi8(_mm256_add_epi8(from1, from2));
}

// The halves of v, which belong to two rows, to lanes of each.
QI__INLINE QI__AVX2 void qi__add_halves_avx2(__m256i v, __m256i *lanes) {
  const __m256i zero = _mm256_setzero_si256();
  lanes[0] = _mm256_add_epi32(lanes[0], _mm256_blend_epi32(v, zero, 0xf0));
  lanes[1] = _mm256_add_epi32(lanes[1], _mm256_blend_epi32(v, zero, 0x0f));
}

// Fractions have 128 added, which three times as much keeps modulo 256. A block adds up to 6 * 2 * 2 * 127 to an int16.
QI__INLINE QI__AVX2 size_t qi__ternary_tq1_0_avx2(const qi__ternary_pair *p, size_t b, size_t end, __m256i *lanes) {
  const __m256i one = _mm256_set1_epi16(1), top = _mm256_set1_epi8((char)-128);
  __m256i both = _mm256_setzero_si256();
  lanes[0] = lanes[1] = both;
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    __m256i v[QI__TERNARY_PAIR], total[QI__TERNARY_PAIR], x_sum = qi__bytes_avx2(sum);
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
      v[r] = _mm256_xor_si256(qi__bytes_avx2(w[r]), top);
      total[r] = _mm256_sub_epi16(_mm256_setzero_si256(), x_sum);
    }
    QI__UNROLL for (int digit = 0; digit < 5; digit++) {
      QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
        __m256i xd = qi__bytes_avx2((const uint8_t *)x + 32 * digit);
        total[r] = _mm256_add_epi16(total[r], _mm256_maddubs_epi16(qi__ternary_digits_avx2(v[r]), xd));
        if (digit < 4) v[r] = qi__times3_avx2(v[r]);
      }
    }
    __m256i rest = qi__ternary_digits_avx2(qi__tq1_0_rest_avx2(w[0], w[1], 0x80808080u));
    __m256i middle = _mm256_xor_si256(qi__tq1_0_middle_avx2(w[0], w[1]), top);
    rest = _mm256_maddubs_epi16(rest, qi__x_twice_avx2(x + 240));
    QI__UNROLL for (int digit = 0; digit < 5; digit++) {
      __m256i xd = qi__x_twice_avx2(x + 160 + 16 * digit);
      rest = _mm256_add_epi16(rest, _mm256_maddubs_epi16(qi__ternary_digits_avx2(middle), xd));
      if (digit < 4) middle = qi__times3_avx2(middle);
    }
    both = _mm256_add_epi32(both, _mm256_madd_epi16(rest, one));
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) lanes[r] = _mm256_add_epi32(lanes[r], _mm256_madd_epi16(total[r], one));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  qi__add_halves_avx2(both, lanes);
  return b;
}

// A digit is (3 f - next f) / 256 of fractions that follow each other: two products, and no comparing.
QI__INLINE QI__AVX2 size_t qi__ternary_tq1_0_vnni(qi__step_fn bytes, qi__step_fn words, const qi__ternary_pair *p, size_t b,
                                                  size_t end, __m256i *lanes) {
  qi__i32x8 now[QI__TERNARY_PAIR][2], next[QI__TERNARY_PAIR][2], now2[2], next2[2], minus = {0}; // [2]: odd digits, shorter chains
  QI__UNROLL for (int e = 0; e < 2; e++) now[0][e] = now[1][e] = next[0][e] = next[1][e] = now2[e] = next2[e] = minus;
  do {
    const int8_t *x = p->x + 256 * b;
    const uint8_t *w[] = {qi__ternary_block(p, 0, b), qi__ternary_block(p, 1, b)}, *sum = (const uint8_t *)(p->sum + 16 * b);
    qi__prefetch_far_avx2(p, b);
    __m256i v[QI__TERNARY_PAIR] = {qi__bytes_avx2(w[0]), qi__bytes_avx2(w[1])};
    QI__UNROLL for (int digit = 0; digit < 5; digit++) {
      __m256i xd = qi__bytes_avx2((const uint8_t *)x + 32 * digit);
      QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
        now[r][digit % 2] = (qi__i32x8)bytes((__m256i)now[r][digit % 2], v[r], xd);
        v[r] = qi__times3_avx2(v[r]);
        next[r][digit % 2] = (qi__i32x8)bytes((__m256i)next[r][digit % 2], v[r], xd);
      }
    }
    __m256i both = qi__tq1_0_middle_avx2(w[0], w[1]);
    QI__UNROLL for (int digit = 0; digit < 6; digit++) {
      __m256i xd = qi__x_twice_avx2(x + 160 + 16 * digit);
      if (digit == 5) both = qi__tq1_0_rest_avx2(w[0], w[1], 0);
      now2[digit % 2] = (qi__i32x8)bytes((__m256i)now2[digit % 2], both, xd);
      both = qi__times3_avx2(both);
      next2[digit % 2] = (qi__i32x8)bytes((__m256i)next2[digit % 2], both, xd);
    }
    minus = (qi__i32x8)words((__m256i)minus, qi__bytes_avx2(sum), _mm256_set1_epi16(-1));
  } while (++b < end && !qi__ternary_pair_changes(p, b - 1));
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    qi__i32x8 all = 3 * (now[r][0] + now[r][1]) - (next[r][0] + next[r][1]);
    lanes[r] = _mm256_add_epi32(_mm256_srai_epi32((__m256i)all, 8), (__m256i)minus);
  }
  qi__add_halves_avx2(_mm256_srai_epi32((__m256i)(3 * (now2[0] + now2[1]) - (next2[0] + next2[1])), 8), lanes);
  return b;
}


// ---- one row of activations: all runs ----

QI__INLINE QI__AVX2 size_t qi__ternary_lanes_avx2(qi_format id, const qi__ternary_pair *p, size_t b, size_t end, __m256i *lanes) {
  if (id == QI_FORMAT_TQ1_0) return qi__ternary_tq1_0_avx2(p, b, end, lanes);
  return qi__ternary_pairs_avx2(id == QI_FORMAT_TQ2_0, p, b, end, lanes);
}
#if defined(QI__HAS_AVX_VNNI)
QI__INLINE QI__AVX_VNNI size_t qi__ternary_lanes_avx_vnni(qi_format id, const qi__ternary_pair *p, size_t b, size_t end,
                                                          __m256i *lanes) {
  if (id == QI_FORMAT_TQ1_0) return qi__ternary_tq1_0_vnni(qi__step_bytes_avx_vnni, qi__words_avx_vnni, p, b, end, lanes);
  return qi__ternary_pairs_avx_vnni(id == QI_FORMAT_TQ2_0, p, b, end, lanes);
}
#endif
QI__INLINE QI__AVX512_VNNI size_t qi__ternary_lanes_avx512(qi_format id, const qi__ternary_pair *p, size_t b, size_t end,
                                                           __m256i *lanes) {
  if (id == QI_FORMAT_TQ1_0) return qi__ternary_tq1_0_vnni(qi__step_bytes_avx512, qi__words_avx512, p, b, end, lanes);
  return qi__ternary_pairs_avx512(id == QI_FORMAT_TQ2_0, p, b, end, lanes);
}

// From block b on: as far as no scale changes, or eight blocks if one does soon. Returns how far.
QI__INLINE QI__AVX2 size_t qi__ternary_step_avx2(qi_format id, qi__ternary_lanes_fn lanes, qi__ternary_pair *p, size_t b) {
  __m256i sum[QI__TERNARY_PAIR], blocks[QI__TERNARY_PAIR][8];
  size_t end = qi__min_size(p->n_blocks, b / QI__TERNARY_RUN * QI__TERNARY_RUN + QI__TERNARY_RUN);
  if (end - b < 8 || !(qi__ternary_pair_changes(p, b) || qi__ternary_pair_changes(p, b + 1))) {
    end = lanes(id, p, b, end, sum);
    QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++)
      qi__ternary_pair_add(p, r, qi__sum_i32_avx2(sum[r]), end - 1, qi__half_avx2);
    return end;
  }
  for (size_t j = 0; j < 8; j++) {
    lanes(id, p, b + j, b + j + 1, sum);
    blocks[0][j] = sum[0];
    blocks[1][j] = sum[1];
  }
  QI__UNROLL for (int r = 0; r < QI__TERNARY_PAIR; r++) {
    int32_t total[8];
    qi__store_bytes_avx2(total, qi__fold8_avx2(blocks[r]));
    for (size_t j = 0; j < 8; j++) qi__ternary_pair_add(p, r, total[j], b + j, qi__half_avx2);
  }
  return b + 8;
}

QI__INLINE QI__AVX2 void qi__ternary_rows_avx2(qi_format id, qi__ternary_lanes_fn lanes, const qi__dot_q8_args *a) {
  for (size_t r = 0; r < a->n_w; r += QI__TERNARY_PAIR) {
    qi__ternary_pair p = qi__ternary_pair_of(id, a, r);
    for (size_t i = 0; i < a->n_x; i++) {
      qi__ternary_pair_start(&p, a->x, a->x_row + i);
      for (size_t b = 0; b < p.n_blocks;) b = qi__ternary_step_avx2(id, lanes, &p, b);
      qi__ternary_pair_finish(&p, a, r, a->y + i * a->y_stride);
    }
  }
}

#define QI__TERNARY_ROW(isa, target) \
  QI__FN target void qi__ternary_row_##isa(const qi__dot_q8_args *a) { \
    qi_format id = qi__format_id(a->format); \
    if (id == QI_FORMAT_TQ1_0) qi__ternary_rows_avx2(QI_FORMAT_TQ1_0, qi__ternary_lanes_##isa, a); \
    else if (id == QI_FORMAT_TQ2_0) qi__ternary_rows_avx2(QI_FORMAT_TQ2_0, qi__ternary_lanes_##isa, a); \
    else qi__ternary_rows_avx2(QI_FORMAT_I2_S, qi__ternary_lanes_##isa, a); \
  }
QI__TERNARY_ROW(avx2, QI__AVX2)
#if defined(QI__HAS_AVX_VNNI)
QI__TERNARY_ROW(avx_vnni, QI__AVX_VNNI)
#endif
QI__TERNARY_ROW(avx512, QI__AVX512_VNNI)
#undef QI__TERNARY_ROW

// ---- many rows of activations ----

// The panel holds u: [block][rows / 16][k / 4][row % 16, k % 4].
#define QI__TERNARY_HALF (64 * 64) // bytes of 16 rows of a block

QI__INLINE QI__AVX2 void qi__ternary_codes_avx2(qi_format id, const uint8_t *const *w, uint8_t (*codes)[256]) {
  for (int r = 0; r < 8; r++)
    QI__UNROLL for (int g = 0; g < 8; g++)
      qi__store_bytes_avx2(codes[r] + 32 * g, _mm256_add_epi8(qi__codes_avx2(id, w[r], g, NULL), _mm256_set1_epi8(1)));
}

QI__FN QI__AVX2 void qi__ternary_pack_avx2(qi_format id, const uint8_t *const *w, size_t r, uint8_t *code) {
  uint8_t codes[8][256];
  if (id == QI_FORMAT_TQ1_0) qi__ternary_codes_avx2(QI_FORMAT_TQ1_0, w, codes);
  else if (id == QI_FORMAT_TQ2_0) qi__ternary_codes_avx2(QI_FORMAT_TQ2_0, w, codes);
  else qi__ternary_codes_avx2(QI_FORMAT_I2_S, w, codes);
  qi__panel_interleave_avx2(codes, code + r / 16 * QI__TERNARY_HALF + r / 8 % 2 * 32);
}

QI__FN QI__AVX2 void qi__ternary_take_avx2(const qi__ternary_panel *p, size_t b, const int32_t *sums, int32_t x_sum, float d_x,
                                           qi__ternary_state *s) {
  for (size_t r = 0; r < QI__Q8_ROWS; r += 8) {
    __m256i total = _mm256_add_epi32(qi__bytes_avx2((const uint8_t *)(s->total + r)), qi__bytes_avx2((const uint8_t *)(sums + r)));
    total = _mm256_sub_epi32(total, _mm256_set1_epi32(x_sum));
    __m256i ends = qi__bytes_avx2((const uint8_t *)(p->ends[b] + r));
    __m256 y = _mm256_loadu_ps(s->y + r), d = _mm256_mul_ps(_mm256_loadu_ps(p->d[b] + r), _mm256_set1_ps(d_x));
    __m256 sum = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(total), y);
    _mm256_storeu_ps(s->y + r, _mm256_blendv_ps(y, sum, _mm256_castsi256_ps(ends)));
    qi__store_bytes_avx2(s->total + r, _mm256_andnot_si256(ends, total));
  }
}

QI__FN QI__AVX2 int32_t qi__ternary_x_sum_avx2(const int16_t *sum, size_t n_blocks) {
  __m256i all = _mm256_setzero_si256();
  for (size_t b = 0; b < n_blocks; b++)
    all = _mm256_add_epi32(all, _mm256_madd_epi16(qi__bytes_avx2((const uint8_t *)(sum + 16 * b)), _mm256_set1_epi16(1)));
  return qi__sum_i32_avx2(all);
}

// 16 weight rows (`half`) with n rows of activations; n is a constant where this is inlined. AVX2 adds products in int16 for half a
// block: 32 * 2 * 3 * 127 < 2^15.
QI__INLINE QI__AVX2 void qi__ternary_tile_avx2(bool vnni, qi__step_fn bytes, const uint8_t *code, size_t n_blocks, int half,
                                               const int8_t *x, size_t k, int n, int32_t (*sums)[QI__Q8_ROWS]) {
  __m256i total[2][4];
  QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm256_setzero_si256();
  for (size_t part = 0; part < 2 * n_blocks; part++, x += 128) {
    const uint8_t *w = code + (part / 2 * 2 + (size_t)half) * QI__TERNARY_HALF + part % 2 * (QI__TERNARY_HALF / 2);
    __m256i pairs[2][4];
    QI__UNROLL for (int i = 0; i < n; i++) pairs[0][i] = pairs[1][i] = _mm256_setzero_si256();
    for (int s = 0; s < 32; s++, w += 64) {
      __m256i w0 = qi__bytes_avx2(w), w1 = qi__bytes_avx2(w + 32);
      QI__UNROLL for (int i = 0; i < n; i++) {
        __m256i v = _mm256_set1_epi32(qi__load_4(x + (size_t)i * k + 4 * s));
        if (vnni) {
          total[0][i] = bytes(total[0][i], w0, v);
          total[1][i] = bytes(total[1][i], w1, v);
        } else {
          pairs[0][i] = _mm256_add_epi16(pairs[0][i], _mm256_maddubs_epi16(w0, v));
          pairs[1][i] = _mm256_add_epi16(pairs[1][i], _mm256_maddubs_epi16(w1, v));
        }
      }
    }
    if (vnni) continue;
    QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++)
      total[h][i] = _mm256_add_epi32(total[h][i], _mm256_madd_epi16(pairs[h][i], _mm256_set1_epi16(1)));
  }
  QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++)
    qi__store_bytes_avx2(sums[i] + 16 * half + 8 * h, total[h][i]);
}

QI__INLINE QI__AVX2 void qi__ternary_tiles_avx2(bool vnni, qi__step_fn bytes, const uint8_t *code, size_t n_blocks, const int8_t *x,
                                                size_t k, size_t n_x, int32_t (*sums)[QI__Q8_ROWS]) {
  size_t i = 0;
  for (; i + 4 <= n_x; i += 4)
    for (int half = 0; half < 2; half++) qi__ternary_tile_avx2(vnni, bytes, code, n_blocks, half, x + i * k, k, 4, sums + i);
  for (; i < n_x; i++)
    for (int half = 0; half < 2; half++) qi__ternary_tile_avx2(vnni, bytes, code, n_blocks, half, x + i * k, k, 1, sums + i);
}

QI__FN QI__AVX2 void qi__ternary_multiply_avx2(const uint8_t *code, size_t n_blocks, const int8_t *x, size_t k, size_t n_x,
                                               int32_t (*sums)[QI__Q8_ROWS]) {
  qi__ternary_tiles_avx2(false, qi__step_bytes_avx2, code, n_blocks, x, k, n_x, sums);
}
#if defined(QI__HAS_AVX_VNNI)
QI__FN QI__AVX_VNNI void qi__ternary_multiply_avx_vnni(const uint8_t *code, size_t n_blocks, const int8_t *x, size_t k, size_t n_x,
                                                       int32_t (*sums)[QI__Q8_ROWS]) {
  qi__ternary_tiles_avx2(true, qi__step_bytes_avx_vnni, code, n_blocks, x, k, n_x, sums);
}
#endif

// 32 weight rows with n rows of activations; n is a constant where this is inlined.
QI__INLINE QI__AVX512_VNNI void qi__ternary_tile_avx512(const uint8_t *code, size_t n_blocks, const int8_t *x, size_t k, int n,
                                                        int32_t (*sums)[QI__Q8_ROWS]) {
  __m512i total[2][8];
  QI__UNROLL for (int i = 0; i < n; i++) total[0][i] = total[1][i] = _mm512_setzero_si512();
  for (size_t b = 0; b < n_blocks; b++, code += QI__TERNARY_HALF)
    for (int s = 0; s < 64; s++, x += 4, code += 64) {
      __m512i w0 = _mm512_loadu_si512((const void *)code), w1 = _mm512_loadu_si512((const void *)(code + QI__TERNARY_HALF));
      QI__UNROLL for (int i = 0; i < n; i++) {
        __m512i v = _mm512_set1_epi32(qi__load_4(x + (size_t)i * k));
        total[0][i] = _mm512_dpbusd_epi32(total[0][i], w0, v);
        total[1][i] = _mm512_dpbusd_epi32(total[1][i], w1, v);
      }
    }
  QI__UNROLL for (int h = 0; h < 2; h++) QI__UNROLL for (int i = 0; i < n; i++)
    _mm512_storeu_si512((void *)(sums[i] + 16 * h), total[h][i]);
}

QI__FN QI__AVX512_VNNI void qi__ternary_multiply_avx512(const uint8_t *code, size_t n_blocks, const int8_t *x, size_t k, size_t n_x,
                                                        int32_t (*sums)[QI__Q8_ROWS]) {
  for (size_t i = 0; i < n_x;) {
    size_t n = n_x - i >= 8 ? 8 : n_x - i >= 4 ? 4 : 1;
    if (n == 8) qi__ternary_tile_avx512(code, n_blocks, x + i * k, k, 8, sums + i);
    else if (n == 4) qi__ternary_tile_avx512(code, n_blocks, x + i * k, k, 4, sums + i);
    else qi__ternary_tile_avx512(code, n_blocks, x + i * k, k, 1, sums + i);
    i += n;
  }
}

// ---- AMX ----

#if defined(QI__HAS_AMX)

// Tiles of the panel as they lie there, 16 weight rows and 64 columns each; tiles of activations from their rows. The
// configuration is that of n_x rows.
QI__INLINE QI__AMX void qi__ternary_tiles_amx(const uint8_t *code, size_t n_blocks, const int8_t *x, size_t k, size_t n_x,
                                              int32_t (*sums)[QI__Q8_ROWS]) {
  const bool two = n_x > 16;
  QI__TILE_BARRIER();
  _tile_zero(0);
  _tile_zero(1);
  if (two) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (size_t b = 0; b < n_blocks; b++, code += QI__TERNARY_HALF)
    for (int part = 0; part < 4; part++, code += QI__TERNARY_HALF / 4, x += 64) {
      _tile_loadd(6, code, 64);
      _tile_loadd(7, code + QI__TERNARY_HALF, 64);
      _tile_loadd(4, x, k);
      _tile_dpbsud(0, 4, 6);
      _tile_dpbsud(1, 4, 7);
      if (two) {
        _tile_loadd(5, x + 16 * k, k);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
      }
    }
  _tile_stored(0, sums[0], sizeof sums[0]);
  _tile_stored(1, sums[0] + 16, sizeof sums[0]);
  if (two) {
    _tile_stored(2, sums[16], sizeof sums[0]);
    _tile_stored(3, sums[16] + 16, sizeof sums[0]);
  }
  QI__TILE_BARRIER();
}

QI__FN QI__AMX void qi__ternary_multiply_amx(const uint8_t *code, size_t n_blocks, const int8_t *x, size_t k, size_t n_x,
                                             int32_t (*sums)[QI__Q8_ROWS]) {
  qi__tiles_begin(n_x);
  qi__ternary_tiles_amx(code, n_blocks, x, k, n_x, sums);
  _tile_release();
}
#endif

// ---- the kernels ----

#define QI__DOT_TERNARY(isa, row) \
  QI__FN void qi__dot_ternary_##isa(const qi__dot_q8_args *a) { \
    static const qi__ternary_kernels kernels = {qi__ternary_pack_avx2, qi__ternary_multiply_##isa, qi__ternary_take_avx2, \
                                                qi__ternary_x_sum_avx2}; \
    if (a->n_x >= QI__PANEL_FROM) qi__dot_ternary_panels(&kernels, a); \
    else row(a); \
  }
QI__DOT_TERNARY(avx2, qi__ternary_row_avx2)
#if defined(QI__HAS_AVX_VNNI)
QI__DOT_TERNARY(avx_vnni, qi__ternary_row_avx_vnni)
#endif
QI__DOT_TERNARY(avx512, qi__ternary_row_avx512)
#if defined(QI__HAS_AMX)
QI__DOT_TERNARY(amx, qi__ternary_row_avx512)
#endif
#undef QI__DOT_TERNARY
#endif

#endif // QI__KERNELS_DOT_TERNARY_X86_H

// One pointer a kernel family; contracts stand at the reference of each.
typedef struct qi__kernels {
  void (*quantize_q8)(const float *x, const qi__q8 *out, size_t row);
  qi__dot_float_fn dot_float[QI_FORMAT_BF16 + 1]; // by format of the weights: F32, F16, BF16
  qi__dot_q8_fn dot_q8[QI_FORMAT_COUNT]; // NULL for float formats
  void (*dequantize[QI_FORMAT_COUNT])(const qi__format *f, const uint8_t *src, float *dst, size_t n);
  void (*rms_norm)(const float *x, const float *w, float eps, size_t n, float *y);
  void (*add)(const float *x, size_t n, float *y);
  void (*swiglu)(const float *gate, const float *up, size_t n, float *y);
  void (*rope)(float *x, const float *cos_sin, size_t n_pairs, bool neighbours);
  void (*round_bf16)(const float *x, size_t n, float *y);
  void (*to_f16)(const float *x, size_t n, uint16_t *y);
  void (*attention_scores)(const float *q, size_t n_q, const qi__kv_run *run, size_t dim, float *score);
  float (*attention_softmax)(float *score, size_t begin, size_t end, size_t n, float *max);
  void (*attention_values)(const float *weight, size_t n_q, const qi__kv_run *run, size_t begin, size_t end, size_t dim,
                           float *out);
  void (*attention_join)(const float *max, const float *sum, size_t n, const qi__softmax_state *all);
  void (*attention_blend)(const float *piece, const float *keep, const float *add, size_t n, size_t dim, float *values);
  void (*attention_panel)(const void *b, size_t b_step, size_t n, size_t n_lanes, bool half, bool finite,
                          uint16_t *panel); // NULL: prompts have no attention on a matrix unit
  bool matrix_unit;      // bf16 runs on one
  qi__bf16_kernels bf16; // all NULL where there are no such instructions
  qi__stored_q8_kernels stored_q8;
} qi__kernels;

QI__FN void qi__kernels_init_ref(qi__kernels *k) {
  memset(k, 0, sizeof *k);
  k->quantize_q8 = qi__quantize_q8_ref;
  k->dot_float[QI_FORMAT_F32] = qi__dot_f32_ref;
  k->dot_float[QI_FORMAT_F16] = qi__dot_f16_ref;
  k->dot_float[QI_FORMAT_BF16] = qi__dot_bf16_ref;
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (qi__formats[f].unpack) k->dot_q8[f] = qi__formats[f].ternary ? qi__dot_ternary_ref : qi__dot_q8_ref;
    k->dequantize[f] = qi__dequantize_blocks;
  }
  k->rms_norm = qi__rms_norm_ref;
  k->add = qi__add_ref;
  k->swiglu = qi__swiglu_ref;
  k->rope = qi__rope_ref;
  k->round_bf16 = qi__round_bf16_ref;
  k->to_f16 = qi__to_f16_ref;
  k->attention_scores = qi__attention_scores_ref;
  k->attention_softmax = qi__attention_softmax_ref;
  k->attention_values = qi__attention_values_ref;
  k->attention_join = qi__attention_join_ref;
  k->attention_blend = qi__attention_blend_ref;
}

#if defined(QI__X86_64)
QI__FN void qi__kernels_set_dot_q8(qi__kernels *k, qi__dot_q8_fn dot, qi__dot_q8_fn dot_ternary) {
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (qi__formats[f].ternary) k->dot_q8[f] = dot_ternary;
    else if (qi__dot_q8_x86_has((qi_format)f)) k->dot_q8[f] = dot;
  }
}

QI__FN void qi__kernels_init_avx2(qi__kernels *k) {
  k->quantize_q8 = qi__quantize_q8_avx2;
  qi__kernels_set_dot_q8(k, qi__dot_q8_avx2, qi__dot_ternary_avx2);
  k->stored_q8 = qi__stored_q8_avx2;
  k->dot_float[QI_FORMAT_F32] = qi__dot_f32_avx2;
  k->dot_float[QI_FORMAT_F16] = qi__dot_f16_avx2;
  k->dot_float[QI_FORMAT_BF16] = qi__dot_bf16_avx2;
  k->rms_norm = qi__rms_norm_avx2;
  k->add = qi__add_avx2;
  k->swiglu = qi__swiglu_avx2;
  k->rope = qi__rope_avx2;
  k->round_bf16 = qi__round_bf16_avx2;
  k->to_f16 = qi__to_f16_avx2;
  k->attention_scores = qi__attention_scores_avx2;
  k->attention_softmax = qi__attention_softmax_avx2;
  k->attention_values = qi__attention_values_avx2;
  k->attention_join = qi__attention_join_avx2;
  k->attention_blend = qi__attention_blend_avx2;
  for (int f = QI_FORMAT_F32; f < QI_FORMAT_COUNT; f++) k->dequantize[f] = qi__dequantize_avx2;
  k->dequantize[QI_FORMAT_F32] = qi__dequantize_f32_x86;
  k->dequantize[QI_FORMAT_F16] = qi__dequantize_f16_avx2;
  k->dequantize[QI_FORMAT_BF16] = qi__dequantize_bf16_avx2;
}

QI__FN void qi__kernels_init_avx512(qi__kernels *k) {
  qi__kernels_set_dot_q8(k, qi__dot_q8_avx512, qi__dot_ternary_avx512);
  k->stored_q8 = qi__stored_q8_avx512;
  k->dot_float[QI_FORMAT_F32] = qi__dot_f32_avx512;
  k->dot_float[QI_FORMAT_F16] = qi__dot_f16_avx512;
  k->dot_float[QI_FORMAT_BF16] = qi__dot_bf16_avx512;
  k->swiglu = qi__swiglu_avx512;
  k->attention_scores = qi__attention_scores_avx512;
  k->attention_softmax = qi__attention_softmax_avx512;
  k->attention_values = qi__attention_values_avx512;
}

#if defined(QI__HAS_AMX)
QI__FN void qi__kernels_init_amx(qi__kernels *k) {
  k->bf16 = qi__bf16_amx;
  k->matrix_unit = true;
  for (int f = 1; f < QI_FORMAT_COUNT; f++)
    if (qi__formats[f].ternary) k->dot_q8[f] = qi__dot_ternary_amx;
}
#endif
#elif defined(QI__ARM64)
QI__FN void qi__kernels_set_dot_q8(qi__kernels *k, qi__dot_q8_fn dot, qi__dot_q8_fn dot_ternary) {
  for (int f = 1; f < QI_FORMAT_COUNT; f++) {
    if (qi__formats[f].ternary) k->dot_q8[f] = dot_ternary;
    else if (qi__formats[f].unpack && !qi__formats[f].wide) k->dot_q8[f] = dot;
  }
}

QI__FN void qi__kernels_init_neon(qi__kernels *k) {
  k->quantize_q8 = qi__quantize_q8_neon;
  qi__kernels_set_dot_q8(k, qi__dot_q8_neon, qi__dot_ternary_neon);
  k->dot_q8[QI_FORMAT_QINS8_K] = qi__dot_qins8_k_neon;
  k->dot_float[QI_FORMAT_F32] = qi__dot_f32_neon;
  k->dot_float[QI_FORMAT_F16] = qi__dot_f16_neon;
  k->dot_float[QI_FORMAT_BF16] = qi__dot_bf16_neon;
  k->rms_norm = qi__rms_norm_neon;
  k->add = qi__add_neon;
  k->swiglu = qi__swiglu_neon;
  k->rope = qi__rope_neon;
  k->round_bf16 = qi__round_bf16_neon;
  k->to_f16 = qi__to_f16_neon;
  k->attention_scores = qi__attention_scores_neon;
  k->attention_softmax = qi__attention_softmax_neon;
  k->attention_values = qi__attention_values_neon;
  k->attention_join = qi__attention_join_neon;
  k->attention_blend = qi__attention_blend_neon;
  for (int f = QI_FORMAT_F32; f < QI_FORMAT_COUNT; f++)
    if (qi__dequantize_neon_has((qi_format)f)) k->dequantize[f] = qi__dequantize_neon;
  k->dequantize[QI_FORMAT_F32] = qi__dequantize_f32_neon;
  k->dequantize[QI_FORMAT_F16] = qi__dequantize_f16_neon;
  k->dequantize[QI_FORMAT_BF16] = qi__dequantize_bf16_neon;
}
#endif

// References first; then each variant that `cpu` allows replaces what it improves.
QI__FN void qi__kernels_init(qi__kernels *k, const qi__cpu *cpu) {
  qi__kernels_init_ref(k);
#if defined(QI__X86_64)
  if (cpu->avx2) qi__kernels_init_avx2(k);
#if defined(QI__HAS_AVX_VNNI)
  if (cpu->avx_vnni) qi__kernels_set_dot_q8(k, qi__dot_q8_avx_vnni, qi__dot_ternary_avx_vnni);
#endif
  if (cpu->avx512) qi__kernels_init_avx512(k);
  if (cpu->avx512_vbmi) k->dot_q8[QI_FORMAT_QINS8_K] = qi__dot_qins8_k_vbmi;
#if defined(QI__HAS_AVX512_BF16)
  if (cpu->avx512_bf16) k->bf16 = qi__bf16_avx512;
  if (cpu->avx512_bf16) k->attention_panel = qi__attention_panel_avx512;
#endif
#if defined(QI__HAS_AMX)
  if (cpu->amx) qi__kernels_init_amx(k);
#endif
#elif defined(QI__ARM64)
  if (cpu->neon) qi__kernels_init_neon(k);
  if (cpu->dotprod) {
    qi__kernels_set_dot_q8(k, qi__dot_q8_dotprod, qi__dot_ternary_dotprod);
    k->dot_q8[QI_FORMAT_QINS8_K] = qi__dot_qins8_k_dotprod;
  }
#if defined(QI__HAS_I8MM)
  if (cpu->i8mm) qi__kernels_set_dot_q8(k, qi__dot_q8_i8mm, qi__dot_ternary_i8mm);
#endif
#if defined(QI__HAS_NEON_BF16)
  if (cpu->i8mm) k->bf16 = qi__bf16_neon;
#endif
#else
  (void)cpu;
#endif
}

#endif // QI__KERNELS_TABLE_H

// Work is handed out in tiles of this many weight rows. No result depends on it.
#define QI__TILE_ROWS 32
#define QI__FLOAT_ROWS 16 // of these as float32 at a time

QI__STATIC_ASSERT(QI__TILE_ROWS == QI__BF16_ROWS && QI__TILE_ROWS == QI__Q8_ROWS, tile_rows);

typedef enum qi__arithmetic { QI__INTEGER, QI__FLOAT, QI__BF16, QI__ARITHMETICS } qi__arithmetic;

// A matrix in the form that an arithmetic multiplies without unpacking, in tiles of QI__TILE_ROWS rows; the last may be less. The
// results have the same bits.
//   FLOAT    rows of float32, qi__float_stride apart
//   BF16     panels as in bf16.h, slice after slice; where there are no instructions for bfloat16, rows of it
//   INTEGER  as qi__stored_q8_kernels says
typedef struct qi__form {
  const uint8_t *data; // tiles 0..n_tiles-1
  size_t n_tiles, tile_bytes;
} qi__form;

typedef struct qi__forms {
  qi__bf16_kernels bf16; // whose layout panels have
  qi__form of[QI__ARITHMETICS];
} qi__forms;

// A weight matrix [n_rows, n_cols]: each row gives one output.
typedef struct qi__weight {
  qi_format id;
  const qi__format *format;
  const uint8_t *data;
  size_t n_rows, n_cols, row_bytes;
  const float *bias; // [n_rows], or NULL
  const qi__forms *forms; // ready to be multiplied, or NULL
} qi__weight;

// The rule of qi_path in api.h. Float formats have no integer form: INTEGER multiplies them in float32. Many rows in bfloat16 are
// faster than in integers only where a matrix unit does it.
QI__FN qi__arithmetic qi__arithmetic_of(const qi__kernels *kernels, const qi__weight *w, qi_path path, bool generated) {
  bool exact = w->id == QI_FORMAT_F32 || w->id == QI_FORMAT_F16;
  if (path == QI_PATH_AUTO) {
    bool integer = generated || (w->format->unpack && !kernels->matrix_unit);
    path = exact ? QI_PATH_FLOAT : integer ? QI_PATH_INTEGER : QI_PATH_BF16;
  }
  if (path == QI_PATH_INTEGER) return w->format->unpack ? QI__INTEGER : QI__FLOAT;
  return path == QI_PATH_BF16 ? QI__BF16 : QI__FLOAT;
}

// ---- inputs ----

// Activations in the forms that the weights of one step want. Each form has room for all rows; a row is filled where it is needed.
typedef struct qi__inputs {
  float *x;    // [n, k]
  void *bf16;  // rounded to bfloat16: packed as in bf16.h, or float32 [n, k]
  qi__q8 q8[3]; // by qi__q8_form
} qi__inputs;

enum { QI__Q8_32, QI__Q8_256, QI__Q8_ROW };
enum { QI__NEED_Q8 = 1, QI__NEED_BF16 = 8 }; // QI__NEED_Q8 << form

// Which form of int8 activations the integer products of a format take: scales for 32, 256 or all columns.
QI__INLINE int qi__q8_form(const qi__format *f) {
  return f->ternary ? QI__Q8_ROW : f->info.block_len == 256 ? QI__Q8_256 : QI__Q8_32;
}

QI__FN unsigned qi__inputs_need(const qi__weight *w, qi__arithmetic arithmetic) {
  if (arithmetic == QI__FLOAT) return 0;
  if (arithmetic == QI__BF16) return QI__NEED_BF16;
  return (unsigned)QI__NEED_Q8 << qi__q8_form(w->format);
}

// Room for n rows of up to k values, in an arena. (q8 blocks: at most one scale every 32 values.)
QI__FN void qi__inputs_layout(qi__inputs *in, qi__arena *arena, size_t n, size_t k) {
  size_t size, packed;
  if (!qi__mul_size(n, k, &size) || !qi__mul_size((n + 15) / 16 * 8, qi__bf16_width(k), &packed))
    arena->overflow = true, size = packed = 0;
  in->x = QI__ARENA_ARRAY(arena, float, size);
  in->bf16 = QI__ARENA_ARRAY(arena, float, size > packed ? size : packed);
  for (int form = 0; form < 3; form++) {
    qi__q8 *q8 = &in->q8[form];
    q8->q = QI__ARENA_ARRAY(arena, int8_t, size);
    q8->block = form == QI__Q8_32 ? 32 : 256;
    q8->d = QI__ARENA_ARRAY(arena, float, form == QI__Q8_ROW ? n : size / q8->block);
    q8->sum = QI__ARENA_ARRAY(arena, int16_t, size / 16);
  }
}

// Says how long the rows of the next step are.
QI__FN void qi__inputs_set_width(qi__inputs *in, size_t k) {
  for (int form = 0; form < 3; form++) in->q8[form].k = k;
  in->q8[QI__Q8_ROW].block = k;
}

// Fills the needed forms of row `row` from in->x.
QI__FN void qi__inputs_prepare(const qi__kernels *kernels, const qi__inputs *in, size_t row, unsigned need) {
  size_t k = in->q8[0].k;
  const float *x = in->x + row * k;
  for (int form = 0; form < 3; form++)
    if (need & (unsigned)QI__NEED_Q8 << form) kernels->quantize_q8(x, &in->q8[form], row);
  if (!(need & QI__NEED_BF16)) return;
  if (kernels->bf16.pack) kernels->bf16.pack(x, k, (uint16_t *)in->bf16, row);
  else kernels->round_bf16(x, k, (float *)in->bf16 + row * k);
}

// ---- tiles ----

// Floats from one float32 row in scratch to the next: not all rows of a power of two into the same cache set.
QI__INLINE size_t qi__float_stride(size_t n_cols) { return (n_cols + 15) / 16 * 16 + 16; }

// Floats of scratch that a tile of a matrix of n_cols needs with up to n_x rows of activations: weight rows as float32; a panel and
// the rows that go into it; a panel and sums of integer products.
QI__INLINE size_t qi__tile_scratch(size_t n_cols, size_t n_x) {
  size_t panel = QI__BF16_ROWS * qi__bf16_width(qi__min_size(n_cols, QI__BF16_SLICE_MAX)) / 2 + 16 * QI__BF16_STRIDE / 2;
  size_t rows = QI__FLOAT_ROWS * qi__float_stride(n_cols), q8 = qi__q8_scratch(n_x);
  if (panel < rows) panel = rows;
  return panel > q8 ? panel : q8;
}

// FLOAT, and BF16 without instructions for it: rows are dequantised to scratch, rounded to bfloat16 if asked. Those of float
// formats are taken as they are for few rows of activations: to write them down would take longer.
QI__FN void qi__tile_float(const qi__kernels *kernels, bool bf16, const qi__weight *w, size_t first, size_t n_w, const float *x,
                           size_t n_x, float *y, size_t y_stride, float *scratch) {
  size_t k = w->n_cols, stride = qi__float_stride(k);
  const uint8_t *src = w->data + first * w->row_bytes;
  bool round = bf16 && w->id != QI_FORMAT_BF16;
  if (w->id <= QI_FORMAT_BF16 && !round && n_x < 8) {
    kernels->dot_float[w->id](src, w->row_bytes, n_w, x, k, n_x, k, y, y_stride);
    return;
  }
  for (size_t r = 0; r < n_w; r += QI__FLOAT_ROWS) {
    size_t n = qi__min_size(QI__FLOAT_ROWS, n_w - r);
    for (size_t i = 0; i < n; i++, src += w->row_bytes) {
      kernels->dequantize[w->id](w->format, src, scratch + i * stride, k);
      if (round) kernels->round_bf16(scratch + i * stride, k, scratch + i * stride);
    }
    kernels->dot_float[QI_FORMAT_F32](scratch, stride * sizeof *scratch, n, x, k, n_x, k, y + r, y_stride);
  }
}

// Columns k..k+n_k-1 of weight rows first..first+n_w-1 as a panel. rows: [16, QI__BF16_STRIDE]
QI__FN void qi__tile_panel(const qi__kernels *kernels, const qi__weight *w, size_t first, size_t n_w, size_t k, size_t n_k,
                           uint16_t *rows, uint16_t *panel) {
  const qi_format_info *info = &w->format->info;
  size_t width = qi__bf16_width(n_k);
  for (size_t block = 0; block < QI__BF16_ROWS; block += 16, panel += 16 * width) {
    size_t n = block < n_w ? qi__min_size(16, n_w - block) : 0;
    if (n < 16) memset(rows, 0, 16 * QI__BF16_STRIDE * sizeof *rows);
    for (size_t j = 0; j < n_k; j += QI__BF16_STEP) {
      size_t step = qi__min_size(QI__BF16_STEP, n_k - j), step_width = qi__bf16_width(step);
      const uint8_t *src = w->data + (first + block) * w->row_bytes + (k + j) / (size_t)info->block_len * (size_t)info->block_bytes;
      for (size_t r = 0; r < n; r++) {
        uint16_t *row = rows + r * QI__BF16_STRIDE;
        kernels->bf16.unpack(w->format, src + r * w->row_bytes, step, row);
        memset(row + step, 0, (step_width - step) * sizeof *row);
      }
      kernels->bf16.interleave(rows, step_width, panel + 16 * j);
    }
  }
}

// ready: the panels of all slices, or NULL.
QI__FN void qi__tile_bf16(const qi__kernels *kernels, const qi__weight *w, const uint16_t *ready, size_t first, size_t n_w,
                          const qi__inputs *in, size_t x_row, size_t n_x, float *y, size_t y_stride, float *scratch) {
  uint16_t *rows = (uint16_t *)(void *)scratch, *panel = rows + 16 * QI__BF16_STRIDE;
  const uint16_t *x = (const uint16_t *)in->bf16;
  size_t slice = ready ? w->forms->bf16.slice : kernels->bf16.slice;
  qi__bf16_args a = {panel, n_w, 0, x, 16 * qi__bf16_width(w->n_cols), x_row, n_x, true, y, y_stride};
  for (size_t k = 0; k < w->n_cols; k += slice) {
    size_t n_k = qi__min_size(slice, w->n_cols - k);
    if (ready) a.panel = ready + QI__BF16_ROWS * k;
    else qi__tile_panel(kernels, w, first, n_w, k, n_k, rows, panel);
    a.n_k = qi__bf16_width(n_k);
    a.x = x + 16 * k;
    a.first = k == 0;
    kernels->bf16.multiply(&a);
  }
}

// The tile of rows `first` on in the form of an arithmetic; NULL when there is none that these kernels can use for n_x rows.
QI__FN const uint8_t *qi__tile_ready(const qi__kernels *kernels, qi__arithmetic arithmetic, const qi__weight *w, size_t first,
                                     size_t n_x) {
  if (!w->forms) return NULL;
  const qi__form *f = &w->forms->of[arithmetic];
  if (first / QI__TILE_ROWS >= f->n_tiles) return NULL;
  if (arithmetic == QI__INTEGER && (!kernels->stored_q8.dot || n_x < kernels->stored_q8.from)) return NULL;
  bool fits = kernels->bf16.unpack == w->forms->bf16.unpack && kernels->bf16.interleave == w->forms->bf16.interleave;
  if (arithmetic == QI__BF16 && !fits) return NULL;
  return f->data + first / QI__TILE_ROWS * f->tile_bytes;
}

// A tile that is rows of float32 or bfloat16, as a weight matrix.
QI__FN qi__weight qi__tile_rows(const qi__weight *w, qi__arithmetic arithmetic, const uint8_t *ready, size_t n_w) {
  qi_format id = arithmetic == QI__BF16 ? QI_FORMAT_BF16 : QI_FORMAT_F32;
  size_t stride = arithmetic == QI__BF16 ? 2 * w->n_cols : sizeof(float) * qi__float_stride(w->n_cols);
  return (qi__weight){id, &qi__formats[id], ready, n_w, w->n_cols, stride, NULL, NULL};
}

// Rows of float32 that are ready: as many at a time as stay in the cache while all activations pass.
QI__FN void qi__tile_f32(const qi__kernels *kernels, const qi__weight *rows, size_t n_w, const float *x, size_t n_x, float *y,
                         size_t y_stride) {
  for (size_t r = 0; r < n_w; r += QI__FLOAT_ROWS)
    kernels->dot_float[QI_FORMAT_F32](rows->data + r * rows->row_bytes, rows->row_bytes, qi__min_size(QI__FLOAT_ROWS, n_w - r), x,
                                      rows->n_cols, n_x, rows->n_cols, y + r, y_stride);
}

// y[i * y_stride + r] = weight row first + r times activation row x_row + i, plus bias;  r < n_w <= QI__TILE_ROWS, i < n_x.
// first: a multiple of QI__TILE_ROWS.
// scratch: float32 [qi__tile_scratch(n_cols, n_x)], one for each thread, aligned to a cache line.
QI__FN void qi__matmul_tile(const qi__kernels *kernels, qi__arithmetic arithmetic, const qi__weight *w, size_t first, size_t n_w,
                            const qi__inputs *in, size_t x_row, size_t n_x, float *y, size_t y_stride, float *scratch) {
  bool bf16 = arithmetic == QI__BF16;
  const uint8_t *ready = qi__tile_ready(kernels, arithmetic, w, first, n_x);
  if (arithmetic == QI__INTEGER) {
    const qi__q8 *x = &in->q8[qi__q8_form(w->format)];
    qi__dot_q8_args args = {w->format, w->data + first * w->row_bytes, w->row_bytes, n_w, x, x_row, n_x, y, y_stride, scratch};
    if (ready) args.w = ready, args.w_stride = kernels->stored_q8.chunk_bytes(w->format);
    if (ready) kernels->stored_q8.dot(&args);
    else kernels->dot_q8[w->id](&args);
  } else if (bf16 && kernels->bf16.multiply) {
    qi__tile_bf16(kernels, w, (const uint16_t *)(const void *)ready, first, n_w, in, x_row, n_x, y, y_stride, scratch);
  } else {
    const float *x = (bf16 ? (const float *)in->bf16 : in->x) + x_row * w->n_cols;
    qi__weight rows = *w;
    if (ready) rows = qi__tile_rows(w, arithmetic, ready, n_w);
    if (ready && !bf16) qi__tile_f32(kernels, &rows, n_w, x, n_x, y, y_stride);
    else qi__tile_float(kernels, bf16, &rows, ready ? 0 : first, n_w, x, n_x, y, y_stride, scratch);
  }
  if (w->bias)
    for (size_t i = 0; i < n_x; i++) kernels->add(w->bias + first, n_w, y + i * y_stride);
}

#endif // QI__KERNELS_MATMUL_H

// Bytes of a tile of a matrix in the form of an arithmetic, a multiple of the cache line; 0 = it has none with these kernels, or
// none that spares any work. Overflow: SIZE_MAX.
QI__FN size_t qi__form_tile_bytes(const qi__kernels *kernels, qi__arithmetic arithmetic, qi_format id, size_t n_cols) {
  const qi__format *f = &qi__formats[id];
  size_t row, bytes;
  if (!n_cols || n_cols > SIZE_MAX / (64 * QI__TILE_ROWS)) return n_cols ? SIZE_MAX : 0;
  switch (arithmetic) {
  case QI__INTEGER:
    if (!f->unpack || !kernels->stored_q8.dot) return 0;
    bytes = (n_cols + 255) / 256 * kernels->stored_q8.chunk_bytes(f);
    break;
  case QI__FLOAT:
    if (id <= QI_FORMAT_BF16) return 0;
    bytes = QI__TILE_ROWS * qi__float_stride(n_cols) * sizeof(float);
    break;
  case QI__BF16:
    if (id == QI_FORMAT_BF16 && !kernels->bf16.multiply) return 0;
    row = kernels->bf16.multiply ? qi__bf16_width(n_cols) : n_cols;
    bytes = QI__TILE_ROWS * row * sizeof(uint16_t);
    break;
  default: return 0;
  }
  return qi__align_up(bytes, QI__CACHE_LINE, &bytes) ? bytes : SIZE_MAX;
}

QI__INLINE size_t qi__n_tiles(size_t n_rows) { return n_rows / QI__TILE_ROWS + (n_rows % QI__TILE_ROWS != 0); }

// One row of n_cols weights rounded to bfloat16.
QI__FN void qi__form_bf16_row(const qi__kernels *kernels, const qi__weight *w, const uint8_t *src, uint8_t *dst) {
  float values[QI__BF16_STEP];
  for (size_t k = 0; k < w->n_cols; k += QI__BF16_STEP) {
    size_t n = qi__min_size(QI__BF16_STEP, w->n_cols - k);
    kernels->dequantize[w->id](w->format, src + qi__row_bytes(w->id, k), values, n);
    kernels->round_bf16(values, n, values);
    qi__formats[QI_FORMAT_BF16].quantize(values, dst + 2 * k, n, NULL);
  }
}

// Tile `tile` of w in the form of an arithmetic, to `dst`.
QI__FN void qi__form_fill(const qi__kernels *kernels, qi__arithmetic arithmetic, const qi__weight *w, size_t tile, uint8_t *dst) {
  size_t first = tile * QI__TILE_ROWS, n_w = qi__min_size(QI__TILE_ROWS, w->n_rows - first);
  const uint8_t *src = w->data + first * w->row_bytes;
  if (arithmetic == QI__INTEGER) {
    qi__dot_q8_args rows = {w->format, src, w->row_bytes, n_w, NULL, 0, 0, NULL, 0, NULL};
    kernels->stored_q8.store(&rows, w->n_cols, dst);
  } else if (arithmetic == QI__BF16 && kernels->bf16.multiply) {
    uint16_t rows[16 * QI__BF16_STRIDE];
    for (size_t k = 0; k < w->n_cols; k += kernels->bf16.slice)
      qi__tile_panel(kernels, w, first, n_w, k, qi__min_size(kernels->bf16.slice, w->n_cols - k), rows,
                     (uint16_t *)(void *)dst + QI__BF16_ROWS * k);
  } else {
    qi__weight rows = qi__tile_rows(w, arithmetic, dst, n_w);
    for (size_t r = 0; r < n_w; r++, src += w->row_bytes, dst += rows.row_bytes) {
      if (arithmetic == QI__BF16) qi__form_bf16_row(kernels, w, src, dst);
      else kernels->dequantize[w->id](w->format, src, (float *)(void *)dst, w->n_cols);
    }
  }
}

// ---- threaded ----

// Tiles begin..end-1 of one form.
typedef struct qi__form_job {
  const qi__kernels *kernels;
  const qi__weight *w;
  qi__arithmetic arithmetic;
  uint8_t *data; // of tile 0
  size_t tile_bytes, begin;
} qi__form_job;

QI__FN void qi__form_task(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__form_job *j = (const qi__form_job *)arg;
  (void)worker;
  for (size_t i = j->begin + (size_t)begin; i < j->begin + (size_t)end; i++)
    qi__form_fill(j->kernels, j->arithmetic, j->w, i, j->data + i * j->tile_bytes);
}

#endif // QI__KERNELS_FORMS_H
// generated from src/model/weights.h: edit there
// ==== >>weights : which tensors a model has, and where they lie ====
#ifndef QI__MODEL_WEIGHTS_H
#define QI__MODEL_WEIGHTS_H

// generated from src/model/hparams.h: edit there
// ==== >>hparams : architectures as data, and the numbers of a model ====
#ifndef QI__MODEL_HPARAMS_H
#define QI__MODEL_HPARAMS_H

// generated from src/model/gguf.h: edit there
// ==== >>gguf : looking things up in an open GGUF file ====
#ifndef QI__MODEL_GGUF_H
#define QI__MODEL_GGUF_H

// generated from src/model/gguf_load.h: edit there
// ==== >>gguf_load : opening GGUF files, whole or split ====
#ifndef QI__MODEL_GGUF_LOAD_H
#define QI__MODEL_GGUF_LOAD_H

// generated from src/base/map.h: edit there
// ==== >>map : stb_ds hash maps over reserved memory ====
#ifndef QI__MAP_H
#define QI__MAP_H


// stb_ds asks for memory without saying for whom and does not look whether it got any. So every map is laid out in an arena for a
// number of entries that is known beforehand, and stb_ds never has to ask. All its names are private to this file: a host may have
// its own copy, before or after, implementation included.

// ---- stb_ds, renamed ----

#define stbds_rand_seed qi__stbds_rand_seed
#define stbds_hash_bytes qi__stbds_hash_bytes
#define stbds_hash_string qi__stbds_hash_string
#define stbds_stralloc qi__stbds_stralloc
#define stbds_strreset qi__stbds_strreset
#define stbds_unit_tests qi__stbds_unit_tests
#define stbds_arrgrowf qi__stbds_arrgrowf
#define stbds_arrfreef qi__stbds_arrfreef
#define stbds_hmfree_func qi__stbds_hmfree_func
#define stbds_hmget_key qi__stbds_hmget_key
#define stbds_hmget_key_ts qi__stbds_hmget_key_ts
#define stbds_hmput_default qi__stbds_hmput_default
#define stbds_hmput_key qi__stbds_hmput_key
#define stbds_hmdel_key qi__stbds_hmdel_key
#define stbds_shmode_func qi__stbds_shmode_func
#define stbds_array_header qi__stbds_array_header
#define stbds_string_arena qi__stbds_string_arena
#define stbds_string_block qi__stbds_string_block
#define stbds_hash_bucket qi__stbds_hash_bucket
#define stbds_hash_index qi__stbds_hash_index
#define stbds_hash_seed qi__stbds_hash_seed
#define stbds_probe_position qi__stbds_probe_position
#define stbds_log2 qi__stbds_log2
#define stbds_make_hash_index qi__stbds_make_hash_index
#define stbds_siphash_bytes qi__stbds_siphash_bytes
#define stbds_is_key_equal qi__stbds_is_key_equal
#define stbds_hm_find_slot qi__stbds_hm_find_slot
#define stbds_strdup qi__stbds_strdup
#define STBDS_SH_NONE QI__STBDS_SH_NONE
#define STBDS_SH_DEFAULT QI__STBDS_SH_DEFAULT
#define STBDS_SH_STRDUP QI__STBDS_SH_STRDUP
#define STBDS_SH_ARENA QI__STBDS_SH_ARENA

#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-value"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wpedantic"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#pragma GCC diagnostic ignored "-Wnull-dereference"
#pragma GCC diagnostic ignored "-Wnonnull"
#pragma GCC diagnostic ignored "-Warray-bounds"
#endif
#endif
#pragma push_macro("INCLUDE_STB_DS_H")
#pragma push_macro("STB_DS_IMPLEMENTATION")
#pragma push_macro("STBDS_NO_SHORT_NAMES")
#pragma push_macro("STBDS_REALLOC")
#pragma push_macro("STBDS_FREE")
#pragma push_macro("STBDS_ASSERT")
#pragma push_macro("STBDS_UNIT_TESTS")
#undef INCLUDE_STB_DS_H
#undef STB_DS_IMPLEMENTATION
#undef STBDS_NO_SHORT_NAMES
#undef STBDS_REALLOC
#undef STBDS_FREE
#undef STBDS_ASSERT
#undef STBDS_UNIT_TESTS
#define STB_DS_IMPLEMENTATION
#define STBDS_NO_SHORT_NAMES
#define STBDS_REALLOC(context, ptr, size) ((void)(size), NULL) // never reached: see qi__map_reserve
#define STBDS_FREE(context, ptr) ((void)0)
#define STBDS_ASSERT(x) QI_ASSERT(x)

// What is declared static first stays static.
typedef struct stbds_string_arena stbds_string_arena;
static void stbds_rand_seed(size_t seed);
static size_t stbds_hash_bytes(void *p, size_t len, size_t seed);
static size_t stbds_hash_string(char *str, size_t seed);
static char *stbds_stralloc(stbds_string_arena *a, char *str);
static void stbds_strreset(stbds_string_arena *a);
static void *stbds_arrgrowf(void *a, size_t elemsize, size_t addlen, size_t min_cap);
static void stbds_arrfreef(void *a);
static void stbds_hmfree_func(void *p, size_t elemsize);
static void *stbds_hmget_key(void *a, size_t elemsize, void *key, size_t keysize, int mode);
static void *stbds_hmget_key_ts(void *a, size_t elemsize, void *key, size_t keysize, ptrdiff_t *temp, int mode);
static void *stbds_hmput_default(void *a, size_t elemsize);
static void *stbds_hmput_key(void *a, size_t elemsize, void *key, size_t keysize, int mode);
static void *stbds_hmdel_key(void *a, size_t elemsize, void *key, size_t keysize, size_t keyoffset, int mode);
static void *stbds_shmode_func(size_t elemsize, int mode);

#if defined(__has_include)
#if __has_include("stb_ds.h")
#include "stb_ds.h"
#elif __has_include(<stb/stb_ds.h>)
#include <stb/stb_ds.h>
#else
#error "qinfer needs stb_ds.h: apt-get install libstb-dev, or copy it from the stb repository beside qinfer.h"
#endif
#else
#include "stb_ds.h"
#endif

// ---- maps ----

typedef struct qi__str_entry {
  const char *key; // terminated; must stay as long as the map
  int32_t value;
} qi__str_entry;

typedef struct qi__pair_entry {
  uint64_t key; // see qi__pair_key
  int64_t value;
} qi__pair_entry;

// Text to number, and pair of numbers to number. Putting a key twice keeps the first value. Lookups change nothing: any thread.
typedef struct qi__str_map {
  qi__str_entry *entries; // NULL: empty
} qi__str_map;
typedef struct qi__pair_map {
  qi__pair_entry *entries;
} qi__pair_map;

// stb_ds grows an index that is three quarters full.
QI__FN size_t qi__map_slots(size_t n) {
  size_t slots = STBDS_BUCKET_LENGTH;
  while (slots - (slots >> 2) <= n && slots <= SIZE_MAX / 4) slots *= 2;
  return slots;
}

// Fills in what stbds_make_hash_index would, with a seed that a file's author cannot know.
QI__FN void qi__map_index_init(stbds_hash_index *index, stbds_hash_bucket *buckets, size_t slots, int string_mode) {
  memset(index, 0, sizeof *index);
  index->storage = buckets;
  index->slot_count = slots;
  index->slot_count_log2 = stbds_log2(slots);
  index->used_count_threshold = slots - (slots >> 2);
  index->tombstone_count_threshold = (slots >> 3) + (slots >> 4);
  index->seed = stbds_hash_seed ^ (size_t)(uintptr_t)buckets;
  index->string.mode = (unsigned char)string_mode;
  for (size_t i = 0; i < slots / STBDS_BUCKET_LENGTH; i++)
    for (size_t j = 0; j < STBDS_BUCKET_LENGTH; j++) {
      buckets[i].hash[j] = STBDS_HASH_EMPTY;
      buckets[i].index[j] = STBDS_INDEX_EMPTY;
    }
}

// An empty map for at most n entries of elem_size bytes; NULL while the arena counts.
QI__FN void *qi__map_reserve(qi__arena *arena, size_t n, size_t elem_size, int string_mode) {
  size_t slots = qi__map_slots(n);
  stbds_hash_bucket *buckets = QI__ARENA_ARRAY(arena, stbds_hash_bucket, slots / STBDS_BUCKET_LENGTH);
  stbds_hash_index *index = QI__ARENA_ARRAY(arena, stbds_hash_index, 1);
  // The header ends where the elements begin; both sizes keep 16-byte alignment.
  size_t payload;
  if (!qi__mul_size(n + 2, elem_size, &payload) || !qi__add_size(payload, sizeof(stbds_array_header), &payload)) {
    arena->overflow = true;
    return NULL;
  }
  stbds_array_header *header = (stbds_array_header *)qi__arena_take(arena, payload, 1, QI__CACHE_LINE);
  if (!header || !index || !buckets) return NULL;
  qi__map_index_init(index, buckets, slots, string_mode);
  char *elements = (char *)(header + 1);
  memset(elements, 0, elem_size); // stb_ds keeps a default entry first
  header->length = 1;
  header->capacity = n + 2;
  header->hash_table = index;
  header->temp = 0;
  return elements + elem_size;
}

QI__FN void qi__str_map_init(qi__str_map *m, qi__arena *arena, size_t n) {
  m->entries = (qi__str_entry *)qi__map_reserve(arena, n, sizeof(qi__str_entry), STBDS_SH_DEFAULT);
}

// At most as many puts as were reserved. False when the key was there already.
QI__FN bool qi__str_map_put(qi__str_map *m, const char *key, int32_t value) {
  stbds_array_header *header = stbds_header(m->entries - 1);
  size_t before = header->length;
  stbds_hmput_key(m->entries, sizeof *m->entries, (void *)(uintptr_t)key, sizeof(char *), STBDS_HM_STRING);
  if (header->length == before) return false;
  m->entries[header->temp].value = value;
  return true;
}

QI__FN bool qi__str_map_get(const qi__str_map *m, const char *key, int32_t *value) {
  ptrdiff_t i = -1;
  if (!m->entries) return false;
  stbds_hmget_key_ts(m->entries, sizeof *m->entries, (void *)(uintptr_t)key, sizeof(char *), &i, STBDS_HM_STRING);
  if (i < 0) return false;
  *value = m->entries[i].value;
  return true;
}

QI__FN void qi__pair_map_init(qi__pair_map *m, qi__arena *arena, size_t n) {
  m->entries = (qi__pair_entry *)qi__map_reserve(arena, n, sizeof(qi__pair_entry), STBDS_SH_NONE);
}

// Two numbers below 2^28 as eight bytes below 128: stb_ds shifts bytes as int, which is undefined for greater ones.
QI__INLINE uint64_t qi__pair_key(uint32_t a, uint32_t b) {
  uint64_t v = (uint64_t)a << 28 | b, key = 0;
  for (int i = 0; i < 8; i++) key |= (v >> (7 * i) & 0x7f) << (8 * i);
  return key;
}

QI__FN bool qi__pair_map_put(qi__pair_map *m, uint32_t a, uint32_t b, int64_t value) {
  uint64_t key = qi__pair_key(a, b);
  stbds_array_header *header = stbds_header(m->entries - 1);
  size_t before = header->length;
  stbds_hmput_key(m->entries, sizeof *m->entries, &key, sizeof key, STBDS_HM_BINARY);
  if (header->length == before) return false;
  m->entries[header->temp].value = value;
  return true;
}

QI__FN bool qi__pair_map_get(const qi__pair_map *m, uint32_t a, uint32_t b, int64_t *value) {
  uint64_t key = qi__pair_key(a, b);
  ptrdiff_t i = -1;
  if (!m->entries) return false;
  stbds_hmget_key_ts(m->entries, sizeof *m->entries, &key, sizeof key, &i, STBDS_HM_BINARY);
  if (i < 0) return false;
  *value = m->entries[i].value;
  return true;
}

// ---- names given back ----

#undef STB_DS_IMPLEMENTATION
#undef STBDS_NO_SHORT_NAMES
#undef STBDS_REALLOC
#undef STBDS_FREE
#undef STBDS_ASSERT
#pragma pop_macro("INCLUDE_STB_DS_H")
#pragma pop_macro("STB_DS_IMPLEMENTATION")
#pragma pop_macro("STBDS_NO_SHORT_NAMES")
#pragma pop_macro("STBDS_REALLOC")
#pragma pop_macro("STBDS_FREE")
#pragma pop_macro("STBDS_ASSERT")
#pragma pop_macro("STBDS_UNIT_TESTS")
#undef stbds_rand_seed
#undef stbds_hash_bytes
#undef stbds_hash_string
#undef stbds_stralloc
#undef stbds_strreset
#undef stbds_unit_tests
#undef stbds_arrgrowf
#undef stbds_arrfreef
#undef stbds_hmfree_func
#undef stbds_hmget_key
#undef stbds_hmget_key_ts
#undef stbds_hmput_default
#undef stbds_hmput_key
#undef stbds_hmdel_key
#undef stbds_shmode_func
#undef stbds_array_header
#undef stbds_string_arena
#undef stbds_string_block
#undef stbds_hash_bucket
#undef stbds_hash_index
#undef stbds_hash_seed
#undef stbds_probe_position
#undef stbds_log2
#undef stbds_make_hash_index
#undef stbds_siphash_bytes
#undef stbds_is_key_equal
#undef stbds_hm_find_slot
#undef stbds_strdup
#undef STBDS_SH_NONE
#undef STBDS_SH_DEFAULT
#undef STBDS_SH_STRDUP
#undef STBDS_SH_ARENA
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

#endif // QI__MAP_H
// generated from src/model/gguf_scan.h: edit there
// ==== >>gguf_scan : walking over the structure of a GGUF file ====
#ifndef QI__MODEL_GGUF_SCAN_H
#define QI__MODEL_GGUF_SCAN_H

// generated from src/base/file.h: edit there
// ==== >>file : one source of bytes: a path, a memory block or a reader ====
#ifndef QI__FILE_H
#define QI__FILE_H


// POSIX files are descriptors, read by pread and mapped by mmap; elsewhere they are streams, mapped on Windows only.
#if !defined(QI_NO_STDIO) && (defined(__unix__) || defined(__APPLE__))
#define QI__FILE_POSIX
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#ifndef QI_NO_MMAP
#include <sys/mman.h>
#endif
#elif !defined(QI_NO_STDIO)
#define QI__FILE_STREAM
#include <errno.h>
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <io.h>
#include <windows.h>
#endif
#endif

// Bytes 0..size-1. With `map` they can be looked at in place, else only copied out by qi__file_read. A mapped file must not be
// shortened while it is open: no system can make that safe.
typedef struct qi__file {
  const uint8_t *map; // NULL: read only
  uint64_t size;
  bool mapped;        // map is ours, to be unmapped
  qi_reader reader;   // read != NULL: the source
#if defined(QI__FILE_POSIX)
  int fd;             // -1: none
#elif defined(QI__FILE_STREAM)
  FILE *stream;       // NULL: none
#endif
  char name[64];      // end of the path for messages, "" if there is none
} qi__file;

QI__FN void qi__file_init(qi__file *f) {
  memset(f, 0, sizeof *f);
#ifdef QI__FILE_POSIX
  f->fd = -1;
#endif
}

// The last bytes of a path that leave room for the reason in a message.
QI__FN const char *qi__path_tail(const char *path, size_t max) {
  size_t n = strlen(path);
  return n > max ? path + (n - max) : path;
}

// What lies at a path.
typedef enum qi__path_kind { QI__PATH_MISSING, QI__PATH_FILE, QI__PATH_FOLDER } qi__path_kind;

// ---- memory and readers ----

// `data` stays the caller's and must live as long as the file.
QI__FN qi_result qi__file_open_memory(qi__file *f, const void *data, size_t size, qi_error *err) {
  qi__file_init(f);
  if (!data || !size) return qi__fail(err, QI_ERR_FORMAT, "memory block: is empty, expected a whole file");
  f->map = (const uint8_t *)data;
  f->size = size;
  return QI_OK;
}

QI__FN qi_result qi__file_open_reader(qi__file *f, const qi_reader *reader, qi_error *err) {
  qi__file_init(f);
  if (!reader->read) return qi__fail(err, QI_ERR_ARGUMENT, "reader: read is NULL");
  if (!reader->size) return qi__fail(err, QI_ERR_FORMAT, "reader: is empty, expected a whole file");
  f->reader = *reader;
  f->size = reader->size;
  return QI_OK;
}

// ---- paths: POSIX ----

#ifdef QI__FILE_POSIX
QI__FN void qi__file_close_path(qi__file *f) {
#ifndef QI_NO_MMAP
  if (f->mapped) munmap((void *)(uintptr_t)f->map, (size_t)f->size);
#endif
  if (f->fd >= 0) close(f->fd);
}

// Leaves `map` NULL when the system cannot map: then the file is read.
QI__FN void qi__file_map(qi__file *f) {
#ifndef QI_NO_MMAP
  if (f->size > SIZE_MAX) return;
  void *map = mmap(NULL, (size_t)f->size, PROT_READ, MAP_PRIVATE, f->fd, 0);
  if (map == MAP_FAILED) return;
  f->map = (const uint8_t *)map;
  f->mapped = true;
  close(f->fd); // a mapping needs no descriptor
  f->fd = -1;
#else
  (void)f;
#endif
}

// Sets fd and size, or returns why not.
QI__FN const char *qi__file_open_descriptor(qi__file *f, const char *path) {
  int flags = O_RDONLY | O_NONBLOCK; // so that opening a FIFO does not wait for a writer; regular files do not care
#ifdef O_CLOEXEC
  flags |= O_CLOEXEC;
#endif
  do f->fd = open(path, flags);
  while (f->fd < 0 && errno == EINTR);
  if (f->fd < 0) return strerror(errno);
  struct stat st;
  if (fstat(f->fd, &st)) return strerror(errno);
  if (S_ISDIR(st.st_mode)) return "it is a directory";
  if (!S_ISREG(st.st_mode)) return "it is no regular file";
  f->size = st.st_size > 0 ? (uint64_t)st.st_size : 0;
  return NULL;
}

QI__FN qi__path_kind qi__path_look(const char *path) {
  struct stat st;
  if (stat(path, &st)) return QI__PATH_MISSING;
  return S_ISDIR(st.st_mode) ? QI__PATH_FOLDER : QI__PATH_FILE;
}

// NULL when done, else why not.
QI__FN const char *qi__file_pull_path(const qi__file *f, uint64_t offset, void *dst, size_t n) {
  uint8_t *p = (uint8_t *)dst;
  while (n) {
    size_t part = qi__min_size(n, (size_t)1 << 30); // systems refuse, or cut, reads of 2 GiB
    ssize_t got = pread(f->fd, p, part, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return strerror(errno);
    if (got == 0) return "the file became shorter";
    p += got;
    offset += (uint64_t)got;
    n -= (size_t)got;
  }
  return NULL;
}
#endif

// ---- paths: streams ----

#ifdef QI__FILE_STREAM
#ifdef _WIN32
QI__INLINE int qi__stream_seek(FILE *s, int64_t offset, int origin) { return _fseeki64(s, offset, origin); }
QI__INLINE int64_t qi__stream_tell(FILE *s) { return _ftelli64(s); }

// Paths are UTF-8; the C library of Windows would take them for the system's code page.
typedef struct qi__wide_path {
  wchar_t s[1024];
} qi__wide_path;

QI__FN bool qi__widen(const char *path, qi__wide_path *wide) {
  return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide->s, (int)QI__COUNT_OF(wide->s)) != 0;
}

QI__FN FILE *qi__stream_open(const char *path) {
  qi__wide_path wide;
  if (qi__widen(path, &wide)) return _wfopen(wide.s, L"rb");
  errno = EINVAL;
  return NULL;
}

QI__FN qi__path_kind qi__path_look(const char *path) {
  qi__wide_path wide;
  DWORD found = qi__widen(path, &wide) ? GetFileAttributesW(wide.s) : INVALID_FILE_ATTRIBUTES;
  if (found == INVALID_FILE_ATTRIBUTES) return QI__PATH_MISSING;
  return found & FILE_ATTRIBUTE_DIRECTORY ? QI__PATH_FOLDER : QI__PATH_FILE;
}

QI__FN void qi__file_map(qi__file *f) {
#ifndef QI_NO_MMAP
  if (f->size > SIZE_MAX) return;
  HANDLE mapping = CreateFileMappingW((HANDLE)_get_osfhandle(_fileno(f->stream)), NULL, PAGE_READONLY, 0, 0, NULL);
  if (!mapping) return;
  f->map = (const uint8_t *)MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
  CloseHandle(mapping); // the view keeps it alive
  f->mapped = f->map != NULL;
#else
  (void)f;
#endif
}
#else
QI__INLINE int qi__stream_seek(FILE *s, int64_t offset, int origin) {
  if (offset > LONG_MAX) return -1;
  return fseek(s, (long)offset, origin);
}
QI__INLINE int64_t qi__stream_tell(FILE *s) { return ftell(s); }
QI__FN FILE *qi__stream_open(const char *path) { return fopen(path, "rb"); }
QI__FN void qi__file_map(qi__file *f) { (void)f; }

// What cannot be opened may be a folder; C alone cannot tell.
QI__FN qi__path_kind qi__path_look(const char *path) {
  FILE *f = fopen(path, "rb");
  if (f) fclose(f);
  return f ? QI__PATH_FILE : QI__PATH_MISSING;
}
#endif

QI__FN void qi__file_close_path(qi__file *f) {
#if defined(_WIN32) && !defined(QI_NO_MMAP)
  if (f->mapped) UnmapViewOfFile(f->map);
#endif
  if (f->stream) fclose(f->stream);
}

QI__FN const char *qi__file_open_descriptor(qi__file *f, const char *path) {
  f->stream = qi__stream_open(path);
  if (!f->stream) return strerror(errno);
  if (qi__stream_seek(f->stream, 0, SEEK_END)) return "its end cannot be found";
  int64_t size = qi__stream_tell(f->stream);
  if (size < 0) return "its size cannot be told (a directory?)";
  f->size = (uint64_t)size;
  return NULL;
}

QI__FN const char *qi__file_pull_path(const qi__file *f, uint64_t offset, void *dst, size_t n) {
  if (offset > INT64_MAX || qi__stream_seek(f->stream, (int64_t)offset, SEEK_SET)) return "the position cannot be reached";
  return fread(dst, 1, n, f->stream) == n ? NULL : "the file could not be read to the end";
}
#endif

// ---- any source ----

#ifdef QI_NO_STDIO
QI__FN qi__path_kind qi__path_look(const char *path) {
  (void)path;
  return QI__PATH_MISSING;
}
#endif

QI__FN void qi__file_close(qi__file *f) {
#ifndef QI_NO_STDIO
  qi__file_close_path(f);
#endif
  qi__file_init(f);
}

// Maps the file unless no_mmap, or the system cannot. The path is not needed afterwards.
// Errors: QI_ERR_IO (with the system's reason), QI_ERR_FORMAT (an empty file), QI_ERR_UNSUPPORTED (QI_NO_STDIO).
QI__FN qi_result qi__file_open_path(qi__file *f, const char *path, bool no_mmap, qi_error *err) {
  qi__file_init(f);
#ifdef QI_NO_STDIO
  (void)no_mmap;
  return qi__fail(err, QI_ERR_UNSUPPORTED, "%s: this build opens no paths (QI_NO_STDIO), only memory and readers",
                  qi__path_tail(path, 140));
#else
  const char *reason = qi__file_open_descriptor(f, path);
  if (reason || !f->size) {
    qi__file_close(f);
    if (!reason) return qi__fail(err, QI_ERR_FORMAT, "%s: the file is empty", qi__path_tail(path, 180));
    return qi__fail(err, QI_ERR_IO, "%s: cannot be opened: %s", qi__path_tail(path, 160), reason);
  }
  const char *tail = qi__path_tail(path, sizeof f->name - 1);
  memcpy(f->name, tail, strlen(tail) + 1);
  if (!no_mmap) qi__file_map(f);
  return QI_OK;
#endif
}

// Copies bytes offset..offset+n-1 to dst. NULL when done, else why not.
QI__FN const char *qi__file_pull(const qi__file *f, uint64_t offset, void *dst, size_t n) {
  if (offset > f->size || n > f->size - offset) return "beyond the end of the file";
  if (!n) return NULL;
  if (f->map) {
    memcpy(dst, f->map + (size_t)offset, n);
    return NULL;
  }
  if (f->reader.read) return f->reader.read(f->reader.user, offset, dst, n) ? NULL : "the reader's callback failed";
#ifdef QI_NO_STDIO
  return "the file is closed";
#else
  return qi__file_pull_path(f, offset, dst, n);
#endif
}

// The same with a message. Errors: QI_ERR_IO.
QI__FN qi_result qi__file_read(const qi__file *f, uint64_t offset, void *dst, size_t n, qi_error *err) {
  const char *reason = qi__file_pull(f, offset, dst, n);
  if (!reason) return QI_OK;
  return qi__fail(err, QI_ERR_IO, "%s%s%zu bytes at %llu cannot be read: %s", f->name, f->name[0] ? ": " : "", n,
                  (unsigned long long)offset, reason);
}

#endif // QI__FILE_H

// A GGUF file, versions 2 and 3, all numbers little-endian:
//
//   char magic[4] = "GGUF"    u32 version    u64 n_tensors    u64 n_metas
//   n_metas times:    string key    u32 type    value
//   n_tensors times:  string name   u32 n_dims  u64 shape[n_dims]  u32 type  u64 offset (from the begin of tensor data)
//   zeros up to a multiple of the alignment (key general.alignment, else 32), then tensor data
//
//   string: u64 length, bytes     bool: a byte, 0 or 1     array: u32 element type, u64 count, elements (arrays may nest)
//
// The walk below is the only parser: it runs once to count and once to fill what was counted, believes nothing that it has not
// compared with the bytes that are left, and needs no memory but a window on the stack. Its cost grows with the header's bytes.

#define QI__GGUF_MAX_ENTRIES (1u << 20) // metadata entries, and tensors, of a file
#define QI__GGUF_MAX_KEY 1024
#define QI__GGUF_MAX_NAME 127           // ggml allows 63
#define QI__GGUF_MAX_NESTING 4          // arrays in arrays
#define QI__GGUF_HEADER_BYTES 24
#define QI__GGUF_MIN_META_BYTES 14      // key of one byte, type, value of one byte
#define QI__GGUF_MIN_TENSOR_BYTES 33    // name of one byte, one dimension

// What one walk found.
typedef struct qi__gguf_counts {
  uint32_t version;
  uint64_t alignment;
  uint64_t n_metas, n_tensors;
  uint64_t key_bytes, name_bytes; // each with its terminator
  uint64_t metas_end;             // offset behind the metadata
  uint64_t infos_end;             // offset behind the tensor infos
  uint64_t data_offset;           // begin of tensor data; may lie beyond the end of a file without tensors
  uint64_t copy_bytes;            // enough for copies of all tensors, each rounded up to QI__CACHE_LINE
  uint64_t vector_bytes;          // of float32 copies of all vectors, and bound formats, likewise; UINT64_MAX on overflow
  uint64_t split_no, split_count, split_n_tensors; // QI__GGUF_NO_SPLIT when the key is absent
} qi__gguf_counts;
#define QI__GGUF_NO_SPLIT UINT64_MAX

typedef struct qi__tensor_info {
  const char *name;  // terminated
  qi_format format;  // NONE: unknown here, then n_bytes is 0
  int gguf_id;
  int n_dims;
  uint64_t shape[4]; // unused ones are 1; their product fits int64_t
  uint64_t n_bytes;
  int part;          // of a split model
  uint64_t offset;   // in that part's file
  const char *dtype; // name of the type in safetensors; NULL in GGUF
  float scale;       // > 0: packed ternary of Hugging Face, converted when it is loaded; the above says what it becomes
} qi__tensor_info;

// ---- cursor ----

typedef struct qi__gguf_cursor {
  const qi__file *file;
  uint64_t pos;          // at most file->size
  qi_error *err;
  qi_result result;      // of the step that failed
  char name[QI__GGUF_MAX_KEY + 1]; // terminated key or tensor name of the entry at hand
  uint64_t window_at;
  size_t window_len;
  uint8_t window[4096];  // bytes window_at.. of a file without map
} qi__gguf_cursor;

QI__FN void qi__cursor_init(qi__gguf_cursor *c, const qi__file *file, uint64_t pos, qi_error *err) {
  c->file = file;
  c->pos = pos;
  c->err = err;
  c->result = QI_OK;
  c->name[0] = 0;
  c->window_at = 0;
  c->window_len = 0;
}

QI__INLINE uint64_t qi__cursor_left(const qi__gguf_cursor *c) { return c->file->size - c->pos; }

// Steps over n bytes without looking at them.
QI__FN qi_result qi__cursor_skip(qi__gguf_cursor *c, uint64_t n) {
  if (n > qi__cursor_left(c))
    return c->result = qi__fail(c->err, QI_ERR_FORMAT, "%llu bytes needed at offset %llu, but the file has only %llu more",
                                (unsigned long long)n, (unsigned long long)c->pos, (unsigned long long)qi__cursor_left(c));
  c->pos += n;
  return QI_OK;
}

// The next n bytes (at most a window), valid until the next call. NULL: see `result`.
QI__FN const uint8_t *qi__cursor_take(qi__gguf_cursor *c, size_t n) {
  uint64_t at = c->pos;
  if (qi__cursor_skip(c, n)) return NULL;
  if (c->file->map) return c->file->map + (size_t)at;
  if (at < c->window_at || at - c->window_at > c->window_len || n > c->window_len - (size_t)(at - c->window_at)) {
    size_t len = c->file->size - at < sizeof c->window ? (size_t)(c->file->size - at) : sizeof c->window;
    c->window_len = 0;
    c->result = qi__file_read(c->file, at, c->window, len, c->err);
    if (c->result) return NULL;
    c->window_at = at;
    c->window_len = len;
  }
  return c->window + (size_t)(at - c->window_at);
}

// The next number; 0 on failure.
QI__FN qi_result qi__cursor_u32(qi__gguf_cursor *c, uint32_t *out) {
  *out = 0;
  const uint8_t *p = qi__cursor_take(c, 4);
  if (!p) return c->result;
  *out = qi__load_u32(p);
  return QI_OK;
}

QI__FN qi_result qi__cursor_u64(qi__gguf_cursor *c, uint64_t *out) {
  *out = 0;
  const uint8_t *p = qi__cursor_take(c, 8);
  if (!p) return c->result;
  *out = qi__load_u64(p);
  return QI_OK;
}

// A key or a tensor name to c->name: 1 to max bytes without control characters, so that messages may show it.
QI__FN qi_result qi__cursor_name(qi__gguf_cursor *c, const char *what, size_t max) {
  uint64_t len;
  if (qi__cursor_u64(c, &len)) return c->result;
  if (!len || len > max)
    return qi__fail(c->err, QI_ERR_FORMAT, "%s has a length of %llu, expected 1 to %zu", what, (unsigned long long)len, max);
  const uint8_t *p = qi__cursor_take(c, (size_t)len);
  if (!p) return c->result;
  for (size_t i = 0; i < (size_t)len; i++)
    if (p[i] < 0x20 || p[i] == 0x7f) return qi__fail(c->err, QI_ERR_FORMAT, "%s has a control character, %d", what, p[i]);
  memcpy(c->name, p, (size_t)len);
  c->name[len] = 0;
  return QI_OK;
}

// ---- metadata ----

static const char *const qi__meta_type_names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64",
                                                  "i64", "f64"};

QI__FN const char *qi__meta_type_name(qi_meta_type type) {
  return (size_t)type < QI__COUNT_OF(qi__meta_type_names) ? qi__meta_type_names[type] : "?";
}

// Bytes of a scalar; 0 for strings and arrays.
QI__FN size_t qi__meta_type_bytes(qi_meta_type type) {
  static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return (size_t)type < QI__COUNT_OF(bytes) ? bytes[type] : 0;
}

QI__FN qi_result qi__cursor_meta_type(qi__gguf_cursor *c, const char *what, qi_meta_type *out) {
  uint32_t type;
  if (qi__cursor_u32(c, &type)) return c->result;
  if (type >= QI__COUNT_OF(qi__meta_type_names))
    return qi__fail(c->err, QI_ERR_FORMAT, "%s is %u, expected 0 to %zu", what, type, QI__COUNT_OF(qi__meta_type_names) - 1);
  *out = (qi_meta_type)type;
  return QI_OK;
}

// A scalar's bytes to a value.
QI__FN void qi__meta_scalar(qi_meta_type type, const uint8_t *p, qi_meta *out) {
  double f = 0;
  switch (type) {
  case QI_META_U8: case QI_META_BOOL: out->value.u = p[0]; break;
  case QI_META_I8: out->value.i = (int8_t)p[0]; break;
  case QI_META_U16: out->value.u = qi__load_u16(p); break;
  case QI_META_I16: out->value.i = (int16_t)qi__load_u16(p); break;
  case QI_META_U32: out->value.u = qi__load_u32(p); break;
  case QI_META_I32: out->value.i = (int32_t)qi__load_u32(p); break;
  case QI_META_F32: out->value.f = (double)qi__bits_f32(qi__load_u32(p)); break;
  case QI_META_U64: out->value.u = qi__load_u64(p); break;
  case QI_META_I64: out->value.i = (int64_t)qi__load_u64(p); break;
  case QI_META_F64: {
    uint64_t bits = qi__load_u64(p);
    memcpy(&f, &bits, sizeof f);
    out->value.f = f;
    break;
  }
  default: break; // strings and arrays are no scalars
  }
}

QI__FN qi_result qi__cursor_bools(qi__gguf_cursor *c, uint64_t n) {
  while (n) {
    size_t part = n < sizeof c->window ? (size_t)n : sizeof c->window;
    const uint8_t *p = qi__cursor_take(c, part);
    if (!p) return c->result;
    for (size_t i = 0; i < part; i++)
      if (p[i] > 1) return qi__fail(c->err, QI_ERR_FORMAT, "bool has the value %d, expected 0 or 1", p[i]);
    n -= part;
  }
  return QI_OK;
}

QI__FN qi_result qi__cursor_value(qi__gguf_cursor *c, qi_meta_type type, int depth, qi_meta *out);

// Element type, count and elements. out->value.u is the offset in the file where the elements begin.
QI__FN qi_result qi__cursor_array(qi__gguf_cursor *c, int depth, qi_meta *out) {
  if (depth >= QI__GGUF_MAX_NESTING)
    return qi__fail(c->err, QI_ERR_UNSUPPORTED, "arrays nest deeper than %d", QI__GGUF_MAX_NESTING);
  qi_result r = qi__cursor_meta_type(c, "element type", &out->element_type);
  if (r) return r;
  if (qi__cursor_u64(c, &out->count)) return c->result;
  size_t size = qi__meta_type_bytes(out->element_type);
  size_t least = size ? size : out->element_type == QI_META_STRING ? 8 : 12;
  if (out->count > qi__cursor_left(c) / least)
    return qi__fail(c->err, QI_ERR_FORMAT, "array of %llu %s elements, but the file has only %llu more bytes",
                    (unsigned long long)out->count, qi__meta_type_name(out->element_type),
                    (unsigned long long)qi__cursor_left(c));
  out->value.u = c->pos;
  if (out->element_type == QI_META_BOOL) return qi__cursor_bools(c, out->count);
  if (size) return qi__cursor_skip(c, out->count * size);
  qi_meta element;
  for (uint64_t i = 0; i < out->count; i++)
    if ((r = qi__cursor_value(c, out->element_type, depth + 1, &element))) return r;
  return QI_OK;
}

// A value of `type`. Text is a pointer into the map; NULL when there is none. out->key and key_len stay as they are.
QI__FN qi_result qi__cursor_value(qi__gguf_cursor *c, qi_meta_type type, int depth, qi_meta *out) {
  out->type = type;
  out->element_type = type;
  out->count = 1;
  out->value.u = 0;
  if (type == QI_META_ARRAY) return qi__cursor_array(c, depth, out);
  if (type == QI_META_STRING) {
    if (qi__cursor_u64(c, &out->count)) return c->result;
    out->value.text = c->file->map ? (const char *)c->file->map + (size_t)c->pos : NULL;
    return qi__cursor_skip(c, out->count);
  }
  const uint8_t *p = qi__cursor_take(c, qi__meta_type_bytes(type));
  if (!p) return c->result;
  if (type == QI_META_BOOL && p[0] > 1) return qi__fail(c->err, QI_ERR_FORMAT, "bool has the value %d, expected 0 or 1", p[0]);
  qi__meta_scalar(type, p, out);
  return QI_OK;
}

// A scalar of any integer type that is not negative; false for all else.
QI__FN bool qi__meta_unsigned(const qi_meta *m, uint64_t *out) {
  switch (m->type) {
  case QI_META_U8: case QI_META_U16: case QI_META_U32: case QI_META_U64: *out = m->value.u; return true;
  case QI_META_I8: case QI_META_I16: case QI_META_I32: case QI_META_I64:
    *out = (uint64_t)m->value.i;
    return m->value.i >= 0;
  default: return false;
  }
}

// Keys that the structure of the file itself depends on.
QI__FN qi_result qi__gguf_note_meta(const qi__gguf_cursor *c, const qi_meta *m, qi__gguf_counts *counts) {
  if (!strcmp(c->name, "general.alignment")) {
    if (m->type != QI_META_U32)
      return qi__fail(c->err, QI_ERR_FORMAT, "type %s, expected u32", qi__meta_type_name(m->type));
    uint64_t a = m->value.u;
    if (a < 8 || a > 1u << 20 || (a & (a - 1)))
      return qi__fail(c->err, QI_ERR_FORMAT, "is %llu, expected a power of two, 8 to 1048576", (unsigned long long)a);
    counts->alignment = a;
    return QI_OK;
  }
  uint64_t *split = !strcmp(c->name, "split.no")              ? &counts->split_no
                    : !strcmp(c->name, "split.count")         ? &counts->split_count
                    : !strcmp(c->name, "split.tensors.count") ? &counts->split_n_tensors
                                                              : NULL;
  if (split && !qi__meta_unsigned(m, split))
    return qi__fail(c->err, QI_ERR_FORMAT, "type %s or a negative value, expected an unsigned integer",
                    qi__meta_type_name(m->type));
  return QI_OK;
}

// One entry: key to c->name, value to *out.
QI__FN qi_result qi__gguf_walk_meta(qi__gguf_cursor *c, uint64_t index, qi__gguf_counts *counts, qi_meta *out) {
  c->name[0] = 0;
  qi_meta_type type = QI_META_U8;
  qi_result r = qi__cursor_name(c, "key", QI__GGUF_MAX_KEY);
  if (!r) r = qi__cursor_meta_type(c, "type", &type);
  if (!r) r = qi__cursor_value(c, type, 0, out);
  if (!r) r = qi__gguf_note_meta(c, out, counts);
  if (r && c->name[0]) qi__fail_prefix(c->err, "key %.96s: ", c->name);
  if (r && !c->name[0]) qi__fail_prefix(c->err, "metadata entry %llu: ", (unsigned long long)index);
  return r;
}

// ---- tensors ----

// Type numbers that forks of ggml gave different meanings: 36 and 39 are I2_S and TL2 in bitnet.cpp, IQ4_NL_4_4 and MXFP4 in ggml;
// 38 is TL1 or IQ4_NL_8_8; 40 NVFP4 or an old Q1_0; 41 and 42 have two block lengths. The room in the file tells (qi__gguf_place).
QI__FN bool qi__gguf_contested(int id) { return id == 36 || (id >= 38 && id <= 42); }

// Format and bytes from the type number and the shape.
QI__FN qi_result qi__gguf_size_tensor(const qi__gguf_cursor *c, qi__tensor_info *t, uint64_t n_elements) {
  t->format = qi__format_from_gguf(t->gguf_id);
  const qi__format *f = qi__format_get(t->format);
  if (!f) return QI_OK;
  uint64_t len = (uint64_t)f->info.block_len;
  if (t->shape[0] % len) {
    if (!qi__gguf_contested(t->gguf_id))
      return qi__fail(c->err, QI_ERR_FORMAT, "rows of %llu weights, expected a multiple of %s's block of %llu",
                      (unsigned long long)t->shape[0], f->info.name, (unsigned long long)len);
    t->format = QI_FORMAT_NONE;
    return QI_OK;
  }
  if (!qi__mul_u64(n_elements / len, (uint64_t)f->info.block_bytes, &t->n_bytes) ||
      !qi__add_u64(t->n_bytes, (uint64_t)f->info.tail_bytes, &t->n_bytes) || t->n_bytes > INT64_MAX)
    return qi__fail(c->err, QI_ERR_FORMAT, "%llu weights of type %s: their size overflows", (unsigned long long)n_elements,
                    f->info.name);
  return QI_OK;
}

QI__FN qi_result qi__gguf_walk_shape(qi__gguf_cursor *c, qi__tensor_info *t) {
  uint32_t n_dims, id;
  if (qi__cursor_u32(c, &n_dims)) return c->result;
  if (n_dims < 1 || n_dims > 4) return qi__fail(c->err, QI_ERR_FORMAT, "%u dimensions, expected 1 to 4", n_dims);
  t->n_dims = (int)n_dims;
  uint64_t n = 1;
  for (uint32_t i = 0; i < n_dims; i++) {
    if (qi__cursor_u64(c, &t->shape[i])) return c->result;
    if (!t->shape[i]) return qi__fail(c->err, QI_ERR_FORMAT, "dimension %u is 0, expected at least 1", i);
    if (!qi__mul_u64(n, t->shape[i], &n) || n > INT64_MAX)
      return qi__fail(c->err, QI_ERR_FORMAT, "dimension %u is %llu: the number of weights overflows", i,
                      (unsigned long long)t->shape[i]);
  }
  if (qi__cursor_u32(c, &id)) return c->result;
  if (id > INT32_MAX) return qi__fail(c->err, QI_ERR_FORMAT, "weight type %u, expected below 2^31", id);
  t->gguf_id = (int)id;
  return qi__gguf_size_tensor(c, t, n);
}

// One entry: name to c->name, the rest to *out; its offset is still relative to the tensor data.
QI__FN qi_result qi__gguf_walk_tensor(qi__gguf_cursor *c, uint64_t index, uint64_t alignment, qi__tensor_info *out) {
  memset(out, 0, sizeof *out);
  for (int i = 0; i < 4; i++) out->shape[i] = 1;
  c->name[0] = 0;
  qi_result r = qi__cursor_name(c, "name", QI__GGUF_MAX_NAME);
  if (!r) r = qi__gguf_walk_shape(c, out);
  if (!r) r = qi__cursor_u64(c, &out->offset);
  if (!r && out->offset % alignment)
    r = qi__fail(c->err, QI_ERR_FORMAT, "offset %llu, expected a multiple of the alignment, %llu", (unsigned long long)out->offset,
                 (unsigned long long)alignment);
  if (r && c->name[0]) qi__fail_prefix(c->err, "tensor %.96s: ", c->name);
  if (r && !c->name[0]) qi__fail_prefix(c->err, "tensor %llu: ", (unsigned long long)index);
  return r;
}

QI__INLINE bool qi__tensor_has_tail(const qi__tensor_info *t) {
  const qi__format *f = qi__format_get(t->format);
  return f && f->info.tail_bytes;
}

// Adds what the copies of a tensor take; a format with a tail is copied, too (qi__bound). Which fork a contested type is of shows
// only among its neighbours, and is open here.
QI__FN void qi__gguf_note_tensor(const qi__tensor_info *t, qi__gguf_counts *counts) {
  const uint64_t line = QI__CACHE_LINE, most = UINT64_MAX / 8;
  bool is_vector = t->shape[1] == 1 && t->shape[2] == 1 && t->shape[3] == 1 && t->format != QI_FORMAT_NONE;
  uint64_t n_floats = is_vector ? t->shape[0] : 0;
  uint64_t copy = (t->n_bytes + line - 1) & ~(line - 1);
  uint64_t vector = n_floats > most ? UINT64_MAX : (4 * n_floats + line - 1) & ~(line - 1);
  if (qi__tensor_has_tail(t) && !qi__add_u64(vector, (sizeof(qi__bound) + line - 1) & ~(line - 1), &vector)) vector = UINT64_MAX;
  if (!qi__add_u64(counts->copy_bytes, copy, &counts->copy_bytes)) counts->copy_bytes = UINT64_MAX;
  if (!qi__add_u64(counts->vector_bytes, vector, &counts->vector_bytes)) counts->vector_bytes = UINT64_MAX;
}

// Turns the offset in the tensor data into one in the file. No tensor may end behind the file: where its bytes are not known for
// sure, it takes a quarter of a bit a weight at least, as every type does, so that what unknown types promise is bounded by the
// file, too.
QI__FN qi_result qi__gguf_locate_tensor(const qi__file *f, const qi__gguf_counts *counts, const char *name, qi__tensor_info *t,
                                        qi_error *err) {
  uint64_t offset, n = t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
  if (!qi__add_u64(counts->data_offset, t->offset, &offset) || offset > f->size)
    return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: begins %llu bytes behind offset %llu, but the file ends at %llu", name,
                    (unsigned long long)t->offset, (unsigned long long)counts->data_offset, (unsigned long long)f->size);
  t->offset = offset;
  uint64_t least = t->format != QI_FORMAT_NONE && !qi__gguf_contested(t->gguf_id) ? t->n_bytes : n / 32 + 1;
  if (least <= f->size - offset) return QI_OK;
  return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: %llu bytes at offset %llu, but the file ends at %llu", name,
                  (unsigned long long)least, (unsigned long long)offset, (unsigned long long)f->size);
}

// ---- header ----

QI__FN qi_result qi__gguf_check_count(const qi__file *f, const char *what, uint64_t n, uint64_t least_bytes, qi_error *err) {
  if (n > (f->size - QI__GGUF_HEADER_BYTES) / least_bytes)
    return qi__fail(err, QI_ERR_FORMAT, "header: %llu %s cannot fit into a file of %llu bytes", (unsigned long long)n, what,
                    (unsigned long long)f->size);
  if (n > QI__GGUF_MAX_ENTRIES)
    return qi__fail(err, QI_ERR_LIMIT, "header: %llu %s, at most %u are allowed", (unsigned long long)n, what,
                    QI__GGUF_MAX_ENTRIES);
  return QI_OK;
}

QI__FN qi_result qi__gguf_header_ends(const qi__file *f, qi_error *err) {
  return qi__fail(err, QI_ERR_FORMAT, "header: the file ends after %llu bytes", (unsigned long long)f->size);
}

// Magic, version and the two counts.
QI__FN qi_result qi__gguf_walk_header(const qi__file *f, qi__gguf_counts *out, qi_error *err) {
  uint8_t b[QI__GGUF_HEADER_BYTES] = {0};
  memset(out, 0, sizeof *out);
  out->alignment = 32;
  out->split_no = out->split_count = out->split_n_tensors = QI__GGUF_NO_SPLIT;
  qi_result r = qi__file_read(f, 0, b, f->size < sizeof b ? (size_t)f->size : sizeof b, err);
  if (r) return r;
  if (memcmp(b, "GGUF", 4))
    return qi__fail(err, QI_ERR_FORMAT, "header: magic bytes are %02x %02x %02x %02x ('%s'), expected 'GGUF'", b[0], b[1], b[2],
                    b[3], qi__show((const char *)b, 4).s);
  if (f->size < 8) return qi__gguf_header_ends(f, err);
  out->version = qi__load_u32(b + 4);
  if (out->version && !(out->version & 0xffff))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "header: a big-endian file (version 0x%08x), only little-endian is supported",
                    out->version);
  if (out->version != 2 && out->version != 3)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "header: GGUF version %u, supported are 2 and 3", out->version);
  if (f->size < sizeof b) return qi__gguf_header_ends(f, err);
  out->n_tensors = qi__load_u64(b + 8);
  out->n_metas = qi__load_u64(b + 16);
  r = qi__gguf_check_count(f, "tensors", out->n_tensors, QI__GGUF_MIN_TENSOR_BYTES, err);
  return r ? r : qi__gguf_check_count(f, "metadata entries", out->n_metas, QI__GGUF_MIN_META_BYTES, err);
}

// Begin of tensor data, now that the end of the infos is known.
QI__FN qi_result qi__gguf_find_data(const qi__file *f, qi__gguf_counts *counts, qi_error *err) {
  if (!qi__add_u64(counts->infos_end, counts->alignment - 1, &counts->data_offset))
    return qi__fail(err, QI_ERR_FORMAT, "header: its end overflows");
  counts->data_offset &= ~(counts->alignment - 1);
  if (counts->n_tensors && counts->data_offset > f->size)
    return qi__fail(err, QI_ERR_FORMAT, "header: tensor data begins at offset %llu, but the file has only %llu bytes",
                    (unsigned long long)counts->data_offset, (unsigned long long)f->size);
  // Tensors share no bytes: this bounds what contested types promise.
  uint64_t data_bytes = f->size > counts->data_offset ? f->size - counts->data_offset : 0;
  uint64_t most = UINT64_MAX;
  if (qi__add_u64(data_bytes, counts->n_tensors * QI__CACHE_LINE, &most) && counts->copy_bytes > most) counts->copy_bytes = most;
  return QI_OK;
}

// ---- scan ----

// Walks over the tensor infos once more, now that it is known where their data begins.
QI__FN qi_result qi__gguf_scan_places(const qi__file *f, const qi__gguf_counts *counts, qi_error *err) {
  qi__gguf_cursor c;
  qi__cursor_init(&c, f, counts->metas_end, err);
  for (uint64_t i = 0; i < counts->n_tensors; i++) {
    qi__tensor_info info;
    qi_result r = qi__gguf_walk_tensor(&c, i, counts->alignment, &info);
    if (!r) r = qi__gguf_locate_tensor(f, counts, c.name, &info, err);
    if (r) return r;
  }
  return QI_OK;
}

// Walks over the header, all metadata and all tensor infos, and keeps nothing but counts. What takes memory to see (names that
// occur twice, tensors that overlap) is left to loading.
// Errors: QI_ERR_FORMAT, QI_ERR_UNSUPPORTED, QI_ERR_LIMIT, QI_ERR_IO.
QI__FN qi_result qi__gguf_scan(const qi__file *f, qi__gguf_counts *out, qi_error *err) {
  qi_result r = qi__gguf_walk_header(f, out, err);
  if (r) return r;
  qi__gguf_cursor c;
  qi__cursor_init(&c, f, QI__GGUF_HEADER_BYTES, err);
  for (uint64_t i = 0; i < out->n_metas; i++) {
    qi_meta meta;
    if ((r = qi__gguf_walk_meta(&c, i, out, &meta))) return r;
    out->key_bytes += strlen(c.name) + 1;
  }
  out->metas_end = c.pos;
  for (uint64_t i = 0; i < out->n_tensors; i++) {
    qi__tensor_info info;
    if ((r = qi__gguf_walk_tensor(&c, i, out->alignment, &info))) return r;
    out->name_bytes += strlen(c.name) + 1;
    qi__gguf_note_tensor(&info, out);
  }
  out->infos_end = c.pos;
  r = qi__gguf_find_data(f, out, err);
  return r ? r : qi__gguf_scan_places(f, out, err);
}

#endif // QI__MODEL_GGUF_SCAN_H

#define QI__GGUF_MAX_PARTS 512
#define QI__GGUF_MAX_SPLIT_PATH 4096

// What opening takes: all files are scanned for this before any memory is asked for.
typedef struct qi__gguf_plan {
  qi__gguf_counts first;   // of the only, or first, file: its metadata is the model's
  uint64_t n_parts;
  uint64_t n_tensors;      // of all parts
  uint64_t text_bytes;     // keys and tensor names
  uint64_t resident_bytes; // copy of the metadata; 0 where the file can be looked at in place
  uint64_t mapped;         // bytes of mapped files
  uint64_t copy_bytes;     // of the tensors of files that cannot be looked at in place
  uint64_t vector_bytes;   // of float32 copies of all vectors
} qi__gguf_plan;

typedef struct qi__gguf_part {
  qi__file file;
  uint64_t data_offset;
} qi__gguf_part;

// An open file: its index is in memory, tensor data is in the files. Unchanging, but for qi__gguf_release and _close.
typedef struct qi__gguf {
  qi_meta *metas;          // [n_metas] in the file's order; key terminated; of arrays value.u is the offset of the elements
  size_t n_metas;
  qi__tensor_info *tensors; // [n_tensors] in the files' order
  size_t n_tensors;
  qi__gguf_part *parts;    // [n_parts]
  size_t n_parts;
  qi__str_map meta_index, tensor_index;
  qi__file resident;       // the first file from its begin through the metadata: in place, or our copy
  uint8_t *copy;
  char *text;              // [text_size] terminated keys and tensor names
  size_t text_size, text_used;
  uint32_t *order;         // [n_tensors] scratch: tensors of a part by offset
  uint64_t mapped, copy_bytes, vector_bytes; // as in the plan
  qi_allocator allocator;
  qi__arena arena;         // all of the above
} qi__gguf;

// ---- files ----

// Length of the path without "-00001-of-000NN.gguf"; 0 when it does not end so.
QI__FN size_t qi__split_stem(const char *path, uint64_t n_parts) {
  char suffix[32];
  size_t n = strlen(path);
  int len = snprintf(suffix, sizeof suffix, "-00001-of-%05u.gguf", (unsigned)n_parts);
  if (len <= 0 || n <= (size_t)len || strcmp(path + n - (size_t)len, suffix)) return 0;
  return n - (size_t)len;
}

QI__FN qi_result qi__gguf_open_split(qi__file *f, const qi_model_desc *desc, uint64_t part, uint64_t n_parts, qi_error *err) {
  char path[QI__GGUF_MAX_SPLIT_PATH];
  size_t stem = qi__split_stem(desc->path, n_parts);
  if (!stem) // the caller has looked before
    return qi__fail(err, QI_ERR_FORMAT, "%s: is no name of a first part", qi__path_tail(desc->path, 160));
  if (stem > sizeof path - 32)
    return qi__fail(err, QI_ERR_LIMIT, "path of a split model: %zu bytes, at most %zu are allowed", strlen(desc->path),
                    sizeof path);
  memcpy(path, desc->path, stem);
  snprintf(path + stem, sizeof path - stem, "-%05u-of-%05u.gguf", (unsigned)part + 1, (unsigned)n_parts);
  qi_result r = qi__file_open_path(f, path, desc->no_mmap, err);
  if (r) qi__fail_prefix(err, "part %u of %u: ", (unsigned)part + 1, (unsigned)n_parts);
  return r;
}

// Part 0 is what the desc names.
QI__FN qi_result qi__gguf_open_part(qi__file *f, const qi_model_desc *desc, uint64_t part, uint64_t n_parts, qi_error *err) {
  if (part) return qi__gguf_open_split(f, desc, part, n_parts, err);
  if (desc->path) return qi__file_open_path(f, desc->path, desc->no_mmap, err);
  if (desc->data) return qi__file_open_memory(f, desc->data, desc->data_size, err);
  return qi__file_open_reader(f, &desc->reader, err);
}

// Puts the file's name in front of a message; those of reading have it already.
QI__FN qi_result qi__gguf_blame(const qi__file *f, qi_result r, qi_error *err) {
  if (r && r != QI_ERR_IO && f->name[0]) qi__fail_prefix(err, "%s: ", f->name);
  return r;
}

// ---- planning ----

QI__FN qi_result qi__gguf_plan_parts(const qi_model_desc *desc, qi__gguf_plan *plan, qi_error *err) {
  const qi__gguf_counts *c = &plan->first;
  plan->n_parts = c->split_count != QI__GGUF_NO_SPLIT && c->split_count ? c->split_count : 1;
  if (plan->n_parts == 1) return QI_OK;
  if (plan->n_parts > QI__GGUF_MAX_PARTS)
    return qi__fail(err, QI_ERR_LIMIT, "key split.count: %llu parts, at most %d are allowed", (unsigned long long)plan->n_parts,
                    QI__GGUF_MAX_PARTS);
  if (!desc->path)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "key split.count: one of %u parts; a split model can only be opened by path",
                    (unsigned)plan->n_parts);
  if (c->split_no != 0)
    return qi__fail(err, QI_ERR_FORMAT, "key split.no: %s; open the first part (its name ends in -00001-of-%05u.gguf)",
                    c->split_no == QI__GGUF_NO_SPLIT ? "missing" : "not the first part", (unsigned)plan->n_parts);
  if (!qi__split_stem(desc->path, plan->n_parts))
    return qi__fail(err, QI_ERR_FORMAT, "one of %u parts, but the name does not end in -00001-of-%05u.gguf",
                    (unsigned)plan->n_parts, (unsigned)plan->n_parts);
  return QI_OK;
}

QI__FN qi_result qi__gguf_check_part(const qi__gguf_counts *c, uint64_t part, uint64_t n_parts, qi_error *err) {
  if (c->split_no != part)
    return qi__fail(err, QI_ERR_FORMAT, "key split.no: %lld, expected %u", (long long)c->split_no, (unsigned)part);
  if (c->split_count != n_parts)
    return qi__fail(err, QI_ERR_FORMAT, "key split.count: %lld, but the first part says %u", (long long)c->split_count,
                    (unsigned)n_parts);
  return QI_OK;
}

QI__FN uint64_t qi__gguf_add_vectors(uint64_t bytes, const qi__gguf_counts *c) {
  return qi__add_u64(bytes, c->vector_bytes, &bytes) ? bytes : UINT64_MAX;
}

// Scans one part and adds it to the plan.
QI__FN qi_result qi__gguf_plan_part(const qi_model_desc *desc, uint64_t part, qi__gguf_plan *plan, qi_error *err) {
  qi__file f;
  qi__gguf_counts counts;
  qi_result r = qi__gguf_open_part(&f, desc, part, plan->n_parts, err);
  if (r) return r;
  r = qi__gguf_scan(&f, &counts, err);
  if (!r && part) r = qi__gguf_check_part(&counts, part, plan->n_parts, err);
  if (!r) {
    plan->n_tensors += counts.n_tensors;
    plan->text_bytes += counts.name_bytes;
    plan->mapped += f.mapped ? f.size : 0;
    plan->copy_bytes += f.map ? 0 : counts.copy_bytes;
    plan->vector_bytes = qi__gguf_add_vectors(plan->vector_bytes, &counts);
  }
  if (!r && !part) {
    plan->first = counts;
    plan->text_bytes += counts.key_bytes;
    plan->resident_bytes = f.map ? 0 : counts.metas_end;
    r = qi__gguf_plan_parts(desc, plan, err);
  }
  qi__gguf_blame(&f, r, err);
  qi__file_close(&f);
  return r;
}

QI__FN qi_result qi__gguf_make_plan(const qi_model_desc *desc, qi__gguf_plan *plan, qi_error *err) {
  memset(plan, 0, sizeof *plan);
  qi_result r = qi__gguf_plan_part(desc, 0, plan, err);
  for (uint64_t part = 1; !r && part < plan->n_parts; part++) r = qi__gguf_plan_part(desc, part, plan, err);
  if (r) return r;
  if (plan->n_tensors > QI__GGUF_MAX_ENTRIES)
    return qi__fail(err, QI_ERR_LIMIT, "%llu tensors in all parts, at most %u are allowed", (unsigned long long)plan->n_tensors,
                    QI__GGUF_MAX_ENTRIES);
  uint64_t said = plan->first.split_n_tensors;
  if (plan->n_parts > 1 && said != QI__GGUF_NO_SPLIT && said != plan->n_tensors)
    return qi__fail(err, QI_ERR_FORMAT, "key split.tensors.count: %llu, but the %u parts have %llu tensors",
                    (unsigned long long)said, (unsigned)plan->n_parts, (unsigned long long)plan->n_tensors);
  if (plan->resident_bytes > SIZE_MAX || plan->text_bytes > SIZE_MAX)
    return qi__fail(err, QI_ERR_LIMIT, "metadata of %llu bytes does not fit into this machine's address space",
                    (unsigned long long)plan->resident_bytes);
  return QI_OK;
}

// Runs twice: counting, then over the block.
QI__FN void qi__gguf_layout(qi__gguf *g, qi__arena *arena, const qi__gguf_plan *plan) {
  size_t n_metas = (size_t)plan->first.n_metas, n_tensors = (size_t)plan->n_tensors;
  g->parts = QI__ARENA_ARRAY(arena, qi__gguf_part, (size_t)plan->n_parts);
  g->metas = QI__ARENA_ARRAY(arena, qi_meta, n_metas);
  g->tensors = QI__ARENA_ARRAY(arena, qi__tensor_info, n_tensors);
  g->order = QI__ARENA_ARRAY(arena, uint32_t, n_tensors);
  g->text = QI__ARENA_ARRAY(arena, char, (size_t)plan->text_bytes);
  g->text_size = (size_t)plan->text_bytes;
  g->copy = QI__ARENA_ARRAY(arena, uint8_t, (size_t)plan->resident_bytes);
  qi__str_map_init(&g->meta_index, arena, n_metas);
  qi__str_map_init(&g->tensor_index, arena, n_tensors);
}

// ---- filling ----

// A file that is written to while it is opened may tell something else the second time.
QI__FN qi_result qi__gguf_changed(qi_error *err) {
  return qi__fail(err, QI_ERR_FORMAT, "the file changed while it was being opened");
}

// A terminated copy; NULL when the plan knew of less.
QI__FN const char *qi__gguf_keep_text(qi__gguf *g, const char *s) {
  size_t n = strlen(s) + 1;
  if (n > g->text_size - g->text_used) return NULL;
  char *copy = g->text + g->text_used;
  memcpy(copy, s, n);
  g->text_used += n;
  return copy;
}

QI__FN qi_result qi__gguf_load_metas(qi__gguf *g, const qi__gguf_plan *plan, qi__gguf_counts *counts, qi_error *err) {
  const qi__file *f = &g->parts[0].file;
  uint64_t end = plan->first.metas_end;
  if (counts->n_metas != plan->first.n_metas || end > f->size || (!f->map && end != plan->resident_bytes))
    return qi__gguf_changed(err);
  qi_result r = f->map ? QI_OK : qi__file_read(f, 0, g->copy, (size_t)end, err);
  if (!r) r = qi__file_open_memory(&g->resident, f->map ? f->map : g->copy, (size_t)end, err);
  if (r) return r;
  qi__gguf_cursor c;
  qi__cursor_init(&c, &g->resident, QI__GGUF_HEADER_BYTES, err);
  for (uint64_t i = 0; i < counts->n_metas; i++) {
    qi_meta *meta = &g->metas[i];
    if ((r = qi__gguf_walk_meta(&c, i, counts, meta))) return r;
    meta->key = qi__gguf_keep_text(g, c.name);
    if (!meta->key) return qi__gguf_changed(err);
    meta->key_len = strlen(meta->key);
    if (!qi__str_map_put(&g->meta_index, meta->key, (int32_t)i))
      return qi__fail(err, QI_ERR_FORMAT, "key %.96s: occurs twice", meta->key);
    g->n_metas++;
  }
  counts->metas_end = c.pos;
  return c.pos == end ? QI_OK : qi__gguf_changed(err);
}

// Steps over the metadata of the parts behind the first: theirs only repeats how the model is split.
QI__FN qi_result qi__gguf_skip_metas(const qi__file *f, qi__gguf_counts *counts, qi_error *err) {
  qi__gguf_cursor c;
  qi__cursor_init(&c, f, QI__GGUF_HEADER_BYTES, err);
  for (uint64_t i = 0; i < counts->n_metas; i++) {
    qi_meta meta;
    qi_result r = qi__gguf_walk_meta(&c, i, counts, &meta);
    if (r) return r;
  }
  counts->metas_end = c.pos;
  return QI_OK;
}

QI__FN qi_result qi__gguf_load_tensors(qi__gguf *g, size_t part, const qi__gguf_plan *plan, qi__gguf_counts *counts,
                                       qi_error *err) {
  if (counts->n_tensors > plan->n_tensors - g->n_tensors) return qi__gguf_changed(err);
  qi__gguf_cursor c;
  qi__cursor_init(&c, &g->parts[part].file, counts->metas_end, err);
  for (uint64_t i = 0; i < counts->n_tensors; i++) {
    qi__tensor_info *t = &g->tensors[g->n_tensors];
    qi_result r = qi__gguf_walk_tensor(&c, i, counts->alignment, t);
    if (r) return r;
    qi__gguf_note_tensor(t, counts);
    t->part = (int)part;
    t->name = qi__gguf_keep_text(g, c.name);
    if (!t->name) return qi__gguf_changed(err);
    if (!qi__str_map_put(&g->tensor_index, t->name, (int32_t)g->n_tensors))
      return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: occurs twice", t->name);
    g->n_tensors++;
  }
  counts->infos_end = c.pos;
  return QI_OK;
}

// ---- places of tensors ----

// Restores the heap below `i` (largest offset on top) of order[0..n-1].
QI__FN void qi__order_sift(const qi__tensor_info *tensors, uint32_t *order, size_t i, size_t n) {
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= n) return;
    if (child + 1 < n && tensors[order[child]].offset < tensors[order[child + 1]].offset) child++;
    if (tensors[order[i]].offset >= tensors[order[child]].offset) return;
    uint32_t other = order[i];
    order[i] = order[child];
    order[child] = other;
    i = child;
  }
}

// order = 0..n-1 sorted by offset. Heapsort: libc's qsort may ask for memory, and may be quadratic.
QI__FN void qi__order_by_offset(const qi__tensor_info *tensors, uint32_t *order, size_t n) {
  for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
  for (size_t i = n / 2; i-- > 0;) qi__order_sift(tensors, order, i, n);
  for (size_t end = n; end-- > 1;) {
    uint32_t last = order[end];
    order[end] = order[0];
    order[0] = last;
    qi__order_sift(tensors, order, 0, end);
  }
}

// Whether n bytes are what a tensor takes of its room: all but padding.
QI__INLINE bool qi__gguf_fills(uint64_t n, uint64_t room, uint64_t alignment) { return n <= room && room - n < alignment; }

// False when a contested type number is that of another fork. 36 is I2_S in bitnet.cpp and IQ4_NL_4_4 in ggml (18 bytes for 32
// weights); where the room suits both, the architecture tells.
QI__FN bool qi__gguf_is_ours(const qi__gguf *g, const qi__tensor_info *t, uint64_t n, uint64_t room, uint64_t alignment) {
  int32_t i;
  if (!qi__gguf_fills(t->n_bytes, room, alignment)) return false;
  if (t->format != QI_FORMAT_I2_S || !qi__gguf_fills(n / 32 * 18, room, alignment)) return true;
  const qi_meta *arch = qi__str_map_get(&g->meta_index, "general.architecture", &i) ? &g->metas[i] : NULL;
  return arch && arch->type == QI_META_STRING && arch->count >= 6 && !memcmp(arch->value.text, "bitnet", 6);
}

// Checks that a tensor ends before the next one (NULL: it is the last), and settles contested types by the room it has.
QI__FN qi_result qi__gguf_place(const qi__gguf *g, qi__tensor_info *t, const qi__tensor_info *next, uint64_t end,
                                uint64_t alignment, qi_error *err) {
  uint64_t room = (next ? next->offset : end) - t->offset;
  uint64_t n = t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
  const char *name = t->name;
  if (t->format != QI_FORMAT_NONE && qi__gguf_contested(t->gguf_id) && !qi__gguf_is_ours(g, t, n, room, alignment)) {
    t->format = QI_FORMAT_NONE; // another fork's type of this number
    t->n_bytes = 0;
  }
  if (n > SIZE_MAX / 2 || t->n_bytes > SIZE_MAX / 2)
    return qi__fail(err, QI_ERR_LIMIT, "tensor %.96s: %llu weights do not fit into this machine's address space", name,
                    (unsigned long long)n);
  uint64_t least = t->format != QI_FORMAT_NONE ? t->n_bytes : n / 32 + 1;
  if (!next || least <= room) return QI_OK; // qi__gguf_locate_tensor has compared with the end
  return qi__fail(err, QI_ERR_FORMAT, "tensor %.64s: %llu bytes at offset %llu overlap tensor %.64s at %llu", name,
                  (unsigned long long)least, (unsigned long long)t->offset, next->name, (unsigned long long)next->offset);
}

// Turns the offsets of a part's tensors, `first` and following, into offsets in the file, and checks each place.
QI__FN qi_result qi__gguf_place_tensors(qi__gguf *g, size_t part, size_t first, const qi__gguf_counts *counts, qi_error *err) {
  const qi__file *f = &g->parts[part].file;
  qi__tensor_info *tensors = g->tensors + first;
  size_t n = g->n_tensors - first;
  for (size_t i = 0; i < n; i++) {
    qi_result r = qi__gguf_locate_tensor(f, counts, tensors[i].name, &tensors[i], err);
    if (r) return r;
  }
  qi__order_by_offset(tensors, g->order, n);
  for (size_t i = 0; i < n; i++) {
    const qi__tensor_info *next = i + 1 < n ? &tensors[g->order[i + 1]] : NULL;
    qi_result r = qi__gguf_place(g, &tensors[g->order[i]], next, f->size, counts->alignment, err);
    if (r) return r;
  }
  return QI_OK;
}

// ---- open and close ----

QI__FN qi_result qi__gguf_load_part(qi__gguf *g, size_t part, const qi__gguf_plan *plan, qi_error *err) {
  qi__file *f = &g->parts[part].file;
  qi__gguf_counts counts;
  size_t first = g->n_tensors;
  qi_result r = qi__gguf_walk_header(f, &counts, err);
  if (!r) r = part ? qi__gguf_skip_metas(f, &counts, err) : qi__gguf_load_metas(g, plan, &counts, err);
  if (!r) r = qi__gguf_load_tensors(g, part, plan, &counts, err);
  if (!r) r = qi__gguf_find_data(f, &counts, err);
  if (!r) r = qi__gguf_place_tensors(g, part, first, &counts, err);
  g->parts[part].data_offset = counts.data_offset;
  g->mapped += f->mapped ? f->size : 0;
  g->copy_bytes += f->map ? 0 : counts.copy_bytes;
  g->vector_bytes = qi__gguf_add_vectors(g->vector_bytes, &counts);
  return qi__gguf_blame(f, r, err);
}

// Closes files and readers that are not looked at in place; after the last qi__gguf_read_tensor.
QI__FN void qi__gguf_release(qi__gguf *g) {
  for (size_t i = 0; i < g->n_parts; i++)
    if (!g->parts[i].file.map) qi__file_close(&g->parts[i].file);
}

// Closes all; a zeroed structure is fine.
QI__FN void qi__gguf_close(qi__gguf *g) {
  for (size_t i = 0; i < g->n_parts; i++) qi__file_close(&g->parts[i].file);
  qi_allocator allocator = g->allocator;
  if (g->arena.base) qi__arena_close(&g->arena, &allocator);
  memset(g, 0, sizeof *g);
}

// Says what a user may wonder about later.
QI__FN void qi__gguf_log(const qi__gguf *g, const qi_model_desc *desc, const qi_logger *log) {
  const qi__tensor_info *first = NULL;
  size_t n_unknown = 0;
#ifndef QI_NO_MMAP
  if (desc->path && !desc->no_mmap && !g->mapped)
    qi__log(log, QI_LOG_INFO, "%s: cannot be mapped here, is read instead", g->parts[0].file.name);
#else
  (void)desc;
#endif
  for (size_t i = 0; i < g->n_tensors; i++)
    if (g->tensors[i].format == QI_FORMAT_NONE && !n_unknown++) first = &g->tensors[i];
  if (first)
    qi__log(log, QI_LOG_WARN, "%zu tensors have a weight type that is unknown here; the first is %s (type %d)", n_unknown,
            first->name, first->gguf_id);
}

// Opens the file of the desc (exactly one source is set) and those that it is split into, and loads their index: one block of the
// allocator, qi__gguf_measure tells its size before. `g` need not be set before; on failure it is zeroed.
// Errors: QI_ERR_IO, QI_ERR_FORMAT, QI_ERR_UNSUPPORTED, QI_ERR_LIMIT, QI_ERR_OOM.
QI__FN qi_result qi__gguf_open(qi__gguf *g, const qi_model_desc *desc, const qi_allocator *allocator, const qi_logger *log,
                               qi_error *err) {
  qi__gguf_plan plan;
  memset(g, 0, sizeof *g);
  qi_result r = qi__gguf_make_plan(desc, &plan, err);
  if (r) return r;
  g->allocator = *allocator;
  qi__gguf_layout(g, &g->arena, &plan);
  if ((r = qi__arena_open(&g->arena, allocator, "index of the file", err))) {
    memset(g, 0, sizeof *g);
    return r;
  }
  qi__gguf_layout(g, &g->arena, &plan);
  for (size_t part = 0; !r && part < plan.n_parts; part++) {
    r = qi__gguf_open_part(&g->parts[part].file, desc, part, plan.n_parts, err);
    if (r) break;
    g->n_parts++;
    r = qi__gguf_load_part(g, part, &plan, err);
  }
  if (!r && g->n_tensors != plan.n_tensors) r = qi__gguf_changed(err);
  if (r) qi__gguf_close(g);
  else qi__gguf_log(g, desc, log);
  return r;
}

// What qi__gguf_open would take: bytes of the allocator, bytes of mapped files. Asks for nothing. `plan` may be NULL.
QI__FN qi_result qi__gguf_measure(const qi_model_desc *desc, uint64_t *heap, uint64_t *mapped, qi__gguf_plan *plan, qi_error *err) {
  qi__gguf_plan own;
  qi__gguf g;
  if (!plan) plan = &own;
  qi_result r = qi__gguf_make_plan(desc, plan, err);
  if (r) return r;
  qi__arena arena = {NULL, 0, 0, false};
  memset(&g, 0, sizeof g);
  qi__gguf_layout(&g, &arena, plan);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "index of the file: does not fit into this machine's address space");
  *heap = arena.used;
  *mapped = plan->mapped;
  return QI_OK;
}

QI__INLINE uint64_t qi__gguf_heap(const qi__gguf *g) { return g->arena.size; }
QI__INLINE uint64_t qi__gguf_mapped(const qi__gguf *g) { return g->mapped; }

#endif // QI__MODEL_GGUF_LOAD_H

// ---- single values ----

// NULL when the key is absent.
QI__FN const qi_meta *qi__gguf_find(const qi__gguf *g, const char *key) {
  int32_t i;
  for (size_t k = 0; !g->meta_index.entries && k < g->n_metas; k++) // qi__gguf_peek: a few entries, no index
    if (!strcmp(g->metas[k].key, key)) return &g->metas[k];
  return qi__str_map_get(&g->meta_index, key, &i) ? &g->metas[i] : NULL;
}

QI__FN qi_result qi__gguf_wrong_type(const qi_meta *m, const char *key, const char *expected, qi_error *err) {
  bool array = m->type == QI_META_ARRAY;
  return qi__fail(err, QI_ERR_FORMAT, "key %s: type %s%s, expected %s", key, array ? "array of " : "",
                  qi__meta_type_name(array ? m->element_type : m->type), expected);
}

// Entry of a key. *out is NULL when it is absent, which is an error if it is required.
QI__FN qi_result qi__gguf_need(const qi__gguf *g, const char *key, bool required, const qi_meta **out, qi_error *err) {
  *out = qi__gguf_find(g, key);
  return *out || !required ? QI_OK : qi__fail(err, QI_ERR_FORMAT, "key %s: missing", key);
}

// The getters below keep *inout as it is when the key is absent and not required. Errors: QI_ERR_FORMAT (missing, another type).

// Any integer type that holds 0 to 2^32 - 1.
QI__FN qi_result qi__gguf_u32(const qi__gguf *g, const char *key, bool required, uint32_t *inout, qi_error *err) {
  const qi_meta *m;
  uint64_t v = 0;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  if (!qi__meta_unsigned(m, &v)) {
    if (m->type == QI_META_I8 || m->type == QI_META_I16 || m->type == QI_META_I32 || m->type == QI_META_I64)
      return qi__fail(err, QI_ERR_FORMAT, "key %s: is %lld, expected an unsigned integer", key, (long long)m->value.i);
    return qi__gguf_wrong_type(m, key, "an unsigned integer", err);
  }
  if (v > UINT32_MAX) return qi__fail(err, QI_ERR_FORMAT, "key %s: is %llu, expected below 2^32", key, (unsigned long long)v);
  *inout = (uint32_t)v;
  return QI_OK;
}

// F32, or F64 within its range. May be infinite or not a number, as the file has it.
QI__FN qi_result qi__gguf_f32(const qi__gguf *g, const char *key, bool required, float *inout, qi_error *err) {
  const qi_meta *m;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  if (m->type != QI_META_F32 && m->type != QI_META_F64) return qi__gguf_wrong_type(m, key, "a floating-point number", err);
  const double max = 3.4028234663852886e38; // FLT_MAX: what is greater has no float32 to convert to
  if (m->type == QI_META_F64 && !(m->value.f >= -max && m->value.f <= max))
    return qi__fail(err, QI_ERR_FORMAT, "key %s: is %g, expected a float32", key, m->value.f);
  *inout = (float)m->value.f;
  return QI_OK;
}

QI__FN qi_result qi__gguf_bool(const qi__gguf *g, const char *key, bool required, bool *inout, qi_error *err) {
  const qi_meta *m;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  if (m->type != QI_META_BOOL) return qi__gguf_wrong_type(m, key, "a bool", err);
  *inout = m->value.u != 0;
  return QI_OK;
}

// Bytes, not terminated; they live as long as g.
QI__FN qi_result qi__gguf_str(const qi__gguf *g, const char *key, bool required, const char **text, size_t *len, qi_error *err) {
  const qi_meta *m;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  if (m->type != QI_META_STRING) return qi__gguf_wrong_type(m, key, "a string", err);
  *text = m->value.text;
  *len = (size_t)m->count;
  return QI_OK;
}

// ---- arrays ----

typedef struct qi__gguf_array {
  qi_meta_type type;   // of the elements
  uint64_t count;      // elements from `data` on
  uint64_t at;         // offset of the first in g->resident
  const uint8_t *data; // as in the file, little-endian, at any address; NULL behind qi__gguf_peek
  const uint8_t *end;  // of the bytes that may be read
} qi__gguf_array;

QI__FN void qi__gguf_array_of(const qi__gguf *g, const qi_meta *m, qi__gguf_array *out) {
  out->type = m->element_type;
  out->count = m->count;
  out->at = m->value.u;
  if (!g->resident.map) return;
  out->data = g->resident.map + (size_t)out->at;
  size_t size = qi__meta_type_bytes(m->element_type);
  out->end = size ? out->data + (size_t)m->count * size : g->resident.map + (size_t)g->resident.size;
}

// An array whose elements are of `type`; I32 and U32 stand for each other. Empty when absent and not required.
// Errors: QI_ERR_FORMAT (missing, another type).
QI__FN qi_result qi__gguf_get_array(const qi__gguf *g, const char *key, qi_meta_type type, bool required, qi__gguf_array *out,
                                    qi_error *err) {
  const qi_meta *m;
  memset(out, 0, sizeof *out);
  out->type = type;
  qi_result r = qi__gguf_need(g, key, required, &m, err);
  if (r || !m) return r;
  qi_meta_type found = m->element_type;
  bool same = found == type || (found == QI_META_I32 && type == QI_META_U32) || (found == QI_META_U32 && type == QI_META_I32);
  if (m->type != QI_META_ARRAY || !same) {
    char expected[32];
    snprintf(expected, sizeof expected, "array of %s", qi__meta_type_name(type));
    return qi__gguf_wrong_type(m, key, expected, err);
  }
  qi__gguf_array_of(g, m, out);
  return QI_OK;
}

// The first string of an array of strings, which then begins behind it. False when there is none.
QI__FN bool qi__gguf_next_string(qi__gguf_array *it, const char **text, size_t *len) {
  if (!it->count || it->end - it->data < 8) return false;
  uint64_t n = qi__load_u64(it->data);
  if (n > (uint64_t)(it->end - it->data) - 8) return false;
  *text = (const char *)it->data + 8;
  *len = (size_t)n;
  it->data += 8 + (size_t)n;
  it->count--;
  return true;
}

// Elements k..k+n-1 of array entry i, each as an entry of its own with the array's key. Strings and arrays are walked from the
// start.
// Errors: QI_ERR_ARGUMENT (no array, or no such elements).
QI__FN qi_result qi__gguf_elements(const qi__gguf *g, size_t i, uint64_t k, size_t n, qi_meta *out, qi_error *err) {
  const qi_meta *m = &g->metas[i];
  if (m->type != QI_META_ARRAY)
    return qi__fail(err, QI_ERR_ARGUMENT, "key %.96s: type %s, expected an array", m->key,
                    qi__meta_type_name(m->type));
  if (k > m->count || n > m->count - k)
    return qi__fail(err, QI_ERR_ARGUMENT, "key %.96s: %zu elements from %llu on, it has %llu", m->key, n, (unsigned long long)k,
                    (unsigned long long)m->count);
  qi__gguf_cursor c;
  qi_meta element;
  size_t size = qi__meta_type_bytes(m->element_type);
  qi__cursor_init(&c, &g->resident, m->value.u, err);
  qi_result r = size ? qi__cursor_skip(&c, k * size) : QI_OK;
  for (uint64_t at = size ? k : 0; at < k && !r; at++) r = qi__cursor_value(&c, m->element_type, 1, &element);
  for (size_t at = 0; at < n && !r; at++) {
    r = qi__cursor_value(&c, m->element_type, 1, &out[at]);
    out[at].key = m->key;
    out[at].key_len = m->key_len;
  }
  return r;
}

// One of them.
QI__FN qi_result qi__gguf_element(const qi__gguf *g, size_t i, uint64_t k, qi_meta *out, qi_error *err) {
  const qi_meta *m = &g->metas[i];
  if (m->type == QI_META_ARRAY && k >= m->count)
    return qi__fail(err, QI_ERR_ARGUMENT, "key %.96s: element %llu of %llu", m->key, (unsigned long long)k,
                    (unsigned long long)m->count);
  qi_meta element;
  qi_result r = qi__gguf_elements(g, i, k, 1, &element, err);
  if (!r) *out = element;
  return r;
}

// ---- tensors ----

// NULL when there is none of this name.
QI__FN const qi__tensor_info *qi__gguf_tensor(const qi__gguf *g, const char *name) {
  int32_t i;
  return qi__str_map_get(&g->tensor_index, name, &i) ? &g->tensors[i] : NULL;
}

// Its bytes in place, at any alignment; NULL when they must be read or converted.
QI__FN const void *qi__gguf_tensor_data(const qi__gguf *g, const qi__tensor_info *t) {
  const qi__file *f = &g->parts[t->part].file;
  return f->map && !(t->scale > 0) ? f->map + (size_t)t->offset : NULL;
}

// Bytes offset..offset+n-1 of a tensor. Errors: QI_ERR_IO, QI_ERR_ARGUMENT (beyond its end).
QI__FN qi_result qi__gguf_read_tensor(const qi__gguf *g, const qi__tensor_info *t, uint64_t offset, void *dst, size_t n,
                                     qi_error *err) {
  if (offset > t->n_bytes || n > t->n_bytes - offset)
    return qi__fail(err, QI_ERR_ARGUMENT, "tensor %.96s: %zu bytes at %llu of %llu", t->name, n, (unsigned long long)offset,
                    (unsigned long long)t->n_bytes);
  qi_result r = qi__file_read(&g->parts[t->part].file, t->offset + offset, dst, n, err);
  if (r) qi__fail_prefix(err, "tensor %.96s: ", t->name);
  return r;
}

// ---- without memory ----

// What qi_model_memory looks at: a few entries of the metadata, found by walking, in place of the index. `gguf` serves
// qi__gguf_find, the getters of single values, and arrays by their offset in gguf.resident, which is the file itself.
#define QI__GGUF_MAX_PEEKED 32
#define QI__GGUF_PEEK_BYTES 64
typedef struct qi__gguf_peek {
  qi__gguf gguf;
  qi_meta metas[QI__GGUF_MAX_PEEKED];
  char keys[QI__GGUF_MAX_PEEKED][QI__GGUF_PEEK_BYTES];
  char texts[QI__GGUF_MAX_PEEKED][QI__GGUF_PEEK_BYTES]; // first bytes of strings that cannot be looked at in place
} qi__gguf_peek;

// Opens the (first) file of a plan; close it with qi__gguf_peek_close, also after a failure.
QI__FN qi_result qi__gguf_peek_open(qi__gguf_peek *p, const qi_model_desc *desc, const qi__gguf_plan *plan, qi_error *err) {
  memset(&p->gguf, 0, sizeof p->gguf);
  p->gguf.metas = p->metas;
  p->gguf.n_tensors = (size_t)plan->n_tensors;
  p->gguf.mapped = plan->mapped;
  p->gguf.copy_bytes = plan->copy_bytes;
  p->gguf.vector_bytes = plan->vector_bytes;
  return qi__gguf_open_part(&p->gguf.resident, desc, 0, plan->n_parts, err);
}

QI__FN void qi__gguf_peek_close(qi__gguf_peek *p) { qi__file_close(&p->gguf.resident); }

// Keys prefix + one of n suffixes.
typedef struct qi__key_set {
  const char *prefix;
  const char *const *suffixes;
  size_t n;
} qi__key_set;

QI__FN bool qi__key_set_has(const qi__key_set *set, const char *key) {
  size_t len = strlen(set->prefix);
  if (strncmp(key, set->prefix, len)) return false;
  for (size_t i = 0; i < set->n; i++)
    if (!strcmp(key + len, set->suffixes[i])) return true;
  return false;
}

// Keeps the entry that the cursor has just passed.
QI__FN qi_result qi__gguf_peek_keep(qi__gguf_peek *p, const qi__gguf_cursor *c, const qi_meta *found, qi_error *err) {
  size_t i = p->gguf.n_metas, len = strlen(c->name);
  if (qi__gguf_find(&p->gguf, c->name)) return qi__fail(err, QI_ERR_FORMAT, "key %.96s: occurs twice", c->name);
  if (i == QI__GGUF_MAX_PEEKED || len >= QI__GGUF_PEEK_BYTES)
    return qi__fail(err, QI_ERR_LIMIT, "key %.96s: more keys than can be kept", c->name);
  qi_meta *meta = &p->metas[i];
  *meta = *found;
  memcpy(p->keys[i], c->name, len + 1);
  meta->key = p->keys[i];
  meta->key_len = len;
  if (meta->type == QI_META_STRING && !c->file->map) {
    size_t n = meta->count < QI__GGUF_PEEK_BYTES ? (size_t)meta->count : QI__GGUF_PEEK_BYTES;
    qi_result r = qi__file_read(c->file, c->pos - meta->count, p->texts[i], n, err);
    if (r) return r;
    meta->value.text = p->texts[i];
  }
  p->gguf.n_metas++;
  return QI_OK;
}

// Adds the entries of all keys in the sets, by one walk; those that the file does not have stay absent.
QI__FN qi_result qi__gguf_peek_keys(qi__gguf_peek *p, const qi__gguf_plan *plan, const qi__key_set *sets, size_t n_sets,
                                    qi_error *err) {
  qi__gguf_counts counts = plan->first;
  qi__gguf_cursor c;
  qi_result r = QI_OK;
  qi__cursor_init(&c, &p->gguf.resident, QI__GGUF_HEADER_BYTES, err);
  for (uint64_t i = 0; i < counts.n_metas && !r; i++) {
    qi_meta meta;
    r = qi__gguf_walk_meta(&c, i, &counts, &meta);
    for (size_t k = 0; k < n_sets && !r; k++)
      if (qi__key_set_has(&sets[k], c.name)) r = qi__gguf_peek_keep(p, &c, &meta, err);
  }
  return qi__gguf_blame(&p->gguf.resident, r, err);
}

#endif // QI__MODEL_GGUF_H

// ---- architectures ----

// What an architecture has beyond the common shape: pre-norm blocks of grouped-query attention with rotary positions, then SwiGLU.
enum {
  QI__HAS_SPLIT_QKV = 1,  // attn_q, attn_k, attn_v
  QI__HAS_FUSED_QKV = 2,  // attn_qkv: rows of q, then k, then v
  QI__HAS_GATE = 4,       // ffn_gate and ffn_up
  QI__HAS_FUSED_GATE = 8, // ffn_up: rows of the gate, then of up
  QI__HAS_QKV_BIAS = 16,  // attn_q.bias and so on are needed (elsewhere they may be there)
  QI__HAS_QK_NORM = 32,   // RMS norm of each query and key head before rotation
  QI__ROPE_NEIGHBOURS = 64, // rotary pairs are neighbours, else halves of the head
  QI__SUB_NORMS = 128,    // RMS norm of the attention's output and of what goes into ffn_down (elsewhere they may be there)
  QI__RELU2 = 256         // max(gate, 0)^2 * up instead of SwiGLU
};

// Of ours, a bool: rows of q and k are in the order that makes rotary pairs halves, whatever the architecture says. So Hugging Face
// has them; GGUF's llama has them in another order.
#define QI__KEY_ROPE_HALVES "qinfer.rope_halves"

typedef struct qi__architecture {
  const char *name; // general.architecture, also the prefix of its keys
  unsigned features;
} qi__architecture;

// One row adds an architecture of the common shape; new features get a bit, and a line where the forward pass looks at it.
static const qi__architecture qi__architectures[] = {
    {"llama", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__ROPE_NEIGHBOURS},
    {"qwen2", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__HAS_QKV_BIAS},
    {"qwen3", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__HAS_QK_NORM},
    {"phi3", QI__HAS_FUSED_QKV | QI__HAS_FUSED_GATE},
    {"bitnet", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__SUB_NORMS},
    {"bitnet-b1.58", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__SUB_NORMS | QI__RELU2},
    {"bitnet-25", QI__HAS_SPLIT_QKV | QI__HAS_GATE | QI__SUB_NORMS | QI__RELU2},
    {"llama", QI__HAS_SPLIT_QKV | QI__HAS_GATE}, // with QI__KEY_ROPE_HALVES
};

QI__FN qi_result qi__architecture_find(const qi__gguf *g, const qi__architecture **out, qi_error *err) {
  const char *name;
  size_t len;
  qi_result r = qi__gguf_str(g, "general.architecture", true, &name, &len, err);
  bool halves = false;
  if (!r) r = qi__gguf_bool(g, QI__KEY_ROPE_HALVES, false, &halves, err);
  if (r) return r;
  char known[160];
  size_t used = 0;
  for (size_t i = 0; i < QI__COUNT_OF(qi__architectures); i++) {
    const qi__architecture *a = &qi__architectures[i];
    if (strlen(a->name) == len && !memcmp(a->name, name, len)) {
      if (halves && (a->features & QI__ROPE_NEIGHBOURS)) continue;
      *out = a;
      return QI_OK;
    }
    if (i && !strcmp(a->name, qi__architectures[0].name)) continue;
    int n = snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", a->name);
    if (n > 0) used = qi__min_size(used + (size_t)n, sizeof known - 1);
  }
  return qi__fail(err, QI_ERR_UNSUPPORTED, "general.architecture: '%s' is not supported; known are %s", qi__show(name, len).s,
                  known);
}

// ---- numbers ----

typedef enum qi__rope_scaling { QI__ROPE_PLAIN, QI__ROPE_LINEAR, QI__ROPE_YARN, QI__ROPE_LONG } qi__rope_scaling;

typedef struct qi__hparams {
  const qi__architecture *arch;
  size_t n_vocab, n_ctx_train, n_layers, n_embd, n_heads, n_kv_heads, head_dim_k, head_dim_v, n_ff;
  size_t n_rot;           // elements of a head that are rotated; even
  size_t sliding_window;  // position j is seen from i when i - j < sliding_window; 0 = all
  float rms_norm_eps;
  double rope_theta;
  qi__rope_scaling rope_scaling;
  double rope_factor;     // positions are divided by it (linear, yarn)
  double rope_attn_factor; // scales cos and sin
  size_t rope_n_ctx_orig; // context before scaling
} qi__hparams;

// What qi__hparams_load looks at, behind "<arch>.".
static const char *const qi__hparam_keys[] = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "expert_count", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.sliding_window",
    "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scaling.original_context_length",
};

// Limits against hostile files; far above any model.
#define QI__MAX_LAYERS 1024
#define QI__MAX_WIDTH (1u << 20)

// The key "<arch>.<suffix>".
typedef struct qi__key {
  char s[96];
} qi__key;

QI__FN qi__key qi__arch_key(const qi__hparams *h, const char *suffix) {
  qi__key key;
  snprintf(key.s, sizeof key.s, "%s.%s", h->arch->name, suffix);
  return key;
}

// A whole number within [min, max]; *out keeps its default when the key is absent and not required.
QI__FN qi_result qi__hparam_size(const qi__gguf *g, const qi__hparams *h, const char *suffix, bool required, size_t min, size_t max,
                                 size_t *out, qi_error *err) {
  qi__key key = qi__arch_key(h, suffix);
  uint32_t v = (uint32_t)*out;
  qi_result r = qi__gguf_u32(g, key.s, required, &v, err);
  if (r) return r;
  if (v < min || v > max) return qi__fail(err, QI_ERR_FORMAT, "key %s: is %u, expected %zu to %zu", key.s, v, min, max);
  *out = v;
  return QI_OK;
}

// A finite number within [min, max].
QI__FN qi_result qi__hparam_float(const qi__gguf *g, const qi__hparams *h, const char *suffix, bool required, float min, float max,
                                  float *out, qi_error *err) {
  qi__key key = qi__arch_key(h, suffix);
  qi_result r = qi__gguf_f32(g, key.s, required, out, err);
  if (r) return r;
  if (!qi__is_finite(*out) || *out < min || *out > max)
    return qi__fail(err, QI_ERR_FORMAT, "key %s: is %g, expected %g to %g", key.s, (double)*out, (double)min, (double)max);
  return QI_OK;
}

QI__FN qi_result qi__hparams_shape(qi__hparams *h, const qi__gguf *g, qi_error *err) {
  qi_result r;
  h->n_ctx_train = 2048;
  if ((r = qi__hparam_size(g, h, "block_count", true, 1, QI__MAX_LAYERS, &h->n_layers, err))) return r;
  if ((r = qi__hparam_size(g, h, "context_length", false, 1, INT32_MAX, &h->n_ctx_train, err))) return r;
  if ((r = qi__hparam_size(g, h, "embedding_length", true, 1, QI__MAX_WIDTH, &h->n_embd, err))) return r;
  if ((r = qi__hparam_size(g, h, "feed_forward_length", true, 1, QI__MAX_WIDTH, &h->n_ff, err))) return r;
  if ((r = qi__hparam_size(g, h, "attention.head_count", true, 1, QI__MAX_WIDTH, &h->n_heads, err))) return r;
  h->n_kv_heads = h->n_heads;
  if ((r = qi__hparam_size(g, h, "attention.head_count_kv", false, 1, h->n_heads, &h->n_kv_heads, err))) return r;
  h->head_dim_k = h->head_dim_v = h->n_embd / h->n_heads;
  if ((r = qi__hparam_size(g, h, "attention.key_length", false, 1, 4096, &h->head_dim_k, err))) return r;
  if ((r = qi__hparam_size(g, h, "attention.value_length", false, 1, 4096, &h->head_dim_v, err))) return r;
  if (h->n_heads % h->n_kv_heads)
    return qi__fail(err, QI_ERR_FORMAT, "attention.head_count: %zu is no multiple of attention.head_count_kv, %zu", h->n_heads,
                    h->n_kv_heads);
  if (h->n_heads * h->head_dim_k > QI__MAX_WIDTH || h->n_heads * h->head_dim_v > QI__MAX_WIDTH)
    return qi__fail(err, QI_ERR_FORMAT, "%zu heads of %zu: wider than %u", h->n_heads, h->head_dim_k, QI__MAX_WIDTH);
  h->n_rot = h->head_dim_k;
  if ((r = qi__hparam_size(g, h, "rope.dimension_count", false, 2, h->head_dim_k, &h->n_rot, err))) return r;
  if (h->n_rot % 2) return qi__fail(err, QI_ERR_FORMAT, "rope.dimension_count: %zu is odd", h->n_rot);
  if ((r = qi__hparam_size(g, h, "attention.sliding_window", false, 0, INT32_MAX, &h->sliding_window, err))) return r;
  size_t n_experts = 0;
  if ((r = qi__hparam_size(g, h, "expert_count", false, 0, INT32_MAX, &n_experts, err))) return r;
  if (!n_experts) return QI_OK;
  return qi__fail(err, QI_ERR_UNSUPPORTED, "%s.expert_count: %zu; experts are not supported", h->arch->name, n_experts);
}

// Names of rope.scaling.type. Longrope is told by its factor tensors; the name only announces them.
QI__FN qi_result qi__hparams_rope_scaling(qi__hparams *h, const qi__gguf *g, qi_error *err) {
  static const struct {
    const char *name;
    qi__rope_scaling scaling;
  } known[] = {{"none", QI__ROPE_PLAIN}, {"linear", QI__ROPE_LINEAR}, {"yarn", QI__ROPE_YARN}, {"longrope", QI__ROPE_LONG},
               {"su", QI__ROPE_LONG}};
  qi__key key = qi__arch_key(h, "rope.scaling.type");
  const char *name = NULL;
  size_t len = 0;
  qi_result r = qi__gguf_str(g, key.s, false, &name, &len, err);
  if (r) return r;
  if (!name) {
    h->rope_scaling = h->rope_factor != 1 ? QI__ROPE_LINEAR : QI__ROPE_PLAIN;
    return QI_OK;
  }
  for (size_t i = 0; i < QI__COUNT_OF(known); i++)
    if (strlen(known[i].name) == len && !memcmp(known[i].name, name, len)) {
      h->rope_scaling = known[i].scaling;
      return QI_OK;
    }
  return qi__fail(err, QI_ERR_UNSUPPORTED, "key %s: '%s' is not supported", key.s, qi__show(name, len).s);
}

QI__FN qi_result qi__hparams_rope(qi__hparams *h, const qi__gguf *g, qi_error *err) {
  float theta = 10000, factor = 1, attn_factor = 1;
  qi_result r;
  if ((r = qi__hparam_float(g, h, "rope.freq_base", false, 1, 1e12f, &theta, err))) return r;
  if ((r = qi__hparam_float(g, h, "rope.scale_linear", false, 0, 1e6f, &factor, err))) return r; // files of 2023
  if ((r = qi__hparam_float(g, h, "rope.scaling.factor", false, 0, 1e6f, &factor, err))) return r;
  if ((r = qi__hparam_float(g, h, "rope.scaling.attn_factor", false, 0, 1e3f, &attn_factor, err))) return r;
  h->rope_theta = theta;
  h->rope_factor = factor > 0 ? factor : 1; // 0 = not scaled
  h->rope_attn_factor = attn_factor > 0 ? attn_factor : 1;
  h->rope_n_ctx_orig = h->n_ctx_train;
  if ((r = qi__hparam_size(g, h, "rope.scaling.original_context_length", false, 1, INT32_MAX, &h->rope_n_ctx_orig, err))) return r;
  return qi__hparams_rope_scaling(h, g, err);
}

// n_vocab is that of the tokenizer, if there is one; weights check it against their shapes.
QI__FN qi_result qi__hparams_load(qi__hparams *h, const qi__gguf *g, qi_error *err) {
  memset(h, 0, sizeof *h);
  qi_result r;
  if ((r = qi__architecture_find(g, &h->arch, err))) return r;
  if ((r = qi__hparams_shape(h, g, err))) return r;
  if ((r = qi__hparam_float(g, h, "attention.layer_norm_rms_epsilon", true, 0, 1, &h->rms_norm_eps, err))) return r;
  return qi__hparams_rope(h, g, err);
}

// ---- rotary frequencies ----

// Where yarn's ramp between scaled and unscaled dimensions has its ends (Peng et al. 2023, equation 17): the dimension whose
// wavelength makes `turns` turns in the original context.
QI__FN double qi__yarn_dimension(const qi__hparams *h, double turns) {
  const double two_pi = 6.283185307179586;
  return (double)h->n_rot * qi__ln((double)h->rope_n_ctx_orig / (turns * two_pi)) / (2 * qi__ln(h->rope_theta));
}

QI__FN double qi__yarn_ramp(const qi__hparams *h, size_t pair) {
  double low = floor(qi__yarn_dimension(h, 32)), high = ceil(qi__yarn_dimension(h, 1));
  if (low < 0) low = 0;
  if (high > (double)h->n_rot - 1) high = (double)h->n_rot - 1;
  double width = high - low > 0.001 ? high - low : 0.001;
  double t = ((double)pair - low) / width;
  return 1 - (t < 0 ? 0 : t > 1 ? 1 : t); // 1 = keep the frequency, 0 = divide it
}

// Angle per position of each rotated pair: frequency[i] = theta^(-2i / n_rot), divided by factors[i] (Llama-3 and phi-3; may be
// NULL) and by the scaling of the model. Returns what cos and sin are multiplied with.
QI__FN double qi__rope_frequencies(const qi__hparams *h, const float *factors, double *frequency) {
  for (size_t i = 0; i < h->n_rot / 2; i++) {
    double f = qi__pow(h->rope_theta, -2.0 * (double)i / (double)h->n_rot);
    if (factors) f /= factors[i];
    if (h->rope_scaling == QI__ROPE_LINEAR) f /= h->rope_factor;
    if (h->rope_scaling == QI__ROPE_YARN) {
      double keep = qi__yarn_ramp(h, i), scaled = f / h->rope_factor;
      f = scaled * (1 - keep) + f * keep;
    }
    frequency[i] = f;
  }
  double magnitude = h->rope_attn_factor;
  if (h->rope_scaling == QI__ROPE_YARN) magnitude *= 1 + 0.1 * qi__ln(h->rope_factor);
  return magnitude;
}

#endif // QI__MODEL_HPARAMS_H

// One block. Vectors are float32 copies; matrices stay as stored. Biases are NULL where the model has none.
typedef struct qi__layer {
  const float *attn_norm; // [n_embd]
  qi__weight wq;          // [n_heads * head_dim_k, n_embd]
  qi__weight wk;          // [n_kv_heads * head_dim_k, n_embd]
  qi__weight wv;          // [n_kv_heads * head_dim_v, n_embd]
  const float *q_norm;    // [head_dim_k], QI__HAS_QK_NORM
  const float *k_norm;    // [head_dim_k]
  const float *attn_sub_norm; // [n_heads * head_dim_v], of what goes into wo; NULL = none
  qi__weight wo;          // [n_embd, n_heads * head_dim_v]
  const float *ffn_norm;  // [n_embd]
  qi__weight gate;        // [n_ff, n_embd]
  qi__weight up;          // [n_ff, n_embd]
  const float *ffn_sub_norm; // [n_ff], of what goes into down; NULL = none
  qi__weight down;        // [n_embd, n_ff]
} qi__layer;

typedef struct qi__weights {
  qi__weight embedding;      // [n_vocab, n_embd]
  const float *output_norm;  // [n_embd]
  qi__weight output;         // [n_vocab, n_embd]; the embedding when tied
  const float *rope_factors; // [n_rot / 2], NULL if none: Llama-3, one for all contexts
  const float *rope_long;    // [n_rot / 2], NULL if none: phi-3, contexts beyond rope_n_ctx_orig
  const float *rope_short;   // [n_rot / 2], NULL if none: phi-3, up to it
  qi__layer *layers;         // [n_layers]
} qi__weights;

// ---- slots ----

// Lengths that shapes are made of.
typedef enum qi__dim {
  QI__DIM_ONE, QI__DIM_EMBD, QI__DIM_Q, QI__DIM_K, QI__DIM_V, QI__DIM_ATTN, QI__DIM_FF, QI__DIM_VOCAB, QI__DIM_HEAD, QI__DIM_ROT
} qi__dim;

QI__FN size_t qi__dim_length(const qi__hparams *h, qi__dim dim) {
  switch (dim) {
  case QI__DIM_ONE: return 1;
  case QI__DIM_EMBD: return h->n_embd;
  case QI__DIM_Q: return h->n_heads * h->head_dim_k;
  case QI__DIM_K: return h->n_kv_heads * h->head_dim_k;
  case QI__DIM_V: return h->n_kv_heads * h->head_dim_v;
  case QI__DIM_ATTN: return h->n_heads * h->head_dim_v;
  case QI__DIM_FF: return h->n_ff;
  case QI__DIM_VOCAB: return h->n_vocab;
  case QI__DIM_HEAD: return h->head_dim_k;
  case QI__DIM_ROT: return h->n_rot / 2;
  }
  return 0;
}

typedef enum qi__slot_kind { QI__MATRIX, QI__VECTOR, QI__BIAS } qi__slot_kind;

// One tensor of the file and the places it goes to: a matrix, or the rows of up to three matrices one after another (fused), or a
// vector. `at` is the offset of the qi__weight or of the float pointer in qi__layer or qi__weights.
typedef struct qi__slot {
  const char *name;
  qi__slot_kind kind;
  qi__dim cols;
  unsigned needed; // required by architectures with one of these features; ~0u = by all; 0 = may be missing
  struct {
    qi__dim rows;
    size_t at;
  } part[3]; // ends at the first QI__DIM_ONE; vectors have one part, their length is `cols`
} qi__slot;

#define QI__AT(member) offsetof(qi__layer, member)
static const qi__slot qi__layer_slots[] = {
    {"attn_norm.weight", QI__VECTOR, QI__DIM_EMBD, ~0u, {{QI__DIM_ONE, QI__AT(attn_norm)}}},
    {"attn_q.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_SPLIT_QKV, {{QI__DIM_Q, QI__AT(wq)}}},
    {"attn_k.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_SPLIT_QKV, {{QI__DIM_K, QI__AT(wk)}}},
    {"attn_v.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_SPLIT_QKV, {{QI__DIM_V, QI__AT(wv)}}},
    {"attn_qkv.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_FUSED_QKV,
     {{QI__DIM_Q, QI__AT(wq)}, {QI__DIM_K, QI__AT(wk)}, {QI__DIM_V, QI__AT(wv)}}},
    {"attn_q.bias", QI__BIAS, QI__DIM_Q, QI__HAS_QKV_BIAS, {{QI__DIM_Q, QI__AT(wq)}}},
    {"attn_k.bias", QI__BIAS, QI__DIM_K, QI__HAS_QKV_BIAS, {{QI__DIM_K, QI__AT(wk)}}},
    {"attn_v.bias", QI__BIAS, QI__DIM_V, QI__HAS_QKV_BIAS, {{QI__DIM_V, QI__AT(wv)}}},
    {"attn_q_norm.weight", QI__VECTOR, QI__DIM_HEAD, QI__HAS_QK_NORM, {{QI__DIM_ONE, QI__AT(q_norm)}}},
    {"attn_k_norm.weight", QI__VECTOR, QI__DIM_HEAD, QI__HAS_QK_NORM, {{QI__DIM_ONE, QI__AT(k_norm)}}},
    {"attn_sub_norm.weight", QI__VECTOR, QI__DIM_ATTN, QI__SUB_NORMS, {{QI__DIM_ONE, QI__AT(attn_sub_norm)}}},
    {"attn_output.weight", QI__MATRIX, QI__DIM_ATTN, ~0u, {{QI__DIM_EMBD, QI__AT(wo)}}},
    {"attn_output.bias", QI__BIAS, QI__DIM_EMBD, 0, {{QI__DIM_EMBD, QI__AT(wo)}}},
    {"ffn_norm.weight", QI__VECTOR, QI__DIM_EMBD, ~0u, {{QI__DIM_ONE, QI__AT(ffn_norm)}}},
    {"ffn_gate.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_GATE, {{QI__DIM_FF, QI__AT(gate)}}},
    {"ffn_up.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_GATE, {{QI__DIM_FF, QI__AT(up)}}},
    {"ffn_up.weight", QI__MATRIX, QI__DIM_EMBD, QI__HAS_FUSED_GATE, {{QI__DIM_FF, QI__AT(gate)}, {QI__DIM_FF, QI__AT(up)}}},
    {"ffn_gate.bias", QI__BIAS, QI__DIM_FF, 0, {{QI__DIM_FF, QI__AT(gate)}}},
    {"ffn_up.bias", QI__BIAS, QI__DIM_FF, 0, {{QI__DIM_FF, QI__AT(up)}}},
    {"ffn_sub_norm.weight", QI__VECTOR, QI__DIM_FF, QI__SUB_NORMS, {{QI__DIM_ONE, QI__AT(ffn_sub_norm)}}},
    {"ffn_down.weight", QI__MATRIX, QI__DIM_FF, ~0u, {{QI__DIM_EMBD, QI__AT(down)}}},
    {"ffn_down.bias", QI__BIAS, QI__DIM_EMBD, 0, {{QI__DIM_EMBD, QI__AT(down)}}},
};
#undef QI__AT
#define QI__AT(member) offsetof(qi__weights, member)
static const qi__slot qi__model_slots[] = {
    {"token_embd.weight", QI__MATRIX, QI__DIM_EMBD, ~0u, {{QI__DIM_VOCAB, QI__AT(embedding)}}},
    {"output_norm.weight", QI__VECTOR, QI__DIM_EMBD, ~0u, {{QI__DIM_ONE, QI__AT(output_norm)}}},
    {"output.weight", QI__MATRIX, QI__DIM_EMBD, 0, {{QI__DIM_VOCAB, QI__AT(output)}}},
    {"rope_freqs.weight", QI__VECTOR, QI__DIM_ROT, 0, {{QI__DIM_ONE, QI__AT(rope_factors)}}},
    {"rope_factors_long.weight", QI__VECTOR, QI__DIM_ROT, 0, {{QI__DIM_ONE, QI__AT(rope_long)}}},
    {"rope_factors_short.weight", QI__VECTOR, QI__DIM_ROT, 0, {{QI__DIM_ONE, QI__AT(rope_short)}}},
};
#undef QI__AT

// Whether architectures like this one keep these matrices in this slot, not fused with others or apart from them.
QI__FN bool qi__slot_in_layout(const qi__slot *slot, const qi__hparams *h) {
  return slot->kind != QI__MATRIX || !slot->needed || slot->needed == ~0u || (slot->needed & h->arch->features);
}

// ---- loading ----

// Where vectors are copied to, and tensor bytes where files are not mapped.
typedef struct qi__weights_loader {
  const qi__gguf *gguf;
  const qi__hparams *h;
  qi__arena *arena;
  const uint8_t *const *data; // [n_tensors] bytes of each tensor; NULL = only check
  qi_error *err;
} qi__weights_loader;

QI__FN qi_result qi__tensor_shape_error(qi_error *err, const qi__tensor_info *t, size_t cols, size_t rows) {
  char found[96] = "";
  size_t used = 0;
  for (int i = 0; i < t->n_dims && used < sizeof found; i++) {
    int n = snprintf(found + used, sizeof found - used, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    if (n > 0) used += (size_t)n;
  }
  return qi__fail(err, QI_ERR_FORMAT, "tensor %s: shape [%s], expected [%zu, %zu]", t->name, found, cols, rows);
}

QI__FN qi_result qi__tensor_expect(const qi__weights_loader *l, const qi__tensor_info *t, size_t cols, size_t rows) {
  if (t->shape[0] != cols || t->shape[1] != rows || t->shape[2] != 1 || t->shape[3] != 1)
    return qi__tensor_shape_error(l->err, t, cols, rows);
  if (t->format == QI_FORMAT_NONE && t->dtype)
    return qi__fail(l->err, QI_ERR_UNSUPPORTED, "tensor %s: weight type %s is not supported", t->name, t->dtype);
  if (t->format == QI_FORMAT_NONE)
    return qi__fail(l->err, QI_ERR_UNSUPPORTED, "tensor %s: weight type %d is not supported", t->name, t->gguf_id);
  return QI_OK;
}

// The format of a tensor with what its tail says.
QI__FN qi_result qi__bind_tensor(const qi__weights_loader *l, const qi__tensor_info *t, qi__bound *out) {
  const uint8_t *data = l->data[t - l->gguf->tensors];
  char name[QI__GGUF_MAX_NAME + 16];
  snprintf(name, sizeof name, "tensor %s", t->name);
  if (data) data += (size_t)t->n_bytes - (size_t)qi__formats[t->format].info.tail_bytes;
  return qi__format_bind(out, t->format, data, name, l->err);
}

// Vectors are few and small: float32 copies spare the forward pass their formats.
QI__FN qi_result qi__load_vector(const qi__weights_loader *l, const qi__tensor_info *t, size_t n, const float **out) {
  qi_result r = qi__tensor_expect(l, t, n, 1);
  if (r) return r;
  float *v = QI__ARENA_ARRAY(l->arena, float, n);
  if (!v) return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: more vectors than the file's index tells", t->name);
  const uint8_t *data = l->data[t - l->gguf->tensors];
  for (size_t i = 0; i < n && !data; i++) v[i] = 1; // only checked: any sound value
  qi__bound bound;
  if ((r = qi__bind_tensor(l, t, &bound))) return r;
  if (data) qi__dequantize_blocks(&bound.format, data, v, n);
  for (size_t i = 0; i < n; i++)
    if (!qi__is_finite(v[i])) return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: element %zu is not finite", t->name, i);
  *out = v;
  return QI_OK;
}

QI__FN qi_result qi__load_matrix(const qi__weights_loader *l, const qi__tensor_info *t, const qi__slot *slot, char *base) {
  size_t cols = qi__dim_length(l->h, slot->cols), rows = 0;
  for (int p = 0; p < 3 && slot->part[p].rows != QI__DIM_ONE; p++) rows += qi__dim_length(l->h, slot->part[p].rows);
  qi_result r = qi__tensor_expect(l, t, cols, rows);
  if (r) return r;
  const uint8_t *data = l->data[t - l->gguf->tensors];
  const qi__format *format = qi__format_get(t->format);
  if (format->info.tail_bytes) {
    qi__bound *bound = QI__ARENA_ARRAY(l->arena, qi__bound, 1);
    if (!bound) return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: more matrices than the file's index tells", t->name);
    if ((r = qi__bind_tensor(l, t, bound))) return r;
    format = &bound->format;
  }
  size_t row_bytes = qi__row_bytes(t->format, cols);
  for (int p = 0; p < 3 && slot->part[p].rows != QI__DIM_ONE; p++) {
    qi__weight *w = (qi__weight *)(void *)(base + slot->part[p].at);
    w->id = t->format;
    w->format = format;
    w->data = data;
    w->n_rows = qi__dim_length(l->h, slot->part[p].rows);
    w->n_cols = cols;
    w->row_bytes = row_bytes;
    if (data) data += w->n_rows * row_bytes;
  }
  return QI_OK;
}

// One slot of the structure at `base`, named prefix + slot name.
QI__FN qi_result qi__load_slot(const qi__weights_loader *l, const qi__slot *slot, const char *prefix, void *base) {
  char name[64];
  snprintf(name, sizeof name, "%s%s", prefix, slot->name);
  unsigned features = l->h->arch->features;
  if (!qi__slot_in_layout(slot, l->h)) return QI_OK;
  const qi__tensor_info *t = qi__gguf_tensor(l->gguf, name);
  if (!t) {
    if (slot->needed & features) return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: missing", name);
    return QI_OK;
  }
  size_t n = qi__dim_length(l->h, slot->cols);
  char *at = (char *)base + slot->part[0].at;
  if (slot->kind == QI__VECTOR) return qi__load_vector(l, t, n, (const float **)(void *)at);
  if (slot->kind == QI__BIAS) return qi__load_vector(l, t, n, &((qi__weight *)(void *)at)->bias);
  // Ternary files of 2024 have the scale of a matrix beside it: "blk.0.attn_q.scale".
  size_t stem = strlen(name) - strlen(".weight");
  snprintf(name + stem, sizeof name - stem, ".scale");
  if (qi__gguf_tensor(l->gguf, name))
    return qi__fail(l->err, QI_ERR_UNSUPPORTED, "tensor %s: a scale beside its matrix is not supported; newer files have it inside",
                    name);
  return qi__load_matrix(l, t, slot, (char *)base);
}

// A factor divides a frequency.
QI__FN qi_result qi__check_rope_factors(const qi__weights_loader *l, const char *name, const float *factors) {
  for (size_t i = 0; factors && i < l->h->n_rot / 2; i++)
    if (!(factors[i] > 0))
      return qi__fail(l->err, QI_ERR_FORMAT, "tensor %s: factor %zu is %g, expected above 0", name, i, (double)factors[i]);
  return QI_OK;
}

// Fills `w`; the arena has room for its layers and vectors (qi__weights_heap).
QI__FN qi_result qi__weights_load(qi__weights *w, const qi__weights_loader *l) {
  qi_result r;
  memset(w, 0, sizeof *w);
  w->layers = QI__ARENA_ARRAY(l->arena, qi__layer, l->h->n_layers);
  if (!w->layers) return qi__fail(l->err, QI_ERR_FORMAT, "%zu layers: more than the file's index tells", l->h->n_layers);
  memset(w->layers, 0, l->h->n_layers * sizeof *w->layers);
  for (size_t i = 0; i < QI__COUNT_OF(qi__model_slots); i++)
    if ((r = qi__load_slot(l, &qi__model_slots[i], "", w))) return r;
  if (!w->output.format) w->output = w->embedding;
  if ((r = qi__check_rope_factors(l, "rope_freqs.weight", w->rope_factors))) return r;
  if ((r = qi__check_rope_factors(l, "rope_factors_long.weight", w->rope_long))) return r;
  if ((r = qi__check_rope_factors(l, "rope_factors_short.weight", w->rope_short))) return r;
  for (size_t layer = 0; layer < l->h->n_layers; layer++) {
    char prefix[32];
    snprintf(prefix, sizeof prefix, "blk.%zu.", layer);
    for (size_t i = 0; i < QI__COUNT_OF(qi__layer_slots); i++)
      if ((r = qi__load_slot(l, &qi__layer_slots[i], prefix, &w->layers[layer]))) return r;
  }
  return QI_OK;
}

#endif // QI__MODEL_WEIGHTS_H

// One block of memory: a qi__forms for each matrix, then tiles. Its size follows from the index of the file, the path and the
// instruction set alone, so that it is known before anything is read; what goes into it is decided by measuring.
typedef struct qi__cache {
  qi_pool *pool;   // the caller's; NULL = the calling thread and the best instruction set
  qi_path path;
  uint64_t budget, bytes; // granted; of the block
  uint8_t *block;
  qi_cache_info info;
} qi__cache;

#define QI__CACHE_PART (8u << 20) // bytes that are filled between two calls of the host
#define QI__CACHE_TRIAL_ROWS 16   // rows of activations that gains are measured with
#define QI__CACHE_TRIAL_TILES 2

// ---- bytes ----

// The arithmetics that the path takes for matrices of a format, one for each role; false when both take the same.
QI__FN bool qi__cache_arithmetics(const qi__kernels *kernels, qi_path path, qi_format id, qi__arithmetic out[2]) {
  qi__weight w;
  memset(&w, 0, sizeof w);
  w.id = id;
  w.format = &qi__formats[id];
  for (int role = 0; role < 2; role++) out[role] = qi__arithmetic_of(kernels, &w, path, role == 1);
  return out[0] != out[1];
}

#define QI__LAYER_MATRICES 7

// Bytes of all forms of a matrix that the path takes, UINT64_MAX if too many.
QI__FN uint64_t qi__cache_matrix_bytes(const qi__kernels *kernels, qi_path path, qi_format id, uint64_t n_rows, uint64_t n_cols) {
  qi__arithmetic a[2];
  int n = qi__cache_arithmetics(kernels, path, id, a) ? 2 : 1;
  uint64_t sum = 0;
  for (int i = 0; i < n; i++) {
    uint64_t bytes = n_cols > SIZE_MAX ? SIZE_MAX : qi__form_tile_bytes(kernels, a[i], id, (size_t)n_cols);
    uint64_t n_tiles = n_rows / QI__TILE_ROWS + (n_rows % QI__TILE_ROWS != 0);
    if (!qi__mul_u64(bytes, n_tiles, &bytes) || !qi__add_u64(sum, bytes, &sum)) return UINT64_MAX;
  }
  return sum;
}

// Adds what the matrices of a slot take; false when the file has no such tensor.
QI__FN bool qi__cache_count_slot(const qi__cache *c, const qi__kernels *kernels, const qi__gguf *g, const qi__hparams *h,
                                 const char *prefix, const qi__slot *slot, uint64_t *sum) {
  char name[64];
  snprintf(name, sizeof name, "%s%s", prefix, slot->name);
  const qi__tensor_info *t = slot->kind == QI__MATRIX && qi__slot_in_layout(slot, h) ? qi__gguf_tensor(g, name) : NULL;
  if (!t || t->format == QI_FORMAT_NONE) return false;
  bool fused = slot->part[1].rows != QI__DIM_ONE;
  for (int p = 0; p < 3 && slot->part[p].rows != QI__DIM_ONE; p++) {
    uint64_t rows = fused ? qi__dim_length(h, slot->part[p].rows) : t->shape[1];
    uint64_t bytes = qi__cache_matrix_bytes(kernels, c->path, t->format, rows, t->shape[0]);
    if (!qi__add_u64(*sum, bytes, sum)) *sum = UINT64_MAX;
  }
  return true;
}

QI__FN void qi__cache_kernels(const qi__cache *c, qi__kernels *kernels) {
  qi__cpu cpu;
  qi_isa isa;
  if (c->pool) cpu = c->pool->cpu;
  else qi__isa_choose(QI_ISA_AUTO, &isa, &cpu, NULL);
  qi__kernels_init(kernels, &cpu);
}

// Sets c->bytes: the budget, or what all matrices take if that is less.
QI__FN void qi__cache_count(qi__cache *c, const qi__gguf *g, const qi__hparams *h) {
  qi__kernels kernels;
  uint64_t sum, forms = sizeof(qi__forms) * QI__LAYER_MATRICES;
  c->bytes = 0;
  if (!c->budget) return;
  if (!qi__mul_u64(h->n_layers, forms, &sum) || !qi__add_u64(sum, sizeof(qi__forms) + QI__CACHE_LINE, &sum)) sum = UINT64_MAX;
  qi__cache_kernels(c, &kernels);
  bool tied = !qi__gguf_tensor(g, "output.weight");
  for (size_t i = 0; i < QI__COUNT_OF(qi__model_slots); i++) {
    bool embedding = qi__model_slots[i].part[0].at == offsetof(qi__weights, embedding);
    if (tied || !embedding) qi__cache_count_slot(c, &kernels, g, h, "", &qi__model_slots[i], &sum);
  }
  bool more = true;
  for (size_t layer = 0; layer < h->n_layers && more; layer++) { // of layers that are missing no more than one is looked for
    char prefix[32];
    snprintf(prefix, sizeof prefix, "blk.%zu.", layer);
    more = false;
    for (size_t i = 0; i < QI__COUNT_OF(qi__layer_slots); i++)
      if (qi__cache_count_slot(c, &kernels, g, h, prefix, &qi__layer_slots[i], &sum)) more = true;
  }
  c->bytes = sum < c->budget ? sum : c->budget;
}

// ---- what goes into it ----

// The i-th matrix that takes part in products; the output comes first. NULL beyond the last.
QI__FN qi__weight *qi__weights_matrix(qi__weights *w, size_t n_layers, size_t i) {
  if (i == 0) return &w->output;
  if ((i - 1) / QI__LAYER_MATRICES >= n_layers) return NULL;
  qi__layer *l = &w->layers[(i - 1) / QI__LAYER_MATRICES];
  qi__weight *all[QI__LAYER_MATRICES] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate, &l->up, &l->down};
  return all[(i - 1) % QI__LAYER_MATRICES];
}

// Matrices of one format in one form.
typedef struct qi__cache_class {
  const qi__weight *example;
  qi__arithmetic arithmetic;
  double gain; // seconds saved in a product, for each byte
} qi__cache_class;

#define QI__CACHE_CLASSES (2 * QI_FORMAT_COUNT)

// A cache while it is filled.
typedef struct qi__cache_fill {
  qi__cache *c;
  qi__kernels kernels;
  qi_pool *pool;
  qi__weights *w;
  size_t n_layers;
  qi_progress progress;
  uint64_t done, total; // of progress
  qi__forms *forms;     // next free
  size_t used;          // of the block
  qi__cache_class classes[QI__CACHE_CLASSES];
  size_t n_classes;
} qi__cache_fill;

QI__FN void qi__cache_add_class(qi__cache_fill *f, const qi__weight *w, qi__arithmetic a) {
  for (size_t i = 0; i < f->n_classes; i++)
    if (f->classes[i].example->id == w->id && f->classes[i].arithmetic == a) return;
  size_t bytes = qi__form_tile_bytes(&f->kernels, a, w->id, w->n_cols);
  // Until something is measured: all forms spare the same work for each weight.
  if (bytes) f->classes[f->n_classes++] = (qi__cache_class){w, a, (double)(QI__TILE_ROWS * w->n_cols) / (double)bytes};
}

// What a trial needs, in the block that is empty yet.
typedef struct qi__cache_trial {
  qi__inputs in;
  float *y, *scratch;
  uint8_t *tiles;
} qi__cache_trial;

QI__FN void qi__cache_trial_layout(qi__cache_trial *t, qi__arena *arena, size_t n_cols, size_t tile_bytes) {
  const size_t n = QI__CACHE_TRIAL_ROWS;
  qi__inputs_layout(&t->in, arena, n, n_cols);
  t->y = QI__ARENA_ARRAY(arena, float, n * QI__TILE_ROWS);
  t->scratch = QI__ARENA_ARRAY(arena, float, qi__tile_scratch(n_cols, n));
  t->tiles = QI__ARENA_ARRAY(arena, uint8_t, QI__CACHE_TRIAL_TILES * tile_bytes);
}

// Seconds for n_tiles tiles of w: the least of some runs.
QI__FN double qi__cache_time(const qi__cache_fill *f, const qi__cache_trial *t, qi__arithmetic a, const qi__weight *w,
                             size_t n_tiles) {
  double best = 0;
  for (int run = 0; run < 4; run++) {
    uint64_t start = qi__now_us();
    for (size_t i = 0; i < 2 * n_tiles; i++)
      qi__matmul_tile(&f->kernels, a, w, i % n_tiles * QI__TILE_ROWS, QI__TILE_ROWS, &t->in, 0, QI__CACHE_TRIAL_ROWS, t->y,
                      QI__TILE_ROWS, t->scratch);
    double seconds = (double)(qi__now_us() - start) * 1e-6 / 2;
    if (run == 1 || (run > 1 && seconds < best)) best = seconds; // the first brings weights into the caches
  }
  return best;
}

// Measures the gain of a class with its first matrix; false when the block has no room for that, or the matrix too few rows.
QI__FN bool qi__cache_measure(const qi__cache_fill *f, qi__cache_class *class) {
  qi__weight w = *class->example;
  qi__cache_trial t;
  size_t tile_bytes = qi__form_tile_bytes(&f->kernels, class->arithmetic, w.id, w.n_cols);
  size_t n_tiles = qi__min_size(w.n_rows / QI__TILE_ROWS, QI__CACHE_TRIAL_TILES);
  qi__arena arena = {f->c->block, (size_t)f->c->bytes, f->used, false};
  qi__cache_trial_layout(&t, &arena, w.n_cols, tile_bytes);
  if (arena.overflow || !n_tiles) return false;
  qi__inputs_set_width(&t.in, w.n_cols);
  for (size_t i = 0; i < QI__CACHE_TRIAL_ROWS * w.n_cols; i++) t.in.x[i] = (float)(i % 17) - 8.0f;
  for (size_t i = 0; i < QI__CACHE_TRIAL_ROWS; i++)
    qi__inputs_prepare(&f->kernels, &t.in, i, qi__inputs_need(&w, class->arithmetic));
  qi__forms forms;
  memset(&forms, 0, sizeof forms);
  forms.bf16 = f->kernels.bf16;
  forms.of[class->arithmetic] = (qi__form){t.tiles, n_tiles, tile_bytes};
  for (size_t i = 0; i < n_tiles; i++) qi__form_fill(&f->kernels, class->arithmetic, &w, i, t.tiles + i * tile_bytes);
  w.bias = NULL;
  double plain = qi__cache_time(f, &t, class->arithmetic, &w, n_tiles);
  w.forms = &forms;
  double ready = qi__cache_time(f, &t, class->arithmetic, &w, n_tiles);
  class->gain = (plain - ready) / (double)(n_tiles * tile_bytes);
  return true;
}

// Finds the classes and orders them by gain; those without are dropped.
QI__FN void qi__cache_choose(qi__cache_fill *f) {
  qi__weight *w;
  qi__arithmetic a[2];
  for (size_t i = 0; (w = qi__weights_matrix(f->w, f->n_layers, i)) != NULL; i++) {
    int n = qi__cache_arithmetics(&f->kernels, f->c->path, w->id, a) ? 2 : 1;
    for (int k = 0; k < n; k++) qi__cache_add_class(f, w, a[k]);
  }
  qi__cache_class measured[QI__CACHE_CLASSES];
  memcpy(measured, f->classes, sizeof measured);
  bool all = true;
  for (size_t i = 0; i < f->n_classes && all; i++) all = qi__cache_measure(f, &measured[i]);
  if (all) memcpy(f->classes, measured, sizeof measured);
  size_t n = 0;
  for (size_t i = 0; i < f->n_classes; i++) {
    qi__cache_class class = f->classes[i];
    if (!(class.gain > 0)) continue;
    size_t at = n++;
    for (; at > 0 && f->classes[at - 1].gain < class.gain; at--) f->classes[at] = f->classes[at - 1];
    f->classes[at] = class;
  }
  f->n_classes = n;
}

// ---- filling ----

QI__FN qi_cache_kind *qi__cache_kind(qi__cache *c, qi__arithmetic a) {
  return a == QI__INTEGER ? &c->info.integer : a == QI__FLOAT ? &c->info.f32 : &c->info.bf16;
}

// As many tiles of w as there is room for.
QI__FN qi_result qi__cache_fill_matrix(qi__cache_fill *f, qi__weight *w, qi__arithmetic a, qi_error *err) {
  qi__cache *c = f->c;
  qi__form_job job = {&f->kernels, w, a, c->block + f->used, qi__form_tile_bytes(&f->kernels, a, w->id, w->n_cols), 0};
  size_t n_tiles = qi__min_size(qi__n_tiles(w->n_rows), ((size_t)c->bytes - f->used) / job.tile_bytes);
  size_t part = 1 + QI__CACHE_PART / job.tile_bytes;
  if (!n_tiles) return QI_OK;
  for (; job.begin < n_tiles; job.begin += part) {
    size_t n = qi__min_size(part, n_tiles - job.begin);
    qi__pool_run(f->pool, qi__form_task, &job, (int64_t)n, 1);
    f->done += n * job.tile_bytes;
    if (f->progress.fn && !f->progress.fn(f->progress.user, (float)((double)f->done / (double)f->total)))
      return qi__fail(err, QI_ERR_CANCELLED, "loading was stopped by the progress callback");
  }
  qi__forms *forms = w->forms ? (qi__forms *)(uintptr_t)w->forms : f->forms++;
  forms->bf16 = f->kernels.bf16;
  forms->of[a] = (qi__form){job.data, n_tiles, job.tile_bytes};
  w->forms = forms;
  f->used += n_tiles * job.tile_bytes;
  qi__cache_kind(c, a)->n_matrices++;
  qi__cache_kind(c, a)->bytes += n_tiles * job.tile_bytes;
  return QI_OK;
}

QI__FN qi_result qi__cache_fill_all(qi__cache_fill *f, qi_error *err) {
  qi__weight *w;
  size_t n_matrices = 1 + f->n_layers * QI__LAYER_MATRICES;
  qi__arena arena = {f->c->block, (size_t)f->c->bytes, 0, false};
  f->forms = QI__ARENA_ARRAY(&arena, qi__forms, n_matrices);
  if (!f->forms || !qi__align_up(arena.used, QI__CACHE_LINE, &f->used) || f->used > f->c->bytes) return QI_OK;
  memset(f->forms, 0, n_matrices * sizeof *f->forms);
  qi__cache_choose(f);
  for (size_t k = 0; k < f->n_classes; k++)
    for (size_t i = 0; (w = qi__weights_matrix(f->w, f->n_layers, i)) != NULL; i++) {
      if (w->id != f->classes[k].example->id) continue;
      qi_result r = qi__cache_fill_matrix(f, w, f->classes[k].arithmetic, err);
      if (r) return r;
    }
  return QI_OK;
}

// Fills the block and wires it to the weights. `done` of the progress is counted in bytes, of which `before` are done.
// Errors: QI_ERR_CANCELLED, QI_ERR_OOM.
QI__FN qi_result qi__cache_open(qi__cache *c, qi__weights *w, size_t n_layers, const qi_progress *progress, uint64_t before,
                                qi_error *err) {
  if (!c->bytes) return QI_OK;
  qi_pool own;
  const qi_pool_desc one = {1, QI_ISA_AUTO, {NULL, NULL}, {NULL, NULL, NULL}};
  qi_result r = c->pool ? QI_OK : qi__pool_init(&own, &one, err);
  if (r) return r;
  uint64_t start = qi__now_us();
  qi__cache_fill f;
  memset(&f, 0, sizeof f);
  f.c = c;
  f.pool = c->pool ? c->pool : &own;
  f.w = w;
  f.n_layers = n_layers;
  f.progress = *progress;
  f.done = before;
  f.total = before + c->bytes;
  qi__kernels_init(&f.kernels, &f.pool->cpu);
  r = qi__cache_fill_all(&f, err);
  if (!c->pool) qi__pool_destroy(&own);
  c->info.bytes = c->bytes;
  c->info.seconds = (double)(qi__now_us() - start) * 1e-6;
  return r;
}

#endif // QI__MODEL_CACHE_H
// generated from src/model/hf_load.h: edit there
// ==== >>hf_load : opening a Hugging Face folder as if it were a GGUF file ====
#ifndef QI__MODEL_HF_LOAD_H
#define QI__MODEL_HF_LOAD_H

// generated from src/model/hf_tokenizer.h: edit there
// ==== >>hf_tokenizer : tokenizer.json of Hugging Face models ====
#ifndef QI__MODEL_HF_TOKENIZER_H
#define QI__MODEL_HF_TOKENIZER_H

// generated from src/model/hf_config.h: edit there
// ==== >>hf_config : config.json of Hugging Face models, and names of their tensors ====
#ifndef QI__MODEL_HF_CONFIG_H
#define QI__MODEL_HF_CONFIG_H

// generated from src/model/meta_write.h: edit there
// ==== >>meta_write : metadata of other containers, written as GGUF has it ====
#ifndef QI__MODEL_META_WRITE_H
#define QI__MODEL_META_WRITE_H

// generated from src/model/json.h: edit there
// ==== >>json : reading JSON piece by piece, without memory ====
#ifndef QI__MODEL_JSON_H
#define QI__MODEL_JSON_H


// RFC 8259, nothing more: no comments, no trailing commas, no NaN. The reader walks over a file's bytes once and hands out
// values as they come; what is not wanted is skipped, and checked all the same. It needs no memory but a window on the stack, and
// its cost grows with the bytes. After the first error every call does nothing, so that loops end and one look at `result` is
// enough:
//
//   qi__json_init(&j, &file, 0, file.size, err);
//   for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);)
//     if (qi__json_key_is(&j, "width")) qi__json_u32(&j, &width);
//     else qi__json_skip(&j);
//   qi__json_end(&j);
//   return j.result;

#define QI__JSON_MAX_DEPTH 64   // bits of qi__json.objects
#define QI__JSON_MAX_KEY 255    // longer keys are read, but kept only so far
#define QI__JSON_MAX_NUMBER 128 // characters

typedef enum qi__json_type {
  QI__JSON_NONE, // no value begins here, or something failed before
  QI__JSON_NULL,
  QI__JSON_BOOL,
  QI__JSON_NUMBER,
  QI__JSON_STRING,
  QI__JSON_ARRAY,
  QI__JSON_OBJECT
} qi__json_type;

typedef struct qi__json {
  const qi__file *file;
  uint64_t begin, end;      // the text's bytes in the file
  qi_error *err;
  qi_result result;         // of the first step that failed
  int depth;                // arrays and objects that are open
  uint64_t objects, begun;  // bit d: the value at depth d + 1 is an object; has had an element
  char key[QI__JSON_MAX_KEY + 1]; // the last key, decoded and terminated
  size_t key_len;           // its full length
  uint64_t key_pos;         // where its quote is
  const uint8_t *from, *at, *stop; // bytes at hand; `at` is next
  uint64_t from_pos;        // place of `from` in the file
  uint8_t window[4096];     // of a file without map
} qi__json;

// ---- bytes and errors ----

// Reads bytes begin..begin+size-1 of an open file.
QI__FN void qi__json_init(qi__json *j, const qi__file *file, uint64_t begin, uint64_t size, qi_error *err) {
  j->file = file;
  j->begin = begin <= file->size ? begin : file->size;
  j->end = size <= file->size - j->begin ? j->begin + size : file->size;
  j->err = err;
  j->result = QI_OK;
  j->depth = 0;
  j->objects = j->begun = 0;
  j->key[0] = 0;
  j->key_len = 0;
  j->key_pos = begin;
  j->from = j->at = j->stop = file->map ? file->map + (size_t)j->begin : j->window;
  if (file->map) j->stop = file->map + (size_t)j->end;
  j->from_pos = j->begin;
}

QI__INLINE uint64_t qi__json_pos(const qi__json *j) { return j->from_pos + (uint64_t)(j->at - j->from); }

// Line and column of a place, both from 1; the text is read again for it.
QI__FN void qi__json_place(const qi__json *j, uint64_t pos, uint64_t *line, uint64_t *column) {
  uint8_t bytes[512];
  *line = *column = 1;
  for (uint64_t at = j->begin; at < pos;) {
    size_t n = pos - at < sizeof bytes ? (size_t)(pos - at) : sizeof bytes;
    if (qi__file_pull(j->file, at, bytes, n)) return;
    for (size_t i = 0; i < n; i++) {
      if (bytes[i] == '\n') ++*line, *column = 0;
      ++*column;
    }
    at += n;
  }
}

// Fails at the byte that is next. The first error stays.
QI__FN QI__PRINTF(3, 4) void qi__json_fail(qi__json *j, qi_result code, const char *fmt, ...) {
  if (j->result) return;
  j->result = code;
  if (!j->err) return;
  char what[160];
  va_list args;
  va_start(args, fmt);
  vsnprintf(what, sizeof what, fmt, args);
  va_end(args);
  uint64_t line, column;
  qi__json_place(j, qi__json_pos(j), &line, &column);
  qi__fail(j->err, code, "line %llu, column %llu: %s", (unsigned long long)line, (unsigned long long)column, what);
}

// The next byte stays where it is; -1 at the end, or after an error.
QI__FN int qi__json_refill(qi__json *j) {
  uint64_t pos = qi__json_pos(j);
  if (j->result || j->file->map || pos >= j->end) return -1;
  size_t n = j->end - pos < sizeof j->window ? (size_t)(j->end - pos) : sizeof j->window;
  j->from = j->at = j->stop = j->window;
  j->from_pos = pos;
  j->result = qi__file_read(j->file, pos, j->window, n, j->err);
  if (j->result) return -1;
  j->stop = j->window + n;
  return *j->at;
}
QI__INLINE int qi__json_look(qi__json *j) { return j->at < j->stop && !j->result ? *j->at : qi__json_refill(j); }

// The next byte behind white space.
QI__FN int qi__json_look_solid(qi__json *j) {
  int c;
  while ((c = qi__json_look(j)) == ' ' || c == '\n' || c == '\r' || c == '\t') j->at++;
  return c;
}

QI__FN qi__json_type qi__json_type_of(int c) {
  if (c == '{') return QI__JSON_OBJECT;
  if (c == '[') return QI__JSON_ARRAY;
  if (c == '"') return QI__JSON_STRING;
  if (c == 't' || c == 'f') return QI__JSON_BOOL;
  if (c == 'n') return QI__JSON_NULL;
  return c == '-' || (c >= '0' && c <= '9') ? QI__JSON_NUMBER : QI__JSON_NONE;
}

QI__FN const char *qi__json_type_name(qi__json_type type) {
  static const char *const names[] = {"no value", "null", "a bool", "a number", "a string", "an array", "an object"};
  return names[type];
}

// Type of the value that is next; it is not read yet.
QI__FN qi__json_type qi__json_peek(qi__json *j) { return qi__json_type_of(qi__json_look_solid(j)); }

// "found X, expected Y" at the next byte.
QI__FN void qi__json_unexpected(qi__json *j, const char *expected) {
  int c = qi__json_look_solid(j);
  qi__json_type type = qi__json_type_of(c);
  char byte[16];
  const char *found = type ? qi__json_type_name(type) : byte;
  if (c < 0) found = "the end";
  else if (c >= 0x20 && c < 0x7f) snprintf(byte, sizeof byte, "'%c'", c);
  else snprintf(byte, sizeof byte, "byte 0x%02x", (unsigned)c & 255u);
  bool in_object = j->depth && (j->objects >> (j->depth - 1) & 1);
  if (in_object && j->key_len)
    qi__json_fail(j, QI_ERR_FORMAT, "key %s: found %s, expected %s", qi__show_text(j->key).s, found, expected);
  else
    qi__json_fail(j, QI_ERR_FORMAT, "found %s, expected %s", found, expected);
}

// True when a value of this type is next; else fails.
QI__FN bool qi__json_expect(qi__json *j, qi__json_type type) {
  if (qi__json_peek(j) == type && !j->result) return true;
  qi__json_unexpected(j, qi__json_type_name(type));
  return false;
}

// ---- strings ----

// Decoded bytes: those that fit are kept, all are counted.
typedef struct qi__json_sink {
  char *out;
  size_t cap, len;
} qi__json_sink;

QI__INLINE void qi__json_put(qi__json_sink *sink, unsigned byte) {
  if (sink->len < sink->cap) sink->out[sink->len] = (char)byte;
  sink->len++;
}

QI__FN void qi__json_put_char(qi__json_sink *sink, uint32_t cp) {
  if (cp < 0x80) {
    qi__json_put(sink, cp);
  } else if (cp < 0x800) {
    qi__json_put(sink, 0xC0 | cp >> 6);
    qi__json_put(sink, 0x80 | (cp & 63));
  } else {
    if (cp < 0x10000) {
      qi__json_put(sink, 0xE0 | cp >> 12);
    } else {
      qi__json_put(sink, 0xF0 | cp >> 18);
      qi__json_put(sink, 0x80 | (cp >> 12 & 63));
    }
    qi__json_put(sink, 0x80 | (cp >> 6 & 63));
    qi__json_put(sink, 0x80 | (cp & 63));
  }
}

// Four hexadecimal digits behind \u.
QI__FN uint32_t qi__json_hex(qi__json *j) {
  uint32_t v = 0;
  for (int i = 0; i < 4; i++) {
    int c = qi__json_look(j);
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) {
      qi__json_fail(j, QI_ERR_FORMAT, "four hexadecimal digits must follow \\u");
      return 0;
    }
    v = v << 4 | (uint32_t)digit;
    j->at++;
  }
  return v;
}

// What follows a backslash.
QI__FN void qi__json_escape(qi__json *j, qi__json_sink *sink) {
  static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
  int c = qi__json_look(j);
  const char *name = c > 0 ? strchr(names, c) : NULL;
  if (name) {
    j->at++;
    qi__json_put(sink, (unsigned char)bytes[name - names]);
    return;
  }
  if (c != 'u') {
    qi__json_fail(j, QI_ERR_FORMAT, "a backslash must be followed by one of \"\\/bfnrtu");
    return;
  }
  j->at++;
  uint32_t cp = qi__json_hex(j);
  if (cp >= 0xD800 && cp < 0xDC00) { // the other half must follow
    bool u = qi__json_look(j) == '\\' && (j->at++, qi__json_look(j) == 'u');
    if (u) j->at++;
    uint32_t low = u ? qi__json_hex(j) : 0;
    if (low < 0xDC00 || low >= 0xE000) {
      qi__json_fail(j, QI_ERR_FORMAT, "\\u%04x is half of a surrogate pair, the other half does not follow", (unsigned)cp);
      return;
    }
    cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
  } else if (cp >= 0xDC00 && cp < 0xE000) {
    qi__json_fail(j, QI_ERR_FORMAT, "\\u%04x is the second half of a surrogate pair, without the first", (unsigned)cp);
    return;
  }
  qi__json_put_char(sink, cp);
}

// One character of two to four bytes, in its shortest form, no surrogate, at most U+10FFFF (Unicode, table 3-7).
QI__FN void qi__json_utf8(qi__json *j, qi__json_sink *sink) {
  int lead = *j->at, n = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  int low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80, high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (lead < 0xC2 || lead > 0xF4) {
    qi__json_fail(j, QI_ERR_FORMAT, "byte 0x%02x begins no UTF-8 character", (unsigned)lead);
    return;
  }
  qi__json_put(sink, (unsigned)lead);
  j->at++;
  for (; n; n--, low = 0x80, high = 0xBF) {
    int c = qi__json_look(j);
    if (c < low || c > high) {
      qi__json_fail(j, QI_ERR_FORMAT, "a UTF-8 character that begins with 0x%02x is cut short or not allowed", (unsigned)lead);
      return;
    }
    qi__json_put(sink, (unsigned)c);
    j->at++;
  }
}

// The string whose quote is next. Fast where it matters: vocabularies are megabytes.
QI__FN void qi__json_read_string(qi__json *j, qi__json_sink *sink) {
  for (j->at++;;) {
    const uint8_t *p = j->at;
    while (p < j->stop && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\') p++;
    size_t n = (size_t)(p - j->at), room = sink->cap > sink->len ? sink->cap - sink->len : 0;
    if (n && room) memcpy(sink->out + sink->len, j->at, qi__min_size(n, room));
    sink->len += n;
    j->at = p;
    int c = qi__json_look(j);
    if (c == '"') {
      j->at++;
      return;
    }
    if (c < 0) qi__json_fail(j, QI_ERR_FORMAT, "the text ends inside a string");
    else if (c < 0x20) qi__json_fail(j, QI_ERR_FORMAT, "a string has a control character, 0x%02x", (unsigned)c);
    else if (c == '\\') j->at++, qi__json_escape(j, sink);
    else if (c >= 0x80) qi__json_utf8(j, sink);
    if (j->result) return;
  }
}

// A string, decoded: at most cap bytes to `out` (no terminator), its full length to *len, 0 on failure. out NULL with cap 0 skips.
QI__FN void qi__json_string(qi__json *j, char *out, size_t cap, size_t *len) {
  qi__json_sink sink = {out, cap, 0};
  if (qi__json_expect(j, QI__JSON_STRING)) qi__json_read_string(j, &sink);
  if (len) *len = j->result ? 0 : sink.len;
}

// The same, cut to cap - 1 bytes and terminated.
QI__FN void qi__json_text(qi__json *j, char *out, size_t cap) {
  size_t len;
  qi__json_string(j, out, cap - 1, &len);
  out[qi__min_size(len, cap - 1)] = 0;
}

// The string whose quote is at a place that was passed before. The walk cannot go on where it was.
QI__FN void qi__json_string_at(qi__json *j, uint64_t pos, char *out, size_t cap, size_t *len) {
  if (pos >= j->from_pos && pos - j->from_pos <= (uint64_t)(j->stop - j->from)) {
    j->at = j->from + (size_t)(pos - j->from_pos);
  } else { // only without map: forget the window
    j->from = j->at = j->stop = j->window;
    j->from_pos = pos;
  }
  qi__json_string(j, out, cap, len);
}

// ---- numbers ----

// Takes the characters of a number and checks their grammar: -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
QI__FN bool qi__json_number_text(qi__json *j, char text[QI__JSON_MAX_NUMBER + 1]) {
  size_t n = 0;
  int c;
  text[0] = 0;
  if (!qi__json_expect(j, QI__JSON_NUMBER)) return false;
  while ((c = qi__json_look(j)) == '-' || c == '+' || c == '.' || c == 'e' || c == 'E' || (c >= '0' && c <= '9')) {
    if (n == QI__JSON_MAX_NUMBER) {
      qi__json_fail(j, QI_ERR_LIMIT, "a number of more than %d characters", QI__JSON_MAX_NUMBER);
      return false;
    }
    text[n++] = (char)c;
    j->at++;
  }
  if (j->result) return false;
  text[n] = 0;
  const char *p = text + (text[0] == '-');
  size_t digits = strspn(p, "0123456789");
  bool ok = digits && (digits == 1 || *p != '0');
  p += digits;
  if (*p == '.') {
    digits = strspn(++p, "0123456789");
    ok = ok && digits;
    p += digits;
  }
  if (*p == 'e' || *p == 'E') {
    p++;
    p += *p == '+' || *p == '-';
    digits = strspn(p, "0123456789");
    ok = ok && digits;
    p += digits;
  }
  if (!ok || *p) qi__json_fail(j, QI_ERR_FORMAT, "'%s' is no number", qi__show(text, qi__min_size(n, 40)).s);
  return !j->result;
}

// v * 10^e. Powers up to 10^22 are exact in a double, so most numbers that people write come out right to the last bit.
QI__FN double qi__json_scale(double v, int e) {
  static const double small[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  for (; e > 22 && v < 1e300; e -= 22) v *= 1e22;
  for (; e < -22 && v > 0; e += 22) v /= 1e22;
  if (e > 22) return HUGE_VAL;
  if (e < -22) return 0;
  return e < 0 ? v / small[-e] : v * small[e];
}

// Value of a checked text; within two units of the last place. Not strtod: that one asks the locale for the point.
QI__FN double qi__json_value(const char *text) {
  uint64_t mantissa = 0;
  int exponent = 0, said = 0;
  bool negative = *text == '-', fraction = false;
  for (text += negative; *text && *text != 'e' && *text != 'E'; text++) {
    if (*text == '.') {
      fraction = true;
    } else if (mantissa < UINT64_MAX / 10 - 1) {
      mantissa = mantissa * 10 + (uint64_t)(*text - '0');
      exponent -= fraction;
    } else {
      exponent += !fraction;
    }
  }
  if (*text) {
    bool minus = text[1] == '-';
    for (text += 1 + (minus || text[1] == '+'); *text; text++)
      if (said < 100000) said = said * 10 + (*text - '0');
    exponent += minus ? -said : said;
  }
  double v = mantissa ? qi__json_scale((double)mantissa, exponent) : 0;
  return negative ? -v : v;
}

// A number that a double holds.
QI__FN void qi__json_number(qi__json *j, double *out) {
  char text[QI__JSON_MAX_NUMBER + 1];
  if (!qi__json_number_text(j, text)) return;
  double v = qi__json_value(text);
  if (v >= -DBL_MAX && v <= DBL_MAX) *out = v;
  else qi__json_fail(j, QI_ERR_FORMAT, "%s is beyond the range of numbers", qi__show(text, qi__min_size(strlen(text), 40)).s);
}

// A whole number from 0 to max, also written 4096.0 or 1e6.
QI__FN void qi__json_u64(qi__json *j, uint64_t max, uint64_t *out) {
  char text[QI__JSON_MAX_NUMBER + 1];
  if (!qi__json_number_text(j, text)) return;
  uint64_t v = 0;
  bool ok = true;
  if (text[strspn(text, "0123456789")]) {
    double d = qi__json_value(text);
    ok = d >= 0 && d <= 9007199254740992.0 && d == floor(d);
    if (ok) v = (uint64_t)d;
  } else {
    for (const char *p = text; *p && ok; p++) ok = qi__mul_u64(v, 10, &v) && qi__add_u64(v, (uint64_t)(*p - '0'), &v);
  }
  if (!ok || v > max)
    qi__json_fail(j, QI_ERR_FORMAT, "%s%sfound %s, expected a whole number from 0 to %llu", qi__show_text(j->key).s,
                  j->key_len ? ": " : "", qi__show(text, qi__min_size(strlen(text), 40)).s, (unsigned long long)max);
  else
    *out = v;
}

QI__FN void qi__json_u32(qi__json *j, uint32_t *out) {
  uint64_t v = *out;
  qi__json_u64(j, UINT32_MAX, &v);
  *out = (uint32_t)v;
}

// ---- words ----

QI__FN void qi__json_word(qi__json *j, const char *word) {
  for (const char *p = word; *p; p++, j->at++)
    if (qi__json_look(j) != *p) {
      qi__json_fail(j, QI_ERR_FORMAT, "a word that is not %s", word);
      return;
    }
}

QI__FN void qi__json_bool(qi__json *j, bool *out) {
  if (!qi__json_expect(j, QI__JSON_BOOL)) return;
  bool v = *j->at == 't';
  qi__json_word(j, v ? "true" : "false");
  if (!j->result) *out = v;
}

QI__FN void qi__json_null(qi__json *j) {
  if (qi__json_expect(j, QI__JSON_NULL)) qi__json_word(j, "null");
}

// ---- arrays and objects ----

// Opens the array or object that is next; false on failure.
QI__FN bool qi__json_enter(qi__json *j, qi__json_type type) {
  if (!qi__json_expect(j, type)) return false;
  if (j->depth == QI__JSON_MAX_DEPTH) {
    qi__json_fail(j, QI_ERR_LIMIT, "arrays and objects nest deeper than %d", QI__JSON_MAX_DEPTH);
    return false;
  }
  j->at++;
  uint64_t bit = (uint64_t)1 << j->depth++;
  j->objects = type == QI__JSON_OBJECT ? j->objects | bit : j->objects & ~bit;
  j->begun &= ~bit;
  return true;
}

// Steps to the next element of the value that is open, over the comma; false when it ends here (then it is closed) or on failure.
QI__FN bool qi__json_step(qi__json *j, char close) {
  if (j->result) return false;
  uint64_t bit = (uint64_t)1 << (j->depth - 1);
  bool begun = (j->begun & bit) != 0;
  int c = qi__json_look_solid(j);
  if (c == close) {
    j->at++;
    j->depth--;
    return false;
  }
  if (begun && c != ',') {
    j->key_len = 0;
    qi__json_unexpected(j, close == '}' ? "',' or '}'" : "',' or ']'");
    return false;
  }
  if (begun) j->at++;
  j->begun |= bit;
  return !j->result;
}

// Each element of an array: while (qi__json_next(&j)) read or skip one value.
QI__FN bool qi__json_next(qi__json *j) { return qi__json_step(j, ']'); }

// Each member of an object: the key goes to `key`, the value must be read or skipped.
QI__FN bool qi__json_next_key(qi__json *j) {
  if (!qi__json_step(j, '}')) return false;
  j->key_len = 0;
  if (qi__json_look_solid(j) != '"') {
    qi__json_unexpected(j, "a key");
    return false;
  }
  j->key_pos = qi__json_pos(j);
  qi__json_sink sink = {j->key, QI__JSON_MAX_KEY, 0};
  qi__json_read_string(j, &sink);
  j->key[qi__min_size(sink.len, QI__JSON_MAX_KEY)] = 0;
  if (!j->result && qi__json_look_solid(j) != ':') qi__json_unexpected(j, "':'");
  if (j->result) return false;
  j->at++;
  j->key_len = sink.len;
  return true;
}

QI__FN bool qi__json_key_is(const qi__json *j, const char *key) {
  size_t n = strlen(key);
  return n == j->key_len && n <= QI__JSON_MAX_KEY && !memcmp(j->key, key, n);
}

// Steps over one value, whatever it is. Clobbers `key`.
QI__FN void qi__json_skip(qi__json *j) {
  int floor_depth = j->depth;
  char text[QI__JSON_MAX_NUMBER + 1];
  bool flag;
  do {
    qi__json_type type = qi__json_peek(j);
    switch (type) {
    case QI__JSON_OBJECT: case QI__JSON_ARRAY: qi__json_enter(j, type); break;
    case QI__JSON_STRING: qi__json_string(j, NULL, 0, NULL); break;
    case QI__JSON_NUMBER: qi__json_number_text(j, text); break;
    case QI__JSON_BOOL: qi__json_bool(j, &flag); break;
    case QI__JSON_NULL: qi__json_null(j); break;
    case QI__JSON_NONE: qi__json_unexpected(j, "a value"); break;
    }
    while (!j->result && j->depth > floor_depth) // out of what ends here
      if (j->objects >> (j->depth - 1) & 1 ? qi__json_next_key(j) : qi__json_next(j)) break;
  } while (!j->result && j->depth > floor_depth);
}

// A null where another value may stand: true when there was one.
QI__FN bool qi__json_take_null(qi__json *j) {
  if (qi__json_peek(j) != QI__JSON_NULL) return false;
  qi__json_null(j);
  return true;
}

// Nothing but white space may be left.
QI__FN void qi__json_end(qi__json *j) {
  if (j->result) return;
  j->key_len = 0;
  if (qi__json_look_solid(j) >= 0) qi__json_unexpected(j, "the end");
}

#endif // QI__MODEL_JSON_H

// Models that are no GGUF files get their metadata translated to the keys of GGUF, in a block that the GGUF walk then reads: so
// nothing behind it knows of other containers. The same functions run twice, like a layout: first they only count.
typedef struct qi__meta_writer {
  uint8_t *out;       // NULL: count
  size_t used, cap;   // bytes; cap counts when `out` is there
  uint64_t n_metas, key_bytes; // keys with their terminators
  bool overflow;      // more than fits, or than was counted: the rest is dropped
} qi__meta_writer;

// Room for n bytes; NULL while counting, and when there is none.
QI__FN uint8_t *qi__meta_room(qi__meta_writer *w, size_t n) {
  size_t end;
  if (w->overflow || !qi__add_size(w->used, n, &end) || (w->out && end > w->cap)) {
    w->overflow = true;
    return NULL;
  }
  uint8_t *p = w->out ? w->out + w->used : NULL;
  w->used = end;
  return p;
}

QI__FN void qi__meta_bytes(qi__meta_writer *w, const void *src, size_t n) {
  uint8_t *p = qi__meta_room(w, n);
  if (p && n) memcpy(p, src, n);
}

QI__FN void qi__meta_u32(qi__meta_writer *w, uint32_t v) {
  uint8_t *p = qi__meta_room(w, 4);
  if (!p) return;
  qi__store_u16(p, (uint16_t)v);
  qi__store_u16(p + 2, (uint16_t)(v >> 16));
}
QI__FN void qi__meta_u64(qi__meta_writer *w, uint64_t v) {
  qi__meta_u32(w, (uint32_t)v);
  qi__meta_u32(w, (uint32_t)(v >> 32));
}

// Magic, version, no tensors, and how many entries follow.
QI__FN void qi__meta_header(qi__meta_writer *w, uint64_t n_metas) {
  qi__meta_bytes(w, "GGUF", 4);
  qi__meta_u32(w, 3);
  qi__meta_u64(w, 0);
  qi__meta_u64(w, n_metas);
}

QI__FN void qi__meta_text(qi__meta_writer *w, const char *s, size_t len) {
  qi__meta_u64(w, len);
  qi__meta_bytes(w, s, len);
}

// Key and type; the value must follow.
QI__FN void qi__meta_key(qi__meta_writer *w, const char *key, qi_meta_type type) {
  size_t len = strlen(key);
  w->n_metas++;
  w->key_bytes += len + 1;
  qi__meta_text(w, key, len);
  qi__meta_u32(w, (uint32_t)type);
}

QI__FN void qi__meta_put_u32(qi__meta_writer *w, const char *key, uint32_t v) {
  qi__meta_key(w, key, QI_META_U32);
  qi__meta_u32(w, v);
}
QI__FN void qi__meta_put_f32(qi__meta_writer *w, const char *key, double v) {
  qi__meta_key(w, key, QI_META_F32);
  qi__meta_u32(w, qi__f32_bits((float)v));
}
QI__FN void qi__meta_put_bool(qi__meta_writer *w, const char *key, bool v) {
  uint8_t byte = v;
  qi__meta_key(w, key, QI_META_BOOL);
  qi__meta_bytes(w, &byte, 1);
}
QI__FN void qi__meta_put_str(qi__meta_writer *w, const char *key, const char *s) {
  qi__meta_key(w, key, QI_META_STRING);
  qi__meta_text(w, s, strlen(s));
}

// Key, element type and count; the elements must follow.
QI__FN void qi__meta_put_array(qi__meta_writer *w, const char *key, qi_meta_type element, uint64_t n) {
  qi__meta_key(w, key, QI_META_ARRAY);
  qi__meta_u32(w, (uint32_t)element);
  qi__meta_u64(w, n);
}

// ---- texts that come from JSON ----

// Length of a text that is to be written behind it.
typedef struct qi__meta_open {
  uint8_t *length; // NULL while counting
  size_t begin;
} qi__meta_open;

QI__FN qi__meta_open qi__meta_text_begin(qi__meta_writer *w) {
  qi__meta_open o;
  o.length = qi__meta_room(w, 8);
  o.begin = w->used;
  return o;
}
QI__FN void qi__meta_text_end(qi__meta_writer *w, qi__meta_open o) {
  qi__meta_writer length = {o.length, 0, 8, 0, 0, false};
  if (o.length) qi__meta_u64(&length, w->used - o.begin);
}

// Appends the JSON string that is next, decoded, without its length.
QI__FN void qi__meta_json_bytes(qi__meta_writer *w, qi__json *j) {
  size_t len = 0, room = w->out && !w->overflow ? w->cap - w->used : 0;
  qi__json_string(j, w->out ? (char *)w->out + w->used : NULL, room, &len);
  qi__meta_room(w, len);
}
// The same with its length.
QI__FN void qi__meta_json_text(qi__meta_writer *w, qi__json *j) {
  qi__meta_open o = qi__meta_text_begin(w);
  qi__meta_json_bytes(w, j);
  qi__meta_text_end(w, o);
}

#endif // QI__MODEL_META_WRITE_H

// config.json says what GGUF says in metadata, under other names and with defaults that depend on the model. What is translated
// here ends up under GGUF's keys; what would change the result and is not known is refused.

#define QI__HF_ABSENT UINT32_MAX  // of numbers
#define QI__HF_MAX_IDS 32
#define QI__HF_MAX_FACTORS 2048   // half of the widest head

typedef struct qi__hf_ids {
  uint32_t id[QI__HF_MAX_IDS];
  uint32_t n;
} qi__hf_ids;

// Frequency factors of long contexts.
typedef struct qi__hf_factors {
  uint32_t n;
  uint8_t *out; // float32 [n] to fill in; NULL: count
} qi__hf_factors;

typedef struct qi__hf_config {
  char model_type[32], hidden_act[32];
  uint32_t n_embd, n_layers, n_heads, n_kv_heads, head_dim, n_ff, n_ctx, n_vocab, n_ctx_orig, window, max_window_layers;
  double rms_norm_eps, rope_theta, partial_rotary; // negative: absent
  int use_window, tied;                            // -1: absent
  qi__hf_ids bos, eos, pad;
  char quant_method[32], linear_class[32], quant_mode[32];
  char rope_type[32];
  double rope_factor, low_factor, high_factor, beta_fast, beta_slow, attn_factor;
  uint32_t rope_n_ctx_orig;
  qi__hf_factors short_factor, long_factor;
} qi__hf_config;

// ---- reading ----

typedef enum qi__hf_kind {
  QI__HF_SIZE, QI__HF_REAL, QI__HF_FLAG, QI__HF_TEXT, QI__HF_IDS, QI__HF_FACTORS, QI__HF_OBJECT
} qi__hf_kind;

// A key and the member of qi__hf_config that it fills. null stands for an absent key.
typedef struct qi__hf_field {
  const char *key;
  qi__hf_kind kind;
  size_t at;
} qi__hf_field;

#define QI__AT(member) offsetof(qi__hf_config, member)
static const qi__hf_field qi__hf_fields[] = {
    {"model_type", QI__HF_TEXT, QI__AT(model_type)},
    {"hidden_act", QI__HF_TEXT, QI__AT(hidden_act)},
    {"hidden_size", QI__HF_SIZE, QI__AT(n_embd)},
    {"num_hidden_layers", QI__HF_SIZE, QI__AT(n_layers)},
    {"num_attention_heads", QI__HF_SIZE, QI__AT(n_heads)},
    {"num_key_value_heads", QI__HF_SIZE, QI__AT(n_kv_heads)},
    {"head_dim", QI__HF_SIZE, QI__AT(head_dim)},
    {"intermediate_size", QI__HF_SIZE, QI__AT(n_ff)},
    {"max_position_embeddings", QI__HF_SIZE, QI__AT(n_ctx)},
    {"original_max_position_embeddings", QI__HF_SIZE, QI__AT(n_ctx_orig)},
    {"vocab_size", QI__HF_SIZE, QI__AT(n_vocab)},
    {"sliding_window", QI__HF_SIZE, QI__AT(window)},
    {"use_sliding_window", QI__HF_FLAG, QI__AT(use_window)},
    {"max_window_layers", QI__HF_SIZE, QI__AT(max_window_layers)},
    {"rms_norm_eps", QI__HF_REAL, QI__AT(rms_norm_eps)},
    {"rope_theta", QI__HF_REAL, QI__AT(rope_theta)},
    {"partial_rotary_factor", QI__HF_REAL, QI__AT(partial_rotary)},
    {"tie_word_embeddings", QI__HF_FLAG, QI__AT(tied)},
    {"bos_token_id", QI__HF_IDS, QI__AT(bos)},
    {"eos_token_id", QI__HF_IDS, QI__AT(eos)},
    {"pad_token_id", QI__HF_IDS, QI__AT(pad)},
    {"rope_scaling", QI__HF_OBJECT, 0},
    {"rope_parameters", QI__HF_OBJECT, 0},
    {"quantization_config", QI__HF_OBJECT, 1},
};
static const qi__hf_field qi__hf_rope_fields[] = {
    {"type", QI__HF_TEXT, QI__AT(rope_type)}, // of old files; rope_type is the same
    {"rope_type", QI__HF_TEXT, QI__AT(rope_type)},
    {"factor", QI__HF_REAL, QI__AT(rope_factor)},
    {"low_freq_factor", QI__HF_REAL, QI__AT(low_factor)},
    {"high_freq_factor", QI__HF_REAL, QI__AT(high_factor)},
    {"beta_fast", QI__HF_REAL, QI__AT(beta_fast)},
    {"beta_slow", QI__HF_REAL, QI__AT(beta_slow)},
    {"attention_factor", QI__HF_REAL, QI__AT(attn_factor)},
    {"original_max_position_embeddings", QI__HF_SIZE, QI__AT(rope_n_ctx_orig)},
    {"rope_theta", QI__HF_REAL, QI__AT(rope_theta)},
    {"partial_rotary_factor", QI__HF_REAL, QI__AT(partial_rotary)},
    {"short_factor", QI__HF_FACTORS, QI__AT(short_factor)},
    {"long_factor", QI__HF_FACTORS, QI__AT(long_factor)},
};
static const qi__hf_field qi__hf_quant_fields[] = {
    {"quant_method", QI__HF_TEXT, QI__AT(quant_method)},
    {"linear_class", QI__HF_TEXT, QI__AT(linear_class)},
    {"quantization_mode", QI__HF_TEXT, QI__AT(quant_mode)},
};
#undef QI__AT

// One id, or an array of them.
QI__FN void qi__hf_read_ids(qi__json *j, qi__hf_ids *ids) {
  bool array = qi__json_peek(j) == QI__JSON_ARRAY;
  ids->n = 0;
  if (array) qi__json_enter(j, QI__JSON_ARRAY);
  while (array ? qi__json_next(j) : !ids->n && !j->result) {
    double id = 0;
    qi__json_number(j, &id);
    if (ids->n == QI__HF_MAX_IDS) qi__json_fail(j, QI_ERR_LIMIT, "more than %d ids", QI__HF_MAX_IDS);
    if (j->result) return;
    bool none = !(id >= 0 && id < QI__HF_ABSENT); // files write -1 for none
    if (!none) ids->id[ids->n++] = (uint32_t)id;
    if (none && !array) return;
  }
}

QI__FN void qi__hf_read_factors(qi__json *j, qi__hf_factors *f) {
  uint32_t max = f->out ? f->n : QI__HF_MAX_FACTORS;
  f->n = 0;
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) {
    double v = 0;
    qi__json_number(j, &v);
    if (f->n == max) qi__json_fail(j, QI_ERR_LIMIT, "more than %u factors", max);
    if (j->result) return;
    uint32_t bits = qi__f32_bits((float)(v > (double)FLT_MAX ? 0 : v < -(double)FLT_MAX ? 0 : v)); // 0 is refused later
    for (int k = 0; f->out && k < 4; k++) f->out[4 * f->n + (uint32_t)k] = (uint8_t)(bits >> (8 * k));
    f->n++;
  }
}

// The value of one known key.
QI__FN void qi__hf_read_value(qi__json *j, const qi__hf_field *field, char *base) {
  void *at = base + field->at;
  bool flag = false;
  if (qi__json_take_null(j)) return;
  switch (field->kind) {
  case QI__HF_SIZE: qi__json_u32(j, (uint32_t *)at); break;
  case QI__HF_REAL: qi__json_number(j, (double *)at); break;
  case QI__HF_FLAG:
    qi__json_bool(j, &flag);
    *(int *)at = flag;
    break;
  case QI__HF_TEXT: qi__json_text(j, (char *)at, 32); break;
  case QI__HF_IDS: qi__hf_read_ids(j, (qi__hf_ids *)at); break;
  case QI__HF_FACTORS: qi__hf_read_factors(j, (qi__hf_factors *)at); break;
  case QI__HF_OBJECT: break; // the caller's
  }
}

// The object that is next; keys that are not in the list are skipped.
QI__FN void qi__hf_read_object(qi__json *j, const qi__hf_field *fields, size_t n, qi__hf_config *c) {
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    const qi__hf_field *field = NULL;
    for (size_t i = 0; i < n && !field; i++)
      if (qi__json_key_is(j, fields[i].key)) field = &fields[i];
    if (!field) qi__json_skip(j);
    else if (field->kind != QI__HF_OBJECT) qi__hf_read_value(j, field, (char *)c);
    else if (!qi__json_take_null(j)) {
      if (field->at) qi__hf_read_object(j, qi__hf_quant_fields, QI__COUNT_OF(qi__hf_quant_fields), c);
      else qi__hf_read_object(j, qi__hf_rope_fields, QI__COUNT_OF(qi__hf_rope_fields), c);
    }
  }
}

// Everything absent; outputs of factors stay.
QI__FN void qi__hf_config_init(qi__hf_config *c) {
  memset(c, 0, sizeof *c);
  c->n_embd = c->n_layers = c->n_heads = c->n_kv_heads = c->head_dim = c->n_ff = c->n_ctx = c->n_vocab = QI__HF_ABSENT;
  c->n_ctx_orig = c->window = c->max_window_layers = c->rope_n_ctx_orig = QI__HF_ABSENT;
  c->rms_norm_eps = c->rope_theta = c->partial_rotary = -1;
  c->rope_factor = c->low_factor = c->high_factor = c->beta_fast = c->beta_slow = c->attn_factor = -1;
  c->use_window = c->tied = -1;
}

// Reads an open config.json, or generation_config.json, over what `c` holds. Errors: those of JSON.
QI__FN qi_result qi__hf_config_read(qi__hf_config *c, const qi__file *f, qi_error *err) {
  qi__json j;
  qi__json_init(&j, f, 0, f->size, err);
  qi__hf_read_object(&j, qi__hf_fields, QI__COUNT_OF(qi__hf_fields), c);
  qi__json_end(&j);
  return j.result;
}

// ---- facts ----

QI__INLINE bool qi__hf_is(const char *text, const char *name) { return !strcmp(text, name); }

QI__FN bool qi__hf_has_silu(const qi__hf_config *c) { return qi__hf_is(c->hidden_act, "silu") || qi__hf_is(c->hidden_act, "swish");
    }

QI__FN const char *qi__hf_architecture(const qi__hf_config *c) {
  if (qi__hf_is(c->model_type, "mistral")) return "llama";
  if (qi__hf_is(c->model_type, "bitnet")) return qi__hf_has_silu(c) ? "bitnet" : "bitnet-b1.58";
  return c->model_type;
}

// Values that the library of these models takes where the file does not say.
QI__FN double qi__hf_rms_norm_eps(const qi__hf_config *c) {
  bool larger = qi__hf_is(c->model_type, "phi3") || qi__hf_is(c->model_type, "bitnet");
  return c->rms_norm_eps >= 0 ? c->rms_norm_eps : larger ? 1e-5 : 1e-6;
}
QI__FN double qi__hf_rope_theta(const qi__hf_config *c) {
  return c->rope_theta > 0 ? c->rope_theta : qi__hf_is(c->model_type, "bitnet") ? 500000 : 10000;
}

QI__FN uint32_t qi__hf_head_dim(const qi__hf_config *c) {
  if (c->head_dim != QI__HF_ABSENT) return c->head_dim;
  return c->n_embd != QI__HF_ABSENT && c->n_heads != QI__HF_ABSENT && c->n_heads ? c->n_embd / c->n_heads : 0;
}

// Elements of a head that are rotated; 0 when the file does not say enough.
QI__FN uint32_t qi__hf_n_rot(const qi__hf_config *c) {
  double part = c->partial_rotary;
  return part > 0 && part < 1 ? (uint32_t)(qi__hf_head_dim(c) * part) : qi__hf_head_dim(c);
}

QI__FN bool qi__hf_is_longrope(const qi__hf_config *c) { return qi__hf_is(c->rope_type, "longrope") || qi__hf_is(c->rope_type,
    "su"); }

QI__FN uint32_t qi__hf_n_ctx_orig(const qi__hf_config *c) {
  if (c->rope_n_ctx_orig != QI__HF_ABSENT) return c->rope_n_ctx_orig;
  return c->n_ctx_orig != QI__HF_ABSENT ? c->n_ctx_orig : c->n_ctx;
}

// Packed ternary weights; their scale multiplies the weights, or divides them (the older class of layers).
QI__FN bool qi__hf_is_ternary(const qi__hf_config *c) { return qi__hf_is(c->quant_method, "bitnet"); }
QI__FN bool qi__hf_scale_divides(const qi__hf_config *c) { return !qi__hf_is(c->linear_class, "autobitlinear"); }

// Window of attention, the same for all layers; 0 = none. QI__HF_ABSENT: some layers have one, some have none.
QI__FN uint32_t qi__hf_window(const qi__hf_config *c) {
  bool qwen = qi__hf_is(c->model_type, "qwen2") || qi__hf_is(c->model_type, "qwen3");
  bool known = qwen || qi__hf_is(c->model_type, "mistral") || qi__hf_is(c->model_type, "phi3");
  if (!known || c->window == QI__HF_ABSENT || c->use_window == 0 || (qwen && c->use_window != 1)) return 0;
  if (!qwen || c->max_window_layers == 0) return c->window;
  return c->max_window_layers == QI__HF_ABSENT || c->max_window_layers < c->n_layers ? QI__HF_ABSENT : 0; // from that layer on
}

// Refuses what would give other results. Only for weights that shall be used.
QI__FN qi_result qi__hf_config_check(const qi__hf_config *c, qi_error *err) {
  static const char *const rope_types[] = {"", "default", "linear", "llama3", "yarn", "longrope", "su"};
  bool bitnet = qi__hf_is(c->model_type, "bitnet"), known = false;
  if (!c->model_type[0]) return qi__fail(err, QI_ERR_FORMAT, "model_type: missing");
  if (c->hidden_act[0] && !qi__hf_has_silu(c) && !(bitnet && qi__hf_is(c->hidden_act, "relu2")))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "hidden_act: '%s' is not supported for %s", qi__show_text(c->hidden_act).s,
                    qi__show_text(c->model_type).s);
  if (c->quant_method[0] && !qi__hf_is_ternary(c))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "quantization_config: method '%s' is not supported; known is bitnet",
                    qi__show_text(c->quant_method).s);
  if (qi__hf_is_ternary(c) && qi__hf_is(c->quant_mode, "online"))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "quantization_config: weights that are still to be quantised (mode 'online') are not "
                    "supported; expected 'offline'");
  for (size_t i = 0; i < QI__COUNT_OF(rope_types); i++) known = known || qi__hf_is(c->rope_type, rope_types[i]);
  if (!known)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "rope_scaling: type '%s' is not supported; known are linear, llama3, yarn, longrope",
                    qi__show_text(c->rope_type).s);
  if (qi__hf_is(c->rope_type, "yarn") && ((c->beta_fast >= 0 && c->beta_fast != 32) || (c->beta_slow >= 0 && c->beta_slow != 1)))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "rope_scaling: beta_fast %g, beta_slow %g are not supported; known are 32 and 1",
                    c->beta_fast, c->beta_slow);
  if (qi__hf_window(c) == QI__HF_ABSENT)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "sliding_window: a window for some layers only (max_window_layers) is not supported");
  if (qi__hf_is_longrope(c) && (c->short_factor.n != qi__hf_n_rot(c) / 2 || c->long_factor.n != qi__hf_n_rot(c) / 2))
    return qi__fail(err, QI_ERR_FORMAT, "rope_scaling: %u short and %u long factors, expected %u", c->short_factor.n,
                    c->long_factor.n, qi__hf_n_rot(c) / 2);
  if (qi__hf_is(c->rope_type, "llama3") &&
      !(c->rope_factor > 0 && c->low_factor > 0 && c->high_factor > c->low_factor && qi__hf_n_ctx_orig(c) != QI__HF_ABSENT))
    return qi__fail(err, QI_ERR_FORMAT, "rope_scaling: llama3 needs factor, low_freq_factor below high_freq_factor, and "
                    "original_max_position_embeddings");
  return QI_OK;
}

// ---- rotary factors ----

// Number of each of the factor tensors that stand in for rope_scaling: 0 = none.
QI__FN uint32_t qi__hf_n_factors(const qi__hf_config *c) {
  bool needed = qi__hf_is(c->rope_type, "llama3") || qi__hf_is_longrope(c);
  return needed && qi__hf_n_rot(c) / 2 <= QI__HF_MAX_FACTORS ? qi__hf_n_rot(c) / 2 : 0;
}

// What Llama 3 divides frequency i by (its published code): long waves by `factor`, short ones by 1, those between by a blend.
QI__FN float qi__hf_llama3_factor(const qi__hf_config *c, uint32_t i) {
  const double two_pi = 6.283185307179586;
  double n_ctx = qi__hf_n_ctx_orig(c), wave = two_pi * qi__pow(qi__hf_rope_theta(c), 2.0 * i / qi__hf_n_rot(c));
  if (wave < n_ctx / c->high_factor) return 1;
  if (wave > n_ctx / c->low_factor) return (float)c->rope_factor;
  double smooth = (n_ctx / wave - c->low_factor) / (c->high_factor - c->low_factor);
  return (float)(1 / ((1 - smooth) / c->rope_factor + smooth));
}

// What longrope multiplies cos and sin with.
QI__FN double qi__hf_longrope_attn_factor(const qi__hf_config *c) {
  double n_orig = qi__hf_n_ctx_orig(c), scale = c->rope_factor > 0 ? c->rope_factor : (double)c->n_ctx / n_orig;
  if (c->attn_factor >= 0) return c->attn_factor;
  return scale > 1 && n_orig > 1 ? sqrt(1 + qi__ln(scale) / qi__ln(n_orig)) : 1;
}

// ---- metadata ----

// Key "<arch>.<suffix>"; absent numbers are not written.
QI__FN void qi__hf_put_size(qi__meta_writer *w, const qi__hf_config *c, const char *suffix, uint32_t v) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", qi__hf_architecture(c), suffix);
  if (v != QI__HF_ABSENT) qi__meta_put_u32(w, key, v);
}
QI__FN void qi__hf_put_real(qi__meta_writer *w, const qi__hf_config *c, const char *suffix, double v) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", qi__hf_architecture(c), suffix);
  if (v >= 0 && v <= (double)FLT_MAX) qi__meta_put_f32(w, key, v);
}
QI__FN void qi__hf_put_text(qi__meta_writer *w, const qi__hf_config *c, const char *suffix, const char *s) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", qi__hf_architecture(c), suffix);
  qi__meta_put_str(w, key, s);
}

QI__FN void qi__hf_write_rope(qi__meta_writer *w, const qi__hf_config *c) {
  qi__hf_put_real(w, c, "rope.freq_base", qi__hf_rope_theta(c));
  if (qi__hf_n_rot(c)) qi__hf_put_size(w, c, "rope.dimension_count", qi__hf_n_rot(c));
  bool linear = qi__hf_is(c->rope_type, "linear"), yarn = qi__hf_is(c->rope_type, "yarn");
  if (linear || yarn) {
    qi__hf_put_text(w, c, "rope.scaling.type", c->rope_type);
    qi__hf_put_real(w, c, "rope.scaling.factor", c->rope_factor);
  }
  if (yarn) { // GGUF's factor is in addition to the usual one
    qi__hf_put_size(w, c, "rope.scaling.original_context_length", qi__hf_n_ctx_orig(c));
    if (c->attn_factor >= 0 && c->rope_factor >= 1)
      qi__hf_put_real(w, c, "rope.scaling.attn_factor", c->attn_factor / (1 + 0.1 * qi__ln(c->rope_factor)));
  }
  if (qi__hf_is_longrope(c)) {
    qi__hf_put_text(w, c, "rope.scaling.type", "longrope");
    qi__hf_put_size(w, c, "rope.scaling.original_context_length", qi__hf_n_ctx_orig(c));
    qi__hf_put_real(w, c, "rope.scaling.attn_factor", qi__hf_longrope_attn_factor(c));
  }
}

// GGUF's keys for a config. `name` is the model's, for people.
QI__FN void qi__hf_write_config(qi__meta_writer *w, const qi__hf_config *c, const char *name) {
  qi__meta_put_str(w, "general.architecture", qi__hf_architecture(c));
  qi__meta_put_str(w, "general.name", name);
  qi__hf_put_size(w, c, "block_count", c->n_layers);
  qi__hf_put_size(w, c, "context_length", c->n_ctx);
  qi__hf_put_size(w, c, "embedding_length", c->n_embd);
  qi__hf_put_size(w, c, "feed_forward_length", c->n_ff);
  qi__hf_put_size(w, c, "attention.head_count", c->n_heads);
  qi__hf_put_size(w, c, "attention.head_count_kv", c->n_kv_heads);
  if (c->head_dim != QI__HF_ABSENT) {
    qi__hf_put_size(w, c, "attention.key_length", c->head_dim);
    qi__hf_put_size(w, c, "attention.value_length", c->head_dim);
  }
  qi__hf_put_real(w, c, "attention.layer_norm_rms_epsilon", qi__hf_rms_norm_eps(c));
  uint32_t window = qi__hf_window(c);
  if (window) qi__hf_put_size(w, c, "attention.sliding_window", window);
  qi__hf_write_rope(w, c);
  // GGUF's llama has the rows of q and k in another order, so that rotary pairs are neighbours.
  if (qi__hf_is(qi__hf_architecture(c), "llama")) qi__meta_put_bool(w, QI__KEY_ROPE_HALVES, true);
}

// ---- names of tensors ----

// The name in GGUF of tensor `name`: a copy of the same when there is none. `out` has QI__GGUF_MAX_NAME + 1 bytes. A tied
// lm_head.weight keeps its name: nothing shall use it.
QI__FN void qi__hf_tensor_name(const qi__hf_config *c, const char *name, char *out) {
  static const char *const whole[][2] = {
      {"embed_tokens.weight", "token_embd.weight"}, {"embed_tokens.weight_scale", "token_embd.weight_scale"},
      {"lm_head.weight", "output.weight"},          {"lm_head.weight_scale", "output.weight_scale"},
      {"norm.weight", "output_norm.weight"}};
  static const char *const layer[][2] = {
      {"input_layernorm", "attn_norm"},          {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},            {"self_attn.v_proj", "attn_v"},
      {"self_attn.qkv_proj", "attn_qkv"},        {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},       {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.attn_sub_norm", "attn_sub_norm"}, {"self_attn.inner_attn_ln", "attn_sub_norm"},
      {"post_attention_layernorm", "ffn_norm"},  {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},                 {"mlp.gate_up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},             {"mlp.ffn_sub_norm", "ffn_sub_norm"},
      {"mlp.ffn_layernorm", "ffn_sub_norm"}};
  snprintf(out, QI__GGUF_MAX_NAME + 1, "%s", name);
  const char *s = strncmp(name, "model.", 6) ? name : name + 6;
  if (c->tied == 1 && qi__hf_is(s, "lm_head.weight")) return;
  for (size_t i = 0; i < QI__COUNT_OF(whole); i++)
    if (qi__hf_is(s, whole[i][0])) snprintf(out, QI__GGUF_MAX_NAME + 1, "%s", whole[i][1]);
  if (strncmp(s, "layers.", 7)) return;
  const char *number = s + 7, *rest = number + strspn(number, "0123456789");
  size_t digits = (size_t)(rest - number);
  if (!digits || digits > 6 || *rest != '.') return;
  for (size_t i = 0; i < QI__COUNT_OF(layer); i++) {
    size_t n = strlen(layer[i][0]);
    const char *end = rest + 1 + n;
    if (strncmp(rest + 1, layer[i][0], n) || *end != '.') continue;
    if (!qi__hf_is(end, ".weight") && !qi__hf_is(end, ".bias") && !qi__hf_is(end, ".weight_scale")) continue;
    snprintf(out, QI__GGUF_MAX_NAME + 1, "blk.%.*s.%s%s", (int)digits, number, layer[i][1], end);
  }
}

#endif // QI__MODEL_HF_CONFIG_H
// generated from src/model/vocab.h: edit there
// ==== >>vocab : the tokens of a model ====
#ifndef QI__VOCAB_H
#define QI__VOCAB_H

// generated from src/model/pretokenize.h: edit there
// ==== >>pretokenize : splitting text into words before byte-pair encoding ====
#ifndef QI__PRETOKENIZE_H
#define QI__PRETOKENIZE_H

// generated from src/model/unicode.h: edit there
// ==== >>unicode : UTF-8 and character classes ====
#ifndef QI__UNICODE_H
#define QI__UNICODE_H

// generated from src/model/unicode_data.h: edit there
// ==== >>unicode_data : character classes of Unicode 14.0.0 ====
// Generated by tools/unicode_tables.py: do not edit.
#ifndef QI__UNICODE_DATA_H
#define QI__UNICODE_DATA_H


// Class bits (see unicode.h) of each ASCII character.
static const uint8_t qi__ascii_classes[128] = {
  0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 32,
  32, 32, 32, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32,
  4, 4, 4, 8, 4, 4, 4, 4, 4, 4, 8,
  4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2,
  2, 2, 2, 4, 4, 8, 8, 8, 4, 4, 1,
  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
  1, 1, 1, 4, 4, 4, 8, 4, 8, 1, 1,
  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
  1, 1, 4, 8, 4, 8, 0,
};

// Runs of code points of one class from 0x80 on, ascending: first code point << 8 | class bits.
static const uint32_t qi__unicode_runs[2194] = {
  0x8000, 0x8520, 0x8600, 0xA020, 0xA104, 0xA208, 0xA704, 0xA808, 0xAA01, 0xAB04, 0xAC08,
  0xAD00, 0xAE08, 0xB202, 0xB408, 0xB501, 0xB604, 0xB808, 0xB902, 0xBA01, 0xBB04, 0xBC02,
  0xBF04, 0xC001, 0xD708, 0xD801, 0xF708, 0xF801, 0x2C208, 0x2C601, 0x2D208, 0x2E001, 0x2E508,
  0x2EC01, 0x2ED08, 0x2EE01, 0x2EF08, 0x30010, 0x37001, 0x37508, 0x37601, 0x37800, 0x37A01, 0x37E04,
  0x37F01, 0x38000, 0x38408, 0x38601, 0x38704, 0x38801, 0x38B00, 0x38C01, 0x38D00, 0x38E01, 0x3A200,
  0x3A301, 0x3F608, 0x3F701, 0x48208, 0x48310, 0x48A01, 0x53000, 0x53101, 0x55700, 0x55901, 0x55A04,
  0x56001, 0x58904, 0x58B00, 0x58D08, 0x59000, 0x59110, 0x5BE04, 0x5BF10, 0x5C004, 0x5C110, 0x5C304,
  0x5C410, 0x5C604, 0x5C710, 0x5C800, 0x5D001, 0x5EB00, 0x5EF01, 0x5F304, 0x5F500, 0x60608, 0x60904,
  0x60B08, 0x60C04, 0x60E08, 0x61010, 0x61B04, 0x61C00, 0x61D04, 0x62001, 0x64B10, 0x66002, 0x66A04,
  0x66E01, 0x67010, 0x67101, 0x6D404, 0x6D501, 0x6D610, 0x6DD00, 0x6DE08, 0x6DF10, 0x6E501, 0x6E710,
  0x6E908, 0x6EA10, 0x6EE01, 0x6F002, 0x6FA01, 0x6FD08, 0x6FF01, 0x70004, 0x70E00, 0x71001, 0x71110,
  0x71201, 0x73010, 0x74B00, 0x74D01, 0x7A610, 0x7B101, 0x7B200, 0x7C002, 0x7CA01, 0x7EB10, 0x7F401,
  0x7F608, 0x7F704, 0x7FA01, 0x7FB00, 0x7FD10, 0x7FE08, 0x80001, 0x81610, 0x81A01, 0x81B10, 0x82401,
  0x82510, 0x82801, 0x82910, 0x82E00, 0x83004, 0x83F00, 0x84001, 0x85910, 0x85C00, 0x85E04, 0x85F00,
  0x86001, 0x86B00, 0x87001, 0x88808, 0x88901, 0x88F00, 0x89810, 0x8A001, 0x8CA10, 0x8E200, 0x8E310,
  0x90401, 0x93A10, 0x93D01, 0x93E10, 0x95001, 0x95110, 0x95801, 0x96210, 0x96404, 0x96602, 0x97004,
  0x97101, 0x98110, 0x98400, 0x98501, 0x98D00, 0x98F01, 0x99100, 0x99301, 0x9A900, 0x9AA01, 0x9B100,
  0x9B201, 0x9B300, 0x9B601, 0x9BA00, 0x9BC10, 0x9BD01, 0x9BE10, 0x9C500, 0x9C710, 0x9C900, 0x9CB10,
  0x9CE01, 0x9CF00, 0x9D710, 0x9D800, 0x9DC01, 0x9DE00, 0x9DF01, 0x9E210, 0x9E400, 0x9E602, 0x9F001,
  0x9F208, 0x9F402, 0x9FA08, 0x9FC01, 0x9FD04, 0x9FE10, 0x9FF00, 0xA0110, 0xA0400, 0xA0501, 0xA0B00,
  0xA0F01, 0xA1100, 0xA1301, 0xA2900, 0xA2A01, 0xA3100, 0xA3201, 0xA3400, 0xA3501, 0xA3700, 0xA3801,
  0xA3A00, 0xA3C10, 0xA3D00, 0xA3E10, 0xA4300, 0xA4710, 0xA4900, 0xA4B10, 0xA4E00, 0xA5110, 0xA5200,
  0xA5901, 0xA5D00, 0xA5E01, 0xA5F00, 0xA6602, 0xA7010, 0xA7201, 0xA7510, 0xA7604, 0xA7700, 0xA8110,
  0xA8400, 0xA8501, 0xA8E00, 0xA8F01, 0xA9200, 0xA9301, 0xAA900, 0xAAA01, 0xAB100, 0xAB201, 0xAB400,
  0xAB501, 0xABA00, 0xABC10, 0xABD01, 0xABE10, 0xAC600, 0xAC710, 0xACA00, 0xACB10, 0xACE00, 0xAD001,
  0xAD100, 0xAE001, 0xAE210, 0xAE400, 0xAE602, 0xAF004, 0xAF108, 0xAF200, 0xAF901, 0xAFA10, 0xB0000,
  0xB0110, 0xB0400, 0xB0501, 0xB0D00, 0xB0F01, 0xB1100, 0xB1301, 0xB2900, 0xB2A01, 0xB3100, 0xB3201,
  0xB3400, 0xB3501, 0xB3A00, 0xB3C10, 0xB3D01, 0xB3E10, 0xB4500, 0xB4710, 0xB4900, 0xB4B10, 0xB4E00,
  0xB5510, 0xB5800, 0xB5C01, 0xB5E00, 0xB5F01, 0xB6210, 0xB6400, 0xB6602, 0xB7008, 0xB7101, 0xB7202,
  0xB7800, 0xB8210, 0xB8301, 0xB8400, 0xB8501, 0xB8B00, 0xB8E01, 0xB9100, 0xB9201, 0xB9600, 0xB9901,
  0xB9B00, 0xB9C01, 0xB9D00, 0xB9E01, 0xBA000, 0xBA301, 0xBA500, 0xBA801, 0xBAB00, 0xBAE01, 0xBBA00,
  0xBBE10, 0xBC300, 0xBC610, 0xBC900, 0xBCA10, 0xBCE00, 0xBD001, 0xBD100, 0xBD710, 0xBD800, 0xBE602,
  0xBF308, 0xBFB00, 0xC0010, 0xC0501, 0xC0D00, 0xC0E01, 0xC1100, 0xC1201, 0xC2900, 0xC2A01, 0xC3A00,
  0xC3C10, 0xC3D01, 0xC3E10, 0xC4500, 0xC4610, 0xC4900, 0xC4A10, 0xC4E00, 0xC5510, 0xC5700, 0xC5801,
  0xC5B00, 0xC5D01, 0xC5E00, 0xC6001, 0xC6210, 0xC6400, 0xC6602, 0xC7000, 0xC7704, 0xC7802, 0xC7F08,
  0xC8001, 0xC8110, 0xC8404, 0xC8501, 0xC8D00, 0xC8E01, 0xC9100, 0xC9201, 0xCA900, 0xCAA01, 0xCB400,
  0xCB501, 0xCBA00, 0xCBC10, 0xCBD01, 0xCBE10, 0xCC500, 0xCC610, 0xCC900, 0xCCA10, 0xCCE00, 0xCD510,
  0xCD700, 0xCDD01, 0xCDF00, 0xCE001, 0xCE210, 0xCE400, 0xCE602, 0xCF000, 0xCF101, 0xCF300, 0xD0010,
  0xD0401, 0xD0D00, 0xD0E01, 0xD1100, 0xD1201, 0xD3B10, 0xD3D01, 0xD3E10, 0xD4500, 0xD4610, 0xD4900,
  0xD4A10, 0xD4E01, 0xD4F08, 0xD5000, 0xD5401, 0xD5710, 0xD5802, 0xD5F01, 0xD6210, 0xD6400, 0xD6602,
  0xD7908, 0xD7A01, 0xD8000, 0xD8110, 0xD8400, 0xD8501, 0xD9700, 0xD9A01, 0xDB200, 0xDB301, 0xDBC00,
  0xDBD01, 0xDBE00, 0xDC001, 0xDC700, 0xDCA10, 0xDCB00, 0xDCF10, 0xDD500, 0xDD610, 0xDD700, 0xDD810,
  0xDE000, 0xDE602, 0xDF000, 0xDF210, 0xDF404, 0xDF500, 0xE0101, 0xE3110, 0xE3201, 0xE3410, 0xE3B00,
  0xE3F08, 0xE4001, 0xE4710, 0xE4F04, 0xE5002, 0xE5A04, 0xE5C00, 0xE8101, 0xE8300, 0xE8401, 0xE8500,
  0xE8601, 0xE8B00, 0xE8C01, 0xEA400, 0xEA501, 0xEA600, 0xEA701, 0xEB110, 0xEB201, 0xEB410, 0xEBD01,
  0xEBE00, 0xEC001, 0xEC500, 0xEC601, 0xEC700, 0xEC810, 0xECE00, 0xED002, 0xEDA00, 0xEDC01, 0xEE000,
  0xF0001, 0xF0108, 0xF0404, 0xF1308, 0xF1404, 0xF1508, 0xF1810, 0xF1A08, 0xF2002, 0xF3408, 0xF3510,
  0xF3608, 0xF3710, 0xF3808, 0xF3910, 0xF3A04, 0xF3E10, 0xF4001, 0xF4800, 0xF4901, 0xF6D00, 0xF7110,
  0xF8504, 0xF8610, 0xF8801, 0xF8D10, 0xF9800, 0xF9910, 0xFBD00, 0xFBE08, 0xFC610, 0xFC708, 0xFCD00,
  0xFCE08, 0xFD004, 0xFD508, 0xFD904, 0xFDB00, 0x100001, 0x102B10, 0x103F01, 0x104002, 0x104A04, 0x105001,
  0x105610, 0x105A01, 0x105E10, 0x106101, 0x106210, 0x106501, 0x106710, 0x106E01, 0x107110, 0x107501, 0x108210,
  0x108E01, 0x108F10, 0x109002, 0x109A10, 0x109E08, 0x10A001, 0x10C600, 0x10C701, 0x10C800, 0x10CD01, 0x10CE00,
  0x10D001, 0x10FB04, 0x10FC01, 0x124900, 0x124A01, 0x124E00, 0x125001, 0x125700, 0x125801, 0x125900, 0x125A01,
  0x125E00, 0x126001, 0x128900, 0x128A01, 0x128E00, 0x129001, 0x12B100, 0x12B201, 0x12B600, 0x12B801, 0x12BF00,
  0x12C001, 0x12C100, 0x12C201, 0x12C600, 0x12C801, 0x12D700, 0x12D801, 0x131100, 0x131201, 0x131600, 0x131801,
  0x135B00, 0x135D10, 0x136004, 0x136902, 0x137D00, 0x138001, 0x139008, 0x139A00, 0x13A001, 0x13F600, 0x13F801,
  0x13FE00, 0x140004, 0x140101, 0x166D08, 0x166E04, 0x166F01, 0x168020, 0x168101, 0x169B04, 0x169D00, 0x16A001,
  0x16EB04, 0x16EE02, 0x16F101, 0x16F900, 0x170001, 0x171210, 0x171600, 0x171F01, 0x173210, 0x173504, 0x173700,
  0x174001, 0x175210, 0x175400, 0x176001, 0x176D00, 0x176E01, 0x177100, 0x177210, 0x177400, 0x178001, 0x17B410,
  0x17D404, 0x17D701, 0x17D804, 0x17DB08, 0x17DC01, 0x17DD10, 0x17DE00, 0x17E002, 0x17EA00, 0x17F002, 0x17FA00,
  0x180004, 0x180B10, 0x180E00, 0x180F10, 0x181002, 0x181A00, 0x182001, 0x187900, 0x188001, 0x188510, 0x188701,
  0x18A910, 0x18AA01, 0x18AB00, 0x18B001, 0x18F600, 0x190001, 0x191F00, 0x192010, 0x192C00, 0x193010, 0x193C00,
  0x194008, 0x194100, 0x194404, 0x194602, 0x195001, 0x196E00, 0x197001, 0x197500, 0x198001, 0x19AC00, 0x19B001,
  0x19CA00, 0x19D002, 0x19DB00, 0x19DE08, 0x1A0001, 0x1A1710, 0x1A1C00, 0x1A1E04, 0x1A2001, 0x1A5510, 0x1A5F00,
  0x1A6010, 0x1A7D00, 0x1A7F10, 0x1A8002, 0x1A8A00, 0x1A9002, 0x1A9A00, 0x1AA004, 0x1AA701, 0x1AA804, 0x1AAE00,
  0x1AB010, 0x1ACF00, 0x1B0010, 0x1B0501, 0x1B3410, 0x1B4501, 0x1B4D00, 0x1B5002, 0x1B5A04, 0x1B6108, 0x1B6B10,
  0x1B7408, 0x1B7D04, 0x1B7F00, 0x1B8010, 0x1B8301, 0x1BA110, 0x1BAE01, 0x1BB002, 0x1BBA01, 0x1BE610, 0x1BF400,
  0x1BFC04, 0x1C0001, 0x1C2410, 0x1C3800, 0x1C3B04, 0x1C4002, 0x1C4A00, 0x1C4D01, 0x1C5002, 0x1C5A01, 0x1C7E04,
  0x1C8001, 0x1C8900, 0x1C9001, 0x1CBB00, 0x1CBD01, 0x1CC004, 0x1CC800, 0x1CD010, 0x1CD304, 0x1CD410, 0x1CE901,
  0x1CED10, 0x1CEE01, 0x1CF410, 0x1CF501, 0x1CF710, 0x1CFA01, 0x1CFB00, 0x1D0001, 0x1DC010, 0x1E0001, 0x1F1600,
  0x1F1801, 0x1F1E00, 0x1F2001, 0x1F4600, 0x1F4801, 0x1F4E00, 0x1F5001, 0x1F5800, 0x1F5901, 0x1F5A00, 0x1F5B01,
  0x1F5C00, 0x1F5D01, 0x1F5E00, 0x1F5F01, 0x1F7E00, 0x1F8001, 0x1FB500, 0x1FB601, 0x1FBD08, 0x1FBE01, 0x1FBF08,
  0x1FC201, 0x1FC500, 0x1FC601, 0x1FCD08, 0x1FD001, 0x1FD400, 0x1FD601, 0x1FDC00, 0x1FDD08, 0x1FE001, 0x1FED08,
  0x1FF000, 0x1FF201, 0x1FF500, 0x1FF601, 0x1FFD08, 0x1FFF00, 0x200020, 0x200B00, 0x201004, 0x202820, 0x202A00,
  0x202F20, 0x203004, 0x204408, 0x204504, 0x205208, 0x205304, 0x205F20, 0x206000, 0x207002, 0x207101, 0x207200,
  0x207402, 0x207A08, 0x207D04, 0x207F01, 0x208002, 0x208A08, 0x208D04, 0x208F00, 0x209001, 0x209D00, 0x20A008,
  0x20C100, 0x20D010, 0x20F100, 0x210008, 0x210201, 0x210308, 0x210701, 0x210808, 0x210A01, 0x211408, 0x211501,
  0x211608, 0x211901, 0x211E08, 0x212401, 0x212508, 0x212601, 0x212708, 0x212801, 0x212908, 0x212A01, 0x212E08,
  0x212F01, 0x213A08, 0x213C01, 0x214008, 0x214501, 0x214A08, 0x214E01, 0x214F08, 0x215002, 0x218301, 0x218502,
  0x218A08, 0x218C00, 0x219008, 0x230804, 0x230C08, 0x232904, 0x232B08, 0x242700, 0x244008, 0x244B00, 0x246002,
  0x249C08, 0x24EA02, 0x250008, 0x276804, 0x277602, 0x279408, 0x27C504, 0x27C708, 0x27E604, 0x27F008, 0x298304,
  0x299908, 0x29D804, 0x29DC08, 0x29FC04, 0x29FE08, 0x2B7400, 0x2B7608, 0x2B9600, 0x2B9708, 0x2C0001, 0x2CE508,
  0x2CEB01, 0x2CEF10, 0x2CF201, 0x2CF400, 0x2CF904, 0x2CFD02, 0x2CFE04, 0x2D0001, 0x2D2600, 0x2D2701, 0x2D2800,
  0x2D2D01, 0x2D2E00, 0x2D3001, 0x2D6800, 0x2D6F01, 0x2D7004, 0x2D7100, 0x2D7F10, 0x2D8001, 0x2D9700, 0x2DA001,
  0x2DA700, 0x2DA801, 0x2DAF00, 0x2DB001, 0x2DB700, 0x2DB801, 0x2DBF00, 0x2DC001, 0x2DC700, 0x2DC801, 0x2DCF00,
  0x2DD001, 0x2DD700, 0x2DD801, 0x2DDF00, 0x2DE010, 0x2E0004, 0x2E2F01, 0x2E3004, 0x2E5008, 0x2E5204, 0x2E5E00,
  0x2E8008, 0x2E9A00, 0x2E9B08, 0x2EF400, 0x2F0008, 0x2FD600, 0x2FF008, 0x2FFC00, 0x300020, 0x300104, 0x300408,
  0x300501, 0x300702, 0x300804, 0x301208, 0x301404, 0x302008, 0x302102, 0x302A10, 0x303004, 0x303101, 0x303608,
  0x303802, 0x303B01, 0x303D04, 0x303E08, 0x304000, 0x304101, 0x309700, 0x309910, 0x309B08, 0x309D01, 0x30A004,
  0x30A101, 0x30FB04, 0x30FC01, 0x310000, 0x310501, 0x313000, 0x313101, 0x318F00, 0x319008, 0x319202, 0x319608,
  0x31A001, 0x31C008, 0x31E400, 0x31F001, 0x320008, 0x321F00, 0x322002, 0x322A08, 0x324802, 0x325008, 0x325102,
  0x326008, 0x328002, 0x328A08, 0x32B102, 0x32C008, 0x340001, 0x4DC008, 0x4E0001, 0xA48D00, 0xA49008, 0xA4C700,
  0xA4D001, 0xA4FE04, 0xA50001, 0xA60D04, 0xA61001, 0xA62002, 0xA62A01, 0xA62C00, 0xA64001, 0xA66F10, 0xA67304,
  0xA67410, 0xA67E04, 0xA67F01, 0xA69E10, 0xA6A001, 0xA6E602, 0xA6F010, 0xA6F204, 0xA6F800, 0xA70008, 0xA71701,
  0xA72008, 0xA72201, 0xA78908, 0xA78B01, 0xA7CB00, 0xA7D001, 0xA7D200, 0xA7D301, 0xA7D400, 0xA7D501, 0xA7DA00,
  0xA7F201, 0xA80210, 0xA80301, 0xA80610, 0xA80701, 0xA80B10, 0xA80C01, 0xA82310, 0xA82808, 0xA82C10, 0xA82D00,
  0xA83002, 0xA83608, 0xA83A00, 0xA84001, 0xA87404, 0xA87800, 0xA88010, 0xA88201, 0xA8B410, 0xA8C600, 0xA8CE04,
  0xA8D002, 0xA8DA00, 0xA8E010, 0xA8F201, 0xA8F804, 0xA8FB01, 0xA8FC04, 0xA8FD01, 0xA8FF10, 0xA90002, 0xA90A01,
  0xA92610, 0xA92E04, 0xA93001, 0xA94710, 0xA95400, 0xA95F04, 0xA96001, 0xA97D00, 0xA98010, 0xA98401, 0xA9B310,
  0xA9C104, 0xA9CE00, 0xA9CF01, 0xA9D002, 0xA9DA00, 0xA9DE04, 0xA9E001, 0xA9E510, 0xA9E601, 0xA9F002, 0xA9FA01,
  0xA9FF00, 0xAA0001, 0xAA2910, 0xAA3700, 0xAA4001, 0xAA4310, 0xAA4401, 0xAA4C10, 0xAA4E00, 0xAA5002, 0xAA5A00,
  0xAA5C04, 0xAA6001, 0xAA7708, 0xAA7A01, 0xAA7B10, 0xAA7E01, 0xAAB010, 0xAAB101, 0xAAB210, 0xAAB501, 0xAAB710,
  0xAAB901, 0xAABE10, 0xAAC001, 0xAAC110, 0xAAC201, 0xAAC300, 0xAADB01, 0xAADE04, 0xAAE001, 0xAAEB10, 0xAAF004,
  0xAAF201, 0xAAF510, 0xAAF700, 0xAB0101, 0xAB0700, 0xAB0901, 0xAB0F00, 0xAB1101, 0xAB1700, 0xAB2001, 0xAB2700,
  0xAB2801, 0xAB2F00, 0xAB3001, 0xAB5B08, 0xAB5C01, 0xAB6A08, 0xAB6C00, 0xAB7001, 0xABE310, 0xABEB04, 0xABEC10,
  0xABEE00, 0xABF002, 0xABFA00, 0xAC0001, 0xD7A400, 0xD7B001, 0xD7C700, 0xD7CB01, 0xD7FC00, 0xF90001, 0xFA6E00,
  0xFA7001, 0xFADA00, 0xFB0001, 0xFB0700, 0xFB1301, 0xFB1800, 0xFB1D01, 0xFB1E10, 0xFB1F01, 0xFB2908, 0xFB2A01,
  0xFB3700, 0xFB3801, 0xFB3D00, 0xFB3E01, 0xFB3F00, 0xFB4001, 0xFB4200, 0xFB4301, 0xFB4500, 0xFB4601, 0xFBB208,
  0xFBC300, 0xFBD301, 0xFD3E04, 0xFD4008, 0xFD5001, 0xFD9000, 0xFD9201, 0xFDC800, 0xFDCF08, 0xFDD000, 0xFDF001,
  0xFDFC08, 0xFE0010, 0xFE1004, 0xFE1A00, 0xFE2010, 0xFE3004, 0xFE5300, 0xFE5404, 0xFE6208, 0xFE6304, 0xFE6408,
  0xFE6700, 0xFE6804, 0xFE6908, 0xFE6A04, 0xFE6C00, 0xFE7001, 0xFE7500, 0xFE7601, 0xFEFD00, 0xFF0104, 0xFF0408,
  0xFF0504, 0xFF0B08, 0xFF0C04, 0xFF1002, 0xFF1A04, 0xFF1C08, 0xFF1F04, 0xFF2101, 0xFF3B04, 0xFF3E08, 0xFF3F04,
  0xFF4008, 0xFF4101, 0xFF5B04, 0xFF5C08, 0xFF5D04, 0xFF5E08, 0xFF5F04, 0xFF6601, 0xFFBF00, 0xFFC201, 0xFFC800,
  0xFFCA01, 0xFFD000, 0xFFD201, 0xFFD800, 0xFFDA01, 0xFFDD00, 0xFFE008, 0xFFE700, 0xFFE808, 0xFFEF00, 0xFFFC08,
  0xFFFE00, 0x1000001, 0x1000C00, 0x1000D01, 0x1002700, 0x1002801, 0x1003B00, 0x1003C01, 0x1003E00, 0x1003F01, 0x1004E00,
  0x1005001, 0x1005E00, 0x1008001, 0x100FB00, 0x1010004, 0x1010300, 0x1010702, 0x1013400, 0x1013708, 0x1014002, 0x1017908,
  0x1018A02, 0x1018C08, 0x1018F00, 0x1019008, 0x1019D00, 0x101A008, 0x101A100, 0x101D008, 0x101FD10, 0x101FE00, 0x1028001,
  0x1029D00, 0x102A001, 0x102D100, 0x102E010, 0x102E102, 0x102FC00, 0x1030001, 0x1032002, 0x1032400, 0x1032D01, 0x1034102,
  0x1034201, 0x1034A02, 0x1034B00, 0x1035001, 0x1037610, 0x1037B00, 0x1038001, 0x1039E00, 0x1039F04, 0x103A001, 0x103C400,
  0x103C801, 0x103D004, 0x103D102, 0x103D600, 0x1040001, 0x1049E00, 0x104A002, 0x104AA00, 0x104B001, 0x104D400, 0x104D801,
  0x104FC00, 0x1050001, 0x1052800, 0x1053001, 0x1056400, 0x1056F04, 0x1057001, 0x1057B00, 0x1057C01, 0x1058B00, 0x1058C01,
  0x1059300, 0x1059401, 0x1059600, 0x1059701, 0x105A200, 0x105A301, 0x105B200, 0x105B301, 0x105BA00, 0x105BB01, 0x105BD00,
  0x1060001, 0x1073700, 0x1074001, 0x1075600, 0x1076001, 0x1076800, 0x1078001, 0x1078600, 0x1078701, 0x107B100, 0x107B201,
  0x107BB00, 0x1080001, 0x1080600, 0x1080801, 0x1080900, 0x1080A01, 0x1083600, 0x1083701, 0x1083900, 0x1083C01, 0x1083D00,
  0x1083F01, 0x1085600, 0x1085704, 0x1085802, 0x1086001, 0x1087708, 0x1087902, 0x1088001, 0x1089F00, 0x108A702, 0x108B000,
  0x108E001, 0x108F300, 0x108F401, 0x108F600, 0x108FB02, 0x1090001, 0x1091602, 0x1091C00, 0x1091F04, 0x1092001, 0x1093A00,
  0x1093F04, 0x1094000, 0x1098001, 0x109B800, 0x109BC02, 0x109BE01, 0x109C002, 0x109D000, 0x109D202, 0x10A0001, 0x10A0110,
  0x10A0400, 0x10A0510, 0x10A0700, 0x10A0C10, 0x10A1001, 0x10A1400, 0x10A1501, 0x10A1800, 0x10A1901, 0x10A3600, 0x10A3810,
  0x10A3B00, 0x10A3F10, 0x10A4002, 0x10A4900, 0x10A5004, 0x10A5900, 0x10A6001, 0x10A7D02, 0x10A7F04, 0x10A8001, 0x10A9D02,
  0x10AA000, 0x10AC001, 0x10AC808, 0x10AC901, 0x10AE510, 0x10AE700, 0x10AEB02, 0x10AF004, 0x10AF700, 0x10B0001, 0x10B3600,
  0x10B3904, 0x10B4001, 0x10B5600, 0x10B5802, 0x10B6001, 0x10B7300, 0x10B7802, 0x10B8001, 0x10B9200, 0x10B9904, 0x10B9D00,
  0x10BA902, 0x10BB000, 0x10C0001, 0x10C4900, 0x10C8001, 0x10CB300, 0x10CC001, 0x10CF300, 0x10CFA02, 0x10D0001, 0x10D2410,
  0x10D2800, 0x10D3002, 0x10D3A00, 0x10E6002, 0x10E7F00, 0x10E8001, 0x10EAA00, 0x10EAB10, 0x10EAD04, 0x10EAE00, 0x10EB001,
  0x10EB200, 0x10F0001, 0x10F1D02, 0x10F2701, 0x10F2800, 0x10F3001, 0x10F4610, 0x10F5102, 0x10F5504, 0x10F5A00, 0x10F7001,
  0x10F8210, 0x10F8604, 0x10F8A00, 0x10FB001, 0x10FC502, 0x10FCC00, 0x10FE001, 0x10FF700, 0x1100010, 0x1100301, 0x1103810,
  0x1104704, 0x1104E00, 0x1105202, 0x1107010, 0x1107101, 0x1107310, 0x1107501, 0x1107600, 0x1107F10, 0x1108301, 0x110B010,
  0x110BB04, 0x110BD00, 0x110BE04, 0x110C210, 0x110C300, 0x110D001, 0x110E900, 0x110F002, 0x110FA00, 0x1110010, 0x1110301,
  0x1112710, 0x1113500, 0x1113602, 0x1114004, 0x1114401, 0x1114510, 0x1114701, 0x1114800, 0x1115001, 0x1117310, 0x1117404,
  0x1117601, 0x1117700, 0x1118010, 0x1118301, 0x111B310, 0x111C101, 0x111C504, 0x111C910, 0x111CD04, 0x111CE10, 0x111D002,
  0x111DA01, 0x111DB04, 0x111DC01, 0x111DD04, 0x111E000, 0x111E102, 0x111F500, 0x1120001, 0x1121200, 0x1121301, 0x1122C10,
  0x1123804, 0x1123E10, 0x1123F00, 0x1128001, 0x1128700, 0x1128801, 0x1128900, 0x1128A01, 0x1128E00, 0x1128F01, 0x1129E00,
  0x1129F01, 0x112A904, 0x112AA00, 0x112B001, 0x112DF10, 0x112EB00, 0x112F002, 0x112FA00, 0x1130010, 0x1130400, 0x1130501,
  0x1130D00, 0x1130F01, 0x1131100, 0x1131301, 0x1132900, 0x1132A01, 0x1133100, 0x1133201, 0x1133400, 0x1133501, 0x1133A00,
  0x1133B10, 0x1133D01, 0x1133E10, 0x1134500, 0x1134710, 0x1134900, 0x1134B10, 0x1134E00, 0x1135001, 0x1135100, 0x1135710,
  0x1135800, 0x1135D01, 0x1136210, 0x1136400, 0x1136610, 0x1136D00, 0x1137010, 0x1137500, 0x1140001, 0x1143510, 0x1144701,
  0x1144B04, 0x1145002, 0x1145A04, 0x1145C00, 0x1145D04, 0x1145E10, 0x1145F01, 0x1146200, 0x1148001, 0x114B010, 0x114C401,
  0x114C604, 0x114C701, 0x114C800, 0x114D002, 0x114DA00, 0x1158001, 0x115AF10, 0x115B600, 0x115B810, 0x115C104, 0x115D801,
  0x115DC10, 0x115DE00, 0x1160001, 0x1163010, 0x1164104, 0x1164401, 0x1164500, 0x1165002, 0x1165A00, 0x1166004, 0x1166D00,
  0x1168001, 0x116AB10, 0x116B801, 0x116B904, 0x116BA00, 0x116C002, 0x116CA00, 0x1170001, 0x1171B00, 0x1171D10, 0x1172C00,
  0x1173002, 0x1173C04, 0x1173F08, 0x1174001, 0x1174700, 0x1180001, 0x1182C10, 0x1183B04, 0x1183C00, 0x118A001, 0x118E002,
  0x118F300, 0x118FF01, 0x1190700, 0x1190901, 0x1190A00, 0x1190C01, 0x1191400, 0x1191501, 0x1191700, 0x1191801, 0x1193010,
  0x1193600, 0x1193710, 0x1193900, 0x1193B10, 0x1193F01, 0x1194010, 0x1194101, 0x1194210, 0x1194404, 0x1194700, 0x1195002,
  0x1195A00, 0x119A001, 0x119A800, 0x119AA01, 0x119D110, 0x119D800, 0x119DA10, 0x119E101, 0x119E204, 0x119E301, 0x119E410,
  0x119E500, 0x11A0001, 0x11A0110, 0x11A0B01, 0x11A3310, 0x11A3A01, 0x11A3B10, 0x11A3F04, 0x11A4710, 0x11A4800, 0x11A5001,
  0x11A5110, 0x11A5C01, 0x11A8A10, 0x11A9A04, 0x11A9D01, 0x11A9E04, 0x11AA300, 0x11AB001, 0x11AF900, 0x11C0001, 0x11C0900,
  0x11C0A01, 0x11C2F10, 0x11C3700, 0x11C3810, 0x11C4001, 0x11C4104, 0x11C4600, 0x11C5002, 0x11C6D00, 0x11C7004, 0x11C7201,
  0x11C9000, 0x11C9210, 0x11CA800, 0x11CA910, 0x11CB700, 0x11D0001, 0x11D0700, 0x11D0801, 0x11D0A00, 0x11D0B01, 0x11D3110,
  0x11D3700, 0x11D3A10, 0x11D3B00, 0x11D3C10, 0x11D3E00, 0x11D3F10, 0x11D4601, 0x11D4710, 0x11D4800, 0x11D5002, 0x11D5A00,
  0x11D6001, 0x11D6600, 0x11D6701, 0x11D6900, 0x11D6A01, 0x11D8A10, 0x11D8F00, 0x11D9010, 0x11D9200, 0x11D9310, 0x11D9801,
  0x11D9900, 0x11DA002, 0x11DAA00, 0x11EE001, 0x11EF310, 0x11EF704, 0x11EF900, 0x11FB001, 0x11FB100, 0x11FC002, 0x11FD508,
  0x11FF200, 0x11FFF04, 0x1200001, 0x1239A00, 0x1240002, 0x1246F00, 0x1247004, 0x1247500, 0x1248001, 0x1254400, 0x12F9001,
  0x12FF104, 0x12FF300, 0x1300001, 0x1342F00, 0x1440001, 0x1464700, 0x1680001, 0x16A3900, 0x16A4001, 0x16A5F00, 0x16A6002,
  0x16A6A00, 0x16A6E04, 0x16A7001, 0x16ABF00, 0x16AC002, 0x16ACA00, 0x16AD001, 0x16AEE00, 0x16AF010, 0x16AF504, 0x16AF600,
  0x16B0001, 0x16B3010, 0x16B3704, 0x16B3C08, 0x16B4001, 0x16B4404, 0x16B4508, 0x16B4600, 0x16B5002, 0x16B5A00, 0x16B5B02,
  0x16B6200, 0x16B6301, 0x16B7800, 0x16B7D01, 0x16B9000, 0x16E4001, 0x16E8002, 0x16E9704, 0x16E9B00, 0x16F0001, 0x16F4B00,
  0x16F4F10, 0x16F5001, 0x16F5110, 0x16F8800, 0x16F8F10, 0x16F9301, 0x16FA000, 0x16FE001, 0x16FE204, 0x16FE301, 0x16FE410,
  0x16FE500, 0x16FF010, 0x16FF200, 0x1700001, 0x187F800, 0x1880001, 0x18CD600, 0x18D0001, 0x18D0900, 0x1AFF001, 0x1AFF400,
  0x1AFF501, 0x1AFFC00, 0x1AFFD01, 0x1AFFF00, 0x1B00001, 0x1B12300, 0x1B15001, 0x1B15300, 0x1B16401, 0x1B16800, 0x1B17001,
  0x1B2FC00, 0x1BC0001, 0x1BC6B00, 0x1BC7001, 0x1BC7D00, 0x1BC8001, 0x1BC8900, 0x1BC9001, 0x1BC9A00, 0x1BC9C08, 0x1BC9D10,
  0x1BC9F04, 0x1BCA000, 0x1CF0010, 0x1CF2E00, 0x1CF3010, 0x1CF4700, 0x1CF5008, 0x1CFC400, 0x1D00008, 0x1D0F600, 0x1D10008,
  0x1D12700, 0x1D12908, 0x1D16510, 0x1D16A08, 0x1D16D10, 0x1D17300, 0x1D17B10, 0x1D18308, 0x1D18510, 0x1D18C08, 0x1D1AA10,
  0x1D1AE08, 0x1D1EB00, 0x1D20008, 0x1D24210, 0x1D24508, 0x1D24600, 0x1D2E002, 0x1D2F400, 0x1D30008, 0x1D35700, 0x1D36002,
  0x1D37900, 0x1D40001, 0x1D45500, 0x1D45601, 0x1D49D00, 0x1D49E01, 0x1D4A000, 0x1D4A201, 0x1D4A300, 0x1D4A501, 0x1D4A700,
  0x1D4A901, 0x1D4AD00, 0x1D4AE01, 0x1D4BA00, 0x1D4BB01, 0x1D4BC00, 0x1D4BD01, 0x1D4C400, 0x1D4C501, 0x1D50600, 0x1D50701,
  0x1D50B00, 0x1D50D01, 0x1D51500, 0x1D51601, 0x1D51D00, 0x1D51E01, 0x1D53A00, 0x1D53B01, 0x1D53F00, 0x1D54001, 0x1D54500,
  0x1D54601, 0x1D54700, 0x1D54A01, 0x1D55100, 0x1D55201, 0x1D6A600, 0x1D6A801, 0x1D6C108, 0x1D6C201, 0x1D6DB08, 0x1D6DC01,
  0x1D6FB08, 0x1D6FC01, 0x1D71508, 0x1D71601, 0x1D73508, 0x1D73601, 0x1D74F08, 0x1D75001, 0x1D76F08, 0x1D77001, 0x1D78908,
  0x1D78A01, 0x1D7A908, 0x1D7AA01, 0x1D7C308, 0x1D7C401, 0x1D7CC00, 0x1D7CE02, 0x1D80008, 0x1DA0010, 0x1DA3708, 0x1DA3B10,
  0x1DA6D08, 0x1DA7510, 0x1DA7608, 0x1DA8410, 0x1DA8508, 0x1DA8704, 0x1DA8C00, 0x1DA9B10, 0x1DAA000, 0x1DAA110, 0x1DAB000,
  0x1DF0001, 0x1DF1F00, 0x1E00010, 0x1E00700, 0x1E00810, 0x1E01900, 0x1E01B10, 0x1E02200, 0x1E02310, 0x1E02500, 0x1E02610,
  0x1E02B00, 0x1E10001, 0x1E12D00, 0x1E13010, 0x1E13701, 0x1E13E00, 0x1E14002, 0x1E14A00, 0x1E14E01, 0x1E14F08, 0x1E15000,
  0x1E29001, 0x1E2AE10, 0x1E2AF00, 0x1E2C001, 0x1E2EC10, 0x1E2F002, 0x1E2FA00, 0x1E2FF08, 0x1E30000, 0x1E7E001, 0x1E7E700,
  0x1E7E801, 0x1E7EC00, 0x1E7ED01, 0x1E7EF00, 0x1E7F001, 0x1E7FF00, 0x1E80001, 0x1E8C500, 0x1E8C702, 0x1E8D010, 0x1E8D700,
  0x1E90001, 0x1E94410, 0x1E94B01, 0x1E94C00, 0x1E95002, 0x1E95A00, 0x1E95E04, 0x1E96000, 0x1EC7102, 0x1ECAC08, 0x1ECAD02,
  0x1ECB008, 0x1ECB102, 0x1ECB500, 0x1ED0102, 0x1ED2E08, 0x1ED2F02, 0x1ED3E00, 0x1EE0001, 0x1EE0400, 0x1EE0501, 0x1EE2000,
  0x1EE2101, 0x1EE2300, 0x1EE2401, 0x1EE2500, 0x1EE2701, 0x1EE2800, 0x1EE2901, 0x1EE3300, 0x1EE3401, 0x1EE3800, 0x1EE3901,
  0x1EE3A00, 0x1EE3B01, 0x1EE3C00, 0x1EE4201, 0x1EE4300, 0x1EE4701, 0x1EE4800, 0x1EE4901, 0x1EE4A00, 0x1EE4B01, 0x1EE4C00,
  0x1EE4D01, 0x1EE5000, 0x1EE5101, 0x1EE5300, 0x1EE5401, 0x1EE5500, 0x1EE5701, 0x1EE5800, 0x1EE5901, 0x1EE5A00, 0x1EE5B01,
  0x1EE5C00, 0x1EE5D01, 0x1EE5E00, 0x1EE5F01, 0x1EE6000, 0x1EE6101, 0x1EE6300, 0x1EE6401, 0x1EE6500, 0x1EE6701, 0x1EE6B00,
  0x1EE6C01, 0x1EE7300, 0x1EE7401, 0x1EE7800, 0x1EE7901, 0x1EE7D00, 0x1EE7E01, 0x1EE7F00, 0x1EE8001, 0x1EE8A00, 0x1EE8B01,
  0x1EE9C00, 0x1EEA101, 0x1EEA400, 0x1EEA501, 0x1EEAA00, 0x1EEAB01, 0x1EEBC00, 0x1EEF008, 0x1EEF200, 0x1F00008, 0x1F02C00,
  0x1F03008, 0x1F09400, 0x1F0A008, 0x1F0AF00, 0x1F0B108, 0x1F0C000, 0x1F0C108, 0x1F0D000, 0x1F0D108, 0x1F0F600, 0x1F10002,
  0x1F10D08, 0x1F1AE00, 0x1F1E608, 0x1F20300, 0x1F21008, 0x1F23C00, 0x1F24008, 0x1F24900, 0x1F25008, 0x1F25200, 0x1F26008,
  0x1F26600, 0x1F30008, 0x1F6D800, 0x1F6DD08, 0x1F6ED00, 0x1F6F008, 0x1F6FD00, 0x1F70008, 0x1F77400, 0x1F78008, 0x1F7D900,
  0x1F7E008, 0x1F7EC00, 0x1F7F008, 0x1F7F100, 0x1F80008, 0x1F80C00, 0x1F81008, 0x1F84800, 0x1F85008, 0x1F85A00, 0x1F86008,
  0x1F88800, 0x1F89008, 0x1F8AE00, 0x1F8B008, 0x1F8B200, 0x1F90008, 0x1FA5400, 0x1FA6008, 0x1FA6E00, 0x1FA7008, 0x1FA7500,
  0x1FA7808, 0x1FA7D00, 0x1FA8008, 0x1FA8700, 0x1FA9008, 0x1FAAD00, 0x1FAB008, 0x1FABB00, 0x1FAC008, 0x1FAC600, 0x1FAD008,
  0x1FADA00, 0x1FAE008, 0x1FAE800, 0x1FAF008, 0x1FAF700, 0x1FB0008, 0x1FB9300, 0x1FB9408, 0x1FBCB00, 0x1FBF002, 0x1FBFA00,
  0x2000001, 0x2A6E000, 0x2A70001, 0x2B73900, 0x2B74001, 0x2B81E00, 0x2B82001, 0x2CEA200, 0x2CEB001, 0x2EBE100, 0x2F80001,
  0x2FA1E00, 0x3000001, 0x3134B00, 0xE010010, 0xE01F000,
};

#endif // QI__UNICODE_DATA_H

// Bits of a character's class; tools/unicode_tables.py writes them. A character has at most one of the first five.
enum {
  QI__LETTER = 1, // \p{L}
  QI__NUMBER = 2, // \p{N}
  QI__PUNCT = 4,  // \p{P}
  QI__SYMBOL = 8, // \p{S}
  QI__MARK = 16,  // \p{M}
  QI__SPACE = 32  // \s
};

#define QI__NO_CHAR 0xFFFFFFFFu // where text has ended
#define QI__BAD_CHAR 0xFFFDu    // stands for a byte that is not part of UTF-8

// ---- UTF-8 ----

// Second to last bytes of a character: n of them at s into *cp, six bits each; false when one is missing.
QI__INLINE bool qi__utf8_tail(const uint8_t *s, size_t avail, size_t n, uint32_t *cp) {
  if (avail < n) return false;
  for (size_t i = 0; i < n; i++) {
    if ((s[i] & 0xC0) != 0x80) return false;
    *cp = *cp << 6 | (s[i] & 0x3Fu);
  }
  return true;
}

// Character at text (avail >= 1 bytes) and its bytes. What is not UTF-8 (also overlong forms, surrogates, all beyond 0x10FFFF)
// is QI__BAD_CHAR of one byte, so every byte of a text belongs to exactly one character.
QI__INLINE size_t qi__utf8_next(const char *text, size_t avail, uint32_t *cp) {
  static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
  const uint8_t *s = (const uint8_t *)text;
  if (s[0] < 0x80) {
    *cp = s[0];
    return 1;
  }
  size_t n = s[0] >= 0xF8 || s[0] < 0xC0 ? 0 : s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
  if (n) {
    uint32_t c = s[0] & (0x7Fu >> n);
    if (qi__utf8_tail(s + 1, avail - 1, n - 1, &c) && c >= least[n] && c < 0x110000 && (c < 0xD800 || c > 0xDFFF)) {
      *cp = c;
      return n;
    }
  }
  *cp = QI__BAD_CHAR;
  return 1;
}

// Writes cp (at most 0x10FFFF) and returns its bytes, 1 to 4.
QI__FN size_t qi__utf8_put(uint32_t cp, char out[4]) {
  if (cp < 0x80) {
    out[0] = (char)cp;
    return 1;
  }
  size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
  out[0] = (char)((0xF00u >> n & 0xFF) | cp);
  return n;
}

// ---- classes ----

QI__INLINE unsigned qi__char_class(uint32_t cp) {
  if (cp < 0x80) return qi__ascii_classes[cp];
  if (cp > 0x10FFFF) return 0;
  size_t lo = 0, hi = QI__COUNT_OF(qi__unicode_runs); // run lo begins at or before cp, run hi after it
  while (hi - lo > 1) {
    size_t mid = (lo + hi) / 2;
    if (qi__unicode_runs[mid] >> 8 <= cp) lo = mid;
    else hi = mid;
  }
  return qi__unicode_runs[lo] & 0xFF;
}

// A character of a text, with its class.
typedef struct qi__char {
  uint32_t cp; // QI__NO_CHAR (size 0, no class) at the end
  unsigned cls;
  size_t size; // bytes
} qi__char;

QI__INLINE qi__char qi__char_at(const char *text, size_t pos, size_t end) {
  qi__char c = {QI__NO_CHAR, 0, 0};
  if (pos >= end) return c;
  c.size = qi__utf8_next(text + pos, end - pos, &c.cp);
  c.cls = qi__char_class(c.cp);
  return c;
}

#endif // QI__UNICODE_H

// Models say which regular expressions cut text into words; merges never cross a cut. The expressions (those in llama.cpp's
// src/llama-vocab.cpp) are applied one after another: each splits every piece of the one before into its matches and what lies
// between them. Here each is a small matcher without backtracking; nothing looks beyond the piece that it is in, and no byte is
// read more than a few times, whatever the text.

// ---- sets of characters ----

typedef struct qi__char_set {
  unsigned classes;        // all characters of these classes,
  const char *ascii;       // these,
  const uint32_t (*ranges)[2]; // and these; ascending
  size_t n_ranges;
  bool negate;             // then: all others
} qi__char_set;

static const uint32_t qi__ranges_digit[][2] = {{'0', '9'}};
static const uint32_t qi__ranges_cjk[][2] = {{0x0800, 0x9FA5}, {0xAC00, 0xD7FF}};
static const uint32_t qi__ranges_cjk_kana[][2] = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};
static const uint32_t qi__ranges_punct[][2] = {{0x21, 0x2F}, {0x3A, 0x7E}, {0x2018, 0x201F}, {0x3000, 0x3002},
                                               {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
static const uint32_t qi__ranges_stop[][2] = {{0x60C, 0x60C}, {0x6D4, 0x6D4}, {0x964, 0x964}, {0x2026, 0x2026},
                                              {0x3001, 0x3002}, {0xFF0C, 0xFF0C}};
// Letters of alphabets with two cases, as deepseek-llm lists them.
static const uint32_t qi__ranges_cased[][2] = {
    {0x41, 0x5A}, {0x61, 0x7A}, {0xB5, 0xB5}, {0xC0, 0xD6}, {0xD8, 0xF6}, {0xF8, 0x1BA}, {0x1BC, 0x1BF}, {0x1C4, 0x293},
    {0x295, 0x2AF}, {0x370, 0x373}, {0x376, 0x377}, {0x37B, 0x37D}, {0x37F, 0x37F}, {0x386, 0x386}, {0x388, 0x38A},
    {0x38C, 0x38C}, {0x38E, 0x3A1}, {0x3A3, 0x3F5}, {0x3F7, 0x481}, {0x48A, 0x52F}, {0x531, 0x556}, {0x10A0, 0x10C5},
    {0x13A0, 0x13F5}, {0x13F8, 0x13FD}, {0x1C90, 0x1CBA}, {0x1CBD, 0x1CBF}, {0x1D00, 0x1D2B}, {0x1D6B, 0x1D77},
    {0x1D79, 0x1D9A}, {0x1E00, 0x1F15}, {0x1F18, 0x1F1D}, {0x1F20, 0x1F45}, {0x1F48, 0x1F4D}, {0x1F50, 0x1F57},
    {0x1F59, 0x1F59}, {0x1F5B, 0x1F5B}, {0x1F5D, 0x1F5D}, {0x1F5F, 0x1F7D}, {0x1F80, 0x1FB4}, {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE}, {0x1FC2, 0x1FC4}, {0x1FC6, 0x1FCC}, {0x1FD0, 0x1FD3}, {0x1FD6, 0x1FDB}, {0x1FE0, 0x1FEC},
    {0x1FF2, 0x1FF4}, {0x1FF6, 0x1FFC}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210A, 0x2113}, {0x2115, 0x2115},
    {0x2119, 0x211D}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128}, {0x212A, 0x212D}, {0x212F, 0x2134},
    {0x2139, 0x2139}, {0x213C, 0x213F}, {0x2145, 0x2149}, {0x214E, 0x214E}, {0x2183, 0x2184}, {0x2C00, 0x2C7B},
    {0x2C7E, 0x2CE4}, {0x2CEB, 0x2CEE}, {0x2CF2, 0x2CF3}, {0xA640, 0xA66D}, {0xA680, 0xA69B}, {0xA722, 0xA76F},
    {0xA771, 0xA787}, {0xA78B, 0xA78E}, {0xAB70, 0xABBF}, {0xFB00, 0xFB06}, {0xFB13, 0xFB17}, {0xFF21, 0xFF3A},
    {0xFF41, 0xFF5A}, {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2},
    {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};

#define QI__RANGES(table) table, QI__COUNT_OF(table)

QI__FN bool qi__in_ranges(const uint32_t (*ranges)[2], size_t n, uint32_t cp) {
  size_t lo = 0, hi = n;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (cp < ranges[mid][0]) hi = mid;
    else if (cp > ranges[mid][1]) lo = mid + 1;
    else return true;
  }
  return false;
}

QI__FN bool qi__in_set(const qi__char_set *set, qi__char c) {
  if (!c.size) return false;
  bool in = (c.cls & set->classes) != 0;
  if (!in && set->ascii && c.cp && c.cp < 0x80) in = strchr(set->ascii, (int)c.cp) != NULL;
  if (!in) in = qi__in_ranges(set->ranges, set->n_ranges, c.cp);
  return in != set->negate;
}

// ---- expressions ----

typedef enum qi__split_kind {
  QI__SPLIT_RUN,       // prefix?[set]{min,max}
  QI__SPLIT_TRAILING,  // \s+$
  QI__SPLIT_GPT2,      // the expression of GPT-2
  QI__SPLIT_GPT4,      // that of GPT-4 and Llama 3
  QI__SPLIT_CASE,      // that of GPT-4o and Tekken: upper case begins a word
  QI__SPLIT_DEEPSEEK3
} qi__split_kind;

typedef struct qi__splitter {
  qi__split_kind kind;
  unsigned letters;    // GPT4: classes of characters that words are made of
  size_t min, max;     // RUN: length in characters. GPT4, CASE: `max` digits go together
  char prefix;         // RUN: ' ' a blank, 's' any white space, 0 none
  bool suffix;         // CASE: 's and its like belong to the word
  qi__char_set set;    // RUN
} qi__splitter;

#define QI__MANY SIZE_MAX

// Numbers of the rows of qi__splitters; 0 ends a list.
enum {
  QI__S_END,
  QI__S_NEWLINE,       // [\r\n]
  QI__S_DIGIT,         // \p{N}
  QI__S_DIGITS,        // \p{N}+
  QI__S_DIGITS_1_3,    // \p{N}{1,3}
  QI__S_ASCII_DIGITS_3, // [0-9][0-9][0-9]
  QI__S_LETTERS,       // \s?\p{L}+
  QI__S_PUNCTS,        // \s?\p{P}+
  QI__S_CASED,         // \s?[A-Za-z and other alphabets with two cases]+
  QI__S_SIGNS,         // \s?[ASCII, full-width and CJK punctuation]+
  QI__S_CJK,           // [CJK, Hangul and all from U+0800]+
  QI__S_CJK_KANA,      // [CJK and kana]+
  QI__S_PUNCT_RUN,     // [\p{P}\$\+<=>\^~\|]+
  QI__S_PUNCT_RUN_TICK, // [\p{P}\$\+<=>\^~\|`]+
  QI__S_BLOOM,         //  ?[^(\s|.,!?...]+
  QI__S_TRAILING,
  QI__S_GPT2,
  QI__S_GPT4,
  QI__S_GPT4_DIGIT,    // with single digits (Qwen 2)
  QI__S_GPT4_MARKS,    // and with marks in words (Qwen 3.5)
  QI__S_TEKKEN,
  QI__S_GPT4O,
  QI__S_DEEPSEEK3
};

#define QI__RUN(prefix, min, max, classes, ascii, ...) {QI__SPLIT_RUN, 0, min, max, prefix, false, {classes, ascii, __VA_ARGS__}}

static const qi__splitter qi__splitters[] = {
    {QI__SPLIT_RUN, 0, 1, 1, 0, false, {0, NULL, NULL, 0, false}},
    QI__RUN(0, 1, 1, 0, "\r\n", NULL, 0, false),
    QI__RUN(0, 1, 1, QI__NUMBER, NULL, NULL, 0, false),
    QI__RUN(0, 1, QI__MANY, QI__NUMBER, NULL, NULL, 0, false),
    QI__RUN(0, 1, 3, QI__NUMBER, NULL, NULL, 0, false),
    QI__RUN(0, 3, 3, 0, NULL, QI__RANGES(qi__ranges_digit), false),
    QI__RUN('s', 1, QI__MANY, QI__LETTER, NULL, NULL, 0, false),
    QI__RUN('s', 1, QI__MANY, QI__PUNCT, NULL, NULL, 0, false),
    QI__RUN('s', 1, QI__MANY, 0, NULL, QI__RANGES(qi__ranges_cased), false),
    QI__RUN('s', 1, QI__MANY, 0, NULL, QI__RANGES(qi__ranges_punct), false),
    QI__RUN(0, 1, QI__MANY, 0, NULL, QI__RANGES(qi__ranges_cjk), false),
    QI__RUN(0, 1, QI__MANY, 0, NULL, QI__RANGES(qi__ranges_cjk_kana), false),
    QI__RUN(0, 1, QI__MANY, QI__PUNCT, "$+<=>^~|", NULL, 0, false),
    QI__RUN(0, 1, QI__MANY, QI__PUNCT, "$+<=>^~|`", NULL, 0, false),
    QI__RUN(' ', 1, QI__MANY, QI__SPACE, "(|.,!?)", QI__RANGES(qi__ranges_stop), true),
    {QI__SPLIT_TRAILING, 0, 0, 0, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_GPT2, 0, 0, 0, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_GPT4, QI__LETTER, 0, 3, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_GPT4, QI__LETTER, 0, 1, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_GPT4, QI__LETTER | QI__MARK, 0, 1, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_CASE, 0, 0, 1, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_CASE, 0, 0, 3, 0, true, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_DEEPSEEK3, 0, 0, 0, 0, false, {0, NULL, NULL, 0, false}},
};
QI__STATIC_ASSERT(QI__COUNT_OF(qi__splitters) == QI__S_DEEPSEEK3 + 1, one_row_for_each_splitter);
#undef QI__RUN
#undef QI__RANGES

// ---- models ----

enum { QI__PRE_ADD_BOS = 1, QI__PRE_IGNORE_MERGES = 2 };
#define QI__PRE_LLAMA3 (QI__PRE_ADD_BOS | QI__PRE_IGNORE_MERGES)
#define QI__PRE_STEPS 6

typedef struct qi__pre_rule {
  const char *name;             // tokenizer.ggml.pre
  uint8_t steps[QI__PRE_STEPS]; // QI__S_*, applied in this order
  uint8_t flags;                // QI__PRE_*: a begin token by default; words that are tokens are not merged again
} qi__pre_rule;

// One row adds a model. The first row stands for names that are not here.
static const qi__pre_rule qi__pre_rules[] = {
    {"default", {QI__S_PUNCT_RUN, QI__S_GPT2, QI__S_DIGITS, QI__S_ASCII_DIGITS_3}, 0},
    {"gpt-2", {QI__S_GPT2}, 0},
    {"phi-2", {QI__S_GPT2}, 0},
    {"mpt", {QI__S_GPT2}, 0},
    {"olmo", {QI__S_GPT2}, 0},
    {"jais", {QI__S_GPT2}, 0},
    {"gigachat", {QI__S_GPT2}, 0},
    {"exaone4", {QI__S_GPT2}, 0},
    {"jina-es", {QI__S_GPT2}, 0},
    {"jina-de", {QI__S_GPT2}, 0},
    {"jina-v2-es", {QI__S_GPT2}, 0},
    {"jina-v2-de", {QI__S_GPT2}, 0},
    {"jina-v2-code", {QI__S_GPT2}, 0},
    {"roberta-bpe", {QI__S_GPT2}, 0},
    {"llama-bpe", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"llama3", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"llama-v3", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"falcon3", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"falcon-h1", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"pixtral", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"lfm2", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"dbrx", {QI__S_GPT4}, 0},
    {"smaug-bpe", {QI__S_GPT4}, 0},
    {"chatglm-bpe", {QI__S_GPT4}, 0},
    {"glm4", {QI__S_GPT4}, 0},
    {"qwen2", {QI__S_GPT4_DIGIT}, 0},
    {"qwen", {QI__S_GPT4_DIGIT}, 0},
    {"deepseek-r1-qwen", {QI__S_GPT4_DIGIT}, 0},
    {"stablelm2", {QI__S_GPT4_DIGIT}, 0},
    {"megrez", {QI__S_GPT4_DIGIT}, 0},
    {"hunyuan", {QI__S_GPT4_DIGIT}, 0},
    {"grok-2", {QI__S_GPT4_DIGIT}, 0},
    {"qwen35", {QI__S_GPT4_MARKS}, 0},
    {"tekken", {QI__S_TEKKEN}, QI__PRE_LLAMA3},
    {"gpt-4o", {QI__S_GPT4O}, 0},
    {"llama4", {QI__S_GPT4O}, 0},
    {"deepseek-llm", {QI__S_NEWLINE, QI__S_CASED, QI__S_SIGNS, QI__S_TRAILING, QI__S_CJK, QI__S_DIGITS}, 0},
    {"deepseek-coder", {QI__S_NEWLINE, QI__S_LETTERS, QI__S_PUNCTS, QI__S_CJK, QI__S_DIGIT}, 0},
    {"deepseek-v3", {QI__S_DIGITS_1_3, QI__S_CJK_KANA, QI__S_DEEPSEEK3}, 0},
    {"falcon", {QI__S_PUNCT_RUN_TICK, QI__S_GPT2, QI__S_ASCII_DIGITS_3}, 0},
    {"starcoder", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"refact", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"smollm", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"command-r", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"codeshell", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"exaone", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"minerva-7b", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"bloom", {QI__S_BLOOM}, 0},
    {"poro-chat", {QI__S_BLOOM}, 0},
    {"gpt3-finnish", {QI__S_BLOOM}, 0},
    {"viking", {QI__S_BLOOM, QI__S_DIGIT}, 0},
};

// Rule of a name; NULL when there is none.
QI__FN const qi__pre_rule *qi__pre_find(const char *name, size_t len) {
  for (size_t i = 0; i < QI__COUNT_OF(qi__pre_rules); i++)
    if (strlen(qi__pre_rules[i].name) == len && !memcmp(qi__pre_rules[i].name, name, len)) return &qi__pre_rules[i];
  return NULL;
}

// ---- matchers ----
// A matcher returns where the match that begins at pos ends, or pos when there is none. It sees text[pos..end) only.

// End of the run of characters with (or without) one of the classes.
QI__FN size_t qi__skip_class(const char *text, size_t pos, size_t end, unsigned classes, bool with) {
  for (;;) {
    qi__char c = qi__char_at(text, pos, end);
    if (!c.size || ((c.cls & classes) != 0) != with) return pos;
    pos += c.size;
  }
}

QI__FN size_t qi__skip_newlines(const char *text, size_t pos, size_t end, bool slash) {
  while (pos < end && (text[pos] == '\r' || text[pos] == '\n' || (slash && text[pos] == '/'))) pos++;
  return pos;
}

// \s+(?!\S)|\s+ : white space, but for its last character when a word follows; that one goes with the word.
QI__FN size_t qi__match_spaces(const char *text, size_t pos, size_t end) {
  size_t last = pos, p = pos;
  for (;;) {
    qi__char c = qi__char_at(text, p, end);
    if (!(c.cls & QI__SPACE)) return c.size && last > pos ? last : p;
    last = p;
    p += c.size;
  }
}

// \s*[\r\n]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_lines_or_spaces(const char *text, size_t pos, size_t end) {
  size_t stop = qi__skip_class(text, pos, end, QI__SPACE, true);
  for (size_t p = stop; p > pos; p--)
    if (text[p - 1] == '\r' || text[p - 1] == '\n') return p;
  return qi__match_spaces(text, pos, end);
}

// 's|'t|'re|'ve|'m|'ll|'d
QI__FN size_t qi__match_contraction(const char *text, size_t pos, size_t end, bool any_case) {
  if (end - pos < 2 || text[pos] != '\'') return pos;
  int fold = any_case ? 0x20 : 0;
  int a = text[pos + 1] | fold, b = end - pos > 2 ? text[pos + 2] | fold : 0;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return pos + 2;
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? pos + 3 : pos;
}

//  ?[^\s\p{L}\p{N}]+ ; `words` are the classes left out besides \s
QI__FN size_t qi__match_other(const char *text, size_t pos, size_t end, unsigned words) {
  size_t p = pos + (text[pos] == ' ');
  size_t stop = qi__skip_class(text, p, end, words | QI__SPACE, false);
  return stop > p ? stop : pos;
}

// \p{N}{1,max}
QI__FN size_t qi__match_number(const char *text, size_t pos, size_t end, size_t max) {
  for (size_t n = 0; n < max; n++) {
    qi__char c = qi__char_at(text, pos, end);
    if (!(c.cls & QI__NUMBER)) break;
    pos += c.size;
  }
  return pos;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_gpt2(const char *text, size_t pos, size_t end) {
  size_t stop = qi__match_contraction(text, pos, end, false);
  if (stop > pos) return stop;
  size_t p = pos + (text[pos] == ' ');
  qi__char c = qi__char_at(text, p, end);
  unsigned kind = c.cls & (QI__LETTER | QI__NUMBER);
  if (kind) return qi__skip_class(text, p, end, kind, true);
  if (c.size && !(c.cls & QI__SPACE)) return qi__skip_class(text, p, end, QI__LETTER | QI__NUMBER | QI__SPACE, false);
  return qi__match_spaces(text, pos, end);
}

// What follows [^\r\n\p{L}\p{N}]? when it stands at c; `not_prefix` are the classes excluded.
QI__FN size_t qi__after_prefix(qi__char c, size_t pos, unsigned not_prefix) {
  return c.cp == '\r' || c.cp == '\n' || (c.cls & not_prefix) ? pos : pos + c.size;
}

// contraction|[^\r\n\p{L}\p{N}]?[letters]+|\p{N}{1,max}| ?[^\s\p{N}letters]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_gpt4(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  size_t stop = qi__match_contraction(text, pos, end, true);
  if (stop > pos) return stop;
  qi__char c = qi__char_at(text, pos, end);
  size_t p = qi__after_prefix(c, pos, QI__LETTER | QI__NUMBER | s->letters);
  stop = qi__skip_class(text, p, end, s->letters, true);
  if (stop > p) return stop;
  if (c.cls & QI__NUMBER) return qi__match_number(text, pos, end, s->max);
  stop = qi__match_other(text, pos, end, s->letters | QI__NUMBER);
  if (stop > pos) return qi__skip_newlines(text, stop, end, false);
  return qi__match_lines_or_spaces(text, pos, end);
}

// Letters of a word at pos whose upper-case ones come first: [upper]*[lower]+|[upper]+[lower]*, where upper = \p{L} but a-z,
// lower = \p{L} but A-Z. Letters beyond ASCII count as both (llama.cpp has no tables of case here).
QI__FN size_t qi__match_cased_word(const char *text, size_t pos, size_t end) {
  size_t p = pos, both_end = pos; // after the last letter that is both
  qi__char c;
  for (;; p += c.size) {
    c = qi__char_at(text, p, end);
    if (!(c.cls & QI__LETTER) || (c.cp >= 'a' && c.cp <= 'z')) break;
    if (c.cp >= 0x80) both_end = p + c.size;
  }
  if (c.cls & QI__LETTER) { // lower case follows: all of [lower]+
    while ((c.cls & QI__LETTER) && !(c.cp >= 'A' && c.cp <= 'Z')) {
      p += c.size;
      c = qi__char_at(text, p, end);
    }
    return p;
  }
  return both_end > pos ? both_end : p; // [lower]+ wants one letter: the last that may serve ends the word
}

// [^\r\n\p{L}\p{N}]?(cased word)contraction?|\p{N}{1,max}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_case(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  qi__char c = qi__char_at(text, pos, end);
  size_t p = qi__after_prefix(c, pos, QI__LETTER | QI__NUMBER);
  size_t stop = qi__match_cased_word(text, p, end);
  if (stop > p) return s->suffix ? qi__match_contraction(text, stop, end, true) : stop;
  if (c.cls & QI__NUMBER) return qi__match_number(text, pos, end, s->max);
  stop = qi__match_other(text, pos, end, QI__LETTER | QI__NUMBER);
  if (stop > pos) return qi__skip_newlines(text, stop, end, true);
  return qi__match_lines_or_spaces(text, pos, end);
}

// [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_deepseek3(const char *text, size_t pos, size_t end) {
  qi__char c = qi__char_at(text, pos, end);
  size_t p = pos + 1;
  if (c.cp < 0x80 && (c.cls & (QI__PUNCT | QI__SYMBOL))) {
    while (p < end && (text[p] | 0x20) >= 'a' && (text[p] | 0x20) <= 'z') p++;
    if (p > pos + 1) return p;
  }
  p = qi__after_prefix(c, pos, QI__LETTER | QI__MARK | QI__PUNCT | QI__SYMBOL);
  size_t stop = qi__skip_class(text, p, end, QI__LETTER | QI__MARK, true);
  if (stop > p) return stop;
  p = pos + (c.cp == ' ');
  stop = qi__skip_class(text, p, end, QI__PUNCT | QI__SYMBOL, true);
  if (stop > p) return qi__skip_newlines(text, stop, end, false);
  return qi__match_lines_or_spaces(text, pos, end);
}

QI__FN size_t qi__match_run(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  qi__char c = qi__char_at(text, pos, end);
  bool prefix = (s->prefix == ' ' && c.cp == ' ') || (s->prefix == 's' && (c.cls & QI__SPACE));
  for (int with = prefix; with >= 0; with--) {
    size_t n = 0, p = with ? pos + c.size : pos;
    while (n < s->max) {
      qi__char d = qi__char_at(text, p, end);
      if (!qi__in_set(&s->set, d)) break;
      p += d.size;
      n++;
    }
    if (n >= s->min) return p;
  }
  return pos;
}

QI__FN size_t qi__match(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  switch (s->kind) {
    case QI__SPLIT_RUN: return qi__match_run(s, text, pos, end);
    case QI__SPLIT_GPT2: return qi__match_gpt2(text, pos, end);
    case QI__SPLIT_GPT4: return qi__match_gpt4(s, text, pos, end);
    case QI__SPLIT_CASE: return qi__match_case(s, text, pos, end);
    case QI__SPLIT_DEEPSEEK3: return qi__match_deepseek3(text, pos, end);
    case QI__SPLIT_TRAILING: break;
  }
  return pos;
}

// ---- pieces ----

// End of the piece that begins at pos < end: a match, or what lies before the next match.
QI__FN size_t qi__split_next(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  if (s->kind == QI__SPLIT_TRAILING) { // looked at as a whole: asking at each character would be quadratic
    size_t words_end = pos;
    for (size_t p = pos; p < end;) {
      qi__char c = qi__char_at(text, p, end);
      p += c.size;
      if (!(c.cls & QI__SPACE)) words_end = p;
    }
    return words_end > pos ? words_end : end;
  }
  size_t stop = qi__match(s, text, pos, end);
  if (stop > pos) return stop;
  size_t p = pos;
  do p += qi__char_at(text, p, end).size;
  while (p < end && qi__match(s, text, p, end) == p);
  return p;
}

// Walk over the words of a text. Each step cuts only inside the current piece of the step before.
typedef struct qi__pretokenizer {
  const qi__pre_rule *rule;
  const char *text;
  size_t pos;
  size_t end[QI__PRE_STEPS + 1]; // [0] of the text, [k] of the current piece of step k
  int n_steps;
} qi__pretokenizer;

QI__FN qi__pretokenizer qi__pretokenize(const qi__pre_rule *rule, const char *text, size_t len) {
  qi__pretokenizer t = {rule, text, 0, {len}, 0};
  while (t.n_steps < QI__PRE_STEPS && rule->steps[t.n_steps]) t.n_steps++;
  return t;
}

// The next word is text[*start .. *end), never empty; false at the end of the text. All words together are the text.
QI__FN bool qi__pretokenize_next(qi__pretokenizer *t, size_t *start, size_t *end) {
  if (t->pos >= t->end[0]) return false;
  for (int k = 0; k < t->n_steps; k++)
    if (t->end[k + 1] <= t->pos) t->end[k + 1] = qi__split_next(&qi__splitters[t->rule->steps[k]], t->text, t->pos, t->end[k]);
  *start = t->pos;
  t->pos = t->end[t->n_steps];
  *end = t->pos;
  return true;
}

#endif // QI__PRETOKENIZE_H

#define QI__VOCAB_MAX_TOKENS (1u << 24)
#define QI__VOCAB_MAX_MERGES (1u << 24)
#define QI__VOCAB_MAX_TOKEN_BYTES 65535u

typedef enum qi__vocab_kind {
  QI__VOCAB_SPM = 1, // SentencePiece byte-pair encoding: merges by score
  QI__VOCAB_BPE      // byte-level byte-pair encoding: merges by rank
} qi__vocab_kind;

// tokenizer.ggml.token_type, kept in the low bits of qi__vocab.attrs, and bits of ours above.
enum {
  QI__TOKEN_NORMAL = 1,
  QI__TOKEN_UNKNOWN = 2,
  QI__TOKEN_CONTROL = 3,
  QI__TOKEN_USER = 4,
  QI__TOKEN_UNUSED = 5,
  QI__TOKEN_BYTE = 6,
  QI__TOKEN_TYPE = 7,   // mask of the above
  QI__TOKEN_END = 8,    // ends generation
  QI__TOKEN_RSTRIP = 16 // swallows white space behind it
};

#define QI__KEY_SCORES "tokenizer.ggml.scores"
// Of ours, arrays of u32: ids that end generation beside eos; ids of tokens that swallow the white space behind them.
#define QI__KEY_END_IDS "tokenizer.qinfer.end_token_ids"
#define QI__KEY_RSTRIP_IDS "tokenizer.qinfer.rstrip_token_ids"

// What qi__vocab_layout must know of a file.
typedef struct qi__vocab_counts {
  qi__vocab_kind kind;
  uint32_t n_tokens, n_merges, n_specials; // n_specials: at most so many tokens are found by name in text
  uint32_t token_bytes;                    // of all texts, each with a terminator
  uint32_t max_token;                      // bytes of the longest text
} qi__vocab_counts;

// Immutable once loaded; all memory is the arena's.
typedef struct qi__vocab {
  qi__vocab_kind kind;
  uint32_t n_tokens, max_token;
  uint32_t *offsets;       // [n_tokens + 1]: text of id is texts[offsets[id] ..], with a terminator that counts
  char *texts;
  uint8_t *attrs;          // [n_tokens] type and bits
  float *scores;           // [n_tokens], SPM only
  qi__str_map ids;         // text to id; texts with a zero byte are not in it
  qi__pair_map merges;     // BPE: (left, right) to rank << 32 | joined id
  uint32_t *specials;      // [n_specials] ids of unknown, control and user-defined tokens, sorted by text, then id
  uint32_t n_specials;
  uint32_t special_first[8]; // bit c: a special begins with byte c
  qi_token byte_ids[256];  // token of a byte, -1 = none
  qi_special_tokens special;
  qi_token eom;
  bool space_prefix;       // SPM: a space is put before text
  const qi__pre_rule *pre; // BPE
  char *scratch;           // [2 * (max_token + 1)], while loading
} qi__vocab;

// ---- tokens ----

QI__INLINE const char *qi__token_text(const qi__vocab *v, uint32_t id, size_t *len) {
  *len = v->offsets[id + 1] - v->offsets[id] - 1;
  return v->texts + v->offsets[id];
}
QI__INLINE unsigned qi__token_type(const qi__vocab *v, uint32_t id) { return v->attrs[id] & QI__TOKEN_TYPE; }
QI__INLINE bool qi__token_valid(const qi__vocab *v, qi_token id) { return id >= 0 && (uint32_t)id < v->n_tokens; }

// Ends generation; shown only on request. False for ids out of range.
QI__FN bool qi__token_is_end(const qi__vocab *v, qi_token id) { return qi__token_valid(v, id) && (v->attrs[id] & QI__TOKEN_END); }
QI__FN bool qi__token_is_control(const qi__vocab *v, qi_token id) {
  if (!qi__token_valid(v, id)) return false;
  unsigned type = qi__token_type(v, (uint32_t)id);
  return type == QI__TOKEN_CONTROL || type == QI__TOKEN_UNKNOWN;
}

// Id of a terminated text, -1 = none.
QI__INLINE qi_token qi__token_by_name(const qi__vocab *v, const char *text) {
  int32_t id;
  return qi__str_map_get(&v->ids, text, &id) ? id : -1;
}

// The same for any text. Long ones are looked for one by one, which no one is in a hurry for.
QI__FN qi_token qi__token_find(const qi__vocab *v, const char *text, size_t len) {
  char key[256];
  if (!len || len > v->max_token || memchr(text, 0, len)) return -1;
  if (len < sizeof key) {
    memcpy(key, text, len);
    key[len] = 0;
    return qi__token_by_name(v, key);
  }
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    size_t n;
    const char *t = qi__token_text(v, id, &n);
    if (n == len && !memcmp(t, text, n)) return (qi_token)id;
  }
  return -1;
}

// Byte-level vocabularies write each byte as a character that can be seen: itself where that is so in Latin-1, else one from U+0100
// on (GPT-2's bytes_to_unicode).
QI__FN uint32_t qi__byte_to_char(uint8_t b) {
  if (b <= 0x20) return 0x100u + b;
  if (b >= 0x7F && b <= 0xA0) return 0x100u + 33 + (b - 0x7Fu);
  return b == 0xAD ? 0x100u + 67 : b;
}
// -1: the character stands for no byte.
QI__FN int qi__char_to_byte(uint32_t cp) {
  if (cp >= 0x100) {
    uint32_t k = cp - 0x100;
    return k < 33 ? (int)k : k < 67 ? (int)(0x7F + k - 33) : k == 67 ? 0xAD : -1;
  }
  return qi__byte_to_char((uint8_t)cp) == cp ? (int)cp : -1;
}

// Value of a text of the form <0x4A>; -1 for others.
QI__FN int qi__byte_name_value(const char *text, size_t len) {
  if (len != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
  int value = 0;
  for (int i = 3; i < 5; i++) {
    char c = text[i];
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// ---- counting ----

// What qi__vocab_count looks at.
static const char *const qi__vocab_keys[] = {"tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
                                             "tokenizer.ggml.merges"};

// Names of tokens that end generation wherever they occur, and of those that only serve as end of turn when the file names none.
// The list is llama.cpp's: files often do not say it.
static const char *const qi__end_names[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
    "<|end_of_text|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "<turn|>", "<end_of_utterance>",
    ("<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"), // DeepSeek
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<reponame>", "<|file_sep|>",
};
#define QI__N_EOT_NAMES 5 // the first ones may be the end of turn
#define QI__MAX_END_NAME 32

QI__FN bool qi__is_end_name(const char *text, size_t len) {
  for (size_t i = 0; i < QI__COUNT_OF(qi__end_names); i++)
    if (strlen(qi__end_names[i]) == len && !memcmp(qi__end_names[i], text, len)) return true;
  return false;
}

// Element i of an array of 32-bit numbers.
QI__INLINE uint32_t qi__array_u32(const qi__gguf_array *a, uint64_t i) { return qi__load_u32(a->data + 4 * i); }

// An array with one element a token; *out is empty when it is absent.
QI__FN qi_result qi__vocab_array(const qi__gguf *g, const char *key, qi_meta_type type, uint64_t n_tokens, qi__gguf_array *out,
                                 qi_error *err) {
  memset(out, 0, sizeof *out);
  if (!qi__gguf_find(g, key)) return QI_OK;
  qi_result r = qi__gguf_get_array(g, key, type, true, out, err);
  if (r) return r;
  if (out->count != n_tokens)
    return qi__fail(err, QI_ERR_FORMAT, "%s: %llu elements, but tokenizer.ggml.tokens has %llu", key,
                    (unsigned long long)out->count, (unsigned long long)n_tokens);
  return QI_OK;
}

QI__FN qi_result qi__vocab_find_kind(const qi__gguf *g, qi__vocab_kind *out, qi_error *err) {
  const char *name;
  size_t len;
  qi_result r = qi__gguf_str(g, "tokenizer.ggml.model", true, &name, &len, err);
  if (r) return r;
  if (len == 5 && !memcmp(name, "llama", 5)) *out = QI__VOCAB_SPM;
  else if (len == 4 && !memcmp(name, "gpt2", 4)) *out = QI__VOCAB_BPE;
  else
    return qi__fail(err, QI_ERR_UNSUPPORTED, "tokenizer.ggml.model: '%s' is not supported; known are llama, gpt2",
                    qi__show(name, len).s);
  return QI_OK;
}

// Lengths and kinds of the texts, through cursors: the file need not be in memory. A token that ends generation counts as special
// whatever the file says of it.
QI__FN qi_result qi__vocab_count_texts(const qi__gguf *g, const qi__gguf_array *tokens, const qi__gguf_array *types,
                                       qi__vocab_counts *c, qi_error *err) {
  qi__gguf_cursor text_at, type_at;
  qi__cursor_init(&text_at, &g->resident, tokens->at, err);
  qi__cursor_init(&type_at, &g->resident, types->at, err);
  uint64_t bytes = 0, len;
  for (uint32_t i = 0; i < c->n_tokens; i++) {
    uint32_t type = QI__TOKEN_NORMAL;
    if (qi__cursor_u64(&text_at, &len)) return text_at.result;
    if (len > QI__VOCAB_MAX_TOKEN_BYTES)
      return qi__fail(err, QI_ERR_LIMIT, "tokenizer.ggml.tokens: text %u has %llu bytes, at most %u are allowed", i,
                      (unsigned long long)len, QI__VOCAB_MAX_TOKEN_BYTES);
    bool is_end = false;
    if (len <= QI__MAX_END_NAME) {
      const char *text = (const char *)qi__cursor_take(&text_at, (size_t)len);
      is_end = text && qi__is_end_name(text, (size_t)len);
    } else qi__cursor_skip(&text_at, len);
    if (text_at.result) return text_at.result;
    if (types->count && qi__cursor_u32(&type_at, &type)) return type_at.result;
    if (len > c->max_token) c->max_token = (uint32_t)len;
    bytes += len + 1;
    c->n_specials += (type >= QI__TOKEN_UNKNOWN && type <= QI__TOKEN_USER) || is_end;
  }
  if (bytes >= UINT32_MAX)
    return qi__fail(err, QI_ERR_LIMIT, "tokenizer.ggml.tokens: texts of %llu bytes, fewer than 2^32 - 1 are allowed",
                    (unsigned long long)bytes);
  c->token_bytes = (uint32_t)bytes;
  return QI_OK;
}

// What a vocabulary will need. Errors: QI_ERR_UNSUPPORTED (kind of tokenizer), _FORMAT, _LIMIT.
QI__FN qi_result qi__vocab_count(const qi__gguf *g, qi__vocab_counts *c, qi_error *err) {
  memset(c, 0, sizeof *c);
  qi_result r = qi__vocab_find_kind(g, &c->kind, err);
  if (r) return r;
  qi__gguf_array tokens, types, merges;
  r = qi__gguf_get_array(g, "tokenizer.ggml.tokens", QI_META_STRING, true, &tokens, err);
  if (r) return r;
  if (!tokens.count || tokens.count > QI__VOCAB_MAX_TOKENS)
    return qi__fail(err, QI_ERR_LIMIT, "tokenizer.ggml.tokens: %llu tokens, 1 to %u are allowed", (unsigned long long)tokens.count,
                    QI__VOCAB_MAX_TOKENS);
  c->n_tokens = (uint32_t)tokens.count;
  r = qi__vocab_array(g, "tokenizer.ggml.token_type", QI_META_I32, tokens.count, &types, err);
  if (r) return r;
  r = qi__vocab_count_texts(g, &tokens, &types, c, err);
  if (r || c->kind != QI__VOCAB_BPE) return r;
  r = qi__gguf_get_array(g, "tokenizer.ggml.merges", QI_META_STRING, true, &merges, err);
  if (r) return r;
  if (merges.count > QI__VOCAB_MAX_MERGES)
    return qi__fail(err, QI_ERR_LIMIT, "tokenizer.ggml.merges: %llu merges, at most %u are allowed",
                    (unsigned long long)merges.count, QI__VOCAB_MAX_MERGES);
  c->n_merges = (uint32_t)merges.count;
  return QI_OK;
}

// Takes the memory of a vocabulary: once with a counting arena, once with a real one (then qi__vocab_load must follow).
QI__FN void qi__vocab_layout(qi__vocab *v, qi__arena *arena, const qi__vocab_counts *c) {
  memset(v, 0, sizeof *v);
  v->kind = c->kind;
  v->n_tokens = c->n_tokens;
  v->max_token = c->max_token;
  v->n_specials = c->n_specials;
  v->offsets = QI__ARENA_ARRAY(arena, uint32_t, (size_t)c->n_tokens + 1);
  v->texts = QI__ARENA_ARRAY(arena, char, c->token_bytes);
  v->attrs = QI__ARENA_ARRAY(arena, uint8_t, c->n_tokens);
  v->specials = QI__ARENA_ARRAY(arena, uint32_t, c->n_specials);
  v->scratch = QI__ARENA_ARRAY(arena, char, 2 * ((size_t)c->max_token + 1));
  qi__str_map_init(&v->ids, arena, c->n_tokens);
  if (c->kind == QI__VOCAB_SPM) v->scores = QI__ARENA_ARRAY(arena, float, c->n_tokens);
  else qi__pair_map_init(&v->merges, arena, c->n_merges);
}

// ---- loading ----

QI__FN qi_result qi__vocab_load_tokens(qi__vocab *v, const qi__gguf *g, qi_error *err) {
  qi__gguf_array tokens, types, scores;
  qi_result r = qi__gguf_get_array(g, "tokenizer.ggml.tokens", QI_META_STRING, true, &tokens, err);
  if (!r) r = qi__vocab_array(g, "tokenizer.ggml.token_type", QI_META_I32, v->n_tokens, &types, err);
  if (!r) r = qi__vocab_array(g, "tokenizer.ggml.scores", QI_META_F32, v->n_tokens, &scores, err);
  if (r) return r;
  uint32_t at = 0;
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    const char *text;
    size_t len;
    if (!qi__gguf_next_string(&tokens, &text, &len))
      return qi__fail(err, QI_ERR_FORMAT, "tokenizer.ggml.tokens: text %u lies beyond the array's end", id);
    v->offsets[id] = at;
    memcpy(v->texts + at, text, len);
    v->texts[at + len] = 0;
    if (len && !memchr(text, 0, len)) qi__str_map_put(&v->ids, v->texts + at, (int32_t)id);
    at += (uint32_t)len + 1;
    uint32_t type = types.count ? qi__array_u32(&types, id) : QI__TOKEN_NORMAL;
    v->attrs[id] = (uint8_t)(type >= QI__TOKEN_NORMAL && type <= QI__TOKEN_BYTE ? type : QI__TOKEN_NORMAL);
    if (v->scores) v->scores[id] = scores.count ? qi__bits_f32(qi__array_u32(&scores, id)) : 0;
  }
  v->offsets[v->n_tokens] = at;
  return QI_OK;
}

// Tokens that stand for single bytes.
QI__FN void qi__vocab_find_bytes(qi__vocab *v, const qi_logger *logger) {
  int n_missing = 0;
  for (int b = 0; b < 256; b++) {
    char name[8];
    if (v->kind == QI__VOCAB_SPM) {
      snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
      v->byte_ids[b] = qi__token_by_name(v, name);
    }
    if (v->kind == QI__VOCAB_BPE || v->byte_ids[b] < 0) {
      uint32_t cp = v->kind == QI__VOCAB_BPE ? qi__byte_to_char((uint8_t)b) : 0;
      size_t n = cp ? qi__utf8_put(cp, name) : 1;
      if (!cp) name[0] = (char)b;
      name[n] = 0;
      v->byte_ids[b] = name[0] ? qi__token_by_name(v, name) : -1;
    }
    n_missing += v->byte_ids[b] < 0;
  }
  if (n_missing)
    qi__log(logger, QI_LOG_INFO, "tokenizer.ggml.tokens: %d of 256 bytes have no token; in text they become unknown", n_missing);
}

// A special id from the file: -1 where it says nothing and `id` (the default) is not in the vocabulary.
QI__FN qi_result qi__vocab_special_id(const qi__vocab *v, const qi__gguf *g, const char *key, qi_token *id, qi_error *err) {
  uint32_t value = UINT32_MAX;
  bool present = qi__gguf_find(g, key) != NULL;
  if (!present) {
    if (!qi__token_valid(v, *id)) *id = -1;
    return QI_OK;
  }
  qi_result r = qi__gguf_u32(g, key, true, &value, err);
  if (r) return r;
  if (value == UINT32_MAX) { // some converters write "none" so
    *id = -1;
    return QI_OK;
  }
  if (value >= v->n_tokens) return qi__fail(err, QI_ERR_FORMAT, "%s: %u, but there are %u tokens", key, value, v->n_tokens);
  *id = (qi_token)value;
  return QI_OK;
}

QI__FN qi_result qi__vocab_load_special(qi__vocab *v, const qi__gguf *g, qi_error *err) {
  bool spm = v->kind == QI__VOCAB_SPM;
  qi_special_tokens *s = &v->special;
  s->bos = spm ? 1 : -1;
  s->eos = spm ? 2 : -1;
  s->unk = spm ? 0 : -1;
  s->eot = s->pad = v->eom = -1;
  s->add_bos = spm || (v->pre->flags & QI__PRE_ADD_BOS);
  s->add_eos = false;
  v->space_prefix = spm;
  qi_result r = qi__vocab_special_id(v, g, "tokenizer.ggml.bos_token_id", &s->bos, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.eos_token_id", &s->eos, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.eot_token_id", &s->eot, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.eom_token_id", &v->eom, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.unknown_token_id", &s->unk, err);
  if (!r) r = qi__vocab_special_id(v, g, "tokenizer.ggml.padding_token_id", &s->pad, err);
  if (!r) r = qi__gguf_bool(g, "tokenizer.ggml.add_bos_token", false, &s->add_bos, err);
  if (!r) r = qi__gguf_bool(g, "tokenizer.ggml.add_eos_token", false, &s->add_eos, err);
  if (!r && spm) r = qi__gguf_bool(g, "tokenizer.ggml.add_space_prefix", false, &v->space_prefix, err);
  if (r) return r;
  qi_token newline = qi__token_by_name(v, "\n");
  s->nl = newline >= 0 && qi__token_type(v, (uint32_t)newline) == QI__TOKEN_USER ? newline : v->byte_ids['\n'];
  return QI_OK;
}

// Marks what ends generation, and finds the end of turn by its name when the file does not give it.
QI__FN void qi__vocab_mark_ends(qi__vocab *v, const qi_logger *logger) {
  for (size_t i = 0; i < QI__COUNT_OF(qi__end_names); i++) {
    qi_token id = qi__token_by_name(v, qi__end_names[i]);
    if (id < 0) continue;
    if (qi__token_type(v, (uint32_t)id) != QI__TOKEN_CONTROL)
      qi__log(logger, QI_LOG_WARN, "token %d '%s' ends generation, so it counts as a control token; the file has type %u", (int)id,
              qi__end_names[i], qi__token_type(v, (uint32_t)id));
    v->attrs[id] = QI__TOKEN_CONTROL | QI__TOKEN_END;
    if (v->special.eot < 0 && i < QI__N_EOT_NAMES) v->special.eot = id;
  }
  const qi_token ends[] = {v->special.eos, v->special.eot, v->eom};
  for (size_t i = 0; i < QI__COUNT_OF(ends); i++)
    if (ends[i] >= 0) v->attrs[ends[i]] |= QI__TOKEN_END;
}

// Sets a bit of the tokens in an array of ids; ids out of range do not count. *present: the file has the array.
QI__FN qi_result qi__vocab_mark_ids(qi__vocab *v, const qi__gguf *g, const char *key, unsigned bit, bool *present, qi_error *err) {
  qi__gguf_array ids;
  *present = qi__gguf_find(g, key) != NULL;
  qi_result r = qi__gguf_get_array(g, key, QI_META_U32, false, &ids, err);
  for (uint64_t i = 0; !r && i < ids.count; i++) {
    uint32_t id = qi__array_u32(&ids, i);
    if (id < v->n_tokens) v->attrs[id] = (uint8_t)(v->attrs[id] | bit);
  }
  return r;
}

// Copies a slice to the scratch space as a terminated text and looks it up; -1 = no token, or none that merging may make: the names
// of control tokens in a text of strangers must stay text.
QI__FN qi_token qi__vocab_lookup(const qi__vocab *v, char *scratch, const char *text, size_t len) {
  if (!len || len > v->max_token || memchr(text, 0, len)) return -1;
  memcpy(scratch, text, len);
  scratch[len] = 0;
  qi_token id = qi__token_by_name(v, scratch);
  return qi__token_is_control(v, id) ? -1 : id;
}

QI__FN qi_result qi__vocab_load_merges(qi__vocab *v, const qi__gguf *g, const qi_logger *logger, qi_error *err) {
  qi__gguf_array merges;
  qi_result r = qi__gguf_get_array(g, "tokenizer.ggml.merges", QI_META_STRING, true, &merges, err);
  if (r) return r;
  uint32_t n = (uint32_t)merges.count, n_ignored = 0;
  for (uint32_t rank = 0; rank < n; rank++) {
    const char *text;
    size_t len;
    if (!qi__gguf_next_string(&merges, &text, &len))
      return qi__fail(err, QI_ERR_FORMAT, "tokenizer.ggml.merges: text %u lies beyond the array's end", rank);
    const char *space = len > 1 ? (const char *)memchr(text + 1, ' ', len - 1) : NULL;
    size_t n_left = space ? (size_t)(space - text) : len, n_right = space ? len - n_left - 1 : 0;
    qi_token left = qi__vocab_lookup(v, v->scratch, text, n_left);
    qi_token right = space ? qi__vocab_lookup(v, v->scratch, space + 1, n_right) : -1;
    qi_token joined = -1;
    if (left >= 0 && right >= 0) { // each fits a half of the scratch space
      char *both = v->scratch + n_left;
      memcpy(v->scratch, text, n_left);
      memcpy(both, space + 1, n_right);
      both[n_right] = 0;
      joined = qi__token_by_name(v, v->scratch);
    }
    if (joined < 0 || qi__token_is_control(v, joined)) n_ignored++;
    else qi__pair_map_put(&v->merges, (uint32_t)left, (uint32_t)right, (int64_t)((uint64_t)rank << 32 | (uint32_t)joined));
  }
  if (n_ignored)
    qi__log(logger, QI_LOG_WARN, "tokenizer.ggml.merges: %u of %u are not made of tokens and were ignored", n_ignored, n);
  return QI_OK;
}

// SentencePiece's scores from the order of merges, for files that have merges and no scores but zeros: a token's score is minus the
// rank of the first merge that makes it. Tokens that no merge makes are never joined.
QI__FN qi_result qi__vocab_rank_scores(qi__vocab *v, const qi__gguf *g, qi_error *err) {
  qi__gguf_array merges;
  const uint32_t never = 0xff800000u; // minus infinity
  qi_result r = qi__gguf_get_array(g, "tokenizer.ggml.merges", QI_META_STRING, false, &merges, err);
  if (r || !merges.count) return r;
  for (uint32_t id = 0; id < v->n_tokens; id++)
    if (qi__f32_bits(v->scores[id]) & 0x7fffffffu) return QI_OK;
  for (uint32_t id = 0; id < v->n_tokens; id++) v->scores[id] = qi__bits_f32(never);
  const char *text;
  size_t len;
  for (uint64_t rank = 0; qi__gguf_next_string(&merges, &text, &len); rank++) {
    const char *space = len > 2 ? (const char *)memchr(text + 1, ' ', len - 2) : NULL;
    if (!space || len - 1 > v->max_token) continue;
    size_t n_left = (size_t)(space - text);
    memcpy(v->scratch, text, n_left);
    memcpy(v->scratch + n_left, space + 1, len - n_left - 1);
    v->scratch[len - 1] = 0;
    qi_token id = qi__token_by_name(v, v->scratch);
    if (id >= 0 && qi__f32_bits(v->scores[id]) == never) v->scores[id] = -(float)rank;
  }
  return QI_OK;
}

// ---- specials ----

QI__FN bool qi__special_before(const qi__vocab *v, uint32_t a, uint32_t b) {
  size_t n, m;
  const char *s = qi__token_text(v, a, &n), *t = qi__token_text(v, b, &m);
  int order = memcmp(s, t, qi__min_size(n, m));
  return order ? order < 0 : n != m ? n < m : a < b;
}

QI__FN void qi__specials_sift(const qi__vocab *v, size_t i, size_t n) {
  uint32_t *heap = v->specials, id = heap[i];
  for (size_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
    if (child + 1 < n && qi__special_before(v, heap[child], heap[child + 1])) child++;
    if (!qi__special_before(v, id, heap[child])) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = id;
}

// Index of the tokens that are found by name in text: heap sort, since qsort knows no context.
QI__FN void qi__vocab_index_specials(qi__vocab *v) {
  size_t n = 0;
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    unsigned type = qi__token_type(v, id);
    size_t len;
    const char *text = qi__token_text(v, id, &len);
    if (!len || type < QI__TOKEN_UNKNOWN || type > QI__TOKEN_USER) continue;
    v->specials[n++] = id;
    v->special_first[(uint8_t)text[0] >> 5] |= 1u << ((uint8_t)text[0] & 31);
  }
  v->n_specials = (uint32_t)n;
  for (size_t i = n / 2; i-- > 0;) qi__specials_sift(v, i, n);
  while (n > 1) {
    uint32_t last = v->specials[0];
    v->specials[0] = v->specials[--n];
    v->specials[n] = last;
    qi__specials_sift(v, 0, n);
  }
}

// Phi-3's added tokens take the white space behind them; files do not say so, llama.cpp knows it by the model's name.
QI__FN qi_result qi__vocab_mark_rstrip(qi__vocab *v, const qi__gguf *g, qi_error *err) {
  static const char *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};
  const char *name = NULL;
  size_t len = 0;
  bool listed;
  qi_result r = qi__vocab_mark_ids(v, g, QI__KEY_RSTRIP_IDS, QI__TOKEN_RSTRIP, &listed, err);
  if (r || listed) return r;
  r = qi__gguf_str(g, "general.name", false, &name, &len, err);
  if (r) return r;
  bool phi3 = false;
  for (size_t i = 0; name && i + 4 <= len && !phi3; i++) {
    if ((name[i] | 0x20) != 'p' || (name[i + 1] | 0x20) != 'h' || (name[i + 2] | 0x20) != 'i') continue;
    phi3 = name[i + 3] == '3' || (i + 5 <= len && name[i + 3] == '-' && name[i + 4] == '3');
  }
  if (!phi3) return QI_OK;
  for (uint32_t i = 0; i < v->n_specials; i++) v->attrs[v->specials[i]] |= QI__TOKEN_RSTRIP;
  for (size_t i = 0; i < QI__COUNT_OF(plain); i++) {
    qi_token id = qi__token_by_name(v, plain[i]);
    if (id >= 0) v->attrs[id] &= (uint8_t)~QI__TOKEN_RSTRIP;
  }
  return QI_OK;
}

// ---- all of it ----

QI__FN qi_result qi__vocab_load_pre(qi__vocab *v, const qi__gguf *g, const qi_logger *logger, qi_error *err) {
  const char *name = NULL;
  size_t len = 0;
  qi_result r = qi__gguf_str(g, "tokenizer.ggml.pre", false, &name, &len, err);
  if (r) return r;
  v->pre = name ? qi__pre_find(name, len) : NULL;
  if (v->pre) return QI_OK;
  v->pre = &qi__pre_rules[0];
  if (name)
    qi__log(logger, QI_LOG_WARN, "tokenizer.ggml.pre: '%s' is not known here, text is split by the default rule; results will be "
            "worse. A row in qi__pre_rules adds it", qi__show(name, len).s);
  else
    qi__log(logger, QI_LOG_WARN, "tokenizer.ggml.pre is missing, text is split by the default rule; results may be worse");
  return QI_OK;
}

// Fills in a vocabulary that was laid out for this file. Allocates nothing. Errors: QI_ERR_FORMAT (also special ids out of range).
QI__FN qi_result qi__vocab_load(qi__vocab *v, const qi__gguf *g, const qi_logger *logger, qi_error *err) {
  qi_result r = qi__vocab_load_tokens(v, g, err);
  if (!r && v->kind == QI__VOCAB_BPE) r = qi__vocab_load_pre(v, g, logger, err);
  if (r) return r;
  qi__vocab_find_bytes(v, logger);
  r = qi__vocab_load_special(v, g, err);
  if (r) return r;
  bool listed;
  qi__vocab_mark_ends(v, logger);
  r = qi__vocab_mark_ids(v, g, QI__KEY_END_IDS, QI__TOKEN_END, &listed, err);
  if (!r) r = v->kind == QI__VOCAB_BPE ? qi__vocab_load_merges(v, g, logger, err) : qi__vocab_rank_scores(v, g, err);
  if (r) return r;
  qi__vocab_index_specials(v);
  return qi__vocab_mark_rstrip(v, g, err);
}

#endif // QI__VOCAB_H

// tokenizer.json describes a pipeline: normalizer, pre-tokenizer, model, post-processor. Two pipelines are known here, both with a
// BPE model: byte-level (GPT-2, Llama 3, Qwen), and SentencePiece's as Hugging Face writes it (Llama 2, Mistral): blanks are
// U+2581, unknown characters become byte tokens. Both are written as GGUF has them; there SentencePiece needs scores, which
// qi__vocab_load makes of the order of merges.

#define QI__HF_MAX_NAME 128    // bytes of the names of special tokens
#define QI__HF_MAX_REGEX 1024
#define QI__HF_MAX_NESTING 4   // of Sequences
#define QI__HF_MAX_PADDING 65536u // ids without a token
#define QI__HF_MAX_TOKENIZER_BYTES (1u << 30)

typedef struct qi__hf_tokenizer {
  char model_type[16], unk[QI__HF_MAX_NAME];
  bool byte_fallback, ignore_merges;
  bool byte_level, blanks, prefix;       // prefix: a blank is put before text
  uint8_t steps[QI__PRE_STEPS + 1];      // QI__S_* of the pre-tokenizers
  size_t n_steps;
  uint64_t vocab_pos, added_pos, merges_pos; // where these values begin; 0 = absent
  uint64_t vocab_bytes, added_bytes;     // of the texts
  uint32_t n_vocab, n_added, n_rstrip, n_merges;
  uint32_t n_ids;                        // highest id + 1
  bool has_template;                     // a TemplateProcessing tells of begin and end tokens:
  int add_bos, add_eos;                  // -1: not said
  // tokenizer_config.json
  char bos_name[QI__HF_MAX_NAME], eos_name[QI__HF_MAX_NAME], pad_name[QI__HF_MAX_NAME];
  uint64_t template_pos;                 // of the chat template; 0 = absent
  uint32_t bos, eos, pad, unk_id;        // QI__HF_ABSENT: none
} qi__hf_tokenizer;

// ---- splitting ----

#define QI__HF_CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define QI__HF_TAIL "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QI__HF_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define QI__HF_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

// The expressions of Split pre-tokenizers that are known, as the files write them.
static const struct {
  const char *regex;
  uint8_t step;
} qi__hf_regexes[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", QI__S_GPT2},
    {QI__HF_CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" QI__HF_TAIL, QI__S_GPT4},
    {QI__HF_CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" QI__HF_TAIL, QI__S_GPT4_DIGIT},
    {QI__HF_CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" QI__HF_TAIL,
     QI__S_GPT4_MARKS},
    {"[^\\r\\n\\p{L}\\p{N}]?" QI__HF_UPPER "*" QI__HF_LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" QI__HF_UPPER "+" QI__HF_LOWER
     "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" QI__HF_TAIL, QI__S_TEKKEN},
    {"[^\\r\\n\\p{L}\\p{N}]?" QI__HF_UPPER "*" QI__HF_LOWER "+" QI__HF_CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?" QI__HF_UPPER
     "+" QI__HF_LOWER "*" QI__HF_CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" QI__HF_TAIL, QI__S_GPT4O},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
     QI__HF_TAIL, QI__S_DEEPSEEK3},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
     "\\s*[\r\n]+|\\s+(?!\\S)|\\s+", QI__S_DEEPSEEK3},
    {"\\p{N}{1,3}", QI__S_DIGITS_1_3},
    {"\\p{N}", QI__S_DIGIT},
    {"\\p{N}+", QI__S_DIGITS},
    {"[0-9][0-9][0-9]", QI__S_ASCII_DIGITS_3},
    {"[\r\n]", QI__S_NEWLINE},
    {"\\s?\\p{L}+", QI__S_LETTERS},
    {"\\s?\\p{P}+", QI__S_PUNCTS},
    {"\\s+$", QI__S_TRAILING},
    {"[\xE4\xB8\x80-\xE9\xBE\xA5\xE0\xA0\x80-\xE4\xB8\x80\xEA\xB0\x80-\xED\x9F\xBF]+", QI__S_CJK},
    {"[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+", QI__S_CJK_KANA},
    {" ?[^(\\s|.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C)]+", QI__S_BLOOM},
    {" ?[^(\\s|[.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C])]+", QI__S_BLOOM},
};

// One object of the pipeline, its values gathered before its type may be known.
typedef struct qi__hf_stage {
  char type[24], pattern[24], content[24], behavior[24], scheme[24];
  char regex[QI__HF_MAX_REGEX + 1];
  size_t regex_len;       // the full length; 0 = none
  bool use_regex, individual, invert, split;
  int add_prefix;         // -1: not said
} qi__hf_stage;

QI__FN void qi__hf_add_step(qi__json *j, qi__hf_tokenizer *t, uint8_t step) {
  if (t->n_steps == QI__PRE_STEPS) qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: more than %d steps", QI__PRE_STEPS);
  else t->steps[t->n_steps++] = step;
}

QI__FN void qi__hf_apply_split(qi__json *j, qi__hf_tokenizer *t, const qi__hf_stage *s) {
  bool isolated = qi__hf_is(s->behavior, "Isolated") || (qi__hf_is(s->behavior, "Removed") && s->invert);
  for (size_t i = 0; i < QI__COUNT_OF(qi__hf_regexes); i++) {
    if (!isolated || strlen(qi__hf_regexes[i].regex) != s->regex_len || memcmp(qi__hf_regexes[i].regex, s->regex, s->regex_len))
      continue;
    qi__hf_add_step(j, t, qi__hf_regexes[i].step);
    return;
  }
  if (s->regex_len && isolated)
    qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: Split by '%s' is not known here",
                  qi__show(s->regex, qi__min_size(s->regex_len, QI__HF_MAX_REGEX)).s);
  else
    qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: Split with behavior '%s' is not supported",
                  qi__show_text(s->behavior).s);
}

QI__FN void qi__hf_apply_pre_tokenizer(qi__json *j, qi__hf_tokenizer *t, const qi__hf_stage *s) {
  if (qi__hf_is(s->type, "Sequence")) return; // its parts were applied
  if (qi__hf_is(s->type, "ByteLevel")) {
    t->byte_level = true;
    if (s->add_prefix == 1) qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: ByteLevel with add_prefix_space is not supported");
    if (s->use_regex) qi__hf_add_step(j, t, QI__S_GPT2);
  } else if (qi__hf_is(s->type, "Split")) {
    qi__hf_apply_split(j, t, s);
  } else if (qi__hf_is(s->type, "Digits")) {
    qi__hf_add_step(j, t, s->individual ? QI__S_DIGIT : QI__S_DIGITS);
  } else if (qi__hf_is(s->type, "Punctuation") && qi__hf_is(s->behavior, "Contiguous")) {
    qi__hf_add_step(j, t, QI__S_PUNCT_RUN_TICK);
  } else if (qi__hf_is(s->type, "Metaspace")) {
    if (s->split) qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: Metaspace that splits is not supported");
    t->blanks = true;
    t->prefix = s->scheme[0] ? !qi__hf_is(s->scheme, "never") : s->add_prefix != 0;
  } else {
    qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: type '%s' is not supported", qi__show_text(s->type).s);
  }
}

QI__FN void qi__hf_apply_normalizer(qi__json *j, qi__hf_tokenizer *t, const qi__hf_stage *s) {
  const char *blank = "\xE2\x96\x81";
  if (qi__hf_is(s->type, "Sequence") || qi__hf_is(s->type, "NFC")) return; // text that is not NFC gives other tokens, as in GGUF
  if (qi__hf_is(s->type, "Prepend") && qi__hf_is(s->content, blank)) t->prefix = true;
  else if (qi__hf_is(s->type, "Replace") && qi__hf_is(s->pattern, " ") && qi__hf_is(s->content, blank)) t->blanks = true;
  else
    qi__json_fail(j, QI_ERR_UNSUPPORTED, "normalizer: type '%s' is not supported (or not in this form)", qi__show_text(s->type).s);
}

// {"String": "..."} or {"Regex": "..."}.
QI__FN void qi__hf_read_pattern(qi__json *j, qi__hf_stage *s) {
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "String")) qi__json_text(j, s->pattern, sizeof s->pattern);
    else if (qi__json_key_is(j, "Regex")) qi__json_string(j, s->regex, QI__HF_MAX_REGEX, &s->regex_len);
    else qi__json_skip(j);
  }
}

// A normalizer or a pre-tokenizer, or null.
QI__FN void qi__hf_read_stage(qi__json *j, qi__hf_tokenizer *t, bool normalizer, int nesting) {
  qi__hf_stage s;
  if (qi__json_take_null(j)) return;
  memset(&s, 0, sizeof s);
  s.use_regex = s.split = true;
  s.add_prefix = -1;
  if (nesting > QI__HF_MAX_NESTING) qi__json_fail(j, QI_ERR_LIMIT, "Sequences nest deeper than %d", QI__HF_MAX_NESTING);
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    bool flag = false;
    if (qi__json_key_is(j, "type")) qi__json_text(j, s.type, sizeof s.type);
    else if (qi__json_key_is(j, "content") || qi__json_key_is(j, "prepend")) qi__json_text(j, s.content, sizeof s.content);
    else if (qi__json_key_is(j, "behavior")) qi__json_text(j, s.behavior, sizeof s.behavior);
    else if (qi__json_key_is(j, "prepend_scheme")) qi__json_text(j, s.scheme, sizeof s.scheme);
    else if (qi__json_key_is(j, "pattern")) qi__hf_read_pattern(j, &s);
    else if (qi__json_key_is(j, "use_regex")) qi__json_bool(j, &s.use_regex);
    else if (qi__json_key_is(j, "individual_digits")) qi__json_bool(j, &s.individual);
    else if (qi__json_key_is(j, "invert")) qi__json_bool(j, &s.invert);
    else if (qi__json_key_is(j, "split")) qi__json_bool(j, &s.split);
    else if (qi__json_key_is(j, "add_prefix_space")) qi__json_bool(j, &flag), s.add_prefix = flag;
    else if (qi__json_key_is(j, normalizer ? "normalizers" : "pretokenizers"))
      for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) qi__hf_read_stage(j, t, normalizer, nesting + 1);
    else qi__json_skip(j);
  }
  if (j->result) return;
  if (normalizer) qi__hf_apply_normalizer(j, t, &s);
  else qi__hf_apply_pre_tokenizer(j, t, &s);
}

// Name of the rule in GGUF; NULL when no rule has these steps.
QI__FN const char *qi__hf_pre_name(const qi__hf_tokenizer *t) {
  const char *name = NULL;
  for (size_t i = 0; i < QI__COUNT_OF(qi__pre_rules) && t->n_steps; i++) {
    const qi__pre_rule *rule = &qi__pre_rules[i];
    bool same_flags = ((rule->flags & QI__PRE_IGNORE_MERGES) != 0) == t->ignore_merges;
    if (memcmp(rule->steps, t->steps, QI__PRE_STEPS)) continue;
    if (same_flags) return rule->name;
    if (!name) name = rule->name; // makes a difference only for tokens that merges do not reach
  }
  return name;
}

// ---- begin and end ----

// [{"SpecialToken": {...}}, {"Sequence": {...}}, ...]
QI__FN void qi__hf_read_single(qi__json *j, qi__hf_tokenizer *t) {
  bool text_seen = false;
  t->has_template = true;
  t->add_bos = t->add_eos = 0;
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);)
    for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
      if (qi__json_key_is(j, "Sequence")) text_seen = true;
      else if (qi__json_key_is(j, "SpecialToken")) *(text_seen ? &t->add_eos : &t->add_bos) = 1;
      qi__json_skip(j);
    }
}

QI__FN void qi__hf_read_post_processor(qi__json *j, qi__hf_tokenizer *t, int nesting) {
  if (qi__json_take_null(j)) return;
  if (nesting > QI__HF_MAX_NESTING) qi__json_fail(j, QI_ERR_LIMIT, "Sequences nest deeper than %d", QI__HF_MAX_NESTING);
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "single")) qi__hf_read_single(j, t);
    else if (qi__json_key_is(j, "processors"))
      for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) qi__hf_read_post_processor(j, t, nesting + 1);
    else qi__json_skip(j);
  }
}

// ---- tokens ----

// One of added_tokens.
typedef struct qi__hf_added {
  uint32_t id;
  char name[QI__HF_MAX_NAME]; // cut
  size_t len;
  uint64_t pos;               // of its content
  bool special, rstrip;
} qi__hf_added;

QI__FN void qi__hf_read_added(qi__json *j, qi__hf_added *a) {
  memset(a, 0, sizeof *a);
  a->id = QI__HF_ABSENT;
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "id")) {
      qi__json_u32(j, &a->id);
    } else if (qi__json_key_is(j, "content")) {
      qi__json_peek(j);
      a->pos = qi__json_pos(j);
      qi__json_string(j, a->name, sizeof a->name - 1, &a->len);
    } else if (qi__json_key_is(j, "special")) {
      qi__json_bool(j, &a->special);
    } else if (qi__json_key_is(j, "rstrip")) {
      qi__json_bool(j, &a->rstrip);
    } else {
      qi__json_skip(j);
    }
  }
  if (!j->result && (a->id == QI__HF_ABSENT || !a->pos)) qi__json_fail(j, QI_ERR_FORMAT, "an added token needs id and content");
}

QI__FN bool qi__hf_added_is(const qi__hf_added *a, const char *name) {
  return name[0] && a->len == strlen(name) && a->len < sizeof a->name && !memcmp(a->name, name, a->len);
}

// Begins to walk over a value that was passed before: the array or object at `pos`.
QI__FN void qi__hf_walk(qi__json *j, const qi__file *f, uint64_t pos, qi__json_type type, qi_error *err) {
  qi__json_init(j, f, pos, f->size - pos, err);
  qi__json_enter(j, type);
}

QI__FN void qi__hf_note_id(qi__json *j, qi__hf_tokenizer *t, uint32_t id) {
  if (id >= QI__VOCAB_MAX_TOKENS) qi__json_fail(j, QI_ERR_LIMIT, "a token has the id %u, at most %u are allowed", id,
      QI__VOCAB_MAX_TOKENS);
  else if (id >= t->n_ids) t->n_ids = id + 1;
}

QI__FN void qi__hf_scan_vocab(qi__json *j, qi__hf_tokenizer *t) {
  qi__json_peek(j);
  t->vocab_pos = qi__json_pos(j);
  t->n_vocab = 0;
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    uint32_t id = 0;
    t->vocab_bytes += j->key_len;
    qi__json_u32(j, &id);
    qi__hf_note_id(j, t, id);
    t->n_vocab++;
  }
}

QI__FN void qi__hf_scan_added(qi__json *j, qi__hf_tokenizer *t) {
  if (qi__json_take_null(j)) return;
  t->added_pos = qi__json_pos(j);
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) {
    qi__hf_added a;
    qi__hf_read_added(j, &a);
    if (j->result) return;
    t->added_bytes += a.len;
    t->n_rstrip += a.rstrip;
    qi__hf_note_id(j, t, a.id);
    t->n_added++;
  }
}

QI__FN void qi__hf_scan_model(qi__json *j, qi__hf_tokenizer *t) {
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "vocab") && qi__json_peek(j) == QI__JSON_OBJECT) {
      qi__hf_scan_vocab(j, t);
    } else if (qi__json_key_is(j, "merges") && qi__json_peek(j) == QI__JSON_ARRAY) {
      t->merges_pos = qi__json_pos(j);
      t->n_merges = 0;
      for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j); t->n_merges++) qi__json_skip(j);
    } else if (qi__json_key_is(j, "type")) {
      qi__json_text(j, t->model_type, sizeof t->model_type);
    } else if (qi__json_key_is(j, "unk_token") && qi__json_peek(j) == QI__JSON_STRING) {
      qi__json_text(j, t->unk, sizeof t->unk);
    } else if ((qi__json_key_is(j, "continuing_subword_prefix") || qi__json_key_is(j, "end_of_word_suffix")) &&
               qi__json_peek(j) == QI__JSON_STRING) {
      size_t len;
      qi__json_string(j, NULL, 0, &len);
      if (len) qi__json_fail(j, QI_ERR_UNSUPPORTED, "model: marks inside or at the end of words are not supported");
    } else if (qi__json_key_is(j, "byte_fallback")) {
      qi__json_bool(j, &t->byte_fallback);
    } else if (qi__json_key_is(j, "ignore_merges")) {
      qi__json_bool(j, &t->ignore_merges);
    } else {
      qi__json_skip(j);
    }
  }
}

// ---- scan ----

QI__FN qi_result qi__hf_check_tokenizer(const qi__hf_tokenizer *t, qi_error *err) {
  // Files of before 2022 do not name the type; only BPE has merges.
  if (t->model_type[0] ? !qi__hf_is(t->model_type, "BPE") : !t->merges_pos)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "model: type '%s' is not supported; known is BPE",
                    qi__show_text(t->model_type).s);
  if (!t->vocab_pos || !t->merges_pos) return qi__fail(err, QI_ERR_FORMAT, "model: %s: missing", t->vocab_pos ? "merges" : "vocab");
  if (!t->byte_level && !t->blanks)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "pre_tokenizer: neither ByteLevel nor blanks as U+2581; only these two are supported");
  if (t->byte_level && !qi__hf_pre_name(t))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "pre_tokenizer: this combination of %zu steps is not known here", t->n_steps);
  if (!t->byte_level && t->n_steps)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "pre_tokenizer: splitting is not supported without ByteLevel");
  return QI_OK;
}

// Walks over tokenizer.json, keeps counts and places. Errors: those of JSON, QI_ERR_UNSUPPORTED.
QI__FN qi_result qi__hf_tokenizer_scan(qi__hf_tokenizer *t, const qi__file *f, qi_error *err) {
  qi__json j;
  memset(t, 0, sizeof *t);
  t->add_bos = t->add_eos = -1;
  t->bos = t->eos = t->pad = t->unk_id = QI__HF_ABSENT;
  if (f->size > QI__HF_MAX_TOKENIZER_BYTES)
    return qi__fail(err, QI_ERR_LIMIT, "%llu bytes, at most %u are allowed", (unsigned long long)f->size,
                    QI__HF_MAX_TOKENIZER_BYTES);
  qi__json_init(&j, f, 0, f->size, err);
  for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);) {
    if (qi__json_key_is(&j, "added_tokens")) qi__hf_scan_added(&j, t);
    else if (qi__json_key_is(&j, "normalizer")) qi__hf_read_stage(&j, t, true, 0);
    else if (qi__json_key_is(&j, "pre_tokenizer")) qi__hf_read_stage(&j, t, false, 0);
    else if (qi__json_key_is(&j, "post_processor")) qi__hf_read_post_processor(&j, t, 0);
    else if (qi__json_key_is(&j, "model")) qi__hf_scan_model(&j, t);
    else qi__json_skip(&j);
  }
  qi__json_end(&j);
  return j.result ? j.result : qi__hf_check_tokenizer(t, err);
}

// The name of a special token: a string, or an object with its content, or null.
QI__FN void qi__hf_read_name(qi__json *j, char name[QI__HF_MAX_NAME]) {
  if (qi__json_take_null(j)) return;
  if (qi__json_peek(j) == QI__JSON_STRING) {
    qi__json_text(j, name, QI__HF_MAX_NAME);
    return;
  }
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "content")) qi__json_text(j, name, QI__HF_MAX_NAME);
    else qi__json_skip(j);
  }
}

// A text, or an array of {"name": ..., "template": ...}, of which "default" is taken, else the first.
QI__FN void qi__hf_read_template(qi__json *j, qi__hf_tokenizer *t) {
  if (qi__json_peek(j) == QI__JSON_STRING) {
    t->template_pos = qi__json_pos(j);
    qi__json_skip(j);
  } else if (qi__json_peek(j) == QI__JSON_ARRAY) {
    for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) {
      char name[16] = "";
      uint64_t pos = 0;
      for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
        bool is_template = qi__json_key_is(j, "template") && qi__json_peek(j) == QI__JSON_STRING;
        if (is_template) pos = qi__json_pos(j);
        if (qi__json_key_is(j, "name")) qi__json_text(j, name, sizeof name);
        else qi__json_skip(j);
      }
      if (pos && (!t->template_pos || qi__hf_is(name, "default"))) t->template_pos = pos;
    }
  } else {
    qi__json_skip(j);
  }
}

QI__FN void qi__hf_read_flag(qi__json *j, int *flag) {
  bool v = false;
  if (qi__json_take_null(j)) return;
  qi__json_bool(j, &v);
  *flag = v;
}

// tokenizer_config.json, over what tokenizer.json said.
QI__FN qi_result qi__hf_tokenizer_config(qi__hf_tokenizer *t, const qi__file *f, qi_error *err) {
  qi__json j;
  qi__json_init(&j, f, 0, f->size, err);
  for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);) {
    if (qi__json_key_is(&j, "bos_token")) qi__hf_read_name(&j, t->bos_name);
    else if (qi__json_key_is(&j, "eos_token")) qi__hf_read_name(&j, t->eos_name);
    else if (qi__json_key_is(&j, "pad_token")) qi__hf_read_name(&j, t->pad_name);
    else if (qi__json_key_is(&j, "add_bos_token")) qi__hf_read_flag(&j, &t->add_bos);
    else if (qi__json_key_is(&j, "add_eos_token")) qi__hf_read_flag(&j, &t->add_eos);
    else if (qi__json_key_is(&j, "chat_template")) qi__hf_read_template(&j, t);
    else qi__json_skip(&j);
  }
  qi__json_end(&j);
  return j.result;
}

// Ids of the special names, else those that the configs give. Names are looked for among the added tokens, then in the vocabulary.
QI__FN qi_result qi__hf_find_specials(qi__hf_tokenizer *t, const qi__hf_config *c, const qi__file *f, qi_error *err) {
  const char *const names[] = {t->bos_name, t->eos_name, t->pad_name, t->unk};
  uint32_t *const ids[] = {&t->bos, &t->eos, &t->pad, &t->unk_id};
  const qi__hf_ids *const given[] = {&c->bos, &c->eos, &c->pad, NULL};
  qi__json j;
  j.result = QI_OK;
  if (t->added_pos) {
    for (qi__hf_walk(&j, f, t->added_pos, QI__JSON_ARRAY, err); qi__json_next(&j);) {
      qi__hf_added a;
      qi__hf_read_added(&j, &a);
      for (size_t i = 0; i < QI__COUNT_OF(names) && !j.result; i++)
        if (qi__hf_added_is(&a, names[i])) *ids[i] = a.id;
    }
    if (j.result) return j.result;
  }
  bool all = true;
  for (size_t i = 0; i < QI__COUNT_OF(names); i++) all = all && (!names[i][0] || *ids[i] != QI__HF_ABSENT);
  if (!all) {
    for (qi__hf_walk(&j, f, t->vocab_pos, QI__JSON_OBJECT, err); qi__json_next_key(&j);) {
      uint32_t *match = NULL, id = 0;
      for (size_t i = 0; i < QI__COUNT_OF(names); i++)
        if (names[i][0] && *ids[i] == QI__HF_ABSENT && qi__json_key_is(&j, names[i])) match = ids[i];
      qi__json_u32(&j, &id);
      if (match) *match = id;
    }
  }
  for (size_t i = 0; i < QI__COUNT_OF(names); i++)
    if (*ids[i] == QI__HF_ABSENT && given[i] && given[i]->n) *ids[i] = given[i]->id[0];
  return j.result;
}

// ---- writing ----

// Place and kind of each token.
typedef struct qi__hf_index {
  uint32_t *pos;  // [n_tokens] of its text in tokenizer.json; 0 = no token
  uint8_t *type;  // [n_tokens]
  uint32_t n_tokens;
} qi__hf_index;

QI__FN qi_result qi__hf_count_tokens(const qi__hf_tokenizer *t, const qi__hf_config *c, uint32_t *n_tokens, qi_error *err) {
  uint32_t n = c->n_vocab != QI__HF_ABSENT && c->n_vocab > t->n_ids ? c->n_vocab : t->n_ids;
  if (n > QI__VOCAB_MAX_TOKENS)
    return qi__fail(err, QI_ERR_LIMIT, "vocab_size: %u tokens, at most %u are allowed", n, QI__VOCAB_MAX_TOKENS);
  if (n > t->n_vocab && n - t->n_vocab > t->n_added && n - t->n_vocab - t->n_added > QI__HF_MAX_PADDING)
    return qi__fail(err, QI_ERR_LIMIT, "%u ids for %u tokens: more than %u ids without a token", n, t->n_vocab + t->n_added,
                    QI__HF_MAX_PADDING);
  if (t->n_vocab > n) return qi__fail(err, QI_ERR_FORMAT, "model: %u tokens, but the highest id is %u", t->n_vocab, n - 1);
  *n_tokens = n;
  return QI_OK;
}

// Fills in the index; added tokens replace those of the vocabulary.
QI__FN qi_result qi__hf_index_tokens(const qi__hf_tokenizer *t, const qi__file *f, qi__hf_index *index, qi_error *err) {
  qi__json j;
  memset(index->pos, 0, index->n_tokens * sizeof *index->pos);
  memset(index->type, QI__TOKEN_UNUSED, index->n_tokens);
  for (qi__hf_walk(&j, f, t->vocab_pos, QI__JSON_OBJECT, err); qi__json_next_key(&j);) {
    uint32_t id = index->n_tokens, pos = (uint32_t)j.key_pos;
    bool is_byte = t->byte_fallback && !t->byte_level && qi__byte_name_value(j.key, j.key_len) >= 0;
    bool is_unknown = !t->byte_level && t->unk[0] && qi__json_key_is(&j, t->unk);
    qi__json_u32(&j, &id);
    if (j.result) return j.result;
    if (id >= index->n_tokens || index->pos[id])
      return qi__fail(err, QI_ERR_FORMAT, "model: id %u %s", id, id < index->n_tokens ? "occurs twice" : "was not there before");
    index->pos[id] = pos;
    index->type[id] = is_byte ? QI__TOKEN_BYTE : is_unknown ? QI__TOKEN_UNKNOWN : QI__TOKEN_NORMAL;
  }
  if (j.result || !t->added_pos) return j.result;
  for (qi__hf_walk(&j, f, t->added_pos, QI__JSON_ARRAY, err); qi__json_next(&j);) {
    qi__hf_added a;
    qi__hf_read_added(&j, &a);
    if (j.result || a.id >= index->n_tokens) continue;
    index->pos[a.id] = (uint32_t)a.pos;
    index->type[a.id] = a.special ? QI__TOKEN_CONTROL : QI__TOKEN_USER;
    if (!t->byte_level && qi__hf_added_is(&a, t->unk)) index->type[a.id] = QI__TOKEN_UNKNOWN;
  }
  return j.result;
}

// GGUF has the blanks of user-defined tokens as they are.
QI__FN size_t qi__hf_plain_blanks(uint8_t *text, size_t len) {
  size_t n = 0;
  for (size_t i = 0; i < len; n++) {
    bool blank = len - i >= 3 && !memcmp(text + i, "\xE2\x96\x81", 3);
    text[n] = blank ? ' ' : text[i];
    i += blank ? 3 : 1;
  }
  return n;
}

// Texts in the order of ids; ids without a token get a name as llama.cpp gives it. Counting takes what it can be at most.
QI__FN void qi__hf_write_texts(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__hf_index *index, const qi__file *f,
                               qi_error *err, qi_result *result) {
  const uint64_t longest_padding = 8 + sizeof "[PAD4294967295]" - 1;
  qi__meta_put_array(w, "tokenizer.ggml.tokens", QI_META_STRING, index->n_tokens);
  if (!w->out) {
    uint64_t bytes = t->vocab_bytes + t->added_bytes + 8 * ((uint64_t)t->n_vocab + t->n_added) +
                     longest_padding * (index->n_tokens - t->n_vocab);
    if (bytes > SIZE_MAX) w->overflow = true;
    else qi__meta_room(w, (size_t)bytes);
    return;
  }
  qi__json j;
  qi__json_init(&j, f, 0, f->size, err);
  for (uint32_t id = 0; id < index->n_tokens && !j.result && !w->overflow; id++) {
    qi__meta_open o = qi__meta_text_begin(w);
    size_t len = 0, room = w->cap - w->used;
    char *text = (char *)w->out + w->used;
    if (index->pos[id]) qi__json_string_at(&j, index->pos[id], text, room, &len);
    else len = (size_t)snprintf(text, room, "[PAD%u]", id); // what does not fit is an overflow below
    if (!t->byte_level && index->type[id] == QI__TOKEN_USER && len <= room) len = qi__hf_plain_blanks((uint8_t *)text, len);
    qi__meta_room(w, len);
    qi__meta_text_end(w, o);
  }
  if (j.result) *result = j.result;
}

// Each merge as "left right"; files have that, or a pair of texts.
QI__FN void qi__hf_write_merges(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__file *f, qi_error *err,
    qi_result *result) {
  qi__json j;
  qi__meta_put_array(w, "tokenizer.ggml.merges", QI_META_STRING, t->n_merges);
  for (qi__hf_walk(&j, f, t->merges_pos, QI__JSON_ARRAY, err); qi__json_next(&j);) {
    if (qi__json_peek(&j) != QI__JSON_ARRAY) {
      qi__meta_json_text(w, &j);
      continue;
    }
    int n = 0;
    qi__meta_open o = qi__meta_text_begin(w);
    for (qi__json_enter(&j, QI__JSON_ARRAY); qi__json_next(&j); n++) {
      if (n == 1) qi__meta_bytes(w, " ", 1);
      qi__meta_json_bytes(w, &j);
    }
    if (n != 2) qi__json_fail(&j, QI_ERR_FORMAT, "merges: an array of %d texts, expected 2", n);
    qi__meta_text_end(w, o);
  }
  if (j.result) *result = j.result;
}

QI__FN void qi__hf_write_numbers(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__hf_index *index) {
  qi__meta_put_array(w, "tokenizer.ggml.token_type", QI_META_I32, index->n_tokens);
  uint8_t *types = qi__meta_room(w, 4 * (size_t)index->n_tokens);
  for (uint32_t id = 0; types && id < index->n_tokens; id++) {
    memset(types + 4 * (size_t)id, 0, 4);
    types[4 * (size_t)id] = index->type[id];
  }
  if (t->byte_level) return;
  qi__meta_put_array(w, QI__KEY_SCORES, QI_META_F32, index->n_tokens); // to be filled in: qi__hf_keep_scores
  uint8_t *scores = qi__meta_room(w, 4 * (size_t)index->n_tokens);
  if (scores) memset(scores, 0, 4 * (size_t)index->n_tokens);
}

QI__FN void qi__hf_write_specials(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__hf_config *c) {
  const struct {
    const char *key;
    uint32_t id;
  } ids[] = {{"tokenizer.ggml.bos_token_id", t->bos}, {"tokenizer.ggml.eos_token_id", t->eos},
             {"tokenizer.ggml.padding_token_id", t->pad}, {"tokenizer.ggml.unknown_token_id", t->unk_id}};
  for (size_t i = 0; i < QI__COUNT_OF(ids); i++) // GGUF's default for SentencePiece is not "none"
    if (ids[i].id != QI__HF_ABSENT || !t->byte_level) qi__meta_put_u32(w, ids[i].key, ids[i].id);
  int add_bos = t->add_bos < 0 && t->byte_level ? 0 : t->add_bos;
  if (add_bos >= 0) qi__meta_put_bool(w, "tokenizer.ggml.add_bos_token", add_bos && t->bos != QI__HF_ABSENT);
  if (t->add_eos >= 0) qi__meta_put_bool(w, "tokenizer.ggml.add_eos_token", t->add_eos && t->eos != QI__HF_ABSENT);
  if (!t->byte_level) qi__meta_put_bool(w, "tokenizer.ggml.add_space_prefix", t->prefix);
  qi__meta_put_array(w, QI__KEY_END_IDS, QI_META_U32, c->eos.n);
  for (uint32_t i = 0; i < c->eos.n; i++) qi__meta_u32(w, c->eos.id[i]);
}

// Ids of added tokens that swallow the white space behind them.
QI__FN void qi__hf_write_rstrip(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__file *f, qi_error *err,
    qi_result *result) {
  qi__json j;
  qi__meta_put_array(w, QI__KEY_RSTRIP_IDS, QI_META_U32, t->n_rstrip);
  if (!t->n_rstrip) return;
  for (qi__hf_walk(&j, f, t->added_pos, QI__JSON_ARRAY, err); qi__json_next(&j);) {
    qi__hf_added a;
    qi__hf_read_added(&j, &a);
    if (!j.result && a.rstrip) qi__meta_u32(w, a.id);
  }
  if (j.result) *result = j.result;
}

// GGUF's keys for a tokenizer that was scanned. index->pos and ->type are used only when the writer writes.
QI__FN qi_result qi__hf_write_tokenizer(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__hf_config *c,
                                        const qi__hf_index *index, const qi__file *f, qi_error *err) {
  qi_result r = QI_OK;
  qi__meta_put_str(w, "tokenizer.ggml.model", t->byte_level ? "gpt2" : "llama");
  if (t->byte_level) qi__meta_put_str(w, "tokenizer.ggml.pre", qi__hf_pre_name(t));
  qi__hf_write_texts(w, t, index, f, err, &r);
  qi__hf_write_numbers(w, t, index);
  if (!r) qi__hf_write_merges(w, t, f, err, &r);
  qi__hf_write_specials(w, t, c);
  if (!r) qi__hf_write_rstrip(w, t, f, err, &r);
  return r;
}

#endif // QI__MODEL_HF_TOKENIZER_H
// generated from src/model/safetensors.h: edit there
// ==== >>safetensors : the header of a safetensors file ====
#ifndef QI__MODEL_SAFETENSORS_H
#define QI__MODEL_SAFETENSORS_H


// A safetensors file:
//
//   u64 n (little-endian)    n bytes of JSON    tensor data to the end of the file
//   {"__metadata__": {text: text, ...}, name: {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end]}, ...}
//
// Offsets count from the begin of the data. Tensors cover the data without overlap and without gap (as the reference reader
// demands), in any order in the header; the last dimension runs fastest; nothing is aligned.

#define QI__ST_MAX_HEADER 100000000u // that of the reference reader

typedef struct qi__st_dtype {
  const char *name;
  int bits;
  qi_format format; // NONE: not used as weights
  int gguf_id;      // of the same type in GGUF, -1 = it has none
} qi__st_dtype;

static const qi__st_dtype qi__st_dtypes[] = {
    {"F32", 32, QI_FORMAT_F32, 0}, {"F16", 16, QI_FORMAT_F16, 1},       {"BF16", 16, QI_FORMAT_BF16, 30},
    {"U8", 8, QI_FORMAT_NONE, -1}, {"I8", 8, QI_FORMAT_NONE, 24},       {"I16", 16, QI_FORMAT_NONE, 25},
    {"I32", 32, QI_FORMAT_NONE, 26}, {"I64", 64, QI_FORMAT_NONE, 27},   {"F64", 64, QI_FORMAT_NONE, 28},
    {"U16", 16, QI_FORMAT_NONE, -1}, {"U32", 32, QI_FORMAT_NONE, -1},   {"U64", 64, QI_FORMAT_NONE, -1},
    {"BOOL", 8, QI_FORMAT_NONE, -1}, {"F8_E4M3", 8, QI_FORMAT_NONE, -1}, {"F8_E5M2", 8, QI_FORMAT_NONE, -1},
    {"F8_E8M0", 8, QI_FORMAT_NONE, -1}, {"F6_E2M3", 6, QI_FORMAT_NONE, -1}, {"F6_E3M2", 6, QI_FORMAT_NONE, -1},
    {"F4", 4, QI_FORMAT_NONE, -1}, {"C64", 64, QI_FORMAT_NONE, -1},
};

// One tensor of the header.
typedef struct qi__st_entry {
  char name[QI__GGUF_MAX_NAME + 1];
  const qi__st_dtype *dtype;
  int n_dims;          // 1..4
  uint64_t shape[4];   // GGUF's order: shape[0] runs fastest; unused ones are 1. More than four dimensions are joined in shape[3]
  uint64_t begin, end; // in the data
} qi__st_entry;

typedef struct qi__st_header {
  qi__json json;
  uint64_t data_offset, data_bytes;
} qi__st_header;

// ---- walk ----

// Begins to walk over the header of an open file. Errors: QI_ERR_FORMAT, QI_ERR_LIMIT, QI_ERR_IO.
QI__FN qi_result qi__st_begin(qi__st_header *h, const qi__file *f, qi_error *err) {
  uint8_t b[8] = {0};
  if (f->size < 8) return qi__fail(err, QI_ERR_FORMAT, "header: the file ends after %llu bytes", (unsigned long long)f->size);
  qi_result r = qi__file_read(f, 0, b, sizeof b, err);
  if (r) return r;
  uint64_t n = qi__load_u64(b);
  if (n > QI__ST_MAX_HEADER)
    return qi__fail(err, QI_ERR_LIMIT, "header: %llu bytes, at most %u are allowed (or this is no safetensors file)",
                    (unsigned long long)n, QI__ST_MAX_HEADER);
  if (n > f->size - 8)
    return qi__fail(err, QI_ERR_FORMAT, "header: %llu bytes, but the file has only %llu more", (unsigned long long)n,
                    (unsigned long long)(f->size - 8));
  h->data_offset = 8 + n;
  h->data_bytes = f->size - h->data_offset;
  qi__json_init(&h->json, f, 8, n, err);
  qi__json_enter(&h->json, QI__JSON_OBJECT);
  return h->json.result;
}

QI__FN void qi__st_read_shape(qi__json *j, qi__st_entry *e, uint64_t *n_weights) {
  uint64_t dims[8];
  int n = 0;
  *n_weights = 1;
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j); n++) {
    uint64_t dim = 0;
    if (n == 8) qi__json_fail(j, QI_ERR_LIMIT, "more than 8 dimensions");
    qi__json_u64(j, INT64_MAX, &dim);
    if (j->result) return;
    dims[n] = dim;
    if (!qi__mul_u64(*n_weights, dim, n_weights) || *n_weights > INT64_MAX)
      qi__json_fail(j, QI_ERR_FORMAT, "the number of weights overflows");
  }
  if (j->result) return;
  e->n_dims = n < 1 ? 1 : n > 4 ? 4 : n;
  for (int i = 0; i < n && *n_weights; i++) e->shape[i < 3 ? i : 3] *= dims[n - 1 - i];
}

QI__FN void qi__st_read_dtype(qi__json *j, qi__st_entry *e) {
  char name[16];
  qi__json_text(j, name, sizeof name);
  for (size_t i = 0; i < QI__COUNT_OF(qi__st_dtypes) && !j->result; i++)
    if (!strcmp(name, qi__st_dtypes[i].name)) e->dtype = &qi__st_dtypes[i];
  if (!e->dtype) qi__json_fail(j, QI_ERR_UNSUPPORTED, "dtype '%s' is unknown", qi__show_text(name).s);
}

QI__FN void qi__st_read_offsets(qi__json *j, qi__st_entry *e) {
  int n = 0;
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j); n++) {
    uint64_t v = 0;
    qi__json_u64(j, INT64_MAX, &v);
    if (n == 0) e->begin = v;
    if (n == 1) e->end = v;
  }
  if (n != 2) qi__json_fail(j, QI_ERR_FORMAT, "%d data_offsets, expected begin and end", n);
}

// Checks that the offsets are in the data and hold what dtype and shape say.
QI__FN void qi__st_check(qi__st_header *h, const qi__st_entry *e, uint64_t n_weights) {
  uint64_t bits = 0;
  if (e->begin > e->end || e->end > h->data_bytes)
    qi__json_fail(&h->json, QI_ERR_FORMAT, "data_offsets [%llu, %llu], but there are %llu bytes of data",
                  (unsigned long long)e->begin, (unsigned long long)e->end, (unsigned long long)h->data_bytes);
  else if (!qi__mul_u64(n_weights, (uint64_t)e->dtype->bits, &bits) || bits % 8 || bits / 8 != e->end - e->begin)
    qi__json_fail(&h->json, QI_ERR_FORMAT, "%llu weights of type %s need %llu bytes, data_offsets have %llu",
                  (unsigned long long)n_weights, e->dtype->name, (unsigned long long)(bits / 8),
                  (unsigned long long)(e->end - e->begin));
}

QI__FN void qi__st_read_entry(qi__st_header *h, qi__st_entry *e) {
  qi__json *j = &h->json;
  uint64_t n_weights = 0;
  unsigned seen = 0;
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    unsigned bit = qi__json_key_is(j, "dtype") ? 1 : qi__json_key_is(j, "shape") ? 2 : qi__json_key_is(j, "data_offsets") ? 4 : 0;
    if (bit & seen) qi__json_fail(j, QI_ERR_FORMAT, "%s occurs twice", j->key);
    seen |= bit;
    if (bit == 1) qi__st_read_dtype(j, e);
    else if (bit == 2) qi__st_read_shape(j, e, &n_weights);
    else if (bit == 4) qi__st_read_offsets(j, e);
    else qi__json_skip(j);
  }
  if (!j->result && seen != 7)
    qi__json_fail(j, QI_ERR_FORMAT, "%s is missing", !(seen & 1) ? "dtype" : !(seen & 2) ? "shape" : "data_offsets");
  if (!j->result) qi__st_check(h, e, n_weights);
}

// The next tensor; false at the end of the header, and on failure (then json.result says so). Names are 1 to 127 bytes without
// control characters.
QI__FN bool qi__st_next(qi__st_header *h, qi__st_entry *e) {
  qi__json *j = &h->json;
  memset(e, 0, sizeof *e);
  for (int i = 0; i < 4; i++) e->shape[i] = 1;
  bool more;
  while ((more = qi__json_next_key(j)) && qi__json_key_is(j, "__metadata__")) qi__json_skip(j);
  if (!more) {
    qi__json_end(j);
    return false;
  }
  if (!j->key_len || j->key_len > QI__GGUF_MAX_NAME) {
    qi__json_fail(j, QI_ERR_FORMAT, "a tensor name has %zu bytes, expected 1 to %d", j->key_len, QI__GGUF_MAX_NAME);
    return false;
  }
  for (size_t i = 0; i < j->key_len; i++)
    if ((uint8_t)j->key[i] < 0x20 || j->key[i] == 0x7f)
      qi__json_fail(j, QI_ERR_FORMAT, "a tensor name has a control character, %d", j->key[i]);
  memcpy(e->name, j->key, j->key_len + 1);
  qi__st_read_entry(h, e);
  if (j->result && j->result != QI_ERR_IO) qi__fail_prefix(j->err, "header: tensor %.64s: ", e->name);
  return !j->result;
}

#endif // QI__MODEL_SAFETENSORS_H

// A folder holds config.json, tokenizer.json, maybe tokenizer_config.json, generation_config.json and chat_template.jinja, and the
// weights: model.safetensors, or model.safetensors.index.json with model-00001-of-0000N.safetensors and so on. All of it becomes
// one qi__gguf: part 0 is a block of memory with the metadata in GGUF's form and the factors of rope_scaling as tensors, the other
// parts are the files of weights, whose tensors get GGUF's names and stay where they are.

#define QI__HF_MAX_PATH 4096
#define QI__HF_MAX_FILE 256

typedef struct qi__hf {
  const qi_model_desc *desc;
  char dir[QI__HF_MAX_PATH];       // with a slash at the end; "" = the current one
  char weights[QI__HF_MAX_FILE];   // name of the only, or any, file of weights; "" = none
  size_t stem;                     // bytes of it before "-00001-of-..."; 0 = one file
  uint32_t n_files;                // of weights
  qi__file tokenizer_file, settings_file, template_file, index_file; // size 0: not there
  qi__file config_file;
  qi__hf_config config;
  qi__hf_tokenizer tokenizer;
  qi__hf_index index;
  qi__gguf_plan plan;
  uint64_t factors_at;             // offset of the factor tensors in part 0
  char name[64];                   // of the folder
} qi__hf;

// ---- paths ----

QI__FN bool qi__ends_with(const char *s, const char *end) {
  size_t n = strlen(s), m = strlen(end);
  return n >= m && !memcmp(s + n - m, end, m);
}

// True when the desc's path means a Hugging Face folder: the folder itself, or one of its files.
QI__FN bool qi__hf_is_source(const qi_model_desc *desc) {
  if (!desc->path) return false;
  if (qi__ends_with(desc->path, ".safetensors") || qi__ends_with(desc->path, ".json")) return true;
  return qi__path_look(desc->path) == QI__PATH_FOLDER;
}

// Bytes of a path up to its last component.
QI__FN size_t qi__path_parent(const char *path) {
  size_t n = strlen(path);
  while (n && path[n - 1] != '/') {
#ifdef _WIN32
    if (path[n - 1] == '\\') break;
#endif
    n--;
  }
  return n;
}

// Bytes before "-00001-of-00002.safetensors", and its two numbers; 0 when a name does not end so.
QI__FN size_t qi__hf_split_name(const char *name, uint32_t *part, uint32_t *n_parts) {
  const size_t tail = strlen("-00001-of-00002.safetensors");
  size_t n = strlen(name);
  char again[32];
  if (n <= tail || !qi__ends_with(name, ".safetensors")) return 0;
  const char *s = name + n - tail;
  *part = *n_parts = 0;
  for (int i = 0; i < 5; i++) { // what is no digit gives another text again
    *part = *part * 10 + (uint32_t)(uint8_t)(s[1 + i] - '0');
    *n_parts = *n_parts * 10 + (uint32_t)(uint8_t)(s[10 + i] - '0');
  }
  snprintf(again, sizeof again, "-%05u-of-%05u.safetensors", *part, *n_parts);
  return !strcmp(s, again) && *part && *part <= *n_parts ? n - tail : 0;
}

// Opens a file of the folder; *f has size 0 when it is not there and not required. f->name is the plain name.
QI__FN qi_result qi__hf_open_file(const qi__hf *hf, const char *name, bool required, qi__file *f, qi_error *err) {
  char path[QI__HF_MAX_PATH + QI__HF_MAX_FILE];
  qi__file_init(f);
  snprintf(path, sizeof path, "%s%s", hf->dir, name);
  if (!required && qi__path_look(path) == QI__PATH_MISSING) return QI_OK;
  qi_result r = qi__file_open_path(f, path, hf->desc->no_mmap, err);
  if (!r) snprintf(f->name, sizeof f->name, "%s", qi__path_tail(name, sizeof f->name - 1));
  return r;
}

QI__FN bool qi__hf_has_file(const qi__hf *hf, const char *name) {
  char path[QI__HF_MAX_PATH + QI__HF_MAX_FILE];
  snprintf(path, sizeof path, "%s%s", hf->dir, name);
  return qi__path_look(path) == QI__PATH_FILE;
}

// Folder and, when the path names one, file of weights.
QI__FN qi_result qi__hf_find_folder(qi__hf *hf, qi_error *err) {
  const char *path = hf->desc->path;
  size_t n = strlen(path), parent = qi__path_parent(path);
  bool folder = qi__path_look(path) == QI__PATH_FOLDER;
  if (n > QI__HF_MAX_PATH - 2) return qi__fail(err, QI_ERR_LIMIT, "path: %zu bytes, at most %d are allowed", n,
      QI__HF_MAX_PATH - 2);
  memcpy(hf->dir, path, folder ? n : parent);
  hf->dir[folder ? n : parent] = 0;
  if (folder && parent != n) memcpy(hf->dir + n, "/", 2);
  if (!folder && qi__ends_with(path, ".safetensors")) {
    if (n - parent >= QI__HF_MAX_FILE) return qi__fail(err, QI_ERR_LIMIT, "path: a file name of %zu bytes", n - parent);
    memcpy(hf->weights, path + parent, n - parent + 1);
  }
  size_t end = strlen(hf->dir);
  while (end && hf->dir[end - 1] == '/') end--;
  size_t begin = end;
  while (begin && hf->dir[begin - 1] != '/') begin--;
  snprintf(hf->name, sizeof hf->name, "%.*s", (int)qi__min_size(end - begin, sizeof hf->name - 1), hf->dir + begin);
  return QI_OK;
}

// ---- index of files ----

// Names in the index are plain file names: nothing leads out of the folder.
QI__FN bool qi__hf_is_plain_name(const char *name) { return qi__ends_with(name, ".safetensors") && !strpbrk(name, "/\\:"); }

// Walks over weight_map of the index: first without an open model, to learn the files' names; then with one, to see that each
// tensor is where the index says.
QI__FN qi_result qi__hf_walk_index(qi__hf *hf, const qi__gguf *g, qi_error *err) {
  qi__json j;
  char tensor[QI__GGUF_MAX_NAME + 1], name[QI__HF_MAX_FILE], mapped[QI__GGUF_MAX_NAME + 1];
  qi__json_init(&j, &hf->index_file, 0, hf->index_file.size, err);
  for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);) {
    if (!qi__json_key_is(&j, "weight_map")) {
      qi__json_skip(&j);
      continue;
    }
    for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);) {
      uint32_t part = 1, n_parts = 1;
      snprintf(tensor, sizeof tensor, "%.*s", QI__GGUF_MAX_NAME, j.key);
      qi__json_text(&j, name, sizeof name);
      if (j.result) break;
      size_t stem = qi__hf_split_name(name, &part, &n_parts);
      if (!stem) part = n_parts = 1;
      if (!hf->weights[0]) {
        memcpy(hf->weights, name, sizeof name);
        hf->stem = stem;
        hf->n_files = n_parts;
      }
      if (!qi__hf_is_plain_name(name) || stem != hf->stem || n_parts != hf->n_files || memcmp(name, hf->weights, stem) ||
          (!stem && strcmp(name, hf->weights)))
        qi__json_fail(&j, QI_ERR_UNSUPPORTED, "file '%s', expected names like model-00001-of-00002.safetensors",
                      qi__show_text(name).s);
      if (!g || j.result) continue;
      qi__hf_tensor_name(&hf->config, tensor, mapped);
      const qi__tensor_info *t = qi__gguf_tensor(g, mapped);
      if (!t || t->part != (int)part)
        qi__json_fail(&j, QI_ERR_FORMAT, "tensor %s: is not in %s", qi__show_text(tensor).s,
                      qi__show_text(name).s);
    }
  }
  qi__json_end(&j);
  if (!j.result && !hf->weights[0]) return qi__fail(err, QI_ERR_FORMAT, "weight_map: missing or empty");
  return j.result;
}

// Which files hold the weights.
QI__FN qi_result qi__hf_find_weights(qi__hf *hf, qi_error *err) {
  const char *index = "model.safetensors.index.json";
  uint32_t part;
  qi_result r;
  hf->n_files = 1;
  if (hf->weights[0]) {
    hf->stem = qi__hf_split_name(hf->weights, &part, &hf->n_files);
    if (!hf->stem) hf->n_files = 1;
  } else if (qi__hf_has_file(hf, "model.safetensors") && !qi__ends_with(hf->desc->path, index)) {
    snprintf(hf->weights, sizeof hf->weights, "model.safetensors");
  } else {
    if ((r = qi__hf_open_file(hf, index, false, &hf->index_file, err))) return r;
    if (hf->index_file.size) return qi__gguf_blame(&hf->index_file, qi__hf_walk_index(hf, NULL, err), err);
    if (hf->desc->load == QI_LOAD_ALL)
      return qi__fail(err, QI_ERR_IO, "%s: has neither model.safetensors nor %s", hf->name[0] ? hf->name : "folder", index);
    hf->n_files = 0;
  }
  return QI_OK;
}

// File `part` (from 1) of the weights.
QI__FN qi_result qi__hf_open_weights(const qi__hf *hf, uint32_t part, qi__file *f, qi_error *err) {
  char name[QI__HF_MAX_FILE + 32];
  if (hf->stem) snprintf(name, sizeof name, "%.*s-%05u-of-%05u.safetensors", (int)hf->stem, hf->weights, part, hf->n_files);
  else snprintf(name, sizeof name, "%s", hf->weights);
  return qi__hf_open_file(hf, name, true, f, err);
}

// ---- planning ----

QI__FN qi_result qi__hf_read_config(qi__hf *hf, qi_error *err) {
  qi__file generation;
  qi_result r = qi__hf_open_file(hf, "config.json", true, &hf->config_file, err);
  if (r) return r;
  qi__hf_config_init(&hf->config);
  r = qi__hf_config_read(&hf->config, &hf->config_file, err);
  if (!r && hf->desc->load == QI_LOAD_ALL) r = qi__hf_config_check(&hf->config, err);
  if (qi__gguf_blame(&hf->config_file, r, err)) return r;
  if ((r = qi__hf_open_file(hf, "generation_config.json", false, &generation, err))) return r;
  if (generation.size) {
    qi__hf_config own = hf->config;
    r = qi__gguf_blame(&generation, qi__hf_config_read(&own, &generation, err), err);
    hf->config.bos = own.bos;
    hf->config.eos = own.eos;
    hf->config.pad = own.pad;
  }
  qi__file_close(&generation);
  return r;
}

QI__FN qi_result qi__hf_read_tokenizer(qi__hf *hf, qi_error *err) {
  qi__file *f = &hf->tokenizer_file;
  qi_result r = qi__hf_open_file(hf, "tokenizer.json", true, f, err);
  if (!r) r = qi__gguf_blame(f, qi__hf_tokenizer_scan(&hf->tokenizer, f, err), err);
  if (!r) r = qi__hf_open_file(hf, "tokenizer_config.json", false, &hf->settings_file, err);
  if (!r && hf->settings_file.size)
    r = qi__gguf_blame(&hf->settings_file, qi__hf_tokenizer_config(&hf->tokenizer, &hf->settings_file, err), err);
  if (!r) r = qi__hf_open_file(hf, "chat_template.jinja", false, &hf->template_file, err);
  if (!r) r = qi__gguf_blame(f, qi__hf_find_specials(&hf->tokenizer, &hf->config, f, err), err);
  if (!r) r = qi__gguf_blame(f, qi__hf_count_tokens(&hf->tokenizer, &hf->config, &hf->index.n_tokens, err), err);
  return r;
}

// Counts the tensors of one file.
QI__FN qi_result qi__hf_plan_file(qi__hf *hf, uint32_t part, qi_error *err) {
  qi__file f;
  qi__st_header h;
  qi__st_entry e;
  char name[QI__GGUF_MAX_NAME + 1];
  qi_result r = qi__hf_open_weights(hf, part, &f, err);
  if (r) return r;
  r = qi__st_begin(&h, &f, err);
  while (!r && qi__st_next(&h, &e)) {
    qi__hf_tensor_name(&hf->config, e.name, name);
    hf->plan.text_bytes += strlen(name) + 1;
    hf->plan.n_tensors++;
  }
  if (!r) r = h.json.result;
  hf->plan.mapped += f.mapped ? f.size : 0;
  qi__gguf_blame(&f, r, err);
  qi__file_close(&f);
  return r;
}

QI__FN void qi__hf_write_template(qi__meta_writer *w, const qi__hf *hf, qi_error *err, qi_result *result) {
  qi__json j;
  if (hf->template_file.size) {
    size_t n = hf->template_file.size < SIZE_MAX ? (size_t)hf->template_file.size : SIZE_MAX;
    qi__meta_key(w, "tokenizer.chat_template", QI_META_STRING);
    qi__meta_u64(w, n);
    uint8_t *text = qi__meta_room(w, n);
    if (text) *result = qi__file_read(&hf->template_file, 0, text, n, err);
  } else if (hf->tokenizer.template_pos) {
    qi__json_init(&j, &hf->settings_file, hf->tokenizer.template_pos, hf->settings_file.size, err);
    qi__meta_key(w, "tokenizer.chat_template", QI_META_STRING);
    qi__meta_json_text(w, &j);
    *result = j.result;
  }
}

// All metadata. n_metas: as counted before.
QI__FN qi_result qi__hf_write_metas(qi__meta_writer *w, const qi__hf *hf, uint64_t n_metas, qi_error *err) {
  qi_result r = QI_OK;
  qi__meta_header(w, n_metas);
  qi__hf_write_config(w, &hf->config, hf->name);
  if (hf->desc->load == QI_LOAD_METADATA) return QI_OK;
  r = qi__hf_write_tokenizer(w, &hf->tokenizer, &hf->config, &hf->index, &hf->tokenizer_file, err);
  if (r) return qi__gguf_blame(&hf->tokenizer_file, r, err);
  qi__hf_write_template(w, hf, err, &r);
  return qi__gguf_blame(hf->template_file.size ? &hf->template_file : &hf->settings_file, r, err);
}

// Names of the factor tensors; NULL ends the list.
QI__FN const char *const *qi__hf_factor_names(const qi__hf_config *c) {
  static const char *const none[] = {NULL, NULL, NULL}, *const llama3[] = {"rope_freqs.weight", NULL, NULL};
  static const char *const both[] = {"rope_factors_short.weight", "rope_factors_long.weight", NULL};
  return !qi__hf_n_factors(c) ? none : qi__hf_is_longrope(c) ? both : llama3;
}

// Opens the files that are no weights and counts everything. hf->desc is set; close it with qi__hf_close, also after a failure.
QI__FN qi_result qi__hf_make_plan(qi__hf *hf, qi_error *err) {
  qi__gguf_plan *plan = &hf->plan;
  qi_result r = qi__hf_find_folder(hf, err);
  if (!r) r = qi__hf_read_config(hf, err);
  if (!r && hf->desc->load != QI_LOAD_METADATA) r = qi__hf_read_tokenizer(hf, err);
  if (!r) r = qi__hf_find_weights(hf, err);
  if (!r && hf->n_files >= QI__GGUF_MAX_PARTS)
    r = qi__fail(err, QI_ERR_LIMIT, "%u files of weights, at most %d are allowed", hf->n_files, QI__GGUF_MAX_PARTS - 1);
  for (uint32_t part = 1; !r && part <= hf->n_files; part++) r = qi__hf_plan_file(hf, part, err);
  if (r) return r;
  qi__meta_writer count = {NULL, 0, 0, 0, 0, false};
  if ((r = qi__hf_write_metas(&count, hf, 0, err))) return r;
  size_t factors = 4 * (size_t)qi__hf_n_factors(&hf->config), size = 0;
  bool fits = !count.overflow && qi__align_up(count.used, QI__CACHE_LINE, &size);
  hf->factors_at = size;
  plan->resident_bytes = (uint64_t)size;
  for (const char *const *name = qi__hf_factor_names(&hf->config); *name; name++) {
    plan->resident_bytes += factors;
    plan->text_bytes += strlen(*name) + 1;
    plan->n_tensors++;
  }
  plan->n_parts = 1 + (uint64_t)hf->n_files;
  plan->first.n_metas = count.n_metas;
  plan->text_bytes += count.key_bytes;
  if (plan->n_tensors > QI__GGUF_MAX_ENTRIES)
    return qi__fail(err, QI_ERR_LIMIT, "%llu tensors in all files, at most %u are allowed", (unsigned long long)plan->n_tensors,
                    QI__GGUF_MAX_ENTRIES);
  if (!fits || plan->resident_bytes > SIZE_MAX || plan->text_bytes > SIZE_MAX)
    return qi__fail(err, QI_ERR_LIMIT, "metadata: does not fit into this machine's address space");
  return QI_OK;
}

QI__FN void qi__hf_close(qi__hf *hf) {
  qi__file_close(&hf->config_file);
  qi__file_close(&hf->tokenizer_file);
  qi__file_close(&hf->settings_file);
  qi__file_close(&hf->template_file);
  qi__file_close(&hf->index_file);
}

// Runs twice: counting, then over the block.
QI__FN void qi__hf_layout(qi__hf *hf, qi__gguf *g, qi__arena *arena) {
  qi__gguf_layout(g, arena, &hf->plan);
  if (hf->desc->load == QI_LOAD_METADATA) return;
  hf->index.pos = QI__ARENA_ARRAY(arena, uint32_t, hf->index.n_tokens);
  hf->index.type = QI__ARENA_ARRAY(arena, uint8_t, hf->index.n_tokens);
}

// ---- filling ----

// Metadata to part 0, and its index.
QI__FN qi_result qi__hf_load_metas(qi__hf *hf, qi__gguf *g, qi_error *err) {
  qi__gguf_plan plan = hf->plan;
  qi__gguf_counts counts;
  qi__meta_writer w = {g->copy, 0, (size_t)hf->factors_at, 0, 0, false};
  qi_result r = QI_OK;
  if (hf->desc->load != QI_LOAD_METADATA)
    r = qi__gguf_blame(&hf->tokenizer_file, qi__hf_index_tokens(&hf->tokenizer, &hf->tokenizer_file, &hf->index, err), err);
  if (!r) r = qi__hf_write_metas(&w, hf, plan.first.n_metas, err);
  if (r) return r;
  if (w.overflow || w.n_metas != plan.first.n_metas) return qi__gguf_changed(err);
  r = qi__file_open_memory(&g->parts[0].file, g->copy, (size_t)plan.resident_bytes, err);
  if (r) return r;
  g->n_parts = 1;
  memset(&counts, 0, sizeof counts);
  counts.n_metas = plan.first.n_metas;
  plan.first.metas_end = w.used;
  return qi__gguf_load_metas(g, &plan, &counts, err);
}

// A new entry of the list of tensors, with a copy of this name; NULL on failure.
QI__FN qi__tensor_info *qi__hf_new_tensor(qi__hf *hf, qi__gguf *g, const char *name, size_t part, qi_error *err) {
  qi__tensor_info *t = &g->tensors[g->n_tensors];
  const char *copy = g->n_tensors < hf->plan.n_tensors ? qi__gguf_keep_text(g, name) : NULL;
  if (!copy) {
    qi__gguf_changed(err);
    return NULL;
  }
  if (!qi__str_map_put(&g->tensor_index, copy, (int32_t)g->n_tensors)) {
    qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: occurs twice", copy);
    return NULL;
  }
  memset(t, 0, sizeof *t);
  t->name = copy;
  t->part = (int)part;
  for (int i = 0; i < 4; i++) t->shape[i] = 1;
  g->n_tensors++;
  return t;
}

// The factor tensors, as GGUF files have them.
QI__FN qi_result qi__hf_load_factors(qi__hf *hf, qi__gguf *g, qi_error *err) {
  uint32_t n = qi__hf_n_factors(&hf->config);
  uint8_t *at = g->copy + (size_t)hf->factors_at;
  qi__hf_config again;
  for (const char *const *name = qi__hf_factor_names(&hf->config); *name; name++) {
    qi__tensor_info *t = qi__hf_new_tensor(hf, g, *name, 0, err);
    if (!t) return err ? err->code : QI_ERR_FORMAT;
    t->format = QI_FORMAT_F32;
    t->n_dims = 1;
    t->shape[0] = n;
    t->n_bytes = 4 * (uint64_t)n;
    t->offset = hf->factors_at + (uint64_t)(name - qi__hf_factor_names(&hf->config)) * t->n_bytes;
  }
  if (!n) return QI_OK;
  if (!qi__hf_is_longrope(&hf->config)) {
    for (uint32_t i = 0; i < n; i++) {
      uint32_t bits = qi__f32_bits(qi__hf_llama3_factor(&hf->config, i));
      for (int k = 0; k < 4; k++) at[4 * (size_t)i + (size_t)k] = (uint8_t)(bits >> (8 * k));
    }
    return QI_OK;
  }
  memset(at, 0, 8 * (size_t)n);
  qi__hf_config_init(&again);
  again.short_factor.out = at;
  again.long_factor.out = at + 4 * (size_t)n;
  again.short_factor.n = again.long_factor.n = n;
  return qi__gguf_blame(&hf->config_file, qi__hf_config_read(&again, &hf->config_file, err), err);
}

QI__FN qi_result qi__hf_load_entries(qi__hf *hf, qi__gguf *g, size_t part, qi_error *err) {
  qi__st_header h;
  qi__st_entry e;
  char name[QI__GGUF_MAX_NAME + 1];
  qi_result r = qi__st_begin(&h, &g->parts[part].file, err);
  if (r) return r;
  g->parts[part].data_offset = h.data_offset;
  while (qi__st_next(&h, &e)) {
    qi__hf_tensor_name(&hf->config, e.name, name);
    qi__tensor_info *t = qi__hf_new_tensor(hf, g, name, part, err);
    if (!t) return err ? err->code : QI_ERR_FORMAT;
    t->format = e.dtype->format;
    t->gguf_id = e.dtype->gguf_id;
    t->dtype = e.dtype->name;
    t->n_dims = e.n_dims;
    memcpy(t->shape, e.shape, sizeof t->shape);
    t->n_bytes = e.end - e.begin; // of all types, until places are checked
    t->offset = h.data_offset + e.begin;
  }
  return h.json.result;
}

// Tensors `first` and following must cover the data of their file, each byte once.
QI__FN qi_result qi__hf_place_tensors(qi__gguf *g, size_t part, size_t first, qi_error *err) {
  const qi__file *f = &g->parts[part].file;
  qi__tensor_info *tensors = g->tensors + first;
  size_t n = g->n_tensors - first;
  uint64_t end = g->parts[part].data_offset;
  qi__order_by_offset(tensors, g->order, n);
  for (size_t i = 0; i < n; i++) {
    qi__tensor_info *t = &tensors[g->order[i]];
    if (!t->n_bytes) continue;
    if (t->offset != end)
      return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: begins at offset %llu, expected %llu: tensors %s", t->name,
                      (unsigned long long)t->offset, (unsigned long long)end, t->offset < end ? "overlap" : "leave a hole");
    if (t->n_bytes > SIZE_MAX / 2)
      return qi__fail(err, QI_ERR_LIMIT, "tensor %.96s: does not fit into this machine's address space", t->name);
    end += t->n_bytes;
  }
  if (end == f->size) return QI_OK;
  return qi__fail(err, QI_ERR_FORMAT, "tensors end at offset %llu, but the file at %llu", (unsigned long long)end,
                  (unsigned long long)f->size);
}

QI__FN qi_result qi__hf_load_file(qi__hf *hf, qi__gguf *g, uint32_t part, qi_error *err) {
  qi__file *f = &g->parts[part].file;
  size_t first = g->n_tensors;
  qi_result r = qi__hf_open_weights(hf, part, f, err);
  if (r) return r;
  g->n_parts++;
  g->mapped += f->mapped ? f->size : 0;
  r = qi__hf_load_entries(hf, g, part, err);
  if (!r) r = qi__hf_place_tensors(g, part, first, err);
  return qi__gguf_blame(f, r, err);
}

// ---- ternary ----

// The one number in a tensor, which must be finite and above 0.
QI__FN qi_result qi__hf_read_scale(const qi__gguf *g, const qi__tensor_info *t, float *out, qi_error *err) {
  uint8_t bytes[4];
  if (t->format == QI_FORMAT_NONE || t->n_bytes > sizeof bytes || t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3] != 1)
    return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: expected one number of type F32, F16 or BF16", t->name);
  qi_result r = qi__gguf_read_tensor(g, t, 0, bytes, (size_t)t->n_bytes, err);
  if (r) return r;
  qi__dequantize(t->format, bytes, out, 1);
  if (qi__is_finite(*out) && *out > 0) return QI_OK;
  return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: is %g, expected a number above 0", t->name, (double)*out);
}

// Uint8 tensors with a scale beside them become what they are converted to when they are loaded.
QI__FN qi_result qi__hf_note_packed(const qi__hf *hf, qi__gguf *g, qi__tensor_info *t, qi_error *err) {
  char name[QI__GGUF_MAX_NAME + 8];
  float scale;
  if (strcmp(t->dtype, "U8") || t->n_dims != 2 || !t->n_bytes) return QI_OK;
  snprintf(name, sizeof name, "%s_scale", t->name);
  const qi__tensor_info *s = qi__gguf_tensor(g, name);
  if (!s) return QI_OK;
  qi_result r = qi__hf_read_scale(g, s, &scale, err);
  if (r) return r;
  if (qi__hf_scale_divides(&hf->config)) scale = 1 / scale;
  if (!qi__is_finite(scale) || !(scale > 0))
    return qi__fail(err, QI_ERR_FORMAT, "tensor %.96s: weights of %g, expected a number above 0", name, (double)scale);
  if (t->shape[0] % 256)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "tensor %.96s: packed rows of %llu weights, expected a multiple of 256", t->name,
                    (unsigned long long)t->shape[0]);
  if (t->n_bytes > SIZE_MAX / 256) return qi__fail(err, QI_ERR_LIMIT, "tensor %.96s: is too large", t->name);
  t->shape[1] *= 4;
  t->format = QI_FORMAT_I2_S;
  t->gguf_id = qi__format_get(QI_FORMAT_I2_S)->info.gguf_id;
  t->n_bytes = qi__format_bytes(QI_FORMAT_I2_S, (size_t)(t->shape[0] * t->shape[1]));
  t->scale = scale;
  return QI_OK;
}

// Reads a packed tensor and converts it to `dst`, t->n_bytes; dst NULL only checks it. Errors: QI_ERR_IO, QI_ERR_FORMAT (a
// code that is none).
QI__FN qi_result qi__hf_convert(const qi__gguf *g, const qi__tensor_info *t, uint8_t *dst, qi_error *err) {
  uint8_t bytes[4096], unused[1024]; // whole blocks
  size_t n_cols = (size_t)t->shape[0], n_rows = (size_t)t->shape[1] / 4, row_bytes = qi__row_bytes(t->format, n_cols);
  for (size_t row = 0; row < n_rows; row++)
    for (size_t c = 0; c < n_cols; c += sizeof bytes) {
      size_t n = qi__min_size(sizeof bytes, n_cols - c);
      qi_result r = qi__file_read(&g->parts[t->part].file, t->offset + row * n_cols + c, bytes, n, err);
      if (r) return r;
      for (unsigned k = 0; k < 4; k++) {
        uint8_t *at = dst ? dst + (row + k * n_rows) * row_bytes + qi__row_bytes(t->format, c) : unused;
        if (!qi__hf_ternary_row(bytes, k, n, at))
          return qi__fail(err, QI_ERR_FORMAT, "tensor %s: packed row %zu has the code 3, expected 0 to 2", t->name, row);
      }
    }
  if (dst) qi__store_tail_i2_s(dst + t->shape[1] * row_bytes, t->scale);
  return QI_OK;
}

// ---- open ----

// What is left when all tensors are there: packed ones, what the configs promise, sums.
QI__FN qi_result qi__hf_finish(qi__hf *hf, qi__gguf *g, qi_error *err) {
  qi_result r = QI_OK;
  qi__gguf_counts counts, one;
  memset(&counts, 0, sizeof counts);
  for (size_t i = 0; i < g->n_tensors && !r; i++) {
    qi__tensor_info *t = &g->tensors[i];
    if (t->dtype && qi__hf_is_ternary(&hf->config)) r = qi__hf_note_packed(hf, g, t, err);
    if (t->format == QI_FORMAT_NONE) t->n_bytes = 0; // as for GGUF's unknown types
    memset(&one, 0, sizeof one);
    qi__gguf_note_tensor(t, &one);
    if (g->parts[t->part].file.map && !(t->scale > 0)) one.copy_bytes = 0;
    if (!qi__add_u64(g->copy_bytes, one.copy_bytes, &g->copy_bytes)) g->copy_bytes = UINT64_MAX;
    g->vector_bytes = qi__gguf_add_vectors(g->vector_bytes, &one);
  }
  if (!r && hf->index_file.size) r = qi__gguf_blame(&hf->index_file, qi__hf_walk_index(hf, g, err), err);
  if (!r && hf->desc->load == QI_LOAD_ALL && hf->config.tied == 0 && !qi__gguf_tensor(g, "output.weight"))
    r = qi__fail(err, QI_ERR_FORMAT, "tensor lm_head.weight: missing, but config.json says that it is not tied to the embedding");
  return r;
}

// Opens the folder that the desc's path means. As qi__gguf_open; close it with qi__gguf_close.
// Errors: QI_ERR_IO, QI_ERR_FORMAT, QI_ERR_UNSUPPORTED, QI_ERR_LIMIT, QI_ERR_OOM.
QI__FN qi_result qi__hf_open(qi__gguf *g, const qi_model_desc *desc, const qi_allocator *allocator, qi_error *err) {
  qi__hf hf;
  qi_error own = {QI_OK, ""};
  if (!err) err = &own; // the functions above read codes back
  memset(g, 0, sizeof *g);
  memset(&hf, 0, sizeof hf);
  hf.desc = desc;
  qi__file_init(&hf.config_file);
  qi__file_init(&hf.tokenizer_file);
  qi__file_init(&hf.settings_file);
  qi__file_init(&hf.template_file);
  qi__file_init(&hf.index_file);
  qi_result r = qi__hf_make_plan(&hf, err);
  if (!r) {
    g->allocator = *allocator;
    qi__hf_layout(&hf, g, &g->arena);
    r = qi__arena_open(&g->arena, allocator, "index of the folder", err);
    if (!r) {
      qi__hf_layout(&hf, g, &g->arena);
      r = qi__hf_load_metas(&hf, g, err);
      if (!r) r = qi__hf_load_factors(&hf, g, err);
      for (uint32_t part = 1; !r && part <= hf.n_files; part++) r = qi__hf_load_file(&hf, g, part, err);
      if (!r && g->n_tensors != hf.plan.n_tensors) r = qi__gguf_changed(err);
      if (!r) r = qi__hf_finish(&hf, g, err);
    }
  }
  qi__hf_close(&hf);
  if (r) qi__gguf_close(g);
  return r;
}

// The scores that loading the vocabulary made go to the metadata, so that it is whole for those who copy it.
QI__FN void qi__hf_keep_scores(qi__gguf *g, const qi__vocab *v) {
  const qi_meta *m = qi__gguf_find(g, QI__KEY_SCORES);
  bool ours = g->copy && g->parts[0].file.map == g->copy;
  if (!ours || !m || !v->scores || m->type != QI_META_ARRAY || m->count != v->n_tokens) return;
  for (uint32_t id = 0; id < v->n_tokens; id++) {
    uint32_t bits = qi__f32_bits(v->scores[id]);
    uint8_t *p = g->copy + (size_t)m->value.u + 4 * (size_t)id;
    for (int k = 0; k < 4; k++) p[k] = (uint8_t)(bits >> (8 * k));
  }
}

#endif // QI__MODEL_HF_LOAD_H
// generated from src/model/tokenize.h: edit there
// ==== >>tokenize : text to tokens and back ====
#ifndef QI__TOKENIZE_H
#define QI__TOKENIZE_H

// generated from src/model/tokenize_bpe.h: edit there
// ==== >>tokenize_bpe : byte-level byte-pair encoding ====
#ifndef QI__TOKENIZE_BPE_H
#define QI__TOKENIZE_BPE_H

// generated from src/model/tokenize_merge.h: edit there
// ==== >>tokenize_merge : merging neighbours, best pair first ====
#ifndef QI__TOKENIZE_MERGE_H
#define QI__TOKENIZE_MERGE_H


// Both tokenizers join neighbouring symbols until no pair is left that may be joined: always the pair with the smallest key, the
// leftmost among equals. Pairs wait in a binary heap; one that has changed meanwhile is left there and known by its symbol's key.

#define QI__NO_SYMBOL UINT32_MAX
#define QI__NO_PAIR UINT32_MAX // key of a symbol that cannot be joined with the next one, or is gone

typedef struct qi__symbol {
  uint32_t prev, next; // symbol n is the end; the first has no prev
  uint32_t start;      // SPM: where its text begins; it ends where the next one begins
  qi_token id;         // -1: no token
  uint32_t key;        // of the pair with the next symbol
  qi_token joined;     // and the token of both
} qi__symbol;

typedef struct qi__merger {
  const qi__vocab *v;
  qi__symbol *symbols; // [n + 1]
  uint64_t *heap;      // [2 * n] key << 32 | left symbol: every join takes one pair out and puts at most two in
  size_t n_heap;
  const char *text;    // SPM: what `start` counts in
  char *key;           // [max_token + 1] a text to look up
  // Token and key of symbols `left` and `right` joined; false = they stay apart.
  bool (*pair)(const struct qi__merger *m, uint32_t left, uint32_t right, uint32_t *key, qi_token *joined);
} qi__merger;

// Bytes of working memory for n symbols: symbols and heap.
#define QI__MERGE_BYTES (sizeof(qi__symbol) + 2 * sizeof(uint64_t))

QI__FN void qi__heap_down(uint64_t *heap, size_t n, size_t i) {
  uint64_t node = heap[i];
  for (size_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (node <= heap[child]) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = node;
}

QI__FN void qi__heap_push(uint64_t *heap, size_t *n, uint64_t node) {
  size_t i = (*n)++;
  for (; i && heap[(i - 1) / 2] > node; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
  heap[i] = node;
}

QI__FN uint64_t qi__heap_pop(uint64_t *heap, size_t *n) {
  uint64_t top = heap[0];
  heap[0] = heap[--*n];
  if (*n) qi__heap_down(heap, *n, 0);
  return top;
}

// Looks at the pair that begins with `left` anew; true = it may be joined.
QI__FN bool qi__merge_look(qi__merger *m, uint32_t left, uint32_t end) {
  qi__symbol *s = &m->symbols[left];
  s->key = QI__NO_PAIR;
  uint32_t key;
  if (s->next == end || !m->pair(m, left, s->next, &key, &s->joined)) return false;
  s->key = key;
  return true;
}

// Joins symbols 0..n-1 (start and id given; symbols[n].start too) as far as it goes. What remains is the list from symbol 0 on.
QI__FN void qi__merge(qi__merger *m, uint32_t n) {
  qi__symbol *s = m->symbols;
  for (uint32_t i = 0; i <= n; i++) {
    s[i].prev = i ? i - 1 : QI__NO_SYMBOL;
    s[i].next = i + 1;
  }
  m->n_heap = 0;
  for (uint32_t i = 0; i < n; i++)
    if (qi__merge_look(m, i, n)) m->heap[m->n_heap++] = (uint64_t)s[i].key << 32 | i;
  for (size_t i = m->n_heap / 2; i-- > 0;) qi__heap_down(m->heap, m->n_heap, i);
  while (m->n_heap) {
    uint64_t top = qi__heap_pop(m->heap, &m->n_heap);
    uint32_t left = (uint32_t)top, prev = s[left].prev;
    if (s[left].key != (uint32_t)(top >> 32)) continue;
    uint32_t right = s[left].next;
    s[left].id = s[left].joined;
    s[right].key = QI__NO_PAIR;
    s[left].next = s[right].next;
    s[s[left].next].prev = left;
    if (qi__merge_look(m, left, n)) qi__heap_push(m->heap, &m->n_heap, (uint64_t)s[left].key << 32 | left);
    if (prev != QI__NO_SYMBOL && qi__merge_look(m, prev, n))
      qi__heap_push(m->heap, &m->n_heap, (uint64_t)s[prev].key << 32 | prev);
  }
}

// ---- what comes out ----

// Tokens for the caller: all are counted, those that fit are kept.
typedef struct qi__token_sink {
  qi_token *out;
  size_t cap, n;
} qi__token_sink;

QI__INLINE void qi__emit(qi__token_sink *sink, qi_token id) {
  if (sink->n < sink->cap) sink->out[sink->n] = id;
  sink->n++;
}

// A byte that no other token covers.
QI__INLINE void qi__emit_byte(qi__token_sink *sink, const qi__vocab *v, uint8_t byte) {
  qi_token id = v->byte_ids[byte] >= 0 ? v->byte_ids[byte] : v->special.unk;
  if (id >= 0) qi__emit(sink, id);
}

#endif // QI__TOKENIZE_MERGE_H

// Text is cut into words (pretokenize.h); inside a word, which begins as one symbol a byte, the neighbours with the lowest rank in
// the list of merges are joined first.

QI__FN bool qi__bpe_pair(const qi__merger *m, uint32_t left, uint32_t right, uint32_t *key, qi_token *joined) {
  int64_t value;
  qi_token a = m->symbols[left].id, b = m->symbols[right].id;
  if (a < 0 || b < 0 || !qi__pair_map_get(&m->v->merges, (uint32_t)a, (uint32_t)b, &value)) return false;
  *key = (uint32_t)((uint64_t)value >> 32);
  *joined = (qi_token)(uint32_t)value;
  return true;
}

// Token of a whole word, -1 = none.
QI__FN qi_token qi__bpe_lookup(const qi__merger *m, const char *word, size_t len) {
  size_t n = 0, max = m->v->max_token;
  if (len > max) return -1;
  for (size_t i = 0; i < len; i++) {
    char bytes[4];
    size_t size = qi__utf8_put(qi__byte_to_char((uint8_t)word[i]), bytes);
    if (n + size > max) return -1;
    memcpy(m->key + n, bytes, size);
    n += size;
  }
  m->key[n] = 0;
  qi_token id = qi__token_by_name(m->v, m->key);
  return qi__token_is_control(m->v, id) ? -1 : id;
}

QI__FN void qi__bpe_word(qi__merger *m, const char *word, size_t len, qi__token_sink *sink) {
  if (m->v->pre->flags & QI__PRE_IGNORE_MERGES) {
    qi_token id = qi__bpe_lookup(m, word, len);
    if (id >= 0) {
      qi__emit(sink, id);
      return;
    }
  }
  uint32_t n = (uint32_t)len;
  for (uint32_t i = 0; i < n; i++) m->symbols[i].id = m->v->byte_ids[(uint8_t)word[i]];
  qi__merge(m, n);
  for (uint32_t i = 0; i < n; i = m->symbols[i].next) {
    if (m->symbols[i].id >= 0) qi__emit(sink, m->symbols[i].id);
    else qi__emit_byte(sink, m->v, (uint8_t)word[i]);
  }
}

// One piece of text without special tokens. Needs symbols for len bytes.
QI__FN void qi__bpe_encode(qi__merger *m, const char *text, size_t len, qi__token_sink *sink) {
  m->pair = qi__bpe_pair;
  qi__pretokenizer words = qi__pretokenize(m->v->pre, text, len);
  size_t start, end;
  while (qi__pretokenize_next(&words, &start, &end)) qi__bpe_word(m, text + start, end - start, sink);
}

#endif // QI__TOKENIZE_BPE_H
// generated from src/model/tokenize_spm.h: edit there
// ==== >>tokenize_spm : SentencePiece byte-pair encoding ====
#ifndef QI__TOKENIZE_SPM_H
#define QI__TOKENIZE_SPM_H


// Text is cut into characters; the neighbours whose joined text is the token with the highest score are joined first. Characters
// that end up in no token become byte tokens. A blank is written U+2581 in the vocabulary. Joining never makes control tokens.
//
// Positions count one more than the text's bytes: position 0 is the blank that is put before it.

#define QI__SPM_BLANK "\xE2\x96\x81"

// Scores ordered as unsigned numbers, the best one smallest; never QI__NO_PAIR. NaN has a place like any other.
QI__FN uint32_t qi__spm_key(float score) {
  uint32_t bits = qi__f32_bits(score);
  if (bits == 0x80000000u) bits = 0; // -0 is 0
  uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return ascending ? ~ascending : 0xFFFFFFFEu;
}

// Token of the text at positions start..end-1; -1 = none that plain text may become.
QI__FN qi_token qi__spm_lookup(const qi__merger *m, size_t start, size_t end) {
  size_t n = 0, max = m->v->max_token;
  if (end - start > max) return -1;
  for (size_t p = start; p < end; p++) {
    char c = p ? m->text[p - 1] : ' ';
    size_t size = c == ' ' ? 3 : 1;
    if (!c || n + size > max) return -1;
    if (c == ' ') memcpy(m->key + n, QI__SPM_BLANK, 3);
    else m->key[n] = c;
    n += size;
  }
  m->key[n] = 0;
  qi_token id = qi__token_by_name(m->v, m->key);
  if (id < 0) return -1;
  unsigned type = qi__token_type(m->v, (uint32_t)id);
  return type == QI__TOKEN_CONTROL || type == QI__TOKEN_UNKNOWN || type == QI__TOKEN_BYTE ? -1 : id;
}

QI__FN bool qi__spm_pair(const qi__merger *m, uint32_t left, uint32_t right, uint32_t *key, qi_token *joined) {
  const qi__symbol *s = m->symbols;
  qi_token id = qi__spm_lookup(m, s[left].start, s[s[right].next].start);
  if (id < 0 || qi__f32_bits(m->v->scores[id]) == 0xff800000u) return false; // minus infinity: never joined
  *joined = id;
  *key = qi__spm_key(m->v->scores[id]);
  return true;
}

// One piece of text without special tokens. `blank`: put a blank before it. Needs symbols for len + 1 characters.
QI__FN void qi__spm_encode(qi__merger *m, const char *text, size_t len, bool blank, qi__token_sink *sink) {
  m->text = text;
  m->pair = qi__spm_pair;
  uint32_t n = 0;
  size_t p = blank ? 0 : 1;
  while (p < len + 1) {
    m->symbols[n].start = (uint32_t)p;
    m->symbols[n].id = -1;
    uint32_t cp;
    p += p ? qi__utf8_next(text + p - 1, len + 1 - p, &cp) : 1;
    n++;
  }
  m->symbols[n].start = (uint32_t)(len + 1);
  qi__merge(m, n);
  for (uint32_t i = 0; i < n; i = m->symbols[i].next) {
    const qi__symbol *s = &m->symbols[i];
    size_t end = m->symbols[s->next].start;
    qi_token id = s->id >= 0 ? s->id : qi__spm_lookup(m, s->start, end);
    if (id >= 0) qi__emit(sink, id);
    else if (end - s->start == 1 && (s->start == 0 || text[s->start - 1] == ' '))
      for (int k = 0; k < 3; k++) qi__emit_byte(sink, m->v, (uint8_t)QI__SPM_BLANK[k]);
    else
      for (size_t q = s->start; q < end; q++) qi__emit_byte(sink, m->v, (uint8_t)text[q - 1]);
  }
}

#endif // QI__TOKENIZE_SPM_H

#define QI__TEXT_LIMIT ((size_t)1 << 30)

// ---- special tokens in text ----

// First index in [lo, hi) of v->specials, all longer than k and equal up to there, whose byte k is at least c (c up to 256).
QI__FN size_t qi__special_bound(const qi__vocab *v, size_t lo, size_t hi, size_t k, unsigned c) {
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if ((uint8_t)v->texts[v->offsets[v->specials[mid]] + k] < c) lo = mid + 1;
    else hi = mid;
  }
  return lo;
}

// The longest special token that text (avail >= 1 bytes) begins with: user-defined ones always, others only with `parse`. Returns
// its bytes, 0 = none. Narrows the sorted list by one byte after another, so thousands of specials cost no more than a few.
QI__FN size_t qi__special_match(const qi__vocab *v, const char *text, size_t avail, bool parse, qi_token *id) {
  uint8_t first = (uint8_t)text[0];
  if (!(v->special_first[first >> 5] >> (first & 31) & 1)) return 0;
  size_t lo = 0, hi = v->n_specials, best = 0;
  for (size_t k = 0; k < avail; k++) {
    unsigned c = (uint8_t)text[k];
    lo = qi__special_bound(v, lo, hi, k, c);
    hi = qi__special_bound(v, lo, hi, k, c + 1);
    for (size_t len; lo < hi; lo++) { // those that end here come first
      uint32_t special = v->specials[lo];
      qi__token_text(v, special, &len);
      if (len != k + 1) break;
      if (best != len && (parse || qi__token_type(v, special) == QI__TOKEN_USER)) {
        best = len;
        *id = (qi_token)special;
      }
    }
    if (lo == hi) break;
  }
  return best;
}

// ---- text to tokens ----

QI__INLINE bool qi__is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Encodes text[start..end), which holds no special token.
QI__FN void qi__encode_plain(qi__merger *m, const char *text, size_t start, size_t end, bool after_special, qi__token_sink *sink) {
  if (start == end) return;
  if (m->v->kind == QI__VOCAB_BPE) qi__bpe_encode(m, text + start, end - start, sink);
  else qi__spm_encode(m, text + start, end - start, after_special && m->v->space_prefix, sink);
}

QI__FN void qi__encode(qi__merger *m, const char *text, size_t len, int flags, qi__token_sink *sink) {
  const qi__vocab *v = m->v;
  const qi_special_tokens *special = &v->special;
  bool add = (flags & QI_TOKENIZE_ADD_SPECIAL) != 0, parse = (flags & QI_TOKENIZE_PARSE_SPECIAL) != 0;
  bool after_special = true; // the beginning counts as such
  size_t start = 0, pos = 0;
  if (add && special->add_bos && special->bos >= 0) qi__emit(sink, special->bos);
  while (pos < len) {
    qi_token id = -1;
    size_t n = qi__special_match(v, text + pos, len - pos, parse, &id);
    if (!n) {
      pos++;
      continue;
    }
    qi__encode_plain(m, text, start, pos, after_special, sink);
    qi__emit(sink, id);
    pos += n;
    if (v->attrs[id] & QI__TOKEN_RSTRIP)
      while (pos < len && qi__is_ascii_space(text[pos])) pos++;
    start = pos;
    after_special = true;
  }
  qi__encode_plain(m, text, start, len, after_special, sink);
  if (add && special->add_eos && special->eos >= 0) qi__emit(sink, special->eos);
}

// qi_tokenize. One block of memory for the call: QI__MERGE_BYTES (40) a byte of text and a little.
QI__FN qi_result qi__tokenize(const qi__vocab *v, const qi_allocator *allocator, const char *text, size_t len, int flags,
                              qi_token *out, size_t cap, size_t *n_out, qi_error *err) {
  const int known = QI_TOKENIZE_ADD_SPECIAL | QI_TOKENIZE_PARSE_SPECIAL;
  if (!n_out || (len && !text) || (cap && !out))
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_tokenize: text, out or n_out is NULL");
  if (flags & ~known)
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_tokenize: flags are 0x%x, known are 0x%x", (unsigned)flags, (unsigned)known);
  if (len >= QI__TEXT_LIMIT) return qi__fail(err, QI_ERR_LIMIT, "qi_tokenize: %zu bytes of text, the limit is 2^30 - 1", len);
  size_t n = len + 2, bytes = 0; // the blank before the text, and the end
  if (!qi__mul_size(n, QI__MERGE_BYTES, &bytes) || !qi__add_size(bytes, (size_t)v->max_token + 1, &bytes))
    return qi__fail(err, QI_ERR_LIMIT, "qi_tokenize: %zu bytes of text are too many for this machine", len);
  void *memory = qi__alloc(allocator, bytes, QI__CACHE_LINE);
  if (!memory) return qi__fail_oom(err, "qi_tokenize", bytes);
  qi__merger m = {0};
  m.v = v;
  m.heap = (uint64_t *)memory;
  m.symbols = (qi__symbol *)(void *)(m.heap + 2 * n);
  m.key = (char *)(m.symbols + n);
  qi__token_sink sink = {out, cap, 0};
  qi__encode(&m, text, len, flags, &sink);
  qi__free(allocator, memory, bytes);
  *n_out = sink.n;
  return QI_OK;
}

// ---- tokens to text ----

typedef struct qi__byte_sink {
  char *out;
  size_t cap, n;
  bool strip; // a blank that comes next was put before the text by the tokenizer
} qi__byte_sink;

QI__INLINE void qi__put_bytes(qi__byte_sink *sink, const char *bytes, size_t n) {
  if (!n) return;
  if (sink->n < sink->cap) memcpy(sink->out + sink->n, bytes, qi__min_size(n, sink->cap - sink->n));
  sink->n += n;
  sink->strip = false;
}

QI__FN void qi__put_spm(qi__byte_sink *sink, const char *text, size_t len) {
  for (size_t i = 0; i < len;) {
    bool blank = len - i >= 3 && !memcmp(text + i, QI__SPM_BLANK, 3);
    if (blank && sink->strip) sink->strip = false;
    else qi__put_bytes(sink, blank ? " " : text + i, 1);
    i += blank ? 3 : 1;
  }
}

// Characters that stand for no byte are given as they are.
QI__FN void qi__put_bpe(qi__byte_sink *sink, const char *text, size_t len) {
  for (size_t i = 0; i < len;) {
    uint32_t cp;
    size_t n = qi__utf8_next(text + i, len - i, &cp);
    int byte = qi__char_to_byte(cp);
    char c = (char)byte;
    if (byte >= 0) qi__put_bytes(sink, &c, 1);
    else qi__put_bytes(sink, text + i, n);
    i += n;
  }
}

QI__FN void qi__put_token(const qi__vocab *v, uint32_t id, bool special, qi__byte_sink *sink) {
  size_t len;
  const char *text = qi__token_text(v, id, &len);
  unsigned type = qi__token_type(v, id);
  int byte = type == QI__TOKEN_BYTE ? qi__byte_name_value(text, len) : -1;
  if (type == QI__TOKEN_CONTROL || type == QI__TOKEN_UNKNOWN) {
    bool strip = sink->strip; // a name is no text: the blank that the tokenizer puts behind it is still to come
    if (special) qi__put_bytes(sink, text, len);
    sink->strip = strip;
  } else if (type == QI__TOKEN_USER) {
    qi__put_bytes(sink, text, len);
  } else if (byte >= 0) {
    char c = (char)byte;
    qi__put_bytes(sink, &c, 1);
  } else if (v->kind == QI__VOCAB_BPE) {
    qi__put_bpe(sink, text, len);
  } else {
    qi__put_spm(sink, text, len);
  }
}

// qi_token_piece: the bytes of a token, at most cap of them written; returns their full number.
QI__FN size_t qi__token_piece(const qi__vocab *v, qi_token id, bool special, char *out, size_t cap) {
  qi__byte_sink sink = {out, cap, 0, false};
  if (qi__token_valid(v, id)) qi__put_token(v, (uint32_t)id, special, &sink);
  return sink.n;
}

// qi_detokenize. The blank that SentencePiece models put before text is left out once.
QI__FN qi_result qi__detokenize(const qi__vocab *v, const qi_token *ids, size_t n, bool special, char *out, size_t cap,
                                size_t *len_out, qi_error *err) {
  if (!len_out || (n && !ids) || (cap && !out))
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_detokenize: ids, out or len_out is NULL");
  for (size_t i = 0; i < n; i++)
    if (!qi__token_valid(v, ids[i]))
      return qi__fail(err, QI_ERR_ARGUMENT, "qi_detokenize: token %zu is %d, valid are 0 to %u", i, (int)ids[i], v->n_tokens - 1);
  qi__byte_sink sink = {out, cap, 0, v->space_prefix};
  for (size_t i = 0; i < n; i++) qi__put_token(v, (uint32_t)ids[i], special, &sink);
  *len_out = sink.n;
  return QI_OK;
}

#endif // QI__TOKENIZE_H

struct qi_model {
  qi_allocator allocator;
  qi_logger logger;
  qi_progress progress;
  qi_load load;
  bool check_only;      // qi_model_validate: tensors that are not mapped are not read
  qi_memory memory;
  qi__gguf gguf;
  qi__hparams h;        // QI_LOAD_ALL
  qi__vocab vocab;      // QI_LOAD_ALL and QI_LOAD_VOCAB
  qi__weights weights;  // QI_LOAD_ALL
  qi__cache cache;      // QI_LOAD_ALL
  const uint8_t **data; // QI_LOAD_ALL: [n_tensors] bytes of each tensor
  const char *info[3];  // terminated copies of the strings of qi__info_keys
  qi__arena arena;      // all of the above but the GGUF index
};

// ---- memory ----

// Strings of the metadata that qi_model_info gives.
static const char *const qi__info_keys[] = {"general.architecture", "general.name", "tokenizer.chat_template"};

// A string of the metadata; empty if there is none.
QI__FN const char *qi__model_string(const qi__gguf *g, const char *key, size_t *len) {
  const qi_meta *meta = qi__gguf_find(g, key);
  *len = meta && meta->type == QI_META_STRING ? (size_t)meta->count : 0;
  return *len ? meta->value.text : "";
}

QI__FN uint8_t *qi__arena_take_u64(qi__arena *arena, uint64_t bytes) {
  if (bytes > SIZE_MAX) arena->overflow = true;
  return arena->overflow ? NULL : (uint8_t *)qi__arena_take(arena, (size_t)bytes, 1, QI__CACHE_LINE);
}

// Where files are not mapped, or tensors must be converted, they are copied.
QI__FN void qi__tensors_layout(qi_model *m, qi__arena *arena) {
  const qi__gguf *g = &m->gguf;
  m->data = QI__ARENA_ARRAY(arena, const uint8_t *, g->n_tensors);
  uint8_t *copy = m->check_only ? NULL : qi__arena_take_u64(arena, g->copy_bytes);
  m->cache.block = qi__arena_take_u64(arena, m->cache.bytes);
  for (size_t i = 0; m->data && i < g->n_tensors; i++) {
    const qi__tensor_info *t = &g->tensors[i];
    m->data[i] = (const uint8_t *)qi__gguf_tensor_data(g, t);
    if (m->data[i] || !copy) continue;
    m->data[i] = copy;
    copy += ((size_t)t->n_bytes + QI__CACHE_LINE - 1) & ~(size_t)(QI__CACHE_LINE - 1);
  }
}

// Memory beyond the GGUF index. Runs twice: counting, then over the block; weights and vectors are taken while they are loaded.
QI__FN void qi__model_layout(qi_model *m, qi__arena *arena, const qi__vocab_counts *counts) {
  for (size_t i = 0; i < QI__COUNT_OF(qi__info_keys); i++) {
    size_t len;
    const char *s = qi__model_string(&m->gguf, qi__info_keys[i], &len);
    char *copy = QI__ARENA_ARRAY(arena, char, len + 1);
    if (!copy) continue;
    memcpy(copy, s, len);
    copy[len] = 0;
    m->info[i] = copy;
  }
  if (m->load == QI_LOAD_METADATA) return;
  qi__vocab_layout(&m->vocab, arena, counts);
  if (m->load == QI_LOAD_ALL) qi__tensors_layout(m, arena);
}

// Counts the room that qi__weights_load will take.
QI__FN void qi__weights_count(const qi_model *m, qi__arena *arena) {
  QI__ARENA_ARRAY(arena, qi__layer, m->h.n_layers);
  qi__arena_take_u64(arena, m->gguf.vector_bytes);
}

// What the load level needs, by the file's index or qi__gguf_peek: all that this may look at is in qi__info_keys,
// qi__vocab_keys, qi__hparam_keys and the plan.
QI__FN qi_result qi__model_count(qi_model *m, qi__arena *arena, qi__vocab_counts *counts, qi_error *err) {
  qi_result r = QI_OK;
  if (m->load != QI_LOAD_METADATA) r = qi__vocab_count(&m->gguf, counts, err);
  if (!r && m->load == QI_LOAD_ALL) r = qi__hparams_load(&m->h, &m->gguf, err);
  if (r) return r;
  if (m->load == QI_LOAD_ALL && !m->check_only) qi__cache_count(&m->cache, &m->gguf, &m->h);
  qi__model_layout(m, arena, counts);
  if (m->load == QI_LOAD_ALL) qi__weights_count(m, arena);
  return arena->overflow ? qi__fail(err, QI_ERR_LIMIT, "model: does not fit into this machine's address space") : QI_OK;
}

// ---- loading ----

// Tells the host how far it is. Errors: QI_ERR_CANCELLED.
QI__FN qi_result qi__model_progress(const qi_model *m, uint64_t done, uint64_t total, qi_error *err) {
  if (!m->progress.fn || m->progress.fn(m->progress.user, (float)((double)done / (double)total))) return QI_OK;
  return qi__fail(err, QI_ERR_CANCELLED, "loading was stopped by the progress callback");
}

QI__FN uint64_t qi__model_tensor_bytes(const qi_model *m) {
  uint64_t total = 0;
  for (size_t i = 0; i < m->gguf.n_tensors; i++) total += m->gguf.tensors[i].n_bytes;
  return total;
}

// Reads tensors that are not mapped, in parts, so that progress shows and the host can stop it.
QI__FN qi_result qi__model_read_tensors(qi_model *m, qi_error *err) {
  const uint64_t part = 4u << 20;
  uint64_t total = qi__model_tensor_bytes(m) + m->cache.bytes, done = 0;
  for (size_t i = 0; i < m->gguf.n_tensors; i++) {
    const qi__tensor_info *t = &m->gguf.tensors[i];
    bool mapped = m->check_only || qi__gguf_tensor_data(&m->gguf, t) != NULL;
    bool packed = t->scale > 0, in_place = m->gguf.parts[t->part].file.map != NULL;
    if (packed && (!m->check_only || in_place)) {
      qi_result r = qi__hf_convert(&m->gguf, t, m->check_only ? NULL : (uint8_t *)(uintptr_t)m->data[i], err);
      if (r) return r;
      if ((r = qi__model_progress(m, done + t->n_bytes, total, err))) return r;
    }
    for (uint64_t at = 0; at < t->n_bytes && !mapped && !packed; at += part) {
      uint64_t n = t->n_bytes - at < part ? t->n_bytes - at : part;
      qi_result r = qi__gguf_read_tensor(&m->gguf, t, at, (uint8_t *)(uintptr_t)m->data[i] + at, (size_t)n, err);
      if (r) return r;
      if ((r = qi__model_progress(m, done + at + n, total, err))) return r;
    }
    done += t->n_bytes;
  }
  return QI_OK;
}

QI__FN qi_result qi__model_load(qi_model *m, qi_error *err) {
  qi__vocab_counts counts;
  memset(&counts, 0, sizeof counts);
  qi_result r = qi__model_count(m, &m->arena, &counts, err);
  if (r) return r;
  if ((r = qi__arena_open(&m->arena, &m->allocator, "model", err))) return r;
  m->memory.heap += m->arena.size;
  qi__model_layout(m, &m->arena, &counts);
  if (m->load == QI_LOAD_METADATA) return QI_OK;
  if ((r = qi__vocab_load(&m->vocab, &m->gguf, &m->logger, err))) return r;
  qi__hf_keep_scores(&m->gguf, &m->vocab);
  if (m->load == QI_LOAD_VOCAB) return QI_OK;
  m->h.n_vocab = m->vocab.n_tokens;
  if ((r = qi__model_read_tensors(m, err))) return r;
  qi__gguf_release(&m->gguf);
  qi__weights_loader loader = {&m->gguf, &m->h, &m->arena, m->data, err};
  if ((r = qi__weights_load(&m->weights, &loader))) return r;
  return qi__cache_open(&m->cache, &m->weights, m->h.n_layers, &m->progress, qi__model_tensor_bytes(m), err);
}

// ---- open and close ----

QI__FN void qi__model_close(qi_model *m) {
  if (!m) return;
  qi_allocator allocator = m->allocator;
  qi__arena_close(&m->arena, &allocator);
  qi__gguf_close(&m->gguf);
  qi__free(&allocator, m, sizeof *m);
}

QI__FN qi_result qi__model_check_desc(const qi_model_desc *desc, qi_error *err) {
  int sources = (desc->path != NULL) + (desc->data != NULL) + (desc->reader.read != NULL);
  if (sources != 1)
    return qi__fail(err, QI_ERR_ARGUMENT, "model: %d sources given, expected exactly one of path, data, reader", sources);
  if (desc->load < QI_LOAD_ALL || desc->load > QI_LOAD_METADATA)
    return qi__fail(err, QI_ERR_ARGUMENT, "model: load is %d, expected a qi_load", (int)desc->load);
  if (desc->cache_path < QI_PATH_AUTO || desc->cache_path > QI_PATH_FLOAT)
    return qi__fail(err, QI_ERR_ARGUMENT, "model: cache_path is %d, expected a qi_path", (int)desc->cache_path);
  return QI_OK;
}

// A model with its file's index, nothing loaded yet.
QI__FN qi_result qi__model_new(qi_model **out, const qi_model_desc *desc, qi_error *err) {
  qi_allocator allocator;
  qi_result r = qi__model_check_desc(desc, err);
  if (r) return r;
  if ((r = qi__allocator_resolve(&desc->allocator, &allocator, err))) return r;
  qi_model *m = (qi_model *)qi__alloc(&allocator, sizeof *m, QI__CACHE_LINE);
  if (!m) return qi__fail_oom(err, "model", sizeof *m);
  memset(m, 0, sizeof *m);
  m->allocator = allocator;
  m->logger = desc->logger;
  m->progress = desc->progress;
  m->load = desc->load;
  m->cache.budget = desc->cache_bytes;
  m->cache.path = desc->cache_path;
  m->cache.pool = desc->cache_pool;
  r = qi__hf_is_source(desc) ? qi__hf_open(&m->gguf, desc, &allocator, err)
                             : qi__gguf_open(&m->gguf, desc, &allocator, &m->logger, err);
  if (r) {
    qi__free(&allocator, m, sizeof *m);
    return r;
  }
  m->memory.heap = sizeof *m + qi__gguf_heap(&m->gguf);
  m->memory.mapped = qi__gguf_mapped(&m->gguf);
  *out = m;
  return QI_OK;
}

QI__FN qi_result qi__model_open(qi_model **out, const qi_model_desc *desc, bool check_only, qi_error *err) {
  qi_model *m = NULL;
  qi_result r = qi__model_new(&m, desc, err);
  if (r) return r;
  m->check_only = check_only;
  if ((r = qi__model_load(m, err))) {
    qi__model_close(m);
    return r;
  }
  *out = m;
  return QI_OK;
}

// ---- memory before opening ----

// The metadata that the load level counts with.
QI__FN qi_result qi__model_peek(qi__gguf_peek *p, const qi__gguf_plan *plan, qi_load load, qi_error *err) {
  const qi__key_set fixed[2] = {{"", qi__info_keys, QI__COUNT_OF(qi__info_keys)},
                                {"", qi__vocab_keys, QI__COUNT_OF(qi__vocab_keys)}};
  const qi__architecture *arch;
  qi_result r = qi__gguf_peek_keys(p, plan, fixed, load == QI_LOAD_METADATA ? 1 : 2, err);
  if (r || load != QI_LOAD_ALL || qi__architecture_find(&p->gguf, &arch, NULL)) return r; // counting tells what is wrong with it
  char prefix[QI__GGUF_PEEK_BYTES];
  snprintf(prefix, sizeof prefix, "%s.", arch->name);
  const qi__key_set numbers = {prefix, qi__hparam_keys, QI__COUNT_OF(qi__hparam_keys)};
  return qi__gguf_peek_keys(p, plan, &numbers, 1, err);
}

// The same for a Hugging Face folder, or with a cache: the index is built for it, and given back.
QI__FN qi_result qi__model_index_memory(const qi_model_desc *desc, qi_memory *out, qi_error *err) {
  qi_model *m = NULL;
  qi__vocab_counts counts;
  qi__arena arena = {NULL, 0, 0, false};
  qi_result r = qi__model_new(&m, desc, err);
  if (r) return r;
  memset(&counts, 0, sizeof counts);
  if (!(r = qi__model_count(m, &arena, &counts, err))) {
    *out = m->memory;
    out->heap += arena.used;
  }
  qi__model_close(m);
  return r;
}

// Counts what qi__model_open will take, by walks over the file; asks for no memory, but some 20 KB of stack.
QI__FN qi_result qi__model_memory(const qi_model_desc *desc, qi_memory *out, qi_error *err) {
  qi_allocator allocator;
  qi__gguf_plan plan;
  uint64_t index_bytes = 0, mapped = 0;
  qi_result r = qi__model_check_desc(desc, err);
  bool cached = desc->cache_bytes && desc->load == QI_LOAD_ALL;
  if (!r && (cached || qi__hf_is_source(desc))) return qi__model_index_memory(desc, out, err);
  if (!r) r = qi__allocator_resolve(&desc->allocator, &allocator, err);
  if (!r) r = qi__gguf_measure(desc, &index_bytes, &mapped, &plan, err);
  if (r) return r;
  qi__gguf_peek peek;
  qi__arena arena = {NULL, 0, 0, false};
  r = qi__gguf_peek_open(&peek, desc, &plan, err);
  if (!r) r = qi__model_peek(&peek, &plan, desc->load, err);
  if (!r) {
    qi_model m;
    qi__vocab_counts counts;
    memset(&m, 0, sizeof m);
    memset(&counts, 0, sizeof counts);
    m.load = desc->load;
    m.gguf = peek.gguf;
    r = qi__model_count(&m, &arena, &counts, err);
  }
  qi__gguf_peek_close(&peek);
  if (r) return r;
  out->heap = sizeof(qi_model) + index_bytes + arena.used;
  out->mapped = mapped;
  return QI_OK;
}

// ---- facts ----

QI__FN void qi__model_info(const qi_model *m, qi_model_info *out) {
  out->architecture = m->info[0];
  out->name = m->info[1];
  out->chat_template = m->info[2];
  out->n_vocab = (int)m->vocab.n_tokens;
  out->n_ctx_train = (int)m->h.n_ctx_train;
  out->n_layers = (int)m->h.n_layers;
  out->n_embd = (int)m->h.n_embd;
  out->n_heads = (int)m->h.n_heads;
  out->n_kv_heads = (int)m->h.n_kv_heads;
  out->head_dim = (int)m->h.head_dim_k;
  out->n_ff = (int)m->h.n_ff;
  out->memory = m->memory;
  out->cache = m->cache.info;
  for (size_t i = 0; i < m->gguf.n_tensors; i++) {
    const qi__tensor_info *t = &m->gguf.tensors[i];
    out->n_params += t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
    out->n_tensor_bytes += t->n_bytes;
  }
}

QI__FN void qi__model_tensor(const qi_model *m, const qi__tensor_info *t, qi_tensor *out) {
  memset(out, 0, sizeof *out);
  out->name = t->name;
  out->format = t->format;
  out->gguf_id = t->gguf_id;
  out->n_dims = t->n_dims;
  memcpy(out->shape, t->shape, sizeof out->shape);
  out->n_bytes = t->n_bytes;
  out->data = m->load == QI_LOAD_ALL ? m->data[t - m->gguf.tensors] : qi__gguf_tensor_data(&m->gguf, t);
}

#endif // QI__MODEL_H
// generated from src/infer/observe.h: edit there
// ==== >>observe : what goes into matrix products, for those who ask ====
#ifndef QI__INFER_OBSERVE_H
#define QI__INFER_OBSERVE_H

// generated from src/infer/forward.h: edit there
// ==== >>forward : one pass over the layers, as a state that can stop anywhere ====
#ifndef QI__INFER_FORWARD_H
#define QI__INFER_FORWARD_H

// generated from src/infer/attend.h: edit there
// ==== >>attend : attention of a chunk's rows over the cache ====
#ifndef QI__INFER_ATTEND_H
#define QI__INFER_ATTEND_H

// generated from src/infer/kv.h: edit there
// ==== >>kv : the key/value cache ====
#ifndef QI__INFER_KV_H
#define QI__INFER_KV_H


// Keys and values of every layer, sequence and key/value head: positions of one head lie together, so that attention streams.
//   k: [n_layers, n_seqs, n_kv_heads, n_room / 16, head_dim_k, 16]      v: [n_layers, n_seqs, n_kv_heads, n_room, head_dim_v]
// float16 or float32. Keys are in blocks of 16 positions that hold the same element of all positions side by side: see attention.h.
typedef struct qi__kv {
  size_t n_layers, n_seqs, n_kv_heads, n_ctx, dim_k, dim_v;
  size_t n_room; // positions that there is memory for: n_ctx in whole blocks
  bool half;
  uint8_t *k, *v;
  size_t *length; // [n_seqs] tokens in each sequence
} qi__kv;

// Bytes of one element.
QI__INLINE size_t qi__kv_element(const qi__kv *kv) { return kv->half ? 2 : 4; }

QI__FN void qi__kv_layout(qi__kv *kv, qi__arena *arena, const qi__hparams *h, size_t n_seqs, size_t n_ctx, bool half) {
  kv->n_layers = h->n_layers;
  kv->n_seqs = n_seqs;
  kv->n_kv_heads = h->n_kv_heads;
  kv->n_ctx = n_ctx;
  kv->n_room = (n_ctx + QI__KEY_BLOCK - 1) / QI__KEY_BLOCK * QI__KEY_BLOCK;
  kv->dim_k = h->head_dim_k;
  kv->dim_v = h->head_dim_v;
  kv->half = half;
  size_t positions;
  if (!qi__mul_size(n_seqs, kv->n_room, &positions) || !qi__mul_size(positions, h->n_layers * h->n_kv_heads, &positions)) {
    arena->overflow = true;
    positions = 0;
  }
  kv->k = (uint8_t *)qi__arena_take(arena, positions, h->head_dim_k * qi__kv_element(kv), QI__CACHE_LINE);
  kv->v = (uint8_t *)qi__arena_take(arena, positions, h->head_dim_v * qi__kv_element(kv), QI__CACHE_LINE);
  kv->length = QI__ARENA_ARRAY(arena, size_t, n_seqs);
  if (kv->length) memset(kv->length, 0, n_seqs * sizeof *kv->length);
}

// Bytes of keys and values.
QI__FN uint64_t qi__kv_bytes(const qi__kv *kv) {
  return (uint64_t)kv->n_layers * kv->n_seqs * kv->n_kv_heads * kv->n_room * (kv->dim_k + kv->dim_v) * qi__kv_element(kv);
}

// Positions before `pos` of one head, of all that there is room for.
QI__INLINE size_t qi__kv_index(const qi__kv *kv, size_t layer, size_t seq, size_t head, size_t pos) {
  return ((layer * kv->n_seqs + seq) * kv->n_kv_heads + head) * kv->n_room + pos;
}

// Positions first..first+n-1 of one head; `first` is a multiple of QI__KEY_BLOCK. The keys after them count as those wanted next.
QI__INLINE qi__kv_run qi__kv_get(const qi__kv *kv, size_t layer, size_t seq, size_t head, size_t first, size_t n) {
  size_t index = qi__kv_index(kv, layer, seq, head, first), element = qi__kv_element(kv);
  const uint8_t *k = kv->k + index * kv->dim_k * element, *v = kv->v + index * kv->dim_v * element;
  qi__kv_run run = {k, v, n, kv->half, first + n < kv->n_ctx ? k + n * kv->dim_k * element : k};
  return run;
}

// One position of one head: k [dim_k], v [dim_v].
QI__FN void qi__kv_store(const qi__kv *kv, const qi__kernels *kernels, size_t layer, size_t seq, size_t head, size_t pos,
                         const float *k, const float *v) {
  size_t lane = pos % QI__KEY_BLOCK, block = qi__kv_index(kv, layer, seq, head, pos - lane) * kv->dim_k + lane;
  size_t at = qi__kv_index(kv, layer, seq, head, pos) * kv->dim_v;
  if (!kv->half) {
    float *keys = (float *)(void *)kv->k + block;
    for (size_t i = 0; i < kv->dim_k; i++) keys[i * QI__KEY_BLOCK] = k[i];
    memcpy((float *)(void *)kv->v + at, v, kv->dim_v * sizeof *v);
    return;
  }
  uint16_t *keys = (uint16_t *)(void *)kv->k + block, part[64];
  for (size_t i = 0, n; i < kv->dim_k; i += n) {
    n = qi__min_size(kv->dim_k - i, 64);
    kernels->to_f16(k + i, n, part);
    for (size_t j = 0; j < n; j++) keys[(i + j) * QI__KEY_BLOCK] = part[j];
  }
  kernels->to_f16(v, kv->dim_v, (uint16_t *)(void *)kv->v + at);
}

#endif // QI__INFER_KV_H

// softmax(q k^T / sqrt(head_dim)) v, piece by piece in one pass over the cache. The work is cut into units that threads take:
//   - prompts: a tile of consecutive rows of one sequence, times one key/value head;
//   - generation: a row times one key/value head; where there are fewer of these than keep all threads busy, each piece of the
//     cache is a unit, which leaves its result in `parts`; qi__attention_finish joins them.
// No result depends on the cut. On a matrix unit (BF16 path, prompts) queries, keys, weights of the softmax and values are rounded
// to bfloat16 and multiplied as in kernels/bf16.h; maximum, sum and all that joins pieces stay float32. Rounding is off by at most
// 2^-9 of a number, so a score by E = 2^-8 sum |q k| and an output by (e^2E (1 + 2^-8) - 1) max |v|, beside what sums lose.
#define QI__ATTENTION_TILE 64 // query rows (heads times tokens) of a tile; one token may have more
#define QI__ATTENTION_UNITS 4 // for each thread, below which generation is cut into pieces

// One token of the chunk that is computed.
typedef struct qi__row {
  qi_token token;
  size_t seq, pos;
  bool want_logits;
} qi__row;

typedef struct qi__attention {
  // Memory of the session.
  size_t n_split, n_pieces;  // rows of generation that can be cut, and pieces of each
  float *part_values;        // [n_split, n_pieces, n_heads, head_dim_v]
  float *part_max, *part_sum; // [n_split, n_pieces, n_heads]
  size_t *tile;              // [n_batch + 1] first rows of tiles, and the end of the last
  // Of the chunk.
  const qi__hparams *h;
  const qi__kernels *kernels;
  const qi__kv *kv;
  const int *cancel;
  const qi__row *rows;
  size_t n_rows, n_prompt, n_tiles;
  bool split;
  const float *q;            // [n_rows, n_heads, head_dim_k]
  float *out;                // [n_rows, n_heads, head_dim_v]
} qi__attention;

// ---- memory ----

QI__INLINE size_t qi__round16(size_t n) { return (n + 15) / 16 * 16; }

// Rows of generation that do not give QI__ATTENTION_UNITS for each thread when they are not cut.
QI__FN size_t qi__attention_max_split(const qi__hparams *h, size_t n_batch, size_t n_threads) {
  if (n_threads < 2) return 0;
  return qi__min_size(n_batch, (QI__ATTENTION_UNITS * n_threads - 1) / h->n_kv_heads);
}

QI__FN void qi__attention_layout(qi__attention *a, qi__arena *arena, const qi__hparams *h, size_t n_batch, size_t n_ctx,
                                 size_t n_threads) {
  size_t pieces = (n_ctx + QI__ATTENTION_PIECE - 1) / QI__ATTENTION_PIECE, window = h->sliding_window / QI__ATTENTION_PIECE + 2;
  a->n_pieces = h->sliding_window ? qi__min_size(pieces, window) : pieces;
  a->n_split = a->n_pieces > 1 ? qi__attention_max_split(h, n_batch, n_threads) : 0;
  size_t n;
  if (!qi__mul_size(a->n_split * a->n_pieces, h->n_heads, &n)) arena->overflow = true, n = 0;
  a->part_max = QI__ARENA_ARRAY(arena, float, n);
  a->part_sum = QI__ARENA_ARRAY(arena, float, n);
  if (!qi__mul_size(n, h->head_dim_v, &n)) arena->overflow = true, n = 0;
  a->part_values = QI__ARENA_ARRAY(arena, float, n);
  a->tile = QI__ARENA_ARRAY(arena, size_t, n_batch + 1);
}

// Scratch of one thread, as qi__attend_open hands it out.
QI__INLINE size_t qi__attention_tile_rows(const qi__hparams *h) {
  size_t group = h->n_heads / h->n_kv_heads;
  return qi__round16(group > QI__ATTENTION_TILE ? group : QI__ATTENTION_TILE);
}
QI__INLINE size_t qi__attention_panel_width(const qi__hparams *h) {
  size_t width = qi__bf16_width(h->head_dim_k);
  return width > QI__ATTENTION_PIECE ? width : QI__ATTENTION_PIECE;
}
QI__FN size_t qi__attention_scratch(const qi__hparams *h) {
  size_t rows = qi__attention_tile_rows(h), finish = 4 * qi__round16(h->n_heads);
  size_t unit = rows * (6 + qi__round16(h->head_dim_k) + QI__ATTENTION_PIECE + qi__round16(h->head_dim_v)) +
                rows * (qi__bf16_width(h->head_dim_k) + QI__ATTENTION_PIECE) / 2 + 16 * qi__attention_panel_width(h);
  return unit > finish ? unit : finish;
}

// ---- units ----

// Positions begin..*end-1 are what the row sees.
QI__INLINE size_t qi__attention_span(const qi__hparams *h, const qi__row *row, size_t *end) {
  *end = row->pos + 1;
  return h->sliding_window && *end > h->sliding_window ? *end - h->sliding_window : 0;
}

QI__FN size_t qi__attention_row_pieces(const qi__attention *a, size_t i) {
  size_t end, begin = qi__attention_span(a->h, &a->rows[i], &end);
  return (end - 1) / QI__ATTENTION_PIECE - begin / QI__ATTENTION_PIECE + 1;
}

// Begins a chunk: the fields of the chunk but n_tiles and split are set.
QI__FN void qi__attention_plan(qi__attention *a, size_t n_threads) {
  size_t group = a->h->n_heads / a->h->n_kv_heads, most = group < QI__ATTENTION_TILE ? QI__ATTENTION_TILE / group : 1;
  a->n_tiles = 0;
  for (size_t i = 0; i < a->n_prompt; i++) {
    const qi__row *row = &a->rows[i], *last = row - 1;
    bool follows = i > 0 && row->seq == last->seq && row->pos == last->pos + 1 && row->pos % most != 0;
    if (!follows) a->tile[a->n_tiles++] = i;
  }
  a->tile[a->n_tiles] = a->n_prompt;
  size_t n_generated = a->n_rows - a->n_prompt;
  a->split = n_generated <= a->n_split && n_generated * a->h->n_kv_heads < QI__ATTENTION_UNITS * n_threads;
}

QI__FN size_t qi__attention_units(const qi__attention *a) {
  size_t n = a->n_tiles;
  for (size_t i = a->n_prompt; i < a->n_rows; i++) n += a->split ? qi__attention_row_pieces(a, i) : 1;
  return n * a->h->n_kv_heads;
}

// ---- one unit ----

// Query rows of a unit: the heads of one group, of n_rows tokens that follow each other.
typedef struct qi__attend {
  const qi__attention *a;
  size_t layer, head, group, first, n_rows; // head: of keys and values; first: row of the chunk
  bool matrix;
  float *q, *score, *values;  // [n_rows * group, ..]
  float *max, *sum;           // [n_rows * group] of a piece
  qi__softmax_state all;
  uint16_t *q_bf16, *weight_bf16, *panel;
} qi__attend;

// Lays out scratch and takes the queries, times 1 / sqrt(head_dim).
QI__FN void qi__attend_open(qi__attend *w, float *scratch) {
  const qi__hparams *h = w->a->h;
  size_t rows = qi__attention_tile_rows(h), dim = h->head_dim_k;
  float scale = 1.0f / sqrtf((float)dim), **stats[] = {&w->max, &w->sum, &w->all.max, &w->all.sum, &w->all.keep, &w->all.add};
  for (size_t i = 0; i < QI__COUNT_OF(stats); i++) *stats[i] = scratch + i * rows;
  w->score = scratch + QI__COUNT_OF(stats) * rows;
  w->values = w->score + rows * QI__ATTENTION_PIECE;
  w->q = w->values + rows * qi__round16(h->head_dim_v);
  w->q_bf16 = (uint16_t *)(void *)(w->q + rows * qi__round16(dim));
  w->weight_bf16 = w->q_bf16 + rows * qi__bf16_width(dim);
  w->panel = w->weight_bf16 + rows * QI__ATTENTION_PIECE;
  for (size_t i = 0; i < w->n_rows; i++) {
    const float *q = w->a->q + ((w->first + i) * h->n_heads + w->head * w->group) * dim;
    for (size_t j = 0; j < w->group * dim; j++) w->q[i * w->group * dim + j] = q[j] * scale;
  }
  for (size_t g = 0; w->matrix && g < w->n_rows * w->group; g++) w->a->kernels->bf16.pack(w->q + g * dim, dim, w->q_bf16, g);
}

// A piece as the rows r..r+n_r-1 of a unit see it; the others see nothing of it.
typedef struct qi__attend_piece {
  qi__kv_run run;
  size_t from; // position of the run's first
  size_t r, n_r;
} qi__attend_piece;

// Keys begin..*end-1 of the run are what row r sees.
QI__FN size_t qi__attend_see(const qi__attend *w, const qi__attend_piece *p, size_t r, size_t *end) {
  size_t begin = qi__attention_span(w->a->h, &w->a->rows[w->first + r], end);
  *end = qi__min_size(*end - p->from, p->run.n);
  return begin > p->from ? begin - p->from : 0;
}

// Piece `number` of the cache. Where rows see only its end, its beginning is left out.
QI__FN void qi__attend_take(const qi__attend *w, size_t number, qi__attend_piece *p) {
  const qi__hparams *h = w->a->h;
  const qi__row *rows = w->a->rows + w->first;
  size_t base = number * QI__ATTENTION_PIECE, limit = base + QI__ATTENTION_PIECE, r = 0, n = w->n_rows, end;
  while (rows[r].pos < base) r++;
  while (qi__attention_span(h, &rows[n - 1], &end) >= limit) n--;
  size_t begin = qi__attention_span(h, &rows[r], &end);
  p->r = r;
  p->n_r = n - r;
  p->from = begin > base ? begin / 32 * 32 : base;
  p->run = qi__kv_get(w->a->kv, w->layer, rows->seq, w->head, p->from, qi__min_size(limit, rows[n - 1].pos + 1) - p->from);
}

// Rows i..i+n-1 of the piece add keys begin..end-1.
QI__FN void qi__attend_add(const qi__attend *w, const qi__attend_piece *p, size_t i, size_t n, size_t begin, size_t end,
                           float *values) {
  size_t dim = w->a->h->head_dim_v, at = i * w->group;
  if (begin < end)
    w->a->kernels->attention_values(w->score + at * QI__ATTENTION_PIECE, n * w->group, &p->run, begin, end, dim, values + at * dim);
}

// What all rows see they take together, what comes before and after it each alone: so each has the chain that it has alone.
QI__FN void qi__attend_values(const qi__attend *w, const qi__attend_piece *p, float *values) {
  size_t begin, end, all_end, row_end;
  size_t all_begin = qi__attend_see(w, p, p->r + p->n_r - 1, &end);
  qi__attend_see(w, p, p->r, &all_end);
  all_begin = qi__min_size(all_begin, all_end);
  memset(values, 0, p->n_r * w->group * w->a->h->head_dim_v * sizeof *values);
  for (size_t i = 0; i + 1 < p->n_r; i++) {
    begin = qi__attend_see(w, p, p->r + i, &row_end);
    qi__attend_add(w, p, i, 1, begin, all_begin, values);
  }
  qi__attend_add(w, p, 0, p->n_r, all_begin, all_end, values);
  for (size_t i = 0; i < p->n_r; i++) {
    begin = qi__attend_see(w, p, p->r + i, &row_end);
    qi__attend_add(w, p, i, 1, begin > all_end ? begin : all_end, row_end, values);
  }
}

// ---- on a matrix unit ----

QI__FN void qi__attend_scores_matrix(const qi__attend *w, const qi__attend_piece *p) {
  const qi__kernels *kernels = w->a->kernels;
  size_t dim = w->a->h->head_dim_k, width = qi__bf16_width(dim), n = p->run.n;
  bool half = p->run.half;
  for (size_t j = 0; j < n; j += 32) {
    size_t n_keys = qi__min_size(32, qi__round16(n - j));
    for (size_t block = 0; block < n_keys; block += 16)
      kernels->attention_panel(qi__kv_at(p->run.k, (j + block) * dim, half), QI__KEY_BLOCK, dim, 16, half, false,
                               w->panel + block * width);
    qi__bf16_args a = {w->panel, n_keys, width, w->q_bf16, 16 * width, p->r * w->group, p->n_r * w->group, true, w->score + j,
                       QI__ATTENTION_PIECE};
    kernels->bf16.multiply(&a);
  }
}

QI__FN void qi__attend_values_matrix(const qi__attend *w, const qi__attend_piece *p, float *values) {
  const qi__kernels *kernels = w->a->kernels;
  size_t dim = w->a->h->head_dim_v, n = p->run.n, width = qi__bf16_width(n), n_q = p->n_r * w->group;
  bool half = p->run.half;
  for (size_t g = 0; g < n_q; g++) kernels->bf16.pack(w->score + g * QI__ATTENTION_PIECE, width, w->weight_bf16, g);
  for (size_t i = 0; i < dim; i += 32) {
    size_t n_dim = qi__min_size(32, dim - i);
    for (size_t block = 0; block < n_dim; block += 16)
      kernels->attention_panel(qi__kv_at(p->run.v, i + block, half), dim, n, qi__min_size(16, n_dim - block), half, true,
                               w->panel + block * width);
    qi__bf16_args a = {w->panel, n_dim, width, w->weight_bf16, 16 * width, 0, n_q, true, values + i, dim};
    kernels->bf16.multiply(&a);
  }
}

// ---- pieces ----

// max, sum [n_r * group] and values [n_r * group, head_dim_v] of a piece.
QI__FN void qi__attend_piece_run(const qi__attend *w, const qi__attend_piece *p, float *max, float *sum, float *values) {
  const qi__hparams *h = w->a->h;
  const qi__kernels *kernels = w->a->kernels;
  size_t group = w->group;
  if (w->matrix) qi__attend_scores_matrix(w, p);
  else kernels->attention_scores(w->q + p->r * group * h->head_dim_k, p->n_r * group, &p->run, h->head_dim_k, w->score);
  for (size_t i = 0; i < p->n_r; i++) {
    size_t end, begin = qi__attend_see(w, p, p->r + i, &end), n = w->matrix ? qi__bf16_width(p->run.n) : qi__round16(end);
    for (size_t g = i * group; g < (i + 1) * group; g++)
      sum[g] = kernels->attention_softmax(w->score + g * QI__ATTENTION_PIECE, begin, end, n, &max[g]);
  }
  if (w->matrix) qi__attend_values_matrix(w, p, values);
  else qi__attend_values(w, p, values);
}

QI__FN void qi__softmax_begin(const qi__softmax_state *all, size_t n) {
  for (size_t g = 0; g < n; g++) all->max[g] = -FLT_MAX, all->sum[g] = 0;
}

// values[g, i] /= sum[g]
QI__FN void qi__softmax_end(const qi__softmax_state *all, size_t n, size_t dim, float *values) {
  for (size_t g = 0; g < n; g++, values += dim) {
    float inverse = 1.0f / all->sum[g];
    for (size_t i = 0; i < dim; i++) values[i] *= inverse;
  }
}

// All pieces of the rows of a unit, into `out`.
QI__FN void qi__attend_all(const qi__attend *w) {
  const qi__attention *a = w->a;
  const qi__kernels *kernels = a->kernels;
  size_t group = w->group, dim = a->h->head_dim_v, stride = a->h->n_heads * dim, end;
  float *out = a->out + w->first * stride + w->head * group * dim;
  qi__softmax_begin(&w->all, w->n_rows * group);
  for (size_t r = 0; r < w->n_rows; r++) memset(out + r * stride, 0, group * dim * sizeof *out);
  size_t piece = qi__attention_span(a->h, &a->rows[w->first], &end) / QI__ATTENTION_PIECE;
  size_t last = a->rows[w->first + w->n_rows - 1].pos / QI__ATTENTION_PIECE;
  for (; piece <= last && !__atomic_load_n(a->cancel, __ATOMIC_RELAXED); piece++) {
    qi__attend_piece p;
    qi__attend_take(w, piece, &p);
    qi__attend_piece_run(w, &p, w->max, w->sum, w->values);
    size_t g = p.r * group;
    qi__softmax_state all = {w->all.max + g, w->all.sum + g, w->all.keep + g, w->all.add + g};
    kernels->attention_join(w->max, w->sum, p.n_r * group, &all);
    for (size_t r = 0; r < p.n_r; r++)
      kernels->attention_blend(w->values + r * group * dim, all.keep + r * group, all.add + r * group, group, dim,
                               out + (p.r + r) * stride);
  }
  for (size_t r = 0; r < w->n_rows; r++) {
    qi__softmax_state all = {NULL, w->all.sum + r * group, NULL, NULL};
    qi__softmax_end(&all, group, dim, out + r * stride);
  }
}

// First element in part_max of the piece's results for the rows of generation; times head_dim_v in part_values.
QI__INLINE size_t qi__attention_part(const qi__attention *a, size_t row, size_t piece) {
  return ((row - a->n_prompt) * a->n_pieces + piece) * a->h->n_heads;
}

// The unit's work on one of its row's pieces, left in the parts. `piece` counts from the first that the row sees.
QI__FN void qi__attend_part(const qi__attend *w, size_t piece) {
  const qi__attention *a = w->a;
  qi__attend_piece p;
  size_t end, begin = qi__attention_span(a->h, &a->rows[w->first], &end);
  size_t at = qi__attention_part(a, w->first, piece) + w->head * w->group;
  qi__attend_take(w, begin / QI__ATTENTION_PIECE + piece, &p);
  qi__attend_piece_run(w, &p, a->part_max + at, a->part_sum + at, a->part_values + at * a->h->head_dim_v);
}

// Unit u of qi__attention_units. `matrix`: prompts go over the matrix unit, which is there. scratch: [qi__attention_scratch]
QI__FN void qi__attention_run(const qi__attention *a, size_t layer, bool matrix, size_t u, float *scratch) {
  size_t n_heads = a->h->n_kv_heads;
  qi__attend w;
  memset(&w, 0, sizeof w);
  w.a = a;
  w.layer = layer;
  w.group = a->h->n_heads / n_heads;
  w.n_rows = 1;
  if (u < a->n_tiles * n_heads) {
    w.first = a->tile[u / n_heads];
    w.n_rows = a->tile[u / n_heads + 1] - w.first;
    w.head = u % n_heads;
    w.matrix = matrix;
    qi__attend_open(&w, scratch);
    qi__attend_all(&w);
    return;
  }
  u -= a->n_tiles * n_heads;
  w.first = a->n_prompt;
  size_t n = a->split ? qi__attention_row_pieces(a, w.first) : 1;
  for (; u >= n * n_heads; n = a->split ? qi__attention_row_pieces(a, w.first) : 1) {
    u -= n * n_heads;
    w.first++;
  }
  w.head = u / n;
  qi__attend_open(&w, scratch);
  if (a->split) qi__attend_part(&w, u % n);
  else qi__attend_all(&w);
}

// After all units: joins the parts of row i of the chunk, where there are any. scratch: [qi__attention_scratch]
QI__FN void qi__attention_finish(const qi__attention *a, size_t i, float *scratch) {
  size_t n_heads = a->h->n_heads, dim = a->h->head_dim_v, step = qi__round16(n_heads);
  if (i < a->n_prompt || !a->split) return;
  qi__softmax_state all = {scratch, scratch + step, scratch + 2 * step, scratch + 3 * step};
  float *out = a->out + i * n_heads * dim;
  qi__softmax_begin(&all, n_heads);
  memset(out, 0, n_heads * dim * sizeof *out);
  for (size_t piece = 0, n = qi__attention_row_pieces(a, i); piece < n; piece++) {
    size_t at = qi__attention_part(a, i, piece);
    a->kernels->attention_join(a->part_max + at, a->part_sum + at, n_heads, &all);
    a->kernels->attention_blend(a->part_values + at * dim, all.keep, all.add, n_heads, dim, out);
  }
  qi__softmax_end(&all, n_heads, dim, out);
}

#endif // QI__INFER_ATTEND_H

// Easy to get wrong:
//   - All keys and values of the chunk are stored before its attention begins: rows of one sequence see each other.
//   - The norm of queries and keys comes before the rotation, biases before the norm.
//   - Rows of prompts stand before rows of generation: products take each group with its own arithmetic.

// The operations of a pass, in order. Those from ATTN_NORM to DOWN repeat for each layer.
typedef enum qi__op {
  QI__OP_EMBED,     // token embeddings, and the rotation angles of each row
  QI__OP_ATTN_NORM,
  QI__OP_QKV,
  QI__OP_ROPE,      // query/key norm, rotation, keys and values to the cache
  QI__OP_ATTENTION,
  QI__OP_ATTN_INPUT, // attention joined, and in the forms that the next product wants
  QI__OP_ATTN_OUT,
  QI__OP_FFN_NORM,
  QI__OP_GATE_UP,
  QI__OP_SWIGLU,
  QI__OP_DOWN,
  QI__OP_OUTPUT_NORM,
  QI__OP_OUTPUT,
  QI__OP_DONE
} qi__op;

typedef struct qi__forward {
  const qi__hparams *h;
  const qi__weights *w;
  const qi__kernels *kernels;
  qi_pool *pool;
  qi__kv *kv;
  qi_path path;
  const int *cancel; // read by all threads; not 0 = leave the pass unfinished
  qi_observer observer;
  void (*observe)(const struct qi__forward *f); // before each product; NULL = none
  size_t n_batch, n_logits;

  double *frequency;    // [n_rot / 2] angle per position
  double magnitude;     // of cos and sin
  qi__row *rows;        // [n_batch]
  size_t *wanted;       // [n_batch] rows whose logits are wanted
  float *x;             // [n_batch, n_embd] residual stream
  qi__inputs in;        // [n_batch, widest input] what the next product reads
  float *q, *k, *v;     // [n_batch, n_heads * head_dim_k], [n_batch, n_kv_heads * head_dim_k], [.. head_dim_v]
  float *gate, *up;     // [n_batch, n_ff]
  float *cos_sin;       // [n_batch, n_rot]
  qi__attention attention;
  float *logits;        // [n_logits, n_vocab]
  float *scratch;       // [n_threads, scratch_floats]
  size_t scratch_floats;

  size_t n_rows, n_prompt;           // rows of the chunk; the first n_prompt are prompt
  size_t n_wanted, n_wanted_prompt;  // the same among the wanted
  size_t logits_row;                 // first row of `logits` that this chunk fills
  qi__op op;
  size_t layer;
  int64_t unit;                      // units of the operation that are done
  double us_per_unit[QI__OP_DONE];   // as measured last; 0 = not yet
} qi__forward;

// ---- memory ----

QI__FN size_t qi__forward_width(const qi__hparams *h) {
  size_t width = h->n_embd > h->n_ff ? h->n_embd : h->n_ff, attn = h->n_heads * h->head_dim_v;
  return width > attn ? width : attn;
}

// Scratch of one thread: a tile of weights and its results, or what a unit of attention needs.
QI__FN size_t qi__forward_scratch(const qi__hparams *h, size_t n_batch) {
  size_t tile = qi__tile_scratch(qi__forward_width(h), n_batch) + n_batch * QI__TILE_ROWS;
  size_t attention = qi__attention_scratch(h);
  size_t n = tile > attention ? tile : attention;
  return (n + 15) / 16 * 16;
}

QI__FN void qi__forward_layout(qi__forward *f, qi__arena *arena, const qi__hparams *h, size_t n_ctx, size_t n_batch,
                               size_t n_logits, size_t n_threads) {
  f->n_batch = n_batch;
  f->n_logits = n_logits;
  f->frequency = QI__ARENA_ARRAY(arena, double, h->n_rot / 2);
  f->rows = QI__ARENA_ARRAY(arena, qi__row, n_batch);
  f->wanted = QI__ARENA_ARRAY(arena, size_t, n_batch);
  f->x = QI__ARENA_ARRAY(arena, float, n_batch * h->n_embd);
  qi__inputs_layout(&f->in, arena, n_batch, qi__forward_width(h));
  f->q = QI__ARENA_ARRAY(arena, float, n_batch * h->n_heads * h->head_dim_k);
  f->k = QI__ARENA_ARRAY(arena, float, n_batch * h->n_kv_heads * h->head_dim_k);
  f->v = QI__ARENA_ARRAY(arena, float, n_batch * h->n_kv_heads * h->head_dim_v);
  f->gate = QI__ARENA_ARRAY(arena, float, n_batch * h->n_ff);
  f->up = QI__ARENA_ARRAY(arena, float, n_batch * h->n_ff);
  f->cos_sin = QI__ARENA_ARRAY(arena, float, n_batch * h->n_rot);
  qi__attention_layout(&f->attention, arena, h, n_batch, n_ctx, n_threads);
  size_t logits;
  if (!qi__mul_size(n_logits, h->n_vocab, &logits)) arena->overflow = true, logits = 0;
  f->logits = QI__ARENA_ARRAY(arena, float, logits);
  f->scratch_floats = qi__forward_scratch(h, n_batch);
  f->scratch = QI__ARENA_ARRAY(arena, float, n_threads * f->scratch_floats);
}

// ---- operations on rows ----

QI__FN void qi__run_embed(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__weight *e = &f->w->embedding;
  (void)worker;
  for (int64_t i = begin; i < end; i++) {
    const qi__row *row = &f->rows[i];
    const uint8_t *src = e->data + (size_t)row->token * e->row_bytes;
    f->kernels->dequantize[e->id](e->format, src, f->x + (size_t)i * e->n_cols, e->n_cols);
    float *cos_sin = f->cos_sin + (size_t)i * f->h->n_rot;
    for (size_t p = 0; p < f->h->n_rot / 2; p++) {
      float s, c;
      qi__sincos((double)row->pos * f->frequency[p], &s, &c);
      cos_sin[2 * p] = (float)(c * f->magnitude);
      cos_sin[2 * p + 1] = (float)(s * f->magnitude);
    }
  }
}

// The forms of row i that these weights want, by the role of the row.
QI__FN void qi__prepare_row(qi__forward *f, size_t i, bool generated, const qi__weight *const *w, size_t n) {
  unsigned need = 0;
  for (size_t j = 0; j < n; j++) need |= qi__inputs_need(w[j], qi__arithmetic_of(f->kernels, w[j], f->path, generated));
  qi__inputs_prepare(f->kernels, &f->in, i, need);
}

// in.x[i] = norm of x[row], ready for products with w.
QI__FN void qi__norm_row(qi__forward *f, size_t row, size_t i, bool generated, const float *norm, const qi__weight *const *w,
                         size_t n) {
  size_t width = f->h->n_embd;
  f->kernels->rms_norm(f->x + row * width, norm, f->h->rms_norm_eps, width, f->in.x + i * width);
  qi__prepare_row(f, i, generated, w, n);
}

QI__FN void qi__run_attn_norm(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__layer *l = &f->w->layers[f->layer];
  const qi__weight *next[] = {&l->wq, &l->wk, &l->wv};
  (void)worker;
  for (size_t i = (size_t)begin; i < (size_t)end; i++) qi__norm_row(f, i, i, i >= f->n_prompt, l->attn_norm, next, 3);
}

QI__FN void qi__run_ffn_norm(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__layer *l = &f->w->layers[f->layer];
  const qi__weight *next[] = {&l->gate, &l->up};
  (void)worker;
  for (size_t i = (size_t)begin; i < (size_t)end; i++) qi__norm_row(f, i, i, i >= f->n_prompt, l->ffn_norm, next, 2);
}

QI__FN void qi__run_output_norm(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__weight *next[] = {&f->w->output};
  (void)worker;
  for (size_t i = (size_t)begin; i < (size_t)end; i++)
    qi__norm_row(f, f->wanted[i], i, i >= f->n_wanted_prompt, f->w->output_norm, next, 1);
}

QI__FN void qi__run_rope(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__hparams *h = f->h;
  const qi__layer *l = &f->w->layers[f->layer];
  bool neighbours = (h->arch->features & QI__ROPE_NEIGHBOURS) != 0;
  size_t dim = h->head_dim_k;
  (void)worker;
  for (size_t i = (size_t)begin; i < (size_t)end; i++) {
    const qi__row *row = &f->rows[i];
    const float *cos_sin = f->cos_sin + i * h->n_rot;
    for (size_t head = 0; head < h->n_heads; head++) {
      float *q = f->q + (i * h->n_heads + head) * dim;
      if (l->q_norm) f->kernels->rms_norm(q, l->q_norm, h->rms_norm_eps, dim, q);
      f->kernels->rope(q, cos_sin, h->n_rot / 2, neighbours);
    }
    for (size_t head = 0; head < h->n_kv_heads; head++) {
      float *k = f->k + (i * h->n_kv_heads + head) * dim;
      if (l->k_norm) f->kernels->rms_norm(k, l->k_norm, h->rms_norm_eps, dim, k);
      f->kernels->rope(k, cos_sin, h->n_rot / 2, neighbours);
      const float *v = f->v + (i * h->n_kv_heads + head) * h->head_dim_v;
      qi__kv_store(f->kv, f->kernels, f->layer, row->seq, head, row->pos, k, v);
    }
  }
}

QI__FN void qi__run_attention(qi__forward *f, int worker, int64_t begin, int64_t end) {
  float *scratch = f->scratch + (size_t)worker * f->scratch_floats;
  bool bf16 = qi__arithmetic_of(f->kernels, &f->w->layers[f->layer].wq, f->path, false) == QI__BF16;
  bool matrix = bf16 && f->kernels->attention_panel && f->kernels->bf16.multiply;
  for (size_t u = (size_t)begin; u < (size_t)end; u++) qi__attention_run(&f->attention, f->layer, matrix, u, scratch);
}

QI__FN void qi__run_attn_input(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__layer *l = &f->w->layers[f->layer];
  const qi__weight *next[] = {&l->wo};
  size_t width = f->h->n_heads * f->h->head_dim_v;
  float *scratch = f->scratch + (size_t)worker * f->scratch_floats;
  for (size_t i = (size_t)begin; i < (size_t)end; i++) {
    qi__attention_finish(&f->attention, i, scratch);
    float *x = f->in.x + i * width;
    if (l->attn_sub_norm) f->kernels->rms_norm(x, l->attn_sub_norm, f->h->rms_norm_eps, width, x);
    qi__prepare_row(f, i, i >= f->n_prompt, next, 1);
  }
}

// y = max(gate, 0)^2 * up: products of two, the same bits however they are compiled.
QI__FN void qi__relu2(const float *gate, const float *up, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = qi__relu_squared_ref(gate[i]) * up[i];
}

QI__FN void qi__run_swiglu(qi__forward *f, int worker, int64_t begin, int64_t end) {
  const qi__layer *l = &f->w->layers[f->layer];
  const qi__weight *next[] = {&l->down};
  size_t n_ff = f->h->n_ff;
  bool relu2 = (f->h->arch->features & QI__RELU2) != 0;
  (void)worker;
  for (size_t i = (size_t)begin; i < (size_t)end; i++) {
    float *x = f->in.x + i * n_ff;
    if (relu2) qi__relu2(f->gate + i * n_ff, f->up + i * n_ff, n_ff, x);
    else f->kernels->swiglu(f->gate + i * n_ff, f->up + i * n_ff, n_ff, x);
    if (l->ffn_sub_norm) f->kernels->rms_norm(x, l->ffn_sub_norm, f->h->rms_norm_eps, n_ff, x);
    qi__prepare_row(f, i, i >= f->n_prompt, next, 1);
  }
}

// ---- matrix products ----

// One product of a step: y[i] = w in[i], or y[i] += w in[i].
typedef struct qi__product {
  const qi__weight *w;
  float *y; // [n_rows, w->n_rows]
  bool add;
} qi__product;

QI__FN size_t qi__products(const qi__forward *f, qi__product out[3]) {
  const qi__layer *l = &f->w->layers[f->layer];
  switch (f->op) {
  case QI__OP_QKV:
    out[0] = (qi__product){&l->wq, f->q, false};
    out[1] = (qi__product){&l->wk, f->k, false};
    out[2] = (qi__product){&l->wv, f->v, false};
    return 3;
  case QI__OP_ATTN_OUT: out[0] = (qi__product){&l->wo, f->x, true}; return 1;
  case QI__OP_GATE_UP:
    out[0] = (qi__product){&l->gate, f->gate, false};
    out[1] = (qi__product){&l->up, f->up, false};
    return 2;
  case QI__OP_DOWN: out[0] = (qi__product){&l->down, f->x, true}; return 1;
  case QI__OP_OUTPUT: out[0] = (qi__product){&f->w->output, f->logits + f->logits_row * f->h->n_vocab, false}; return 1;
  default: return 0;
  }
}

QI__INLINE int64_t qi__tiles(const qi__weight *w) { return (int64_t)((w->n_rows + QI__TILE_ROWS - 1) / QI__TILE_ROWS); }

QI__FN int64_t qi__product_units(const qi__forward *f) {
  qi__product products[3];
  size_t n = qi__products(f, products);
  int64_t units = 0;
  for (size_t i = 0; i < n; i++) units += qi__tiles(products[i].w);
  return units;
}

// One tile of weight rows for the activation rows first_x..first_x+n_x-1, which share an arithmetic.
QI__FN void qi__product_tile(qi__forward *f, float *scratch, const qi__product *p, size_t tile, size_t first_x, size_t n_x,
                             bool generated) {
  size_t first = tile * QI__TILE_ROWS, n_w = qi__min_size(QI__TILE_ROWS, p->w->n_rows - first);
  float *result = scratch + qi__tile_scratch(qi__forward_width(f->h), f->n_batch); // [n_x, n_w]
  qi__arithmetic arithmetic = qi__arithmetic_of(f->kernels, p->w, f->path, generated);
  qi__matmul_tile(f->kernels, arithmetic, p->w, first, n_w, &f->in, first_x, n_x, result, n_w, scratch);
  for (size_t i = 0; i < n_x; i++) {
    float *y = p->y + (first_x + i) * p->w->n_rows + first;
    if (p->add)
      f->kernels->add(result + i * n_w, n_w, y);
    else
      memcpy(y, result + i * n_w, n_w * sizeof *y);
  }
}

QI__FN void qi__run_products(qi__forward *f, int worker, int64_t begin, int64_t end) {
  float *scratch = f->scratch + (size_t)worker * f->scratch_floats;
  qi__product products[3];
  size_t n = qi__products(f, products);
  bool output = f->op == QI__OP_OUTPUT;
  size_t rows = output ? f->n_wanted : f->n_rows, prompt = output ? f->n_wanted_prompt : f->n_prompt;
  for (int64_t u = begin; u < end; u++) {
    int64_t tile = u;
    size_t p = 0;
    while (p + 1 < n && tile >= qi__tiles(products[p].w)) tile -= qi__tiles(products[p++].w);
    if (prompt) qi__product_tile(f, scratch, &products[p], (size_t)tile, 0, prompt, false);
    if (rows > prompt) qi__product_tile(f, scratch, &products[p], (size_t)tile, prompt, rows - prompt, true);
  }
}

// ---- the state machine ----

typedef struct qi__op_info {
  void (*run)(qi__forward *f, int worker, int64_t begin, int64_t end);
  enum { QI__PER_ROW, QI__PER_ATTENTION, QI__PER_TILE, QI__PER_WANTED } unit;
} qi__op_info;

static const qi__op_info qi__ops[QI__OP_DONE] = {
    {qi__run_embed, QI__PER_ROW},       {qi__run_attn_norm, QI__PER_ROW},      {qi__run_products, QI__PER_TILE},
    {qi__run_rope, QI__PER_ROW},        {qi__run_attention, QI__PER_ATTENTION}, {qi__run_attn_input, QI__PER_ROW},
    {qi__run_products, QI__PER_TILE},   {qi__run_ffn_norm, QI__PER_ROW},       {qi__run_products, QI__PER_TILE},
    {qi__run_swiglu, QI__PER_ROW},      {qi__run_products, QI__PER_TILE},      {qi__run_output_norm, QI__PER_WANTED},
    {qi__run_products, QI__PER_TILE},
};

QI__FN int64_t qi__op_units(const qi__forward *f) {
  switch (qi__ops[f->op].unit) {
  case QI__PER_ROW: return (int64_t)f->n_rows;
  case QI__PER_ATTENTION: return (int64_t)qi__attention_units(&f->attention);
  case QI__PER_TILE: return qi__product_units(f);
  case QI__PER_WANTED: return (int64_t)f->n_wanted;
  }
  return 0;
}

// How long rows are that this operation leaves in `in`.
QI__FN size_t qi__op_input_width(const qi__forward *f) {
  if (f->op == QI__OP_ATTENTION || f->op == QI__OP_ATTN_INPUT || f->op == QI__OP_ATTN_OUT) return f->h->n_heads * f->h->head_dim_v;
  if (f->op == QI__OP_SWIGLU || f->op == QI__OP_DOWN) return f->h->n_ff;
  return f->h->n_embd;
}

// Begins a chunk: rows, n_rows, n_prompt and logits_row are set.
QI__FN void qi__forward_start(qi__forward *f) {
  f->n_wanted = f->n_wanted_prompt = 0;
  for (size_t i = 0; i < f->n_rows; i++)
    if (f->rows[i].want_logits) {
      f->wanted[f->n_wanted++] = i;
      if (i < f->n_prompt) f->n_wanted_prompt++;
    }
  qi__attention *a = &f->attention;
  a->h = f->h;
  a->kernels = f->kernels;
  a->kv = f->kv;
  a->cancel = f->cancel;
  a->rows = f->rows;
  a->n_rows = f->n_rows;
  a->n_prompt = f->n_prompt;
  a->q = f->q;
  a->out = f->in.x;
  qi__attention_plan(a, (size_t)f->pool->n_threads);
  f->op = QI__OP_EMBED;
  f->layer = 0;
  f->unit = 0;
  memset(f->us_per_unit, 0, sizeof f->us_per_unit);
}

QI__FN void qi__forward_next_op(qi__forward *f) {
  f->unit = 0;
  if (f->op == QI__OP_DOWN && f->layer + 1 < f->h->n_layers) {
    f->layer++;
    f->op = QI__OP_ATTN_NORM;
  } else {
    f->op = (qi__op)(f->op + 1);
  }
  if (f->op == QI__OP_OUTPUT_NORM && !f->n_wanted) f->op = QI__OP_DONE;
}

typedef struct qi__task {
  qi__forward *f;
  int64_t first;
} qi__task;

QI__FN void qi__forward_task(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__task *t = (const qi__task *)arg;
  if (__atomic_load_n(t->f->cancel, __ATOMIC_RELAXED)) return;
  qi__ops[t->f->op].run(t->f, worker, t->first + begin, t->first + end);
}

// Units to do before looking at the clock again: what fits into the time that is left, going by the last measurement.
QI__FN int64_t qi__forward_slab(const qi__forward *f, int64_t n_units, uint64_t deadline_us) {
  int64_t left = n_units - f->unit, least = f->pool->n_threads;
  if (!deadline_us) return left;
  uint64_t now = qi__now_us();
  double cost = f->us_per_unit[f->op], time = deadline_us > now ? (double)(deadline_us - now) : 0;
  if (cost <= 0 || time <= 0) return qi__min_i64(left, least);
  double fits = time / cost;
  return fits >= (double)left ? left : qi__min_i64(left, qi__max_i64(least, (int64_t)fits));
}

// Works until the chunk is done (QI_OK), the deadline has passed (QI_AGAIN; 0 = none) or *cancel is set (QI_ERR_CANCELLED).
QI__FN qi_result qi__forward_run(qi__forward *f, uint64_t deadline_us) {
  int n_threads = f->pool->n_threads;
  while (f->op != QI__OP_DONE) {
    int64_t n_units = qi__op_units(f), slab = qi__forward_slab(f, n_units, deadline_us);
    qi__inputs_set_width(&f->in, qi__op_input_width(f));
    if (f->observe && !f->unit) f->observe(f);
    qi__task task = {f, f->unit};
    uint64_t start = deadline_us ? qi__now_us() : 0;
    qi__pool_run(f->pool, qi__forward_task, &task, slab, qi__max_i64(1, slab / (n_threads * 8)));
    if (__atomic_load_n(f->cancel, __ATOMIC_RELAXED)) return QI_ERR_CANCELLED;
    uint64_t now = deadline_us ? qi__now_us() : 0;
    if (deadline_us) f->us_per_unit[f->op] = (double)(now - start) / (double)slab;
    f->unit += slab;
    if (f->unit == n_units) qi__forward_next_op(f);
    if (deadline_us && now >= deadline_us && f->op != QI__OP_DONE) return QI_AGAIN;
  }
  return QI_OK;
}

#endif // QI__INFER_FORWARD_H

// Name in the file of the tensor that a product of the current operation multiplies with.
QI__FN void qi__product_name(const qi__forward *f, const qi__weight *w, char name[64]) {
  snprintf(name, 64, "%s", f->w->output.data == f->w->embedding.data ? "token_embd.weight" : "output.weight");
  if (f->op == QI__OP_OUTPUT) return;
  size_t at = (size_t)((const char *)w - (const char *)&f->w->layers[f->layer]);
  for (size_t i = 0; i < QI__COUNT_OF(qi__layer_slots); i++) {
    const qi__slot *slot = &qi__layer_slots[i];
    if (slot->kind != QI__MATRIX || !(slot->needed & f->h->arch->features)) continue;
    for (int p = 0; p < 3 && slot->part[p].rows != QI__DIM_ONE; p++)
      if (slot->part[p].at == at) snprintf(name, 64, "blk.%zu.%s", f->layer, slot->name);
  }
}

// Shows the observer the inputs of the current operation, once for each tensor; parts of a fused one come together.
QI__FN void qi__observe(const qi__forward *f) {
  qi__product products[3];
  char name[64], last[64] = "";
  size_t n = qi__products(f, products), n_rows = f->op == QI__OP_OUTPUT ? f->n_wanted : f->n_rows;
  for (size_t i = 0; i < n; i++) {
    qi__product_name(f, products[i].w, name);
    if (strcmp(name, last) != 0) f->observer.fn(f->observer.user, name, f->in.x, n_rows, products[i].w->n_cols);
    memcpy(last, name, sizeof last);
  }
}

#endif // QI__INFER_OBSERVE_H
// generated from src/infer/sampler.h: edit there
// ==== >>sampler : from logits to a token ====
#ifndef QI__SAMPLER_H
#define QI__SAMPLER_H


#include <float.h>

#define QI__PENALTY_LAST_N_DEFAULT 64
#define QI__PENALTY_LAST_N_MAX 65536

// The same logits, desc and history give the same token everywhere: only IEEE operations in a written order and our own exp, sums
// in double, equals ordered by id.

typedef struct qi__candidate {
  float logit;
  float weight; // exp of something: see the steps
  qi_token id;
} qi__candidate;

#define QI__EXP_BLOCK 64

// x[i] = e^x[i] for the QI__EXP_BLOCK elements of x: qi__exp_ref, so all variants give the same bits.
typedef void (*qi__exp_block_fn)(float *x);

struct qi_sampler {
  qi_sampler_desc desc;      // zeros replaced by what they mean; logit_bias points to our copy
  int n_vocab;
  bool has_penalties;
  qi__candidate *candidates; // [n_vocab]; NULL when every token is a plain argmax
  qi_logit_bias *bias;       // [desc.n_logit_bias]
  int32_t *count;            // [n_vocab] occurrences in history; NULL without penalties
  qi_token *history;         // ring [desc.penalty_last_n]; NULL without penalties
  int history_start, history_len;
  uint64_t rng[4];
  qi__exp_block_fn exp_block;
  qi_allocator allocator;    // of an opened (not embedded) sampler
  size_t bytes;
};

// ---- random numbers: xoshiro256** (Blackman, Vigna 2018), seeded by splitmix64 ----

QI__FN void qi__rng_seed(uint64_t rng[4], uint64_t seed) {
  for (int i = 0; i < 4; i++) {
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    rng[i] = z ^ z >> 31;
  }
}

QI__FN uint64_t qi__rng_next(uint64_t rng[4]) {
  uint64_t x = rng[1] * 5, result = (x << 7 | x >> 57) * 9, t = rng[1] << 17;
  rng[2] ^= rng[0];
  rng[3] ^= rng[1];
  rng[1] ^= rng[2];
  rng[0] ^= rng[3];
  rng[2] ^= t;
  rng[3] = rng[3] << 45 | rng[3] >> 19;
  return result;
}

// Uniform in [0, 1), 53 bits.
QI__FN double qi__rng_double(uint64_t rng[4]) { return (double)(qi__rng_next(rng) >> 11) * (1.0 / 9007199254740992.0); }

// ---- exp of many ----

QI__FN void qi__exp_block_ref(float *x) {
  for (int i = 0; i < QI__EXP_BLOCK; i++) x[i] = qi__exp_ref(x[i]);
}

#if defined(QI__X86_64)
QI__FN QI__TARGET("avx2,fma") void qi__exp_block_avx2(float *x) {
  for (int i = 0; i < QI__EXP_BLOCK; i += 8) _mm256_storeu_ps(x + i, qi__exp_avx2(_mm256_loadu_ps(x + i)));
}
#endif

#if defined(QI__ARM64)
QI__FN void qi__exp_block_neon(float *x) {
  for (int i = 0; i < QI__EXP_BLOCK; i += 4) vst1q_f32(x + i, qi__exp_neon(vld1q_f32(x + i)));
}
#endif

QI__FN qi__exp_block_fn qi__exp_block_choose(void) {
#if defined(QI__X86_64)
  if (qi__cpu_detect().avx2) return qi__exp_block_avx2;
#elif defined(QI__ARM64)
  return qi__exp_block_neon;
#endif
  return qi__exp_block_ref;
}

// ---- desc ----

// A field of a desc that must be finite and within [lo, hi].
QI__FN qi_result qi__sampler_check_field(const char *name, float value, float lo, float hi, qi_error *err) {
  if (qi__is_finite(value) && value >= lo && value <= hi) return QI_OK;
  return qi__fail(err, QI_ERR_ARGUMENT, "sampler: %s is %g, expected %g to %g", name, (double)value, (double)lo, (double)hi);
}

// desc NULL = all defaults. Errors: QI_ERR_ARGUMENT with the name of the field.
QI__FN qi_result qi__sampler_check(int n_vocab, const qi_sampler_desc *desc, qi_error *err) {
  qi_result r;
  if (n_vocab < 1) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: n_vocab is %d, expected at least 1", n_vocab);
  if (!desc) return QI_OK;
  if ((r = qi__sampler_check_field("temperature", desc->temperature, 0, FLT_MAX, err))) return r;
  if ((r = qi__sampler_check_field("top_p", desc->top_p, 0, 1, err))) return r;
  if ((r = qi__sampler_check_field("min_p", desc->min_p, 0, 1, err))) return r;
  if ((r = qi__sampler_check_field("repetition_penalty", desc->repetition_penalty, 0, FLT_MAX, err))) return r;
  if ((r = qi__sampler_check_field("frequency_penalty", desc->frequency_penalty, -FLT_MAX, FLT_MAX, err))) return r;
  if ((r = qi__sampler_check_field("presence_penalty", desc->presence_penalty, -FLT_MAX, FLT_MAX, err))) return r;
  if (desc->top_k < 0) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: top_k is %d, expected 0 or more", desc->top_k);
  if (desc->penalty_last_n < 0 || desc->penalty_last_n > QI__PENALTY_LAST_N_MAX)
    return qi__fail(err, QI_ERR_ARGUMENT, "sampler: penalty_last_n is %d, expected 0 to %d", desc->penalty_last_n,
                    QI__PENALTY_LAST_N_MAX);
  if (desc->n_logit_bias < 0)
    return qi__fail(err, QI_ERR_ARGUMENT, "sampler: n_logit_bias is %d, expected 0 or more", desc->n_logit_bias);
  if (desc->n_logit_bias > 0 && !desc->logit_bias)
    return qi__fail(err, QI_ERR_ARGUMENT, "sampler: logit_bias is NULL, n_logit_bias is %d", desc->n_logit_bias);
  for (int i = 0; i < desc->n_logit_bias; i++) {
    const qi_logit_bias *b = &desc->logit_bias[i];
    if (b->token < 0 || b->token >= n_vocab)
      return qi__fail(err, QI_ERR_ARGUMENT, "sampler: logit_bias[%d].token is %d, expected 0 to %d", i, (int)b->token, n_vocab - 1);
    if (!qi__is_finite(b->bias) && !(b->bias < 0))
      return qi__fail(err, QI_ERR_ARGUMENT, "sampler: logit_bias[%d].bias is %g, expected a number or -infinity", i,
                      (double)b->bias);
  }
  return QI_OK;
}

// ---- memory ----

QI__FN void qi__sampler_reset(qi_sampler *sp, uint64_t seed) {
  qi__rng_seed(sp->rng, seed);
  sp->history_start = sp->history_len = 0;
  if (sp->count) memset(sp->count, 0, (size_t)sp->n_vocab * sizeof *sp->count);
}

// A sampler of a checked desc in an arena, ready to use; NULL while the arena counts.
QI__FN qi_sampler *qi__sampler_layout(qi__arena *arena, int n_vocab, const qi_sampler_desc *desc) {
  qi_sampler_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;
  if (d.repetition_penalty == 0) d.repetition_penalty = 1;
  if (d.top_p == 0) d.top_p = 1;
  if (d.penalty_last_n == 0) d.penalty_last_n = QI__PENALTY_LAST_N_DEFAULT;
  bool has_penalties = d.repetition_penalty != 1 || d.frequency_penalty != 0 || d.presence_penalty != 0;
  bool plain = d.temperature == 0 && !has_penalties && d.n_logit_bias == 0;
  size_t n = (size_t)n_vocab;
  qi_sampler *sp = QI__ARENA_ARRAY(arena, qi_sampler, 1);
  qi__candidate *candidates = QI__ARENA_ARRAY(arena, qi__candidate, plain ? 0 : n);
  qi_logit_bias *bias = QI__ARENA_ARRAY(arena, qi_logit_bias, (size_t)d.n_logit_bias);
  int32_t *count = QI__ARENA_ARRAY(arena, int32_t, has_penalties ? n : 0);
  qi_token *history = QI__ARENA_ARRAY(arena, qi_token, has_penalties ? (size_t)d.penalty_last_n : 0);
  if (!sp) return NULL;
  memset(sp, 0, sizeof *sp);
  if (d.n_logit_bias) memcpy(bias, d.logit_bias, (size_t)d.n_logit_bias * sizeof *bias);
  d.logit_bias = bias;
  sp->desc = d;
  sp->n_vocab = n_vocab;
  sp->has_penalties = has_penalties;
  sp->candidates = plain ? NULL : candidates;
  sp->bias = bias;
  sp->count = has_penalties ? count : NULL;
  sp->history = has_penalties ? history : NULL;
  sp->exp_block = qi__exp_block_choose();
  qi__sampler_reset(sp, d.seed);
  return sp;
}

QI__FN qi_result qi__sampler_open(qi_sampler **out, int n_vocab, const qi_sampler_desc *desc, const qi_allocator *allocator,
                                  qi_error *err) {
  if (!out) return qi__fail(err, QI_ERR_ARGUMENT, "sampler: out is NULL");
  *out = NULL;
  qi_allocator a = {NULL, NULL, NULL};
  qi_result r = qi__allocator_resolve(allocator, &a, err);
  if (r == QI_OK) r = qi__sampler_check(n_vocab, desc, err);
  if (r) return r;
  qi__arena arena = {0};
  qi__sampler_layout(&arena, n_vocab, desc);
  r = qi__arena_open(&arena, &a, "sampler", err);
  if (r) return r;
  qi_sampler *sp = qi__sampler_layout(&arena, n_vocab, desc);
  sp->allocator = a;
  sp->bytes = arena.size;
  *out = sp;
  return QI_OK;
}

// Only for what qi__sampler_open made; NULL is fine.
QI__FN void qi__sampler_close(qi_sampler *sp) {
  if (!sp) return;
  qi_allocator a = sp->allocator;
  qi__free(&a, sp, sp->bytes);
}

// Ids out of range are ignored.
QI__FN void qi__sampler_accept(qi_sampler *sp, qi_token token) {
  if (!sp->has_penalties || token < 0 || token >= sp->n_vocab) return;
  int cap = sp->desc.penalty_last_n;
  if (sp->history_len == cap) {
    sp->count[sp->history[sp->history_start]]--;
    sp->history_start = sp->history_start + 1 == cap ? 0 : sp->history_start + 1;
    sp->history_len--;
  }
  int end = sp->history_start + sp->history_len;
  sp->history[end >= cap ? end - cap : end] = token;
  sp->history_len++;
  sp->count[token]++;
}

// ---- logits ----

// NaN counts as -infinity and +infinity as the greatest number, so that differences of logits are numbers.
QI__INLINE float qi__sampler_clean(float logit) {
  if (qi__is_nan(logit)) return -INFINITY;
  return logit > FLT_MAX ? FLT_MAX : logit;
}

// Each token of the history once: repetition penalty, then count * frequency + presence is subtracted. The sign of a count marks
// the tokens that are done, so the cost is that of the history, not of the vocabulary.
QI__FN void qi__sampler_penalize(qi_sampler *sp) {
  const qi_sampler_desc *d = &sp->desc;
  int n = sp->history_len; // fills the ring from its beginning: while it is not full, it starts at 0
  for (int i = 0; i < n; i++) {
    qi_token t = sp->history[i];
    if (sp->count[t] < 0) continue;
    float logit = sp->candidates[t].logit;
    logit = logit > 0 ? logit / d->repetition_penalty : logit * d->repetition_penalty;
    logit -= (float)sp->count[t] * d->frequency_penalty + d->presence_penalty;
    sp->candidates[t].logit = qi__sampler_clean(logit);
    sp->count[t] = -sp->count[t];
  }
  for (int i = 0; i < n; i++) {
    int32_t *c = &sp->count[sp->history[i]];
    if (*c < 0) *c = -*c;
  }
}

// All tokens as candidates, with bias and penalties.
QI__FN void qi__sampler_load(qi_sampler *sp, const float *logits) {
  for (int i = 0; i < sp->n_vocab; i++) {
    sp->candidates[i].logit = qi__sampler_clean(logits[i]);
    sp->candidates[i].weight = 0;
    sp->candidates[i].id = i;
  }
  for (int i = 0; i < sp->desc.n_logit_bias; i++) {
    float *logit = &sp->candidates[sp->bias[i].token].logit;
    *logit = qi__sampler_clean(*logit + sp->bias[i].bias);
  }
  if (sp->has_penalties) qi__sampler_penalize(sp);
}

// What is left when no logit is above -infinity: the lowest id that no bias forbids; 0 if all are forbidden.
// The candidates must still be in the order of their ids.
QI__FN qi_token qi__sampler_fallback(qi_sampler *sp) {
  if (!sp->candidates) return 0;
  for (int i = 0; i < sp->desc.n_logit_bias; i++)
    if (sp->bias[i].bias < -FLT_MAX) sp->candidates[sp->bias[i].token].weight = 1;
  for (int i = 0; i < sp->n_vocab; i++)
    if (sp->candidates[i].weight == 0) return i;
  return 0;
}

// ---- order ----

// True when a comes before b: higher logit, then lower id.
QI__INLINE bool qi__candidate_before(const qi__candidate *a, const qi__candidate *b) {
  return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

QI__INLINE void qi__candidate_swap(qi__candidate *a, qi__candidate *b) {
  qi__candidate t = *a;
  *a = *b;
  *b = t;
}

// Binary heap c[0..n-1] whose top comes after all others (`first` false) or before all others (true): lets c[i] sink to its place.
QI__FN void qi__heap_sink(qi__candidate *c, size_t n, size_t i, bool first) {
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= n) return;
    if (child + 1 < n && qi__candidate_before(&c[child + 1], &c[child]) == first) child++;
    if (qi__candidate_before(&c[child], &c[i]) != first) return;
    qi__candidate_swap(&c[child], &c[i]);
    i = child;
  }
}

QI__FN void qi__heap_make(qi__candidate *c, size_t n, bool first) {
  for (size_t i = n / 2; i-- > 0;) qi__heap_sink(c, n, i, first);
}

// The first k of n candidates to the front, in order. k in 1..n. Time n + m log k, where m candidates enter the heap.
QI__FN void qi__select_top(qi__candidate *c, size_t n, size_t k) {
  qi__heap_make(c, k, false);
  for (size_t i = k; i < n; i++)
    if (qi__candidate_before(&c[i], &c[0])) {
      c[0] = c[i];
      qi__heap_sink(c, k, 0, false);
    }
  for (size_t end = k; end-- > 1;) { // heap sort: the last goes to the end
    qi__candidate_swap(&c[0], &c[end]);
    qi__heap_sink(c, end, 0, false);
  }
}

// ---- steps: each keeps some of the n candidates, at the front, and returns how many ----

// weight = exp((logit - max) / temperature), 0 where that would be subnormal; returns the sum. The temperature is not 0.
QI__FN double qi__sampler_softmax(qi__exp_block_fn exp_block, qi__candidate *c, size_t n, float max, float temperature) {
  double sum = 0;
  float x[QI__EXP_BLOCK] = {0};
  for (size_t i = 0; i < n; i += QI__EXP_BLOCK) {
    size_t m = qi__min_size(n - i, QI__EXP_BLOCK);
    for (size_t j = 0; j < m; j++) x[j] = (c[i + j].logit - max) / temperature;
    exp_block(x);
    for (size_t j = 0; j < m; j++) {
      c[i + j].weight = x[j];
      sum += (double)x[j];
    }
  }
  return sum;
}

// Distance of a logit to the greatest in steps of 1/32; the last bin takes all that are farther.
#define QI__TOP_P_BINS 1024
QI__INLINE int qi__top_p_bin(float logit, float max) {
  float steps = (max - logit) * 32.0f;
  return steps < (float)(QI__TOP_P_BINS - 1) ? (int)steps : QI__TOP_P_BINS - 1;
}

// Moves the candidates of the bins below `bin` (or only those of `bin` itself) to the front, in their order; returns how many.
QI__FN size_t qi__top_p_gather(qi__candidate *c, size_t n, float max, int bin, bool below) {
  size_t m = 0;
  for (size_t i = 0; i < n; i++) {
    int here = qi__top_p_bin(c[i].logit, max);
    if (below ? here < bin : here == bin) qi__candidate_swap(&c[m++], &c[i]);
  }
  return m;
}

// Smallest set of the most likely whose weights sum to top_p or more of the sum. `sorted`: they are in order already.
// Else they are counted into bins: those before the bin where the sum is reached stay in their order, and only that bin is sorted,
// by a heap and no further than needed.
QI__FN size_t qi__sampler_top_p(qi__candidate *c, size_t n, float top_p, float max, double sum, bool sorted) {
  double wanted = (double)top_p * sum, have = 0, bins[QI__TOP_P_BINS] = {0};
  size_t kept = 0;
  if (sorted) {
    while (kept < n && have < wanted) have += (double)c[kept++].weight;
    return kept;
  }
  for (size_t i = 0; i < n; i++) bins[qi__top_p_bin(c[i].logit, max)] += (double)c[i].weight;
  int bin = 0;
  while (bin < QI__TOP_P_BINS - 1 && have + bins[bin] < wanted) have += bins[bin++];
  kept = qi__top_p_gather(c, n, max, bin, true);
  qi__candidate *edge = c + kept;
  size_t n_edge = qi__top_p_gather(edge, n - kept, max, bin, false), taken = 0;
  qi__heap_make(edge, n_edge, true);
  while (taken < n_edge && have < wanted) { // the first goes to the end
    have += (double)edge[0].weight;
    taken++;
    qi__candidate_swap(&edge[0], &edge[n_edge - taken]);
    qi__heap_sink(edge, n_edge - taken, 0, true);
  }
  for (size_t i = 0; i < n_edge / 2; i++) qi__candidate_swap(&edge[i], &edge[n_edge - 1 - i]);
  return kept + taken;
}

// Those at least min_p times as likely as the most likely one (whose weight is 1), in the order they had.
QI__FN size_t qi__sampler_min_p(qi__candidate *c, size_t n, float min_p) {
  size_t m = 0;
  for (size_t i = 0; i < n; i++)
    if (c[i].weight >= min_p) c[m++] = c[i];
  return m;
}

// One of n candidates (not 0), with probability in proportion to its weight.
QI__FN qi_token qi__sampler_draw(qi_sampler *sp, size_t n, double sum) {
  const qi__candidate *c = sp->candidates;
  double point = qi__rng_double(sp->rng) * sum, have = 0;
  qi_token last = c[0].id; // rounding may leave the last sum at, not above, the point
  for (size_t i = 0; i < n; i++) {
    if (c[i].weight == 0) continue;
    last = c[i].id;
    if ((have += (double)c[i].weight) > point) break;
  }
  return last;
}

// ---- sampling ----

// Highest of the logits as they are; lowest id among equals; 0 if all are -infinity.
QI__FN qi_token qi__argmax(const float *logits, int n) {
  qi_token best = 0;
  float max = -INFINITY;
  for (int i = 0; i < n; i++)
    if (logits[i] > max) { // false for NaN
      max = logits[i];
      best = i;
    }
  return best;
}

// See qi_sampler_sample. One random number for each call that is not greedy.
QI__FN qi_token qi__sampler_sample(qi_sampler *sp, const float *logits) {
  const qi_sampler_desc *d = &sp->desc;
  if (!sp->candidates) return qi__argmax(logits, sp->n_vocab);
  qi__sampler_load(sp, logits);
  qi__candidate *c = sp->candidates;
  qi__candidate best = {-INFINITY, 0, -1};
  size_t n = (size_t)sp->n_vocab, m = 0;
  for (size_t i = 0; i < n; i++)
    if (c[i].logit > best.logit) best = c[i];
  if (best.id < 0) return qi__sampler_fallback(sp);
  if (d->temperature == 0) return best.id;
  for (size_t i = 0; i < n; i++)
    if (c[i].logit >= -FLT_MAX) c[m++] = c[i];
  n = m;
  bool sorted = d->top_k > 0 && (size_t)d->top_k < n;
  if (sorted) {
    n = (size_t)d->top_k;
    qi__select_top(c, m, n);
  }
  if (d->top_p < 1 || d->min_p > 0) {
    double sum = qi__sampler_softmax(sp->exp_block, c, n, best.logit, 1.0f);
    if (d->top_p < 1) n = qi__sampler_top_p(c, n, d->top_p, best.logit, sum, sorted);
    if (d->min_p > 0) n = qi__sampler_min_p(c, n, d->min_p);
  }
  return qi__sampler_draw(sp, n, qi__sampler_softmax(sp->exp_block, c, n, best.logit, d->temperature));
}

#endif // QI__SAMPLER_H
// generated from src/infer/text.h: edit there
// ==== >>text : bytes of tokens to text, in a stream ====
#ifndef QI__TEXT_H
#define QI__TEXT_H


#define QI__STOP_MAX 64       // strings
#define QI__STOP_LEN_MAX 256  // bytes of one

// ---- UTF-8 (Unicode 15, table 3-7) ----

static const char qi__utf8_replacement[] = "\xef\xbf\xbd"; // U+FFFD

// A character whose bytes have not all come yet.
typedef struct qi__utf8 {
  uint8_t bytes[4];
  uint8_t len;     // bytes so far
  uint8_t need;    // bytes still to come; 0 = between characters
  uint8_t lo, hi;  // range of the next one
} qi__utf8;

// Takes a byte that begins a character; false when none begins with it. ASCII is whole at once: need 0.
QI__FN bool qi__utf8_begin(qi__utf8 *u, uint8_t byte) {
  u->need = byte < 0x80 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
  u->lo = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;  // no longer forms than needed
  u->hi = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;  // no surrogates, nothing above U+10FFFF
  u->bytes[0] = byte;
  u->len = 1;
  if (byte < 0x80 || (byte >= 0xc2 && byte <= 0xf4)) return true;
  u->need = 0;
  return false;
}

// Takes a byte inside a character; false (nothing changed) when it cannot be there.
QI__FN bool qi__utf8_continue(qi__utf8 *u, uint8_t byte) {
  if (byte < u->lo || byte > u->hi) return false;
  u->bytes[u->len++] = byte;
  u->need--;
  u->lo = 0x80;
  u->hi = 0xbf;
  return true;
}

QI__FN bool qi__utf8_valid(const char *s, size_t n) {
  qi__utf8 u = {{0}, 0, 0, 0, 0};
  for (size_t i = 0; i < n; i++)
    if (u.need ? !qi__utf8_continue(&u, (uint8_t)s[i]) : !qi__utf8_begin(&u, (uint8_t)s[i])) return false;
  return u.need == 0;
}

// ---- the stream ----

// One stop string and how much of it the text ends with: the automaton of Knuth, Morris and Pratt. fail[k] = length of the longest
// proper prefix of the string that its first k + 1 bytes end with.
typedef struct qi__stop {
  char *bytes;
  uint16_t *fail;
  uint16_t len, matched;
} qi__stop;

// Text on its way out. Bytes become whole characters first (what can never be UTF-8 becomes U+FFFD, one for each longest beginning
// of a character, as browsers do), then stop strings are looked for. Held back is what may still become a stop string: it begins
// with a whole character, since stop strings are UTF-8.
typedef struct qi__text {
  qi__stop *stops;
  int n_stops;
  size_t max_piece;  // most bytes of one push
  char *buf;         // characters: delivered by the last call [0, given), held back [given, used)
  size_t given, used;
  qi__utf8 partial;
  bool ended;        // a stop string was complete
} qi__text;

// Errors: QI_ERR_ARGUMENT, QI_ERR_LIMIT.
QI__FN qi_result qi__text_check(const char *const *stop, int n_stop, qi_error *err) {
  if (n_stop < 0) return qi__fail(err, QI_ERR_ARGUMENT, "stop: n_stop is %d, expected 0 to %d", n_stop, QI__STOP_MAX);
  if (n_stop > QI__STOP_MAX) return qi__fail(err, QI_ERR_LIMIT, "stop: n_stop is %d, expected at most %d", n_stop, QI__STOP_MAX);
  if (n_stop && !stop) return qi__fail(err, QI_ERR_ARGUMENT, "stop: NULL, but n_stop is %d", n_stop);
  for (int i = 0; i < n_stop; i++) {
    if (!stop[i]) return qi__fail(err, QI_ERR_ARGUMENT, "stop[%d]: NULL", i);
    size_t len = 0;
    while (len <= QI__STOP_LEN_MAX && stop[i][len]) len++;
    if (len == 0) return qi__fail(err, QI_ERR_ARGUMENT, "stop[%d]: empty, expected 1 to %d bytes", i, QI__STOP_LEN_MAX);
    if (len > QI__STOP_LEN_MAX)
      return qi__fail(err, QI_ERR_LIMIT, "stop[%d]: more than %d bytes long", i, QI__STOP_LEN_MAX);
    if (!qi__utf8_valid(stop[i], len)) return qi__fail(err, QI_ERR_ARGUMENT, "stop[%d]: not UTF-8", i);
  }
  return QI_OK;
}

// Forgets held-back text: a new answer begins.
QI__FN void qi__text_reset(qi__text *t) {
  for (int i = 0; i < t->n_stops; i++) t->stops[i].matched = 0;
  t->given = t->used = 0;
  t->partial.need = 0;
  t->ended = false;
}

// Fills in fail[] of a stop string.
QI__FN void qi__stop_prepare(qi__stop *s) {
  uint16_t k = 0;
  s->fail[0] = 0;
  for (uint16_t i = 1; i < s->len; i++) {
    while (k && s->bytes[k] != s->bytes[i]) k = s->fail[k - 1];
    if (s->bytes[k] == s->bytes[i]) k++;
    s->fail[i] = k;
  }
}

// Lays out a stream for checked stop strings (copied) and tokens of at most max_piece bytes; ready to use over a real block.
QI__FN void qi__text_layout(qi__text *t, qi__arena *arena, const char *const *stop, int n_stop, size_t max_piece) {
  memset(t, 0, sizeof *t);
  t->n_stops = n_stop;
  t->max_piece = max_piece;
  t->stops = QI__ARENA_ARRAY(arena, qi__stop, (size_t)n_stop);
  size_t longest = 1, cap = 0;
  for (int i = 0; i < n_stop; i++) {
    size_t len = strlen(stop[i]);
    char *bytes = QI__ARENA_ARRAY(arena, char, len);
    uint16_t *fail = QI__ARENA_ARRAY(arena, uint16_t, len);
    if (len > longest) longest = len;
    if (!arena->base) continue;
    memcpy(bytes, stop[i], len);
    t->stops[i].bytes = bytes;
    t->stops[i].fail = fail;
    t->stops[i].len = (uint16_t)len;
    t->stops[i].matched = 0;
    qi__stop_prepare(&t->stops[i]);
  }
  // Held back at most longest - 1; each byte of a piece becomes 3 at most (U+FFFD), as does an unfinished character before it.
  if (!qi__add_size(max_piece, 1, &cap) || !qi__mul_size(cap, 3, &cap) || !qi__add_size(cap, longest - 1, &cap))
    arena->overflow = true;
  t->buf = QI__ARENA_ARRAY(arena, char, cap);
}

// Appends whole characters and moves the automata on. True when a stop string is complete; then text from it on is cut off. If
// several end at the same byte, the longest counts.
QI__FN bool qi__text_append(qi__text *t, const void *bytes, size_t n) {
  for (size_t j = 0; j < n; j++) {
    char byte = ((const char *)bytes)[j];
    size_t cut = 0;
    t->buf[t->used++] = byte;
    for (int i = 0; i < t->n_stops; i++) {
      qi__stop *s = &t->stops[i];
      while (s->matched && s->bytes[s->matched] != byte) s->matched = s->fail[s->matched - 1];
      if (s->bytes[s->matched] == byte) s->matched++;
      if (s->matched == s->len && s->len > cut) cut = s->len;
    }
    if (cut) {
      t->used -= cut;
      t->ended = true;
      return true;
    }
  }
  return false;
}

// One byte of a token. True when a stop string is complete.
QI__FN bool qi__text_byte(qi__text *t, uint8_t byte) {
  qi__utf8 *u = &t->partial;
  if (!u->need || !qi__utf8_continue(u, byte)) {
    bool cut_short = u->need != 0;
    u->need = 0;
    if (cut_short && qi__text_append(t, qi__utf8_replacement, 3)) return true;
    if (!qi__utf8_begin(u, byte)) return qi__text_append(t, qi__utf8_replacement, 3);
  }
  return u->need == 0 && qi__text_append(t, u->bytes, u->len);
}

// Drops what the last call delivered.
QI__FN void qi__text_advance(qi__text *t) {
  t->used -= t->given;
  memmove(t->buf, t->buf + t->given, t->used);
  t->given = 0;
}

// Takes the bytes of a token (at most max_piece) and sets text and len of *out: what is certain by now, valid until the next call.
// True when a stop string is complete: *out holds the text before it, and nothing more will come until qi__text_reset.
QI__FN bool qi__text_push(qi__text *t, const char *bytes, size_t n, qi_piece *out) {
  size_t held = 0;
  QI_ASSERT(n <= t->max_piece);
  n = qi__min_size(n, t->max_piece);
  qi__text_advance(t);
  for (size_t i = 0; i < n && !t->ended; i++) t->ended = qi__text_byte(t, (uint8_t)bytes[i]);
  for (int i = 0; i < t->n_stops && !t->ended; i++)
    if (t->stops[i].matched > held) held = t->stops[i].matched;
  t->given = t->used - held;
  out->text = t->buf;
  out->len = t->given;
  return t->ended;
}

// Generation ended otherwise: sets text and len of *out to all that was held back; an unfinished character becomes U+FFFD.
QI__FN void qi__text_flush(qi__text *t, qi_piece *out) {
  qi__text_advance(t);
  if (t->partial.need && !t->ended) t->ended = qi__text_append(t, qi__utf8_replacement, 3);
  t->given = t->used;
  t->partial.need = 0;
  for (int i = 0; i < t->n_stops; i++) t->stops[i].matched = 0;
  out->text = t->buf;
  out->len = t->given;
}

#endif // QI__TEXT_H

#define QI__MAX_SEQS 1024
#define QI__MAX_CTX (1 << 24)
#define QI__MAX_BATCH (1 << 16)

// Tokens that are to be computed, in chunks of n_batch. Until the last one is done the sequences can go back to where they were.
typedef struct qi__work {
  const qi_decode_token *tokens; // NULL = no work; the session's queue, or the caller's array during one call
  size_t n, n_done;
  bool in_chunk;      // the forward pass holds a chunk that is not finished
  size_t chunk;       // its tokens
  bool text;          // of the text interface: tokens go to the sampler's history
  bool prompt;        // begins an answer when it is done
} qi__work;

struct qi_session {
  const qi_model *model;
  qi_allocator allocator;
  qi_session_desc desc; // defaults filled in; strings and logit biases are not kept here
  qi__arena arena;
  size_t bytes;         // of the arena and of this struct
  qi_pool own_pool, *pool;
  bool has_own_pool;
  qi__kernels kernels;
  qi__kv kv;
  qi__forward forward;
  int cancel;           // set by any thread

  qi__work work;
  qi_decode_token *queue; // [n_seqs * n_ctx]
  qi_token *ids;          // [n_ctx] of a prompt's text
  size_t *start;          // [n_seqs] lengths before the work began
  size_t *logits_at;      // [n_logits] row of forward.logits of each wanting token, in the caller's order
  size_t n_logits;        // of the work that was finished last

  qi_sampler *sampler;
  qi__text text;
  char *piece;            // bytes of one token
  bool prompted, ended;
  qi_token last;          // sampled, given as text, not computed yet; -1 = none
  int n_predicted;        // since the last prompt
  qi_session_stats stats;
};

// ---- desc ----

QI__FN qi_result qi__session_int(const char *name, int value, int max, int fallback, int *out, qi_error *err) {
  if (value < 0) return qi__fail(err, QI_ERR_ARGUMENT, "session: %s is %d, expected 0 or more", name, value);
  if (value > max) return qi__fail(err, QI_ERR_LIMIT, "session: %s is %d, expected at most %d", name, value, max);
  *out = value ? value : fallback;
  return QI_OK;
}

// Fills in defaults and checks every field.
QI__FN qi_result qi__session_desc_defaults(qi_session_desc *d, const qi_model *m, qi_error *err) {
  qi_result r;
  int n_ctx = (int)qi__min_size(m->h.n_ctx_train, 4096);
  if ((r = qi__session_int("n_ctx", d->n_ctx, QI__MAX_CTX, n_ctx, &d->n_ctx, err))) return r;
  if ((r = qi__session_int("n_seqs", d->n_seqs, QI__MAX_SEQS, 1, &d->n_seqs, err))) return r;
  if ((r = qi__session_int("n_batch", d->n_batch, QI__MAX_BATCH, 256, &d->n_batch, err))) return r;
  if ((r = qi__session_int("n_logits", d->n_logits, QI__MAX_CTX, d->n_seqs, &d->n_logits, err))) return r;
  if ((r = qi__session_int("n_predict", d->n_predict, INT32_MAX, INT32_MAX, &d->n_predict, err))) return r;
  if (d->path < QI_PATH_AUTO || d->path > QI_PATH_FLOAT)
    return qi__fail(err, QI_ERR_ARGUMENT, "session: path is %d, expected a qi_path", (int)d->path);
  if (d->kv_format == QI_FORMAT_NONE) d->kv_format = QI_FORMAT_F16;
  if (d->kv_format != QI_FORMAT_F16 && d->kv_format != QI_FORMAT_F32)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "session: kv_format is %d, expected F16 or F32", (int)d->kv_format);
  // A token is at most once in a chunk of n_batch, and all sequences together hold n_seqs * n_ctx.
  d->n_batch = (int)qi__min_i64(d->n_batch, (int64_t)d->n_seqs * d->n_ctx);
  if ((r = qi__sampler_check((int)m->h.n_vocab, &d->sampler, err))) return r;
  return qi__text_check(d->stop, d->n_stop, err);
}

QI__FN qi_result qi__session_check_model(const qi_model *m, qi_error *err) {
  if (!m) return qi__fail(err, QI_ERR_ARGUMENT, "session: model is NULL");
  if (m->load != QI_LOAD_ALL) return qi__fail(err, QI_ERR_STATE, "session: the model was opened without weights (load)");
  return QI_OK;
}

// ---- memory ----

QI__FN void qi__session_layout(qi_session *s, qi__arena *arena, size_t n_threads) {
  const qi_session_desc *d = &s->desc;
  const qi__hparams *h = &s->model->h;
  size_t n_seqs = (size_t)d->n_seqs, n_ctx = (size_t)d->n_ctx;
  qi__kv_layout(&s->kv, arena, h, n_seqs, n_ctx, d->kv_format == QI_FORMAT_F16);
  qi__forward_layout(&s->forward, arena, h, n_ctx, (size_t)d->n_batch, (size_t)d->n_logits, n_threads);
  s->queue = QI__ARENA_ARRAY(arena, qi_decode_token, n_seqs * n_ctx);
  s->ids = QI__ARENA_ARRAY(arena, qi_token, n_ctx);
  s->start = QI__ARENA_ARRAY(arena, size_t, n_seqs);
  s->logits_at = QI__ARENA_ARRAY(arena, size_t, (size_t)d->n_logits);
  s->sampler = qi__sampler_layout(arena, (int)h->n_vocab, &d->sampler);
  s->piece = QI__ARENA_ARRAY(arena, char, s->model->vocab.max_token);
  qi__text_layout(&s->text, arena, d->stop, d->n_stop, s->model->vocab.max_token);
}

QI__FN qi_result qi__session_memory(const qi_model *m, const qi_session_desc *desc, uint64_t *bytes, qi_error *err) {
  qi_session s;
  memset(&s, 0, sizeof s);
  s.model = m;
  s.desc = *desc;
  qi_result r = qi__session_desc_defaults(&s.desc, m, err);
  if (r) return r;
  qi_pool pool;
  size_t n_threads = 0;
  if (desc->pool) {
    n_threads = (size_t)desc->pool->n_threads;
  } else {
    qi_pool_desc pd = {desc->n_threads, desc->isa, desc->parallel, desc->allocator};
    if ((r = qi__pool_configure(&pool, &pd, err))) return r;
    n_threads = (size_t)pool.n_threads;
  }
  qi__arena arena = {0};
  qi__session_layout(&s, &arena, n_threads);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "session: does not fit into this machine's address space");
  *bytes = (uint64_t)arena.used + sizeof s;
  return QI_OK;
}

// ---- open and close ----

QI__FN void qi__session_close(qi_session *s) {
  if (!s) return;
  qi_allocator allocator = s->allocator;
  qi__arena_close(&s->arena, &allocator);
  if (s->has_own_pool) qi__pool_destroy(&s->own_pool);
  qi__free(&allocator, s, sizeof *s);
}

QI__FN qi_result qi__session_pool(qi_session *s, const qi_session_desc *desc, qi_error *err) {
  s->pool = desc->pool;
  if (desc->pool) return QI_OK;
  qi_pool_desc pd = {desc->n_threads, desc->isa, desc->parallel, s->allocator};
  qi_result r = qi__pool_init(&s->own_pool, &pd, err);
  if (r) return r;
  s->pool = &s->own_pool;
  s->has_own_pool = true;
  return QI_OK;
}

QI__FN void qi__session_wire(qi_session *s) {
  qi__forward *f = &s->forward;
  const qi__weights *w = &s->model->weights;
  f->h = &s->model->h;
  f->w = w;
  f->kernels = &s->kernels;
  f->pool = s->pool;
  f->kv = &s->kv;
  f->path = s->desc.path;
  f->cancel = &s->cancel;
  f->observer = s->desc.observer;
  f->observe = f->observer.fn ? qi__observe : NULL;
  f->op = QI__OP_DONE;
  bool beyond = (size_t)s->desc.n_ctx > f->h->rope_n_ctx_orig;
  const float *factors = w->rope_factors ? w->rope_factors : beyond ? w->rope_long : w->rope_short;
  f->magnitude = qi__rope_frequencies(f->h, factors, f->frequency);
  s->last = -1;
  s->stats.heap_bytes = s->bytes;
  s->stats.kv_bytes = qi__kv_bytes(&s->kv);
  s->stats.n_threads = s->pool->n_threads;
  s->stats.isa = s->pool->isa;
}

QI__FN qi_result qi__session_open(qi_session **out, const qi_model *m, const qi_session_desc *desc, qi_error *err) {
  qi_session_desc d = *desc;
  qi_allocator allocator;
  qi_result r = qi__session_desc_defaults(&d, m, err);
  if (r) return r;
  const qi_allocator *hook = desc->allocator.alloc || desc->allocator.free ? &desc->allocator : &m->allocator;
  if ((r = qi__allocator_resolve(hook, &allocator, err))) return r;
  qi_session *s = (qi_session *)qi__alloc(&allocator, sizeof *s, QI__CACHE_LINE);
  if (!s) return qi__fail_oom(err, "session", sizeof *s);
  memset(s, 0, sizeof *s);
  s->model = m;
  s->allocator = allocator;
  s->desc = d;
  if ((r = qi__session_pool(s, desc, err))) goto fail;
  qi__session_layout(s, &s->arena, (size_t)s->pool->n_threads);
  if ((r = qi__arena_open(&s->arena, &allocator, "session", err))) goto fail;
  qi__session_layout(s, &s->arena, (size_t)s->pool->n_threads);
  s->bytes = s->arena.size + sizeof *s;
  s->desc.stop = NULL;
  s->desc.sampler.logit_bias = NULL;
  qi__kernels_init(&s->kernels, &s->pool->cpu);
  qi__session_wire(s);
  *out = s;
  return QI_OK;
fail:
  qi__session_close(s);
  return r;
}

// ---- work ----

// Forgets unfinished work; sequences are as before it.
QI__FN void qi__work_drop(qi_session *s) {
  if (s->work.tokens) memcpy(s->kv.length, s->start, s->kv.n_seqs * sizeof *s->start);
  memset(&s->work, 0, sizeof s->work);
}

// Checks tokens against vocabulary, sequences, context and room for logits; uses `start` as scratch for lengths.
QI__FN qi_result qi__work_check(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err) {
  size_t n_logits = 0, most = s->kv.n_seqs * s->kv.n_ctx;
  if (n > most) return qi__fail(err, QI_ERR_CONTEXT, "%zu tokens: all sequences together hold %zu", n, most);
  memcpy(s->start, s->kv.length, s->kv.n_seqs * sizeof *s->start);
  for (size_t i = 0; i < n; i++) {
    const qi_decode_token *t = &tokens[i];
    if (t->token < 0 || (size_t)t->token >= s->model->h.n_vocab)
      return qi__fail(err, QI_ERR_ARGUMENT, "token %zu: id is %d, expected 0 to %zu", i, (int)t->token, s->model->h.n_vocab - 1);
    if (t->seq < 0 || (size_t)t->seq >= s->kv.n_seqs)
      return qi__fail(err, QI_ERR_ARGUMENT, "token %zu: seq is %d, expected 0 to %zu", i, t->seq, s->kv.n_seqs - 1);
    s->start[t->seq]++;
    n_logits += t->want_logits;
  }
  for (size_t seq = 0; seq < s->kv.n_seqs; seq++)
    if (s->start[seq] > s->kv.n_ctx)
      return qi__fail(err, QI_ERR_CONTEXT, "sequence %zu: the context of %zu is full; %zu tokens do not fit", seq, s->kv.n_ctx,
                      s->start[seq] - s->kv.n_ctx);
  if (n_logits > s->forward.n_logits)
    return qi__fail(err, QI_ERR_LIMIT, "%zu tokens want logits; the session keeps %zu (n_logits)", n_logits, s->forward.n_logits);
  return QI_OK;
}

// Makes tokens the work to do; there must be none.
QI__FN qi_result qi__work_begin(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err) {
  qi_result r = qi__work_check(s, tokens, n, err);
  if (r) return r;
  memcpy(s->start, s->kv.length, s->kv.n_seqs * sizeof *s->start);
  s->work = (qi__work){tokens, n, 0, false, 0, false, false};
  s->n_logits = 0;
  return QI_OK;
}

// Hands the next chunk to the forward pass: prompt rows first.
QI__FN void qi__work_chunk(qi_session *s) {
  qi__work *w = &s->work;
  qi__forward *f = &s->forward;
  w->chunk = qi__min_size(w->n - w->n_done, f->n_batch);
  const qi_decode_token *tokens = w->tokens + w->n_done;
  size_t n_prompt = 0, n_wanted_prompt = 0;
  for (size_t i = 0; i < w->chunk; i++)
    if (!tokens[i].generated) {
      n_prompt++;
      n_wanted_prompt += tokens[i].want_logits;
    }
  size_t prompt = 0, generated = n_prompt;
  f->logits_row = s->n_logits;
  size_t prompt_logits = f->logits_row, generated_logits = f->logits_row + n_wanted_prompt;
  for (size_t i = 0; i < w->chunk; i++) {
    const qi_decode_token *t = &tokens[i];
    qi__row *row = &f->rows[t->generated ? generated++ : prompt++];
    *row = (qi__row){t->token, (size_t)t->seq, s->kv.length[t->seq]++, t->want_logits};
    if (t->want_logits) s->logits_at[s->n_logits++] = t->generated ? generated_logits++ : prompt_logits++;
  }
  f->n_rows = w->chunk;
  f->n_prompt = n_prompt;
  qi__forward_start(f);
  w->in_chunk = true;
}

QI__FN void qi__work_chunk_done(qi_session *s) {
  qi__work *w = &s->work;
  s->stats.n_prompt += s->forward.n_prompt;
  s->stats.n_generated += s->forward.n_rows - s->forward.n_prompt;
  w->n_done += w->chunk;
  w->in_chunk = false;
}

// Work of the text interface counts only as a whole, so that nothing of it is left when it is cancelled.
QI__FN void qi__work_done(qi_session *s) {
  qi__work *w = &s->work;
  if (w->text) s->last = -1;
  for (size_t i = 0; w->text && i < w->n; i++)
    if (!w->tokens[i].generated) qi__sampler_accept(s->sampler, w->tokens[i].token);
  if (w->prompt) {
    qi__text_reset(&s->text);
    s->prompted = true;
    s->ended = false;
    s->n_predicted = 0;
  }
  memset(w, 0, sizeof *w);
}

// Does the work until it is done, or the deadline (0 = none). When cancelled, drops it.
QI__FN qi_result qi__work_run(qi_session *s, uint64_t deadline_us, qi_error *err) {
  qi__work *w = &s->work;
  if (!w->tokens) return QI_OK;
  while (w->n_done < w->n) {
    if (!w->in_chunk) qi__work_chunk(s);
    uint64_t start = qi__now_us();
    qi_result r = qi__forward_run(&s->forward, deadline_us);
    double seconds = (double)(qi__now_us() - start) * 1e-6;
    *(s->forward.n_prompt ? &s->stats.prompt_seconds : &s->stats.generate_seconds) += seconds;
    if (r == QI_AGAIN) return r;
    if (r == QI_ERR_CANCELLED) {
      qi__work_drop(s);
      s->n_logits = 0;
      __atomic_store_n(&s->cancel, 0, __ATOMIC_RELAXED);
      return qi__fail(err, r, "cancelled; the context is as before");
    }
    qi__work_chunk_done(s);
    if (deadline_us && w->n_done < w->n && qi__now_us() >= deadline_us) return QI_AGAIN;
  }
  qi__work_done(s);
  return QI_OK;
}

QI__FN uint64_t qi__deadline(uint32_t budget_us) { return budget_us ? qi__now_us() + budget_us : 0; }

// ---- tokens ----

QI__FN qi_result qi__decode(qi_session *s, const qi_decode_token *tokens, size_t n, bool later, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "decode: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (!tokens && n) return qi__fail(err, QI_ERR_ARGUMENT, "decode: tokens is NULL");
  qi_result r = qi__work_begin(s, tokens, n, err);
  if (r || !n) return r;
  s->last = -1;
  s->prompted = false;
  if (later) {
    memcpy(s->queue, tokens, n * sizeof *tokens);
    s->work.tokens = s->queue;
    return QI_OK;
  }
  return qi__work_run(s, 0, err);
}

QI__FN const float *qi__session_logits(const qi_session *s, int i) {
  if (s->work.tokens) return NULL;
  int64_t at = i == -1 ? (int64_t)s->n_logits - 1 : i;
  if (at < 0 || (size_t)at >= s->n_logits) return NULL;
  return s->forward.logits + s->logits_at[at] * s->model->h.n_vocab;
}

QI__FN qi_result qi__seq_truncate(qi_session *s, int seq, int n, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "truncate: work is unfinished (qi_step, or qi_session_reset)");
  if (seq < 0 || (size_t)seq >= s->kv.n_seqs)
    return qi__fail(err, QI_ERR_ARGUMENT, "truncate: seq is %d, expected 0 to %zu", seq, s->kv.n_seqs - 1);
  if (n < 0 || (size_t)n > s->kv.length[seq])
    return qi__fail(err, QI_ERR_ARGUMENT, "truncate: n is %d, expected 0 to %zu", n, s->kv.length[seq]);
  s->kv.length[seq] = (size_t)n;
  if (seq == 0) s->last = -1;
  return QI_OK;
}

QI__FN void qi__session_reset(qi_session *s) {
  memset(&s->work, 0, sizeof s->work);
  memset(s->kv.length, 0, s->kv.n_seqs * sizeof *s->kv.length);
  qi__sampler_reset(s->sampler, s->desc.sampler.seed);
  qi__text_reset(&s->text);
  s->n_logits = 0;
  s->prompted = s->ended = false;
  s->last = -1;
  s->n_predicted = 0;
  __atomic_store_n(&s->cancel, 0, __ATOMIC_RELAXED);
}

// ---- text ----

QI__FN qi_result qi__prompt_tokens(qi_session *s, const qi_token *ids, size_t n, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "prompt: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (!ids && n) return qi__fail(err, QI_ERR_ARGUMENT, "prompt: ids is NULL");
  // What was sampled last has been given as text, so it belongs to the context.
  size_t room = s->kv.n_ctx - s->kv.length[0], before = s->last >= 0, all = n + before;
  if (!all) return qi__fail(err, QI_ERR_ARGUMENT, "prompt: no tokens");
  if (n > s->kv.n_ctx || all > room)
    return qi__fail(err, QI_ERR_CONTEXT, "prompt of %zu tokens: %zu do not fit; %zu of %zu are used", n, n + before - room,
                    s->kv.length[0] + before, s->kv.n_ctx);
  for (size_t i = 0; i < all; i++)
    s->queue[i] = (qi_decode_token){i < before ? s->last : ids[i - before], 0, i < before, i + 1 == all};
  qi_result r = qi__work_begin(s, s->queue, all, err);
  s->work.text = s->work.prompt = r == QI_OK;
  return r;
}

QI__FN qi_result qi__prompt_text(qi_session *s, const char *text, size_t len, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "prompt: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (!text && len) return qi__fail(err, QI_ERR_ARGUMENT, "prompt: text is NULL");
  bool first = s->kv.length[0] == 0 && s->last < 0;
  int flags = (s->desc.no_parse_special ? 0 : QI_TOKENIZE_PARSE_SPECIAL) |
              (first && !s->desc.no_add_special ? QI_TOKENIZE_ADD_SPECIAL : 0);
  size_t n = 0;
  qi_result r = qi__tokenize(&s->model->vocab, &s->allocator, text, len, flags, s->ids, s->kv.n_ctx, &n, err);
  return r ? r : qi__prompt_tokens(s, s->ids, n, err); // more than n_ctx were not written, and are refused
}

// The end of generation: text that was held back is given with it.
QI__FN qi_result qi__finish(qi_session *s, qi_piece *out) {
  s->ended = true;
  qi__text_flush(&s->text, out);
  return QI_END;
}

// Chooses a token from the logits of the last one and turns it into text.
QI__FN qi_result qi__sample_piece(qi_session *s, qi_piece *out) {
  const qi__vocab *vocab = &s->model->vocab;
  qi_token token = qi__sampler_sample(s->sampler, qi__session_logits(s, -1));
  qi__sampler_accept(s->sampler, token);
  s->n_logits = 0;
  out->token = token;
  if (!s->desc.ignore_end && qi__token_is_end(vocab, token)) return qi__finish(s, out);
  s->last = token;
  s->n_predicted++;
  size_t len = qi__token_piece(vocab, token, s->desc.print_special, s->piece, vocab->max_token);
  s->ended = qi__text_push(&s->text, s->piece, len, out);
  return s->ended ? QI_END : QI_OK;
}

QI__FN qi_result qi__next(qi_session *s, qi_piece *out, uint64_t deadline_us, qi_error *err) {
  qi_result r;
  *out = (qi_piece){"", 0, -1};
  if (!s->work.tokens && s->prompted && s->ended) return QI_END;
  if (!s->work.tokens && s->last >= 0) {
    if (s->n_predicted >= s->desc.n_predict) return qi__finish(s, out);
    s->queue[0] = (qi_decode_token){s->last, 0, true, true};
    if ((r = qi__work_begin(s, s->queue, 1, err))) return r;
    s->work.text = true;
  }
  if ((r = qi__work_run(s, deadline_us, err))) return r;
  if (!s->prompted || !s->n_logits) return qi__fail(err, QI_ERR_STATE, "next: nothing to continue; call qi_prompt first");
  return qi__sample_piece(s, out);
}

#endif // QI__SESSION_H
// generated from src/kernels/product.h: edit there
// ==== >>product : threaded products for callers' own nets ====
#ifndef QI__KERNELS_PRODUCT_H
#define QI__KERNELS_PRODUCT_H


#define QI__PRODUCT_ROWS 256 // activation rows that are prepared at a time

typedef struct qi__product_run {
  qi__kernels kernels;
  qi__weight w;
  qi__arithmetic arithmetic;
  qi__inputs in;
  size_t n;         // rows of activations in this round
  float *y;         // [n, n_rows]
  float *scratch;   // [n_threads, scratch_floats]
  size_t scratch_floats;
} qi__product_run;

QI__FN void qi__product_prepare(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__product_run *p = (const qi__product_run *)arg;
  (void)worker;
  unsigned need = qi__inputs_need(&p->w, p->arithmetic);
  for (int64_t i = begin; i < end; i++) qi__inputs_prepare(&p->kernels, &p->in, (size_t)i, need);
}

QI__FN void qi__product_tiles(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__product_run *p = (const qi__product_run *)arg;
  float *scratch = p->scratch + (size_t)worker * p->scratch_floats;
  for (int64_t tile = begin; tile < end; tile++) {
    size_t first = (size_t)tile * QI__TILE_ROWS, n_w = qi__min_size(QI__TILE_ROWS, p->w.n_rows - first);
    qi__matmul_tile(&p->kernels, p->arithmetic, &p->w, first, n_w, &p->in, 0, p->n, p->y + first, p->w.n_rows, scratch);
  }
}

QI__FN void qi__product_layout(qi__product_run *p, qi__arena *arena, size_t n, int n_threads) {
  qi__inputs_layout(&p->in, arena, n, p->w.n_cols);
  p->scratch_floats = (qi__tile_scratch(p->w.n_cols, n) + 15) / 16 * 16;
  p->scratch = QI__ARENA_ARRAY(arena, float, (size_t)n_threads * p->scratch_floats);
}

QI__FN qi_result qi__product_check(const char *who, const qi_matrix *w, size_t n, qi_error *err) {
  const qi__format *f = qi__format_get(w->format);
  if (!f) return qi__fail(err, QI_ERR_ARGUMENT, "%s: format %d is unknown", who, (int)w->format);
  if (w->n_rows < 0 || w->n_cols < 0) return qi__fail(err, QI_ERR_ARGUMENT, "%s: a matrix of negative size", who);
  if (w->n_cols == 0 || w->n_cols % f->info.block_len)
    return qi__fail(err, QI_ERR_ARGUMENT, "%s: %lld columns, expected a multiple of %d for %s", who, (long long)w->n_cols,
                    f->info.block_len, f->info.name);
  uint64_t size;
  if (!qi__mul_u64((uint64_t)w->n_rows, (uint64_t)w->n_cols, &size) || size > SIZE_MAX / 8 ||
      !qi__mul_u64(n, (uint64_t)(w->n_rows > w->n_cols ? w->n_rows : w->n_cols), &size) || size > SIZE_MAX / 8)
    return qi__fail(err, QI_ERR_ARGUMENT, "%s: %zu x [%lld, %lld] is larger than memory", who, n, (long long)w->n_rows,
                    (long long)w->n_cols);
  return QI_OK;
}

// The matrix with its format bound. Checked before.
QI__FN qi_result qi__product_weight(const char *who, const qi_matrix *m, qi__bound *bound, qi__weight *out, qi_error *err) {
  *out = (qi__weight){m->format, &bound->format, (const uint8_t *)m->data, (size_t)m->n_rows, (size_t)m->n_cols,
                      qi__row_bytes(m->format, (size_t)m->n_cols), NULL, NULL};
  return qi__format_bind(bound, m->format, out->data + out->n_rows * out->row_bytes, who, err);
}

// See qi_matmul. Sizes are not 0 and checked.
QI__FN qi_result qi__matmul(qi_pool *pool, qi_path path, const qi__weight *w, const float *x, size_t n, float *y, qi_error *err) {
  qi__product_run p;
  memset(&p, 0, sizeof p);
  qi__kernels_init(&p.kernels, &pool->cpu);
  p.w = *w;
  p.arithmetic = qi__arithmetic_of(&p.kernels, &p.w, path, n == 1);
  size_t round = qi__min_size(n, QI__PRODUCT_ROWS);
  qi__arena arena = {0};
  qi__product_layout(&p, &arena, round, pool->n_threads);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "qi_matmul: scratch does not fit into this machine's address space");
  arena.size = arena.used;
  arena.used = 0;
  arena.base = (uint8_t *)qi__pool_scratch(pool, arena.size);
  if (!arena.base) return qi__fail_oom(err, "qi_matmul", arena.size);
  qi__product_layout(&p, &arena, round, pool->n_threads);
  qi__inputs_set_width(&p.in, p.w.n_cols);
  int64_t tiles = (int64_t)qi__n_tiles(p.w.n_rows);
  for (size_t i = 0; i < n; i += round) {
    p.n = qi__min_size(round, n - i);
    p.y = y + i * p.w.n_rows;
    memcpy(p.in.x, x + i * p.w.n_cols, p.n * p.w.n_cols * sizeof *x);
    qi__pool_run(pool, qi__product_prepare, &p, (int64_t)p.n, 1);
    qi__pool_run(pool, qi__product_tiles, &p, tiles, qi__max_i64(1, tiles / (pool->n_threads * 8)));
  }
  return QI_OK;
}

// ---- weights for many products ----

// In one block: this, and the tiles of its forms.
struct qi_weight {
  qi_allocator allocator;
  qi__arena arena;
  qi__weight w;
  qi__bound bound; // its format
  qi__forms forms;
};

// Takes all forms that the path may want.
QI__FN qi_weight *qi__weight_layout(qi__arena *arena, const qi__kernels *kernels, qi_path path, const qi_matrix *m,
                                    qi__forms *forms) {
  qi__weight w;
  memset(&w, 0, sizeof w);
  memset(forms, 0, sizeof *forms);
  w.id = m->format;
  w.format = &qi__formats[m->format];
  qi_weight *weight = QI__ARENA_ARRAY(arena, qi_weight, 1);
  for (int generated = 0; generated < 2; generated++) {
    qi__arithmetic a = qi__arithmetic_of(kernels, &w, path, generated);
    qi__form *form = &forms->of[a];
    size_t tile_bytes = qi__form_tile_bytes(kernels, a, w.id, (size_t)m->n_cols);
    if (!tile_bytes || form->n_tiles) continue;
    form->tile_bytes = tile_bytes;
    form->n_tiles = qi__n_tiles((size_t)m->n_rows);
    form->data = (uint8_t *)qi__arena_take(arena, form->n_tiles, tile_bytes, QI__CACHE_LINE);
  }
  forms->bf16 = kernels->bf16;
  return weight;
}

QI__FN qi_result qi__weight_memory(qi_pool *pool, qi_path path, const qi_matrix *m, uint64_t *bytes, qi_error *err) {
  qi__kernels kernels;
  qi__forms forms;
  qi__arena arena = {0};
  qi__kernels_init(&kernels, &pool->cpu);
  qi__weight_layout(&arena, &kernels, path, m, &forms);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "qi_weight_open: does not fit into this machine's address space");
  *bytes = arena.used;
  return QI_OK;
}

// See qi_weight_open. Sizes are not 0 and checked.
QI__FN qi_result qi__weight_open(qi_weight **out, qi_pool *pool, qi_path path, const qi_matrix *m, const qi_allocator *hook,
                                 qi_error *err) {
  qi_allocator allocator;
  qi__kernels kernels;
  qi__forms forms;
  qi__arena arena = {0};
  qi_result r = qi__allocator_resolve(hook, &allocator, err);
  if (r) return r;
  qi__kernels_init(&kernels, &pool->cpu);
  qi__weight_layout(&arena, &kernels, path, m, &forms);
  if ((r = qi__arena_open(&arena, &allocator, "qi_weight_open", err))) return r;
  qi_weight *weight = qi__weight_layout(&arena, &kernels, path, m, &forms);
  memset(weight, 0, sizeof *weight);
  if ((r = qi__product_weight("qi_weight_open", m, &weight->bound, &weight->w, err))) {
    qi__arena_close(&arena, &allocator);
    return r;
  }
  for (int a = 0; a < QI__ARITHMETICS; a++) {
    const qi__form *form = &forms.of[a];
    qi__form_job job = {&kernels, &weight->w, (qi__arithmetic)a, (uint8_t *)(uintptr_t)form->data, form->tile_bytes, 0};
    qi__pool_run(pool, qi__form_task, &job, (int64_t)form->n_tiles, 1);
  }
  weight->allocator = allocator;
  weight->arena = arena;
  weight->forms = forms;
  weight->w.forms = &weight->forms;
  *out = weight;
  return QI_OK;
}

QI__FN void qi__weight_close(qi_weight *weight) {
  if (!weight) return;
  qi_allocator allocator = weight->allocator;
  qi__arena arena = weight->arena;
  qi__arena_close(&arena, &allocator);
}

#endif // QI__KERNELS_PRODUCT_H

// The host may have changed rounding or flush-to-zero: qi__fp_enter and qi__fp_leave stand around what computes in this thread
// (threads of the pool do the same).

// ---- results and errors ----

QI_API const char *qi_result_name(qi_result r) {
  switch (r) {
  case QI_OK: return "QI_OK";
  case QI_END: return "QI_END";
  case QI_AGAIN: return "QI_AGAIN";
  case QI_ERR_ARGUMENT: return "QI_ERR_ARGUMENT";
  case QI_ERR_OOM: return "QI_ERR_OOM";
  case QI_ERR_IO: return "QI_ERR_IO";
  case QI_ERR_FORMAT: return "QI_ERR_FORMAT";
  case QI_ERR_UNSUPPORTED: return "QI_ERR_UNSUPPORTED";
  case QI_ERR_LIMIT: return "QI_ERR_LIMIT";
  case QI_ERR_CONTEXT: return "QI_ERR_CONTEXT";
  case QI_ERR_CANCELLED: return "QI_ERR_CANCELLED";
  case QI_ERR_STATE: return "QI_ERR_STATE";
  }
  return "?";
}

QI_API void qi_log_stderr(void *user, qi_log_level level, const char *msg) {
  (void)user;
#ifdef QI_NO_STDIO
  (void)level;
  (void)msg;
#else
  fprintf(stderr, "qinfer: %s%s\n", level == QI_LOG_WARN ? "warning: " : "", msg);
#endif
}

// For the checks below: a NULL where the header does not allow one.
#define QI__NOT_NULL(arg, function) \
  if (!(arg)) return qi__fail(err, QI_ERR_ARGUMENT, function ": " #arg " is NULL")

// ---- formats ----

QI_API const qi_format_info *qi_format_get(qi_format format) {
  const qi__format *f = qi__format_get(format);
  return f ? &f->info : NULL;
}

QI_API qi_format qi_format_from_name(const char *name) {
  for (int f = 1; name && f < QI_FORMAT_COUNT; f++) {
    const char *a = qi__formats[f].info.name, *b = name;
    while (*a && *a == (*b >= 'a' && *b <= 'z' ? *b - 'a' + 'A' : *b)) a++, b++;
    if (!*a && !*b) return (qi_format)f;
  }
  return QI_FORMAT_NONE;
}

QI_API size_t qi_format_bytes(qi_format format, size_t n) { return qi__format_get(format) ? qi__format_bytes(format, n) : 0; }

QI_API qi_result qi_dequantize(qi_format format, const void *src, float *dst, size_t n, qi_error *err) {
  const qi__format *f = qi__format_get(format);
  if (!f) return qi__fail(err, QI_ERR_ARGUMENT, "qi_dequantize: format %d is unknown", (int)format);
  if (n % (size_t)f->info.block_len)
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_dequantize: %zu weights, expected a multiple of %d for %s", n, f->info.block_len,
                    f->info.name);
  if (!n) return QI_OK;
  QI__NOT_NULL(src, "qi_dequantize");
  QI__NOT_NULL(dst, "qi_dequantize");
  qi__fp_mode mode = qi__fp_enter();
  qi__bound bound;
  qi_result r = qi__format_bind(&bound, format, (const uint8_t *)src + qi__row_bytes(format, n), "qi_dequantize", err);
  if (!r) qi__dequantize_blocks(&bound.format, (const uint8_t *)src, dst, n);
  qi__fp_leave(mode);
  return r;
}

QI__FN qi_result qi__quantize_check(const qi__format *f, const float *src, size_t n, size_t n_cols, const float *importance,
                                    qi_error *err) {
  if (n_cols == 0 || n % n_cols || n_cols % (size_t)f->info.block_len)
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_quantize: %zu weights in rows of %zu, expected whole rows of a multiple of %d for %s",
                    n, n_cols, f->info.block_len, f->info.name);
  for (size_t i = 0; i < n; i++)
    if (!qi__is_finite(src[i])) return qi__fail(err, QI_ERR_ARGUMENT, "qi_quantize: weight %zu is not finite", i);
  for (size_t i = 0; importance && i < n_cols; i++)
    if (!qi__is_finite(importance[i]) || importance[i] < 0)
      return qi__fail(err, QI_ERR_ARGUMENT, "qi_quantize: importance %zu is %g, expected 0 or more", i, (double)importance[i]);
  return QI_OK;
}

QI_API qi_result qi_quantize(qi_format format, const float *src, void *dst, size_t n, size_t n_cols, const float *importance,
                             qi_error *err) {
  const qi__format *f = qi__format_get(format);
  if (!f) return qi__fail(err, QI_ERR_ARGUMENT, "qi_quantize: format %d is unknown", (int)format);
  if (!f->info.can_quantize) return qi__fail(err, QI_ERR_UNSUPPORTED, "qi_quantize: %s cannot be written", f->info.name);
  if (!n) return QI_OK;
  QI__NOT_NULL(src, "qi_quantize");
  QI__NOT_NULL(dst, "qi_quantize");
  qi_result r = qi__quantize_check(f, src, n, n_cols, importance, err);
  if (r) return r;
  qi__fp_mode mode = qi__fp_enter();
  qi__quantize(format, src, (uint8_t *)dst, n / n_cols, n_cols, importance);
  qi__fp_leave(mode);
  return QI_OK;
}

// ---- pools and products ----

QI_API const char *qi_isa_name(qi_isa isa) { return qi__isa_name(isa); }
QI_API int qi_isa_from_name(const char *name) { return name ? qi__isa_from_name(name) : -1; }

QI_API qi_result qi_pool_open(qi_pool **out, const qi_pool_desc *desc, qi_error *err) { return qi__pool_open(out, desc, err); }
QI_API void qi_pool_close(qi_pool *pool) { qi__pool_close(pool); }
QI_API int qi_pool_n_threads(const qi_pool *pool) { return pool ? pool->n_threads : 0; }
QI_API qi_isa qi_pool_isa(const qi_pool *pool) { return pool ? pool->isa : QI_ISA_AUTO; }

// What a product is made with where the caller gives no pool.
QI__FN qi_result qi__own_pool(qi_pool **out, qi_error *err) {
  const qi_pool_desc one = {1, QI_ISA_AUTO, {NULL, NULL}, {NULL, NULL, NULL}};
  return qi__pool_open(out, &one, err);
}

QI__FN qi_result qi__path_check(const char *who, qi_path path, qi_error *err) {
  if (path >= QI_PATH_AUTO && path <= QI_PATH_FLOAT) return QI_OK;
  return qi__fail(err, QI_ERR_ARGUMENT, "%s: path is %d, expected a qi_path", who, (int)path);
}

// A product with sizes that are not 0.
QI__FN qi_result qi__matmul_any(qi_pool *pool, qi_path path, const qi__weight *w, const float *x, size_t n, float *y,
                                qi_error *err) {
  QI__NOT_NULL(x, "qi_matmul");
  QI__NOT_NULL(y, "qi_matmul");
  if (pool) return qi__matmul(pool, path, w, x, n, y, err);
  qi_pool *own = NULL;
  qi_result r = qi__own_pool(&own, err);
  if (r) return r;
  r = qi__matmul(own, path, w, x, n, y, err);
  qi__pool_close(own);
  return r;
}

QI_API qi_result qi_matmul(qi_pool *pool, qi_path path, const qi_matrix *w, const float *x, size_t n, float *y, qi_error *err) {
  QI__NOT_NULL(w, "qi_matmul");
  qi__bound bound;
  qi__weight weight;
  qi_result r = qi__path_check("qi_matmul", path, err);
  if (r) return r;
  if (w->n_rows < 0 || w->n_cols < 0) return qi__fail(err, QI_ERR_ARGUMENT, "qi_matmul: a matrix of negative size");
  if (!n || !w->n_rows) return QI_OK;
  QI__NOT_NULL(w->data, "qi_matmul");
  if ((r = qi__product_check("qi_matmul", w, n, err))) return r;
  if ((r = qi__product_weight("qi_matmul", w, &bound, &weight, err))) return r;
  return qi__matmul_any(pool, path, &weight, x, n, y, err);
}

QI__FN qi_result qi__weight_check(qi_path path, const qi_matrix *w, qi_error *err) {
  QI__NOT_NULL(w, "qi_weight_open");
  QI__NOT_NULL(w->data, "qi_weight_open");
  qi_result r = qi__path_check("qi_weight_open", path, err);
  if (r) return r;
  if (!w->n_rows) return qi__fail(err, QI_ERR_ARGUMENT, "qi_weight_open: a matrix without rows");
  return qi__product_check("qi_weight_open", w, 1, err);
}

QI_API qi_result qi_weight_open(qi_weight **out, qi_pool *pool, qi_path path, const qi_matrix *w, const qi_allocator *allocator,
                                qi_error *err) {
  QI__NOT_NULL(out, "qi_weight_open");
  *out = NULL;
  qi_pool *own = NULL;
  qi_result r = qi__weight_check(path, w, err);
  if (!r && !pool) r = qi__own_pool(&own, err);
  if (!r) r = qi__weight_open(out, pool ? pool : own, path, w, allocator, err);
  qi__pool_close(own);
  return r;
}

QI_API void qi_weight_close(qi_weight *w) { qi__weight_close(w); }

QI_API qi_result qi_weight_memory(qi_pool *pool, qi_path path, const qi_matrix *w, uint64_t *bytes, qi_error *err) {
  QI__NOT_NULL(bytes, "qi_weight_memory");
  qi_pool *own = NULL;
  qi_result r = qi__weight_check(path, w, err);
  if (!r && !pool) r = qi__own_pool(&own, err);
  if (!r) r = qi__weight_memory(pool ? pool : own, path, w, bytes, err);
  qi__pool_close(own);
  return r;
}

QI_API qi_result qi_weight_matmul(qi_pool *pool, qi_path path, const qi_weight *w, const float *x, size_t n, float *y,
                                  qi_error *err) {
  QI__NOT_NULL(w, "qi_weight_matmul");
  const qi_matrix m = {w->w.id, w->w.data, (int64_t)w->w.n_rows, (int64_t)w->w.n_cols};
  qi_result r = qi__path_check("qi_weight_matmul", path, err);
  if (r || !n) return r;
  r = qi__product_check("qi_weight_matmul", &m, n, err);
  return r ? r : qi__matmul_any(pool, path, &w->w, x, n, y, err);
}

// ---- models ----

QI_API qi_result qi_model_open(qi_model **out, const qi_model_desc *desc, qi_error *err) {
  QI__NOT_NULL(out, "qi_model_open");
  *out = NULL;
  QI__NOT_NULL(desc, "qi_model_open");
  return qi__model_open(out, desc, false, err);
}

QI_API void qi_model_close(qi_model *m) { qi__model_close(m); }

QI_API qi_result qi_model_validate(const qi_model_desc *desc, qi_error *err) {
  QI__NOT_NULL(desc, "qi_model_validate");
  qi_model *m = NULL;
  qi_result r = qi__model_open(&m, desc, true, err);
  qi__model_close(m);
  return r;
}

QI_API qi_result qi_model_memory(const qi_model_desc *desc, qi_memory *out, qi_error *err) {
  QI__NOT_NULL(desc, "qi_model_memory");
  QI__NOT_NULL(out, "qi_model_memory");
  return qi__model_memory(desc, out, err);
}

QI_API void qi_model_get_info(const qi_model *m, qi_model_info *out) {
  if (out) memset(out, 0, sizeof *out);
  if (m && out) qi__model_info(m, out);
}

QI_API size_t qi_meta_count(const qi_model *m) { return m ? m->gguf.n_metas : 0; }

QI_API qi_result qi_meta_get(const qi_model *m, size_t i, qi_meta *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_meta_get");
  QI__NOT_NULL(out, "qi_meta_get");
  if (i >= m->gguf.n_metas) return qi__fail(err, QI_ERR_ARGUMENT, "qi_meta_get: entry %zu of %zu", i, m->gguf.n_metas);
  *out = m->gguf.metas[i];
  return QI_OK;
}

QI_API qi_result qi_meta_element(const qi_model *m, size_t i, uint64_t k, qi_meta *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_meta_element");
  QI__NOT_NULL(out, "qi_meta_element");
  if (i >= m->gguf.n_metas) return qi__fail(err, QI_ERR_ARGUMENT, "qi_meta_element: entry %zu of %zu", i, m->gguf.n_metas);
  return qi__gguf_element(&m->gguf, i, k, out, err);
}

QI_API qi_result qi_meta_elements(const qi_model *m, size_t i, uint64_t k, size_t n, qi_meta *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_meta_elements");
  if (n) QI__NOT_NULL(out, "qi_meta_elements");
  if (i >= m->gguf.n_metas) return qi__fail(err, QI_ERR_ARGUMENT, "qi_meta_elements: entry %zu of %zu", i, m->gguf.n_metas);
  return qi__gguf_elements(&m->gguf, i, k, n, out, err);
}

QI_API size_t qi_tensor_count(const qi_model *m) { return m ? m->gguf.n_tensors : 0; }

QI_API qi_result qi_tensor_get(const qi_model *m, size_t i, qi_tensor *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_tensor_get");
  QI__NOT_NULL(out, "qi_tensor_get");
  if (i >= m->gguf.n_tensors) return qi__fail(err, QI_ERR_ARGUMENT, "qi_tensor_get: tensor %zu of %zu", i, m->gguf.n_tensors);
  qi__model_tensor(m, &m->gguf.tensors[i], out);
  return QI_OK;
}

QI_API qi_result qi_tensor_find(const qi_model *m, const char *name, qi_tensor *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_tensor_find");
  QI__NOT_NULL(name, "qi_tensor_find");
  QI__NOT_NULL(out, "qi_tensor_find");
  const qi__tensor_info *t = qi__gguf_tensor(&m->gguf, name);
  if (!t) return qi__fail(err, QI_ERR_ARGUMENT, "tensor %s: not in the file", qi__show(name, strlen(name)).s);
  qi__model_tensor(m, t, out);
  return QI_OK;
}

// ---- tokens ----

QI__FN bool qi__has_vocab(const qi_model *m) { return m && m->load != QI_LOAD_METADATA; }

QI_API qi_result qi_tokenize(const qi_model *m, const char *text, size_t len, int flags, qi_token *out, size_t cap, size_t *n_out,
                             qi_error *err) {
  QI__NOT_NULL(m, "qi_tokenize");
  QI__NOT_NULL(n_out, "qi_tokenize");
  if (len) QI__NOT_NULL(text, "qi_tokenize");
  if (cap) QI__NOT_NULL(out, "qi_tokenize");
  if (flags & ~(QI_TOKENIZE_ADD_SPECIAL | QI_TOKENIZE_PARSE_SPECIAL))
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_tokenize: flags are %d, expected qi_tokenize_flags", flags);
  if (!qi__has_vocab(m)) return qi__fail(err, QI_ERR_STATE, "qi_tokenize: the model was opened without its tokenizer (load)");
  return qi__tokenize(&m->vocab, &m->allocator, text, len, flags, out, cap, n_out, err);
}

QI_API size_t qi_token_piece(const qi_model *m, qi_token id, bool special, char *out, size_t cap) {
  return qi__has_vocab(m) ? qi__token_piece(&m->vocab, id, special, out, out ? cap : 0) : 0;
}

QI_API qi_result qi_detokenize(const qi_model *m, const qi_token *ids, size_t n, bool special, char *out, size_t cap,
                               size_t *len_out, qi_error *err) {
  QI__NOT_NULL(m, "qi_detokenize");
  QI__NOT_NULL(len_out, "qi_detokenize");
  if (n) QI__NOT_NULL(ids, "qi_detokenize");
  if (cap) QI__NOT_NULL(out, "qi_detokenize");
  if (!qi__has_vocab(m)) return qi__fail(err, QI_ERR_STATE, "qi_detokenize: the model was opened without its tokenizer (load)");
  return qi__detokenize(&m->vocab, ids, n, special, out, cap, len_out, err);
}

QI_API void qi_model_special_tokens(const qi_model *m, qi_special_tokens *out) {
  static const qi_special_tokens none = {-1, -1, -1, -1, -1, -1, false, false};
  if (out) *out = qi__has_vocab(m) ? m->vocab.special : none;
}

QI_API bool qi_token_is_end(const qi_model *m, qi_token id) { return qi__has_vocab(m) && qi__token_is_end(&m->vocab, id); }
QI_API bool qi_token_is_control(const qi_model *m, qi_token id) { return qi__has_vocab(m) && qi__token_is_control(&m->vocab, id); }
QI_API qi_token qi_token_find(const qi_model *m, const char *text, size_t len) {
  return qi__has_vocab(m) && text ? qi__token_find(&m->vocab, text, len) : -1;
}

// ---- samplers ----

QI_API qi_result qi_sampler_open(qi_sampler **out, int n_vocab, const qi_sampler_desc *desc, const qi_allocator *allocator,
                                 qi_error *err) {
  QI__NOT_NULL(out, "qi_sampler_open");
  *out = NULL;
  return qi__sampler_open(out, n_vocab, desc, allocator, err);
}

QI_API void qi_sampler_close(qi_sampler *sp) { qi__sampler_close(sp); }
QI_API qi_token qi_sampler_sample(qi_sampler *sp, const float *logits) {
  if (!sp || !logits) return -1;
  qi__fp_mode mode = qi__fp_enter();
  qi_token token = qi__sampler_sample(sp, logits);
  qi__fp_leave(mode);
  return token;
}
QI_API void qi_sampler_accept(qi_sampler *sp, qi_token token) {
  if (sp) qi__sampler_accept(sp, token);
}
QI_API void qi_sampler_reset(qi_sampler *sp, uint64_t seed) {
  if (sp) qi__sampler_reset(sp, seed);
}

// ---- sessions ----

QI_API qi_result qi_session_open(qi_session **out, const qi_model *m, const qi_session_desc *desc, qi_error *err) {
  QI__NOT_NULL(out, "qi_session_open");
  *out = NULL;
  QI__NOT_NULL(desc, "qi_session_open");
  qi_result r = qi__session_check_model(m, err);
  if (r) return r;
  qi__fp_mode mode = qi__fp_enter(); // rotary frequencies
  r = qi__session_open(out, m, desc, err);
  qi__fp_leave(mode);
  return r;
}

QI_API void qi_session_close(qi_session *s) { qi__session_close(s); }

QI_API qi_result qi_session_memory(const qi_model *m, const qi_session_desc *desc, uint64_t *bytes, qi_error *err) {
  QI__NOT_NULL(desc, "qi_session_memory");
  QI__NOT_NULL(bytes, "qi_session_memory");
  qi_result r = qi__session_check_model(m, err);
  return r ? r : qi__session_memory(m, desc, bytes, err);
}

QI_API qi_result qi_prompt(qi_session *s, const char *text, qi_error *err) {
  QI__NOT_NULL(s, "qi_prompt");
  QI__NOT_NULL(text, "qi_prompt");
  qi_result r = qi__prompt_text(s, text, strlen(text), err);
  return r ? r : qi__work_run(s, 0, err);
}

QI_API qi_result qi_prompt_begin(qi_session *s, const char *text, size_t len, qi_error *err) {
  QI__NOT_NULL(s, "qi_prompt_begin");
  return qi__prompt_text(s, text, len, err);
}

QI_API qi_result qi_prompt_tokens(qi_session *s, const qi_token *ids, size_t n, qi_error *err) {
  QI__NOT_NULL(s, "qi_prompt_tokens");
  return qi__prompt_tokens(s, ids, n, err);
}

QI_API qi_result qi_next(qi_session *s, qi_piece *out, qi_error *err) { return qi_next_within(s, out, 0, err); }

QI_API qi_result qi_next_within(qi_session *s, qi_piece *out, uint32_t budget_us, qi_error *err) {
  QI__NOT_NULL(s, "qi_next");
  QI__NOT_NULL(out, "qi_next");
  qi__fp_mode mode = qi__fp_enter();
  qi_result r = qi__next(s, out, qi__deadline(budget_us), err);
  qi__fp_leave(mode);
  return r;
}

QI_API void qi_cancel(qi_session *s) {
  if (s) __atomic_store_n(&s->cancel, 1, __ATOMIC_RELAXED);
}

QI_API qi_result qi_decode(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err) {
  QI__NOT_NULL(s, "qi_decode");
  return qi__decode(s, tokens, n, false, err);
}

QI_API qi_result qi_decode_begin(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err) {
  QI__NOT_NULL(s, "qi_decode_begin");
  return qi__decode(s, tokens, n, true, err);
}

QI_API qi_result qi_step(qi_session *s, uint32_t budget_us, qi_error *err) {
  QI__NOT_NULL(s, "qi_step");
  return qi__work_run(s, qi__deadline(budget_us), err);
}

QI_API const float *qi_logits(const qi_session *s, int i) { return s ? qi__session_logits(s, i) : NULL; }

QI_API int qi_seq_length(const qi_session *s, int seq) {
  return s && seq >= 0 && (size_t)seq < s->kv.n_seqs ? (int)s->kv.length[seq] : -1;
}

QI_API qi_result qi_seq_truncate(qi_session *s, int seq, int n, qi_error *err) {
  QI__NOT_NULL(s, "qi_seq_truncate");
  return qi__seq_truncate(s, seq, n, err);
}

QI_API void qi_session_reset(qi_session *s) {
  if (s) qi__session_reset(s);
}

QI_API void qi_session_get_stats(const qi_session *s, qi_session_stats *out) {
  if (out) memset(out, 0, sizeof *out);
  if (s && out) *out = s->stats;
}

#undef QI__NOT_NULL

#endif // QI__PUBLIC_H

#if defined(__clang__)
#if defined(__x86_64__) || defined(__i386__)
#pragma float_control(pop)
#endif
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif // QINFER_IMPLEMENTATION

// ---- licence ----
//
// MIT No Attribution
//
// Copyright 2026 qinfer authors
//
// Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
// "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
// distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so.
//
// THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
// MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
// ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH
// THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
