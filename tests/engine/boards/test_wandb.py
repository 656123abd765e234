"""Weights & Biases: the same numbers, one W&B run across restarts, and no harm to the run from its failures.

A stand-in package writes down what it is asked for; the process that talks to it is the real one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main
from megaphi.config import override, to_plain
from megaphi.engine.boards import wandb_board
from megaphi.engine.reporting.metrics import MetricsLog, open_log, read_metrics
from megaphi.engine.run_config import RunConfig, check
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.recipes import load_recipe

STAND_IN = """
import json, os

def note(name, *given):
    with open(os.environ["WANDB_NOTES"], "a") as file:
        file.write(json.dumps([name, *given]) + "\\n")

class Run:
    def define_metric(self, name, **options):
        note("define_metric", name, options)
    def log(self, record):
        note("log", record)
    def finish(self, exit_code=0):
        note("finish", exit_code)

def init(**options):
    note("init", options)
    BEHAVIOUR
    return Run()
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File that the stand-in writes; no other variable of W&B's is set."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_NOTES", str(tmp_path / "notes"))
    return tmp_path / "notes"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Messages logged as an error or a warning."""
    lines: list[str] = []
    for level in ("error", "warning"):
        monkeypatch.setattr(logger, level, lambda text, *words: lines.append(text % words))
    return lines


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str = "pass") -> None:
    (folder / "packages" / "wandb").mkdir(parents=True)
    (folder / "packages" / "wandb" / "__init__.py").write_text(STAND_IN.replace("BEHAVIOUR", behaviour))
    monkeypatch.setenv("PYTHONPATH", str(folder / "packages"))
    monkeypatch.syspath_prepend(str(folder / "packages"))


def run_of(folder: Path, *words: str) -> RunConfig:
    fields = [f"folder={folder / 'run'}", "wandb.project=phi", *words]
    return override(load_recipe("quickstart_pretrain"), fields)


def log_steps(run: RunConfig, steps: range, *, after: int = 0) -> MetricsLog:
    log = open_log(run, after=after)
    for step in steps:
        log.add({"step": step, "loss": 1.0 / step, "validation_loss/web": 2.0})
    return log


def noted(notes: Path) -> list[list[Any]]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def test_the_same_numbers_go_to_one_run_that_a_restart_continues(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    install(tmp_path, monkeypatch)
    run = check(run_of(tmp_path, "wandb.mode=offline", "wandb.group=small"), world_size=2)
    log_steps(run, range(1, 4)).close()
    log_steps(run, range(3, 6), after=2).close()
    log_steps(run, range(1, 2)).close()
    calls = noted(notes)
    first, second, restarted = [given for name, *given in calls if name == "init"]
    assert first == second
    assert first[0]["id"] != restarted[0]["id"]
    assert first[0] == {
        "project": "phi",
        "mode": "offline",
        "group": "small",
        "name": "run",
        "resume": "allow",
        "id": first[0]["id"],
        "dir": str(tmp_path / "run"),
        "settings": {"console": "off"},
        "config": to_plain(run),
    }
    logged = [given[0] for name, *given in calls if name == "log"]
    assert [record["step"] for record in logged] == [1, 2, 3, 3, 4, 5, 1]
    assert logged[-1:] == read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert ["define_metric", "*", {"step_metric": "step"}] in calls
    assert [given for name, *given in calls if name == "finish"] == [[0], [0], [0]]
    assert said == []


def test_the_environment_says_what_the_section_leaves_open(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    environment = {"NAME": "n", "RUN_ID": "mine", "DIR": str(tmp_path), "CONSOLE": "wrap", "RESUME": "must"}
    for name, value in environment.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    log_steps(run_of(tmp_path), range(1, 2)).close()
    log_steps(run_of(tmp_path, "wandb.name=ours"), range(1, 2)).close()
    first, second = [given[0] for name, *given in noted(notes) if name == "init"]
    assert first.keys() == {"project", "id", "config"}
    assert first["id"] == second["id"] == "mine"
    assert second["name"] == "ours"


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("raise ConnectionError('no route to host\\nhint')", "ConnectionError: no route to host"),
        ("os._exit(3)", "ended with code 3"),
        ("Run.log = lambda self, record: 1 / 0", "ZeroDivisionError: division by zero"),
        ("Run.finish = lambda self, exit_code: open('/nothing/here')", "FileNotFoundError: "),
    ],
)
def test_a_failing_board_is_said_once_and_costs_nothing_else(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], behaviour: str, reason: str
) -> None:
    install(tmp_path, monkeypatch, behaviour)
    log = log_steps(run_of(tmp_path), range(1, 4))
    deadline = time.monotonic() + 20
    while "finish" not in behaviour and not said and time.monotonic() < deadline:
        time.sleep(0.02)
        log.add({"step": 4, "loss": 0.1})
    log.close()
    (line,) = said
    assert line.startswith("wandb fails (RuntimeError: its process ended with code ")
    assert reason in line
    assert line.endswith("it stops here, metrics.jsonl has all")
    assert len(read_metrics(log.path)) >= 3
    assert (tmp_path / "run" / "tensorboard").is_dir()


def test_a_board_that_hangs_makes_nobody_wait(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Far more records than a pipe takes; then it is given up, at the latest at the end of the run."""
    install(tmp_path, monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(wandb_board, "CLOSING_SECONDS", 0.3)
    began = time.monotonic()
    run = run_of(tmp_path)
    log = open_log(run, after=0)
    board = log._boards["wandb"]
    for step in range(1, 3_001):
        board.add({"step": step, "loss": 1.0, "validation_loss/web": 2.0})
    monkeypatch.setattr(wandb_board, "LONGEST_WAITING", 1_000)
    log.add({"step": 3_001, "loss": 1.0})
    log.close()
    assert time.monotonic() - began < 40
    (line,) = said
    assert "it has taken nothing for" in line
    log_steps(run, range(1, 3)).close()
    assert time.monotonic() - began < 45
    assert len(said) == 2
    assert "continues by itself" in said[1]


def test_the_process_of_a_board_that_is_given_up_ends_while_training_goes_on(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Its input has ended, in the middle of a line; what came before is logged, and the W&B run is one that crashed."""
    go_on = tmp_path / "go_on"
    install(tmp_path, monkeypatch, f"import time\n    while not os.path.exists({str(go_on)!r}): time.sleep(0.01)")
    monkeypatch.setattr(wandb_board, "LONGEST_WAITING", 1_000)
    log = open_log(run_of(tmp_path), after=0)
    board = log._boards["wandb"]
    assert isinstance(board, wandb_board.WandbBoard)
    step = 0
    while not said:
        step += 1
        log.add({"step": step, "loss": 1.0, "validation_loss/web": 2.0})
    assert "it has taken nothing for" in said[0]
    go_on.touch()
    assert board._process.wait(20) == 0
    log.add({"step": step + 1, "loss": 1.0})
    log.close()
    calls = noted(notes)
    assert calls[-1] == ["finish", 1]
    logged = [given[0]["step"] for name, *given in calls if name == "log"]
    assert logged == list(range(1, len(logged) + 1))
    assert 0 < len(logged) < step
    assert len(read_metrics(log.path)) == step + 1
    assert len(said) == 1


def test_a_record_that_cannot_be_sent_ends_the_process_too(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    board = open_log(run_of(tmp_path), after=0)._boards["wandb"]
    assert isinstance(board, wandb_board.WandbBoard)
    with pytest.raises(TypeError):
        board.add({"step": object()})
    assert board._process.wait(20) == 0


def test_what_is_not_installed_is_refused_by_name_at_the_start(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where W&B has left its folder in the working directory: that is no package."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    command = ["train", "quickstart_pretrain", "wandb.project=phi", f"folder={tmp_path / 'run'}"]
    for words in ([*command, "--dry-run"], [*command, "layout.tensor=1"]):
        assert main(words) == 2
        expected = "wandb.project=phi needs the package wandb, which is not installed: pip install 'megaphi[wandb]'"
        assert expected in capsys.readouterr().err
    monkeypatch.undo()
    assert not (tmp_path / "run").exists()
    if importlib.util.find_spec("wandb") is None:
        (tmp_path / "here" / "wandb" / "run-1").mkdir(parents=True)
        monkeypatch.syspath_prepend(str(tmp_path / "here"))
        assert importlib.util.find_spec("wandb") is not None
        with pytest.raises(InputError, match="not installed"):
            check(run_of(tmp_path), world_size=2)
    with pytest.raises(InputError, match=r"wandb\.name=x needs wandb\.project"):
        check(run_of(tmp_path, "wandb.project=none", "wandb.name=x"), world_size=2)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the package wandb (megaphi[wandb]) is not here")
def test_the_real_package_writes_its_files_offline(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(wandb_board, "CLOSING_SECONDS", 60.0)
    run = run_of(tmp_path, "wandb.mode=offline")
    log_steps(run, range(1, 4)).close()
    log_steps(run, range(3, 6), after=2).close()
    assert said == []
    name = json.loads((tmp_path / "run" / "wandb.json").read_text())["id"]
    written = list((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert len(written) == 2
    assert all(path.stat().st_size > 1_000 for path in written)
