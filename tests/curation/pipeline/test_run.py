"""A run of the pipeline: against a plain loop over the same steps, resumed, with settings changed, in processes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from megaphi.curation.pipeline.run import curate
from megaphi.curation.pipeline.shard import described
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.recipe import Curation
from tests.curation.pipeline.conftest import records_of, result_of
from tests.curation.pipeline.my_steps import Banned, FirstOnly, Shouted, TooShort, recipe


def run(curation: Curation, **given):
    return curate(curation, show_progress=False, **given)


def calls(folder: Path, step: str) -> list[str]:
    """Ids that a step was called with since this was last asked."""
    path = folder / "steps" / step / "calls"
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def expected(source: Path) -> list[tuple[str, str]]:
    """(id, text) of what the recipe keeps, by a loop that knows nothing of shards, batches or stages."""
    found, seen = [], set()
    for line in source.read_text().splitlines():
        if line.startswith("{broken"):
            continue
        record = json.loads(line)
        words = record["text"].split()
        if "boom" in words or "odd" in words or len(words) < 3:
            continue
        for identity, text in ((record["id"], record["text"]), (record["id"] + "/2", record["text"].upper())):
            if text not in seen and len(words) >= 4:
                found.append((identity, text))
            seen.add(text)
    return found


def test_a_run_keeps_what_a_plain_loop_keeps(source, tmp_path):
    summary = run(recipe())
    records = records_of(tmp_path / "run" / "documents")
    assert [(record["id"], record["text"]) for record in records] == expected(source)
    assert summary.shards >= 5
    assert {tuple(record["history"]) for record in records} == {("too_short", "shouted", "first_only", "too_short_2")}


def test_counts_add_up_and_rejected_documents_are_kept_aside(source, tmp_path):
    counts = {one.name: one for one in run(recipe()).counts}
    steps = ["read", "too_short", "shouted", "first_only", "too_short_2", "write"]
    assert [name for name in counts if name in steps] == steps
    for before, after in pairwise(steps):
        assert counts[before].left == counts[after].came
    for name in ("read", "too_short", "first_only", "too_short_2"):
        assert counts[name].came.documents == counts[name].left.documents + sum(counts[name].rejected.values())
    assert counts["read"].rejected == {"not_json": 4}
    assert counts["shouted"].rejected == {"error": sum(" odd " in f" {text} " for text in passed_on(source))}
    aside = [
        record
        for path in sorted((tmp_path / "run" / "stages").rglob("rejected.jsonl.zst"))
        for record in records_of(path)
    ]
    assert Counter((record["step"], record["reason"]) for record in aside) == Counter(
        {(one.name, reason): count for one in counts.values() for reason, count in one.rejected.items()}
    )
    boom = next(record for record in aside if record["step"] == "too_short" and record["reason"] == "error")
    assert "boom" in boom["text"]
    assert boom["detail"].startswith("KeyError: 'boom' (my_steps.py, line ")


def passed_on(source: Path) -> list[str]:
    """Texts that come out of the first filter."""
    texts = [json.loads(line)["text"] for line in source.read_text().splitlines() if not line.startswith("{broken")]
    return [text for text in texts if "boom" not in text.split() and len(text.split()) >= 3]


def test_a_second_run_does_nothing_and_changes_nothing(source, tmp_path):
    run(recipe())
    before = result_of(tmp_path / "run")
    calls(tmp_path / "run", "too_short")
    again = run(recipe())
    assert again.shards_done_here == 0
    assert calls(tmp_path / "run", "too_short") == []
    assert result_of(tmp_path / "run") == before


def test_a_changed_setting_does_again_only_what_depends_on_it(source, tmp_path):
    run(recipe())
    folder = tmp_path / "run"
    calls(folder, "too_short"), calls(folder, "too_short_2")
    changed = replace(recipe(), steps=(*recipe().steps[:-1], TooShort(minimum_words=6)))
    assert run(changed).shards_done_here == run(recipe()).shards
    assert calls(folder, "too_short") == []
    assert len(calls(folder, "too_short_2")) > 0
    # and what a fresh folder gets from the changed recipe is the same
    run(changed)
    fresh = replace(changed, folder=str(tmp_path / "fresh"))
    run(fresh)
    assert records_of(folder / "documents") == records_of(tmp_path / "fresh" / "documents")
    assert result_of(folder) == result_of(tmp_path / "fresh")


def test_how_much_of_rejected_documents_is_kept_makes_no_shard_again(source, tmp_path):
    curation = replace(recipe(), steps=(TooShort(),))
    run(curation)
    before = records_of(tmp_path / "run" / "rejected")
    shorter = replace(curation, rejected_characters=2)
    assert run(shorter).shards_done_here == 0
    assert records_of(tmp_path / "run" / "rejected") == before
    run(replace(shorter, steps=(TooShort(minimum_words=4),)))
    assert {len(record["text"]) for record in records_of(tmp_path / "run" / "rejected")} == {0, 1, 2}


def test_more_input_does_again_only_the_last_shard(source, tmp_path):
    curation = replace(recipe(), steps=(TooShort(),))
    first = run(curation)
    calls(tmp_path / "run", "too_short")
    with open(source.with_name("more.jsonl"), "w") as file:
        file.write(json.dumps({"id": "new", "text": "a b c"}) + "\n")
    more = ReadJsonLines(paths=(str(source), str(source.with_name("more.jsonl"))), piece_bytes=300)
    summary = run(replace(curation, read=more))
    assert summary.shards_done_here <= 2 < first.shards
    assert "new" in calls(tmp_path / "run", "too_short")
    assert "new" in [record["id"] for record in records_of(tmp_path / "run" / "documents")]


def test_a_file_that_a_setting_names_is_part_of_it(source, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("a")
    curation = replace(recipe(), steps=(Banned(words=str(words)),))
    kept = {one.name: one.left.documents for one in run(curation).counts}["banned"]
    assert run(curation).shards_done_here == 0
    words.write_text("nothing")
    again = {one.name: one.left.documents for one in run(curation).counts}["banned"]
    assert again > kept


def test_documents_kept_after_a_step_are_not_made_again(source, tmp_path):
    curation = replace(recipe(), steps=(TooShort(), Shouted()), keep_after=("too_short",))
    plain = run(replace(curation, keep_after=(), folder=str(tmp_path / "plain")))
    run(curation)
    assert records_of(tmp_path / "run" / "documents") == records_of(tmp_path / "plain" / "documents")
    calls(tmp_path / "run", "too_short")
    run(replace(curation, steps=(TooShort(), Shouted(batch_documents=1))))
    assert calls(tmp_path / "run", "too_short") == []
    assert plain.finished


def test_a_killed_run_does_only_unfinished_shards_again(source, tmp_path, monkeypatch):
    """The exception stands for a kill: a shard that was begun leaves nothing that counts."""
    curation = replace(recipe(), folder=str(tmp_path / "whole"))
    run(curation)
    from megaphi.curation.pipeline import process

    really, done = process.run_shard, []

    def dies(job, *given):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job.number)
        return really(job, *given)

    monkeypatch.setattr(process, "run_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        run(recipe())
    monkeypatch.undo()
    rest = run(replace(recipe(), folder=str(tmp_path / "run"), read=curation.read))
    assert rest.shards_done_here == 2 * rest.shards - 3
    assert result_of(tmp_path / "run") == result_of(tmp_path / "whole")


def test_shards_of_any_size_give_the_same_documents(source, tmp_path):
    first = None
    for size in (700, 100_000):
        folder = tmp_path / f"by{size}"
        run(replace(recipe(), shard_bytes=size, folder=str(folder)))
        found = [(record["id"], record["text"]) for record in records_of(folder / "documents")]
        first = first or found
        assert found == first == expected(source)


def test_an_exception_is_described_by_its_line():
    try:
        raise ValueError("x" * 1_000)
    except ValueError as error:
        said = described(error)
    assert said.startswith("ValueError: xxx")
    assert "test_run.py, line" in said
    assert len(said) < 600


def test_a_joint_step_comes_first_and_last(source, tmp_path):
    run(replace(recipe(), steps=(FirstOnly(), TooShort(), FirstOnly())))
    texts = [record["text"] for record in records_of(tmp_path / "run" / "documents")]
    assert len(texts) == len(set(texts)) > 10
