#!/usr/bin/env python3
"""A small made-up language of nine skills, for a tiny model that is cheap to prune.

Every item is a prompt and an answer.  Training text is
    prompt + " " + answer + EOS
and a greedy continuation of the prompt, cut at EOS or a newline and stripped,
must equal the answer.  Each skill has two tiers (0 easy, 1 hard) and at least
ten phrasings.  A prompt whose SHA-256 starts with a byte below HELD is held
out: the task files and evaluation.txt use only such prompts; training and
calibration.txt never do.

Standard library only, deterministic by seed:
    python3 generate.py [--out data] [--seed 7] [--items 260]
"""
import argparse
import hashlib
import json
import os
import random

HELD = 32                                   # of 256: one prompt in eight
LETTERS = "a b c d e f g h i j k l m n o p".split()
NOUNS = "dog cat bird boy girl cow".split()
VERBS = "run sleep eat sing jump walk".split()
ADJECTIVES = ["", "", "old ", "small ", "big ", "young "]
PREPOSITIONS = "near behind with".split()
CLOSING = {"(": ")", "[": "]", "{": "}"}

PHRASES = {
    "copy": """Copy {x}:|Repeat {x}:|Echo {x}:|Say {x} again:|Write {x} again:
        |Copy these letters {x}:|Repeat the letters {x}:|Say the same letters {x}:
        |Please copy {x}:|Write the same list {x}:""",
    "reverse": """Reverse {x}:|Flip {x}:|Turn {x} around:|Say {x} backwards:
        |Write {x} backwards:|Read {x} backwards:|Reverse these letters {x}:
        |Please reverse {x}:|Flip the letters {x}:|Turn the list {x} around:""",
    "sort": """Sort {x}:|Order {x}:|Arrange {x}:|Put {x} in order:|Say {x} in order:
        |Write {x} in order:|Sort these letters {x}:|Sort the list {x}:
        |Please sort {x}:|Arrange the letters {x}:""",
    "shift": """Shift {x}:|Advance {x}:|Step {x}:|Next after {x}:|Say what follows {x}:
        |Move {x} up by one:|Shift these letters {x}:|Please shift {x}:
        |Give the next letters for {x}:|Write the next of {x}:""",
    "add": """Add {a} and {b}:|Sum {a} and {b}:|Sum of {a} and {b}:|Total of {a} and {b}:
        |Find {a} plus {b}:|Give {a} plus {b}:|What is {a} plus {b}?
        |How much is {a} plus {b}?|Please add {a} and {b}:|What do {a} and {b} make?""",
    "close": """Close {x} now:|Match {x} now:|Balance {x} now:|Close the brackets {x} now:
        |What closes {x} here?|Which brackets close {x} here?|Please close {x} now:
        |Finish the brackets {x} here:|Give the end of {x} now:|End {x} now:""",
    "agree": """Use {v} after the {x}:|Put {v} after the {x}:|Verb {v} for the {x}:
        |Form of {v} for the {x}:|Which {v} follows the {x}?|Write {v} to fit the {x}:
        |Match {v} to the {x}:|Finish the {x} with {v}:|Give {v} for the {x}:
        |Say the {x} with {v}:""",
    "count": """Count {k} in {x}:|Count the {k} in {x}:|How many {k} are in {x}?
        |How often is {k} in {x}?|Number of {k} in {x}:|Please count {k} in {x}:
        |Find how many {k} in {x}:|Say how often {k} is in {x}:
        |Tell how many {k} in {x}:|Give the count of {k} in {x}:""",
    "largest": """Largest of {x}:|Biggest of {x}:|Top of {x}:|Find the largest of {x}:
        |Which is largest of {x}?|What is the biggest of {x}?|Give the biggest of {x}:
        |Please find the largest of {x}:|Say the top of {x}:|Pick the largest of {x}:""",
}
PHRASES = {s: [p.strip() for p in t.split("|")] for s, t in PHRASES.items()}
SKILLS = list(PHRASES)


def item(rng, skill, tier):
    """One (prompt, answer) of a skill and a tier, held out or not."""
    f, pick = {}, rng.choice
    if skill in ("copy", "reverse", "sort", "shift"):
        n = rng.randint(3, 5) if tier == 0 else rng.randint(6, 9)
        x = rng.sample(LETTERS[:-1] if skill == "shift" else LETTERS, n)
        y = {"copy": lambda: x, "reverse": lambda: x[::-1], "sort": lambda: sorted(x),
             "shift": lambda: [chr(ord(c) + 1) for c in x]}[skill]()
        f["x"], answer = " ".join(x), " ".join(y)
    elif skill == "add":
        if tier == 0:
            a, b, c = rng.randint(0, 30), rng.randint(0, 30), 0
        else:
            a, b, c = (rng.randint(1, 12) for _ in range(3))
        f["a"], f["b"], answer = a, "%d plus %d" % (b, c) if tier else b, str(a + b + c)
    elif skill == "close":
        n = rng.randint(3, 5) if tier == 0 else rng.randint(6, 11)
        x, stack = [], []
        while len(x) < n or not stack:
            if tier and stack and rng.random() < 0.4:
                x.append(CLOSING[stack.pop()])
            else:
                stack.append(pick("([{"))
                x.append(stack[-1])
        f["x"], answer = " ".join(x), " ".join(CLOSING[c] for c in reversed(stack))
    elif skill == "agree":
        plural, verb = rng.random() < 0.5, pick(VERBS)
        x = pick(ADJECTIVES) + pick(NOUNS) + "s" * plural
        if tier:
            x += " %s the %s%s%s" % (pick(PREPOSITIONS), pick(ADJECTIVES), pick(NOUNS),
                                     "s" * (rng.random() < 0.5))
        f["x"], f["v"], answer = x, verb, verb + "s" * (not plural)
    elif skill == "count":
        n = rng.randint(3, 5) if tier == 0 else rng.randint(7, 11)
        kinds = rng.sample(LETTERS, 2 if tier == 0 else 3)
        x = [pick(kinds) for _ in range(n)]
        f["x"], f["k"], answer = " ".join(x), kinds[0], str(x.count(kinds[0]))
    else:                                   # largest
        x = rng.sample(range(61), rng.randint(2, 3) if tier == 0 else rng.randint(5, 7))
        f["x"], answer = " ".join(map(str, x)), str(max(x))
    return pick(PHRASES[skill]).format(**f), answer


def held_out(prompt):
    return hashlib.sha256(prompt.encode()).digest()[0] < HELD


def draw(rng, skill, tier, held=False):
    """An item on the wanted side of the split."""
    while True:
        prompt, answer = item(rng, skill, tier)
        if held_out(prompt) == held:
            return prompt, answer


def document(rng, words, held):
    """Mixed documents, one a paragraph, until `words` words are out."""
    out, n = [], 0
    while n < words:
        skill = SKILLS[len(out) % len(SKILLS)]
        prompt, answer = draw(rng, skill, rng.randrange(2), held)
        out.append(prompt + " " + answer)
        n += len(out[-1].split()) + 1       # at least one token more: ':' or '?'
    order = list(range(len(out)))
    rng.shuffle(order)
    return "\n\n".join(out[i] for i in order) + "\n"


def main():
    ap = argparse.ArgumentParser(description="Write the held-out tasks and the two texts.")
    ap.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "data"))
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--items", type=int, default=260, help="held-out items per skill and tier")
    args = ap.parse_args()
    os.makedirs(os.path.join(args.out, "choice"), exist_ok=True)

    def write(name, text):
        with open(os.path.join(args.out, name), "w", newline="\n") as f:
            f.write(text)

    for skill in SKILLS:
        rng = random.Random("%d %s" % (args.seed, skill))
        tiers = []
        for tier in (0, 1):
            seen = {}
            while len(seen) < args.items:   # a dict keyed by prompt: no duplicates
                prompt, answer = draw(rng, skill, tier, held=True)
                seen[prompt] = answer
            tiers.append(list(seen.items()))
        # Tiers alternate: lines 1, 3, 5... are easy, lines 2, 4, 6... hard.
        rows = [r for pair in zip(*tiers) for r in pair]
        write(skill + ".jsonl", "".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in rows))
        if skill in ("agree", "largest"):
            lines = []
            for p, a in rows:
                if skill == "agree":
                    choices = sorted({a, a[:-1] if a.endswith("s") else a + "s"})
                else:
                    choices = [w.strip("?:") for w in p.split() if w[0].isdigit()]
                lines.append(json.dumps({"query": p, "choices": choices, "gold": choices.index(a)}))
            write("choice/" + skill + ".jsonl", "\n".join(lines) + "\n")
    write("calibration.txt", document(random.Random("%d calibration" % args.seed), 42000, False))
    write("evaluation.txt", document(random.Random("%d evaluation" % args.seed), 21000, True))


if __name__ == "__main__":
    main()
