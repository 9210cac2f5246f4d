// ==== >>tuner : how many threads to generate with, by measuring ====
#ifndef QI__TUNER_H
#define QI__TUNER_H

#include "config.h"

// A hill climb over thread counts. What is kept is compared with another count in turns, so that what the machine does besides
// meets both: a few steps of one, a few of the other, the first after each change not counted (threads wake up). The other count is
// kept if nearly all of its steps are faster than the median of those before; it is given up as soon as none is. First more
// threads are tried, then, if more did not help, fewer: half as many more or fewer, then a quarter, and so on.
//
// No clock is read here: the caller says how long a step took.
#define QI__TUNER_SKIP 4   // steps before the first that counts: memory is touched for the first time
#define QI__TUNER_TURN 3   // steps of one count; the first is not counted
#define QI__TUNER_ROUNDS 4 // turns of both
#define QI__TUNER_SAMPLES (QI__TUNER_ROUNDS * (QI__TUNER_TURN - 1))
#define QI__TUNER_GAIN 0.98 // of the median: less is not worth a change

typedef struct qi__tuner {
  int best;      // threads that are kept
  int other;     // compared with it; 0 = nothing more is to be tried
  int most;
  int step;      // between the two
  bool fewer;    // direction
  bool moved;    // `best` is not what it was at first
  int skip, n;   // steps to leave out; steps of this comparison
  double time[2][QI__TUNER_SAMPLES]; // of best, of other
} qi__tuner;

// The next count to try at this step or a smaller one, or the other direction, or none.
QI__FN void qi__tuner_choose(qi__tuner *t) {
  t->n = 0;
  for (;; t->step /= 2) {
    if (t->step == 0) {
      if (t->fewer || t->moved) break;
      t->fewer = true;
      t->step = t->best / 2;
    }
    t->other = t->fewer ? t->best - t->step : (int)qi__min_i64(t->best + t->step, t->most);
    if (t->other >= 1 && t->other != t->best) return;
  }
  t->other = 0;
}

// Begins with `start` threads; others are 1..most. Up to 2: nothing is tried.
QI__FN void qi__tuner_open(qi__tuner *t, int start, int most) {
  memset(t, 0, sizeof *t);
  t->best = start;
  t->most = most;
  t->skip = QI__TUNER_SKIP;
  t->step = start / 2 ? start / 2 : 1;
  if (most > 2) qi__tuner_choose(t);
}

QI__INLINE bool qi__tuner_done(const qi__tuner *t) { return t->other == 0; }

// Threads of the next step.
QI__INLINE int qi__tuner_threads(const qi__tuner *t) {
  bool other = !qi__tuner_done(t) && t->skip == 0 && t->n / QI__TUNER_TURN % 2;
  return other ? t->other : t->best;
}

// Of n > 0 numbers, which are put in order.
QI__FN double qi__tuner_median(double *v, int n) {
  for (int i = 1; i < n; i++)
    for (int j = i; j > 0 && v[j] < v[j - 1]; j--) {
      double swap = v[j];
      v[j] = v[j - 1];
      v[j - 1] = swap;
    }
  return (v[(n - 1) / 2] + v[n / 2]) / 2;
}

// After a round: n steps of each are known.
QI__FN void qi__tuner_judge(qi__tuner *t, int n) {
  double best = qi__tuner_median(t->time[0], n), other = qi__tuner_median(t->time[1], n);
  int n_faster = 0;
  while (n_faster < n && t->time[1][n_faster] < best) n_faster++;
  if (n_faster > 0 && n < QI__TUNER_SAMPLES) return;
  if (n == QI__TUNER_SAMPLES && n_faster + 1 >= n && other < best * QI__TUNER_GAIN) {
    t->best = t->other;
    t->step = t->best / 2;
    t->moved = true;
  } else {
    t->step /= 2;
  }
  qi__tuner_choose(t);
}

// A step with qi__tuner_threads took so long, in any unit.
QI__FN void qi__tuner_add(qi__tuner *t, double time) {
  if (qi__tuner_done(t)) return;
  if (t->skip > 0) {
    t->skip--;
    return;
  }
  int i = t->n++, round = i / (2 * QI__TUNER_TURN), turn = i % QI__TUNER_TURN;
  if (turn > 0) t->time[i / QI__TUNER_TURN % 2][round * (QI__TUNER_TURN - 1) + turn - 1] = time;
  if (t->n % (2 * QI__TUNER_TURN) == 0) qi__tuner_judge(t, (round + 1) * (QI__TUNER_TURN - 1));
}

// Steps are of another kind from now on: the comparison begins anew.
QI__FN void qi__tuner_restart(qi__tuner *t) { t->n = 0; }

#endif // QI__TUNER_H
