"""Write a checkpoint of random weights in the shape of a known model, and a pool that names it: for speed alone.

    python experiments/random_checkpoint.py --shape qwen2.5-7b --out runs/qwen2.5-7b
    hierrouter bench generate --pool runs/qwen2.5-7b/pool.toml --batch 1 16 64 256

What a token costs depends on shapes, not on values; so a machine without the weights can measure a model of that
size. Shapes are those of the models' published configs. There is no tokenizer, so real questions cannot be asked.
Needs PyTorch and transformers (the `bench` extra).
"""

from __future__ import annotations

import argparse
from pathlib import Path

QWEN = {"vocab_size": 151_936, "rope_theta": 1e6, "max_position_embeddings": 32_768}
SHAPES = {
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4_864, "num_hidden_layers": 24,
                     "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2.5-1.5b": {"hidden_size": 1_536, "intermediate_size": 8_960, "num_hidden_layers": 28,
                     "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2.5-7b": {"hidden_size": 3_584, "intermediate_size": 18_944, "num_hidden_layers": 28,
                   "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064},
}  # fmt: skip


def write_checkpoint(shape: str, folder: Path) -> None:
    """Draw the weights on the fastest device at hand, in bfloat16, and save them with their config."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen2Config(**{**QWEN, **SHAPES[shape]})
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    lines = ["[[model]]", f'name = "{shape}-random"', 'source = "."', "max_new_tokens = 512"]
    (folder / "pool.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and of pool.toml")
    options = parser.parse_args()
    write_checkpoint(options.shape, options.out)
    print(f"{options.out / 'pool.toml'}")
