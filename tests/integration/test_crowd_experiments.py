"""The experiments with crowds: their inputs, made anew; their tables, counted from the journal, on tiny models."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import sqlite3
from dataclasses import replace
from pathlib import Path

import crowd_algorithms
import crowd_chains
import crowd_examples
import crowd_inputs
import pytest
from tiny_pools import write_tiny_pool

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.crowd.comparison.graded_inputs import read_inputs
from hierrouter_jax.crowd.comparison.grading import can_grade, corrected, result_score
from hierrouter_jax.crowd.comparison.matrix import perfect_crew
from hierrouter_jax.crowd.journal import Answer, Journal
from hierrouter_jax.crowd.registry import ALGORITHMS, algorithm
from hierrouter_jax.crowd.run_records import config_of
from hierrouter_jax.crowd.runner import Runner
from hierrouter_jax.llm.batching import BatchLimits
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.scripted_engine import ScriptedEngine, scripted_card

INPUTS = Path(crowd_inputs.__file__).parent / "crowd" / "inputs"
FILES = sorted(INPUTS.glob("*.jsonl"))
ALGORITHM = {  # by file, where it has gold
    "garbled": "transcription",
    "lists": "sorting",
    "proofread": "find_fix_verify",
    "questions": "justify_reconsider",
    "sums": "arithmetic",
}


# -- the inputs --


def test_the_script_makes_the_inputs_that_are_there(tmp_path):
    crowd_inputs.main(["--out", str(tmp_path / "made")])
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert made == {f"{name}.jsonl": (INPUTS / f"{name}.jsonl").read_bytes() for name in ("sums", "lists", "garbled")}
    crowd_inputs.main(["--out", str(tmp_path / "other"), "--seed", "1"])
    assert all((tmp_path / "other" / name).read_bytes() != own for name, own in made.items())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_inputs_are_all_different_and_have_gold_where_something_is_right(path):
    inputs = read_inputs(path)
    assert len({one.text for one in inputs}) == len(inputs) >= 3
    name = ALGORITHM.get(path.stem)
    assert all(can_grade(name, one) for one in inputs) if name else not any(one.gold for one in inputs)


@pytest.mark.parametrize("file", ALGORITHM)
def test_perfect_workers_get_every_input_right(file, tmp_path):
    """So the gold of each fits its text, and says all that is asked. Of long files some inputs are run."""
    name = ALGORITHM[file]
    found = algorithm(name)
    inputs = read_inputs(INPUTS / f"{file}.jsonl")
    with Journal(tmp_path / "store.sqlite") as journal:
        for number, one in enumerate(inputs[:: 7 if file in ("sums", "lists", "proofread") else 1]):
            pipeline = found.make(one.text, found.config())
            outcome = Runner(perfect_crew(found)(one), journal, f"{number}").run(pipeline)
            assert result_score(name, outcome.result, one) == 1.0


def test_gold_is_of_its_text():
    for one in read_inputs(INPUTS / "lists.jsonl"):
        assert one.gold["order"] == sorted(one.text.split("\n")) != one.text.split("\n")
    for one in read_inputs(INPUTS / "questions.jsonl"):
        assert one.gold["answer"] in algorithm("justify_reconsider").config().options
    proofread = read_inputs(INPUTS / "proofread.jsonl")
    for one in proofread:
        assert all(one.text.count(wrong) == 1 for wrong, _ in one.gold["errors"])
    right = [corrected(one.text, [(wrong, mended) for wrong, mended in one.gold["errors"]]) for one in proofread]
    assert all(text != one.text for text, one in zip(right, proofread, strict=True))
    garbled = read_inputs(INPUTS / "garbled.jsonl")
    assert [one.gold["text"] for one in garbled] == right
    for one in garbled:
        assert len(one.text) == len(one.gold["text"])
        confused = {(right, wrong) for right, wrong in zip(one.gold["text"], one.text, strict=True) if right != wrong}
        assert confused
        assert confused <= set(crowd_inputs.CONFUSED.items())


def test_every_case_has_its_inputs():
    for case in crowd_algorithms.CASES:
        assert len(read_inputs(INPUTS / f"{case.inputs}.jsonl")) >= case.num_inputs
        algorithm(case.algorithm).config(**dict(case.options))
    names = [case.name for case in crowd_algorithms.CASES]
    assert len(set(names)) == len(names)
    for name, file in crowd_chains.INPUTS.items():
        assert all(can_grade(name, one) for one in read_inputs(INPUTS / file))


# -- on tiny models --

CASES = (
    crowd_algorithms.Case(algorithm="arithmetic", inputs="sums", num_inputs=3),
    crowd_algorithms.Case(algorithm="sorting", inputs="lists", num_inputs=2, options=(("method", "insertion"),)),
)
SUBTASKS = {"arithmetic": ["add"], "sorting insertion": ["compare"]}
MODELS = ("tiny-hub", "tiny-gguf")


class CountingEngine(FlaxEngine):
    """Lists what it is asked; beyond `limit` requests it breaks."""

    asked: list = []
    limit: float = float("inf")

    def __init__(self, pool):
        super().__init__(pool, limits=BatchLimits(min_places=4, max_read_tokens=1, max_prefix_bytes=0))  # few programs

    def generate_iter(self, requests):
        for batch in super().generate_iter(requests):
            CountingEngine.asked += batch
            if len(CountingEngine.asked) > CountingEngine.limit:
                raise KeyboardInterrupt
            yield batch


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny pool and a few short inputs."""
    folder = tmp_path_factory.mktemp("crowd")
    write_tiny_pool(folder, max_new_tokens=7)
    rows = {
        "sums": [{"text": "3 5"}, {"text": "2 7 1"}, {"text": "8 6"}, {"text": "4 9"}],
        "lists": [
            {"text": "c\na\nb", "gold": {"order": ["a", "b", "c"]}},
            {"text": "e\nd", "gold": {"order": ["d", "e"]}},
        ],
    }
    (folder / "inputs").mkdir()
    for name, own in rows.items():
        (folder / "inputs" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    return folder


@pytest.fixture
def patched(monkeypatch):
    for module in (crowd_algorithms, crowd_chains):
        monkeypatch.setattr(module, "FlaxEngine", CountingEngine)
    monkeypatch.setattr(crowd_algorithms, "CASES", CASES)
    monkeypatch.setattr(CountingEngine, "asked", [])
    return CountingEngine


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_algorithms(place, out, *options, store="algorithms.sqlite"):
    shared = ["--pool", str(place / "pool.toml"), "--inputs", str(place / "inputs"), "--store", str(place / store)]
    folders = ["--out", str(out / "records"), "--tables", str(out / "tables")]
    crowd_algorithms.main([*shared, *folders, *options])
    return files_in(out)


def journal_rows(store):
    """What the journal holds: run, step, slot, attempt, model, refusal and cost of every answer."""
    with sqlite3.connect(store) as connection:
        return connection.execute(
            "SELECT run, step, slot, attempt, kin, refusal, cost FROM crowd_answers ORDER BY run, step, slot, attempt"
        ).fetchall()


def counted(rows, name, model):
    """Of one sub-task and model: slots filled at the first attempt, at the last, and all."""
    own = [row for row in rows if row[1].endswith(f":{name}") and row[4] == model]
    slots = [list(group) for _, group in itertools.groupby(own, key=lambda row: row[:3])]
    return sum(one[0][5] is None for one in slots), sum(one[-1][5] is None for one in slots), len(slots)


def lines_of(markdown):
    """The cells of every line of a table, its header first."""
    lines = [line.strip("|") for line in markdown.decode().split("\n") if line.startswith("|")]
    header, _, *rest = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [header, *rest]


def cells_of(markdown):
    return lines_of(markdown)[1:]


def test_algorithms_are_counted_as_the_journal_has_them_and_a_second_call_asks_nothing(place, patched, tmp_path):
    made = run_algorithms(place, tmp_path / "first")
    records = {case.name: json.loads(made[f"records/{case.name.replace(' ', '_')}.json"]) for case in CASES}
    assert set(made) == {f"records/{case.name.replace(' ', '_')}.json" for case in CASES} | {
        f"tables/algorithms_{name}.md" for name in ("subtasks", "runs")
    }
    assert patched.asked
    rows = journal_rows(place / "algorithms.sqlite")
    steps = {}
    for case, name, *cells in cells_of(made["tables/algorithms_subtasks.md"]):
        steps.setdefault(case, []).append(name)
        for model, cell in zip(MODELS, cells, strict=True):
            counts = counted(rows, name, model)
            assert cell == (" / ".join(map(str, counts)) if counts[2] else "not reached")
    assert steps == SUBTASKS
    for case, by_model in records.items():
        for model, runs in by_model.items():
            mine = [row for row in rows if row[4] == model and row[1].rsplit(":", 1)[1] in SUBTASKS[case]]
            assert sum(one["chain"]["calls"] for one in runs) == len(mine)
            assert sum(one["chain"]["cost"] for one in runs) == pytest.approx(sum(row[6] for row in mine), abs=1e-3)
    for model in MODELS:
        mine = [row for row in rows if row[4] == model and row[1].endswith(":one-prompt")]
        asked = [one["prompt"] for by_model in records.values() for one in by_model[model]]
        assert sum(one["calls"] for one in asked) == len(mine) >= len(asked)
    patched.asked.clear()
    assert run_algorithms(place, tmp_path / "second") == made
    assert patched.asked == []
    only = run_algorithms(place, tmp_path / "only", "--only", "arithmetic")
    assert only == {"records/arithmetic.json": made["records/arithmetic.json"]}
    assert patched.asked == []


def test_algorithms_that_were_cut_short_go_on(place, patched, monkeypatch, tmp_path):
    whole = run_algorithms(place, tmp_path / "whole", store="whole.sqlite")
    num = len(patched.asked)
    patched.asked.clear()
    monkeypatch.setattr(patched, "limit", num // 2)
    with pytest.raises(KeyboardInterrupt):
        run_algorithms(place, tmp_path / "cut", store="cut.sqlite")
    assert num // 2 < len(patched.asked) < num
    done = len(journal_rows(place / "cut.sqlite"))
    assert 0 < done < len(journal_rows(place / "whole.sqlite"))
    patched.asked.clear()
    monkeypatch.setattr(patched, "limit", float("inf"))
    assert run_algorithms(place, tmp_path / "again", store="cut.sqlite") == whole
    assert 0 < len(patched.asked) < num


def run_chains(place, out, *, store="chains.sqlite"):
    shared = ["--pool", str(place / "pool.toml"), "--inputs", str(place / "inputs"), "--store", str(place / store)]
    crowd_chains.main([*shared, "--out", str(out)])
    return files_in(out)


def test_chains_are_graded_and_a_second_call_asks_nothing(place, patched, tmp_path):
    made = run_chains(place, tmp_path / "first")
    kinds = ("md", "json", "png")
    assert set(made) == {f"chain_{name}.{kind}" for name in ("arithmetic", "sorting") for kind in kinds}
    assert all(made[f"chain_{name}.png"].startswith(b"\x89PNG") for name in ("arithmetic", "sorting"))
    rows = journal_rows(place / "chains.sqlite")
    for name, num, step in (("arithmetic", 4, "add"), ("sorting", 2, "compare")):
        data = json.loads(made[f"chain_{name}.json"])
        header, *table = lines_of(made[f"chain_{name}.md"])
        assert list(data) == [cells[0] for cells in table] == list(MODELS)
        for (model, one), cells in zip(data.items(), table, strict=True):
            chain = [row for row in rows if row[4] == model and row[1].endswith(f":{step}")]
            assert (one["num_inputs"], one["preferred"]) == (num, None)
            assert one["chain_calls"] == pytest.approx(len(chain) / num)
            assert one["chain_cost"] == pytest.approx(sum(row[6] for row in chain) / num)
            assert one["chain_gold"]["count"] == one["prompt_gold"]["count"] == num
            shown = dict(zip(header, cells, strict=True))
            assert shown["calls, chain"] == f"{len(chain) / num:.1f}"
            assert shown["cost, chain"] == f"{sum(row[6] for row in chain) / num:.2f}"
    assert patched.asked
    patched.asked.clear()
    assert run_chains(place, tmp_path / "second") == made
    assert patched.asked == []


# -- tables by hand --


def told(card, request):
    """`sound` is right at once, `second` once it was refused, `never` writes what fits nothing."""
    if request.options:
        return request.options[0]
    text = request.prompt if isinstance(request.prompt, str) else request.prompt[-1].content
    if card.name == "never" or (card.name == "second" and "An earlier answer was refused" not in text):
        return "teh" if "passage:" in text else " none"  # a passage that is written as it was is refused
    if sums := re.findall(r"^sum: ([\d +]+)$", text, re.MULTILINE):
        return str(sum(map(int, sums[-1].split(" + "))))
    return "teh" if "paragraph:" in text else "the"


@pytest.fixture
def scripted_pool(monkeypatch):
    engine = ScriptedEngine([scripted_card(name, max_new_tokens=101) for name in ("sound", "second", "never")], told)
    for module in (crowd_algorithms, crowd_chains):
        monkeypatch.setattr(module, "load_pool", lambda path: None)
        monkeypatch.setattr(module, "FlaxEngine", lambda pool: engine)
    return engine


def test_tables_worked_out(scripted_pool, monkeypatch, tmp_path):
    """Three sums of 2, 3 and 5 numbers take 1, 2 and 4 additions; one text has one passage for two verifiers."""
    options = (("num_finders", 2), ("num_extra_finders", 0), ("num_fixers", 1), ("num_verifiers", 2))
    cases = (
        crowd_algorithms.Case(algorithm="arithmetic", inputs="sums", num_inputs=3),
        crowd_algorithms.Case(algorithm="find_fix_verify", inputs="texts", num_inputs=1, options=options),
    )
    monkeypatch.setattr(crowd_algorithms, "CASES", cases)
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "sums.jsonl").write_text('{"text": "3 5"}\n{"text": "3 5 7"}\n{"text": "3 5 7 11 13"}\n')
    text = {"text": "We saw teh sea.", "gold": {"errors": [["teh", "the"]]}}
    (tmp_path / "inputs" / "texts.jsonl").write_text(json.dumps(text) + "\n")
    made = run_algorithms(tmp_path, tmp_path / "out")
    name = "find_fix_verify 2 0 1 2"
    assert cells_of(made["tables/algorithms_subtasks.md"]) == [
        ["arithmetic", "add", "7 / 7 / 7", "0 / 7 / 7", "0 / 0 / 3"],
        [name, "find", "2 / 2 / 2", "0 / 2 / 2", "0 / 0 / 2"],
        [name, "fix", "1 / 1 / 1", "0 / 1 / 1", "not reached"],
        [name, "verify", "6 / 6 / 6", "6 / 6 / 6", "not reached"],  # the new version, the old one, the cut one
    ]
    runs = {(case, model): cells for case, model, *cells in cells_of(made["tables/algorithms_runs.md"])}
    assert [runs["arithmetic", model][:3] for model in ("sound", "second", "never")] == [
        ["3 of 3", "100", "2"],  # 7 of 3
        ["3 of 3", "100", "5"],  # 14 of 3
        ["0 of 3", "0", "3"],
    ]
    assert [runs["arithmetic", model][4:7] for model in ("sound", "second", "never")] == [
        ["3 of 3", "100", "1"],
        ["3 of 3", "100", "2"],
        ["0 of 3", "0", "3"],
    ]
    assert runs[name, "never"][:3] == ["0 of 1", "0", "6"]
    records = json.loads(made["records/arithmetic.json"])
    assert [one["chain"]["result"] for one in records["sound"]] == ["8", "15", "39"]
    failed = records["never"][2]["chain"]
    assert (failed["result"], failed["score"], failed["calls"]) == (None, 0.0, 3)
    assert "the answer must be a number, but is 'none'" in failed["reason"]
    assert failed["subtasks"]["add"]["refusals"] == ["the answer must be a number, but is 'none'"]


def answer(refusal=None):
    return Answer(asked="x", contributor="m#0", kin="m", text="t", refusal=refusal)


def test_answers_are_counted_by_sub_task():
    found = crowd_algorithms.answers_by_subtask(
        {
            ("0:together/0/0:add", 0): [answer()],
            ("0:together/0/0:add", 1): [answer("a"), answer("b"), answer()],
            ("0:together/0/1:add", 0): [answer("b"), answer("c")],
            ("0:together/0/2:add", 0): [answer("d")],
            ("0:together/0/3:add", 0): [answer("e")],
            ("0:together/0/2:vote", 0): [answer()],
        }
    )
    assert found == {
        "add": {"asked": 5, "at_once": 1, "at_last": 2, "refusals": ["a", "b", "d"]},
        "vote": {"asked": 1, "at_once": 1, "at_last": 1, "refusals": []},
    }


def test_chains_worked_out(scripted_pool, tmp_path):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "sums.jsonl").write_text('{"text": "3 5"}\n{"text": "3 5 7"}\n{"text": "3 5 7 11 13"}\n')
    lists = {"text": "b\na", "gold": {"order": ["a", "b"]}}
    (tmp_path / "inputs" / "lists.jsonl").write_text(json.dumps(lists) + "\n")
    data = json.loads(run_chains(tmp_path, tmp_path / "out")["chain_arithmetic.json"])
    found = {name: (one["chain_gold"]["mean"], one["prompt_gold"]["mean"]) for name, one in data.items()}
    assert found == {"sound": (1.0, 1.0), "second": (1.0, 1.0), "never": (0.0, 0.0)}
    calls = {name: (one["chain_calls"], one["prompt_calls"]) for name, one in data.items()}
    assert calls == {"sound": (7 / 3, 1.0), "second": (14 / 3, 2.0), "never": (3.0, 3.0)}
    assert {name: one["chain_failures"] for name, one in data.items()} == {"sound": 0, "second": 0, "never": 3}


# -- worked examples --


def test_there_is_an_example_of_every_algorithm_and_its_command_can_be_typed():
    assert [one.algorithm for one in crowd_examples.EXAMPLES] == list(ALGORITHMS)
    for one in crowd_examples.EXAMPLES:
        typed = crowd_examples.command_line(one, Path("crew.toml"))
        assert "\n" not in typed
        words = shlex.split(typed.split(" | ")[-1])
        assert words[:4] == ["hierrouter", "crowd", "run", one.algorithm]
        found = algorithm(one.algorithm)
        next(found.make(one.text, config_of(found, one.options)))
    (several,) = [one for one in crowd_examples.EXAMPLES if "\n" in one.text]
    piped = shlex.split(crowd_examples.command_line(several, Path("crew.toml")).split(" | ")[0])
    assert piped == ["printf", several.text.replace("\n", "\\n") + "\\n"]


def test_what_was_asked_is_counted_in_the_order_of_the_steps():
    def answer(refusal=None):
        return Answer(asked="x", contributor="m#0", kin="m", text="t", value=1, refusal=refusal)

    answers = {
        ("10:judge", 0): [answer()],
        ("2:together/10/0:write", 0): [answer("no"), answer("no"), answer()],
        ("2:together/9/0:find", 0): [answer()],
        ("2:together/9/0:find", 1): [answer("no")],
    }
    assert crowd_examples.asked_line(answers) == "Asked: find 2 (1 refused), write 3 (2 refused), judge 1."


def test_the_page_holds_what_the_commands_printed(place, monkeypatch, tmp_path):
    examples = [one for one in crowd_examples.EXAMPLES if one.algorithm in ("arithmetic", "sorting")]
    monkeypatch.setattr(crowd_examples, "EXAMPLES", examples)
    crew = tmp_path / "crew.toml"
    crew.write_text(f'[workers.w]\nkind = "pool"\npool = "{place / "pool.toml"}"\n[roles]\n"*" = "w"\n')
    store, page = tmp_path / "examples.sqlite", tmp_path / "page.md"
    command = ["--store", str(store), "--crew", str(crew), "--out", str(page)]
    crowd_examples.main(command)
    made = page.read_text()
    with Journal(store) as journal:
        assert len(journal.runs()) == 2
        for name, one in zip(journal.runs(), examples, strict=True):
            assert made.count(f"## {one.algorithm}\n") == 1
            assert crowd_examples.command_line(one, crew) in made
            num = sum(map(len, journal.answers(name).values()))
            assert f"run {name}: done, {num} answers" in made
    assert made.count("Asked: ") == made.count("```text") == 2
    crowd_examples.main(command)
    assert page.read_text() == made
    monkeypatch.setattr(crowd_examples, "EXAMPLES", [replace(examples[0], options=("redundancy=none",))])
    with pytest.raises(DataError, match="must run, but ended with 2: error: 'redundancy=none' must have"):
        crowd_examples.main(command)
    assert page.read_text() == made
