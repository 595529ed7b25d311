"""Text from a pool of Flax models: requests in words become token ids, batches, and responses in words again.

Requests are grouped by model, so that each model is loaded once a call, and batched by length. How requests are
batched changes no answer (up to rounding: two tokens whose logits differ by less than 1e-5 may swap).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.core.text import EncodedRequest, GenerationRequest, ModelCard, Response
from hierrouter_jax.llm.batching import BatchLimits
from hierrouter_jax.llm.engine import AnsweredBatch
from hierrouter_jax.llm.generation import GeneratedTokens, IsComplete, generate_tokens
from hierrouter_jax.llm.likelihood import option_logprobs
from hierrouter_jax.llm.pool import Pool
from hierrouter_jax.llm.programs import bound_programs
from hierrouter_jax.llm.tokenizer import Tokenizer

# A token may hold no whole character, so a stop string is looked for in this many more tokens than it has characters.
_SPARE_TOKENS = 8


class FlaxEngine:
    """Implements `TextEngine` and `StreamingEngine` on a pool."""

    def __init__(self, pool: Pool, *, limits: BatchLimits | None = None) -> None:
        """Answer from `pool`; `limits` bound the batches."""
        self._pool = pool
        self._limits = BatchLimits() if limits is None else limits

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models of the pool, in the order of the router's actions."""
        return self._pool.cards

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        """Return what determines the response.

        Raises `PromptTooLongError` when prompt and answer exceed the model's window, `ConfigError` for a model that
        is not in the pool, or messages to a model without a chat template.
        """
        card, tokenizer = self._pool.card(request.model), self._pool.tokenizer(request.model)
        if isinstance(request.prompt, str):
            token_ids = tokenizer.encode(request.prompt, add_special_tokens=True)
        else:
            token_ids = tokenizer.apply_chat(request.prompt)
        num_new = _longest_answer(request, tokenizer)
        if len(token_ids) + num_new > card.context_window:
            raise PromptTooLongError(
                f"Prompt and answer must fit the context window of {card.name}, {card.context_window} tokens, but need "
                f"{len(token_ids)} + {num_new}; shorten the prompt or the answer budget."
            )
        return EncodedRequest(
            weights_digest=card.weights_digest,
            token_ids=tuple(token_ids),
            max_new_tokens=request.max_new_tokens,
            stop=request.stop,
            options=request.options,
            sampling=request.sampling,
        )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Response]:
        """Answer the requests, in their order."""
        responses = dict(pair for batch in self.generate_iter(requests) for pair in batch)
        return [responses[index] for index in range(len(requests))]

    def generate_iter(self, requests: Sequence[GenerationRequest]) -> Iterator[AnsweredBatch]:
        """Answer the requests, model after model, and yield each batch whole: all its rows are ready at once."""
        encoded = [self.encode(request) for request in requests]
        for card in self.cards:
            own = [index for index, request in enumerate(requests) if request.model == card.name]
            own.sort(key=lambda index: (bool(encoded[index].options), -len(encoded[index].token_ids)))
            ranked = [index for index in own if encoded[index].options]
            written = [index for index in own if not encoded[index].options]
            for answer, indices in ((self._write, written), (self._rank, ranked)):
                for start in range(0, len(indices), self._limits.max_batch):
                    bound_programs(self._limits.max_programs)
                    batch = indices[start : start + self._limits.max_batch]
                    yield list(zip(batch, answer(card.name, [encoded[index] for index in batch]), strict=True))

    def _write(self, model: str, batch: Sequence[EncodedRequest]) -> list[Response]:
        """Generate text."""
        tokenizer = self._pool.tokenizer(model)
        rows = generate_tokens(
            self._pool.decoder(model),
            [one.token_ids for one in batch],
            max_new_tokens=[one.max_new_tokens for one in batch],
            samplings=[one.sampling for one in batch],
            stop_token_ids=tokenizer.stop_token_ids,
            is_complete=_stop_string_test(tokenizer, batch),
            limits=self._limits,
        )
        return [_written_response(tokenizer, one, row) for one, row in zip(batch, rows, strict=True)]

    def _rank(self, model: str, batch: Sequence[EncodedRequest]) -> list[Response]:
        """Rank options by their likelihood."""
        tokenizer = self._pool.tokenizer(model)
        options = [[_option_ids(tokenizer, option) for option in one.options] for one in batch]
        scores = option_logprobs(
            self._pool.decoder(model), [one.token_ids for one in batch], options, limits=self._limits
        )
        return [_ranked_response(one, row) for one, row in zip(batch, scores, strict=True)]


def _longest_answer(request: GenerationRequest, tokenizer: Tokenizer) -> int:
    if not request.options:
        return request.max_new_tokens
    return max(len(_option_ids(tokenizer, option)) for option in request.options)


def _option_ids(tokenizer: Tokenizer, option: str) -> list[int]:
    token_ids = tokenizer.encode(option, add_special_tokens=False)
    if not token_ids or not option.strip():
        raise ConfigError(f"An option must have a visible text, but is {option!r}.")
    return token_ids


def _stop_string_test(tokenizer: Tokenizer, batch: Sequence[EncodedRequest]) -> IsComplete | None:
    """Return a test whether a row's newest tokens hold one of its stop strings; None where no row has any."""
    if not any(one.stop for one in batch):
        return None
    windows = [max(map(len, one.stop), default=0) + _SPARE_TOKENS for one in batch]

    def is_complete(row: int, new_ids: Sequence[int]) -> bool:
        stops = batch[row].stop
        if not stops:
            return False
        newest = tokenizer.decode(new_ids[-windows[row] :])
        return any(stop in newest for stop in stops)

    return is_complete


def _written_response(tokenizer: Tokenizer, request: EncodedRequest, row: GeneratedTokens) -> Response:
    text = tokenizer.decode(row.token_ids)
    ends = [end for end in (text.find(stop) for stop in request.stop) if end >= 0]
    return Response(
        text=text[: min(ends)] if ends else text,
        num_prompt_tokens=len(request.token_ids),
        num_new_tokens=len(row.token_ids),
        finish_reason="stop" if ends else row.finish_reason,
        logprob=math.fsum(row.logprobs),
    )


def _ranked_response(request: EncodedRequest, scores: Sequence[float]) -> Response:
    """Choose the option that is likeliest per byte, the first of equals."""
    rates = [score / len(option.strip().encode()) for score, option in zip(scores, request.options, strict=True)]
    best = max(range(len(scores)), key=lambda option: rates[option])
    highest = max(scores)
    log_total = highest + math.log(math.fsum(math.exp(score - highest) for score in scores))
    return Response(
        text=request.options[best],
        num_prompt_tokens=len(request.token_ids),
        num_new_tokens=1,
        finish_reason="option",
        logprob=scores[best],
        option_logprobs=tuple(score - log_total for score in scores),
    )
