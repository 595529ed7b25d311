"""The peer of collection: a straightforward loop of transformers over the same requests.

Stage after stage, model after model, in the order asked: written answers by `generate` in static batches of 16 with the
same stop tokens, stop strings and budgets; ranked options by one forward pass over every 16 rows of prompt and option.
Reading weights is not counted. Responses of a later stage's prompts are ours, so that both sides answer the same
requests.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hierrouter_jax.bench.report import announce
from hierrouter_jax.bench.rows import machine
from hierrouter_jax.bench.transformers_peer import TransformersPeer, load_transformers
from hierrouter_jax.bench.tree_requests import TreeRun
from hierrouter_jax.collect.asking import AskedRequest
from hierrouter_jax.core.configs import read_json
from hierrouter_jax.core.errors import DataError
from hierrouter_jax.core.progress import Advance, progress_bar
from hierrouter_jax.llm.pool import Pool
from hierrouter_jax.llm.stop_strings import make_stop_test, until_stop
from hierrouter_jax.llm.token_counts import TokenCounts
from hierrouter_jax.llm.tokenizer import Tokenizer

BATCH_SIZE = 16
SAME_MACHINE = ("num_cores", "cpu", "device_kind")
LEAST_SHARED = 0.95  # of the requests: two tokens that tie may swap, and with them the prompts of a later stage


@dataclass(frozen=True, kw_only=True)
class PeerRun:
    """What the loop took: seconds, tokens of written answers and of ranked options, answers letter for letter ours."""

    wall_s: float
    cpu_s: float  # of all cores
    written: TokenCounts
    ranked: TokenCounts
    num_equal: int
    keys: tuple[str, ...]  # of the requests
    machine: dict[str, Any]
    reused_from: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `read_peer` reads."""
        return asdict(self)


def run_peer(pool: Pool, run: TreeRun, *, dtype: str = "float32") -> PeerRun:
    """Answer the requests of `run`; needs torch."""
    wall_s, cpu_s, written, ranked, texts = 0.0, 0.0, TokenCounts(), TokenCounts(), dict[str, str]()
    with progress_bar("transformers: answering", len(run.requests)) as advance:
        for number, stage in enumerate(run.stages, start=1):
            for card in pool.cards:
                own = [one for one in stage if one.request.model == card.name]
                if not own:
                    continue
                peer = load_transformers(pool.files(card.name), dtype=dtype)
                began_s, began_cpu_s = time.perf_counter(), time.process_time()
                answers, own_written, own_ranked = answer_requests(peer, pool.tokenizer(card.name), own, advance)
                own_s, own_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
                announce(f"transformers, stage {number}, {card.name}: {own_s:.1f} s, {own_cpu_s:.1f} s of processor")
                wall_s, cpu_s = wall_s + own_s, cpu_s + own_cpu_s
                written, ranked, texts = written + own_written, ranked + own_ranked, texts | answers
                del peer
                gc.collect()
    num_equal = sum(run.responses[key].text == text for key, text in texts.items())
    keys = tuple(one.key for one in run.requests)
    return PeerRun(
        wall_s=wall_s, cpu_s=cpu_s, written=written, ranked=ranked, num_equal=num_equal, keys=keys, machine=machine()
    )


def answer_requests(
    peer: TransformersPeer, tokenizer: Tokenizer, asked: Sequence[AskedRequest], advance: Advance
) -> tuple[dict[str, str], TokenCounts, TokenCounts]:
    """Answer the requests of one model; return the texts by key, and the tokens of written and of ranked ones."""
    written = [one for one in asked if not one.encoded.options]
    ranked = [one for one in asked if one.encoded.options]
    written_texts, written_counts = _write(peer, tokenizer, written, advance)
    ranked_texts, ranked_counts = _rank(peer, tokenizer, ranked, advance)
    return written_texts | ranked_texts, written_counts, ranked_counts


def read_peer(path: Path, run: TreeRun) -> PeerRun:
    """Return the peer's run of an earlier `bench collect --json`.

    Raises `DataError` when it was measured on another machine, or shares too few requests with `run`.
    """
    stated = read_json(path).get("peer")
    if not isinstance(stated, dict):
        raise DataError(f"{path} must hold the peer's run of an earlier `bench collect --json`, but has none.")
    here = machine()
    others = [name for name in SAME_MACHINE if stated["machine"][name] != here[name]]
    if others:
        raise DataError(
            f"{path} was measured on another machine ({', '.join(others)} differ); run the peer on this one."
        )
    keys, own = set(stated["keys"]), {one.key for one in run.requests}
    shared = len(keys & own) / max(len(keys | own), 1)
    if shared < LEAST_SHARED:
        raise DataError(
            f"{path} must hold the peer's run of the same requests, but shares only {shared:.0%} with this run; "
            "give the same rows and queries a task, or run the peer again."
        )
    counts = {name: TokenCounts(**stated[name]) for name in ("written", "ranked")}
    return PeerRun(**(stated | counts | {"keys": tuple(stated["keys"]), "reused_from": str(path)}))


def _write(
    peer: TransformersPeer, tokenizer: Tokenizer, written: Sequence[AskedRequest], advance: Advance
) -> tuple[dict[str, str], TokenCounts]:
    texts, counts = dict[str, str](), TokenCounts()
    for start in range(0, len(written), BATCH_SIZE):
        batch = written[start : start + BATCH_SIZE]
        answers = peer.generate(
            [one.encoded.token_ids for one in batch],
            max_new_tokens=[one.encoded.max_new_tokens for one in batch],
            stop_token_ids=tokenizer.stop_token_ids,
            is_complete=make_stop_test(tokenizer.decode, [one.encoded.stop for one in batch]),
        )
        counts += answers.counts
        for one, ids in zip(batch, answers.token_ids, strict=True):
            texts[one.key] = until_stop(tokenizer.decode(ids), one.encoded.stop)
        advance(len(batch))
    return texts, counts


def _rank(
    peer: TransformersPeer, tokenizer: Tokenizer, ranked: Sequence[AskedRequest], advance: Advance
) -> tuple[dict[str, str], TokenCounts]:
    """Choose the likeliest option per byte of each request."""
    rows = [(one.encoded.token_ids, option) for one in ranked for option in one.encoded.options]
    scores, texts, counts = list[float](), dict[str, str](), TokenCounts()
    for start in range(0, len(rows), BATCH_SIZE):
        batch = rows[start : start + BATCH_SIZE]
        ids = [tokenizer.encode(option, add_special_tokens=False) for _, option in batch]
        own_scores, own_counts = peer.score([prompt for prompt, _ in batch], ids)
        scores += own_scores
        counts += own_counts
    left = iter(scores)
    for one in ranked:
        rates = [next(left) / len(option.strip().encode()) for option in one.encoded.options]
        texts[one.key] = one.encoded.options[rates.index(max(rates))]
    advance(len(ranked))
    num_prompt = sum(len(one.encoded.token_ids) for one in ranked)
    return texts, counts + TokenCounts(billed_prompt=num_prompt, billed_new=len(ranked))
