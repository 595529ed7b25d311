"""The array MDP for a batch of routes, compiled once for all tests of a file."""

from functools import partial

import jax

from hierrouter_jax.routing.mdp import observe, step


@partial(jax.jit, static_argnames="allow_stop")
def observe_all(tree, states, *, allow_stop):
    return jax.vmap(partial(observe, tree, allow_stop=allow_stop))(states)


@partial(jax.jit, static_argnames="allow_stop")
def step_all(tree, states, actions, *, cost_weight, allow_stop):
    return jax.vmap(partial(step, tree, cost_weight=cost_weight, allow_stop=allow_stop))(states, actions)
