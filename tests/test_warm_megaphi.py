"""A warm process and `python -m megaphi` are the same to whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_house import ROOT
from tests.warm_megaphi import WarmMegaphi, run_megaphi


@pytest.mark.parametrize("words", [("mixture", "phi4_14b_pretrain"), ("train", "nothing"), ("train", "--nothing")])
def test_what_it_says_and_its_exit_code(words: tuple[str, ...], tmp_path: Path) -> None:
    cold = subprocess.run(
        [sys.executable, "-m", "megaphi", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    warm = run_megaphi(*words, cwd=tmp_path)
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_a_signal_that_ends_it(tmp_path: Path) -> None:
    stopped = WarmMegaphi(["tokenize", "/dev/stdin"], cwd=tmp_path)
    stopped.send_signal(signal.SIGKILL)
    stopped.communicate(timeout=20)
    assert stopped.returncode == -signal.SIGKILL


def test_a_process_that_does_not_end_is_told(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ndef recipe(): time.sleep(100)\n")
    with pytest.raises(subprocess.TimeoutExpired):
        run_megaphi("train", f"{tmp_path}/slow.py:recipe", timeout=1.0)
