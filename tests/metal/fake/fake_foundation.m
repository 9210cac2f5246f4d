// A small strict Foundation on gcc's runtime: every object is counted; a message to a dead one, a release too many, or autorelease
// without a pool ends the program. Compiled without ARC; host files may use it (see the end).
#import <Foundation/Foundation.h>

#include "fake.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern size_t class_getInstanceSize(Class c);
extern const char *class_getName(Class c);
extern BOOL class_respondsToSelector(Class c, SEL selector);

static Class class_of(id object) { return *(Class *)(void *)object; }

void fake_fail(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("fake Metal: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  abort();
}

// ---- counting ----

enum { ALIVE = 0x0b1ec7ed, DEAD = 0xdeadbeef, MAX_CLASSES = 32 };

// Stands before each object.
typedef struct header {
  int refs;
  unsigned state;
  Class class;
} header;

static header *header_of(id object) { return (header *)(void *)object - 1; }

static struct {
  const char *name;
  long n;
} counts[MAX_CLASSES];
static pthread_mutex_t counts_mutex = PTHREAD_MUTEX_INITIALIZER;

static void count(Class class, int change) {
  const char *name = class_getName(class);
  pthread_mutex_lock(&counts_mutex);
  int i = 0;
  while (counts[i].name && strcmp(counts[i].name, name)) i++;
  counts[i].name = name;
  counts[i].n += change;
  pthread_mutex_unlock(&counts_mutex);
}

long fake_leaks(bool print) {
  long n = 0;
  for (int i = 0; i < MAX_CLASSES && counts[i].name; i++) {
    if (print && counts[i].n) printf("leak: %ld of %s\n", counts[i].n, counts[i].name);
    n += counts[i].n;
  }
  return n;
}

// ---- objects ----

static __thread NSAutoreleasePool *top;

@implementation NSObject
+ (void)initialize {
}
+ (id)alloc {
  header *h = calloc(1, sizeof *h + class_getInstanceSize(self));
  h->refs = 1;
  h->state = ALIVE;
  h->class = self;
  count(self, 1);
  *(Class *)(h + 1) = self;
  return (id)(h + 1);
}
+ (id)new {
  return [[self alloc] init];
}
+ (Class)class {
  return self;
}
- (id)init {
  return self;
}
- (void)dealloc {
  header *h = header_of(self);
  count(h->class, -1);
  h->state = DEAD;
  isa = Nil;
  free(h);
}
- (id)retain {
  header *h = header_of(self);
  if (h->state != ALIVE) fake_fail("retain of a dead object");
  __atomic_add_fetch(&h->refs, 1, __ATOMIC_RELAXED);
  return self;
}
- (oneway void)release {
  header *h = header_of(self);
  if (h->state != ALIVE) fake_fail("release of a dead object");
  if (__atomic_sub_fetch(&h->refs, 1, __ATOMIC_ACQ_REL) == 0) [self dealloc];
}
- (id)autorelease {
  if (!top) fake_fail("autorelease of a %s without a pool", class_getName(class_of(self)));
  if (top->n == top->room) top->items = realloc(top->items, sizeof(id) * (top->room = top->room ? 2 * top->room : 16));
  top->items[top->n++] = self;
  return self;
}
- (BOOL)isEqual:(id)object {
  return self == object;
}
- (NSUInteger)hash {
  return (NSUInteger)self >> 4;
}
- (NSString *)description {
  return [NSString stringWithUTF8String:class_getName(class_of(self))];
}
- (BOOL)respondsToSelector:(SEL)selector {
  return class_respondsToSelector(class_of(self), selector);
}
@end

@implementation NSAutoreleasePool
- (id)init {
  parent = top;
  top = self;
  return self;
}
- (void)drain {
  [self release];
}
- (void)dealloc {
  if (top != self) fake_fail("autorelease pools released out of order");
  for (size_t i = 0; i < n; i++) [items[i] release];
  free(items);
  top = parent;
  [super dealloc];
}
@end

// ---- strings and errors ----

@interface FKString : NSString {
  char *text;
}
@end

@implementation NSString
+ (id)alloc {
  return self == [NSString class] ? [FKString alloc] : [super alloc];
}
+ (id)stringWithUTF8String:(const char *)text {
  return [[[self alloc] initWithUTF8String:text] autorelease];
}
- (id)initWithUTF8String:(const char *)text {
  (void)text;
  return self;
}
- (const char *)UTF8String {
  return "";
}
- (NSUInteger)length {
  return strlen(self.UTF8String);
}
- (NSString *)description {
  return self;
}
- (id)copyWithZone:(NSZone *)zone {
  (void)zone;
  return [self retain];
}
@end

@implementation FKString
- (id)initWithUTF8String:(const char *)from {
  text = strdup(from);
  return self;
}
- (const char *)UTF8String {
  return text;
}
- (void)dealloc {
  free(text);
  [super dealloc];
}
@end

@implementation NSConstantString
- (const char *)UTF8String {
  return c_str;
}
- (id)retain {
  return self;
}
- (oneway void)release {
}
- (id)autorelease {
  return self;
}
@end

@implementation NSError
- (NSInteger)code {
  return 0;
}
- (NSString *)localizedDescription {
  return @"";
}
@end

@implementation FKError
+ (NSError *)errorWithCode:(NSInteger)c text:(const char *)t {
  FKError *e = [FKError new];
  e->code = c;
  e->text = [[NSString alloc] initWithUTF8String:t];
  return e;
}
- (NSInteger)code {
  return code;
}
- (NSString *)localizedDescription {
  return text;
}
- (void)dealloc {
  [text release];
  [super dealloc];
}
@end

// ---- what a host file with ARC calls (clang -fobjc-runtime=objfw -fobjc-arc) ----

id objc_retain(id o) { return [o retain]; }
void objc_release(id o) { [o release]; }
id objc_autorelease(id o) { return [o autorelease]; }
id objc_retainAutorelease(id o) { return [[o retain] autorelease]; }
id objc_autoreleaseReturnValue(id o) { return [o autorelease]; }
id objc_retainAutoreleaseReturnValue(id o) { return [[o retain] autorelease]; }
id objc_retainAutoreleasedReturnValue(id o) { return [o retain]; }
id objc_unsafeClaimAutoreleasedReturnValue(id o) { return o; }
void objc_storeStrong(id *place, id o) {
  id old = *place;
  [o retain];
  *place = o;
  [old release];
}
void *objc_autoreleasePoolPush(void) { return [NSAutoreleasePool new]; }
void objc_autoreleasePoolPop(void *pool) {
  while (top && (void *)top != pool) [top drain];
  [(NSAutoreleasePool *)pool drain];
}

// Such a module says version 9; gcc's runtime knows 8, which is the same for files without classes. Linked with
// --wrap=__objc_exec_class.
struct module {
  unsigned long version, size;
};
extern void __real___objc_exec_class(struct module *m);
void __wrap___objc_exec_class(struct module *m) {
  if (m->version > 8) {
    m->version = 8;
    m->size = 32;
  }
  __real___objc_exec_class(m);
}
