"""The router's policy and value networks.

Input: the context vector c_t, a learned embedding of the stage and the cumulative cost (as it is, and as log1p, so
that both cheap and dear routes are told apart). Output: one logit an action (models, then STOP) and the value, the
utility expected from here on. The paper gives the inputs; sizes, normalisation and heads are this package's choices.

A conditioned router has one input more, the cost weight, so that one network serves every trade-off: a learned vector
at each of a few knots on a logarithmic axis that begins at 0, interpolated in between.

`RouterParams` holds the weights beside the architecture they belong to: a pytree whose leaves are the weights, so it
can be differentiated, optimised, replicated, stored and vmapped over as it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from hierrouter_jax.agent.distributions import masked_log_probs
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.structs import array_struct, static_field
from hierrouter_jax.routing.mdp import Observation

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": nnx.relu, "gelu": nnx.gelu}
_NUM_COST_FEATURES = 2
COST_WEIGHT_UNIT, NUM_COST_WEIGHT_KNOTS = 0.01, 8  # knot k stands at COST_WEIGHT_UNIT * (e**k - 1): 0, 0.017, ..., 11


@dataclass(frozen=True, kw_only=True)
class RouterNetConfig:
    """Architecture of the router. Without hidden layers it is linear in its input."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    stage_embed_dim: int = 16
    activation: Literal["tanh", "relu", "gelu"] = "tanh"
    norm: Literal["none", "layer", "rms"] = "layer"  # after each hidden layer's matrix
    is_torso_shared: bool = False  # one torso for policy and value, or one each
    is_conditioned: bool = False  # the cost weight is an input, drawn anew in every training episode
    reads_signals: bool = False  # signals of the responses (`routing/signals.py`) are inputs; the paper has none

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if any(size < 1 for size in self.hidden_sizes):
            raise ConfigError(f"hidden_sizes must be positive, but are {self.hidden_sizes}.")
        if self.stage_embed_dim < 1:
            raise ConfigError(f"stage_embed_dim must be >= 1, but is {self.stage_embed_dim}.")


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
    key: Key[Array, ""],
    default_cost_weight: float = 0.0,
) -> RouterParams:
    """Return a freshly initialised router; pure, so it can be jitted and vmapped over keys.

    `default_cost_weight` is what a conditioned router takes where an observation shows none.
    """
    sizes = {
        "context_dim": context_dim,
        "num_models": num_models,
        "num_stages": num_stages,
        "num_signals": num_signals,
    }
    net = RouterNet(config, **sizes, rngs=nnx.Rngs(params=key), default_cost_weight=default_cost_weight)
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


def is_conditioned(params: RouterParams) -> bool:
    """Say whether the router reads the cost weight."""
    return "cost_weight_embedding" in params.weights


class RouterNet(nnx.Module):
    """Policy and value networks over the router's observation."""

    def __init__(
        self,
        config: RouterNetConfig,
        *,
        context_dim: int,
        num_models: int,
        num_stages: int,
        num_signals: int = 0,
        rngs: nnx.Rngs,
        default_cost_weight: float = 0.0,
    ) -> None:
        """Initialise orthogonally: gain sqrt(2) inside, 0.01 at the policy head (a near-uniform start), 1 at value."""
        num_embeddings = 2 if config.is_conditioned else 1
        self.num_signals = num_signals if config.reads_signals else 0
        input_dim = context_dim + num_embeddings * config.stage_embed_dim + _NUM_COST_FEATURES + self.num_signals
        feature_dim = config.hidden_sizes[-1] if config.hidden_sizes else input_dim
        self.context_scale = math.sqrt(context_dim)
        self.stage_embedding = nnx.Embed(
            num_stages + 1, config.stage_embed_dim, embedding_init=nnx.initializers.normal(1.0), rngs=rngs
        )
        if config.is_conditioned:
            self.default_cost_weight = default_cost_weight
            self.cost_weight_embedding = nnx.Embed(
                NUM_COST_WEIGHT_KNOTS,
                config.stage_embed_dim,
                embedding_init=nnx.initializers.normal(1.0),
                rngs=rngs,
            )
        self.policy_torso = Torso(config, input_dim=input_dim, rngs=rngs)
        self.value_torso = None if config.is_torso_shared else Torso(config, input_dim=input_dim, rngs=rngs)
        self.policy_head = _orthogonal_linear(feature_dim, num_models + 1, gain=0.01, rngs=rngs)
        self.value_head = _orthogonal_linear(feature_dim, 1, gain=1.0, rngs=rngs)

    def __call__(self, observation: Observation) -> NetOutput:
        """Return logits of all actions, illegal ones included (the distribution masks them), and the value."""
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
        others = jnp.concatenate(parts)
        features = self.policy_torso(context, others)
        value_features = features if self.value_torso is None else self.value_torso(context, others)
        return NetOutput(logits=self.policy_head(features), value=self.value_head(value_features)[0])


def knot_weights(cost_weight: Float[Array, ""]) -> Float[Array, " knot"]:
    """Return the share of each knot in a cost weight: two neighbours share what lies between them, and sum to 1.

    The axis is log1p(cost_weight / COST_WEIGHT_UNIT), so that 0 has a place; beyond the last knot everything is alike.
    """
    place = jnp.minimum(jnp.log1p(cost_weight / COST_WEIGHT_UNIT), NUM_COST_WEIGHT_KNOTS - 1.0)
    return jnp.maximum(1.0 - jnp.abs(place - jnp.arange(NUM_COST_WEIGHT_KNOTS)), 0.0)


class Torso(nnx.Module):
    """A multi-layer perceptron: linear, normalisation, activation, for each hidden size."""

    def __init__(self, config: RouterNetConfig, *, input_dim: int, rngs: nnx.Rngs) -> None:
        """Initialise one block a hidden size."""
        self.activation = config.activation
        sizes = (input_dim, *config.hidden_sizes)
        # Named, because a checkpoint's tree has text for keys.
        self.linears = nnx.Dict(
            {
                f"layer_{index}": _orthogonal_linear(inward, outward, gain=math.sqrt(2.0), rngs=rngs)
                for index, (inward, outward) in enumerate(itertools.pairwise(sizes))
            }
        )
        self.norms = nnx.Dict(
            {f"layer_{index}": _make_norm(config.norm, size, rngs) for index, size in enumerate(config.hidden_sizes)}
            if config.norm != "none"
            else {}
        )

    def __call__(self, context: Float[Array, " dim"], others: Float[Array, " other"]) -> Float[Array, " output_dim"]:
        """Return the features of the last hidden layer; the inputs are the context and, after it, the others."""
        features = None
        for name, linear in self.linears.items():
            features = _apply_to_parts(linear, context, others) if features is None else linear(features)
            if name in self.norms:
                features = self.norms[name](features)
            features = _ACTIVATIONS[self.activation](features)
        return jnp.concatenate([context, others]) if features is None else features


def _apply_to_parts(
    linear: nnx.Linear, context: Float[Array, " dim"], others: Float[Array, " other"]
) -> Float[Array, " output_dim"]:
    """Return the layer's output for the two parts of its input laid end to end, with no gradient for the context.

    Only the others depend on weights (the stage's embedding). A gradient for the whole input would be a third matrix
    product of the context's size, most of it thrown away; so the whole is held, and what the others add to it in a
    derivative, zero as a number, goes through their own rows of the kernel.
    """
    kernel, bias = linear.kernel[...], linear.bias
    assert bias is not None
    hold = jax.lax.stop_gradient
    moved = (others - hold(others)) @ hold(kernel[context.shape[0] :])
    return hold(jnp.concatenate([context, others])) @ kernel + moved + bias[...]


def _orthogonal_linear(input_dim: int, output_dim: int, *, gain: float, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(input_dim, output_dim, kernel_init=_orthogonal(gain), rngs=rngs)


def _orthogonal(gain: float) -> nnx.Initializer:
    """Return the initialiser, which under vmap makes one matrix after the other.

    The QR decompositions of a batch, several of them at once, can leave no thread of a CPU with few cores to finish
    any of them, and wait forever.
    """
    initialise = nnx.initializers.orthogonal(gain)

    def make(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        del out_sharding
        return jax.custom_batching.sequential_vmap(lambda one_key: initialise(one_key, shape, dtype))(key)

    return make


def _make_norm(kind: str, size: int, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.LayerNorm(size, rngs=rngs) if kind == "layer" else nnx.RMSNorm(size, rngs=rngs)
