"""The walls around the candidate, each taken where the system gives it, and the list of those that stand.

| wall | what it does | needs |
|---|---|---|
| rlimits | CPU seconds, address space, file size, open files, no core files | POSIX |
| user | an unprivileged user id of its own; process limit counts for it alone | root |
| user_namespace | a namespace of its own, all capabilities dropped | Linux, allowed to users |
| processes | own process namespace: sees nobody, and nothing of it outlives it | Linux namespaces |
| network | own, empty network namespace | Linux namespaces |
| root | a private root: the system's libraries read-only, one scratch folder of limited size | Linux namespaces |
| landlock | writing in the scratch folder alone, reading libraries alone, no TCP | Linux >= 5.13 |
| seccomp | no sockets, no signals to others, no tracing, no namespaces | Linux, x86_64 or aarch64 |

The kernel interfaces are in `kernel_calls`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hierrouter_jax.tasks.sandboxed import kernel_calls as kernel

_SYSTEM_FOLDERS = ("/usr", "/lib", "/lib32", "/lib64", "/nix/store")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_NOBODY = 65534
_FIRST_USER, _NUM_USERS = 60_000, 5_000  # a range that no distribution hands out


@dataclass(frozen=True, kw_only=True)
class WallSettings:
    """What the candidate may use. `scratch` is an empty folder made for this run; `without` leaves walls out."""

    scratch: str
    wall_s: float
    cpu_s: int
    memory_bytes: int
    scratch_bytes: int
    num_processes: int
    max_output_bytes: int
    without: Sequence[str] = ()


def enter_namespaces(settings: WallSettings) -> list[str]:
    """Move the calling process, and so the child it forks next, into namespaces; return the walls this gives."""
    if not sys.platform.startswith("linux"):
        return []
    kernel.become_subreaper()  # orphans of the candidate come to the judge, which ends them
    entered: list[str] = []
    uid, gid = os.getuid(), os.getgid()
    if uid != 0 and "user_namespace" not in settings.without and kernel.unshare(kernel.CLONE_NEWUSER):
        kernel.map_user(uid, gid)
        entered.append("user_namespace")
    kernel.set_dumpable(False)  # nobody of the same user reads the judge's memory or descriptors
    if uid != 0 and not entered:
        return entered
    wanted = {
        "processes": kernel.CLONE_NEWPID,
        "network": kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC,
        "root": kernel.CLONE_NEWNS,
    }
    for wall, flags in wanted.items():
        if wall not in settings.without and kernel.unshare(flags):
            entered.append(wall)
    return entered


def candidate_user(judge_pid: int) -> int:
    """Return the user id of a judge's candidate: its own, because the process limit counts by user."""
    return _FIRST_USER + judge_pid % _NUM_USERS


def close_in(
    settings: WallSettings, entered: Sequence[str], *, user_id: int, keep_fds: Sequence[int], output_fd: int
) -> list[str]:
    """Put the calling process behind every wall that can be had; return their names. Cannot be undone."""
    os.setsid()
    _keep_only(keep_fds, output_fd)
    _prefer_for_memory_kill()
    in_force = [wall for wall in entered if wall != "root"]
    scratch = settings.scratch
    if "root" in entered and _private_root(settings):
        scratch = "/scratch"
        in_force.append("root")
    if sys.platform.startswith("linux"):
        kernel.forbid_new_privileges()
        # Before root is given up: Python's own folder may be closed to others, and the rules are made by opening it.
        if "landlock" not in settings.without and kernel.landlock(_readable(), (scratch,), _DEVICES):
            in_force.append("landlock")
    os.chdir(scratch)  # while the folders above it, which may be closed to others, can be passed
    if os.getuid() == 0:
        if "root" not in in_force:
            _load_standard_modules()
        _drop_user(scratch, user_id)
        in_force.append("user")
    elif "user_namespace" in entered:
        kernel.drop_capabilities()
    os.environ.update({"HOME": scratch, "TMPDIR": scratch})
    os.umask(0o077)
    if sys.platform.startswith("linux"):
        kernel.die_with_parent()  # after the change of user, which would undo it
        if "seccomp" not in settings.without and kernel.deny_system_calls():
            in_force.append("seccomp")
    _set_limits(settings)
    in_force.append("rlimits")
    return in_force


def _keep_only(keep_fds: Sequence[int], output_fd: int) -> None:
    """Close every descriptor but the two of the conversation; read nothing, write to the judge's pipe."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    start = 3
    for fd in sorted(keep_fds):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, max(os.sysconf("SC_OPEN_MAX"), 256) if os.sysconf("SC_OPEN_MAX") < 2**20 else 2**16)


def _prefer_for_memory_kill() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _private_root(settings: WallSettings) -> bool:
    """Make the scratch folder a small root of its own, with libraries read-only, and move into it."""
    new_root = settings.scratch
    try:
        kernel.mount_private()
        kernel.mount_memory(new_root, settings.scratch_bytes)
        for folder in _readable():
            _bind(new_root, folder)
        os.mkdir(f"{new_root}/dev")
        for device in _DEVICES:
            Path(new_root + device).touch()
            kernel.mount_bind(device, new_root + device)
        os.mkdir(f"{new_root}/scratch", 0o700)
        kernel.mount_memory(f"{new_root}/scratch", settings.scratch_bytes)
        kernel.make_read_only(new_root, except_for=f"{new_root}/scratch")
    except OSError:
        kernel.unmount(new_root)
        return False
    os.chroot(new_root)
    os.chdir("/")
    return True


def _bind(new_root: str, folder: str) -> None:
    """Show a folder of the system at the same place in the new root; a link stays a link."""
    target = new_root + folder
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if os.path.islink(folder):
        os.symlink(os.readlink(folder), target)
        return
    os.makedirs(target, mode=0o755, exist_ok=True)
    kernel.mount_bind(folder, target)


def _readable() -> list[str]:
    """Return the folders that Python's standard library and its shared objects need."""
    library = os.path.realpath(os.path.join(sys.base_prefix, "lib"))
    folders = [folder for folder in _SYSTEM_FOLDERS if os.path.exists(folder)]
    if not any(library.startswith(f"{folder}/") for folder in folders):
        folders.append(library)
    return folders


def _load_standard_modules() -> None:
    """Import what small programs use while this user can still read it: Python may live in a private home folder."""
    if os.stat(os.path.realpath(os.__file__)).st_mode & 0o4 and _is_path_open(os.path.realpath(os.__file__)):
        return
    names = (
        "_strptime bisect calendar cmath collections copy dataclasses datetime decimal enum fractions functools "
        "heapq itertools json math numbers operator queue random re statistics string textwrap time typing "
        "unicodedata hashlib base64 array struct ast traceback contextlib abc"
    )
    for name in names.split():
        __import__(name)


def _is_path_open(path: str) -> bool:
    """Whether everybody may pass through the folders above a file."""
    return all(os.stat(folder).st_mode & 0o1 for folder in Path(path).parents)


def _drop_user(scratch: str, user_id: int) -> None:
    """Give up root for a user id that nobody else has, and the scratch folder with it."""
    for user in (user_id, _NOBODY):  # a container may know few user ids, but it knows nobody
        try:
            os.chown(scratch, user, user)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            return
        except OSError:
            continue
    raise PermissionError("root could not be given up, and generated code must not run as root")


def _set_limits(settings: WallSettings) -> None:
    """Set the limits of the process; a child inherits them, and the number of processes is bounded."""
    limits = {
        "RLIMIT_CPU": settings.cpu_s,
        "RLIMIT_AS": settings.memory_bytes,
        "RLIMIT_FSIZE": settings.scratch_bytes,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_NPROC": settings.num_processes,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    for name, value in limits.items():
        number = getattr(resource, name, None)
        if number is None:
            continue
        hard = resource.getrlimit(number)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(number, (bound, bound))
        except (ValueError, OSError):  # macOS has no working address-space limit
            if name != "RLIMIT_AS":
                raise
