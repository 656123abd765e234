"""`megaphi train` as its user runs it: stops and resumes, survives bad luck, and says what was wrong.

Real processes and real signals on real token files; the model is tiny. What is asserted is what the user sees: exit
code, one message, files in the run folder.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.engine.reporting.events import read_events
from megaphi.parallel.launcher import LOST_RANK_CODE
from tests.processes import children_of
from tests.warm_megaphi import WarmMegaphi

RECIPE = f"{Path(__file__).parent / 'tiny_recipe.py'}:tiny"
CORPUS = Path(__file__).parents[2] / "examples" / "corpus"
TIMEOUT = 120


@pytest.fixture(scope="session")
def token_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the corpus's sources, tokenised with 512 tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    for name in ("web", "code"):
        text = CORPUS / name / "validation.jsonl.zst"
        tokenize_documents(
            [text], folder / name, TokenizeSettings(vocabulary_size=512), processes=1, show_progress=False
        )
    return folder


@pytest.fixture
def train(token_files: Path, tmp_path: Path) -> Iterator[Callable[..., WarmMegaphi]]:
    """Start `megaphi train` on the tiny recipe, with the test's own run folder; ended with the test."""
    started: list[WarmMegaphi] = []

    def start(*words: str, environment: dict[str, str] | None = None, **options: Any) -> WarmMegaphi:
        variables = {**os.environ, "TINY_DATA": str(token_files), "OMP_NUM_THREADS": "1", **(environment or {})}
        arguments = ["train", RECIPE, f"folder={tmp_path / 'run'}", *words]
        started.append(WarmMegaphi(arguments, env=variables, **options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def finish(process: WarmMegaphi) -> tuple[int, str]:
    """(exit code, standard error)"""
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode is not None
    return process.returncode, errors


def records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "run" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while len(records(folder)) < step:
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.05)


def message(errors: str) -> str:
    """The one line that a user should see for bad input."""
    lines = [line for line in errors.splitlines() if line.startswith("megaphi: ")]
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    return lines[0]


def test_a_stopped_run_continues_as_if_nothing_had_happened(train: Any, tmp_path: Path) -> None:
    code, errors = finish(train(f"folder={tmp_path / 'straight' / 'run'}"))
    assert code == 0, errors
    stopped = train()
    wait_for_step(tmp_path, 13)
    stopped.send_signal(signal.SIGTERM)
    code, errors = finish(stopped)
    assert code == 0, errors
    reached = len(records(tmp_path))
    assert 13 <= reached < 40
    assert (tmp_path / "run/checkpoints/latest").read_text().strip() == f"step_{reached:08d}"
    code, errors = finish(train())
    assert code == 0, errors
    assert f"continuing {tmp_path / 'run'} from step {reached}" in errors
    assert _trained(tmp_path) == _trained(tmp_path / "straight")
    names = {"config.json", "metrics.jsonl", "events.jsonl", "checkpoints", "loss.png", "tensorboard", "logs", "steps"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    assert [path.name for path in sorted((tmp_path / "run/checkpoints").glob("step_*"))][-1] == "step_00000040"
    told = [(event["kind"], event["step"]) for event in read_events(tmp_path / "run") if event["kind"] != "saved"]
    assert told == [("started", 0), ("stopped", reached), ("resumed", reached), ("stopped", 40)]
    saved = [event["step"] for event in read_events(tmp_path / "run") if event["kind"] == "saved"]
    assert saved == sorted({*range(10, reached, 10), reached, *range((reached // 10 + 1) * 10, 41, 10)})


def _trained(folder: Path) -> list[tuple[Any, ...]]:
    kept = ("step", "loss", "gradient_norm", "learning_rate", "tokens", "validation_loss")
    return [tuple(record.get(name) for name in kept) for record in records(folder)]


def test_a_rank_that_dies_ends_the_job(train: Any, tmp_path: Path) -> None:
    job = train("--processes", "2", "layout.tensor=2", "training.steps=100000")
    wait_for_step(tmp_path, 2)
    victim = children_of(job.pid)[1]
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    code, errors = finish(job)
    assert time.monotonic() - killed_at < 60
    assert code == LOST_RANK_CODE
    assert "was killed by SIGKILL" in errors
    assert children_of(job.pid) == []


def test_a_killed_run_continues_from_its_last_checkpoint(train: Any, tmp_path: Path) -> None:
    job = train("training.steps=60", "saving.asynchronous=false")
    wait_for_step(tmp_path, 25)
    job.kill()
    job.wait()
    code, errors = finish(train("training.steps=60", "training.stop_after=30"))
    assert code == 0, errors
    assert "from step 20" in errors
    assert [record["step"] for record in records(tmp_path)] == list(range(1, 31))


def test_going_back_keeps_the_new_checkpoint_and_the_later_ones(train: Any, tmp_path: Path) -> None:
    """`latest` is set back by hand to step 10 of 30: what follows must not be taken for old."""
    assert finish(train("training.stop_after=30"))[0] == 0
    folder = tmp_path / "run/checkpoints"
    assert _steps(folder) == [10, 20, 30]
    (folder / "latest").write_text("step_00000010\n")
    code, errors = finish(train("training.stop_after=15", "saving.keep_last=1"))
    assert code == 0, errors
    assert "from step 10" in errors
    assert _steps(folder) == [15, 20, 30]
    assert (folder / "latest").read_text() == "step_00000015\n"
    assert [record["step"] for record in records(tmp_path)] == list(range(1, 16))


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))


def test_a_full_disk_costs_the_checkpoints_and_says_so(train: Any, tmp_path: Path) -> None:
    """Training goes on to its end without a checkpoint, with what it knows in its metrics; then it fails."""
    small_files = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (200_000, 200_000))
    storage = ("saving.attempts=2", "saving.retry_seconds=0.1")
    code, errors = finish(train(*storage, preexec_fn=small_files))
    assert code == 1
    assert "step 10 was not saved" in message(errors)
    assert "saving.train_unsaved=true" in message(errors)
    assert 10 <= len(records(tmp_path)) < 40
    code, errors = finish(train(*storage, "saving.train_unsaved=true", preexec_fn=small_files))
    assert code == 1
    text = message(errors)
    assert "step 40 was not saved" in text
    assert "larger than this process may write" in text
    assert "there is no checkpoint" in text
    assert len([line for line in errors.splitlines() if "Training goes on" in line]) == 3
    assert not list((tmp_path / "run/checkpoints").iterdir())
    last = records(tmp_path)[-1]
    assert (last["step"], last["steps_since_checkpoint"]) == (40, 40)
    failed = [event for event in read_events(tmp_path / "run") if event["kind"] == "save_failed"]
    assert [event["step"] for event in failed] == [10, 10, 20, 30, 40]
    print(
        f"full disk: known {failed[1]['seconds']:.2f} s after the save began, all attempts included; training goes on"
    )
    assert read_events(tmp_path / "run")[-1]["failed"]
    assert last["checkpoint_failures"] in (2, 3)  # the save of step 30 may still be under way; that of 20 is not


def test_checkpoints_go_to_the_fallback_and_the_run_continues_from_there(train: Any, tmp_path: Path) -> None:
    fallback = tmp_path / "fallback"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").write_text("a file is in the way")
    storage = ("saving.attempts=1", f"saving.fallback_folder={fallback}")
    code, errors = finish(train("training.stop_after=15", *storage))
    assert code == 0, errors
    assert _steps(fallback) == [10, 15]
    assert records(tmp_path)[-1]["checkpoint_failures"] == 0
    (tmp_path / "run/checkpoints").unlink()
    code, errors = finish(train("training.stop_after=25", *storage))
    assert code == 0, errors
    assert "from step 15" in errors
    assert _steps(tmp_path / "run/checkpoints") == [20, 25]
    assert not list(fallback.iterdir())


def test_a_damaged_checkpoint_is_skipped_and_named(train: Any, tmp_path: Path) -> None:
    assert finish(train("training.stop_after=20"))[0] == 0
    newest = tmp_path / "run/checkpoints/step_00000020/rank_00000.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    code, errors = finish(train("training.stop_after=22"))
    assert code == 0, errors
    assert "step_00000020: rank_00000.safetensors is corrupted" in errors
    assert "from step 10" in errors
    assert [record["step"] for record in records(tmp_path)] == list(range(1, 23))


def test_a_run_that_diverges_ends_without_saving(train: Any, tmp_path: Path) -> None:
    code, errors = finish(train("--processes", "2", "optimizer.learning_rate=1e30", "optimizer.warmup_steps=0"))
    assert code == 1
    assert "the run has diverged and was ended without saving" in message(errors)
    assert not (tmp_path / "run/checkpoints/latest").exists()


def test_another_architecture_is_refused(train: Any) -> None:
    assert finish(train("training.stop_after=2"))[0] == 0
    code, errors = finish(train("model.feed_forward=64"))
    assert code == 2
    assert "of another architecture: model.feed_forward is 48, the run has 64" in message(errors)


def test_another_vocabulary_is_refused(train: Any) -> None:
    code, errors = finish(train("model.vocabulary=640"))
    assert code == 2
    assert "tokenised with another vocabulary" in message(errors)


def test_a_port_in_use_is_one_message(train: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        port = str(listener.getsockname()[1])
        code, errors = finish(train("layout.tensor=2", environment={**place, "MASTER_PORT": port}))
    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in message(errors)


def test_two_ranks_speak_with_one_voice(train: Any, token_files: Path) -> None:
    missing = f"task.mixture.sources.web.paths={token_files / 'nothing'}"
    code, errors = finish(train("--processes", "2", "layout.tensor=2", "model.vocabulary=640", missing))
    assert code == 2
    message(errors)
