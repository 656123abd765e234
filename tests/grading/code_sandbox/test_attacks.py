"""Attacks on the sandbox, one test each: none passes, none reaches the host, and nothing is left of it afterwards.

Each attack goes through a box that then grades an answer that looks for traces, and a right one, which must still pass.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from megaphi.grading.code_sandbox import sandbox
from megaphi.grading.code_sandbox.isolation import Isolation
from megaphi.grading.code_sandbox.limits import Limits
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from megaphi.grading.question import CodeTests
from tests.grading.code_sandbox.attacks.breaks import BREAKS
from tests.grading.code_sandbox.attacks.floods import DETECTIVE, FLOODS, TRACES
from tests.grading.code_sandbox.attacks.forgeries import FORGERIES
from tests.grading.code_sandbox.attacks.lies import LIES
from tests.grading.code_sandbox.machine import needs_isolation

pytestmark = [pytest.mark.slow, needs_isolation]
ASSERTIONS = CodeTests(
    language="python",
    entry_point="square",
    tests="def check(square):\n    assert square(2) == 4\n    assert square(3) == 9\n    assert square(-12) == 144\n",
)
PAIRS = CodeTests(
    language="python",
    entry_point="square",
    tests=json.dumps([{"arguments": [number], "value": number * number} for number in (2, 3, -12)]),
)
RIGHT = "def square(n):\n    return n * n\n"
LIMITS = Limits(cpu_seconds=5, wall_seconds=20, memory_bytes=256 << 20, processes=40)
SHORT = Limits(cpu_seconds=1, wall_seconds=2.5, memory_bytes=256 << 20, processes=40)
SECRET = "the host's own words"


class Host:
    """Things that an attack could reach if it got out: a sandbox in use, a port, a socket, a file."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = CodeSandbox(workers=1, limits=LIMITS)
        self.port = socket.create_server(("127.0.0.1", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0megaphi-test-{os.getpid()}")
        self.abstract.listen()
        self.secret = folder / "secret"
        self.secret.write_text(SECRET)

    def filled(self, source: str) -> str:
        places = {
            "port": str(self.port.getsockname()[1]),
            "abstract": f"megaphi-test-{os.getpid()}",
            "secret": str(self.secret),
            "parent": str(os.getpid()),
        }
        for name, place in places.items():
            source = source.replace(f"{{{name}}}", place)
        return source

    def processes(self) -> set[int]:
        """All processes that this one has started, and theirs."""
        return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        with host.sandbox, host.port, host.abstract:
            host.sandbox.grade([(ASSERTIONS, RIGHT)])
            yield host


WRONG = LIES | FORGERIES
ATTACKS = WRONG | BREAKS | TRACES
HARMLESS = """
    the password file, a file of the host, a symbolic link to a file of the host, a path upwards, folders of the host,
    the source of megaphi, the environment, other processes in /proc, a signal to the parent, descriptors by pidfd
""".split(",")


def test_there_are_many_attacks_and_each_has_a_name_of_its_own() -> None:
    assert len(ATTACKS | FLOODS) == sum(map(len, (LIES, FORGERIES, BREAKS, TRACES, FLOODS))) >= 100


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_neither_passes_nor_stays(name: str, host: Host) -> None:
    attack, before = host.filled(ATTACKS[name]), host.processes()
    tests = PAIRS if len(name) % 2 else ASSERTIONS  # both ways of comparing face attacks of each kind
    attacked, after_it, honest = host.sandbox.grade([(tests, attack), (tests, DETECTIVE), (tests, RIGHT)])
    assert attacked.outcome == "wrong", attacked
    assert after_it.outcome == "wrong", f"{name} left traces: {after_it}"
    assert honest.outcome == "right", honest
    assert host.processes() == before
    assert host.secret.read_text() == SECRET


def test_floods_end_at_their_limits_and_the_boxes_live_on() -> None:
    children = psutil.Process().children
    with CodeSandbox(workers=2, limits=SHORT) as sandbox:
        sandbox.grade([(ASSERTIONS, RIGHT)] * 4)
        before = {process.pid for process in children(recursive=True)}
        verdicts = sandbox.grade([(ASSERTIONS, source) for source in FLOODS.values()])
        after = sandbox.grade([(PAIRS, DETECTIVE), (PAIRS, RIGHT)] * 4)
        assert {process.pid for process in children(recursive=True)} == before
    assert {name: found for name, found in zip(FLOODS, verdicts, strict=True) if found.outcome != "wrong"} == {}
    assert [found.outcome for found in after] == ["wrong", "right"] * 4
    assert any("CPU time" in found.reason or "no result" in found.reason for found in verdicts)
    assert any("MiB of memory" in found.reason for found in verdicts)


@pytest.mark.parametrize("name", map(str.strip, HARMLESS))
def test_an_attack_is_real_it_succeeds_where_nothing_isolates(
    name: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "find_isolation", lambda *, unsafe: Isolation("none"))
    with CodeSandbox(workers=1, limits=LIMITS) as open_to_all:
        (verdict,) = open_to_all.grade([(ASSERTIONS, host.filled(BREAKS[name]))])
    assert verdict.outcome == "right", verdict


@pytest.mark.parametrize("name", WRONG)
def test_a_lie_fools_neither_way_of_comparing(name: str, host: Host) -> None:
    tests = ASSERTIONS if len(name) % 2 else PAIRS
    (verdict,) = host.sandbox.grade([(tests, WRONG[name])])
    assert verdict.outcome == "wrong", verdict


@pytest.mark.parametrize("kind", ["port", "abstract"])
def test_nobody_called_the_host(kind: str, host: Host) -> None:
    listener: socket.socket = getattr(host, kind)
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()
