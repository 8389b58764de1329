"""Turns migrations/NNNN_name.sql into one C table, in order; a gap or a doubled number stops the build."""
import pathlib
import sys

output, sources = sys.argv[1], sorted(sys.argv[2:], key=lambda path: pathlib.Path(path).name)
lines = ['#include "storage/sqlite_internal.h"', "", "const struct sqlite_migration sqlite_migrations[] = {"]
for version, source in enumerate(sources, start=1):
    name = pathlib.Path(source).name
    if int(name[:4]) != version:
        sys.exit(f"{name}: expected number {version:04d}")
    lines.append(f'    {{{version}, "{name}",')
    for line in pathlib.Path(source).read_text(encoding="utf-8").splitlines():
        escaped = line.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'     "{escaped}\\n"')
    lines.append("    },")
lines += ["};", f"const int sqlite_migration_count = {len(sources)};", ""]
pathlib.Path(output).write_text("\n".join(lines), encoding="utf-8")
