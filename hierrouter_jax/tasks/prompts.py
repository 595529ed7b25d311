"""Task prompts: a row and the answers so far, in the form a model's style wants.

The words are in `prompt_texts`; here they are put together. Chat models get one user message; a base model gets
few-shot text in which the examples have the very form of the question, earlier answers included. Multiple choice is
never generated: the request carries the choices' own texts as options, each a continuation of the bare question, and
the likeliest per byte wins. Letters would be shorter, but models of this size choose a letter by its place: asked so
on training rows of ARC-Challenge, two of three models answered "A" to most questions.

An earlier answer is shown as the answer it is, not as it was written: the choice's text, the
program for code (usage examples and prose gone). What is longer than `max_earlier_chars` loses its middle, so three
stages of answers still fit a window of 2,048 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from hierrouter_jax.core.text import GenerationRequest, Message, ModelCard, Prompt
from hierrouter_jax.tasks.extraction import extract_letter
from hierrouter_jax.tasks.program_extraction import extract_program, without_docstring
from hierrouter_jax.tasks.prompt_forms import FormTexts
from hierrouter_jax.tasks.prompt_texts import LATEST_PROMPT_VERSION, prompt_set
from hierrouter_jax.tasks.task_row import LETTERS, TaskRow

# How the middle of a long answer is shown as missing, and the share of the room that the beginning keeps: the end of
# a solution holds its result.
_GAP = "\n...\n"
_HEAD_SHARE = 0.4


def task_request(
    card: ModelCard, row: TaskRow, earlier: Sequence[str] = (), *, prompt_version: str = LATEST_PROMPT_VERSION
) -> GenerationRequest:
    """Return the request that asks `card`'s model for an answer to `row`, given the texts of earlier responses."""
    texts = prompt_set(prompt_version).forms[row.form]
    is_chat = card.prompt_style == "chat" and texts.chat_first is not None
    options = tuple(f" {choice.strip()}" for choice in row.choices)
    max_new_tokens = texts.max_new_tokens
    if earlier and texts.later_max_new_tokens is not None:
        max_new_tokens = texts.later_max_new_tokens
    return GenerationRequest(
        model=card.name,
        prompt=task_prompt(card, row, earlier, prompt_version=prompt_version),
        max_new_tokens=min(max_new_tokens, card.max_new_tokens),
        stop=() if options else texts.chat_stop if is_chat else texts.plain_stop,
        options=options,
    )


def task_prompt(
    card: ModelCard, row: TaskRow, earlier: Sequence[str] = (), *, prompt_version: str = LATEST_PROMPT_VERSION
) -> Prompt:
    """Return the prompt alone."""
    prompts = prompt_set(prompt_version)
    texts = prompts.forms[row.form]
    shown = [trim_answer(shown_answer(row, text), texts.max_earlier_chars) for text in earlier]
    template = texts.chat_later if shown else texts.chat_first
    if card.prompt_style == "chat" and template is not None:
        user = Message(role="user", content=_filled(template, row, _earlier_block(texts, shown)))
        return (user,) if texts.system is None else (Message(role="system", content=texts.system), user)
    return _plain_prompt(texts, row, shown)


def shown_answer(row: TaskRow, text: str) -> str:
    """Return a response as others are shown it: the text of a choice, the program for code, else the response."""
    if row.form == "choice":
        letter = extract_letter(row, text)
        return text.strip() if letter is None else row.choices[LETTERS.index(letter)]
    if row.form in ("program", "completion"):
        program = extract_program(row, text)
        if program is None:
            return text.strip()
        return (without_docstring(program, row.entry_point) if row.form == "completion" else program).strip()
    return text.strip()


def trim_answer(text: str, max_chars: int) -> str:
    """Return the text, or its beginning and its end around a mark when it is longer than `max_chars`."""
    if len(text) <= max_chars:
        return text
    room = max_chars - len(_GAP)
    num_head = int(room * _HEAD_SHARE)
    return text[:num_head].rstrip() + _GAP + text[len(text) - (room - num_head) :].lstrip()


def option_lines(choices: Sequence[str]) -> str:
    """Return the choices as lettered lines."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _plain_prompt(texts: FormTexts, row: TaskRow, shown: Sequence[str]) -> str:
    """Return few-shot text; with earlier answers each example shows an earlier answer of its own."""
    template = texts.plain_later if shown else texts.plain_first
    parts = [texts.plain_head]
    examples = texts.later_examples if shown and texts.later_examples is not None else texts.examples
    for example in examples:
        as_row = TaskRow(
            id="",
            task=row.task,
            question=example.question,
            answer=example.response,
            choices=example.choices,
            tests=example.tests,
        )
        drafts = [shown_answer(as_row, example.draft)] if shown else []
        parts.append(_filled(template, as_row, _commented(_earlier_block(texts, drafts), texts)))
        # An option carries the space between prompt and answer; free text needs it here, a code fence's line end is it.
        lead = "" if parts[-1].endswith("\n") else texts.response_lead
        parts.append(lead + example.response + texts.example_end)
    parts.append(_filled(template, row, _commented(_earlier_block(texts, shown), texts)))
    return "".join(parts)


def _filled(template: str, row: TaskRow, earlier: str) -> str:
    return template.format(
        question=row.question.strip("\n") if row.form == "completion" else row.question.strip(),
        options=option_lines(row.choices),
        tests="\n".join(row.tests),
        earlier=earlier,
    )


def _earlier_block(texts: FormTexts, shown: Sequence[str]) -> str:
    items = [texts.earlier_item.format(number=number, answer=answer) for number, answer in enumerate(shown, start=1)]
    return ("\n" if texts.max_new_tokens == 1 else "\n\n").join(items)


def _commented(block: str, texts: FormTexts) -> str:
    if not texts.is_commented:
        return block
    return "\n".join(f"# {line}".rstrip() for line in block.split("\n") if not line.startswith("```"))
