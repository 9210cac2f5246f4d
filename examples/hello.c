// The shortest use: a model file in, text out.      cc -O2 examples/hello.c -o build/hello -lm -lpthread
//
//   build/hello model.gguf "Once upon a time"
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdio.h>

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: hello model.gguf \"Once upon a time\"\n");
    return 2;
  }
  qi_model_desc md = {.path = argv[1]};
  qi_session_desc sd = {.n_predict = 200}; // all else zero: greedy, as many threads as cores, no stop strings
  qi_error err = {0};
  qi_model *m = NULL;
  qi_session *s = NULL;
  qi_piece p;
  if (qi_model_open(&m, &md, &err) || qi_session_open(&s, m, &sd, &err) || qi_prompt(s, argv[2], &err)) goto done;
  fputs(argv[2], stdout);
  while (qi_next(s, &p, &err) == QI_OK) {
    fwrite(p.text, 1, p.len, stdout);
    fflush(stdout);
  }
  putchar('\n');
done:
  if (err.code) fprintf(stderr, "hello: %s\n", err.msg);
  qi_session_close(s);
  qi_model_close(m);
  return err.code ? 1 : 0;
}
