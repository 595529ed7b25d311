"""Crew files: what they hold, what is wrong with bad ones, which workers are opened for which roles."""

from __future__ import annotations

import json

import pytest
from crowd_runs import run_crew, scripted

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.crowd.crew import (
    DEFAULT_CREW,
    CrewConfig,
    EndpointConfig,
    MixConfig,
    PeopleConfig,
    PoolConfig,
    RouterConfig,
    crew_from_json,
    load_crew,
)
from hierrouter_jax.crowd.open_crew import Openers, open_crew
from hierrouter_jax.crowd.output_schemas import YES_NO
from hierrouter_jax.crowd.runner import Crew
from hierrouter_jax.crowd.subtasks import SubTask
from hierrouter_jax.crowd.workers.mix import Mix
from hierrouter_jax.crowd.workers.pool_worker import PoolWorker
from hierrouter_jax.crowd.workers.worker import People
from hierrouter_jax.llm.scripted_engine import ScriptedEngine, scripted_card
from hierrouter_jax.store.response_store import ResponseStore

FILE = """
max_attempts = 5

[workers.models]
kind = "pool"
models = ["small", "large"]
temperature = 1
personas = ["You are short.", "You are kind."]
bars_kin = true

[workers.others]
kind = "pool"
pool = "other.toml"

[workers.router]
kind = "router"
run_dir = "runs/quickstart"

[workers.server]
kind = "endpoint"
base_url = "http://localhost:8000/v1"
model = "served"

[workers.people]
kind = "people"
lease_s = 90
cost = 2.5

[workers.both]
kind = "mix"
members = ["models", "router"]
decider = "people"

[roles]
vote = "both"
write = "server"
"*" = "models"
"""


@pytest.fixture
def crew(tmp_path):
    path = tmp_path / "crew.toml"
    path.write_text(FILE)
    return load_crew(path)


def test_a_crew_file_says_who_does_what(crew):
    assert crew == CrewConfig(
        workers={
            "models": PoolConfig(
                models=("small", "large"),
                temperature=1.0,
                personas=("You are short.", "You are kind."),
                bars_kin=True,
            ),
            "others": PoolConfig(pool="other.toml"),
            "router": RouterConfig(run_dir="runs/quickstart"),
            "server": EndpointConfig(base_url="http://localhost:8000/v1", model="served"),
            "people": PeopleConfig(lease_s=90.0, cost=2.5),
            "both": MixConfig(members=("models", "router"), decider="people"),
        },
        roles={"vote": "both", "write": "server", "*": "models"},
        max_attempts=5,
    )


def test_a_crew_comes_back_from_json_and_holds_no_key(crew, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-mine")
    text = json.dumps(crew.to_json())
    assert crew_from_json(json.loads(text)) == crew
    assert "secret-of-mine" not in text


def test_the_default_crew_is_all_models_of_the_packaged_pool():
    models = PoolConfig(pool=None, models=(), temperature=0.7)
    assert CrewConfig(workers={"models": models}, roles={"*": "models"}, max_attempts=3) == DEFAULT_CREW
    assert crew_from_json(DEFAULT_CREW.to_json()) == DEFAULT_CREW


# -- bad files --

POOL = '[workers.m]\nkind = "pool"\n'
ALL = '[roles]\n"*" = "m"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have at least one worker, a table [workers.NAME] each"),
        (ALL, "must have at least one worker"),
        ("workers = 7\n" + ALL, "must have at least one worker"),
        ("[workers]\nm = 7\n" + ALL, "must have at least one worker, a table [workers.NAME] each"),
        (POOL, 'must map roles to workers under [roles], such as "*" = "m"'),
        ("roles = 7\n" + POOL, "must map roles to workers"),
        (POOL + "[roles]\nvote = 7", "must map roles to workers"),
        (POOL + '[roles]\nvote = "m"\nfix = "x"', "names workers ['x'], but has m"),
        ("colour = 7\n" + POOL + ALL, "has workers, roles and max_attempts, but also has ['colour']"),
        ("max_attempts = 0\n" + POOL + ALL, "max_attempts must be a whole number >= 1, but is 0"),
        ("max_attempts = 1.5\n" + POOL + ALL, "max_attempts must be a whole number >= 1, but is 1.5"),
        ('max_attempts = "3"\n' + POOL + ALL, "max_attempts must be a whole number >= 1, but is '3'"),
        ("max_attempts = true\n" + POOL + ALL, "max_attempts must be a whole number >= 1, but is True"),
        ("[workers.m]\n" + ALL, "worker m must be of kind pool, router, endpoint, people, mix, but is of None"),
        ('[workers.m]\nkind = "robot"\n' + ALL, "worker m must be of kind pool, "),
        ('[workers.m]\nkind = ["pool"]\n' + ALL, "worker m must be of kind pool, "),
        (POOL + "colour = 7\n" + ALL, "worker m does not fit:\n  - unknown key 'colour'"),
        (POOL + 'models = "small"\n' + ALL, "'models' must be a list, but is 'small'"),
        (POOL + "models = [7]\n" + ALL, "worker m: "),
        (POOL + 'temperature = "hot"\n' + ALL, "worker m: "),
        (POOL + "temperature = -0.1\n" + ALL, "worker m: temperature must be finite and >= 0, but is -0.1"),
        (POOL + "temperature = nan\n" + ALL, "worker m: temperature must be finite and >= 0, but is nan"),
        ('[workers.m]\nkind = "router"\n' + ALL, 'worker m: missing value for field "run_dir"'),
        ('[workers.m]\nkind = "endpoint"\nmodel = "x"\n' + ALL, 'worker m: missing value for field "base_url"'),
        ('[workers.m]\nkind = "people"\nlease_s = 0\n' + ALL, "worker m: lease_s must be finite and > 0, but is 0.0"),
        ('[workers.m]\nkind = "people"\nlease_s = inf\n' + ALL, "worker m: lease_s must be finite and > 0, but is inf"),
        ('[workers.m]\nkind = "people"\ncost = -1\n' + ALL, "worker m: cost must be finite and >= 0, but is -1.0"),
        (
            POOL + '[workers.x]\nkind = "mix"\nmembers = ["m"]\ndecider = "m"\n' + ALL,
            "worker x: A mix needs two or more members who may disagree, but has ('m',)",
        ),
        (
            POOL + '[workers.x]\nkind = "mix"\nmembers = ["m", "y"]\ndecider = "z"\n' + ALL,
            "names workers ['y', 'z'], but has m, x",
        ),
        (
            POOL
            + '[workers.x]\nkind = "mix"\nmembers = ["m", "m"]\ndecider = "m"\n'
            + '[workers.y]\nkind = "mix"\nmembers = ["m", "x"]\ndecider = "m"\n'
            + ALL,
            "a mix is made of workers that are no mix, but y has ['x']",
        ),
    ],
)
def test_what_is_wrong_with_a_crew_file_is_named(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_crew(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_crew_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"There is no crew file at .*none\.toml"):
        load_crew(tmp_path / "none.toml")
    for name, content in (("no.toml", b"[workers"), ("latin.toml", b"# caf\xe9")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} must be a TOML file"):
            load_crew(tmp_path / name)
    with pytest.raises(DataError, match="must be a TOML file"):
        load_crew(tmp_path)


# -- opening --


class Opened:
    """Openers that write down what they open."""

    def __init__(self):
        self.opened = []
        self.openers = Openers(engine=self._engine, router=self._worker, endpoint=self._worker)

    def _engine(self, pool):
        self.opened.append(("engine", pool))
        return ScriptedEngine([scripted_card("small"), scripted_card("large")])

    def _worker(self, config):
        self.opened.append((config.kind, config))
        return scripted(lambda ask: "yes", kins=(config.kind,))


@pytest.mark.parametrize(
    ("roles", "workers", "opened"),
    [
        (["find"], ["models"], ["engine"]),
        (["write"], ["server"], ["endpoint"]),
        (["vote"], ["models", "router", "people", "both"], ["engine", "router"]),
        (["@people"], ["people"], []),
        (["@others", "@models", "find", "fix"], ["models", "others"], ["engine", "engine"]),
        (["@both"], ["models", "router", "people", "both"], ["engine", "router"]),
        ([], [], []),
    ],
)
def test_only_what_the_roles_need_is_opened(tmp_path, crew, roles, workers, opened):
    opening = Opened()
    with ResponseStore(tmp_path / "store.sqlite") as store:
        found = open_crew(crew, store, opening.openers, roles=roles)
    assert sorted(found.workers) == sorted(workers)
    assert [kind for kind, _ in opening.opened] == opened
    assert found.max_attempts == 5


def test_workers_are_opened_as_the_file_says(tmp_path, crew):
    opening = Opened()
    with ResponseStore(tmp_path / "store.sqlite") as store:
        found = open_crew(crew, store, opening.openers, roles=["vote", "write", "@others"])
    assert [one for one in opening.opened if one[0] == "engine"] == [("engine", None), ("engine", "other.toml")]
    assert ("router", crew.workers["router"]) in opening.opened
    assert ("endpoint", crew.workers["server"]) in opening.opened
    assert found.worker("vote") == Mix(members=("models", "router"), decider="people")
    assert found.worker("@people") == People(lease_s=90.0, cost=2.5)
    assert found.worker("anything") is found.workers["models"]
    models = found.workers["models"]
    assert isinstance(models, PoolWorker)
    assert models.models == ("small", "large")
    subtask = SubTask(name="n", role="r", instructions="?", schema=YES_NO, redundancy=3, barred=("small#0",))
    assert [(one.name, one.persona) for one in models.assign(subtask, "step")] == [
        ("large#0", "You are short."),
        ("large#1", "You are kind."),
        ("large#2", "You are short."),
    ]
    assert found.workers["others"].models == ("small", "large")


def test_workers_of_one_pool_share_its_engine(tmp_path):
    opening = Opened()
    config = CrewConfig(
        workers={"a": PoolConfig(models=("small",)), "b": PoolConfig(temperature=0.0)}, roles={"*": "a"}
    )
    with ResponseStore(tmp_path / "store.sqlite") as store:
        open_crew(config, store, opening.openers, roles=["@a", "@b"])
    assert opening.opened == [("engine", None)]


def test_what_a_role_lacks_is_told_before_anything_is_opened(tmp_path, crew):
    opening = Opened()
    with ResponseStore(tmp_path / "store.sqlite") as store:
        with pytest.raises(ConfigError, match=r"Workers must be of the crew \(models, .*\), but are \['nobody'\]"):
            open_crew(crew, store, opening.openers, roles=["vote", "@nobody"])
        assert opening.opened == []
        narrow = CrewConfig(workers={"m": PoolConfig()}, roles={"vote": "m"})
        with pytest.raises(ConfigError, match="needs a worker for role 'create', but has roles vote; add"):
            open_crew(narrow, store, opening.openers, roles=["vote", "create"])
        assert opening.opened == []
        with pytest.raises(ConfigError, match=r"models must be of the pool \(small, large\), but are \['huge'\]"):
            open_crew(
                CrewConfig(workers={"m": PoolConfig(models=("huge",))}, roles={"*": "m"}),
                store,
                opening.openers,
                roles=["any"],
            )


def test_a_part_of_a_mix_that_is_not_there_is_no_other_worker(tmp_path):
    crew = Crew(
        workers={"a": scripted(lambda ask: "yes"), "m": Mix(members=("a", "b"), decider="a")},
        roles={"*": "a", "x": "m"},
    )
    with pytest.raises(ConfigError, match="Role '@b' names worker 'b', but the workers are a, m"):
        crew.check_roles(["x"])


def test_one_worker_is_asked_by_its_name(tmp_path):
    def pipeline(role):
        return (yield SubTask(name="n", role=role, instructions="?", schema=YES_NO))[0].contributor

    crew = Crew(
        workers={"a": scripted(lambda ask: "yes", kins=("ada",)), "b": scripted(lambda ask: "no", kins=("bo",))},
        roles={"vote": "a"},
    )
    for role, contributor in (("vote", "ada#0"), ("@a", "ada#0"), ("@b", "bo#0")):
        assert run_crew(pipeline(role), crew, tmp_path, run=role).result == contributor
