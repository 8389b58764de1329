#!/usr/bin/env python3
"""Token ids and decoded text equal to the `tokenizers` library: real tokenizers over every text of ../shared/data and odd strings, and
small tokenizers in every supported form over random text. TAP; needs PRUNED_BUILD, the tokenizers package and ../shared/data; with the
sentencepiece package also its own normalization rules. A number as argument runs that many rounds of random text (default 1)."""
import base64
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
import make_small  # noqa: E402

MARK = "\u2581"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+END|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*END|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = CASED.replace("END", "").replace("DIGITS", "")
O200K = CASED.replace("END", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?").replace("DIGITS", "{1,3}")
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
    tokenizer.no_truncation()
    tokenizer.no_padding()
    theirs = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=special)]
    try:
        ours = dump(folder, [t.encode() for t in texts], "ids", *(["--special"] if special else []))
        fault = None
        for text, a, b in zip(texts, ours, theirs):
            if a != b:
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                fault = f"{text[:60]!r}: id {at}: {a[at:at + 6]} instead of {b[at:at + 6]}"
                break
        report(f"{name}: ids of {len(texts)} texts", fault)
        pieces = [ids[:400] for ids in theirs if ids]
        pieces = pieces[::max(1, len(pieces) // 800)]
        decoded = dump(folder, pieces, "text", "--decode", "--special")
        wrong = [(p[:8], a[:50], b[:50]) for p, a, b in
                 zip(pieces, decoded, (tokenizer.decode(p, skip_special_tokens=True) for p in pieces)) if a != b]
        report(f"{name}: text of {len(pieces)} runs of ids", f"{wrong[0]}" if wrong else None)
    except RuntimeError as error:
        report(name, str(error))


def random_texts(alphabet, count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choice(alphabet) for _ in range(rng.randrange(0, 60))) for _ in range(count)]


def strings_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_of(item)


def all_texts():
    """Every text of every file: whole files, or each string of each record."""
    for part in ("text", "instruct", "eval"):
        for folder, _, names in sorted(os.walk(os.path.join(DATA, part))):
            for name in sorted(names):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as f:
                    text = f.read()
                if name.endswith(".json"):
                    yield from strings_of(json.loads(text))
                elif name.endswith(".jsonl"):
                    for line in text.split("\n"):
                        yield from strings_of(json.loads(line)) if line.strip() else ()
                else:
                    yield text


def unicode_texts(count, seed):
    """Any code points, in runs of one script and mixed with marks, joiners, controls and special tokens."""
    rng = random.Random(seed)
    blocks = [(0x20, 0x7f), (0x20, 0x7f), (0x20, 0x7f), (0xa0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xe00), (0x1100, 0x1200),
              (0x1e00, 0x2000), (0x2000, 0x2c00), (0x3000, 0x3400), (0x4e00, 0x5000), (0xac00, 0xad00), (0xf900, 0x10000), (0x1d400, 0x1d800),
              (0x1f1e0, 0x1fa00), (0x20000, 0x20100), (0, 0x30000)]
    glue = ["\u0301", "\u0323", "\u0345", "\u200d", "\ufe0f", "\u094d", "\u0e33", "\r\n", "\0", "\u0001", "\u0085", "\ufffd", "\ufeff", " ", "  ",
            MARK, "<unk>", "<mask>", "[MASK]", "</s>", "##", "\u0130", "\u1161", "\u11a8", "\u0600", "'s"]
    texts = []
    while len(texts) < count:
        text = ""
        for _ in range(rng.randrange(0, 8)):
            low, high = rng.choice(blocks)
            run = "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 12)))
            text += "".join(c + (rng.choice(glue) if rng.random() < 0.2 else "") for c in run if is_known(c)) + rng.choice(["", " ", ""])
        texts.append(text)
    return texts


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
        "tekken split": dict(pre_tokenizer={"type": "Sequence", "pretokenizers": [dict(split, pattern={"Regex": TEKKEN}), byte_level]},
                             decoder=byte_level),
        "o200k split": dict(pre_tokenizer={"type": "Sequence", "pretokenizers": [
            dict(split, pattern={"Regex": O200K}, behavior="Removed", invert=True), byte_level]}, decoder=byte_level),
        **{"string split, " + b: dict(pre_tokenizer=dict(split, pattern={"String": s}, behavior=b), decoder={"type": "Fuse"})
           for b, s in (("Removed", " "), ("Isolated", "ab"), ("MergedWithPrevious", " "), ("MergedWithNext", "a"), ("Contiguous", "a"))},
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


def other_tokenizers():
    """WordPiece and Unigram forms beyond the goldens', as changes to these."""
    golden = {kind: json.load(open(os.path.join(ROOT, "tests/golden/tokenizer", kind, "tokenizer.json"), encoding="utf-8"))
              for kind in make_small.KINDS}
    for kind, tokenizer in golden.items():
        yield kind, tokenizer
    bert = golden["wordpiece"]
    for clean, chinese, strip, lower in ((True, True, False, False), (False, False, True, False), (True, False, None, False),
                                         (False, True, False, True)):
        yield f"wordpiece {clean} {chinese} {strip} {lower}", dict(bert, normalizer={
            "type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": strip, "lowercase": lower})
    yield "wordpiece, short words", dict(bert, model=dict(bert["model"], max_input_chars_per_word=5), post_processor={
        "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": False})
    yield "wordpiece, own prefix", dict(bert, model=dict(bert["model"], continuing_subword_prefix=""))
    unigram = golden["unigram"]
    steps = [[{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}], [{"type": "NFKD"}, {"type": "StripAccents"}], [{"type": "NFKC"}],
             [{"type": "NFC"}, {"type": "Nmt"}], [{"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "Prepend", "prepend": MARK}],
             [{"type": "Replace", "pattern": {"String": "``"}, "content": '"'}] + unigram["normalizer"]["normalizers"]]
    for i, list_ in enumerate(steps):
        yield f"unigram, normalizers {i}", dict(unigram, normalizer={"type": "Sequence", "normalizers": list_})
    for name, pre in (("no pre-tokenizer", None), ("whitespace", {"type": "WhitespaceSplit"}),
                      ("no split", make_small.metaspace(split=False)), ("first", make_small.metaspace(prepend_scheme="first"))):
        yield f"unigram, {name}", dict(unigram, pre_tokenizer=pre)
        yield f"bytes_unigram, {name}", dict(golden["bytes_unigram"], pre_tokenizer=pre, normalizer=None)
    rng = random.Random(3)
    many = {}
    while len(many) < 3000:  # scores with as many digits as a double has: ties and rounding must come out alike
        many.setdefault("".join(rng.choice("ab\u00e9\u4f60 ") for _ in range(rng.randrange(1, 9))), rng.choice([-1.5, -rng.random() * 20]))
    yield "unigram, many pieces", dict(unigram, normalizer=None, pre_tokenizer=None, added_tokens=[], post_processor=None, model={
        "type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [["<unk>", 0.0]] + [[p, x] for p, x in many.items()]})


def sentencepiece_rules(rule):
    """precompiled_charsmap of a rule that sentencepiece has built in: field 2 of the model's field 3."""
    import io
    import sentencepiece
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(make_small.AWKWARD * 20), model_writer=model, vocab_size=300,
                                             hard_vocab_limit=False, normalization_rule_name=rule, minloglevel=2)

    def fields(data):
        at = 0

        def varint():
            nonlocal at
            value = shift = 0
            while True:
                value |= (data[at] & 127) << shift
                shift, at = shift + 7, at + 1
                if data[at - 1] < 128:
                    return value
        while at < len(data):
            key = varint()
            size = varint() if key & 7 in (0, 2) else {1: 8, 5: 4}[key & 7]
            if key & 7 != 0:
                yield key >> 3, data[at:at + size]
                at += size
    spec = dict(fields(dict(fields(model.getvalue()))[3]))
    return base64.b64encode(spec[2]).decode()


def family_tokenizers():
    """What transformers builds for the model families, over our small vocabularies."""
    import transformers
    transformers.logging.set_verbosity_error()
    models = {kind: json.load(open(os.path.join(ROOT, "tests/golden/tokenizer", kind, "tokenizer.json"), encoding="utf-8"))["model"]
              for kind in make_small.KINDS}
    parts = {kind: dict(vocab=[tuple(p) for p in m["vocab"]] if kind == "unigram" else m["vocab"],
                        **({"merges": [tuple(p) for p in m["merges"]]} if "merges" in m else {})) for kind, m in models.items()}
    classes = {"unigram": "T5 XLMRoberta Camembert MBart Pegasus XLNet", "gemma": "Gemma Llama", "wordpiece": "Bert MPNet",
               "byte_level": "GPT2 GPTNeoX Qwen2 Roberta Cohere"}
    for kind, names in classes.items():
        for name in names.split():
            with tempfile.NamedTemporaryFile() as f:
                getattr(transformers, name + "Tokenizer")(**parts[kind])._tokenizer.save(f.name)
                yield name, json.load(f)


def in_folder(name, tokenizer, texts, special=False):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
            json.dump(tokenizer, f)
        compare(name, folder, texts, special)


def main():
    if not os.path.isdir(os.path.join(DATA, "tokenizers")):
        print(f"1..0 # SKIP no tokenizers under {DATA}")
        return 77
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    texts, odd = list(all_texts()), odd_texts()
    print(f"# {len(texts)} texts of {sum(len(t.encode()) for t in texts)} bytes", flush=True)
    for folder in make.TOKENIZERS:
        compare(folder, os.path.join(DATA, folder), texts)
        compare(folder + ", odd texts", os.path.join(DATA, folder), odd + make_small.AWKWARD, special=True)
    small, others = list(small_tokenizers()), list(other_tokenizers())
    for index, (name, tokenizer, alphabet) in enumerate(small):
        in_folder(name, tokenizer, random_texts(alphabet, 600, index))
    for name, tokenizer in others:
        in_folder(name, tokenizer, odd[:4000] + odd[4000::7] + make_small.AWKWARD, special=True)
    for name, tokenizer in family_tokenizers():
        in_folder(f"transformers' {name}", tokenizer, odd[::5] + make_small.AWKWARD, special=True)
    unigram = dict(others)["unigram"]
    for rule in ("nmt_nfkc", "nmt_nfkc_cf"):
        try:
            rules = sentencepiece_rules(rule)
        except ImportError:
            print("# no sentencepiece package: its rules are not compared")
            break
        tokenizer = dict(unigram, normalizer={"type": "Precompiled", "precompiled_charsmap": rules})
        others.append((rule, tokenizer))
        in_folder(f"sentencepiece's {rule}", tokenizer, odd + make_small.AWKWARD)
        in_folder(f"sentencepiece's {rule}, all texts", tokenizer, texts[:2000])
    for seed in range(rounds):
        fuzz = unicode_texts(4000, seed)
        for folder in make.TOKENIZERS:
            compare(f"{folder}, random {seed}", os.path.join(DATA, folder), fuzz)
        for name, tokenizer in others:
            in_folder(f"{name}, random {seed}", tokenizer, fuzz)
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
