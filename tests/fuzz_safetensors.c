// Fuzzing of Hugging Face folders: the input replaces one file of a sound folder, by its first byte; then everything is opened,
// tokenized and computed with. Errors are fine; crashes, leaks and broken promises are not.
//
//   make fuzz FUZZ_SECONDS=60          or by hand, in a folder on a memory file system (TMPDIR=/dev/shm):
//   clang -O1 -g -fsanitize=fuzzer,address,undefined tests/fuzz_safetensors.c -o fuzz_safetensors -lm -lpthread &&
// ./fuzz_safetensors
#define QINFER_IMPLEMENTATION
#define QI_STATIC
#include "../qinfer.h"

#include <unistd.h>

static void check(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_safetensors: not so: %s\n", what);
  abort();
}

// ---- allocator ----

typedef struct fuzz_heap {
  size_t bytes, n_live;
} fuzz_heap;

static void *fuzz_alloc(size_t size, size_t align, void *user) {
  fuzz_heap *h = (fuzz_heap *)user;
  void *p = NULL;
  if (size > 1u << 27 || posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, size)) return NULL;
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

// ---- the sound folder ----

static const char *const file_names[] = {"config.json",           "tokenizer.json",    "tokenizer_config.json",
                                         "generation_config.json", "model.safetensors", "model.safetensors.index.json"};
enum { FILE_CONFIG, FILE_TOKENIZER, FILE_SETTINGS, FILE_GENERATION, FILE_MODEL, FILE_INDEX, FILE_COUNT };

static const char config_text[] =
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
    "\"intermediate_size\":4,\"vocab_size\":10,\"max_position_embeddings\":16,\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true,"
    "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
    "\"original_max_position_embeddings\":8},\"eos_token_id\":[7]}";
static const char tokenizer_text[] =
    "{\"added_tokens\":[{\"id\":7,\"content\":\"<end>\",\"special\":true,\"rstrip\":true}],\"normalizer\":{\"type\":\"Sequence\","
    "\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
    "\"content\":\"\xE2\x96\x81\"}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"vocab\":{\""
        "<unk>\":0,"
    "\"a\":1,\"b\":2,\"\xE2\x96\x81\":3,\"ab\":4,\"\xE2\x96\x81"
        "ab\":5,\"<0x41>\":6},\"merges\":[\"a b\",[\"\xE2\x96\x81\",\"ab\"]]}}";
static const char settings_text[] = "{\"bos_token\":null,\"eos_token\":\"<end>\",\"chat_template\":\"{{ x }}\"}";
static const char generation_text[] = "{\"eos_token_id\":7}";
static const char index_text[] = "{\"weight_map\":{\"model.norm.weight\":\"model.safetensors\"}}";

static const char *const tensors[][2] = {
    {"model.embed_tokens.weight", "10,8"}, {"model.norm.weight", "8"}, {"model.layers.0.input_layernorm.weight", "8"},
    {"model.layers.0.self_attn.q_proj.weight", "8,8"}, {"model.layers.0.self_attn.k_proj.weight", "4,8"},
    {"model.layers.0.self_attn.v_proj.weight", "4,8"}, {"model.layers.0.self_attn.o_proj.weight", "8,8"},
    {"model.layers.0.post_attention_layernorm.weight", "8"}, {"model.layers.0.mlp.gate_proj.weight", "4,8"},
    {"model.layers.0.mlp.up_proj.weight", "4,8"}, {"model.layers.0.mlp.down_proj.weight", "8,4"}};

// Float16 weights of 1/2; the sum of all sizes is below 1 KB.
static size_t sound_model(uint8_t *out) {
  char header[4096];
  int n = 0;
  unsigned at = 0;
  for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
    unsigned rows = 1, cols = 1;
    if (sscanf(tensors[i][1], "%u,%u", &rows, &cols) < 2) cols = 1;
    n += snprintf(header + n, sizeof header - (size_t)n, "%s\"%s\":{\"dtype\":\"F16\",\"shape\":[%s],\"data_offsets\":[%u,%u]}",
        i ? "," : "{",
                  tensors[i][0], tensors[i][1], at, at + 2 * rows * cols);
    at += 2 * rows * cols;
  }
  n += snprintf(header + n, sizeof header - (size_t)n, "}");
  for (int k = 0; k < 8; k++) out[k] = (uint8_t)((uint64_t)n >> (8 * k));
  memcpy(out + 8, header, (size_t)n);
  for (unsigned i = 0; i < at; i += 2) out[8 + (unsigned)n + i] = 0, out[9 + (unsigned)n + i] = 0x38;
  return 8 + (size_t)n + at;
}

typedef struct fuzz_folder {
  char dir[200];
  uint8_t model[8192];
  size_t model_size;
} fuzz_folder;

static void save(const fuzz_folder *f, int which, const void *bytes, size_t size) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", f->dir, file_names[which]);
  FILE *out = fopen(path, "wb");
  check(out && fwrite(bytes, 1, size, out) == size, "files can be written");
  fclose(out);
}

static void save_sound(const fuzz_folder *f, int which) {
  static const char *const texts[] = {config_text, tokenizer_text, settings_text, generation_text, NULL, index_text};
  if (which == FILE_MODEL) save(f, which, f->model, f->model_size);
  else save(f, which, texts[which], strlen(texts[which]));
}

static fuzz_folder folder; // made once; its files are put back after each run

static void remove_folder(void) {
  char path[300];
  for (int i = 0; i < FILE_COUNT; i++) {
    snprintf(path, sizeof path, "%s/%s", folder.dir, file_names[i]);
    remove(path);
  }
  rmdir(folder.dir);
}

// ---- a run ----

static void fuzz_use(const qi_model *m, fuzz_heap *heap) {
  static const char text[] = "ab <end>  b\xc3\xb6\xff" "A";
  qi_token ids[64];
  size_t n = 0;
  qi_error err = {QI_OK, ""};
  char piece[64];
  if (!qi_tokenize(m, text, sizeof text - 1, 3, ids, 64, &n, &err))
    for (size_t i = 0; i < n && i < 64; i++) qi_token_piece(m, ids[i], true, piece, sizeof piece);
  qi_session_desc sd;
  qi_session *s = NULL;
  uint64_t announced = 0;
  memset(&sd, 0, sizeof sd);
  sd.n_ctx = 8;
  sd.n_batch = 4;
  sd.n_threads = 1;
  if (qi_session_memory(m, &sd, &announced, &err) || announced > 1 << 24) return;
  size_t before = heap->bytes;
  if (qi_session_open(&s, m, &sd, &err)) return;
  check(heap->bytes - before == announced, "a session takes what was announced");
  const qi_decode_token tokens[2] = {{0, 0, false, true}, {0, 0, true, true}};
  qi_decode(s, tokens, 2, &err);
  qi_session_close(s);
}

static void fuzz_open(const char *path, qi_load load, bool no_mmap) {
  fuzz_heap heap = {0, 0};
  qi_model_desc md;
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  qi_memory memory = {0, 0};
  memset(&md, 0, sizeof md);
  md.path = path;
  md.load = load;
  md.no_mmap = no_mmap;
  md.allocator.alloc = fuzz_alloc;
  md.allocator.free = fuzz_free;
  md.allocator.user = &heap;
  qi_result announced = qi_model_memory(&md, &memory, NULL), valid = qi_model_validate(&md, NULL);
  check(!heap.bytes && !heap.n_live, "asking leaves nothing");
  qi_result r = qi_model_open(&m, &md, &err);
  check(!r == (m != NULL) && (!r || (err.code == r && err.msg[0])), "a model, or an error with a message");
  if (m) {
    check(!announced && !valid, "what opens is valid");
    check(memory.heap == heap.bytes, "a model takes what was announced");
    if (load == QI_LOAD_ALL) fuzz_use(m, &heap);
    for (size_t i = 0; i < qi_tensor_count(m); i++) {
      qi_tensor t;
      check(!qi_tensor_get(m, i, &t, NULL), "every tensor can be got");
      volatile uint8_t sum = 0;
      for (uint64_t k = 0; t.data && k < t.n_bytes; k++) sum = (uint8_t)(sum + ((const uint8_t *)t.data)[k]);
    }
    qi_model_close(m);
  }
  check(!heap.bytes && !heap.n_live, "closing leaves nothing");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!folder.dir[0]) {
    const char *tmp = getenv("TMPDIR");
    snprintf(folder.dir, sizeof folder.dir, "%s/qinfer-fuzz-XXXXXX", tmp ? tmp : "/tmp");
    check(mkdtemp(folder.dir) != NULL && !atexit(remove_folder), "a folder can be made");
    folder.model_size = sound_model(folder.model);
    for (int i = 0; i < FILE_INDEX; i++) save_sound(&folder, i);
    fuzz_open(folder.dir, QI_LOAD_ALL, false);
    qi_model_desc md;
    memset(&md, 0, sizeof md);
    md.path = folder.dir;
    qi_error err = {QI_OK, ""};
    qi_result sound = qi_model_validate(&md, &err);
    if (sound) fprintf(stderr, "%s\n", err.msg);
    check(!sound, "the folder is sound before it is damaged");
  }
  if (!size) return 0;
  int which = data[0] % FILE_COUNT;
  char path[300];
  save(&folder, which, data + 1, size - 1);
  snprintf(path, sizeof path, "%s%s", folder.dir, which == FILE_INDEX ? "/model.safetensors.index.json" : "");
  fuzz_open(path, QI_LOAD_ALL, data[0] & 64);
  if (which == FILE_TOKENIZER) fuzz_open(path, QI_LOAD_VOCAB, true);
  if (which == FILE_MODEL) fuzz_open(path, QI_LOAD_METADATA, false);
  save_sound(&folder, which);
  return 0;
}

// Seeds: each file of the sound folder behind its byte, into the folder that is named.
#ifdef FUZZ_CORPUS
int main(int argc, char **argv) {
  if (argc != 2) return 2;
  for (int i = 0; i < FILE_COUNT; i++) {
    char path[1024];
    uint8_t model[8192];
    static const char *const texts[] = {config_text, tokenizer_text, settings_text, generation_text, NULL, index_text};
    size_t size = i == FILE_MODEL ? sound_model(model) : strlen(texts[i]);
    snprintf(path, sizeof path, "%s/seed-%d", argv[1], i);
    FILE *f = fopen(path, "wb");
    if (!f) return 1;
    fputc(i, f);
    fwrite(i == FILE_MODEL ? (const void *)model : texts[i], 1, size, f);
    fclose(f);
  }
  return 0;
}
#endif
