#!/usr/bin/env python3
"""The lints must be able to fail: each rule is broken once in a small tree and must be named."""
import contextlib
import io
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check_includes  # noqa: E402
import check_tree  # noqa: E402


def run(lint, files):
    """Runs a lint over a tree made of {path: content}; returns (exit code, output)."""
    with tempfile.TemporaryDirectory() as root:
        for path, content in files.items():
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as file:
                file.write(content)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = lint.main([root])
        return code, output.getvalue()


DOORS = {path: "" for path in (
    "base/text.h", "base/hash_internal.h", "storage/storage.h", "api/api.h", "workers/tensor/backend.h",
    "workers/tensor/openblas/openblas.h", "workers/tensor/reference/reference.h", "workers/model/model.h",
    "workers/data/corpus.h", "workers/prune/prune.h", "workers/evaluate/evaluate.h", "workers/export/export.h",
    "workers/recipe/recipe.h", "workers/process/protocol.h", "workers/process/sandbox.h", "daemon/config.h",
    "client/http.h", "tests/unit/helpers.h", "tests/unit/api/fixture.h",
    "tests/unit/workers/model/fixture.h")}


class Edges(unittest.TestCase):
    def check(self, path, target, legal, bracket='""'):
        code, output = run(check_includes, {**DOORS, path: "#include %s%s%s\n" % (bracket[0], target, bracket[1])})
        self.assertEqual(code, 0 if legal else 1, "%s -> %s\n%s" % (path, target, output))
        if not legal:
            self.assertIn("%s:1:" % path, output)

    def test_floors(self):
        for path, target, legal in (
                ("base/x.c", "storage/storage.h", False),
                ("base/x.c", "base/text.h", True),
                ("storage/x.c", "base/text.h", True),
                ("storage/x.c", "api/api.h", False),
                ("api/x.c", "storage/storage.h", True),
                ("api/x.c", "workers/model/model.h", False),
                ("api/x.c", "workers/process/protocol.h", False),
                ("daemon/x.c", "workers/process/protocol.h", True),
                ("daemon/x.c", "workers/process/sandbox.h", False),
                ("daemon/x.c", "api/api.h", True),
                ("client/x.c", "storage/storage.h", False),
                ("workers/tensor/x.c", "workers/model/model.h", False),
                ("workers/tensor/x.c", "workers/tensor/openblas/openblas.h", True),
                ("workers/tensor/openblas/x.c", "workers/tensor/backend.h", True),
                ("workers/tensor/openblas/x.c", "workers/tensor/reference/reference.h", False),
                ("workers/model/x.c", "workers/tensor/backend.h", True),
                ("workers/model/x.c", "workers/data/corpus.h", False),
                ("workers/prune/x.c", "workers/evaluate/evaluate.h", False),
                ("workers/evaluate/x.c", "workers/export/export.h", False),
                ("workers/export/x.c", "workers/prune/prune.h", False),
                ("workers/prune/x.c", "workers/data/corpus.h", True),
                ("workers/recipe/x.c", "workers/prune/prune.h", True),
                ("workers/recipe/x.c", "workers/process/protocol.h", False),
                ("workers/process/x.c", "workers/recipe/recipe.h", True),
                ("workers/process/x.c", "workers/model/model.h", False)):
            self.check(path, target, legal)

    def test_unit_tests_include_what_they_mirror(self):
        for path, target, legal in (
                ("tests/unit/api/x_test.c", "api/api.h", True),
                ("tests/unit/api/x_test.c", "storage/storage.h", True),
                ("tests/unit/api/x_test.c", "tests/unit/helpers.h", True),
                ("tests/unit/api/x_test.c", "tests/unit/api/fixture.h", True),
                ("tests/unit/api/x_test.c", "workers/model/model.h", False),
                ("tests/unit/workers/evaluate/x_test.c", "tests/unit/workers/model/fixture.h", True),
                ("tests/unit/workers/data/x_test.c", "tests/unit/workers/model/fixture.h", True),
                ("tests/unit/workers/model/x_test.c", "tests/unit/api/fixture.h", False),
                ("tests/unit/workers/tensor/x_test.c", "tests/unit/workers/model/fixture.h", False),
                ("tests/unit/x_test.c", "base/text.h", True),
                ("tests/unit/x_test.c", "storage/storage.h", False),
                ("tests/unit/base/x_test.c", "base/hash_internal.h", True),
                ("tests/unit/base/x_test.c", "tests/unit/api/fixture.h", False),
                ("tests/unit/storage/x_test.c", "base/hash_internal.h", False),
                ("tests/unit/workers/prune/x_test.c", "workers/model/model.h", True),
                ("tests/unit/workers/prune/x_test.c", "workers/export/export.h", False)):
            self.check(path, target, legal)

    def test_third_party_headers_stay_behind_one_folder(self):
        for path, target, legal in (
                ("base/x.c", "jansson.h", True),
                ("api/x.c", "jansson.h", False),
                ("api/x.c", "microhttpd.h", True),
                ("daemon/x.c", "microhttpd.h", False),
                ("workers/tensor/openblas/x.c", "cblas.h", True),
                ("workers/tensor/reference/x.c", "cblas.h", False),
                ("workers/model/x.c", "pcre2.h", True),
                ("storage/x.c", "sqlite3.h", True),
                ("storage/x.c", "uv.h", False),
                ("storage/x.c", "cmocka.h", False),
                ("tests/unit/api/x_test.c", "cmocka.h", True),
                ("client/x.c", "curl/curl.h", True),
                ("api/x.c", "curl/curl.h", False),
                ("base/x.c", "boost.h", False),
                ("base/x.c", "sys/stat.h", True)):
            self.check(path, target, legal, "<>")

    def test_includes_come_from_the_root_and_exist(self):
        for target in ("../base/text.h", "./text.h", "text.h", "base/absent.h"):
            self.check("base/x.c", target, False)

    def test_a_folder_outside_the_plan(self):
        code, output = run(check_includes, {"extra/x.c": ""})
        self.assertEqual(code, 1)
        self.assertIn("extra/x.c", output)

    def test_circles(self):
        code, output = run(check_includes, {"base/a.h": '#include "base/b.h"\n', "base/b.h": '#include "base/a.h"\n'})
        self.assertEqual(code, 1)
        self.assertIn("circle: base/a.h -> base/b.h -> base/a.h", output)


class Tree(unittest.TestCase):
    def test_limits(self):
        for path, content, legal in (
                ("base/x.c", "int x;\n" * 800, True),
                ("base/x.c", "int x;\n" * 801, False),
                ("docs/x.md", "line\n" * 5000, True),
                ("docs/x.md", "x" * ((8 << 20) + 1), False),
                ("base/x.c", "/* TO" + "DO: later */\n", False),
                ("tests/x.py", "# fix" + "me\n", False),
                ("base/x.c", 'char name[] = "a_' + 6 * 'X' + '";\n', True),
                ("docs/x.md", "cd /work/" + "main\n", False),
                ("docs/x.md", "work/main.c\n", True)):
            code, output = run(check_tree, {path: content})
            self.assertEqual(code, 0 if legal else 1, output)


if __name__ == "__main__":
    unittest.main()
