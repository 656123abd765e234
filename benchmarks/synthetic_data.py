"""The synthetic chain on a real small model: SmolLM2-135M-Instruct on pages and functions of Debian packages.

The recipes of examples/small_model are run whole: pages of the Debian handbook and of Python's tutorial are extracted,
scored and cut into seeds; the recipes of itertools' documentation are seeds as they are, with the doctests that the
documentation has for them. First the kinds are asked at once, so that the server's batch is full, then `curate` finds
all answers in its journals and writes the report. A model of this size is to show every part at work, no more.

Checked on what it really said: the plurality filter against a recount of all pairs of answers, code that was kept by
running it again, the pipeline's counts against those of the steps alone. Rows: a step, its counts and tokens; ten
samples, kept ones first, go to benchmarks/results/synthetic_samples.md.

    apt-get download python3.11-doc debian-handbook; for package in *.deb; do dpkg-deb -x $package deb/$package; done
    megaphi serve SmolLM2-135M-Instruct.Q4_1.gguf --batch 128 --max-waiting 1024 --model-name smollm2
    python benchmarks/synthetic_data.py --packages deb --folder runs/synthetic --write
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from results_file import append_rows
from synthetic_inputs import write_functions, write_pages
from synthetic_recount import recount

from examples.small_model.recipe import code, texts
from megaphi.checkpoint.versions import short_commit
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.pipeline.plan import stages_folder
from megaphi.curation.pipeline.run import curate
from megaphi.curation.recipe import Curation, step_names
from megaphi.curation.report.report import write_report
from megaphi.curation.requests.dry_run import costs_of_steps
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.curation.step import StepContext
from megaphi.curation.synthesize.steps.synthesize import Synthesize
from megaphi.curation.synthesize.table.kinds_file import find_kind
from megaphi.files import write_text
from megaphi.generation.client.endpoint import EndpointSampler
from megaphi.generation.client.http_exchange import RetryPolicy
from megaphi.grading.code_sandbox.answer_program import program_in
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from megaphi.grading.question import CodeTests
from megaphi.tokenizer.open_tokenizer import open_path

RESULTS = Path(__file__).parent / "results"
COLUMNS = "date commit step seeds kept rejected reasons prompt_tokens answer_tokens bound_tokens seconds"
SAMPLES = 10


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that was run by itself."""

    name: str
    step: Any
    folder: Path
    seeds: int
    outcomes: list[Outcome]
    bound_tokens: int
    seconds: int | None
    """None if an earlier run had asked a part of it."""

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
    parser.add_argument("--leave-out", nargs="*", default=[], help="kinds of the recipes that are not asked for")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/synthetic_{data.csv,samples.md}")
    arguments = parser.parse_args()
    pages, functions = write_pages(arguments.packages, arguments.folder / "pages"), write_functions(arguments.folder)
    recipes = [
        run_in(recipe, arguments.folder / name, inputs, arguments.leave_out)
        for name, recipe, inputs in (("texts", texts(), pages), ("code", code(), functions))
    ]
    with ThreadPoolExecutor() as pool:
        results = [one for found in pool.map(ask_at_once, recipes) for one in found]
    run_code_again(results)
    counted = sum(
        recount(one.step, one.folder, one.outcomes, open_endpoint)
        for one in results
        if isinstance(one.step, Synthesize)
    )
    print(f"{counted} questions counted again: votes, references and verdicts are the same")
    for recipe in recipes:
        check_pipeline(recipe, results)
    if arguments.write:
        append(results)
        write_text(RESULTS / "synthetic_samples.md", samples_page(results))


def run_in(recipe: Curation, folder: Path, inputs: Path, leave_out: Sequence[str]) -> Curation:
    """The recipe on these inputs; the last of its kinds passes no seeds on."""
    read: Any = recipe.read
    *steps, last = [one for one in recipe.steps if not (isinstance(one, Synthesize) and one.kind in leave_out)]
    assert isinstance(last, Synthesize)
    steps.append(replace(last, keep_seeds=False))
    return replace(recipe, folder=str(folder), read=replace(read, paths=(str(inputs),)), steps=tuple(steps))


def open_endpoint(place: str) -> EndpointSampler:
    """A sampler of its own for each step, as each lends it its journal."""
    url, _, model = place.partition("=")
    patience = RetryPolicy(timeout_seconds=7_200)
    return EndpointSampler(url, model, tokenizer=open_path("phi4"), concurrency=64, patience=patience)


def ask_at_once(recipe: Curation) -> list[StepResult]:
    """The steps by themselves, in the folders where the pipeline's will look: up to the seeds in turn, then at once."""
    documents = [one for portion in recipe.read.portions() for one in recipe.read.read(portion)]
    stages_folder(Path(recipe.folder)).mkdir(parents=True, exist_ok=True)  # so that `curate` knows its folder
    found: list[StepResult] = []
    named = list(zip(step_names(recipe.steps), recipe.steps, strict=True))
    folder = Path(recipe.folder) / "steps"
    seeds = [one for one in documents if isinstance(one, Document)]
    for name, step in named:
        if isinstance(step, Synthesize):
            break
        found.append(run(name, step, seeds, folder / name))
        seeds = found[-1].kept
    kinds = [(name, step) for name, step in named if isinstance(step, Synthesize)]
    with ThreadPoolExecutor(len(kinds)) as pool:
        asked = [
            pool.submit(run, one.kind, replace(one, keep_seeds=False), seeds, folder / name) for name, one in kinds
        ]
        return found + [one.result() for one in asked]


def run(name: str, step: Any, documents: Sequence[Document], folder: Path) -> StepResult:
    folder.mkdir(parents=True, exist_ok=True)
    context = StepContext(folder=folder, open_sampler=open_endpoint)
    bounds = costs_of_steps([step], documents)
    is_new, started = not any(folder.iterdir()), time.perf_counter()
    if hasattr(step, "open_batch"):
        outcomes = list(step.open_batch(context)(documents))
    else:
        work = step.open(context)
        outcomes = [one for document in documents for one in as_list(work(document))]
    seconds = round(time.perf_counter() - started) if is_new else None
    if isinstance(step, Synthesize):
        kind = find_kind(step.kind, table=step.table)
        documents = [one for one in documents if step.takes(one, kind)]
    tokens = sum(one.cost.prompt_tokens + one.cost.answer_tokens for one in bounds)
    result = StepResult(name, step, folder, len(documents), outcomes, tokens, seconds)
    counts = dict(Counter(one.reason for one in result.rejected))
    print(f"{name}: {len(documents)} seeds, {len(result.kept)} kept, rejected {counts}, {seconds} s", flush=True)
    return result


def as_list(found: Outcome | Iterable[Outcome]) -> list[Outcome]:
    return [found] if isinstance(found, Document | Rejected) else list(found)


def check_pipeline(recipe: Curation, results: Sequence[StepResult]) -> None:
    """`curate` comes to the same documents as the steps by themselves."""
    summary = curate(recipe, open_sampler=open_endpoint, show_progress=False)
    counts = {one.name: one for one in summary.counts}
    kinds = {
        name: step.kind
        for name, step in zip(step_names(recipe.steps), recipe.steps, strict=True)
        if isinstance(step, Synthesize)
    }
    for name, kind in kinds.items():
        alone = Counter(one.reason for result in results if result.name == kind for one in result.rejected)
        assert {**counts[name].rejected, "other_seed": 0} == {**alone, "other_seed": 0}, (kind, counts[name], alone)
    write_report(summary.plan)
    print(f"{recipe.folder}/report.html: {counts['write'].left.documents} documents written")


def run_code_again(results: Sequence[StepResult]) -> None:
    """Every piece of code that was kept passes its tests, in a sandbox of its own."""
    pairs = []
    for document in (one for result in results for one in result.kept if "tests" in one.metadata):
        tests = CodeTests(**document.metadata["tests"])
        answer = document.metadata["messages"][1]["content"]
        pairs.append((tests, program_in(answer, tests.entry_point)))
    with CodeSandbox() as sandbox:
        verdicts = sandbox.grade(pairs) if pairs else []
    assert all(verdict.is_right for verdict in verdicts)
    print(f"{len(pairs)} accepted pieces of code, run again: all pass their tests")


def append(results: Sequence[StepResult]) -> None:
    path = RESULTS / "synthetic_data.csv"
    for one in results:
        reasons = Counter(found.reason for found in one.rejected)
        said = " ".join(f"{reason}:{count}" for reason, count in reasons.most_common())
        journal = StepJournal(one.folder)
        assert journal.paid_tokens <= one.bound_tokens
        row = [date.today(), short_commit(), one.name, one.seeds, len(one.kept), len(one.rejected), said]
        row += [journal.prompt_tokens, journal.answer_tokens, one.bound_tokens, one.seconds]
        journal.close()
        append_rows(path, COLUMNS.split(), [row])


def samples_page(results: Sequence[StepResult]) -> str:
    """Ten documents: of each kind in turn one that was kept, then one that was rejected."""
    kinds = [one for one in results if isinstance(one.step, Synthesize)]
    kept = [list(one.kept) for one in kinds]
    rejected = [[found for found in one.rejected if found.document.text] for one in kinds]
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
        seed = origin["seed_document"].rpartition("/")[2]
        lines += ["", f"## {origin['kind']}: {verdict}", "", f"Seed {seed}, choices {choices}.", ""]
        lines += [f"    {line}".rstrip() for line in document.text[:1_800].splitlines()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
