#!/usr/bin/env bash
# From what build/train wrote to models/, and notes what tests/test_box.c expects of them: tools/box.sh DENSE.gguf TERNARY.gguf
# Needs build/quantize, build/generate, build/perplexity, build/tales.
set -eu
cd "$(dirname "$0")/.."
text=$(mktemp)
trap 'rm -f "$text"' EXIT
[ $# = 2 ] || { echo "usage: tools/box.sh DENSE.gguf TERNARY.gguf" >&2; exit 2; }
build/quantize "$1" models/tales.gguf Q8_0
build/quantize "$2" models/tales-ternary.gguf TQ2_0
build/tales 2 0.0048 16 >"$text" # held_out_text of the test

greedy() { # NAME MODEL PROMPT: what comes behind the prompt, as a string of C
  local all
  all=$(build/generate -m "models/$2" -p "$3" -n 100 --temp 0 --path integer 2>/dev/null)
  all=${all#"$3"}
  printf '#define %s \\\n' "$1"
  printf '%s' "$all" | sed 's/["\\]/\\&/g' | sed ':a;N;$!ba;s/\n/\\n/g' | fold -s -w 116 | sed 's/.*/  "&" \\/' | sed '$s/ \\$//'
  echo
}
perplexity() { # NAME MODEL
  printf '#define %s %s\n' "$1" "$(build/perplexity -m "models/$2" -f "$text" -c 320 --chunks 3 --path integer | awk '/^PPL/ { print $2 }')"
}
{
  echo "// What tests/test_box.c expects of models/, written by tools/box.sh: greedy texts, and perplexity on a short held-out text."
  greedy GREEDY_TALE tales.gguf "Tale: The Lost Bell"
  greedy GREEDY_TALK tales.gguf "Talk: Mira the baker, sleepy"
  greedy GREEDY_TERNARY tales-ternary.gguf "Tale: The Lost Bell"
  perplexity DENSE_PPL tales.gguf
  perplexity TERNARY_PPL tales-ternary.gguf
} >tests/support/box_recorded.h
