import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierrouter_jax.agent.distributions import entropy, log_prob_of, masked_log_probs, masked_probs, mode, sample

NUM_ACTIONS = 5
jitted = {f: jax.jit(f) for f in (masked_log_probs, masked_probs, entropy, mode)}


def random_case(seed, scale=3.0):
    rng = np.random.default_rng(seed)
    legal = rng.random(NUM_ACTIONS) < 0.5
    legal[rng.integers(NUM_ACTIONS)] = True
    return rng.normal(size=NUM_ACTIONS).astype(np.float32) * np.float32(scale), legal


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), scale=st.sampled_from([0.0, 3.0, 50.0]))
def test_everything_equals_softmax_over_the_legal_ones_alone(seed, scale):
    logits, legal = random_case(seed, scale)
    kept = logits[legal].astype(np.float64)
    probs = np.exp(kept - kept.max())
    probs /= probs.sum()
    result = np.asarray(jitted[masked_probs](logits, legal))
    np.testing.assert_allclose(result[legal], probs, rtol=1e-4, atol=1e-7)
    assert (result[~legal] == 0).all()
    log_probs = np.asarray(jitted[masked_log_probs](logits, legal))
    np.testing.assert_allclose(log_probs[legal], kept - kept.max() - np.log(np.exp(kept - kept.max()).sum()), atol=1e-4)
    assert (log_probs[~legal] == -np.inf).all()
    terms = [p * np.log(p) for p in probs if p > 0]
    np.testing.assert_allclose(jitted[entropy](logits, legal), -np.sum(terms), atol=1e-4)
    assert jitted[mode](logits, legal) == np.flatnonzero(legal)[kept.argmax()]


@pytest.mark.parametrize("illegal_logit", [0.0, 1e30, -1e30, np.inf, -np.inf, np.nan])
def test_illegal_logits_change_nothing_and_have_no_gradient(illegal_logit):
    legal = jnp.asarray([True, False, True, True, False])
    logits = jnp.asarray([0.5, 0.0, -1.0, 2.0, 0.0])
    poisoned = jnp.where(legal, logits, illegal_logit)

    def objective(x):
        return log_prob_of(x, legal, jnp.asarray(2)) + 0.3 * entropy(x, legal)

    (value, gradient), (clean, clean_gradient) = (jax.value_and_grad(objective)(x) for x in (poisoned, logits))
    assert value == clean
    np.testing.assert_array_equal(gradient, clean_gradient)
    assert (gradient[~legal] == 0).all()
    assert (gradient[legal] != 0).all()


def test_gradients_are_finite_differences():
    legal = jnp.asarray([True, False, True, True, False])
    logits = jnp.asarray([0.5, 9.0, -1.0, 2.0, 4.0])
    for function in (lambda x: log_prob_of(x, legal, jnp.asarray(0)), lambda x: entropy(x, legal)):
        step = 1e-2 * jnp.eye(NUM_ACTIONS)
        differences = [(function(logits + d) - function(logits - d)) / 2e-2 for d in step]
        np.testing.assert_allclose(jax.grad(function)(logits), differences, atol=2e-3)


def test_a_single_legal_action_is_certain():
    legal = jnp.asarray([False, False, True, False, False])
    logits = jnp.asarray([9.0, 1.0, -50.0, 3.0, 3.0])
    assert masked_probs(logits, legal).tolist() == [0, 0, 1, 0, 0]
    assert entropy(logits, legal) == 0
    assert log_prob_of(logits, legal, jnp.asarray(2)) == 0
    np.testing.assert_array_equal(jax.grad(entropy)(logits, legal), np.zeros(5))


def test_samples_follow_the_probabilities():
    logits, legal = jnp.asarray([0.5, 9.0, -1.0, 1.0, 4.0]), jnp.asarray([True, False, True, True, False])
    keys = jax.random.split(jax.random.key(7), 20000)
    drawn = jax.vmap(lambda key: sample(logits, legal, key=key))(keys)
    frequencies = np.bincount(drawn, minlength=NUM_ACTIONS) / len(keys)
    np.testing.assert_allclose(frequencies, masked_probs(logits, legal), atol=5 * 0.5 / np.sqrt(len(keys)))
    assert (frequencies[[1, 4]] == 0).all()


def test_the_mode_of_equals_is_the_first_legal_one():
    assert mode(jnp.zeros(5), jnp.asarray([False, True, True, False, True])) == 1
