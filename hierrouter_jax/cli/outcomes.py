"""`hierrouter outcomes`: recorded outcomes of any models become a tree file, to train and evaluate on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hierrouter_jax.cli.output import print_lines, write_json
from hierrouter_jax.collect.outcome_table import models_asked, read_split_tables
from hierrouter_jax.collect.outcome_tree import SplitShares, outcome_tree_file, read_model_cards
from hierrouter_jax.collect.tree_file import save_tree
from hierrouter_jax.core.atomic_files import require_writable
from hierrouter_jax.encoder.joint import open_encoder
from hierrouter_jax.encoder.sentence_encoder import ALL_MINILM_L6_V2


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of `outcomes`. A table is JSONL, or a folder that `datasets` saved: see docs/data.md."""

    rows: Path
    """The outcome table; its lines may name their split."""
    out: Path
    """The tree file to write (.npz)."""
    test: Path | None = None
    """A table of test questions; `rows` is then learned from alone."""
    validation: Path | None = None
    """A table of validation questions."""
    models: Path | None = None
    """JSON file {model: {figure: number}} with rates or prices; without it every model has rate 1."""
    shares: SplitShares = field(default_factory=SplitShares)
    """How questions without a split are divided; without `--test`."""
    num_stages: int = 1
    """Models asked in a row at most; a second model's answer is its own, as recorded."""
    encoder: str | None = None
    """all-MiniLM-L6-v2 (the default), all-mpnet-base-v2, or where another comes from (hf:, pypi: or a path);
    `+ngrams-512` behind it adds so many hashed n-grams."""
    json: Path | None = None
    """Write what was found there as JSON."""


def run(command: Command) -> None:
    """Read the tables, embed the questions, write the tree file and say what is in it."""
    require_writable(command.out)
    queries = read_split_tables({"train": command.rows, "validation": command.validation, "test": command.test})
    names = models_asked(queries)
    cards = read_model_cards(command.models, names)
    encoder = open_encoder(command.encoder or ALL_MINILM_L6_V2.source)
    tree_file = outcome_tree_file(queries, cards, encoder=encoder, num_stages=command.num_stages, shares=command.shares)
    save_tree(command.out, tree_file)
    sizes = tree_file.manifest.split_sizes
    counts = ", ".join(f"{split} {sum(tasks.values())}" for split, tasks in sizes.items())
    print_lines([f"models: {', '.join(names)}", f"questions: {counts}", f"tree: {command.out}"])
    write_json(command.json, {"tree": str(command.out), "models": names, "split_sizes": sizes})
