"""Old names of fields: on the command line, in config.json, in checkpoints."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from megaphi.config import from_plain, leaves, override, to_plain
from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError
from megaphi.recipes import load_recipe
from megaphi.renamed_fields import RENAMED, renamed, with_new_names

RUN = load_recipe("quickstart_pretrain")


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_is_understood_on_the_command_line_with_a_message(
    old: str, caplog: pytest.LogCaptureFixture
) -> None:
    new, values = RENAMED[old], dict(leaves(RUN))
    text = json.dumps(values[new]).strip('"')
    with caplog.at_level(logging.INFO, logger="megaphi"):
        assert override(RUN, [f"{old}={text}"]) == RUN
    assert f"{old} is called {new} now" in caplog.text


def test_new_names_are_taken_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="megaphi"):
        assert override(RUN, ["training.steps=7", "folder=x"]).training.steps == 7
    assert not caplog.text


def test_a_configuration_with_old_names_is_the_same_run(tmp_path: Path) -> None:
    plain = json.loads(json.dumps(to_plain(RUN)))
    old = with_old_names(plain)
    assert "run" in old
    assert not {"folder", "training", "validation", "start"} & old.keys()
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert load_recipe(str(tmp_path / "config.json")) == RUN
    assert from_plain(RunConfig, with_new_names(plain)) == RUN


def test_what_was_read_is_not_changed() -> None:
    old = with_old_names(to_plain(RUN))
    before = json.dumps(old)
    with_new_names(old)
    assert json.dumps(old) == before


def test_a_field_under_both_of_its_names_is_refused() -> None:
    plain = {**to_plain(RUN), "run": {"steps": 3}}
    with pytest.raises(InputError, match=r"run\.steps is the old name of training\.steps, and both are there"):
        with_new_names(plain)


def test_a_name_that_never_was_is_refused_as_it_was_typed() -> None:
    assert renamed("run.stepz") is None
    with pytest.raises(InputError, match=r"unknown field 'run\.stepz'"):
        override(RUN, ["run.stepz=1"])


def with_old_names(plain: dict) -> dict:
    """The configuration as a version before 0.2 wrote it."""
    old = {name: dict(part) if isinstance(part, dict) else part for name, part in plain.items()}
    for before, now in RENAMED.items():
        section, _, name = now.rpartition(".")
        value = old[section].pop(name) if section else old.pop(name)
        group, _, field = before.partition(".")
        old.setdefault(group, {})[field] = value
    return {name: part for name, part in old.items() if part != {}}
