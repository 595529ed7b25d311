"""Makes the inputs that need no writing: sums of twelve numbers, lists of twenty words, garbled texts.

    python experiments/crowd_inputs.py --out experiments/crowd/inputs

The other inputs there were written by hand for this package; the garbled texts are those of `proofread.jsonl`,
corrected, with characters confused as a scanner confuses them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from command import run

from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput, read_inputs
from hierrouter_jax.crowd.comparison.grading import corrected

HERE = Path(__file__).resolve().parent

NUM_SUMS, NUM_NUMBERS = 30, 12
NUM_LISTS, NUM_ITEMS = 20, 20
GARBLED_SHARE = 0.25  # of the characters that a scanner confuses with others
CONFUSED = {"l": "1", "o": "0", "e": "c", "h": "b", "i": "!", "s": "5", "t": "7", "a": "4", "u": "v", "g": "9"}
WORDS = """
anchor basket candle dragon engine feather garden hammer island jacket kettle ladder marble needle orchard pencil quarry
ribbon saddle temple umbrella valley walnut yellow zipper bottle cottage dolphin farmer goblet harbor insect jungle
kitten lemon magnet napkin oyster pillow rocket salad tunnel violin wagon
"""


def sums(seed: int) -> list[dict[str, object]]:
    """Return inputs of `arithmetic`."""
    draw = random.Random(f"sums/{seed}")
    return [{"text": " ".join(str(draw.randint(10, 99)) for _ in range(NUM_NUMBERS))} for _ in range(NUM_SUMS)]


def lists(seed: int) -> list[dict[str, object]]:
    """Return inputs of `sorting`, with their order in the alphabet."""
    draw = random.Random(f"lists/{seed}")
    drawn = [draw.sample(WORDS.split(), NUM_ITEMS) for _ in range(NUM_LISTS)]
    return [{"text": "\n".join(items), "gold": {"order": sorted(items)}} for items in drawn]


def garbled(seed: int, texts: Sequence[GradedInput]) -> list[dict[str, object]]:
    """Return inputs of `transcription`, with the texts as they were: the corrected ones of `find_fix_verify`."""
    draw = random.Random(f"garbled/{seed}")
    rows: list[dict[str, object]] = []
    for one in texts:
        right = corrected(one.text, [(wrong, mended) for wrong, mended in one.gold["errors"]])
        confused = [CONFUSED[c] if c in CONFUSED and draw.random() < GARBLED_SHARE else c for c in right]
        rows.append({"text": "".join(confused), "gold": {"text": right}})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for sums.jsonl, lists.jsonl, garbled.jsonl")
    parser.add_argument("--texts", type=Path, default=HERE / "crowd" / "inputs" / "proofread.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    made = {
        "sums": sums(options.seed),
        "lists": lists(options.seed),
        "garbled": garbled(options.seed, read_inputs(options.texts)),
    }
    for name, rows in made.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_text_atomically(options.out / f"{name}.jsonl", text)


if __name__ == "__main__":
    run(main)
