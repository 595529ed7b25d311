r"""The words of every prompt, as data, by version; variants of later hops are in `later_hop_texts`.

A prompt version is a `PromptSet`: for each form of answer a `FormTexts`. A version that trees were made with is never
changed: copy it, change the copy, give it a new name in `PROMPT_SETS`, and the trees say by which version they were
made.

`prompt_forms` says how templates are filled.
Every few-shot example was written for this package; none is a row of a benchmark.
"""

from __future__ import annotations

from dataclasses import replace

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.tasks.later_hop_texts import solving_anew, that_refine, that_verify
from hierrouter_jax.tasks.prompt_forms import Example, FormTexts, PromptSet


def prompt_set(version: str) -> PromptSet:
    """Return a prompt version by its name. Raises `ConfigError` when there is none."""
    if version not in PROMPT_SETS:
        raise ConfigError(f"prompt_version must be one of {sorted(PROMPT_SETS)}, but is {version!r}.")
    return PROMPT_SETS[version]


_MATHS = (
    Example(
        question="Mira has 4 baskets with 6 pears in each. She gives away 9 pears. How many pears are left?",
        response="There are 4 * 6 = 24 pears at first. After giving away 9, 24 - 9 = 15 are left. The answer is 15.",
        draft="There are 4 + 6 = 10 pears. 10 - 9 = 1. The answer is 1.",
    ),
    Example(
        question="A bus ticket costs $3 and a museum ticket costs $8. What do 5 people pay who each need both?",
        response="One person pays 3 + 8 = 11 dollars. Five people pay 5 * 11 = 55 dollars. The answer is 55.",
        draft="One person pays 3 + 8 = 11 dollars. Five people pay 5 * 11 = 55 dollars. The answer is 55.",
    ),
    Example(
        question="Tom reads 20 pages a day for a week. The book has 200 pages. How many pages has he still to read?",
        response="In 7 days he reads 7 * 20 = 140 pages. He still has 200 - 140 = 60 pages to read. The answer is 60.",
        draft="He reads 20 pages, so 200 - 20 = 180 pages are left. The answer is 180.",
    ),
    Example(
        question="A rope of 36 metres is cut: one part is twice as long as the other. How long is the short part?",
        response="The rope is 3 short parts long. One short part is 36 / 3 = 12 metres. The answer is 12.",
        draft="The rope is 3 short parts long. One short part is 36 / 3 = 12 metres. The answer is 12.",
    ),
)

_OPEN_QUESTIONS = (
    Example(
        question="Why do we see lightning before we hear the thunder?",
        response="Light travels far faster than sound, so the flash reaches us almost at once, and the sound follows.",
        draft="Because the thunder begins later than the lightning.",
    ),
    Example(
        question="Name two ways to keep bread fresh for longer.",
        response="Keep it in a closed bread box or bag at room temperature, or slice and freeze it.",
        draft="Put it in a bread box, or freeze it in slices.",
    ),
)

_PROGRAMS = (
    Example(
        question="Write a function to count how many words of a sentence begin with a given letter.",
        tests=(
            'assert count_starting("red roses run", "r") == 3',
            'assert count_starting("a blue sky", "b") == 1',
            'assert count_starting("", "x") == 0',
        ),
        response="def count_starting(sentence, letter):\n"
        "    return sum(1 for word in sentence.split() if word.startswith(letter))",
        draft="def count_starting(sentence, letter):\n    return sentence.count(letter)",
    ),
    Example(
        question="Write a function to return the largest gap between neighbours in a list of numbers.",
        tests=(
            "assert widest_gap([1, 4, 6]) == 3",
            "assert widest_gap([10, 2, 3]) == 8",
            "assert widest_gap([5]) == 0",
        ),
        response="def widest_gap(numbers):\n"
        "    gaps = [abs(b - a) for a, b in zip(numbers, numbers[1:])]\n"
        "    return max(gaps) if gaps else 0",
        draft="def widest_gap(numbers):\n"
        "    gaps = [abs(b - a) for a, b in zip(numbers, numbers[1:])]\n"
        "    return max(gaps) if gaps else 0",
    ),
)

_FUNCTIONS = (
    Example(
        question="def count_vowels(text: str) -> int:\n"
        '    """Return how many letters of text are vowels, capital letters included.\n'
        "    >>> count_vowels('Orange')\n"
        '    3\n    """',
        tests=("assert count_vowels('Orange') == 3", "assert count_vowels('Try AEiou!') == 5"),
        response="    return sum(1 for letter in text.lower() if letter in 'aeiou')",
        draft="def count_vowels(text: str) -> int:\n    return text.count('a') + text.count('e')",
    ),
    Example(
        question="def longest_run(numbers: list) -> int:\n"
        '    """Return the length of the longest run of equal neighbours; an empty list has none.\n'
        "    >>> longest_run([4, 4, 1, 1, 1])\n"
        '    3\n    """',
        tests=(
            "assert longest_run([4, 4, 1, 1, 1]) == 3",
            "assert longest_run([None, None, 2]) == 2",
            "assert longest_run([]) == 0",
        ),
        response="    best = current = 0\n"
        "    previous = None\n"
        "    for number in numbers:\n"
        "        current = current + 1 if current and number == previous else 1\n"
        "        previous = number\n"
        "        best = max(best, current)\n"
        "    return best",
        draft="def longest_run(numbers: list) -> int:\n"
        "    best = current = 0\n"
        "    previous = None\n"
        "    for number in numbers:\n"
        "        current = current + 1 if current and number == previous else 1\n"
        "        previous = number\n"
        "        best = max(best, current)\n"
        "    return best",
    ),
)

_CHOICE = FormTexts(
    plain_first="Question: {question}\nAnswer:",
    plain_later="Question: {question}\n{earlier}\nAnswer:",
    earlier_item="Suggested answer: {answer}",
    max_new_tokens=1,
)

_NUMBER = FormTexts(
    chat_first="{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
    chat_later=(
        "{question}\n\nEarlier attempts at this problem follow; they may contain mistakes.\n\n{earlier}\n\n"
        "Solve the problem yourself, correcting any mistake. "
        "Please reason step by step, and put your final answer within \\boxed{{}}."
    ),
    plain_first="Question: {question}\nAnswer:",
    plain_later="Question: {question}\n{earlier}\nAnswer:",
    earlier_item="Earlier attempt {number}: {answer}",
    plain_stop=("\nQuestion:", "\n\n"),
    max_new_tokens=320,
    examples=_MATHS,
)

_PROGRAM = FormTexts(
    chat_first=(
        "Solve this programming task in Python.\n{question}\nYour code must pass these tests:\n{tests}\n\n"
        "Answer with one ```python code block that defines the function. No explanation, no tests."
    ),
    chat_later=(
        "Solve this programming task in Python.\n{question}\nYour code must pass these tests:\n{tests}\n\n"
        "Earlier attempts follow; they may be wrong.\n\n{earlier}\n\n"
        "Check them against the tests, then give your own final version. "
        "Answer with one ```python code block that defines the function. No explanation, no tests."
    ),
    plain_first="Question: {question}\nTests:\n{tests}\nAnswer:\n```python\n",
    plain_later="Question: {question}\nTests:\n{tests}\n{earlier}\nAnswer:\n```python\n",
    earlier_item="Earlier attempt {number}:\n```python\n{answer}\n```",
    plain_stop=("```", "\nQuestion:"),
    example_end="\n```\n\n",
    max_new_tokens=256,
    examples=_PROGRAMS,
    max_earlier_chars=1200,
)

_COMPLETION = FormTexts(
    chat_first=(
        "Complete this Python function.\n```python\n{question}\n```\n\n"
        "Answer with one ```python code block that holds the whole function. No explanation, no tests."
    ),
    chat_later=(
        "Complete this Python function.\n```python\n{question}\n```\n\n"
        "Earlier attempts follow; they may be wrong.\n\n{earlier}\n\n"
        "Check them against the description, then give your own final version. "
        "Answer with one ```python code block that holds the whole function. No explanation, no tests."
    ),
    plain_first="{question}",
    plain_later="{earlier}\n\n{question}",
    earlier_item="Earlier attempt {number}:\n```python\n{answer}\n```",
    plain_stop=("\ndef ", "\nclass ", "\nif __name__", "\nprint(", "\n#", "\nassert ", "\n```"),
    max_new_tokens=320,
    is_commented=True,
    max_earlier_chars=1200,
)

_OPEN = FormTexts(
    chat_first="{question}",
    chat_later=(
        "{question}\n\nEarlier answers to this follow; they may contain mistakes.\n\n{earlier}\n\n"
        "Give your own best answer, correcting any mistake. Do not mention the earlier answers."
    ),
    plain_first="Question: {question}\nAnswer:",
    plain_later="Question: {question}\n{earlier}\nAnswer:",
    earlier_item="Earlier answer {number}: {answer}",
    plain_stop=("\nQuestion:", "\n\n"),
    max_new_tokens=256,
    examples=_OPEN_QUESTIONS,
)

_V1 = PromptSet(
    forms={
        "choice": _CHOICE,
        "number": _NUMBER,
        "program": _PROGRAM,
        "completion": _COMPLETION,
        "open": _OPEN,
    },
)

# After v1 on training rows: more than a quarter of Qwen's GSM8K answers ended just beyond 320 tokens; chat models
# repeat the docstring of a function they complete, which one in six of its answers did not survive in 320 tokens, and
# explain a program at length after its block; a base model without examples fills a function with TODO lines.
_END_OF_BLOCK = "\n```\n"
_V2 = PromptSet(
    forms={
        **_V1.forms,
        "number": replace(_NUMBER, max_new_tokens=480),
        "program": replace(_PROGRAM, chat_stop=(_END_OF_BLOCK,)),
        "completion": replace(
            _COMPLETION,
            max_new_tokens=512,
            chat_stop=(_END_OF_BLOCK,),
            examples=_FUNCTIONS,
            response_lead="\n",
            example_end="\n\n\n",
        ),
    },
)

# As v2 at the first hop; the later hops ask for something else.
PROMPT_SETS: dict[str, PromptSet] = {
    "v1": _V1,
    "v2": _V2,
    "v2-refine": that_refine(_V2),
    "v2-verify": that_verify(_V2),
    "v2-anew": solving_anew(_V2),
}
LATEST_PROMPT_VERSION = "v2"
