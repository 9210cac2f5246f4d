// ==== >>grammar : what text may be, compiled ====
#ifndef QI__GRAMMAR_H
#define QI__GRAMMAR_H

#include "../model/model.h"
#include "grammar_schema.h"
#include "text.h"
#include "token_trie.h"

#define QI__CHOICES_MAX (1 << 16)

// Immutable once open.
struct qi_grammar {
  qi__grammar_program program;
  qi__token_trie *trie;
  const qi_model *model;
  qi_allocator allocator;
  size_t bytes;
};

// ---- programs ----

QI__FN qi_grammar *qi__grammar_layout(qi__arena *arena, qi__grammar_program *p) {
  qi_grammar *g = QI__ARENA_ARRAY(arena, qi_grammar, 1);
  qi__grammar_program_layout(p, arena);
  if (!g) return NULL;
  memset(g, 0, sizeof *g);
  return g;
}

// Refuses rules that begin with themselves before any byte (nothing would ever be taken) and rules that no text ends.
QI__FN qi_result qi__grammar_check(qi__grammar_parser *parser, qi__grammar_program *p, qi__grammar_scratch *s) {
  qi__grammar_reach(p, s, true);
  for (size_t r = 0; r < p->n_rules; r++)
    if (!s->done[r]) {
      const qi__grammar_rule *rule = &parser->rules.at[r];
      qi__grammar_fail(parser, rule->name, QI_ERR_FORMAT, "rule %s never ends: each of its alternatives needs it again",
                       qi__show(parser->text + rule->name, rule->len).s);
    }
  qi__grammar_reach(p, s, false);
  memcpy(p->nullable, s->done, p->n_rules);
  size_t left = qi__grammar_order(p, s);
  if (left < p->n_rules) {
    const qi__grammar_rule *rule = &parser->rules.at[left];
    qi__grammar_fail(parser, rule->name, QI_ERR_FORMAT, "rule %s may begin with itself (left recursion)",
                     qi__show(parser->text + rule->name, rule->len).s);
  }
  return parser->result;
}

// A finished parser's code as a grammar.
QI__FN qi_result qi__grammar_build(qi_grammar **out, qi__grammar_parser *parser, uint32_t root, qi_error *err) {
  const qi_allocator *a = parser->code.allocator;
  qi__grammar_program p;
  memset(&p, 0, sizeof p);
  p.n_code = parser->code.n;
  p.n_rules = parser->rules.n;
  p.root = root;
  qi__arena arena = {0}, temp = {0};
  qi__grammar_scratch scratch;
  qi__grammar_layout(&arena, &p);
  qi__grammar_scratch_layout(&scratch, &temp, p.n_code, p.n_rules);
  qi_result r = qi__arena_open(&arena, a, "grammar", err);
  if (!r) r = qi__arena_open(&temp, a, "grammar", err);
  if (!r) {
    qi_grammar *g = qi__grammar_layout(&arena, &p);
    qi__grammar_scratch_layout(&scratch, &temp, p.n_code, p.n_rules);
    memcpy(p.code, parser->code.at, p.n_code * sizeof *p.code);
    for (size_t i = 0; i < p.n_rules; i++) p.start[i] = parser->rules.at[i].start;
    r = qi__grammar_check(parser, &p, &scratch);
    qi__grammar_thread(&p);
    qi__grammar_classify(&p);
    g->program = p;
    g->allocator = *a;
    g->bytes = arena.size;
    if (!r) *out = g;
  }
  qi__arena_close(&temp, a);
  if (r) qi__arena_close(&arena, a);
  return r;
}

QI__FN qi_result qi__grammar_from_gbnf(qi_grammar **out, const char *text, size_t len, const qi_allocator *a, qi_error *err) {
  qi__grammar_parser parser;
  uint32_t root = 0;
  qi_result r = qi__grammar_parser_init(&parser, text, len, a, err);
  if (!r) r = qi__grammar_parse(&parser, &root);
  if (!r) r = qi__grammar_build(out, &parser, root, err);
  qi__grammar_parser_free(&parser);
  return r;
}

QI__FN qi_result qi__grammar_from_schema(qi_grammar **out, const char *text, size_t len, const qi_allocator *a, qi_error *err) {
  size_t n = 0;
  qi_result r = qi__schema_to_gbnf(text, len, a, NULL, 0, &n, err);
  if (r) return r;
  char *gbnf = (char *)qi__alloc(a, n, 1);
  if (!gbnf) return qi__fail_oom(err, "json_schema", n);
  r = qi__schema_to_gbnf(text, len, a, gbnf, n, &n, err);
  if (!r) {
    r = qi__grammar_from_gbnf(out, gbnf, n, a, err);
    if (r) qi__fail_prefix(err, "json_schema, in what qi_json_schema_gbnf gives: ");
  }
  qi__free(a, gbnf, n);
  return r;
}

// One of n texts: one rule of alternatives.
QI__FN qi_result qi__grammar_from_choices(qi_grammar **out, const char *const *choices, int n, const qi_allocator *a,
                                          qi_error *err) {
  static const char name[] = "root ::= ";
  qi__grammar_parser parser;
  size_t chain = 0;
  if (n < 1 || n > QI__CHOICES_MAX)
    return qi__fail(err, n < 1 ? QI_ERR_ARGUMENT : QI_ERR_LIMIT, "grammar: n_choices is %d, expected 1 to %d", n, QI__CHOICES_MAX);
  qi_result r = qi__grammar_parser_init(&parser, name, sizeof name - 1, a, err);
  if (!r) qi__grammar_name(&parser);
  for (int i = 0; i < n && !r; i++) {
    size_t start = parser.code.n, len = choices[i] ? strlen(choices[i]) : 0;
    if (!len) r = qi__fail(err, QI_ERR_ARGUMENT, "grammar: choices[%d] is %s", i, choices[i] ? "empty" : "NULL");
    else if (!qi__utf8_valid(choices[i], len)) r = qi__fail(err, QI_ERR_ARGUMENT, "grammar: choices[%d] is not UTF-8", i);
    if (r) break;
    qi__grammar_emit_text(&parser.code, choices[i], len);
    if (i + 1 < n) qi__grammar_or(&parser.code, start, &chain);
    if (parser.code.result == QI_ERR_LIMIT)
      r = qi__fail(err, QI_ERR_LIMIT, "grammar: choices of more than some %zu bytes", QI__GRAMMAR_MAX_CODE);
    else if (parser.code.result)
      r = qi__fail_oom(err, "grammar: choices", parser.code.cap * 2 * sizeof *parser.code.at);
  }
  if (!r) {
    qi__grammar_join(&parser.code, chain);
    qi__grammar_emit(&parser.code, QI__GRAMMAR_RETURN, 0, 0, 0);
    r = qi__grammar_sound(&parser) ? qi__grammar_build(out, &parser, 0, err) : parser.result;
  }
  qi__grammar_parser_free(&parser);
  return r;
}

// ---- open and close ----

QI__FN void qi__grammar_close(qi_grammar *g) {
  if (!g) return;
  qi_allocator a = g->allocator;
  qi__trie_close(g->trie);
  qi__free(&a, g, g->bytes);
}

QI__FN qi_result qi__grammar_open(qi_grammar **out, const qi_model *m, const qi_grammar_desc *d, qi_error *err) {
  qi_allocator a;
  qi_grammar *g = NULL;
  int n_sources = (d->gbnf != NULL) + (d->json_schema != NULL) + (d->choices != NULL);
  if (n_sources != 1)
    return qi__fail(err, QI_ERR_ARGUMENT, "grammar: %d of gbnf, json_schema, choices given, expected one", n_sources);
  if (d->share && d->share->model != m) return qi__fail(err, QI_ERR_ARGUMENT, "grammar: share is of another model");
  qi_result r = qi__allocator_resolve(d->allocator.alloc || d->allocator.free ? &d->allocator : &m->allocator, &a, err);
  if (r) return r;
  if (d->gbnf) r = qi__grammar_from_gbnf(&g, d->gbnf, d->len ? d->len : strlen(d->gbnf), &a, err);
  else if (d->json_schema) r = qi__grammar_from_schema(&g, d->json_schema, d->len ? d->len : strlen(d->json_schema), &a, err);
  else r = qi__grammar_from_choices(&g, d->choices, d->n_choices, &a, err);
  if (r) return r;
  g->model = m;
  if (d->share) {
    g->trie = d->share->trie;
    __atomic_add_fetch(&g->trie->refs, 1, __ATOMIC_RELAXED);
  } else {
    r = qi__trie_open(&g->trie, &m->vocab, &a, err);
  }
  if (r) qi__grammar_close(g);
  else *out = g;
  return r;
}

#endif // QI__GRAMMAR_H
