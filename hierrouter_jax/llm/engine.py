"""The protocol every source of text answers to: a pool of Flax models, a script in a test, later an endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from hierrouter_jax.core.text import EncodedRequest, GenerationRequest, ModelCard, Response


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
    """What an engine may offer besides `TextEngine`: responses as they are ready, so that each can be stored at once.

    Collection uses `generate_iter` where an engine has it; a kill then loses only what was still being generated.
    """

    def generate_iter(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Response]]:
        """Answer as `generate` does, yielding (index of the request, response), each once, in any order."""
        ...
