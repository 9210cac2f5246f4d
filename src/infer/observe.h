// ==== >>observe : what goes into matrix products, for those who ask ====
#ifndef QI__INFER_OBSERVE_H
#define QI__INFER_OBSERVE_H

#include "forward.h"

// Name in the file of the tensor that a product of the current operation multiplies with.
QI__FN void qi__product_name(const qi__forward *f, const qi__weight *w, char name[64]) {
  snprintf(name, 64, "%s", f->w->output.data == f->w->embedding.data ? "token_embd.weight" : "output.weight");
  if (f->op == QI__OP_OUTPUT) return;
  size_t at = (size_t)((const char *)w - (const char *)&f->w->layers[f->layer]);
  for (size_t i = 0; i < QI__COUNT_OF(qi__layer_slots); i++) {
    const qi__slot *slot = &qi__layer_slots[i];
    if (slot->kind != QI__MATRIX || !(slot->needed & f->h->arch->features)) continue;
    for (int p = 0; p < 3 && slot->part[p].rows != QI__DIM_ONE; p++)
      if (slot->part[p].at == at) snprintf(name, 64, "blk.%zu.%s", f->layer, slot->name);
  }
}

// Shows the observer the inputs of the current operation, once for each tensor; parts of a fused one come together.
QI__FN void qi__observe(const qi__forward *f) {
  qi__product products[3];
  char name[64], last[64] = "";
  size_t n = qi__products(f, f->op, products), n_rows = f->op == QI__OP_OUTPUT ? f->n_wanted : f->n_rows;
  for (size_t i = 0; i < n; i++) {
    qi__product_name(f, products[i].w, name);
    if (strcmp(name, last) != 0) f->observer.fn(f->observer.user, name, f->in.x, n_rows, products[i].w->n_cols);
    memcpy(last, name, sizeof last);
  }
}

#endif // QI__INFER_OBSERVE_H
