// The part of Foundation that qinfer_metal.m uses, declared by hand from the public documentation. Serves the fake runtime here,
// and type-checking for -target arm64-apple-macos.
#ifndef STUB_FOUNDATION_H
#define STUB_FOUNDATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__APPLE__)
typedef bool BOOL;
#define YES __objc_yes
#define NO __objc_no
#define STUB_SINCE(version) __attribute__((availability(macos, introduced = version)))
#define STUB_DEPRECATED(from, to) __attribute__((availability(macos, introduced = from, deprecated = to)))
#else // gcc's runtime
typedef unsigned char BOOL;
#define YES ((BOOL)1)
#define NO ((BOOL)0)
#define STUB_SINCE(version)
#define STUB_DEPRECATED(from, to)
#endif
#define nil ((id)0)
#define Nil ((Class)0)

#define NS_ENUM(type, name) enum __attribute__((enum_extensibility(open))) name : type name; enum name : type
#define NS_OPTIONS(type, name) enum __attribute__((flag_enum, enum_extensibility(open))) name : type name; enum name : type
#define NS_RETURNS_RETAINED __attribute__((ns_returns_retained))

typedef long NSInteger;
typedef unsigned long NSUInteger;
typedef struct _NSZone NSZone;

#pragma clang assume_nonnull begin
@class NSString;

@protocol NSObject
- (BOOL)isEqual:(nullable id)object;
@property(readonly) NSUInteger hash;
@property(readonly, copy) NSString *description;
- (BOOL)respondsToSelector:(SEL)selector;
#if !__has_feature(objc_arc)
- (instancetype)retain;
- (oneway void)release;
- (instancetype)autorelease;
#endif
@end

@protocol NSCopying
- (id)copyWithZone:(nullable NSZone *)zone;
@end

__attribute__((objc_root_class))
@interface NSObject <NSObject> {
  Class isa;
}
+ (void)initialize;
+ (instancetype)alloc;
+ (instancetype)new;
- (instancetype)init;
+ (Class)class;
- (void)dealloc;
@end

@interface NSString : NSObject <NSCopying>
@property(readonly) NSUInteger length;
@property(nullable, readonly) const char *UTF8String;
+ (nullable instancetype)stringWithUTF8String:(const char *)text;
- (nullable instancetype)initWithUTF8String:(const char *)text;
@end
#if !defined(__APPLE__)
@interface NSConstantString : NSString { // what @"..." is
  const char *c_str;
  unsigned int c_len;
}
@end
#endif

@interface NSError : NSObject
@property(readonly) NSInteger code;
@property(readonly, copy) NSString *localizedDescription;
@end

#if !__has_feature(objc_arc)
@interface NSAutoreleasePool : NSObject { // what @autoreleasepool makes
@public
  id *items;
  size_t n, room;
  NSAutoreleasePool *parent;
}
- (void)drain;
@end
#endif
#pragma clang assume_nonnull end
#endif
