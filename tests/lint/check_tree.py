#!/usr/bin/env python3
"""Limits on the tree: no tracked file over 8 MB, no C file over 800 lines, no unfinished work, no path of one machine.

Exit 1 and one line per fault. Usage: check_tree.py [ROOT]
"""
import os
import re
import subprocess
import sys

LIMIT_BYTES = 8 << 20
LIMIT_LINES = 800  # the soft limit is 600; above this a file holds two ideas
CODE = re.compile(r"\.(c|h|cu|cuh|def|inc|py|sh|js|sql|build)$")
C_CODE = re.compile(r"\.(c|h|cu|cuh)$")
# Written in pieces, so that this file passes its own check.
WORDS = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "not imple" + "mented",
                                     "unimple" + "mented"]) + r")\b", re.IGNORECASE)
PLACES = re.compile("|".join([r"/work/(main|steering|shared|\.library)" + r"\b", "/tmp/" + r"w/\w", "/tmp/bash" + "_jobs",
                              "/fa" + "rm/"]))


def tracked(root):
    """What git tracks, or every file where there is no git (an unpacked archive)."""
    try:
        output = subprocess.run(["git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z"], capture_output=True, check=True).stdout
        return [name for name in output.decode("utf-8", "surrogateescape").split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        found = []
        for folder, names, files in os.walk(root):
            names[:] = [n for n in names if not n.startswith(".git") and n != "venv" and not n.startswith("build")]
            found += [os.path.relpath(os.path.join(folder, name), root) for name in files]
        return found


def check_file(root, path):
    full = os.path.join(root, path)
    if os.path.islink(full) or not os.path.isfile(full):
        return
    size = os.path.getsize(full)
    if size > LIMIT_BYTES:
        yield "%s: %d bytes; at most %d" % (path, size, LIMIT_BYTES)
        return
    with open(full, "rb") as file:
        content = file.read()
    if b"\0" in content:
        return  # weights and the like
    lines = content.decode("utf-8", "replace").splitlines()
    if C_CODE.search(path) and len(lines) > LIMIT_LINES:
        yield "%s: %d lines; at most %d" % (path, len(lines), LIMIT_LINES)
    for number, line in enumerate(lines, 1):
        match = PLACES.search(line) or (WORDS.search(line) if CODE.search(path) else None)
        if match:
            yield "%s:%d: \"%s\" has no place here" % (path, number, match.group(0))


def main(arguments):
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    paths = tracked(root)
    faults = [fault for path in paths for fault in check_file(root, path)]
    for fault in faults:
        print(fault)
    print("%d files, %d faults" % (len(paths), len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
