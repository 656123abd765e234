"""The corpus that ships with the repository: what its manifest says is true, and held-out text is held out."""

from __future__ import annotations

import functools
import json
import re

import zstandard

from megaphi.data.text.documents import read_documents
from megaphi.files import read_json, sha256_of
from tests.test_house import ROOT
from tools.build_corpus import METHODS, exercises

CORPUS = ROOT / "examples" / "corpus"
SOURCES = ("web", "rewrites", "synthetic", "code", "acquired")
OPEN_LICENCES = {"Apache-2.0", "BSD-3-Clause", "PSF-2.0", "CC0-1.0", "public domain"}


@functools.cache
def manifest():
    return read_json(CORPUS / "MANIFEST.json", what="manifest")["files"]


@functools.cache
def documents(source, split):
    """{id: text} of one file."""
    packed = (CORPUS / source / f"{split}.jsonl.zst").read_bytes()
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(packed).decode().splitlines()
    return {record["id"]: record["text"] for record in map(json.loads, lines)}


def test_the_manifest_lists_every_file_as_it_is():
    listed = {entry["file"] for entry in manifest()}
    assert listed == {f"{source}/{split}.jsonl.zst" for source in SOURCES for split in ("train", "validation")}
    assert listed == {path.relative_to(CORPUS).as_posix() for path in CORPUS.rglob("*.zst")}
    for entry in manifest():
        path = CORPUS / entry["file"]
        assert (sha256_of(path), path.stat().st_size) == (entry["sha256"], entry["compressed_bytes"])
        assert len(documents(entry["source"], entry["split"])) == entry["documents"]
        assert list(read_documents(path)) == list(documents(entry["source"], entry["split"]).values())
        assert entry["method"] == METHODS[entry["source"]]
    assert sum(entry["compressed_bytes"] for entry in manifest()) < 4_000_000


def test_every_origin_is_free_and_its_notice_is_here():
    for origin in (origin for entry in manifest() for origin in entry["origins"]):
        assert origin["licence"] in OPEN_LICENCES
        if origin["licence"] in ("BSD-3-Clause", "PSF-2.0"):
            notice = CORPUS / "licences" / f"{origin['package'].partition('_')[0]}.txt"
            assert re.search(r"[Cc]opyright", notice.read_text())


def test_held_out_documents_are_not_trained_on():
    for source in SOURCES:
        training, held_out = documents(source, "train"), documents(source, "validation")
        assert not training.keys() & held_out.keys()
        assert not set(training.values()) & set(held_out.values())
    trained_pages = documents("web", "train").keys()
    assert documents("rewrites", "train").keys() == trained_pages
    assert not documents("rewrites", "validation").keys() & trained_pages


def test_the_synthetic_part_is_what_the_generator_makes():
    made = {text.id: text.text for text in exercises()}
    shipped = documents("synthetic", "train") | documents("synthetic", "validation")
    assert shipped == made


def test_rewrites_say_nothing_that_their_page_does_not():
    """Every answer is text of the page, up to the full stop and the stated kind that a question may add."""
    answers = 0
    for split in ("train", "validation"):
        pages = {key: flat(text) for key, text in documents("web", split).items()}
        for key, sheet in documents("rewrites", split).items():
            for answer in re.findall(r"(?s)(?:Answer: |Solution:\n)(.*?)(?=\n\n|$)", sheet):
                said = flat(answer.partition(" It is given as ")[0]).removesuffix(".")
                assert said in pages[key], (key, answer)
                answers += 1
    assert answers > 5_000


def flat(text):
    return " ".join(text.split())
