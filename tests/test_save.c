// Saving and loading sessions: the same bits as without, what is refused, files and processes that are killed.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/run_model.h"

// ---- models and files ----

static run_model save_model(int window, uint64_t seed) {
  rm_desc d = rm_llama();
  d.n_heads = 4;
  d.n_kv_heads = 2;
  d.head_dim = 40;
  d.n_vocab = 300; // byte tokens too: pieces are parts of characters
  d.n_ctx_train = 1024;
  d.window = window ? window : -1;
  d.format = QI_FORMAT_Q8_0;
  d.seed = seed;
  return run_build(&d);
}

typedef struct bytes {
  uint8_t *p; // malloc
  size_t n;
} bytes;

static bytes save(qi_session *s) {
  qi_error err = {QI_OK, ""};
  bytes b = {NULL, 0};
  size_t n = 0;
  RUN_OK(qi_session_save(s, NULL, 0, &b.n, &err), err);
  b.p = (uint8_t *)malloc(b.n);
  assert_non_null(b.p);
  assert_int_equal(qi_session_save(s, b.p, b.n - 1, &n, &err), QI_ERR_LIMIT);
  assert_int_equal(n, b.n);
  RUN_OK(qi_session_save(s, b.p, b.n, &n, &err), err);
  assert_int_equal(n, b.n);
  return b;
}

static void expect_saves(qi_session *s, const bytes *want) {
  bytes b = save(s);
  assert_int_equal(b.n, want->n);
  assert_memory_equal(b.p, want->p, b.n);
  free(b.p);
}

// Fills with a pattern what it hands out.
static void *pattern_alloc(size_t size, size_t align, void *user) {
  void *p = NULL;
  if (posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, size)) return NULL;
  memset(p, *(const uint8_t *)user, size);
  return p;
}
static void pattern_free(void *p, size_t size, void *user) {
  (void)size;
  (void)user;
  free(p);
}

// ---- text ----

static qi_session_desc text_desc(int kind) {
  static const char *const stop[] = {"never in this text", "\n\n\nnever"};
  qi_session_desc sd;
  memset(&sd, 0, sizeof sd);
  sd.n_ctx = 200;
  sd.n_threads = 1;
  sd.ignore_end = true;
  sd.stop = stop;
  sd.n_stop = kind % 2 ? 2 : 0;
  sd.sampler.seed = 42;
  sd.sampler.temperature = kind ? 1.2f : 0;
  if (kind == 1) sd.sampler.repetition_penalty = 1.3f, sd.sampler.penalty_last_n = 9;
  if (kind == 2) sd.sampler.dry_multiplier = 0.8f, sd.sampler.frequency_penalty = 0.3f, sd.sampler.penalty_last_n = 200;
  if (kind == 3) sd.sampler.mirostat_tau = 4, sd.sampler.xtc_probability = 0.5f;
  return sd;
}

// Tokens and text of n calls of qi_next.
static size_t tell(qi_session *s, size_t n, qi_token *ids, char *text) {
  qi_error err = {QI_OK, ""};
  size_t len = 0;
  for (size_t i = 0; i < n; i++) {
    qi_piece p;
    RUN_OK(qi_next(s, &p, &err), err);
    ids[i] = p.token;
    memcpy(text + len, p.text, p.len);
    len += p.len;
  }
  return len;
}

// Goes on and is prompted again.
static size_t tell_on(qi_session *s, qi_token *ids, char *text) {
  qi_error err = {QI_OK, ""};
  size_t len = tell(s, 15, ids, text);
  RUN_OK(qi_prompt(s, "and then", &err), err);
  return len + tell(s, 15, ids + 15, text + len);
}

// Saved after any number of tokens, restored into a session whose memory held other things, it goes on with the same words.
static void test_text(void **state) {
  (void)state;
  uint8_t patterns[2] = {0xa5, 0x3c};
  run_model rm = save_model(0, 1);
  qi_error err = {QI_OK, ""};
  for (int kind = 0; kind < 4; kind++)
    for (size_t n = 0; n < 24; n += 1 + (size_t)kind) {
      qi_session_desc sd = text_desc(kind);
      sd.allocator = (qi_allocator){pattern_alloc, pattern_free, &patterns[0]};
      qi_session *a = run_session(rm.m, &sd);
      sd.allocator.user = &patterns[1];
      sd.n_threads = 2;
      qi_session *b = run_session(rm.m, &sd);
      qi_token ids[2][30];
      char text[2][2048];
      RUN_OK(qi_prompt(a, "the rain", &err), err);
      tell(a, n, ids[0], text[0]);
      bytes file = save(a);
      RUN_OK(qi_prompt(b, "something else that is longer", &err), err);
      tell(b, 5, ids[1], text[1]);
      RUN_OK(qi_session_load(b, file.p, file.n, &err), err);
      expect_saves(b, &file);
      assert_int_equal(qi_seq_length(a, 0), qi_seq_length(b, 0));
      size_t len = tell_on(a, ids[0], text[0]);
      assert_int_equal(tell_on(b, ids[1], text[1]), len);
      assert_memory_equal(text[0], text[1], len);
      assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
      free(file.p);
      qi_session_close(a);
      qi_session_close(b);
    }
  run_free(&rm);
}

// Characters that are not whole and text held back for stop strings are given after restoring, not lost.
static void test_held_text(void **state) {
  (void)state;
  static const char *const stop[] = {"abc\xc3\xa4!"};
  static const char stream[] = "xxabc\xc3\xa4 \xe2\x82\xacyabc\xc3\xa4!";
  run_model rm = save_model(0, 1);
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = text_desc(0);
  sd.stop = stop;
  sd.n_stop = 1;
  qi_session *s = run_session(rm.m, &sd), *other = run_session(rm.m, &sd);
  for (size_t at = 0; at < sizeof stream; at++) {
    char text[64];
    size_t len = 0;
    qi_piece p = {"", 0, -1};
    qi_session_reset(s);
    for (size_t i = 0; i + 1 < sizeof stream; i++) {
      if (i == at) {
        bytes file = save(s);
        RUN_OK(qi_session_load(other, file.p, file.n, &err), err);
        qi_session *t = s;
        s = other;
        other = t;
        qi_session_reset(other);
        expect_saves(s, &file);
        free(file.p);
      }
      bool ended = qi__text_push(&s->text, stream + i, 1, &p);
      assert_int_equal(ended, i + 2 == sizeof stream);
      memcpy(text + len, p.text, p.len);
      len += p.len;
    }
    assert_int_equal(len, 12);
    assert_memory_equal(text, "xxabc\xc3\xa4 \xe2\x82\xacy", 12);
  }
  qi_session_close(s);
  qi_session_close(other);
  run_free(&rm);
}

// ---- sequences ----

#define N_SEQS 4

static qi_session_desc seqs_desc(qi_kv_type type) {
  qi_session_desc sd = run_session_desc(500, QI_PATH_AUTO);
  sd.n_seqs = N_SEQS;
  sd.n_logits = 50;
  sd.kv_type = type;
  return sd;
}

// Tokens of four sequences in one call, each with logits.
static void decode_all(qi_session *s, uint64_t seed, size_t n_each, float *out) {
  qi_decode_token t[N_SEQS * 16];
  qi_error err = {QI_OK, ""};
  size_t n = 0;
  for (int seq = 0; seq < N_SEQS; seq++)
    for (size_t i = 0; i < n_each; i++)
      t[n++] = (qi_decode_token){(qi_token)(rm_next(&seed) % 300), seq, i % 2 == 0, true};
  RUN_OK(qi_decode(s, t, n, &err), err);
  run_take_logits(s, n, 300, out);
}

// Three sequences that share what they can, one that ends within a shared page; and one of its own.
static void make_forks(qi_session *s, const qi_model *m, bool shift) {
  qi_token ids[300];
  qi_error err = {QI_OK, ""};
  float *out = (float *)malloc(300 * 300 * sizeof *out);
  assert_non_null(out);
  run_random_tokens(5, 300, ids, 300);
  run_decode(s, m, ids, 290, 50, 0, false, out);
  RUN_OK(qi_seq_fork(s, 0, 1, 290, &err), err);
  RUN_OK(qi_seq_fork(s, 0, 3, 270, &err), err);
  run_decode(s, m, ids, 9, 0, 2, true, out);
  if (shift) RUN_OK(qi_seq_shift(s, 1, 4, 7, &err), err);
  free(out);
}

static uint64_t unused(const qi_session *s) {
  qi_session_stats stats;
  qi_session_get_stats(s, &stats);
  return stats.kv_tokens_unused;
}

static void run_sequences(const run_model *rm, qi_kv_type type, bool shift) {
  uint8_t patterns[2] = {0xff, 0};
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = seqs_desc(type);
  sd.allocator = (qi_allocator){pattern_alloc, pattern_free, &patterns[0]};
  qi_session *a = run_session(rm->m, &sd), *twin = run_session(rm->m, &sd);
  sd.allocator.user = &patterns[1];
  sd.n_kv_tokens = 9 * 128; // less than without sharing
  sd.n_seqs = N_SEQS + 1;
  sd.n_ctx = 400;
  qi_session *b = run_session(rm->m, &sd);
  float *want = (float *)malloc(64 * 300 * sizeof *want), *got = (float *)malloc(64 * 300 * sizeof *got);
  assert_true(want && got);
  make_forks(a, rm->m, shift);
  make_forks(twin, rm->m, shift);
  decode_all(a, 3, 2, want);
  bytes file = save(a);
  decode_all(twin, 3, 2, got);
  expect_saves(twin, &file); // where pages lie does not show
  RUN_OK(qi_session_load(b, file.p, file.n, &err), err);
  expect_saves(b, &file);
  run_take_logits(b, 8, 300, got);
  run_expect_bits(got, want, 8 * 300, "logits of the last call", qi_kv_type_name(type));
  assert_null(qi_logits(b, 8));
  assert_int_equal(500 / 128 * 4 * 128 + 4 * 128 - unused(a), 9 * 128 - unused(b));
  for (int seq = 0; seq < N_SEQS; seq++) assert_int_equal(qi_seq_length(a, seq), qi_seq_length(b, seq));
  assert_int_equal(qi_seq_length(b, N_SEQS), 0);
  for (uint64_t round = 0; round < 3; round++) {
    decode_all(a, round, 12, want);
    decode_all(b, round, 12, got);
    run_expect_bits(got, want, 48 * 300, "restored", qi_kv_type_name(type));
  }
  // All pages are given back in the end.
  for (int seq = 0; seq < N_SEQS; seq++) RUN_OK(qi_seq_truncate(b, seq, 0, &err), err);
  assert_int_equal(unused(b), 9 * 128);
  free(file.p);
  free(want);
  free(got);
  qi_session_close(a);
  qi_session_close(twin);
  qi_session_close(b);
}

static void test_sequences(void **state) {
  (void)state;
  for (int window = 0; window < 200; window += 100) {
    run_model rm = save_model(window, 1);
    for (int type = QI_KV_F32; type < QI_KV_COUNT; type++) run_sequences(&rm, (qi_kv_type)type, type % 2);
    run_free(&rm);
  }
}

// Whatever was done to sequences, they can be saved, and what is loaded is the same and goes on alike.
static void run_random(const run_model *rm, uint64_t seed) {
  qi_session_desc sd = seqs_desc(QI_KV_F16);
  float *want = (float *)malloc(64 * 300 * sizeof *want), *got = (float *)malloc(64 * 300 * sizeof *got);
  assert_true(want && got);
  qi_session *a = run_session(rm->m, &sd), *b = run_session(rm->m, &sd);
  qi_error err = {QI_OK, ""};
  for (int step = 0; step < 40; step++) {
    int seq = (int)(rm_next(&seed) % N_SEQS), to = (int)(rm_next(&seed) % N_SEQS), length = qi_seq_length(a, seq);
    int n = (int)(rm_next(&seed) % (uint64_t)(length + 1));
    qi_token ids[50];
    switch (rm_next(&seed) % 6) { // what a window forbids is refused
    case 0: qi_seq_fork(a, seq, to, n, &err); break;
    case 1: qi_seq_truncate(a, seq, n, &err); break;
    case 2: qi_seq_shift(a, seq, n / 3, n - n / 3, &err); break;
    default:
      if (length > 400) break;
      run_random_tokens(seed, 300, ids, 50);
      run_decode(a, rm->m, ids, 50, 0, seq, false, want);
    }
    bytes file = save(a);
    RUN_OK(qi_session_load(b, file.p, file.n, &err), err);
    expect_saves(b, &file);
    free(file.p);
    assert_int_equal(unused(a), unused(b));
    if (step % 8) continue;
    decode_all(a, seed, 1, want);
    decode_all(b, seed, 1, got);
    run_expect_bits(got, want, N_SEQS * 300, "restored", "after random calls");
  }
  free(want);
  free(got);
  qi_session_close(a);
  qi_session_close(b);
}

static void test_random(void **state) {
  (void)state;
  for (int window = 0; window < 200; window += 70) {
    run_model rm = save_model(window, 1);
    for (uint64_t seed = 1; seed < 5; seed++) run_random(&rm, seed + (uint64_t)window);
    run_free(&rm);
  }
}

// ---- what is refused ----

static void expect_refused(qi_session *s, const bytes *file, qi_result want, const char *word) {
  qi_error err = {QI_OK, ""};
  bytes before = save(s);
  run_expect(qi_session_load(s, file->p, file->n, &err), want, &err, "load");
  if (!strstr(err.msg, word)) fail_msg("\"%s\" says nothing of \"%s\"", err.msg, word);
  expect_saves(s, &before);
  free(before.p);
}

static void expect_refused_by(const run_model *rm, const qi_session_desc *sd, const bytes *file, qi_result want, const char *word) {
  qi_session *s = run_session(rm->m, sd);
  expect_refused(s, file, want, word);
  qi_session_close(s);
}

static void test_other_sessions(void **state) {
  (void)state;
  run_model rm = save_model(0, 1), weights = save_model(0, 2);
  qi_session_desc sd = seqs_desc(QI_KV_F16);
  float *out = (float *)malloc(64 * 300 * sizeof *out);
  assert_non_null(out);
  qi_session *s = run_session(rm.m, &sd);
  make_forks(s, rm.m, false);
  decode_all(s, 1, 10, out);
  bytes file = save(s);
  expect_refused_by(&weights, &sd, &file, QI_ERR_ARGUMENT, "another model");
  qi_session_desc other = sd;
  other.kv_type = QI_KV_BF16;
  expect_refused_by(&rm, &other, &file, QI_ERR_ARGUMENT, "kv_type");
  other = sd;
  other.n_ctx = 299;
  expect_refused_by(&rm, &other, &file, QI_ERR_CONTEXT, "n_ctx is 299");
  other.n_ctx = 300;
  qi_session *fits = run_session(rm.m, &other);
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_session_load(fits, file.p, file.n, &err), err);
  qi_session_close(fits);
  other = sd;
  other.n_seqs = 3;
  other.n_ctx = 1000;
  expect_refused_by(&rm, &other, &file, QI_ERR_CONTEXT, "4 sequences");
  other = sd;
  other.n_kv_tokens = 128 * 5;
  expect_refused_by(&rm, &other, &file, QI_ERR_CONTEXT, "n_kv_tokens");
  other = sd;
  other.n_logits = 39;
  expect_refused_by(&rm, &other, &file, QI_ERR_LIMIT, "logits");
  free(out);
  free(file.p);
  qi_session_close(s);
  run_free(&rm);
  run_free(&weights);
}

// A small one: text, with everything in it that there can be.
static bytes small_file(qi_session *s) {
  qi_error err = {QI_OK, ""};
  qi_token ids[8];
  char text[512];
  qi_piece p;
  RUN_OK(qi_prompt(s, "the rain", &err), err);
  tell(s, 4, ids, text);
  RUN_OK(qi_seq_fork(s, 0, 1, 3, &err), err);
  qi__text_push(&s->text, "ab\xe2\x82", 4, &p);
  return save(s);
}

static qi_session_desc small_desc(void) {
  static const char *const stop[] = {"abc"};
  qi_session_desc sd = text_desc(1);
  sd.n_ctx = 20;
  sd.n_seqs = 2;
  sd.stop = stop;
  sd.n_stop = 1;
  return sd;
}

static void test_damaged(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  d.n_vocab = 40;
  run_model rm = run_build(&d);
  qi_session_desc sd = small_desc();
  qi_session *s = run_session(rm.m, &sd);
  bytes file = small_file(s), before;
  qi_error err = {QI_OK, ""};
  qi_session_reset(s);
  RUN_OK(qi_prompt(s, "other", &err), err);
  before = save(s);
  for (size_t n = 0; n < file.n; n += n < 600 ? 1 : 997) {
    qi_result r = qi_session_load(s, file.p, n, &err);
    if (r != QI_ERR_FORMAT) fail_msg("cut off after %lu: %s", (unsigned long)n, qi_result_name(r));
  }
  for (size_t at = 0; at < file.n; at += at < 1000 ? 1 : 61) {
    file.p[at] ^= (uint8_t)(1 << (at % 8));
    err.msg[0] = 0;
    if (qi_session_load(s, file.p, file.n, &err) >= 0 || !err.msg[0]) fail_msg("byte %lu may be wrong", (unsigned long)at);
    file.p[at] ^= (uint8_t)(1 << (at % 8));
  }
  expect_saves(s, &before);
  RUN_OK(qi_session_load(s, file.p, file.n, &err), err);
  expect_saves(s, &file);
  free(before.p);
  free(file.p);
  qi_session_close(s);
  run_free(&rm);
}

// A writer of files knows the checksum too.
static void stamp(bytes *b) {
  uint64_t digest = 0;
  size_t end = b->n - 8;
  for (size_t at = 0; at < end; at += QI__STREAM_BLOCK)
    digest = qi__digest(digest, b->p + at, qi__min_size(end - at, QI__STREAM_BLOCK));
  for (size_t i = 0; i < 8; i++) b->p[end + i] = (uint8_t)(digest >> (8 * i));
}

static void test_hostile(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  d.n_vocab = 40;
  run_model rm = run_build(&d);
  qi_session_desc sd = small_desc();
  qi_session *s = run_session(rm.m, &sd);
  bytes file = small_file(s);
  const size_t seqs = sizeof(qi__save_head), second = seqs + 20 + 4 * (size_t)qi_seq_length(s, 0), history = second + 20 + 4 * 3;
  const struct {
    size_t at;
    uint8_t byte;
    qi_result want;
    const char *word;
  } cases[] = {
    {offsetof(qi__save_head, magic), 'Q', QI_ERR_FORMAT, "no saved session"},
    {offsetof(qi__save_head, version), 9, QI_ERR_UNSUPPORTED, "version 9"},
    {offsetof(qi__save_head, order), 1, QI_ERR_UNSUPPORTED, "order of bytes"},
    {offsetof(qi__save_head, rope), 1, QI_ERR_ARGUMENT, "rotations"},
    {offsetof(qi__save_head, page_bytes), 1, QI_ERR_FORMAT, "size"},
    {offsetof(qi__save_head, n_pages), 200, QI_ERR_CONTEXT, "pages"},
    {offsetof(qi__save_head, n_slots) + 7, 200, QI_ERR_FORMAT, "cut off"},
    {offsetof(qi__save_head, n_history) + 5, 1, QI_ERR_FORMAT, "recent"},
    {offsetof(qi__save_head, n_pending), 33, QI_ERR_FORMAT, "pending"},
    {offsetof(qi__save_head, n_held), 3, QI_ERR_LIMIT, "held back"},
    {offsetof(qi__save_head, n_partial), 4, QI_ERR_FORMAT, "character"},
    {offsetof(qi__save_head, prompted), 2, QI_ERR_FORMAT, "flag"},
    {offsetof(qi__save_head, n_predicted) + 4, 2, QI_ERR_FORMAT, "predicted"},
    {seqs, 250, QI_ERR_CONTEXT, "n_ctx"},
    {seqs + 8, 1, QI_ERR_FORMAT, "begins"},
    {seqs + 16, 1, QI_ERR_FORMAT, "page 1"},
    {seqs + 20, 42, QI_ERR_FORMAT, "token 42"},
    {second, 0, QI_ERR_FORMAT, "of no sequence"},
    {second, 2, QI_ERR_FORMAT, "of no sequence"},
    {second, 9, QI_ERR_FORMAT, "too many tokens"},
    {second + 16, 1, QI_ERR_FORMAT, "page 1"},
    {second + 24, 43, QI_ERR_FORMAT, "token 43"},
    {history, 41, QI_ERR_FORMAT, "token 41"},
    {offsetof(qi__save_head, grammar), 1, QI_ERR_ARGUMENT, "constrain the session"},
    {offsetof(qi__save_head, n_stacks), 1, QI_ERR_FORMAT, "stacks of the grammar"},
    {offsetof(qi__save_head, n_pairs), 1, QI_ERR_FORMAT, "places in the grammar"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    uint8_t old = file.p[cases[i].at];
    file.p[cases[i].at] = cases[i].byte;
    stamp(&file);
    if (cases[i].want) expect_refused(s, &file, cases[i].want, cases[i].word);
    file.p[cases[i].at] = old;
  }
  stamp(&file);
  expect_saves(s, &file);
  free(file.p);
  qi_session_close(s);
  run_free(&rm);
}

// ---- grammars ----

// Calls within calls, in more ways than one: what is open at a place are stacks over stacks.
static const char nested[] = "root ::= part{3,200}\npart ::= [a-z] (\" \" | [a-s] part [t-z .] | \"a\" part part [a-e .])";

typedef struct constrained {
  qi_grammar *g;
  qi_matcher *mt;
  qi_session *s;
} constrained;

static constrained open_constrained(const run_model *rm, const char *gbnf) {
  qi_session_desc sd = text_desc(1);
  qi_error err = {QI_OK, ""};
  qi_grammar_desc gd;
  constrained c;
  memset(&gd, 0, sizeof gd);
  gd.gbnf = gbnf;
  c.s = run_session(rm->m, &sd);
  RUN_OK(qi_grammar_open(&c.g, rm->m, &gd, &err), err);
  RUN_OK(qi_matcher_open(&c.mt, c.g, NULL, NULL, &err), err);
  RUN_OK(qi_session_constrain(c.s, c.mt, false, &err), err);
  return c;
}

static void close_constrained(constrained *c) {
  qi_session_close(c->s);
  qi_matcher_close(c->mt);
  qi_grammar_close(c->g);
}

// Saved anywhere in an answer that follows a grammar, it goes on with the same words. Another grammar is refused, and so is none;
// what was saved without one begins it.
static void test_grammar(void **state) {
  (void)state;
  run_model rm = save_model(0, 1);
  qi_error err = {QI_OK, ""};
  qi_token ids[2][20];
  char text[2][512];
  constrained from = open_constrained(&rm, nested), to = open_constrained(&rm, nested);
  constrained other = open_constrained(&rm, "root ::= .*");
  qi_session_desc sd = text_desc(1);
  qi_session *plain = run_session(rm.m, &sd);
  size_t most_stacks = 0;
  for (size_t n = 0; n < 60; n += 1 + n / 7) {
    qi_session_reset(from.s);
    RUN_OK(qi_prompt(from.s, "the rain", &err), err);
    for (size_t i = 0; i < n; i++) tell(from.s, 1, ids[0], text[0]);
    bytes file = save(from.s);
    qi__save_head head;
    memcpy(&head, file.p, sizeof head);
    if (head.n_stacks > most_stacks) most_stacks = (size_t)head.n_stacks;
    size_t len = tell(from.s, 20, ids[0], text[0]);
    RUN_OK(qi_session_load(to.s, file.p, file.n, &err), err);
    expect_saves(to.s, &file);
    assert_int_equal(tell(to.s, 20, ids[1], text[1]), len);
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_memory_equal(text[0], text[1], len);
    expect_refused(other.s, &file, QI_ERR_ARGUMENT, "another grammar");
    expect_refused(plain, &file, QI_ERR_ARGUMENT, "constrain the session");
    free(file.p);
  }
  assert_true(most_stacks > 5);
  RUN_OK(qi_prompt(plain, "the rain", &err), err);
  bytes file = save(plain);
  tell(to.s, 1, ids[0], text[0]);
  assert_int_not_equal(to.mt->state, to.mt->automaton->start);
  RUN_OK(qi_session_load(to.s, file.p, file.n, &err), err);
  assert_int_equal(to.mt->state, to.mt->automaton->start);
  free(file.p);
  qi_session_close(plain);
  close_constrained(&from);
  close_constrained(&to);
  close_constrained(&other);
  run_free(&rm);
}

// Whatever stands where the place in the grammar is: it is refused, or a place that text goes on from, or does not.
static void test_hostile_grammar(void **state) {
  (void)state;
  run_model rm = save_model(0, 1);
  qi_error err = {QI_OK, ""};
  qi_token ids[1];
  char text[64];
  constrained c = open_constrained(&rm, nested);
  RUN_OK(qi_prompt(c.s, "the rain", &err), err);
  qi__save_head head;
  bytes file = {NULL, 0};
  do {
    tell(c.s, 1, ids, text);
    free(file.p);
    file = save(c.s);
    memcpy(&head, file.p, sizeof head);
  } while (head.n_stacks < 3);
  size_t end = file.n - 8 - (size_t)(head.n_pages * head.page_bytes + head.n_logits * head.n_vocab * 4);
  size_t begin = end - 4 * (size_t)(head.n_stacks + 1) - 8 * (size_t)head.n_pairs, n_taken = 0, n_refused = 0;
  static const uint8_t changes[] = {1, 2, 3, 0x80, 0xff};
  for (size_t at = begin; at < end; at++)
    for (size_t k = 0; k < sizeof changes; k++) {
      file.p[at] ^= changes[k];
      stamp(&file);
      qi_result r = qi_session_load(c.s, file.p, file.n, &err);
      if (r) {
        run_expect(r, QI_ERR_FORMAT, &err, "load");
        n_refused++;
      } else {
        qi_piece p;
        n_taken++;
        for (int i = 0; i < 3 && (r = qi_next(c.s, &p, &err)) == QI_OK; i++) continue;
        assert_true(r >= 0 || r == QI_ERR_STATE || r == QI_ERR_LIMIT);
      }
      file.p[at] ^= changes[k];
    }
  assert_true(n_taken > 0 && n_refused > n_taken);
  stamp(&file);
  RUN_OK(qi_session_load(c.s, file.p, file.n, &err), err);
  expect_saves(c.s, &file);
  free(file.p);
  close_constrained(&c);
  run_free(&rm);
}

// ---- calls ----

static void test_calls(void **state) {
  (void)state;
  run_model rm = save_model(0, 1);
  qi_session_desc sd = text_desc(1);
  qi_session *s = run_session(rm.m, &sd);
  qi_error err = {QI_OK, ""};
  size_t n = 0;
  qi_token one[1] = {3};
  const qi_decode_token token = {3, 0, false, true};
  RUN_OK(qi_decode(s, &token, 0, &err), err); // leaves nothing unfinished
  RUN_OK(qi_decode_begin(s, &token, 0, &err), err);
  RUN_OK(qi_decode(s, &token, 1, &err), err);
  RUN_OK(qi_decode(s, &token, 0, &err), err);
  assert_non_null(qi_logits(s, 0));
  bytes file = save(s);
  RUN_OK(qi_prompt_tokens(s, one, 1, &err), err);
  assert_int_equal(qi_session_save(s, NULL, 0, &n, &err), QI_ERR_STATE);
  assert_non_null(strstr(err.msg, "unfinished"));
  file.p[file.n - 1] ^= 1;
  assert_int_equal(qi_session_load(s, file.p, file.n, &err), QI_ERR_FORMAT);
  assert_int_equal(qi_session_save(s, NULL, 0, &n, &err), QI_ERR_STATE); // the work is still there
  file.p[file.n - 1] ^= 1;
  qi_cancel(s);
  assert_int_equal(qi_session_load(s, file.p, file.n, &err), QI_ERR_CANCELLED);
  assert_int_equal(qi_session_save(s, NULL, 0, &n, &err), QI_ERR_STATE);
  RUN_OK(qi_session_load(s, file.p, file.n, &err), err);
  expect_saves(s, &file);
  RUN_OK(qi_decode(s, &token, 1, &err), err);
  assert_int_equal(qi_session_save(NULL, NULL, 0, &n, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_session_save(s, NULL, 0, NULL, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_session_save(s, NULL, 1, &n, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_session_load(s, NULL, 1, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_session_load(s, file.p, 0, &err), QI_ERR_FORMAT);
  assert_int_equal(qi_session_save_path(s, NULL, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_session_load_path(s, NULL, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_session_save_to(s, NULL, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi_session_load_from(s, NULL, &err), QI_ERR_ARGUMENT);
  free(file.p);
  qi_session_close(s);
  run_free(&rm);
}

// A writer and a reader over memory that fail at a call.
typedef struct wire {
  bytes b;
  size_t at;
  int n_calls, fail_at;
} wire;

static bool wire_write(void *user, const void *p, size_t n) {
  wire *w = (wire *)user;
  if (++w->n_calls == w->fail_at || w->at + n > w->b.n) return false;
  memcpy(w->b.p + w->at, p, n);
  w->at += n;
  return true;
}
static bool wire_read(void *user, uint64_t offset, void *dst, size_t n) {
  wire *w = (wire *)user;
  if (++w->n_calls == w->fail_at) return false;
  memcpy(dst, w->b.p + offset, n);
  return true;
}

static void test_callbacks(void **state) {
  (void)state;
  run_model rm = save_model(0, 1);
  qi_session_desc sd = text_desc(1);
  qi_session *s = run_session(rm.m, &sd), *to = run_session(rm.m, &sd);
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_prompt(s, "the rain", &err), err);
  bytes file = save(s), empty = save(to);
  wire w = {{(uint8_t *)malloc(file.n), file.n}, 0, 0, 0};
  assert_non_null(w.b.p);
  qi_writer writer = {wire_write, &w};
  RUN_OK(qi_session_save_to(s, &writer, &err), err);
  assert_int_equal(w.at, file.n);
  assert_memory_equal(w.b.p, file.p, file.n);
  int n_writes = w.n_calls;
  for (w.fail_at = 1; w.fail_at <= n_writes; w.fail_at++) {
    w.at = 0;
    w.n_calls = 0;
    assert_int_equal(qi_session_save_to(s, &writer, &err), QI_ERR_IO);
    assert_int_equal(w.n_calls, w.fail_at);
  }
  expect_saves(s, &file);
  memcpy(w.b.p, file.p, file.n);
  qi_reader reader = {wire_read, file.n, &w};
  w.n_calls = w.fail_at = 0;
  RUN_OK(qi_session_load_from(to, &reader, &err), err);
  expect_saves(to, &file);
  int n_reads = w.n_calls;
  for (w.fail_at = 1; w.fail_at <= n_reads; w.fail_at++) { // as before, or empty when it was found to be sound once
    w.n_calls = 0;
    assert_int_equal(qi_session_load_from(to, &reader, &err), QI_ERR_IO);
    bool changed = w.fail_at > n_reads / 2;
    expect_saves(to, changed ? &empty : &file);
    RUN_OK(qi_session_load(to, file.p, file.n, &err), err);
  }
  free(w.b.p);
  free(file.p);
  free(empty.p);
  qi_session_close(s);
  qi_session_close(to);
  run_free(&rm);
}

// ---- cancelling ----

// A wire whose session is cancelled in its n-th part.
typedef struct cut_wire {
  bytes file;
  qi_session *s;
  size_t n_calls, cancel_at;
} cut_wire;

static bool cut_read(void *user, uint64_t offset, void *dst, size_t n) {
  cut_wire *w = (cut_wire *)user;
  memcpy(dst, w->file.p + offset, n);
  if (++w->n_calls == w->cancel_at) qi_cancel(w->s);
  return true;
}
static bool cut_write(void *user, const void *p, size_t n) {
  cut_wire *w = (cut_wire *)user;
  (void)p, (void)n;
  if (++w->n_calls == w->cancel_at) qi_cancel(w->s);
  return true;
}

// Wherever it comes, the call is stopped, or the next one if it was too late: no cancel is lost. Nothing is damaged.
static void test_cancel(void **state) {
  (void)state;
  run_model rm = save_model(0, 1);
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = text_desc(0);
  qi_session *s = run_session(rm.m, &sd), *other = run_session(rm.m, &sd);
  qi_token ids[150];
  run_random_tokens(5, 300, ids, 150);
  RUN_OK(qi_prompt_tokens(s, ids, 150, &err), err);
  RUN_OK(qi_step(s, 0, &err), err);
  RUN_OK(qi_prompt_tokens(other, ids, 7, &err), err);
  RUN_OK(qi_step(other, 0, &err), err);
  cut_wire w = {save(s), s, 0, 0};
  bytes before = save(other);
  qi_writer writer = {cut_write, &w};
  qi_reader reader = {cut_read, w.file.n, &w};
  size_t n_stopped = 0, n_reset = 0, n_parts = 0;
  for (size_t at = 1; n_parts == 0; at++) {
    w.n_calls = 0;
    w.cancel_at = at;
    qi_result r = qi_session_save_to(s, &writer, &err);
    if (w.n_calls < at) n_parts = w.n_calls;
    if (r == QI_OK && n_parts == 0) r = qi_session_save_to(s, &writer, &err);
    run_expect(r, n_parts ? QI_OK : QI_ERR_CANCELLED, &err, "a cancelled save");
    expect_saves(s, &w.file);
  }
  for (size_t at = 1; at <= 2 * n_parts; at++) {
    w.n_calls = 0;
    w.cancel_at = at;
    w.s = other;
    qi_result r = qi_session_load_from(other, &reader, &err);
    if (r == QI_OK) {
      run_expect(qi_session_load_from(other, &reader, &err), QI_ERR_CANCELLED, &err, "the load after a cancel that was late");
      expect_saves(other, &w.file);
    } else {
      run_expect(r, QI_ERR_CANCELLED, &err, "a cancelled load");
      n_stopped++;
      if (qi_seq_length(other, 0)) expect_saves(other, &before);
      else n_reset++;
    }
    RUN_OK(qi_session_load(other, before.p, before.n, &err), err);
  }
  assert_true(n_stopped > n_reset && n_reset > 0);
  free(w.file.p);
  free(before.p);
  qi_session_close(other);
  qi_session_close(s);
  run_free(&rm);
}

// ---- files ----

typedef struct folder {
  char dir[64], path[80], part[96];
} folder;

static folder folder_make(void) {
  folder f = {"/tmp/qi_save_XXXXXX", "", ""};
  assert_non_null(mkdtemp(f.dir));
  snprintf(f.path, sizeof f.path, "%s/session", f.dir);
  snprintf(f.part, sizeof f.part, "%s.part", f.path);
  return f;
}
static void folder_remove(const folder *f) {
  remove(f->path);
  remove(f->part);
  assert_int_equal(rmdir(f->dir), 0);
}

static void expect_file(const char *path, const bytes *want, const bytes *or_this) {
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  uint8_t *got = (uint8_t *)malloc(1 << 24);
  assert_non_null(got);
  size_t n = fread(got, 1, 1 << 24, f);
  fclose(f);
  bool same = n == want->n && !memcmp(got, want->p, n);
  assert_true(same || (or_this && n == or_this->n && !memcmp(got, or_this->p, n)));
  free(got);
}

static void test_files(void **state) {
  (void)state;
  folder f = folder_make();
  run_model rm = save_model(0, 1);
  qi_session_desc sd = text_desc(1);
  qi_session *s = run_session(rm.m, &sd), *to = run_session(rm.m, &sd);
  qi_error err = {QI_OK, ""};
  struct stat st;
  RUN_OK(qi_session_save_path(s, f.path, &err), err);
  RUN_OK(qi_prompt(s, "the rain", &err), err);
  bytes file = save(s);
  assert_int_equal(chmod(f.path, 0600), 0);
  FILE *left = fopen(f.part, "wb"); // of a process that was killed
  assert_non_null(left);
  for (int i = 0; i < 1 << 20; i++) fputc('x', left);
  fclose(left);
  RUN_OK(qi_session_save_path(s, f.path, &err), err);
  expect_file(f.path, &file, NULL);
  assert_int_equal(stat(f.part, &st), -1);
  assert_int_equal(stat(f.path, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0600);
  RUN_OK(qi_session_load_path(to, f.path, &err), err);
  expect_saves(to, &file);
  assert_int_equal(truncate(f.path, (off_t)file.n - 1), 0);
  assert_int_equal(qi_session_load_path(to, f.path, &err), QI_ERR_FORMAT);
  assert_non_null(strstr(err.msg, "/session"));
  // Another save to this path.
  int fd = open(f.part, O_RDWR | O_CREAT, 0600);
  assert_true(fd >= 0 && !flock(fd, LOCK_EX));
  assert_int_equal(qi_session_save_path(s, f.path, &err), QI_ERR_IO);
  assert_non_null(strstr(err.msg, "under way"));
  assert_int_equal(access(f.part, F_OK), 0);
  close(fd);
  RUN_OK(qi_session_save_path(s, f.path, &err), err);
  expect_file(f.path, &file, NULL);
  // What cannot be: no such folder, a folder in its place, unfinished work (leaves no part behind).
  assert_int_equal(qi_session_save_path(s, "/nowhere/at/all", &err), QI_ERR_IO);
  assert_int_equal(qi_session_save_path(s, f.dir, &err), QI_ERR_IO);
  assert_int_equal(qi_session_load_path(s, "/nowhere/at/all", &err), QI_ERR_IO);
  qi_token one[1] = {3};
  RUN_OK(qi_prompt_tokens(s, one, 1, &err), err);
  assert_int_equal(qi_session_save_path(s, f.path, &err), QI_ERR_STATE);
  assert_int_equal(access(f.part, F_OK), -1);
  expect_file(f.path, &file, NULL);
  char beside[80];
  snprintf(beside, sizeof beside, "%s.part", f.dir);
  remove(beside);
  free(file.p);
  qi_session_close(s);
  qi_session_close(to);
  run_free(&rm);
  folder_remove(&f);
}

// What the child does until it is killed.
static void save_for_ever(qi_session *const s[2], const char *path) {
  for (int k = 0; !qi_session_save_path(s[k % 2], path, NULL);) k++;
  _exit(1);
}

// A child saves one state, then another, again and again; wherever it is killed, one of them is there.
static void test_kill(void **state) {
  (void)state;
  folder f = folder_make();
  run_model rm = save_model(0, 1);
  qi_session_desc sd = text_desc(1);
  qi_session *s[2] = {run_session(rm.m, &sd), run_session(rm.m, &sd)};
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_prompt(s[0], "the rain", &err), err);
  RUN_OK(qi_prompt(s[1], "the sun and the moon", &err), err);
  bytes files[2] = {save(s[0]), save(s[1])};
  uint64_t rng = 1;
  RUN_OK(qi_session_save_path(s[0], f.path, &err), err);
  for (int i = 0; i < 40; i++) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) save_for_ever(s, f.path);
    usleep((useconds_t)(1000 + rm_next(&rng) % 20000));
    int status = 0;
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    expect_file(f.path, &files[0], &files[1]);
    RUN_OK(qi_session_load_path(s[i % 2], f.path, &err), err);
    RUN_OK(qi_session_load(s[0], files[0].p, files[0].n, &err), err);
    RUN_OK(qi_session_load(s[1], files[1].p, files[1].n, &err), err);
  }
  free(files[0].p);
  free(files[1].p);
  qi_session_close(s[0]);
  qi_session_close(s[1]);
  run_free(&rm);
  folder_remove(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_text),           cmocka_unit_test(test_held_text), cmocka_unit_test(test_sequences),
    cmocka_unit_test(test_other_sessions), cmocka_unit_test(test_damaged),   cmocka_unit_test(test_hostile),
    cmocka_unit_test(test_grammar),        cmocka_unit_test(test_hostile_grammar),
    cmocka_unit_test(test_calls),          cmocka_unit_test(test_callbacks), cmocka_unit_test(test_files),
    cmocka_unit_test(test_cancel),         cmocka_unit_test(test_kill),      cmocka_unit_test(test_random),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
