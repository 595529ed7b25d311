"""Shared beginnings: found by a plain search, computed once, and without effect on what is answered."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from test_llm_generation import CONFIG, MODEL, generate, random_prompts

from hierrouter_jax.core.text import GREEDY, Sampling
from hierrouter_jax.llm.batching import BatchLimits
from hierrouter_jax.llm.cache import empty_cache, slot_bytes
from hierrouter_jax.llm.generation import TokenCounts, stream_tokens
from hierrouter_jax.llm.prefix_cache import (
    SMALLEST_SHARED,
    PrefixCache,
    admission_order,
    rows_from_prefix,
    shared_length,
)
from hierrouter_jax.llm.reading import PromptReader

WITHOUT = BatchLimits(max_batch=4, max_prefix_bytes=0, chunk=5)
WITH = BatchLimits(max_batch=4, chunk=5)


def shared_by_loop(first, second):
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def filled_cache(length, seed, num_rows=1):
    rng = np.random.default_rng(seed)
    cache = empty_cache(CONFIG, num_rows, length)
    return cache.replace(
        keys=tuple(jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in cache.keys),
        values=tuple(jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in cache.values),
        lengths=jnp.full(num_rows, length, jnp.int32),
    )


def prompts_that_share():
    """Two tasks with 23 tokens of instructions; three queries each, and two or three ways on from each."""
    rng = np.random.default_rng(2)
    draw = lambda size: rng.integers(0, CONFIG.vocab_size, size).tolist()  # noqa: E731
    prompts = []
    for num_ways in (2, 3):
        task = draw(23)
        for _ in range(3):
            query = [*task, *draw(17)]
            prompts += [[*query, *draw(int(rng.integers(1, 13)))] for _ in range(num_ways)]
    return [prompts[index] for index in rng.permutation(len(prompts))]


def test_the_longest_shared_beginning_is_found_and_never_the_last_token():
    rng = np.random.default_rng(5)
    texts = [rng.integers(0, 2, 37).tolist() for _ in range(7)]
    for text in texts[1:]:
        text[: 3 * SMALLEST_SHARED // 2] = texts[0][: 3 * SMALLEST_SHARED // 2]
    kept = PrefixCache(2**30)
    for seed, text in enumerate(texts[:5]):
        kept.add(text, filled_cache(41, seed), 0)
    for wanted in (*texts, texts[0][:20], [*texts[3], 1, 0, 1]):
        num_shared, entry = kept.longest(wanted)
        assert num_shared == max(shared_by_loop(wanted[:-1], text) for text in texts[:5])
        assert shared_by_loop(wanted[:-1], entry.token_ids.tolist()) == num_shared
    assert kept.longest(texts[0][:SMALLEST_SHARED]) == (0, None)  # 15 tokens and the last
    assert kept.longest([2] * 37) == (0, None)


def test_the_least_recently_used_entries_leave_when_there_are_too_many_bytes():
    texts = random_prompts((19, 23, 29, 31))
    kept = PrefixCache(3 * 41 * slot_bytes(CONFIG))
    for seed, text in enumerate(texts[:3]):
        kept.add(text, filled_cache(41, seed), 0)
    assert kept.num_entries == 3
    assert kept.size_bytes == 3 * 41 * slot_bytes(CONFIG)
    kept.longest([*texts[0], 1])  # used: the second is the oldest now
    kept.add(texts[3], filled_cache(41, 3), 0)
    assert kept.num_entries == 3
    found = [kept.longest([*text, 1])[0] for text in texts]
    assert found == [19, 0, 29, 31]
    nothing = PrefixCache(0)
    nothing.add(texts[0], filled_cache(41, 0), 0)
    assert nothing.num_entries == 0


def test_rows_begin_with_the_entry_they_are_made_from():
    kept = PrefixCache(2**30)
    source = filled_cache(41, 7, num_rows=3)
    kept.add(random_prompts((37,))[0], source, 1)
    [entry] = [kept.longest([*random_prompts((37,))[0], 0])[1]]
    rows = rows_from_prefix(entry, 29, num_rows=2, num_slots=53)
    assert rows.num_slots == 53
    np.testing.assert_array_equal(rows.lengths, [29, 29])
    for layer, row in itertools.product(range(CONFIG.num_layers), range(2)):
        np.testing.assert_array_equal(rows.keys[layer][row, ..., :41], source.keys[layer][1])
        np.testing.assert_array_equal(rows.values[layer][row, :, :41], source.values[layer][1])


def test_neighbours_in_the_order_of_admission_share_what_can_be_shared():
    prompts = prompts_that_share()
    order = admission_order(prompts, [len(prompt) for prompt in prompts])
    assert sorted(order) == list(range(len(prompts)))
    ordered = [prompts[index] for index in order]
    computed = len(ordered[0]) + sum(
        len(text) - shared_by_loop(before, text) for before, text in itertools.pairwise(ordered)
    )
    distinct = {tuple(text[: end + 1]) for text in prompts for end in range(len(text))}
    assert computed <= len(distinct) + 2 * 17  # a trie's nodes; groups of 32 tokens cut a query's 40
    unrelated = random_prompts((3, 41, 17, 29, 2), seed=3)
    lengths = [len(prompt) for prompt in unrelated]
    assert [lengths[index] for index in admission_order(unrelated, lengths)] == sorted(lengths, reverse=True)
    assert admission_order([], []) == []


def test_shared_lengths_are_those_of_a_loop():
    rng = np.random.default_rng(9)
    for _ in range(41):
        first, second = rng.integers(0, 2, rng.integers(0, 7)), rng.integers(0, 2, rng.integers(0, 7))
        assert shared_length(first, second) == shared_by_loop(first, second)


@pytest.mark.parametrize("max_read_tokens", [1, 97])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_reuse_changes_no_answer_and_computes_less(max_read_tokens, temperature):
    prompts = prompts_that_share()
    budgets = np.random.default_rng(4).integers(1, 19, len(prompts)).tolist()
    samplings = [Sampling(temperature=temperature, seed=seed) for seed in range(len(prompts))]
    counts = {}
    answers = {}
    for name, limits in (("with", WITH), ("without", WITHOUT)):
        limits = BatchLimits(
            max_batch=4, chunk=5, max_read_tokens=max_read_tokens, max_prefix_bytes=limits.max_prefix_bytes
        )
        counts[name] = TokenCounts()
        batches = stream_tokens(
            MODEL, prompts, max_new_tokens=budgets, samplings=samplings, limits=limits, counts=counts[name]
        )
        answers[name] = dict(pair for batch in batches for pair in batch)
    for row in range(len(prompts)):
        assert answers["with"][row].token_ids == answers["without"][row].token_ids
        np.testing.assert_allclose(answers["with"][row].logprobs, answers["without"][row].logprobs, atol=1e-4)
    assert counts["with"].billed_prompt == counts["without"].billed_prompt == sum(map(len, prompts))
    assert counts["with"].computed_prompt < 0.7 * counts["without"].computed_prompt


def test_what_is_asked_next_goes_on_from_what_was_asked_before():
    [first] = random_prompts((61,), seed=13)
    later = [*first[:53], *random_prompts((11,), seed=17)[0]]
    [expected] = generate([later], [7], limits=WITHOUT)
    kept, counts = PrefixCache(2**30), TokenCounts()
    for prompt in (first, later):
        before = counts.computed_prompt
        arguments = {"max_new_tokens": [7], "samplings": [GREEDY], "limits": WITH}
        [[(_, answer)]] = list(stream_tokens(MODEL, [prompt], **arguments, prefixes=kept, counts=counts))
    assert counts.computed_prompt - before == 16  # 11 tokens, padded
    assert answer.token_ids == expected.token_ids
    np.testing.assert_allclose(answer.logprobs, expected.logprobs, atol=1e-4)


@pytest.mark.parametrize("by_layers", [True, False])
def test_reading_in_pieces_behind_a_prefix_gives_the_states_of_the_whole(by_layers, monkeypatch):
    monkeypatch.setattr("hierrouter_jax.llm.reading.PIECE_SIZES", (4, 32))
    reader = PromptReader(MODEL, by_layers=by_layers)
    texts = random_prompts((67, 41, 5), seed=19)
    for text in texts:
        expected, _ = MODEL.module().hidden_states(jnp.asarray([text]))
        cache = empty_cache(CONFIG, 1, 128)
        for part in (text[:3], text[3:]):
            state, cache = reader.read(cache, [part])
        np.testing.assert_allclose(state[0], expected[0, -1], atol=1e-4)
        assert cache.lengths.tolist() == [len(text)]
    together, cache = reader.read(empty_cache(CONFIG, 3, 128), texts)  # rows end in different pieces
    for row, text in enumerate(texts):
        expected, _ = MODEL.module().hidden_states(jnp.asarray([text]))
        np.testing.assert_allclose(together[row], expected[0, -1], atol=1e-4)
    assert cache.lengths.tolist() == [67, 41, 5]
