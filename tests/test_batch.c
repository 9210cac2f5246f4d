// sanitize: thread
// Batches: every answer is that of a lone session, whatever runs beside it; order, room, ends, memory, wrong arguments.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/run_model.h"

// 200 tokens: too few for byte tokens, so that every piece is whole characters.
static run_model any_model(int window, qi_format format) {
  rm_desc d = rm_llama();
  d.window = window;
  d.n_vocab = 200;
  d.n_kv_heads = 2;
  d.format = format;
  return run_build(&d);
}
static run_model small_model(void) { return any_model(-1, QI_FORMAT_Q8_0); }

#define N_CTX 150

static qi_batch_desc batch_desc(void) {
  qi_batch_desc bd;
  memset(&bd, 0, sizeof bd);
  bd.session.n_ctx = N_CTX;
  bd.session.n_seqs = 4;
  bd.session.n_threads = 1;
  bd.session.sampler.repetition_penalty = 1.1f;
  bd.session.sampler.dry_multiplier = 1;
  bd.session.sampler.dry_last_n = 64;
  return bd;
}

static qi_batch *open_batch(const qi_model *m, const qi_batch_desc *bd) {
  qi_batch *b = NULL;
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_batch_open(&b, m, bd, &err), err);
  return b;
}

// ---- answers ----

typedef struct answer {
  qi_token ids[N_CTX + 1];
  size_t n, len;
  char text[4096];
  qi_done done;
  int n_ends;
} answer;

static void answer_add(answer *a, const qi_piece *p) {
  assert_true(a->len + p->len < sizeof a->text);
  memcpy(a->text + a->len, p->text, p->len);
  a->len += p->len;
  a->text[a->len] = 0;
  if (p->token >= 0) a->ids[a->n++] = p->token;
}

// A session whose context is full keeps what it holds back, a batch gives it with the end.
static void expect_same(const answer *got, const answer *want, const char *what) {
  assert_int_equal(got->n_ends, 1);
  size_t held = want->done == QI_DONE_CONTEXT ? got->len - want->len : 0;
  if (got->done != want->done || got->n != want->n || memcmp(got->ids, want->ids, want->n * sizeof want->ids[0]) || held > 4 ||
      got->len != want->len + held || memcmp(got->text, want->text, want->len))
    fail_msg("%s: %s after %lu tokens \"%s\", expected %s after %lu tokens \"%s\"", what, qi_done_name(got->done),
             (unsigned long)got->n, got->text, qi_done_name(want->done), (unsigned long)want->n, want->text);
}

// What a session says that has nothing else to do.
static answer lone(const qi_model *m, const qi_session_desc *desc, const qi_batch_request *q) {
  qi_error err = {QI_OK, ""};
  qi_session_desc sd = *desc;
  qi_piece p;
  qi_result r = QI_OK;
  answer a;
  memset(&a, 0, sizeof a);
  sd.n_seqs = 1;
  sd.n_kv_tokens = 0;
  sd.n_threads = 1;
  sd.lookup = false;
  sd.draft = NULL;
  sd.sampler = q->sampler;
  sd.stop = q->stop;
  sd.n_stop = q->n_stop;
  sd.n_predict = q->n_predict;
  sd.ignore_end = q->ignore_end;
  qi_session *s = run_session(m, &sd);
  RUN_OK(qi_session_constrain(s, q->matcher, false, &err), err);
  RUN_OK(qi_prompt_tokens(s, q->ids, q->n_ids, &err), err);
  while (r == QI_OK) {
    r = qi_next(s, &p, &err);
    if (r == QI_OK || r == QI_END) answer_add(&a, &p);
    bool limit = q->n_predict > 0 && a.n == (size_t)q->n_predict;
    if (r != QI_END) continue;
    if (p.token < 0) a.done = limit ? QI_DONE_LIMIT : QI_DONE_END; // that of the grammar
    else a.done = qi_token_is_end(m, p.token) ? QI_DONE_END : QI_DONE_STOP;
  }
  if (r == QI_ERR_CONTEXT) a.done = QI_DONE_CONTEXT;
  else run_expect(r, QI_END, &err, "a lone session");
  a.n_ends = 1;
  RUN_OK(qi_session_constrain(s, NULL, false, &err), err);
  qi_session_close(s);
  return a;
}

// Events to the answers that `user` points to.
static void poll_all(qi_batch *b) {
  qi_batch_event e;
  while (qi_batch_poll(b, &e)) {
    answer *a = (answer *)e.user;
    assert_int_equal(a->n_ends, 0);
    answer_add(a, &e.piece);
    if (!e.done) continue;
    a->done = e.done;
    a->n_ends++;
  }
}

static void run_all(qi_batch *b, uint32_t budget_us) {
  qi_error err = {QI_OK, ""};
  qi_result r;
  while ((r = qi_batch_step(b, budget_us, &err)) != QI_END) {
    if (r != QI_AGAIN) run_expect(r, QI_OK, &err, "qi_batch_step");
    poll_all(b);
  }
}

// ---- random mixes ----

#define N_MIX 12

typedef struct mix {
  qi_token ids[N_MIX][N_CTX];
  qi_batch_request q[N_MIX];
  answer want[N_MIX], got[N_MIX];
  qi_matcher *matcher[2], *lone;
} mix;

static size_t below(uint64_t *seed, size_t n) { return (size_t)(rm_next(seed) % n); }

static void make_sampler(uint64_t *seed, qi_sampler_desc *d) {
  size_t kind = below(seed, 4);
  d->seed = rm_next(seed);
  if (kind) d->temperature = 0.5f + 0.2f * (float)below(seed, 5);
  if (kind > 1) d->top_p = 0.9f, d->top_k = 40, d->typical_p = below(seed, 2) ? 0.95f : 0;
  if (kind > 2) d->repetition_penalty = 1.2f, d->dry_multiplier = 0.8f, d->dry_last_n = 64, d->xtc_probability = 0.3f;
}

// Some begin alike; some follow a grammar; some are too long for the context.
static void make_mix(mix *x, const qi_model *m, const qi_session_desc *sd, uint64_t seed) {
  static const char *const stops[] = {" the ", "an", "qq"};
  memset(x->q, 0, sizeof x->q);
  for (size_t i = 0; i < N_MIX; i++) {
    qi_batch_request *q = &x->q[i];
    size_t n = 1 + below(&seed, below(&seed, 3) ? 20 : N_CTX - 20);
    run_random_tokens(rm_next(&seed), 200, x->ids[i], n);
    if (i && below(&seed, 2)) {
      const qi_batch_request *other = &x->q[below(&seed, i)];
      memcpy(x->ids[i], other->ids, (n < other->n_ids ? n : other->n_ids) * sizeof(qi_token));
    }
    q->ids = x->ids[i];
    q->n_ids = n;
    make_sampler(&seed, &q->sampler);
    q->priority = (int)below(&seed, 3) - 1;
    q->n_predict = below(&seed, 4) ? 1 + (int)below(&seed, 60) : 0;
    q->ignore_end = below(&seed, 4) != 0;
    q->stop = stops;
    q->n_stop = (int)below(&seed, 4);
    q->keep = below(&seed, 4) == 0;
    q->user = &x->got[i];
    if (i < 2) q->matcher = x->lone;
    x->want[i] = lone(m, sd, q);
    if (i < 2) q->matcher = x->matcher[i];
  }
}

// Submits them one after another between steps, now and then cancels one or is cancelled itself, and compares.
static void run_mix(mix *x, qi_batch *b, uint64_t seed, uint32_t budget_us) {
  qi_error err = {QI_OK, ""};
  uint64_t id[N_MIX] = {0};
  size_t n = 0, victim = N_MIX;
  qi_result r = QI_OK;
  memset(x->got, 0, sizeof x->got);
  while (n < N_MIX || r != QI_END) {
    bool submit = n < N_MIX && below(&seed, 3);
    if (submit) {
      qi_batch_request q = x->q[n];
      size_t with = below(&seed, N_MIX);
      if (with < n && !x->got[with].n_ends) q.share = id[with];
      r = qi_batch_submit(b, &q, &id[n], &err);
      if (r == QI_ERR_LIMIT && q.keep) {
        q.keep = x->q[n].keep = false;
        r = qi_batch_submit(b, &q, &id[n], &err);
      }
      run_expect(r, QI_OK, &err, "qi_batch_submit");
      n++;
    }
    if (n == N_MIX / 2 && submit && !x->got[n - 1].n_ends) RUN_OK(qi_batch_cancel(b, id[victim = n - 1], &err), err);
    if (!below(&seed, budget_us == 0 ? 20 : 2000)) qi_cancel(qi_batch_session(b));
    r = qi_batch_step(b, budget_us, &err);
    if (r < 0) run_expect(r, QI_ERR_CANCELLED, &err, "qi_batch_step");
    if (below(&seed, 4)) poll_all(b); // who is not polled waits
  }
  for (size_t i = 0; i < N_MIX; i++) {
    if (i == victim) {
      assert_int_equal(x->got[i].done, QI_DONE_CANCELLED);
      continue;
    }
    if (x->q[i].keep) RUN_OK(qi_batch_cancel(b, id[i], &err), err);
    expect_same(&x->got[i], &x->want[i], "in a mix");
  }
  run_expect(qi_batch_step(b, 0, &err), QI_END, &err, "with nothing left");
  qi_session_stats st;
  qi_session_get_stats(qi_batch_session(b), &st);
  assert_int_equal(st.kv_tokens, st.kv_tokens_unused);
}

// Half of the batches guess ahead: by lookup, with the model in a coarser format, or both.
static void check_mixes(int window, qi_format format) {
  static const uint32_t budgets[] = {0, 1, 50, 400};
  run_model rm = any_model(window, format), coarse = any_model(window, QI_FORMAT_Q4_0);
  qi_error err = {QI_OK, ""};
  mix *x = (mix *)calloc(1, sizeof *x);
  assert_non_null(x);
  qi_grammar *g = NULL;
  qi_grammar_desc gd;
  memset(&gd, 0, sizeof gd);
  gd.gbnf = "root ::= [a-z]+ \" \" [a-m ]* \"x\" [a-z ]{3,20}";
  RUN_OK(qi_grammar_open(&g, rm.m, &gd, &err), err);
  RUN_OK(qi_matcher_open(&x->lone, g, NULL, NULL, &err), err);
  for (int i = 0; i < 2; i++) RUN_OK(qi_matcher_open(&x->matcher[i], g, i ? x->matcher[0] : NULL, NULL, &err), err);
  uint64_t n_drafted = 0, n_accepted = 0;
  for (uint64_t seed = 0; seed < 32; seed++) {
    qi_batch_desc bd = batch_desc();
    bd.session.n_threads = 1 + (int)(seed % 4);
    bd.session.n_seqs = 2 + (int)(seed % 5);
    bd.session.n_batch = seed % 3 ? 0 : 7;
    bd.session.n_kv_tokens = seed % 2 ? 0 : 5 * QI__KV_PAGE;
    bd.session.kv_type = seed % 5 ? QI_KV_F16 : QI_KV_Q8;
    bd.n_requests = N_MIX;
    bd.n_step_tokens = 1 + 13 * (int)(seed % 3);
    if (seed & 16) bd.session.lookup = seed % 3 != 1, bd.session.draft = seed % 3 ? coarse.m : NULL;
    bd.session.n_draft = (int)(seed % 7);
    make_mix(x, rm.m, &bd.session, seed * 77);
    if (bd.session.n_kv_tokens) // kept ones would leave no room for others
      for (int i = 0; i < N_MIX; i++) x->q[i].keep = false;
    qi_batch *b = open_batch(rm.m, &bd);
    run_mix(x, b, seed, budgets[seed / 4 % 4]);
    qi_session_stats guesses;
    qi_session_get_stats(qi_batch_session(b), &guesses);
    n_drafted += guesses.n_drafted;
    n_accepted += guesses.n_accepted;
    qi_batch_stats st;
    qi_batch_get_stats(b, &st);
    assert_int_equal(st.n_waiting + st.n_running, 0);
    qi_batch_close(b);
  }
  assert_true(n_accepted > 100 && n_accepted < n_drafted);
  for (int i = 0; i < 2; i++) qi_matcher_close(x->matcher[i]);
  qi_matcher_close(x->lone);
  qi_grammar_close(g);
  free(x);
  run_free(&coarse);
  run_free(&rm);
}

static void test_random_mixes(void **state) {
  (void)state;
  check_mixes(-1, QI_FORMAT_Q8_0);
}
// What is out of sight is given back; prompts are computed otherwise than what is generated.
static void test_window_and_roles(void **state) {
  (void)state;
  check_mixes(20, QI_FORMAT_BF16);
}

// ---- one thing at a time ----

static qi_batch_request request(const char *text, answer *a) {
  qi_batch_request q;
  memset(&q, 0, sizeof q);
  memset(a, 0, sizeof *a);
  q.text = text;
  q.n_predict = 10;
  q.ignore_end = true;
  q.user = a;
  return q;
}

static uint64_t submit(qi_batch *b, const qi_batch_request *q) {
  qi_error err = {QI_OK, ""};
  uint64_t id = 0;
  RUN_OK(qi_batch_submit(b, q, &id, &err), err);
  assert_true(id != 0);
  return id;
}

// Sequences go to the highest priority, then to who came first.
static void test_order(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_batch_desc bd = batch_desc();
  answer a[6];
  static const int priority[6] = {0, 0, 5, 0, 5, -3}, order[6] = {2, 4, 0, 1, 3, 5};
  bd.session.n_seqs = 1;
  bd.n_requests = 6;
  qi_batch *b = open_batch(rm.m, &bd);
  for (int i = 0; i < 6; i++) {
    qi_batch_request q = request("rain", &a[i]);
    q.priority = priority[i];
    submit(b, &q);
  }
  for (int i = 0; i < 6; i++) {
    while (!a[order[i]].n_ends) {
      RUN_OK(qi_batch_step(b, 0, &err), err);
      poll_all(b);
    }
    for (int k = i + 1; k < 6; k++) assert_int_equal(a[order[k]].n, 0);
  }
  // Who has been overtaken often enough is no longer.
  answer first, others[4];
  qi_batch_request low = request("rain", &first);
  low.priority = -1;
  submit(b, &low);
  for (int i = 0; i < 4; i++) {
    qi_batch_request q = request("wind", &others[i]);
    submit(b, &q);
  }
  int n = 0;
  while (!first.n) {
    RUN_OK(qi_batch_step(b, 0, &err), err);
    poll_all(b);
    for (int i = 0; i < 4; i++) {
      if (!others[i].n_ends) continue;
      qi_batch_request q = request("wind", &others[i]);
      submit(b, &q);
      n++;
    }
    assert_true(n < 40);
  }
  assert_int_equal(n, QI__AGE);
  qi_batch_close(b);
  run_free(&rm);
}

// Two answers of two pages each, where there are three: one is put back, and goes on when the other has ended.
static void test_put_back(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_batch_desc bd = batch_desc();
  qi_batch_stats st;
  qi_token ids[2][5];
  answer got[2], want[2];
  bd.session.n_seqs = 2;
  bd.session.n_kv_tokens = 3 * QI__KV_PAGE;
  qi_batch *b = open_batch(rm.m, &bd);
  for (int i = 0; i < 2; i++) {
    qi_batch_request q = request(NULL, &got[i]);
    run_random_tokens((uint64_t)i + 1, 200, ids[i], 5);
    q.ids = ids[i];
    q.n_ids = 5;
    q.n_predict = QI__KV_PAGE + 10;
    want[i] = lone(rm.m, &bd.session, &q);
    submit(b, &q);
  }
  run_all(b, 0);
  for (int i = 0; i < 2; i++) expect_same(&got[i], &want[i], "put back, or not");
  qi_batch_get_stats(b, &st);
  assert_int_equal(st.n_put_back, 1);
  qi_batch_close(b);
  run_free(&rm);
}

// A long prompt takes the part of each step that is left by those that generate, and these have a token in each.
static void test_prompts_do_not_stall(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_batch_desc bd = batch_desc();
  answer a, c;
  qi_token ids[100];
  run_random_tokens(3, 200, ids, 100);
  bd.n_step_tokens = 11;
  qi_batch *b = open_batch(rm.m, &bd);
  qi_batch_request q = request("rain", &a);
  q.n_predict = 60;
  submit(b, &q);
  RUN_OK(qi_batch_step(b, 0, &err), err);
  poll_all(b);
  assert_int_equal(a.n, 1);
  q = request(NULL, &c);
  q.ids = ids;
  q.n_ids = 100;
  submit(b, &q);
  for (size_t i = 1; i <= 10; i++) {
    qi_session_stats before, after;
    qi_session_get_stats(qi_batch_session(b), &before);
    RUN_OK(qi_batch_step(b, 0, &err), err);
    qi_session_get_stats(qi_batch_session(b), &after);
    poll_all(b);
    assert_int_equal(after.n_prompt - before.n_prompt, 10);
    assert_int_equal(a.n, 1 + i);
    assert_int_equal(c.n, i == 10);
  }
  qi_batch_close(b);
  run_free(&rm);
}

// What texts have in common is computed once, also the answer of one that has ended.
static void test_share(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_batch_desc bd = batch_desc();
  qi_token ids[2][100];
  answer a[3];
  run_random_tokens(3, 200, ids[0], 100);
  memcpy(ids[1], ids[0], sizeof ids[0]);
  ids[1][80] = (ids[0][80] + 1) % 200;
  qi_batch *b = open_batch(rm.m, &bd);
  qi_batch_request q = request(NULL, &a[0]);
  q.ids = ids[0];
  q.n_ids = 90;
  q.keep = true;
  q.n_predict = 6;
  uint64_t id = submit(b, &q);
  run_all(b, 0);
  assert_int_equal(a[0].n, 6);
  for (int same = 0; same < 2; same++) { // another text from token 80 on; the conversation goes on after 5 computed tokens
    qi_session_stats before, after;
    q = request(NULL, &a[1 + same]);
    if (same) memcpy(ids[0] + 90, a[0].ids, 6 * sizeof(qi_token));
    q.ids = ids[!same];
    q.n_ids = 99;
    q.share = id;
    qi_session_get_stats(qi_batch_session(b), &before);
    submit(b, &q);
    run_all(b, 0);
    qi_session_get_stats(qi_batch_session(b), &after);
    assert_int_equal(after.n_prompt - before.n_prompt, same ? 3 : 19);
    if (!same) {
      answer want = lone(rm.m, &bd.session, &q);
      expect_same(&a[1], &want, "a shared beginning");
    }
  }
  qi_session_desc sd = bd.session; // the conversation in one session
  sd.n_seqs = 1;
  sd.n_predict = 6;
  sd.ignore_end = true;
  memset(&sd.sampler, 0, sizeof sd.sampler);
  qi_session *s = run_session(rm.m, &sd);
  qi_piece p;
  RUN_OK(qi_prompt_tokens(s, ids[0], 90, &err), err);
  for (int i = 0; i < 6; i++) RUN_OK(qi_next(s, &p, &err), err);
  run_expect(qi_next(s, &p, &err), QI_END, &err, "qi_next");
  RUN_OK(qi_prompt_tokens(s, ids[0] + 96, 3, &err), err);
  for (int i = 0; i < 6; i++) {
    RUN_OK(qi_next(s, &p, &err), err);
    assert_int_equal(p.token, a[2].ids[i]);
  }
  qi_session_close(s);
  RUN_OK(qi_batch_cancel(b, id, &err), err);
  run_expect(qi_batch_cancel(b, id, &err), QI_ERR_ARGUMENT, &err, "cancelled twice");
  run_expect(qi_batch_step(b, 0, &err), QI_END, &err, "nothing is left");
  qi_batch_close(b);
  run_free(&rm);
}

static void test_ends(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_batch_desc bd = batch_desc();
  qi_logit_bias end = {2, 1e6f}; // </s>
  answer a[4];
  bd.session.n_ctx = 40;
  bd.session.n_kv_tokens = 64;
  qi_batch *b = open_batch(rm.m, &bd);
  qi_batch_request q = request("rain", &a[0]);
  q.sampler.logit_bias = &end;
  q.sampler.n_logit_bias = 1;
  q.ignore_end = false;
  submit(b, &q);
  q = request("rain", &a[1]);
  q.n_predict = 0;
  submit(b, &q);
  q = request("rain", &a[2]);
  q.n_predict = -1;
  submit(b, &q);
  q = request("rain", &a[3]);
  uint64_t id = submit(b, &q);
  RUN_OK(qi_batch_cancel(b, id, &err), err);
  run_all(b, 0);
  static const qi_done done[4] = {QI_DONE_END, QI_DONE_CONTEXT, QI_DONE_LIMIT, QI_DONE_CANCELLED};
  for (int i = 0; i < 4; i++) {
    assert_int_equal(a[i].n_ends, 1);
    assert_int_equal(a[i].done, done[i]);
  }
  assert_int_equal(a[0].n, 1);
  assert_int_equal(a[0].ids[0], 2);
  assert_true(a[1].n > 30);
  assert_int_equal(a[2].n, 0);
  assert_string_equal(qi_done_name(QI_DONE_CONTEXT), "context");
  assert_string_equal(qi_done_name((qi_done)99), "?");
  qi_batch_close(b);
  run_free(&rm);
}

// One that ended in an earlier step is cancelled while another step is under way, and polled before that is done: it ends once.
static void test_cancel_what_has_ended(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_batch_desc bd = batch_desc();
  qi_token ids[60];
  answer a[2];
  run_random_tokens(3, 200, ids, 60);
  qi_batch *b = open_batch(rm.m, &bd);
  qi_batch_request q = request("rain", &a[0]);
  q.n_predict = 1;
  uint64_t id = submit(b, &q);
  RUN_OK(qi_batch_step(b, 0, &err), err);
  q = request(NULL, &a[1]);
  q.ids = ids;
  q.n_ids = 60;
  submit(b, &q);
  run_expect(qi_batch_step(b, 1, &err), QI_AGAIN, &err, "a step of a microsecond");
  RUN_OK(qi_batch_cancel(b, id, &err), err);
  poll_all(b);
  run_expect(qi_batch_cancel(b, id, &err), QI_ERR_ARGUMENT, &err, "cancelled when all is polled");
  run_all(b, 0);
  for (int i = 0; i < 2; i++) {
    assert_int_equal(a[i].n_ends, 1);
    assert_int_equal(a[i].done, QI_DONE_LIMIT);
  }
  qi_batch_stats st;
  qi_batch_get_stats(b, &st);
  assert_int_equal(st.n_waiting + st.n_running, 0);
  qi_batch_close(b);
  run_free(&rm);
}

// ---- memory ----

typedef struct counter {
  size_t live, n_calls, fail_at; // fail_at: number of the call that fails, from 1; 0 = none
} counter;

static void *counter_alloc(size_t size, size_t align, void *user) {
  counter *c = (counter *)user;
  if (++c->n_calls == c->fail_at) return NULL;
  void *p = aligned_alloc(align < 16 ? 16 : align, (size + 4095) / 4096 * 4096);
  if (p) memset(p, 0xa5, size); // nothing may count on zeros
  c->live += p ? size : 0;
  return p;
}
static void counter_free(void *ptr, size_t size, void *user) {
  ((counter *)user)->live -= size;
  free(ptr);
}

static void test_memory(void **state) {
  (void)state;
  run_model rm = small_model();
  for (size_t n = 0;; n++) { // the n-th call fails; 0 = none
    counter c = {0, 0, n};
    qi_error err = {QI_OK, ""};
    qi_batch_desc bd = batch_desc();
    qi_batch *b = NULL;
    uint64_t bytes = 0;
    bd.session.allocator = (qi_allocator){counter_alloc, counter_free, &c};
    bd.session.n_threads = 2;
    RUN_OK(qi_batch_memory(rm.m, &bd, &bytes, &err), err);
    assert_int_equal(c.n_calls, 0);
    qi_result r = qi_batch_open(&b, rm.m, &bd, &err);
    bool failed = n && c.n_calls >= n;
    run_expect(r, failed ? QI_ERR_OOM : QI_OK, &err, "qi_batch_open");
    if (failed) {
      assert_null(b);
      assert_int_equal(c.live, 0);
      continue;
    }
    assert_int_equal(c.live, bytes);
    size_t calls = c.n_calls;
    c.fail_at = 0;
    static const qi_token ids[5] = {1, 50, 60, 70, 80};
    answer a[8];
    for (int i = 0; i < 8; i++) {
      qi_batch_request q = request(NULL, &a[i]);
      q.ids = ids;
      q.n_ids = 5;
      q.sampler.temperature = 0.8f;
      q.sampler.repetition_penalty = 1.2f;
      submit(b, &q);
    }
    run_all(b, 0);
    assert_int_equal(c.n_calls, calls);
    qi_batch_request q = request("rain", &a[0]);
    submit(b, &q);
    run_all(b, 0);
    assert_int_equal(c.live, bytes);
    qi_batch_close(b);
    assert_int_equal(c.live, 0);
    if (n) break;
  }
  run_free(&rm);
}

// ---- wrong arguments ----

static void expect_refused(qi_batch *b, const qi_batch_request *q, qi_result code, const char *word) {
  qi_error err = {QI_OK, ""};
  uint64_t id = 7;
  run_expect(qi_batch_submit(b, q, &id, &err), code, &err, word);
  if (!strstr(err.msg, word)) fail_msg("\"%s\" does not say %s", err.msg, word);
  assert_int_equal(id, 7);
}

static void test_arguments(void **state) {
  (void)state;
  run_model rm = small_model();
  qi_error err = {QI_OK, ""};
  qi_batch_desc bd = batch_desc();
  qi_batch_event e;
  qi_batch *b = NULL;
  uint64_t bytes, id;
  answer a[4];
  bd.n_requests = -1;
  run_expect(qi_batch_open(&b, rm.m, &bd, &err), QI_ERR_ARGUMENT, &err, "n_requests -1");
  run_expect(qi_batch_memory(rm.m, &bd, &bytes, &err), QI_ERR_ARGUMENT, &err, "n_requests -1");
  bd.n_requests = 65537;
  run_expect(qi_batch_open(&b, rm.m, &bd, &err), QI_ERR_LIMIT, &err, "n_requests 65537");
  run_expect(qi_batch_open(&b, NULL, &bd, &err), QI_ERR_ARGUMENT, &err, "no model");
  run_expect(qi_batch_open(&b, rm.m, NULL, &err), QI_ERR_ARGUMENT, &err, "no desc");
  bd.n_requests = 4;
  bd.n_step_tokens = -1;
  run_expect(qi_batch_open(&b, rm.m, &bd, &err), QI_ERR_ARGUMENT, &err, "n_step_tokens -1");
  assert_null(b);
  bd = batch_desc();
  bd.session.n_seqs = 2;
  bd.session.sampler.dry_multiplier = 0;
  bd.n_requests = 4;
  b = open_batch(rm.m, &bd);
  qi_token ids[N_CTX + 1];
  run_random_tokens(1, 200, ids, N_CTX + 1);
  qi_batch_request q = request(NULL, &a[0]);
  expect_refused(b, &q, QI_ERR_ARGUMENT, "text");
  q.ids = ids;
  expect_refused(b, &q, QI_ERR_ARGUMENT, "no tokens");
  q.n_ids = N_CTX + 1;
  expect_refused(b, &q, QI_ERR_CONTEXT, "151");
  q.n_ids = 9;
  ids[8] = 200;
  expect_refused(b, &q, QI_ERR_ARGUMENT, "token 8");
  ids[8] = 1;
  q.n_predict = -2;
  expect_refused(b, &q, QI_ERR_ARGUMENT, "n_predict");
  q.n_predict = 0;
  q.share = 99;
  expect_refused(b, &q, QI_ERR_ARGUMENT, "share");
  q.share = 0;
  q.sampler.temperature = -1;
  expect_refused(b, &q, QI_ERR_ARGUMENT, "temperature");
  q.sampler.temperature = 0;
  q.sampler.dry_multiplier = 1;
  expect_refused(b, &q, QI_ERR_LIMIT, "sampler");
  q.sampler.dry_multiplier = 0;
  q.n_stop = -1;
  expect_refused(b, &q, QI_ERR_ARGUMENT, "n_stop");
  assert_false(qi_batch_poll(b, &e));
  run_expect(qi_batch_step(b, 0, &err), QI_END, &err, "a batch without requests");
  run_expect(qi_batch_cancel(b, 1, &err), QI_ERR_ARGUMENT, &err, "no such request");
  q = request("rain", &a[0]);
  qi_cancel(qi_batch_session(b));
  expect_refused(b, &q, QI_ERR_CANCELLED, "cancelled"); // once
  for (int i = 0; i < 4; i++) {
    q = request("rain", &a[i]);
    q.keep = i == 0;
    submit(b, &q);
    q.keep = true;
    if (i == 0) expect_refused(b, &q, QI_ERR_LIMIT, "kept");
  }
  q.keep = false;
  expect_refused(b, &q, QI_ERR_LIMIT, "n_requests");
  run_expect(qi_batch_submit(b, &q, NULL, &err), QI_ERR_ARGUMENT, &err, "no id");
  run_expect(qi_batch_submit(NULL, &q, &id, &err), QI_ERR_ARGUMENT, &err, "no batch");
  run_expect(qi_batch_step(NULL, 0, &err), QI_ERR_ARGUMENT, &err, "no batch");
  assert_false(qi_batch_poll(NULL, &e));
  assert_null(qi_batch_session(NULL));
  qi_batch_close(b); // in the middle
  qi_batch_close(NULL);
  run_free(&rm);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_mixes), cmocka_unit_test(test_window_and_roles),
      cmocka_unit_test(test_order), cmocka_unit_test(test_put_back),        cmocka_unit_test(test_prompts_do_not_stall),
      cmocka_unit_test(test_share),        cmocka_unit_test(test_ends),
      cmocka_unit_test(test_cancel_what_has_ended),
      cmocka_unit_test(test_memory),       cmocka_unit_test(test_arguments),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
