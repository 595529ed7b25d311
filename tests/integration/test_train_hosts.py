"""`hierrouter train` as several processes on this machine, as on several hosts: the same result as one process, all
stop when one is told to, none hangs when one is lost, and a run goes on with any number of them."""

from __future__ import annotations

import signal
import socket
import time

import jax
import numpy as np
import pytest
from host_processes import PATIENCE_S, Ended, Job, free_port, run_to_end, start_command
from scripted_trees import save_scripted_tree

from hierrouter_jax.train.checkpoint import finished_steps
from hierrouter_jax.train.loop import load_router
from hierrouter_jax.train.metrics_log import read_metrics

NUM_UPDATES = 50
PREEMPTED, WORKER_LOST = 75, 76


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tree file, the options of a tiny run on it, and the run of one process left alone."""
    folder = tmp_path_factory.mktemp("hosts")
    save_scripted_tree(folder / "tree.npz")
    options = [
        *("--tree", str(folder / "tree.npz"), "--num-updates", str(NUM_UPDATES), "--num-envs", "24"),
        *("--checkpoint-interval", "10", "--validation-interval", "30", "--num-minibatches", "2", "--num-epochs", "1"),
        *("--hidden-sizes", "7", "--stage-embed-dim", "3", "--learning-rate", "0.003"),
    ]
    run_to_end(folder / "logs", folder / "alone", 1, *options, cache=folder / "cache")
    return folder, options


def assert_same_training(run_dir, alone):
    """Within 1e-5 of the run of one process, which went somewhere."""
    ours, theirs, start = load_router(run_dir), load_router(alone), load_router(alone, step=NUM_UPDATES - 10)

    def largest_difference(first, second):
        return max(
            float(np.abs(np.asarray(a) - np.asarray(b)).max())
            for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True)
        )

    assert largest_difference(ours, theirs) < 1e-5
    assert largest_difference(start, theirs) > 1e-4
    rows, expected = read_metrics(run_dir), read_metrics(alone)
    assert [row["update"] for row in rows] == list(range(1, NUM_UPDATES + 1))
    for name in ("utility", "num_hops", "entropy"):
        np.testing.assert_allclose([row[name] for row in rows], [row[name] for row in expected], atol=1e-5)
    assert [row.get("validation/utility") for row in rows] == pytest.approx(
        [row.get("validation/utility") for row in expected], abs=1e-5
    )


@pytest.mark.parametrize(("num_processes", "backend"), [(2, "pmap"), (4, "shard_map")])
def test_processes_train_as_one_does(world, tmp_path, num_processes, backend):
    folder, options = world
    run_to_end(tmp_path, tmp_path / "run", num_processes, *options, "--backend", backend, cache=folder / "cache")
    assert_same_training(tmp_path / "run", folder / "alone")
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def test_stopped_killed_and_resumed_with_other_numbers_of_processes(world, tmp_path):
    """Four, of which one gets SIGTERM; two, of which one is killed; one, which gets SIGTERM; one, to the end."""
    folder, options = world
    run_dir, options = tmp_path / "run", [*options, "--resume", "--worker-timeout", "400"]
    with Job(tmp_path / "four", run_dir, 4, *options, cache=folder / "cache") as job:
        job.wait_until(lambda: latest_step(run_dir) >= 10)
        first = stop_by_sigterm(job, run_dir)
    with Job(tmp_path / "two", run_dir, 2, *options, "--backend", "shard_map", cache=folder / "cache") as job:
        job.wait_until(lambda: latest_step(run_dir) > first)
        job.send(1, signal.SIGKILL)
        (ended,) = job.ends(but=(1,), within_s=400)
    assert_tells_of_loss(ended)
    second = latest_step(run_dir)
    assert first < second < NUM_UPDATES
    with Job(tmp_path / "alone", run_dir, 1, *options, cache=folder / "cache") as job:
        job.wait_until(lambda: list(run_dir.glob(f"events.*.{second:09d}")))  # the first block is on its way
        assert second < stop_by_sigterm(job, run_dir)
    run_to_end(tmp_path / "end", run_dir, 1, *options, cache=folder / "cache")
    assert_same_training(run_dir, folder / "alone")


def latest_step(run_dir) -> int:
    return max(finished_steps(run_dir / "checkpoints"), default=0)


def stop_by_sigterm(job, run_dir) -> int:
    """Send SIGTERM to the last process of a job; return the update after which all of them stopped."""
    job.send(len(job.processes) - 1, signal.SIGTERM)
    ended = job.ends()
    assert {one.code for one in ended} == {PREEMPTED}, job.logs()
    stopped_at = latest_step(run_dir)
    assert 0 < stopped_at < NUM_UPDATES
    assert len(read_metrics(run_dir)) == stopped_at
    for one in ended:
        assert f"stopped by request after update {stopped_at} of {NUM_UPDATES}" in one.output
        assert "Traceback" not in one.output
    return stopped_at


def assert_tells_of_loss(ended: Ended) -> None:
    assert ended.code == WORKER_LOST, ended.output
    assert "lost" in ended.output or "another process ended or hangs" in ended.output
    assert "resume the run" in ended.output
    assert "Traceback" not in ended.output


def test_the_loss_of_process_0_ends_the_other(world, tmp_path):
    folder, options = world
    with Job(tmp_path, tmp_path / "run", 2, *options, "--worker-timeout", "400", cache=folder / "cache") as job:
        job.wait_until(lambda: latest_step(tmp_path / "run") >= 10)
        job.send(0, signal.SIGKILL)
        (ended,) = job.ends(but=(0,), within_s=400)
    assert_tells_of_loss(ended)
    assert finished_steps(tmp_path / "run" / "checkpoints")


def test_a_process_that_hangs_ends_the_other_within_its_time_out(world, tmp_path):
    """The bound starts at 8 s, and is doubled where a slow machine exceeds it at its start."""
    folder, options = world
    for attempt in range(6):
        timeout_s, place = 8 * 2**attempt, tmp_path / str(attempt)
        told = [*options, "--worker-timeout", str(timeout_s)]
        with Job(place, place / "run", 2, *told, cache=folder / "cache") as job:
            while latest_step(place / "run") < 10 and not job.has_ended():
                time.sleep(0.01)
            if job.has_ended():
                continue
            job.send(1, signal.SIGSTOP)
            (ended,) = job.ends(but=(1,), within_s=timeout_s + 60)
            break
    assert_tells_of_loss(ended)
    assert f"did not end within {timeout_s} s" in ended.output


def test_processes_that_were_told_different_things_fail_together(world, tmp_path):
    folder, options = world
    port = free_port()
    common = ["--run-dir", str(tmp_path / "run"), "--coordinator", f"localhost:{port}", "--num-processes", "2"]
    started = [
        start_command(
            "train",
            [*common, "--process-id", index, *options, "--seed", index],
            log=tmp_path / f"{index}.log",
            cache=folder / "cache",
        )
        for index in range(2)
    ]
    assert [process.wait(PATIENCE_S) for process in started] == [2, 2]
    for index in range(2):
        output = (tmp_path / f"{index}.log").read_text()
        assert "must be started with the same options, tree and version, but process 1 differs" in output
        assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process-id", "2"], "process_id must lie in [0, 2) (num_processes), but is 2"),
        (["--process-id", "-1"], "process_id must lie in [0, 2)"),
        ([], "process_id is missing"),
        (["--process-id", "1", "--worker-timeout", "0"], "worker_timeout_s must be > 0"),
        (["--process-id", "1", "--connect-timeout", "1"], "must answer at localhost:1 within 1 s"),
        (["--process-id", "0", "--connect-timeout", "4"], "All processes must join within 4 s"),
    ],
)
def test_places_that_are_none_are_told(tmp_path, arguments, message):
    """Also a coordinator that nobody answers at, and one that nobody comes to."""
    port = free_port() if arguments[:2] == ["--process-id", "0"] else 1
    words = ["--run-dir", tmp_path / "run", "--coordinator", f"localhost:{port}", "--num-processes", 2, *arguments]
    process = start_command("train", words, log=tmp_path / "log", cache=tmp_path / "cache")
    assert process.wait(PATIENCE_S) == 2
    output = (tmp_path / "log").read_text()
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_a_taken_port_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        words = ["--run-dir", tmp_path, "--coordinator", f"localhost:{taken.getsockname()[1]}"]
        words += ["--num-processes", 2, "--process-id", 0]
        process = start_command("train", words, log=tmp_path / "log", cache=tmp_path / "cache")
        assert process.wait(PATIENCE_S) == 2
    assert "Choose a free port" in (tmp_path / "log").read_text()


def test_a_full_disk_of_one_is_told_by_all(world, tmp_path):
    """The first process may write no file of more than 7 KiB: the checkpoint that all of them write has no room."""
    folder, options = world
    with Job(tmp_path, tmp_path / "run", 2, *options, cache=folder / "cache", max_file_kib=7) as job:
        for one in job.ends():
            assert one.code == 2, one.output
            assert "Writing the checkpoint of update 0" in one.output
            assert "Traceback" not in one.output
