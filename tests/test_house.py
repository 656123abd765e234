"""The rules of the house, as CONTRIBUTING states them: who imports whom, how long things may get, what is not written.

Read with `ast`, nothing is imported. A violation names its file and line.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "megaphi").rglob("*.py"))
ALL_SOURCES = sorted(
    path for folder in ("megaphi", "tools", "benchmarks", "examples", "tests") for path in (ROOT / folder).rglob("*.py")
)
NATIVE_SOURCES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
KERNELS = ("cross_entropy.h", "paged_attention.h", "rms_norm.h", "rotary.h", "softmax.h", "swiglu.h")
ROWS = [
    {
        "errors",
        "json_text",
        "foreign",
        "files",
        "json_log",
        "config",
        "config_kinds",
        "conversation",
        "sampling",
        "log",
        "other_names",
        "own_code",
        "renamed_fields",
        "worker_processes",
        "compiled",
    },
    {"kernels", "tokenizer", "parallel", "grading", "decontamination"},
    {"model", "data"},
    {"checkpoint"},
    {"engine"},
    {"stages", "generation", "conversion"},
    {"planning", "judging", "monitoring"},
    {"pivotal", "curation"},
    {"evaluation"},
    {"recipes"},
    {"cli"},
]
INSIDE = {
    "grading": [{"verdict", "question"}, {"math_answer", "code_sandbox", ""}, {"grader"}],
    "parallel": [{"rendezvous"}, {""}],
    "model": [{"forward", "rows"}, {"copied_groups"}, {"variants", ""}],
    "data": [
        {"batch"},
        {"text", "storage"},
        {"lineage"},
        {"order"},
        {"tokenize", "packed", "contamination"},
        {"loading"},
    ],
    "data.storage": [{"files"}, {"formats"}, {""}],
    "curation": [
        {"document"},
        {"document_record"},
        {"step"},
        {"requests"},
        {"read", "write", "extract", "filter", "deduplicate", "decontaminate", "select"},
        {"synthesize"},
        {"recipe"},
        {"pipeline"},
        {"report"},
    ],
    "curation.extract": [{"found"}, {""}, {"pandoc"}, {"html", "tex"}, {"extract"}, {"by_model"}],
    "curation.filter": [
        {"words", "encoded_data", "fasttext_file", "record_fields"},
        {""},
        {"corruption", "personal_data", "quality"},
    ],
    "curation.synthesize": [{"", "table"}, {"forms"}, {"steps"}],
    "grading.code_sandbox": [{"inside"}, {""}],
    "engine": [{"boards", "guard"}, {""}, {"model"}, {"saving", "reporting"}, {"start"}, {"inference", "training"}],
    "conversion": [{"formats"}, {""}],
    "conversion.formats": [{""}, {"gguf", "huggingface", "megatron"}],
    "generation": [
        {"text", "decoding", "client"},
        {"answer_stream", "dispatch", "fair_queue"},
        {"workers"},
        {"completions"},
        {"local_sampler"},
        {"server"},
    ],
    "pivotal": [{"methods"}, {"rollouts", "interchange", "preference"}, {"search"}, {"report"}, {"results"}],
    "pivotal.methods": [
        {"trace", "rollout", "settings", "findings", "method"},
        {"statistics"},
        {""},
        {"simulation"},
    ],
    "evaluation": [
        {"task", "results"},
        {"result_files", "statistics", "asking", "data_files"},
        {"tasks"},
        {"report", "plan", "evaluated_texts"},
        {"run"},
        {"during_training"},
    ],
    "evaluation.tasks": [{"columns", "wording", "quirks", "unjudged"}, {"", "multiple_choice"}, {"mathematics"}],
    "planning": [{"mixture", "ladder", "parity", ""}],
    "cli": [
        {""},
        {"inspect", "pivotal", "evaluation", "decontaminate", "mixture", "planning", "curate", "monitoring"},
    ],
}
"""Rows within a package: a folder or a file of it imports its own row and lower ones; "" is every file not named."""
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
MEGATRON_USERS = {"parallel", "model", "engine"}
WITHOUT_TORCH = {
    "compiled",
    "errors",
    "json_text",
    "foreign",
    "json_log",
    "other_names",
    "renamed_fields",
    "own_code",
    "worker_processes",
    "files",
    "config",
    "config_kinds",
    "conversation",
    "sampling",
    "log",
    "tokenizer",
    "grading",
    "decontamination",
    "data",
    "curation",
    "judging",
    "monitoring",
    "pivotal",
    "evaluation",
    "recipes",
    "cli",
}
LONGEST_FILE, LONGEST_FUNCTION, MEDIAN_FUNCTION, LARGEST_FOLDER = 400, 60, 12, 14
FORBIDDEN_FILES = {"utils.py", "helpers.py", "common.py", "base.py", "manager.py"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def package_of(path: Path) -> str:
    """`model` for megaphi/model/norm.py, `files` for megaphi/files.py."""
    return path.relative_to(ROOT / "megaphi").parts[0].removesuffix(".py")


def imports(path: Path, *, at_module_level: bool) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; those inside functions only on request."""
    tree = tree_of(path)
    nodes = _outside_functions(tree) if at_module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or is_typing:
            continue
        yield child
        yield from _outside_functions(child)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(place, lines) of every function, its docstring not counted."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield (
                f"{path.relative_to(ROOT)}:{node.lineno} {node.name}",
                (node.end_lineno or 0) - node.lineno + 1 - docstring,
            )


def test_packages_import_lower_rows_only() -> None:
    wrong = []
    for path in SOURCES:
        package = package_of(path)
        for line, module in imports(path, at_module_level=False):
            parts = module.split(".")
            if parts[0] != "megaphi" or len(parts) == 1 or package not in ROW_OF or parts[1] == package:
                continue
            is_lower = ROW_OF[parts[1]] < ROW_OF[package] or (ROW_OF[package] == 0 == ROW_OF[parts[1]])
            if not is_lower:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong


def row_inside(package: str, name: str) -> int | None:
    """The row of a folder or file of a package, by its name."""
    named = [row for row, names in enumerate(INSIDE[package]) if name in names]
    return next(iter(named), next((row for row, names in enumerate(INSIDE[package]) if "" in names), None))


def test_folders_of_a_package_import_lower_rows_of_it_only() -> None:
    wrong = []
    for package in INSIDE:
        folder = ROOT / "megaphi" / package.replace(".", "/")
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder).parts
            if inside == ("__init__.py",):
                continue
            own = row_inside(package, inside[0].removesuffix(".py"))
            assert own is not None, f"{path.relative_to(ROOT)} has no row within {package}"
            for line, module in imports(path, at_module_level=False):
                head, _, rest = module.partition(f"megaphi.{package}.")
                other = None if head or not rest else row_inside(package, rest.split(".")[0])
                if other is not None and other > own:
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong


def test_a_package_with_folders_has_rows() -> None:
    parents = {path.parents[1].relative_to(ROOT) for path in SOURCES}
    assert {".".join(folder.parts[1:]) for folder in parents if len(folder.parts) > 1} == set(INSIDE)


def test_a_folder_is_seen_at_one_glance() -> None:
    folders = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): count for folder, count in folders.items() if count > LARGEST_FOLDER} == {}


def test_every_package_has_a_row() -> None:
    packages = {package_of(path) for path in SOURCES} - {"__init__", "__main__"}
    assert packages == set(ROW_OF)


def test_only_three_packages_know_megatron() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line, module in imports(path, at_module_level=False)
        if module.split(".")[0] == "megatron" and package_of(path) not in MEGATRON_USERS
    ]
    assert not wrong


def test_light_packages_do_not_import_torch_when_they_are_imported() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line, module in imports(path, at_module_level=True)
        if module.split(".")[0] in ("torch", "megatron", "transformers") and package_of(path) in WITHOUT_TORCH
    ]
    assert not wrong


def test_files_and_functions_stay_short() -> None:
    assert not [path for path in ALL_SOURCES if path.name in FORBIDDEN_FILES]
    assert not [path for path in ALL_SOURCES if len(path.read_text().splitlines()) > LONGEST_FILE]
    assert not [place for path in ALL_SOURCES for place, lines in functions(path) if lines > LONGEST_FUNCTION]


def test_the_usual_function_is_short() -> None:
    lengths = sorted(lines for path in SOURCES for _, lines in functions(path))
    assert lengths[len(lengths) // 2] <= MEDIAN_FUNCTION
    assert sum(length > 40 for length in lengths) <= 0.05 * len(lengths)


def test_every_file_opens_with_its_story() -> None:
    untold = [str(path.relative_to(ROOT)) for path in ALL_SOURCES if not ast.get_docstring(tree_of(path))]
    assert not untold


def test_public_classes_have_names_of_their_own() -> None:
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    shared = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert not shared


OPENINGS = re.compile(
    r"(Of|What|How|Where|Who|Whose|Whether|Which|When|Why|Is|Are|Does|Do|Did|Can|Has|Have)\b(?! not\b)"
)


def test_docstrings_name_their_subject() -> None:
    """`Bytes per token`, `Return ...`: no question, no clause. Strings under fields count too: they become help."""
    wrong = []
    for path in ALL_SOURCES:
        for node in ast.walk(tree_of(path)):
            text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
            if isinstance(node, ast.Expr) and isinstance(text, str) and OPENINGS.match(text):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {text[:40]}")
    assert not wrong


def test_native_files_tell_their_story_and_stay_short() -> None:
    for path in NATIVE_SOURCES:
        text = path.read_text()
        assert text.startswith("// "), path
        assert len(text.splitlines()) <= LONGEST_FILE, path
        assert max(len(line) for line in text.splitlines()) <= 120, path
        assert not [word for word in ("TODO", "FIXME", "XXX") if word in text], path


def test_instruction_set_files_share_no_inline_function_with_others() -> None:
    """A function of the standard library compiled for AVX-512 could be the copy that the linker keeps for all."""
    for name in ("table.cpp", "element.h", *KERNELS):
        included = re.findall(r"#include <(\w+)>", (ROOT / "csrc" / "cpu" / name).read_text())
        assert set(included) <= {"cstdint", "cstdlib"}, name


READS_PICKLES = (
    ROOT / "tests/foreign/test_restricted_pickle.py",  # makes the hostile ones
)


OBJECT_COLLECTIVES = re.compile(r"\b(all_gather|gather)_object\(|\b(broadcast|scatter|send|recv)_object_list\(")
"""torch's collectives of Python objects send pickles; `parallel/exchange.py` has ours."""


def test_nothing_is_unpickled_and_nothing_is_left_to_do() -> None:
    wrong = []
    for path in SOURCES:
        text = path.read_text()
        wrong += [
            f"{path.relative_to(ROOT)}: {word}"
            for word in ("TODO", "FIXME", "XXX", "NotImplementedError")
            if word in text
        ]
        for line, module in imports(path, at_module_level=False):
            if module.split(".")[0] in ("pickle", "dill", "joblib", "shelve") and path not in READS_PICKLES:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
        if "torch.load(" in text or "allow_pickle=True" in text or OBJECT_COLLECTIVES.search(text):
            wrong.append(f"{path.relative_to(ROOT)}: reads pickles")
    assert not wrong
