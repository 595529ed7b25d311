"""The baseline that knows nothing: every legal action of every stage is equally likely."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from hierrouter_jax.agent.distributions import log_prob_of, sample
from hierrouter_jax.routing.mdp import Observation, reset_all
from hierrouter_jax.routing.rollout import PolicyStep, rollout, routes_of
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import RouteBatch


@partial(jax.jit, static_argnames="allow_stop")
def random_routes(tree: RouteTree, *, key: Key[Array, ""], allow_stop: bool = True) -> RouteBatch:
    """Draw uniformly among the legal actions at each stage; a query's route depends on (key, its index) alone."""
    walked = rollout(_uniform_action, None, tree, reset_all(tree), key=key, cost_weight=0.0, allow_stop=allow_stop)
    return routes_of(walked, num_models=tree.num_models)


def _uniform_action(params: None, observation: Observation, *, key: Key[Array, ""]) -> PolicyStep:
    del params
    logits = jnp.zeros(observation.legal.shape)
    action = sample(logits, observation.legal, key=key)
    return PolicyStep(action=action, log_prob=log_prob_of(logits, observation.legal, action), value=jnp.zeros(()))
