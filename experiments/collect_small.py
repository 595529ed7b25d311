"""Config of the packaged tree: three small models, six benchmarks, two stages, 24 train and 16 test rows a benchmark.

    HIERROUTER_BENCHMARKS=path/to/benchmarks hierrouter collect --config experiments/collect_small.py \
        --store small.sqlite --out experiments/trees/small.npz

The folder holds one JSONL file a task (see docs/data.md); without the variable it is `benchmarks` at the
repository's root. HumanEval has no train rows of its own, so its rows are divided.
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
    splits=SplitConfig(num_train=24, num_test=16, seed=0),
    num_stages=2,
    prompt_version="v2",
)
