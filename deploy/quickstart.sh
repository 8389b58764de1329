#!/bin/sh
# From a bare Debian 12 to a pruned model: installs what is missing, builds into build/, starts the service on its default
# storage in a temporary folder, and then does by curl alone what a user would: upload a model (this repository's own small
# one, tests/skills) and its texts, submit a FinerCut job, watch it, download the result. Prints what was lost and what was
# gained, skill by skill, and every curl line it used. Ends 0 if all of it worked; the service is stopped either way.
#
#   sh deploy/quickstart.sh [FOLDER]     FOLDER receives the pruned model (default ./quickstart-model)
set -eu
cd "$(dirname "$0")/.."
out=${1:-quickstart-model}
skills=tests/skills

say() { printf '\n== %s\n' "$1"; }
die() { echo "quickstart: $1" >&2; exit 1; }

[ -f "$skills/model/model.safetensors" ] || die "$skills/model is not there; run this from a whole clone"
# An earlier result of this script is replaced; anything else is not ours to touch.
if [ -e "$out" ] && [ -n "$(ls -A "$out")" ]; then
    [ -f "$out/SHA256SUMS" ] && [ -f "$out/plan.json" ] ||
        die "$out is not empty; name another folder: sh deploy/quickstart.sh FOLDER"
    (cd "$out" && cut -d' ' -f3- SHA256SUMS | xargs rm -f -- SHA256SUMS report.json report.html)
fi

# ---- packages and build

packages="gcc libc6-dev meson ninja-build pkg-config python3 curl libcmocka-dev libcurl4-openssl-dev libjansson-dev
    libmicrohttpd-dev libopenblas-dev libpcre2-dev libsqlite3-dev libuv1-dev"
missing=""
for package in $packages; do
    status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    say "installing$missing"
    [ "$(id -u)" = 0 ] || die "packages are missing; as root: apt-get install$missing"
    # shellcheck disable=SC2086
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } \
        >/tmp/pruned-quickstart-apt.log 2>&1 || { tail -n 20 /tmp/pruned-quickstart-apt.log; die "apt-get failed"; }
fi

say "building"
started=$(date +%s)
[ -f build/build.ninja ] || meson setup build >/dev/null
ninja -C build pruned pruned-worker prunectl | tail -n 1

# ---- the service

work=$(mktemp -d)
service=""
stop() {
    code=$?
    trap - EXIT INT TERM
    if [ -n "$service" ]; then
        kill -TERM "$service" 2>/dev/null || true
        wait "$service" || { [ "$code" -ne 0 ] || code=1; }
    fi
    [ "$code" -eq 0 ] || { [ -f "$work/log" ] && tail -n 20 "$work/log" >&2; }
    rm -rf "$work"
    exit "$code"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "starting the service"
build/pruned serve --state "$work/state" --listen 127.0.0.1:0 --port-file "$work/port" 2>"$work/log" &
service=$!
tries=0
until [ -s "$work/port" ]; do
    kill -0 "$service" 2>/dev/null || die "the service ended at its start"
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || die "the service is not ready after 60 s"
    sleep 0.1
done
host="http://127.0.0.1:$(cat "$work/port")"
echo "build/pruned serve: $host, state in $work/state"

# Prints the line as one would type it, then runs it.
show_curl() {
    line="curl"
    for word in "$@"; do
        case "$word" in
        *[!A-Za-z0-9_./:=@-]*) line="$line '$word'" ;;
        *) line="$line $word" ;;
        esac
    done
    echo "\$ $line" >&2
    curl -sS --fail-with-body "$@"
}
# member FILE EXPRESSION: of a JSON file, as Python sees it
member() { python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); v=eval(sys.argv[2],{"d":d}); print(v)' "$1" "$2"; }

# ---- upload and register

# upload FILE: content first, by its hash; prints the hash
upload() {
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    show_curl -T "$1" "$host/v1/blobs/sha256:$digest" -o "$work/blob.json" || { cat "$work/blob.json" >&2; return 1; }
    echo "$digest"
}

say "uploading the model, its texts and its tasks"
files=""
for file in "$skills"/model/*; do
    name=$(basename "$file")
    case "$name" in *.json | *.safetensors) ;; *) continue ;; esac
    digest=$(upload "$file")
    files="$files${files:+, }{\"path\": \"$name\", \"sha256\": \"$digest\"}"
done
calibration=$(upload "$skills/data/calibration.txt")
evaluation=$(upload "$skills/data/evaluation.txt")
tasks=""
for file in "$skills"/data/*.jsonl; do
    name=$(basename "$file" .jsonl)
    digest=$(upload "$file")
    tasks="$tasks${tasks:+, }{\"name\": \"$name\", \"kind\": \"generate\", \"source\": \"sha256:$digest\"}"
done

say "registering the model"
echo "{\"name\": \"skills\", \"files\": [$files]}" >"$work/model.json"
show_curl "$host/v1/models" -H "Content-Type: application/json" -d "@$work/model.json" -o "$work/registered.json" ||
    { cat "$work/registered.json"; die "the model was refused"; }
echo "registered as $(member "$work/registered.json" 'd["name"]'), $(member "$work/registered.json" 'd["id"]')"

# ---- two jobs: the result as it is best, and one that stock runtimes load as it is

job() { # LAYOUT TASKS
    cat <<EOF
{"model": "skills", "name": "quickstart-$1",
 "method": {"type": "finercut", "finercut": {"metric": "js", "granularity": "sublayer"}},
 "target": {"sublayers_removed": 5},
 "calibration": {"source": "sha256:$calibration", "num_samples": 32, "window_tokens": 128},
 "evaluation": {"text": {"source": "sha256:$evaluation"}, "window_tokens": 128, "tasks": [$2]},
 "output": {"layout": "$1"}}
EOF
}

# run NAME LAYOUT TASKS: submits, polls, leaves $work/NAME.json
run() {
    job "$2" "$3" >"$work/$1.request.json"
    [ "$1" != auto ] || { echo "the job, as sent (each line cut at 160 characters):"; cut -c1-160 "$work/$1.request.json"; }
    show_curl "$host/v1/pruning/jobs" -H "Content-Type: application/json" -H "Idempotency-Key: quickstart-$1" \
        -d "@$work/$1.request.json" -o "$work/$1.json" || { cat "$work/$1.json"; die "the job was refused"; }
    id=$(member "$work/$1.json" 'd["id"]')
    echo "\$ curl '$host/v1/jobs/$id?wait=2&until=change'    # again and again" >&2
    last=""
    while :; do
        curl -sS --fail-with-body "$host/v1/jobs/$id?wait=2&until=change" -o "$work/$1.json"
        line=$(member "$work/$1.json" '"%s %s %s %%" % (d["status"], d["stage"] or "", 10 * int((d["progress"]["percent"] or 0) / 10))')
        if [ "$line" != "$last" ]; then
            member "$work/$1.json" '"  %5.1f %%  %s %s  %s/%s %s%s" % (d["progress"]["percent"] or 0, d["status"], d["stage"] or "", d["progress"]["step"], d["progress"]["steps"], d["progress"]["unit"] or "", "" if d["progress"]["eta_seconds"] is None else ", about %d s left" % d["progress"]["eta_seconds"])'
            last=$line
        fi
        case "$line" in succeeded*) break ;; failed* | cancelled*) cat "$work/$1.json"; die "the job did not succeed" ;; esac
    done
}

say "pruning: FinerCut, 5 of 24 sublayers"
run auto auto "$tasks"

say "the same in the layout that stock runtimes load (identity), for its speed"
run identity identity ""

# ---- download

say "downloading into $out"
id=$(member "$work/auto.json" 'd["id"]')
show_curl "$host/v1/jobs/$id/artifacts" -o "$work/artifacts.json"
mkdir -p "$out"
python3 -c 'import json,sys
for file in json.load(open(sys.argv[1]))["data"]: print(file["path"])' "$work/artifacts.json" >"$work/paths"
while read -r path; do
    mkdir -p "$out/$(dirname "$path")"
    show_curl "$host/v1/jobs/$id/artifacts/$path" -o "$out/$path"
done <"$work/paths"
(cd "$out" && sha256sum --quiet -c SHA256SUMS) && echo "SHA256SUMS: every file matches"

# ---- what was lost, what was gained

say "result"
python3 - "$work/auto.json" "$work/identity.json" <<'EOF'
import json
import sys

job, stock = (json.load(open(path, encoding="utf-8"))["result"] for path in sys.argv[1:3])
before, after, size = job["before"], job["after"], job["size"]


def row(name, old, new, form="%.4f"):
    print("  %-34s %14s %14s" % (name, form % old, form % new))


print("  %-34s %14s %14s" % ("", "before", "after"))
for protocol in sorted(before["perplexity"]):
    row("perplexity (%s)" % protocol, before["perplexity"][protocol], after["perplexity"][protocol])
for task in sorted(before["tasks"]):
    row("accuracy, " + task, 100 * before["tasks"][task], 100 * after["tasks"][task], "%.1f %%")
row("accuracy, mean", 100 * before["task_accuracy_mean"], 100 * after["task_accuracy_mean"], "%.1f %%")
row("parameters", size["before"]["parameters"], size["after"]["parameters"], "%d")
row("bytes of weights", size["before"]["weight_bytes"], size["after"]["weight_bytes"], "%d")
for what, name in (("prefill_tokens_per_second", "prompt tokens/s"), ("decode_tokens_per_second", "generated tokens/s")):
    row(name + ", as loaded (stock)", stock["before"]["speed"][what], stock["after"]["speed"][what], "%.0f")
    skipped = stock["after"].get("speed_skipped") or after["speed"]
    row(name + ", sublayers skipped", stock["before"]["speed"][what], skipped[what], "%.0f")
print("  removed, first to last: " + ", ".join("%s %d" % (part["kind"], part["layer"]) for part in job["removed"]))
print("  layout %s: %s" % (job["output"]["layout"], "; ".join("%s: %s" % (item["loader"], item["line"])
                                                             for item in job["output"]["loaders"] if "line" in item)))
EOF
echo "  a page with the curve and the rest: $out/report.html"
echo "  $(($(date +%s) - started)) s since the packages were there"
