"""The sources that a seed document has, by which a kind of the table takes it or not.

Words, of which a document may have several: what its metadata `seed_source` or the step's setting say (page, book,
paper, forum, documentation, exam, or any word of the user's); `code` for a file of code (by its metadata
`code_language`, or its ending); `facts` or `reasoning` for a passage that was chosen for it; for a synthetic document
`synthetic` and its form (`question`, `qa`; `task` for the form code, since `code` is source code). A document of which
nothing else is known is a `page`.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from megaphi.curation.document import Document

CODE_ENDINGS = frozenset(
    ".py .pyi .c .h .cc .cpp .cxx .hpp .cu .cuh .rs .go .java .kt .js .ts .rb .php .swift .jl .r .lua .sh".split()
)


def seed_sources(document: Document, *, otherwise: str = "") -> set[str]:
    """The words for a document; `otherwise` where its metadata do not say."""
    if is_synthetic(document):
        form = str(document.metadata["synthetic"].get("form", ""))
        return {"synthetic", "task" if form == "code" else form}
    seed = document.metadata.get("seed")
    found = {str(seed["chosen_for"])} if isinstance(seed, dict) and "chosen_for" in seed else set()
    own = document.metadata.get("seed_source") or otherwise
    if own:
        return found | {str(own)}
    return found | ({"code"} if _is_code(document) else {"page"})


def is_synthetic(document: Document) -> bool:
    """Return whether a kind of the table made this document."""
    return isinstance(document.metadata.get("synthetic"), dict)


def _is_code(document: Document) -> bool:
    if "code_language" in document.metadata:
        return True
    name = document.source.rpartition("!")[2] or document.source
    return PurePosixPath(name.partition("?")[0]).suffix.lower() in CODE_ENDINGS
