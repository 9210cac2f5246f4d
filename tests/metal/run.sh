#!/usr/bin/env bash
# qinfer_metal.m as on a Mac, executed here: `make test-metal`. Prints "ok NAME", "not ok NAME" or "skip NAME" a line.
#
#   tests/metal/run.sh [NAME..]     all, or those of: mac plain arc asan tsan
#
# The host file is compiled against stubs/ and runs on fake/, which compiles its shaders with msl/ and executes them on the CPU.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/check.sh
. tests/metal/build.sh

missing=$(have_tools) || { skip "Metal: $missing (tools/deps.sh metal)"; exit 0; }
mkdir -p $out

# check NAME LANGUAGE [quick]
check() {
  local name=$1 sanitizers
  sanitizers=$(sanitizers_of "$name")
  build_test "$name" "$sanitizers" "$2" >$out/$name.log 2>&1 || { not_ok "metal $name: compiles"; tail -n 30 $out/$name.log; return; }
  if run_test "$name" "$sanitizers" $out/$name/test ${3:-} >$out/$name.log 2>&1; then
    ok "metal $name: $(grep -c '^\[ *OK' $out/$name.log) tests"
  else
    not_ok "metal $name (output: $out/$name.log)"
    grep -aE 'ERROR|FAILED|MSL fault|fake Metal|WARNING|runtime error|leak' $out/$name.log | head -n 20
  fi
}

# Object code as for a Mac, with warnings of what macOS 12 lacks and of what 15 would rather not have.
check_mac() {
  local version mode
  for version in 12 15; do
    for mode in -fobjc-arc -fno-objc-arc; do
      expect "metal mac: compiles for arm64-apple-macos$version $mode" clang-19 -target arm64-apple-macos$version -O2 $mode \
        $warnings -ffreestanding -nostdlibinc -isystem $here/stubs -isystem $here/stubs/darwin -I. -c qinfer_metal.m -o $out/mac.o
    done
  done
}

for name in ${*:-mac plain arc asan tsan}; do
  case $name in
    mac) check_mac ;;
    plain)
      check plain "$gnu"
      expect "metal selftest: compiles" build_selftest
      expect "metal selftest: all kernels agree" run_test plain "" $out/selftest --no-speed
      ;;
    arc) check arc "$arc" quick ;;
    asan | tsan) check $name "$gnu" quick ;;
    *) not_ok "there is no test '$name'" ;;
  esac
done
done_checking
