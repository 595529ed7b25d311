"""What an answer to a sub-task must look like: output schemas, as data, each with the check of its interface.

People had interfaces that made wrong input impossible; a chain of models loses them unless the tool gives them back.
A schema tells the worker its format (`format_line`), turns the worker's text into a value of JSON (`parse`), and says
in words why a text is refused, so that it can be asked again with the reason. Schemas are data, because a sub-task
waits for people in a file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

from hierrouter_jax.core.configs import from_json_dict, to_json_dict
from hierrouter_jax.core.errors import ConfigError

_QUOTES = "\"'“”‘’«»`"
_CLOSING = {"“": "”", "‘": "’", "«": "»"}
_BULLET = re.compile(r"^\s*(?:[-*•–](?:\s+|$)|\(?\d{1,3}[.):]\s+)")
_NUMBER = re.compile(
    r"(?:(?<!\w)[-+−])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)(?:[eE][-+]?\d{1,3}(?!\w))?"
)
_OCCURRENCE = re.compile(r"#(\d{1,6})$")
_MAX_DIGITS = 300  # of a number; a float has room for 308


class Refused(Exception):
    """A text that does not fit its schema; the message says what must hold and what came."""


@dataclass(frozen=True, kw_only=True)
class ChoiceSchema:
    """One of a few options. Models rank them, so that none can answer beside the point."""

    kind: ClassVar[str] = "choice"
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to choose."""
        if len(self.options) < 2 or len(set(self.options)) != len(self.options):
            raise ConfigError(f"A choice needs two or more different options, but has {self.options}.")

    def format_line(self) -> str:
        """Return how to answer."""
        return f"Answer with one of: {', '.join(self.options)}."

    def parse(self, text: str) -> str:
        """Return the option that the text begins with or is; the longest of several."""
        if (plain := _clean(text)) in self.options:
            return plain
        folded = _folded(text)
        by_option = {option: one for option in self.options if (one := _folded(option))}
        exact = [option for option, one in by_option.items() if one == folded]
        begun = [option for option, one in by_option.items() if re.match(rf"{re.escape(one)}(?!\w)", folded)]
        if found := exact or sorted(begun, key=len, reverse=True):
            return found[0]
        raise Refused(f"the answer must be one of {', '.join(self.options)}, but is {_shortened(text)}")


@dataclass(frozen=True, kw_only=True)
class NumberSchema:
    """One number; of several in a text the last, where workings end."""

    kind: ClassVar[str] = "number"
    low: float | None = None
    high: float | None = None
    is_whole: bool = True

    def __post_init__(self) -> None:
        """Refuse limits that no number keeps."""
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise ConfigError(f"A number needs low <= high, but has {self.low} and {self.high}.")

    def format_line(self) -> str:
        """Return how to answer."""
        return "Answer with the number alone."

    def parse(self, text: str) -> int | float:
        """Return the number."""
        found = _NUMBER.findall(text)
        if not found:
            raise Refused(f"the answer must be a number, but is {_shortened(text)}")
        exact = Decimal(found[-1].replace(",", "").replace("−", "-"))
        if exact.adjusted() >= _MAX_DIGITS:
            raise Refused(
                f"the answer must be a number of at most {_MAX_DIGITS} digits, but has {exact.adjusted() + 1}"
            )
        if self.is_whole and exact != int(exact):
            raise Refused(f"the answer must be a whole number, but is {float(exact):g}")
        value = int(exact) if self.is_whole else float(exact)
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise Refused(f"the answer must lie between {self.low} and {self.high}, but is {value:g}")
        return value


@dataclass(frozen=True, kw_only=True)
class TextSchema:
    """A text. `differs_from` and `shorter_than` refuse what changes nothing or grows, as the Fix interface does.

    `unlike` are texts that the worker is shown, such as examples, and that are no answer.
    """

    kind: ClassVar[str] = "text"
    max_chars: int = 2000
    is_one_line: bool = False
    differs_from: str | None = None
    shorter_than: str | None = None
    unlike: tuple[str, ...] = ()

    def format_line(self) -> str:
        """Return how to answer."""
        lines = " on one line" if self.is_one_line else ""
        return f"Answer with the text alone{lines}, without quotes and without remarks."

    def parse(self, text: str) -> str:
        """Return the text without surrounding quotes and space."""
        value = _clean(text)
        if self.is_one_line:
            value = value.split("\n", 1)[0].strip()
        value = _unquoted(value)
        if is_blank(value):
            raise Refused("the answer must hold text, but is empty")
        if len(value) > self.max_chars:
            raise Refused(f"the answer must have at most {self.max_chars} characters, but has {len(value)}")
        if self.differs_from is not None and _squeezed(value) == _squeezed(self.differs_from):
            raise Refused("the answer must differ from the text that was given, but is the same")
        if _squeezed(value) in map(_squeezed, self.unlike):
            raise Refused("the answer must not repeat what was shown as an example, but does")
        if self.shorter_than is not None and len(value) >= len(self.shorter_than):
            raise Refused(
                f"the answer must be shorter than the text that was given ({len(self.shorter_than)} characters), but "
                f"has {len(value)}"
            )
        return value


@dataclass(frozen=True, kw_only=True)
class ItemsSchema:
    """A list of short texts, one a line, each once.

    Where items have a form, `must_match` is the regular expression that the whole of each must match, and `form` says
    to the worker, in words, what each must be.
    """

    kind: ClassVar[str] = "items"
    min_items: int = 1
    max_items: int = 10
    max_item_chars: int = 300
    must_match: str = ""
    form: str = ""

    def __post_init__(self) -> None:
        """Refuse numbers that nothing fits, and a form that could not be checked, or not be told."""
        _check_limits("items", self.min_items, self.max_items)
        if bool(self.must_match) != bool(self.form):
            raise ConfigError(
                "Items that must match an expression need a form in words, and the other way round, but have "
                f"must_match={self.must_match!r} and form={self.form!r}."
            )
        try:
            re.compile(self.must_match)
        except re.error as error:
            raise ConfigError(
                f"must_match must be a regular expression, but is {self.must_match!r}: {error}."
            ) from error

    def format_line(self) -> str:
        """Return how to answer."""
        count = f"{self.min_items}" if self.min_items == self.max_items else f"{self.min_items} to {self.max_items}"
        form = f" Each must be {self.form}." if self.form else ""
        return f"Answer with {count} {'line' if count == '1' else 'lines'}, one item a line, without remarks.{form}"

    def parse(self, text: str) -> list[str]:
        """Return the items without bullets and numbers; what is beyond the limit is left out."""
        lines = [_unquoted(_BULLET.sub("", line).strip()) for line in _clean(text).split("\n")]
        firsts: dict[str, str] = {}
        for line in lines:
            if not is_blank(line):
                firsts.setdefault(_squeezed(line), line)
        items = list(firsts.values())
        if len(items) < self.min_items:
            raise Refused(f"the answer must have at least {self.min_items} items, one a line, but has {len(items)}")
        items = items[: self.max_items]
        if long := [item for item in items if len(item) > self.max_item_chars]:
            raise Refused(f"an item must have at most {self.max_item_chars} characters, but one has {len(long[0])}")
        if self.must_match and (other := [item for item in items if not re.fullmatch(self.must_match, item)]):
            raise Refused(f"each item must be {self.form}, but one is {_shortened(other[0])}")
        return items


@dataclass(frozen=True, kw_only=True)
class SpansSchema:
    """Passages of a text, quoted one a line; the value is a list of [start, end) in characters.

    A quotation that occurs more than once must say which occurrence it means (`quotation #2`). Of a paragraph of
    `large_text_chars` or more no passage may take up `max_share` or more (Soylent's Find, Bernstein et al. 2010).
    """

    kind: ClassVar[str] = "spans"
    text: str
    min_spans: int = 1
    max_spans: int = 5
    max_share: float = 0.7
    large_text_chars: int = 100

    def __post_init__(self) -> None:
        """Refuse numbers that nothing fits."""
        _check_limits("spans", self.min_spans, self.max_spans)

    def format_line(self) -> str:
        """Return how to answer."""
        return (
            f"Quote {self.min_spans} to {self.max_spans} passages word for word, one a line. If a passage occurs more "
            "than once, add # and which occurrence you mean, as in: the passage #2"
        )

    def parse(self, text: str) -> list[list[int]]:
        """Return the passages in the order of the text, each once."""
        spans = sorted({self._place(line.strip()) for line in _clean(text).split("\n") if not is_blank(line)})
        if len(spans) < self.min_spans:
            raise Refused(f"at least {self.min_spans} passages must be quoted, but there are {len(spans)}")
        return [list(span) for span in spans[: self.max_spans]]

    def _place(self, line: str) -> tuple[int, int]:
        """Return the passage that a line quotes; an occurrence is counted wherever it begins, be it in another.

        A quotation that is in the text nowhere as it stands may differ from it in case.
        """
        quotations = [(quote, number) for quote, number in _quotations(line) if quote]
        readings = (
            (quote, number, starts)
            for flags in (re.NOFLAG, re.IGNORECASE)
            for quote, number in quotations
            if (starts := [found.start() for found in re.finditer(f"(?={re.escape(quote)})", self.text, flags)])
        )
        if (reading := next(readings, None)) is None:
            raise Refused(f"a passage must be quoted word for word, but {_shortened(line)} is not in the text")
        quote, number, starts = reading
        if number is None and len(starts) > 1:
            raise Refused(
                f"{_shortened(quote)} occurs {len(starts)} times; quote more around it, or add #1 to #{len(starts)}"
            )
        if number is not None and not 1 <= number <= len(starts):
            raise Refused(f"{_shortened(quote)} occurs {len(starts)} times, but occurrence {number} was named")
        start = starts[0 if number is None else number - 1]
        is_large = len(self.text) >= self.large_text_chars
        if is_large and len(quote) / len(self.text) >= self.max_share:
            raise Refused(
                f"a passage must be less than {self.max_share:.0%} of the text, but {_shortened(quote)} is "
                f"{len(quote) / len(self.text):.0%}"
            )
        return start, start + len(quote)


@dataclass(frozen=True, kw_only=True)
class FieldsSchema:
    """Several named values, one a line: `name: value`."""

    kind: ClassVar[str] = "fields"
    names: tuple[str, ...]
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the values that a field may have
    max_chars: int = 400

    def __post_init__(self) -> None:
        """Refuse names that no line could have, and options of no field or without a choice."""
        if not self.names or len({_folded(name) for name in self.names}) < len(self.names):
            raise ConfigError(f"Fields need one or more different names, but have {self.names}.")
        if wrong := [name for name in self.names if not _folded(name) or set(name) & set(":\n")]:
            raise ConfigError(f"The name of a field must be words without a colon, but is {wrong[0]!r}.")
        if unknown := sorted(set(self.options) - set(self.names)):
            raise ConfigError(f"Options must be of fields ({', '.join(self.names)}), but are of {unknown}.")
        for allowed in self.options.values():
            ChoiceSchema(options=allowed)

    def format_line(self) -> str:
        """Return how to answer."""
        lines = [f"{name}: {' or '.join(self.options[name]) if name in self.options else '...'}" for name in self.names]
        return "Answer with these lines and no others:\n" + "\n".join(lines)

    def parse(self, text: str) -> dict[str, str]:
        """Return the values by name."""
        found: dict[str, str] = {}
        for line in _clean(text).split("\n"):
            name, colon, value = _BULLET.sub("", line).partition(":")
            key = next((known for known in self.names if _folded(known) == _folded(name)), None)
            value = _unquoted(value.strip("* "))
            if colon and key is not None and key not in found and not is_blank(value):
                found[key] = value
        if missing := [name for name in self.names if name not in found]:
            raise Refused(f"there must be a line for {', '.join(missing)}, as in {missing[0]}: ...")
        for name, allowed in self.options.items():
            try:
                found[name] = ChoiceSchema(options=allowed).parse(found[name])
            except Refused as why:
                raise Refused(f"{name}: {why}") from why
        if long := [name for name, value in found.items() if len(value) > self.max_chars]:
            raise Refused(f"{long[0]} must have at most {self.max_chars} characters, but has {len(found[long[0]])}")
        return {name: found[name] for name in self.names}


Schema = ChoiceSchema | NumberSchema | TextSchema | ItemsSchema | SpansSchema | FieldsSchema
SCHEMAS: dict[str, type] = {
    one.kind: one for one in (ChoiceSchema, NumberSchema, TextSchema, ItemsSchema, SpansSchema, FieldsSchema)
}
YES, NO = "yes", "no"
YES_NO = ChoiceSchema(options=(YES, NO))


def schema_to_json(schema: Schema) -> dict[str, Any]:
    """Return a schema as JSON values."""
    return {"kind": schema.kind} | to_json_dict(schema)


def schema_from_json(data: dict[str, Any]) -> Schema:
    """Return the schema of JSON values; `ConfigError` for one that does not exist."""
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in SCHEMAS:
        raise ConfigError(f"An output schema is one of {', '.join(SCHEMAS)}, but is {kind!r}.")
    if kind == "fields":
        fields["options"] = {name: tuple(values) for name, values in fields.get("options", {}).items()}
    return from_json_dict(SCHEMAS[kind], fields, what=f"output schema {kind}")


def without_controls(text: str) -> str:
    """Return the text without control characters other than line ends and tabs: a terminal would obey them."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(one for one in lines if one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cs"))


def is_blank(text: str) -> bool:
    """Say whether a text shows nothing: spaces, marks of direction and other characters without a shape."""
    return all(unicodedata.category(one) in ("Zs", "Zl", "Zp", "Cc", "Cf", "Cs") for one in text)


def _check_limits(what: str, least: int, most: int) -> None:
    if not 0 <= least <= most or most < 1:
        raise ConfigError(f"min_{what} must be >= 0 and max_{what} >= 1, and no less, but they are {least} and {most}.")


def _quotations(line: str) -> Iterator[tuple[str, int | None]]:
    """Yield how a line may be read as a quotation and the number of its occurrence, the most literal way first."""
    forms = [line, _BULLET.sub("", line).strip()]
    forms += [_unquoted(form) for form in forms]
    yield from ((form, None) for form in forms)
    for form in forms:
        if match := _OCCURRENCE.search(form):
            quote = form[: match.start()].strip()
            yield from ((one, int(match[1])) for one in (quote, _unquoted(quote)))


def _clean(text: str) -> str:
    return without_controls(text).strip()


def _folded(text: str) -> str:
    shown = "".join(one for one in without_controls(text) if unicodedata.category(one) != "Cf")
    return shown.strip(_QUOTES + " \t\n.:;!,()[]*").casefold()


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _unquoted(text: str) -> str:
    """Return the text without one pair of quotes around all of it."""
    if len(text) < 2 or text[0] not in _QUOTES or text[-1] != _CLOSING.get(text[0], text[0]):
        return text.strip()
    opening, inner, closing = re.escape(text[0]), text[1:-1], re.escape(text[-1])
    ends = re.search(rf"(?<=\S){closing}(?!\w)", inner)  # a quote that closes; an apostrophe has a letter behind it
    if ends and not re.search(rf"(?<!\w){opening}(?=\S)", inner[: ends.start()]):
        return text.strip()  # the first quote closes within: "this" and "that"
    return inner.strip()


def _shortened(text: str, *, num_chars: int = 60) -> str:
    squeezed = _squeezed(without_controls(text))
    return repr(squeezed if len(squeezed) <= num_chars else squeezed[: num_chars - 1] + "…")
