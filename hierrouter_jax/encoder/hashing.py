"""Hashed bag of words: an encoder without weights, for tests and as a baseline for the sentence encoder.

Every word adds +1 or -1 to one coordinate, both chosen by a hash of the word, so inner products estimate word overlap
without bias (Weinberger et al. 2009, arXiv:0902.2206, eq. 2). Word order and synonyms are lost.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.errors import ConfigError

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class HashingEncoder:
    """Encodes a text as its hashed words, in `dim` coordinates."""

    dim: int

    def __post_init__(self) -> None:
        """Refuse a vector without coordinates."""
        if self.dim < 1:
            raise ConfigError(f"HashingEncoder needs dim >= 1, but got {self.dim}.")

    @property
    def digest(self) -> str:
        """Identity of the rule and the number of coordinates."""
        return digest({"encoder": "hashed-words-1", "dim": self.dim})

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Return one unit vector a text; a text whose words cancel or are absent is the first axis."""
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in _WORD.findall(text.lower()):
                index, sign = _coordinate(word, self.dim)
                row[index] += sign
            if not row.any():
                row[0] = 1.0
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _coordinate(word: str, dim: int) -> tuple[int, int]:
    """Return the coordinate and the sign of a word, the same in every process (unlike `hash`)."""
    bits = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return (bits >> 1) % dim, 1 if bits & 1 else -1
