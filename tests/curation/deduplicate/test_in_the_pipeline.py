"""The joint steps and decontamination in a run of the pipeline: the same documents from one shard and from many."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from megaphi.curation.decontaminate import Benchmark, Decontaminate
from megaphi.curation.deduplicate.exact import ExactDuplicates
from megaphi.curation.deduplicate.near import NearDuplicates
from megaphi.curation.deduplicate.paragraphs import RepeatedParagraphs
from megaphi.curation.pipeline.run import curate
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.recipe import Curation
from tests.curation.pipeline.conftest import records_of

NOTICE = "This notice stands in every one of these pages."
QUESTION = "Which of these three birds flies farthest in one night over the open sea in winter?"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Five files of forty pages: half of them copies, some with a word changed, and one with a benchmark item."""
    draw = random.Random(7)
    words = [a + b + c for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    pages = [draw.choices(words, k=120) for _ in range(100)]
    texts = [" ".join(page) for page in pages]
    texts += [" ".join(page) for page in pages[:50]]
    texts += [" ".join([*page[:60], "changed", *page[61:]]) for page in pages[50:]]
    draw.shuffle(texts)
    texts[3] = f"{texts[3]} {QUESTION}"
    (tmp_path / "pages").mkdir()
    for number in range(5):
        records = [{"text": f"{text}\n{NOTICE}\n"} for text in texts[40 * number : 40 * number + 40]]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / "pages" / f"{number}.jsonl").write_text(lines)
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"id": "birds", "question": QUESTION}) + "\n")
    return tmp_path


def test_a_run_of_one_shard_and_of_many(home: Path) -> None:
    found = []
    for shard_bytes in (1, 1 << 30):
        run = home / f"run-{shard_bytes}"
        steps = (
            Decontaminate(benchmarks=(Benchmark(path=str(home / "quiz.jsonl")),)),
            ExactDuplicates(),
            NearDuplicates(),
            RepeatedParagraphs(),
        )
        read = ReadJsonLines(paths=(str(home / "pages"),))
        curate(
            Curation(recipe="test", folder=str(run), read=read, steps=steps, shard_bytes=shard_bytes),
            show_progress=False,
        )
        found.append((records_of(run / "documents"), records_of(run / "rejected")))
    (one, one_rejected), (many, many_rejected) = found
    assert [record["text"] for record in one] == [record["text"] for record in many]
    assert sorted(map(told, one_rejected)) == sorted(map(told, many_rejected))
    reasons = [record["reason"] for record in one_rejected]
    assert {reason: reasons.count(reason) for reason in set(reasons)} == {
        "contaminated": 1,
        "exact_duplicate": 50 - ("changed" not in one_rejected[0]["text"]),
        "near_duplicate": 50 - ("changed" in one_rejected[0]["text"]),
    }
    assert all(NOTICE not in record["text"] for record in one)


def told(record: dict[str, str]) -> tuple[str, ...]:
    return record["id"], record["step"], record["reason"], record["detail"]
