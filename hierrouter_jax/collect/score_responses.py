"""Scoring collected responses: each distinct (row, text) once, in parallel, and never again once it is stored.

Scores depend on the row, the text and the version of the scorer, and are kept in the store under the digest of these.
Most are string comparisons; programs run in the sandbox, a child process each, so threads keep all cores busy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hierrouter_jax.tasks
from hierrouter_jax.core.configs import digest, from_json_dict
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.progress import Advance
from hierrouter_jax.store.request_keys import score_key
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.scoring import AnswerScore, score_answer
from hierrouter_jax.tasks.task_row import TaskRow


@dataclass(frozen=True, kw_only=True)
class StoredScore:
    """What is kept of an `AnswerScore`. `answer` is a digest of the answer's identity, "" where none was found."""

    quality: float
    is_parsed: bool
    answer: str = ""
    passes_examples: bool | None = None


Scorer = Callable[[TaskRow, str], AnswerScore]
COMMIT_INTERVAL_S = 1.0
# What is asked says nothing of how an answer is read.
PROMPT_FILES = frozenset({"prompts.py", "prompt_forms.py", "prompt_texts.py", "later_hop_texts.py"})


def version_of(scorer: Scorer, scorer_version: str | None) -> str:
    """Return the version under which the scores of `scorer` are kept.

    That of the package's own scorer is the digest of the source of `tasks`, prompts apart: a changed extraction rule is
    never met by scores of the old one. `ConfigError` when a scorer of another's comes without a version.
    """
    if scorer_version is not None:
        return scorer_version
    if scorer is not score_answer:
        raise ConfigError(
            "A scorer of your own needs a scorer_version, so that stored scores can be told from newer "
            "ones; give any text, and another when the scorer changes."
        )
    folder = Path(hierrouter_jax.tasks.__file__).parent
    files = [file for file in sorted(folder.rglob("*.py")) if file.name not in PROMPT_FILES]
    sources = {str(file.relative_to(folder)): file.read_text("utf-8") for file in files}
    return digest(sources)[:16]


def missing_scores(
    store: ResponseStore, answers: Iterable[tuple[TaskRow, str]], *, scorer_version: str
) -> tuple[dict[tuple[str, str], StoredScore], dict[str, tuple[TaskRow, str]]]:
    """Return the stored scores by (row id, text), and what is not stored by score key."""
    by_key = {score_key(row, text, scorer_version=scorer_version): (row, text) for row, text in answers}
    stored = store.get_scores(by_key)
    known = {
        (row.id, text): from_json_dict(StoredScore, stored[key], what=f"score {key[:12]}")
        for key, (row, text) in by_key.items()
        if key in stored
    }
    return known, {key: answer for key, answer in by_key.items() if key not in stored}


def score_missing(
    store: ResponseStore, missing: Mapping[str, tuple[TaskRow, str]], scorer: Scorer, *, advance: Advance
) -> dict[tuple[str, str], StoredScore]:
    """Score and commit answers by score key; return the scores by (row id, text).

    What is finished when the run is interrupted is committed too; a kill loses at most the last second's scores.
    """
    scores: dict[tuple[str, str], StoredScore] = {}
    pending: dict[str, dict[str, Any]] = {}
    committed_s = time.monotonic()
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        key_of = {pool.submit(scorer, *answer): key for key, answer in missing.items()}
        for future in as_completed(key_of):
            key, score = key_of[future], _stored(future.result())
            row, text = missing[key]
            scores[row.id, text] = score
            pending[key] = asdict(score)
            advance(1)
            if time.monotonic() - committed_s > COMMIT_INTERVAL_S:
                store.put_scores(pending)
                pending, committed_s = {}, time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)  # programs that run are awaited, no other is begun
        store.put_scores(pending)
    return scores


def _stored(score: AnswerScore) -> StoredScore:
    reading = score.reading
    return StoredScore(
        quality=float(score.quality),
        is_parsed=score.is_parsed,
        answer="" if reading.identity is None else digest(reading.identity)[:16],
        passes_examples=reading.passes_examples,
    )
