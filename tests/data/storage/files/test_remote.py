"""Datasets in object storage against the same datasets on disk: same bytes, few requests, and every kind of failure.

`Bucket` is fsspec's in-memory file system that counts requests and fails as told: a stand-in for a store that is slow,
cuts answers short, or has its objects replaced. memory:// and file:// URLs are read as well.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem

from megaphi.data.loading.loader import open_mixture
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.files import block_cache
from megaphi.data.storage.files.block_cache import BlockCache
from megaphi.data.storage.files.remote import RemoteReading, RemoteStore, check_remote_reading
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.data.storage.streams import open_stream
from megaphi.errors import InputError
from tests.test_house import ROOT

BLOCK = 4_096


class Bucket(MemoryFileSystem):
    """bucket://name: requests are counted, and answered by `answer` instead where one is set."""

    protocol = "bucket"
    store: dict = {}  # noqa: RUF012 (fsspec keeps its files so)
    pseudo_dirs = [""]  # noqa: RUF012
    requests: Counter = Counter()  # noqa: RUF012
    counting = threading.Lock()
    answer = None

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("bucket://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        name = self._strip_protocol(path)
        with Bucket.counting:  # += reads and writes, and threads ask at the same time
            Bucket.requests[name] += 1
        content = super().cat_file(path, start=start, end=end, **kwargs)
        return content if Bucket.answer is None else Bucket.answer(name, start, content)


register_implementation("bucket", Bucket, clobber=True)


@pytest.fixture
def bucket(tmp_path):
    """Three datasets of 60,000 tokens, in the bucket and on disk."""
    Bucket.store.clear()
    Bucket.requests.clear()
    Bucket.answer = None
    for number in range(3):
        draw = np.random.default_rng(number)
        with IndexedDatasetWriter(tmp_path / f"web_{number}", "uint16" if number else "int32") as writer:
            writer.add_documents(draw.integers(0, 900, 60_000), [30] * 2_000)
            writer.finish({"tokenizer": "ours"})
        upload(tmp_path / f"web_{number}")
    return tmp_path


def upload(prefix):
    for ending in (".bin", ".idx", ".json"):
        Bucket().pipe_file(f"/pool/{prefix.name}{ending}", (prefix.parent / (prefix.name + ending)).read_bytes())


def settings(tmp_path, **changes):
    fields = {"cache_folder": str(tmp_path / "cache"), "block_bytes": BLOCK, "first_wait_seconds": 0.001, "attempts": 3}
    return RemoteReading(**{**fields, **changes})


def open_web(path, tmp_path, **changes):
    source = Source(name="web", weight=1, paths=(path,))
    mixture = Mixture(sources=(source,), isolate_documents=True, remote=settings(tmp_path, **changes))
    return open_mixture(mixture, sequence_length=200, seed=0, tokenizer_fingerprint="ours", vocabulary_size=900)


def fingerprints(mixture):
    return [dataset.fingerprint for datasets in mixture.datasets().values() for dataset in datasets]


def assert_same(ours, theirs, numbers):
    one, other = ours.batch(numbers), theirs.batch(numbers)
    assert (one.tokens_BS == other.tokens_BS).all()
    assert (one.labels_BS == other.labels_BS).all()
    assert (one.document_ids_BS == other.document_ids_BS).all()


def test_batches_are_those_of_local_files(bucket):
    """And so are fingerprints: a run may go on from the other copy. Fetched once, nothing is asked for again."""
    remote, local = open_web("bucket://pool/web_*", bucket), open_web(f"{bucket}/web_*", bucket)
    numbers = np.arange(local.order.segments[0].order.windows[0])
    assert_same(remote, local, numbers)
    assert fingerprints(remote) == fingerprints(local)
    blocks = [-(-size // BLOCK) for size in (240_000, 120_000, 120_000)]
    assert [Bucket.requests[f"/pool/web_{number}.bin"] for number in range(3)] == [count + 1 for count in blocks]
    Bucket.requests.clear()
    again = open_web("bucket://pool/web_*", bucket)
    assert_same(again, local, numbers)
    assert fingerprints(again) == fingerprints(local)
    assert set(Bucket.requests) == {f"/pool/web_{number}.json" for number in range(3)}


def test_a_batch_fetches_the_blocks_it_needs_and_no_others(bucket):
    remote = open_web("bucket://pool/web_1", bucket)
    Bucket.requests.clear()
    runs = remote.reader.windows([0], [3_000], 4_000)  # bytes 6,000 to 14,000: blocks 1 to 3
    remote.reader.read(runs, rows=1, count=4_000, vocabulary_size=900)
    assert Bucket.requests == {"/pool/web_1.bin": 3}


def test_documents_tokens_and_descriptions(bucket):
    dataset = IndexedDataset("bucket://pool/web_0", files=RemoteStore(settings(bucket)).open("bucket://pool/web_0"))
    local = IndexedDataset(bucket / "web_0")
    tokens, lengths = dataset.documents([1_999, 0, 34])
    assert (tokens == np.concatenate([local.document(number) for number in (1_999, 0, 34)])).all()
    assert lengths.tolist() == [30] * 3
    assert (dataset.tokens(1_000, 5_000) == local.tokens(1_000, 5_000)).all()
    assert dataset.description == {"tokenizer": "ours", "fingerprint": local.fingerprint}
    Bucket().rm_file("/pool/web_0.json")
    again = IndexedDataset("bucket://pool/web_0", files=RemoteStore(settings(bucket)).open("bucket://pool/web_0"))
    assert again.description is None


def test_other_file_systems_of_fsspec(bucket):
    local = open_web(f"{bucket}/web_*", bucket)
    MemoryFileSystem.store.clear()
    for name, file in Bucket.store.items():
        MemoryFileSystem().pipe_file(name, file.getvalue())
    MemoryFileSystem().pipe_file("/pool/all.txt", b"web_0\nweb_1\nweb_2\n")
    for place, path in enumerate((f"file://{bucket}/web_*", "memory://pool/web_*", "memory://pool/all.txt")):
        assert_same(open_web(path, bucket / str(place)), local, np.arange(20))
    with pytest.raises(InputError, match=r"cannot open nowhere://pool/web_1\.idx: .*nowhere"):
        open_web("nowhere://pool/web_1", bucket)
    with pytest.raises(InputError, match=r"no dataset matches memory://pool/code_\*"):
        open_web("memory://pool/code_*", bucket)
    with pytest.raises(InputError, match=r"dataset file not found: memory://pool/code\.idx"):
        open_web("memory://pool/code", bucket)
    with pytest.raises(InputError, match=r"manifest not found: memory://pool/none\.txt"):
        open_web("memory://pool/none.txt", bucket)


def test_failures_that_pass(bucket):
    """Errors and cut answers, twice for every request: the third attempt is right."""
    failures = Counter()

    def answer(name, start, content):
        failures[name, start] += 1
        if failures[name, start] == 1:
            raise TimeoutError("slow down")
        return content[:-1] if failures[name, start] == 2 else content

    remote, local = open_web("bucket://pool/web_1", bucket), open_web(f"{bucket}/web_1", bucket)
    Bucket.answer = answer
    assert_same(remote, local, np.arange(10))
    assert set(failures.values()) == {3}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("reset"), r"cannot read .*web_1\.bin at byte [\d,]+: ConnectionError: reset \(3 attempts\)"),
        (None, r"cannot read .*web_1\.bin at byte [\d,]+: ConnectionError: 99 bytes came instead of [\d,]+ \(3 att"),
        (PermissionError("no"), r"cannot read .*web_1\.bin at byte [\d,]+: permission denied \(no\)\. Check the cred"),
        (FileNotFoundError("no"), r"web_1\.bin is gone: it was deleted while in use"),
    ],
)
def test_failures_that_stay(bucket, error, message):
    def answer(name, start, content):
        if error is not None:
            raise error
        return content[:99]

    remote = open_web("bucket://pool/web_1", bucket)
    Bucket.answer = answer
    with pytest.raises(InputError, match=message):
        remote.batch([0])
    Bucket.answer = None
    assert_same(remote, open_web(f"{bucket}/web_1", bucket), np.arange(5))


def test_a_replaced_object_is_not_mixed_with_the_old_one(bucket):
    remote = open_web("bucket://pool/web_1", bucket)
    remote.batch(np.arange(3))
    with IndexedDatasetWriter(bucket / "web_1", "uint16") as writer:
        writer.add_documents(np.full(60_000, 7), [30] * 2_000)
        writer.finish({"tokenizer": "ours"})
    upload(bucket / "web_1")
    with pytest.raises(InputError, match=r"web_1\.bin was replaced by another version while in use"):
        remote.batch(np.arange(200))
    assert (open_web("bucket://pool/web_1", bucket).batch(np.arange(200)).tokens_BS == 7).all()


def cached(tmp_path, suffix=""):
    return sorted(path for path in (tmp_path / "cache").glob("*/*") if path.parent.name != "locks")


@pytest.mark.parametrize("how", ["short", "flipped", "empty", "no mark"])
def test_damaged_cache_files_are_fetched_again(bucket, how):
    local, numbers = open_web(f"{bucket}/web_*", bucket), np.arange(50)
    open_web("bucket://pool/web_*", bucket).batch(numbers)
    for path in cached(bucket):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= how == "flipped"
        content[-16] ^= how == "no mark"
        path.write_bytes(content[: {"short": -1, "empty": 0}.get(how, len(content))])
    Bucket.requests.clear()
    assert_same(open_web("bucket://pool/web_*", bucket), local, numbers)
    assert Bucket.requests["/pool/web_0.bin"] >= 5


def test_a_cache_that_is_emptied_while_in_use(bucket):
    remote, local = open_web("bucket://pool/web_*", bucket), open_web(f"{bucket}/web_*", bucket)
    for first in (0, 50):
        assert_same(remote, local, np.arange(first, first + 50))
        shutil.rmtree(bucket / "cache")


def test_reading_ahead(bucket):
    """Blocks announced to `prepare` are there when they are read; more than the limit is not even begun."""
    remote = open_web("bucket://pool/web_*", bucket, read_ahead_blocks=8)
    slow = threading.Event()
    Bucket.answer = lambda name, start, content: (slow.wait(10), content)[1]
    Bucket.requests.clear()
    remote.prepare(np.arange(600))
    slow.set()
    limit = time.monotonic() + 20
    while sum(path.name.isdigit() for path in cached(bucket)) < 8 and time.monotonic() < limit:
        time.sleep(0.01)
    assert sum(Bucket.requests.values()) == 8
    Bucket.answer = None
    assert_same(remote, open_web(f"{bucket}/web_*", bucket), np.arange(600))


def test_reading_ahead_never_fails_by_itself(bucket):
    remote = open_web("bucket://pool/web_1", bucket, attempts=1)

    def answer(name, start, content):
        raise TimeoutError("never")

    Bucket.answer = answer
    remote.prepare(np.arange(5))
    with pytest.raises(InputError, match=r"web_1\.bin at byte [\d,]+: TimeoutError: never"):
        remote.batch(np.arange(5))


def test_the_cache_stays_within_its_limit(bucket, monkeypatch):
    """A fifth of the data: batches are right all the same, and what was read last is still there."""
    monkeypatch.setattr(block_cache, "SECONDS_BETWEEN_NOTES", 0.0)
    limit = 24 * (BLOCK + 16)
    remote = open_web("bucket://pool/web_*", bucket, cache_bytes=limit)
    local, windows = open_web(f"{bucket}/web_*", bucket), remote.order.segments[0].order.windows[0]
    for first in range(0, windows, 60):
        assert_same(remote, local, np.arange(first, min(first + 60, windows)))
        used = sum(path.stat().st_size for path in cached(bucket))
        assert used <= limit
        assert used <= int((bucket / "cache" / "bytes").read_text()) <= limit
    remote.batch([windows - 1])
    Bucket.requests.clear()
    remote.batch([windows - 1])
    assert not Bucket.requests


def test_least_recently_read_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(block_cache, "SECONDS_BETWEEN_NOTES", 0.0)
    cache = BlockCache(tmp_path, limit_bytes=10 * 1_016)
    abandoned = tmp_path / "d" / ".1.x.partial"
    for name in ("index", *map(str, range(9))):
        os.close(cache.store(f"d/{name}", [b"x" * 500, b"y" * 500]))
        time.sleep(0.01)
    abandoned.write_bytes(b"z")
    os.utime(abandoned, (1, 1))
    for name in ("0", "3"):
        os.close(cache.open(f"d/{name}", size=1_000))
    os.close(cache.store("d/9", [b"z" * 1_000]))
    kept = {path.name for path in (tmp_path / "d").iterdir()}
    assert kept == {"index", "0", "3", *map(str, range(4, 10))} - {"1", "2"}
    assert cache.open("d/1", size=1_000) is None
    assert cache.open("d/9", size=999) is None  # another size is another file
    with pytest.raises(InputError, match=r"cannot read the cached file .*locks"):
        BlockCache(tmp_path, limit_bytes=9).open("bytes/locks", size=1)


def test_what_was_just_stored_outlives_what_was_read_before(tmp_path, monkeypatch):
    """Times of reading are of one clock: the file system's may lag behind it, and the newest file would go first."""
    monkeypatch.setattr(block_cache, "SECONDS_BETWEEN_NOTES", 0.0)
    moments = itertools.count(time.time() + 60)
    monkeypatch.setattr(block_cache.time, "time", lambda: next(moments))
    cache = BlockCache(tmp_path, limit_bytes=10 * 1_016)
    for name in map(str, range(10)):
        os.close(cache.store(f"d/{name}", [b"x" * 1_000]))
    for name in map(str, range(1, 10)):
        os.close(cache.open(f"d/{name}", size=1_000))
    os.close(cache.store("d/10", [b"z" * 1_000]))
    assert {path.name for path in (tmp_path / "d").iterdir()} == {*map(str, range(2, 11))}


IN_ANOTHER_PROCESS = """
import sys
from datetime import datetime
from pathlib import Path
import numpy as np
from tests.data.storage.files import test_remote
folder, requests = sys.argv[1:]
path = Path(requests)
def answer(name, start, content):
    with open(path, "a") as file:
        file.write(f"{name} {start} {len(content)}\\n")
    return content
for number in range(3):
    test_remote.upload(Path(folder) / f"web_{number}")
    for ending in (".bin", ".idx", ".json"):
        test_remote.Bucket.store[f"/pool/web_{number}{ending}"].created = datetime(2026, 1, 1)
test_remote.Bucket.answer = answer
remote = test_remote.open_web("bucket://pool/web_*", Path(folder))
local = test_remote.open_web(f"{folder}/web_*", Path(folder))
test_remote.assert_same(remote, local, np.arange(300))
"""


def test_processes_share_the_cache(bucket):
    """Three at once, as the ranks of one model copy: every block is fetched by one of them."""
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(bucket), str(bucket / "requests")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env=environment, cwd=ROOT) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    asked = Counter(line for line in (bucket / "requests").read_text().splitlines() if "json" not in line)
    assert len(asked) >= 60
    assert set(asked.values()) == {1}


def test_settings_that_cannot_work(tmp_path):
    for changes, message in [
        ({"block_bytes": 4_100}, r"block_bytes=4100"),
        ({"block_bytes": 512}, r"block_bytes=512"),
        ({"cache_bytes": 0}, r"cache_bytes=0: must be at least 1"),
        ({"attempts": 0}, r"attempts=0: must"),
        ({"connections": 0}, r"connections=0: must"),
        ({"read_ahead_blocks": -1}, r"read_ahead_blocks=-1: must be at least 0"),
    ]:
        with pytest.raises(InputError, match=message):
            check_remote_reading(RemoteReading(**changes))


def test_local_sources_need_no_fsspec(bucket, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert open_stream([f"{bucket}/web_*"], name="web", remote=RemoteStore()).token_count == 180_000
    with pytest.raises(InputError, match=r"bucket://pool/web_1\.idx needs fsspec, .*pip install 'megaphi\[remote\]'"):
        open_web("bucket://pool/web_1", bucket)
