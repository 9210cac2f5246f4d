#!/usr/bin/env bash
# The rules of the house that a machine can see.
cd "$(dirname "$0")/.." || exit 1
. tests/check.sh

shopt -s nullglob
parts=(src/*.h src/*/*.h)
sources=("${parts[@]}" tools/*.c tools/*.h examples/*.c examples/*.h bench/*.c bench/*.h tests/*.c tests/*/*.c tests/*/*.h tests/*/*.cpp)

# none NAME: what stands on standard input is a list of offenders.
none() {
  cat >"$scratch/offenders"
  if [ -s "$scratch/offenders" ]; then
    not_ok "$1"
    sed 's/^/  /' "$scratch/offenders" | head -n 20
  else
    ok "$1"
  fi
}

grep -nE '.{133}' "${sources[@]}" | cut -c1-100 | none "lines have at most 132 columns"
grep -nP '\t| +$|\r' "${sources[@]}" | none "no tabs, no spaces at line ends, no carriage returns"
for f in "${sources[@]}"; do [ -z "$(tail -c 1 "$f")" ] || echo "$f"; done | none "files end with a newline"
for f in src/*/*.h src/public.h; do
  head -n 1 "$f" | grep -qE '^// ==== >>[a-z0-9_]+ : .+ ====$' || echo "$f: first line must be: // ==== >>name : what ===="
done | none "parts begin with their banner"
grep -hoE '^// ==== >>[a-z0-9_]+' src/*/*.h src/public.h | sort | uniq -d | none "banners are unique"
# A function begins in column 0 and ends with } in column 0.
awk 'FNR == 1 { start = 0 }
  /^[A-Za-z_].*\{$/ && !/^(typedef|struct|enum|union|static const|extern)/ && !/=/ { start = FNR; name = $0 }
  /^}/ && start { if (FNR - start + 1 > 80) print FILENAME ":" start ": " FNR - start + 1 " lines: " substr(name, 1, 60); start = 0 }' \
  "${parts[@]}" | none "functions have at most 80 lines"
grep -nwE 'TODO|FIXME|XXX|HACK' "${sources[@]}" | none "nothing is left undone"
grep -nE '\b(abort|exit|_exit|getenv|assert|printf|puts|putchar|alloca|strcpy|strcat|sprintf|gets|strtok|setlocale|rand|srand) *\(' \
  "${parts[@]}" | grep -vE '^[^:]*:[0-9]+: *//|//.*\b(abort|exit|printf|assert) *\(' | none "parts call none of the forbidden functions"
grep -nE '^static +[^(]*(=|;)' "${parts[@]}" | grep -vE 'static (inline )?const |\(' | none "no mutable globals"
expect "there are parts to look at" test ${#parts[@]} -gt 5
done_checking
