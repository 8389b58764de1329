#!/usr/bin/env python3
"""Every C file is as clang-format 14 with the house style leaves it. Without clang-format 14: skipped (77), because
other versions disagree with it. Usage: check_format.py [ROOT]; `--fix` rewrites instead.
"""
import os
import re
import shutil
import subprocess
import sys


def find_clang_format():
    for name in ("clang-format-14", "clang-format"):
        program = shutil.which(name)
        if program:
            version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
            if re.search(r"version 14\.", version):
                return program
    return None


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--fix"]
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    program = find_clang_format()
    if program is None or not os.path.exists(os.path.join(root, ".git")):
        print("no clang-format 14, or no git checkout")
        return 77
    output = subprocess.run(["git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z", "*.c", "*.h"], capture_output=True, check=True).stdout
    paths = [path for path in output.decode().split("\0") if path and os.path.exists(os.path.join(root, path))]
    if not paths:
        return 77
    mode = ["-i"] if len(arguments) + 1 < len(sys.argv) else ["--dry-run", "--ferror-limit=0"]
    result = subprocess.run([program, *mode, *paths], cwd=root, capture_output=True, text=True, check=False)
    faulty = sorted(set(re.findall(r"^(\S+?):\d+:\d+: warning: code should be clang-formatted", result.stderr, re.M)))
    for path in faulty:
        print("%s: clang-format would change it" % path)
    if result.returncode != 0:
        print(result.stderr)
    print("%d files, %d to format" % (len(paths), len(faulty)))
    return 1 if faulty or result.returncode != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
