"""Ctrl-C is held until a block has ended, and not lost."""

import signal
import threading

import pytest

from hierrouter_jax.train.held_interrupts import interrupts_held


@pytest.fixture(autouse=True)
def handler_restored():
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def press():
    signal.raise_signal(signal.SIGINT)


def held(*actions):
    with interrupts_held():
        for action in actions:
            action()


def test_the_first_interrupt_waits_for_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt):
        held(press, lambda: done.append("whole"))
    assert done == ["whole"]


def test_without_an_interrupt_nothing_is_raised():
    held(lambda: None)
    with pytest.raises(KeyboardInterrupt):
        press()


def test_a_second_interrupt_comes_at_once():
    done = []
    with pytest.raises(KeyboardInterrupt):
        held(press, lambda: done.append("first"), press, lambda: done.append("second"))
    assert done == ["first"]


def test_an_error_of_the_block_stands_behind_the_interrupt():
    with pytest.raises(KeyboardInterrupt) as raised:
        held(press, lambda: [].pop())
    assert isinstance(raised.value.__context__, IndexError)


def test_blocks_in_blocks_hold_it_to_the_end_of_the_outermost():
    done = []
    with pytest.raises(KeyboardInterrupt):
        held(lambda: held(press, lambda: done.append("inner")), lambda: done.append("outer"))
    assert done == ["inner", "outer"]


def test_an_interrupt_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_handles_no_signals_and_is_left_alone():
    failed = []

    def work():
        try:
            with interrupts_held():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
