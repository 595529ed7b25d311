import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_routers import random_params

from hierrouter_jax.agent.distributions import masked_probs
from hierrouter_jax.agent.networks import (
    RouterNetConfig,
    apply_router,
    ensemble,
    init_router,
    is_task_mixture,
    task_logits,
)
from hierrouter_jax.core.configs import from_json_dict, to_json_dict
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.mdp import Observation

DIM, NUM_MODELS, NUM_STAGES = 13, 3, 2
SMALL = RouterNetConfig(hidden_sizes=(11, 7), stage_embed_dim=5)


@partial(jax.jit, static_argnums=0)
def make_from_key(config, key):
    return init_router(config, context_dim=DIM, num_models=NUM_MODELS, num_stages=NUM_STAGES, key=key)


def make(config=SMALL, seed=0):
    return make_from_key(config, jax.random.key(seed))


def observation(seed=0, *, stage=1, cum_cost=0.7, num_signals=0):
    context = np.random.default_rng(seed).normal(size=DIM)
    return Observation(
        context=jnp.asarray(context / np.linalg.norm(context), jnp.float32),
        signals=jnp.asarray([0.25, 0.5, 1.0][:num_signals], jnp.float32),
        stage=jnp.asarray(stage, jnp.int32),
        cum_cost=jnp.asarray(cum_cost, jnp.float32),
        legal=jnp.ones(NUM_MODELS + 1, bool),
    )


def random_weights(config=SMALL):
    return random_params(config, context_dim=DIM, num_models=NUM_MODELS, num_stages=NUM_STAGES)


def numpy_torso(config, weights, features):
    for name in [f"layer_{index}" for index in range(len(config.hidden_sizes))]:
        features = features @ weights["linears"][name]["kernel"] + weights["linears"][name]["bias"]
        if config.norm == "layer":
            features = (features - features.mean()) / np.sqrt(features.var() + 1e-6)
            features = features * weights["norms"][name]["scale"] + weights["norms"][name]["bias"]
        elif config.norm == "rms":
            features = features / np.sqrt((features**2).mean() + 1e-6) * weights["norms"][name]["scale"]
        features = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[config.activation](features)
    return features


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "rms", "activation": "relu"},
        {"norm": "none"},
        {"is_torso_shared": True},
        {"hidden_sizes": ()},
        {"hidden_sizes": (17,), "is_torso_shared": True, "norm": "rms"},
    ],
    ids=str,
)
def test_the_forward_pass_equals_numpy(changes):
    config = dataclasses.replace(SMALL, **changes)
    params, seen = random_weights(config), observation()
    weights = jax.tree.map(np.asarray, params.weights)
    inputs = np.concatenate(
        [
            np.asarray(seen.context) * np.sqrt(DIM),
            weights["stage_embedding"]["embedding"][1],
            [0.7, np.log(1.7)],
        ]
    )
    no_layers = {"linears": {}, "norms": {}}
    policy = numpy_torso(config, weights.get("policy_torso", no_layers), inputs)
    value = policy if config.is_torso_shared else numpy_torso(config, weights.get("value_torso", no_layers), inputs)
    output = apply_router(params, seen)
    logits = policy @ weights["policy_head"]["kernel"] + weights["policy_head"]["bias"]
    np.testing.assert_allclose(output.logits, logits, rtol=1e-4, atol=1e-5)
    expected_value = value @ weights["value_head"]["kernel"] + weights["value_head"]["bias"]
    np.testing.assert_allclose(output.value, expected_value[0], rtol=1e-4, atol=1e-5)


def test_an_ensemble_acts_by_the_mean_of_its_members_probabilities():
    sizes = {"context_dim": DIM, "num_models": NUM_MODELS, "num_stages": NUM_STAGES}
    members = [random_params(SMALL, seed=seed, **sizes) for seed in (1, 2)]
    together = ensemble(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
    seen = observation().replace(legal=jnp.asarray([True, False, True, True]))
    apart = [apply_router(member, seen) for member in members]
    chances = [masked_probs(output.logits, seen.legal) for output in apart]
    found = apply_router(together, seen)
    np.testing.assert_allclose(masked_probs(found.logits, seen.legal), sum(chances) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.value, (apart[0].value + apart[1].value) / 2, rtol=1e-5)


def test_signals_are_inputs_where_they_are_read_and_nowhere_else():
    reading = dataclasses.replace(SMALL, reads_signals=True)
    sizes = {"context_dim": DIM, "num_models": NUM_MODELS, "num_stages": NUM_STAGES}
    params = random_params(reading, num_signals=3, **sizes)
    seen = observation(num_signals=3)
    weights = jax.tree.map(np.asarray, params.weights)
    stage = weights["stage_embedding"]["embedding"][1]
    inputs = np.concatenate([np.asarray(seen.context) * np.sqrt(DIM), stage, [0.7, np.log(1.7)], [0.25, 0.5, 1.0]])
    features = numpy_torso(reading, weights["policy_torso"], inputs)
    logits = features @ weights["policy_head"]["kernel"] + weights["policy_head"]["bias"]
    np.testing.assert_allclose(apply_router(params, seen).logits, logits, rtol=1e-4, atol=1e-5)
    deaf = random_params(SMALL, num_signals=3, **sizes)
    assert jax.tree.map(jnp.shape, deaf) == jax.tree.map(jnp.shape, random_weights())
    np.testing.assert_array_equal(apply_router(deaf, seen).logits, apply_router(deaf, observation()).logits)


@pytest.mark.parametrize("changes", [{}, {"hidden_sizes": (), "norm": "none"}, {"is_torso_shared": True}], ids=str)
def test_a_task_mixture_mixes_its_heads_by_the_task_that_the_context_tells(changes):
    config = dataclasses.replace(SMALL, is_task_mixture=True, reads_signals=True, **changes)
    sizes = {"context_dim": DIM, "num_models": NUM_MODELS, "num_stages": NUM_STAGES, "num_signals": 3, "num_tasks": 5}
    params, seen = random_params(config, **sizes), observation(num_signals=3)
    weights = jax.tree.map(np.asarray, params.weights)
    gate = weights["task_gate"]
    scores = np.asarray(seen.context) * np.sqrt(DIM) @ gate["kernel"] + gate["bias"]
    chances = np.exp(scores) / np.exp(scores).sum()
    inputs = np.concatenate([weights["stage_embedding"]["embedding"][1], [0.7, np.log(1.7)], [0.25, 0.5, 1.0]])
    no_layers = {"linears": {}, "norms": {}}
    policy = numpy_torso(config, weights.get("policy_torso", no_layers), inputs)
    value = policy if config.is_torso_shared else numpy_torso(config, weights.get("value_torso", no_layers), inputs)
    logits, worth = np.zeros(NUM_MODELS + 1), 0.0
    for task, chance in enumerate(chances):
        logits += chance * (policy @ weights["policy_head"]["kernel"][task] + weights["policy_head"]["bias"][task])
        worth += chance * (value @ weights["value_head"]["kernel"][task] + weights["value_head"]["bias"][task])[0]
    output = apply_router(params, seen)
    np.testing.assert_allclose(output.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.value, worth, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(task_logits(params, seen), scores, rtol=1e-4, atol=1e-5)
    assert is_task_mixture(params)
    assert not is_task_mixture(random_weights())


def test_the_gate_of_a_task_mixture_does_not_learn_from_what_its_heads_earn():
    config = dataclasses.replace(SMALL, is_task_mixture=True)
    sizes = {"context_dim": DIM, "num_models": NUM_MODELS, "num_stages": NUM_STAGES, "num_tasks": 5}
    params = random_params(config, **sizes)
    gradient = jax.grad(lambda one: apply_router(one, observation()).logits[0])(params).weights
    assert not np.any(gradient["task_gate"]["kernel"])
    assert np.any(gradient["policy_head"]["kernel"])


def test_a_fresh_router_is_nearly_indifferent_and_orthogonal():
    params = make()
    probabilities = jax.nn.softmax(apply_router(params, observation()).logits)
    np.testing.assert_allclose(probabilities, np.full(NUM_MODELS + 1, 0.25), atol=0.02)
    kernel = params.weights["policy_torso"]["linears"]["layer_1"]["kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(7), atol=1e-4)


def test_every_stage_has_an_embedding_of_its_own():
    params = random_weights()
    values = [float(apply_router(params, observation(stage=stage)).value) for stage in range(NUM_STAGES + 1)]
    assert len(set(values)) == NUM_STAGES + 1


def test_keys_decide_the_weights_and_the_architecture_is_one():
    first, again, other = make(seed=0), make(seed=0), make(seed=1)
    assert jax.tree.structure(first) == jax.tree.structure(other)  # nothing of the key in the static part: no retrace
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), first, again)))
    heads = [params.weights["policy_head"]["kernel"] for params in (first, other)]
    assert (heads[0] != heads[1]).any()
    assert jax.tree.structure(random_weights(RouterNetConfig(hidden_sizes=(11,)))) != jax.tree.structure(first)


def test_routers_are_made_and_applied_under_vmap():
    linear = dataclasses.replace(SMALL, hidden_sizes=())
    keys = jax.random.split(jax.random.key(3), 5)
    population = jax.vmap(partial(make_from_key, linear))(keys)
    values = jax.vmap(apply_router, in_axes=(0, None))(population, observation()).value
    apart = [float(apply_router(make_from_key(linear, key), observation()).value) for key in keys]
    np.testing.assert_allclose(values, apart, rtol=1e-4, atol=1e-5)
    assert len(set(apart)) == 5


def test_every_weight_has_a_gradient():
    def loss(params):
        output = apply_router(params, observation())
        return output.logits[0] + output.value

    gradients = jax.grad(loss)(random_weights())
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradients))


def test_configs_go_to_json_and_back():
    assert from_json_dict(RouterNetConfig, to_json_dict(SMALL)) == SMALL


@pytest.mark.parametrize(
    ("changes", "message"), [({"hidden_sizes": (8, 0)}, "hidden_sizes"), ({"stage_embed_dim": 0}, "stage_embed_dim")]
)
def test_sizes_of_no_network_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        RouterNetConfig(**changes)


CONDITIONED = dataclasses.replace(SMALL, is_conditioned=True)


@pytest.mark.parametrize("cost_weight", [0.0, 0.004, 0.1, 3.0, 1e4])
def test_the_cost_weight_is_read_between_its_knots(cost_weight):
    """Knot k stands at 0.01 * (e**k - 1); NumPy's interpolation between the learned vectors is the oracle."""
    params = random_weights(CONDITIONED)
    weights = jax.tree.map(np.asarray, params.weights)
    knots = 0.01 * np.expm1(np.arange(8))
    place = np.interp(np.log1p(cost_weight / 0.01), np.log1p(knots / 0.01), np.arange(8))
    vectors = weights["cost_weight_embedding"]["embedding"]
    read = [np.interp(place, np.arange(8), vectors[:, dim]) for dim in range(5)]
    seen = observation().replace(cost_weight=jnp.float32(cost_weight))
    stage = weights["stage_embedding"]["embedding"][1]
    inputs = np.concatenate([np.asarray(seen.context) * np.sqrt(DIM), stage, [0.7, np.log(1.7)], read])
    features = numpy_torso(CONDITIONED, weights["policy_torso"], inputs)
    logits = features @ weights["policy_head"]["kernel"] + weights["policy_head"]["bias"]
    np.testing.assert_allclose(apply_router(params, seen).logits, logits, rtol=1e-3, atol=1e-4)


def test_a_conditioned_router_that_is_shown_no_cost_weight_takes_its_default():
    params = init_router(
        CONDITIONED,
        context_dim=DIM,
        num_models=NUM_MODELS,
        num_stages=NUM_STAGES,
        key=jax.random.key(1),
        default_cost_weight=0.3,
    )
    shown = [observation().replace(cost_weight=jnp.float32(weight)) for weight in (0.3, 0.2)]
    values = [float(apply_router(params, seen).value) for seen in (observation(), *shown)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("config", [SMALL, CONDITIONED, dataclasses.replace(SMALL, is_torso_shared=True)])
def test_gradients_are_those_of_the_network_written_plainly(config):
    """The first layer holds its input; a network that does nothing of the kind is the oracle, all weights compared."""
    seen = observation().replace(cost_weight=jnp.float32(0.2) if config.is_conditioned else None)

    def plain(weights):
        def torso(own, features):
            for name in ("layer_0", "layer_1"):
                features = features @ own["linears"][name]["kernel"] + own["linears"][name]["bias"]
                features = (features - features.mean()) / jnp.sqrt(features.var() + 1e-6)
                features = jnp.tanh(features * own["norms"][name]["scale"] + own["norms"][name]["bias"])
            return features

        parts = [
            seen.context * np.sqrt(DIM),
            weights["stage_embedding"]["embedding"][1],
            jnp.asarray([0.7, np.log(1.7)]),
        ]
        if config.is_conditioned:
            place = np.log1p(0.2 / 0.01)
            low, vectors = int(place), weights["cost_weight_embedding"]["embedding"]
            parts.append(vectors[low] * (low + 1 - place) + vectors[low + 1] * (place - low))
        inputs = jnp.concatenate(parts)
        policy = torso(weights["policy_torso"], inputs)
        value = torso(weights.get("value_torso", weights["policy_torso"]), inputs)
        logits = policy @ weights["policy_head"]["kernel"] + weights["policy_head"]["bias"]
        return jnp.sin(logits).sum() + (value @ weights["value_head"]["kernel"] + weights["value_head"]["bias"])[0] ** 2

    def ours(params):
        output = apply_router(params, seen)
        return jnp.sin(output.logits).sum() + output.value**2

    params = random_weights(config)
    expected = jax.grad(plain)(params.weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), jax.grad(ours)(params).weights, expected)
