// Fuzzing of the JSON reader: any bytes, from memory and through a window, whole and skipped.
//
//   make fuzz FUZZ_SECONDS=60          or by hand:
//   clang -O1 -g -fsanitize=fuzzer,address,undefined tests/fuzz_json.c -o fuzz_json -lm -lpthread && ./fuzz_json
#define QINFER_IMPLEMENTATION
#define QI_STATIC
#include "../qinfer.h"

static void check(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_json: not so: %s\n", what);
  abort();
}

typedef struct fuzz_text {
  const uint8_t *data;
  size_t size;
} fuzz_text;

static bool fuzz_read(void *user, uint64_t offset, void *dst, size_t n) {
  const fuzz_text *t = (const fuzz_text *)user;
  check(offset <= t->size && n <= t->size - offset, "reads stay in the file");
  memcpy(dst, t->data + offset, n);
  return true;
}

// Reads every value; a sum of all that was seen.
static uint64_t fuzz_value(qi__json *j, uint64_t sum) {
  char text[64];
  size_t len = 0;
  double number = 0;
  bool flag = false;
  uint64_t pos, whole = 0;
  qi__json again;
  switch (qi__json_peek(j)) {
  case QI__JSON_NULL: qi__json_null(j); return sum * 31 + 1;
  case QI__JSON_BOOL: qi__json_bool(j, &flag); return sum * 31 + 2 + flag;
  case QI__JSON_NUMBER:
    pos = qi__json_pos(j);
    qi__json_number(j, &number);
    if (j->result) return sum;
    qi__json_init(&again, j->file, pos, j->end - pos, NULL);
    qi__json_u64(&again, UINT64_MAX, &whole);
    check(number >= -DBL_MAX && number <= DBL_MAX, "numbers are finite");
    check(again.result || number >= 0, "whole numbers are not negative");
    return sum * 31 + (uint64_t)(number > -1e15 && number < 1e15 ? (int64_t)number : 0) + whole;
  case QI__JSON_STRING:
    pos = qi__json_pos(j);
    qi__json_string(j, text, sizeof text, &len);
    for (size_t i = 0; i < len && i < sizeof text; i++) sum = sum * 31 + (uint8_t)text[i];
    if (j->result) return sum;
    qi__json_init(&again, j->file, j->begin, j->end - j->begin, NULL);
    qi__json_string_at(&again, pos, NULL, 0, &len);
    check(!again.result, "a string can be read again at its place");
    return sum * 31 + len;
  case QI__JSON_ARRAY:
    for (qi__json_enter(j, QI__JSON_ARRAY); qi__json_next(j);) sum = fuzz_value(j, sum);
    return sum * 31 + 3;
  case QI__JSON_OBJECT:
    for (qi__json_enter(j, QI__JSON_OBJECT); qi__json_next_key(j);) sum = fuzz_value(j, sum * 31 + j->key_len);
    return sum * 31 + 4;
  case QI__JSON_NONE: qi__json_unexpected(j, "a value");
  }
  return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_text text = {data, size};
  qi_reader reader = {fuzz_read, size, NULL};
  qi__file files[2];
  qi_error errors[2];
  uint64_t sums[2];
  qi_result results[2], skipped = QI_OK;
  if (!size) return 0;
  reader.user = &text;
  check(!qi__file_open_memory(&files[0], data, size, NULL) && !qi__file_open_reader(&files[1], &reader, NULL), "both open");
  for (int i = 0; i < 2; i++) {
    qi__json j;
    memset(&errors[i], 0, sizeof errors[i]);
    qi__json_init(&j, &files[i], 0, size, &errors[i]);
    sums[i] = fuzz_value(&j, 0);
    qi__json_end(&j);
    results[i] = j.result;
    check(!j.result == !errors[i].msg[0], "an error has a message");
    check(j.result || !j.depth, "all is closed at the end");
    if (i) continue;
    qi__json_init(&j, &files[i], 0, size, NULL);
    qi__json_skip(&j);
    qi__json_end(&j);
    skipped = j.result;
  }
  check(results[0] == results[1] && sums[0] == sums[1] && !strcmp(errors[0].msg, errors[1].msg), "memory and window agree");
  check(!skipped == !results[0] || strstr(errors[0].msg, "beyond the range"), "skipping checks as reading does");
  return 0;
}
