// ==== >>decode : tokens, sequences and text of a session ====
#ifndef QI__INFER_DECODE_H
#define QI__INFER_DECODE_H

#include "speculate.h"

// ---- tokens ----

QI__FN qi_result qi__decode(qi_session *s, const qi_decode_token *tokens, size_t n, bool later, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "decode: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (!tokens && n) return qi__fail(err, QI_ERR_ARGUMENT, "decode: tokens is NULL");
  if (!n) return QI_OK;
  qi__guess_drop_all(s);
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

// What the functions on sequences look at first; `what` names the function.
QI__FN qi_result qi__seq_check(qi_session *s, const char *what, int seq, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "%s: work is unfinished (qi_step, or qi_session_reset)", what);
  if (seq < 0 || (size_t)seq >= s->kv.n_seqs)
    return qi__fail(err, QI_ERR_ARGUMENT, "%s: seq is %d, expected 0 to %zu", what, seq, s->kv.n_seqs - 1);
  qi__guess_drop(s, (size_t)seq);
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

// Whether qi_cancel was called; if so, that is done with.
QI__FN bool qi__session_cancelled(qi_session *s) {
  return __atomic_load_n(&s->cancel, __ATOMIC_RELAXED) && __atomic_exchange_n(&s->cancel, 0, __ATOMIC_RELAXED);
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
  qi__kv_shift shift = {.kv = &s->kv, .kernels = &s->kernels, .cancel = &s->cancel, .seq = (size_t)seq, .cos_sin = f->cos_sin,
                        .n_pairs = h->n_rot / 2, .neighbours = (h->arch->features & QI__ROPE_NEIGHBOURS) != 0,
                        .scratch = f->scratch, .stride = f->scratch_floats};
  r = qi__kv_shift_run(&shift, s->pool, (size_t)n_keep, (size_t)n_drop, err);
  if (r == QI_ERR_CANCELLED) qi__session_cancelled(s); // done with
  return r;
}

QI__FN void qi__session_clear(qi_session *s) {
  memset(&s->work, 0, sizeof s->work);
  if (s->draft) qi__session_clear(s->draft);
  if (s->desc.n_draft) memset(s->guess, 0, s->kv.n_seqs * sizeof *s->guess);
  qi__kv_clear(&s->kv);
  qi__sampler_reset(s->sampler, s->desc.sampler.seed);
  qi__text_reset(&s->text);
  s->n_logits = 0;
  if (s->matcher) qi__matcher_reset(s->matcher);
  s->prompted = s->ended = false;
  s->n_pending = 0;
  s->n_predicted = 0;
}

QI__FN void qi__session_reset(qi_session *s) {
  qi__session_clear(s);
  __atomic_store_n(&s->cancel, 0, __ATOMIC_RELAXED);
}

// ---- text ----

QI__FN qi_result qi__prompt_tokens(qi_session *s, const qi_token *ids, size_t n, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "prompt: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (!ids && n) return qi__fail(err, QI_ERR_ARGUMENT, "prompt: ids is NULL");
  qi__guess_drop_all(s);
  // What has been given as text belongs to the context.
  size_t room = s->kv.n_ctx - s->kv.length[0], before = s->n_pending, all = n + before;
  if (!all) return qi__fail(err, QI_ERR_ARGUMENT, "prompt: no tokens");
  if (n > s->kv.n_ctx || all > room)
    return qi__fail(err, QI_ERR_CONTEXT, "prompt of %zu tokens: %zu do not fit; %zu of %zu are used", n, n + before - room,
                    s->kv.length[0] + before, s->kv.n_ctx);
  for (size_t i = 0; i < all; i++)
    s->queue[i] = (qi_decode_token){i < before ? s->pending[i] : ids[i - before], 0, i < before, i + 1 == all};
  qi_result r = qi__work_begin(s, s->queue, all, err);
  if (r) return r;
  s->work.text = s->work.prompt = true;
  qi__work_top(s, qi__top_wanted(s->sampler, s->matcher != NULL));
  return QI_OK;
}

QI__FN qi_result qi__prompt_text(qi_session *s, const char *text, size_t len, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "prompt: earlier work is unfinished (qi_step, or qi_session_reset)");
  if (!text && len) return qi__fail(err, QI_ERR_ARGUMENT, "prompt: text is NULL");
  bool first = s->kv.length[0] == 0 && !s->n_pending;
  int flags = (s->desc.no_parse_special ? 0 : QI_TOKENIZE_PARSE_SPECIAL) |
              (first && !s->desc.no_add_special ? QI_TOKENIZE_ADD_SPECIAL : 0);
  size_t n = 0;
  qi_result r = qi__tokenize(&s->model->vocab, &s->allocator, text, len, flags, &s->cancel, s->ids, s->kv.n_ctx, &n, err);
  if (r == QI_ERR_CANCELLED) qi__session_cancelled(s); // done with
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

// Makes what is pending the work to do, with guesses behind it.
QI__FN qi_result qi__next_begin(qi_session *s, qi_error *err) {
  size_t n = s->n_pending, used = s->kv.length[0] + n, most = used < s->kv.n_ctx ? s->kv.n_ctx - used : 0;
  for (size_t i = 0; i < n; i++) s->queue[i] = (qi_decode_token){s->pending[i], 0, true, i + 1 == n};
  most = qi__min_size(most, (size_t)(s->desc.n_predict - s->n_predicted - 1)); // one comes without
  qi__guess_plan(s, 0, most, s->matcher);
  qi_result r = qi__work_begin_guessing(s, n, err);
  if (r) return r;
  s->work.text = true;
  qi__work_top(s, qi__top_wanted(s->sampler, s->matcher != NULL));
  return QI_OK;
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
    bool stopped = __atomic_load_n(&s->cancel, __ATOMIC_RELAXED) != 0; // then by the work
    if (!stopped && qi__guess_take(s, 0, s->pending, s->n_pending, 0)) s->n_pending = 0, s->n_logits = 1;
    else if ((r = qi__next_begin(s, err))) return r;
  }
  bool worked = s->work.tokens != NULL;
  if ((r = qi__work_run(s, deadline_us, err))) return r;
  if (worked && deadline_us && qi__now_us() >= deadline_us) return QI_AGAIN; // choosing takes time too
  if (!s->prompted || !s->n_logits) return qi__fail(err, QI_ERR_STATE, "next: nothing to continue; call qi_prompt first");
  if ((r = qi__told_token(s, &mask, &token, &end, err))) return r;
  if (token < 0) token = qi__session_sample(s, s->sampler, -1, mask.allowed); // else no random number is drawn
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

#endif // QI__INFER_DECODE_H
