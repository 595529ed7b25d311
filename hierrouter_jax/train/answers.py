"""What the network answers to the decisions of a batch, by the shorter of two ways.

Each decision by itself is one evaluation a decision. But in a tree a decision's state is all that the network sees,
and a tree has few states (`routing/decision_states.py`): where the batch holds at least as many decisions, the network
is evaluated once a state, and decisions look their answers up. Both ways give the same numbers up to rounding, and
the same random draws; which one is taken depends on shapes alone, so it is settled when the program is compiled.

A router that is conditioned on the cost weight sees more than the state, and always goes the first way.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from hierrouter_jax.agent.networks import NetOutput, RouterParams, apply_router
from hierrouter_jax.agent.policies import draw_step
from hierrouter_jax.routing.decision_states import (
    count_decision_states,
    decision_state_index,
    observe_decision_states,
    with_context_of_states,
)
from hierrouter_jax.routing.mdp import Observation, RouterState
from hierrouter_jax.routing.rollout import PolicyStep
from hierrouter_jax.routing.route_tree import RouteTree, context_at


def answer_decisions(
    params: RouterParams,
    tree: RouteTree,
    state: RouterState,
    legal: Bool[Array, "decision action"],
    cost_weight: Float[Array, " decision"] | None,
) -> NetOutput:
    """Return logits and value of each decision; fields of `state` are [decision]."""
    if cost_weight is None and is_table_smaller(tree, state.node.shape[0]):
        answers = table_of_answers(params, tree)[decision_state_index(tree, state.query_index, state.node)]
        return NetOutput(logits=answers[:, :-1], value=answers[:, -1])
    observation = Observation(
        context=context_at(tree, state.query_index, state.node),
        signals=tree.signals[state.query_index, state.node],
        stage=state.stage,
        cum_cost=state.cum_cost,
        legal=legal,
        cost_weight=cost_weight,
    )
    return jax.vmap(partial(apply_router, params))(observation)


def answered_tree(params: RouterParams, tree: RouteTree) -> RouteTree:
    """Return the tree with the network's answers in place of contexts, for rollouts by `sample_from_answer`."""
    return with_context_of_states(tree, table_of_answers(params, tree))


def is_table_smaller(tree: RouteTree, num_decisions: int) -> bool:
    """Say whether the tree has no more states than the batch has decisions, so that evaluating all is less work."""
    return count_decision_states(tree) <= num_decisions


def table_of_answers(params: RouterParams, tree: RouteTree) -> Float[Array, "state answer"]:
    """Return the network's answer in every state of the tree: a logit an action, and the value last."""
    output = jax.vmap(partial(apply_router, params))(observe_decision_states(tree))
    return jnp.concatenate([output.logits, output.value[:, None]], axis=1)


def sample_from_answer(params: None, observation: Observation, *, key: Key[Array, ""]) -> PolicyStep:
    """Draw an action where the context is the network's own answer (`table_of_answers`); no weights are needed."""
    del params
    answer = NetOutput(logits=observation.context[:-1], value=observation.context[-1])
    return draw_step(answer, observation.legal, key=key)
