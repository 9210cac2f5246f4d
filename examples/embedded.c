// A model inside the program: one file that writes tales, with nothing to read at run time.
//                                                      cc -O2 examples/embedded.c -o build/embedded -lm -lpthread
//   build/embedded                                     a tale
//   build/embedded "Tale: The Lost Bell"               that tale; for another one of the same name, a number: ... 7
//   build/embedded "Talk: Mira the baker, sleepy"      a conversation
//
// Compile where models/tales.gguf is, or with -DMODEL_FILE='"path/to/model.gguf"'. The assembler brings the file in. Where there is
// none that can (Visual C++): build/embed FILE >model_bytes.h, and compile with -DMODEL_ARRAY.
#define QINFER_IMPLEMENTATION
#ifndef QI_STATIC
#define QI_STATIC // the compiler drops what this program does not use
#endif
#include "../qinfer.h"

#include <stdio.h>
#include <stdlib.h>

#ifndef MODEL_FILE
#define MODEL_FILE "models/tales.gguf"
#endif

#ifdef MODEL_ARRAY
#include "model_bytes.h" // model_begin, model_end
#else
#ifdef __APPLE__
#define SECTION ".const_data\n"
#define END_SECTION ".text\n"
#define SYMBOL(name) "_" #name
#elif defined(_WIN32)
#define SECTION ".section .rdata,\"dr\"\n"
#define END_SECTION ".text\n"
#define SYMBOL(name) #name
#else
#define SECTION ".pushsection .rodata\n"
#define END_SECTION ".popsection\n"
#define SYMBOL(name) #name
#endif
__asm__(SECTION ".globl " SYMBOL(model_begin) "\n.globl " SYMBOL(model_end) "\n.balign 64\n" //
        SYMBOL(model_begin) ":\n.incbin \"" MODEL_FILE "\"\n" SYMBOL(model_end) ":\n.byte 0\n" END_SECTION);
extern const unsigned char model_begin[], model_end[];
#endif

int main(int argc, char **argv) {
  if (argc > 3) {
    fprintf(stderr, "usage: embedded [\"Tale: The Lost Bell\" [SEED]]\n");
    return 2;
  }
  const char *prompt = argc > 1 ? argv[1] : "Tale:";
  qi_model_desc md = {.data = model_begin, .data_size = (size_t)(model_end - model_begin)};
  qi_session_desc sd = {.path = QI_PATH_INTEGER}; // the same words on every CPU
  sd.sampler = (qi_sampler_desc){.temperature = 0.8f, .min_p = 0.05f, .seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1};
  qi_error err = {0};
  qi_model *m = NULL;
  qi_session *s = NULL;
  qi_piece p;
  qi_result r = qi_model_open(&m, &md, &err);
  if (!r) r = qi_session_open(&s, m, &sd, &err);
  if (!r) r = qi_prompt(s, prompt, &err);
  if (!r) fputs(prompt, stdout);
  while (!r && (r = qi_next(s, &p, &err)) == QI_OK) {
    fwrite(p.text, 1, p.len, stdout);
    fflush(stdout);
  }
  if (s) putchar('\n');
  if (r < 0) fprintf(stderr, "embedded: %s\n", err.msg);
  qi_session_close(s);
  qi_model_close(m);
  return r < 0 ? 1 : 0;
}
