"""Formulas, code and words that extraction of TeX and PDF keeps, and its time: ours against the libraries alone.

TeX: every real source of the folders (LaTeX with a body, 6 to 300 KB, gzipped or not), with the sources
beside it: ours, pandoc alone (run in the source's folder, on the source with its inputs in reach) and pylatexenc alone
(`latex2text`, formulas verbatim). A formula of the source counts as kept if it stands in the output, as it was written
or with the source's macros written out, white space and braces aside; a block of code if its lines stand there to the
byte (also indented by four, as Markdown has it); words are those of four letters and more outside commands, comments,
formulas and code: the share of the source's that the output has. A source that fails has kept nothing;
`formulas_kept_mean` counts every file alike.

PDF: words of the TeX source that the text of its PDF has, for pdfium (ours), pypdf and pdfminer.six where installed.

Times are of the processor, children included, one thread. Run each tool on each file in turns, in one run.

    apt-get download pari-doc texlive-science-doc texlive-publishers-doc; dpkg-deb -x each into a folder
    python benchmarks/extraction_formats.py FOLDER... --files 60
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.machine import machine
from megaphi.curation.extract.found import NotExtracted
from megaphi.curation.extract.pandoc.run import pandoc_path
from megaphi.curation.extract.pdf import extract_pdf
from megaphi.curation.extract.tex.convert import LEFT_OUT_PATTERN, extract_tex
from megaphi.curation.extract.tex.formulas import without_formulas
from megaphi.curation.extract.tex.macros import Macros, expand
from megaphi.curation.extract.tex.project import open_project, whole_text

RESULTS = Path(__file__).parent / "results" / "extraction_formats.csv"
SOURCES = (".tex", ".ltx", ".sty", ".cls")
SECONDS = 120


@dataclass(frozen=True, slots=True)
class Source:
    """A TeX file, what lies beside it, and what has to be found in its text."""

    path: Path
    content: bytes
    files: Mapping[str, bytes]
    formulas: list[tuple[str, str]]
    """As written, and with macros written out; both reduced."""
    code: list[str]
    words: Counter[str]


@dataclass(slots=True)
class Kept:
    """Sums over files."""

    converted: int = 0
    formulas: int = 0
    code: int = 0
    words: int = 0
    shares: list[float] = field(default_factory=list)
    """Share of the formulas kept, for each file."""
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", type=Path, help="folders with TeX sources")
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--least-bytes", type=int, default=6_000)
    parser.add_argument("--largest-bytes", type=int, default=300_000)
    parser.add_argument("--show", action="store_true", help="print every file")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/extraction_formats.csv")
    arguments = parser.parse_args()
    sources = list(
        chosen(arguments.folder, most=arguments.files, sizes=(arguments.least_bytes, arguments.largest_bytes))
    )
    rows = [*tex_rows(sources, show=arguments.show), *pdf_rows(arguments.folder)]
    for row in rows:
        print(row)
    if arguments.write:
        append(rows)


def loaded(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def chosen(folders: list[Path], *, most: int, sizes: tuple[int, int]) -> Iterator[Source]:
    """Sources of all sizes and kinds, by a hash of their names, so that nobody chose them."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.name.removesuffix(".gz").endswith(".tex")]
    seen, found = set(), 0
    for path in sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).hexdigest()):
        content = loaded(path)
        named = hashlib.sha256(content).hexdigest()
        if not sizes[0] <= len(content) <= sizes[1] or b"\\begin{document}" not in content or named in seen:
            continue
        seen.add(named)
        beside = {
            str(each.relative_to(path.parent)).removesuffix(".gz"): loaded(each)
            for each in path.parent.rglob("*")
            if each.is_file() and each.name.removesuffix(".gz").endswith(SOURCES)
        }
        with suppress(NotExtracted):
            yield truth(path, content, beside)
            found += 1
            if found == most:
                return


def truth(path: Path, content: bytes, files: Mapping[str, bytes]) -> Source:
    """Formulas, code and words of a source: found before any macro is written out, so that no tool's view decides."""
    main_file, project = open_project(content, files)
    definitions, body = whole_text(main_file, project)
    code_marks = len(project.marks.contents)
    macros = Macros()
    expand(definitions, macros)
    body = LEFT_OUT_PATTERN.sub("\n", body)
    body = re.sub(r"\\(?:re)?newcommand\*?\s*\{?\\\w+\}?(?:\[[^\]]*\])*\{(?:[^{}]|\{[^{}]*\})*\}", " ", body)
    words_only = without_formulas(body, project.marks)
    formulas = [
        (reduced(tex), reduced(expand(tex, macros)))
        for number, (kind, tex) in enumerate(project.marks.contents)
        if number >= code_marks and kind in ("inline", "display") and not project.marks.pattern.search(tex)
    ]
    present = {int(found[1]) for found in project.marks.pattern.finditer(body)}
    code = [
        text
        for number, (kind, text) in enumerate(project.marks.contents[:code_marks])
        if number in present and kind.startswith("block") and text.strip()
    ]
    plain = project.marks.pattern.sub(" ", re.sub(r"\\[a-zA-Z@]+\*?(?:\[[^\]]*\])?", " ", words_only))
    return Source(path, content, files, [each for each in formulas if each[0]], code, words_of(plain))


def reduced(tex: str) -> str:
    """A formula without white space, braces, labels and the signs that say only how large or upright it is."""
    tex = re.sub(
        r"\\label\s*\{[^{}]*\}|\\(?:left|right|limits|displaystyle|mathop|operatorname|mathrm|rm)\b\*?", "", tex
    )
    return re.sub(r"[\s{}~]|\\[,;:!]|\\begin\w*\*?|\\end\w*\*?", "", tex)


def words_of(text: str) -> Counter[str]:
    return Counter(word.lower() for word in re.findall(r"[^\W\d_]{4,}", text))


def by_us(source: Source) -> str:
    return extract_tex(source.content, media_type="", files=source.files).text


def by_pandoc(source: Source) -> str:
    """In a folder with all sources, which pandoc may read."""
    with tempfile.TemporaryDirectory() as name:
        for inside, content in source.files.items():
            path = Path(name) / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        command = [pandoc_path(), "-f", "latex", "-t", "markdown", "--wrap=none", "--preserve-tabs"]
        done = subprocess.run(command, input=source.content, capture_output=True, cwd=name, timeout=SECONDS, check=True)
        return done.stdout.decode()


def by_pylatexenc(source: Source) -> str:
    from pylatexenc.latex2text import LatexNodes2Text

    body = source.content.decode("utf-8", "replace").partition("\\begin{document}")[2]
    return LatexNodes2Text(math_mode="verbatim", keep_comments=False).latex_to_text(body, tolerant_parsing=True)


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(source: Source, tool: Callable[[Source], str], kept: Kept) -> None:
    began = cpu_seconds()
    try:
        text = tool(source)
    except Exception as error:  # a tool that fails has kept nothing
        text = ""
        kept.lost.append(f"{source.path.name}: {type(error).__name__} {str(error)[:60]}")
    kept.seconds += cpu_seconds() - began
    flat = reduced(text)
    kept.converted += bool(text.strip())
    formulas = sum(written in flat or out in flat for written, out in source.formulas)
    kept.formulas += formulas
    if source.formulas:
        kept.shares.append(formulas / len(source.formulas))
    kept.code += sum(code in text or indented(code) in text for code in source.code)
    found = words_of(text)
    kept.words += sum(min(count, found[word]) for word, count in source.words.items())


def indented(code: str) -> str:
    return "\n".join(f"    {line}" if line.strip() else line for line in code.split("\n"))


def tex_rows(sources: list[Source], *, show: bool) -> list[dict[str, object]]:
    tools = {
        "megaphi": by_us,
        f"pandoc {pandoc_version()}": by_pandoc,
        f"pylatexenc {version('pylatexenc')}": by_pylatexenc,
    }
    kept = {name: Kept() for name in tools}
    for source in sources:
        for name, tool in tools.items():
            before = (kept[name].formulas, kept[name].code)
            measure(source, tool, kept[name])
            if show:
                formulas, code = kept[name].formulas - before[0], kept[name].code - before[1]
                print(
                    f"{source.path.name} {name}: {formulas}/{len(source.formulas)}, {code}/{len(source.code)}",
                    flush=True,
                )
    total = {
        "files": len(sources),
        "formulas": sum(len(source.formulas) for source in sources),
        "code_blocks": sum(len(source.code) for source in sources),
        "words": sum(source.words.total() for source in sources),
        "kilobytes": round(sum(len(source.content) for source in sources) / 1e3),
    }
    return [row("tex", name, total, each) for name, each in kept.items()]


def pandoc_version() -> str:
    import pypandoc

    return pypandoc.get_pandoc_version()


def row(form: str, tool: str, total: Mapping[str, int], kept: Kept) -> dict[str, object]:
    def share(part: int, whole: int) -> str:
        return f"{part / whole:.4f}" if whole else ""

    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "format": form,
        "tool": tool,
        "files": total["files"],
        "converted": kept.converted,
        "formulas": total.get("formulas", ""),
        "formulas_kept": share(kept.formulas, total.get("formulas", 0)),
        "formulas_kept_mean": f"{statistics.mean(kept.shares):.4f}" if kept.shares else "",
        "code_blocks": total.get("code_blocks", ""),
        "code_exact": share(kept.code, total.get("code_blocks", 0)),
        "words_kept": share(kept.words, total["words"]),
        "kilobytes": total["kilobytes"],
        "cpu_seconds": f"{kept.seconds:.2f}",
    }


def pdf_rows(folders: list[Path]) -> list[dict[str, object]]:
    """Rows for PDF files that have their TeX source beside them."""
    pairs = [
        (path, path.with_suffix(".tex"))
        for folder in folders
        for path in sorted(folder.rglob("*.pdf"))
        if path.with_suffix(".tex").exists() and path.with_suffix(".tex").stat().st_size > 20_000
    ]
    tools: dict[str, Callable[[bytes], str]] = {
        "megaphi (pdfium)": lambda content: extract_pdf(content, media_type="", files={}).text
    }
    if find_spec("pypdf"):
        tools[f"pypdf {version('pypdf')}"] = by_pypdf
    if find_spec("pdfminer"):
        tools[f"pdfminer.six {version('pdfminer.six')}"] = by_pdfminer
    rows = []
    expected = [words_of(re.sub(r"%.*|\\[a-zA-Z]+", " ", tex.read_text("latin-1"))) for _, tex in pairs]
    for name, tool in tools.items():
        kept = Kept()
        for (path, _), words in zip(pairs, expected, strict=True):
            began = cpu_seconds()
            text = tool(path.read_bytes())
            kept.seconds += cpu_seconds() - began
            kept.converted += bool(text)
            found = words_of(text)
            kept.words += sum(min(count, found[word]) for word, count in words.items())
        size = round(sum(path.stat().st_size for path, _ in pairs) / 1e3)
        total = {"files": len(pairs), "words": sum(each.total() for each in expected), "kilobytes": size}
        rows.append(row("pdf", name, total, kept))
    return rows if pairs else []


def by_pypdf(content: bytes) -> str:
    import pypdf  # pyright: ignore[reportMissingImports] (a peer, not a dependency)

    return "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages)


def by_pdfminer(content: bytes) -> str:
    from pdfminer.high_level import extract_text  # pyright: ignore[reportMissingImports] (a peer)

    return extract_text(io.BytesIO(content))


def append(rows: list[dict[str, object]]) -> None:
    new = not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
