"""`hierrouter crowd work`: a person at a terminal takes sub-tasks from a store's queue and answers them.

A sub-task is taken under a lease, shown, and answered in lines; an answer is read by the sub-task's own schema at
once, and one that does not fit is asked for again with the reason. What became of it is said: it counts, or somebody
was faster and it is kept beside theirs. Any number of people work on a queue at once, each with a name of their own.

Texts come from models and from strangers: they are shown as they are, without control characters and with nothing in
them read as markup.
"""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from hierrouter_jax.cli.output import MIN_COLUMNS, write_json
from hierrouter_jax.cli.typed_lines import Lines, open_lines
from hierrouter_jax.core.errors import ConfigError, StorageError
from hierrouter_jax.crowd.journal import Journal, Ticket
from hierrouter_jax.crowd.output_schemas import (
    ChoiceSchema,
    NumberSchema,
    Refused,
    Schema,
    TextSchema,
    without_controls,
)
from hierrouter_jax.crowd.subtasks import Input

DEFAULT_STORE = Path("crowd.sqlite")
POLL_S = 1.0  # between two looks at an empty queue
PROMPT = "> "
IDLE = "Nothing waits for you now; looking again (/quit or Ctrl-C ends)"
HELP = "/skip: not this one, show me another; /quit: leave, others may take it; /help: this line"


@dataclass(frozen=True, kw_only=True)
class Work:
    """Answer, at this terminal, what waits for people."""

    name: Annotated[str, tyro.conf.arg(name="as")]
    """Your name, under which your answers are kept; everybody needs one of their own."""
    store: Path = DEFAULT_STORE
    """The store that the run was begun with."""
    run: str | None = None
    """Only sub-tasks of this run."""
    roles: tuple[str, ...] = ()
    """Only sub-tasks of these roles."""
    skipped: bool = False
    """Show what you skipped in earlier sessions, too."""
    no_wait: bool = False
    """End when nothing waits for you, instead of looking again."""
    json: Path | None = None
    """Write there, as JSON, how many sub-tasks were answered and skipped."""


@dataclass(kw_only=True)
class Tally:
    """What a person did in one session; `num_beside` of the answers were kept beside one that was faster."""

    num_answered: int = 0
    num_beside: int = 0
    num_skipped: int = 0

    def line(self) -> str:
        """Return it in words."""
        beside = f" ({self.num_beside} beside faster ones)" if self.num_beside else ""
        return f"{self.num_answered} answered{beside}, {self.num_skipped} skipped"


def work(command: Work) -> None:
    """Take tickets until the person leaves or, where asked, nothing is left.

    Raises `ConfigError` for a name that nobody may have, `DataError` when store or run are not there.
    """
    person = checked_name(command.name)
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    with Journal.existing(command.store) as journal:
        if command.run is not None:
            journal.record(command.run)
        if command.skipped:
            journal.forget_skips(person)
        session = Session(journal, person, open_lines(), run=command.run, roles=command.roles)
        try:
            session.go_on(waits=not command.no_wait)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("What was submitted is kept; the sub-task on the screen is free again.") from None
        finally:
            session.end()
            tally = session.tally
            write_json(
                command.json,
                {
                    "person": person,
                    "answered": tally.num_answered,
                    "beside": tally.num_beside,
                    "skipped": tally.num_skipped,
                },
            )


def checked_name(name: str) -> str:
    """Return a person's name; `ConfigError` when it is empty or could be taken for somebody else's.

    `model#2` is a model's third sample, `/` is in paths of steps, and a mix joins its members' names with `&`.
    """
    plain = unicodedata.normalize("NFC", name.strip())
    wrong = [one for one in plain if one in "#/&" or unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")]
    if not plain or wrong:
        found = f"has {wrong[0]!r}" if plain else "is empty"
        raise ConfigError(f"A name must hold text, and no #, /, & or control character, but {found}; give another.")
    return plain


class Session:
    """One person at the queue. `tally` says what they did so far; `end` gives back what they hold."""

    def __init__(
        self,
        journal: Journal,
        person: str,
        lines: Lines,
        *,
        run: str | None = None,
        roles: tuple[str, ...] = (),
        clock: Callable[[], float] = time.time,
        poll_s: float = POLL_S,
    ) -> None:
        self.tally = Tally()
        self._journal, self._person, self._lines = journal, person, lines
        self._run, self._roles, self._clock, self._poll_s = run, roles, clock, poll_s
        self._console = Console(width=None if sys.stdout.isatty() else MIN_COLUMNS)
        self._held: Ticket | None = None

    def go_on(self, *, waits: bool) -> None:
        """Show one ticket after the other."""
        self._say(f"Working as {self._person}. {HELP}.")
        while self._take(waits=waits):
            assert self._held is not None
            self._console.print(subtask_panel(self._held))
            match self._read():
                case "quit":
                    return
                case "skip":
                    self._journal.skip(self._held, self._person)
                    self.tally.num_skipped += 1
                    self._say("Skipped.")
                case text, value:
                    self._submit(text, value)
            self._held = None

    def end(self) -> None:
        """Give back what is held, and say what was done."""
        if self._held is not None:
            with suppress(StorageError):  # its lease will end by itself
                self._journal.give_back(self._held, self._person)
        self._say(f"{self._person}: {self.tally.line()}.")

    def _take(self, *, waits: bool) -> bool:
        """Hold the next ticket; return whether there is one, and the person still there."""
        self._held = self._next_ticket()
        if self._held is not None:
            return True
        if not waits:
            self._say("Nothing waits for you.")
            return False
        if not self._console.is_terminal:  # which shows no status
            self._say(f"{IDLE}.")
        with self._console.status(IDLE):
            while self._held is None:
                if self._lines.ends_within(self._poll_s, words=("/quit",)):
                    return False
                self._held = self._next_ticket()
        return True

    def _next_ticket(self) -> Ticket | None:
        return self._journal.take_ticket(self._person, run=self._run, roles=self._roles)

    def _read(self) -> Literal["skip", "quit"] | tuple[str, object]:
        """Return what the person says to the ticket: an answer as typed and as read, or a command."""
        assert self._held is not None
        schema = self._held.subtask.schema
        while True:
            text = self._typed(is_one_line=takes_one_line(schema))
            if text in ("/skip", "/quit"):
                return "skip" if text == "/skip" else "quit"
            try:
                return text, schema.parse(text)
            except Refused as reason:
                self._say(f"Not taken: {reason}. Try again.", style="yellow")

    def _typed(self, *, is_one_line: bool) -> str:
        """Return a line, or the lines up to an empty one; or a command, which may stand in any line."""
        typed: list[str] = []
        while True:
            line = self._lines.read(PROMPT)
            if line is None:
                if typed:
                    self._say("Not submitted, because no empty line ended it.", style="yellow")
                return "/quit"
            if (command := line.strip()) in ("/skip", "/quit"):
                return command
            if command == "/help":
                self._say(f"{HELP}.")
            elif is_one_line or not command:
                return without_controls("\n".join([*typed, line]))
            else:
                typed.append(line)

    def _submit(self, text: str, value: object) -> None:
        """Submit, and say what became of it; a disk that is full now loses no answer."""
        ticket = self._held
        assert ticket is not None
        while True:
            try:
                counts = self._journal.submit(ticket, self._person, text=text, value=value)
                break
            except StorageError as error:
                self._say(f"{error} Your answer is not lost: press Enter to try again.", style="red")
                if self._lines.read(PROMPT) in (None, "/quit"):
                    self._say(f"Not stored: {text}", style="red")
                    raise
        self.tally.num_answered += 1
        self.tally.num_beside += not counts
        is_late = ticket.lease_until_s is not None and self._clock() > ticket.lease_until_s
        if counts:
            self._say("Your time was over, but nobody was faster: counted." if is_late else "Counted.", style="green")
        elif self._journal.answers_at(ticket.place):
            self._say("Somebody was faster: your answer is kept beside theirs.", style="yellow")
        else:
            self._say("You have answered this for another slot: this answer is kept beside it.", style="yellow")

    def _say(self, words: str, *, style: str = "") -> None:
        self._console.print(Text(without_controls(words), style=style))


def takes_one_line(schema: Schema) -> bool:
    """Say whether an answer is one line; others are ended by an empty line."""
    return isinstance(schema, ChoiceSchema | NumberSchema) or (isinstance(schema, TextSchema) and schema.is_one_line)


def subtask_panel(ticket: Ticket) -> Panel:
    """Return a ticket as it is shown: instructions, what its slot sees, how to answer."""
    subtask, place = ticket.subtask, ticket.place
    ending = "" if takes_one_line(subtask.schema) else "\nEnd with an empty line."
    parts = [
        _plain(subtask.instructions, style="bold"),
        *(_shown(name, value) for name, value in subtask.inputs_of(place.slot).items()),
        _plain(subtask.schema.format_line() + ending, style="italic"),
    ]
    minutes = f"yours for {ticket.lease_s / 60:.0f} min" if ticket.lease_s >= 60 else f"yours for {ticket.lease_s:g} s"
    spaced = [line for part in parts for line in (part, Text())][:-1]
    return Panel(
        Group(*spaced),
        title=_plain(f"{subtask.name} ({subtask.role})"),
        subtitle=_plain(f"{place.run}, {minutes}"),
        title_align="left",
        subtitle_align="left",
    )


def _shown(name: str, value: Input) -> Text:
    if isinstance(value, str):
        separator = "\n" if "\n" in value else " "
        return Text.assemble((without_controls(f"{name}:"), "cyan"), separator, without_controls(value))
    items = "".join(f"\n{number}. {item}" for number, item in enumerate(value, start=1))
    return Text.assemble((without_controls(f"{name}:"), "cyan"), without_controls(items))


def _plain(text: str, *, style: str = "") -> Text:
    return Text(without_controls(text), style=style)
