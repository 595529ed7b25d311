"""Models on several devices (eight that the CPU pretends): replicated or cut, the answers are those of one device."""

from __future__ import annotations

import dataclasses
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from model_leaves import leaves_of
from test_llm_generation import BUDGETS, MODEL, PROMPTS, generate
from tiny_pools import write_tiny_pool

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.text import GREEDY, GenerationRequest
from hierrouter_jax.llm.batching import BatchLimits
from hierrouter_jax.llm.decoder import decoder_from_leaves, int8_leaves, random_model
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.generation import generate_tokens
from hierrouter_jax.llm.placement import (
    cut_of_leaf,
    default_devices,
    device_bytes,
    devices_of,
    is_sharded,
    leaf_placer,
    replicate_model,
)
from hierrouter_jax.llm.pool import load_pool, read_pool_spec
from hierrouter_jax.llm.reading import read_piece, run_layer
from hierrouter_jax.llm.side_by_side import side_by_side

# Heads, hidden units and vocabulary divide by two and by four; the embedding's 23 by neither.
CUT_CONFIG = dataclasses.replace(
    MODEL.config, vocab_size=4 * 17, num_heads=8, num_kv_heads=4, mlp_dim=4 * 7, has_tied_output=False
)
CUT_MODEL = random_model(CUT_CONFIG, seed=5)


def cut_model(model, devices):
    place = leaf_placer(devices, is_sharded=True)
    return decoder_from_leaves(model.config, {name: place(name, leaf) for name, leaf in leaves_of(model).items()})


@pytest.mark.parametrize("num_devices", [2, 4])
def test_a_model_cut_over_devices_answers_as_on_one_and_holds_a_share_on_each(num_devices):
    devices = jax.devices()[:num_devices]
    cut = cut_model(CUT_MODEL, devices)
    kernel = cut.params["layers"][0]["mlp"]["gate_up"]["kernel"][...]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(23, 2 * 28 // num_devices)}
    held = [
        sum(shard.data.nbytes for leaf in jax.tree.leaves(cut.params) for shard in leaf.addressable_shards
            if shard.device == device)
        for device in devices
    ]  # fmt: skip
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(CUT_MODEL.params))
    assert max(held) < 1.2 * whole / num_devices
    arguments = {"max_new_tokens": BUDGETS, "samplings": [GREEDY] * 7, "limits": BatchLimits(max_batch=4, chunk=5)}
    expected = generate_tokens(CUT_MODEL, PROMPTS, **arguments)
    for ours, theirs in zip(generate_tokens(cut, PROMPTS, **arguments), expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    assert replicate_model(cut, devices) == [cut]


def test_a_model_cut_over_devices_is_read_by_one_program_a_piece():
    """A program a layer would leave many in flight that wait for each other (see `PromptReader`)."""
    cut = cut_model(CUT_MODEL, jax.devices()[:2])
    assert devices_of(cut) == set(jax.devices()[:2])
    sizes = run_layer._cache_size(), read_piece._cache_size()
    arguments = {"max_new_tokens": [2], "samplings": [GREEDY], "limits": BatchLimits()}
    generate_tokens(cut, [PROMPTS[1]], **arguments)
    assert (run_layer._cache_size(), read_piece._cache_size()) == (sizes[0], sizes[1] + 1)


def test_an_int8_model_cut_over_devices_answers_as_on_one():
    devices = jax.devices()[:2]
    place = leaf_placer(devices, is_sharded=True)
    parts = [int8_leaves(name, leaf) for name, leaf in leaves_of(CUT_MODEL).items()]
    leaves = {name: np.asarray(leaf) for part in parts for name, leaf in part.items()}
    whole = decoder_from_leaves(CUT_CONFIG, leaves, dtype="int8")
    cut = decoder_from_leaves(CUT_CONFIG, {name: place(name, leaf) for name, leaf in leaves.items()}, dtype="int8")
    kernel = cut.params["layers"][0]["mlp"]["gate_up"]["int8_kernel"][...]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(28, 23)}
    arguments = {"max_new_tokens": BUDGETS, "samplings": [GREEDY] * 7, "limits": BatchLimits(max_batch=4, chunk=5)}
    expected = generate_tokens(whole, PROMPTS, **arguments)
    for ours, theirs in zip(generate_tokens(cut, PROMPTS, **arguments), expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


def test_leaves_are_cut_along_heads_and_hidden_units_where_they_divide():
    assert cut_of_leaf("layers.3.mlp.gate_up.kernel", (23, 56), 4) == PartitionSpec(None, "model")
    assert cut_of_leaf("layers.3.mlp.down.kernel", (28, 23), 4) == PartitionSpec("model", None)
    assert cut_of_leaf("layers.0.attention.output.kernel", (8 * 10, 23), 4) == PartitionSpec("model", None)
    assert cut_of_leaf("layers.0.mlp.gate_up.int8_kernel", (56, 23), 4) == PartitionSpec("model", None)
    assert cut_of_leaf("layers.0.mlp.gate_up.scale", (56,), 4) == PartitionSpec("model")
    assert cut_of_leaf("layers.3.mlp.down.int8_kernel", (23, 28), 4) == PartitionSpec(None, "model")
    assert cut_of_leaf("layers.3.mlp.down.scale", (24,), 4) == PartitionSpec()
    assert cut_of_leaf("embed.table", (59, 24), 4) == PartitionSpec(None, "model")  # the vocabulary does not divide
    assert cut_of_leaf("embed.table", (59, 23), 4) == PartitionSpec()
    assert cut_of_leaf("layers.0.attention_norm.scale", (24,), 4) == PartitionSpec()


def test_replicas_are_whole_models_each_on_its_device():
    devices = jax.devices()[1:4]
    replicas = replicate_model(MODEL, devices)
    assert [set().union(*(leaf.devices() for leaf in jax.tree.leaves(replica.params))) for replica in replicas] == [
        {device} for device in devices
    ]
    assert replicate_model(MODEL, jax.devices()[:1]) == [MODEL]
    with jax.default_device(devices[1]):
        arguments = {"max_new_tokens": [11], "samplings": [GREEDY], "limits": BatchLimits(max_batch=1)}
        [there] = generate_tokens(replicas[1], PROMPTS[:1], **arguments)
    [here] = generate(PROMPTS[:1], [11])
    assert there.token_ids == here.token_ids


def test_the_layout_is_chosen_by_size_unless_it_is_stated():
    two = {"num_devices": 2, "limit_bytes": 1000}
    assert [is_sharded("auto", size, **two) for size in (600, 601)] == [False, True]
    assert [is_sharded(layout, size, **two) for layout, size in (("shard", 1), ("replicate", 10**9))] == [True, False]
    assert not is_sharded("auto", 10**9, num_devices=2, limit_bytes=None)
    assert not is_sharded("shard", 10**9, num_devices=1, limit_bytes=1000)
    assert device_bytes(jax.devices()[0]) is None  # a CPU does not say
    assert default_devices() == (jax.devices()[0],)  # what a CPU pretends shares its cores


@pytest.fixture(scope="module")
def pool_path(tmp_path_factory):
    return write_tiny_pool(tmp_path_factory.mktemp("pool"))


def requests_of(model, options=()):
    return [
        GenerationRequest(model=model, prompt=f"{number} in the {number * 7}", max_new_tokens=3 + number % 11,
                          options=options)
        for number in range(23)
    ]  # fmt: skip


@pytest.mark.parametrize("layout", ["replicate", "shard"])
def test_an_engine_on_several_devices_answers_as_on_one(tmp_path, pool_path, layout):
    spec = read_pool_spec(pool_path)
    spec = dataclasses.replace(spec, models=tuple(dataclasses.replace(one, layout=layout) for one in spec.models))
    limits = BatchLimits(max_batch=4, chunk=3)
    answers = {}
    for num_devices in (1, 3):
        pool = load_pool(spec, cache_dir=tmp_path, devices=jax.devices()[:num_devices], is_quiet=True)
        engine = FlaxEngine(pool, limits=limits)
        requests = [*requests_of("tiny-hub"), *requests_of("tiny-gguf"), *requests_of("tiny-hub", (" a", " the"))]
        answers[num_devices] = engine.generate(requests)
        counts = engine.token_counts
        assert counts.billed_new == sum(one.num_new_tokens for one in answers[num_devices])
        assert counts.billed_prompt == sum(one.num_prompt_tokens for one in answers[num_devices])
        assert engine.ranked_counts.billed_new == 23
        assert engine.ranked_counts.computed_new > 0 < engine.written_counts.computed_new
    for ours, theirs in zip(answers[3], answers[1], strict=True):
        assert (ours.text, ours.num_new_tokens) == (theirs.text, theirs.num_new_tokens)
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)


def test_an_unknown_layout_is_refused(tmp_path):
    path = tmp_path / "pool.toml"
    path.write_text('[[model]]\nname = "a"\nsource = "a.gguf"\nmax_new_tokens = 3\nlayout = "wide"\n')
    with pytest.raises(ConfigError, match="layout"):
        read_pool_spec(path)


def test_iterators_run_at_the_same_time_and_all_items_come():
    both = threading.Barrier(2, timeout=60)

    def numbers(start):
        both.wait()  # neither gets on without the other
        yield from range(start, start + 5)

    assert sorted(side_by_side([numbers(0), numbers(10)])) == [*range(5), *range(10, 15)]


def test_an_error_of_one_iterator_is_raised_and_ends_the_others():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
                time.sleep(0.001)
        finally:
            closed.set()

    def broken():
        yield 2
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        for _ in side_by_side([endless(), broken()]):
            pass
    assert closed.is_set()
    for thread in threading.enumerate():
        assert not thread.name.endswith("(drive)")


def test_a_caller_that_stops_early_leaves_no_thread_behind():
    before = threading.active_count()
    stream = side_by_side([iter(range(100)), iter(range(100))])
    next(stream)
    stream.close()
    assert threading.active_count() == before
