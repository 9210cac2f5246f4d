// What training writes: the model as GGUF in F32, checkpoints, and a plot of the loss.
#ifndef TRAIN_FILE_H
#define TRAIN_FILE_H

#include <errno.h>

#include "train_loop.h"

// Writes `size` bytes to "PATH.part", then renames it. False after a message.
TRAIN_FN bool train_write_file(const char *path, const void *bytes, size_t size) {
  char part[1024];
  if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part) errno = ENAMETOOLONG;
  else if (gw_save(bytes, size, part) && rename(part, path) == 0) return true;
  fprintf(stderr, "train: %s: %s\n", path, strerror(errno));
  return false;
}

// Bytes of a file with a terminator, to be freed; NULL after a message.
TRAIN_FN char *train_read_file(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  long n = f && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
  char *bytes = n >= 0 ? (char *)malloc((size_t)n + 1) : NULL;
  if (f) rewind(f);
  bool good = bytes && fread(bytes, 1, (size_t)n, f) == (size_t)n;
  if (f) fclose(f);
  if (good) {
    bytes[n] = 0;
    *size = (size_t)n;
    return bytes;
  }
  fprintf(stderr, "train: %s: %s\n", path, errno ? strerror(errno) : "cannot be read");
  free(bytes);
  return NULL;
}

// ---- GGUF ----

TRAIN_FN void train_put_u32(gw_file *w, const char *arch, const char *key, int v) {
  char full[96];
  snprintf(full, sizeof full, "%s.%s", arch, key);
  gw_kv_u32(w, full, (uint32_t)v);
}

// All matrices in F32; ternary ones as they are multiplied, so that quantising them to TQ2_0 loses nothing. False after a message.
TRAIN_FN bool train_save_gguf(const train_model *m, const train_vocab *v, const char *name, const char *path) {
  const train_config *c = &m->c;
  const char *arch = c->ternary ? "bitnet" : "llama";
  char full[96];
  gw_file w;
  gw_begin(&w, 3);
  gw_kv_str(&w, "general.architecture", arch);
  gw_kv_str(&w, "general.name", name);
  gw_kv_str(&w, "general.license", "mit-0");
  gw_kv_u32(&w, "general.file_type", 0);
  train_put_u32(&w, arch, "vocab_size", c->n_vocab);
  train_put_u32(&w, arch, "context_length", c->n_ctx);
  train_put_u32(&w, arch, "embedding_length", c->n_embd);
  train_put_u32(&w, arch, "block_count", c->n_layers);
  train_put_u32(&w, arch, "feed_forward_length", c->n_ff);
  train_put_u32(&w, arch, "attention.head_count", c->n_heads);
  train_put_u32(&w, arch, "attention.head_count_kv", c->n_kv_heads);
  train_put_u32(&w, arch, "rope.dimension_count", c->n_embd / c->n_heads);
  snprintf(full, sizeof full, "%s.rope.freq_base", arch);
  gw_kv_f32(&w, full, (float)TRAIN_THETA);
  snprintf(full, sizeof full, "%s.attention.layer_norm_rms_epsilon", arch);
  gw_kv_f32(&w, full, (float)TRAIN_EPS);
  train_vocab_write(v, &w);
  for (size_t i = 0; i < m->n_tensors; i++) {
    const train_tensor *t = &m->tensors[i];
    size_t n = train_tensor_size(t);
    float *values = n ? (float *)malloc(n * sizeof *values) : NULL;
    for (size_t k = 0; values && k < n; k++) values[k] = (float)m->effective[t->at + k];
    uint64_t shape[2] = {t->cols, t->rows};
    if (values) gw_tensor(&w, t->name, 0, t->rows > 1 ? 2 : 1, shape, values, n * sizeof *values);
    else if (n) w.data.failed = 1;
    free(values);
  }
  size_t size = 0;
  const uint8_t *bytes = gw_finish(&w, &size);
  if (!bytes) fprintf(stderr, "train: no memory for the model's file\n");
  bool good = bytes && train_write_file(path, bytes, size);
  gw_free(&w);
  return good;
}

// ---- checkpoints ----

// Losses of all steps so far, and of the held-out text after some of them.
typedef struct train_history {
  float *loss;                // [steps]
  float *held_out;            // [steps + 1]: after so many steps; 0 = not computed
} train_history;

typedef struct train_checkpoint {
  char magic[8];
  train_config config;
  int32_t step, steps, n_seqs, warmup;
  uint64_t vocab_hash, text_tokens, seed;
  double rate;
} train_checkpoint;

TRAIN_FN uint64_t train_vocab_hash(const train_vocab *v) {
  uint64_t h = 14695981039346656037u;
  for (int i = 0; i < v->n; i++)
    for (const char *p = v->texts[i];; p++) {
      h = (h ^ (uint8_t)*p) * 1099511628211u;
      if (!*p) break;
    }
  return h;
}

TRAIN_FN train_checkpoint train_checkpoint_of(const train_loop *l, const train_vocab *v, const train_text *text, int step) {
  train_checkpoint c;
  memset(&c, 0, sizeof c);
  memcpy(c.magic, "qitrain1", 8);
  c.config = l->m.c;
  c.step = step;
  c.steps = l->steps;
  c.n_seqs = l->n_shards * (int)l->shards[0].n_seqs;
  c.warmup = l->warmup;
  c.vocab_hash = train_vocab_hash(v);
  c.text_tokens = text->n;
  c.seed = l->seed;
  c.rate = l->rate;
  return c;
}

TRAIN_FN bool train_save_checkpoint(const train_loop *l, const train_checkpoint *c, const train_history *h, const char *path) {
  size_t n = l->m.n_params * sizeof(real), losses = (size_t)c->step * sizeof(float);
  gw_buf b;
  memset(&b, 0, sizeof b);
  gw_bytes(&b, c, sizeof *c);
  gw_bytes(&b, l->m.params, n);
  gw_bytes(&b, l->adam.m, n);
  gw_bytes(&b, l->adam.v, n);
  gw_bytes(&b, h->loss, losses);
  gw_bytes(&b, h->held_out, losses + sizeof(float));
  if (b.failed) fprintf(stderr, "train: no memory for a checkpoint\n");
  bool good = !b.failed && train_write_file(path, b.data, b.size);
  free(b.data);
  return good;
}

// Goes on where a checkpoint of the same text and settings was written; *step is how far it was. Only the number of steps may be
// another one: the learning rate then goes on along the new cosine. False after a message.
TRAIN_FN bool train_load_checkpoint(train_loop *l, const train_checkpoint *now, train_history *h, const char *path, int *step) {
  size_t size, n = l->m.n_params * sizeof(real), losses = 0;
  char *bytes = train_read_file(path, &size);
  train_checkpoint c, same = *now;
  if (!bytes) return false;
  bool good = size >= sizeof c;
  if (good) {
    memcpy(&c, bytes, sizeof c);
    same.step = c.step;
    same.steps = c.steps;
    losses = c.step > 0 ? (size_t)c.step * sizeof(float) : 0;
    good = memcmp(&c, &same, sizeof c) == 0 && c.step <= l->steps && size == sizeof c + 3 * n + 2 * losses + sizeof(float);
  }
  if (good) {
    const char *p = bytes + sizeof c;
    memcpy(l->m.params, p, n);
    memcpy(l->adam.m, p + n, n);
    memcpy(l->adam.v, p + 2 * n, n);
    memcpy(h->loss, p + 3 * n, losses);
    memcpy(h->held_out, p + 3 * n + losses, losses + sizeof(float));
    train_update_effective(&l->m);
    *step = c.step;
  } else {
    fprintf(stderr, "train: %s: of another text or other settings\n", path);
  }
  free(bytes);
  return good;
}

// Only the weights of a checkpoint, of a model that may have had another context. False after a message.
TRAIN_FN bool train_load_weights(train_model *m, const char *path) {
  size_t size, n = m->n_params * sizeof(real);
  char *bytes = train_read_file(path, &size);
  train_checkpoint c;
  if (!bytes) return false;
  bool good = size >= sizeof c + n;
  if (good) {
    memcpy(&c, bytes, sizeof c);
    c.config.n_ctx = m->c.n_ctx;
    good = memcmp(&c.config, &m->c, sizeof m->c) == 0;
  }
  if (good) memcpy(m->params, bytes + sizeof c, n);
  else fprintf(stderr, "train: %s: of another model\n", path);
  train_update_effective(m);
  free(bytes);
  return good;
}

// ---- plot ----

// SVG: mean loss of a hundredth of the steps each, and the held-out loss.
TRAIN_FN bool train_plot(const train_history *h, int steps, int done, const char *title, const char *path) {
  enum { WIDTH = 720, HEIGHT = 400, LEFT = 50, TOP = 30, RIGHT = 20, BOTTOM = 40 };
  FILE *f = fopen(path, "w");
  if (!f) {
    fprintf(stderr, "train: %s: %s\n", path, strerror(errno));
    return false;
  }
  int part = steps / 100 > 0 ? steps / 100 : 1;
  double most = 1, dx = (double)(WIDTH - LEFT - RIGHT) / steps;
  for (int i = 0; i < done; i++) most = (double)h->loss[i] > most ? (double)h->loss[i] : most;
  most = ceil(most);
  double dy = (HEIGHT - TOP - BOTTOM) / most, bottom = HEIGHT - BOTTOM;
  fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n",
          WIDTH, HEIGHT);
  fprintf(f, "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n");
  fprintf(f, "<text x=\"%d\" y=\"20\">%s: loss in nats a token</text>\n", LEFT, title);
  for (int y = 0; y <= (int)most; y++) {
    fprintf(f, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/>\n", LEFT, bottom - y * dy, WIDTH - RIGHT);
    fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d</text>\n", LEFT - 6, bottom - y * dy + 4, y);
  }
  for (int i = 0; i <= 4; i++)
    fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d%s</text>\n", LEFT + dx * steps * i / 4, HEIGHT - 18,
            steps / 4 * i, i == 4 ? " steps" : "");
  fprintf(f, "<polyline fill=\"none\" stroke=\"#36c\" points=\"");
  for (int i = 0; i + part <= done; i += part) {
    double sum = 0;
    for (int k = 0; k < part; k++) sum += (double)h->loss[i + k];
    fprintf(f, "%.1f,%.1f ", LEFT + dx * (i + 0.5 * part), bottom - sum / part * dy);
  }
  fprintf(f, "\"/>\n");
  for (int i = 0; i <= done; i++) {
    double y = bottom - (double)h->held_out[i] * dy;
    if (h->held_out[i] > 0) fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"#c33\"/>\n", LEFT + dx * i, y);
  }
  fprintf(f, "<text x=\"%d\" y=\"%d\" fill=\"#36c\">training</text>\n", WIDTH - 160, TOP + 20);
  fprintf(f, "<text x=\"%d\" y=\"%d\" fill=\"#c33\">held out</text>\n</svg>\n", WIDTH - 160, TOP + 38);
  return fclose(f) == 0;
}

#endif // TRAIN_FILE_H
