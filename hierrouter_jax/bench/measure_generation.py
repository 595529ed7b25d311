"""Rows of generation: one workload timed on all sides in turn, whole and prefill, beside the floor of this machine.

Prefill is a run with a budget of one token; decode is what is left of the whole. `floor_share` is the floor (`floor`)
divided by our seconds: 1 where nothing but matrix products and cache reads takes time. `bandwidth_share` is what the
steps must read and write, each weight once a step, divided by what a copy would move in our seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax

from hierrouter_jax.bench.alternate import alternate
from hierrouter_jax.bench.floor import (
    Floor,
    FloorModel,
    ProductShape,
    Rates,
    generation_floor,
    measure_rates,
    rows_to_measure,
)
from hierrouter_jax.bench.product_times import best_flop_rate, copy_rate, product_seconds, roofline_seconds
from hierrouter_jax.bench.report import announce
from hierrouter_jax.bench.rows import BenchRow, medians_row
from hierrouter_jax.bench.workloads import Workload
from hierrouter_jax.core.progress import progress_bar

OURS = "ours"
Generate = Callable[[Workload], list[list[int]]]


def measure_workload(
    work: Workload, sides: Mapping[str, Generate], model: FloorModel, *, name: str, num_runs: int, dtype: str
) -> list[BenchRow]:
    """Return the rows of one workload: the whole, prefill and decode of the model `name`, ours beside each peer.

    `sides` has ours under `OURS`; each answers the workload in one batch of all its prompts.
    """
    batch = len(work.prompts)
    whole = alternate(
        {side: partial(run, work) for side, run in sides.items()},
        num_runs=num_runs,
        description=f"{work.name}, batch {batch}",
    )
    first = alternate(
        {side: partial(run, work.first_tokens()) for side, run in sides.items()},
        num_runs=num_runs,
        description=f"{work.name}, batch {batch}, prefill",
    )
    produced = {side: _lengths(outcome) for side, outcome in whole.outcomes.items()}
    floor, rates = _floor(model, work, batch, produced[OURS], dtype)
    medians = ", ".join(f"{side} {statistics.median(runs_s):.3f} s" for side, runs_s in whole.runs_s.items())
    announce(f"{work.name}, batch {batch}: floor {floor.total_s:.3f} s, {medians}")
    rows = []
    for part, runs_s, floor_s in (
        ("total", whole.runs_s, floor.total_s),
        ("prefill", first.runs_s, floor.prefill_s),
        ("decode", _differences(whole.runs_s, first.runs_s), floor.decode_s),
    ):
        extra = _extras(part, runs_s[OURS], floor_s, floor, rates, produced[OURS])
        peers: list[str | None] = [side for side in sides if side != OURS]
        for peer in peers or [None]:
            more = {} if peer is None else _agreement(whole.outcomes[OURS], whole.outcomes[peer], produced[peer])
            rows.append(
                medians_row(f"{work.name}, {part}", model=name, batch=batch, ours=runs_s[OURS],
                            peer=[] if peer is None else runs_s[peer], peer_name=peer, extra=extra | more)
            )  # fmt: skip
    return rows


def _floor(
    model: FloorModel, work: Workload, batch: int, new_lengths: Sequence[int], dtype: str
) -> tuple[Floor, Rates]:
    """Measure the rates that this workload needs, and return its floor."""
    prompt_lengths = [len(prompt) for prompt in work.prompts]
    is_fixed = len(set(new_lengths)) == 1
    decode_rows, prefill_rows = rows_to_measure(batch, prompt_lengths)
    decode_rows = (batch,) if is_fixed else decode_rows
    bytes_per_s = copy_rate(dtype=dtype)
    with progress_bar("measuring matrix products", len(decode_rows) * 5 + 4) as advance:
        own_seconds = _time_product(model, dtype, bytes_per_s)

        def time_product(*given: Any) -> float:
            seconds = own_seconds(*given)
            advance(1)
            return seconds

        rates = measure_rates(
            model,
            decode_rows=decode_rows,
            prefill_rows=(prefill_rows,),
            time_product=time_product,
            copy_bytes_per_s=bytes_per_s,
        )
    return generation_floor(model, rates, prompt_lengths=prompt_lengths, new_lengths=new_lengths), rates


def _time_product(model: FloorModel, dtype: str, bytes_per_s: float) -> Callable[[ProductShape, int], float]:
    """Return what gives a product's seconds: measured on CPU, elsewhere the roofline of two measured rates."""
    if jax.default_backend() == "cpu":
        return partial(product_seconds, dtype=dtype)
    flops_per_s = best_flop_rate(dtype=dtype)
    return partial(roofline_seconds, itemsize=model.weight_itemsize, bytes_per_s=bytes_per_s, flops_per_s=flops_per_s)


def _extras(
    part: str, ours_s: Sequence[float], floor_s: float, floor: Floor, rates: Rates, new_lengths: Sequence[int]
) -> dict[str, Any]:
    """Return the floor and the shares of one part."""
    seconds = statistics.median(ours_s)
    extra: dict[str, Any] = {"part": part, "floor_s": floor_s, "floor_share": floor_s / seconds}
    extra["new_tokens"] = list(new_lengths)
    if part == "total":
        extra["tokens_per_s"] = sum(new_lengths) / seconds
        extra["copy_bytes_per_s"] = rates.copy_bytes_per_s
        extra["product_s"] = {f"{name}, {rows} rows": s for (name, rows), s in sorted(rates.product_s.items())}
    if part == "decode":
        moved = floor.weight_bytes + floor.cache_bytes
        extra["bandwidth_share"] = moved / seconds / rates.copy_bytes_per_s
    return extra


def _agreement(ours: list[list[int]], others: list[list[int]], lengths: Sequence[int]) -> dict[str, Any]:
    """Return how much of what both sides wrote is the same, and how much the peer wrote."""
    equal = sum(own == other for own, other in zip(ours, others, strict=True))
    return {"equal_rows": equal, "peer_new_tokens": list(lengths)}


def _differences(whole: Mapping[str, Sequence[float]], first: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return each run's time after the first tokens, taken as the whole less the median prefill."""
    return {side: [run_s - statistics.median(first[side]) for run_s in runs_s] for side, runs_s in whole.items()}


def _lengths(rows: list[list[int]]) -> list[int]:
    return [len(row) for row in rows]
