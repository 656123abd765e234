"""Reading the table of kinds: `kinds.toml` of this package, or that of a folder of the user's own in the same form.

Everything that is wrong is reported at once, a line for each field with file, line, field and remedy. A prompt is the
file `prompts/NAME.txt` beside the table, or else one of ours. A user's table may also change a kind of ours, by giving
the whole row again under the same name. It is a folder that a step names, so that a run notices a changed prompt too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from megaphi.curation.requests.template import NAME, Template, read_template
from megaphi.curation.synthesize.table import setting_values
from megaphi.curation.synthesize.table.kind import FORMS, MUST_BE_GIVEN, SETTINGS, SyntheticKind
from megaphi.errors import InputError, did_you_mean
from megaphi.foreign.files import read_text

OURS = Path(__file__).parents[1]
KINDS_FILE = OURS / "kinds.toml"
HEADER = re.compile(r"\s*\[\[\s*kind\s*\]\]\s*(?:#.*)?$")
LONGEST_ANSWER = 131_072
REQUIRED = ("name", "about", "seeds", "form", "prompt", "tokens")
ROW = (*REQUIRED, "checks", "choices")


def find_kind(name: str, *, table: str = "") -> SyntheticKind:
    """The kind `name` of the user's table, or else of ours. Raises InputError."""
    kinds = all_kinds(table=table)
    if name not in kinds:
        raise InputError(f"no kind of synthetic data {name!r}.{did_you_mean(name, kinds)} Kinds: {', '.join(kinds)}")
    return kinds[name]


def all_kinds(*, table: str = "") -> dict[str, SyntheticKind]:
    """Name -> kind: ours, and those of the folder `table`, also in the place of ours. Raises InputError."""
    ours = _our_kinds()
    if not table:
        return dict(ours)
    folder = Path(table).expanduser()
    if folder.is_file():
        raise InputError(f"table={table}: name the folder that holds {folder.name} as kinds.toml, and prompts/")
    return {**ours, **read_kinds(folder / "kinds.toml")}


@cache
def _our_kinds() -> dict[str, SyntheticKind]:
    return read_kinds(KINDS_FILE)


@cache
def our_prompt(name: str) -> Template:
    """A prompt of this package."""
    return read_template(OURS / "prompts" / f"{name}.txt")


def read_kinds(path: Path) -> dict[str, SyntheticKind]:
    """The kinds of one file by name. Raises InputError with a line for each field that is wrong."""
    try:
        content = read_text(path)
        parsed = tomllib.loads(content)
    except (InputError, ValueError, RecursionError) as error:
        raise InputError(f"this table of kinds cannot be read: {path}: {error}") from None
    rows = parsed.get("kind")
    if set(parsed) != {"kind"} or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: a table of kinds holds [[kind]] sections and nothing else")
    lines = _Lines(path, content)
    problems: list[str] = []
    kinds: dict[str, SyntheticKind] = {}
    for number, row in enumerate(rows):
        reading = _RowReading(row, number, lines, path.parent)
        kind = reading.kind()
        problems += reading.problems
        if kind is not None and kind.name in kinds:
            problems.append(f"{lines.place(number, 'name')}: name: another kind is called {kind.name!r}: rename one")
        elif kind is not None:
            kinds[kind.name] = kind
    if problems:
        raise InputError("\n".join(problems))
    return kinds


class _Lines:
    """Places of the fields of each row in the file."""

    def __init__(self, path: Path, content: str) -> None:
        self._path, self._lines = path, content.splitlines()
        self._headers = [number for number, line in enumerate(self._lines) if HEADER.match(line)]

    def place(self, row: int, name: str, *, choice: bool = False) -> str:
        """FILE:line of a field or a choice of the row, of its header where that is missing."""
        if row >= len(self._headers):
            return f"{self._path}: kind {row + 1}"
        start = self._headers[row]
        end = self._headers[row + 1] if row + 1 < len(self._headers) else len(self._lines)
        of_field = re.compile(rf"\s*(?:\[\s*kind\.{re.escape(name)}\s*\]|[\"']?{re.escape(name)}[\"']?\s*=)")
        found = [number for number in range(start, end) if of_field.match(self._lines[number])] or [start]
        return f"{self._path}:{found[-1 if choice else 0] + 1}"


class _RowReading:
    """One row on its way to a `SyntheticKind`: problems are gathered, and a row with one gives no kind."""

    def __init__(self, row: Mapping[str, Any], number: int, lines: _Lines, folder: Path) -> None:
        self._row, self._number, self._lines, self._folder = row, number, lines, folder
        self.problems: list[str] = []

    def kind(self) -> SyntheticKind | None:
        row = self._row
        for name in REQUIRED:
            if name not in row:
                self._wrong(name, "it is missing: every kind has one")
        form = self._read("form", setting_values.one_of(tuple(FORMS)))
        checks = self._checks(form)
        choices = self._choices()
        self._unknown_fields()
        prompt = self._prompt()
        found = {
            "name": self._read("name", _name),
            "about": self._read("about", setting_values.text),
            "seeds": self._read("seeds", setting_values.words),
            "tokens": self._read("tokens", setting_values.whole_number(1, LONGEST_ANSWER)),
        }
        settings = self._settings(form, checks) if form else {}
        if form and prompt:
            self._fields_of(prompt, form, choices)
        if self.problems or form is None or prompt is None:
            return None
        return SyntheticKind(**found, form=form, prompt=prompt, checks=checks, choices=choices, settings=settings)

    def _wrong(self, name: str, problem: str, *, choice: bool = False) -> None:
        self.problems.append(f"{self._lines.place(self._number, name, choice=choice)}: {name}: {problem}")

    def _read(self, name: str, read: Any) -> Any:
        if name not in self._row:
            return None
        try:
            return read(self._row[name])
        except InputError as error:
            self._wrong(name, f"{self._row[name]!r}: {error}")
            return None

    def _checks(self, form: str | None) -> tuple[str, ...]:
        checks = self._read("checks", setting_values.texts) or ()
        if form is None:
            return checks
        rules = FORMS[form]
        for check in checks:
            if check not in rules.checks:
                hint = did_you_mean(check, rules.checks)
                self._wrong("checks", f"{check!r} is no check of the form {form}: {', '.join(rules.checks)}.{hint}")
        for check in rules.required:
            if check not in checks:
                self._wrong("checks", f"a kind of the form {form} must have the check {check!r}: add it")
        return checks

    def _choices(self) -> dict[str, tuple[str, ...]]:
        given = self._row.get("choices", {})
        if not isinstance(given, dict):
            self._wrong("choices", "write a section [kind.choices] with a list of texts for each field of the prompt")
            return {}
        found = {}
        for name, options in given.items():
            try:
                found[_name(name)] = setting_values.texts(options)
            except InputError as error:
                self._wrong(name, f"{options!r}: {error}", choice=True)
        return found

    def _unknown_fields(self) -> None:
        known = (*ROW, *SETTINGS)
        for name in self._row:
            if name not in known:
                self._wrong(name, f"there is no such field: leave it out.{did_you_mean(name, known)}")

    def _prompt(self) -> Template | None:
        name = self._read("prompt", _name)
        if name is None:
            return None
        own = self._folder / "prompts" / f"{name}.txt"
        path = own if own.exists() else OURS / "prompts" / f"{name}.txt"
        try:
            return read_template(path if path.exists() else own)
        except InputError as error:
            self._wrong("prompt", str(error))
            return None

    def _settings(self, form: str, checks: Sequence[str]) -> dict[str, Any]:
        """Values of all settings that this kind uses."""
        users = {f"form:{form}", *checks} | ({"revise"} if self._row.get("revise") else set())
        found = {}
        for name, setting in SETTINGS.items():
            used = users & set(setting.users)
            if name in self._row and not used:
                self._wrong(name, f"this kind does not use it (it belongs to {_said(setting.users)}): leave it out")
            elif name in self._row:
                found[name] = self._read(name, setting.read)
            elif used and setting.default is MUST_BE_GIVEN:
                self._wrong(name, f"it is missing: {_said(sorted(used))} needs it")
            elif used:
                found[name] = setting.default
        if found.get("answer_kind") == "choice" and form != "question":
            self._wrong("answer_kind", "options are written for the form question only: write maths or exact")
        return found

    def _fields_of(self, prompt: Template, form: str, choices: Mapping[str, Any]) -> None:
        """The prompt shows the document, has no field that nothing fills, and uses every choice."""
        known = ("document", *FORMS[form].plain, *choices)
        for name in prompt.fields:
            if name not in known:
                hint = did_you_mean(name, known)
                self._wrong("prompt", f"nothing fills its field {{{{{name}}}}}: there are {', '.join(known)}.{hint}")
        if "document" not in prompt.fields:
            self._wrong("prompt", "it does not show the seed: add {{document}} where the text is to stand")
        for name in choices:
            if name in (*FORMS[form].plain, "document"):
                self._wrong(name, "a field of this name is filled otherwise: rename the choice", choice=True)
            elif name not in prompt.fields:
                problem = f"the prompt {prompt.name!r} has no field {{{{{name}}}}}: add it there, or leave it out"
                self._wrong(name, problem, choice=True)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InputError("write a name of small letters, digits and underscores, with a letter first")
    return value


def _said(users: Sequence[str]) -> str:
    return ", ".join(user.replace("form:", "the form ") if ":" in user else f"the check {user}" for user in users)


def described(kinds: Mapping[str, SyntheticKind]) -> Iterator[str]:
    """The table of kinds in Markdown, for the documentation."""
    yield "| kind | from | form | checks | what comes out |"
    yield "|---|---|---|---|---|"
    for kind in kinds.values():
        form = f"{kind.form}, revised" if kind.settings.get("revise") else kind.form
        yield f"| `{kind.name}` | {', '.join(kind.seeds)} | {form} | {', '.join(kind.checks)} | {kind.about} |"
