"""Editing a text by Find-Fix-Verify (Bernstein et al. 2010, Soylent): some find, others mend, others again check.

    for each paragraph, side by side:
        patches = agreed(find(paragraph))
        for each patch, side by side:
            kept[patch] = verify(fix(patch))
    proofread: put the best of kept[patch] in place of each patch
    shorten:   put those of kept in place that bring the text to the target length

Places are counted in characters of the text with plain line ends. Line ends within a paragraph are shown as spaces, so
that a passage can be quoted on one line; where nothing is replaced they stay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.algorithms.examples import (
    FIND_LONG,
    FIND_WRONG,
    FIX_LONG,
    FIX_WRONG,
    MAX_EXAMPLES,
    PROOFREAD_ALL,
    SHORTEN_ALL,
    fitting,
    require_num_examples,
)
from hierrouter_jax.crowd.algorithms.patches import agreed_patches, pick_for_length
from hierrouter_jax.crowd.output_schemas import YES, YES_NO, SpansSchema, TextSchema
from hierrouter_jax.crowd.subtasks import (
    Input,
    Pipeline,
    SubTask,
    SubTaskFailedError,
    Together,
    checked_text,
    contributors,
    shuffled,
    values,
)

_PARAGRAPH = re.compile(r"\S[^\n]*(?:\n[^\n]*\S[^\n]*)*")
_LEFT_OUT = "(the passage is left out)"


@dataclass(frozen=True, kw_only=True)
class FindFixVerifyConfig:
    """Soylent's numbers; the limits of spans and growth are ours, and so is the length, for which it has a slider."""

    mode: Literal["shorten", "proofread"] = "proofread"
    num_finders: int = 10
    min_agreement: float = 0.2  # share of the finders who must mark a character
    num_extra_finders: int = 2  # asked once where the first ones agree on nothing
    min_spans: int = 1  # 0: a finder may find nothing, and says so with an empty answer
    max_spans: int = 5
    max_share: float = 0.7
    large_text_chars: int = 100
    num_fixers: int = 5
    max_growth_chars: int = 80  # by how much a correction may be longer
    num_verifiers: int = 5
    max_flagged: float = 0.5  # shorten: a rewrite is kept when each share of flags is under this
    min_positive: float = 0.3  # proofread: a rewrite is kept at this share of yes or more
    target_share: float = 0.85  # shorten: the length that is wanted, as a share of the text's
    num_examples: int = MAX_EXAMPLES  # that a worker is shown at most
    seed: int = 0
    find_long: str = "Find passages of this paragraph that can be made shorter without changing what it says."
    find_wrong: str = "Find passages of this paragraph with mistakes in spelling, grammar or style."
    fix_long: str = "Write the passage shorter. Keep its meaning. It must fit between the text before and after it."
    fix_wrong: str = "Correct the mistakes in the passage. It must fit between the text before and after it."
    ask_grammar: str = "A passage is to be shortened. Does the new version make the grammar of the text wrong?"
    ask_meaning: str = "A passage is to be shortened. Does the new version change the meaning of the text?"
    ask_correct: str = "A passage is to be corrected. Is the text correct with the new version?"
    shorten_all: str = "Shorten this text to the length that is wanted, without changing what it says."
    proofread_all: str = "Correct the mistakes in spelling, grammar and style in this text. Change nothing else."

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to do."""
        least = {"num_extra_finders": 0, "min_spans": 0, "max_spans": max(1, self.min_spans), "max_growth_chars": 0}
        require_num_examples(self.num_examples)
        for name in ("num_finders", "large_text_chars", "num_fixers", "num_verifiers", *least):
            if getattr(self, name) < least.get(name, 1):
                raise ConfigError(f"{name} must be >= {least.get(name, 1)}, but is {getattr(self, name)}.")
        for name in ("min_agreement", "max_share", "max_flagged", "min_positive", "target_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be > 0 and <= 1, but is {getattr(self, name)}.")


ROLES = ("find", "fix", "verify")


@dataclass(frozen=True, kw_only=True)
class _Version:
    """A text in place of [start, end) of a paragraph, and the shares of the verifiers who said yes, by question."""

    text: str
    start: int
    end: int
    shares: Mapping[str, Fraction]

    @property
    def num_saved(self) -> int:
        return self.end - self.start - len(self.text)


@dataclass(frozen=True, kw_only=True)
class _Patch:
    """A passage of the paragraph that begins at `offset` of the text. `original` is one of its versions."""

    paragraph: str
    offset: int
    original: _Version
    previous_end: int | None  # of the patch before it in the paragraph
    kept: tuple[_Version, ...] = ()
    problems: tuple[str, ...] = ()


def find_fix_verify(text: str, config: FindFixVerifyConfig) -> Pipeline:
    """Return the pipeline for a text of one or more paragraphs, with blank lines between them.

    Its result has the new `text`; its `patches`, each with `start` and `end` of what is replaced, the `original`, the
    rewrites that verifiers `kept`, and what was `chosen`; and `problems`, in words, where a stage had no usable
    answers: what it was about stays as it is. The run fails where no finder of any paragraph gave one.
    """
    text = checked_text(text)
    paragraphs = [(found.start(), found.group().rstrip()) for found in _PARAGRAPH.finditer(text)]
    edited = yield Together(
        [_edited(paragraph.replace("\n", " "), offset, config) for offset, paragraph in paragraphs],
        keeps_failures=True,
    )
    problems: list[str] = []
    patches: list[_Patch] = []
    for (offset, _), one in zip(paragraphs, edited, strict=True):
        if isinstance(one, SubTaskFailedError):
            problems.append(f"The paragraph at character {offset} stays: {one}")
        else:
            patches += one
    if len(problems) == len(edited):
        raise SubTaskFailedError(problems[0])
    return _result(text, patches, problems, config)


def one_prompt(text: str, config: FindFixVerifyConfig) -> Pipeline:
    """Return the baseline: one worker, one prompt."""
    text = checked_text(text)
    is_shorter = config.mode == "shorten"
    wanted: dict[str, Input] = {"length wanted": f"at most {_target(text, config)} characters"} if is_shorter else {}
    (found,) = yield SubTask(
        name="one-prompt",
        role="one_prompt",
        instructions=config.shorten_all if is_shorter else config.proofread_all,
        inputs={"text": text, **wanted},
        schema=_whole_of(text, config),
        examples=fitting(
            SHORTEN_ALL if is_shorter else PROOFREAD_ALL,
            lambda example: _whole_of(str(example.inputs["text"]), config),
            num=config.num_examples,
        ),
    )
    return {"text": found.value}


def _whole_of(text: str, config: FindFixVerifyConfig) -> TextSchema:
    return TextSchema(
        max_chars=len(text) + config.max_growth_chars, shorter_than=text if config.mode == "shorten" else None
    )


def _edited(paragraph: str, offset: int, config: FindFixVerifyConfig) -> Pipeline:
    """One paragraph: its patches, each with the rewrites that were kept."""
    spans = yield from _found(paragraph, config)
    patches = [
        _Patch(
            paragraph=paragraph,
            offset=offset,
            original=_Version(text=paragraph[start:end], start=start, end=end, shares={}),
            previous_end=spans[place - 1][1] if place > 0 else None,
        )
        for place, (start, end) in enumerate(spans)
    ]
    return (yield Together([_mended(patch, config) for patch in patches]))


def _found(paragraph: str, config: FindFixVerifyConfig) -> Pipeline:
    """Find: finders mark, and where they agree on nothing a few more are asked.

    Who gives no usable answer is not counted; with nobody to count the paragraph fails.
    """
    has_more = config.num_extra_finders > 0
    first = yield _search(paragraph, config, config.num_finders, min_contributions=0 if has_more else 1)
    patches = agreed_patches(values(first), len(first), config.min_agreement)
    if patches or not has_more:
        return patches
    try:
        more = yield _search(paragraph, config, config.num_extra_finders, barred=contributors(first))
    except SubTaskFailedError:
        if not first:
            raise
        return []
    found = [*first, *more]
    return agreed_patches(values(found), len(found), config.min_agreement)


def _search(paragraph: str, config: FindFixVerifyConfig, redundancy: int, **fields: Any) -> SubTask:
    return SubTask(
        name="find",
        role="find",
        instructions=config.find_long if config.mode == "shorten" else config.find_wrong,
        inputs={"paragraph": paragraph},
        schema=_spans_of(paragraph, config),
        redundancy=redundancy,
        examples=fitting(
            FIND_LONG if config.mode == "shorten" else FIND_WRONG,
            lambda example: _spans_of(str(example.inputs["paragraph"]), config),
            num=config.num_examples,
        ),
        **fields,
    )


def _spans_of(paragraph: str, config: FindFixVerifyConfig) -> SpansSchema:
    return SpansSchema(
        text=paragraph,
        min_spans=config.min_spans,
        max_spans=config.max_spans,
        max_share=config.max_share,
        large_text_chars=config.large_text_chars,
    )


def _mended(patch: _Patch, config: FindFixVerifyConfig) -> Pipeline:
    """Fix and Verify: the patch with the rewrites that are kept. A stage that fails leaves none."""
    where = f"Characters {patch.offset + patch.original.start} to {patch.offset + patch.original.end} stay: "
    try:
        made = yield _fix(patch, config)
    except SubTaskFailedError as failure:
        return replace(patch, problems=(f"{where}{failure}",))
    texts: dict[str, str] = {}
    for text in values(made):
        texts.setdefault(" ".join(text.split()), text)
    versions = [replace(patch.original, text=text) for text in texts.values()]
    if len(versions) == 1:
        versions += [patch.original, *_cut(patch)]
    asked = [(place, name) for place in range(len(versions)) for name in _questions(config)]
    judged = yield Together(
        [_verified(patch, versions, place, name, contributors(made), config) for place, name in asked],
        keeps_failures=True,
    )
    shares: list[dict[str, Fraction]] = [{} for _ in versions]
    for (place, name), share in zip(asked, judged, strict=True):
        if isinstance(share, Fraction):
            shares[place][name] = share
    versions = [replace(version, shares=own) for version, own in zip(versions, shares, strict=True)]
    problems = dict.fromkeys(f"{where}{one}" for one in judged if isinstance(one, SubTaskFailedError))
    return replace(patch, kept=tuple(one for one in versions if _is_kept(one, config)), problems=tuple(problems))


def _fix(patch: _Patch, config: FindFixVerifyConfig) -> SubTask:
    passage = patch.original.text
    is_shorter = config.mode == "shorten"
    return SubTask(
        name="fix",
        role="fix",
        instructions=config.fix_long if is_shorter else config.fix_wrong,
        inputs=_in_context(patch, {"passage": passage}),
        schema=_rewrite_of(passage, config),
        redundancy=config.num_fixers,
        examples=fitting(
            FIX_LONG if is_shorter else FIX_WRONG,
            lambda example: _rewrite_of(str(example.inputs["passage"]), config),
            num=config.num_examples,
        ),
    )


def _rewrite_of(passage: str, config: FindFixVerifyConfig) -> TextSchema:
    return TextSchema(
        max_chars=len(passage) + config.max_growth_chars,
        is_one_line=True,
        differs_from=passage,
        shorter_than=passage if config.mode == "shorten" else None,
    )


def _cut(patch: _Patch) -> list[_Version]:
    """Return the version without the patch and one space beside it; none where nothing of the paragraph is left.

    A space that the patch before it may take is left alone, so that versions of two patches never overlap.
    """
    paragraph, start, end = patch.paragraph, patch.original.start, patch.original.end
    if end - start == len(paragraph):
        return []
    behind = paragraph[end : end + 1]
    if behind == " " and paragraph[max(0, start - 1) : start] in ("", " "):
        end += 1
    elif not behind.isalnum() and paragraph[max(0, start - 1) : start] == " " and start - 1 != patch.previous_end:
        start -= 1
    return [replace(patch.original, text="", start=start, end=end)]


def _verified(
    patch: _Patch,
    versions: Sequence[_Version],
    place: int,
    name: str,
    barred: tuple[str, ...],
    config: FindFixVerifyConfig,
) -> Pipeline:
    """One question about one version, shown beside the others in an order of each verifier's own: the share of yes."""
    shown = [version.text or _LEFT_OUT for version in versions]
    others = shown[:place] + shown[place + 1 :]
    label = "/".join([name, patch.original.text, *shown, str(place)])
    orders = [shuffled(others, seed=config.seed, label=f"{label}/{slot}") for slot in range(config.num_verifiers)]
    found = yield SubTask(
        name=name,
        role="verify",
        instructions=_questions(config)[name],
        inputs=_in_context(patch, {"original passage": patch.original.text}),
        inputs_by_slot=tuple(
            {**({"other versions": order} if order else {}), "new version": shown[place]} for order in orders
        ),
        schema=YES_NO,
        redundancy=config.num_verifiers,
        barred=barred,
    )
    return Fraction(values(found).count(YES), len(found))


def _questions(config: FindFixVerifyConfig) -> dict[str, str]:
    if config.mode == "shorten":
        return {"verify-grammar": config.ask_grammar, "verify-meaning": config.ask_meaning}
    return {"verify": config.ask_correct}


def _is_kept(version: _Version, config: FindFixVerifyConfig) -> bool:
    """Say whether the verifiers let a version pass; one that a question went unanswered for does not."""
    if len(version.shares) < len(_questions(config)):
        return False
    most = float(max(version.shares.values()))
    return most < config.max_flagged if config.mode == "shorten" else most >= config.min_positive


def _in_context(patch: _Patch, inputs: Mapping[str, Input]) -> dict[str, Input]:
    before, after = patch.paragraph[: patch.original.start].strip(), patch.paragraph[patch.original.end :].strip()
    return {name: text for name, text in (("text before", before), ("text after", after)) if text} | dict(inputs)


def _target(text: str, config: FindFixVerifyConfig) -> int:
    return math.floor(Fraction(str(config.target_share)) * len(text))


def _chosen(text: str, patches: Sequence[_Patch], config: FindFixVerifyConfig) -> list[_Version]:
    if config.mode == "proofread":  # max returns the first of equals
        return [max(patch.kept, key=lambda one: one.shares["verify"], default=patch.original) for patch in patches]
    rewrites = [[(one.num_saved, one.shares["verify-meaning"]) for one in patch.kept] for patch in patches]
    picked = pick_for_length(len(text), _target(text, config), rewrites)
    return [one.original if place is None else one.kept[place] for one, place in zip(patches, picked, strict=True)]


def _result(
    text: str, patches: Sequence[_Patch], problems: Sequence[str], config: FindFixVerifyConfig
) -> dict[str, Any]:
    pieces: list[str] = []
    shown: list[dict[str, Any]] = []
    done = 0
    for patch, chosen in zip(patches, _chosen(text, patches, config), strict=True):
        start, end = patch.offset + chosen.start, patch.offset + chosen.end
        new = text[start:end] if chosen.text == patch.original.text else chosen.text
        pieces += [text[done:start], new]
        done = end
        kept = [
            {"text": one.text, "shares": {name: float(yes) for name, yes in one.shares.items()}} for one in patch.kept
        ]
        shown.append({"start": start, "end": end, "original": text[start:end], "kept": kept, "chosen": new})
    return {
        "text": "".join([*pieces, text[done:]]),
        "patches": shown,
        "problems": [*problems, *(problem for patch in patches for problem in patch.problems)],
    }
