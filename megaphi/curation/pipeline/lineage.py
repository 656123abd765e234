"""The lineage of a finished run, for whoever trains on its documents: recipe, input, steps with their counts, origins.

All of it is known before the documents are put together, so that a writer can note it in its own files too. The
numbers are those of the report, without the seconds: the record is the same however the run was cut up or killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megaphi.checkpoint.versions import versions
from megaphi.curation.decontaminate import Decontaminate
from megaphi.curation.deduplicate.exact import ExactDuplicates
from megaphi.curation.deduplicate.near import NearDuplicates
from megaphi.curation.deduplicate.paragraphs import RepeatedParagraphs
from megaphi.curation.pipeline.counts import StepCounts
from megaphi.curation.pipeline.meaning import digest
from megaphi.curation.pipeline.origins import summed_origins
from megaphi.curation.pipeline.plan import CurationPlan
from megaphi.curation.pipeline.shard import BETWEEN, WRITE, shard_origins
from megaphi.curation.step import Portion
from megaphi.data.lineage.record import FORMAT

NAMED_PORTIONS = 100
"""Portions of the input that a record names; all are in its fingerprint."""
PROGRAM = ("megaphi", "commit", "source")


def lineage_of(plan: CurationPlan, counts: Sequence[StepCounts]) -> dict[str, Any]:
    """The record of a run whose shards are all finished, but for the files of its documents."""
    portions = [portion for job in plan.stages[0].jobs for portion in job.portions]
    written = next((one for one in counts if one.name == WRITE), StepCounts(WRITE)).left
    settings = {"read": plan.meaning["read"], **plan.meaning["steps"], WRITE: plan.meaning["write"]}
    shown = [one for one in counts if one.name != BETWEEN or one.rejected]
    return {
        "format": FORMAT,
        "recipe": plan.curation.recipe,
        "fingerprint": plan.fingerprint,
        "program": {name: version for name, version in versions().items() if name in PROGRAM},
        "input": _input(portions),
        "derived_from": [_parent(record) for record in plan.parents],
        "steps": [one.record() | _class_and_settings(settings.get(one.name, {})) for one in shown],
        "documents": written.documents,
        "characters": written.characters,
        "duplicates_removed": [
            name
            for name, step in zip(plan.names, plan.curation.steps, strict=True)
            if isinstance(step, ExactDuplicates | NearDuplicates | RepeatedParagraphs)
        ],
        "decontaminated": _benchmarks(plan),
        **asdict(summed_origins(shard_origins(job.output) for job in plan.stages[-1].jobs)),
    }


def _input(portions: Sequence[Portion]) -> dict[str, Any]:
    prints = [[portion.name, portion.fingerprint] for portion in portions]
    named = [_named(portion) for portion in portions[:NAMED_PORTIONS]]
    size = sum(portion.size_bytes for portion in portions)
    return {"portions": len(portions), "bytes": size, "fingerprint": digest(prints), "first": named}


def _named(portion: Portion) -> dict[str, Any]:
    return {"name": portion.name, "bytes": portion.size_bytes, "fingerprint": portion.fingerprint}


def _parent(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that says which data it is."""
    return {name: record.get(name) for name in ("recipe", "fingerprint", "documents", "files", "derived_from")}


def _class_and_settings(meaning: dict[str, Any]) -> dict[str, Any]:
    return {name: meaning[name] for name in ("class", "settings") if name in meaning}


def _benchmarks(plan: CurationPlan) -> list[dict[str, Any]]:
    """Benchmarks that the finished documents were held to, with the fingerprints of their files."""
    return [
        {
            "name": benchmark.name or Path(benchmark.path).name,
            "path": benchmark.path,
            "fingerprint": plan.meaning["steps"][name].get("files", {}).get(benchmark.path),
        }
        for name, step in zip(plan.names, plan.curation.steps, strict=True)
        if isinstance(step, Decontaminate)
        for benchmark in step.benchmarks
    ]
