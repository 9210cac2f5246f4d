// The fake runtime: what tests set, and what they ask for. A host file that misuses Metal ends the program with a message.
#ifndef FAKE_H
#define FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fake_options {
  bool no_device;       // MTLCreateSystemDefaultDevice gives nil
  int family;           // highest Apple family; 7 = M1
  int order;            // of threads and threadgroups: 0 forwards, 1 backwards, else the seed of a shuffle
  bool no_sharing;      // newBufferWithBytesNoCopy gives nil
  bool fast_math;       // compile shaders with it, whatever the host file says
  int delay_us;         // a command buffer waits that long before it runs
  size_t max_threads;   // maxTotalThreadsPerThreadgroup
  size_t max_buffer;    // maxBufferLength
  uint64_t working_set; // recommendedMaxWorkingSetSize
  int fail_at, n_calls; // of the calls that can fail (device, queue, buffer, library, function, pipeline, command buffer, encoder,
                        // execution) that one does; 0 = none
  const char *failed;   // which kind that was
} fake_options;
extern fake_options fake;
void fake_reset(void); // defaults: an M1 that does all that is asked

bool fake_fails(const char *what);
// The host file did what Metal forbids.
__attribute__((format(printf, 1, 2), noreturn)) void fake_fail(const char *format, ...);
// Objects that are still there, by class, to standard output if `print`; returns their number.
long fake_leaks(bool print);

#ifdef __OBJC__
#import <Foundation/Foundation.h>
@interface FKError : NSError {
  NSInteger code;
  NSString *text;
}
+ (NSError *)errorWithCode:(NSInteger)c text:(const char *)t; // retained
@end
#endif
#endif
