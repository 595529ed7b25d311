"""A text engine without a model, for tests: every response is a pure function of the request.

Tokens are words with the space before them, and a token's id is a hash of its text, so prompts of equal text have
equal ids and other prompts have others. What a model answers is given as a function of card and request, or, without
one, is a few words drawn from a hash of the prompt. Budgets, stop strings, options and context windows are honoured as
a real engine honours them; log-probabilities are made up but deterministic.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence

from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.core.text import EncodedRequest, FinishReason, GenerationRequest, ModelCard, Prompt, Response
from hierrouter_jax.llm.engine import AnsweredBatch

Respond = Callable[[ModelCard, GenerationRequest], str]
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "juniper", "kelp")


def scripted_card(name: str, **fields: object) -> ModelCard:
    """Return the card of a scripted model; `fields` override what it holds."""
    defaults: dict[str, object] = {
        "weights_digest": hashlib.sha256(name.encode()).hexdigest(),
        "prompt_style": "chat",
        "num_parameters": 1_000_003,
        "base_rate": 1.0,
        "context_window": 4099,
        "max_new_tokens": 31,
    }
    return ModelCard(name=name, **(defaults | fields))  # type: ignore[arg-type]


class ScriptedEngine:
    """Implements `TextEngine` and `StreamingEngine` for scripted models.

    `respond(card, request)` gives the text a model would write; it must depend on its arguments alone. `delay_s` is
    slept before each response, and `batch_size` responses are ready together. `requests` lists every request answered
    so far, in order, and `num_calls` counts the calls of `generate` and `generate_iter`.
    """

    def __init__(
        self, cards: Sequence[ModelCard], respond: Respond | None = None, *, delay_s: float = 0.0, batch_size: int = 1
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be >= 1, but is {batch_size}.")
        self.cards = tuple(cards)
        self.requests: list[GenerationRequest] = []
        self.num_calls = 0
        self._respond = hashed_words if respond is None else respond
        self._delay_s = delay_s
        self._batch_size = batch_size

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        """Return what determines the response; `PromptTooLongError` when prompt and budget exceed the window."""
        card = self._card(request.model)
        token_ids = tuple(_token_id(token) for token in _tokens(_prompt_text(request.prompt)))
        num_tokens = len(token_ids) + request.max_new_tokens
        if num_tokens > card.context_window:
            raise PromptTooLongError(
                f"Prompt and answer must fit the context window of {card.name}, {card.context_window} tokens, but "
                f"need {len(token_ids)} + {request.max_new_tokens}; shorten the prompt or the answer budget."
            )
        return EncodedRequest(
            weights_digest=card.weights_digest,
            token_ids=token_ids,
            max_new_tokens=request.max_new_tokens,
            stop=request.stop,
            options=request.options,
            sampling=request.sampling,
        )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Response]:
        """Answer the requests, in their order."""
        return [response for batch in self.generate_iter(requests) for _, response in batch]

    def generate_iter(self, requests: Sequence[GenerationRequest]) -> Iterator[AnsweredBatch]:
        """Answer the requests in their order, a batch at a time."""
        self.num_calls += 1
        for start in range(0, len(requests), self._batch_size):
            batch = requests[start : start + self._batch_size]
            yield [(start + offset, self._answer_slowly(request)) for offset, request in enumerate(batch)]

    def _answer_slowly(self, request: GenerationRequest) -> Response:
        if self._delay_s > 0:
            time.sleep(self._delay_s)
        self.requests.append(request)
        return self._answer(request)

    def _answer(self, request: GenerationRequest) -> Response:
        num_prompt_tokens = len(self.encode(request).token_ids)
        written = self._respond(self._card(request.model), request)
        if request.options:
            return _ranked(request, written, num_prompt_tokens)
        text, num_new_tokens, finish_reason = _within_budget(written, request)
        return Response(
            text=text,
            num_prompt_tokens=num_prompt_tokens,
            num_new_tokens=num_new_tokens,
            finish_reason=finish_reason,
            logprob=-num_new_tokens * (0.1 + _fraction(text)),
        )

    def _card(self, model: str) -> ModelCard:
        for card in self.cards:
            if card.name == model:
                return card
        names = ", ".join(card.name for card in self.cards)
        raise ConfigError(f"A request must name a model of the pool ({names}), but names {model!r}.")


def hashed_words(card: ModelCard, request: GenerationRequest) -> str:
    """Return one to seven words (an option, where there are options) drawn from a hash of model and prompt."""
    seed = hashlib.sha256(f"{card.weights_digest}\n{_prompt_text(request.prompt)}".encode()).digest()
    if request.options:
        return request.options[seed[0] % len(request.options)]
    return " ".join(WORDS[byte % len(WORDS)] for byte in seed[1 : 2 + seed[0] % 7])


def _prompt_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"<{message.role}> {message.content}" for message in prompt)


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _token_id(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big")


def _fraction(text: str) -> float:
    return _token_id(text) / 2.0**48


def _within_budget(written: str, request: GenerationRequest) -> tuple[str, int, FinishReason]:
    """Return the text up to the first stop string and within the token budget, its tokens, and why it ended."""
    ends = [end for end in (written.find(stop) for stop in request.stop) if end >= 0]
    text = written[: min(ends)] if ends else written
    tokens = _tokens(text)
    if len(tokens) >= request.max_new_tokens:  # no room for the end-of-text token
        return "".join(tokens[: request.max_new_tokens]), request.max_new_tokens, "length"
    return text, len(tokens) + 1, "stop"


def _ranked(request: GenerationRequest, written: str, num_prompt_tokens: int) -> Response:
    """Return the response of ranked options. Likelihoods are made up, that of the chosen being the highest."""
    if written not in request.options:
        raise ConfigError(f"The script must answer with one of the options {request.options}, but wrote {written!r}.")
    weights = [0.1 + _fraction(f"{_prompt_text(request.prompt)}\n{option}") for option in request.options]
    chosen, highest = request.options.index(written), max(range(len(weights)), key=weights.__getitem__)
    weights[chosen], weights[highest] = weights[highest], weights[chosen]
    logprobs = tuple(math.log(weight / math.fsum(weights)) for weight in weights)
    return Response(
        text=written,
        num_prompt_tokens=num_prompt_tokens,
        num_new_tokens=1,
        finish_reason="option",
        logprob=logprobs[chosen],
        option_logprobs=logprobs,
    )
