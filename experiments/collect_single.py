"""Config of a tree of one stage: each small model alone on 80 rows a benchmark, beside its maker's figures.

    HIERROUTER_BENCHMARKS=path/to/benchmarks hierrouter collect --config experiments/collect_single.py \
        --store single.sqlite --out single.npz --json single.json

A model far below its own card means a broken prompt, tokenizer or decoder; the 40 rows of the packaged tree are too
few to tell. They are among these 80. Prompts are mended by looking at training rows only. What came of it is in
docs/small_pool.md.
"""

import os
from pathlib import Path

from hierrouter_jax.collect.collect_config import CollectConfig
from hierrouter_jax.encoder.sentence_encoder import ALL_MINILM_L6_V2
from hierrouter_jax.tasks.rows import SplitConfig

HERE = Path(__file__).resolve().parent

CONFIG = CollectConfig(
    pool=HERE / "pools" / "small.toml",
    encoder=ALL_MINILM_L6_V2.source,
    tasks=(os.environ.get("HIERROUTER_BENCHMARKS", str(HERE.parent / "benchmarks")),),
    splits=SplitConfig(num_train=64, num_test=16, seed=0),
    num_stages=1,
    prompt_version="v2",
)
