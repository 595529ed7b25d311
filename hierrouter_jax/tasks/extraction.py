r"""Finding the answer in a model's text: a letter, a number, or a program.

Small models ignore format instructions, so extraction is lenient about form and strict about content: it accepts
every usual way of saying an answer, and never picks between answers by looking at the right one.

- letter: that of the choice whose text the answer is (what constrained decoding gives); else "B", "(B)", "**B**",
  "answer is B" or \boxed{B}.
- number: the last \boxed{...}, else what follows the last "####", else the last "answer is", else the last number.
- program: see `program_extraction`.
"""

from __future__ import annotations

import re
from fractions import Fraction

from hierrouter_jax.tasks.task_row import TaskRow

RELATIVE_TOLERANCE = Fraction(1, 10**6)

# A comma is part of a number only where it groups thousands: "3, 4" and "3,4" are two numbers.
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_FRACTION = r"\\d?t?frac\{\s*-?[\d,.]+\s*\}\{\s*[\d,.]+\s*\}"
# In no pattern here do two loops over white space meet: models end in thousands of blanks, and the ways to share them
# out between the loops grow with a power of their number.
_NUMBER = re.compile(
    r"(?:(?P<sign>-)(?:\s*\\?[$€£])?\s*)?"
    rf"(?P<body>{_FRACTION}|{_WHOLE}(?:\.\d+)?(?:[eE][+-]?\d{{1,3}}(?!\w))?(?:\s*/\s*{_WHOLE})?|\.\d+)"
)
_OPERAND = re.compile(r"(?:[\d)\]}%]|(?<![A-Za-z])[A-Za-z])$")  # a number, a bracket, a variable; not a word
_ANSWER_IS = re.compile(r"answer(?:\s+is|\s*:)\s*:?", re.IGNORECASE)
_MIXED = re.compile(r"(?<![\d.,/])(\d+)\s+(\d+)\s*/\s*(\d+)")


def extract_letter(row: TaskRow, text: str) -> str | None:
    """Return the letter of the choice the text decides for, or None."""
    letters = "".join(row.letters)
    stripped = text.strip()
    # Word for word first: choices may differ in case or in a full stop alone ("Co" and "CO").
    for simplified in (str, lambda words: words.rstrip(".").casefold()):
        for choice, letter in zip(row.choices, letters, strict=True):
            if simplified(stripped) == simplified(choice.strip()):
                return letter
    bare = re.sub(r"^[\s(\[*\"'`]+|[\s)\].*:\"'`]+$", "", stripped)
    if len(bare) == 1 and bare.upper() in letters:
        return bare.upper()
    group = rf"[(\[*\s]*([{letters}])(?![\w'])"
    patterns = (
        rf"\\boxed\{{\s*(?:\\text\{{\s*)?\(?([{letters}])\)?\s*\}}",
        rf"(?i:answer(?:\s+is|\s*:)(?:\s*:)?|(?:option|choice)(?:\s+is)?:?){group}",
    )
    for pattern in patterns:
        found = re.findall(pattern, text)
        if found:
            return found[-1]
    opening = re.match(rf"[(\[*]*([{letters}])(?:[)\].:*,]|\s*\n|\s*$)", stripped)
    return opening.group(1) if opening else None


def extract_number(text: str) -> str | None:
    """Return the text of the number that the answer ends in, or None when there is no number."""
    text = re.split(r"\n\s*Question:", text)[0]
    boxed = _last_boxed(text)
    if boxed is not None and _first_number(boxed) is not None:
        return _first_number(_right_of_equals(boxed))
    if "####" in text:
        found = _first_number(text.rsplit("####", 1)[1])
        if found is not None:
            return found
    for match in reversed(list(_ANSWER_IS.finditer(text))):
        sentence = re.split(r"\n|\.(?=\s|$)", text[match.end() :].lstrip())[0]
        found = _first_number(_right_of_equals(sentence))
        if found is not None:
            return found
    numbers = _numbers(text)
    return numbers[-1] if numbers else None


def parse_number(text: str) -> Fraction | None:
    """Return the exact value of a number as people write it ("1,234.50", "$18", "20%", "3/4", "\\frac{3}{4}")."""
    found = _numbers(text)
    if len(found) != 1:
        return None
    raw = found[0].replace(",", "")
    try:
        fraction = re.fullmatch(r"(-?)\\d?t?frac\{\s*(-?[\d.]+)\s*\}\{\s*([\d.]+)\s*\}", raw)
        if fraction:
            value = Fraction(fraction.group(2)) / Fraction(fraction.group(3))
            return -value if fraction.group(1) else value
        over = re.fullmatch(r"(-?[\d.]+(?:[eE][+-]?\d+)?)/(\d+)", raw)
        return Fraction(over.group(1)) / Fraction(over.group(2)) if over else Fraction(raw)
    except (ValueError, ZeroDivisionError):
        return None


def is_same_number(left: str, right: str) -> bool:
    """Whether two numbers are equal up to a relative rounding of one in a million."""
    a, b = parse_number(left), parse_number(right)
    if a is None or b is None:
        return False
    return abs(a - b) <= RELATIVE_TOLERANCE * max(abs(a), abs(b))


def _numbers(text: str) -> list[str]:
    """Return every number of a text in one written form: no spaces, no currency, a minus only where it is a sign."""
    text = _MIXED.sub(_as_one_fraction, text.replace("−", "-").replace("\\!", "").replace("{,}", ","))
    found: list[str] = []
    for match in _NUMBER.finditer(text):
        before = text[: match.start()].rstrip(" ")
        # "7-4" and "7 - 4" subtract: a minus is a sign only where no operand stands before it.
        is_sign = match.group("sign") and not _OPERAND.search(before)
        body = re.sub(r"\s+", "", match.group("body"))
        found.append(("-" if is_sign else "") + body)
    return found


def _as_one_fraction(mixed: re.Match[str]) -> str:
    """Return a mixed number such as "1 1/2" as one fraction; as it is when it has more digits than Python reads."""
    whole, numerator, denominator = mixed.groups()
    try:
        return f"{int(whole) * int(denominator) + int(numerator)}/{denominator}"
    except ValueError:
        return mixed.group()


def _first_number(text: str) -> str | None:
    numbers = _numbers(text)
    return numbers[0] if numbers else None


def _right_of_equals(text: str) -> str:
    """Return what follows the last equals sign, where a number follows it: "3 * 6 = 18" answers 18."""
    right = text.rsplit("=", 1)[-1]
    return right if _numbers(right) else text


def _last_boxed(text: str) -> str | None:
    r"""Return the content of the last \boxed{...}, braces balanced; what there is when the text was cut."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    begin = start + len("\\boxed{")
    for index in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[begin:index]
    return text[begin:]
