"""Every command run in this process, shapes and types checked, on trees and engines made of scripts."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scripted_collection import make_engine, make_rows
from scripted_trees import save_scripted_tree

from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.cli import collect as collect_command
from hierrouter_jax.cli import live_session, main
from hierrouter_jax.cli import pool as pool_command
from hierrouter_jax.cli.packaged import SMALL_POOL, packaged_file
from hierrouter_jax.collect.collect_config import CollectConfig
from hierrouter_jax.collect.tree_file import load_tree
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.evaluate.results import load_comparison
from hierrouter_jax.routing.route_tree import ROOT, node_of_path
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.tasks.rows import SplitConfig
from hierrouter_jax.train.loop import load_router


@pytest.fixture(scope="module", autouse=True)
def scripted(tmp_path_factory):
    """Pools and encoders are scripted ones; no compiled programs are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIERROUTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(main, "keep_compiled_programs", lambda: None)
        for module in (live_session, collect_command, pool_command):
            patch.setattr(module, "load_pool", lambda path: path)
            patch.setattr(module, "FlaxEngine", lambda pool: make_engine(3))
        for module in (live_session, collect_command):
            patch.setattr(module, "open_encoder", lambda *source: HashingEncoder(13))
        yield


def hierrouter(*arguments):
    """Run a command that must succeed; return what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main.main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


QUICKSTART = ("quickstart", "--num-updates", "4", "--out")


@pytest.fixture(scope="module")
def place(tmp_path_factory, scripted):
    """A tree, and the run that a quickstart made of it."""
    place = tmp_path_factory.mktemp("commands")
    save_scripted_tree(place / "tree.npz")
    options = ["--tree", place / "tree.npz", "--json", place / "quick.json", "--questions", "Why?", "Which river?"]
    (place / "printed.txt").write_text(hierrouter(*QUICKSTART, place / "run", *options))
    return place


def test_quickstart_goes_the_whole_way(place):
    outcome = json.loads((place / "quick.json").read_text())
    printed = (place / "printed.txt").read_text()
    assert [answer["question"] for answer in outcome["answers"]] == ["Why?", "Which river?"]
    assert printed.count("route: ") == 2
    assert "oracle" in printed
    assert f"report: {place / 'run' / 'report.html'}" in printed
    assert len((place / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert (place / "run" / "figures" / "quality_cost.png").is_file()


def test_quickstart_called_again_trains_nothing_and_finds_the_same(place):
    before = (place / "run" / "metrics.jsonl").read_bytes()
    hierrouter(*QUICKSTART, place / "run", "--tree", place / "tree.npz", "--no-live", "--json", place / "again.json")
    first, again = (json.loads((place / name).read_text()) for name in ("quick.json", "again.json"))
    assert (place / "run" / "metrics.jsonl").read_bytes() == before
    assert again["comparison"] == first["comparison"]
    assert again["answers"] == []


def test_evaluate_scores_the_runs_router_and_writes_results_twice(place):
    run, tree_path = place / "run", place / "tree.npz"
    printed = hierrouter("evaluate", "--run-dir", run, "--tree", tree_path, "--json", place / "eval.json")
    comparison = load_comparison(place / "eval.json")
    assert comparison == load_comparison(run / "results.json")
    router, tree = load_router(run), load_tree(tree_path).test
    scores = score_routes(tree, greedy_routes(router.params, tree), cost_weight=0.1)
    assert comparison.systems["router"].quality == pytest.approx(float(scores.quality.mean()), abs=1e-6)
    assert comparison.systems["router"].cost == pytest.approx(float(scores.cost.mean()), abs=1e-6)
    assert next(iter(comparison.systems)) == "router"
    for text in ("router", "best single", "oracle", "letters", "sums"):
        assert text in printed


def test_evaluate_of_a_tree_alone_has_the_baselines_at_the_given_cost_weight(place):
    out = place / "alone.json"
    hierrouter("evaluate", "--tree", place / "tree.npz", "--cost-weight", "0.3", "--split", "train", "--json", out)
    comparison = load_comparison(out)
    assert (comparison.cost_weight, comparison.split, comparison.num_queries) == (0.3, "train", 18)
    assert "router" not in comparison.systems
    oracle = comparison.systems["oracle"].utility
    assert all(system.utility <= oracle + 1e-6 for system in comparison.systems.values())


def test_report_writes_the_page_and_the_pictures(place):
    hierrouter("evaluate", "--run-dir", place / "run", "--tree", place / "tree.npz")
    hierrouter("report", place / "run", "--figures", place / "figures", "--json", place / "report.json")
    page = (place / "run" / "report.html").read_text()
    assert page.count("<img ") == 3
    written = json.loads((place / "report.json").read_text())
    assert [Path(path).name for path in written["figures"]] == [
        "quality_cost.png",
        "route_mix.png",
        "learning_curve.png",
    ]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in written["figures"])


def test_route_answers_a_question_in_words(place):
    printed = hierrouter("route", "--run-dir", place / "run", "Why is the sky blue?", "--json", place / "route.json")
    (outcome,) = json.loads((place / "route.json").read_text())
    assert outcome["question"] == "Why is the sky blue?"
    assert f"answer: {outcome['answer']}" in printed or "cut off" in printed
    assert set(outcome["route"]) <= {"model_0", "model_1", "model_2"}
    assert sum(outcome["probabilities"][0].values()) == pytest.approx(1, abs=1e-5)


def piped(text):
    return io.TextIOWrapper(io.BytesIO(text.encode()))


def test_route_checks_every_line_before_it_answers_one(place, monkeypatch, capsys):
    lines = [{"question": "Why?"}, {"question": "Who?"}, {"question": "so long " * 5003}]
    monkeypatch.setattr(sys, "stdin", piped("\n".join(map(json.dumps, lines))))
    out = place / "never.json"
    arguments = ["route", "--run-dir", place / "run", "--batch-size", "1", "--json", out]
    assert main.main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "window" in shown.err
    assert not out.exists()


def test_route_keeps_what_it_answered_before_an_interruption(place, monkeypatch):
    lines = [{"question": "Why?"}, {"question": "Who?"}, {"question": "Where?"}]
    monkeypatch.setattr(sys, "stdin", piped("\n".join(map(json.dumps, lines))))
    answer, num_batches = live_session.LiveSession.answer, 0

    def interrupted(session, queries):
        nonlocal num_batches
        num_batches += 1
        if num_batches == 3:
            raise KeyboardInterrupt
        return answer(session, queries)

    monkeypatch.setattr(live_session.LiveSession, "answer", interrupted)
    out = place / "interrupted.json"
    arguments = ["route", "--run-dir", place / "run", "--batch-size", "1", "--json", out]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main.main([str(argument) for argument in arguments]) == 130
    kept = json.loads(out.read_text())
    assert [outcome["question"] for outcome in kept] == ["Why?", "Who?"]
    assert [json.loads(line) for line in printed.getvalue().splitlines()] == kept


def test_route_answers_lines_by_lines_in_their_order_and_keeps_them(place, monkeypatch):
    lines = [
        {"question": "Why?", "id": "first"},
        {"question": "Which?", "choices": ["the stone", "the river"]},
        {"question": "Who?"},
    ]
    asked = ["route", "--run-dir", place / "run", "--batch-size", "2", "--store", place / "live.sqlite"]
    answers = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", piped("\n".join(map(json.dumps, lines)) + "\n\n"))
        answers.append(hierrouter(*asked))
    assert answers[0] == answers[1]
    outcomes = [json.loads(line) for line in answers[0].splitlines()]
    assert [outcome["id"] for outcome in outcomes] == ["first", "2", "3"]
    assert [outcome["question"] for outcome in outcomes] == ["Why?", "Which?", "Who?"]
    assert outcomes[1]["answer"] in ("the stone", "the river")


@pytest.fixture(scope="module")
def write_tasks():
    """Write the task files of two small tasks into a new folder, and return it."""

    def write(folder):
        rows = make_rows(5, 4, prefix="all")
        folder.mkdir()
        for task in ("sums", "letters"):
            own = [dataclasses.asdict(row) for row in rows if row.task == task]
            for fields in own:
                fields.update(choices=list(fields["choices"]) or None, tests=None)
            (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
        return folder

    return write


def test_collect_makes_the_tree_of_its_rows_and_asks_nothing_twice(place, write_tasks):
    options = ["--tasks", write_tasks(place / "tasks"), "--num-train", "1", "--num-test", "1", "--num-stages", "1"]
    arguments = ["collect", "--out", place / "new.npz", "--store", place / "new.sqlite", *options]
    hierrouter(*arguments, "--json", place / "first.json")
    tree = load_tree(place / "new.npz")
    assert (tree.manifest.num_stages, tree.train.num_queries, tree.test.num_queries) == (1, 2, 2)
    printed = hierrouter(*arguments, "--json", place / "second.json")
    reports = [json.loads((place / name).read_text())["report"] for name in ("first.json", "second.json")]
    assert reports[0]["num_generated"] > 0
    assert reports[1]["num_generated"] == 0
    assert str(place / "new.npz") in printed


def test_a_collection_is_configured_by_module_or_json_but_not_twice(tmp_path):
    (tmp_path / "config.py").write_text(
        "from pathlib import Path\nfrom hierrouter_jax.collect.collect_config import CollectConfig\n"
        'CONFIG = CollectConfig(pool=Path("p.toml"), encoder="e", tasks=("t",), num_stages=3)\n'
    )
    (tmp_path / "config.json").write_text('{"pool": "p.toml", "encoder": "e", "tasks": ["t"], "num_stages": 3}')
    expected = CollectConfig(pool=Path("p.toml"), encoder="e", tasks=("t",), num_stages=3)
    assert collect_command.read_config(tmp_path / "config.py") == expected
    assert collect_command.read_config(tmp_path / "config.json") == expected
    (tmp_path / "other.py").write_text("CONFIG = 3\n")
    with pytest.raises(ConfigError, match="must define CONFIG"):
        collect_command.read_config(tmp_path / "other.py")
    (tmp_path / "unknown.py").write_text((tmp_path / "config.py").read_text().replace("num_stages", "speed"))
    with pytest.raises(ConfigError, match=r"unknown\.py must define CONFIG.*speed"):
        collect_command.read_config(tmp_path / "unknown.py")


@pytest.mark.parametrize(
    "option",
    [
        {"tasks": ("t",)},
        {"num_stages": 2},
        {"routes": ("a>b",)},
        {"prompt_version": "v1"},
        {"cost_model": "base_rate"},
        {"chunk_size": 3},
        {"splits": SplitConfig(num_train=5)},
    ],
    ids=lambda option: next(iter(option)),
)
def test_an_option_beside_a_config_is_refused_not_forgotten(tmp_path, option):
    (tmp_path / "config.json").write_text('{"pool": "p.toml", "encoder": "e", "tasks": ["t"]}')
    twice = collect_command.Command(
        out=tmp_path / "t.npz", store=tmp_path / "s.sqlite", config=tmp_path / "config.json", **option
    )
    with pytest.raises(ConfigError, match=f"not both.*options of {next(iter(option))};"):
        collect_command.run(twice)


def test_a_collection_of_some_routes_fills_these_alone(place, write_tasks):
    options = ["--tasks", write_tasks(place / "some"), "--num-train", "1", "--num-test", "1"]
    arguments = ["--store", place / "some.sqlite", "--routes", "model_1>model_2", "model_2 > model_0"]
    hierrouter("collect", "--out", place / "some.npz", *arguments, *options)
    valid = load_tree(place / "some.npz").train.valid
    wanted = {ROOT, *(node_of_path(3, path) for path in ([0], [1], [2], [1, 2], [2, 0]))}
    assert [set(np.flatnonzero(row)) for row in np.asarray(valid)] == [wanted] * 2
    unknown = ["collect", "--out", "x.npz", "--store", place / "x.sqlite", "--routes", "model_9", *options]
    assert main.main([str(argument) for argument in unknown]) == 2


def test_what_a_collection_would_fail_on_at_its_end_is_told_at_its_start(place, write_tasks, capsys):
    tasks = ["--tasks", str(write_tasks(place / "doomed")), "--num-train", "1", "--num-test", "1"]
    (place / "plain_file").write_text("")
    doomed = {
        "price_in_usd_per_mtok": ["--out", "x.npz", "--cost-model", "price"],
        "plain_file": ["--out", str(place / "plain_file" / "x.npz")],
        "report.json": ["--out", str(place / "x.npz"), "--json", str(place / "x.report.json")],
    }
    for message, arguments in doomed.items():
        assert main.main(["collect", "--store", str(place / "doomed.sqlite"), *arguments, *tasks]) == 2
        assert message in capsys.readouterr().err
    assert not (place / "doomed.sqlite").exists()


def test_pool_list_and_check_speak_of_every_model(tmp_path):
    printed = hierrouter("pool", "list", "--json", tmp_path / "pool.json")
    names = [model["name"] for model in json.loads((tmp_path / "pool.json").read_text())["models"]]
    assert names == ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"]
    assert all(re.search(rf"^{re.escape(name)}: .*not downloaded yet", printed, re.MULTILINE) for name in names)
    assert main.main(["pool", "check"]) == 2  # scripted models do not know the capital of France


def test_packaged_files_are_found_in_the_checkout_or_named():
    assert packaged_file(SMALL_POOL).name == "small.toml"
    with pytest.raises(DataError, match=r"no_such\.npz"):
        packaged_file(Path("trees/no_such.npz"))


def test_the_overview_the_version_and_an_unknown_command(capsys):
    assert main.main([]) == 0
    assert main.main(["--version"]) == 0
    assert main.main(["fly"]) == 2
    shown = capsys.readouterr()
    assert re.search(r"hierrouter \d+\.\d+", shown.out)
    assert "'fly' is not a command" in shown.err


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    def defect(name, arguments):
        raise ZeroDivisionError(f"{name} {arguments}")

    monkeypatch.setattr(main, "_run", defect)
    with pytest.raises(ZeroDivisionError):
        main.main(["train"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt("stopped; resume"), 130),
        (DataError("bad row"), 2),
        (OSError(28, "No space left on device"), 2),
    ],
)
def test_errors_become_messages_and_exit_codes(monkeypatch, capsys, error, code):
    def failing(name, arguments):
        raise error

    monkeypatch.setattr(main, "_run", failing)
    assert main.main(["train"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert any(text in shown.err for text in ("stopped; resume", "bad row", "No space left"))
