"""The router's policy and value networks.

Input: the context vector c_t, a learned embedding of the stage and the cumulative cost (as it is, and as log1p, so
that both cheap and dear routes are told apart). Output: one logit an action (models, then STOP) and the value, the
utility expected from here on. The paper gives the inputs; sizes, normalisation and heads are this package's choices.

`RouterParams` holds the weights beside the architecture they belong to: a pytree whose leaves are the weights, so it
can be differentiated, optimised, replicated, stored and vmapped over as it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.structs import array_struct, static_field
from hierrouter_jax.routing.mdp import Observation

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": nnx.relu, "gelu": nnx.gelu}
_NUM_COST_FEATURES = 2


@dataclass(frozen=True, kw_only=True)
class RouterNetConfig:
    """Architecture of the router. Without hidden layers it is linear in its input."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    stage_embed_dim: int = 16
    activation: Literal["tanh", "relu", "gelu"] = "tanh"
    norm: Literal["none", "layer", "rms"] = "layer"  # after each hidden layer's matrix
    is_torso_shared: bool = False  # one torso for policy and value, or one each

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


def init_router(
    config: RouterNetConfig, *, context_dim: int, num_models: int, num_stages: int, key: Key[Array, ""]
) -> RouterParams:
    """Return a freshly initialised router; pure, so it can be jitted and vmapped over keys."""
    net = RouterNet(
        config, context_dim=context_dim, num_models=num_models, num_stages=num_stages, rngs=nnx.Rngs(params=key)
    )
    graphdef, state = nnx.split(net)
    return RouterParams(weights=nnx.to_pure_dict(state), graphdef=graphdef)


def apply_router(params: RouterParams, observation: Observation) -> NetOutput:
    """Return logits and value of one observation (vmap for batches)."""
    return nnx.merge(params.graphdef, params.weights)(observation)


class RouterNet(nnx.Module):
    """Policy and value networks over the router's observation."""

    def __init__(
        self, config: RouterNetConfig, *, context_dim: int, num_models: int, num_stages: int, rngs: nnx.Rngs
    ) -> None:
        """Initialise orthogonally: gain sqrt(2) inside, 0.01 at the policy head (a near-uniform start), 1 at value."""
        input_dim = context_dim + config.stage_embed_dim + _NUM_COST_FEATURES
        feature_dim = config.hidden_sizes[-1] if config.hidden_sizes else input_dim
        self.context_scale = math.sqrt(context_dim)
        self.stage_embedding = nnx.Embed(
            num_stages + 1, config.stage_embed_dim, embedding_init=nnx.initializers.normal(1.0), rngs=rngs
        )
        self.policy_torso = Torso(config, input_dim=input_dim, rngs=rngs)
        self.value_torso = None if config.is_torso_shared else Torso(config, input_dim=input_dim, rngs=rngs)
        self.policy_head = _orthogonal_linear(feature_dim, num_models + 1, gain=0.01, rngs=rngs)
        self.value_head = _orthogonal_linear(feature_dim, 1, gain=1.0, rngs=rngs)

    def __call__(self, observation: Observation) -> NetOutput:
        """Return logits of all actions, illegal ones included (the distribution masks them), and the value."""
        # Sentence embeddings have norm 1; scaled to unit variance they weigh as much as the other inputs.
        inputs = jnp.concatenate(
            [
                observation.context * self.context_scale,
                self.stage_embedding(observation.stage),
                jnp.stack([observation.cum_cost, jnp.log1p(observation.cum_cost)]),
            ]
        )
        features = self.policy_torso(inputs)
        value_features = features if self.value_torso is None else self.value_torso(inputs)
        return NetOutput(logits=self.policy_head(features), value=self.value_head(value_features)[0])


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

    def __call__(self, features: Float[Array, " input_dim"]) -> Float[Array, " output_dim"]:
        """Return the features of the last hidden layer."""
        for name, linear in self.linears.items():
            features = linear(features)
            if name in self.norms:
                features = self.norms[name](features)
            features = _ACTIVATIONS[self.activation](features)
        return features


def _orthogonal_linear(input_dim: int, output_dim: int, *, gain: float, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(input_dim, output_dim, kernel_init=nnx.initializers.orthogonal(gain), rngs=rngs)


def _make_norm(kind: str, size: int, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.LayerNorm(size, rngs=rngs) if kind == "layer" else nnx.RMSNorm(size, rngs=rngs)
