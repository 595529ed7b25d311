"""How many rows and which sizes go to the device at once: buckets, batches, memory bounds.

Sizes are rounded up to a few buckets because every new size compiles a program: batches and caches to one or two sizes
an octave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
import psutil

from hierrouter_jax.core.errors import ConfigError, DataError, PromptTooLongError
from hierrouter_jax.llm.cache import slot_bytes
from hierrouter_jax.llm.decoder import DecoderModel

SMALLEST_CACHE = 128
FEW_ROWS = 4
FEW_PLACES = 8


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """What bounds a batch; the defaults are for CPU, `device_limits` has those of the device at hand.

    `max_batch` rows decode together, fewer where their caches would exceed `max_cache_bytes`; they get `min_places`
    places at least. Prompts of up to `max_read_tokens`, padding included, are read together (one prompt at least).
    The host looks at the rows every `chunk` steps at least. At most `max_prefix_bytes` of a model's prompts are kept
    for others that begin alike; 0 keeps none. Where at most `max_lookup_batch` rows decode, up to `lookup_length`
    tokens that a row may repeat are checked in one step; 0 rows checks none. Beyond `max_programs` compiled programs,
    all are let go (see `programs`).
    """

    max_batch: int = 64
    min_places: int = 1
    max_read_tokens: int = 512
    max_cache_bytes: int = 4 * 2**30
    max_prefix_bytes: int = 2**29
    max_lookup_batch: int = 2
    lookup_length: int = 7
    chunk: int = 8
    max_programs: int = 64

    def __post_init__(self) -> None:
        """Refuse limits under which nothing can run."""
        for name in ("max_batch", "min_places", "max_read_tokens", "max_cache_bytes", "chunk", "max_programs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, but is {getattr(self, name)}.")
        for name in ("max_prefix_bytes", "max_lookup_batch", "lookup_length"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be >= 0, but is {getattr(self, name)}.")


def device_limits() -> BatchLimits:
    """Return the limits for the default device: on an accelerator, which large batches suit, by its free memory.

    Half of what is free goes to the rows in flight and a sixteenth to kept prompts; parameters that are loaded later,
    and what a step needs besides, share the rest. A GPU's single row has an empty place beside it: of one row times a
    matrix XLA makes a sum over a product that is written to memory first, of two rows a matrix product.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        free = psutil.virtual_memory().available
        return BatchLimits(max_cache_bytes=min(BatchLimits.max_cache_bytes, max(2**28, free // 4)))
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", 8 * 2**30) - stats.get("bytes_in_use", 0)
    return BatchLimits(
        max_batch=256,
        min_places=2 if device.platform == "gpu" else 1,
        max_read_tokens=4096,
        max_cache_bytes=max(2**28, free // 2),
        max_prefix_bytes=free // 16,
        max_lookup_batch=16,
        chunk=32,
    )


def round_up(size: int, *, smallest: int, per_octave: int) -> int:
    """Return the least bucket >= size: `smallest` times powers of two, each octave split into equal parts."""
    octave = smallest
    while octave * 2 < size:
        octave *= 2
    if size <= octave:
        return octave
    part = max(1, octave // per_octave)
    return octave + part * -(-(size - octave) // part)


def batch_bucket(num_rows: int) -> int:
    """Return the power of two that holds the rows."""
    return round_up(num_rows, smallest=1, per_octave=1)


def decode_bucket(num_rows: int) -> int:
    """Return how many places rows that decode together get: up to `FEW_PLACES` a power of two, then half-steps too.

    Rows end one by one and a step costs what its places cost: beyond a few rows waste is dearer than a program.
    """
    return batch_bucket(num_rows) if num_rows <= FEW_PLACES else round_up(num_rows, smallest=FEW_PLACES, per_octave=2)


def slot_bucket(num_tokens: int, num_rows: int) -> int:
    """Return the number of cache slots that holds the tokens of rows that decode together.

    Few rows get coarse sizes: what they look at in vain is little beside the weights, and a size is a program.
    """
    if num_rows <= FEW_ROWS:
        return reading_bucket(num_tokens)
    return round_up(num_tokens, smallest=SMALLEST_CACHE, per_octave=2)


def reading_bucket(num_tokens: int) -> int:
    """Return the number of slots of rows that are being read; coarser, as reading meets many more sizes."""
    return round_up(num_tokens, smallest=SMALLEST_CACHE, per_octave=1)


def fits_memory(model: DecoderModel, num_rows: int, num_tokens: int, limits: BatchLimits) -> bool:
    """Return whether the caches of rows of up to `num_tokens` stay within the bound; those of one row always may."""
    row_bytes = slot_bytes(model.config, dtype=model.dtype) * slot_bucket(num_tokens, num_rows)
    return num_rows == 1 or decode_bucket(num_rows) * row_bytes <= limits.max_cache_bytes


def pad_tokens(rows: Sequence[Sequence[int]], num_rows: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids padded on the right with 0, rows of one 0 behind, and the rows' lengths."""
    tokens = np.zeros((num_rows, num_tokens), np.int32)
    lengths = np.ones((num_rows,), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        lengths[index] = len(row)
    return tokens, lengths


def check_prompts(model: DecoderModel, prompts: Sequence[Sequence[int]], budgets: Sequence[int]) -> None:
    """Raise for the first prompt that cannot be continued by its budget of tokens."""
    if len(budgets) != len(prompts):
        raise ConfigError(f"max_new_tokens must be one a prompt ({len(prompts)}), but are {len(budgets)}.")
    window, vocab_size = model.config.context_window, model.config.vocab_size
    for row, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True)):
        if not prompt:
            raise DataError(f"A prompt must have at least one token, but prompt {row} has none.")
        if budget < 1:
            raise ConfigError(f"max_new_tokens must be >= 1, but is {budget} for prompt {row}.")
        if len(prompt) + budget > window:
            raise PromptTooLongError(
                f"Prompt and answer must fit the context window of {window} tokens, but prompt {row} has {len(prompt)} "
                f"and asks for {budget} more. Shorten the prompt or the answer."
            )
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise DataError(f"Tokens must be in [0, {vocab_size}), but prompt {row} has {min(prompt)}..{max(prompt)}.")
