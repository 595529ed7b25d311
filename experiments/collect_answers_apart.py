"""The vectors of first responses by themselves, for routers that attend over segments (`segment_attention.py`).

    HIERROUTER_BENCHMARKS=path/to/benchmarks python experiments/collect_answers_apart.py --store six.sqlite \
        --out experiments/trees/answers_apart.npz

For the train rows of the six-benchmark tree. First responses come from its store, or are asked again where the store
lacks them. A response is encoded as others are shown it: the choice, the program, the solution. Written are numbers of
16 bits and the hashes of the rows' ids.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from collect_six_benchmarks import CONFIG
from command import run

from hierrouter_jax.collect.asking import answer_requests
from hierrouter_jax.collect.collect_config import load_collect_rows
from hierrouter_jax.collect.collect_tree import collect_responses
from hierrouter_jax.collect.embed_texts import embed_texts
from hierrouter_jax.collect.hop_prompts import hop_request
from hierrouter_jax.collect.outcomes import row_id_hash
from hierrouter_jax.core.atomic_files import atomic_write, require_writable
from hierrouter_jax.encoder.joint import open_encoder
from hierrouter_jax.llm.flax_engine import FlaxEngine
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.store.response_store import ResponseStore
from hierrouter_jax.tasks.prompts import shown_answer


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask, encode, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="response store")
    parser.add_argument("--out", type=Path, required=True, help="the vectors (.npz)")
    options = parser.parse_args(arguments)
    require_writable(options.out)
    rows = load_collect_rows(CONFIG)["train"]
    engine, encoder = FlaxEngine(load_pool(CONFIG.pool)), open_encoder(CONFIG.encoder)
    version = CONFIG.prompt_version
    with ResponseStore(options.store) as store:
        collect_responses(engine, {"train": rows}, store, num_stages=1, prompt_version=version)
        asked = [hop_request(card, row, (), prompt_version=version) for row in rows for card in engine.cards]
        responses = answer_requests(engine, store, asked)
    asked_of = [row for row in rows for _ in engine.cards]
    texts = [shown_answer(row, response.text) for row, response in zip(asked_of, responses, strict=True)]
    vectors = embed_texts(encoder, texts, title="encoding answers", is_quiet=False)
    answers = np.stack([vectors[text] for text in texts]).reshape(len(rows), len(engine.cards), -1)
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        answers=answers.astype(np.float16),
        row_id_hash=np.array([row_id_hash(row.id) for row in rows], np.uint64),
    )
    with atomic_write(options.out) as file:
        file.write(packed.getbuffer())


if __name__ == "__main__":
    run(main)
