"""An interrupt that Python drops comes again; other dropped exceptions are told as ever."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc, time
from hierrouter_jax.cli.interrupts import keep_interrupts

keep_interrupts()

def raise_once(*_):
    gc.callbacks.remove(raise_once)
    raise {error}

class Fragile:
    def __del__(self):
        raise {error}

try:
    {where}
    time.sleep({patience_s})
    print("undisturbed")
except KeyboardInterrupt:
    print("interrupted")
"""
PLACES = {"destructor": "Fragile()", "collector": "gc.callbacks.append(raise_once); gc.collect()"}


def run(error, where, patience_s):
    program = PROGRAM.format(error=error, where=where, patience_s=patience_s)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
def test_a_dropped_interrupt_comes_again(where):
    done = run("KeyboardInterrupt", where, patience_s=30)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_other_dropped_exceptions_are_told():
    done = run("ValueError('odd')", PLACES["destructor"], patience_s=0.2)
    assert done.stdout == "undisturbed\n"
    assert "ValueError: odd" in done.stderr
