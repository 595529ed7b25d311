"""What a run must share with a tree, a pool and an encoder to be used with them: noted at training, checked at use.

A router reads embeddings, cumulative costs and outcomes of particular prompts. With another encoder, unit of cost,
pool or prompt version it would still answer, and mean nothing. `train_run` keeps these origins in `config.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from hierrouter_jax.agent.router import Router
from hierrouter_jax.collect.outcomes import raw_cost_of_one
from hierrouter_jax.collect.tree_file import TreeFile
from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.core.text import ModelCard, pool_digest
from hierrouter_jax.costs import CostModel
from hierrouter_jax.encoder.text_encoder import TextEncoder
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.train.run_record import RunRecord

UNIT = "raw_cost_of_one"


@dataclass(frozen=True, kw_only=True)
class HopTerms:
    """What live hops share with the tree that a router learned from: the unit of cost and the words of the prompts."""

    cost_model: CostModel
    raw_cost_of_one: float
    prompt_version: str


def run_origins(tree_file: TreeFile) -> dict[str, str]:
    """Return the origins of a run that learns from this tree file, as `train_run` takes them."""
    manifest = tree_file.manifest
    terms = terms_of_tree(tree_file)
    return {
        "pool_digest": manifest.pool_digest,
        "encoder_digest": manifest.encoder_digest,
        "prompt_version": terms.prompt_version,
        "cost_model": terms.cost_model,
        UNIT: repr(terms.raw_cost_of_one),
    }


def terms_of_tree(tree_file: TreeFile) -> HopTerms:
    """Return the terms of a tree file's hops."""
    manifest = tree_file.manifest
    unit = raw_cost_of_one(tree_file.outcomes["train"], manifest.cards, cost_model=tree_file.cost_model)
    return HopTerms(cost_model=tree_file.cost_model, raw_cost_of_one=unit, prompt_version=str(manifest.prompt_version))


def terms_of_run(record: RunRecord) -> HopTerms:
    """Return the terms of a run; `DataError` when it was trained without noting them."""
    missing = [name for name in ("cost_model", UNIT, "prompt_version") if name not in record.origins]
    raise_all(
        DataError, "A run that answers live must say what its tree was made of, but its config.json lacks:", missing
    )
    return HopTerms(
        cost_model=record.origins["cost_model"],  # type: ignore[arg-type]
        raw_cost_of_one=float(record.origins[UNIT]),
        prompt_version=record.origins["prompt_version"],
    )


def require_run_fits_tree(record: RunRecord, tree_file: TreeFile) -> None:
    """Raise one `DataError` naming everything in which the run's tree and this one differ; other rows are welcome."""
    tree = tree_file.test
    found = run_origins(tree_file) | _shape_terms(tree.model_names, tree.num_stages, tree.context.shape[1])
    # Compared also where no origins were noted: with other shapes the router cannot be applied at all.
    wanted = record.origins | _shape_terms(record.model_names, record.num_stages, record.context_dim)
    raise_all(
        DataError,
        "A run can be evaluated only on a tree of its own pool, encoder, prompts and cost model; give such a tree, or "
        "train on this one:",
        [
            f"{name}: the run has {wanted[name]}, the tree has {value}"
            for name, value in found.items()
            if name in wanted and wanted[name] != value and name != UNIT
        ],
    )


def in_units_of_run(tree_file: TreeFile, record: RunRecord) -> TreeFile:
    """Return the tree file with its costs in the unit that the run's router learned in.

    The unit is a mean over train rows, so trees of other rows have another one. A run without noted origins is taken
    to be of this tree.
    """
    if UNIT not in record.origins:
        return tree_file
    ratio = terms_of_tree(tree_file).raw_cost_of_one / float(record.origins[UNIT])
    if ratio == 1:
        return tree_file
    validation = tree_file.validation
    return dataclasses.replace(
        tree_file,
        train=_with_costs_times(tree_file.train, ratio),
        validation=None if validation is None else _with_costs_times(validation, ratio),
        test=_with_costs_times(tree_file.test, ratio),
    )


def require_router_fits(router: Router, cards: Sequence[ModelCard], encoder: TextEncoder) -> None:
    """Raise one `DataError` when the router was trained with another pool or encoder than those at hand."""
    problems = []
    if router.pool_digest != pool_digest(cards):
        names = ", ".join(card.name for card in cards)
        problems.append(
            f"the pool: it learned with {', '.join(router.model_names)} ({router.pool_digest[:12] or 'not noted'}), "
            f"this one is {names} ({pool_digest(cards)[:12]})"
        )
    if router.encoder_digest != encoder.digest:
        problems.append(
            f"the encoder: it learned from {router.encoder_digest[:12] or 'one not noted'}, this one is "
            f"{encoder.digest[:12]}"
        )
    raise_all(
        DataError,
        "A router must be used with the pool and the encoder of its tree; give those, or train on a tree of these:",
        problems,
    )


def _shape_terms(model_names: Sequence[str], num_stages: int, context_dim: int) -> dict[str, str]:
    return {"models": ", ".join(model_names), "stages": str(num_stages), "context_dim": str(context_dim)}


def _with_costs_times(tree: RouteTree, ratio: float) -> RouteTree:
    return dataclasses.replace(tree, step_cost=tree.step_cost * ratio)
