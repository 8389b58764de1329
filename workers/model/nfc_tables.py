#!/usr/bin/env python3
"""Writes nfc_tables.inc: Unicode's canonical decompositions and combining classes, from Python's unicodedata.

    python3 nfc_tables.py > nfc_tables.inc

Hangul syllables are left out: they are arithmetic.
"""
import unicodedata


def rows(items, width=104):
    line = ""
    for item in items:
        if len(line) + len(item) > width:
            print("    " + line.rstrip())
            line = ""
        line += item + " "
    print("    " + line.rstrip())


def main():
    print(f"/* Made by nfc_tables.py from Unicode {unicodedata.unidata_version}; not edited by hand. */")
    pairs, composed = [], []
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000 or 0xAC00 <= code <= 0xD7A3:
            continue
        text = unicodedata.decomposition(chr(code))
        if text and not text.startswith("<"):
            parts = [int(part, 16) for part in text.split()] + [0]
            pairs.append((code, parts[0], parts[1]))
            if parts[1] and unicodedata.normalize("NFC", chr(code)) == chr(code):
                composed.append((parts[0], parts[1], len(pairs) - 1))
    print("static const struct decomposition decompositions[] = { /* by code */")
    rows("{0x%X, 0x%X, 0x%X}," % pair for pair in pairs)
    print("};")
    print("static const uint16_t compositions[] = { /* rows of the table above that compose again, by first, second */")
    rows("%d," % row for _, _, row in sorted(composed))
    print("};")
    runs = []
    for code in range(0x110000):
        combining = unicodedata.combining(chr(code))
        if combining and runs and runs[-1][1] == code - 1 and runs[-1][2] == combining:
            runs[-1][1] = code
        elif combining:
            runs.append([code, code, combining])
    print("static const struct combining_run combining_runs[] = { /* by code */")
    rows("{0x%X, 0x%X, %d}," % tuple(run) for run in runs)
    print("};")


if __name__ == "__main__":
    main()
