// ==== >>grammar_program : grammars as programs over bytes ====
#ifndef QI__GRAMMAR_PROGRAM_H
#define QI__GRAMMAR_PROGRAM_H

#include "../base/memory.h"

// A rule is a piece of code that takes bytes: it may go on in two places at once, or call other rules. Characters are taken byte by
// byte in UTF-8, since a token may end inside one. Jumps are relative, so code can be moved and copied as it is.
#define QI__GRAMMAR_MAX_CODE ((size_t)1 << 18)

typedef enum qi__grammar_op {
  QI__GRAMMAR_BYTE,   // takes a byte of lo..hi
  QI__GRAMMAR_SPLIT,  // goes on behind it and at + arg
  QI__GRAMMAR_JUMP,   // goes on at + arg
  QI__GRAMMAR_CALL,   // rule arg, then on behind it; lo: what follows is RETURN
  QI__GRAMMAR_RETURN  // the end of rule arg
} qi__grammar_op;

typedef struct qi__grammar_instr {
  uint8_t op, lo, hi;
  int32_t arg;
} qi__grammar_instr;

// ---- code while it is written ----

// After the first failure nothing more is written.
typedef struct qi__grammar_code {
  qi__grammar_instr *at;
  size_t n, cap;
  const qi_allocator *allocator;
  qi_result result; // QI_ERR_OOM, QI_ERR_LIMIT
} qi__grammar_code;

QI__FN void qi__grammar_code_free(qi__grammar_code *c) {
  qi__free(c->allocator, c->at, c->cap * sizeof *c->at);
  c->at = NULL;
}

// Room for `more` instructions.
QI__FN bool qi__grammar_reserve(qi__grammar_code *c, size_t more) {
  if (c->result) return false;
  if (more > QI__GRAMMAR_MAX_CODE - c->n) {
    c->result = QI_ERR_LIMIT;
    return false;
  }
  if (c->n + more <= c->cap) return true;
  size_t cap = c->cap ? 2 * c->cap : 1024;
  while (cap < c->n + more) cap *= 2;
  qi__grammar_instr *at = (qi__grammar_instr *)qi__alloc(c->allocator, cap * sizeof *at, sizeof(void *));
  if (!at) {
    c->result = QI_ERR_OOM;
    return false;
  }
  if (c->n) memcpy(at, c->at, c->n * sizeof *at);
  qi__grammar_code_free(c);
  c->at = at;
  c->cap = cap;
  return true;
}

QI__FN void qi__grammar_emit(qi__grammar_code *c, qi__grammar_op op, unsigned lo, unsigned hi, int64_t arg) {
  if (!qi__grammar_reserve(c, 1)) return;
  c->at[c->n++] = (qi__grammar_instr){(uint8_t)op, (uint8_t)lo, (uint8_t)hi, (int32_t)arg};
}

// Puts a SPLIT before what begins at `start` and ends the code; its other way leads `beyond` instructions behind that.
QI__FN void qi__grammar_split_before(qi__grammar_code *c, size_t start, size_t beyond) {
  if (!qi__grammar_reserve(c, 1)) return;
  size_t len = c->n - start;
  memmove(c->at + start + 1, c->at + start, len * sizeof *c->at);
  c->at[start] = (qi__grammar_instr){QI__GRAMMAR_SPLIT, 0, 0, (int32_t)(1 + len + beyond)};
  c->n++;
}

// Alternatives: qi__grammar_or behind each but the last, which begins at `start`; `chain` (0 at first) holds the jumps to the end
// together until qi__grammar_join.
QI__FN void qi__grammar_or(qi__grammar_code *c, size_t start, size_t *chain) {
  qi__grammar_split_before(c, start, 1);
  qi__grammar_emit(c, QI__GRAMMAR_JUMP, 0, 0, (int64_t)*chain);
  *chain = c->n;
}
QI__FN void qi__grammar_join(qi__grammar_code *c, size_t chain) {
  while (chain && !c->result) {
    qi__grammar_instr *jump = &c->at[chain - 1];
    size_t earlier = (size_t)jump->arg;
    jump->arg = (int32_t)(c->n - (chain - 1));
    chain = earlier;
  }
}

#define QI__GRAMMAR_ENDLESS UINT32_MAX

// What begins at `start` and ends the code becomes at least `least` and at most `most` (or ENDLESS) of it.
QI__FN void qi__grammar_repeat(qi__grammar_code *c, size_t start, uint32_t least, uint32_t most) {
  size_t len = c->n - start;
  bool endless = most == QI__GRAMMAR_ENDLESS;
  uint64_t copies = endless ? (least ? least : 1) : most;
  if (c->result) return;
  if (!copies) {
    c->n = start;
    return;
  }
  if (copies * (len + 1) > QI__GRAMMAR_MAX_CODE || !qi__grammar_reserve(c, (size_t)copies * (len + 1))) {
    if (!c->result) c->result = QI_ERR_LIMIT;
    return;
  }
  bool optional = least == 0;
  if (optional) qi__grammar_split_before(c, start, 0);
  size_t body = start + optional;
  for (uint64_t k = 1; k < copies; k++) {
    if (k >= least) qi__grammar_emit(c, QI__GRAMMAR_SPLIT, 0, 0, 0);
    memcpy(c->at + c->n, c->at + body, len * sizeof *c->at);
    c->n += len;
  }
  if (endless) {
    if (optional) c->at[start].arg++;
    if (optional) qi__grammar_emit(c, QI__GRAMMAR_JUMP, 0, 0, -(int64_t)(len + 1));
    else qi__grammar_emit(c, QI__GRAMMAR_SPLIT, 0, 0, -(int64_t)len);
    return;
  }
  size_t at = c->n - len; // the splits before optional copies lead to the end
  for (uint64_t k = copies; k-- > (least ? least : 1); at -= len + 1) c->at[at - 1].arg = (int32_t)(c->n - (at - 1));
  if (optional) c->at[start].arg = (int32_t)(c->n - start);
}

// ---- characters ----

// Bytes lo[0]..hi[0], lo[1]..hi[1], ...
typedef struct qi__byte_ranges {
  uint8_t n, lo[4], hi[4];
} qi__byte_ranges;

// The characters of a class, as alternatives; the last one is held back until it is known to be the last.
typedef struct qi__grammar_class {
  qi__grammar_code *code;
  qi__byte_ranges held;
  size_t chain;
} qi__grammar_class;

QI__FN void qi__grammar_emit_ranges(qi__grammar_code *c, const qi__byte_ranges *r) {
  for (unsigned i = 0; i < r->n; i++) qi__grammar_emit(c, QI__GRAMMAR_BYTE, r->lo[i], r->hi[i], 0);
}

// Characters lo..hi of n bytes each in UTF-8, where every byte runs through its range whatever the others are.
QI__FN void qi__grammar_put_ranges(qi__grammar_class *k, uint32_t lo, uint32_t hi, unsigned n) {
  if (k->held.n) {
    size_t start = k->code->n;
    qi__grammar_emit_ranges(k->code, &k->held);
    qi__grammar_or(k->code, start, &k->chain);
  }
  k->held.n = (uint8_t)n;
  for (unsigned i = n; i-- > 0; lo >>= 6, hi >>= 6) {
    unsigned lead = n == 1 ? 0 : i ? 0x80 : 0xF00u >> n & 0xFF, mask = n == 1 ? 0x7F : i ? 0x3F : 0x7Fu >> n;
    k->held.lo[i] = (uint8_t)(lead | (lo & mask));
    k->held.hi[i] = (uint8_t)(lead | (hi & mask));
  }
}

// Characters lo..hi, lo <= hi, no surrogates: cut where the number of bytes changes, and where a byte would not run through all of
// its values while one before it changes.
QI__FN void qi__grammar_put_chars(qi__grammar_class *k, uint32_t lo, uint32_t hi) {
  static const uint32_t last[] = {0x7F, 0x7FF, 0xFFFF, 0x10FFFF};
  while (lo <= hi) {
    unsigned n = 1;
    while (lo > last[n - 1]) n++;
    uint32_t end = hi < last[n - 1] ? hi : last[n - 1];
    for (unsigned i = n - 1; i > 0; i--) { // the coarsest cut first
      uint32_t m = ((uint32_t)1 << (6 * i)) - 1;
      if ((lo & ~m) == (end & ~m)) continue;
      if (lo & m) end = lo | m;
      else if ((end & m) != m) end = (end & ~m) - 1;
    }
    qi__grammar_put_ranges(k, lo, end, n);
    lo = end + 1;
  }
}

typedef struct qi__char_range {
  uint32_t lo, hi;
} qi__char_range;

// Writes a class of characters; ranges are sorted in place. False when no character is in it.
QI__FN bool qi__grammar_emit_class(qi__grammar_code *c, qi__char_range *ranges, size_t n, bool negated) {
  qi__grammar_class k = {c, {0, {0}, {0}}, 0};
  for (size_t i = 1; i < n; i++) { // few, and mostly in order
    qi__char_range r = ranges[i];
    size_t j = i;
    for (; j > 0 && ranges[j - 1].lo > r.lo; j--) ranges[j] = ranges[j - 1];
    ranges[j] = r;
  }
  uint32_t next = 0; // not looked at yet
  for (size_t i = 0; i <= n; i++) {
    uint32_t lo = i < n ? ranges[i].lo : 0x110000, hi = i < n ? ranges[i].hi : 0x110000;
    uint32_t from = negated ? next : lo > next ? lo : next, end = negated ? lo : i < n ? hi + 1 : next;
    // without surrogates, which are no characters
    if (from < end && from < 0xD800) qi__grammar_put_chars(&k, from, (end < 0xD800 ? end : 0xD800) - 1);
    if (from < end && end > 0xE000) qi__grammar_put_chars(&k, from > 0xE000 ? from : 0xE000, end - 1);
    if (i < n && hi + 1 > next) next = hi + 1;
  }
  bool any = k.held.n != 0;
  qi__grammar_emit_ranges(c, &k.held);
  qi__grammar_join(c, k.chain);
  return any;
}

// ---- programs ----

// Immutable when finished; the arrays are an arena's.
typedef struct qi__grammar_program {
  qi__grammar_instr *code;  // [n_code]
  size_t n_code, n_rules;
  uint32_t *start;          // [n_rules]
  uint8_t *nullable;        // [n_rules] can be empty
  uint32_t *rank;           // [n_rules] a rule that may begin with another has the lower rank
  uint32_t root;            // the rule of the whole text
  uint32_t n_classes;       // of bytes that no instruction tells apart
  uint8_t byte_class[256];
  uint8_t class_byte[256];  // [n_classes] one byte of each
} qi__grammar_program;

QI__FN void qi__grammar_program_layout(qi__grammar_program *p, qi__arena *arena) {
  p->code = QI__ARENA_ARRAY(arena, qi__grammar_instr, p->n_code);
  p->start = QI__ARENA_ARRAY(arena, uint32_t, p->n_rules);
  p->nullable = QI__ARENA_ARRAY(arena, uint8_t, p->n_rules);
  p->rank = QI__ARENA_ARRAY(arena, uint32_t, p->n_rules);
}

// Scratch for looking at a program.
typedef struct qi__grammar_scratch {
  uint8_t *mark;      // [n_code]
  uint32_t *work;     // [n_code]
  uint32_t *waiter;   // [n_code] next call that waits for the same rule, plus 1
  uint32_t *waiting;  // [n_rules] first of them, plus 1
  uint8_t *done;      // [n_rules]
} qi__grammar_scratch;

QI__FN void qi__grammar_scratch_layout(qi__grammar_scratch *s, qi__arena *arena, size_t n_code, size_t n_rules) {
  s->mark = QI__ARENA_ARRAY(arena, uint8_t, n_code);
  s->work = QI__ARENA_ARRAY(arena, uint32_t, n_code);
  s->waiter = QI__ARENA_ARRAY(arena, uint32_t, n_code);
  s->waiting = QI__ARENA_ARRAY(arena, uint32_t, n_rules);
  s->done = QI__ARENA_ARRAY(arena, uint8_t, n_rules);
}

QI__INLINE void qi__grammar_mark(qi__grammar_scratch *s, size_t *n_work, size_t pc) {
  if (s->mark[pc]) return;
  s->mark[pc] = 1;
  s->work[(*n_work)++] = (uint32_t)pc;
}

// Marks what can be reached from the beginning of its rule, without taking a byte or (bytes) with; done[r] = the end of rule r can.
// A call whose rule is not known to end waits until it is, so the time is that of the code.
QI__FN void qi__grammar_reach(const qi__grammar_program *p, qi__grammar_scratch *s, bool bytes) {
  size_t n_work = 0;
  memset(s->mark, 0, p->n_code);
  memset(s->done, 0, p->n_rules);
  memset(s->waiting, 0, p->n_rules * sizeof *s->waiting);
  for (size_t r = 0; r < p->n_rules; r++) qi__grammar_mark(s, &n_work, p->start[r]);
  while (n_work) {
    uint32_t pc = s->work[--n_work], r = (uint32_t)p->code[pc].arg;
    size_t target = (size_t)((int64_t)pc + p->code[pc].arg);
    switch (p->code[pc].op) {
    case QI__GRAMMAR_BYTE:
      if (bytes) qi__grammar_mark(s, &n_work, pc + 1);
      break;
    case QI__GRAMMAR_SPLIT: qi__grammar_mark(s, &n_work, pc + 1); // fallthrough
    case QI__GRAMMAR_JUMP: qi__grammar_mark(s, &n_work, target); break;
    case QI__GRAMMAR_CALL:
      if (s->done[r]) {
        qi__grammar_mark(s, &n_work, pc + 1);
      } else {
        s->waiter[pc] = s->waiting[r];
        s->waiting[r] = pc + 1;
      }
      break;
    case QI__GRAMMAR_RETURN:
      s->done[r] = 1;
      for (uint32_t w = s->waiting[r]; w; w = s->waiter[w - 1]) qi__grammar_mark(s, &n_work, w);
      s->waiting[r] = 0;
      break;
    }
  }
}

// Orders rules by who may begin with whom: every rule once, depth first, through the marked calls (those that qi__grammar_reach
// finds without bytes). Returns a rule that may begin with itself, or n_rules. Uses `waiting` as resume points, `work` as stack.
QI__FN size_t qi__grammar_order(qi__grammar_program *p, qi__grammar_scratch *s) {
  enum { NEW, OPEN, CLOSED };
  uint32_t rank = (uint32_t)p->n_rules;
  memset(s->done, NEW, p->n_rules);
  memcpy(s->waiting, p->start, p->n_rules * sizeof *s->waiting);
  for (size_t root = 0; root < p->n_rules; root++) {
    size_t depth = 0;
    if (s->done[root] != NEW) continue;
    s->done[root] = OPEN;
    s->work[depth++] = (uint32_t)root;
    while (depth) {
      uint32_t r = s->work[depth - 1];
      size_t pc = s->waiting[r]++;
      const qi__grammar_instr *i = &p->code[pc];
      if (i->op == QI__GRAMMAR_RETURN) {
        s->done[r] = CLOSED;
        p->rank[r] = --rank;
        depth--;
      } else if (i->op == QI__GRAMMAR_CALL && s->mark[pc]) {
        if (s->done[i->arg] == OPEN) return (size_t)i->arg;
        if (s->done[i->arg] == CLOSED) continue;
        s->done[i->arg] = OPEN;
        s->work[depth++] = (uint32_t)i->arg;
      }
    }
  }
  return p->n_rules;
}

// Jumps to jumps lead to where those lead (backwards they lead to splits, so one pass from the end does it); calls learn whether
// anything follows.
QI__FN void qi__grammar_thread(qi__grammar_program *p) {
  for (size_t pc = p->n_code; pc-- > 0;) {
    qi__grammar_instr *i = &p->code[pc];
    if (i->op == QI__GRAMMAR_SPLIT || i->op == QI__GRAMMAR_JUMP) {
      size_t target = (size_t)((int64_t)pc + i->arg);
      if (p->code[target].op == QI__GRAMMAR_JUMP) i->arg += p->code[target].arg;
    } else if (i->op == QI__GRAMMAR_CALL) {
      size_t next = pc + 1;
      if (p->code[next].op == QI__GRAMMAR_JUMP) next = (size_t)((int64_t)next + p->code[next].arg);
      i->lo = p->code[next].op == QI__GRAMMAR_RETURN;
    }
  }
}

QI__FN void qi__grammar_classify(qi__grammar_program *p) {
  bool begins[257] = {false};
  begins[0] = true;
  for (size_t pc = 0; pc < p->n_code; pc++)
    if (p->code[pc].op == QI__GRAMMAR_BYTE) begins[p->code[pc].lo] = begins[p->code[pc].hi + 1] = true;
  p->n_classes = 0;
  for (unsigned b = 0; b < 256; b++) {
    if (begins[b]) p->class_byte[p->n_classes++] = (uint8_t)b;
    p->byte_class[b] = (uint8_t)(p->n_classes - 1);
  }
}

#endif // QI__GRAMMAR_PROGRAM_H
