import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierrouter_jax.rl.advantages import gae_advantages

NUM_STEPS = 11
compute = jax.jit(gae_advantages)


def random_trajectory(seed, *, has_ends=True):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, NUM_STEPS))
    discounts = 0.9 * np.where(rng.random(NUM_STEPS) < 0.3 * has_ends, 0.0, 1.0)
    return tuple(np.float32(x) for x in (rewards, discounts, values, rng.normal()))


def double_loop(rewards, discounts, values, final_value, gae_lambda):
    """A_t = sum_k (prod_{j<k} d_{t+j} lambda) delta_{t+k}, each sum written out."""
    following = [*values[1:], final_value]
    advantages = []
    for start in range(len(rewards)):
        weight, total = 1.0, 0.0
        for time in range(start, len(rewards)):
            total += weight * (rewards[time] + discounts[time] * following[time] - values[time])
            weight *= discounts[time] * gae_lambda
        advantages.append(total)
    return advantages


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), gae_lambda=st.floats(0, 1))
def test_advantages_equal_the_sums_written_out(seed, gae_lambda):
    trajectory = random_trajectory(seed)
    advantages = compute(*trajectory, gae_lambda=np.float32(gae_lambda))
    np.testing.assert_allclose(advantages, double_loop(*trajectory, gae_lambda), rtol=1e-4, atol=1e-5)


def test_lambda_one_gives_returns_minus_values():
    rewards, discounts, values, final_value = random_trajectory(3)
    returns, later = [], final_value
    for reward, discount in zip(rewards[::-1], discounts[::-1], strict=True):
        later = reward + discount * later
        returns.insert(0, later)
    advantages = compute(rewards, discounts, values, final_value, gae_lambda=1.0)
    np.testing.assert_allclose(advantages + values, returns, rtol=1e-5, atol=1e-6)


def test_lambda_zero_gives_temporal_difference_errors():
    rewards, discounts, values, final_value = random_trajectory(5)
    errors = rewards + discounts * np.append(values[1:], final_value) - values
    np.testing.assert_allclose(
        compute(rewards, discounts, values, final_value, gae_lambda=0.0), errors, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_true_values_leave_no_advantage(gae_lambda):
    rewards, discounts, _, final_value = random_trajectory(7)
    values, later = [], final_value
    for reward, discount in zip(rewards[::-1], discounts[::-1], strict=True):
        later = reward + discount * later
        values.insert(0, later)
    advantages = compute(rewards, discounts, np.float32(values), final_value, gae_lambda=gae_lambda)
    np.testing.assert_allclose(advantages, np.zeros(NUM_STEPS), atol=1e-5)


def test_nothing_leaks_over_the_end_of_an_episode():
    rewards, discounts, values, final_value = random_trajectory(11, has_ends=False)
    discounts[4] = 0
    whole = compute(rewards, discounts, values, final_value, gae_lambda=0.9)
    rewards[5:], values[5:] = 1e6, -1e6
    np.testing.assert_array_equal(compute(rewards, discounts, values, final_value, gae_lambda=0.9)[:5], whole[:5])


def test_batches_by_vmap():
    batch = [random_trajectory(seed) for seed in range(5)]
    stacked = [jnp.stack([trajectory[i] for trajectory in batch], axis=-1) for i in range(4)]  # [time, batch]
    together = jax.vmap(lambda *t: gae_advantages(*t, gae_lambda=0.8), in_axes=(1, 1, 1, 0), out_axes=1)(*stacked)
    for row, trajectory in enumerate(batch):
        np.testing.assert_allclose(together[:, row], compute(*trajectory, gae_lambda=0.8), rtol=1e-5, atol=1e-6)
