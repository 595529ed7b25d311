"""How training grows: steps a second and memory against batch, devices and tree size, as docs/scaling.md shows it.

    python experiments/scaling.py --out docs/figures        # scaling.json, .md and .png

Every point is measured in a process of its own, which runs the update blocks of `hierrouter train` on a simulated
tree (3 models, 3 stages: 40 nodes a query, contexts of 384 numbers at the 13 nodes where something is decided). A step
is one hop of an episode: a decision, the reward, and its share of PPO's four epochs. CPU devices are forced ones, which
share this machine's cores: they show what spreading costs, not what more hardware brings.
"""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path

from scaling_points import run, tidy

NUM_MODELS, NUM_STAGES, DIM = 3, 3, 384
BASE = {"num_envs": 1024, "num_devices": 1, "num_queries": 1000, "dtype": "float32", "is_sharded": False}
BATCHES = (64, 256, 1024, 4096, 16384)
DEVICES = (1, 2, 4, 8)
QUERIES = (100, 1000, 10_000, 100_000)
NUM_BLOCKS, BLOCK_S = 3, 1.0  # timed blocks, of about that length


def points() -> list[dict]:
    """Return the options of every point."""
    return [
        *({**BASE, "panel": "batch", "num_envs": count} for count in BATCHES),
        *({**BASE, "panel": "devices", "num_devices": count} for count in DEVICES),
        *({**BASE, "panel": "devices", "num_devices": count, "is_sharded": True} for count in DEVICES[1:]),
        *({**BASE, "panel": "queries", "num_queries": count} for count in QUERIES),
        *({**BASE, "panel": "queries", "num_queries": count, "dtype": "float16"} for count in QUERIES[1:]),
        {**BASE, "panel": "queries", "num_queries": QUERIES[-1], "dtype": "bfloat16"},
    ]


def simulated_tree(num_queries: int, dtype: str):
    """Return a complete tree of random outcomes, as `collect` makes them: last-stage nodes share the root's context."""
    import jax.numpy as jnp
    import numpy as np

    from hierrouter_jax.routing.route_tree import RouteTree, count_nodes

    rng = np.random.default_rng(0)
    num_nodes, num_contexts = count_nodes(NUM_MODELS, NUM_STAGES), count_nodes(NUM_MODELS, NUM_STAGES - 1)
    context = np.empty((num_queries * num_contexts, DIM), jnp.dtype(dtype))
    for start in range(0, len(context), 65536):  # by parts: the random numbers are of 32 bits
        part = rng.standard_normal((min(65536, len(context) - start), DIM), np.float32)
        context[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    first = np.arange(num_queries, dtype=np.int32)[:, None] * num_contexts
    nodes = np.arange(num_nodes, dtype=np.int32)
    cost = rng.exponential(0.5, (num_queries, num_nodes)).astype(np.float32)
    quality = rng.random((num_queries, num_nodes), np.float32)
    cost[:, 0] = quality[:, 0] = 0
    return RouteTree(
        context_row=jnp.asarray(first + np.where(nodes < num_contexts, nodes, 0)),
        context=jnp.asarray(context),
        step_cost=jnp.asarray(cost),
        quality=jnp.asarray(quality),
        valid=jnp.ones((num_queries, num_nodes), bool),
        signals=jnp.zeros((num_queries, num_nodes, 0)),
        task=jnp.zeros(num_queries, jnp.int32),
        num_models=NUM_MODELS,
        num_stages=NUM_STAGES,
        model_names=tuple(f"model_{index}" for index in range(NUM_MODELS)),
        task_names=("simulated",),
    )


def measure(options: dict) -> dict:
    """Return steps a second (median of the blocks) and the peak memory of this process, for one point."""
    import jax
    import jax.numpy as jnp

    from hierrouter_jax.train import parallel
    from hierrouter_jax.train.config import TrainConfig
    from hierrouter_jax.train.loop import make_update_block
    from hierrouter_jax.train.make_train import init_train_state, input_sizes, make_environment
    from hierrouter_jax.train.optimizer import make_optimizer
    from hierrouter_jax.train.ppo import make_update
    from hierrouter_jax.train.state import Environment, count_of

    config = TrainConfig(num_envs=options["num_envs"])
    devices, backend = jax.devices(), "shard_map"
    tree = simulated_tree(options["num_queries"], options["dtype"])
    tree_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    state = init_train_state(config, key=jax.random.key(0), **input_sizes(tree))
    environment, specs = make_environment(config, tree), ()
    if options["is_sharded"]:
        placed = parallel.place_shards(tree, devices, backend=backend)
        price = parallel.replicate(environment.cost_weight, devices, backend=backend)
        environment = Environment(tree=placed.tree, cost_weight=price)
        specs = (Environment(tree=parallel.SHARDED, cost_weight=parallel.REPLICATED),)
    elif len(devices) > 1:  # one device has the tree already
        environment = parallel.replicate(environment, devices, backend=backend)
    del tree
    update = make_update(make_optimizer(config), config.ppo, allow_stop=True, axis_name=parallel.AXIS_NAME)
    block = parallel.parallelise(make_update_block(update, 400), devices, backend=backend, shared_specs=specs)
    state = parallel.replicate(state, devices, backend=backend)
    rows = parallel.shard_rows(jnp.arange(config.num_envs), devices, backend=backend)

    def run(num_updates: int) -> tuple[float, int]:
        nonlocal state
        began_s, hops = time.perf_counter(), count_of(state.num_hops)
        state, _ = block(state, rows, environment, parallel.replicate(jnp.int32(num_updates), devices, backend=backend))
        num_hops = count_of(state.num_hops) - hops
        return time.perf_counter() - began_s, num_hops

    run(1)  # compiles
    num_updates = max(1, min(400, round(BLOCK_S / run(1)[0])))
    speeds = [hops / elapsed_s for elapsed_s, hops in (run(num_updates) for _ in range(NUM_BLOCKS))]
    in_blocks = max(leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(environment.tree.context))
    return {
        **options,
        "steps_per_s": statistics.median(speeds),
        "tree_bytes": tree_bytes,
        "context_bytes_per_device": in_blocks,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def draw(rows: list[dict], path: Path) -> None:
    """Draw the three questions: batch, devices, tree size (with memory)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    styles = {
        "whole tree on each device": {"color": "#0072b2", "marker": "o"},
        "a block of the tree on each": {"color": "#d55e00", "marker": "s", "linestyle": "--"},
        "contexts float32": {"color": "#0072b2", "marker": "o"},
        "contexts float16": {"color": "#d55e00", "marker": "s", "linestyle": "--"},
    }

    def line(axis, panel: str, x: str, y: str, scale: float, label: str, **wanted) -> None:
        chosen = [row for row in rows if row["panel"] == panel and all(row[k] == v for k, v in wanted.items())]
        axis.plot([row[x] for row in chosen], [row[y] / scale for row in chosen], label=label, **styles[label])

    line(axes[0], "batch", "num_envs", "steps_per_s", 1e3, "whole tree on each device")
    for label, is_sharded in (("whole tree on each device", False), ("a block of the tree on each", True)):
        line(axes[1], "devices", "num_devices", "steps_per_s", 1e3, label, is_sharded=is_sharded)
    for label in ("float32", "float16"):
        line(axes[2], "queries", "num_queries", "steps_per_s", 1e3, f"contexts {label}", dtype=label)
        line(axes[3], "queries", "num_queries", "peak_bytes", 1e9, f"contexts {label}", dtype=label)
    titles = ("Batch", "Devices (forced, sharing the cores)", "Tree size", "Memory")
    names = ("episodes of an update", "devices", "queries of 40 nodes", "queries of 40 nodes")
    for axis, title, name in zip(axes, titles, names, strict=True):
        axis.set(title=title, xlabel=name, xscale="log", ylabel="thousand steps a second")
        tidy(axis)
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(DEVICES, [str(count) for count in DEVICES])
    axes[3].set_ylabel("peak memory of the process, GB")
    for axis in axes[1:]:
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def table_lines(rows: list[dict]) -> list[str]:
    """Return the measurements as a Markdown table."""
    lines = [
        "| asked | episodes | devices | queries | contexts | tree | steps a second | tree, MB | peak memory, MB |",
        "| --- | ---: | ---: | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['panel']} | {row['num_envs']} | {row['num_devices']} | {row['num_queries']} | {row['dtype']} | "
            f"{'in blocks' if row['is_sharded'] else 'whole'} | {row['steps_per_s']:,.0f} | "
            f"{row['tree_bytes'] / 1e6:,.0f} | {row['peak_bytes'] / 1e6:,.0f} |"
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
        environment={"JAX_PLATFORMS": "cpu"},
    )
