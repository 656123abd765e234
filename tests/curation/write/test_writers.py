"""Writers: what was written comes back as it was, and tokens are those of `megaphi tokenize` to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaphi.curation.document import Document
from megaphi.curation.read.parquet import ReadParquet
from megaphi.curation.step import Writer
from megaphi.curation.write.json_lines import WriteJsonLines
from megaphi.curation.write.parquet import WriteParquet
from megaphi.curation.write.tokens import WriteTokens
from megaphi.data.tokenize.pipeline import tokenize_documents

DOCUMENTS = [
    Document(
        id=f"d{number}",
        source=f"http://e/{number}",
        place="",
        text=f"Text {number} " * (number % 7) + "ÄÖ€",
        metadata={"score": number / 2, "tags": ["a", number]} if number % 2 else {"title": "T"},
        history=("extract", "filter"),
    )
    for number in range(60)
]


def run(writer: Writer, folder: Path, shards: list[list[Document]]) -> Path:
    folders = []
    for number, documents in enumerate(shards):
        shard = folder / f"shard{number}"
        shard.mkdir(parents=True)
        writer.write(iter(documents), shard)
        folders.append(shard)
    output = folder / "output"
    output.mkdir()
    writer.join(folders, output, {"recipe": "test"})
    return output


def test_parquet_comes_back_as_it_was(tmp_path: Path) -> None:
    output = run(WriteParquet(rows_per_group=7), tmp_path, [DOCUMENTS[:25], DOCUMENTS[25:]])
    assert [path.name for path in sorted(output.iterdir())] == ["00000.parquet", "00001.parquet"]
    reader = ReadParquet(paths=(str(output),))
    found = [outcome for portion in reader.portions() for outcome in reader.read(portion)]
    for before, after in zip(DOCUMENTS, found, strict=True):
        assert isinstance(after, Document)
        assert (after.id, after.source, after.text, after.history) == (
            before.id,
            before.source,
            before.text,
            before.history,
        )
        assert after.metadata == before.metadata
    odd = Document(id="\ud800", source="s", place="", text="half \udc00", metadata={"m": "\ud800"})
    (written,) = (run(WriteParquet(), tmp_path / "odd", [[odd]])).iterdir()
    assert written.stat().st_size > 0


@pytest.mark.parametrize("shuffle_seed", [0, 5, None])
def test_tokens_are_those_of_tokenizing_the_json_lines(tmp_path: Path, shuffle_seed: int | None) -> None:
    shards = [DOCUMENTS[:25], [], DOCUMENTS[25:26], DOCUMENTS[26:]]
    writer = WriteTokens(vocabulary_size=2_000, shuffle_seed=shuffle_seed)
    output = run(writer, tmp_path / "tokens", shards)
    assert sorted(path.name for path in output.iterdir()) == ["tokens.bin", "tokens.idx", "tokens.json"]
    assert [path.name for path in (tmp_path / "tokens/shard1").iterdir()] == []
    lines = run(WriteJsonLines(), tmp_path / "lines", shards)
    tokenize_documents([lines], tmp_path / "expected", writer.settings(), processes=1, show_progress=False)
    for ending in (".bin", ".idx"):
        assert (output / f"tokens{ending}").read_bytes() == (tmp_path / f"expected{ending}").read_bytes()


def test_a_run_without_a_document_writes_no_tokens(tmp_path: Path) -> None:
    assert list(run(WriteTokens(vocabulary_size=2_000), tmp_path, [[], []]).iterdir()) == []
