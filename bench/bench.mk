# What build/bench compares itself with, if it is installed (Debian: libopenblas-dev, libdnnl-dev). Found by compiling.
# In the Makefile: include bench/bench.mk, after its rule for build/%.

bench_probe = $(shell echo 'int main(void) { return 0; }' | \
  $(CC) $(CFLAGS) -std=c11 -x c -include bench/peers.h -D$(1) - -o /dev/null $(2) $(LDLIBS) >/dev/null 2>&1 && echo -D$(1) $(2))

# Expanded for this target only: other programs do not pay for it.
build/bench: BENCH_PEERS = $(call bench_probe,HAVE_OPENBLAS,-lopenblas) $(call bench_probe,HAVE_DNNL,-ldnnl)

build/bench: bench/bench.c $(wildcard bench/*.h) qinfer.h | build
	$(CC) $(CFLAGS) -std=c11 -Wall -Wextra $< -o $@ $(BENCH_PEERS) $(LDLIBS)
