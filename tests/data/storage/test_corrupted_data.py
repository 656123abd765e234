"""Damaged, missing and changing data: each is one clear error that names the file and the place, and kills nothing.

A memory map of a file that has shrunk would end the process with SIGBUS: these tests would show that as a crash of
pytest.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from megaphi.data.loading.loader import open_mixture
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.data.storage.source_paths import find_datasets, natural_order, write_manifest
from megaphi.data.storage.streams import open_streams
from megaphi.errors import InputError
from megaphi.files import write_json

SETTINGS = {"tokenizer_fingerprint": "ours", "vocabulary_size": 1_000}


def write(prefix, documents, *, dtype="uint16", tokenizer="ours"):
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document(document)
        writer.finish({"tokenizer": tokenizer, "vocabulary_size": 1_000})
    return str(prefix)


def without_fingerprint(prefix):
    """Make a dataset like those whose .json does not say what its files were: damage is found where it is met."""
    path = Path(f"{prefix}.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": None}))


@pytest.fixture
def web(tmp_path):
    """A dataset of 2,000 documents of 30 tokens: an index of more than a page."""
    return write(tmp_path / "web", np.arange(60_000).reshape(2_000, 30) % 1_000)


def open_web(*paths, **fields):
    mixture = Mixture(sources=(Source(name="web", weight=1, paths=paths),), **fields)
    return open_mixture(mixture, sequence_length=64, seed=0, **SETTINGS)


def refused(*paths, match):
    with pytest.raises(InputError, match=match) as error:
        open_web(*paths)
    return str(error.value)


def test_a_truncated_bin(web):
    os.truncate(f"{web}.bin", 100_000)
    refused(web, match=r"web\.bin is truncated: it has 100,000 bytes, web\.idx describes 120,000")


def test_an_index_of_another_dataset(web, tmp_path):
    write(tmp_path / "other", [[1, 2, 3]])
    os.replace(tmp_path / "other.idx", f"{web}.idx")
    refused(web, match=r"web\.bin does not belong to its index: it has 120,000 bytes, web\.idx describes 6\.")


def test_no_documents(tmp_path):
    empty, blank = write(tmp_path / "empty", []), write(tmp_path / "blank", [[], []])
    assert f"in {empty}, {blank}" in refused(empty, blank, match=r"source 'web' has no documents")


def test_one_half_of_a_pair(web):
    os.replace(f"{web}.bin", f"{web}.elsewhere")
    refused(web, match=r"not found: .*web\.bin \(only .*web\.idx is there")
    os.replace(f"{web}.elsewhere", f"{web}.bin")
    os.unlink(f"{web}.idx")
    refused(web, match=r"not found: .*web\.idx \(only .*web\.bin is there")


def test_a_token_beyond_the_vocabulary(web):
    without_fingerprint(web)
    with open(f"{web}.bin", "r+b") as file:
        file.seek(2 * 12_345)
        file.write(struct.pack("<H", 1_000))
    opened = open_web(web)
    with pytest.raises(InputError) as error:
        opened.batch(range(opened.order.segments[0].order.windows[0]))
    assert (
        f"source 'web': {web}.bin holds token 1000 at token 12,345 (byte 24,690), but the model's vocabulary is 1000"
        in str(error.value)
    )


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64"])
def test_a_negative_token(tmp_path, dtype):
    opened = open_web(write(tmp_path / "d", [[5] * 100, [7, -3], [5] * 50], dtype=dtype))
    with pytest.raises(InputError, match=r"d\.bin holds token -3 at token 101 \(byte \d+\), but the model's"):
        opened.batch(range(2))


def test_tokens_that_shrink_while_in_use(web):
    opened, dataset = open_web(web), IndexedDataset(web)
    os.truncate(f"{web}.bin", 50_001)
    with pytest.raises(InputError, match=r"source 'web': .*web\.bin ends at or before byte [\d,]+, but its index"):
        opened.batch(range(opened.order.segments[0].order.windows[0]))
    with pytest.raises(InputError, match=r"web\.bin ends at or before byte 59,940, .*changed or cut while in use"):
        dataset.document(1_999 - 1_000)
    with pytest.raises(InputError, match=r"web\.bin ends at or before byte 54,000"):
        dataset.documents([3, 900])
    os.truncate(f"{web}.bin", 0)
    with pytest.raises(InputError, match=r"web\.bin ends at or before byte 34,"):
        dataset.tokens(17, 4)


def test_an_index_that_shrinks_while_in_use(web):
    opened, dataset = open_web(web, isolate_documents=True), IndexedDataset(web)
    os.truncate(f"{web}.idx", 40)
    for use in (lambda: opened.batch(range(4)), lambda: dataset.document(1_500), lambda: dataset.fingerprint):
        with pytest.raises(InputError, match=r"web\.idx ends at byte 40 and had 40,042 bytes when opened"):
            use()


def test_pointers_that_do_not_ascend(web):
    """Opening does not check these: the walk through a window must end, and within its row."""
    without_fingerprint(web)
    path, sequences = f"{web}.idx", 2_000
    for wrong, sequence in ((-1, 501), (1 << 60, 701), (0, 901)):
        with open(path, "r+b") as file:
            file.seek(34 + 4 * sequences + 8 * sequence)
            file.write(struct.pack("<q", wrong))
    opened = open_web(web, isolate_documents=True)
    with pytest.raises(InputError, match=r"web\.idx is corrupted: its pointers do not ascend near .* (50|70|90)\d"):
        opened.batch(range(opened.order.segments[0].order.windows[0]))
    with pytest.raises(InputError, match=r"web\.idx is corrupted: document 701 is not in the \.bin"):
        IndexedDataset(web).document(701)


def test_files_that_are_none(web):
    os.unlink(f"{web}.bin")
    Path(f"{web}.bin").mkdir()
    refused(web, match=r"cannot read the dataset file .*web\.bin: it is not a regular file")
    Path(f"{web}.bin").rmdir()
    os.mkfifo(f"{web}.bin")
    refused(web, match=r"cannot read the dataset file .*web\.bin: it is not a regular file")


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.EACCES, r"web\.idx: Permission denied"), (errno.EMFILE, r"web\.idx: Too many open files.*ulimit -n")],
)
def test_files_that_may_not_be_opened(web, monkeypatch, number, message):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=message):
        IndexedDataset(web)


def test_too_many_files(tmp_path):
    """By the system's own limit: what was opened before is closed again."""
    import resource

    for number in range(40):
        write(tmp_path / f"web_{number}", [[1] * 100])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 25, hard))
    try:
        refused(str(tmp_path / "web_*"), match=r"Too many open files\. Every dataset keeps two files open.*ulimit -n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert open_web(str(tmp_path / "web_*")).streams[0].token_count == 4_000


def test_an_error_of_the_disk_is_told(web, monkeypatch):
    opened = open_web(web)
    os.close(opened.streams[0].datasets[0].files.data.descriptor)
    folder = os.open(os.path.dirname(web), os.O_RDONLY)  # noqa: PTH120 (takes the number that was closed)
    with pytest.raises(InputError, match=r"source 'web': cannot read .*web\.bin at byte \d.*: Is a directory"):
        opened.batch([0])
    assert folder == opened.streams[0].datasets[0].files.data.descriptor


def test_mixed_dtypes_are_one_source_and_mixed_tokenizers_are_not(tmp_path):
    narrow = write(tmp_path / "narrow", [[1, 2, 3] * 20])
    wide = write(tmp_path / "wide", [[4, 5, 6] * 20], dtype="int32")
    other = write(tmp_path / "other", [[7, 8, 9] * 20], tokenizer="another one")
    row = open_web(narrow, wide).batch([0]).tokens_BS[0].tolist()
    assert set(row) == {1, 2, 3, 4, 5, 6}
    message = refused(narrow, other, match=r"source 'web' mixes tokenizers")
    assert f"{narrow} was made with fingerprint ours, {other} with another one" in message


def find(*entries):
    return [dataset.path for dataset in find_datasets(entries, source="web", remote=None)]


def test_globs_count_numbers_as_numbers(tmp_path, caplog):
    for name in ("web_10", "web_9", "web_2.b3", "web_2.b12", "code_1"):
        write(tmp_path / name, [[1]])
    (tmp_path / "web_77.bin").write_bytes(b"")
    names = [prefix.rpartition("/")[2] for prefix in find(f"{tmp_path}/web_*")]
    assert names == ["web_2.b3", "web_2.b12", "web_9", "web_10"]
    assert "web_77.bin has no .idx: left out" in caplog.text
    assert find(f"{tmp_path}/code_1", f"{tmp_path}/web_[29]*")[1:] == [f"{tmp_path}/{name}" for name in names[:3]]
    assert sorted(["a01", "a1", "a1b", "a"], key=natural_order) == ["a", "a01", "a1", "a1b"]


def test_paths_that_name_nothing_or_the_same_twice(web, tmp_path):
    refused(f"{tmp_path}/code_*", match=r"source 'web': no dataset matches .*/code_\* \(looked for .*/code_\*\.idx\)")
    refused(web, f"{tmp_path}/./we*", match=r"source 'web' names the dataset .*web twice")
    strange = write(tmp_path / "web[1]*.txt", [[1] * 80])
    assert find(strange) == [strange]  # a file of this name goes before a pattern


def test_manifests(web, tmp_path):
    code = write(tmp_path / "code", [[1, 2] * 40])
    (tmp_path / "lists").mkdir()
    manifest = tmp_path / "lists" / "all.manifest.json"
    write_manifest(manifest, [web, code])
    assert [os.path.normpath(prefix) for prefix in find(str(manifest))] == [web, code]
    assert open_web(str(manifest)).streams[0].token_count == 60_080
    (tmp_path / "all.txt").write_text("# all of it\nweb  # the web\n\ncode\n")
    assert find(f"{tmp_path}/all.txt") == [web, code]
    write(tmp_path / "code", [[1, 3] * 40])
    refused(str(manifest), match=r"code has the fingerprint \w{12}, .*all\.manifest\.json says \w{12}: it is another")
    write(tmp_path / "code", [[1, 2] * 50])
    refused(str(manifest), match=r"code has 100 tokens, .*all\.manifest\.json says 80: it is another dataset")
    with pytest.raises(InputError, match=r"must end with \.manifest\.json"):
        write_manifest(tmp_path / "list.json", [web])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"is corrupted: Expecting property name .* at character 2"),
        ("[]", r"must be an object with a list"),
        ('{"datasets": "web"}', r"must be an object with a list"),
        ('{"datasets": []}', r"lists no datasets"),
        ('{"datasets": ["web", 3]}', r"is corrupted: datasets\[1\] must be a prefix"),
        ('{"datasets": [{"prefix": "web", "tokens": "7"}]}', r"is corrupted: datasets\[0\]"),
        ('{"datasets": [{"prefix": "web", "token": 7}]}', r"is corrupted: datasets\[0\]"),
        (b'{"datasets": ["\xff"]}', r"is corrupted: byte 15 is not UTF-8"),
    ],
)
def test_damaged_manifests(tmp_path, content, message):
    path = tmp_path / "all.manifest.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(str(path), match=rf"manifest .*all\.manifest\.json {message}")


def test_manifests_that_are_not_there(tmp_path):
    refused(f"{tmp_path}/all.manifest.json", match=r"manifest not found: .*all\.manifest\.json")
    (tmp_path / "d.txt").mkdir()
    refused(f"{tmp_path}/d.txt", match=r"d\.txt cannot be read: it is a folder")


def test_a_source_may_have_a_thousand_datasets(tmp_path):
    """Opening one costs less than a millisecond; two descriptors each."""
    first = write(tmp_path / "web_0", [[1, 2, 3, 4]] * 30)
    for number in range(1, 300):
        for ending in (".bin", ".idx", ".json"):
            os.link(first + ending, tmp_path / f"web_{number}{ending}")
    (stream,) = open_streams({"web": [f"{tmp_path}/web_*"]}, **SETTINGS)
    assert stream.token_count == 300 * 120
    write_json(tmp_path / "web_200.json", {"tokenizer": "another"})
    with pytest.raises(
        InputError, match=r"mixes tokenizers: .*web_0 was made with fingerprint ours, .*web_200 with an"
    ):
        open_streams({"web": [f"{tmp_path}/web_*"]}, **SETTINGS)
