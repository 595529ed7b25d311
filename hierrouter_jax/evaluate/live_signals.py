"""The signals of a live response, as `collect` computes those of a tree's nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hierrouter_jax.collect.build_outcomes import response_confidence
from hierrouter_jax.collect.outcomes import EXAMPLE_CODES
from hierrouter_jax.core.text import GenerationRequest, Response
from hierrouter_jax.routing.signals import response_signals
from hierrouter_jax.tasks.scoring import read_answer
from hierrouter_jax.tasks.task_row import TaskRow


@dataclass(frozen=True, kw_only=True)
class MeasuredResponse:
    """What is kept of a response for the decisions after it."""

    answer: str | None  # its identity; None where no answer could be read
    signals: Float[np.ndarray, " signal"]


def measure_response(
    row: TaskRow,
    request: GenerationRequest,
    response: Response,
    *,
    model_index: int,
    num_models: int,
    earlier: Sequence[MeasuredResponse],
) -> MeasuredResponse:
    """Return the signals of one response; a program is run, in the sandbox, on the examples that the question shows."""
    reading = read_answer(row, response.text)
    answer = reading.identity
    equal = [answer is not None and answer == one.answer for one in earlier]
    signals = response_signals(
        mean_logprob=np.asarray(response_confidence(response, request.options), np.float32),
        is_parsed=np.asarray(reading.extracted is not None),
        is_truncated=np.asarray(response.finish_reason == "length"),
        num_new_tokens=np.asarray(response.num_new_tokens),
        agreement=np.asarray(sum(equal) / max(len(equal), 1)),
        passes_examples=np.asarray(EXAMPLE_CODES[reading.passes_examples]),
        model_index=np.asarray(model_index),
        num_models=num_models,
    )
    return MeasuredResponse(answer=answer, signals=signals)
