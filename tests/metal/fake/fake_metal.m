// A strict MTLDevice: compiles the shaders that it is given with clang++ (msl_compile.c) and runs them on the CPU (msl_exec.c), in
// a thread of its own for each queue. What is wrong ends the program: sizes out of range, things that were not bound, encoders left
// open, buffers read before they were written (they begin as NaN).
#import <Metal/Metal.h>

#include "fake.h"
#include "msl_exec.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 16384, MAX_INDEX = 31 }; // as on Apple silicon, whatever this machine has
int __wrap_getpagesize(void) { return PAGE; }

fake_options fake;
__attribute__((constructor)) void fake_reset(void) {
  const char *threads = getenv("FAKE_MAX_THREADS"); // the thread sanitizer tells 256 apart
  const fake_options o = {false, 7, 0, false, false, 0, threads && *threads ? (size_t)atoi(threads) : 1024, (size_t)1 << 34,
                          (uint64_t)12 << 30, 0, 0, ""};
  fake = o;
}
bool fake_fails(const char *what) {
  if (__atomic_add_fetch(&fake.n_calls, 1, __ATOMIC_RELAXED) != fake.fail_at) return false;
  fake.failed = what;
  return true;
}

static void set_error(NSError **error, NSInteger code, const char *text) {
  if (error) *error = [[FKError errorWithCode:code text:text] autorelease];
}

// ---- buffers ----

@interface FKBuffer : NSObject <MTLBuffer> {
@public
  char *data;
  NSUInteger size;
  MTLResourceOptions options;
  bool borrowed;
}
@end
@implementation FKBuffer
- (NSUInteger)length {
  return size;
}
- (void *)contents {
  if (options & MTLResourceStorageModePrivate) fake_fail("contents of a private buffer");
  return data;
}
- (void)dealloc {
  if (!borrowed) free(data);
  [super dealloc];
}
@end

// ---- shaders ----

@interface FKLibrary : NSObject <MTLLibrary> {
@public
  msl_lib *lib;
}
@end
@interface FKFunction : NSObject <MTLFunction> {
@public
  FKLibrary *library;
  const msl_entry *entry;
}
@end
@interface FKPipeline : NSObject <MTLComputePipelineState> {
@public
  FKFunction *function;
  NSUInteger max_threads;
}
@end

@implementation MTLCompileOptions
- (id)init {
  fast = YES;
  language = MTLLanguageVersion3_1;
  return self;
}
- (BOOL)fastMathEnabled {
  return fast;
}
- (void)setFastMathEnabled:(BOOL)b {
  fast = b;
}
- (MTLLanguageVersion)languageVersion {
  return language;
}
- (void)setLanguageVersion:(MTLLanguageVersion)v {
  language = v;
}
- (id)copyWithZone:(NSZone *)zone {
  (void)zone;
  return [self retain];
}
@end

@implementation FKLibrary
- (id<MTLFunction>)newFunctionWithName:(NSString *)name {
  const msl_entry *entry = fake_fails("function") ? NULL : msl_find(lib, name.UTF8String);
  if (!entry) return nil;
  FKFunction *f = [FKFunction new];
  f->library = [self retain];
  f->entry = entry;
  return f;
}
- (void)dealloc {
  msl_lib_free(lib);
  [super dealloc];
}
@end

@implementation FKFunction
- (NSString *)name {
  return [NSString stringWithUTF8String:entry->name];
}
- (void)dealloc {
  [library release];
  [super dealloc];
}
@end

@implementation FKPipeline
- (NSUInteger)maxTotalThreadsPerThreadgroup {
  return max_threads;
}
- (NSUInteger)threadExecutionWidth {
  return 32;
}
- (void)dealloc {
  [function release];
  [super dealloc];
}
@end

// ---- command buffers ----

// What is bound at an index: bytes of its own, or a place in a buffer.
typedef struct binding {
  FKBuffer *buffer;
  NSUInteger offset;
  void *bytes;
  NSUInteger n_bytes;
} binding;

typedef struct command {
  FKPipeline *pipeline;
  binding bound[MAX_INDEX];
  size_t shared[MAX_INDEX]; // bytes of threadgroup memory
  uint32_t grid[3], group[3];
  bool concurrent;
} command;

@class FKCommandBuffer;
// The thread of a queue and what it has to do; lives as long as the queue, its thread and its command buffers.
typedef struct fk_work {
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  FKCommandBuffer *first, *last;
  bool quit;
  int refs;
} fk_work;

static void work_release(fk_work *w) {
  if (__atomic_sub_fetch(&w->refs, 1, __ATOMIC_ACQ_REL)) return;
  pthread_mutex_destroy(&w->mutex);
  pthread_cond_destroy(&w->changed);
  free(w);
}

@interface FKEncoder : NSObject <MTLComputeCommandEncoder> {
@public
  FKCommandBuffer *owner;
  command now;
  bool ended, concurrent, dispatched; // dispatched: since the last barrier
}
@end

@interface FKCommandBuffer : NSObject <MTLCommandBuffer> {
@public
  fk_work *work;
  FKCommandBuffer *next;
  command *commands;
  size_t n, room;
  MTLCommandBufferStatus state;
  NSError *why;
  FKEncoder *open;
}
@end

@implementation FKEncoder
- (void)check:(NSUInteger)index {
  if (ended) fake_fail("an encoder is used after endEncoding");
  if (index >= MAX_INDEX) fake_fail("index %lu", index);
}
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state {
  [self check:0];
  if (!state) fake_fail("setComputePipelineState:nil");
  now.pipeline = (FKPipeline *)state;
}
- (void)unbind:(NSUInteger)index {
  [self check:index];
  free(now.bound[index].bytes);
  memset(&now.bound[index], 0, sizeof now.bound[index]);
}
- (void)setBytes:(const void *)bytes length:(NSUInteger)length atIndex:(NSUInteger)index {
  [self unbind:index];
  if (!length || length > 4096) fake_fail("setBytes: of %lu bytes, at most 4096", length);
  now.bound[index].bytes = memcpy(malloc(length), bytes, length);
  now.bound[index].n_bytes = length;
}
- (void)setBuffer:(id<MTLBuffer>)buffer offset:(NSUInteger)offset atIndex:(NSUInteger)index {
  [self unbind:index];
  FKBuffer *b = (FKBuffer *)buffer;
  if (b && offset >= b->size) fake_fail("offset %lu in a buffer of %lu", offset, b->size);
  if (offset % 4) fake_fail("offset %lu is no multiple of 4", offset);
  now.bound[index].buffer = b;
  now.bound[index].offset = offset;
}
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)index {
  [self check:index];
  if (length % 16) fake_fail("threadgroup memory of %lu bytes, no multiple of 16", length);
  now.shared[index] = length;
}
// Whether all that the kernel takes is there.
- (void)checkBindings:(const msl_entry *)entry {
  size_t shared = 0;
  for (int i = 0; i < entry->nargs; i++) {
    int index = entry->args[i].index;
    if (entry->args[i].kind == MSL_BUFFER && !now.bound[index].buffer && !now.bound[index].bytes)
      fake_fail("%s: no buffer at index %d", entry->name, index);
    if (entry->args[i].kind != MSL_THREADGROUP) continue;
    if (!now.shared[index]) fake_fail("%s: threadgroup memory %d has no length", entry->name, index);
    shared += now.shared[index];
  }
  if (shared > 32768) fake_fail("%s: %zu bytes of threadgroup memory, at most 32768", entry->name, shared);
}
- (void)dispatch:(MTLSize)grid group:(MTLSize)group {
  [self check:0];
  if (!now.pipeline) fake_fail("dispatch without a pipeline");
  const msl_entry *entry = now.pipeline->function->entry;
  NSUInteger threads = group.width * group.height * group.depth;
  if (!grid.width || !grid.height || !grid.depth || !threads) fake_fail("%s: an empty grid", entry->name);
  if (threads > now.pipeline->max_threads) 
    fake_fail("%s: %lu threads, the pipeline takes %lu", entry->name, threads, now.pipeline->max_threads);
  [self checkBindings:entry];
  FKCommandBuffer *b = owner;
  if (b->n == b->room) b->commands = realloc(b->commands, sizeof *b->commands * (b->room = b->room ? 2 * b->room : 16));
  command *c = &b->commands[b->n++];
  *c = now;
  [c->pipeline retain];
  for (int i = 0; i < MAX_INDEX; i++) {
    [c->bound[i].buffer retain];
    if (c->bound[i].bytes) c->bound[i].bytes = memcpy(malloc(c->bound[i].n_bytes), c->bound[i].bytes, c->bound[i].n_bytes);
  }
  const NSUInteger g[3] = {grid.width, grid.height, grid.depth}, t[3] = {group.width, group.height, group.depth};
  for (int i = 0; i < 3; i++) {
    c->grid[i] = (uint32_t)g[i];
    c->group[i] = (uint32_t)t[i];
  }
  c->concurrent = concurrent && dispatched;
  dispatched = true;
}
- (void)dispatchThreadgroups:(MTLSize)n threadsPerThreadgroup:(MTLSize)t {
  [self dispatch:MTLSizeMake(n.width * t.width, n.height * t.height, n.depth * t.depth) group:t];
}
- (void)dispatchThreads:(MTLSize)n threadsPerThreadgroup:(MTLSize)t {
  [self dispatch:n group:t];
}
- (void)memoryBarrierWithScope:(MTLBarrierScope)scope {
  [self check:0];
  if (scope & MTLBarrierScopeBuffers) dispatched = false;
}
- (void)endEncoding {
  [self check:0];
  ended = true;
  owner->open = nil;
}
- (void)dealloc {
  if (!ended) fake_fail("an encoder is released before endEncoding");
  for (int i = 0; i < MAX_INDEX; i++) free(now.bound[i].bytes);
  [super dealloc];
}
@end

@implementation FKCommandBuffer
- (MTLCommandBufferStatus)status {
  pthread_mutex_lock(&work->mutex);
  MTLCommandBufferStatus s = state;
  pthread_mutex_unlock(&work->mutex);
  return s;
}
- (NSError *)error {
  return why;
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
  return [self computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)type {
  if (open) fake_fail("a second encoder while one is open");
  if (state != MTLCommandBufferStatusNotEnqueued) fake_fail("an encoder of a command buffer that was committed");
  if (fake_fails("encoder")) return nil;
  open = [FKEncoder new];
  open->owner = self;
  open->concurrent = type == MTLDispatchTypeConcurrent;
  return [open autorelease];
}
- (void)commit {
  if (open) fake_fail("commit with an open encoder");
  if (state != MTLCommandBufferStatusNotEnqueued) fake_fail("commit called twice");
  [self retain];
  pthread_mutex_lock(&work->mutex);
  state = MTLCommandBufferStatusCommitted;
  if (work->last) work->last->next = self;
  else work->first = self;
  work->last = self;
  pthread_cond_broadcast(&work->changed);
  pthread_mutex_unlock(&work->mutex);
}
- (void)waitUntilCompleted {
  if (self.status == MTLCommandBufferStatusNotEnqueued) fake_fail("waitUntilCompleted before commit waits for ever");
  pthread_mutex_lock(&work->mutex);
  while (state < MTLCommandBufferStatusCompleted) pthread_cond_wait(&work->changed, &work->mutex);
  pthread_mutex_unlock(&work->mutex);
}
- (void)run {
  static pthread_mutex_t gpu = PTHREAD_MUTEX_INITIALIZER; // there is one
  if (fake.delay_us) usleep((useconds_t)fake.delay_us);
  pthread_mutex_lock(&gpu);
  for (size_t i = 0; i < n; i++) {
    const command *c = &commands[i];
    msl_dispatch_args d = {.entry = c->pipeline->function->entry, .order = fake.order, .concurrent = c->concurrent};
    for (int k = 0; k < MAX_INDEX; k++) {
      const binding *b = &c->bound[k];
      d.buffers[k] = b->bytes ? b->bytes : b->buffer ? b->buffer->data + b->offset : NULL;
      d.shared[k] = c->shared[k];
    }
    memcpy(d.grid, c->grid, sizeof d.grid);
    memcpy(d.group, c->group, sizeof d.group);
    msl_dispatch(&d);
  }
  msl_finish();
  pthread_mutex_unlock(&gpu);
}
- (void)dealloc {
  if (open) fake_fail("a command buffer is released with an open encoder");
  for (size_t i = 0; i < n; i++) {
    for (int k = 0; k < MAX_INDEX; k++) {
      free(commands[i].bound[k].bytes);
      [commands[i].bound[k].buffer release];
    }
    [commands[i].pipeline release];
  }
  free(commands);
  [why release];
  work_release(work);
  [super dealloc];
}
@end

// ---- queues ----

static void *work_run(void *arg) {
  fk_work *w = arg;
  pthread_mutex_lock(&w->mutex);
  for (;;) {
    FKCommandBuffer *b = w->first;
    if (!b && w->quit) break;
    if (!b) {
      pthread_cond_wait(&w->changed, &w->mutex);
      continue;
    }
    w->first = b->next;
    if (!w->first) w->last = nil;
    pthread_mutex_unlock(&w->mutex);
    bool failed = fake_fails("execution");
    if (failed) b->why = [FKError errorWithCode:2 text:"Caused GPU Timeout Error (injected)"];
    else [b run];
    pthread_mutex_lock(&w->mutex);
    b->state = failed ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
    [b release];
    pthread_mutex_lock(&w->mutex);
  }
  pthread_mutex_unlock(&w->mutex);
  work_release(w);
  return NULL;
}

@interface FKQueue : NSObject <MTLCommandQueue> {
@public
  fk_work *work;
}
@end
@implementation FKQueue
- (id<MTLCommandBuffer>)commandBuffer {
  if (fake_fails("command buffer")) return nil;
  FKCommandBuffer *b = [FKCommandBuffer new];
  b->work = work;
  __atomic_add_fetch(&work->refs, 1, __ATOMIC_RELAXED);
  return [b autorelease];
}
- (void)dealloc {
  pthread_mutex_lock(&work->mutex);
  work->quit = true;
  pthread_cond_broadcast(&work->changed);
  pthread_mutex_unlock(&work->mutex);
  pthread_join(work->thread, NULL);
  work_release(work);
  [super dealloc];
}
@end

// ---- the device ----

@interface FKDevice : NSObject <MTLDevice>
@end
@implementation FKDevice
- (NSString *)name {
  return @"Fake Apple GPU";
}
- (NSUInteger)maxThreadgroupMemoryLength {
  return 32768;
}
- (NSUInteger)maxBufferLength {
  return fake.max_buffer;
}
- (uint64_t)recommendedMaxWorkingSetSize {
  return fake.working_set;
}
- (BOOL)hasUnifiedMemory {
  return YES;
}
- (BOOL)supportsFamily:(MTLGPUFamily)family {
  if (family == MTLGPUFamilyMetal3) return fake.family >= 7;
  return family > 1000 && family <= 1000 + fake.family;
}
- (id<MTLCommandQueue>)newCommandQueue {
  if (fake_fails("queue")) return nil;
  FKQueue *q = [FKQueue new];
  q->work = calloc(1, sizeof *q->work);
  q->work->refs = 2;
  pthread_mutex_init(&q->work->mutex, NULL);
  pthread_cond_init(&q->work->changed, NULL);
  pthread_create(&q->work->thread, NULL, work_run, q->work);
  return q;
}
- (FKBuffer *)bufferOf:(void *)data length:(NSUInteger)length options:(MTLResourceOptions)options {
  if (!length) fake_fail("a buffer of no bytes");
  if (length > fake.max_buffer || fake_fails(data ? "sharing" : "buffer")) return nil;
  FKBuffer *b = [FKBuffer new];
  b->size = length;
  b->options = options;
  b->borrowed = data != NULL;
  b->data = data;
  return b;
}
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
  FKBuffer *b = [self bufferOf:NULL length:length options:options];
  if (!b) return nil;
  if (posix_memalign((void **)&b->data, PAGE, length)) fake_fail("no memory");
  memset(b->data, 0xff, length); // NaN: who reads before writing is found out
  return b;
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void *)pointer
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void *, NSUInteger))deallocator {
  if ((uintptr_t)pointer % PAGE || length % PAGE) 
    fake_fail("newBufferWithBytesNoCopy: %p, %lu are no whole pages", pointer, length);
  if (fake.no_sharing) return nil;
  if (deallocator) fake_fail("newBufferWithBytesNoCopy: with a deallocator is not there");
  return [self bufferOf:pointer length:length options:options];
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString *)source options:(MTLCompileOptions *)options error:(NSError **)error {
  char *log = NULL;
  bool fast = fake.fast_math || !options || options->fast;
  msl_lib *lib = fake_fails("library") ? NULL : msl_compile(source.UTF8String, "", fast, &log);
  if (!lib) set_error(error, 3, log ? log : "injected");
  free(log);
  if (!lib) return nil;
  FKLibrary *l = [FKLibrary new];
  l->lib = lib;
  return l;
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)function error:(NSError **)error {
  if (!function) fake_fail("a pipeline of no function");
  if (fake_fails("pipeline")) {
    set_error(error, 2, "injected");
    return nil;
  }
  FKPipeline *p = [FKPipeline new];
  p->function = [(FKFunction *)function retain];
  p->max_threads = fake.max_threads;
  int most = p->function->entry->maxthreads;
  if (most > 0 && (NSUInteger)most < p->max_threads) p->max_threads = (NSUInteger)most;
  return p;
}
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void) { return fake.no_device || fake_fails("device") ? nil : [FKDevice new]; }
