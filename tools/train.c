// Trains the models of models/.      make build/train; how it was called: models/README.md
//
//   build/tales 1 30 >train.txt; build/tales 2 1 >heldout.txt
//   build/train --train train.txt --held-out heldout.txt --out tales-f32.gguf --checkpoint tales.ckpt --plot tales.svg
//
// Goes on from the checkpoint if there is one: the same bits as if it had not been stopped (on one machine). Ctrl-C writes one.
// Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#define QI_STATIC
#define QI_NO_SIMD // of the library only the tokenizer is used
#include "../qinfer.h"

#include "train_file.h"

#include <signal.h>
#include <time.h>

static volatile sig_atomic_t interrupted;
static void on_signal(int number) { interrupted = number; }

// ---- options ----

typedef struct settings {
  const char *train, *held_out, *out, *checkpoint, *plot, *name, *from, *vocab_text;
  train_config config;
  int steps, n_seqs, shard_seqs, warmup, n_threads, seed, every;
  double rate, emphasis;
} settings;

typedef struct option {
  const char *name;
  const char **text; // one of text, number and real is set
  int *number;
  double *real_number;
  const char *help;
} option;

static bool parse_option(const option *o, const char *value) {
  char *end = NULL;
  if (o->text) *o->text = value;
  else if (o->number) *o->number = (int)strtol(value, &end, 10);
  else *o->real_number = strtod(value, &end);
  bool good = o->text || (*value && !*end && (o->number ? *o->number >= 0 : *o->real_number > 0));
  if (!good) fprintf(stderr, "train: %s %s: not a number that will do\n", o->name, value);
  return good;
}

// Fills *c. False after a message, or after the help.
static bool parse(int argc, char **argv, settings *c) {
  const option options[] = {
    {"--train", &c->train, NULL, NULL, "FILE    text, documents end with an empty line"},
    {"--held-out", &c->held_out, NULL, NULL, "FILE    text that is only looked at"},
    {"--out", &c->out, NULL, NULL, "FILE    the model, GGUF in F32; written at each checkpoint"},
    {"--checkpoint", &c->checkpoint, NULL, NULL, "FILE    where to go on, and written every --every steps and on Ctrl-C"},
    {"--vocab-from", &c->vocab_text, NULL, NULL, "FILE    text that the pieces are learnt from (default: that of --train)"},
    {"--from", &c->from, NULL, NULL, "FILE    weights to begin with: a checkpoint, of any context"},
    {"--plot", &c->plot, NULL, NULL, "FILE    SVG of the loss"},
    {"--name", &c->name, NULL, NULL, "TEXT    general.name"},
    {"--vocab", NULL, &c->config.n_vocab, NULL, "N       pieces"},
    {"--context", NULL, &c->config.n_ctx, NULL, "N       tokens of a window"},
    {"--width", NULL, &c->config.n_embd, NULL, "N       of embeddings"},
    {"--layers", NULL, &c->config.n_layers, NULL, "N"},
    {"--heads", NULL, &c->config.n_heads, NULL, "N"},
    {"--kv-heads", NULL, &c->config.n_kv_heads, NULL, "N       at most half as many"},
    {"--ff", NULL, &c->config.n_ff, NULL, "N       width of the feed-forward layer"},
    {"--ternary", NULL, &c->config.ternary, NULL, "0|1     BitNet b1.58"},
    {"--steps", NULL, &c->steps, NULL, "N"},
    {"--batch", NULL, &c->n_seqs, NULL, "N       windows of a step"},
    {"--shard", NULL, &c->shard_seqs, NULL, "N       windows computed together"},
    {"--warmup", NULL, &c->warmup, NULL, "N       steps"},
    {"--rate", NULL, NULL, &c->rate, "X       highest learning rate"},
    {"--emphasis", NULL, NULL, &c->emphasis, "X       how much more counts what a document repeats and most lack"},
    {"--threads", NULL, &c->n_threads, NULL, "N"},
    {"--seed", NULL, &c->seed, NULL, "N"},
    {"--every", NULL, &c->every, NULL, "N       steps between looks at the held-out text, with checkpoints"},
  };
  size_t n = sizeof options / sizeof options[0];
  for (int a = 1; a < argc; a += 2) {
    size_t i = 0;
    while (i < n && strcmp(argv[a], options[i].name) != 0) i++;
    if (i == n || a + 1 == argc) {
      for (i = 0; i < n; i++) fprintf(stderr, "  %-13s %s\n", options[i].name, options[i].help);
      return false;
    }
    if (!parse_option(&options[i], argv[a + 1])) return false;
  }
  return true;
}

static const char *wrong_settings(const settings *c) {
  const train_config *m = &c->config;
  if (!c->train || !c->held_out || !c->out) return "--train, --held-out and --out are needed";
  if (m->n_vocab < VOCAB_BLANK + 128 || m->n_vocab > 65535) return "--vocab must be 387 to 65535";
  if (m->n_ctx < 2 || m->n_layers < 1 || m->n_heads < 1 || m->n_ff < 1) return "there must be some of everything";
  if (m->n_embd % (2 * m->n_heads)) return "--width must be a multiple of twice --heads";
  if (m->n_kv_heads < 1 || m->n_heads % m->n_kv_heads || 2 * m->n_kv_heads > m->n_heads)
    return "--kv-heads must divide --heads and be at most half as many";
  if (c->shard_seqs < 1 || c->n_seqs % c->shard_seqs || c->n_seqs < 1) return "--batch must be a multiple of --shard";
  if (c->n_seqs / c->shard_seqs > TRAIN_MAX_SHARDS) return "--batch has too many shards";
  if (c->steps < 1 || c->every < 1 || c->n_threads < 1 || c->n_threads > TRAIN_MAX_SHARDS) return "--steps, --every or --threads";
  return NULL;
}

// ---- work ----

typedef struct job {
  settings c;
  train_vocab vocab;
  train_text train, held_out;
  train_loop loop;
  train_history history;
  real *emphasis;
} job;

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool load_texts(job *j) {
  enum { LEARN_FROM = 8000000 }; // bytes are enough for a vocabulary
  size_t size = 0, size_held_out = 0;
  size_t size_vocab = 0;
  char *text = train_read_file(j->c.train, &size), *held_out = text ? train_read_file(j->c.held_out, &size_held_out) : NULL;
  char *pieces = held_out ? train_read_file(j->c.vocab_text ? j->c.vocab_text : j->c.train, &size_vocab) : NULL;
  if (size_vocab > LEARN_FROM) size_vocab = LEARN_FROM;
  bool good = pieces && train_vocab_learn(&j->vocab, pieces, size_vocab, j->c.config.n_vocab);
  free(pieces);
  gw_file file;
  memset(&file, 0, sizeof file);
  qi_model *m = good ? train_open_vocab(&j->vocab, &file) : NULL;
  good = m && train_text_load(&j->train, m, text, size) && train_text_load(&j->held_out, m, held_out, size_held_out);
  qi_model_close(m);
  gw_free(&file);
  free(text);
  free(held_out);
  if (!good) return false;
  printf("text: %zu documents, %zu tokens, %.2f bytes each; held out: %zu tokens; %d pieces\n", j->train.n_documents, j->train.n,
         (double)size / (double)j->train.n, j->held_out.n, j->vocab.n);
  return true;
}

static bool save(job *j, int step) {
  train_checkpoint c = train_checkpoint_of(&j->loop, &j->vocab, &j->train, step);
  bool good = train_save_gguf(&j->loop.m, &j->vocab, j->c.name, j->c.out);
  if (j->c.checkpoint) good = train_save_checkpoint(&j->loop, &c, &j->history, j->c.checkpoint) && good;
  if (j->c.plot) good = train_plot(&j->history, j->c.steps, step, j->c.name, j->c.plot) && good;
  return good;
}

static bool steps(job *j, int first) {
  enum { SHOWN = 20, WINDOWS = 32 }; // steps between lines, windows of the held-out text in between
  double start = seconds_now(), tokens = (double)(j->c.n_seqs * j->c.config.n_ctx), sum = 0;
  int n = 0;
  for (int step = first; step < j->c.steps; step++) {
    double loss = train_step(&j->loop, &j->train, step);
    j->history.loss[step] = (float)loss;
    sum += loss;
    n++;
    bool last = step + 1 == j->c.steps, look = last || (step + 1) % j->c.every == 0 || interrupted;
    if ((step + 1) % SHOWN == 0 || look) {
      double each = (seconds_now() - start) / (step + 1 - first), left = each * (j->c.steps - step - 1);
      printf("step %d of %d: loss %.4f, rate %.2e, %.0f tokens/s, %d:%02d left\n", step + 1, j->c.steps, sum / n,
             train_rate(&j->loop, step), tokens / each, (int)left / 60, (int)left % 60);
      sum = n = 0;
    }
    if (look) {
      double held_out = train_held_out(&j->loop, &j->held_out, last ? 0 : WINDOWS);
      j->history.held_out[step + 1] = (float)held_out;
      printf("held out after %d steps: loss %.4f, perplexity %.4f\n", step + 1, held_out, exp(held_out));
      if (!save(j, step + 1)) return false;
    }
    fflush(stdout);
    if (interrupted) return false;
  }
  return true;
}

static bool run(job *j) {
  const settings *c = &j->c;
  if (!load_texts(j)) return false;
  train_config config = c->config;
  config.n_vocab = j->vocab.n;
  bool good = train_loop_init(&j->loop, &config, c->n_seqs / c->shard_seqs, (size_t)c->shard_seqs, c->n_threads, (uint64_t)c->seed);
  j->loop.steps = c->steps;
  j->loop.warmup = c->warmup;
  j->loop.rate = c->rate;
  j->history.loss = (float *)calloc((size_t)c->steps, sizeof(float));
  j->history.held_out = (float *)calloc((size_t)c->steps + 1, sizeof(float));
  if (!good || !j->history.loss || !j->history.held_out) {
    fprintf(stderr, "train: no memory\n");
    return false;
  }
  if (c->emphasis > 0) {
    j->emphasis = (real *)malloc((size_t)config.n_vocab * sizeof(real));
    if (!j->emphasis || !train_emphasis(&j->train, (size_t)config.n_vocab, c->emphasis, j->emphasis)) {
      fprintf(stderr, "train: no memory\n");
      return false;
    }
    for (int i = 0; i < j->loop.n_shards; i++) j->loop.shards[i].emphasis = j->emphasis;
  }
  if (c->from && !train_load_weights(&j->loop.m, c->from)) return false;
  printf("%zu parameters, %d threads\n", j->loop.m.n_params, c->n_threads);
  int first = 0;
  FILE *f = c->checkpoint ? fopen(c->checkpoint, "rb") : NULL;
  if (f) {
    fclose(f);
    train_checkpoint now = train_checkpoint_of(&j->loop, &j->vocab, &j->train, 0);
    if (!train_load_checkpoint(&j->loop, &now, &j->history, c->checkpoint, &first)) return false;
    printf("goes on after step %d\n", first);
  }
  return steps(j, first);
}

int main(int argc, char **argv) {
  static job j;
  j.c = (settings){.name = "tales", .steps = 5000, .n_seqs = 4, .shard_seqs = 4, .warmup = 150, .n_threads = 1, .seed = 1,
                   .every = 400, .rate = 2.5e-3,
                   .config = {2048, 320, 128, 6, 4, 2, 352, 0}};
  if (!parse(argc, argv, &j.c)) return 2;
  const char *wrong = wrong_settings(&j.c);
  if (wrong) {
    fprintf(stderr, "train: %s\n", wrong);
    return 2;
  }
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);
#ifdef TRAIN_BLAS
  openblas_set_num_threads(1); // shards are what runs side by side
#endif
  bool good = run(&j);
  train_loop_free(&j.loop);
  train_text_free(&j.train);
  train_text_free(&j.held_out);
  train_vocab_free(&j.vocab);
  free(j.emphasis);
  free(j.history.loss);
  free(j.history.held_out);
  return good ? 0 : 1;
}
