#!/usr/bin/env bash
# The committed qinfer.h is what src/ gives, and the generator refuses what it must.
cd "$(dirname "$0")/.." || exit 1
. tests/check.sh

if ! command -v python3 >/dev/null; then
  skip "generator (no python3)"
  exit 0
fi
expect "qinfer.h is what src/ gives" python3 tools/amalgamate.py --check

# A small tree beside a copy of the generator.
tree=$scratch/tree
mkdir -p "$tree/tools" "$tree/src/base" "$tree/src/model"
cp tools/amalgamate.py "$tree/tools/"
cp LICENSE "$tree/"
generate() { python3 "$tree/tools/amalgamate.py" "$@"; }
put() { # PART GUARD LINE...
  local path=$tree/src/$1 guard=G_$2
  shift 2
  printf '%s\n' "#ifndef $guard" "#define $guard" "$@" '#endif' >"$path"
}
reset_tree() {
  printf '#include "api.h"\n#include "public.h"\n' >"$tree/src/qinfer.h"
  put api.h api 'int a;'
  put base/b.h b '#include "../api.h"' '#include <stdio.h>' 'int b;'
  put model/m.h m '#include "../base/b.h"' '#include "../api.h"' 'int m;'
  put public.h public '#include "model/m.h"' '#include "base/b.h"' 'int p;'
}

reset_tree
expect "a good tree is accepted" generate
expect "each part once, in the order of inclusion" \
  test "$(grep -o '^int .' "$tree/qinfer.h" | cut -c5 | tr -d '\n')" = abmp
expect "system includes stay" grep -q '^#include <stdio.h>$' "$tree/qinfer.h"
expect "the licence is at the end" sh -c "tail -n 1 '$tree/qinfer.h' | grep -q 'OTHER DEALINGS IN THE SOFTWARE'"
expect "check accepts what was written" generate --check
sed -i 's/$/\r/' "$tree/src/base/b.h"
expect "line ends of the checkout do not count" generate --check
reset_tree
echo 'int changed;' >>"$tree/qinfer.h"
refuse "check sees a change" generate --check
refuse "check sees a missing header" generate --check -o "$tree/absent.h"
put base/b.h b '#include "../model/m.h"'
refuse "a later layer is refused" generate
reset_tree
put base/b.h b '#include "c.h"'
put base/c.h c '#include "b.h"'
refuse "a cycle is refused" generate
reset_tree
refuse "a part that nobody includes is refused" generate
rm "$tree/src/base/c.h"
put base/b.h b '#ifdef X' '#include "../api.h"' '#endif'
refuse "an include under a condition is refused" generate
reset_tree
put base/b.h b '#include "absent.h"'
refuse "a missing part is refused" generate
done_checking
