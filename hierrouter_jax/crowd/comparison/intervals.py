"""Intervals of shares and means over inputs, by SciPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hierrouter_jax.core.errors import DataError

LEVEL, NUM_RESAMPLES = 0.95, 2000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over inputs with its 95% interval. `count` is the number of inputs."""

    mean: float
    low: float
    high: float
    count: int


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of one number an input, with the percentile interval of the bootstrap over inputs.

    Where all numbers are equal the bootstrap knows no other: for shares (0 or 1) the interval is then that of Wilson.
    Raises `DataError` without a number.
    """
    numbers = np.asarray(values, np.float64)
    if not numbers.size:
        raise DataError("A mean needs at least one input, but there is none.")
    mean = float(numbers.mean())
    if np.all((numbers == 0) | (numbers == 1)):
        return share_estimate(int(numbers.sum()), len(numbers))
    if np.all(numbers == numbers[0]):
        return Estimate(mean=mean, low=mean, high=mean, count=len(numbers))
    return _bootstrapped(numbers)


def difference_estimate(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Return the mean of first less second, two scores in [0, 1] an input, with its interval, as of a mean.

    Where both sides are equal on every input, no more than Wilson's share of inputs may favour either.
    """
    numbers = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if not numbers.size:
        raise DataError("A difference needs at least one input, but there is none.")
    if np.all(numbers == 0):
        bound = share_estimate(0, len(numbers)).high
        return Estimate(mean=0.0, low=-bound, high=bound, count=len(numbers))
    if np.all(numbers == numbers[0]):
        bound = share_estimate(len(numbers), len(numbers)).low * float(numbers[0])
        low, high = sorted((bound, float(numbers[0])))
        return Estimate(mean=float(numbers[0]), low=low, high=high, count=len(numbers))
    return _bootstrapped(numbers)


def _bootstrapped(numbers: np.ndarray) -> Estimate:
    found = stats.bootstrap(
        (numbers,), np.mean, n_resamples=NUM_RESAMPLES, confidence_level=LEVEL, method="percentile", rng=0
    ).confidence_interval
    return Estimate(mean=float(numbers.mean()), low=float(found.low), high=float(found.high), count=len(numbers))


def share_estimate(successes: int, count: int) -> Estimate:
    """Return a share of independent trials with Wilson's interval; `DataError` without a trial."""
    if count < 1:
        raise DataError("A share needs at least one trial, but there is none.")
    found = stats.binomtest(successes, count).proportion_ci(confidence_level=LEVEL, method="wilson")
    return Estimate(mean=successes / count, low=float(found.low), high=float(found.high), count=count)
