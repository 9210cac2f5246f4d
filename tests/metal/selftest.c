// Metal on this machine against the CPU, to be run on a Mac and pasted into a report:
//
//   clang -O2 tests/metal/selftest.c qinfer_metal.m -I. -framework Metal -framework Foundation -o build/metal_selftest
//   build/metal_selftest              every kernel, then speed; --no-speed leaves that out
//
// Needs stb_ds.h in an include path. Exit code: 0 all agrees, 1 something differs, 2 there is no device.
#define QINFER_IMPLEMENTATION
#include "qinfer.h"

#include "scenes.h"

// Differences of all kernels from plain C; returns how many are beyond their bound.
static int compare(const mt_place *metal) {
  pb_world world = {0};
  qi_backend backend = pb_backend(&world);
  mt_place plain = {&backend, NULL};
  mt_scene want, got;
  mt_case c;
  qi_error err = {QI_OK, ""};
  int n_wrong = mt_open(&plain, &err) != QI_OK;
  for (size_t i = 0; !n_wrong && mt_case_at(i, &c); i++) {
    if (!c.build) continue;
    qi_result r = mt_run(&plain, &c, 1, MT_MEMORY, &want, &err);
    if (!r && (r = mt_run(metal, &c, 1, MT_MEMORY, &got, &err)) != QI_OK) got.base = NULL;
    double d = r ? 0 : mt_difference(&want, &got, &c);
    bool good = !r && d <= c.bound;
    n_wrong += !good;
    if (r) printf("WRONG %-58s %s\n", c.name, err.msg);
    else printf("%-5s %-58s differs by %.2g, may by %.2g\n", good ? "ok" : "WRONG", c.name, d, c.bound);
    free(want.base);
    if (!r) free(got.base);
  }
  mt_close(&plain);
  return n_wrong;
}

// Seconds that a case takes at least, of several runs with `times` submitted together; the first warms up.
static double least_seconds(const mt_place *metal, const mt_case *c, int times) {
  double least = 0;
  qi_error err = {QI_OK, ""};
  for (int run = 0; run < 4; run++) {
    mt_scene s;
    if (mt_run(metal, c, times, (size_t)128 << 20, &s, &err)) printf("%s\n", err.msg);
    else if (run == 1 || (run > 1 && s.seconds < least)) least = s.seconds;
    free(s.base);
  }
  return least;
}

// A product of 4096 x 4096 in each format: one generated row (bytes a second), 512 rows of a prompt (operations). Candidates.
static void measure(const mt_place *metal) {
  const size_t n = 4096;
  printf("\n%-10s %12s %10s %14s %10s\n", "format", "1 row, ms", "GB/s", "512 rows, ms", "GFLOP/s");
  for (size_t f = 0; f < MT_FORMATS; f++) {
    double seconds[2];
    for (int prompt = 0; prompt < 2; prompt++) {
      mt_case c = {.name = "speed", .build = mt_build_product, .format = mt_formats[f], .n_rows = n, .n_cols = n,
                   .n = prompt ? 512 : 1, .generated = !prompt, .repeat = true};
      seconds[prompt] = least_seconds(metal, &c, prompt ? 4 : 40);
    }
    double bytes = (double)(qi__row_bytes(mt_formats[f], n) * n), operations = 2.0 * 512 * (double)n * (double)n;
    printf("%-10s %12.3f %10.1f %14.3f %10.0f\n", qi_format_get(mt_formats[f])->name, seconds[0] * 1e3, bytes / seconds[0] * 1e-9,
           seconds[1] * 1e3, operations / seconds[1] * 1e-9);
  }
  for (size_t k = 1; k <= 41; k += 40) {
    mt_case c = {.name = "speed", .build = mt_build_top, .n_cols = 131072, .n = k};
    printf("the first %d of 131072 logits, 3 rows: %.3f ms\n", (int)k, least_seconds(metal, &c, 40) * 1e3);
  }
}

int main(int argc, char **argv) {
  mt_place metal = {qi_metal(), NULL};
  qi_error err = {QI_OK, ""};
  qi_result r = mt_open(&metal, &err);
  if (r) {
    fprintf(stderr, "metal_selftest: %s\n", err.msg);
    return r == QI_ERR_UNSUPPORTED ? 2 : 1;
  }
  printf("qinfer %d.%d.%d on %s\n\n", QI_VERSION_MAJOR, QI_VERSION_MINOR, QI_VERSION_PATCH,
         metal.backend->device_name(metal.device));
  int n_wrong = compare(&metal);
  printf("\n%s\n", n_wrong ? "SOME KERNELS DIFFER" : "all kernels agree with the CPU");
  if (argc < 2 || strcmp(argv[1], "--no-speed") != 0) measure(&metal);
  mt_close(&metal);
  return n_wrong != 0;
}
