"""A `~` begins any path on any command line: the shell leaves it alone in `--output=~/x` and in quotes.

Every text option of every verb and tool is either declared as a path or known to be none, so a new one cannot forget.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaphi.cli import _parser, main
from megaphi.config import user_path
from tests.conversion.random_models import SHAPES, random_folder
from tests.test_house import ROOT

TOOLS = sorted((ROOT / "tools").glob("*.py"))
NO_PATHS = {
    "field=value",
    "ADDRESS",
    "TEXT",
    "NAME",
    "KEY",
    "SIZE",
    "TYPE",
    "A,B",
    "N",
    "N,N",
    "N,N,...",
    "NAME=N,...",
    "NAME=on|off",
    "K=V,…",
} | {
    "SOURCE[=WEIGHT]",
    "[NAME=]FOLDER",  # its folder is expanded once the name is taken off
}
"""Names of text options that are not paths; a field that is one has the type `FilePath`."""


def parser_of(tool: Path) -> argparse.ArgumentParser:
    return importlib.import_module(f"tools.{tool.stem}")._parser()


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Every option and argument that takes a text, through all verbs below."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from options_of(below)
        elif action.nargs != 0 and action.type in (None, str, user_path, Path) and action.choices is None:
            is_theirs = action.help == argparse.SUPPRESS or str(action.help).startswith("accepted")
            if not is_theirs:  # an option of Megatron's that is refused, or that changes nothing
                yield f"{parser.prog} {'/'.join(action.option_strings) or action.dest}", action


PARSERS = {"megaphi": _parser, **{tool.name: lambda tool=tool: parser_of(tool) for tool in TOOLS}}


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_is_a_path_or_known_to_be_none(name: str) -> None:
    found = dict(options_of(PARSERS[name]()))
    paths = {option for option, action in found.items() if action.type is user_path}
    others = {option: action.metavar for option, action in found.items() if option not in paths}
    allowed = {option for option, metavar in others.items() if metavar in NO_PATHS or option.endswith("--model-type")}
    assert others.keys() == allowed, "declare it with type=user_path, or give it a metavar of NO_PATHS"
    assert len(paths) >= (18 if name == "megaphi" else 1)


def test_paths_are_of_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    words = ["tokenize", "~/a/*.jsonl", "s3://bucket/~x", "--output=~/out/d", "--tokenizer", "phi4", "--text-key", "~"]
    parsed = _parser().parse_args(words)
    assert parsed.inputs == ["/home/ada/a/*.jsonl", "s3://bucket/~x"]
    assert (parsed.output, parsed.tokenizer, parsed.text_key) == ("/home/ada/out/d", "phi4", "~")
    assert _parser().parse_args(["train", "~/mine.py:run", "folder=~"]).recipe == "/home/ada/mine.py:run"


def test_a_verb_reads_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for verb, *words in (
        ("verify", "~/run"), ("inspect", "checkpoint", "~/run"), ("inspect", "diff", "~/run", "~/b"),
        ("chat", "~/run"), ("generate", "~/run", "--prompt", "a"), ("convert", "to-checkpoint", "~/run", "~/c"),
    ):  # fmt: skip
        assert main([verb, *words]) == 2
        assert f"{tmp_path}/run" in capsys.readouterr().err, verb


def test_what_a_terminal_obeys_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a\x1b[31mRED\u202e\nmegaphi: all is well"
    random_folder(home / "hf", SHAPES["3 heads per group"])
    for words in (["verify", str(home)], ["inspect", "checkpoint", "x", str(home)]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
    monkeypatch.chdir(home)  # where nobody writes the name
    assert main(["convert", "to-checkpoint", "hf", str(tmp_path / "out")]) == 0
    assert main(["inspect", "checkpoint", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert not {"\x1b", "\u202e"} & set(said.out + said.err)
    assert "\\x1b[31mRED\\u202e\\nmegaphi: all is well' holds a control character: rename it" in said.err
    assert "\nmegaphi: all is well" not in said.out + said.err
