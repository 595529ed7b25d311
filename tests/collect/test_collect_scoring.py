"""Scores through the store: one call a distinct answer, none for a stored one, a new version starts anew."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest
from scripted_collection import last_word_score, make_rows

from hierrouter_jax import tasks
from hierrouter_jax.collect.score_responses import (
    PROMPT_FILES,
    StoredScore,
    missing_scores,
    score_missing,
    version_of,
)
from hierrouter_jax.core.configs import digest
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.scoring import AnswerReading, AnswerScore, score_answer

ROWS = make_rows(3, 2)
ANSWERS = [(row, text) for row in ROWS for text in ("it is 0", "it is 1", "B", "B")]


@pytest.fixture
def store(tmp_path):
    with ResponseStore(tmp_path / "responses.sqlite") as opened:
        yield opened


def score_all(store, scorer, version="1"):
    known, missing = missing_scores(store, ANSWERS, scorer_version=version)
    advanced = []
    found = score_missing(store, missing, scorer, advance=lambda count, note=None: advanced.append(count))
    assert sum(advanced) == len(missing)
    return known | found, len(known), len(missing)


def test_scores_are_the_scorers_and_each_is_made_once(store):
    calls: Counter = Counter()
    lock = threading.Lock()

    def scorer(row, text):
        with lock:
            calls[row.id, text] += 1
        return last_word_score(row, text)

    expected = {(row.id, text): last_word_score(row, text) for row, text in ANSWERS}
    expected = {
        key: StoredScore(
            quality=score.quality,
            is_parsed=score.is_parsed,
            answer=digest(score.reading.identity)[:16] if score.is_parsed else "",
        )
        for key, score in expected.items()
    }
    assert score_all(store, scorer) == (expected, 0, 15)
    assert score_all(store, scorer) == (expected, 15, 0)
    assert set(calls.values()) == {1}
    assert score_all(store, scorer, version="2") == (expected, 0, 15)
    assert set(calls.values()) == {2}


def test_a_failing_scorer_is_told_and_finished_scores_are_kept(store):
    def scorer(row, text):
        if row.id.endswith("letters/1"):
            raise RuntimeError("no sandbox")
        return AnswerScore(quality=0.5, reading=AnswerReading(extracted="x"))

    with pytest.raises(RuntimeError, match="no sandbox"):
        score_all(store, scorer)
    _, missing = missing_scores(store, ANSWERS, scorer_version="1")
    assert {row.id for row, _ in missing.values()} >= {"train/letters/1"}
    assert score_all(store, last_word_score)[1] == 15 - len(missing)


def test_versions():
    assert version_of(last_word_score, "mine") == "mine"
    assert version_of(score_answer, None) == version_of(score_answer, None)
    assert len(version_of(score_answer, None)) == 16
    with pytest.raises(ConfigError, match="scorer_version"):
        version_of(last_word_score, None)


def test_the_version_follows_what_reads_answers_and_not_what_asks(monkeypatch, tmp_path):
    copy = tmp_path / "tasks"
    shutil.copytree(Path(tasks.__file__).parent, copy)
    monkeypatch.setattr(tasks, "__file__", str(copy / "__init__.py"))
    before = version_of(score_answer, None)
    for name in PROMPT_FILES:
        assert (copy / name).is_file()
        (copy / name).write_text("# other words\n")
    assert version_of(score_answer, None) == before
    (copy / "extraction.py").write_text("# other rules\n")
    assert version_of(score_answer, None) != before
