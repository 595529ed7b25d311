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
)
from hierrouter_jax.crowd.subtasks import Input, SubTask

CROWD_PROMPT_VERSION = 1  # raised when any text below changes
CHARS_PER_TOKEN = 3  # a cautious mean, for budgets


def subtask_text(subtask: SubTask, slot: int, *, persona: str = "", refusals: tuple[str, ...] = ()) -> str:
    """Return one slot of a sub-task in words: instructions, inputs, the format, why the last answer was refused."""
    shown = [_shown(name, value) for name, value in subtask.inputs_of(slot).items()]
    parts = [persona, subtask.instructions, *shown]
    if refusals:
        parts.append(f"An earlier answer was refused: {refusals[-1]}.")
    return "\n\n".join([part for part in parts if part] + [subtask.schema.format_line()])


def subtask_prompt(
    style: PromptStyle, subtask: SubTask, slot: int, *, persona: str = "", refusals: tuple[str, ...] = ()
) -> Prompt:
    """Return the prompt for a model: a user's message, or for a base model text that an answer continues."""
    text = subtask_text(subtask, slot, persona=persona, refusals=refusals)
    if style == "chat" and not isinstance(subtask.schema, ChoiceSchema):
        return (Message(role="user", content=text),)
    return f"{text}\n\nAnswer:"


def plain_stop(schema: Schema) -> tuple[str, ...]:
    """Return where a base model's answer ends; it would go on with a question of its own."""
    return ("\n\n",) if not isinstance(schema, NumberSchema) else ("\n",)


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


def _shown(name: str, value: Input) -> str:
    if isinstance(value, str):
        return f"{name}:\n{value}" if "\n" in value or len(value) > 60 else f"{name}: {value}"
    return "\n".join([f"{name}:", *(f"{number}. {item}" for number, item in enumerate(value, start=1))])
