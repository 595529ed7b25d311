"""Generation and scoring: every row as if alone, whatever its batch; stops, budgets, number of programs."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hierrouter_jax.core.errors import ConfigError, DataError, PromptTooLongError
from hierrouter_jax.core.text import GREEDY, Sampling
from hierrouter_jax.llm import in_flight, reading
from hierrouter_jax.llm.batching import BatchLimits, batch_bucket, decode_bucket, slot_bucket
from hierrouter_jax.llm.cache import empty_cache, slot_bytes
from hierrouter_jax.llm.config import DecoderConfig
from hierrouter_jax.llm.decode_loop import DecodeState, decode_chunk
from hierrouter_jax.llm.decoder import random_model
from hierrouter_jax.llm.generation import (
    TokenCounts,
    generate_tokens,
    option_logprobs,
    score_continuations,
    stream_tokens,
)
from hierrouter_jax.llm.likelihood import join_states, sum_logprobs
from hierrouter_jax.llm.reading import padded_length, pieces, run_layer
from hierrouter_jax.llm.reading_queue import ReadingQueue
from hierrouter_jax.llm.sampling import stack_samplings

CONFIG = DecoderConfig(
    vocab_size=59,
    num_layers=2,
    embed_dim=23,
    mlp_dim=31,
    num_heads=6,
    num_kv_heads=3,
    head_dim=10,
    context_window=101,
    norm_eps=1e-6,
    rope_base=1009.0,
    sliding_window=13,
    local_layers=(True, False),
    embed_scale=31.0,  # embeddings start small; with this the model does not say one token for ever
)
MODEL = random_model(CONFIG, seed=3)
LIMITS = BatchLimits(max_batch=4, max_read_tokens=128, chunk=5)
LENGTHS = (3, 41, 1, 17, 43, 29, 5)  # two buckets: 32 and 48
BUDGETS = (11, 3, 29, 1, 23, 7, 13)
SAMPLINGS = (
    GREEDY,
    Sampling(temperature=1.0, seed=3),
    Sampling(temperature=1.7, top_k=7, seed=5),
    GREEDY,
    Sampling(temperature=0.9, top_p=0.8, seed=2**33),
    Sampling(temperature=1.0, seed=3),
    GREEDY,
)


def random_prompts(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, CONFIG.vocab_size, length).tolist() for length in lengths]


PROMPTS = random_prompts(LENGTHS)


def generate(prompts=PROMPTS, budgets=BUDGETS, samplings=None, **kwargs):
    samplings = [GREEDY] * len(prompts) if samplings is None else samplings
    return generate_tokens(
        MODEL, prompts, max_new_tokens=budgets, samplings=samplings, **{"limits": LIMITS, **kwargs}
    )  # fmt: skip


@jax.jit
def padded_logits(tokens):
    return MODEL.module()(tokens)[0]


def greedy_by_full_forward(prompt, budget, stops=()):
    """Read everything anew for every token: no cache, no batch, no loop on the device."""
    ids, logprobs = list(prompt), []
    while len(logprobs) < budget:
        tokens = np.zeros((1, 128), np.int32)
        tokens[0, : len(ids)] = ids
        row = np.asarray(jax.nn.log_softmax(padded_logits(tokens)[0, len(ids) - 1]))
        ids.append(int(row.argmax()))
        logprobs.append(float(row.max()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :], logprobs


def test_greedy_tokens_are_those_of_repeated_full_forwards():
    results = generate()
    for prompt, budget, result in zip(PROMPTS, BUDGETS, results, strict=True):
        ids, logprobs = greedy_by_full_forward(prompt, budget)
        assert list(result.token_ids) == ids
        np.testing.assert_allclose(result.logprobs, logprobs, atol=1e-4)
        assert result.finish_reason == "length"
    assert len({token for result in results for token in result.token_ids}) > 11  # not a model that repeats itself


@pytest.mark.parametrize("samplings", [(GREEDY,) * 7, SAMPLINGS], ids=["greedy", "sampled"])
def test_a_row_of_a_ragged_batch_equals_the_row_alone(samplings):
    stops = (3, 31)
    together = generate(samplings=samplings, stop_token_ids=stops)
    for row in (0, 1, 2, 4):  # every mode of sampling, both buckets
        [alone] = generate([PROMPTS[row]], [BUDGETS[row]], [samplings[row]], stop_token_ids=stops)
        assert alone.token_ids == together[row].token_ids
        assert alone.finish_reason == together[row].finish_reason
        np.testing.assert_allclose(alone.logprobs, together[row].logprobs, atol=1e-4)


def test_order_and_limits_change_no_row():
    expected = generate(samplings=SAMPLINGS)
    order = [5, 2, 0, 6, 1, 4, 3]
    shuffled = generate_tokens(
        MODEL,
        [PROMPTS[row] for row in order],
        max_new_tokens=[BUDGETS[row] for row in order],
        samplings=[SAMPLINGS[row] for row in order],
        limits=BatchLimits(max_batch=3, chunk=7, max_read_tokens=1),
    )
    assert [result.token_ids for result in shuffled] == [expected[row].token_ids for row in order]


def test_sampled_rows_of_one_seed_and_prompt_agree_and_other_seeds_differ():
    samplings = [Sampling(temperature=1.0, seed=seed) for seed in (7, 7, 8)]
    first, again, other = generate([PROMPTS[0]] * 3, [23] * 3, samplings)
    assert first.token_ids == again.token_ids != other.token_ids


def test_a_stop_token_ends_its_row_and_no_other():
    free = [result.token_ids for result in generate()]
    stop = free[4][9]
    stopped = generate(stop_token_ids=[stop])
    assert stopped[4].finish_reason == "stop"
    for ids, result in zip(free, stopped, strict=True):
        expected = ids[: ids.index(stop) + 1] if stop in ids else ids
        assert result.token_ids == expected
        assert result.finish_reason == ("stop" if stop in ids else "length")
        assert len(result.logprobs) == len(expected)


@pytest.mark.parametrize("chunk", [2, 5])
def test_a_row_ends_at_the_token_that_completes_it_whatever_the_chunk(chunk):
    free = [result.token_ids for result in generate()]
    wanted = {0: 4, 2: 17, 4: 23}  # the number of tokens that completes a row; row 4's is its whole budget
    asked = set()

    def is_complete(row, new_ids):
        asked.add(row)
        assert tuple(new_ids) == free[row][: len(new_ids)]
        return len(new_ids) == wanted.get(row)  # holds at one token only, as a look at the newest text does

    limits = BatchLimits(max_batch=4, chunk=chunk)
    for row, result in enumerate(generate(is_complete=is_complete, limits=limits)):
        assert result.token_ids == free[row][: wanted.get(row, BUDGETS[row])]
        assert len(result.logprobs) == len(result.token_ids)
        assert result.finish_reason == ("stop" if row in wanted else "length")
    assert asked == set(range(len(PROMPTS)))


def test_few_programs_serve_many_lengths():
    limits = BatchLimits(max_batch=2, max_read_tokens=64, chunk=3)
    before = run_layer._cache_size(), decode_chunk._cache_size()
    for lengths in ((17, 25), (31, 22), (19, 27), (23, 30)):
        generate(random_prompts(lengths), [3, 40], limits=limits)
        generate(random_prompts(lengths), [40, 3], limits=limits, stop_token_ids=range(3))
    after = run_layer._cache_size(), decode_chunk._cache_size()
    # Prompts are read in pieces of 32, in ones and twos, by one program for local and global layers, and caches have
    # 128 slots. A batch of two goes on as a batch of one.
    assert after[0] - before[0] <= 2
    assert after[1] - before[1] == 2


def places_and_rows(state):
    is_done = np.asarray(state.is_done)
    return len(is_done), int((~is_done).sum())


def spy_on_decode(monkeypatch, look=places_and_rows):
    """Return a list that fills with what a look at the state of every chunk gives: its places and running rows."""
    seen = []

    def counted(model, state, *args, **kwargs):
        seen.append(look(state))
        return decode_chunk(model, state, *args, **kwargs)

    monkeypatch.setattr(in_flight, "decode_chunk", counted)
    return seen


def test_a_batch_shrinks_to_the_rows_that_run(monkeypatch):
    seen = spy_on_decode(monkeypatch)
    budgets = (5, 19, 2, 31, 11, 7, 43)
    results = generate(budgets=budgets, samplings=SAMPLINGS, limits=BatchLimits(max_batch=8, chunk=3))
    assert [len(result.token_ids) for result in results] == list(budgets)
    # Each row's first token is drawn when it is read; after n chunks the rows with budgets above 1 + 3n run.
    running = [sum(budget > 1 + 3 * chunks for budget in budgets) for chunks in range(14)]
    assert seen == [(batch_bucket(num_rows), num_rows) for num_rows in running]
    for row in (1, 4, 6):  # rows that were moved within the batch, each sampled in another way
        [alone] = generate([PROMPTS[row]], [budgets[row]], [SAMPLINGS[row]])
        assert alone.token_ids == results[row].token_ids


def test_a_larger_batch_shrinks_by_half_steps_too(monkeypatch):
    seen = spy_on_decode(monkeypatch)
    budgets = range(2, 15)
    prompts = random_prompts(range(3, 16), seed=7)
    results = generate(prompts, list(budgets), limits=BatchLimits(max_batch=16, chunk=1))
    assert seen == [(decode_bucket(rows), rows) for rows in range(13, 0, -1)]
    assert {places for places, _ in seen} == {16, 12, 8, 4, 2, 1}
    for prompt, budget, result in zip(prompts, budgets, results, strict=True):
        assert list(result.token_ids) == greedy_by_full_forward(prompt, budget)[0]


def test_few_rows_may_have_empty_places_beside_them(monkeypatch):
    seen = spy_on_decode(monkeypatch)
    budgets = (5, 19, 2)
    results = generate(PROMPTS[:3], budgets, limits=BatchLimits(max_batch=8, min_places=2, chunk=3))
    running = [sum(budget > 1 + 3 * chunks for budget in budgets) for chunks in range(6)]
    assert seen == [(max(2, batch_bucket(num_rows)), num_rows) for num_rows in running]
    assert (2, 1) in seen
    for prompt, budget, result in zip(PROMPTS, budgets, results, strict=False):
        assert list(result.token_ids) == greedy_by_full_forward(prompt, budget)[0]


def test_a_cache_grows_with_its_rows_and_no_further_than_their_last_tokens(monkeypatch):
    slots = spy_on_decode(monkeypatch, look=lambda state: state.cache.num_slots)
    model = random_model(dataclasses.replace(CONFIG, context_window=307), seed=3)
    prompts, budgets = random_prompts((97, 115, 60, 101, 3), seed=11), [31, 13, 68, 27, 100]  # each up to 128 at most
    limits = BatchLimits(max_batch=5, chunk=8, max_lookup_batch=0)
    arguments = {"max_new_tokens": budgets, "samplings": [GREEDY] * 5, "limits": limits}
    for prompt, budget, result in zip(prompts, budgets, generate_tokens(model, prompts, **arguments), strict=True):
        assert list(result.token_ids) == greedy_by_full_forward(prompt, budget)[0]
    assert set(slots) == {128}
    slots.clear()
    arguments["max_new_tokens"] = [31, 13, 69, 27, 100]  # one token more than 128 slots hold
    [*_, result, _, _] = generate_tokens(model, prompts, **arguments)
    assert list(result.token_ids) == greedy_by_full_forward(prompts[2], 69)[0]
    assert slots[0] == 128
    assert slots[-1] == 256  # of the few rows left, whose caches grow in octaves


def test_a_row_that_waits_takes_the_place_of_one_that_ends(monkeypatch):
    seen = spy_on_decode(monkeypatch)
    budgets = (2, 37, 2, 3, 2, 41, 2, 2, 3, 2, 2)
    prompts = random_prompts((7, 5, 11, 3, 13, 17, 19, 2, 23, 29, 31), seed=2)
    results = generate(prompts, budgets, limits=BatchLimits(max_batch=3, chunk=2))
    assert [len(result.token_ids) for result in results] == list(budgets)
    assert max(running for _, running in seen) == 3
    # All short rows pass while the two long ones run: no more chunks than the longest needs, and few for the rest.
    assert len(seen) <= 41 // 2 + 4
    for prompt, budget, result in zip(prompts, budgets, results, strict=True):
        assert list(result.token_ids) == greedy_by_full_forward(prompt, budget)[0]


def test_rows_are_handed_over_as_they_end_and_others_stay_in_flight():
    budgets = (3, 29, 5, 17, 2, 23, 13)
    sampled = {"samplings": SAMPLINGS, "max_new_tokens": budgets, "limits": BatchLimits(max_batch=4, chunk=2)}
    batches = list(stream_tokens(MODEL, PROMPTS, **sampled))
    assert sorted(row for batch in batches for row, _ in batch) == list(range(7))
    assert len(batches) > 3
    ended = [row for batch in batches for row, _ in batch]
    assert ended.index(2) < ended.index(1)
    assert dict(pair for batch in batches for pair in batch) == dict(
        enumerate(generate_tokens(MODEL, PROMPTS, **sampled))
    )


def test_counts_are_of_tokens_billed_and_computed():
    counts = TokenCounts()
    budgets = (5, 19, 2, 31, 11, 7, 43)
    limits = BatchLimits(max_batch=8, chunk=3, max_read_tokens=1)
    for _ in stream_tokens(
        MODEL, PROMPTS, max_new_tokens=budgets, samplings=[GREEDY] * 7, limits=limits, counts=counts
    ):
        pass
    assert counts.billed_prompt == sum(LENGTHS)
    assert counts.billed_new == sum(budgets)
    assert counts.computed_prompt == sum(map(padded_length, LENGTHS))  # each alone
    # Every chunk of three steps has the places that hold the rows still running; the first tokens need no step.
    running = [sum(budget > 1 + 3 * chunks for budget in budgets) for chunks in range(14)]
    assert counts.computed_new == sum(3 * batch_bucket(num_rows) for num_rows in running)


def test_the_cache_is_updated_in_place():
    cache = empty_cache(CONFIG, 2, 128).replace(lengths=jnp.array([7, 11], jnp.int32))
    state = DecodeState(
        cache=cache, last_tokens=jnp.array([3, 5], jnp.int32), num_new=jnp.ones(2, jnp.int32),
        budgets=jnp.full(2, 13, jnp.int32), is_done=jnp.zeros(2, bool), sampling=stack_samplings([GREEDY] * 2),
    )  # fmt: skip
    pointers = {x.unsafe_buffer_pointer() for x in (*state.cache.keys, *state.cache.values)}
    old_keys = state.cache.keys[0]
    state, drawn, _ = decode_chunk(MODEL, state, np.full(8, -1, np.int32), 2, num_steps=3, mode="greedy")
    assert old_keys.is_deleted()
    assert {x.unsafe_buffer_pointer() for x in (*state.cache.keys, *state.cache.values)} == pointers
    assert (np.asarray(drawn) >= 0).sum(axis=1).tolist() == [3, 3]


def expected_score(prompt, continuation):
    tokens = np.zeros((1, 128), np.int32)
    tokens[0, : len(prompt) + len(continuation)] = [*prompt, *continuation]
    logprobs = jax.nn.log_softmax(padded_logits(tokens)[0], axis=-1)
    return sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(continuation))


def test_scores_are_sums_of_log_probabilities_of_a_full_forward():
    continuations = random_prompts((1, 4, 1, 2, 7, 1, 3), seed=5)
    scores = score_continuations(MODEL, PROMPTS, continuations)
    expected = [expected_score(*pair) for pair in zip(PROMPTS, continuations, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_options_read_each_prompt_once(monkeypatch):
    read = []
    read_next = ReadingQueue.read_next

    def counted(queue, max_rows):
        group = read_next(queue, max_rows)
        read.extend(item.prompt for item in group.items)
        return group

    monkeypatch.setattr(ReadingQueue, "read_next", counted)
    prompts = [PROMPTS[1], PROMPTS[3], PROMPTS[1]]
    options = [[[5], [7, 2], [11]], [[2], [3]], [[13]]]
    scores = option_logprobs(MODEL, prompts, options)
    assert sorted(read) == sorted({tuple(prompt) for prompt in prompts})
    expected = [[expected_score(p, option) for option in row] for p, row in zip(prompts, options, strict=True)]
    for row, expected_row in zip(scores, expected, strict=True):
        np.testing.assert_allclose(row, expected_row, atol=1e-4)


def test_scoring_counts_every_position_it_reads():
    prompts, counts = random_prompts((13, 37)), TokenCounts()
    # Continuations of 5 and 3 tokens of the first prompt, 1 of the second: the last token of each is never read.
    owners, continuations = [0, 0, 1], [[1, 2, 3, 4, 5], [7, 11, 13], [17]]
    score_continuations(MODEL, [prompts[owner] for owner in owners], continuations, counts=counts)
    assert (counts.billed, counts.computed_prompt) == (0, 2 * padded_length(37))
    assert counts.computed_new == 4 * padded_length(4)  # three branches in a batch of four


def test_options_of_mixed_lengths_are_ranked_together():
    options = [[[5], [7, 11], [13, 17, 19]]]
    [scores] = option_logprobs(MODEL, [PROMPTS[3]], options)
    np.testing.assert_allclose(scores, [expected_score(PROMPTS[3], option) for option in options[0]], atol=1e-4)


def test_scoring_compiles_few_programs():
    programs = (join_states, sum_logprobs)
    before = [program._cache_size() for program in programs]
    for length in (3, 11, 29):
        prompts = random_prompts((length, length + 1))
        score_continuations(MODEL, prompts, [[1], [2]], limits=BatchLimits(max_batch=2))
        score_continuations(MODEL, prompts, [[1, 2, 3], [4, 5]], limits=BatchLimits(max_batch=2))
    after = [program._cache_size() for program in programs]
    # Two branches or one, of one token or of three padded to five.
    assert (np.subtract(after, before) <= [2, 4]).all()


def test_probabilities_of_all_options_sum_to_one():
    [scores] = option_logprobs(MODEL, [PROMPTS[5]], [[[token] for token in range(CONFIG.vocab_size)]])
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-5)


def test_nothing_asked_is_nothing_answered():
    assert generate([], []) == []
    assert score_continuations(MODEL, [], []) == []


@pytest.mark.parametrize(
    ("prompts", "budgets", "error", "message"),
    [
        ([[1, 2], []], [3, 3], DataError, "prompt 1 has none"),
        ([[1, 59]], [3], DataError, r"\[0, 59\)"),
        ([[-1]], [3], DataError, r"\[0, 59\)"),
        ([[1]], [0], ConfigError, "max_new_tokens must be >= 1"),
        ([[1]], [1, 2], ConfigError, "one a prompt"),
        ([[1] * 94], [8], PromptTooLongError, "context window of 101"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(prompts, budgets, error, message):
    with pytest.raises(error, match=message):
        generate(prompts, budgets)


def test_continuations_that_cannot_be_scored_are_refused():
    with pytest.raises(DataError, match="continuation 0 has none"):
        score_continuations(MODEL, [[1]], [[]])
    with pytest.raises(DataError, match=r"\[0, 59\)"):
        score_continuations(MODEL, [[1]], [[60]])
    with pytest.raises(ConfigError, match="one a prompt"):
        score_continuations(MODEL, [[1]], [])


def test_a_prompt_and_answer_may_fill_the_context_window():
    [result] = generate(random_prompts((94,)), [7])
    assert len(result.token_ids) == 7


def test_buckets_hold_what_they_round_and_are_few():
    many, few = (lambda n: slot_bucket(n, 5)), (lambda n: slot_bucket(n, 4))
    for bucket, most in ((many, 11), (few, 6), (batch_bucket, 13), (decode_bucket, 22)):
        sizes = [bucket(n) for n in range(1, 4097)]
        assert all(size >= n for n, size in enumerate(sizes, start=1))
        assert sizes == sorted(sizes)
        assert len(set(sizes)) <= most
        assert [bucket(size) for size in sizes] == sizes
    assert [batch_bucket(n) for n in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 16]
    assert [decode_bucket(n) for n in (1, 3, 5, 9, 13, 17, 33, 49)] == [1, 4, 8, 12, 16, 24, 48, 64]


def test_pieces_are_the_cheapest_that_hold_the_tokens():
    def cost(way):
        return sum(way) + reading.CPU_PASS * len(way)

    sizes = reading.PIECE_SIZES
    ways = [way for count in range(1, 5) for way in itertools.combinations_with_replacement(sizes, count)]
    for num_tokens in range(1, 257):
        own = pieces(num_tokens)
        assert cost(own) == min(cost(way) for way in ways if sum(way) >= num_tokens)
        assert sum(own) - own[-1] < num_tokens  # the last piece alone may be padded
        assert list(own) == sorted(own, reverse=True)
    assert pieces(600) == (256, 256, *pieces(88))
    assert padded_length(600) == 512 + sum(pieces(88))


def test_rows_in_flight_stay_within_memory(monkeypatch):
    rng = np.random.default_rng(0)
    lengths, budgets = rng.integers(1, 60, 23), rng.integers(1, 40, 23).tolist()
    limits = BatchLimits(max_batch=8, max_cache_bytes=5 * 128 * slot_bytes(CONFIG), chunk=3)
    seen = spy_on_decode(monkeypatch)
    results = generate(random_prompts(lengths), budgets, limits=limits)
    assert [len(result.token_ids) for result in results] == budgets
    assert max(places for places, _ in seen) == 4  # eight would not fit


@pytest.mark.parametrize("field", ["max_batch", "max_read_tokens", "max_cache_bytes", "chunk"])
def test_limits_under_which_nothing_runs_are_refused(field):
    with pytest.raises(ConfigError, match=field):
        BatchLimits(**{field: 0})


def test_dtype_of_tokens_does_not_matter():
    [expected] = generate([PROMPTS[0]], [5])
    [actual] = generate([np.asarray(PROMPTS[0]).tolist()], [5])
    assert actual == expected
    assert all(isinstance(token, int) for token in actual.token_ids)
    assert jnp.isfinite(jnp.asarray(actual.logprobs)).all()
