"""What bounds every router on the six benchmarks: how much of the oracle is chance, and what responses tell.

The oracle picks, for each question, a model that happens to be right. Were models right independently of each other
within a benchmark, an oracle would gain by that alone; `independent_oracle` says how much. And a router could at best
know all that can be measured of every model's answer without the reference; `told_all_answers` picks a model by that.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from six_systems import Experiment
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hierrouter_jax.collect.outcomes import NO_ANSWER
from hierrouter_jax.collect.tree_file import TreeFile
from hierrouter_jax.evaluate.bootstrap import BootstrapConfig, difference_interval
from hierrouter_jax.report.tables import Table
from hierrouter_jax.routing.route_tree import RouteTree, stage_slice

NUM_SHUFFLES = 200
INVERSE_PENALTY = 0.1  # scikit-learn's C, on standardised signals


def limits(experiment: Experiment) -> dict[str, Any]:
    """Write, by benchmark, what one hop earns: the best model, told all answers, an oracle, an oracle of chance."""
    train, test = experiment.train, experiment.test
    signals = {name: first_signals(experiment.tree_file, name) for name in ("train", "test")}
    found, rows = {}, []
    for task, name in enumerate(test.task_names):
        learn, judge = np.asarray(train.task) == task, np.asarray(test.task) == task
        quality = first_qualities(test)[judge]
        best = int(first_qualities(train)[learn].mean(axis=0).argmax())
        told = told_all_answers(signals, first_qualities(train), first_qualities(test), learn, judge)
        gain = told - quality[:, best]
        interval = difference_interval(told, quality[:, best], BootstrapConfig())
        own = {
            "best_model": float(quality[:, best].mean()),
            "told_all_answers": float(told.mean()),
            "gain": float(gain.mean()),
            "gain_ci": list(interval),
            "oracle": float(quality.max(axis=1).mean()),
            "independent_oracle": independent_oracle(quality),
        }
        found[name] = own
        low, high = (100 * limit for limit in interval)
        told_text = f"{100 * own['told_all_answers']:.1f}, {100 * own['gain']:+.1f} [{low:+.1f}, {high:+.1f}]"
        rows.append(
            (
                name,
                f"{100 * own['best_model']:.1f}",
                told_text,
                f"{100 * own['oracle']:.1f}",
                f"{100 * own['independent_oracle']:.1f}",
            )
        )
    header = (
        "quality %, one hop",
        "task's best model",
        "told all answers",
        "oracle",
        "oracle, were models independent",
    )
    experiment.write("limits", Table(title="What bounds a router", header=header, rows=tuple(rows)))
    return found


def first_qualities(tree: RouteTree) -> Float[np.ndarray, "query model"]:
    """Return the quality of every model's single answer."""
    return np.asarray(tree.quality, np.float64)[:, stage_slice(tree.num_models, 1)]


def independent_oracle(quality: Float[np.ndarray, "query model"]) -> float:
    """Return the mean quality of the best model a query when each model's qualities are dealt out to queries anew."""
    rng = np.random.default_rng(0)
    dealt = (
        np.stack([rng.permutation(column) for column in quality.T]).max(axis=0).mean() for _ in range(NUM_SHUFFLES)
    )
    return float(np.mean(list(dealt)))


def told_all_answers(
    signals: Mapping[str, Float[np.ndarray, "row number"]],
    train_quality: Float[np.ndarray, "train model"],
    test_quality: Float[np.ndarray, "query model"],
    learn: Bool[np.ndarray, " train"],
    judge: Bool[np.ndarray, " query"],
) -> Float[np.ndarray, " judged"]:
    """Return the quality, on the judged test queries, of the model whose answer looks best.

    For every model a logistic regression learns, on train queries, how likely its answer is right, from the signals of
    all models' first answers and from who agrees with whom.
    """
    rights, quality = train_quality[learn] >= 0.5, test_quality[judge]
    chances = np.empty(quality.shape)
    for model, labels in enumerate(rights.T):
        if labels.all() or not labels.any():
            chances[:, model] = labels.mean()
            continue
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000))
        chances[:, model] = fitted.fit(signals["train"][learn], labels).predict_proba(signals["test"][judge])[:, 1]
    return np.take_along_axis(quality, chances.argmax(axis=1)[:, None], axis=1)[:, 0]


def first_signals(tree_file: TreeFile, split: str) -> Float[np.ndarray, "query number"]:
    """Return the signals of every model's first answer, and for every two models whether they give the same answer."""
    tree = tree_file.train if split == "train" else tree_file.test
    first = stage_slice(tree.num_models, 1)
    answers = tree_file.outcomes[split].answer_id[:, first]
    agree = [
        (answers[:, one] == answers[:, other]) & (answers[:, one] != NO_ANSWER)
        for one, other in itertools.combinations(range(tree.num_models), 2)
    ]
    own = np.asarray(tree.signals, np.float64)[:, first].reshape(tree.num_queries, -1)
    return np.concatenate([own, np.stack(agree, axis=1)], axis=1)
