"""Configs to JSON and back, strictly; digests that depend on values alone; keys that depend on names and rows alone."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierrouter_jax.core.configs import canonical_json, digest, from_json_dict, read_json, to_json_dict
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.core.keys import row_keys, stream_key


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (3, 5)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    where: Path = Path("x")
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    more: tuple[Inner, ...] = ()


finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, rate=finite, sizes=st.lists(st.integers()).map(tuple))
outers = st.builds(
    Outer,
    name=st.text(),
    where=st.sampled_from([Path("a/b"), Path("/c")]),
    limit=st.none() | st.integers(),
    inner=inners,
    more=st.lists(inners, max_size=3).map(tuple),
)


@given(outers)
def test_through_json_text_and_back(config):
    text = json.dumps(to_json_dict(config))
    assert from_json_dict(Outer, json.loads(text)) == config


@given(outers, outers)
def test_digests_are_equal_exactly_when_the_values_are(one, other):
    same = canonical_json(to_json_dict(one)) == canonical_json(to_json_dict(other))
    assert (digest(to_json_dict(one)) == digest(to_json_dict(other))) == same
    assert digest({"a": 1, "b": [2, None]}) == digest({"b": [2, None], "a": 1})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "n", "rat": 1}, r"(?s)run\.json.*unknown key 'rat'; Outer knows: name, where, limit, inner"),
        ({"name": "n", "inner": {"speed": 1}}, r"unknown key 'inner\.speed'; Inner knows: rate, sizes"),
        ({"name": "n", "inner": 3, "speed": 1}, r"(?s)unknown key 'speed'.*'inner' must be an object, but is 3"),
        ({"name": "n", "inner": {"sizes": "35"}}, r"'inner\.sizes' must be a list, but is '35'"),
        ({"name": "n", "inner": {"sizes": 3}}, r"'inner\.sizes' must be a list, but is 3"),
        ({"name": "n", "where": 3}, r"'where' must be a path, but is 3"),
        ({"name": "n", "more": [{"rate": 1.5}, {"pace": 2}]}, r"unknown key 'more\[1\]\.pace'"),
        ({"name": "n", "inner": None}, r"'inner' must be an object, but is None"),
        ({}, r'missing value for field "name"'),
        ({"name": 3}, r'wrong value type for field "name".*"str".*"int"'),
        ({"name": "n", "inner": {"sizes": ["3"]}}, r"inner\.sizes"),
    ],
)
def test_what_does_not_fit_is_named(data, message):
    with pytest.raises(ConfigError, match=message):
        from_json_dict(Outer, data, what="run.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"{", "must be a JSON file"), (b"\xff", "must be a JSON file"), (b"[1]", "a list")],
)
def test_a_file_that_is_no_json_object_is_named(tmp_path, content, message):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"run\.json.*{message}"):
        read_json(path)


def test_streams_and_rows_have_keys_of_their_own():
    key = jax.random.key(7)
    names = ["params", "queries", "actions", "minibatches", ""]
    streams = {name: tuple(np.asarray(jax.random.key_data(stream_key(key, name)))) for name in names}
    assert len(set(streams.values())) == len(names)
    assert streams["actions"] == tuple(np.asarray(jax.random.key_data(stream_key(key, "actions"))))
    rows = jnp.array([11, 2, 2, 5])
    found = np.asarray(jax.random.key_data(row_keys(key, rows)))
    alone = [np.asarray(jax.random.key_data(row_keys(key, rows[i : i + 1])))[0] for i in range(4)]
    np.testing.assert_array_equal(found, np.stack(alone))
    assert len({tuple(row) for row in found}) == 3
