"""The launch scripts: the commands that they make, and two processes of this machine started by one of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from host_processes import PATIENCE_S, command_environment, free_port
from scripted_trees import save_scripted_tree

from hierrouter_jax.train.checkpoint import finished_steps

LAUNCH = Path(__file__).resolve().parents[2] / "experiments" / "launch"
SCRIPTS = sorted(LAUNCH.iterdir())
COLLECT = ["collect", "--tasks", "rows", "--shard", "{id}/{count}", "--store", "my stores/{id}.sqlite"]


def run(script, *arguments, **variables):
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def dry_lines(script, *arguments, **variables):
    done = run(script, *arguments, DRY_RUN="1", **variables)
    assert done.returncode == 0, done.stderr
    return [line.rstrip() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_whole_and_say_how_they_are_used(script):
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).stderr == b""
    assert "set -euo pipefail" in script.read_text()
    for arguments in ([], ["--help"]):
        done = run(script.name, *arguments)
        assert done.returncode == 0
        assert done.stdout.startswith("usage: ")
    if shellcheck := shutil.which("shellcheck"):
        assert subprocess.run([shellcheck, str(script)], capture_output=True, text=True).stdout == ""


def test_commands_of_processes_here():
    place = "--coordinator localhost:7001 --num-processes 2 --process-id"
    assert dry_lines("localhost.sh", "2", "train", "--run-dir", "my runs/a", PORT="7001") == [
        rf"hierrouter train --run-dir my\ runs/a --resume {place} 0",
        rf"hierrouter train --run-dir my\ runs/a --resume {place} 1",
    ]
    assert dry_lines("localhost.sh", "1", "train", "--resume", "--run-dir", "a", HIERROUTER="uv run hierrouter") == [
        "uv run hierrouter train --resume --run-dir a"
    ]
    assert dry_lines("gpu_node.sh", "--per-gpu", *COLLECT, GPUS="2") == [
        rf"env CUDA_VISIBLE_DEVICES={i} hierrouter collect --tasks rows --shard {i}/2 --store my\ stores/{i}.sqlite"
        for i in range(2)
    ]
    assert dry_lines("gpu_node.sh", "train", "--run-dir", "a") == ["hierrouter train --run-dir a --resume"]


def test_command_of_a_slurm_job_and_what_each_task_makes_of_it(tmp_path):
    """The line that srun would run in each task is run here, once as each task."""
    (line,) = dry_lines("slurm.sbatch", "train", "--run-dir", "a")
    assert line.startswith("srun --kill-on-bad-exit=0 bash -c ")
    assert line.endswith(" task hierrouter train --run-dir a --distributed auto --resume")
    (line,) = dry_lines("slurm.sbatch", *COLLECT, HIERROUTER="printf <%s>")
    for task in range(3):
        environment = {**os.environ, "SLURM_PROCID": str(task), "SLURM_NTASKS": "3"}
        command = line.removeprefix("srun --kill-on-bad-exit=0 ")
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
        assert done.stdout == f"<collect><--tasks><rows><--shard><{task}/3><--store><my stores/{task}.sqlite>"


def test_command_of_a_tpu_pod_and_what_each_worker_makes_of_it(tmp_path):
    """The remote command is run here by a shell whose curl answers as a worker's metadata server does."""
    (line,) = dry_lines("tpu_pod.sh", "pod-a", "zone-b", "train", "--run-dir", "a", REMOTE_DIR="my code", PROJECT="p")
    start = "gcloud compute tpus tpu-vm ssh pod-a --zone zone-b --worker=all"
    assert line.startswith(f"{start} --project p --command ")
    (remote,) = subprocess.run(
        ["bash", "-c", f"printf '%s' {line.split('--command ')[1]}"], capture_output=True, text=True
    ).stdout.splitlines()
    assert remote == r"cd my\ code && exec .venv/bin/hierrouter train --run-dir a --distributed auto --resume"

    (line,) = dry_lines("tpu_pod.sh", "pod-a", "zone-b", *COLLECT, WORKERS="5", REMOTE_DIR=str(tmp_path))
    program = tmp_path / ".venv" / "bin" / "hierrouter"
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/env bash\nprintf '<%s>' \"$@\"\n")
    program.chmod(0o755)
    (tmp_path / "curl").write_text("#!/usr/bin/env bash\necho 3\n")
    (tmp_path / "curl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = line.removeprefix(f"{start} --command ")
    done = subprocess.run(["bash", "-c", f"eval {command}"], env=environment, capture_output=True, text=True)
    assert done.stdout == "<collect><--tasks><rows><--shard><3/5><--store><my stores/3.sqlite>"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("localhost.sh", ["two", "train"], "number of processes must be 1 or more, but is 'two'"),
        ("localhost.sh", ["2"], "a hierrouter command must follow"),
        ("gpu_node.sh", ["--per-gpu"], "a hierrouter command must be given"),
        ("tpu_pod.sh", ["pod-a", "train"], "NAME, ZONE and a hierrouter command"),
        ("tpu_pod.sh", ["pod-a", "zone-b", *COLLECT], "{count} needs the number of workers as WORKERS"),
    ],
)
def test_wrong_use_is_told(script, arguments, message):
    done = run(script, *arguments, GPUS="2")
    assert done.returncode == 2
    assert message in done.stderr


def test_two_processes_started_here_stopped_and_started_again(tmp_path):
    """`localhost.sh` gets SIGTERM, hands it on, and returns their code; once more, it trains to the end."""
    save_scripted_tree(tmp_path / "tree.npz")
    run_dir = tmp_path / "run"
    words = [
        *("bash", str(LAUNCH / "localhost.sh"), "2", "train", "--run-dir", str(run_dir)),
        *("--tree", str(tmp_path / "tree.npz"), "--num-updates", "40", "--num-envs", "8", "--checkpoint-interval", "5"),
        *("--num-minibatches", "1", "--num-epochs", "1", "--hidden-sizes", "3", "--stage-embed-dim", "2"),
    ]
    environment = command_environment(tmp_path / "cache") | {
        "HIERROUTER": f"{sys.executable} -m hierrouter_jax.cli.main",
        "LOG_DIR": str(tmp_path / "logs"),
        "PORT": str(free_port()),
    }

    def logs():
        return "\n".join(path.read_text() for path in sorted((tmp_path / "logs").glob("*.log")))

    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as script:
        deadline_s = time.monotonic() + PATIENCE_S
        while max(finished_steps(run_dir / "checkpoints"), default=0) < 5:
            assert script.poll() is None, logs()
            assert time.monotonic() < deadline_s, logs()
            time.sleep(0.01)
        script.send_signal(signal.SIGTERM)
        _, said = script.communicate(timeout=PATIENCE_S)
    assert script.returncode == 75, f"{said}\n{logs()}"
    assert "process 0 ended with code 75" in said
    stopped_at = finished_steps(run_dir / "checkpoints")[-1]
    assert stopped_at < 40
    done = subprocess.run(words, env=environment | {"PORT": str(free_port())}, timeout=PATIENCE_S)
    assert done.returncode == 0, logs()
    assert finished_steps(run_dir / "checkpoints")[-1] == 40
