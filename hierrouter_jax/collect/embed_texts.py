"""Texts to embeddings, each distinct text once, in chunks of like length."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.encoder.text_encoder import TextEncoder

CHUNK_SIZE = 128


def embed_texts(encoder: TextEncoder, texts: Iterable[str], *, title: str, is_quiet: bool) -> dict[str, np.ndarray]:
    """Return the embedding of every distinct text, with a progress bar under `title`."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    embeddings: dict[str, np.ndarray] = {}
    with progress_bar(title, len(distinct), is_quiet=is_quiet) as advance:
        for start in range(0, len(distinct), CHUNK_SIZE):
            chunk = distinct[start : start + CHUNK_SIZE]
            embeddings |= dict(zip(chunk, encoder.encode(chunk), strict=True))
            advance(len(chunk))
    return embeddings
