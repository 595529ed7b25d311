"""Encoders by name, alone or side by side: `all-MiniLM-L6-v2+ngrams-512` is a sentence encoder and hashed n-grams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.encoder.ngrams import NgramEncoder
from hierrouter_jax.encoder.sentence_encoder import ALL_MINILM_L6_V2, load_encoder
from hierrouter_jax.encoder.text_encoder import TextEncoder

_WITH_NGRAMS = re.compile(r"(.*)\+ngrams-(\d+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class JointEncoder:
    """Several encoders' vectors one behind the other, each with the same share of the norm."""

    parts: tuple[TextEncoder, ...]

    def __post_init__(self) -> None:
        """Refuse to join nothing."""
        if not self.parts:
            raise ConfigError("A JointEncoder needs at least one encoder, but got none.")

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return sum(part.dim for part in self.parts)

    @property
    def digest(self) -> str:
        """Identity of all parts, in their order."""
        return digest({"encoder": "joint-1", "parts": [part.digest for part in self.parts]})

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Return one unit vector a text."""
        return np.concatenate([part.encode(texts) for part in self.parts], axis=1) / np.float32(
            np.sqrt(len(self.parts))
        )


def open_encoder(
    source: str = ALL_MINILM_L6_V2.source, *, cache_dir: Path | None = None, is_quiet: bool = False
) -> TextEncoder:
    """Return the encoder of a name or source as `load_encoder` takes them; `+ngrams-N` behind it adds n-grams.

    Raises `ConfigError` and `WeightsError` as `load_encoder` does, and `ConfigError` for an odd N.
    """
    match = _WITH_NGRAMS.fullmatch(source)
    if match is None:
        return load_encoder(source, cache_dir=cache_dir, is_quiet=is_quiet)
    ngrams = NgramEncoder(int(match[2]))
    return JointEncoder(parts=(load_encoder(match[1], cache_dir=cache_dir, is_quiet=is_quiet), ngrams))
