"""The frontier's masks against paths enumerated by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scripted_collection import make_engine, make_rows

from hierrouter_jax.collect.frontier import Frontier, with_ancestors
from hierrouter_jax.collect.hop_prompts import hop_request
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.routing.route_tree import node_of_path, node_parents


@pytest.mark.parametrize(("num_models", "num_stages"), [(3, 2), (5, 2), (2, 3), (1, 4)])
def test_a_wanted_node_brings_exactly_the_way_to_it(num_models, num_stages):
    parents = node_parents(num_models, num_stages)
    for length in range(num_stages + 1):
        for path in itertools.product(range(num_models), repeat=length):
            wanted = np.zeros((1, len(parents)), bool)
            wanted[0, node_of_path(num_models, path)] = True
            closed = with_ancestors(wanted, parents)
            prefixes = {node_of_path(num_models, path[:end]) for end in range(length + 1)}
            assert set(np.flatnonzero(closed[0])) == prefixes
            assert wanted.sum() == 1  # the caller's mask is left as it is


def test_texts_are_those_on_the_way():
    engine = make_engine(3)
    frontier = Frontier(make_rows(2, 1), engine, hop_request, num_stages=2)
    for stage in (1, 2):
        asked = frontier.ask_stage(stage)
        frontier.take(dict(zip(asked, engine.generate([one.request for one in asked.values()]), strict=True)))
    for query, row in enumerate(frontier.rows):
        assert frontier.texts(query, 0) == ()
        for path in itertools.product(range(3), repeat=2):
            texts: list[str] = []
            for model in path:
                texts.append(engine.generate([hop_request(engine.cards[model], row, texts)])[0].text)
            assert frontier.texts(query, node_of_path(3, path)) == tuple(texts)
            assert frontier.texts(query, node_of_path(3, path[:1])) == tuple(texts[:1])


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ConfigError, match=r"shape \(3, 13\)"):
        Frontier(make_rows(2, 1), make_engine(3), hop_request, num_stages=2, wanted=np.ones((3, 4), bool))
