"""How a sub-task is put to a worker: as a prompt to a model, as plain text to a router, an endpoint, a person."""

from __future__ import annotations

from hierrouter_jax.core.text import Message, Prompt, PromptStyle
from hierrouter_jax.crowd.output_schemas import (
    ChoiceSchema,
    FieldsSchema,
    ItemsSchema,
    NumberSchema,
    Schema,
    SpansSchema,
    TextSchema,
)
from hierrouter_jax.crowd.subtasks import Example, Input, SubTask

CROWD_PROMPT_VERSION = 3  # raised when what workers are asked changes
CHARS_PER_TOKEN = 3  # a cautious mean, for budgets
ANSWER = "Answer:"
_QUOTE = '"'


def subtask_text(subtask: SubTask, slot: int, *, persona: str = "", refusals: tuple[str, ...] = ()) -> str:
    """Return one slot of a sub-task in words: instructions, inputs, the format, why the last answer was refused.

    With examples the format stands before them, and the inputs, which look as theirs do, come last.
    """
    refused = f"An earlier answer was refused: {refusals[-1]}." if refusals else ""
    shown = [_shown(name, value) for name, value in subtask.inputs_of(slot).items()]
    head, form = [persona, subtask.instructions], subtask.schema.format_line()
    if subtask.examples:
        parts = [*head, form, *map(_example, subtask.examples), refused, "\n".join(shown)]
    else:
        parts = [*head, *shown, refused, form]
    return "\n\n".join(part for part in parts if part)


def subtask_prompt(
    style: PromptStyle, subtask: SubTask, slot: int, *, persona: str = "", refusals: tuple[str, ...] = ()
) -> Prompt:
    """Return the prompt for a model: a user's message, or text that an answer continues.

    It is text for a base model, for choices and numbers, and wherever there are examples: small chat models go on with
    a pattern better than they take one up from a message (docs/crowd.md has the figures).
    """
    text = subtask_text(subtask, slot, persona=persona, refusals=refusals)
    if not is_continued(style, subtask):
        return (Message(role="user", content=text),)
    return text + _cue(subtask)


def is_continued(style: PromptStyle, subtask: SubTask) -> bool:
    """Say whether a sub-task is put to a model as text that an answer continues."""
    return style == "plain" or bool(subtask.examples) or isinstance(subtask.schema, ChoiceSchema | NumberSchema)


def plain_stop(subtask: SubTask) -> tuple[str, ...]:
    """Return where the answer that continues a text ends; a model would go on with a question of its own."""
    schema = subtask.schema
    is_line = isinstance(schema, NumberSchema) or (isinstance(schema, TextSchema) and schema.is_one_line)
    return (*((_QUOTE + "\n",) if _is_quoted(subtask) else ()), "\n" if is_line else "\n\n")


def without_cue(subtask: SubTask, text: str) -> str:
    """Return an answer that continued a text, without what the cue had it end with, and without further answers."""
    text = text.strip().split(f"\n{ANSWER}", 1)[0].rstrip()
    return text.removesuffix(_QUOTE).strip() if _is_quoted(subtask) else text


def token_budget(schema: Schema) -> int:
    """Return how many tokens an answer may take."""
    match schema:
        case ChoiceSchema():
            return 1
        case NumberSchema():
            return 96
        case ItemsSchema():
            return min(384, 8 + schema.max_items * min(schema.max_item_chars, 150) // CHARS_PER_TOKEN)
        case SpansSchema():
            return min(256, 8 + len(schema.text) // CHARS_PER_TOKEN)
        case FieldsSchema():
            return min(384, 16 + len(schema.names) * 48)
        case _:
            return min(384, 8 + schema.max_chars // CHARS_PER_TOKEN)


def _is_quoted(subtask: SubTask) -> bool:
    return isinstance(subtask.schema, TextSchema) and not subtask.examples


def _cue(subtask: SubTask) -> str:
    """Return what an answer continues. A base model that is left to begin by itself begins with an empty line."""
    if subtask.examples:
        return f"\n{ANSWER}"
    if _is_quoted(subtask):
        return f"\n\n{ANSWER} {_QUOTE}"
    return f"\n\n{ANSWER}" + ("" if isinstance(subtask.schema, ChoiceSchema | NumberSchema) else "\n")


def _shown(name: str, value: Input) -> str:
    if isinstance(value, str):
        return f"{name}:\n{value}" if "\n" in value or len(value) > 60 else f"{name}: {value}"
    return "\n".join([f"{name}:", *(f"{number}. {item}" for number, item in enumerate(value, start=1))])


def _example(example: Example) -> str:
    return "\n".join([*(_shown(name, value) for name, value in example.inputs.items()), f"{ANSWER} {example.answer}"])
