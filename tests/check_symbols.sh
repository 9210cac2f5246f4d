#!/usr/bin/env bash
# What the object of the implementation shows to a linker, and what it leaves in writable memory.
cd "$(dirname "$0")/.." || exit 1
. tests/check.sh

for tool in gcc nm size; do
  command -v $tool >/dev/null || { skip "symbols (no $tool)"; exit 0; }
done
object=$scratch/impl.o
gcc -std=c11 -O2 -c tests/compile/impl.c -o "$object" || exit 1

# none NAME: what stands on standard input is a list of offenders.
none() {
  cat >"$scratch/offenders"
  refuse "$1" grep . "$scratch/offenders"
  [ ! -s "$scratch/offenders" ] || sed 's/^/  /' "$scratch/offenders" | head -n 20
}

nm -g --defined-only "$object" | awk '{ print $3 }' | grep -v '^qi_[a-z]' | none "external names begin with qi_"
expect "there are external names" sh -c "nm -g --defined-only '$object' | grep -q qi_model_open"
nm -u "$object" | awk '{ print $2 }' |
  grep -Ex '_?abort|_?_?exit|_Exit|quick_exit|raise|signal|.*assert.*|(secure_)?getenv|v?printf|__v?printf_chk|puts|putchar|putc|stdout|system|sr?and|rand' |
  none "nothing that ends the program, prints to standard output or reads the environment is called"
size -A "$object" | awk '$1 ~ /^\.(data|bss|tdata|tbss|common)($|\.)/ && $1 !~ /^\.data\.rel\.ro/ { n += $2; seen = seen " " $1 "=" $2 }
  END { if (n > 8) print "writable:" seen }' | none "no writable globals but the 8 bytes of stb_ds"

# Every function and table of the file, used or not, must have a private name. System headers' own begin with an underscore.
gcc -std=c11 -O0 -fkeep-static-functions -fkeep-inline-functions -c tests/compile/impl.c -o "$object" || exit 1
# Those with a number behind a point live inside a function.
nm --defined-only "$object" | awk '$2 ~ /[tdbr]/ { print $3 }' | grep -vE '^(qi__|_)|\.[0-9]+$' | sort -u |
  comm -23 - <(printf '#include <immintrin.h>\n#include <pthread.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n' |
    gcc -D_GNU_SOURCE -O0 -fkeep-static-functions -fkeep-inline-functions -x c -c - -o "$scratch/sys.o" 2>/dev/null &&
    nm --defined-only "$scratch/sys.o" | awk '{ print $3 }' | sort -u) |
  none "static names begin with qi__"
done_checking
