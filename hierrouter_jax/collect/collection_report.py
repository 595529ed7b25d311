"""The report of a collection: how much was asked, what it took, and what share of answers was cut short or unreadable.

A share is over the valid nodes of a task and model, all stages and splits together, so that a broken prompt or too
small a budget is seen where it sits. Shares of nothing are 0.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hierrouter_jax.collect.outcomes import NodeOutcomes, node_models
from hierrouter_jax.core.text import Response


class Stopwatch:
    """Adds up the seconds spent in `with` blocks."""

    def __init__(self) -> None:
        """Start at zero."""
        self.total_s = 0.0
        self._start_s = 0.0

    def __enter__(self) -> Stopwatch:
        """Start."""
        self._start_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and add what passed."""
        self.total_s += time.monotonic() - self._start_s


@dataclass(kw_only=True)
class LiveCounts:
    """What this run did so far: the live counters."""

    is_quiet: bool
    num_stored_before: int = 0
    num_generated: int = 0
    num_truncated: int = 0
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    num_scored: int = 0
    num_computed_tokens: int | None = None  # by an engine that counts them
    generation: Stopwatch = field(default_factory=Stopwatch)
    scoring: Stopwatch = field(default_factory=Stopwatch)
    encoding: Stopwatch = field(default_factory=Stopwatch)

    def count(self, response: Response) -> str:
        """Count a generated response; return the figures to show."""
        self.num_generated += 1
        self.num_truncated += response.finish_reason == "length"
        self.num_prompt_tokens += response.num_prompt_tokens
        self.num_new_tokens += response.num_new_tokens
        return (
            f"tokens {self.num_prompt_tokens} in, {self.num_new_tokens} out, "
            f"truncated {self.num_truncated / self.num_generated:.1%}"
        )


@dataclass(frozen=True, kw_only=True)
class AnswerCounts:
    """The responses of one model to one task (one a valid node; equal requests count at every node)."""

    num_nodes: int
    num_prompt_tokens: int
    num_new_tokens: int
    truncated_share: float
    unparsed_share: float
    mean_quality: float
    first_hop_quality: float  # of the model used alone


@dataclass(frozen=True, kw_only=True)
class CollectionReport:
    """What one collection did, and what it found."""

    num_queries: dict[str, int]  # split -> queries in the tree
    num_left_out: dict[str, int]  # split -> queries that no model could be asked
    num_nodes: int  # valid nodes, roots not counted
    num_requests: int  # distinct requests behind them
    num_stored_before: int
    num_generated: int
    generated_prompt_tokens: int
    generated_new_tokens: int
    computed_tokens: int | None  # positions that went through a model for them; None of an engine that does not count
    num_scored: int  # responses scored in this run; the others' scores were stored
    generation_s: float
    scoring_s: float
    encoding_s: float
    invalid_nodes: dict[str, int]  # reason -> nodes
    answers: dict[str, dict[str, AnswerCounts]]  # task -> model -> counts


def count_answers(
    outcomes: Sequence[NodeOutcomes], *, model_names: Sequence[str], task_names: Sequence[str], num_stages: int
) -> dict[str, dict[str, AnswerCounts]]:
    """Return the counts of every task and model over all splits."""
    model_of_node = node_models(len(model_names), num_stages)
    counts: dict[str, dict[str, AnswerCounts]] = {}
    for task_index, task in enumerate(task_names):
        counts[task] = {}
        for model_index, model in enumerate(model_names):
            masks = [
                arrays.valid & (arrays.task == task_index)[:, None] & (model_of_node == model_index)[None, :]
                for arrays in outcomes
            ]
            counts[task][model] = _count(outcomes, masks, first_node=1 + model_index)
    return counts


def _count(outcomes: Sequence[NodeOutcomes], masks: Sequence[np.ndarray], *, first_node: int) -> AnswerCounts:
    values = {
        name: np.concatenate([getattr(arrays, name)[mask] for arrays, mask in zip(outcomes, masks, strict=True)])
        for name in ("num_prompt_tokens", "num_new_tokens", "is_truncated", "is_parsed", "quality")
    }
    alone = np.concatenate(
        [arrays.quality[mask[:, first_node], first_node] for arrays, mask in zip(outcomes, masks, strict=True)]
    )
    return AnswerCounts(
        num_nodes=len(values["quality"]),
        num_prompt_tokens=int(values["num_prompt_tokens"].sum()),
        num_new_tokens=int(values["num_new_tokens"].sum()),
        truncated_share=_mean(values["is_truncated"]),
        unparsed_share=_mean(~values["is_parsed"]),
        mean_quality=_mean(values["quality"]),
        first_hop_quality=_mean(alone),
    )


def summary_lines(report: CollectionReport) -> list[str]:
    """Return the report as lines to print: totals, then one line a task and model."""
    lines = [
        f"{report.num_nodes} nodes, {report.num_requests} distinct requests: {report.num_stored_before} were stored, "
        f"{report.num_generated} generated in {report.generation_s:.1f} s",
        f"generated tokens: {report.generated_prompt_tokens} in, {report.generated_new_tokens} out"
        + ("" if report.computed_tokens is None else f"; computed: {report.computed_tokens}"),
    ]
    lines += [f"{count} nodes invalid: {reason}" for reason, count in sorted(report.invalid_nodes.items())]
    lines += [f"{count} queries left out of {split}" for split, count in report.num_left_out.items() if count]
    lines += [
        _answer_line(task, model, counts)
        for task, models in report.answers.items()
        for model, counts in models.items()
        if counts.num_nodes
    ]
    return lines


def _answer_line(task: str, model: str, counts: AnswerCounts) -> str:
    return (
        f"{task} / {model}: alone {counts.first_hop_quality:.3f}, all hops {counts.mean_quality:.3f}, "
        f"truncated {counts.truncated_share:.1%}, unparsed {counts.unparsed_share:.1%}"
    )


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0
