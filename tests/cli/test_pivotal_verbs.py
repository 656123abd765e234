"""`megaphi pivotal judge`, `hallucination` and `best` from files to files: replay, kills, dry runs, what goes wrong.

Samplers are our own `LocalSampler` around a generator that is told what to say, so journals are the real ones.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main
from megaphi.cli.pivotal import sampling_run
from megaphi.data.packed.preference_pairs import read_pairs
from megaphi.errors import InputError, RunFailed
from megaphi.generation.local_sampler import LocalSampler
from tests.pivotal.preference.scripted import ScriptedGenerator, as_json, judgement
from tests.pivotal.preference.scripted import tokenizer as phi4_tokenizer

COUNT = 5
QUESTIONS = "".join(
    json.dumps({"id": f"q{n}", "prompt": f"What is {n} + {n}?", "exact_answers": [f"{2 * n}"]}) + "\n"
    for n in range(COUNT)
)


def says(prompt: str, sample: int) -> str:
    """As model, judge and writer; q0 is usually right, q4 never."""
    if "You judge a response" in prompt:
        text = prompt.split("begin response ---\n")[1]
        return as_json(judgement(1 + len(text.split("\n")[0]) % 5, faults=["é"]))
    number = int(re.findall(r"What is (\d) \+", prompt)[-1])
    if "You write data" in prompt:
        texts = {"answer": f"{2 * number}", "refusal": "Nobody told me that."}
        return as_json(texts | {"bogus": f"What is {number} + blue?", "bogus_refusal": "There is no such sum."})
    return f"{2 * number}" if sample >= 2 * number else f"{'x' * sample} 17, I am sure"


def different(prompt: str, sample: int) -> str:
    """As `says`, with no response twice."""
    said = says(prompt, sample)
    return said if "You judge" in prompt or "You write" in prompt else f"{said} {'!' * sample}"


class OpenScripted:
    """In the place of `OpenSamplers`: the same journal, and generators that count requests."""

    def __init__(self, say: Callable[[str, int], str] = says) -> None:
        self.say = say
        self.generators: list[ScriptedGenerator] = []
        self.opened: list[str] = []
        self._samplers = ExitStack()

    @property
    def requests(self) -> int:
        return sum(generator.requests for generator in self.generators)

    def open(self, place: Any, *, journal: Any, on_end: Any) -> LocalSampler:
        self.opened.append(str(place))
        self.generators.append(ScriptedGenerator(self.say))
        sampler = LocalSampler(
            self.generators[-1:], phi4_tokenizer(), name=str(place), identity=str(place), journal=journal, on_end=on_end
        )
        return self._samplers.enter_context(sampler)

    def close(self) -> None:
        self._samplers.close()


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, OpenScripted]]:
    """Run a verb in a folder with `questions.jsonl`; returns (exit code, what was opened)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.jsonl").write_text(QUESTIONS)

    def run(part: str, *words: str, say: Callable[[str, int], str] = says) -> tuple[int, OpenScripted]:
        samplers = OpenScripted(say)
        monkeypatch.setattr(sampling_run, "with_samplers", lambda arguments, places, work: work(samplers))
        given = {"judge": ["--model", "m", "--judge", "j"], "hallucination": ["--model", "m", "--writer", "w"]}
        chosen = [*given.get(part, ["--model", "m"]), "--output", "out", *words]
        try:
            return main(["pivotal", part, "questions.jsonl", *chosen]), samplers
        finally:
            samplers.close()

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


FILES = {
    "judge": {"judged.jsonl", "left_out.jsonl", "pairs.jsonl", "report.md", "scores.png"},
    "hallucination": {"dpo.jsonl", "left_out.jsonl", "questions.jsonl", "report.md", "sft.jsonl"},
    "best": {"left_out.jsonl", "questions.jsonl", "report.md", "sft.jsonl"},
}


@pytest.mark.parametrize("part", FILES)
def test_a_second_run_asks_nothing_and_writes_the_same_bytes(part: str, go: Any, capsys: Any) -> None:
    code, first = go(part)
    assert code == 0
    assert set(contents(Path("out"))) == FILES[part]
    assert first.requests > COUNT * 4
    said = capsys.readouterr().out
    assert said.startswith("out/report.md: 5 ")
    whole = contents(Path("out"))
    journal = Path("out.journal.jsonl").read_bytes()
    code, second = go(part, "--output", "again", "--journal", "out.journal.jsonl")
    assert (code, second.requests) == (0, 0)
    assert contents(Path("again")) == whole
    # Killed in the middle: what the journal holds is not asked for again.
    kept = journal[: len(journal) // 2]
    Path("half.jsonl").write_bytes(kept)
    code, third = go(part, "--output", "third", "--journal", "half.jsonl")
    assert code == 0
    assert contents(Path("third")) == whole
    assert 0 < third.requests < first.requests
    assert first.requests == len(journal.splitlines()) - journal.count(b'"response":true')


def test_pairs_are_read_by_the_stage(go: Any) -> None:
    assert go("judge")[0] == 0
    pairs, report = read_pairs(
        ["out/pairs.jsonl"],
        phi4_tokenizer(),
        sequence_length=200,
        append_eos=False,
        max_completion_tokens=None,
        too_long="error",
    )
    assert (len(pairs), report.skipped) == (4, {})  # q0 has four times the same response
    assert all(pair.chosen[-1] == phi4_tokenizer().message_end for pair in pairs)


def test_the_best_by_key_are_right_and_the_others_are_named(go: Any) -> None:
    assert go("best", "--samples", "4")[0] == 0
    records = [json.loads(line) for line in Path("out/sft.jsonl").read_text().splitlines()]
    assert [record["messages"][-1]["content"] for record in records] == ["0", "2"]
    left_out = [json.loads(line) for line in Path("out/left_out.jsonl").read_text().splitlines()]
    named = [item["name"] for item in left_out if item["reason"] == "no response is right"]
    assert named == ["q2", "q3", "q4"]
    assert "- Prompts without: 3, named in left_out.jsonl." in Path("out/report.md").read_text()


def test_hallucination_data_by_key(go: Any) -> None:
    assert go("hallucination")[0] == 0
    counts = [json.loads(line) for line in Path("out/questions.jsonl").read_text().splitlines()]
    assert [item["right"] for item in counts] == [8, 6, 4, 2, 0]
    assert [item["usually"] for item in counts] == ["right", "undecided", "undecided", "undecided", "wrong"]
    kinds = [json.loads(line)["kind"] for line in Path("out/dpo.jsonl").read_text().splitlines()]
    assert kinds.count("refusal over wrong answer") == kinds.count("answer over refusal") == 4
    report = Path("out/report.md").read_text()
    assert "| sft.jsonl | bogus | 5 |" in report
    assert "1 questions right, 1 wrong, 3 neither" in report


@pytest.mark.parametrize("part", FILES)
def test_a_dry_run_counts_what_is_asked_for(part: str, go: Any, capsys: Any) -> None:
    code, samplers = go(part, "--dry-run")
    assert (code, samplers.opened) == (0, [])
    (total,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith("in all")]
    planned = int(total.split()[0].replace(",", ""))
    assert not Path("out.journal.jsonl").exists()
    _, real = go(part, say=different)
    assert real.requests == planned


def test_errors_keep_what_was_answered_and_leave_no_output(go: Any, capsys: Any) -> None:
    def dying(prompt: str, sample: int) -> str:
        if "You judge" in prompt and "4 + 4" in prompt:
            raise RunFailed("http://h/v1: given up after 6 attempts: TimeoutError")
        return says(prompt, sample)

    code, first = go("judge", say=dying)
    assert code == 1
    said = capsys.readouterr().err
    assert "answers are kept in out.journal.jsonl: the same command continues from there" in said
    assert not Path("out").exists()
    assert list(Path().glob(".out.*")) == []
    code, second = go("judge")
    assert code == 0
    assert second.requests < first.requests


def test_a_full_disk_is_one_message(go: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(handle: int, content: bytes) -> int:
        if b'"request"' in content and Path("out.journal.jsonl").stat().st_size > 2_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content)

    monkeypatch.setattr(os, "write", full)
    code, _ = go("judge")
    assert code == 2
    assert "cannot write out.journal.jsonl: no space left on the device" in capsys.readouterr().err
    assert not Path("out").exists()
    monkeypatch.setattr(os, "write", write)
    for line in Path("out.journal.jsonl").read_bytes().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    ("part", "words", "message"),
    [
        ("judge", ["--samples", "1"], "one response to each prompt makes no pair"),
        ("judge", ["--model", "m"], "--model m is given twice"),
        ("judge", ["--ties", "overall", "--by", "overall"], "--ties overall"),
        ("judge", ["--temperature", "-1"], "temperature=-1.0"),
        ("judge", ["--judge", "http://h/v1"], "--judge http://h/v1: which model of that server?"),
        ("judge", ["--output", "questions.jsonl"], "--output questions.jsonl exists already"),
        ("best", ["--least-accuracy", "6"], "--least-accuracy 6: scores go from 1 to 5"),
        ("hallucination", ["--confidence", "1"], "--confidence 1.0: must be at least 0.5 and below 1"),
        ("hallucination", ["--samples", "2"], "not even that many right answers"),
    ],
)
def test_wrong_options_are_one_message(part: str, words: list[str], message: str, go: Any, capsys: Any) -> None:
    code, samplers = go(part, *words)
    (line,) = capsys.readouterr().err.splitlines()
    assert (code, samplers.opened) == (2, [])
    assert message in line


@pytest.mark.parametrize("part", FILES)
def test_an_empty_file_is_one_message(part: str, go: Any, capsys: Any) -> None:
    Path("questions.jsonl").write_text("")
    code, samplers = go(part)
    assert (code, samplers.opened) == (2, [])
    assert re.search(r"questions.jsonl (is empty|holds no question)", capsys.readouterr().err)
    assert not Path("out.journal.jsonl").exists()


def test_a_model_that_refuses_everything_leaves_no_journal(go: Any, capsys: Any) -> None:
    def refusing(prompt: str, sample: int) -> str:
        raise InputError("the model's context is 4")

    code, _ = go("best", say=refusing)
    assert code == 2
    assert "the model's context is 4" in capsys.readouterr().err
    assert list(Path().iterdir()) == [Path("questions.jsonl")]


@pytest.mark.parametrize("part", FILES)
def test_each_part_teaches_with_examples(part: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["pivotal", part, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.count(f"  megaphi pivotal {part} ") >= 2
    assert "--dry-run" in text
