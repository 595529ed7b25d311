"""`hierrouter pool list | pull | check`: where a pool's models come from, getting them, and a sign of life."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from hierrouter_jax.cli.output import print_lines, print_note, write_json
from hierrouter_jax.cli.packaged import SMALL_POOL, packaged_file
from hierrouter_jax.core.errors import WeightsError
from hierrouter_jax.core.text import Response
from hierrouter_jax.evaluate.live import as_row
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import PoolSpec, load_pool, read_pool_spec
from hierrouter_jax.tasks.prompts import task_request
from hierrouter_jax.weights.sources import is_resolved

CHECK_QUESTION = "What is the capital of France?"
CHECK_ANSWER = "paris"


@dataclass(frozen=True, kw_only=True)
class _Options:
    pool: Path | None = None
    """Pool file; by default the packaged small pool."""
    json: Path | None = None
    """Write the outcome there as JSON."""


@dataclass(frozen=True, kw_only=True)
class List(_Options):
    """Say where each model comes from, and whether it is on this machine."""


@dataclass(frozen=True, kw_only=True)
class Pull(_Options):
    """Download what is missing, with progress, and check every digest and every file's header."""


@dataclass(frozen=True, kw_only=True)
class Check(_Options):
    """Let each model answer a short question, and show the answer and the time it took."""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Pull, tyro.conf.subcommand("pull")]
    | Annotated[Check, tyro.conf.subcommand("check")]
)


def run(command: List | Pull | Check) -> None:
    """Do what the subcommand says."""
    path = packaged_file(SMALL_POOL) if command.pool is None else command.pool
    match command:
        case List():
            outcome = _list(read_pool_spec(path))
        case Pull():
            outcome = _pull(path)
        case Check():
            outcome = _check(path)
    write_json(command.json, {"pool": str(path), "models": outcome})


def _list(spec: PoolSpec) -> list[dict[str, Any]]:
    models = []
    for model in spec.models:
        is_here = is_resolved(model.source, base_dir=spec.base_dir)
        models.append({"name": model.name, "source": model.source, "sha256": model.sha256, "is_here": is_here})
        print_lines([f"{model.name}: {model.source} [{'on this machine' if is_here else 'not downloaded yet'}]"])
    return models


def _pull(path: Path) -> list[dict[str, Any]]:
    """Fetch, check digests and headers: what this accepts, the pool can load."""
    pool = load_pool(path)
    models = []
    for card in pool.cards:
        files = pool.files(card.name)
        size_bytes = sum(file.stat().st_size for file in files.weights)
        models.append(
            {"name": card.name, "folder": str(files.folder), "sha256": files.sha256, "size_bytes": size_bytes}
        )
        print_lines([f"{card.name}: {size_bytes / 1e6:.0f} MB, sha256 {files.sha256} -> {files.folder}"])
    return models


def _check(path: Path) -> list[dict[str, Any]]:
    """Ask every model; a pool none of whose models knows the answer is taken for broken."""
    print_note("opening the pool; what is not on this machine yet is downloaded once")
    engine = FlaxEngine(load_pool(path))
    models, is_right = [], []
    for card in engine.cards:
        began_s = time.monotonic()
        (response,) = engine.generate([task_request(card, as_row(CHECK_QUESTION))])
        wall_s = time.monotonic() - began_s
        models.append(_checked(card.name, response, wall_s))
        is_right.append(CHECK_ANSWER in response.text.lower())
        print_lines([f"{card.name} ({wall_s:.1f} s, loading and compiling included): {response.text.strip()}"])
    if not any(is_right):
        raise WeightsError(
            f"At least one model must know that {CHECK_QUESTION!r} asks for Paris, but none does: the weights or their "
            "prompt style are not what the pool says. Pull the pool again, or mend its prompt_style."
        )
    return models


def _checked(name: str, response: Response, wall_s: float) -> dict[str, Any]:
    return {
        "name": name,
        "answer": response.text,
        "num_prompt_tokens": response.num_prompt_tokens,
        "num_new_tokens": response.num_new_tokens,
        "wall_s": wall_s,
    }
