"""Are collected responses those of one-by-one greedy decoding? The check of everything that makes collection fast.

Each request is answered again alone: batch of one, nothing shared with other requests, stop strings looked for in the
whole text after every token. Where the response differs, the gap between the two likeliest tokens' log-probabilities
is measured at the first token that differs: sums in another order may swap two tokens that tie, and a gap below
`NEAR_TIE` is called a near-tie. (Where a response was cut at a stop string, the first difference is looked for in the
text before it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hierrouter_jax.bench.tree_requests import TreeRun
from hierrouter_jax.collect.asking import AskedRequest
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.core.text import GREEDY, Response
from hierrouter_jax.llm.batching import BatchLimits
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.generation import generate_tokens, option_logprobs
from hierrouter_jax.llm.pool import Pool
from hierrouter_jax.llm.stop_strings import until_stop
from hierrouter_jax.llm.tokenizer import Tokenizer

NEAR_TIE = 1e-3  # of natural log-probabilities
ALONE = BatchLimits(max_batch=1, max_lookup_batch=0, max_prefix_bytes=0)  # nothing shared, nothing guessed


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One response that is not that of one-by-one decoding; `gap` is of the two likeliest tokens (or options)."""

    key: str
    model: str
    token_index: int
    gap: float

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding can explain it."""
        return self.gap < NEAR_TIE


@dataclass(frozen=True, kw_only=True)
class Identity:
    """How many of the checked responses are the same, and every one that is not."""

    num_checked: int
    differences: tuple[Difference, ...]

    @property
    def num_identical(self) -> int:
        """Responses that are the same in text and number of tokens."""
        return self.num_checked - len(self.differences)

    @property
    def num_near_ties(self) -> int:
        """Responses that differ first where two tokens tie."""
        return sum(one.is_near_tie for one in self.differences)

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return {
            "num_checked": self.num_checked,
            "num_identical": self.num_identical,
            "num_near_ties": self.num_near_ties,
            "near_tie_below": NEAR_TIE,
            "differences": [asdict(one) | {"is_near_tie": one.is_near_tie} for one in self.differences],
        }

    def note(self) -> str:
        """Return the outcome in a sentence."""
        rest = len(self.differences) - self.num_near_ties
        return (
            f"{self.num_identical} of {self.num_checked} checked responses are those of one-by-one greedy decoding; "
            f"{self.num_near_ties} differ first at a near-tie (two likeliest tokens within {NEAR_TIE:g} of "
            f"log-probability), {rest} otherwise"
        )


def check_identity(pool: Pool, run: TreeRun, *, num_requests: int) -> Identity:
    """Answer `num_requests` of the requests, evenly spread over all, one by one, and compare."""
    requests = run.requests
    chosen = sorted({int(index) for index in np.linspace(0, len(requests) - 1, min(num_requests, len(requests)))})
    differences: list[Difference] = []
    order = sorted((requests[index] for index in chosen), key=lambda one: pool.names.index(one.request.model))
    with progress_bar("one by one", len(order)) as advance:
        for one in order:
            decoder, tokenizer = pool.decoder(one.request.model), pool.tokenizer(one.request.model)
            compare = _compare_ranked if one.encoded.options else _compare_written
            difference = compare(decoder, tokenizer, one, run.responses[one.key])
            differences += [] if difference is None else [difference]
            advance(1, f"{len(differences)} differ")
    return Identity(num_checked=len(order), differences=tuple(differences))


def _compare_written(
    decoder: DecoderModel, tokenizer: Tokenizer, asked: AskedRequest, response: Response
) -> Difference | None:
    request = asked.encoded

    def is_complete(row: int, ids: Sequence[int]) -> bool:
        text = tokenizer.decode(ids)
        return any(stop in text for stop in request.stop)

    (alone,) = generate_tokens(
        decoder,
        [request.token_ids],
        max_new_tokens=[request.max_new_tokens],
        samplings=[GREEDY],
        stop_token_ids=tokenizer.stop_token_ids,
        is_complete=is_complete if request.stop else None,
        limits=ALONE,
    )
    text = until_stop(tokenizer.decode(alone.token_ids), request.stop)
    if text == response.text and len(alone.token_ids) == response.num_new_tokens:
        return None
    index = first_difference(tokenizer, alone.token_ids, response)
    gap = top_gap(decoder, [*request.token_ids, *alone.token_ids[:index]])
    return Difference(key=asked.key, model=asked.request.model, token_index=index, gap=gap)


def _compare_ranked(
    decoder: DecoderModel, tokenizer: Tokenizer, asked: AskedRequest, response: Response
) -> Difference | None:
    request = asked.encoded
    ids = [tokenizer.encode(option, add_special_tokens=False) for option in request.options]
    (scores,) = option_logprobs(decoder, [request.token_ids], [ids], limits=ALONE)
    rates = [score / len(option.strip().encode()) for score, option in zip(scores, request.options, strict=True)]
    if request.options[rates.index(max(rates))] == response.text:
        return None
    gap = max(rates) - rates[request.options.index(response.text)]
    return Difference(key=asked.key, model=asked.request.model, token_index=0, gap=gap)


def first_difference(tokenizer: Tokenizer, token_ids: Sequence[int], response: Response) -> int:
    """Return the index of the first token whose text is not that of the response, at most the last of either."""
    for index in range(len(token_ids)):
        # A token may end within a character, which is then shown as a replacement mark.
        written = tokenizer.decode(token_ids[: index + 1]).rstrip("\ufffd")
        if not response.text.startswith(written):
            return index
    return min(len(token_ids), response.num_new_tokens) - 1


def top_gap(decoder: DecoderModel, token_ids: Sequence[int]) -> float:
    """Return how much likelier the likeliest next token is than the second, in natural log-probability."""
    padded = np.zeros((1, 1 << (len(token_ids) - 1).bit_length()), np.int32)  # few lengths, so few programs
    padded[0, : len(token_ids)] = token_ids
    second, first = np.sort(np.asarray(_last_logits(decoder, padded, len(token_ids))))[-2:]
    return float(first - second)


@jax.jit
def _last_logits(decoder: DecoderModel, tokens: jax.Array, length: jax.Array) -> jax.Array:
    module = decoder.module()
    hidden, _ = module.hidden_states(tokens)
    return module.logits(jnp.take(hidden[0], length - 1, axis=0))
