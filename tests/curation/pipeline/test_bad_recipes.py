"""Wrong recipes, fields, folders and steps: one message each, exit code 2, nothing half-written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from megaphi.cli import main
from megaphi.curation.document import Document, Rejected
from megaphi.curation.pipeline.run import curate
from megaphi.curation.recipe import check_curation, override_curation, step_names
from megaphi.errors import AffectsAll, InputError, RunFailed
from tests.curation.pipeline.conftest import RECIPE, records_of
from tests.curation.pipeline.my_steps import FirstOnly, Shouted, TooShort, recipe


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["steps.too_short.minimum=3"], "unknown field 'steps.too_short.minimum'. Did you mean"),
        (["steps.to_short.minimum_words=3"], "there is no step 'to_short'. Did you mean 'too_short'?"),
        (["steps.too_short=3"], "steps.too_short is a whole step: set one of its fields"),
        (["steps.too_short.minimum_words=-1"], "steps.too_short.minimum_words=-1: must be at least 0"),
        (["steps.too_short.minimum_words=few"], "steps.too_short.minimum_words=few: expected a whole number"),
        (["read.paths=nowhere.jsonl"], "input not found: nowhere.jsonl"),
        (["shard_bytes=0"], "shard_bytes=0: must be at least 1"),
        (["keep_after=nobody"], "keep_after: there is no step 'nobody'"),
        (["--processes", "0"], "--processes 0: must be at least 1"),
        (["--rank", "1"], "--rank and --world belong together"),
        (["--ray", "local", "--rank", "0", "--world", "2"], "start one process, not 2"),
    ],
)
def test_a_wrong_word_on_the_command_line(source, tmp_path, capsys, words, said):
    assert main(["curate", RECIPE, *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (RECIPE.replace(":recipe", ":no_curation"), "it returned int, expected a Curation"),
        (RECIPE.replace(":recipe", ":recip"), "recip"),
        ("nothing", "unknown recipe of curation 'nothing'"),
    ],
)
def test_a_recipe_that_is_none(capsys, name, said):
    assert main(["curate", name]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": [TooShort()]}, "steps is list, expected a tuple of steps"),
        ({"steps": (TooShort,)}, "steps.type is the class TooShort, expected a dataclass of settings"),
        ({"steps": (Document(id="a", source="b", place="c"),)}, "steps.document: Document lacks what makes it one"),
        ({"steps": (TooShort(minimum_words=-3),)}, "steps.too_short.minimum_words=-3: must be at least 0"),
        ({"read": TooShort()}, "read: TooShort lacks what makes it one: it needs VERSION and portions, read"),
        ({"write": "out"}, "write is str, expected a dataclass"),
        ({"shard_bytes": 0}, "shard_bytes=0"),
    ],
)
def test_a_recipe_with_a_wrong_part(source, changes, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        check_curation(replace(recipe(), **changes))


def test_an_output_folder_of_another_recipe(source, tmp_path):
    curate(recipe(), show_progress=False)
    before = (tmp_path / "run" / "curation.json").read_bytes()
    with pytest.raises(InputError, match="belongs to the recipe 'everything', not 'other'"):
        curate(replace(recipe(), recipe="other"), show_progress=False)
    assert (tmp_path / "run" / "curation.json").read_bytes() == before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").touch()
    with pytest.raises(InputError, match=r"holds other things \(letter.txt\)"):
        curate(replace(recipe(), folder=str(mine)), show_progress=False)
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fails:
    """Raises when it is opened, or at a document."""

    VERSION: ClassVar[int] = 1

    when: str

    def open(self, context):
        if self.when == "open":
            raise FileNotFoundError("no model at x.bin")

        def fail(document):
            known = {"key": AffectsAll("the key is refused"), "model": RunFailed("it does not answer")}
            raise known[self.when]

        return fail


def test_a_step_that_cannot_be_opened(source, tmp_path):
    with pytest.raises(InputError, match="step fails cannot be opened: FileNotFoundError: no model at x"):
        curate(replace(recipe(), steps=(Fails(when="open"),)), show_progress=False)
    assert not (tmp_path / "run" / "documents").exists()


@pytest.mark.parametrize(("when", "error"), [("key", AffectsAll), ("model", RunFailed)])
def test_what_every_document_would_meet_ends_the_run(source, tmp_path, when, error):
    with pytest.raises(error):
        curate(replace(recipe(), steps=(Fails(when=when),)), show_progress=False)
    assert not list((tmp_path / "run").rglob("counts.json"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Returns:
    """Returns something that is no document."""

    VERSION: ClassVar[int] = 1

    what: str = "none"

    def open(self, context):
        made = {
            "none": lambda document: None,
            "text": lambda document: document.text,
            "metadata": lambda document: document.known(found={1}),
            "no text": lambda document: document.with_text(None),
            "reason": lambda document: Rejected(document, 3),
        }
        return made[self.what]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Returns(), "returned NoneType, expected Document"),
        (Returns(what="text"), "returned str, expected Document"),
        (Returns(what="metadata"), "JSON"),
        (Returns(what="no text"), "a field that is no text"),
        (Returns(what="reason"), "a field that is no text"),
    ],
)
def test_what_a_step_makes_wrong_costs_the_document(source, tmp_path, step, said):
    for steps in ((step,), (step, FirstOnly())):
        folder = tmp_path / str(len(steps))
        counts = curate(replace(recipe(), steps=steps, folder=str(folder)), show_progress=False).counts
        assert counts[-1].left.documents == 0
        assert any(said in record["detail"] for record in records_of(folder / "rejected"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Lazy(FirstOnly):
    """Gathers nothing."""

    def gather(self, documents, shard, folder):
        return


def test_a_joint_step_that_does_not_look_at_all_documents(source):
    with pytest.raises(InputError, match="gather lazy did not read all documents"):
        curate(replace(recipe(), steps=(Lazy(),)), show_progress=False)


def test_another_run_in_the_folder(source, tmp_path):
    from megaphi.files import try_lock

    (tmp_path / "run" / "stages").mkdir(parents=True)
    with (
        try_lock(tmp_path / "run" / "stages" / ".lock", exclusive=True),
        pytest.raises(InputError, match="another process is writing"),
    ):
        curate(recipe(), show_progress=False)


def test_fields_are_changed_by_the_names_of_steps(source):
    changed = override_curation(recipe(), ["steps.too_short_2.minimum_words=9", "read.paths=a,b", "write.level=5"])
    assert changed.steps[3] == TooShort(minimum_words=9)
    assert changed.steps[0] == TooShort()
    assert changed.read.paths == ("a", "b")
    assert step_names((TooShort(), TooShort(), Shouted(), TooShort())) == [
        "too_short", "too_short_2", "shouted", "too_short_3",
    ]  # fmt: skip


def test_a_dry_run_writes_nothing(source, tmp_path, capsys):
    assert main(["curate", RECIPE, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "stage 1: too_short, shouted, + first_only: " in said
    assert "too_short_2: TooShort(minimum_words=4)" in said
    assert not Path(tmp_path / "run").exists()


def test_a_summary_for_a_person(source, tmp_path, capsys):
    assert main(["curate", RECIPE, "--processes", "1"]) == 0
    said = capsys.readouterr().out
    assert "    4 not_json" in said
    assert f"{tmp_path / 'run' / 'documents'}: finished in" in said
    assert (tmp_path / "run" / "report.html").exists()
