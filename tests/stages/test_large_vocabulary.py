"""Vocabularies whose ids take more than 16 bits, with a tokenizer that is not Phi-4's, from documents to the export.

The text's ids lie at the end of the vocabulary: cut to 16 bits, anywhere, they would be other tokens. The model is
tied, as small models of large vocabularies are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.data.batch import BatchShape
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_tokenizer import RunTokenizer
from megaphi.model.architecture import Architecture
from megaphi.stages.finetune import Finetune
from megaphi.stages.prefer import Prefer
from megaphi.stages.pretrain import Pretrain
from megaphi.tokenizer.open_tokenizer import open_path
from tests.gloo_world import run_in_world
from tests.stages.own_tokenizer_files import json_lines, short_run, tokenized
from tests.stages.own_tokenizer_runs import answers, train_all
from tests.tokenizer.own_tokenizer import write_large_tokenizer

VOCABULARY = 70_000
SHAPE = Architecture(
    layers=2, hidden=16, feed_forward=32, heads=2, key_value_groups=1, head_size=8, vocabulary=VOCABULARY,
    tied_embeddings=True,
)  # fmt: skip
TEXTS = ["they saw the otter swim", "an owl sat on the wall", "zebras in the zoo graze, zzz"]


def run_of(folder: Path, **fields: Any) -> RunConfig:
    batch = BatchShape(sequence_length=64, global_batch=2, micro_batch=1)
    optimizer = Optimizer(learning_rate=3e-2, warmup_steps=0)
    return short_run(folder, steps=10, model=SHAPE, batch=batch, optimizer=optimizer, **fields)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, a dataset, and a model that was pretrained, tuned and compared; its export."""
    home = tmp_path_factory.mktemp("large")
    write_large_tokenizer(home / "tokenizer", vocabulary=VOCABULARY)
    mixture = tokenized(home, TEXTS * 8)
    chats = json_lines(home / "chats.jsonl", [{"prompt": text, "response": TEXTS[0]} for text in TEXTS * 4])
    pairs = json_lines(
        home / "pairs.jsonl", [{"prompt": text, "chosen": TEXTS[0], "rejected": TEXTS[1]} for text in TEXTS * 4]
    )
    runs = [
        run_of(home / "pretrain", task=Pretrain(mixture=mixture), tokenizer=RunTokenizer(path=str(home / "tokenizer"))),
        run_of(home / "sft", start=home / "pretrain", task=Finetune(paths=(chats,))),
        run_of(home / "dpo", start=home / "sft", task=Prefer(paths=(pairs,))),
    ]
    assert run_in_world(train_all, runs, processes=1) == [[None] * 3]
    to_huggingface(home / "dpo", home / "exported")
    return home


def test_the_ids_are_beyond_16_bits_and_come_back(home: Path) -> None:
    dataset, tokenizer = IndexedDataset(home / "data"), open_path(str(home / "tokenizer"))
    assert (dataset.dtype, tokenizer.vocabulary_size) == (np.dtype("<i4"), VOCABULARY)
    found = [dataset.document(number).tolist() for number in range(dataset.document_count)]
    assert sorted(found) == sorted([*tokenizer.encode(text), tokenizer.end_of_text] for text in TEXTS * 8)
    assert np.mean(np.concatenate(found) > 65_535) > 0.5
    assert sorted(tokenizer.decode(ids[:-1]) for ids in found) == sorted(TEXTS * 8)


def test_transformers_says_the_same(home: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(home / "exported")
    model: Any = AutoModelForCausalLM.from_pretrained(home / "exported", dtype=torch.float32)
    assert model.config.vocab_size == VOCABULARY
    assert model.lm_head.weight is model.model.embed_tokens.weight
    (ours,) = run_in_world(answers, str(home / "dpo"), TEXTS, 12, processes=1)
    for text, (answer, tokens) in zip(TEXTS, ours, strict=True):
        talk = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        assert (prompt > 65_535).any()
        found = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :].tolist()
        stops = set(model.generation_config.eos_token_id)
        expected = found[:-1] if found[-1] in stops else found
        assert (list(tokens), answer) == (expected, tokenizer.decode(expected))
    assert any(token > 65_535 for _, tokens in ours for token in tokens)


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65_499, "<u2"), (65_537, "<i4")])
def test_the_last_id_of_any_vocabulary_survives(vocabulary: int, dtype: str, tmp_path: Path) -> None:
    """Stored as Megatron stores it; the token that ends a document is among the last here."""
    write_large_tokenizer(tmp_path / "tokenizer", vocabulary=vocabulary)
    documents = json_lines(tmp_path / "documents.jsonl", [{"text": text} for text in TEXTS])
    tokenize_documents(
        [documents],
        tmp_path / "data",
        TokenizeSettings(tokenizer=str(tmp_path / "tokenizer")),
        processes=1,
        show_progress=False,
    )
    dataset, tokenizer = IndexedDataset(tmp_path / "data"), open_path(str(tmp_path / "tokenizer"))
    assert (dataset.dtype, tokenizer.vocabulary_size) == (np.dtype(dtype), vocabulary)
    assert max(tokenizer.special_ids.values()) == vocabulary - 1
    for number, text in enumerate(TEXTS):
        ids = dataset.document(number).tolist()
        assert ids == [*tokenizer.encode(text), tokenizer.end_of_text]
        assert ids[-1] == vocabulary - 6
