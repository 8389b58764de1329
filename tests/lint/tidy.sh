#!/bin/sh
# clang-tidy over the C files of some folders, on all cores; exit 1 if it says anything, 77 without clang-tidy.
# Usage: tidy.sh [FOLDER...]. It reads the compile commands of a clang build: it does not know all of gcc's flags.
set -eu
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- base storage workers api daemon client
command -v clang-tidy >/dev/null || { echo "no clang-tidy"; exit 77; }
[ -f build-clang/compile_commands.json ] || CC=clang meson setup build-clang >/dev/null
git -c safe.directory='*' ls-files '*.c' | grep -E "^($(echo "$@" | tr ' ' '|'))/" |
    xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p build-clang 2>/dev/null
