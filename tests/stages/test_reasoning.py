"""Fine-tuning on reasoning traces: from a Hugging Face folder to the exported folder, where transformers says the same.

The model's placeholders become think tokens, its rows longer and its rotary base another one. Every later use of the
weights has the names: the next stage, a resumed run, generation, `megaphi tokenize`, the export.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megaphi.checkpoint.model_tokenizer import text_tokenizer_of
from megaphi.cli import main
from megaphi.conversation import Conversation, Message
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.data.batch import BatchShape
from megaphi.data.packed.conversations import read_conversations
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_tokenizer import RunTokenizer, check_tokenizer
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.recipes import load_recipe
from megaphi.stages.finetune import Finetune
from megaphi.stages.inheritance import inheritance_of
from megaphi.stages.packed_task import reading_tokenizer
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.open_tokenizer import open_path
from megaphi.tokenizer.phi4 import load_tokenizer
from megaphi.tokenizer.think_tokens import ThinkTokens
from tests.conversion.random_models import random_folder
from tests.gloo_world import run_in_world
from tests.stages.own_tokenizer_files import json_lines, short_run
from tests.stages.own_tokenizer_runs import answers, train_all
from tests.stages.test_own_tokenizer import check_that_transformers_says_the_same
from tests.tokenizer.own_tokenizer import write_tokenizer

SIZE = 512
SHAPE = Architecture(layers=2, hidden=48, feed_forward=80, heads=6, key_value_groups=2, head_size=8, vocabulary=SIZE)
THINK = RunTokenizer(think_tokens=("<think>", "</think>"))
QUESTION = "what is it?"
SYSTEM = "Use <think> first."
BEGIN, END = SIZE - 2, SIZE - 1


def trace(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": QUESTION if number else "what is <think>?"},
        {"role": "assistant", "content": f"<think>a tag{' ' * (number % 2)}</think>A tag."},
    ]


def run_of(folder: Path, chats: str, *, start: Path, steps: int = 30, **fields: Any) -> RunConfig:
    """Steps in rows of 96 tokens, longer than the 64 that the first model is made for."""
    return short_run(
        folder,
        steps=steps,
        batch=BatchShape(sequence_length=96, global_batch=4, micro_batch=1),
        optimizer=Optimizer(learning_rate=5e-3, warmup_steps=2),
        start=start,
        task=Finetune(paths=(chats,), **fields.pop("task", {})),
        **{"model": replace(SHAPE, rotary_base=20_000.0), **fields},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Phi-4 of the hub, a run on traces, the stage after it, and runs that are refused."""
    home = tmp_path_factory.mktemp("reasoning")
    random_folder(home / "hf", SHAPE, scale=0.1, bos_token_id=SIZE - 95, eos_token_id=SIZE - 87, pad_token_id=SIZE - 3)
    export_tokenizer(load_tokenizer(SIZE), home / "hf", model_max_length=64)
    chats = json_lines(home / "chats.jsonl", [{"messages": trace(number)} for number in range(24)])
    sft = run_of(home / "sft", chats, start=home / "hf", tokenizer=THINK)
    others = RunTokenizer(think_tokens=("<reason>", "</reason>"))
    cut = json_lines(home / "cut.jsonl", [{"prompt": "a", "response": "<think>on and on"}])
    runs = [
        sft,
        replace(sft, training=replace(sft.training, steps=32), start=replace(sft.start, accept_rate_jump=True)),
        run_of(home / "later", chats, start=home / "sft", steps=4),
        run_of(home / "renamed", chats, start=home / "sft", tokenizer=others),
        run_of(home / "cut_off", cut, start=home / "sft"),
        replace(
            run_of(home / "short", chats, start=home / "hf", tokenizer=THINK),
            batch=BatchShape(sequence_length=64, global_batch=4, micro_batch=1),
        ),
    ]
    (home / "messages.json").write_text(json.dumps(run_in_world(train_all, runs, processes=1)[0]))
    to_huggingface(home / "later", home / "exported")
    return home


def test_the_runs_train_and_a_mismatch_is_refused(home: Path) -> None:
    messages = json.loads((home / "messages.json").read_text())
    assert messages[:3] == [None] * 3
    assert "tokenizer.think_tokens=<reason>,</reason> for <|dummy_86|>,<|dummy_87|>: the model has" in messages[3]
    assert "<think>,</think> for <|dummy_86|>,<|dummy_87|> already" in messages[3]
    assert "message 2, the assistant's: its last <think> is never closed by </think>" in messages[4]
    assert "model.rotary_base is 10000.0, the run has 20000.0" in messages[5], "in rows that are no longer"


def test_the_names_are_in_every_checkpoint(home: Path) -> None:
    expected = load_tokenizer(SIZE, think=ThinkTokens())
    for stage in ("sft", "later"):  # `later` did not name them
        reader = open_weights(home / stage)
        section = reader.config["tokenizer"]
        assert section["fingerprint"] == expected.fingerprint == text_tokenizer_of(reader).fingerprint
        assert section["think_tokens"] == ["<think>", "</think>"]
        assert section["think_placeholders"] == ["<|dummy_86|>", "<|dummy_87|>"]
    lines = [json.loads(line) for line in (home / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("step", 0) for line in lines) == 32, "it was resumed"


def test_transformers_says_the_same_with_the_tags(home: Path) -> None:
    """The greedy text begins with the reasoning; tags, template, context and rotary base are in the folder."""
    tokenizer, model = check_that_transformers_says_the_same(home / "exported", home / "later", [QUESTION, "hello"])
    ((text, tokens),) = run_in_world(answers, str(home / "later"), [QUESTION], 40, processes=1)[0]
    assert text in ("<think>a tag</think>A tag.", "<think>a tag </think>A tag.")
    assert (tokens[0], tokens.count(END)) == (BEGIN, 1)
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 96
    assert model.config.rope_parameters["rope_theta"] == 20_000.0
    assert model.generation_config.eos_token_id == [SIZE - 95, SIZE - 87]
    generation = json.loads((home / "exported" / "generation_config.json").read_text())
    assert not {BEGIN, END} & set(generation["eos_token_id"])


def test_a_dataset_of_the_run_has_its_tokenizer(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A document that spells the tags is text; a conversation shows which tags are tokens."""
    texts = json_lines(home / "texts.jsonl", [{"text": "<think>text</think>"}])
    words = ["tokenize", texts, "--output", str(home / "data"), "--tokenizer", str(home / "sft"), "--processes", "1"]
    assert main(words) == 0
    from megaphi.data.storage.formats.indexed_dataset import IndexedDataset

    dataset = IndexedDataset(home / "data")
    assert (dataset.description or {})["tokenizer"] == load_tokenizer(SIZE, think=ThinkTokens()).fingerprint
    assert not {BEGIN, END} & set(dataset.document(0).tolist())
    capsys.readouterr()
    chats = ["inspect", "conversations", str(home / "chats.jsonl"), "--number", "1"]
    assert main([*chats, "--tokenizer", str(home / "sft")]) == 0
    shown = capsys.readouterr().out
    assert r"user<|im_sep|>what is <\think>?<|im_end|>" in shown
    assert "⟦<think>a tag</think>A tag.<|im_end|>⟧" in shown


def test_a_recipe_says_whether_answers_spell_the_tokens(home: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(SIZE, think=ThinkTokens())
    messages = [{"role": "system", "content": SYSTEM}, *trace(0)]
    path = json_lines(tmp_path / "one.jsonl", [{"messages": messages}])
    counts = {}
    for spelled in ("token", "text"):
        read = read_conversations(
            [path], reading_tokenizer(tokenizer, spelled), train_on="last", sequence_length=200, too_long="error"
        )
        counts[spelled] = [read[0][0].ids.tolist().count(token) for token in (BEGIN, END)]  # pyright: ignore
    assert counts == {"token": [2, 1], "text": [0, 0]}  # the system's and the answer's, never the user's


def test_models_that_cannot_have_them(home: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "own", vocabulary=300)
    own = replace(THINK, path=str(tmp_path / "own"))
    run = run_of(tmp_path / "run", "unused", start=home / "hf", tokenizer=own)
    with pytest.raises(InputError, match=r"think_tokens=<think>,</think> renames placeholders of Phi-4's tokenizer"):
        check_tokenizer(run)
    random_folder(tmp_path / "hf", SHAPE)
    bare = run_of(tmp_path / "run", "unused", start=tmp_path / "hf", tokenizer=THINK)
    with pytest.raises(InputError, match=r"renames placeholders of Phi-4's tokenizer, and the model has none"):
        inheritance_of(bare, open_weights)
    named = inheritance_of(replace(bare, tokenizer=replace(THINK, path="phi4")), open_weights)
    assert named.tokenizer is not None
    assert named.tokenizer.fingerprint == load_tokenizer(SIZE, think=ThinkTokens()).fingerprint
    again = run_of(home / "sft", "unused", start=home / "hf", tokenizer=replace(THINK, path="phi4"))
    resumed = inheritance_of(again, open_weights)  # its own checkpoint has the names, the tokenizer of the path has not
    assert resumed.run.tokenizer.fingerprint == named.run.tokenizer.fingerprint
    moved = replace(again, tokenizer=replace(THINK, think_placeholders=("<|dummy_1|>", "<|dummy_2|>")))
    with pytest.raises(InputError, match=r"<\|dummy_2\|>: the model has <think>,</think> for <\|dummy_86"):
        inheritance_of(moved, open_weights)
    with pytest.raises(InputError, match=r"think placeholder '<\|dummy_99\|>' is not in the vocabulary"):
        check_tokenizer(replace(bare, tokenizer=replace(THINK, think_placeholders=("<|dummy_9|>", "<|dummy_99|>"))))


def test_another_use_of_the_folder_knows_the_names(home: Path) -> None:
    opened: Any = open_path(str(home / "exported"))
    assert opened.think == ThinkTokens()
    ids = opened.render(Conversation((Message("user", "<think>"), Message("assistant", "<think></think>")))).ids
    assert (ids.count(BEGIN), ids.count(END)) == (1, 1)


def test_the_recipe_is_the_reports() -> None:
    run = load_recipe("phi4_14b_sft_reasoning")
    assert (run.training.steps, run.batch.global_batch, run.batch.sequence_length) == (16_000, 32, 32_768)
    optimizer = run.optimizer
    assert (optimizer.learning_rate, optimizer.warmup_steps, optimizer.weight_decay) == (1e-5, 450, 1e-4)
    assert run.model.rotary_base == 500_000.0 == 2 * load_recipe("phi4_14b_sft").model.rotary_base
    assert run.tokenizer.think_tokens == ("<think>", "</think>")
