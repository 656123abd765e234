"""The step that keeps benchmark items out: what it takes out, what it marks, and which texts it looks at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megaphi.curation.decontaminate import Benchmark, Decontaminate
from megaphi.curation.document import Document, Rejected
from megaphi.curation.step import Step, StepContext
from megaphi.errors import InputError

LEAKED = "A train leaves Geneva at noon and arrives in Bern two hours later; how fast is it on average?"
PARTLY = "Seven dwarfs share forty-two apples, but one of them gives half of his away; how many has each now?"
FILLER = "filler text of a page that has nothing to do with anything at all "


def opened(folder: Path, **settings: Any) -> Any:
    records = [{"id": "train", "question": LEAKED}, {"id": "dwarfs", "question": PARTLY}]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    step = Decontaminate(benchmarks=(Benchmark(path=str(folder / "quiz.jsonl")),), **settings)
    assert isinstance(step, Step)

    def refused(name: str) -> Any:
        raise AssertionError(name)

    return step.open(StepContext(folder=folder, open_sampler=refused))


def document(text: str, **metadata: Any) -> Document:
    return Document(id="1", source="s", place="s:1", text=text, metadata=metadata)


def test_contaminated_documents_are_rejected_with_the_item_and_the_run(tmp_path: Path) -> None:
    step = opened(tmp_path)
    clean = document(FILLER * 9)
    assert step(clean) is clean
    found = step(
        document(f"{FILLER} **A TRAIN** leaves Geneva\nat noon - and arrives in Bern two hours later {FILLER}")
    )
    assert isinstance(found, Rejected)
    assert found.reason == "contaminated"
    assert found.detail == (
        "quiz, item train, 7 of 13 runs of 7 words: 'a train leaves geneva at noon and arrives in bern two hours later'"
    )
    assert isinstance(step(document(f"a train {FILLER} leaves Geneva at noon")), Document)


def test_the_worst_item_decides(tmp_path: Path) -> None:
    part = " ".join(PARTLY.split()[:9])
    step = opened(tmp_path, fields=("text", "prompt"))
    for text, prompt in ((f"{LEAKED} {FILLER} {part}", FILLER), (LEAKED, f"{FILLER} {part}"), (part, LEAKED)):
        found = step(document(text, prompt=prompt))
        assert (found.reason, found.detail[:16]) == ("contaminated", "quiz, item train"), text


def test_partly_contaminated_documents_are_marked_or_rejected(tmp_path: Path) -> None:
    text = f"{FILLER * 3} Seven dwarfs share forty-two apples, but one is ill {FILLER * 3}"
    kept = opened(tmp_path)(document(text, url="u"))
    assert kept.metadata == {"url": "u", "contamination": {"set": "quiz", "item": "dwarfs", "shared": 2, "of": 14}}
    found = opened(tmp_path, partial="reject")(document(text))
    assert (found.reason, found.detail) == ("partly_contaminated", "quiz, item dwarfs, 2 of 14 runs of 7 words")


def test_prompts_and_conversations_are_texts_of_their_own(tmp_path: Path) -> None:
    conversation = [{"role": "user", "content": LEAKED}, {"role": "assistant", "content": "50 km/h"}]
    assert isinstance(opened(tmp_path)(document(FILLER, messages=conversation)), Document)
    step = opened(tmp_path, fields=("text", "messages"))
    assert step(document(FILLER, messages=conversation)).reason == "contaminated"
    assert step(document(LEAKED, messages=[])).reason == "contaminated"
    assert step(document(FILLER)).reason == "no_field"
    words = LEAKED.split()
    split = [{"role": "user", "content": " ".join(words[:9])}, {"role": "assistant", "content": " ".join(words[9:])}]
    assert step(document(FILLER, messages=split)).reason == "contaminated"


def test_an_allow_list_and_what_is_wrong_with_settings(tmp_path: Path) -> None:
    words = "a train leaves geneva at noon and arrives in bern two hours later".split()
    (tmp_path / "allowed.txt").write_text(" ".join(words) + "\t12\n")
    text = f"{FILLER} {' '.join(words)} {FILLER}"
    assert opened(tmp_path)(document(text)).reason == "contaminated"
    assert "'" not in opened(tmp_path, allow_list=str(tmp_path / "allowed.txt"))(document(text)).detail
    context = StepContext(folder=tmp_path, open_sampler=lambda name: None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="at least one benchmark"):
        Decontaminate(benchmarks=()).open(context)
    with pytest.raises(InputError, match=r"none\.jsonl"):
        Decontaminate(benchmarks=(Benchmark(path=str(tmp_path / "none.jsonl")),)).open(context)
