// ==== >>public : the functions of api.h: check arguments, call the parts ====
#ifndef QI__PUBLIC_H
#define QI__PUBLIC_H

#include "infer/batch.h"
#include "infer/chat.h"
#include "infer/save.h"
#include "infer/decode.h"
#include "kernels/product.h"

// The host may have changed rounding or flush-to-zero: qi__fp_enter and qi__fp_leave stand around what computes in this thread
// (threads of the pool do the same).

// ---- results and errors ----

QI_API const char *qi_result_name(qi_result r) {
  switch (r) {
  case QI_OK: return "QI_OK";
  case QI_END: return "QI_END";
  case QI_AGAIN: return "QI_AGAIN";
  case QI_ERR_ARGUMENT: return "QI_ERR_ARGUMENT";
  case QI_ERR_OOM: return "QI_ERR_OOM";
  case QI_ERR_IO: return "QI_ERR_IO";
  case QI_ERR_FORMAT: return "QI_ERR_FORMAT";
  case QI_ERR_UNSUPPORTED: return "QI_ERR_UNSUPPORTED";
  case QI_ERR_LIMIT: return "QI_ERR_LIMIT";
  case QI_ERR_CONTEXT: return "QI_ERR_CONTEXT";
  case QI_ERR_CANCELLED: return "QI_ERR_CANCELLED";
  case QI_ERR_STATE: return "QI_ERR_STATE";
  case QI_ERR_DEVICE: return "QI_ERR_DEVICE";
  }
  return "?";
}

QI_API void qi_log_stderr(void *user, qi_log_level level, const char *msg) {
  (void)user;
#ifdef QI_NO_STDIO
  (void)level;
  (void)msg;
#else
  fprintf(stderr, "qinfer: %s%s\n", level == QI_LOG_WARN ? "warning: " : "", msg);
#endif
}

// For the checks below: a NULL where the header does not allow one.
#define QI__NOT_NULL(arg, function) \
  if (!(arg)) return qi__fail(err, QI_ERR_ARGUMENT, function ": " #arg " is NULL")

// ---- formats ----

QI_API const qi_format_info *qi_format_get(qi_format format) {
  const qi__format *f = qi__format_get(format);
  return f ? &f->info : NULL;
}

QI_API qi_format qi_format_from_name(const char *name) {
  for (int f = 1; name && f < QI_FORMAT_COUNT; f++) {
    const char *a = qi__formats[f].info.name, *b = name;
    while (*a && *a == (*b >= 'a' && *b <= 'z' ? *b - 'a' + 'A' : *b)) a++, b++;
    if (!*a && !*b) return (qi_format)f;
  }
  return QI_FORMAT_NONE;
}

QI_API size_t qi_format_bytes(qi_format format, size_t n) { return qi__format_get(format) ? qi__format_bytes(format, n) : 0; }

QI_API qi_result qi_dequantize(qi_format format, const void *src, float *dst, size_t n, qi_error *err) {
  const qi__format *f = qi__format_get(format);
  if (!f) return qi__fail(err, QI_ERR_ARGUMENT, "qi_dequantize: format %d is unknown", (int)format);
  if (n % (size_t)f->info.block_len)
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_dequantize: %zu weights, expected a multiple of %d for %s", n, f->info.block_len,
                    f->info.name);
  if (!n) return QI_OK;
  QI__NOT_NULL(src, "qi_dequantize");
  QI__NOT_NULL(dst, "qi_dequantize");
  qi__fp_mode mode = qi__fp_enter();
  qi__bound bound;
  qi_result r = qi__format_bind(&bound, format, (const uint8_t *)src + qi__row_bytes(format, n), "qi_dequantize", err);
  if (!r) qi__dequantize_blocks(&bound.format, (const uint8_t *)src, dst, n);
  qi__fp_leave(mode);
  return r;
}

QI__FN qi_result qi__quantize_check(const qi__format *f, const float *src, size_t n, size_t n_cols, const float *importance,
                                    qi_error *err) {
  if (n_cols == 0 || n % n_cols || n_cols % (size_t)f->info.block_len)
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_quantize: %zu weights in rows of %zu, expected whole rows of a multiple of %d for %s",
                    n, n_cols, f->info.block_len, f->info.name);
  for (size_t i = 0; i < n; i++)
    if (!qi__is_finite(src[i])) return qi__fail(err, QI_ERR_ARGUMENT, "qi_quantize: weight %zu is not finite", i);
  for (size_t i = 0; importance && i < n_cols; i++)
    if (!qi__is_finite(importance[i]) || importance[i] < 0)
      return qi__fail(err, QI_ERR_ARGUMENT, "qi_quantize: importance %zu is %g, expected 0 or more", i, (double)importance[i]);
  return QI_OK;
}

QI_API qi_result qi_quantize(qi_format format, const float *src, void *dst, size_t n, size_t n_cols, const float *importance,
                             qi_error *err) {
  const qi__format *f = qi__format_get(format);
  if (!f) return qi__fail(err, QI_ERR_ARGUMENT, "qi_quantize: format %d is unknown", (int)format);
  if (!f->info.can_quantize) return qi__fail(err, QI_ERR_UNSUPPORTED, "qi_quantize: %s cannot be written", f->info.name);
  if (!n) return QI_OK;
  QI__NOT_NULL(src, "qi_quantize");
  QI__NOT_NULL(dst, "qi_quantize");
  qi_result r = qi__quantize_check(f, src, n, n_cols, importance, err);
  if (r) return r;
  qi__fp_mode mode = qi__fp_enter();
  qi__quantize(format, src, (uint8_t *)dst, n / n_cols, n_cols, importance);
  qi__fp_leave(mode);
  return QI_OK;
}

// ---- pools and products ----

QI_API const char *qi_isa_name(qi_isa isa) { return qi__isa_name(isa); }
QI_API int qi_isa_from_name(const char *name) { return name ? qi__isa_from_name(name) : -1; }

QI_API qi_result qi_pool_open(qi_pool **out, const qi_pool_desc *desc, qi_error *err) { return qi__pool_open(out, desc, err); }
QI_API void qi_pool_close(qi_pool *pool) { qi__pool_close(pool); }
QI_API int qi_pool_n_threads(const qi_pool *pool) { return pool ? __atomic_load_n(&pool->n_active, __ATOMIC_RELAXED) : 0; }
QI_API qi_isa qi_pool_isa(const qi_pool *pool) { return pool ? pool->isa : QI_ISA_AUTO; }

// What a product is made with where the caller gives no pool.
QI__FN qi_result qi__own_pool(qi_pool **out, qi_error *err) {
  const qi_pool_desc one = {1, QI_ISA_AUTO, {NULL, NULL}, {NULL, NULL, NULL}};
  return qi__pool_open(out, &one, err);
}

QI__FN qi_result qi__path_check(const char *who, qi_path path, qi_error *err) {
  if (path >= QI_PATH_AUTO && path <= QI_PATH_FLOAT) return QI_OK;
  return qi__fail(err, QI_ERR_ARGUMENT, "%s: path is %d, expected a qi_path", who, (int)path);
}

// A product with sizes that are not 0.
QI__FN qi_result qi__matmul_any(qi_pool *pool, qi_path path, const qi__weight *w, const float *x, size_t n, float *y,
                                qi_error *err) {
  QI__NOT_NULL(x, "qi_matmul");
  QI__NOT_NULL(y, "qi_matmul");
  if (pool) return qi__matmul(pool, path, w, x, n, y, err);
  qi_pool *own = NULL;
  qi_result r = qi__own_pool(&own, err);
  if (r) return r;
  r = qi__matmul(own, path, w, x, n, y, err);
  qi__pool_close(own);
  return r;
}

QI_API qi_result qi_matmul(qi_pool *pool, qi_path path, const qi_matrix *w, const float *x, size_t n, float *y, qi_error *err) {
  QI__NOT_NULL(w, "qi_matmul");
  qi__bound bound;
  qi__weight weight;
  qi_result r = qi__path_check("qi_matmul", path, err);
  if (r) return r;
  if (w->n_rows < 0 || w->n_cols < 0) return qi__fail(err, QI_ERR_ARGUMENT, "qi_matmul: a matrix of negative size");
  if (!n || !w->n_rows) return QI_OK;
  QI__NOT_NULL(w->data, "qi_matmul");
  if ((r = qi__product_check("qi_matmul", w, n, err))) return r;
  if ((r = qi__product_weight("qi_matmul", w, &bound, &weight, err))) return r;
  return qi__matmul_any(pool, path, &weight, x, n, y, err);
}

QI__FN qi_result qi__weight_check(qi_path path, const qi_matrix *w, qi_error *err) {
  QI__NOT_NULL(w, "qi_weight_open");
  QI__NOT_NULL(w->data, "qi_weight_open");
  qi_result r = qi__path_check("qi_weight_open", path, err);
  if (r) return r;
  if (!w->n_rows) return qi__fail(err, QI_ERR_ARGUMENT, "qi_weight_open: a matrix without rows");
  return qi__product_check("qi_weight_open", w, 1, err);
}

QI_API qi_result qi_weight_open(qi_weight **out, qi_pool *pool, qi_path path, const qi_matrix *w, const qi_allocator *allocator,
                                qi_error *err) {
  QI__NOT_NULL(out, "qi_weight_open");
  *out = NULL;
  qi_pool *own = NULL;
  qi_result r = qi__weight_check(path, w, err);
  if (!r && !pool) r = qi__own_pool(&own, err);
  if (!r) r = qi__weight_open(out, pool ? pool : own, path, w, allocator, err);
  qi__pool_close(own);
  return r;
}

QI_API void qi_weight_close(qi_weight *w) { qi__weight_close(w); }

QI_API qi_result qi_weight_memory(qi_pool *pool, qi_path path, const qi_matrix *w, uint64_t *bytes, qi_error *err) {
  QI__NOT_NULL(bytes, "qi_weight_memory");
  qi_pool *own = NULL;
  qi_result r = qi__weight_check(path, w, err);
  if (!r && !pool) r = qi__own_pool(&own, err);
  if (!r) r = qi__weight_memory(pool ? pool : own, path, w, bytes, err);
  qi__pool_close(own);
  return r;
}

QI_API qi_result qi_weight_matmul(qi_pool *pool, qi_path path, const qi_weight *w, const float *x, size_t n, float *y,
                                  qi_error *err) {
  QI__NOT_NULL(w, "qi_weight_matmul");
  const qi_matrix m = {w->w.id, w->w.data, (int64_t)w->w.n_rows, (int64_t)w->w.n_cols};
  qi_result r = qi__path_check("qi_weight_matmul", path, err);
  if (r || !n) return r;
  r = qi__product_check("qi_weight_matmul", &m, n, err);
  return r ? r : qi__matmul_any(pool, path, &w->w, x, n, y, err);
}

// ---- models ----

QI_API qi_result qi_model_open(qi_model **out, const qi_model_desc *desc, qi_error *err) {
  QI__NOT_NULL(out, "qi_model_open");
  *out = NULL;
  QI__NOT_NULL(desc, "qi_model_open");
  qi_model *m = NULL;
  qi_result r = qi__model_open(&m, desc, false, err);
  if (!r) r = qi__backend_attach(m, desc, err);
  if (r) qi__model_close(m);
  else *out = m;
  return r;
}

QI_API void qi_model_close(qi_model *m) { qi__model_close(m); }

QI_API qi_result qi_model_validate(const qi_model_desc *desc, qi_error *err) {
  QI__NOT_NULL(desc, "qi_model_validate");
  qi_model *m = NULL;
  qi_result r = qi__model_open(&m, desc, true, err);
  qi__model_close(m);
  return r;
}

QI_API qi_result qi_model_memory(const qi_model_desc *desc, qi_memory *out, qi_error *err) {
  QI__NOT_NULL(desc, "qi_model_memory");
  QI__NOT_NULL(out, "qi_model_memory");
  return qi__model_memory(desc, out, err);
}

QI_API void qi_model_get_info(const qi_model *m, qi_model_info *out) {
  if (out) memset(out, 0, sizeof *out);
  if (m && out) qi__model_info(m, out);
}

QI_API size_t qi_meta_count(const qi_model *m) { return m ? m->gguf.n_metas : 0; }

QI_API qi_result qi_meta_get(const qi_model *m, size_t i, qi_meta *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_meta_get");
  QI__NOT_NULL(out, "qi_meta_get");
  if (i >= m->gguf.n_metas) return qi__fail(err, QI_ERR_ARGUMENT, "qi_meta_get: entry %zu of %zu", i, m->gguf.n_metas);
  *out = m->gguf.metas[i];
  return QI_OK;
}

QI_API qi_result qi_meta_element(const qi_model *m, size_t i, uint64_t k, qi_meta *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_meta_element");
  QI__NOT_NULL(out, "qi_meta_element");
  if (i >= m->gguf.n_metas) return qi__fail(err, QI_ERR_ARGUMENT, "qi_meta_element: entry %zu of %zu", i, m->gguf.n_metas);
  return qi__gguf_element(&m->gguf, i, k, out, err);
}

QI_API qi_result qi_meta_elements(const qi_model *m, size_t i, uint64_t k, size_t n, qi_meta *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_meta_elements");
  if (n) QI__NOT_NULL(out, "qi_meta_elements");
  if (i >= m->gguf.n_metas) return qi__fail(err, QI_ERR_ARGUMENT, "qi_meta_elements: entry %zu of %zu", i, m->gguf.n_metas);
  return qi__gguf_elements(&m->gguf, i, k, n, out, err);
}

QI_API size_t qi_tensor_count(const qi_model *m) { return m ? m->gguf.n_tensors : 0; }

QI_API qi_result qi_tensor_get(const qi_model *m, size_t i, qi_tensor *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_tensor_get");
  QI__NOT_NULL(out, "qi_tensor_get");
  if (i >= m->gguf.n_tensors) return qi__fail(err, QI_ERR_ARGUMENT, "qi_tensor_get: tensor %zu of %zu", i, m->gguf.n_tensors);
  qi__model_tensor(m, &m->gguf.tensors[i], out);
  return QI_OK;
}

QI_API qi_result qi_tensor_find(const qi_model *m, const char *name, qi_tensor *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_tensor_find");
  QI__NOT_NULL(name, "qi_tensor_find");
  QI__NOT_NULL(out, "qi_tensor_find");
  const qi__tensor_info *t = qi__gguf_tensor(&m->gguf, name);
  if (!t) return qi__fail(err, QI_ERR_ARGUMENT, "tensor %s: not in the file", qi__show(name, strlen(name)).s);
  qi__model_tensor(m, t, out);
  return QI_OK;
}

// ---- tokens ----

QI__FN bool qi__has_vocab(const qi_model *m) { return m && m->load != QI_LOAD_METADATA; }

QI_API qi_result qi_tokenize(const qi_model *m, const char *text, size_t len, int flags, qi_token *out, size_t cap, size_t *n_out,
                             qi_error *err) {
  QI__NOT_NULL(m, "qi_tokenize");
  QI__NOT_NULL(n_out, "qi_tokenize");
  if (len) QI__NOT_NULL(text, "qi_tokenize");
  if (cap) QI__NOT_NULL(out, "qi_tokenize");
  if (flags & ~(QI_TOKENIZE_ADD_SPECIAL | QI_TOKENIZE_PARSE_SPECIAL))
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_tokenize: flags are %d, expected qi_tokenize_flags", flags);
  if (!qi__has_vocab(m)) return qi__fail(err, QI_ERR_STATE, "qi_tokenize: the model was opened without its tokenizer (load)");
  return qi__tokenize(&m->vocab, &m->allocator, text, len, flags, NULL, out, cap, n_out, err);
}

QI_API size_t qi_token_piece(const qi_model *m, qi_token id, bool special, char *out, size_t cap) {
  return qi__has_vocab(m) ? qi__token_piece(&m->vocab, id, special, out, out ? cap : 0) : 0;
}

QI_API qi_result qi_detokenize(const qi_model *m, const qi_token *ids, size_t n, bool special, char *out, size_t cap,
                               size_t *len_out, qi_error *err) {
  QI__NOT_NULL(m, "qi_detokenize");
  QI__NOT_NULL(len_out, "qi_detokenize");
  if (n) QI__NOT_NULL(ids, "qi_detokenize");
  if (cap) QI__NOT_NULL(out, "qi_detokenize");
  if (!qi__has_vocab(m)) return qi__fail(err, QI_ERR_STATE, "qi_detokenize: the model was opened without its tokenizer (load)");
  return qi__detokenize(&m->vocab, ids, n, special, out, cap, len_out, err);
}

QI_API void qi_model_special_tokens(const qi_model *m, qi_special_tokens *out) {
  static const qi_special_tokens none = {-1, -1, -1, -1, -1, -1, false, false};
  if (out) *out = qi__has_vocab(m) ? m->vocab.special : none;
}

QI_API bool qi_token_is_end(const qi_model *m, qi_token id) { return qi__has_vocab(m) && qi__token_is_end(&m->vocab, id); }
QI_API bool qi_token_is_control(const qi_model *m, qi_token id) { return qi__has_vocab(m) && qi__token_is_control(&m->vocab, id); }
QI_API qi_token qi_token_find(const qi_model *m, const char *text, size_t len) {
  return qi__has_vocab(m) && text ? qi__token_find(&m->vocab, text, len) : -1;
}

QI_API size_t qi_tokens_containing(const qi_model *m, const char *text, size_t len, qi_token *out, size_t cap) {
  return qi__has_vocab(m) && text && len ? qi__tokens_containing(&m->vocab, text, len, out, out ? cap : 0) : 0;
}

// ---- conversations ----

QI_API const char *qi_chat_format_name(qi_chat_format format) {
  return (int)format >= 0 && format < QI_CHAT_COUNT ? qi__chat_styles[format].name : "?";
}
QI_API int qi_chat_format_from_name(const char *name) { return name ? qi__chat_format_from_name(name) : -1; }

QI_API qi_result qi_chat_detect(const qi_model *m, qi_chat_format *out, qi_error *err) {
  QI__NOT_NULL(m, "qi_chat_detect");
  QI__NOT_NULL(out, "qi_chat_detect");
  if (!qi__has_vocab(m)) return qi__fail(err, QI_ERR_STATE, "qi_chat_detect: the model was opened without its tokenizer (load)");
  return qi__chat_detect(m, out, err);
}

QI_API qi_result qi_chat_tokens(const qi_model *m, qi_chat_format format, const qi_chat_message *messages, size_t n, size_t n_done,
                                qi_token *out, size_t cap, size_t *n_out, qi_error *err) {
  QI__NOT_NULL(m, "qi_chat_tokens");
  QI__NOT_NULL(n_out, "qi_chat_tokens");
  if (n) QI__NOT_NULL(messages, "qi_chat_tokens");
  if (cap) QI__NOT_NULL(out, "qi_chat_tokens");
  if ((int)format <= QI_CHAT_NONE || format >= QI_CHAT_COUNT)
    return qi__fail(err, QI_ERR_ARGUMENT, "qi_chat_tokens: format is %d, expected a qi_chat_format", (int)format);
  if (!qi__has_vocab(m)) return qi__fail(err, QI_ERR_STATE, "qi_chat_tokens: the model was opened without its tokenizer (load)");
  return qi__chat_tokens(m, format, messages, n, n_done, out, cap, n_out, err);
}

// ---- grammars ----

QI_API qi_result qi_grammar_open(qi_grammar **out, const qi_model *m, const qi_grammar_desc *desc, qi_error *err) {
  QI__NOT_NULL(out, "qi_grammar_open");
  *out = NULL;
  QI__NOT_NULL(m, "qi_grammar_open");
  QI__NOT_NULL(desc, "qi_grammar_open");
  if (!qi__has_vocab(m)) return qi__fail(err, QI_ERR_STATE, "qi_grammar_open: the model was opened without its tokenizer (load)");
  return qi__grammar_open(out, m, desc, err);
}

QI_API qi_result qi_json_schema_gbnf(const char *json_schema, size_t len, const qi_allocator *allocator, char *out, size_t cap,
                                     size_t *n_out, qi_error *err) {
  qi_allocator a;
  QI__NOT_NULL(json_schema, "qi_json_schema_gbnf");
  QI__NOT_NULL(n_out, "qi_json_schema_gbnf");
  if (cap) QI__NOT_NULL(out, "qi_json_schema_gbnf");
  qi_result r = qi__allocator_resolve(allocator, &a, err);
  return r ? r : qi__schema_to_gbnf(json_schema, len, &a, out, cap, n_out, err);
}

QI_API void qi_grammar_close(qi_grammar *g) { qi__grammar_close(g); }

QI_API qi_result qi_matcher_open(qi_matcher **out, const qi_grammar *g, const qi_matcher *share, const qi_allocator *allocator,
                                 qi_error *err) {
  QI__NOT_NULL(out, "qi_matcher_open");
  *out = NULL;
  QI__NOT_NULL(g, "qi_matcher_open");
  return qi__matcher_open(out, g, share, allocator, err);
}

QI_API void qi_matcher_close(qi_matcher *mt) { qi__matcher_close(mt); }
QI_API size_t qi_matcher_memory(const qi_grammar *g, bool shared) { return g ? qi__matcher_memory(g, shared) : 0; }

QI_API void qi_matcher_reset(qi_matcher *mt) {
  if (mt) qi__matcher_reset(mt);
}

QI_API qi_result qi_matcher_copy(qi_matcher *to, const qi_matcher *from, qi_error *err) {
  QI__NOT_NULL(to, "qi_matcher_copy");
  QI__NOT_NULL(from, "qi_matcher_copy");
  if (to->automaton != from->automaton) return qi__fail(err, QI_ERR_ARGUMENT, "qi_matcher_copy: the matchers do not share");
  to->state = from->state;
  return QI_OK;
}

QI_API qi_result qi_matcher_accept(qi_matcher *mt, qi_token token, qi_error *err) {
  QI__NOT_NULL(mt, "qi_matcher_accept");
  return qi__matcher_accept(mt, token, err);
}

QI_API qi_result qi_matcher_accept_text(qi_matcher *mt, const char *text, size_t len, qi_error *err) {
  bool ok = true;
  QI__NOT_NULL(mt, "qi_matcher_accept_text");
  if (len) QI__NOT_NULL(text, "qi_matcher_accept_text");
  qi_result r = qi__matcher_bytes(mt, text, len, &ok, err);
  return r || ok ? r : qi__fail(err, QI_ERR_ARGUMENT, "grammar: the text does not fit here");
}

QI_API qi_result qi_matcher_allowed(qi_matcher *mt, const uint32_t **allowed, qi_error *err) {
  qi__mask mask;
  QI__NOT_NULL(mt, "qi_matcher_allowed");
  QI__NOT_NULL(allowed, "qi_matcher_allowed");
  qi_result r = qi__matcher_mask(mt, &mask, err);
  if (!r) *allowed = mask.allowed;
  return r;
}

QI_API bool qi_matcher_can_end(const qi_matcher *mt) { return mt && qi__automaton_can_end(mt->automaton, mt->state); }

// ---- samplers ----

QI_API qi_result qi_sampler_open(qi_sampler **out, int n_vocab, const qi_sampler_desc *desc, const qi_allocator *allocator,
                                 qi_error *err) {
  QI__NOT_NULL(out, "qi_sampler_open");
  *out = NULL;
  return qi__sampler_open(out, n_vocab, desc, allocator, err);
}

QI_API void qi_sampler_close(qi_sampler *sp) { qi__sampler_close(sp); }
QI_API qi_token qi_sampler_sample(qi_sampler *sp, const float *logits) { return qi_sampler_sample_allowed(sp, logits, NULL); }
QI_API qi_token qi_sampler_sample_allowed(qi_sampler *sp, const float *logits, const uint32_t *allowed) {
  if (!sp || !logits) return -1;
  qi__fp_mode mode = qi__fp_enter();
  qi_token token = qi__sampler_sample(sp, logits, allowed);
  qi__fp_leave(mode);
  return token;
}
QI_API void qi_sampler_accept(qi_sampler *sp, qi_token token) {
  if (sp) qi__sampler_accept(sp, token);
}
QI_API void qi_sampler_reset(qi_sampler *sp, uint64_t seed) {
  if (sp) qi__sampler_reset(sp, seed);
}

QI_API int qi_top_logprobs(const float *logits, int n_vocab, qi_logprob *out, int n) {
  if (!logits || !out || n_vocab < 1 || n < 1 || n > QI__LOGPROBS_MAX) return 0;
  qi__fp_mode mode = qi__fp_enter();
  n = qi__top_logprobs(logits, n_vocab, out, n);
  qi__fp_leave(mode);
  return n;
}

// ---- sessions ----

QI_API const char *qi_kv_type_name(qi_kv_type type) {
  static const char *const names[QI_KV_COUNT] = {"auto", "f32", "f16", "bf16", "q8", "fp8", "q4"};
  return type >= QI_KV_AUTO && type < QI_KV_COUNT ? names[type] : NULL;
}

QI_API qi_result qi_session_open(qi_session **out, const qi_model *m, const qi_session_desc *desc, qi_error *err) {
  QI__NOT_NULL(out, "qi_session_open");
  *out = NULL;
  QI__NOT_NULL(desc, "qi_session_open");
  qi_result r = qi__session_check_model(m, err);
  if (r) return r;
  qi__fp_mode mode = qi__fp_enter(); // rotary frequencies
  r = qi__session_open(out, m, desc, err);
  qi__fp_leave(mode);
  return r;
}

QI_API void qi_session_close(qi_session *s) { qi__session_close(s); }

QI_API qi_result qi_session_memory(const qi_model *m, const qi_session_desc *desc, uint64_t *bytes, qi_error *err) {
  QI__NOT_NULL(desc, "qi_session_memory");
  QI__NOT_NULL(bytes, "qi_session_memory");
  qi_result r = qi__session_check_model(m, err);
  return r ? r : qi__session_memory(m, desc, bytes, err);
}

QI_API qi_result qi_prompt(qi_session *s, const char *text, qi_error *err) {
  QI__NOT_NULL(s, "qi_prompt");
  QI__NOT_NULL(text, "qi_prompt");
  qi_result r = qi__prompt_text(s, text, strlen(text), err);
  return r ? r : qi__work_run(s, 0, err);
}

QI_API qi_result qi_prompt_begin(qi_session *s, const char *text, size_t len, qi_error *err) {
  QI__NOT_NULL(s, "qi_prompt_begin");
  return qi__prompt_text(s, text, len, err);
}

QI_API qi_result qi_prompt_tokens(qi_session *s, const qi_token *ids, size_t n, qi_error *err) {
  QI__NOT_NULL(s, "qi_prompt_tokens");
  return qi__prompt_tokens(s, ids, n, err);
}

QI_API qi_result qi_next(qi_session *s, qi_piece *out, qi_error *err) { return qi_next_within(s, out, 0, err); }

QI_API qi_result qi_next_within(qi_session *s, qi_piece *out, uint32_t budget_us, qi_error *err) {
  QI__NOT_NULL(s, "qi_next");
  QI__NOT_NULL(out, "qi_next");
  qi__fp_mode mode = qi__fp_enter();
  qi_result r = qi__next(s, out, qi__deadline(budget_us), err);
  qi__fp_leave(mode);
  return r;
}

QI_API qi_result qi_session_constrain(qi_session *s, qi_matcher *mt, bool jump, qi_error *err) {
  QI__NOT_NULL(s, "qi_session_constrain");
  return qi__session_constrain(s, mt, jump, err);
}

QI_API void qi_cancel(qi_session *s) {
  if (s) __atomic_store_n(&s->cancel, 1, __ATOMIC_RELAXED);
}

QI_API qi_result qi_decode(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err) {
  QI__NOT_NULL(s, "qi_decode");
  return qi__decode(s, tokens, n, false, err);
}

QI_API qi_result qi_decode_begin(qi_session *s, const qi_decode_token *tokens, size_t n, qi_error *err) {
  QI__NOT_NULL(s, "qi_decode_begin");
  return qi__decode(s, tokens, n, true, err);
}

QI_API qi_result qi_step(qi_session *s, uint32_t budget_us, qi_error *err) {
  QI__NOT_NULL(s, "qi_step");
  return qi__work_run(s, qi__deadline(budget_us), err);
}

QI_API const float *qi_logits(const qi_session *s, int i) { return s ? qi__session_logits(s, i) : NULL; }

QI_API int qi_seq_length(const qi_session *s, int seq) {
  return s && seq >= 0 && (size_t)seq < s->kv.n_seqs ? (int)s->kv.length[seq] : -1;
}

QI_API qi_result qi_seq_truncate(qi_session *s, int seq, int n, qi_error *err) {
  QI__NOT_NULL(s, "qi_seq_truncate");
  return qi__seq_truncate(s, seq, n, err);
}

QI_API qi_result qi_seq_fork(qi_session *s, int from, int to, int n, qi_error *err) {
  QI__NOT_NULL(s, "qi_seq_fork");
  return qi__seq_fork(s, from, to, n, err);
}

QI_API qi_result qi_seq_shift(qi_session *s, int seq, int n_keep, int n_drop, qi_error *err) {
  QI__NOT_NULL(s, "qi_seq_shift");
  qi__fp_mode mode = qi__fp_enter();
  qi_result r = qi__seq_shift(s, seq, n_keep, n_drop, err);
  qi__fp_leave(mode);
  return r;
}

QI_API void qi_session_reset(qi_session *s) {
  if (s) qi__session_reset(s);
}

QI_API qi_result qi_session_save(qi_session *s, void *out, size_t cap, size_t *n_out, qi_error *err) {
  QI__NOT_NULL(s, "qi_session_save");
  QI__NOT_NULL(n_out, "qi_session_save");
  if (cap) QI__NOT_NULL(out, "qi_session_save");
  return qi__session_save_memory(s, out, cap, n_out, err);
}

QI_API qi_result qi_session_save_to(qi_session *s, const qi_writer *writer, qi_error *err) {
  QI__NOT_NULL(s, "qi_session_save_to");
  QI__NOT_NULL(writer, "qi_session_save_to");
  QI__NOT_NULL(writer->write, "qi_session_save_to");
  return qi__session_save(s, writer, err);
}

QI_API qi_result qi_session_save_path(qi_session *s, const char *path, qi_error *err) {
  QI__NOT_NULL(s, "qi_session_save_path");
  QI__NOT_NULL(path, "qi_session_save_path");
  return qi__session_save_path(s, path, err);
}

QI_API qi_result qi_session_load(qi_session *s, const void *data, size_t size, qi_error *err) {
  QI__NOT_NULL(s, "qi_session_load");
  QI__NOT_NULL(data, "qi_session_load");
  return qi__session_load_memory(s, data, size, err);
}

QI_API qi_result qi_session_load_from(qi_session *s, const qi_reader *reader, qi_error *err) {
  QI__NOT_NULL(s, "qi_session_load_from");
  QI__NOT_NULL(reader, "qi_session_load_from");
  return qi__session_load_reader(s, reader, err);
}

QI_API qi_result qi_session_load_path(qi_session *s, const char *path, qi_error *err) {
  QI__NOT_NULL(s, "qi_session_load_path");
  QI__NOT_NULL(path, "qi_session_load_path");
  return qi__session_load_path(s, path, err);
}

QI_API void qi_session_get_stats(const qi_session *s, qi_session_stats *out) {
  if (out) memset(out, 0, sizeof *out);
  if (!s || !out) return;
  *out = s->stats;
  out->kv_tokens_unused = (uint64_t)s->kv.n_unused * QI__KV_PAGE;
  out->n_threads = s->tuner.best;
  out->tuning = !qi__tuner_done(&s->tuner);
}

// ---- batches ----

QI_API qi_result qi_batch_open(qi_batch **out, const qi_model *m, const qi_batch_desc *desc, qi_error *err) {
  QI__NOT_NULL(out, "qi_batch_open");
  *out = NULL;
  QI__NOT_NULL(desc, "qi_batch_open");
  qi_result r = qi__session_check_model(m, err);
  if (r) return r;
  qi__fp_mode mode = qi__fp_enter();
  r = qi__batch_open(out, m, desc, err);
  qi__fp_leave(mode);
  return r;
}

QI_API void qi_batch_close(qi_batch *b) { qi__batch_close(b); }

QI_API qi_result qi_batch_memory(const qi_model *m, const qi_batch_desc *desc, uint64_t *bytes, qi_error *err) {
  QI__NOT_NULL(desc, "qi_batch_memory");
  QI__NOT_NULL(bytes, "qi_batch_memory");
  qi_result r = qi__session_check_model(m, err);
  return r ? r : qi__batch_memory(m, desc, bytes, err);
}

QI_API qi_result qi_batch_submit(qi_batch *b, const qi_batch_request *request, uint64_t *id, qi_error *err) {
  QI__NOT_NULL(b, "qi_batch_submit");
  QI__NOT_NULL(request, "qi_batch_submit");
  QI__NOT_NULL(id, "qi_batch_submit");
  return qi__batch_submit(b, request, id, err);
}

QI_API qi_result qi_batch_step(qi_batch *b, uint32_t budget_us, qi_error *err) {
  QI__NOT_NULL(b, "qi_batch_step");
  qi__fp_mode mode = qi__fp_enter();
  qi_result r = qi__batch_step(b, qi__deadline(budget_us), err);
  qi__fp_leave(mode);
  return r;
}

QI_API bool qi_batch_poll(qi_batch *b, qi_batch_event *out) { return b && out && qi__batch_poll(b, out); }

QI_API qi_result qi_batch_cancel(qi_batch *b, uint64_t id, qi_error *err) {
  QI__NOT_NULL(b, "qi_batch_cancel");
  return qi__batch_cancel(b, id, err);
}

QI_API const char *qi_done_name(qi_done done) {
  static const char *const names[QI_DONE_COUNT] = {"not", "end", "stop", "limit", "cancelled", "context", "grammar"};
  return (int)done >= 0 && done < QI_DONE_COUNT ? names[done] : "?";
}

QI_API qi_session *qi_batch_session(qi_batch *b) { return b ? b->session : NULL; }

QI_API void qi_batch_get_stats(const qi_batch *b, qi_batch_stats *out) {
  if (out) memset(out, 0, sizeof *out);
  if (b && out) *out = b->stats;
}

#undef QI__NOT_NULL

#endif // QI__PUBLIC_H
