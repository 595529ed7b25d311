"""Asking an engine through the store: what is stored is not asked, what is asked is stored at once.

The one place where requests meet an engine, for collection and for live routing. What holds when the process is
killed:

- What an engine hands over together is committed in one transaction, before it is asked to work on: what an engine
  that streams (`StreamingEngine`) finished together, a chunk of one that does not. All of it is stored, or none.
- A request whose response was committed is never asked again.
- Work in flight is lost and asked again: the rows that a streaming engine has in its batch, or one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.text import EncodedRequest, GenerationRequest, Response
from hierrouter_jax.llm.engine import StreamingEngine, TextEngine
from hierrouter_jax.store.request_keys import request_key
from hierrouter_jax.store.response_store import ResponseStore

DEFAULT_CHUNK_SIZE = 64
OnResponse = Callable[[str, Response], None]


@dataclass(frozen=True, kw_only=True)
class AskedRequest:
    """A request with what determines its response, and so its key in the store."""

    request: GenerationRequest
    encoded: EncodedRequest
    key: str


def encode_request(engine: TextEngine, request: GenerationRequest) -> AskedRequest:
    """Return the request with its key. Raises `PromptTooLongError` when it does not fit the model's window."""
    encoded = engine.encode(request)
    return AskedRequest(request=request, encoded=encoded, key=request_key(encoded))


def answer_requests(
    engine: TextEngine,
    store: ResponseStore,
    requests: Sequence[GenerationRequest],
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> list[Response]:
    """Answer requests in their order, through the store. Equal requests are asked once."""
    asked = [encode_request(engine, request) for request in requests]
    by_key = {one.key: one for one in asked}
    responses = store.get_many(by_key)
    missing = {key: one for key, one in by_key.items() if key not in responses}
    responses |= generate_missing(engine, store, missing, chunk_size=chunk_size)
    return [responses[one.key] for one in asked]


def generate_missing(
    engine: TextEngine,
    store: ResponseStore,
    missing: Mapping[str, AskedRequest],
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    on_response: OnResponse | None = None,
) -> dict[str, Response]:
    """Generate and commit the responses of `missing`, model after model; return them by key.

    `on_response(key, response)` is called once a response is committed. The errors of engine and store pass through;
    what was committed before stays.
    """
    if chunk_size < 1:
        raise ConfigError(f"chunk_size must be >= 1, but is {chunk_size}.")
    responses: dict[str, Response] = {}
    for chunk in chunks_by_model(engine, list(missing.values()), chunk_size):
        for batch in _batches(engine, chunk):
            store.put_many({one.key: (one.encoded, response) for one, response in batch})
            for one, response in batch:
                responses[one.key] = response
                if on_response is not None:
                    on_response(one.key, response)
    return responses


def chunks_by_model(
    engine: TextEngine, asked: Sequence[AskedRequest], chunk_size: int
) -> Iterator[Sequence[AskedRequest]]:
    """Yield the requests in chunks of one model each, models in the pool's order, so that each is loaded once.

    An engine that streams gets all of a model's requests, and batches them as it likes. For another, requests of
    equal kind and budget and of similar length are neighbours: a chunk then wastes little on padding.
    """
    for card in engine.cards:
        own = [one for one in asked if one.request.model == card.name]
        own.sort(key=lambda one: (bool(one.encoded.options), one.encoded.max_new_tokens, len(one.encoded.token_ids)))
        size = max(1, len(own)) if isinstance(engine, StreamingEngine) else chunk_size
        for start in range(0, len(own), size):
            yield own[start : start + size]


def _batches(engine: TextEngine, chunk: Sequence[AskedRequest]) -> Iterator[list[tuple[AskedRequest, Response]]]:
    """Yield what is to be committed together: a batch of a streaming engine, a whole chunk of another."""
    requests = [one.request for one in chunk]
    if not isinstance(engine, StreamingEngine):
        yield list(zip(chunk, engine.generate(requests), strict=True))
        return
    waiting = set(range(len(chunk)))
    for batch in engine.generate_iter(requests):
        for index, _ in batch:
            waiting.remove(index)  # a KeyError is a defect of the engine: an answer twice, or to nothing
        yield [(chunk[index], response) for index, response in batch]
    if waiting:
        raise RuntimeError(f"The engine must answer every request, but left out {len(waiting)} of {len(chunk)}.")
