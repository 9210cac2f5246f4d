// ==== >>kv : the key/value cache: pages, and sequences that share them ====
#ifndef QI__INFER_KV_H
#define QI__INFER_KV_H

#include "../kernels/table.h"
#include "../model/hparams.h"

// Keys and values of all layers and heads at QI__KV_PAGE consecutive positions of a sequence lie in a page. All pages are of one
// size and come from one pool, so nothing fragments. A page may be in several sequences at once: forks share what they have in
// common, and a sequence that goes on in a page that others have too takes a copy of it first (copy on write). What one head has
// in all pages lies together: pages that were taken one after another are read as one stream.
//
// Pages are taken before work begins, for all of its tokens, and given back when its sequences return to where they were; so the
// forward pass finds a page for each position and cannot run out of them.
#define QI__KV_NO_PAGE UINT32_MAX

typedef struct qi__kv {
  size_t n_layers, n_seqs, n_kv_heads, n_ctx;
  size_t window;      // of the model; positions that no later token sees are given back; 0 = none
  qi__kv_layout head; // of one head in a page
  size_t n_pages, page_bytes, n_table; // n_table: pages that n_ctx positions take
  uint8_t *data;      // [n_layers, n_kv_heads, n_pages, head.bytes]
  uint32_t *table;    // [n_seqs, n_table] pages in the order of positions; QI__KV_NO_PAGE where there is none
  uint32_t *refs;     // [n_pages] sequences that a page is in
  uint32_t *unused;   // [n_pages] the first n_unused are pages in no sequence
  uint32_t *writers;  // [n_pages] 0 but within qi__kv_needs, and while a session is saved or loaded
  size_t n_unused;
  size_t *length;     // [n_seqs] tokens in each sequence
  size_t *first;      // [n_seqs] position from which on keys and values are there; above 0 only with a window
  qi_token *ids;      // [n_seqs, n_ctx] tokens of each sequence, also of those that a window has given back
} qi__kv;

QI__INLINE size_t qi__kv_pages(size_t n) { return (n + QI__KV_PAGE - 1) / QI__KV_PAGE; }

QI__FN void qi__kv_clear(qi__kv *kv) {
  for (size_t i = 0; i < kv->n_seqs * kv->n_table; i++) kv->table[i] = QI__KV_NO_PAGE;
  for (size_t i = 0; i < kv->n_pages; i++) kv->unused[i] = (uint32_t)(kv->n_pages - 1 - i);
  memset(kv->refs, 0, kv->n_pages * sizeof *kv->refs);
  memset(kv->length, 0, kv->n_seqs * sizeof *kv->length);
  memset(kv->first, 0, kv->n_seqs * sizeof *kv->first);
  kv->n_unused = kv->n_pages;
}

// n_tokens: positions that all sequences have together; 0 = n_seqs * n_ctx. No sequence needs more pages than n_ctx takes.
QI__FN void qi__kv_open(qi__kv *kv, qi__arena *arena, const qi__hparams *h, size_t n_seqs, size_t n_ctx, size_t n_tokens,
                        qi_kv_type type) {
  kv->n_layers = h->n_layers;
  kv->n_seqs = n_seqs;
  kv->n_kv_heads = h->n_kv_heads;
  kv->n_ctx = n_ctx;
  kv->window = h->sliding_window;
  kv->head = qi__kv_layout_of(type, h->head_dim_k, h->head_dim_v);
  kv->n_table = qi__kv_pages(n_ctx);
  size_t n_table, n_ids;
  if (!qi__mul_size(n_seqs, kv->n_table, &n_table) || n_table >= QI__KV_NO_PAGE || !qi__mul_size(n_seqs, n_ctx, &n_ids) ||
      !qi__mul_size(h->n_layers * h->n_kv_heads, kv->head.bytes, &kv->page_bytes)) {
    arena->overflow = true;
    n_table = n_ids = kv->n_table = kv->page_bytes = 0;
  }
  kv->n_pages = n_tokens ? qi__min_size(qi__kv_pages(n_tokens), n_table) : n_table;
  kv->data = (uint8_t *)qi__arena_take(arena, kv->n_pages, kv->page_bytes, QI__CACHE_LINE);
  kv->table = QI__ARENA_ARRAY(arena, uint32_t, n_table);
  kv->refs = QI__ARENA_ARRAY(arena, uint32_t, kv->n_pages);
  kv->unused = QI__ARENA_ARRAY(arena, uint32_t, kv->n_pages);
  kv->writers = QI__ARENA_ARRAY(arena, uint32_t, kv->n_pages);
  kv->length = QI__ARENA_ARRAY(arena, size_t, n_seqs);
  kv->first = QI__ARENA_ARRAY(arena, size_t, n_seqs);
  kv->ids = QI__ARENA_ARRAY(arena, qi_token, n_ids);
  if (!kv->ids || arena->overflow) return;
  memset(kv->writers, 0, kv->n_pages * sizeof *kv->writers);
  qi__kv_clear(kv);
}

// Bytes of keys and values.
QI__FN uint64_t qi__kv_bytes(const qi__kv *kv) { return (uint64_t)kv->n_pages * kv->page_bytes; }

// ---- pages ----

QI__INLINE uint32_t *qi__kv_slot(const qi__kv *kv, size_t seq, size_t pos) {
  return &kv->table[seq * kv->n_table + pos / QI__KV_PAGE];
}

// A unit (layer * n_kv_heads + head) of a page.
QI__INLINE uint8_t *qi__kv_unit(const qi__kv *kv, size_t unit, size_t page) {
  return kv->data + (unit * kv->n_pages + page) * kv->head.bytes;
}

// One head of the page that holds `pos`; NULL where there is no page.
QI__INLINE uint8_t *qi__kv_head(const qi__kv *kv, size_t layer, size_t seq, size_t head, size_t pos) {
  if (pos >= kv->n_ctx) return NULL;
  uint32_t page = *qi__kv_slot(kv, seq, pos);
  if (page == QI__KV_NO_PAGE) return NULL;
  return qi__kv_unit(kv, layer * kv->n_kv_heads + head, page);
}

QI__INLINE qi_token *qi__kv_ids(const qi__kv *kv, size_t seq) { return kv->ids + seq * kv->n_ctx; }

// A page in no sequence, which is there.
QI__FN uint32_t qi__kv_take(qi__kv *kv) {
  uint32_t page = kv->unused[--kv->n_unused];
  kv->refs[page] = 1;
  return page;
}

QI__FN void qi__kv_release(qi__kv *kv, uint32_t *slot) {
  if (*slot == QI__KV_NO_PAGE) return;
  if (--kv->refs[*slot] == 0) kv->unused[kv->n_unused++] = *slot;
  *slot = QI__KV_NO_PAGE;
}

// Makes a page the sequence's own; there is an unused one if others have it too.
QI__FN void qi__kv_own(qi__kv *kv, uint32_t *slot) {
  uint32_t old = *slot;
  if (kv->refs[old] == 1) return;
  *slot = qi__kv_take(kv);
  kv->refs[old]--;
  for (size_t i = 0; i < kv->n_layers * kv->n_kv_heads; i++)
    memcpy(qi__kv_unit(kv, i, *slot), qi__kv_unit(kv, i, old), kv->head.bytes);
}

// ---- room for work ----

// Whether the sequence goes on in a page that others have too.
QI__FN bool qi__kv_shares_end(const qi__kv *kv, size_t seq) {
  size_t n = kv->length[seq];
  return n % QI__KV_PAGE && kv->refs[*qi__kv_slot(kv, seq, n)] > 1;
}

// Pages that it takes to make the sequences as long as `to` says, [n_seqs]. Of those that share a page the last to write keeps it.
QI__FN size_t qi__kv_needs(qi__kv *kv, const size_t *to) {
  size_t n = 0;
  for (size_t seq = 0; seq < kv->n_seqs; seq++) {
    if (to[seq] <= kv->length[seq]) continue;
    n += qi__kv_pages(to[seq]) - qi__kv_pages(kv->length[seq]);
    if (!qi__kv_shares_end(kv, seq)) continue;
    uint32_t page = *qi__kv_slot(kv, seq, kv->length[seq]);
    if (++kv->writers[page] < kv->refs[page]) n++;
  }
  for (size_t seq = 0; seq < kv->n_seqs; seq++)
    if (to[seq] > kv->length[seq] && qi__kv_shares_end(kv, seq)) kv->writers[*qi__kv_slot(kv, seq, kv->length[seq])] = 0;
  return n;
}

// Takes these pages, or none: QI_ERR_CONTEXT. Lengths stay.
QI__FN qi_result qi__kv_reserve(qi__kv *kv, const size_t *to, qi_error *err) {
  size_t n = qi__kv_needs(kv, to);
  if (n > kv->n_unused)
    return qi__fail(err, QI_ERR_CONTEXT, "the key/value cache is full: %zu pages of %d tokens are needed, %zu of %zu are unused", n,
                    QI__KV_PAGE, kv->n_unused, kv->n_pages);
  for (size_t seq = 0; seq < kv->n_seqs; seq++) {
    size_t pos = kv->length[seq];
    if (to[seq] <= pos) continue;
    if (pos % QI__KV_PAGE) qi__kv_own(kv, qi__kv_slot(kv, seq, pos));
    for (pos = qi__kv_pages(pos) * QI__KV_PAGE; pos < to[seq]; pos += QI__KV_PAGE) *qi__kv_slot(kv, seq, pos) = qi__kv_take(kv);
  }
  return QI_OK;
}

// ---- sequences ----

// First position that the token at `pos` sees.
QI__INLINE size_t qi__kv_sees_from(const qi__kv *kv, size_t pos) {
  return kv->window && pos + 1 > kv->window ? pos + 1 - kv->window : 0;
}

// Whether the sequence can go on after its first n tokens: what the next one sees has not been given back.
QI__FN bool qi__kv_can_cut(const qi__kv *kv, size_t seq, size_t n) {
  return n == 0 || kv->first[seq] == 0 || qi__kv_sees_from(kv, n) >= kv->first[seq];
}

// Keeps the first n tokens, of those that there are or that pages were reserved for.
QI__FN void qi__kv_cut(qi__kv *kv, size_t seq, size_t n) {
  for (size_t page = qi__kv_pages(n); page < kv->n_table; page++) qi__kv_release(kv, &kv->table[seq * kv->n_table + page]);
  kv->length[seq] = n;
  if (n == 0) kv->first[seq] = 0;
}

// Gives back what no later token of the sequence sees.
QI__FN void qi__kv_slide(qi__kv *kv, size_t seq) {
  size_t first = qi__kv_sees_from(kv, kv->length[seq]) / QI__KV_PAGE * QI__KV_PAGE;
  if (first <= kv->first[seq]) return;
  for (size_t pos = kv->first[seq]; pos < first; pos += QI__KV_PAGE) qi__kv_release(kv, qi__kv_slot(kv, seq, pos));
  kv->first[seq] = first;
}

// `to` becomes the first n tokens of `from`, by reference; another sequence, n as qi__kv_can_cut allows.
QI__FN void qi__kv_fork(qi__kv *kv, size_t from, size_t to, size_t n) {
  qi__kv_cut(kv, to, 0);
  for (size_t pos = 0; pos < n; pos += QI__KV_PAGE) {
    uint32_t page = *qi__kv_slot(kv, from, pos);
    *qi__kv_slot(kv, to, pos) = page;
    if (page != QI__KV_NO_PAGE) kv->refs[page]++;
  }
  memcpy(qi__kv_ids(kv, to), qi__kv_ids(kv, from), n * sizeof *kv->ids);
  kv->length[to] = n;
  if (n) kv->first[to] = kv->first[from];
}

#endif // QI__INFER_KV_H
