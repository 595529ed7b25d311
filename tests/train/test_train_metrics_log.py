import struct

import pytest
from full_disk import file_size_limit
from tensorboardX.proto.event_pb2 import Event

from hierrouter_jax.core.errors import CheckpointError, StorageError
from hierrouter_jax.train.metrics_log import MetricsLog, read_metrics


def lines(first, last):
    return [{"update": update, "utility": update / 7} for update in range(first, last + 1)]


def read_events(run_dir):
    """{(tag, step): value} of all event files, by the TFRecord format: length, crc, data, crc."""
    scalars = {}
    for path in sorted(run_dir.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                scalars[value.tag, event.step] = value.simple_value
            data = data[16 + length :]
    return scalars


def test_lines_and_events_hold_every_update(tmp_path):
    with MetricsLog(tmp_path, num_finished=0) as log:
        log.append(lines(1, 3), {"hops_per_s": 17.0})
        assert read_metrics(tmp_path) == lines(1, 3)
        log.append([*lines(4, 4), {"update": 5, "utility": 0.5, "validation/quality": 0.25}], {"hops_per_s": 19.0})
    assert [row["update"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    events = read_events(tmp_path)
    assert events["train/utility", 2] == pytest.approx(2 / 7)
    assert events["validation/quality", 5] == 0.25
    assert events["speed/hops_per_s", 3] == 17.0
    assert "hops_per_s" not in str(read_metrics(tmp_path))  # wall-clock figures would differ from run to run


def test_what_lies_beyond_the_checkpoint_is_dropped(tmp_path):
    with MetricsLog(tmp_path, num_finished=0) as log:
        log.append(lines(1, 7), {})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update":8,"util')  # a kill in the middle of a line
    assert read_metrics(tmp_path) == lines(1, 7)
    with MetricsLog(tmp_path, num_finished=5) as log:
        assert read_metrics(tmp_path) == lines(1, 5)
        log.append(lines(6, 6), {})
    assert read_metrics(tmp_path) == lines(1, 6)


def test_a_cut_line_that_is_valid_json_is_still_cut(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"update":1,"utility":0.5}\n{"update":2,"utility":0.5}')
    assert read_metrics(tmp_path) == [{"update": 1, "utility": 0.5}]


def test_a_full_disk_is_told_and_the_record_goes_on_later(tmp_path):
    with MetricsLog(tmp_path, num_finished=0) as log:
        log.append(lines(1, 2), {})
    told = pytest.raises(StorageError, match="then resume the run")
    with told, file_size_limit(500), MetricsLog(tmp_path, num_finished=2) as log:
        log.append(lines(3, 90), {})
    assert read_metrics(tmp_path)[:2] == lines(1, 2)
    assert len(read_metrics(tmp_path)) < 90
    with MetricsLog(tmp_path, num_finished=2) as log:
        log.append(lines(3, 5), {})
    assert read_metrics(tmp_path) == lines(1, 5)


@pytest.mark.parametrize("kept", [[1, 2, 4, 5], [1, 2, 2, 3, 4], [1, 2, 3]])
def test_missing_or_doubled_lines_are_refused(tmp_path, kept):
    text = "".join(f'{{"update":{update}}}\n' for update in kept)
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match="one line for each of the 4 updates"):
        MetricsLog(tmp_path, num_finished=4)
    assert (tmp_path / "metrics.jsonl").read_text() == text
