"""`megaphi plan`: what it prints, claims, calibration by measured rows, the recipe that it writes, and bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from megaphi.cli import main
from megaphi.planning.search.claim import DAY, cost_of, verdict_on
from megaphi.planning.search.space import PlanQuestion
from megaphi.planning.step.device import H100
from megaphi.recipes import load_recipe

PHI4 = ("plan", "phi4_14b_pretrain", "--gpus", "512")
NARROW = ("layout.tensor=1", "layout.context=1", "layout.virtual_pipeline=1", "recompute=none")
"""Fields that leave a small space: these tests are about what is printed."""


@pytest.fixture
def plan(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        assert main([*PHI4, *NARROW, *words]) == code
        captured = capsys.readouterr()
        return captured.out if code in (0, 1) and captured.out else captured.err

    return run


def test_it_prints_plans_memory_and_every_refusal(plan) -> None:
    text = plan("--top", "2")
    assert text.startswith("Plan of phi4_14b_pretrain on 512 H100 SXM: 5,760 sequences of 4,096 tokens a step, 10,003,")
    assert "not calibrated: no measured row of this device" in text
    assert "MFU is of 989.4 TFLOP/s dense bf16" in text
    (counts,) = re.findall(r"(\d+) choices, of which (\d+) fit in 80 GB", text)
    choices, fitting = map(int, counts)
    refused = [int(number.replace(",", "")) for number in re.findall(r"^ +([\d,]+)  [a-zM].* \(.*\)$", text, re.M)]
    assert sum(refused) + fitting == choices
    best = r"  1 TP 1 x PP 4 x DP 128 +1 +none +7\.\d+ +[\d,]+ +[\d,]+ +5\d\.\d% +\d\d\.\d% +\d\.\d% +\d\d\.\d +[\d,]+"
    assert re.search(best, text)
    assert "11, 10, 10, 9" in text
    assert "layout.stage_layers=11,10,10,9" in text
    assert "90% of 700 W" in text
    assert "buffers (model)" in text


def test_too_large_ones_are_named_with_their_bytes(plan) -> None:
    text = plan("--memory-gigabytes", "70", "batch.global_batch=5632")
    assert re.search(r"TP 1 x PP 2 x DP 256, micro-batch 1, recompute none: \d\d\.\d GB on stage 0 of 70", text)
    text = plan("--memory-gigabytes", "10", code=1)
    assert "The smallest that are too large" in text
    assert main([*PHI4, *NARROW, "--memory-gigabytes", "10"]) == 1


def test_nothing_fits_is_said_with_the_smallest(plan, capsys) -> None:
    plan("--memory-gigabytes", "10", code=1)
    main([*PHI4, *NARROW, "--memory-gigabytes", "10"])
    assert re.search(r"megaphi: nothing fits in 10 GB: the smallest choice needs \d+\.\d GB", capsys.readouterr().err)


def test_ten_days_on_512_are_impossible_and_why(plan) -> None:
    text = plan("--tokens", "10T", "--days", "10", code=1)
    claim = text.partition("10T tokens in 10 days")[2].partition("\n")[0]
    assert claim.startswith(" on 512 H100 SXM: impossible, it needs 2,032 TFLOP/s of every device")
    assert claim.endswith("2,146 counted full; the data sheet's peak is 989")
    text = plan("--tokens", "10T", "--days", "30", code=1)
    assert re.search(r"no plan is so fast, it needs 677 .* takes 3\d\.\d days, and at its speed .* \d{3} devices", text)
    assert "possible by the model" in plan("--tokens", "10T", "--days", "60")


def test_a_claims_arithmetic_by_hand() -> None:
    """89.9 GFLOP a token at 4,096: 10^13 tokens in 10 days on 512 devices."""
    asked = PlanQuestion(run=load_recipe("phi4_14b_pretrain"), devices=512, device=H100, memory_bytes=80e9)
    found = verdict_on(asked, tokens=1e13, days=10, tokens_per_second=6_000)
    rate = 1e13 / (10 * DAY) / 512
    assert found.needed == pytest.approx(rate * 89.9e9, rel=1e-3)
    assert found.devices_needed == pytest.approx(512 * rate / 6_000)
    cost = cost_of(asked, tokens=1e13, tokens_per_second=6_000)
    assert cost.device_hours == pytest.approx(cost.days * 24 * 512)
    assert cost.kilowatt_hours == pytest.approx(cost.device_hours * 0.63)


def test_json_has_the_same(plan) -> None:
    value = json.loads(plan("--json", "--top", "1", "--tokens", "10T", "--days", "10", code=1))
    assert value["choices"] == value["fitting"] + sum(value["refused"].values())
    (best,) = value["plans"]
    assert sum(best["parts"].values()) == pytest.approx(best["seconds"])
    assert best["stages"][0]["weights"] == 2 * best["stages"][0]["parameters"]
    assert best["tokens_per_second"] == pytest.approx(512 * best["tokens_per_second_per_device"])
    assert value["claim"]["kind"] == "impossible"
    assert value["calibration"] is None


def test_what_is_written_is_a_recipe_that_trains(plan, capsys, tmp_path: Path) -> None:
    words = ("--global-batch", "1024", "--device", "h200", "--count-modules", "--top", "1", "model.layers=8")
    text = plan("--write", "job", *words)
    assert "megaphi train job/planned.py:planned --dry-run --world-size 512" in text
    assert main(["train", "job/planned.py:planned", "--dry-run", "--world-size", "512"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"batch\.global_batch +1024\n", printed)
    for name in ("torchrun.sh", "mpirun.sh", "slurm.sbatch", "environment.sh", "scripts/supervise.sh"):
        assert (tmp_path / "job" / name).is_file(), name
    batch = (tmp_path / "job" / "slurm.sbatch").read_text()
    assert "#SBATCH --nodes=64\n" in batch
    assert f"{tmp_path}/job/planned.py:planned" in batch
    (planned,) = re.findall(r"^ +1 0 +(\d+\.\d+) +(\d+\.\d+) +\d+\.\d+ +(\d+\.\d+) ", text, re.M)
    (counted,) = re.findall(r"^ +0 +[\d,]+ +([\d.]+) GB +([\d.]+) GB +[\d.]+ [MG]B +([\d.]+) GB", printed, re.M)
    assert planned == counted


ROWS = """device,commit,side,seconds,model_seconds
NVIDIA H100 80GB HBM3,abc1234,megaphi,1.2,1.0
NVIDIA H100 80GB HBM3,abc1234,megaphi,1.3,1.0
NVIDIA H100 80GB HBM3,abc1234,megaphi,nan,1.0
NVIDIA H100 80GB HBM3,abc1234,transformers,9.0,1.0
NVIDIA H200,abc1234,megaphi,5.0,1.0
"""


def test_a_recipe_of_a_file_is_found_from_any_folder(capsys, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text("from megaphi.recipes.phi4_14b import phi4_14b_pretrain as mine\n")
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "mine.py:mine", "--gpus", "512", *NARROW, "--json", "--write", "job"]) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_recipe(f"{tmp_path}/{written[0]}:planned").layout.pipeline == 4


def test_measured_rows_calibrate_and_are_named(plan, tmp_path: Path) -> None:
    assumed = json.loads(plan("--json", "--top", "1"))
    (tmp_path / "rows.csv").write_text(ROWS)
    text = plan("--measured", "rows.csv")
    assert "calibrated: 2 rows of benchmarks/mfu.py took 1.25 times as long as the model said (commit abc1234)" in text
    measured = json.loads(plan("--json", "--top", "1", "--measured", "rows.csv"))
    slower = measured["plans"][0]["seconds"] / assumed["plans"][0]["seconds"]
    assert 1.15 < slower < 1.25  # the network and the launches stay as they were
    place = tmp_path / "benchmarks" / "results" / "gpu"
    place.mkdir(parents=True)
    (place / "mfu.csv").write_text(ROWS)
    assert "calibrated: 2 rows" in plan()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "0"), "--gpus 0: must be from 1 to"),
        (("--device", "h10"), "--device h10: its rates are not known. Did you mean"),
        (("--tokens", "ten"), "--tokens ten: expected a number of tokens such as 10T"),
        (("--days", "-1"), "--days -1: must be a positive number"),
        (("--days", "nan"), "--days nan: must be a positive number"),
        (("--memory-gigabytes", "0"), "--memory-gigabytes 0: must be a positive number"),
        (("--top", "0"), "--top 0: must be from 1 to 100"),
        (("layout.stage_layers=10,30",), "the plan chooses layout.stage_layers, leave it out"),
        (("layout.tensr=2",), "layout.tensr"),
        (("--sequence", "0"), "batch.sequence_length"),
        (("--measured", "nowhere.csv"), "nowhere.csv"),
        (("--gpus", "12", "--write", "job", "batch.global_batch=24"), "whole nodes of 8 GPUs, and 12 are no whole"),
        (("--device", "a100", "precision.fp8=delayed"), "A100 SXM 80 GB has no FP8 products"),
    ],
)
def test_bad_input_is_one_message(plan, words: tuple[str, ...], said: str) -> None:
    message = plan(*words, code=2)
    assert message.startswith("megaphi: ")
    assert said in message
    assert message.count("\n") == 1


def test_a_file_that_holds_no_measurements_is_refused(plan, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    assert "is no file of benchmarks/mfu.py" in plan("--measured", "rows.csv", code=2)
    (tmp_path / "rows.csv").write_text(ROWS.replace("1.2,1.0", "1.2,x"))
    assert "a row has seconds=1.2 and model_seconds=x" in plan("--measured", "rows.csv", code=2)
    (tmp_path / "rows.csv").write_text(ROWS.replace("H100", "L4"))
    assert "has no row of megaphi on H100 SXM" in plan("--measured", "rows.csv", code=2)


def test_runs_whose_steps_are_not_modelled_are_refused(capsys) -> None:
    assert main(["plan", "phi4_14b_dpo_judged", "--gpus", "64"]) == 2
    assert "optimises preferences" in capsys.readouterr().err
    stages = 'task.mixture.stages=[{"name": "a", "tokens": 4.7e9}, {"name": "b", "sequence_length": 8192}]'
    assert main([*PHI4, stages, "training.steps=1000"]) == 2
    assert "changes its sequence length or micro-batch during the run" in capsys.readouterr().err


def test_a_batch_that_grows_is_planned_for_all_its_sizes(plan, capsys) -> None:
    """At 384 sequences 128 replicas have 3 micro-batches: too few for four stages that take turns at chunks."""
    stages = 'task.mixture.stages=[{"name": "a", "tokens": 1.5728640e9, "global_batch": %d}, {"name": "b"}]'
    text = plan("layout.pipeline=4", stages % 640)
    assert "every plan works at the run's other batches too (640)" in text
    assert "TP 1 x PP 4 x DP 128" in text
    assert (
        main([*PHI4, *NARROW[:2], "recompute=none", "layout.virtual_pipeline=5", "layout.pipeline=4", stages % 384])
        == 1
    )
    assert re.search(r"too few micro-batches to interleave \(3 at PP 4\)", capsys.readouterr().out)
