"""`megaphi convert --tokenizer` and `--no-tokenizer`: who gets which tokenizer, and who keeps the own one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from megaphi.checkpoint.model_tokenizer import NO_TOKENIZER, text_tokenizer_of, tokenizer_of
from megaphi.cli import main
from megaphi.conversion.open_weights import open_weights
from megaphi.model.architecture import Architecture
from megaphi.tokenizer.open_tokenizer import open_path
from tests.conversion.formats.gguf.gguf_model import write_gguf
from tests.conversion.formats.gguf.gguf_tokenizers import add_fields, byte_level_fields
from tests.conversion.random_models import random_folder
from tests.gloo_world import run_in_world
from tests.tokenizer.own_tokenizer import write_tokenizer

SHAPE = Architecture(layers=2, hidden=48, feed_forward=80, heads=6, key_value_groups=2, head_size=8, vocabulary=512)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small` and `other` fit the model, `large` does not."""
    home = tmp_path_factory.mktemp("tokenizers")
    for name, size in {"small": 400, "other": 450, "large": 600}.items():
        write_tokenizer(home / name, vocabulary=size)
    return home


def convert(*words: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code, and what was said."""
    code = main(["convert", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out + said.err


def fingerprint(path: Path) -> str:
    found = tokenizer_of(open_weights(path))
    return NO_TOKENIZER if found is None else found.fingerprint


def test_a_model_without_one_is_given_one(tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checkpoint and exported folder have its files, and what uses them needs no --tokenizer any more."""
    random_folder(tmp_path / "hf", SHAPE, eos_token_id=1)
    code, _ = convert(
        "to-checkpoint", tmp_path / "hf", tmp_path / "ours", "--tokenizer", tokenizers / "small", capsys=capsys
    )
    given = open_path(str(tokenizers / "small"))
    assert (code, text_tokenizer_of(open_weights(tmp_path / "ours")).fingerprint) == (0, given.fingerprint)
    for source, options in (("ours", ()), ("hf", ("--tokenizer", tokenizers / "small"))):
        out = tmp_path / f"out_{source}"
        assert convert("to-huggingface", tmp_path / source, out, *options, capsys=capsys)[0] == 0
        assert (out / "tokenizer.json").read_bytes() == (tokenizers / "small" / "tokenizer.json").read_bytes()
        assert fingerprint(out) == given.fingerprint


def test_phi4s_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phi4 = open_path("phi4", vocabulary=512)
    random_folder(tmp_path / "hf", SHAPE, eos_token_id=[phi4.end_of_text])
    assert convert("to-checkpoint", tmp_path / "hf", tmp_path / "o", "--tokenizer", "phi4", capsys=capsys)[0] == 0
    assert fingerprint(tmp_path / "o") == phi4.fingerprint


def refused(*words: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    code, said = convert(*words, capsys=capsys)
    assert code == 2
    assert not (Path(words[2])).exists()
    return said


def test_what_does_not_fit_is_refused(tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_folder(tmp_path / "hf", SHAPE)
    out = tmp_path / "out"
    for direction in ("to-checkpoint", "to-huggingface"):
        said = refused(direction, tmp_path / "hf", out, "--tokenizer", tokenizers / "large", capsys=capsys)
        assert "has 600 tokens, the model a vocabulary of 512" in said
        said = refused(direction, tmp_path / "hf", out, "--tokenizer", tmp_path / "none", capsys=capsys)
        assert "there is no tokenizer.json" in said
    random_folder(tmp_path / "ends", SHAPE, eos_token_id=77)
    said = refused("to-checkpoint", tmp_path / "ends", out, "--tokenizer", tokenizers / "small", capsys=capsys)
    assert re.search(r"ends a text with 1, 3, and config\.json of .*ends says eos_token_id 77: it is another", said)


def with_own(folder: Path, tokenizers: Path) -> Path:
    random_folder(folder, SHAPE, eos_token_id=1)
    for path in (tokenizers / "small").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_model_keeps_its_own(tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = with_own(tmp_path / "hf", tokenizers), tmp_path / "out"
    said = refused("to-checkpoint", source, out, "--tokenizer", tokenizers / "other", capsys=capsys)
    assert "is not the tokenizer that" in said
    assert "--no-tokenizer" in said
    assert convert("to-checkpoint", source, out, "--tokenizer", tokenizers / "small", capsys=capsys)[0] == 0
    assert fingerprint(out) == fingerprint(source)


def test_it_is_replaced_or_left_out_when_that_is_said(
    tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another's ids are not left in config.json either."""
    source = with_own(tmp_path / "hf", tokenizers)
    replace = ("--tokenizer", tokenizers / "other", "--no-tokenizer")
    other = open_path(str(tokenizers / "other"))
    for direction in ("to-checkpoint", "to-huggingface"):
        assert convert(direction, source, tmp_path / direction, *replace, capsys=capsys)[0] == 0
        assert fingerprint(tmp_path / direction) == other.fingerprint
    assert convert("to-checkpoint", source, tmp_path / "without", "--no-tokenizer", capsys=capsys)[0] == 0
    assert fingerprint(tmp_path / "without") == NO_TOKENIZER
    assert not list((tmp_path / "without").rglob("*token*"))
    exported = json.loads((tmp_path / "to-huggingface" / "config.json").read_text())
    assert exported["eos_token_id"] == other.end_of_text


def test_a_gguf_file_whose_tokenizer_cannot_be_read_is_imported_otherwise(
    tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its message says, which the dry run says too."""
    fields: dict[str, Any] = byte_level_fields("new-split", size=SHAPE.vocabulary)
    path, out = write_gguf(tmp_path, model=SHAPE, header=lambda writer: add_fields(writer, fields)), tmp_path / "out"
    for options in ((), ("--dry-run",), ("--tokenizer", tokenizers / "small")):
        said = refused("to-checkpoint", path, out, *options, capsys=capsys)
        assert "tokenizer.ggml.pre='new-split'" in said
    verified = ["convert", "to-checkpoint", str(path), str(out), "--no-tokenizer", "--verify"]
    assert run_in_world(main, verified, processes=1) == [0]  # logits start a world
    assert fingerprint(out) == NO_TOKENIZER
    replaced = tmp_path / "replaced"
    options = ("--no-tokenizer", "--tokenizer", tokenizers / "small")
    assert convert("to-checkpoint", path, replaced, *options, capsys=capsys)[0] == 0
    assert fingerprint(replaced) == open_path(str(tokenizers / "small")).fingerprint
