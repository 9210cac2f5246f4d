// ==== >>pretokenize : splitting text into words before byte-pair encoding ====
#ifndef QI__PRETOKENIZE_H
#define QI__PRETOKENIZE_H

#include "unicode.h"

// Models say which regular expressions cut text into words; merges never cross a cut. The expressions (those in llama.cpp's
// src/llama-vocab.cpp) are applied one after another: each splits every piece of the one before into its matches and what lies
// between them. Here each is a small matcher without backtracking; nothing looks beyond the piece that it is in, and no byte is
// read more than a few times, whatever the text.

// ---- sets of characters ----

typedef struct qi__char_set {
  unsigned classes;        // all characters of these classes,
  const char *ascii;       // these,
  const uint32_t (*ranges)[2]; // and these; ascending
  size_t n_ranges;
  bool negate;             // then: all others
} qi__char_set;

static const uint32_t qi__ranges_digit[][2] = {{'0', '9'}};
static const uint32_t qi__ranges_cjk[][2] = {{0x0800, 0x9FA5}, {0xAC00, 0xD7FF}};
static const uint32_t qi__ranges_cjk_kana[][2] = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};
static const uint32_t qi__ranges_punct[][2] = {{0x21, 0x2F}, {0x3A, 0x7E}, {0x2018, 0x201F}, {0x3000, 0x3002},
                                               {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
static const uint32_t qi__ranges_stop[][2] = {{0x60C, 0x60C}, {0x6D4, 0x6D4}, {0x964, 0x964}, {0x2026, 0x2026},
                                              {0x3001, 0x3002}, {0xFF0C, 0xFF0C}};
// Letters of alphabets with two cases, as deepseek-llm lists them.
static const uint32_t qi__ranges_cased[][2] = {
    {0x41, 0x5A}, {0x61, 0x7A}, {0xB5, 0xB5}, {0xC0, 0xD6}, {0xD8, 0xF6}, {0xF8, 0x1BA}, {0x1BC, 0x1BF}, {0x1C4, 0x293},
    {0x295, 0x2AF}, {0x370, 0x373}, {0x376, 0x377}, {0x37B, 0x37D}, {0x37F, 0x37F}, {0x386, 0x386}, {0x388, 0x38A},
    {0x38C, 0x38C}, {0x38E, 0x3A1}, {0x3A3, 0x3F5}, {0x3F7, 0x481}, {0x48A, 0x52F}, {0x531, 0x556}, {0x10A0, 0x10C5},
    {0x13A0, 0x13F5}, {0x13F8, 0x13FD}, {0x1C90, 0x1CBA}, {0x1CBD, 0x1CBF}, {0x1D00, 0x1D2B}, {0x1D6B, 0x1D77},
    {0x1D79, 0x1D9A}, {0x1E00, 0x1F15}, {0x1F18, 0x1F1D}, {0x1F20, 0x1F45}, {0x1F48, 0x1F4D}, {0x1F50, 0x1F57},
    {0x1F59, 0x1F59}, {0x1F5B, 0x1F5B}, {0x1F5D, 0x1F5D}, {0x1F5F, 0x1F7D}, {0x1F80, 0x1FB4}, {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE}, {0x1FC2, 0x1FC4}, {0x1FC6, 0x1FCC}, {0x1FD0, 0x1FD3}, {0x1FD6, 0x1FDB}, {0x1FE0, 0x1FEC},
    {0x1FF2, 0x1FF4}, {0x1FF6, 0x1FFC}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210A, 0x2113}, {0x2115, 0x2115},
    {0x2119, 0x211D}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128}, {0x212A, 0x212D}, {0x212F, 0x2134},
    {0x2139, 0x2139}, {0x213C, 0x213F}, {0x2145, 0x2149}, {0x214E, 0x214E}, {0x2183, 0x2184}, {0x2C00, 0x2C7B},
    {0x2C7E, 0x2CE4}, {0x2CEB, 0x2CEE}, {0x2CF2, 0x2CF3}, {0xA640, 0xA66D}, {0xA680, 0xA69B}, {0xA722, 0xA76F},
    {0xA771, 0xA787}, {0xA78B, 0xA78E}, {0xAB70, 0xABBF}, {0xFB00, 0xFB06}, {0xFB13, 0xFB17}, {0xFF21, 0xFF3A},
    {0xFF41, 0xFF5A}, {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2},
    {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};

#define QI__RANGES(table) table, QI__COUNT_OF(table)

QI__FN bool qi__in_ranges(const uint32_t (*ranges)[2], size_t n, uint32_t cp) {
  size_t lo = 0, hi = n;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (cp < ranges[mid][0]) hi = mid;
    else if (cp > ranges[mid][1]) lo = mid + 1;
    else return true;
  }
  return false;
}

QI__FN bool qi__in_set(const qi__char_set *set, qi__char c) {
  if (!c.size) return false;
  bool in = (c.cls & set->classes) != 0;
  if (!in && set->ascii && c.cp && c.cp < 0x80) in = strchr(set->ascii, (int)c.cp) != NULL;
  if (!in) in = qi__in_ranges(set->ranges, set->n_ranges, c.cp);
  return in != set->negate;
}

// ---- expressions ----

typedef enum qi__split_kind {
  QI__SPLIT_RUN,       // prefix?[set]{min,max}
  QI__SPLIT_TRAILING,  // \s+$
  QI__SPLIT_GPT2,      // the expression of GPT-2
  QI__SPLIT_GPT4,      // that of GPT-4 and Llama 3
  QI__SPLIT_CASE,      // that of GPT-4o and Tekken: upper case begins a word
  QI__SPLIT_DEEPSEEK3
} qi__split_kind;

typedef struct qi__splitter {
  qi__split_kind kind;
  unsigned letters;    // GPT4: classes of characters that words are made of
  size_t min, max;     // RUN: length in characters. GPT4, CASE: `max` digits go together
  char prefix;         // RUN: ' ' a blank, 's' any white space, 0 none
  bool suffix;         // CASE: 's and its like belong to the word
  qi__char_set set;    // RUN
} qi__splitter;

#define QI__MANY SIZE_MAX

// Numbers of the rows of qi__splitters; 0 ends a list.
enum {
  QI__S_END,
  QI__S_NEWLINE,       // [\r\n]
  QI__S_DIGIT,         // \p{N}
  QI__S_DIGITS,        // \p{N}+
  QI__S_DIGITS_1_3,    // \p{N}{1,3}
  QI__S_ASCII_DIGITS_3, // [0-9][0-9][0-9]
  QI__S_LETTERS,       // \s?\p{L}+
  QI__S_PUNCTS,        // \s?\p{P}+
  QI__S_CASED,         // \s?[A-Za-z and other alphabets with two cases]+
  QI__S_SIGNS,         // \s?[ASCII, full-width and CJK punctuation]+
  QI__S_CJK,           // [CJK, Hangul and all from U+0800]+
  QI__S_CJK_KANA,      // [CJK and kana]+
  QI__S_PUNCT_RUN,     // [\p{P}\$\+<=>\^~\|]+
  QI__S_PUNCT_RUN_TICK, // [\p{P}\$\+<=>\^~\|`]+
  QI__S_BLOOM,         //  ?[^(\s|.,!?...]+
  QI__S_TRAILING,
  QI__S_GPT2,
  QI__S_GPT4,
  QI__S_GPT4_DIGIT,    // with single digits (Qwen 2)
  QI__S_GPT4_MARKS,    // and with marks in words (Qwen 3.5)
  QI__S_TEKKEN,
  QI__S_GPT4O,
  QI__S_DEEPSEEK3
};

#define QI__RUN(prefix, min, max, classes, ascii, ...) {QI__SPLIT_RUN, 0, min, max, prefix, false, {classes, ascii, __VA_ARGS__}}

static const qi__splitter qi__splitters[] = {
    {QI__SPLIT_RUN, 0, 1, 1, 0, false, {0, NULL, NULL, 0, false}},
    QI__RUN(0, 1, 1, 0, "\r\n", NULL, 0, false),
    QI__RUN(0, 1, 1, QI__NUMBER, NULL, NULL, 0, false),
    QI__RUN(0, 1, QI__MANY, QI__NUMBER, NULL, NULL, 0, false),
    QI__RUN(0, 1, 3, QI__NUMBER, NULL, NULL, 0, false),
    QI__RUN(0, 3, 3, 0, NULL, QI__RANGES(qi__ranges_digit), false),
    QI__RUN('s', 1, QI__MANY, QI__LETTER, NULL, NULL, 0, false),
    QI__RUN('s', 1, QI__MANY, QI__PUNCT, NULL, NULL, 0, false),
    QI__RUN('s', 1, QI__MANY, 0, NULL, QI__RANGES(qi__ranges_cased), false),
    QI__RUN('s', 1, QI__MANY, 0, NULL, QI__RANGES(qi__ranges_punct), false),
    QI__RUN(0, 1, QI__MANY, 0, NULL, QI__RANGES(qi__ranges_cjk), false),
    QI__RUN(0, 1, QI__MANY, 0, NULL, QI__RANGES(qi__ranges_cjk_kana), false),
    QI__RUN(0, 1, QI__MANY, QI__PUNCT, "$+<=>^~|", NULL, 0, false),
    QI__RUN(0, 1, QI__MANY, QI__PUNCT, "$+<=>^~|`", NULL, 0, false),
    QI__RUN(' ', 1, QI__MANY, QI__SPACE, "(|.,!?)", QI__RANGES(qi__ranges_stop), true),
    {QI__SPLIT_TRAILING, 0, 0, 0, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_GPT2, 0, 0, 0, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_GPT4, QI__LETTER, 0, 3, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_GPT4, QI__LETTER, 0, 1, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_GPT4, QI__LETTER | QI__MARK, 0, 1, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_CASE, 0, 0, 1, 0, false, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_CASE, 0, 0, 3, 0, true, {0, NULL, NULL, 0, false}},
    {QI__SPLIT_DEEPSEEK3, 0, 0, 0, 0, false, {0, NULL, NULL, 0, false}},
};
QI__STATIC_ASSERT(QI__COUNT_OF(qi__splitters) == QI__S_DEEPSEEK3 + 1, one_row_for_each_splitter);
#undef QI__RUN
#undef QI__RANGES

// ---- models ----

enum { QI__PRE_ADD_BOS = 1, QI__PRE_IGNORE_MERGES = 2 };
#define QI__PRE_LLAMA3 (QI__PRE_ADD_BOS | QI__PRE_IGNORE_MERGES)
#define QI__PRE_STEPS 6

typedef struct qi__pre_rule {
  const char *name;             // tokenizer.ggml.pre
  uint8_t steps[QI__PRE_STEPS]; // QI__S_*, applied in this order
  uint8_t flags;                // QI__PRE_*: a begin token by default; words that are tokens are not merged again
} qi__pre_rule;

// One row adds a model. The first row stands for names that are not here.
static const qi__pre_rule qi__pre_rules[] = {
    {"default", {QI__S_PUNCT_RUN, QI__S_GPT2, QI__S_DIGITS, QI__S_ASCII_DIGITS_3}, 0},
    {"gpt-2", {QI__S_GPT2}, 0},
    {"phi-2", {QI__S_GPT2}, 0},
    {"mpt", {QI__S_GPT2}, 0},
    {"olmo", {QI__S_GPT2}, 0},
    {"jais", {QI__S_GPT2}, 0},
    {"gigachat", {QI__S_GPT2}, 0},
    {"exaone4", {QI__S_GPT2}, 0},
    {"jina-es", {QI__S_GPT2}, 0},
    {"jina-de", {QI__S_GPT2}, 0},
    {"jina-v2-es", {QI__S_GPT2}, 0},
    {"jina-v2-de", {QI__S_GPT2}, 0},
    {"jina-v2-code", {QI__S_GPT2}, 0},
    {"roberta-bpe", {QI__S_GPT2}, 0},
    {"llama-bpe", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"llama3", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"llama-v3", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"falcon3", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"falcon-h1", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"pixtral", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"lfm2", {QI__S_GPT4}, QI__PRE_LLAMA3},
    {"dbrx", {QI__S_GPT4}, 0},
    {"smaug-bpe", {QI__S_GPT4}, 0},
    {"chatglm-bpe", {QI__S_GPT4}, 0},
    {"glm4", {QI__S_GPT4}, 0},
    {"qwen2", {QI__S_GPT4_DIGIT}, 0},
    {"qwen", {QI__S_GPT4_DIGIT}, 0},
    {"deepseek-r1-qwen", {QI__S_GPT4_DIGIT}, 0},
    {"stablelm2", {QI__S_GPT4_DIGIT}, 0},
    {"megrez", {QI__S_GPT4_DIGIT}, 0},
    {"hunyuan", {QI__S_GPT4_DIGIT}, 0},
    {"grok-2", {QI__S_GPT4_DIGIT}, 0},
    {"qwen35", {QI__S_GPT4_MARKS}, 0},
    {"tekken", {QI__S_TEKKEN}, QI__PRE_LLAMA3},
    {"gpt-4o", {QI__S_GPT4O}, 0},
    {"llama4", {QI__S_GPT4O}, 0},
    {"deepseek-llm", {QI__S_NEWLINE, QI__S_CASED, QI__S_SIGNS, QI__S_TRAILING, QI__S_CJK, QI__S_DIGITS}, 0},
    {"deepseek-coder", {QI__S_NEWLINE, QI__S_LETTERS, QI__S_PUNCTS, QI__S_CJK, QI__S_DIGIT}, 0},
    {"deepseek-v3", {QI__S_DIGITS_1_3, QI__S_CJK_KANA, QI__S_DEEPSEEK3}, 0},
    {"falcon", {QI__S_PUNCT_RUN_TICK, QI__S_GPT2, QI__S_ASCII_DIGITS_3}, 0},
    {"starcoder", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"refact", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"smollm", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"command-r", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"codeshell", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"exaone", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"minerva-7b", {QI__S_DIGIT, QI__S_GPT2}, 0},
    {"bloom", {QI__S_BLOOM}, 0},
    {"poro-chat", {QI__S_BLOOM}, 0},
    {"gpt3-finnish", {QI__S_BLOOM}, 0},
    {"viking", {QI__S_BLOOM, QI__S_DIGIT}, 0},
};

// Rule of a name; NULL when there is none.
QI__FN const qi__pre_rule *qi__pre_find(const char *name, size_t len) {
  for (size_t i = 0; i < QI__COUNT_OF(qi__pre_rules); i++)
    if (strlen(qi__pre_rules[i].name) == len && !memcmp(qi__pre_rules[i].name, name, len)) return &qi__pre_rules[i];
  return NULL;
}

// ---- matchers ----
// A matcher returns where the match that begins at pos ends, or pos when there is none. It sees text[pos..end) only.

// End of the run of characters with (or without) one of the classes.
QI__FN size_t qi__skip_class(const char *text, size_t pos, size_t end, unsigned classes, bool with) {
  for (;;) {
    qi__char c = qi__char_at(text, pos, end);
    if (!c.size || ((c.cls & classes) != 0) != with) return pos;
    pos += c.size;
  }
}

QI__FN size_t qi__skip_newlines(const char *text, size_t pos, size_t end, bool slash) {
  while (pos < end && (text[pos] == '\r' || text[pos] == '\n' || (slash && text[pos] == '/'))) pos++;
  return pos;
}

// \s+(?!\S)|\s+ : white space, but for its last character when a word follows; that one goes with the word.
QI__FN size_t qi__match_spaces(const char *text, size_t pos, size_t end) {
  size_t last = pos, p = pos;
  for (;;) {
    qi__char c = qi__char_at(text, p, end);
    if (!(c.cls & QI__SPACE)) return c.size && last > pos ? last : p;
    last = p;
    p += c.size;
  }
}

// \s*[\r\n]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_lines_or_spaces(const char *text, size_t pos, size_t end) {
  size_t stop = qi__skip_class(text, pos, end, QI__SPACE, true);
  for (size_t p = stop; p > pos; p--)
    if (text[p - 1] == '\r' || text[p - 1] == '\n') return p;
  return qi__match_spaces(text, pos, end);
}

// 's|'t|'re|'ve|'m|'ll|'d
QI__FN size_t qi__match_contraction(const char *text, size_t pos, size_t end, bool any_case) {
  if (end - pos < 2 || text[pos] != '\'') return pos;
  int fold = any_case ? 0x20 : 0;
  int a = text[pos + 1] | fold, b = end - pos > 2 ? text[pos + 2] | fold : 0;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return pos + 2;
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? pos + 3 : pos;
}

//  ?[^\s\p{L}\p{N}]+ ; `words` are the classes left out besides \s
QI__FN size_t qi__match_other(const char *text, size_t pos, size_t end, unsigned words) {
  size_t p = pos + (text[pos] == ' ');
  size_t stop = qi__skip_class(text, p, end, words | QI__SPACE, false);
  return stop > p ? stop : pos;
}

// \p{N}{1,max}
QI__FN size_t qi__match_number(const char *text, size_t pos, size_t end, size_t max) {
  for (size_t n = 0; n < max; n++) {
    qi__char c = qi__char_at(text, pos, end);
    if (!(c.cls & QI__NUMBER)) break;
    pos += c.size;
  }
  return pos;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_gpt2(const char *text, size_t pos, size_t end) {
  size_t stop = qi__match_contraction(text, pos, end, false);
  if (stop > pos) return stop;
  size_t p = pos + (text[pos] == ' ');
  qi__char c = qi__char_at(text, p, end);
  unsigned kind = c.cls & (QI__LETTER | QI__NUMBER);
  if (kind) return qi__skip_class(text, p, end, kind, true);
  if (c.size && !(c.cls & QI__SPACE)) return qi__skip_class(text, p, end, QI__LETTER | QI__NUMBER | QI__SPACE, false);
  return qi__match_spaces(text, pos, end);
}

// What follows [^\r\n\p{L}\p{N}]? when it stands at c; `not_prefix` are the classes excluded.
QI__FN size_t qi__after_prefix(qi__char c, size_t pos, unsigned not_prefix) {
  return c.cp == '\r' || c.cp == '\n' || (c.cls & not_prefix) ? pos : pos + c.size;
}

// contraction|[^\r\n\p{L}\p{N}]?[letters]+|\p{N}{1,max}| ?[^\s\p{N}letters]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_gpt4(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  size_t stop = qi__match_contraction(text, pos, end, true);
  if (stop > pos) return stop;
  qi__char c = qi__char_at(text, pos, end);
  size_t p = qi__after_prefix(c, pos, QI__LETTER | QI__NUMBER | s->letters);
  stop = qi__skip_class(text, p, end, s->letters, true);
  if (stop > p) return stop;
  if (c.cls & QI__NUMBER) return qi__match_number(text, pos, end, s->max);
  stop = qi__match_other(text, pos, end, s->letters | QI__NUMBER);
  if (stop > pos) return qi__skip_newlines(text, stop, end, false);
  return qi__match_lines_or_spaces(text, pos, end);
}

// Letters of a word at pos whose upper-case ones come first: [upper]*[lower]+|[upper]+[lower]*, where upper = \p{L} but a-z,
// lower = \p{L} but A-Z. Letters beyond ASCII count as both (llama.cpp has no tables of case here).
QI__FN size_t qi__match_cased_word(const char *text, size_t pos, size_t end) {
  size_t p = pos, both_end = pos; // after the last letter that is both
  qi__char c;
  for (;; p += c.size) {
    c = qi__char_at(text, p, end);
    if (!(c.cls & QI__LETTER) || (c.cp >= 'a' && c.cp <= 'z')) break;
    if (c.cp >= 0x80) both_end = p + c.size;
  }
  if (c.cls & QI__LETTER) { // lower case follows: all of [lower]+
    while ((c.cls & QI__LETTER) && !(c.cp >= 'A' && c.cp <= 'Z')) {
      p += c.size;
      c = qi__char_at(text, p, end);
    }
    return p;
  }
  return both_end > pos ? both_end : p; // [lower]+ wants one letter: the last that may serve ends the word
}

// [^\r\n\p{L}\p{N}]?(cased word)contraction?|\p{N}{1,max}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_case(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  qi__char c = qi__char_at(text, pos, end);
  size_t p = qi__after_prefix(c, pos, QI__LETTER | QI__NUMBER);
  size_t stop = qi__match_cased_word(text, p, end);
  if (stop > p) return s->suffix ? qi__match_contraction(text, stop, end, true) : stop;
  if (c.cls & QI__NUMBER) return qi__match_number(text, pos, end, s->max);
  stop = qi__match_other(text, pos, end, QI__LETTER | QI__NUMBER);
  if (stop > pos) return qi__skip_newlines(text, stop, end, true);
  return qi__match_lines_or_spaces(text, pos, end);
}

// [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
QI__FN size_t qi__match_deepseek3(const char *text, size_t pos, size_t end) {
  qi__char c = qi__char_at(text, pos, end);
  size_t p = pos + 1;
  if (c.cp < 0x80 && (c.cls & (QI__PUNCT | QI__SYMBOL))) {
    while (p < end && (text[p] | 0x20) >= 'a' && (text[p] | 0x20) <= 'z') p++;
    if (p > pos + 1) return p;
  }
  p = qi__after_prefix(c, pos, QI__LETTER | QI__MARK | QI__PUNCT | QI__SYMBOL);
  size_t stop = qi__skip_class(text, p, end, QI__LETTER | QI__MARK, true);
  if (stop > p) return stop;
  p = pos + (c.cp == ' ');
  stop = qi__skip_class(text, p, end, QI__PUNCT | QI__SYMBOL, true);
  if (stop > p) return qi__skip_newlines(text, stop, end, false);
  return qi__match_lines_or_spaces(text, pos, end);
}

QI__FN size_t qi__match_run(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  qi__char c = qi__char_at(text, pos, end);
  bool prefix = (s->prefix == ' ' && c.cp == ' ') || (s->prefix == 's' && (c.cls & QI__SPACE));
  for (int with = prefix; with >= 0; with--) {
    size_t n = 0, p = with ? pos + c.size : pos;
    while (n < s->max) {
      qi__char d = qi__char_at(text, p, end);
      if (!qi__in_set(&s->set, d)) break;
      p += d.size;
      n++;
    }
    if (n >= s->min) return p;
  }
  return pos;
}

QI__FN size_t qi__match(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  switch (s->kind) {
    case QI__SPLIT_RUN: return qi__match_run(s, text, pos, end);
    case QI__SPLIT_GPT2: return qi__match_gpt2(text, pos, end);
    case QI__SPLIT_GPT4: return qi__match_gpt4(s, text, pos, end);
    case QI__SPLIT_CASE: return qi__match_case(s, text, pos, end);
    case QI__SPLIT_DEEPSEEK3: return qi__match_deepseek3(text, pos, end);
    case QI__SPLIT_TRAILING: break;
  }
  return pos;
}

// ---- pieces ----

// End of the piece that begins at pos < end: a match, or what lies before the next match.
QI__FN size_t qi__split_next(const qi__splitter *s, const char *text, size_t pos, size_t end) {
  if (s->kind == QI__SPLIT_TRAILING) { // looked at as a whole: asking at each character would be quadratic
    size_t words_end = pos;
    for (size_t p = pos; p < end;) {
      qi__char c = qi__char_at(text, p, end);
      p += c.size;
      if (!(c.cls & QI__SPACE)) words_end = p;
    }
    return words_end > pos ? words_end : end;
  }
  size_t stop = qi__match(s, text, pos, end);
  if (stop > pos) return stop;
  size_t p = pos;
  do p += qi__char_at(text, p, end).size;
  while (p < end && qi__match(s, text, p, end) == p);
  return p;
}

// Walk over the words of a text. Each step cuts only inside the current piece of the step before.
typedef struct qi__pretokenizer {
  const qi__pre_rule *rule;
  const char *text;
  size_t pos;
  size_t end[QI__PRE_STEPS + 1]; // [0] of the text, [k] of the current piece of step k
  int n_steps;
} qi__pretokenizer;

QI__FN qi__pretokenizer qi__pretokenize(const qi__pre_rule *rule, const char *text, size_t len) {
  qi__pretokenizer t = {rule, text, 0, {len}, 0};
  while (t.n_steps < QI__PRE_STEPS && rule->steps[t.n_steps]) t.n_steps++;
  return t;
}

// The next word is text[*start .. *end), never empty; false at the end of the text. All words together are the text.
QI__FN bool qi__pretokenize_next(qi__pretokenizer *t, size_t *start, size_t *end) {
  if (t->pos >= t->end[0]) return false;
  for (int k = 0; k < t->n_steps; k++)
    if (t->end[k + 1] <= t->pos) t->end[k + 1] = qi__split_next(&qi__splitters[t->rule->steps[k]], t->text, t->pos, t->end[k]);
  *start = t->pos;
  t->pos = t->end[t->n_steps];
  *end = t->pos;
  return true;
}

#endif // QI__PRETOKENIZE_H
