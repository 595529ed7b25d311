"""The floor of generation on this machine: what its matrix products and its memory take, measured, and nothing else.

    prefill  = products(B T rows) + unembed(B rows) + attention FLOPs / best product rate + cache writes / copy rate
    step     = products(B rows) + unembed(B rows) + cache bytes / copy rate
    generate = prefill + (N - 1) steps

for B prompts of T tokens and N new tokens each: the first new token comes from prefill. `products` are the four of a
layer (qkv, attention output, gate and up together, down), each measured as XLA runs it at that number of rows, over as
many distinct weights as the model has layers, one after the other, so that weights come from memory as they do in a
step; of the two layouts of a weight the faster one counts. Cache bytes of a step are the keys and values of the filled
slots, read once, and one slot written; the copy rate counts bytes read and bytes written where a large array is
updated in place. Attention FLOPs are those of its two products over the causal half in prefill; in a step their
operands' bytes are the dearer part.

Not counted: norms, rotary embedding, activations, softmax, residual sums, the draw of a token, dispatch, the host. So
nothing reaches the floor, and a floor share of 1 would mean that all of these are free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hierrouter_jax.llm.cache import slot_bytes
from hierrouter_jax.llm.config import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class ProductShape:
    """One matrix product of a token's way through the model: x of (rows, dim_in) times `num_weights` weights."""

    name: str
    dim_in: int
    dim_out: int
    num_weights: int

    def flops(self, num_rows: int) -> int:
        """Return the FLOPs (a multiplication and an addition are two) over all weights."""
        return 2 * num_rows * self.dim_in * self.dim_out * self.num_weights


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured: seconds of a product over all its weights by (name, rows), and bytes a second of a copy."""

    product_s: Mapping[tuple[str, int], float]
    copy_bytes_per_s: float

    def seconds(self, name: str, num_rows: int) -> float:
        """Return the seconds at a number of rows, on a line between the two measured next to it."""
        measured = sorted((rows, s) for (own, rows), s in self.product_s.items() if own == name)
        return float(np.interp(num_rows, [rows for rows, _ in measured], [s for _, s in measured]))


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Seconds that nothing on this machine could beat with these products and this copy rate."""

    prefill_s: float
    decode_s: float
    cache_bytes: float  # of all steps
    weight_bytes: float  # of all steps, each weight once a step

    @property
    def total_s(self) -> float:
        """Prefill and decode."""
        return self.prefill_s + self.decode_s


@dataclass(frozen=True, kw_only=True)
class FloorModel:
    """A decoder as the floor sees it: sizes only."""

    config: DecoderConfig
    weight_itemsize: int  # bytes
    cache_itemsize: int

    @cached_property
    def layer_products(self) -> tuple[ProductShape, ...]:
        """The products of all layers."""
        config = self.config
        heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        sizes = {
            "qkv": (config.embed_dim, heads + 2 * kv_heads),
            "output": (heads, config.embed_dim),
            "gate_up": (config.embed_dim, 2 * config.mlp_dim),
            "down": (config.mlp_dim, config.embed_dim),
        }
        return tuple(
            ProductShape(name=name, dim_in=dim_in, dim_out=dim_out, num_weights=config.num_layers)
            for name, (dim_in, dim_out) in sizes.items()
        )

    @cached_property
    def unembed(self) -> ProductShape:
        """The product that makes logits."""
        return ProductShape(name="unembed", dim_in=self.config.embed_dim, dim_out=self.config.vocab_size, num_weights=1)

    @property
    def products(self) -> tuple[ProductShape, ...]:
        """All products."""
        return (*self.layer_products, self.unembed)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights that take part in a product."""
        return self.weight_itemsize * sum(one.dim_in * one.dim_out * one.num_weights for one in self.products)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one token of one row in the cache."""
        return slot_bytes(self.config, dtype=np.uint8) * self.cache_itemsize

    def attention_flops(self, num_tokens: int) -> int:
        """Return the FLOPs of scores and of weighted values of one prompt, over the causal half."""
        config = self.config
        num_pairs = num_tokens * (num_tokens + 1) // 2
        return 4 * config.num_layers * config.num_heads * config.head_dim * num_pairs

    def read_slots(self, num_filled: int) -> float:
        """Return how many slots a step reads of a row, in slots of all layers: local layers see their window only."""
        config = self.config
        windows = [config.layer_window(layer) for layer in range(config.num_layers)]
        seen = [num_filled if window is None else min(window, num_filled) for window in windows]
        return sum(seen) / config.num_layers


def rows_to_measure(batch_size: int, prompt_lengths: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Return the rows of decode steps, powers of two up to the batch size, and the rows of prefill."""
    decode = [1]
    while decode[-1] * 2 < batch_size:
        decode.append(decode[-1] * 2)
    return tuple(sorted({*decode, batch_size})), sum(prompt_lengths)


def generation_floor(
    model: FloorModel, rates: Rates, *, prompt_lengths: Sequence[int], new_lengths: Sequence[int]
) -> Floor:
    """Return the floor of rows that start together, each with its own lengths; a row that is done costs nothing more.

    `prompt_lengths` and `new_lengths` count tokens, one entry a row.
    """
    num_rows = len(prompt_lengths)
    num_prompt = sum(prompt_lengths)
    prefill_s = sum(rates.seconds(f"{one.name}, prefill", num_prompt) for one in model.layer_products)
    prefill_s += rates.seconds("unembed", num_rows)
    prefill_s += sum(map(model.attention_flops, prompt_lengths)) / _best_rate(model, rates)
    prefill_s += num_prompt * model.slot_bytes / rates.copy_bytes_per_s
    decode_s, cache_bytes, num_steps = 0.0, 0.0, max(new_lengths) - 1
    for step in range(1, num_steps + 1):
        running = [prompt for prompt, new in zip(prompt_lengths, new_lengths, strict=True) if new > step]
        read = sum(model.read_slots(prompt + step) for prompt in running)
        step_bytes = (read + len(running)) * model.slot_bytes
        cache_bytes += step_bytes
        decode_s += sum(rates.seconds(one.name, len(running)) for one in model.products)
        decode_s += step_bytes / rates.copy_bytes_per_s
    return Floor(
        prefill_s=prefill_s,
        decode_s=decode_s,
        cache_bytes=cache_bytes,
        weight_bytes=float(num_steps * model.weight_bytes),
    )


def measure_rates(
    model: FloorModel,
    *,
    decode_rows: Iterable[int],
    prefill_rows: Iterable[int],
    time_product: Callable[[ProductShape, int], float],
    copy_bytes_per_s: float,
) -> Rates:
    """Return the rates, each product timed once by `time_product(shape, rows)`."""
    product_s: dict[tuple[str, int], float] = {}
    for rows in sorted(set(decode_rows)):
        for one in model.products:
            product_s[one.name, rows] = time_product(one, rows)
    for rows in sorted(set(prefill_rows)):
        for one in model.layer_products:
            product_s[f"{one.name}, prefill", rows] = time_product(one, rows)
    return Rates(product_s=product_s, copy_bytes_per_s=copy_bytes_per_s)


def _best_rate(model: FloorModel, rates: Rates) -> float:
    """Return the most FLOPs a second that any product of a layer reached."""
    shapes = {name: one for one in model.layer_products for name in (one.name, f"{one.name}, prefill")}
    return max(shapes[name].flops(rows) / s for (name, rows), s in rates.product_s.items() if name in shapes)
