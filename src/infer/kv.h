// ==== >>kv : the key/value cache ====
#ifndef QI__INFER_KV_H
#define QI__INFER_KV_H

#include "../kernels/table.h"
#include "../model/hparams.h"

// Keys and values of every layer, sequence and key/value head: positions of one head lie together, so that attention streams.
//   k: [n_layers, n_seqs, n_kv_heads, n_ctx, head_dim_k]      v: the same with head_dim_v      float16 or float32
typedef struct qi__kv {
  size_t n_layers, n_seqs, n_kv_heads, n_ctx, dim_k, dim_v;
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
  kv->dim_k = h->head_dim_k;
  kv->dim_v = h->head_dim_v;
  kv->half = half;
  size_t positions;
  if (!qi__mul_size(n_seqs, n_ctx, &positions) || !qi__mul_size(positions, h->n_layers * h->n_kv_heads, &positions)) {
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
  return (uint64_t)kv->n_layers * kv->n_seqs * kv->n_kv_heads * kv->n_ctx * (kv->dim_k + kv->dim_v) * qi__kv_element(kv);
}

// Number of the position among all of its kind.
QI__INLINE size_t qi__kv_index(const qi__kv *kv, size_t layer, size_t seq, size_t head, size_t pos) {
  return ((layer * kv->n_seqs + seq) * kv->n_kv_heads + head) * kv->n_ctx + pos;
}

// Positions first..first+n-1 of one head.
QI__INLINE qi__kv_run qi__kv_get(const qi__kv *kv, size_t layer, size_t seq, size_t head, size_t first, size_t n) {
  size_t index = qi__kv_index(kv, layer, seq, head, first), element = qi__kv_element(kv);
  qi__kv_run run = {kv->k + index * kv->dim_k * element, kv->v + index * kv->dim_v * element, n, kv->half};
  return run;
}

QI__FN void qi__kv_store_vector(const qi__kernels *kernels, uint8_t *dst, const float *src, size_t n, bool half) {
  if (half) kernels->to_f16(src, n, (uint16_t *)(void *)dst);
  else memcpy(dst, src, n * sizeof *src);
}

// One position of one head: k [dim_k], v [dim_v].
QI__FN void qi__kv_store(const qi__kv *kv, const qi__kernels *kernels, size_t layer, size_t seq, size_t head, size_t pos,
                         const float *k, const float *v) {
  size_t index = qi__kv_index(kv, layer, seq, head, pos), element = qi__kv_element(kv);
  qi__kv_store_vector(kernels, kv->k + index * kv->dim_k * element, k, kv->dim_k, kv->half);
  qi__kv_store_vector(kernels, kv->v + index * kv->dim_v * element, v, kv->dim_v, kv->half);
}

#endif // QI__INFER_KV_H
