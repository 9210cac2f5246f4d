// ==== >>speculate : guesses computed with the work, and what comes true of them ====
#ifndef QI__INFER_SPECULATE_H
#define QI__INFER_SPECULATE_H

#include "session.h"

// ---- guesses that are there ----

// The sequence ends where it ends: what was computed beyond is forgotten.
QI__FN void qi__guess_drop(qi_session *s, size_t seq) {
  if (!s->desc.n_draft || !s->guess[seq].n) return;
  s->guess[seq].n = 0;
  qi__kv_cut(&s->kv, seq, s->kv.length[seq]);
}

// Before anything but the next token happens to sequences or logits.
QI__FN void qi__guess_drop_all(qi_session *s) {
  for (size_t seq = 0; s->desc.n_draft && seq < s->kv.n_seqs; seq++) qi__guess_drop(s, seq);
}

// Forgets also how guessing went: the sequence becomes another text.
QI__FN void qi__guess_reset(qi_session *s, size_t seq) {
  if (!s->desc.n_draft) return;
  qi__guess_drop(s, seq);
  memset(&s->guess[seq], 0, sizeof s->guess[seq]);
  if (s->draft) qi__kv_cut(&s->draft->kv, seq, 0);
}

// Whether n chosen tokens at the end of a sequence, which are not computed, are the next guessed ones. Then the sequence moves on
// over them, and the logits behind the last become row `row` of qi_logits. If not, nothing that was guessed counts any more.
QI__FN bool qi__guess_take(qi_session *s, size_t seq, const qi_token *ids, size_t n, size_t row) {
  if (!s->desc.n_draft || !s->guess[seq].n) return false;
  qi__guess *g = &s->guess[seq];
  if (n > g->n - g->n_taken || memcmp(ids, g->ids + g->n_taken, n * sizeof *ids)) {
    qi__guess_learn(g);
    qi__guess_drop(s, seq);
    return false;
  }
  g->n_taken += n;
  s->stats.n_accepted += n;
  memcpy(qi__kv_ids(&s->kv, seq) + s->kv.length[seq], ids, n * sizeof *ids);
  s->kv.length[seq] += n;
  if (s->kv.window) qi__kv_slide(&s->kv, seq);
  s->logits_at[row] = s->logits_at[g->row + g->n_taken - 1]; // rows of guesses are behind all others
  if (g->n_taken < g->n) return true;
  qi__guess_learn(g);
  g->n = 0;
  return true;
}

// ---- guessing ----

// Before work begins whose last token for this sequence is a chosen one: at most `most` tokens are to be guessed behind it. A
// matcher is behind that token already.
QI__FN void qi__guess_plan(qi_session *s, size_t seq, size_t most, qi_matcher *matcher) {
  qi__guess_drop(s, seq);
  if (!s->desc.n_draft || !most) return;
  qi__guess *g = &s->guess[seq];
  g->n = g->n_taken = 0;
  g->asked = false;
  g->matcher = matcher;
  g->n_most = qi__min_size(most, qi__guess_len(g, (size_t)s->desc.n_draft));
}

// Begins work with what was planned to be guessed: what lookup finds, or later what the draft model says.
QI__FN qi_result qi__work_begin_guessing(qi_session *s, size_t n, qi_error *err) {
  qi_result r = qi__work_begin(s, s->queue, n, err);
  for (size_t seq = 0; !r && s->work.guessing && seq < s->kv.n_seqs; seq++) {
    qi__guess *g = &s->guess[seq];
    if (!g->n_most) continue;
    if (s->desc.lookup) g->n = qi__lookup(qi__kv_ids(&s->kv, seq), g->context, g->n_most, g->ids);
    if (g->n || !s->draft) g->n_most = g->n;
  }
  return r;
}

// Puts what the draft model needs for the next token of a sequence into its work, of which n tokens are there; returns how many
// then. Its sequence becomes that of the session, as far as it is not.
QI__FN size_t qi__guess_ask(qi_session *s, size_t seq, size_t n) {
  qi_session *d = s->draft;
  qi__guess *g = &s->guess[seq];
  qi_token *ids = qi__kv_ids(&s->kv, seq);
  size_t total = g->context + g->n, have = d->kv.length[seq];
  if (g->n) {
    ids[total - 1] = g->ids[g->n - 1]; // beyond what counts
  } else {
    have = qi__common_prefix(qi__kv_ids(&d->kv, seq), have, ids, total - 1);
    if (!qi__kv_can_cut(&d->kv, seq, have)) have = 0;
    qi__kv_cut(&d->kv, seq, have);
    if (d->kv.window) qi__kv_slide(&d->kv, seq); // not farther: the rest may be wrong
  }
  size_t todo = qi__min_size(total - have, s->draft_tokens - qi__min_size(n, s->draft_tokens));
  g->asked = todo == total - have;
  for (size_t i = 0; i < todo; i++)
    d->queue[n++] = (qi_decode_token){ids[have + i], (int)seq, todo <= 2, g->asked && i + 1 == todo};
  if (!g->asked) g->n_most = g->n;
  return n;
}

// Takes the draft model's tokens from its logits: the most likely ones.
QI__FN void qi__guess_answers(qi_session *s) {
  qi_session *d = s->draft;
  size_t row = 0;
  for (size_t seq = 0; seq < s->kv.n_seqs; seq++) {
    qi__guess *g = &s->guess[seq];
    if (!g->n_most || !g->asked) continue;
    qi_token token = qi__row_best(d, d->logits_at[row++], qi__min_size(d->model->h.n_vocab, s->model->h.n_vocab));
    g->asked = false;
    if (token >= 0) g->ids[g->n++] = token;
    if (token < 0 || g->n == g->n_most) g->n_most = g->n;
  }
}

// One token more for all sequences that want some, until none does. Where the draft model cannot (its cache is full, or it lacks a
// token), what is there is all.
QI__FN qi_result qi__guess_draft(qi_session *s, uint64_t deadline_us, qi_error *err) {
  qi_session *d = s->draft;
  for (;;) {
    if (d->work.tokens) {
      qi_result r = qi__work_compute(d, deadline_us, err);
      if (r) return r;
      memset(&d->work, 0, sizeof d->work);
      qi__guess_answers(s);
      if (deadline_us && qi__now_us() >= deadline_us) return QI_AGAIN;
    }
    size_t n = 0;
    for (size_t seq = 0; seq < s->kv.n_seqs; seq++)
      if (s->guess[seq].n < s->guess[seq].n_most) n = qi__guess_ask(s, seq, n);
    if (!n) return QI_OK;
    if (qi__work_begin(d, d->queue, n, NULL) == QI_OK) {
      qi__work_top(d, 1);
      continue;
    }
    for (size_t seq = 0; seq < s->kv.n_seqs; seq++) s->guess[seq].n_most = s->guess[seq].n;
  }
}

// Puts the guessed tokens behind those of the work, which is the session's queue.
QI__FN void qi__guess_append(qi_session *s) {
  qi__work *w = &s->work;
  size_t row = w->n_wanted;
  for (size_t seq = 0; seq < s->kv.n_seqs; seq++) {
    qi__guess *g = &s->guess[seq];
    if (!g->n_most) continue;
    if (g->matcher) g->n = qi__matcher_admits(g->matcher, g->ids, g->n);
    g->row = row;
    row += g->n;
    for (size_t i = 0; i < g->n; i++) s->queue[w->n++] = (qi_decode_token){g->ids[i], (int)seq, true, true};
    s->stats.n_drafted += g->n;
  }
  w->guessing = false;
}

// ---- work with guesses ----

// The work's sequences end before what was guessed; pages that were not needed go back.
QI__FN void qi__guess_done(qi_session *s) {
  for (size_t seq = 0; s->desc.n_draft && seq < s->kv.n_seqs; seq++) {
    qi__kv_cut(&s->kv, seq, s->kv.length[seq]);
    s->kv.length[seq] -= s->guess[seq].n;
    s->guess[seq].n_most = 0;
  }
}

// Does the work until it is done, or the deadline (0 = none). When it fails or is cancelled, drops it.
QI__FN qi_result qi__work_run(qi_session *s, uint64_t deadline_us, qi_error *err) {
  qi_result r = QI_OK;
  if (!s->work.tokens) return QI_OK;
  if (s->work.guessing) {
    uint64_t start = qi__now_us();
    if (s->draft) r = qi__guess_draft(s, deadline_us, err);
    if (!r) qi__guess_append(s);
    s->stats.generate_seconds += (double)(qi__now_us() - start) * 1e-6;
  }
  if (!r) r = qi__work_compute(s, deadline_us, err);
  if (r < 0) {
    if (s->draft) qi__work_drop(s->draft);
    qi__work_drop(s);
    s->n_logits = 0;
    if (r != QI_ERR_CANCELLED) return r;
    __atomic_store_n(&s->cancel, 0, __ATOMIC_RELAXED);
    return qi__fail(err, r, "cancelled; the context is as before");
  }
  if (r) return r;
  qi__guess_done(s);
  qi__work_done(s);
  return QI_OK;
}

#endif // QI__INFER_SPECULATE_H
