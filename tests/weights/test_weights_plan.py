"""The plan, held against arrays put together by hand; what does not fit is reported whole, before any reading."""

import jax
import numpy as np
import pytest

from hierrouter_jax.core.errors import ConfigError, WeightsError
from hierrouter_jax.weights import plan as plan_module
from hierrouter_jax.weights.plan import HeadCounts, load_leaves, make_plan
from hierrouter_jax.weights.rules import WeightRule

EMBED, HEAD_DIM, NUM_HEADS, NUM_KV_HEADS, NUM_LAYERS, VOCAB = 7, 6, 5, 1, 3, 11
HEADS = HeadCounts(num_heads=NUM_HEADS, num_kv_heads=NUM_KV_HEADS)
RULES = (
    WeightRule(leaf="embed.table", tensors=("tok",)),
    WeightRule(
        leaf="layers.{layer}.qkv.kernel",
        tensors=("l{layer}.q", "l{layer}.k", "l{layer}.v"),
        transforms=("unpermute_query", "unpermute_key", "transpose"),
    ),
    WeightRule(leaf="layers.{layer}.norm.scale", tensors=("l{layer}.n",), transforms=("subtract_one",)),
    WeightRule(leaf="out.kernel", tensors=("out",), transforms=("transpose",), is_optional=True),
)


class DictReader:
    """Tensors of a dict; remembers what was read."""

    def __init__(self, tensors):
        self.tensors = tensors
        self.names_read = []

    @property
    def shapes(self):
        return {name: values.shape for name, values in self.tensors.items()}

    def read(self, name):
        self.names_read.append(name)
        return self.tensors[name]


def make_tensors(*, has_output=True):
    rng = np.random.default_rng(0)

    def values(*shape):
        return rng.normal(size=shape).astype(np.float32)

    tensors = {"tok": values(VOCAB, EMBED)} | ({"out": values(VOCAB, EMBED)} if has_output else {})
    for layer in range(NUM_LAYERS):
        tensors[f"l{layer}.q"] = values(NUM_HEADS * HEAD_DIM, EMBED)
        tensors[f"l{layer}.k"] = values(NUM_KV_HEADS * HEAD_DIM, EMBED)
        tensors[f"l{layer}.v"] = values(NUM_KV_HEADS * HEAD_DIM, EMBED)
        tensors[f"l{layer}.n"] = values(EMBED)
    return tensors


def make_leaves(*, has_output=True, dtype=np.float32):
    width = (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
    shapes = {"embed.table": (VOCAB, EMBED)} | ({"out.kernel": (EMBED, VOCAB)} if has_output else {})
    for layer in range(NUM_LAYERS):
        shapes[f"layers.{layer}.qkv.kernel"] = (EMBED, width)
        shapes[f"layers.{layer}.norm.scale"] = (EMBED,)
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}


def unpermuted_by_loop(values, num_heads):
    """Row (head, pair, which) of the file is row (head, which, pair) of the module."""
    half = len(values) // num_heads // 2
    result = np.empty_like(values)
    for head in range(num_heads):
        for pair in range(half):
            for which in range(2):
                start = head * 2 * half
                result[start + which * half + pair] = values[start + pair * 2 + which]
    return result


@pytest.mark.parametrize("rows_at_once", [2, 128])
def test_leaves_are_put_together_as_the_rules_say(monkeypatch, rows_at_once):
    monkeypatch.setattr(plan_module, "ROWS_AT_ONCE", rows_at_once)
    tensors = make_tensors()
    received = load_leaves(RULES, NUM_LAYERS, DictReader(tensors), make_leaves(), heads=HEADS, is_quiet=True)
    assert set(received) == set(make_leaves())
    np.testing.assert_array_equal(received["embed.table"], tensors["tok"])
    np.testing.assert_array_equal(received["out.kernel"], tensors["out"].T)
    for layer in range(NUM_LAYERS):
        query = unpermuted_by_loop(tensors[f"l{layer}.q"], NUM_HEADS).T
        key = unpermuted_by_loop(tensors[f"l{layer}.k"], NUM_KV_HEADS).T
        expected = np.concatenate([query, key, tensors[f"l{layer}.v"].T], axis=1)
        np.testing.assert_array_equal(received[f"layers.{layer}.qkv.kernel"], expected)
        np.testing.assert_array_equal(received[f"layers.{layer}.norm.scale"], tensors[f"l{layer}.n"] - 1)


def test_vectors_are_joined_and_a_leaf_has_its_own_type():
    rules = (WeightRule(leaf="bias", tensors=("a", "b")),)
    reader = DictReader({"a": np.arange(3, dtype=np.float32), "b": np.arange(5, dtype=np.float32) / 3})
    leaves = {"bias": jax.ShapeDtypeStruct((8,), jax.numpy.bfloat16)}
    bias = load_leaves(rules, 1, reader, leaves, is_quiet=True)["bias"]
    assert bias.dtype == jax.numpy.bfloat16
    expected = np.concatenate([reader.tensors["a"], reader.tensors["b"]]).astype(jax.numpy.bfloat16)
    np.testing.assert_array_equal(bias, expected)


def test_an_optional_rule_asks_for_nothing_without_its_leaf():
    tensors = make_tensors(has_output=False)
    leaves = make_leaves(has_output=False)
    assert set(load_leaves(RULES, NUM_LAYERS, DictReader(tensors), leaves, heads=HEADS, is_quiet=True)) == set(leaves)


def test_every_leaf_is_placed_as_it_is_read():
    reader, placed = DictReader(make_tensors()), []

    def place(name, values):
        assert values.shape == make_leaves()[name].shape
        placed.append((len(reader.names_read), values.shape))
        return "placed"

    received = load_leaves(RULES, NUM_LAYERS, reader, make_leaves(), heads=HEADS, place=place, is_quiet=True)
    assert set(received.values()) == {"placed"}
    assert [count for count, _ in placed] == sorted({count for count, _ in placed})  # never two leaves read ahead


def test_all_problems_are_raised_at_once_and_nothing_is_read():
    tensors = make_tensors()
    del tensors["l1.k"], tensors["l2.n"]
    tensors["surplus.weight"] = np.ones((2, 3), np.float32)
    tensors["l0.v"] = np.ones((NUM_KV_HEADS * HEAD_DIM, EMBED + 1), np.float32)
    tensors["out"] = np.ones((VOCAB + 2, EMBED), np.float32)
    leaves = make_leaves() | {"layers.0.lonely": jax.ShapeDtypeStruct((13,), np.float32)}
    reader = DictReader(tensors)
    with pytest.raises(WeightsError) as caught:
        load_leaves(RULES, NUM_LAYERS, reader, leaves, heads=HEADS, is_quiet=True)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 6
    for line, words in zip(
        lines,
        [
            "leaf layers.0.lonely (13,) is filled by no rule",
            "tensor l1.k is missing",
            "tensor l2.n is missing",
            "tensor surplus.weight (2, 3) is in the file, but nothing asks for it",
            "leaf layers.0.qkv.kernel needs (7, 42), but receives l0.q (30, 7) + l0.k (6, 7) + l0.v (6, 8)",
            "leaf out.kernel needs (7, 11), but receives out (13, 7)",
        ],
        strict=True,
    ):
        assert words in line
    assert reader.names_read == []


def test_known_buffers_may_be_there_for_nobody():
    tensors = make_tensors()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones((3,), np.float32)
    tensors["lm_head.weight"] = np.ones((3,), np.float32)
    with pytest.raises(WeightsError, match=r"lm_head.weight") as caught:
        make_plan(RULES, NUM_LAYERS, DictReader(tensors).shapes, make_leaves(), heads=HEADS)
    assert "inv_freq" not in str(caught.value)
    shapes = DictReader(tensors).shapes
    assert make_plan(RULES, NUM_LAYERS, shapes, make_leaves(), heads=HEADS, ignorable=("lm_head.*",))


def test_rules_that_do_not_fit_the_module_are_problems_too():
    rules = (*RULES, RULES[0], WeightRule(leaf="nowhere", tensors=("tok",)))
    with pytest.raises(WeightsError) as caught:
        make_plan(rules, NUM_LAYERS, DictReader(make_tensors()).shapes, make_leaves(), heads=HEADS)
    assert "leaf nowhere is not in the module" in str(caught.value)
    assert "leaf embed.table is filled by 2 rules" in str(caught.value)


@pytest.mark.parametrize(
    ("heads", "shape", "words"),
    [
        (None, (30, EMBED), "needs head counts"),
        (HEADS, (25, EMBED), "rows in pairs for 5 heads"),
        (HEADS, (30,), "must have two axes"),
    ],
)
def test_what_a_transform_needs_is_asked_before_reading(heads, shape, words):
    rules = (WeightRule(leaf="q", tensors=("q",), transforms=("unpermute_query",)),)
    leaves = {"q": jax.ShapeDtypeStruct((EMBED, 30), np.float32)}
    with pytest.raises(WeightsError, match=words):
        make_plan(rules, 1, {"q": shape}, leaves, heads=heads)


def test_a_rule_that_no_file_could_satisfy_is_refused():
    with pytest.raises(ConfigError, match="at least one tensor"):
        WeightRule(leaf="a", tensors=())
    with pytest.raises(ConfigError, match="has 2 for 3 tensors"):
        WeightRule(leaf="a", tensors=("x", "y", "z"), transforms=("identity", "transpose"))
