#!/usr/bin/env bash
# Users of the header under one compiler: tests/check_compile.sh gcc|clang
cd "$(dirname "$0")/.." || exit 1
. tests/check.sh

cc=${1:-gcc}
case $cc in
  gcc) cxx=g++ ;;
  clang) cxx=clang++ ;;
  *) echo "check_compile: say gcc or clang" >&2; exit 2 ;;
esac
if ! command -v "$cc" >/dev/null; then
  skip "$cc is not here"
  exit 0
fi
warn="-Wall -Wextra -Wsign-conversion -Wshadow -Werror"
here=tests/compile
libs="-lm -lpthread"
quick=-O0 # where code is only compiled to see that it compiles; GCC finds more when it optimises
[ "$cc" = gcc ] && quick=-O1

# ---- declarations ----

for std in c99 c11 gnu11; do
  expect "$cc: declarations in $std" "$cc" -std=$std $warn -Wpedantic -Wconversion -fsyntax-only $here/user.c
done
if command -v $cxx >/dev/null; then
  for std in c++11 c++17; do
    expect "$cxx: declarations in $std" $cxx -std=$std $warn -Wpedantic -Wconversion -fsyntax-only $here/user.cpp
  done
  refuse "$cxx: the implementation says that it is C" $cxx -fsyntax-only -x c++ $here/impl.c
else
  skip "$cxx is not here"
fi

# ---- the implementation, and its bits under all flags ----

first=""
for flags in "-std=c99 -O0" "-std=c11 -O2" "-std=gnu99 -Ofast -DQI_STATIC" "-std=gnu11 -O2 -ffast-math -mfma -mavx2 -DQI_STATIC"; do
  case $flags in *-mavx2*) [ "$(uname -m)" = x86_64 ] && grep -qw avx2 /proc/cpuinfo || continue ;; esac
  if ! "$cc" $flags $warn $here/bits.c -o "$scratch/bits" $libs >"$scratch/log" 2>&1; then
    not_ok "$cc $flags: compiles"
    head -n 20 "$scratch/log" | sed 's/^/  /'
    continue
  fi
  ok "$cc $flags: compiles"
  "$scratch/bits" >"$scratch/bits.txt"
  if [ -z "$first" ]; then
    first=$flags
    mv "$scratch/bits.txt" "$scratch/first.txt"
    expect "$cc $flags: the numeric floor gives numbers" test -s "$scratch/first.txt"
  else
    expect "$cc $flags: the same bits as with $first" diff "$scratch/first.txt" "$scratch/bits.txt"
  fi
done
if [ "$cc" != gcc ] && gcc -std=c99 -O0 $here/bits.c -o "$scratch/bits" $libs 2>/dev/null; then
  "$scratch/bits" >"$scratch/bits.txt"
  expect "$cc gives the same bits as gcc" diff "$scratch/first.txt" "$scratch/bits.txt"
fi

expect "$cc: the implementation in c11, pedantic" "$cc" -std=c11 $warn -Wpedantic -fsyntax-only $here/impl.c

# ---- options ----

# No option but QI_NO_SIMD reaches the kernels: they are looked at, but compiled without SIMD, in a third of the time.
for option in QI_NO_THREADS QI_NO_STDIO QI_NO_MMAP QI_NO_SIMD "QI_NO_THREADS -DQI_NO_STDIO -DQI_NO_MMAP -DQI_NO_SIMD"; do
  case $option in *QI_NO_SIMD*) also="" ;; *) also=-DQI_NO_SIMD ;; esac
  expect "$cc: $option" "$cc" -std=c11 $quick $warn -D$option $also -c $here/impl.c -o "$scratch/option.o"
  expect "$cc: $option, all kernels" "$cc" -std=c11 $warn -D$option -fsyntax-only $here/impl.c
  expect "$cc: $option with QI_STATIC" "$cc" -std=c11 $warn -DQI_STATIC -D$option -fsyntax-only $here/impl.c
done
for mode in -m32 -funsigned-char "-D_FILE_OFFSET_BITS=64 -fno-strict-aliasing" -fPIC; do
  if echo 'int main(void) { return 0; }' | "$cc" ${mode%% *} -x c - -o "$scratch/probe" 2>/dev/null; then
    expect "$cc: $mode" "$cc" -std=c11 -O0 $warn $mode -c $here/impl.c -o "$scratch/option.o"
  else
    skip "$cc: $mode (cannot link here)"
  fi
done

# ---- programs ----

link() { # NAME STD SOURCE... : C sources to a program that must run and return 0
  local name=$1 std=$2
  shift 2
  expect "$cc: $name" sh -c "$cc -std=$std -O0 $warn $* -o '$scratch/program' $libs && '$scratch/program'"
}
expect "$cc: object of the implementation" "$cc" -std=c11 -O0 $warn -c $here/impl.c -o "$scratch/impl.o"
if command -v $cxx >/dev/null; then
  expect "$cc and $cxx: implementation in C, users in C and C++" sh -c "
    $cc -std=c11 -O1 $warn -c $here/user.c -o '$scratch/user_c.o' &&
    $cxx -std=c++17 -O1 $warn $here/user.cpp '$scratch/user_c.o' '$scratch/impl.o' -o '$scratch/program' $libs && '$scratch/program'"
fi
link "QI_STATIC in two files of a program" c11 $here/static_a.c $here/static_b.c
# stb_ds itself wants GNU C for its maps.
link "host with stb_ds before" gnu11 $here/stb_before.c
link "host with stb_ds after" gnu11 $here/stb_after.c
link "host with stb_ds in another file" gnu11 $here/stb_other.c "$scratch/impl.o"

# ---- the header with stb_ds inside ----

if command -v python3 >/dev/null; then
  mkdir -p "$scratch/bundle/tests/compile"
  expect "bundle is written" python3 tools/amalgamate.py --bundle "$scratch/bundle/qinfer.h"
  cp $here/*.c $here/*.h "$scratch/bundle/tests/compile/"
  here=$scratch/bundle/tests/compile
  refuse "bundle includes no stb_ds.h" sh -c "$cc -H -fsyntax-only $here/impl.c 2>&1 | grep 'stb_ds[.]h'"
  link "bundle: QI_STATIC in two files" c11 "$here/static_a.c" "$here/static_b.c"
  link "bundle: host with stb_ds before" gnu11 "$here/stb_before.c"
  link "bundle: host with stb_ds after" gnu11 "$here/stb_after.c"
  python3 tools/amalgamate.py --line -o "$scratch/bundle/qinfer.h"
  expect "$cc: header with #line" "$cc" -std=c11 $warn -fsyntax-only "$here/impl.c"
fi
done_checking
