"""What answers after the first do to those they follow: repeat, mend, spoil."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hierrouter_jax.collect.outcomes import NodeOutcomes
from hierrouter_jax.report.tables import Table
from hierrouter_jax.routing.route_tree import node_parents, stage_slice


def changes(outcomes: NodeOutcomes, num_models: int, stage: int) -> dict[str, float]:
    """Return, for all answers of one stage, how many repeat the answer before, mend it, or spoil it."""
    nodes = np.arange(outcomes.valid.shape[1])[stage_slice(num_models, stage)]
    parents = node_parents(num_models, stage)[nodes]
    is_there = outcomes.valid[:, nodes]
    own, before = outcomes.quality[:, nodes][is_there], outcomes.quality[:, parents][is_there]
    repeats = (outcomes.answer_id[:, nodes] == outcomes.answer_id[:, parents])[is_there]
    earlier = outcomes.quality[:, : nodes[0]].max(axis=1)
    first_right = np.where(is_there, outcomes.quality[:, nodes], 0.0).max(axis=1) > earlier
    return {
        "answers": int(is_there.sum()),
        "repeat the answer before, %": 100 * float(repeats.mean()),
        "mend it": int(np.sum(own > before)),
        "spoil it": int(np.sum(own < before)),
        "questions answered better than ever before": int(first_right.sum()),
    }


def changes_table(rows: Mapping[str, Mapping[str, float]], *, title: str, name: str) -> Table:
    """Return a table of a line a row of `changes`, under the heading `name`."""
    header = (name, *next(iter(rows.values())))
    lines = [
        (shown, *(f"{value:.1f}" if "%" in what else f"{value}" for what, value in own.items()))
        for shown, own in rows.items()
    ]
    return Table(title=title, header=header, rows=tuple(lines))
