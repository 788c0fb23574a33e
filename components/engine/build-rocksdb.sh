#!/usr/bin/env bash
# Compiles the RocksDB that ships inside the librocksdb-sys crate once, as a static library that every
# cargo profile then links (ROCKSDB_LIB_DIR), and prints the directory that holds it.
#
# Why: the crate's own build script compiles 343 files one by one, once per profile; most of that time goes
# into parsing the same headers. Here neighbouring files are compiled together as a few large translation
# units, a quarter of the work, and the result lives outside the checkout. It is an accelerator only: a plain
# `cargo build` does without it.
#
# The directory's name holds everything that the library depends on (crate version, flags, compiler and this
# script), because cargo does not notice a changed library behind an unchanged path.
#
# usage: build-rocksdb.sh CACHE_DIR     (progress goes to stderr, the directory to stdout)
set -euo pipefail

cache=$1
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cxx=${CXX:-g++}
jobs=$(nproc 2>/dev/null || echo 2)
chunks=12
flags="-O2 -std=c++20 -fPIC -ffunction-sections -fdata-sections -w -include cstdint"
case "$(uname -m)" in x86_64) flags="$flags -msse4.2 -mpclmul" ;; esac
defines="-DNDEBUG -DLZ4 -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DHAVE_ALIGNED_NEW
  -DHAVE_UINT128_EXTENSION -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT
  -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT"

# Unpacked source of a crate that Cargo.lock names; cargo fetch has put it there.
crate_src() {
  local version
  version=$(awk -v crate="$1" '$1 == "name" { hit = ($3 == "\"" crate "\"") } hit && $1 == "version" { gsub(/"/, "", $3); print $3; exit }' "$root/Cargo.lock")
  ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$1-$version" | head -n 1
}

(cd "$root" && cargo fetch --locked --quiet) >&2
src=$(crate_src librocksdb-sys)
lz4=$(dirname "$(find "$(crate_src lz4-sys)" -name lz4.h | head -n 1)")
key=$( { basename "$src"; echo "$flags $defines $chunks"; "$cxx" --version | head -n 1; cat "$0"; } | sha256sum | cut -c1-12)
out="$cache/rocksdb/$(basename "$src")-$key"

if [ ! -f "$out/librocksdb.a" ]; then
  mkdir -p "$cache/rocksdb"
  exec 9>"$cache/rocksdb/lock"
  flock 9
fi
if [ ! -f "$out/librocksdb.a" ]; then
  echo "building RocksDB ($(basename "$src")) once, with $jobs jobs: about 7 minutes on two cores ..." >&2
  tmp="$out.tmp"
  rm -rf "$tmp" && mkdir -p "$tmp/units"
  # Neighbours in the crate's list share headers: keep the order, cut where a chunk has its share of the work.
  tr -d '\r' <"$src/rocksdb_lib_sources.txt" | tr -s ' ' '\n' | grep '\.cc$' | grep -v 'util/build_version.cc' |
    while read -r file; do echo "$(stat -c %s "$src/rocksdb/$file") $file"; done >"$tmp/list"
  awk -v chunks="$chunks" -v src="$src" -v dir="$tmp/units" '
    NR == FNR { total += $1 + 15000; next }
    { n = int(done * chunks / total); done += $1 + 15000
      printf "#include \"%s/rocksdb/%s\"\n", src, $2 > sprintf("%s/unit%02d.cc", dir, n) }' "$tmp/list" "$tmp/list"
  cp "$src/build_version.cc" "$tmp/units/"
  units=$(ls -S "$tmp"/units/*.cc | wc -l)
  compile() {
    # shellcheck disable=SC2086
    (cd "$BUILD_SRC" && $BUILD_CXX $BUILD_FLAGS -I rocksdb/include -I rocksdb -I "$BUILD_LZ4" -I . -c "$1" -o "$1.o") ||
      { echo "compiling $1 failed" >&2; exit 255; }
    echo "  $(ls "$(dirname "$1")"/*.o | wc -l) of $BUILD_UNITS units" >&2
  }
  export -f compile
  export BUILD_SRC="$src" BUILD_CXX="$cxx" BUILD_FLAGS="$flags $(echo $defines)" BUILD_LZ4="$lz4" BUILD_UNITS="$units"
  ls -S "$tmp"/units/*.cc | xargs -P "$jobs" -I{} bash -c 'compile {}'
  ar crs "$tmp/librocksdb.a" "$tmp"/units/*.o
  rm -rf "$tmp/units" "$out"
  mv "$tmp" "$out"
fi
echo "$out"
