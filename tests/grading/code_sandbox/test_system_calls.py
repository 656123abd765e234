"""The filter of system calls: it denies what its table names, in a process of its own; the numbers are the kernel's."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from megaphi.grading.code_sandbox.inside.system_calls import CLONE, CLONE3, DENIED, install_filter, is_filtered

HEADERS = {
    "x86-64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0),
    "AArch64": ("/usr/include/asm-generic/unistd.h", 1),
}


@pytest.mark.parametrize("architecture", HEADERS)
def test_the_numbers_are_those_of_the_kernels_headers(architecture: str) -> None:
    path, column = HEADERS[architecture]
    if not Path(path).exists():
        pytest.skip(f"no {path}: it comes with the C library's headers")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(path).read_text()))
    ours = {name: pair[column] for name, pair in DENIED.items()} | {"clone": CLONE[column], "clone3": CLONE3}
    known = {name: int(numbers[name]) for name in ours if name in numbers}
    assert {name: ours[name] for name in known} == known
    assert len(known) > 40


def in_a_fork(action: Callable[[], object]) -> bool:
    """Return whether the action raises nothing in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def thread_and_fork() -> None:
    import subprocess
    import threading

    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    subprocess.run(["/bin/true"], check=True)
    assert socket.socketpair()


@pytest.mark.skipif(not is_filtered(), reason="the table does not cover this architecture")
def test_what_works_without_the_filter_is_denied_with_it_and_the_rest_goes_on() -> None:
    def denied() -> None:
        install_filter()
        for action in (socket.socket, lambda: os.memfd_create("a")):
            with pytest.raises(PermissionError):
                action()

    def allowed() -> None:
        install_filter()
        thread_and_fork()

    assert in_a_fork(socket.socket)
    assert in_a_fork(lambda: os.memfd_create("a"))
    assert in_a_fork(denied)
    assert in_a_fork(allowed)
