"""A tree with further stages: a tree file, complete to some depth, takes over what a deeper, partial one knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from hierrouter_jax.collect.outcomes import NO_ANSWER, NodeOutcomes, field_dims, field_names
from hierrouter_jax.collect.tree_file import TreeFile, make_tree_file
from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.routing.route_tree import ROOT, count_nodes

SHARED = ("pool_digest", "prompt_version", "scorer_version", "encoder_digest")
COMPARED = ("num_prompt_tokens", "num_new_tokens", "quality")


def deepened_tree(tree_file: TreeFile, deeper: TreeFile) -> tuple[TreeFile, int]:
    """Return `tree_file` with the stages of `deeper`, and the number of queries whose further stages were left out.

    `deeper` holds some of the queries, and of their nodes those that were asked for. What both know stays as it is in
    `tree_file`. A query of which they say different things (a token count, a score: answers may differ where other
    hardware rounds otherwise) keeps its own stages alone, since what follows in `deeper` follows from other answers.

    Raises `DataError` unless `deeper` has more stages, and shares pool, prompts, scorer, encoder and queries.
    """
    first, second = tree_file.manifest, deeper.manifest
    problems = [
        f"{name}: {getattr(first, name)} and {getattr(second, name)}"
        for name in SHARED
        if getattr(first, name) != getattr(second, name)
    ]
    if second.num_stages <= first.num_stages:
        problems.append(f"stages: {first.num_stages}, and no more: {second.num_stages}")
    raise_all(DataError, "A tree is deepened by one made as it was, with more stages, but these differ:", problems)
    outcomes, num_left_out = {}, 0
    for split, own in tree_file.outcomes.items():
        outcomes[split], count = _deepened(own, deeper.outcomes.get(split), len(first.cards), second.num_stages, split)
        num_left_out += count
    manifest = dataclasses.replace(first, created_by=second.created_by, num_stages=second.num_stages)
    return make_tree_file(manifest, outcomes, cost_model=tree_file.cost_model, report=deeper.report), num_left_out


def _deepened(
    own: NodeOutcomes, deeper: NodeOutcomes | None, num_models: int, num_stages: int, split: str
) -> tuple[NodeOutcomes, int]:
    """Return the arrays of one split with all nodes, and how many queries were left out."""
    num_own = own.valid.shape[1]
    num_nodes = count_nodes(num_models, num_stages)
    of_nodes = [name for name in field_names() if field_dims(name) == ("query", "node")]
    arrays = {name: np.pad(getattr(own, name), ((0, 0), (0, num_nodes - num_own))) for name in of_nodes}
    arrays["context_row"][:, num_own:] = own.context_row[:, :1]
    if deeper is None:
        return dataclasses.replace(own, **arrays), 0
    place = _places(own, deeper, split)
    agree = _agreement(own, deeper, place)
    for query, at in enumerate(place):
        if agree[query]:
            _take(arrays, deeper, query, int(at), own.context.shape[0])
    context, rows = _used_rows(np.concatenate([own.context, deeper.context]), arrays["context_row"])
    return dataclasses.replace(own, **(arrays | {"context": context, "context_row": rows})), int(np.sum(~agree))


def _places(own: NodeOutcomes, deeper: NodeOutcomes, split: str) -> Int[np.ndarray, " query"]:
    """Return where each query of `deeper` is in `own`."""
    place = {int(value): index for index, value in enumerate(own.row_id_hash)}
    hashes = deeper.row_id_hash.tolist()
    strange = sum(value not in place for value in hashes)
    if strange:
        raise DataError(
            f"A tree is deepened by outcomes of its own queries, but {strange} of {len(hashes)} of split {split} are "
            "not among them; collect with the rows that the tree was made of."
        )
    return np.array([place[value] for value in hashes])


def _agreement(own: NodeOutcomes, deeper: NodeOutcomes, place: np.ndarray) -> np.ndarray:
    """Return which queries of `deeper` say the same as `own` wherever both know something."""
    num_own = own.valid.shape[1]
    both = own.valid[place] & deeper.valid[:, :num_own]
    same = np.ones(both.shape, bool)
    for name in COMPARED:
        same &= getattr(own, name)[place] == getattr(deeper, name)[:, :num_own]
    return np.all(same | ~both, axis=1)


def _take(arrays: Mapping[str, np.ndarray], deeper: NodeOutcomes, query: int, at: int, first_row: int) -> None:
    """Fill the nodes of one query that `deeper` alone knows, and the contexts where something is decided now."""
    known = np.flatnonzero(deeper.valid[query])
    answers = deeper.answer_id[query]
    id_of = {int(answers[node]): int(arrays["answer_id"][at, node]) for node in known if arrays["valid"][at, node]}
    id_of[NO_ANSWER] = NO_ANSWER
    for node in known.tolist():
        if deeper.context_row[query, node] != deeper.context_row[query, ROOT] and _is_undecided(arrays, at, node):
            arrays["context_row"][at, node] = first_row + deeper.context_row[query, node]
    highest = int(arrays["answer_id"][at].max())
    for node in known[~arrays["valid"][at, known]].tolist():
        for name in set(arrays) - {"context_row", "answer_id"}:
            arrays[name][at, node] = getattr(deeper, name)[query, node]
        if int(answers[node]) not in id_of:
            highest += 1
            id_of[int(answers[node])] = highest
        arrays["answer_id"][at, node] = id_of[int(answers[node])]


def _is_undecided(arrays: Mapping[str, np.ndarray], at: int, node: int) -> bool:
    """Return whether nothing was decided at a node so far: its context is the root's, by convention."""
    return bool(arrays["context_row"][at, node] == arrays["context_row"][at, ROOT])


def _used_rows(context: np.ndarray, context_row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the contexts that a node has, and the nodes' places among them."""
    used, place = np.unique(context_row, return_inverse=True)
    return context[used], place.reshape(context_row.shape).astype(context_row.dtype)
