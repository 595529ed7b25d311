"""Signals: what a live system can measure of the responses so far without knowing the right answer.

Cascades stop on confidence, self-consistency on agreement, programmers when the example in the question runs. Each
response gives the numbers of `SIGNAL_NAMES` and a one-hot vector of the model that gave it. A route sees those of its
latest responses, the newest first; places that no response has filled yet hold zeros. All numbers lie in about [0, 1].

Sources: confidence as in cascades (Chen et al. 2023, FrugalGPT, arXiv:2305.05176), agreement as in self-consistency
(Wang et al. 2022, arXiv:2203.11171).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from hierrouter_jax.routing.route_tree import ROOT, count_nodes, node_parents

SIGNAL_NAMES = (
    "confidence",  # exp of the mean log-probability a produced token; of ranked options, the chosen one's probability
    "is_answered",  # an answer could be read from the response
    "is_cut_short",  # it ended for want of budget
    "length",  # log1p(new tokens) / log1p(1024)
    "agreement",  # share of the earlier responses of the route that give the same answer
    "passes_examples",  # the program passes the examples that the question shows
    "fails_examples",  # it does not; both are 0 where the question shows none
)
_LENGTH_SCALE = float(np.log1p(1024))


def signal_names(model_names: Sequence[str]) -> tuple[str, ...]:
    """Return the name of every number that one response gives."""
    return (*SIGNAL_NAMES, *(f"model/{name}" for name in model_names))


def num_signals(num_models: int, num_stages: int) -> int:
    """Return how many numbers a route of at most `num_stages` hops sees: no decision follows the last response."""
    return (num_stages - 1) * (len(SIGNAL_NAMES) + num_models)


def response_signals(
    *,
    mean_logprob: Float[np.ndarray, "*shape"],
    is_parsed: Bool[np.ndarray, "*shape"],
    is_truncated: Bool[np.ndarray, "*shape"],
    num_new_tokens: Int[np.ndarray, "*shape"],
    agreement: Float[np.ndarray, "*shape"],
    passes_examples: Int[np.ndarray, "*shape"],
    model_index: Int[np.ndarray, "*shape"],
    num_models: int,
) -> Float[np.ndarray, "*shape signal"]:
    """Return the signals of responses. `passes_examples` is 1 where they pass, -1 where they fail, else 0."""
    own = [
        np.exp(np.minimum(mean_logprob, 0.0)),
        is_parsed,
        is_truncated,
        np.log1p(num_new_tokens) / _LENGTH_SCALE,
        agreement,
        passes_examples > 0,
        passes_examples < 0,
    ]
    who = model_index[..., None] == np.arange(num_models)
    return np.concatenate([np.stack(own, axis=-1), who], axis=-1).astype(np.float32)


def route_signals(
    newest_first: Sequence[Float[np.ndarray, " signal"]], *, num_models: int, num_stages: int
) -> Float[np.ndarray, " number"]:
    """Return what a route sees after these responses, the newest first."""
    seen = np.zeros((num_stages - 1, len(SIGNAL_NAMES) + num_models), np.float32)
    for place, signals in enumerate(newest_first[: num_stages - 1]):
        seen[place] = signals
    return seen.reshape(-1)


def tree_signals(
    of_response: Float[np.ndarray, "query node signal"], *, num_models: int, num_stages: int
) -> Float[np.ndarray, "query node number"]:
    """Return what a route sees at every node, from the signals of each node's own response."""
    num_queries, num_nodes, width = of_response.shape
    parents = node_parents(num_models, num_stages)
    of_response = of_response.copy()
    of_response[:, ROOT] = 0.0
    seen = np.zeros((num_queries, num_nodes, num_stages - 1, width), np.float32)
    node = np.arange(num_nodes)
    for place in range(num_stages - 1):
        seen[:, :, place] = of_response[:, node]
        node = parents[node]
    return seen.reshape(num_queries, num_nodes, -1)


def tree_agreement(
    answer_id: Int[np.ndarray, "query node"], *, num_models: int, num_stages: int
) -> Float[np.ndarray, "query node"]:
    """Return, at every node, the share of the earlier responses of its route that give the same answer; 0 for none.

    An answer id of 0 is no answer and agrees with nothing.
    """
    parents = node_parents(num_models, num_stages)
    ancestor = parents[np.arange(count_nodes(num_models, num_stages))]
    num_equal, num_earlier = np.zeros(answer_id.shape), np.zeros(answer_id.shape)
    for _ in range(num_stages - 1):
        is_response = ancestor != ROOT
        num_equal += is_response & (answer_id != 0) & (answer_id == answer_id[:, ancestor])
        num_earlier += is_response
        ancestor = parents[ancestor]
    return num_equal / np.maximum(num_earlier, 1)
