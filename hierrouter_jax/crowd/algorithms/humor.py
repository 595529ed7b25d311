"""Jokes on headlines, step by step (Chilton et al. 2016, HumorTools).

    headline -> aspects -> reactions -> associations -> belief -> violation -> write -> evaluate

A joke leads to a belief about the headline and violates what its readers expect, by sarcasm or by another angle; it is
complete with a violation, a belief and at least two connections to the headline. The order of the steps is free and a
step may come again (`order`): each is shown all that is known by then. A step that fails before a joke is written
leaves the others without what it finds. A joke that lacks something is written anew with what it lacks.

The paper has four kinds of aspects, six of associations, eight of beliefs and two of violations. The names of the
associations and of the beliefs here are not the paper's, only their numbers are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.algorithms.examples import (
    HUMOR,
    MAX_EXAMPLES,
    ONE_JOKE,
    answers_of,
    fitting,
    require_num_examples,
)
from hierrouter_jax.crowd.output_schemas import YES, YES_NO, FieldsSchema, ItemsSchema, Schema, TextSchema
from hierrouter_jax.crowd.subtasks import (
    Input,
    Pipeline,
    SubTask,
    SubTaskFailedError,
    Together,
    checked_text,
    contributors,
    values,
)

LISTS = ("aspects", "reactions", "associations")
FINDINGS = (*LISTS, "belief", "violation")
ROLES = (*FINDINGS, "write", "evaluate")


@dataclass(frozen=True, kw_only=True)
class HumorConfig:
    """The published order and kinds; 5 evaluators vote on each requirement, and whoever wrote on the joke is barred.

    At each `evaluate` up to `max_rounds` jokes are judged: the one that stands, then those written anew.
    """

    order: tuple[str, ...] = ROLES
    aspect_kinds: tuple[str, ...] = ("thing", "person", "action", "belief")
    association_kinds: tuple[str, ...] = ("object", "person", "place", "event", "saying", "opposite")
    belief_kinds: tuple[str, ...] = (
        "motive",
        "character",
        "skill",
        "habit",
        "value",
        "cause",
        "consequence",
        "status",
    )
    violation_kinds: tuple[str, ...] = ("sarcasm", "angle")
    max_items: int = 8  # of aspects, reactions, associations at a time
    max_item_chars: int = 150
    max_chars: int = 300  # of a joke
    num_evaluators: int = 5
    min_connections: int = 2
    max_rounds: int = 3
    num_examples: int = MAX_EXAMPLES  # that a worker is shown at most
    aspects: str = "Name what this headline is about, each with its kind: things, persons, actions, beliefs."
    reactions: str = "How will readers react to this headline, and why?"
    associations: str = "What comes to mind with this headline and its parts? Name associations of different kinds."
    belief: str = "Which belief about this headline could a joke lead readers to? Say its kind and the belief."
    violation: str = (
        "How could a joke break what readers of this headline expect? Say whether by sarcasm (the opposite of what is "
        "meant) or by an angle that readers do not see coming, and what the joke says."
    )
    write: str = "Write a joke on this headline that uses what is known about it. Mend what an earlier joke lacks."
    has_violation: str = "Does this joke on the headline break what readers expect?"
    has_belief: str = "Does this joke on the headline lead its readers to a belief that they can put in words?"
    has_connections: str = "Is this joke tied to the headline by as many connections as it needs?"
    one_joke: str = "Write a joke on this headline."

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to do, kinds that cannot be told apart, and orders that judge nothing."""
        for name in ("max_items", "max_item_chars", "max_chars", "num_evaluators", "min_connections", "max_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, but is {getattr(self, name)}.")
        require_num_examples(self.num_examples)
        for name in ("aspect_kinds", "association_kinds", "belief_kinds", "violation_kinds"):
            kinds = [kind.strip().casefold() for kind in getattr(self, name)]
            if len(kinds) < 2 or len(set(kinds)) != len(kinds) or not all(kinds) or ":" in "".join(kinds):
                raise ConfigError(f"{name} must be two or more different words without a colon, but are {kinds}.")
        if unknown := sorted(set(self.order) - set(ROLES)):
            raise ConfigError(f"The steps of an order are {', '.join(ROLES)}, but {unknown} are among them.")
        places = {step: [place for place, one in enumerate(self.order) if one == step] for step in ROLES}
        is_judged = places["write"] and places["evaluate"] and places["evaluate"][-1] > places["write"][-1]
        if not is_judged or places["evaluate"][0] < places["write"][0]:
            raise ConfigError(
                "An order must write before it evaluates, and evaluate after it last writes, but is "
                f"{', '.join(self.order) or 'empty'}."
            )


@dataclass(frozen=True, kw_only=True)
class _Joke:
    """A joke, all who wrote on it, and once it is judged what it lacks and how many votes were for it."""

    text: str
    by: tuple[str, ...]
    missing: tuple[str, ...] = ()
    num_yes: int = 0

    def is_better(self, other: _Joke | None) -> bool:
        return other is None or (-len(self.missing), self.num_yes) > (-len(other.missing), other.num_yes)


def humor(headline: str, config: HumorConfig) -> Pipeline:
    """Return the pipeline for a headline.

    Its result has the best `joke` (with the most requirements, then the most votes, then the first), whether it
    `is_complete`, which requirements are `missing`, what was found under the name of each step, and the steps that
    were `left_out` because they failed. Raises `SubTaskFailedError` where no joke is written, or nobody judges it.
    """
    headline = checked_text(headline, what="headline")
    known: dict[str, list[str]] = {step: [] for step in FINDINGS}
    left_out: list[str] = []
    joke: _Joke | None = None  # the one that was written last
    best: _Joke | None = None  # of those that were judged
    for step in config.order:
        try:
            if step == "write":
                joke = yield from _written(headline, known, joke, config)
            elif step == "evaluate":
                assert joke is not None
                best, joke = yield from _evaluated(headline, known, joke, best, config)
                if not best.missing:
                    break
            else:
                found = yield _finding(step, headline, known, joke, config)
                _learn(known[step], step, found[0].value)
        except SubTaskFailedError:
            if step == "evaluate" or (step == "write" and joke is None):
                raise
            left_out.append(step)
    assert best is not None
    return {
        "joke": best.text,
        "is_complete": not best.missing,
        "missing": list(best.missing),
        **known,
        "left_out": left_out,
    }


def one_prompt(headline: str, config: HumorConfig) -> Pipeline:
    """Return the baseline: one worker, one prompt; its result is {"joke": ...}."""
    schema = TextSchema(max_chars=config.max_chars)
    examples = fitting(ONE_JOKE, schema, num=config.num_examples)
    (found,) = yield SubTask(
        name="one-prompt",
        role="one_prompt",
        instructions=config.one_joke,
        inputs={"headline": checked_text(headline, what="headline")},
        schema=replace(schema, unlike=answers_of(examples)),
        examples=examples,
    )
    return {"joke": found.value}


def _evaluated(
    headline: str, known: Mapping[str, list[str]], joke: _Joke, best: _Joke | None, config: HumorConfig
) -> Pipeline:
    """Judge a joke, and while it lacks something write it anew; returns the best so far and the last."""
    for round_number in range(config.max_rounds):
        joke = yield from _judged(headline, joke, config)
        best = joke if joke.is_better(best) else best
        if not joke.missing or round_number == config.max_rounds - 1:
            break
        try:
            joke = yield from _written(headline, known, joke, config)
        except SubTaskFailedError:
            break
    return best, joke


def _written(headline: str, known: Mapping[str, list[str]], last: _Joke | None, config: HumorConfig) -> Pipeline:
    schema = TextSchema(max_chars=config.max_chars, differs_from=None if last is None else last.text)
    examples = fitting(HUMOR["write"], schema, num=config.num_examples)
    (found,) = yield SubTask(
        name="write",
        role="write",
        instructions=config.write,
        inputs=_shown(headline, known, last, config),
        schema=replace(schema, unlike=answers_of(examples)),
        examples=examples,
    )
    return _Joke(text=found.value, by=(*(() if last is None else last.by), *contributors([found])))


def _judged(headline: str, joke: _Joke, config: HumorConfig) -> Pipeline:
    """Return the joke with what it lacks: each requirement needs more than half of its votes."""
    questions = {
        "violation": config.has_violation,
        "belief": config.has_belief,
        "connections": config.has_connections,
    }
    votes = yield Together(
        [_votes(headline, joke, requirement, question, config) for requirement, question in questions.items()]
    )
    counts = {requirement: (own.count(YES), len(own)) for requirement, own in zip(questions, votes, strict=True)}
    return replace(
        joke,
        missing=tuple(requirement for requirement, (num_yes, num_votes) in counts.items() if 2 * num_yes <= num_votes),
        num_yes=sum(num_yes for num_yes, _ in counts.values()),
    )


def _votes(headline: str, joke: _Joke, requirement: str, question: str, config: HumorConfig) -> Pipeline:
    needs = {"connections needed": f"at least {config.min_connections}"} if requirement == "connections" else {}
    found = yield SubTask(
        name=f"has-{requirement}",
        role="evaluate",
        instructions=question,
        inputs={"headline": headline, "joke": joke.text} | needs,
        schema=YES_NO,
        redundancy=config.num_evaluators,
        barred=tuple(sorted(set(joke.by))),
    )
    return values(found)


def _finding(
    step: str, headline: str, known: Mapping[str, list[str]], joke: _Joke | None, config: HumorConfig
) -> SubTask:
    """Return the sub-task of a step that finds something to make a joke of."""
    schema = _schema(step, config)
    return SubTask(
        name=step,
        role=step,
        instructions=getattr(config, step),
        inputs=_shown(headline, known, joke, config),
        schema=schema,
        examples=fitting(HUMOR[step], schema, num=config.num_examples),
    )


def _schema(step: str, config: HumorConfig) -> Schema:
    match step:
        case "aspects":
            return _typed_items(config.aspect_kinds, "aspect", config)
        case "associations":
            return _typed_items(config.association_kinds, "association", config)
        case "reactions":
            return ItemsSchema(
                max_items=config.max_items,
                max_item_chars=config.max_item_chars,
                must_match=r"(?is)\W*\w.*\bbecause\b.*\w.*",
                form='a reaction, the word "because", and the reason',
            )
        case "belief":
            return FieldsSchema(
                names=("kind", "belief"), options={"kind": config.belief_kinds}, max_chars=config.max_item_chars
            )
        case _:
            return FieldsSchema(
                names=("kind", "violation"), options={"kind": config.violation_kinds}, max_chars=config.max_item_chars
            )


def _typed_items(kinds: Sequence[str], what: str, config: HumorConfig) -> ItemsSchema:
    return ItemsSchema(
        max_items=config.max_items,
        max_item_chars=config.max_item_chars,
        must_match=rf"(?is)(?:{'|'.join(re.escape(kind) for kind in kinds)})\s*:.*\w.*",
        form=f"a kind ({', '.join(kinds)}), a colon and the {what}, as in {kinds[0]}: ...",
    )


def _learn(items: list[str], step: str, value: list[str] | dict[str, str]) -> None:
    """Add to the items of a step what is new."""
    new = [f"{value['kind']}: {value[step]}"] if isinstance(value, dict) else value
    for item in new:
        if " ".join(item.casefold().split()) not in {" ".join(one.casefold().split()) for one in items}:
            items.append(item)


def _shown(headline: str, known: Mapping[str, list[str]], joke: _Joke | None, config: HumorConfig) -> dict[str, Input]:
    """Return all that is known."""
    shown: dict[str, Input] = {"headline": headline} | {step: list(items) for step, items in known.items() if items}
    if joke is not None:
        shown["joke so far"] = joke.text
        lacks = {
            "violation": "something that breaks what readers expect",
            "belief": "a belief that it leads readers to",
            "connections": f"at least {config.min_connections} connections to the headline",
        }
        if joke.missing:
            shown["it lacks"] = [lacks[requirement] for requirement in joke.missing]
    return shown
