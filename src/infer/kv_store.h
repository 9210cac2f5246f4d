// ==== >>kv_store : one position into the cache and out of it; context shift ====
#ifndef QI__INFER_KV_STORE_H
#define QI__INFER_KV_STORE_H

#include "../base/threads.h"
#include "kv.h"

// What a stored x loses, of each element (F32: nothing); `max` is the greatest of its 32 in size:
//
//   F16   2^-11 |x|, or 2^-25 below 2^-14; infinite from 65520 on
//   BF16  2^-8 |x|
//   FP8   2^-4 |x|, or 2^-10 below 2^-6; at most 448
//   Q8    (1/254 + 2^-11) max                     at most 127 * 65504; scales below 2^-14: max / 254 + 127 * 2^-25
//   Q4    (14 / 127 + 2^-11) max                  half of the widest step between codes, and the rounding to Q8; also so
//
// What has been read and is stored again loses nothing more.

// One position of one head in groups of 32: codes, and their scale rounded to half.
typedef struct qi__kv_group {
  int8_t q[QI__KV_GROUP];
  uint16_t scale;
} qi__kv_group;

// Elements 32 g .. of x [dim].
QI__FN qi__kv_group qi__kv_quantize(const qi__kernels *kernels, const float *x, size_t dim, size_t g) {
  qi__kv_group out;
  float padded[QI__KV_GROUP] = {0}, d;
  int16_t sum[2];
  const qi__q8 q8 = {out.q, &d, sum, QI__KV_GROUP, QI__KV_GROUP, QI__KV_GROUP};
  memcpy(padded, x + g * QI__KV_GROUP, qi__min_size(QI__KV_GROUP, dim - g * QI__KV_GROUP) * sizeof *x);
  kernels->quantize_q8(padded, &q8, 0);
  out.scale = qi__f32_to_f16(d < QI__F16_MAX ? d : QI__F16_MAX);
  return out;
}

QI__FN void qi__kv_store_key_codes(const qi__kv_layout *l, const qi__kernels *kernels, uint8_t *head, size_t p, const float *k) {
  uint16_t *scale = (uint16_t *)(void *)(head + l->k_scale);
  for (size_t g = 0; g < l->groups_k; g++) {
    qi__kv_group codes = qi__kv_quantize(kernels, k, l->dim_k, g);
    for (size_t i = 0; i < QI__KV_GROUP; i++)
      qi__kv_set_code(l->type, head, qi__kv_key_at(l, p, g, i), QI__KV_KEY_STEP, codes.q[i]);
    scale[qi__kv_key_scale_at(l, p, g)] = codes.scale;
  }
}

QI__FN void qi__kv_store_value_codes(const qi__kv_layout *l, const qi__kernels *kernels, uint8_t *head, size_t p, const float *v) {
  uint16_t *scale = (uint16_t *)(void *)(head + l->v_scale);
  for (size_t g = 0; g < l->groups_v; g++) {
    qi__kv_group codes = qi__kv_quantize(kernels, v, l->dim_v, g);
    for (size_t i = 0; i < QI__KV_GROUP; i++)
      qi__kv_set_code(l->type, head + l->v, qi__kv_value_at(p, g, i), QI__KV_VALUE_STEP, codes.q[i]);
    scale[qi__kv_value_scale_at(p, g)] = codes.scale;
  }
}

QI__FN void qi__kv_load_key_codes(const qi__kv_layout *l, const uint8_t *head, size_t p, float *k) {
  const uint16_t *scale = (const uint16_t *)(const void *)(head + l->k_scale);
  for (size_t i = 0; i < l->dim_k; i++)
    k[i] = qi__f16_to_f32(scale[qi__kv_key_scale_at(l, p, i / 32)]) *
           qi__kv_code(l->type, head, qi__kv_key_at(l, p, i / 32, i % 32), QI__KV_KEY_STEP);
}

// Codes and scales of a value, from one position to another.
QI__FN void qi__kv_move_value_codes(const qi__kv_layout *l, const uint8_t *from, size_t p, uint8_t *to, size_t to_p) {
  const uint16_t *scale = (const uint16_t *)(const void *)(from + l->v_scale);
  uint16_t *to_scale = (uint16_t *)(void *)(to + l->v_scale);
  for (size_t g = 0; g < l->groups_v; g++) {
    for (size_t i = 0; i < QI__KV_GROUP; i++) {
      int8_t code = qi__kv_code(l->type, from + l->v, qi__kv_value_at(p, g, i), QI__KV_VALUE_STEP);
      qi__kv_set_code(l->type, to + l->v, qi__kv_value_at(to_p, g, i), QI__KV_VALUE_STEP, code);
    }
    to_scale[qi__kv_value_scale_at(to_p, g)] = scale[qi__kv_value_scale_at(p, g)];
  }
}

// x [n] to elements of a float type that lie `step` apart.
QI__FN void qi__kv_store_floats(qi_kv_type type, const qi__kernels *kernels, const float *x, size_t n, uint8_t *to, size_t step) {
  uint16_t part[64];
  if (type == QI_KV_F32) {
    for (size_t i = 0; i < n; i++) ((float *)(void *)to)[i * step] = x[i];
  } else if (type == QI_KV_F16) {
    for (size_t at = 0, m; at < n; at += m) {
      m = qi__min_size(n - at, 64);
      kernels->to_f16(x + at, m, part);
      for (size_t i = 0; i < m; i++) ((uint16_t *)(void *)to)[(at + i) * step] = part[i];
    }
  } else if (type == QI_KV_BF16) {
    for (size_t i = 0; i < n; i++) ((uint16_t *)(void *)to)[i * step] = qi__f32_to_bf16(x[i]);
  } else {
    for (size_t i = 0; i < n; i++) to[i * step] = qi__f32_to_fp8(x[i]);
  }
}

QI__FN void qi__kv_load_floats(qi_kv_type type, const uint8_t *from, size_t step, size_t n, float *x) {
  for (size_t i = 0; i < n; i++) {
    const uint8_t *at = from + qi__kv_size(type, i * step);
    if (type == QI_KV_F32) x[i] = *(const float *)(const void *)at;
    else if (type == QI_KV_F16) x[i] = qi__f16_to_f32(*(const uint16_t *)(const void *)at);
    else if (type == QI_KV_BF16) x[i] = qi__bf16_to_f32(*(const uint16_t *)(const void *)at);
    else x[i] = qi__fp8_to_f32(*at);
  }
}

// Of one head in a page, at position p: keys k [dim_k] and values v [dim_v].

// Elements before those of the key, which lie QI__KEY_BLOCK apart.
QI__INLINE size_t qi__kv_key_first(const qi__kv_layout *l, size_t p) {
  return p / QI__KEY_BLOCK * QI__KEY_BLOCK * l->dim_k + p % QI__KEY_BLOCK;
}

QI__FN void qi__kv_store_key(const qi__kv_layout *l, const qi__kernels *kernels, uint8_t *head, size_t p, const float *k) {
  uint8_t *to = head + qi__kv_size(l->type, qi__kv_key_first(l, p));
  if (qi__kv_is_integer(l->type)) qi__kv_store_key_codes(l, kernels, head, p, k);
  else qi__kv_store_floats(l->type, kernels, k, l->dim_k, to, QI__KEY_BLOCK);
}

QI__FN void qi__kv_store_value(const qi__kv_layout *l, const qi__kernels *kernels, uint8_t *head, size_t p, const float *v) {
  if (qi__kv_is_integer(l->type)) qi__kv_store_value_codes(l, kernels, head, p, v);
  else qi__kv_store_floats(l->type, kernels, v, l->dim_v, head + l->v + qi__kv_size(l->type, p * l->dim_v), 1);
}

QI__FN void qi__kv_load_key(const qi__kv_layout *l, const uint8_t *head, size_t p, float *k) {
  const uint8_t *from = head + qi__kv_size(l->type, qi__kv_key_first(l, p));
  if (qi__kv_is_integer(l->type)) qi__kv_load_key_codes(l, head, p, k);
  else qi__kv_load_floats(l->type, from, QI__KEY_BLOCK, l->dim_k, k);
}

// A value as it is stored, to position to_p of another page or of the same.
QI__FN void qi__kv_move_value(const qi__kv_layout *l, const uint8_t *from, size_t p, uint8_t *to, size_t to_p) {
  size_t bytes = qi__kv_size(l->type, l->dim_v);
  if (qi__kv_is_integer(l->type)) qi__kv_move_value_codes(l, from, p, to, to_p);
  else memmove(to + l->v + to_p * bytes, from + l->v + p * bytes, bytes);
}

QI__FN void qi__kv_store_at(const qi__kv_layout *l, const qi__kernels *kernels, uint8_t *head, size_t p, const float *k,
                            const float *v) {
  qi__kv_store_key(l, kernels, head, p, k);
  qi__kv_store_value(l, kernels, head, p, v);
}

// One position of one head of a sequence, whose page is there.
QI__FN void qi__kv_store(const qi__kv *kv, const qi__kernels *kernels, size_t layer, size_t seq, size_t head, size_t pos,
                         const float *k, const float *v) {
  qi__kv_store_at(&kv->head, kernels, qi__kv_head(kv, layer, seq, head, pos), pos % QI__KV_PAGE, k, v);
}

// Asks for the lines that qi__kv_store will write to, which no cache holds any more if weights have passed since the last position:
// stores wait for theirs. A key is spread over a block of QI__KEY_BLOCK positions; for the order of values see qi__kv_layout.
// (Rotation and attention of tinyllama, F16, two threads of Zen 4: 6 us a layer, 7 without.)
QI__FN void qi__kv_fetch(const qi__kv *kv, size_t layer, size_t seq, size_t head, size_t pos) {
  const qi__kv_layout *l = &kv->head;
  const size_t key_bytes = l->k_scale / (QI__KV_PAGE / QI__KEY_BLOCK), p = pos % QI__KV_PAGE;
  const uint8_t *page = qi__kv_head(kv, layer, seq, head, pos), *key = page + p / QI__KEY_BLOCK * key_bytes;
  bool groups = qi__kv_is_integer(l->type);
  size_t n = groups ? l->groups_v : 1, step = qi__kv_size(l->type, QI__KV_PAGE * QI__KV_GROUP);
  size_t first = groups ? qi__kv_size(l->type, p / 2 * 2 * QI__KV_GROUP) : qi__kv_size(l->type, p * l->dim_v);
  size_t value_bytes = qi__kv_size(l->type, groups ? 2 * QI__KV_GROUP : l->dim_v);
  for (size_t i = 0; i < key_bytes; i += QI__CACHE_LINE) qi__prefetch(key + i);
  for (size_t g = 0; g < n; g++)
    for (size_t i = 0; i < value_bytes; i += QI__CACHE_LINE) qi__prefetch(page + l->v + g * step + first + i);
}

// ---- context shift ----

// Tokens n_keep .. n_keep + n_drop - 1 of a sequence are dropped, those after them move down. Keys were rotated by their
// positions, and a rotation by the distance of the move makes them what they are at their new ones, but for rounding. What they
// hold of the dropped tokens stays in them.
//
// Where enough pages are unused, what moves goes to such pages, and they take their places in the sequence at the end: until then
// nothing is changed, and the move can be cancelled. Else it goes down within the sequence's pages, and is done to its end.
typedef struct qi__kv_shift {
  qi__kv *kv;
  const qi__kernels *kernels;
  const int *cancel;         // read by all threads
  size_t seq;
  const float *cos_sin;      // [2 * n_pairs] of the distance, backwards
  size_t n_pairs;
  bool neighbours;
  float *scratch;            // [n_threads, stride]
  size_t stride;             // at least dim_k
  size_t from, to, end;      // positions from..end-1 move to `to`; set by qi__kv_shift_run, as what follows
  size_t first_page;         // of the table, and n_fresh from there on: what positions move to
  size_t n_fresh;
  bool in_place;             // not to the last n_fresh unused pages
} qi__kv_shift;

// Pages that positions first..end-1 need so that all are there and the sequence's own.
QI__FN size_t qi__kv_shift_needs(const qi__kv *kv, size_t seq, size_t first, size_t end) {
  size_t n = 0;
  for (size_t pos = first / QI__KV_PAGE * QI__KV_PAGE; pos < end; pos += QI__KV_PAGE) {
    uint32_t page = *qi__kv_slot(kv, seq, pos);
    n += page == QI__KV_NO_PAGE || kv->refs[page] > 1;
  }
  return n;
}

// Makes the pages that positions to..end-1 move to the sequence's own.
QI__FN qi_result qi__kv_shift_own(qi__kv_shift *s, size_t end, qi_error *err) {
  qi__kv *kv = s->kv;
  size_t needs = qi__kv_shift_needs(kv, s->seq, s->to, end);
  if (needs > kv->n_unused)
    return qi__fail(err, QI_ERR_CONTEXT, "shift: %zu pages of %d tokens are needed, %zu of %zu are unused", needs, QI__KV_PAGE,
                    kv->n_unused, kv->n_pages);
  for (size_t pos = s->to / QI__KV_PAGE * QI__KV_PAGE; pos < end; pos += QI__KV_PAGE) {
    uint32_t *slot = qi__kv_slot(kv, s->seq, pos);
    if (*slot == QI__KV_NO_PAGE) *slot = qi__kv_take(kv);
    else qi__kv_own(kv, slot);
  }
  return QI_OK;
}

// Sets where the positions go; *valid = first position that is there afterwards.
QI__FN qi_result qi__kv_shift_begin(qi__kv_shift *s, size_t n_keep, size_t n_drop, size_t *valid, qi_error *err) {
  qi__kv *kv = s->kv;
  size_t first = kv->first[s->seq];
  s->end = kv->length[s->seq];
  s->from = n_keep + n_drop > first ? n_keep + n_drop : first;
  s->to = s->from - n_drop;
  size_t end = s->end - n_drop;
  *valid = first <= n_keep ? first : s->to;
  if (*valid && qi__kv_sees_from(kv, end) < *valid)
    return qi__fail(err, QI_ERR_CONTEXT, "shift: what the window of %zu sees afterwards was given back", kv->window);
  s->first_page = s->to / QI__KV_PAGE;
  s->n_fresh = qi__kv_pages(end) - s->first_page; // where nothing moves, the page that the sequence goes on in
  s->in_place = s->n_fresh > kv->n_unused;
  return s->in_place ? qi__kv_shift_own(s, end, err) : QI_OK;
}

// The unused page for page first_page + i of the table; taken in this order they would be, too.
QI__INLINE uint32_t *qi__kv_shift_fresh(const qi__kv_shift *s, size_t i) { return &s->kv->unused[s->kv->n_unused - 1 - i]; }

// Where position `pos` of a unit goes.
QI__INLINE uint8_t *qi__kv_shift_target(const qi__kv_shift *s, size_t unit, size_t pos) {
  const uint32_t *page = s->in_place ? qi__kv_slot(s->kv, s->seq, pos) : qi__kv_shift_fresh(s, pos / QI__KV_PAGE - s->first_page);
  return qi__kv_unit(s->kv, unit, *page);
}

QI__INLINE bool qi__kv_shift_stopped(const qi__kv_shift *s) { return !s->in_place && __atomic_load_n(s->cancel, __ATOMIC_RELAXED); }

// Units are heads of layers. A position is read before another is written over it: moves go down.
QI__FN void qi__kv_shift_unit(const qi__kv_shift *s, size_t unit, float *k) {
  const qi__kv_layout *l = &s->kv->head;
  uint32_t kept = *qi__kv_slot(s->kv, s->seq, s->to);
  if (!s->in_place && s->to % QI__KV_PAGE && kept != QI__KV_NO_PAGE)
    memcpy(qi__kv_shift_target(s, unit, s->to), qi__kv_unit(s->kv, unit, kept), l->bytes);
  for (size_t pos = s->from; pos < s->end && !qi__kv_shift_stopped(s); pos++) {
    const uint8_t *from = qi__kv_unit(s->kv, unit, *qi__kv_slot(s->kv, s->seq, pos));
    size_t p = pos % QI__KV_PAGE, to = s->to + (pos - s->from);
    uint8_t *target = qi__kv_shift_target(s, unit, to);
    qi__kv_load_key(l, from, p, k);
    s->kernels->rope(k, s->cos_sin, s->n_pairs, s->neighbours);
    qi__kv_store_key(l, s->kernels, target, to % QI__KV_PAGE, k);
    qi__kv_move_value(l, from, p, target, to % QI__KV_PAGE);
  }
}

QI__FN void qi__kv_shift_task(void *arg, int worker, int64_t begin, int64_t end) {
  const qi__kv_shift *s = (const qi__kv_shift *)arg;
  float *k = s->scratch + (size_t)worker * s->stride;
  for (int64_t u = begin; u < end && !qi__kv_shift_stopped(s); u++) qi__kv_shift_unit(s, (size_t)u, k);
}

// The unused pages take their places in the sequence. Those that were there become unused, or stay with the others that have them.
QI__FN void qi__kv_shift_commit(qi__kv_shift *s) {
  qi__kv *kv = s->kv;
  for (size_t i = 0; i < s->n_fresh; i++) {
    uint32_t *slot = qi__kv_slot(kv, s->seq, (s->first_page + i) * QI__KV_PAGE), *fresh = qi__kv_shift_fresh(s, i), old = *slot;
    kv->refs[*fresh] = 1;
    *slot = *fresh;
    *fresh = old != QI__KV_NO_PAGE && --kv->refs[old] == 0 ? old : QI__KV_NO_PAGE;
  }
  size_t n_unused = kv->n_unused - s->n_fresh;
  for (size_t i = n_unused; i < kv->n_unused; i++)
    if (kv->unused[i] != QI__KV_NO_PAGE) kv->unused[n_unused++] = kv->unused[i];
  kv->n_unused = n_unused;
}

// Moves keys and values, or finds out that it is to stop.
QI__FN bool qi__kv_shift_move(qi__kv_shift *s, qi_pool *pool) {
  qi__pool_run(pool, qi__kv_shift_task, s, (int64_t)(s->kv->n_layers * s->kv->n_kv_heads), 1);
  if (qi__kv_shift_stopped(s)) return false;
  if (!s->in_place) qi__kv_shift_commit(s);
  return true;
}

// n_keep + n_drop is at most the sequence's length. QI_ERR_CONTEXT, QI_ERR_CANCELLED: nothing is changed.
QI__FN qi_result qi__kv_shift_run(qi__kv_shift *s, qi_pool *pool, size_t n_keep, size_t n_drop, qi_error *err) {
  if (__atomic_load_n(s->cancel, __ATOMIC_RELAXED)) return qi__fail(err, QI_ERR_CANCELLED, "shift: cancelled");
  size_t valid;
  qi_result r = qi__kv_shift_begin(s, n_keep, n_drop, &valid, err);
  if (r) return r;
  if (!qi__kv_shift_move(s, pool)) return qi__fail(err, QI_ERR_CANCELLED, "shift: cancelled");
  s->kv->first[s->seq] = valid;
  qi_token *ids = qi__kv_ids(s->kv, s->seq);
  memmove(ids + n_keep, ids + n_keep + n_drop, (s->end - n_keep - n_drop) * sizeof *ids);
  qi__kv_cut(s->kv, s->seq, s->end - n_drop);
  return QI_OK;
}

#endif // QI__INFER_KV_STORE_H
