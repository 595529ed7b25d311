"""How generation grows: new tokens a second and memory against rows in flight and devices, as docs/scaling.md shows it.

    python experiments/scaling_generation.py --out docs/figures     # scaling_generation.json, .md and .png

Every point is measured in a process of its own: the engine of `collect` answers requests to a model of the packaged
pool, each to its full budget, greedily. CPU devices are forced ones, which share this machine's cores: they show what
spreading costs, not what more hardware brings. On a GPU or TPU, run it as it is: the devices at hand are used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

MODEL, POOL = "smollm2-135m", Path(__file__).parent / "pools" / "small.toml"
NUM_PROMPT_WORDS, NUM_NEW = 48, 64
BASE = {"batch": 64, "num_devices": 1, "layout": "replicate"}
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
DEVICES = (1, 2, 4)
NUM_RUNS = 3


def points() -> list[dict]:
    """Return the options of every point."""
    return [
        *({**BASE, "panel": "batch", "batch": batch} for batch in BATCHES),
        *(
            {**BASE, "panel": "devices", "num_devices": count, "layout": layout}
            for layout in ("replicate", "shard")
            for count in DEVICES[layout == "shard" :]
        ),
    ]


def measure(options: dict) -> dict:
    """Return new tokens a second (median of the runs) and the peak memory of this process, for one point."""
    import jax
    import numpy as np

    from hierrouter_jax.core.text import GenerationRequest
    from hierrouter_jax.llm.batching import device_limits
    from hierrouter_jax.llm.flax_engine import FlaxEngine
    from hierrouter_jax.llm.pool import load_pool, read_pool_spec

    spec = read_pool_spec(POOL)
    models = tuple(dataclasses.replace(one, layout=options["layout"]) for one in spec.models if one.name == MODEL)
    pool = load_pool(dataclasses.replace(spec, models=models), devices=jax.devices()[: options["num_devices"]])
    words = ("river", "stone", "seven", "light", "under", "red", "walks", "slowly", "north", "table", "when")
    rng = np.random.default_rng(0)

    def run() -> tuple[float, int]:
        # Nothing is shared, nothing is kept and nothing is drafted: what is measured is reading and decoding alone.
        limits = dataclasses.replace(
            device_limits(),
            max_batch=options["batch"] // (options["num_devices"] if options["layout"] == "replicate" else 1),
            max_prefix_bytes=0,
            max_lookup_batch=0,
        )
        engine = FlaxEngine(pool, limits=limits)
        requests = [
            GenerationRequest(model=MODEL, prompt=" ".join(rng.choice(words, NUM_PROMPT_WORDS)), max_new_tokens=NUM_NEW)
            for _ in range(options["batch"])
        ]
        began_s = time.perf_counter()
        answers = engine.generate(requests)
        return time.perf_counter() - began_s, sum(one.num_new_tokens for one in answers)

    run()  # compiles
    runs = [run() for _ in range(NUM_RUNS)]
    return {
        **options,
        "device_kind": jax.devices()[0].device_kind,
        "tokens_per_s": statistics.median(num_new / elapsed_s for elapsed_s, num_new in runs),
        "runs": [num_new / elapsed_s for elapsed_s, num_new in runs],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure_apart(options: dict) -> dict:
    """Measure one point in a process of its own, which finds as many devices at least."""
    flag = f"--xla_force_host_platform_device_count={options['num_devices']}"
    words = [sys.executable, __file__, "--point", json.dumps(options)]
    done = subprocess.run(words, env={**os.environ, "XLA_FLAGS": flag}, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{options} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def draw(rows: list[dict], path: Path) -> None:
    """Draw tokens a second against rows in flight, memory against them, and tokens a second against devices."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.6), layout="constrained")
    batches = [row for row in rows if row["panel"] == "batch"]
    sizes = [row["batch"] for row in batches]
    axes[0].plot(sizes, [row["tokens_per_s"] for row in batches], color="#0072b2", marker="o")
    axes[1].plot(sizes, [row["peak_bytes"] / 1e9 for row in batches], color="#0072b2", marker="o")
    looks = {
        "replicate": ("the model on each", {"color": "#0072b2", "marker": "o"}),
        "shard": ("the model cut over all", {"color": "#d55e00", "marker": "s", "linestyle": "--"}),
    }
    for layout, (label, style) in looks.items():
        own = [row for row in rows if row["panel"] == "devices" and row["layout"] == layout]
        axes[2].plot([row["num_devices"] for row in own], [row["tokens_per_s"] for row in own], label=label, **style)
    axes[2].legend(frameon=False, fontsize=8)
    titles = ("Rows in flight", "Memory", "Devices (forced, sharing the cores)")
    for axis, title, name in zip(axes, titles, ("rows in flight", "rows in flight", "devices"), strict=True):
        axis.set(title=title, xlabel=name, ylabel="new tokens a second")
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.margins(x=0.08)
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xticks(sizes, [str(size) for size in sizes])
    axes[1].set_xticks(sizes, [str(size) for size in sizes])
    axes[2].set_xticks(DEVICES, [str(count) for count in DEVICES])
    axes[1].set_ylabel("peak memory of the process, GB")
    figure.savefig(path, dpi=130)


def table_lines(rows: list[dict]) -> list[str]:
    """Return the measurements as a Markdown table."""
    lines = [
        "| asked | rows in flight | devices | layout | new tokens a second | the runs | peak memory, MB |",
        "| --- | ---: | ---: | --- | ---: | --- | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['panel']} | {row['batch']} | {row['num_devices']} | {row['layout']} | "
            f"{row['tokens_per_s']:,.0f} | {', '.join(f'{one:,.0f}' for one in row['runs'])} | "
            f"{row['peak_bytes'] / 1e6:,.0f} |"
        )
    return lines


def main() -> None:
    """Measure every point and write numbers, table and picture; or one point, for the process that asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder of the numbers and the picture")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--redraw", action="store_true", help="draw the numbers anew and measure nothing")
    options = parser.parse_args()
    if options.point is not None:
        print(json.dumps(measure(json.loads(options.point))))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "scaling_generation.json"
    if options.redraw:
        rows = json.loads(path.read_text())["rows"]
    else:
        rows = []
        for one in points():
            rows.append(measure_apart(one))
            print(rows[-1], file=sys.stderr)
        path.write_text(json.dumps({"num_cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(table_lines(rows)) + "\n")
    draw(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
