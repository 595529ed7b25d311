import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_mdp import outcomes_of
from synthetic_trees import context_dependent_tree, random_tree

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.routing.route_tree import (
    QUERY_FIELDS,
    check_same_pool,
    check_tree,
    context_at,
    count_nodes,
    cumulative_costs,
    joined_trees,
    node_of_path,
    node_parents,
    path_of_node,
    stage_slice,
)

SHAPES = [(1, 3), (2, 5), (3, 2), (5, 1)]


@pytest.mark.parametrize(("num_models", "num_stages"), SHAPES)
def test_nodes_are_the_paths_in_order(num_models, num_stages):
    paths = [p for stage in range(num_stages + 1) for p in itertools.product(range(num_models), repeat=stage)]
    assert count_nodes(num_models, num_stages) == len(paths)
    assert [path_of_node(num_models, node) for node in range(len(paths))] == paths
    assert [node_of_path(num_models, path) for path in paths] == list(range(len(paths)))
    assert node_parents(num_models, num_stages).tolist() == [paths.index(path[:-1]) for path in paths]
    for stage in range(num_stages + 1):
        assert {len(path) for path in paths[stage_slice(num_models, stage)]} == {stage}
        assert len(paths[stage_slice(num_models, stage)]) == num_models**stage


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_contexts_are_gathered_without_a_table_of_another_type(dtype):
    tree = random_tree()
    tree = dataclasses.replace(tree, context=tree.context.astype(dtype))
    query, node = jnp.array([5, 0, 3, 3, 6]), jnp.array([0, 11, 2, 7, 12])
    gather = jax.jit(context_at)
    expected = np.stack([tree.context[tree.context_row[q, n]] for q, n in zip(query, node, strict=True)])
    found = gather(tree, query, node)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)
    num_rows, dim = tree.context.shape
    converted = f"f32[{num_rows},{dim}]"
    assert (converted in gather.lower(tree, query, node).compile().as_text()) == (dtype == "float32")


def test_path_with_an_unknown_model_is_refused():
    with pytest.raises(DataError, match=r"indices in \[0, 3\).*\(1, 3\) holds 3"):
        node_of_path(3, (1, 3))


@pytest.mark.parametrize(("num_models", "num_stages"), SHAPES)
def test_cumulative_costs_are_sums_along_paths(num_models, num_stages):
    tree = random_tree(3, num_models=num_models, num_stages=num_stages)
    costs = np.asarray(cumulative_costs(tree))
    for query in range(tree.num_queries):
        outcomes = outcomes_of(tree, query)
        expected = [sum(outcomes[path[: i + 1]][0] for i in range(len(path))) for path in outcomes]
        np.testing.assert_allclose(costs[query], expected, rtol=1e-5)


@pytest.mark.parametrize("tree", [random_tree(5, share_missing=0.4), context_dependent_tree()], ids=["random", "kinds"])
def test_sound_trees_pass(tree):
    check_tree(tree)


def _with(tree, **changes):
    """Return the tree with single entries set: field=(index, value)."""
    return tree.replace(**{name: getattr(tree, name).at[index].set(value) for name, (index, value) in changes.items()})


TREE = random_tree(7)  # 7 queries, 3 models, 2 stages, 13 nodes


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_with(TREE, context=((2, 1), jnp.nan)), "context must be finite, but 1 entries break this.*(2, 1)"),
        (_with(TREE, step_cost=((4, 5), jnp.inf)), "step_cost must be finite.*(4, 5)"),
        (_with(TREE, step_cost=((4, 5), -0.5)), "step_cost must not be negative.*(4, 5)"),
        (_with(TREE, step_cost=((4, 0), 0.5)), "step_cost must be 0 at the root"),
        (_with(TREE, quality=((6, 11), jnp.nan)), "quality must be finite.*(6, 11)"),
        (_with(TREE, quality=((6, 11), 1.25)), "quality must lie in [0, 1].*(6, 11)"),
        (_with(TREE, quality=((6, 0), 0.25)), "quality must be 0 at the root"),
        (_with(TREE, context_row=((1, 3), TREE.context.shape[0])), "context_row must lie in"),
        (_with(TREE, context_row=((1, 3), -1)), "context_row must lie in"),
        (_with(TREE, task=(3, 2)), "task must lie in [0, 2)"),
        (_with(TREE, valid=((5, 0), False)), "the root must be valid"),
        (_with(TREE, valid=((5, slice(1, None)), False)), "the root must have a valid child"),
        (_with(TREE, valid=((5, 2), False)), "a valid node must have a valid parent, but 3 entries"),
        (TREE.replace(quality=TREE.quality[:, :-1]), "quality must have shape (7, 13) (query, node), but has (7, 12)"),
        (TREE.replace(task=TREE.task[:0]), "at least one query"),
        (TREE.replace(context=TREE.context[:, :0]), "context must be rows"),
        (TREE.replace(model_names=("a", "b", "a")), "different names"),
        (TREE.replace(num_stages=0), "at least 1"),
    ],
)
def test_unsound_trees_are_refused(broken, message):
    with pytest.raises(DataError, match=".*".join(re.escape(part) for part in message.split(".*"))):
        check_tree(broken)


def test_all_problems_are_told_at_once():
    broken = _with(TREE, quality=((6, 11), 1.25), step_cost=((4, 5), -0.5))
    with pytest.raises(DataError, match=r"small\.npz(.|\n)*step_cost(.|\n)*quality"):
        check_tree(broken, what="small.npz")


def test_trees_of_different_pools_are_not_compared():
    check_same_pool(TREE, random_tree(11, num_queries=5))
    with pytest.raises(DataError, match="2 stages and the other"):
        check_same_pool(TREE, random_tree(11, num_stages=1))
    with pytest.raises(DataError, match="share models"):
        check_same_pool(TREE, TREE.replace(model_names=("a", "b", "c")))


def test_joined_trees_hold_all_queries_with_their_own_contexts():
    first, second = random_tree(1, num_queries=3, num_signals=2), random_tree(2, num_queries=5, num_signals=2)
    found = joined_trees([first, second])
    assert found.num_queries == 8
    check_tree(found)
    for tree, queries in ((first, slice(0, 3)), (second, slice(3, 8))):
        for name in QUERY_FIELDS:
            if name != "context_row":
                np.testing.assert_array_equal(getattr(found, name)[queries], getattr(tree, name))
        np.testing.assert_array_equal(found.context[found.context_row[queries]], tree.context[tree.context_row])


def test_trees_of_different_kinds_are_not_joined():
    tree = random_tree(1)
    for other in (random_tree(1, num_tasks=3), random_tree(1, dim=7), random_tree(1, num_signals=1)):
        with pytest.raises(DataError, match="share tasks and sizes"):
            joined_trees([tree, other])
    with pytest.raises(DataError, match="share models"):
        joined_trees([tree, random_tree(1, num_models=2)])
    with pytest.raises(DataError, match="at least one"):
        joined_trees([])
