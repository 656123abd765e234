"""`megaphi mixture`: what it prints, as text, JSON and picture, and that the dry run prints the same table."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from megaphi.cli import main
from tests.test_house import ROOT
from tests.warm_megaphi import run_megaphi

RECIPE = """
import dataclasses
from megaphi.data.order.mixture import Share, Stage
from megaphi.recipes.quickstart import quickstart_pretrain
from megaphi.stages.pretrain import Pretrain, mixture_of

def staged():
    run = quickstart_pretrain()
    sources = tuple(dataclasses.replace(source, unique_tokens=100_000) for source in mixture_of(run).sources)
    stages = (
        Stage(name="broad", tokens=500_000),
        Stage(name="late", shares=(Share(name="code", weight=3), Share(name="web", weight=1))),
    )
    mixture = dataclasses.replace(mixture_of(run), sources=sources, stages=stages)
    return dataclasses.replace(run, task=Pretrain(mixture=mixture))
"""
STAGES = '[{"name": "broad", "tokens": 5e5}, {"name": "late", "shares": [{"name": "code", "weight": 3}]}]'


@pytest.fixture
def shown(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RECIPE)

    def run(*words: str) -> str:
        assert main(["mixture", *words]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


def test_phi4_is_the_papers(shown):
    text = shown("phi4_14b_pretrain")
    assert text.startswith("phi4_14b_pretrain: 10,003,415,040,000 tokens in 424,000 steps\n")
    sources = text.partition("Sources, whole run")[2]
    for line in (
        r"web +15\.0% +1,500,512,256,000 +1,300,000,000,000 +1\.2 +2  expected\n",
        r"rewrites +15\.0% +1,500,512,256,000 +290,000,000,000 +5\.2 +6 ",
        r"synthetic +40\.0% +4,001,366,016,000 +290,000,000,000 +13\.8 +14 ",
        r"code +20\.0% +2,000,683,008,000 +820,000,000,000 +2\.4 +3 ",
        r"acquired +10\.0% +1,000,341,504,000 +580,000,000,000 +1\.7 +2 ",
        r"warning: synthetic is read 13\.8 times; it passes 4 epochs in stage all\n",
    ):
        assert re.search(line, sources), line
    assert sources.count("warning:") == 2
    assert "warning:" not in shown("phi4_14b_pretrain", "--warn-epochs", "14")


def test_stages_of_a_recipe_file_and_a_source_that_is_missing_in_one(shown):
    text = shown("mine.py:staged")
    broad, late = text.partition("Sources, whole run")[0].split("\nStage ")[1:]
    assert broad.startswith("broad: steps 0 to 123\n  503,808 tokens in 123 steps, sequence length 256\n")
    assert late.startswith("late: steps 123 to 240\n  479,232 tokens in 117 steps, sequence length 256\n")
    assert re.search(r"synthetic +40\.0% +201,728 +2\.0\n", broad)
    assert "synthetic" not in late
    assert re.search(r"code +75\.0% +359,424 +3\.6\n", late)
    assert re.search(r"warning: code is read 4\.6 times; it passes 4 epochs in stage late\n", text)


def test_stages_from_the_command_line(shown):
    text = shown("quickstart_pretrain", f"task.mixture.stages={STAGES}", "task.mixture.stages.broad.tokens=409600")
    assert "Stage broad: steps 0 to 100\n" in text
    assert re.search(r"code +100\.0% +573,440 +\?\n", text)
    assert re.search(r"web .* not known +\? +\?  no files\n", text)


def test_json_says_the_same(shown):
    found = json.loads(shown("mine.py:staged", "--json", "--warn-epochs", "3"))
    assert found["recipe"] == "quickstart_pretrain"
    assert [stage["name"] for stage in found["stages"]] == ["broad", "late"]
    assert [source["name"] for source in found["stages"][1]["sources"]] == ["web", "code"]
    code = next(source for source in found["sources"] if source["name"] == "code")
    assert (code["tokens"], code["epochs_begun"]) == (460_288, [2, 3])
    assert found["warnings"] == [{"source": "code", "epochs": code["epochs"], "stage": "late"}]


def test_a_picture_only_where_one_is_asked_for(shown, tmp_path):
    before = sorted(tmp_path.iterdir())
    plain = shown("mine.py:staged")
    assert sorted(path for path in tmp_path.iterdir() if path.name != "__pycache__") == before
    assert shown("mine.py:staged", "--plot", "pictures/m.png") == plain
    assert (tmp_path / "pictures" / "m.png").read_bytes().startswith(b"\x89PNG")


def test_no_torch_is_imported():
    program = "import sys\nfrom megaphi.cli import main\nmain(sys.argv[1:])\nprint('imported:', *sys.modules)"
    words = [sys.executable, "-c", program, "mixture", "phi4_14b_pretrain"]
    result = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT)
    imported = result.stdout.rpartition("imported:")[2].split()
    assert not {"torch", "megatron", "transformers", "matplotlib"} & set(imported)


def test_the_dry_run_shows_the_same_stages_and_sources(shown):
    text = shown("mine.py:staged")
    plan = run_megaphi("train", "mine.py:staged", "--dry-run", env={})
    assert plan.returncode == 0, plan.stderr
    assert text.partition("\n\n")[2].partition("\n\nwarning")[0] in plan.stdout
    assert re.search(r"tokens +983,040\n", plan.stdout)
