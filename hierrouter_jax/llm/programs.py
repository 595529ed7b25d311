"""How many compiled programs of generation are held at a time.

Every new size compiles a program, and a program of an unrolled decoder takes 30 to 60 MB of host memory for as long as
it is held: a collection over a few models, which meets some hundred sizes, would fill a machine with them. So all are
let go together when there are too many. Those still needed come back within a second each where the cache of compiled
programs is on, as it is on the command line.
"""

from __future__ import annotations

from typing import Any

from hierrouter_jax.llm.decode_loop import decode_chunk, prefill, take_state_rows
from hierrouter_jax.llm.likelihood import branch_logprobs, last_logprobs, read_prompts

PROGRAMS: tuple[Any, ...] = (prefill, decode_chunk, take_state_rows, read_prompts, branch_logprobs, last_logprobs)


def count_programs() -> int:
    """Return how many compiled programs of generation are held, of all models."""
    return sum(program._cache_size() for program in PROGRAMS)


def bound_programs(max_programs: int) -> None:
    """Let all of them go when they are more than `max_programs`."""
    if count_programs() > max_programs:
        for program in PROGRAMS:
            program.clear_cache()
