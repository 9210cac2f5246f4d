#!/usr/bin/env bash
# Prints a folder with include/cmocka.h and lib/libcmocka.so for arm64. Takes Debian's package into build/ without installing it:
# apt-get keeps the lists of the other architecture there too, so neither root nor a change of the system is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
where=$PWD/build/arm64-cmocka

if [ ! -f "$where/lib/libcmocka.so" ]; then
  rm -rf "$where"
  mkdir -p "$where"/{lists/partial,cache/archives/partial,deb,include,lib}
  apt="apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::lists=$where/lists
    -o Dir::Cache=$where/cache -o Dir::State::status=/dev/null -o APT::Sandbox::User= -o Acquire::Languages=none"
  {
    $apt update
    (cd "$where/deb" && $apt download libcmocka0 libcmocka-dev)
    for deb in "$where"/deb/*.deb; do dpkg-deb -x "$deb" "$where/deb"; done
    cp "$where"/deb/usr/include/cmocka*.h "$where/include/"
    cp -a "$where"/deb/usr/lib/aarch64-linux-gnu/libcmocka.so* "$where/lib/"
    rm -rf "$where/lists" "$where/cache" "$where/deb"
  } >"$where/log" 2>&1 || {
    tail -n 20 "$where/log" >&2
    echo "arm_cmocka: could not fetch libcmocka-dev for arm64" >&2
    exit 1
  }
fi
echo "$where"
