"""What one hop costs, in four units, and the unit in which routing counts.

| cost model  | raw unit           | formula (p prompt tokens, n new tokens, T = p + n)                              |
|-------------|--------------------|---------------------------------------------------------------------------------|
| `base_rate` | base-rate tokens   | base_rate * T                                (HierRouter, arXiv:2511.09873)     |
| `flops`     | floating-point ops | 2 * num_parameters * T + 2 * attention_width * T * (T + 1)                      |
| `latency`   | seconds            | prefill_s_per_token * p + decode_s_per_token * n                                |
| `price`     | USD                | (price_in_usd_per_mtok * p + price_out_usd_per_mtok * n) / 10^6                 |

FLOPs count a multiply and an add for every active parameter and token, and for causal attention the scores and the
weighted sum of values (4 * layers * heads * head_dim for each pair of a token and one it sees). Not counted: norms,
activations, softmax; local attention windows are counted as full. A card without `attention_width` has no attention
term. All models count every token of the prompt: nothing is assumed cached between hops.

Raw costs divided by `normaliser` are the only thing called a bare `cost` in this package: the dearest model
answering the mean query once costs 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.core.text import ModelCard

CostModel = Literal["base_rate", "flops", "latency", "price"]
Tokens = int | float | np.integer | np.floating | Int[np.ndarray, "*hop"] | Float[np.ndarray, "*hop"]


def hop_cost(
    card: ModelCard, num_prompt_tokens: Tokens, num_new_tokens: Tokens, *, cost_model: CostModel
) -> float | Float[np.ndarray, "*hop"]:
    """Return the raw cost of one hop, in the unit of `cost_model`; arrays of counts give an array of costs.

    Raises `ConfigError` when the card lacks a figure the cost model needs, `DataError` for a count below 0.
    """
    prompt, new = _counts(num_prompt_tokens, "prompt"), _counts(num_new_tokens, "new")
    match cost_model:
        case "base_rate":
            raw = _figure(card, "base_rate", cost_model) * (prompt + new)
        case "flops":
            raw = _flops(card, prompt + new)
        case "latency":
            raw = _figure(card, "prefill_s_per_token", cost_model) * prompt
            raw = raw + _figure(card, "decode_s_per_token", cost_model) * new
        case "price":
            raw = _figure(card, "price_in_usd_per_mtok", cost_model) * prompt / 1e6
            raw = raw + _figure(card, "price_out_usd_per_mtok", cost_model) * new / 1e6
        case _:
            raise ConfigError(f"cost_model must be base_rate, flops, latency or price, but is {cost_model!r}.")
    return float(raw) if np.ndim(raw) == 0 else raw


def normaliser(
    cards: Sequence[ModelCard],
    num_prompt_tokens: Int[np.ndarray, "query model"],
    num_new_tokens: Int[np.ndarray, "query model"],
    *,
    cost_model: CostModel,
    is_known: Bool[np.ndarray, "query model"] | None = None,
) -> float:
    """Return the raw cost of the dearest model answering the mean query once: max over models of the mean over queries.

    The counts are those of the first-stage hops of the train split; `is_known` leaves out the hops that a partial
    tree lacks. Raises `DataError` when a model has no known hop, or when every hop is free.
    """
    is_known = np.ones(num_prompt_tokens.shape, bool) if is_known is None else is_known
    mean_costs = []
    for index, card in enumerate(cards):
        rows = is_known[:, index]
        if not rows.any():
            raise DataError(
                f"The unit of cost needs a first hop of every model, but {card.name} has none; collect some."
            )
        costs = hop_cost(card, num_prompt_tokens[rows, index], num_new_tokens[rows, index], cost_model=cost_model)
        mean_costs.append(float(np.mean(costs)))
    if not (mean_costs and max(mean_costs) > 0):
        raise DataError(f"The unit of cost must be > 0, but every first hop costs 0 by {cost_model}; check the cards.")
    return max(mean_costs)


def normalised_costs(
    cards: Sequence[ModelCard],
    model_index: Int[np.ndarray, "*hop"],
    num_prompt_tokens: Int[np.ndarray, "*hop"],
    num_new_tokens: Int[np.ndarray, "*hop"],
    *,
    cost_model: CostModel,
    raw_cost_of_one: float,
) -> Float[np.ndarray, "*hop"]:
    """Return the cost of every hop, taken by `cards[model_index]`, in units of `raw_cost_of_one` (of `normaliser`).

    A hop whose `model_index` is negative is no hop (the root of a route tree) and costs 0.
    """
    costs = np.zeros(model_index.shape, np.float64)
    for index, card in enumerate(cards):
        taken = model_index == index
        costs[taken] = hop_cost(card, num_prompt_tokens[taken], num_new_tokens[taken], cost_model=cost_model)
    return costs / raw_cost_of_one


def _flops(card: ModelCard, num_tokens: float | np.ndarray) -> float | np.ndarray:
    """Return the floating-point operations of one causal forward pass over `num_tokens`."""
    flops = 2 * _figure(card, "num_parameters", "flops") * num_tokens
    if card.attention_width is None:
        return flops
    return flops + 2 * _figure(card, "attention_width", "flops") * num_tokens * (num_tokens + 1)


def _figure(card: ModelCard, field: str, cost_model: str) -> float:
    """Return a figure of the card; `ConfigError` naming field and model when it is absent or no cost."""
    value = getattr(card, field)
    if value is None or not (math.isfinite(value) and value >= 0):
        raise ConfigError(
            f"Cost model {cost_model} needs {field} >= 0 on the card of model {card.name}, but it is {value}; "
            "give it in the pool file or choose another cost model."
        )
    return float(value)


def _counts(num_tokens: Tokens, kind: str) -> np.ndarray:
    """Return counts as float64 (exact up to 2^53 tokens); `DataError` when one is negative or not finite."""
    counts = np.asarray(num_tokens, np.float64)
    is_bad = ~(np.isfinite(counts) & (counts >= 0))
    if is_bad.any():
        raise DataError(f"Numbers of {kind} tokens must be finite and >= 0, but one is {counts[is_bad].flat[0]}.")
    return counts
