"""`hierrouter sweep`: what it leaves, and what it refuses before anything is trained."""

import contextlib
import io
import json

import numpy as np
import pytest
from matplotlib.image import imread
from scripted_trees import save_scripted_tree

from hierrouter_jax.cli import main
from hierrouter_jax.core.configs import from_json_dict
from hierrouter_jax.evaluate.sweep_results import SweepResults
from hierrouter_jax.report.sweep_report import sweep_figure, sweep_page, sweep_table
from hierrouter_jax.report.themes import DARK, LIGHT, png_bytes

TINY = ("--num-updates", "3", "--num-envs", "8", "--hidden-sizes", "5", "--num-seeds", "2")
WORK_KEYS = {"num_runs", "train_s", "wall_s", "config", "conditioned_config"}


def hierrouter(*arguments):
    """Return the exit code, and what went to standard output and standard error."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    save_scripted_tree(place / "tree.npz")
    (place / "file").write_text("not a folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "keep_compiled_programs", lambda: None)
        yield place


@pytest.fixture(scope="module")
def swept(place):
    where = ("--tree", place / "tree.npz", "--out", place / "out", "--json", place / "copy.json")
    code, printed, _ = hierrouter(
        "sweep", *where, "--picture", place / "front.png", "--cost-weights", 0.3, 0, 0.1, "--conditioned", *TINY
    )
    assert code == 0
    return json.loads((place / "out" / "sweep.json").read_text()), printed


def results_of(outcome):
    return from_json_dict(SweepResults, {name: value for name, value in outcome.items() if name not in WORK_KEYS})


def test_a_sweep_leaves_every_run_a_picture_and_a_page(place, swept):
    outcome, printed = swept
    assert json.loads((place / "copy.json").read_text()) == outcome
    assert outcome["num_runs"] == 8
    results = results_of(outcome)
    assert results.selection_split == "validation"  # this tree has one
    assert [(run.cost_weight, run.seed) for run in results.separate.runs] == [
        (weight, seed) for weight in (0.0, 0.1, 0.3) for seed in (0, 1)
    ]
    assert len(results.conditioned.runs) == 6
    assert outcome["conditioned_config"]["cost_weight_range"] == [0.1, 0.3]
    assert any(point.is_on_front for point in results.separate.points)
    assert "cost weight" in printed
    for picture in (place / "out" / "sweep.png", place / "front.png"):
        assert min(imread(picture).shape[:2]) > 400
    page = (place / "out" / "sweep.html").read_text()
    assert page.count("<img") == 1
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_picture_has_content_on_the_themes_background(swept, theme):
    pixels = imread(io.BytesIO(png_bytes(sweep_figure(results_of(swept[0]), theme=theme))))
    background = [int(theme.background[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    np.testing.assert_allclose(pixels[0, 0, :3], background, atol=0.01)
    inked = np.abs(pixels[..., :3] - np.array(background)).max(axis=2) > 0.1
    assert 0.01 < inked.mean() < 0.8


def test_table_and_page_hold_a_line_for_every_cost_weight(swept):
    results = results_of(swept[0])
    rows = sweep_table(results).rows
    assert [row[0] for row in rows] == ["0", "0.1", "0.3", *(f"{w}, one for all" for w in ("0", "0.1", "0.3"))]
    front = [row[-1] == "yes" for row in rows]
    assert front == [point.is_on_front for point in results.separate.points + results.conditioned.points]
    assert "a&lt;b" in sweep_page(results, name="a<b")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cost-weights",), ["cost_weights must name at least one"]),
        (("--cost-weights", "0.1", "-0.1"), ["finite and >= 0", "-0.1"]),
        (("--cost-weights", "0.1", "0.1"), ["must differ"]),
        (("--num-seeds", "0"), ["num_seeds must be >= 1"]),
        (("--cost-weights", "0", "0.1", "--conditioned"), ["at least two above 0"]),
        (("--is-conditioned",), ["conditioned"]),
        (("--out", "{place}/file/out"), ["file/out"]),
        (("--json", "{place}/file/out.json"), ["file/out.json"]),
        (("--picture", "{place}"), ["folder"]),
        (("--tree", "{place}/absent.npz"), ["absent.npz"]),
        (("--num-envs", "7", "--num-minibatches", "2"), ["multiple"]),
    ],
)
def test_bad_input_exits_with_2_before_anything_is_trained(place, arguments, said, monkeypatch):
    monkeypatch.chdir(place)
    given = [argument.format(place=place) for argument in arguments]
    code, printed, error = hierrouter("sweep", "--tree", place / "tree.npz", "--out", place / "refused", *given)
    assert (code, printed) == (2, "")
    for text in said:
        assert text in error
    assert not (place / "refused" / "sweep.json").exists()
