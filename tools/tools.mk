# Training is for this machine's CPU, with OpenBLAS if it is installed (Debian: libopenblas-dev). In the Makefile behind bench/bench.mk.
build/train: tools/train.c $(wildcard tools/*.h) tests/support/gguf_write.h qinfer.h | build
	$(CC) -O3 -march=native -fno-math-errno -fno-trapping-math -std=gnu11 -Wall -Wextra $< -o $@ \
	  $(call bench_probe,HAVE_OPENBLAS,-lopenblas) $(LDLIBS)
