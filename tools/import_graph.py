"""The house in numbers: files and lines of each folder of megaphi, who imports whom between folders, and cycles.

    python tools/import_graph.py              # a line per folder, then totals
    python tools/import_graph.py --arrows     # every arrow, with the number of import statements behind it

Imports are read with `ast`, those inside functions too; those for type checkers only are left out, as they never run.
A module of megaphi's own top level (`errors`, `files`, ...) is a room of its own.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from megaphi.config import user_path

ROOT = Path(__file__).resolve().parents[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrows", action="store_true", help="list every arrow between rooms")
    parser.add_argument(
        "--root", type=user_path, metavar="PATH", default=ROOT, help="another checkout, to compare with"
    )
    return parser


def main() -> None:
    arguments = _parser().parse_args()
    root = Path(arguments.root)
    modules = {name_of(path, root): path for path in sorted((root / "megaphi").rglob("*.py"))}
    arrows = arrows_between_rooms(modules)
    for room, paths in sorted(rooms(modules).items()):
        lines = sum(len(path.read_text().splitlines()) for path in paths)
        lower = sorted(into for (outof, into) in arrows if outof == room)
        print(f"{room:<22} {len(paths):>3} files {lines:>6,} lines  imports {', '.join(lower) or 'nothing'}")
    if arguments.arrows:
        for (outof, into), count in sorted(arrows.items()):
            print(f"{outof:<22} -> {into:<22} {count:>3}")
    largest = max(rooms(modules).items(), key=lambda item: len(item[1]))
    print(
        f"{len(modules)} files in {len(rooms(modules))} rooms, the largest {largest[0]} with {len(largest[1])}; "
        f"{len(arrows)} arrows between rooms; "
        f"cycles between rooms: {cycle(arrows)}; between files: {cycle(dict.fromkeys(imports(modules), 1))}"
    )


def name_of(path: Path, root: Path) -> str:
    """`megaphi.data.order` for its __init__.py, `megaphi.data.order.blend` for blend.py in it."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str, modules: dict[str, Path]) -> str:
    """`data.order` for the modules in that folder, and for the folder itself; `files` for megaphi/files.py."""
    is_folder = modules[name].name == "__init__.py"
    folder = name if is_folder else name.rpartition(".")[0]
    return folder.removeprefix("megaphi.") if folder != "megaphi" else name.removeprefix("megaphi.")


def rooms(modules: dict[str, Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for name, path in modules.items():
        found.setdefault(room_of(name, modules), []).append(path)
    return found


def imports(modules: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """(module, module that it imports), once for each import statement."""
    for name, path in modules.items():
        for imported in _imported(ast.parse(path.read_text())):
            while imported and imported not in modules:
                imported = imported.rpartition(".")[0]  # a name inside a module
            if imported and imported != name:
                yield name, imported


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _imported(node)


def arrows_between_rooms(modules: dict[str, Path]) -> Counter[tuple[str, str]]:
    pairs = ((room_of(name, modules), room_of(imported, modules)) for name, imported in imports(modules))
    return Counter((one, other) for one, other in pairs if one != other and other != "megaphi")


def cycle(arrows: dict[tuple[str, str], int]) -> str:
    """One cycle as text, or `none`."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for outof, into in arrows:
        sorter.add(outof, into)
    try:
        sorter.prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return "none"


if __name__ == "__main__":
    main()
