// Vocabularies, SentencePiece and byte-level BPE, special tokens, detokenising.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/gguf_write.h"

#define BLANK "\xE2\x96\x81"

// ---- a vocabulary in memory ----

typedef struct counters {
  size_t n_allocs, n_open, largest;
  size_t fail_from; // allocations from this one on fail; 0 = none
} counters;

static void *count_alloc(size_t size, size_t align, void *user) {
  counters *c = (counters *)user;
  c->n_allocs++;
  if (c->fail_from && c->n_allocs >= c->fail_from) return NULL;
  void *p = qi__malloc(size, align, NULL);
  if (!p) return NULL;
  c->n_open++;
  if (size > c->largest) c->largest = size;
  return p;
}
static void count_free(void *ptr, size_t size, void *user) {
  ((counters *)user)->n_open--;
  qi__malloc_free(ptr, size, NULL);
}

typedef struct vocab_box {
  qi__gguf g;
  qi__vocab v;
  qi__arena arena;
  qi_allocator allocator;
  counters memory;
  char log[4096];
} vocab_box;

static void keep_log(void *user, qi_log_level level, const char *msg) {
  char *log = (char *)user;
  size_t n = strlen(log);
  (void)level;
  if (n + strlen(msg) + 2 < 4096) {
    strcpy(log + n, msg);
    strcat(log, "\n");
  }
}

static void box_close(vocab_box *b) {
  qi__arena_close(&b->arena, &b->allocator);
  qi__gguf_close(&b->g);
  assert_int_equal(b->memory.n_open, 0);
}

// Opens the tokenizer of a file in memory. On failure nothing is left open.
static qi_result box_open(vocab_box *b, const void *bytes, size_t size, qi_error *err) {
  memset(b, 0, sizeof *b);
  b->allocator.alloc = count_alloc;
  b->allocator.free = count_free;
  b->allocator.user = &b->memory;
  qi_logger logger = {keep_log, b->log};
  qi_model_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.data = bytes;
  desc.data_size = size;
  qi__vocab_counts counts;
  qi_result r = qi__gguf_open(&b->g, &desc, &b->allocator, &logger, err);
  if (r) return r;
  if (!(r = qi__vocab_count(&b->g, &counts, err))) {
    qi__vocab_layout(&b->v, &b->arena, &counts);
    if (!(r = qi__arena_open(&b->arena, &b->allocator, "vocab", err))) {
      qi__vocab_layout(&b->v, &b->arena, &counts);
      assert_false(b->arena.overflow);
      assert_int_equal(b->arena.used, b->arena.size);
      r = qi__vocab_load(&b->v, &b->g, &logger, err);
    }
  }
  if (r) box_close(b);
  return r;
}

typedef struct tok {
  const char *text;
  float score;
  int32_t type;
} tok;

// The keys of a tokenizer.
static void write_tokens(gw_file *w, const char *model, const tok *t, size_t n, bool scores) {
  const char **texts = (const char **)malloc(n * sizeof *texts);
  float *s = (float *)malloc(n * sizeof *s);
  int32_t *types = (int32_t *)malloc(n * sizeof *types);
  for (size_t i = 0; i < n; i++) {
    texts[i] = t[i].text;
    s[i] = t[i].score;
    types[i] = t[i].type;
  }
  gw_begin(w, 3);
  gw_kv_str(w, "general.architecture", "llama");
  gw_kv_str(w, "tokenizer.ggml.model", model);
  gw_kv_strs(w, "tokenizer.ggml.tokens", texts, NULL, n);
  gw_kv_i32s(w, "tokenizer.ggml.token_type", types, n);
  if (scores) gw_kv_f32s(w, "tokenizer.ggml.scores", s, n);
  free(texts);
  free(s);
  free(types);
}

static void open_written(vocab_box *b, gw_file *w) {
  size_t size;
  const uint8_t *bytes = gw_finish(w, &size);
  qi_error err = {QI_OK, ""};
  assert_non_null(bytes);
  if (box_open(b, bytes, size, &err)) fail_msg("%s", err.msg);
}

// SentencePiece: 0..2 special, 3..258 bytes, then these.
static const tok spm_pieces[] = {
    {BLANK, -10, 1},      // 259
    {"a", -11, 1},        // 260
    {"b", -12, 1},        // 261
    {"c", -13, 1},        // 262
    {"ab", -2, 1},        // 263
    {"bc", -1, 1},        // 264
    {"abc", -3, 1},       // 265
    {"aa", -2, 1},        // 266
    {BLANK "a", -4, 1},   // 267
    {"<|user|>", 0, 3},   // 268
    {"<tool>", 0, 4},     // 269
    {"<tool>x", 0, 4},    // 270
    {"<s", -1, 1},        // 271
    {"<", -20, 1},        // 272
    {"s", -21, 1},        // 273
    {">", -22, 1},        // 274
    {"<|end|>", 0, 3},    // 275
    {"unused", 0, 5},     // 276
};
#define SPM_BASE 259

static char byte_names[256][8];

static void write_spm(gw_file *w) {
  static tok t[SPM_BASE + sizeof spm_pieces / sizeof *spm_pieces];
  t[0] = (tok){"<unk>", 0, 2};
  t[1] = (tok){"<s>", 0, 3};
  t[2] = (tok){"</s>", 0, 3};
  for (int i = 0; i < 256; i++) {
    snprintf(byte_names[i], sizeof byte_names[i], "<0x%02X>", (unsigned)i);
    t[3 + i] = (tok){byte_names[i], 0, 6};
  }
  memcpy(t + SPM_BASE, spm_pieces, sizeof spm_pieces);
  write_tokens(w, "llama", t, sizeof t / sizeof *t, true);
}

// Byte-level: ids 0..255 are the bytes, then these.
static const tok bpe_pieces[] = {
    {"ab", 0, 1},             // 256
    {"abc", 0, 1},            // 257
    {"\xC4\xA0" "a", 0, 1},   // 258 " a"
    {"aa", 0, 1},             // 259
    {"aaaa", 0, 1},           // 260
    {"<|eot_id|>", 0, 1},     // 261 typed as normal, as faulty files do
    {"<user>", 0, 4},         // 262
    {"hello", 0, 1},          // 263
    {"bc", 0, 1},             // 264
    {"<bos>", 0, 3},          // 265
};
static const char *const bpe_merges[] = {"a b", "ab c", "\xC4\xA0 a", "a a", "aa aa", "b c", "x y", "broken", "", " ", "a  b"};

static void bytes_as_tokens(tok *t) {
  for (int i = 0; i < 256; i++) {
    size_t n = qi__utf8_put(qi__byte_to_char((uint8_t)i), byte_names[i]);
    byte_names[i][n] = 0;
    t[i] = (tok){byte_names[i], 0, 1};
  }
}

static void write_bpe(gw_file *w, const char *pre) {
  static tok t[256 + sizeof bpe_pieces / sizeof *bpe_pieces];
  bytes_as_tokens(t);
  memcpy(t + 256, bpe_pieces, sizeof bpe_pieces);
  write_tokens(w, "gpt2", t, sizeof t / sizeof *t, false);
  if (pre) gw_kv_str(w, "tokenizer.ggml.pre", pre);
  gw_kv_strs(w, "tokenizer.ggml.merges", bpe_merges, NULL, sizeof bpe_merges / sizeof *bpe_merges);
}

// ---- expectations ----

#define IDS(...) (const qi_token[]){__VA_ARGS__}, sizeof((const qi_token[]){__VA_ARGS__}) / sizeof(qi_token)

static size_t encode(vocab_box *b, const char *text, size_t len, int flags, qi_token *out, size_t cap) {
  size_t n = 0;
  qi_error err = {QI_OK, ""};
  if (qi__tokenize(&b->v, &b->allocator, text, len, flags, NULL, out, cap, &n, &err)) fail_msg("%s", err.msg);
  return n;
}

static void expect_ids(vocab_box *b, const char *text, size_t len, int flags, const qi_token *want, size_t n_want) {
  qi_token got[8192];
  size_t n = encode(b, text, len, flags, got, 8192);
  bool same = n == n_want;
  for (size_t i = 0; same && i < n; i++) same = got[i] == want[i];
  if (same) return;
  print_message("text '%.*s':", (int)len, text);
  for (size_t i = 0; i < n && i < 100; i++) print_message(" %d", (int)got[i]);
  print_message(", expected");
  for (size_t i = 0; i < n_want; i++) print_message(" %d", (int)want[i]);
  print_message("\n");
  fail();
}
#define EXPECT(b, text, flags, ...) expect_ids(b, text, sizeof(text) - 1, flags, IDS(__VA_ARGS__))

static void expect_text(const vocab_box *b, const qi_token *ids, size_t n, bool special, const char *want, size_t len) {
  char *got = (char *)malloc(len + 1);
  size_t n_got = 0;
  assert_int_equal(qi__detokenize(&b->v, ids, n, special, got, len, &n_got, NULL), QI_OK);
  assert_int_equal(n_got, len);
  assert_memory_equal(got, want, len);
  free(got);
}
#define EXPECT_TEXT(b, special, text, ...) expect_text(b, IDS(__VA_ARGS__), special, text, sizeof(text) - 1)

static void round_trip(vocab_box *b, const char *text, size_t len) {
  qi_token *ids = (qi_token *)malloc((len + 8) * 4 * sizeof *ids);
  size_t n = encode(b, text, len, 0, ids, (len + 8) * 4);
  assert_true(n <= (len + 8) * 4);
  expect_text(b, ids, n, false, text, len);
  free(ids);
}

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

// ---- SentencePiece ----

static void test_spm(void **state) {
  (void)state;
  gw_file w;
  vocab_box b;
  write_spm(&w);
  open_written(&b, &w);
  EXPECT(&b, "abc", 0, 259, 265);
  EXPECT(&b, "ab", 0, 259, 263);
  EXPECT(&b, "aaa", 0, 259, 266, 260); // of equal scores the leftmost
  EXPECT(&b, "a b", 0, 267, 259, 261);
  EXPECT(&b, "  ", 0, 259, 259, 259);
  EXPECT(&b, "d", 0, 259, 3 + 'd');
  EXPECT(&b, "\xC3\xA9", 0, 259, 3 + 0xC3, 3 + 0xA9);
  EXPECT(&b, "\xC3" "a\x00", 0, 259, 3 + 0xC3, 260, 3);
  EXPECT(&b, BLANK "a", 0, 259, 267); // a blank may also be written as the vocabulary has it
  assert_int_equal(encode(&b, "", 0, 0, NULL, 0), 0);
  EXPECT(&b, "ab", QI_TOKENIZE_ADD_SPECIAL, 1, 259, 263);
  expect_ids(&b, NULL, 0, QI_TOKENIZE_ADD_SPECIAL, IDS(1));
  box_close(&b);
  gw_kv_bool(&w, "tokenizer.ggml.add_bos_token", 0);
  gw_kv_bool(&w, "tokenizer.ggml.add_eos_token", 1);
  gw_kv_bool(&w, "tokenizer.ggml.add_space_prefix", 0);
  open_written(&b, &w);
  EXPECT(&b, "ab", QI_TOKENIZE_ADD_SPECIAL, 263, 2);
  EXPECT(&b, " ab", 0, 259, 263);
  round_trip(&b, " ab", 3);
  box_close(&b);
  gw_free(&w);
}

static void test_spm_special(void **state) {
  (void)state;
  gw_file w;
  vocab_box b;
  write_spm(&w);
  open_written(&b, &w);
  const int parse = QI_TOKENIZE_PARSE_SPECIAL;
  EXPECT(&b, "<s>", parse, 1);
  EXPECT(&b, "<s>", 0, 259, 271, 274); // plain text never becomes a control token
  EXPECT(&b, "<|user|>a", parse, 268, 267);
  EXPECT(&b, "<|user|>a", 0, 259, 272, 3 + '|', 3 + 'u', 273, 3 + 'e', 3 + 'r', 3 + '|', 274, 260);
  EXPECT(&b, "a<tool>xa", 0, 267, 270, 267); // user-defined ones always, the longest first
  EXPECT(&b, "a<tool>a<tool", 0, 267, 269, 267, 272, 3 + 't', 3 + 'o', 3 + 'o', 3 + 'l');
  EXPECT(&b, "<0x41>", 0, 259, 272, 3 + '0', 3 + 'x', 3 + '4', 3 + '1', 274);
  assert_true(qi__token_is_end(&b.v, 2) && qi__token_is_end(&b.v, 275) && !qi__token_is_end(&b.v, 1));
  assert_true(qi__token_is_control(&b.v, 0) && qi__token_is_control(&b.v, 1) && !qi__token_is_control(&b.v, 269));
  assert_false(qi__token_is_end(&b.v, -1) || qi__token_is_control(&b.v, 1 << 30));
  const qi_special_tokens *s = &b.v.special;
  assert_int_equal(s->bos, 1);
  assert_int_equal(s->eos, 2);
  assert_int_equal(s->unk, 0);
  assert_int_equal(s->eot, 275);
  assert_int_equal(s->pad, -1);
  assert_int_equal(s->nl, 3 + '\n');
  assert_true(s->add_bos && !s->add_eos);
  assert_int_equal(qi__token_find(&b.v, "abc", 3), 265);
  assert_int_equal(qi__token_find(&b.v, "abcd", 3), 265);
  assert_int_equal(qi__token_find(&b.v, "zzz", 3), -1);
  assert_int_equal(qi__token_find(&b.v, "", 0), -1);
  assert_int_equal(qi__token_find(&b.v, "a\0", 2), -1);
  box_close(&b);
  gw_free(&w);
}

static void test_spm_text(void **state) {
  (void)state;
  gw_file w;
  vocab_box b;
  char out[16];
  write_spm(&w);
  open_written(&b, &w);
  EXPECT_TEXT(&b, false, "a b", 267, 259, 261);
  EXPECT_TEXT(&b, false, "a b", 1, 267, 259, 261, 2);
  EXPECT_TEXT(&b, true, "<s>a b</s>", 1, 267, 259, 261, 2);
  EXPECT_TEXT(&b, false, "abc", 265);
  EXPECT_TEXT(&b, false, " a", 259, 267);
  EXPECT_TEXT(&b, false, "<tool> a", 269, 267);
  EXPECT_TEXT(&b, false, "\xC3\xA9", 3 + 0xC3, 3 + 0xA9);
  EXPECT_TEXT(&b, false, "unused", 276);
  assert_int_equal(qi__token_piece(&b.v, 267, false, out, sizeof out), 2);
  assert_memory_equal(out, " a", 2);
  memset(out, 'x', sizeof out);
  assert_int_equal(qi__token_piece(&b.v, 265, false, out, 2), 3);
  assert_memory_equal(out, "abx", 3);
  assert_int_equal(qi__token_piece(&b.v, 265, false, NULL, 0), 3);
  assert_int_equal(qi__token_piece(&b.v, 1, false, out, sizeof out), 0);
  assert_int_equal(qi__token_piece(&b.v, 1, true, out, sizeof out), 3);
  assert_int_equal(qi__token_piece(&b.v, -1, true, out, sizeof out), 0);
  assert_int_equal(qi__token_piece(&b.v, (qi_token)b.v.n_tokens, true, out, sizeof out), 0);
  // Cut short: the head is written, the length is that of all.
  const qi_token ids[] = {267, 259, 265};
  size_t n = 0;
  memset(out, 'x', sizeof out);
  assert_int_equal(qi__detokenize(&b.v, ids, 3, false, out, 3, &n, NULL), QI_OK);
  assert_int_equal(n, 5);
  assert_memory_equal(out, "a ax", 4);
  const qi_token bad[] = {260, 100000};
  qi_error err = {QI_OK, ""};
  assert_int_equal(qi__detokenize(&b.v, bad, 2, false, out, sizeof out, &n, &err), QI_ERR_ARGUMENT);
  assert_non_null(strstr(err.msg, "100000"));
  static const char *const texts[] = {"", "a", "  a b ", "\n\ttext, \xF0\x9F\x98\x80 \xFF\xFE", "<s></s>", "<0x41>", BLANK};
  for (size_t i = 0; i + 1 < sizeof texts / sizeof *texts; i++) round_trip(&b, texts[i], strlen(texts[i]));
  box_close(&b);
  gw_free(&w);
}

// ---- byte-level BPE ----

static void test_byte_characters(void **state) {
  (void)state;
  bool seen[0x200] = {false};
  for (int b = 0; b < 256; b++) {
    uint32_t cp = qi__byte_to_char((uint8_t)b);
    assert_true(cp < 0x200 && !seen[cp]);
    seen[cp] = true;
    assert_int_equal(qi__char_to_byte(cp), b);
  }
  assert_int_equal(qi__byte_to_char(' '), 0x120);
  assert_int_equal(qi__byte_to_char('\n'), 0x10A);
  assert_int_equal(qi__byte_to_char(0x7F), 0x121);
  assert_int_equal(qi__byte_to_char(0xAD), 0x143);
  assert_int_equal(qi__char_to_byte(' '), -1);
  assert_int_equal(qi__char_to_byte(0x144), -1);
}

static void test_bpe(void **state) {
  (void)state;
  gw_file w;
  vocab_box b;
  write_bpe(&w, "gpt-2");
  open_written(&b, &w);
  EXPECT(&b, "abc", 0, 257);
  EXPECT(&b, " abc", 0, ' ', 257); // ranks decide, not length
  EXPECT(&b, " aaa", 0, 258, 259);
  EXPECT(&b, "aaaaa", 0, 260, 'a');
  EXPECT(&b, "bc", 0, 264);
  EXPECT(&b, "xy", 0, 'x', 'y');
  EXPECT(&b, "hello", 0, 'h', 'e', 'l', 'l', 'o');
  EXPECT(&b, "\xF0\x9F\xFF\n", 0, 0xF0, 0x9F, 0xFF, '\n');
  EXPECT(&b, "a<user>b", 0, 'a', 262, 'b');
  EXPECT(&b, "<|eot_id|>", QI_TOKENIZE_PARSE_SPECIAL, 261);
  EXPECT(&b, "<bos>", 0, '<', 'b', 'o', 's', '>');
  EXPECT(&b, "a", QI_TOKENIZE_ADD_SPECIAL, 'a');
  assert_true(qi__token_is_end(&b.v, 261) && qi__token_is_control(&b.v, 261));
  assert_int_equal(b.v.special.eot, 261);
  assert_int_equal(b.v.special.bos, -1);
  assert_int_equal(b.v.special.nl, '\n');
  assert_non_null(strstr(b.log, "token 261 '<|eot_id|>'"));
  assert_non_null(strstr(b.log, "5 of 11"));
  EXPECT_TEXT(&b, false, " abc<user>", ' ', 257, 262);
  EXPECT_TEXT(&b, false, "a", 'a', 261);
  EXPECT_TEXT(&b, true, "a<|eot_id|>", 'a', 261);
  uint32_t seed = 7;
  for (int k = 0; k < 200; k++) {
    char text[64];
    size_t len = next_random(&seed) % sizeof text;
    for (size_t i = 0; i < len; i++) text[i] = (char)next_random(&seed);
    round_trip(&b, text, len);
  }
  box_close(&b);
  gw_free(&w);
}

static void test_bpe_rules(void **state) {
  (void)state;
  gw_file w;
  vocab_box b;
  write_bpe(&w, "llama-bpe");
  gw_kv_u32(&w, "tokenizer.ggml.bos_token_id", 265);
  gw_kv_u32(&w, "tokenizer.ggml.padding_token_id", UINT32_MAX);
  open_written(&b, &w);
  EXPECT(&b, "hello", QI_TOKENIZE_ADD_SPECIAL, 265, 263); // a word that is a token is not merged again
  EXPECT(&b, " hello", 0, ' ', 'h', 'e', 'l', 'l', 'o');
  assert_int_equal(b.v.special.pad, -1);
  box_close(&b);
  gw_free(&w);
  write_bpe(&w, "never heard of");
  open_written(&b, &w);
  assert_ptr_equal(b.v.pre, &qi__pre_rules[0]);
  assert_non_null(strstr(b.log, "'never heard of'"));
  box_close(&b);
  gw_free(&w);
  write_bpe(&w, NULL);
  open_written(&b, &w);
  assert_non_null(strstr(b.log, "tokenizer.ggml.pre is missing"));
  box_close(&b);
  gw_free(&w);
}

// Phi-3's added tokens swallow the white space behind them.
static void test_rstrip(void **state) {
  (void)state;
  gw_file w;
  vocab_box b;
  write_spm(&w);
  gw_kv_str(&w, "general.name", "My Phi-3 mini");
  open_written(&b, &w);
  EXPECT(&b, "<|user|>\n \tab<|end|>  ", QI_TOKENIZE_PARSE_SPECIAL, 268, 259, 263, 275);
  EXPECT(&b, "<s> a", QI_TOKENIZE_PARSE_SPECIAL, 1, 259, 267);
  box_close(&b);
  gw_free(&w);
}

// ---- against plain quadratic implementations ----

static size_t slow_bpe(const qi__vocab *v, const char *text, size_t len, qi_token *out) {
  size_t n = len;
  for (size_t i = 0; i < len; i++) out[i] = v->byte_ids[(uint8_t)text[i]];
  for (;;) {
    size_t best = n;
    int64_t best_value = INT64_MAX;
    for (size_t i = 0; i + 1 < n; i++) {
      int64_t value;
      if (!qi__pair_map_get(&v->merges, (uint32_t)out[i], (uint32_t)out[i + 1], &value) || value >= best_value) continue;
      best = i;
      best_value = value;
    }
    if (best == n) return n;
    out[best] = (qi_token)(best_value & 0xFFFFFFFF);
    memmove(out + best + 1, out + best + 2, (n - best - 2) * sizeof *out);
    n--;
  }
}

static void test_bpe_against_slow(void **state) {
  (void)state;
  enum { N_MERGES = 300 };
  static char names[N_MERGES][20], merges[N_MERGES][20];
  static tok t[256 + N_MERGES];
  const char *merge_list[N_MERGES];
  uint32_t seed = 3;
  size_t n = 0;
  bytes_as_tokens(t);
  while (n < N_MERGES) { // random pairs of what there is
    uint32_t a = next_random(&seed) % (4 + (uint32_t)n), c = next_random(&seed) % (4 + (uint32_t)n);
    const char *left = a < 4 ? t['a' + a].text : names[a - 4], *right = c < 4 ? t['a' + c].text : names[c - 4];
    if (strlen(left) + strlen(right) > 8) continue;
    snprintf(names[n], sizeof names[n], "%.8s%.8s", left, right);
    snprintf(merges[n], sizeof merges[n], "%.8s %.8s", left, right);
    merge_list[n] = merges[n];
    t[256 + n] = (tok){names[n], 0, 1};
    n++;
  }
  gw_file w;
  vocab_box b;
  write_tokens(&w, "gpt2", t, 256 + N_MERGES, false);
  gw_kv_str(&w, "tokenizer.ggml.pre", "gpt-2");
  gw_kv_strs(&w, "tokenizer.ggml.merges", merge_list, NULL, N_MERGES);
  open_written(&b, &w);
  for (int k = 0; k < 2000; k++) {
    char text[80];
    qi_token want[80];
    size_t len = 1 + next_random(&seed) % sizeof text;
    for (size_t i = 0; i < len; i++) text[i] = (char)('a' + next_random(&seed) % 4);
    size_t n_want = slow_bpe(&b.v, text, len, want);
    expect_ids(&b, text, len, 0, want, n_want);
  }
  box_close(&b);
  gw_free(&w);
}

static size_t slow_spm(const qi__vocab *v, const char *text, size_t len, qi_token *out) {
  size_t n = len, ends[128]; // symbol i is text[ends[i - 1] .. ends[i])
  for (size_t i = 0; i < len; i++) ends[i] = i + 1;
  for (;;) {
    size_t best = n;
    float best_score = 0;
    for (size_t i = 0; i + 1 < n; i++) {
      size_t start = i ? ends[i - 1] : 0;
      qi_token id = qi__token_find(v, text + start, ends[i + 1] - start);
      if (id < 0 || (best < n && v->scores[id] <= best_score)) continue;
      best = i;
      best_score = v->scores[id];
    }
    if (best == n) break;
    memmove(ends + best, ends + best + 1, (n - best - 1) * sizeof *ends);
    n--;
  }
  for (size_t i = 0; i < n; i++) {
    size_t start = i ? ends[i - 1] : 0;
    out[i] = qi__token_find(v, text + start, ends[i] - start);
  }
  return n;
}

static void test_spm_against_slow(void **state) {
  (void)state;
  enum { N = 300 };
  static char names[N][16];
  static tok t[N + 7];
  uint32_t seed = 11;
  t[0] = (tok){"<unk>", 0, 2};
  t[1] = (tok){"<s>", 0, 3};
  t[2] = (tok){"</s>", 0, 3};
  for (int i = 0; i < 4; i++) t[3 + i] = (tok){i == 0 ? "a" : i == 1 ? "b" : i == 2 ? "c" : "d", -100, 1};
  for (int i = 0; i < N; i++) {
    size_t len = 2 + next_random(&seed) % 5;
    for (size_t k = 0; k < len; k++) names[i][k] = (char)('a' + next_random(&seed) % 4);
    t[7 + i] = (tok){names[i], (float)(next_random(&seed) % 20) - 10.0f, 1}; // equal scores, signs and doubles occur
  }
  t[20].score = -0.0f;
  gw_file w;
  vocab_box b;
  write_tokens(&w, "llama", t, N + 7, true);
  gw_kv_bool(&w, "tokenizer.ggml.add_space_prefix", 0);
  open_written(&b, &w);
  for (int k = 0; k < 2000; k++) {
    char text[80];
    qi_token want[80];
    size_t len = 1 + next_random(&seed) % sizeof text;
    for (size_t i = 0; i < len; i++) text[i] = (char)('a' + next_random(&seed) % 4);
    size_t n_want = slow_spm(&b.v, text, len, want);
    expect_ids(&b, text, len, 0, want, n_want);
  }
  box_close(&b);
  gw_free(&w);
}

// Thousands of specials, many of them prefixes of others: the longest that matches, from the left.
static void test_many_specials(void **state) {
  (void)state;
  enum { N = 5000 };
  static char names[N][16];
  static tok t[N];
  for (int i = 0; i < N; i++) {
    snprintf(names[i], sizeof names[i], i == 0 ? "a" : "<u%x", (unsigned)i);
    t[i] = (tok){names[i], 0, i == 0 ? 1 : i % 3 == 0 ? 3 : 4};
  }
  gw_file w;
  vocab_box b;
  write_tokens(&w, "llama", t, N, true);
  open_written(&b, &w);
  uint32_t seed = 5;
  char text[2048];
  size_t len = 0;
  while (len + 16 < sizeof text) {
    static const char *const bits[] = {"<u1", "2", "f", "<", "u", "<u", "a", "<uabc", "0"};
    const char *bit = bits[next_random(&seed) % 9];
    memcpy(text + len, bit, strlen(bit));
    len += strlen(bit);
  }
  for (int parse = 0; parse < 2; parse++)
    for (size_t pos = 0; pos < len; pos++) {
      size_t best = 0;
      qi_token want = -1, got = -1;
      for (int i = 1; i < N; i++) {
        size_t n = strlen(names[i]);
        if (n > best && n <= len - pos && !memcmp(names[i], text + pos, n) && (parse || t[i].type == 4)) {
          best = n;
          want = i;
        }
      }
      assert_int_equal(qi__special_match(&b.v, text + pos, len - pos, parse != 0, &got), best);
      assert_int_equal(got, want);
    }
  box_close(&b);
  gw_free(&w);
}

// ---- limits, memory, hostile files ----

static void test_capacity_and_memory(void **state) {
  (void)state;
  gw_file w;
  vocab_box b;
  qi_error err = {QI_OK, ""};
  write_spm(&w);
  open_written(&b, &w);
  qi_token out[4] = {-7, -7, -7, -7};
  size_t n = 0, before = b.memory.n_allocs, open = b.memory.n_open;
  assert_int_equal(encode(&b, "a b", 3, 0, out, 2), 3);
  assert_int_equal(out[0], 267);
  assert_int_equal(out[1], 259);
  assert_int_equal(out[2], -7);
  assert_int_equal(b.memory.n_allocs, before + 1); // one block, given back
  assert_int_equal(b.memory.n_open, open);
  b.memory.fail_from = b.memory.n_allocs + 1;
  assert_int_equal(qi__tokenize(&b.v, &b.allocator, "a", 1, 0, NULL, out, 4, &n, &err), QI_ERR_OOM);
  b.memory.fail_from = 0;
  assert_int_equal(qi__tokenize(&b.v, &b.allocator, "a", 1, 4, NULL, out, 4, &n, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__tokenize(&b.v, &b.allocator, NULL, 1, 0, NULL, out, 4, &n, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__tokenize(&b.v, &b.allocator, "a", 1, 0, NULL, NULL, 4, &n, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__tokenize(&b.v, &b.allocator, "a", 1, 0, NULL, out, 4, NULL, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__tokenize(&b.v, &b.allocator, "a", (size_t)1 << 30, 0, NULL, out, 4, &n, &err), QI_ERR_LIMIT);
  assert_int_equal(b.memory.n_open, open);
  box_close(&b);
  gw_free(&w);
}

// A pair of any two neighbours; the look number stop_at stops all.
static int stop;
static size_t n_looks, stop_at;
static bool pair_until(const qi__merger *m, uint32_t left, uint32_t right, uint32_t *key, qi_token *joined) {
  (void)m;
  (void)right;
  *key = left;
  *joined = 0;
  if (++n_looks == stop_at) stop = 1;
  return true;
}

static void test_cancelled(void **state) {
  (void)state;
  for (int kind = 0; kind < 2; kind++) {
    gw_file w;
    vocab_box b;
    qi_error err = {QI_OK, ""};
    qi_token out[4];
    size_t n = 77;
    if (kind == 0) write_spm(&w);
    else write_bpe(&w, "deepseek-llm");
    open_written(&b, &w);
    size_t open = b.memory.n_open;
    stop = 1;
    assert_int_equal(qi__tokenize(&b.v, &b.allocator, "a b", 3, 0, &stop, out, 4, &n, &err), QI_ERR_CANCELLED);
    assert_int_equal(n, 77);
    assert_int_equal(b.memory.n_open, open);
    stop = 0;
    assert_int_equal(qi__tokenize(&b.v, &b.allocator, "a b", 3, 0, &stop, out, 4, &n, &err), QI_OK);
    box_close(&b);
    gw_free(&w);
  }
  enum { N = 5000 };
  static qi__symbol symbols[N + 1];
  static uint64_t heap[2 * N];
  static const size_t stops[] = {1000, N + 1000}; // while pairs are looked at first, and while they are joined, two looks each
  for (size_t i = 0; i < 2; i++) {
    qi__merger m = {.symbols = symbols, .heap = heap, .cancel = &stop, .pair = pair_until};
    stop = 0;
    n_looks = 0;
    stop_at = stops[i];
    qi__merge(&m, N);
    assert_in_range(n_looks, stop_at, stop_at + 1);
  }
}

// Megabytes that a quadratic tokenizer would never finish.
static void test_long_texts(void **state) {
  (void)state;
  size_t len = 1 << 20;
  char *text = (char *)malloc(len);
  assert_non_null(text);
  for (int kind = 0; kind < 2; kind++) {
    gw_file w;
    vocab_box b;
    if (kind == 0) write_spm(&w);
    else write_bpe(&w, "deepseek-llm");
    open_written(&b, &w);
    memset(text, 'a', len);
    assert_int_equal(encode(&b, text, len, 0, NULL, 0), kind == 0 ? len / 2 + 1 : len / 4);
    memset(text, ' ', len);
    text[len - 1] = 'x';
    assert_int_equal(encode(&b, text, len, 0, NULL, 0), len + (kind == 0));
    for (size_t i = 0; i < len; i++) text[i] = "\xF0\x9F\x98\x80"[i % 4];
    assert_int_equal(encode(&b, text, len, 0, NULL, 0), len + (kind == 0));
    for (size_t i = 0; i < len; i++) text[i] = "<tool"[i % 5];
    assert_true(encode(&b, text, len, 3, NULL, 0) > len / 2);
    box_close(&b);
    gw_free(&w);
  }
  free(text);
}

static void expect_refused(gw_file *w, qi_result code, const char *a, const char *c) {
  vocab_box b;
  qi_error err = {QI_OK, ""};
  size_t size;
  const uint8_t *bytes = gw_finish(w, &size);
  assert_non_null(bytes);
  assert_int_equal(box_open(&b, bytes, size, &err), code);
  assert_int_equal(err.code, code);
  if (!strstr(err.msg, a) || !strstr(err.msg, c)) fail_msg("'%s' names not '%s' and '%s'", err.msg, a, c);
  gw_free(w);
}

static void test_hostile_counts(void **state) {
  (void)state;
  static const tok t[] = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}, {"a", 0, 1}};
  static const char *const texts[] = {"a", "b", "c"};
  const int32_t types[] = {1, 1};
  const float scores[] = {1, 2, 3, 4};
  gw_file w;
  gw_begin(&w, 3);
  gw_kv_str(&w, "tokenizer.ggml.model", "llama");
  gw_kv_strs(&w, "tokenizer.ggml.tokens", texts, NULL, 3);
  gw_kv_i32s(&w, "tokenizer.ggml.token_type", types, 2);
  expect_refused(&w, QI_ERR_FORMAT, "tokenizer.ggml.token_type: 2", "tokenizer.ggml.tokens has 3");
  gw_begin(&w, 3);
  gw_kv_str(&w, "tokenizer.ggml.model", "llama");
  gw_kv_strs(&w, "tokenizer.ggml.tokens", texts, NULL, 3);
  gw_kv_f32s(&w, "tokenizer.ggml.scores", scores, 4);
  expect_refused(&w, QI_ERR_FORMAT, "tokenizer.ggml.scores: 4", "has 3");
  gw_begin(&w, 3);
  gw_kv_str(&w, "tokenizer.ggml.model", "llama");
  gw_kv_strs(&w, "tokenizer.ggml.tokens", texts, NULL, 0);
  expect_refused(&w, QI_ERR_LIMIT, "0 tokens", "");
  static const char *const others[] = {"bert", "t5", "rwkv", "no_vocab", "none"};
  for (size_t i = 0; i < 5; i++) {
    write_tokens(&w, others[i], t, 4, true);
    expect_refused(&w, QI_ERR_UNSUPPORTED, others[i], "tokenizer.ggml.model");
  }
  write_tokens(&w, "llama", t, 4, true);
  gw_kv_u32(&w, "tokenizer.ggml.bos_token_id", 4);
  expect_refused(&w, QI_ERR_FORMAT, "tokenizer.ggml.bos_token_id: 4", "4 tokens");
  write_tokens(&w, "gpt2", t, 4, true);
  expect_refused(&w, QI_ERR_FORMAT, "tokenizer.ggml.merges", "");
  char *huge = (char *)malloc(65537);
  memset(huge, 'x', 65536);
  huge[65536] = 0;
  tok big[] = {{"a", 0, 1}, {huge, 0, 1}};
  write_tokens(&w, "llama", big, 2, true);
  expect_refused(&w, QI_ERR_LIMIT, "text 1 has 65536 bytes", "65535");
  free(huge);
}

// Strange but sound: texts with zeros, doubles, empty ones, types out of range, NaN scores, special ids that defaults cannot reach.
static void test_strange_tokens(void **state) {
  (void)state;
  static const char *const texts[] = {"a\0b", "", "aa", "aa", "a", "b", "ab"};
  static const size_t lens[] = {3, 0, 2, 2, 1, 1, 2};
  const int32_t types[] = {1, 4, 1, 1, -5, 77, 3};
  const float scores[] = {0, 0, NAN, 1, -INFINITY, INFINITY, 5};
  gw_file w;
  vocab_box b;
  gw_begin(&w, 3);
  gw_kv_str(&w, "tokenizer.ggml.model", "llama");
  gw_kv_strs(&w, "tokenizer.ggml.tokens", texts, lens, 7);
  gw_kv_i32s(&w, "tokenizer.ggml.token_type", types, 7);
  gw_kv_f32s(&w, "tokenizer.ggml.scores", scores, 7);
  gw_kv_bool(&w, "tokenizer.ggml.add_space_prefix", 0);
  open_written(&b, &w);
  EXPECT(&b, "aab", 0, 2, 5); // the first of doubles; "ab" is a control token
  EXPECT(&b, "ab", QI_TOKENIZE_PARSE_SPECIAL, 6);
  EXPECT(&b, "a\0b", 0, 4, 0, 5); // no byte tokens: the unknown token, id 0 by default
  EXPECT(&b, "z\xF0\x9F\x98\x80", 0, 0, 0, 0, 0, 0);
  assert_int_equal(qi__token_find(&b.v, "aa", 2), 2);
  char out[4];
  assert_int_equal(qi__token_piece(&b.v, 0, false, out, 4), 3);
  assert_memory_equal(out, "a\0b", 3);
  assert_int_equal(qi__token_piece(&b.v, 1, false, out, 4), 0);
  box_close(&b);
  gw_free(&w);
  const tok one[] = {{"a", 0, 1}};
  write_tokens(&w, "llama", one, 1, false);
  open_written(&b, &w);
  assert_int_equal(b.v.special.bos, -1);
  assert_int_equal(b.v.special.eos, -1);
  assert_int_equal(b.v.special.unk, 0);
  box_close(&b);
  gw_free(&w);
  const tok nothing[] = {{"", 0, 4}};
  write_tokens(&w, "gpt2", nothing, 1, false);
  gw_kv_strs(&w, "tokenizer.ggml.merges", NULL, NULL, 0);
  open_written(&b, &w);
  assert_int_equal(encode(&b, "any text", 8, 3, NULL, 0), 0);
  box_close(&b);
  gw_free(&w);
}

static void test_failing_allocator(void **state) {
  (void)state;
  gw_file w;
  size_t size;
  write_bpe(&w, "gpt-2");
  const uint8_t *bytes = gw_finish(&w, &size);
  qi__gguf g;
  qi__vocab v;
  qi__vocab_counts counts;
  counters memory = {0, 0, 0, 0};
  qi_allocator allocator = {count_alloc, count_free, &memory};
  qi_logger quiet = {NULL, NULL};
  qi_model_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.data = bytes;
  desc.data_size = size;
  assert_int_equal(qi__gguf_open(&g, &desc, &allocator, &quiet, NULL), QI_OK);
  assert_int_equal(qi__vocab_count(&g, &counts, NULL), QI_OK);
  qi__arena arena = {NULL, 0, 0, false};
  size_t before = memory.n_allocs;
  qi__vocab_layout(&v, &arena, &counts);
  assert_int_equal(memory.n_allocs, before); // counting asks for nothing
  memory.fail_from = before + 1;
  assert_int_equal(qi__arena_open(&arena, &allocator, "vocab", NULL), QI_ERR_OOM);
  memory.fail_from = 0;
  qi__gguf_close(&g);
  assert_int_equal(memory.n_open, 0);
  gw_free(&w);
}

// ---- real vocabularies ----

static char *read_file(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  char *bytes = NULL;
  if (!fseek(f, 0, SEEK_END)) {
    long n = ftell(f);
    rewind(f);
    bytes = n >= 0 ? (char *)malloc((size_t)n + 1) : NULL;
    if (bytes) {
      *size = fread(bytes, 1, (size_t)n, f);
      bytes[*size] = 0;
    }
  }
  fclose(f);
  return bytes;
}

// Cases of NAME.inp, parted by a line, give the ids in the lines of NAME.out, without special tokens; and go back to their text.
static int check_vocab(const char *name) {
  char path[160];
  size_t size = 0, n_in = 0, n_out = 0;
  vocab_box b;
  qi_error err = {QI_OK, ""};
  snprintf(path, sizeof path, "../shared/vocab/ggml-vocab-%s.gguf", name);
  char *bytes = read_file(path, &size);
  snprintf(path, sizeof path, "../shared/vocab/ggml-vocab-%s.gguf.inp", name);
  char *in = read_file(path, &n_in);
  snprintf(path, sizeof path, "../shared/vocab/ggml-vocab-%s.gguf.out", name);
  char *out = read_file(path, &n_out);
  if (!bytes || !in || !out) {
    free(bytes), free(in), free(out);
    return 0;
  }
  if (box_open(&b, bytes, size, &err)) fail_msg("%s: %s", name, err.msg);
  static const char separator[] = "\n__ggml_vocab_test__\n";
  int n_cases = 0;
  char *line = out;
  for (const char *p = in; p < in + n_in;) {
    const char *end = strstr(p, separator);
    size_t len = (size_t)((end ? end : in + n_in) - p), n = 0;
    qi_token want[1024];
    char *eol = strchr(line, '\n');
    assert_non_null(eol);
    *eol = 0;
    for (char *q = line, *next; n < 1024; q = next) {
      long id = strtol(q, &next, 10);
      if (next == q) break;
      want[n++] = (qi_token)id;
    }
    expect_ids(&b, p, len, 0, want, n);
    round_trip(&b, p, len);
    line = eol + 1;
    p = end ? end + sizeof separator - 1 : in + n_in;
    n_cases++;
  }
  box_close(&b);
  free(bytes), free(in), free(out);
  return n_cases;
}

static void test_real_vocabularies(void **state) {
  (void)state;
  static const char *const names[] = {"deepseek-coder", "falcon", "gpt-2", "llama-spm", "phi-3"};
  int n_cases = 0;
  for (size_t i = 0; i < 5; i++) n_cases += check_vocab(names[i]);
  if (n_cases == 0) {
    print_message("../shared/vocab is not there\n");
    skip();
  }
  assert_int_equal(n_cases, 5 * 46);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_byte_characters),
      cmocka_unit_test(test_spm),
      cmocka_unit_test(test_spm_special),
      cmocka_unit_test(test_spm_text),
      cmocka_unit_test(test_bpe),
      cmocka_unit_test(test_bpe_rules),
      cmocka_unit_test(test_rstrip),
      cmocka_unit_test(test_bpe_against_slow),
      cmocka_unit_test(test_spm_against_slow),
      cmocka_unit_test(test_many_specials),
      cmocka_unit_test(test_capacity_and_memory),
      cmocka_unit_test(test_cancelled),
      cmocka_unit_test(test_long_texts),
      cmocka_unit_test(test_hostile_counts),
      cmocka_unit_test(test_strange_tokens),
      cmocka_unit_test(test_failing_allocator),
      cmocka_unit_test(test_real_vocabularies),
  };
  return cmocka_run_group_tests_name("tokenize", tests, NULL, NULL);
}
