"""Progress away from a terminal: a line now and then, and none when asked to be quiet."""

import itertools
import re

import pytest

from hierrouter_jax.core import progress


@pytest.fixture
def clock(monkeypatch):
    """Make every look at the clock 7 seconds later than the one before."""
    ticks = itertools.count(start=100.0, step=7.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


def test_a_log_gets_a_line_each_interval_with_the_time_left(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 20.0)
    with progress.progress_bar("asking", 11) as advance:
        for step in range(11):
            advance(1, note=f"{step} [tok/s]" if step != 4 else None)
    captured = capsys.readouterr()
    assert captured.out == ""
    # Looks at 7, 14, ... seconds; a line at the first look 20 seconds or more after the last line.
    assert captured.err.splitlines() == [
        "asking: 3/11, 0:00:21 gone, 0:00:56 left 2 [tok/s]",
        "asking: 6/11, 0:00:42 gone, 0:00:35 left 5 [tok/s]",
        "asking: 9/11, 0:01:03 gone, 0:00:14 left 8 [tok/s]",
    ]


def test_no_time_left_is_told_before_anything_is_done(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    with progress.progress_bar("asking", 5) as advance:
        advance(0)
    assert re.fullmatch(r"asking: 0/5, 0:00:07 gone, -:--:-- left\n", capsys.readouterr().err)


def test_quiet_says_nothing(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    with progress.progress_bar("asking", 5, is_quiet=True) as advance:
        advance(5)
    assert capsys.readouterr().err == ""
