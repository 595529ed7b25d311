"""A router that attends over segments: the question, and each response, encoded apart.

The router in use reads one vector for the question with all that was answered. Here the context is a vector a segment,
laid end to end, zeros where there is no response yet; the stage, the cost and the signals ask, the segments answer
(multi-head attention, Vaswani et al. 2017), and what they answer goes on into the usual layers. With
`is_task_mixture` heads are mixed by inferred task, as in the router in use; the gate reads the question alone.

`answers_apart.npz` holds the vectors of first responses by themselves (made by `collect_answers_apart.py`).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from hierrouter_jax.agent.layers import MixtureHead, Torso, orthogonal_linear
from hierrouter_jax.agent.networks import NetOutput, NetSizes, ObservationReader, RouterNetConfig, RouterParams
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.routing.mdp import Observation
from hierrouter_jax.routing.route_tree import ROOT, RouteTree, stage_slice
from hierrouter_jax.train.make_train import input_sizes

ANSWERS = Path(__file__).resolve().parent / "trees" / "answers_apart.npz"
NUM_SEGMENTS = 2  # the question, and the first response: after the second nothing is decided
WIDTH, NUM_HEADS = 64, 4


class SegmentAttentionNet(ObservationReader):
    """Policy and value networks over a context of segments."""

    def __init__(self, config: RouterNetConfig, sizes: NetSizes, *, rngs: nnx.Rngs) -> None:
        """Initialise what asks, what is asked, and the heads."""
        super().__init__(config, sizes, rngs=rngs, default_cost_weight=0.0)
        self.segment_dim = sizes.context_dim // NUM_SEGMENTS
        self.project = orthogonal_linear(self.segment_dim, WIDTH, gain=1.0, rngs=rngs)
        self.place = nnx.Embed(NUM_SEGMENTS, WIDTH, rngs=rngs)
        self.ask = orthogonal_linear(self.others_dim, WIDTH, gain=1.0, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(NUM_HEADS, WIDTH, decode=False, rngs=rngs)
        input_dim = WIDTH + self.others_dim

        def torso() -> Torso:
            return Torso(input_dim, config.hidden_sizes, activation=config.activation, norm=config.norm, rngs=rngs)

        self.policy_torso, self.value_torso = torso(), torso()
        feature_dim = config.hidden_sizes[-1] if config.hidden_sizes else input_dim
        num_actions = sizes.num_models + 1
        self.policy_head: nnx.Linear | MixtureHead
        self.value_head: nnx.Linear | MixtureHead
        if config.is_task_mixture:
            zeros = nnx.initializers.zeros
            self.task_gate = nnx.Linear(self.segment_dim, sizes.num_tasks, kernel_init=zeros, rngs=rngs)
            self.policy_head = MixtureHead(sizes.num_tasks, feature_dim, num_actions)
            self.value_head = MixtureHead(sizes.num_tasks, feature_dim, 1)
        else:
            self.policy_head = orthogonal_linear(feature_dim, num_actions, gain=0.01, rngs=rngs)
            self.value_head = orthogonal_linear(feature_dim, 1, gain=1.0, rngs=rngs)

    def __call__(self, observation: Observation) -> NetOutput:
        """Return logits of all actions, illegal ones included, and the value."""
        _, others = self.read(observation)
        # As one input that depends on weights: a torso holds the gradient of contexts, which are data elsewhere.
        features = jnp.concatenate([self.attended(observation, others), others])
        policy = self.policy_torso(features[:0], features)
        value = self.value_torso(features[:0], features)
        if hasattr(self, "task_gate"):
            chances = jax.lax.stop_gradient(jax.nn.softmax(self.infer_task(observation)))
            return NetOutput(logits=self.policy_head(chances, policy), value=self.value_head(chances, value)[0])
        return NetOutput(logits=self.policy_head(policy), value=self.value_head(value)[0])

    def segments(self, observation: Observation) -> Float[Array, "segment dim"]:
        """Return the segments, of unit variance."""
        return observation.context.reshape(NUM_SEGMENTS, self.segment_dim) * math.sqrt(self.segment_dim)

    def attended(self, observation: Observation, others: Float[Array, " other"]) -> Float[Array, " width"]:
        """Return what the segments that are there answer to everything else."""
        segments = self.segments(observation)
        is_there = jnp.any(segments != 0, axis=1)
        known = self.project(segments) + self.place.embedding[...]
        asked = self.ask(others)[None]
        return self.attention(asked, known, known, mask=is_there[None, None, :])[0]

    def infer_task(self, observation: Observation) -> Float[Array, " task"]:
        """Return how likely each task is, as logits."""
        return self.task_gate(self.segments(observation)[0])


def init_segment_attention(config: RouterNetConfig, tree: RouteTree, *, key: Key[Array, ""]) -> RouterParams:
    """Return a freshly initialised router for a tree whose contexts are segments."""
    net = SegmentAttentionNet(config, NetSizes(**input_sizes(tree)), rngs=nnx.Rngs(params=key))
    graphdef, state = nnx.split(net)
    return RouterParams(weights=nnx.to_pure_dict(state), graphdef=graphdef)


def load_answers(path: Path, row_id_hash: np.ndarray) -> Float[np.ndarray, "query model dim"] | None:
    """Return the vectors of the first responses to the rows, or None where the file is about other rows."""
    if not path.is_file():
        raise DataError(f"There is no file of answers apart at {path}; make it with collect_answers_apart.py.")
    with np.load(path) as file:
        is_same = np.array_equal(file["row_id_hash"], row_id_hash)
        return file["answers"].astype(np.float32) if is_same else None


def with_segments(tree: RouteTree, answers: Float[np.ndarray, "query model dim"]) -> RouteTree:
    """Return the two-stage tree with contexts of two segments: the question, and the first response or zeros."""
    question = np.asarray(tree.context)[np.asarray(tree.context_row)[:, ROOT]]
    first = stage_slice(tree.num_models, 1)
    at_first = np.concatenate([np.broadcast_to(question[:, None], answers.shape), answers], axis=2)
    context = np.concatenate([np.concatenate([question, np.zeros_like(question)], axis=1), *at_first])
    # Where nothing is decided any more, the context is the root's, by convention.
    rows = np.broadcast_to(np.arange(tree.num_queries)[:, None], (tree.num_queries, tree.num_nodes)).copy()
    rows[:, first] = tree.num_queries + np.arange(answers.shape[0] * answers.shape[1]).reshape(answers.shape[:2])
    return dataclasses.replace(
        tree, context=jnp.asarray(context, jnp.float32), context_row=jnp.asarray(rows, jnp.int32)
    )
