// The boundary to a backend, with one in plain C: whole models as on the CPU, what is refused, failures of every call, cancelling.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/backend_cases.h"
#include "support/plain_backend.h"

// The world is as it was: all was given back, nothing was done wrong.
static void expect_clean(const pb_world *w) {
  if (w->wrong) fail_msg("%d times wrong, first: %s", w->wrong, w->why);
  assert_int_equal(w->n_devices, 0);
  assert_int_equal(w->n_queues, 0);
  assert_int_equal(w->n_ranges, 0);
}

static void test_models(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  for (size_t i = 0; i < BC_N_MODELS; i++) {
    bc_expect_model(&bc_models[i], QI_KV_F16, &backend, 1e-6);
    expect_clean(&world);
  }
  assert_true(world.n_submitted > 100);
}

static void test_kv_q8(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  bc_expect_model(&bc_models[0], QI_KV_Q8, &backend, 1e-4); // the CPU rounds queries and weights, too
  bc_expect_model(&bc_models[9], QI_KV_Q8, &backend, 1e-4);
  expect_clean(&world);
}

static void test_sessions(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  bc_expect_slices(&backend);
  bc_expect_sequences(&backend);
  bc_expect_batch(&backend);
  bc_expect_choice(&backend);
  expect_clean(&world);
}

// A device that refuses what it may refuse: the same bits.
static void test_refused_kinds(void **state) {
  (void)state;
  static const size_t models[] = {1, 10, 11}; // biases, window, squares and norms between
  pb_world world = {0}, other = {0};
  qi_backend backend = pb_backend(&world), without = pb_backend(&other);
  other.no_kinds = 1u << QI_OP_GATED | 1u << QI_OP_TOP;
  for (size_t i = 0; i < QI__COUNT_OF(models); i++) {
    rm_desc d = bc_desc(&bc_models[models[i]]);
    bc_pair p = bc_open(&d, &backend), q = bc_open(&d, &without);
    qi_session_desc sd = bc_session_desc(QI_KV_F16);
    qi_token ids[BC_PROMPT + BC_NEXT];
    float *got = bc_run(p.device, &sd, 16, 7, ids), *want = bc_run(q.device, &sd, 16, 7, ids);
    run_expect_bits(got, want, (BC_PROMPT + BC_NEXT - 1) * (size_t)run_n_vocab(p.device), "gate and up in one", "in two");
    assert_int_equal(world.n_kinds[QI_OP_GATED], BC_NEXT * d.n_layers);
    world.n_kinds[QI_OP_GATED] = 0;
    free(got);
    free(want);
    bc_close(&p);
    bc_close(&q);
  }
  assert_int_equal(other.n_kinds[QI_OP_GATED] + other.n_kinds[QI_OP_TOP], 0);
  expect_clean(&world);
  expect_clean(&other);
}

// One submission for a step of one layer (of more once their time is known): embeddings, 10 operations, norm and logits.
static void test_one_submission(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  rm_desc d = rm_llama();
  d.n_layers = 1;
  bc_pair p = bc_open(&d, &backend);
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  qi_session *s = run_session(p.device, &sd);
  qi_error err = {QI_OK, ""};
  const qi_decode_token one = {5, 0, true, true};
  RUN_OK(qi_decode(s, &one, 1, &err), err);
  assert_int_equal(world.n_submitted, 1);
  assert_int_equal(world.n_ops, 1 + 10 + 2);
  qi_session_close(s);
  bc_close(&p);
  expect_clean(&world);
}

// Bytes that were told are bytes that the backend gives (and the session itself).
static void test_memory(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, &backend);
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  sd.n_logits = 0;
  uint64_t bytes = 0, on_cpu = 0;
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_session_memory(p.device, &sd, &bytes, &err), err);
  RUN_OK(qi_session_memory(p.cpu.m, &sd, &on_cpu, &err), err);
  assert_true(bytes < on_cpu);
  size_t before = world.n_ranges;
  qi_session *s = run_session(p.device, &sd);
  qi_session_stats stats;
  qi_session_get_stats(s, &stats);
  assert_int_equal(stats.heap_bytes, bytes);
  assert_int_equal(world.n_ranges, before + 1);
  assert_int_equal(world.ranges[before].end - world.ranges[before].begin, bytes - sizeof *s);
  qi_session_close(s);
  bc_close(&p);
  expect_clean(&world);
}

// A session on a device starts no threads of its own accord: only for a draft model on the CPU, or where it is told to.
static void test_threads(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, &backend);
  const struct {
    const qi_model *draft;
    int n_threads, want; // want 0: as many as without a device
  } cases[] = {{NULL, 0, 1}, {p.device, 0, 1}, {p.cpu.m, 0, 0}, {NULL, 3, 3}};
  for (size_t i = 0; i < QI__COUNT_OF(cases); i++) {
    qi_session_desc sd = bc_session_desc(QI_KV_F16);
    qi_session_stats stats, on_cpu;
    uint64_t bytes = 0;
    qi_error err = {QI_OK, ""};
    sd.draft = cases[i].draft;
    sd.n_threads = cases[i].n_threads;
    RUN_OK(qi_session_memory(p.device, &sd, &bytes, &err), err);
    qi_session *s = run_session(p.device, &sd), *t = run_session(p.cpu.m, &sd);
    qi_session_get_stats(s, &stats);
    qi_session_get_stats(t, &on_cpu);
    assert_int_equal(stats.n_threads, cases[i].want ? cases[i].want : on_cpu.n_threads);
    assert_int_equal(stats.heap_bytes, bytes);
    qi_session_close(s);
    qi_session_close(t);
  }
  bc_close(&p);
  expect_clean(&world);
}

// Weights in many small ranges: a limit between one tensor and two.
static void test_map_limit(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  world.map_limit = 320 * 64 * 4;
  bc_expect_model(&bc_models[0], QI_KV_F16, &backend, 1e-6);
  assert_true(world.n_maps > 3);
  expect_clean(&world);
}

// ---- choosing ----

// The same tokens from candidates as from all logits. Where candidates will do, nobody looks at logits.
static void test_choice(void **state) {
  (void)state;
  pb_world world = {0}, other = {0};
  qi_backend backend = pb_backend(&world), without = pb_backend(&other);
  other.no_kinds = 1u << QI_OP_TOP;
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, &backend), q = bc_open(&d, &without);
  for (size_t i = 0; i < BC_SAMPLINGS; i++) {
    const bc_sampling *c = &bc_samplings[i];
    qi_token want[BC_TOLD], got[BC_TOLD];
    world.n_kinds[QI_OP_TOP] = 0;
    world.spoil = !c->whole;
    bc_tell(q.device, &c->sampler, false, NULL, want, BC_TOLD);
    bc_tell(p.device, &c->sampler, false, NULL, got, BC_TOLD);
    bc_expect_same(got, want, c->name, "candidates");
    assert_int_equal(world.n_kinds[QI_OP_TOP], c->whole ? 0 : BC_TOLD);
  }
  assert_int_equal(other.n_kinds[QI_OP_TOP], 0);
  bc_close(&p);
  bc_close(&q);
  expect_clean(&world);
  expect_clean(&other);
}

// Logits of a prompt are there as ever; a grammar looks at all of them.
static void test_logits_stay(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, &backend);
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  qi_session *s = run_session(p.device, &sd);
  qi_error err = {QI_OK, ""};
  qi_piece piece;
  RUN_OK(qi_prompt(s, "the tea", &err), err);
  assert_int_equal(world.n_kinds[QI_OP_TOP], 1);
  const float *logits = qi_logits(s, -1);
  assert_non_null(logits);
  qi_token best = bc_best(logits, (size_t)run_n_vocab(p.device));
  RUN_OK(qi_next(s, &piece, &err), err);
  assert_int_equal(piece.token, best);
  qi_grammar *g = NULL;
  qi_matcher *mt = NULL;
  qi_grammar_desc gd;
  memset(&gd, 0, sizeof gd);
  gd.gbnf = "root ::= [a-c]+";
  RUN_OK(qi_grammar_open(&g, p.device, &gd, &err), err);
  RUN_OK(qi_matcher_open(&mt, g, NULL, NULL, &err), err);
  qi_session_reset(s);
  RUN_OK(qi_prompt(s, "the tea", &err), err); // candidates of any text, but then text is constrained
  assert_int_equal(world.n_kinds[QI_OP_TOP], 2);
  RUN_OK(qi_session_constrain(s, mt, false, &err), err);
  for (int i = 0; i < 5; i++) {
    RUN_OK(qi_next(s, &piece, &err), err);
    assert_true(strspn(piece.text, "abc") >= piece.len);
  }
  assert_int_equal(world.n_kinds[QI_OP_TOP], 2);
  qi_session_close(s);
  qi_matcher_close(mt);
  qi_grammar_close(g);
  bc_close(&p);
  expect_clean(&world);
}

static void test_guesses(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  world.spoil = true;
  bc_expect_guesses(&backend);
  expect_clean(&world);
}

// ---- refused ----

static void log_take(void *user, qi_log_level level, const char *msg) {
  if (level == QI_LOG_WARN) snprintf((char *)user, 256, "%s", msg);
}

static void test_refused(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  rm_desc d = rm_llama();
  d.output_format = QI_FORMAT_Q8_0;
  run_model file = run_build(&d);
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  char log[256] = "";
  qi_model_desc md;
  qi_model_info info;
  memset(&md, 0, sizeof md);
  md.data = file.file;
  md.data_size = file.size;
  md.backend = &backend;
  md.logger.fn = log_take;
  md.logger.user = log;
  world.no_format = QI_FORMAT_Q8_0;
  run_expect(qi_model_open(&m, &md, &err), QI_ERR_UNSUPPORTED, &err, "a format that the backend lacks");
  assert_null(m);
  assert_string_equal(err.msg, "backend plain: no products of [320, 64] weights in Q8_0");
  assert_string_equal(log, "");
  md.backend_fallback = true;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  assert_string_equal(log, "the CPU computes: backend plain: no products of [320, 64] weights in Q8_0");
  qi_model_get_info(m, &info);
  assert_string_equal(info.backend, "");
  qi_session_desc sd = bc_session_desc(QI_KV_Q4);
  qi_session_close(run_session(m, &sd));
  qi_model_close(m);
  expect_clean(&world);
  run_free(&file);
}

// What a session asks for that the backend lacks; a cache is not filled; other load levels open no device.
static void test_refused_session(void **state) {
  (void)state;
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  rm_desc d = rm_llama();
  bc_pair p = bc_open(&d, &backend);
  qi_error err = {QI_OK, ""};
  qi_session *s = NULL;
  qi_session_desc sd = bc_session_desc(QI_KV_Q4);
  run_expect(qi_session_open(&s, p.device, &sd, &err), QI_ERR_UNSUPPORTED, &err, "Q4");
  assert_null(s);
  assert_string_equal(err.msg, "backend plain: no rotations with heads of 16, keys and values in q4");
  sd.kv_type = QI_KV_F16;
  sd.observer.fn = (void (*)(void *, const char *, const float *, size_t, size_t))(uintptr_t)1;
  run_expect(qi_session_open(&s, p.device, &sd, &err), QI_ERR_UNSUPPORTED, &err, "observer");
  qi_model *m = NULL;
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.data = p.cpu.file;
  md.data_size = p.cpu.size;
  md.backend = &backend;
  md.cache_bytes = UINT64_MAX;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  qi_model_info info;
  qi_memory memory;
  qi_model_get_info(m, &info);
  RUN_OK(qi_model_memory(&md, &memory, &err), err);
  assert_int_equal(info.cache.bytes, 0);
  assert_int_equal(info.memory.heap, memory.heap);
  qi_model_close(m);
  md.load = QI_LOAD_VOCAB;
  int devices = world.n_devices;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  assert_int_equal(world.n_devices, devices);
  qi_model_close(m);
  bc_close(&p);
  expect_clean(&world);
}

// ---- failures ----

static void test_failures(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  run_model file = run_build(&d);
  int i = 1;
  for (bool failed = true; failed; i += failed) { // how many submissions there are is a matter of time
    pb_world world = {0};
    qi_backend backend = pb_backend(&world);
    qi_error err = {QI_OK, ""};
    world.fail_at = i;
    qi_result r = bc_use(&file, &backend, &err);
    failed = world.n_calls >= i;
    if (failed ? r >= 0 || !err.msg[0] : r != QI_OK) fail_msg("call %d failed, and the result was %s", i, qi_result_name(r));
    expect_clean(&world);
  }
  assert_true(i > 8);
  run_free(&file);
}

static void cancel_in_submit(void *user) { qi_cancel(*(qi_session **)user); }

// A session that is cancelled while the device computes; in the text interface, too.
static void test_cancel(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  bc_pair p = bc_open(&d, &backend);
  qi_session_desc sd = bc_session_desc(QI_KV_F16);
  qi_session *s = run_session(p.device, &sd);
  qi_error err = {QI_OK, ""};
  const qi_decode_token one = {5, 0, true, true};
  RUN_OK(qi_decode(s, &one, 1, &err), err);
  world.in_submit = cancel_in_submit;
  world.user = &s;
  run_expect(qi_decode(s, &one, 1, &err), QI_ERR_CANCELLED, &err, "decode");
  assert_int_equal(qi_seq_length(s, 0), 1);
  run_expect(qi_prompt(s, "the", &err), QI_ERR_CANCELLED, &err, "prompt");
  assert_int_equal(qi_seq_length(s, 0), 1);
  world.in_submit = NULL;
  RUN_OK(qi_prompt(s, "the", &err), err);
  qi_piece piece;
  RUN_OK(qi_next(s, &piece, &err), err);
  qi_session_close(s);
  bc_close(&p);
  expect_clean(&world);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_models),     cmocka_unit_test(test_kv_q8),   cmocka_unit_test(test_sessions),
      cmocka_unit_test(test_one_submission), cmocka_unit_test(test_memory), cmocka_unit_test(test_map_limit),
      cmocka_unit_test(test_refused),    cmocka_unit_test(test_refused_session), cmocka_unit_test(test_failures),
      cmocka_unit_test(test_cancel),     cmocka_unit_test(test_choice),  cmocka_unit_test(test_logits_stay),
      cmocka_unit_test(test_guesses),    cmocka_unit_test(test_threads), cmocka_unit_test(test_refused_kinds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
