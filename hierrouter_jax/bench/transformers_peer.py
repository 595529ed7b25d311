"""The peer of generation: the same weights in transformers and PyTorch, generating in static batches.

What a straightforward program does: rows of a batch are padded on the left to the longest prompt, `generate` runs until
the last row is done, and a row that is done is computed all the same. Weights are read from the same files, by
transformers' own loader, and dequantised to the same numbers. All cores are used.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from hierrouter_jax.bench.extras import import_extra
from hierrouter_jax.llm.stop_strings import IsComplete
from hierrouter_jax.llm.token_counts import TokenCounts
from hierrouter_jax.weights.sources import ResolvedFiles

PADDING = 0


@dataclass(frozen=True, kw_only=True)
class PeerAnswers:
    """What a batch produced: each row's new tokens, its stop token included, and the tokens computed for it."""

    token_ids: list[list[int]]
    counts: TokenCounts


class TransformersPeer:
    """A causal language model of transformers, on the device that JAX computes on."""

    def __init__(self, model: Any) -> None:
        """Wrap a model; `load_transformers` makes one from files."""
        self._torch = import_extra("torch")
        self._torch.set_num_threads(os.cpu_count() or 1)
        self.model = model.eval()
        self._forget_defaults()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: Sequence[int],
        stop_token_ids: Collection[int] = (),
        is_complete: IsComplete | None = None,
    ) -> PeerAnswers:
        """Continue the prompts greedily in one static batch, each until a stop, `is_complete` or its own budget."""
        torch = self._torch
        tokens, mask = self._padded(prompts)
        width = tokens.shape[1]
        lengths = list(max_new_tokens)
        ends = self._make_ends(width, lengths, is_complete)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=tokens,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max(max_new_tokens),
                eos_token_id=sorted(stop_token_ids) or None,
                pad_token_id=PADDING,
                stopping_criteria=ends,
            )
        stops = frozenset(stop_token_ids)
        rows = [_cut(ids[:length], stops) for ids, length in zip(output[:, width:].tolist(), lengths, strict=True)]
        counts = TokenCounts(
            computed_prompt=tokens.numel(),
            computed_new=len(prompts) * (output.shape[1] - width - 1),  # the last token drawn is not read
            billed_prompt=sum(map(len, prompts)),
            billed_new=sum(map(len, rows)),
        )
        return PeerAnswers(token_ids=rows, counts=counts)

    def score(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> tuple[list[float], TokenCounts]:
        """Return the log-probability of each continuation after its prompt, by one forward pass over all rows."""
        torch = self._torch
        whole = [[*prompt, *continuation] for prompt, continuation in zip(prompts, continuations, strict=True)]
        tokens, mask = self._padded(whole)
        longest = max(map(len, continuations))
        with torch.inference_mode():
            # Positions count a row's own tokens, as they do in generate: padding must not shift the rotations.
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            logits = self.model(
                tokens, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=longest + 1
            ).logits[:, :-1]
            logprobs = torch.log_softmax(logits.float(), dim=-1)
            chosen = logprobs.gather(2, tokens[:, -longest:, None])[:, :, 0].cpu()
        scores = [float(row[longest - len(one) :].sum()) for row, one in zip(chosen, continuations, strict=True)]
        counts = TokenCounts(computed_prompt=tokens.numel())
        return scores, counts

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Return tokens padded on the left, and the mask of what is not padding."""
        width = max(map(len, rows))
        tokens = [[PADDING] * (width - len(row)) + list(row) for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        device = self.model.device
        return self._torch.tensor(tokens, device=device), self._torch.tensor(mask, device=device)

    def _make_ends(self, width: int, lengths: list[int], is_complete: IsComplete | None) -> list[Any]:
        """Return the criterion that ends each row at its own length, budgets to begin with; [] where all are alike.

        A row that is complete earlier has its length set to what it has come to.
        """
        if is_complete is None and len(set(lengths)) == 1:
            return []
        torch, is_over = self._torch, [False] * len(lengths)

        def ends(tokens: Any, scores: Any, **_: Any) -> Any:
            num_new = tokens.shape[1] - width
            for row in range(len(lengths)):
                if not is_over[row] and is_complete is not None and is_complete(row, tokens[row, width:].tolist()):
                    lengths[row] = min(num_new, lengths[row])
                is_over[row] = is_over[row] or num_new >= lengths[row]
            return torch.tensor(is_over, device=tokens.device)

        return [ends]

    def _forget_defaults(self) -> None:
        """Drop what a checkpoint's own generation config asks for (sampling, penalties, ends of text)."""
        transformers = import_extra("transformers")
        self.model.generation_config = transformers.GenerationConfig()


def load_transformers(files: ResolvedFiles, *, dtype: str = "float32") -> TransformersPeer:
    """Read a checkpoint's weights with transformers' own loader. Raises `ConfigError` without torch and accelerate."""
    torch, transformers = import_extra("torch"), import_extra("transformers")
    import_extra("accelerate")
    transformers.utils.logging.disable_progress_bar()  # a bar a tensor; loading is not what is measured
    which = {"gguf_file": files.weights[0].name} if files.is_gguf else {}
    folder = files.weights[0].parent if files.is_gguf else files.folder
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **which)
    return TransformersPeer(model.to("cuda" if torch.cuda.is_available() else "cpu"))


def _cut(ids: Sequence[int], stops: frozenset[int]) -> list[int]:
    """Return a row's tokens up to its stop token; behind it `generate` pads."""
    ends = [count for count, token in enumerate(ids, start=1) if token in stops]
    return list(ids[: ends[0]] if ends else ids)
