"""Values between the two interpreters: what goes in comes out, of the plain type, and nothing else comes out."""

import collections
import datetime
import decimal
import enum
import fractions
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierrouter_jax.tasks.sandboxed.values import MAX_FRAME_BYTES, FrameError, decode, encode, read_frame, write_frame

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**600), 2**600)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3) | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=11,
)


def refuse(value):
    raise AssertionError(f"{value!r} has a plain form")


def no_reference(kind, number):
    raise AssertionError("no reference was sent")


def through_a_pipe(message):
    read, write = os.pipe()
    thread = threading.Thread(target=write_frame, args=(write, message))
    thread.start()
    try:
        return read_frame(read)
    finally:
        thread.join()
        os.close(read)
        os.close(write)


def types_of(value):
    if isinstance(value, dict):
        return {(types_of(k), k): types_of(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value), *map(types_of, value))
    return type(value)


@settings(max_examples=71, deadline=None)
@given(VALUES)
def test_plain_values_arrive_equal_and_of_the_same_type(value):
    arrived = decode(through_a_pipe(encode(value, refuse)), no_reference)
    assert arrived == value
    assert types_of(arrived) == types_of(value)


@pytest.mark.parametrize(
    "value",
    [
        decimal.Decimal("-1.50"),
        fractions.Fraction(-3, 7),
        collections.deque([1, (2,)]),
        range(3, 17, 5),
        datetime.date(2019, 2, 3),
        datetime.time(5, 7, 11, 13),
        datetime.datetime(2019, 2, 3, 5, 7),
        datetime.timedelta(days=-2, seconds=3),
    ],
)
def test_standard_values_arrive_equal(value):
    arrived = decode(encode([value], refuse), no_reference)
    assert arrived == [value]
    assert type(arrived[0]) is type(value)


class Liar(int):
    __hash__ = int.__hash__

    def __eq__(self, other):
        return True


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Liar(7), 7),
        (Colour.RED, 3),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(x=1), {"x": 1}),
        (collections.namedtuple("Point", "x y")(1, 2), (1, 2)),
        ({1: 2}.keys(), {1}),
    ],
)
def test_subclasses_arrive_as_what_they_hold(value, plain):
    arrived = decode(encode(value, refuse), no_reference)
    assert type(arrived) is type(plain)
    assert arrived == plain


def test_other_objects_stay_and_are_referred_to():
    stayed = []

    def refer(value):
        stayed.append(value)
        return {"here": len(stayed) - 1}

    thing = object()
    arrived = decode(encode([1, thing, {"k": print}], refer), lambda kind, number: (kind, number))
    assert arrived == [1, ("here", 0), {"k": ("here", 1)}]
    assert stayed == [thing, print]


def test_value_that_holds_itself():
    loop = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        encode(loop, refuse)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"unknown": 1},
        {"tuple": 3},
        {"set": [[1]]},
        {"dict": [[1]]},
        {"dict": [[{"dict": []}, 1]]},
        {"int": "zz"},
        {"bytes": 5},
        {"object": ["os.system", "ls"]},
        {"object": ["decimal.Decimal", "x"]},
        {"here": "x"},
        {"tuple": [], "set": []},
    ],
)
def test_what_describes_no_value_is_refused(data):
    with pytest.raises(FrameError, match="not a value"):
        decode([data], no_reference)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "the process ended"),
        (b"\0\0\0\5[1,", "the process ended"),
        (b"\0\0\0\3{a}", "not a frame"),
        (b"\0\0\0\2\xff\xfe", "not a frame"),
        ((MAX_FRAME_BYTES + 1).to_bytes(4, "big"), "too large"),
        ((200_000).to_bytes(4, "big") + b"[" * 200_000, "not a frame"),
    ],
)
def test_what_is_no_frame_is_refused(sent, message):
    read, write = os.pipe()
    thread = threading.Thread(target=lambda: (os.write(write, sent), os.close(write)))
    thread.start()
    with pytest.raises(FrameError, match=message):
        read_frame(read)
    thread.join()
    os.close(read)


def test_too_large_a_message_is_not_sent():
    with pytest.raises(FrameError, match="too large to hand over"):
        write_frame(-1, "x" * (MAX_FRAME_BYTES + 1))


def test_frames_do_not_eat_what_follows():
    read, write = os.pipe()
    write_frame(write, {"first": 1})
    write_frame(write, {"second": 2})
    assert read_frame(read) == {"first": 1}
    assert os.read(read, 100)[4:] == b'{"second": 2}'
    os.close(read)
    os.close(write)
