"""The paper's experiment: routers and baselines on six benchmarks, with everything that docs/RESULTS.md says of them.

    python experiments/six_benchmarks.py --out results

It reads outcomes from a tree file (by default the packaged one), trains every router with several seeds, fits all
baselines, and writes tables (markdown), figures (PNG) and all numbers (`results.json`) into a folder. A system's
outcome on a query is the mean over seeds; every benchmark counts alike, however many test rows it has; intervals are
paired bootstraps over the test queries. Routers, baselines and cost weights are chosen on train and validation rows,
never on test rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from command import run
from router_candidates import (
    ENSEMBLE,
    candidates,
    cross_validated,
    ensemble_routes,
    of_task,
    priced,
    segment_candidates,
    some_queries,
    trained_routes,
    without_task,
)
from segment_attention import ANSWERS, load_answers, with_segments
from six_limits import limits
from six_systems import (
    FITTED_WEIGHTS,
    LEARNED,
    MAIN_WEIGHT,
    ROUTER_WEIGHTS,
    Experiment,
    Systems,
    fitted_systems,
    run_all_weights,
)

from hierrouter_jax.baselines.registry import baseline_routes
from hierrouter_jax.collect.tree_file import load_tree
from hierrouter_jax.core.atomic_files import write_text_atomically
from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, difference_interval
from hierrouter_jax.evaluate.comparison import compare
from hierrouter_jax.evaluate.equal_cost import EqualCost, at_equal_cost
from hierrouter_jax.evaluate.results import SystemResult
from hierrouter_jax.evaluate.route_outcomes import RouteOutcomes, outcomes_of, task_weights
from hierrouter_jax.report.learning_curve import curve_of_metrics, learning_curve_figure
from hierrouter_jax.report.quality_cost import quality_cost_figure
from hierrouter_jax.report.quality_fronts import quality_fronts_figure
from hierrouter_jax.report.route_mix import mixes_figure, route_mix_figure, shown_routes
from hierrouter_jax.report.tables import Table, shown_name, system_table, task_cost_table, task_quality_table
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.values import optimal_routes
from hierrouter_jax.train.loop import train_run
from hierrouter_jax.train.metrics_log import read_metrics

TREE = Path(__file__).resolve().parent / "trees" / "six_benchmarks.npz"
DRAWN = (
    "router",
    "ppo",
    "knn",
    "knn_multi_hop",
    "one_shot",
    "value_regression",
    "cascade",
    "task_best_route",
    "oracle",
)
TRAIN_SIZES = (100, 400)  # and all
FEW_SEEDS = 1  # of routers trained on other train rows


def main_tables(experiment: Experiment) -> dict[str, Any]:
    """Write the comparison at cost weight 0 and at the main one, and its pictures."""
    for weight, comparison in experiment.on_test.items():
        if weight in FITTED_WEIGHTS:
            experiment.write(f"systems_{weight:g}", system_table(comparison))
            experiment.write(f"quality_by_task_{weight:g}", task_quality_table(comparison))
            experiment.write(f"cost_by_task_{weight:g}", task_cost_table(comparison))
    main = experiment.on_test[MAIN_WEIGHT]
    experiment.draw("quality_cost", quality_cost_figure(main))
    experiment.draw("route_mix_by_task", route_mix_figure(main))
    experiment.draw("fronts", quality_fronts_figure(experiment.on_test, [n for n in DRAWN if n in main.systems]))
    mixes = {f"cost weight {weight:g}": one.systems["router"].routes for weight, one in experiment.on_test.items()}
    together: dict[str, float] = {}
    for mix in mixes.values():
        together = {route: together.get(route, 0.0) + mix.get(route, 0.0) for route in together | mix}
    title = "Routes of the router, by cost weight"
    experiment.draw("route_mix_by_weight", mixes_figure(mixes, shown_routes(together), main.model_names, title=title))
    return {f"{weight:g}": to_json_dict(comparison) for weight, comparison in experiment.on_test.items()}


def equal_costs(experiment: Experiment) -> dict[str, Any]:
    """Hold the router against every system of the main cost weight, at that system's cost."""

    def outcomes(systems: Systems, name: str, tree: RouteTree, weight: float) -> RouteOutcomes:
        return outcomes_of(tree, systems[name], weight, weights=task_weights(tree))

    test, validation = experiment.test, experiment.validation
    router_validation = {w: outcomes(s, "router", validation, w) for w, s in experiment.validation_systems.items()}
    router_test = {w: outcomes(s, "router", test, w) for w, s in experiment.test_systems.items()}
    found: dict[str, EqualCost] = {}
    # Validation itself is routed with choices made on train.
    fitted = baseline_routes(experiment.train, validation, cost_weight=MAIN_WEIGHT, key=jax.random.key(0))
    on_validation: Systems = experiment.validation_systems[MAIN_WEIGHT] | fitted
    on_test = experiment.test_systems[MAIN_WEIGHT]
    for name in on_test:
        if name != "router" and not name.startswith("oracle"):
            found[name] = at_equal_cost(
                router_validation,
                router_test,
                system_validation=outcomes(on_validation, name, validation, MAIN_WEIGHT),
                system_scored=outcomes(on_test, name, test, MAIN_WEIGHT),
            )
    rows = tuple(_equal_cost_row(name, one) for name, one in found.items())
    header = (
        "system",
        "its quality %",
        "its cost",
        "router's quality %",
        "router's cost",
        "gain [95%]",
    )
    experiment.write("equal_cost", Table(title="The router at each system's cost", header=header, rows=rows))
    return {name: to_json_dict(one) for name, one in found.items()}


def _equal_cost_row(name: str, one: EqualCost) -> tuple[str, ...]:
    low, high = one.difference.quality_ci
    return (
        shown_name(name),
        f"{100 * one.system_quality:.1f}",
        f"{one.system_cost:.2f}",
        f"{100 * one.quality:.1f}",
        f"{one.cost:.2f}",
        f"{100 * one.difference.quality:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
    )


def ratios(experiment: Experiment) -> dict[str, Any]:
    """Write, by benchmark, the router's quality and cost as multiples of the mean model's (the paper's "2.4x")."""
    found: dict[str, Any] = {}
    rows = []
    for weight, comparison in experiment.on_test.items():
        singles = [system for name, system in comparison.systems.items() if name.startswith("single/")]
        for task, own in comparison.systems["router"].tasks.items():
            quality = float(np.mean([single.tasks[task].quality for single in singles]))
            cost = float(np.mean([single.tasks[task].cost for single in singles]))
            best = max(single.tasks[task].quality for single in singles)
            ratio = {"quality": own.quality / max(quality, 1e-9), "cost": own.cost / cost, "best": own.quality / best}
            found[f"{task} @ {weight:g}"] = ratio
            if weight == MAIN_WEIGHT:
                numbers = (f"{100 * own.quality:.1f}", f"{100 * quality:.1f}")
                rows.append((task, *numbers, *(f"{ratio[name]:.2f}" for name in ("quality", "cost", "best"))))
    header = ("benchmark", "router %", "mean model %", "quality ratio", "cost ratio", "ratio to its best model")
    experiment.write("ratios", Table(title="Router over the mean model", header=header, rows=tuple(rows)))
    return found


def ablation(experiment: Experiment) -> dict[str, Any]:
    """Write what was tried: utility on train rows by cross-validation, by which things were kept.

    Test rows were looked at for the router and PPO, which are in every table, and for the ensemble. What attends over
    segments is tried on the packaged tree alone, whose responses were encoded apart.
    """
    train, test = experiment.train, experiment.test
    tried, segmented = candidates(), {}
    answers = load_answers(ANSWERS, experiment.tree_file.outcomes["train"].row_id_hash)
    if answers is not None:
        segmented = segment_candidates()
    tried |= segmented
    folds: dict[str, np.ndarray] = {}
    with progress_bar("what was tried", len(tried)) as advance:
        for name, candidate in tried.items():
            priced_candidate = dataclasses.replace(candidate, config=priced(candidate.config, MAIN_WEIGHT))
            tree = train if answers is None or name not in segmented else with_segments(train, answers)
            folds[name] = cross_validated(priced_candidate, tree)
            advance(1)
    params, known = experiment.params[MAIN_WEIGHT]["router"], experiment.test_systems[MAIN_WEIGHT]
    systems: Systems = {name: known[name] for name in ("best_single", "oracle")}
    systems[ENSEMBLE] = ensemble_routes(LEARNED["router"], params, test)
    further = compare(test, systems, cost_weight=MAIN_WEIGHT, is_balanced=True)
    on_test = {ENSEMBLE: further.systems[ENSEMBLE]}
    named = {"router": "router", "ppo": "PPO (the paper's learner)"}
    on_test |= {shown: experiment.on_test[MAIN_WEIGHT].systems[name] for name, shown in named.items()}
    rows = [_ablation_row(name, folds, on_test.get(name)) for name in (*tried, ENSEMBLE)]
    header = ("candidate", "utility %, folds of train", "less router [95%]", "utility %, test", "quality %", "cost")
    title = f"What was tried, cost weight {MAIN_WEIGHT:g}"
    experiment.write("ablation", Table(title=title, header=header, rows=tuple(rows)))
    return {
        "folds_of_train": {name: float(values.mean()) for name, values in folds.items()},
        "test": {name: to_json_dict(one) for name, one in on_test.items()},
    }


def _ablation_row(name: str, folds: Mapping[str, np.ndarray], on_test: SystemResult | None) -> tuple[str, ...]:
    cells = ["", ""]
    if name in folds:
        own, router = folds[name], folds["router"]
        low, high = difference_interval(own, router, BootstrapConfig())
        gain = f"{100 * (own - router).mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        cells = [f"{100 * own.mean():.1f}", "" if name == "router" else gain]
    if on_test is None:
        return (name, *cells, "", "", "")
    return (name, *cells, f"{100 * on_test.utility:.1f}", f"{100 * on_test.quality:.1f}", f"{on_test.cost:.2f}")


def transfer(experiment: Experiment) -> dict[str, Any]:
    """Write how systems do on a benchmark that they were not trained on, one left out at a time.

    Every time as many train rows are learned from: what the largest benchmark leaves.
    """
    names = experiment.test.task_names
    others = [without_task(experiment.train, task) for task in range(len(names))]
    size = min(tree.num_queries for tree in others)
    shown = ("router", "ppo", "knn", "one_shot", "value_regression", "best_single", "oracle")
    found, rows = {}, []
    with progress_bar("benchmarks left out", len(names)) as advance:
        for task, name in enumerate(names):
            train, test = some_queries(others[task], size), of_task(experiment.test, task)
            systems = fitted_systems(train, test, without_task(experiment.validation, task))
            systems["oracle"] = optimal_routes(test, cost_weight=MAIN_WEIGHT)
            comparison = compare(test, systems | _retrained(experiment, train, test), cost_weight=MAIN_WEIGHT)
            found[name] = to_json_dict(comparison)
            told = experiment.on_test[MAIN_WEIGHT].systems["router"].tasks[name].utility
            cells = [comparison.systems[system].utility for system in shown]
            rows.append((name, *(f"{100 * cell:.1f}" for cell in (*cells, told))))
            advance(1)
    header = ("left out (utility %)", *(shown_name(name) for name in shown), "router trained on all")
    experiment.write("leave_one_out", Table(title="Benchmarks not trained on", header=header, rows=tuple(rows)))
    return found


def _retrained(experiment: Experiment, train: RouteTree, test: RouteTree) -> Systems:
    """Return the routes of routers trained on other train rows, of a few seeds."""
    num_seeds = min(FEW_SEEDS, experiment.num_seeds)
    return {
        name: trained_routes(priced(config, MAIN_WEIGHT), train, test, num_seeds) for name, config in LEARNED.items()
    }


def learning_curves(experiment: Experiment) -> dict[str, Any]:
    """Draw utility over updates of the router and of PPO, and write it over the number of train queries."""
    curves = []
    for name, config in LEARNED.items():
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder) / name
            timed = dataclasses.replace(priced(config, MAIN_WEIGHT), validation_interval=10)
            train_run(timed, experiment.train, run_dir, validation=experiment.validation)
            curves.append(curve_of_metrics(shown_name(name), read_metrics(run_dir)))
    main = experiment.on_test[MAIN_WEIGHT].systems
    references = {
        f"{shown_name(name)}, test": main[name].utility for name in ("router", "ppo", "best_single", "oracle")
    }
    experiment.draw("learning_curves", learning_curve_figure(curves, references=references))
    train, test = experiment.train, experiment.test
    names = ("router", "ppo", "knn", "one_shot", "value_regression", "best_single")
    found: dict[str, dict[str, float]] = {}
    sizes = [size for size in TRAIN_SIZES if size < train.num_queries]
    with progress_bar("numbers of train queries", len(sizes)) as advance:
        for size in sizes:
            few = some_queries(train, size)
            systems = fitted_systems(few, test, experiment.validation) | _retrained(experiment, few, test)
            scored = compare(test, systems, cost_weight=MAIN_WEIGHT, is_balanced=True).systems
            found[str(size)] = {name: scored[name].utility for name in names}
            advance(1)
    found[str(train.num_queries)] = {name: main[name].utility for name in names}
    rows = tuple((size, *(f"{100 * own[name]:.1f}" for name in names)) for size, own in found.items())
    header = ("train queries (utility %)", *(shown_name(name) for name in names))
    experiment.write("train_sizes", Table(title="Utility over the number of train queries", header=header, rows=rows))
    return found


PARTS: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    "comparisons": main_tables,
    "equal_cost": equal_costs,
    "ratios": ratios,
    "limits": limits,
    "ablation": ablation,
    "leave_one_out": transfer,
    "train_sizes": learning_curves,
}


def chosen_parts(names: Sequence[str]) -> Iterator[str]:
    """Yield the parts to do; `ConfigError` for one that does not exist."""
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise ConfigError(f"Parts are {', '.join(PARTS)}, but {', '.join(unknown)} was asked for.")
    yield from names or PARTS


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, fit, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, default=TREE, help="tree file of outcomes")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables, figures and results.json")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of every router")
    parser.add_argument("--cost-weights", type=float, nargs="+", default=list(ROUTER_WEIGHTS), help="of the router")
    parser.add_argument("--parts", nargs="+", default=[], help=f"some of: {', '.join(PARTS)}")
    options = parser.parse_args(arguments)
    parts = list(chosen_parts(options.parts))
    if options.seeds < 1:
        raise ConfigError(f"--seeds must be >= 1, but is {options.seeds}.")
    weights = sorted({*options.cost_weights, 0.0, MAIN_WEIGHT})
    options.out.mkdir(parents=True, exist_ok=True)
    experiment = run_all_weights(load_tree(options.tree), options.seeds, weights, options.out)
    found = {part: PARTS[part](experiment) for part in parts}
    write_text_atomically(options.out / "results.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
