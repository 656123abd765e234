"""The program within an answer: models put it into a fenced block, with words around it, or write nothing else.

The last block that defines the entry point counts, else the last block, else the whole answer. A fence that is never
closed (the answer was cut off) reaches to the end.
"""

from __future__ import annotations

import re

_BLOCK = re.compile(r"^[ ]{0,3}(```+|~~~+)[^\n`]*\n(.*?)(?:^[ ]{0,3}\1`*~*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


def program_in(answer: str, entry_point: str) -> str:
    """The text of the program; `entry_point` is empty where a whole program is asked for."""
    blocks = [found[2] for found in _BLOCK.finditer(answer.replace("\r\n", "\n"))]
    defining = rf"^(async\s+def|def|class)\s+{re.escape(entry_point)}\b|^{re.escape(entry_point)}\s*="
    fitting = [block for block in blocks if entry_point and re.search(defining, block, re.MULTILINE)]
    return [answer, *blocks, *fitting][-1]
