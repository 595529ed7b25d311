"""Tree files: what is saved comes back; what is not a whole tree file of this pool and encoder is named."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from scripted_collection import make_engine, make_rows

from hierrouter_jax.collect.collection_report import AnswerCounts, CollectionReport
from hierrouter_jax.collect.outcomes import NodeOutcomes, node_models, row_id_hash, row_ids_digest
from hierrouter_jax.collect.tree_file import load_tree, make_tree_file, report_path, save_tree
from hierrouter_jax.collect.tree_manifest import TreeManifest
from hierrouter_jax.core.configs import to_json_dict
from hierrouter_jax.core.errors import ConfigError, DataError, StorageError
from hierrouter_jax.core.text import pool_digest
from hierrouter_jax.routing.route_tree import count_nodes, node_parents, path_of_node

NUM_MODELS, NUM_STAGES, DIM = 3, 2, 5
PRICED = {"price_in_usd_per_mtok": 2.0, "price_out_usd_per_mtok": 7.0}
CARDS = make_engine(NUM_MODELS, **PRICED).cards


def random_outcomes(rows, seed) -> NodeOutcomes:
    rng = np.random.default_rng(seed)
    shape = (len(rows), count_nodes(NUM_MODELS, NUM_STAGES))
    valid = rng.random(shape) < 0.7
    valid[:, :3] = True
    parents = node_parents(NUM_MODELS, NUM_STAGES)
    for node in range(1, shape[1]):
        valid[:, node] &= valid[:, parents[node]]
    valid[0, :4] = True
    is_hop = valid.copy()
    is_hop[:, 0] = False
    return NodeOutcomes(
        context_row=rng.integers(0, 17, shape).astype(np.int32),
        context=rng.normal(size=(17, DIM)).astype(np.float32),
        num_prompt_tokens=(rng.integers(1, 101, shape) * is_hop).astype(np.int32),
        num_new_tokens=(rng.integers(1, 31, shape) * is_hop).astype(np.int32),
        quality=(rng.random(shape) * is_hop).astype(np.float32),
        valid=valid,
        is_parsed=(rng.random(shape) < 0.5) & is_hop,
        is_truncated=(rng.random(shape) < 0.1) & is_hop,
        mean_logprob=(-rng.random(shape) * is_hop).astype(np.float32),
        answer_id=(rng.integers(0, 3, shape) * is_hop).astype(np.int32),
        passes_examples=(rng.integers(-1, 2, shape) * is_hop).astype(np.int8),
        task=np.array([["sums", "letters"].index(row.task) for row in rows], np.int32),
        row_id_hash=np.array([row_id_hash(row.id) for row in rows], np.uint64),
    )


def make_manifest(outcomes, **changes) -> TreeManifest:
    names = ("sums", "letters")
    fields = {
        "created_by": "test",
        "cards": CARDS,
        "pool_digest": pool_digest(CARDS),
        "num_stages": NUM_STAGES,
        "prompt_version": "v1",
        "scorer_version": "s1",
        "encoder_digest": "e" * 64,
        "encoder_dim": DIM,
        "task_names": names,
        "split_sizes": {
            split: {name: int((arrays.task == index).sum()) for index, name in enumerate(names)}
            for split, arrays in outcomes.items()
        },
        "row_ids_digests": {split: row_ids_digest(arrays.row_id_hash) for split, arrays in outcomes.items()},
        "seed": 3,
    }
    return TreeManifest(**(fields | changes))


@pytest.fixture(scope="module")
def outcomes():
    sizes = {"train": (5, 2), "validation": (1, 2), "test": (2, 3)}
    return {
        split: random_outcomes(make_rows(*size, prefix=split), seed) for seed, (split, size) in enumerate(sizes.items())
    }


@pytest.fixture
def saved(outcomes, tmp_path):
    path = tmp_path / "trees" / "small.npz"
    save_tree(path, make_tree_file(make_manifest(outcomes), outcomes))
    return path


def test_what_is_saved_comes_back(saved, outcomes):
    file = load_tree(saved)
    assert file.manifest == make_manifest(outcomes)
    assert list(file.outcomes) == ["train", "validation", "test"]
    for split, expected in outcomes.items():
        for field in dataclasses.fields(expected):
            found, array = getattr(file.outcomes[split], field.name), getattr(expected, field.name)
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
        tree = getattr(file, split)
        np.testing.assert_array_equal(tree.quality, expected.quality)
        np.testing.assert_array_equal(tree.valid, expected.valid)
        assert (tree.num_models, tree.num_stages) == (NUM_MODELS, NUM_STAGES)
        assert tree.model_names == ("model_0", "model_1", "model_2")
        assert tree.task_names == ("sums", "letters")


def raw_cost(cost_model, model, num_prompt, num_new) -> float:
    card = CARDS[model]
    return {
        "base_rate": (1.0 + model) * (num_prompt + num_new),
        "flops": 2.0 * card.num_parameters * (num_prompt + num_new),
        "price": (2.0 * num_prompt + 7.0 * num_new) / 1e6,
    }[cost_model]


@pytest.mark.parametrize("cost_model", ["base_rate", "flops", "price"])
def test_costs_follow_the_cost_model_on_load(saved, outcomes, cost_model):
    file = load_tree(saved, cost_model=cost_model)
    train = outcomes["train"]
    means = []
    for model in range(NUM_MODELS):
        hops = [
            (train.num_prompt_tokens[q, 1 + model], train.num_new_tokens[q, 1 + model])
            for q in range(7)
            if train.valid[q, 1 + model]
        ]
        means.append(np.mean([raw_cost(cost_model, model, *map(int, hop)) for hop in hops]))
    for split, arrays in outcomes.items():
        expected = np.zeros(arrays.valid.shape)
        for query, node in np.argwhere(arrays.valid):
            if node:
                counts = int(arrays.num_prompt_tokens[query, node]), int(arrays.num_new_tokens[query, node])
                expected[query, node] = raw_cost(cost_model, path_of_node(NUM_MODELS, int(node))[-1], *counts) / max(
                    means
                )
        np.testing.assert_allclose(getattr(file, split).step_cost, expected, rtol=1e-6)


def test_a_cost_model_that_the_cards_cannot_give(saved):
    with pytest.raises(ConfigError, match="latency needs prefill_s_per_token"):
        load_tree(saved, cost_model="latency")


def test_a_file_without_validation(outcomes, tmp_path):
    two = {split: outcomes[split] for split in ("train", "test")}
    save_tree(tmp_path / "two.npz", make_tree_file(make_manifest(two), two))
    assert load_tree(tmp_path / "two.npz").validation is None


def test_equal_trees_are_equal_bytes_whenever_written(saved, outcomes, tmp_path):
    save_tree(tmp_path / "again.npz", load_tree(saved, cost_model="price"))
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()


def test_no_text_of_a_row_is_in_the_file(saved):
    """Numbers and the manifest only: neither questions nor ids."""
    with zipfile.ZipFile(saved) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    for row in make_rows(5, 2, prefix="train"):
        assert row.question.encode() not in content
        assert row.id.encode() not in content
    with np.load(saved) as arrays:
        assert {array.dtype.kind for array in arrays.values()} <= set("biuf")


def test_the_report_lies_beside(outcomes, tmp_path):
    counts = AnswerCounts(
        num_nodes=7,
        num_prompt_tokens=11,
        num_new_tokens=13,
        truncated_share=0.5,
        unparsed_share=0.25,
        mean_quality=0.1,
        first_hop_quality=0.2,
    )
    totals = dict.fromkeys(
        (
            "num_nodes",
            "num_requests",
            "num_stored_before",
            "num_generated",
            "num_scored",
            "computed_tokens",
            "generated_prompt_tokens",
            "generated_new_tokens",
        ),
        5,
    )
    times = dict.fromkeys(("generation_s", "scoring_s", "encoding_s"), 1.5)
    report = CollectionReport(
        num_queries={"train": 7},
        num_left_out={"train": 0},
        invalid_nodes={"too long": 2},
        answers={"sums": {"model_0": counts}},
        **totals,
        **times,
    )
    path = tmp_path / "tree.npz"
    save_tree(path, make_tree_file(make_manifest(outcomes), outcomes, report=report))
    assert report_path(path).name == "tree.report.json"
    assert json.loads(report_path(path).read_text()) == dataclasses.asdict(report)


def rewrite(path, change) -> None:
    """Save the arrays of a tree file again, changed."""
    with np.load(path) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(path, **arrays)


def change_manifest(**changes):
    def change(arrays):
        data = json.loads(arrays["manifest"].tobytes()) | changes
        arrays["manifest"] = np.frombuffer(json.dumps(data).encode(), np.uint8)

    return change


def edit(name, function):
    def change(arrays):
        arrays[name] = function(arrays[name])

    return change


def put(name, at, value):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][at] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("manifest"), "no manifest"),
        (edit("manifest", lambda array: array[:-5]), "manifest must be JSON"),
        (change_manifest(format_version=1), "format version 1"),
        (change_manifest(format_version=None), "format version None"),
        (change_manifest(surprise=1), "unknown key"),
        (change_manifest(seed="three"), "seed"),
        (change_manifest(num_stages=3), r"quality must be float32 of shape \(7, 40\)"),
        (change_manifest(encoder_dim=7), r"context must be float32 of shape \(17, 7\)"),
        (change_manifest(pool_digest="0"), "pool_digest must be that of the model cards"),
        (change_manifest(task_names=["sums"]), "tasks that task_names lack"),
        (change_manifest(row_ids_digests={"train": "", "validation": "", "test": ""}), "ids are not those"),
        (lambda arrays: arrays.pop("test/quality"), "(?s)Split test must have all of its arrays.*quality"),
        (edit("train/valid", lambda array: array[:-1]), "valid must be bool of shape"),
        (edit("train/quality", lambda array: array.astype(np.float64)), "quality must be float32"),
        (put("train/task", 0, 2), r"task must lie in \[0, 2\)"),
        (put("train/task", 0, 1), "the manifest counts"),
        (put("train/row_id_hash", 0, 1), "ids are not those"),
        (put("train/num_new_tokens", (0, 1), -1), "num_new_tokens must be >= 0"),
        (put("test/quality", (0, 1), 1.5), r"quality must lie in \[0, 1\]"),
        (put("test/context_row", (0, 1), 17), r"context_row must lie in \[0, 17\)"),
        (put("train/context", (0, 0), np.nan), "context must be finite"),
    ],
)
def test_contents_that_are_no_tree(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(DataError, match=message) as caught:
        load_tree(saved)
    assert str(saved) in str(caught.value)


def test_every_problem_is_told_at_once(saved):
    rewrite(
        saved, lambda arrays: [put("train/num_new_tokens", (0, 1), -1)(arrays), put("test/row_id_hash", 0, 1)(arrays)]
    )
    with pytest.raises(DataError, match=r"(?s)train: num_new_tokens.*test: the rows' ids"):
        load_tree(saved)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no tree file"):
        load_tree(tmp_path / "absent.npz")
    with pytest.raises(DataError, match="no tree file"):
        load_tree(tmp_path)


def test_a_truncated_file_at_any_length(saved):
    whole = saved.read_bytes()
    for length in {0, 1, 30, 100, len(whole) // 2, len(whole) - 23, len(whole) - 1}:
        saved.write_bytes(whole[:length])
        with pytest.raises(DataError, match="whole tree file"):
            load_tree(saved)


def test_a_damaged_byte_is_seen(saved):
    """Zip checksums: no flipped byte of an array loads as another number."""
    whole = bytearray(saved.read_bytes())
    for position in range(200, len(whole) - 1500, 307):
        damaged = whole.copy()
        damaged[position] ^= 0xFF
        saved.write_bytes(damaged)
        try:
            load_tree(saved)
        except DataError:
            continue
        assert_loads_the_same(saved, whole)  # a byte that means nothing, such as a time stamp


def assert_loads_the_same(path, whole):
    found = load_tree(path)
    path.write_bytes(whole)
    expected = load_tree(path)
    for split in expected.outcomes:
        for field in dataclasses.fields(NodeOutcomes):
            np.testing.assert_array_equal(
                getattr(found.outcomes[split], field.name), getattr(expected.outcomes[split], field.name)
            )


def test_other_kinds_of_files(tmp_path):
    (tmp_path / "text.npz").write_text("not a zip file")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    np.savez(tmp_path / "objects.npz", manifest=np.array([{"a": 1}], dtype=object))
    for name in ("text.npz", "array.npy", "other.npz", "objects.npz"):
        with pytest.raises(DataError, match=name):
            load_tree(tmp_path / name)


def test_full_disk_leaves_the_old_file(saved, outcomes, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        save_tree(saved, load_tree(saved, cost_model="price"))
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_really_full_disk_leaves_the_old_file(saved, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={saved.stat().st_size // 1024 + 6}k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here; the simulated full disk covers the rest")
    try:
        old = shutil.copy(saved, disk / "tree.npz")
        with pytest.raises(StorageError, match="No space left on device"):
            save_tree(old, load_tree(saved))
        assert old.read_bytes() == saved.read_bytes()
        assert len(list(disk.iterdir())) == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_node_models_are_the_last_hops():
    for num_models, num_stages in ((3, 2), (5, 2), (2, 3), (1, 3)):
        expected = [(-1, *path_of_node(num_models, node))[-1] for node in range(count_nodes(num_models, num_stages))]
        assert node_models(num_models, num_stages).tolist() == expected


def test_a_manifest_says_everything_once(outcomes):
    """Every manifest field survives JSON, and none is forgotten by the file."""
    data = to_json_dict(make_manifest(outcomes))
    assert set(data) == {field.name for field in dataclasses.fields(TreeManifest)}
    assert [card["name"] for card in data["cards"]] == ["model_0", "model_1", "model_2"]


def test_loading_a_tree_loads_no_language_model(saved):
    """Training starts from a tree file: neither transformers nor torch may be pulled in by reading it."""
    code = (
        "import sys; from hierrouter_jax.collect.tree_file import load_tree; load_tree(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
