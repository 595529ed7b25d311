"""Percentile intervals of a mean by the bootstrap over queries, paired across systems.

A resample draws as many queries as there are, with replacement, and every system is averaged over the same draw. An
interval of a difference of two systems is therefore the interval of the mean of the per-query difference, which is
narrower than the two intervals suggest when both find the same queries hard. Units are those of the values.
Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from hierrouter_jax.core.errors import ConfigError

MAX_COUNTS_IN_MEMORY = 1 << 22  # entries of one block of resamples; bounds memory at 32 MiB whatever the tree's size


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """How intervals are drawn: equal configs and equal query counts give equal resamples."""

    num_resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a level outside (0, 1) and fewer than two resamples."""
        if self.num_resamples < 2:
            raise ConfigError(f"num_resamples must be at least 2, but is {self.num_resamples}.")
        if not 0 < self.level < 1:
            raise ConfigError(f"level must be between 0 and 1, such as 0.95, but is {self.level}.")


def mean_intervals(
    values: Float[np.ndarray, "system query"],
    config: BootstrapConfig,
    *,
    weights: Float[np.ndarray, " query"] | None = None,
) -> Float[np.ndarray, "system bound"]:
    """Return the lower and upper bound of each row's mean; rows share their resamples."""
    means = resampled_means(values, config, weights=weights)
    tail = (1 - config.level) / 2
    return np.quantile(means, [tail, 1 - tail], axis=1).T


def difference_interval(
    values: Float[np.ndarray, " query"],
    reference: Float[np.ndarray, " query"],
    config: BootstrapConfig,
    *,
    weights: Float[np.ndarray, " query"] | None = None,
) -> tuple[float, float]:
    """Return the interval of mean(values) - mean(reference), paired by query."""
    lower, upper = mean_intervals((values - reference)[None], config, weights=weights)[0]
    return float(lower), float(upper)


def resampled_means(
    values: Float[np.ndarray, "system query"],
    config: BootstrapConfig,
    *,
    weights: Float[np.ndarray, " query"] | None = None,
) -> Float[np.ndarray, "system resample"]:
    """Return each row's mean over each resample: sum_q count_q weight_q value_q / sum_q count_q weight_q.

    Weights are positive; without them all queries count alike.
    """
    num_queries = values.shape[1]
    if num_queries == 0:
        raise ConfigError("an interval needs at least one query, but there is none; evaluate a split that has rows.")
    rows = values.astype(np.float64)
    own = np.ones(num_queries) if weights is None else weights.astype(np.float64)
    blocks = [(rows * own) @ counts.T / (counts @ own) for counts in _count_blocks(num_queries, config)]
    return np.concatenate(blocks, axis=1)


def _count_blocks(num_queries: int, config: BootstrapConfig) -> Iterable[Float[np.ndarray, "resample query"]]:
    """Return how often each query is drawn in each resample, in blocks; what fits one block is remembered."""
    if num_queries * config.num_resamples <= MAX_COUNTS_IN_MEMORY:
        return _one_block(num_queries, config)
    return _drawn_blocks(num_queries, config)


@lru_cache(maxsize=16)
def _one_block(num_queries: int, config: BootstrapConfig) -> tuple[Float[np.ndarray, "resample query"], ...]:
    return tuple(_drawn_blocks(num_queries, config))


def _drawn_blocks(num_queries: int, config: BootstrapConfig) -> Iterator[Float[np.ndarray, "resample query"]]:
    generator = np.random.default_rng(config.seed)
    uniform = np.full(num_queries, 1 / num_queries)
    block = max(1, MAX_COUNTS_IN_MEMORY // num_queries)
    for start in range(0, config.num_resamples, block):
        size = min(block, config.num_resamples - start)
        yield generator.multinomial(num_queries, uniform, size=size).astype(np.float64)
