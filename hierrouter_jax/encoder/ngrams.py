"""Hashed n-grams of words and of characters: how a question is written, where a sentence encoder says what it means.

Letter case, punctuation, formulas and fixed phrases tell benchmarks and kinds of tasks apart; a sentence encoder drops
most of that. Words in ones and twos fill the first half of the vector, characters in ones to fours the second; each
n-gram adds to one coordinate, chosen with its sign by a hash, so nothing is learned and nothing is stored (Weinberger
et al. 2009, arXiv:0902.2206). Sums enter by the logarithm of 1 plus their size: the tenth occurrence says little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import HashingVectorizer

from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.errors import ConfigError

WORDS: dict[str, Any] = {"analyzer": "word", "ngram_range": (1, 2)}
CHARACTERS: dict[str, Any] = {"analyzer": "char", "ngram_range": (1, 4), "lowercase": False}


@dataclass(frozen=True)
class NgramEncoder:
    """Encodes a text as its hashed n-grams, in `dim` coordinates."""

    dim: int

    def __post_init__(self) -> None:
        """Refuse a vector that has no two equal halves."""
        if self.dim < 2 or self.dim % 2:
            raise ConfigError(f"NgramEncoder needs an even dim >= 2, but got {self.dim}.")

    @property
    def digest(self) -> str:
        """Identity of the rule and the number of coordinates."""
        return digest({"encoder": "hashed-ngrams-1", "dim": self.dim})

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Return one unit vector a text; a text without n-grams is the first axis."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        halves = [_half(texts, self.dim // 2, rule) for rule in (WORDS, CHARACTERS)]
        return np.concatenate(halves, axis=1) / np.float32(np.sqrt(2))


def _half(texts: Sequence[str], dim: int, rule: dict[str, Any]) -> Float[np.ndarray, "text half"]:
    """Return the unit vectors of one kind of n-grams."""
    readable = [text.encode("utf-8", "replace").decode() for text in texts]  # a lone surrogate has no bytes to hash
    counts = HashingVectorizer(n_features=dim, norm=None, **rule).transform(readable)
    rows = counts.toarray().astype(np.float32)
    rows = np.sign(rows) * np.log1p(np.abs(rows))
    rows[~rows.any(axis=1), 0] = 1.0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
