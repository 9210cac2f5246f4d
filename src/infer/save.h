// ==== >>save : a session as a file, and back ====
#ifndef QI__INFER_SAVE_H
#define QI__INFER_SAVE_H

#include "../base/file_replace.h"
#include "../base/stream.h"
#include "decode.h"
#include "save_matcher.h"

// A saved session. Numbers are little-endian, u64 unless noted:
//
//   head      the fields of qi__save_head
//   sequences [n_seqs] length, first position whose keys and values are there, u32 pages from that one to the end: numbers from 0
//             in the order in which they come first; what forks share is at the same positions. n_slots are those of all.
//             u32 tokens, as many as the length says; n_ids are those of all
//   history   u32 [n_history] the sampler's recent tokens, oldest first
//   pending   u32 [n_pending] tokens that were given as text and are not computed yet
//   text      bytes [n_held] of whole characters held back, [n_partial] of one that is not whole
//   grammar   where the matcher is, see save_matcher.h; only if there was one
//   logits    float32 [n_logits, n_vocab] of the last call, in the order of qi_logits
//   pages     [n_pages, n_layers, n_kv_heads] one head as kv_page.h has it
//   checksum  of all before it, see qi__sink
//
// Logits and pages are in the machine's order of bytes, which `order` tells. The version changes when anything does that is here
// or in kv_page.h. The same state gives the same bytes.
#define QI__SAVE_MAGIC 0x0a657661732d6971u // "qi-save\n"
#define QI__SAVE_VERSION 2

typedef struct qi__save_head {
  uint64_t magic, version;
  uint64_t order;             // 0x0102030405060708 as it lies in memory
  uint64_t model, rope;       // digests: see qi__save_model and qi__save_rope
  uint64_t kv_type, page_bytes, n_vocab;
  uint64_t n_seqs, n_slots, n_pages, n_ids; // sequences behind the last that holds tokens are left out
  uint64_t n_history, n_pending, n_held, n_partial, n_logits;
  uint64_t prompted, ended, text_ended, n_predicted;
  uint64_t rng[4];
  uint64_t tau, mu;           // of mirostat: bits of the float and of the double
  uint64_t grammar;           // digest; 0 = none
  uint64_t n_stacks, n_pairs; // of the matcher
} qi__save_head;

#define QI__SAVE_WORDS (sizeof(qi__save_head) / 8)
QI__STATIC_ASSERT(sizeof(qi__save_head) % 8 == 0, save_head_is_words);

// ---- what a file is bound to ----

// Metadata with the vocabulary, tensors by name, type and shape, and 64 bytes at the beginning and in the middle of each: other
// weights of the same shape are another model.
QI__FN uint64_t qi__save_model(const qi_model *m) {
  const qi__gguf *g = &m->gguf;
  uint64_t digest = qi__digest(0, g->resident.map, (size_t)g->resident.size);
  for (size_t i = 0; i < g->n_tensors; i++) {
    const qi__tensor_info *t = &g->tensors[i];
    digest = qi__digest(digest, t->name, strlen(t->name));
    digest = qi__digest_word(digest, (uint64_t)t->gguf_id);
    for (int d = 0; d < 4; d++) digest = qi__digest_word(digest, t->shape[d]);
    size_t bytes = (size_t)t->n_bytes, sample = qi__min_size(bytes, 64);
    if (!m->data[i] || !bytes) continue;
    digest = qi__digest(digest, m->data[i], sample);
    digest = qi__digest(digest, m->data[i] + (bytes - sample) / 2, sample);
  }
  return digest;
}

// Rotations: some models have others for long contexts.
QI__FN uint64_t qi__save_rope(const qi_session *s) {
  const qi__forward *f = &s->forward;
  return qi__digest(qi__digest(0, f->frequency, f->h->n_rot / 2 * sizeof *f->frequency), &f->magnitude, sizeof f->magnitude);
}

// The fields that are the same for all files that this session can load.
QI__FN void qi__save_head_init(const qi_session *s, qi__save_head *h) {
  const uint64_t order = 0x0102030405060708u;
  memset(h, 0, sizeof *h);
  h->magic = QI__SAVE_MAGIC;
  h->version = QI__SAVE_VERSION;
  h->order = qi__load_u64(&order);
  h->model = qi__save_model(s->model);
  h->rope = qi__save_rope(s);
  h->kv_type = (uint64_t)s->kv.head.type;
  h->page_bytes = s->kv.page_bytes;
  h->n_vocab = s->model->h.n_vocab;
}

// Bytes of a file with this head; false on overflow.
QI__FN bool qi__save_bytes(const qi__save_head *h, uint64_t *bytes) {
  const uint64_t parts[][2] = {
    {QI__SAVE_WORDS, 8}, {h->n_seqs, 16}, {h->n_slots, 4}, {h->n_ids, 4}, {h->n_history, 4}, {h->n_pending, 4}, {h->n_held, 1},
    {h->n_partial, 1}, {h->grammar ? h->n_stacks + 1 : 0, 4}, {h->n_pairs, 8}, {h->n_logits, 4 * h->n_vocab},
    {h->n_pages, h->page_bytes}, {1, 8},
  };
  *bytes = 0;
  for (size_t i = 0; i < QI__COUNT_OF(parts); i++) {
    uint64_t part;
    if (!qi__mul_u64(parts[i][0], parts[i][1], &part) || !qi__add_u64(*bytes, part, bytes)) return false;
  }
  return true;
}

// ---- pages ----

// Slots of a sequence that hold pages: from the first to before the last one.
QI__INLINE size_t qi__save_first_slot(const qi__kv *kv, size_t seq) { return kv->first[seq] / QI__KV_PAGE; }
QI__INLINE size_t qi__save_end_slot(const qi__kv *kv, size_t seq) { return qi__kv_pages(kv->length[seq]); }

// Positions of a page, which is at this slot of each sequence that it is in, that hold tokens.
QI__FN size_t qi__save_page_used(const qi__kv *kv, size_t slot, uint32_t page) {
  size_t used = 0;
  for (size_t seq = 0; seq < kv->n_seqs; seq++) {
    if (kv->table[seq * kv->n_table + slot] != page) continue;
    size_t n = qi__min_size(kv->length[seq] - slot * QI__KV_PAGE, QI__KV_PAGE);
    if (n > used) used = n;
  }
  return used;
}

// Positions that hold no token yet may hold anything, also what the host had in this memory before: they become zeros.
QI__FN void qi__save_clear_ends(qi_session *s) {
  qi__kv *kv = &s->kv;
  size_t dim = kv->head.dim_k > kv->head.dim_v ? kv->head.dim_k : kv->head.dim_v;
  float *zeros = s->forward.scratch;
  memset(zeros, 0, dim * sizeof *zeros);
  for (size_t seq = 0; seq < kv->n_seqs; seq++) {
    if (kv->length[seq] % QI__KV_PAGE == 0) continue;
    size_t slot = kv->length[seq] / QI__KV_PAGE;
    uint32_t page = kv->table[seq * kv->n_table + slot];
    for (size_t p = qi__save_page_used(kv, slot, page); p < QI__KV_PAGE; p++)
      for (size_t unit = 0; unit < kv->n_layers * kv->n_kv_heads; unit++)
        qi__kv_store_at(&kv->head, &s->kernels, qi__kv_unit(kv, unit, page), p, zeros, zeros);
  }
}

// Numbers pages in the order of sequences and positions: kv->writers[page] becomes its number, from 1. Counts pages and slots.
QI__FN void qi__save_number_pages(qi__kv *kv, qi__save_head *h) {
  for (size_t seq = 0; seq < h->n_seqs; seq++)
    for (size_t i = qi__save_first_slot(kv, seq); i < qi__save_end_slot(kv, seq); i++, h->n_slots++) {
      uint32_t *number = &kv->writers[kv->table[seq * kv->n_table + i]];
      if (!*number) *number = (uint32_t)++h->n_pages;
    }
}

QI__FN void qi__save_forget_numbers(qi__kv *kv) { memset(kv->writers, 0, kv->n_pages * sizeof *kv->writers); }

// ---- saving ----

// False: cancelled.
QI__FN bool qi__save_put_pages(qi__sink *out, qi_session *s, size_t n_seqs) {
  const qi__kv *kv = &s->kv;
  uint32_t next = 1;
  for (size_t seq = 0; seq < n_seqs; seq++)
    for (size_t i = qi__save_first_slot(kv, seq); i < qi__save_end_slot(kv, seq); i++) {
      uint32_t page = kv->table[seq * kv->n_table + i];
      if (kv->writers[page] != next) continue; // another sequence had it
      next++;
      for (size_t unit = 0; unit < kv->n_layers * kv->n_kv_heads; unit++) {
        if (qi__session_cancelled(s)) return false;
        qi__sink_put(out, qi__kv_unit(kv, unit, page), kv->head.bytes);
      }
    }
  return true;
}

// False: cancelled.
QI__FN bool qi__save_put(qi__sink *out, qi_session *s, const qi__save_head *h) {
  const qi__kv *kv = &s->kv;
  uint64_t words[QI__SAVE_WORDS];
  memcpy(words, h, sizeof words);
  for (size_t i = 0; i < QI__SAVE_WORDS; i++) qi__sink_number(out, words[i], 8);
  for (size_t seq = 0; seq < h->n_seqs; seq++) {
    qi__sink_number(out, kv->length[seq], 8);
    qi__sink_number(out, kv->first[seq], 8);
    for (size_t i = qi__save_first_slot(kv, seq); i < qi__save_end_slot(kv, seq); i++)
      qi__sink_number(out, kv->writers[kv->table[seq * kv->n_table + i]] - 1, 4);
    for (size_t i = 0; i < kv->length[seq]; i++) qi__sink_number(out, (uint64_t)qi__kv_ids(kv, seq)[i], 4);
  }
  for (int k = s->sampler->history_len; k-- > 0;) qi__sink_number(out, (uint64_t)qi__sampler_recent(s->sampler, k), 4);
  for (size_t i = 0; i < s->n_pending; i++) qi__sink_number(out, (uint64_t)s->pending[i], 4);
  qi__sink_put(out, s->text.buf + s->text.given, (size_t)h->n_held);
  qi__sink_put(out, s->text.partial.bytes, (size_t)h->n_partial);
  const qi__matcher_size matcher = {h->n_stacks, h->n_pairs};
  if (h->grammar) qi__matcher_put(out, s->matcher, &matcher);
  for (size_t i = 0; i < s->n_logits; i++)
    qi__sink_put(out, s->forward.logits + s->logits_at[i] * s->model->h.n_vocab, s->model->h.n_vocab * sizeof(float));
  return qi__save_put_pages(out, s, (size_t)h->n_seqs);
}

// Fills in the head; numbers of pages stay in kv->writers until qi__save_forget_numbers.
QI__FN void qi__save_begin(qi_session *s, qi__save_head *h) {
  const qi_sampler *sp = s->sampler;
  qi__save_head_init(s, h);
  h->n_seqs = s->kv.n_seqs;
  while (h->n_seqs && !s->kv.length[h->n_seqs - 1]) h->n_seqs--;
  qi__save_number_pages(&s->kv, h);
  for (size_t seq = 0; seq < h->n_seqs; seq++) h->n_ids += s->kv.length[seq];
  h->n_history = (uint64_t)sp->history_len;
  h->n_pending = s->n_pending;
  h->n_held = s->text.used - s->text.given;
  h->n_partial = s->text.partial.need ? s->text.partial.len : 0;
  h->n_logits = s->n_logits;
  h->prompted = s->prompted;
  h->ended = s->ended;
  h->text_ended = s->text.ended;
  h->n_predicted = (uint64_t)s->n_predicted;
  memcpy(h->rng, sp->rng, sizeof h->rng);
  h->tau = qi__f32_bits(sp->desc.mirostat_tau);
  memcpy(&h->mu, &sp->mu, sizeof h->mu);
  if (!s->matcher) return;
  qi__matcher_size matcher = qi__matcher_number(s->matcher);
  h->grammar = qi__matcher_digest(s->matcher);
  h->n_stacks = matcher.n_stacks;
  h->n_pairs = matcher.n_pairs;
}

// Errors: QI_ERR_STATE, QI_ERR_CANCELLED, QI_ERR_IO (the writer refused; where it has a reason of its own, that is to be said
// instead).
QI__FN qi_result qi__session_save(qi_session *s, const qi_writer *writer, qi_error *err) {
  qi__save_head head;
  qi__sink out;
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "save: work is unfinished (qi_step, or qi_session_reset)");
  qi__guess_drop_all(s);
  qi__save_clear_ends(s);
  qi__save_begin(s, &head);
  qi__sink_init(&out, writer);
  bool whole = qi__save_put(&out, s, &head);
  qi__save_forget_numbers(&s->kv);
  if (!whole) return qi__fail(err, QI_ERR_CANCELLED, "save: cancelled");
  return qi__sink_end(&out) ? QI_OK : qi__fail(err, QI_ERR_IO, "save: the writer's callback failed");
}

// Bytes that it takes.
QI__FN uint64_t qi__session_save_bytes(qi_session *s) {
  qi__save_head head;
  uint64_t bytes = 0;
  qi__save_begin(s, &head);
  qi__save_forget_numbers(&s->kv);
  qi__save_bytes(&head, &bytes);
  return bytes;
}

// The `write` of a qi_writer whose user is the pointer to where the bytes go.
QI__FN bool qi__save_to_memory(void *user, const void *bytes, size_t n) {
  uint8_t **at = (uint8_t **)user;
  memcpy(*at, bytes, n);
  *at += n;
  return true;
}

QI__FN qi_result qi__session_save_memory(qi_session *s, void *out, size_t cap, size_t *n_out, qi_error *err) {
  if (s->work.tokens) return qi__fail(err, QI_ERR_STATE, "save: work is unfinished (qi_step, or qi_session_reset)");
  uint64_t bytes = qi__session_save_bytes(s);
  if (bytes > SIZE_MAX) return qi__fail(err, QI_ERR_LIMIT, "save: does not fit into this machine's address space");
  *n_out = (size_t)bytes;
  if (!out && !cap) return QI_OK;
  if (bytes > cap) return qi__fail(err, QI_ERR_LIMIT, "save: takes %zu bytes, there is room for %zu", (size_t)bytes, cap);
  const qi_writer writer = {qi__save_to_memory, &out};
  return qi__session_save(s, &writer, err);
}

QI__FN qi_result qi__session_save_path(qi_session *s, const char *path, qi_error *err) {
  qi__replace file;
  const qi_writer writer = {qi__replace_write, &file};
  qi_result r = qi__replace_begin(&file, path, &s->allocator, err);
  if (!r) r = qi__session_save(s, &writer, err);
  qi_result end = qi__replace_end(&file, r == QI_OK, err);
  return end ? end : r;
}

// ---- loading: what a file must be ----

QI__FN qi_result qi__load_check_kind(const qi_session *s, const qi__save_head *h, qi_error *err) {
  qi__save_head own;
  qi__save_head_init(s, &own);
  if (h->magic != own.magic) return qi__fail(err, QI_ERR_FORMAT, "is no saved session");
  if (h->version != own.version)
    return qi__fail(err, QI_ERR_UNSUPPORTED, "has version %llu, expected %d", (unsigned long long)h->version, QI__SAVE_VERSION);
  if (h->order != own.order) return qi__fail(err, QI_ERR_UNSUPPORTED, "is of a machine with another order of bytes");
  if (h->model != own.model || h->n_vocab != own.n_vocab) return qi__fail(err, QI_ERR_ARGUMENT, "is of another model");
  if (h->kv_type != own.kv_type)
    return qi__fail(err, QI_ERR_ARGUMENT, "has kv_type %llu, the session has %d", (unsigned long long)h->kv_type,
                    (int)s->kv.head.type);
  if (h->page_bytes != own.page_bytes) return qi__fail(err, QI_ERR_FORMAT, "its pages have another size than this model's");
  if (h->rope != own.rope)
    return qi__fail(err, QI_ERR_ARGUMENT, "has other rotations than this session: n_ctx is on the other side of what the model was "
                    "made for");
  if (h->grammar && !s->matcher)
    return qi__fail(err, QI_ERR_ARGUMENT, "follows a grammar: constrain the session to the same one first (qi_session_constrain)");
  if (h->grammar && h->grammar != qi__matcher_digest(s->matcher))
    return qi__fail(err, QI_ERR_ARGUMENT, "follows another grammar than this session");
  return QI_OK;
}

// The longest text that can be held back, less one byte.
QI__FN size_t qi__load_held_max(const qi__text *t) {
  size_t longest = 1;
  for (int i = 0; i < t->n_stops; i++)
    if (t->stops[i].len > longest) longest = t->stops[i].len;
  return longest - 1;
}

// Numbers of the head that must fit into this session. Later steps check them against each other.
QI__FN qi_result qi__load_check_room(const qi_session *s, const qi__save_head *h, qi_error *err) {
  const struct {
    const char *name;
    uint64_t found, most;
    qi_result code;
  } fields[] = {
    {"sequences", h->n_seqs, s->kv.n_seqs, QI_ERR_CONTEXT},
    {"pages of 128 tokens (n_kv_tokens)", h->n_pages, s->kv.n_pages, QI_ERR_CONTEXT},
    {"rows of logits", h->n_logits, (uint64_t)s->desc.n_logits, QI_ERR_LIMIT},
    {"bytes of text held back for stop strings", h->n_held, qi__load_held_max(&s->text), QI_ERR_LIMIT},
    {"bytes of a character", h->n_partial, 3, QI_ERR_FORMAT},
    {"pending tokens", h->n_pending, qi__min_size(QI__MAX_PENDING, s->kv.n_ctx), QI_ERR_FORMAT},
    {"recent tokens", h->n_history, QI__LAST_N_MAX, QI_ERR_FORMAT},
    {"tokens predicted", h->n_predicted, INT_MAX - 1, QI_ERR_FORMAT},
    {"stacks of the grammar", h->n_stacks, h->grammar ? QI__AUTOMATON_STACKS - 1 : 0, QI_ERR_FORMAT},
    {"places in the grammar", h->n_pairs, h->grammar ? UINT32_MAX : 0, QI_ERR_FORMAT},
    {"in a flag", h->prompted | h->ended | h->text_ended, 1, QI_ERR_FORMAT},
  };
  for (size_t i = 0; i < QI__COUNT_OF(fields); i++)
    if (fields[i].found > fields[i].most)
      return qi__fail(err, fields[i].code, "has %llu %s, expected at most %llu", (unsigned long long)fields[i].found,
                      fields[i].name, (unsigned long long)fields[i].most);
  double mu;
  memcpy(&mu, &h->mu, sizeof mu);
  if (!(mu >= -DBL_MAX && mu <= DBL_MAX)) return qi__fail(err, QI_ERR_FORMAT, "is damaged: mirostat's state is no number");
  if (!(h->rng[0] | h->rng[1] | h->rng[2] | h->rng[3])) return qi__fail(err, QI_ERR_FORMAT, "is damaged: no random state");
  return QI_OK;
}

QI__FN qi_result qi__load_head(qi__source *in, const qi_session *s, qi__save_head *h) {
  uint64_t words[QI__SAVE_WORDS], bytes;
  qi_result r = in->file->size < sizeof *h + 8 ? qi__fail(in->err, QI_ERR_FORMAT, "is no saved session: %llu bytes",
                                                          (unsigned long long)in->file->size) : QI_OK;
  for (size_t i = 0; i < QI__SAVE_WORDS && !r; i++) r = qi__source_number(in, 8, &words[i]);
  if (r) return r;
  memcpy(h, words, sizeof *h);
  if ((r = qi__load_check_kind(s, h, in->err)) || (r = qi__load_check_room(s, h, in->err))) return r;
  if (!qi__save_bytes(h, &bytes) || bytes != in->file->size)
    return qi__fail(in->err, QI_ERR_FORMAT, "is damaged or cut off: it has %llu bytes, expected %llu",
                    (unsigned long long)in->file->size, (unsigned long long)bytes);
  return QI_OK;
}

// ---- loading: its parts. They check all, and change the session only with `apply` ----

typedef struct qi__restore {
  qi_session *s;
  bool apply;
  qi__save_head head;
  uint64_t n_slots, n_pages, n_ids; // that came so far; pages: different ones
  qi__source in;
} qi__restore;

// Pages of slots begin..end-1 of a sequence.
QI__FN qi_result qi__load_slots(qi__restore *l, size_t seq, size_t begin, size_t end) {
  qi__kv *kv = &l->s->kv;
  for (size_t i = begin; i < end; i++) {
    uint64_t page = 0;
    qi_result r = qi__source_number(&l->in, 4, &page);
    if (r) return r;
    bool is_new = page == l->n_pages && page < l->head.n_pages;
    if (!is_new && (page >= l->n_pages || kv->writers[page] != i + 1))
      return qi__fail(l->in.err, QI_ERR_FORMAT, "is damaged: sequence %zu has page %llu where it cannot be", seq,
                      (unsigned long long)page);
    if (is_new) kv->writers[l->n_pages++] = (uint32_t)i + 1;
    if (!l->apply) continue;
    kv->table[seq * kv->n_table + i] = (uint32_t)page;
    if (is_new) qi__kv_take(kv); // of an empty cache: this number
    else kv->refs[page]++;
  }
  return QI_OK;
}

QI__FN qi_result qi__load_token(qi__restore *l, qi_token *out) {
  uint64_t token = 0;
  qi_result r = qi__source_number(&l->in, 4, &token);
  if (r) return r;
  if (token >= l->head.n_vocab)
    return qi__fail(l->in.err, QI_ERR_FORMAT, "is damaged: token %llu, expected below %llu", (unsigned long long)token,
                    (unsigned long long)l->head.n_vocab);
  *out = (qi_token)token;
  return QI_OK;
}

QI__FN qi_result qi__load_seq(qi__restore *l, size_t seq) {
  qi__kv *kv = &l->s->kv;
  uint64_t length = 0, first = 0, n_pending = seq == 0 ? l->head.n_pending : 0;
  qi_result r = qi__source_number(&l->in, 8, &length);
  if (!r) r = qi__source_number(&l->in, 8, &first);
  if (r) return r;
  if (length > kv->n_ctx || length + n_pending > kv->n_ctx + 1)
    return qi__fail(l->in.err, QI_ERR_CONTEXT, "sequence %zu has %llu tokens, n_ctx is %zu", seq,
                    (unsigned long long)(length + n_pending), kv->n_ctx);
  if (first > qi__kv_sees_from(kv, (size_t)length))
    return qi__fail(l->in.err, QI_ERR_FORMAT, "is damaged: sequence %zu begins at %llu", seq, (unsigned long long)first);
  size_t begin = (size_t)first / QI__KV_PAGE, end = qi__kv_pages((size_t)length);
  l->n_slots += end - begin;
  l->n_ids += length;
  if (l->n_slots > l->head.n_slots || l->n_ids > l->head.n_ids)
    return qi__fail(l->in.err, QI_ERR_FORMAT, "is damaged: sequence %zu has too many tokens", seq);
  if (l->apply) {
    kv->length[seq] = (size_t)length;
    kv->first[seq] = (size_t)first;
  }
  r = qi__load_slots(l, seq, begin, end);
  for (size_t i = 0; i < length && !r; i++) {
    qi_token token = 0;
    r = qi__load_token(l, &token);
    if (l->apply) qi__kv_ids(kv, seq)[i] = token;
  }
  return r;
}

QI__FN qi_result qi__load_seqs(qi__restore *l) {
  qi_result r = QI_OK;
  l->n_slots = l->n_pages = l->n_ids = 0;
  for (size_t seq = 0; seq < l->head.n_seqs && !r; seq++) r = qi__load_seq(l, seq);
  qi__save_forget_numbers(&l->s->kv);
  if (r || (l->n_slots == l->head.n_slots && l->n_pages == l->head.n_pages && l->n_ids == l->head.n_ids)) return r;
  return qi__fail(l->in.err, QI_ERR_FORMAT, "is damaged: it has pages or tokens of no sequence");
}

// Tokens for the sampler's history and those that are pending.
QI__FN qi_result qi__load_tokens(qi__restore *l) {
  const qi__save_head *h = &l->head;
  qi_session *s = l->s;
  for (uint64_t i = 0; i < h->n_history + h->n_pending; i++) {
    qi_token token = 0;
    qi_result r = qi__load_token(l, &token);
    if (r) return r;
    if (l->apply && i < h->n_history) qi__sampler_accept(s->sampler, token);
    if (l->apply && i >= h->n_history) s->pending[s->n_pending++] = token;
  }
  return QI_OK;
}

// What stop strings have matched follows from the text that is held back for them.
QI__FN qi_result qi__load_text(qi__restore *l) {
  const qi__save_head *h = &l->head;
  qi_session *s = l->s;
  char held[QI__STOP_LEN_MAX];
  uint8_t bytes[3] = {0};
  qi__utf8 partial = {{0}, 0, 0, 0, 0};
  qi_result r = qi__source_get(&l->in, held, (size_t)h->n_held);
  if (!r) r = qi__source_get(&l->in, bytes, (size_t)h->n_partial);
  if (r) return r;
  bool sound = qi__utf8_valid(held, (size_t)h->n_held);
  for (size_t i = 0; i < h->n_partial && sound; i++)
    sound = (i ? qi__utf8_continue(&partial, bytes[i]) : qi__utf8_begin(&partial, bytes[i])) && partial.need;
  if (!sound) return qi__fail(l->in.err, QI_ERR_FORMAT, "is damaged: text that is held back is not UTF-8");
  if (!l->apply) return QI_OK;
  bool stopped = qi__text_append(&s->text, held, (size_t)h->n_held);
  s->text.partial = partial;
  s->text.ended = stopped || h->text_ended;
  return QI_OK;
}

QI__FN qi_result qi__load_arrays(qi__restore *l) {
  const qi__save_head *h = &l->head;
  qi_session *s = l->s;
  qi__kv *kv = &s->kv;
  qi_result r = QI_OK;
  for (size_t i = 0; i < h->n_logits && !r; i++) {
    float *row = s->forward.logits + i * (size_t)h->n_vocab;
    r = qi__source_get(&l->in, l->apply ? row : NULL, (size_t)h->n_vocab * sizeof *row);
    if (l->apply) s->logits_at[i] = i;
  }
  for (size_t page = 0; page < h->n_pages && !r; page++)
    for (size_t unit = 0; unit < kv->n_layers * kv->n_kv_heads && !r; unit++) {
      if (qi__session_cancelled(s)) r = qi__fail(l->in.err, QI_ERR_CANCELLED, "cancelled");
      else r = qi__source_get(&l->in, l->apply ? qi__kv_unit(kv, unit, page) : NULL, kv->head.bytes);
    }
  return r;
}

QI__FN void qi__load_state(qi_session *s, const qi__save_head *h) {
  qi_sampler *sp = s->sampler;
  memcpy(sp->rng, h->rng, sizeof sp->rng);
  if (h->tau == qi__f32_bits(sp->desc.mirostat_tau)) memcpy(&sp->mu, &h->mu, sizeof sp->mu);
  s->prompted = h->prompted;
  s->ended = h->ended;
  s->n_predicted = (int)h->n_predicted;
  s->n_logits = (size_t)h->n_logits;
}

// ---- loading ----

// One pass over the file.
QI__FN qi_result qi__load_pass(qi_session *s, const qi__file *file, bool apply, qi_error *err) {
  qi__restore l;
  l.s = s;
  l.apply = apply;
  qi__source_init(&l.in, file, err);
  qi_result r = qi__load_head(&l.in, s, &l.head);
  if (!r && apply) qi__session_clear(s);
  if (!r) r = qi__load_seqs(&l);
  if (!r) r = qi__load_tokens(&l);
  if (!r) r = qi__load_text(&l);
  const qi__matcher_size matcher = {l.head.n_stacks, l.head.n_pairs};
  if (!r && l.head.grammar) r = qi__matcher_get(&l.in, s->matcher, &matcher, apply);
  if (!r) r = qi__load_arrays(&l);
  if (!r) r = qi__source_end(&l.in);
  if (!r && apply) qi__load_state(s, &l.head);
  return r;
}

// Reads twice: all is checked before anything is changed, and no memory is needed in between. Should the second time bring
// something else, or be cancelled, the session is empty afterwards.
QI__FN qi_result qi__session_load(qi_session *s, const qi__file *file, qi_error *err) {
  qi_result r = qi__load_pass(s, file, false, err);
  if (!r && (r = qi__load_pass(s, file, true, err))) qi__session_reset(s);
  if (r && r != QI_ERR_IO) qi__fail_prefix(err, "%s: ", file->name[0] ? file->name : "saved session");
  return r;
}

QI__FN qi_result qi__session_load_memory(qi_session *s, const void *data, size_t size, qi_error *err) {
  qi__file file;
  qi_result r = qi__file_open_memory(&file, data, size, err);
  return r ? r : qi__session_load(s, &file, err);
}

QI__FN qi_result qi__session_load_reader(qi_session *s, const qi_reader *reader, qi_error *err) {
  qi__file file;
  qi_result r = qi__file_open_reader(&file, reader, err);
  return r ? r : qi__session_load(s, &file, err);
}

// Not mapped: should someone make the file shorter meanwhile, reading it fails and does no harm.
QI__FN qi_result qi__session_load_path(qi_session *s, const char *path, qi_error *err) {
  qi__file file;
  qi_result r = qi__file_open_path(&file, path, true, err);
  if (!r) r = qi__session_load(s, &file, err);
  qi__file_close(&file);
  return r;
}

#endif // QI__INFER_SAVE_H
