// Stories: a prompt, how it is answered, and what a lone session on one thread makes of it: tokens, text and the bits of the logits
// after each token. Whoever computes a story otherwise must get the same. Through the public interface, but for digests.
#ifndef QINFER_TESTS_STORIES_H
#define QINFER_TESTS_STORIES_H

#include "run_model.h"

enum { STORY_PROMPT = 320, STORY_ANSWER = 24, STORY_MAX = STORY_PROMPT + STORY_ANSWER, STORY_LAST_N = 48 };
enum { STORY_GRAMMARS = 2, STORY_MATCHERS = 6 }; // matchers: those of one grammar that may be in use at once

// ---- random numbers ----

GW_FN size_t story_below(uint64_t *rng, size_t n) { return (size_t)(rm_next(rng) % n); }
GW_FN bool story_one_in(uint64_t *rng, size_t n) { return story_below(rng, n) == 0; }

// ---- models ----

// A model and its grammars. Matcher 0 of each is for lone sessions; all know what one has found out.
typedef struct story_model {
  qi_model *m;
  int n_vocab;
  qi_grammar *grammar[STORY_GRAMMARS];
  qi_matcher *matcher[STORY_GRAMMARS][STORY_MATCHERS + 1];
} story_model;

// One with some choice; one where most tokens can only be one.
GW_FN void story_model_grammars(story_model *sm) {
  static const char *const choices[] = {"the rain in the east is here", "the rain or the wind", "thin"};
  qi_error err = {QI_OK, ""};
  for (int i = 0; i < STORY_GRAMMARS; i++) {
    qi_grammar_desc gd;
    memset(&gd, 0, sizeof gd);
    if (i == 0) gd.gbnf = "root ::= [a-z]+ \" \" [a-m ]* \"h\" [a-z ]{3,12}";
    else gd.choices = choices, gd.n_choices = 3, gd.share = sm->grammar[0];
    RUN_OK(qi_grammar_open(&sm->grammar[i], sm->m, &gd, &err), err);
    for (int k = 0; k <= STORY_MATCHERS; k++)
      RUN_OK(qi_matcher_open(&sm->matcher[i][k], sm->grammar[i], k ? sm->matcher[i][0] : NULL, NULL, &err), err);
  }
}

// `file` stays the caller's. cache_bytes: as in qi_model_desc.
GW_FN story_model story_model_open(const uint8_t *file, size_t size, uint64_t cache_bytes) {
  story_model sm;
  qi_error err = {QI_OK, ""};
  qi_model_desc md;
  memset(&sm, 0, sizeof sm);
  memset(&md, 0, sizeof md);
  md.data = file;
  md.data_size = size;
  md.cache_bytes = cache_bytes;
  RUN_OK(qi_model_open(&sm.m, &md, &err), err);
  sm.n_vocab = run_n_vocab(sm.m);
  story_model_grammars(&sm);
  return sm;
}

GW_FN void story_model_close(story_model *sm) {
  for (int i = STORY_GRAMMARS; i-- > 0;) {
    for (int k = 0; k <= STORY_MATCHERS; k++) qi_matcher_close(sm->matcher[i][k]);
    qi_grammar_close(sm->grammar[i]);
  }
  qi_model_close(sm->m);
}

// ---- stories ----

typedef struct story_answer {
  qi_token ids[STORY_ANSWER + 1]; // with the end token
  size_t n, len;
  char text[4096];
  qi_done done; // 0: it goes on
} story_answer;

typedef struct story {
  qi_token ids[STORY_MAX]; // the prompt, then the answer without an end token
  size_t n_prompt, n;
  qi_sampler_desc sampler;
  bool looks_back;         // the sampler looks at recent tokens, those of the prompt too
  int n_predict, n_stop;
  int grammar;             // from 1; 0 = none
  bool ignore_end, jump;
  story_answer want;
  uint64_t logits[STORY_MAX]; // digest of those after each token
} story;

GW_FN const char *const *story_stops(void) {
  static const char *const stops[] = {" the ", "an", "qq"};
  return stops;
}

// Every step of a sampler now and then; memory for it: story_sampler_most.
GW_FN void story_draw_sampler(story *t, int n_vocab, uint64_t *rng) {
  static const qi_logit_bias bias[] = {{2, 3}, {7, -INFINITY}, {11, 1.5f}};
  static const qi_sampler_step chain[] = {QI_STEP_TEMPERATURE, QI_STEP_MIN_P, QI_STEP_TOP_K, QI_STEP_PENALTIES};
  qi_sampler_desc *d = &t->sampler;
  size_t kind = story_below(rng, 6);
  memset(d, 0, sizeof *d);
  d->seed = rm_next(rng);
  if (kind == 0) return; // greedy
  d->temperature = 0.5f + 0.25f * (float)story_below(rng, 5);
  if (story_one_in(rng, 3)) d->top_k = 1 + (int)story_below(rng, (size_t)n_vocab);
  if (story_one_in(rng, 3)) d->top_p = 0.9f;
  if (story_one_in(rng, 3)) d->min_p = 0.05f;
  if (story_one_in(rng, 4)) d->typical_p = 0.9f;
  if (story_one_in(rng, 4)) d->top_n_sigma = 1.5f;
  if (story_one_in(rng, 4)) d->temperature_range = 0.3f;
  if (story_one_in(rng, 4)) d->logit_bias = bias, d->n_logit_bias = 3;
  if (kind == 1) d->mirostat_tau = 4;
  if (kind == 2) d->xtc_probability = 0.5f;
  if (kind == 3) d->repetition_penalty = 1.2f, d->presence_penalty = 0.2f, d->penalty_last_n = STORY_LAST_N;
  if (kind == 4) d->dry_multiplier = 0.8f, d->dry_last_n = STORY_LAST_N, d->dry_allowed_length = 1;
  if (kind == 3 && story_one_in(rng, 2)) d->chain = chain, d->n_chain = 4;
  t->looks_back = kind == 3 || kind == 4;
}

// A desc that takes as much memory as any that story_draw_sampler draws.
GW_FN qi_sampler_desc story_sampler_most(void) {
  qi_sampler_desc d;
  memset(&d, 0, sizeof d);
  d.repetition_penalty = 1.2f;
  d.penalty_last_n = STORY_LAST_N;
  d.dry_multiplier = 1;
  d.dry_last_n = STORY_LAST_N;
  return d;
}

// A story that begins as one of the n others now and then. A few prompts take more than a page of the cache, or two.
GW_FN void story_draw(story *t, const story *others, size_t n, int n_vocab, uint64_t *rng) {
  memset(t, 0, sizeof *t);
  size_t size = story_below(rng, 16);
  t->n_prompt = 1 + story_below(rng, size == 0 ? STORY_PROMPT : size < 4 ? 140 : 30);
  run_random_tokens(rm_next(rng), n_vocab, t->ids, t->n_prompt);
  if (n && story_one_in(rng, 2)) {
    const story *from = &others[story_below(rng, n)];
    size_t most = from->n < t->n_prompt ? from->n : t->n_prompt;
    memcpy(t->ids, from->ids, story_below(rng, most + 1) * sizeof t->ids[0]);
  }
  story_draw_sampler(t, n_vocab, rng);
  t->n_predict = 1 + (int)story_below(rng, STORY_ANSWER);
  t->ignore_end = !story_one_in(rng, 3);
  t->n_stop = story_one_in(rng, 3) ? (int)story_below(rng, 4) : 0;
  t->grammar = story_one_in(rng, 4) ? 1 + (int)story_below(rng, STORY_GRAMMARS) : 0;
}

// The text interface as the story wants it, on top of `base`.
GW_FN qi_session_desc story_session_desc(const story *t, const qi_session_desc *base) {
  qi_session_desc sd = *base;
  sd.sampler = t->sampler;
  sd.stop = story_stops();
  sd.n_stop = t->n_stop;
  sd.n_predict = t->n_predict;
  sd.ignore_end = t->ignore_end;
  return sd;
}

GW_FN void story_constrain(qi_session *s, const story *t, story_model *sm, int matcher) {
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_session_constrain(s, t->grammar ? sm->matcher[t->grammar - 1][matcher] : NULL, t->jump, &err), err);
}

GW_FN void story_add(story_answer *a, const qi_piece *p) {
  assert_true(a->len + p->len < sizeof a->text);
  memcpy(a->text + a->len, p->text, p->len);
  a->len += p->len;
  if (p->token < 0) return;
  assert_true(a->n < sizeof a->ids / sizeof a->ids[0]);
  a->ids[a->n++] = p->token;
}

// Why qi_next said QI_END with this piece.
GW_FN qi_done story_done(const story *t, const qi_model *m, const story_answer *a, const qi_piece *p) {
  if (p->token >= 0) return qi_token_is_end(m, p->token) && (t->grammar || !t->ignore_end) ? QI_DONE_END : QI_DONE_STOP;
  return a->n == (size_t)t->n_predict ? QI_DONE_LIMIT : QI_DONE_END; // that of the grammar
}

GW_FN uint64_t story_digest(const float *logits, int n_vocab) { return qi__digest(0, logits, (size_t)n_vocab * sizeof *logits); }

// Fills in what is wanted: `base` says path and kv_type.
GW_FN void story_tell(story *t, story_model *sm, const qi_session_desc *base) {
  qi_error err = {QI_OK, ""};
  qi_piece p;
  qi_session_desc sd = story_session_desc(t, base);
  sd.n_ctx = STORY_MAX + 1;
  sd.n_logits = STORY_MAX;
  sd.n_threads = 1;
  qi_session *s = run_session(sm->m, &sd);
  story_constrain(s, t, sm, 0);
  RUN_OK(qi_prompt_tokens(s, t->ids, t->n_prompt, &err), err);
  memset(&t->want, 0, sizeof t->want);
  t->n = t->n_prompt;
  while (!t->want.done) {
    qi_result r = qi_next(s, &p, &err);
    if (r != QI_END) run_expect(r, QI_OK, &err, "qi_next of a lone session");
    story_add(&t->want, &p);
    if (r == QI_END) t->want.done = story_done(t, sm->m, &t->want, &p);
    if (p.token >= 0 && t->want.done != QI_DONE_END) t->ids[t->n++] = p.token;
  }
  RUN_OK(qi_session_constrain(s, NULL, false, &err), err);
  qi_session_reset(s);
  qi_decode_token *tokens = run_tokens(t->ids, t->n, 0, false);
  for (size_t i = t->n_prompt; i < t->n; i++) tokens[i].generated = true;
  RUN_OK(qi_decode(s, tokens, t->n, &err), err);
  for (size_t i = 0; i < t->n; i++) t->logits[i] = story_digest(qi_logits(s, (int)i), sm->n_vocab);
  free(tokens);
  qi_session_close(s);
}

// ---- comparison ----

GW_FN void story_expect_answer(const story *t, const story_answer *got, const char *what) {
  const story_answer *want = &t->want;
  if (got->done != want->done || got->n != want->n || memcmp(got->ids, want->ids, want->n * sizeof want->ids[0]) ||
      got->len != want->len || memcmp(got->text, want->text, want->len))
    fail_msg("%s: %s after %lu tokens \"%.*s\", expected %s after %lu tokens \"%.*s\"", what, qi_done_name(got->done),
             (unsigned long)got->n, (int)got->len, got->text, qi_done_name(want->done), (unsigned long)want->n, (int)want->len,
             want->text);
}

// Logits after token `at` of the story.
GW_FN void story_expect_logits(const story *t, size_t at, const float *logits, int n_vocab, const char *what) {
  assert_non_null(logits);
  assert_true(at < t->n);
  if (story_digest(logits, n_vocab) != t->logits[at])
    fail_msg("%s: other logits after token %lu (prompt of %lu) than those of a lone session", what, (unsigned long)at,
             (unsigned long)t->n_prompt);
}

#endif // QINFER_TESTS_STORIES_H
