// The trainer's gradients, in double, against differences of its loss.
#define TRAIN_DOUBLE
#include "../tools/train_model.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

// More than one block of attention, heads that share keys, rows that are no multiples of eight.
static const train_config small = {.n_vocab = 37, .n_ctx = 70, .n_embd = 24, .n_layers = 2, .n_heads = 4, .n_kv_heads = 2,
                                   .n_ff = 36};

typedef struct fixture {
  train_model m;
  train_shard s;
} fixture;

static void open_fixture(fixture *f, train_config c, bool exact) {
  assert_true(train_model_init(&f->m, &c, 5));
  f->m.exact = exact;
  train_update_effective(&f->m);
  assert_true(train_shard_init(&f->s, &f->m, 2));
  uint64_t state = 9;
  for (size_t i = 0; i < f->s.rows; i++) {
    f->s.tokens[i] = (int32_t)(train_random(&state) % (uint64_t)c.n_vocab);
    f->s.targets[i] = i % 7 == 3 ? -1 : (int32_t)(train_random(&state) % (uint64_t)c.n_vocab);
  }
  for (size_t i = 0; i < f->m.n_tensors; i++) // norms that are not 1
    for (size_t k = 0; f->m.tensors[i].rows == 1 && k < f->m.tensors[i].cols; k++)
      f->m.params[f->m.tensors[i].at + k] += 0.2 * train_normal(&state);
  train_update_effective(&f->m);
}

static void close_fixture(fixture *f) {
  train_shard_free(&f->s);
  train_model_free(&f->m);
}

static double loss_at(fixture *f) {
  train_update_effective(&f->m);
  train_run(&f->m, &f->s, 1, false);
  return f->s.loss;
}

// Each tensor in a direction of its own: the gradient's share there is the slope of the loss.
static void check_gradients(train_config c) {
  fixture f;
  open_fixture(&f, c, true);
  train_run(&f.m, &f.s, 1, true);
  assert_int_equal(f.s.n_scored, 120);
  uint64_t state = 3;
  for (size_t i = 0; i < f.m.n_tensors; i++) {
    const train_tensor *t = &f.m.tensors[i];
    size_t n = train_tensor_size(t);
    if (!n) continue;
    double *direction = (double *)malloc(n * sizeof *direction), *kept = (double *)malloc(n * sizeof *kept), slope = 0, found[2];
    assert_non_null(direction);
    assert_non_null(kept);
    memcpy(kept, f.m.params + t->at, n * sizeof *kept);
    for (size_t k = 0; k < n; k++) {
      direction[k] = train_normal(&state);
      slope += direction[k] * f.s.grads[t->at + k];
    }
    for (int side = 0; side < 2; side++) {
      for (size_t k = 0; k < n; k++) f.m.params[t->at + k] = kept[k] + (side ? 1e-5 : -1e-5) * direction[k];
      found[side] = loss_at(&f);
    }
    memcpy(f.m.params + t->at, kept, n * sizeof *kept);
    double difference = (found[1] - found[0]) / 2e-5;
    if (fabs(difference - slope) > 1e-6 * (1 + fabs(slope)))
      fail_msg("%s: gradient %.9g, difference %.9g", t->name, slope, difference);
    free(direction);
    free(kept);
  }
  close_fixture(&f);
}

static void test_gradients_of_llama(void **state) {
  (void)state;
  check_gradients(small);
}

static void test_gradients_of_bitnet(void **state) {
  (void)state;
  train_config c = small;
  c.ternary = 1;
  check_gradients(c);
}

// What tokens see lies before them: the first half of the loss does not move when the last token does.
static void test_no_token_sees_later_ones(void **state) {
  (void)state;
  fixture f;
  open_fixture(&f, small, false);
  for (size_t i = 0; i < f.s.rows; i++)
    if (i % 70 > 60) f.s.targets[i] = -1;
  double before = loss_at(&f);
  for (size_t i = 0; i < f.s.rows; i++)
    if (i % 70 > 60) f.s.tokens[i] = (f.s.tokens[i] + 1) % small.n_vocab;
  assert_true(loss_at(&f) == before);
  f.s.tokens[60] = (f.s.tokens[60] + 1) % small.n_vocab;
  assert_true(loss_at(&f) != before);
  close_fixture(&f);
}

// What counts twice has twice the gradient, and the same loss.
static void test_emphasis(void **state) {
  (void)state;
  fixture f;
  real emphasis[37];
  open_fixture(&f, small, false);
  size_t n = f.m.n_params;
  double *one = (double *)malloc(2 * n * sizeof *one), *other = one + n, loss = 0;
  assert_non_null(one);
  for (int part = 0; part < 2; part++) { // targets up to 20 alone, the others alone
    for (int i = 0; i < 37; i++) emphasis[i] = (i <= 20) == (part == 0);
    f.s.emphasis = emphasis;
    train_run(&f.m, &f.s, 1, true);
    memcpy(part ? other : one, f.s.grads, n * sizeof *one);
    assert_true(part == 0 || f.s.loss == loss);
    loss = f.s.loss;
  }
  for (int i = 0; i < 37; i++) emphasis[i] = i <= 20 ? 2 : 1;
  train_run(&f.m, &f.s, 1, true);
  double most = 0;
  for (size_t i = 0; i < n; i++) {
    double wrong = fabs(f.s.grads[i] - 2 * one[i] - other[i]);
    most = wrong > most ? wrong : most;
  }
  assert_true(most < 1e-12);
  f.s.emphasis = NULL;
  train_run(&f.m, &f.s, 1, true);
  assert_true(f.s.loss == loss);
  for (size_t i = 0; i < n; i++) assert_true(fabs(f.s.grads[i] - one[i] - other[i]) < 1e-12);
  free(one);
  close_fixture(&f);
}

static void test_ternary_weights(void **state) {
  (void)state;
  real w[] = {1, -1, 0.1, -0.1, 2, -0.8, 0.2, 0.4}, out[8];
  train_ternary(w, 8, out); // mean size 0.7: half of it divides
  const real s = 0.7001953125; // 0.7 to 11 bits
  const real expected[] = {s, -s, 0, 0, s, -s, 0, s};
  for (int i = 0; i < 8; i++) assert_true(out[i] == expected[i]);
  memset(w, 0, sizeof w);
  train_ternary(w, 8, out);
  for (int i = 0; i < 8; i++) assert_true(out[i] == 0);
}

static void test_rounded_activations(void **state) {
  (void)state;
  real x[] = {-12.7, 0.04, 0.06, 5.01, 0, 0, 0, 0};
  const real expected[] = {-12.7, 0, 0.1, 5};
  train_round_rows(x, 2, 4);
  for (int i = 0; i < 4; i++) assert_true(fabs(x[i] - expected[i]) < 1e-12);
  for (int i = 4; i < 8; i++) assert_true(x[i] == 0);
}

// Gradients of rounded weights and activations are those of the rounded numbers, straight through.
static void test_gradients_go_straight_through(void **state) {
  (void)state;
  train_config c = small;
  c.ternary = 1;
  fixture f, g;
  open_fixture(&f, c, false);
  open_fixture(&g, c, true);
  memcpy(g.m.params, f.m.effective, f.m.n_params * sizeof(real));
  train_update_effective(&g.m);
  train_run(&f.m, &f.s, 1, true);
  train_run(&g.m, &g.s, 1, true);
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < f.m.n_params; i++) {
    dot += f.s.grads[i] * g.s.grads[i];
    a += f.s.grads[i] * f.s.grads[i];
    b += g.s.grads[i] * g.s.grads[i];
  }
  assert_true(dot / sqrt(a * b) > 0.99); // but for int8 rounding of activations
  assert_true(fabs(f.s.loss / g.s.loss - 1) < 0.01);
  close_fixture(&f);
  close_fixture(&g);
}

// AdamW as in the paper, on one number of each tensor.
static void test_adam(void **state) {
  (void)state;
  fixture f;
  open_fixture(&f, small, false);
  size_t n = f.m.n_params, matrix = f.m.tensors[train_index(1, FFN_UP)].at + 5, norm = f.m.tensors[train_index(0, FFN_NORM)].at + 5;
  train_adam a = {.m = (real *)calloc(n, sizeof(real)), .v = (real *)calloc(n, sizeof(real)),
                  .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .clip = 1e9};
  real *grads = (real *)calloc(n, sizeof(real));
  assert_non_null(a.m);
  assert_non_null(a.v);
  assert_non_null(grads);
  double w = f.m.params[matrix], u = f.m.params[norm], m = 0, v = 0;
  for (int step = 1; step <= 3; step++) {
    double g = 0.3 * step, hat_m = 0, hat_v = 0;
    grads[matrix] = grads[norm] = g;
    assert_true(fabs(train_adam_step(&a, &f.m, grads, step, 0.01) - g * sqrt(2.0)) < 1e-12);
    m = 0.9 * m + 0.1 * g;
    v = 0.95 * v + 0.05 * g * g;
    hat_m = m / (1 - pow(0.9, step));
    hat_v = v / (1 - pow(0.95, step));
    w = w - 0.01 * 0.1 * w - 0.01 * hat_m / (sqrt(hat_v) + 1e-8);
    u = u - 0.01 * hat_m / (sqrt(hat_v) + 1e-8);
    assert_true(fabs(f.m.params[matrix] - w) < 1e-12);
    assert_true(fabs(f.m.params[norm] - u) < 1e-12);
  }
  a.clip = 0.5; // a gradient of 10 counts as 0.5
  grads[matrix] = 10;
  grads[norm] = 0;
  train_adam_step(&a, &f.m, grads, 4, 0.01);
  assert_true(fabs(a.m[matrix] - (0.9 * m + 0.1 * 0.5)) < 1e-12);
  free(a.m);
  free(a.v);
  free(grads);
  close_fixture(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gradients_of_llama),       cmocka_unit_test(test_gradients_of_bitnet),
      cmocka_unit_test(test_no_token_sees_later_ones), cmocka_unit_test(test_emphasis), cmocka_unit_test(test_ternary_weights),
      cmocka_unit_test(test_rounded_activations),      cmocka_unit_test(test_gradients_go_straight_through),
      cmocka_unit_test(test_adam),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
