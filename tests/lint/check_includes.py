#!/usr/bin/env python3
"""The house plan as a test: which folder may include which.

The tables below are design section 2 as data. Exit 1 and one line per illegal edge:
    api/server.c:12: api may not include workers/model/model.h

Checked: project includes come from the source root, exist, and follow MAY_INCLUDE; *_internal.h stays in its folder
(and that folder's tests); third-party headers stay behind their one folder; no header includes itself round a circle.

Usage: check_includes.py [ROOT]
"""
import os
import re
import sys

ENGINE = ["workers/export", "workers/evaluate", "workers/select", "workers/prune", "workers/data", "workers/model",
          "workers/tensor", "base"]
BELOW_METHODS = ["workers/data", "workers/model", "workers/tensor", "base"]

# Folder -> what it may include besides itself: folders or single files. A file belongs to the longest matching folder.
MAY_INCLUDE = {
    "base": [],
    "storage": ["base"],
    "workers/tensor": ["base"],
    "workers/tensor/reference": ["workers/tensor", "base"],
    "workers/tensor/native": ["workers/tensor", "base"],
    "workers/tensor/openblas": ["workers/tensor", "base"],
    "workers/tensor/onednn": ["workers/tensor", "base"],
    "workers/tensor/cuda": ["workers/tensor", "base"],
    "workers/model": ["workers/tensor", "base"],
    "workers/data": ["workers/model", "workers/tensor", "base"],
    "workers/prune": BELOW_METHODS,
    "workers/select": BELOW_METHODS,
    "workers/evaluate": BELOW_METHODS,
    "workers/export": BELOW_METHODS,
    "workers/recipe": ENGINE,
    "workers/process": ["workers/recipe", "base"],
    "api": ["storage", "base"],
    "daemon": ["api", "storage", "workers/process/protocol.h", "base"],
    "client": ["base"],
    "bench": ["workers/recipe"] + ENGINE,
    # Programs and targets that tests use; unit tests have a rule of their own below.
    "tests/fuzz": ["api", "storage", "workers/process", "workers/recipe"] + ENGINE,
    "tests/tools": ["workers/recipe"] + ENGINE,
    "tests/unit": ["base"],  # helpers shared by unit tests
}
# tests/unit/<folder> may include <folder> and what that may include, with the fixtures of their tests.
UNIT = "tests/unit"

# Third-party header (or its first folder) -> the folders that may include it.
THIRD_PARTY = {
    "jansson.h": ["base"],
    "microhttpd.h": ["api"],
    "uv.h": ["daemon"],
    "systemd": ["daemon"],
    "sqlite3.h": ["storage"],
    "cblas.h": ["workers/tensor/openblas"],
    "lapacke.h": ["workers/tensor/openblas"],
    "arpack": ["workers/tensor/openblas"],
    "dnnl.h": ["workers/tensor/onednn"],
    "oneapi": ["workers/tensor/onednn"],
    "cuda.h": ["workers/tensor/cuda"],
    "cuda_runtime.h": ["workers/tensor/cuda"],
    "cuda_bf16.h": ["workers/tensor/cuda"],
    "cublas_v2.h": ["workers/tensor/cuda"],
    "cublasLt.h": ["workers/tensor/cuda"],
    "pcre2.h": ["workers/model"],
    "curl": ["client"],
    "cmocka.h": [UNIT],
}
# The C library, the kernel and the compiler: free for all.
SYSTEM_FOLDERS = {"sys", "linux", "asm", "arpa", "net", "netinet", "bits"}
SYSTEM = {
    "assert.h", "complex.h", "cpuid.h", "ctype.h", "dirent.h", "dlfcn.h", "endian.h", "errno.h", "execinfo.h", "fcntl.h",
    "fenv.h", "float.h", "fnmatch.h", "ftw.h", "getopt.h", "glob.h", "grp.h", "immintrin.h", "inttypes.h", "libgen.h",
    "limits.h", "locale.h", "malloc.h", "math.h", "netdb.h", "poll.h", "pthread.h", "pwd.h", "sched.h", "semaphore.h",
    "setjmp.h", "signal.h", "spawn.h", "stdarg.h", "stdatomic.h", "stdbool.h", "stddef.h", "stdint.h", "stdio.h",
    "stdlib.h", "string.h", "strings.h", "syslog.h", "termios.h", "threads.h", "time.h", "unistd.h", "wchar.h",
}
# Written by the build, so not in the tree: pattern of the path from the root.
GENERATED = [re.compile(pattern) for pattern in (r"^[a-z/_]+/[a-z0-9_]+_generated\.(h|inc)$",)]

SOURCE = re.compile(r"\.(c|h|cu|cuh|def|inc)$")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def within(path, folder):
    return path == folder or path.startswith(folder + "/")


def folder_of(path):
    """The folder of the table that a file belongs to, or None."""
    owners = [folder for folder in MAY_INCLUDE if within(path, folder)]
    return max(owners, key=len, default=None)


def sources(root):
    """Paths from the root of all C sources; build trees and hidden folders are not ours."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if not n.startswith(".") and n != "venv" and not n.startswith("build"))
        for name in sorted(files):
            if SOURCE.search(name):
                yield os.path.relpath(os.path.join(folder, name), root)


def unit_may_include(mirrored, target):
    """Whether a test of the folder `mirrored` ("" at the top of tests/unit) may include `target`: what the folder
    itself may, and the fixtures of the folders that it may."""
    if within(target, UNIT):
        target = os.path.dirname(target)[len(UNIT) + 1:]
        if target == "":
            return True
    owner = folder_of(mirrored) if mirrored else "base"
    # The tests of a folder with sub-folders (backends) may drive those too.
    return owner is not None and any(within(target, folder) for folder in [mirrored, owner] + MAY_INCLUDE[owner])


def may_include(path, target):
    """Whether the file at `path` may include the project file `target`."""
    owner, target_owner = folder_of(path), folder_of(target)
    if owner is None or target_owner is None:
        return False
    if owner == UNIT:
        return unit_may_include(os.path.dirname(path)[len(UNIT) + 1:], target)
    if owner == target_owner:
        return True
    if within(target_owner, owner):
        return True  # a registry table in the parent may name its backends' doors; nobody else may
    return any(one in (target, target_owner) for one in MAY_INCLUDE[owner])


def internal_escapes(path, target):
    if not re.search(r"_internal\.(h|inc)$", target):
        return False
    home, here = os.path.dirname(target), os.path.dirname(path)
    return here != home and here != os.path.join(UNIT, home)


def check_project(root, path, target):
    if ".." in target.split("/") or target.startswith("./"):
        return "includes come from the source root, not relative: \"%s\"" % target
    if any(pattern.match(target) for pattern in GENERATED):
        return None if may_include(path, target) else "%s may not include %s" % (folder_of(path), target)
    if not os.path.exists(os.path.join(root, target)):
        return "no such file from the source root: \"%s\"" % target
    if not may_include(path, target):
        return "%s may not include %s" % (os.path.dirname(path), target)
    if internal_escapes(path, target):
        return "%s is for %s alone" % (target, os.path.dirname(target))
    return None


def check_system(path, target):
    first = target.split("/")[0]
    if first in THIRD_PARTY or target in THIRD_PARTY:
        homes = THIRD_PARTY.get(target, THIRD_PARTY.get(first))
        if not any(within(path, home) for home in homes):
            return "<%s> stays behind %s" % (target, ", ".join(homes))
    elif target not in SYSTEM and first not in SYSTEM_FOLDERS:
        return "<%s> is in no table of tests/lint/check_includes.py" % target
    return None


def circles(graph):
    """Include circles among project files, each as a list of paths."""
    done, found = set(), []

    def visit(path, trail):
        if path in trail:
            found.append(trail[trail.index(path):] + [path])
            return
        if path in done:
            return
        for target in graph.get(path, []):
            visit(target, trail + [path])
        done.add(path)

    for path in sorted(graph):
        visit(path, [])
    return found


def check(root):
    faults, graph = [], {}
    for path in sources(root):
        if folder_of(path) is None:
            faults.append("%s: belongs to no folder of the plan" % path)
            continue
        graph[path] = []
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                match = INCLUDE.match(line)
                if not match:
                    continue
                quote, target = match.groups()
                if quote == '"':
                    fault = check_project(root, path, target)
                    graph[path].append(target)
                else:
                    fault = check_system(path, target)
                if fault:
                    faults.append("%s:%d: %s" % (path, number, fault))
    for circle in circles(graph):
        faults.append("circle: " + " -> ".join(circle))
    return faults, len(graph)


def main(arguments):
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    faults, count = check(root)
    for fault in faults:
        print(fault)
    print("%d files, %d illegal includes" % (count, len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
