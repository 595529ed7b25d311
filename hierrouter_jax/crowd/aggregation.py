"""Answers of many become one: plurality, and models of who can be trusted.

Plurality trusts everybody alike. Dawid-Skene (1979) learns who errs how, GLAD (Whitehill et al. 2009) also how hard an
item is, MACE (Hovy et al. 2013) who guesses: crowd-kit fits them, imported when it is used because it takes seconds.
Bradley-Terry (1952) ranks items from choices between two of them; its noisy form (Bugakova et al. 2019) learns who
chooses at random.

Rankings are fitted here, because crowd-kit 1.4.2 misses the maximum: its Bradley-Terry compares an array with itself
and always stops after two iterations, and its noisy form follows a gradient that is wrong for skills and biases. Its
MACE takes a table sorted by name for one in order of appearance, and so is given names that sort as they appear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.votes import most_frequent

if TYPE_CHECKING:
    import pandas as pd

LabelMethod = Literal["plurality", "dawid_skene", "glad", "mace"]
RankMethod = Literal["bradley_terry", "noisy_bradley_terry"]
LABEL_METHODS: tuple[LabelMethod, ...] = ("plurality", "dawid_skene", "glad", "mace")
RANK_METHODS: tuple[RankMethod, ...] = ("bradley_terry", "noisy_bradley_terry")
NUM_ITERATIONS = 100
NUM_MACE_ITERATIONS = 50  # it knows no tolerance, and does them all
STRENGTH_SD = 10.0  # of the normal prior of strengths, which keeps an item that never loses from running away
SKILL_SD = 2.0  # of the normal priors of choosers' log-odds: of looking at the items, of choosing the left one else
NUM_DIGITS = 6  # strengths that are equal to so many digits are tied


@dataclass(frozen=True, kw_only=True)
class Label:
    """One contributor's answer about one item."""

    item: str
    contributor: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One contributor's choice between two items."""

    left: str
    right: str
    winner: str
    contributor: str


@dataclass(frozen=True, kw_only=True)
class Aggregated:
    """The answer to each item. `skills`, where the method gives them: the chance that a contributor is right."""

    answers: Mapping[str, str]
    skills: Mapping[str, float] = field(default_factory=dict)


def aggregate_labels(labels: Sequence[Label], method: LabelMethod = "plurality", *, seed: int = 0) -> Aggregated:
    """Return one answer an item; of equals the one given first wins, and nothing else depends on the labels' order.

    `skills` are given by Dawid-Skene (the mean of the diagonal of a contributor's confusion matrix, weighted by how
    frequent each answer is), by GLAD and by MACE. `seed` is that of MACE, which begins at random, so that a draw may
    decide what to others is a tie. Where all labels are the same there is nothing to learn, and `skills` are empty.
    Raises `DataError` without a label, or where one contributor labels an item twice, and `ConfigError` where crowd-kit
    is wanted and not installed.
    """
    _check(labels)
    if method == "plurality" or len({one.value for one in labels}) == 1:
        return Aggregated(answers=_plurality(labels))
    crowdkit = _crowdkit()
    coded = _Coded.of(labels)
    if method == "dawid_skene":
        by_confusion = crowdkit.DawidSkene(n_iter=NUM_ITERATIONS).fit(coded.frame)
        skills = _dawid_skene_skills(by_confusion.errors_, by_confusion.priors_)
        return coded.aggregated(by_confusion.probas_, labels, skills)
    if method == "glad":
        by_ability = crowdkit.GLAD(n_iter=NUM_ITERATIONS, silent=True).fit(coded.frame)
        # GLAD's ability is the log-odds of being right at an item of difficulty 1.
        skills = {str(code): float(expit(ability)) for code, ability in by_ability.alphas_.items()}
        return coded.aggregated(by_ability.probas_, labels, skills)
    # All its restarts begin at the same place, so one is enough.
    mace = crowdkit.MACE(n_iter=NUM_MACE_ITERATIONS, n_restarts=1, random_state=seed)
    probas = mace.fit_predict_proba(coded.frame)
    return coded.aggregated(probas, labels, _shares_right(probas, coded.frame))


def rank_pairwise(choices: Sequence[Choice], method: RankMethod = "bradley_terry") -> list[str]:
    """Return the items, best first; of equal strengths the one named first.

    Bradley-Terry: P(left wins) = f(s_left - s_right), f the logistic function. The noisy form: chooser c looks at the
    items with chance f(g_c), and else takes the left one with chance f(b_c). Strengths s, and g and b where there are
    some, are the most probable ones under weak normal priors about 0; those of items that no chain of choices connects
    are told apart by that alone. Raises `DataError` without a choice, or for one whose winner is neither of its items.
    """
    if not choices:
        raise DataError("A ranking needs at least one choice, but there is none.")
    if strange := [one for one in choices if one.winner not in (one.left, one.right) or one.left == one.right]:
        raise DataError(
            f"A choice must be between two items and name one of them as winner, but {strange[0]} does not."
        )
    items = list(dict.fromkeys(item for one in choices for item in (one.left, one.right)))
    places = {item: place for place, item in enumerate(items)}
    choosers = {name: place for place, name in enumerate(dict.fromkeys(one.contributor for one in choices))}
    fit = _Fit(
        left=np.array([places[one.left] for one in choices]),
        right=np.array([places[one.right] for one in choices]),
        sign=np.array([1.0 if one.winner == one.left else -1.0 for one in choices]),
        chooser=np.array([choosers[one.contributor] for one in choices]),
        num_items=len(items),
        num_choosers=len(choosers) if method == "noisy_bradley_terry" else 0,
    )
    strengths = fit.strengths()
    return sorted(items, key=lambda item: -round(float(strengths[places[item]]), NUM_DIGITS))


@dataclass(frozen=True, kw_only=True)
class _Coded:
    """Labels as a table in an order of its own, under codes that sort as they first appear in it."""

    frame: pd.DataFrame
    codes: Mapping[tuple[str, str], str]  # (column, name) -> code

    @classmethod
    def of(cls, labels: Sequence[Label]) -> _Coded:
        import pandas as pd

        rows = sorted((one.item, one.contributor, one.value) for one in labels)
        codes: dict[tuple[str, str], str] = {}
        columns = {}
        for column, names in zip(("task", "worker", "label"), zip(*rows, strict=True), strict=True):
            for number, name in enumerate(dict.fromkeys(names)):
                codes[column, name] = f"{number:08d}"
            columns[column] = [codes[column, name] for name in names]
        return cls(frame=pd.DataFrame(columns), codes=codes)

    def aggregated(self, probas: pd.DataFrame, labels: Sequence[Label], skills: Mapping[str, float]) -> Aggregated:
        """Return the likeliest answer to each item, of those that were given, of equals the one given first."""
        chances: dict[str, dict[str, float]] = {}
        for one in labels:
            proba = probas.loc[self.codes["task", one.item], self.codes["label", one.value]]
            chances.setdefault(one.item, {})[one.value] = round(float(proba), 12)
        return Aggregated(
            answers={item: max(own, key=own.__getitem__) for item, own in chances.items()},
            skills={name: skills[code] for (column, name), code in self.codes.items() if column == "worker"},
        )


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Choices as arrays, and what is fitted to them: strengths, then choosers' log-odds g, then b."""

    left: np.ndarray
    right: np.ndarray
    sign: np.ndarray  # 1 where the left item won, else -1
    chooser: np.ndarray
    num_items: int
    num_choosers: int  # 0: all of them look at the items

    def strengths(self) -> np.ndarray:
        """Return the most probable strengths; those of the noisy form are sought from the plain ones on."""
        plain = _minimum(self.loss, np.zeros(self.num_items))
        if not self.num_choosers:
            return plain
        return _minimum(self.noisy_loss, np.concatenate([plain, np.zeros(2 * self.num_choosers)]))[: self.num_items]

    def loss(self, strengths: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log posterior of the plain form, and its gradient."""
        margin = self.sign * (strengths[self.left] - strengths[self.right])
        lost = float(np.sum(np.logaddexp(0.0, -margin)) + np.sum(strengths**2) / (2 * STRENGTH_SD**2))
        return lost, self._by_item(-self.sign * expit(-margin)) + strengths / STRENGTH_SD**2

    def noisy_loss(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log posterior of the noisy form, and its gradient."""
        strengths, log_odds = point[: self.num_items], point[self.num_items :]
        looks, is_left = log_odds[: self.num_choosers][self.chooser], log_odds[self.num_choosers :][self.chooser]
        by_items = expit(self.sign * (strengths[self.left] - strengths[self.right]))
        by_place = expit(self.sign * is_left)
        chance = expit(looks) * by_items + expit(-looks) * by_place
        lost = float(
            -np.sum(np.log(chance))
            + np.sum(strengths**2) / (2 * STRENGTH_SD**2)
            + np.sum(log_odds**2) / (2 * SKILL_SD**2)
        )
        for_items = -expit(looks) * self.sign * by_items * (1 - by_items) / chance
        for_looks = -expit(looks) * expit(-looks) * (by_items - by_place) / chance
        for_place = -expit(-looks) * self.sign * by_place * (1 - by_place) / chance
        by_chooser = [
            np.bincount(self.chooser, weights=one, minlength=self.num_choosers) for one in (for_looks, for_place)
        ]
        by_item = self._by_item(for_items) + strengths / STRENGTH_SD**2
        return lost, np.concatenate([by_item, np.concatenate(by_chooser) + log_odds / SKILL_SD**2])

    def _by_item(self, slopes: np.ndarray) -> np.ndarray:
        """Return slopes by margin (left less right) as slopes by item."""
        on_left = np.bincount(self.left, weights=slopes, minlength=self.num_items)
        return on_left - np.bincount(self.right, weights=slopes, minlength=self.num_items)


def _minimum(loss: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray) -> np.ndarray:
    """Return where a loss, given with its gradient, is least."""
    options = {"maxiter": 10_000, "maxfun": 100_000, "ftol": 0.0, "gtol": 1e-9}
    return minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x


def _crowdkit() -> Any:
    try:
        import crowdkit.aggregation
    except ImportError as error:
        raise ConfigError(
            "Methods for labels other than plurality need the package crowd-kit, which cannot be imported here "
            f"({error}); pip install crowd-kit."
        ) from error
    return crowdkit.aggregation


def _check(labels: Sequence[Label]) -> None:
    if not labels:
        raise DataError("Answers are aggregated from at least one label, but there is none.")
    counts = Counter((one.item, one.contributor) for one in labels)
    if double := [pair for pair, count in counts.items() if count > 1]:
        raise DataError(f"A contributor labels an item once, but {double[0][1]} labelled {double[0][0]} more often.")


def _plurality(labels: Sequence[Label]) -> dict[str, str]:
    given: dict[str, list[str]] = {}
    for one in labels:
        given.setdefault(one.item, []).append(one.value)
    return {item: most_frequent(values) for item, values in given.items()}


def _dawid_skene_skills(errors: pd.DataFrame, priors: pd.Series) -> dict[str, float]:
    """Return P(answer = truth) of each contributor, from the confusion matrix P(answer | truth) and P(truth)."""
    skills: dict[str, float] = {}
    for (worker, answer), row in errors.iterrows():
        skills[str(worker)] = skills.get(str(worker), 0.0) + float(row[answer]) * float(priors[answer])
    return skills


def _shares_right(probas: pd.DataFrame, frame: pd.DataFrame) -> dict[str, float]:
    """Return how likely each contributor's answers are, on average."""
    own: dict[str, list[float]] = {}
    for task, worker, label in frame.itertuples(index=False):
        own.setdefault(worker, []).append(float(probas.loc[task, label]))
    return {worker: sum(values) / len(values) for worker, values in own.items()}
