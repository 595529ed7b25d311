"""One PPO update: roll out, estimate advantages, then several epochs of minibatch steps (scan of scan).

The update is written for one device's share of the rows (`row_ids` are global) and knows of other devices only
through `axis_name`, over which sums are taken; without it the same code is the whole update. Nothing depends on how
the rows are spread: randomness is folded in by global row, and a minibatch is the same set of global rows on any
number of devices. Statistics and losses are means over the decisions of the whole minibatch: masked steps, those
after the end of a route, count nowhere. Schulman et al. 2017, arXiv:1707.06347.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from hierrouter_jax.agent.distributions import entropy, log_prob_of
from hierrouter_jax.agent.networks import RouterParams
from hierrouter_jax.agent.policies import sample_action
from hierrouter_jax.core.keys import row_keys, stream_key
from hierrouter_jax.core.structs import array_struct
from hierrouter_jax.rl.advantages import gae_advantages
from hierrouter_jax.rl.losses import approximate_kl, clipped_policy_loss, clipped_value_loss
from hierrouter_jax.routing.mdp import RouterState, reset, step
from hierrouter_jax.routing.rollout import Trajectory, rollout
from hierrouter_jax.routing.route_tree import RouteTree, rows_of_tree
from hierrouter_jax.train.answers import answer_decisions, answered_tree, is_table_smaller, sample_from_answer
from hierrouter_jax.train.config import PPOConfig
from hierrouter_jax.train.device_sums import sum_over_devices
from hierrouter_jax.train.state import Environment, TrainState, UpdateMetrics, after_update
from hierrouter_jax.train.task_loss import task_loss

UpdateFn = Callable[[TrainState, Int[Array, " batch"], Environment], tuple[TrainState, UpdateMetrics]]
Learned = tuple[RouterParams, optax.OptState]
T = TypeVar("T")
SHARE_OF_FREE = 1 / 8  # of a conditioned router's training episodes: those in which cost does not count
_ADVANTAGE_EPSILON = 1e-8


@array_struct
class Decisions:
    """What the loss needs to know of each step, [time batch] in every field. Contexts stay in the tree."""

    state: RouterState
    legal: Bool[Array, "time batch action"]
    cost_weight: Float[Array, "time batch"] | None  # where the network is shown it
    action: Int[Array, "time batch"]
    old_log_prob: Float[Array, "time batch"]
    old_value: Float[Array, "time batch"]
    advantage: Float[Array, "time batch"]
    target: Float[Array, "time batch"]
    mask: Float[Array, "time batch"]  # 1 = a decision, 0 = after the end of the route


@array_struct
class LossTerms:
    """The parts of the loss, each a mean over the decisions of the minibatch (or a device's share of that mean)."""

    total: Float[Array, ""]
    policy: Float[Array, ""]
    value: Float[Array, ""]
    entropy: Float[Array, ""]
    approx_kl: Float[Array, ""]
    clip_fraction: Float[Array, ""]


def make_update(
    optimizer: optax.GradientTransformation, config: PPOConfig, *, allow_stop: bool, axis_name: str | None = None
) -> UpdateFn:
    """Return `update(state, row_ids, environment) -> (state, metrics)`, pure.

    With `axis_name`, each device of that axis gives its own contiguous share of the global row ids; shares are equal
    and a multiple of `config.num_minibatches`.
    """

    def update(
        state: TrainState, row_ids: Int[Array, " batch"], environment: Environment
    ) -> tuple[TrainState, UpdateMetrics]:
        next_key, key = jax.random.split(state.key)
        trajectory = collect_episodes(
            state.params, row_ids, environment, key=stream_key(key, "episodes"), allow_stop=allow_stop
        )
        decisions = estimate_targets(trajectory, config)
        take_step = partial(minibatch_step, optimizer=optimizer, config=config, axis_name=axis_name)

        def step_on(learned: Learned, rows: Int[Array, " row"]) -> tuple[Learned, tuple[LossTerms, Array]]:
            return take_step(*learned, select_rows(decisions, rows), environment.tree)

        learned = (state.params, state.opt_state)
        (params, opt_state), steps = run_epochs(step_on, learned, row_ids, config, key=stream_key(key, "minibatches"))
        hops, metrics = episode_metrics(trajectory, decisions, environment, allow_stop=allow_stop, axis_name=axis_name)
        terms, grad_norms = jax.tree.map(jnp.mean, steps)
        following = after_update(state, params, opt_state, key=next_key, num_hops=hops)
        return following, UpdateMetrics(
            **metrics,
            policy_loss=terms.policy,
            value_loss=terms.value,
            entropy=terms.entropy,
            approx_kl=terms.approx_kl,
            clip_fraction=terms.clip_fraction,
            grad_norm=grad_norms,
        )

    return update


def collect_episodes(
    params: RouterParams,
    row_ids: Int[Array, " batch"],
    environment: Environment,
    *,
    key: Key[Array, ""],
    allow_stop: bool,
) -> Trajectory:
    """Route one query a row, drawn uniformly, with actions sampled from the policy."""
    tree = environment.tree
    query_keys = row_keys(stream_key(key, "queries"), row_ids)
    states = jax.vmap(lambda query_key: reset(tree, key=query_key))(query_keys)
    walk = partial(rollout, key=stream_key(key, "actions"), allow_stop=allow_stop, row_ids=row_ids)
    if environment.cost_weight_range is not None:
        cost_weights = draw_cost_weights(environment.cost_weight_range, row_ids, key=stream_key(key, "cost_weights"))
        return walk(sample_action, params, tree, states, cost_weight=cost_weights, is_cost_weight_shown=True)
    if is_table_smaller(tree, tree.num_stages * row_ids.shape[0]):
        answered = answered_tree(params, tree)
        return walk(sample_from_answer, None, answered, states, cost_weight=environment.cost_weight)
    return walk(sample_action, params, tree, states, cost_weight=environment.cost_weight)


def estimate_targets(trajectory: Trajectory, config: PPOConfig) -> Decisions:
    """Return the decisions of a trajectory with their advantages and value targets (lambda-returns)."""
    advantages = jax.vmap(partial(gae_advantages, gae_lambda=config.gae_lambda), in_axes=(1, 1, 1, None), out_axes=1)(
        trajectory.reward, config.discount * trajectory.discount, trajectory.value, 0.0
    )
    return Decisions(
        state=trajectory.state,
        legal=trajectory.observation.legal,
        cost_weight=trajectory.observation.cost_weight,
        action=trajectory.action,
        old_log_prob=trajectory.log_prob,
        old_value=trajectory.value,
        advantage=advantages,
        target=advantages + trajectory.value,
        mask=trajectory.mask,
    )


def run_epochs(
    step_on: Callable[[Learned, Int[Array, " row"]], tuple[Learned, T]],
    learned: Learned,
    row_ids: Int[Array, " batch"],
    config: PPOConfig,
    *,
    key: Key[Array, ""],
) -> tuple[Learned, T]:
    """Take one step a minibatch, `num_epochs` times over; `step_on` is given the positions of a minibatch's rows.

    What the steps return beside weights and moments comes back stacked as [epoch minibatch ...].
    """

    def run_epoch(learned: Learned, epoch_key: Key[Array, ""]) -> tuple[Learned, T]:
        return jax.lax.scan(step_on, learned, deal_minibatches(row_ids, config.num_minibatches, key=epoch_key))

    return jax.lax.scan(run_epoch, learned, jax.random.split(key, config.num_epochs))


def deal_minibatches(
    row_ids: Int[Array, " batch"], num_minibatches: int, *, key: Key[Array, ""]
) -> Int[Array, "minibatch row"]:
    """Return the positions (in `row_ids`) of each minibatch's rows.

    Rows are dealt like cards: of each `num_minibatches` consecutive global rows every minibatch gets one, by a
    shuffle that depends on the key and those rows alone. Queries are drawn independently row by row, so this is as
    random as one great shuffle, and no device needs to know another's rows.
    """
    hands = row_ids.reshape(-1, num_minibatches)
    hand_keys = row_keys(key, hands[:, 0] // num_minibatches)
    deals = jax.vmap(lambda hand_key: jax.random.permutation(hand_key, num_minibatches))(hand_keys)
    return (deals + num_minibatches * jnp.arange(hands.shape[0])[:, None]).T


def select_rows(decisions: Decisions, rows: Int[Array, " row"]) -> Decisions:
    """Return the decisions of some rows of the batch, whole routes each."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=1), decisions)


def minibatch_step(
    params: RouterParams,
    opt_state: optax.OptState,
    decisions: Decisions,
    tree: RouteTree,
    *,
    optimizer: optax.GradientTransformation,
    config: PPOConfig,
    axis_name: str | None,
) -> tuple[tuple[RouterParams, optax.OptState], tuple[LossTerms, Float[Array, ""]]]:
    """Take one optimizer step; also return the loss terms and the norm of the gradient before clipping."""
    num_decisions = sum_over_devices(decisions.mask.sum(), axis_name)
    advantages = normalise_advantages(decisions.advantage, decisions.mask, axis_name=axis_name)
    decisions = dataclasses.replace(decisions, advantage=advantages)

    def loss(params: RouterParams) -> tuple[Float[Array, ""], LossTerms]:
        own, terms = ppo_loss(params, decisions, tree, num_decisions, config)
        routed = rows_of_tree(tree, decisions.state.query_index[0])
        return own + task_loss(params, routed, penalty=config.task_penalty, axis_name=axis_name), terms

    gradients, terms = jax.grad(loss, has_aux=True)(params)
    # Each device's loss is its sum over the count of all, so the sum over devices is the minibatch's mean.
    gradients, terms = sum_over_devices((gradients, terms), axis_name)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), (terms, optax.tree.norm(gradients))


def normalise_advantages(
    advantages: Float[Array, "*shape"], mask: Float[Array, "*shape"], *, axis_name: str | None
) -> Float[Array, "*shape"]:
    """Return (A - mean) / std over the unmasked entries of all devices; 0 at masked ones."""
    num_decisions, total = sum_over_devices((mask.sum(), jnp.sum(mask * advantages)), axis_name)
    mean = total / num_decisions
    centred = mask * (advantages - mean)
    variance = sum_over_devices(jnp.sum(jnp.square(centred)), axis_name) / num_decisions
    return centred / (jnp.sqrt(variance) + _ADVANTAGE_EPSILON)


def ppo_loss(
    params: RouterParams, decisions: Decisions, tree: RouteTree, num_decisions: Float[Array, ""], config: PPOConfig
) -> tuple[Float[Array, ""], LossTerms]:
    """Return policy loss + c_v * value loss - c_e * entropy, summed over the decisions here and divided by the count.

    `num_decisions` counts those of all devices.
    """
    # One long axis: products of two short ones would have their operands turned around.
    decisions = jax.tree.map(lambda leaf: leaf.reshape((-1, *leaf.shape[2:])), decisions)
    output = answer_decisions(params, tree, decisions.state, decisions.legal, decisions.cost_weight)
    legal = decisions.legal
    log_prob = jax.vmap(log_prob_of)(output.logits, legal, decisions.action)
    value_clip = jnp.inf if config.value_clip_epsilon is None else config.value_clip_epsilon
    ratio_change = jnp.abs(jnp.exp(log_prob - decisions.old_log_prob) - 1)

    def mean(terms: Float[Array, " decision"]) -> Float[Array, ""]:
        return jnp.sum(decisions.mask * terms) / num_decisions

    policy = mean(
        clipped_policy_loss(log_prob, decisions.old_log_prob, decisions.advantage, clip_epsilon=config.clip_epsilon)
    )
    value = mean(clipped_value_loss(output.value, decisions.old_value, decisions.target, clip_epsilon=value_clip))
    bonus = mean(jax.vmap(entropy)(output.logits, legal))
    total = policy + config.value_coefficient * value - config.entropy_coefficient * bonus
    return total, LossTerms(
        total=total,
        policy=policy,
        value=value,
        entropy=bonus,
        approx_kl=mean(approximate_kl(log_prob, decisions.old_log_prob)),
        clip_fraction=mean((ratio_change > config.clip_epsilon).astype(jnp.float32)),
    )


def draw_cost_weights(
    bounds: Float[Array, " bound"], row_ids: Int[Array, " batch"], *, key: Key[Array, ""]
) -> Float[Array, " batch"]:
    """Return one cost weight a row: 0 in an eighth of the rows, log-uniform between the bounds in the others."""

    def draw(row_key: Key[Array, ""]) -> Float[Array, ""]:
        place, is_positive = jax.random.uniform(row_key, (2,))
        low, high = jnp.log(bounds[0]), jnp.log(bounds[1])
        return jnp.where(is_positive < SHARE_OF_FREE, 0.0, jnp.exp(low + place * (high - low)))

    return jax.vmap(draw)(row_keys(key, row_ids))


def episode_metrics(
    trajectory: Trajectory,
    decisions: Decisions,
    environment: Environment,
    *,
    allow_stop: bool,
    axis_name: str | None,
) -> tuple[Array, dict[str, Float[Array, ""]]]:
    """Return the number of hops taken, and the metrics of `UpdateMetrics` that speak of episodes and values."""
    tree = environment.tree
    last_state = jax.tree.map(lambda leaf: leaf[-1], trajectory.state)
    # What is wanted of the last step is where it leads, which no cost weight changes.
    take_action = partial(step, tree, cost_weight=0.0, allow_stop=allow_stop)
    final, _, _ = jax.vmap(take_action)(last_state, trajectory.action[-1])
    per_episode = {
        "utility": trajectory.reward.sum(axis=0),
        "quality": tree.quality[final.query_index, final.node],
        "cost": final.cum_cost,
        "num_hops": final.stage.astype(jnp.float32),
    }
    num_episodes = sum_over_devices(jnp.float32(trajectory.action.shape[1]), axis_name)
    sums = sum_over_devices(jax.tree.map(jnp.sum, per_episode), axis_name)
    metrics = jax.tree.map(lambda total: total / num_episodes, sums)
    metrics["explained_variance"] = _explained_variance(decisions, axis_name)
    return sum_over_devices(final.stage.sum().astype(jnp.uint32), axis_name), metrics


def _explained_variance(decisions: Decisions, axis_name: str | None) -> Float[Array, ""]:
    def variance(terms: Float[Array, "time batch"]) -> Float[Array, ""]:
        count = sum_over_devices(decisions.mask.sum(), axis_name)
        mean = sum_over_devices(jnp.sum(decisions.mask * terms), axis_name) / count
        return sum_over_devices(jnp.sum(decisions.mask * jnp.square(terms - mean)), axis_name) / count

    target_variance = variance(decisions.target)
    error_variance = variance(decisions.target - decisions.old_value)
    # Equal targets leave nothing to explain: 0, as for a value net that knows nothing.
    return jnp.where(target_variance > 0, 1 - error_variance / jnp.maximum(target_variance, 1e-12), 0.0)
