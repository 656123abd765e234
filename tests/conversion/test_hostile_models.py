"""Models that lie about themselves: numbers, places, names, links and kinds of files. Each is one message, at once.

What is refused here was once exported as uninitialised memory, ended in a traceback, took all memory, or for ever.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megaphi.checkpoint.format import CheckpointReader
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.engine.start.resume import check_state
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.recipes.quickstart import quickstart_pretrain
from tests.conversion.formats.megatron.torch_dist_folder import write_torch_dist
from tests.conversion.random_models import random_folder
from tests.fuzz.targets.model_files import sign

MODEL = Architecture(layers=2, hidden=8, feed_forward=8, heads=2, key_value_groups=2, head_size=4, vocabulary=16)
NORM, EMBEDDING = "model.norm.weight", "model/embedding.word_embeddings.weight"
FINAL = "model/decoder.final_layernorm.weight"
SECONDS = 10.0
Change = Callable[[Any], Any]


@contextmanager
def refused(words: str) -> Iterator[None]:
    """One message, not long, and soon."""
    began = time.process_time()
    with pytest.raises(InputError, match=words) as found:
        yield
    assert len(str(found.value)) < 2_000
    assert time.process_time() - began < SECONDS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_folder(tmp_path / "hf", MODEL)
    return tmp_path / "hf"


def change_json(path: Path, change: Change) -> None:
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_hidden_layers", 10**5, "model.layers=100000: must be from 1 to 10000"),
        ("num_hidden_layers", 10**4_000, r"model.layers=2\*\*13287\.\.\.: must be from 1 to 10000"),
        ("num_hidden_layers", 5_000, "a model of .* parameters is described, and .* numbers are stored"),
        ("num_attention_heads", 10**9, "model.heads=1000000000: must be from 1 to"),
        ("hidden_size", 10**15, "parameters is described"),
        ("vocab_size", float("nan"), "model.vocabulary"),
        ("rms_norm_eps", float("nan"), "model.norm_eps=nan: must be a finite number"),
        ("rms_norm_eps", "1e-5", "model.norm_eps='1e-5': expected a number"),
        ("rms_norm_eps", [1], r"model.norm_eps=\[1\]: expected a number"),
        ("max_position_embeddings", "abc", "max_position_embeddings='abc'"),
        ("max_position_embeddings", float("inf"), "max_position_embeddings=inf"),
        ("max_position_embeddings", 12.5, "max_position_embeddings=12.5"),
        ("max_position_embeddings", 10**30, "max_position_embeddings=1000"),
        ("sliding_window", 0.5, "sliding_window=0.5"),
        ("rope_theta", float("inf"), "rope_theta=inf"),
        ("rope_theta", 10**400, "model.rotary_base=inf|rope_theta="),
        ("rope_theta", "10000", "rope_theta='10000'"),
        ("rope_parameters", {"rope_theta": float("inf")}, "rope_theta=inf"),
        ("layer_types", [["full_attention"]], "layer_types="),
        ("architectures", [["Phi3ForCausalLM"]], "architectures="),
        ("model_type", ["phi3"], "model_type is"),
        ("hidden_act", [[[[[[[["x"]]]]]]]] * 1_000, "hidden_act="),
        ("frob" * 20, "x" * 100_000, "not supported"),
        ("frob" * 4_000, 1, r"(frob){18}fro \[\.\.\. 15,900 characters \.\.\.\] b(frob){6}=1: not supported"),
    ],
)
def test_a_configuration_that_cannot_be(field: str, value: Any, words: str, folder: Path) -> None:
    change_json(folder / "config.json", lambda config: {**config, field: value})
    with refused(words):
        open_weights(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
        ('{"model_type": "phi3", "model_type": "llama"}', "the key 'model_type' comes twice"),
        ('{"a": ' + "9" * 5_000 + "}", "no manifest|neither|not found|checkpoint"),
    ],
)
def test_a_configuration_that_is_no_plain_json(content: str, words: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with refused(words):
        open_weights(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_in_the_place_of_a_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with refused("a pipe or a device|is missing|neither a checkpoint"):
        open_weights(folder)


def test_a_pipe_as_a_shard_and_as_latest(tmp_path: Path) -> None:
    random_folder(tmp_path / "hf", MODEL, shards=2)
    shard = tmp_path / "hf" / "model-00002-of-00002.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    with refused("it is a folder, a pipe or a device"):
        open_weights(tmp_path / "hf")
    os.mkfifo(tmp_path / "latest")
    with refused("it is a folder, a pipe or a device"):
        CheckpointReader(tmp_path)


def change_header(path: Path, change: Change) -> None:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    changed = change(json.loads(content[8:end]))
    text = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def norm(**changes: Any) -> Change:
    return lambda header: {**header, NORM: {**header[NORM], **changes}}


def another(name: str) -> Change:
    return lambda header: {**header, name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}


HEADERS: dict[str, Change] = {
    "two tensors in one place": lambda header: {
        **header, NORM: header["model.layers.0.input_layernorm.weight"]
    },
    "places as fractions": lambda header: norm(data_offsets=[float(x) for x in header[NORM]["data_offsets"]])(header),
    "a size as a fraction": norm(shape=[8.0]),
    "a size as a text": norm(shape=["8"]),
    "a size as a truth": norm(shape=[8, True]),
    "negative sizes": norm(shape=[-2, -4]),
    "an infinite place": norm(data_offsets=[0, float("inf")]),
    "a size of many digits": norm(shape=[10**4_000]),
    "a place before the file": norm(data_offsets=[-32, 0]),
    "a million dimensions": norm(shape=[1 << 62] * 200_000),
    "a type that is a list": norm(dtype=["F32"]),
    "metadata that is a list": lambda header: {**header, "__metadata__": [1]},
    "metadata that holds numbers": lambda header: {**header, "__metadata__": {"format": 1}},
    "a list": lambda header: b"[]",
    "deep": lambda header: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many digits": lambda header: b'{"a":{"dtype":"F32","shape":[' + b"9" * 5_000 + b'],"data_offsets":[0,4]}}',
    "a name twice": lambda header: f"{json.dumps(header)[:-1]},{json.dumps({NORM: header[NORM]})[1:]}".encode(),
    "an escape in a name": another("\x1b[2J\n"),
    "a lone surrogate in a name": another("\ud800"),
    "a NUL in a name": another("a\0b"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies(name: str, folder: Path) -> None:
    change_header(folder / "model.safetensors", HEADERS[name])
    with refused(r"model\.safetensors"):
        open_weights(folder)


def test_bytes_after_the_last_tensor(folder: Path) -> None:
    with open(folder / "model.safetensors", "ab") as file:
        file.write(bytes(100))
    with refused("100 bytes follow after its last tensor"):
        open_weights(folder)


def test_a_shard_with_more_than_the_index_says(tmp_path: Path) -> None:
    random_folder(tmp_path / "hf", MODEL, shards=2)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())["weight_map"]
    (other,) = set(index.values()) - {index[NORM]}
    tensors = load_file(tmp_path / "hf" / other)
    save_file({**tensors, NORM: torch.zeros(8)}, tmp_path / "hf" / other)
    with refused(f"{other} holds {NORM}, which model.safetensors.index.json says is in {index[NORM]}"):
        open_weights(tmp_path / "hf")


def piece(key: str, **changes: Any) -> Change:
    def change(index: Any) -> Any:
        index["tensors"][key]["pieces"][0].update(changes)
        return index

    return change


def tensor(key: str, **changes: Any) -> Change:
    return lambda index: {"tensors": {**index["tensors"], key: {**index["tensors"][key], **changes}}}


def pieces(key: str, change: Callable[[list[Any]], list[Any]]) -> Change:
    return lambda index: tensor(key, pieces=change(index["tensors"][key]["pieces"]))(index)


INDEXES: dict[str, Change] = {
    "a hole": piece(EMBEDDING, range=[0, 60]),
    "a hole in front": piece(EMBEDDING, range=[1, 64]),
    "no pieces": tensor(EMBEDDING, pieces=[]),
    "a piece is missing": pieces(EMBEDDING, lambda them: them[1:]),
    "one piece for two": pieces(EMBEDDING, lambda them: [them[0], {**them[0], "file": them[1]["file"]}]),
    "one piece twice": pieces(EMBEDDING, lambda them: [*them, them[0]]),
    "more than there is": tensor(FINAL, shape=[9]),
    "a range to the end of the world": piece(FINAL, range=[0, 10**12]),
    "a negative range": piece(FINAL, range=[-8, 0]),
    "a negative offset": piece(FINAL, offset=[-1]),
    "fractions": piece(FINAL, range=[0.0, 8.0]),
    "other dimensions": piece(FINAL, offset=[0, 0]),
    "another type": tensor(FINAL, dtype="float64"),
    "a type that is a list": tensor(FINAL, dtype=["float32"]),
    "a file elsewhere": piece(FINAL, file="/etc/passwd"),
    "a file above": piece(FINAL, file="../../x.safetensors"),
    "a file of another kind": piece(FINAL, file="config.json"),
    "a file that is a number": piece(FINAL, file=3),
    "pieces that are an object": tensor(FINAL, pieces={}),
    "a tensor that is a list": lambda index: {"tensors": {**index["tensors"], FINAL: []}},
    "a tensor of an exabyte": tensor(EMBEDDING, shape=[1 << 40, 1 << 40]),
    "no dimensions": tensor(EMBEDDING, shape=[]),
    "a million dimensions": tensor(FINAL, shape=[1] * 100_000),
    "an escape in a name": lambda index: {"tensors": {**index["tensors"], "\x1b[2J": index["tensors"][FINAL]}},
    "tensors that are a list": lambda index: {"tensors": []},
    "no tensors": lambda index: {},
    "a list": lambda index: [1],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hostile")
    random_folder(home / "hf", MODEL)
    return to_checkpoint(home / "hf", home / "checkpoint", layout=ParallelLayout(tensor=2))


@contextmanager
def changed(checkpoint: Path, name: str, change: Change) -> Iterator[None]:
    """A file of the checkpoint changed, and the manifest made to fit, as whoever wrote it would have."""
    before = (checkpoint / name).read_bytes()
    change_json(checkpoint / name, change)
    sign(checkpoint)
    yield
    (checkpoint / name).write_bytes(before)
    sign(checkpoint)


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_that_lies(name: str, checkpoint: Path) -> None:
    with changed(checkpoint, "index.json", INDEXES[name]), refused("checkpoint"):
        CheckpointReader(checkpoint)


def test_a_shape_that_the_architecture_does_not_have(checkpoint: Path, tmp_path: Path) -> None:
    def without_shape(index: Any) -> Any:
        every = {"offset": [], "shape": [], "range": [0, 1]}
        return tensor(FINAL, shape=[], pieces=[{**index["tensors"][FINAL]["pieces"][0], **every}])(index)

    with (
        changed(checkpoint, "index.json", without_shape),
        refused(r"final_layernorm.weight has the shape \[\], expected"),
    ):
        to_huggingface(checkpoint, tmp_path / "out")


def test_a_type_that_the_file_does_not_have(checkpoint: Path) -> None:
    with changed(checkpoint, "index.json", tensor(FINAL, dtype="bfloat16")):
        reader = CheckpointReader(checkpoint)
        with refused("does not hold model/decoder.final_layernorm.weight as index.json says"):
            reader.whole(FINAL)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", lambda config: {**config, "model": {**config["model"], "layers": 10**9}}),
        ("config.json", lambda config: {**config, "model": {**config["model"], "layers": 9_999}}),
        ("config.json", lambda config: {**config, "model": {**config["model"], "norm_eps": float("nan")}}),
        ("config.json", lambda config: {**config, "model": []}),
        ("config.json", lambda config: {}),
        ("config.json", lambda config: [1]),
        ("config.json", lambda config: {**config, "batch": {"sequence_length": "abc"}}),
        ("config.json", lambda config: {**config, "batch": {"sequence_length": 1e300}}),
        ("config.json", lambda config: {**config, "tokenizer": [1]}),
        ("state.json", lambda state: [1]),
        ("state.json", lambda state: {**state, "step": "x"}),
        ("state.json", lambda state: {**state, "step": 10**30}),
        ("state.json", lambda state: {**state, "samples": [1]}),
        ("state.json", lambda state: {**state, "tokens": -1}),
        ("state.json", lambda state: '{"step": ' + "9" * 5_000 + "}"),
        ("state.json", lambda state: '{"x": ' + "[" * 900 + "]" * 900 + "}"),
    ],
)
def test_a_checkpoint_that_says_nonsense_of_itself(name: str, change: Change, checkpoint: Path, tmp_path: Path) -> None:
    with changed(checkpoint, name, change), refused("."):
        to_huggingface(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_run_resumes_from_a_conversion(checkpoint: Path) -> None:
    with refused("state.json does not say samples and tokens: no run can resume"):
        check_state(checkpoint, quickstart_pretrain())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b", b"../hf", b"/etc", b"", b"\x1b[2J", b"x" * 100_000])
def test_latest_that_names_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "latest").write_bytes(content)
    with refused("latest"):
        CheckpointReader(tmp_path)


def test_a_link_out_of_the_folder_is_not_copied(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    for convert in (to_checkpoint, to_huggingface):
        with refused(r"LICENSE is a link to .*secret, outside of its folder, and is not copied"):
            convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (folder / "LICENSE").unlink()
    (folder / "TERMS").write_text("free")
    (folder / "LICENSE").symlink_to("TERMS")
    assert (to_checkpoint(folder, tmp_path / "out") / "huggingface" / "LICENSE").read_text() == "free"
    copied = tmp_path / "out" / "huggingface" / "LICENSE"
    copied.unlink()
    copied.symlink_to(tmp_path / "secret")
    sign(tmp_path / "out")
    with refused("LICENSE is a link to"):
        to_huggingface(tmp_path / "out", tmp_path / "again")


def test_a_snapshot_of_the_hub_is_links_to_its_blobs(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "1", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert "config.json" in open_weights(snapshot).carried


def test_weights_that_are_no_numbers_are_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[NORM][3] = float("nan")
    tensors["lm_head.weight"][0, :2] = float("inf")
    save_file(tensors, folder / "model.safetensors")
    for convert, out in ((to_checkpoint, "checkpoint"), (to_huggingface, "hf2")):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="megaphi"):
            convert(folder, tmp_path / out)
        assert "NaN or infinite are 3 numbers of 2 tensors (" in caplog.text
        assert "output_layer.weight: 2" in caplog.text
        assert NORM not in caplog.text


def test_the_largest_finite_numbers_are_no_infinity(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[NORM][:] = torch.finfo(torch.float32).max
    save_file(tensors, folder / "model.safetensors")
    to_checkpoint(folder, tmp_path / "checkpoint")
    assert "NaN" not in caplog.text


@pytest.mark.parametrize(
    "argument",
    [
        {"rotary_base": float("inf")},
        {"norm_epsilon": float("nan")},
        {"seq_length": float("inf")},
        {"seq_length": 12.5},
        {"num_attention_heads": 10**30},
        {"num_attention_heads": 6.5},
        {"num_attention_heads": float("inf")},
        {"\x1b[2J": 3},
    ],
)
def test_arguments_of_megatron_that_cannot_be(argument: dict[str, Any], tmp_path: Path) -> None:
    write_torch_dist(tmp_path / "model", **argument)
    with refused("."):
        open_weights(tmp_path / "model")
