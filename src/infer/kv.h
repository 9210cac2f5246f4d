// ==== >>kv : the key/value cache ====
#ifndef QI__INFER_KV_H
#define QI__INFER_KV_H

#include "../kernels/table.h"
#include "../model/hparams.h"

// Keys and values of every layer, sequence and key/value head: positions of one head lie together, so that attention streams.
//   k: [n_layers, n_seqs, n_kv_heads, n_room / 16, head_dim_k, 16]      v: [n_layers, n_seqs, n_kv_heads, n_room, head_dim_v]
// float16 or float32. Keys are in blocks of 16 positions that hold the same element of all positions side by side: see attention.h.
typedef struct qi__kv {
  size_t n_layers, n_seqs, n_kv_heads, n_ctx, dim_k, dim_v;
  size_t n_room; // positions that there is memory for: n_ctx in whole blocks
  bool half;
  uint8_t *k, *v;
  size_t *length; // [n_seqs] tokens in each sequence
} qi__kv;

// Bytes of one element.
QI__INLINE size_t qi__kv_element(const qi__kv *kv) { return kv->half ? 2 : 4; }

QI__FN void qi__kv_layout(qi__kv *kv, qi__arena *arena, const qi__hparams *h, size_t n_seqs, size_t n_ctx, bool half) {
  kv->n_layers = h->n_layers;
  kv->n_seqs = n_seqs;
  kv->n_kv_heads = h->n_kv_heads;
  kv->n_ctx = n_ctx;
  kv->n_room = (n_ctx + QI__KEY_BLOCK - 1) / QI__KEY_BLOCK * QI__KEY_BLOCK;
  kv->dim_k = h->head_dim_k;
  kv->dim_v = h->head_dim_v;
  kv->half = half;
  size_t positions;
  if (!qi__mul_size(n_seqs, kv->n_room, &positions) || !qi__mul_size(positions, h->n_layers * h->n_kv_heads, &positions)) {
    arena->overflow = true;
    positions = 0;
  }
  kv->k = (uint8_t *)qi__arena_take(arena, positions, h->head_dim_k * qi__kv_element(kv), QI__CACHE_LINE);
  kv->v = (uint8_t *)qi__arena_take(arena, positions, h->head_dim_v * qi__kv_element(kv), QI__CACHE_LINE);
  kv->length = QI__ARENA_ARRAY(arena, size_t, n_seqs);
  if (kv->length) memset(kv->length, 0, n_seqs * sizeof *kv->length);
}

// Bytes of keys and values.
QI__FN uint64_t qi__kv_bytes(const qi__kv *kv) {
  return (uint64_t)kv->n_layers * kv->n_seqs * kv->n_kv_heads * kv->n_room * (kv->dim_k + kv->dim_v) * qi__kv_element(kv);
}

// Positions before `pos` of one head, of all that there is room for.
QI__INLINE size_t qi__kv_index(const qi__kv *kv, size_t layer, size_t seq, size_t head, size_t pos) {
  return ((layer * kv->n_seqs + seq) * kv->n_kv_heads + head) * kv->n_room + pos;
}

// Positions first..first+n-1 of one head; `first` is a multiple of QI__KEY_BLOCK. The keys after them count as those wanted next.
QI__INLINE qi__kv_run qi__kv_get(const qi__kv *kv, size_t layer, size_t seq, size_t head, size_t first, size_t n) {
  size_t index = qi__kv_index(kv, layer, seq, head, first), element = qi__kv_element(kv);
  const uint8_t *k = kv->k + index * kv->dim_k * element, *v = kv->v + index * kv->dim_v * element;
  qi__kv_run run = {k, v, n, kv->half, first + n < kv->n_ctx ? k + n * kv->dim_k * element : k};
  return run;
}

// One position of one head: k [dim_k], v [dim_v].
QI__FN void qi__kv_store(const qi__kv *kv, const qi__kernels *kernels, size_t layer, size_t seq, size_t head, size_t pos,
                         const float *k, const float *v) {
  size_t lane = pos % QI__KEY_BLOCK, block = qi__kv_index(kv, layer, seq, head, pos - lane) * kv->dim_k + lane;
  size_t at = qi__kv_index(kv, layer, seq, head, pos) * kv->dim_v;
  if (!kv->half) {
    float *keys = (float *)(void *)kv->k + block;
    for (size_t i = 0; i < kv->dim_k; i++) keys[i * QI__KEY_BLOCK] = k[i];
    memcpy((float *)(void *)kv->v + at, v, kv->dim_v * sizeof *v);
    return;
  }
  uint16_t *keys = (uint16_t *)(void *)kv->k + block, part[64];
  for (size_t i = 0, n; i < kv->dim_k; i += n) {
    n = qi__min_size(kv->dim_k - i, 64);
    kernels->to_f16(k + i, n, part);
    for (size_t j = 0; j < n; j++) keys[(i + j) * QI__KEY_BLOCK] = part[j];
  }
  kernels->to_f16(v, kv->dim_v, (uint16_t *)(void *)kv->v + at);
}

#endif // QI__INFER_KV_H
