"""Conversion does what it understands: everything else in a header or beside the weights is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megaphi.conversion.formats.gguf import header as gguf_header
from megaphi.conversion.formats.gguf import weights as gguf_weights
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.conversion.verify import report
from megaphi.errors import InputError
from megaphi.model.weights import weights_of
from tests.conversion.formats.gguf.gguf_model import MODEL, write_gguf
from tests.conversion.random_models import random_folder, same_bytes
from tests.gloo_world import run_in_world

KEYS = {
    "llama.rope.scale_linear": (4.0, "llama.rope.scale_linear=4.0"),
    "llama.rope.scaling.factor": (4.0, "llama.rope.scaling.factor=4.0"),
    "llama.logit_scale": (0.5, "llama.logit_scale=0.5"),
    "llama.expert_count": (8, "llama.expert_count=8"),
    "llama.attention.sliding_window": (16, "llama.attention.sliding_window=16"),
    "llama.attention.value_length": (3, "llama.attention.value_length=3"),
    "llama.something_of_next_year": (1, "llama.something_of_next_year=1"),
    "clip.has_vision_encoder": (1, "clip.has_vision_encoder=1"),
    "split.count": (3, "one of 3 parts of a model"),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_header_that_changes_the_function_is_refused_by_name(tmp_path, key):
    value, message = KEYS[key]

    def header(writer):
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)

    with pytest.raises(InputError, match=message):
        open_weights(write_gguf(tmp_path, header=header))


def test_what_changes_nothing_is_accepted_and_the_weights_are_those_of_the_model(tmp_path):
    def header(writer):
        writer.add_float32("llama.rope.scaling.factor", 1.0)
        writer.add_uint32("llama.attention.value_length", MODEL.head_size)
        writer.add_uint32("llama.expert_count", 0)
        writer.add_string("general.basename", "x")
        writer.add_uint32("quantize.imatrix.entries_count", 3)

    reader, source = open_weights(write_gguf(tmp_path, header=header)), open_weights(tmp_path / "hf")
    for weight in weights_of(reader.architecture):
        assert same_bytes(reader.rows(weight.name, 0, weight.rows), source.rows(weight.name, 0, weight.rows).float())


def test_a_file_of_another_machine_is_refused(tmp_path):
    with pytest.raises(InputError, match="big-endian"):
        open_weights(write_gguf(tmp_path, big_endian=True))


def _verify(source: str, target: str) -> tuple[bool, list[str]]:
    return report(open_weights(source), open_weights(target))


def _verify_with_a_wrong_reader(source: str, target: str) -> tuple[bool, list[str]]:
    gguf_weights.INTERLEAVED = ()
    return _verify(source, target)


def test_verify_reads_a_gguf_by_another_program_and_goes_red(tmp_path, monkeypatch):
    """A reader that leaves heads interleaved writes what it reads: only another program can tell."""
    path = write_gguf(tmp_path)
    right = to_checkpoint(path, tmp_path / "right")
    with monkeypatch.context() as patched:
        patched.setattr(gguf_weights, "INTERLEAVED", ())
        wrong = to_checkpoint(path, tmp_path / "wrong")
    ((passed, lines),) = run_in_world(_verify, str(path), str(right), processes=1)
    assert passed, lines
    assert any("transformers and megaphi" in line for line in lines)
    ((passed, lines),) = run_in_world(_verify_with_a_wrong_reader, str(path), str(wrong), processes=1)
    assert lines[0].endswith("identical")  # by itself the wrong reader finds nothing
    assert not passed, lines


@pytest.mark.parametrize("fault", [float("nan"), 0.0])
def test_two_models_that_say_nothing_are_not_the_same(tmp_path, fault):
    random_folder(tmp_path / "hf", MODEL)
    file = tmp_path / "hf" / "model.safetensors"
    save_file({name: torch.full_like(value, fault) for name, value in load_file(file).items()}, file, {"format": "pt"})
    ((passed, lines),) = run_in_world(_verify, str(tmp_path / "hf"), str(tmp_path / "hf"), processes=1)
    assert not passed
    assert "this is not a working model" in lines[-1]


def test_folders_that_are_less_or_more_than_a_model(tmp_path):
    random_folder(tmp_path / "shards", MODEL, shards=3)
    (tmp_path / "shards" / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"index.json is missing: it says which of the 3 files holds which weight"):
        open_weights(tmp_path / "shards")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(InputError, match="is an adapter, not a model"):
        open_weights(adapter)
    random_folder(tmp_path / "whole", MODEL)
    for name, shards in (("more", 1), ("index", 3)):
        random_folder(tmp_path / name, MODEL, shards=shards)
        shutil.copy(tmp_path / "whole" / "model.safetensors", tmp_path / name / "consolidated.safetensors")
        assert open_weights(tmp_path / name)  # Meta's own form, of the same weights
        shutil.copy(tmp_path / "whole" / "model.safetensors", tmp_path / name / "head.safetensors")
        with pytest.raises(InputError, match=r"head.safetensors: weights that .* does not name"):
            open_weights(tmp_path / name)


def test_a_tied_head_that_is_stored_is_used_where_it_is_another_one(tmp_path, caplog):
    random_folder(tmp_path / "hf", MODEL, naming="llama")
    config, file = tmp_path / "hf" / "config.json", tmp_path / "hf" / "model.safetensors"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": True}))
    reader = open_weights(tmp_path / "hf")
    assert "another lm_head.weight is stored: that one is used" in caplog.text
    assert not reader.architecture.tied_embeddings
    ((passed, lines),) = run_in_world(_converted, str(tmp_path / "hf"), str(tmp_path / "checkpoint"), processes=1)
    assert passed, lines  # transformers does the same
    exported = to_huggingface(tmp_path / "checkpoint", tmp_path / "exported")
    assert json.loads((exported / "config.json").read_text())["tie_word_embeddings"] is False
    caplog.clear()
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    assert open_weights(tmp_path / "hf").architecture.tied_embeddings
    assert caplog.text == ""


def _converted(source: str, target: str) -> tuple[bool, list[str]]:
    return _verify(source, str(to_checkpoint(source, target)))


def test_every_honoured_key_is_read():
    source = Path(gguf_weights.__file__).read_text()
    assert [key for key in gguf_header.HONOURED if f'"{key}"' not in source] == []
