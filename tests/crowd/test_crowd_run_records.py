"""Records of runs: options, names, JSON; every algorithm of the registry with its defaults, on inputs good and bad."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.crew import DEFAULT_CREW, CrewConfig, PeopleConfig
from hierrouter_jax.crowd.prompts import CROWD_PROMPT_VERSION
from hierrouter_jax.crowd.registry import ALGORITHMS, ONE_PROMPT_ROLE, algorithm
from hierrouter_jax.crowd.run_records import RunRecord, config_of, record_from_json
from hierrouter_jax.crowd.subtasks import SubTask, Together

INPUTS = {
    "iterative": "Describe the picture.",
    "find_fix_verify": "Our neighbours has a dog.\n\nIt bark at the postman.",
    "map_reduce": "The history of bread",
    "price_divide_solve": "Plan a birthday party.",
    "humor": "Mayor opens a bridge that nobody ordered",
    "arithmetic": "17 5 11",
    "sorting": "pear\nfig\nkiwi",
    "transcription": "Tihs is a txet that was scnaned badly, wrod for word.",
    "justify_reconsider": "Is a tomato a fruit?",
}
EVERY = sorted(ALGORITHMS)


def record(name="iterative", options=(), **fields):
    found = algorithm(name)
    return RunRecord(
        algorithm=found,
        config=config_of(found, options),
        **({"text": INPUTS[name], "crew": DEFAULT_CREW} | fields),
    )


def begun(pipeline, value=None):
    """The sub-tasks that a pipeline asks first, side by side; and what it returns, in a list, where it asks nothing."""
    try:
        step = pipeline.send(value)
    except StopIteration as stop:
        return [], [stop.value]
    if isinstance(step, SubTask):
        return [step], []
    assert isinstance(step, Together)
    branches = [begun(branch) for branch in step.branches]
    if all(ended for _, ended in branches):
        return begun(pipeline, [result for _, (result,) in branches])
    return [subtask for subtasks, _ in branches for subtask in subtasks], []


def asked_first(one):
    subtasks, _ = begun(one.pipeline())
    assert subtasks
    return subtasks


# -- every algorithm --


def test_every_algorithm_has_an_input_here():
    assert sorted(INPUTS) == EVERY


@pytest.mark.parametrize("name", EVERY)
def test_every_algorithm_begins_with_what_its_roles_can_do(name):
    one = record(name)
    subtasks = asked_first(one)
    assert {subtask.role for subtask in subtasks} <= set(one.roles) == set(one.algorithm.roles_of(one.config))
    assert one.roles[: len(one.algorithm.roles)] == one.algorithm.roles
    for subtask in subtasks:
        assert subtask.instructions.strip()
        assert SubTask.from_json(json.loads(json.dumps(subtask.to_json()))) == subtask
    again = asked_first(record(name))
    assert [subtask.digest() for subtask in again] == [subtask.digest() for subtask in subtasks]


@pytest.mark.parametrize("name", EVERY)
def test_every_baseline_is_one_prompt(name):
    one = record(name, is_one_prompt=True)
    assert one.roles == (ONE_PROMPT_ROLE,)
    subtask = next(one.pipeline())
    assert isinstance(subtask, SubTask)
    assert (subtask.name, subtask.role, subtask.redundancy) == ("one-prompt", ONE_PROMPT_ROLE, 1)
    shown = " ".join(map(str, subtask.inputs.values()))
    words = set(re.findall(r"\w+", shown))
    assert set(re.findall(r"\w+", one.text)) <= words


@pytest.mark.parametrize("is_one_prompt", [False, True])
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold text, but is empty"),
        (" \r\n\t", "must hold text, but is empty"),
        ("\u200b\ufeff", "must hold text, but is empty"),
        ("1 2\n\x1b[2J3", r"must hold no control characters, but has '\\x1b' at character 4; remove it"),
        ("1 2\n\x003", "must hold no control characters"),
        ("1 2\n\ud8003", "must be valid Unicode, but holds half of a character"),
    ],
)
def test_inputs_that_are_no_text_are_refused_before_anybody_is_asked(name, is_one_prompt, text, message):
    with pytest.raises(DataError, match=message):
        next(record(name, text=text, is_one_prompt=is_one_prompt).pipeline())


@pytest.mark.parametrize("is_one_prompt", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_ends_of_lines_make_no_difference(name, is_one_prompt):
    def asked(text):
        return asked_first(record(name, text=text, is_one_prompt=is_one_prompt))

    text = f"{INPUTS[name]}\n{INPUTS[name].upper()}"
    assert asked(text.replace("\n", "\r\n")) == asked(text.replace("\n", "\r")) == asked(text)


# -- options --


def text_of(value):
    return ",".join(value) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", EVERY)
def test_every_option_can_be_set_by_the_text_of_its_default(name):
    found = algorithm(name)
    default = found.config()
    options = [f"{field.name}={text_of(getattr(default, field.name))}" for field in dataclasses.fields(default)]
    assert config_of(found, options) == default == config_of(found, [])


@pytest.mark.parametrize("name", EVERY)
def test_a_value_of_another_type_is_refused_for_every_option_that_is_no_text(name):
    found = algorithm(name)
    default = found.config()
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        if isinstance(value, bool | int | float):
            for wrong in ("", "many", "nan", "inf", "1e999"):
                with pytest.raises(ConfigError, match=re.escape(f"{field.name}={wrong}'") + " must have a value like"):
                    config_of(found, [f"{field.name}={wrong}"])
        if isinstance(value, int) and not isinstance(value, bool):
            with pytest.raises(ConfigError, match=f"{field.name}=2.5"):
                config_of(found, [f"{field.name}=2.5"])


def test_options_are_read_by_type():
    config = config_of(algorithm("iterative"), ["num_votes=7", "create=Write = begin, now.", "variant=parallel"])
    assert (config.num_votes, config.create, config.variant) == (7, "Write = begin, now.", "parallel")
    config = config_of(algorithm("price_divide_solve"), ["edits_plan=TRUE", "shows_whole=false"])
    assert (config.edits_plan, config.shows_whole) == (True, False)
    assert config_of(algorithm("find_fix_verify"), ["min_agreement=0.35"]).min_agreement == 0.35
    assert config_of(algorithm("find_fix_verify"), ["min_agreement=1"]).min_agreement == 1.0
    assert config_of(algorithm("justify_reconsider"), ["options=a, b ,c"]).options == ("a", "b", "c")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("num_votes", "An option of iterative is NAME=VALUE with one of variant, num_creations.*but is 'num_votes'"),
        ("=3", "NAME=VALUE with one of variant"),
        ("num_voters=3", "with one of variant, num_creations, num_votes.*but is 'num_voters=3'"),
        ("num_votes=three", "'num_votes=three' must have a value like 5"),
        ("num_votes=0", "num_votes must be >= 1, but is 0"),
        ("variant=serial", 'options of iterative: wrong value type for field "variant"'),
    ],
)
def test_what_is_wrong_with_an_option_is_named(option, message):
    with pytest.raises(ConfigError, match=message):
        config_of(algorithm("iterative"), [option])


def test_options_of_no_or_too_few_values():
    for value, shown in (("", "()"), (" ", "()"), ("yes", "('yes',)"), ("yes,yes", "('yes', 'yes')")):
        with pytest.raises(ConfigError, match=re.escape(f"different options, but has {shown}")):
            config_of(algorithm("justify_reconsider"), [f"options={value}"])
    with pytest.raises(ConfigError, match="edits_plan=perhaps' must have a value like False"):
        config_of(algorithm("price_divide_solve"), ["edits_plan=perhaps"])


def test_an_algorithm_that_does_not_exist():
    with pytest.raises(ConfigError, match=f"is one of {', '.join(ALGORITHMS)}, but 'magic' was asked for"):
        algorithm("magic")


def test_roles_that_an_option_adds():
    assert "editor" not in record("price_divide_solve").roles
    assert record("price_divide_solve", ["edits_plan=true"]).roles[-1] == "editor"


# -- records --


@pytest.mark.parametrize("is_one_prompt", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_a_record_comes_back_from_json(name, is_one_prompt):
    one = record(name, is_one_prompt=is_one_prompt)
    again = record_from_json(json.loads(json.dumps(one.to_json())))
    assert again == one
    assert again.name == one.name
    assert type(again.config) is type(one.config)
    assert asked_first(again) == asked_first(one)


def test_a_run_s_name_depends_on_everything_it_holds():
    people = CrewConfig(workers={"p": PeopleConfig()}, roles={"*": "p"})
    others = [
        record(),
        record(options=["num_votes=3"]),
        record(options=["create=Write."]),
        record(text="Another goal."),
        record(crew=people),
        record(crew=dataclasses.replace(people, max_attempts=7)),
        record(is_one_prompt=True),
        record("map_reduce", text=INPUTS["iterative"]),
    ]
    names = [one.name for one in others]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(f"{one.algorithm.name}-[0-9a-f]{{10}}", one.name) for one in others)
    assert record().name == record(options=["num_votes=5"]).name
    assert record(text="a goal \ud800").name != record(text="a goal").name  # refused later, but named


def test_a_record_of_other_prompts_or_another_kind_is_refused():
    data = record().to_json()
    assert data["prompts"] == CROWD_PROMPT_VERSION
    for prompts in (CROWD_PROMPT_VERSION + 1, None):
        with pytest.raises(ConfigError, match=f"begun with crowd prompts {prompts}, but this version .* has"):
            record_from_json(data | {"prompts": prompts})
    with pytest.raises(ConfigError, match="begun with crowd prompts None"):
        record_from_json({"text": "of something else"})
    with pytest.raises(ConfigError, match="'magic' was asked for"):
        record_from_json(data | {"algorithm": "magic"})
    with pytest.raises(ConfigError, match=r"options of iterative does not fit:(?s:.*)unknown key 'num_voters'"):
        record_from_json(data | {"config": data["config"] | {"num_voters": 3}})
    with pytest.raises(ConfigError, match="num_votes must be >= 1"):
        record_from_json(data | {"config": data["config"] | {"num_votes": 0}})
    with pytest.raises(ConfigError, match="crew must have at least one worker"):
        record_from_json(data | {"crew": {}})


@pytest.mark.parametrize("name", EVERY)
def test_every_default_is_json_that_says_the_same(name):
    config = algorithm(name).config()
    assert json.loads(json.dumps(to_json_dict(config), allow_nan=False)) == to_json_dict(config)
