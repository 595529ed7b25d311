"""The tokenizer of a GGUF file, built from its metadata with the `tokenizers` library alone.

transformers can rebuild these too, but needs torch for it, and does not know how every vocabulary cuts text before it
merges. A file carries the tokens, their kinds and, for byte-level vocabularies, the merges. How text is cut is only
named (`tokenizer.ggml.pre`); a name not known here is an error, because a wrong cut gives ids the model never saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from hierrouter_jax.core.errors import WeightsError

# Kinds of tokens in `tokenizer.ggml.token_type`.
_CONTROL, _USER_DEFINED = 3, 4

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD, _SPACE = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How byte-level vocabularies cut text: a pattern, or "bytes" for GPT-2's own, or "digits" for that after every digit
# is cut off by itself.
_CUTS = {
    "gpt-2": "bytes",
    "smollm": "digits",
    "starcoder": "digits",
    "qwen2": rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SPACE}",
    "llama-bpe": rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SPACE}",
}
_ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that GGUF metadata describes.

    Raises `WeightsError` for a kind of vocabulary, or a way of cutting text, that is not known here.
    """
    kind, tokens = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.tokens")
    if not tokens or kind not in ("gpt2", "llama"):
        raise WeightsError(
            f"A GGUF file must carry a vocabulary of the kind gpt2 or llama, but this one's is {kind!r} with "
            f"{len(tokens or ())} tokens. Use another file of the model, or a hf: source."
        )
    tokenizer = _byte_level(metadata, tokens) if kind == "gpt2" else _sentence_pieces(metadata, tokens)
    _add_whole_tokens(tokenizer, metadata)
    _add_frame(tokenizer, metadata)
    return tokenizer


def special_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the tokens that have a role (`bos_token`, `eos_token`, ...), under the names transformers gives roles."""
    tokens = metadata["tokenizer.ggml.tokens"]
    roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    ids = {role: metadata.get(f"tokenizer.ggml.{stated}_token_id") for stated, role in roles.items()}
    return {f"{role}_token": tokens[index] for role, index in ids.items() if index is not None}


def _cut_name(metadata: Mapping[str, Any]) -> str:
    stated = metadata.get("tokenizer.ggml.pre")
    name = _ALIASES.get(str(stated), str(stated))
    if name not in _CUTS:
        raise WeightsError(
            f"How a byte-level vocabulary cuts text (tokenizer.ggml.pre) must be one of {', '.join(sorted(_CUTS))}, "
            f"but this GGUF file's is {stated!r}. Use a newer file of the model, or a hf: source."
        )
    return name


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    name = _cut_name(metadata)
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges", ())]
    # Llama 3 takes a piece that is in the vocabulary as it is, whatever the merges would make of it.
    model = models.BPE(vocab=_ids(tokens), merges=merges, ignore_merges=name == "llama-bpe")
    tokenizer = Tokenizer(model)
    byte_level, cut = pre_tokenizers.ByteLevel, _CUTS[name]
    first: list[pre_tokenizers.PreTokenizer] = []
    if cut == "digits":
        first = [pre_tokenizers.Digits(individual_digits=True)]
    elif cut != "bytes":
        first = [pre_tokenizers.Split(Regex(cut), behavior="isolated")]
    last = byte_level(add_prefix_space=False, use_regex=cut in ("bytes", "digits"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, last])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_pieces(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    # Gemma's file spells runs of spaces with spaces; within the model a space is "▁".
    spelled = [token.replace(" ", "▁") if token.strip(" ") == "" else token for token in tokens]
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    model = models.BPE(
        vocab=_ids(spelled),
        merges=_implied_merges(spelled),
        unk_token=None if unknown is None else spelled[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    has_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if has_prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if has_prefix else steps)
    return tokenizer


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for index, token in enumerate(tokens):
        ids.setdefault(token, index)
    return ids


def _implied_merges(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """Return every pair of tokens that joins to a token, pairs that join to an earlier token first.

    Vocabularies of sentence pieces list tokens in the order in which training merged them; their scores say the same
    where they say anything.
    """
    ids = _ids(tokens)
    merges = []
    for token in ids:
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in pairs if left in ids and right in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return merges


def _add_whole_tokens(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Make control and user-defined tokens match whole in a text, before it is cut."""
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type") or ()
    pairs = [(token, kind) for token, kind in zip(tokens, kinds, strict=False) if kind in (_CONTROL, _USER_DEFINED)]
    known = [(token, kind) for token, kind in pairs if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token, kind in known if kind == _CONTROL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token, kind in known if kind == _USER_DEFINED])


def _add_frame(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Make special tokens begin (and end) a text where the file says that the model was trained so."""
    roles = special_tokens(metadata)
    is_framed_by_default = metadata["tokenizer.ggml.model"] == "llama" or (
        metadata["tokenizer.ggml.model"] == "gpt2" and _cut_name(metadata) == "llama-bpe"
    )
    before = metadata.get("tokenizer.ggml.add_bos_token", is_framed_by_default) and roles.get("bos_token")
    after = metadata.get("tokenizer.ggml.add_eos_token", False) and roles.get("eos_token")
    frame = [token for token in (before, after) if token]
    if not frame:
        return
    template = " ".join([*([before] if before else []), "$A", *([after] if after else [])])
    ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(frame)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
