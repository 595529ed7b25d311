"""A chain against one prompt: both on the same inputs, judged blind, side by side, in a random order.

Judges see two results as A and B and say which is better; who made them they are not told. Where an input has gold,
both are graded as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.comparison.graded_inputs import GradedInput
from hierrouter_jax.crowd.comparison.grading import can_grade, result_score, result_text
from hierrouter_jax.crowd.comparison.intervals import Estimate, difference_estimate, mean_estimate
from hierrouter_jax.crowd.comparison.matrix import RunPipeline, require_done
from hierrouter_jax.crowd.registry import Algorithm
from hierrouter_jax.crowd.runner import Crew, RunOutcome
from hierrouter_jax.crowd.subtasks import Pipeline, SubTaskFailedError, side_by_side
from hierrouter_jax.crowd.votes import Candidate, vote

JUDGE_ROLE = "judge"
QUESTION = "Two results for the same input. Which one is better?"


@dataclass(frozen=True, kw_only=True)
class ChainComparison:
    """`preferred` is the share of votes for the chain, a mean an input; equal results are no one's (0.5).

    A side that failed loses the input. `gold` are graded results, of the inputs that can be graded. Costs and calls
    are means an input.
    """

    algorithm: str
    preferred: Estimate | None
    chain_gold: Estimate | None
    prompt_gold: Estimate | None
    gold_difference: Estimate | None
    chain_cost: float
    prompt_cost: float
    chain_calls: float
    prompt_calls: float
    chain_failures: int
    prompt_failures: int
    num_inputs: int


def compare_chain(
    found: Algorithm,
    config: Any,
    inputs: Sequence[GradedInput],
    *,
    crew: Crew,
    run: RunPipeline,
    num_judges: int = 5,
    question: str = QUESTION,
    seed: int = 0,
) -> ChainComparison:
    """Run an algorithm and its one-prompt baseline on every input, and compare them.

    The inputs run side by side, so that models are asked in batches. The crew's role `judge` votes; with `num_judges` 0
    results are graded alone. Raises `ConfigError` for a negative number of judges, `DataError` where a budget ends a
    side.
    """
    if num_judges < 0:
        raise ConfigError(f"The number of judges must be >= 0, but is {num_judges}.")
    outcomes: dict[str, RunOutcome] = {}
    for label, make in (("chain", found.make), ("prompt", found.one_prompt)):
        pipelines = [make(one.text, config) for one in inputs]
        outcomes[label] = run(side_by_side(pipelines), crew, f"compare/{found.name}/{label}")
        require_done(outcomes[label], f"the {label} side")
    chains, prompts = outcomes["chain"].result, outcomes["prompt"].result
    preferred = _preferred(found, inputs, chains, prompts, crew, run, num_judges, question, seed) if num_judges else []
    graded = [
        (graded_result(found.name, chain, one), graded_result(found.name, prompt, one))
        for one, chain, prompt in zip(inputs, chains, prompts, strict=True)
    ]
    pairs = [(first, second) for first, second in graded if first is not None and second is not None]
    spent = {label: outcome.spent for label, outcome in outcomes.items()}
    return ChainComparison(
        algorithm=found.name,
        preferred=mean_estimate(preferred) if preferred else None,
        chain_gold=mean_estimate([first for first, _ in pairs]) if pairs else None,
        prompt_gold=mean_estimate([second for _, second in pairs]) if pairs else None,
        gold_difference=difference_estimate([first for first, _ in pairs], [second for _, second in pairs])
        if pairs
        else None,
        chain_cost=spent["chain"].cost / len(inputs),
        prompt_cost=spent["prompt"].cost / len(inputs),
        chain_calls=spent["chain"].num_calls / len(inputs),
        prompt_calls=spent["prompt"].num_calls / len(inputs),
        chain_failures=sum(map(_has_failed, chains)),
        prompt_failures=sum(map(_has_failed, prompts)),
        num_inputs=len(inputs),
    )


def _preferred(
    found: Algorithm,
    inputs: Sequence[GradedInput],
    chains: Sequence[Any],
    prompts: Sequence[Any],
    crew: Crew,
    run: RunPipeline,
    num_judges: int,
    question: str,
    seed: int,
) -> list[float]:
    """Return the share of votes for the chain on each input; judges see those alone that differ."""
    shares: dict[int, float] = {}
    votes: dict[int, Pipeline] = {}
    for index, (one, chain, prompt) in enumerate(zip(inputs, chains, prompts, strict=True)):
        if _has_failed(chain) or _has_failed(prompt):
            shares[index] = 0.5 * (1 + _has_failed(prompt) - _has_failed(chain))
        elif (texts := [result_text(chain), result_text(prompt)])[0] == texts[1]:
            shares[index] = 0.5
        else:
            votes[index] = vote(
                [Candidate(text=text) for text in texts],
                name="judge",
                role=JUDGE_ROLE,
                instructions=question,
                inputs={"input": one.text},
                num_votes=num_judges,
                seed=seed + index,
            )
    outcome = run(side_by_side(list(votes.values())), crew, f"compare/{found.name}/judge")
    require_done(outcome, "the judging")
    for index, result in zip(votes, outcome.result, strict=True):
        shares[index] = 0.5 if _has_failed(result) else result.counts[0] / max(sum(result.counts), 1)
    return [shares[index] for index in range(len(inputs))]


def _has_failed(result: Any) -> bool:
    return isinstance(result, SubTaskFailedError)


def graded_result(algorithm: str, result: Any, one: GradedInput) -> float | None:
    """Return how right a result is, None where nothing says it; the failure that stands for a result is wrong."""
    if _has_failed(result):
        return 0.0 if can_grade(algorithm, one) else None
    return result_score(algorithm, result, one)
