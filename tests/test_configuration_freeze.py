"""Every field of a run's configuration, with its type and default, as configuration_fields.txt has it.

A run's configuration is what people's commands, recipes and saved runs are written in, so no field changes by accident.
Whoever adds, changes or removes one runs

    python -m tests.test_configuration_freeze

which rewrites the file and marks the rows that are new as `next`; a test then looks for each of them in the section
Unreleased of CHANGELOG.md. A release replaces `next` by its number, and drops removed fields. Rows marked `first` were
there when the list began.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from megaphi.config_kinds import SectionOfKinds, kinds
from megaphi.engine.run_config import RunConfig
from megaphi.recipes import RECIPES, load_recipe

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("configuration_fields.txt")
NEXT, REMOVED = "next", "removed"
COMMAND = "python -m tests.test_configuration_freeze"


class Row(NamedTuple):
    """One field: its dotted path, with [] for items of a list and (Kind) for kinds of a section."""

    path: str
    type: str
    default: str

    @property
    def words(self) -> str:
        """The path as CHANGELOG may say it."""
        return re.sub(r"\([A-Za-z]+\)", "", self.path).replace("[]", ".NAME")


def rows_of(section: type, path: str = "") -> Iterator[Row]:
    """The fields of a section and of all sections below, in the order of their declaration."""
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        if not field.init:
            continue
        at = f"{path}.{field.name}".lstrip(".")
        below = list(_sections(hints[field.name], at))
        yield Row(at, str(field.type), _default(field, is_section=bool(below)))
        for name, one in below:
            yield from rows_of(one, name)


def _sections(hint: Any, path: str) -> Iterator[tuple[str, type]]:
    """(path, class) of the sections that a field holds: one, a list's items, or one of several kinds."""
    if typing.get_origin(hint) is tuple:
        yield from _sections(typing.get_args(hint)[0], f"{path}[]")
    elif isinstance(hint, type) and issubclass(hint, SectionOfKinds):
        ours = {name: kind for name, kind in kinds(hint).items() if kind.__module__.startswith("megaphi.")}
        yield from ((f"{path}({name})", ours[name]) for name in sorted(ours))
    elif dataclasses.is_dataclass(hint):
        yield path, typing.cast("type", hint)


def _default(field: dataclasses.Field[Any], *, is_section: bool) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is dataclasses.MISSING:
        return "required"
    return "its defaults" if is_section else repr(field.default_factory())


def current() -> list[Row]:
    """The rows of today's code; recipes import all kinds of tasks."""
    for name in RECIPES:
        load_recipe(name)
    return list(rows_of(RunConfig))


def recorded() -> dict[Row, str]:
    """Row to the release since which it is so, by the file."""
    lines = (line.split("\t") for line in FILE.read_text().splitlines() if line and not line.startswith("#"))
    return {Row(*fields): since for *fields, since in lines}


def rewritten() -> dict[Row, str]:
    """The rows of the file brought up to date."""
    known, now = recorded() if FILE.is_file() else {}, current()
    paths = {row.path for row in now}
    kept = {row: known.get(row, NEXT) for row in now}
    gone = [Row(row.path, REMOVED, "") for row in known if row.path not in paths]
    return kept | dict.fromkeys(gone, NEXT)


def written(rows: dict[Row, str]) -> str:
    head = f"# Fields of a run: path, type, default, and the release since which they are so; rewritten by {COMMAND}\n"
    return head + "".join("\t".join((*row, since)) + "\n" for row, since in rows.items())


def test_the_fields_are_those_of_the_file() -> None:
    known, now = set(recorded()), set(current())
    changed = sorted({row.path for row in now ^ {row for row in known if row.type != REMOVED}})
    assert not changed, (
        f"fields of the configuration have changed: {', '.join(changed)}. Run `{COMMAND}`, which rewrites their lines "
        f"in {FILE.relative_to(ROOT)}, and name each of them in the section Unreleased of CHANGELOG.md"
    )


def test_what_has_changed_is_in_the_changelog() -> None:
    unreleased = re.search(r"## \[Unreleased\]\n(.*?)(?=\n## \[|\Z)", (ROOT / "CHANGELOG.md").read_text(), re.DOTALL)
    assert unreleased is not None
    said = unreleased[1]
    missing = [row.words for row, since in recorded().items() if since == NEXT and not is_named(row, said)]
    assert not missing, f"CHANGELOG.md, section Unreleased, does not name these fields: {', '.join(missing)}"


def is_named(row: Row, text: str) -> bool:
    """Return whether a text has the field's path as a whole word; a section is named by any of its fields."""
    return re.search(rf"(?<![\w.]){re.escape(row.words)}(?!\w)", text) is not None


def test_a_field_is_named_by_its_whole_path() -> None:
    row = Row("task(Pretrain).mixture.sources[].dtype", "str", "None")
    assert is_named(row, "`task.mixture.sources.NAME.dtype=uint16`")
    assert not is_named(row, "`task.mixture.sources.NAME.dtypes`")
    assert is_named(Row("profile", "ProfilerWindow", "its defaults"), "`profile.steps=5`")
    assert not is_named(Row("steps", "int", "0"), "`profile.steps=5`")


def test_every_field_that_a_run_has_is_frozen() -> None:
    from megaphi.config import leaves

    paths = {row.words for row in recorded()}
    kinds_of_values = {"task.kind"}
    for name in RECIPES:
        for path, _ in leaves(load_recipe(name)):
            plain = re.sub(r"(sources|stages|shares)\.[^.]+\.", r"\1.NAME.", path)
            assert plain in paths | kinds_of_values, path


if __name__ == "__main__":
    FILE.write_text(written(rewritten()))
