"""A small world to collect: rows of two tasks, scripted models that often agree, a scorer that can be counted."""

from __future__ import annotations

import hashlib
import re

from hierrouter_jax.llm.scripted_engine import ScriptedEngine, scripted_card
from hierrouter_jax.tasks.scoring import AnswerReading, AnswerScore
from hierrouter_jax.tasks.task_row import TaskRow


def make_rows(num_sums: int, num_letters: int, *, prefix: str = "train") -> list[TaskRow]:
    """Rows of two forms: a number to find, a letter to choose."""
    sums = [
        TaskRow(
            id=f"{prefix}/sums/{n}", task="sums", question=f"What is {n} plus {n + 1} for {prefix}?", answer=f"{n % 2}"
        )
        for n in range(num_sums)
    ]
    letters = [
        TaskRow(
            id=f"{prefix}/letters/{n}",
            task="letters",
            question=f"Which of these comes at place {n} of {prefix}?",
            answer="ABC"[n % 3],
            choices=(f"the stone {n}", f"the river {n}", f"the wood {n}"),
        )
        for n in range(num_letters)
    ]
    return sums + letters


def few_answers(card, request) -> str:
    """One of two numbers, or an option: so few that contexts of different routes are often equal."""
    seed = hashlib.sha256(f"{card.name}{request.prompt}".encode()).digest()
    if request.options:
        return request.options[seed[0] % len(request.options)]
    return f"I think it is {seed[0] % 2}" if seed[1] % 5 else "no idea " * 40


def make_engine(num_models: int, *, respond=few_answers, delay_s: float = 0.0, **card_fields) -> ScriptedEngine:
    """An engine of models that differ in base rate; every second one is a base model with plain prompts."""
    cards = [
        scripted_card(
            f"model_{index}",
            **{"prompt_style": ("chat", "plain")[index % 2], "base_rate": 1.0 + index, "context_window": 4099}
            | card_fields,
        )
        for index in range(num_models)
    ]
    return ScriptedEngine(cards, respond, delay_s=delay_s)


def last_word_score(row: TaskRow, text: str) -> AnswerScore:
    """1 when the last word is the answer, 1/4 when some word is; the answer read is the last number or letter."""
    words = re.findall(r"\w+", text)
    found = [word for word in words if re.fullmatch(r"[A-C]|\d+", word)]
    quality = 1.0 if words[-1:] == [row.answer] else 0.25 if row.answer in words else 0.0
    reading = AnswerReading(extracted=found[-1], identity=found[-1]) if found else AnswerReading()
    return AnswerScore(quality=quality, reading=reading)


class ChunkEngine:
    """The same engine without streaming: whole chunks or nothing."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.cards, self.encode, self.generate = engine.cards, engine.encode, engine.generate
