"""The `hierrouter` command: picks the subcommand, reads its typed options, and turns errors into exit codes.

Exit codes: 0 done; 2 bad input (a `HierRouterError`, an unknown option, a place that cannot be written), with the
message alone on standard error; 75 and 76, of `train`, where it was stopped by SIGTERM after a checkpoint and where
another of its processes was lost; 130 interrupted. Anything else is a defect of ours and keeps its traceback.

A subcommand's module is imported only when it is asked for, so that `--help` answers at once. It defines `Command`, a
frozen dataclass (or a union of them) that tyro fills, and `run(command)`; where defaults depend on the command line
itself, also `command_for(arguments)`, which returns the class to fill.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from hierrouter_jax.cli.accelerator import keep_compiled_programs
from hierrouter_jax.cli.interrupts import keep_interrupts
from hierrouter_jax.cli.output import print_error, print_lines
from hierrouter_jax.core.errors import HierRouterError

BAD_INPUT, INTERRUPTED = 2, 130
PLACE_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
}

COMMANDS = {
    "quickstart": "packaged real tree -> train -> evaluate -> report, then three questions answered live",
    "pool": "list the models of a pool, pull their weights, check them with a short generation",
    "collect": "tasks x pool -> response store and tree file; goes on where it was stopped",
    "outcomes": "recorded outcomes of your own models (JSONL) -> tree file, to train and evaluate on",
    "store": "merge the response stores of several hosts, count what a store holds",
    "train": "tree -> run directory with a trained router; --resume goes on",
    "sweep": "every cost weight x seeds, trained as one program -> Pareto front, picture and table",
    "evaluate": "run, or tree alone -> table of the router and all baselines, with intervals",
    "route": "answer a question, or JSONL from standard input, through the trained router",
    "crowd": "human-computation algorithms on models, routers and people",
    "report": "runs -> one self-contained page with figures",
    "bench": "throughput and latency, each beside a named peer in the same run",
}
COMPILING = frozenset({"quickstart", "pool", "collect", "outcomes", "train", "sweep", "evaluate", "route", "bench"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code; without `arguments`, as the command of this process."""
    if arguments is None:
        keep_interrupts()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print_lines(_overview())
        return 0
    if given[0] == "--version":
        print_lines([f"hierrouter {version('hierrouter_jax')}"])
        return 0
    if given[0] not in COMMANDS:
        print_error(f"{given[0]!r} is not a command; the commands are: {', '.join(COMMANDS)}.")
        return BAD_INPUT
    return _run_guarded(given[0], given[1:])


def _run_guarded(name: str, arguments: Sequence[str]) -> int:
    try:
        _run(name, arguments)
    except HierRouterError as error:
        print_error(str(error))
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        print_error(str(interrupt) or "Interrupted; what was stored before is whole.", label="stopped")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: nothing more is flushed to it
        return 0
    except OSError as error:
        if error.errno not in PLACE_ERRORS:
            raise
        print_error(f"{error}. Free space or choose a place that can be written; what was stored before is whole.")
        return BAD_INPUT
    return 0


def _run(name: str, arguments: Sequence[str]) -> None:
    import tyro

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # or JAX's C++ warns of each of its switches that we set
    module = importlib.import_module(f"hierrouter_jax.cli.{name}")
    command = tyro.cli(
        module.command_for(arguments) if hasattr(module, "command_for") else module.Command,
        prog=f"hierrouter {name}",
        description=f"{COMMANDS[name]}.",
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
    # Or transformers says on every start that it found no PyTorch; its tokenizers, all we use of it, need none.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if name in COMPILING:
        keep_compiled_programs()
    module.run(command)


def _overview() -> list[str]:
    width = max(map(len, COMMANDS)) + 2
    return [
        "usage: hierrouter COMMAND [options]",
        "",
        "Learned multi-hop routing over pools of small language models.",
        "",
        *(f"  {name:<{width}}{description}" for name, description in COMMANDS.items()),
        "",
        "hierrouter COMMAND --help lists a command's options. --json PATH writes its outcome as JSON.",
    ]


if __name__ == "__main__":
    sys.exit(main())
