"""Votes between candidates: shown to every voter in an order of their own, decided by a stated rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.output_schemas import ChoiceSchema
from hierrouter_jax.crowd.subtasks import Contribution, Input, Pipeline, SubTask, contributors, shuffled

LABELS = "ABCDEFGHIJ"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something that is voted on, and who made it."""

    text: str
    by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VoteResult:
    """Who won, by place among the candidates, and the votes of each."""

    winner: int
    counts: tuple[int, ...]
    voters: tuple[str, ...]


def vote(
    candidates: Sequence[Candidate],
    *,
    name: str,
    role: str,
    instructions: str,
    num_votes: int,
    seed: int,
    inputs: Mapping[str, Input] | None = None,
    is_first_to: bool = False,
    barred: Sequence[str] = (),
) -> Pipeline:
    """Return a pipeline that lets `num_votes` choose between candidates; nobody votes on work of their own.

    The candidate with the most votes wins, of equals the one that stands first (an incumbent, if it is put there).
    `is_first_to` asks no more than it must: voting ends once a candidate has more than half of `num_votes` (TurKit,
    Little et al. 2010). A vote that nobody can use is missing; with none at all the vote fails. Returns a `VoteResult`.
    Raises `ConfigError` for more candidates than there are labels.
    """
    if len(candidates) > len(LABELS):
        raise ConfigError(f"A vote is between at most {len(LABELS)} candidates, but there are {len(candidates)}.")
    if len(candidates) == 1:
        return VoteResult(winner=0, counts=(0,), voters=())
    counts: Counter[int] = Counter()
    voters: list[str] = []
    makers = {maker for candidate in candidates for maker in candidate.by}
    needed = num_votes // 2 + 1
    ask = needed if is_first_to else num_votes
    round_number = 0
    while ask > 0:
        label = f"{name}/{round_number}/" + "/".join(candidate.text for candidate in candidates)
        orders = [shuffled(range(len(candidates)), seed=seed, label=f"{label}/{slot}") for slot in range(ask)]
        found = yield SubTask(
            name=name,
            role=role,
            instructions=instructions,
            inputs=dict(inputs or {}),
            inputs_by_slot=tuple(_labelled(candidates, order) for order in orders),
            schema=ChoiceSchema(options=tuple(LABELS[: len(candidates)])),
            redundancy=ask,
            barred=tuple(sorted({*makers, *barred})),
            asked_before=tuple(voters),
            min_contributions=0 if voters else 1,
        )
        counts.update(chosen(found, orders))
        voters += contributors(found)
        round_number += 1
        is_decided = counts and max(counts.values()) >= needed
        ask = 1 if is_first_to and not is_decided and round_number <= num_votes - needed else 0
    return VoteResult(
        winner=max(range(len(candidates)), key=lambda place: (counts[place], -place)),
        counts=tuple(counts[place] for place in range(len(candidates))),
        voters=tuple(voters),
    )


def chosen(found: Sequence[Contribution], orders: Sequence[Sequence[int]]) -> list[int]:
    """Return the candidates that were voted for, from labels in each voter's own order."""
    return [orders[one.slot][LABELS.index(one.value)] for one in found]


def _labelled(candidates: Sequence[Candidate], order: Sequence[int]) -> dict[str, Input]:
    return {label: candidates[place].text or "(empty)" for label, place in zip(LABELS, order, strict=False)}


def is_vote(subtask: SubTask, slot: int) -> bool:
    """Say whether a slot chooses between candidates that it is shown under the labels it answers with."""
    if not isinstance(subtask.schema, ChoiceSchema) or not subtask.inputs_by_slot:
        return False
    return tuple(subtask.inputs_by_slot[slot]) == subtask.schema.options


def rotations(subtask: SubTask, slot: int) -> list[SubTask]:
    """Return a vote with the candidates of a slot as they stand, then moved on under their labels by one place each.

    Every candidate stands under every label once. Rotation r shows under label j what the slot has under label j + r.
    """
    labels, shown = zip(*subtask.inputs_by_slot[slot].items(), strict=True)
    orders = [dict(zip(labels, shown[shift:] + shown[:shift], strict=True)) for shift in range(len(labels))]
    before, after = subtask.inputs_by_slot[:slot], subtask.inputs_by_slot[slot + 1 :]
    return [replace(subtask, inputs_by_slot=(*before, order, *after)) for order in orders]


def mean_over_rotations(logprobs: Sequence[Sequence[float]]) -> list[float]:
    """Return the candidates' mean log-probabilities, from those of the labels in each rotation, or in the first alone.

    What a worker thinks of a label itself is the same for all candidates then, and decides nothing: models favour
    labels (arXiv:2309.03882) and places (arXiv:2305.17926) over what stands there.
    """
    num = len(logprobs[0])
    return [
        sum(own[(place - shift) % num] for shift, own in enumerate(logprobs)) / len(logprobs) for place in range(num)
    ]


def most_frequent(answers: Sequence[Any]) -> Any:
    """Return the answer given most often; of equals the one given first."""
    return max(answers, key=Counter(answers).__getitem__)
