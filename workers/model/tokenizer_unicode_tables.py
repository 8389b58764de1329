#!/usr/bin/env python3
"""Writes tokenizer_unicode_tables.inc: which characters the normalizers and pre-tokenizers of the `tokenizers` library drop, cut at
or change. The library mixes several Unicode versions, so each of its parts is asked about every character. What joins into
grapheme clusters comes from the package regex, whose Unicode is as new as the library's.

    python3 tokenizer_unicode_tables.py > tokenizer_unicode_tables.inc
"""
import regex
import tokenizers
from tokenizers import normalizers, pre_tokenizers

CODES = [code for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]


def changed_by(normalizer):
    return {code: new for code in CODES if (new := normalizer.normalize_str(chr(code))) != chr(code)}


def bert(**parts):
    names = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    return normalizers.BertNormalizer(**{name: parts.get(name, False) for name in names})


def rows(items, width=104):
    line = ""
    for item in items:
        if len(line) + len(item) > width:
            print("    " + line.rstrip())
            line = ""
        line += item + " "
    print("    " + line.rstrip())


def print_ranges(name, comment, codes):
    ranges = []
    for code in sorted(codes):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    print(f"static const struct code_range {name}[] = {{ /* {comment} */")
    rows("{0x%X, 0x%X}," % tuple(r) for r in ranges)
    print("};")


def print_lower(lower):
    """Runs of every or every other character that move by the same distance."""
    runs = []
    for code, new in sorted(lower.items()):
        if len(new) != 1:
            assert code == 0x130 and new == "i\u0307"  # tokenizer_unicode.c knows this one
            continue
        delta = ord(new) - code
        last = runs[-1] if runs else None
        if last and last[3] == delta and code - last[1] <= 2 and last[2] in (0, code - last[1]):
            last[1], last[2] = code, code - last[1]
        else:
            runs.append([code, code, 0, delta])
    print("static const struct case_run case_runs[] = { /* first, last, step, distance to the small letter */")
    rows("{0x%X, 0x%X, %d, %d}," % (first, last, step or 1, delta) for first, last, step, delta in runs)
    print("};")


def print_clusters():
    """Grapheme_Cluster_Break; Hangul syllables are arithmetic and carriage return is known by name."""
    classes = {"CLUSTER_CONTROL": r"[\p{GCB=Control}\p{GCB=CR}\p{GCB=LF}]", "CLUSTER_EXTEND": r"\p{GCB=Extend}", "CLUSTER_JOINER": r"\p{GCB=ZWJ}",
               "CLUSTER_SPACING": r"\p{GCB=SpacingMark}", "CLUSTER_PREPEND": r"\p{GCB=Prepend}", "CLUSTER_REGIONAL": r"\p{GCB=Regional_Indicator}",
               "CLUSTER_PICTURE": r"\p{Extended_Pictographic}", "CLUSTER_L": r"\p{GCB=L}", "CLUSTER_V": r"\p{GCB=V}", "CLUSTER_T": r"\p{GCB=T}"}
    text = "".join(map(chr, CODES))
    found = {ord(c): name for name, pattern in classes.items() for c in regex.findall(pattern, text)}
    runs = []
    for code, name in sorted(found.items()):
        if runs and runs[-1][1] == code - 1 and runs[-1][2] == name:
            runs[-1][1] = code
        else:
            runs.append([code, code, name])
    print("static const struct cluster_run cluster_runs[] = { /* by code */")
    rows("{0x%X, 0x%X, %s}," % tuple(run) for run in runs)
    print("};")


def main():
    print(f"/* Made by tokenizer_unicode_tables.py from tokenizers {tokenizers.__version__}; not edited by hand. */")
    cleaned = changed_by(bert(clean_text=True))
    print_ranges("dropped_ranges", "clean_text drops", {code for code, new in cleaned.items() if new == ""})
    print_ranges("chinese_ranges", "handle_chinese_chars surrounds by spaces", changed_by(bert(handle_chinese_chars=True)))
    print_ranges("accent_ranges", "strip_accents of BertNormalizer drops",
                 {code for code, new in changed_by(bert(strip_accents=True)).items() if new == ""})
    print_ranges("mark_ranges", "StripAccents drops",
                 {code for code, new in changed_by(normalizers.StripAccents()).items() if new == ""})
    words = pre_tokenizers.BertPreTokenizer()
    print_ranges("punctuation_ranges", "BertPreTokenizer makes a word of",
                 {code for code in CODES if len(words.pre_tokenize_str("a" + chr(code) + "a")) == 3})
    print_clusters()
    print_lower(changed_by(normalizers.Lowercase()))


if __name__ == "__main__":
    main()
