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
  expect "$name compiles" "$cc" -O1 -std=c11 -DQI_STATIC -Wall -Wextra -Wsign-conversion -Wshadow -Werror "$source" ${QI_KERNELS:-} \
    -o "$scratch/$name" -lm -lpthread
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
printf 'root ::= "x" (\n' >broken.gbnf
printf '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer", "minimum": 1,
"maximum": 99}}, "required": ["name", "age"]}' >person.json
exits 2 ./hello
for program in generate tokenize logits inspect chat batch; do
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
for wrong in "--samplers top_k;nothing" "--samplers top_k;top_k" "--typical 2" "--grammar a --choice b" "--mirostat-ent -1"; do
  exits 2 ./generate -m x.gguf -p a $wrong
done
exits 2 ./chat -m x.gguf --chat-template none
exits 2 ./tokenize -m x.gguf
exits 2 ./logits -m x.gguf --ids ids.txt
exits 2 ./logits -m x.gguf --ids ids.txt -o out.f32 -t 1x
exits 1 ./hello absent.gguf a
exits 1 ./generate -m absent.gguf -p a
exits 1 ./generate -m ids.txt -p a
exits 1 ./generate -m absent.gguf -f absent.txt
exits 2 ./batch -m x.gguf
exits 2 ./batch -m x.gguf -f a -np 0
exits 1 ./batch -m absent.gguf -f absent.txt
exits 1 ./batch -m absent.gguf -f ids.txt
exits 1 ./batch -m absent.gguf -f empty.txt
exits 2 ./game_loop
exits 2 ./game_loop x.gguf 0
exits 1 ./game_loop absent.gguf
exits 1 ./chat -m absent.gguf
exits 1 ./tokenize -m absent.gguf -p a
exits 1 ./inspect -m absent.gguf
exits 1 ./logits -m absent.gguf --ids bad_ids.txt -o out.f32
exits 1 ./logits -m absent.gguf --ids empty.txt -o out.f32
exits 1 ./logits -m absent.gguf --ids ids.txt -o out.f32

exits 2 ./embedded a 1 b
tale=$(./embedded "Tale: The Lost Bell" 3 2>err)
expect "embedded: one program of less than 4 MB" test "$(wc -c <embedded)" -lt 4000000
expect "embedded: a tale that has its title and an end" grep -qE '^Tale: The Lost Bell.*[.!?"]$' <<<"$(tr '\n' ' ' <<<"$tale" | sed 's/ *$//')"
if [ "$tale" = "$(./generate -m "$top/models/tales.gguf" -p "Tale: The Lost Bell" --path integer --seed 3 --top-k 0 --top-p 1 \
  --min-p 0.05 2>err)" ]; then
  ok "embedded: the words of generate"
else not_ok "embedded: the words of generate"; fi
expect "embed compiles" $cc -O1 -std=c11 -Wall -Wextra -Werror "$top/tools/embed.c" -o embed
exits 2 ./embed
exits 1 ./embed absent.gguf
./embed "$top/models/tales.gguf" >model_bytes.h
expect "embedded compiles with the model as an array" $cc -O1 -std=c11 -DMODEL_ARRAY -DQI_NO_SIMD -I. \
  "$top/examples/embedded.c" -o array -lm -lpthread
if [ "$tale" = "$(./array "Tale: The Lost Bell" 3 2>err)" ]; then ok "embedded: the same words from an array"
else not_ok "embedded: the same words from an array"; fi

expect "tales compiles" $cc -O1 -std=c11 -Wall -Wextra -Werror "$top/tools/tales.c" -o tales
expect "tales: documents" grep -qE '^(Tale|Item|Talk): ' <(./tales 1 0.001)
expect "tales: exercises" test "$(./tales 1 0.001 16 drill | grep -cE '^(Tale|Item|Talk): |^[A-Z"].*[.!"]$')" -gt 2
exits 2 ./tales 1 0.001 16 other
exits 2 ./tales 1 0.001 2

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
exits 1 ./generate -m "$model" -p Once --grammar broken.gbnf
same "generate: an error in a grammar has line and column" 1 "$(grep -c 'grammar: line 2, column 1: found the end' err)"
exits 1 ./generate -m "$model" -p Once --json-schema broken.gbnf
exits 1 ./generate -m "$model" -p Once --grammar absent.gbnf
for seed in 1 2 3; do
  same "generate: JSON of a schema, seed $seed" 1 "$(./generate -m "$model" -p "" -s $seed --json-schema person.json 2>/dev/null |
    tr -d '\n' | grep -cE '^\{ *"name": *"([^"\\]|\\.)*", *"age": *[1-9][0-9]? *\}$')"
done
same "generate: one of the choices" 1 "$(./generate -m "$model" -p "Lily was" --choice " happy" --choice " sad" 2>/dev/null |
  grep -cE '^Lily was (happy|sad)$')"
same "generate: the default order of steps, written out" "$(./generate -m "$model" -p Once -n 30 --xtc-probability 0.5 2>/dev/null)" \
  "$(./generate -m "$model" -p Once -n 30 --xtc-probability 0.5 \
    --samplers "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature" 2>/dev/null)"
same "generate: every sampler at once" 1 "$(./generate -m "$model" -p Once -n 30 --typical 0.9 --top-nsigma 2 --dry-multiplier 0.8 \
  --dry-sequence-breaker . --xtc-probability 0.3 --dynatemp-range 0.3 --mirostat-ent 4 2>/dev/null | grep -c Once)"

exits 2 ./generate -m x.gguf -p a --draft-max 33
exits 1 ./generate -m "$model" -p a --draft absent.gguf
for temp in 0 0.8; do
  same "generate: the same words with guesses ahead, --temp $temp" "$(./generate -m "$model" -p Once -n 60 --temp $temp 2>/dev/null)" \
    "$(./generate -m "$model" -p Once -n 60 --temp $temp --lookup --draft "$model" 2>err)"
  expect "generate: some came true, --temp $temp" grep -q '[1-9][0-9]* came true' err
done
printf 'Once upon\nThe dog\nLily and Tom\n' >prompts.txt
same "batch: the same words with guesses ahead" "$(./batch -m "$model" -f prompts.txt -n 60 -c 100 -np 2 2>/dev/null)" \
  "$(./batch -m "$model" -f prompts.txt -n 60 -c 100 -np 2 --lookup --draft "$model" 2>/dev/null)"

chat="./chat -m $model --chat-template zephyr --temp 0 -n 20"
printf 'Once upon a time\n/save one.txt\nThen the dog\n/save two.txt\n' | $chat --system "A story." >all.txt 2>err
same "chat: two answers" 1 "$([ "$(grep -c . all.txt)" -ge 2 ] && echo 1)"
same "chat: a transcript" "$(printf 'system 8\nA story.\nuser 16\nOnce upon a time')" "$(head -n 4 one.txt | tr -d '\0')"
printf '/load one.txt\nThen the dog\n/save again.txt\n/quit\nnot read\n' | $chat >part.txt 2>err
expect "chat: a loaded conversation goes on with the same words and state" cmp two.txt again.txt
same "chat: nothing of it is computed again" "(3 messages loaded)" "$(grep loaded err)"
LC_ALL=C sed '/^session /,$d' one.txt >old.txt
printf '/load old.txt\nThen the dog\n' | $chat >part.txt 2>err
same "chat: one without a session is computed again" "$(tail -n +2 all.txt)" "$(cat part.txt)"
expect "chat: and says so" grep -q 'to be computed again: the file holds no session' err
printf '/load one.txt\n' | $chat --choice yes >out 2>err
expect "chat: a session without grammar begins it" grep -q '(3 messages loaded)' err
printf 'Once\n/save yes.txt\n' | $chat --choice yes >out 2>err
printf '/load yes.txt\n' | $chat >out 2>err
expect "chat: one with a grammar is for that grammar" grep -q 'to be computed again: .*follows a grammar' err
printf 'user 99\nshort\n' >broken.txt
echo Once | $chat >single.txt 2>err
printf '/load broken.txt\n/load absent.txt\n/help\nOnce\n/reset\nOnce\n' | $chat >out 2>err
same "chat: after wrong commands and /reset the same answer again" "$(cat single.txt single.txt)" "$(cat out)"
exits 1 ./chat -m "$model"
same "chat: a model without template gets a hint" 1 "$(grep -c 'known are llama-2' err)"
{ sleep 1; echo Once; } | $chat >out 2>err &
pid=$!
sleep 0.3
kill -INT $pid 2>/dev/null
wait $pid
same "chat: Ctrl-C does not end the program" "0 $(cat single.txt)" "$? $(cat out)"
printf 'Once upon a time\n\nThe cat\\nsat\nLily\nOne day\n' >prompts.txt
same "batch: each answer is that of generate" "$(for p in "Once upon a time" "$(printf 'The cat\nsat')" Lily "One day"; do
  [ "$p" = "Once upon a time" ] || echo ----
  ./generate -m "$model" -p "$p" -n 25 -c 64 --seed 5 2>/dev/null
done)" "$(./batch -m "$model" -f prompts.txt -n 25 -c 64 --seed 5 -np 3 -q 2>/dev/null)"
same "batch: answers of a grammar" 4 "$(./batch -m "$model" -f prompts.txt --choice " happy" --choice " sad" -np 2 2>/dev/null |
  grep -cE ' (happy|sad)$')"
same "game_loop: every frame is counted" 40 "$(./game_loop "$model" 300 40 2 rush | awk '/  over by/ { n += $6 == "us" ? $7 : $4 } END { print n }')"
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
