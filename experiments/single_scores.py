"""Each model of the small pool alone, beside the figures its makers publish: the table of docs/small_pool.md.

    python experiments/single_scores.py experiments/trees/small.report.json

A score is over the rows of both splits; its interval is Wilson's, 95%. A published figure that lies above the interval
is marked, because a model far below its own card means a broken prompt, tokenizer or decoder.
"""

import math
import sys
from pathlib import Path

from hierrouter_jax.core.configs import read_json

# In percent. Model cards and reports: SmolLM2 (arXiv:2502.02737; cloze forms, GSM8K 5-shot), Gemma 3 (arXiv:2503.19786;
# 25-shot), Qwen2.5-Coder (arXiv:2409.12186; GSM8K is the base model's, 4-shot).
PUBLISHED = {
    "smollm2-135m": {"arc_challenge": 37.0, "commonsenseqa": 34.0, "mmlu": 29.0, "gsm8k": 1.4},
    "gemma3-270m": {"arc_challenge": 29.0},
    "qwen2.5-coder-0.5b": {"humaneval": 61.6, "mbpp": 52.4, "gsm8k": 34.5},
}
Z = 1.959964  # the normal quantile of 97.5%


def wilson(share: float, num: int) -> tuple[float, float]:
    """Return the 95% interval of a share of `num` rows (Wilson 1927)."""
    middle = (share + Z**2 / (2 * num)) / (1 + Z**2 / num)
    half = Z / (1 + Z**2 / num) * math.sqrt(share * (1 - share) / num + Z**2 / (4 * num**2))
    return middle - half, middle + half


def lines_of(report: dict) -> list[str]:
    """Return the table's lines in Markdown."""
    num_queries = sum(report["num_queries"].values()) // len(report["answers"])  # a benchmark
    lines = [
        f"| benchmark | model | alone, % (n = {num_queries}) [95%] | published, % | cut short, % | unreadable, % |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for task, models in report["answers"].items():
        for model, counts in models.items():
            score = counts["first_hop_quality"]
            low, high = wilson(score, num_queries)
            published = PUBLISHED.get(model, {}).get(task)
            mark = " (above)" if published is not None and published > 100 * high else ""
            lines.append(
                f"| {task} | {model} | {100 * score:.1f} [{100 * low:.1f}, {100 * high:.1f}] | "
                f"{'' if published is None else published}{mark} | {100 * counts['truncated_share']:.1f} | "
                f"{100 * counts['unparsed_share']:.1f} |"
            )
    return lines


if __name__ == "__main__":
    print("\n".join(lines_of(read_json(Path(sys.argv[1])))))
