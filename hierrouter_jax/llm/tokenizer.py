"""Tokenizers and chat templates, through transformers and without torch.

A Hugging Face folder brings its tokenizer. A GGUF file carries the vocabulary alone; the tokenizer built from it
(`gguf_tokenizer`) is kept in the cache under the file's digest, so that later loads are fast.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hierrouter_jax.core.errors import ConfigError, StorageError, WeightsError
from hierrouter_jax.core.text import Message
from hierrouter_jax.llm.gguf_tokenizer import build_tokenizer, special_tokens
from hierrouter_jax.weights.cache_locks import make_lock
from hierrouter_jax.weights.gguf_reader import GGUFReader
from hierrouter_jax.weights.sources import ResolvedFiles, default_cache_dir

FORMAT_VERSION = 2  # of what is kept in the cache; raise it when building from GGUF changes

# Tokens that end an answer, where a vocabulary has them as control tokens.
END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<eos>")

# What chat templates may ask of their caller. Llama 3 writes today's date into every prompt unless it is given one:
# equal questions would be other requests on the next day. Qwen3 thinks at length unless it is told not to.
TEMPLATE_VALUES = {"date_string": "26 Jul 2024", "enable_thinking": False}


class Tokenizer:
    """Text to token ids and back for one model."""

    def __init__(self, backend: Any, *, end_token_ids: Sequence[int] = ()) -> None:
        """Wrap a transformers tokenizer. `end_token_ids` are ends of text that the checkpoint states elsewhere."""
        self._backend = backend
        control = {token.content: index for index, token in backend.added_tokens_decoder.items() if token.special}
        stops = {control[name] for name in END_TOKENS if name in control} | set(end_token_ids)
        if backend.eos_token_id is not None:
            stops.add(backend.eos_token_id)
        self.stop_token_ids: tuple[int, ...] = tuple(sorted(stops))

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be put to the model as a conversation."""
        return bool(self._backend.chat_template)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text; with `add_special_tokens`, begun as the model's training texts began."""
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, control tokens left out."""
        text = self._backend.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def apply_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation up to where the model's answer begins.

        Raises `ConfigError` when the model has no chat template, or its template refuses the messages.
        """
        if not self.has_chat_template:
            raise ConfigError("The model must have a chat template to be given messages, but has none: it is a base "
                              'model. Give its entry in the pool prompt_style = "plain".')  # fmt: skip
        from jinja2.exceptions import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            ids = self._backend.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=False, **TEMPLATE_VALUES
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ConfigError(f"The model's chat template refused messages of the roles {roles}: {error}.") from error
        return list(ids)


def load_tokenizer(files: ResolvedFiles, *, cache_dir: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a checkpoint. Raises `WeightsError` when it has none that transformers reads."""
    if not files.is_gguf:
        return Tokenizer(_from_folder(files.folder), end_token_ids=_stated_end_tokens(files.folder))
    cache = cache_dir if cache_dir is not None else default_cache_dir()
    kept = cache / "tokenizers" / f"{files.sha256[:24]}-{FORMAT_VERSION}-{_transformers_version()}"
    if not kept.is_dir():
        _rebuild(files.weights[0], kept)
    return Tokenizer(_from_folder(kept), end_token_ids=_stated_end_tokens(kept))


def _transformers_version() -> str:
    import transformers

    return str(transformers.__version__)


def _from_folder(folder: Path) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises whatever its parts raise
        raise WeightsError(f"{folder} must hold a tokenizer that transformers reads (tokenizer.json), but loading it "
                           f"failed: {type(error).__name__}: {error}. Pull the model again.") from error  # fmt: skip


def _rebuild(gguf_path: Path, kept: Path) -> None:
    """Build the tokenizer of a GGUF file and keep it as a folder, whole or not at all."""
    import transformers

    metadata = GGUFReader(gguf_path).metadata
    backend = transformers.PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(metadata),
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **special_tokens(metadata),
    )
    partial = kept.with_name(f"{kept.name}.partial")
    try:
        with make_lock(kept.parents[1] / "locks" / f"{kept.name}.lock", is_quiet=True):
            if kept.is_dir():  # made by another process meanwhile
                return
            try:
                shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
                partial.mkdir(parents=True)
                backend.save_pretrained(str(partial))
                _write_config(partial, metadata)
                partial.replace(kept)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"Keeping the tokenizer in {kept} failed: {error}. Free space, or choose another cache "
                               "with HIERROUTER_CACHE.") from error  # fmt: skip


def _write_config(folder: Path, metadata: dict[str, Any]) -> None:
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    stated = {"eos_token_id": sorted({int(end) for end in ends if end is not None})}
    (folder / "generation_config.json").write_text(json.dumps(stated), encoding="utf-8")


def _stated_end_tokens(folder: Path) -> tuple[int, ...]:
    """Return the ends of text that a checkpoint's generation config states."""
    try:
        stated = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError):
        return ()
    if isinstance(stated, int):
        return (stated,)
    return tuple(stated) if isinstance(stated, list) else ()
