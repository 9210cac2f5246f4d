// ==== >>session : a place where a model runs, and the work that is under way ====
#ifndef QI__SESSION_H
#define QI__SESSION_H

#include "../base/tuner.h"
#include "../model/model.h"
#include "backend.h"
#include "draft.h"
#include "matcher.h"
#include "observe.h"
#include "sampler.h"
#include "text.h"

#define QI__MAX_SEQS 1024
#define QI__MAX_CTX (1 << 24)
#define QI__MAX_BATCH (1 << 16)
#define QI__MAX_PENDING 32 // tokens given before they are computed

// Tokens that are to be computed, in chunks of n_batch. Until the last one is done the sequences can go back to where they were.
typedef struct qi__work {
  const qi_decode_token *tokens; // NULL = no work; the session's queue, or the caller's array during one call
  size_t n, n_done;
  size_t n_wanted;    // rows of logits, but for those of guessed tokens
  bool guessing;      // guessed tokens are still to be put behind the others
  bool in_chunk;      // the forward pass holds a chunk that is not finished
  size_t chunk;       // its tokens
  bool text;          // of the text interface: tokens go to the sampler's history
  bool prompt;        // begins an answer when it is done
} qi__work;

struct qi_session {
  const qi_model *model;
  qi_allocator allocator;
  qi_session_desc desc; // defaults filled in; strings and logit biases are not kept here
  qi__arena arena;
  qi_allocator memory;  // the arena's: `allocator`, or the backend's memory
  size_t bytes;         // of the arena and of this struct
  qi_pool own_pool, *pool;
  bool has_own_pool;
  qi__tuner tuner;      // of the threads that generate
  size_t tuned_rows;    // of the steps that it measures
  qi__kernels kernels;
  qi__kv kv;
  qi__forward forward;
  qi__device_pass device; // where a backend computes
  int cancel;           // set by any thread

  qi__work work;
  qi_decode_token *queue; // [n_seqs * n_ctx]
  qi_token *ids;          // [n_ctx] of a prompt's text
  size_t *start;          // [n_seqs] lengths before the work began
  size_t *logits_at;      // [forward.n_logits] row of forward.logits of each wanting token, in the caller's order
  size_t n_logits;        // of the work that was finished last
  qi__guess *guess;       // [n_seqs]; only where desc.n_draft is not 0
  qi_session *draft;      // runs the draft model, over the same sequences; NULL = none
  size_t draft_tokens;    // that it computes at once, at most

  qi_sampler *sampler;
  qi__text text;
  char *piece;            // bytes of one token
  bool prompted, ended;
  qi_matcher *matcher;    // the caller's; NULL = any text
  bool jump;              // see qi_session_constrain
  qi_token pending[QI__MAX_PENDING]; // chosen, given as text, not computed yet
  size_t n_pending;
  int n_predicted;        // since the last prompt
  qi_session_stats stats;
};

// ---- desc ----

QI__FN qi_result qi__session_int(const char *name, int value, int max, int fallback, int *out, qi_error *err) {
  if (value < 0) return qi__fail(err, QI_ERR_ARGUMENT, "session: %s is %d, expected 0 or more", name, value);
  if (value > max) return qi__fail(err, QI_ERR_LIMIT, "session: %s is %d, expected at most %d", name, value, max);
  *out = value ? value : fallback;
  return QI_OK;
}

// Fills in defaults and checks every field.
QI__FN qi_result qi__session_desc_defaults(qi_session_desc *d, const qi_model *m, qi_error *err) {
  qi_result r;
  int n_ctx = (int)qi__min_size(m->h.n_ctx_train, 4096);
  if ((r = qi__session_int("n_ctx", d->n_ctx, QI__MAX_CTX, n_ctx, &d->n_ctx, err))) return r;
  if ((r = qi__session_int("n_seqs", d->n_seqs, QI__MAX_SEQS, 1, &d->n_seqs, err))) return r;
  if ((r = qi__session_int("n_kv_tokens", d->n_kv_tokens, INT32_MAX, 0, &d->n_kv_tokens, err))) return r;
  if ((r = qi__session_int("n_batch", d->n_batch, QI__MAX_BATCH, 256, &d->n_batch, err))) return r;
  if ((r = qi__session_int("n_logits", d->n_logits, QI__MAX_CTX, d->n_seqs, &d->n_logits, err))) return r;
  if ((r = qi__session_int("n_predict", d->n_predict, INT32_MAX, INT32_MAX, &d->n_predict, err))) return r;
  if ((r = qi__session_int("n_draft", d->n_draft, QI__DRAFT_MAX, QI__DRAFT_DEFAULT, &d->n_draft, err))) return r;
  if (!d->draft && !d->lookup) d->n_draft = 0;
  if (d->path < QI_PATH_AUTO || d->path > QI_PATH_FLOAT)
    return qi__fail(err, QI_ERR_ARGUMENT, "session: path is %d, expected a qi_path", (int)d->path);
  if (d->kv_type < QI_KV_AUTO || d->kv_type >= QI_KV_COUNT)
    return qi__fail(err, QI_ERR_ARGUMENT, "session: kv_type is %d, expected a qi_kv_type", (int)d->kv_type);
  if (d->kv_type == QI_KV_AUTO) d->kv_type = QI_KV_F16;
  // A token is at most once in a chunk of n_batch, and all sequences together hold n_seqs * n_ctx.
  d->n_batch = (int)qi__min_i64(d->n_batch, (int64_t)d->n_seqs * d->n_ctx);
  if ((r = qi__sampler_check((int)m->h.n_vocab, &d->sampler, err))) return r;
  return qi__text_check(d->stop, d->n_stop, err);
}

QI__FN qi_result qi__session_check_model(const qi_model *m, qi_error *err) {
  if (!m) return qi__fail(err, QI_ERR_ARGUMENT, "session: model is NULL");
  if (m->load != QI_LOAD_ALL) return qi__fail(err, QI_ERR_STATE, "session: the model was opened without weights (load)");
  return QI_OK;
}

// The session of the draft model: room for the same sequences, and nothing else.
QI__FN qi_result qi__session_draft_desc(const qi_session_desc *d, const qi_model *m, qi_session_desc *out, qi_error *err) {
  memset(out, 0, sizeof *out);
  out->n_ctx = d->n_ctx;
  out->n_seqs = d->n_seqs;
  out->n_batch = d->n_batch;
  out->n_kv_tokens = d->n_kv_tokens;
  out->kv_type = d->kv_type;
  out->path = d->path;
  out->n_threads = d->n_threads;
  out->isa = d->isa;
  out->parallel = d->parallel;
  out->pool = d->pool;
  if (d->draft->load != QI_LOAD_ALL) return qi__fail(err, QI_ERR_STATE, "session: draft was opened without weights (load)");
  return qi__draft_check_vocab(m, d->draft, err);
}

// The pool that a session opens for itself. What a backend computes needs no threads: the caller's will do, unless a model on the
// CPU drafts.
QI__FN qi_pool_desc qi__session_pool_desc(const qi_model *m, const qi_session_desc *d, const qi_allocator *allocator) {
  bool on_cpu = !m->backend || (d->draft && !d->draft->backend);
  qi_pool_desc pd = {d->n_threads, d->isa, d->parallel, *allocator};
  if (!pd.n_threads && !on_cpu && !pd.parallel.parallel_for) pd.n_threads = 1;
  return pd;
}

// ---- memory ----

QI__FN void qi__session_layout(qi_session *s, qi__arena *arena, size_t n_threads) {
  const qi_session_desc *d = &s->desc;
  const qi__hparams *h = &s->model->h;
  size_t n_seqs = (size_t)d->n_seqs, n_ctx = (size_t)d->n_ctx;
  qi__kv_open(&s->kv, arena, h, n_seqs, n_ctx, (size_t)d->n_kv_tokens, d->kv_type);
  s->forward.on_device = s->model->backend != NULL;
  size_t n_logits = (size_t)d->n_logits + (size_t)d->n_draft;
  if (s->forward.on_device) qi__device_layout(&s->device, arena, h, (size_t)d->n_batch, n_logits);
  qi__forward_layout(&s->forward, arena, h, &s->kv, (size_t)d->n_batch, n_logits, n_threads);
  s->queue = QI__ARENA_ARRAY(arena, qi_decode_token, n_seqs * n_ctx);
  s->ids = QI__ARENA_ARRAY(arena, qi_token, n_ctx);
  s->start = QI__ARENA_ARRAY(arena, size_t, n_seqs);
  s->logits_at = QI__ARENA_ARRAY(arena, size_t, n_logits);
  s->guess = QI__ARENA_ARRAY(arena, qi__guess, d->n_draft ? n_seqs : 0);
  s->sampler = qi__sampler_layout(arena, NULL, (int)h->n_vocab, &d->sampler);
  s->piece = QI__ARENA_ARRAY(arena, char, s->model->vocab.max_token);
  qi__text_layout(&s->text, arena, d->stop, d->n_stop, s->model->vocab.max_token);
}

QI__FN qi_result qi__session_memory(const qi_model *m, const qi_session_desc *desc, uint64_t *bytes, qi_error *err) {
  qi_session s;
  memset(&s, 0, sizeof s);
  s.model = m;
  s.desc = *desc;
  qi_result r = qi__session_desc_defaults(&s.desc, m, err);
  if (r) return r;
  qi_pool pool;
  size_t n_threads = 0;
  if (desc->pool) {
    n_threads = (size_t)desc->pool->n_threads;
  } else {
    qi_pool_desc pd = qi__session_pool_desc(m, desc, &desc->allocator);
    if ((r = qi__pool_configure(&pool, &pd, err))) return r;
    n_threads = (size_t)pool.n_threads;
  }
  qi__arena arena = {0};
  qi__session_layout(&s, &arena, n_threads);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "session: does not fit into this machine's address space");
  *bytes = (uint64_t)arena.used + sizeof s;
  if (!desc->draft) return QI_OK;
  qi_session_desc dd;
  uint64_t more = 0;
  if ((r = qi__session_draft_desc(&s.desc, m, &dd, err)) || (r = qi__session_memory(desc->draft, &dd, &more, err))) return r;
  *bytes += more;
  return QI_OK;
}

// ---- open and close ----

QI__FN void qi__session_close(qi_session *s) {
  if (!s) return;
  qi_allocator allocator = s->allocator;
  qi__session_close(s->draft);
  qi__arena_close(&s->arena, &s->memory);
  qi__device_close(&s->device);
  if (s->has_own_pool) qi__pool_destroy(&s->own_pool);
  qi__free(&allocator, s, sizeof *s);
}

QI__FN qi_result qi__session_pool(qi_session *s, const qi_session_desc *desc, qi_error *err) {
  s->pool = desc->pool;
  if (desc->pool) return QI_OK;
  qi_pool_desc pd = qi__session_pool_desc(s->model, desc, &s->allocator);
  qi_result r = qi__pool_init(&s->own_pool, &pd, err);
  if (r) return r;
  s->pool = &s->own_pool;
  s->has_own_pool = true;
  return QI_OK;
}

QI__FN void qi__session_wire(qi_session *s) {
  qi__forward *f = &s->forward;
  const qi__weights *w = &s->model->weights;
  f->h = &s->model->h;
  f->w = w;
  f->kernels = &s->kernels;
  f->pool = s->pool;
  f->kv = &s->kv;
  f->path = s->desc.path;
  f->cancel = &s->cancel;
  f->observer = s->desc.observer;
  f->observe = f->observer.fn ? qi__observe : NULL;
  f->op = QI__OP_DONE;
  bool beyond = (size_t)s->desc.n_ctx > f->h->rope_n_ctx_orig;
  const float *factors = w->rope_factors ? w->rope_factors : beyond ? w->rope_long : w->rope_short;
  f->magnitude = qi__rope_frequencies(f->h, factors, f->frequency);
  s->n_pending = 0;
  s->stats.heap_bytes = s->bytes;
  s->stats.kv_bytes = qi__kv_bytes(&s->kv);
  s->stats.kv_tokens = (uint64_t)s->kv.n_pages * QI__KV_PAGE;
  bool tunes = s->pool->may_change && !s->forward.on_device && !s->desc.n_draft;
  qi__tuner_open(&s->tuner, s->pool->n_start, tunes ? s->pool->n_threads : 0);
  s->stats.isa = s->pool->isa;
}

// Where the memory of the session comes from; a model on a backend gives it a queue.
QI__FN qi_result qi__session_memory_open(qi_session *s, qi_error *err) {
  s->memory = s->allocator;
  if (!s->model->backend) return QI_OK;
  if (s->desc.observer.fn) return qi__fail(err, QI_ERR_UNSUPPORTED, "session: a backend has no observer");
  qi_result r = qi__backend_check(s->model->backend, s->model->device, &s->model->h, &s->model->weights, s->desc.kv_type, err);
  if (!r) r = qi__device_open(&s->device, s->model->backend, s->model->device, err);
  if (r) return r;
  s->memory = (qi_allocator){qi__device_alloc, qi__device_free, &s->device};
  qi__device_look(&s->device, s->model->device, &s->model->h, &s->model->weights);
  return QI_OK;
}

QI__FN qi_result qi__session_open(qi_session **out, const qi_model *m, const qi_session_desc *desc, qi_error *err);

// Behind all else of the session: its pool, its allocator and its cancelling are also those of the draft's.
QI__FN qi_result qi__session_open_draft(qi_session *s, qi_error *err) {
  qi_session_desc d;
  qi_result r = qi__session_draft_desc(&s->desc, s->model, &d, err);
  if (r) return r;
  d.pool = s->pool;
  d.allocator = s->allocator;
  if ((r = qi__session_open(&s->draft, s->desc.draft, &d, err))) return r;
  s->draft->forward.cancel = &s->cancel;
  s->stats.heap_bytes += s->draft->stats.heap_bytes;
  s->stats.kv_bytes += s->draft->stats.kv_bytes;
  return QI_OK;
}

QI__FN qi_result qi__session_open(qi_session **out, const qi_model *m, const qi_session_desc *desc, qi_error *err) {
  qi_session_desc d = *desc;
  qi_allocator allocator;
  qi_result r = qi__session_desc_defaults(&d, m, err);
  if (r) return r;
  const qi_allocator *hook = desc->allocator.alloc || desc->allocator.free ? &desc->allocator : &m->allocator;
  if ((r = qi__allocator_resolve(hook, &allocator, err))) return r;
  qi_session *s = (qi_session *)qi__alloc(&allocator, sizeof *s, QI__CACHE_LINE);
  if (!s) return qi__fail_oom(err, "session", sizeof *s);
  memset(s, 0, sizeof *s);
  s->model = m;
  s->allocator = allocator;
  s->desc = d;
  if ((r = qi__session_memory_open(s, err))) goto fail;
  if ((r = qi__session_pool(s, desc, err))) goto fail;
  qi__session_layout(s, &s->arena, (size_t)s->pool->n_threads);
  if ((r = qi__arena_open(&s->arena, &s->memory, "session", err))) goto fail;
  qi__session_layout(s, &s->arena, (size_t)s->pool->n_threads);
  s->bytes = s->arena.size + sizeof *s;
  s->desc.stop = NULL;
  s->desc.sampler.logit_bias = NULL;
  qi__kernels_init(&s->kernels, &s->pool->cpu);
  qi__session_wire(s);
  if (d.n_draft) memset(s->guess, 0, (size_t)d.n_seqs * sizeof *s->guess);
  s->draft_tokens = SIZE_MAX;
  if (d.draft && (r = qi__session_open_draft(s, err))) goto fail;
  *out = s;
  return QI_OK;
fail:
  qi__session_close(s);
  return r;
}

// ---- work ----

// Forgets unfinished work; sequences are as before it.
QI__FN void qi__work_drop(qi_session *s) {
  for (size_t seq = 0; s->work.tokens && seq < s->kv.n_seqs; seq++) qi__kv_cut(&s->kv, seq, s->start[seq]);
  for (size_t seq = 0; s->desc.n_draft && seq < s->kv.n_seqs; seq++) s->guess[seq].n = s->guess[seq].n_most = 0;
  memset(&s->work, 0, sizeof s->work);
}

// Checks tokens against vocabulary, sequences, context and room for logits; leaves lengths after the work in `start`.
QI__FN qi_result qi__work_check(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err) {
  size_t n_logits = 0, most = s->kv.n_seqs * s->kv.n_ctx;
  if (n > most) return qi__fail(err, QI_ERR_CONTEXT, "%zu tokens: all sequences together hold %zu", n, most);
  memcpy(s->start, s->kv.length, s->kv.n_seqs * sizeof *s->start);
  for (size_t i = 0; i < n; i++) {
    const qi_decode_token *t = &tokens[i];
    if (t->token < 0 || (size_t)t->token >= s->model->h.n_vocab)
      return qi__fail(err, QI_ERR_ARGUMENT, "token %zu: id is %d, expected 0 to %zu", i, (int)t->token, s->model->h.n_vocab - 1);
    if (t->seq < 0 || (size_t)t->seq >= s->kv.n_seqs)
      return qi__fail(err, QI_ERR_ARGUMENT, "token %zu: seq is %d, expected 0 to %zu", i, t->seq, s->kv.n_seqs - 1);
    s->start[t->seq]++;
    n_logits += t->want_logits;
  }
  for (size_t seq = 0; seq < s->kv.n_seqs; seq++)
    if (s->start[seq] > s->kv.n_ctx)
      return qi__fail(err, QI_ERR_CONTEXT, "sequence %zu: the context of %zu is full; %zu tokens do not fit", seq, s->kv.n_ctx,
                      s->start[seq] - s->kv.n_ctx);
  if (n_logits > (size_t)s->desc.n_logits)
    return qi__fail(err, QI_ERR_LIMIT, "%zu tokens want logits; the session keeps %d (n_logits)", n_logits, s->desc.n_logits);
  s->work.n_wanted = n_logits;
  return QI_OK;
}

// Room for checked tokens and for what may be guessed behind them: `start` becomes lengths with both. Where there is only room for
// the tokens nothing is guessed.
QI__FN qi_result qi__work_reserve(qi_session *s, qi_error *err) {
  bool guessing = false;
  for (size_t seq = 0; s->desc.n_draft && seq < s->kv.n_seqs; seq++) {
    qi__guess *g = &s->guess[seq];
    g->context = s->start[seq];
    s->start[seq] += g->n_most;
    guessing |= g->n_most > 0;
  }
  s->work.guessing = guessing;
  if (!guessing) return qi__kv_reserve(&s->kv, s->start, err);
  if (qi__kv_reserve(&s->kv, s->start, NULL) == QI_OK) return QI_OK;
  for (size_t seq = 0; seq < s->kv.n_seqs; seq++) {
    s->guess[seq].n = s->guess[seq].n_most = 0;
    s->start[seq] = s->guess[seq].context;
  }
  s->work.guessing = false;
  return qi__kv_reserve(&s->kv, s->start, err);
}

// Makes tokens the work to do; there must be none. Pages for them are taken here.
QI__FN qi_result qi__work_begin(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err) {
  qi_result r = qi__work_check(s, tokens, n, err);
  if (!r) r = qi__work_reserve(s, err);
  if (r) {
    qi__work_drop(s); // there is none: only what was to be guessed
    return r;
  }
  memcpy(s->start, s->kv.length, s->kv.n_seqs * sizeof *s->start);
  for (size_t i = 0; i < n; i++) qi__kv_ids(&s->kv, (size_t)tokens[i].seq)[s->start[tokens[i].seq]++] = tokens[i].token;
  memcpy(s->start, s->kv.length, s->kv.n_seqs * sizeof *s->start);
  s->work.tokens = tokens;
  s->work.n = n;
  s->n_logits = 0;
  s->device.n_top = 0;
  return QI_OK;
}

// Threads for the chunk that is to be computed: what measuring says for as many rows as it measures, or no fewer than at first, as
// more rows, and prompts, are not so much bound by memory.
QI__FN void qi__work_threads(qi_session *s) {
  const qi__forward *f = &s->forward;
  if (f->n_prompt == 0 && f->n_rows != s->tuned_rows && !qi__tuner_done(&s->tuner)) {
    s->tuned_rows = f->n_rows;
    qi__tuner_restart(&s->tuner);
  }
  bool measured = f->n_prompt == 0 && f->n_rows == s->tuned_rows;
  int most = s->tuner.best > s->pool->n_start ? s->tuner.best : s->pool->n_start;
  qi__pool_set_active(s->pool, measured ? qi__tuner_threads(&s->tuner) : most);
}

// Of the logits of work that was begun, so many candidates will do (0 = not): a device then finds them.
QI__FN void qi__work_top(qi_session *s, size_t n) { s->device.n_top = s->device.has_top ? n : 0; }

// Hands the next chunk to the forward pass: prompt rows first.
QI__FN void qi__work_chunk(qi_session *s) {
  qi__work *w = &s->work;
  qi__forward *f = &s->forward;
  w->chunk = qi__min_size(w->n - w->n_done, f->n_batch);
  const qi_decode_token *tokens = w->tokens + w->n_done;
  size_t n_prompt = 0, n_wanted_prompt = 0;
  for (size_t i = 0; i < w->chunk; i++)
    if (!tokens[i].generated) {
      n_prompt++;
      n_wanted_prompt += tokens[i].want_logits;
    }
  size_t prompt = 0, generated = n_prompt;
  f->logits_row = s->n_logits;
  size_t prompt_logits = f->logits_row, generated_logits = f->logits_row + n_wanted_prompt;
  for (size_t i = 0; i < w->chunk; i++) {
    const qi_decode_token *t = &tokens[i];
    qi__row *row = &f->rows[t->generated ? generated++ : prompt++];
    *row = (qi__row){t->token, (size_t)t->seq, s->kv.length[t->seq]++, t->want_logits};
    if (t->want_logits) s->logits_at[s->n_logits++] = t->generated ? generated_logits++ : prompt_logits++;
  }
  f->n_rows = w->chunk;
  f->n_prompt = n_prompt;
  qi__work_threads(s);
  qi__forward_start(f);
  w->in_chunk = true;
}

QI__FN void qi__work_chunk_done(qi_session *s) {
  qi__work *w = &s->work;
  s->stats.n_prompt += s->forward.n_prompt;
  s->stats.n_generated += s->forward.n_rows - s->forward.n_prompt;
  w->n_done += w->chunk;
  w->in_chunk = false;
}

// Work of the text interface counts only as a whole, so that nothing of it is left when it is cancelled.
QI__FN void qi__work_done(qi_session *s) {
  qi__work *w = &s->work;
  s->n_logits = w->n_wanted;
  for (size_t seq = 0; s->kv.window && seq < s->kv.n_seqs; seq++) qi__kv_slide(&s->kv, seq);
  if (w->text) s->n_pending = 0;
  for (size_t i = 0; w->text && i < w->n; i++)
    if (!w->tokens[i].generated) qi__sampler_accept(s->sampler, w->tokens[i].token);
  if (w->prompt) {
    qi__text_reset(&s->text);
    if (s->matcher) qi__matcher_reset(s->matcher);
    s->prompted = true;
    s->ended = false;
    s->n_predicted = 0;
  }
  memset(w, 0, sizeof *w);
}

// Computes tokens of the work until there are no more, or the deadline has passed (QI_AGAIN; 0 = none), or it fails: cancelled
// (QI_ERR_CANCELLED, no message), or a backend's error. Nothing is dropped yet.
QI__FN qi_result qi__work_compute(qi_session *s, uint64_t deadline_us, qi_error *err) {
  qi__work *w = &s->work;
  while (w->n_done < w->n) {
    bool whole = !w->in_chunk; // the chunk's time is measured whole
    if (whole) qi__work_chunk(s);
    uint64_t start = qi__now_us();
    qi_result r = s->forward.on_device ? qi__device_run(&s->device, &s->forward, deadline_us, err)
                                       : qi__forward_run(&s->forward, deadline_us);
    double seconds = (double)(qi__now_us() - start) * 1e-6;
    *(s->forward.n_prompt ? &s->stats.prompt_seconds : &s->stats.generate_seconds) += seconds;
    if (r) return r;
    if (whole && s->forward.n_prompt == 0) qi__tuner_add(&s->tuner, seconds);
    qi__work_chunk_done(s);
    if (deadline_us && w->n_done < w->n && qi__now_us() >= deadline_us) return QI_AGAIN;
  }
  return QI_OK;
}

// ---- logits ----

// Row of forward.logits with the i-th logits of the work that was finished last (-1 = the last); -1 = there is none.
QI__FN int64_t qi__session_row(const qi_session *s, int i) {
  int64_t at = i == -1 ? (int64_t)s->n_logits - 1 : i;
  return s->work.tokens || at < 0 || (size_t)at >= s->n_logits ? -1 : (int64_t)s->logits_at[at];
}

QI__FN const float *qi__session_logits(const qi_session *s, int i) {
  int64_t row = qi__session_row(s, i);
  return row < 0 ? NULL : s->forward.logits + (size_t)row * s->model->h.n_vocab;
}

// Candidates that a device has found in row `row` of forward.logits; NULL = none.
QI__FN const qi_op_candidate *qi__row_top(const qi_session *s, size_t row) {
  return s->device.n_top ? s->device.top + row * s->device.n_top : NULL;
}

// How many candidates will do for this sampler; `constrained`: by a grammar.
QI__FN size_t qi__top_wanted(const qi_sampler *sp, bool constrained) { return constrained ? 0 : qi__sampler_needs(sp); }

// A token for logits i, which are there.
QI__FN qi_token qi__session_sample(const qi_session *s, qi_sampler *sp, int i, const uint32_t *allowed) {
  const qi_op_candidate *top = allowed ? NULL : qi__row_top(s, (size_t)qi__session_row(s, i));
  qi_token token;
  if (top && qi__sampler_sample_top(sp, top, s->device.n_top, &token)) return token;
  return qi__sampler_sample(sp, qi__session_logits(s, i), allowed);
}

// Highest of the first n logits of row `row` of forward.logits; -1 if all are -infinity.
QI__FN qi_token qi__row_best(const qi_session *s, size_t row, size_t n) {
  const qi_op_candidate *top = qi__row_top(s, row);
  if (top && top->logit >= -FLT_MAX && (size_t)top->token < n) return top->token;
  return qi__argmax(s->forward.logits + row * s->model->h.n_vocab, (int)n, NULL);
}

QI__FN uint64_t qi__deadline(uint32_t budget_us) { return budget_us ? qi__now_us() + budget_us : 0; }

#endif // QI__SESSION_H
