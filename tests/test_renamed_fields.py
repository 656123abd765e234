"""Old names of fields: on the command line, in config.json, in checkpoints."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from megaphi.cli import main
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
    assert not {"folder", "training", "validation", "start", "task"} & old.keys()
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert load_recipe(str(tmp_path / "config.json")) == RUN
    assert from_plain(RunConfig, with_new_names(plain)) == RUN


@pytest.mark.parametrize("recipe", ["quickstart_sft", "quickstart_dpo"])
def test_the_section_that_a_run_had_says_its_task(recipe: str) -> None:
    """The other two were there too, empty."""
    run = load_recipe(recipe)
    old = with_old_names(to_plain(run))
    assert {"mixture", "conversations", "preferences"} <= old.keys()
    assert from_plain(RunConfig, with_new_names(old)) == run


def test_sections_of_two_tasks_are_refused() -> None:
    old = {**with_old_names(to_plain(RUN)), "preferences": {"paths": ["x"]}}
    with pytest.raises(InputError, match="exactly one of them; this one has 2"):
        with_new_names(old)
    with pytest.raises(InputError, match=r"objective is an old name of task[.]objective"):
        with_new_names({**to_plain(RUN), "objective": None})


@pytest.mark.parametrize(
    ("recipe", "assignment", "now"),
    [
        ("quickstart_pretrain", "mixture.sources.web.weight=2", "task.mixture.sources.web.weight=2"),
        ("quickstart_pretrain", "objective=my.py:Mine", "task.objective=my.py:Mine"),
        ("quickstart_sft", "conversations.train_on=last", "task.train_on=last"),
        ("quickstart_dpo", "preferences.beta=0.3", "task.beta=0.3"),
    ],
)
def test_old_sections_are_understood_on_the_command_line(
    recipe: str, assignment: str, now: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = load_recipe(recipe)
    with caplog.at_level(logging.INFO, logger="megaphi"):
        assert override(run, [assignment]) == override(run, [now]) != run
    assert f"{assignment.partition('=')[0]} is called {now.partition('=')[0]} now" in caplog.text


@pytest.mark.parametrize(
    ("recipe", "assignment", "message"),
    [
        (
            "quickstart_pretrain",
            "task.beta=1",
            r"unknown field 'task\.beta'\. The task of this run is Pretrain",
        ),
        ("quickstart_dpo", "mixture.order=keyed", r"The task of this run is Prefer; 'mixture' is for Pretrain\."),
        ("quickstart_sft", "task.loss=ipo", r"The task of this run is Finetune; 'loss' is for Prefer\."),
        ("quickstart_sft", "task.kind=Prefer", r"is Finetune, as its recipe says: start from another recipe"),
        ("quickstart_sft", "task.train_no=last", r"Did you mean 'task\.train_on'"),
    ],
)
def test_a_field_of_another_task_is_one_error_that_says_which_task_it_is(
    recipe: str, assignment: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        override(load_recipe(recipe), [assignment])


def test_a_task_that_is_none_is_refused() -> None:
    plain = to_plain(RUN)
    for task, message in {
        '{"kind": "Pretrian"}': r"task\.kind='Pretrian': expected Pretrain, .*Did you mean 'Pretrain'",
        '{"mixture": {}}': r"expected an object with task\.kind, one of Pretrain",
        '{"kind": "nowhere.py:Mine@00"}': r"there is no file nowhere\.py",
        '{"kind": "Prefer", "paths": ["a"], "beta": -1}': r"task\.beta=-1\.0: must be above 0",
    }.items():
        with pytest.raises(InputError, match=message):
            from_plain(RunConfig, {**plain, "task": json.loads(task)})


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
    task = old.pop("task")
    old |= {
        "mixture": {"sources": []},
        "conversations": None,
        "preferences": None,
        "objective": task.pop("objective", None),
    }
    kind = task.pop("kind")
    section = {"Pretrain": "mixture", "Finetune": "conversations", "Prefer": "preferences"}[kind]
    old[section] = task["mixture"] if kind == "Pretrain" else task
    return {name: part for name, part in old.items() if part != {}}


@pytest.mark.parametrize("words", [("train", "--dry-run"), ("mixture",)], ids=lambda words: words[0])
def test_the_message_is_shown_to_who_types_the_old_name(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("megaphi"), "handlers", [])
    verb, *options = words
    main([verb, "quickstart_pretrain", *options, "run.steps=50"])
    assert "run.steps is called training.steps now" in capsys.readouterr().err
