"""Curation from object storage and into it: the same as on disks, and killed uploads that go on where they were.

`Bucket` is fsspec's in-memory file system that can end a process's work after some writes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem

from megaphi.curation.document import Document, Rejected
from megaphi.curation.pipeline.run import curate
from megaphi.curation.pipeline.upload import upload_documents
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.read.parquet import ReadParquet
from megaphi.curation.recipe import Curation
from megaphi.curation.step import Reader
from megaphi.curation.write.json_lines import WriteJsonLines
from megaphi.curation.write.parquet import WriteParquet
from megaphi.data.lineage.record import LINEAGE, lineages_of
from megaphi.data.storage.files.remote import RemoteReading, RemoteStore
from megaphi.errors import InputError


class Killed(BaseException):
    """The end of the process."""


class Bucket(MemoryFileSystem):
    """pail://name: writes are noted in order, and after `left` of them the process is killed."""

    protocol = "pail"
    store: dict[str, Any] = {}  # noqa: RUF012 (fsspec keeps its files so)
    pseudo_dirs = [""]  # noqa: RUF012
    written: list[str] = []  # noqa: RUF012
    left: int | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(str(path).removeprefix("pail://"))

    def pipe_file(self, path: Any, value: Any, mode: Any = "overwrite", **options: Any) -> None:
        if Bucket.left is not None and len(Bucket.written) >= Bucket.left:
            raise Killed
        Bucket.written.append(path.rpartition("/")[2])
        super().pipe_file(path, value, **options)

    def put_file(self, lpath: Any, rpath: Any, callback: Any = None, mode: Any = "overwrite", **options: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())


register_implementation("pail", Bucket, clobber=True)


@pytest.fixture(autouse=True)
def bucket() -> None:
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    Bucket.written.clear()
    Bucket.left = None


def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    folder.mkdir()
    for number in range(4):
        lines = [
            json.dumps({"id": f"{number}-{line}", "text": f"text {line} " * 20, "part": "ab"[line % 2]})
            for line in range(30)
        ]
        (folder / f"{number}.jsonl").write_text("\n".join([*lines, "{broken", '{"no": "text"}']) + "\n")
    return folder


def curation(tmp_path: Path, read: Reader, name: str, **changes: Any) -> Curation:
    fields: dict[str, Any] = {"recipe": "papers", "folder": str(tmp_path / name), "read": read, "steps": ()}
    return Curation(**{**fields, "shard_bytes": 1, **changes})


def outcomes(reader: Reader, *, here: str, there: str) -> list[tuple[Any, ...]]:
    """All that a reader gives, with places below `here` as if they were below `there`; fsspec names memory:///path."""
    found = []
    for portion in reader.portions():
        for outcome in reader.read(portion):
            document = outcome.document if isinstance(outcome, Rejected) else outcome
            about = (outcome.reason, outcome.detail) if isinstance(outcome, Rejected) else ()
            places = (document.id, document.source, document.place)
            named = [text.replace(":///", "://").replace(here, there) for text in (*places, *about)]
            found.append((*named, document.text))
    return found


@pytest.mark.parametrize("writer", [WriteJsonLines(by="part"), WriteJsonLines(compress=False), WriteParquet()])
def test_documents_are_the_same_from_a_bucket(tmp_path: Path, writer: Any) -> None:
    local, there = ReadJsonLines(paths=(str(papers(tmp_path)),)), "pail://pool/papers"
    for path in (tmp_path / "papers").iterdir():
        Bucket().pipe_file(f"/pool/papers/{path.name}", path.read_bytes())
    expected = outcomes(local, here=str(tmp_path / "papers"), there=there)
    assert {len(found) for found in expected} == {4, 6}
    assert outcomes(ReadJsonLines(paths=(there,)), here="pail", there="pail") == expected
    assert outcomes(ReadJsonLines(paths=(f"{there}/*.jsonl",)), here="pail", there="pail") == expected
    curate(curation(tmp_path, local, "run", write=writer, upload="pail://pool/out"), show_progress=False)
    kind = ReadParquet if isinstance(writer, WriteParquet) else ReadJsonLines
    output = str(tmp_path / "run" / "documents")
    written = outcomes(kind(paths=(output,)), here=output, there="pail://pool/out")
    assert len([found for found in written if len(found) == 4]) == 120
    assert [record["documents"] for record in lineages_of([*(tmp_path / "run/documents").rglob("0*")])] == [120]
    assert outcomes(kind(paths=("pail://pool/out",)), here="pail", there="pail") == written


def test_a_killed_upload_goes_on_and_the_mark_comes_last(tmp_path: Path) -> None:
    run = curation(tmp_path, ReadJsonLines(paths=(str(papers(tmp_path)),)), "run", upload="pail://pool/out")
    kills = 0
    while True:
        Bucket.left = len(Bucket.written) + 1
        try:
            curate(run, show_progress=False)
            break
        except Killed:
            kills += 1
            assert f"/pool/out/{LINEAGE}" not in Bucket.store
    files = [f"0000{number}.jsonl.zst" for number in range(4)]
    assert (kills, Bucket.written) == (4, [*files, LINEAGE])
    for name in (*files, LINEAGE):
        assert bytes(Bucket.store[f"/pool/out/{name}"].getbuffer()) == (tmp_path / "run/documents" / name).read_bytes()
    Bucket.left = 0
    curate(run, show_progress=False)  # up to date: nothing is written


def test_another_result_takes_the_place_of_the_first(tmp_path: Path) -> None:
    folder = papers(tmp_path)
    run = curation(tmp_path, ReadJsonLines(paths=(str(folder),)), "run", upload="pail://pool/out/")
    curate(run, show_progress=False)
    Bucket.written.clear()
    (folder / "3.jsonl").unlink()
    (folder / "0.jsonl").write_text('{"text": "another"}\n')
    curate(run, show_progress=False)
    assert Bucket.written == ["00000.jsonl.zst", LINEAGE]
    assert sorted(Bucket.store) == [f"/pool/out/0000{number}.jsonl.zst" for number in range(3)] + [
        f"/pool/out/{LINEAGE}"
    ]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    run = curation(tmp_path, ReadJsonLines(paths=(str(papers(tmp_path)),)), "run")
    with pytest.raises(InputError, match="upload=out is no object storage as s3://bucket/folder"):
        curate(replace(run, upload="out"), show_progress=False)
    with pytest.raises(InputError, match="a run works in a folder of a file system"):
        curate(replace(run, folder="pail://pool/run"), show_progress=False)
    with pytest.raises(InputError, match="cannot open nowhere://pool/out"):
        curate(replace(run, upload="nowhere://pool/out"), show_progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="input not found"):
        ReadJsonLines(paths=("pail://pool/nothing",)).portions()
    Bucket().pipe_file("/pool/out/mine.txt", b"mine")
    with pytest.raises(InputError, match=r"this reader reads \.parquet"):
        ReadParquet(paths=("pail://pool/out/mine.txt",)).portions()
    with pytest.raises(InputError, match=r"holds other things \(mine.txt\): choose another place"):
        curate(replace(run, upload="pail://pool/out"), show_progress=False)
    assert list(Bucket.store) == ["/pool/out/mine.txt"]


def test_a_store_that_fails_is_asked_again_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = curation(tmp_path, ReadJsonLines(paths=(str(papers(tmp_path)),)), "run")
    curate(run, show_progress=False)
    patient = RemoteStore(RemoteReading(cache_folder=str(tmp_path), first_wait_seconds=0.0, attempts=3))
    failures = [OSError("slow down")] * 2

    def put(self: Bucket, lpath: str, rpath: str, **options: Any) -> None:
        if failures:
            raise failures.pop()
        self.pipe_file(rpath, Path(lpath).read_bytes())

    monkeypatch.setattr(Bucket, "put_file", put)
    upload_documents(tmp_path / "run" / "documents", "pail://pool/out", store=patient)
    assert len(Bucket.store) == 5
    failures += [PermissionError("no")]
    with pytest.raises(InputError, match=r"cannot write pail://pool/two/00000.jsonl.zst: permission denied"):
        upload_documents(tmp_path / "run" / "documents", "pail://pool/two", store=patient)


def test_an_object_that_changes_while_it_is_read_ends_the_run(tmp_path: Path) -> None:
    Bucket().pipe_file("/pool/papers/a.jsonl", b'{"text": "one"}\n')
    reader = ReadJsonLines(paths=("pail://pool/papers",))
    (portion,) = reader.portions()
    assert [found.text for found in reader.read(portion) if isinstance(found, Document)] == ["one"]
    Bucket().pipe_file("/pool/papers/a.jsonl", b'{"text": "two"}\n')
    with pytest.raises(InputError, match="was replaced by another version while in use"):
        list(reader.read(portion))
