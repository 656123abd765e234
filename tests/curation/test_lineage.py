"""Five sources from the recipes of curation to the table of `megaphi mixture`: lineage, and an independent recount.

The web source is JSON lines that `megaphi tokenize` takes; the others write tokens themselves. The rewrites and the
synthetic problems are made, by a scripted model, of the web source.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.cli import main
from megaphi.curation.pipeline.run import curate
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.recipe import Curation, override_curation
from megaphi.curation.write.tokens import WriteTokens
from megaphi.data.lineage import copies
from megaphi.data.lineage.copies import CopyCounter
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.recipes.curation import load_curation
from tests.curation.synthesize.fluent import BOOK, PROGRAM, fluent
from tests.curation.synthesize.scripted import Scripted
from tests.curation.test_web_pages import BEES, LEAK, TREES, html
from tests.warm_megaphi import run_megaphi

NAMES = ("acquired", "code", "rewrites", "synthetic", "web")
ABLATIONS = {"phi4_7b_uniform": "web rewrites synthetic", "phi4_7b_s": "synthetic"} | {
    "phi4_7b_s_wr": "rewrites synthetic",
    "phi4_7b_s_w": "web synthetic",
}


def curated(recipe: str, given: Path, output: Path, *fields: str, **changes: Any) -> None:
    curation = override_curation(load_curation(recipe), [f"read.paths={given}", *fields])
    sampler = Scripted(fluent, token_bytes=16)
    curate(replace(curation, folder=str(output), **changes), open_sampler=lambda name: sampler, show_progress=False)


def write_pages(home: Path) -> None:
    (home / "pages").mkdir()
    sentences = [sentence for sentence in BOOK.split("\n\n") if sentence]
    bees = html(*BEES.split(". "), *sentences)
    for name, content in {
        "bees": bees,
        "copy": bees,
        "leak": html(TREES, LEAK),
        "trees": html(TREES, *sentences),
        "short": html("Nothing to see here."),
    }.items():
        (home / "pages" / f"{name}.html").write_bytes(content)
    (home / "benchmarks").mkdir()
    (home / "benchmarks" / "sums.jsonl").write_text(json.dumps({"id": "sum", "question": LEAK}) + "\n")


def write_papers(home: Path) -> None:
    papers = [{"text": f"Paper {number % 7}. {TREES}", "licence": "cc-by"} for number in range(20)]
    (home / "papers.jsonl").write_text("".join(json.dumps(paper) + "\n" for paper in papers))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the five finished runs of curation."""
    home = tmp_path_factory.mktemp("lineage")
    write_pages(home)
    write_papers(home)
    (home / "code").mkdir()
    (home / "code" / "vowels.py").write_text(PROGRAM)
    web, tokens = home / "curated" / "web", WriteTokens()
    curated("web_pages", home / "pages", web, f"steps.decontaminate.benchmarks.0.path={home / 'benchmarks'}")
    assert main(["tokenize", str(web / "documents"), "--output", str(web / "tokens"), "--processes", "1"]) == 0
    curated("synthetic_textbooks", web / "documents", home / "curated" / "rewrites", write=tokens)
    curated("synthetic_problems", web / "documents", home / "curated" / "synthetic", write=tokens)
    curated("synthetic_code", home / "code", home / "curated" / "code", write=tokens)
    papers = Curation(
        recipe="papers",
        folder=str(home / "curated" / "acquired"),
        read=ReadJsonLines(paths=(str(home / "papers.jsonl"),)),
        steps=(),
        write=tokens,
    )
    curate(papers, show_progress=False)
    return home / "curated"


def prefix_of(runs: Path, name: str) -> Path:
    return runs / name / ("tokens" if name == "web" else "documents/tokens")


def described(prefix: Path) -> dict[str, Any]:
    return json.loads(prefix.with_name(f"{prefix.name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_unique_tokens_are_those_of_a_set_of_sequences(runs: Path, name: str) -> None:
    prefix, said = prefix_of(runs, name), described(prefix_of(runs, name))
    tokens = np.fromfile(prefix.with_name("tokens.bin"), said["dtype"])
    ends = np.flatnonzero(tokens == said["end_of_text"]) + 1
    sequences = [tuple(part.tolist()) for part in np.split(tokens, ends)[:-1]]
    assert (len(sequences), len(tokens)) == (said["documents"], said["tokens"])
    assert len(set(sequences)) == said["unique_documents"]
    assert sum(map(len, set(sequences))) == said["unique_tokens"]
    assert said["fingerprint"] == IndexedDataset(prefix).fingerprint
    if name == "acquired":
        assert (said["documents"], said["unique_documents"]) == (20, 7)


def test_a_record_says_what_was_read_taken_out_and_why(runs: Path) -> None:
    record = json.loads((runs / "web" / "documents" / "lineage.json").read_text())
    assert (record["recipe"], record["documents"], record["derived_from"]) == ("web_pages", 2, [])
    assert record["duplicates_removed"] == ["exact_duplicates", "near_duplicates", "repeated_paragraphs"]
    assert [benchmark["name"] for benchmark in record["decontaminated"]] == ["benchmarks"]
    assert record["decontaminated"][0]["fingerprint"]
    assert record["program"]["megaphi"]
    assert {Path(entry["name"]).stem for entry in record["input"]["first"]} == set("bees copy leak trees short".split())
    reasons = {reason: count for step in record["steps"] for reason, count in step["rejected"].items()}
    assert reasons == {"too_few_words": 1, "exact_duplicate": 1, "contaminated": 1}
    assert record["steps"][0]["in"]["documents"] == 5
    for before, after in zip(record["steps"], record["steps"][1:], strict=False):
        assert after["name"].startswith("gather ") or before["out"]["documents"] == after["in"]["documents"]
        assert after["in"]["documents"] - after["out"]["documents"] == sum(after["rejected"].values())
        if after["name"] == "exact_duplicates":
            lost = after["in"]["characters"] - after["out"]["characters"]
            assert after["rejected_characters"] == {"exact_duplicate": lost}
    (taken,) = described(prefix_of(runs, "web"))["lineage"]
    assert taken == {**record, "files": {"read": 1, "of": 1}}


def test_what_is_made_of_a_source_names_it(runs: Path) -> None:
    web = json.loads((runs / "web" / "documents" / "lineage.json").read_text())
    for name, kind in (("rewrites", "textbook_section"), ("synthetic", "word_problems")):
        (record,) = described(prefix_of(runs, name))["lineage"]
        (parent,) = record["derived_from"]
        assert (parent["recipe"], parent["fingerprint"]) == ("web_pages", web["fingerprint"])
        assert kind in record["synthetic"]
        assert record["decontaminated"] == []
    (papers,) = described(prefix_of(runs, "acquired"))["lineage"]
    assert papers["licences"] == {"cc-by": 20}


@pytest.mark.parametrize("recipe", ABLATIONS)
def test_the_ablations_take_the_five_folders(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    written = tmp_path / f"{recipe}.json"
    folders = [str(runs / name) for name in NAMES]
    assert main(["mixture", recipe, "--from", *folders, "--write", str(written)]) == 0
    said = capsys.readouterr().out
    used = {"code", "acquired", *ABLATIONS[recipe].split()}
    for name in NAMES:
        (row,) = re.findall(rf"(?m)^  {name} +\d.*counted, .*copies$", said.partition("whole run")[2]) or [""]
        assert bool(row) == (name in used)
        assert not row or f"{described(prefix_of(runs, name))['unique_tokens']:,}" in row
        assert (f"warning: {name} is read" in said) == (name in used)
    unread = said.partition(f"not read by {recipe}: ")[2].strip()
    assert unread == ", ".join(str(runs / name) for name in NAMES if name not in used)
    if "web" in used:
        assert re.search(r"  web +web_pages \w{8}: 2 documents of 5 portions, .*held to benchmarks\n", said)
    again = main(["mixture", str(written), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (again, {source["name"] for source in found["sources"]}) == (0, used)
    assert {short["source"] for short in found["shortages"]} == used


def test_a_dry_run_of_the_written_run(runs: Path, tmp_path: Path) -> None:
    written = tmp_path / "run.json"
    assert (
        main(
            [
                "mixture",
                "phi4_7b_s_w",
                "--from",
                *(f"{name}={runs / name}" for name in ("web", "synthetic", "code", "acquired")),
                "--write",
                str(written),
            ]
        )
        == 0
    )
    plan = run_megaphi("train", str(written), "--dry-run", env={})
    assert plan.returncode == 0, plan.stderr
    assert "6,996,365,312" in plan.stdout
    assert re.search(r"(?m)^  web +37\.5%.*counted, 0\.0% copies$", plan.stdout)
    assert "Lineage\n" in plan.stdout


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_files_that_do_not_match_their_record_are_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web = tmp_path / "web"
    shutil.copytree(runs / "web", web)
    again = ("tokenize", str(web / "documents"), "--output", str(tmp_path / "again"), "--processes", "1")
    (documents,) = (web / "documents").glob("*.zst")
    content = documents.read_bytes()
    documents.write_bytes(content[:-1] + b"x")
    assert "is not the file of" in refused(capsys, *again)
    documents.write_bytes(content)
    (web / "documents" / "more.jsonl").write_text('{"text": "strange"}\n')
    assert "more.jsonl is not among the files" in refused(capsys, *again)
    curation = ("curate", "synthetic_problems", f"read.paths={web / 'documents'}", "--output", str(tmp_path / "run"))
    assert "more.jsonl is not among the files" in refused(capsys, *curation, "--dry-run")
    (web / "documents" / "more.jsonl").rename(documents)
    documents.rename(tmp_path / "moved.jsonl.zst")
    (web / "documents" / "00001.jsonl").write_text('{"text": "another"}\n')
    assert "is not among the files" in refused(capsys, *again)
    with open(web / "tokens.bin", "r+b") as file:
        file.write(b"\7")
    mixture = ("mixture", "phi4_7b_s_w", "--from", str(web), *(str(runs / name) for name in NAMES[:4]))
    assert "its tokens are not those that the .json" in refused(capsys, *mixture)
    assert not (tmp_path / "again.idx").exists()


def test_folders_that_are_no_sources(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three = [str(runs / name) for name in ("code", "acquired", "synthetic")]
    mixture = ("mixture", "phi4_7b_s_w", "--from", *three)
    assert "no folder is given for web: name it as web=FOLDER" in refused(capsys, *mixture)
    assert f"no such folder: {tmp_path / 'web'}" in refused(capsys, *mixture, str(tmp_path / "web"))
    assert "has no source 'wbe'. Did you mean 'web'?" in refused(capsys, *mixture, f"wbe={runs / 'web'}")
    (tmp_path / "web").mkdir()
    assert "holds neither a dataset" in refused(capsys, *mixture, str(tmp_path / "web"))
    (tmp_path / "web" / "documents").mkdir()
    assert "megaphi tokenize" in refused(capsys, *mixture, str(tmp_path / "web"))
    assert main([*mixture, str(runs / "web" / "tokens"), f"web={runs / 'web' / 'tokens'}"]) == 0


@given(documents=st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1), files=st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_copies_are_counted_as_a_set_counts_them(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], files: int
) -> None:
    expected = {tuple(document) for document in documents}
    size = copies.ROW.itemsize
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(copies, "FILE_BYTES", max(1, len(documents) * size // (files - 1)) if files > 1 else 1 << 20)
        with CopyCounter(len(documents), tmp_path_factory.getbasetemp()) as counter:
            for part in (documents[:3], documents[3:]):
                lengths = np.array([len(document) for document in part], np.int64)
                counter.add(np.array([token for document in part for token in document], np.uint16), lengths)
            assert counter.unique() == (len(expected), sum(map(len, expected)))
