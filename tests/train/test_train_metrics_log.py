import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from full_disk import file_size_limit
from tensorboardX.proto.event_pb2 import Event, SessionLog

from hierrouter_jax.core.errors import CheckpointError, StorageError
from hierrouter_jax.train.metrics_log import MetricsLog, read_metrics

SECONDS = 120  # a process that takes longer hangs


def lines(first, last):
    return [{"update": update, "utility": update / 7} for update in range(first, last + 1)]


def read_events(run_dir):
    """{(tag, step): value} of all event files as TensorBoard shows them: a start drops what lies at or beyond it."""
    scalars = {}
    for path in sorted(run_dir.glob("events.out.tfevents.*")):
        first, *events = events_of(path)
        assert first.file_version == "brain.Event:2"
        for event in events:
            if event.session_log.status == SessionLog.START:
                scalars = {(tag, step): value for (tag, step), value in scalars.items() if step < event.step}
            for value in event.summary.value:
                scalars[value.tag, event.step] = value.simple_value
    return scalars


def events_of(path):
    """The events of one file by the TFRecord format (length, crc, data, crc), up to one that is cut short."""
    data = path.read_bytes()
    while len(data) >= 16:
        (length,) = struct.unpack("<Q", data[:8])
        if len(data) < 16 + length:
            return
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def open_files(folder):
    links = [Path("/proc/self/fd") / number for number in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if link.is_symlink() and str(folder) in os.readlink(link)]


def test_lines_and_events_hold_every_update(tmp_path):
    with MetricsLog(tmp_path, num_finished=0) as log:
        log.append(lines(1, 3), {"hops_per_s": 17.0})
        assert read_metrics(tmp_path) == lines(1, 3)
        assert len(read_events(tmp_path)) == 4  # written, not waiting
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


FILL_EVENTS = """
import sys
from pathlib import Path
from full_disk import file_size_limit
from hierrouter_jax.core.errors import StorageError
from hierrouter_jax.train.metrics_log import MetricsLog
wide = {f"figure_{index}": float(index) for index in range(97)}  # goes to the events alone
try:
    with file_size_limit(9001), MetricsLog(Path(sys.argv[1]), num_finished=0) as log:
        for update in range(1, 103):
            log.append([{"update": update, "utility": update / 7}], wide)
except StorageError as error:
    print(error)
"""


def test_full_events_beside_lines_that_fit_are_told_at_once(tmp_path):
    """TensorBoard's file is the larger one, so a quota often ends it first. In a process: it may hang at exit."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", FILL_EVENTS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "then resume the run" in done.stdout
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert events.stat().st_size == 9001
    assert (tmp_path / "metrics.jsonl").stat().st_size < 500
    with MetricsLog(tmp_path, num_finished=2) as log:
        log.append(lines(3, 7), {})
    assert read_metrics(tmp_path) == lines(1, 7)
    assert {step for tag, step in read_events(tmp_path) if tag == "train/utility"} == {1, 2, 3, 4, 5, 6, 7}


@pytest.mark.parametrize(
    "fill", [lambda log: log._file.write("x" * 509), lambda log: log._events.add(1, {"x" * 509: 1.0})]
)
def test_a_record_that_cannot_be_closed_is_told_and_the_other_is_closed(tmp_path, fill):
    log = MetricsLog(tmp_path, num_finished=0)
    assert len(open_files(tmp_path)) == 2
    with pytest.raises(StorageError, match="then resume the run"), file_size_limit(503), log:
        fill(log)
    assert open_files(tmp_path) == []


def test_events_of_a_resumed_run_join_those_before_it_within_one_second(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)
    for num_finished in (0, 5, 11):
        with MetricsLog(tmp_path, num_finished=num_finished) as log:
            log.append(lines(num_finished + 1, num_finished + 7), {})
    steps = sorted(step for _, step in read_events(tmp_path))
    assert steps == list(range(1, 19))


@pytest.mark.parametrize("kept", [[1, 2, 4, 5], [1, 2, 2, 3, 4], [1, 2, 3]])
def test_missing_or_doubled_lines_are_refused(tmp_path, kept):
    text = "".join(f'{{"update":{update}}}\n' for update in kept)
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match="one line for each of the 4 updates"):
        MetricsLog(tmp_path, num_finished=4)
    assert (tmp_path / "metrics.jsonl").read_text() == text
