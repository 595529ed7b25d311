"""Tree files collected from scripted models: what a command can be tried on without any weights."""

from __future__ import annotations

from scripted_collection import last_word_score, make_engine, make_rows

from hierrouter_jax.collect.collect_tree import collect_tree
from hierrouter_jax.collect.tree_file import save_tree
from hierrouter_jax.encoder.hashing import HashingEncoder
from hierrouter_jax.store.response_store import ResponseStore


def scripted_tree(folder, *, encoder_dim=13, **card_fields):
    """A complete tree of three models and two stages over two tasks; `card_fields` make it one of another pool."""
    with ResponseStore(folder / f"responses_{encoder_dim}.sqlite") as store:
        return collect_tree(
            make_engine(3, **card_fields),
            {
                "train": make_rows(11, 7),
                "validation": make_rows(3, 2, prefix="validation"),
                "test": make_rows(7, 5, prefix="test"),
            },
            store,
            num_stages=2,
            encoder=HashingEncoder(encoder_dim),
            scorer=last_word_score,
            scorer_version="test",
            is_quiet=True,
        )


def save_scripted_tree(path, *, encoder_dim=13, **card_fields):
    """Write such a tree to `path`."""
    save_tree(path, scripted_tree(path.parent, encoder_dim=encoder_dim, **card_fields))
