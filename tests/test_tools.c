// What examples/imatrix.c and examples/quantize.c stand on: the observer of a session, ranges of metadata arrays, importance.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/random_model.h"

// ---- recording ----

typedef struct seen {
  char name[64];
  size_t n_calls, n_rows, n_cols;
  double sums[512];  // of squares
  float first[512];  // row of the first call
} seen;

typedef struct record {
  seen tensors[32];
  size_t n;
} record;

static void note(void *user, const char *tensor, const float *x, size_t n, size_t n_cols) {
  record *r = (record *)user;
  size_t i = 0;
  while (i < r->n && strcmp(r->tensors[i].name, tensor) != 0) i++;
  seen *t = &r->tensors[i];
  assert_true(i < 32 && n_cols <= 512 && n > 0);
  if (i == r->n) {
    r->n++;
    snprintf(t->name, sizeof t->name, "%s", tensor);
    t->n_cols = n_cols;
    memcpy(t->first, x, n_cols * sizeof *x);
  }
  assert_int_equal(t->n_cols, n_cols);
  t->n_calls++;
  t->n_rows += n;
  for (size_t row = 0; row < n; row++)
    for (size_t k = 0; k < n_cols; k++) t->sums[k] += (double)x[row * n_cols + k] * (double)x[row * n_cols + k];
}

static const seen *find(const record *r, const char *name) {
  for (size_t i = 0; i < r->n; i++)
    if (!strcmp(r->tensors[i].name, name)) return &r->tensors[i];
  fail_msg("%s was not observed", name);
  return NULL;
}

static qi_model *open_random(const rm_desc *d, uint8_t **file) {
  size_t size;
  qi_model *m = NULL;
  qi_error err = {0};
  *file = rm_build(d, &size);
  assert_non_null(*file);
  qi_model_desc md = {.data = *file, .data_size = size};
  if (qi_model_open(&m, &md, &err)) fail_msg("%s", err.msg);
  return m;
}

enum { N_TOKENS = 12 };

// Twelve tokens, of which the last three want logits; at once, or in slices.
static void observe(const qi_model *m, qi_session_desc sd, bool slices, record *r) {
  qi_session *s = NULL;
  qi_error err = {0};
  qi_decode_token tokens[N_TOKENS];
  memset(r, 0, sizeof *r);
  sd.n_ctx = 32;
  sd.n_logits = 3;
  sd.n_threads = 2;
  sd.observer = (qi_observer){note, r};
  if (qi_session_open(&s, m, &sd, &err)) fail_msg("%s", err.msg);
  for (int i = 0; i < N_TOKENS; i++) tokens[i] = (qi_decode_token){.token = 5 + 7 * i, .want_logits = i >= N_TOKENS - 3};
  assert_int_equal(qi_decode_begin(s, tokens, N_TOKENS, &err), QI_OK);
  qi_result result;
  while ((result = qi_step(s, slices ? 1 : 0, &err)) == QI_AGAIN) assert_true(slices);
  assert_int_equal(result, QI_OK);
  qi_session_close(s);
}

// ---- tests ----

static void test_names_and_rows(void **state) {
  static const struct {
    const char *name;
    size_t n_cols;
  } expected[] = {{"attn_q", 64},   {"attn_k", 64}, {"attn_v", 64},  {"attn_output", 64},
                  {"ffn_gate", 64}, {"ffn_up", 64}, {"ffn_down", 96}};
  (void)state;
  rm_desc d = rm_llama();
  uint8_t *file;
  record r;
  qi_model *m = open_random(&d, &file);
  for (int n_batch = 12; n_batch >= 5; n_batch -= 7) { // one chunk, three chunks
    observe(m, (qi_session_desc){.n_batch = n_batch}, false, &r);
    size_t n_chunks = n_batch == 12 ? 1 : 3;
    assert_int_equal(r.n, 15);
    for (int layer = 0; layer < 2; layer++)
      for (size_t i = 0; i < 7; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, expected[i].name);
        const seen *t = find(&r, name);
        assert_int_equal(t->n_calls, n_chunks);
        assert_int_equal(t->n_rows, N_TOKENS);
        assert_int_equal(t->n_cols, expected[i].n_cols);
      }
    const seen *output = find(&r, "output.weight");
    assert_int_equal(output->n_rows, 3);
  }
  qi_model_close(m);
  free(file);
}

// What the first products of layer 0 see is computable by hand: norm(embedding) * attn_norm.
static void test_values(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  uint8_t *file;
  record r;
  qi_tensor embedding, norm;
  qi_model *m = open_random(&d, &file);
  observe(m, (qi_session_desc){.path = QI_PATH_FLOAT}, false, &r);
  assert_int_equal(qi_tensor_find(m, "token_embd.weight", &embedding, NULL), QI_OK);
  assert_int_equal(qi_tensor_find(m, "blk.0.attn_norm.weight", &norm, NULL), QI_OK);
  float x[64], w[64];
  double squares = 0;
  memcpy(x, (const char *)embedding.data + 5 * sizeof x, sizeof x); // token 5 comes first
  memcpy(w, norm.data, sizeof w);
  for (int i = 0; i < 64; i++) squares += (double)x[i] * (double)x[i];
  for (int i = 0; i < 64; i++) {
    double expected = (double)x[i] / sqrt(squares / 64 + 1e-5) * (double)w[i];
    assert_true(fabs((double)find(&r, "blk.0.attn_q.weight")->first[i] - expected) < 1e-5);
  }
  assert_memory_equal(find(&r, "blk.0.attn_q.weight")->first, find(&r, "blk.0.attn_v.weight")->first, sizeof x);
  assert_memory_not_equal(find(&r, "blk.0.attn_q.weight")->first, find(&r, "blk.0.ffn_up.weight")->first, sizeof x);
  qi_model_close(m);
  free(file);
}

// A pass that is cut into slices shows every product once.
static void test_slices(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  uint8_t *file;
  record *r = (record *)calloc(2, sizeof *r);
  assert_non_null(r);
  qi_model *m = open_random(&d, &file);
  observe(m, (qi_session_desc){.n_batch = 5}, false, &r[0]);
  observe(m, (qi_session_desc){.n_batch = 5}, true, &r[1]);
  assert_memory_equal(&r[0], &r[1], sizeof r[0]);
  free(r);
  qi_model_close(m);
  free(file);
}

// Fused matrices are one tensor; a tied output is the embedding.
static void test_fused_and_tied(void **state) {
  (void)state;
  rm_desc d = rm_phi3();
  uint8_t *file;
  record r;
  d.tied = true;
  qi_model *m = open_random(&d, &file);
  observe(m, (qi_session_desc){0}, false, &r);
  assert_int_equal(r.n, 9);
  assert_int_equal(find(&r, "blk.1.attn_qkv.weight")->n_calls, 1);
  assert_int_equal(find(&r, "blk.1.ffn_up.weight")->n_calls, 1);
  assert_int_equal(find(&r, "blk.1.ffn_down.weight")->n_cols, 96);
  assert_int_equal(find(&r, "token_embd.weight")->n_rows, 3);
  qi_model_close(m);
  free(file);
}

// sum over rows and columns of importance * (w - quantised w)^2.
static double weighted_error(const qi_tensor *t, qi_format format, const float *used, const float *importance) {
  size_t n_cols = (size_t)t->shape[0], n = n_cols * (size_t)t->shape[1];
  float *w = (float *)malloc(n * sizeof *w), *back = (float *)malloc(n * sizeof *w);
  void *blocks = malloc(qi_format_bytes(format, n));
  double sum = 0;
  assert_true(w && back && blocks);
  memcpy(w, t->data, n * sizeof *w);
  assert_int_equal(qi_quantize(format, w, blocks, n, n_cols, used, NULL), QI_OK);
  assert_int_equal(qi_dequantize(format, blocks, back, n, NULL), QI_OK);
  for (size_t i = 0; i < n; i++) sum += (double)importance[i % n_cols] * (double)(back[i] - w[i]) * (double)(back[i] - w[i]);
  free(w);
  free(back);
  free(blocks);
  return sum;
}

// The purpose of it all: what was observed makes the errors that count smaller.
static void test_importance_helps(void **state) {
  static const char *const names[] = {"blk.0.attn_q.weight", "blk.1.attn_output.weight", "blk.1.ffn_down.weight"};
  static const qi_format formats[] = {QI_FORMAT_Q4_0, QI_FORMAT_IQ4_NL, QI_FORMAT_Q2_K, QI_FORMAT_Q3_K, QI_FORMAT_Q4_K};
  (void)state;
  rm_desc d = rm_llama_256(QI_FORMAT_F32);
  uint8_t *file;
  record *r = (record *)malloc(sizeof *r);
  assert_non_null(r);
  qi_model *m = open_random(&d, &file);
  observe(m, (qi_session_desc){0}, false, r);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    qi_tensor t;
    float importance[512];
    const seen *s = find(r, names[i]);
    for (size_t k = 0; k < s->n_cols; k++) importance[k] = (float)(s->sums[k] / (double)s->n_rows);
    assert_int_equal(qi_tensor_find(m, names[i], &t, NULL), QI_OK);
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
      double with = weighted_error(&t, formats[f], importance, importance);
      double without = weighted_error(&t, formats[f], NULL, importance);
      const char *name = qi_format_get(formats[f])->name;
      if (!(with < without)) fail_msg("%s %s: %g with importance, %g without", names[i], name, with, without);
    }
  }
  free(r);
  qi_model_close(m);
  free(file);
}

// Ranges hold what single elements do.
static void test_meta_elements(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  uint8_t *file;
  qi_error err = {0};
  qi_meta v, one, many[320];
  qi_model *m = open_random(&d, &file);
  size_t n_arrays = 0;
  for (size_t i = 0; i < qi_meta_count(m); i++) {
    assert_int_equal(qi_meta_get(m, i, &v, &err), QI_OK);
    if (v.type != QI_META_ARRAY) {
      assert_int_equal(qi_meta_elements(m, i, 0, 1, many, &err), QI_ERR_ARGUMENT);
      continue;
    }
    n_arrays++;
    assert_int_equal(v.count, 320);
    assert_int_equal(qi_meta_elements(m, i, 0, 320, many, &err), QI_OK);
    for (uint64_t k = 0; k < 320; k += 7) {
      assert_int_equal(qi_meta_element(m, i, k, &one, &err), QI_OK);
      assert_memory_equal(&one.value, &many[k].value, sizeof one.value);
      assert_int_equal(one.count, many[k].count);
      assert_ptr_equal(many[k].key, v.key);
    }
    assert_int_equal(qi_meta_elements(m, i, 300, 20, many, &err), QI_OK);
    assert_memory_equal(&one.value, &many[15].value, sizeof one.value); // element 315
    assert_int_equal(qi_meta_elements(m, i, 320, 0, NULL, &err), QI_OK);
    assert_int_equal(qi_meta_elements(m, i, 300, 21, many, &err), QI_ERR_ARGUMENT);
    assert_int_equal(qi_meta_elements(m, i, UINT64_MAX, 2, many, &err), QI_ERR_ARGUMENT);
    assert_int_equal(qi_meta_elements(m, i, 0, 1, NULL, &err), QI_ERR_ARGUMENT);
  }
  assert_int_equal(n_arrays, 3);
  assert_int_equal(qi_meta_elements(m, qi_meta_count(m), 0, 1, many, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_meta_elements(NULL, 0, 0, 1, many, &err), QI_ERR_ARGUMENT);
  qi_model_close(m);
  free(file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names_and_rows), cmocka_unit_test(test_values),           cmocka_unit_test(test_slices),
      cmocka_unit_test(test_fused_and_tied), cmocka_unit_test(test_importance_helps), cmocka_unit_test(test_meta_elements),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
