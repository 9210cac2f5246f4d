# Sourced by run.sh and mutate.sh: how the test program is built and run.
here=tests/metal
out=build/metal
libobjc=$(dirname "$(ls /usr/lib/gcc/*/*/libobjc.so 2>/dev/null | tail -n 1)")
warnings="-Wall -Wextra -Wshadow -Werror"
includes="-I$here/stubs -I$here/fake -I$here/msl -I$here -I."
gnu="-fobjc-runtime=gcc -fconstant-string-class=NSConstantString -fblocks"
arc="-fobjc-runtime=objfw -fconstant-string-class=NSConstantString -fblocks -fobjc-arc"
# The fake implements parts of protocols, and knows objects of gcc's runtime from inside.
fake_warnings="-Wno-objc-missing-super-calls -Wno-nullability -Wno-deprecated-objc-isa-usage -Wno-incompatible-pointer-types"
fake_warnings="$fake_warnings -Wno-objc-property-implementation -Wno-missing-field-initializers"

sanitizers_of() {
  case $1 in
    asan) echo "-fsanitize=address,undefined -fno-sanitize-recover=undefined" ;;
    tsan) echo "-fsanitize=thread" ;;
  esac
}

# Whether all tools are there; prints what is missing.
have_tools() {
  local tool
  for tool in clang-19 clang++-19 llvm-symbolizer-19; do
    command -v $tool >/dev/null || { echo "no $tool"; return 1; }
  done
  [ -n "$libobjc" ] && echo 'int main(void) { return 0; }' |
    clang-19 -x c - -o /dev/null -L"$libobjc" -lobjc -lBlocksRuntime -lcmocka 2>/dev/null && return
  echo "no libobjc, libblocksruntime or libcmocka"
  return 1
}

# compile_host SOURCE OBJECT LANGUAGE SANITIZERS
compile_host() { clang-19 -O1 -g $3 $includes $warnings $4 -c "$1" -o "$2"; }

# link_test PROGRAM SANITIZERS OBJECTS..
link_test() {
  local program=$1 sanitizers=$2
  shift 2
  clang-19 -rdynamic $sanitizers "$@" -o "$program" -Wl,--wrap=__objc_exec_class,--wrap=getpagesize -L"$libobjc" -lobjc \
    -lBlocksRuntime -lcmocka -lpthread -ldl -lm
}

# build_test NAME SANITIZERS LANGUAGE: all objects, and the program $out/NAME/test
build_test() {
  local o=$out/$1 sanitizers=$2 f
  mkdir -p "$o"
  for f in exec translate compile; do # never instrumented: the executor talks to the sanitizers itself
    gcc -O1 -g $warnings -DMSL_DIR="\"$PWD/$here/msl\"" -c $here/msl/msl_$f.c -o "$o/msl_$f.o" || return
  done
  for f in foundation metal; do
    clang-19 -O1 -g $gnu $includes $warnings $fake_warnings $sanitizers -c $here/fake/fake_$f.m -o "$o/fake_$f.o" || return
  done
  compile_host qinfer_metal.m "$o/host.o" "$3" "$sanitizers" || return
  clang-19 -O1 -g -std=c11 $includes $warnings -Wsign-conversion $sanitizers -DQI_STATIC -DQI_NO_SIMD -c $here/test_metal.c \
    -o "$o/test.o" || return
  link_test "$o/test" "$sanitizers" "$o"/*.o
}

# The self-test for Macs, on the objects of the plain build; fake_reset runs before its main.
build_selftest() {
  local o=$out/plain
  clang-19 -O1 -std=c11 $includes $warnings -Wsign-conversion -DQI_STATIC -DQI_NO_SIMD -c $here/selftest.c -o $out/selftest.o &&
    link_test $out/selftest "" $out/selftest.o $(ls $o/*.o | grep -v '/test\.o')
}

# run_test NAME SANITIZERS PROGRAM ARGUMENTS..
run_test() {
  local name=$1 sanitizers=$2 symbolizer threads=
  shift 2
  symbolizer=$(command -v llvm-symbolizer-19)
  [ "$name" != tsan ] || threads=224
  mkdir -p $out/cache
  MSL_CACHE=$PWD/$out/cache MSL_CXXFLAGS=$sanitizers MSL_NODLCLOSE=1 FAKE_MAX_THREADS=$threads CMOCKA_MESSAGE_OUTPUT=STDOUT \
    LSAN_OPTIONS=suppressions=$here/lsan.supp:print_suppressions=0 ASAN_SYMBOLIZER_PATH=$symbolizer \
    TSAN_OPTIONS="halt_on_error=1 exitcode=66 external_symbolizer_path=$symbolizer" timeout 1200 "$@"
}
