"""A recipe from files of all formats to tokens: what can be read is trained on, what cannot has its reason."""

from __future__ import annotations

from pathlib import Path

from megaphi.curation.extract.extract import Extract
from megaphi.curation.pipeline.run import curate
from megaphi.curation.read.files import ReadFiles
from megaphi.curation.recipe import Curation
from megaphi.curation.write.tokens import WriteTokens
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.curation.extract.written_files import JATS, NOTEBOOK, by_pandoc, pdf, zipped
from tests.curation.pipeline.conftest import records_of

TEX = rb"\documentclass{article}\newcommand{\R}{\mathbb{R}}\begin{document}Let $x\in\R$.\end{document}"


def test_files_of_all_formats_become_tokens(tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    written = {
        "a.tex": TEX,
        "b.xml": JATS,
        "c.ipynb": NOTEBOOK,
        "d.pdf": pdf([["Words of a page that are there to be read."]]),
        "e.docx": by_pandoc("docx"),
        "f.epub": by_pandoc("epub"),
        "g.md": b"plain\r\ntext",
        "h.docx": zipped({"word/document.xml": b"\0" * (40 << 20)}),
        "i.pdf": b"%PDF-1.7 broken",
    }
    for name, content in written.items():
        (source / name).write_bytes(content)
    curation = Curation(
        recipe="formats",
        folder=str(tmp_path / "run"),
        read=ReadFiles(paths=(str(source),)),
        steps=(Extract(),),
        write=WriteTokens(vocabulary_size=1_000, shuffle_seed=None),
    )
    curate(curation, show_progress=False)
    tokenizer = load_tokenizer(vocabulary_size=1_000)
    dataset = IndexedDataset(next((tmp_path / "run").rglob("documents/tokens.bin")).with_suffix(""))
    texts = [tokenizer.decode(dataset.document(number).tolist()[:-1]) for number in range(dataset.document_count)]
    assert len(texts) == 7
    assert texts[0] == r"Let $x\in\mathbb{R}$."
    assert texts[6] == "plain\ntext"
    rejected = {record["source"][-6:]: record for record in records_of(tmp_path / "run" / "rejected")}
    assert {name: record["reason"] for name, record in rejected.items()} == {
        "h.docx": "hostile_archive",
        "/i.pdf": "malformed",
    }
