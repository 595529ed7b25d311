"""Freed memory goes back to the system."""

import sys

import numpy as np
import psutil
import pytest

from hierrouter_jax.llm.host_memory import give_back_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="what the C library keeps differs elsewhere")
def test_freed_memory_below_memory_in_use_goes_back_to_the_system():
    process, num_bytes = psutil.Process(), 96 * 2**10  # small enough to come from the heap, not from the system
    arrays = [np.ones(num_bytes, np.uint8) for _ in range(2003)]
    held = process.memory_info().rss
    del arrays[:-1]  # the last one stands above the others, so nothing is given back of itself
    assert process.memory_info().rss > held - 20 * 2**20
    give_back_freed_memory()
    assert process.memory_info().rss < held - 150 * 2**20
