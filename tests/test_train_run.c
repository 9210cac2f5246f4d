// Training itself, small and short: the vocabulary, windows, threads, checkpoints, the loss, and that the written file is the model
// that was trained. Also the corpus: the same bytes everywhere, and no mistakes of its grammar.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "../tools/tales.h"
#include "../tools/train_file.h"

// ---- the corpus ----

// Documents of a seed, one after another; free it.
static char *write_documents(uint64_t seed, int n) {
  static tales t;
  size_t len = 0;
  char *text = (char *)malloc((size_t)n * TALES_MAX_TEXT + 1);
  assert_non_null(text);
  assert_true(tales_open(&t));
  for (int i = 0; i < n; i++) {
    const char *one = tales_document(&t, seed, (uint64_t)i);
    memcpy(text + len, one, strlen(one));
    len += strlen(one);
  }
  text[len] = 0;
  tales_close(&t);
  return text;
}

static uint64_t hash_of(const char *s) {
  uint64_t h = 14695981039346656037u;
  for (; *s; s++) h = (h ^ (uint8_t)*s) * 1099511628211u;
  return h;
}

static void test_corpus_is_the_same_everywhere(void **state) {
  (void)state;
  char *text = write_documents(1, 400);
  assert_true(hash_of(text) == 0x1a2c25947169642bu);
  free(text);
}

// What a mistake in the grammar would leave behind: signs of the template language, doubled blanks and words, no end.
static void test_corpus_is_well_formed(void **state) {
  (void)state;
  enum { N = 3000 };
  char *text = write_documents(77, N), *begin = text;
  int n = 0, n_quotes = 0;
  for (char *p = text; *p; p++) {
    bool odd = strchr("{}[]|$^~", *p) || (*p == ' ' && (p[1] == ' ' || p[1] == '\n')) || (*p == '\n' && p[1] == ' ') ||
               (*p == '.' && p[1] == '.') || (*p == ',' && (p[1] == ',' || p[1] == '.'));
    if (odd) fail_msg("document %d: %.80s", n, p > text + 40 ? p - 40 : text);
    n_quotes += *p == '"';
    if (p[0] != '\n' || p[1] != '\n') continue;
    if (n_quotes % 2) fail_msg("document %d: a quotation has no end: %.60s", n, begin);
    if (!strchr("TI", *begin) || (strncmp(begin, "Tale: ", 6) && strncmp(begin, "Item: ", 6) && strncmp(begin, "Talk: ", 6)))
      fail_msg("document %d begins with %.20s", n, begin);
    if (!strchr(".!?\"", p[-1])) fail_msg("document %d ends with %.20s", n, p - 20);
    n++;
    n_quotes = 0;
    begin = ++p + 1;
  }
  assert_int_equal(n, N);
  const char *const wrong[] = {" a apple", " an big", " a old", " A old", " a ember", " the the ", " of of ", " a a ", "?."};
  for (size_t i = 0; i < TALES_COUNT(wrong); i++) {
    const char *found = strstr(text, wrong[i]);
    if (found) fail_msg("%.60s", found - 20);
  }
  free(text);
}

// Exercises: no signs of the template language, and who is spoken of is spoken of again.
static void test_exercises(void **state) {
  (void)state;
  static tales t;
  assert_true(tales_open(&t));
  t.drill = true;
  t.cast = 16;
  for (uint64_t i = 0; i < 500; i++) {
    const char *text = tales_document(&t, 5, i);
    int n_names = 0;
    for (int k = 0; k < 3; k++)
      for (const char *p = text; (p = strstr(p, t.people[k].name)) != NULL; p++) n_names++;
    if (strpbrk(text, "?{}[]|$^~") && !strstr(text, "?\"")) fail_msg("exercise %d: %s", (int)i, text);
    assert_true(n_names >= 9);
    assert_string_equal(text + strlen(text) - 2, "\n\n");
  }
  tales_close(&t);
}

static void test_a_small_cast(void **state) {
  (void)state;
  static tales t;
  assert_true(tales_open(&t));
  t.cast = 4;
  for (uint64_t i = 0; i < 300; i++) {
    const char *text = tales_document(&t, 6, i);
    for (size_t k = 4; k < TALES_COUNT(tales_women); k++)
      if (strstr(text, tales_women[k]) && strlen(tales_women[k]) > 4) fail_msg("%s: %s", tales_women[k], text);
  }
  tales_close(&t);
}

// ---- training ----

typedef struct fixture {
  char *text;
  train_vocab vocab;
  gw_file vocab_file;
  qi_model *vocab_model;
  train_text train, held_out;
  train_loop loop;
} fixture;

static const train_config tiny = {.n_ctx = 64, .n_embd = 32, .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .n_ff = 48};

static void open_loop(fixture *f, train_config c, int n_threads) {
  c.n_vocab = f->vocab.n;
  assert_true(train_loop_init(&f->loop, &c, 2, 2, n_threads, 3));
  f->loop.steps = 40;
  f->loop.warmup = 5;
  f->loop.rate = 1e-2;
}

static void open_fixture(fixture *f) {
  memset(f, 0, sizeof *f);
  f->text = write_documents(5, 300);
  size_t size = strlen(f->text), cut = size * 9 / 10;
  while (memcmp(f->text + cut - 2, "\n\n", 2) != 0) cut--;
  assert_true(train_vocab_learn(&f->vocab, f->text, cut, 512));
  assert_int_equal(f->vocab.n, 512);
  f->vocab_model = train_open_vocab(&f->vocab, &f->vocab_file);
  assert_non_null(f->vocab_model);
  assert_true(train_text_load(&f->train, f->vocab_model, f->text, cut));
  assert_true(train_text_load(&f->held_out, f->vocab_model, f->text + cut, size - cut));
}

static void close_fixture(fixture *f) {
  train_loop_free(&f->loop);
  train_text_free(&f->train);
  train_text_free(&f->held_out);
  qi_model_close(f->vocab_model);
  gw_free(&f->vocab_file);
  train_vocab_free(&f->vocab);
  free(f->text);
}

// Tokens give the text back; documents end with the end token and begin behind it; lines begin behind line ends.
static void test_text_to_tokens(void **state) {
  (void)state;
  fixture f;
  open_fixture(&f);
  size_t n = 0, n_ends = 0;
  for (size_t i = 0; i < f.train.n; i++) {
    char piece[64];
    size_t len = qi_token_piece(f.vocab_model, f.train.tokens[i], true, piece, sizeof piece);
    n_ends += f.train.tokens[i] == VOCAB_END;
    assert_memory_equal(piece, f.text + n, len);
    n += len;
  }
  assert_int_equal(n_ends, f.train.n_documents);
  assert_int_equal(f.train.tokens[f.train.n - 1], VOCAB_END);
  for (size_t i = 1; i < f.train.n_documents; i++) assert_int_equal(f.train.tokens[f.train.documents[i] - 1], VOCAB_END);
  assert_true(f.train.n_lines > f.train.n_documents);
  int32_t tokens[64], targets[64];
  int n_at_documents = 0;
  for (int i = 0; i < 100; i++) {
    train_window(&f.train, 3, 7, (size_t)i, 64, tokens, targets);
    assert_int_equal(tokens[0], VOCAB_BEGIN);
    assert_memory_equal(tokens + 1, targets, 63 * sizeof *targets);
    for (size_t k = 0; k < f.train.n_documents; k++) {
      const uint16_t *at = f.train.tokens + f.train.documents[k];
      size_t same = 0;
      while (same < 64 && f.train.documents[k] + same < f.train.n && at[same] == targets[same]) same++;
      if (same == 64) {
        n_at_documents++;
        break;
      }
    }
  }
  assert_in_range(n_at_documents, 35, 65);
  close_fixture(&f);
}

// Names count more than words that every document has, and the text as much as before.
static void test_emphasis_is_on_what_comes_back(void **state) {
  (void)state;
  fixture f;
  open_fixture(&f);
  size_t n_vocab = (size_t)f.vocab.n;
  real *emphasis = (real *)malloc(n_vocab * sizeof *emphasis);
  assert_non_null(emphasis);
  assert_true(train_emphasis(&f.train, n_vocab, 4, emphasis));
  double sum = 0, most = 0, least = 1e9;
  for (size_t i = 0; i < f.train.n; i++) sum += (double)emphasis[f.train.tokens[i]];
  for (size_t i = 0; i < n_vocab; i++) {
    most = (double)emphasis[i] > most ? (double)emphasis[i] : most;
    least = (double)emphasis[i] < least ? (double)emphasis[i] : least;
  }
  assert_true(fabs(sum / (double)f.train.n - 1) < 1e-3);
  assert_true(most > 2 * least && most <= 5 * least * 1.0001);
  assert_true(emphasis[VOCAB_END] == (real)least); // each document has it once
  free(emphasis);
  close_fixture(&f);
}

static void test_loss_falls_as_recorded(void **state) {
  (void)state;
  const double recorded[] = {6.2834, 5.3138, 5.1505, 5.1000, 5.0656, 5.1690}; // of steps 1, 10, 20, 30, 40, and held out
  const double recorded_ternary[] = {6.2558, 5.3392, 5.1706, 5.1113, 5.1047, 5.1831};
  for (int ternary = 0; ternary < 2; ternary++) {
    fixture f;
    open_fixture(&f);
    train_config c = tiny;
    c.ternary = ternary;
    open_loop(&f, c, 1);
    double found[6];
    for (int step = 0; step < 40; step++) {
      double loss = train_step(&f.loop, &f.train, step);
      if (step == 0 || step % 10 == 9) found[(step + 1) / 10] = loss;
    }
    found[5] = train_held_out(&f.loop, &f.held_out, 0);
    for (int i = 0; i < 6; i++) {
      double want = ternary ? recorded_ternary[i] : recorded[i];
      if (fabs(found[i] - want) > 0.01 * want)
        fail_msg("%s, loss %d: %.5f, recorded %.5f", ternary ? "bitnet" : "llama", i, found[i], want);
    }
    close_fixture(&f);
  }
}

// The number of threads changes nothing; nor does a stop and a checkpoint.
static void test_threads_and_checkpoints_keep_the_bits(void **state) {
  (void)state;
  fixture f;
  open_fixture(&f);
  open_loop(&f, tiny, 1);
  for (int step = 0; step < 6; step++) train_step(&f.loop, &f.train, step);
  size_t bytes = f.loop.m.n_params * sizeof(real);
  real *whole = (real *)malloc(bytes);
  assert_non_null(whole);
  memcpy(whole, f.loop.m.params, bytes);
  train_loop_free(&f.loop);

  char dir[] = "/tmp/qinfer-train-XXXXXX", path[64];
  assert_non_null(mkdtemp(dir));
  snprintf(path, sizeof path, "%s/checkpoint", dir);
  float loss[40] = {0}, held_out[41] = {0};
  train_history h = {loss, held_out};
  open_loop(&f, tiny, 2);
  for (int step = 0; step < 4; step++) loss[step] = (float)train_step(&f.loop, &f.train, step);
  train_checkpoint now = train_checkpoint_of(&f.loop, &f.vocab, &f.train, 4);
  assert_true(train_save_checkpoint(&f.loop, &now, &h, path));
  train_loop_free(&f.loop);

  open_loop(&f, tiny, 1);
  now = train_checkpoint_of(&f.loop, &f.vocab, &f.train, 0);
  float kept = loss[3];
  memset(loss, 0, sizeof loss);
  int step = 0;
  assert_true(train_load_checkpoint(&f.loop, &now, &h, path, &step));
  assert_int_equal(step, 4);
  assert_true(loss[3] == kept);
  for (; step < 6; step++) train_step(&f.loop, &f.train, step);
  assert_memory_equal(f.loop.m.params, whole, bytes);
  now.rate = 1; // other settings are refused
  assert_false(train_load_checkpoint(&f.loop, &now, &h, path, &step));
  now.rate = f.loop.rate;
  now.steps = f.loop.steps = 20; // another number of steps will do
  step = 0;
  assert_true(train_load_checkpoint(&f.loop, &now, &h, path, &step));
  assert_int_equal(step, 4);
  train_model longer; // the weights alone, for another context
  train_config c = f.loop.m.c;
  c.n_ctx = 96;
  assert_true(train_model_init(&longer, &c, 1));
  assert_true(train_load_weights(&longer, path));
  assert_memory_equal(longer.params, f.loop.m.params, bytes);
  train_model_free(&longer);
  c.n_ff = 52;
  assert_true(train_model_init(&longer, &c, 1));
  assert_false(train_load_weights(&longer, path));
  train_model_free(&longer);
  snprintf(path, sizeof path, "%s/plot.svg", dir);
  assert_true(train_plot(&h, 40, 6, "title", path));
  size_t size = 0;
  char *svg = train_read_file(path, &size);
  assert_non_null(svg);
  assert_non_null(strstr(svg, "<polyline"));
  assert_non_null(strstr(svg, "</svg>"));
  free(svg);
  unlink(path);
  snprintf(path, sizeof path, "%s/checkpoint", dir);
  unlink(path);
  rmdir(dir);
  free(whole);
  close_fixture(&f);
}

// ---- the file ----

// Mean loss of the model in `path` over the held-out windows, as train_held_out has it.
static double loss_of_file(const fixture *f, const char *path) {
  qi_model_desc md;
  qi_session_desc sd;
  qi_error err = {QI_OK, ""};
  qi_model *m = NULL;
  qi_session *s = NULL;
  memset(&md, 0, sizeof md);
  memset(&sd, 0, sizeof sd);
  md.path = path;
  sd.n_logits = 64;
  sd.n_threads = 1;
  sd.path = QI_PATH_FLOAT;
  sd.kv_type = QI_KV_F32;
  if (qi_model_open(&m, &md, &err) || qi_session_open(&s, m, &sd, &err)) fail_msg("%s", err.msg);
  double sum = 0;
  size_t n = 0;
  for (size_t w = 0; w < (f->held_out.n + 1) / 64; w++) {
    qi_decode_token tokens[64];
    memset(tokens, 0, sizeof tokens);
    for (size_t k = 0; k < 64; k++) {
      tokens[k].token = k ? f->held_out.tokens[w * 64 + k - 1] : VOCAB_BEGIN;
      tokens[k].want_logits = true;
    }
    assert_int_equal(qi_seq_truncate(s, 0, 0, NULL), QI_OK);
    assert_int_equal(qi_decode(s, tokens, 64, NULL), QI_OK);
    for (int k = 32; k < 63; k++, n++) {
      const float *logits = qi_logits(s, k);
      double total = 0;
      for (int i = 0; i < f->vocab.n; i++) total += exp((double)logits[i]);
      sum += log(total) - (double)logits[f->held_out.tokens[w * 64 + (size_t)k]];
    }
  }
  qi_session_close(s);
  qi_model_close(m);
  return sum / (double)n;
}

static void test_the_file_is_the_model(void **state) {
  (void)state;
  for (int ternary = 0; ternary < 2; ternary++) {
    fixture f;
    open_fixture(&f);
    train_config c = tiny;
    c.ternary = ternary;
    open_loop(&f, c, 1);
    for (int step = 0; step < 10; step++) train_step(&f.loop, &f.train, step);
    f.loop.m.exact = true; // a file in F32 has no int8 activations: neither has the loss it is compared with
    memcpy(f.loop.m.params, f.loop.m.effective, f.loop.m.n_params * sizeof(real));
    double want = train_held_out(&f.loop, &f.held_out, 0);
    char path[] = "/tmp/qinfer-train-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_true(train_save_gguf(&f.loop.m, &f.vocab, "test", path));
    double found = loss_of_file(&f, path);
    unlink(path);
    if (fabs(found - want) > 1e-4 * want) fail_msg("%s: %.6f, the trainer has %.6f", ternary ? "bitnet" : "llama", found, want);
    close_fixture(&f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_corpus_is_the_same_everywhere), cmocka_unit_test(test_corpus_is_well_formed),
      cmocka_unit_test(test_a_small_cast),                  cmocka_unit_test(test_exercises),
      cmocka_unit_test(test_emphasis_is_on_what_comes_back),
      cmocka_unit_test(test_text_to_tokens),                cmocka_unit_test(test_loss_falls_as_recorded),
      cmocka_unit_test(test_threads_and_checkpoints_keep_the_bits), cmocka_unit_test(test_the_file_is_the_model),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
