"""What is kept from standard error comes from Orbax's threads; everything else passes. See also the full-disk test."""

import asyncio
import logging
import sys
from types import SimpleNamespace

import pytest

from hierrouter_jax.train.orbax_noise import silence_orbax_threads

ORBAX_FILE = "/somewhere/site-packages/orbax/checkpoint/_src/futures/future.py"


@pytest.fixture
def passed(monkeypatch):
    """The list of everything that an unraisable hook in place before ours is handed."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    silence_orbax_threads()
    return seen


def raised(function):
    with pytest.raises(RuntimeError) as caught:
        function()
    return caught.value


def call_closed_loop():
    loop = asyncio.new_event_loop()
    loop.close()
    loop.call_soon_threadsafe(print)


def unraisable(error, trace, *, at=None):
    return SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=trace, object=at, err_msg=None)


def test_a_call_from_c_into_a_closed_loop_is_dropped_and_one_from_python_is_not(passed):
    error = raised(call_closed_loop)
    outermost = error.__traceback__
    while outermost.tb_frame.f_code.co_name != "call_soon_threadsafe":
        outermost = outermost.tb_next  # as if C had called, there is no Python frame around it
    sys.unraisablehook(unraisable(error, outermost))
    assert passed == []
    others = [
        unraisable(error, error.__traceback__),
        unraisable(error, outermost, at=print),
        unraisable(RuntimeError("Event loop is running"), outermost),
        unraisable(ValueError("Event loop is closed"), outermost),
        unraisable(error, None),
    ]
    for one in others:
        sys.unraisablehook(one)
    assert passed == others


def test_the_hook_is_put_in_place_once(passed):
    hook = sys.unraisablehook
    silence_orbax_threads()
    assert sys.unraisablehook is hook
    assert logging.getLogger("absl").filters == list(dict.fromkeys(logging.getLogger("absl").filters))


def test_only_traces_of_orbax_are_kept_from_the_log(passed):
    logger = logging.getLogger("absl")
    trace = (ValueError, ValueError("full"), None)
    cases = [(ORBAX_FILE, trace, False), (ORBAX_FILE, None, True), ("/home/me/orbax.py", trace, True)]
    for path, exc_info, is_kept in cases:
        record = logging.LogRecord("absl", logging.ERROR, path, 7, "it failed", (), exc_info)
        assert bool(logger.filter(record)) == is_kept
