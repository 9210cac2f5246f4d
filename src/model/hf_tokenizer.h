// ==== >>hf_tokenizer : tokenizer.json of Hugging Face models ====
#ifndef QI__MODEL_HF_TOKENIZER_H
#define QI__MODEL_HF_TOKENIZER_H

#include "hf_config.h"
#include "vocab.h"

// tokenizer.json describes a pipeline: normalizer, pre-tokenizer, model, post-processor. Two pipelines are known here, both with a
// BPE model: byte-level (GPT-2, Llama 3, Qwen), and SentencePiece's as Hugging Face writes it (Llama 2, Mistral): blanks are
// U+2581, unknown characters become byte tokens. Both are written as GGUF has them; there SentencePiece needs scores, which
// qi__vocab_load makes of the order of merges.

#define QI__HF_MAX_NAME 128    // bytes of the names of special tokens
#define QI__HF_MAX_REGEX 1024
#define QI__HF_MAX_NESTING 4   // of Sequences
#define QI__HF_MAX_PADDING 65536u // ids without a token
#define QI__HF_MAX_TOKENIZER_BYTES (1u << 30)

typedef struct qi__hf_tokenizer {
  char model_type[16], unk[QI__HF_MAX_NAME];
  bool byte_fallback, ignore_merges;
  bool byte_level, blanks, prefix;       // prefix: a blank is put before text
  uint8_t steps[QI__PRE_STEPS + 1];      // QI__S_* of the pre-tokenizers
  size_t n_steps;
  uint64_t vocab_pos, added_pos, merges_pos; // where these values begin; 0 = absent
  uint64_t vocab_bytes, added_bytes;     // of the texts
  uint32_t n_vocab, n_added, n_rstrip, n_merges;
  uint32_t n_ids;                        // highest id + 1
  bool has_template;                     // a TemplateProcessing tells of begin and end tokens:
  int add_bos, add_eos;                  // -1: not said
  // tokenizer_config.json
  char bos_name[QI__HF_MAX_NAME], eos_name[QI__HF_MAX_NAME], pad_name[QI__HF_MAX_NAME];
  uint64_t template_pos;                 // of the chat template; 0 = absent
  uint32_t bos, eos, pad, unk_id;        // QI__HF_ABSENT: none
} qi__hf_tokenizer;

// ---- splitting ----

#define QI__HF_CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define QI__HF_TAIL "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QI__HF_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define QI__HF_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

// The expressions of Split pre-tokenizers that are known, as the files write them.
static const struct {
  const char *regex;
  uint8_t step;
} qi__hf_regexes[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", QI__S_GPT2},
    {QI__HF_CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" QI__HF_TAIL, QI__S_GPT4},
    {QI__HF_CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" QI__HF_TAIL, QI__S_GPT4_DIGIT},
    {QI__HF_CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" QI__HF_TAIL,
     QI__S_GPT4_MARKS},
    {"[^\\r\\n\\p{L}\\p{N}]?" QI__HF_UPPER "*" QI__HF_LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" QI__HF_UPPER "+" QI__HF_LOWER
     "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" QI__HF_TAIL, QI__S_TEKKEN},
    {"[^\\r\\n\\p{L}\\p{N}]?" QI__HF_UPPER "*" QI__HF_LOWER "+" QI__HF_CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?" QI__HF_UPPER
     "+" QI__HF_LOWER "*" QI__HF_CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" QI__HF_TAIL, QI__S_GPT4O},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
     QI__HF_TAIL, QI__S_DEEPSEEK3},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
     "\\s*[\r\n]+|\\s+(?!\\S)|\\s+", QI__S_DEEPSEEK3},
    {"\\p{N}{1,3}", QI__S_DIGITS_1_3},
    {"\\p{N}", QI__S_DIGIT},
    {"\\p{N}+", QI__S_DIGITS},
    {"[0-9][0-9][0-9]", QI__S_ASCII_DIGITS_3},
    {"[\r\n]", QI__S_NEWLINE},
    {"\\s?\\p{L}+", QI__S_LETTERS},
    {"\\s?\\p{P}+", QI__S_PUNCTS},
    {"\\s+$", QI__S_TRAILING},
    {"[\xE4\xB8\x80-\xE9\xBE\xA5\xE0\xA0\x80-\xE4\xB8\x80\xEA\xB0\x80-\xED\x9F\xBF]+", QI__S_CJK},
    {"[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+", QI__S_CJK_KANA},
    {" ?[^(\\s|.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C)]+", QI__S_BLOOM},
    {" ?[^(\\s|[.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C])]+", QI__S_BLOOM},
};

// One object of the pipeline, its values gathered before its type may be known.
typedef struct qi__hf_stage {
  char type[24], pattern[24], content[24], behavior[24], scheme[24];
  char regex[QI__HF_MAX_REGEX + 1];
  size_t regex_len;       // the full length; 0 = none
  bool use_regex, individual, invert, split;
  int add_prefix;         // -1: not said
} qi__hf_stage;

QI__FN void qi__hf_add_step(qi__json *j, qi__hf_tokenizer *t, uint8_t step) {
  if (t->n_steps == QI__PRE_STEPS) qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: more than %d steps", QI__PRE_STEPS);
  else t->steps[t->n_steps++] = step;
}

QI__FN void qi__hf_apply_split(qi__json *j, qi__hf_tokenizer *t, const qi__hf_stage *s) {
  bool isolated = qi__hf_is(s->behavior, "Isolated") || (qi__hf_is(s->behavior, "Removed") && s->invert);
  for (size_t i = 0; i < QI__COUNT_OF(qi__hf_regexes); i++) {
    if (!isolated || strlen(qi__hf_regexes[i].regex) != s->regex_len || memcmp(qi__hf_regexes[i].regex, s->regex, s->regex_len))
      continue;
    qi__hf_add_step(j, t, qi__hf_regexes[i].step);
    return;
  }
  if (s->regex_len && isolated)
    qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: Split by '%s' is not known here",
                  qi__show(s->regex, qi__min_size(s->regex_len, QI__HF_MAX_REGEX)).s);
  else
    qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: Split with behavior '%s' is not supported",
                  qi__show_text(s->behavior).s);
}

QI__FN void qi__hf_apply_pre_tokenizer(qi__json *j, qi__hf_tokenizer *t, const qi__hf_stage *s) {
  if (qi__hf_is(s->type, "Sequence")) return; // its parts were applied
  if (qi__hf_is(s->type, "ByteLevel")) {
    t->byte_level = true;
    if (s->add_prefix == 1) qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: ByteLevel with add_prefix_space is not supported");
    if (s->use_regex) qi__hf_add_step(j, t, QI__S_GPT2);
  } else if (qi__hf_is(s->type, "Split")) {
    qi__hf_apply_split(j, t, s);
  } else if (qi__hf_is(s->type, "Digits")) {
    qi__hf_add_step(j, t, s->individual ? QI__S_DIGIT : QI__S_DIGITS);
  } else if (qi__hf_is(s->type, "Punctuation") && qi__hf_is(s->behavior, "Contiguous")) {
    qi__hf_add_step(j, t, QI__S_PUNCT_RUN_TICK);
  } else if (qi__hf_is(s->type, "Metaspace")) {
    if (s->split) qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: Metaspace that splits is not supported");
    t->blanks = true;
    t->prefix = s->scheme[0] ? !qi__hf_is(s->scheme, "never") : s->add_prefix != 0;
  } else {
    qi__json_fail(j, QI_ERR_UNSUPPORTED, "pre_tokenizer: type '%s' is not supported", qi__show_text(s->type).s);
  }
}

QI__FN void qi__hf_apply_normalizer(qi__json *j, qi__hf_tokenizer *t, const qi__hf_stage *s) {
  const char *blank = "\xE2\x96\x81";
  if (qi__hf_is(s->type, "Sequence") || qi__hf_is(s->type, "NFC")) return; // text that is not NFC gives other tokens, as in GGUF
  if (qi__hf_is(s->type, "Prepend") && qi__hf_is(s->content, blank)) t->prefix = true;
  else if (qi__hf_is(s->type, "Replace") && qi__hf_is(s->pattern, " ") && qi__hf_is(s->content, blank)) t->blanks = true;
  else
    qi__json_fail(j, QI_ERR_UNSUPPORTED, "normalizer: type '%s' is not supported (or not in this form)", qi__show_text(s->type).s);
}

// {"String": "..."} or {"Regex": "..."}.
QI__FN void qi__hf_read_pattern(qi__json *j, qi__hf_stage *s) {
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "String")) qi__json_text(j, s->pattern, sizeof s->pattern);
    else if (qi__json_key_is(j, "Regex")) qi__json_string(j, s->regex, QI__HF_MAX_REGEX, &s->regex_len);
    else qi__json_skip(j);
  }
}

// A normalizer or a pre-tokenizer, or null.
QI__FN void qi__hf_read_stage(qi__json *j, qi__hf_tokenizer *t, bool normalizer, int nesting) {
  qi__hf_stage s;
  if (qi__json_take_null(j)) return;
  memset(&s, 0, sizeof s);
  s.use_regex = s.split = true;
  s.add_prefix = -1;
  if (nesting > QI__HF_MAX_NESTING) qi__json_fail(j, QI_ERR_LIMIT, "Sequences nest deeper than %d", QI__HF_MAX_NESTING);
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    bool flag = false;
    if (qi__json_key_is(j, "type")) qi__json_text(j, s.type, sizeof s.type);
    else if (qi__json_key_is(j, "content") || qi__json_key_is(j, "prepend")) qi__json_text(j, s.content, sizeof s.content);
    else if (qi__json_key_is(j, "behavior")) qi__json_text(j, s.behavior, sizeof s.behavior);
    else if (qi__json_key_is(j, "prepend_scheme")) qi__json_text(j, s.scheme, sizeof s.scheme);
    else if (qi__json_key_is(j, "pattern")) qi__hf_read_pattern(j, &s);
    else if (qi__json_key_is(j, "use_regex")) qi__json_bool(j, &s.use_regex);
    else if (qi__json_key_is(j, "individual_digits")) qi__json_bool(j, &s.individual);
    else if (qi__json_key_is(j, "invert")) qi__json_bool(j, &s.invert);
    else if (qi__json_key_is(j, "split")) qi__json_bool(j, &s.split);
    else if (qi__json_key_is(j, "add_prefix_space")) qi__json_bool(j, &flag), s.add_prefix = flag;
    else if (qi__json_key_is(j, normalizer ? "normalizers" : "pretokenizers"))
      for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) qi__hf_read_stage(j, t, normalizer, nesting + 1);
    else qi__json_skip(j);
  }
  if (j->result) return;
  if (normalizer) qi__hf_apply_normalizer(j, t, &s);
  else qi__hf_apply_pre_tokenizer(j, t, &s);
}

// Name of the rule in GGUF; NULL when no rule has these steps.
QI__FN const char *qi__hf_pre_name(const qi__hf_tokenizer *t) {
  const char *name = NULL;
  for (size_t i = 0; i < QI__COUNT_OF(qi__pre_rules) && t->n_steps; i++) {
    const qi__pre_rule *rule = &qi__pre_rules[i];
    bool same_flags = ((rule->flags & QI__PRE_IGNORE_MERGES) != 0) == t->ignore_merges;
    if (memcmp(rule->steps, t->steps, QI__PRE_STEPS)) continue;
    if (same_flags) return rule->name;
    if (!name) name = rule->name; // makes a difference only for tokens that merges do not reach
  }
  return name;
}

// ---- begin and end ----

// [{"SpecialToken": {...}}, {"Sequence": {...}}, ...]
QI__FN void qi__hf_read_single(qi__json *j, qi__hf_tokenizer *t) {
  bool text_seen = false;
  t->has_template = true;
  t->add_bos = t->add_eos = 0;
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);)
    for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
      if (qi__json_key_is(j, "Sequence")) text_seen = true;
      else if (qi__json_key_is(j, "SpecialToken")) *(text_seen ? &t->add_eos : &t->add_bos) = 1;
      qi__json_skip(j);
    }
}

QI__FN void qi__hf_read_post_processor(qi__json *j, qi__hf_tokenizer *t, int nesting) {
  if (qi__json_take_null(j)) return;
  if (nesting > QI__HF_MAX_NESTING) qi__json_fail(j, QI_ERR_LIMIT, "Sequences nest deeper than %d", QI__HF_MAX_NESTING);
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "single")) qi__hf_read_single(j, t);
    else if (qi__json_key_is(j, "processors"))
      for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) qi__hf_read_post_processor(j, t, nesting + 1);
    else qi__json_skip(j);
  }
}

// ---- tokens ----

// One of added_tokens.
typedef struct qi__hf_added {
  uint32_t id;
  char name[QI__HF_MAX_NAME]; // cut
  size_t len;
  uint64_t pos;               // of its content
  bool special, rstrip;
} qi__hf_added;

QI__FN void qi__hf_read_added(qi__json *j, qi__hf_added *a) {
  memset(a, 0, sizeof *a);
  a->id = QI__HF_ABSENT;
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "id")) {
      qi__json_u32(j, &a->id);
    } else if (qi__json_key_is(j, "content")) {
      qi__json_peek(j);
      a->pos = qi__json_pos(j);
      qi__json_string(j, a->name, sizeof a->name - 1, &a->len);
    } else if (qi__json_key_is(j, "special")) {
      qi__json_bool(j, &a->special);
    } else if (qi__json_key_is(j, "rstrip")) {
      qi__json_bool(j, &a->rstrip);
    } else {
      qi__json_skip(j);
    }
  }
  if (!j->result && (a->id == QI__HF_ABSENT || !a->pos)) qi__json_fail(j, QI_ERR_FORMAT, "an added token needs id and content");
}

QI__FN bool qi__hf_added_is(const qi__hf_added *a, const char *name) {
  return name[0] && a->len == strlen(name) && a->len < sizeof a->name && !memcmp(a->name, name, a->len);
}

// Begins to walk over a value that was passed before: the array or object at `pos`.
QI__FN void qi__hf_walk(qi__json *j, const qi__file *f, uint64_t pos, qi__json_type type, qi_error *err) {
  qi__json_init(j, f, pos, f->size - pos, err);
  qi__json_enter(j, type);
}

QI__FN void qi__hf_note_id(qi__json *j, qi__hf_tokenizer *t, uint32_t id) {
  if (id >= QI__VOCAB_MAX_TOKENS) qi__json_fail(j, QI_ERR_LIMIT, "a token has the id %u, at most %u are allowed", id,
      QI__VOCAB_MAX_TOKENS);
  else if (id >= t->n_ids) t->n_ids = id + 1;
}

QI__FN void qi__hf_scan_vocab(qi__json *j, qi__hf_tokenizer *t) {
  qi__json_peek(j);
  t->vocab_pos = qi__json_pos(j);
  t->n_vocab = 0;
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    uint32_t id = 0;
    t->vocab_bytes += j->key_len;
    qi__json_u32(j, &id);
    qi__hf_note_id(j, t, id);
    t->n_vocab++;
  }
}

QI__FN void qi__hf_scan_added(qi__json *j, qi__hf_tokenizer *t) {
  if (qi__json_take_null(j)) return;
  t->added_pos = qi__json_pos(j);
  for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) {
    qi__hf_added a;
    qi__hf_read_added(j, &a);
    if (j->result) return;
    t->added_bytes += a.len;
    t->n_rstrip += a.rstrip;
    qi__hf_note_id(j, t, a.id);
    t->n_added++;
  }
}

QI__FN void qi__hf_scan_model(qi__json *j, qi__hf_tokenizer *t) {
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "vocab") && qi__json_peek(j) == QI__JSON_OBJECT) {
      qi__hf_scan_vocab(j, t);
    } else if (qi__json_key_is(j, "merges") && qi__json_peek(j) == QI__JSON_ARRAY) {
      t->merges_pos = qi__json_pos(j);
      t->n_merges = 0;
      for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j); t->n_merges++) qi__json_skip(j);
    } else if (qi__json_key_is(j, "type")) {
      qi__json_text(j, t->model_type, sizeof t->model_type);
    } else if (qi__json_key_is(j, "unk_token") && qi__json_peek(j) == QI__JSON_STRING) {
      qi__json_text(j, t->unk, sizeof t->unk);
    } else if ((qi__json_key_is(j, "continuing_subword_prefix") || qi__json_key_is(j, "end_of_word_suffix")) &&
               qi__json_peek(j) == QI__JSON_STRING) {
      size_t len;
      qi__json_string(j, NULL, 0, &len);
      if (len) qi__json_fail(j, QI_ERR_UNSUPPORTED, "model: marks inside or at the end of words are not supported");
    } else if (qi__json_key_is(j, "byte_fallback")) {
      qi__json_bool(j, &t->byte_fallback);
    } else if (qi__json_key_is(j, "ignore_merges")) {
      qi__json_bool(j, &t->ignore_merges);
    } else {
      qi__json_skip(j);
    }
  }
}

// ---- scan ----

QI__FN qi_result qi__hf_check_tokenizer(const qi__hf_tokenizer *t, qi_error *err) {
  // Files of before 2022 do not name the type; only BPE has merges.
  if (t->model_type[0] ? !qi__hf_is(t->model_type, "BPE") : !t->merges_pos)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "model: type '%s' is not supported; known is BPE",
                    qi__show_text(t->model_type).s);
  if (!t->vocab_pos || !t->merges_pos) return qi__fail(err, QI_ERR_FORMAT, "model: %s: missing", t->vocab_pos ? "merges" : "vocab");
  if (!t->byte_level && !t->blanks)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "pre_tokenizer: neither ByteLevel nor blanks as U+2581; only these two are supported");
  if (t->byte_level && !qi__hf_pre_name(t))
    return qi__fail(err, QI_ERR_UNSUPPORTED, "pre_tokenizer: this combination of %zu steps is not known here", t->n_steps);
  if (!t->byte_level && t->n_steps)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "pre_tokenizer: splitting is not supported without ByteLevel");
  return QI_OK;
}

// Walks over tokenizer.json, keeps counts and places. Errors: those of JSON, QI_ERR_UNSUPPORTED.
QI__FN qi_result qi__hf_tokenizer_scan(qi__hf_tokenizer *t, const qi__file *f, qi_error *err) {
  qi__json j;
  memset(t, 0, sizeof *t);
  t->add_bos = t->add_eos = -1;
  t->bos = t->eos = t->pad = t->unk_id = QI__HF_ABSENT;
  if (f->size > QI__HF_MAX_TOKENIZER_BYTES)
    return qi__fail(err, QI_ERR_LIMIT, "%llu bytes, at most %u are allowed", (unsigned long long)f->size,
                    QI__HF_MAX_TOKENIZER_BYTES);
  qi__json_init(&j, f, 0, f->size, err);
  for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);) {
    if (qi__json_key_is(&j, "added_tokens")) qi__hf_scan_added(&j, t);
    else if (qi__json_key_is(&j, "normalizer")) qi__hf_read_stage(&j, t, true, 0);
    else if (qi__json_key_is(&j, "pre_tokenizer")) qi__hf_read_stage(&j, t, false, 0);
    else if (qi__json_key_is(&j, "post_processor")) qi__hf_read_post_processor(&j, t, 0);
    else if (qi__json_key_is(&j, "model")) qi__hf_scan_model(&j, t);
    else qi__json_skip(&j);
  }
  qi__json_end(&j);
  return j.result ? j.result : qi__hf_check_tokenizer(t, err);
}

// The name of a special token: a string, or an object with its content, or null.
QI__FN void qi__hf_read_name(qi__json *j, char name[QI__HF_MAX_NAME]) {
  if (qi__json_take_null(j)) return;
  if (qi__json_peek(j) == QI__JSON_STRING) {
    qi__json_text(j, name, QI__HF_MAX_NAME);
    return;
  }
  for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
    if (qi__json_key_is(j, "content")) qi__json_text(j, name, QI__HF_MAX_NAME);
    else qi__json_skip(j);
  }
}

// A text, or an array of {"name": ..., "template": ...}, of which "default" is taken, else the first.
QI__FN void qi__hf_read_template(qi__json *j, qi__hf_tokenizer *t) {
  if (qi__json_peek(j) == QI__JSON_STRING) {
    t->template_pos = qi__json_pos(j);
    qi__json_skip(j);
  } else if (qi__json_peek(j) == QI__JSON_ARRAY) {
    for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) {
      char name[16] = "";
      uint64_t pos = 0;
      for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) {
        bool is_template = qi__json_key_is(j, "template") && qi__json_peek(j) == QI__JSON_STRING;
        if (is_template) pos = qi__json_pos(j);
        if (qi__json_key_is(j, "name")) qi__json_text(j, name, sizeof name);
        else qi__json_skip(j);
      }
      if (pos && (!t->template_pos || qi__hf_is(name, "default"))) t->template_pos = pos;
    }
  } else {
    qi__json_skip(j);
  }
}

QI__FN void qi__hf_read_flag(qi__json *j, int *flag) {
  bool v = false;
  if (qi__json_take_null(j)) return;
  qi__json_bool(j, &v);
  *flag = v;
}

// tokenizer_config.json, over what tokenizer.json said.
QI__FN qi_result qi__hf_tokenizer_config(qi__hf_tokenizer *t, const qi__file *f, qi_error *err) {
  qi__json j;
  qi__json_init(&j, f, 0, f->size, err);
  for (qi__json_enter(&j, QI__JSON_OBJECT); qi__json_next_key(&j);) {
    if (qi__json_key_is(&j, "bos_token")) qi__hf_read_name(&j, t->bos_name);
    else if (qi__json_key_is(&j, "eos_token")) qi__hf_read_name(&j, t->eos_name);
    else if (qi__json_key_is(&j, "pad_token")) qi__hf_read_name(&j, t->pad_name);
    else if (qi__json_key_is(&j, "add_bos_token")) qi__hf_read_flag(&j, &t->add_bos);
    else if (qi__json_key_is(&j, "add_eos_token")) qi__hf_read_flag(&j, &t->add_eos);
    else if (qi__json_key_is(&j, "chat_template")) qi__hf_read_template(&j, t);
    else qi__json_skip(&j);
  }
  qi__json_end(&j);
  return j.result;
}

// Ids of the special names, else those that the configs give. Names are looked for among the added tokens, then in the vocabulary.
QI__FN qi_result qi__hf_find_specials(qi__hf_tokenizer *t, const qi__hf_config *c, const qi__file *f, qi_error *err) {
  const char *const names[] = {t->bos_name, t->eos_name, t->pad_name, t->unk};
  uint32_t *const ids[] = {&t->bos, &t->eos, &t->pad, &t->unk_id};
  const qi__hf_ids *const given[] = {&c->bos, &c->eos, &c->pad, NULL};
  qi__json j;
  j.result = QI_OK;
  if (t->added_pos) {
    for (qi__hf_walk(&j, f, t->added_pos, QI__JSON_ARRAY, err); qi__json_next(&j);) {
      qi__hf_added a;
      qi__hf_read_added(&j, &a);
      for (size_t i = 0; i < QI__COUNT_OF(names) && !j.result; i++)
        if (qi__hf_added_is(&a, names[i])) *ids[i] = a.id;
    }
    if (j.result) return j.result;
  }
  bool all = true;
  for (size_t i = 0; i < QI__COUNT_OF(names); i++) all = all && (!names[i][0] || *ids[i] != QI__HF_ABSENT);
  if (!all) {
    for (qi__hf_walk(&j, f, t->vocab_pos, QI__JSON_OBJECT, err); qi__json_next_key(&j);) {
      uint32_t *match = NULL, id = 0;
      for (size_t i = 0; i < QI__COUNT_OF(names); i++)
        if (names[i][0] && *ids[i] == QI__HF_ABSENT && qi__json_key_is(&j, names[i])) match = ids[i];
      qi__json_u32(&j, &id);
      if (match) *match = id;
    }
  }
  for (size_t i = 0; i < QI__COUNT_OF(names); i++)
    if (*ids[i] == QI__HF_ABSENT && given[i] && given[i]->n) *ids[i] = given[i]->id[0];
  return j.result;
}

// ---- writing ----

// Place and kind of each token.
typedef struct qi__hf_index {
  uint32_t *pos;  // [n_tokens] of its text in tokenizer.json; 0 = no token
  uint8_t *type;  // [n_tokens]
  uint32_t n_tokens;
} qi__hf_index;

QI__FN qi_result qi__hf_count_tokens(const qi__hf_tokenizer *t, const qi__hf_config *c, uint32_t *n_tokens, qi_error *err) {
  uint32_t n = c->n_vocab != QI__HF_ABSENT && c->n_vocab > t->n_ids ? c->n_vocab : t->n_ids;
  if (n > QI__VOCAB_MAX_TOKENS)
    return qi__fail(err, QI_ERR_LIMIT, "vocab_size: %u tokens, at most %u are allowed", n, QI__VOCAB_MAX_TOKENS);
  if (n > t->n_vocab && n - t->n_vocab > t->n_added && n - t->n_vocab - t->n_added > QI__HF_MAX_PADDING)
    return qi__fail(err, QI_ERR_LIMIT, "%u ids for %u tokens: more than %u ids without a token", n, t->n_vocab + t->n_added,
                    QI__HF_MAX_PADDING);
  if (t->n_vocab > n) return qi__fail(err, QI_ERR_FORMAT, "model: %u tokens, but the highest id is %u", t->n_vocab, n - 1);
  *n_tokens = n;
  return QI_OK;
}

// Fills in the index; added tokens replace those of the vocabulary.
QI__FN qi_result qi__hf_index_tokens(const qi__hf_tokenizer *t, const qi__file *f, qi__hf_index *index, qi_error *err) {
  qi__json j;
  memset(index->pos, 0, index->n_tokens * sizeof *index->pos);
  memset(index->type, QI__TOKEN_UNUSED, index->n_tokens);
  for (qi__hf_walk(&j, f, t->vocab_pos, QI__JSON_OBJECT, err); qi__json_next_key(&j);) {
    uint32_t id = index->n_tokens, pos = (uint32_t)j.key_pos;
    bool is_byte = t->byte_fallback && !t->byte_level && qi__byte_name_value(j.key, j.key_len) >= 0;
    bool is_unknown = !t->byte_level && t->unk[0] && qi__json_key_is(&j, t->unk);
    qi__json_u32(&j, &id);
    if (j.result) return j.result;
    if (id >= index->n_tokens || index->pos[id])
      return qi__fail(err, QI_ERR_FORMAT, "model: id %u %s", id, id < index->n_tokens ? "occurs twice" : "was not there before");
    index->pos[id] = pos;
    index->type[id] = is_byte ? QI__TOKEN_BYTE : is_unknown ? QI__TOKEN_UNKNOWN : QI__TOKEN_NORMAL;
  }
  if (j.result || !t->added_pos) return j.result;
  for (qi__hf_walk(&j, f, t->added_pos, QI__JSON_ARRAY, err); qi__json_next(&j);) {
    qi__hf_added a;
    qi__hf_read_added(&j, &a);
    if (j.result || a.id >= index->n_tokens) continue;
    index->pos[a.id] = (uint32_t)a.pos;
    index->type[a.id] = a.special ? QI__TOKEN_CONTROL : QI__TOKEN_USER;
    if (!t->byte_level && qi__hf_added_is(&a, t->unk)) index->type[a.id] = QI__TOKEN_UNKNOWN;
  }
  return j.result;
}

// GGUF has the blanks of user-defined tokens as they are.
QI__FN size_t qi__hf_plain_blanks(uint8_t *text, size_t len) {
  size_t n = 0;
  for (size_t i = 0; i < len; n++) {
    bool blank = len - i >= 3 && !memcmp(text + i, "\xE2\x96\x81", 3);
    text[n] = blank ? ' ' : text[i];
    i += blank ? 3 : 1;
  }
  return n;
}

// Texts in the order of ids; ids without a token get a name as llama.cpp gives it. Counting takes what it can be at most.
QI__FN void qi__hf_write_texts(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__hf_index *index, const qi__file *f,
                               qi_error *err, qi_result *result) {
  const uint64_t longest_padding = 8 + sizeof "[PAD4294967295]" - 1;
  qi__meta_put_array(w, "tokenizer.ggml.tokens", QI_META_STRING, index->n_tokens);
  if (!w->out) {
    uint64_t bytes = t->vocab_bytes + t->added_bytes + 8 * ((uint64_t)t->n_vocab + t->n_added) +
                     longest_padding * (index->n_tokens - t->n_vocab);
    if (bytes > SIZE_MAX) w->overflow = true;
    else qi__meta_room(w, (size_t)bytes);
    return;
  }
  qi__json j;
  qi__json_init(&j, f, 0, f->size, err);
  for (uint32_t id = 0; id < index->n_tokens && !j.result && !w->overflow; id++) {
    qi__meta_open o = qi__meta_text_begin(w);
    size_t len = 0, room = w->cap - w->used;
    char *text = (char *)w->out + w->used;
    if (index->pos[id]) qi__json_string_at(&j, index->pos[id], text, room, &len);
    else len = (size_t)snprintf(text, room, "[PAD%u]", id); // what does not fit is an overflow below
    if (!t->byte_level && index->type[id] == QI__TOKEN_USER && len <= room) len = qi__hf_plain_blanks((uint8_t *)text, len);
    qi__meta_room(w, len);
    qi__meta_text_end(w, o);
  }
  if (j.result) *result = j.result;
}

// Each merge as "left right"; files have that, or a pair of texts.
QI__FN void qi__hf_write_merges(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__file *f, qi_error *err,
    qi_result *result) {
  qi__json j;
  qi__meta_put_array(w, "tokenizer.ggml.merges", QI_META_STRING, t->n_merges);
  for (qi__hf_walk(&j, f, t->merges_pos, QI__JSON_ARRAY, err); qi__json_next(&j);) {
    if (qi__json_peek(&j) != QI__JSON_ARRAY) {
      qi__meta_json_text(w, &j);
      continue;
    }
    int n = 0;
    qi__meta_open o = qi__meta_text_begin(w);
    for (qi__json_enter(&j, QI__JSON_ARRAY); qi__json_next(&j); n++) {
      if (n == 1) qi__meta_bytes(w, " ", 1);
      qi__meta_json_bytes(w, &j);
    }
    if (n != 2) qi__json_fail(&j, QI_ERR_FORMAT, "merges: an array of %d texts, expected 2", n);
    qi__meta_text_end(w, o);
  }
  if (j.result) *result = j.result;
}

QI__FN void qi__hf_write_numbers(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__hf_index *index) {
  qi__meta_put_array(w, "tokenizer.ggml.token_type", QI_META_I32, index->n_tokens);
  uint8_t *types = qi__meta_room(w, 4 * (size_t)index->n_tokens);
  for (uint32_t id = 0; types && id < index->n_tokens; id++) {
    memset(types + 4 * (size_t)id, 0, 4);
    types[4 * (size_t)id] = index->type[id];
  }
  if (t->byte_level) return;
  qi__meta_put_array(w, QI__KEY_SCORES, QI_META_F32, index->n_tokens); // to be filled in: qi__hf_keep_scores
  uint8_t *scores = qi__meta_room(w, 4 * (size_t)index->n_tokens);
  if (scores) memset(scores, 0, 4 * (size_t)index->n_tokens);
}

QI__FN void qi__hf_write_specials(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__hf_config *c) {
  const struct {
    const char *key;
    uint32_t id;
  } ids[] = {{"tokenizer.ggml.bos_token_id", t->bos}, {"tokenizer.ggml.eos_token_id", t->eos},
             {"tokenizer.ggml.padding_token_id", t->pad}, {"tokenizer.ggml.unknown_token_id", t->unk_id}};
  for (size_t i = 0; i < QI__COUNT_OF(ids); i++) // GGUF's default for SentencePiece is not "none"
    if (ids[i].id != QI__HF_ABSENT || !t->byte_level) qi__meta_put_u32(w, ids[i].key, ids[i].id);
  int add_bos = t->add_bos < 0 && t->byte_level ? 0 : t->add_bos;
  if (add_bos >= 0) qi__meta_put_bool(w, "tokenizer.ggml.add_bos_token", add_bos && t->bos != QI__HF_ABSENT);
  if (t->add_eos >= 0) qi__meta_put_bool(w, "tokenizer.ggml.add_eos_token", t->add_eos && t->eos != QI__HF_ABSENT);
  if (!t->byte_level) qi__meta_put_bool(w, "tokenizer.ggml.add_space_prefix", t->prefix);
  qi__meta_put_array(w, QI__KEY_END_IDS, QI_META_U32, c->eos.n);
  for (uint32_t i = 0; i < c->eos.n; i++) qi__meta_u32(w, c->eos.id[i]);
}

// Ids of added tokens that swallow the white space behind them.
QI__FN void qi__hf_write_rstrip(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__file *f, qi_error *err,
    qi_result *result) {
  qi__json j;
  qi__meta_put_array(w, QI__KEY_RSTRIP_IDS, QI_META_U32, t->n_rstrip);
  if (!t->n_rstrip) return;
  for (qi__hf_walk(&j, f, t->added_pos, QI__JSON_ARRAY, err); qi__json_next(&j);) {
    qi__hf_added a;
    qi__hf_read_added(&j, &a);
    if (!j.result && a.rstrip) qi__meta_u32(w, a.id);
  }
  if (j.result) *result = j.result;
}

// GGUF's keys for a tokenizer that was scanned. index->pos and ->type are used only when the writer writes.
QI__FN qi_result qi__hf_write_tokenizer(qi__meta_writer *w, const qi__hf_tokenizer *t, const qi__hf_config *c,
                                        const qi__hf_index *index, const qi__file *f, qi_error *err) {
  qi_result r = QI_OK;
  qi__meta_put_str(w, "tokenizer.ggml.model", t->byte_level ? "gpt2" : "llama");
  if (t->byte_level) qi__meta_put_str(w, "tokenizer.ggml.pre", qi__hf_pre_name(t));
  qi__hf_write_texts(w, t, index, f, err, &r);
  qi__hf_write_numbers(w, t, index);
  if (!r) qi__hf_write_merges(w, t, f, err, &r);
  qi__hf_write_specials(w, t, c);
  if (!r) qi__hf_write_rstrip(w, t, f, err, &r);
  return r;
}

#endif // QI__MODEL_HF_TOKENIZER_H
