"""Many answers at once: verdicts in order, each with its reason; what the tests or the box did wrong is `undecided`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from megaphi.errors import InputError, RunFailed
from megaphi.grading.code_sandbox import isolation, runtime, sandbox, self_test
from megaphi.grading.code_sandbox.isolation import Isolation
from megaphi.grading.code_sandbox.languages import LANGUAGES, Language
from megaphi.grading.code_sandbox.limits import Limits
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from megaphi.grading.question import CodeTests
from tests.grading.code_sandbox.machine import WHY_NOT, needs_isolation
from tests.test_house import ROOT

pytestmark = pytest.mark.slow
UNSAFE = bool(WHY_NOT)
"""These tests run trusted programs: where there is no isolation they run without."""


def key(tests: Any, language: str = "python", entry_point: str = "f", prefix: str = "") -> CodeTests:
    text = tests if isinstance(tests, str) else json.dumps(tests)
    return CodeTests(language=language, tests=text, entry_point=entry_point, prefix=prefix)


SQUARES = key("def check(f):\n    assert f(3) == 9\n    assert f(4) == 16")
RIGHT = "def f(n): return n * n"
WRONG = "def f(n): return 9"


@pytest.fixture(scope="module")
def opened() -> Iterator[CodeSandbox]:
    with CodeSandbox(workers=2, limits=Limits(wall_seconds=20), unsafe=UNSAFE) as found:
        yield found


def outcomes(verdicts: list[Any]) -> list[str]:
    return [verdict.outcome for verdict in verdicts]


def test_verdicts_come_in_the_order_of_the_answers(opened: CodeSandbox) -> None:
    slow = "import time\ntime.sleep(0.3)\n" + RIGHT
    answers = [slow, WRONG, RIGHT, "", RIGHT, WRONG]
    assert outcomes(opened.grade([(SQUARES, answer) for answer in answers])) == [
        "right", "wrong", "right", "wrong", "right", "wrong",
    ]  # fmt: skip
    assert opened.grade([]) == []


def test_as_many_tests_run_at_once_as_there_are_workers(opened: CodeSandbox) -> None:
    sleeping = "import time\ndef f(n):\n time.sleep(0.5)\n return n * n"
    start = time.monotonic()
    opened.grade([(SQUARES, sleeping)] * 2)
    assert time.monotonic() - start < 1.9  # one after the other they sleep for two seconds


def test_pairs_of_arguments_and_values(opened: CodeSandbox) -> None:
    pairs = key([{"arguments": [[3, 1, 2]], "value": [1, 2, 3]}, {"arguments": [[]], "value": []}])
    verdicts = opened.grade([(pairs, "f = sorted"), (pairs, "def f(a): return a"), (pairs, "def f(a): return a.x")])
    assert [(verdict.outcome, verdict.reason) for verdict in verdicts] == [
        ("right", "all 2 calls return what they must"),
        ("wrong", "call 1 returns [3, 1, 2] instead of [1, 2, 3]"),
        ("wrong", "it raised AttributeError: 'list' object has no attribute 'x'"),
    ]


def test_whole_programs_of_python(opened: CodeSandbox) -> None:
    pairs = key([{"stdin": "3\n4\n", "stdout": "7\n"}, {"stdin": "1\n1\n", "stdout": "2"}])
    answers = [
        "print(int(input()) + int(input()))",
        "import sys\nprint(sum(map(int, sys.stdin)))\nsys.exit()",
        "print(7)",
        "import sys\nprint(sum(map(int, sys.stdin)))\nsys.exit(3)",
        "print('x' * 10_000_000)",
        "import os\nos.write(1, b'7')\nos.kill(os.getppid(), 9)",
    ]
    verdicts = opened.grade([(pairs, answer) for answer in answers])
    assert outcomes(verdicts) == ["right", "right", *["wrong"] * 4]
    assert verdicts[2].reason == "input 2: the output is '7\\n' instead of '2'"
    assert "exit status 3" in verdicts[3].reason


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("def check(f): assert", "SyntaxError"),
        ("def check(f): pass", "never call f"),
        ("def check(f): assert f(2) == undefined", "NameError"),
        ([{"arguments": 3, "value": 3}], "test 1 is not"),
    ],
)
def test_tests_that_are_broken_decide_nothing(tests: Any, reason: str, opened: CodeSandbox) -> None:
    (verdict,) = opened.grade([(key(tests), RIGHT)])
    assert verdict.outcome == "undecided"
    assert reason in verdict.reason


def test_a_language_that_the_sandbox_was_not_opened_for_decides_nothing(opened: CodeSandbox) -> None:
    (verdict,) = opened.grade([(key([{"stdin": "", "stdout": ""}], language="c"), "int main() {}")])
    assert (verdict.outcome, verdict.reason) == ("undecided", "the sandbox was not opened for c, only for python")


SUMS = [{"stdin": "3 4", "stdout": "7"}, {"stdin": "-1 1", "stdout": "0"}]
IN_C = '#include <stdio.h>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }'


@pytest.mark.skipif(bool(LANGUAGES["c"].missing), reason="gcc is not installed")
def test_a_compiled_language() -> None:
    with CodeSandbox(workers=1, languages=["c"], unsafe=UNSAFE) as opened:
        answers = [IN_C, IN_C.replace("+", "-"), "int main() {", "int main() { *(volatile int *)0 = 0; }"]
        verdicts = opened.grade([(key(SUMS, language="c"), answer) for answer in answers])
        (by_code,) = opened.grade([(key("int main() { assert(f(1)); }", language="c"), IN_C)])
    assert outcomes(verdicts) == ["right", "wrong", "wrong", "wrong"]
    assert "does not compile" in verdicts[2].reason
    assert "signal 11" in verdicts[3].reason
    assert (by_code.outcome, by_code.reason) == ("undecided", "tests of programs in c are pairs of stdin and stdout")


def test_a_row_of_a_users_own() -> None:
    shell = Language(
        name="shell", file="answer.sh", run=("/bin/sh", "answer.sh"), folders=("/bin", "/lib", "/lib64", "/usr")
    )
    with CodeSandbox(workers=1, languages=["shell"], table={"shell": shell}, unsafe=UNSAFE) as opened:
        verdicts = opened.grade([(key(SUMS, "shell"), "read a b; echo $((a + b))"), (key(SUMS, "shell"), "echo 7")])
    assert outcomes(verdicts) == ["right", "wrong"]


@needs_isolation
def test_a_box_that_fails_decides_nothing_and_the_next_answer_gets_another() -> None:
    sleeping = "import time\ndef f(n): time.sleep(60)"
    with CodeSandbox(workers=1) as opened:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(opened.grade([(SQUARES, sleeping), (SQUARES, RIGHT)])))
        thread.start()
        time.sleep(0.5)
        for process in psutil.Process().children():
            if process.name() == "bwrap":
                os.killpg(process.pid, signal.SIGKILL)
        thread.join(timeout=60)
    assert outcomes(found) == ["undecided", "right"]
    assert "the box" in found[0].reason


@needs_isolation
def test_tests_that_take_for_ever_by_themselves_decide_nothing() -> None:
    with CodeSandbox(workers=1, limits=Limits(cpu_seconds=1, wall_seconds=10)) as opened:
        (verdict,) = opened.grade([(key("f(2)\nwhile True: pass"), RIGHT)])
    assert verdict.outcome == "undecided"
    assert "the tests gave no verdict: more than 1 s of CPU time" in verdict.reason


@needs_isolation
def test_nothing_is_left_when_the_block_ends_by_an_error() -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(AttributeError), CodeSandbox(workers=2) as opened:
        opened.grade([(SQUARES, RIGHT)] * 3 + [(None, RIGHT)])  # type: ignore[list-item]
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before


SLEEPING = "import time\ndef f(n): time.sleep(60)"


@needs_isolation
def grade_until_interrupted(*, after_seconds: float) -> None:
    with CodeSandbox(workers=2, limits=Limits(wall_seconds=60)) as opened:
        threading.Timer(after_seconds, os.kill, (os.getpid(), signal.SIGINT)).start()  # however long opening took
        opened.grade([(SQUARES, SLEEPING)] * 4)


def test_an_interrupt_ends_what_is_running_at_once() -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        grade_until_interrupted(after_seconds=0.5)
    assert time.monotonic() - start < 20
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before


OPEN_AND_SLEEP = """
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from megaphi.grading.question import CodeTests
tests = CodeTests(language="python", tests="assert f(2) == 4", entry_point="f")
with CodeSandbox(workers=1) as opened:
    assert opened.grade([(tests, "def f(n): return n * n")])[0].is_right
    print("open", flush=True)
    opened.grade([(tests, "import time\\ndef f(n): time.sleep(60)")])
"""


def started(command: list[str]) -> subprocess.Popen[str]:
    """The program above, once its sandbox is open; it is run from the repository's root."""
    process = subprocess.Popen([*command, "-c", OPEN_AND_SLEEP], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


@needs_isolation
def test_nothing_survives_a_parent_that_is_killed() -> None:
    with started([sys.executable]) as parent:
        time.sleep(0.3)
        left = psutil.Process(parent.pid).children(recursive=True)
        assert len(left) >= 3
        parent.kill()
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive


@needs_isolation
def test_a_user_that_is_not_root_has_isolation_too() -> None:
    if os.geteuid():
        pytest.skip("all these tests run as such a user")
    found = [
        path for path in (sys.executable, "/usr/bin/python3") if isolation._everybody_reads(os.path.realpath(path))
    ]
    if not found or not isolation._everybody_reads(str(ROOT)):
        pytest.skip("such a user may not read the interpreter or the repository")
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", found[0]]
    if subprocess.run([*user, "-c", "import sys; assert sys.version_info >= (3, 11)"], check=False).returncode:
        pytest.skip(f"{found[0]} is too old")
    with started(user) as parent:
        parent.kill()


@needs_isolation
def test_a_bubblewrap_that_is_setuid_costs_a_box_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        pytest.skip("only root makes a program setuid")
    real = shutil.which("bwrap")
    assert real is not None
    folder = "/var/tmp" if os.access("/var/tmp", os.W_OK) else "/tmp"
    copied = shutil.copy(real, f"{folder}/bwrap-setuid-{os.getpid()}")
    try:
        Path(copied).chmod(0o4755)
        setuid = Isolation("bubblewrap setuid root", copied)
        if reason := isolation.why_it_fails(setuid):
            pytest.skip(f"setuid programs do not work here: {reason}")
        monkeypatch.setattr(sandbox, "find_isolation", lambda *, unsafe: setuid)
        with CodeSandbox(workers=1) as opened:
            kills = "import os\nfor p in range(2, 99):\n try: os.kill(p, 9)\n except OSError: pass\n" + RIGHT
            assert outcomes(opened.grade([(SQUARES, RIGHT), (SQUARES, WRONG)])) == ["right", "wrong"]
            assert opened.grade([(SQUARES, kills)])[0].outcome != "right"
    finally:
        os.unlink(copied)


@needs_isolation
@pytest.mark.parametrize("leak", ["a folder", "no namespaces of its own"])
def test_a_leak_is_noticed_before_anything_is_run(leak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view, server = isolation._view, runtime.server_in_box
    if leak == "a folder":
        reached = "folders of the host"
        monkeypatch.setattr(isolation, "_view", lambda *given: ["--ro-bind", "/etc", "/etc", *view(*given)])
    else:
        reached = "processes in /proc, rights of an administrator, its fork server"
        monkeypatch.setattr(runtime, "server_in_box", lambda control, **_: server(control, own_namespaces=False))
    with pytest.raises(RunFailed, match=f"does not hold: a program in it reaches {reached}"), CodeSandbox(workers=1):
        pass


def test_a_probe_that_does_not_report_is_not_taken_for_safety() -> None:
    for answer in (None, {}, {"token": "", "reached": []}, "it ended"):
        with pytest.raises(RunFailed, match="does not run its own probe"):
            self_test.prove_isolation(Isolation("bubblewrap with user namespaces"), lambda *_, found=answer: found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"languages": ["pyton"]}, "Did you mean 'python'"),
        ({"workers": -1}, "at least one"),
        ({"languages": ["x"], "table": {"x": Language(name="x", file="x", needs=("no-such-cc",))}}, "need no-such-cc"),
    ],
)
def test_wrong_options_are_refused(options: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        CodeSandbox(unsafe=True, **options)


def test_a_limit_is_positive() -> None:
    with pytest.raises(InputError, match="cpu_seconds=0"):
        Limits(cpu_seconds=0)


def test_without_isolation_it_refuses_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"bwrap is not installed\. Install bubblewrap .* or say --unsafe"):
        CodeSandbox()
    with CodeSandbox(workers=1, unsafe=True) as opened:
        assert opened.isolation.said() == "code runs WITHOUT isolation (unsafe)"
        assert outcomes(opened.grade([(SQUARES, RIGHT), (SQUARES, WRONG)])) == ["right", "wrong"]


def test_a_bubblewrap_that_fails_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.shutil, "which", lambda _: "/bin/false")
    with pytest.raises(
        InputError, match="bubblewrap with user namespaces: it says nothing; bubblewrap setuid root: it is not"
    ):
        CodeSandbox()


@needs_isolation
def test_a_box_that_was_killed_while_idle_costs_nobody_a_verdict() -> None:
    with CodeSandbox(workers=1) as opened:
        assert outcomes(opened.grade([(SQUARES, RIGHT)])) == ["right"]
        (box,) = opened._boxes[0]._open
        box.kill()
        box.process.wait()
        assert outcomes(opened.grade([(SQUARES, RIGHT)])) == ["right"]


def test_a_machine_without_descriptors_decides_nothing(opened: CodeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pipe", none_left)
        (verdict,) = opened.grade([(SQUARES, RIGHT)])
    assert (verdict.outcome, "Too many open files" in verdict.reason) == ("undecided", True)
    assert outcomes(opened.grade([(SQUARES, RIGHT)])) == ["right"]
