#!/usr/bin/env python3
"""Counts what a suite said, for tests/run.sh: prints "PASSED FAILED SKIPPED", and each failure by name to stderr.

    count_results.py meson build/meson-logs/testlog.json    every test of a meson run; TAP tests by their subtests
    count_results.py tap LOG EXIT_CODE NAME                 one script's output

A program that dies, times out or stops before its plan is a failure even where every line it printed was good.
"""
import json
import re
import sys

RESULT = re.compile(r"^(ok|not ok)\b\s*\d*\s*(?:- )?(.*)$")
PLAN = re.compile(r"^1\.\.(\d+)\s*(#\s*skip.*)?$", re.IGNORECASE)
SKIP_EXIT = 77


def count_tap(text, exit_code, name):
    """(passed, [names of failures], skipped) of one program's TAP output."""
    passed, failures, skipped, seen, plan = 0, [], 0, 0, None
    for line in text.splitlines():
        plan_match, match = PLAN.match(line), RESULT.match(line)
        if plan_match:
            # cmocka prints one plan for each group of tests.
            plan = (plan or 0) + int(plan_match.group(1))
        elif match:
            seen += 1
            if re.search(r"#\s*skip\b", match.group(2), re.IGNORECASE):
                skipped += 1
            elif match.group(1) == "ok":
                passed += 1
            else:
                failures.append("%s: %s" % (name, match.group(2)))
    if exit_code == SKIP_EXIT:
        return passed, failures, max(skipped, 1)
    if exit_code != 0 and not failures:
        failures.append("%s: ended with %s after %d results" % (name, exit_code, seen))
    elif plan is None and exit_code == 0:
        failures.append("%s: printed no plan" % name)
    elif plan is not None and plan != seen and not failures:
        failures.append("%s: planned %d tests, ran %d" % (name, plan, seen))
    return passed, failures, skipped


def count_meson(path):
    passed, failures, skipped = 0, [], 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            test = json.loads(line)
            name, result, output = test["name"].split(" / ")[-1], test["result"], test.get("stdout", "")
            if PLAN.search(output.split("\n", 1)[0]) or re.search(r"^1\.\.\d+", output, re.MULTILINE):
                code = 0 if result == "OK" else SKIP_EXIT if result == "SKIP" else test["returncode"] or result
                more_passed, more_failures, more_skipped = count_tap(output, code, name)
                passed, skipped = passed + more_passed, skipped + more_skipped
                failures += more_failures
            elif result in ("OK", "EXPECTEDFAIL"):
                passed += 1
            elif result == "SKIP":
                skipped += 1
            else:
                failures.append("%s: %s" % (name, result.lower()))
    return passed, failures, skipped


def main():
    if sys.argv[1] == "meson":
        passed, failures, skipped = count_meson(sys.argv[2])
    else:
        with open(sys.argv[2], encoding="utf-8", errors="replace") as file:
            passed, failures, skipped = count_tap(file.read(), int(sys.argv[3]), sys.argv[4])
    for failure in failures:
        print("FAILED " + failure, file=sys.stderr)
    print(passed, len(failures), skipped)


if __name__ == "__main__":
    main()
