"""Windows that begin where documents begin, against a brute force over lists; their order, resuming, and the ledger."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.config import from_plain
from megaphi.data.loading.continuation import continue_run, warm_start
from megaphi.data.loading.loader import open_mixture
from megaphi.data.order.document_windows import DocumentWindows
from megaphi.data.order.ledger import Cursor, Ledger, Origin
from megaphi.data.order.mixture import Mixture, Source, Split
from megaphi.data.order.run_order import RunOrder
from megaphi.data.order.schedule import lay_out_stages
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.errors import InputError

END = 1
VOCABULARY = 60_000
LENGTH = 16


def windows_by_brute_force(lengths, *, shortest, longest, length):
    """[(first token in the stream, targets)] of all windows, in the order of the documents."""
    found, start = [], 0
    for tokens in lengths:
        if max(shortest, 2) <= tokens <= (longest or tokens):
            whole = [(start + offset, length) for offset in range(0, tokens - length, length)]
            whole = [(first, count) for first, count in whole if first - start + count <= tokens - 1]
            found += whole or [(start, tokens - 1)]
        start += tokens
    return found


@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=30),
    parts=st.integers(1, 3),
    shortest=st.sampled_from([0, 2, 9, 17]),
    longest=st.sampled_from([None, 16, 33, 40]),
    length=st.sampled_from([2, 3, 16]),
)
@settings(max_examples=300, deadline=None)
def test_windows_are_those_of_a_brute_force(lengths, parts, shortest, longest, length):
    if longest is not None and longest < shortest:
        return
    expected = windows_by_brute_force(lengths, shortest=shortest, longest=longest, length=length)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    cuts = np.linspace(0, len(lengths), parts + 1).astype(int)
    pieces = [edges[one : other + 1] for one, other in pairwise(cuts)]
    if not expected:
        with pytest.raises(InputError, match="and has none"):
            DocumentWindows(pieces, name="books", shortest=shortest, longest=longest)
        return
    windows = DocumentWindows(pieces, name="books", shortest=shortest, longest=longest)
    table = windows.of_length(length)
    start_B, targets_B = table.locate(np.arange(table.count))
    assert list(zip(start_B.tolist(), targets_B.tolist(), strict=True)) == expected
    coverage = windows.coverage(length)
    chosen = [tokens for tokens in lengths if max(shortest, 2) <= tokens <= (longest or tokens)]
    assert (coverage.documents, coverage.tokens) == (len(chosen), sum(chosen))
    assert coverage.documents + coverage.left_out_documents == len(lengths)
    assert coverage.tokens + coverage.left_out_tokens == sum(lengths)
    assert coverage.targets == sum(count for _, count in expected)
    assert coverage.targets + coverage.rest == sum(tokens - 1 for tokens in chosen)
    assert all(tokens - 1 < length or coverage.rest < length * len(chosen) for tokens in chosen)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """{source: (prefixes, documents)}: every token but the end says where it stands, so a batch can be read back."""
    folder, draw = tmp_path_factory.mktemp("documents"), np.random.default_rng(1)
    made, token = {}, 2
    for name, parts in (("web", 1), ("books", 2)):
        prefixes, documents = [], []
        for part in range(parts):
            prefixes.append(str(folder / f"{name}_{part}"))
            with IndexedDatasetWriter(prefixes[-1], "uint16") as writer:
                for count in draw.integers(0, 60, 40).tolist():
                    documents.append([*range(token, token + count), END])
                    token += count
                    writer.add_document(documents[-1])
                writer.finish({"tokenizer": "ours", "vocabulary_size": VOCABULARY})
        made[name] = (tuple(prefixes), documents)
    return made


def mixture(corpus, *, length=LENGTH, **fields):
    web = Source(name="web", weight=2.0, paths=corpus["web"][0])
    rule = {"windows": "documents", "shortest_document": 8, **fields}
    books = Source(name="books", weight=1.0, paths=corpus["books"][0], validation_paths=corpus["books"][0][:1], **rule)
    return Mixture(sources=(web, books))


def opened(mixture, *, steps=100, batch=4, length=LENGTH, split: Split = "training", seed=5):
    spans = lay_out_stages(mixture, steps=steps, sequence_length=length, global_batch=batch)
    return open_mixture(
        mixture,
        sequence_length=length,
        seed=seed,
        tokenizer_fingerprint="ours",
        vocabulary_size=VOCABULARY,
        split=split,
        stages=spans if split == "training" else None,
    )


def rows_of_books(batch):
    """The trained (input, target) pairs of each row that is of the books, whose tokens are the larger ones."""
    for row in range(len(batch.tokens_BS)):
        is_trained = batch.loss_mask_BS[row] > 0
        yield batch.tokens_BS[row][is_trained].tolist(), batch.labels_BS[row][is_trained].tolist()


def test_every_window_of_an_epoch_comes_once_and_is_of_one_document(corpus):
    documents = [document for document in corpus["books"][1] if len(document) >= 8]
    data = opened(Mixture(sources=(replace(mixture(corpus).sources[1]),)))
    windows = data.coverage()["books"].windows
    seen = Counter()
    batch = data.batch(np.arange(windows))
    for tokens, labels in rows_of_books(batch):
        assert tokens[1:] == labels[:-1]
        assert END not in tokens, "a window goes on behind the end of its document"
        owner = next(document for document in documents if tokens[0] in document[:-1])
        offset = owner.index(tokens[0])
        assert offset % LENGTH == 0
        assert owner[offset : offset + len(tokens) + 1] == [*tokens, labels[-1]]
        seen.update(tokens)
    assert max(seen.values()) == 1
    expected = windows_by_brute_force([len(d) for d in documents], shortest=8, longest=None, length=LENGTH)
    assert len(batch.tokens_BS) == len(expected)
    assert batch.loss_mask_BS.sum() == sum(count for _, count in expected)
    again = data.batch(np.arange(windows, 2 * windows))
    firsts = [sorted(part.tokens_BS[:, 0].tolist()) for part in (batch, again)]
    assert firsts[0] == firsts[1]
    assert batch.tokens_BS[:, 0].tolist() != again.tokens_BS[:, 0].tolist(), "another epoch, another order"


def test_padding_repeats_the_end_of_the_document(corpus):
    batch = opened(mixture(corpus)).batch(np.arange(300))
    padded = [row for row in range(300) if batch.loss_mask_BS[row].min() == 0]
    assert padded
    for row in padded:
        count = int(batch.loss_mask_BS[row].sum())
        assert batch.labels_BS[row, count - 1] == END
        assert set(batch.tokens_BS[row, count:].tolist()) == {END} == set(batch.labels_BS[row, count:].tolist())


def test_a_run_resumes_at_any_step_through_its_ledger(corpus):
    straight = opened(mixture(corpus))
    for step in (0, 1, 7, 60):
        plain = json.loads(json.dumps(straight.ledger(step).to_json()))
        ledger = from_plain(Ledger, plain)
        position = straight.order.position_at(step)
        fresh = opened(mixture(corpus))
        found = continue_run(ledger, fresh, position=position, accept_changed_data=False, where="run")
        numbers = np.arange(step * 4, step * 4 + 40)
        assert (fresh.continued(found).batch(numbers).tokens_BS == straight.batch(numbers).tokens_BS).all()
        assert found.notes == ()


def test_another_rule_of_documents_begins_an_epoch_and_says_so(corpus):
    before = opened(mixture(corpus))
    ledger, position = before.ledger(7), before.order.position_at(7)
    other = opened(mixture(corpus, shortest_document=20))
    found = continue_run(ledger, other, position=position, accept_changed_data=False, where="run")
    assert any("source books begins epoch 1" in note and "documents of 8 to any tokens" in note for note in found.notes)
    assert any(note.startswith("source web goes on") for note in found.notes)
    after = other.continued(found).ledger(7)
    books = next(record for record in after.sources if record.name == "books")
    assert books.at_origin.drawn == next(r for r in ledger.sources if r.name == "books").now.drawn


def longer(corpus, *, block_tokens):
    """The ledger of a run of samples of 8 tokens, and a run of samples of 32 that continues its sources."""
    web = replace(mixture(corpus).sources[0], weight=1.0)
    before = opened(Mixture(sources=(web,), block_tokens=block_tokens), length=8)
    return before, before.ledger(5), opened(Mixture(sources=(web,)), length=32, steps=5)


def test_a_later_run_of_longer_samples_goes_on_in_planned_blocks(corpus):
    """The second run reads the tokens that the first would have read next: none again, and none left out."""
    before, ledger, after = longer(corpus, block_tokens=32)
    found = warm_start(ledger, after)
    assert [note.partition(":")[0] for note in found.notes] == ["source web goes on"]
    rest = after.continued(found).batch(np.arange(4)).labels_BS.reshape(-1)
    expected = before.batch(np.arange(20, 36)).labels_BS.reshape(-1)
    assert rest.tolist() == expected.tolist()


def test_without_a_plan_it_begins_an_unseen_epoch_and_says_so(corpus):
    _, ledger, after = longer(corpus, block_tokens=None)
    found = warm_start(ledger, after)
    (note,) = found.notes
    assert note.startswith("source web begins epoch 1, 160 tokens in")
    assert "task.mixture.block_tokens" in note
    order = after.continued(found).order
    assert isinstance(order, RunOrder)
    assert order.first_cursors()["web"].first_epoch == 1


def test_sources_of_another_seed_begin_an_unseen_epoch(corpus):
    web = mixture(corpus).sources[0]
    ledger = opened(Mixture(sources=(web,))).ledger(5)
    found = warm_start(ledger, opened(Mixture(sources=(web,)), seed=6))
    assert found.notes == ("source web has changed: it begins epoch 1",)
    assert isinstance(found.cursors["web"], Cursor)
    with pytest.raises(InputError, match=r"needs task\.mixture\.order=keyed"):
        warm_start(ledger, opened(Mixture(sources=(web,), order="megatron"), steps=5))


def test_blocks_that_are_cut_anew_are_another_plan(corpus):
    """`block_tokens` added to a run that is resumed must not silently change the order in its middle."""
    web = mixture(corpus).sources[0]
    before = opened(Mixture(sources=(web,)))
    edited = opened(Mixture(sources=(web,), block_tokens=64))
    position = before.order.position_at(5)
    found = continue_run(before.ledger(5), edited, position=position, accept_changed_data=False, where="run")
    assert found.origin == position
    numbers = np.arange(20, 24)
    assert (edited.continued(found).batch(numbers).tokens_BS == before.batch(numbers).tokens_BS).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shortest_document": 9_999}, "takes documents of at least 9,999 tokens, and has none: its 80 documents have"),
        ({"shortest_document": 20, "longest_document": 10}, "longest_document=10 is below shortest_document=20"),
        ({"windows": "stream"}, "shortest_document needs task.mixture.sources.books.windows=documents"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(corpus, fields, message):
    with pytest.raises(InputError, match=message):
        opened(mixture(corpus, **fields))


def test_tokens_without_an_index_of_documents_are_refused(corpus, tmp_path):
    np.save(tmp_path / "flat.npy", np.arange(1_000, dtype=np.uint16))
    source = Source(name="flat", weight=1.0, paths=(str(tmp_path / "flat.npy"),), windows="documents")
    with pytest.raises(InputError, match="does not list its documents"):
        opened(Mixture(sources=(source,)))


def test_held_out_documents_are_cut_alike(corpus):
    data = opened(mixture(corpus), split="validation")
    assert data.batch(np.arange(5)).tokens_BS.shape == (5, LENGTH)
    assert data.order.cursors(0)["books"] == replace(data.order.cursors(0)["books"], drawn=0)
    assert Origin() == data.order.origin
