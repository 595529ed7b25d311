"""What generation is measured on: prompts of fixed length without stops, and real questions with theirs.

Both sides get the same token ids, budgets and ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.llm.pool import Pool
from hierrouter_jax.llm.stop_strings import make_stop_test
from hierrouter_jax.tasks.prompts import task_request
from hierrouter_jax.tasks.rows import load_rows

MIX_TASK = "gsm8k"
SEED = 20251  # of the fixed prompts


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Prompts as token ids, each with its budget, and what ends a row before it."""

    name: str
    prompts: tuple[tuple[int, ...], ...]
    max_new_tokens: tuple[int, ...]
    stop_token_ids: tuple[int, ...] = ()
    is_complete: Callable[[int, Sequence[int]], bool] | None = None

    def first_tokens(self) -> Workload:
        """Return the same with a budget of one token: what is left is prefill."""
        return Workload(name=f"{self.name}, prefill", prompts=self.prompts, max_new_tokens=(1,) * len(self.prompts))


def fixed_workload(vocab_size: int, batch_size: int, *, num_prompt_tokens: int, num_new_tokens: int) -> Workload:
    """Return prompts of random tokens, the same at every call; every row runs to its full length."""
    rng = np.random.default_rng(SEED)
    tokens = rng.integers(0, vocab_size, size=(batch_size, num_prompt_tokens))
    return Workload(
        name=f"{num_prompt_tokens} + {num_new_tokens} tokens",
        prompts=tuple(tuple(map(int, row)) for row in tokens),
        max_new_tokens=(num_new_tokens,) * batch_size,
    )


def mix_workload(pool: Pool, model: str, folder: Path, num_questions: int, *, seed: int = 0) -> Workload:
    """Return the first hops of real GSM8K train questions, with their natural lengths, stops and budget.

    Raises `DataError` where the folder has no such task, or fewer questions.
    """
    path = folder / f"{MIX_TASK}.jsonl"
    if not path.is_file():
        raise DataError(f"The real mix is made of {path}, but there is no such file; give another folder as --rows.")
    card, tokenizer = pool.card(model), pool.tokenizer(model)
    rows = load_rows(path, split="train", num_rows=num_questions, seed=seed)
    requests = [task_request(card, row) for row in rows]
    prompts = [
        tokenizer.encode(one.prompt, add_special_tokens=True)
        if isinstance(one.prompt, str)
        else tokenizer.apply_chat(one.prompt)
        for one in requests
    ]
    return Workload(
        name="GSM8K questions",
        prompts=tuple(map(tuple, prompts)),
        max_new_tokens=tuple(one.max_new_tokens for one in requests),
        stop_token_ids=tokenizer.stop_token_ids,
        is_complete=make_stop_test(tokenizer.decode, [one.stop for one in requests]),
    )
