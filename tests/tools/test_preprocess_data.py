"""tools/preprocess_data.py: Megatron's option names make the dataset that `megaphi tokenize` makes, or are refused."""

from __future__ import annotations

import importlib.util
import json

import pytest

from megaphi.data.tokenize_documents import tokenize_documents
from tests.test_house import ROOT


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("preprocess_data", ROOT / "tools" / "preprocess_data.py")
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
        tmp_path / "verb" / "d",
        vocabulary_size=1_024,
        text_key="body",
        shuffle_seed=None,
        processes=1,
        show_progress=False,
    )
    for ending in (".bin", ".idx", ".json"):
        assert (tmp_path / "tool" / f"d{ending}").read_bytes() == (tmp_path / "verb" / f"d{ending}").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "add --append-eod"),
        (["--append-eod", "--split-sentences"], "--split-sentences is not supported: sentences are for BERT"),
        (["--append-eod", "--vocab-file", "v.json"], "--vocab-file is not supported"),
        (["--append-eod", "--json-keys", "a", "b"], "one dataset holds one field"),
        (["--append-eod", "--tokenizer-type", "GPT2BPETokenizer"], "only Phi-4's is here"),
        (["--append-eod", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--append-eod", "--json-keys", "nothing"], "no 'nothing' field"),
    ],
)
def test_what_has_no_meaning_here_is_refused(tmp_path, source, tool, capsys, words, message):
    assert tool.main(["--input", str(source), "--output-prefix", str(tmp_path / "d"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d.idx").exists()
