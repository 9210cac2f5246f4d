// What is in a GGUF file.      cc -O2 examples/inspect.c -o build/inspect -lm -lpthread
//
//   build/inspect -m model.gguf
//
// Works for any architecture and with tensor types that qinfer cannot compute with. Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <stdio.h>
#include <string.h>

#define PROGRAM "inspect"

enum { MAX_TEXT = 100, MAX_ELEMENTS = 8, MAX_KINDS = 64 };

// ---- metadata ----

static const char *const type_names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"}; // in the order of qi_meta_type

// Text from a file: shortened, on one line, without what a terminal would obey.
static void print_text(const char *s, uint64_t len) {
  uint64_t n = len < MAX_TEXT ? len : MAX_TEXT;
  while (n && n < len && ((unsigned char)s[n] & 0xc0) == 0x80) n--; // not inside a character
  putchar('"');
  for (uint64_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)s[i];
    bool c1_control = c == 0xc2 && i + 1 < n && ((unsigned char)s[i + 1] & 0xe0) == 0x80;
    if (c == '\n') printf("\\n");
    else if (c < 0x20 || c == 0x7f || c1_control) printf("\\x%02x", c);
    else putchar(c);
  }
  printf(n < len ? "\"... (%llu bytes)" : "\"", (unsigned long long)len);
}

static void print_value(const qi_meta *v) {
  switch (v->type) {
  case QI_META_STRING: print_text(v->value.text, v->count); break;
  case QI_META_BOOL: printf("%s", v->value.u ? "true" : "false"); break;
  case QI_META_F32: printf("%.9g", v->value.f); break;
  case QI_META_F64: printf("%.17g", v->value.f); break;
  case QI_META_I8:
  case QI_META_I16:
  case QI_META_I32:
  case QI_META_I64: printf("%lld", (long long)v->value.i); break;
  case QI_META_ARRAY: printf("array of %llu %s", (unsigned long long)v->count, type_names[v->element_type]); break;
  default: printf("%llu", (unsigned long long)v->value.u); break;
  }
}

static qi_result print_array(const qi_model *m, size_t i, const qi_meta *array, qi_error *err) {
  printf("[");
  for (uint64_t k = 0; k < array->count && k < MAX_ELEMENTS; k++) {
    qi_meta element;
    if (qi_meta_element(m, i, k, &element, err)) return err->code;
    if (k) printf(", ");
    print_value(&element);
  }
  printf(array->count > MAX_ELEMENTS ? ", ... (%llu)]" : "]", (unsigned long long)array->count);
  return QI_OK;
}

static qi_result print_metadata(const qi_model *m, qi_error *err) {
  printf("metadata: %zu entries\n", qi_meta_count(m));
  for (size_t i = 0; i < qi_meta_count(m); i++) {
    qi_meta v;
    if (qi_meta_get(m, i, &v, err)) return err->code;
    bool array = v.type == QI_META_ARRAY;
    const char *type = type_names[array ? v.element_type : v.type];
    printf("  %.*s %s%s = ", (int)(v.key_len < 200 ? v.key_len : 200), v.key, type, array ? "[]" : "");
    if (!array) print_value(&v);
    else if (print_array(m, i, &v, err)) return err->code;
    putchar('\n');
  }
  return QI_OK;
}

// ---- tensors ----

typedef struct format_sum {
  int gguf_id;
  char name[24];
  uint64_t n_tensors, n_params, n_bytes;
} format_sum;

static void format_name(const qi_tensor *t, char *out, size_t size) {
  const qi_format_info *info = t->format == QI_FORMAT_NONE ? NULL : qi_format_get(t->format);
  if (info) snprintf(out, size, "%s", info->name);
  else snprintf(out, size, "type %d (unknown)", t->gguf_id);
}

static void print_tensor(const qi_tensor *t, const char *format) {
  char shape[96];
  int n = 0;
  for (int d = 0; d < t->n_dims && n < (int)sizeof shape; d++)
    n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%llu", d ? " x " : "", (unsigned long long)t->shape[d]);
  printf("  %-40s %-10s %-24s %llu bytes\n", t->name, format, shape, (unsigned long long)t->n_bytes);
}

static void add_to_sums(format_sum *sums, int *n_sums, const qi_tensor *t, const char *format) {
  int k = 0;
  while (k < *n_sums && sums[k].gguf_id != t->gguf_id) k++;
  if (k == MAX_KINDS) k--; // the last one takes what is left
  if (k == *n_sums) {
    sums[(*n_sums)++] = (format_sum){.gguf_id = t->gguf_id};
    snprintf(sums[k].name, sizeof sums[k].name, "%s", format);
  }
  sums[k].n_tensors++;
  sums[k].n_params += t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
  sums[k].n_bytes += t->n_bytes;
}

static void print_sum(const format_sum *s) {
  printf("  %-20s %6llu tensors %14llu parameters %14llu bytes", s->name, (unsigned long long)s->n_tensors,
         (unsigned long long)s->n_params, (unsigned long long)s->n_bytes);
  if (s->n_params && s->n_bytes) printf(" %6.3f bits per weight", 8.0 * (double)s->n_bytes / (double)s->n_params);
  putchar('\n');
}

static qi_result print_tensors(const qi_model *m, qi_error *err) {
  format_sum sums[MAX_KINDS], total = {.name = "total"};
  int n_sums = 0;
  printf("tensors: %zu (shape: a row of weights first)\n", qi_tensor_count(m));
  for (size_t i = 0; i < qi_tensor_count(m); i++) {
    qi_tensor t;
    char format[24];
    if (qi_tensor_get(m, i, &t, err)) return err->code;
    format_name(&t, format, sizeof format);
    print_tensor(&t, format);
    add_to_sums(sums, &n_sums, &t, format);
  }
  printf("sums\n");
  for (int k = 0; k < n_sums; k++) {
    print_sum(&sums[k]);
    total.n_tensors += sums[k].n_tensors;
    total.n_params += sums[k].n_params;
    total.n_bytes += sums[k].n_bytes;
  }
  print_sum(&total);
  return QI_OK;
}

int main(int argc, char **argv) {
  const char *path = argc == 3 && (strcmp(argv[1], "-m") == 0 || strcmp(argv[1], "--model") == 0) ? argv[2] : NULL;
  bool help = argc == 2 && (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0);
  if (argc == 2 && argv[1][0] != '-') path = argv[1];
  if (help) printf("Shows metadata and tensors of a GGUF file.\n\n  " PROGRAM " -m FILE\n");
  else if (!path) fprintf(stderr, PROGRAM ": usage: " PROGRAM " -m FILE\n");
  if (!path) return help ? 0 : 2;
  qi_model_desc md = {.path = path, .load = QI_LOAD_METADATA};
  qi_error err = {0};
  qi_model *m = NULL;
  qi_result r = qi_model_open(&m, &md, &err);
  if (!r) r = print_metadata(m, &err);
  if (!r) r = print_tensors(m, &err);
  bool written = !fflush(stdout) && !ferror(stdout);
  if (r) fprintf(stderr, PROGRAM ": %s\n", err.msg);
  else if (!written) fprintf(stderr, PROGRAM ": standard output cannot be written\n");
  qi_model_close(m);
  return r || !written ? 1 : 0;
}
