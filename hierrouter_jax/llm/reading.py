"""Reading: tokens go into caches behind what is there already, layer by layer.

On CPU a layer is a program of its own, called once a layer: reading takes far longer than the calls, and a small
program compiles in a fraction of the time of a whole decoder. On other devices, where calls would be what one waits
for, the layers are one program. A text is read in pieces of a few sizes, which bounds both the number of programs and
the memory that attention's scores take.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from hierrouter_jax.llm.batching import pad_tokens
from hierrouter_jax.llm.cache import Keys, KVCache, Values
from hierrouter_jax.llm.config import DecoderConfig
from hierrouter_jax.llm.decoder import DecoderModel, Layer
from hierrouter_jax.llm.placement import devices_of
from hierrouter_jax.llm.sampling import SamplingMode, SamplingRows, draw_tokens, token_logprobs

PIECE_SIZES = (8, 16, 32, 64, 128, 256)
CPU_PASS = 11  # tokens that a pass through the layers costs besides its own, on CPU: the time of reading the weights


def pieces(num_tokens: int) -> tuple[int, ...]:
    """Return the lengths of the pieces that tokens are read in, the largest first; the last one may be padded.

    On CPU a few exact pieces are cheaper than much padding. Elsewhere a pass costs as much as hundreds of tokens.
    """
    num_whole, rest = divmod(num_tokens, PIECE_SIZES[-1])
    pass_tokens = CPU_PASS if jax.default_backend() == "cpu" else PIECE_SIZES[-1]
    return (PIECE_SIZES[-1],) * num_whole + _cheapest_pieces(rest, PIECE_SIZES, pass_tokens)


@functools.cache
def _cheapest_pieces(num_tokens: int, sizes: tuple[int, ...], pass_tokens: int) -> tuple[int, ...]:
    """Return the pieces that hold the tokens at the least sum of their sizes and of what their passes cost."""
    if num_tokens <= 0:
        return ()
    ways = [[size, *_cheapest_pieces(num_tokens - size, sizes, pass_tokens)] for size in sizes]
    costs = [sum(way) + pass_tokens * len(way) for way in ways]
    return tuple(sorted(ways[costs.index(min(costs))], reverse=True))


def padded_length(num_tokens: int) -> int:
    """Return how many tokens are computed where `num_tokens` are read."""
    return sum(pieces(num_tokens))


class PromptReader:
    """Reads tokens with one model.

    `by_layers` is whether each layer is a program of its own: by default on CPU, where compiling is what takes time, if
    the model lies on one device. Programs of a sharded model wait for each other in the threads that others of them
    need, and XLA's CPU backend has as many threads as cores: with a program a layer in flight it comes to a standstill.
    """

    def __init__(self, model: DecoderModel, *, by_layers: bool | None = None) -> None:
        self.model = model
        if by_layers is None:
            by_layers = jax.default_backend() == "cpu" and len(devices_of(model)) == 1
        self._layers = model.layers if by_layers else None

    def read(self, cache: KVCache, rows: Sequence[Sequence[int]]) -> tuple[Float[Array, "batch embed"], KVCache]:
        """Put each row's tokens (at least one) behind what the cache holds; return the state after its last one.

        States are normalised, ready for logits. There must be room for the padded length of the longest row. The
        cache is given up; the one returned has the new lengths.
        """
        pieces_read, cache = self._read_pieces(cache, rows)
        lasts = np.array([len(row) - 1 for row in rows], np.int32)
        ends = np.cumsum([x.shape[1] for x in pieces_read])
        piece_of_row = np.searchsorted(ends, lasts, side="right")
        used = np.unique(piece_of_row)  # most often the last piece alone
        states = []
        for piece in used:
            x = pieces_read[piece]
            own = np.clip(lasts - (ends[piece] - x.shape[1]), 0, x.shape[1] - 1).astype(np.int32)
            states.append(last_states(self.model.ends, x, own))
        if len(states) == 1:
            return states[0], cache
        return jnp.stack(states)[np.searchsorted(used, piece_of_row), np.arange(len(rows))], cache

    def read_states(self, cache: KVCache, rows: Sequence[Sequence[int]]) -> Float[Array, "batch time embed"]:
        """Return the states after all tokens of rows, before the last norm; the cache is given up for good.

        Time is the padded length of the longest row. There must be room for it.
        """
        states, _ = self._read_pieces(cache, rows)
        return states[0] if len(states) == 1 else jnp.concatenate(states, axis=1)

    def _read_pieces(self, cache: KVCache, rows: Sequence[Sequence[int]]) -> tuple[list[Array], KVCache]:
        """Return the states behind the last layer, piece after piece, and the cache with the rows' tokens in it."""
        starts, sizes = np.asarray(cache.lengths), np.array([len(row) for row in rows], np.int32)
        keys, values, done, states = cache.keys, cache.values, 0, []
        for width in pieces(int(sizes.max())):
            tokens, _ = pad_tokens([row[done : done + width] for row in rows], len(rows), width)
            x, keys, values = self._read_piece(keys, values, tokens, starts + np.int32(done))
            states.append(x)
            done += width
        return states, KVCache(keys=keys, values=values, lengths=jnp.asarray(starts + sizes))

    def _read_piece(
        self,
        keys: tuple[Keys, ...],
        values: tuple[Values, ...],
        tokens: Int[np.ndarray, "batch time"],
        starts: Int[np.ndarray, " batch"],
    ) -> tuple[Float[Array, "batch time embed"], tuple[Keys, ...], tuple[Values, ...]]:
        """Return the states behind the last layer, and all keys and values."""
        if self._layers is None:
            return read_piece(self.model, keys, values, tokens, starts)
        config = self.model.config
        x, positions, turns = begin_piece(self.model.ends, tokens, starts)
        pairs = []
        for index, (graphdef, params) in enumerate(self._layers):
            turn, window = turns[config.is_local(index)], _window_of(config, index)
            x, pair = run_layer(graphdef, params, x, positions, turn, window, keys[index], values[index])
            pairs.append(pair)
        return x, tuple(key for key, _ in pairs), tuple(value for _, value in pairs)


def _window_of(config: DecoderConfig, layer: int) -> np.int32 | None:
    """Return what a layer sees, as an argument, so that local and global layers are one program."""
    if not any(config.local_layers):
        return None
    window = config.layer_window(layer)
    return np.int32(config.context_window if window is None else window)


@partial(jax.jit, donate_argnames=("keys", "values"))
def read_piece(
    model: DecoderModel,
    keys: tuple[Keys, ...],
    values: tuple[Values, ...],
    tokens: Int[Array, "batch time"],
    starts: Int[Array, " batch"],
) -> tuple[Float[Array, "batch time embed"], tuple[Keys, ...], tuple[Values, ...]]:
    """Read one piece of every row in one program."""
    cache = KVCache(keys=keys, values=values, lengths=starts)
    states, cache = model.module().run_layers(tokens, _positions(tokens, starts), cache)
    return states, cache.keys, cache.values


@jax.jit
def begin_piece(
    ends: DecoderModel, tokens: Int[Array, "batch time"], starts: Int[Array, " batch"]
) -> tuple[Float[Array, "batch time embed"], Int[Array, "batch time"], dict[bool, Float[Array, "2 batch time half"]]]:
    """Return what the first layer gets: embedded tokens, positions, rotary turns."""
    positions = _positions(tokens, starts)
    x, turns = ends.module().embed_tokens(tokens, positions)
    return x, positions, turns


@partial(jax.jit, static_argnames=("graphdef",), donate_argnames=("x", "keys", "values"))
def run_layer(
    graphdef: nnx.GraphDef[Layer],
    params: nnx.State,
    x: Float[Array, "batch time embed"],
    positions: Int[Array, "batch time"],
    turns: Float[Array, "2 batch time half"],
    window: Int[Array, ""] | None,
    keys: Keys,
    values: Values,
) -> tuple[Float[Array, "batch time embed"], tuple[Keys, Values]]:
    """Return one layer's output, and its keys and values with the piece's in them."""
    return nnx.merge(graphdef, params)(x, positions, turns, window, (keys, values))


@jax.jit
def last_states(
    ends: DecoderModel, x: Float[Array, "batch time embed"], lasts: Int[Array, " batch"]
) -> Float[Array, "batch embed"]:
    """Return the normalised states behind the last layer, of token `lasts` of each row."""
    return ends.module().final_norm(jnp.take_along_axis(x, lasts[:, None, None], axis=1)[:, 0])


@partial(jax.jit, static_argnames=("mode",))
def draw_first(
    ends: DecoderModel, hidden: Float[Array, "batch embed"], sampling: SamplingRows, *, mode: SamplingMode
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """Return the first new token of every row and its log-probability."""
    logits = ends.module().logits(hidden)
    first = draw_tokens(logits, sampling, jnp.zeros(hidden.shape[0], jnp.int32), mode=mode)
    return first, token_logprobs(logits, first)


def _positions(tokens: Int[Array, "batch time"], starts: Int[Array, " batch"]) -> Int[Array, "batch time"]:
    return starts[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
