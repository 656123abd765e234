"""Tables: those of data as Markdown, those that only place things on the screen taken apart.

A cell that spans rows is written in each of them, so that every row can be read alone; one that spans columns is
followed by empty cells. What cannot be a line of Markdown (code, lists, paragraphs in a cell) makes a table a layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from megaphi.curation.extract.html.tree import classes

LARGEST_SPAN = 100
MOST_COLUMNS = 200
MOST_CELLS = 200_000
LONGEST_CELL = 1_500
"""Characters; prose in a cell means layout."""
_HEAVY = ("pre", "h1", "h2", "h3", "h4", "article", "section", "blockquote", "table", "dl")
_LAYOUT = frozenset(
    {"layout", "ltx_equation", "ltx_eqn_table", "ltx_equationgroup", "field-list", "docutils-field-list"}
)


def is_layout(table: Any) -> bool:
    """True where a table places blocks instead of showing data."""
    if table.get("role") in ("presentation", "none") or classes(table) & _LAYOUT:
        return True
    if next(table.iterdescendants(*_HEAVY), None) is not None:
        return True
    rows = rows_of(table)
    if max((len(row) for row in rows), default=0) < 2:
        return True
    cells = [cell for row in rows for cell in row]
    return any(sum(len(text) for text in cell.itertext()) > LONGEST_CELL or _has_blocks(cell) for cell in cells)


def _has_blocks(cell: Any) -> bool:
    return sum(1 for child in cell if child.tag in ("p", "ul", "ol", "div")) > 3


def rows_of(table: Any) -> list[list[Any]]:
    """The cells of each row, without those of tables inside."""
    rows = []
    for row in table.iterdescendants("tr"):
        if next(row.iterancestors("table"), None) is table:
            rows.append([cell for cell in row if cell.tag in ("td", "th")])
    return rows


def header_rows(table: Any) -> int:
    """Number of rows at the top that name the columns."""
    count = 0
    for row in rows_of(table):
        parent = row[0].getparent().getparent() if row else None
        in_head = parent is not None and parent.tag == "thead"
        if not row or not (in_head or all(cell.tag == "th" for cell in row)):
            break
        count += 1
    return count


def grid_of(table: Any, text_of_cell: Callable[[Any], str]) -> list[list[str]]:
    """The table's texts as a rectangle."""
    grid: list[list[str]] = []
    pending: dict[int, tuple[int, str]] = {}  # column -> rows still to fill, text
    for row in rows_of(table):
        line: list[str] = []
        cells = iter(row)
        while len(line) < MOST_COLUMNS:
            if len(line) in pending:
                left, text = pending.pop(len(line))
                if left > 1:
                    pending[len(line)] = (left - 1, text)
                line.append(text)
                continue
            cell = next(cells, None)
            if cell is None:
                if not any(column > len(line) for column in pending):
                    break
                line.append("")
                continue
            text = text_of_cell(cell)
            down = _span(cell, "rowspan")
            for offset in range(_span(cell, "colspan")):
                if down > 1:
                    pending[len(line)] = (down - 1, text if not offset else "")
                line.append(text if not offset else "")
        grid.append(line)
        if sum(map(len, grid)) > MOST_CELLS:
            break
    width = max((len(line) for line in grid), default=0)
    return [line + [""] * (width - len(line)) for line in grid]


def _span(cell: Any, name: str) -> int:
    value = cell.get(name, "1").strip()
    return min(max(int(value), 1), LARGEST_SPAN) if value.isdecimal() else 1


def markdown_table(grid: list[list[str]], headers: int) -> str:
    """The rectangle as Markdown, which has one row of names: further ones are joined with it by a space."""
    width = len(grid[0])
    names = [" ".join(dict.fromkeys(row[column] for row in grid[:headers] if row[column])) for column in range(width)]
    rows = [names, ["---"] * width, *(row for row in grid[headers:] if any(row))]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
