"""A sentence encoder's folder: its window and pooling, its tokenizer, its weights.

The folder has the Hugging Face layout: `config.json`, safetensors and a tokenizer, and beside them, where
sentence-transformers wrote it, `modules.json`, `1_Pooling/config.json` and `sentence_bert_config.json` (the window).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hierrouter_jax.core.configs import digest, read_json
from hierrouter_jax.core.errors import DataError, WeightsError, raise_all
from hierrouter_jax.encoder.bert import TokenEncoder
from hierrouter_jax.encoder.config import EncoderConfig
from hierrouter_jax.encoder.rules import RULES, UNUSED_TENSORS
from hierrouter_jax.weights.plan import load_leaves
from hierrouter_jax.weights.readers import TensorReader

# How it is cut tells apart what vocabularies do not: case, accents, spaces, unknown characters.
_PROBE = "Ångström NAÏVE café,\ttwo  spaces\n\ndef f(x): return x**2 != 3.50 東京 🙂 it's"

_SUPPORTED_MODULES = ("Transformer", "Pooling", "Normalize")


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    cls_token_id: int
    sep_token_id: int

    def __call__(self, text: Sequence[str], **options: Any) -> Mapping[str, Any]:
        """Return the token ids of every text under `input_ids`."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""
        ...


def check_pooling(folder: Path) -> None:
    """Raise `WeightsError` when the folder asks for more than the mean over tokens and a norm of 1."""
    raise_all(WeightsError, f"{folder} must hold an encoder that pools by the mean:", _pooling_problems(folder))


def read_window(folder: Path, config: EncoderConfig) -> int:
    """Return how many tokens the encoder takes at once, start and end included: what it was tuned with, if told."""
    tuned = folder / "sentence_bert_config.json"
    asked = read_json(tuned).get("max_seq_length") if tuned.is_file() else None
    if asked is None:
        return config.window_tokens
    if not (isinstance(asked, int) and asked >= 3):
        raise WeightsError(f"max_seq_length in {tuned} must be a whole number >= 3, but is {asked!r}.")
    return min(asked, config.window_tokens)


def load_tokenizer(folder: Path, config: EncoderConfig) -> Tokenizer:
    """Return the folder's tokenizer.

    Raises `WeightsError` when there is none, when it has tokens the encoder has no embedding for, or when it puts a
    text between other tokens than its cls and sep.
    """
    # Without these files transformers would make up an empty tokenizer.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise WeightsError(f"{folder} must hold a tokenizer, but has neither tokenizer.json nor vocab.txt.")
    # Importing transformers takes seconds, and programs that encode nothing should not wait for it.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # a broken tokenizer.json raises whatever the library inside happens to raise
        raise WeightsError(f"{folder} must hold a tokenizer, but reading it failed: {error}.") from error
    frame = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    last_id = max(tokenizer.get_vocab().values())
    problems = []
    if tokenizer([""])["input_ids"] != [frame]:
        problems.append(f"it must put a text between its cls and sep tokens {frame}")
    if last_id >= config.vocab_size:
        problems.append(f"its token ids must be < {config.vocab_size}, the encoder's vocabulary, but reach {last_id}")
    raise_all(WeightsError, f"The tokenizer in {folder} does not fit the encoder:", problems)
    return tokenizer


def load_params(
    config: EncoderConfig, reader: TensorReader, *, is_quiet: bool = False
) -> tuple[nnx.GraphDef, nnx.State, str]:
    """Return the encoder split into its graph and its float32 parameters, and the digest of their values.

    Raises `WeightsError` that lists every tensor that does not fit.
    """
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: TokenEncoder(config, rngs=nnx.Rngs(0))))
    variables = {".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(abstract)}
    shapes = {name: jax.ShapeDtypeStruct(variable.shape, variable.dtype) for name, (_, variable) in variables.items()}
    values = load_leaves(
        RULES[config.family], config.num_layers, reader, shapes,
        ignorable=UNUSED_TENSORS, description="loading the encoder", is_quiet=is_quiet,
    )  # fmt: skip
    filled = [(path, variable.replace(jnp.asarray(values[name]))) for name, (path, variable) in variables.items()]
    return graphdef, nnx.from_flat_state(filled), _values_digest(values)


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Return the identity of a tokenizer by what it does, so that it does not depend on which files it came from."""
    vocab = tokenizer.get_vocab()
    words = " ".join(sorted(vocab))
    return digest({"vocab": vocab, "cuts": token_ids(tokenizer, [_PROBE, words, words.upper()])})


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of whole texts, without start and end tokens; half surrogate pairs read as "?"."""
    if not texts:
        return []
    valid = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    encoded = tokenizer(valid, add_special_tokens=False, truncation=False, padding=False, verbose=False)
    return encoded["input_ids"]


def _pooling_problems(folder: Path) -> list[str]:
    problems = []
    if (folder / "modules.json").is_file():
        types = [str(module.get("type")) for module in _read_modules(folder / "modules.json")]
        problems += [f"modules.json has {kind}" for kind in types if kind.rsplit(".", 1)[-1] not in _SUPPORTED_MODULES]
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.is_file():
        modes = {key: value for key, value in read_json(pooling).items() if key.startswith("pooling_mode_")}
        chosen = [key for key, is_on in modes.items() if is_on is True]
        problems += [f"1_Pooling/config.json has {key}" for key in chosen if key != "pooling_mode_mean_tokens"]
        if read_json(pooling).get("pooling_mode", "mean") != "mean":
            problems.append(f"1_Pooling/config.json has pooling_mode {read_json(pooling)['pooling_mode']!r}")
    return problems


def _read_modules(path: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must be a JSON file, but reading it failed: {error}.") from error
    if not (isinstance(modules, list) and all(isinstance(module, dict) for module in modules)):
        raise DataError(f"{path} must hold a list of modules, but does not.")
    return modules


def _values_digest(values: Mapping[str, np.ndarray]) -> str:
    state = hashlib.sha256()
    for name in sorted(values):
        state.update(f"{name} {values[name].dtype} {values[name].shape}\n".encode())
        state.update(np.ascontiguousarray(values[name]).data)
    return state.hexdigest()
