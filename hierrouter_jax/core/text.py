"""The vocabulary of text generation that the rooms share: what is asked of a model, and what comes back.

A `GenerationRequest` is what a caller writes. An engine turns it into an `EncodedRequest`, which holds everything
that determines the response (so its digest is the store's key), and answers with a `Response`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.errors import ConfigError

PromptStyle = Literal["chat", "plain"]
FinishReason = Literal["stop", "length", "option"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = tuple[Message, ...] | str  # messages for a model with a chat template, plain text for a base model


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. Temperature 0 is greedy; the seed then plays no part."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside the meaning of each field."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature must be finite and >= 0, but is {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k must be >= 1 or absent, but is {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1] or absent, but is {self.top_p}.")


GREEDY = Sampling()


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A question to one model of a pool.

    With `options`, nothing is generated: the options are ranked by their log-likelihood per byte as continuations of
    the prompt (a leading space is part of an option, but is not counted), and the response is the highest. Without
    the division by length the shortest option would win most of the time.
    """

    model: str
    prompt: Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # the text ends before the first of these
    options: tuple[str, ...] = ()
    sampling: Sampling = GREEDY


@dataclass(frozen=True, kw_only=True)
class EncodedRequest:
    """Everything that determines a response, and nothing else."""

    weights_digest: str
    token_ids: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...]
    options: tuple[str, ...]
    sampling: Sampling

    def identity(self) -> dict[str, object]:
        """Return the request as JSON values; greedy requests share one form whatever their unused fields hold."""
        data = dataclasses.asdict(self)
        if self.sampling.temperature == 0:
            data["sampling"] = dataclasses.asdict(GREEDY)
        return data


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a model answered.

    `num_new_tokens` counts the tokens produced, an end-of-text token or a stop string's tokens included; for ranked
    options it is 1. `logprob` is the sum of natural-log probabilities of the produced tokens (of the chosen option),
    at temperature 1. `option_logprobs` are the options' own sums, normalised over
    the options.
    """

    text: str
    num_prompt_tokens: int
    num_new_tokens: int
    finish_reason: FinishReason
    logprob: float
    option_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the rest of the package needs to know of a pool's model.

    `num_parameters` counts the parameters active for one token. `base_rate` is the paper's cost of one token in
    arbitrary units (by default the parameter count). Prices are USD per million tokens.
    `attention_width` is layers x heads x head_dim, where known: it gives the attention term of FLOPs.
    """

    name: str
    weights_digest: str
    prompt_style: PromptStyle
    num_parameters: int
    base_rate: float
    context_window: int
    max_new_tokens: int
    price_in_usd_per_mtok: float | None = None
    price_out_usd_per_mtok: float | None = None
    prefill_s_per_token: float | None = None
    decode_s_per_token: float | None = None
    attention_width: int | None = None


def pool_digest(cards: Sequence[ModelCard]) -> str:
    """Return the identity of a pool: its models in order, each with what its answers depend on.

    Cost figures (base rate, prices, timings) do not count: a tree stays usable when a price changes.
    """
    return digest(
        [
            [card.name, card.weights_digest, card.prompt_style, card.context_window, card.max_new_tokens]
            for card in cards
        ]
    )


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: JSON and command lines can smuggle halves of surrogate pairs into one."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
