// Hugging Face folders: the same model as GGUF gives the same logits and tokens; hostile files are refused; memory is what was
// told.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <setjmp.h>
#include <cmocka.h>

#include "support/hf_write.h"
#include "support/run_model.h"

#define N_TOKENS 24

// ---- opening ----

static qi_model_desc folder_desc(const char *path) {
  qi_model_desc md;
  memset(&md, 0, sizeof md);
  md.path = path;
  return md;
}

static qi_model *open_folder(const char *path) {
  qi_model_desc md = folder_desc(path);
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  RUN_OK(qi_model_open(&m, &md, &err), err);
  return m;
}

static void refuse_path(const char *path, qi_load load, qi_result code, const char *phrase) {
  qi_model_desc md = folder_desc(path);
  qi_model *m = NULL;
  for (int no_mmap = 0; no_mmap < 2; no_mmap++) {
    gc_heap heap;
    qi_error err = {QI_OK, ""};
    memset(&heap, 0, sizeof heap);
    md.load = load;
    md.no_mmap = no_mmap != 0;
    md.allocator.alloc = gc_heap_alloc;
    md.allocator.free = gc_heap_free;
    md.allocator.user = &heap;
    qi_result r = qi_model_open(&m, &md, &err);
    if (r != code || !strstr(err.msg, phrase))
      fail_msg("%s: %s \"%s\", expected %s \"%s\"", path, qi_result_name(r), err.msg, qi_result_name(code), phrase);
    assert_null(m);
    assert_int_equal(heap.n_live, 0);
    assert_int_equal(qi_model_validate(&md, NULL), code);
    assert_int_equal(heap.n_live, 0);
  }
}
static void refuse(const hw_folder *h, qi_result code, const char *phrase) { refuse_path(h->dir, QI_LOAD_ALL, code, phrase); }

// A model as GGUF and as a folder.
typedef struct twins {
  run_model gguf;
  hw_folder folder;
  qi_model *m;
} twins;

static twins make_twins(const rm_desc *d, const hw_options *o) {
  twins t;
  memset(&t, 0, sizeof t);
  t.gguf = run_build(d);
  hw_begin(&t.folder);
  hw_model(&t.folder, t.gguf.m, o);
  t.m = open_folder(t.folder.dir);
  return t;
}
static void free_twins(twins *t) {
  qi_model_close(t->m);
  run_free(&t->gguf);
  hw_end(&t->folder);
}

static void compare_logits(const qi_model *a, const qi_model *b, bool bits, const char *what) {
  static const qi_path paths[] = {QI_PATH_INTEGER, QI_PATH_BF16, QI_PATH_FLOAT};
  qi_token ids[N_TOKENS];
  size_t n_vocab = (size_t)run_n_vocab(a), n = N_TOKENS * n_vocab;
  assert_int_equal(run_n_vocab(b), n_vocab);
  run_random_tokens(3, (int)n_vocab, ids, N_TOKENS);
  for (size_t p = 0; p < QI__COUNT_OF(paths); p++) {
    qi_session_desc sd = run_session_desc(N_TOKENS, paths[p]);
    float *x = run_logits(a, &sd, ids, N_TOKENS, false), *y = run_logits(b, &sd, ids, N_TOKENS, false);
    if (bits) {
      run_expect_bits(y, x, n, what, "logits");
    } else { // sums in another order; roundings of activations may fall to the other side
      double dot = 0, xx = 0, yy = 0;
      for (size_t i = 0; i < n; i++) dot += (double)x[i] * y[i], xx += (double)x[i] * x[i], yy += (double)y[i] * y[i];
      double loss = 1 - dot / sqrt(xx * yy), most = paths[p] == QI_PATH_FLOAT ? 1e-9 : 1e-3;
      if (!(loss < most)) fail_msg("%s, path %d: cosine 1 - %.3g, expected 1 - %.3g or better", what, (int)paths[p], loss, most);
    }
    free(x);
    free(y);
  }
}

static void compare_tokens(const qi_model *a, const qi_model *b, const char *text, size_t len) {
  for (int flags = 0; flags < 4; flags++) {
    size_t n = 0, m = 0;
    assert_int_equal(qi_tokenize(a, text, len, flags, NULL, 0, &n, NULL), QI_OK);
    assert_int_equal(qi_tokenize(b, text, len, flags, NULL, 0, &m, NULL), QI_OK);
    qi_token *x = (qi_token *)malloc((n + 1) * sizeof *x), *y = (qi_token *)malloc((m + 1) * sizeof *y);
    assert_true(x && y);
    assert_int_equal(qi_tokenize(a, text, len, flags, x, n, &n, NULL), QI_OK);
    assert_int_equal(qi_tokenize(b, text, len, flags, y, m, &m, NULL), QI_OK);
    if (n != m || memcmp(x, y, n * sizeof *x)) fail_msg("flags %d: other tokens (%zu, %zu) for '%.40s'", flags, n, m, text);
    free(x);
    free(y);
  }
}

static const char sample[] = "This is the thing: he said \"Test\" 42 times,  and <s> then some w\xc3\xb6rds\n\t.</s> Io ";

// ---- sound models ----

static void test_llama(void **state) {
  (void)state;
  static const qi_format formats[] = {QI_FORMAT_F32, QI_FORMAT_F16, QI_FORMAT_BF16};
  for (size_t i = 0; i < QI__COUNT_OF(formats); i++) {
    rm_desc d = rm_llama();
    hw_options o = {.with_prefix = true, .pad = (int)i + 5, .pairs = i == 1};
    d.format = formats[i];
    d.n_kv_heads = i == 2 ? 2 : 4;
    d.n_vocab = 600;
    twins t = make_twins(&d, &o);
    compare_logits(t.gguf.m, t.m, false, "llama");
    compare_tokens(t.gguf.m, t.m, sample, sizeof sample - 1);
    compare_tokens(t.gguf.m, t.m, "", 0);
    qi_model_info a, b;
    qi_model_get_info(t.gguf.m, &a);
    qi_model_get_info(t.m, &b);
    assert_string_equal(b.architecture, "llama");
    assert_string_equal(b.chat_template, "{{ x }}\n");
    assert_int_equal(a.n_params, b.n_params);
    assert_int_equal(a.n_ctx_train, b.n_ctx_train);
    qi_special_tokens s;
    qi_model_special_tokens(t.m, &s);
    assert_true(s.bos == 1 && s.eos == 2 && s.unk == 0 && s.pad == -1 && s.add_bos && !s.add_eos);
    free_twins(&t);
  }
}

static void test_bit_equal(void **state) {
  (void)state;
  rm_desc d[4] = {rm_qwen2(), rm_qwen3(), rm_qwen2(), rm_qwen3()};
  d[1].format = QI_FORMAT_BF16;
  d[2].format = QI_FORMAT_F16;
  d[2].tied = false;
  d[3].n_kv_heads = 1;
  for (size_t i = 0; i < QI__COUNT_OF(d); i++) {
    hw_options o = {.with_prefix = true, .n_shards = (int)i, .pad = (int)i};
    twins t = make_twins(&d[i], &o);
    compare_logits(t.gguf.m, t.m, true, d[i].arch);
    free_twins(&t);
  }
}

// Longrope: the factors of the GGUF model are written to config.json.
static void test_phi3(void **state) {
  (void)state;
  rm_desc d = rm_phi3();
  run_model g = run_build(&d);
  gw_buf extra;
  memset(&extra, 0, sizeof extra);
  hw_put(&extra, "\"original_max_position_embeddings\":64,\"sliding_window\":null,\"rope_scaling\":{\"type\":\"longrope\",");
  hw_put(&extra, "\"attention_factor\":1.19,");
  static const char *const names[][2] = {{"rope_factors_short.weight", "short_factor"}, {"rope_factors_long.weight",
      "long_factor"}};
  for (int k = 0; k < 2; k++) {
    qi_tensor t;
    assert_int_equal(qi_tensor_find(g.m, names[k][0], &t, NULL), QI_OK);
    hw_printf(&extra, "%s\"%s\":[", k ? "," : "", names[k][1]);
    for (uint64_t i = 0; i < t.shape[0]; i++) {
      float v = qi__bits_f32(qi__load_u32((const uint8_t *)t.data + 4 * i));
      hw_printf(&extra, "%s%.9g", i ? "," : "", (double)v);
    }
    hw_put(&extra, "]");
  }
  hw_put(&extra, "},");
  gw_uint(&extra, 0, 1);
  hw_options o = {.extra = (const char *)extra.data};
  hw_folder h;
  hw_begin(&h);
  hw_model(&h, g.m, &o);
  qi_model *m = open_folder(h.dir);
  compare_logits(g.m, m, true, "phi3");
  qi_model_close(m);
  hw_end(&h);
  run_free(&g);
  free(extra.data);
}

// Linear and yarn as GGUF has them; llama3's formula against factors computed here.
static void test_rope_scaling(void **state) {
  (void)state;
  rm_desc d = rm_qwen2();
  d.scaling_type = "linear";
  d.scaling_factor = 4;
  hw_options o = {.extra = "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0},"};
  twins t = make_twins(&d, &o);
  compare_logits(t.gguf.m, t.m, true, "linear");
  free_twins(&t);
  d.scaling_type = "yarn";
  d.n_ctx_orig = 32;
  o.extra = "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":32,\"beta_fast\":32.0},";
  t = make_twins(&d, &o);
  compare_logits(t.gguf.m, t.m, true, "yarn");
  free_twins(&t);

  rm_desc plain = rm_llama();
  plain.freq_base = 500000;
  o.extra = "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
            "\"original_max_position_embeddings\":8192},";
  t = make_twins(&plain, &o);
  qi_tensor f;
  assert_int_equal(qi_tensor_find(t.m, "rope_freqs.weight", &f, NULL), QI_OK);
  assert_int_equal(f.shape[0], 8);
  for (int i = 0; i < 8; i++) {
    double wave = 2 * 3.14159265358979323846 * pow(500000, 2.0 * i / 16), want = 1;
    if (wave > 8192 / 1.0) want = 8;
    else if (wave >= 8192 / 4.0) {
      double smooth = (8192 / wave - 1) / 3;
      want = 1 / ((1 - smooth) / 8 + smooth);
    }
    float got = qi__bits_f32(qi__load_u32((const uint8_t *)f.data + 4 * i));
    if (fabs((double)got - want) > 1e-6 * want) fail_msg("factor %d is %g, expected %g", i, (double)got, want);
  }
  free_twins(&t);
}

// Mistral is llama by another name, with a window.
static void test_mistral(void **state) {
  (void)state;
  rm_desc d = rm_llama();
  d.window = 7;
  hw_options o = {.model_type = "mistral", .extra = "\"sliding_window\":7,"};
  twins t = make_twins(&d, &o);
  compare_logits(t.gguf.m, t.m, false, "mistral");
  free_twins(&t);
  d.window = -1;
  o.model_type = "llama"; // there the key says nothing
  t = make_twins(&d, &o);
  compare_logits(t.gguf.m, t.m, false, "llama");
  free_twins(&t);
}

// Every way to name the folder, mapped and read.
static void test_paths(void **state) {
  (void)state;
  static const char *const one[] = {"", "/", "/config.json", "/model.safetensors"};
  static const char *const many[] = {"", "/config.json", "/model.safetensors.index.json", "/model-00001-of-00003.safetensors",
                                     "/model-00003-of-00003.safetensors"};
  for (int sharded = 0; sharded < 2; sharded++) {
    rm_desc d = rm_qwen2();
    hw_options o = {.n_shards = sharded ? 3 : 0};
    twins t = make_twins(&d, &o);
    for (size_t i = 0; i < (sharded ? QI__COUNT_OF(many) : QI__COUNT_OF(one)); i++) {
      char path[512];
      snprintf(path, sizeof path, "%s%s", t.folder.dir, sharded ? many[i] : one[i]);
      for (int no_mmap = 0; no_mmap < 2; no_mmap++) {
        qi_model_desc md = folder_desc(path);
        qi_model *m = NULL;
        qi_memory memory = {0, 0};
        qi_error err = {QI_OK, ""};
        gc_heap heap;
        memset(&heap, 0, sizeof heap);
        md.no_mmap = no_mmap != 0;
        md.allocator.alloc = gc_heap_alloc;
        md.allocator.free = gc_heap_free;
        md.allocator.user = &heap;
        RUN_OK(qi_model_memory(&md, &memory, &err), err);
        assert_int_equal(heap.n_live, 0);
        assert_int_equal(qi_model_validate(&md, NULL), QI_OK);
        assert_int_equal(heap.n_live, 0);
        RUN_OK(qi_model_open(&m, &md, &err), err);
        assert_int_equal(memory.heap, heap.live_bytes);
        assert_true(no_mmap ? !memory.mapped : memory.mapped > 0);
        compare_logits(t.gguf.m, m, true, path);
        qi_model_close(m);
        assert_int_equal(heap.n_live, 0);
      }
    }
    free_twins(&t);
  }
}

// An index may name a single file, by any name.
static void test_one_file_index(void **state) {
  (void)state;
  static const char name[] = "the-weights-of-this-model-in-one-file.safetensors";
  rm_desc d = rm_qwen2();
  hw_options o = {.pad = 1};
  char from[512], to[512];
  twins t = make_twins(&d, &o);
  hw_path(&t.folder, "model.safetensors", from);
  hw_path(&t.folder, name, to);
  hw_text(&t.folder, name, "x"); // so that it is removed at the end
  assert_int_equal(rename(from, to), 0);
  gw_buf b;
  memset(&b, 0, sizeof b);
  hw_printf(&b, "{\"weight_map\":{\"model.norm.weight\":\"%s\",\"model.embed_tokens.weight\":\"%s\"}}", name, name);
  hw_save_buf(&t.folder, "model.safetensors.index.json", &b);
  qi_model *m = open_folder(t.folder.dir), *again = open_folder(to);
  compare_logits(t.gguf.m, m, true, "one file");
  compare_logits(t.gguf.m, again, true, "one file");
  qi_model_close(m);
  qi_model_close(again);
  free_twins(&t);
}

// Metadata and tokenizer alone; any architecture.
static void test_load_levels(void **state) {
  (void)state;
  rm_desc d = rm_qwen3();
  hw_options o = {.model_type = "otherarch", .with_prefix = true};
  run_model g = run_build(&d);
  hw_folder h;
  hw_begin(&h);
  hw_model(&h, g.m, &o);
  refuse(&h, QI_ERR_UNSUPPORTED, "general.architecture: 'otherarch' is not supported");
  qi_model_desc md = folder_desc(h.dir);
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  md.load = QI_LOAD_METADATA;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  assert_int_equal(qi_tensor_count(m), qi_tensor_count(g.m));
  assert_true(qi_meta_count(m) > 5);
  qi_model_close(m);
  hw_remove(&h, "model.safetensors"); // a tokenizer is one without weights
  md.load = QI_LOAD_VOCAB;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  compare_tokens(g.m, m, sample, sizeof sample - 1);
  // Scores were filled in for whoever copies the metadata.
  qi__gguf_array scores;
  assert_int_equal(qi__gguf_get_array(&m->gguf, "tokenizer.ggml.scores", QI_META_F32, true, &scores, NULL), QI_OK);
  for (uint32_t id = 0; id < m->vocab.n_tokens; id++) assert_true(qi__array_u32(&scores, id) == qi__f32_bits(m->vocab.scores[id]));
  qi_model_close(m);
  hw_end(&h);
  run_free(&g);
}

// ---- ternary ----

// A GGUF model of TQ2_0 whose blocks all have one scale a tensor.
static run_model build_ternary(rm_desc d) {
  run_model r = {NULL, NULL, 0};
  qi_model_desc md;
  qi_error err = {QI_OK, ""};
  d.format = QI_FORMAT_TQ2_0;
  r.file = rm_build(&d, &r.size);
  assert_non_null(r.file);
  memset(&md, 0, sizeof md);
  md.data = r.file;
  md.data_size = r.size;
  RUN_OK(qi_model_open(&r.m, &md, &err), err);
  for (size_t i = 0; i < qi_tensor_count(r.m); i++) {
    qi_tensor t;
    assert_int_equal(qi_tensor_get(r.m, i, &t, NULL), QI_OK);
    if (t.format != QI_FORMAT_TQ2_0) continue;
    uint8_t *data = (uint8_t *)(uintptr_t)t.data;
    for (uint64_t b = 0; b < t.n_bytes / 66; b++) qi__store_u16(data + 66 * b + 64, qi__f32_to_f16(i % 2 ? 0.0625f : 0.125f));
  }
  qi_model_close(r.m); // vectors were copied
  r.m = NULL;
  RUN_OK(qi_model_open(&r.m, &md, &err), err);
  return r;
}

static rm_desc ternary_desc(bool biases) {
  rm_desc d = biases ? rm_qwen2() : rm_qwen3();
  d.n_embd = 256;
  d.n_ff = 512;
  d.n_vocab = 300;
  d.tied = false;
  return d;
}

static void test_ternary(void **state) {
  (void)state;
  for (int variant = 0; variant < 3; variant++) {
    run_model g = build_ternary(ternary_desc(variant == 1));
    hw_options o = {.packed = true, .divides = variant == 1, .n_shards = variant == 2 ? 2 : 0, .pad = variant};
    hw_folder h;
    hw_begin(&h);
    hw_model(&h, g.m, &o);
    qi_model *m = open_folder(h.dir);
    qi_tensor a, b;
    assert_int_equal(qi_tensor_find(g.m, "blk.1.ffn_down.weight", &a, NULL), QI_OK);
    assert_int_equal(qi_tensor_find(m, "blk.1.ffn_down.weight", &b, NULL), QI_OK);
    assert_int_equal(b.format, QI_FORMAT_I2_S);
    assert_int_equal(b.n_bytes, a.shape[0] * a.shape[1] / 4 + 32);
    float scale = qi__f16_to_f32(qi__load_u16((const uint8_t *)a.data + 64));
    assert_true(qi__load_u32((const uint8_t *)b.data + b.n_bytes - 32) == qi__f32_bits(scale));
    compare_logits(g.m, m, true, "ternary");
    qi_model_desc md = folder_desc(h.dir);
    assert_int_equal(qi_model_validate(&md, NULL), QI_OK);
    qi_model_close(m);
    hw_end(&h);
    run_free(&g);
  }
}

// BitNet: the three architectures against the float64 reference, and their folders against them.
static void test_bitnet(void **state) {
  (void)state;
  static const char *const archs[] = {"bitnet", "bitnet-b1.58", "bitnet-25"};
  for (size_t i = 0; i < QI__COUNT_OF(archs); i++) {
    rm_desc d = rm_bitnet(archs[i]);
    run_model g = run_build(&d);
    r64_model r;
    r64_options options;
    qi_token ids[N_TOKENS];
    memset(&options, 0, sizeof options);
    options.n_ctx = N_TOKENS;
    if (!r64_open(&r, g.m)) fail_msg("%s", r.error);
    run_random_tokens(5, d.n_vocab, ids, N_TOKENS);
    double *want = run_reference(&r, &options, ids, N_TOKENS);
    qi_session_desc sd = run_session_desc(N_TOKENS, QI_PATH_FLOAT);
    float *got = run_logits(g.m, &sd, ids, N_TOKENS, false);
    double dot = 0, xx = 0, yy = 0;
    for (size_t k = 0; k < N_TOKENS * (size_t)d.n_vocab; k++) {
      dot += got[k] * want[k];
      xx += (double)got[k] * got[k];
      yy += want[k] * want[k];
    }
    if (!(1 - dot / sqrt(xx * yy) < 1e-9)) fail_msg("%s: cosine 1 - %g", archs[i], 1 - dot / sqrt(xx * yy));
    free(want);
    free(got);
    r64_close(&r);
    run_free(&g);
    if (i == 2) continue; // no name among those of Hugging Face
    d.n_embd = d.n_ff = 256;
    g = build_ternary(d);
    hw_options o = {.model_type = "bitnet", .hidden_act = i ? "relu2" : "silu", .packed = true};
    hw_folder h;
    hw_begin(&h);
    hw_model(&h, g.m, &o);
    qi_model *m = open_folder(h.dir);
    qi_model_info info;
    qi_model_get_info(m, &info);
    assert_string_equal(info.architecture, archs[i]);
    compare_logits(g.m, m, true, archs[i]);
    qi_model_close(m);
    hw_end(&h);
    run_free(&g);
  }
}

// GGUF files of 2024 have scales beside their matrices: better refused than ignored.
static void test_scale_beside(void **state) {
  (void)state;
  rm_desc d = rm_bitnet("bitnet");
  gw_file w;
  size_t size;
  rm_writer b;
  memset(&b, 0, sizeof b);
  b.d = &d;
  gw_begin(&b.w, 3);
  rm_write_hparams(&b.w, &d);
  rm_write_vocab(&b.w, &d);
  rm_tensor(&b, "token_embd.weight", d.n_vocab, d.n_embd, 0, 1, d.format);
  rm_tensor(&b, "output_norm.weight", 0, d.n_embd, 1, 0.3f, QI_FORMAT_F32);
  for (int i = 0; i < d.n_layers; i++) rm_write_layer(&b, i, false, false, false);
  rm_vector(&b, 1, "ffn_up.scale", 1, 0.5f, 0);
  w = b.w;
  const uint8_t *bytes = gw_finish(&w, &size);
  qi_model_desc md;
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  memset(&md, 0, sizeof md);
  md.data = bytes;
  md.data_size = size;
  assert_int_equal(qi_model_open(&m, &md, &err), QI_ERR_UNSUPPORTED);
  assert_non_null(strstr(err.msg, "tensor blk.1.ffn_up.scale: a scale beside its matrix"));
  gw_free(&w);
}

// Scales that are none, and shapes that do not fit.
static void test_bad_ternary(void **state) {
  (void)state;
  static const struct {
    const char *bits, *dtype, *phrase;
    uint64_t n, cols;
  } bad[] = {{"\x00\x00\xc0\x7f", "F32", "weight_scale: is nan", 1, 256},   {"\x00\x00\x00\x00", "F32", "is 0, expected", 1, 256},
             {"\x00\x00\x80\xbf", "F32", "is -1, expected", 1, 256},        {"\x00\x00\x80\x7f", "F32", "is inf", 1, 256},
             {"\x00\x00\x80\x3f", "I32", "expected one number", 1, 256},    {"\x80\x3f\x80\x3f", "BF16", "one number", 2, 256},
             {"\x00\x00\x80\x3f", "F32", "multiple of 256", 1, 250}};
  for (size_t i = 0; i < QI__COUNT_OF(bad); i++) {
    hw_folder h;
    hw_tensors t;
    static const uint8_t zeros[512];
    hw_begin(&h);
    memset(&t, 0, sizeof t);
    hw_text(&h, "config.json", "{\"model_type\":\"llama\",\"quantization_config\":{\"quant_method\":\"bitnet\","
                               "\"linear_class\":\"autobitlinear\"}}");
    hw_tensor(&t, "model.layers.0.mlp.up_proj.weight", "U8", 2, (uint64_t[]){2, bad[i].cols}, zeros, (size_t)(2 * bad[i].cols));
    hw_tensor(&t, "model.layers.0.mlp.up_proj.weight_scale", bad[i].dtype, 1, &bad[i].n, bad[i].bits, 4);
    hw_save_tensors(&h, "model.safetensors", &t, 0);
    refuse_path(h.dir, QI_LOAD_METADATA, i == 6 ? QI_ERR_UNSUPPORTED : QI_ERR_FORMAT, bad[i].phrase);
    hw_end(&h);
  }
}

// A bias beside packed weights: refused where the layer would scale it too.
static void test_ternary_bias(void **state) {
  (void)state;
  static const char *const classes[] = {"autobitlinear", "bitlinear"};
  for (int divides = 0; divides < 2; divides++) {
    hw_folder h;
    hw_tensors t;
    qi_model_desc md;
    qi_error err = {QI_OK, ""};
    static const uint8_t zeros[512];
    char config[160];
    hw_begin(&h);
    memset(&t, 0, sizeof t);
    memset(&md, 0, sizeof md);
    snprintf(config, sizeof config, "{\"model_type\":\"llama\",\"quantization_config\":{\"quant_method\":\"bitnet\","
             "\"linear_class\":\"%s\"}}", classes[divides]);
    hw_text(&h, "config.json", config);
    hw_tensor(&t, "model.layers.0.mlp.up_proj.weight", "U8", 2, (uint64_t[]){2, 256}, zeros, 512);
    hw_tensor(&t, "model.layers.0.mlp.up_proj.weight_scale", "F32", 1, (uint64_t[]){1}, "\x00\x00\x80\x3f", 4);
    hw_tensor(&t, "model.layers.0.mlp.up_proj.bias", "F32", 1, (uint64_t[]){8}, zeros, 32);
    hw_save_tensors(&h, "model.safetensors", &t, 0);
    if (divides) {
      md.path = h.dir;
      md.load = QI_LOAD_METADATA;
      assert_int_equal(qi_model_validate(&md, &err), QI_OK);
    } else {
      refuse_path(h.dir, QI_LOAD_METADATA, QI_ERR_UNSUPPORTED, "tensor blk.0.ffn_up.bias: a bias beside packed weights");
    }
    hw_end(&h);
  }
}

// ---- hostile safetensors ----

// A header alone, and `n` bytes of data.
static void bad_header(const char *header, uint64_t said, size_t n_data, qi_result code, const char *phrase) {
  hw_folder h;
  gw_buf b;
  memset(&b, 0, sizeof b);
  hw_begin(&h);
  hw_text(&h, "config.json", "{\"model_type\":\"llama\"}");
  gw_uint(&b, said, 8);
  gw_bytes(&b, header, strlen(header));
  gw_bytes(&b, NULL, n_data);
  hw_save_buf(&h, "model.safetensors", &b);
  refuse_path(h.dir, QI_LOAD_METADATA, code, phrase);
  hw_end(&h);
}
#define BAD(header, n_data, phrase) bad_header(header, strlen(header), n_data, QI_ERR_FORMAT, phrase)

static void test_bad_headers(void **state) {
  (void)state;
  bad_header("{}", 3, 0, QI_ERR_FORMAT, "model.safetensors: header: 3 bytes, but the file has only 2 more");
  bad_header("{}", 100000001, 0, QI_ERR_LIMIT, "header: 100000001 bytes");
  bad_header("{}", UINT64_MAX, 0, QI_ERR_LIMIT, "header: 18446744073709551615 bytes");
  BAD("[]", 0, "found an array, expected an object");
  BAD("{}x", 0, "found 'x', expected the end");
  BAD("{}", 4, "tensors end at offset 10, but the file at 14");
  BAD("{\"a\":1}", 0, "tensor a: line 1");
  BAD("{\"a\":{}}", 0, "dtype is missing");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 0, "data_offsets is missing");
  BAD("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype occurs twice");
  bad_header("{\"a\":{\"dtype\":\"Q7\",\"shape\":[1],\"data_offsets\":[0,4]}}", 54, 4, QI_ERR_UNSUPPORTED, "dtype 'Q7' is unknown");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets [4, 0]");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 4, "but there are 4 bytes");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "1 data_offsets");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "3 data_offsets");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
      "2 weights of type F32 need 8 bytes, data_offsets have 4");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "number of weights overflows");
  BAD("{\"a\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, "need");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "found -1, expected a whole number");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offset"
      "s\":[4,8]}}", 8,
      "tensor a: occurs twice");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offset"
      "s\":[4,8]}}", 8,
      "tensors overlap");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offset"
      "s\":[8,12]}}", 12,
      "leave a hole");
  BAD("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "tensors end at offset");
  BAD("{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4 + 0, "a tensor name has 0 bytes");
  BAD("{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "control character, 0");
  BAD("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "need 1 bytes");
}

// Scalars, empty tensors, many dimensions and types that are no weights are sound.
static void test_odd_tensors(void **state) {
  (void)state;
  hw_folder h;
  hw_tensors t;
  static const uint8_t zeros[256];
  hw_begin(&h);
  memset(&t, 0, sizeof t);
  hw_text(&h, "config.json", "{\"model_type\":null}");
  hw_tensor(&t, "scalar", "BF16", 0, NULL, zeros, 2);
  hw_tensor(&t, "empty", "F32", 2, (uint64_t[]){3, 0}, zeros, 0);
  hw_tensor(&t, "deep", "I8", 6, (uint64_t[]){1, 2, 3, 2, 1, 4}, zeros, 48);
  hw_tensor(&t, "float8", "F8_E4M3", 1, (uint64_t[]){5}, zeros, 5);
  hw_save_tensors(&h, "model.safetensors", &t, 0);
  qi_model_desc md = folder_desc(h.dir);
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  qi_tensor found;
  md.load = QI_LOAD_METADATA;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  assert_int_equal(qi_tensor_count(m), 4);
  assert_int_equal(qi_tensor_find(m, "deep", &found, NULL), QI_OK);
  assert_true(found.n_dims == 4 && found.shape[0] == 4 && found.shape[1] == 1 && found.shape[2] == 2 && found.shape[3] == 6);
  assert_int_equal(qi_tensor_find(m, "float8", &found, NULL), QI_OK);
  assert_true(found.format == QI_FORMAT_NONE && found.n_bytes == 0);
  qi_model_close(m);
  hw_end(&h);
}

// ---- folders that lack something ----

static void test_bad_folders(void **state) {
  (void)state;
  rm_desc d = rm_qwen2();
  hw_options o = {.n_shards = 2};
  run_model g = run_build(&d);
  hw_folder h;
  hw_begin(&h);
  refuse(&h, QI_ERR_IO, "config.json: cannot be opened");
  hw_model(&h, g.m, &o);
  hw_remove(&h, "tokenizer.json");
  refuse(&h, QI_ERR_IO, "tokenizer.json: cannot be opened");
  hw_model(&h, g.m, &o);
  hw_remove(&h, "model-00002-of-00002.safetensors");
  refuse(&h, QI_ERR_IO, "model-00002-of-00002.safetensors: cannot be opened");
  hw_remove(&h, "model.safetensors.index.json");
  refuse(&h, QI_ERR_IO, "has neither model.safetensors nor model.safetensors.index.json");
  static const struct {
    const char *index;
    qi_result code;
    const char *phrase;
  } bad[] = {{"{}", QI_ERR_FORMAT, "weight_map: missing or empty"},
             {"{\"weight_map\":{\"a\":\"../model-00001-of-00002.safetensors\"}}", QI_ERR_UNSUPPORTED, "expected names like"},
             {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", QI_ERR_UNSUPPORTED, "expected names like"},
             {"{\"weight_map\":{\"a\":\"x-00001-of-00002.safetensors\",\"b\":\"x-00001-of-00003.safetensors\"}}",
                 QI_ERR_UNSUPPORTED, "expected names like"},
             {"{\"weight_map\":{\"a\":\"x-00003-of-00002.safetensors\",\"b\":\"y.safetensors\"}}", QI_ERR_UNSUPPORTED,
                 "expected names like"},
             {"{\"weight_map\":{\"a\":\"x-00001-of-99999.safetensors\"}}", QI_ERR_LIMIT, "99999 files of weights"},
             {"{\"weight_map\":{\"a\":1}}", QI_ERR_FORMAT, "found a number, expected a string"},
             {"{\"weight_map\":{\"nowhere\":\"model-00001-of-00002.safetensors\"}}", QI_ERR_FORMAT,
                 "tensor nowhere: is not in model-00001"},
             {"{\"weight_map\":{\"lm_head.weight\":\"model-00001-of-00002.safetensors\"}}", QI_ERR_FORMAT, "is not in"}};
  hw_model(&h, g.m, &o);
  for (size_t i = 0; i < QI__COUNT_OF(bad); i++) {
    hw_text(&h, "model.safetensors.index.json", bad[i].index);
    refuse(&h, bad[i].code, bad[i].phrase);
  }
  hw_end(&h);
  run_free(&g);
}

static void test_bad_configs(void **state) {
  (void)state;
  static const struct {
    const char *extra;
    qi_result code;
    const char *phrase;
  } bad[] = {
      {"\"hidden_act\":\"gelu\",", QI_ERR_UNSUPPORTED, "config.json: hidden_act: 'gelu'"},
      {"\"quantization_config\":{\"quant_method\":\"gptq\"},", QI_ERR_UNSUPPORTED, "method 'gptq' is not supported"},
      {"\"quantization_config\":{\"quant_method\":\"bitnet\",\"quantization_mode\":\"online\"},", QI_ERR_UNSUPPORTED, "'online'"},
      {"\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2},", QI_ERR_UNSUPPORTED, "type 'dynamic' is not supported"},
      {"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2},", QI_ERR_FORMAT, "llama3 needs"},
      {"\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"beta_fast\":16},", QI_ERR_UNSUPPORTED, "beta_fast 16"},
      {"\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[]},", QI_ERR_FORMAT,
          "1 short and 0 long factors, expected 8"},
      {"\"sliding_window\":5,\"use_sliding_window\":true,\"max_window_layers\":1,", QI_ERR_UNSUPPORTED, "some layers only"},
      {"\"num_hidden_layers\":0,", QI_ERR_FORMAT, "block_count: is 0"},
      {"\"num_hidden_layers\":3,", QI_ERR_FORMAT, "blk.2.attn_norm.weight: missing"},
      {"\"hidden_size\":\"64\",", QI_ERR_FORMAT, "key hidden_size: found a string, expected a number"},
      {"\"hidden_size\":-64,", QI_ERR_FORMAT, "hidden_size: found -64"},
      {"\"hidden_size\":128,", QI_ERR_FORMAT, "shape"},
      {"\"rms_norm_eps\":1e999,", QI_ERR_FORMAT, "beyond the range"},
      {"\"vocab_size\":16777217,", QI_ERR_LIMIT, "16777217 tokens"},
      {"\"vocab_size\":100000,", QI_ERR_LIMIT, "ids without a token"},
      {"\"vocab_size\":321,", QI_ERR_FORMAT, "token_embd.weight: shape [64, 320], expected [64, 321]"},
      {"\"tie_word_embeddings\":false,", QI_ERR_FORMAT, "lm_head.weight: missing"},
      {"\"model_type\":\"gemma\",", QI_ERR_UNSUPPORTED, "'gemma' is not supported"},
      {"\"model_type\":\"\",", QI_ERR_FORMAT, "model_type: missing"},
      {"nonsense,", QI_ERR_FORMAT, "config.json: line 8"},
  };
  rm_desc d = rm_qwen2();
  run_model g = run_build(&d);
  for (size_t i = 0; i < QI__COUNT_OF(bad); i++) {
    hw_options o = {.extra = bad[i].extra};
    hw_folder h;
    hw_begin(&h);
    hw_model(&h, g.m, &o);
    refuse(&h, bad[i].code, bad[i].phrase);
    hw_end(&h);
  }
  run_free(&g);
}

// ---- byte-level tokenizers ----

#define LLAMA3 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| " \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define QWEN2 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| " \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define GPT2 "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true},"
#define STARCODER "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true}," \
  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}]},"
#define ONE_SPLIT(regex) "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false},"
#define SPLIT(regex) "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" ONE_SPLIT(regex) \
  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},"
#define CODER "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" ONE_SPLIT("[\\r\\n]") ONE_SPLIT("\\\\s?\\\\p{L}+") \
  ONE_SPLIT("\\\\s?\\\\p{P}+") ONE_SPLIT("[\xE4\xB8\x80-\xE9\xBE\xA5\xE0\xA0\x80-\xE4\xB8\x80\xEA\xB0\x80-\xED\x9F\xBF]+") \
  "{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
#define NORMALIZER "\"normalizer\":{\"type\":\"NFC\"},"
#define BOS "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}," \
  "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}}," \
  "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[]}]},"

// tokenizer.json of a byte-level vocabulary, merges as the GGUF file has them.
static void write_bpe(hw_folder *h, const qi_model *m, const char *pipeline, bool ignore_merges, bool pairs) {
  const qi__vocab *v = &m->vocab;
  gw_buf b;
  qi__gguf_array merges;
  const char *text;
  size_t len;
  hw_tokenizer_begin(&b, v, pipeline);
  hw_put_vocab(&b, v);
  hw_printf(&b, "},\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":%s,\"merges\":[", ignore_merges ? "true" : "false");
  assert_int_equal(qi__gguf_get_array(&m->gguf, "tokenizer.ggml.merges", QI_META_STRING, true, &merges, NULL), QI_OK);
  for (bool first = true; qi__gguf_next_string(&merges, &text, &len); first = false) {
    const char *space = (const char *)memchr(text + 1, ' ', len - 1);
    assert_non_null(space);
    hw_put_merge(&b, first, pairs, text, (size_t)(space - text), space + 1, len - 1 - (size_t)(space - text));
  }
  hw_put(&b, "]}}");
  hw_save_buf(h, "tokenizer.json", &b);
  gw_buf c;
  memset(&c, 0, sizeof c);
  hw_printf(&c, "{\"model_type\":\"llama\",\"vocab_size\":%u,\"bos_token_id\":%d,\"eos_token_id\":%d}", v->n_tokens, v->special.bos,
            v->special.eos);
  hw_save_buf(h, "config.json", &c);
  if (v->special.bos >= 0) {
    const char *bos = qi__token_text(v, (uint32_t)v->special.bos, &len);
    memset(&c, 0, sizeof c);
    hw_put(&c, "{\"eos_token\":null,\"bos_token\":");
    hw_string(&c, bos, len);
    hw_put(&c, "}");
    hw_save_buf(h, "tokenizer_config.json", &c);
  }
}

// The real vocabularies, when they are there, written as tokenizer.json: the same tokens for the texts that go with them.
static void test_real_vocabularies(void **state) {
  (void)state;
  static const struct {
    const char *name, *pipeline;
    bool ignore_merges;
  } vocabs[] = {{"gpt-2", GPT2, false},
                {"llama-bpe", SPLIT(LLAMA3) BOS, true},
                {"qwen2", NORMALIZER SPLIT(QWEN2), false},
                {"starcoder", STARCODER, false},
                {"deepseek-coder", CODER BOS, false},
                {"phi-3", NULL, false},
                {"llama-spm", NULL, false}};
  int n_tried = 0;
  for (size_t i = 0; i < QI__COUNT_OF(vocabs); i++) {
    char path[128];
    qi_model_desc md;
    qi_model *a = NULL, *b = NULL;
    qi_error err = {QI_OK, ""};
    snprintf(path, sizeof path, "../shared/vocab/ggml-vocab-%s.gguf", vocabs[i].name);
    FILE *f = fopen(path, "rb");
    if (!f) continue;
    fclose(f);
    n_tried++;
    md = folder_desc(path);
    md.load = QI_LOAD_VOCAB;
    RUN_OK(qi_model_open(&a, &md, &err), err);
    hw_folder h;
    hw_options o = {.with_prefix = a->vocab.space_prefix};
    hw_begin(&h);
    if (vocabs[i].pipeline) {
      write_bpe(&h, a, vocabs[i].pipeline, vocabs[i].ignore_merges, i % 2);
    } else {
      hw_text(&h, "config.json", "{}");
      hw_spm_tokenizer(&h, &a->vocab, &o);
    }
    md.path = h.dir;
    RUN_OK(qi_model_open(&b, &md, &err), err);
    assert_int_equal(a->vocab.n_tokens, b->vocab.n_tokens);
    snprintf(path, sizeof path, "../shared/vocab/ggml-vocab-%s.gguf.inp", vocabs[i].name);
    if ((f = fopen(path, "rb"))) {
      char text[16384];
      size_t n = fread(text, 1, sizeof text, f);
      fclose(f);
      compare_tokens(a, b, text, n);
      for (size_t at = 0; at + 50 < n; at += 50) compare_tokens(a, b, text + at, 50);
    }
    compare_tokens(a, b, sample, sizeof sample - 1);
    qi_special_tokens x, y;
    qi_model_special_tokens(a, &x);
    qi_model_special_tokens(b, &y);
    if (x.bos != y.bos || x.eos != y.eos || x.add_bos != y.add_bos)
      fail_msg("%s: bos %d, eos %d, add %d; expected %d, %d, %d", vocabs[i].name, y.bos, y.eos, y.add_bos, x.bos, x.eos, x.add_bos);
    qi_model_close(a);
    qi_model_close(b);
    hw_end(&h);
  }
  if (!n_tried) {
    print_message("no vocabularies in ../shared/vocab\n");
    skip();
  }
}

// A tokenizer small enough to follow by hand: letters, a few merges, added tokens.
#define SMALL_MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4,\"\\u0120\":5,\"\\u012" \
    "0a\":6},\"merges\":[\"a b\"," \
  "[\"ab\",\"c\"],\"\\u0120 a\"]}"
#define SMALL_ADDED "\"added_tokens\":[{\"id\":7,\"content\":\"<end>\",\"special\":true,\"rstrip\":true}," \
    "{\"id\":9,\"content\":\"user\",\"special\":false}],"

static void write_small(hw_folder *h, const char *tokenizer, const char *settings, const char *generation) {
  hw_text(h, "config.json", "{\"model_type\":\"llama\",\"vocab_size\":12,\"eos_token_id\":[3,7],\"pad_token_id\":-1}");
  hw_text(h, "tokenizer.json", tokenizer);
  if (settings) hw_text(h, "tokenizer_config.json", settings);
  if (generation) hw_text(h, "generation_config.json", generation);
}

static void test_small_tokenizer(void **state) {
  (void)state;
  hw_folder h;
  hw_begin(&h);
  write_small(&h, "{" SMALL_ADDED GPT2 SMALL_MODEL "}",
              "{\"add_eos_token\":true,\"eos_token\":\"<end>\",\"bos_token\":null,\"chat_template\":\"old\"}",
                  "{\"eos_token_id\":[7,4,99]}");
  hw_text(&h, "chat_template.jinja", "{{ new }}");
  qi_model_desc md = folder_desc(h.dir);
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  qi_token ids[16];
  size_t n;
  char piece[16];
  qi_model_info info;
  qi_special_tokens s;
  md.load = QI_LOAD_VOCAB;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  assert_int_equal(qi_tokenize(m, "abca a<end>  usercab", 20, 3, ids, 16, &n, NULL), QI_OK);
  static const qi_token want[] = {4, 0, 6, 7, 9, 2, 3, 7}; // the white space behind <end> goes with it
  assert_int_equal(n, QI__COUNT_OF(want));
  assert_memory_equal(ids, want, sizeof want);
  assert_true(qi_token_is_end(m, 7) && qi_token_is_end(m, 4) && !qi_token_is_end(m, 3)); // generation_config.json counts
  qi_model_special_tokens(m, &s);
  assert_true(s.bos == -1 && s.eos == 7 && s.pad == -1 && s.unk == -1 && !s.add_bos && s.add_eos);
  assert_int_equal(qi_token_piece(m, 8, true, piece, sizeof piece), 6);
  assert_memory_equal(piece, "[PAD8]", 6);
  qi_model_get_info(m, &info);
  assert_int_equal(info.n_vocab, 12);
  assert_string_equal(info.chat_template, "{{ new }}");
  assert_non_null(strstr(h.dir, info.name));
  qi_model_close(m);
  hw_end(&h);
}

// As Mistral's: the blank before the text comes from the pre-tokenizer, merges give the scores. What no merge makes is not joined.
static void test_metaspace(void **state) {
  (void)state;
  hw_folder h;
  hw_begin(&h);
  write_small(&h, "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"first\""
      ",\"split\":false},"
                  "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"a\",\"vocab\":{\"a\":0,\"b\":1,\""
                      "\xE2\x96\x81\":2,\"bc\":3,"
                  "\"c\":4,\"<0x64>\":5,\"\xE2\x96\x81" "b\":6,\"\xE2\x96\x81" "bc\":7,\"cc\":8},"
                  "\"merges\":[\"b c\",\"\xE2\x96\x81 b\",\"\xE2\x96\x81 bc\"]}}", NULL, NULL);
  qi_model_desc md = folder_desc(h.dir);
  qi_model *m = NULL;
  qi_error err = {QI_OK, ""};
  qi_token ids[16];
  size_t n;
  static const qi_token want[] = {7, 4, 4, 5, 6};
  md.load = QI_LOAD_VOCAB;
  RUN_OK(qi_model_open(&m, &md, &err), err);
  assert_int_equal(qi_tokenize(m, "bcccd b", 7, 0, ids, 16, &n, NULL), QI_OK);
  assert_int_equal(n, QI__COUNT_OF(want));
  assert_memory_equal(ids, want, sizeof want);
  qi_model_close(m);
  hw_end(&h);
}

// Which rule a pipeline becomes.
static void test_rules(void **state) {
  (void)state;
  static const struct {
    const char *pipeline, *rule;
    bool ignore_merges;
  } known[] = {{GPT2, "gpt-2", false}, {SPLIT(LLAMA3), "dbrx", false}, {SPLIT(LLAMA3), "llama-bpe", true}, {SPLIT(QWEN2), "qwen2",
      false},
               {STARCODER, "starcoder", false}, {CODER, "deepseek-coder", false}};
  for (size_t i = 0; i < QI__COUNT_OF(known); i++) {
    hw_folder h;
    char text[4096];
    hw_begin(&h);
    snprintf(text, sizeof text, "{%s\"model\":{\"ignore_merges\":%s,\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}",
        known[i].pipeline,
             known[i].ignore_merges ? "true" : "false");
    write_small(&h, text, NULL, NULL);
    qi_model_desc md = folder_desc(h.dir);
    qi_model *m = NULL;
    qi_error err = {QI_OK, ""};
    md.load = QI_LOAD_VOCAB;
    RUN_OK(qi_model_open(&m, &md, &err), err);
    assert_string_equal(m->vocab.pre->name, known[i].rule);
    qi_model_close(m);
    hw_end(&h);
  }
}

// The expressions are whole in the table: each must be found by its own text. (tokenizer.json of a model is not at hand here.)
static void test_regex_table(void **state) {
  (void)state;
  for (size_t i = 0; i < QI__COUNT_OF(qi__hf_regexes); i++) {
    qi__hf_tokenizer t;
    qi__hf_stage s;
    qi__json j;
    memset(&t, 0, sizeof t);
    memset(&s, 0, sizeof s);
    memset(&j, 0, sizeof j);
    s.regex_len = strlen(qi__hf_regexes[i].regex);
    assert_true(s.regex_len <= QI__HF_MAX_REGEX);
    memcpy(s.regex, qi__hf_regexes[i].regex, s.regex_len);
    snprintf(s.behavior, sizeof s.behavior, "Isolated");
    qi__hf_apply_split(&j, &t, &s);
    assert_int_equal(t.n_steps, 1);
    assert_int_equal(t.steps[0], qi__hf_regexes[i].step);
    assert_true(t.steps[0] > 0 && t.steps[0] < QI__COUNT_OF(qi__splitters));
  }
}

static void test_bad_tokenizers(void **state) {
  (void)state;
  static const struct {
    const char *tokenizer;
    qi_result code;
    const char *phrase;
  } bad[] = {
      {"{" GPT2 "\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0.5]]}}", QI_ERR_UNSUPPORTED,
          "tokenizer.json: model: type 'Unigram'"},
      {"{" GPT2 "\"model\":{\"type\":\"BPE\",\"merges\":[]}}", QI_ERR_FORMAT, "vocab: missing"},
      {"{" GPT2 "\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", QI_ERR_FORMAT, "merges: missing"},
      {"{" SMALL_MODEL "}", QI_ERR_UNSUPPORTED, "neither ByteLevel nor blanks"},
      {"{" SPLIT("a+") SMALL_MODEL "}", QI_ERR_UNSUPPORTED, "Split by 'a+' is not known"},
      {"{" SPLIT("\\\\p{N}") SMALL_MODEL "}", QI_ERR_UNSUPPORTED, "this combination of 1 steps"},
      {"{\"pre_tokenizer\":{\"type\":\"Whitespace\"}," SMALL_MODEL "}", QI_ERR_UNSUPPORTED, "pre_tokenizer: type 'Whitespace'"},
      {"{\"normalizer\":{\"type\":\"Lowercase\"}," GPT2 SMALL_MODEL "}", QI_ERR_UNSUPPORTED, "normalizer: type 'Lowercase'"},
      {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}," SMALL_MODEL "}", QI_ERR_UNSUPPORTED,
          "add_prefix_space"},
      {"{" GPT2 "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", QI_ERR_FORMAT, "id 0 occurs twice"},
      {"{" GPT2 "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", QI_ERR_FORMAT, "found -1"},
      {"{" GPT2 "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":100000},\"merges\":[]}}", QI_ERR_LIMIT, "ids without a token"},
      {"{" GPT2 "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4294967295},\"merges\":[]}}", QI_ERR_LIMIT,
          "a token has the id 4294967295"},
      {"{" GPT2 "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", QI_ERR_FORMAT, "an array of 1 texts"},
      {"{" GPT2 "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}}", QI_ERR_FORMAT,
          "found a number, expected a string"},
      {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"split\":true}," SMALL_MODEL "}", QI_ERR_UNSUPPORTED, "Metaspace that splits"},
      {"{" GPT2 "\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"}}", QI_ERR_UNSUPPORTED, "end of words"},
      {"{\"added_tokens\":[{\"id\":1}]," GPT2 SMALL_MODEL "}", QI_ERR_FORMAT, "an added token needs id and content"},
      {"[]", QI_ERR_FORMAT, "tokenizer.json: line 1, column 1: found an array"},
  };
  for (size_t i = 0; i < QI__COUNT_OF(bad); i++) {
    hw_folder h;
    hw_begin(&h);
    write_small(&h, bad[i].tokenizer, NULL, NULL);
    refuse_path(h.dir, QI_LOAD_VOCAB, bad[i].code, bad[i].phrase);
    hw_end(&h);
  }
}

// ---- damage ----

// Files cut at every 97th byte, and single bytes changed: an error or a model, never a crash; nothing is left behind.
static void damage(hw_folder *h, const char *name) {
  char path[512];
  hw_path(h, name, path);
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  uint8_t *bytes = (uint8_t *)malloc(1 << 20);
  assert_non_null(bytes);
  size_t size = fread(bytes, 1, 1 << 20, f), n_opened = 0;
  fclose(f);
  for (size_t at = 1; at < size; at += 97) {
    for (int how = 0; how < 2; how++) {
      uint8_t saved = bytes[at];
      if (how) bytes[at] = (uint8_t)(saved ^ (1u << at % 8));
      hw_file(h, name, bytes, how ? size : at);
      bytes[at] = saved;
      gc_heap heap;
      qi_model_desc md = folder_desc(h->dir);
      qi_model *m = NULL;
      qi_error err = {QI_OK, ""};
      memset(&heap, 0, sizeof heap);
      md.no_mmap = at % 2;
      md.allocator.alloc = gc_heap_alloc;
      md.allocator.free = gc_heap_free;
      md.allocator.user = &heap;
      if (qi_model_open(&m, &md, &err)) assert_true(err.msg[0] && !m);
      else n_opened++;
      qi_model_close(m);
      assert_int_equal(heap.n_live, 0);
    }
  }
  if (strstr(name, ".json") && n_opened * 2 > size / 97 + 2) print_message("%s: %zu of %zu damaged files opened\n", name, n_opened,
      size / 97);
  hw_file(h, name, bytes, size);
  free(bytes);
}

static void test_damage(void **state) {
  (void)state;
  static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "model-00001-of-00002.safetensors",
                                      "model.safetensors.index.json"};
  rm_desc d = rm_qwen2();
  hw_options o = {.n_shards = 2, .with_prefix = true};
  d.n_layers = 1;
  twins t = make_twins(&d, &o);
  for (size_t i = 0; i < QI__COUNT_OF(names); i++) damage(&t.folder, names[i]);
  qi_model *m = open_folder(t.folder.dir);
  qi_model_close(m);
  free_twins(&t);
}

static void test_failing_allocator(void **state) {
  (void)state;
  run_model g = build_ternary(ternary_desc(false));
  hw_options o = {.packed = true};
  hw_folder h;
  hw_begin(&h);
  hw_model(&h, g.m, &o);
  size_t n_calls = 1;
  for (size_t fail_at = 0; fail_at <= n_calls; fail_at++) {
    gc_heap heap;
    qi_model_desc md = folder_desc(h.dir);
    qi_model *m = NULL;
    qi_error err = {QI_OK, ""};
    memset(&heap, 0, sizeof heap);
    heap.fail_at = fail_at;
    md.allocator.alloc = gc_heap_alloc;
    md.allocator.free = gc_heap_free;
    md.allocator.user = &heap;
    assert_int_equal(qi_model_open(&m, &md, &err), fail_at ? QI_ERR_OOM : QI_OK);
    if (!fail_at) n_calls = heap.n_calls;
    qi_model_close(m);
    assert_int_equal(heap.n_live, 0);
  }
  assert_true(n_calls >= 3);
  hw_end(&h);
  run_free(&g);
}

// A code that is none: only opening finds it when the file is not mapped.
static void test_bad_code(void **state) {
  (void)state;
  run_model g = build_ternary(ternary_desc(false));
  hw_options o = {.packed = true, .bad_code = true};
  hw_folder h;
  hw_begin(&h);
  hw_model(&h, g.m, &o);
  for (int no_mmap = 0; no_mmap < 2; no_mmap++) {
    qi_model_desc md = folder_desc(h.dir);
    qi_model *m = NULL;
    qi_error err = {QI_OK, ""};
    md.no_mmap = no_mmap != 0;
    assert_int_equal(qi_model_open(&m, &md, &err), QI_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "has the code 3, expected 0 to 2"));
    assert_int_equal(qi_model_validate(&md, NULL), no_mmap ? QI_OK : QI_ERR_FORMAT);
  }
  hw_end(&h);
  run_free(&g);
}

static bool stop_at_once(void *user, float done) {
  (void)done;
  ++*(int *)user;
  return false;
}

static void test_progress(void **state) {
  (void)state;
  run_model g = build_ternary(ternary_desc(false));
  hw_options o = {.packed = true};
  hw_folder h;
  int n = 0;
  hw_begin(&h);
  hw_model(&h, g.m, &o);
  qi_model_desc md = folder_desc(h.dir);
  qi_model *m = NULL;
  md.progress.fn = stop_at_once;
  md.progress.user = &n;
  assert_int_equal(qi_model_open(&m, &md, NULL), QI_ERR_CANCELLED);
  assert_int_equal(n, 1);
  hw_end(&h);
  run_free(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_llama),
      cmocka_unit_test(test_bit_equal),
      cmocka_unit_test(test_phi3),
      cmocka_unit_test(test_rope_scaling),
      cmocka_unit_test(test_mistral),
      cmocka_unit_test(test_paths),
      cmocka_unit_test(test_one_file_index),
      cmocka_unit_test(test_load_levels),
      cmocka_unit_test(test_ternary),
      cmocka_unit_test(test_bitnet),
      cmocka_unit_test(test_scale_beside),
      cmocka_unit_test(test_bad_ternary),
      cmocka_unit_test(test_ternary_bias),
      cmocka_unit_test(test_bad_code),
      cmocka_unit_test(test_bad_headers),
      cmocka_unit_test(test_odd_tensors),
      cmocka_unit_test(test_bad_folders),
      cmocka_unit_test(test_bad_configs),
      cmocka_unit_test(test_real_vocabularies),
      cmocka_unit_test(test_small_tokenizer),
      cmocka_unit_test(test_metaspace),
      cmocka_unit_test(test_rules),
      cmocka_unit_test(test_regex_table),
      cmocka_unit_test(test_bad_tokenizers),
      cmocka_unit_test(test_damage),
      cmocka_unit_test(test_failing_allocator),
      cmocka_unit_test(test_progress),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
