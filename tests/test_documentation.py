"""README, CONTRIBUTING and docs/ say what is so: their commands are parsed, their fields, files and links are there.

Nothing is trained. A `megaphi` line of a ```bash block goes through the parser of its verb; its recipe is loaded, its
fields are set and checked against each other. Python blocks are saved under the name that the text before them gives,
as a reader would. What is quoted in the text, `like.this`, is looked up by its form: an option, a field, a target of
make, a path, a name in the code.
"""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from megaphi import __version__
from megaphi.cli import VERBS, _parser, parse
from megaphi.config import override
from megaphi.curation.recipe import override_curation
from megaphi.engine.run_config import check
from megaphi.recipes import RECIPES, load_recipe
from megaphi.recipes.curation import load_curation
from tests.test_house import ROOT, SOURCES, imports, package_of

CHANGELOG = ROOT / "CHANGELOG.md"  # tells of names that are no more, too
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CURRENT = [page for page in PAGES if page != CHANGELOG]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\s][^`]*)`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
TOP = ("benchmarks", "csrc", "docs", "examples", "launch", "megaphi", "tests", "tools", ".github")
SUFFIXES = {".py", ".h", ".cpp", ".cu", ".sh", ".sbatch", ".yml"}
LAUNCHED = {"launch/torchrun.sh": None, "launch/mpirun.sh": None, "launch/slurm/pretrain.sbatch": "phi4_14b_pretrain"}
"""Scripts that train -> the recipe, where it is not their first word."""


def of_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(page.read_text()) if found == language]


def quoted(page: Path) -> set[str]:
    """Texts that the page quotes in backticks, outside its blocks."""
    return {" ".join(found.split()) for found in QUOTED.findall(BLOCK.sub("", page.read_text()))}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command in the page's ```bash blocks, without assignments before them."""
    for block in blocks(page, "bash"):
        held = ""
        for line in block.splitlines(keepends=True):
            held += line
            if held.endswith("\\\n"):  # the command goes on in the next line
                held = held[:-2]
                continue
            try:
                words = shlex.split(held, comments=True)
            except ValueError:  # a quote is still open
                continue
            held = ""
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            if words:
                yield words
        assert not held, f"a quote is never closed: {held}"


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of a command and of the commands below it."""
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options, action.choices.values()))
    return found


def below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Commands by name; none where there are no further ones."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def save_recipes(page: Path, folder: Path) -> None:
    """Write the page's Python blocks as the files that the text before each names last."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        if found[1] == "python":
            name = re.findall(r"`(\w+\.py)`", text[: found.start()])[-1]
            (folder / name).write_text(found[2])


def try_training(recipe: str, fields: list[str], *, ranks: int | None) -> None:
    run = override(load_recipe(recipe), fields)
    check(run, world_size=ranks or run.layout.model_ranks * (run.layout.data or 1))


def try_megaphi(words: list[str]) -> None:
    parsed = parse(words)
    if words[0] == "curate" and hasattr(parsed, "recipe"):
        override_curation(load_curation(parsed.recipe), parsed.fields)
    elif getattr(parsed, "recipe", None) is not None:
        processes = getattr(parsed, "world_size", None) or getattr(parsed, "processes", None)
        try_training(parsed.recipe, parsed.fields, ranks=processes)


def try_command(words: list[str]) -> None:
    """Everything about a command that can be known without running it."""
    program, *rest = words
    if program == "sbatch":
        while rest[0].startswith("-"):
            del rest[0]
        program, *rest = rest
    if program == "megaphi":
        try_megaphi(rest)
    elif program == "make":
        assert {word for word in rest if "=" not in word} <= make_targets()
    elif program in LAUNCHED:
        recipe = LAUNCHED[program] or rest.pop(0)
        try_training(recipe, rest, ranks=None)
    elif program == "launch/slurm/tokenize.sbatch":
        try_megaphi(["tokenize", *rest])
    elif program == "pip":
        assert {re.sub(r"\[.*", "", word) for word in rest if not word.startswith("-")} <= {"install", "megaphi", "."}
    else:
        assert program in ("source", "cd", "git", "pre-commit"), f"who checks {program}?"
    if program.startswith("launch/"):
        assert (ROOT / program).is_file()


@pytest.mark.parametrize("page", CURRENT, ids=of_page)
def test_commands_can_be_given(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_recipes(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        try:
            try_command(words)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{of_page(page)}: {shlex.join(words)}\n{error}")


def problem_of(text: str) -> str | None:
    """Problem of a quoted text; None if there is none, or it cannot be checked."""
    words = text.split()
    if words[0] == "make" and len(words) > 1:
        return None if set(words[1:]) <= make_targets() else "no such target"
    if words[0] == "megaphi" and len(words) > 1:
        return _problem_of_command(words[1:])
    if text.startswith("--") and len(words) == 1:
        return (
            None
            if text.partition("=")[0] in options(_parser()).union(*map(options, below(_parser()).values()))
            else "no option"
        )
    if extra := re.fullmatch(r"(?:pip install )?megaphi\[([\w,-]+)\]", text):
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        return None if set(extra[1].split(",")) <= set(known) else "no such extra"
    if (
        re.fullmatch(r"[\w.{},/-]+", text)
        and (text.split("/")[0] in TOP or Path(text).suffix in SUFFIXES)
        and "/" in text
    ):
        return _problem_of_path(text)
    if (name := re.fullmatch(r"([a-z_]+(?:\.\w+)+)(?:=.*)?", text)) and Path(name[1]).suffix != ".json":
        return _problem_of_name(name[1])
    return None


def _problem_of_command(words: list[str]) -> str | None:
    parser = _parser()
    if (verb := " ".join(words[:2])) in VERBS:
        words = [verb, *words[2:]]
    while words and words[0] in below(parser):
        parser = below(parser)[words.pop(0)]
    if below(parser) and words and not words[0].startswith("-"):
        return f"no such command; there are {', '.join(below(parser))}"
    unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options(parser)
    return f"no option {', '.join(unknown)}" if unknown else None


def _problem_of_path(text: str) -> str | None:
    if "NAME" in text:
        return None
    braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", text)
    paths = [braces[1] + middle + braces[3] for middle in braces[2].split(",")] if braces else [text]
    missing = [path for path in paths if not any((top / path).exists() for top in (ROOT, ROOT / "megaphi"))]
    return f"there is no {', '.join(missing)}" if missing else None


def _problem_of_name(name: str) -> str | None:
    """A field of some run, or a name in a module of ours."""
    steps = name.split(".")
    runs = [load_recipe(recipe) for recipe in RECIPES]
    if any(_has_field(run, steps) for run in runs):
        return None
    path = ROOT / "megaphi"
    while steps and ((path / steps[0]).is_dir() or (path / f"{steps[0]}.py").is_file()):
        path /= steps.pop(0)
    if path == ROOT / "megaphi":
        return f"no run has the field {name}" if hasattr(runs[0], steps[0]) else None
    module = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    if not steps:
        return None
    known = re.search(rf"^(?:def|class) {steps[0]}\b|^{steps[0]}\b", module.read_text(), re.MULTILINE)
    return None if known else f"{module.relative_to(ROOT)} has no {steps[0]}, and no run the field {name}"


def _has_field(node: Any, steps: list[str]) -> bool:
    for step in steps:
        if isinstance(node, tuple):
            node = next((item for item in node if item.name == step), None)
        else:
            if not hasattr(node, step):
                return False
            node = getattr(node, step)
    return True


@pytest.mark.parametrize("page", CURRENT, ids=of_page)
def test_what_is_quoted_is_there(page: Path) -> None:
    wrong = {text: problem for text in sorted(quoted(page)) if (problem := problem_of(text))}
    assert not wrong


def test_what_is_not_there_is_found() -> None:
    """The checks above can fail."""
    for text in (
        *("make tests", "megaphi training", "megaphi inspect chats FILE", "megaphi convert to-checkpoint --ranks 2"),
        *("--no-such-option", "megaphi[gpu]", "tests/engine/test_nothing.py", "csrc/bind/{order,nothing}.cpp"),
        *(
            "training.save_every",
            "saving.keep_worst=3",
            "task.mixture.sources.books.weight",
            "generation.local.RemoteSampler",
        ),
    ):
        assert problem_of(text), text
    for words in (
        ["megaphi", "train", "quickstart_pretrain", "layout.tensor=7"],
        ["megaphi", "train", "no_such_recipe"],
        ["launch/torchrun.sh", "phi4_14b_pretrain", "training.stepps=3"],
        ["make", "everything"],
        ["megatron", "train"],
    ):
        with pytest.raises((Exception, SystemExit)):
            try_command(words)


def slug(heading: str) -> str:
    """The name that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for link in LINK.findall(text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), link
        if anchor:
            assert anchor in {slug(line.lstrip("#")) for line in path.read_text().splitlines() if line[:1] == "#"}, link


def test_every_page_of_docs_is_named_in_the_readme() -> None:
    linked = set(LINK.findall((ROOT / "README.md").read_text()))
    assert {of_page(page) for page in PAGES if page.parent == ROOT / "docs"} <= linked


def test_every_recipe_and_command_is_in_the_documents() -> None:
    text = "\n".join(page.read_text() for page in CURRENT)
    assert not [name for name in RECIPES if name not in text]
    assert not [verb for verb in VERBS if f"megaphi {verb}" not in text]


def test_the_diagram_of_the_house_shows_imports_that_exist() -> None:
    diagram = blocks(ROOT / "docs/architecture.md", "mermaid")[0]
    bare = re.sub(r'\["[^"]*"\]', "", diagram)
    arrows = {
        (left, right)
        for line in bare.splitlines()
        if " --> " in line
        for left in [line.partition("-->")[0].strip()]
        for right in re.split(r"\s*&\s*", line.partition("-->")[2].strip())
    }
    real = {
        (package_of(path), module.split(".")[1])
        for path in SOURCES
        for _, module in imports(path, at_module_level=False)
        if module.startswith("megaphi.")
    }
    assert len(arrows) > 10
    assert arrows <= real
    drawn = {name for arrow in arrows for name in arrow}
    packages = {path.name for path in (ROOT / "megaphi").iterdir() if (path / "__init__.py").is_file()}
    assert packages - {"curation"} <= drawn


def test_the_changelog_keeps_its_form() -> None:
    """https://keepachangelog.com: releases from the newest down, each with sections of known kinds."""
    lines = CHANGELOG.read_text().splitlines()
    releases = [line for line in lines if line.startswith("## ")]
    assert releases[0] == "## [Unreleased]"
    assert releases[1].startswith(f"## [{__version__}] - ")
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {"Added", "Changed", "Fixed"} <= kinds


def test_hosted_checks_run_what_a_developer_runs() -> None:
    """Targets of make in the workflow, files that exist in the hooks; all of it YAML."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert "make test" in steps
    for step in steps:
        try_command(shlex.split(step))
    (hooks,) = (group["hooks"] for group in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"])
    for word in " ".join(hook["entry"] for hook in hooks).split():
        assert not word.startswith("tests/") or (ROOT / word).is_file()
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text())


def test_the_citation_is_of_this_release() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"## [{__version__}] - {citation['date-released']}" in CHANGELOG.read_text()
