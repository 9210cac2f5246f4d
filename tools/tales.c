// Writes the corpus that models/ was trained on.      cc -O2 tools/tales.c -o build/tales
//
//   build/tales SEED MEGABYTES [CAST [drill]] >train.txt        seed 1: training; seed 2: held out
//
// Documents of tools/tales.h, each ending with an empty line, until the size is reached. CAST: how many names of women and of men
// there are, 4 to 80 (default: all). drill: exercises in place of tales. Exit code: 0, 1 failure, 2 wrong options.
#include "tales.h"

#include <stdio.h>

int main(int argc, char **argv) {
  char *end = NULL;
  double megabytes = argc >= 3 ? strtod(argv[2], &end) : 0;
  long cast = argc >= 4 ? strtol(argv[3], NULL, 10) : 80;
  bool drill = argc == 5 && !strcmp(argv[4], "drill");
  if (argc < 3 || argc > 4 + drill || *end || megabytes <= 0 || cast < 4 || cast > 80) {
    fprintf(stderr, "usage: tales SEED MEGABYTES [CAST [drill]] >FILE\n");
    return 2;
  }
  static tales t;
  if (!tales_open(&t)) {
    fprintf(stderr, "tales: no memory\n");
    return 1;
  }
  t.cast = argc >= 4 ? (size_t)cast : 0;
  t.drill = drill;
  uint64_t seed = strtoull(argv[1], NULL, 10), written = 0;
  for (uint64_t i = 0; (double)written < megabytes * 1e6 && !ferror(stdout); i++) {
    const char *text = tales_document(&t, seed, i);
    size_t n = strlen(text);
    fwrite(text, 1, n, stdout);
    written += n;
  }
  tales_close(&t);
  if (fflush(stdout) || ferror(stdout)) {
    fprintf(stderr, "tales: the output cannot be written\n");
    return 1;
  }
  return 0;
}
