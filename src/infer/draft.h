// ==== >>draft : tokens guessed ahead ====
#ifndef QI__INFER_DRAFT_H
#define QI__INFER_DRAFT_H

#include "matcher.h"

#define QI__DRAFT_MAX 32
#define QI__DRAFT_DEFAULT 16
#define QI__DRAFT_FIRST 4      // guessed at first
#define QI__DRAFT_PAUSE_MAX 4  // at most 2^4 - 2 times nothing is guessed
#define QI__DRAFT_PADDING 1024 // tokens by which vocabularies may differ in size
#define QI__LOOKUP_MIN 4       // a repetition is at least so long: shorter ones seldom go on
#define QI__LOOKUP_MAX 16      // longer ones are not told apart

// What comes next in a sequence, guessed. Behind the last token to be computed the guessed ones are computed too, each with its
// logits. Then the sequence is as long as without them; keys and values of the guessed tokens lie beyond its end. Each time a
// chosen token is the next guessed one, the end moves on over it, and the logits for the token behind it are there already. The
// first one that is another, or anything else that happens to the sequence, drops the rest.
//
// So a token is always drawn from logits of the tokens before it, with the sampler as it is then. Logits of a row do not depend on
// rows beside it, so the words are those without guessing, whatever the guesses and however many.
typedef struct qi__guess {
  qi_token ids[QI__DRAFT_MAX];
  size_t n;       // tokens guessed
  size_t n_taken; // of these came true so far
  size_t row;     // of the session's logits_at, for the first of them
  size_t n_most;  // while work is planned and under way: room there is; 0 = nothing is guessed
  size_t context; // the same: tokens of the sequence, with those to be computed
  bool asked;     // the draft model's work has a row of logits for it
  qi_matcher *matcher; // grammar of what follows; NULL = any text
  size_t len, n_missed, pause; // see qi__guess_learn
} qi__guess;

// How many tokens to guess next. Only what came true counts: nothing here knows about time, so a replay guesses the same.
QI__FN size_t qi__guess_len(qi__guess *g, size_t n_draft) {
  if (g->pause) {
    g->pause--;
    return 0;
  }
  return qi__min_size(g->len ? g->len : QI__DRAFT_FIRST, n_draft);
}

// After the last of the guess, or the first that was wrong: twice as many next time where all came true, else one more than did.
// Where nothing did several times in a row, guessing pauses, longer each time.
QI__FN void qi__guess_learn(qi__guess *g) {
  bool missed = g->n_taken == 0;
  g->len = g->n_taken == g->n ? qi__min_size(2 * g->n, QI__DRAFT_MAX) : g->n_taken + 1;
  g->n_missed = missed ? qi__min_size(g->n_missed + 1, QI__DRAFT_PAUSE_MAX) : 0;
  if (missed) g->pause = ((size_t)1 << g->n_missed) - 2;
}

// Prompt lookup (Saxena 2023): what followed where the last tokens of ids [n] occurred before, at most `most` tokens into `out`.
// The longest such repetition counts, of equals the latest. Returns how many; 0 when there is none.
QI__FN size_t qi__lookup(const qi_token *ids, size_t n, size_t most, qi_token *out) {
  size_t longest = 0, next = 0;
  for (size_t end = n; end-- > 1 && longest < QI__LOOKUP_MAX;) { // the tokens before `end`
    size_t len = 0;
    while (len < end && len < QI__LOOKUP_MAX && ids[end - 1 - len] == ids[n - 1 - len]) len++;
    if (len > longest) {
      longest = len;
      next = end;
    }
  }
  if (longest < QI__LOOKUP_MIN) return 0;
  for (size_t i = 0; i < most; i++) out[i] = next + i < n ? ids[next + i] : out[next + i - n];
  return most;
}

// How many tokens two texts begin with alike.
QI__FN size_t qi__common_prefix(const qi_token *a, size_t n_a, const qi_token *b, size_t n_b) {
  size_t n = 0, most = qi__min_size(n_a, n_b);
  while (n < most && a[n] == b[n]) n++;
  return n;
}

// How many of these tokens the grammar allows, one after another. The matcher stays where it is.
QI__FN size_t qi__matcher_admits(qi_matcher *m, const qi_token *ids, size_t n) {
  qi__automaton *a = m->automaton;
  qi_matcher probe = *m; // in the list, so that its state keeps its meaning
  size_t i = 0;
  probe.next = a->matchers;
  a->matchers = &probe;
  while (i < n && qi__matcher_accept(&probe, ids[i], NULL) == QI_OK) i++;
  a->matchers = probe.next;
  return i;
}

// Whether a draft model's tokens are those of the model: a vocabulary may have more of them at its end (padding), not others.
QI__FN qi_result qi__draft_check_vocab(const qi_model *m, const qi_model *draft, qi_error *err) {
  const qi__vocab *a = &m->vocab, *b = &draft->vocab;
  uint32_t n = a->n_tokens < b->n_tokens ? a->n_tokens : b->n_tokens;
  for (uint32_t id = 0; id < n; id++) {
    size_t len_a, len_b;
    const char *text_a = qi__token_text(a, id, &len_a), *text_b = qi__token_text(b, id, &len_b);
    if (len_a != len_b || memcmp(text_a, text_b, len_a))
      return qi__fail(err, QI_ERR_ARGUMENT, "session: draft has another vocabulary: its token %u is \"%s\", the model's is \"%s\"",
                      id, qi__show(text_b, len_b).s, qi__show(text_a, len_a).s);
  }
  uint32_t more = a->n_tokens + b->n_tokens - 2 * n;
  if (more <= QI__DRAFT_PADDING) return QI_OK;
  return qi__fail(err, QI_ERR_ARGUMENT, "session: draft has another vocabulary: %u tokens, the model has %u", b->n_tokens,
                  a->n_tokens);
}

#endif // QI__INFER_DRAFT_H
