"""The report of a run: its figures are those of the shards, its samples do not depend on them, nothing is markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from hashlib import sha256

import pytest

from megaphi.curation.pipeline.run import curate
from megaphi.curation.pipeline.samples import LONGEST_SAMPLE
from megaphi.curation.recipe import MOST_SAMPLES
from megaphi.curation.report.funnel import funnel_of
from megaphi.curation.report.report import markdown, page, write_report
from tests.curation.pipeline.conftest import records_of
from tests.curation.pipeline.my_steps import TooShort, recipe

HOSTILE = "<script>alert(1)</script> | `x` **bold** </pre> \ud800 "


@pytest.fixture
def plan(source, tmp_path):
    with open(source, "a") as file:
        for number, text in enumerate((HOSTILE, f"{HOSTILE} and more words to be kept", "long " * 5_000)):
            file.write(json.dumps({"id": f"{HOSTILE}{number}", "text": text}) + "\n")
    curation = replace(recipe(), steps=(TooShort(minimum_words=7), TooShort()), samples=3)
    return curate(curation, show_progress=False).plan


def test_the_funnel_adds_up(plan):
    funnel = funnel_of(plan)
    assert [step.name for step in funnel.steps] == ["read", "too_short", "too_short_2", "write"]
    first = funnel.steps[1]
    assert sum(one.count for one in first.rejected) == first.counts.came.documents - first.counts.left.documents
    assert all(len(one.samples) == min(3, one.count) for step in funnel.steps for one in step.rejected)
    assert len(funnel.kept) == 3
    assert first.settings == "TooShort(minimum_words=7)"


def test_samples_do_not_depend_on_shards(plan, tmp_path):
    other = replace(plan.curation, shard_bytes=5_000, folder=str(tmp_path / "other"))
    again = funnel_of(curate(other, show_progress=False).plan)
    for one, two in zip(funnel_of(plan).steps, again.steps, strict=True):
        assert [found.samples for found in one.rejected] == [found.samples for found in two.rejected]
    assert funnel_of(plan).kept == again.kept


def test_another_seed_and_number_of_samples_make_the_report_again_and_no_shard(plan):
    before = funnel_of(plan)
    for changed in (replace(plan.curation, seed=1), replace(plan.curation, samples=MOST_SAMPLES)):
        summary = curate(changed, show_progress=False)
        assert summary.shards_done_here == 0
        assert funnel_of(summary.plan).kept != before.kept
    counts = {one.reason: one.count for step in before.steps for one in step.rejected}
    shown = {one.reason: len(one.samples) for step in funnel_of(summary.plan).steps for one in step.rejected}
    assert shown == {reason: min(count, MOST_SAMPLES) for reason, count in counts.items()}
    assert funnel_of(replace(summary.plan, curation=plan.curation)).kept == before.kept


def hashed(name: str) -> str:
    return sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def test_samples_are_the_smallest_hashes_of_the_whole_run(plan):
    """Against a sort of everything that was rejected."""
    rejected = records_of(plan.folder / "rejected")
    for step in funnel_of(plan).steps:
        for one in step.rejected:
            ids = [each["id"] for each in rejected if (each["step"], each["reason"]) == (step.name, one.reason)]
            pool = sorted(ids, key=hashed)[:MOST_SAMPLES]
            expected = sorted(pool, key=lambda name: hashed(f"0 {name}"))[:3]
            assert [sample.id for sample in one.samples] == expected


def test_texts_are_not_markup(plan):
    funnel = funnel_of(plan)
    html = page(replace(funnel, recipe="<b>x"))
    assert "<script" not in html
    assert "<b>x" not in html
    text = markdown(replace(funnel, recipe="<b>x|"))
    assert "<b>" not in text
    assert all(line.count(" | ") in (2, 6) for line in text.splitlines() if re.match(r"\| (?!-)", line))


def test_long_texts_are_cut_and_said_to_be(plan):
    long = [one for one in funnel_of(plan).kept if one.characters > LONGEST_SAMPLE]
    assert all(len(one.text) == LONGEST_SAMPLE for one in long)


def test_files_appear_in_the_folder(plan):
    write_report(plan)
    assert "too\\_short" in (plan.folder / "report.md").read_text()
    assert "Documents that were kept" in (plan.folder / "report.html").read_text()


def test_a_run_without_documents_has_a_report(source, tmp_path):
    plan = curate(replace(recipe(), steps=(TooShort(minimum_words=1_000),)), show_progress=False).plan
    write_report(plan)
    assert "0 documents of 0 characters written" in (plan.folder / "report.md").read_text()
