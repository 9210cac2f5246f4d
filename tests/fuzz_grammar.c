// Fuzzing of grammars: any bytes as GBNF, as a JSON schema or as choices, then a walk through what they allow, with all that must
// hold. The first byte says what the rest is, the second seeds the walk.
//
//   make fuzz FUZZ_SECONDS=60          or by hand:
//   clang -O1 -g -DQI_NO_SIMD -fsanitize=fuzzer,address,undefined tests/fuzz_grammar.c -o fuzz_grammar -lm -lpthread
#define QINFER_IMPLEMENTATION
#define QI_STATIC
#include "../qinfer.h"

#include "support/gguf_write.h"

static void check(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_grammar: not so: %s\n", what);
  abort();
}

// Bytes, pairs of printable ones, and an end token.
static qi_model *fuzz_model(void) {
  enum { N = 3 + 256 + 95 };
  static char texts[N][16];
  const char *list[N];
  int32_t types[N];
  static gw_file w; // the model's bytes stay for ever
  size_t size;
  for (int i = 0; i < N; i++) {
    list[i] = texts[i];
    types[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
    if (i < 3) snprintf(texts[i], 16, "%s", i == 0 ? "<unk>" : i == 1 ? "<s>" : "</s>");
    else if (i < 259) snprintf(texts[i], 16, "<0x%02X>", (unsigned)i - 3);
    else snprintf(texts[i], 16, "%c%c", (i - 259) % 95 + 32, (i * 7) % 95 + 32);
  }
  gw_begin(&w, 3);
  gw_kv_str(&w, "general.architecture", "llama");
  gw_kv_str(&w, "tokenizer.ggml.model", "llama");
  gw_kv_strs(&w, "tokenizer.ggml.tokens", list, NULL, N);
  gw_kv_i32s(&w, "tokenizer.ggml.token_type", types, N);
  gw_kv_u32(&w, "tokenizer.ggml.eos_token_id", 2);
  const uint8_t *bytes = gw_finish(&w, &size);
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.data = bytes;
  md.data_size = size;
  md.load = QI_LOAD_VOCAB;
  qi_model *m = NULL;
  check(bytes && !qi_model_open(&m, &md, NULL), "the model opens");
  return m;
}

// Goes on by allowed tokens at random. What the mask says is what is accepted, and a copy goes the same way.
static void fuzz_walk(const qi_grammar *g, uint64_t seed) {
  qi_matcher *mt = NULL, *copy = NULL;
  qi_error err = {QI_OK, ""};
  if (qi_matcher_open(&mt, g, NULL, NULL, &err)) {
    check(err.code == QI_ERR_LIMIT, "a matcher opens, or the grammar is too complex");
    return;
  }
  check(!qi_matcher_open(&copy, g, mt, NULL, &err), "a second one opens");
  for (int step = 0; step < 24; step++) {
    const uint32_t *allowed;
    qi_result r = qi_matcher_allowed(mt, &allowed, &err);
    check(!r || r == QI_ERR_LIMIT, "all bytes have tokens");
    if (r) break;
    int n = 0;
    qi_token pick = -1;
    for (qi_token t = 0; t < 354; t++) {
      if (!(allowed[t / 32] >> (t % 32) & 1)) continue;
      check(t == 2 ? qi_matcher_can_end(mt) : t > 2, "control tokens are not allowed, but at the end");
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      if (t != 2 && (seed >> 33) % (uint64_t)++n == 0) pick = t;
    }
    check(pick >= 0 || qi_matcher_can_end(mt), "a text that can go nowhere is whole");
    if (pick < 0) break;
    qi_token other = (qi_token)(seed >> 20 & 255) + 3;
    bool fits = allowed[other / 32] >> (other % 32) & 1;
    check(!qi_matcher_copy(copy, mt, &err), "copies");
    r = qi_matcher_accept(copy, other, &err);
    check(r == QI_ERR_LIMIT || (r == QI_OK) == fits, "mask and accept agree");
    r = qi_matcher_accept(mt, pick, &err);
    check(!r || r == QI_ERR_LIMIT, "what is allowed is accepted");
    if (r) break;
  }
  qi_matcher_close(mt);
  qi_matcher_close(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static qi_model *m;
  static qi_grammar *shared;
  if (!m) {
    qi_grammar_desc first;
    memset(&first, 0, sizeof first);
    first.gbnf = "root ::= [a-z]";
    m = fuzz_model();
    check(!qi_grammar_open(&shared, m, &first, NULL), "a grammar opens");
  }
  if (size < 3 || size > 4096) return 0;
  char *text = (char *)malloc(size - 1);
  check(text != NULL, "memory");
  memcpy(text, data + 2, size - 2);
  text[size - 2] = 0;
  const char *choices[2] = {text, "b"};
  qi_grammar_desc d;
  qi_error err = {QI_OK, ""};
  qi_grammar *g = NULL;
  memset(&d, 0, sizeof d);
  d.share = shared;
  d.len = size - 2;
  if (data[0] % 3 == 0) d.gbnf = text;
  else if (data[0] % 3 == 1) d.json_schema = text;
  else d.choices = choices, d.n_choices = 2;
  qi_result r = qi_grammar_open(&g, m, &d, &err);
  check(!r == !err.msg[0] && !r == (g != NULL), "an error has a message");
  if (!r) fuzz_walk(g, data[1]);
  qi_grammar_close(g);
  free(text);
  return 0;
}

#ifdef FUZZ_CORPUS // writes seeds into a folder
int main(int argc, char **argv) {
  static const char *const seeds[] = {
    "0aroot ::= \"a\" (b | [^c-e\\n]{2,3})* c?\nb ::= \"x\" root \"y\" | \"\\u20ac\" # comment\nc ::= . \"\"\n",
    "0broot ::= ((\"a\"?)*)+ \"b\" | \"(\" root \")\"",
    "1c{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":-3,\"maximum\":120},"
    "\"b\":{\"enum\":[\"x\",null]},\"c\":{\"$ref\":\"#\"}},\"required\":[\"a\"],"
    "\"additionalProperties\":{\"type\":[\"string\",\"null\"],\"maxLength\":4}}",
    "1d{\"anyOf\":[{\"type\":\"array\",\"items\":{\"const\":{\"k\":[1,2.5e3]}},\"minItems\":1,\"maxItems\":3},"
    "{\"prefixItems\":[{\"format\":\"date-time\"},true],\"items\":{\"type\":\"number\"}}]}",
    "2eab\xC3\xA9",
  };
  for (size_t i = 0; argc > 1 && i < sizeof seeds / sizeof *seeds; i++) {
    char path[512];
    snprintf(path, sizeof path, "%s/seed%zu", argv[1], i);
    FILE *f = fopen(path, "wb");
    if (!f) return 1;
    fwrite(seeds[i], 1, strlen(seeds[i]), f);
    fclose(f);
  }
  return 0;
}
#endif
