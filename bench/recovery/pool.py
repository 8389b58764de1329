#!/usr/bin/env python3
"""A recovery pool of the skills model's language, skewed and dirty, and the validation items (PROTOCOL.md says why these shares).

Every record is {"instruction": prompt, "response": " " + answer}. What a record is ("right", "noise", "copy", "near", "irrelevant") and
which unit it belongs to stands in a list beside it, which the oracle and the reports read and no selection sees. All prompts are of
the training side of tests/skills/generate.py; validation items are of the held-out side, and none of them is in the task files.

    pool.py --damaged "count hard,count easy" [--kind rare] [--seed 1] [--records 2400] > pool.jsonl
"""
import argparse
import json
import os
import random
import re
import sys

SKILLS_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "skills")
sys.path.insert(0, SKILLS_FOLDER)
import generate  # noqa: E402

UNITS = [(skill, tier) for skill in generate.SKILLS for tier in (0, 1)]
SHARES = {"right": 0.6, "noise": 0.1, "copy": 0.1, "near": 0.1, "irrelevant": 0.1}
KINDS = ("rare", "common")
NAMES = "Sam Max Tom Liz Kim Bob Ann Eve Joe Amy".split()
COLOURS = "red blue gray green black brown orange pink white gold".split()


def unit_name(unit):
    return unit[0] + (" hard" if unit[1] else " easy")


def unit_shares(kind, damaged):
    """Share of each unit among the records that belong to one."""
    intact = [unit for unit in UNITS if unit not in damaged]
    groups = [(damaged, 0.12), (intact, 0.88)]
    if kind == "common":
        groups = [(damaged, 0.3), (intact[::2], 0.04), (intact[1::2], 0.66)]
    return {unit: share / len(units) for units, share in groups for unit in units}


def spread(shares, count):
    """Whole numbers of the shares that sum to count: largest remainders, ties to the earlier."""
    exact = {key: share * count for key, share in shares.items()}
    result = {key: int(value) for key, value in exact.items()}
    order = sorted(exact, key=lambda key: result[key] - exact[key])
    for key in order[: count - sum(result.values())]:
        result[key] += 1
    return result


def phrase_pattern(phrase):
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>.+)", re.escape(phrase)))


PATTERNS = {skill: [(phrase, phrase_pattern(phrase)) for phrase in sorted(phrases, key=len, reverse=True)]
            for skill, phrases in generate.PHRASES.items()}


def rephrase(rng, skill, prompt):
    """The same question in another phrasing of the training side; None if there is none."""
    for phrase, pattern in PATTERNS[skill]:     # the longest phrase that fits is the one it was made by
        found = pattern.fullmatch(prompt)
        if found:
            others = [other.format(**found.groupdict()) for other in generate.PHRASES[skill] if other != phrase]
            others = [other for other in others if not generate.held_out(other)]
            return rng.choice(others) if others else None
    raise ValueError("no phrase of %s makes %r" % (skill, prompt))


def sentence(rng):
    """Words of the language that ask and answer nothing it knows."""
    thing = lambda: "the %s %s" % (rng.choice(COLOURS + ["old", "small", "big", "young"]), rng.choice(generate.NOUNS))
    clause = lambda: rng.choice(NAMES) + " " + rng.choice(("has", "is near", "walks with", "runs to", "sings for")) + " " + thing()
    prompt = rng.choice(("Tell what %s has:", "Look for %s:", "Remember %s:", "Say how %s is:")) % rng.choice(NAMES)
    return prompt, " and ".join(clause() for _ in range(rng.randint(1, 3)))


def make_pool(kind, damaged, seed, count):
    """[(record, what, unit or None)] in random order."""
    rng = random.Random("pool %s %s %d" % (kind, ",".join(map(unit_name, damaged)), seed))
    numbers, shares, rows, seen = spread(SHARES, count), unit_shares(kind, damaged), [], set()

    def fresh(unit):
        while True:
            prompt, answer = generate.draw(rng, *unit)
            if prompt not in seen:
                seen.add(prompt)
                return prompt, answer

    def add(prompt, answer, what, unit):
        rows.append(({"instruction": prompt, "response": " " + answer}, what, unit))

    right = {unit: [fresh(unit) for _ in range(number)] for unit, number in spread(shares, numbers["right"]).items()}
    for unit, items in right.items():
        for prompt, answer in items:
            add(prompt, answer, "right", unit)
    for unit, number in spread(shares, numbers["noise"]).items():
        for _ in range(number):
            prompt, answer = fresh(unit)
            wrong = answer
            while wrong == answer:
                wrong = generate.draw(rng, *unit)[1]
            add(prompt, wrong, "noise", unit)
    for unit, number in spread(shares, numbers["copy"]).items():
        for prompt, answer in rng.choices(right[unit], k=number):
            add(prompt, answer, "copy", unit)
    for unit, number in spread(shares, numbers["near"]).items():
        while number:
            prompt, answer = rng.choice(right[unit])
            other = rephrase(rng, unit[0], prompt)
            if other is not None:
                add(other, answer, "near", unit)
                number -= 1
    for _ in range(numbers["irrelevant"]):
        add(*sentence(rng), "irrelevant", None)
    rng.shuffle(rows)
    return rows


def validation(count):
    """{unit: [(prompt, answer)]}, held out and not in the task files."""
    result = {}
    for skill, tier in UNITS:
        with open(os.path.join(SKILLS_FOLDER, "data", skill + ".jsonl"), encoding="utf-8") as file:
            taken = {json.loads(line)["prompt"] for line in file}
        rng, items = random.Random("validation %s %d" % (skill, tier)), []
        while len(items) < count:
            prompt, answer = generate.draw(rng, skill, tier, held=True)
            if prompt not in taken:
                taken.add(prompt)
                items.append((prompt, answer))
        result[skill, tier] = items
    return result


def tests():
    """{unit: [(prompt, answer)]}: the task files, whose odd lines are easy and even ones hard."""
    result = {}
    for skill in generate.SKILLS:
        with open(os.path.join(SKILLS_FOLDER, "data", skill + ".jsonl"), encoding="utf-8") as file:
            rows = [(row["prompt"], row["answer"]) for row in map(json.loads, file)]
        for tier in (0, 1):
            result[skill, tier] = rows[tier::2]
    return result


def main():
    parser = argparse.ArgumentParser(description="Write a recovery pool.")
    parser.add_argument("--damaged", required=True, help='units, comma-separated, as "count hard"')
    parser.add_argument("--kind", choices=KINDS, default="rare")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=2400)
    args = parser.parse_args()
    names = {unit_name(unit): unit for unit in UNITS}
    for record, _, _ in make_pool(args.kind, [names[name] for name in args.damaged.split(",")], args.seed, args.records):
        print(json.dumps(record))


if __name__ == "__main__":
    main()
