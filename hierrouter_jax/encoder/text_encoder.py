"""The protocol every encoder of texts answers to: a Flax sentence encoder, or hashed words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float


@runtime_checkable
class TextEncoder(Protocol):
    """Turns texts into unit vectors, each a function of its own text alone."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def digest(self) -> str:
        """Identity of the encoder: two encoders of one digest give the same vectors."""
        ...

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Return one float32 vector of norm 1 a text, in the order of the texts; the empty text has one too."""
        ...
