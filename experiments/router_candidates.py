"""The routers that the experiments compare: the one in use, plain PPO as in the paper, and what was tried on the way.

Every candidate is a training config; its numbers were chosen on train rows (cross-validation), never on test rows.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from segment_attention import init_segment_attention

from hierrouter_jax.agent.networks import RouterNetConfig, RouterParams, ensemble
from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.routing.route_tree import ROOT, RouteTree, joined_trees, rows_of_tree
from hierrouter_jax.routing.scores import RouteBatch, score_routes
from hierrouter_jax.train.config import PPOConfig, TrainConfig
from hierrouter_jax.train.kinds import with_kinds
from hierrouter_jax.train.make_train import make_train
from hierrouter_jax.train.presets import PRESETS

NUM_FOLDS = 5
NUM_COPIES = 4  # of every query, with dropout
ROUTER, PPO = PRESETS["task-mixture"], PRESETS["ppo"]
MIXTURE, FIT = ROUTER.network, ROUTER.ppo
EXACT = TrainConfig(learner="exact")
ENSEMBLE = "router, ensemble of the seeds"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A router that was tried.

    With `num_kinds` its tasks are found by clustering instead of named; `before` is what it is trained by first;
    `dropout` is the share of a context's numbers that are hidden while it learns; with `is_question_apart` it reads the
    question and the context so far side by side; with `is_solved_apart` later hops are asked the bare question; with
    `attends_segments` it reads question and responses apart, by attention, on a tree `segment_attention.with_segments`.
    """

    config: TrainConfig
    num_kinds: int = 0
    before: TrainConfig | None = None
    dropout: float = 0.0
    is_question_apart: bool = False
    is_solved_apart: bool = False
    attends_segments: bool = False

    def tree(self, tree: RouteTree) -> RouteTree:
        """Return the tree as this candidate sees it."""
        if self.is_question_apart:
            tree = with_question_apart(tree)
        if self.is_solved_apart:
            tree = solved_apart(tree)
        return with_kinds(tree, self.num_kinds) if self.num_kinds else tree


def candidates() -> dict[str, Candidate]:
    """Return each candidate by its name in tables; the first is the router in use."""
    found = {name: Candidate(config=config) for name, config in _configs().items()}
    found["router, 12 kinds by clustering"] = Candidate(config=ROUTER, num_kinds=12)
    short_ppo = dataclasses.replace(PPO, network=MIXTURE, num_updates=100)
    found["router, then PPO"] = Candidate(config=short_ppo, before=ROUTER)
    found["router, first at cost weight 0"] = Candidate(config=ROUTER, before=priced(ROUTER, 0.0))
    found["router, question and context apart"] = Candidate(config=ROUTER, is_question_apart=True)
    found["router, second hop solves apart"] = Candidate(config=ROUTER, is_solved_apart=True)
    reading = dataclasses.replace(ROUTER, network=RouterNetConfig(reads_signals=True))
    found["regression, context in every layer, dropout"] = Candidate(config=reading, dropout=0.3)
    return found


def segment_candidates() -> dict[str, Candidate]:
    """Return those that attend over segments."""
    reading = dataclasses.replace(ROUTER, network=RouterNetConfig(reads_signals=True))
    found = {
        "regression, attention over segments, dropout": Candidate(config=reading, dropout=0.3),
        "router, attention over segments": Candidate(config=ROUTER),
    }
    return {name: dataclasses.replace(one, attends_segments=True) for name, one in found.items()}


def _configs() -> dict[str, TrainConfig]:
    def routed(**changes: object) -> TrainConfig:
        return dataclasses.replace(ROUTER, network=dataclasses.replace(MIXTURE, **changes))

    reading = RouterNetConfig(reads_signals=True)
    return {
        "router": ROUTER,
        "router without signals": routed(reads_signals=False),
        "router, a hidden layer of 64": routed(hidden_sizes=(64,), norm="layer"),
        "router, one for all cost weights": routed(is_conditioned=True),
        "router, no weight decay": dataclasses.replace(ROUTER, ppo=dataclasses.replace(FIT, weight_decay=0.0)),
        "regression, context in every layer": dataclasses.replace(ROUTER, network=reading),
        "exact gradient, task mixture": dataclasses.replace(EXACT, network=MIXTURE),
        "PPO, task mixture": dataclasses.replace(PPO, network=MIXTURE),
        "PPO, signals, weight decay 1": dataclasses.replace(PPO, network=reading, ppo=PPOConfig(weight_decay=1.0)),
        "PPO, stopped after 50 updates": dataclasses.replace(PPO, num_updates=50),
        "PPO (the paper's learner)": PPO,
    }


def priced(config: TrainConfig, cost_weight: float) -> TrainConfig:
    """Return the config at another cost weight."""
    return dataclasses.replace(config, cost_weight=cost_weight)


def train_seeds(config: TrainConfig, tree: RouteTree, num_seeds: int) -> RouterParams:
    """Return the routers of the first seeds, every leaf led by [seed]."""
    keys = jax.random.split(jax.random.key(config.seed), num_seeds)
    return _trained(_at_no_price(config), tree, keys, _price(config))


@partial(jax.jit, static_argnums=0)
def _trained(config: TrainConfig, tree: RouteTree, keys: jax.Array, cost_weight: jax.Array | None) -> RouterParams:
    """Train one router a key; compiled once for all cost weights and all trees of one shape."""
    train = make_train(config, tree)
    return jax.vmap(lambda key: train(key, cost_weight).params)(keys)


def _at_no_price(config: TrainConfig) -> TrainConfig:
    """Return the config without what `_price` says, so that configs that differ in nothing else are equal."""
    return config if config.network.is_conditioned else priced(config, 0.0)


def _price(config: TrainConfig) -> jax.Array | None:
    return None if config.network.is_conditioned else jnp.float32(config.cost_weight)


def routes_of_seeds(config: TrainConfig, params: RouterParams, tree: RouteTree) -> list[RouteBatch]:
    """Return the greedy routes of each seed."""
    asked = jnp.float32(config.cost_weight) if config.network.is_conditioned else None
    route = jax.vmap(lambda own: greedy_routes(own, tree, allow_stop=config.allow_stop, cost_weight=asked))
    return [RouteBatch(actions=actions) for actions in route(params).actions]


def trained_routes(config: TrainConfig, train: RouteTree, tree: RouteTree, num_seeds: int) -> list[RouteBatch]:
    """Return the greedy routes on `tree` of routers trained on `train`, one batch a seed."""
    return routes_of_seeds(config, train_seeds(config, train, num_seeds), tree)


def ensemble_routes(config: TrainConfig, params: RouterParams, tree: RouteTree) -> RouteBatch:
    """Return the greedy routes of the seeds' mean."""
    return greedy_routes(ensemble(params), tree, allow_stop=config.allow_stop)


def cross_validated(candidate: Candidate, tree: RouteTree, *, seed: int = 0) -> Float[np.ndarray, " query"]:
    """Return the utility of each query of `tree` by a router that was trained on the other folds.

    Up to `NUM_FOLDS - 1` queries are left out, so that folds are of one size and train side by side.
    """
    config, tree = candidate.config, candidate.tree(tree)
    order = np.random.default_rng(seed).permutation(tree.num_queries)
    held = order[: tree.num_queries // NUM_FOLDS * NUM_FOLDS].reshape(NUM_FOLDS, -1)
    learned = np.stack([np.concatenate(np.delete(held, fold, axis=0)) for fold in range(NUM_FOLDS)])
    keys = jax.random.split(jax.random.key(config.seed), NUM_FOLDS)
    folds = (tree, jnp.asarray(learned), jnp.asarray(held), keys)
    of_folds = _utility_of_folds(
        dataclasses.replace(candidate, config=_at_no_price(config)), *folds, _price(config), config.cost_weight
    )
    found = np.asarray(of_folds, np.float64)
    return found.reshape(-1)[np.argsort(held.reshape(-1))]


@partial(jax.jit, static_argnums=0)
def _utility_of_folds(
    candidate: Candidate,
    tree: RouteTree,
    learned: jax.Array,
    held: jax.Array,
    keys: jax.Array,
    cost_weight: jax.Array | None,
    price: jax.Array,
) -> jax.Array:
    """Return the utilities, [fold query], of the held queries by routers trained on the learned ones."""
    config, before = candidate.config, candidate.before
    asked = price if config.network.is_conditioned else None

    def utility(learn: jax.Array, judge: jax.Array, key: jax.Array) -> jax.Array:
        own = rows_of_tree(tree, learn)
        if candidate.dropout:
            own = with_dropout(own, key, candidate.dropout)
        params = None
        if before is not None:
            params = make_train(before, own)(key).params
        if candidate.attends_segments:
            params = init_segment_attention(config.network, own, key=key)
        params = make_train(config, own)(key, cost_weight, params).params
        judged = rows_of_tree(tree, judge)
        routes = greedy_routes(params, judged, allow_stop=config.allow_stop, cost_weight=asked)
        return score_routes(judged, routes, cost_weight=price).utility

    return jax.vmap(utility)(learned, held, keys)


def with_question_apart(tree: RouteTree) -> RouteTree:
    """Return the tree with contexts of twice the size: that of the question, and that of the node; of norm 1 again."""
    question = jnp.broadcast_to(tree.context_row[:, :1], tree.context_row.shape)
    halves = [tree.context[rows.reshape(-1)] for rows in (question, tree.context_row)]
    rows = jnp.arange(tree.context_row.size).reshape(tree.context_row.shape)
    return dataclasses.replace(tree, context=jnp.concatenate(halves, axis=1) / jnp.sqrt(2.0), context_row=rows)


def solved_apart(tree: RouteTree) -> RouteTree:
    """Return the tree as it is where every model is asked the bare question, whatever was answered before.

    Generation is greedy, so a later hop then gives the model's first answer at its first cost.
    """
    first = 1 + (np.arange(tree.num_nodes) - 1) % tree.num_models
    first[ROOT] = ROOT
    return dataclasses.replace(
        tree, **{name: getattr(tree, name)[:, first] for name in ("quality", "step_cost", "valid")}
    )


def with_dropout(tree: RouteTree, key: jax.Array, rate: float) -> RouteTree:
    """Return `NUM_COPIES` copies of the queries, in each of which a share of every context's numbers is hidden.

    What is left is scaled up (inverted dropout, Srivastava et al. 2014), so that the mean copy is the original.
    """
    copies = []
    for own in jax.random.split(key, NUM_COPIES):
        is_kept = jax.random.bernoulli(own, 1 - rate, tree.context.shape)
        copies.append(dataclasses.replace(tree, context=jnp.where(is_kept, tree.context / (1 - rate), 0.0)))
    return joined_trees(copies)


def without_task(tree: RouteTree, task: int) -> RouteTree:
    """Return the queries of all other tasks."""
    return rows_of_tree(tree, np.flatnonzero(np.asarray(tree.task) != task))


def of_task(tree: RouteTree, task: int) -> RouteTree:
    """Return the queries of one task."""
    return rows_of_tree(tree, np.flatnonzero(np.asarray(tree.task) == task))


def some_queries(tree: RouteTree, count: int) -> RouteTree:
    """Return `count` queries drawn at random; larger draws hold the smaller ones."""
    return rows_of_tree(tree, np.random.default_rng(0).permutation(tree.num_queries)[:count])
