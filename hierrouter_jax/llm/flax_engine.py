"""Text from a pool of Flax models: requests in words become token ids, batches, and responses in words again.

Requests are grouped by model, so that each model is loaded once a call. How requests are batched, and what was kept
of earlier prompts, changes no answer (up to rounding: two tokens whose logits differ by less than 1e-5 may swap).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.core.text import EncodedRequest, GenerationRequest, ModelCard, Response
from hierrouter_jax.llm.batching import BatchLimits, device_limits
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.engine import AnsweredBatch
from hierrouter_jax.llm.generation import GeneratedTokens, stream_tokens
from hierrouter_jax.llm.in_flight import IsComplete, TokenCounts
from hierrouter_jax.llm.likelihood import option_logprobs
from hierrouter_jax.llm.pool import Pool
from hierrouter_jax.llm.prefix_cache import PrefixCache
from hierrouter_jax.llm.programs import bound_programs
from hierrouter_jax.llm.tokenizer import Tokenizer

# A token may hold no whole character, so a stop string is looked for in this many more tokens than it has characters.
_SPARE_TOKENS = 8


class FlaxEngine:
    """Implements `TextEngine` and `StreamingEngine` on a pool."""

    def __init__(self, pool: Pool, *, limits: BatchLimits | None = None) -> None:
        """Answer from `pool`; `limits` bound the batches."""
        self._pool = pool
        self._limits = device_limits() if limits is None else limits
        self._prefixes: dict[str, tuple[DecoderModel, PrefixCache]] = {}
        self._counts = TokenCounts()

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models of the pool, in the order of the router's actions."""
        return self._pool.cards

    @property
    def token_counts(self) -> TokenCounts:
        """Tokens billed and computed by this engine since it was made; those of ranked options are not among them."""
        return replace(self._counts)

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
        """Answer the requests, model after model, and yield those that end together; the others stay in flight."""
        encoded = [self.encode(request) for request in requests]
        for card in self.cards:
            own = [index for index, request in enumerate(requests) if request.model == card.name]
            ranked = [index for index in own if encoded[index].options]
            written = [index for index in own if not encoded[index].options]
            if written:
                yield from self._write(card.name, written, [encoded[index] for index in written])
            ranked.sort(key=lambda index: -len(encoded[index].token_ids))
            for start in range(0, len(ranked), self._limits.max_batch):
                bound_programs(self._limits.max_programs)
                batch = ranked[start : start + self._limits.max_batch]
                yield list(zip(batch, self._rank(card.name, [encoded[index] for index in batch]), strict=True))

    def _write(self, model: str, indices: Sequence[int], asked: Sequence[EncodedRequest]) -> Iterator[AnsweredBatch]:
        """Generate text for the requests of those indices."""
        tokenizer, decoder = self._pool.tokenizer(model), self._pool.decoder(model)
        batches = stream_tokens(
            decoder,
            [one.token_ids for one in asked],
            max_new_tokens=[one.max_new_tokens for one in asked],
            samplings=[one.sampling for one in asked],
            stop_token_ids=tokenizer.stop_token_ids,
            is_complete=_stop_string_test(tokenizer, asked),
            limits=self._limits,
            prefixes=self._prefixes_of(model, decoder),
            counts=self._counts,
        )
        for batch in batches:
            bound_programs(self._limits.max_programs)
            yield [(indices[row], _written_response(tokenizer, asked[row], produced)) for row, produced in batch]

    def _prefixes_of(self, model: str, decoder: DecoderModel) -> PrefixCache:
        """Return the prompts kept of a model; those of a decoder that is no longer held go with it."""
        kept = self._prefixes.get(model)
        if kept is None or kept[0] is not decoder:
            resident = self._pool.resident
            self._prefixes = {name: pair for name, pair in self._prefixes.items() if name in resident and name != model}
            self._prefixes[model] = kept = (decoder, PrefixCache(self._limits.max_prefix_bytes))
        return kept[1]

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
