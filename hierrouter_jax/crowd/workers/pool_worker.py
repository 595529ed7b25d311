"""Models of a pool as workers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hierrouter_jax.collect.asking import AskedRequest, encode_request, generate_missing
from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.errors import ConfigError, PromptTooLongError
from hierrouter_jax.core.text import GenerationRequest, ModelCard, Response, Sampling
from hierrouter_jax.costs import hop_cost
from hierrouter_jax.crowd.output_schemas import ChoiceSchema
from hierrouter_jax.crowd.prompts import is_continued, plain_stop, subtask_prompt, token_budget, without_cue
from hierrouter_jax.crowd.subtasks import SubTask
from hierrouter_jax.crowd.votes import is_vote, mean_over_rotations, rotations
from hierrouter_jax.crowd.workers.worker import Ask, Contributor, OnReply, Reply, samples_of
from hierrouter_jax.llm.engine import TextEngine
from hierrouter_jax.store.response_store import ResponseStore

LOWEST = -1e300  # stands for -inf, which has no distance to itself
TOKENS_OF_ONE = 1000.0  # cost 1 is so many tokens of the pool's dearest model


class PoolWorker:
    """Answers by models of `engine`, through the response store.

    Redundant answers differ by model, then by sample: text is drawn at `temperature`, a choice by the options'
    likelihoods at that temperature. At temperature 0 samples of a model are copies of each other. `counterbalances`
    asks a vote in each rotation of its candidates, and takes the mean log-likelihoods: an answer costs as many prompts.
    Raises `ConfigError` for models that the pool lacks or that are named twice, and for a temperature below 0.
    """

    def __init__(
        self,
        engine: TextEngine,
        store: ResponseStore,
        *,
        models: Sequence[str] = (),
        temperature: float = 0.7,
        personas: Sequence[str] = (),
        bars_kin: bool = False,
        counterbalances: bool = True,
    ) -> None:
        names = [card.name for card in engine.cards]
        unknown = sorted(set(models) - set(names))
        if unknown:
            raise ConfigError(f"A worker's models must be of the pool ({', '.join(names)}), but are {unknown}.")
        if len(set(models)) < len(models):
            raise ConfigError(f"A worker's models must each be named once, but are {', '.join(models)}.")
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ConfigError(f"temperature must be finite and >= 0, but is {temperature}.")
        self.models = tuple(models) or tuple(names)
        self._engine, self._store = engine, store
        self._temperature, self._personas, self._bars_kin = temperature, tuple(personas), bars_kin
        self._counterbalances = counterbalances
        self._dearest = max(card.base_rate for card in engine.cards)

    def assign(self, subtask: SubTask, step: str) -> list[Contributor]:
        """Return the models in turn, from one that the step decides, so that single answers come from all of them."""
        offset = int(digest(step)[:8], 16) % len(self.models)
        return samples_of(self.models, subtask, offset=offset, personas=self._personas, bars_kin=self._bars_kin)

    def answer(self, asks: Sequence[Ask], on_reply: OnReply) -> None:
        """Ask the models, batched; equal requests are asked once."""
        waiting: dict[str, list[int]] = {}
        requests: dict[str, AskedRequest] = {}
        keys: dict[int, list[str]] = {}  # of what each ask is asked
        for index, ask in enumerate(asks):
            try:
                views = [encode_request(self._engine, self._request(ask, one)) for one in self._views(ask)]
            except PromptTooLongError as error:
                on_reply(index, Reply(failure=str(error)))
                continue
            keys[index] = [one.key for one in views]
            for one in views:
                requests[one.key] = one
            for key in dict.fromkeys(keys[index]):
                waiting.setdefault(key, []).append(index)
        stored = self._store.get_many(requests)
        responses: dict[str, Response] = {}

        def hand_over(key: str, response: Response) -> None:
            responses[key] = response
            for index in waiting[key]:
                if all(one in responses for one in keys[index]):
                    on_reply(index, self._reply(asks[index], [responses[one] for one in keys[index]]))

        for key, response in stored.items():
            hand_over(key, response)
        missing = {key: one for key, one in requests.items() if key not in stored}
        generate_missing(self._engine, self._store, missing, on_response=hand_over)

    def _views(self, ask: Ask) -> list[SubTask]:
        """Return what a slot is asked: the sub-task, or a vote in each of its rotations."""
        if self._counterbalances and is_vote(ask.subtask, ask.slot):
            return rotations(ask.subtask, ask.slot)
        return [ask.subtask]

    def _card(self, ask: Ask) -> ModelCard:
        return next(card for card in self._engine.cards if card.name == ask.contributor.kin)

    def _request(self, ask: Ask, subtask: SubTask) -> GenerationRequest:
        card, schema = self._card(ask), subtask.schema
        style = card.prompt_style
        prompt = subtask_prompt(style, subtask, ask.slot, persona=ask.contributor.persona, refusals=ask.refusals)
        if isinstance(schema, ChoiceSchema):
            options = tuple(f" {option}" for option in schema.options)
            return GenerationRequest(model=card.name, prompt=prompt, max_new_tokens=1, options=options)
        sampling = Sampling(temperature=self._temperature, seed=ask.seed) if self._temperature > 0 else Sampling()
        return GenerationRequest(
            model=card.name,
            prompt=prompt,
            max_new_tokens=min(token_budget(schema), card.max_new_tokens),
            stop=plain_stop(subtask) if is_continued(style, subtask) else (),
            sampling=sampling,
        )

    def _reply(self, ask: Ask, responses: Sequence[Response]) -> Reply:
        card = self._card(ask)
        costs = [hop_cost(card, one.num_prompt_tokens, one.num_new_tokens, cost_model="base_rate") for one in responses]
        cost = sum(map(float, costs)) / (self._dearest * TOKENS_OF_ONE)
        if isinstance(ask.subtask.schema, ChoiceSchema):
            return Reply(text=self._chosen(ask, ask.subtask.schema.options, responses), cost=cost)
        (response,) = responses
        is_text = is_continued(card.prompt_style, ask.subtask)
        return Reply(text=without_cue(ask.subtask, response.text) if is_text else response.text.strip(), cost=cost)

    def _chosen(self, ask: Ask, options: Sequence[str], responses: Sequence[Response]) -> str:
        logprobs = mean_over_rotations([one.option_logprobs for one in responses])
        if self._temperature > 0:
            return drawn_option(options, logprobs, self._temperature, seed=ask.seed)
        return max(zip(logprobs, options, strict=True), key=lambda one: one[0])[1]


def drawn_option(options: Sequence[str], logprobs: Sequence[float], temperature: float, *, seed: int) -> str:
    """Return an option drawn with probability proportional to exp(logprob / temperature)."""
    values = [max(value, LOWEST) for value in logprobs]
    highest = max(values)
    weights = [math.exp((value - highest) / temperature) for value in values]
    return random.Random(seed).choices(list(options), weights)[0]
