"""Iterators side by side, each in a thread of its own: what comes first is handed over first.

Devices work at the same time only if nobody waits for one of them, and an iterator that drives a device waits for it
at every step.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.1


def side_by_side(
    iterators: Sequence[Iterator[T]], *, context: Callable[[int], AbstractContextManager[object]] | None = None
) -> Iterator[T]:
    """Yield what all of the iterators yield, in the order in which it comes.

    Each runs in a thread within `context(its index)`, at most one item ahead of what was taken. An error of one ends
    all and is raised here. When the caller stops early, each iterator is closed after the item it is at.
    """
    if len(iterators) == 1 and context is None:
        yield from iterators[0]
        return
    items: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(maxsize=1)
    is_stopped = threading.Event()

    def hand_over(item: tuple[bool, T | BaseException | None]) -> bool:
        while not is_stopped.is_set():
            try:
                items.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def drive(index: int) -> None:
        try:
            with nullcontext() if context is None else context(index), _closed_after(iterators[index]) as own:
                for item in own:
                    if not hand_over((False, item)):
                        break
        except BaseException as error:  # whatever it is, the caller's thread is where it belongs
            hand_over((True, error))
        else:
            hand_over((True, None))

    threads = [threading.Thread(target=drive, args=(index,), daemon=True) for index in range(len(iterators))]
    for thread in threads:
        thread.start()
    try:
        num_running = len(iterators)
        while num_running:
            is_end, item = items.get()
            if not is_end:
                yield item  # type: ignore[misc]
            elif isinstance(item, BaseException):
                raise item
            else:
                num_running -= 1
    finally:
        is_stopped.set()
        for thread in threads:
            thread.join()


@contextmanager
def _closed_after(iterator: Iterator[T]) -> Iterator[Iterator[T]]:
    """Close a generator in its own thread; other iterators have nothing to close."""
    try:
        yield iterator
    finally:
        if isinstance(iterator, Generator):
            iterator.close()
