#!/usr/bin/env python3
"""Small tokenizers of every kind, and what the `tokenizers` library makes of awkward strings with them.

    python3 make_small.py [DATA_FOLDER]

Writes <kind>/tokenizer.json and cases.json beside itself: per kind a list of [text, ids with special tokens, the ids' text without].
tests/unit/workers/data/tokenizer_golden_test.c compares; tests/long/20_tokenizer_test.py takes the charsmap builder.
"""
import base64
import json
import os
import struct
import sys
import unicodedata

HERE = os.path.dirname(os.path.abspath(__file__))
MARK = "\u2581"
AWKWARD = [
    "", " ", "  ", "\n", "\t \n", "Hello world", "  Hello   world  ", "hello, World! It's 2026; don't you think?", "a" * 150,
    "ab" * 60 + " end", "na\u00efve caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m A\u030angstro\u0308m", "\u0130stanbul \u0131 \u1e9e \u03a3\u03a3",
    "\u4f60\u597d\u4e16\u754cabc\u3402\U00020000x\uf900", "\u3042\u3044 \u30ab\u30bf \uff76\uff85 \uff21\uff22\uff23\u3000\uff11",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab", "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f1e9\U0001f1ea\U0001f1eb",
    "\u00a9\u200d\u00ae \u00a9\ufe0f", "e\u0301\u0301\u0323 q\u0307\u0323 \u0301x", "\u00bd \ufb01 \u2460 \u2026 \u2026\u0301 \ufb01\u0301 \ufb01\u0302",
    "a\u00a0b\u2003c\u200bd\ufeffe\u2028f\u0085g\u000bh", "a\u0001b\u0007c\u007fd\u009fe\ufffdf\u00adg", "\r\n\r\r\n a\r\nb",
    "[CLS] x [SEP] <s> </s> <unk> [UNK] [MASK]", "x  [MASK]  y<mask>z <mask>", MARK + " " + MARK + MARK + "a" + MARK,
    "\u0915\u094d\u0924\u093e \u0928\u093c \u0ba8\u0bbf", "\u0600a \u06dd1 \u0661\u0662", "\u0627\u0644\u0633\u064e\u0644\u0627\u0645 \u05e9\u05c1\u05dc\u05d5\u05dd",
    "100%$5+3=8<9>7^2|`~", "don't can't I'm we've they're do not 's", "\u00ab\u00bf\u2018\u201c\u2014\u3001\u166d\u2e43", "##ing ##", "<0x41> <0xE4>",
    "the quick brown fox jumps over the lazy dog " * 3, "unbelievably antidisestablishmentarianism", "\ue000\U000f0000\u0378",
]
# What the small map does: single characters, a base with its mark, an expansion, a deletion, and a prefix of another entry.
RULES = {"\t": " ", "\n": " ", "\r": " ", "\r\n": "N", "\u00a0": " ", "\u3000": " ", "\u2003": " ", "\u200b": "", "\ufeff": "", "\u0007": "",
         "\u007f": "", "\ufb01": "fi", "\ufb01\u0302": "never", "\u00bd": "1\u20442", "\u2460": "1", "\u2026": "...", "e\u0301": "\u00e9",
         "A\u030a": "\u00c5", "o\u0308": "\u00f6", "\u00a9": "(c)", "\u0600": "#", "\u0301": ""}
RULES.update({chr(0xFF21 + i): chr(0x41 + i) for i in range(26)})


def charsmap(rules):
    """SentencePiece's precompiled_charsmap of {bytes from: to}: darts-clone's double array, then the texts."""
    blob, root = bytearray(), {}
    for source, target in sorted(rules.items()):
        node = root
        for byte in source.encode():
            node = node.setdefault(byte, {})
        node[0] = len(blob)
        blob += target.encode() + b"\0"
    units, used, bases, open_nodes = {0: 0}, {0}, set(), [(0, root)]
    while open_nodes:
        at, node = open_nodes.pop()
        base = 1
        while base in bases or any(base ^ byte in used for byte in node):
            base += 1
        bases.add(base)  # a label tells the byte alone: no two nodes may share a base
        units[at] |= (base ^ at) << 10 | (1 << 8 if 0 in node else 0)
        for byte, child in sorted(node.items()):
            used.add(base ^ byte)
            units[base ^ byte] = byte if byte else child | 1 << 31
            if byte:
                open_nodes.append((base ^ byte, child))
    count = (max(units) | 0xFF) + 1
    packed = struct.pack(f"<{count}I", *(units.get(i, 0) for i in range(count)))
    return base64.b64encode(struct.pack("<I", len(packed)) + packed + bytes(blob)).decode()


def token(index, content, **flags):
    return {"id": index, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True,
            **flags}


def tokenizer_json(model, **parts):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": None, **parts, "model": model}


def template(front, back):
    def piece(name):
        return {"SpecialToken": {"id": name[0], "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    names = [n for n in (front, back) if n]
    single = ([piece(front)] if front else []) + [sequence] + ([piece(back)] if back else [])
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n[0]: {"id": n[0], "ids": [n[1]], "tokens": [n[0]]} for n in names}}


def metaspace(**parts):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always", "split": True, **parts}


def lines(data):
    with open(os.path.join(data, "text/tinystories_sample.txt"), encoding="utf-8") as f:
        text = f.read()
    return text.split("\n") + AWKWARD * 3


def wordpiece(data):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer()
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.train_from_iterator(lines(data), trainers.WordPieceTrainer(
        vocab_size=700, limit_alphabet=150, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    vocab = dict(sorted(trained.get_vocab().items(), key=lambda item: item[1]))
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return tokenizer_json(
        {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
        added_tokens=[token(vocab[n], n, lstrip=n == "[MASK]") for n in names],
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=template(("[CLS]", 2), ("[SEP]", 3)), decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})


def unigram(data):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator([unicodedata.normalize("NFKC", line) for line in lines(data)], trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    vocab = [[piece, round(score, 6)] for piece, score in json.loads(trained.to_str())["model"]["vocab"]]
    # So that something is unknown; and the added token gets an id of its own.
    vocab = [pair for pair in vocab if (len(pair[0]) != 1 or pair[0] < "\u3000") and pair[0] != "<mask>"]
    mask = token(len(vocab), "<mask>", lstrip=True)
    return tokenizer_json(
        {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
        added_tokens=[token(i, n) for i, n in enumerate(["<s>", "<pad>", "</s>", "<unk>"])] + [mask],
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": charsmap(RULES)}, {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": MARK}]},
        pre_tokenizer=metaspace(), post_processor=template(("<s>", 0), ("</s>", 2)), decoder=metaspace())


def bytes_unigram(data):
    """Byte fallback, T5's pre-tokenizers, and scores that tie."""
    vocab = [["<unk>", 0.0]] + [["<0x%02X>" % b, -20.0] for b in range(256)] + [[MARK, -2.0], ["a", -3.0], ["b", -3.0], ["ab", -6.0],
             ["aba", -9.0], ["ba", -6.0], ["the", -3.5254390239715576], [MARK + "the", -4.0], ["t", -5.25], ["h", -5.5], ["e", -4.75]]
    return tokenizer_json(
        {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": True}, added_tokens=[token(0, "<unk>")],
        normalizer={"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"}, {"type": "Lowercase"}]},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace()]},
        decoder={"type": "Sequence", "decoders": [metaspace(), {"type": "ByteFallback"}, {"type": "Fuse"}]})


def merges_of(trained):
    return [list(m) if not isinstance(m, str) else m for m in json.loads(trained.to_str())["model"]["merges"]]


def bpe(data, byte_level):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    trained = Tokenizer(models.BPE(unk_token=None if byte_level else "<unk>"))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.Metaspace()
    first = ["<s>", "</s>", "<unk>"]
    trained.train_from_iterator(lines(data), trainers.BpeTrainer(
        vocab_size=700, limit_alphabet=300 if byte_level else 150, special_tokens=first + (
            [] if byte_level else ["<0x%02X>" % b for b in range(256)]),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else [], show_progress=False))
    vocab = dict(sorted(trained.get_vocab().items(), key=lambda item: item[1]))
    model = {"type": "BPE", "dropout": None, "unk_token": None if byte_level else "<unk>", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": not byte_level, "byte_fallback": not byte_level, "ignore_merges": False,
             "vocab": vocab, "merges": merges_of(trained)}
    return model, [token(i, n, rstrip=n == "</s>") for i, n in enumerate(first)]


def byte_level(data):
    """As SmolLM2: digits by themselves, then GPT-2's words; RoBERTa's ends."""
    model, added = bpe(data, True)
    return tokenizer_json(
        model, added_tokens=added, normalizer={"type": "NFC"},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        post_processor={"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True})


def gemma(data):
    model, added = bpe(data, False)
    return tokenizer_json(
        model, added_tokens=added, normalizer={"type": "Replace", "pattern": {"String": " "}, "content": MARK},
        pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        post_processor=template(("<s>", 0), None),
        decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"},
                                                  {"type": "Fuse"}]})


KINDS = {"wordpiece": wordpiece, "unigram": unigram, "bytes_unigram": bytes_unigram, "byte_level": byte_level, "gemma": gemma}


def main():
    from tokenizers import Tokenizer
    data = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "../../../../shared/data")
    cases = {}
    for kind, make in KINDS.items():
        folder = os.path.join(HERE, kind)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "tokenizer.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(make(data), f, separators=(",", ":"))
            f.write("\n")
        tokenizer = Tokenizer.from_file(path)
        encoded = [tokenizer.encode(text).ids for text in AWKWARD]
        cases[kind] = [[text, ids, tokenizer.decode(ids)] for text, ids in zip(AWKWARD, encoded)]
    with open(os.path.join(HERE, "cases.json"), "w", encoding="utf-8") as f:
        f.write("{" + ",\n".join(json.dumps(kind) + ": [\n " + ",\n ".join(json.dumps(c) for c in list_) + "]"
                                 for kind, list_ in cases.items()) + "}\n")


if __name__ == "__main__":
    main()
