"""A server that speaks OpenAI's chat protocol as a worker: the official client, asks side by side in threads.

Every ask is one user's message, the sub-task in words; a choice is asked in words too, and read by its schema like any
other answer. A server that is slow, busy or broken is tried again by the client; what fails after that is a failure of
this one ask, which the runner asks again. What no trying will mend, a refused key or an unknown model, ends the run
with `ConfigError` at once. Replies are handed over in the calling thread alone, because the journal belongs to it.

The package openai is no part of an ordinary install: `pip install 'hierrouter_jax[endpoint]'`.
"""

from __future__ import annotations

import importlib
import ipaddress
import json
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.crew import EndpointConfig
from hierrouter_jax.crowd.prompts import CHARS_PER_TOKEN, subtask_text
from hierrouter_jax.crowd.subtasks import SubTask
from hierrouter_jax.crowd.workers.worker import Ask, Contributor, OnReply, Reply, samples_of

MAX_RETRIES = 2  # of the client, for each ask: time-outs, lost connections, 408, 409, 429 and 5xx


class _NoAnswer(Exception):
    """The server's answer holds nothing to read; the message says what it holds."""


class EndpointWorker:
    """Answers by the model of an endpoint; redundant answers differ by seed and persona. `close` it after use.

    Raises `ConfigError` when a number of the config is out of range, the key is missing, or openai is not installed.
    """

    def __init__(self, config: EndpointConfig, *, max_retries: int = MAX_RETRIES) -> None:
        _check(config)
        key = _api_key(config)
        self._config, self._openai = config, _openai()
        self._client = self._openai.OpenAI(
            base_url=config.base_url, api_key=key, timeout=config.timeout_s, max_retries=max_retries
        )

    def assign(self, subtask: SubTask, step: str) -> list[Contributor]:
        """Return the model's samples in turn."""
        del step
        return samples_of((self._config.model,), subtask, offset=0, personas=self._config.personas)

    def answer(self, asks: Sequence[Ask], on_reply: OnReply) -> None:
        """Ask `max_parallel` at a time; `ConfigError` when the server refuses the key or knows no such model.

        Threads are daemons: one that waits for a server keeps no interrupted run from ending.
        """
        waiting, said = deque(range(len(asks))), queue.SimpleQueue[tuple[int, Reply | BaseException]]()

        def ask_on() -> None:
            while True:
                try:
                    index = waiting.popleft()
                except IndexError:
                    return
                try:
                    said.put((index, self._reply(asks[index])))
                except BaseException as error:
                    waiting.clear()
                    said.put((index, error))

        for _ in range(min(self._config.max_parallel, len(asks))):
            threading.Thread(target=ask_on, daemon=True).start()
        error: BaseException | None = None
        try:
            num_left = len(asks)
            while num_left and not (error is not None and said.empty()):
                index, reply = said.get()
                num_left -= 1
                if isinstance(reply, Reply):
                    on_reply(index, reply)
                else:
                    error = error or reply
        finally:
            waiting.clear()
        if error is not None:
            raise error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _reply(self, ask: Ask) -> Reply:
        """Ask once, with the client's retries; runs in a thread of its own."""
        config, openai = self._config, self._openai
        text = subtask_text(ask.subtask, ask.slot, persona=ask.contributor.persona, refusals=ask.refusals)
        try:
            answer, num_tokens = _read_completion(self._body(text, ask.seed), num_prompt_chars=len(text))
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ConfigError(
                f"The endpoint at {config.base_url} refused the key in {config.api_key_env} ({error.status_code}: "
                f"{_shortened(error.message)}); set the variable to a key that may use {config.model}."
            ) from error
        except openai.NotFoundError as error:
            raise ConfigError(
                f"The endpoint at {config.base_url} has no model {config.model!r} (404: {_shortened(error.message)}); "
                "correct model, or base_url, in the crew file."
            ) from error
        except openai.APITimeoutError:
            return Reply(failure=f"the endpoint gave no answer within {config.timeout_s:g} s")
        except (openai.OpenAIError, _NoAnswer) as error:
            return Reply(failure=f"the endpoint gave no answer: {_shortened(str(error))}")
        return Reply(text=answer, cost=num_tokens / 1000 * config.cost_per_1k_tokens)

    def _body(self, text: str, seed: int) -> bytes:
        """Return what the server sends, whole within `timeout_s` once it has begun.

        The client's own time-out is one between two reads, and some servers send spaces while a model still writes.
        """
        body = bytearray()
        try:
            with self._client.chat.completions.with_streaming_response.create(
                model=self._config.model,
                messages=[{"role": "user", "content": text}],
                temperature=self._config.temperature,
                seed=seed,
            ) as response:
                deadline_s = time.monotonic() + self._config.timeout_s
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > deadline_s:
                        raise _NoAnswer(f"it was not whole after {self._config.timeout_s:g} s")
        except (self._openai.OpenAIError, _NoAnswer):
            raise
        except Exception as error:  # while a body is read, the client passes its transport's errors through
            raise _NoAnswer(f"it broke off ({type(error).__name__})") from error
        return bytes(body)


def _openai() -> Any:
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise ConfigError(
            "Workers of kind endpoint need the package openai, which is not installed; "
            "pip install 'hierrouter_jax[endpoint]'."
        ) from error


def _check(config: EndpointConfig) -> None:
    for name, least in (("temperature", 0.0), ("cost_per_1k_tokens", 0.0)):
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= least):
            raise ConfigError(f"{name} of an endpoint must be finite and >= 0, but is {value}.")
    if not (math.isfinite(config.timeout_s) and config.timeout_s > 0):
        raise ConfigError(f"timeout_s of an endpoint must be finite and > 0, but is {config.timeout_s}.")
    if config.max_parallel < 1:
        raise ConfigError(f"max_parallel of an endpoint must be >= 1, but is {config.max_parallel}.")
    if not config.model:
        raise ConfigError("An endpoint needs the name of a model, but model is empty.")
    if not _host(config.base_url):
        raise ConfigError(f"base_url of an endpoint must be like http://localhost:8000/v1, but is {config.base_url!r}.")


def _host(base_url: str) -> str:
    """Return the host of a URL of the web, or nothing when it is none."""
    try:
        parts = urlsplit(base_url)
        return (parts.hostname or "") if parts.scheme in ("http", "https") and parts.port != 0 else ""
    except ValueError:
        return ""


def _api_key(config: EndpointConfig) -> str:
    """Return the key in the environment; servers of this machine need none."""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        if _is_this_machine(_host(config.base_url)):
            return "none"
        raise ConfigError(
            f"The endpoint at {config.base_url} needs a key in the environment variable {config.api_key_env}, which is "
            "not set; set it, or name another one with api_key_env (any text will do for a server that asks for none)."
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"The key in {config.api_key_env} must be printable ASCII, but is not; set it anew.")
    return key


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _read_completion(body: bytes, *, num_prompt_chars: int) -> tuple[str, int]:
    """Return the text and the number of tokens, prompt and answer; estimated where the server does not say."""
    try:
        data = json.loads(body)
        text = data["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _NoAnswer(f"it is no chat completion, but {_shortened(body.decode(errors='replace'))}") from error
    if not isinstance(text, str):
        raise _NoAnswer("its message holds no text")
    usage = data.get("usage")
    if isinstance(usage, dict):
        prompt, new = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if type(prompt) is int and type(new) is int and prompt >= 0 and new >= 0:
            return text, prompt + new
    return text, math.ceil((num_prompt_chars + len(text)) / CHARS_PER_TOKEN)


def _shortened(text: str, *, num_chars: int = 120) -> str:
    squeezed = " ".join(text.split())
    return repr(squeezed if len(squeezed) <= num_chars else squeezed[: num_chars - 1] + "…")
