"""Agreement and set-up as one process sees them, and what processes tell each other; several real ones are in
tests/integration/test_train_hosts.py."""

import os
import signal
import subprocess
import sys

import pytest

from hierrouter_jax.cli.processes import ProcessOptions, process_config
from hierrouter_jax.core.errors import ConfigError, StorageError
from hierrouter_jax.train import distributed
from hierrouter_jax.train.distributed import (
    ProcessConfig,
    WorkerLost,
    agree,
    decide,
    exchange,
    join_processes,
    require_equal,
    sigterm_noticed,
    together,
    waiting_for_others,
)


def fail():
    raise StorageError("the disk is full")


def test_alone_everything_is_as_without_it():
    join_processes(ProcessConfig())
    assert exchange("zwölf") == ["zwölf"]
    assert together(lambda: 7) == 7
    assert decide(lambda: "yes") == "yes"
    assert [agree(lambda: None, notice=notice) for notice in (False, True)] == [False, True]
    require_equal("config", "abc")
    for ask in (agree, together, decide):
        with pytest.raises(StorageError, match="the disk is full"):
            ask(fail)
    with waiting_for_others("Nothing", timeout_s=1e-9):
        pass


class Others:
    """Three processes, of which this is the second: what the others report is written here."""

    def __init__(self, monkeypatch, *reports):
        self.reports, self.said = reports, []
        monkeypatch.setattr(distributed.jax, "process_count", lambda: 3)
        monkeypatch.setattr(distributed.jax, "process_index", lambda: 1)
        monkeypatch.setattr(distributed, "exchange", self.exchange)

    def exchange(self, text):
        self.said.append(text)
        return [self.reports[0], text, self.reports[1]]


def test_the_error_of_another_process_is_raised_here(monkeypatch):
    well, ill = '{"notice": false, "error": null}', '{"notice": false, "error": ["StorageError", "no room"]}'
    Others(monkeypatch, well, ill)
    with pytest.raises(StorageError, match="Process 2: no room"):
        agree(lambda: None)
    others = Others(monkeypatch, well, well)
    with pytest.raises(StorageError, match="the disk is full"):
        agree(fail)
    assert others.said == ['{"notice": false, "error": ["StorageError", "the disk is full"]}']


def test_a_notice_to_any_process_is_one_to_all(monkeypatch):
    well, noticed = '{"notice": false, "error": null}', '{"notice": true, "error": null}'
    Others(monkeypatch, well, noticed)
    assert agree(lambda: None)
    Others(monkeypatch, well, well)
    assert not agree(lambda: None)


def test_only_the_first_process_is_asked(monkeypatch):
    well = '{"notice": false, "error": null}'
    others = Others(monkeypatch, well, well)
    decide(lambda: pytest.fail("this is the second process"))
    assert others.said[-1] == ""


def test_values_that_differ_name_their_processes(monkeypatch):
    Others(monkeypatch, "aaaa", "bbbb")
    with pytest.raises(ConfigError, match="same tree, but process 2 differs from process 0"):
        require_equal("tree", "aaaa")


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"), True),
        (RuntimeError("DEADLINE_EXCEEDED: barrier timed out"), True),
        (ValueError("shapes do not fit"), False),
    ],
)
def test_broken_collectives_are_losses_and_other_errors_are_not(monkeypatch, error, is_lost):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    kind, words = (WorkerLost, "resume") if is_lost else (ValueError, "shapes")
    with pytest.raises(kind, match=words), waiting_for_others("The update", timeout_s=60.0):
        raise error


def test_sigterm_is_noticed_and_handled_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_noticed() as is_asked:
        assert not is_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_asked()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_abort_by_cpp_has_a_message_and_a_code():
    code = (
        "import ctypes\nfrom hierrouter_jax.train.distributed import _on_abort\n"
        "_on_abort('error: it was lost', 76)\nctypes.CDLL(None).abort()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (76, "error: it was lost\n")


def test_options_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host-a:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "5")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    config = process_config(ProcessOptions(process_id=4, worker_timeout=7.0))
    assert (config.coordinator, config.num_processes, config.process_id) == ("host-a:1234", 5, 4)
    assert config.worker_timeout_s == 7
    assert not config.is_alone
    monkeypatch.setenv("JAX_PROCESS_ID", "three")
    with pytest.raises(ConfigError, match="JAX_PROCESS_ID must be a number, but is 'three'"):
        process_config(ProcessOptions())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coordinator": "host"}, "HOST:PORT, but is 'host'"),
        ({"coordinator": "host:1", "num_processes": 0, "process_id": 0}, "num_processes must be >= 1"),
        ({"num_processes": 2}, "coordinator, process_id is missing"),
        ({"worker_timeout_s": -1.0}, "worker_timeout_s must be > 0"),
        ({"connect_timeout_s": float("nan")}, "connect_timeout_s must be > 0"),
    ],
)
def test_what_is_no_place_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ProcessConfig(**fields)
