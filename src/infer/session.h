// ==== >>session : sequences, the work that is under way, and text ====
#ifndef QI__SESSION_H
#define QI__SESSION_H

#include "../model/model.h"
#include "backend.h"
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
  qi__kernels kernels;
  qi__kv kv;
  qi__forward forward;
  qi__device_pass device; // where a backend computes
  int cancel;           // set by any thread

  qi__work work;
  qi_decode_token *queue; // [n_seqs * n_ctx]
  qi_token *ids;          // [n_ctx] of a prompt's text
  size_t *start;          // [n_seqs] lengths before the work began
  size_t *logits_at;      // [n_logits] row of forward.logits of each wanting token, in the caller's order
  size_t n_logits;        // of the work that was finished last

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

// ---- memory ----

QI__FN void qi__session_layout(qi_session *s, qi__arena *arena, size_t n_threads) {
  const qi_session_desc *d = &s->desc;
  const qi__hparams *h = &s->model->h;
  size_t n_seqs = (size_t)d->n_seqs, n_ctx = (size_t)d->n_ctx;
  qi__kv_open(&s->kv, arena, h, n_seqs, n_ctx, (size_t)d->n_kv_tokens, d->kv_type);
  s->forward.on_device = s->model->backend != NULL;
  if (s->forward.on_device) qi__device_layout(&s->device, arena, h, (size_t)d->n_batch);
  qi__forward_layout(&s->forward, arena, h, &s->kv, (size_t)d->n_batch, (size_t)d->n_logits, n_threads);
  s->queue = QI__ARENA_ARRAY(arena, qi_decode_token, n_seqs * n_ctx);
  s->ids = QI__ARENA_ARRAY(arena, qi_token, n_ctx);
  s->start = QI__ARENA_ARRAY(arena, size_t, n_seqs);
  s->logits_at = QI__ARENA_ARRAY(arena, size_t, (size_t)d->n_logits);
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
    qi_pool_desc pd = {desc->n_threads, desc->isa, desc->parallel, desc->allocator};
    if ((r = qi__pool_configure(&pool, &pd, err))) return r;
    n_threads = (size_t)pool.n_threads;
  }
  qi__arena arena = {0};
  qi__session_layout(&s, &arena, n_threads);
  if (arena.overflow) return qi__fail(err, QI_ERR_LIMIT, "session: does not fit into this machine's address space");
  *bytes = (uint64_t)arena.used + sizeof s;
  return QI_OK;
}

// ---- open and close ----

QI__FN void qi__session_close(qi_session *s) {
  if (!s) return;
  qi_allocator allocator = s->allocator;
  qi__arena_close(&s->arena, &s->memory);
  qi__device_close(&s->device);
  if (s->has_own_pool) qi__pool_destroy(&s->own_pool);
  qi__free(&allocator, s, sizeof *s);
}

QI__FN qi_result qi__session_pool(qi_session *s, const qi_session_desc *desc, qi_error *err) {
  s->pool = desc->pool;
  if (desc->pool) return QI_OK;
  qi_pool_desc pd = {desc->n_threads, desc->isa, desc->parallel, s->allocator};
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
  s->stats.n_threads = s->pool->n_threads;
  s->stats.isa = s->pool->isa;
}

// Where the memory of the session comes from; a model on a backend gives it a queue.
QI__FN qi_result qi__session_memory_open(qi_session *s, qi_error *err) {
  s->memory = s->allocator;
  if (!s->model->backend) return QI_OK;
  if (s->desc.observer.fn) return qi__fail(err, QI_ERR_UNSUPPORTED, "session: a backend has no observer");
  qi_result r = qi__backend_check(s->model->backend, s->model->device, &s->model->h, &s->model->weights, s->desc.kv_type, err);
  if (!r) r = qi__device_open(&s->device, s->model->backend, s->model->device, err);
  if (!r) s->memory = (qi_allocator){qi__device_alloc, qi__device_free, &s->device};
  return r;
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
  if (n_logits > s->forward.n_logits)
    return qi__fail(err, QI_ERR_LIMIT, "%zu tokens want logits; the session keeps %zu (n_logits)", n_logits, s->forward.n_logits);
  return QI_OK;
}

// Makes tokens the work to do; there must be none. Pages for them are taken here.
QI__FN qi_result qi__work_begin(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err) {
  qi_result r = qi__work_check(s, tokens, n, err);
  if (!r) r = qi__kv_reserve(&s->kv, s->start, err);
  if (r) return r;
  memcpy(s->start, s->kv.length, s->kv.n_seqs * sizeof *s->start);
  s->work = (qi__work){tokens, n, 0, false, 0, false, false};
  s->n_logits = 0;
  return QI_OK;
}

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

// Does the work until it is done, or the deadline (0 = none). When cancelled, drops it.
QI__FN qi_result qi__work_run(qi_session *s, uint64_t deadline_us, qi_error *err) {
  qi__work *w = &s->work;
  if (!w->tokens) return QI_OK;
  while (w->n_done < w->n) {
    if (!w->in_chunk) qi__work_chunk(s);
    uint64_t start = qi__now_us();
    qi_result r = s->forward.on_device ? qi__device_run(&s->device, &s->forward, deadline_us, err)
                                       : qi__forward_run(&s->forward, deadline_us);
    double seconds = (double)(qi__now_us() - start) * 1e-6;
    *(s->forward.n_prompt ? &s->stats.prompt_seconds : &s->stats.generate_seconds) += seconds;
    if (r == QI_AGAIN) return r;
    if (r) {
      qi__work_drop(s);
      s->n_logits = 0;
      if (r != QI_ERR_CANCELLED) return r;
      __atomic_store_n(&s->cancel, 0, __ATOMIC_RELAXED);
      return qi__fail(err, r, "cancelled; the context is as before");
    }
    qi__work_chunk_done(s);
    if (deadline_us && w->n_done < w->n && qi__now_us() >= deadline_us) return QI_AGAIN;
  }
  qi__work_done(s);
  return QI_OK;
}

QI__FN uint64_t qi__deadline(uint32_t budget_us) { return budget_us ? qi__now_us() + budget_us : 0; }

// ---- tokens ----

QI__FN qi_result qi__decode(qi_session *s, const qi_decode_token *tokens, size_t n, bool later, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "decode: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (!tokens && n) return qi__fail(err, QI_ERR_ARGUMENT, "decode: tokens is NULL");
  if (!n) return QI_OK;
  qi_result r = qi__work_begin(s, tokens, n, err);
  if (r) return r;
  s->n_pending = 0;
  s->prompted = false;
  if (later) {
    memcpy(s->queue, tokens, n * sizeof *tokens);
    s->work.tokens = s->queue;
    return QI_OK;
  }
  return qi__work_run(s, 0, err);
}

QI__FN const float *qi__session_logits(const qi_session *s, int i) {
  if (s->work.tokens) return NULL;
  int64_t at = i == -1 ? (int64_t)s->n_logits - 1 : i;
  if (at < 0 || (size_t)at >= s->n_logits) return NULL;
  return s->forward.logits + s->logits_at[at] * s->model->h.n_vocab;
}

// What the functions on sequences look at first; `what` names the function.
QI__FN qi_result qi__seq_check(const qi_session *s, const char *what, int seq, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "%s: work is unfinished (qi_step, or qi_session_reset)", what);
  if (seq < 0 || (size_t)seq >= s->kv.n_seqs)
    return qi__fail(err, QI_ERR_ARGUMENT, "%s: seq is %d, expected 0 to %zu", what, seq, s->kv.n_seqs - 1);
  return QI_OK;
}

// Whether n is a length that a sequence can have had.
QI__FN qi_result qi__seq_check_length(const qi_session *s, const char *what, int seq, int n, qi_error *err) {
  size_t length = s->kv.length[seq];
  if (n < 0 || (size_t)n > length) return qi__fail(err, QI_ERR_ARGUMENT, "%s: n is %d, expected 0 to %zu", what, n, length);
  if (!qi__kv_can_cut(&s->kv, (size_t)seq, (size_t)n))
    return qi__fail(err, QI_ERR_CONTEXT, "%s: n is %d, but what the window of %zu sees there was given back; %zu is left", what, n,
                    s->kv.window, s->kv.first[seq]);
  return QI_OK;
}

// After sequence 0 has become another text.
QI__FN void qi__seq_changed(qi_session *s, int seq) {
  if (seq == 0) s->n_pending = 0;
}

QI__FN qi_result qi__seq_truncate(qi_session *s, int seq, int n, qi_error *err) {
  qi_result r = qi__seq_check(s, "truncate", seq, err);
  if (!r) r = qi__seq_check_length(s, "truncate", seq, n, err);
  if (r) return r;
  qi__kv_cut(&s->kv, (size_t)seq, (size_t)n);
  qi__seq_changed(s, seq);
  return QI_OK;
}

QI__FN qi_result qi__seq_fork(qi_session *s, int from, int to, int n, qi_error *err) {
  qi_result r = qi__seq_check(s, "fork", from, err);
  if (!r) r = qi__seq_check(s, "fork", to, err);
  if (!r && from == to) r = qi__fail(err, QI_ERR_ARGUMENT, "fork: both sequences are %d", from);
  if (!r) r = qi__seq_check_length(s, "fork", from, n, err);
  if (r) return r;
  qi__kv_fork(&s->kv, (size_t)from, (size_t)to, (size_t)n);
  qi__seq_changed(s, to);
  return QI_OK;
}

QI__FN qi_result qi__seq_shift(qi_session *s, int seq, int n_keep, int n_drop, qi_error *err) {
  qi_result r = qi__seq_check(s, "shift", seq, err);
  if (r) return r;
  int length = (int)s->kv.length[seq];
  if (n_keep < 0 || n_keep > length)
    return qi__fail(err, QI_ERR_ARGUMENT, "shift: n_keep is %d, expected 0 to %d", n_keep, length);
  if (n_drop < 0 || n_drop > length - n_keep)
    return qi__fail(err, QI_ERR_ARGUMENT, "shift: n_drop is %d, expected 0 to %d", n_drop, length - n_keep);
  if (!n_drop) return QI_OK;
  qi__forward *f = &s->forward;
  const qi__hparams *h = f->h;
  for (size_t p = 0; p < h->n_rot / 2; p++)
    qi__sincos(-(double)n_drop * f->frequency[p], &f->cos_sin[2 * p + 1], &f->cos_sin[2 * p]);
  qi__kv_shift shift = {&s->kv, &s->kernels, (size_t)seq, 0, 0, 0, f->cos_sin, h->n_rot / 2,
                        (h->arch->features & QI__ROPE_NEIGHBOURS) != 0, f->scratch, f->scratch_floats};
  return qi__kv_shift_run(&shift, s->pool, (size_t)n_keep, (size_t)n_drop, err);
}

QI__FN void qi__session_reset(qi_session *s) {
  memset(&s->work, 0, sizeof s->work);
  qi__kv_clear(&s->kv);
  qi__sampler_reset(s->sampler, s->desc.sampler.seed);
  qi__text_reset(&s->text);
  s->n_logits = 0;
  if (s->matcher) qi__matcher_reset(s->matcher);
  s->prompted = s->ended = false;
  s->n_pending = 0;
  s->n_predicted = 0;
  __atomic_store_n(&s->cancel, 0, __ATOMIC_RELAXED);
}

// ---- text ----

QI__FN qi_result qi__prompt_tokens(qi_session *s, const qi_token *ids, size_t n, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "prompt: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (!ids && n) return qi__fail(err, QI_ERR_ARGUMENT, "prompt: ids is NULL");
  // What has been given as text belongs to the context.
  size_t room = s->kv.n_ctx - s->kv.length[0], before = s->n_pending, all = n + before;
  if (!all) return qi__fail(err, QI_ERR_ARGUMENT, "prompt: no tokens");
  if (n > s->kv.n_ctx || all > room)
    return qi__fail(err, QI_ERR_CONTEXT, "prompt of %zu tokens: %zu do not fit; %zu of %zu are used", n, n + before - room,
                    s->kv.length[0] + before, s->kv.n_ctx);
  for (size_t i = 0; i < all; i++)
    s->queue[i] = (qi_decode_token){i < before ? s->pending[i] : ids[i - before], 0, i < before, i + 1 == all};
  qi_result r = qi__work_begin(s, s->queue, all, err);
  s->work.text = s->work.prompt = r == QI_OK;
  return r;
}

QI__FN qi_result qi__prompt_text(qi_session *s, const char *text, size_t len, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "prompt: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (!text && len) return qi__fail(err, QI_ERR_ARGUMENT, "prompt: text is NULL");
  bool first = s->kv.length[0] == 0 && !s->n_pending;
  int flags = (s->desc.no_parse_special ? 0 : QI_TOKENIZE_PARSE_SPECIAL) |
              (first && !s->desc.no_add_special ? QI_TOKENIZE_ADD_SPECIAL : 0);
  size_t n = 0;
  qi_result r = qi__tokenize(&s->model->vocab, &s->allocator, text, len, flags, s->ids, s->kv.n_ctx, &n, err);
  return r ? r : qi__prompt_tokens(s, s->ids, n, err); // more than n_ctx were not written, and are refused
}

// The end of generation: text that was held back is given with it.
QI__FN qi_result qi__finish(qi_session *s, qi_piece *out) {
  s->ended = true;
  qi__text_flush(&s->text, out);
  return QI_END;
}

// Takes a chosen token and turns it into text.
QI__FN qi_result qi__take_token(qi_session *s, qi_token token, qi_piece *out, qi_error *err) {
  const qi__vocab *vocab = &s->model->vocab;
  bool is_end = (s->matcher || !s->desc.ignore_end) && qi__token_is_end(vocab, token);
  qi_result r = s->matcher && !is_end ? qi__matcher_accept(s->matcher, token, err) : QI_OK;
  if (r) return r;
  qi__sampler_accept(s->sampler, token);
  s->n_logits = 0;
  out->token = token;
  if (is_end) return qi__finish(s, out);
  s->pending[s->n_pending++] = token;
  s->n_predicted++;
  size_t len = qi__token_piece(vocab, token, s->desc.print_special, s->piece, vocab->max_token);
  s->ended = qi__text_push(&s->text, s->piece, len, out);
  return s->ended ? QI_END : QI_OK;
}

// The token that the grammar leaves no choice about, -1 = none; *end: only the end is left. *mask is filled in.
QI__FN qi_result qi__told_token(qi_session *s, qi__mask *mask, qi_token *token, bool *end, qi_error *err) {
  *mask = (qi__mask){NULL, 0, -1, false};
  *token = -1;
  *end = false;
  if (!s->matcher) return QI_OK;
  qi_result r = qi__matcher_mask(s->matcher, mask, err);
  if (r) return r;
  *end = !mask->n;
  if (mask->can_end) return QI_OK;
  *token = mask->only;
  return *token < 0 && s->jump ? qi__matcher_jump(s->matcher, token, err) : QI_OK;
}

QI__FN qi_result qi__next(qi_session *s, qi_piece *out, uint64_t deadline_us, qi_error *err) {
  qi_result r;
  qi__mask mask;
  qi_token token;
  bool end;
  *out = (qi_piece){"", 0, -1};
  if (!s->work.tokens && s->prompted && s->ended) return QI_END;
  if (!s->work.tokens && s->n_pending) {
    if (s->n_predicted >= s->desc.n_predict) return qi__finish(s, out);
    if ((r = qi__told_token(s, &mask, &token, &end, err))) return r;
    if (end) return qi__finish(s, out);
    // Not where one at a time would not have fit.
    if (token >= 0 && s->n_pending < QI__MAX_PENDING && s->kv.length[0] + s->n_pending <= s->kv.n_ctx)
      return qi__take_token(s, token, out, err);
    for (size_t i = 0; i < s->n_pending; i++)
      s->queue[i] = (qi_decode_token){s->pending[i], 0, true, i + 1 == s->n_pending};
    if ((r = qi__work_begin(s, s->queue, s->n_pending, err))) return r;
    s->work.text = true;
  }
  if ((r = qi__work_run(s, deadline_us, err))) return r;
  if (!s->prompted || !s->n_logits) return qi__fail(err, QI_ERR_STATE, "next: nothing to continue; call qi_prompt first");
  if ((r = qi__told_token(s, &mask, &token, &end, err))) return r;
  if (token < 0) token = qi__sampler_sample(s->sampler, qi__session_logits(s, -1), mask.allowed); // else no random number is drawn
  return qi__take_token(s, token, out, err);
}

QI__FN qi_result qi__session_constrain(qi_session *s, qi_matcher *m, bool jump, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "constrain: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (m && m->automaton->grammar->model != s->model) return qi__fail(err, QI_ERR_ARGUMENT, "constrain: a matcher of another model");
  s->matcher = m;
  s->jump = jump;
  if (m) qi__matcher_reset(m);
  return QI_OK;
}

#endif // QI__SESSION_H
