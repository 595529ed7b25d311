"""Live routing against the tree collected with the same engine: same routes, same costs, same answers asked."""

import dataclasses

import jax
import numpy as np
import pytest
from scripted_collection import last_word_score, make_engine, make_rows

from hierrouter_jax.agent.networks import RouterNetConfig, init_router
from hierrouter_jax.agent.router import Router, greedy_routes, next_action, stage_probabilities
from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.core.errors import ConfigError, DataError, PromptTooLongError
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.evaluate.live import STOP_NAME, route
from hierrouter_jax.evaluate.origins import (
    in_units_of_run,
    require_router_fits,
    require_run_fits_tree,
    run_origins,
    terms_of_run,
    terms_of_tree,
)
from hierrouter_jax.evaluate.routes import route_models
from hierrouter_jax.llm.scripted_engine import ScriptedEngine, scripted_card
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.signals import SIGNAL_NAMES
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.scoring import score_answer
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.make_train import input_sizes
from hierrouter_jax.train.run_record import make_record

NUM_STAGES = 3
ROWS = make_rows(7, 5, prefix="test")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An engine of three models, and the tree file it was asked for."""
    engine = make_engine(3)
    return engine, collected(engine, tmp_path_factory.mktemp("world"))


def collected(engine, folder, *, scorer=last_word_score):
    with ResponseStore(folder / "store.sqlite") as store:
        return collect_tree(
            engine,
            {"train": make_rows(3, 2), "test": ROWS},
            store,
            num_stages=NUM_STAGES,
            encoder=HashingEncoder(13),
            scorer=scorer,
            scorer_version="test",
            is_quiet=True,
        )


def decided_router(tree_file, *, seed=0, allow_stop=True, reads_signals=False):
    """An untrained router whose logits are far apart, so that routes differ from query to query."""
    tree = tree_file.test
    config = RouterNetConfig(hidden_sizes=(11,), stage_embed_dim=3, reads_signals=reads_signals)
    params = init_router(config, **input_sizes(tree), key=jax.random.key(seed))
    weights = jax.tree.map(lambda leaf: 3.0 * leaf, params.weights)
    return Router(
        params=params.replace(weights=weights),
        config=config,
        model_names=tree.model_names,
        num_stages=tree.num_stages,
        allow_stop=allow_stop,
        encoder_digest=tree_file.manifest.encoder_digest,
        pool_digest=tree_file.manifest.pool_digest,
    )


def assert_live_equals_tree(tree_file, engine, router, *, scorer=last_word_score):
    tree = tree_file.test
    routes = greedy_routes(router.params, tree, allow_stop=router.allow_stop)
    scores = score_routes(tree, routes, cost_weight=0.1)
    results = route(router, engine, ROWS, encoder=HashingEncoder(13), terms=terms_of_tree(tree_file))
    expected = [route_models(actions.tolist(), tree.model_names) for actions in np.asarray(routes.actions)]
    assert [result.route for result in results] == expected
    np.testing.assert_allclose([result.cost for result in results], scores.cost, rtol=1e-5)
    qualities = [scorer(row, result.responses[-1]).quality for row, result in zip(ROWS, results, strict=True)]
    np.testing.assert_allclose(qualities, scores.quality)
    return results


@pytest.mark.parametrize("allow_stop", [True, False])
def test_live_routes_are_the_greedy_routes_of_the_tree(world, allow_stop):
    engine, tree_file = world
    kinds = set()
    for seed in range(3):
        router = decided_router(tree_file, seed=seed, allow_stop=allow_stop)
        results = assert_live_equals_tree(tree_file, engine, router)
        kinds |= {result.route for result in results}
        shares = np.asarray(stage_probabilities(router.params, tree_file.test, allow_stop=allow_stop))
        for query, result in enumerate(results):
            for stage, step in enumerate(result.probabilities):
                np.testing.assert_allclose(list(step.values()), shares[query, stage], atol=1e-5)
            assert len(result.probabilities) == min(NUM_STAGES, len(result.route) + 1)
            assert (result.probabilities[-1][STOP_NAME] == 0) or allow_stop
    assert len(kinds) > 2
    num_hops = {len(kind) for kind in kinds}
    assert num_hops == {NUM_STAGES} if not allow_stop else len(num_hops) > 1


def test_live_signals_are_those_of_the_tree(tmp_path):
    engine = make_engine(3)
    tree_file = collected(engine, tmp_path, scorer=score_answer)
    signals = np.asarray(tree_file.test.signals)
    assert {0.0, 0.5, 1.0} <= set(signals.reshape(-1, 10)[:, SIGNAL_NAMES.index("agreement")].tolist())
    kinds = set()
    for seed in range(5):
        router = decided_router(tree_file, seed=seed, reads_signals=True)
        results = assert_live_equals_tree(tree_file, engine, router, scorer=score_answer)
        shares = np.asarray(stage_probabilities(router.params, tree_file.test))
        for query, result in enumerate(results):
            kinds.add(result.route)
            for stage, step in enumerate(result.probabilities):
                np.testing.assert_allclose(list(step.values()), shares[query, stage], atol=1e-5)
    assert len(kinds) > 3
    with pytest.raises(DataError, match="reads 20 signals of the responses so far, but 0 are given"):
        next_action(router, np.zeros(13), 1, 0.5, np.ones(4, bool))


def test_a_model_whose_window_is_too_small_is_illegal_live_as_in_the_tree(tmp_path):
    wide = make_engine(2)
    narrow = dataclasses.replace(scripted_card("model_2", prompt_style="chat", base_rate=3.0), context_window=75)
    engine = ScriptedEngine(
        [*wide.cards, narrow], lambda card, request: "so it is 1" if not request.options else request.options[0]
    )
    tree_file = collected(engine, tmp_path)
    assert 0 < np.asarray(tree_file.test.valid).mean() < 1
    for seed in range(3):
        assert_live_equals_tree(tree_file, engine, decided_router(tree_file, seed=seed))


def test_tokens_and_truncation_are_those_of_the_responses(world):
    engine, tree_file = world
    router = decided_router(tree_file, seed=1)
    engine.requests.clear()
    (result,) = route(router, engine, [ROWS[0]], encoder=HashingEncoder(13), terms=terms_of_tree(tree_file))
    asked = list(engine.requests)
    responses = engine.generate(asked)
    assert [request.model for request in asked] == list(result.route)
    assert result.num_prompt_tokens == sum(response.num_prompt_tokens for response in responses)
    assert result.num_new_tokens == sum(response.num_new_tokens for response in responses)
    assert result.is_truncated == (responses[-1].finish_reason == "length")
    assert result.responses == tuple(response.text for response in responses)


def test_a_free_question_is_asked_as_it_stands_and_the_batch_changes_nothing(world):
    engine, tree_file = world
    router, terms, encoder = decided_router(tree_file), terms_of_tree(tree_file), HashingEncoder(13)
    questions = ["Why is the sky blue?", "Name a river.", "Why is the sky blue?"]
    together = route(router, engine, questions, encoder=encoder, terms=terms)
    alone = [route(router, engine, [question], encoder=encoder, terms=terms)[0] for question in questions]
    assert together == alone
    assert together[0].query == questions[0]
    first = next(request for request in engine.requests if "Name a river." in str(request.prompt))
    assert not first.options


def test_with_a_store_nothing_is_asked_twice(world, tmp_path):
    engine, tree_file = world
    router, terms, encoder = decided_router(tree_file), terms_of_tree(tree_file), HashingEncoder(13)
    with ResponseStore(tmp_path / "live.sqlite") as store:
        first = route(router, engine, ROWS, encoder=encoder, terms=terms, store=store)
        num_asked = len(engine.requests)
        assert route(router, engine, ROWS, encoder=encoder, terms=terms, store=store) == first
        assert len(engine.requests) == num_asked
    assert route(router, engine, ROWS, encoder=encoder, terms=terms) == first


def test_another_pool_or_encoder_is_refused_before_anything_is_asked(world):
    engine, tree_file = world
    router, terms = decided_router(tree_file), terms_of_tree(tree_file)
    engine.requests.clear()
    with pytest.raises(DataError, match="the encoder"):
        route(router, engine, ["Why?"], encoder=HashingEncoder(11), terms=terms)
    with pytest.raises(DataError, match="the pool") as caught:
        require_router_fits(router, make_engine(2).cards, HashingEncoder(11))
    assert "the encoder" in str(caught.value)
    assert engine.requests == []


def test_a_question_that_fits_no_model_is_named_before_anything_is_asked(world):
    engine, tree_file = world
    engine.requests.clear()
    long = "and then " * 5000
    with pytest.raises(PromptTooLongError, match="and then and then") as caught:
        route(
            decided_router(tree_file),
            engine,
            ["Why?", long],
            encoder=HashingEncoder(13),
            terms=terms_of_tree(tree_file),
        )
    assert "Why?" not in str(caught.value)
    assert engine.requests == []
    with pytest.raises(ConfigError, match="empty"):
        route(decided_router(tree_file), engine, [" "], encoder=HashingEncoder(13), terms=terms_of_tree(tree_file))


def test_a_run_says_its_terms_and_refuses_a_tree_of_other_origins(world):
    _, tree_file = world
    record = make_record(TrainConfig(), tree_file.train, run_origins(tree_file))
    assert terms_of_run(record) == terms_of_tree(tree_file)
    require_run_fits_tree(record, tree_file)
    manifest = dataclasses.replace(tree_file.manifest, encoder_digest="f" * 64)
    with pytest.raises(DataError, match="encoder_digest: the run has") as caught:
        require_run_fits_tree(record, dataclasses.replace(tree_file, manifest=manifest))
    assert "pool_digest" not in str(caught.value)
    with pytest.raises(DataError, match="prompt_version"):
        terms_of_run(make_record(TrainConfig(), tree_file.train, {}))


def test_a_run_without_origins_refuses_a_tree_of_other_shapes(world):
    _, tree_file = world
    narrow = dataclasses.replace(tree_file.train, context=tree_file.train.context[:, :11])
    require_run_fits_tree(make_record(TrainConfig(), tree_file.train, {}), tree_file)
    with pytest.raises(DataError, match="context_dim: the run has 11, the tree has 13"):
        require_run_fits_tree(make_record(TrainConfig(), narrow, {}), tree_file)


def test_a_tree_of_other_rows_is_scored_in_the_runs_unit_of_cost(world):
    _, tree_file = world
    origins = run_origins(tree_file)
    unit = float(origins["raw_cost_of_one"])
    record = make_record(TrainConfig(), tree_file.train, origins | {"raw_cost_of_one": repr(unit / 4)})
    require_run_fits_tree(record, tree_file)
    scaled = in_units_of_run(tree_file, record)
    np.testing.assert_allclose(scaled.test.step_cost, 4 * np.asarray(tree_file.test.step_cost), rtol=1e-6)
    np.testing.assert_array_equal(scaled.test.quality, tree_file.test.quality)
    assert in_units_of_run(tree_file, make_record(TrainConfig(), tree_file.train, origins)) is tree_file
