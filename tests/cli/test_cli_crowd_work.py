"""`hierrouter crowd work`: people at terminals and behind pipes, alone and at once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections import Counter

import pytest
from host_processes import command_environment

from hierrouter_jax.cli import main
from hierrouter_jax.cli.crowd_work import Session, checked_name
from hierrouter_jax.cli.typed_lines import PipedLines
from hierrouter_jax.core.errors import ConfigError, StorageError
from hierrouter_jax.crowd.journal import Journal, Place, Ticket
from hierrouter_jax.crowd.output_schemas import (
    YES_NO,
    FieldsSchema,
    ItemsSchema,
    NumberSchema,
    SpansSchema,
    TextSchema,
)
from hierrouter_jax.crowd.subtasks import SubTask

HOSTILE = "\x1b[2J\x1b]0;owned\x07 [bold red]loud[/bold red] [/nothing] \x9b31m \x00end"
SHOWN = "[2J]0;owned [bold red]loud[/bold red] [/nothing] 31m end"
PATIENCE_S = 120


@pytest.fixture
def store(tmp_path):
    with Journal(tmp_path / "store.sqlite") as journal:
        journal.begin("run", {"text": "one"})
    return tmp_path / "store.sqlite"


def add(store, schemas, *, run="run", lease_s=900.0, **fields):
    """Open a ticket for each schema, of steps in their order."""
    with Journal(store) as journal:
        for number, schema in enumerate(schemas):
            subtask = SubTask(
                **({"name": "ask", "role": "say", "instructions": f"Number {number}.", "schema": schema} | fields)
            )
            for slot in range(subtask.redundancy):
                place = Place(run=run, step=f"{number:02}:ask", slot=slot)
                journal.open_ticket(Ticket(place=place, subtask=subtask, lease_s=lease_s, cost=0.0))


def work(store, typed, *options, person="Ann", waits=False, code=0):
    """Run the command in this process on what is typed; return what it printed."""
    words = ["crowd", "work", "--store", store, "--as", person, *([] if waits else ["--no-wait"]), *options]
    typed = typed if isinstance(typed, bytes) else typed.encode()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(main, "keep_compiled_programs", lambda: None)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
        assert main.main([str(word) for word in words]) == code
    return printed.getvalue()


def answered(store, run="run"):
    with Journal(store) as journal:
        return [(found[0].contributor, found[0].value) for found in journal.answers(run).values()]


def free_steps(store):
    """Which tickets are open, and held by nobody."""
    with Journal(store) as journal:
        found = journal.open_tickets()
    assert all(ticket.holder is None for ticket in found)
    return [int(ticket.place.step[:2]) for ticket in found]


def test_every_kind_of_answer_is_read_by_its_schema_and_counted(store, tmp_path):
    add(
        store,
        [
            YES_NO,
            NumberSchema(low=0.0, high=20.0),
            TextSchema(),
            TextSchema(is_one_line=True),
            ItemsSchema(),
            SpansSchema(text="a red fox and a dog", min_spans=0),
            SpansSchema(text="a red fox and a dog", min_spans=0),
            FieldsSchema(names=("mood", "why"), options={"mood": ("good", "bad")}),
        ],
    )
    texts = "The first line\nand the second.\n\nOne line\n- one\n- two\n\n"
    typed = f"Yes.\n17\n{texts}red fox\ndog\n\n\nMood: good\nwhy: so\n\n"
    printed = work(store, typed, "--json", tmp_path / "out.json")
    assert answered(store) == [
        ("Ann", "yes"),
        ("Ann", 17),
        ("Ann", "The first line\nand the second."),
        ("Ann", "One line"),
        ("Ann", ["one", "two"]),
        ("Ann", [[2, 9], [16, 19]]),
        ("Ann", []),
        ("Ann", {"mood": "good", "why": "so"}),
    ]
    assert printed.count("Counted.") == 8
    assert printed.count("End with an empty line.") == 5
    assert printed.endswith("Nothing waits for you.\nAnn: 8 answered, 0 skipped.\n")
    outcome = json.loads((tmp_path / "out.json").read_text())
    assert outcome == {"person": "Ann", "answered": 8, "beside": 0, "skipped": 0}


def test_what_does_not_fit_is_told_and_asked_for_again(store):
    add(store, [NumberSchema(high=20.0), ItemsSchema(min_items=2)])
    printed = work(store, "many\n\n21\n13\nonly one\n\n1. this\n2. that\n\n")
    assert answered(store) == [("Ann", 13), ("Ann", ["this", "that"])]
    assert printed.count("Not taken: ") == 4
    assert "Not taken: the answer must be a number, but is 'many'. Try again." in printed
    assert "must lie between None and 20.0, but is 21" in printed
    assert "at least 2 items, one a line, but has 1" in printed
    assert "Ann: 2 answered, 0 skipped." in printed


def test_commands_skip_help_and_quit_in_any_line(store):
    add(store, [YES_NO, TextSchema(), TextSchema(), NumberSchema()])
    printed = work(store, " /skip \nfirst line\n/help\n/etc is a folder\n\nhalf a text\n/skip\n/quit\n")
    assert answered(store) == [("Ann", "first line\n/etc is a folder")]
    assert printed.count("/skip: not this one") == 2  # at the beginning and when asked for
    assert printed.count("Skipped.") == 2
    assert "Ann: 1 answered, 2 skipped." in printed
    assert free_steps(store) == [0, 2, 3]
    printed = work(store, "7\n")
    assert ("Ann", 7) in answered(store)  # what was skipped is not shown again to who skipped it
    assert "Nothing waits for you." in printed
    assert free_steps(store) == [0, 2]
    assert "Bo: 2 answered" in work(store, "no\na text\n\n", person="Bo")


def test_what_was_skipped_is_shown_again_to_who_asks_for_it(store):
    add(store, [YES_NO, NumberSchema()])
    assert "Ann: 0 answered, 2 skipped." in work(store, "/skip\n/skip\n")
    assert "Bo: 0 answered, 1 skipped." in work(store, "/skip\n/quit\n", person="Bo")
    assert "Ann: 1 answered, 1 skipped." in work(store, "/skip\n7\n", "--skipped")
    assert answered(store) == [("Ann", 7)]
    assert "Nothing waits for you." in work(store, "yes\n")
    assert "Bo: 0 answered" in work(store, "yes\n", person="Bo")
    assert "Ann: 1 answered" in work(store, "yes\n", "--skipped")


@pytest.mark.parametrize(
    ("typed", "values", "is_unfinished"),
    [
        ("", [], False),
        ("yes", ["yes"], False),
        ("no\nhalf a text\n", ["no"], True),
        ("no\r\nok\r\n\r\n", ["no", "ok"], False),
    ],
)
def test_the_end_of_input_gives_the_ticket_back(store, typed, values, is_unfinished):
    add(store, [YES_NO, TextSchema(), NumberSchema()])
    printed = work(store, typed)
    assert [value for _, value in answered(store)] == values
    with Journal(store) as journal:
        assert [found[0].text.strip("\n") for found in journal.answers("run").values()] == values
    assert ("Not submitted, because no empty line ended it." in printed) == is_unfinished
    assert free_steps(store) == list(range(len(values), 3))


def test_garbage_bytes_end_in_text_that_can_be_stored(store):
    add(store, [TextSchema(), TextSchema(), NumberSchema()])
    printed = work(
        store, b"\xff\xfe\x00bad \xed\xa0\x80 bytes\x1b[31m\n\n\xf0\x9f\x98\x80 [red]ok[/red]\n\nx\x00\x1b\n7\n"
    )
    first, second, third = (value for _, value in answered(store))
    assert first.startswith("��bad ")
    assert first.endswith("bytes[31m")
    assert (second, third) == ("😀 [red]ok[/red]", 7)
    assert_harmless(printed)
    with Journal(store) as journal:
        for found in journal.answers("run").values():
            assert_harmless(found[0].text)


def assert_harmless(printed):
    wrong = {one for one in printed if unicodedata.category(one) in ("Cc", "Cs") and one != "\n"}
    assert wrong == set()


def test_markup_is_shown_as_text_and_control_characters_not_at_all(store):
    with Journal(store) as journal:
        journal.begin("[blue]odd\x1b[5m", {"text": "two"})
    add(
        store,
        [FieldsSchema(names=("[b]x[/b]\x1b[1m",))],
        run="[blue]odd\x1b[5m",
        name="a\x1b[3m[i]sk[i]",
        role="\x07[u]role",
        instructions=f"Do {HOSTILE}",
        inputs={f"key {HOSTILE}": f"value {HOSTILE}", "list": [f"item {HOSTILE}", ":smile:"]},
    )
    printed = work(store, "wrong \x1b[31m[red]\n\n")
    assert_harmless(printed)
    unwrapped = " ".join(printed.replace("│", " ").split())
    for part in ("Do ", "key ", "value ", "1. item "):
        assert part + SHOWN in unwrapped
    for part in ("2. :smile:", "[i]sk[i] ([u]role)", "[blue]odd[5m", "[b]x[/b]"):
        assert part in printed


def test_a_pseudo_terminal_shows_styles_but_none_of_the_texts_own(store):
    add(store, [YES_NO, TextSchema()], instructions=f"Do {HOSTILE}")
    with Terminal(store, "Ann") as terminal:
        terminal.wait_for("> ")
        terminal.type("perhaps\r")
        terminal.wait_for("Not taken")
        terminal.type("yes\r")
        terminal.wait_for("Counted.")
        terminal.type("two\r")
        terminal.type("lines\r\r")
        terminal.wait_for("Nothing waits for you now")
        terminal.type("no answer to anything\r")
        add(store, [YES_NO] * 3)  # two of these steps are there already
        terminal.wait_for("Number 2.")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.ends() == 0
    assert answered(store) == [("Ann", "yes"), ("Ann", "two\nlines")]
    assert free_steps(store) == [2]
    assert "\x1b[" in terminal.shown  # a terminal it is
    for sequence in ("\x1b[2J", "\x1b]0;", "\x9b"):
        assert sequence not in terminal.shown
    assert "[bold red]loud[/bold red]" in terminal.shown


def test_ctrl_c_gives_the_ticket_back(store):
    add(store, [YES_NO, YES_NO])
    with Terminal(store, "Ann") as terminal:
        terminal.wait_for("> ")
        terminal.type("yes\r")
        terminal.wait_for("Counted.")
        terminal.wait_for("Number 1.")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ends() == main.INTERRUPTED
    assert "Ann: 1 answered, 0 skipped." in terminal.shown
    assert "the sub-task on the screen is free again" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert free_steps(store) == [1]


class Terminal:
    """The command at a pseudo-terminal; `shown` is all that it wrote there."""

    def __init__(self, store, person):
        self._primary, secondary = pty.openpty()
        words = [sys.executable, "-m", "hierrouter_jax.cli.main", "crowd", "work", "--store", store, "--as", person]
        environment = command_environment(store.parent / "cache") | {"TERM": "xterm", "COLUMNS": "120"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            words, stdin=secondary, stdout=secondary, stderr=secondary, env=environment, start_new_session=True
        )
        os.close(secondary)
        self.shown, self._place = "", 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._primary)

    def type(self, text):
        os.write(self._primary, text.encode())

    def wait_for(self, text):
        """Wait until a text is shown that was not waited for before."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.shown.find(text, self._place) < 0:
            assert time.monotonic() < deadline_s, self.shown
            assert self._read(), self.shown
        self._place = self.shown.find(text, self._place) + len(text)

    def ends(self):
        deadline_s = time.monotonic() + PATIENCE_S
        while self._read():
            assert time.monotonic() < deadline_s, self.shown
        return self.process.wait(PATIENCE_S)

    def _read(self):
        if not select.select([self._primary], [], [], 1.0)[0]:
            return True
        try:
            part = os.read(self._primary, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self.shown += part.decode("utf-8", "surrogateescape")
        return bool(part)


@pytest.mark.parametrize(
    "name", ["", "  ", "ann#0", "a/b", "ann & bo", "a\x1b[2Jb", "a\nb", "a\tb", "half\ud800", "a\u2028b"]
)
def test_names_that_could_be_somebody_else_s_are_refused(name):
    with pytest.raises(ConfigError, match="A name must hold text, and no #, /, & or control character"):
        checked_name(name)


def test_names_are_kept_in_one_form():
    assert checked_name(" Ann Lee ") == "Ann Lee"
    assert checked_name("Rene\u0301") == checked_name("Ren\u00e9") == "Ren\u00e9"


def test_bad_input_ends_with_code_2_and_a_message(store, tmp_path, capsys):
    add(store, [YES_NO])
    work(store, "yes\n", person="ann#0", code=2)
    assert "but has '#'" in capsys.readouterr().err
    work(tmp_path / "none.sqlite", "yes\n", code=2)
    assert "There is no store at" in capsys.readouterr().err
    work(store, "yes\n", "--run", "other", code=2)
    assert "no run 'other'" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("not a database\n" * 99)
    work(tmp_path / "notes.txt", "yes\n", code=2)
    assert not (tmp_path / "none.sqlite").exists()
    assert answered(store) == []


def test_runs_and_roles_narrow_the_choice(store):
    with Journal(store) as journal:
        journal.begin("other", {"text": "two"})
    add(store, [YES_NO], role="find")
    add(store, [NumberSchema()], run="other", role="fix")
    work(store, "7\n", "--roles", "fix", "verify")
    assert answered(store, "other") == [("Ann", 7)]
    assert "0 answered" in work(store, "no\n", "--run", "other", person="Bo")
    assert "0 answered" in work(store, "no\n", "--roles", "verify", person="Bo")
    assert "1 answered" in work(store, "no\n", "--run", "run", "--roles", "find", person="Bo")


def test_a_barred_person_is_shown_nothing(store):
    add(store, [YES_NO], barred=("Ann",))
    assert "Nothing waits for you." in work(store, "yes\n")
    assert "1 answered" in work(store, "yes\n", person="Bo")


def test_an_answer_after_the_lease_ended_counts_and_that_is_told(store):
    add(store, [YES_NO], lease_s=0.0)
    assert "Your time was over, but nobody was faster: counted." in work(store, "yes\n")
    assert answered(store) == [("Ann", "yes")]


# -- sessions whose lines come when the test says so --


class Said:
    """Lines in memory; a function among them is called when its turn comes, before the line after it."""

    def __init__(self, *lines):
        self._lines = list(lines)

    def read(self, prompt):
        while self._lines and callable(self._lines[0]):
            self._lines.pop(0)()
        return self._lines.pop(0) if self._lines else None

    def ends_within(self, seconds, *, words):
        raise AssertionError("nobody should wait")


def session_on(store, *lines, **options):
    """What a session on these lines printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, Journal(store) as journal:
        session = Session(journal, "Ann", Said(*lines), **options)
        session.go_on(waits=False)
        session.end()
    return printed.getvalue()


def test_who_was_slower_is_told_and_kept(store):
    add(store, [NumberSchema(), NumberSchema()], lease_s=0.0)

    def bo_is_faster():
        with Journal(store) as journal:
            assert journal.submit(journal.take_ticket("Bo"), "Bo", text="5", value=5)

    printed = session_on(store, bo_is_faster, "7", "11")
    assert "Somebody was faster: your answer is kept beside theirs." in printed
    assert "Ann: 2 answered (1 beside faster ones), 0 skipped." in printed
    assert answered(store) == [("Bo", 5), ("Ann", 11)]
    with Journal(store) as journal:
        assert [(place.step, who, value) for place, who, value in journal.extras("run")] == [("00:ask", "Ann", 7)]


def test_an_answer_beside_one_s_own_of_another_slot_is_told(store):
    add(store, [NumberSchema()], lease_s=0.0, redundancy=2)

    def ann_answers_the_other_slot():
        with Journal(store) as journal:
            bo, ann = journal.take_ticket("Bo"), journal.open_tickets()[1]
            journal.give_back(bo, "Bo")
            assert journal.submit(ann, "Ann", text="5", value=5)

    printed = session_on(store, ann_answers_the_other_slot, "7")
    assert "You have answered this for another slot" in printed
    with Journal(store) as journal:
        assert [(place.slot, who, value) for place, who, value in journal.extras("run")] == [(0, "Ann", 7)]
        assert [ticket.place.slot for ticket in journal.open_tickets()] == [0]
        assert journal.take_ticket("Bo").place.slot == 0


@pytest.mark.parametrize("gives_up", [False, True])
def test_a_full_disk_loses_no_answer(store, monkeypatch, gives_up):
    add(store, [TextSchema()])
    errors, submit = [StorageError("The disk is full.")] * (9 if gives_up else 2), Journal.submit

    def failing(*arguments, **options):
        if errors:
            raise errors.pop()
        return submit(*arguments, **options)

    monkeypatch.setattr(Journal, "submit", failing)
    if gives_up:
        with contextlib.redirect_stdout(io.StringIO()) as printed, Journal(store) as journal:
            session = Session(journal, "Ann", Said("my work", "", ""))
            with pytest.raises(StorageError):
                session.go_on(waits=False)
            session.end()
        assert "Not stored: my work" in printed.getvalue()
        assert free_steps(store) == [0]
        return
    printed = session_on(store, "my work", "", "", "")
    assert printed.count("Your answer is not lost: press Enter to try again.") == 2
    assert answered(store) == [("Ann", "my work")]


def test_an_empty_queue_is_looked_at_again_and_lines_wait_for_their_ticket(store):
    """Answers that come early through a pipe are kept; the end, or /quit, is heard while nothing is there."""
    reading, writing = os.pipe()
    with contextlib.redirect_stdout(io.StringIO()) as printed, Journal(store) as journal, os.fdopen(reading) as stream:
        session = Session(journal, "Ann", PipedLines(stream), poll_s=0.01)
        os.write(writing, b"7\n1")

        def others():
            time.sleep(0.1)
            add(store, [NumberSchema()])
            while not answered(store):
                time.sleep(0.01)
            os.write(writing, b"1\n")
            add(store, [NumberSchema()] * 2)
            while len(answered(store)) < 2:
                time.sleep(0.01)
            os.close(writing)

        thread = threading.Thread(target=others)
        thread.start()
        session.go_on(waits=True)
        session.end()
        thread.join()
    assert answered(store) == [("Ann", 7), ("Ann", 11)]
    assert printed.getvalue().count("looking again") >= 1
    assert "Ann: 2 answered" in printed.getvalue()
    assert "Ann: 0 answered" in work(store, "/quit\n", waits=True)
    assert "Ann: 0 answered" in work(store, "", waits=True)


# -- two at once --


def test_two_terminals_on_one_queue_never_answer_a_slot_twice(store):
    """Processes of their own; of 17 steps half ask two people, and some answers are garbage first."""
    for first, redundancy in ((0, 2), (1, 1)):
        add(store, [NumberSchema()] * 17, run=f"run{first}", redundancy=redundancy)
    with Journal(store) as journal:
        num_slots = len(journal.open_tickets())
    assert num_slots == 3 * 17
    people = {"Ann": 1000, "Bo": 2000}
    processes = {}
    for person in people:
        words = [
            "crowd",
            "work",
            "--store",
            store,
            "--as",
            person,
            "--no-wait",
            "--json",
            store.parent / f"{person}.json",
        ]
        processes[person] = subprocess.Popen(
            [sys.executable, "-m", "hierrouter_jax.cli.main", *map(str, words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=command_environment(store.parent / "cache"),
        )  # fmt: skip
    for number in range(1, num_slots + 1):  # typed by turns, so that both are at work for as long as it takes
        for person, base in people.items():
            words = "what?\n" if number % 5 == 0 else ""
            with contextlib.suppress(BrokenPipeError):  # nothing is left for this one
                processes[person].stdin.write(f"{words}{base + number}\n")
                processes[person].stdin.flush()
        time.sleep(0.005)
    printed = {person: process.communicate(timeout=PATIENCE_S)[0] for person, process in processes.items()}
    assert [process.returncode for process in processes.values()] == [0, 0], printed
    with Journal(store) as journal:
        assert journal.open_tickets() == []
        counted = {(run, *place): found for run in ("run0", "run1") for place, found in journal.answers(run).items()}
        extras = [(who, value) for run in ("run0", "run1") for _, who, value in journal.extras(run)]
    assert len(counted) == num_slots
    assert all(len(found) == 1 for found in counted.values())
    of_steps = Counter((run, step, found[0].contributor) for (run, step, _), found in counted.items())
    assert set(of_steps.values()) == {1}
    kept = sorted([(found[0].contributor, found[0].value) for found in counted.values()] + extras)
    expected = []
    for person, base in people.items():
        tally = json.loads((store.parent / f"{person}.json").read_text())
        assert tally["beside"] == sum(who == person for who, _ in extras) == 0  # leases were long enough
        assert f"{person}: {tally['answered']} answered" in printed[person]
        expected += [(person, base + number) for number in range(1, tally["answered"] + 1)]
    assert kept == expected
