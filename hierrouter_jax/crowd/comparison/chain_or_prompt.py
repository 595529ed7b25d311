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
from hierrouter_jax.crowd.comparison.intervals import Estimate, mean_estimate
from hierrouter_jax.crowd.comparison.matrix import RunPipeline
from hierrouter_jax.crowd.registry import Algorithm
from hierrouter_jax.crowd.runner import Crew, RunOutcome
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

    The crew's role `judge` votes; with `num_judges` 0 results are graded alone. Raises `ConfigError` for a negative
    number of judges.
    """
    if num_judges < 0:
        raise ConfigError(f"The number of judges must be >= 0, but is {num_judges}.")
    chains = [
        run(found.make(one.text, config), crew, f"compare/{found.name}/chain/{i}") for i, one in enumerate(inputs)
    ]
    prompts = [
        run(found.one_prompt(one.text, config), crew, f"compare/{found.name}/prompt/{i}")
        for i, one in enumerate(inputs)
    ]
    preferred: list[float] = []
    for index, (one, chain, prompt) in enumerate(zip(inputs, chains, prompts, strict=True)):
        if num_judges:
            own = _share_of_votes(found, one, chain, prompt, crew, run, num_judges, question, seed, index)
            preferred.append(own)
    graded = [
        (_graded(found, chain, one), _graded(found, prompt, one))
        for one, chain, prompt in zip(inputs, chains, prompts, strict=True)
    ]
    pairs = [(first, second) for first, second in graded if first is not None and second is not None]
    return ChainComparison(
        algorithm=found.name,
        preferred=mean_estimate(preferred) if preferred else None,
        chain_gold=mean_estimate([first for first, _ in pairs]) if pairs else None,
        prompt_gold=mean_estimate([second for _, second in pairs]) if pairs else None,
        gold_difference=mean_estimate([first - second for first, second in pairs]) if pairs else None,
        chain_cost=_mean([one.spent.cost for one in chains]),
        prompt_cost=_mean([one.spent.cost for one in prompts]),
        chain_calls=_mean([float(one.spent.num_calls) for one in chains]),
        prompt_calls=_mean([float(one.spent.num_calls) for one in prompts]),
        chain_failures=sum(one.status != "done" for one in chains),
        prompt_failures=sum(one.status != "done" for one in prompts),
        num_inputs=len(inputs),
    )


def _share_of_votes(
    found: Algorithm,
    one: GradedInput,
    chain: RunOutcome,
    prompt: RunOutcome,
    crew: Crew,
    run: RunPipeline,
    num_judges: int,
    question: str,
    seed: int,
    index: int,
) -> float:
    """Return the share of votes for the chain on one input."""
    if chain.status != "done" or prompt.status != "done":
        return 0.5 if chain.status == prompt.status else float(chain.status == "done")
    texts = [result_text(chain.result), result_text(prompt.result)]
    if texts[0] == texts[1]:
        return 0.5
    votes = vote(
        [Candidate(text=text) for text in texts],
        name="judge",
        role=JUDGE_ROLE,
        instructions=question,
        inputs={"input": one.text},
        num_votes=num_judges,
        seed=seed + index,
    )
    outcome = run(votes, crew, f"compare/{found.name}/judge/{index}")
    if outcome.status != "done":
        return 0.5
    counts = outcome.result.counts
    return counts[0] / max(sum(counts), 1)


def _graded(found: Algorithm, outcome: RunOutcome, one: GradedInput) -> float | None:
    """Return how right a result is; a run that failed is wrong."""
    if not can_grade(found.name, one):
        return None
    if outcome.status != "done":
        return 0.0
    return result_score(found.name, outcome.result, one)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
