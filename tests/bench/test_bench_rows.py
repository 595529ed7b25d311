"""Rows, their JSON form and table; the order in which sides take turns; packages that are missing."""

from __future__ import annotations

import json
import os

import pytest

from hierrouter_jax.bench.alternate import alternate
from hierrouter_jax.bench.extras import import_extra
from hierrouter_jax.bench.report import BenchReport, shown
from hierrouter_jax.bench.rows import BenchRow, busy_note, medians_row
from hierrouter_jax.core.errors import ConfigError


def test_a_row_in_json_has_the_fixed_fields_and_its_own():
    row = medians_row(
        "total", model="m", batch=3, ours=[2.0, 5.0, 3.0], peer=[7.0, 6.0, 9.0], peer_name="p", extra={"more": 1}
    )
    assert row.as_json() == {
        "what": "total", "model": "m", "batch": 3, "ours": 3.0, "peer": 7.0, "peer_name": "p", "ratio": 7 / 3,
        "unit": "s", "ours_runs": [2.0, 5.0, 3.0], "ours_spread": 1.0, "peer_runs": [7.0, 6.0, 9.0],
        "peer_spread": 3 / 7, "more": 1,
    }  # fmt: skip


def test_ratio_says_how_many_times_better_ours_is():
    slower = BenchRow(what="w", model="m", batch=None, ours=4.0, unit="s", peer=2.0, peer_name="p")
    assert slower.ratio == 0.5
    rate = BenchRow(what="w", model="m", batch=None, ours=4.0, unit="steps/s", peer=2.0, peer_name="p")
    assert rate.ratio == 2.0
    assert BenchRow(what="w", model="m", batch=None, ours=4.0, unit="s").ratio is None
    with pytest.raises(ConfigError, match="a peer's value and its name or neither"):
        BenchRow(what="w", model="m", batch=None, ours=4.0, unit="s", peer=2.0)


def test_report_as_json_and_as_table():
    rows = (
        BenchRow(what="w", model="m", batch=5, ours=0.01234, unit="s", peer=2.5, peer_name="p"),
        BenchRow(what="count", model="m", batch=None, ours=12345, unit="tokens"),
    )
    report = BenchReport(title="title", rows=rows, notes=("a note",), more={"dtype": "float32"})
    stated = json.loads(json.dumps(report.as_json()))
    assert stated["rows"] == [row.as_json() for row in rows]
    assert stated["notes"] == ["a note"]
    assert stated["dtype"] == "float32"
    machine = stated["machine"]
    assert machine["num_cores"] >= 1
    assert machine["platform"] == "cpu"
    assert machine["device_kind"]
    assert machine["versions"]["jax"]
    assert report.table().rows == (
        ("w", "m", "5", "0.0123", "2.50", "p", f"{2.5 / 0.01234:.2f}x", "s"),
        ("count", "m", "", "12,345", "", "", "", "tokens"),
    )
    assert shown(0.5) == "0.500"


def test_a_busy_machine_is_told():
    cores = os.cpu_count()
    assert busy_note(0.5 * cores) is None
    assert f"load {3.5 * cores:.1f} on {cores} cores" in busy_note(3.5 * cores)


def test_sides_take_turns_after_a_warm_up_each():
    order, now = [], [0.0]

    def side(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds
            return f"{name} {len(order)}"

        return run

    found = alternate({"ours": side("o", 2.0), "peer": side("p", 5.0)}, num_runs=3, clock=lambda: now[0], is_quiet=True)
    assert order == ["o", "p"] * 4
    assert found.runs_s == {"ours": [2.0] * 3, "peer": [5.0] * 3}
    assert found.outcomes == {"ours": "o 1", "peer": "p 2"}
    with pytest.raises(ConfigError, match="runs must be >= 1"):
        alternate({}, num_runs=0)


def test_a_missing_package_is_told_with_the_way_to_get_it(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("hierrouter_jax.bench.extras.import_module", absent)
    with pytest.raises(ConfigError, match=r"torch.*pip install 'hierrouter_jax\[bench\]'"):
        import_extra("torch")
    with pytest.raises(ConfigError, match="pip install llama-cpp-python"):
        import_extra("llama_cpp")
