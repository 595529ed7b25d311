"""What the scaling scripts share: points measured each in a process of its own, numbers kept, table and picture.

A script gives the options of its points, what measures one of them, and how rows become a table and a picture; `run`
is its command line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def run(
    script: str,
    *,
    description: str,
    points: Callable[[], list[dict]],
    measure: Callable[[dict], dict],
    table_lines: Callable[[list[dict]], list[str]],
    draw: Callable[[list[dict], Path], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Measure every point and write numbers, table and picture, named as the script; or one point, for itself.

    `environment` is added to that of the processes that measure.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder of the numbers and the picture")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--redraw", action="store_true", help="draw the numbers anew and measure nothing")
    options = parser.parse_args()
    if options.point is not None:
        print(json.dumps(measure(json.loads(options.point))))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{Path(script).stem}.json"
    if options.redraw:
        rows = json.loads(path.read_text())["rows"]
    else:
        rows = []
        for one in points():
            rows.append(_measure_apart(script, one, environment or {}))
            print(rows[-1], file=sys.stderr)
        path.write_text(json.dumps({"num_cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(table_lines(rows)) + "\n")
    draw(rows, path.with_suffix(".png"))


def tidy(axis: Any) -> None:
    """Give an axis the look of all of these pictures."""
    axis.set_ylim(bottom=0)
    axis.margins(x=0.08)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _measure_apart(script: str, options: dict, environment: Mapping[str, str]) -> dict:
    """Measure one point in a process of its own, which finds as many CPU devices as the point names."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={options['num_devices']}"}
    words = [sys.executable, script, "--point", json.dumps(options)]
    done = subprocess.run(words, env={**os.environ, **environment, **flags}, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{options} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
