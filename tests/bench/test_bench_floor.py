"""The floor against a count by plain loops, over every product, row and step."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hierrouter_jax.bench.floor import (
    FloorModel,
    ProductShape,
    Rates,
    generation_floor,
    measure_rates,
    rows_to_measure,
)
from hierrouter_jax.bench.product_times import (
    _chain,
    best_flop_rate,
    copy_rate,
    median_seconds,
    product_seconds,
    roofline_seconds,
)
from hierrouter_jax.llm.config import DecoderConfig
from hierrouter_jax.llm.decoder import abstract_leaves

CONFIG = DecoderConfig(
    vocab_size=101, num_layers=3, embed_dim=23, mlp_dim=31, num_heads=10, num_kv_heads=5, head_dim=14,
    context_window=211, norm_eps=1e-5, rope_base=1e4, sliding_window=13, local_layers=(True, False, True),
    has_tied_output=True,
)  # fmt: skip
MODEL = FloorModel(config=CONFIG, weight_itemsize=4, cache_itemsize=4)
COPY = 1e9


def seconds_of(shape, rows):
    """A made-up machine: each product has a fixed part and a part a row."""
    return (shape.dim_in + 3 * shape.dim_out) * shape.num_weights * 1e-6 * (1 + rows / 7)


def make_rates(decode_rows, prefill_rows):
    return measure_rates(
        MODEL, decode_rows=decode_rows, prefill_rows=prefill_rows, time_product=seconds_of, copy_bytes_per_s=COPY
    )


def test_products_are_the_kernels_of_the_decoder():
    leaves = abstract_leaves(CONFIG)
    names = {"qkv": "attention.qkv", "output": "attention.output", "gate_up": "mlp.gate_up", "down": "mlp.down"}
    for shape in MODEL.layer_products:
        assert leaves[f"layers.0.{names[shape.name]}.kernel"].shape == (shape.dim_in, shape.dim_out)
        assert shape.num_weights == 3
    assert leaves["embed.table"].shape == (MODEL.unembed.dim_out, MODEL.unembed.dim_in)
    kernels = [leaf for name, leaf in leaves.items() if len(leaf.shape) == 2]  # a tied table is unembed's weight
    assert MODEL.weight_bytes == sum(leaf.size * 4 for leaf in kernels)
    assert ProductShape(name="x", dim_in=2, dim_out=3, num_weights=5).flops(7) == 2 * 7 * 2 * 3 * 5


def test_floor_is_the_sum_over_products_rows_and_steps():
    prompts, new = [11, 17, 5], [7, 2, 4]
    rates = make_rates((1, 2, 3), (33,))
    floor = generation_floor(MODEL, rates, prompt_lengths=prompts, new_lengths=new)

    entry_bytes = 2 * 5 * 14 * 4  # key and value of one layer, one token, one row
    prefill_s = sum(seconds_of(one, 33) for one in MODEL.layer_products) + seconds_of(MODEL.unembed, 3)
    pairs = sum(1 for length in prompts for query in range(length) for key in range(query + 1))
    best = max([one.flops(rows) / seconds_of(one, rows) for one in MODEL.layer_products for rows in (1, 2, 3, 33)])
    prefill_s += pairs * 10 * 14 * 3 * 2 * 2 / best + 33 * 3 * entry_bytes / COPY
    decode_s, cache_bytes, num_steps = 0.0, 0, 0
    for step in itertools.count(1):
        running = [row for row in range(3) if new[row] > step]
        if not running:
            break
        num_steps += 1
        decode_s += sum(seconds_of(one, len(running)) for one in MODEL.products)
        for row in running:
            for window in (13, 10**9, 13):
                cache_bytes += (min(window, prompts[row] + step) + 1) * entry_bytes
    assert num_steps == 6
    assert floor.cache_bytes == pytest.approx(cache_bytes)
    assert floor.decode_s == pytest.approx(decode_s + cache_bytes / COPY)
    assert floor.prefill_s == pytest.approx(prefill_s)
    assert floor.total_s == pytest.approx(floor.prefill_s + floor.decode_s)
    assert floor.weight_bytes == 6 * MODEL.weight_bytes


def test_rows_between_two_measured_ones_lie_on_a_line():
    rates = Rates(product_s={("down", 2): 1.0, ("down", 4): 2.0, ("up", 3): 9.0}, copy_bytes_per_s=1.0)
    assert rates.seconds("down", 3) == 1.5
    assert rates.seconds("down", 4) == 2.0
    assert rows_to_measure(1, [5]) == ((1,), 5)
    assert rows_to_measure(13, [5, 7]) == ((1, 2, 4, 8, 13), 12)
    assert rows_to_measure(16, [1]) == ((1, 2, 4, 8, 16), 1)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_every_product_is_computed_whole(is_transposed):
    weights = [jnp.ones((11, 7) if is_transposed else (7, 11)) * scale for scale in (1e30, 1e30, 1e30)]
    x = jnp.ones((5, 7))
    text = _chain.lower(x, weights, is_transposed=is_transposed).compile().as_text()
    assert text.count(" = f32[5,11]{1,0} dot(") == 3  # not the one element that is used
    # x[0, 0] grows by 1e-30 times the last element of each product, which the last row makes of ones: 7e30 each.
    assert np.asarray(_chain(x, weights, is_transposed=is_transposed)) == pytest.approx(1 + 3 * 7)


def test_seconds_are_medians_of_a_clock():
    ticks = iter([0, 9, 10, 11, 20, 22, 30, 37, 40, 45])
    calls = []
    assert median_seconds(lambda: calls.append(1), clock=lambda: next(ticks)) == 5
    assert len(calls) == 6  # the first is not timed
    shape = ProductShape(name="qkv", dim_in=7, dim_out=11, num_weights=2)
    assert product_seconds(shape, 5, dtype="float32") > 0
    assert product_seconds(shape, 1, dtype="int8") > 0
    assert copy_rate(size_bytes=2**20) > 0
    assert best_flop_rate(dtype="float32", size=31) > 0
    assert jax.default_backend() == "cpu"


def test_a_product_on_the_roofline_costs_the_dearer_of_bytes_and_flops():
    shape = ProductShape(name="down", dim_in=7, dim_out=11, num_weights=3)
    rates = {"itemsize": 2, "bytes_per_s": 13.0, "flops_per_s": 17.0}
    assert roofline_seconds(shape, 1, **rates) == pytest.approx(7 * 11 * 3 * 2 / 13)  # bytes: 35.5 s, FLOPs: 27.2 s
    assert roofline_seconds(shape, 5, **rates) == pytest.approx(5 * 7 * 11 * 3 * 2 / 17)
