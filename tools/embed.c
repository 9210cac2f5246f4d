// Writes a file as a C array, for compilers whose assembler cannot bring it in: see examples/embedded.c.
//
//   build/embed models/tales.gguf >build/model_bytes.h      model_begin[], model_end
//
// Exit code: 0, 1 failure, 2 wrong options.
#include <stdio.h>

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: embed FILE >HEADER\n");
    return 2;
  }
  FILE *f = fopen(argv[1], "rb");
  if (!f) {
    perror(argv[1]);
    return 1;
  }
  long n = 0;
  printf("static const unsigned char model_begin[] = {");
  for (int c; (c = getc(f)) != EOF; n++) printf("%s%d,", n % 32 ? "" : "\n", c);
  printf("\n0};\nstatic const unsigned char *const model_end = model_begin + %ld;\n", n);
  int failed = ferror(f) || fflush(stdout) || ferror(stdout);
  fclose(f);
  if (failed) fprintf(stderr, "embed: %s cannot be read, or the output not written\n", argv[1]);
  return failed;
}
