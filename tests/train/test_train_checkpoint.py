import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from full_disk import file_size_limit

from hierrouter_jax.core.errors import CheckpointError, StorageError
from hierrouter_jax.train.checkpoint import CheckpointFolder, abstract_of, finished_steps, restore_checkpoint
from hierrouter_jax.train.run_record import arrays_digest
from hierrouter_jax.train.state import make_train_state

DIGEST = "a" * 64


def make_state(seed=0, width=11):
    """A state with every kind of leaf a run has: weights, optimizer moments, counters, a typed key."""
    key = jax.random.key(seed)
    weights = {"kernel": jax.random.normal(key, (7, width)), "bias": jnp.arange(5.0) / 3}
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3))
    state = make_train_state(weights, optimizer, key=jax.random.fold_in(key, 1))
    _, opt_state = optimizer.update(weights, state.opt_state)
    return state.replace(opt_state=opt_state, step=jnp.int32(3), num_hops=jnp.asarray([2**32 - 1, 6], jnp.uint32))


def save(folder, steps, *, num_kept=3, **kwargs):
    with CheckpointFolder(folder, config_digest=DIGEST, save_interval=1, num_kept=num_kept) as checkpoints:
        return [checkpoints.save(step, make_state(step), **kwargs) for step in steps]


def restore(folder, **kwargs):
    return restore_checkpoint(folder, abstract_of(make_state()), **{"config_digest": DIGEST, **kwargs})


def test_everything_comes_back_bit_by_bit(tmp_path):
    save(tmp_path, [2, 3])
    for step, state in ((3, restore(tmp_path)), (2, restore(tmp_path, step=2))):
        expected = make_state(step)
        assert jax.tree.structure(state) == jax.tree.structure(expected)
        assert arrays_digest(state) == arrays_digest(expected)
        np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(expected.key))
        assert state.key.dtype == expected.key.dtype
        np.testing.assert_array_equal(state.num_hops, [2**32 - 1, 6])


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.replace(step=state.step + 1),
        lambda state: state.replace(key=jax.random.fold_in(state.key, 2)),
        lambda state: state.replace(params={**state.params, "bias": state.params["bias"].at[4].add(1e-7)}),
        lambda state: state.replace(params={**state.params, "bias": state.params["bias"][:, None]}),
        lambda state: state.replace(params={"kernel": state.params["kernel"], "offset": state.params["bias"]}),
    ],
)
def test_the_digest_of_arrays_sees_every_change(change):
    assert arrays_digest(change(make_state())) != arrays_digest(make_state())
    assert arrays_digest(make_state()) == arrays_digest(make_state())


def test_checkpoints_are_saved_at_the_interval_and_when_forced_and_the_oldest_goes(tmp_path):
    with CheckpointFolder(tmp_path, config_digest=DIGEST, save_interval=3, num_kept=2) as checkpoints:
        assert checkpoints.latest_step is None
        saved = [step for step in range(1, 11) if checkpoints.save(step, make_state(step))]
        assert saved == [3, 6, 9]
        assert checkpoints.save(10, make_state(10), is_forced=True)
        assert checkpoints.save(10, make_state(10), is_forced=True)  # there already: nothing to do
        assert checkpoints.latest_step == 10
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["10", "9"]


def test_an_interrupt_during_a_save_is_raised_when_the_checkpoint_is_whole(tmp_path, monkeypatch):
    with CheckpointFolder(tmp_path, config_digest=DIGEST, save_interval=1, num_kept=3) as checkpoints:
        write = checkpoints._checkpointer.save

        def interrupted(*arguments, **options):
            signal.raise_signal(signal.SIGINT)
            return write(*arguments, **options)

        monkeypatch.setattr(checkpoints._checkpointer, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(5, make_state(5))
        assert finished_steps(tmp_path) == [5]
    assert arrays_digest(restore(tmp_path)) == arrays_digest(make_state(5))


def test_no_checkpoint_is_an_error_that_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="must hold at least one checkpoint"):
        restore(tmp_path)
    with pytest.raises(CheckpointError, match="must hold at least one checkpoint"):
        restore(tmp_path / "absent")
    save(tmp_path, [4])
    with pytest.raises(CheckpointError, match=r"no checkpoint of update 5; it holds those of \[4\]"):
        restore(tmp_path, step=5)


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    save(tmp_path, [4])
    with pytest.raises(CheckpointError, match="another config"):
        restore(tmp_path, config_digest="b" * 64)


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path):
    save(tmp_path, [4])
    with pytest.raises(CheckpointError, match=r"altered or foreign are .*kernel"):
        restore_checkpoint(tmp_path, abstract_of(make_state(width=13)), config_digest=DIGEST)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [half, flipped, lambda path: path.unlink()])
def test_damage_to_any_file_is_told(tmp_path, damage):
    save(tmp_path / "whole", [4])
    files = sorted(path for path in (tmp_path / "whole" / "4").rglob("*") if path.is_file())
    assert len(files) > 5
    for file in files:
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
        damage(tmp_path / "damaged" / file.relative_to(tmp_path / "whole"))
        with pytest.raises(
            CheckpointError, match=r"(is damaged|as it was saved).*Delete|must hold at least one checkpoint"
        ):
            restore(tmp_path / "damaged")


def test_an_unfinished_checkpoint_counts_as_absent_and_is_removed(tmp_path):
    """A kill between Orbax's rename and the manifest leaves a folder that looks whole."""
    save(tmp_path, [4, 5])
    (tmp_path / "5" / "manifest.json").unlink()
    (tmp_path / "6.orbax-checkpoint-tmp").mkdir()
    assert finished_steps(tmp_path) == [4]
    assert arrays_digest(restore(tmp_path)) == arrays_digest(make_state(4))
    assert save(tmp_path, [5]) == [True]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["4", "5"]
    assert arrays_digest(restore(tmp_path)) == arrays_digest(make_state(5))


def test_a_full_disk_is_told_and_costs_no_earlier_checkpoint(tmp_path):
    save(tmp_path, [4])
    with file_size_limit(900), pytest.raises(StorageError, match="the earlier checkpoints are as they were"):
        save(tmp_path, [5])
    assert arrays_digest(restore(tmp_path)) == arrays_digest(make_state(4))
    assert save(tmp_path, [6]) == [True]  # there is room again
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["4", "6"]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="must be a folder that can be written"):
        save(tmp_path / "file" / "checkpoints", [1])
