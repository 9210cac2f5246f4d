// Opening models and getting logits in tests, through the public interface only. Failures are cmocka's and show the message.
#ifndef QINFER_TESTS_RUN_MODEL_H
#define QINFER_TESTS_RUN_MODEL_H

#include "ref64.h"
#include "random_model.h"

// Fails the test unless the call gave `want`.
GW_FN void run_expect(qi_result got, qi_result want, const qi_error *err, const char *what) {
  if (got != want)
    fail_msg("%s: got %s (%s), expected %s", what, qi_result_name(got), got < 0 ? err->msg : "", qi_result_name(want));
}
#define RUN_OK(call, err) run_expect((call), QI_OK, &(err), #call)

// ---- models ----

// A model and the bytes it lies in.
typedef struct run_model {
  qi_model *m;
  uint8_t *file;
  size_t size;
} run_model;

GW_FN run_model run_build(const rm_desc *d) {
  run_model r = {NULL, NULL, 0};
  qi_error err = {QI_OK, ""};
  r.file = rm_build(d, &r.size);
  assert_non_null(r.file);
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.data = r.file;
  md.data_size = r.size;
  RUN_OK(qi_model_open(&r.m, &md, &err), err);
  return r;
}
GW_FN void run_free(run_model *r) {
  qi_model_close(r->m);
  free(r->file);
  memset(r, 0, sizeof *r);
}

// One thread, float32 cache, room for n tokens and the logits of all of them.
GW_FN qi_session_desc run_session_desc(int n, qi_path path) {
  qi_session_desc sd;
  memset(&sd, 0, sizeof sd);
  sd.n_ctx = n;
  sd.n_logits = n;
  sd.n_threads = 1;
  sd.path = path;
  sd.kv_type = QI_KV_F32;
  return sd;
}

GW_FN qi_session *run_session(const qi_model *m, const qi_session_desc *sd) {
  qi_session *s = NULL;
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_session_open(&s, m, sd, &err), err);
  return s;
}

// What the BF16 path rounds on this machine, for r64_options.bf16: attention only where there is a matrix unit for it.
GW_FN int run_bf16_roundings(void) {
  qi_isa isa;
  qi__cpu cpu;
  qi__kernels kernels;
  if (qi__isa_choose(QI_ISA_AUTO, &isa, &cpu, NULL)) return 1;
  qi__kernels_init(&kernels, &cpu);
  return kernels.attention_panel && kernels.bf16.multiply ? 2 : 1;
}

// ---- tokens ----

GW_FN void run_random_tokens(uint64_t seed, int n_vocab, qi_token *out, size_t n) {
  for (size_t i = 0; i < n; i++) out[i] = (qi_token)(rm_next(&seed) % (uint64_t)n_vocab);
}

// The same role for all, logits of all wanted.
GW_FN qi_decode_token *run_tokens(const qi_token *ids, size_t n, int seq, bool generated) {
  qi_decode_token *t = (qi_decode_token *)malloc(n * sizeof *t);
  assert_non_null(t);
  for (size_t i = 0; i < n; i++) {
    qi_decode_token one = {ids[i], seq, generated, true};
    t[i] = one;
  }
  return t;
}

GW_FN int run_n_vocab(const qi_model *m) {
  qi_model_info info;
  qi_model_get_info(m, &info);
  return info.n_vocab;
}

// Logits of the last call's first n wanting tokens.
GW_FN void run_take_logits(const qi_session *s, size_t n, size_t n_vocab, float *out) {
  for (size_t i = 0; i < n; i++) {
    const float *row = qi_logits(s, (int)i);
    assert_non_null(row);
    memcpy(out + i * n_vocab, row, n_vocab * sizeof *out);
  }
}

// Decodes ids at the end of sequence `seq`, `chunk` tokens a call (0 = all), logits of each into out [n, n_vocab].
GW_FN void run_decode(qi_session *s, const qi_model *m, const qi_token *ids, size_t n, size_t chunk, int seq, bool generated,
                      float *out) {
  qi_error err = {QI_OK, ""};
  size_t n_vocab = (size_t)run_n_vocab(m);
  qi_decode_token *t = run_tokens(ids, n, seq, generated);
  if (!chunk) chunk = n;
  for (size_t i = 0; i < n; i += chunk) {
    size_t count = n - i < chunk ? n - i : chunk;
    RUN_OK(qi_decode(s, t + i, count, &err), err);
    run_take_logits(s, count, n_vocab, out + i * n_vocab);
  }
  free(t);
}

// Logits [n, n_vocab] (malloc) of a fresh session.
GW_FN float *run_logits(const qi_model *m, const qi_session_desc *sd, const qi_token *ids, size_t n, bool generated) {
  float *out = (float *)malloc(n * (size_t)run_n_vocab(m) * sizeof *out);
  assert_non_null(out);
  qi_session *s = run_session(m, sd);
  run_decode(s, m, ids, n, 0, 0, generated, out);
  qi_session_close(s);
  return out;
}

// Logits in float64 (malloc).
GW_FN double *run_reference(const r64_model *r, const r64_options *o, const qi_token *ids, size_t n) {
  double *out = (double *)malloc(n * r->n_vocab * sizeof *out);
  assert_non_null(out);
  assert_true(r64_forward(r, o, ids, n, out));
  return out;
}

// ---- comparison ----

GW_FN void run_expect_close(r64_diff d, double cosine_loss, double max_diff, const char *what, const char *which) {
  if (!(1 - d.cosine <= cosine_loss) || !(d.max_diff <= max_diff))
    fail_msg("%s, %s: cosine 1 - %.3g, expected 1 - %.3g or better; greatest difference %.3g, expected at most %.3g", what, which,
             1 - d.cosine, cosine_loss, d.max_diff, max_diff);
}

// For paths that round values, against a reference that rounds alike. A value next to the middle between two codes may go to the
// other side, since float32 and float64 differ by 1e-7; what follows then differs by about what one rounding costs. Rows before the
// first such accident must agree closely (best_loss, for the best row), the rest within `loss`.
GW_FN void run_expect_alike(r64_diff d, double best_loss, double loss, double max_diff, const char *what, const char *which) {
  if (!(1 - d.best <= best_loss))
    fail_msg("%s, %s, rounded alike: no row is that of the reference; cosine 1 - %.3g, expected 1 - %.3g", what, which,
             1 - d.best, best_loss);
  run_expect_close(d, loss, max_diff, what, which);
}

GW_FN void run_expect_bits(const float *got, const float *want, size_t n, const char *what, const char *which) {
  for (size_t i = 0; i < n; i++)
    if (memcmp(got + i, want + i, sizeof *got))
      fail_msg("%s, %s: element %lu is %.9g, expected the bits of %.9g", what, which, (unsigned long)i, (double)got[i],
               (double)want[i]);
}

#endif // QINFER_TESTS_RUN_MODEL_H
