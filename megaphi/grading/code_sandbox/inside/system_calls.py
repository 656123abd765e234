"""The system calls that no program of a test may make: a seccomp filter, installed through the standard library alone.

What is not in the table is allowed; the table holds what reaches other processes (ptrace), makes namespaces or mounts,
opens sockets of any kind, keeps something in the kernel beyond the process (keys, message queues), holds memory that no
limit counts (memfd, System V segments), or is a known way into the kernel (bpf, io_uring, userfaultfd). They fail with
EPERM, so that a library that only tries goes on. `clone3` fails with ENOSYS: its flags lie in memory where no filter
sees them, and the C library then takes `clone`, whose flags are looked at.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from functools import cache

# name: number on x86-64, on AArch64
DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "socket": (41, 198),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "personality": (135, 92),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "quotactl": (179, 60),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
}
CLONE, CLONE3 = (56, 220), 435
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone takes: cgroup, uts, ipc, user, pid, net, mount
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_OTHER_ABI = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER_MODE = 38, 22, 2


def is_filtered() -> bool:
    """Return whether the table covers this machine's architecture."""
    return os.uname().machine in _MACHINES


def install_filter() -> None:
    """Deny the table to this process and all that it starts, for good. Raises `OSError`."""
    prepared = prepared_filter()
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if _libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(prepared), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


@cache
def prepared_filter() -> _Program:
    """The filter as the kernel takes it: made once by the fork server, because each test installs it."""
    program = filter_program(os.uname().machine)
    return _Program(len(program) // 8, program)


def filter_program(machine: str) -> bytes:
    """The filter as instructions of the kernel's packet filter (Documentation/userspace-api/seccomp_filter.rst)."""
    column, architecture = _MACHINES[machine]
    deny = _FAIL | errno.EPERM
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _OTHER_ABI),
        (_RETURN, 0, 0, deny),
    ]
    for numbers in DENIED.values():
        program += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, deny)]
    program += [
        (_EQUAL, 0, 1, CLONE3),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
        (_EQUAL, 0, 4, CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_AND, 0, 0, _NEW_NAMESPACES),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, deny),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
