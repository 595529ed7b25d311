"""The frontier of a set of route trees: which nodes can be asked for next, and what is known of each.

A node is asked for by the request of its last hop, whose prompt holds the query and the responses on the way, so the
requests of stage t exist once the responses of stage t - 1 do. Nodes of equal requests share a key. A node whose
prompt does not fit its model's window is invalid, with a reason that is counted, and so is everything below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from hierrouter_jax.collect.asking import AskedRequest, encode_request
from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.core.text import GenerationRequest, ModelCard, Response
from hierrouter_jax.llm.engine import TextEngine
from hierrouter_jax.routing.route_tree import ROOT, count_nodes, node_parents, stage_slice
from hierrouter_jax.tasks.task_row import TaskRow

HopRequest = Callable[[ModelCard, TaskRow, Sequence[str]], GenerationRequest]
BELOW_INVALID = "below an invalid node"


class Frontier:
    """The trees of `rows`, being filled stage by stage with `ask_stage` and `take`.

    `wanted` says which nodes a partial tree shall have; the ancestors of a wanted node are wanted too.
    """

    def __init__(
        self,
        rows: Sequence[TaskRow],
        engine: TextEngine,
        hop_request: HopRequest,
        *,
        num_stages: int,
        wanted: Bool[np.ndarray, "query node"] | None = None,
    ) -> None:
        if num_stages < 1:
            raise ConfigError(f"num_stages must be >= 1, but is {num_stages}.")
        self.rows = tuple(rows)
        self.num_models, self.num_stages = len(engine.cards), num_stages
        self.keys: list[dict[int, str]] = [{} for _ in self.rows]  # per query: node -> key of its response
        self.responses: dict[str, Response] = {}
        self.options: dict[str, tuple[str, ...]] = {}  # by key
        self.invalid: Counter[str] = Counter()  # reason -> nodes; what is not wanted is not counted
        self._engine, self._hop_request = engine, hop_request
        self._parents = node_parents(self.num_models, num_stages)
        shape = (len(self.rows), count_nodes(self.num_models, num_stages))
        wanted = np.ones(shape, bool) if wanted is None else wanted
        if wanted.shape != shape:
            raise ConfigError(
                f"The mask of wanted nodes must have shape {shape} (query, node), but has {wanted.shape}."
            )
        self._wanted = with_ancestors(wanted, self._parents)

    def ask_stage(self, stage: int) -> dict[str, AskedRequest]:
        """Return the distinct requests of one stage by key. The responses of the stage before must have been taken."""
        asked: dict[str, AskedRequest] = {}
        for query_index in range(len(self.rows)):
            for node in range(*stage_slice(self.num_models, stage).indices(len(self._parents))):
                if self._wanted[query_index, node]:
                    self._ask_node(query_index, node, asked)
        return asked

    def take(self, responses: Mapping[str, Response]) -> None:
        """Add responses by key."""
        self.responses.update(responses)

    def is_valid(self, query_index: int, node: int) -> bool:
        """Return whether the node is the root or was asked for."""
        return node == ROOT or node in self.keys[query_index]

    def response(self, query_index: int, node: int) -> Response:
        """Return the response whose hop leads to a valid node that is not the root."""
        return self.responses[self.keys[query_index][node]]

    def ranked_options(self, query_index: int, node: int) -> tuple[str, ...]:
        """Return the options that the hop to a valid node ranked; () where text was written."""
        return self.options[self.keys[query_index][node]]

    def texts(self, query_index: int, node: int) -> tuple[str, ...]:
        """Return the texts of the responses on the way to a valid node, first hop first."""
        texts: list[str] = []
        while node != ROOT:
            texts.append(self.response(query_index, node).text)
            node = int(self._parents[node])
        return tuple(reversed(texts))

    def _ask_node(self, query_index: int, node: int, asked: dict[str, AskedRequest]) -> None:
        parent = int(self._parents[node])
        if not self.is_valid(query_index, parent):
            self.invalid[BELOW_INVALID] += 1
            return
        card = self._engine.cards[(node - 1) % self.num_models]
        request = self._hop_request(card, self.rows[query_index], self.texts(query_index, parent))
        try:
            one = encode_request(self._engine, request)
        except PromptTooLongError:
            self.invalid[f"prompt too long for the window of {card.name}"] += 1
            return
        self.keys[query_index][node] = one.key
        self.options[one.key] = request.options
        asked.setdefault(one.key, one)


def with_ancestors(wanted: Bool[np.ndarray, "query node"], parents: np.ndarray) -> Bool[np.ndarray, "query node"]:
    """Return the mask with the way to every wanted node wanted too."""
    closed = np.array(wanted, bool)
    for node in range(closed.shape[-1] - 1, ROOT, -1):
        closed[:, parents[node]] |= closed[:, node]
    return closed
