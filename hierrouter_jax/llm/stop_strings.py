"""Stop strings: a text ends before the first of them, and its row with the token that completes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

IsComplete = Callable[[int, Sequence[int]], bool]  # (row, its new tokens)

# A token may hold no whole character, so a stop string is looked for in this many more tokens than it has characters.
SPARE_TOKENS = 8


def make_stop_test(decode: Callable[[Sequence[int]], str], stops: Sequence[Sequence[str]]) -> IsComplete | None:
    """Return the test whether a row's newest tokens hold one of its stop strings; None where no row has one."""
    if not any(stops):
        return None
    windows = [max(map(len, own), default=0) + SPARE_TOKENS for own in stops]

    def is_complete(row: int, new_ids: Sequence[int]) -> bool:
        if not stops[row]:
            return False
        newest = decode(new_ids[-windows[row] :])
        return any(stop in newest for stop in stops[row])

    return is_complete


def until_stop(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first of the stop strings."""
    return text[: min((end for end in map(text.find, stops) if end >= 0), default=len(text))]
