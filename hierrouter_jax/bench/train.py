"""`bench train`: environment steps per second while learning, and seconds until the optimum is nearly reached.

All sides learn on one synthetic tree (`context_tree.py`), with the same layers, batch, epochs, minibatches, learning
rate and coefficients. A step is one decision of one route. Rates count everything that an update does; compilation is
not in them, but beside them. Seconds to the optimum are those spent in updates until the greedy policy, looked at
after each, earns 95% of the mean utility that backward induction finds on the tree; looking is not counted.

The floor is what the matrix products of the network alone take at the shapes at hand, measured in the same run:

    update = forward products (rollout) + epochs * minibatches * (forward and backward products of a minibatch)

A minibatch counts as many rows as it has decisions, or as the tree has states where these are fewer
(`train/answers.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from hierrouter_jax.agent.router import greedy_routes
from hierrouter_jax.bench import purejaxrl_style, sb3_peer
from hierrouter_jax.bench.alternate import alternate
from hierrouter_jax.bench.context_tree import make_context_tree
from hierrouter_jax.bench.extras import require_extras
from hierrouter_jax.bench.report import BenchOptions, BenchReport
from hierrouter_jax.bench.rows import BenchRow, medians_row
from hierrouter_jax.bench.train_floor import floor_update_s
from hierrouter_jax.core.errors import ConfigError, raise_all
from hierrouter_jax.routing.route_tree import RouteTree
from hierrouter_jax.routing.scores import score_routes
from hierrouter_jax.routing.values import optimal_values
from hierrouter_jax.train.answers import is_table_smaller
from hierrouter_jax.train.config import TrainConfig
from hierrouter_jax.train.make_train import init_train_state, input_sizes, make_environment
from hierrouter_jax.train.optimizer import make_optimizer
from hierrouter_jax.train.ppo import make_update

Peer = Literal["sb3", "sb3-gym", "purejaxrl-style"]
SHARE_OF_OPTIMUM = 0.95
FLOOR = "matrix products alone"
NOISE = 2.0  # twice what tells kinds of queries apart, in each number of a context
MIN_RUN_S = 0.5  # a rate is taken over at least this long, and over at least one update


@dataclass(frozen=True, kw_only=True)
class TrainBench(BenchOptions):
    """Measure training: steps per second and seconds to 95% of the optimum, beside other learners."""

    against: tuple[Peer, ...] = ("sb3", "purejaxrl-style")
    """Who else learns: MaskablePPO of sb3-contrib stepped over NumPy arrays (sb3) or over one Gymnasium environment
    each (sb3-gym), and a loop in PureJaxRL's manner."""
    batch: tuple[int, ...] = (256, 1024, 4096)
    """Episodes of one update, num_envs; a row each."""
    num_queries: int = 144
    """Queries of the tree."""
    dim: int = 384
    """Width of the context."""
    runs: int = 3
    """Timed runs of each side, taken in turns."""
    max_s: float = 60.0
    """A side that has not reached the optimum after so many seconds of updates is given up."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """What is trained, and how; its num_envs gives way to --batch."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no benchmark, all at once."""
        problems = [] if self.batch else ["batch must name at least one number of episodes, but is empty"]
        for name in ("num_queries", "dim", "runs"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be >= 1, but is {getattr(self, name)}")
        if not self.max_s > 0:
            problems.append(f"max_s must be > 0, but is {self.max_s}")
        if self.config.network.is_conditioned:
            problems.append("the network must not be conditioned: the peers learn one trade-off")
        raise_all(ConfigError, "The benchmark cannot be run:", problems)


@runtime_checkable
class Learner(Protocol):
    """A side: it can learn on, and say how well its greedy policy does."""

    def learn(self, num_updates: int) -> None:
        """Run that many updates, to the end of the last."""
        ...

    def utility(self) -> float:
        """Return the mean utility of the greedy routes over all queries."""
        ...


def bench_train(options: TrainBench) -> BenchReport:
    """Return the rows of every batch size; `ConfigError` where a peer's package is missing."""
    if any(peer.startswith("sb3") for peer in options.against):
        require_extras(*sb3_peer.PACKAGES)
    tree = make_context_tree(options.num_queries, dim=options.dim, noise=NOISE)
    rows: list[BenchRow] = []
    for num_envs in options.batch:
        rows += _rows_of_batch(options, replace(options.config, num_envs=num_envs), tree)
    notes = (
        f"tree: {options.num_queries} queries x {tree.num_nodes} nodes, context of {options.dim}; layers "
        f"{options.config.network.hidden_sizes}; {options.config.ppo.num_epochs} epochs of "
        f"{options.config.ppo.num_minibatches} minibatches; a step is one decision.",
    )
    return BenchReport(title="training", rows=tuple(rows), notes=notes)


def make_learners(config: TrainConfig, tree: RouteTree, peers: tuple[Peer, ...]) -> dict[str, Callable[[], Learner]]:
    """Return a maker of each side, ours first; every call begins anew."""
    program = _our_program(config, tree)
    makers: dict[str, Callable[[], Learner]] = {"ours": lambda: _Compiled(config, tree, program, _our_start)}
    for peer in peers:
        if peer == "purejaxrl-style":
            other = jax.jit(purejaxrl_style.make_updates(config, tree), donate_argnums=0)
            makers[peer] = lambda other=other: _Compiled(config, tree, other, _their_start)  # type: ignore[misc]
        else:
            makers[peer] = _sb3_maker(config, tree, is_vectorised=peer == "sb3")
    return makers


def _rows_of_batch(options: TrainBench, config: TrainConfig, tree: RouteTree) -> list[BenchRow]:
    makers = make_learners(config, tree, options.against)
    compile_s = {name: _first_update_s(make) for name, make in makers.items()}
    learners = {name: make() for name, make in makers.items()}
    num_updates = {name: _updates_for(learner) for name, learner in learners.items()}
    sides = {name: (lambda one=learners[name], count=num_updates[name]: one.learn(count)) for name in learners}
    timed = alternate(sides, num_runs=options.runs, description=f"steps/s, {config.num_envs} episodes")
    num_decisions = config.num_envs * tree.num_stages  # every route of this tree decides at every stage
    rates = {name: [num_decisions * num_updates[name] / s for s in runs] for name, runs in timed.runs_s.items()}
    optimum = float(optimal_values(tree, cost_weight=config.cost_weight, allow_stop=config.allow_stop)[:, 0].mean())
    target = SHARE_OF_OPTIMUM * optimum
    to_target = {name: seconds_to(make(), target, max_s=options.max_s) for name, make in makers.items()}
    rates[FLOOR] = [num_decisions / floor_update_s(config, tree)]
    shape = f"{'x'.join(map(str, config.network.hidden_sizes))}, context {options.dim}"
    extra = {
        "compile_s": compile_s["ours"],
        "is_by_table_of_states": is_table_smaller(tree, num_decisions // config.ppo.num_minibatches),
        "num_queries": tree.num_queries,
    }
    return [
        *(_rate_row(name, rates, shape, config.num_envs, extra) for name in rates if name != "ours"),
        *_target_rows(
            to_target, shape, config.num_envs, {"compile_s": compile_s, "max_s": options.max_s, "target": target}
        ),
    ]


def _rate_row(peer: str, rates: dict[str, list[float]], shape: str, num_envs: int, extra: dict[str, Any]) -> BenchRow:
    what = "environment steps while learning"
    return medians_row(
        what,
        model=shape,
        batch=num_envs,
        ours=rates["ours"],
        peer=rates[peer],
        peer_name=peer,
        unit="steps/s",
        extra=extra,
    )


def _target_rows(
    to_target: dict[str, float | None], shape: str, num_envs: int, extra: dict[str, Any]
) -> list[BenchRow]:
    """Return a row a peer; a side that was given up has no number, and is named beside."""
    given_up = sorted(name for name, seconds in to_target.items() if seconds is None)
    rows = []
    for name in [name for name in to_target if name != "ours"] or [""]:
        peer = to_target.get(name)
        rows.append(
            BenchRow(
                what=f"to {SHARE_OF_OPTIMUM:.0%} of the optimum",
                model=shape,
                batch=num_envs,
                ours=to_target["ours"],
                peer=peer,
                peer_name=None if peer is None else name,
                unit="s",
                extra=extra | {"given_up": given_up, "against": name},
            )
        )
    return rows


def seconds_to(learner: Learner, target: float, *, max_s: float) -> float | None:
    """Return the seconds of updates until the greedy policy earns `target`, or None when `max_s` are over before."""
    learner.utility()  # compiled before the clock starts, as the updates are
    spent_s = 0.0
    while spent_s < max_s:
        began_s = time.perf_counter()
        learner.learn(1)
        spent_s += time.perf_counter() - began_s
        if learner.utility() >= target:
            return spent_s
    return None


def _first_update_s(make: Callable[[], Learner]) -> float:
    learner = make()
    began_s = time.perf_counter()
    learner.learn(1)
    return time.perf_counter() - began_s


def _updates_for(learner: Learner) -> int:
    began_s = time.perf_counter()
    learner.learn(1)
    return max(1, int(np.ceil(MIN_RUN_S / (time.perf_counter() - began_s))))


class _Compiled:
    """A learner that is one program: `program(carry, num_updates) -> carry`, the weights found by `weights`."""

    def __init__(self, config: TrainConfig, tree: RouteTree, program: Any, start: Any) -> None:
        self._config, self._tree, self._program = config, tree, program
        self._carry = start(config, tree)

    def learn(self, num_updates: int) -> None:
        self._carry = jax.block_until_ready(self._program(self._carry, jnp.int32(num_updates)))

    def utility(self) -> float:
        params = self._carry[0] if isinstance(self._carry, tuple) else self._carry.params
        routes = greedy_routes(params, self._tree, allow_stop=self._config.allow_stop)
        return float(score_routes(self._tree, routes, cost_weight=self._config.cost_weight).utility.mean())


class _Sb3:
    """The learner of Stable-Baselines3."""

    def __init__(self, config: TrainConfig, tree: RouteTree, *, is_vectorised: bool, num_threads: int) -> None:
        self._config, self._tree = config, tree
        self._model = sb3_peer.make_sb3(config, tree, is_vectorised=is_vectorised)
        self._num_threads = num_threads

    def learn(self, num_updates: int) -> None:
        num_steps = num_updates * self._config.num_envs * self._tree.num_stages
        sb3_peer.use_threads(self._num_threads)
        self._model.learn(num_steps, reset_num_timesteps=False)

    def with_threads(self, num_threads: int) -> _Sb3:
        """Return the same learner, on as many of torch's threads."""
        self._num_threads = num_threads
        return self

    def utility(self) -> float:
        return sb3_peer.greedy_utility(self._model, self._config, self._tree)


def _sb3_maker(config: TrainConfig, tree: RouteTree, *, is_vectorised: bool) -> Callable[[], Learner]:
    # On a learner of its own: what is timed later begins untrained.
    trial = _Sb3(config, tree, is_vectorised=is_vectorised, num_threads=1)
    num_threads = sb3_peer.fastest_threads(lambda count: trial.with_threads(count).learn(1))
    return lambda: _Sb3(config, tree, is_vectorised=is_vectorised, num_threads=num_threads)


def _our_program(config: TrainConfig, tree: RouteTree) -> Any:
    update = make_update(make_optimizer(config), config.ppo, allow_stop=config.allow_stop)
    environment, row_ids = make_environment(config, tree), jnp.arange(config.num_envs)

    def run(state: Any, num_updates: Any) -> Any:
        return jax.lax.fori_loop(0, num_updates, lambda _, each: update(each, row_ids, environment)[0], state)

    return jax.jit(run, donate_argnums=0)


def _our_start(config: TrainConfig, tree: RouteTree) -> Any:
    return jax.jit(lambda key: init_train_state(config, key=key, **input_sizes(tree)))(jax.random.key(config.seed))


def _their_start(config: TrainConfig, tree: RouteTree) -> Any:
    return jax.jit(lambda key: purejaxrl_style.start(config, tree, key=key))(jax.random.key(config.seed))
