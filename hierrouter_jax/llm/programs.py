"""How many compiled programs of generation are held at a time.

Every new size compiles a program, and a program of an unrolled decoder takes 30 to 60 MB of host memory for as long as
it is held: a collection over a few models, which meets some hundred sizes, would fill a machine with them. So all are
let go together when there are too many. Those still needed come back within a second each where the cache of compiled
programs is on, as it is on the command line.
"""

from __future__ import annotations

from typing import Any

from hierrouter_jax.llm.cache import insert_layer_rows, resize_layer, take_layer_rows
from hierrouter_jax.llm.decode_loop import decode_chunk
from hierrouter_jax.llm.host_memory import give_back_freed_memory
from hierrouter_jax.llm.likelihood import join_states, sum_logprobs
from hierrouter_jax.llm.prompt_lookup import verify_proposals
from hierrouter_jax.llm.reading import begin_piece, draw_first, last_states, read_piece, run_layer

DECODER_PROGRAMS: tuple[Any, ...] = (decode_chunk, verify_proposals, read_piece)
LAYER_PROGRAMS: tuple[Any, ...] = (
    *(begin_piece, run_layer, last_states, draw_first, join_states, sum_logprobs),
    *(insert_layer_rows, resize_layer, take_layer_rows),
)
LAYERS_PER_DECODER = 16  # so many programs of a layer take about as much memory as one of a decoder


def count_programs() -> int:
    """Return how many compiled programs of generation are held, of all models, in programs of a whole decoder."""
    num_small = sum(program._cache_size() for program in LAYER_PROGRAMS)
    return sum(program._cache_size() for program in DECODER_PROGRAMS) + num_small // LAYERS_PER_DECODER


def bound_programs(max_programs: int) -> None:
    """Let all of them go when they are more than `max_programs`."""
    if count_programs() > max_programs:
        for program in (*DECODER_PROGRAMS, *LAYER_PROGRAMS):
            program.clear_cache()
        give_back_freed_memory()
