#!/usr/bin/env python3
"""Token ids and decoded text equal to the `tokenizers` library: real tokenizers over real texts and odd strings, and small
tokenizers in every supported form over random text. TAP; needs PRUNED_BUILD, the tokenizers package and ../shared/data."""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build"))
DATA = os.environ.get("PRUNED_TEST_DATA", os.path.join(ROOT, "../shared/data"))
sys.path.insert(0, os.path.join(ROOT, "tests/golden/tokenizer"))
import make  # noqa: E402

MARK = "\u2581"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
results = []


def report(name, fault=None):
    results.append(fault is None)
    print(f"{'ok' if fault is None else 'not ok'} {len(results)} - {name}", flush=True)
    if fault is not None:
        print(f"# {fault}")


def dump(folder, items, item_format, *flags):
    """What dump_tokens answers to counted items: strings of bytes, or lists of ids."""
    sent = b"".join(struct.pack("<I", len(i)) + (struct.pack(f"<{len(i)}i", *i) if flags and "--decode" in flags else i)
                    for i in items)
    done = subprocess.run([os.path.join(BUILD, "dump_tokens"), *flags, folder], input=sent, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode())
    out, at = [], 0
    while at < len(done.stdout):
        count, = struct.unpack_from("<I", done.stdout, at)
        at += 4
        if item_format == "ids":
            out.append(list(struct.unpack_from(f"<{count}i", done.stdout, at)))
            at += 4 * count
        else:
            out.append(done.stdout[at:at + count].decode())
            at += count
    return out


def compare(name, folder, texts, special=False):
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    theirs = [tokenizer.encode(t, add_special_tokens=special).ids for t in texts]
    try:
        ours = dump(folder, [t.encode() for t in texts], "ids", *(["--special"] if special else []))
        fault = None
        for text, a, b in zip(texts, ours, theirs):
            if a != b:
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                fault = f"{text[:60]!r}: id {at}: {a[at:at + 6]} instead of {b[at:at + 6]}"
                break
        report(f"{name}: ids of {len(texts)} texts", fault)
        pieces = [ids[:400] for ids in theirs if ids][:400]
        decoded = dump(folder, pieces, "text", "--decode", "--special")
        wrong = [(p[:8], a[:50], b[:50]) for p, a, b in
                 zip(pieces, decoded, (tokenizer.decode(p, skip_special_tokens=True) for p in pieces)) if a != b]
        report(f"{name}: text of {len(pieces)} runs of ids", f"{wrong[0]}" if wrong else None)
    except RuntimeError as error:
        report(name, str(error))


def random_texts(alphabet, count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choice(alphabet) for _ in range(rng.randrange(0, 60))) for _ in range(count)]


def is_known(character):
    return unicodedata.category(character) not in ("Cn", "Cs")


def odd_texts():
    """Characters of every kind next to one another, and all code points that Unicode 14 knows: PCRE2 10.42 classifies no
    later ones, the library does."""
    rng = random.Random(7)
    kinds = list("aZ \t\n\r'sStT09.,!?-_\u00a0\u0085\u200b\u200d\u3000\u180e\u1680\u2028\ufeff\u017f\u212a\u00e9e\u0301\u0130\u0131"
                 "\u4f60\u597d\U0001f600\U0001f468\u0660\u00bd\u2167\ud55c\u1112\u1161\u11ab\u0958\u2581<>|") + [
        "'S", "'\u017f", "'ll", "'LL", "<s>", "</s>", "<|endoftext|>", "<|begin_of_text|>", "<|im_start|>", "  ", "\r\n", "\n\n"]
    texts = ["".join(rng.choice(kinds) for _ in range(rng.randrange(0, 30))) for _ in range(4000)]
    for start in range(0, 0x30000, 64):
        known = [chr(c) for c in range(start, start + 64) if is_known(chr(c))]
        texts += [" ".join(known), "".join("x" + c for c in known)]
    return texts


def small_tokenizers():
    """(name, tokenizer.json, alphabet) in the forms that no file at hand uses."""
    added = [{"id": 50, "content": "<l>", "lstrip": True}, {"id": 51, "content": "<r>", "rstrip": True},
             {"id": 52, "content": "xy", "single_word": True}, {"id": 53, "content": "<n n>", "normalized": True},
             {"id": 54, "content": "<l><r>", "lstrip": True, "rstrip": True}]
    for token in added:
        token["id"] -= 25  # the library numbers added tokens on from the vocabulary
        for key, value in (("lstrip", False), ("rstrip", False), ("single_word", False), ("normalized", False), ("special", False)):
            token.setdefault(key, value)
    letters = ["a", "b", "c", "\u0120", MARK, "_", "1", "2", "<", ">", "n", " "]
    words = ["ab", "abc", MARK + "a", "\u0120a", "12", "a1", "cc", "bc", "aa", "aaaa", "a" + MARK, MARK + MARK]
    vocab = {t: i for i, t in enumerate(["<unk>"] + letters + words)}
    merges = ["b c", "a b", "ab c", MARK + " a", "\u0120 a", "1 2", "a 1", "c c", "a a", "aa aa", "a " + MARK, MARK + " " + MARK]
    alphabet = list("aaabbbcc  12_\n<>nxy") + ["\u00e9", "<l>", "<r>", "<n n>", "xy", "\u00a0", MARK]
    metaspace = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always", "split": True}
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    spiece = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK},
                                                  {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]}
    replace_decoder = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": MARK}, "content": " "},
                                                        {"type": "ByteFallback"}, {"type": "Fuse"},
                                                        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    forms = {
        "metaspace always": dict(pre_tokenizer=metaspace, decoder=metaspace),
        "metaspace first": dict(pre_tokenizer=dict(metaspace, prepend_scheme="first"),
                                decoder=dict(metaspace, prepend_scheme="first")),
        "metaspace never, no split": dict(pre_tokenizer=dict(metaspace, prepend_scheme="never", split=False),
                                          decoder=dict(metaspace, prepend_scheme="never")),
        "spaces replaced": dict(normalizer=spiece, decoder=replace_decoder),
        "NFC": dict(normalizer={"type": "NFC"}, decoder={"type": "Fuse"}),
        "digits alone": dict(pre_tokenizer={"type": "Digits", "individual_digits": True}, decoder={"type": "Fuse"}),
        "digits in runs": dict(pre_tokenizer={"type": "Digits", "individual_digits": False}, decoder={"type": "Fuse"}),
        "prefix space": dict(pre_tokenizer=dict(byte_level, use_regex=True, add_prefix_space=True), decoder=byte_level),
        "llama3 split": dict(pre_tokenizer={"type": "Sequence", "pretokenizers": [dict(split, pattern={"Regex": LLAMA3}), byte_level]},
                             decoder=byte_level),
        "qwen2 split": dict(pre_tokenizer={"type": "Sequence", "pretokenizers": [dict(split, pattern={"Regex": QWEN2}), byte_level]},
                            decoder=byte_level),
        "digits, then words": dict(pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, dict(byte_level, use_regex=True)]}, decoder=byte_level),
    }
    for name, form in forms.items():
        for unk, fuse, ignore in (("<unk>", True, False), ("<unk>", False, True), (None, False, False)):
            yield (f"{name}, unk {unk}, fuse {fuse}, ignore {ignore}", {
                "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                "pre_tokenizer": None, "post_processor": None, "decoder": None, **form,
                "model": {"type": "BPE", "dropout": None, "unk_token": unk, "continuing_subword_prefix": None,
                          "end_of_word_suffix": None, "fuse_unk": fuse, "byte_fallback": False, "ignore_merges": ignore,
                          "vocab": vocab, "merges": merges}}, alphabet)


def main():
    if not os.path.isdir(os.path.join(DATA, "tokenizers")):
        print(f"1..0 # SKIP no tokenizers under {DATA}")
        return 77
    texts = [t for name in make.TEXTS for t in make.documents(os.path.join(DATA, "text", name))]
    odd = odd_texts()
    for folder in make.TOKENIZERS:
        compare(folder, os.path.join(DATA, folder), texts)
        compare(folder + ", odd texts", os.path.join(DATA, folder), odd, special=True)
    for index, (name, tokenizer, alphabet) in enumerate(small_tokenizers()):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "tokenizer.json"), "w") as f:
                json.dump(tokenizer, f)
            compare(name, folder, random_texts(alphabet, 600, index))
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
