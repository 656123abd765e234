"""One protocol behind a source: the same tokens in every format are the same batches, and what is no tokens is refused.

The pair of .bin and .idx is the measure: each other format holds the same corpus, written here by NumPy or by hand, and
must give its batches to the bit. Documents end with a token of their own, so an index and a search for it must agree.
"""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.cli import main
from megaphi.cli.inspect import dataset as inspect_dataset
from megaphi.data.loading.continuation import continue_run
from megaphi.data.loading.loader import batch_sample_numbers
from megaphi.data.order.ledger import read_ledger
from megaphi.data.order.mixture import Mixture, Share, Source, Stage
from megaphi.data.order.schedule import lay_out_stages
from megaphi.data.storage.files.remote import RemoteReading
from megaphi.data.storage.files.token_files import LocalTokens, open_to_read
from megaphi.data.storage.formats import dataset_formats
from megaphi.data.storage.formats.dataset_formats import open_dataset
from megaphi.data.storage.formats.flat_tokens import FlatTokens
from megaphi.data.storage.formats.token_dataset import DatasetFormat, TokenLayout
from megaphi.data.storage.reader import TokenReader
from megaphi.data.storage.source_paths import find_datasets, write_manifest
from megaphi.data.storage.streams import TokenStream
from megaphi.errors import InputError
from tests.data.token_forms import END, FORMS, OWN, VOCABULARY, assert_same, mixture_of, opened, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("formats"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", ["training", "validation"])
def test_batches_are_those_of_the_pair_for_any_number_of_replicas(corpus, form, split):
    pair, other = opened(mixture_of(corpus, "pair"), split=split), opened(mixture_of(corpus, form), split=split)
    assert [len(stream.datasets) for stream in other.streams] == ([3, 1] if split == "training" else [1, 1])
    for replicas, micro_batch in ((1, 12), (2, 3), (3, 4)):
        for replica in range(replicas):
            dealt = {"global_batch": 12, "replica": replica, "replicas": replicas, "micro_batch": micro_batch}
            for numbers in batch_sample_numbers(3, **dealt):
                assert_same(pair.batch(numbers), other.batch(numbers))
    numbers = np.random.default_rng(0).permutation(500)
    assert_same(pair.batch(numbers), other.batch(numbers))


STAGES = (
    Stage(name="broad", tokens=16 * 12 * 6),
    Stage(name="late", sequence_length=32, shares=(Share(name="code", weight=2), Share(name="web", weight=1))),
)


@pytest.mark.parametrize("form", FORMS)
def test_a_run_goes_on_from_its_ledger_across_a_change_of_stage(corpus, form):
    """Unchanged, the next batch is the next one; with edited weights, it is the pair's with the same edit."""
    ways = {}
    for name in ("pair", form):
        mixture = mixture_of(corpus, name, stages=STAGES)
        spans = lay_out_stages(mixture, steps=12, sequence_length=16, global_batch=12)
        data = opened(mixture, stages=spans)
        kept = read_ledger({"ledger": data.ledger(4).to_json()}, where="here")
        position = data.order.position_at(4)
        rules = {"position": position, "accept_changed_data": False, "where": "here"}
        same = continue_run(kept, opened(mixture, stages=spans), **rules)
        resumed = data.at(same.origin, same.cursors)
        for step in (4, 5, 6, 11):  # the stage changes between 5 and 6
            first = data.order.position_at(step).sample
            assert_same(data.batch(range(first, first + 12)), resumed.batch(range(first, first + 12)))
        lighter = dataclasses.replace(mixture.sources[0], weight=1)
        edited = dataclasses.replace(mixture, sources=(lighter, *mixture.sources[1:]))
        spans = lay_out_stages(edited, steps=12, sequence_length=16, global_batch=12)
        fresh = opened(edited, stages=spans)
        new = continue_run(kept, fresh, **rules)
        assert "was edited" in new.notes[0]
        ways[name] = data, fresh.at(new.origin, new.cursors), position.sample
    (pair, edited_pair, first), (other, edited_other, _) = ways["pair"], ways[form]
    for numbers in (range(12), range(first, first + 20), range(100, 140)):
        assert_same(pair.batch(numbers), other.batch(numbers))
    assert_same(edited_pair.batch(range(first, first + 20)), edited_other.batch(range(first, first + 20)))


def test_a_run_does_not_go_on_with_other_tokens_or_another_dtype(corpus, tmp_path):
    tokens = np.random.default_rng(0).integers(2, VOCABULARY, 4_000)
    np.save(tmp_path / "d.npy", tokens.astype("u2"))
    mixture = Mixture(sources=(Source(name="web", weight=1, paths=(f"{tmp_path}/d.npy",)),))
    data = opened(mixture)
    ledger, rules = data.ledger(2), {"position": data.order.position_at(2), "accept_changed_data": False, "where": "it"}
    np.save(tmp_path / "moved.npy", tokens.astype("u2"))
    moved = Mixture(sources=(Source(name="web", weight=1, paths=(f"{tmp_path}/moved.npy",)),))
    continue_run(ledger, opened(moved), **rules)
    tokens[2_000] += 1
    np.save(tmp_path / "d.npy", tokens.astype("u2"))
    with pytest.raises(InputError, match=r"source 'web': .*d\.npy has other contents"):
        continue_run(ledger, opened(mixture), **rules)
    tokens.astype("u2").tofile(tmp_path / "d.bin")
    as_one = open_dataset(f"{tmp_path}/d.bin", layout=TokenLayout(dtype="uint16"))
    as_other = FlatTokens("d", as_one.data, np.dtype("<i2"), token_count=4_000)
    assert as_one.fingerprint != as_other.fingerprint


TOKENS = st.lists(st.integers(0, 40), min_size=1, max_size=60)


@given(parts=st.lists(TOKENS, min_size=1, max_size=3), count=st.integers(1, 40), draw=st.data())
@settings(max_examples=40, deadline=None)
def test_any_range_and_its_documents_are_those_of_plain_lists(tmp_path_factory, parts, count, draw):
    """Rings of one to three datasets; 0 ends documents, of which some are empty, and some end with the dataset."""
    folder = tmp_path_factory.mktemp("ranges")
    (folder / "own.py").write_text(OWN)
    stream, documents = [], []
    for number, tokens in enumerate(parts):
        np.save(folder / f"{number}.npy", np.array(tokens, "u4"))
        np.array(tokens, "u2").tofile(folder / f"{number}.bin")
        stream += tokens
        documents += [(number, tokens[:place].count(0)) for place in range(len(tokens))]
    places = draw.draw(st.lists(st.integers(0, 2 * len(stream)), max_size=6))
    paths = {"npy": "{}/{}.npy", "bin": "{}/{}.bin", "own": "{0}/own.py:Shards:{0}/{1}.bin"}
    for name, path in paths.items():
        layout = TokenLayout(dtype="uint16" if name == "bin" else None, document_end=0)
        datasets = [open_dataset(path.format(folder, number), layout=layout) for number in range(len(parts))]
        for dataset, tokens in zip(datasets, parts, strict=True):
            start = draw.draw(st.integers(0, len(tokens)))
            more = draw.draw(st.integers(0, len(tokens) - start))
            assert dataset.tokens(start, more).tolist() == tokens[start : start + more]
            with pytest.raises(IndexError):
                dataset.tokens(start, len(tokens) - start + 1)
        reader = TokenReader([TokenStream(tuple(datasets))])
        runs, shape = reader.windows(np.zeros(len(places)), places, count), {"rows": len(places), "count": count}
        (inputs, labels), ids = reader.read(runs, **shape, vocabulary_size=41), reader.document_ids(runs, **shape)
        for row, start in enumerate(places):
            ring = [(start + place) % len(stream) for place in range(count)]
            assert inputs[row].tolist() == [stream[place] for place in ring[:-1]]
            assert labels[row].tolist() == [stream[place] for place in ring[1:]]
            changes = [documents[one] != documents[two] or two == 0 for one, two in pairwise(ring)]
            assert ids[row].tolist() == [0, *np.cumsum(changes).tolist()]
        for dataset in datasets:
            dataset.close()


@pytest.mark.parametrize("field", ["isolate_documents", "reset_positions", "mask_document_ends"])
def test_documents_that_nothing_tells_apart_are_refused(corpus, field):
    source = Source(name="web", weight=1, paths=(f"{corpus}/code.u2.npy",))
    opened(Mixture(sources=(source,)))
    where = r"task\.mixture\.sources\.web\.document_end"
    with pytest.raises(InputError, match=rf"task\.mixture\.{field}=true: .*npy .*{where}"):
        opened(Mixture(sources=(source,), **{field: True}))
    beyond = dataclasses.replace(source, document_end=VOCABULARY)
    with pytest.raises(InputError, match=r"document_end=1000, but the model's vocabulary is 1000"):
        opened(Mixture(sources=(beyond,)))


def test_an_end_of_documents_that_never_comes_is_doubted(corpus, tmp_path, caplog):
    np.save(tmp_path / "d.npy", np.full(500, 7, "u2"))
    source = Source(name="web", weight=1, paths=(f"{tmp_path}/d.npy",), document_end=END)
    opened(Mixture(sources=(source,), isolate_documents=True))
    assert "task.mixture.sources.web.document_end=1: not among the first 500 tokens" in caplog.text


def test_what_a_pair_says_itself_is_not_said_again(corpus):
    for said in ({"dtype": "uint16"}, {"document_end": END}):
        with pytest.raises(InputError, match=r"code\.idx says itself w.* leave the source's"):
            opened(Mixture(sources=(Source(name="web", weight=1, paths=(f"{corpus}/code",), **said),)))
    half = Source(name="web", weight=1, paths=(f"{corpus}/code.bin",), dtype="uint16")
    with pytest.raises(InputError, match=r"code\.bin has an index beside it"):
        opened(Mixture(sources=(half,)))


def test_megatrons_order_needs_an_index(corpus):
    mixture = mixture_of(corpus, "numpy uint16", order="megatron")
    mixture = dataclasses.replace(mixture, sources=mixture.sources[1:])
    with pytest.raises(InputError, match=r"source 'code': task\.mixture\.order=megatron .*code\.u2\.npy has none"):
        opened(mixture, total_samples=20)


def test_globs_manifests_and_home(corpus, monkeypatch):
    found = find_datasets([f"{corpus}/web_*.u2.npy"], source="web", remote=None)
    assert [one.path.rpartition("/")[2] for one in found] == ["web_1.u2.npy", "web_2.u2.npy", "web_10.u2.npy"]
    assert len(find_datasets([f"{corpus}/web_?.u4.bin"], source="web", remote=None)) == 2
    assert len(find_datasets([f"{corpus}/web_*"], source="web", remote=None)) == 3, "pairs only"
    own = f"{corpus}/own.py:Shards:{corpus}/web_*.txt"
    assert [one.path for one in find_datasets([own], source="web", remote=None)] == [own], "the class's to understand"
    with pytest.raises(InputError, match=r"no dataset matches .*none_\*\.npy"):
        find_datasets([f"{corpus}/none_*.npy"], source="web", remote=None)
    write_manifest(corpus / "all.manifest.json", [corpus / "web_1.u2.npy", corpus / "code"])
    listed = Source(name="web", weight=1, paths=(f"{corpus}/all.manifest.json",))
    assert opened(Mixture(sources=(listed,))).streams[0].token_count > 0
    monkeypatch.setenv("HOME", str(corpus))
    home = Mixture(sources=(Source(name="web", weight=1, paths=("~/web_1.u2.npy",)),))
    from megaphi.config import from_plain, to_plain

    assert opened(from_plain(Mixture, to_plain(home))).streams[0].token_count > 0


def test_object_storage_gives_the_batches_of_the_disk(corpus, tmp_path, monkeypatch):
    MemoryFileSystem.store.clear()
    remote = RemoteReading(cache_folder=str(tmp_path / "cache"), block_bytes=4_096)
    for name in ("code.u2.npy", "code.u2.bin", "code.llmc.bin"):
        fields = {"dtype": "uint16"} if name.endswith(".bin") else {}
        MemoryFileSystem().pipe_file(f"/pool/{name}", (corpus / name).read_bytes())
        both = []
        for path in (f"memory://pool/{name}", f"{corpus}/{name}"):
            source = Source(name="code", weight=1, paths=(path,), document_end=END, **fields)
            both.append(opened(Mixture(sources=(source,), isolate_documents=True, remote=remote)))
        one, other = (data.batch(range(40)) for data in both)
        assert (one.tokens_BS == other.tokens_BS).all()
        assert (one.document_ids_BS == other.document_ids_BS).all()
        one, other = (data.datasets()["code"][0].fingerprint for data in both)
        assert one == other
        reader, told = both[0].reader, []
        monkeypatch.setattr(reader.datasets[0].data, "prepare", lambda *runs, told=told: told.append(runs))
        reader.prepare(reader.windows([0], [100], 16))
        assert [[run.tolist() for run in runs] for runs in told] == [[[reader.datasets[0].first_byte + 200], [32]]]
    MemoryFileSystem().pipe_file("/pool/code.u2.idx", b"")
    both = Source(name="code", weight=1, paths=("memory://pool/code.u2.bin",), dtype="uint16")
    with pytest.raises(InputError, match="has an index beside it"):
        opened(Mixture(sources=(both,), remote=remote))
    own = Source(name="code", weight=1, paths=("s3://bucket/own.py:Shards",))
    with pytest.raises(InputError, match="not from a URL"):
        opened(Mixture(sources=(own,)))


def test_a_format_of_ones_own_is_one_line(corpus, tmp_path, monkeypatch):
    """A file of bytes behind a line of text: nothing else knows of it, and it is read, reported and resumed."""

    def open_bytes(path, layout, remote):
        data = LocalTokens(tmp_path / path, open_to_read(tmp_path / path, hint=lambda: "none"))
        end, count = layout.document_end, data.size - 5
        return FlatTokens(path, data, np.dtype("u1"), first_byte=5, token_count=count, document_end=end)

    ours = DatasetFormat(lambda path: path.endswith(".bytes"), lambda path: path, open_bytes)
    monkeypatch.setattr(dataset_formats, "FORMATS", (ours, *dataset_formats.FORMATS))
    (tmp_path / "d.bytes").write_bytes(b"head\n" + bytes(range(200)))
    source = Source(name="web", weight=1, paths=(f"{tmp_path}/*.bytes",), document_end=9)
    data = opened(Mixture(sources=(source,), isolate_documents=True), sequence_length=199)
    batch = data.batch([0])
    assert sorted(batch.labels_BS[0].tolist() + batch.tokens_BS[0, :1].tolist()) == list(range(200))
    seams = np.isin(batch.tokens_BS[0, :-1], [9, 199])  # the end of a document; the end of the ring
    assert np.diff(batch.document_ids_BS[0]).tolist() == seams.tolist()
    assert data.ledger(1).sources[0].datasets[0].documents is None


def test_the_command_line_shows_every_format(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def shown(*words):
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(inspect_dataset, "READ_AT_ONCE", 7)  # documents that begin at a seam are many
    pair = shown("inspect", "dataset", corpus / "code")
    facts = [re.search(rf"{what} +(.*)", pair)[1] for what in ("documents", "lengths")]
    count = re.search(r"tokens +([\d,]+)", pair)[1]
    for form, (path, said) in FORMS.items():
        words = [path.format(f"{corpus}/code", folder=corpus)]
        words += ["--dtype", said["dtype"]] if "dtype" in said else []
        text = shown("inspect", "dataset", *words, *([] if "document_end" in said else ["--document-end", END]))
        assert re.search(rf"tokens +{count} \(", text), form
        assert [re.search(rf"{what} +(.*)", text)[1] for what in ("documents", "lengths")] == facts, form
    assert "documents    not listed in this format" in shown("inspect", "dataset", corpus / "code.u2.npy")
    assert main(["inspect", "dataset", f"{corpus}/code.u2.bin"]) == 2
    assert "set the source's dtype" in capsys.readouterr().err
    said = "task.mixture.sources.web.dtype=uint16", f"task.mixture.sources.web.paths={corpus}/web_*.u2.bin"
    table = shown("mixture", "quickstart_pretrain", *said)
    assert re.search(
        rf"web .*{opened(mixture_of(corpus, 'pair')).streams[0].token_count:,} .* counted, copies not known\n", table
    ), table
