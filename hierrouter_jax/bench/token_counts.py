"""Tokens computed beside tokens billed.

Billed are the tokens that responses state: prompts whole, and what was written. Computed are the positions that went
through a model, padding, finished rows and repeated prefixes included: what the hardware had to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """Counts of one run; `computed_prompt` are positions of prefill, `computed_new` rows times decode steps."""

    computed_prompt: int
    computed_new: int
    billed_prompt: int
    billed_new: int

    @property
    def computed(self) -> int:
        """All positions computed."""
        return self.computed_prompt + self.computed_new

    @property
    def billed(self) -> int:
        """All tokens billed."""
        return self.billed_prompt + self.billed_new

    def __add__(self, other: TokenCounts) -> TokenCounts:
        """Return the counts of both."""
        return TokenCounts(
            computed_prompt=self.computed_prompt + other.computed_prompt,
            computed_new=self.computed_new + other.computed_new,
            billed_prompt=self.billed_prompt + other.billed_prompt,
            billed_new=self.billed_new + other.billed_new,
        )


NO_TOKENS = TokenCounts(computed_prompt=0, computed_new=0, billed_prompt=0, billed_new=0)


@runtime_checkable
class CountingEngine(Protocol):
    """An engine that counts what it computes, from its making on."""

    @property
    def token_counts(self) -> TokenCounts:
        """The counts so far."""
        ...


def counts_of(engine: object) -> TokenCounts | None:
    """Return the counts of an engine that has them."""
    counts = getattr(engine, "token_counts", None)
    if counts is None:
        return None
    fields = ("computed_prompt", "computed_new", "billed_prompt", "billed_new")
    return TokenCounts(**{name: int(getattr(counts, name)) for name in fields})
