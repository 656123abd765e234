"""A rank of a server that dies, stops or fails is named by the others, which end: no client waits for a dead server.

No launcher of ours watches here, as under torchrun or srun on two hosts. All worlds run at the same time, since they
mostly wait.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from megaphi.cli import main
from megaphi.parallel.launcher import LOST_RANK_CODE
from tests.conversion.random_models import SHAPES, random_folder
from tests.generation.lost_rank_runs import until_lost
from tests.gloo_world import start_ranks

CASES = {
    "killed": ["serve", "--tensor", "2", "--port", "0"],
    "failed": ["serve", "--replicas", "2", "--port", "0"],
    "stopped while it generates": [
        "generate",
        "--tensor",
        "2",
        "--prompt",
        "a",
        "--max-tokens",
        "60",
        "--samples",
        "20000",
    ],
}
"""Faults of rank 1, and the phase they happen in."""
DEADLINE_SECONDS = 120.0


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[list[int | None], list[str]]]]:
    """Exit codes and words of both ranks of every case."""
    checkpoint = tmp_path_factory.mktemp("model") / "model"
    random_folder(checkpoint, SHAPES["3 heads per group"], scale=0.4)
    worlds, found, deadline = {}, {}, time.monotonic() + DEADLINE_SECONDS
    for case, (verb, *words) in CASES.items():
        folder = tmp_path_factory.mktemp("case")
        command = [verb, str(checkpoint), "--tokenizer", "phi4", "--heartbeat-seconds", "8", *words]
        worlds[case] = (folder, start_ranks(until_lost, str(folder), case.split()[0], command, processes=2)[0])
    try:
        for case, (folder, _) in worlds.items():
            if CASES[case][0] == "serve":
                ask(wait_for(folder / "rank_0", r"serving at (\S+)", deadline), tokens=2)
            else:
                wait_for(folder / "rank_0", "generate", deadline)
            (folder / "go").touch()
            if case == "failed":  # a rank fails in a step, and that somebody must ask for
                ask_in_vain(wait_for(folder / "rank_0", r"serving at (\S+)", deadline))
        for case, (folder, ranks) in worlds.items():
            ranks[0].join(max(0.1, deadline - time.monotonic()))
            if "stopped" in case:
                with suppress(ProcessLookupError):  # it may go on, and end, because its parents have
                    os.kill(int((folder / "pid").read_text()), signal.SIGCONT)
            ranks[1].join(max(0.1, deadline - time.monotonic()))
            found[case] = ([rank.exitcode for rank in ranks], [(folder / f"rank_{n}").read_text() for n in range(2)])
        yield found
    finally:
        for _, ranks in worlds.values():
            for rank in ranks:
                rank.kill()


def wait_for(file: Path, pattern: str, deadline: float) -> str:
    while not (found := re.search(pattern, file.read_text() if file.exists() else "")):
        assert time.monotonic() < deadline, file.read_text() if file.exists() else "nothing was said"
        time.sleep(0.1)
    return found[found.re.groups]


def ask(url: str, *, tokens: int) -> None:
    body = json.dumps({"prompt": [5, 6, 7], "max_tokens": tokens, "n": 4, "temperature": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert len(json.loads(answer.read())["choices"]) == 4


def ask_in_vain(url: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 (a refusal of HTTP's, or a closed connection)
        ask(url, tokens=2)


@pytest.mark.parametrize("case", CASES)
def test_the_survivor_names_the_lost_rank_and_ends(case: str, ended: dict) -> None:
    (code, lost), (said, last) = ended[case]
    assert code == LOST_RANK_CODE, said
    line = next(line for line in said.splitlines() if "megaphi: rank 0" in line)  # it may follow a progress bar
    work = "generating" if "generates" in case else "serving"
    assert re.search(rf"megaphi: rank 0 on \S+ ends in step 0, {work}: .*rank 1 on \S+ \(process \d+\)", line)
    assert ("it failed: ZeroDivisionError: its own fault" in line) == (case == "failed")
    own_end = {"killed": -signal.SIGKILL, "failed": 1}
    assert lost == own_end.get(case, LOST_RANK_CODE), last
    if "stopped" in case:
        assert "the others considered this rank lost" in last or "rank 0 is lost" in last


@pytest.mark.parametrize("verb", ["serve", "chat", "generate"])
def test_the_patience_has_a_range(verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for value, problem in (("-1", "must be from 0 to 3600"), ("nan", "must be a finite number")):
        prompt = ["--prompt", "a"] if verb == "generate" else []
        assert main([verb, str(tmp_path), *prompt, "--heartbeat-seconds", value]) == 2
        assert re.search(rf"megaphi: --heartbeat-seconds {value}\S*: {problem}", capsys.readouterr().err)
