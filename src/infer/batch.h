// ==== >>batch : many requests over the sequences of one session ====
#ifndef QI__INFER_BATCH_H
#define QI__INFER_BATCH_H

#include "decode.h"

#define QI__MAX_REQUESTS 65536
#define QI__STEP_TOKENS_DEFAULT 64
#define QI__REQUEST_SLACK 1024 // bytes beyond those of the sampler and the stop strings that opening was told of
#define QI__AGE 16             // requests that overtake one until it counts as one priority higher

// A step is planned, computed, and its tokens are chosen; each of these may end a slice. A request holds all of its tokens. What
// of them is computed is the length of its sequence, and the rest of them is what there is to compute: a prompt, the last token,
// or everything when it had to give its sequence back. Each token keeps its role, so computing it again gives the same bits.

typedef enum qi__request_state {
  QI__REQUEST_FREE,
  QI__REQUEST_WAITING,
  QI__REQUEST_RUNNING, // has a sequence
  QI__REQUEST_ENDED    // its end has not been polled, or it is kept
} qi__request_state;

typedef struct qi__request {
  qi__request_state state;
  qi_done done;
  uint64_t id;          // from 1 on, in the order of submission
  uint64_t share;       // id of another request; 0 = none
  size_t n_share;       // tokens in common with it
  int priority, seq;    // seq -1 = none
  size_t n_passed;      // requests submitted later and admitted while this one waited
  qi_token *tokens;     // [n_ctx] the prompt and what was chosen
  uint8_t *generated;   // [n_ctx] roles
  size_t n_tokens, n_prompt;
  int n_predict, n_predicted;
  bool ignore_end, keep, cancelled;
  bool has_piece, has_end; // not polled yet
  qi_piece piece;
  qi_token last;        // token at which it ended; -1 = none
  uint8_t *block;       // [request_bytes] sampler and text
  qi_sampler *sampler;
  qi__text text;
  qi_matcher *matcher;
  void *user;
} qi__request;

struct qi_batch {
  qi_session *session;
  qi_allocator allocator;
  qi__arena arena;
  size_t n_requests, step_tokens, request_bytes;
  qi__request *requests;  // [n_requests]
  qi__request **running;  // [n_seqs] request of each sequence, running or kept; NULL = the sequence is free
  size_t *n_planned;      // [n_seqs] tokens of the step
  int *rows;              // [n_seqs] sequence of each row of logits
  size_t n_rows, n_chosen;
  qi__sampler_scratch scratch;
  uint64_t last_id;
  size_t n_events, n_cancelled, n_keep, poll_at;
  qi_batch_stats stats;
};

// ---- open and close ----

// Sampler and text of a request, in `arena`.
QI__FN void qi__request_layout(qi__request *r, qi__arena *arena, const qi_model *m, const qi__sampler_scratch *scratch,
                               const qi_sampler_desc *sampler, const char *const *stop, int n_stop) {
  r->sampler = qi__sampler_layout(arena, scratch, (int)m->h.n_vocab, sampler);
  qi__text_layout(&r->text, arena, stop, n_stop, m->vocab.max_token);
}

// Bytes that these take of a request's block; false when they cannot be counted.
QI__FN bool qi__request_bytes(const qi_model *m, const qi_sampler_desc *sampler, const char *const *stop, int n_stop, size_t *out) {
  static const qi__sampler_scratch scratch = {NULL, NULL};
  qi__arena arena = {0};
  qi__request r;
  qi__request_layout(&r, &arena, m, &scratch, sampler, stop, n_stop);
  *out = arena.used;
  return !arena.overflow;
}

QI__FN void qi__batch_layout(qi_batch *b, qi__arena *arena, const qi_model *m, const qi_session_desc *sd) {
  size_t n_seqs = (size_t)sd->n_seqs, n_ctx = (size_t)sd->n_ctx, n = b->n_requests, n_tokens;
  if (!qi__request_bytes(m, &sd->sampler, sd->stop, sd->n_stop, &b->request_bytes) ||
      !qi__add_size(b->request_bytes, QI__REQUEST_SLACK, &b->request_bytes) ||
      !qi__align_up(b->request_bytes, QI__CACHE_LINE, &b->request_bytes) || !qi__mul_size(n, n_ctx, &n_tokens)) {
    arena->overflow = true;
    return;
  }
  b->requests = QI__ARENA_ARRAY(arena, qi__request, n);
  qi_token *tokens = QI__ARENA_ARRAY(arena, qi_token, n_tokens);
  uint8_t *generated = QI__ARENA_ARRAY(arena, uint8_t, n_tokens);
  uint8_t *blocks = (uint8_t *)qi__arena_take(arena, n, b->request_bytes, QI__CACHE_LINE);
  b->running = QI__ARENA_ARRAY(arena, qi__request *, n_seqs);
  b->n_planned = QI__ARENA_ARRAY(arena, size_t, n_seqs);
  b->rows = QI__ARENA_ARRAY(arena, int, n_seqs);
  b->scratch.candidates = QI__ARENA_ARRAY(arena, qi__candidate, m->h.n_vocab);
  b->scratch.saved = QI__ARENA_ARRAY(arena, float, m->h.n_vocab);
  if (!b->scratch.saved) return;
  memset(b->running, 0, n_seqs * sizeof *b->running);
  memset(b->requests, 0, n * sizeof *b->requests);
  for (size_t i = 0; i < n; i++) {
    b->requests[i].tokens = tokens + i * n_ctx;
    b->requests[i].generated = generated + i * n_ctx;
    b->requests[i].block = blocks + i * b->request_bytes;
  }
}

// Fills in defaults of the session's desc.
QI__FN qi_result qi__batch_desc_defaults(qi_batch *b, const qi_model *m, const qi_batch_desc *desc, qi_session_desc *sd,
                                         qi_error *err) {
  int n_requests = 0, step_tokens = 0;
  *sd = desc->session;
  sd->n_logits = 0;
  qi_result r = qi__session_desc_defaults(sd, m, err);
  if (!r) r = qi__session_int("n_requests", desc->n_requests, QI__MAX_REQUESTS, 4 * sd->n_seqs, &n_requests, err);
  if (!r) r = qi__session_int("n_step_tokens", desc->n_step_tokens, INT32_MAX, QI__STEP_TOKENS_DEFAULT, &step_tokens, err);
  if (r) return r;
  b->n_requests = (size_t)n_requests;
  b->step_tokens = (size_t)(step_tokens < sd->n_seqs ? sd->n_seqs : step_tokens);
  return QI_OK;
}

// Requests have samplers and stop strings of their own; the session needs none. Logits of guessed tokens are what a step has room
// for: those of one sequence the session adds itself.
QI__FN qi_session_desc qi__batch_session_desc(const qi_batch *b, const qi_session_desc *sd) {
  qi_session_desc d = *sd;
  int64_t guessed = qi__min_i64((int64_t)b->step_tokens, (int64_t)sd->n_seqs * sd->n_draft);
  d.n_logits = (int)(sd->n_seqs + qi__max_i64(0, guessed - sd->n_draft));
  memset(&d.sampler, 0, sizeof d.sampler);
  d.stop = NULL;
  d.n_stop = 0;
  return d;
}

QI__FN qi_result qi__batch_memory(const qi_model *m, const qi_batch_desc *desc, uint64_t *bytes, qi_error *err) {
  qi_batch b;
  qi_session_desc sd;
  uint64_t session = 0;
  qi__arena arena = {0};
  memset(&b, 0, sizeof b);
  qi_result r = qi__batch_desc_defaults(&b, m, desc, &sd, err);
  if (r) return r;
  qi_session_desc own = qi__batch_session_desc(&b, &sd);
  if ((r = qi__session_memory(m, &own, &session, err))) return r;
  qi__batch_layout(&b, &arena, m, &sd);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "batch: does not fit into this machine's address space");
  *bytes = session + (uint64_t)arena.used + sizeof b;
  return QI_OK;
}

QI__FN void qi__batch_close(qi_batch *b) {
  if (!b) return;
  qi_allocator allocator = b->allocator;
  qi__arena_close(&b->arena, &allocator);
  qi__session_close(b->session);
  qi__free(&allocator, b, sizeof *b);
}

QI__FN qi_result qi__batch_open(qi_batch **out, const qi_model *m, const qi_batch_desc *desc, qi_error *err) {
  qi_batch start;
  qi_session_desc sd;
  memset(&start, 0, sizeof start);
  const qi_allocator *hook = &desc->session.allocator;
  if (!hook->alloc && !hook->free) hook = &m->allocator;
  qi_result r = qi__batch_desc_defaults(&start, m, desc, &sd, err);
  if (!r) r = qi__allocator_resolve(hook, &start.allocator, err);
  if (r) return r;
  qi_batch *b = (qi_batch *)qi__alloc(&start.allocator, sizeof *b, QI__CACHE_LINE);
  if (!b) return qi__fail_oom(err, "batch", sizeof *b);
  *b = start;
  qi_session_desc own = qi__batch_session_desc(b, &sd);
  qi__batch_layout(b, &b->arena, m, &sd);
  if ((r = qi__arena_open(&b->arena, &b->allocator, "batch", err))) goto fail;
  qi__batch_layout(b, &b->arena, m, &sd);
  if ((r = qi__session_open(&b->session, m, &own, err))) goto fail;
  b->session->draft_tokens = b->step_tokens;
  *out = b;
  return QI_OK;
fail:
  qi__batch_close(b);
  return r;
}

// ---- requests ----

QI__FN qi__request *qi__batch_find(const qi_batch *b, uint64_t id) {
  for (size_t i = 0; i < b->n_requests; i++)
    if (b->requests[i].state != QI__REQUEST_FREE && b->requests[i].id == id) return &b->requests[i];
  return NULL;
}

QI__FN qi_result qi__batch_tokens(qi_batch *b, const qi_batch_request *q, qi__request *r, qi_error *err) {
  qi_session *s = b->session;
  size_t n = q->n_ids, n_ctx = s->kv.n_ctx, n_vocab = s->model->h.n_vocab;
  if (!q->text == !q->ids) return qi__fail(err, QI_ERR_ARGUMENT, "submit: give text or ids, one of them");
  if (q->text) {
    int flags = (s->desc.no_parse_special ? 0 : QI_TOKENIZE_PARSE_SPECIAL) |
                (s->desc.no_add_special ? 0 : QI_TOKENIZE_ADD_SPECIAL);
    size_t len = q->len ? q->len : strlen(q->text);
    qi_result e = qi__tokenize(&s->model->vocab, &s->allocator, q->text, len, flags, &s->cancel, r->tokens, n_ctx, &n, err);
    if (e == QI_ERR_CANCELLED) qi__session_cancelled(s); // done with
    if (e) return e;
  }
  if (!n) return qi__fail(err, QI_ERR_ARGUMENT, "submit: no tokens");
  if (n > n_ctx || qi__kv_pages(n) > s->kv.n_pages)
    return qi__fail(err, QI_ERR_CONTEXT, "submit: %zu tokens; a sequence holds %zu, the cache %zu", n, n_ctx,
                    s->kv.n_pages * QI__KV_PAGE);
  if (q->ids) memcpy(r->tokens, q->ids, n * sizeof *r->tokens);
  for (size_t i = 0; i < n; i++)
    if (r->tokens[i] < 0 || (size_t)r->tokens[i] >= n_vocab)
      return qi__fail(err, QI_ERR_ARGUMENT, "submit: token %zu is %d, expected 0 to %zu", i, (int)r->tokens[i], n_vocab - 1);
  memset(r->generated, 0, n);
  r->n_tokens = r->n_prompt = n;
  return QI_OK;
}

// Checks sampler, stop strings and matcher, and makes the first two in the request's block.
QI__FN qi_result qi__batch_sampling(qi_batch *b, const qi_batch_request *q, qi__request *r, qi_error *err) {
  const qi_model *m = b->session->model;
  size_t bytes;
  qi_result e = qi__sampler_check((int)m->h.n_vocab, &q->sampler, err);
  if (!e) e = qi__text_check(q->stop, q->n_stop, err);
  if (e) return e;
  if (q->n_predict < -1) return qi__fail(err, QI_ERR_ARGUMENT, "submit: n_predict is %d, expected -1 or more", q->n_predict);
  if (q->matcher && q->matcher->automaton->grammar->model != m)
    return qi__fail(err, QI_ERR_ARGUMENT, "submit: a matcher of another model");
  if (!qi__request_bytes(m, &q->sampler, q->stop, q->n_stop, &bytes) || bytes > b->request_bytes)
    return qi__fail(err, QI_ERR_LIMIT, "submit: sampler and stop strings take more than the %zu bytes of a request (qi_batch_desc)",
                    b->request_bytes);
  qi__arena arena = {r->block, b->request_bytes, 0, false};
  qi__request_layout(r, &arena, m, &b->scratch, &q->sampler, q->stop, q->n_stop);
  return QI_OK;
}

// What a request has in common with another: its tokens, and for these also their roles. The answer of the other counts when it
// has ended.
QI__FN void qi__batch_share(qi__request *r, const qi__request *from) {
  size_t n = from->state == QI__REQUEST_ENDED ? from->n_tokens : from->n_prompt, i = 0;
  n = qi__min_size(n, r->n_tokens - 1); // the last one gives the logits
  while (i < n && r->tokens[i] == from->tokens[i]) i++;
  memcpy(r->generated, from->generated, i);
  r->share = from->id;
  r->n_share = i;
}

QI__FN qi_result qi__batch_submit(qi_batch *b, const qi_batch_request *q, uint64_t *id, qi_error *err) {
  qi__request *r = NULL, *from = q->share ? qi__batch_find(b, q->share) : NULL;
  for (size_t i = 0; i < b->n_requests && !r; i++)
    if (b->requests[i].state == QI__REQUEST_FREE) r = &b->requests[i];
  if (!r) return qi__fail(err, QI_ERR_LIMIT, "submit: there are %zu requests (n_requests)", b->n_requests);
  if (q->keep && b->n_keep + 1 >= b->session->kv.n_seqs)
    return qi__fail(err, QI_ERR_LIMIT, "submit: %zu of %zu sequences are to be kept, one must stay free", b->n_keep + 1,
                    b->session->kv.n_seqs);
  if (q->share && !from) return qi__fail(err, QI_ERR_ARGUMENT, "submit: share is none of the requests there are");
  qi_result e = qi__batch_tokens(b, q, r, err);
  if (!e) e = qi__batch_sampling(b, q, r, err);
  if (e) return e;
  r->state = QI__REQUEST_WAITING;
  r->done = QI_DONE_NOT;
  r->id = *id = ++b->last_id;
  r->share = 0;
  r->n_share = r->n_passed = 0;
  r->priority = q->priority;
  r->seq = -1;
  r->n_predict = q->n_predict ? q->n_predict : INT32_MAX;
  r->n_predicted = 0;
  r->ignore_end = q->ignore_end;
  r->keep = q->keep;
  r->cancelled = r->has_piece = r->has_end = false;
  r->last = -1;
  r->matcher = q->matcher;
  r->user = q->user;
  if (from) qi__batch_share(r, from);
  if (r->matcher) qi__matcher_reset(r->matcher);
  for (size_t i = 0; i < r->n_tokens; i++) qi__sampler_accept(r->sampler, r->tokens[i]);
  b->n_keep += r->keep;
  b->stats.n_waiting++;
  return QI_OK;
}

QI__FN void qi__batch_free_sequence(qi_batch *b, qi__request *r) {
  if (r->seq < 0) return;
  qi__guess_reset(b->session, (size_t)r->seq);
  qi__kv_cut(&b->session->kv, (size_t)r->seq, 0);
  b->running[r->seq] = NULL;
  r->seq = -1;
}

QI__FN void qi__batch_forget(qi_batch *b, qi__request *r) {
  qi__batch_free_sequence(b, r);
  b->n_keep -= r->keep;
  r->keep = false;
  if (!r->has_end) r->state = QI__REQUEST_FREE;
}

// No work may be under way.
QI__FN void qi__batch_end(qi_batch *b, qi__request *r, qi_done done) {
  *(r->state == QI__REQUEST_WAITING ? &b->stats.n_waiting : &b->stats.n_running) -= 1;
  r->state = QI__REQUEST_ENDED;
  r->done = done;
  r->has_end = true;
  b->n_events++;
  if (!r->keep || r->seq < 0 || done == QI_DONE_CANCELLED) qi__batch_forget(b, r);
}

// Ends what was cancelled. No work may be under way.
QI__FN void qi__batch_sweep(qi_batch *b) {
  for (size_t i = 0; b->n_cancelled && i < b->n_requests; i++) {
    qi__request *r = &b->requests[i];
    if (!r->cancelled) continue;
    r->cancelled = false;
    b->n_cancelled--;
    if (r->state == QI__REQUEST_ENDED) qi__batch_forget(b, r);
    else qi__batch_end(b, r, QI_DONE_CANCELLED);
  }
}

QI__FN qi_result qi__batch_cancel(qi_batch *b, uint64_t id, qi_error *err) {
  qi__request *r = qi__batch_find(b, id);
  if (!r) return qi__fail(err, QI_ERR_ARGUMENT, "batch: no such request");
  if (r->state == QI__REQUEST_ENDED && !r->keep) return QI_OK; // it ended before; that has only not been polled yet
  b->n_cancelled += !r->cancelled;
  r->cancelled = true;
  if (!b->session->work.tokens) qi__batch_sweep(b);
  return QI_OK;
}

// ---- admission ----

// Whether a goes before b: by priority, which grows while others overtake, then by age.
QI__FN bool qi__request_before(const qi__request *a, const qi__request *b) {
  int64_t pa = a->priority + (int64_t)(a->n_passed / QI__AGE), pb = b->priority + (int64_t)(b->n_passed / QI__AGE);
  return pa != pb ? pa > pb : a->id < b->id;
}

// The other request whose first *n tokens this one may take over now. *wait: it is about to compute them.
QI__FN const qi__request *qi__batch_source(const qi_batch *b, const qi__request *r, size_t *n, bool *wait) {
  const qi__request *from = r->n_share ? qi__batch_find(b, r->share) : NULL;
  *n = 0;
  *wait = false;
  if (!from || from->seq < 0) return NULL;
  size_t length = b->session->kv.length[from->seq];
  *n = qi__min_size(r->n_share, length);
  *wait = from->state == QI__REQUEST_RUNNING && length < r->n_share;
  return *n && qi__kv_can_cut(&b->session->kv, (size_t)from->seq, *n) ? from : NULL;
}

QI__FN qi__request *qi__batch_next_waiting(const qi_batch *b) {
  qi__request *best = NULL;
  for (size_t i = 0; b->stats.n_waiting && i < b->n_requests; i++) {
    qi__request *r = &b->requests[i];
    bool wait;
    size_t n;
    if (r->state != QI__REQUEST_WAITING || (best && qi__request_before(best, r))) continue;
    qi__batch_source(b, r, &n, &wait);
    if (!wait) best = r;
  }
  return best;
}

// Pages that running requests still take for the tokens they have.
QI__FN size_t qi__batch_promised(const qi_batch *b) {
  const qi__kv *kv = &b->session->kv;
  size_t n = 0;
  for (size_t seq = 0; seq < kv->n_seqs; seq++) {
    const qi__request *r = b->running[seq];
    if (!r || r->state != QI__REQUEST_RUNNING) continue;
    n += qi__kv_pages(r->n_tokens) - qi__kv_pages(kv->length[seq]) + qi__kv_shares_end(kv, seq);
  }
  return n;
}

QI__FN void qi__batch_admit_one(qi_batch *b, qi__request *r, size_t seq) {
  size_t n;
  bool wait;
  const qi__request *from = qi__batch_source(b, r, &n, &wait);
  if (from) qi__kv_fork(&b->session->kv, (size_t)from->seq, seq, n);
  r->state = QI__REQUEST_RUNNING;
  r->seq = (int)seq;
  b->running[seq] = r;
  b->stats.n_waiting--;
  b->stats.n_running++;
  for (size_t i = 0; b->stats.n_waiting && i < b->n_requests; i++)
    if (b->requests[i].state == QI__REQUEST_WAITING && b->requests[i].id < r->id) b->requests[i].n_passed++;
}

// Gives free sequences to waiting requests, the first of them first: one that does not fit is not overtaken by smaller ones.
QI__FN void qi__batch_admit(qi_batch *b) {
  const qi__kv *kv = &b->session->kv;
  for (size_t seq = 0; seq < kv->n_seqs; seq++) {
    if (b->running[seq]) continue;
    qi__request *r;
    while ((r = qi__batch_next_waiting(b))) {
      size_t n;
      bool wait;
      if (!qi__batch_source(b, r, &n, &wait)) n = 0;
      if (qi__kv_pages(r->n_tokens) - n / QI__KV_PAGE + qi__batch_promised(b) <= kv->n_unused) break;
      if (b->stats.n_running) return;
      qi__batch_end(b, r, QI_DONE_CONTEXT); // what is kept leaves no room for it
    }
    if (!r) return;
    qi__batch_admit_one(b, r, seq);
  }
}

// Puts the last of the running requests back to the waiting ones; false when it is the only one.
QI__FN bool qi__batch_put_back(qi_batch *b) {
  qi__request *last = NULL;
  for (size_t seq = 0; seq < b->session->kv.n_seqs; seq++) {
    qi__request *r = b->running[seq];
    if (r && r->state == QI__REQUEST_RUNNING && (!last || qi__request_before(last, r))) last = r;
  }
  if (!last || b->stats.n_running < 2) return false;
  qi__batch_free_sequence(b, last);
  last->state = QI__REQUEST_WAITING;
  b->stats.n_running--;
  b->stats.n_waiting++;
  b->stats.n_put_back++;
  return true;
}

// ---- steps ----

// Tokens that a sequence has to compute, if it may go on.
QI__FN size_t qi__batch_todo(const qi_batch *b, size_t seq) {
  const qi__request *r = b->running[seq];
  return r && r->state == QI__REQUEST_RUNNING && !r->has_piece ? r->n_tokens - b->session->kv.length[seq] : 0;
}

// Lets the running answers guess in what prompts leave of a step: `left` tokens.
QI__FN void qi__batch_guess(qi_batch *b, size_t left) {
  const qi_session *s = b->session;
  size_t n_answers = 0;
  for (size_t seq = 0; s->desc.n_draft && seq < s->kv.n_seqs; seq++)
    n_answers += b->n_planned[seq] && b->n_planned[seq] == qi__batch_todo(b, seq) && b->running[seq]->n_predicted;
  for (size_t seq = 0; n_answers && seq < s->kv.n_seqs; seq++) {
    const qi__request *r = b->running[seq];
    if (!b->n_planned[seq] || b->n_planned[seq] != qi__batch_todo(b, seq) || !r->n_predicted) continue;
    size_t most = qi__min_size(left / n_answers--, s->kv.n_ctx - r->n_tokens);
    most = qi__min_size(most, (size_t)(r->n_predict - r->n_predicted - 1)); // one comes without
    qi__guess_plan(b->session, seq, most, r->matcher);
    left -= s->guess[seq].n_most;
  }
}

// How many tokens of each sequence the step computes: one of each, then prompts in order until the step is full.
QI__FN void qi__batch_share_step(qi_batch *b) {
  size_t n_seqs = b->session->kv.n_seqs, left = b->session->forward.n_batch;
  for (size_t seq = 0; seq < n_seqs; seq++)
    if (b->running[seq] && b->running[seq]->n_predicted) left = b->step_tokens;
  for (size_t seq = 0; seq < n_seqs; seq++) {
    b->n_planned[seq] = qi__min_size(1, qi__batch_todo(b, seq));
    left -= qi__min_size(left, b->n_planned[seq]);
  }
  while (left) {
    qi__request *best = NULL;
    for (size_t seq = 0; seq < n_seqs; seq++)
      if (b->n_planned[seq] < qi__batch_todo(b, seq) && (!best || qi__request_before(b->running[seq], best)))
        best = b->running[seq];
    if (!best) break;
    size_t more = qi__min_size(left, qi__batch_todo(b, (size_t)best->seq) - b->n_planned[best->seq]);
    b->n_planned[best->seq] += more;
    left -= more;
  }
  qi__batch_guess(b, left);
}

// Makes the plan the work of the session. QI_ERR_CONTEXT: pages are missing.
QI__FN qi_result qi__batch_begin(qi_batch *b, qi_error *err) {
  qi_session *s = b->session;
  size_t n = 0, n_top = 0;
  b->n_rows = b->n_chosen = 0;
  for (size_t seq = 0; seq < s->kv.n_seqs; seq++) {
    const qi__request *r = b->running[seq];
    size_t wanted = b->n_planned[seq] ? qi__top_wanted(r->sampler, r->matcher != NULL) : 0;
    if (wanted > n_top) n_top = wanted;
    for (size_t i = 0, at = s->kv.length[seq]; i < b->n_planned[seq]; i++, at++) {
      bool last = at + 1 == r->n_tokens;
      s->queue[n++] = (qi_decode_token){r->tokens[at], (int)seq, r->generated[at] != 0, last};
      if (last) b->rows[b->n_rows++] = (int)seq;
    }
  }
  qi_result e = n ? qi__work_begin_guessing(s, n, err) : QI_OK;
  if (n && !e) qi__work_top(s, n_top);
  return e;
}

// Ends the request that runs alone and finds no pages all the same.
QI__FN void qi__batch_end_alone(qi_batch *b) {
  for (size_t seq = 0; seq < b->session->kv.n_seqs; seq++) {
    qi__request *r = b->running[seq];
    if (r && r->state == QI__REQUEST_RUNNING) qi__batch_end(b, r, QI_DONE_CONTEXT);
  }
}

// A step without computing: for the requests whose last token was guessed, logits for the next one are there. False when there are
// none, or the next step is to be cancelled.
QI__FN bool qi__batch_take_guesses(qi_batch *b) {
  qi_session *s = b->session;
  b->n_rows = b->n_chosen = 0;
  if (!s->desc.n_draft || __atomic_load_n(&s->cancel, __ATOMIC_RELAXED)) return false;
  for (size_t seq = 0; seq < s->kv.n_seqs; seq++) {
    if (qi__batch_todo(b, seq) != 1) continue;
    const qi__request *r = b->running[seq];
    if (qi__guess_take(s, seq, r->tokens + r->n_tokens - 1, 1, b->n_rows)) b->rows[b->n_rows++] = (int)seq;
  }
  s->n_logits = b->n_rows;
  return b->n_rows > 0;
}

QI__FN qi_result qi__batch_plan(qi_batch *b, qi_error *err) {
  qi_error why = {QI_OK, ""};
  qi__batch_sweep(b);
  if (qi__batch_take_guesses(b)) return QI_OK;
  qi__guess_drop_all(b->session);
  qi__batch_admit(b);
  for (;;) {
    qi__batch_share_step(b);
    qi_result r = qi__batch_begin(b, &why);
    if (r != QI_ERR_CONTEXT) return r ? qi__fail(err, r, "%s", why.msg) : QI_OK;
    if (!qi__batch_put_back(b)) qi__batch_end_alone(b);
  }
}

// Chooses a token as qi__next does: where the grammar leaves one, no random number is drawn for it, and where it leaves only the
// end behind some text, none is chosen: -1.
QI__FN qi_result qi__request_choose(const qi_session *s, qi__request *r, int row, qi_token *out) {
  qi__mask mask = {NULL, 0, -1, false};
  qi_result e = r->matcher ? qi__matcher_mask(r->matcher, &mask, NULL) : QI_OK;
  if (e) return e;
  *out = -1;
  if (r->matcher && !mask.n && r->n_predicted) return QI_OK;
  bool forced = mask.only >= 0 && !mask.can_end;
  *out = forced ? mask.only : qi__session_sample(s, r->sampler, row, mask.allowed);
  return r->matcher ? qi__matcher_accept(r->matcher, *out, NULL) : QI_OK;
}

// A chosen token becomes text, and what there is to compute.
QI__FN void qi__batch_take(qi_batch *b, qi__request *r, qi_token token) {
  qi_session *s = b->session;
  const qi__vocab *vocab = &s->model->vocab;
  size_t len = qi__token_piece(vocab, token, s->desc.print_special, s->piece, vocab->max_token);
  bool stop = qi__text_push(&r->text, s->piece, len, &r->piece), fits = r->n_tokens < s->kv.n_ctx;
  r->piece.token = token;
  r->has_piece = true;
  b->n_events++;
  if (fits) {
    r->generated[r->n_tokens] = 1;
    r->tokens[r->n_tokens++] = token;
  }
  if (stop) qi__batch_end(b, r, QI_DONE_STOP);
  else if (++r->n_predicted == r->n_predict) qi__batch_end(b, r, QI_DONE_LIMIT);
  else if (!fits) qi__batch_end(b, r, QI_DONE_CONTEXT);
}

// One token more for a request whose tokens are all computed, with logits `row`; or its end.
QI__FN void qi__batch_go_on(qi_batch *b, qi__request *r, int row) {
  if (r->n_predict < 0) {
    qi__batch_end(b, r, QI_DONE_LIMIT);
    return;
  }
  qi_token token;
  if (qi__request_choose(b->session, r, row, &token)) {
    qi__batch_end(b, r, QI_DONE_GRAMMAR);
    return;
  }
  qi__sampler_accept(r->sampler, token);
  bool is_end = token < 0 || ((r->matcher || !r->ignore_end) && qi__token_is_end(&b->session->model->vocab, token));
  if (!is_end) {
    qi__batch_take(b, r, token);
    return;
  }
  r->last = token;
  qi__batch_end(b, r, QI_DONE_END);
}

QI__FN qi_result qi__batch_step(qi_batch *b, uint64_t deadline_us, qi_error *err) {
  qi_session *s = b->session;
  qi_result e = QI_OK;
  if (!s->work.tokens && b->n_chosen == b->n_rows) e = qi__batch_plan(b, err);
  bool worked = s->work.tokens != NULL;
  if (!e) e = qi__work_run(s, deadline_us, err);
  if (e < 0) b->n_rows = b->n_chosen = 0; // the step was dropped
  if (e) return e;
  qi__batch_sweep(b);
  if (worked && b->n_rows && deadline_us && qi__now_us() >= deadline_us) return QI_AGAIN; // choosing takes time too
  while (b->n_chosen < b->n_rows) {
    size_t i = b->n_chosen++;
    qi__request *r = b->running[b->rows[i]];
    if (r && r->state == QI__REQUEST_RUNNING) qi__batch_go_on(b, r, (int)i);
    if (deadline_us && b->n_chosen < b->n_rows && qi__now_us() >= deadline_us) return QI_AGAIN;
  }
  return b->stats.n_waiting || b->stats.n_running || b->n_events ? QI_OK : QI_END;
}

// ---- results ----

QI__FN bool qi__batch_poll(qi_batch *b, qi_batch_event *out) {
  qi__request *r = NULL;
  if (!b->n_events) return false;
  for (size_t i = 0; i < b->n_requests; i++, b->poll_at = (b->poll_at + 1) % b->n_requests) {
    r = &b->requests[b->poll_at];
    if (r->has_piece || r->has_end) break;
  }
  *out = (qi_batch_event){r->id, r->user, r->piece, QI_DONE_NOT};
  b->n_events--;
  if (r->has_piece) {
    r->has_piece = false;
    return true;
  }
  qi__text_flush(&r->text, &out->piece);
  out->piece.token = r->last;
  out->done = r->done;
  r->has_end = false;
  if (!r->keep) r->state = QI__REQUEST_FREE;
  return true;
}

#endif // QI__INFER_BATCH_H
