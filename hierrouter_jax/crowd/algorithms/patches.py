"""Which passages finders agree on, and which rewrites bring a text to a length (Bernstein et al. 2010, Soylent)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def agreed_patches(
    spans_by_worker: Sequence[Sequence[Sequence[int]]], num_workers: int, min_agreement: float
) -> list[tuple[int, int]]:
    """Return the passages [start, end) that enough of `num_workers` agree on, in the order of the text.

    A character is agreed on when max(1, ceil(min_agreement * num_workers)) workers have marked it. Every mark with an
    agreed character counts; those that count are joined where they share a character, and each union is a patch.
    """
    needed = max(1, math.ceil(Fraction(str(min_agreement)) * num_workers))
    marks = sorted({(start, end) for spans in spans_by_worker for start, end in spans})
    num_by_char = [0] * max((end for _, end in marks), default=0)
    for spans in spans_by_worker:
        for place in {place for start, end in spans for place in range(start, end)}:
            num_by_char[place] += 1
    agreed = [mark for mark in marks if any(num >= needed for num in num_by_char[slice(*mark)])]
    patches: list[tuple[int, int]] = []
    for start, end in agreed:
        if patches and start < patches[-1][1]:
            patches[-1] = (patches[-1][0], max(patches[-1][1], end))
        else:
            patches.append((start, end))
    return patches


def pick_for_length(
    num_chars: int, target_chars: int, rewrites: Sequence[Sequence[tuple[int, Fraction]]]
) -> list[int | None]:
    """Return which rewrite of each patch to take, None for its original: a multiple-choice knapsack, solved exactly.

    A rewrite is (characters it saves, meaning it loses). Of all choices that bring the text of `num_chars` to
    `target_chars` or less, the one that loses least in sum is taken; of equals, the one that changes fewest patches;
    then the one that leaves the longest text; then, from the first patch on, the original before rewrites and earlier
    before later ones. Where no choice is short enough, the shortest text is taken, by the same rules.
    """
    scale = math.lcm(*(lost.denominator for own in rewrites for _, lost in own))  # losses as whole numbers
    base = 1 + max(map(len, rewrites), default=0)  # a choice is a number: a digit for each patch, 0 its original
    best = {0: (0, 0, 0)}  # by characters saved: loss, patches changed, choice
    for own in rewrites:
        options = [(0, 0, 0, 0), *((saved, int(lost * scale), 1, 1 + place) for place, (saved, lost) in enumerate(own))]
        grown: dict[int, tuple[int, int, int]] = {}
        for total, (loss, num_changed, choice) in best.items():
            for saved, lost, changed, digit in options:
                new = (loss + lost, num_changed + changed, choice * base + digit)
                if new < grown.get(total + saved, (math.inf,)):
                    grown[total + saved] = new
        best = grown
    wanted = min(num_chars - target_chars, max(best))
    _, _, _, choice = min((*best[saved][:2], saved, best[saved][2]) for saved in best if saved >= wanted)
    digits = [choice // base**place % base for place in reversed(range(len(rewrites)))]
    return [None if digit == 0 else digit - 1 for digit in digits]
