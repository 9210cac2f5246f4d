#!/usr/bin/env bash
# The example programs: they compile without warnings, refuse wrong options in one line, and do what they say.
cd "$(dirname "$0")/.." || exit 1
. tests/check.sh

model=../shared/models/stories260K.gguf
expected="Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. She \
wanted to play with it, but it was too high.
Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She said, \"I want to play with your ball,"

cc=${CC:-cc}
for source in examples/*.c; do
  name=$(basename "$source" .c)
  expect "$name compiles" "$cc" -O1 -std=c11 -DQI_STATIC -Wall -Wextra -Wsign-conversion -Wshadow -Werror "$source" -o "$scratch/$name" -lm -lpthread
done
[ $n_failed = 0 ] || exit 1
cd "$scratch" || exit 1
top=$OLDPWD
model=$top/$model

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

printf '1 2 3\n' >ids.txt
printf '1 2x\n' >bad_ids.txt
printf '' >empty.txt
exits 2 ./hello
for program in generate tokenize logits inspect; do
  exits 0 ./$program --help
  exits 2 ./$program
  exits 2 ./$program --no-such-option
  exits 2 ./$program -m
done
exits 2 ./generate -m x.gguf
exits 2 ./generate -m x.gguf -p a -f b
for wrong in "-n 1x" "-n -2" "-n 99999999999" "-t 257" "-t -1" "-c 1.5" "--temp -1" "--temp nan" "--top-p 1.1" "--min-p x" "--seed -1" \
  "--seed 18446744073709551616" "--isa z80" "--path quick" "--top-k"; do
  exits 2 ./generate -m x.gguf -p a $wrong
done
exits 2 ./generate -m x.gguf -p a -n ""
exits 2 ./generate -m x.gguf -p a -n " 1"
exits 2 ./tokenize -m x.gguf
exits 2 ./logits -m x.gguf --ids ids.txt
exits 2 ./logits -m x.gguf --ids ids.txt -o out.f32 -t 1x
exits 1 ./hello absent.gguf a
exits 1 ./generate -m absent.gguf -p a
exits 1 ./generate -m ids.txt -p a
exits 1 ./generate -m absent.gguf -f absent.txt
exits 1 ./tokenize -m absent.gguf -p a
exits 1 ./inspect -m absent.gguf
exits 1 ./logits -m absent.gguf --ids bad_ids.txt -o out.f32
exits 1 ./logits -m absent.gguf --ids empty.txt -o out.f32
exits 1 ./logits -m absent.gguf --ids ids.txt -o out.f32

if [ ! -f "$model" ]; then
  skip "running a model (no ../shared/models)"
  done_checking
  exit
fi
same() { # NAME EXPECTED ACTUAL
  if [ "$2" = "$3" ]; then ok "$1"; else
    not_ok "$1"
    printf '  expected: %s\n  found:    %s\n' "$2" "$3" | cut -c1-400
  fi
}
begins() { case $3 in "$2"*) ok "$1" ;; *) same "$1" "$2" "$3" ;; esac; }

greedy="./generate -m $model --temp 0 -n 120 -c 256"
begins "generate: the greedy story" "$expected" "$($greedy -p "Once upon a time" 2>err)"
same "generate: no progress line when standard error is no terminal" 1 "$(wc -l <err)"
printf 'Once upon a time\n' >prompt.txt
begins "generate: prompt from a file, one thread, integers, no mapping" "Once upon a time, there was a little girl named Lily." \
  "$($greedy -f prompt.txt -t 1 --path integer --no-mmap 2>/dev/null)"
same "generate: the same words for the same seed" "$(./generate -m "$model" -p Once -n 30 --seed 7 2>/dev/null)" \
  "$(./generate -m "$model" -p Once -n 30 --seed 7 -t 1 -b 3 2>/dev/null)"
same "generate: other words for another seed" 1 "$([ "$(./generate -m "$model" -p Once -n 30 --seed 7 2>/dev/null)" != \
  "$(./generate -m "$model" -p Once -n 30 --seed 8 2>/dev/null)" ] && echo 1)"
same "generate: -n 0 is the prompt alone" "Once" "$(./generate -m "$model" -p Once -n 0 2>/dev/null)"
exits 0 ./generate -m "$model" -p Once -n -1 -c 16
same "generate: a full context ends the text and is said" 1 "$(grep -c 'context of .* is full' err)"
exits 1 ./generate -m "$model" -f "$model"
begins "hello: the greedy story" "Once upon a time, there was a little girl named Lily." "$(./hello "$model" "Once upon a time" 2>/dev/null)"

ids=$(./tokenize -m "$model" -p "Once upon a time")
same "tokenize: a begin token only when asked for" "1 $ids" "$(./tokenize -m "$model" -p "Once upon a time" --special)"
printf 'Once upon a time' >text.txt
same "tokenize: the same from a file" "$ids" "$(./tokenize -m "$model" -f text.txt)"
same "tokenize: nothing gives an empty line" "" "$(./tokenize -m "$model" -f empty.txt)"

for path in integer bf16 float; do
  exits 0 ./logits -m "$model" --ids ids.txt -o $path.f32 --path $path
  same "logits: [3, 512] float32 by $path" $((3 * 512 * 4)) "$(wc -c <$path.f32)"
done
exits 0 ./logits -m "$model" --ids ids.txt -o again.f32 --path integer -t 1 -b 1
expect "logits: the same bits for one thread and a batch of one" cmp integer.f32 again.f32
printf '1 512\n' >beyond.txt
exits 1 ./logits -m "$model" --ids beyond.txt -o beyond.f32
same "logits: no output is left after a failure" "" "$(ls beyond.f32* 2>/dev/null)"

./inspect -m "$model" >inspect.txt
same "inspect: architecture" 1 "$(grep -c 'general.architecture string = "llama"' inspect.txt)"
same "inspect: a tensor with its shape" 1 "$(grep -cE '^  token_embd.weight +F32 +64 x 512 +131072 bytes$' inspect.txt)"
same "inspect: bits per weight" 1 "$(grep -cE '^  total .* 32.000 bits per weight$' inspect.txt)"
done_checking
