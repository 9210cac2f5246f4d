// Instruction sets, core counts, clock, floating-point mode.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <fenv.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

static void test_names(void **state) {
  (void)state;
  for (int i = 0; i < QI_ISA_COUNT; i++) assert_int_equal(qi__isa_from_name(qi__isa_name((qi_isa)i)), i);
  assert_int_equal(qi__isa_from_name("AVX512_bf16"), QI_ISA_AVX512_BF16);
  assert_int_equal(qi__isa_from_name("avx51"), -1);
  assert_int_equal(qi__isa_from_name("avx5122"), -1);
  assert_int_equal(qi__isa_from_name(""), -1);
  assert_int_equal(qi__isa_from_name(NULL), -1);
  assert_string_equal(qi__isa_name(QI_ISA_COUNT), "?");
  assert_string_equal(qi__isa_name((qi_isa)-1), "?");
}

static void test_levels_of_known_machines(void **state) {
  (void)state;
  qi__cpu haswell = {.avx2 = true}, alder_lake = {.avx2 = true, .avx_vnni = true};
  qi__cpu zen4 = {.avx2 = true, .avx512 = true, .avx512_bf16 = true}, old = {.avx2 = false};
  qi__cpu graviton2 = {.neon = true, .dotprod = true};
  assert_int_equal(qi__isa_lower(&old, QI_ISA_AMX), QI_ISA_SCALAR);
  assert_int_equal(qi__isa_lower(&haswell, QI_ISA_AMX), QI_ISA_AVX2);
  assert_int_equal(qi__isa_lower(&alder_lake, QI_ISA_AVX512), QI_ISA_AVX_VNNI);
  assert_int_equal(qi__isa_lower(&zen4, QI_ISA_AMX), QI_ISA_AVX512_BF16);
  assert_int_equal(qi__isa_lower(&zen4, QI_ISA_AVX_VNNI), QI_ISA_AVX2);
  assert_int_equal(qi__isa_lower(&graviton2, QI_ISA_I8MM), QI_ISA_DOTPROD);
  assert_int_equal(qi__isa_lower(&graviton2, QI_ISA_SCALAR), QI_ISA_SCALAR);
}

static void test_best_level(void **state) {
  (void)state;
  qi__cpu zen4 = {.avx2 = true, .avx512 = true, .avx512_bf16 = true}, no_tiles = zen4;
  no_tiles.intel = true;
  qi__cpu tiles = no_tiles;
  tiles.amx = true;
  assert_int_equal(qi__isa_best(&zen4, QI_ISA_AUTO, QI_ISA_AMX), QI_ISA_AVX512_BF16);
  assert_int_equal(qi__isa_best(&zen4, QI_ISA_AMX, QI_ISA_AMX), QI_ISA_AVX512_BF16);
  assert_int_equal(qi__isa_best(&no_tiles, QI_ISA_AUTO, QI_ISA_AMX), QI_ISA_AVX512);
  assert_int_equal(qi__isa_best(&no_tiles, QI_ISA_AMX, QI_ISA_AMX), QI_ISA_AVX512);
  assert_int_equal(qi__isa_best(&no_tiles, QI_ISA_AVX512_BF16, QI_ISA_AMX), QI_ISA_AVX512_BF16);
  assert_int_equal(qi__isa_best(&tiles, QI_ISA_AUTO, QI_ISA_AMX), QI_ISA_AMX);
  assert_int_equal(qi__isa_best(&tiles, QI_ISA_AVX_VNNI, QI_ISA_AMX), QI_ISA_AVX2);
}

static void test_mask(void **state) {
  (void)state;
  qi__cpu all = {.avx2 = true, .avx_vnni = true, .avx512 = true, .avx512_vbmi = true, .avx512_bf16 = true, .amx = true}, cpu;
  cpu = all;
  qi__cpu_mask(&cpu, QI_ISA_AVX512);
  assert_true(cpu.avx2 && cpu.avx_vnni && cpu.avx512 && cpu.avx512_vbmi && !cpu.avx512_bf16 && !cpu.amx);
  qi__cpu_mask(&cpu, QI_ISA_SCALAR);
  assert_true(!cpu.avx2 && !cpu.avx_vnni && !cpu.avx512 && !cpu.avx512_vbmi);
}

static void test_choose(void **state) {
  (void)state;
  qi_isa best = QI_ISA_AUTO, isa;
  qi__cpu cpu;
  qi_error err = {QI_OK, ""};
  assert_int_equal(qi__isa_choose(QI_ISA_AUTO, &best, &cpu, &err), QI_OK);
  assert_true(best >= QI_ISA_SCALAR && best < QI_ISA_COUNT);
  assert_true(qi__cpu_has(&cpu, best));
  assert_int_equal(qi__isa_choose(QI_ISA_SCALAR, &isa, NULL, NULL), QI_OK);
  assert_int_equal(isa, QI_ISA_SCALAR);
  int refused = 0;
  for (int i = QI_ISA_SCALAR; i < QI_ISA_COUNT; i++) {
    qi_result r = qi__isa_choose((qi_isa)i, &isa, &cpu, &err);
    if (r) {
      refused++;
      assert_int_equal(r, QI_ERR_UNSUPPORTED);
      assert_non_null(strstr(err.msg, qi__isa_name((qi_isa)i)));
      continue;
    }
    assert_true((int)isa <= i && isa >= QI_ISA_SCALAR && qi__cpu_has(&cpu, isa));
    if (i >= (int)best && !(i == QI_ISA_AVX512_BF16 && cpu.intel)) assert_int_equal(isa, best);
    for (int above = (int)isa + 1; above < QI_ISA_COUNT; above++) assert_false(qi__cpu_has(&cpu, (qi_isa)above));
  }
#if defined(QI__X86)
  assert_int_equal(refused, 3);
#elif defined(QI__ARM)
  assert_int_equal(refused, 5);
#endif
  assert_int_equal(qi__isa_choose((qi_isa)-1, &isa, NULL, &err), QI_ERR_ARGUMENT);
  assert_int_equal(qi__isa_choose(QI_ISA_COUNT, &isa, NULL, &err), QI_ERR_ARGUMENT);
}

static void test_counts(void **state) {
  (void)state;
  assert_true(qi__cpu_count_logical() >= 1);
  assert_true(qi__cpu_count() >= 1 && qi__cpu_count() <= qi__cpu_count_logical());
}

#if defined(__linux__) && !defined(QI_NO_STDIO)
static void write_file(const char *dir, const char *name, const char *text) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
}

// A CPU in a tree as /sys/devices, with its siblings and one other file that holds a number; there may be one already.
static void make_cpu(const char *root, int i, const char *siblings, const char *file, long value) {
  static const char *const folders[] = {"", "/topology", "/cpufreq"};
  char dir[128], text[32];
  snprintf(dir, sizeof dir, "%s/system", root), mkdir(dir, 0700);
  snprintf(dir, sizeof dir, "%s/system/cpu", root), mkdir(dir, 0700);
  for (size_t k = 0; k < QI__COUNT_OF(folders); k++) {
    snprintf(dir, sizeof dir, "%s/system/cpu/cpu%d%s", root, i, folders[k]);
    mkdir(dir, 0700);
  }
  snprintf(dir, sizeof dir, "%s/system/cpu/cpu%d", root, i);
  write_file(dir, "topology/thread_siblings_list", siblings);
  snprintf(text, sizeof text, "%ld\n", value);
  if (file) write_file(dir, file, text);
}

static void set_cpus(qi__cpu_list *list, int first, int last) {
  memset(list, 0, sizeof *list);
  for (int i = first; i <= last; i++) {
    unsigned long word;
    const size_t bits = 8 * sizeof word, at = (size_t)i / bits * sizeof word;
    memcpy(&word, list->bits + at, sizeof word);
    word |= 1ul << ((size_t)i % bits);
    memcpy(list->bits + at, &word, sizeof word);
  }
}

static int fast_cores(const char *root, int first, int last) {
  qi__cpu_list list;
  set_cpus(&list, first, last);
  qi__cpu_list_fast(root, &list);
  return qi__count_cores(root, &list);
}

static void remove_tree(const char *root) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", root);
  assert_int_equal(system(command), 0);
}

static void test_hybrid_cores(void **state) {
  (void)state;
  char root[] = "/tmp/qi_cores_XXXXXX", core[64], siblings[32];
  assert_non_null(mkdtemp(root));
  assert_int_equal(fast_cores(root, 0, 3), 0); // nothing is told
  for (int i = 0; i < 12; i++) { // 4 cores with two threads, 4 with one, all as fast as each other
    snprintf(siblings, sizeof siblings, i < 8 ? "%d-%d\n" : "%d\n", i < 8 ? i / 2 * 2 : i, i / 2 * 2 + 1);
    make_cpu(root, i, siblings, NULL, 0);
  }
  assert_int_equal(fast_cores(root, 0, 11), 8);
  assert_int_equal(fast_cores(root, 1, 2), 2); // two halves of cores
  for (int i = 0; i < 12; i++) {
    snprintf(siblings, sizeof siblings, i < 8 ? "%d-%d\n" : "%d\n", i < 8 ? i / 2 * 2 : i, i / 2 * 2 + 1);
    make_cpu(root, i, siblings, "cpufreq/cpuinfo_max_freq", i < 2 ? 5500000 : i < 8 ? 5000000 : 3300000);
  }
  assert_int_equal(fast_cores(root, 0, 11), 4);
  assert_int_equal(fast_cores(root, 8, 11), 4); // only slow ones are allowed
  for (int i = 0; i < 12; i++) make_cpu(root, i, i < 8 ? "0" : "8", "cpufreq/cpuinfo_max_freq", i < 8 ? 5000000 : 3700000);
  assert_int_equal(fast_cores(root, 0, 11), 2); // 74 %: the same kind, by frequency
  snprintf(core, sizeof core, "%s/cpu_core", root);
  assert_int_equal(mkdir(core, 0700), 0);
  write_file(core, "cpus", "0-3,5,7\n");
  assert_int_equal(fast_cores(root, 0, 11), 1); // by name
  assert_int_equal(fast_cores(root, 8, 11), 1);
  for (int i = 0; i < 12; i++) {
    snprintf(siblings, sizeof siblings, "%d\n", i);
    make_cpu(root, i, siblings, "cpu_capacity", i < 4 ? 250 : i < 10 ? 860 : 1024);
  }
  assert_int_equal(fast_cores(root, 0, 11), 6);
  write_file(core, "cpus", "\n"); // damaged: names none
  assert_int_equal(fast_cores(root, 0, 11), 12);
  remove_tree(core);
  assert_int_equal(fast_cores(root, 0, 11), 8);
  remove_tree(root);
}

static void test_cpu_lists(void **state) {
  (void)state;
  assert_true(qi__cpu_text_has("0-3,8,10-11\n", 0) && qi__cpu_text_has("0-3,8,10-11\n", 8) && qi__cpu_text_has("0-3,8,10-11", 11));
  assert_false(qi__cpu_text_has("0-3,8,10-11\n", 4) || qi__cpu_text_has("0-3,8,10-11\n", 12) || qi__cpu_text_has("", 0));
  assert_false(qi__cpu_text_has("x", 0) || qi__cpu_text_has("3-", 2) || qi__cpu_text_has("-3", 3) || qi__cpu_text_has("1,,2", 2));
}

static void test_cgroup_quota(void **state) {
  (void)state;
  char root[] = "/tmp/qi_cpu_XXXXXX", sub[64], leaf[128], dir[256];
  assert_non_null(mkdtemp(root));
  snprintf(sub, sizeof sub, "%s/sub", root);
  snprintf(leaf, sizeof leaf, "%s/leaf", sub);
  assert_int_equal(mkdir(sub, 0700) | mkdir(leaf, 0700), 0);
  assert_int_equal(qi__cgroup_quota(leaf, true), INT_MAX);
  write_file(leaf, "cpu.max", "max 100000\n");
  assert_int_equal(qi__cgroup_quota(leaf, true), INT_MAX);
  write_file(leaf, "cpu.max", "250000 100000\n");
  assert_int_equal(qi__cgroup_quota(leaf, true), 3);
  write_file(leaf, "cpu.max", "10000 100000\n");
  assert_int_equal(qi__cgroup_quota(leaf, true), 1);
  write_file(leaf, "cpu.max", "600000 100000\n");
  write_file(root, "cpu.max", "200000 100000\n");
  snprintf(dir, sizeof dir, "%s", leaf);
  assert_int_equal(qi__cgroup_walk(dir, strlen(root), true), 2); // the group above is the stricter one
  const char *damaged[] = {"", "x", "100000", "100000 0", "99999999999999999999 1", "-5 100000", "100000 -1"};
  for (size_t i = 0; i < QI__COUNT_OF(damaged); i++) {
    write_file(leaf, "cpu.max", damaged[i]);
    assert_int_equal(qi__cgroup_quota(leaf, true), INT_MAX);
  }
  write_file(leaf, "cpu.cfs_quota_us", "-1\n");
  write_file(leaf, "cpu.cfs_period_us", "100000\n");
  assert_int_equal(qi__cgroup_quota(leaf, false), INT_MAX);
  write_file(leaf, "cpu.cfs_quota_us", "400000\n");
  assert_int_equal(qi__cgroup_quota(leaf, false), 4);
  const char *names[] = {"cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"};
  for (size_t i = 0; i < QI__COUNT_OF(names); i++) {
    snprintf(dir, sizeof dir, "%s/%s", i == 0 ? root : leaf, names[i]);
    remove(dir);
  }
  snprintf(dir, sizeof dir, "%s/cpu.max", leaf);
  remove(dir);
  assert_int_equal(rmdir(leaf) | rmdir(sub) | rmdir(root), 0);
}
#endif

static void test_clock(void **state) {
  (void)state;
  uint64_t before = qi__now_us();
  for (int i = 0; i < 1000; i++) {
    uint64_t now = qi__now_us();
    assert_true(now >= before);
    before = now;
  }
}

// Restores what the host had set, and computes as IEEE says in between.
static void test_fp_mode(void **state) {
  (void)state;
#if defined(__x86_64__) || defined(__aarch64__)
  volatile float one = -1.0f, three = 3.0f; // -1/3: the nearest is below
  float nearest = one / three;
  assert_int_equal(fesetround(FE_UPWARD), 0);
  volatile float up = one / three;
  qi__fp_mode mode = qi__fp_enter();
  volatile float inside = one / three;
  qi__fp_leave(mode);
  int rounding = fegetround();
  fesetround(FE_TONEAREST);
  assert_int_equal(rounding, FE_UPWARD);
  assert_true(inside == nearest);
  if (up == nearest) print_message("directed rounding is not there (valgrind): half of the test says nothing\n");
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_names),  cmocka_unit_test(test_levels_of_known_machines),
    cmocka_unit_test(test_best_level), cmocka_unit_test(test_mask),   cmocka_unit_test(test_choose),
    cmocka_unit_test(test_counts), cmocka_unit_test(test_clock),
#if defined(__linux__) && !defined(QI_NO_STDIO)
    cmocka_unit_test(test_cgroup_quota),
    cmocka_unit_test(test_hybrid_cores),
    cmocka_unit_test(test_cpu_lists),
#endif
    cmocka_unit_test(test_fp_mode),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
