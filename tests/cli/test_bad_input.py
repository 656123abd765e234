"""Bad input ends with exit code 2 and one line that says what was wrong, where, and what to do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from megaphi.cli import main
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.tokenizer.rank_file import find_rank_file


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder; returns its one line."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main([str(word) for word in words]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("megaphi: ")
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return line

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quickstart_pretrian"], "unknown recipe 'quickstart_pretrian'. Did you mean 'quickstart_pretrain'?"),
        (["mine.py:run"], "recipe 'mine.py:run': there is no file mine.py"),
        (["mine.py"], "name a function too, as in mine.py:my_recipe"),
        (["quickstart_pretrain", "training.step=3"], "unknown field 'training.step'. Did you mean 'training.steps'?"),
        (["quickstart_pretrain", "training.steps"], "expected field=value, got 'training.steps'"),
        (["quickstart_pretrain", "--processes", "0"], "--processes 0: must be at least 1"),
        (["quickstart_pretrain", "--processes", "3"], "3 processes cannot hold whole copies of a model"),
        (["quickstart_pretrain", "layout.tensor=4", "--processes", "4"], "does not divide model.heads=6"),
        (["quickstart_pretrain", "--world-size", "8"], "--world-size is for --dry-run"),
        (["phi4_14b_pretrain", "--dry-run", "layout.pipeline=3"], "has 20 numbers, but layout.pipeline x"),
    ],
)
def test_train(refused, words, message):
    assert message in refused("train", *words)


def test_a_recipe_file_of_ones_own(refused, tmp_path):
    (tmp_path / "mine.py").write_text("def good():\n    return 5\n")
    assert "mine.py has no function 'god'. Did you mean 'good'?" in refused("train", "mine.py:god")
    assert "returned int, expected a RunConfig" in refused("train", "mine.py:good")


def test_mixture(refused, tmp_path):
    recipe = "phi4_14b_pretrain"
    assert "Did you mean 'phi4_14b_pretrain'?" in refused("mixture", "phi4_14b_pretrian")
    assert "Did you mean 'training.steps'?" in refused("mixture", recipe, "training.step=3")
    assert "batch.global_batch=0: must be at least 1" in refused("mixture", recipe, "batch.global_batch=0")
    assert "names 'wep', which is no source of the mixture. Did you mean 'web'?" in refused(
        "mixture", recipe, 'task.mixture.stages=[{"name": "a", "shares": [{"name": "wep", "weight": 1}]}]'
    )
    for epochs in ("0", "-1", "nan", "inf"):
        assert f"--warn-epochs {epochs}: must be a positive" in refused("mixture", recipe, "--warn-epochs", epochs)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    assert "cannot write file/m.png" in refused("mixture", recipe, "--plot", "file/m.png")
    assert "cannot write folder.png" in refused("mixture", recipe, "--plot", "folder.png")
    assert "--plot m.pdf: the plot is a PNG, name it so: m.png" in refused("mixture", recipe, "--plot", "m.pdf")


def test_tokenize(refused, tmp_path):
    assert "input not found: nothing.jsonl" in refused("tokenize", "nothing.jsonl", "--output", "d")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    assert "--processes 0" in refused("tokenize", "a.jsonl", "--output", "d", "--processes", "0")
    assert "vocabulary_size 9 is out of range" in refused("tokenize", "a.jsonl", "--output", "d", "--vocabulary", "9")
    (tmp_path / "ranks").write_bytes(find_rank_file().read_bytes()[1:])
    message = refused("tokenize", "a.jsonl", "--output", "d", "--ranks-file", "ranks")
    assert "ranks is not the cl100k_base rank file: its SHA-256 is" in message


@pytest.fixture
def dataset(tmp_path):
    with IndexedDatasetWriter(tmp_path / "d", "uint16") as writer:
        writer.add_document(np.arange(5))
        writer.finish({"vocabulary_size": 400})
    return tmp_path / "d"


def test_inspect(refused, dataset, tmp_path):
    assert "checkpoint elsewhere: no such file or folder" in refused("inspect", "checkpoint", "elsewhere")
    assert "--document 7: " in refused("inspect", "dataset", dataset, "--document", "7")
    (tmp_path / "d.bin").write_bytes(b"\0\0")
    assert "d.bin is truncated" in refused("inspect", "dataset", dataset)
    (tmp_path / "d.bin").unlink()
    assert "d.bin" in refused("inspect", "dataset", dataset)
    (tmp_path / "config.json").write_text("{")
    assert "configuration config.json is not valid JSON" in refused("inspect", "diff", "config.json", "config.json")
    (tmp_path / "config.json").write_text("{}")
    words = ("inspect", "diff", "config.json", "config.json", "--weights")
    assert "config.json is not a checkpoint and holds none" in refused(*words)


def test_verify(refused, tmp_path):
    assert "checkpoint elsewhere: no such file or folder" in refused("verify", "elsewhere")
    assert "holds no checkpoints" in refused("verify", "--all", tmp_path)


def test_generate_and_convert(refused, tmp_path):
    for words in (
        ["generate", "nowhere", "--prompt", "x"],
        ["generate", "nowhere", "--prompt", "x", "--tensor", "2"],
        ["convert", "to-huggingface", "nowhere", "out"],
        ["convert", "to-checkpoint", "nowhere", "out"],
    ):
        assert "checkpoint nowhere: no such file or folder" in refused(*words)
    assert "temperature=-1.0: must lie between 0 and 100" in refused(
        "generate", "x", "--prompt", "x", "--temperature", "-1"
    )
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "model_type is 'bert'" in refused("convert", "to-checkpoint", "hf", "out")
    assert "model_type is 'bert'" in refused("generate", "hf", "--prompt", "x")
    (tmp_path / "hf" / "config.json").write_text("[]")
    assert "checkpoint hf: neither a checkpoint nor a run folder" in refused("convert", "to-huggingface", "hf", "out")


def test_a_rank_that_was_started_by_a_launcher_takes_no_processes(refused, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "node0", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    assert "a rank that torchrun had started already" in refused("train", "quickstart_pretrain", "--processes", "2")


def test_torchrun_is_told_and_what_it_restarts_is_refused_at_once(refused, monkeypatch, tmp_path_factory):
    """A rank of a later attempt finds what one of the attempt before has left, and does not look at its input."""
    logs = tmp_path_factory.mktemp("logs")
    attempts = [logs / f"attempt_{number}" for number in range(3)]
    for attempt in attempts:
        (attempt / "0").mkdir(parents=True)

    def start(attempt: int, recipe: str) -> str:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(attempts[attempt] / "0" / "error.json"))
        return refused("train", recipe)

    monkeypatch.setenv("LOCAL_RANK", "0")
    reason = "unknown recipe 'quickstart_pretrian'. Did you mean 'quickstart_pretrain'?"
    assert reason in start(0, "quickstart_pretrian")
    told = json.loads((attempts[0] / "0" / "error.json").read_text())["message"]
    assert (told["message"][: len(reason)], told["errorCode"]) == (reason, 2)
    assert int(told["extraInfo"]["timestamp"]) > 0
    assert reason in start(1, "quickstart_pretrain")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["train", "quickstart_pretrain"]) == 2  # rank 0 has said it
    for another in ('{"message": {"message": "a traceback", "extraInfo": {}}}', '{"message": "text"}', '{"mess'):
        (attempts[0] / "0" / "error.json").write_text(another)
        assert "unknown recipe 'other'" in start(1, "other")
    (attempts[1] / "0" / "error.json").unlink()
    assert "unknown recipe 'third'" in start(2, "third")  # only the attempt before counts
