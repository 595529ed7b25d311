"""`hierrouter crowd`: runs, resumes, comparisons and bad input, with scripted models behind a pool."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from hierrouter_jax.cli import crowd_openers
from hierrouter_jax.cli.main import main
from hierrouter_jax.crowd.registry import ALGORITHMS
from hierrouter_jax.llm.scripted_engine import ScriptedEngine, scripted_card

CARDS = [scripted_card(name, max_new_tokens=101) for name in ("small", "large")]


def respond(card, request):
    """`large` adds rightly, `small` says 1; both vote and write anything."""
    if request.options:
        return request.options[0]
    text = request.prompt if isinstance(request.prompt, str) else request.prompt[-1].content
    sums = re.findall(r"^sum: (\d+) \+ (\d+)$", text, re.MULTILINE)  # the last, behind the examples, is asked
    if sums:
        return str(sum(map(int, sums[-1]))) if card.name == "large" else "1"
    return "a line of text"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder where the packaged pool is two scripted models."""
    monkeypatch.chdir(tmp_path)
    engine = ScriptedEngine(CARDS, respond)
    monkeypatch.setattr(crowd_openers, "load_pool", lambda path: None)
    monkeypatch.setattr(crowd_openers, "FlaxEngine", lambda pool: engine)
    (tmp_path / "large.toml").write_text(
        '[workers.w]\nkind = "pool"\nmodels = ["large"]\n[workers.s]\nkind = "pool"\nmodels = ["small"]\n'
        '[workers.me]\nkind = "people"\n[roles]\n"*" = "w"\n'
    )
    (tmp_path / "person.toml").write_text('[workers.me]\nkind = "people"\n[roles]\n"*" = "me"\n')
    (tmp_path / "sums.jsonl").write_text('{"text": "3 4 5"}\n{"text": "7 11 13"}\n')
    return tmp_path


def result(place):
    return json.loads((place / "out.json").read_text())


def test_list_names_every_algorithm_with_roles_and_options(place, capsys):
    assert main(["crowd", "list", "--json", "out.json"]) == 0
    assert set(result(place)) == set(ALGORITHMS)
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown for name in ALGORITHMS)
    assert result(place)["find_fix_verify"]["options"]["num_finders"] == 10


def test_a_run_is_done_once_and_found_again(place, capsys):
    command = ["crowd", "run", "arithmetic", "--text", "13 29 31", "--crew", "large.toml", "--json", "out.json"]
    assert main(command) == 0
    first = result(place)
    assert (first["status"], first["result"]["sum"], first["num_calls"]) == ("done", 73, 2)
    assert main([*command, "--options", "redundancy=3"]) == 0
    assert result(place)["num_calls"] == 6
    assert main(command) == 0
    assert result(place) == first
    assert main(["crowd", "resume", first["run"], "--json", "out.json"]) == 0
    assert result(place) == first
    assert "done, 2 answers" in capsys.readouterr().out
    assert main([*command, "--one-prompt"]) == 2  # a line of text is no number, three times
    assert (result(place)["is_one_prompt"], result(place)["status"], result(place)["num_calls"]) == (True, "failed", 3)
    assert "the last was refused because the answer must be a number" in capsys.readouterr().err


def test_a_failed_run_asks_again_when_told_to_and_only_where_nothing_came(place, monkeypatch, capsys):
    says = {29: "a line of text", 31: "42"}
    engine = ScriptedEngine(CARDS, lambda card, request: says[int(re.findall(r"\+ (\d+)$", request.prompt, re.M)[-1])])
    monkeypatch.setattr(crowd_openers, "FlaxEngine", lambda pool: engine)
    command = ["crowd", "run", "arithmetic", "--text", "13 29 31", "--crew", "large.toml", "--run", "mine"]
    assert main(command) == 2
    told = capsys.readouterr().out
    assert "to ask again, hierrouter crowd resume mine --store crowd.sqlite --more-attempts 3; 3 answers" in told
    again = ["crowd", "resume", "mine", "--json", "out.json"]
    assert main(again) == 2
    assert (result(place)["num_calls"], len(engine.requests)) == (3, 3)
    assert main([*again, "--more-attempts", "2"]) == 2
    assert (result(place)["num_calls"], len(engine.requests)) == (5, 5)
    says[29] = "4"
    assert main([*again, "--more-attempts", "5"]) == 0
    assert (result(place)["result"]["sum"], result(place)["num_calls"]) == (42, 7)
    assert main(again) == 0
    assert (result(place)["result"]["sum"], result(place)["num_calls"], len(engine.requests)) == (42, 7, 7)


def test_a_budget_stops_a_run_and_a_larger_one_goes_on(place, capsys):
    command = ["crowd", "run", "arithmetic", "--text", "13 29 31", "--crew", "large.toml", "--run", "mine"]
    assert main([*command, "--max-calls", "1"]) == 0
    shown = capsys.readouterr().out
    assert "stopped, because 1 of 1 calls are spent" in shown
    assert "hierrouter crowd resume mine --store crowd.sqlite with a larger limit" in shown
    assert main(["crowd", "resume", "mine", "--max-calls", "9", "--json", "out.json"]) == 0
    assert (result(place)["result"]["sum"], result(place)["num_calls"]) == (73, 2)


def test_the_command_that_goes_on_can_be_typed_as_it_is_told(place, capsys):
    name = "it's [red]mine[/]; $(x)"
    begin = ["crowd", "run", "arithmetic", "--text", "13 29 31", "--crew", "large.toml", "--max-calls", "1"]
    assert main([*begin, "--run", name, "--store", "my runs.sqlite"]) == 0
    told = re.search(r"to go on, (hierrouter .*) with a larger", " ".join(capsys.readouterr().out.split()))
    assert main(shlex.split(told[1])[1:]) == 0
    assert "done, 2 answers" in capsys.readouterr().out


def test_a_run_ends_where_people_are_asked_and_waits_for_them_no_longer_than_told(place, capsys):
    command = ["crowd", "run", "iterative", "--text", "A motto.", "--crew", "person.toml", "--json", "out.json"]
    assert main([*command, "--no-wait"]) == 0
    assert (result(place)["status"], result(place)["num_waiting"]) == ("waiting", 1)
    assert "hierrouter crowd work --store crowd.sqlite" in capsys.readouterr().out
    assert main([*command, "--max-seconds", "0.01"]) == 0
    assert result(place)["status"] == "budget"


def test_matrix_probe_and_assign(place, capsys):
    command = ["arithmetic", "--inputs", "sums.jsonl", "--crew", "large.toml", "--json", "out.json"]
    assert main(["crowd", "matrix", *command, "--out", "pages"]) == 0
    cells = result(place)["cells"]["add"]
    assert {name: cell["score"]["mean"] for name, cell in cells.items()} == {"w": 1.0, "s": 0.0}
    assert result(place)["calls"] == {"add": 2.0}
    made = {path.name for path in (place / "pages").iterdir()}
    assert made == {f"arithmetic_matrix.{kind}" for kind in ("md", "html", "json", "png")}
    assert main(["crowd", "matrix", *command, "--workers", "s", "--reference", "large.toml"]) == 0
    assert list(result(place)["cells"]["add"]) == ["s"]
    (place / "words.json").write_text(json.dumps({"short": "Sum?"}))
    assert main(["crowd", "probe", *command, "--subtask", "add", "--phrasings", "words.json"]) == 0
    assert set(result(place)["cells"]) == {"as it is", "short"}
    assert main(["crowd", "probe", *command, "--subtask", "add", "--phrasings", "words.json", "--out", "probed"]) == 0
    made = {path.name for path in (place / "probed").iterdir()}
    assert made == {f"arithmetic_probe_add.{kind}" for kind in ("md", "html", "json", "png")}
    assert json.loads((place / "probed" / "arithmetic_probe_add.json").read_text()) == result(place)
    assigned = ["crowd", "assign", "--matrix", "pages/arithmetic_matrix.json", "--budget", "9", "--json", "out.json"]
    assert main(assigned) == 0
    assert result(place)["worker_of"] == {"add": "w"}
    assert "all steps right: 100.0%" in " ".join(capsys.readouterr().out.split())


def test_compare_grades_and_judges(place):
    crew = place / "judged.toml"
    crew.write_text((place / "large.toml").read_text().replace('"*" = "w"', '"*" = "w"\njudge = "s"'))
    command = ["crowd", "compare", "arithmetic", "--inputs", "sums.jsonl", "--crew", "judged.toml"]
    assert main([*command, "--num-judges", "3", "--json", "out.json"]) == 0
    found = result(place)
    assert found["chain_gold"]["mean"] == 1.0
    assert found["prompt_failures"] == 2  # a line of text is no number
    assert found["preferred"]["mean"] == 1.0
    assert main([*command, "--num-judges", "3", "--out", "pages"]) == 0
    made = {path.name for path in (place / "pages").iterdir()}
    assert made == {f"arithmetic_compare.{kind}" for kind in ("md", "html", "json", "png")}
    assert json.loads((place / "pages" / "arithmetic_compare.json").read_text()) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "magic", "--text", "x"], "An algorithm is one of iterative"),
        (["run", "iterative", "--text", "   "], "The goal must hold text, but is empty"),
        (["run", "iterative", "--text", "a\x1b[2J"], "must hold no control characters"),
        (["run", "iterative", "--text", "x", "--options", "num_votes=many"], "must have a value like 5"),
        (["run", "iterative", "--text", "x", "--options", "votes=3"], "An option of iterative is NAME=VALUE"),
        (["run", "iterative", "--text", "x", "--options", "num_votes=0"], "num_votes must be >= 1"),
        (["run", "iterative", "--file", "none.txt"], "must be a text file in UTF-8"),
        (["run", "iterative", "--text", "x", "--file", "sums.jsonl"], "not as both"),
        (["run", "iterative", "--text", "x", "--crew", "none.toml"], "no crew file"),
        (["run", "arithmetic", "--text", "two three"], "must be whole numbers"),
        (["run", "iterative", "--text", "x", "--max-calls", "0"], "max_calls must be > 0"),
        (["resume", "none"], "There is no store at crowd.sqlite"),
        (["resume", "none", "--more-attempts", "-1"], "--more-attempts must be >= 0, but is -1"),
        (["matrix", "arithmetic", "--inputs", "none.jsonl"], "no file of inputs"),
        (["matrix", "arithmetic", "--inputs", "sums.jsonl", "--workers", "you"], "Workers must be of the crew"),
        (
            ["matrix", "arithmetic", "--inputs", "sums.jsonl", "--num-inputs", "0"],
            "--num-inputs must be >= 1, but is 0",
        ),
        (["matrix", "iterative", "--inputs", "sums.jsonl"], "Nothing says what a perfect worker answers"),
        (["assign", "--matrix", "sums.jsonl", "--budget", "1"], "must be a JSON"),
        (["probe", "arithmetic", "--inputs", "sums.jsonl", "--subtask", "add", "--phrasings", "no"], "does not exist"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_to_do(place, capsys, arguments, message):
    assert main(["crowd", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_crew_without_a_needed_role_is_told_before_anything_is_asked(place, capsys):
    (place / "part.toml").write_text('[workers.w]\nkind = "pool"\n[roles]\ncreate = "w"\n')
    assert main(["crowd", "run", "iterative", "--text", "x", "--crew", "part.toml"]) == 2
    assert "needs a worker for role 'vote'" in capsys.readouterr().err


def test_a_run_of_that_name_that_is_another_one_is_refused(place, capsys):
    begin = ["crowd", "run", "arithmetic", "--crew", "large.toml", "--run", "mine", "--text"]
    assert main([*begin, "1 2"]) == 0
    assert main([*begin, "1 3"]) == 2
    assert "of another pipeline, input or crew" in capsys.readouterr().err
