// Fuzzing of saved sessions: any bytes, under a checksum that fits, into a session that is then used and saved again. It follows a
// grammar and guesses ahead.
//
//   make fuzz FUZZ_SECONDS=60          or by hand:
//   clang -O1 -g -DQI_NO_SIMD -fsanitize=fuzzer,address,undefined tests/fuzz_save.c -o fuzz_save -lm -lpthread
//
// It stops on: a crash, a leak, a refusal without a message or that changes the session, a loaded session that does not save to
// what loads again, pages that are lost.
#define QINFER_IMPLEMENTATION
#define QI_STATIC
#include "../qinfer.h"

#include "support/random_model.h"

static void check(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_save: not so: %s\n", what);
  abort();
}

static qi_session *fuzz_session(void) {
  static const char *const stop[] = {"abc", "\xc3\xa4\xc3\xb6"};
  static const qi_grammar_desc gd = {.gbnf = "root ::= part{3,200}\npart ::= .? (\" \" | [a-s] part . | \"a\" part part .)"};
  static qi_model *m;
  static qi_grammar *g;
  qi_matcher *mt = NULL;
  rm_desc d = rm_llama();
  d.n_layers = 1;
  d.n_embd = 32;
  d.n_heads = 2;
  d.n_kv_heads = 1;
  d.head_dim = 2;
  d.n_ff = 32;
  d.n_vocab = 40;
  d.window = 130;
  qi_model_desc md;
  qi_session_desc sd;
  qi_session *s = NULL;
  qi_error err = {QI_OK, ""};
  memset(&md, 0, sizeof md);
  memset(&sd, 0, sizeof sd);
  if (!m) {
    md.data = rm_build(&d, &md.data_size);
    check(md.data && !qi_model_open(&m, &md, &err), "the model opens");
  }
  sd.n_ctx = 300;
  sd.n_seqs = 3;
  sd.n_threads = 1;
  sd.n_kv_tokens = 640;
  sd.stop = stop;
  sd.n_stop = 2;
  sd.ignore_end = true;
  sd.sampler.temperature = 1;
  sd.sampler.repetition_penalty = 1.2f;
  sd.sampler.penalty_last_n = 5;
  sd.sampler.mirostat_tau = 3;
  sd.lookup = true;
  check(!qi_session_open(&s, m, &sd, &err), "the session opens");
  check((g || !qi_grammar_open(&g, m, &gd, &err)) && !qi_matcher_open(&mt, g, NULL, NULL, &err), "the grammar opens");
  check(!qi_session_constrain(s, mt, false, &err), "the session follows it");
  return s;
}

typedef struct fuzz_file {
  uint8_t *p; // malloc
  size_t n;
} fuzz_file;

static fuzz_file fuzz_save(qi_session *s) {
  fuzz_file f = {NULL, 0};
  check(!qi_session_save(s, NULL, 0, &f.n, NULL), "its size can be asked for");
  f.p = (uint8_t *)malloc(f.n);
  check(f.p && !qi_session_save(s, f.p, f.n, &f.n, NULL), "it can be saved");
  return f;
}

static void fuzz_stamp(fuzz_file *f) {
  uint64_t digest = 0;
  if (f->n < 8) return;
  for (size_t at = 0, part; at < f->n - 8; at += part) {
    part = qi__min_size(f->n - 8 - at, QI__STREAM_BLOCK);
    digest = qi__digest(digest, f->p + at, part);
  }
  for (size_t i = 0; i < 8; i++) f->p[f->n - 8 + i] = (uint8_t)(digest >> (8 * i));
}

// A few tokens in each interface. What fails must say why.
static void fuzz_use(qi_session *s) {
  qi_error err = {QI_OK, ""};
  qi_piece p;
  for (int i = 0; i < 4; i++) {
    qi_result r = qi_next(s, &p, &err);
    check(r >= 0 || err.msg[0], "an error has a message");
  }
  for (int seq = 0; seq < 3; seq++) {
    const qi_decode_token t = {1, seq, seq == 1, true};
    qi_result r = qi_decode(s, &t, 1, &err);
    check(!r || r == QI_ERR_CONTEXT, "there is room, or none");
    check(r || qi_logits(s, 0), "and logits");
  }
  int n = qi_seq_length(s, 0);
  if (n > 3) qi_seq_shift(s, 0, 1, 2, &err);
  if (n > 1) qi_seq_fork(s, 0, 2, n / 2, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static qi_session *s;
  if (!s) s = fuzz_session();
  qi_error err = {QI_OK, ""};
  fuzz_file f = {(uint8_t *)malloc(size + 1), size};
  check(f.p != NULL, "memory");
  if (size) memcpy(f.p, data, size);
  fuzz_stamp(&f);
  fuzz_file before = fuzz_save(s), after;
  qi_result r = qi_session_load(s, f.p, f.n, &err);
  check(!r == !err.msg[0], "an error has a message");
  after = fuzz_save(s);
  if (r) {
    check(before.n == after.n && !memcmp(before.p, after.p, after.n), "what is refused changes nothing");
  } else {
    check(!qi_session_load(s, after.p, after.n, &err), "what is saved can be loaded");
    fuzz_file again = fuzz_save(s);
    check(again.n == after.n && !memcmp(again.p, after.p, after.n), "and is the same again");
    free(again.p);
    fuzz_use(s);
    for (int seq = 0; seq < 3; seq++) check(!qi_seq_truncate(s, seq, 0, &err), "sequences can be cut");
    qi_session_stats stats;
    qi_session_get_stats(s, &stats);
    check(stats.kv_tokens == stats.kv_tokens_unused, "no page is lost");
  }
  free(before.p);
  free(after.p);
  free(f.p);
  return 0;
}

#ifdef FUZZ_CORPUS // writes seeds into a folder
static bool write_seed(const char *dir, int i, qi_session *s) {
  char path[512];
  fuzz_file f = fuzz_save(s);
  snprintf(path, sizeof path, "%s/seed%d", dir, i);
  FILE *out = fopen(path, "wb");
  bool ok = out && fwrite(f.p, 1, f.n, out) == f.n;
  if (out && fclose(out)) ok = false;
  free(f.p);
  return ok;
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  qi_session *s = fuzz_session();
  qi_piece p;
  bool ok = write_seed(argv[1], 0, s);
  for (int i = 1; i < 6; i++) { // up to where the window has given pages back
    qi_token ids[48] = {1, 2, 3};
    ok = ok && !qi_prompt_tokens(s, ids, 48, NULL) && !qi_step(s, 0, NULL);
    if (i % 2) ok = ok && !qi_next(s, &p, NULL);
    if (i == 2) ok = ok && !qi_seq_fork(s, 0, 1, 60, NULL) && !qi_next(s, &p, NULL);
    if (i == 3) qi__text_push(&s->text, "ab", 2, &p);
    if (i == 4) qi__text_push(&s->text, "\xc3\xa4\xc3", 3, &p);
    ok = ok && write_seed(argv[1], i, s);
  }
  qi_session_close(s);
  return !ok;
}
#endif
