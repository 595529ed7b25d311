"""Bad input to the real command: exit code 2, a message that says what to mend, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scripted_trees import save_scripted_tree

TINY = ["--num-updates", "3", "--num-envs", "8", "--hidden-sizes", "5"]
SECONDS = 600  # a command that takes longer hangs; a busy machine is slow


def environment(cache):
    return {
        **{name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        "JAX_PLATFORMS": "cpu",
        "HIERROUTER_CACHE": str(cache),
        "COLUMNS": "200",
    }


def hierrouter(arguments, cwd, cache, *, text_in=""):
    return subprocess.run(
        [sys.executable, "-m", "hierrouter_jax.cli.main", *arguments],
        cwd=cwd,
        env=environment(cache),
        input=text_in,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory, cache):
    """A folder with two trees (of two encoders), a run on the first, and broken things of every kind."""
    place = tmp_path_factory.mktemp("place")
    save_scripted_tree(place / "tree.npz", encoder_dim=13)
    save_scripted_tree(place / "other.npz", encoder_dim=11)
    save_scripted_tree(place / "pool_b.npz", max_new_tokens=29)
    whole = (place / "tree.npz").read_bytes()
    (place / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    trained = hierrouter(["train", "--run-dir", "run", *ON_TREE, *TINY, "--json", "train.json"], place, cache)
    assert trained.returncode == 0, trained.stderr
    (place / "emptied").mkdir()
    (place / "emptied" / "config.json").write_bytes((place / "run" / "config.json").read_bytes())
    cut_checkpoint(shutil.copytree(place / "run", place / "cut"))
    (place / "file").write_text("not a folder")
    (place / "junk.gguf").write_bytes(b"GGUF" + bytes(range(97)))
    junk_entry = '[[model]]\nname = "a"\nsource = "junk.gguf"\nmax_new_tokens = 3\n'
    (place / "junk.toml").write_text(junk_entry)
    (place / "digest.toml").write_text(junk_entry + f'sha256 = "{"0" * 64}"\n')
    row = {"id": "a", "task": "t", "question": "1 + 1?", "answer": "2"}
    lines = [json.dumps(row), "{not json", json.dumps({**row, "id": "b", "answer": 7})]
    (place / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (place / "empty.jsonl").write_text("")
    (place / "collect.json").write_text(json.dumps({"pool": "p.toml", "encoder": "e", "tasks": ["t"], "speed": 3}))
    (place / "pool.toml").write_text('[[model]]\nname = "a"\nsource = "nowhere"\nmax_new_tokens = 3\ncolour = "red"\n')
    (place / "absent.toml").write_text('[[model]]\nname = "a"\nsource = "nowhere"\nmax_new_tokens = 3\n')
    return place


def cut_checkpoint(run_dir):
    """Cut the largest file of the newest checkpoint in half, as a full disk or a broken copy leaves it."""
    newest = max((run_dir / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


COLLECT = ["collect", "--out", "new.npz", "--store", "new.sqlite"]
ON_TREE = ["--tree", "tree.npz"]
CASES = {
    "unknown command": (["fly"], "", ["'fly'", "quickstart"]),
    "unknown option": (["report", "run", "--colour", "red"], "", ["--colour"]),
    "missing option": (["train", *ON_TREE], "", ["--run-dir"]),
    "negative cost weight": (["train", "--run-dir", "x", *ON_TREE, "--cost-weight", "-1"], "", ["cost_weight", "-1.0"]),
    "cost weight that is no number": (["evaluate", *ON_TREE, "--cost-weight", "nan"], "", ["cost_weight", "nan"]),
    "seed that is no key's": (["evaluate", *ON_TREE, "--random-seed", "4294967296"], "", ["random_seed", "4294967296"]),
    "truncated tree": (["evaluate", "--tree", "truncated.npz"], "", ["truncated.npz"]),
    "absent tree": (["train", "--run-dir", "x", "--tree", "no.npz"], "", ["no.npz"]),
    "tree of another encoder": (["evaluate", "--run-dir", "run", "--tree", "other.npz"], "", ["encoder_digest"]),
    "tree of another pool": (["evaluate", "--run-dir", "run", "--tree", "pool_b.npz"], "", ["pool_digest"]),
    "truncated checkpoint": (["evaluate", "--run-dir", "cut", *ON_TREE], "", ["checkpoints/3", "Delete"]),
    "resume of a truncated checkpoint": (
        ["train", "--run-dir", "cut", *ON_TREE, *TINY, "--resume"],
        "",
        ["checkpoints/3", "Delete"],
    ),
    "run without checkpoints": (["evaluate", "--run-dir", "emptied", *ON_TREE], "", ["checkpoint", "emptied"]),
    "run that is there already": (["train", "--run-dir", "run", *ON_TREE, *TINY], "", ["already holds a run"]),
    "resume under another config": (
        ["train", "--run-dir", "run", *ON_TREE, *TINY, "--resume", "--cost-weight", "0.3"],
        "",
        ["cost_weight is 0.1 in the run, 0.3 here"],
    ),
    "run directory below a file": (["train", "--run-dir", "file/run", *ON_TREE, *TINY], "", ["file"]),
    "results that cannot be written": (["evaluate", *ON_TREE, "--json", "file/out.json"], "", ["file/out.json"]),
    "run that was not evaluated": (["report", "emptied"], "", ["results.json"]),
    "malformed rows": ([*COLLECT, "--tasks", "rows.jsonl"], "", ["rows.jsonl", "line 2", "line 3"]),
    "empty rows": ([*COLLECT, "--tasks", "empty.jsonl"], "", ["empty.jsonl"]),
    "unknown config key": ([*COLLECT, "--config", "collect.json"], "", ["speed", "collect.json"]),
    "unknown pool key": (["pool", "list", "--pool", "pool.toml"], "", ["colour"]),
    "weights that are not there": (["pool", "pull", "--pool", "absent.toml"], "", ["nowhere"]),
    "weights of another digest": (["pool", "pull", "--pool", "digest.toml"], "", ["sha256", "0000", "junk.gguf"]),
    "weights that are no GGUF": (["pool", "pull", "--pool", "junk.toml"], "", ["junk.gguf"]),
    "an option beside a config": ([*COLLECT, "--config", "collect.json", "--num-stages", "3"], "", ["num_stages"]),
    "question that is no text": (["route", "--run-dir", "run"], '{"question": "\\ud800"}\n', ["line 1", "Unicode"]),
    "bad questions": (
        ["route", "--run-dir", "run"],
        '{"question": "why?"}\nwhy?\n{"question": ""}\n{"question": "a", "choices": ["b"]}\n{"query": "a"}\n',
        ["line 2", "line 3", "line 4", "line 5"],
    ),
    "trade-off of a router that knows one alone": (
        ["route", "why?", "--run-dir", "run", "--cost-weight", "0.3"],
        "",
        ["conditioned"],
    ),
    "sweep without a price": (["sweep", *ON_TREE, "--out", "swept", "--cost-weights", "-1"], "", ["finite and >= 0"]),
    "sweep into a file": (["sweep", *ON_TREE, *TINY, "--out", "file/swept"], "", ["file/swept"]),
    "benchmark of no episodes": (["bench", "train", "--runs", "0"], "", ["runs must be >= 1"]),
    "no question": (["route", "--run-dir", "run"], "\n\n", ["no question"]),
}


@pytest.fixture(scope="module")
def outcomes(place, cache):
    """Every bad case, run two at a time, with what the folder held before and after."""
    before = snapshot(place)
    with ThreadPoolExecutor(2) as pool:
        started = {
            name: pool.submit(hierrouter, arguments, place, cache, text_in=text_in)
            for name, (arguments, text_in, _) in CASES.items()
        }
        results = {name: future.result() for name, future in started.items()}
    return results, before, snapshot(place)


def snapshot(place):
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and "sqlite" not in path.name
    }


@pytest.mark.parametrize("name", CASES)
def test_bad_input_exits_with_2_and_says_what_is_wrong(outcomes, name):
    done = outcomes[0][name]
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for text in CASES[name][2]:
        assert text in done.stderr


def test_train_leaves_a_run_and_its_outcome(place):
    outcome = json.loads((place / "train.json").read_text())
    assert outcome["config"]["num_updates"] == 3
    assert outcome["last_metrics"]["update"] == 3
    assert {"config.json", "metrics.jsonl", "checkpoints"} <= {path.name for path in (place / "run").iterdir()}


def test_bad_input_leaves_every_file_as_it_was(outcomes):
    _, before, after = outcomes
    assert {name: content for name, content in after.items() if name in before} == before
    assert not [name for name in set(after) - set(before) if name.endswith((".npz", "results.json", ".partial"))]


def test_ctrl_c_ends_with_130_and_the_run_goes_on(place, cache):
    command = [sys.executable, "-m", "hierrouter_jax.cli.main", "train", "--run-dir", "long", *ON_TREE]
    sizes = ["--num-envs", "8", "--hidden-sizes", "5", "--checkpoint-interval", "20"]
    begun = subprocess.Popen(
        [*command, *sizes, "--num-updates", "1000000"],
        cwd=place,
        env=environment(cache),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + SECONDS
    while count_lines(place / "long" / "metrics.jsonl") < 40:
        assert begun.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    begun.send_signal(signal.SIGINT)
    _, message = begun.communicate(timeout=SECONDS)
    assert begun.returncode == 130, message
    assert "Traceback" not in message
    assert "go on" in message
    again = subprocess.Popen(
        [*command, *sizes, "--num-updates", "1000000", "--resume"],
        cwd=place,
        env=environment(cache),
        stderr=subprocess.PIPE,
        text=True,
    )
    already = count_lines(place / "long" / "metrics.jsonl")
    while count_lines(place / "long" / "metrics.jsonl") < already + 20:
        assert again.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=SECONDS)
    updates = [json.loads(line)["update"] for line in (place / "long" / "metrics.jsonl").read_text().splitlines()]
    assert updates == list(range(1, len(updates) + 1))


def count_lines(path):
    return len(path.read_bytes().splitlines()) if path.is_file() else 0


def test_help_answers_within_a_second_without_the_heavy_libraries(tmp_path):
    program = (
        "import sys, time; began = time.perf_counter()\n"
        "from hierrouter_jax.cli.main import main; code = main(['--help'])\n"
        "heavy = {'jax', 'numpy', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "print(code, sorted(heavy), time.process_time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=True
    )
    code, heavy, cpu_s = done.stdout.splitlines()[-1].split(" ")
    assert (code, heavy) == ("0", "[]")
    assert float(cpu_s) < 1
    for name in ("quickstart", "pool", "collect", "train", "evaluate", "route", "report"):
        assert f"  {name} " in done.stdout


def test_the_scripted_tree_of_these_tests_has_something_to_learn(place):
    with np.load(place / "tree.npz") as arrays:
        assert arrays["train/quality"].std() > 0
