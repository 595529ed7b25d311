"""A tree file from an outcome table: learning, evaluation and reports on recorded outcomes, without asking a model.

A second hop of a recorded tree is the second model's own answer: what it would have made of the first one's was never
recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hierrouter_jax.collect.build_outcomes import count_tasks
from hierrouter_jax.collect.embed_texts import embed_texts
from hierrouter_jax.collect.outcome_table import RecordedAnswer, RecordedQuery
from hierrouter_jax.collect.outcomes import (
    EXAMPLE_CODES,
    NO_ANSWER,
    NodeOutcomes,
    node_models,
    row_id_hash,
    row_ids_digest,
)
from hierrouter_jax.collect.tree_file import TreeFile, make_tree_file
from hierrouter_jax.collect.tree_manifest import SPLITS, TreeManifest, created_by
from hierrouter_jax.core.configs import digest, read_json
from hierrouter_jax.core.errors import ConfigError, DataError, raise_all
from hierrouter_jax.core.text import ModelCard, pool_digest
from hierrouter_jax.costs import CostModel
from hierrouter_jax.encoder.text_encoder import TextEncoder
from hierrouter_jax.routing.route_tree import count_nodes, node_parents
from hierrouter_jax.tasks.rows import hash_share
from hierrouter_jax.tasks.scoring import AnswerReading

_PRICE = "price_usd_per_mtok"  # of both directions
_CARD_FIELDS = (
    *("base_rate", "num_parameters", "price_in_usd_per_mtok", "price_out_usd_per_mtok"),
    *("prefill_s_per_token", "decode_s_per_token", "attention_width"),
)


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """How a table without splits is divided: by a hash of seed and id, so a question stays where it is."""

    validation_share: float = 0.1
    """Share of validation questions."""
    test_share: float = 0.25
    """Share of test questions."""
    seed: int = 0
    """Seed of the hash."""

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to learn from, or nothing to be tested on."""
        if not (self.validation_share >= 0 and self.test_share > 0 and self.validation_share + self.test_share < 1):
            raise ConfigError(
                "validation_share must be >= 0, test_share > 0 and together below 1, but are "
                f"{self.validation_share} and {self.test_share}."
            )


def read_model_cards(path: Path | None, names: Sequence[str]) -> tuple[ModelCard, ...]:
    """Return the card of each model, from a JSON file {model: {figure: number}}, or with rate 1 where there is none.

    Figures are those of a model card; `price_usd_per_mtok` is the price of both directions. Models of the file that
    are not among `names` are left out; `DataError` for names that the file lacks.
    """
    figures: dict[str, Any] = {name: {} for name in names} if path is None else read_json(path)
    problems = [f"{name}: it is not in {path}" for name in names if name not in figures]
    for name in (name for name in names if name in figures):
        own = figures[name]
        if not isinstance(own, dict):
            problems.append(f"{name}: it must be an object of figures, but is {type(own).__name__}")
            continue
        known = {figure: own[figure] for figure in (*_CARD_FIELDS, _PRICE) if figure in own}
        problems += [
            f"{name}: {figure} must be a number, but is {value!r}"
            for figure, value in known.items()
            if isinstance(value, bool) or not isinstance(value, (int, float))
        ]
    raise_all(DataError, "Every model of the table needs a card:", problems)
    return tuple(_card(name, figures[name]) for name in names)


def outcome_tree_file(
    queries: Sequence[RecordedQuery],
    cards: Sequence[ModelCard],
    *,
    encoder: TextEncoder,
    num_stages: int = 1,
    cost_model: CostModel = "base_rate",
    shares: SplitShares | None = None,
    is_quiet: bool = False,
) -> TreeFile:
    """Return the tree file of recorded outcomes, with the models in the order of `cards`.

    Questions without a split are divided by `shares`. A model that was not asked a question is an invalid node.
    Raises `DataError` when a split is empty or a question has no answer of any model.
    """
    shares = SplitShares() if shares is None else shares
    if num_stages < 1:
        raise ConfigError(f"num_stages must be >= 1, but is {num_stages}.")
    names = [card.name for card in cards]
    lost = [query.id for query in queries if not any(name in query.answers for name in names)]
    raise_all(DataError, "Every question needs the score of a model of the pool, but these have none:", lost)
    by_split: dict[str, list[RecordedQuery]] = {split: [] for split in SPLITS}
    for query in queries:
        by_split[_split_of(query, shares)].append(query)
    empty = [split for split in ("train", "test") if not by_split[split]]
    raise_all(DataError, "A table must have questions for learning and for testing, but has none for:", empty)
    by_split = {split: own for split, own in by_split.items() if own}
    tasks = tuple(dict.fromkeys(query.task for query in queries))
    texts = (query.query for query in queries)
    embeddings = embed_texts(encoder, texts, title="encoding questions", is_quiet=is_quiet)
    outcomes = {
        split: _outcomes(own, names, tasks, embeddings, num_stages=num_stages) for split, own in by_split.items()
    }
    manifest = TreeManifest(
        created_by=created_by(),
        cards=tuple(cards),
        pool_digest=pool_digest(cards),
        num_stages=num_stages,
        prompt_version="recorded",
        scorer_version="recorded",
        encoder_digest=encoder.digest,
        encoder_dim=encoder.dim,
        task_names=tasks,
        split_sizes={split: count_tasks(own) for split, own in by_split.items()},
        row_ids_digests={split: row_ids_digest(arrays.row_id_hash) for split, arrays in outcomes.items()},
        seed=shares.seed,
    )
    return make_tree_file(manifest, outcomes, cost_model=cost_model)


def _outcomes(
    queries: Sequence[RecordedQuery],
    names: Sequence[str],
    tasks: Sequence[str],
    embeddings: Mapping[str, np.ndarray],
    *,
    num_stages: int,
) -> NodeOutcomes:
    """Return the arrays of one split; at every stage a model's answer is its own, whatever was asked before."""
    num_nodes = count_nodes(len(names), num_stages)
    models = node_models(len(names), num_stages)
    row_of_query = {text: row for row, text in enumerate(dict.fromkeys(query.query for query in queries))}
    context_row = np.array([row_of_query[query.query] for query in queries], np.int32)
    columns: dict[str, np.ndarray] = {}

    def spread(name: str, values: Sequence[Sequence[Any]], dtype: str) -> None:
        of_model = np.asarray(values, dtype)  # [query model]
        columns[name] = np.where(models >= 0, of_model[:, np.maximum(models, 0)], 0).astype(dtype)

    answers = [[query.answers.get(name) for name in names] for query in queries]
    ids = [_answer_ids(own) for own in answers]
    spread("valid", [[one is not None for one in own] for own in answers], "bool")
    known = [[one or RecordedAnswer(score=0.0, num_prompt_tokens=0) for one in own] for own in answers]
    spread("quality", [[one.score for one in own] for own in known], "float32")
    spread("num_prompt_tokens", [[one.num_prompt_tokens for one in own] for own in known], "int32")
    spread("num_new_tokens", [[one.num_new_tokens for one in own] for own in known], "int32")
    spread("mean_logprob", [[one.mean_logprob for one in own] for own in known], "float32")
    readings = [[one.reading or AnswerReading() for one in own] for own in known]
    spread("is_parsed", [[one.extracted is not None for one in own] for own in readings], "bool")
    spread("passes_examples", [[EXAMPLE_CODES[one.passes_examples] for one in own] for own in readings], "int8")
    spread("answer_id", ids, "int32")
    columns["valid"][:, 0] = True
    parents = node_parents(len(names), num_stages)
    for node in range(1, num_nodes):  # a node below one that was not asked is none
        columns["valid"][:, node] &= columns["valid"][:, parents[node]]
    for column in columns.values():
        column[~columns["valid"]] = 0
    return NodeOutcomes(
        **columns,
        context_row=np.repeat(context_row[:, None], num_nodes, axis=1),
        context=np.stack([embeddings[text] for text in row_of_query]).astype(np.float32),
        is_truncated=np.zeros(columns["valid"].shape, bool),
        task=np.array([tasks.index(query.task) for query in queries], np.int32),
        row_id_hash=np.array([row_id_hash(query.id) for query in queries], np.uint64),
    )


def _answer_ids(answers: Sequence[RecordedAnswer | None]) -> list[int]:
    """Return the answer id of each model's answer: equal for equal answers, `NO_ANSWER` where none can be read."""
    identities = [None if one is None or one.reading is None else one.reading.identity for one in answers]
    numbers: dict[str | None, int] = {None: NO_ANSWER}
    return [numbers.setdefault(identity, len(numbers)) for identity in identities]


def _split_of(query: RecordedQuery, shares: SplitShares) -> str:
    if query.split is not None:
        return query.split
    place, _ = hash_share(query.id, shares.seed)
    if place < shares.test_share:
        return "test"
    return "validation" if place < shares.test_share + shares.validation_share else "train"


def _card(name: str, figures: Mapping[str, Any]) -> ModelCard:
    price = figures.get(_PRICE)
    own = {field_name: figures[field_name] for field_name in _CARD_FIELDS if field_name in figures}
    if price is not None:
        own = {"price_in_usd_per_mtok": price, "price_out_usd_per_mtok": price} | own
    own = {"base_rate": float(own.get("num_parameters", 1)), "num_parameters": 1} | own
    return ModelCard(
        name=name,
        weights_digest=digest({"recorded": name}),
        prompt_style="chat",
        context_window=1,  # nothing is asked: a recorded model has no window
        max_new_tokens=1,
        **own,
    )
