"""Iterative and parallel creation with votes, and brainstorming (Little et al. 2010, TurKit).

    best = ""
    repeat: new = create(goal, best); best = vote(best, new)

`parallel`, its control, makes all versions independently and then holds the same comparisons; `brainstorm` shows every
item so far and votes on none. Where a creation or a vote has no usable answer, what is best so far stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.output_schemas import ItemsSchema, TextSchema
from hierrouter_jax.crowd.subtasks import Pipeline, SubTask, SubTaskFailedError, checked_text, contributors, each_once
from hierrouter_jax.crowd.votes import Candidate, vote


@dataclass(frozen=True, kw_only=True)
class IterativeConfig:
    """The published numbers: 6 creations, 5 votes after each; brainstorms of 6 x 5 items."""

    variant: Literal["iterative", "parallel", "brainstorm"] = "iterative"
    num_creations: int = 6
    num_votes: int = 5
    num_items: int = 5
    max_chars: int = 600
    create: str = "Write the best text you can for this goal. If a text is shown, write a better one."
    compare: str = "Two texts were written for this goal. Which one is better?"
    ideas: str = "Give new ideas for this goal. Do not repeat the ideas that are shown."
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to do."""
        for name in ("num_creations", "num_votes", "num_items", "max_chars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, but is {getattr(self, name)}.")


ROLES = ("create", "vote")


def iterative(goal: str, config: IterativeConfig) -> Pipeline:
    """Return the pipeline for a goal in words.

    Its result has the best `text` or, of a brainstorm, all `items`; and `problems`, in words, where a creation or a
    vote had no usable answer. The run fails where no creation had one.
    """
    goal = checked_text(goal, what="goal")
    if config.variant == "brainstorm":
        return (yield from _brainstorm(goal, config))
    problems: list[str] = []
    if config.variant == "parallel":
        best, *others = yield from _created(goal, config, best=None, redundancy=config.num_creations)
        for new in others:
            best = yield from _better(goal, config, best, new, problems)
        return {"text": best.text, "problems": problems}
    best = None
    for _ in range(config.num_creations):
        try:
            (new,) = yield from _created(goal, config, best=best)
        except SubTaskFailedError as failure:
            problems.append(str(failure))
            continue
        best = new if best is None else (yield from _better(goal, config, best, new, problems))
    if best is None:
        raise SubTaskFailedError(problems[0])
    return {"text": best.text, "problems": problems}


def one_prompt(goal: str, config: IterativeConfig) -> Pipeline:
    """Return the baseline: one worker, one prompt."""
    goal = checked_text(goal, what="goal")
    is_list = config.variant == "brainstorm"
    (found,) = yield SubTask(
        name="one-prompt",
        role="one_prompt",
        instructions=config.ideas if is_list else config.create,
        inputs={"goal": goal},
        schema=ItemsSchema(max_items=config.num_creations * config.num_items)
        if is_list
        else TextSchema(max_chars=config.max_chars),
    )
    return {"items": each_once(found.value)} if is_list else {"text": found.value}


def _created(goal: str, config: IterativeConfig, *, best: Candidate | None, redundancy: int = 1) -> Pipeline:
    """Ask for texts, better ones than the best so far; returns them as candidates."""
    made = yield SubTask(
        name="create",
        role="create",
        instructions=config.create,
        inputs={"goal": goal} if best is None else {"goal": goal, "best text so far": best.text},
        schema=TextSchema(max_chars=config.max_chars, differs_from=None if best is None else best.text),
        redundancy=redundancy,
    )
    return [Candidate(text=one.value, by=contributors([one])) for one in made]


def _better(goal: str, config: IterativeConfig, best: Candidate, new: Candidate, problems: list[str]) -> Pipeline:
    """Vote between the best so far, which wins a tie, and a new one."""
    try:
        result = yield from vote(
            [best, new],
            name="vote",
            role="vote",
            instructions=config.compare,
            inputs={"goal": goal},
            num_votes=config.num_votes,
            seed=config.seed,
            is_first_to=True,
        )
    except SubTaskFailedError as failure:
        problems.append(str(failure))
        return best
    return (best, new)[result.winner]


def _brainstorm(goal: str, config: IterativeConfig) -> Pipeline:
    items: list[str] = []
    problems: list[str] = []
    for _ in range(config.num_creations):
        try:
            (found,) = yield SubTask(
                name="ideas",
                role="create",
                instructions=config.ideas,
                inputs={"goal": goal, "ideas so far": list(items)} if items else {"goal": goal},
                schema=ItemsSchema(min_items=1, max_items=config.num_items),
            )
        except SubTaskFailedError as failure:
            problems.append(str(failure))
        else:
            items = each_once([*items, *found.value])
    if not items:
        raise SubTaskFailedError(problems[0])
    return {"items": items, "problems": problems}
