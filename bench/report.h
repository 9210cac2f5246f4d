// Results on standard output as Markdown, JSON or CSV: rows of named cells, the same cells in each row of a run.
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "measure.h"

typedef enum report_form { REPORT_MD, REPORT_JSON, REPORT_CSV } report_form;

// TEXT is quoted where the form needs it; NUMBER as printed, empty = none; SAMPLES appear in JSON only.
typedef enum cell_kind { CELL_TEXT, CELL_NUMBER, CELL_SAMPLES } cell_kind;

typedef struct cell {
  const char *key;
  int width; // of the column in Markdown
  cell_kind kind;
  char text[128];
  const samples *samples;
} cell;

#define MAX_CELLS 24

typedef struct row {
  cell cells[MAX_CELLS];
  int n;
} row;

typedef struct report {
  report_form form;
  machine where;
  bool started;    // a row is out
  bool in_table;   // Markdown: the head of the table is out
  char title[192]; // of the table
} report;

// ---- cells ----

static cell *row_cell(row *r, const char *key, int width, cell_kind kind) {
  cell *c = &r->cells[r->n < MAX_CELLS ? r->n++ : MAX_CELLS - 1];
  memset(c, 0, sizeof *c);
  c->key = key;
  c->width = width;
  c->kind = kind;
  return c;
}

static void row_text(row *r, const char *key, int width, const char *text) {
  snprintf(row_cell(r, key, width, CELL_TEXT)->text, sizeof r->cells[0].text, "%s", text);
}

// `digits` after the point; what is not a number stays empty.
static void row_number(row *r, const char *key, int width, int digits, double v) {
  cell *c = row_cell(r, key, width, CELL_NUMBER);
  if (qi__is_finite((float)v)) snprintf(c->text, sizeof c->text, "%.*f", digits, v);
}

// With three digits that count, whatever the size.
static void row_value(row *r, const char *key, int width, double v) {
  double size = v < 0 ? -v : v;
  row_number(r, key, width, size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : size >= 0.1 ? 4 : 5, v);
}

static void row_samples(row *r, const char *key, const samples *s) { row_cell(r, key, 0, CELL_SAMPLES)->samples = s; }

// ---- forms ----

static void print_quoted(const char *s) {
  putchar('"');
  for (; *s; s++) {
    if (*s == '"' || *s == '\\') putchar('\\');
    if ((unsigned char)*s < 0x20) printf("\\u%04x", (unsigned)(unsigned char)*s);
    else putchar(*s);
  }
  putchar('"');
}

static void print_json_cell(const cell *c) {
  print_quoted(c->key);
  printf(": ");
  if (c->kind == CELL_TEXT) print_quoted(c->text);
  else if (c->kind == CELL_NUMBER) printf("%s", c->text[0] ? c->text : "null");
  else {
    for (int i = 0; i < c->samples->n; i++) printf("%s%.9g", i ? ", " : "[", c->samples->v[i]);
    printf("%s]", c->samples->n ? "" : "[");
  }
}

// CSV doubles quotes inside quotes.
static void print_csv_text(const char *s) {
  putchar('"');
  for (; *s; s++) {
    if (*s == '"') putchar('"');
    putchar(*s);
  }
  putchar('"');
}

static int md_width(const cell *c) {
  int key = (int)strlen(c->key);
  return key > c->width ? key : c->width;
}

// Texts to the left, numbers to the right.
static void print_md_cell(const cell *c, const char *text) {
  printf("| %*s ", c->kind == CELL_TEXT ? -md_width(c) : md_width(c), text);
}

static void print_md_head(const row *r) {
  for (int i = 0; i < r->n; i++)
    if (r->cells[i].kind != CELL_SAMPLES) print_md_cell(&r->cells[i], r->cells[i].key);
  printf("|\n");
  for (int i = 0; i < r->n; i++) {
    if (r->cells[i].kind == CELL_SAMPLES) continue;
    printf("|");
    for (int k = 0; k < md_width(&r->cells[i]) + 1; k++) putchar('-');
    putchar(r->cells[i].kind == CELL_TEXT ? '-' : ':');
  }
  printf("|\n");
}

static void report_row_md(report *out, const row *r) {
  if (!out->in_table) {
    printf("\n");
    if (out->title[0]) printf("### %s\n\n", out->title);
    print_md_head(r);
  }
  out->in_table = true;
  for (int i = 0; i < r->n; i++)
    if (r->cells[i].kind != CELL_SAMPLES) print_md_cell(&r->cells[i], r->cells[i].text);
  printf("|\n");
}

static void report_row_json(report *out, const row *r) {
  printf("%s\n    {", out->started ? "," : "");
  for (int i = 0; i < r->n; i++) {
    if (i) printf(", ");
    print_json_cell(&r->cells[i]);
  }
  printf("}");
}

static void report_row_csv(report *out, const row *r) {
  if (!out->started) {
    printf("cpu,compiler,date");
    for (int i = 0; i < r->n; i++)
      if (r->cells[i].kind != CELL_SAMPLES) printf(",%s", r->cells[i].key);
    printf("\n");
  }
  print_csv_text(out->where.cpu);
  putchar(',');
  print_csv_text(out->where.compiler);
  putchar(',');
  print_csv_text(out->where.date);
  for (int i = 0; i < r->n; i++) {
    if (r->cells[i].kind == CELL_SAMPLES) continue;
    putchar(',');
    if (r->cells[i].kind == CELL_TEXT) print_csv_text(r->cells[i].text);
    else printf("%s", r->cells[i].text);
  }
  printf("\n");
}

// ---- report ----

// Nothing is written before the first row: a run that fails leaves standard output empty.
static void report_begin(report *out, report_form form) {
  memset(out, 0, sizeof *out);
  out->form = form;
  out->where = machine_read();
}

// What stands above all rows.
static void report_head(const report *out) {
  const machine *m = &out->where;
  if (out->form == REPORT_MD) printf("%s, %d cores; %s; %s\n", m->cpu, m->n_cores, m->compiler, m->date);
  if (out->form != REPORT_JSON) return;
  printf("{\n  \"machine\": {\"cpu\": ");
  print_quoted(m->cpu);
  printf(", \"cores\": %d, \"compiler\": ", m->n_cores);
  print_quoted(m->compiler);
  printf(", \"date\": ");
  print_quoted(m->date);
  printf("},\n  \"rows\": [");
}

// The next row begins a new table of this title in Markdown; elsewhere rows name their table themselves.
static void report_title(report *out, const char *title) {
  snprintf(out->title, sizeof out->title, "%s", title);
  out->in_table = false;
}

static void report_row(report *out, const row *r) {
  progress("%s", "");
  if (!out->started) report_head(out);
  if (out->form == REPORT_MD) report_row_md(out, r);
  if (out->form == REPORT_JSON) report_row_json(out, r);
  if (out->form == REPORT_CSV) report_row_csv(out, r);
  out->started = true;
  fflush(stdout);
}

// False when standard output could not be written.
static bool report_end(report *out) {
  if (out->form == REPORT_JSON && out->started) printf("\n  ]\n}\n");
  progress("%s", "");
  if (fflush(stdout) == 0 && !ferror(stdout)) return true;
  return complain("standard output cannot be written");
}

#endif // BENCH_REPORT_H
