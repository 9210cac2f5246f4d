// qinfer_metal.m on the fake runtime: every kernel against the backend in plain C, whole models as on the CPU and against float64,
// failures of every call, devices that will not do. With the argument "quick": fewer models, for builds with sanitizers; "brief":
// the least that meets every kernel and a whole model, for planted faults.
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/backend_cases.h"
#include "fake/fake.h"
#include "scenes.h"

static bool quick, brief; // brief is quick, too

static int reset(void **state) {
  (void)state;
  fake_reset();
  return 0;
}
static int expect_no_leaks(void **state) {
  (void)state;
  return fake_leaks(true) != 0;
}

// ---- kernels ----

// Metal writes what plain C writes and nothing else; the same bits in three orders of threads.
static void expect_case(const mt_place *plain, const mt_place *metal, const mt_case *c) {
  static const int orders[] = {1, 7};
  mt_scene want, got, again;
  qi_error err = {QI_OK, ""};
  RUN_OK(mt_run(plain, c, 1, MT_MEMORY, &want, &err), err);
  RUN_OK(mt_run(metal, c, 1, MT_MEMORY, &got, &err), err);
  double difference = mt_difference(&want, &got, c);
  if (!(difference <= c->bound)) fail_msg("%s: differs by %.3g, expected at most %.3g", c->name, difference, c->bound);
  for (size_t o = 0; o < 2 && !brief; o++) {
    fake.order = orders[o];
    RUN_OK(mt_run(metal, c, 1, MT_MEMORY, &again, &err), err);
    fake.order = 0;
    if (memcmp(again.base, got.base, MT_MEMORY)) fail_msg("%s: other bits in another order of threads", c->name);
    free(again.base);
  }
  memcpy(got.out, want.out, want.n_out * sizeof *want.out);
  if (want.pages) memcpy(got.pages, want.pages, want.n_pages);
  for (size_t i = 0; i < MT_MEMORY; i++)
    if (got.base[i] != want.base[i]) fail_msg("%s: byte %d was changed", c->name, (int)i);
  free(want.base);
  free(got.base);
}

static void test_kernels(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  mt_place plain = {&backend, NULL}, metal = {qi_metal(), NULL};
  mt_case c;
  qi_error err = {QI_OK, ""};
  RUN_OK(mt_open(&plain, &err), err);
  RUN_OK(mt_open(&metal, &err), err);
  for (size_t i = 0; mt_case_at(i, &c); i++) {
    bool product = c.build == mt_build_product || c.build == mt_build_gated;
    bool often = product && c.format > QI_FORMAT_Q4_K; // shapes were seen with other formats
    if (brief && product && c.format != QI_FORMAT_F16 && c.format != QI_FORMAT_Q4_K) continue;
    if (c.build && !(quick && often && i % 2)) expect_case(&plain, &metal, &c);
  }
  mt_close(&metal);
  mt_close(&plain);
  if (world.wrong) fail_msg("%s", world.why);
}

// ---- models ----

static void test_models(void **state) {
  (void)state;
  for (size_t i = 0; i < BC_N_MODELS; i++)
    if (!quick || i == 1 || (i == 10 && !brief)) bc_expect_model(&bc_models[i], QI_KV_F16, qi_metal(), 1e-6);
}

static void test_kv_q8(void **state) {
  (void)state;
  if (brief) skip();
  bc_expect_model(&bc_models[0], QI_KV_Q8, qi_metal(), 1e-4); // the CPU rounds queries and weights, too
  if (!quick) bc_expect_model(&bc_models[9], QI_KV_Q8, qi_metal(), 1e-4);
}

// Shaders compiled with fast math, should a system do that whatever it is told.
static void test_fast_math(void **state) {
  (void)state;
  if (brief) skip();
  fake.fast_math = true;
  bc_expect_model(&bc_models[1], QI_KV_F16, qi_metal(), 1e-5);
}

static void test_reference(void **state) {
  (void)state;
  if (quick) skip();
  for (size_t i = 0; i < BC_N_MODELS; i++) {
    rm_desc d = bc_desc(&bc_models[i]);
    bc_pair p = bc_open(&d, qi_metal());
    qi_session_desc sd = bc_session_desc(QI_KV_F16);
    r64_model r;
    r64_options o;
    qi_token ids[BC_PROMPT];
    memset(&o, 0, sizeof o);
    o.n_ctx = (size_t)sd.n_ctx;
    assert_true(r64_open(&r, p.cpu.m));
    run_random_tokens(11, run_n_vocab(p.device), ids, BC_PROMPT);
    double *want = run_reference(&r, &o, ids, BC_PROMPT);
    for (int generated = 0; generated < 2; generated++) {
      float *got = run_logits(p.device, &sd, ids, BC_PROMPT, generated);
      r64_diff diff = r64_compare(got, want, BC_PROMPT, r.n_vocab);
      run_expect_close(diff, 1e-4, 0.1, bc_models[i].name, "float64");
      free(got);
    }
    free(want);
    r64_close(&r);
    bc_close(&p);
  }
}

static void test_sessions(void **state) {
  (void)state;
  if (quick) skip();
  bc_expect_slices(qi_metal());
  bc_expect_sequences(qi_metal());
  bc_expect_batch(qi_metal());
  bc_expect_choice(qi_metal());
  bc_expect_guesses(qi_metal());
}

// Text of the story model, greedy.
static void tell(const qi_backend *backend, char *out, size_t cap) {
  qi_model_desc md;
  qi_session_desc sd;
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  qi_session *s = NULL;
  qi_piece piece;
  memset(&md, 0, sizeof md);
  memset(&sd, 0, sizeof sd);
  md.path = "../shared/models/stories260K.gguf";
  md.backend = backend;
  sd.n_predict = 60;
  sd.path = QI_PATH_FLOAT;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  RUN_OK(qi_session_open(&s, m, &sd, &err), err);
  RUN_OK(qi_prompt(s, "Once upon a time", &err), err);
  out[0] = 0;
  while (qi_next(s, &piece, &err) == QI_OK)
    snprintf(out + strlen(out), cap - strlen(out), "%.*s", (int)piece.len, piece.text);
  qi_session_close(s);
  qi_model_close(m);
}

static void test_story(void **state) {
  (void)state;
  static char want[4096], got[4096];
  FILE *f = fopen("../shared/models/stories260K.gguf", "rb");
  if (quick || !f) skip();
  fclose(f);
  tell(NULL, want, sizeof want);
  tell(qi_metal(), got, sizeof got);
  assert_true(strlen(want) > 100);
  assert_string_equal(got, want);
}

// ---- devices and failures ----

static void expect_open(qi_result want, const char *message) {
  rm_desc d = rm_llama();
  d.n_ff = 192; // more weights than there are bytes in a session
  run_model file = run_build(&d);
  qi_error err = {QI_OK, ""};
  run_expect(bc_use(&file, qi_metal(), &err), want, &err, message);
  if (want && !strstr(err.msg, message)) fail_msg("'%s', expected '%s'", err.msg, message);
  run_free(&file);
}

static void test_devices(void **state) {
  (void)state;
  if (brief) skip();
  fake.no_device = true;
  expect_open(QI_ERR_UNSUPPORTED, "metal: there is no Metal device");
  fake_reset();
  fake.family = 6;
  expect_open(QI_ERR_UNSUPPORTED, "metal: the GPU is older than family Apple 7 (M1)");
  fake_reset();
  fake.working_set = 32768;
  expect_open(QI_ERR_OOM, "metal: the weights are more than the GPU can hold");
  fake_reset();
  fake.max_threads = 96;
  expect_open(QI_ERR_UNSUPPORTED, "backend metal: no products of");
  fake.max_threads = 224;
  expect_open(QI_OK, "");
  fake_reset();
  fake.max_buffer = 36 * 16384; // less than all weights: two buffers
  expect_open(QI_OK, "");
  fake_reset();
  fake.no_sharing = true;
  bc_expect_model(&bc_models[0], QI_KV_F16, qi_metal(), 1e-6);
}

static void test_failures(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  d.n_layers = 1;
  run_model file = run_build(&d);
  qi_error err = {QI_OK, ""};
  RUN_OK(bc_use(&file, qi_metal(), &err), err);
  int n_calls = fake.n_calls;
  int n_refused = 0; // kernels of operations that the host can do without
  assert_true(n_calls > 20);
  for (int i = 1; i <= n_calls; i += quick ? 2 : 1) {
    fake_reset();
    fake.fail_at = i;
    err.msg[0] = 0;
    qi_result r = bc_use(&file, qi_metal(), &err);
    bool refused = r >= 0 && (!strcmp(fake.failed, "function") || !strcmp(fake.failed, "pipeline"));
    bool survives = refused || !strcmp(fake.failed, "sharing"); // weights are copied then
    n_refused += refused;
    if (survives != (r >= 0) || (r < 0 && !err.msg[0]))
      fail_msg("call %d of %d (%s) failed, and the result was %s", i, n_calls, fake.failed, qi_result_name(r));
    if (fake_leaks(true)) fail_msg("call %d of %d failed, and something was left", i, n_calls);
  }
  assert_int_equal(n_refused, quick ? 3 : 6); // of candidates, of gate and up for one and for many: a function, its pipeline
  run_free(&file);
}

static void *use_in_thread(void *arg) {
  qi_token ids[BC_PROMPT + BC_NEXT];
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  return bc_run((const qi_model *)arg, &sd, 16, 7, ids);
}

// Sessions of two threads on one model.
static void test_threads(void **state) {
  (void)state;
  if (brief) skip();
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, qi_metal());
  pthread_t thread;
  void *there = NULL;
  assert_int_equal(pthread_create(&thread, NULL, use_in_thread, p.device), 0);
  float *here = (float *)use_in_thread(p.device);
  assert_int_equal(pthread_join(thread, &there), 0);
  run_expect_bits((const float *)there, here, (BC_PROMPT + BC_NEXT) * (size_t)run_n_vocab(p.device), "another thread", "this one");
  free(here);
  free(there);
  bc_close(&p);
}

int main(int argc, char **argv) {
  brief = argc > 1 && !strcmp(argv[1], "brief");
  quick = brief || (argc > 1 && !strcmp(argv[1], "quick"));
#define METAL_TEST(f) cmocka_unit_test_setup_teardown(f, reset, expect_no_leaks)
  const struct CMUnitTest tests[] = {
      METAL_TEST(test_kernels),   METAL_TEST(test_models), METAL_TEST(test_kv_q8),   METAL_TEST(test_fast_math),
      METAL_TEST(test_reference), METAL_TEST(test_sessions), METAL_TEST(test_story), METAL_TEST(test_devices),
      METAL_TEST(test_failures),  METAL_TEST(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
