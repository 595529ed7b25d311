"""The algorithms by name: what they take, which roles they ask, the baseline that runs beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.algorithms import (
    arithmetic,
    find_fix_verify,
    humor,
    iterative,
    justify_reconsider,
    map_reduce,
    price_divide_solve,
    sorting,
    transcription,
)
from hierrouter_jax.crowd.subtasks import Pipeline

ONE_PROMPT_ROLE = "one_prompt"


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A published algorithm. `make(text, config)` is its pipeline, `one_prompt(text, config)` the baseline."""

    name: str
    summary: str
    source: str  # the paper
    takes: str  # what the input text is
    config: type
    roles: tuple[str, ...]
    roles_by_option: tuple[tuple[str, str], ...] = ()  # (option that is true or false, role asked where it is true)
    make: Callable[[str, Any], Pipeline]
    one_prompt: Callable[[str, Any], Pipeline]

    def roles_of(self, config: Any) -> tuple[str, ...]:
        """Return the roles that are asked under a config."""
        return (*self.roles, *(role for option, role in self.roles_by_option if getattr(config, option)))


ALGORITHMS: dict[str, Algorithm] = {
    one.name: one
    for one in (
        Algorithm(
            name="iterative",
            summary="write, vote, write better; in parallel; brainstorm",
            source="Little et al. 2010",
            takes="a goal in words",
            config=iterative.IterativeConfig,
            roles=iterative.ROLES,
            make=iterative.iterative,
            one_prompt=iterative.one_prompt,
        ),
        Algorithm(
            name="find_fix_verify",
            summary="proofread or shorten a text: some find, others mend, others check",
            source="Bernstein et al. 2010",
            takes="a text of one or more paragraphs",
            config=find_fix_verify.FindFixVerifyConfig,
            roles=find_fix_verify.ROLES,
            make=find_fix_verify.find_fix_verify,
            one_prompt=find_fix_verify.one_prompt,
        ),
        Algorithm(
            name="map_reduce",
            summary="write an article: outline, facts by heading, a paragraph of them",
            source="Kittur et al. 2011",
            takes="a topic in words",
            config=map_reduce.MapReduceConfig,
            roles=map_reduce.ROLES,
            make=map_reduce.map_reduce,
            one_prompt=map_reduce.one_prompt,
        ),
        Algorithm(
            name="price_divide_solve",
            summary="divide a task until each step is small, solve the steps, merge",
            source="Kulkarni et al. 2011",
            takes="a task in words",
            config=price_divide_solve.PriceDivideSolveConfig,
            roles=price_divide_solve.ROLES,
            roles_by_option=(("edits_plan", price_divide_solve.EDITOR_ROLE),),
            make=price_divide_solve.price_divide_solve,
            one_prompt=price_divide_solve.one_prompt,
        ),
        Algorithm(
            name="humor",
            summary="a joke about a headline, step by step, judged and written again",
            source="Chilton et al. 2016",
            takes="a headline",
            config=humor.HumorConfig,
            roles=humor.ROLES,
            make=humor.humor,
            one_prompt=humor.one_prompt,
        ),
        Algorithm(
            name="arithmetic",
            summary="a sum as additions of two numbers",
            source="Cheng et al. 2015",
            takes="whole numbers",
            config=arithmetic.ArithmeticConfig,
            roles=arithmetic.ROLES,
            make=arithmetic.arithmetic,
            one_prompt=arithmetic.one_prompt,
        ),
        Algorithm(
            name="sorting",
            summary="a sorted list by pairwise votes",
            source="Cheng et al. 2015",
            takes="items, one a line",
            config=sorting.SortingConfig,
            roles=sorting.ROLES,
            make=sorting.sorting,
            one_prompt=sorting.one_prompt,
        ),
        Algorithm(
            name="transcription",
            summary="a garbled text restored in short pieces",
            source="Cheng et al. 2015",
            takes="a text",
            config=transcription.TranscriptionConfig,
            roles=transcription.ROLES,
            make=transcription.transcription,
            one_prompt=transcription.one_prompt,
        ),
        Algorithm(
            name="justify_reconsider",
            summary="answer a question, argue, think again",
            source="Drapeau et al. 2016",
            takes="a question",
            config=justify_reconsider.JustifyReconsiderConfig,
            roles=justify_reconsider.ROLES,
            make=justify_reconsider.justify_reconsider,
            one_prompt=justify_reconsider.one_prompt,
        ),
    )
}


def algorithm(name: str) -> Algorithm:
    """Return the algorithm of that name; `ConfigError` when there is none."""
    if name not in ALGORITHMS:
        raise ConfigError(f"An algorithm is one of {', '.join(ALGORITHMS)}, but {name!r} was asked for.")
    return ALGORITHMS[name]
