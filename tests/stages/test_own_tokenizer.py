"""A model with a tokenizer of its own, from tokenising to the exported folder, where transformers says the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megaphi.checkpoint.model_tokenizer import context_of, text_tokenizer_of, tokenizer_of
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import RunConfig, check
from megaphi.engine.run_tokenizer import RunTokenizer, check_tokenizer
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.stages.finetune import Finetune
from megaphi.stages.inheritance import inheritance_of
from megaphi.stages.prefer import Prefer
from megaphi.stages.pretrain import Pretrain
from megaphi.tokenizer.open_tokenizer import open_path
from tests.conversion.formats.gguf.gguf_model import write_gguf
from tests.conversion.formats.gguf.gguf_tokenizers import add_fields, byte_level_fields, byte_level_ids
from tests.conversion.random_models import random_folder
from tests.gloo_world import run_in_world
from tests.stages.own_tokenizer_files import json_lines, short_run, tokenized
from tests.stages.own_tokenizer_runs import answers, train_all
from tests.tokenizer.own_tokenizer import CORPUS, LLAMA3, write_tokenizer

SHAPE = Architecture(
    layers=2, hidden=48, feed_forward=80, heads=6, key_value_groups=2, head_size=8, vocabulary=1_024
)  # more rows than the tokenizer has tokens
QUESTIONS = ["hello 3", "how are you", "Straße?"]


def run_of(folder: Path, *, length: int, initial_checkpoint: str | None = None, **fields: Any) -> RunConfig:
    """Eight steps in rows of `length` tokens."""
    batch = BatchShape(sequence_length=length, global_batch=4, micro_batch=1)
    optimizer = Optimizer(learning_rate=3e-3, warmup_steps=2)
    fields.setdefault("model", SHAPE)
    return short_run(folder, steps=8, batch=batch, optimizer=optimizer, start=initial_checkpoint, **fields)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, documents, conversations and pairs; a run of each stage, and the export of the last."""
    home = tmp_path_factory.mktemp("own")
    write_tokenizer(home / "tokenizer", template=LLAMA3, bos=True)
    mixture = tokenized(home, [f"{text} {n}" for n in range(40) for text in CORPUS])
    said = [
        {
            "messages": [
                {"role": "user", "content": f"hello {n}"},
                {"role": "assistant", "content": f"bye and thanks {n}"},
            ]
        }
        for n in range(24)
    ]
    pairs = [{"prompt": f"hello {n}", "chosen": f"bye {n}", "rejected": "no <|eot|>"} for n in range(24)]
    own = RunTokenizer(path=str(home / "tokenizer"))
    chats, preferences = json_lines(home / "chats.jsonl", said), json_lines(home / "pairs.jsonl", pairs)
    runs = [
        run_of(home / "pretrain", length=128, task=Pretrain(mixture=mixture), tokenizer=own),
        run_of(
            home / "sft",
            length=64,
            task=Finetune(paths=(chats,)),
            initial_checkpoint=str(home / "pretrain"),
        ),
        run_of(
            home / "dpo",
            length=96,
            task=Prefer(paths=(preferences,)),
            initial_checkpoint=str(home / "sft"),
        ),
        # refused: Phi-4's tokenizer for this data; another tokenizer for this model
        run_of(home / "refused_data", length=64, task=Pretrain(mixture=mixture)),
        run_of(
            home / "refused_model",
            length=64,
            task=Finetune(paths=(chats,)),
            initial_checkpoint=str(home / "pretrain"),
            tokenizer=RunTokenizer(path="phi4"),
        ),
    ]
    messages = run_in_world(train_all, runs, processes=1)[0]
    (home / "messages.json").write_text(json.dumps(messages))
    to_huggingface(home / "dpo", home / "exported")
    return home


def test_the_stages_run_and_a_mismatch_is_refused(home: Path) -> None:
    messages = json.loads((home / "messages.json").read_text())
    assert messages[:3] == [None] * 3
    assert "was tokenised with another vocabulary" in messages[3]
    assert "tokenizer.path=phi4 (fingerprint" in messages[4]
    assert "is not that of" in messages[4]


def test_the_dataset_holds_the_tokenizers_ids(home: Path) -> None:
    dataset, tokenizer = IndexedDataset(home / "data"), open_path(str(home / "tokenizer"))
    description = dataset.description or {}
    assert (description["tokenizer"], description["encoder"]) == (tokenizer.fingerprint, "tokenizers")
    texts = {tokenizer.decode(dataset.document(number).tolist()) for number in range(dataset.document_count)}
    assert texts == {f"<s>{text} {n}</s>" for n in range(40) for text in CORPUS}


def test_the_fingerprint_and_the_files_are_in_every_checkpoint(home: Path) -> None:
    expected = open_path(str(home / "tokenizer")).fingerprint
    for stage in ("pretrain", "sft", "dpo"):
        reader = open_weights(home / stage)
        assert reader.config["tokenizer"]["fingerprint"] == expected
        assert text_tokenizer_of(reader).fingerprint == expected
    with pytest.raises(InputError, match=r"leave it out, the model's own is used"):
        text_tokenizer_of(open_weights(home / "sft"), path="phi4")


def test_shorter_rows_leave_the_context(home: Path) -> None:
    assert [context_of(open_weights(home / stage)) for stage in ("pretrain", "sft", "dpo")] == [128] * 3
    exported = json.loads((home / "exported" / "config.json").read_text())
    assert exported["max_position_embeddings"] == 128


def test_transformers_says_the_same(home: Path) -> None:
    """The chat template, the greedy text and the end of it, from the exported folder alone."""
    tokenizer, model = check_that_transformers_says_the_same(home / "exported", home / "dpo", QUESTIONS)
    assert tokenizer("x")["input_ids"][0] == model.config.bos_token_id


def check_that_transformers_says_the_same(exported: Path, run: Path, questions: list[str]) -> tuple[Any, Any]:
    """Returns the tokenizer and the model that transformers finds in the exported folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(exported)
    model: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    ours = run_in_world(answers, str(run), questions, 24, processes=1)[0]
    for question, (text, tokens) in zip(questions, ours, strict=True):
        talk = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        found = model.generate(prompt, max_new_tokens=24, do_sample=False)[0, prompt.shape[1] :].tolist()
        stops = np.atleast_1d(model.generation_config.eos_token_id)
        expected = found[:-1] if found[-1] in stops else found
        assert list(tokens) == expected
        assert text == tokenizer.decode(expected)
    return tokenizer, model


def test_a_gguf_file_goes_through_with_the_tokenizer_inside_it(tmp_path: Path) -> None:
    """Tuned on text and pairs from the file itself, and exported; digits stand alone, as its name of the split says."""
    fields = byte_level_fields("smollm")
    path = write_gguf(tmp_path / "gguf", model=SHAPE, context=128, header=lambda one: add_fields(one, fields))
    said = [{"prompt": f"hello {1_000 + n}", "response": f"bye and thanks {n}"} for n in range(24)]
    pairs = [{"prompt": f"hello {n}", "chosen": f"bye {n}", "rejected": "no <|im_end|>"} for n in range(24)]
    chats = Finetune(paths=(json_lines(tmp_path / "chats.jsonl", said),))
    preferences = Prefer(paths=(json_lines(tmp_path / "pairs.jsonl", pairs),))
    sft, dpo = tmp_path / "sft", tmp_path / "dpo"
    runs = [
        run_of(sft, length=64, task=chats, initial_checkpoint=str(path)),
        run_of(dpo, length=64, task=preferences, initial_checkpoint=str(sft)),
    ]
    assert run_in_world(train_all, runs, processes=1)[0] == [None, None]
    expected = tokenizer_of(open_weights(path))
    assert expected is not None
    assert open_weights(dpo).config["tokenizer"]["fingerprint"] == expected.fingerprint
    exported = to_huggingface(dpo, tmp_path / "exported")
    questions = ["hello 1003", "Straße, 東京 and 3.14159?"]
    tokenizer, model = check_that_transformers_says_the_same(exported, dpo, questions)
    for text in [*CORPUS, *questions]:
        assert tokenizer(text, split_special_tokens=True)["input_ids"] == byte_level_ids(fields, text)
    ids = {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "padding")}
    assert (model.config.eos_token_id, model.config.pad_token_id) == (ids["eos"], ids["padding"])
    assert model.config.max_position_embeddings == 128


def test_what_ends_answers_now_ends_them_in_the_exported_model(tmp_path: Path, home: Path) -> None:
    """A base model's generation_config.json names the end of a document only; untrained it goes back as it came."""
    random_folder(tmp_path / "hf", SHAPE, eos_token_id=1)
    for path in (home / "tokenizer").iterdir():
        (tmp_path / "hf" / path.name).write_bytes(path.read_bytes())
    came = tmp_path / "hf" / "generation_config.json"
    came.write_text('{"eos_token_id": 1,  "temperature": 0.6}')
    reader: Any = open_weights(to_checkpoint(tmp_path / "hf", tmp_path / "ours"))
    assert (to_huggingface(reader, tmp_path / "as_it_came") / came.name).read_bytes() == came.read_bytes()
    reader.state["step"] = 8
    found = json.loads((to_huggingface(reader, tmp_path / "trained") / came.name).read_text())
    tokenizer = tokenizer_of(reader)
    assert tokenizer is not None
    assert tokenizer.message_end == tokenizer.special_ids["<|eot|>"] != 1
    assert found == {"eos_token_id": [1, tokenizer.message_end], "temperature": 0.6}


def test_a_run_with_longer_rows_raises_the_context(home: Path) -> None:
    longer = run_of(
        home / "longer",
        length=256,
        task=Finetune(paths=("unused",)),
        initial_checkpoint=str(home / "pretrain"),
    )
    assert inheritance_of(longer, open_weights).run.model.context == 256
    small = replace(longer, model=replace(SHAPE, context=128))
    with pytest.raises(InputError, match=r"model.context=128: the run has sequences of 256 tokens"):
        check(small, world_size=1)


def test_a_model_without_a_tokenizer_has_none_made_up(tmp_path: Path, home: Path) -> None:
    for vocabulary in (300, 512):
        model = replace(SHAPE, vocabulary=vocabulary)
        random_folder(tmp_path / f"hf{vocabulary}", model)
        checkpoint = to_checkpoint(tmp_path / f"hf{vocabulary}", tmp_path / f"ours{vocabulary}")
        out = to_huggingface(checkpoint, tmp_path / f"out{vocabulary}")
        assert not list(out.glob("*token*")) + list(out.glob("*.jinja"))
        assert tokenizer_of(open_weights(checkpoint)) is None
        with pytest.raises(InputError, match=r"came without a tokenizer.*--tokenizer"):
            text_tokenizer_of(open_weights(checkpoint))
    model = replace(SHAPE, vocabulary=512)
    start = str(tmp_path / "ours512")
    chats = json_lines(tmp_path / "chats.jsonl", [{"prompt": "a", "response": "b"}] * 4)
    ids = json_lines(tmp_path / "ids.jsonl", [{"ids": [1, 2, 3, 4], "trained": [False, True, True, True]}] * 8)
    texts = run_of(
        tmp_path / "texts",
        length=64,
        model=model,
        task=Finetune(paths=(chats,)),
        initial_checkpoint=start,
    )
    of_ids = replace(texts, folder=str(tmp_path / "of_ids"), task=Finetune(paths=(ids,)))
    messages = run_in_world(train_all, [texts, of_ids], processes=1)[0]
    assert "4 x a text, and the model came without a tokenizer: name it in tokenizer.path" in str(messages[0])
    assert messages[1] is None
    assert tokenizer_of(open_weights(tmp_path / "of_ids")) is None  # and so has what was trained on ids
    assert not list(to_huggingface(tmp_path / "of_ids", tmp_path / "out").glob("*token*"))
    given = replace(texts, tokenizer=RunTokenizer(path=str(home / "tokenizer")))
    with pytest.raises(InputError, match=r"has 1,000 tokens, the model a vocabulary of 512"):
        check_tokenizer(given)


def test_vocabularies_beyond_phi4s_need_a_tokenizer(tmp_path: Path) -> None:
    """The dry run and the run refuse the same."""
    large = run_of(
        tmp_path, length=64, model=replace(SHAPE, vocabulary=128_256),
        task=Pretrain(mixture=Mixture(sources=(Source(name="text", weight=1.0, paths=("unused",)),))),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"model.vocabulary: .*128256 is out of range.*tokenizer.path"):
        check_tokenizer(large)
    write_tokenizer(tmp_path / "tokenizer", vocabulary=300)
    check_tokenizer(replace(large, tokenizer=RunTokenizer(path=str(tmp_path / "tokenizer"))))
