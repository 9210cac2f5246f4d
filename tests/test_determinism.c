// sanitize: thread
// Determinism: random mixes of everything that may not matter. However a story is computed (threads, the host's parallel_for,
// instruction sets, chunks, beside others, from shared prefixes, in slices, saved and loaded, cancelled and repeated, with a cache
// of weights, with guesses ahead), its tokens and the bits of its logits are those of a lone session on one thread.
//
//   build/test/gcc.test_determinism 417        only mix 417, as a failure names it
//   build/test/gcc.test_determinism 0 5000     mixes 0 to 4999
//
// To add another thing that may not matter: a field in `way`, drawn in draw_way, obeyed where sessions are opened or work is done.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/sparse.h"
#include "support/stories.h"

#ifndef N_MIXES
#define N_MIXES (SPARSE ? 100 : 1000)
#endif

static int first_mix, last_mix = N_MIXES; // as the arguments say
static int mix_now;

// ---- models ----

// Small, in several families and formats, each with and without a cache of weights: the same file.
enum { N_CACHED = 2, MAX_MODELS = 8 };

typedef struct kind {
  uint8_t *file;
  story_model cached[N_CACHED]; // without one, with a full one
} kind;

static kind kinds[MAX_MODELS];
static int n_kinds;

static void add_kind(rm_desc d) {
  kind *k = &kinds[n_kinds++];
  size_t size;
  d.seed = (uint64_t)n_kinds;
  k->file = rm_build(&d, &size);
  assert_non_null(k->file);
  for (int i = 0; i < N_CACHED; i++) k->cached[i] = story_model_open(k->file, size, i ? UINT64_MAX : 0);
}

static void add_kinds(void) {
  rm_desc d = rm_llama(); // fewer heads of keys than of queries; too few tokens for those of single bytes
  d.n_kv_heads = 2;
  d.n_vocab = 200;
  d.format = QI_FORMAT_Q8_0;
  add_kind(d);
  d = rm_llama(); // sees 20 tokens back
  d.window = 20;
  d.format = QI_FORMAT_Q4_0;
  add_kind(d);
  d.window = 130;
  d.n_kv_heads = 1;
  d.format = QI_FORMAT_F16;
  add_kind(d);
  d = rm_qwen3(); // prompts otherwise than what is generated
  d.format = QI_FORMAT_BF16;
  add_kind(d);
  d = rm_qwen2();
  d.format = QI_FORMAT_IQ4_NL;
  add_kind(d);
  d = rm_llama_256(QI_FORMAT_Q4_K);
  d.output_format = QI_FORMAT_Q6_K;
  add_kind(d);
  d = rm_bitnet("bitnet-b1.58");
  d.n_embd = 256;
  d.n_ff = 256;
  d.n_vocab = 130;
  d.format = QI_FORMAT_TQ2_0;
  add_kind(d);
  d = rm_llama_256(QI_FORMAT_QINS4_K);
  d.n_layers = 1;
  d.n_ff = 256;
  add_kind(d);
}

// ---- pools ----

enum { MAX_THREADS = 8 };

// Runs the indices one after another, in an order that changes.
static void host_in_turn(void *user, void (*fn)(void *arg, int index), void *arg, int n) {
  uint64_t *rng = (uint64_t *)user;
  size_t start = story_below(rng, (size_t)n);
  bool down = story_one_in(rng, 2);
  for (int i = 0; i < n; i++) fn(arg, (int)((start + (size_t)(down ? n - i : i)) % (size_t)n));
}

static uint64_t host_rng = 1;
static qi_pool *pools[QI_ISA_COUNT][MAX_THREADS + 1][2]; // own threads; the host's
static qi_isa isas[QI_ISA_COUNT];                        // that this machine has
static int n_isas;

static qi_pool *pool_of(qi_isa isa, int n_threads, bool host) {
  qi_pool **pool = &pools[isa][n_threads][host];
  qi_pool_desc pd;
  qi_error err = {QI_OK, ""};
  memset(&pd, 0, sizeof pd);
  pd.n_threads = n_threads;
  pd.isa = isa;
  if (host) pd.parallel.parallel_for = host_in_turn, pd.parallel.user = &host_rng;
  if (!*pool) RUN_OK(qi_pool_open(pool, &pd, &err), err);
  return *pool;
}

static int set_up(void **state) {
  (void)state;
  for (int isa = QI_ISA_SCALAR; isa < QI_ISA_COUNT; isa++) {
    qi_pool_desc pd;
    qi_pool *pool = NULL;
    memset(&pd, 0, sizeof pd);
    pd.n_threads = 1;
    pd.isa = (qi_isa)isa;
    if (qi_pool_open(&pool, &pd, NULL)) continue; // of another processor family
    if (qi_pool_isa(pool) == (qi_isa)isa) isas[n_isas++] = (qi_isa)isa;
    qi_pool_close(pool);
  }
  add_kinds();
  return n_isas ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  for (int i = 0; i < QI_ISA_COUNT * (MAX_THREADS + 1) * 2; i++) qi_pool_close((&pools[0][0][0])[i]);
  for (int k = 0; k < n_kinds; k++) {
    for (int i = 0; i < N_CACHED; i++) story_model_close(&kinds[k].cached[i]);
    free(kinds[k].file);
  }
  return 0;
}

// ---- mixes ----

enum { MAX_STORIES = 5 };

typedef struct mix {
  uint64_t rng;
  kind *kind;
  qi_path path;
  qi_kv_type kv_type;
  int n_cancels; // still to come: work in many slices would never end otherwise
  story story[MAX_STORIES];
  size_t n;
} mix;

// How a session computes: nothing of this may matter.
typedef struct way {
  qi_isa isa;
  int n_threads;
  bool host;
  int cached;
  int n_batch;
  uint32_t budget_us; // of a slice; 0 = none
  bool lookup, draft; // what guesses ahead; the draft model is the model itself
  int n_draft;
} way;

static bool one_in(mix *x, size_t n) { return story_one_in(&x->rng, n); }
static size_t below(mix *x, size_t n) { return story_below(&x->rng, n); }

static void cancel_now_and_then(mix *x, qi_session *s, size_t n) {
  if (x->n_cancels == 0 || !one_in(x, n)) return;
  x->n_cancels--;
  qi_cancel(s);
}

static way draw_way(mix *x) {
  static const uint32_t budgets[] = {0, 0, 1, 20, 300};
  static const int batches[] = {0, 1, 2, 3, 7, 16, 33, 128, 129};
  way w;
  bool any_isa = x->path == QI_PATH_INTEGER || x->path == QI_PATH_FLOAT; // as api.h promises
  do w.isa = any_isa ? isas[below(x, (size_t)n_isas)] : QI_ISA_AUTO;
  while (w.isa == QI_ISA_SCALAR && !one_in(x, 4)); // reference kernels take ten times as long as others
  w.n_threads = one_in(x, 3) ? 1 : 2 + (int)below(x, MAX_THREADS - 1);
  w.host = w.n_threads > 1 && !one_in(x, 4); // own threads take longer: there are more than cores
  w.cached = (int)below(x, N_CACHED);
  w.n_batch = batches[below(x, sizeof batches / sizeof batches[0])];
  w.budget_us = budgets[below(x, sizeof budgets / sizeof budgets[0])];
  w.lookup = one_in(x, 3);
  w.draft = one_in(x, 4);
  w.n_draft = (int)below(x, 12);
  return w;
}

static void obey_way(const mix *x, const way *w, qi_session_desc *sd) {
  sd->path = x->path;
  sd->kv_type = x->kv_type;
  sd->pool = pool_of(w->isa, w->n_threads, w->host);
  sd->n_batch = w->n_batch;
  sd->lookup = w->lookup;
  sd->draft = w->draft ? x->kind->cached[0].m : NULL;
  sd->n_draft = w->n_draft;
}

static mix *draw_mix(int number) {
  mix *x = (mix *)calloc(1, sizeof *x);
  assert_non_null(x);
  mix_now = number;
  x->rng = (uint64_t)number * 0x9e3779b97f4a7c15u + 7;
  x->kind = &kinds[below(x, (size_t)n_kinds)];
  x->n_cancels = (int)below(x, 6);
  x->path = one_in(x, 2) ? QI_PATH_INTEGER : (qi_path)below(x, 4);
  x->kv_type = (qi_kv_type)below(x, QI_KV_COUNT);
  return x;
}

static void add_stories(mix *x, size_t n, bool jump) {
  qi_session_desc base;
  memset(&base, 0, sizeof base);
  base.path = x->path;
  base.kv_type = x->kv_type;
  for (x->n = 0; x->n < n; x->n++) {
    story *t = &x->story[x->n];
    story_model *sm = &x->kind->cached[0];
    story_draw(t, x->story, x->n, sm->n_vocab, &x->rng);
    t->jump = jump && one_in(x, 2);
    story_tell(t, sm, &base);
  }
}

// ---- sessions that are moved ----

// A session, and how it computes. It may become another one at any time: see move.
typedef struct place {
  mix *x;
  way way;
  qi_session_desc desc; // but pool and n_batch
  const story *story;   // of the text interface; NULL = none
  int min_seqs;         // that it needs
  qi_session *s;
} place;

static story_model *model_at(const place *p) { return &p->x->kind->cached[p->way.cached]; }

static void place_open(place *p) {
  qi_session_desc sd = p->desc;
  p->way = draw_way(p->x);
  obey_way(p->x, &p->way, &sd);
  sd.n_ctx = STORY_MAX + 1 + (int)below(p->x, 200);
  sd.n_seqs = p->min_seqs + (int)below(p->x, 3);
  sd.n_logits = STORY_MAX;
  p->s = run_session(model_at(p)->m, &sd);
  if (p->story) story_constrain(p->s, p->story, model_at(p), 1);
}

static void place_close(place *p) {
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_session_constrain(p->s, NULL, false, &err), err);
  qi_session_close(p->s);
}

// Does the work in slices; now and then it is cancelled on the way: QI_ERR_CANCELLED.
static qi_result work(place *p) {
  qi_error err = {QI_OK, ""};
  size_t often = one_in(p->x, 2) ? 4 : 40; // slices may be many
  qi_result r;
  do {
    cancel_now_and_then(p->x, p->s, often);
    r = qi_step(p->s, p->way.budget_us, &err);
  } while (r == QI_AGAIN);
  if (r != QI_ERR_CANCELLED) run_expect(r, QI_OK, &err, "qi_step");
  return r;
}

static void random_ids(mix *x, qi_token *ids, size_t n) { run_random_tokens(rm_next(&x->rng), x->kind->cached[0].n_vocab, ids, n); }

// Other tokens in a sequence, which is lost.
static void spoil(place *p, int seq) {
  qi_token ids[40];
  qi_error err = {QI_OK, ""};
  size_t n = 1 + below(p->x, 40);
  random_ids(p->x, ids, n);
  qi_decode_token *t = run_tokens(ids, n, seq, one_in(p->x, 2));
  RUN_OK(qi_decode_begin(p->s, t, n, &err), err);
  work(p);
  free(t);
}

// Saved, and loaded into another session or, when it has become something else, into this one. Both may be cancelled.
static void move(place *p) {
  qi_error err = {QI_OK, ""};
  qi_result r;
  size_t n = 0;
  RUN_OK(qi_session_save(p->s, NULL, 0, &n, &err), err);
  void *file = malloc(n);
  assert_non_null(file);
  cancel_now_and_then(p->x, p->s, 8);
  do r = qi_session_save(p->s, file, n, &n, &err);
  while (r == QI_ERR_CANCELLED);
  run_expect(r, QI_OK, &err, "qi_session_save");
  if (one_in(p->x, 3)) {
    qi_session_reset(p->s);
    spoil(p, 0);
  } else {
    place_close(p);
    place_open(p);
  }
  cancel_now_and_then(p->x, p->s, 8);
  do r = qi_session_load(p->s, file, n, &err);
  while (r == QI_ERR_CANCELLED);
  run_expect(r, QI_OK, &err, "qi_session_load");
  free(file);
}

// ---- one story as text ----

// What does not look at earlier tokens does not mind others that come and go. False: with them went all that was there.
static bool wander(place *p, size_t length) {
  qi_error err = {QI_OK, ""};
  spoil(p, 0);
  qi_result r = qi_seq_truncate(p->s, 0, (int)length, &err);
  if (r == QI_OK) return true;
  run_expect(r, QI_ERR_CONTEXT, &err, "qi_seq_truncate"); // a window
  RUN_OK(qi_seq_truncate(p->s, 0, 0, &err), err);
  return false;
}

// Some of the prompt in another sequence first, of which sequence 0 then takes a part. Returns how much.
static size_t take_prefix(place *p) {
  const story *t = p->story;
  qi_error err = {QI_OK, ""};
  size_t n = 1 + below(p->x, t->n_prompt - 1), part = 1 + below(p->x, n);
  qi_decode_token *tokens = run_tokens(t->ids, n, 1, false);
  for (size_t i = 0; i < n; i++) tokens[i].want_logits = false;
  RUN_OK(qi_decode_begin(p->s, tokens, n, &err), err);
  if (work(p) || qi_seq_fork(p->s, 1, 0, (int)part, &err)) part = 0; // cancelled; behind a window
  free(tokens);
  return part;
}

static void give_prompt(place *p) {
  const story *t = p->story;
  qi_error err = {QI_OK, ""};
  size_t n = 0;
  if (!t->looks_back && t->n_prompt > 1 && one_in(p->x, 4)) n = take_prefix(p);
  while (n < t->n_prompt) {
    if (!t->looks_back && one_in(p->x, 8) && !wander(p, n)) n = 0;
    size_t part = one_in(p->x, 2) ? t->n_prompt - n : 1 + below(p->x, t->n_prompt - n);
    RUN_OK(qi_prompt_tokens(p->s, t->ids + n, part, &err), err);
    if (work(p) == QI_OK) {
      n += part;
      story_expect_logits(t, n - 1, qi_logits(p->s, -1), model_at(p)->n_vocab, "a prompt");
    }
    assert_int_equal(qi_seq_length(p->s, 0), n);
    if (one_in(p->x, 8)) move(p);
  }
}

// One more piece, or QI_END; whatever else qi_next may say on the way.
static qi_result next_piece(place *p, qi_piece *piece) {
  qi_error err = {QI_OK, ""};
  for (;;) {
    cancel_now_and_then(p->x, p->s, 16);
    qi_result r = p->way.budget_us ? qi_next_within(p->s, piece, p->way.budget_us, &err) : qi_next(p->s, piece, &err);
    if (r == QI_OK || r == QI_END) return r;
    if (r != QI_AGAIN) run_expect(r, QI_ERR_CANCELLED, &err, "qi_next");
    if (r == QI_AGAIN && one_in(p->x, 8)) work(p);
  }
}

static void tell(place *p) {
  const story *t = p->story;
  story_answer got;
  qi_piece piece;
  memset(&got, 0, sizeof got);
  while (!got.done) {
    int length = qi_seq_length(p->s, 0);
    qi_result r = next_piece(p, &piece);
    const float *logits = p->s->forward.logits + p->s->logits_at[0] * (size_t)model_at(p)->n_vocab; // qi_logits is over
    if (qi_seq_length(p->s, 0) > length)
      story_expect_logits(t, (size_t)qi_seq_length(p->s, 0) - 1, logits, model_at(p)->n_vocab, "an answer");
    story_add(&got, &piece);
    if (r == QI_END) got.done = story_done(t, model_at(p)->m, &got, &piece);
    else if (!t->grammar && one_in(p->x, 12)) move(p); // a grammar would begin anew
  }
  story_expect_answer(t, &got, "in a session");
}

static void mix_session(int number) {
  mix *x = draw_mix(number);
  qi_session_desc base;
  memset(&base, 0, sizeof base);
  add_stories(x, 1, true);
  place p = {x, {QI_ISA_AUTO, 0, false, 0, 0, 0, false, false, 0}, story_session_desc(x->story, &base), x->story, 2, NULL};
  place_open(&p);
  for (int again = one_in(x, 3); again >= 0; again--) {
    give_prompt(&p);
    tell(&p);
    qi_session_reset(p.s);
  }
  place_close(&p);
  free(x);
}

// ---- several stories as sequences of tokens ----

// Tokens of a call: the next ones of each of some sequences, mixed, with the logits of some.
static size_t draw_tokens(mix *x, const size_t *at, qi_decode_token *out) {
  size_t n = 0, next[MAX_STORIES], end[MAX_STORIES], left = 0;
  for (size_t k = 0; k < x->n; k++) {
    size_t more = x->story[k].n - at[k];
    next[k] = at[k];
    end[k] = at[k] + (one_in(x, 2) ? 0 : one_in(x, 2) ? more : below(x, more + 1));
    left += end[k] - next[k];
  }
  while (left) {
    size_t k = below(x, x->n), run = 1 + below(x, 20);
    for (; run && next[k] < end[k]; run--, next[k]++, left--) {
      bool generated = next[k] >= x->story[k].n_prompt, want_logits = one_in(x, 2) && n < STORY_MAX;
      out[n++] = (qi_decode_token){x->story[k].ids[next[k]], (int)k, generated, want_logits};
    }
  }
  return n;
}

static void decode_some(place *p, size_t *at, qi_decode_token *tokens) {
  mix *x = p->x;
  qi_error err = {QI_OK, ""};
  size_t n = draw_tokens(x, at, tokens);
  RUN_OK(qi_decode_begin(p->s, tokens, n, &err), err);
  if (work(p)) return; // cancelled
  int row = 0;
  for (size_t i = 0; i < n; i++) {
    size_t k = (size_t)tokens[i].seq;
    if (tokens[i].want_logits) story_expect_logits(&x->story[k], at[k], qi_logits(p->s, row++), model_at(p)->n_vocab, "a sequence");
    at[k]++;
  }
}

// One story takes what it has in common with another from it, tokens in the same roles.
static void fork_some(place *p, size_t *at) {
  mix *x = p->x;
  size_t from = below(x, x->n), to = below(x, x->n), n = 0;
  const story *a = &x->story[from], *b = &x->story[to];
  qi_error err = {QI_OK, ""};
  if (from == to) return;
  while (n < at[from] && n < b->n && a->ids[n] == b->ids[n] && (n >= a->n_prompt) == (n >= b->n_prompt)) n++;
  n = below(x, n + 1);
  qi_result r = qi_seq_fork(p->s, (int)from, (int)to, (int)n, &err);
  if (r) run_expect(r, QI_ERR_CONTEXT, &err, "qi_seq_fork"); // behind a window
  else at[to] = n;
}

static void truncate_some(place *p, size_t *at) {
  mix *x = p->x;
  size_t k = below(x, x->n), n = below(x, at[k] + 1);
  qi_error err = {QI_OK, ""};
  qi_result r = qi_seq_truncate(p->s, (int)k, (int)n, &err);
  if (r) run_expect(r, QI_ERR_CONTEXT, &err, "qi_seq_truncate"); // behind a window
  else at[k] = n;
}

// A sequence of no story, that comes and goes.
static void disturb(place *p) {
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_seq_truncate(p->s, MAX_STORIES, 0, &err), err);
  spoil(p, MAX_STORIES);
}

static void mix_sequences(int number) {
  mix *x = draw_mix(number);
  size_t at[MAX_STORIES] = {0}, left = 1;
  add_stories(x, 1 + below(x, 3), false);
  place p;
  memset(&p, 0, sizeof p);
  p.x = x;
  p.min_seqs = MAX_STORIES + 1;
  place_open(&p);
  qi_decode_token *tokens = (qi_decode_token *)malloc(x->n * STORY_MAX * sizeof *tokens);
  assert_non_null(tokens);
  for (int step = 0; left; step++) {
    decode_some(&p, at, tokens);
    if (step < 12 && one_in(x, 4)) fork_some(&p, at);
    if (step < 12 && one_in(x, 6)) truncate_some(&p, at);
    if (one_in(x, 8)) disturb(&p);
    if (one_in(x, 8)) move(&p);
    left = 0;
    for (size_t k = 0; k < x->n; k++) {
      assert_int_equal(qi_seq_length(p.s, (int)k), at[k]);
      left += x->story[k].n - at[k];
    }
  }
  free(tokens);
  place_close(&p);
  free(x);
}

// ---- several stories as requests ----

typedef struct asked {
  uint64_t id; // 0 = not yet
  bool keep, cancelled;
  story_answer got;
} asked;

static qi_batch *open_batch(mix *x, way *w) {
  qi_batch_desc bd;
  qi_batch *b = NULL;
  qi_error err = {QI_OK, ""};
  memset(&bd, 0, sizeof bd);
  *w = draw_way(x);
  obey_way(x, w, &bd.session);
  bd.session.n_ctx = STORY_MAX + 1 + (int)below(x, 200);
  bd.session.n_seqs = 1 + (int)below(x, MAX_STORIES);
  bd.session.sampler = story_sampler_most();
  bd.session.stop = story_stops();
  bd.session.n_stop = 3;
  if (one_in(x, 3)) bd.session.n_kv_tokens = 5 * QI__KV_PAGE; // too few for all
  bd.n_requests = 2 * MAX_STORIES;
  bd.n_step_tokens = one_in(x, 2) ? 0 : 1 + (int)below(x, 30);
  RUN_OK(qi_batch_open(&b, x->kind->cached[w->cached].m, &bd, &err), err);
  return b;
}

static void ask(mix *x, const way *w, qi_batch *b, asked *a, size_t k) {
  const story *t = &x->story[k];
  qi_error err = {QI_OK, ""};
  qi_batch_request q;
  memset(&q, 0, sizeof q);
  q.ids = t->ids;
  q.n_ids = t->n_prompt;
  q.sampler = t->sampler;
  q.stop = story_stops();
  q.n_stop = t->n_stop;
  q.n_predict = t->n_predict;
  q.ignore_end = t->ignore_end;
  if (t->grammar) q.matcher = x->kind->cached[w->cached].matcher[t->grammar - 1][1 + k];
  q.priority = (int)below(x, 3) - 1;
  q.keep = one_in(x, 4);
  q.user = &a[k];
  const asked *other = &a[below(x, x->n)];
  if (other != &a[k] && other->id && !other->got.done) q.share = other->id;
  // What is kept takes room from the others, which would end for lack of it.
  const qi__kv *kv = &qi_batch_session(b)->kv;
  if (kv->n_pages < 3 * MAX_STORIES || b->n_keep + 1 >= kv->n_seqs) q.keep = false;
  memset(&a[k], 0, sizeof a[k]);
  a[k].keep = q.keep;
  RUN_OK(qi_batch_submit(b, &q, &a[k].id, &err), err);
}

static void poll_all(qi_batch *b) {
  qi_batch_event e;
  while (qi_batch_poll(b, &e)) {
    asked *a = (asked *)e.user;
    assert_int_equal(a->got.done, QI_DONE_NOT);
    story_add(&a->got, &e.piece);
    a->got.done = e.done;
  }
}

// Rows of the step that has just been done, of those that go on: n_tokens holds the new token already.
static void check_rows(const mix *x, const asked *a, const qi_batch *b) {
  for (size_t i = 0; i < b->n_rows; i++) {
    const qi__request *r = b->running[b->rows[i]];
    if (!r || r->state != QI__REQUEST_RUNNING || !r->has_piece) continue;
    const story *t = &x->story[(const asked *)r->user - a];
    story_expect_logits(t, r->n_tokens - 2, qi__session_logits(b->session, (int)i), x->kind->cached[0].n_vocab, "a request");
  }
}

// One that is cancelled is asked again, sooner or later.
static void run_requests(mix *x, const way *w, qi_batch *b, asked *a) {
  qi_error err = {QI_OK, ""};
  qi_result r = QI_OK;
  size_t n = 0, n_cancel = below(x, 3);
  while (n < x->n || r != QI_END) {
    if (n < x->n && one_in(x, 2)) ask(x, w, b, a, n++);
    size_t k = below(x, x->n);
    if (n_cancel && a[k].id && !a[k].got.done && one_in(x, 6)) {
      n_cancel--;
      RUN_OK(qi_batch_cancel(b, a[k].id, &err), err);
      while (!a[k].got.done) {
        r = qi_batch_step(b, 0, &err);
        if (r < 0) run_expect(r, QI_ERR_CANCELLED, &err, "qi_batch_step");
        poll_all(b);
      }
      if (a[k].got.done == QI_DONE_CANCELLED) ask(x, w, b, a, k); // else it was over
    }
    cancel_now_and_then(x, qi_batch_session(b), 40);
    r = qi_batch_step(b, w->budget_us, &err);
    if (r < 0) run_expect(r, QI_ERR_CANCELLED, &err, "qi_batch_step");
    if (r == QI_OK) check_rows(x, a, b);
    if (!one_in(x, 4)) poll_all(b); // who is not polled waits
  }
}

static void mix_batch(int number) {
  mix *x = draw_mix(number);
  asked a[MAX_STORIES];
  qi_error err = {QI_OK, ""};
  way w;
  memset(a, 0, sizeof a);
  add_stories(x, 2 + below(x, MAX_STORIES - 1), false);
  qi_batch *b = open_batch(x, &w);
  run_requests(x, &w, b, a);
  for (size_t k = 0; k < x->n; k++) {
    story_expect_answer(&x->story[k], &a[k].got, "in a batch");
    if (a[k].keep) RUN_OK(qi_batch_cancel(b, a[k].id, &err), err);
  }
  assert_int_equal(qi_batch_session(b)->kv.n_unused, qi_batch_session(b)->kv.n_pages);
  qi_batch_close(b);
  free(x);
}

// ---- all of them ----

// Numbers are shared: mix n is always the same, whichever others run.
static void run_mixes(int kind_of_mix, void (*run)(int number)) {
  for (int i = first_mix; i < last_mix; i++)
    if (i % 3 == kind_of_mix) run(i);
  mix_now = -1;
}

static int tell_mix(void **state) {
  (void)state;
  if (mix_now >= 0) print_message("this was mix %d: test_determinism %d runs it alone\n", mix_now, mix_now);
  mix_now = -1;
  return 0;
}

static void test_sessions(void **state) {
  (void)state;
  run_mixes(0, mix_session);
}
static void test_sequences(void **state) {
  (void)state;
  run_mixes(1, mix_sequences);
}
static void test_batches(void **state) {
  (void)state;
  run_mixes(2, mix_batch);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_sessions, tell_mix),
      cmocka_unit_test_teardown(test_sequences, tell_mix),
      cmocka_unit_test_teardown(test_batches, tell_mix),
  };
  mix_now = -1;
  if (argc > 1) {
    first_mix = atoi(argv[1]);
    last_mix = argc > 2 ? atoi(argv[2]) : first_mix + 1;
  }
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
