"""Training killed by SIGKILL at random moments, and resumed by new processes, ends with the bits of one left alone.

This file is also the program that is killed: `python test_train_kill.py RUN_DIR` trains, or resumes, in RUN_DIR.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from synthetic_trees import context_dependent_tree

from hierrouter_jax.agent.networks import RouterNetConfig
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.loop import load_router, train_run
from hierrouter_jax.train.run_record import arrays_digest

NUM_KILLS = 3
CONFIG = TrainConfig(
    num_updates=317,
    num_envs=12,
    validation_interval=41,
    checkpoint_interval=19,
    ppo=PPOConfig(num_minibatches=2, num_epochs=2),
    network=RouterNetConfig(hidden_sizes=(5,), stage_embed_dim=2),
)


def main():
    tree, validation = (
        context_dependent_tree(61, num_queries=13, dim=3),
        context_dependent_tree(67, num_queries=7, dim=3),
    )
    train_run(CONFIG, tree, Path(sys.argv[1]), validation=validation, resume=True, is_quiet=True)


def start(run_dir):
    """Start a process with two CPU devices, so that what is resumed is a parallel run."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    # The processes of one run share compiled programs, which saves the test half its time; two runs share nothing.
    environment["JAX_COMPILATION_CACHE_DIR"] = f"{run_dir}-programs"
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    return subprocess.Popen(
        [sys.executable, __file__, str(run_dir)], env=environment, stderr=subprocess.PIPE, text=True
    )


def count_lines(run_dir):
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(run_dir, num_lines, delay_s):
    """Let a process train until `num_lines` updates are written and some time more, then kill it."""
    process = start(run_dir)
    while count_lines(run_dir) < num_lines and process.poll() is None:
        time.sleep(0.002)
    time.sleep(delay_s)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it was to be killed in the middle, but ended: {errors}"


def finish(run_dir):
    _, errors = (process := start(run_dir)).communicate()
    assert process.returncode == 0, errors


def test_a_run_killed_at_random_moments_ends_with_the_bits_of_one_left_alone(tmp_path):
    finish(tmp_path / "alone")
    moments = sorted(random.SystemRandom().sample(range(1, 251), NUM_KILLS))
    reached = []
    for num_lines in moments:
        kill_at(tmp_path / "killed", num_lines, random.SystemRandom().uniform(0, 0.1))
        reached.append(count_lines(tmp_path / "killed"))
    print(f"killed after {reached} updates")
    finish(tmp_path / "killed")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert (killed / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()
    assert count_lines(killed) == CONFIG.num_updates
    assert arrays_digest(load_router(killed).params) == arrays_digest(load_router(alone).params)
    assert arrays_digest(load_router(killed).params) != arrays_digest(load_router(killed, step=304).params)


if __name__ == "__main__":
    main()
