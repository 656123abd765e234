"""tools/preprocess_data.py: Megatron's option names make the dataset that `megaphi tokenize` makes, or are refused."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.test_house import ROOT


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("preprocess_data", ROOT / "tools" / "preprocess_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": f"text {number}"}) + "\n" for number in range(9)))
    return path


def test_same_files_as_the_verb(tmp_path, source, tool):
    words = ["--input", str(source), "--json-keys", "body", "--append-eod", "--workers", "1", "--vocab-size", "1024"]
    words += ["--output-prefix", str(tmp_path / "tool" / "d"), "--partitions", "2", "--log-interval", "1000"]
    assert tool.main([*words, "--tokenizer-type", "TikTokenizer", "--dataset-impl", "mmap"]) == 0
    tokenize_documents(
        [source],
        tmp_path / "verb" / "d_body_document",
        TokenizeSettings(vocabulary_size=1_024, text_key="body", shuffle_seed=None),
        processes=1,
        show_progress=False,
    )
    files = [f"d_body_document{ending}" for ending in (".bin", ".idx", ".json")]
    assert sorted(path.name for path in (tmp_path / "tool").iterdir()) == sorted(files)
    for name in files:
        assert (tmp_path / "tool" / name).read_bytes() == (tmp_path / "verb" / name).read_bytes()


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonl.gz"])
def test_every_key_is_the_dataset_that_megatron_writes(tmp_path, tool, name):
    """Byte for byte what Megatron's own builder makes of the same tokens, by Megatron's names."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    records = [{"text": f"page {number}", "title": f"Title of {number} …", "n": 1} for number in range(7)]
    content = "".join(json.dumps(record).replace("1}", "9" * 5_000 + "}") + "\n" for record in records).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    words = ["--input", str(tmp_path / name), "--output-prefix", str(tmp_path / "out" / "d"), "--append-eod"]
    words += ["--json-keys", "title", "text", "title", "--workers", "1", "--partitions", "4", "--chunk-size", "1000"]
    assert tool.main(words) == 0
    tokenizer = load_tokenizer()
    for key in ("text", "title"):
        theirs = tmp_path / f"d_{key}_document"
        builder = IndexedDatasetBuilder(f"{theirs}.bin", dtype=DType.optimal_dtype(tokenizer.vocabulary_size))
        for record in records:
            ids = [*tokenizer.encode(record[key]), tokenizer.end_of_text]
            builder.add_document(torch.tensor(ids), [len(ids)])
        builder.finalize(f"{theirs}.idx")
        for ending in (".bin", ".idx"):
            ours = tmp_path / "out" / f"d_{key}_document{ending}"
            assert ours.read_bytes() == Path(f"{theirs}{ending}").read_bytes(), (key, ending)
    assert len([*(tmp_path / "out").iterdir()]) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "add --append-eod"),
        (["--append-eod", "--split-sentences"], "--split-sentences is not supported: sentences are for BERT"),
        (["--append-eod", "--vocab-file", "v.json"], "--vocab-file is not supported"),
        (["--append-eod", "--json-keys", "body", "../b"], "--json-keys '../b': it becomes part of a file's name"),
        (["--append-eod", "--json-keys", "body", "b"], "no 'b' field"),
        (["--append-eod", "--max-documents", "10"], "--max-documents is not supported: all documents are taken"),
        (["--append-eod", "--keep-sequential-samples"], "--keep-sequential-samples is not supported"),
        (["--append-eod", "--tokenizer-type", "GPT2BPETokenizer"], "only Phi-4's is here"),
        (["--append-eod", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--append-eod", "--json-keys", "nothing"], "no 'nothing' field"),
    ],
)
def test_what_has_no_meaning_here_is_refused(tmp_path, source, tool, capsys, words, message):
    assert tool.main(["--input", str(source), "--output-prefix", str(tmp_path / "d"), *words]) == 2
    assert message in capsys.readouterr().err
    written = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("d_") and path.is_file())
    assert written == ([f"d_body_document.{ending}" for ending in ("bin", "idx", "json")] if "b" in words else [])


def test_an_option_that_nobody_knows_is_named(tmp_path, source, tool, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(["--input", str(source), "--output-prefix", str(tmp_path / "d"), "--append-eod", "--shiny", "1"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --shiny" in capsys.readouterr().err
