#!/usr/bin/env bash
# Which macros the header leaves behind.
cd "$(dirname "$0")/.." || exit 1
. tests/check.sh

command -v gcc >/dev/null || { skip "macros (no gcc)"; exit 0; }
macros() { gcc -std=gnu11 -dM -E -x c - -I. 2>/dev/null | awk '{ sub(/\(.*/, "", $2); print $2 }' | sort -u; }

# leaks NAME PATTERN: macros that the text on standard input defines beyond those of the system headers it includes, and beyond PATTERN.
leaks() {
  cat >"$scratch/text.c"
  {
    grep -q IMPLEMENTATION "$scratch/text.c" && printf '#define _GNU_SOURCE\n#define _FILE_OFFSET_BITS 64\n'
    echo '#include <assert.h>' # by stb_ds.h
    grep -oE '^ *# *include *<[^>]*>' qinfer.h | grep -v stb_ds | sort -u | sed 's/.*<\(.*\)>/#if __has_include(<\1>)\n#include <\1>\n#endif/'
  } | macros >"$scratch/system"
  macros <"$scratch/text.c" | comm -23 - "$scratch/system" | grep -vE "$2" >"$scratch/leaks"
  refuse "$1" grep . "$scratch/leaks"
  sed 's/^/  /' "$scratch/leaks" | head -n 20
}
echo '#include "qinfer.h"' | leaks "declarations leave only QI_ and QINFER_ macros" '^(QI_[A-Z]|QINFER_)'
printf '#define QINFER_IMPLEMENTATION\n#include "qinfer.h"\n' |
  leaks "the implementation leaves only QI_, QI__, QINFER_ and stb_ds macros" '^(QI_|QINFER_|stbds_|STBDS_|INCLUDE_STB)'
expect "the declarations are there" sh -c "echo '#include \"qinfer.h\"' | gcc -E -x c - -I. | grep -q qi_model_open"
done_checking
