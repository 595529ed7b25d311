"""The layers of the router's networks: a torso of hidden layers, and heads that are mixed by inferred task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Activation = Literal["tanh", "relu", "gelu"]
Norm = Literal["none", "layer", "rms"]
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": nnx.relu, "gelu": nnx.gelu}


class Torso(nnx.Module):
    """A multi-layer perceptron: linear, normalisation, activation, for each hidden size."""

    def __init__(
        self, input_dim: int, hidden_sizes: Sequence[int], *, activation: Activation, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        """Initialise one block a hidden size."""
        self.activation = activation
        sizes = (input_dim, *hidden_sizes)
        # Named, because a checkpoint's tree has text for keys.
        self.linears = nnx.Dict(
            {
                f"layer_{index}": orthogonal_linear(inward, outward, gain=math.sqrt(2.0), rngs=rngs)
                for index, (inward, outward) in enumerate(itertools.pairwise(sizes))
            }
        )
        self.norms = nnx.Dict(
            {f"layer_{index}": _make_norm(norm, size, rngs) for index, size in enumerate(hidden_sizes)}
            if norm != "none"
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


class MixtureHead(nnx.Module):
    """One linear head a task, mixed by how likely each task is."""

    def __init__(self, num_tasks: int, feature_dim: int, output_dim: int) -> None:
        """Begin with outputs of 0."""
        self.kernel = nnx.Param(jnp.zeros((num_tasks, feature_dim, output_dim)))
        self.bias = nnx.Param(jnp.zeros((num_tasks, output_dim)))

    def __call__(
        self, chances: Float[Array, " task"], features: Float[Array, " feature_dim"]
    ) -> Float[Array, " output_dim"]:
        """Return the expected output over the tasks."""
        return jnp.einsum("t,f,tfo->o", chances, features, self.kernel[...]) + chances @ self.bias[...]


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


def orthogonal_linear(input_dim: int, output_dim: int, *, gain: float, rngs: nnx.Rngs) -> nnx.Linear:
    """Return a linear layer whose kernel is initialised orthogonally."""
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


def _make_norm(kind: Norm, size: int, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.LayerNorm(size, rngs=rngs) if kind == "layer" else nnx.RMSNorm(size, rngs=rngs)
