"""The form of prompt texts: what a prompt version is made of. The words are in `prompt_texts` and `later_hop_texts`.

Templates are filled with `str.format`: {question}, {options} (lettered lines), {tests} (lines), {earlier} (the block
of earlier answers) and, in `earlier_item`, {number} and {answer}. Literal braces are doubled.
"""

from __future__ import annotations

from dataclasses import dataclass

from hierrouter_jax.tasks.task_row import Form


@dataclass(frozen=True, kw_only=True)
class Example:
    """One worked example: `response` is the text a model should give, `draft` what an earlier model may have given."""

    question: str
    response: str
    draft: str
    choices: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FormTexts:
    """The words for one form of answer, for both prompt styles and for the first and later hops.

    chat:  system message (if any), then chat_first or chat_later as the user's message.
    plain: plain_head, then plain_first or plain_later once an example followed by its response, then once the row.
    """

    plain_first: str
    plain_later: str
    earlier_item: str  # one earlier answer inside {earlier}
    max_new_tokens: int
    chat_first: str | None = None  # None: chat models are given the plain text as well
    chat_later: str | None = None
    system: str | None = None
    plain_head: str = ""
    plain_stop: tuple[str, ...] = ()
    chat_stop: tuple[str, ...] = ()
    response_lead: str = " "  # between an example's prompt and its response, where the prompt ends within a line
    example_end: str = "\n\n"  # what separates the examples
    examples: tuple[Example, ...] = ()
    later_examples: tuple[Example, ...] | None = None  # for later hops; None: the same
    later_max_new_tokens: int | None = None  # for later hops; None: as many
    is_commented: bool = False  # the plain prompt is source code: earlier answers become comment lines
    max_earlier_chars: int = 800  # a longer earlier answer loses its middle


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """One version of all prompts."""

    forms: dict[Form, FormTexts]
