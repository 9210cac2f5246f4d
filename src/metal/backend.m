// qinfer_metal.m: qinfer on Apple GPUs.
//
//   clang -O2 app.c qinfer_metal.m -framework Metal -framework Foundation      (with or without -fobjc-arc)
//
//   qi_model_desc md = { .path = "model.gguf", .backend = qi_metal(), .backend_fallback = true };
//
// Needs macOS 12 and a GPU of family Apple 7 (M1) or later. Weights stay where the file is mapped; keys, values and everything
// else of a session lie in memory that CPU and GPU share. Formats: see qi__mtl_formats; keys and values in F16 and Q8. Weights are
// multiplied in float32. Numbers of columns and widths of heads must be multiples of 4, heads at most 256 wide.
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include "qinfer.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "args.inc"

static const char qi__mtl_source[] =
#include "kernels.metal"
    ;

#if __has_feature(objc_arc)
#define QI__RETAIN(x) (x)
#define QI__RELEASE(x) ((x) = nil)
#else
#define QI__RETAIN(x) [(x) retain]
#define QI__RELEASE(x) ([(x) release], (x) = nil)
#endif

// ---- pipelines ----

// Weight formats and what their kernels ask of an address.
static const struct {
  qi_format format;
  const char *name;
  size_t align;
} qi__mtl_formats[] = {
    {QI_FORMAT_F32, "f32", 16},     {QI_FORMAT_F16, "f16", 8},        {QI_FORMAT_BF16, "bf16", 8},
    {QI_FORMAT_Q4_0, "q4_0", 2},    {QI_FORMAT_Q8_0, "q8_0", 2},      {QI_FORMAT_Q4_K, "q4_k", 16},
    {QI_FORMAT_Q5_K, "q5_k", 16},   {QI_FORMAT_Q6_K, "q6_k", 2},      {QI_FORMAT_TQ2_0, "tq2_0", 2},
    {QI_FORMAT_I2_S, "i2_s", 16},   {QI_FORMAT_QINS8, "qins8", 4},    {QI_FORMAT_QINS8_K, "qins8_k", 16},
    {QI_FORMAT_QINS4_K, "qins4_k", 16},
};
#define QI__MTL_FORMATS (sizeof qi__mtl_formats / sizeof qi__mtl_formats[0])

// Kernels by slot: those of a format, those of a type of keys and values, the rest.
enum { QI__MTL_EMBED, QI__MTL_MATVEC, QI__MTL_GATED = QI__MTL_MATVEC + 2, QI__MTL_MATMUL = QI__MTL_GATED + 2, QI__MTL_OF_FORMAT };
// Attention: of one head, of 4, of tiles; each for heads of up to 32, 64, 128, 256.
enum { QI__MTL_ROPE, QI__MTL_ATTENTION, QI__MTL_OF_KV = QI__MTL_ATTENTION + 12 };
static const char *const qi__mtl_of_format[QI__MTL_OF_FORMAT] = {"embed_%s",  "matvec1_%s", "matvec4_%s",
                                                                 "gated1_%s", "gated4_%s",  "matmul_%s"};
static const char *const qi__mtl_of_kv[QI__MTL_OF_KV] = {
    "rope_%s",
    "attention1x1_%s",    "attention2x1_%s",    "attention4x1_%s",    "attention8x1_%s",
    "attention1x4_%s",    "attention2x4_%s",    "attention4x4_%s",    "attention8x4_%s",
    "attention_tile1_%s", "attention_tile2_%s", "attention_tile4_%s", "attention_tile8_%s",
};
static const char *const qi__mtl_kv_types[2] = {"kv_f16", "kv_q8"};
static const char *const qi__mtl_others[] = {"rms_norm", "gate", "top"};
enum {
  QI__MTL_FIRST_KV = QI__MTL_FORMATS * QI__MTL_OF_FORMAT,
  QI__MTL_NORM = QI__MTL_FIRST_KV + 2 * QI__MTL_OF_KV,
  QI__MTL_GATE,
  QI__MTL_TOP,
  QI__MTL_PIPELINES
};
#define QI__MTL_NONE (-1)

static void qi__mtl_name(int slot, char name[32]) {
  int kv = slot - QI__MTL_FIRST_KV;
  if (slot >= QI__MTL_NORM) snprintf(name, 32, "%s", qi__mtl_others[slot - QI__MTL_NORM]);
  else if (kv >= 0) snprintf(name, 32, qi__mtl_of_kv[kv % QI__MTL_OF_KV], qi__mtl_kv_types[kv / QI__MTL_OF_KV]);
  else snprintf(name, 32, qi__mtl_of_format[slot % QI__MTL_OF_FORMAT], qi__mtl_formats[slot / QI__MTL_OF_FORMAT].name);
}

// ---- device and queue ----

#define QI__MTL_RANGES 256
#define QI__MTL_BLOCKS 4

// Memory of the host that the device sees as a buffer.
typedef struct qi__mtl_range {
  uintptr_t begin, end;
  uintptr_t base; // what the buffer begins with; at or before `begin`
  id<MTLBuffer> buffer;
} qi__mtl_range;

typedef struct qi__mtl_device {
  qi_allocator allocator;
  id<MTLDevice> device;
  id<MTLLibrary> library;
  pthread_mutex_t mutex; // of pipelines
  id<MTLComputePipelineState> pipelines[QI__MTL_PIPELINES]; // nil = not made yet
  qi__mtl_range ranges[QI__MTL_RANGES];
  size_t n_ranges;
  uint64_t mapped;
  char name[64];
} qi__mtl_device;

typedef struct qi__mtl_queue {
  qi__mtl_device *device;
  id<MTLCommandQueue> queue;
  id<MTLCommandBuffer> pending; // submitted
  qi__mtl_range blocks[QI__MTL_BLOCKS]; // of alloc; a session has one
} qi__mtl_queue;

static qi_result qi__mtl_fail(qi_error *err, qi_result code, const char *what, NSError *why) {
  if (err) {
    err->code = code;
    snprintf(err->msg, sizeof err->msg, "metal: %s%s%s", what, why ? ": " : "", why ? why.localizedDescription.UTF8String : "");
  }
  return code;
}

// The pipeline of a slot, made when it is asked for first; nil: it cannot be had.
static id<MTLComputePipelineState> qi__mtl_pipeline(qi__mtl_device *d, int slot, qi_error *err) {
  char name[32];
  qi__mtl_name(slot, name);
  pthread_mutex_lock(&d->mutex);
  if (!d->pipelines[slot]) {
    @autoreleasepool {
      NSError *why = nil;
      NSString *text = [[NSString alloc] initWithUTF8String:name];
      id<MTLFunction> function = [d->library newFunctionWithName:text];
      if (function) d->pipelines[slot] = [d->device newComputePipelineStateWithFunction:function error:&why];
      if (!d->pipelines[slot]) qi__mtl_fail(err, QI_ERR_DEVICE, name, why);
      QI__RELEASE(function);
      QI__RELEASE(text);
    }
  }
  id<MTLComputePipelineState> pipeline = d->pipelines[slot];
  pthread_mutex_unlock(&d->mutex);
  return pipeline;
}

static void qi__mtl_close(void *device) {
  qi__mtl_device *d = (qi__mtl_device *)device;
  qi_allocator allocator = d->allocator;
  for (size_t i = 0; i < d->n_ranges; i++) QI__RELEASE(d->ranges[i].buffer);
  for (int i = 0; i < QI__MTL_PIPELINES; i++) QI__RELEASE(d->pipelines[i]);
  QI__RELEASE(d->library);
  QI__RELEASE(d->device);
  pthread_mutex_destroy(&d->mutex);
  allocator.free(d, sizeof *d, allocator.user);
}

// Finds the GPU and compiles the shaders for it.
static qi_result qi__mtl_start(qi__mtl_device *d, qi_error *err) {
  NSError *why = nil;
  d->device = MTLCreateSystemDefaultDevice();
  if (!d->device) return qi__mtl_fail(err, QI_ERR_UNSUPPORTED, "there is no Metal device", nil);
  if (![d->device supportsFamily:MTLGPUFamilyApple7])
    return qi__mtl_fail(err, QI_ERR_UNSUPPORTED, "the GPU is older than family Apple 7 (M1)", nil);
  snprintf(d->name, sizeof d->name, "%s", d->device.name.UTF8String);
  MTLCompileOptions *options = [MTLCompileOptions new];
  NSString *source = [[NSString alloc] initWithUTF8String:qi__mtl_source];
  options.languageVersion = MTLLanguageVersion2_4;
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wdeprecated-declarations" // mathMode instead of it needs macOS 15
  options.fastMathEnabled = NO; // exp and division as on the CPU; the kernels wait for memory, not for these
#pragma clang diagnostic pop
  d->library = [d->device newLibraryWithSource:source options:options error:&why];
  QI__RELEASE(source);
  QI__RELEASE(options);
  return d->library ? QI_OK : qi__mtl_fail(err, QI_ERR_DEVICE, "shaders", why);
}

static qi_result qi__mtl_open(void *user, const qi_allocator *allocator, void **device, qi_error *err) {
  qi__mtl_device *d = (qi__mtl_device *)allocator->alloc(sizeof *d, 64, allocator->user);
  qi_result r;
  (void)user;
  if (!d) return qi__mtl_fail(err, QI_ERR_OOM, "the allocator gave nothing", nil);
  memset((void *)d, 0, sizeof *d);
  d->allocator = *allocator;
  pthread_mutex_init(&d->mutex, NULL);
  @autoreleasepool {
    r = qi__mtl_start(d, err);
  }
  if (r) qi__mtl_close(d);
  else *device = d;
  return r;
}

static const char *qi__mtl_device_name(const void *device) { return ((const qi__mtl_device *)device)->name; }

// ---- memory ----

static uintptr_t qi__mtl_page(void) { return (uintptr_t)getpagesize(); }

// Two pages are lost to rounding.
static size_t qi__mtl_map_limit(const void *device) {
  const qi__mtl_device *d = (const qi__mtl_device *)device;
  return (size_t)d->device.maxBufferLength - 2 * qi__mtl_page();
}

// A buffer of the same memory, in whole pages; nil where the system will not (memory that malloc has put together, say).
NS_RETURNS_RETAINED static id<MTLBuffer> qi__mtl_share(const qi__mtl_device *d, uintptr_t data, size_t size, uintptr_t *base) {
  uintptr_t page = qi__mtl_page(), end = (data + size + page - 1) / page * page;
  *base = data / page * page;
  return [d->device newBufferWithBytesNoCopy:(void *)*base
                                      length:end - *base
                                     options:MTLResourceStorageModeShared
                                 deallocator:nil];
}

// A buffer with a copy, aligned as the memory is.
NS_RETURNS_RETAINED static id<MTLBuffer> qi__mtl_copy(const qi__mtl_device *d, uintptr_t data, size_t size, uintptr_t *base) {
  *base = data / 16 * 16;
  id<MTLBuffer> buffer = [d->device newBufferWithLength:data - *base + size options:MTLResourceStorageModeShared];
  if (buffer) memcpy((char *)buffer.contents + (data - *base), (const void *)data, size);
  return buffer;
}

static qi_result qi__mtl_map(void *device, const void *data, size_t size, qi_error *err) {
  qi__mtl_device *d = (qi__mtl_device *)device;
  uintptr_t begin = (uintptr_t)data, base;
  if (d->n_ranges == QI__MTL_RANGES) return qi__mtl_fail(err, QI_ERR_LIMIT, "weights lie in too many places", nil);
  if (d->mapped + size > d->device.recommendedMaxWorkingSetSize)
    return qi__mtl_fail(err, QI_ERR_OOM, "the weights are more than the GPU can hold", nil);
  id<MTLBuffer> buffer = qi__mtl_share(d, begin, size, &base);
  if (!buffer) buffer = qi__mtl_copy(d, begin, size, &base);
  if (!buffer) return qi__mtl_fail(err, QI_ERR_OOM, "no buffer for weights", nil);
  d->mapped += size;
  d->ranges[d->n_ranges].begin = begin;
  d->ranges[d->n_ranges].end = begin + size;
  d->ranges[d->n_ranges].base = base;
  d->ranges[d->n_ranges++].buffer = buffer;
  return QI_OK;
}

static qi_result qi__mtl_queue_open(void *device, void **queue, qi_error *err) {
  qi__mtl_device *d = (qi__mtl_device *)device;
  qi__mtl_queue *q = (qi__mtl_queue *)d->allocator.alloc(sizeof *q, 64, d->allocator.user);
  if (!q) return qi__mtl_fail(err, QI_ERR_OOM, "the allocator gave nothing", nil);
  memset((void *)q, 0, sizeof *q);
  q->device = d;
  q->queue = [d->device newCommandQueue];
  if (q->queue) {
    *queue = q;
    return QI_OK;
  }
  d->allocator.free(q, sizeof *q, d->allocator.user);
  return qi__mtl_fail(err, QI_ERR_DEVICE, "no command queue", nil);
}

static void qi__mtl_queue_close(void *queue) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  qi_allocator allocator = q->device->allocator;
  QI__RELEASE(q->queue);
  allocator.free(q, sizeof *q, allocator.user);
}

static void *qi__mtl_alloc(void *queue, size_t size) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  qi__mtl_range *r = q->blocks;
  while (r < q->blocks + QI__MTL_BLOCKS && r->buffer) r++;
  if (r == q->blocks + QI__MTL_BLOCKS) return NULL;
  r->buffer = [q->device->device newBufferWithLength:size options:MTLResourceStorageModeShared];
  if (!r->buffer) return NULL;
  r->begin = r->base = (uintptr_t)r->buffer.contents;
  r->end = r->begin + size;
  return r->buffer.contents;
}

static void qi__mtl_free(void *queue, void *data, size_t size) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  (void)size;
  for (size_t i = 0; i < QI__MTL_BLOCKS; i++) {
    if (q->blocks[i].begin != (uintptr_t)data) continue;
    QI__RELEASE(q->blocks[i].buffer);
    q->blocks[i].begin = q->blocks[i].end = 0;
  }
}

// ---- encoding ----

// A list of operations on its way into a command buffer.
typedef struct qi__mtl_encoder {
  qi__mtl_queue *queue;
  __unsafe_unretained id<MTLComputeCommandEncoder> encoder;
  qi_error *err;
  bool failed;
} qi__mtl_encoder;

// The buffer that p lies in; NULL = none.
static const qi__mtl_range *qi__mtl_find(const qi__mtl_queue *q, uintptr_t p) {
  for (size_t i = 0; i < QI__MTL_BLOCKS; i++)
    if (p >= q->blocks[i].begin && p < q->blocks[i].end) return &q->blocks[i];
  for (size_t i = 0; i < q->device->n_ranges; i++)
    if (p >= q->device->ranges[i].begin && p < q->device->ranges[i].end) return &q->device->ranges[i];
  return NULL;
}

// Binds memory from `data` on, or from the last multiple of `align` before it, and returns how many bytes those are. `other` stands
// in for a NULL that the kernel does not look at.
static uint32_t qi__mtl_bind(qi__mtl_encoder *e, const void *data, const void *other, uintptr_t align, NSUInteger index) {
  uintptr_t p = (uintptr_t)(data ? data : other);
  const qi__mtl_range *r = qi__mtl_find(e->queue, p);
  if (!r) {
    qi__mtl_fail(e->err, QI_ERR_DEVICE, "an operation on memory that was not mapped", nil);
    e->failed = true;
    return 0;
  }
  uintptr_t offset = p - r->base, rest = offset % align;
  [e->encoder setBuffer:r->buffer offset:offset - rest atIndex:index];
  return (uint32_t)rest;
}

static void qi__mtl_bind_vector(qi__mtl_encoder *e, const void *data, NSUInteger index) { qi__mtl_bind(e, data, NULL, 4, index); }

// Makes a pipeline the encoder's; threads: as many of `want` as a threadgroup of it may have, in whole simdgroups. 0: failed.
static NSUInteger qi__mtl_use(qi__mtl_encoder *e, int slot, NSUInteger want) {
  id<MTLComputePipelineState> pipeline = qi__mtl_pipeline(e->queue->device, slot, e->err);
  if (!pipeline) {
    e->failed = true;
    return 0;
  }
  [e->encoder setComputePipelineState:pipeline];
  NSUInteger most = pipeline.maxTotalThreadsPerThreadgroup / 32 * 32;
  return want < most ? want : most;
}

static void qi__mtl_dispatch(qi__mtl_encoder *e, size_t x, size_t y, NSUInteger threads) {
  if (e->failed) return;
  [e->encoder dispatchThreadgroups:MTLSizeMake(x, y, 1) threadsPerThreadgroup:MTLSizeMake(threads, 1, 1)];
}

static int qi__mtl_format_slot(qi_format format, int kernel) {
  for (size_t i = 0; i < QI__MTL_FORMATS; i++)
    if (qi__mtl_formats[i].format == format) return (int)i * QI__MTL_OF_FORMAT + kernel;
  return QI__MTL_NONE;
}

static int qi__mtl_kv_slot(const qi_op_kv *kv, int kernel) {
  if (kv->type != QI_KV_F16 && kv->type != QI_KV_Q8) return QI__MTL_NONE;
  return QI__MTL_FIRST_KV + (kv->type == QI_KV_Q8 ? QI__MTL_OF_KV : 0) + kernel;
}

static qi__mtl_matrix qi__mtl_matrix_of(const qi_op_matrix *w, size_t n) {
  qi__mtl_matrix m;
  memset(&m, 0, sizeof m);
  m.n_rows = (uint32_t)w->n_rows;
  m.n_cols = (uint32_t)w->n_cols;
  m.row_bytes = (uint32_t)w->row_bytes;
  m.param[0] = w->param[0];
  m.param[1] = w->param[1];
  m.n = (uint32_t)n;
  m.has_bias = w->bias != NULL;
  return m;
}

static qi__mtl_kv qi__mtl_kv_of(const qi_op_kv *kv, size_t n_heads, size_t n) {
  qi__mtl_kv a = {(uint32_t)(kv->layer * kv->n_kv_heads), (uint32_t)kv->n_pages, (uint32_t)kv->page_bytes, (uint32_t)kv->n_table,
                  (uint32_t)n_heads, (uint32_t)kv->n_kv_heads, (uint32_t)kv->dim_k, (uint32_t)kv->dim_v,
                  (uint32_t)kv->k_scale, (uint32_t)kv->v, (uint32_t)kv->v_scale, (uint32_t)n};
  return a;
}

static void qi__mtl_encode_embed(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_matrix *w = &op->of.embed.w;
  qi__mtl_matrix m = qi__mtl_matrix_of(w, op->n);
  NSUInteger threads = qi__mtl_use(e, slot, 64);
  if (!threads) return;
  m.skip = qi__mtl_bind(e, w->data, NULL, 16, 1);
  [e->encoder setBytes:&m length:sizeof m atIndex:0];
  qi__mtl_bind_vector(e, op->of.embed.rows, 2);
  qi__mtl_bind_vector(e, op->of.embed.y, 3);
  qi__mtl_dispatch(e, (w->n_cols + 16 * threads - 1) / (16 * threads), op->n, threads);
}

// Rows of x that a kernel of generated rows takes at a time.
static size_t qi__mtl_at_once(size_t n) { return n > 1 ? 4 : 1; }

// Generated rows: up to 4 at a time over each weight row. Prompts: tiles. Sizes as in kernels.metal.
static void qi__mtl_encode_product(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_matrix *w = &op->of.product.w;
  qi__mtl_matrix m = qi__mtl_matrix_of(w, op->n);
  bool tiles = !op->of.product.generated;
  size_t rows = tiles ? 32 : qi__mtl_at_once(op->n);
  NSUInteger threads = qi__mtl_use(e, slot, tiles ? 128 : 64);
  if (!threads) return;
  m.add = op->of.product.add;
  m.skip = qi__mtl_bind(e, w->data, NULL, 16, 1);
  [e->encoder setBytes:&m length:sizeof m atIndex:0];
  qi__mtl_bind_vector(e, op->of.product.x, 2);
  qi__mtl_bind(e, w->bias, op->of.product.x, 4, 3);
  qi__mtl_bind_vector(e, op->of.product.y, 4);
  if (tiles) [e->encoder setThreadgroupMemoryLength:(64 + 32) * 32 * sizeof(float) atIndex:0];
  size_t w_rows = tiles ? 64 : threads / 32 * 4;
  qi__mtl_dispatch(e, (w->n_rows + w_rows - 1) / w_rows, (op->n + rows - 1) / rows, threads);
}

static void qi__mtl_encode_gated(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_matrix *gate = &op->of.gated.gate, *up = &op->of.gated.up;
  qi__mtl_gated a = {qi__mtl_matrix_of(gate, op->n), qi__mtl_matrix_of(up, op->n), op->of.gated.relu2};
  NSUInteger threads = qi__mtl_use(e, slot, 64);
  if (!threads) return;
  a.gate.skip = qi__mtl_bind(e, gate->data, NULL, 16, 1);
  a.up.skip = qi__mtl_bind(e, up->data, NULL, 16, 5);
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.gated.x, 2);
  qi__mtl_bind(e, gate->bias, op->of.gated.x, 4, 3);
  qi__mtl_bind_vector(e, op->of.gated.y, 4);
  qi__mtl_bind(e, up->bias, op->of.gated.x, 4, 6);
  size_t rows = qi__mtl_at_once(op->n), w_rows = threads / 32 * 2;
  qi__mtl_dispatch(e, (gate->n_rows + w_rows - 1) / w_rows, (op->n + rows - 1) / rows, threads);
}

static void qi__mtl_encode_norm(qi__mtl_encoder *e, const qi_op *op, int slot) {
  qi__mtl_norm a = {(uint32_t)op->of.norm.width, op->of.norm.index != NULL, op->of.norm.eps};
  NSUInteger threads = qi__mtl_use(e, slot, 256);
  if (!threads) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.norm.x, 1);
  qi__mtl_bind(e, op->of.norm.index, op->of.norm.x, 4, 2);
  qi__mtl_bind_vector(e, op->of.norm.weight, 3);
  qi__mtl_bind_vector(e, op->of.norm.y, 4);
  qi__mtl_dispatch(e, op->n, 1, threads);
}

static void qi__mtl_encode_rope(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_kv *kv = &op->of.rope.kv;
  qi__mtl_rope a = {qi__mtl_kv_of(kv, op->of.rope.n_heads, op->n), (uint32_t)op->of.rope.n_pairs, op->of.rope.neighbours,
                    op->of.rope.q_norm != NULL, op->of.rope.k_norm != NULL, op->of.rope.eps};
  if (!qi__mtl_use(e, slot, 32)) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.rope.rows, 1);
  qi__mtl_bind_vector(e, op->of.rope.cos_sin, 2);
  qi__mtl_bind(e, op->of.rope.q_norm, op->of.rope.cos_sin, 4, 3);
  qi__mtl_bind(e, op->of.rope.k_norm, op->of.rope.cos_sin, 4, 4);
  qi__mtl_bind_vector(e, op->of.rope.q, 5);
  qi__mtl_bind_vector(e, op->of.rope.k, 6);
  qi__mtl_bind_vector(e, op->of.rope.v, 7);
  qi__mtl_bind_vector(e, kv->table, 8);
  qi__mtl_bind_vector(e, kv->data, 9);
  qi__mtl_dispatch(e, op->of.rope.n_heads + 2 * kv->n_kv_heads, op->n, 32);
}

// Heads that a threadgroup of attention of generated rows has: several spare reading keys and values again, but for few rows there
// would be too few threadgroups.
static size_t qi__mtl_heads(const qi_op *op) {
  size_t group = op->of.attention.n_heads / op->of.attention.kv.n_kv_heads;
  return op->n >= 8 && group % 4 == 0 ? 4 : 1;
}

// Heads are up to 32 << this wide.
static int qi__mtl_width(const qi_op_kv *kv) {
  size_t dim = kv->dim_k > kv->dim_v ? kv->dim_k : kv->dim_v;
  return dim <= 32 ? 0 : dim <= 64 ? 1 : dim <= 128 ? 2 : 3;
}

static void qi__mtl_encode_attention(qi__mtl_encoder *e, const qi_op *op, int slot) {
  const qi_op_kv *kv = &op->of.attention.kv;
  qi__mtl_kv a = qi__mtl_kv_of(kv, op->of.attention.n_heads, op->n);
  size_t n_heads = op->of.attention.n_heads, heads = qi__mtl_heads(op), wide = (size_t)32 << qi__mtl_width(kv);
  NSUInteger threads = qi__mtl_use(e, slot, 128); // always: sums depend on it
  if (!threads) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.attention.rows, 1);
  qi__mtl_bind_vector(e, op->of.attention.q, 2);
  qi__mtl_bind_vector(e, op->of.attention.y, 3);
  qi__mtl_bind_vector(e, kv->table, 4);
  qi__mtl_bind_vector(e, kv->data, 5);
  bool tiles = !op->of.attention.generated;
  NSUInteger floats = tiles ? 16 * (wide + 4) + threads / 32 * (8 * 16 + 64) : threads / 32 * heads * (wide + 2);
  [e->encoder setThreadgroupMemoryLength:(floats * sizeof(float) + 15) / 16 * 16 atIndex:0];
  if (tiles) qi__mtl_dispatch(e, kv->n_kv_heads, (op->n * (n_heads / kv->n_kv_heads) + 31) / 32, threads);
  else qi__mtl_dispatch(e, n_heads / heads, op->n, threads);
}

static void qi__mtl_encode_gate(qi__mtl_encoder *e, const qi_op *op, int slot) {
  qi__mtl_gate a = {(uint32_t)(op->n * op->of.gate.width), op->kind == QI_OP_RELU2};
  NSUInteger threads = qi__mtl_use(e, slot, 256);
  if (!threads) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.gate.x, 1);
  qi__mtl_bind_vector(e, op->of.gate.up, 2);
  qi__mtl_bind_vector(e, op->of.gate.y, 3);
  qi__mtl_dispatch(e, (a.n + threads - 1) / threads, 1, threads);
}

static void qi__mtl_encode_top(qi__mtl_encoder *e, const qi_op *op, int slot) {
  qi__mtl_top a = {(uint32_t)op->of.top.width, (uint32_t)op->of.top.k};
  NSUInteger threads = qi__mtl_use(e, slot, 1024);
  if (!threads) return;
  [e->encoder setBytes:&a length:sizeof a atIndex:0];
  qi__mtl_bind_vector(e, op->of.top.x, 1);
  qi__mtl_bind_vector(e, op->of.top.y, 2);
  qi__mtl_dispatch(e, op->n, 1, threads);
}

static void (*const qi__mtl_encode[QI_OP_COUNT])(qi__mtl_encoder *e, const qi_op *op, int slot) = {
    qi__mtl_encode_embed, qi__mtl_encode_norm, qi__mtl_encode_product, qi__mtl_encode_rope,
    qi__mtl_encode_attention, qi__mtl_encode_gate, qi__mtl_encode_gate, qi__mtl_encode_gated, qi__mtl_encode_top,
};

// The pipeline that an operation takes; QI__MTL_NONE where there is no kernel for it.
static int qi__mtl_slot(const qi_op *op) {
  const qi_op_kv *kv = &op->of.attention.kv;
  int attention;
  switch (op->kind) {
  case QI_OP_EMBED: return qi__mtl_format_slot(op->of.embed.w.format, QI__MTL_EMBED);
  case QI_OP_PRODUCT:
    return qi__mtl_format_slot(op->of.product.w.format,
                               op->of.product.generated ? QI__MTL_MATVEC + (op->n > 1) : QI__MTL_MATMUL);
  case QI_OP_GATED: return qi__mtl_format_slot(op->of.gated.gate.format, QI__MTL_GATED + (op->n > 1));
  case QI_OP_ROPE: return qi__mtl_kv_slot(&op->of.rope.kv, QI__MTL_ROPE);
  case QI_OP_ATTENTION:
    attention = !op->of.attention.generated ? 8 : qi__mtl_heads(op) == 4 ? 4 : 0;
    return qi__mtl_kv_slot(kv, QI__MTL_ATTENTION + attention + qi__mtl_width(kv));
  case QI_OP_RMS_NORM: return QI__MTL_NORM;
  case QI_OP_SWIGLU:
  case QI_OP_RELU2: return QI__MTL_GATE;
  case QI_OP_TOP: return QI__MTL_TOP;
  case QI_OP_COUNT: break;
  }
  return QI__MTL_NONE;
}

// Whether weights lie as the kernels of their format want them.
static bool qi__mtl_fits(const qi_op_matrix *w) {
  for (size_t i = 0; i < QI__MTL_FORMATS; i++)
    if (qi__mtl_formats[i].format == w->format)
      return w->n_cols % 4 == 0 && ((uintptr_t)w->data | w->row_bytes) % qi__mtl_formats[i].align == 0;
  return false;
}

static bool qi__mtl_supports(const void *device, const qi_op *op) {
  const qi_op_kv *kv = op->kind == QI_OP_ROPE ? &op->of.rope.kv : &op->of.attention.kv;
  int slot = qi__mtl_slot(op);
  if (slot == QI__MTL_NONE) return false;
  if (op->kind == QI_OP_EMBED && !qi__mtl_fits(&op->of.embed.w)) return false;
  if (op->kind == QI_OP_PRODUCT && !qi__mtl_fits(&op->of.product.w)) return false;
  if (op->kind == QI_OP_GATED && !(qi__mtl_fits(&op->of.gated.gate) && qi__mtl_fits(&op->of.gated.up))) return false;
  bool prompt = op->kind == QI_OP_PRODUCT && !op->of.product.generated;
  bool heads = op->kind == QI_OP_ROPE || op->kind == QI_OP_ATTENTION;
  if (heads && (kv->dim_k % 4 || kv->dim_v % 4 || kv->dim_k > 256 || kv->dim_v > 256)) return false;
  @autoreleasepool { // ARC autoreleases what a function returns
    id<MTLComputePipelineState> pipeline = qi__mtl_pipeline((qi__mtl_device *)(uintptr_t)device, slot, NULL);
    return pipeline && pipeline.maxTotalThreadsPerThreadgroup >= (prompt || op->kind == QI_OP_ATTENTION ? 128 : 32);
  }
}

// ---- submissions ----

// Whether an operation needs nothing of what the one before it writes: products of the same x; attention of prompts and of others.
static bool qi__mtl_beside(const qi_op *last, const qi_op *op) {
  if (last->kind == QI_OP_ATTENTION && op->kind == QI_OP_ATTENTION)
    return last->of.attention.generated != op->of.attention.generated;
  return last->kind == QI_OP_PRODUCT && op->kind == QI_OP_PRODUCT && op->of.product.y != last->of.product.y &&
         (op->of.product.x == last->of.product.x || last->of.product.generated != op->of.product.generated) &&
         op->of.product.x != last->of.product.y;
}

static qi_result qi__mtl_submit(void *queue, const qi_op *ops, size_t n, qi_error *err) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  qi__mtl_encoder e = {q, nil, err, false};
  @autoreleasepool {
    id<MTLCommandBuffer> commands = [q->queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
    if (!encoder) return qi__mtl_fail(err, QI_ERR_DEVICE, "no command buffer", nil);
    e.encoder = encoder;
    for (size_t i = 0; i < n && !e.failed; i++) {
      if (i && !qi__mtl_beside(&ops[i - 1], &ops[i])) [encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
      qi__mtl_encode[ops[i].kind](&e, &ops[i], qi__mtl_slot(&ops[i]));
    }
    [encoder endEncoding];
    if (e.failed) return QI_ERR_DEVICE;
    [commands commit];
    q->pending = QI__RETAIN(commands);
  }
  return QI_OK;
}

static qi_result qi__mtl_wait(void *queue, qi_error *err) {
  qi__mtl_queue *q = (qi__mtl_queue *)queue;
  qi_result r = QI_OK;
  if (!q->pending) return QI_OK; // submit failed
  @autoreleasepool {
    [q->pending waitUntilCompleted];
    if (q->pending.status != MTLCommandBufferStatusCompleted)
      r = qi__mtl_fail(err, QI_ERR_DEVICE, "the GPU did not finish", q->pending.error);
    QI__RELEASE(q->pending);
  }
  return r;
}

const qi_backend *qi_metal(void) {
  static const qi_backend backend = {
      "metal",     NULL,        qi__mtl_open,       qi__mtl_close,       qi__mtl_device_name, qi__mtl_supports, qi__mtl_map_limit,
      qi__mtl_map, qi__mtl_queue_open, qi__mtl_queue_close, qi__mtl_alloc, qi__mtl_free, qi__mtl_submit, qi__mtl_wait,
  };
  return &backend;
}
