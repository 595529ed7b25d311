"""Live routing: the routing MDP of the tree, walked with the pool answering.

At each stage the router sees what it saw in training (the embedding of query ++ responses, the stage, the cumulative
cost in the tree's unit, and the signals of the responses where it reads them) and takes its likeliest legal action. A
model is legal when its prompt fits its window; STOP is legal after the first hop, where the router allows it, and when
no model is legal. On rows of a tree, with the same engine, encoder and terms, this takes the tree's own greedy routes.

All queries advance stage by stage together, so that each model answers them in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hierrouter_jax.agent.router import Router, live_legal, next_action
from hierrouter_jax.collect.asking import answer_requests
from hierrouter_jax.collect.hop_prompts import context_text, hop_request
from hierrouter_jax.core.errors import ConfigError, PromptTooLongError, raise_all
from hierrouter_jax.core.text import GenerationRequest, Response, is_unicode
from hierrouter_jax.costs import hop_cost
from hierrouter_jax.encoder.text_encoder import TextEncoder
from hierrouter_jax.evaluate.live_signals import MeasuredResponse, measure_response
from hierrouter_jax.evaluate.origins import HopTerms, require_router_fits
from hierrouter_jax.llm.engine import TextEngine
from hierrouter_jax.routing.signals import route_signals
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.prompts import shown_answer
from hierrouter_jax.tasks.task_row import TaskRow

STOP_NAME = "stop"


@dataclass(frozen=True, kw_only=True)
class RouteResult:
    """One query, answered. `probabilities` has one dict a decision: model names and "stop" to their probability."""

    query: str
    answer: str
    route: tuple[str, ...]
    probabilities: tuple[dict[str, float], ...]
    cost: float  # normalised, as in the tree
    num_prompt_tokens: int
    num_new_tokens: int
    is_truncated: bool  # the last response ended for want of budget
    responses: tuple[str, ...]


def route(
    router: Router,
    engine: TextEngine,
    queries: Sequence[str | TaskRow],
    *,
    encoder: TextEncoder,
    terms: HopTerms,
    store: ResponseStore | None = None,
) -> list[RouteResult]:
    """Answer each query by the models the router picks; a string is a free question.

    With a `store`, what was answered before is not asked again. Raises `DataError` when the router was trained with
    another pool or encoder, `PromptTooLongError` naming the queries that fit no model, before anything is generated.
    """
    require_router_fits(router, engine.cards, encoder)
    walks = [_Walk(row=as_row(query)) for query in queries]
    for stage in range(router.num_stages):
        _look_ahead(engine, walks, stage, terms)
        _measure(router, engine, walks)
        _decide(router, encoder, walks, stage)
        asked = [(walk, walk.pending) for walk in walks if walk.pending is not None]
        responses = _answers(engine, store, [request for _, request in asked])
        for (walk, request), response in zip(asked, responses, strict=True):
            walk.take(engine, request, response, terms)
    return [walk.result() for walk in walks]


def require_queries_fit(engine: TextEngine, queries: Sequence[str | TaskRow], terms: HopTerms) -> None:
    """Raise one `PromptTooLongError` naming every query that no model can be asked; nothing is generated."""
    _look_ahead(engine, [_Walk(row=as_row(query)) for query in queries], 0, terms)


def as_row(query: str | TaskRow) -> TaskRow:
    """Return a free question as a task row; `ConfigError` when it is empty or no text that can be encoded."""
    row = TaskRow(id="", task="open", question=query, answer="") if isinstance(query, str) else query
    if not row.question.strip():
        raise ConfigError("A question must hold text, but is empty.")
    if not is_unicode(row.question):
        raise ConfigError(f"A question must be valid Unicode, but holds half of a character: {row.question!r}.")
    return row


@dataclass(kw_only=True)
class _Walk:
    """Where one query stands."""

    row: TaskRow
    texts: list[str] = field(default_factory=list)
    route: list[str] = field(default_factory=list)
    probabilities: list[dict[str, float]] = field(default_factory=list)
    cost: float = 0.0
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    is_truncated: bool = False
    is_done: bool = False
    choices: list[GenerationRequest | None] = field(default_factory=list)  # by model; None where it does not fit
    pending: GenerationRequest | None = None
    unmeasured: tuple[GenerationRequest, Response] | None = None  # the last hop
    measured: list[MeasuredResponse] = field(default_factory=list)

    def take(self, engine: TextEngine, request: GenerationRequest, response: Response, terms: HopTerms) -> None:
        """Go one hop further."""
        card = next(card for card in engine.cards if card.name == request.model)
        raw = hop_cost(card, response.num_prompt_tokens, response.num_new_tokens, cost_model=terms.cost_model)
        self.cost += float(raw) / terms.raw_cost_of_one
        self.num_prompt_tokens += response.num_prompt_tokens
        self.num_new_tokens += response.num_new_tokens
        self.is_truncated = response.finish_reason == "length"
        self.texts.append(response.text)
        self.route.append(request.model)
        self.pending = None
        self.unmeasured = (request, response)

    def result(self) -> RouteResult:
        """Return what came of it."""
        return RouteResult(
            query=self.row.question,
            answer=shown_answer(self.row, self.texts[-1]),
            route=tuple(self.route),
            probabilities=tuple(self.probabilities),
            cost=self.cost,
            num_prompt_tokens=self.num_prompt_tokens,
            num_new_tokens=self.num_new_tokens,
            is_truncated=self.is_truncated,
            responses=tuple(self.texts),
        )


def _look_ahead(engine: TextEngine, walks: Sequence[_Walk], stage: int, terms: HopTerms) -> None:
    """Write down what each model would be asked next; a query that no model can take ends, or cannot begin."""
    problems = []
    for walk in walks:
        if walk.is_done:
            continue
        refusals: list[str] = []
        walk.choices = [_fitting(engine, model, walk, terms, refusals) for model in range(len(engine.cards))]
        if all(request is None for request in walk.choices):
            walk.is_done = True
            if stage == 0:
                problems.append(f"{_shortened(walk.row.question)}: {refusals[0]}")
    raise_all(PromptTooLongError, "A query must fit the window of at least one model:", problems)


def _fitting(
    engine: TextEngine, model: int, walk: _Walk, terms: HopTerms, refusals: list[str]
) -> GenerationRequest | None:
    request = hop_request(engine.cards[model], walk.row, walk.texts, prompt_version=terms.prompt_version)
    try:
        engine.encode(request)
    except PromptTooLongError as error:
        refusals.append(str(error))
        return None
    return request


def _measure(router: Router, engine: TextEngine, walks: Sequence[_Walk]) -> None:
    """Measure the last response of every query that goes on, for a router that reads signals."""
    names = [card.name for card in engine.cards]
    for walk in walks:
        if not router.config.reads_signals or walk.is_done or walk.unmeasured is None:
            continue
        request, response = walk.unmeasured
        model_index = names.index(request.model)
        measured = measure_response(
            walk.row, request, response, model_index=model_index, num_models=len(names), earlier=walk.measured
        )
        walk.measured.append(measured)
        walk.unmeasured = None


def _decide(router: Router, encoder: TextEncoder, walks: Sequence[_Walk], stage: int) -> None:
    """Let the router choose for every query that goes on."""
    active = [walk for walk in walks if not walk.is_done]
    if not active:
        return
    contexts = encoder.encode([context_text(walk.row, walk.texts) for walk in active])
    names = (*router.model_names, STOP_NAME)
    for walk, context in zip(active, contexts, strict=True):
        fits = np.array([request is not None for request in walk.choices] + [True])
        newest_first = [one.signals for one in reversed(walk.measured)]
        signals = route_signals(newest_first, num_models=len(router.model_names), num_stages=router.num_stages)
        legal = live_legal(router, stage) & fits
        action, probabilities = next_action(router, context, stage, walk.cost, legal, signals=signals)
        walk.probabilities.append(dict(zip(names, map(float, probabilities), strict=True)))
        walk.is_done = action == len(router.model_names)
        walk.pending = None if walk.is_done else walk.choices[action]


def _answers(engine: TextEngine, store: ResponseStore | None, requests: Sequence[GenerationRequest]) -> list[Response]:
    if not requests:
        return []
    return engine.generate(requests) if store is None else answer_requests(engine, store, requests)


def _shortened(text: str, *, num_chars: int = 60) -> str:
    return text if len(text) <= num_chars else text[: num_chars - 1] + "…"
