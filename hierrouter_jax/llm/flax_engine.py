"""Text from a pool of Flax models: requests in words become token ids, batches, and responses in words again.

Requests are grouped by model, so that each model is loaded once a call. How requests are batched, and what was kept
of earlier prompts, changes no answer (up to rounding: two tokens whose logits differ by less than 1e-5 may swap).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import jax

from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.core.text import EncodedRequest, GenerationRequest, ModelCard, Response
from hierrouter_jax.llm.batching import BatchLimits, device_limits
from hierrouter_jax.llm.decoder import DecoderModel
from hierrouter_jax.llm.engine import AnsweredBatch
from hierrouter_jax.llm.generation import GeneratedTokens, stream_tokens
from hierrouter_jax.llm.host_memory import give_back_freed_memory
from hierrouter_jax.llm.likelihood import option_logprobs
from hierrouter_jax.llm.placement import replicate_model
from hierrouter_jax.llm.pool import Pool
from hierrouter_jax.llm.prefix_cache import PrefixCache, admission_order
from hierrouter_jax.llm.programs import bound_programs
from hierrouter_jax.llm.reading_queue import FEW_PROMPTS
from hierrouter_jax.llm.side_by_side import side_by_side
from hierrouter_jax.llm.stop_strings import make_stop_test, until_stop
from hierrouter_jax.llm.token_counts import TokenCounts
from hierrouter_jax.llm.tokenizer import Tokenizer

_LONGEST_RUN = 16  # requests that are neighbours and go to one device


class FlaxEngine:
    """Implements `TextEngine` and `StreamingEngine` on a pool."""

    def __init__(self, pool: Pool, *, limits: BatchLimits | None = None) -> None:
        """Answer from `pool`; `limits` bound the batches."""
        self._pool = pool
        self._limits = device_limits() if limits is None else limits
        self._replicas: dict[str, tuple[DecoderModel, list[_Replica]]] = {}
        self._counts: list[tuple[TokenCounts, TokenCounts]] = []  # of written answers and of ranked options

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models of the pool, in the order of the router's actions."""
        return self._pool.cards

    @property
    def token_counts(self) -> TokenCounts:
        """Tokens billed and computed by this engine since it was made."""
        return self.written_counts + self.ranked_counts

    @property
    def written_counts(self) -> TokenCounts:
        """Those of written answers."""
        return sum((written for written, _ in self._counts), start=TokenCounts())

    @property
    def ranked_counts(self) -> TokenCounts:
        """Those of ranked options: computed are the prompts and what options add to them."""
        return sum((ranked for _, ranked in self._counts), start=TokenCounts())

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
        """Answer the requests, model after model, and yield those that end together; the others stay in flight.

        With several devices each works on, at most one batch ahead of what was taken.
        """
        encoded = [self.encode(request) for request in requests]
        for card in self.cards:
            own = [index for index, request in enumerate(requests) if request.model == card.name]
            for answer, is_ranked in ((self._write, False), (self._rank, True)):
                indices = [index for index in own if bool(encoded[index].options) == is_ranked]
                if indices:
                    yield from self._answer(card.name, answer, indices, encoded)
                if len(indices) > FEW_PROMPTS:
                    give_back_freed_memory()

    def _answer(
        self, model: str, answer: _Answer, indices: Sequence[int], encoded: Sequence[EncodedRequest]
    ) -> Iterator[AnsweredBatch]:
        """Answer the requests of those indices on every device that holds the model."""
        replicas = self._replicas_of(model)
        shares = _shares(indices, encoded, len(replicas))
        streams = [
            answer(model, replica, share, [encoded[index] for index in share])
            for replica, share in zip(replicas, shares, strict=False)
        ]
        devices = self._pool.devices
        context = None if len(streams) == 1 else lambda replica: jax.default_device(devices[replica])
        for batch in side_by_side(streams, context=context):
            bound_programs(self._limits.max_programs)
            yield batch

    def _write(
        self, model: str, replica: _Replica, indices: Sequence[int], asked: Sequence[EncodedRequest]
    ) -> Iterator[AnsweredBatch]:
        """Generate text for the requests of those indices."""
        tokenizer = self._pool.tokenizer(model)
        batches = stream_tokens(
            replica.decoder,
            [one.token_ids for one in asked],
            max_new_tokens=[one.max_new_tokens for one in asked],
            samplings=[one.sampling for one in asked],
            stop_token_ids=tokenizer.stop_token_ids,
            is_complete=make_stop_test(tokenizer.decode, [one.stop for one in asked]),
            limits=self._limits,
            prefixes=replica.prefixes,
            counts=replica.written,
        )
        for batch in batches:
            yield [(indices[row], _written_response(tokenizer, asked[row], produced)) for row, produced in batch]

    def _rank(
        self, model: str, replica: _Replica, indices: Sequence[int], asked: Sequence[EncodedRequest]
    ) -> Iterator[AnsweredBatch]:
        """Rank options by their likelihood."""
        tokenizer = self._pool.tokenizer(model)
        for start in range(0, len(indices), self._limits.max_batch):
            batch = asked[start : start + self._limits.max_batch]
            options = [[_option_ids(tokenizer, option) for option in one.options] for one in batch]
            prompts = [one.token_ids for one in batch]
            scores = option_logprobs(
                replica.decoder,
                prompts,
                options,
                limits=self._limits,
                prefixes=replica.prefixes,
                counts=replica.ranked,
            )
            responses = [_ranked_response(one, row) for one, row in zip(batch, scores, strict=True)]
            replica.ranked.billed_prompt += sum(one.num_prompt_tokens for one in responses)
            replica.ranked.billed_new += sum(one.num_new_tokens for one in responses)
            yield list(zip(indices[start : start + self._limits.max_batch], responses, strict=True))

    def _replicas_of(self, model: str) -> list[_Replica]:
        """Return the model on every device, with the prompts kept there; those of models no longer held are let go."""
        decoder = self._pool.decoder(model)
        held = self._replicas.get(model)
        if held is None or held[0] is not decoder:
            resident = self._pool.resident
            self._replicas = {name: pair for name, pair in self._replicas.items() if name in resident}
            copies = replicate_model(decoder, self._pool.devices)
            replicas = [_Replica(decoder=copy, prefixes=PrefixCache(self._limits.max_prefix_bytes)) for copy in copies]
            self._counts += [(replica.written, replica.ranked) for replica in replicas]
            self._replicas[model] = held = (decoder, replicas)
        return held[1]


@dataclass(kw_only=True)
class _Replica:
    """A model on one device."""

    decoder: DecoderModel
    prefixes: PrefixCache
    written: TokenCounts = field(default_factory=TokenCounts)
    ranked: TokenCounts = field(default_factory=TokenCounts)


_Answer = Callable[[str, _Replica, Sequence[int], Sequence[EncodedRequest]], Iterator[AnsweredBatch]]


def _shares(indices: Sequence[int], encoded: Sequence[EncodedRequest], num_shares: int) -> list[list[int]]:
    """Deal requests out, in runs of neighbours that share much, so that every device gets long and short ones."""
    asked = [encoded[index] for index in indices]
    order = admission_order(
        [one.token_ids for one in asked], [len(one.token_ids) + one.max_new_tokens for one in asked]
    )
    run = max(1, min(_LONGEST_RUN, -(-len(order) // num_shares)))
    runs = [order[start : start + run] for start in range(0, len(order), run)]
    dealt = [[indices[row] for own in runs[share::num_shares] for row in own] for share in range(num_shares)]
    return [share for share in dealt if share]


def _longest_answer(request: GenerationRequest, tokenizer: Tokenizer) -> int:
    if not request.options:
        return request.max_new_tokens
    return max(len(_option_ids(tokenizer, option)) for option in request.options)


def _option_ids(tokenizer: Tokenizer, option: str) -> list[int]:
    token_ids = tokenizer.encode(option, add_special_tokens=False)
    if not token_ids or not option.strip():
        raise ConfigError(f"An option must have a visible text, but is {option!r}.")
    return token_ids


def _written_response(tokenizer: Tokenizer, request: EncodedRequest, row: GeneratedTokens) -> Response:
    written = tokenizer.decode(row.token_ids)
    text = until_stop(written, request.stop)
    return Response(
        text=text,
        num_prompt_tokens=len(request.token_ids),
        num_new_tokens=len(row.token_ids),
        finish_reason="stop" if text != written else row.finish_reason,
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
