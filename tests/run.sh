#!/usr/bin/env bash
# Builds and runs the tests, and counts: tests/run.sh [WORD...]   only jobs whose name holds one of the words
#
# A job is a test program under one compiler, or a script tests/check_*.sh; two run at a time (JOBS). The last line is
# "qinfer: N passed, M failed"; the exit code is 0 when M is 0. QI_TEST_ARM=1: the programs only, for arm64, in qemu-user.
#
# Scripts print a line "ok NAME", "not ok NAME" or "skip NAME" for each thing they look at. Programs are cmocka's; one that says
# "// sanitize: thread" in its first lines also runs under the thread sanitizer. The address sanitizer also has the kernels
# for AMX, whose instructions are done by functions (tests/support/emulate_tiles.h).
#
# Kernels take most of the time to compile (minutes under a sanitizer), so they are compiled once for each compiler, to an object that
# all programs are linked with: QI__KERNELS_ELSEWHERE.
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
warnings="-std=c11 -Wall -Wextra -Wsign-conversion -Wshadow -Werror"
libs="-lcmocka -lm -lpthread"
out=build/test

# Sets `compile` (command up to the source) and `launch` (what runs the program) of a configuration; false if it cannot be had.
# QI_STATIC lets compilers drop what a test does not use, which is most of the time it takes to compile.
configure() {
  launch=""
  case $1 in
    gcc) compile="gcc -O2 $warnings -DQI_STATIC" ;;
    gcc-asan-ubsan) compile="gcc -O1 -g1 $warnings -Wno-format-truncation -DQI_STATIC -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -include tests/support/emulate_tiles.h" ;;
    clang-tsan) compile="clang -O1 -g1 $warnings -DQI_STATIC -fsanitize=thread" ;;
    arm64)
      compile="aarch64-linux-gnu-gcc -O2 $warnings -DQI_STATIC -DSPARSE=1 -I$QI_ARM_CMOCKA/include -L$QI_ARM_CMOCKA/lib"
      launch="qemu-aarch64 -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=$QI_ARM_CMOCKA/lib"
      ;;
  esac
  command -v "${compile%% *}" >/dev/null
}

# True when the program must be built again.
stale() {
  local program=$1 source=$2 f
  [ -e "$program" ] || return 0
  for f in "$source" qinfer.h tests/*.h tests/*/*.h tests/support/kernels.c tests/run.sh; do
    [ ! -e "$f" ] || [ ! "$f" -nt "$program" ] || return 0
  done
  return 1
}

# Result of a job: a line "passed failed skipped" in its file, and its output only when something failed.
finish() {
  local job=$1 passed=$2 failed=$3 skipped=$4 log=$5
  echo "$passed $failed $skipped" >"$QI_RESULTS/$job"
  local line="$passed passed"
  [ "$skipped" = 0 ] || line="$line, $skipped skipped"
  if [ "$failed" = 0 ]; then
    printf '%-44s %s\n' "$job" "$line"
  else
    printf '%-44s %s, %s FAILED\n%s\n' "$job" "$line" "$failed" "$(tail -n 60 "$log" | sed 's/^/    /')"
  fi
}

# Whether one of the first lines of SOURCE is "// WORDS".
says() { head -n 20 "$1" | grep -q "^// $2\$"; }

# Sum of the numbers in cmocka's lines "[  PASSED  ] 3 test(s)."
cmocka_sum() { sed -n "s/^\[  *$1  *\] \([0-9][0-9]*\) test.*/\1/p" "$2" | awk '{ n += $1 } END { print n + 0 }'; }

run_program() {
  local config=$1 source=$2 name job log program rc compile launch
  name=$(basename "$source" .c)
  job=$config.$name
  log=$out/$job.log
  program=$out/$job
  configure "$config"
  compile="$compile -DQI__KERNELS_ELSEWHERE $out/$config.kernels.o"
  if stale "$program" "$source" && ! { $compile "$source" -o "$program.$$" $libs && mv "$program.$$" "$program"; } >"$log" 2>&1; then
    finish "$job" 0 1 0 "$log"
    return
  fi
  ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
    CMOCKA_MESSAGE_OUTPUT=STDOUT timeout 600 $launch "$program" >"$log" 2>&1
  rc=$?
  local passed failed skipped
  passed=$(cmocka_sum PASSED "$log") failed=$(cmocka_sum FAILED "$log") skipped=$(cmocka_sum SKIPPED "$log")
  if [ "$failed" = 0 ] && { [ $rc != 0 ] || [ $((passed + skipped)) = 0 ]; }; then
    echo "exit code $rc, and no test reported a failure" >>"$log"
    failed=1
  fi
  finish "$job" "$passed" "$failed" "$skipped" "$log"
}

# The object of the kernels.
build_kernels() {
  local object=$out/$1.kernels.o source=tests/support/kernels.c compile launch
  configure "$1"
  ! stale "$object" "$source" || { rm -f "$object" && $compile -c "$source" -o "$object.$$" && mv "$object.$$" "$object"; }
}

run_check() {
  local job log rc passed failed
  job=$(basename "$1" .sh)${2:+.$2}
  log=$out/$job.log
  "$@" >"$log" 2>&1
  rc=$?
  passed=$(grep -c '^ok ' "$log") failed=$(grep -c '^not ok ' "$log")
  if [ "$failed" = 0 ] && { [ $rc != 0 ] || [ "$passed" = 0 ]; }; then
    echo "exit code $rc, and nothing was checked" >>"$log"
    failed=1
  fi
  finish "$job" "$passed" "$failed" "$(grep -c '^skip ' "$log")" "$log"
}

list_jobs() {
  local config source check
  if [ "${QI_TEST_ARM:-}" = 1 ]; then
    for source in tests/test_*.c; do echo "program arm64 $source"; done
    return
  fi
  echo "check tests/check_header.sh" # first: the rest would test an old header
  for check in tests/check_*.sh; do
    case $check in
      tests/check_header.sh) ;;
      tests/check_compile.sh) for cc in gcc clang; do echo "check $check $cc"; done ;;
      *) echo "check $check" ;;
    esac
  done
  for source in tests/test_*.c; do
    for config in gcc gcc-asan-ubsan; do echo "program $config $source"; done
    if says "$source" "sanitize: thread"; then echo "program clang-tsan $source"; fi
  done
}

# Jobs that can run here and whose name was asked for.
select_jobs() {
  local kind what rest word wanted missing=" "
  while read -r kind what rest; do
    wanted=$([ $# = 0 ] && echo 1)
    for word in "$@"; do case "$what $rest" in *"$word"*) wanted=1 ;; esac; done
    [ -n "$wanted" ] || continue
    if [ "$kind" = program ] && ! configure "$what"; then
      case $missing in *" $what "*) ;; *) echo "not run: $what (no ${compile%% *})" >&2 ;; esac
      missing="$missing$what "
      continue
    fi
    echo "$kind $what $rest"
  done
}

if [ "${1:-}" = --kernels ]; then
  build_kernels "$2"
  exit
fi
if [ "${1:-}" = --job ]; then # one line of list_jobs
  set -- $2
  kind=$1
  shift
  "run_$kind" "$@"
  exit 0
fi

mkdir -p $out
QI_RESULTS=$(mktemp -d) || exit 1 # not in $out: two runs may go on at once
export QI_RESULTS
trap 'rm -rf "$QI_RESULTS"' EXIT
if [ "${QI_TEST_ARM:-}" = 1 ]; then
  QI_ARM_CMOCKA=$(tools/arm_cmocka.sh) || exit 1
  export QI_ARM_CMOCKA
fi
jobs=$(list_jobs | select_jobs "$@")
{ # the slowest compiler comes first
  awk '$1 == "program" { print $2 }' <<<"$jobs"
  ! grep -q '^check .*_\(examples\|quantize\)' <<<"$jobs" || echo gcc
} | sort -ru | xargs -P "${JOBS:-2}" -I{} tests/run.sh --kernels {}
[ ! -f $out/gcc.kernels.o ] || export QI_KERNELS="-DQI__KERNELS_ELSEWHERE $PWD/$out/gcc.kernels.o" # for scripts that compile programs
xargs -P "${JOBS:-2}" -I{} tests/run.sh --job {} <<<"$jobs"

read -r passed failed skipped < <(cat "$QI_RESULTS"/* /dev/null 2>/dev/null | awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }')
echo
for r in "$QI_RESULTS"/*; do
  [ -f "$r" ] && [ "$(cut -d' ' -f2 "$r")" != 0 ] && echo "failed: $(basename "$r") (output: $out/$(basename "$r").log)"
done
[ "$skipped" = 0 ] || echo "$skipped skipped (data or tools that are not here)"
[ $((passed + failed)) != 0 ] || { echo "nothing was run"; failed=1; }
echo "qinfer: $passed passed, $failed failed"
[ "$failed" = 0 ]
