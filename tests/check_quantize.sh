#!/usr/bin/env bash
# The tools around quantisation: quantize, imatrix, perplexity.
cd "$(dirname "$0")/.." || exit 1
. tests/check.sh

top=$PWD
stories=$top/../shared/models/stories260K.gguf
cc=${CC:-cc}
for source in examples/{quantize,imatrix,perplexity,inspect}.c tests/support/write_model.c; do
  "$cc" -O2 -std=c11 -DQI_STATIC -Wall -Wextra -Wsign-conversion -Wshadow -Werror "$source" ${QI_KERNELS:-} \
    -o "$scratch/$(basename "$source" .c)" -lcmocka -lm -lpthread 2>"$scratch/$(basename "$source" .c).log" &
  [ $(($(jobs -pr | wc -l))) -lt 2 ] || wait -n
done
wait
for program in quantize imatrix perplexity inspect write_model; do
  expect "$program compiles" test -x "$scratch/$program"
  head -n 20 "$scratch/$program.log"
done
[ $n_failed = 0 ] || exit 1
cd "$scratch" || exit 1

# exits CODE COMMAND...: with that code and, unless it is 0, one line on standard error and none on standard output.
exits() {
  local code=$1 rc
  shift
  "$@" >out 2>err
  rc=$?
  if [ $rc = "$code" ] && { [ "$code" = 0 ] || { [ "$(wc -l <err)" = 1 ] && [ ! -s out ]; }; }; then
    ok "exit code $code: ${*#./}"
  else
    not_ok "exit code $code: ${*#./} (was $rc)"
    head -n 5 out err | sed 's/^/  /'
  fi
}
same() { # NAME EXPECTED ACTUAL
  if [ "$2" = "$3" ]; then ok "$1"; else
    not_ok "$1"
    printf '  expected: %s\n  found:    %s\n' "$2" "$3" | cut -c1-400
  fi
}
# below NAME A B: a number below another.
below() { if awk -v a="$2" -v b="$3" 'BEGIN { exit !(a < b && a != "" && b != "") }'; then ok "$1"; else not_ok "$1: $2 is not below $3"; fi; }
# value WORDS FILE: the number that follows these words in a line of perplexity's output.
value() { sed -n "s/^$1  *\\([-0-9.]*\\).*/\\1/p" "$2"; }
# formats FILE: "name format" of each tensor but norms.
formats() { ./inspect "$1" | awk '/^  [a-z_]*[a-z0-9._]*weight / && !/norm/ { print $1, $2 }'; }

# ---- options ----

for program in quantize imatrix perplexity; do
  exits 0 ./$program --help
  exits 2 ./$program
  exits 2 ./$program --no-such-option
done
for wrong in "in out" "in out Q9_Z" "in out IQ2_XS" "in out F32 more" "-t 257 in out F32" "-t x in out F32" "in out F32 -t" \
  "--output-tensor-type Z in out F32" "--token-embedding-type IQ1_S in out F32"; do
  exits 2 ./quantize $wrong
done
exits 2 ./imatrix -m x -f y
exits 2 ./imatrix -m x -f y -o z -c 0
exits 2 ./imatrix -m x -f y -o z --path quick
for wrong in "-m x" "-m x -f y --kl z" "-m x -f y -c 1" "-m x -f y --stride 512" "-m x -f y --stride 8 --save-logits z" "-m x --kl y --save-logits z" \
  "-m x -f y --isa z80" "-m x -f y --chunks -1"; do
  exits 2 ./perplexity $wrong
done
exits 1 ./quantize absent.gguf o.gguf Q8_0
exits 1 ./imatrix -m absent.gguf -f y -o z
exits 1 ./perplexity -m absent.gguf -f y

# ---- quantize ----

./write_model model w.gguf 8 256 256 8 2 && ./write_model model tied.gguf 2 256 256 4 4 tied && ./write_model model odd.gguf 2 64 100 4 4 || exit 1

exits 0 ./quantize w.gguf f32.gguf F32
exits 0 ./quantize f32.gguf again.gguf F32
expect "F32 of F32: the same file" cmp f32.gguf again.gguf
same "F32: tensors as they were" "$(formats w.gguf)" "$(formats f32.gguf)"
same "F32: metadata as it was, and what every quantised file has" "$(./inspect w.gguf | grep -E '^  (general|llama|tokenizer)' | sort)" \
  "$(./inspect f32.gguf | grep -E '^  (general|llama|tokenizer)' | grep -vE 'file_type|quantization_version' | sort)"
for type in F16 BF16; do
  ./quantize f32.gguf a.gguf $type >/dev/null && ./quantize a.gguf b.gguf F32 >/dev/null && ./quantize b.gguf c.gguf $type >/dev/null
  expect "$type there and back loses nothing more" cmp a.gguf c.gguf
done

# mix TYPE REGEX FORMAT ...: each tensor has the format of the first expression that matches its name.
mix() {
  local type=$1 wrong
  shift
  ./quantize w.gguf mix.gguf "$type" >out 2>err || not_ok "$type is written"
  wrong=$(formats mix.gguf | while read -r name format; do
    set -- "$@"
    for ((i = 1; i < $#; i += 2)); do
      if [[ $name =~ ${!i} ]]; then
        j=$((i + 1))
        [ "$format" = "${!j}" ] || echo "$name $format, expected ${!j}"
        break
      fi
    done
  done)
  same "$type: which tensors get more" "" "$wrong"
}
more='blk\.[0367]\.(attn_v|ffn_down)' # first and last eighth of eight layers, every third between
mix Q2_K '^output' Q6_K attn_v Q4_K 'ffn_down|attn_output' Q3_K . Q2_K
mix Q3_K_S '^output' Q6_K . Q3_K
mix Q3_K_M '^output' Q6_K 'blk\.[01]\.attn_v' Q5_K 'attn_v|ffn_down|attn_output' Q4_K . Q3_K
mix q3_k_l '^output' Q6_K 'attn_v|ffn_down|attn_output' Q5_K . Q3_K
mix Q4_K_S '^output' Q6_K 'blk\.[0-3]\.attn_v|blk.0.ffn_down' Q5_K . Q4_K
mix Q4_K_M '^output' Q6_K $more Q6_K . Q4_K
mix Q5_K_M '^output' Q6_K $more Q6_K . Q5_K
mix Q6_K . Q6_K
mix Q8_0 . Q8_0
mix Q4_0 '^output' Q6_K . Q4_0
mix IQ4_XS '^output' Q6_K 'attn_v|blk\.0\.ffn_down' Q5_K . IQ4_XS
mix TQ2_0 '^output' Q6_K token_embd Q4_K . TQ2_0
mix I2_S '^output' Q6_K token_embd Q4_K . I2_S
cp mix.gguf i2_s.gguf
mix QINS8 . QINS8
mix QINS8_K . QINS8_K
mix QINS4_K '^output' Q6_K . QINS4_K
same "a ternary file says what it is" 1 "$(./inspect i2_s.gguf | grep -c 'general.file_type u32 = 40$')"
./quantize --pure w.gguf pure.gguf Q4_K_M >/dev/null
same "--pure: one format" "Q4_K" "$(formats pure.gguf | cut -d' ' -f2 | sort -u)"
./quantize --output-tensor-type q8_0 --token-embedding-type F16 w.gguf own.gguf Q4_K_S >/dev/null
same "formats of output and embedding by option" "output.weight Q8_0 token_embd.weight F16" "$(formats own.gguf | grep -E '^(output|token)' | sort | xargs)"
./quantize tied.gguf t.gguf Q4_K_M >/dev/null
same "a tied embedding is an output" "token_embd.weight Q6_K" "$(formats t.gguf | grep '^token')"
./quantize odd.gguf o.gguf Q4_K_M >out 2>err
same "rows of no whole blocks: 64" "blk.0.attn_q.weight Q5_0" "$(formats o.gguf | grep 'blk.0.attn_q')"
same "rows of no whole blocks: 100" "blk.1.ffn_down.weight F16" "$(formats o.gguf | grep 'blk.1.ffn_down')"
same "and it is said" 1 "$(grep -c 'rows of 100 are no whole blocks of Q4_K (256): F16' err)"

./quantize -v w.gguf q4.gguf Q4_0 >q4.txt 2>err && ./quantize w.gguf q8.gguf Q8_0 >q8.txt
same "no progress bar when standard error is no terminal" "" "$(cat err)"
same "--verbose: a line for each tensor" 75 "$(grep -c ' -> ' q4.txt)"
same "summary: size" 1 "$(grep -c '^q8.gguf: .* 8.5[0-9]* bits a weight$' q8.txt)"
below "summary: Q8_0 is nearer than Q4_0" "$(sed -n 's/^error: RMS \([0-9.]*\),.*/\1/p' q8.txt)" "$(sed -n 's/^error: RMS \([0-9.]*\),.*/\1/p' q4.txt)"
same "summary: the worst tensor" 1 "$(grep -c '; worst .*weight (Q8_0): 0.3[0-9]* %$' q8.txt)"
./quantize -t 1 w.gguf one.gguf Q4_0 >/dev/null && ./quantize -t 5 w.gguf five.gguf Q4_0 >/dev/null
expect "threads change nothing" cmp one.gguf five.gguf
./quantize q8.gguf again.gguf Q4_0 >out 2>err
same "quantising twice is said" 1 "$(grep -c 'are quantised already' err)"

# ---- what fails leaves nothing ----

head -c 100000 w.gguf >cut.gguf
printf '\1\0\0\0' >damaged.dat
exits 1 ./quantize cut.gguf x.gguf Q8_0
exits 1 ./quantize w.gguf no-such-folder/x.gguf Q8_0
exits 1 ./quantize --imatrix damaged.dat w.gguf x.gguf Q8_0
exits 1 ./quantize --imatrix w.gguf w.gguf x.gguf Q8_0
if [ -e /dev/full ]; then
  ln -s /dev/full full.gguf.part
  exits 1 ./quantize w.gguf full.gguf Q8_0
  same "a full disk: nothing is left" "" "$(ls full.gguf* 2>/dev/null)"
fi
echo old >kept.gguf
for signal in INT TERM; do
  set -m # children of a script without job control ignore SIGINT
  ./quantize -t 1 w.gguf kept.gguf Q2_K >out 2>err &
  pid=$!
  set +m
  for ((i = 0; i < 1000; i++)); do [ -e kept.gguf.part ] && break || sleep 0.01; done
  kill -s $signal $pid
  wait $pid
  same "interrupted by SIG$signal: exit code, message, old file, no other" "1 quantize: interrupted old kept.gguf" \
    "$? $(cat err) $(cat kept.gguf) $(ls kept.gguf*)"
done
same "nothing is left of what failed" "" "$(ls x.gguf* *.part 2>/dev/null)"

# ---- imatrix ----

text() { for i in $(seq "$1"); do echo "the rain ran over $i hills, and then $((i * 7 % 13)) more; nothing stood."; done; }
text 12 >text.txt
exits 0 ./imatrix -m w.gguf -f text.txt -o a.dat -c 64
same "imatrix: seven tensors of each layer" "importance of 56 tensors" "$(grep -o 'importance of [0-9]* tensors' out)"
same "imatrix: their number comes first in the file" 56 "$(od -An -tu4 -N4 a.dat | xargs)"
exits 0 ./imatrix -m w.gguf -f text.txt -o b.dat -c 64 -t 1 -b 7 --path float
exits 0 ./imatrix -m w.gguf -f text.txt -o c.dat -c 64 -t 3 -b 50 --path float
expect "imatrix: threads and batches change nothing" cmp b.dat c.dat
exits 0 ./imatrix -m w.gguf -f text.txt -o out.dat -c 64 --chunks 2 --process-output
same "imatrix: the output on demand" "57 tensors from 2 windows" "$(grep -o '[0-9]* tensors from [0-9]* windows' out)"
exits 1 ./imatrix -m w.gguf -f absent.txt -o x.dat
: >empty.txt
exits 1 ./imatrix -m w.gguf -f empty.txt -o x.dat
same "imatrix: a failure leaves nothing" "" "$(ls x.dat* 2>/dev/null)"

./quantize --imatrix a.dat w.gguf im.gguf Q4_0 >im.txt 2>err
same "with importance the first ffn_down takes Q4_1" "blk.0.ffn_down.weight Q4_1" "$(formats im.gguf | grep 'blk.0.ffn_down')"
same "what has no importance is said" 1 "$(grep -c 'a.dat has nothing for 2 tensors' err)"
same "summary: the weighted error" 1 "$(grep -c '^error weighted by importance: .* %$' im.txt)"
same "the file names its importance" 4 "$(./inspect im.gguf | grep -c quantize.imatrix)"
./write_model imatrix a.dat a.gguf
./quantize --imatrix a.gguf w.gguf im2.gguf Q4_0 >im2.txt 2>/dev/null
rounded() { grep ^error "$1" | sed -E 's/([0-9]\.[0-9]{2})[0-9]*/\1/g'; } # the formats round sums in different places
same "the newer format of importance gives the same" "$(rounded im.txt)" "$(rounded im2.txt)"
head -c 500 a.dat >cut.dat
exits 1 ./quantize --imatrix cut.dat w.gguf x.gguf Q4_0
exits 1 ./quantize --imatrix a.dat odd.gguf x.gguf Q4_0

# ---- perplexity ----

exits 0 ./perplexity -m w.gguf -f text.txt -c 64 --path float --save-logits base.bin
cp out base.txt
exits 0 ./perplexity -m w.gguf -f text.txt -c 64 --path float -t 1 -b 7
same "perplexity: threads and batches change nothing" "$(cat base.txt)" "$(cat out)"
exits 0 ./perplexity -m w.gguf --path float --kl base.bin
cp out self.txt
same "a model against itself: the same perplexity" "$(value PPL base.txt)" "$(value PPL self.txt)"
below "a model against itself: no divergence" "$(value 'KL divergence, most' self.txt)" 0.0001
same "a model against itself: the same likeliest token" 100.0000 "$(value 'same likeliest token' self.txt)"
# A Hugging Face llama has the pairs of RoPE half a head apart; what is written has them as GGUF's llama.
mkdir hf && ./write_model folder w.gguf hf && exits 0 ./quantize hf back.gguf F32
./perplexity -m back.gguf --kl base.bin --path float >kl0.txt
below "from a folder: the same model" "$(value 'KL divergence, mean' kl0.txt)" 0.000001
same "from a folder: rows in GGUF's order" "" "$(./inspect back.gguf | grep rope_halves)"
./perplexity -m q8.gguf --kl base.bin --path float >kl8.txt
./perplexity -m q4.gguf --kl base.bin --path float >kl4.txt
below "Q8_0 diverges more than nothing" 0.000001 "$(value 'KL divergence, mean' kl8.txt)"
below "Q4_0 diverges more than Q8_0" "$(value 'KL divergence, mean' kl8.txt)" "$(value 'KL divergence, mean' kl4.txt)"
below "median below 99 %" "$(value 'KL divergence, median' kl4.txt)" "$(value 'KL divergence, 99 %' kl4.txt)"
# Parameters behind the rows of a tensor: quantize reads them as the model does.
for type in I2_S QINS8; do
  ./quantize --pure w.gguf a.gguf $type >/dev/null && ./quantize a.gguf b.gguf F32 >/dev/null 2>&1
  same "F32 of $type: the same model" "$(./perplexity -m a.gguf -f text.txt -c 64 --path float)" "$(./perplexity -m b.gguf -f text.txt -c 64 --path float)"
done
exits 0 ./perplexity -m w.gguf -f text.txt -c 64 --stride 16 --chunks 3
same "strides: the last tokens of each window" "3 windows of 64 tokens, 48 scored" "$(value_line=$(grep ^text out) && echo "${value_line#text }" | xargs)"
exits 1 ./perplexity -m w.gguf -f text.txt -c 4096
head -c 5000 base.bin >cut.bin
exits 1 ./perplexity -m w.gguf --kl cut.bin
exits 1 ./perplexity -m w.gguf --kl text.txt
exits 1 ./perplexity -m w.gguf -f text.txt -c 64 --save-logits no-such-folder/x.bin
exits 1 ./perplexity -m w.gguf -f absent.txt

if [ ! -f "$stories" ]; then
  skip "a real model (no ../shared/models)"
  done_checking
  exit
fi
exits 1 ./perplexity -m "$stories" --kl base.bin
cat >story.txt <<'END'
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, "I want to play with your ball,"
END
./perplexity -m "$stories" -f story.txt -c 32 --path float >story.out 2>err
same "stories260K: perplexity as llama.cpp computes it" "2.145" "$(printf %.3f "$(value PPL story.out)")"
for type in F16 BF16 Q8_0 Q4_0 Q4_K_M; do
  ./quantize "$stories" s.gguf $type >/dev/null 2>&1
  ./perplexity -m s.gguf -f story.txt -c 32 >s.out 2>err
  below "stories260K as $type: nearly the same perplexity" "$(value PPL s.out)" 2.3
done
done_checking
