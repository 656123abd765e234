"""The ladder: its dial, its law on losses whose law is known, its prediction, and a ladder that was killed."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.cli import main
from megaphi.engine.run_config import check
from megaphi.errors import InputError
from megaphi.model.architecture import PHI4_14B
from megaphi.planning.ladder import plan as plan_module
from megaphi.planning.ladder.dial import layer_parameters, rung_of, sized
from megaphi.planning.ladder.law import Sweep, fit_law, left_out, predict, predict_rate
from megaphi.recipes import load_recipe
from tests.processes import is_running

FIELDS = ("layout.tensor=1", "layout.sequence_parallel=false")
SIZES = ("--sizes", "27k,107k,240k,360k", "--target", "640k", "--tokens-per-parameter", "3")


@given(st.floats(2e4, 6e10), st.floats(1.0, 3.0))
@settings(max_examples=200, deadline=None)
def test_the_dial_gives_models_that_can_be_built_and_grow(size: float, factor: float) -> None:
    model, larger = sized(size), sized(size * factor)
    model.check()
    assert layer_parameters(model) <= layer_parameters(larger)
    assert model.heads == 4 * model.key_value_groups
    assert model.heads * model.head_size == model.hidden
    assert model.feed_forward == 3.5 * model.hidden
    assert 1 / 4.1 < layer_parameters(model) / size < 4.1  # the widest gap is between the two smallest
    if size > 1e9:
        assert 1 / 1.2 < layer_parameters(model) / size < 1.2


def test_at_14_billion_the_dial_is_phi_4() -> None:
    assert sized(14e9) == PHI4_14B
    with pytest.raises(InputError, match="the ladder has models of 26,784 to"):
        sized(1e3)


def test_rules_go_through_the_recipe() -> None:
    base = check(load_recipe("phi4_14b_pretrain"), world_size=512)
    tokens = base.training.steps * base.batch.tokens_per_step
    rung = rung_of(14e9, base, tokens_per_parameter=tokens / layer_parameters(PHI4_14B), replicas=128)
    assert (rung.model, rung.steps, rung.warmup_steps) == (PHI4_14B, base.training.steps, 2_000)
    assert (rung.global_batch, rung.micro_batch) == (5_760, 1)
    assert rung.usual_rate == pytest.approx(3e-4)
    small = rung_of(1e9, base, tokens_per_parameter=20, replicas=3)
    assert small.tokens == pytest.approx(20 * small.parameters, rel=0.01)
    assert small.global_batch % 12 == 0
    assert rung.usual_rate < small.usual_rate < 1e-3
    with pytest.raises(InputError, match="are 0 steps of 4 x 4096, too few"):
        rung_of(3e4, base, tokens_per_parameter=0.1)


def swept(seed: int, *, noise: float, sizes: Sequence[float], runs: int = 2) -> Sweep:
    """Losses 1.7 + 12 N^-0.22 at the rate 0.05 N^-0.25, plus 0.08 times its squared error."""
    draw, size_R, rate_R = np.random.default_rng(seed), [], []
    for number, parameters in enumerate(sizes):
        for factor in (0.5, 1.0, 2.0):
            size_R += [number] * runs
            rate_R += [math.log(0.06 * factor) - 0.25 * math.log(parameters)] * runs
    numbers_R, log_rate_R = np.array(size_R), np.array(rate_R)
    loss_R = loss(np.array(sizes)[numbers_R], log_rate_R) + noise * draw.standard_normal(len(numbers_R))
    return Sweep(parameters_Z=np.array(sizes), size_R=numbers_R, log_rate_R=log_rate_R, loss_R=loss_R)


def loss(parameters: np.ndarray, log_rate: np.ndarray) -> np.ndarray:
    best = math.log(0.05) - 0.25 * np.log(parameters)
    return 1.7 + 12 * parameters**-0.22 + 0.08 * (log_rate - best) ** 2


FOUR = (27e3, 107e3, 240e3, 360e3)


def test_known_laws_are_found() -> None:
    law = fit_law(swept(0, noise=1e-6, sizes=FOUR))
    assert law.best_rate(640e3) == pytest.approx(0.05 * 640e3**-0.25, rel=1e-3)
    assert law.loss(640e3) == pytest.approx(1.7 + 12 * 640e3**-0.22, abs=2e-3)
    assert (law.power, law.floor) == (pytest.approx(0.22, abs=0.01), pytest.approx(1.7, abs=0.05))
    assert law.optima.is_inside_Z.all()
    for _, predicted, measured in left_out(swept(0, noise=1e-6, sizes=FOUR)):
        assert predicted == pytest.approx(measured, abs=0.02)


@pytest.mark.parametrize(("sizes", "target", "runs"), [(FOUR, 640e3, 2), (FOUR, 4e6, 1), (FOUR[:1] + FOUR[2:], 1e6, 2)])
def test_intervals_cover_what_is_measured(sizes: tuple[float, ...], target: float, runs: int) -> None:
    """95 % intervals of 40 ladders, near and far targets; the target is trained at the rate that was predicted."""
    covered, rates = 0, 0
    for seed in range(40):
        sweep = swept(seed, noise=0.02, sizes=sizes, runs=runs)
        rate = predict_rate(sweep, target, draws=60, seed=seed)
        expected = loss(np.array(target), np.log(rate.value))
        measured = expected + 0.02 * np.random.default_rng([seed, 1]).standard_normal()
        covered += predict(sweep, target, draws=150, seed=seed).holds(float(measured))
        rates += rate.low <= 0.05 * target**-0.25 <= rate.high
    assert covered >= 35
    assert rates >= 34


def test_a_best_rate_outside_of_the_sweep_is_said_and_not_invented() -> None:
    sweep = swept(0, noise=0.001, sizes=FOUR)
    shifted = Sweep(
        parameters_Z=sweep.parameters_Z,
        size_R=sweep.size_R,
        log_rate_R=sweep.log_rate_R - math.log(8),
        loss_R=loss(sweep.parameters_Z[sweep.size_R], sweep.log_rate_R - math.log(8)),
    )
    optima = fit_law(shifted).optima
    assert not optima.is_inside_Z.any()
    for size in range(4):
        assert optima.log_rate_Z[size] == pytest.approx(shifted.log_rate_R[shifted.size_R == size].max())


def pretend_training(monkeypatch: pytest.MonkeyPatch, *, target_shift: float = 0.0, hangs_at: int = -1) -> None:
    """Runs that write the losses of `loss`, and their names into a file; run `hangs_at` waits for a signal."""
    started: list[str] = []

    def command(recipe: str, fields: Sequence[str], *, folder: Path, seed: int, processes: int) -> list[str]:
        values = dict(field.split("=") for field in fields)
        parameters = int(folder.name.split("-")[1])
        value = float(loss(np.array(parameters), np.log(float(values["optimizer.learning_rate"]))))
        value += 0.01 * float(np.random.default_rng(seed + parameters).standard_normal())
        value += target_shift * (parameters == 639_872)
        started.append(folder.name)
        line = json.dumps({"step": 1, "validation_loss": value}) + "\n"
        code = f"import time; open({str(folder.parents[1] / 'ran')!r}, 'a').write({folder.name + chr(10)!r}); "
        code += "time.sleep(60); " if len(started) == hangs_at + 1 else ""
        return [sys.executable, "-S", "-c", f"{code}open({str(folder / 'metrics.jsonl')!r}, 'w').write({line!r})"]

    monkeypatch.setattr(plan_module, "train_command", command)


def climb(folder: Path, *words: str) -> int:
    return main(["ladder", "quickstart_pretrain", *FIELDS, *SIZES, "--output", str(folder), *words])


def test_a_prediction_comes_first_and_is_called_wrong_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_training(monkeypatch)
    assert climb(tmp_path / "right") == 0
    before = (tmp_path / "right/prediction.json").read_text()
    assert "Not measured yet" in capsys.readouterr().out
    assert climb(tmp_path / "right", "--measure") == 0
    assert (tmp_path / "right/prediction.json").read_text() == before
    assert "within the interval" in capsys.readouterr().out
    assert len((tmp_path / "right/ran").read_text().split()) == 4 * 3 * 2 + 1
    pretend_training(monkeypatch, target_shift=0.3)
    assert climb(tmp_path / "wrong", "--measure") == 1
    assert "the prediction was WRONG" in capsys.readouterr().out
    with open(tmp_path / "wrong/ladder.csv") as file:
        rows = [row["what"] for row in csv.DictReader(file)]
    assert rows.count("run") == 24
    assert rows[24:] == ["target", "predicted rate", "predicted", "measured, WRONG"]
    assert (tmp_path / "wrong/ladder.png").read_bytes().startswith(b"\x89PNG")


def test_a_prediction_is_not_written_after_its_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_training(monkeypatch)
    climb(tmp_path / "f", "--measure")
    assert climb(tmp_path / "f", "--measure", "--seeds", "3") == 2
    assert "a prediction comes before its measurement" in capsys.readouterr().err
    path = tmp_path / "f/prediction.json"
    path.write_text(path.read_text().replace('"runs": 1', '"runs": 2'))
    assert climb(tmp_path / "f") == 2
    assert "was changed after it was written" in capsys.readouterr().err
    path.unlink()
    assert climb(tmp_path / "f") == 2
    assert "the prediction is missing" in capsys.readouterr().err


def test_a_killed_ladder_ends_its_run_and_goes_on_from_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_training(monkeypatch, hangs_at=5)
    killed = multiprocessing.get_context("fork").Process(target=partial(climb, tmp_path / "f"))
    killed.start()
    ran, deadline = tmp_path / "f/ran", time.monotonic() + 40
    while (names := ran.read_text().split() if ran.exists() else []) == [] or len(names) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{killed.pid}/task").glob("*/children")
    hanging = [int(child) for one in children for child in one.read_text().split()]
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join(20)
    assert len(hanging) == 1
    while any(map(is_running, hanging)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pretend_training(monkeypatch)
    assert climb(tmp_path / "f") == 0
    names = ran.read_text().split()
    assert len(names) == 24 + 1
    assert names[5] == names[6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "27k,107k"], "at least 3 below the target are needed"),
        (["--sizes", "27k,107k,108k,240k"], "at least 3 below the target are needed, all different"),
        (["--target", "100k"], "--target 100,000 is not above the largest of --sizes"),
        (["--sizes", "27k,x"], "--sizes x: expected a number such as 250k"),
        (["--learning-rates", "1,2"], "--learning-rates: at least three different multiples"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--tokens-per-parameter", "nan"], "--tokens-per-parameter nan: must be above 0"),
        (["task.mixture.sources.web.validation_paths="], "the sources need validation_paths, but web have none"),
    ],
)
def test_bad_options_are_one_message(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert climb(tmp_path / "f", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_a_dry_run_shows_sizes_and_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert climb(tmp_path / "f", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "| 639,872 (target) | 3 x 128 |" in out
    assert "25 runs, " in out
    assert not (tmp_path / "f").exists()
