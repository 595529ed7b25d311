"""What collection measured at every node of a split's trees, and the route tree that follows under a cost model.

Outcomes are NumPy arrays of counts, scores and log-probabilities: everything a tree file holds of a split. They are
kept apart from the `RouteTree` because token counts give costs under every cost model, and because decision makers
such as cascades look at how sure a model was. No text of questions or answers is in them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.core.text import ModelCard
from hierrouter_jax.costs import CostModel, normalised_costs, normaliser
from hierrouter_jax.routing.route_tree import RouteTree, count_nodes
from hierrouter_jax.routing.signals import response_signals, tree_agreement, tree_signals

FIELD_DTYPES: dict[str, str] = {
    "context_row": "int32",
    "context": "float32",
    "num_prompt_tokens": "int32",
    "num_new_tokens": "int32",
    "quality": "float32",
    "valid": "bool",
    "is_parsed": "bool",
    "is_truncated": "bool",
    "mean_logprob": "float32",
    "answer_id": "int32",
    "passes_examples": "int8",
    "task": "int32",
    "row_id_hash": "uint64",
}

NO_ANSWER = 0  # the answer id where no answer could be read
EXAMPLE_CODES = {None: 0, False: -1, True: 1}  # of the question's own examples; None: it shows none, or nothing ran


@array_struct
class NodeOutcomes:
    """Measurements of one split. The root is the query itself: 0 tokens, quality 0; so is every invalid node.

    `mean_logprob` is the natural-log probability a produced token (at temperature 1) averaged over the response; for
    ranked options it is that of the chosen option, normalised over the options. `context_row` of a node where nothing
    is decided any more (the last stage, unless it was asked for) is that of the query's root.
    """

    context_row: Int[np.ndarray, "query node"]
    context: Float[np.ndarray, "row dim"]
    num_prompt_tokens: Int[np.ndarray, "query node"]
    num_new_tokens: Int[np.ndarray, "query node"]
    quality: Float[np.ndarray, "query node"]
    valid: Bool[np.ndarray, "query node"]
    is_parsed: Bool[np.ndarray, "query node"]  # an answer could be read from the response
    is_truncated: Bool[np.ndarray, "query node"]  # the response ended for want of budget
    mean_logprob: Float[np.ndarray, "query node"]
    answer_id: Int[np.ndarray, "query node"]  # equal for equal answers to a query; NO_ANSWER where none could be read
    passes_examples: Int[np.ndarray, "query node"]  # one of EXAMPLE_CODES
    task: Int[np.ndarray, " query"]
    row_id_hash: UInt64[np.ndarray, " query"]  # identifies the benchmark row without naming it


def node_models(num_models: int, num_stages: int) -> Int[np.ndarray, " node"]:
    """Return the model whose hop led to each node, -1 at the root."""
    nodes = np.arange(count_nodes(num_models, num_stages))
    return np.where(nodes == 0, -1, (nodes - 1) % num_models)


def raw_cost_of_one(outcomes: NodeOutcomes, cards: Sequence[ModelCard], *, cost_model: CostModel) -> float:
    """Return the raw cost that normalises to 1: the dearest model's mean first hop over `outcomes`, the train split."""
    first = slice(1, 1 + len(cards))
    return normaliser(
        cards,
        outcomes.num_prompt_tokens[:, first],
        outcomes.num_new_tokens[:, first],
        cost_model=cost_model,
        is_known=outcomes.valid[:, first],
    )


def route_tree_of(
    outcomes: NodeOutcomes,
    cards: Sequence[ModelCard],
    *,
    num_stages: int,
    task_names: tuple[str, ...],
    cost_model: CostModel,
    raw_cost_of_one: float,
) -> RouteTree:
    """Return the device arrays that learning sees: contexts, normalised costs, qualities."""
    model_index = np.where(outcomes.valid, node_models(len(cards), num_stages)[None, :], -1)
    step_cost = normalised_costs(
        cards,
        model_index,
        outcomes.num_prompt_tokens,
        outcomes.num_new_tokens,
        cost_model=cost_model,
        raw_cost_of_one=raw_cost_of_one,
    )
    return RouteTree(
        context_row=jnp.asarray(outcomes.context_row, jnp.int32),
        context=jnp.asarray(outcomes.context, jnp.float32),
        step_cost=jnp.asarray(step_cost, jnp.float32),
        quality=jnp.asarray(outcomes.quality, jnp.float32),
        valid=jnp.asarray(outcomes.valid),
        signals=jnp.asarray(signals_of(outcomes, num_models=len(cards), num_stages=num_stages)),
        task=jnp.asarray(outcomes.task, jnp.int32),
        num_models=len(cards),
        num_stages=num_stages,
        model_names=tuple(card.name for card in cards),
        task_names=task_names,
    )


def signals_of(outcomes: NodeOutcomes, *, num_models: int, num_stages: int) -> Float[np.ndarray, "query node number"]:
    """Return what a route can measure of its responses at every node (see `routing/signals.py`); 0 at invalid nodes."""
    shape = outcomes.valid.shape
    own = response_signals(
        mean_logprob=outcomes.mean_logprob,
        is_parsed=outcomes.is_parsed,
        is_truncated=outcomes.is_truncated,
        num_new_tokens=outcomes.num_new_tokens,
        agreement=tree_agreement(outcomes.answer_id, num_models=num_models, num_stages=num_stages),
        passes_examples=outcomes.passes_examples,
        model_index=np.broadcast_to(node_models(num_models, num_stages), shape),
        num_models=num_models,
    )
    return tree_signals(own * outcomes.valid[:, :, None], num_models=num_models, num_stages=num_stages)


def row_id_hash(row_id: str) -> int:
    """Return 64 bits of the sha256 of a benchmark row's id."""
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big")


def row_ids_digest(hashes: UInt64[np.ndarray, " query"]) -> str:
    """Return the digest of a split's rows in their order."""
    return digest([f"{int(value):016x}" for value in hashes])


def field_dims(name: str) -> tuple[str, ...]:
    """Return the axes of a field of `NodeOutcomes`, in words."""
    return {"context": ("row", "dim"), "task": ("query",), "row_id_hash": ("query",)}.get(name, ("query", "node"))


def field_names() -> tuple[str, ...]:
    """Return the fields of `NodeOutcomes` in their order."""
    return tuple(field.name for field in dataclasses.fields(NodeOutcomes))
