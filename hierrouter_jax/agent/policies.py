"""The router as a policy for rollouts: actions sampled for learning, or the likeliest for use."""

from __future__ import annotations

from jaxtyping import Array, Bool, Key

from hierrouter_jax.agent.distributions import log_prob_of, mode, sample
from hierrouter_jax.agent.networks import NetOutput, RouterParams, apply_router
from hierrouter_jax.routing.mdp import Observation
from hierrouter_jax.routing.rollout import PolicyStep


def sample_action(params: RouterParams, observation: Observation, *, key: Key[Array, ""]) -> PolicyStep:
    """Draw an action from the router's distribution."""
    return draw_step(apply_router(params, observation), observation.legal, key=key)


def draw_step(output: NetOutput, legal: Bool[Array, " action"], *, key: Key[Array, ""]) -> PolicyStep:
    """Draw an action from the distribution that the networks answered with."""
    action = sample(output.logits, legal, key=key)
    return PolicyStep(action=action, log_prob=log_prob_of(output.logits, legal, action), value=output.value)


def greedy_action(params: RouterParams, observation: Observation, *, key: Key[Array, ""]) -> PolicyStep:
    """Take the likeliest action; `key` is not used, it makes this a policy like any other."""
    del key
    output = apply_router(params, observation)
    action = mode(output.logits, observation.legal)
    return PolicyStep(action=action, log_prob=log_prob_of(output.logits, observation.legal, action), value=output.value)
