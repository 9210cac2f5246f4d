// What the hosts of stb_*.c do with stb_ds and with qinfer, in one file. 0 when both behave.
static int host_uses_stb(void) {
  int *numbers = NULL;
  struct {
    int key, value;
  } *squares = NULL;
  for (int i = 0; i < 1000; i++) {
    arrput(numbers, i);
    hmput(squares, i, i * i);
  }
  int good = arrlen(numbers) == 1000 && hmlen(squares) == 1000 && hmget(squares, 31) == 961;
  arrfree(numbers);
  hmfree(squares);
  return good && qi_format_from_name("q8_0") == QI_FORMAT_Q8_0 ? 0 : 1;
}
