# Sourced by check_*.sh: counts what holds and what does not. `scratch` is a folder that goes away.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
n_failed=0

ok() { echo "ok $1"; }
not_ok() {
  echo "not ok $1"
  n_failed=$((n_failed + 1))
}
skip() { echo "skip $1"; }

# expect NAME COMMAND...: the command succeeds; refuse NAME COMMAND...: it fails. Output is shown when it does not.
expect() {
  local name=$1
  shift
  if "$@" >"$scratch/log" 2>&1; then ok "$name"; else
    not_ok "$name"
    head -n 40 "$scratch/log" | sed 's/^/  /'
  fi
}
refuse() {
  local name=$1
  shift
  if "$@" >"$scratch/log" 2>&1; then not_ok "$name"; else ok "$name"; fi
}

done_checking() { [ $n_failed = 0 ]; }
