// Whole forward passes against logits that another program computed in float64 (../shared/golden/logits), and against the text of a
// real model (../shared/models). Skipped where that folder is absent; test_arch.c has models of its own.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/run_model.h"

#define N_TOKENS 48
#define N_VOCAB 512
#define GOLDEN "../shared/golden/logits/"
#define STORIES "../shared/models/"

static const char *const kinds[] = {"f32",  "f16",  "bf16", "q4_0", "q4_1", "q5_0",   "q5_1",   "q8_0",  "q2_k",
                                    "q3_k", "q4_k", "q5_k", "q6_k", "iq3",  "iq4_nl", "iq4_xs", "tq1_0", "tq2_0"};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

typedef struct golden {
  qi_model *m;
  const char *kind;
  qi_token tokens[N_TOKENS];
  double want[N_TOKENS * N_VOCAB];
  int argmax[N_TOKENS];
} golden;

static FILE *open_data(const char *folder, const char *name) {
  char path[128];
  snprintf(path, sizeof path, "%s%s", folder, name);
  return fopen(path, "rb");
}

static void need_data(const char *folder, const char *name) {
  FILE *f = open_data(folder, name);
  if (!f) {
    print_message("note: %s%s is not there\n", folder, name);
    skip();
  }
  fclose(f);
}

static void read_numbers(const char *name, int *out, size_t n) {
  FILE *f = open_data(GOLDEN, name);
  assert_non_null(f);
  for (size_t i = 0; i < n; i++) assert_int_equal(fscanf(f, "%d", &out[i]), 1);
  fclose(f);
}

static qi_model *open_model(const char *path) {
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.path = path;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  return m;
}

static golden *golden_open(const char *kind) {
  golden *g = (golden *)malloc(sizeof *g);
  float *row = (float *)malloc(sizeof(float) * N_TOKENS * N_VOCAB);
  char path[128], name[64];
  assert_non_null(g);
  assert_non_null(row);
  g->kind = kind;
  snprintf(path, sizeof path, GOLDEN "nano-%s.gguf", kind);
  g->m = open_model(path);
  assert_int_equal(run_n_vocab(g->m), N_VOCAB);
  read_numbers("tokens.txt", g->tokens, N_TOKENS);
  snprintf(name, sizeof name, "nano-%s.argmax.txt", kind);
  read_numbers(name, g->argmax, N_TOKENS);
  snprintf(name, sizeof name, "nano-%s.logits.f32", kind);
  FILE *f = open_data(GOLDEN, name);
  assert_non_null(f);
  assert_int_equal(fread(row, sizeof(float), N_TOKENS * N_VOCAB, f), N_TOKENS * N_VOCAB);
  fclose(f);
  for (size_t i = 0; i < N_TOKENS * N_VOCAB; i++) g->want[i] = (double)row[i];
  free(row);
  return g;
}
static void golden_close(golden *g) {
  qi_model_close(g->m);
  free(g);
}

static float *golden_run(const golden *g, qi_path path, qi_kv_type kv, bool generated) {
  qi_session_desc sd = run_session_desc(N_TOKENS, path);
  sd.kv_type = kv;
  return run_logits(g->m, &sd, g->tokens, N_TOKENS, generated);
}

// ---- the reference itself ----

// What is left between two computations in float64 is the rounding of the file's logits to float32: half a unit in the last place
// of numbers below 8.
static void test_reference(void **state) {
  (void)state;
  need_data(GOLDEN, "tokens.txt");
  for (size_t i = 0; i < N_KINDS; i++) {
    golden *g = golden_open(kinds[i]);
    r64_model r;
    if (!r64_open(&r, g->m)) fail_msg("%s: %s", kinds[i], r.error);
    r64_options o = {N_TOKENS, false, 0, false};
    double *got = run_reference(&r, &o, g->tokens, N_TOKENS);
    double max_abs = 0;
    for (size_t j = 0; j < N_TOKENS * N_VOCAB; j++) max_abs = fmax(max_abs, fabs(got[j] - g->want[j]));
    if (!(max_abs < 3e-7)) fail_msg("reference, %s: greatest difference %.3g", kinds[i], max_abs);
    free(got);
    r64_close(&r);
    golden_close(g);
  }
}

// ---- paths ----

static void test_float(void **state) {
  (void)state;
  need_data(GOLDEN, "tokens.txt");
  for (size_t i = 0; i < N_KINDS; i++) {
    golden *g = golden_open(kinds[i]);
    float *got = golden_run(g, QI_PATH_FLOAT, QI_KV_F32, false);
    run_expect_close(r64_compare(got, g->want, N_TOKENS, N_VOCAB), 1e-11, 2e-5, "FLOAT", kinds[i]);
    for (size_t t = 0; t < N_TOKENS; t++) {
      const float *row = got + t * N_VOCAB;
      int best = 0;
      for (int v = 1; v < N_VOCAB; v++)
        if (row[v] > row[best]) best = v;
      if (best != g->argmax[t])
        fail_msg("FLOAT, %s: best after %lu tokens is %d, expected %d", kinds[i], (unsigned long)t + 1, best, g->argmax[t]);
    }
    free(got);
    got = golden_run(g, QI_PATH_FLOAT, QI_KV_F16, false);
    run_expect_close(r64_compare(got, g->want, N_TOKENS, N_VOCAB), 1e-6, 1e-2, "FLOAT with half cache", kinds[i]);
    free(got);
    golden_close(g);
  }
}

// Against exact logits within what the roundings cost (8 bits for each 32 or 256 activations, or 8 significant bits), and closely
// against a reference that rounds alike.
static void test_integer_and_bf16(void **state) {
  (void)state;
  need_data(GOLDEN, "tokens.txt");
  for (size_t i = 0; i < N_KINDS; i++) {
    golden *g = golden_open(kinds[i]);
    r64_model r;
    if (!r64_open(&r, g->m)) fail_msg("%s: %s", kinds[i], r.error);
    for (int bf16 = 0; bf16 < 2; bf16++) {
      r64_options o = {N_TOKENS, false, bf16 ? run_bf16_roundings() : 0, bf16 == 0};
      double *alike = run_reference(&r, &o, g->tokens, N_TOKENS);
      float *got = golden_run(g, bf16 ? QI_PATH_BF16 : QI_PATH_INTEGER, QI_KV_F32, !bf16);
      run_expect_close(r64_compare(got, g->want, N_TOKENS, N_VOCAB), bf16 ? 2e-4 : 2e-3, bf16 ? 0.1 : 0.3,
                       bf16 ? "BF16" : "INTEGER", kinds[i]);
      run_expect_alike(r64_compare(got, alike, N_TOKENS, N_VOCAB), 1e-10, bf16 ? 1e-4 : 1e-3, bf16 ? 0.06 : 0.25,
                       bf16 ? "BF16" : "INTEGER", kinds[i]);
      free(alike);
      free(got);
    }
    r64_close(&r);
    golden_close(g);
  }
}

// ---- a real model ----

// The text after the blank line that follows "Greedy continuation" in README.md, without the line end.
static char *expected_story(void) {
  FILE *f = open_data(STORIES, "README.md");
  assert_non_null(f);
  char *text = (char *)calloc(1, 8192);
  assert_non_null(text);
  size_t n = fread(text, 1, 8191, f);
  fclose(f);
  while (n && text[n - 1] == '\n') text[--n] = 0;
  char *begin = strstr(text, "\n\nOnce upon a time");
  assert_non_null(begin);
  memmove(text, begin + 2, strlen(begin + 2) + 1);
  return text;
}

// The text of prompt and answer.
static void check_story(const qi_model *m, const qi_session_desc *sd, const char *want, const char *what) {
  static const char prompt[] = "Once upon a time";
  qi_error err = {QI_OK, ""};
  qi_session *s = run_session(m, sd);
  qi_piece piece;
  char text[2048];
  size_t len = sizeof prompt - 1;
  memcpy(text, prompt, len);
  RUN_OK(qi_prompt(s, prompt, &err), err);
  qi_result r;
  while ((r = qi_next(s, &piece, &err)) == QI_OK || r == QI_END) {
    assert_true(len + piece.len < sizeof text);
    memcpy(text + len, piece.text, piece.len);
    len += piece.len;
    if (r == QI_END) break;
  }
  text[len] = 0;
  if (r != QI_END) fail_msg("%s: %s", what, err.msg);
  if (strcmp(text, want)) fail_msg("%s: wrote\n%s\nexpected\n%s", what, text, want);
  qi_session_close(s);
}

static void test_stories(void **state) {
  (void)state;
  need_data(STORIES, "stories260K.gguf");
  qi_model *m = open_model(STORIES "stories260K.gguf");
  char *want = expected_story();
  static const qi_path paths[] = {QI_PATH_AUTO, QI_PATH_INTEGER, QI_PATH_BF16, QI_PATH_FLOAT};
  static const char *const names[] = {"AUTO", "INTEGER", "BF16", "FLOAT"};
  for (int i = 0; i < 4; i++)
    for (int half = 0; half < 2; half++) {
      char what[64];
      snprintf(what, sizeof what, "%s, cache in %s", names[i], half ? "F16" : "F32");
      qi_session_desc sd = run_session_desc(0, paths[i]);
      sd.n_logits = 0;
      sd.kv_type = half ? QI_KV_F16 : QI_KV_F32;
      sd.n_predict = 115; // tokens of the text after the prompt
      check_story(m, &sd, want, what);
    }
  free(want);
  qi_model_close(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reference),
      cmocka_unit_test(test_float),
      cmocka_unit_test(test_integer_and_bf16),
      cmocka_unit_test(test_stories),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
