// Little texts from a village, made up by a grammar: tales, descriptions of things, conversations. The same seed gives the same
// bytes on every machine. tools/tales.c is the program; tests make their held-out text with it.
//
//   tales t;
//   tales_open(&t);
//   const char *text = tales_document(&t, seed, index);   // until the next call; "Tale: The Lost Bell\n...", ends with "\n\n"
//   tales_close(&t);
//
// Each document has its own people, things, places and season, which its sentences then agree about. Fields of templates:
//   people h, f, e   {h} name (the first time "Mira the baker", unless the alternative tells the trade), .he .him .his .self .man
//                    .child .trade .shop .doing .goods .tool .dust .trait
//   things o, g      {o} noun, .a "a small silver bell" (the second time "the silver bell"), .two "silver bell",
//                    .full "small silver bell", .the "the silver bell", .they .them .their .was .is .this .s (of verbs) .use
//                    .stuff .glimpse
//   places a, b, c   {a} "the mill", .at "at the mill", .spot "under the millstone"
//   animal n         {n} noun, .a .cried .took          season s   {s} name, .air .sign, .sky
//   time t           {t} "morning", .later .end         {v} village, {k} {k2} numbers, {mood}
#ifndef TALES_H
#define TALES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tales_drill.h"
#include "tales_plots.h"
#include "tales_talk.h"
#include "tales_words.h"

#define TALES_COUNT(a) (sizeof(a) / sizeof(a)[0])

enum { TALES_MAX_RULES = 512, TALES_MAX_LINES = 4096, TALES_MAX_TEXT = 1 << 14, TALES_MAX_WORD = 96 };

typedef struct tales_rule {
  const char *name; // without the =
  const char *const *lines;
  int n, first; // `first`: number of its first alternative among all
} tales_rule;

typedef struct tales_person {
  const char *name, *trait;
  const tales_trade *trade;
  bool woman;
} tales_person;

typedef struct tales_thing {
  const tales_object *object;
  char look[TALES_MAX_WORD], stuff[TALES_MAX_WORD];
} tales_thing;

typedef struct tales {
  tales_rule rules[TALES_MAX_RULES];
  int n_rules, n_lines;
  size_t cast; // 0, or the caller's: so many women's and men's names are used, half as many beginnings of village names, and a
               // quarter of their ends. Who is called what is then easier to learn for small models
  bool drill;  // of the caller: documents are exercises, see tales_drill.h
  // Of the document.
  uint64_t random;
  uint8_t used[TALES_MAX_LINES]; // alternatives that were taken
  tales_person people[3];
  tales_thing things[2];
  const tales_place *places[3];
  const tales_animal *animal;
  char animal_look[TALES_MAX_WORD], village[TALES_MAX_WORD];
  const tales_season *season;
  size_t time;
  int numbers[2];
  const char *mood;
  bool in_title;
  bool known_people[3], known_things[2], known_animal; // were spoken of
  char *text, *polished; // [TALES_MAX_TEXT] each
  size_t len;
} tales;

// ---- chance ----

// splitmix64
static uint64_t tales_next(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
// 0..n-1
static size_t tales_pick(tales *t, size_t n) { return (size_t)(((tales_next(&t->random) >> 32) * (uint64_t)n) >> 32); }

// ---- expanding templates ----

static void tales_expand(tales *t, const char *s, const char *end);

static void tales_put(tales *t, const char *s, size_t n) {
  if (t->len + n >= TALES_MAX_TEXT) return;
  memcpy(t->text + t->len, s, n);
  t->len += n;
}
static void tales_say(tales *t, const char *s) { tales_expand(t, s, s + strlen(s)); }

// A template expanded into a word that stays.
static void tales_fix(tales *t, const char *s, char word[TALES_MAX_WORD]) {
  size_t at = t->len;
  tales_say(t, s);
  size_t n = t->len - at < TALES_MAX_WORD - 1 ? t->len - at : TALES_MAX_WORD - 1;
  memcpy(word, t->text + at, n);
  word[n] = 0;
  t->len = at;
}

// Number of the person that a letter stands for.
static int tales_number(char who) { return who == 'h' ? 0 : who == 'f' ? 1 : 2; }

// An alternative may begin with ~ and letters of people and things who must have been spoken of: "~f {f} winked."
static bool tales_allowed(const tales *t, const char *line) {
  if (*line != '~') return true;
  for (const char *p = line + 1; *p != ' '; p++) {
    const char *who = strchr("hfe", *p);
    if (!(who ? t->known_people[tales_number(*who)] : t->known_things[0])) return false;
  }
  return true;
}

// One alternative of the rule; those not used yet first.
static void tales_apply(tales *t, const char *name, size_t len) {
  const tales_rule *r = t->rules;
  while (r < t->rules + t->n_rules && (strncmp(r->name, name, len) != 0 || r->name[len])) r++;
  if (r == t->rules + t->n_rules) {
    tales_put(t, "?", 1); // a mistake in the grammar: test_train looks for it
    return;
  }
  int n_allowed = 0, n_fresh = 0, at = 0;
  for (int i = 0; i < r->n; i++) {
    bool allowed = tales_allowed(t, r->lines[i]);
    n_allowed += allowed;
    n_fresh += allowed && !t->used[r->first + i];
  }
  if (!n_allowed) return;
  int k = (int)tales_pick(t, (size_t)(n_fresh ? n_fresh : n_allowed));
  for (int i = 0; i < r->n; i++) {
    if (!tales_allowed(t, r->lines[i]) || (n_fresh && t->used[r->first + i])) continue;
    at = i;
    if (!k--) break;
  }
  t->used[r->first + at] = 1;
  const char *line = r->lines[at];
  tales_say(t, *line == '~' ? strchr(line, ' ') + 1 : line);
}

// `rest`: the template behind the field.
static void tales_person_field(tales *t, const tales_person *p, const char *f, const char *rest) {
  static const char *const words[][3] = {{"he", "he", "she"},        {"him", "him", "her"},     {"his", "his", "her"},
                                         {"self", "himself", "herself"}, {"man", "man", "woman"}, {"child", "boy", "girl"}};
  for (size_t i = 0; i < TALES_COUNT(words); i++)
    if (!strcmp(f, words[i][0])) tales_say(t, words[i][p->woman ? 2 : 1]);
  bool *known = &t->known_people[p - t->people];
  if (!*f) {
    char trade[16] = "{h.trade}";
    trade[1] = "hfe"[p - t->people];
    tales_say(t, p->name);
    if (!*known && !t->in_title && !strstr(rest, trade)) tales_say(t, " the "), tales_say(t, p->trade->name);
  }
  if ((!*f || !strcmp(f, "trade")) && !t->in_title) *known = true;
  if (!strcmp(f, "trade")) tales_say(t, p->trade->name);
  else if (!strcmp(f, "shop")) tales_say(t, p->trade->shop);
  else if (!strcmp(f, "doing")) tales_say(t, p->trade->doing);
  else if (!strcmp(f, "goods")) tales_say(t, p->trade->goods);
  else if (!strcmp(f, "tool")) tales_say(t, p->trade->tool);
  else if (!strcmp(f, "dust")) tales_say(t, p->trade->dust);
  else if (!strcmp(f, "trait")) tales_say(t, p->trait);
}

static void tales_thing_field(tales *t, const tales_thing *x, const char *f) {
  static const char *const words[][3] = {{"they", "it", "they"}, {"them", "it", "them"},    {"their", "its", "their"},
                                         {"was", "was", "were"}, {"is", "is", "are"}, {"this", "this", "these"}, {"s", "s", ""}};
  for (size_t i = 0; i < TALES_COUNT(words); i++)
    if (!strcmp(f, words[i][0])) tales_say(t, words[i][x->object->pair ? 2 : 1]);
  bool *known = &t->known_things[x - t->things];
  if (!strcmp(f, "a") && *known) f = "the";
  if ((!strcmp(f, "a") || !strcmp(f, "two")) && !t->in_title) *known = true;
  if (!strcmp(f, "use")) tales_say(t, x->object->use);
  else if (!strcmp(f, "stuff")) tales_say(t, tales_stuff_names[x->object->stuff]);
  else if (!strcmp(f, "glimpse"))
    tales_say(t, x->object->stuff == TALES_METAL || x->object->stuff == TALES_GLASS ? "shiny" : "strange");
  if (!strcmp(f, "a")) tales_say(t, x->object->pair ? "a pair of " : "a ");
  if (!strcmp(f, "the")) tales_say(t, "the ");
  if (!strcmp(f, "a") || !strcmp(f, "full")) tales_say(t, x->look), tales_say(t, " ");
  if (!strcmp(f, "a") || !strcmp(f, "full") || !strcmp(f, "two") || !strcmp(f, "the")) tales_say(t, x->stuff), tales_say(t, " ");
  if (!*f || !strcmp(f, "a") || !strcmp(f, "full") || !strcmp(f, "two") || !strcmp(f, "the")) tales_say(t, x->object->noun);
}

static void tales_place_field(tales *t, const tales_place *p, const char *f) {
  if (!strcmp(f, "spot")) tales_say(t, p->spot);
  if (!strcmp(f, "at")) tales_say(t, p->at), tales_say(t, " ");
  if (!*f || !strcmp(f, "at")) tales_say(t, p->name);
}

static void tales_other_field(tales *t, char kind, const char *f) {
  static const char *const numbers[] = {"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"};
  switch (kind) {
  case 'v': tales_say(t, t->village); break;
  case 'm': tales_say(t, t->mood); break;
  case 'k': tales_say(t, numbers[t->numbers[*f == '2']]); break;
  case 't': tales_say(t, !*f ? tales_begins[t->time] : !strcmp(f, "end") ? tales_ends[t->time] : tales_laters[t->time]); break;
  case 'n':
    if (!strcmp(f, "a") && !t->known_animal) tales_say(t, "a "), tales_say(t, t->animal_look), tales_say(t, " ");
    else if (!strcmp(f, "a")) tales_say(t, "the ");
    t->known_animal |= !strcmp(f, "a");
    tales_say(t, !strcmp(f, "cried") ? t->animal->cried : !strcmp(f, "took") ? t->animal->took : t->animal->noun);
    break;
  case 's':
    if (!strcmp(f, "sky")) tales_say(t, "$sky_{s}");
    else tales_say(t, !*f ? t->season->name : !strcmp(f, "air") ? t->season->air : t->season->sign);
    break;
  default: tales_put(t, "?", 1);
  }
}

static void tales_field(tales *t, const char *s, size_t len) {
  char field[16] = "";
  const char *f = "";
  memcpy(field, s, len < sizeof field ? len : sizeof field - 1);
  if (field[1] == '.') f = field + 2;
  else if (field[0] == 'k') f = field + 1;
  switch (field[0]) {
  case 'h': tales_person_field(t, &t->people[0], f, s + len); break;
  case 'f': tales_person_field(t, &t->people[1], f, s + len); break;
  case 'e': tales_person_field(t, &t->people[2], f, s + len); break;
  case 'o': tales_thing_field(t, &t->things[0], f); break;
  case 'g': tales_thing_field(t, &t->things[1], f); break;
  case 'a':
  case 'b':
  case 'c': tales_place_field(t, t->places[field[0] - 'a'], f); break;
  default: tales_other_field(t, field[0], f);
  }
}

// One of the alternatives of [a|b|...], which begins at s; returns what is behind it.
static const char *tales_choose(tales *t, const char *s, const char *end) {
  const char *begins[64], *close = s;
  size_t n = 0;
  int depth = 0;
  for (; close < end; close++) {
    if (*close == '[' && depth++ == 0) begins[n++] = close + 1;
    if (*close == '|' && depth == 1 && n < 63) begins[n++] = close + 1;
    if (*close == ']' && --depth == 0) break;
  }
  begins[n] = close + 1;
  size_t k = tales_pick(t, n);
  tales_expand(t, begins[k], begins[k + 1] - 1);
  return close + 1;
}

// $rule; its name may have fields in it. Returns what is behind it.
static const char *tales_call(tales *t, const char *s, const char *end) {
  size_t at = t->len;
  const char *p = s + 1;
  while (p < end && ((*p >= 'a' && *p <= 'z') || *p == '_' || *p == '{')) {
    const char *close = *p == '{' ? strchr(p, '}') : p;
    if (*p == '{') tales_field(t, p + 1, (size_t)(close - p - 1));
    else tales_put(t, p, 1);
    p = close + 1;
  }
  char name[64];
  size_t len = t->len - at < sizeof name ? t->len - at : sizeof name - 1;
  memcpy(name, t->text + at, len);
  name[len] = 0;
  t->len = at;
  // Behind !" and ?" a sentence may go on; not here.
  if (at > 1 && t->text[at - 1] == ' ' && t->text[at - 2] == '"') tales_put(t, "^", 1);
  tales_apply(t, name, len);
  return p;
}

// The field at s; returns what is behind it. "{f} the {f.trade}" is only the name of someone who was spoken of before.
static const char *tales_use_field(tales *t, const char *s) {
  const char *close = strchr(s, '}'), *who = close == s + 2 ? strchr("hfe", s[1]) : NULL;
  bool again = who && t->known_people[tales_number(*who)] && !t->in_title;
  tales_field(t, s + 1, (size_t)(close - s - 1));
  char trade[] = " the {h.trade}";
  if (who) trade[6] = *who;
  return close + 1 + (again && !strncmp(close + 1, trade, strlen(trade)) ? strlen(trade) : 0);
}

static void tales_expand(tales *t, const char *s, const char *end) {
  while (s < end) {
    if (*s == '[') s = tales_choose(t, s, end);
    else if (*s == '$') s = tales_call(t, s, end);
    else if (*s == '{') s = tales_use_field(t, s);
    else tales_put(t, s++, 1);
  }
}

// ---- spelling ----

static bool tales_is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static char tales_upper(char c) { return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c; }

// Whether a word takes "an".
static bool tales_takes_an(const char *word) {
  static const char *const with_a[] = {"one", "use", "uni"}, *const with_an[] = {"hour", "honest"};
  for (size_t i = 0; i < TALES_COUNT(with_a); i++)
    if (!strncmp(word, with_a[i], 3)) return false;
  for (size_t i = 0; i < TALES_COUNT(with_an); i++)
    if (!strncmp(word, with_an[i], strlen(with_an[i]))) return true;
  return *word && strchr("aeiouAEIOU", *word);
}

// Articles and capitals. A sentence begins at a line's start, behind . ! ? and where a quotation begins, unless it goes on one from
// before: "Come," she said, "and see." Behind !" and ?" it may go on; a ^ says that it does not.
static const char *tales_polish(tales *t) {
  char *out = t->polished;
  bool capital = true, inside = false, goes_on = false, speaker = false; // of lines "Mira: ..."
  t->text[t->len] = 0;
  for (const char *s = t->text; *s; s++) {
    char c = *s, before = out > t->polished ? out[-1] : '\n';
    if (c == '^') {
      capital = true;
      continue;
    }
    if (c == '(') while (*s != ')') *out++ = *s++; // (yawns)
    if (c == '"') {
      inside = !inside;
      if (inside) capital = capital || !goes_on;
      else if (before == ',') goes_on = true;
      else if (before == '.') capital = true, goes_on = false;
      else capital = false;
    } else if (c == '\n' || (s > t->text && (before == '.' || before == '!' || before == '?') && c == ' ')) {
      if (c == '\n' || before != '"') capital = true, goes_on = false;
    }
    c = *s;
    if (c == ' ' && s[1] == '\n') continue;
    *out++ = tales_is_letter(c) && capital ? tales_upper(c) : c;
    if (tales_is_letter(c) || (c >= '0' && c <= '9')) capital = false;
    if (c == '\n') speaker = t->mood != NULL;
    if (c == ':' && speaker) capital = true, speaker = false;
    bool article = (c == 'a' || c == 'A') && s[1] == ' ' && !tales_is_letter(before) && before != '\'';
    if (article && tales_takes_an(s + 2)) *out++ = 'n';
  }
  *out = 0;
  return t->polished;
}

// Capitals for the words of a title but the small ones: what stands in the text from `at` on.
static void tales_capitalise(tales *t, size_t at) {
  static const char *const small[] = {"the ", "of ", "and ", "in ", "at ", "a ", "to ", "that ", "who ", "his ", "her ", "by "};
  for (size_t i = at; i < t->len; i++) {
    if (i > at && t->text[i - 1] != ' ') continue;
    bool is_small = false;
    t->text[t->len] = 0;
    for (size_t k = 0; k < TALES_COUNT(small); k++) is_small |= i > at && !strncmp(t->text + i, small[k], strlen(small[k]));
    if (!is_small) t->text[i] = tales_upper(t->text[i]);
  }
}

// ---- documents ----

static void tales_thing_choose(tales *t, tales_thing *x, bool single) {
  do x->object = &tales_objects[tales_pick(t, TALES_COUNT(tales_objects))];
  while ((single && x->object->pair) || (x != t->things && x->object == t->things[0].object));
  tales_fix(t, tales_looks[x->object->stuff], x->look);
  tales_fix(t, tales_stuffs[x->object->stuff], x->stuff);
}

// How many of n words are used.
static size_t tales_some(const tales *t, size_t n, size_t part) { return t->cast && t->cast / part < n ? t->cast / part : n; }

// Who and what the document is about; no one and nothing twice.
static void tales_cast(tales *t, bool single) {
  for (int i = 0; i < 3; i++) {
    tales_person *p = &t->people[i];
    bool again;
    do {
      p->woman = tales_pick(t, 2);
      p->name = p->woman ? tales_women[tales_pick(t, tales_some(t, TALES_COUNT(tales_women), 1))]
                         : tales_men[tales_pick(t, tales_some(t, TALES_COUNT(tales_men), 1))];
      p->trade = &tales_trades[tales_pick(t, TALES_COUNT(tales_trades))];
      p->trait = tales_traits[tales_pick(t, TALES_COUNT(tales_traits))];
      t->places[i] = &tales_places[tales_pick(t, TALES_COUNT(tales_places))];
      again = false;
      for (int k = 0; k < i; k++) {
        const tales_person *q = &t->people[k];
        again |= p->name == q->name || p->trade == q->trade || p->trait == q->trait || t->places[i] == t->places[k];
      }
    } while (again);
  }
  tales_thing_choose(t, &t->things[0], single);
  tales_thing_choose(t, &t->things[1], true);
  t->animal = &tales_animals[tales_pick(t, TALES_COUNT(tales_animals))];
  tales_fix(t, t->animal->look, t->animal_look);
  t->season = &tales_seasons[tales_pick(t, TALES_COUNT(tales_seasons))];
  t->time = tales_pick(t, TALES_COUNT(tales_begins));
  t->numbers[0] = 1 + (int)tales_pick(t, 10);
  t->numbers[1] = (int)tales_pick(t, (size_t)t->numbers[0]);
  const char *head = tales_village_heads[tales_pick(t, tales_some(t, TALES_COUNT(tales_village_heads), 2))];
  const char *tail = tales_village_tails[tales_pick(t, tales_some(t, TALES_COUNT(tales_village_tails), 4))];
  size_t n = strlen(head);
  memcpy(t->village, head, n);
  memcpy(t->village + n, tail, strlen(tail) + 1);
}

static void tales_tale(tales *t) {
  static const char *const plots[] = {"lost", "lost", "thief", "storm", "quarrel", "contest", "repair", "ghost",
                                      "stranger", "swap", "apprentice", "journey", "promise", "riddle", "animal"};
  const char *plot = plots[tales_pick(t, TALES_COUNT(plots))];
  char template_text[64];
  if (!strcmp(plot, "apprentice")) { // {h} learns what {e} is
    t->people[0].trade = t->people[2].trade;
    t->known_people[0] = true;
  }
  tales_put(t, "Tale: ", 6);
  t->in_title = true;
  size_t at = t->len, n = strlen(plot);
  memcpy(template_text, "$title_", 7);
  memcpy(template_text + 7, plot, n + 1);
  tales_say(t, template_text);
  t->in_title = false;
  tales_capitalise(t, at);
  tales_put(t, "\n", 1);
  memcpy(template_text, "$tale_", 6);
  memcpy(template_text + 6, plot, n + 1);
  tales_say(t, template_text);
}

static void tales_item(tales *t) {
  tales_put(t, "Item: ", 6);
  size_t at = t->len;
  t->in_title = true;
  tales_say(t, "$item_title");
  t->in_title = false;
  tales_capitalise(t, at);
  tales_say(t, "\n$item");
}

static void tales_exercise(tales *t) {
  for (int i = 0; i < 12; i++) tales_say(t, i % 6 ? " $drill" : i ? "\n$drill" : "$drill");
}

static void tales_conversation(tales *t) {
  t->mood = tales_moods[tales_pick(t, TALES_COUNT(tales_moods))];
  tales_say(t, "Talk: {h} the {h.trade}, {mood}\n");
  tales_say(t, "$talk");
}

// Document number `index` of a corpus: half of them tales, a quarter each things and conversations.
static const char *tales_document(tales *t, uint64_t seed, uint64_t index) {
  t->random = seed * 0x9e3779b97f4a7c15u ^ (index + 1) * 0xd6e8feb86659fd93u;
  tales_next(&t->random);
  memset(t->used, 0, sizeof t->used);
  memset(t->known_people, 0, sizeof t->known_people);
  memset(t->known_things, 0, sizeof t->known_things);
  t->known_animal = t->in_title = false;
  t->mood = NULL;
  t->len = 0;
  size_t kind = tales_pick(t, 4);
  tales_cast(t, kind == 2);
  if (t->drill) tales_exercise(t);
  else if (kind < 2) tales_tale(t);
  else if (kind == 2) tales_item(t);
  else tales_conversation(t);
  tales_put(t, "\n\n", 2);
  return tales_polish(t);
}

static void tales_index(tales *t, const char *const *lines, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (lines[i][0] == '=' && t->n_rules < TALES_MAX_RULES) {
      t->rules[t->n_rules++] = (tales_rule){lines[i] + 1, lines + i + 1, 0, t->n_lines};
    } else if (t->n_lines < TALES_MAX_LINES) {
      t->rules[t->n_rules - 1].n++;
      t->n_lines++;
    }
  }
}

// False when there is no memory.
static bool tales_open(tales *t) {
  memset(t, 0, sizeof *t);
  tales_index(t, tales_plots, TALES_COUNT(tales_plots));
  tales_index(t, tales_talk, TALES_COUNT(tales_talk));
  tales_index(t, tales_drill, TALES_COUNT(tales_drill));
  t->text = (char *)malloc(2 * TALES_MAX_TEXT);
  t->polished = t->text ? (char *)malloc(2 * TALES_MAX_TEXT) : NULL;
  return t->polished != NULL;
}

static void tales_close(tales *t) {
  free(t->text);
  free(t->polished);
}

#endif // TALES_H
