"""Tokens computed beside tokens billed.

Billed are the tokens that responses state: prompts whole, and what was written. Computed are the positions that went
through a model, padding, finished rows and repeated prefixes included: what the hardware had to do. Of ranked options,
`computed_new` are the positions that options add to their prompts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class TokenCounts:
    """Counts that add up; `computed_prompt` are positions of prefill, `computed_new` rows times decode steps."""

    billed_prompt: int = 0
    billed_new: int = 0
    computed_prompt: int = 0
    computed_new: int = 0

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
            billed_prompt=self.billed_prompt + other.billed_prompt,
            billed_new=self.billed_new + other.billed_new,
            computed_prompt=self.computed_prompt + other.computed_prompt,
            computed_new=self.computed_new + other.computed_new,
        )

    def __sub__(self, earlier: TokenCounts) -> TokenCounts:
        """Return what was counted since `earlier`."""
        return TokenCounts(
            billed_prompt=self.billed_prompt - earlier.billed_prompt,
            billed_new=self.billed_new - earlier.billed_new,
            computed_prompt=self.computed_prompt - earlier.computed_prompt,
            computed_new=self.computed_new - earlier.computed_new,
        )
