// ==== >>chat : conversations in the form that a model was trained on ====
#ifndef QI__CHAT_H
#define QI__CHAT_H

#include "../model/model.h"

// How a format writes messages. In its texts, \1name\2 is a control token (plain text where the vocabulary has none of that name),
// \3 the end token, \4 the begin token. What people wrote goes between the texts and never becomes one of these.
typedef struct qi__chat_style {
  const char *name;
  const char *begin;                        // of the conversation, where the model's file asks for no begin token
  const char *system_before, *system_after; // folded: inside the next user's message, before its text
  const char *user_before, *user_after;
  const char *answer_before, *answer_after;
  bool folded;
  bool answer_blank;                        // a blank before the text of an answer
  bool trim;                                // texts without blanks around them
} qi__chat_style;

// In the order of qi_chat_format.
static const qi__chat_style qi__chat_styles[QI_CHAT_COUNT] = {
  {"none", "", "", "", "", "", "", "", false, false, false},
  {"llama-2", "", "<<SYS>>\n", "\n<</SYS>>\n\n", "\4[INST] ", " [/INST]", "", " \3", true, true, true},
  {"llama-3", "\1<|begin_of_text|>\2", "\1<|start_header_id|>\2system\1<|end_header_id|>\2\n\n", "\1<|eot_id|>\2",
   "\1<|start_header_id|>\2user\1<|end_header_id|>\2\n\n", "\1<|eot_id|>\2",
   "\1<|start_header_id|>\2assistant\1<|end_header_id|>\2\n\n", "\1<|eot_id|>\2", false, false, true},
  {"chatml", "", "\1<|im_start|>\2system\n", "\1<|im_end|>\2\n", "\1<|im_start|>\2user\n", "\1<|im_end|>\2\n",
   "\1<|im_start|>\2assistant\n", "\1<|im_end|>\2\n", false, false, false},
  {"mistral", "\4", "", "\n\n", "\1[INST]\2 ", " \1[/INST]\2", "", "\3", true, true, false},
  {"mistral-v3", "\4", "", "\n\n", "\1[INST]\2 ", "\1[/INST]\2", "", "\3", true, true, true},
  {"mistral-tekken", "\4", "", "\n\n", "\1[INST]\2", "\1[/INST]\2", "", "\3", true, false, false},
  {"phi-3", "", "\1<|system|>\2\n", "\1<|end|>\2\n", "\1<|user|>\2\n", "\1<|end|>\2\n", "\1<|assistant|>\2\n", "\1<|end|>\2\n",
   false, false, false},
  {"gemma", "\4", "", "\n\n", "\1<start_of_turn>\2user\n", "\1<end_of_turn>\2\n", "\1<start_of_turn>\2model\n",
   "\1<end_of_turn>\2\n", true, false, true},
  {"zephyr", "", "\1<|system|>\2\n", "\3\n", "\1<|user|>\2\n", "\3\n", "\1<|assistant|>\2\n", "\3\n", false, false, false},
};

// ---- which format ----

QI__FN int qi__chat_format_from_name(const char *name) {
  for (int i = 0; i < QI_CHAT_COUNT; i++)
    if (!strcmp(name, qi__chat_styles[i].name)) return i;
  return -1;
}

// By what a template (Jinja, which is not run) holds.
QI__FN qi_chat_format qi__chat_by_template(const char *t) {
  if (strstr(t, "<|im_start|>")) return strstr(t, "<|im_sep|>") ? QI_CHAT_NONE : QI_CHAT_CHATML; // the latter: phi-4
  if (strstr(t, "[SYSTEM_PROMPT]")) return QI_CHAT_NONE;
  if (strstr(t, "[INST]")) {
    if (strstr(t, "<<SYS>>")) return QI_CHAT_LLAMA_2;
    if (!strstr(t, "[AVAILABLE_TOOLS]") || strstr(t, " [INST]")) return QI_CHAT_MISTRAL;
    return strstr(t, "\"[INST]\"") ? QI_CHAT_MISTRAL_TEKKEN : QI_CHAT_MISTRAL_V3;
  }
  if (strstr(t, "<|start_header_id|>") && strstr(t, "<|eot_id|>")) return QI_CHAT_LLAMA_3;
  if (strstr(t, "<|assistant|>") && strstr(t, "<|end|>")) return QI_CHAT_PHI_3;
  if (strstr(t, "<|user|>") && (strstr(t, "eos_token") || strstr(t, "<|endoftext|>"))) return QI_CHAT_ZEPHYR;
  if (strstr(t, "<start_of_turn>")) return QI_CHAT_GEMMA;
  return QI_CHAT_NONE;
}

// Without template: by tokens that only one format has.
QI__FN qi_chat_format qi__chat_by_tokens(const qi__vocab *v) {
  static const struct {
    const char *name;
    qi_chat_format format;
  } marks[] = {{"<|start_header_id|>", QI_CHAT_LLAMA_3}, {"<|im_start|>", QI_CHAT_CHATML}, {"<start_of_turn>", QI_CHAT_GEMMA}};
  for (size_t i = 0; i < QI__COUNT_OF(marks); i++)
    if (qi__token_by_name(v, marks[i].name) >= 0) return marks[i].format;
  return QI_CHAT_NONE;
}

QI__FN qi_result qi__chat_detect(const qi_model *m, qi_chat_format *out, qi_error *err) {
  static const char known[] = "known are llama-2, llama-3, chatml, mistral, mistral-v3, mistral-tekken, phi-3, gemma, zephyr: "
                              "choose one of them if you know that the model was trained on it";
  qi_model_info info;
  qi__model_info(m, &info);
  const char *t = info.chat_template;
  qi_chat_format format = *t ? qi__chat_by_template(t) : qi__chat_by_tokens(&m->vocab);
  if (format == QI_CHAT_NONE)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "chat: the model has %s; %s", *t ? "a template of another kind" : "no template",
                    known);
  *out = format;
  return QI_OK;
}

// ---- messages to tokens ----

typedef struct qi__chat {
  const qi__vocab *v;
  const qi__chat_style *style;
  qi__merger merger;
  qi__token_sink sink;
  qi_token *ids;       // [n_ids] of a stretch
  size_t n_ids;
  char *text;          // a stretch of text between control tokens
  size_t len, cap;
  bool strip;          // the control token before it swallows blanks
  bool joined;         // it follows text that is in the context
  char *piece;         // [max_token]
} qi__chat;

// Tokens that structure a conversation: those of the style and all that end generation. Plain text must not become one.
QI__FN bool qi__chat_is_mark(const qi__chat *c, qi_token id) {
  const char *texts[] = {c->style->begin,        c->style->system_before, c->style->system_after, c->style->user_before,
                         c->style->user_after,   c->style->answer_before, c->style->answer_after};
  size_t len;
  if (qi__token_is_end(c->v, id)) return true;
  if (qi__token_type(c->v, (uint32_t)id) != QI__TOKEN_USER) return false;
  const char *name = qi__token_text(c->v, (uint32_t)id, &len);
  for (size_t i = 0; i < QI__COUNT_OF(texts); i++)
    for (const char *p = texts[i]; (p = strchr(p, '\1')) != NULL; p++)
      if (strchr(p, '\2') == p + 1 + len && !memcmp(p + 1, name, len)) return true;
  return false;
}

// Ends a stretch of text. A mark in it was written by someone as text, and is encoded in two parts.
QI__FN void qi__chat_flush(qi__chat *c) {
  size_t start = 0;
  while (c->strip && start < c->len && qi__is_ascii_space(c->text[start])) start++;
  qi__token_sink ids = {c->ids, c->n_ids, 0};
  if (c->joined) qi__encode_plain(&c->merger, c->text, start, c->len, false, &ids);
  else qi__encode(&c->merger, c->text + start, c->len - start, 0, &ids);
  for (size_t i = 0; i < ids.n && i < c->n_ids; i++) {
    size_t len = qi__chat_is_mark(c, c->ids[i]) ? qi__token_piece(c->v, c->ids[i], false, c->piece, c->v->max_token) : 0;
    if (len < 2) {
      qi__emit(&c->sink, c->ids[i]);
      continue;
    }
    uint32_t cp;
    size_t first = qi__utf8_next(c->piece, len, &cp);
    qi__encode_plain(&c->merger, c->piece, 0, first, false, &c->sink);
    qi__encode_plain(&c->merger, c->piece, first, len, false, &c->sink);
  }
  c->len = 0;
  c->strip = c->joined = false;
}

QI__FN void qi__chat_put(qi__chat *c, const char *text, size_t len) {
  len = qi__min_size(len, c->cap - c->len);
  memcpy(c->text + c->len, text, len);
  c->len += len;
}

QI__FN void qi__chat_control(qi__chat *c, qi_token id) {
  qi__chat_flush(c);
  if (id < 0) return;
  qi__emit(&c->sink, id);
  c->strip = (c->v->attrs[id] & QI__TOKEN_RSTRIP) != 0;
}

// A text of the style.
QI__FN void qi__chat_part(qi__chat *c, const char *p) {
  while (*p) {
    size_t n = strcspn(p, "\1\3\4");
    qi__chat_put(c, p, n);
    p += n;
    if (*p == '\3') qi__chat_control(c, c->v->special.eos), p++;
    else if (*p == '\4') qi__chat_control(c, c->v->special.bos), p++;
    else if (*p == '\1') {
      size_t len = strcspn(++p, "\2");
      qi_token id = qi__token_find(c->v, p, len);
      bool mark = id >= 0 && (qi__token_is_control(c->v, id) || qi__token_type(c->v, (uint32_t)id) == QI__TOKEN_USER);
      if (mark) qi__chat_control(c, id);
      else qi__chat_put(c, p, len);
      p += len + 1;
    }
  }
}

QI__FN void qi__chat_text(qi__chat *c, const qi_chat_message *m) {
  const char *text = m->text;
  size_t len = m->len;
  while (c->style->trim && len && qi__is_ascii_space(text[len - 1])) len--;
  while (c->style->trim && len && qi__is_ascii_space(*text)) text++, len--;
  qi__chat_put(c, text, len);
}

// Messages from n_done on, see qi_chat_tokens. `open`: an answer has begun and is not closed.
QI__FN void qi__chat_write(qi__chat *c, const qi_chat_message *messages, size_t n, size_t n_done) {
  const qi__chat_style *s = c->style;
  bool open = n_done > 0;
  size_t folded = n_done; // first system message that waits for a user's
  c->joined = open;
  if (!n_done && c->v->special.add_bos && s->user_before[0] != '\4') qi__chat_control(c, c->v->special.bos);
  else if (!n_done) qi__chat_part(c, s->begin);
  for (size_t i = n_done; i < n; i++) {
    const qi_chat_message *m = &messages[i];
    if (m->role == QI_CHAT_SYSTEM && s->folded) continue;
    if (open && m->role != QI_CHAT_ASSISTANT) qi__chat_part(c, s->answer_after);
    if (m->role == QI_CHAT_ASSISTANT) {
      if (!open) qi__chat_part(c, s->answer_before);
      if (s->answer_blank) qi__chat_put(c, " ", 1);
      qi__chat_text(c, m);
      open = true;
      folded = i + 1;
      continue;
    }
    qi__chat_part(c, m->role == QI_CHAT_USER ? s->user_before : s->system_before);
    for (size_t k = folded; k < i && s->folded; k++) {
      qi__chat_part(c, s->system_before);
      qi__chat_text(c, &messages[k]);
      qi__chat_part(c, s->system_after);
    }
    qi__chat_text(c, m);
    qi__chat_part(c, m->role == QI_CHAT_USER ? s->user_after : s->system_after);
    folded = i + 1;
    open = false;
  }
  if (!open) qi__chat_part(c, s->answer_before);
  qi__chat_flush(c);
}

#define QI__CHAT_STYLE_BYTES 256 // at most of a style's texts around one message

// Errors: QI_ERR_ARGUMENT, QI_ERR_LIMIT.
QI__FN qi_result qi__chat_check(const qi__chat_style *s, const qi_chat_message *messages, size_t n, size_t n_done, size_t *bytes,
                                qi_error *err) {
  *bytes = QI__CHAT_STYLE_BYTES;
  if (n_done > n) return qi__fail(err, QI_ERR_ARGUMENT, "chat: n_done is %zu, there are %zu messages", n_done, n);
  for (size_t i = 0; i < n; i++) {
    int role = (int)messages[i].role;
    if (role < QI_CHAT_SYSTEM || role > QI_CHAT_ASSISTANT)
      return qi__fail(err, QI_ERR_ARGUMENT, "chat: messages[%zu].role is %d, expected a qi_chat_role", i, role);
    if (messages[i].len && !messages[i].text) return qi__fail(err, QI_ERR_ARGUMENT, "chat: messages[%zu].text is NULL", i);
    if (role == QI_CHAT_SYSTEM && s->folded && (i + 1 == n || i + 1 == n_done || messages[i + 1].role == QI_CHAT_ASSISTANT))
      return qi__fail(err, QI_ERR_ARGUMENT, "chat: messages[%zu]: in %s a system message is part of the user's that must follow", i,
                      s->name);
    if (i < n_done) continue;
    bool fits = qi__add_size(*bytes, messages[i].len, bytes) && qi__add_size(*bytes, QI__CHAT_STYLE_BYTES, bytes);
    if (!fits || *bytes >= QI__TEXT_LIMIT) return qi__fail(err, QI_ERR_LIMIT, "chat: texts of 2^30 bytes or more");
  }
  return QI_OK;
}

QI__FN qi_result qi__chat_tokens(const qi_model *m, qi_chat_format format, const qi_chat_message *messages, size_t n, size_t n_done,
                                 qi_token *out, size_t cap, size_t *n_out, qi_error *err) {
  qi__chat c;
  memset(&c, 0, sizeof c);
  c.v = &m->vocab;
  c.style = &qi__chat_styles[format];
  qi_result r = qi__chat_check(c.style, messages, n, n_done, &c.cap, err);
  if (r) return r;
  qi__arena arena = {0};
  for (int real = 0; real < 2; real++) {
    if (real && (r = qi__arena_open(&arena, &m->allocator, "chat", err)) != QI_OK) return r;
    c.n_ids = c.cap + 2;
    c.text = QI__ARENA_ARRAY(&arena, char, c.cap);
    c.ids = QI__ARENA_ARRAY(&arena, qi_token, c.n_ids);
    c.merger.heap = QI__ARENA_ARRAY(&arena, uint64_t, 2 * (c.cap + 2));
    c.merger.symbols = QI__ARENA_ARRAY(&arena, qi__symbol, c.cap + 2);
    c.piece = QI__ARENA_ARRAY(&arena, char, m->vocab.max_token);
    c.merger.key = QI__ARENA_ARRAY(&arena, char, (size_t)m->vocab.max_token + 1);
  }
  c.merger.v = c.v;
  c.sink = (qi__token_sink){out, cap, 0};
  qi__chat_write(&c, messages, n, n_done);
  *n_out = c.sink.n;
  qi__arena_close(&arena, &m->allocator);
  return QI_OK;
}

#endif // QI__CHAT_H
