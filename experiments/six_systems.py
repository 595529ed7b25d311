"""All systems on the six benchmarks: trained and fitted at every cost weight, compared on the test rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from router_candidates import PPO, ROUTER, priced, routes_of_seeds, train_seeds

from hierrouter_jax.baselines.classifiers import one_shot_routes
from hierrouter_jax.baselines.fixed import best_single_routes, single_routes
from hierrouter_jax.baselines.nearest import knn_routes
from hierrouter_jax.baselines.registry import baseline_routes
from hierrouter_jax.baselines.value_regression import value_regression_routes
from hierrouter_jax.collect.tree_file import TreeFile
from hierrouter_jax.core.atomic_files import atomic_write, write_text_atomically
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.evaluate.comparison import compare
from hierrouter_jax.evaluate.results import Comparison
from hierrouter_jax.report.tables import Table, markdown_table, rich_table
from hierrouter_jax.report.themes import png_bytes
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.routing.values import optimal_routes

ROUTER_WEIGHTS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
FITTED_WEIGHTS = (0.0, 0.1, 0.3)  # where PPO is trained and baselines are fitted too
MAIN_WEIGHT = 0.1
LEARNED = {"router": ROUTER, "ppo": PPO}
Systems = dict[str, RouteBatch | Sequence[RouteBatch]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every part of the report reads."""

    tree_file: TreeFile
    num_seeds: int
    out: Path
    params: dict[float, dict[str, Any]]  # by cost weight and name, every leaf led by [seed]
    on_test: dict[float, Comparison]
    test_systems: dict[float, Systems]
    validation_systems: dict[float, Systems]

    @property
    def train(self) -> RouteTree:
        """The train rows."""
        return self.tree_file.train

    @property
    def validation(self) -> RouteTree:
        """The validation rows."""
        assert self.tree_file.validation is not None
        return self.tree_file.validation

    @property
    def test(self) -> RouteTree:
        """The test rows."""
        return self.tree_file.test

    def write(self, name: str, table: Table) -> None:
        """Print a table, and write it as markdown."""
        Console().print(rich_table(table))
        write_text_atomically(self.out / f"{name}.md", markdown_table(table))

    def draw(self, name: str, figure: Any) -> None:
        """Write a figure."""
        with atomic_write(self.out / f"{name}.png") as file:
            file.write(png_bytes(figure))


def run_all_weights(tree_file: TreeFile, num_seeds: int, cost_weights: Sequence[float], out: Path) -> Experiment:
    """Train and fit everything.

    The router is trained at every cost weight, and stands there beside single models and the oracle; the other systems
    join it at `FITTED_WEIGHTS`.
    """
    if tree_file.validation is None:
        raise ConfigError("The experiment chooses on validation rows, but this tree has none; collect some.")
    found = Experiment(
        tree_file=tree_file,
        num_seeds=num_seeds,
        out=out,
        params={},
        on_test={},
        test_systems={},
        validation_systems={},
    )
    with progress_bar("training and fitting at each cost weight", len(cost_weights)) as advance:
        for weight in cost_weights:
            _add_weight(found, weight)
            advance(1)
    return found


def _add_weight(found: Experiment, weight: float) -> None:
    is_fitted = weight in FITTED_WEIGHTS
    params = {
        name: train_seeds(priced(config, weight), found.train, found.num_seeds)
        for name, config in LEARNED.items()
        if is_fitted or name == "router"
    }
    systems = _routed(params, weight, found.test)
    if is_fitted:
        systems |= baseline_routes(
            found.train, found.test, cost_weight=weight, key=jax.random.key(0), validation=found.validation
        )
    else:
        systems |= _unfitted(found, weight)
    found.params[weight] = params
    found.test_systems[weight] = systems
    found.validation_systems[weight] = _routed(params, weight, found.validation)
    found.on_test[weight] = compare(found.test, systems, cost_weight=weight, is_balanced=True)


def _routed(params: Mapping[str, Any], weight: float, split: RouteTree) -> Systems:
    return {name: routes_of_seeds(priced(LEARNED[name], weight), own, split) for name, own in params.items()}


def _unfitted(found: Experiment, weight: float) -> Systems:
    """Return the single models, the best of them on train, and the oracle."""
    test = found.test
    singles: Systems = {f"single/{name}": single_routes(test, model) for model, name in enumerate(test.model_names)}
    return singles | {
        "best_single": best_single_routes(found.train, test, cost_weight=weight),
        "oracle": optimal_routes(test, cost_weight=weight),
    }


def fitted_systems(train: RouteTree, test: RouteTree, validation: RouteTree) -> Systems:
    """Return the routes, at the main cost weight, of the baselines that every table of other train rows shows."""
    options: dict[str, Any] = {"cost_weight": MAIN_WEIGHT, "validation": validation}
    return {
        "knn": knn_routes(train, test, **options),
        "one_shot": one_shot_routes(train, test, **options),
        "value_regression": value_regression_routes(train, test, **options),
        "best_single": best_single_routes(train, test, cost_weight=MAIN_WEIGHT),
    }
