#!/usr/bin/env bash
# Brings what is missing: tools/deps.sh demo|test|test-arm|metal
# Looks by compiling small programs; installs with apt-get as root or with sudo that asks no password, else prints the command.
set -u
want=${1:-test}
missing=()
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

# need PACKAGES COMPILER TEXT [FLAGS...]: PACKAGES are missing unless TEXT compiles and links.
need() {
  local packages=$1 compiler=$2
  printf '%b\n' "$3" >"$dir/probe.c"
  shift 3
  "$compiler" "$dir/probe.c" -o "$dir/probe" "$@" >/dev/null 2>&1 || missing+=($packages)
}

main='int main(void) { return 0; }'
stb='#include <stb/stb_ds.h>\n'
cmocka='#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n#include <cmocka.h>\n'

case $want in
  demo)
    need "gcc libc6-dev" "${CC:-cc}" "$main"
    # A stb_ds.h beside qinfer.h or in the path of the compiler serves as well.
    need libstb-dev "${CC:-cc}" "#if __has_include(\"stb_ds.h\")\n#include \"stb_ds.h\"\n#else\n$stb#endif\n$main" -I.
    ;;
  test)
    need "gcc libc6-dev" gcc "$main"
    need clang clang "$main"
    need libclang-rt-dev clang "$main" -fsanitize=address,undefined
    need libstb-dev gcc "$stb$main"
    need libcmocka-dev gcc "$cmocka$main" -lcmocka
    command -v g++ >/dev/null || missing+=(g++)
    command -v nm >/dev/null || missing+=(binutils)
    command -v python3 >/dev/null || missing+=(python3)
    ;;
  test-arm)
    need "gcc-aarch64-linux-gnu libc6-dev-arm64-cross" aarch64-linux-gnu-gcc "$main"
    need libstb-dev aarch64-linux-gnu-gcc "$stb$main" -idirafter /usr/include
    command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
    ;;
  metal)
    command -v clang++-19 >/dev/null || missing+=(clang-19 libclang-rt-19-dev)
    command -v llvm-symbolizer-19 >/dev/null || missing+=(llvm-19)
    need libcmocka-dev gcc "$cmocka$main" -lcmocka
    need libstb-dev gcc "$stb$main"
    need libblocksruntime-dev gcc "$main" -lBlocksRuntime
    [ -n "$(ls /usr/lib/gcc/*/*/libobjc.so 2>/dev/null)" ] || missing+=("libobjc-$(gcc -dumpversion)-dev")
    ;;
  *)
    echo "deps: say demo, test, test-arm or metal" >&2
    exit 2
    ;;
esac

[ ${#missing[@]} -eq 0 ] && exit 0
install="apt-get install -y --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null; then
  echo "deps: missing, and this system has no apt-get: please install what Debian calls ${missing[*]}" >&2
  exit 1
fi
if [ "$(id -u)" = 0 ]; then
  sudo=""
elif sudo -n true 2>/dev/null; then
  sudo="sudo -n"
else
  echo "deps: missing: ${missing[*]}. Please run: sudo $install" >&2
  exit 1
fi
echo "deps: $sudo $install" >&2
export DEBIAN_FRONTEND=noninteractive
# The list of packages may be absent or old: then a second try after an update.
$sudo $install >"$dir/log" 2>&1 || { $sudo apt-get update >"$dir/log" 2>&1 && $sudo $install >"$dir/log" 2>&1; } || {
  tail -n 20 "$dir/log" >&2
  echo "deps: installing ${missing[*]} failed" >&2
  exit 1
}
