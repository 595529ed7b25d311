import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hierrouter_jax.rl.losses import approximate_kl, clipped_policy_loss, clipped_value_loss

EPSILON = 0.2


def test_policy_loss_equals_the_formula_element_by_element():
    rng = np.random.default_rng(2)
    new, old, advantage = rng.normal(size=(3, 101)).astype(np.float32) * 0.5
    losses = clipped_policy_loss(*map(jnp.asarray, (new, old, advantage)), clip_epsilon=EPSILON)
    expected = []
    for one_new, one_old, gain in zip(new, old, advantage, strict=True):
        ratio = np.exp(one_new - one_old)
        held = min(max(ratio, 1 - EPSILON), 1 + EPSILON)
        expected.append(-min(ratio * gain, held * gain))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "is_free"),
    [(1.5, 1.0, False), (0.5, 1.0, True), (1.5, -1.0, True), (0.5, -1.0, False), (1.1, 1.0, True), (0.9, -1.0, True)],
)
def test_the_policy_is_pulled_only_while_that_mends_something(ratio, advantage, is_free):
    """Beyond the clip there is no gradient if the change already goes the right way, and a full one if the wrong."""

    def loss(log_prob):
        return clipped_policy_loss(log_prob, jnp.float32(0), jnp.float32(advantage), clip_epsilon=EPSILON)

    gradient = jax.grad(loss)(jnp.log(jnp.float32(ratio)))
    np.testing.assert_allclose(gradient, -ratio * advantage if is_free else 0.0, rtol=1e-6)


def test_an_unchanged_policy_has_the_policy_gradient():
    log_prob, advantage = jnp.asarray([-0.3, -1.7]), jnp.asarray([2.0, -3.0])
    gradient = jax.grad(lambda new: clipped_policy_loss(new, log_prob, advantage, clip_epsilon=EPSILON).sum())(log_prob)
    np.testing.assert_allclose(gradient, -advantage, rtol=1e-6)


def test_value_loss_equals_the_formula_element_by_element():
    rng = np.random.default_rng(3)
    new, old, target = rng.normal(size=(3, 101)).astype(np.float32)
    losses = clipped_value_loss(*map(jnp.asarray, (new, old, target)), clip_epsilon=EPSILON)
    expected = []
    for value, before, goal in zip(new, old, target, strict=True):
        held = before + min(max(value - before, -EPSILON), EPSILON)
        expected.append(max((value - goal) ** 2, (held - goal) ** 2) / 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-6)


def test_an_infinite_clip_leaves_the_squared_error():
    value, old, target = jnp.asarray([3.0, -2.0]), jnp.asarray([0.5, 7.0]), jnp.asarray([1.0, 1.0])
    losses = clipped_value_loss(value, old, target, clip_epsilon=jnp.inf)
    np.testing.assert_allclose(losses, (value - target) ** 2 / 2)


def test_the_value_is_not_pulled_further_than_the_clip():
    def loss(value):
        return clipped_value_loss(value, jnp.float32(0), jnp.float32(5), clip_epsilon=EPSILON)

    assert jax.grad(loss)(jnp.float32(0.1)) == pytest.approx(0.1 - 5)
    assert jax.grad(loss)(jnp.float32(0.3)) == 0


def test_the_estimator_averages_to_the_divergence():
    rng = np.random.default_rng(5)
    old, new = (np.log(rng.dirichlet(np.ones(7))).astype(np.float32) for _ in range(2))
    estimates = approximate_kl(jnp.asarray(new), jnp.asarray(old))
    assert (estimates >= 0).all()
    exact = np.sum(np.exp(old) * (old - new))
    np.testing.assert_allclose(np.sum(np.exp(old) * estimates), exact, rtol=1e-4)
    assert approximate_kl(jnp.float32(-1.5), jnp.float32(-1.5)) == 0
