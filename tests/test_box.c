// The models of models/: their texts, their perplexity on held-out tales, what formats cost, and that integer arithmetic has the
// same bits in every instruction set.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "../tools/tales.h"
#include "support/box_recorded.h"
#include "support/gguf_write.h"

enum { N_CTX = 320, N_WINDOWS = 3 };

// A model file, of models/ or made from it.
typedef struct box {
  uint8_t *file;
  size_t size;
  qi_model *m;
} box;

static void check(qi_result r, const qi_error *err) {
  if (r) fail_msg("%s", err->msg);
}

static box box_open(uint8_t *file, size_t size) {
  box b = {file, size, NULL};
  qi_error err = {QI_OK, ""};
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.data = file;
  md.data_size = size;
  check(qi_model_open(&b.m, &md, &err), &err);
  return b;
}

static void box_close(box *b) {
  qi_model_close(b->m);
  free(b->file);
  memset(b, 0, sizeof *b);
}

static box box_load(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("%s is not there: tests run in the top folder", path);
  fseek(f, 0, SEEK_END);
  long size = ftell(f);
  rewind(f);
  assert_in_range(size, 100000, 3000000); // bytes
  uint8_t *file = (uint8_t *)malloc((size_t)size);
  assert_non_null(file);
  assert_int_equal(fread(file, 1, (size_t)size, f), size);
  fclose(f);
  return box_open(file, (size_t)size);
}

static qi_session *open_session(const qi_model *m, qi_isa isa, qi_path path) {
  qi_session *s = NULL;
  qi_error err = {QI_OK, ""};
  qi_session_desc sd;
  memset(&sd, 0, sizeof sd);
  sd.isa = isa;
  sd.path = path;
  sd.n_ctx = N_CTX;
  sd.n_logits = N_CTX;
  sd.n_predict = 100;
  sd.n_threads = 2;
  check(qi_session_open(&s, m, &sd, &err), &err);
  return s;
}

// ---- text ----

static void expect_text(const char *path, const char *prompt, const char *expected) {
  box b = box_load(path);
  qi_session *s = open_session(b.m, QI_ISA_AUTO, QI_PATH_INTEGER);
  qi_error err = {QI_OK, ""};
  qi_piece p;
  char text[4096];
  size_t len = 0;
  check(qi_prompt(s, prompt, &err), &err);
  qi_result r;
  do {
    r = qi_next(s, &p, &err);
    if (r < 0) fail_msg("%s", err.msg);
    assert_true(len + p.len < sizeof text);
    memcpy(text + len, p.text, p.len);
    len += p.len;
  } while (r == QI_OK);
  while (len && text[len - 1] == '\n') len--;
  text[len] = 0;
  assert_string_equal(text, expected);
  qi_session_close(s);
  box_close(&b);
}

static void test_greedy_text(void **state) {
  (void)state;
  expect_text("models/tales.gguf", "Tale: The Lost Bell", GREEDY_TALE);
  expect_text("models/tales.gguf", "Talk: Mira the baker, sleepy", GREEDY_TALK);
  expect_text("models/tales-ternary.gguf", "Tale: The Lost Bell", GREEDY_TERNARY);
}

// ---- perplexity ----

// Held-out documents, enough for the windows; free it.
static char *held_out_text(void) {
  static tales t;
  size_t len = 0, want = N_WINDOWS * N_CTX * 5;
  char *text = (char *)malloc(want + 2 * TALES_MAX_TEXT);
  assert_non_null(text);
  assert_true(tales_open(&t));
  t.cast = 16; // as the models were trained
  for (uint64_t i = 0; len < want; i++) {
    const char *one = tales_document(&t, 2, i);
    memcpy(text + len, one, strlen(one) + 1);
    len += strlen(one);
  }
  tales_close(&t);
  return text;
}

// As examples/perplexity.c: windows after a begin token, the second half of each scored. kept (may be NULL): all scored logits,
// [N_WINDOWS, N_CTX / 2 - 1, n_vocab].
static double perplexity(const qi_model *m, qi_isa isa, qi_path path, float *kept) {
  char *text = held_out_text();
  qi_token tokens[N_WINDOWS * N_CTX * 5];
  size_t n_tokens;
  qi_error err = {QI_OK, ""};
  size_t cap = sizeof tokens / sizeof tokens[0];
  check(qi_tokenize(m, text, strlen(text), QI_TOKENIZE_ADD_SPECIAL, tokens, cap, &n_tokens, &err), &err);
  assert_true(n_tokens >= N_WINDOWS * N_CTX);
  free(text);
  qi_session *s = open_session(m, isa, path);
  qi_model_info info;
  qi_model_get_info(m, &info);
  double sum = 0;
  int n = 0;
  for (int w = 0; w < N_WINDOWS; w++) {
    qi_decode_token batch[N_CTX];
    memset(batch, 0, sizeof batch);
    for (int k = 0; k < N_CTX; k++) {
      batch[k].token = k ? tokens[w * N_CTX + k] : tokens[0];
      batch[k].want_logits = k >= N_CTX / 2;
    }
    check(qi_seq_truncate(s, 0, 0, &err), &err);
    check(qi_decode(s, batch, N_CTX, &err), &err);
    for (int k = N_CTX / 2; k + 1 < N_CTX; k++, n++) {
      const float *logits = qi_logits(s, k - N_CTX / 2);
      double total = 0;
      for (int i = 0; i < info.n_vocab; i++) total += exp((double)logits[i]);
      sum += log(total) - (double)logits[tokens[w * N_CTX + k + 1]];
      if (kept) memcpy(kept + (size_t)n * (size_t)info.n_vocab, logits, (size_t)info.n_vocab * sizeof *logits);
    }
  }
  qi_session_close(s);
  return exp(sum / n);
}

static void expect_perplexity(const char *name, double found, double want, double part) {
  print_message("%s: perplexity %.4f\n", name, found);
  if (fabs(found - want) > part * want) fail_msg("%s: perplexity %.4f, recorded %.4f", name, found, want);
}

static void test_perplexity_as_recorded(void **state) {
  (void)state;
  box dense = box_load("models/tales.gguf"), ternary = box_load("models/tales-ternary.gguf");
  expect_perplexity("tales", perplexity(dense.m, QI_ISA_AUTO, QI_PATH_INTEGER, NULL), DENSE_PPL, 0.01);
  expect_perplexity("tales-ternary", perplexity(ternary.m, QI_ISA_AUTO, QI_PATH_INTEGER, NULL), TERNARY_PPL, 0.01);
  box_close(&dense);
  box_close(&ternary);
}

// Integer arithmetic has the bits of the reference, whatever the instruction set.
static void test_integers_have_the_bits_of_the_reference(void **state) {
  (void)state;
  const char *const paths[] = {"models/tales.gguf", "models/tales-ternary.gguf"};
  for (int i = 0; i < 2; i++) {
    box b = box_load(paths[i]);
    qi_model_info info;
    qi_model_get_info(b.m, &info);
    size_t n = (size_t)info.n_vocab * N_WINDOWS * (N_CTX / 2 - 1);
    float *fast = (float *)malloc(n * sizeof *fast), *reference = (float *)malloc(n * sizeof *reference);
    assert_non_null(fast);
    assert_non_null(reference);
    perplexity(b.m, QI_ISA_AUTO, QI_PATH_INTEGER, fast);
    perplexity(b.m, QI_ISA_SCALAR, QI_PATH_INTEGER, reference);
    assert_memory_equal(fast, reference, n * sizeof *fast);
    free(fast);
    free(reference);
    box_close(&b);
  }
}

// ---- formats ----

// Bytes of metadata in a file whose first tensor is `name`: what lies between the header of 24 bytes and the tensor's entry.
static size_t metadata_bytes(const box *b, const char *name) {
  uint8_t entry[64] = {0};
  size_t len = strlen(name);
  entry[0] = (uint8_t)len;
  memcpy(entry + 8, name, len);
  for (size_t at = 24; at + len + 8 < b->size; at++)
    if (!memcmp(b->file + at, entry, len + 8)) return at - 24;
  fail_msg("%s: not found", name);
  return 0;
}

// The same weights with all matrices in another format; those whose rows are no whole blocks of it keep theirs.
static box box_quantize(const box *b, qi_format format, bool embedding) {
  qi_tensor t;
  qi_error err = {QI_OK, ""};
  gw_file w;
  gw_begin(&w, 3);
  check(qi_tensor_get(b->m, 0, &t, &err), &err);
  gw_bytes(&w.kv, b->file + 24, metadata_bytes(b, t.name));
  memcpy(&w.n_kv, b->file + 16, 8);
  for (size_t i = 0; i < qi_tensor_count(b->m); i++) {
    check(qi_tensor_get(b->m, i, &t, &err), &err);
    size_t n = (size_t)(t.shape[0] * t.shape[1]);
    bool matrix = t.shape[1] > 1 && (embedding || strcmp(t.name, "token_embd.weight") != 0);
    qi_format to = matrix && t.shape[0] % (uint64_t)qi_format_get(format)->block_len == 0 ? format : t.format;
    float *values = (float *)malloc(n * sizeof *values);
    uint8_t *bytes = (uint8_t *)malloc(qi_format_bytes(to, n));
    assert_non_null(values);
    assert_non_null(bytes);
    check(qi_dequantize(t.format, t.data, values, n, &err), &err);
    if (to != t.format) check(qi_quantize(to, values, bytes, n, (size_t)t.shape[0], NULL, &err), &err);
    else memcpy(bytes, t.data, qi_format_bytes(to, n));
    gw_tensor(&w, t.name, (uint32_t)qi_format_get(to)->gguf_id, t.shape[1] > 1 ? 2 : 1, t.shape, bytes, qi_format_bytes(to, n));
    free(values);
    free(bytes);
  }
  size_t size = 0;
  assert_non_null(gw_finish(&w, &size));
  uint8_t *file = w.out.data;
  memset(&w.out, 0, sizeof w.out);
  gw_free(&w);
  return box_open(file, size);
}

// Perplexity by what the weights were rounded to, beside that of the shipped weights in float32.
static void test_what_formats_cost(void **state) {
  (void)state;
  static const struct {
    const char *name;
    double most; // times that of F32
  } formats[] = {{"BF16", 1.005}, {"Q8_0", 1.005}, {"Q5_1", 1.02}, {"Q5_0", 1.02}, {"Q4_1", 1.03}, {"Q4_0", 1.05}, {"IQ4_NL", 1.05},
                 {"QINS8", 1.005}};
  box shipped = box_load("models/tales.gguf"), exact = box_quantize(&shipped, QI_FORMAT_F32, true);
  double base = perplexity(exact.m, QI_ISA_AUTO, QI_PATH_FLOAT, NULL);
  expect_perplexity("F32", base, DENSE_PPL, 0.01);
  for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
    box b = box_quantize(&exact, qi_format_from_name(formats[i].name), true);
    double ratio = perplexity(b.m, QI_ISA_AUTO, QI_PATH_INTEGER, NULL) / base;
    print_message("%s: %.5f times the perplexity of F32\n", formats[i].name, ratio);
    if (!(ratio < formats[i].most && ratio > 0.98)) fail_msg("%s: at most %.5f times", formats[i].name, formats[i].most);
    box_close(&b);
  }
  box_close(&exact);
  box_close(&shipped);
}

// A model that was trained ternary: all three formats hold exactly its weights, and give the same bits.
static void test_ternary_formats_are_one(void **state) {
  (void)state;
  box shipped = box_load("models/tales-ternary.gguf"), exact = box_quantize(&shipped, QI_FORMAT_F32, false);
  qi_model_info info;
  qi_model_get_info(shipped.m, &info);
  size_t n = (size_t)info.n_vocab * N_WINDOWS * (N_CTX / 2 - 1);
  float *want = (float *)malloc(n * sizeof *want), *found = (float *)malloc(n * sizeof *found);
  assert_non_null(want);
  assert_non_null(found);
  perplexity(shipped.m, QI_ISA_AUTO, QI_PATH_INTEGER, want);
  const qi_format formats[] = {QI_FORMAT_TQ1_0, QI_FORMAT_TQ2_0, QI_FORMAT_I2_S};
  for (size_t i = 0; i < 3; i++) {
    box b = box_quantize(&exact, formats[i], false);
    perplexity(b.m, QI_ISA_AUTO, QI_PATH_INTEGER, found);
    assert_memory_equal(found, want, n * sizeof *want);
    box_close(&b);
  }
  free(want);
  free(found);
  box_close(&exact);
  box_close(&shipped);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_greedy_text),       cmocka_unit_test(test_perplexity_as_recorded),
      cmocka_unit_test(test_integers_have_the_bits_of_the_reference),
      cmocka_unit_test(test_what_formats_cost), cmocka_unit_test(test_ternary_formats_are_one),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
