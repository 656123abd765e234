"""The plan of a run: input in shards, steps in stages, and the folder of every shard of every stage.

A stage begins by reading the input, or what the stage before left; it ends where all documents have to be seen (a joint
step), where the recipe keeps them, or with the writer. Every worker makes the same plan by itself. The folder of a
shard is named after a fingerprint of everything that decides what is in it: its portions of the input, the reader, and
all steps up to there. So a folder that is there is finished and right, whatever was changed or killed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.curation.pipeline.meaning import digest, meaning_of
from megaphi.curation.pipeline.upload import check_upload
from megaphi.curation.recipe import AnyStep, Curation, step_names
from megaphi.curation.step import JointStep, Portion
from megaphi.data.lineage.record import lineages_of
from megaphi.data.storage.files.token_files import is_url
from megaphi.errors import InputError

FORMAT = 2
"""Version of the files in a shard's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurationStage:
    """Steps that every shard goes through without waiting for another one."""

    number: int
    """From 0."""
    decided: int | None
    """Place in the recipe of the joint step that it begins with, whose decisions have been made."""
    steps: range
    """Places of the steps that look at documents by themselves."""
    gathers: int | None
    """Place of the joint step that it ends with, which gathers from the documents."""
    is_last: bool

    @property
    def places(self) -> list[int]:
        """Places of all steps that documents go through, in order."""
        return [*([] if self.decided is None else [self.decided]), *self.steps]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """The work on one shard in one stage."""

    stage: CurationStage
    number: int
    size_bytes: int
    """Size of its input, for progress."""
    portions: tuple[Portion, ...]
    """Input of the first stage; () in later ones."""
    before: Path | None
    """The folder of the same shard in the stage before."""
    decisions: Path | None
    """The folder of decisions that the stage begins with."""
    output: Path
    steps_folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """A stage with its work."""

    stage: CurationStage
    jobs: tuple[ShardJob, ...]
    decisions: Path | None
    """The folder that its joint step's decisions will be in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurationPlan:
    """All that is known before any work."""

    curation: Curation
    names: tuple[str, ...]
    """Names of the steps."""
    portions: int
    stages: tuple[StagePlan, ...]
    meaning: dict[str, Any]
    """Everything that decides the result, but the input."""
    fingerprint: str
    """Changes when the result does."""
    parents: tuple[dict[str, Any], ...]
    """Lineage of the curated folders that the input lies in."""

    @property
    def folder(self) -> Path:
        return Path(self.curation.folder)

    @property
    def input_bytes(self) -> int:
        return sum(job.size_bytes for job in self.stages[0].jobs)

    def names_of(self, stage: CurationStage) -> list[str]:
        """Names of the steps of a stage, for people; one that gathers stands behind a +."""
        gathers = [] if stage.gathers is None else [f"+ {self.names[stage.gathers]}"]
        return [*(self.names[place] for place in stage.places), *gathers]


def stages_folder(folder: Path) -> Path:
    """Folder of all that is between the input and the finished documents."""
    return folder / "stages"


def make_plan(curation: Curation) -> CurationPlan:
    """Find the input, cut it into shards, and name what every stage makes of each. Writes nothing.

    Raises:
        InputError: an input is missing or cannot be read, or is not what the lineage beside it says.
    """
    names = step_names(curation.steps)
    _check_places(curation)
    meaning = {
        "read": meaning_of(curation.read, where="read", with_files=False),
        "steps": {
            name: meaning_of(step, where=f"steps.{name}") for name, step in zip(names, curation.steps, strict=True)
        },
        "write": meaning_of(curation.write, where="write"),
        "keep_after": list(curation.keep_after),
        "shard_bytes": curation.shard_bytes,
        "format": FORMAT,
    }
    portions = curation.read.portions()
    shards = list(grouped(portions, shard_bytes=curation.shard_bytes))
    steps = list(meaning["steps"].items())
    prints = [
        digest(meaning["read"], number, [[portion.name, portion.fingerprint] for portion in shard])
        for number, shard in enumerate(shards)
    ]
    planned: list[StagePlan] = []
    decisions: Path | None = None
    before: list[Path | None] = [None] * len(shards)
    for stage in cut_into_stages(curation.steps, keep_after=[names.index(name) for name in curation.keep_after]):
        at = stages_folder(Path(curation.folder)) / f"{stage.number + 1:02d}"
        own = [steps[place] for place in [*stage.places, *([] if stage.gathers is None else [stage.gathers])]]
        ends = [meaning["write"]] if stage.is_last else []
        prints = [digest(before_it, own, ends, meaning["format"]) for before_it in prints]
        jobs = tuple(
            ShardJob(
                stage=stage,
                number=number,
                size_bytes=sum(portion.size_bytes for portion in shard),
                portions=() if stage.number else tuple(shard),
                before=before[number],
                decisions=decisions,
                output=at / f"{number:05d}-{prints[number]}",
                steps_folder=Path(curation.folder) / "steps",
            )
            for number, shard in enumerate(shards)
        )
        decisions, before = None, [job.output for job in jobs]
        if stage.gathers is not None:
            decisions = at / f"decisions-{digest(prints)}"
            prints = [digest(decisions.name, one) for one in prints]
        planned.append(StagePlan(stage=stage, jobs=jobs, decisions=decisions))
    return CurationPlan(
        curation=curation,
        names=tuple(names),
        portions=len(portions),
        stages=tuple(planned),
        meaning=meaning,
        fingerprint=digest(meaning, prints),
        parents=tuple(lineages_of_input(portions)),
    )


def _check_places(curation: Curation) -> None:
    """Refuse a folder in object storage, and an upload to anywhere else."""
    if is_url(curation.folder):
        raise InputError(
            f"folder={curation.folder}: a run works in a folder of a file system, with locks; upload={curation.folder}"
            " sends the finished documents there"
        )
    if curation.upload:
        check_upload(curation.upload)


def lineages_of_input(portions: Sequence[Portion]) -> list[dict[str, Any]]:
    """Records of the curated folders that the input lies in. Raises InputError if their files do not match them."""
    files = dict.fromkeys(portion.source for portion in portions if portion.source and not is_url(portion.source))
    return lineages_of([Path(file) for file in files])


def grouped(portions: Sequence[Portion], *, shard_bytes: int) -> Iterator[list[Portion]]:
    """Portions in order, in groups that are closed as soon as they hold `shard_bytes`: what is added behind the last
    portion changes the last group only.
    """
    held, size = [], 0
    for portion in portions:
        held.append(portion)
        size += portion.size_bytes
        if size >= shard_bytes:
            yield held
            held, size = [], 0
    if held:
        yield held


def cut_into_stages(steps: Sequence[AnyStep], *, keep_after: Sequence[int]) -> list[CurationStage]:
    """Stages of a recipe: each ends at a joint step, behind a step of `keep_after`, or with the last step."""
    stages: list[CurationStage] = []
    begin, decided = 0, None
    for place, step in enumerate(steps):
        is_joint = isinstance(step, JointStep)
        if not is_joint and (place not in keep_after or place == len(steps) - 1):
            continue
        end = place if is_joint else place + 1
        gathers = place if is_joint else None
        stages.append(
            CurationStage(number=len(stages), decided=decided, steps=range(begin, end), gathers=gathers, is_last=False)
        )
        begin, decided = place + 1, gathers
    last = CurationStage(
        number=len(stages), decided=decided, steps=range(begin, len(steps)), gathers=None, is_last=True
    )
    return [*stages, last]
