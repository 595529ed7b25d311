"""Options of commands that several processes, on one host or many, run together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from hierrouter_jax.cli.main import BAD_INPUT
from hierrouter_jax.cli.output import print_error
from hierrouter_jax.core.errors import ConfigError, HierRouterError
from hierrouter_jax.train.distributed import (
    PREEMPTED_CODE,
    WORKER_LOST_CODE,
    Preempted,
    ProcessConfig,
    WorkerLost,
    end_process,
    join_processes,
    leave_processes,
)

PARTING_TIMEOUT_S = 20.0
ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Which of several processes this is. What is not given is looked for in the environment."""

    coordinator: str | None = None
    """HOST:PORT of process 0 (or JAX_COORDINATOR_ADDRESS); without one, this process is alone."""
    num_processes: int | None = None
    """How many processes there are (or JAX_NUM_PROCESSES)."""
    process_id: int | None = None
    """Which of them this is, from 0 (or JAX_PROCESS_ID)."""
    distributed: Literal["auto"] | None = None
    """auto: TPU pods, Slurm and Open MPI tell all of these by themselves."""
    connect_timeout: float = 120.0
    """Seconds to wait until all processes are there."""
    worker_timeout: float = 300.0
    """Seconds to wait for the others at each visit of the host, compilation included; then the process ends."""


def process_config(options: ProcessOptions) -> ProcessConfig:
    """Return the options with what the environment adds; `ConfigError` where they make no place among processes."""
    values: dict[str, str | int | None] = {}
    for name, variable in ENVIRONMENT.items():
        value: str | int | None = getattr(options, name)
        if value is None and (text := os.environ.get(variable)):
            value = text if name == "coordinator" else _number(variable, text)
        values[name] = value
    return ProcessConfig(
        **values,  # type: ignore[arg-type]
        detect=options.distributed,
        connect_timeout_s=options.connect_timeout,
        worker_timeout_s=options.worker_timeout,
    )


@contextmanager
def joined_processes(options: ProcessOptions) -> Iterator[ProcessConfig]:
    """Run the block as one of the processes, and end as all of them do.

    Exit codes: 75 where training stopped by request with its checkpoint saved, 76 where another process was lost.
    """
    config = process_config(options)
    join_processes(config)
    part = partial(leave_processes, timeout_s=PARTING_TIMEOUT_S)
    try:
        yield config
    except Preempted as stop:
        print_error(str(stop), label="stopped")
        part(PREEMPTED_CODE)
        raise SystemExit(PREEMPTED_CODE) from stop
    except WorkerLost as loss:
        end_process(f"error: {loss}", WORKER_LOST_CODE)
    except HierRouterError as error:
        if config.is_alone:
            raise
        print_error(str(error))
        part(BAD_INPUT)
        raise SystemExit(BAD_INPUT) from error
    part(0)


def _number(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{variable} must be a number, but is {text!r}; correct it or unset it.") from error
