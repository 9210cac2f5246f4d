// MSL on the CPU: translation to C++ (msl_translate.c), compiling and loading (msl_compile.c), execution (msl_exec.c).
#ifndef MSL_EXEC_H
#define MSL_EXEC_H

#include <stddef.h>
#include <stdint.h>

// What a thread of a grid can ask for; include/metal_stdlib has the same struct.
typedef struct msl_lane {
  uint32_t thread_in_grid[3], thread_in_group[3], group_in_grid[3];
  uint32_t threads_per_group[3], dispatched_per_group[3], groups_per_grid[3], threads_per_grid[3];
  uint32_t index_in_group, index_in_simd, simd_in_group, n_simds, simd_width;
} msl_lane;

enum { MSL_BUFFER = 1, MSL_THREADGROUP = 2 }; // kinds of msl_arg; the others are fields of msl_lane in their order

typedef struct msl_arg {
  int kind, index;
} msl_arg;

typedef struct msl_env {
  void **buffers, **shared;
  const msl_lane *lane;
} msl_env;

// A kernel of a library.
typedef struct msl_entry {
  const char *name;
  void (*run)(const msl_env *env);
  const msl_arg *args;
  int nargs, maxthreads; // 0 = not said
} msl_entry;

// ---- libraries ----

typedef struct msl_lib msl_lib;

// Translates, checks, compiles and loads; NULL with a message (malloc) on failure. defines: "-DNAME=..." or "".
msl_lib *msl_compile(const char *source, const char *defines, int fast_math, char **err);
void msl_lib_free(msl_lib *lib);
const msl_entry *msl_find(msl_lib *lib, const char *name);

// C++ of preprocessed MSL (malloc); check: for a look at address spaces with -DMSL_CHECK -fsyntax-only, else to be run.
char *msl_translate(const char *source, int check, char **err);

// ---- execution ----

enum { MSL_MAX_INDEX = 31 };

typedef struct msl_dispatch_args {
  const msl_entry *entry;
  void *buffers[MSL_MAX_INDEX];
  size_t shared[MSL_MAX_INDEX]; // bytes of threadgroup memory
  uint32_t grid[3], group[3];   // threads, and of them in a threadgroup
  int order;                    // 0 forwards, 1 backwards, else the seed of a shuffle
  int concurrent;               // nothing orders it behind the dispatch before it
} msl_dispatch_args;

// Runs a grid to its end. What a GPU leaves undefined (barriers not reached by all, lanes that are not there) ends the program.
void msl_dispatch(const msl_dispatch_args *args);
// The end of a command buffer: the host may look at what was written.
void msl_finish(void);

#endif
