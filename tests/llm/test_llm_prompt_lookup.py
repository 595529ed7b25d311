"""Prompt-lookup speculation: proposals by a plain search, and greedy output that stays what it is without."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_llm_generation import CONFIG, MODEL, PROMPTS, generate, random_prompts

from hierrouter_jax.core.text import GREEDY, Sampling
from hierrouter_jax.llm import in_flight
from hierrouter_jax.llm.batching import BatchLimits
from hierrouter_jax.llm.decoder import random_model
from hierrouter_jax.llm.generation import TokenCounts, generate_tokens, stream_tokens
from hierrouter_jax.llm.prompt_lookup import (
    LONGEST_MATCH,
    SHORTEST_MATCH,
    next_match_length,
    propose,
    verify_proposals,
)

# Two layers that see two tokens each: what comes next depends on the last three, so greedy text runs in a circle.
REPEATER = random_model(dataclasses.replace(CONFIG, sliding_window=2, local_layers=(True, True)), seed=5)
PLAIN = BatchLimits(max_batch=2, max_lookup_batch=0)
LOOKUP = BatchLimits(max_batch=2, max_lookup_batch=2, lookup_length=5)


def propose_by_search(text, match_length, num_tokens):
    for start in range(len(text) - match_length - 1, -1, -1):
        if text[start : start + match_length] == text[-match_length:]:
            following = text[start + match_length :]
            while len(following) < num_tokens:
                following = following + text[start + match_length :]
            return following[:num_tokens]
    return []


@pytest.mark.parametrize("match_length", [1, 2, 3])
def test_proposals_follow_the_last_earlier_match(match_length):
    rng = np.random.default_rng(3)
    num_found = 0
    for length in range(1, 97):
        text = rng.integers(0, 5, length).tolist()
        expected = propose_by_search(text, match_length, 7) if length > match_length else []
        assert propose(np.array(text, np.int32), match_length=match_length, num_tokens=7) == expected
        num_found += bool(expected)
    assert num_found > 13


def test_a_match_must_be_longer_after_a_wrong_proposal_and_no_longer_than_the_longest():
    lengths = [SHORTEST_MATCH]
    for num_accepted in (0, 0, 0, 0, 0, 2, 0):
        lengths.append(next_match_length(lengths[-1], num_accepted))
    assert lengths == [3, 4, 5, 6, LONGEST_MATCH, LONGEST_MATCH, 3, 4]


def spy_on_verify(monkeypatch):
    seen = []

    def counted(model, state, proposals):
        state, drawn, logprobs = verify_proposals(model, state, proposals)
        seen.append((np.asarray(proposals), np.asarray(drawn)))
        return state, drawn, logprobs

    monkeypatch.setattr(in_flight, "verify_proposals", counted)
    return seen


def run(model, budgets, limits, **options):
    options = {"samplings": [GREEDY] * len(budgets), **options}
    return generate_tokens(model, PROMPTS[: len(budgets)], max_new_tokens=budgets, limits=limits, **options)


@pytest.mark.parametrize("stops", [(), (3, 31)])
@pytest.mark.parametrize("model", [MODEL, REPEATER], ids=["says anything", "repeats itself"])
def test_greedy_output_is_unchanged(monkeypatch, model, stops):
    budgets = (41, 3, 29, 1, 53, 37, 43)
    expected = run(model, budgets, PLAIN, stop_token_ids=stops)
    seen = spy_on_verify(monkeypatch)
    actual = run(model, budgets, LOOKUP, stop_token_ids=stops)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.finish_reason == theirs.finish_reason
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    assert seen
    if model is REPEATER and not stops:
        assert max((drawn >= 0).sum(axis=1).max() for _, drawn in seen) == 1 + LOOKUP.lookup_length  # all accepted


def test_wrong_proposals_cost_a_step_and_change_nothing(monkeypatch):
    """Prompts that hold a run of tokens twice, which the model does not go on with."""
    prompts = [[*prompt[:9], *prompt[:5]] for prompt in random_prompts((13, 17), seed=7)]
    budgets, samplings = [19, 23], [GREEDY] * 2
    expected = generate(prompts, budgets, samplings, limits=PLAIN)
    seen = spy_on_verify(monkeypatch)
    monkeypatch.setattr(in_flight, "propose", lambda text, **_: [(int(text[-1]) + 1) % 59, 3, 5])
    actual = generate(prompts, budgets, samplings, limits=LOOKUP)
    assert [one.token_ids for one in actual] == [one.token_ids for one in expected]
    assert min((drawn >= 0).sum(axis=1).min() for _, drawn in seen) == 1  # nothing accepted
    assert all(proposals.shape == (places, 5) for (proposals, drawn) in seen for places in [len(drawn)])


def test_right_proposals_save_steps(monkeypatch):
    seen = spy_on_verify(monkeypatch)
    counts = TokenCounts()
    limits = BatchLimits(max_batch=1, max_lookup_batch=1, lookup_length=5, chunk=1)
    arguments = {"max_new_tokens": [59], "samplings": [GREEDY], "limits": limits, "counts": counts}
    [[(_, produced)]] = list(stream_tokens(REPEATER, [PROMPTS[1]], **arguments))
    assert len(produced.token_ids) == 59
    num_steps = len(seen) + counts.computed_new - 6 * len(seen)  # of six tokens, and of one
    assert num_steps < 40
    assert counts.billed_new == 59


def test_sampled_rows_and_larger_batches_decode_plainly(monkeypatch):
    seen = spy_on_verify(monkeypatch)
    run(REPEATER, (53, 59, 47), LOOKUP, samplings=[Sampling(temperature=1.0)] * 3)
    run(REPEATER, (59, 59, 59), BatchLimits(max_batch=4, max_lookup_batch=2))
    assert seen == []
