"""Collection: ask a pool everything that can happen to a set of queries, and make a tree file of the outcomes.

Stage by stage: the requests of all nodes of a stage, over all splits at once, are deduplicated; those in the store
are not asked; the rest is generated model after model and committed as it comes. Then responses are scored, contexts
encoded and the arrays built. Everything slow goes through the store, so the same call after a kill, a full disk or
Ctrl-C goes on where it was, and a second call asks nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from hierrouter_jax.collect.asking import DEFAULT_CHUNK_SIZE, generate_missing
from hierrouter_jax.collect.build_outcomes import build_outcomes, context_texts, count_tasks, routable_queries
from hierrouter_jax.collect.collection_inputs import WantedNodes, checked_rows, wanted_mask
from hierrouter_jax.collect.collection_report import CollectionReport, LiveCounts, count_answers
from hierrouter_jax.collect.embed_texts import embed_texts
from hierrouter_jax.collect.frontier import Frontier
from hierrouter_jax.collect.hop_prompts import hop_request
from hierrouter_jax.collect.outcomes import NodeOutcomes, row_ids_digest
from hierrouter_jax.collect.score_responses import Scorer, StoredScore, missing_scores, score_missing, version_of
from hierrouter_jax.collect.tree_file import TreeFile, make_tree_file
from hierrouter_jax.collect.tree_manifest import TreeManifest, created_by
from hierrouter_jax.core.errors import DataError, raise_all
from hierrouter_jax.core.progress import progress_bar
from hierrouter_jax.core.text import GenerationRequest, ModelCard, pool_digest
from hierrouter_jax.costs import CostModel
from hierrouter_jax.encoder.text_encoder import TextEncoder
from hierrouter_jax.llm.engine import CountingEngine, TextEngine
from hierrouter_jax.routing.route_tree import count_nodes
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.prompt_texts import LATEST_PROMPT_VERSION
from hierrouter_jax.tasks.scoring import score_answer
from hierrouter_jax.tasks.task_row import TaskRow


def collect_tree(
    engine: TextEngine,
    splits: Mapping[str, Sequence[TaskRow]],
    store: ResponseStore,
    *,
    num_stages: int,
    encoder: TextEncoder,
    prompt_version: str = LATEST_PROMPT_VERSION,
    cost_model: CostModel = "base_rate",
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    seed: int = 0,
    nodes: WantedNodes | None = None,
    with_last_stage_contexts: bool = False,
    scorer: Scorer = score_answer,
    scorer_version: str | None = None,
    is_quiet: bool = False,
) -> TreeFile:
    """Fill the trees of `splits` ("train", "test", perhaps "validation") and return them.

    `nodes` makes partial trees: a mask a split, or a predicate (split, query index, node); the way to a wanted node
    is wanted too. Scores are kept under `scorer_version`, which a scorer of your own needs. `seed`, which drew the
    rows, is noted in the manifest. A query that no model can be asked, its prompts being too long, is left out and
    counted in the report.

    Raises `DataError` for splits that cannot be used, `StorageError` when the store cannot be written; on Ctrl-C,
    a `KeyboardInterrupt` whose message says what is stored. The store is whole in every case.
    """
    rows = checked_rows(splits)
    scorer_version = version_of(scorer, scorer_version)
    run = LiveCounts(is_quiet=is_quiet)
    frontier = _frontier(engine, rows, prompt_version, num_stages, nodes)
    with _clear_interrupt(run, store):
        _fill(run, frontier, engine, store, chunk_size)
        queries = _queries_by_split(frontier, rows)
        scores = _score(run, frontier, store, scorer, scorer_version)
        outcomes = _encode_and_build(run, frontier, queries, scores, encoder, with_last_stage_contexts)
    manifest = TreeManifest(
        created_by=created_by(),
        cards=engine.cards,
        pool_digest=pool_digest(engine.cards),
        num_stages=num_stages,
        prompt_version=prompt_version,
        scorer_version=scorer_version,
        encoder_digest=encoder.digest,
        encoder_dim=encoder.dim,
        task_names=_task_names(frontier),
        split_sizes={split: count_tasks([frontier.rows[i] for i in kept]) for split, kept in queries.items()},
        row_ids_digests={split: row_ids_digest(arrays.row_id_hash) for split, arrays in outcomes.items()},
        seed=seed,
    )
    report = _report(run, frontier, rows, outcomes, manifest)
    return make_tree_file(manifest, outcomes, cost_model=cost_model, report=report)


def collect_responses(
    engine: TextEngine,
    splits: Mapping[str, Sequence[TaskRow]],
    store: ResponseStore,
    *,
    num_stages: int,
    prompt_version: str = LATEST_PROMPT_VERSION,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    nodes: WantedNodes | None = None,
    scorer: Scorer = score_answer,
    scorer_version: str | None = None,
    is_quiet: bool = False,
) -> LiveCounts:
    """Fill the store with the responses and scores that the trees of `splits` need, and make no tree.

    What one host does of a collection that several share (`query_shards.py`); its part may lack a split, or be empty.
    A mask or predicate of `nodes` counts the queries given here. Arguments
    and errors are those of `collect_tree`, which makes the tree of the merged stores and asks nothing then.
    """
    rows = {split: tuple(own) for split, own in splits.items() if own}
    scorer_version = version_of(scorer, scorer_version)
    run = LiveCounts(is_quiet=is_quiet)
    if not rows:
        return run
    frontier = _frontier(engine, rows, prompt_version, num_stages, nodes)
    with _clear_interrupt(run, store):
        _fill(run, frontier, engine, store, chunk_size)
        _score(run, frontier, store, scorer, scorer_version)
    return run


def _frontier(
    engine: TextEngine,
    rows: Mapping[str, Sequence[TaskRow]],
    prompt_version: str,
    num_stages: int,
    nodes: WantedNodes | None,
) -> Frontier:
    def ask(card: ModelCard, row: TaskRow, earlier: Sequence[str]) -> GenerationRequest:
        return hop_request(card, row, earlier, prompt_version=prompt_version)

    wanted = wanted_mask(nodes, rows, count_nodes(len(engine.cards), num_stages))
    all_rows = [row for own in rows.values() for row in own]
    return Frontier(all_rows, engine, ask, num_stages=num_stages, wanted=wanted)


def _fill(run: LiveCounts, frontier: Frontier, engine: TextEngine, store: ResponseStore, chunk_size: int) -> None:
    """Ask for every node that is not stored, stage after stage."""
    num_before = engine.token_counts.computed if isinstance(engine, CountingEngine) else 0
    for stage in range(1, frontier.num_stages + 1):
        _fill_stage(run, frontier, engine, store, stage, chunk_size)
    if isinstance(engine, CountingEngine):
        run.num_computed_tokens = engine.token_counts.computed - num_before


def _fill_stage(
    run: LiveCounts, frontier: Frontier, engine: TextEngine, store: ResponseStore, stage: int, chunk_size: int
) -> None:
    """Ask for every node of one stage that is not stored."""
    asked = frontier.ask_stage(stage)
    asked = {key: one for key, one in asked.items() if key not in frontier.responses}
    stored = store.get_many(asked)
    frontier.take(stored)
    run.num_stored_before += len(stored)
    missing = {key: one for key, one in asked.items() if key not in stored}
    title = f"stage {stage} of {frontier.num_stages}: asking"
    with run.generation, progress_bar(title, len(missing), is_quiet=run.is_quiet) as advance:
        frontier.take(
            generate_missing(
                engine,
                store,
                missing,
                chunk_size=chunk_size,
                on_response=lambda _, response: advance(1, run.count(response)),
            )
        )


def _score(
    run: LiveCounts, frontier: Frontier, store: ResponseStore, scorer: Scorer, scorer_version: str
) -> dict[tuple[str, str], StoredScore]:
    """Return the score of every response at hand, by (row id, text)."""
    answers = (
        (row, frontier.responses[key].text)
        for row, keys in zip(frontier.rows, frontier.keys, strict=True)
        for key in keys.values()
    )
    scores, missing = missing_scores(store, answers, scorer_version=scorer_version)
    run.num_scored = len(missing)
    with run.scoring, progress_bar("scoring", len(missing), is_quiet=run.is_quiet) as advance:
        return scores | score_missing(store, missing, scorer, advance=advance)


def _encode_and_build(
    run: LiveCounts,
    frontier: Frontier,
    queries: Mapping[str, Sequence[int]],
    scores: Mapping[tuple[str, str], StoredScore],
    encoder: TextEncoder,
    with_last_stage: bool,
) -> dict[str, NodeOutcomes]:
    """Return the arrays of every split."""
    texts = {split: context_texts(frontier, kept, with_last_stage=with_last_stage) for split, kept in queries.items()}
    every_text = (text for own in texts.values() for text in own.values())
    with run.encoding:
        embeddings = embed_texts(encoder, every_text, title="encoding contexts", is_quiet=run.is_quiet)
    return {
        split: build_outcomes(
            frontier, kept, texts=texts[split], embeddings=embeddings, scores=scores, task_names=_task_names(frontier)
        )
        for split, kept in queries.items()
    }


def _queries_by_split(frontier: Frontier, rows: Mapping[str, Sequence[TaskRow]]) -> dict[str, list[int]]:
    """Return the queries of each split that have a route, as rows of the frontier."""
    routable = set(routable_queries(frontier))
    queries, start = {}, 0
    for split, own in rows.items():
        queries[split] = [index for index in range(start, start + len(own)) if index in routable]
        start += len(own)
    problems = [f"{split}: none of its {len(rows[split])} queries" for split, kept in queries.items() if not kept]
    reasons = "; ".join(f"{reason}: {count} nodes" for reason, count in frontier.invalid.items()) or "no node is wanted"
    raise_all(DataError, f"Every split must hold a query that some model can be asked ({reasons}), but:", problems)
    return queries


def _task_names(frontier: Frontier) -> tuple[str, ...]:
    return tuple(count_tasks(frontier.rows))


def _report(
    run: LiveCounts,
    frontier: Frontier,
    rows: Mapping[str, Sequence[TaskRow]],
    outcomes: Mapping[str, NodeOutcomes],
    manifest: TreeManifest,
) -> CollectionReport:
    sizes = {split: len(arrays.task) for split, arrays in outcomes.items()}
    return CollectionReport(
        num_queries=sizes,
        num_left_out={split: len(own) - sizes[split] for split, own in rows.items()},
        num_nodes=sum(len(keys) for keys in frontier.keys),
        num_requests=len(frontier.responses),
        num_stored_before=run.num_stored_before,
        num_generated=run.num_generated,
        generated_prompt_tokens=run.num_prompt_tokens,
        generated_new_tokens=run.num_new_tokens,
        computed_tokens=run.num_computed_tokens,
        num_scored=run.num_scored,
        generation_s=run.generation.total_s,
        scoring_s=run.scoring.total_s,
        encoding_s=run.encoding.total_s,
        invalid_nodes=dict(frontier.invalid),
        answers=count_answers(
            list(outcomes.values()),
            model_names=[card.name for card in manifest.cards],
            task_names=manifest.task_names,
            num_stages=manifest.num_stages,
        ),
    )


@contextmanager
def _clear_interrupt(run: LiveCounts, store: ResponseStore) -> Iterator[None]:
    """Say on Ctrl-C what was kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"Stopped. {run.num_generated} responses were generated in this run and are stored in {store.path}; "
            "run the same command again to go on from here."
        ) from interrupt
