"""The Linux interfaces behind the walls that Python has no names for: namespaces, mounts, Landlock, seccomp.

Numbers are those of the kernel's public headers (linux/sched.h, mount.h, landlock.h, seccomp.h, filter.h, unistd.h).
Functions that return a bool say whether the system granted it; the others raise `OSError`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable
from pathlib import Path

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
_SYS_MOUNT_SETATTR, _SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_ADD, _SYS_LANDLOCK_RESTRICT = 442, 444, 445, 446

# System calls that generated code has no use for, by architecture: (audit number, {name: number}).
_SHARED_NUMBERS = {"io_uring_setup": 425, "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438}
_DENIED = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kill": 62, "tkill": 200,
            "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "unshare": 272, "setns": 308, "mount": 165,
            "bpf": 321, "keyctl": 250, "add_key": 248, "request_key": 249, "userfaultfd": 323, "perf_event_open": 298,
            "open_by_handle_at": 304,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kill": 129, "tkill": 130,
            "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "unshare": 97, "setns": 268, "mount": 40,
            "bpf": 280, "keyctl": 219, "add_key": 217, "request_key": 218, "userfaultfd": 282, "perf_event_open": 241,
            "open_by_handle_at": 265,
        },
    ),
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> bool:
    """Leave the namespaces named by `flags` for new ones."""
    return _libc.unshare(flags) == 0


def map_user(uid: int, gid: int) -> None:
    """Keep this user's and group's own numbers inside a new user namespace."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def set_dumpable(is_dumpable: bool) -> None:
    """Say whether others of the same user may trace this process or look into its folder under /proc."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, int(is_dumpable), 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def become_subreaper() -> None:
    """Become the parent of every orphan below."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent() -> None:
    """Be killed when the parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def forbid_new_privileges() -> None:
    """Let no program that is started gain rights; Landlock and seccomp ask for this first."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def drop_capabilities() -> None:
    """Give up every capability held in a user namespace."""
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3: two words for each of three sets
    _check(_libc.capset(header, bytes(24)), "capset")


def mount_private() -> None:
    """Let no mount made here be seen outside."""
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount private")


def mount_memory(target: str, size_bytes: int) -> None:
    """Mount a folder of limited size in memory."""
    options = f"size={size_bytes},mode=755,nr_inodes=4096".encode()
    _check(_libc.mount(b"tmpfs", target.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options), f"mount tmpfs {target}")


def mount_bind(source: str, target: str) -> None:
    """Show `source` at `target` too."""
    _check(_libc.mount(source.encode(), target.encode(), None, _MS_BIND | _MS_REC, None), f"bind {source}")


def make_read_only(folder: str, *, except_for: str) -> None:
    """Make a mount and all below it read-only, but for one of them."""
    _set_mount(folder, struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0))
    _set_mount(except_for, struct.pack("=QQQQ", 0, _MOUNT_ATTR_RDONLY, 0, 0))


def unmount(target: str) -> None:
    """Take away what was mounted at `target`, if anything."""
    _libc.umount2(target.encode(), _MNT_DETACH)


def _set_mount(folder: str, attributes: bytes) -> None:
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR, _AT_FDCWD, folder.encode(), _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes))
    )
    _check(result, f"mount_setattr {folder}")


def landlock(readable: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> bool:
    """Refuse this process every file but those below the given folders, TCP, and signals to others."""
    version = _libc.syscall(_SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    num_rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    rights = (1 << num_rights) - 1
    attributes = struct.pack("=QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _libc.syscall(_SYS_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    read_file, read_folder, execute, write_file = 1 << 2, 1 << 3, 1 << 0, 1 << 1
    allowed = [(path, read_file | read_folder) for path in readable]
    allowed += [(path, rights & ~execute) for path in writable]
    allowed += [(path, read_file | write_file) for path in devices]
    try:
        for path, access in allowed:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            _check(_libc.syscall(_SYS_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", access, fd), 0), f"landlock {path}")
            os.close(fd)
        return _libc.syscall(_SYS_LANDLOCK_RESTRICT, ruleset, 0) == 0
    except OSError:
        return False
    finally:
        os.close(ruleset)


def deny_system_calls() -> bool:
    """Make the denied system calls fail with EPERM, for this process and its children, for ever."""
    if platform.machine() not in _DENIED:
        return False
    audit, own_numbers = _DENIED[platform.machine()]
    numbers = sorted({**_SHARED_NUMBERS, **own_numbers}.values())
    load, jump_equal, jump_greater_equal, give = 0x20, 0x15, 0x35, 0x06
    allow, fail, kill = 0x7FFF0000, 0x00050000 | 1, 0x80000000
    program = [
        (load, 0, 0, 4),  # the architecture
        (jump_equal, 1, 0, audit),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the call
        (jump_greater_equal, len(numbers) + 1, 0, 0x40000000),  # the x32 copies of the calls
        *((jump_equal, len(numbers) - index, 0, number) for index, number in enumerate(numbers)),
        (give, 0, 0, allow),
        (give, 0, 0, fail),
    ]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    return _libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0) == 0
