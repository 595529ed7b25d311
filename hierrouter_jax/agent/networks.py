"""The router's policy and value networks.

Input: the context vector c_t, a learned embedding of the stage and the cumulative cost (as it is, and as log1p, so
that both cheap and dear routes are told apart). Output: one logit an action (models, then STOP) and the value, the
utility expected from here on. The paper gives the inputs; sizes, normalisation and heads are this package's choices.

A task mixture (`TaskMixtureNet`) reads the context in one place only: to infer the task, which chooses its heads.

A conditioned router has one input more, the cost weight, so that one network serves every trade-off: a learned vector
at each of a few knots on a logarithmic axis that begins at 0, interpolated in between.

`RouterParams` holds the weights beside the architecture they belong to: a pytree whose leaves are the weights, so it
can be differentiated, optimised, replicated, stored and vmapped over as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from hierrouter_jax.agent.distributions import masked_log_probs
from hierrouter_jax.agent.layers import Activation, MixtureHead, Norm, Torso, orthogonal_linear
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.structs import array_struct, static_field
from hierrouter_jax.routing.mdp import Observation

_NUM_COST_FEATURES = 2
COST_WEIGHT_UNIT, NUM_COST_WEIGHT_KNOTS = 0.01, 8  # knot k stands at COST_WEIGHT_UNIT * (e**k - 1): 0, 0.017, ..., 11


@dataclass(frozen=True, kw_only=True)
class RouterNetConfig:
    """Architecture of the router. Without hidden layers it is linear in its input."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    stage_embed_dim: int = 16
    activation: Activation = "tanh"
    norm: Norm = "layer"  # after each hidden layer's matrix
    is_torso_shared: bool = False  # one torso for policy and value, or one each
    is_conditioned: bool = False  # the cost weight is an input, drawn anew in every training episode
    reads_signals: bool = False  # signals of the responses (`routing/signals.py`) are inputs; the paper has none
    is_task_mixture: bool = False  # heads by inferred task, in place of a context that every layer reads

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if any(size < 1 for size in self.hidden_sizes):
            raise ConfigError(f"hidden_sizes must be positive, but are {self.hidden_sizes}.")
        if self.stage_embed_dim < 1:
            raise ConfigError(f"stage_embed_dim must be >= 1, but is {self.stage_embed_dim}.")


@dataclass(frozen=True, kw_only=True)
class NetSizes:
    """What the shapes of a network's weights depend on beside its architecture."""

    context_dim: int
    num_models: int
    num_stages: int
    num_signals: int
    num_tasks: int


@array_struct
class NetOutput:
    """The networks' answer to one observation."""

    logits: Float[Array, " action"]
    value: Float[Array, ""]


@array_struct
class RouterParams:
    """The weights, and the architecture they belong to."""

    weights: PyTree  # nested dict of arrays
    graphdef: Any = static_field()
    is_ensemble: bool = static_field(default=False)  # every leaf leads with [member]


def init_router(
    config: RouterNetConfig,
    *,
    context_dim: int,
    num_models: int,
    num_stages: int,
    num_signals: int = 0,
    num_tasks: int = 1,
    key: Key[Array, ""],
    default_cost_weight: float = 0.0,
) -> RouterParams:
    """Return a freshly initialised router; pure, so it can be jitted and vmapped over keys.

    `default_cost_weight` is what a conditioned router takes where an observation shows none.
    """
    sizes = NetSizes(
        context_dim=context_dim,
        num_models=num_models,
        num_stages=num_stages,
        num_signals=num_signals,
        num_tasks=num_tasks,
    )
    net_class = TaskMixtureNet if config.is_task_mixture else RouterNet
    net = net_class(config, sizes, rngs=nnx.Rngs(params=key), default_cost_weight=default_cost_weight)
    graphdef, state = nnx.split(net)
    return RouterParams(weights=nnx.to_pure_dict(state), graphdef=graphdef)


def ensemble(params: RouterParams) -> RouterParams:
    """Return routers trained side by side (every leaf leads with [member], as `vmap` of a training leaves them) as one.

    It acts by the mean of its members' probabilities, and its value is their mean value.
    """
    return params.replace(is_ensemble=True)  # type: ignore[attr-defined]


def apply_router(params: RouterParams, observation: Observation) -> NetOutput:
    """Return logits and value of one observation (vmap for batches)."""
    if not params.is_ensemble:
        return nnx.merge(params.graphdef, params.weights)(observation)
    outputs = jax.vmap(lambda weights: nnx.merge(params.graphdef, weights)(observation))(params.weights)
    log_probs = jax.vmap(masked_log_probs, in_axes=(0, None))(outputs.logits, observation.legal)
    # log of the mean probability; illegal actions get a number that every user of logits masks.
    mean = jax.nn.logsumexp(jnp.where(observation.legal[None], log_probs, 0.0), axis=0) - math.log(log_probs.shape[0])
    return NetOutput(logits=mean, value=outputs.value.mean())


def task_logits(params: RouterParams, observation: Observation) -> Float[Array, " task"]:
    """Return how likely a task mixture holds each task to be, as logits; of one router, not of an ensemble."""
    return nnx.merge(params.graphdef, params.weights).infer_task(observation)


def task_gate_square(params: RouterParams) -> Float[Array, ""]:
    """Return half the sum of squares of the weights by which a task mixture's gate reads a unit context."""
    kernel = params.weights["task_gate"]["kernel"]
    return 0.5 * kernel.shape[0] * jnp.sum(jnp.square(kernel))


def is_task_mixture(params: RouterParams) -> bool:
    """Say whether the router infers the task."""
    return "task_gate" in params.weights


def is_conditioned(params: RouterParams) -> bool:
    """Say whether the router reads the cost weight."""
    return "cost_weight_embedding" in params.weights


class ObservationReader(nnx.Module):
    """What the networks have in common: how an observation becomes numbers of about unit variance."""

    def __init__(
        self,
        config: RouterNetConfig,
        sizes: NetSizes,
        *,
        rngs: nnx.Rngs,
        default_cost_weight: float,
    ) -> None:
        """Initialise the embeddings of the stage and, for a conditioned router, of the cost weight."""
        num_embeddings = 2 if config.is_conditioned else 1
        self.num_signals = sizes.num_signals if config.reads_signals else 0
        self.others_dim = num_embeddings * config.stage_embed_dim + _NUM_COST_FEATURES + self.num_signals
        self.context_scale = math.sqrt(sizes.context_dim)
        self.stage_embedding = nnx.Embed(
            sizes.num_stages + 1, config.stage_embed_dim, embedding_init=nnx.initializers.normal(1.0), rngs=rngs
        )
        if config.is_conditioned:
            self.default_cost_weight = default_cost_weight
            self.cost_weight_embedding = nnx.Embed(
                NUM_COST_WEIGHT_KNOTS,
                config.stage_embed_dim,
                embedding_init=nnx.initializers.normal(1.0),
                rngs=rngs,
            )

    def read(self, observation: Observation) -> tuple[Float[Array, " dim"], Float[Array, " other"]]:
        """Return the context, and everything else."""
        # Sentence embeddings have norm 1; scaled to unit variance they weigh as much as the other inputs.
        context = observation.context * self.context_scale
        stage = jax.nn.one_hot(observation.stage, self.stage_embedding.num_embeddings)
        parts = [
            # As a product, whose gradient is one as well: that of a look-up is added up entry by entry.
            stage @ self.stage_embedding.embedding[...],
            jnp.stack([observation.cum_cost, jnp.log1p(observation.cum_cost)]),
            observation.signals[: self.num_signals],
        ]
        if hasattr(self, "cost_weight_embedding"):
            shown = observation.cost_weight
            cost_weight = jnp.float32(self.default_cost_weight) if shown is None else shown
            parts.append(knot_weights(cost_weight) @ self.cost_weight_embedding.embedding[...])
        return context, jnp.concatenate(parts)


class RouterNet(ObservationReader):
    """Policy and value networks over the router's observation."""

    def __init__(
        self,
        config: RouterNetConfig,
        sizes: NetSizes,
        *,
        rngs: nnx.Rngs,
        default_cost_weight: float,
    ) -> None:
        """Initialise orthogonally: gain sqrt(2) inside, 0.01 at the policy head (a near-uniform start), 1 at value."""
        super().__init__(config, sizes, rngs=rngs, default_cost_weight=default_cost_weight)
        self.policy_torso, self.value_torso, feature_dim = _torsos(config, sizes.context_dim + self.others_dim, rngs)
        self.policy_head = orthogonal_linear(feature_dim, sizes.num_models + 1, gain=0.01, rngs=rngs)
        self.value_head = orthogonal_linear(feature_dim, 1, gain=1.0, rngs=rngs)

    def __call__(self, observation: Observation) -> NetOutput:
        """Return logits of all actions, illegal ones included (the distribution masks them), and the value."""
        context, others = self.read(observation)
        features = self.policy_torso(context, others)
        value_features = features if self.value_torso is None else self.value_torso(context, others)
        return NetOutput(logits=self.policy_head(features), value=self.value_head(value_features)[0])


class TaskMixtureNet(ObservationReader):
    """Heads by inferred task: a mixture of experts whose gate is told what the experts are.

        output(c, x) = sum_k p(k | c) (W_k h(x) + b_k)

    p(k | c) is a softmax, linear in the context c, that is fitted to the names of the tasks of train queries and to
    nothing else (`train/task_loss.py`); h(x) are features of all but the context. About a thousand right-or-wrong
    answers say what a kind of question needs and little of one question beyond its kind, and a network that reads all
    of the context learns questions by heart. In a mixture of experts (Jacobs et al. 1991) the gate learns from the
    experts' loss; here that would spoil it.
    """

    def __init__(
        self,
        config: RouterNetConfig,
        sizes: NetSizes,
        *,
        rngs: nnx.Rngs,
        default_cost_weight: float,
    ) -> None:
        """Begin with all tasks equally likely and outputs of 0."""
        super().__init__(config, sizes, rngs=rngs, default_cost_weight=default_cost_weight)
        self.task_gate = nnx.Linear(sizes.context_dim, sizes.num_tasks, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.policy_torso, self.value_torso, feature_dim = _torsos(config, self.others_dim, rngs)
        self.policy_head = MixtureHead(sizes.num_tasks, feature_dim, sizes.num_models + 1)
        self.value_head = MixtureHead(sizes.num_tasks, feature_dim, 1)

    def __call__(self, observation: Observation) -> NetOutput:
        """Return logits of all actions, illegal ones included, and the value."""
        context, others = self.read(observation)
        chances = jax.lax.stop_gradient(jax.nn.softmax(self.task_gate(context)))
        features = self.policy_torso(context[:0], others)
        value_features = features if self.value_torso is None else self.value_torso(context[:0], others)
        logits, value = self.policy_head(chances, features), self.value_head(chances, value_features)
        return NetOutput(logits=logits, value=value[0])

    def infer_task(self, observation: Observation) -> Float[Array, " task"]:
        """Return how likely each task is, as logits."""
        return self.task_gate(self.read(observation)[0])


def _torsos(config: RouterNetConfig, input_dim: int, rngs: nnx.Rngs) -> tuple[Torso, Torso | None, int]:
    """Return the torsos of policy and value (None where one serves both), and the number of their features."""

    def make() -> Torso:
        return Torso(input_dim, config.hidden_sizes, activation=config.activation, norm=config.norm, rngs=rngs)

    policy = make()
    value = None if config.is_torso_shared else make()
    return policy, value, config.hidden_sizes[-1] if config.hidden_sizes else input_dim


def knot_weights(cost_weight: Float[Array, ""]) -> Float[Array, " knot"]:
    """Return the share of each knot in a cost weight: two neighbours share what lies between them, and sum to 1.

    The axis is log1p(cost_weight / COST_WEIGHT_UNIT), so that 0 has a place; beyond the last knot everything is alike.
    """
    place = jnp.minimum(jnp.log1p(cost_weight / COST_WEIGHT_UNIT), NUM_COST_WEIGHT_KNOTS - 1.0)
    return jnp.maximum(1.0 - jnp.abs(place - jnp.arange(NUM_COST_WEIGHT_KNOTS)), 0.0)
