"""The sandbox: what a program may do to itself, it may; what it does to its score or its surroundings is nothing.

Every bomb here would be harmless if the sandbox were not there: it is small, or goes off only where it sees its limit.
The attacks run behind all walls and, where it matters, with some of them left out, as a system may grant only the
others.
"""

import contextlib
import os
import re
import resource
import secrets
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.tasks.sandbox import SandboxLimits, run_program

LIMITS = SandboxLimits(cpu_s=1, wall_s=20.0)
NAMESPACES = ("user_namespace", "processes", "network", "root")
# What a system without namespaces leaves, and what one without Landlock and seccomp leaves.
WALL_SETS = {"all": (), "no_namespaces": NAMESPACES, "no_kernel_filters": ("landlock", "seccomp")}
SECCOMP_ALONE = (*NAMESPACES, "landlock")
LANDLOCK_ALONE = (*NAMESPACES, "seccomp")

every_wall_set = pytest.mark.parametrize("without", list(WALL_SETS.values()), ids=list(WALL_SETS))


def judge(program, tests="assert f(3) == 5", *, limits=LIMITS, without=(), support="", entry_point="f"):
    return run_program(program, [tests], entry_point=entry_point, limits=limits, without_walls=without, support=support)


def value_of(program, *, without=()):
    """Return the repr of f(3), by way of the message of an exception, and the result."""
    result = judge(program, "raise LookupError(repr(f(3)))", without=without)
    assert result.status == "error", result
    assert result.detail.startswith("LookupError: "), result
    return result.detail.removeprefix("LookupError: "), result


@every_wall_set
def test_right_and_wrong_programs(without):
    right = judge("def f(x):\n    print('seen')\n    return x + 2", without=without)
    assert (right.status, right.is_passed, right.output) == ("passed", True, "seen\n")
    assert "rlimits" in right.walls
    assert not set(right.walls) & set(without)
    wrong = judge("def f(x):\n    return x + 3", without=without)
    assert (wrong.status, wrong.is_passed) == ("failed", False)


FORGERIES = {
    "sys.exit at import": "import sys\nsys.exit(0)",
    "sys.exit in the function": "import sys\ndef f(x):\n    sys.exit(0)",
    "os._exit at import": "import os\nos._exit(0)",
    "os._exit in the function": "import os\ndef f(x):\n    os._exit(0)",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x):\n    raise SystemExit(0)",
    "equal to everything": "class E:\n    def __eq__(self, other): return True\ndef f(x):\n    return E()",
    "int equal to everything": (
        "class E(int):\n    __hash__ = int.__hash__\n    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\ndef f(x):\n    return E(4)"
    ),
    "mute assertion": "import builtins\nbuiltins.AssertionError = SystemExit\ndef f(x):\n    return 4",
    "patched builtins": (
        "import builtins\nfor name in ('all', 'any', 'bool', 'isinstance', 'abs'):\n"
        "    setattr(builtins, name, lambda *a: True)\ndef f(x):\n    return 4"
    ),
    "patched frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        frame.f_globals.update(f=lambda x: 5, check=print, AssertionError=SystemExit)\n"
        "        frame = frame.f_back\n    return 4"
    ),
    "trace function": "import sys\nsys.settrace(lambda *a: sys.exit(0))\ndef f(x):\n    return 4",
    "verdict on every descriptor": """
import json, os
verdict = {'status': 'passed', 'detail': '', 'walls': [], 'output': '', 'nonce': ''}
body = json.dumps(verdict).encode()
for fd in range(64):
    try:
        os.write(fd, len(body).to_bytes(4, 'big') + body)
    except OSError:
        pass
def f(x):
    return 4
""",
    "message that is no value": """
import os
for fd in range(3, 64):
    try:
        os.write(fd, bytes([0, 0, 0, 5]) + b'{"a":')
    except OSError:
        pass
def f(x):
    return 4
""",
    "kill the judge": "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 4",
    "never defined": "g = 3",
    "not callable": "f = 5",
    "not python": "def f(x: return",
    "waits for input": "def f(x):\n    return int(input())",
}


@pytest.mark.parametrize("program", list(FORGERIES.values()), ids=list(FORGERIES))
def test_forged_passes_fail(program):
    result = judge(program)
    assert not result.is_passed
    assert result.status in ("failed", "error", "crashed")


@pytest.mark.parametrize("name", ["verdict on every descriptor", "kill the judge", "equal to everything"])
@pytest.mark.parametrize("without", list(WALL_SETS.values())[1:], ids=list(WALL_SETS)[1:])
def test_forged_passes_fail_without_some_walls(name, without):
    assert not judge(FORGERIES[name], without=without).is_passed


def test_equal_to_everything_inside_a_container():
    evil = "class E(str):\n    __hash__ = str.__hash__\n    def __eq__(self, other): return True\n"
    assert not judge(evil + "def f(x):\n    return [{'k': E('no')}]", "assert f(3) == [{'k': 'yes'}]").is_passed
    assert judge(evil + "def f(x):\n    return [{'k': E('yes')}]", "assert f(3) == [{'k': 'yes'}]").is_passed


def test_helpers_and_builtins_of_the_tests_are_not_the_programs():
    forged = "def error(a, b): return 0\ndef abs(x): return 0\nimport math\nmath.fabs = abs\ndef f(x):\n    return 4"
    support = "def error(a, b):\n    return abs(a - b)"
    for call in ("abs(f(3) - 5)", "math.fabs(f(3) - 5)", "__import__('math').fabs(f(3) - 5)", "error(f(3), 5)"):
        assert judge(forged, f"assert {call} < 1e-6", support=support).status == "failed"
        assert judge("def f(x):\n    return 5", f"assert {call} < 1e-6", support=support).is_passed


def test_program_may_be_named_like_a_builtin():
    assert judge("def sum(a, b):\n    return a * b", "assert sum(3, 5) == 15", entry_point="sum").is_passed


SEARCH = """
import gc, sys
OWN = 'own-' + 'mark'
def f(x):
    parts = [repr(thing)[:100000] for thing in gc.get_objects() if isinstance(thing, (list, dict, tuple))]
    frame = sys._getframe().f_back
    while frame:  # up to the judge's own main, from which the candidate was forked
        parts.extend(repr(value) for value in frame.f_locals.values())
        frame = frame.f_back
    text = ' '.join(parts)
    return ['-'.join(['own', 'mark']) in text, '-'.join(['test', 'mark']) in text]
"""


@every_wall_set
def test_neither_tests_nor_nonce_are_in_the_candidates_memory(without):
    # The nonce comes in the same message as the tests, so where the tests are not, it is not.
    result = judge(SEARCH, "test_mark = 'test-mark'\nraise LookupError(f(3))", without=without)
    assert result.detail == "LookupError: [True, False]", result


@every_wall_set
def test_endless_loop(without):
    start = time.monotonic()
    result = judge("def f(x):\n    while True:\n        pass", without=without)
    assert result.status == "timeout"
    assert time.monotonic() - start < LIMITS.wall_s + 10


def test_endless_sleep():
    result = judge("import time\ndef f(x):\n    time.sleep(60)", limits=SandboxLimits(cpu_s=1, wall_s=1.0))
    assert (result.status, result.detail) == ("timeout", "no end after 1.0 s")


def test_endless_tests_end_too():
    result = judge("def f(x):\n    return 5", "while f(3):\n    pass", limits=SandboxLimits(cpu_s=9, wall_s=1.0))
    assert result.status == "timeout"


@every_wall_set
def test_fork_bomb(without):
    bomb = """
import os, time
def f(x):
    made = []
    try:
        for _ in range(40):
            pid = os.fork()
            if pid == 0:
                time.sleep(90)
                os._exit(0)
            made.append(pid)
    except OSError as error:
        return error.errno, made
    return 0, made
"""
    start = time.monotonic()
    shown, _ = value_of(bomb, without=without)
    assert time.monotonic() - start < 60
    errno, pids = int(re.match(r"\((\d+)", shown).group(1)), [int(pid) for pid in re.findall(r"\d+", shown)[1:]]
    assert errno == 11  # EAGAIN: the limit held
    assert len(pids) < LIMITS.num_processes
    if "processes" in without:  # the numbers are ours: see that the children are gone
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


# The programs name their processes, so that these can be counted from outside, in whatever namespace they are.
FORK_BOMB = """
import ctypes, os, resource, time
def f(x):
    if os.getuid() == 0 or not 0 < resource.getrlimit(resource.RLIMIT_NPROC)[0] <= 8:
        return 'there is no limit, so the bomb does not go off'
    ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0)
    while True:
        try:
            os.fork()
        except OSError:
            {then}
"""
# Every process of the bomb comes to the limit; it then goes on trying, or ends f, each with an answer to the judge.
AT_LIMIT = {"goes on": "pass", "ends": "time.sleep(0.5); raise"}


@contextlib.contextmanager
def counted_processes(name):
    """While the block runs, append again and again how many processes have a name; yields the list."""
    counts, is_over = [], threading.Event()

    def count():
        while not is_over.is_set():
            counts.append(len(processes_named(name)))
            time.sleep(0.005)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        is_over.set()
        thread.join()


def processes_named(name):
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and (folder / "comm").read_bytes().strip() == name:
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are counted in /proc")
@every_wall_set
@pytest.mark.parametrize("then", list(AT_LIMIT.values()), ids=list(AT_LIMIT))
def test_fork_bomb_whose_children_fork(then, without):
    name, start = b"bomb-" + secrets.token_hex(4).encode(), time.monotonic()
    with counted_processes(name) as counts:
        limits = SandboxLimits(cpu_s=1, wall_s=5.0)
        result = judge(FORK_BOMB.format(name=name, then=then), limits=limits, without=without)
    assert time.monotonic() - start < 60
    assert processes_named(name) == []
    assert result.status in ("error", "crashed", "timeout"), result
    assert 2 <= max(counts) <= limits.num_processes  # it went off, and the limit held


def test_children_that_leave_their_group_are_ended():
    daemon = """
import os, time
def f(x):
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            time.sleep(20)
        os._exit(0)
    return int(os.read(read, 20))
"""
    pid, _ = value_of(daemon, without=NAMESPACES)
    assert not Path(f"/proc/{pid}").exists()


@every_wall_set
def test_memory_bomb(without):
    bomb = "def f(x):\n    kept = []\n    for _ in range(64):\n        kept.append(bytearray(2 ** 25))\n    return 5"
    result = judge(bomb, limits=SandboxLimits(cpu_s=3, wall_s=30.0, memory_bytes=2**28), without=without)
    assert (result.status, result.detail) == ("error", "MemoryError: ")


@every_wall_set
def test_gigabyte_of_output_is_thrown_away_and_counts_for_nothing(tmp_path, monkeypatch, without):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    # A quarter of the flood for the program's memory, and so half of it for the judge's: whoever kept it would fail.
    limits = SandboxLimits(cpu_s=9, wall_s=60.0, memory_bytes=2**28, max_output_bytes=1009)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for answer, status in (("x + 2", "passed"), ("x + 3", "failed")):
        flood = f"""
def f(x):
    line = 'x' * (2 ** 20 - 1)
    written = sum(print(line) is None for _ in range(1024))
    return {answer} if written == 1024 else 'cut short'
"""
        result = judge(flood, limits=limits, without=without)
        assert (result.status, result.output) == (status, "x" * 1009)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 2**16
    assert list(tmp_path.iterdir()) == []


def test_value_too_large_to_hand_over():
    result = judge("def f(x):\n    return 'x' * 10 ** 7", limits=SandboxLimits(cpu_s=3, wall_s=30.0))
    assert result.status == "error"
    assert "too large" in result.detail


def outside_places(tmp_path):
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    for folder in (open_folder, *open_folder.parents):
        if folder.owner() == Path.home().owner() and folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o777)
    name = f"hierrouter-escape-{os.getpid()}"
    places = [str(open_folder), "/tmp", "/var/tmp", "/dev/shm", "/", str(Path.home()), str(Path(__file__).parent), ".."]
    return [f"{place}/{name}" for place in places]


@pytest.mark.parametrize("without", [*WALL_SETS.values(), LANDLOCK_ALONE], ids=[*WALL_SETS, "landlock_alone"])
def test_write_outside_the_scratch_folder(tmp_path, without):
    places = outside_places(tmp_path)
    program = f"""
def f(x):
    written = []
    for place in {places!r} + ['inside']:
        try:
            with open(place, 'w') as file:
                file.write('x')
            written.append(place)
        except OSError:
            pass
    return written
"""
    shown, result = value_of(program, without=without)
    if not result.is_file_isolated:
        pytest.skip("this system grants neither mount namespaces nor Landlock")
    assert shown == "['inside']"
    assert not [place for place in places if Path(place).exists()]


def test_private_root_is_read_only():
    program = (
        "import os\ndef f(x):\n    return [os.statvfs(place).f_flag & os.ST_RDONLY for place in ('/', '/usr', '.')]"
    )
    shown, result = value_of(program)
    if "root" not in result.walls:
        pytest.skip("this system grants no mount namespaces")
    assert shown == "[1, 1, 0]"


def test_files_are_limited():
    program = """
def f(x):
    written = 0
    try:
        for index in range(64):
            with open(f'part{index}', 'wb') as file:
                written += file.write(bytes(2 ** 20))
    except OSError:
        pass
    return written
"""
    shown, result = value_of(program)
    if "root" not in result.walls:
        pytest.skip("this system grants no mount namespaces; the sum of all files is then not promised")
    assert int(shown) <= LIMITS.scratch_bytes
    single = "def f(x):\n    with open('one', 'wb') as file:\n        file.write(bytes(2 ** 25))\n    return 5"
    assert judge(single, without=NAMESPACES).status == "error"


@every_wall_set
def test_environment_secret(monkeypatch, without):
    monkeypatch.setenv("HIERROUTER_TEST_TOKEN", "sesame-opens")
    program = f"""
import os
def f(x):
    texts = [repr(dict(os.environ))]
    for pid in ('self', 1, os.getppid(), {os.getpid()}):
        try:
            texts.append(open(f'/proc/{{pid}}/environ').read())
        except OSError:
            pass
    return 'sesame' in ' '.join(texts), sorted(os.environ)
"""
    shown, _ = value_of(program, without=without)
    assert shown == "(False, ['HOME', 'LANG', 'PATH', 'PYTHONHASHSEED', 'PYTHONUTF8', 'TMPDIR'])"


def test_files_of_the_user_cannot_be_read(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("sesame")
    for without in WALL_SETS.values():
        result = judge(f"def f(x):\n    return open({str(secret)!r}).read()", without=without)
        if result.is_file_isolated:
            assert result.status == "error"
            assert result.detail.startswith(("FileNotFoundError", "PermissionError"))


@contextlib.contextmanager
def listening(kind):
    """A server of one kind; yields it and its address as the C library takes it."""
    family = socket.AF_INET if kind in ("tcp", "udp") else socket.AF_UNIX
    with (
        socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as server,
        tempfile.TemporaryDirectory(dir="/tmp") as folder,  # short: the path of a socket has 107 bytes
    ):
        os.chmod(folder, 0o755)
        path = f"{folder}/socket"
        abstract = b"\0hierrouter-" + secrets.token_hex(4).encode()
        server.bind({"path": path, "abstract": abstract}.get(kind, ("127.0.0.1", 0)))
        if kind == "path":
            os.chmod(path, 0o777)
        if kind != "udp":
            server.listen()
        server.settimeout(0.3)
        start = int(family).to_bytes(2, sys.byteorder)
        if family == socket.AF_UNIX:
            yield server, start + (path.encode() + b"\0" if kind == "path" else abstract)
        else:
            yield server, start + server.getsockname()[1].to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)


def was_reached(server, kind):
    try:
        if kind == "udp":
            server.recv(1)
        else:
            server.accept()[0].close()
    except TimeoutError:
        return False
    return True


def try_to_reach(address, kind, without):
    """Return what a program says of its try, and the result."""
    # Through the C library, which the candidate's process has loaded: Python's own module may be out of its reach.
    program = f"""
import ctypes
libc = ctypes.CDLL(None)
address = {address!r}
def f(x):
    fd = libc.socket(address[0] or address[1], {2 if kind == "udp" else 1}, 0)
    if fd < 0:
        return 'no socket'
    if {kind == "udp"}:
        return 'reached' if libc.sendto(fd, b'x', 1, 0, address, len(address)) == 1 else 'refused'
    return 'reached' if libc.connect(fd, address, len(address)) == 0 else 'refused'
"""
    return value_of(program, without=without)


every_socket = pytest.mark.parametrize("kind", ["tcp", "udp", "abstract", "path"])


@every_socket
@pytest.mark.parametrize("without", [*WALL_SETS.values(), SECCOMP_ALONE], ids=[*WALL_SETS, "seccomp_alone"])
def test_socket(kind, without):
    with listening(kind) as (server, address):
        shown, result = try_to_reach(address, kind, without)
        is_reached = was_reached(server, kind)
    if not result.is_network_isolated:
        pytest.skip("this system grants neither network namespaces nor seccomp")
    assert shown == ("'no socket'" if "seccomp" in result.walls else "'refused'")
    assert not is_reached


@every_socket
def test_without_walls_the_same_programs_reach_their_server(kind):
    """Or they would prove nothing."""
    with listening(kind) as (server, address):
        shown, _ = try_to_reach(address, kind, (*NAMESPACES, "landlock", "seccomp"))
        assert was_reached(server, kind)
    assert shown == "'reached'"


def test_where_nothing_is_granted_the_result_says_so():
    result = judge("def f(x):\n    return 5", without=(*NAMESPACES, "landlock", "seccomp"))
    assert result.is_passed
    assert not result.is_network_isolated
    assert not result.is_file_isolated


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the walls are Linux's")
def test_this_linux_isolates_network_and_files():
    result = judge("def f(x):\n    return 5")
    assert result.is_network_isolated
    assert result.is_file_isolated


def test_own_classes_iterators_and_exceptions_cross():
    program = """
class Node:
    def __init__(self, value):
        self.value, self.left = value, None
    def __eq__(self, other):
        return self.value == other.value
def f(x):
    if isinstance(x, Node):
        return x.left.value
    if x < 0:
        raise ValueError('below')
    return (value for value in range(x))
"""
    tests = """
root = Node(2)
root.left = Node(7)
assert f(root) == 7
assert root.left.value == 7
assert Node(3) == Node(3) and not Node(3) == Node(4) and not Node(3) == 3
assert list(f(3)) == [0, 1, 2]
try:
    f(-1)
except ValueError as error:
    assert str(error) == 'below'
else:
    assert False
"""
    assert judge(program, tests).detail == ""
    assert judge(program, tests).is_passed


def test_same_program_same_verdict():
    dice = "import random\ndef f(x):\n    return [random.random(), list({'a', 'b', 'c', 'd', 'e'}), hash('text')]"
    assert value_of(dice)[0] == value_of(dice)[0]


@pytest.mark.parametrize(
    ("tests", "message"),
    [("assert f(3 == 5", "SyntaxError"), ("assert f(lambda: 3) == 5", "they hand a function to the code under test")],
)
def test_unusable_tests_are_an_error_not_a_score(tests, message):
    with pytest.raises(DataError, match=message):
        judge("def f(x):\n    return 5", tests)


@pytest.mark.parametrize("bad", [{"cpu_s": 0}, {"wall_s": -1.0}, {"memory_bytes": 0}, {"max_output_bytes": -1}])
def test_limits_refuse(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SandboxLimits(**bad)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    program = "import os\nos.mkdir('deep')\nopen('deep/file', 'w').write('x')\ndef f(x):\n    return 5"
    for without in WALL_SETS.values():
        assert judge(program, without=without).is_passed
    assert list(tmp_path.iterdir()) == []
