// MSL to C++, for include/metal_stdlib: attributes are taken away, kernels become entries of a table, threadgroup variables come
// from the executor, vector constructors and literals get the meaning that they have in MSL. What Apple's compiler refuses and a
// C++ compiler would take is an error here:
//
//   - pointers and references without address space; kernel parameters without attribute, with an index twice, in the wrong space
//   - position parameters of different vector sizes, of other types than uint and ushort
//   - several threadgroup variables in a declaration, or with a value; double, new, goto and their kin
//
// Works on tokens of preprocessed text; it knows no types but the built-in ones and the structs of the text.
#define _GNU_SOURCE
#include "msl_exec.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- text and tokens ----

typedef struct text {
  char *p;
  size_t n, room;
} text;

static void put(text *t, const char *s, size_t n) {
  if (t->n + n + 1 > t->room) t->p = realloc(t->p, t->room = 2 * (t->n + n + 1));
  memcpy(t->p + t->n, s, n);
  t->p[t->n += n] = 0;
}

__attribute__((format(printf, 2, 3))) static void print(text *t, const char *format, ...) {
  char *s = NULL;
  va_list args;
  va_start(args, format);
  int n = vasprintf(&s, format, args);
  va_end(args);
  if (n > 0) put(t, s, (size_t)n);
  free(s);
}

typedef enum token_kind { NAME, NUMBER, STRING, SIGN, SPACE, MARKER } token_kind;

typedef struct token {
  const char *s;
  int n, line;
  token_kind kind;
  char *instead; // NULL = as it is
} token;

enum { MAX_ARGS = 40, MAX_KERNELS = 512, MAX_NAME = 128 };

typedef struct kernel {
  char name[MAX_NAME], host[MAX_NAME]; // host: what host_name says
  int n_args, max_threads;
  msl_arg args[MAX_ARGS];
  int is_template;
} kernel;

typedef struct translator {
  token *t;
  int n;
  kernel kernels[MAX_KERNELS];
  int n_kernels, n_entries;
  text entries, table, errors;
  int check;
} translator;

static int is(const token *t, const char *s) { return (int)strlen(s) == t->n && !memcmp(t->s, s, (size_t)t->n); }
static int is_any(const token *t, const char *const *list, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (is(t, list[i])) return 1;
  return 0;
}
#define IS_ANY(t, list) is_any(t, list, sizeof(list) / sizeof(list)[0])
static int is_sign(const token *t, const char *signs) { return t->kind == SIGN && t->n == 1 && strchr(signs, t->s[0]); }

// The next and the last token that is no space.
static int next(const translator *r, int i) {
  for (i++; i < r->n && r->t[i].kind >= SPACE; i++) {
  }
  return i;
}
static int last(const translator *r, int i) {
  for (i--; i >= 0 && r->t[i].kind >= SPACE; i--) {
  }
  return i;
}
// The partner of ( [ { or <.
static int partner(const translator *r, int i) {
  static const char open[] = "([{<", close[] = ")]}>";
  const char o[2] = {r->t[i].s[0], 0}, c[2] = {close[strchr(open, o[0]) - open], 0};
  int depth = 0;
  for (; i < r->n; i++) {
    if (is_sign(&r->t[i], o)) depth++;
    if (is_sign(&r->t[i], c) && !--depth) return i;
  }
  return r->n - 1;
}

static void replace(token *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void replace(token *t, const char *format, ...) {
  va_list args;
  va_start(args, format);
  free(t->instead);
  if (vasprintf(&t->instead, format, args) < 0) t->instead = NULL;
  va_end(args);
}
static void blank(translator *r, int first, int end) {
  for (int i = first; i <= end; i++)
    if (r->t[i].kind < SPACE) replace(&r->t[i], "%s", "");
}

__attribute__((format(printf, 3, 4))) static void error(translator *r, int i, const char *format, ...) {
  char *s = NULL;
  va_list args;
  va_start(args, format);
  if (vasprintf(&s, format, args) < 0) s = NULL;
  va_end(args);
  print(&r->errors, "msl:%d: error: %s\n", i < r->n ? r->t[i].line : 0, s ? s : "?");
  free(s);
}

// ---- tokens of a text ----

// End of the token at s, and its kind. `bol`: at the beginning of a line.
static const char *token_end(const char *s, int bol, token_kind *kind) {
  *kind = SIGN;
  if (*s == '#' && bol) {
    *kind = MARKER;
    return s + strcspn(s, "\n");
  }
  if (isspace((unsigned char)*s)) {
    *kind = SPACE;
    while (isspace((unsigned char)*s)) s++;
    return s;
  }
  if (isalpha((unsigned char)*s) || *s == '_') {
    *kind = NAME;
    while (isalnum((unsigned char)*s) || *s == '_') s++;
    return s;
  }
  if (isdigit((unsigned char)*s) || (*s == '.' && isdigit((unsigned char)s[1]))) {
    *kind = NUMBER;
    while (isalnum((unsigned char)*s) || *s == '.' || (strchr("+-", *s) && *s && strchr("eE", s[-1]))) s++;
    return s;
  }
  if (*s == '"' || *s == '\'') {
    char quote = *s++;
    *kind = STRING;
    while (*s && *s != quote) s += *s == '\\' ? 2 : 1;
    return *s ? s + 1 : s;
  }
  return s + ((s[0] == '-' && s[1] == '>') || (s[0] == ':' && s[1] == ':') ? 2 : 1);
}

// The text is preprocessed: no comments, no directives but line markers.
static void tokenize(translator *r, const char *s) {
  int room = 0, line = 1, bol = 1;
  while (*s) {
    token_kind kind;
    const char *end = token_end(s, bol, &kind);
    if (r->n == room) r->t = realloc(r->t, sizeof *r->t * (size_t)(room = room ? 2 * room : 4096));
    r->t[r->n++] = (token){s, (int)(end - s), line, kind, NULL};
    bol = kind == SPACE && memchr(s, '\n', (size_t)(end - s)) != NULL;
    if (kind == MARKER && s[1] == ' ' && isdigit((unsigned char)s[2])) line = atoi(s + 2) - 1;
    for (; s < end; s++) line += *s == '\n';
  }
}

// ---- types ----

static const char *const scalars[] = {"char",  "uchar", "short", "ushort", "int",    "uint",     "long",   "ulong",
                                      "float", "half",  "bool",  "void",   "size_t", "uint32_t", "int32_t"};
static const char *const spaces[] = {"device", "constant", "threadgroup", "thread"};

// float4, uint2 and so on; the number of their elements, 0 for other names.
static int vector_size(const token *t) {
  token element = *t;
  int size = t->kind == NAME && t->n > 3 ? t->s[t->n - 1] - '0' : 0;
  element.n--;
  return size >= 2 && size <= 4 && is_any(&element, scalars, 11) ? size : 0;
}

static int is_struct(const translator *r, const token *t) {
  for (int i = 0; i < r->n; i++) {
    if (!is(&r->t[i], "struct")) continue;
    const token *name = &r->t[next(r, i)];
    if (name->n == t->n && !memcmp(name->s, t->s, (size_t)t->n)) return 1;
  }
  return 0;
}

// Every pointer and reference type says in which memory it points.
static void check_spaces(translator *r) {
  for (int i = 0; i < r->n; i++) {
    if (!is_sign(&r->t[i], "*&")) continue;
    int p = last(r, i), j, said = 0;
    if (p < 0 || r->t[p].kind != NAME) continue;
    if (!is(&r->t[p], "const") && !IS_ANY(&r->t[p], scalars) && !vector_size(&r->t[p]) && !is_struct(r, &r->t[p])) continue;
    for (j = p; j >= 0 && (r->t[j].kind == NAME || is(&r->t[j], "::")); j = last(r, j)) said |= IS_ANY(&r->t[j], spaces);
    if (said || (j >= 0 && !is_sign(&r->t[j], "(,;{}<"))) continue; // the latter: an expression
    error(r, i, "pointer type must have explicit address space qualifier ('%.*s %.*s')", r->t[p].n, r->t[p].s, r->t[i].n,
          r->t[i].s);
  }
}

// ---- kernels ----

// The fields of msl_lane in order, which are the kinds from 3 on.
static const struct {
  const char *name;
  int kind, is_vector;
} attributes[] = {
    {"buffer", MSL_BUFFER, 0},
    {"threadgroup", MSL_THREADGROUP, 0},
    {"thread_position_in_grid", 3, 1},
    {"thread_position_in_threadgroup", 4, 1},
    {"threadgroup_position_in_grid", 5, 1},
    {"threads_per_threadgroup", 6, 1},
    {"dispatch_threads_per_threadgroup", 7, 1},
    {"threadgroups_per_grid", 8, 1},
    {"threads_per_grid", 9, 1},
    {"thread_index_in_threadgroup", 10, 0},
    {"thread_index_in_simdgroup", 11, 0},
    {"simdgroup_index_in_threadgroup", 12, 0},
    {"simdgroups_per_threadgroup", 13, 0},
    {"threads_per_simdgroup", 14, 0},
};

// Whether an attribute [[name..]] begins at i: the index of its last ], and of its name; else -1.
static int attribute_at(const translator *r, int i, int *name) {
  if (!is(&r->t[i], "[") || i + 1 >= r->n || !is(&r->t[i + 1], "[")) return -1;
  *name = next(r, i + 1);
  return partner(r, i);
}
// The number in name(number), -1 if there is none.
static int attribute_number(const translator *r, int name) {
  int i = next(r, name);
  if (!is(&r->t[i], "(")) return -1;
  i = next(r, i);
  return r->t[i].kind == NUMBER ? atoi(r->t[i].s) : -1;
}

typedef struct parameter {
  int at, kind, index, is_vector; // of its attribute; kind 0 = none
  int type;                       // token of its type
  int pointer;
  char space; // d, c, t of device, constant, threadgroup; 0 = none
} parameter;

// Reads the parameter from i on; returns the , or ) behind it. Attributes are taken away.
static int read_parameter(translator *r, const kernel *k, int i, int end, parameter *p) {
  int depth = 0, j;
  *p = (parameter){i, 0, 0, 0, -1, 0, 0};
  for (j = i; j < end; j = next(r, j)) {
    int name, stop = attribute_at(r, j, &name);
    if (stop > 0) {
      size_t a = 0, n = sizeof attributes / sizeof attributes[0];
      while (a < n && !is(&r->t[name], attributes[a].name)) a++;
      if (a == n) {
        error(r, name, "kernel %s: unknown parameter attribute '%.*s'", k->name, r->t[name].n, r->t[name].s);
      } else {
        p->kind = attributes[a].kind;
        p->is_vector = attributes[a].is_vector;
        p->index = attribute_number(r, name);
      }
      blank(r, j, stop);
      j = stop;
      continue;
    }
    depth += is_sign(&r->t[j], "(<[") - is_sign(&r->t[j], ")>]");
    if (is(&r->t[j], ",") && !depth) break;
    p->pointer |= is_sign(&r->t[j], "*&");
    if (is_any(&r->t[j], spaces, 3))
      p->space = r->t[j].s[0];
    else if (p->type < 0 && r->t[j].kind == NAME && !is(&r->t[j], "const"))
      p->type = j;
  }
  return j;
}

static void check_resource(translator *r, const kernel *k, const parameter *p, unsigned long *used) {
  const char *what = p->kind == MSL_BUFFER ? "buffer" : "threadgroup";
  if (p->index < 0 || p->index >= MSL_MAX_INDEX) {
    error(r, p->at, "kernel %s: %s index out of 0..%d", k->name, what, MSL_MAX_INDEX - 1);
    return;
  }
  if (*used >> p->index & 1) error(r, p->at, "kernel %s: %s index %d used twice", k->name, what, p->index);
  *used |= 1ul << p->index;
  int fits = p->kind == MSL_BUFFER ? p->space == 'd' || p->space == 'c' : p->space == 't';
  if (!p->pointer || !fits) error(r, p->at, "kernel %s: [[%s]] on a parameter of the wrong kind", k->name, what);
}

// vectors: elements that the positions before this one have; 0 = none yet.
static void check_position(translator *r, const kernel *k, const parameter *p, int *vectors) {
  const token *type = &r->t[p->type];
  int size = vector_size(type) ? vector_size(type) : 1;
  if (strncmp(type->s, "uint", 4) && strncmp(type->s, "ushort", 6))
    error(r, p->type, "kernel %s: '%.*s' is not uint or ushort", k->name, type->n, type->s);
  if (!p->is_vector && size != 1) error(r, p->type, "kernel %s: an index is a scalar", k->name);
  if (!p->is_vector) return;
  if (*vectors && *vectors != size)
    error(r, p->type, "kernel %s: positions of different vector sizes, %d and %d", k->name, *vectors, size);
  *vectors = size;
}

static void read_parameters(translator *r, kernel *k, int open) {
  int end = partner(r, open), vectors = 0;
  unsigned long buffers = 0, shared = 0;
  for (int i = next(r, open); i < end;) {
    parameter p;
    int behind = read_parameter(r, k, i, end, &p);
    if (!p.kind)
      error(r, i, "kernel %s: parameter %d has no attribute", k->name, k->n_args);
    else if (p.kind <= MSL_THREADGROUP)
      check_resource(r, k, &p, p.kind == MSL_BUFFER ? &buffers : &shared);
    else if (p.type >= 0)
      check_position(r, k, &p, &vectors);
    if (k->n_args < MAX_ARGS) k->args[k->n_args++] = (msl_arg){p.kind, p.index};
    if (behind >= end) break;
    i = next(r, behind);
  }
}

// Adds a kernel to the table under its host's name; `what` is its C++ expression.
static void add_entry(translator *r, const kernel *k, const char *host, const char *what) {
  int e = r->n_entries++;
  if (r->check) { // only to be instantiated
    print(&r->entries, "void *check%d() { return (void *)&%s; }\n", e, what);
    return;
  }
  print(&r->entries, "const msl::arg args%d[] = {", e);
  for (int i = 0; i < k->n_args; i++) print(&r->entries, "{%d, %d}, ", k->args[i].kind, k->args[i].index);
  print(&r->entries, "{0, 0}};\nvoid run%d(const msl::env *env) { msl::run(&%s, args%d, *env); }\n", e, what, e);
  print(&r->table, "{\"%s\", run%d, args%d, %d, %d},\n", host, e, e, k->n_args, k->max_threads);
}

// template [[host_name("..")]] kernel void NAME<..>(..); from `first` on, of which `at` is `kernel`. Returns its semicolon.
static int read_instance(translator *r, const kernel *given, int first, int at) {
  int name = next(r, next(r, at)), open = next(r, name), close = partner(r, open), end = close;
  char what[256];
  snprintf(what, sizeof what, "%.*s", (int)(r->t[close].s + 1 - r->t[name].s), r->t[name].s);
  while (end < r->n && !is(&r->t[end], ";")) end = next(r, end);
  const kernel *k = NULL;
  for (int i = 0; i < r->n_kernels; i++)
    if (r->kernels[i].is_template && is(&r->t[name], r->kernels[i].name)) k = &r->kernels[i];
  if (!given->host[0])
    error(r, at, "an instance without host_name");
  else if (!k || !is(&r->t[open], "<"))
    error(r, at, "an instance of no kernel template");
  else
    add_entry(r, k, given->host, what);
  blank(r, first, end);
  return end;
}

// Attributes of a function, between `first` and `at`: taken away.
static void read_function_attributes(translator *r, kernel *k, int first, int at) {
  for (int j = first; j < at; j++) {
    int name, stop = attribute_at(r, j, &name);
    if (stop < 0) continue;
    const token *value = &r->t[next(r, next(r, name))];
    if (is(&r->t[name], "host_name")) snprintf(k->host, sizeof k->host, "%.*s", value->n - 2, value->s + 1);
    if (is(&r->t[name], "max_total_threads_per_threadgroup")) k->max_threads = attribute_number(r, name);
    blank(r, j, stop);
    j = stop;
  }
}

static void read_kernels(translator *r) {
  int depth = 0, first = 0; // of the declaration
  for (int i = 0; i < r->n; i++) {
    const token *t = &r->t[i];
    if (t->kind >= SPACE) continue;
    depth += is(t, "{") - is(t, "}");
    if (!depth && (is(t, "}") || is(t, ";"))) first = i + 1;
    if (depth || !is(t, "kernel")) continue;
    kernel k = {.n_args = 0};
    int start = next(r, first - 1), is_template = is(&r->t[start], "template"), open = next(r, start);
    read_function_attributes(r, &k, start, i);
    k.is_template = is_template && is(&r->t[open], "<");
    if (is_template && !k.is_template) {
      i = read_instance(r, &k, start, i);
      first = i + 1;
      continue;
    }
    int type = next(r, i), name = next(r, type), list = next(r, name);
    snprintf(k.name, sizeof k.name, "%.*s", r->t[name].n, r->t[name].s);
    if (!is(&r->t[type], "void") || !is(&r->t[list], "(") || r->n_kernels == MAX_KERNELS) {
      error(r, i, "expected kernel void NAME(");
      continue;
    }
    read_parameters(r, &k, list);
    r->kernels[r->n_kernels++] = k;
    if (!k.is_template) add_entry(r, &k, k.host[0] ? k.host : k.name, k.name);
    i = partner(r, list);
  }
}

// ---- bodies ----

// `threadgroup TYPE NAME[..];` in a body: the memory comes from the executor. Pointers are left alone.
static void read_threadgroup_variable(translator *r, int i) {
  int before = last(r, i), name = -1, end, several = 0, value = 0;
  if (before < 0 || !is_sign(&r->t[before], "{};)")) return;
  for (end = next(r, i); end < r->n && !is(&r->t[end], ";"); end = next(r, end)) {
    if (is_sign(&r->t[end], "*&(")) return;
    several |= is(&r->t[end], ",");
    value |= is(&r->t[end], "=");
    if (is(&r->t[end], "[")) {
      if (name < 0) name = last(r, end);
      end = partner(r, end);
    }
  }
  if (name < 0) name = last(r, end);
  if (several) error(r, i, "declare one threadgroup variable per declaration");
  if (value) error(r, i, "threadgroup variables cannot be initialised");
  if (r->check) {
    replace(&r->t[i], "static threadgroup");
    return;
  }
  const token *t = &r->t[name];
  replace(&r->t[end], "; type_of_%.*s &%.*s = *(type_of_%.*s *)msl_tg_local(sizeof(type_of_%.*s), %d);", t->n, t->s, t->n, t->s,
          t->n, t->s, t->n, t->s, t->line * 1024 + i % 1024);
  replace(&r->t[i], "typedef");
  replace(&r->t[name], "type_of_%.*s", t->n, t->s);
}

// Without a suffix a literal is float.
static void read_number(token *t) {
  int hex = t->n > 1 && (t->s[1] == 'x' || t->s[1] == 'X'), end = (unsigned char)t->s[t->n - 1];
  int real = memchr(t->s, '.', (size_t)t->n) || memchr(t->s, 'e', (size_t)t->n) || memchr(t->s, 'E', (size_t)t->n);
  if (!hex && real && (isdigit(end) || end == '.')) replace(t, "%.*sf", t->n, t->s);
}

static void read_bodies(translator *r) {
  static const char *const refused[] = {"double", "goto", "new",          "delete",      "virtual",
                                        "throw",  "try",  "dynamic_cast", "thread_local"};
  static const char *const before_values[] = {"return", "const", "case", "else"};
  int depth = 0, parentheses = 0;
  for (int i = 0; i < r->n; i++) {
    token *t = &r->t[i];
    if (t->kind >= SPACE || t->instead) continue;
    depth += is(t, "{") - is(t, "}");
    parentheses += is(t, "(") - is(t, ")");
    if (t->kind == NUMBER) read_number(t);
    if (t->kind != NAME) continue;
    if (IS_ANY(t, refused)) error(r, i, "'%.*s' is not allowed in MSL", t->n, t->s);
    if (is(t, "threadgroup") && depth > 0 && !parentheses) read_threadgroup_variable(r, i);
    int p = last(r, i);
    bool value = p < 0 || r->t[p].kind != NAME || IS_ANY(&r->t[p], before_values);
    if (vector_size(t) && is(&r->t[next(r, i)], "(") && value) replace(t, "msl::ctor<%.*s>", t->n, t->s);
  }
}

char *msl_translate(const char *source, int check, char **err) {
  translator *r = calloc(1, sizeof *r);
  text out = {NULL, 0, 0};
  r->check = check;
  tokenize(r, source);
  check_spaces(r);
  read_kernels(r);
  read_bodies(r);
  print(&out, "#include <metal_stdlib>\n#line 1 \"msl\"\n");
  for (int i = 0; i < r->n; i++) {
    if (r->t[i].instead)
      put(&out, r->t[i].instead, strlen(r->t[i].instead));
    else
      put(&out, r->t[i].s, (size_t)r->t[i].n);
    free(r->t[i].instead);
  }
  print(&out, "\n#line 1 \"msl-entries\"\n%s%s%s", check ? "" : "namespace {\n", r->entries.p ? r->entries.p : "",
        check ? "" : "}\n");
  if (!check)
    print(&out, "extern \"C\" { extern const msl::entry msl_entries[]; const msl::entry msl_entries[] = {\n%s{0, 0, 0, 0, 0}}; }\n",
          r->table.p ? r->table.p : "");
  *err = r->errors.p;
  if (*err) {
    free(out.p);
    out.p = NULL;
  }
  free(r->t);
  free(r->entries.p);
  free(r->table.p);
  free(r);
  return out.p;
}
