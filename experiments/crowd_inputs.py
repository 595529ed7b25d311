"""Makes the inputs that need no writing: sums of twelve numbers, lists of twenty words to be sorted.

    python experiments/crowd_inputs.py --out experiments/crowd/inputs

The texts to be proofread beside them (`proofread.jsonl`) were written by hand for this package.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from command import run

from hierrouter_jax.core.atomic_files import write_text_atomically

NUM_SUMS, NUM_NUMBERS = 30, 12
NUM_LISTS, NUM_ITEMS = 20, 20
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for sums.jsonl and lists.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("sums", sums(options.seed)), ("lists", lists(options.seed))):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_text_atomically(options.out / f"{name}.jsonl", text)


if __name__ == "__main__":
    run(main)
