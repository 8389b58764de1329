#!/bin/sh
# Every test, from a bare Debian 12 on: installs what is missing, builds, runs all suites, prints how long each took.
# The last line is "N passed, N failed" (", N skipped" where some were); the exit code is 1 if any failed.
#
#   sh tests/run.sh                 gcc into build/, all suites; unit tests again under ASan and UBSan in build-asan/
#   sh tests/run.sh --build clang   all suites on clang's build in build-clang/
#   sh tests/run.sh --build tsan    ThreadSanitizer in build-tsan/: unit tests of storage, api, daemon; tests/http
#   sh tests/run.sh --long          also tests/long against PyTorch and transformers (a venv in venv/), clang-tidy,
#                                   and longer runs of the other suites (PRUNED_LONG=1)
#
# Suites: lint, unit (meson); tests/fuzz's corpora are part of unit; tests/cli, tests/http, tests/torture: Python
# scripts NN_*_test.py, each run with PRUNED_BUILD set to the build folder, printing TAP, 77 = skipped.
set -u
cd "$(dirname "$0")/.." || exit 2

build_kind=gcc
long=no
while [ $# -gt 0 ]; do
    case "$1" in
    --build)
        [ $# -ge 2 ] || { echo "run.sh: --build needs clang or tsan" >&2; exit 2; }
        build_kind=$2
        shift 2
        ;;
    --build=*) build_kind=${1#--build=}; shift ;;
    --long) long=yes; shift ;;
    -h | --help) sed -n '2,13p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown option $1 (known: --build clang|tsan, --long)" >&2; exit 2 ;;
    esac
done
case "$build_kind" in
gcc) build=build ;;
clang) build=build-clang ;;
tsan) build=build-tsan ;;
*) echo "run.sh: --build is clang or tsan, not $build_kind" >&2; exit 2 ;;
esac

# Packages.

packages="gcc libc6-dev meson ninja-build pkg-config python3 git ca-certificates
    libcmocka-dev libjansson-dev libmicrohttpd-dev libsqlite3-dev libuv1-dev libopenblas-dev libdnnl-dev libpcre2-dev libcurl4-openssl-dev"
[ "$build_kind" = clang ] && packages="$packages clang"
[ "$long" = yes ] && packages="$packages clang clang-tidy clang-format-14 libclang-rt-14-dev python3-venv"

missing=""
if command -v dpkg-query >/dev/null 2>&1; then
    for package in $packages; do
        status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)
        [ "$status" = "install ok installed" ] || missing="$missing $package"
    done
fi
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "run.sh: missing packages; as root: apt-get install$missing" >&2
        exit 2
    fi
    echo "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # shellcheck disable=SC2086
    if ! { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 20 "$log"
        rm -f "$log"
        echo "run.sh: apt-get failed" >&2
        exit 2
    fi
    rm -f "$log"
fi

# Counting. Each finished suite adds its numbers and a line of the table.

passed=0
failed=0
skipped=0
table=""
started_at=0
test_prefix="" # a command that runs the tests

begin() {
    started_at=$(date +%s)
    printf '\n== %s\n' "$1"
}

# finish NAME PASSED FAILED SKIPPED
finish() {
    passed=$((passed + $2))
    failed=$((failed + $3))
    skipped=$((skipped + $4))
    took=$(($(date +%s) - started_at))
    table="$table$(printf '%-18s %6d %6d %7d %7d' "$1" "$2" "$3" "$4" "$took")
"
    echo "$1: $2 passed, $3 failed, $4 skipped in $took s"
}

end() {
    printf '\n%-18s %6s %6s %7s %7s\n%s\n' suite passed failed skipped seconds "$table"
    if [ "$skipped" -gt 0 ]; then
        echo "$passed passed, $failed failed, $skipped skipped"
    else
        echo "$passed passed, $failed failed"
    fi
    [ "$failed" -eq 0 ]
    exit $?
}

# build_into FOLDER MESON-OPTIONS...: a build that fails is one failed test, and the end.
build_into() {
    folder=$1
    shift
    begin "build $folder"
    [ -f "$folder/build.ninja" ] || meson setup "$folder" "$@" >"$folder.log" 2>&1 || {
        tail -n 30 "$folder.log"
        rm -f "$folder.log"
        finish "build" 0 1 0
        end
    }
    rm -f "$folder.log"
    # One line for each program linked is news enough; warnings and errors are shown in full.
    if ninja -C "$folder" >"$folder/run.log" 2>&1; then
        tail -n 1 "$folder/run.log"
        finish "build $folder" 0 0 0
    else
        tail -n 60 "$folder/run.log"
        finish "build $folder" 0 1 0
        end
    fi
}

# meson_suite NAME FOLDER MESON-TEST-ARGUMENTS...
meson_suite() {
    name=$1
    folder=$2
    shift 2
    begin "$name"
    rm -f "$folder/meson-logs/testlog.json"
    $test_prefix meson test -C "$folder" --no-rebuild --print-errorlogs "$@"
    if [ -s "$folder/meson-logs/testlog.json" ]; then
        # shellcheck disable=SC2046
        finish "$name" $(python3 tests/count_results.py meson "$folder/meson-logs/testlog.json")
    else
        echo "no test ran"
        finish "$name" 0 1 0
    fi
}

# script_suite NAME PYTHON-COMMAND SECONDS-FOR-EACH: tests/NAME/NN_*_test.py in their order
script_suite() {
    name=$1
    python=$2
    limit=$3
    ls "tests/$name"/[0-9]*_test.py >/dev/null 2>&1 || return 0
    begin "$name"
    suite_passed=0
    suite_failed=0
    suite_skipped=0
    mkdir -p "$build/test-logs"
    for script in "tests/$name"/[0-9]*_test.py; do
        base=$(basename "$script" .py)
        log="$build/test-logs/$name-$base.log"
        script_started=$(date +%s)
        # shellcheck disable=SC2086
        PRUNED_BUILD="$PWD/$build" timeout -k 10 "$limit" $python "$script" >"$log" 2>&1
        code=$?
        numbers=$(python3 tests/count_results.py tap "$log" "$code" "$name/$base" 2>"$log.failures")
        # shellcheck disable=SC2086
        set -- $numbers
        suite_passed=$((suite_passed + $1))
        suite_failed=$((suite_failed + $2))
        suite_skipped=$((suite_skipped + $3))
        echo "$base: $1 passed, $2 failed, $3 skipped in $(($(date +%s) - script_started)) s"
        if [ "$2" -gt 0 ]; then
            cat "$log.failures"
            tail -n 40 "$log" | sed 's/^/    /'
        fi
        rm -f "$log.failures"
    done
    finish "$name" "$suite_passed" "$suite_failed" "$suite_skipped"
}

# Sanitizer reports must end a program with a code of their own, or a daemon's death by one looks like any other.
export ASAN_OPTIONS="${ASAN_OPTIONS:-abort_on_error=0:exitcode=99:detect_leaks=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-exitcode=66:second_deadlock_stack=1:suppressions=$PWD/tests/tsan.supp}"
# OpenBLAS starts threads of its own unless told not to; our pool is the only one.
export OPENBLAS_NUM_THREADS=1
[ "$long" = yes ] && export PRUNED_LONG=1

if [ "$build_kind" = tsan ]; then
    build_into build-tsan -Db_sanitize=thread -Dbuildtype=debugoptimized -Db_lundef=false
    names=$(meson test -C build-tsan --list 2>/dev/null | sed -n -E 's#.* / ((storage|api|daemon)/.*)#\1#p')
    # ThreadSanitizer's fixed shadow does not fit every layout of addresses that newer kernels draw.
    fixed_layout=""
    setarch -R true 2>/dev/null && fixed_layout="setarch -R"
    test_prefix=$fixed_layout
    # shellcheck disable=SC2086
    meson_suite unit build-tsan $names
    script_suite http "$fixed_layout python3" 900
    end
fi

if [ "$build_kind" = clang ]; then
    CC=clang
    export CC
fi
build_into "$build"
meson_suite lint "$build" --suite lint
meson_suite unit "$build" --suite unit

if [ "$build_kind" = gcc ]; then
    build_into build-asan -Db_sanitize=address,undefined -Dbuildtype=debug
    meson_suite asan build-asan --suite unit --timeout-multiplier 4
fi

script_suite cli python3 600
script_suite http python3 600
script_suite torture python3 "$([ "$long" = yes ] && echo 7200 || echo 900)"

if [ "$long" = yes ]; then
    begin tidy
    if sh tests/lint/tidy.sh; then finish tidy 1 0 0; else finish tidy 0 1 0; fi
    if ls tests/long/[0-9]*_test.py >/dev/null 2>&1; then
        begin venv
        if sh tests/long_venv.sh; then
            finish venv 0 0 0
            script_suite long venv/bin/python 7200
        else
            finish venv 0 1 0
        fi
    fi
fi
end
