#!/usr/bin/env python3
"""Writes nfc_tables.inc: decompositions and combining classes, from Python's unicodedata, as far as the `tokenizers` library knows
them (its tables are older; what it leaves alone must stay).

    python3 nfc_tables.py > nfc_tables.inc

Hangul syllables are left out: they are arithmetic.
"""
import unicodedata

from tokenizers import normalizers

NFD, NFKD = normalizers.NFD(), normalizers.NFKD()


def rows(items, width=104):
    line = ""
    for item in items:
        if len(line) + len(item) > width:
            print("    " + line.rstrip())
            line = ""
        line += item + " "
    print("    " + line.rstrip())


def combining_of(code):
    """0 where the library sorts the character as a letter: after U+0345 (class 240) a mark of a lower class goes in front."""
    combining = unicodedata.combining(chr(code))
    if 0 < combining < 240 and NFD.normalize_str("a\u0345" + chr(code)).startswith("a\u0345"):
        return 0
    return combining


def main():
    print(f"/* Made by nfc_tables.py from Unicode {unicodedata.unidata_version}; not edited by hand. */")
    pairs, composed, flat, pool = [], [], [], []
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000 or 0xAC00 <= code <= 0xD7A3:
            continue
        text, char = unicodedata.decomposition(chr(code)), chr(code)
        if not text or NFKD.normalize_str(char) == char:
            continue
        if text.startswith("<"):
            parts = [ord(c) for c in NFKD.normalize_str(char)]
            assert max(parts) < 0x10000 and parts == [ord(c) for c in unicodedata.normalize("NFKD", char)]
            flat.append((code, len(pool), len(parts)))
            pool += parts
            continue
        assert NFD.normalize_str(char) == unicodedata.normalize("NFD", char)
        parts = [int(part, 16) for part in text.split()] + [0]
        pairs.append((code, parts[0], parts[1]))
        if parts[1] and unicodedata.normalize("NFC", char) == char:
            composed.append((parts[0], parts[1], len(pairs) - 1))
    print("static const struct decomposition decompositions[] = { /* by code */")
    rows("{0x%X, 0x%X, 0x%X}," % pair for pair in pairs)
    print("};")
    print("static const uint16_t compositions[] = { /* rows of the table above that compose again, by first, second */")
    rows("%d," % row for _, _, row in sorted(composed))
    print("};")
    print("static const struct compatibility compatibilities[] = { /* by code: where in the next table, how many */")
    rows("{0x%X, %d, %d}," % row for row in flat)
    print("};")
    print("static const uint16_t compatibility_pool[] = { /* full decompositions */")
    rows("0x%X," % part for part in pool)
    print("};")
    runs = []
    for code in range(0x110000):
        combining = 0 if 0xD800 <= code < 0xE000 else combining_of(code)
        if combining and runs and runs[-1][1] == code - 1 and runs[-1][2] == combining:
            runs[-1][1] = code
        elif combining:
            runs.append([code, code, combining])
    print("static const struct combining_run combining_runs[] = { /* by code */")
    rows("{0x%X, 0x%X, %d}," % tuple(run) for run in runs)
    print("};")


if __name__ == "__main__":
    main()
