"""`--tokenizer` of the verbs that read text without a model: a run or any other model names its tokenizer too."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megaphi.checkpoint.format import finish_checkpoint
from megaphi.cli import main
from megaphi.config import to_plain
from megaphi.model.architecture import Architecture
from megaphi.recipes import load_recipe
from megaphi.tokenizer.open_tokenizer import open_path
from tests.conversion.formats.gguf.gguf_model import MODEL, write_gguf
from tests.conversion.formats.gguf.gguf_tokenizers import add_fields, byte_level_fields
from tests.tokenizer.own_tokenizer import write_tokenizer

SHAPE = Architecture(layers=1, hidden=8, feed_forward=12, heads=2, key_value_groups=1, head_size=4, vocabulary=352)
TALK = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three"}]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: chats.jsonl, pages.jsonl, own/ with a tokenizer, and models of four kinds.

    `run` is ours with Phi-4's tokenizer, `imported` one that brought the tokenizer of own/, `nameless` none.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    (tmp_path / "pages.jsonl").write_text(json.dumps({"text": "one two three"}) + "\n")
    write_tokenizer(tmp_path / "own", vocabulary=300)
    (tmp_path / "empty").mkdir()
    carried = {path.name: path for path in (tmp_path / "own").iterdir()}
    write_run(tmp_path / "run")
    write_run(tmp_path / "imported", carried=carried, imported_from="x")
    write_run(tmp_path / "nameless", imported_from="x")
    return tmp_path


def write_run(folder: Path, *, carried: dict[str, Path] | None = None, **state: str) -> None:
    """A run folder whose checkpoint has everything but weights."""
    checkpoint = folder / "checkpoints" / "step_00000003"
    checkpoint.mkdir(parents=True)
    config = dataclasses.replace(load_recipe("quickstart_pretrain"), model=SHAPE)
    finish_checkpoint(checkpoint, to_plain(config), {"step": 3, **state}, {}, save_id="r", carried=carried)
    (folder / "checkpoints" / "latest").write_text(checkpoint.name)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code and words of a command."""

    def run(*words: str) -> tuple[int, str]:
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


SAME = {
    "run": ["phi4", "--vocabulary", "352"],
    "run/checkpoints/step_00000003": ["phi4", "--vocabulary", "352"],
    "imported": ["own"],
    "own/tokenizer.json": ["own"],
}


@pytest.mark.parametrize("named", SAME)
def test_conversations_are_read_with_the_models_tokenizer(home: Path, said: Callable[..., tuple[int, str]], named: str):
    command = ["inspect", "conversations", "chats.jsonl", "--tokenizer"]
    code, text = said(*command, named)
    assert code == 0
    assert (code, text) == said(*command, *SAME[named])
    if named != "own/tokenizer.json":
        assert text != said(*command, "own" if SAME[named][0] == "phi4" else "phi4")[1]


@pytest.mark.parametrize("named", ["run", "imported"])
def test_a_dataset_is_made_and_shown_with_the_models_tokenizer(
    home: Path, said: Callable[..., tuple[int, str]], named: str
) -> None:
    assert said("tokenize", "pages.jsonl", "--output", "d", "--processes", "1", "--tokenizer", named)[0] == 0
    path, *vocabulary = SAME[named]
    expected = open_path(path, vocabulary=int(vocabulary[1]) if vocabulary else None)
    assert json.loads((home / "d.json").read_text())["tokenizer"] == expected.fingerprint
    code, text = said("inspect", "dataset", "d", "--document", "0", "--tokenizer", named)
    assert code == 0
    assert text.startswith("one two three")
    other = "imported" if named == "run" else "run"
    code, text = said("inspect", "dataset", "d", "--document", "0", "--tokenizer", other)
    assert (code, "another tokenizer" in text) == (2, True)


def test_a_gguf_file_names_the_tokenizer_inside_it(home: Path, said: Callable[..., tuple[int, str]]) -> None:
    fields = byte_level_fields("smollm")
    model = dataclasses.replace(MODEL, vocabulary=1_000)
    write_gguf(home / "model", model=model, header=lambda writer: add_fields(writer, fields))
    code, text = said("inspect", "conversations", "chats.jsonl", "--tokenizer", "model/model.gguf")
    assert code == 0, text
    assert "three" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nameless"], "came without a tokenizer"),
        (["run", "--vocabulary", "400"], "--vocabulary 400: the tokenizer of run has 352 tokens; leave it out"),
        (["empty"], "--tokenizer empty: there is no tokenizer.json, and no model: "),
        (["nothing"], "tokenizer nothing: there is no tokenizer.json"),
        (["chats.jsonl"], "tokenizer chats.jsonl: expected a folder with tokenizer.json"),
    ],
)
def test_what_names_no_tokenizer_is_one_message(
    home: Path, said: Callable[..., tuple[int, str]], words: list[str], message: str
) -> None:
    for command in (["inspect", "conversations", "chats.jsonl"], ["tokenize", "pages.jsonl", "--output", "d"]):
        code, text = said(*command, "--tokenizer", *words)
        assert code == 2
        assert len(text.splitlines()) == 1
        assert message in text
    assert not (home / "d.json").exists()
