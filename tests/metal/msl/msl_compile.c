// Drives the way from MSL text to a loaded library: preprocess, check, translate, compile, dlopen. Results are kept in a folder by
// the hash of all that goes in, since tests open many devices with the same shaders.
//
// Environment: MSL_CXX (clang++-19), MSL_CXXFLAGS (sanitizers), MSL_CACHE (folder that results are kept in; default: none are),
// MSL_KEEP=1 (leave the temporary folder there), MSL_NODLCLOSE=1 (for leak checkers, which need the library's symbols).
#define _GNU_SOURCE
#include "msl_exec.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MSL_DIR
#define MSL_DIR "tests/metal/msl"
#endif

struct msl_lib {
  void *handle;
  const msl_entry *entries; // up to one without a name
};

static const char *setting(const char *name, const char *fallback) {
  const char *s = getenv(name);
  return s ? s : fallback;
}

static char *read_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  fseek(f, 0, SEEK_END);
  size_t n = (size_t)ftell(f);
  rewind(f);
  char *text = (char *)malloc(n + 1);
  if (text) text[fread(text, 1, n, f)] = 0;
  fclose(f);
  return text;
}

static int write_file(const char *path, const char *text) {
  FILE *f = fopen(path, "wb");
  if (!f) return -1;
  size_t n = strlen(text), done = fwrite(text, 1, n, f);
  return fclose(f) || done != n ? -1 : 0;
}

// FNV-1a of several texts.
static unsigned long long hash_text(unsigned long long h, const char *text) {
  for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3ull;
  return h;
}

// Runs a command with its output in DIR/log; 0 = it went well.
__attribute__((format(printf, 2, 3))) static int run(const char *dir, const char *format, ...) {
  char command[8192];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(command, sizeof command, format, args);
  va_end(args);
  snprintf(command + n, sizeof command - (size_t)n, " >%s/log 2>&1", dir);
  return system(command);
}

// Flags that checking and compiling share.
#define FLAGS \
  "-std=c++14 -nostdinc -nostdinc++ -fno-exceptions -fno-rtti -fno-threadsafe-statics -Wall -Werror=return-type " \
  "-Wno-unused-function -Wno-unused-variable -Wno-unused-but-set-variable -I" MSL_DIR "/include"

// One translation of DIR/pre.ii: `check` looks at address spaces only, else it becomes DIR/k.so.
static int build(const char *dir, const char *text, int check, int fast, char **err) {
  char path[256];
  const char *cxx = setting("MSL_CXX", "clang++-19");
  char *out = msl_translate(text, check, err);
  if (!out) return -1;
  snprintf(path, sizeof path, "%s/%s.cpp", dir, check ? "check" : "run");
  int failed = write_file(path, out);
  free(out);
  if (failed) return -1;
  const char *contract = fast ? "fast -ffast-math" : "off";
  if (check) return run(dir, "%s " FLAGS " -ffp-contract=%s -DMSL_CHECK -fsyntax-only %s", cxx, contract, path);
  return run(dir,
             "%s " FLAGS " -ffp-contract=%s -O1 -g -mf16c -mfma -fPIC -shared --rtlib=compiler-rt "
             "-Xclang -ffloat16-excess-precision=none %s %s -o %s/k.so",
             cxx, contract, setting("MSL_CXXFLAGS", ""), path, dir);
}

// Makes DIR/k.so of a source.
static int make(const char *dir, const char *source, const char *defines, int fast, char **err) {
  char path[256];
  snprintf(path, sizeof path, "%s/in.metal", dir);
  int failed = write_file(path, source);
  if (!failed)
    failed = run(dir,
                 "%s -x c++ -std=c++14 -nostdinc -nostdinc++ -E -I" MSL_DIR "/empty -D__METAL_VERSION__=310 -D__METAL__=1 "
                 "-D__METAL_MACOS__=1 %s %s/in.metal -o %s/pre.ii",
                 setting("MSL_CXX", "clang++-19"), defines, dir, dir);
  snprintf(path, sizeof path, "%s/pre.ii", dir);
  char *text = failed ? NULL : read_file(path);
  for (int check = 1; check >= 0 && text && !failed; check--) failed = build(dir, text, check, fast, err);
  free(text);
  snprintf(path, sizeof path, "%s/log", dir);
  if (failed && !*err) *err = read_file(path);
  return failed;
}

static msl_lib *load(const char *path, char **err) {
  msl_lib *l = (msl_lib *)calloc(1, sizeof *l);
  l->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!l->handle) {
    *err = strdup(dlerror());
    free(l);
    return NULL;
  }
  l->entries = (const msl_entry *)dlsym(l->handle, "msl_entries");
  return l;
}

msl_lib *msl_compile(const char *source, const char *defines, int fast, char **err) {
  char dir[] = "/tmp/mslXXXXXX", made[64], kept[512] = "";
  const char *cache = getenv("MSL_CACHE");
  unsigned long long h = hash_text(fast ? 1 : 2, source);
  h = hash_text(hash_text(h, defines), setting("MSL_CXXFLAGS", ""));
  *err = NULL;
  if (cache) snprintf(kept, sizeof kept, "%s/%016llx.so", cache, h);
  if (cache && access(kept, R_OK) == 0) return load(kept, err);
  if (!mkdtemp(dir)) return NULL;
  snprintf(made, sizeof made, "%s/k.so", dir);
  msl_lib *l = NULL;
  if (!make(dir, source, defines, fast, err)) {
    if (cache && run(dir, "cp %s %s.%d && mv %s.%d %s", made, kept, (int)getpid(), kept, (int)getpid(), kept)) cache = NULL;
    l = load(cache ? kept : made, err);
  }
  if (getenv("MSL_KEEP")) fprintf(stderr, "msl: kept %s\n", dir);
  else if (system((snprintf(kept, sizeof kept, "rm -rf %s", dir), kept))) fprintf(stderr, "msl: %s stays\n", dir);
  return l;
}

void msl_lib_free(msl_lib *l) {
  if (!l) return;
  if (!getenv("MSL_NODLCLOSE")) dlclose(l->handle);
  free(l);
}

const msl_entry *msl_find(msl_lib *l, const char *name) {
  for (const msl_entry *e = l->entries; e->name; e++)
    if (!strcmp(e->name, name)) return e;
  return NULL;
}
