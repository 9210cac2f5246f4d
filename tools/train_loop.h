// Texts as tokens, windows of them, steps of training, held-out perplexity. Needs qinfer.h before it: texts are cut into tokens by
// the library's own tokenizer.
#ifndef TRAIN_LOOP_H
#define TRAIN_LOOP_H

#include <pthread.h>

#include "train_model.h"
#include "train_vocab.h"

// ---- texts ----

typedef struct train_text {
  uint16_t *tokens;
  size_t n;
  uint32_t *documents, *lines; // tokens at which documents begin, and lines within them
  size_t n_documents, n_lines;
} train_text;

TRAIN_FN void train_text_free(train_text *t) {
  free(t->tokens);
  free(t->documents);
  free(t->lines);
  memset(t, 0, sizeof *t);
}

// A model with the tokenizer alone; NULL after a message. *file must stay until it is closed, then gw_free it.
TRAIN_FN qi_model *train_open_vocab(const train_vocab *v, gw_file *file) {
  qi_model *m = NULL;
  qi_error err;
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  gw_begin(file, 3);
  gw_kv_str(file, "general.architecture", "llama");
  train_vocab_write(v, file);
  md.data = gw_finish(file, &md.data_size);
  md.load = QI_LOAD_VOCAB;
  if (!md.data || qi_model_open(&m, &md, &err)) fprintf(stderr, "train: vocabulary: %s\n", md.data ? err.msg : "no memory");
  return m;
}

// Cuts a text into tokens, some documents at a time. False after a message; train_text_free in either case.
TRAIN_FN bool train_text_load(train_text *t, const qi_model *vocab, const char *text, size_t size) {
  enum { PART = 1 << 18 };
  memset(t, 0, sizeof *t);
  qi_token *part = (qi_token *)malloc(PART * 2 * sizeof *part);
  t->tokens = (uint16_t *)malloc((size + 16) * sizeof *t->tokens); // a token is a byte at least
  t->documents = (uint32_t *)malloc((size / 8 + 16) * sizeof *t->documents);
  t->lines = (uint32_t *)malloc((size / 2 + 16) * sizeof *t->lines);
  bool good = part && t->tokens && t->documents && t->lines;
  qi_token newline = -1;
  size_t n = 0;
  if (good) good = qi_tokenize(vocab, "\n", 1, 0, &newline, 1, &n, NULL) == QI_OK && n == 1;
  for (size_t at = 0, end; good && at < size; at = end) {
    for (end = size - at > PART ? at + PART : size; end < size && end > at + 2 && memcmp(text + end - 2, "\n\n", 2) != 0;) end--;
    good = qi_tokenize(vocab, text + at, end - at, 0, part, PART * 2, &n, NULL) == QI_OK;
    for (size_t i = 0; good && i < n; i++) {
      bool begins = !t->n || t->tokens[t->n - 1] == VOCAB_END, line = t->n && t->tokens[t->n - 1] == newline;
      if (begins && t->n_documents < size / 8) t->documents[t->n_documents++] = (uint32_t)t->n;
      if (line) t->lines[t->n_lines++] = (uint32_t)t->n;
      t->tokens[t->n++] = (uint16_t)part[i];
    }
  }
  free(part);
  if (!good || t->n < 2 || !t->n_documents || !t->n_lines) fprintf(stderr, "train: the text cannot be cut into tokens\n");
  return good && t->n >= 2 && t->n_documents && t->n_lines;
}

// Window i of a step: half of them begin with a document, a quarter with a line of one, the rest anywhere.
TRAIN_FN void train_window(const train_text *t, uint64_t seed, int step, size_t i, size_t n_ctx, int32_t *tokens,
                           int32_t *targets) {
  uint64_t state = seed * 0x9e3779b97f4a7c15u + (uint64_t)step * 0xd6e8feb86659fd93u + i * 0xa0761d6478bd642fu, at;
  uint64_t kind = train_random(&state) >> 62, pick = train_random(&state) >> 32;
  if (kind < 2) at = t->documents[pick * t->n_documents >> 32];
  else if (kind == 2) at = t->lines[pick * t->n_lines >> 32];
  else at = pick * t->n >> 32;
  for (size_t k = 0; k < n_ctx; k++) { // a window at the text's end goes on at its beginning
    targets[k] = t->tokens[(at + k) % t->n];
    tokens[k] = k ? targets[k - 1] : VOCAB_BEGIN;
  }
}

// How much each piece counts: 1 + strength * (share of the documents with it that have it again) * (share of the documents without
// it), over the mean of the text. Names, trades and things, which one document repeats and most lack (Church 2000, "Empirical
// estimates of adaptation"), are few among the tokens, but what a reader misses first when they change. False: no memory.
TRAIN_FN bool train_emphasis(const train_text *t, size_t n_vocab, double strength, real *out) {
  uint32_t *counts = (uint32_t *)calloc(3 * n_vocab, sizeof *counts);
  if (!counts) return false;
  uint32_t *in = counts + n_vocab, *again = in + n_vocab;
  double sum = 0;
  for (size_t d = 0; d < t->n_documents; d++) {
    size_t begin = t->documents[d], end = d + 1 < t->n_documents ? t->documents[d + 1] : t->n;
    for (size_t i = begin; i < end; i++) {
      uint32_t n = ++counts[t->tokens[i]];
      in[t->tokens[i]] += n == 1;
      again[t->tokens[i]] += n == 2;
    }
    for (size_t i = begin; i < end; i++) counts[t->tokens[i]] = 0;
  }
  for (size_t i = 0; i < n_vocab; i++) {
    double repeated = in[i] ? (double)again[i] / in[i] : 0, lacking = 1 - (double)in[i] / (double)t->n_documents;
    out[i] = (real)(1 + strength * repeated * lacking);
  }
  for (size_t i = 0; i < t->n; i++) sum += (double)out[t->tokens[i]];
  for (size_t i = 0; i < n_vocab; i++) out[i] *= (real)((double)t->n / sum);
  free(counts);
  return true;
}

// ---- steps ----

enum { TRAIN_MAX_SHARDS = 16 };

typedef struct train_loop {
  train_model m;
  train_adam adam;
  train_shard shards[TRAIN_MAX_SHARDS];
  int n_shards, n_threads, steps, warmup;
  double rate; // the highest
  uint64_t seed;
  // Of the pass that is under way.
  real weight;
  bool backward;
} train_loop;

TRAIN_FN void train_loop_free(train_loop *l) {
  for (int i = 0; i < l->n_shards; i++) train_shard_free(&l->shards[i]);
  train_model_free(&l->m);
  free(l->adam.m);
  free(l->adam.v);
  memset(l, 0, sizeof *l);
}

// False when there is no memory. steps, warmup, rate and seed are the caller's to set.
TRAIN_FN bool train_loop_init(train_loop *l, const train_config *c, int n_shards, size_t seqs_per_shard, int n_threads,
                              uint64_t seed) {
  memset(l, 0, sizeof *l);
  bool good = train_model_init(&l->m, c, seed);
  l->n_threads = n_threads;
  l->seed = seed;
  l->adam = (train_adam){NULL, NULL, 0.9, 0.95, 1e-8, 0.1, 1};
  for (; good && l->n_shards < n_shards; l->n_shards++) good = train_shard_init(&l->shards[l->n_shards], &l->m, seqs_per_shard);
  if (good) {
    l->adam.m = (real *)calloc(l->m.n_params, sizeof(real));
    l->adam.v = (real *)calloc(l->m.n_params, sizeof(real));
    good = l->adam.m && l->adam.v;
  }
  if (!good) train_loop_free(l);
  return good;
}

typedef struct train_worker {
  train_loop *loop;
  int first; // does shards first, first + n_threads, ...
  pthread_t thread;
  bool started;
} train_worker;

TRAIN_FN void *train_work(void *arg) {
  train_worker *w = (train_worker *)arg;
  for (int i = w->first; i < w->loop->n_shards; i += w->loop->n_threads)
    train_run(&w->loop->m, &w->loop->shards[i], w->loop->weight, w->loop->backward);
  return NULL;
}

// All shards; the first part in this thread. Bits do not depend on the number of threads.
TRAIN_FN void train_pass(train_loop *l, real weight, bool backward) {
  train_worker workers[TRAIN_MAX_SHARDS];
  l->weight = weight;
  l->backward = backward;
  for (int i = 0; i < l->n_threads; i++) {
    workers[i] = (train_worker){.loop = l, .first = i};
    workers[i].started = i && pthread_create(&workers[i].thread, NULL, train_work, &workers[i]) == 0;
  }
  for (int i = 0; i < l->n_threads; i++)
    if (!workers[i].started) train_work(&workers[i]);
  for (int i = 0; i < l->n_threads; i++)
    if (workers[i].started) pthread_join(workers[i].thread, NULL);
}

// Rises over the warm-up, then falls to a twentieth along half a cosine.
TRAIN_FN double train_rate(const train_loop *l, int step) {
  if (step < l->warmup) return l->rate * (step + 1) / l->warmup;
  double part = (double)(step - l->warmup) / (l->steps > l->warmup ? l->steps - l->warmup : 1);
  return l->rate * (0.05 + 0.95 * 0.5 * (1 + cos(3.14159265358979 * (part < 1 ? part : 1))));
}

// Step number `step`, from 0 on. Returns the mean loss of a token, in nats.
TRAIN_FN double train_step(train_loop *l, const train_text *text, int step) {
  size_t n_ctx = (size_t)l->m.c.n_ctx, n_seqs = l->shards[0].n_seqs, rows = 0;
  for (int i = 0; i < l->n_shards; i++)
    for (size_t k = 0; k < n_seqs; k++, rows += n_ctx) {
      int32_t *tokens = l->shards[i].tokens + k * n_ctx, *targets = l->shards[i].targets + k * n_ctx;
      train_window(text, l->seed, step, (size_t)i * n_seqs + k, n_ctx, tokens, targets);
    }
  train_pass(l, (real)(1.0 / (double)rows), true);
  double loss = 0;
  for (int i = 0; i < l->n_shards; i++) loss += l->shards[i].loss;
  real *sum = l->shards[0].grads;
  for (int i = 1; i < l->n_shards; i++)
    for (size_t k = 0; k < l->m.n_params; k++) sum[k] += l->shards[i].grads[k];
  train_adam_step(&l->adam, &l->m, sum, step + 1, train_rate(l, step));
  return loss / (double)rows;
}

// Mean loss over at most max_windows windows (0 = all), as examples/perplexity.c has it: a begin token before the text, windows of
// n_ctx tokens that follow each other, each with a begin token in place of its first, the second half of each scored.
TRAIN_FN double train_held_out(train_loop *l, const train_text *text, size_t max_windows) {
  size_t n_ctx = (size_t)l->m.c.n_ctx, n_windows = (text->n + 1) / n_ctx, n_seqs = l->shards[0].n_seqs, scored = 0;
  double loss = 0;
  if (max_windows && n_windows > max_windows) n_windows = max_windows;
  for (size_t first = 0; first < n_windows; first += n_seqs * (size_t)l->n_shards) {
    for (size_t i = 0; i < n_seqs * (size_t)l->n_shards; i++) {
      train_shard *s = &l->shards[i / n_seqs];
      for (size_t k = 0; k < n_ctx; k++) {
        size_t row = i % n_seqs * n_ctx + k, at = (first + i) * n_ctx + k; // of the text with the begin token before it
        bool there = first + i < n_windows;
        s->tokens[row] = k && there ? text->tokens[at - 1] : VOCAB_BEGIN;
        s->targets[row] = there && k >= n_ctx / 2 && k + 1 < n_ctx ? text->tokens[at] : -1;
      }
    }
    train_pass(l, 1, false);
    for (int i = 0; i < l->n_shards; i++) loss += l->shards[i].loss, scored += l->shards[i].n_scored;
  }
  return scored ? loss / (double)scored : 0;
}

#endif // TRAIN_LOOP_H
