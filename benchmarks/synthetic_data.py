"""The synthetic chain on a real small model: SmolLM2-135M-Instruct on Python's documentation and standard library.

Pages (Debian package python3.11-doc) are scored and cut into seeds, functions of libpython3.11-stdlib are seeds as they
are, and several kinds of the table are made of them, with fewer and shorter answers than usual. A model of this size is
to show every part at work, no more: what was kept, and what was rejected for which reason. Rows: a step, its counts and
tokens; ten samples, kept ones first, go to benchmarks/results/synthetic_samples.md. Kept code is run again here.

    apt-get download python3.11-doc libpython3.11-stdlib; for package in *.deb; do dpkg-deb -x $package deb; done
    python benchmarks/synthetic_data.py --packages deb --folder runs/synthetic --write
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from generation import smollm2

from megaphi.checkpoint.versions import short_commit
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.pipeline.models import ModelOpener
from megaphi.curation.requests.dry_run import costs_of_steps
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.curation.step import StepContext
from megaphi.curation.synthesize.steps.select_seeds import SelectSeeds
from megaphi.curation.synthesize.steps.synthesize import Synthesize
from megaphi.curation.synthesize.table.kinds_file import KINDS_FILE
from megaphi.files import write_text
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from megaphi.grading.question import CodeTests

RESULTS = Path(__file__).parent / "results"
COLUMNS = "date commit step seeds kept rejected reasons prompt_tokens answer_tokens bound_tokens seconds"
PAGES = ("howto/sorting", "tutorial/floatingpoint")
MODULES = ("bisect", "colorsys", "shlex", "textwrap", "fnmatch", "keyword")
KINDS = ("word_problems", "exam_choice", "middle_sentence", "middle_function", "reversed_user_story", "code_task")
ANSWER_TOKENS = 120
SEED_CHARACTERS = 1_500
SAMPLES = 10


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that was run."""

    name: str
    seeds: int
    outcomes: list[Outcome]
    journal: StepJournal
    bound_tokens: int
    seconds: float

    @property
    def kept(self) -> list[Document]:
        return [one for one in self.outcomes if isinstance(one, Document)]

    @property
    def rejected(self) -> list[Rejected]:
        return [one for one in self.outcomes if isinstance(one, Rejected)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="where the packages were unpacked")
    parser.add_argument("--folder", type=Path, default=Path("runs/synthetic"))
    parser.add_argument("--seeds", type=int, default=2, help="passages and functions that each kind is given")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/synthetic_{data.csv,samples.md}")
    arguments = parser.parse_args()
    model, opener = str(smollm2()), ModelOpener(batch=48)
    table = short_table(arguments.folder / "kinds", arguments.kinds)
    pages = [document for pattern in PAGES for document in read(arguments.packages, f"**/_sources/{pattern}.rst.txt")]
    select = SelectSeeds(sampler=model, window_characters=700, least_page_score=1, least_passage_score=2, best=2)
    results = [run("select_seeds", select, [cut(page) for page in pages], arguments.folder, opener)]
    passages = results[0].kept[: arguments.seeds]
    modules = [module for name in MODULES for module in read(arguments.packages, f"**/python3.11/{name}.py")]
    functions = [one for module in modules for one in functions_of(module)][: arguments.seeds]
    for kind in arguments.kinds:
        step = Synthesize(kind=kind, sampler=model, table=str(table), temperature=0.7, per_seed=1)
        is_code = kind in ("middle_function", "reversed_user_story", "code_task")
        seeds = (modules if kind == "middle_function" else functions) if is_code else passages
        results.append(run(kind, step, [cut(one) for one in seeds[: arguments.seeds]], arguments.folder, opener))
    run_code_again(results)
    if arguments.write:
        append(results)
        write_text(RESULTS / "synthetic_samples.md", samples_page(results))


def read(folder: Path, pattern: str) -> list[Document]:
    found = sorted(folder.glob(f"*/{pattern}"))[:1]
    return [
        Document(id=path.stem, source=path.name.removesuffix(".txt"), place=path.name, text=path.read_text())
        for path in found
    ]


def cut(document: Document) -> Document:
    """The document with no more text than a small model can do something with."""
    return document.with_text(document.text[:SEED_CHARACTERS])


def functions_of(module: Document) -> list[Document]:
    """Functions of a module, each as a document, without those that are very short or long."""
    import ast

    nodes = [node for node in ast.parse(module.text).body if isinstance(node, ast.FunctionDef)]
    texts = {node.name: ast.get_source_segment(module.text, node) or "" for node in nodes}
    return [
        Document(id=f"{module.id}.{name}", source=module.source, place=f"{module.place}!{name}", text=text)
        for name, text in texts.items()
        if 200 <= len(text) <= 900
    ]


def short_table(folder: Path, kinds: Sequence[str]) -> Path:
    """Our rows of these kinds, with answers of at most `ANSWER_TOKENS`."""
    rows = re.split(r"(?=^\[\[kind\]\]$)", KINDS_FILE.read_text(), flags=re.MULTILINE)
    chosen = []
    for row in rows:
        name = re.search(r'^name = "(\w+)"', row, re.MULTILINE)
        if name is None or name[1] not in kinds:
            continue
        row = re.sub(r"^(tokens|answer_tokens) = .*$", rf"\1 = {ANSWER_TOKENS}", row, flags=re.MULTILINE)
        row = re.sub(r"^items = .*\n", "", row, flags=re.MULTILINE)
        row = re.sub(r"^(form = \"question\")$", r"\1\nitems = 2", row, flags=re.MULTILINE)
        if "answer_kind" in row and "answer_tokens" not in row:
            row = re.sub(r"^(answer_kind.*)$", rf"\1\nanswer_tokens = {ANSWER_TOKENS}", row, flags=re.MULTILINE)
        chosen.append(row)
    write_text(folder / "kinds.toml", "\n".join(chosen))
    return folder


def run(name: str, step: Any, documents: Sequence[Document], folder: Path, opener: ModelOpener) -> StepResult:
    own = folder / "steps" / name
    own.mkdir(parents=True, exist_ok=True)
    (bound,) = costs_of_steps([step], documents)
    started = time.perf_counter()
    outcomes = list(step.open_batch(StepContext(folder=own, open_sampler=opener))(documents))
    seconds = time.perf_counter() - started
    journal = StepJournal(own)
    result = StepResult(
        name, len(documents), outcomes, journal, bound.cost.prompt_tokens + bound.cost.answer_tokens, seconds
    )
    counts = Counter(one.reason for one in result.rejected)
    print(
        f"{name}: {len(documents)} seeds, {len(result.kept)} kept, rejected {dict(counts)}, {seconds:.0f} s", flush=True
    )
    assert journal.paid_tokens <= result.bound_tokens
    journal.close()
    return result


def run_code_again(results: Sequence[StepResult]) -> None:
    """Every piece of code that was kept passes its tests, in a sandbox of its own."""
    pairs = [
        (CodeTests(**document.metadata["tests"]), document.metadata["messages"][1]["content"].split("```")[1][7:])
        for result in results
        for document in result.kept
        if "tests" in document.metadata
    ]
    with CodeSandbox() as sandbox:
        verdicts = sandbox.grade(pairs) if pairs else []
    assert all(verdict.is_right for verdict in verdicts)
    print(f"{len(pairs)} accepted pieces of code, run again: all pass their tests")


def append(results: Sequence[StepResult]) -> None:
    path = RESULTS / "synthetic_data.csv"
    is_new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS.split())
        for one in results:
            reasons = Counter(found.reason for found in one.rejected)
            said = " ".join(f"{reason}:{count}" for reason, count in reasons.most_common())
            row = [date.today(), short_commit(), one.name, one.seeds, len(one.kept), len(one.rejected), said]
            row += [one.journal.prompt_tokens, one.journal.answer_tokens, one.bound_tokens, round(one.seconds)]
            writer.writerow(row)


def samples_page(results: Sequence[StepResult]) -> str:
    """Ten documents: of each kind in turn one that was kept, then one that was rejected."""
    kept = [list(one.kept) for one in results[1:]]
    rejected = [[found for found in one.rejected if found.document.text] for one in results[1:]]
    shown: list[Outcome] = []
    for lists in (kept, rejected):
        while len(shown) < SAMPLES and any(lists):
            shown += [one.pop(0) for one in lists if one][: SAMPLES - len(shown)]
    lines = [
        "# Samples of synthetic data",
        "",
        "Ten documents that SmolLM2-135M-Instruct made (`benchmarks/synthetic_data.py`), as they are. Kept means that",
        "they passed the checks of their kind with this model as its own judge, not that they are good.",
    ]
    for one in shown:
        document = one.document if isinstance(one, Rejected) else one
        verdict = f"rejected: {one.reason}, {one.detail[:200]}" if isinstance(one, Rejected) else "kept"
        origin = document.metadata["synthetic"]
        choices = json.dumps(origin["choices"], ensure_ascii=False)
        lines += ["", f"## {origin['kind']}: {verdict}", "", f"Seed {origin['seed_document']}, choices {choices}.", ""]
        lines += [f"    {line}".rstrip() for line in document.text[:1_800].splitlines()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
