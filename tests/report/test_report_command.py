"""`hierrouter report` on results files: its markdown table."""

import json

import pytest
from comparisons import made_up_comparison

from hierrouter_jax.cli.report import Command, run
from hierrouter_jax.core.errors import StorageError
from hierrouter_jax.evaluate.results import save_comparison
from hierrouter_jax.report.tables import system_table


def cells_of(markdown):
    """The cells of a markdown table's rows without emphasis, read by a plain split."""
    lines = markdown.splitlines()
    return [tuple(cell.strip().strip("*") for cell in line.strip("|").split("|")) for line in lines]


@pytest.fixture
def results(tmp_path):
    paths = (tmp_path / "one.json", tmp_path / "two.json")
    for seed, path in enumerate(paths):
        save_comparison(path, made_up_comparison(seed))
    return paths


def test_markdown_holds_the_systems_of_a_run(results, tmp_path, capsys):
    out = tmp_path / "new" / "table.md"
    run(Command(run_dirs=results[:1], markdown=out, json=tmp_path / "report.json"))
    header, _, *rows = cells_of(out.read_text())
    table = system_table(made_up_comparison(0))
    assert header == table.header
    assert rows == list(table.rows)
    assert f"table: {out}" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["markdown"] == str(out)


def test_markdown_of_several_runs_has_a_router_each(results, tmp_path):
    run(Command(run_dirs=results, markdown=tmp_path / "table.md"))
    names = [row[0] for row in cells_of((tmp_path / "table.md").read_text())]
    assert names[2:4] == ["router one", "router two"]
    assert names.count("oracle") == 1


def test_without_the_option_no_table_is_written(results, tmp_path):
    run(Command(run_dirs=results[:1], json=tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text())["markdown"] is None
    assert list(tmp_path.rglob("*.md")) == []


def test_a_folder_in_the_tables_place_is_refused(results, tmp_path):
    (tmp_path / "table.md").mkdir()
    with pytest.raises(StorageError, match=r"table\.md"):
        run(Command(run_dirs=results[:1], markdown=tmp_path / "table.md"))
