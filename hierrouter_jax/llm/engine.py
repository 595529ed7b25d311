"""The protocol every source of text answers to: a pool of Flax models, a script in a test, later an endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from hierrouter_jax.core.text import EncodedRequest, GenerationRequest, ModelCard, Response
from hierrouter_jax.llm.token_counts import TokenCounts

AnsweredBatch = list[tuple[int, Response]]  # (index of the request, its response)


@runtime_checkable
class TextEngine(Protocol):
    """Answers requests for the models of one pool."""

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models of the pool, in the order of the MDP's actions."""
        ...

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        """Return what determines the response: the store's key is its digest. Raises `PromptTooLongError`."""
        ...

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Response]:
        """Answer the requests, in their order; how they are batched changes no answer."""
        ...


@runtime_checkable
class StreamingEngine(Protocol):
    """What an engine may offer besides `TextEngine`: responses as they are ready, so that they can be stored at once.

    Collection uses `generate_iter` where an engine has it; a kill then loses the rows in flight and no other.
    """

    def generate_iter(self, requests: Sequence[GenerationRequest]) -> Iterator[AnsweredBatch]:
        """Answer as `generate` does, yielding what became ready together, each request once, in any order.

        Work goes on when more is asked for, so what was handed over can be stored before anything else is begun.
        """
        ...


@runtime_checkable
class CountingEngine(Protocol):
    """What an engine may offer besides `TextEngine`: what its answers took, beside what they are billed."""

    @property
    def token_counts(self) -> TokenCounts:
        """Tokens billed and computed since the engine was made."""
        ...
