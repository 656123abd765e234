"""A curation recipe: where documents come from, what they go through, where they go.

A recipe is a function that returns a `Curation`; its parts are frozen dataclasses of settings, which a command line
changes by name: `steps.too_short.minimum_words=50`, `read.paths=more/`. A step is called by its class in snake case
(`TooShort` is `too_short`), and the second of a class `too_short_2`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from megaphi.config import FilePath, Range, check_values, override
from megaphi.curation.step import BatchStep, JointStep, Reader, Step, Writer
from megaphi.curation.write.json_lines import WriteJsonLines
from megaphi.errors import InputError, did_you_mean

AnyStep = Step | BatchStep | JointStep
MOST_SAMPLES = 50
"""Documents of each reason that finished shards know, of which the report shows some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curation:
    """A run of curation, whole."""

    recipe: str
    """Name of the recipe: a folder belongs to one."""
    folder: FilePath
    """Everything that the run writes: finished documents, rejected ones, counts, report."""
    read: Reader
    steps: tuple[AnyStep, ...]
    write: Writer = dataclasses.field(default_factory=WriteJsonLines)
    upload: str = ""
    """URL in object storage (s3://bucket/folder) that gets the finished documents too, lineage.json last."""
    keep_after: tuple[str, ...] = ()
    """Names of steps behind which the documents are kept on disk, as they are before every joint step: a setting of a
    later step that changes does not do again what comes before. For what costs much: extraction, models."""
    shard_bytes: Annotated[int, Range(minimum=1)] = 64 << 20
    """Input that is worked on together, at least: a kill costs each process the shard that it is at."""
    rejected_characters: Annotated[int, Range(minimum=0)] = 10_000
    """Text kept of each rejected document; the whole of it is still in the input. Another number is for shards that
    are not finished yet."""
    samples: Annotated[int, Range(minimum=0, maximum=MOST_SAMPLES)] = 10
    """Documents that the report shows: of each reason for rejection, and of those that were kept."""
    seed: int = 0
    """Chooses the samples of the report, which alone is made again for another one."""


def step_names(steps: Sequence[AnyStep]) -> list[str]:
    """A name for every step, unique in the recipe."""
    names: list[str] = []
    for step in steps:
        plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(step).__name__).lower()
        before = sum(name == plain or re.fullmatch(rf"{plain}_\d+", name) is not None for name in names)
        names.append(f"{plain}_{before + 1}" if before else plain)
    return names


def override_curation(curation: Curation, assignments: Sequence[str]) -> Curation:
    """Apply `field=value`, `read.FIELD=value`, `steps.NAME.FIELD=value` from left to right.

    Raises:
        InputError: there is no such field or step, or the field does not take the value.
    """
    for assignment in assignments:
        path, _, value = assignment.partition("=")
        if not path.startswith("steps."):
            curation = override(curation, [assignment])
            continue
        _, name, *rest = path.split(".")
        names = step_names(curation.steps)
        if name not in names:
            raise InputError(f"{path}: there is no step {name!r}.{did_you_mean(name, names)} Steps: {_listed(names)}")
        if not rest:
            raise InputError(f"{path} is a whole step: set one of its fields, {path}.FIELD=value")
        place = names.index(name)
        changed = override(curation.steps[place], [f"{'.'.join(rest)}={value}"], within=f"steps.{name}")
        curation = replace(curation, steps=(*curation.steps[:place], changed, *curation.steps[place + 1 :]))
    return check_curation(curation)


def check_curation(curation: Any, *, recipe: str = "") -> Curation:
    """The same curation with every value checked; `recipe`: the name that it was asked for.

    Raises:
        InputError: it is no `Curation`, or a part of it is none, or a field has a value that it does not take.
    """
    asked = f"recipe {recipe!r}: " if recipe else ""
    if not isinstance(curation, Curation):
        raise InputError(f"{asked}it returned {type(curation).__name__}, expected a Curation")
    if not isinstance(curation.steps, tuple):
        raise InputError(f"{asked}steps is {type(curation.steps).__name__}, expected a tuple of steps")
    names = step_names(curation.steps)
    parts: dict[str, tuple[Any, tuple[type, ...]]] = {
        "read": (curation.read, (Reader,)),
        **{f"steps.{name}": (step, KINDS) for name, step in zip(names, curation.steps, strict=True)},
        "write": (curation.write, (Writer,)),
    }
    try:
        for where, (part, kinds) in parts.items():
            _check_part(part, kinds, where=where)
        steps = tuple(
            check_values(step, where=f"steps.{name}") for name, step in zip(names, curation.steps, strict=True)
        )
        if taken := set(names) & set(OTHER_ROWS):
            raise InputError(f"a step cannot be called {min(taken)!r}: give its class another name")
        for name in curation.keep_after:
            if name not in names:
                raise InputError(f"keep_after: there is no step {name!r}.{did_you_mean(name, names)}")
        numbers = {"shard_bytes": curation.shard_bytes, "rejected_characters": curation.rejected_characters}
        for field, value in ({**numbers, "samples": curation.samples, "seed": curation.seed}).items():
            curation = override(curation, [f"{field}={value}"])
        return replace(
            curation,
            read=check_values(curation.read, where="read"),
            steps=steps,
            write=check_values(curation.write, where="write"),
        )
    except InputError as error:
        raise InputError(f"{asked}{error}") from None


KINDS = (Step, BatchStep, JointStep)
NEEDED: dict[type, str] = {
    Step: "open(context)",
    BatchStep: "batch_documents, open_batch(context)",
    JointStep: "gather, decide, open_decided",
    Reader: "portions, read",
    Writer: "write, join",
}
"""Beside VERSION, the members of each kind of part."""
OTHER_ROWS = ("read", "write", "between_stages")
"""Names in the counts that are no steps."""


def _check_part(part: Any, kinds: tuple[type, ...], *, where: str) -> None:
    if isinstance(part, type) or not dataclasses.is_dataclass(part):
        found = f"the class {part.__name__}" if isinstance(part, type) else type(part).__name__
        raise InputError(f"{where} is {found}, expected a dataclass of settings, as in {_example(where)}")
    known = [kind for kind in kinds if isinstance(part, kind)]
    if not known:
        needed = " or ".join(NEEDED[kind] for kind in kinds)
        raise InputError(f"{where}: {type(part).__name__} lacks what makes it one: it needs VERSION and {needed}")
    if len(known) > 1:
        both = " and ".join(kind.__name__ for kind in known)
        raise InputError(f"{where}: {type(part).__name__} has the methods of {both}: it must be one of them")


def _example(where: str) -> str:
    return {"read": "ReadJsonLines(paths=('pages/',))", "write": "WriteJsonLines()"}.get(where, "MyStep(minimum=1)")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
