"""From a filled frontier to arrays: tokens, scores and contexts of every node of one split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hierrouter_jax.collect.frontier import Frontier
from hierrouter_jax.collect.hop_prompts import context_text
from hierrouter_jax.collect.outcomes import (
    EXAMPLE_CODES,
    FIELD_DTYPES,
    NO_ANSWER,
    NodeOutcomes,
    field_dims,
    field_names,
    row_id_hash,
)
from hierrouter_jax.collect.score_responses import StoredScore
from hierrouter_jax.core.text import Response
from hierrouter_jax.routing.route_tree import ROOT, count_nodes


def routable_queries(frontier: Frontier) -> list[int]:
    """Return the queries that at least one model could be asked: the others have no route and no place in a tree."""
    return [query_index for query_index, keys in enumerate(frontier.keys) if keys]


def context_texts(frontier: Frontier, queries: Sequence[int], *, with_last_stage: bool) -> dict[tuple[int, int], str]:
    """Return the text that the router sees at each valid node, by (query, node); without the last stage by default.

    After the last stage nothing is decided any more, so its texts, most of the tree, need no embedding.
    """
    num_stages = frontier.num_stages if with_last_stage else frontier.num_stages - 1
    num_nodes = count_nodes(frontier.num_models, num_stages)
    return {
        (query_index, node): context_text(frontier.rows[query_index], frontier.texts(query_index, node))
        for query_index in queries
        for node in range(num_nodes)
        if frontier.is_valid(query_index, node)
    }


def build_outcomes(
    frontier: Frontier,
    queries: Sequence[int],
    *,
    texts: Mapping[tuple[int, int], str],
    embeddings: Mapping[str, np.ndarray],
    scores: Mapping[tuple[str, str], StoredScore],
    task_names: Sequence[str],
) -> NodeOutcomes:
    """Return the arrays of `queries`, in their order. Equal texts share a context row."""
    shape = (len(queries), count_nodes(frontier.num_models, frontier.num_stages))
    of_nodes = [name for name in field_names() if field_dims(name) == ("query", "node")]
    nodes = {name: np.zeros(shape, FIELD_DTYPES[name]) for name in of_nodes}
    row_of_text: dict[str, int] = {}
    for position, query_index in enumerate(queries):
        row = frontier.rows[query_index]
        root_row = row_of_text.setdefault(texts[query_index, ROOT], len(row_of_text))
        nodes["valid"][position, ROOT] = True
        nodes["context_row"][position, ROOT] = root_row
        id_of_answer: dict[str, int] = {"": NO_ANSWER}
        for node in sorted(frontier.keys[query_index]):
            text = texts.get((query_index, node))
            context_row = root_row if text is None else row_of_text.setdefault(text, len(row_of_text))
            response = frontier.response(query_index, node)
            score = scores[row.id, response.text]
            _fill_node(nodes, (position, node), response, score)
            nodes["answer_id"][position, node] = id_of_answer.setdefault(score.answer, len(id_of_answer))
            nodes["context_row"][position, node] = context_row
            nodes["mean_logprob"][position, node] = response_confidence(
                response, frontier.ranked_options(query_index, node)
            )
    rows = [frontier.rows[query_index] for query_index in queries]
    return NodeOutcomes(
        **nodes,
        context=np.stack([embeddings[text] for text in row_of_text]).astype(np.float32),
        task=np.array([task_names.index(row.task) for row in rows], np.int32),
        row_id_hash=np.array([row_id_hash(row.id) for row in rows], np.uint64),
    )


def response_confidence(response: Response, options: Sequence[str]) -> float:
    """Return the mean log-probability of a produced token; of ranked options, that of the chosen one among them.

    The chosen option need not be the likeliest: an engine may weigh options by their length.
    """
    if response.option_logprobs:
        return response.option_logprobs[list(options).index(response.text)]
    return response.logprob / max(response.num_new_tokens, 1)


def count_tasks(rows: Sequence[object]) -> dict[str, int]:
    """Return the number of rows of each task, in the order of their first row."""
    return dict(Counter(row.task for row in rows))  # type: ignore[attr-defined]


def _fill_node(nodes: Mapping[str, np.ndarray], at: tuple[int, int], response: Response, score: StoredScore) -> None:
    nodes["valid"][at] = True
    nodes["num_prompt_tokens"][at] = response.num_prompt_tokens
    nodes["num_new_tokens"][at] = response.num_new_tokens
    nodes["quality"][at], nodes["is_parsed"][at] = score.quality, score.is_parsed
    nodes["passes_examples"][at] = EXAMPLE_CODES[score.passes_examples]
    nodes["is_truncated"][at] = response.finish_reason == "length"
