"""Examples that workers are shown: each fits its own sub-task, is right, and is none of the inputs of experiments."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import typing
from pathlib import Path

import pytest
from crowd_runs import run_scripted, scripted

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.algorithms import examples as written
from hierrouter_jax.crowd.algorithms.examples import MAX_EXAMPLES, fitting
from hierrouter_jax.crowd.output_schemas import (
    ChoiceSchema,
    FieldsSchema,
    ItemsSchema,
    NumberSchema,
    SpansSchema,
    TextSchema,
)
from hierrouter_jax.crowd.registry import ALGORITHMS, algorithm
from hierrouter_jax.crowd.subtasks import Example, SubTask

INPUTS = Path(__file__).parents[2] / "experiments" / "crowd" / "inputs"
TEXTS = {
    "iterative": "A motto for a bakery.",
    "find_fix_verify": "We saw teh sea on a day in May, and we liked it.",
    "map_reduce": "the walnut tree",
    "price_divide_solve": "Plan a fair.",
    "humor": "Town hires goat to mow its lawns",
    "arithmetic": "13 29 31 7 2",
    "sorting": "pear\nfig\nkiwi\nlime\nplum",
    "transcription": "Tne old brigde over thc river wos closed las spring becuse two of its piers had sunk in it",
    "justify_reconsider": "Is a whale a fish?",
}
LINES = {  # an item of the form that a sub-task wants
    "aspects": "thing: part {}",
    "associations": "object: part {}",
    "reactions": "laughter because of part {}",
    "map": "Part {} grows (source: Orchard Book)",
}
# By algorithm, mode and sub-task: how many examples there are; none of any other sub-task.
SHOWN = {
    ("find_fix_verify", "proofread"): {"find": 4, "fix": 4, "one-prompt": 4},
    ("find_fix_verify", "shorten"): {"find": 3, "fix": 3, "one-prompt": 2},
    ("map_reduce", ""): {"partition": 2, "map": 2},
    ("price_divide_solve", ""): {"divide": 2},
    ("humor", ""): dict.fromkeys(
        ("aspects", "reactions", "associations", "belief", "violation", "write", "one-prompt"), 2
    ),
    ("arithmetic", ""): {"add": 4, "one-prompt": 4},
    ("sorting", ""): {"one-prompt": 2},
    ("transcription", ""): {"transcribe": 4, "one-prompt": 2},
}
WITH_EXAMPLES = list(dict.fromkeys(name for name, _ in SHOWN))


def usable():
    """A worker whose every answer is one that its schema takes; votes and prices disagree where that leads on."""
    numbers = itertools.count()

    def respond(ask):
        schema = ask.subtask.schema
        match schema:
            case ChoiceSchema():
                is_last = ask.subtask.name in ("price", "has-belief") or (
                    ask.subtask.name == "assess" and ask.slot == 1
                )
                return schema.options[-1 if is_last else 0]
            case NumberSchema():
                return "7"
            case TextSchema():
                return str(next(numbers))
            case ItemsSchema():
                form = LINES.get(ask.subtask.name, "part {}")
                return "\n".join(form.format(number) for number in range(max(schema.min_items, 2)))
            case SpansSchema():
                return "teh sea"
            case FieldsSchema():
                return "\n".join(f"{name}: {schema.options.get(name, ('some',))[0]}" for name in schema.names)

    return scripted(respond)


def variants_of(config):
    """The options of every variant: all values of those that are literals or true or false."""
    hints = typing.get_type_hints(config)
    choices = {name: (False, True) for name, hint in hints.items() if hint is bool}
    choices |= {
        name: typing.get_args(hint) for name, hint in hints.items() if typing.get_origin(hint) is typing.Literal
    }
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


VARIANTS = [
    pytest.param(name, options, id="-".join([name, *map(str, options.values())]))
    for name, found in ALGORITHMS.items()
    for options in variants_of(found.config)
]


def asked_of(name, folder, **options):
    """Every sub-task that an algorithm and its one prompt ask, each once, in order."""
    found = algorithm(name)
    config = found.config(**options)
    subtasks = {}
    for side in (found.make, found.one_prompt):
        worker = usable()
        outcome = run_scripted(side(TEXTS[name], config), worker, folder, run=side.__name__)
        assert outcome.status == "done", outcome.reason
        subtasks |= {ask.subtask.digest(): ask.subtask for ask in worker.asked}
    return list(subtasks.values())


def own_schema(subtask, example, config):
    """The schema as it would be if the example were asked: limits that depend on the inputs are those of its own."""
    schema, shown = subtask.schema, example.inputs
    match schema:
        case SpansSchema():
            return dataclasses.replace(schema, text=shown["paragraph"])
        case ItemsSchema() if "items" in shown:
            return dataclasses.replace(schema, max_items=len(shown["items"]), min_items=len(shown["items"]))
        case TextSchema() if given := next((shown[key] for key in ("passage", "piece", "text") if key in shown), None):
            changes = {"max_chars": len(given) + config.max_growth_chars}
            changes |= {name: given for name in ("differs_from", "shorter_than") if getattr(schema, name) is not None}
            return dataclasses.replace(schema, **changes)
        case TextSchema():
            return dataclasses.replace(schema, unlike=())
    return schema


def as_written(schema, value):
    """The text of a value, as a worker writes it who follows the format to the letter."""
    match schema:
        case ItemsSchema():
            return "\n".join(value)
        case SpansSchema():
            return "\n".join(schema.text[start:end] for start, end in value)
        case FieldsSchema():
            return "\n".join(f"{name}: {one}" for name, one in value.items())
    return str(value)


def is_subsequence(names, others):
    rest = iter(others)
    return all(name in rest for name in names)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_every_example_fits_the_sub_task_it_stands_in(name, options, tmp_path):
    config = algorithm(name).config(**options)
    subtasks = asked_of(name, tmp_path, **options)
    counts = {subtask.name: len(subtask.examples) for subtask in subtasks if subtask.examples}
    wanted = SHOWN.get((name, options.get("mode", "")), {})
    assert counts == {key: num for key, num in wanted.items() if key in {subtask.name for subtask in subtasks}}
    for subtask in subtasks:
        for example in subtask.examples:
            schema = own_schema(subtask, example, config)
            assert as_written(schema, schema.parse(example.answer)) == example.answer


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_inputs_of_an_example_are_those_of_its_sub_task(name, tmp_path):
    """Named alike, in the same order, of the same kind; some may be missing, as text before the first passage is."""
    for mode in ("shorten", "proofread") if name == "find_fix_verify" else ("",):
        subtasks = asked_of(name, tmp_path / mode, **({"mode": mode} if mode else {}))
        for subtask in subtasks:
            real = [one.inputs_of(0) for one in subtasks if one.name == subtask.name]
            for example in subtask.examples:
                assert any(is_subsequence(example.inputs, shown) for shown in real)
                kinds = {key: type(value) for shown in real for key, value in shown.items()}
                assert all(type(value) is kinds[key] for key, value in example.inputs.items())


def test_every_sub_task_with_examples_is_met(tmp_path):
    met = set()
    for name, found in ALGORITHMS.items():
        for number, options in enumerate(variants_of(found.config)):
            asked = asked_of(name, tmp_path / f"{name}{number}", **options)
            met |= {(name, options.get("mode", ""), one.name) for one in asked if one.examples}
    assert met == {(*key, name) for key, counts in SHOWN.items() for name in counts}
    shown = [*written.HUMOR.values()] + [own for own in vars(written).values() if isinstance(own, tuple)]
    num_shown = sum(len(own) for own in shown if all(isinstance(one, Example) for one in own))
    assert num_shown == sum(sum(counts.values()) for counts in SHOWN.values())


# -- right answers --


def test_sums_and_lists_are_right():
    for example in (*written.ADD, *written.ADD_ALL):
        assert int(example.answer) == sum(map(int, example.inputs["sum"].split(" + ")))
    for example in written.SORT_ALL:
        assert example.answer.split("\n") == sorted(example.inputs["items"]) != example.inputs["items"]


def test_pieces_are_restored_word_for_word():
    for example in (*written.TRANSCRIBE, *written.TRANSCRIBE_ALL):
        garbled = str(example.inputs.get("piece", example.inputs.get("text")))
        assert len(garbled.split()) == len(example.answer.split())
        assert not set(re.findall(r"\w*\d\w*|\w+!\w+", example.answer))
        assert garbled != example.answer


def test_one_edit_after_the_other_makes_the_corrected_text():
    wrong = [example.inputs["paragraph"] for example in written.FIND_WRONG]
    assert [example.inputs["text"] for example in written.PROOFREAD_ALL] == wrong
    for fix, whole in zip(written.FIX_WRONG, written.PROOFREAD_ALL, strict=True):
        assert " ".join([fix.inputs["text before"], fix.answer, fix.inputs["text after"]]) == whole.answer
    found = [passage for example in written.FIND_WRONG for passage in example.answer.split("\n")]
    assert {fix.inputs["passage"] for fix in written.FIX_WRONG} <= set(found)


def test_shortened_texts_keep_the_length_that_is_wanted():
    for example in written.SHORTEN_ALL:
        (limit,) = re.findall(r"at most (\d+) characters", example.inputs["length wanted"])
        assert len(example.answer) <= int(limit) < len(example.inputs["text"])


@pytest.mark.parametrize("place", [0, 1])
def test_a_headline_goes_through_its_steps(place):
    """What each step of the example answers is what the next one is shown."""
    steps = list(written.HUMOR)
    for step, following in itertools.pairwise(steps):
        example, later = written.HUMOR[step][place], written.HUMOR[following][place]
        (added,) = set(later.inputs) - set(example.inputs)
        lines = example.answer.split("\n")
        if lines[0].startswith("kind: "):
            lines = [f"{lines[0].removeprefix('kind: ')}: {lines[1].removeprefix(f'{step}: ')}"]
        assert (added, later.inputs[added]) == (step, lines)
    assert list(later.inputs) == ["headline", *steps[:-1]]
    joke = written.ONE_JOKE[place]
    assert (joke.answer, joke.inputs) == (written.HUMOR["write"][place].answer, written.HUMOR["aspects"][place].inputs)


def words(text):
    return " ".join(re.findall(r"\w+", text.casefold()))


def test_no_example_is_an_input_of_the_experiments():
    files = sorted(INPUTS.glob("*.jsonl"))
    assert len(files) >= 11
    rows = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    texts = {words(text) for row in rows for text in (row["text"], *row["text"].split("\n"))}
    texts |= {words(row["gold"]["text"]) for row in rows if "text" in row.get("gold", {})}
    groups = [*written.HUMOR.values(), *(own for own in vars(written).values() if isinstance(own, tuple))]
    for example in (one for group in groups for one in group):
        shown = [item for value in example.inputs.values() for item in ([value] if isinstance(value, str) else value)]
        assert not {words(one) for one in (*shown, example.answer, *example.answer.split("\n"))} & texts


# -- how many --


@pytest.mark.parametrize("name", WITH_EXAMPLES)
@pytest.mark.parametrize("num", [0, 1, 3, 97])
def test_no_more_examples_than_wanted(name, num, tmp_path):
    subtasks = asked_of(name, tmp_path, num_examples=num)
    wanted = SHOWN[name, "proofread" if name == "find_fix_verify" else ""]
    for subtask in subtasks:
        assert len(subtask.examples) == min(num, wanted.get(subtask.name, 0))
    everything = {one.name: one.examples for one in asked_of(name, tmp_path / "all")}
    assert all(one.examples == everything[one.name][:num] for one in subtasks)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_a_negative_number_of_examples_is_refused(name):
    config = algorithm(name).config
    assert config().num_examples == MAX_EXAMPLES
    assert config(num_examples=0).num_examples == 0
    with pytest.raises(ConfigError, match="num_examples must be >= 0, but is -1"):
        config(num_examples=-1)


def test_the_others_have_no_examples_to_show():
    others = set(ALGORITHMS) - set(WITH_EXAMPLES)
    assert others == {"iterative", "justify_reconsider"}
    assert not any(hasattr(algorithm(name).config(), "num_examples") for name in others)


# -- what does not fit is left out --


def test_fitting_takes_the_first_that_the_schema_takes_whole():
    one, two, four = (Example(inputs={"n": str(num)}, answer="\n".join("abcd"[:num])) for num in (1, 2, 4))
    assert fitting([one, two, four], ItemsSchema(), num=2) == (one, two)
    assert fitting([one, two, four], ItemsSchema(min_items=2), num=2) == (two,)  # of the first two
    assert fitting([one, two, four], ItemsSchema(max_items=3), num=3) == (
        one,
        two,
        dataclasses.replace(four, answer="a\nb\nc"),
    )
    assert fitting([one, two, four], ItemsSchema(max_item_chars=1, must_match="[^b]", form="no b"), num=3) == (one,)
    assert fitting([one, two, four], ItemsSchema(), num=0) == ()
    assert fitting([one], ChoiceSchema(options=("x", "y")), num=1) == ()
    assert fitting([one], TextSchema(differs_from="a"), num=1) == ()
    assert fitting([one], TextSchema(differs_from="b"), num=1) == (one,)


@pytest.mark.parametrize(
    ("name", "options", "lost"),
    [
        ("find_fix_verify", {"max_spans": 1}, {"find": 1}),
        ("find_fix_verify", {"max_growth_chars": 0}, {"fix": 2, "one-prompt": 3}),
        ("find_fix_verify", {"max_growth_chars": 1}, {"one-prompt": 1}),
        ("find_fix_verify", {"max_spans": 1, "mode": "shorten"}, {"find": 2}),
        ("find_fix_verify", {"max_share": 0.35, "large_text_chars": 1, "mode": "shorten"}, {"find": 1}),
        ("map_reduce", {"min_headings": 5}, {"partition": 1}),  # one of the two has four
        ("map_reduce", {"min_headings": 6}, {"partition": 2}),
        ("map_reduce", {"min_headings": 1, "max_headings": 3}, {}),  # cut
        ("map_reduce", {"max_facts": 1}, {}),
        ("map_reduce", {"max_fact_chars": 60}, {"map": 2}),
        ("price_divide_solve", {"max_steps": 2}, {}),
        ("price_divide_solve", {"min_steps": 4}, {"divide": 2}),
        ("humor", {"max_items": 4}, {}),
        ("humor", {"max_item_chars": 50}, {"reactions": 1, "violation": 1}),
        ("humor", {"max_item_chars": 52}, {"reactions": 1}),
        ("humor", {"max_item_chars": 53}, {}),
        ("humor", {"max_chars": 83}, {"write": 2, "one-prompt": 2}),
        ("humor", {"max_chars": 84}, {"write": 1, "one-prompt": 1}),
        ("humor", {"max_chars": 95}, {}),
        ("humor", {"aspect_kinds": ("thing", "person")}, {"aspects": 2}),
        ("humor", {"association_kinds": ("object", "person")}, {"associations": 2}),
        ("humor", {"belief_kinds": ("motive", "habit")}, {"belief": 2}),
        ("humor", {"violation_kinds": ("angle", "irony")}, {"violation": 1}),
    ],
)
def test_limits_and_kinds_of_one_s_own_leave_out_what_they_refuse(name, options, lost, tmp_path):
    wanted = SHOWN[name, options.get("mode", "proofread") if name == "find_fix_verify" else ""]
    for subtask in asked_of(name, tmp_path, **options):
        assert len(subtask.examples) == wanted.get(subtask.name, 0) - lost.get(subtask.name, 0)
        if isinstance(subtask.schema, ItemsSchema):
            for example in subtask.examples:
                assert subtask.schema.parse(example.answer) == example.answer.split("\n")


def test_lists_of_another_criterion_are_shown_without_examples(tmp_path):
    for criterion in ("Which of the two is sweeter?", "which of the two comes first in alphabetical order?"):
        found = asked_of("sorting", tmp_path / str(len(criterion)), criterion=criterion)
        assert {one.name: one.examples for one in found} == {"compare": (), "one-prompt": ()}


# -- as JSON --

EXAMPLES = (
    Example(inputs={"b": "1", "a": ["2", "3"]}, answer="x\ny"),
    Example(inputs={}, answer="ü \U0001f30a"),
)


def task(*examples):
    return SubTask(name="n", role="r", instructions="?", schema=NumberSchema(), examples=examples)


def test_a_sub_task_comes_back_from_json_with_its_examples():
    for examples in ((), EXAMPLES[:1], EXAMPLES):
        again = SubTask.from_json(json.loads(json.dumps(task(*examples).to_json())))
        assert again == task(*examples)
        assert [list(one.inputs) for one in again.examples] == [list(one.inputs) for one in examples]
        assert again.digest() == task(*examples).digest()


def test_what_is_asked_is_another_thing_with_other_examples():
    first, second = EXAMPLES
    turned = dataclasses.replace(first, inputs=dict(reversed(first.inputs.items())))
    answered = dataclasses.replace(first, answer="x")
    several = [(), (first,), (second,), (first, second), (second, first), (turned,), (answered,)]
    assert len({task(*examples).digest() for examples in several}) == len(several)
