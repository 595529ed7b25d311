"""Routers that attend over segments: contexts of a tree by a loop, attention by NumPy, absent segments unseen."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from router_candidates import ROUTER, Candidate, cross_validated, segment_candidates
from segment_attention import NUM_HEADS, WIDTH, init_segment_attention, load_answers, with_segments
from synthetic_trees import random_tree

from hierrouter_jax.agent.networks import RouterNetConfig, apply_router
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.routing.mdp import Observation
from hierrouter_jax.routing.route_tree import context_at

DIM, NUM_MODELS, NUM_QUERIES = 7, 3, 11


def segmented(seed: int = 5):
    tree = random_tree(seed, num_queries=NUM_QUERIES, num_models=NUM_MODELS, num_stages=2, dim=DIM, num_signals=5)
    answers = np.random.default_rng(seed).normal(size=(NUM_QUERIES, NUM_MODELS, DIM)).astype(np.float32)
    return tree, answers, with_segments(tree, answers)


def test_contexts_are_the_question_and_the_first_response():
    tree, answers, found = segmented()
    for query in range(NUM_QUERIES):
        question = np.asarray(context_at(tree, jnp.asarray(query), jnp.asarray(0)))
        for node in range(1 + NUM_MODELS):
            answer = np.zeros(DIM) if node == 0 else answers[query, node - 1]
            shown = np.asarray(context_at(found, jnp.asarray(query), jnp.asarray(node)))
            np.testing.assert_allclose(shown, np.concatenate([question, answer]), rtol=1e-6)
    np.testing.assert_array_equal(found.quality, tree.quality)


def observation(tree, context, stage):
    return Observation(
        context=jnp.asarray(context, jnp.float32),
        signals=jnp.linspace(-1.0, 1.0, tree.signals.shape[2]),
        stage=jnp.asarray(stage),
        cum_cost=jnp.asarray(0.3),
        legal=jnp.ones(NUM_MODELS + 1, bool),
    )


def numpy_value(weights, tree, context, stage):
    """Return the value of a router without hidden layers, by NumPy alone."""

    def get(*path):
        return np.asarray(_at(weights, path), np.float64)

    cost = 0.3
    others = [get("stage_embedding", "embedding")[stage], [cost, math.log1p(cost)]]
    others = np.concatenate([*others, np.linspace(-1.0, 1.0, tree.signals.shape[2])])
    segments = np.asarray(context, np.float64).reshape(2, DIM) * math.sqrt(DIM)
    known = segments @ get("project", "kernel") + get("project", "bias") + get("place", "embedding")
    asked = others @ get("ask", "kernel") + get("ask", "bias")
    heads = []
    for head in range(NUM_HEADS):
        own = {name: get("attention", name, "kernel")[:, head] for name in ("query", "key", "value")}
        bias = {name: get("attention", name, "bias")[head] for name in own}
        query = asked @ own["query"] + bias["query"]
        there = [row for row in range(2) if np.any(segments[row] != 0)]
        scores = np.array([query @ (known[row] @ own["key"] + bias["key"]) for row in there])
        scores = np.exp(scores / math.sqrt(WIDTH // NUM_HEADS))
        values = np.stack([known[row] @ own["value"] + bias["value"] for row in there])
        heads.append(scores @ values / scores.sum())
    out = get("attention", "out", "kernel")
    attended = sum(heads[head] @ out[head] for head in range(NUM_HEADS)) + get("attention", "out", "bias")
    features = np.concatenate([attended, others])
    return float(features @ get("value_head", "kernel")[:, 0] + get("value_head", "bias")[0])


def _at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


@pytest.mark.parametrize("is_answered", [False, True])
def test_the_value_is_that_of_numpy_and_absent_segments_are_not_seen(is_answered):
    tree, answers, found = segmented()
    config = RouterNetConfig(hidden_sizes=(), norm="none", reads_signals=True)
    params = init_segment_attention(config, found, key=jax.random.key(3))
    question = np.asarray(tree.context)[0]
    context = np.concatenate([question, answers[0, 1] if is_answered else np.zeros(DIM)])
    stage = int(is_answered)
    value = float(apply_router(params, observation(found, context, stage)).value)
    assert value == pytest.approx(numpy_value(params.weights, found, context, stage), abs=1e-4)
    assert abs(value) > 1e-3


@pytest.mark.parametrize("name", sorted(segment_candidates()))
def test_candidates_learn_on_segments(name):
    _, _, found = segmented()
    candidate = segment_candidates()[name]
    short = dataclasses.replace(candidate.config, num_updates=2, num_envs=8)
    utility = cross_validated(dataclasses.replace(candidate, config=short), found)
    assert utility.shape == (10,)
    assert np.all(np.isfinite(utility))
    assert Candidate(config=ROUTER).attends_segments is False


def test_the_gradient_reaches_what_reads_the_segments():
    tree, answers, found = segmented()
    params = init_segment_attention(RouterNetConfig(), found, key=jax.random.key(3))
    seen = observation(found, np.concatenate([np.asarray(tree.context)[0], answers[0, 1]]), 1)
    gradients = jax.grad(lambda own: apply_router(own, seen).value)(params).weights
    for path in (("project", "kernel"), ("place", "embedding"), ("ask", "kernel"), ("attention", "key", "kernel")):
        assert np.abs(np.asarray(_at(gradients, path))).max() > 0, path


def test_answers_of_other_rows_are_not_taken(tmp_path):
    path = tmp_path / "answers.npz"
    np.savez(path, answers=np.ones((2, 3, 5), np.float16), row_id_hash=np.array([3, 7], np.uint64))
    assert load_answers(path, np.array([7, 3], np.uint64)) is None
    assert load_answers(path, np.array([3, 7], np.uint64)).dtype == np.float32
    with pytest.raises(DataError, match="make it with collect_answers_apart"):
        load_answers(tmp_path / "none.npz", np.array([3], np.uint64))
