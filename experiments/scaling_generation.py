"""How generation grows: new tokens a second and memory against rows in flight and devices.

    python experiments/scaling_generation.py --out docs/figures     # scaling_generation.json, .md and .png

Every point is measured in a process of its own: the engine of `collect` answers requests to a model of the packaged
pool, greedily, up to a stop or 64 tokens. CPU devices are forced ones, which share this machine's cores: they show what
spreading costs, not what more hardware brings. On a GPU or TPU, run it as it is: the devices at hand are used.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import time
from pathlib import Path

from scaling_points import run, tidy

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

    requests = [
        GenerationRequest(model=MODEL, prompt=" ".join(rng.choice(words, NUM_PROMPT_WORDS)), max_new_tokens=NUM_NEW)
        for _ in range(options["batch"])
    ]
    # Nothing is shared, nothing is kept and nothing is drafted: what is measured is reading and decoding alone.
    limits = dataclasses.replace(
        device_limits(),
        max_batch=options["batch"] // (options["num_devices"] if options["layout"] == "replicate" else 1),
        max_prefix_bytes=0,
        max_lookup_batch=0,
    )
    engine = FlaxEngine(pool, limits=limits)

    def speed() -> float:
        began_s = time.perf_counter()
        answers = engine.generate(requests)
        return sum(one.num_new_tokens for one in answers) / (time.perf_counter() - began_s)

    speed()  # compiles
    speeds = [speed() for _ in range(NUM_RUNS)]
    return {
        **options,
        "device_kind": jax.devices()[0].device_kind,
        "tokens_per_s": statistics.median(speeds),
        "runs": speeds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


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
        tidy(axis)
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


if __name__ == "__main__":
    run(
        __file__,
        description=__doc__.splitlines()[0],
        points=points,
        measure=measure,
        table_lines=table_lines,
        draw=draw,
    )
