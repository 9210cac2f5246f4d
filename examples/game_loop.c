// Characters that talk while a game runs at 60 frames a second.      cc -O2 examples/game_loop.c -o build/game_loop -lm -lpthread
//
//   build/game_loop model.gguf [budget in microseconds [frames [threads [rush]]]]          default 2000 600 1
//
// Each frame gives the model its budget and no more; all characters share one model, and what they all know is computed and kept
// once. With `rush` frames follow each other at once. At the end: how much longer than the budget the model took.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define N_CHARACTERS 4
#define FRAME_US 16667

static const char world[] =
  "The village of Oakdale lies at the end of the old king's road, between the dark forest and the river. Every autumn the traders "
  "come from the coast with salt, silk and stories. This year they are late, the nights grow cold, and people say that they have "
  "seen lights in the ruins on the hill. A stranger walks into the inn and asks for news.\n";

static const char *const names[N_CHARACTERS] = {"Mara, who owns the inn", "Old Tom, the fisherman", "Captain Reed of the watch",
                                                "Lina, the blacksmith's daughter"};

typedef struct character {
  char said[600]; // what is being said
  size_t len, n_answers;
} character;

static double now_us(void) {
  struct timespec t;
  timespec_get(&t, TIME_UTC);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

// ---- characters ----

// Lets a character begin to speak. What the world is like is taken over from the request that told it.
static qi_result begin_to_speak(qi_batch *b, character *c, int i, uint64_t world_id, qi_error *err) {
  char text[sizeof world + 100];
  uint64_t id;
  snprintf(text, sizeof text, "%s%s, says: \"", world, names[i]);
  static const char *const stop[] = {"\"", "\n"};
  qi_batch_request q = {.text = text, .stop = stop, .n_stop = 2, .n_predict = 80, .share = world_id, .user = c};
  q.sampler = (qi_sampler_desc){.temperature = 0.8f, .top_p = 0.95f, .seed = (uint64_t)i + 100 * c->n_answers};
  c->len = 0;
  return qi_batch_submit(b, &q, &id, err);
}

// What was said since the last frame. True when the character has finished.
static bool listen(const qi_batch_event *e) {
  character *c = (character *)e->user;
  size_t n = sizeof c->said - 1 - c->len;
  if (e->piece.len < n) n = e->piece.len;
  memcpy(c->said + c->len, e->piece.text, n);
  c->len += n;
  c->said[c->len] = 0;
  c->n_answers += e->done != QI_DONE_NOT;
  return e->done != QI_DONE_NOT;
}

// One frame's share of thinking.
static qi_result think(qi_batch *b, character *characters, uint64_t world_id, uint32_t budget_us, qi_error *err) {
  qi_batch_event e;
  double end = now_us() + budget_us;
  for (double left = budget_us; left >= 1; left = end - now_us()) {
    qi_result r = qi_batch_step(b, (uint32_t)left, err);
    if (r == QI_AGAIN) return QI_OK;
    if (r && r != QI_END) return r;
    while (qi_batch_poll(b, &e)) {
      character *c = (character *)e.user;
      if (c && listen(&e) && (r = begin_to_speak(b, c, (int)(c - characters), world_id, err))) return r;
    }
  }
  return QI_OK;
}

// ---- frames ----

static int by_size(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

// How long frames took beyond the budget.
static void print_times(float *us, size_t n, uint32_t budget_us) {
  static const float limits[] = {0, 25, 50, 100, 200, 500, 1000, 2000, 5000, 1e30f};
  qsort(us, n, sizeof *us, by_size);
  printf("\ntime of the model in a frame: median %.0f us, 99 %% below %.0f us, longest %.0f us; budget %u us\n", (double)us[n / 2],
         (double)us[n * 99 / 100], (double)us[n - 1], (unsigned)budget_us);
  for (size_t i = 0, at = 0; i < sizeof limits / sizeof limits[0]; i++) {
    size_t first = at;
    while (at < n && us[at] - (float)budget_us <= limits[i]) at++;
    if (limits[i] < 1e6f) printf("  over by at most %5.0f us  %6zu  ", (double)limits[i], at - first);
    else printf("  over by more              %6zu  ", at - first);
    for (size_t k = 0; k < (at - first) * 50 / n; k++) putchar('#');
    putchar('\n');
  }
}

static qi_result play(qi_batch *b, float *us, size_t n_frames, uint32_t budget_us, bool rush, qi_error *err) {
  character characters[N_CHARACTERS];
  uint64_t world_id;
  qi_batch_request q = {.text = world, .n_predict = -1, .keep = true};
  memset(characters, 0, sizeof characters);
  qi_result r = qi_batch_submit(b, &q, &world_id, err);
  for (int i = 0; i < N_CHARACTERS && !r; i++) r = begin_to_speak(b, &characters[i], i, world_id, err);
  for (size_t frame = 0; frame < n_frames && !r; frame++) {
    double start = now_us();
    r = think(b, characters, world_id, budget_us, err);
    double took = now_us() - start;
    us[frame] = (float)took;
    if (rush || took >= FRAME_US) continue;
    struct timespec rest = {0, (long)((FRAME_US - took) * 1000)}; // the game itself
    nanosleep(&rest, NULL);
  }
  for (int i = 0; i < N_CHARACTERS && !r; i++)
    printf("%s (%zu answers so far): \"%s\n", names[i], characters[i].n_answers, characters[i].said);
  return r;
}

static long number(int argc, char **argv, int i, long fallback) { return i < argc ? strtol(argv[i], NULL, 10) : fallback; }

int main(int argc, char **argv) {
  long budget_us = number(argc, argv, 2, 2000), n_frames = number(argc, argv, 3, 600), n_threads = number(argc, argv, 4, 1);
  if (argc < 2 || argc > 6 || budget_us < 1 || budget_us > 1000000 || n_frames < 1 || n_frames > 1000000 || n_threads < 1 ||
      n_threads > 256) {
    fprintf(stderr, "usage: game_loop model.gguf [budget in microseconds [frames [threads [rush]]]]\n");
    return 2;
  }
  qi_model_desc md = {.path = argv[1]};
  qi_batch_desc bd = {.session = {.n_ctx = 1024, .n_seqs = N_CHARACTERS + 1, .n_threads = (int)n_threads}};
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  qi_batch *b = NULL;
  float *us = (float *)calloc((size_t)n_frames, sizeof *us);
  qi_result r = QI_ERR_OOM;
  if (!us) snprintf(err.msg, sizeof err.msg, "out of memory");
  else if (!(r = qi_model_open(&m, &md, &err)) && !(r = qi_batch_open(&b, m, &bd, &err)))
    r = play(b, us, (size_t)n_frames, (uint32_t)budget_us, argc == 6, &err);
  if (r) {
    fprintf(stderr, "game_loop: %s\n", err.msg);
  } else {
    qi_session_stats st;
    qi_session_get_stats(qi_batch_session(b), &st);
    print_times(us, (size_t)n_frames, (uint32_t)budget_us);
    double seconds = st.prompt_seconds + st.generate_seconds;
    printf("%llu tokens of prompts and %llu of answers in %.2f s of the model's time: %.1f a second\n",
           (unsigned long long)st.n_prompt, (unsigned long long)st.n_generated, seconds,
           (double)(st.n_prompt + st.n_generated) / seconds);
  }
  free(us);
  qi_batch_close(b);
  qi_model_close(m);
  return r ? 1 : 0;
}
