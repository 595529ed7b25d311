"""Learned multi-hop routing over pools of small language models, in JAX.

    import jax, hierrouter_jax as hr
    tree = hr.load_tree("experiments/trees/small.npz")
    out = jax.jit(hr.make_train(hr.TrainConfig(cost_weight=0.1), tree.train))(jax.random.key(0))
    print(hr.score_routes(tree.test, hr.greedy_routes(out.params, tree.test), cost_weight=0.1).quality.mean())

The names below are the public interface. Each is imported from its room when it is first used, so that importing the
package does no work and learning never loads a language model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hierrouter_jax.agent.networks import RouterNetConfig as RouterNetConfig
    from hierrouter_jax.agent.networks import RouterParams as RouterParams
    from hierrouter_jax.agent.router import Router as Router
    from hierrouter_jax.agent.router import greedy_routes as greedy_routes
    from hierrouter_jax.agent.router import sampled_routes as sampled_routes
    from hierrouter_jax.baselines.registry import baseline_routes as baseline_routes
    from hierrouter_jax.collect.collect_config import CollectConfig as CollectConfig
    from hierrouter_jax.collect.collect_tree import collect_tree as collect_tree
    from hierrouter_jax.collect.tree_file import TreeFile as TreeFile
    from hierrouter_jax.collect.tree_file import load_tree as load_tree
    from hierrouter_jax.collect.tree_file import save_tree as save_tree
    from hierrouter_jax.core.errors import HierRouterError as HierRouterError
    from hierrouter_jax.core.text import GenerationRequest as GenerationRequest
    from hierrouter_jax.core.text import Response as Response
    from hierrouter_jax.encoder.joint import open_encoder as open_encoder
    from hierrouter_jax.encoder.sentence_encoder import load_encoder as load_encoder
    from hierrouter_jax.evaluate.bootstrap import BootstrapConfig as BootstrapConfig
    from hierrouter_jax.evaluate.comparison import compare as compare
    from hierrouter_jax.evaluate.evaluate_run import EvaluationConfig as EvaluationConfig
    from hierrouter_jax.evaluate.evaluate_run import evaluate_run as evaluate_run
    from hierrouter_jax.evaluate.evaluate_run import evaluate_tree as evaluate_tree
    from hierrouter_jax.evaluate.live import RouteResult as RouteResult
    from hierrouter_jax.evaluate.live import route as route
    from hierrouter_jax.evaluate.origins import run_origins as run_origins
    from hierrouter_jax.evaluate.origins import terms_of_tree as terms_of_tree
    from hierrouter_jax.llm.engine import TextEngine as TextEngine
    from hierrouter_jax.llm.flax_engine import FlaxEngine as FlaxEngine
    from hierrouter_jax.llm.pool import load_pool as load_pool
    from hierrouter_jax.routing.mdp import Observation as Observation
    from hierrouter_jax.routing.mdp import observe as observe
    from hierrouter_jax.routing.mdp import reset as reset
    from hierrouter_jax.routing.mdp import step as step
    from hierrouter_jax.routing.rollout import Trajectory as Trajectory
    from hierrouter_jax.routing.rollout import rollout as rollout
    from hierrouter_jax.routing.route_tree import RouteTree as RouteTree
    from hierrouter_jax.routing.scores import RouteBatch as RouteBatch
    from hierrouter_jax.routing.scores import RouteScores as RouteScores
    from hierrouter_jax.routing.scores import score_routes as score_routes
    from hierrouter_jax.routing.values import optimal_routes as optimal_routes
    from hierrouter_jax.routing.values import optimal_values as optimal_values
    from hierrouter_jax.store.response_store import ResponseStore as ResponseStore
    from hierrouter_jax.tasks.rows import load_rows as load_rows
    from hierrouter_jax.tasks.scoring import score_answer as score_answer
    from hierrouter_jax.tasks.scoring import score_answers as score_answers
    from hierrouter_jax.tasks.task_row import TaskRow as TaskRow
    from hierrouter_jax.train.config import PPOConfig as PPOConfig
    from hierrouter_jax.train.config import TrainConfig as TrainConfig
    from hierrouter_jax.train.loop import load_router as load_router
    from hierrouter_jax.train.loop import train_run as train_run
    from hierrouter_jax.train.make_train import make_train as make_train
    from hierrouter_jax.train.parallel import parallelise as parallelise
    from hierrouter_jax.train.ppo import make_update as make_update
    from hierrouter_jax.train.sweep import make_sweep as make_sweep

_ROOM_OF = {
    "BootstrapConfig": "evaluate.bootstrap",
    "CollectConfig": "collect.collect_config",
    "EvaluationConfig": "evaluate.evaluate_run",
    "FlaxEngine": "llm.flax_engine",
    "GenerationRequest": "core.text",
    "HierRouterError": "core.errors",
    "Observation": "routing.mdp",
    "PPOConfig": "train.config",
    "Response": "core.text",
    "ResponseStore": "store.response_store",
    "RouteBatch": "routing.scores",
    "RouteResult": "evaluate.live",
    "RouteScores": "routing.scores",
    "RouteTree": "routing.route_tree",
    "Router": "agent.router",
    "RouterNetConfig": "agent.networks",
    "RouterParams": "agent.networks",
    "TaskRow": "tasks.task_row",
    "TextEngine": "llm.engine",
    "TrainConfig": "train.config",
    "Trajectory": "routing.rollout",
    "TreeFile": "collect.tree_file",
    "baseline_routes": "baselines.registry",
    "collect_tree": "collect.collect_tree",
    "compare": "evaluate.comparison",
    "evaluate_run": "evaluate.evaluate_run",
    "evaluate_tree": "evaluate.evaluate_run",
    "greedy_routes": "agent.router",
    "load_encoder": "encoder.sentence_encoder",
    "load_pool": "llm.pool",
    "load_router": "train.loop",
    "load_rows": "tasks.rows",
    "load_tree": "collect.tree_file",
    "make_sweep": "train.sweep",
    "make_train": "train.make_train",
    "make_update": "train.ppo",
    "observe": "routing.mdp",
    "open_encoder": "encoder.joint",
    "optimal_routes": "routing.values",
    "optimal_values": "routing.values",
    "parallelise": "train.parallel",
    "reset": "routing.mdp",
    "rollout": "routing.rollout",
    "route": "evaluate.live",
    "run_origins": "evaluate.origins",
    "sampled_routes": "agent.router",
    "save_tree": "collect.tree_file",
    "score_answer": "tasks.scoring",
    "score_answers": "tasks.scoring",
    "score_routes": "routing.scores",
    "step": "routing.mdp",
    "terms_of_tree": "evaluate.origins",
    "train_run": "train.loop",
}
__all__ = tuple(_ROOM_OF)


def __getattr__(name: str) -> Any:
    """Import a public name from its room (PEP 562)."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value  # the next use costs nothing
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
