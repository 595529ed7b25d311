"""A second peer of generation: llama.cpp on the GGUF file itself, its 4-bit weights as they are.

It computes with other numbers than ours, dequantised to float32 or bfloat16, so its tokens need not be the same; it is
the speed that many know. Rows decode together as sequences of one context; a row that is done leaves the batch.
Through the bindings of llama-cpp-python.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from hierrouter_jax.bench.extras import import_extra
from hierrouter_jax.bench.workloads import Workload
from hierrouter_jax.core.errors import ConfigError, WeightsError
from hierrouter_jax.weights.sources import ResolvedFiles

CELL_BUCKET = 256  # a sequence's share of the context is rounded up to this many tokens


class LlamaCppPeer:
    """A GGUF file opened by llama.cpp; contexts are kept, one a number of rows and length."""

    def __init__(self, files: ResolvedFiles) -> None:
        """Open the file. Raises `ConfigError` for a model that is no GGUF file."""
        if not files.is_gguf:
            raise ConfigError("llama_cpp reads GGUF files only, and this model is none; leave it out of --against.")
        self._lib = import_extra("llama_cpp")
        self._silence = self._lib.llama_log_callback(lambda level, text, data: None)  # kept: the library calls it
        self._lib.llama_log_set(self._silence, None)
        self._lib.llama_backend_init()
        path = files.weights[0]
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), self._lib.llama_model_default_params())
        if not self._model:
            raise WeightsError(f"llama.cpp cannot read {path}; leave it out of --against.")
        self._vocab_size = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model))
        self._contexts: dict[tuple[int, int], Any] = {}

    def generate(self, work: Workload) -> list[list[int]]:
        """Continue all prompts greedily in one batch, each until a stop or its own budget."""
        longest = max(len(prompt) + budget for prompt, budget in zip(work.prompts, work.max_new_tokens, strict=True))
        context = self._context(len(work.prompts), longest)
        self._lib.llama_memory_clear(self._lib.llama_get_memory(context), True)
        entries = [
            (token, position, row, position == len(prompt) - 1)
            for row, prompt in enumerate(work.prompts)
            for position, token in enumerate(prompt)
        ]
        new: list[list[int]] = [[] for _ in work.prompts]
        while entries:
            drawn = self._decode(context, entries)
            entries = []
            for row, token in drawn:
                new[row].append(token)
                if not _is_over(work, row, new[row]):
                    entries.append((token, len(work.prompts[row]) + len(new[row]) - 1, row, True))
        return new

    def _context(self, num_rows: int, num_tokens: int) -> Any:
        """Return a context with room for that many tokens of each row."""
        size = -(-num_tokens // CELL_BUCKET) * CELL_BUCKET
        if (num_rows, size) not in self._contexts:
            params = self._lib.llama_context_default_params()
            params.n_ctx = num_rows * size
            params.n_seq_max = num_rows
            params.n_batch = num_rows * size
            params.n_threads = params.n_threads_batch = os.cpu_count() or 1
            context = self._lib.llama_init_from_model(self._model, params)
            if not context:
                raise ConfigError(f"llama.cpp makes no context of {num_rows} rows of {size} tokens; ask for fewer.")
            self._contexts[num_rows, size] = context
        return self._contexts[num_rows, size]

    def _decode(self, context: Any, entries: Sequence[tuple[int, int, int, bool]]) -> list[tuple[int, int]]:
        """Compute (token, position, row, wanted) entries; return (row, likeliest next token) where wanted."""
        lib = self._lib
        batch = lib.llama_batch_init(len(entries), 0, 1)
        try:
            for index, (token, position, row, is_wanted) in enumerate(entries):
                batch.token[index], batch.pos[index] = token, position
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
                batch.logits[index] = is_wanted
            batch.n_tokens = len(entries)
            if (status := lib.llama_decode(context, batch)) != 0:
                raise RuntimeError(f"llama.cpp failed to decode {len(entries)} tokens: status {status}.")
            return [
                (row, self._likeliest(lib.llama_get_logits_ith(context, index)))
                for index, (_, _, row, is_wanted) in enumerate(entries)
                if is_wanted
            ]
        finally:
            lib.llama_batch_free(batch)

    def _likeliest(self, logits: Any) -> int:
        return int(np.argmax(np.ctypeslib.as_array(logits, shape=(self._vocab_size,))))


def _is_over(work: Workload, row: int, ids: Sequence[int]) -> bool:
    if len(ids) >= work.max_new_tokens[row] or ids[-1] in work.stop_token_ids:
        return True
    return work.is_complete is not None and work.is_complete(row, ids)
