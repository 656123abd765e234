"""The corpus that ships with the repository: what its manifest says is true, and held-out text is held out."""

from __future__ import annotations

import functools
import json
import re
from itertools import pairwise

import zstandard
from exercises.read import ReadExercises

from megaphi.curation.document import Document
from megaphi.curation.recipe import step_names
from megaphi.data.text.documents import read_documents
from megaphi.files import read_json, sha256_of
from megaphi.recipes.curation import load_curation
from tests.test_house import ROOT

CORPUS = ROOT / "examples" / "corpus"
SOURCES = ("web", "rewrites", "synthetic", "code", "acquired")
OPEN_LICENCES = {"Apache-2.0", "BSD-3-Clause", "PSF-2.0", "CC0-1.0", "public domain"}


@functools.cache
def manifest():
    return read_json(CORPUS / "MANIFEST.json", what="manifest")["files"]


def test_the_manifest_counts_what_every_step_did():
    recipes = read_json(CORPUS / "MANIFEST.json", what="manifest")["recipes"]
    assert tuple(recipes) == SOURCES
    for name, about in recipes.items():
        curation = load_curation(f"{CORPUS / 'recipe.py'}:{name}")
        steps = about["steps"]
        assert [step["step"] for step in steps] == ["read", *step_names(curation.steps)]
        for step, following in pairwise(steps):
            assert following["in"] == step["out"]
        for step in steps:
            if step["step"] != "dictionary_entries":  # makes several of one
                assert step["in"] - sum(step["rejected"].values()) == step["out"]
        assert steps[-1]["out"] == len(documents(name, "train")) + len(documents(name, "validation"))


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
    for split in ("train", "validation"):  # of a page and what was written about it neither is alone on its side
        assert documents("rewrites", split).keys() <= documents("web", split).keys()
        assert len(documents("rewrites", split)) > 0.9 * len(documents("web", split))


def test_the_synthetic_part_is_what_the_generator_makes():
    reader = ReadExercises()
    (portion,) = reader.portions()
    made = {one.id: one.text for one in reader.read(portion) if isinstance(one, Document)}
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
    assert answers > 3_000


def flat(text):
    return " ".join(text.split())
