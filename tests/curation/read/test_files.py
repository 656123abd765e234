"""Files, TeX folders, code and Parquet as documents: their bytes, their places, and reasons for what is left out."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.extract.tex.convert import extract_tex
from megaphi.curation.read.code import ReadCode
from megaphi.curation.read.files import ReadFiles, ReadTexFolders
from megaphi.curation.read.parquet import ReadParquet
from megaphi.curation.step import Reader
from megaphi.errors import InputError


def everything(reader: Reader) -> list[Outcome]:
    return [outcome for portion in reader.portions() for outcome in reader.read(portion)]


def written(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_files_of_folders_patterns_and_names(tmp_path: Path) -> None:
    folder = written(tmp_path, {"b/x.html": "<p>", "a.tex": "t", ".hidden.html": "h", "c.bin": b"\0", "d.PDF": "p"})
    (folder / "link.html").symlink_to("/etc/passwd")
    found = everything(ReadFiles(paths=(str(folder),)))
    assert all(isinstance(outcome, Document) for outcome in found)
    shown = [(each.metadata["path"], each.content, each.media_type) for each in found if isinstance(each, Document)]
    assert shown == [
        ("a.tex", b"t", "application/x-tex"),
        ("b/x.html", b"<p>", "text/html"),
        ("d.PDF", b"p", "application/pdf"),
    ]
    named = everything(ReadFiles(paths=(f"{folder}/c.bin", f"{folder}/*.tex", f"{folder}/a.tex")))
    assert [str(each.source) for each in named if isinstance(each, Document)] == [f"{folder}/c.bin", f"{folder}/a.tex"]
    (large,) = everything(ReadFiles(paths=(f"{folder}/a.tex",), largest_bytes=1))[:1]
    assert isinstance(large, Document)
    with pytest.raises(InputError, match="neither a file"):
        ReadFiles(paths=(f"{folder}/nothing*",)).portions()


def test_tex_folders_bring_their_files(tmp_path: Path) -> None:
    main = "\\documentclass{article}\\begin{document}Main. "
    main += "\\input{../part} \\input{own} \\lstinputlisting{x.py}\\end{document}"
    files = {"p/src/main.tex": main, "p/part.tex": "Part.", "p/src/own.tex": "Own.", "p/src/x.py": "a = 1\n"}
    written(tmp_path, {**files, "p/fig.png": b"x", "q/readme.md": "no TeX", "r/notes.tex": "\\section{Only}"})
    whole, only = everything(ReadTexFolders(paths=(str(tmp_path),)))
    assert isinstance(whole, Document)
    assert isinstance(only, Document)
    assert (whole.place, whole.metadata["main_file"]) == (f"{tmp_path}/p/src/main.tex", "src/main.tex")
    text = extract_tex(whole.content, media_type="", files=whole.files).text
    assert text == "Main. Part. Own.\n\n```\na = 1\n```"
    before = [portion.fingerprint for portion in ReadTexFolders(paths=(str(tmp_path),)).portions()]
    (tmp_path / "p/part.tex").write_text("Another part.")
    assert ReadTexFolders(paths=(str(tmp_path),)).portions()[0].fingerprint != before[0]


MIT = "MIT License\n\nPermission is hereby granted, free of charge, to any\nperson obtaining a copy of this software"


def test_code_has_its_language_licence_and_repository(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "one/LICENSE": MIT,
        "one/a.py": "x = 1\r\n",
        "one/lib/b.rs": "// SPDX-License-Identifier: Apache-2.0\nfn main() {}\n",
        "one/run": "#!/usr/bin/env python3.11\nprint(1)\n",
        "one/Makefile": "all:\n",
        "one/data.csv": "1,2\n",
        "one/image": b"\x89PNG\0",
        "one/vendor/c.go": "package c\n",
        "one/j.min.js": "a",
        "one/p_pb2.py": "a",
        "one/large.c": "x" * 300,
        "one/latin.c": "é".encode("latin-1"),
        "one/binary.c": b"a\0b",
        "one/blank.h": "\n\n",
        "one/.git/hook.py": "no",
        "two/main.py": "y = 2\n",
    }
    written(tmp_path, files)
    found = everything(ReadCode(paths=(f"{tmp_path}/*",), largest_bytes=200))
    kept = {each.id: each for each in found if isinstance(each, Document)}
    known = {name: (each.metadata["code_language"], each.metadata["licence"]) for name, each in kept.items()}
    assert known == {
        "one/Makefile": ("Makefile", "MIT"),
        "one/a.py": ("Python", "MIT"),
        "one/lib/b.rs": ("Rust", "Apache-2.0"),
        "one/run": ("Python", "MIT"),
        "two/main.py": ("Python", "none"),
    }
    assert kept["one/a.py"].text == "x = 1\n"
    assert kept["one/a.py"].metadata["repository"] == "one"
    reasons = {each.document.id: each.reason for each in found if isinstance(each, Rejected)}
    assert reasons == {
        "one/binary.c": "binary",
        "one/blank.h": "empty",
        "one/j.min.js": "minified",
        "one/large.c": "too_large",
        "one/latin.c": "not_utf8",
        "one/p_pb2.py": "generated",
        "one/vendor/c.go": "vendored",
    }
    chosen = everything(ReadCode(paths=(f"{tmp_path}/*",), languages=("Rust", "Python"), licences=("MIT",)))
    assert [each.id for each in chosen if isinstance(each, Document)] == ["one/a.py", "one/run"]
    with pytest.raises(InputError, match="neither a folder"):
        ReadCode(paths=(f"{tmp_path}/three",)).portions()


def test_parquet_rows_have_metadata_in_json_and_pages_as_content(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "id": [f"r{number}" for number in range(50)],
            "text": ["t" * number or None for number in range(50)],
            "url": [f"http://e/{number}" for number in range(50)],
            "date": [datetime.datetime(2024, 1, 2)] * 50,
            "html": [b"<p>%d" % number for number in range(50)],
            "score": [float("nan")] + [1.5] * 49,
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    reader = ReadParquet(paths=(str(tmp_path),), piece_bytes=500)
    assert len(reader.portions()) > 2
    found = everything(reader)
    assert [each.reason for each in found if isinstance(each, Rejected)] == ["no_text"]
    kept = [each for each in found if isinstance(each, Document)]
    assert [each.id for each in kept] == [f"r{number}" for number in range(1, 50)]
    assert (kept[0].source, kept[0].text) == ("http://e/1", "t")
    assert kept[0].metadata == {"date": "2024-01-02T00:00:00", "score": 1.5}
    pages = everything(ReadParquet(paths=(str(tmp_path),), content_key="html", media_type="text/html"))
    first = pages[0]
    assert isinstance(first, Document)
    assert (first.content, first.text, first.media_type) == (b"<p>0", "", "text/html")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a complete parquet file"):
        reader.portions()


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.tex").write_text("\\documentclass{article}\\begin{document}Words.\\end{document}")
    (project / "run.py").write_text("print(1)\n")
    for reader in (ReadFiles(paths=(str(project),)), ReadTexFolders(paths=(str(tmp_path),))):
        (portion,) = reader.portions()
        moved = project.rename(tmp_path / ".gone")
        with pytest.raises(InputError, match=r"cannot read .*project.*: No such file"):
            list(reader.read(portion))
        moved.rename(project)
