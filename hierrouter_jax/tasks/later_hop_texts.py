r"""Words by which a later hop does something else than give its own answer beside those it is shown.

Each function takes a prompt version and returns one of the same first hop, so that trees of both share their first
answers. `that_refine`: find the mistake in the answer shown and correct it. `that_verify`: check the answer shown in
another way than it was found, keep it or replace it. `solving_anew`: answer the question, asked in other words, with
nothing shown of what came before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hierrouter_jax.tasks.prompt_forms import Example, FormTexts, PromptSet
from hierrouter_jax.tasks.task_row import Form

_CODE_BLOCK = "one ```python code block that defines the whole function"
# Room for the check that comes before the program.
_CHECKED_PROGRAM_TOKENS, _CHECKED_COMPLETION_TOKENS = 384, 512

_QUIZ = (
    Example(
        question="What do you need in order to unlock a door?",
        choices=("a candle", "a key", "a carpet", "a spoon"),
        response="a key",
        draft="a carpet",
    ),
    Example(
        question="Which of these animals lays eggs?",
        choices=("hen", "cow", "horse", "cat"),
        response="hen",
        draft="hen",
    ),
    Example(
        question="At which temperature does water begin to freeze, in degrees Celsius?",
        choices=("50", "100", "20", "0"),
        response="0",
        draft="100",
    ),
    Example(
        question="Where would you most likely see waves?",
        choices=("desert", "cellar", "ocean", "attic"),
        response="ocean",
        draft="ocean",
    ),
)


def that_refine(prompts: PromptSet) -> PromptSet:
    """Return the version with later hops that correct the answer they are shown."""
    return _with_later_hops(
        prompts,
        choice={
            "plain_later": "Question: {question}\nOptions:\n{options}\n{earlier}\nCorrected answer:",
            "earlier_item": "First answer: {answer}",
            "later_examples": _QUIZ,
        },
        number={
            "chat_later": (
                "{question}\n\n{earlier}\n\n"
                "Go through the last solution line by line. Name the first line that is wrong, if there is one, and "
                "say why. Then write the corrected solution, and put its final answer within \\boxed{{}}."
            ),
            "plain_later": "Question: {question}\n{earlier}\nCorrected solution:",
            "earlier_item": "Solution {number}: {answer}",
        },
        program={
            "chat_later": (
                "A programming task in Python.\n{question}\nThe code must pass these tests:\n{tests}\n\n{earlier}\n\n"
                "Follow the last attempt through the first test and say in one sentence what it returns there and what "
                f"it should return. Then repair it. End with {_CODE_BLOCK}."
            ),
            "plain_later": "Question: {question}\nTests:\n{tests}\n{earlier}\nRepaired program:\n```python\n",
            "earlier_item": "Attempt {number}:\n```python\n{answer}\n```",
            "later_max_new_tokens": _CHECKED_PROGRAM_TOKENS,
        },
        completion={
            "chat_later": (
                "A Python function is to be completed.\n```python\n{question}\n```\n\n{earlier}\n\n"
                "Follow the last attempt through an example of the description and say in one sentence what it returns "
                f"there and what it should return. Then repair it. End with {_CODE_BLOCK}."
            ),
            "plain_later": "{earlier}\n# Repaired below.\n\n{question}",
            "earlier_item": "Attempt {number}, which may be wrong:\n```python\n{answer}\n```",
            "later_max_new_tokens": _CHECKED_COMPLETION_TOKENS,
        },
        open={
            "chat_later": (
                "{question}\n\n{earlier}\n\nCorrect what is wrong in the last answer, add what is missing, and leave "
                "the rest as it is. Give the corrected answer alone."
            ),
            "plain_later": "Question: {question}\n{earlier}\nCorrected answer:",
        },
    )


def that_verify(prompts: PromptSet) -> PromptSet:
    """Return the version with later hops that check the answer they are shown, and keep or replace it."""
    return _with_later_hops(
        prompts,
        choice={
            "plain_later": "Question: {question}\nOptions:\n{options}\n{earlier}\nChecked, the right option is:",
            "earlier_item": "Proposed: {answer} (right or wrong?)",
            "later_examples": _QUIZ,
        },
        number={
            "chat_later": (
                "{question}\n\n{earlier}\n\n"
                "Is the final number of the last solution right? Check it in another way than the solution does: put "
                "it back into the problem, or compute from the other end. If it holds, repeat it; if not, give the "
                "right one. Put the final answer within \\boxed{{}}."
            ),
            "plain_later": "Question: {question}\n{earlier}\nChecked in another way:",
            "earlier_item": "Proposed solution {number}: {answer}",
        },
        program={
            "chat_later": (
                "A programming task in Python.\n{question}\nThe code must pass these tests:\n{tests}\n\n{earlier}\n\n"
                "Does the last program pass every test? If it does, repeat it unchanged. If it does not, write one "
                f"that solves the task in a different way. Answer with {_CODE_BLOCK}. No explanation, no tests."
            ),
            "plain_later": "Question: {question}\nTests:\n{tests}\n{earlier}\nChecked program:\n```python\n",
            "earlier_item": "Proposed program {number}:\n```python\n{answer}\n```",
        },
        completion={
            "chat_later": (
                "A Python function is to be completed.\n```python\n{question}\n```\n\n{earlier}\n\n"
                "Does the last program do what the description says, for every input? If it does, repeat it "
                "unchanged. If it does not, write the function in a different way. "
                f"Answer with {_CODE_BLOCK}. No explanation, no tests."
            ),
            "plain_later": "{earlier}\n# Checked version below.\n\n{question}",
            "earlier_item": "Proposed program {number}:\n```python\n{answer}\n```",
        },
        open={
            "chat_later": (
                "{question}\n\n{earlier}\n\nIs the last answer true and complete? If it is, repeat it. If it is not, "
                "give the right answer. Give the answer alone."
            ),
            "plain_later": "Question: {question}\n{earlier}\nChecked answer:",
            "earlier_item": "Proposed answer {number}: {answer}",
        },
    )


def solving_anew(prompts: PromptSet) -> PromptSet:
    """Return the version with later hops that show no earlier answer and ask in other words than the first."""
    return _with_later_hops(
        prompts,
        choice={
            "plain_later": "Question: {question}\nOptions:\n{options}\nThe right option is:",
            "later_examples": _QUIZ,
        },
        number={
            "chat_later": (
                "Problem: {question}\n\nList the quantities that are given. Then compute what is asked with one "
                "equation a line, each with its result and its unit. End with the line: The answer is NUMBER."
            ),
            "plain_later": "Question: {question}\nSolution, step by step:",
        },
        program={
            "chat_later": (
                "Examples of a Python function:\n{tests}\n\nIts description: {question}\n\n"
                "First think of the steps that lead from the arguments of each example to its result. Then write "
                "the function, plainly, with a comment for each step. "
                f"Answer with {_CODE_BLOCK}."
            ),
            "plain_later": "# {question}\n# For example:\n{tests}\n```python\n",
        },
        completion={
            "chat_later": (
                "```python\n{question}\n    # TODO\n```\n\nReplace the TODO. Think of empty inputs, repeated values "
                f"and the examples of the description. Answer with {_CODE_BLOCK}."
            ),
            "plain_later": "{question}",
        },
        open={"chat_later": "Question: {question}\n\nAnswer it in your own words.", "plain_later": "Q: {question}\nA:"},
    )


def _with_later_hops(prompts: PromptSet, **changes: dict[str, Any]) -> PromptSet:
    """Return the version with some texts of each form changed."""
    forms: dict[Form, FormTexts] = {form: replace(texts, **changes[form]) for form, texts in prompts.forms.items()}
    return PromptSet(forms=forms)
