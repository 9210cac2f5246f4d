// Which thread count is kept, on machines that are made up: no clock is read.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// How long a step takes with n threads.
typedef double (*machine_fn)(int n);

static double memory_bound(int n) { return (n < 4 ? 80.0 / n : 20) + 0.4 * n; } // 4 threads have all the bandwidth
static double linear(int n) { return 100.0 / n; }
static double flat(int n) { return n > 0 ? 10 : 0; }
static double alone(int n) { return 10 + n; }
// All wait for the slowest, and from the ninth on that is a slow core.
static double slow_cores(int n) { return n <= 8 ? 80.0 / n : 3 * 80.0 / n; }

static double uniform(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return (double)(*state >> 11) * 0x1p-53;
}

typedef struct outcome {
  int threads, n_steps;
  double lost; // time beyond that of as many steps with the count of the beginning
} outcome;

// noise: steps take up to so many times longer by chance.
static outcome tune(machine_fn machine, int start, int most, double noise, uint64_t seed) {
  qi__tuner t;
  outcome out = {0, 0, 0};
  qi__tuner_open(&t, start, most);
  while (!qi__tuner_done(&t)) {
    int n = qi__tuner_threads(&t);
    assert_true(n >= 1 && n <= most);
    double time = machine(n) * (1 + noise * uniform(&seed));
    out.lost += machine(n) - machine(start);
    out.n_steps++;
    assert_true(out.n_steps < 1000);
    qi__tuner_add(&t, time);
  }
  out.threads = qi__tuner_threads(&t);
  qi__tuner_add(&t, 1); // nothing more comes of it
  assert_int_equal(qi__tuner_threads(&t), out.threads);
  return out;
}

static void test_quiet_machines(void **state) {
  (void)state;
  static const struct {
    const char *name;
    machine_fn machine;
    int start, most, want;
  } cases[] = {
      {"4 of 16 is best", memory_bound, 8, 16, 4},
      {"4 of 8 is best", memory_bound, 8, 8, 4},
      {"16 of 16 is best", linear, 8, 16, 16},
      {"32 of 32 is best", linear, 8, 32, 32},
      {"all of 6 is best", linear, 6, 6, 6},
      {"no difference", flat, 8, 16, 8},
      {"slow cores from the ninth on", slow_cores, 8, 16, 8},
      {"one is best", alone, 8, 12, 1},
      {"one of three is best", alone, 3, 3, 1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    for (int percent = 0; percent <= 2; percent++) {
      outcome o = tune(cases[i].machine, cases[i].start, cases[i].most, percent * 0.01, 1 + i);
      if (o.threads != cases[i].want)
        fail_msg("%s, %d %% noise: %d threads, expected %d", cases[i].name, percent, o.threads, cases[i].want);
      assert_true(o.n_steps <= 200);
      if (o.lost > 30 * cases[i].machine(cases[i].start)) fail_msg("%s: %g lost", cases[i].name, o.lost);
    }
}

// A step may take four times as long as the one before, for nothing: what is chosen is not worse than what there was, but for few.
static void test_noise(void **state) {
  (void)state;
  static const machine_fn machines[] = {memory_bound, linear, flat, slow_cores};
  for (size_t m = 0; m < sizeof machines / sizeof machines[0]; m++) {
    int n_worse = 0;
    for (uint64_t seed = 1; seed <= 400; seed++) {
      outcome o = tune(machines[m], 8, 16, 3, seed * 0x9e3779b97f4a7c15u);
      n_worse += machines[m](o.threads) > 1.05 * machines[m](8);
      assert_true(o.n_steps <= 300);
    }
    if (n_worse > 20) fail_msg("machine %d: worse in %d of 400", (int)m, n_worse);
  }
}

// One or two threads: there is nothing to choose. A number that was asked for is not measured either.
static void test_nothing_to_choose(void **state) {
  (void)state;
  qi__tuner t;
  static const int most[] = {0, 1, 2};
  for (size_t i = 0; i < sizeof most / sizeof most[0]; i++) {
    qi__tuner_open(&t, most[i] ? most[i] : 5, most[i]);
    assert_true(qi__tuner_done(&t));
    assert_int_equal(qi__tuner_threads(&t), most[i] ? most[i] : 5);
  }
}

// Turns: some steps that do not count, then both counts in turn; anew after a restart. A count that is slower is given up at once.
static void test_turns(void **state) {
  (void)state;
  qi__tuner t;
  qi__tuner_open(&t, 8, 16);
  for (int i = 0; i < QI__TUNER_SKIP + QI__TUNER_TURN; i++) {
    assert_int_equal(qi__tuner_threads(&t), 8);
    qi__tuner_add(&t, 1e9 * (i < QI__TUNER_SKIP) + 10);
  }
  assert_int_equal(qi__tuner_threads(&t), 12);
  qi__tuner_add(&t, 5);
  qi__tuner_restart(&t);
  for (int i = 0; i < QI__TUNER_TURN; i++) {
    assert_int_equal(qi__tuner_threads(&t), 8);
    qi__tuner_add(&t, 10);
  }
  for (int i = 0; i < QI__TUNER_TURN; i++) {
    assert_int_equal(qi__tuner_threads(&t), 12);
    qi__tuner_add(&t, 11);
  }
  assert_int_equal(t.other, 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_quiet_machines),
      cmocka_unit_test(test_noise),
      cmocka_unit_test(test_nothing_to_choose),
      cmocka_unit_test(test_turns),
  };
  return cmocka_run_group_tests_name("tuner", tests, NULL, NULL);
}
