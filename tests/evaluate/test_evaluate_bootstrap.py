"""Bootstrap against an explicit loop over resamples, identities of pairing, and coverage of a known mean."""

import numpy as np
import pytest

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.evaluate import bootstrap
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, difference_interval, mean_intervals, resampled_means


def test_resampled_means_equal_a_loop_that_averages_drawn_values():
    values = np.random.default_rng(3).normal(size=(5, 11))
    config = BootstrapConfig(num_resamples=13, seed=7)
    counts = np.random.default_rng(7).multinomial(11, np.full(11, 1 / 11), size=13)
    expected = np.empty((5, 13))
    for row in range(5):
        for resample in range(13):
            drawn = [value for value, count in zip(values[row], counts[resample], strict=True) for _ in range(count)]
            assert len(drawn) == 11
            expected[row, resample] = sum(drawn) / len(drawn)
    np.testing.assert_allclose(resampled_means(values, config), expected, rtol=1e-12)


def test_intervals_are_the_percentiles_of_the_resampled_means():
    values = np.random.default_rng(0).random((3, 17))
    config = BootstrapConfig(num_resamples=401, level=0.9)
    means = resampled_means(values, config)
    expected = np.stack([np.quantile(means, 0.05, axis=1), np.quantile(means, 0.95, axis=1)], axis=1)
    np.testing.assert_allclose(mean_intervals(values, config), expected, rtol=1e-12)


def test_a_system_does_not_differ_from_itself():
    values = np.random.default_rng(1).random(19)
    assert difference_interval(values, values.copy(), BootstrapConfig()) == (0.0, 0.0)


def test_a_constant_shift_has_an_interval_of_no_width():
    values = np.random.default_rng(1).random(19)
    lower, upper = difference_interval(values + 0.25, values, BootstrapConfig())
    assert lower == pytest.approx(0.25, abs=1e-12)
    assert upper == pytest.approx(0.25, abs=1e-12)


def test_pairing_is_narrower_than_unpaired_intervals_where_systems_agree():
    rng = np.random.default_rng(5)
    hardness = rng.normal(size=211)
    first, second = hardness + 0.1 * rng.normal(size=211), hardness + 0.1 * rng.normal(size=211)
    lower, upper = difference_interval(first, second, BootstrapConfig())
    single = mean_intervals(np.stack([first, second]), BootstrapConfig())
    assert upper - lower < 0.3 * float((single[:, 1] - single[:, 0]).min())


def test_constant_values_have_an_interval_of_no_width():
    np.testing.assert_allclose(mean_intervals(np.full((2, 7), 0.3), BootstrapConfig(num_resamples=11)), 0.3)


def test_about_95_of_100_intervals_hold_the_true_mean():
    rng = np.random.default_rng(17)
    config = BootstrapConfig(num_resamples=499)
    draws = rng.random((300, 101)) < 0.4
    intervals = mean_intervals(draws.astype(np.float64), config)
    covered = float(np.mean((intervals[:, 0] <= 0.4) & (intervals[:, 1] >= 0.4)))
    assert 0.90 <= covered <= 0.99


def test_width_matches_the_normal_approximation_for_many_queries():
    values = np.random.default_rng(2).random((1, 4001))
    lower, upper = mean_intervals(values, BootstrapConfig(num_resamples=4001))[0]
    expected = 2 * 1.96 * values.std() / np.sqrt(4001)
    assert upper - lower == pytest.approx(expected, rel=0.06)


def test_blocks_of_resamples_change_nothing(monkeypatch):
    values = np.random.default_rng(4).random((2, 23))
    whole = resampled_means(values, BootstrapConfig(num_resamples=31))
    monkeypatch.setattr(bootstrap, "MAX_COUNTS_IN_MEMORY", 23 * 5)
    np.testing.assert_allclose(resampled_means(values, BootstrapConfig(num_resamples=31)), whole, rtol=1e-12)


@pytest.mark.parametrize("fields", [{"num_resamples": 1}, {"level": 0.0}, {"level": 1.0}, {"level": float("nan")}])
def test_impossible_configs_are_refused(fields):
    with pytest.raises(ConfigError):
        BootstrapConfig(**fields)


def test_no_queries_are_refused():
    with pytest.raises(ConfigError, match="at least one query"):
        mean_intervals(np.zeros((2, 0)), BootstrapConfig())
