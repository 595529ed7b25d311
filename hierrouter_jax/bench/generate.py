"""`bench generate`: tokens of one model, ours beside the same weights elsewhere, and the floor of this machine.

Two workloads a batch size: prompts of fixed length with stops off, and real GSM8K questions with theirs. The sides
take turns (`alternate`); rows are medians of the runs (`measure_generation`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax.numpy as jnp

from hierrouter_jax.bench.extras import require_extras
from hierrouter_jax.bench.floor import FloorModel
from hierrouter_jax.bench.llama_cpp_peer import LlamaCppPeer
from hierrouter_jax.bench.measure_generation import OURS, Generate, measure_workload
from hierrouter_jax.bench.report import BenchReport, PoolOptions
from hierrouter_jax.bench.rows import BenchRow
from hierrouter_jax.bench.transformers_peer import load_transformers
from hierrouter_jax.bench.tree_requests import ROWS_VARIABLE, rows_folder
from hierrouter_jax.bench.workloads import Workload, fixed_workload, mix_workload
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.text import GREEDY
from hierrouter_jax.llm.batching import BatchLimits, device_limits
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.generation import generate_tokens
from hierrouter_jax.llm.int8 import float_type
from hierrouter_jax.llm.loading import WeightsDtype, default_dtype
from hierrouter_jax.llm.pool import Pool, load_pool, read_pool_spec

PeerName = Literal["transformers", "llama_cpp"]


@dataclass(frozen=True, kw_only=True)
class GenerateBench(PoolOptions):
    """Measure generation of one model beside the same weights elsewhere, and beside the floor of this machine."""

    model: str | None = None
    """A model of the pool; by default its first."""
    batch: tuple[int, ...] = (1, 16, 64)
    """Rows generated together."""
    against: tuple[PeerName, ...] = ("transformers",)
    """The peers; none measures ours alone."""
    runs: int = 5
    """Runs of each side, in turn."""
    num_prompt_tokens: int = 64
    """Length of the fixed prompts."""
    num_new_tokens: int = 64
    """Tokens generated after each fixed prompt."""
    rows: Path | None = None
    """Folder of benchmark rows for the GSM8K mix; by default that of HIERROUTER_BENCHMARKS, without it no mix."""
    dtype: Literal["float32", "bfloat16", "int8"] | None = None
    """Type of weights and cache; by default float32 on CPU and bfloat16 elsewhere. Beside int8, a peer has float32."""
    chunk: int | None = None
    """Steps that the host does not look at; by default as many as for this kind of device."""
    max_lookup_batch: int | None = None
    """Rows up to which repeated tokens are proposed (0: never); by default as many as for this kind of device."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not self.batch or min(self.batch) < 1:
            raise ConfigError(f"batch must be sizes >= 1, but is {self.batch}.")
        for name in ("runs", "num_prompt_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, but is {getattr(self, name)}.")
        if self.num_new_tokens < 2:
            raise ConfigError(f"num_new_tokens must be >= 2, the first being prefill's, but is {self.num_new_tokens}.")


def bench_generate(options: GenerateBench) -> BenchReport:
    """Measure every batch size. Raises `ConfigError` for a model not in the pool, or a peer's package missing."""
    if "transformers" in options.against:
        require_extras("torch", "accelerate")
    if "llama_cpp" in options.against:
        require_extras("llama_cpp")
    dtype: WeightsDtype = options.dtype or default_dtype()
    pool, name = _open(options, dtype)
    decoder = pool.decoder(name)
    workloads, notes = _workloads(options, pool, name)
    sides: dict[str, Generate] = {OURS: lambda work: generate_ours(decoder, work, _limits(options))}
    for peer in options.against:
        peer_dtype = float_type(dtype).name
        sides[_peer_title(peer, peer_dtype)] = _make_peer(peer, pool, name, peer_dtype)
    rows: list[BenchRow] = []
    model = FloorModel(
        config=decoder.config, weight_itemsize=jnp.dtype(dtype).itemsize, cache_itemsize=decoder.dtype.itemsize
    )
    for work in workloads:
        rows += measure_workload(work, sides, model, name=name, num_runs=options.runs, dtype=dtype)
    title = f"{name}, {dtype}, medians of {options.runs} runs in turn"
    return BenchReport(title=title, rows=tuple(rows), notes=notes, more={"dtype": dtype})


def generate_ours(decoder: DecoderModel, work: Workload, limits: BatchLimits | None = None) -> list[list[int]]:
    """Generate a workload by our public function, all rows in one batch."""
    produced = generate_tokens(
        decoder,
        work.prompts,
        max_new_tokens=work.max_new_tokens,
        samplings=[GREEDY] * len(work.prompts),
        stop_token_ids=work.stop_token_ids,
        is_complete=work.is_complete,
        limits=dataclasses.replace(limits or device_limits(), max_batch=len(work.prompts)),
    )
    return [list(row.token_ids) for row in produced]


def _limits(options: GenerateBench) -> BatchLimits:
    """Return the limits of the device at hand, with what the options say instead."""
    named = {"chunk": options.chunk, "max_lookup_batch": options.max_lookup_batch}
    return dataclasses.replace(device_limits(), **{name: value for name, value in named.items() if value is not None})


def _open(options: GenerateBench, dtype: WeightsDtype) -> tuple[Pool, str]:
    """Open the one model that is measured, in the type that it is measured in."""
    if options.pool is None:
        raise ConfigError("A pool file is needed; give --pool.")
    spec = read_pool_spec(options.pool)
    name = spec.models[0].name if options.model is None else options.model
    models = tuple(dataclasses.replace(one, dtype=dtype) for one in spec.models if one.name == name)
    if not models:
        names = ", ".join(one.name for one in spec.models)
        raise ConfigError(f"The model must be one of the pool ({names}), but is {name!r}.")
    return load_pool(dataclasses.replace(spec, models=models)), name


def _workloads(options: GenerateBench, pool: Pool, name: str) -> tuple[list[Workload], tuple[str, ...]]:
    """Return what is measured, and what the reader should know of it."""
    vocab_size = pool.decoder(name).config.vocab_size
    sizes = {"num_prompt_tokens": options.num_prompt_tokens, "num_new_tokens": options.num_new_tokens}
    works = [fixed_workload(vocab_size, batch, **sizes) for batch in options.batch]
    folder = rows_folder(options.rows)
    if folder is None:
        return works, (f"No GSM8K mix: give the folder of benchmark rows as --rows, or set {ROWS_VARIABLE}.",)
    return works + [mix_workload(pool, name, folder, batch) for batch in options.batch], ()


def _make_peer(peer: PeerName, pool: Pool, name: str, dtype: str) -> Generate:
    if peer == "llama_cpp":
        return LlamaCppPeer(pool.files(name)).generate
    loaded = load_transformers(pool.files(name), dtype=dtype)

    def generate(work: Workload) -> list[list[int]]:
        return loaded.generate(
            work.prompts,
            max_new_tokens=work.max_new_tokens,
            stop_token_ids=work.stop_token_ids,
            is_complete=work.is_complete,
        ).token_ids

    return generate


def _peer_title(peer: PeerName, dtype: str) -> str:
    """Return the peer's name with the weights it computes with."""
    return "llama_cpp (weights as in the file)" if peer == "llama_cpp" else f"transformers ({dtype})"
