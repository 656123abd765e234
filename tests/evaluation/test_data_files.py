"""Data files of tasks: four formats hold the same items, and every kind of damage is one error with its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.errors import InputError
from megaphi.evaluation.data_files import make_manifest, read_items, read_manifest, records_of
from megaphi.evaluation.tasks import find_task

ROWS = [{"question": f"How many is {number}\u2028and a line?", "answer": f"it is #### {number}"} for number in range(6)]
TASK = find_task("gsm8k")


def write_csv(path: Path, rows: list[dict[str, Any]], separator: str = ",") -> None:
    lines = [separator.join(f'"{value}"' for value in row.values()) + "\r\n" for row in rows]
    path.write_text(separator.join(rows[0]) + "\r\n" + "".join(lines), newline="")


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "jsonl": lambda path, rows: _text(path, "".join(json.dumps(row) + "\n" for row in rows)),
    "json": lambda path, rows: _text(path, json.dumps(rows)),
    "csv": write_csv,
    "tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "parquet": lambda path, rows: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path),
}


def _text(path: Path, text: str) -> None:
    path.write_text(text)


def written(folder: Path, kind: str = "jsonl", rows: list[dict[str, Any]] | None = None) -> Path:
    """The manifest of a folder with items of GSM8K."""
    WRITERS[kind](folder / f"gsm8k.{kind}", rows if rows is not None else ROWS)
    return make_manifest(folder, ["gsm8k"])


@pytest.mark.parametrize("kind", WRITERS)
def test_items_do_not_depend_on_the_format(tmp_path: Path, kind: str) -> None:
    files = read_manifest(written(tmp_path, kind))["gsm8k"]
    assert files.items[0].rows == 6
    items = read_items(TASK, files).items
    assert [item.question for item in items] == [row["question"] for row in ROWS]
    assert [item.gold for item in items] == [str(number) for number in range(6)]


def test_files_in_a_tasks_folder_and_its_examples(tmp_path: Path) -> None:
    (tmp_path / "gsm8k_base").mkdir()
    WRITERS["csv"](tmp_path / "gsm8k_base/test.csv", ROWS)
    shots = [{"question": f"Example {number}?", "answer": f"#### {number}"} for number in range(8)]
    WRITERS["jsonl"](tmp_path / "gsm8k_base/train.jsonl", shots)
    (tmp_path / "notes.txt").write_text("not a task")
    files = read_manifest(make_manifest(tmp_path, ["gsm8k_base", "gsm8k"]))["gsm8k_base"]
    found = read_items(find_task("gsm8k_base"), files)
    assert (len(found.items), len(found.shots)) == (6, 8)
    assert [one["use"] for one in files.described()] == ["items", "shots"]


def test_columns_of_the_manifest_complete_the_rows(tmp_path: Path) -> None:
    path = written(tmp_path, rows=[{"question": row["question"]} for row in ROWS[:1]])
    plain = json.loads(path.read_text())
    plain["gsm8k"]["items"][0]["columns"] = {"answer": "#### 7"}
    path.write_text(json.dumps(plain))
    assert read_items(TASK, read_manifest(path)["gsm8k"]).items[0].gold == "7"


def changed_file(path: Path) -> None:
    path.write_text(path.read_text().replace("How many", "How much"))


def half_a_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed_file, r"gsm8k\.jsonl has the SHA-256 .*it was cut or changed"),
        (half_a_file, r"gsm8k\.jsonl has the SHA-256 .*it was cut or changed"),
        (Path.unlink, r"there is no file .*gsm8k\.jsonl"),
    ],
)
def test_a_file_that_is_not_the_manifests_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    files = read_manifest(written(tmp_path))["gsm8k"]
    damage(tmp_path / "gsm8k.jsonl")
    with pytest.raises(InputError, match=message):
        read_items(TASK, files)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"qestion": "a", "answer": "#### 1"}], r"gsm8k\.jsonl:1: no column 'question'.*Did you mean 'qestion'\?"),
        ([{"question": "a", "answer": "none"}], r"gsm8k\.jsonl:1: .*'answer'"),
        ([*ROWS, {"question": "b"}], r"gsm8k\.jsonl:7: .*answer"),
    ],
)
def test_a_row_that_is_no_item_is_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    files = read_manifest(written(tmp_path, rows=rows))["gsm8k"]
    with pytest.raises(InputError, match=message):
        read_items(TASK, files)


def test_numbers_of_rows_count(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace('"rows": 6', '"rows": 7'))
    with pytest.raises(InputError, match=r"gsm8k\.jsonl holds 6 rows, and the manifest says 7"):
        read_items(TASK, read_manifest(path)["gsm8k"])


def test_an_evaluated_item_is_no_example(tmp_path: Path) -> None:
    (tmp_path / "gsm8k_base").mkdir()
    WRITERS["jsonl"](tmp_path / "gsm8k_base/test.jsonl", ROWS)
    leaked = {"question": ROWS[2]["question"].upper().replace("\u2028", "  "), "answer": "#### 2"}
    shots = [{"question": f"Example {number}?", "answer": f"#### {number}"} for number in range(8)]
    WRITERS["jsonl"](tmp_path / "gsm8k_base/shots.jsonl", [*shots, leaked])
    files = read_manifest(make_manifest(tmp_path, ["gsm8k_base"]))["gsm8k_base"]
    with pytest.raises(
        InputError, match=r"shots\.jsonl:9: this worked example of task gsm8k_base is an evaluated item"
    ):
        read_items(find_task("gsm8k_base"), files)


def test_too_few_examples(tmp_path: Path) -> None:
    WRITERS["jsonl"](tmp_path / "gsm8k_base.jsonl", ROWS)
    files = read_manifest(make_manifest(tmp_path, ["gsm8k_base"]))["gsm8k_base"]
    with pytest.raises(InputError, match="shows 8 worked examples, and its files hold 0"):
        read_items(find_task("gsm8k_base"), files)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"gsm8k": []}, 'task gsm8k: it needs "items"'),
        ({"gsm8k": {"items": ["a.jsonl"]}}, "task gsm8k, items: a file is an object"),
        ({"gsm8k": {"items": [{"path": "a", "sha256": "0"}]}}, "field 'rows' is missing, or not of type int"),
        ({"gsm8k": {"items": [{"path": "a", "sha256": "0", "rows": True}]}}, "field 'rows' is missing"),
        ({"gsm8k": {"items": [{"path": "a", "sha256": "0", "rows": 1, "row": 1}]}}, "unknown or wrong field 'row'"),
        ({"gsm8k": {"items": [{"path": "a", "sha256": "0", "rows": 1}], "shot": []}}, "unknown field 'shot'"),
        ({"gsm8k": {"items": [{"path": "a" * 300, "sha256": "0", "rows": 1}]}}, "longer than that of any file"),
        ({"gsm8k": {"items": [{"path": "a\n", "sha256": "0", "rows": 1}]}}, "holds a control character"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, plain: Any, message: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / "manifest.json")


def test_a_csv_with_ragged_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.csv").write_text("question,answer\na,#### 1\nb\n")
    with pytest.raises(InputError, match=r"gsm8k\.csv, row 3: it has more or fewer cells"):
        make_manifest(tmp_path, ["gsm8k"])
    (tmp_path / "gsm8k.csv").write_bytes(b"question,answer\n\xff,#### 1\n")
    with pytest.raises(InputError, match=r"gsm8k\.csv: .*UTF-8"):
        make_manifest(tmp_path, ["gsm8k"])


def test_names_of_files_say_what_they_are_for_only_if_there_are_others(tmp_path: Path) -> None:
    """Several benchmarks are published as `train` or `validation` only; `device` is not `dev`."""
    for name in ("gsm8k/train-00000.jsonl", "amc/device.jsonl", "amc/dev/all.jsonl", ".cache/x.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        WRITERS["jsonl"](tmp_path / name, ROWS)
    (tmp_path / "gsm8k/README.md").write_text("a card")
    found = read_manifest(make_manifest(tmp_path, ["gsm8k", "amc"]))
    assert [file.path.name for file in found["gsm8k"].items] == ["train-00000.jsonl"]
    assert not found["gsm8k"].shots
    assert [file.path.name for file in found["amc"].items] == ["device.jsonl"]
    assert [file.path.name for file in found["amc"].shots] == ["all.jsonl"]


def test_a_manifest_is_not_written_over_and_leaves_no_file_out(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(InputError, match=r"manifest\.json exists already"):
        make_manifest(tmp_path, ["gsm8k"])
    (tmp_path / "manifest.json").unlink()
    WRITERS["csv"](tmp_path / "gsm8.csv", ROWS)
    with pytest.raises(InputError, match=r"gsm8\.csv is named after no task.* Did you mean 'gsm8k'"):
        make_manifest(tmp_path, ["gsm8k"])
    assert not (tmp_path / "manifest.json").exists()


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('",\n\r\t'), min_size=1, max_size=9)


@settings(max_examples=30)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=4))
def test_a_csv_is_read_as_python_writes_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    with open(folder / "exam.csv", "w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])
    assert [tuple(row.values()) for _, row in records_of(folder / "exam.csv")] == rows


@settings(max_examples=30)
@given(cut=st.integers(0, 400), kind=st.sampled_from(sorted(WRITERS)))
def test_half_a_file_is_an_error_whatever_the_manifest_says(
    tmp_path_factory: pytest.TempPathFactory, cut: int, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = written(folder, kind)
    file = folder / f"gsm8k.{kind}"
    whole = file.read_bytes()
    file.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(InputError, match="it was cut or changed"):
        read_items(TASK, read_manifest(path)["gsm8k"])


def test_a_folder_without_tasks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no file named after a task"):
        make_manifest(tmp_path, ["gsm8k"])
    with pytest.raises(InputError, match="there is no folder"):
        make_manifest(tmp_path / "none", ["gsm8k"])
