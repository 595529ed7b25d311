"""A run, or a tree alone, to a comparison of the router and all baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax

from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.baselines.registry import baseline_routes
from hierrouter_jax.collect.tree_file import TreeFile
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.core.keys import MAX_SEED
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig
from hierrouter_jax.evaluate.comparison import compare
from hierrouter_jax.evaluate.origins import in_units_of_run, require_run_fits_tree
from hierrouter_jax.evaluate.results import Comparison
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch
from hierrouter_jax.train.loop import load_router
from hierrouter_jax.train.run_record import read_record

RESULTS_NAME = "results.json"
Split = Literal["test", "validation", "train"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How an evaluation is done. The random baseline and the intervals have seeds of their own."""

    split: Split = "test"
    """Which queries are scored. What baselines learn they learn on train, what they choose on validation; validation
    itself is scored with choices made on train."""
    random_seed: int = 0
    """Seed of the random baseline; below 2**32."""
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    """How intervals are drawn."""
    is_balanced: bool = False
    """Does every task count alike in what is said of all queries? Otherwise every query does."""

    def __post_init__(self) -> None:
        """Refuse a seed that makes no key of its own."""
        if not 0 <= self.random_seed <= MAX_SEED:
            raise ConfigError(f"random_seed must be in [0, {MAX_SEED}], but is {self.random_seed}.")


def evaluate_run(run_dir: Path, tree_file: TreeFile, config: EvaluationConfig | None = None) -> Comparison:
    """Compare the run's greedy router with all baselines, at the run's own cost weight and rules.

    Raises `DataError` when the tree is of another pool, encoder, prompt version or cost model than the run's,
    `CheckpointError` when the run has no whole checkpoint.
    """
    record = read_record(run_dir)
    require_run_fits_tree(record, tree_file)
    tree_file = in_units_of_run(tree_file, record)
    router = load_router(run_dir)
    tree = split_of(tree_file, (config or EvaluationConfig()).split)
    routes = greedy_routes(router.params, tree, allow_stop=router.allow_stop)
    return evaluate_tree(
        tree_file,
        cost_weight=record.config.cost_weight,
        allow_stop=router.allow_stop,
        routers={"router": routes},
        config=config,
    )


def evaluate_tree(
    tree_file: TreeFile,
    *,
    cost_weight: float,
    allow_stop: bool = True,
    routers: Mapping[str, RouteBatch | Sequence[RouteBatch]] | None = None,
    config: EvaluationConfig | None = None,
) -> Comparison:
    """Compare `routers` (none for a tree alone) with all baselines on one split of the tree.

    A router may be given as one batch of routes a seed (see `compare`).
    """
    config = EvaluationConfig() if config is None else config
    tree = split_of(tree_file, config.split)
    baselines = baseline_routes(
        tree_file.train,
        tree,
        cost_weight=cost_weight,
        key=jax.random.key(config.random_seed),
        allow_stop=allow_stop,
        validation=None if config.split == "validation" else tree_file.validation,
    )
    clashing = sorted(set(routers or {}) & set(baselines))
    if clashing:
        raise ConfigError(f"A router must not have the name of a baseline, but {clashing} do; name them otherwise.")
    return compare(
        tree,
        dict(routers or {}) | baselines,
        cost_weight=cost_weight,
        bootstrap=config.bootstrap,
        split=config.split,
        cost_model=tree_file.cost_model,
        is_balanced=config.is_balanced,
    )


def split_of(tree_file: TreeFile, split: Split) -> RouteTree:
    """Return one split of a tree file; `DataError` when it has none of that name."""
    tree = {"train": tree_file.train, "validation": tree_file.validation, "test": tree_file.test}[split]
    if tree is None:
        raise DataError(f"The tree has no {split} split; it has {', '.join(tree_file.manifest.split_sizes)}.")
    return tree
