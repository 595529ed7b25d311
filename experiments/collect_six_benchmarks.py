"""Config of the six-benchmark tree: the small pool, 150 train and 30 validation rows a benchmark, two stages.

    HIERROUTER_BENCHMARKS=path/to/benchmarks hierrouter collect --config experiments/collect_six_benchmarks.py \
        --store six.sqlite --out six_benchmarks.npz

Test rows: 60 a benchmark where answers are generated, 400 where an option is chosen, because there they cost next to
nothing and differences between routers lie mostly there; comparisons let every benchmark count alike. HumanEval has no
train rows of its own: its 164 rows are divided, about half and half. Larger samples hold the smaller ones, so this tree
holds every row of the packaged one, and goes on from its store.
"""

import os
from pathlib import Path

from hierrouter_jax.collect.collect_config import CollectConfig, TaskSplitConfig
from hierrouter_jax.encoder.sentence_encoder import ALL_MINILM_L6_V2
from hierrouter_jax.tasks.rows import SplitConfig

HERE = Path(__file__).resolve().parent

CONFIG = CollectConfig(
    pool=HERE / "pools" / "small.toml",
    encoder=ALL_MINILM_L6_V2.source,
    tasks=(os.environ.get("HIERROUTER_BENCHMARKS", str(HERE.parent / "benchmarks")),),
    splits=SplitConfig(num_train=150, num_validation=30, num_test=60, seed=0),
    task_splits=(
        *(
            TaskSplitConfig(task=task, splits=SplitConfig(num_train=150, num_validation=30, num_test=400, seed=0))
            for task in ("arc_challenge", "commonsenseqa", "mmlu")
        ),
        TaskSplitConfig(task="humaneval", splits=SplitConfig(num_train=None, num_validation=20, num_test=None, seed=0)),
    ),
    num_stages=2,
    prompt_version="v2",
)
