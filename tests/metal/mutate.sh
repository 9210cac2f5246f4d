#!/usr/bin/env bash
# Plants faults in the shaders and the host file, one at a time, and tells who notices: the plain build, the address and undefined
# sanitizers, or the thread sanitizer. A fault that nobody notices is "not ok": the harness, or a test, is blind there.
#
#   tests/metal/mutate.sh [NUMBER..]      after tests/metal/run.sh, whose objects it links with; some 20 s a fault
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/check.sh
. tests/metal/build.sh

mutant=$scratch/mutant
wanted=" $* "

complaints='MSL fault: [^(]*|fake Metal: .*|AddressSanitizer: [a-z-]*|ThreadSanitizer: data race|runtime error: .*|msl:.*error: .*'
complaints="$complaints|leak: .*|LeakSanitizer|\[ *FAILED *\] test_[a-z0-9_]*|error: [^F].*"

# notice VARIANT SANITIZERS: the first complaint of that build about the mutant; nothing when it passes.
notice() {
  compile_host "$mutant/qinfer_metal.m" "$mutant/host.o" "$gnu" "$2" 2>"$mutant/log" || { echo "does not compile"; return; }
  link_test "$mutant/test" "$2" $(ls $out/$1/*.o | grep -v host.o) "$mutant/host.o" 2>"$mutant/log" || { echo "does not link"; return; }
  run_test "$1" "$2" "$mutant/test" brief >"$mutant/log" 2>&1 && return
  grep -haoE "$complaints" "$mutant/log" | head -n 1 | cut -c1-100
  echo "failed"
}

# fault NUMBER NAME FILE EXPRESSION: FILE of src/metal changed by perl.
fault() {
  [ "$wanted" = "  " ] || case $wanted in *" $1 "*) ;; *) return ;; esac
  mkdir -p "$mutant/src" "$mutant/tools"
  cp -r src/metal "$mutant/src/"
  perl -0pi -e "$4" "$mutant/src/metal/$3"
  if cmp -s "src/metal/$3" "$mutant/src/metal/$3"; then
    not_ok "$1 $2: the fault could not be planted"
    return
  fi
  python3 tools/amalgamate.py --metal "$mutant/src/metal" -o "$mutant/qinfer_metal.m"
  local variant found
  for variant in plain tsan asan; do # races are found sooner than by luck
    found=$(notice $variant "$(sanitizers_of $variant)" | head -n 1)
    [ -z "$found" ] || { ok "$1 $2: $variant: $found"; return; }
  done
  not_ok "$1 $2: nobody noticed"
}

k=kernels.metal
fault 1 "norm: no barrier after the parts" $k 's/part\[sg\] = sum;\n  threadgroup_barrier\(mem_flags::mem_threadgroup\);/part[sg] = sum;/'
fault 2 "norm: barrier of no memory" $k 's/part\[sg\] = sum;\n  threadgroup_barrier\(mem_flags::mem_threadgroup\)/part[sg] = sum;\n  threadgroup_barrier(mem_flags::mem_none)/'
fault 3 "matmul: no barrier before tiles are written again" $k 's/m, q\);\n    threadgroup_barrier\(mem_flags::mem_threadgroup\);/m, q);/'
fault 4 "matmul: no barrier after tiles are written" $k 's/threadgroup_barrier\(mem_flags::mem_threadgroup\);\n    for \(short kk/for (short kk/'
fault 5 "matmul: no barrier before results lie over tiles" $k 's/threadgroup_barrier\(mem_flags::mem_threadgroup\);\n  UNROLL for \(short i = 0; i < 8; i\+\+\)\n/UNROLL for (short i = 0; i < 8; i++)\n/'
fault 6 "matmul: no barrier before results are read" $k 's/threadgroup_barrier\(mem_flags::mem_threadgroup\);\n  for \(uint i = t;/for (uint i = t;/'
fault 7 "norm: reads past the end" $k 's/k < a.width; k \+= n_t\) sum/k <= a.width; k += n_t) sum/'
fault 8 "norm: too few parts" $k 's/threadgroup float part\[32\]/threadgroup float part[4]/'
fault 9 "norm: barrier in divergent flow" $k 's/part\[sg\] = sum;\n  threadgroup/part[sg] = sum;\n  if (sg == 0) threadgroup/'
fault 10 "norm: reads parts that were not written" $k 's/lane < n_sg \? part\[lane\] : 0.0f/part[lane]/'
fault 11 "device memory as threadgroup memory" $k 's/threadgroup float \*ws = shared/threadgroup float *ws = y/'
fault 12 "pointer without address space" $k 's/uint p, device const float \*q, thread/uint p, const float *q, thread/'
fault 13 "double" $k 's/float part = dot/double part = dot/'
fault 14 "buffer index used twice" $k 's/device float \*y \[\[buffer\(3\)\]\],\n                  uint2/device float *y [[buffer(2)]],\n                  uint2/'
fault 15 "positions of different sizes" $k 's/uint2 at \[\[thread_position_in_grid\]\]\)/uint2 at [[thread_position_in_grid]], uint z [[threadgroup_position_in_grid]])/'
fault 16 "norm: threadgroups write the same row" $k 's/y\[ulong\(i\) \* a.width/y[ulong(i & ~1u) * a.width/'
fault 17 "attention: simd_sum in divergent flow" $k 's/total\[r\] = total\[r\] \* keep \+ simd_sum/if (seen) total[r] = total[r] * keep + simd_sum/'
fault 18 "attention: shuffle from a lane that is not there" $k 's/one\[r\] = simd_shuffle\(weight\[r\], ushort\(j\)\);/{ one[r] = 0.0f; if (lane < 16) one[r] = simd_shuffle(weight[r], ushort(j)); }/'
fault 19 "attention: no barrier before simdgroups are joined" $k 's/threadgroup_barrier\(mem_flags::mem_threadgroup\);\n  for \(uint e = t/for (uint e = t/'
fault 20 "rope: keys stored before all lanes have rotated" $k 's/    simdgroup_barrier\(mem_flags::mem_device\);\n//'
fault 21 "matvec: rows past the end are read" $k 's/min\(first \+ r % \(ROWS \/ M\), m.n_rows - 1\)/first + r % (ROWS \/ M)/'
fault 22 "matvec: rows past the end are written" $k 's/ \|\| first \+ r >= m.n_rows/ /'
fault 23 "embed: columns past the end are written" $k 's/i < left; i\+\+\) to/i < 16; i++) to/'
fault 24 "attention: the window is not looked at" $k 's/begin < first \? first - begin : 0/0/'
fault 25 "Q4_K: the other nibble" $k 's/\(i \/ 2 % 2 \* 4\) & 0x0f0f0f0fu, q\);\n    return scales/((i \/ 2 + 1) % 2 * 4) & 0x0f0f0f0fu, q);\n    return scales/'
fault 26 "attention: a page of another head" $k 's/seq, begin, kv_head\)/seq, begin, 0)/'
h=backend.m
fault 27 "host: a buffer at the wrong index" $h 's/op->of.gate.up, 2/op->of.gate.up, 3/'
fault 28 "host: no endEncoding" $h 's/    \[encoder endEncoding\];\n//'
fault 29 "host: a function is leaked" $h 's/      QI__RELEASE\(function\);\n//'
fault 30 "host: the library is released twice" $h 's/  QI__RELEASE\(d->library\);/  [d->library release]; QI__RELEASE(d->library);/'
fault 31 "host: no wait" $h 's/    \[q->pending waitUntilCompleted\];\n    if \(q->pending.status != MTLCommandBufferStatusCompleted\)/    if (q->pending.status == MTLCommandBufferStatusError)/'
fault 32 "host: arguments too short" $h 's/setBytes:&m length:sizeof m/setBytes:&m length:8/g'
fault 33 "host: no length of threadgroup memory" $h 's/  \[e->encoder setThreadgroupMemoryLength:\(floats[^;]*;/  (void)floats;/'
fault 34 "host: no barrier between operations" $h 's/\[encoder memoryBarrierWithScope:MTLBarrierScopeBuffers\]/(void)0/'
fault 35 "host: a kernel that is not there" $h 's/"matvec4_%s"/"matvec_4_%s"/'
fault 36 "host: no pool around a submission" $h 's/false\};\n  \@autoreleasepool \{/false};\n  {/'
fault 37 "host: a queue is leaked" $h 's/  QI__RELEASE\(q->queue\);\n//'
fault 38 "host: weights mapped without whole pages" $h 's/data \/ page \* page/data/'
fault 39 "host: a failed command buffer passes" $h 's/if \(q->pending.status != MTLCommandBufferStatusCompleted\)/if (0)/'
fault 40 "host: a weight is bound without its rest" $h 's/    m.skip = /    /; s/  m.skip = qi__mtl_bind/  qi__mtl_bind/g'
b='threadgroup_barrier\(mem_flags::mem_threadgroup\);\n'
fault 41 "top: no barrier after the parts" $k 's/(part\[c % 2\]\[sg\] = best;\n)    '"$b"'/$1/'
fault 42 "top: parts are written again too soon" $k 's/\[c % 2\]/[0]/g'
fault 43 "top: of equals a later one" $k 's/rank > best.x/rank >= best.x/'
fault 44 "top: NaN goes first" $k 's/  if \(\(u & 0x7fffffffu\) > 0x7f800000u\)[^;]*;\n//'
fault 45 "top: -0 behind 0" $k 's/  if \(u == 0x80000000u\) u = 0;\n//'
fault 46 "top: a lane knows what its neighbour had" $k 's/lane == owner % 32/lane == (owner ^ 1) % 32/'
fault 47 "tiles: values over keys that are still read" $k 's/'"$b"'(      stage<KV, N, false>)/$1/'
fault 48 "tiles: keys are read before they are there" $k 's/(stage<KV, N, true>[^;]*;\n      )'"$b"'/$1\n/'
fault 49 "tiles: keys over values that are still read" $k 's/'"$b"'(      stage<KV, N, true>)/$1/'
fault 50 "tiles: scores are read before they are there" $k 's/(weights \+ 8 \* h, TILE_P\);\n)  simdgroup_barrier\(mem_flags::mem_threadgroup\);/$1/'
fault 51 "tiles: sums do not shrink" $k 's/bool shrinks = [^;]*;/bool shrinks = false;/'
fault 52 "tiles: sums shrink before they are in memory" $k 's/(simdgroup_store\(sum\[j\], matrix, 8\);\n)      simdgroup_barrier\(mem_flags::mem_threadgroup\);\n/$1/'
fault 53 "tiles: an infinite value of another sequence" $k 's/    UNROLL for \(short k = 0; k < 4 && !KEYS; k\+\+\)[^;]*;\n//'
fault 54 "tiles: rows see what is behind them" $k 's/p \+ i >= s.first && p \+ i <= s.last \? exp/p + i >= s.first ? exp/'
fault 55 "tiles: rows of another sequence" $k 's/own < n && row >= r && row < next/own < n/'
fault 56 "tiles: only the first row says where to begin" $k 's/      begin = min\(begin, rows\[next\].first\);\n//'
fault 57 "tiles: only the first row says where to end" $k 's/      end = max\(end, rows\[next\].pos\);\n//'
fault 58 "tiles: a share of the weights is lost" $k 's/total \+= simd_shuffle_xor\(total, 2\);/total += total;/'
fault 59 "tiles: queries that are not there are written" $k 's/own < n && e < kv.dim_v/e < kv.dim_v/'
fault 60 "gated: the place of the other matrix" $k 's/row_at\(other, other_m, row\)/row_at(other, m, row)/'
fault 61 "gated: one bias for both" $k 's/u \+= up_bias/u += gate_bias/'
fault 62 "host: gate as up" $h 's/up->data, NULL, 16, 5/gate->data, NULL, 16, 5/'
fault 63 "host: the last queries have no threadgroup" $h 's/ \+ 31\) \/ 32, threads\)/) \/ 32, threads)/'
fault 64 "host: too little threadgroup memory for tiles" $h 's/8 \* 16 \+ 64/8 * 16/'
done_checking
