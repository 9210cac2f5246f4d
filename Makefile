# qinfer: `make` builds the programs, `make demo` runs one, `make test` runs the tests. See README.md.

CC      ?= cc
CFLAGS  ?= -O2
LDLIBS  += -lm -lpthread
PYTHON  ?= python3
MODEL   ?=
PROMPT  ?= Tale: The Lost Bell
TOKENS  ?= 250
ONLY    ?=
FUZZ_SECONDS ?= 30
SECONDS ?= 60

PARTS    := $(wildcard src/*.h src/*/*.h)
SOURCES  := $(wildcard examples/*.c bench/*.c)
PROGRAMS := $(patsubst %.c,build/%,$(notdir $(SOURCES)))
FUZZERS  := $(patsubst tests/%.c,build/fuzz/%,$(wildcard tests/fuzz_*.c))
TALES    := models/tales.gguf

export MODEL PROMPT CC

all: $(PROGRAMS)

# The header is committed: without Python it is taken as it is.
qinfer.h: $(PARTS) $(wildcard src/metal/*) LICENSE tools/amalgamate.py
	@if command -v $(PYTHON) >/dev/null; then $(PYTHON) tools/amalgamate.py; \
	else echo "qinfer.h: $(PYTHON) is not there, so the committed header is used as it is"; fi

# On a Mac this one has Metal inside, and a self-test of it can be built.
ifeq ($(shell uname -s),Darwin)
build/generate: METAL = -DUSE_METAL qinfer_metal.m -framework Metal -framework Foundation
build/metal_selftest: tests/metal/selftest.c tests/metal/scenes.h qinfer.h | build
	$(CC) $(CFLAGS) -std=c11 -Wall -Wextra -I. $< qinfer_metal.m -framework Metal -framework Foundation -o $@ $(LDLIBS)
endif

# One .c file, one program.
build/%: examples/%.c examples/options.h qinfer.h | build
	$(CC) $(CFLAGS) -std=c11 -Wall -Wextra $< $(METAL) -o $@ $(LDLIBS)

build/%: bench/%.c qinfer.h | build
	$(CC) $(CFLAGS) -std=c11 -Wall -Wextra $< -o $@ $(LDLIBS)

# The model is inside this one.
build/embedded: $(TALES)

# What made models/: see models/README.md.
build/%: tools/%.c $(wildcard tools/*.h) | build
	$(CC) $(CFLAGS) -std=c11 -Wall -Wextra $< -o $@ $(LDLIBS)

-include bench/bench.mk tools/tools.mk

build:
	@mkdir -p build

# What the programs and the tests need besides a C compiler: found by compiling, so this is quick when all is there.
deps:
	@tools/deps.sh test

deps-demo:
	@tools/deps.sh demo

# make demo, or make demo PROMPT="Talk: Mira the baker, sleepy", or with another MODEL=file.gguf
demo: deps-demo
	@$(MAKE) --no-print-directory -s build/generate
	@m="$${MODEL:-$(TALES)}"; if [ ! -f "$$m" ]; then echo "demo: $$m: no such file" >&2; exit 2; fi; \
	build/generate -m "$$m" -p "$$PROMPT" -n $(TOKENS)

# make test ONLY="gguf kernels" runs the tests whose names hold one of these words.
test: deps
	@tests/run.sh $(ONLY)

# The same tests as arm64 programs, in qemu-user.
test-arm:
	@tools/deps.sh test-arm
	@QI_TEST_ARM=1 tests/run.sh $(ONLY)

# Batches under everything at once, for SECONDS: tests/test_soak.c.
soak: build/soak
	build/soak $(SECONDS)

build/soak: tests/test_soak.c $(wildcard tests/support/*.h) qinfer.h | build
	$(CC) $(CFLAGS) -std=c11 -Wall -Wextra -DQI_STATIC $< -o $@ -lcmocka $(LDLIBS)

# qinfer_metal.m without a Mac: tests/metal/run.sh. Skipped with a message where clang 19 and its kin cannot be had.
test-metal:
	@tools/deps.sh metal || true
	@tests/metal/run.sh $(ONLY)

# Each target for FUZZ_SECONDS, from the seeds that it makes itself; what it finds stays in build/fuzz/. Kernels have tests of their
# own: without SIMD the build takes seconds in place of minutes.
fuzz: $(FUZZERS)
	@for f in $(FUZZERS); do mkdir -p $$f.corpus; echo "fuzz: $$f for $(FUZZ_SECONDS) s"; \
	  $$f -max_total_time=$(FUZZ_SECONDS) -print_final_stats=0 -verbosity=0 -artifact_prefix=build/fuzz/ $$f.corpus || exit 1; done

build/fuzz/%: tests/%.c qinfer.h
	@mkdir -p $@.corpus
	clang -O1 -g -std=c11 -DQI_NO_SIMD -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all $< -o $@ $(LDLIBS)
	@! grep -q FUZZ_CORPUS $< || { clang -O1 -std=c11 -DFUZZ_CORPUS $< -o $@_seeds $(LDLIBS) && $@_seeds $@.corpus; }

clean:
	rm -rf build

.PHONY: all deps deps-demo demo test test-arm test-metal soak fuzz clean
