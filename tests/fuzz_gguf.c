// Fuzz target: any bytes as a model file, through everything that a loader leads to.
//
//   clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all tests/fuzz_gguf.c -o build/fuzz_gguf -lm -lpthread
//   clang -g -O1 -DFUZZ_CORPUS tests/fuzz_gguf.c -o build/fuzz_corpus -lm -lpthread     # gcc does too
//   mkdir -p build/corpus && build/fuzz_corpus build/corpus                            # small sound models to start from
//   build/fuzz_gguf -max_len=65536 -timeout=5 -rss_limit_mb=2048 build/corpus
//
// It stops on: a crash, a leak, a result without a message, validate and open that disagree, memory that differs from what was
// announced, a session that cannot be closed.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include "support/random_model.h"

// ---- what must hold ----

static void check(bool holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "does not hold: %s\n", what);
  abort();
}

// Counts, and refuses what no small file may ask for.
typedef struct fuzz_heap {
  size_t bytes, n_live, n_calls;
} fuzz_heap;

static void *fuzz_alloc(size_t size, size_t align, void *user) {
  fuzz_heap *h = (fuzz_heap *)user;
  void *p = NULL;
  h->n_calls++;
  if (size >> 28 || posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, size)) return NULL;
  memset(p, 0xa5, size);
  h->bytes += size;
  h->n_live++;
  return p;
}
static void fuzz_free(void *p, size_t size, void *user) {
  fuzz_heap *h = (fuzz_heap *)user;
  h->bytes -= size;
  h->n_live--;
  free(p);
}

// ---- what is done with a file ----

typedef struct fuzz_file {
  const uint8_t *data;
  size_t size;
} fuzz_file;

static bool fuzz_read(void *user, uint64_t offset, void *dst, size_t n) {
  const fuzz_file *f = (const fuzz_file *)user;
  check(offset <= f->size && n <= f->size - offset, "a reader is asked within its size");
  memcpy(dst, f->data + offset, n);
  return true;
}

// Metadata and the list of tensors, to the last byte.
static void fuzz_look(const qi_model *m) {
  qi_meta meta, element;
  qi_tensor t, found;
  unsigned sum = 0;
  for (size_t i = 0; i < qi_meta_count(m); i++) {
    check(qi_meta_get(m, i, &meta, NULL) == QI_OK, "every entry can be got");
    sum += (unsigned char)meta.key[meta.key_len - 1];
    if (meta.type == QI_META_STRING && meta.count) sum += (unsigned char)meta.value.text[meta.count - 1];
    if (meta.type != QI_META_ARRAY || !meta.count) continue;
    check(qi_meta_element(m, i, meta.count - 1, &element, NULL) == QI_OK, "the last element can be got");
    check(qi_meta_element(m, i, meta.count, &element, NULL) == QI_ERR_ARGUMENT, "the one behind it cannot");
  }
  for (size_t i = 0; i < qi_tensor_count(m); i++) {
    check(qi_tensor_get(m, i, &t, NULL) == QI_OK, "every tensor can be got");
    check(qi_tensor_find(m, t.name, &found, NULL) == QI_OK && found.data == t.data, "and found");
    for (uint64_t k = 0; t.data && k < t.n_bytes; k++) sum += ((const uint8_t *)t.data)[k];
  }
  volatile unsigned sink = sum;
  (void)sink;
}

static void fuzz_text(const qi_model *m) {
  static const char text[] = "Hello <|im_end|> w\xc3\xb6rld\xff 123";
  qi_token ids[64];
  size_t n = 0, len;
  char piece[256];
  qi_error err = {QI_OK, ""};
  if (qi_tokenize(m, text, sizeof text - 1, QI_TOKENIZE_ADD_SPECIAL | QI_TOKENIZE_PARSE_SPECIAL, ids, 64, &n, &err)) return;
  if (n > 64) n = 64;
  for (size_t i = 0; i < n; i++) qi_token_piece(m, ids[i], true, piece, sizeof piece);
  check(!qi_detokenize(m, ids, n, true, piece, sizeof piece, &len, &err), "what was tokenized can be detokenized");
}

static void fuzz_session(const qi_model *m, fuzz_heap *heap) {
  qi_session_desc desc;
  qi_session *s = NULL;
  qi_error err = {QI_OK, ""};
  uint64_t announced = 0;
  memset(&desc, 0, sizeof desc);
  desc.n_ctx = 8;
  desc.n_batch = 4;
  desc.n_threads = 1;
  qi_result r = qi_session_memory(m, &desc, &announced, &err);
  if (r || announced > 1 << 26) return; // sound, but too slow to fuzz
  size_t before = heap->bytes;
  if (qi_session_open(&s, m, &desc, &err)) {
    check(err.code != QI_OK && err.msg[0] && !s, "a refused session has a message");
    check(heap->bytes == before, "and leaves nothing");
    return;
  }
  check(heap->bytes - before == announced, "a session takes what was announced");
  const qi_decode_token token = {0, 0, false, true}, next = {0, 0, true, true};
  if (!qi_decode(s, &token, 1, &err)) check(qi_logits(s, -1) != NULL, "logits that were asked for are there");
  qi_decode(s, &next, 1, &err);
  qi_session_close(s);
}

// One way to open the bytes; returns the result.
static qi_result fuzz_open(fuzz_file *f, qi_load load, bool reader) {
  fuzz_heap heap = {0, 0, 0};
  qi_model_desc desc;
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  qi_memory memory = {0, 0};
  memset(&desc, 0, sizeof desc);
  desc.load = load;
  desc.allocator.alloc = fuzz_alloc;
  desc.allocator.free = fuzz_free;
  desc.allocator.user = &heap;
  if (reader) {
    desc.reader.read = fuzz_read;
    desc.reader.size = f->size;
    desc.reader.user = f;
  } else {
    desc.data = f->data;
    desc.data_size = f->size;
  }
  qi_result announced = qi_model_memory(&desc, &memory, &err);
  check(announced ? err.code == announced && err.msg[0] : !err.msg[0], "asking fails with a message");
  check(!heap.n_calls, "asking takes no memory");
  qi_result valid = qi_model_validate(&desc, NULL);
  check(!heap.bytes && !heap.n_live, "asking leaves nothing");
  qi_result r = qi_model_open(&m, &desc, &err);
  check(!r == (m != NULL), "a model or an error");
  if (r) {
    check(err.code == r && err.msg[0], "a refused model has a message");
    // Values of tensors behind a reader are not looked at by validate, and only open needs room for them.
    check(valid || reader || r == QI_ERR_OOM, "validate refuses what open refuses");
  } else {
    check(!valid && !announced, "what opens is valid");
    check(memory.heap == heap.bytes, "a model takes what was announced");
    fuzz_look(m);
    if (load != QI_LOAD_METADATA) fuzz_text(m);
    if (load == QI_LOAD_ALL) fuzz_session(m, &heap);
    qi_model_close(m);
  }
  check(!heap.bytes && !heap.n_live, "closing leaves nothing");
  return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const uint8_t empty[1];
  fuzz_file f = {data ? data : empty, size};
  qi_result metadata = fuzz_open(&f, QI_LOAD_METADATA, false);
  if (metadata) return 0; // then the other levels stop at the same place
  fuzz_open(&f, QI_LOAD_VOCAB, false);
  qi_result all = fuzz_open(&f, QI_LOAD_ALL, false);
  qi_result behind_reader = fuzz_open(&f, QI_LOAD_ALL, true);
  check(all == behind_reader || all == QI_ERR_OOM || behind_reader == QI_ERR_OOM, "memory and reader agree");
  return 0;
}

// ---- corpus ----

#ifdef FUZZ_CORPUS
// Tries the bytes (a sound file must pass, too) and writes them.
static bool write_seed(const char *dir, const char *name, const uint8_t *bytes, size_t size) {
  char path[1024];
  if (!bytes) return false;
  LLVMFuzzerTestOneInput(bytes, size);
  snprintf(path, sizeof path, "%s/%s.gguf", dir, name);
  return gw_save(bytes, size, path) != 0;
}

static bool write_model(const char *dir, rm_desc desc) {
  size_t size;
  desc.n_layers = 1; // a small file
  desc.format = QI_FORMAT_Q4_0;
  uint8_t *bytes = rm_build(&desc, &size);
  bool ok = write_seed(dir, desc.arch, bytes, size);
  free(bytes);
  return ok;
}

// A tokenizer of the other kind: letters, a space, some merges and a control token; and metadata of all types.
static bool write_bpe(const char *dir) {
  static const char *const merges[] = {"h e", "l l", "he ll", "hell o", "\xc4\xa0 w"};
  char letters[26][2];
  const char *tokens[33];
  int32_t types[33];
  for (int i = 0; i < 33; i++) types[i] = i == 32 ? 3 : 1;
  for (int i = 0; i < 26; i++) {
    letters[i][0] = (char)('a' + i);
    letters[i][1] = 0;
    tokens[i] = letters[i];
  }
  static const char *const more[] = {"\xc4\xa0", "he", "ll", "hell", "hello", "\xc4\xa0w", "<|im_end|>"};
  memcpy(tokens + 26, more, sizeof more);
  gw_file w;
  gw_begin(&w, 2);
  gw_kv_str(&w, "general.architecture", "llama");
  gw_align(&w, 64);
  gw_kv_str(&w, "tokenizer.ggml.model", "gpt2");
  gw_kv_str(&w, "tokenizer.ggml.pre", "llama-bpe");
  gw_kv_strs(&w, "tokenizer.ggml.tokens", tokens, NULL, 33);
  gw_kv_i32s(&w, "tokenizer.ggml.token_type", types, 33);
  gw_kv_strs(&w, "tokenizer.ggml.merges", merges, NULL, sizeof merges / sizeof merges[0]);
  gw_kv_u32(&w, "tokenizer.ggml.eos_token_id", 32);
  gw_kv_bool(&w, "tokenizer.ggml.add_bos_token", 0);
  for (int type = 0; type <= GW_F64; type++) {
    char key[16];
    snprintf(key, sizeof key, "type.%d", type);
    if (gw_type_bytes(type)) gw_kv_int(&w, key, type, 1);
  }
  gw_kv_array(&w, "type.flags", GW_BOOL, "\0\1\1", 3);
  gw_tensor(&w, "mxfp4", 39, 1, (uint64_t[]){32}, NULL, 17);
  gw_tensor(&w, "unknown", 99, 1, (uint64_t[]){32}, NULL, 17);
  size_t size;
  const uint8_t *bytes = gw_finish(&w, &size);
  bool ok = write_seed(dir, "bpe", bytes, size);
  gw_free(&w);
  return ok;
}

// A small model of each architecture and a tokenizer, into the folder that is named.
int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s DIR\n", argv[0]);
    return 2;
  }
  const char *dir = argv[1];
  bool ok = write_model(dir, rm_llama()) && write_model(dir, rm_qwen2()) && write_model(dir, rm_qwen3()) &&
            write_model(dir, rm_phi3()) && write_bpe(dir);
  if (!ok) fprintf(stderr, "%s: a file cannot be made or written\n", dir);
  return !ok;
}
#endif
