"""Models of strangers: weights, headers, configurations and tokenizers, as files and as folders packed into a ZIP file.

What is accepted is read to its last row. A checkpoint gets a manifest that fits its files, as its author would give it.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz.structured import json_header, json_value, zip_member, zipped
from tests.fuzz.target import Target

EDGES = (b"\xff" * 8, b"\xff\xff\xff\x7f", bytes(8), b"\0\0\0\0\0\1\0\0", b"\0\0\xc0\x7f", b"\0\0\x80\x7f")
CONFIG_TOKENS = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-1",
    b"1000000000",
    b'"abc"',
    b"[]",
    b"null",
    b"9" * 5_000,
    b"[" * 900,
)
PICKLE_TOKENS = (
    b"\x85", b"2\x86", b"\x8e", b"\x96", b"r\xff\xff\xff\x7f", b"R", b"b", b"\x81", b"(", b"]", b"a", b"h\0", b"u",
    b"s", b"\x94", b"cos\nsystem\n",
)  # fmt: skip
MODEL = {
    "layers": 1,
    "hidden": 8,
    "feed_forward": 8,
    "heads": 2,
    "key_value_groups": 1,
    "head_size": 4,
    "vocabulary": 16,
}


def read_all_weights(reader: Any) -> None:
    from megaphi.checkpoint.model_tokenizer import context_of, tokenizer_of
    from megaphi.model.weights import weights_of

    context_of(reader)
    for weight in weights_of(reader.architecture):
        assert len(reader.rows(weight.name, 0, weight.rows)) == weight.rows
    if reader.carried:
        tokenizer_of(reader)


def read_safetensors(content: bytes) -> None:
    from megaphi.checkpoint.tensor_file import TensorFile

    Path("model.safetensors").write_bytes(content)
    with TensorFile("model.safetensors") as file:
        for name in file.entries:
            file.read(name)


def read_gguf(content: bytes) -> None:
    from megaphi.conversion.formats.gguf.weights import GgufWeights

    Path("model.gguf").write_bytes(content)
    read_all_weights(GgufWeights("model.gguf"))


def unpacked(content: bytes) -> Path | None:
    """The folder that a ZIP file describes, its names kept within it; None if it describes none."""
    folder = Path("model")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist()[:30]:
                name = member.filename.replace("\0", "").replace("..", "")[-200:].strip("/")
                path = folder / (name or "x")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member)[: 1 << 22])
    except Exception:  # no folder can be made of it
        return None
    return folder


def read_folder(content: bytes) -> str | None:
    from megaphi.conversion.open_weights import open_weights

    folder = unpacked(content)
    if folder is None:
        return "no folder"
    if (folder / "index.json").exists():
        sign(folder)
    read_all_weights(open_weights(folder))
    return None


def sign(folder: Path) -> None:
    """Write a manifest of the files as they are."""
    from megaphi.checkpoint.manifest import MANIFEST, Manifest, write_manifest
    from megaphi.checkpoint.tensor_file import hash_file

    files = {path.relative_to(folder).as_posix(): hash_file(path) for path in folder.rglob("*") if path.is_file()}
    files.pop(MANIFEST, None)
    write_manifest(folder, Manifest(save_id="this", step=0, files=files))


def read_a_pickle(content: bytes) -> None:
    from megaphi.conversion.formats.megatron.arguments import plain
    from megaphi.foreign.restricted_pickle import read_pickle

    repr(plain(read_pickle(content, where="it")))


def read_config(content: bytes) -> None:
    from megaphi.conversion.formats.huggingface.config import architecture_from, context_from
    from megaphi.files import read_object

    Path("config.json").write_bytes(content)
    config = read_object("config.json", what="configuration")
    architecture_from(config, where="config.json")
    assert type(context_from(config, where="config.json")) is int


def read_tokenizer(content: bytes) -> None:
    from megaphi.tokenizer.open_tokenizer import open_path

    Path("tokenizer.json").write_bytes(content)
    Path("tokenizer_config.json").write_text('{"eos_token": "<e>"}')
    tokenizer = open_path("tokenizer.json")
    tokenizer.decode(tokenizer.encode("Some words."))
    assert tokenizer.fingerprint
    assert tokenizer.stop_tokens


def read_tokenizer_config(content: bytes) -> None:
    from megaphi.tokenizer.open_tokenizer import open_path

    Path("tokenizer.json").write_bytes(TOKENIZER)
    Path("tokenizer_config.json").write_bytes(content)
    assert open_path(".").stop_tokens


def read_run_configuration(content: bytes) -> None:
    from megaphi.recipes import load_recipe

    Path("config.json").write_bytes(content)
    load_recipe("config.json")


def in_a_folder(write: Callable[[Path], object]) -> bytes:
    """The files that `write` writes into an empty folder, as a ZIP file."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "model")
        files = sorted(path for path in (Path(place) / "model").rglob("*") if path.is_file())
        return zipped([(path.relative_to(Path(place) / "model").as_posix(), path.read_bytes()) for path in files])


def hugging_face_folder(folder: Path, **options: Any) -> None:
    from megaphi.model.architecture import Architecture
    from tests.conversion.random_models import random_folder

    random_folder(folder, Architecture(**{**MODEL, **options.pop("model", {})}), **options)


def safetensors_files() -> Sequence[bytes]:
    import torch
    from safetensors.torch import save

    tensors = {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(5, dtype=torch.bfloat16), "c": torch.zeros(0, 3)}
    return [save(tensors, {"format": "pt"}), save({"x": torch.ones(2, 2, dtype=torch.int64)})]


def gguf_files() -> Sequence[bytes]:
    from megaphi.model.architecture import Architecture
    from tests.conversion.formats.gguf.gguf_model import write_gguf

    def tokenizer(writer: Any) -> None:
        tokens = [chr(ord("a") + number) for number in range(12)] + ["ab", "<e>"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([1] * 13 + [3])
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(13)

    with tempfile.TemporaryDirectory() as place:
        first, second = Path(place) / "1", Path(place) / "2"
        model = Architecture(**MODEL)
        return [
            write_gguf(first, model=model, header=tokenizer).read_bytes(),
            write_gguf(second, model=model).read_bytes(),
        ]


def checkpoints() -> Sequence[bytes]:
    from megaphi.conversion.to_checkpoint import to_checkpoint
    from megaphi.parallel.layout import ParallelLayout

    def write(folder: Path, *, tensor: int) -> None:
        source = folder.parent / "hf"
        hugging_face_folder(source, model={"key_value_groups": tensor})
        to_checkpoint(source, folder, layout=ParallelLayout(tensor=tensor))

    return [in_a_folder(partial(write, tensor=number)) for number in (1, 2)]


def torch_dist_folders() -> Sequence[bytes]:
    from tests.conversion.formats.megatron.torch_dist_folder import write_torch_dist

    return [in_a_folder(write_torch_dist)]


def pickles() -> Sequence[bytes]:
    from tests.conversion.formats.megatron.torch_dist_folder import write_torch_dist

    with tempfile.TemporaryDirectory() as place:
        folder = write_torch_dist(Path(place) / "model")
        with zipfile.ZipFile(folder / "common.pt") as archive:
            common = archive.read("common/data.pkl")
        values = {"a": [1, 2.5, None, True, (1, 2), b"x"], "text": "x" * 300, "n": 2**70}
        return [(folder / ".metadata").read_bytes(), common, *(pickle.dumps(values, number) for number in (2, 4, 5))]


def hostile_pickles() -> Sequence[bytes]:
    from tests.foreign.test_restricted_pickle import HOSTILE, colliding

    return [*HOSTILE.values(), colliding(60_000)]


def configurations() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as place:
        hugging_face_folder(Path(place) / "1", sliding_window=32, rope_scaling=None, layer_types=["full_attention"])
        hugging_face_folder(
            Path(place) / "2", naming="llama", rope_parameters={"rope_type": "default", "rope_theta": 1e4}
        )
        return [path.read_bytes() for path in sorted(Path(place).glob("*/config.json"))]


def run_configurations() -> Sequence[bytes]:
    from megaphi.config import to_plain
    from megaphi.recipes import load_recipe

    return [json.dumps(to_plain(load_recipe("phi4_14b_pretrain"))).encode()]


LETTERS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TOKENIZER = json.dumps(
    {
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None,
        "added_tokens": [{"id": 9, "content": "<e>", "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "normalizer": {"type": "NFC"}, "decoder": LETTERS,
        "pre_tokenizer": LETTERS,
        "model": {"type": "BPE", "vocab": {letter: number for number, letter in enumerate("Somewrd.")} | {"om": 8},
                  "merges": ["o m"]},
    }
).encode()  # fmt: skip
TOKENIZER_CONFIG = json.dumps(
    {"eos_token": "<e>", "pad_token": {"content": "<e>"}, "additional_special_tokens": ["<e>"],
     "chat_template": "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"}
).encode()  # fmt: skip
TORCH = ("torch", "safetensors.torch", "megaphi.conversion.open_weights")
TARGETS = (
    Target(name="safetensors", run=read_safetensors, seeds=safetensors_files, mutators=(json_header,), tokens=EDGES,
           imports=TORCH, suffixes=(".safetensors",)),
    Target(name="gguf", run=read_gguf, seeds=gguf_files, tokens=EDGES, imports=(*TORCH, "gguf"), suffixes=(".gguf",)),
    Target(name="hugging face folder", run=read_folder,
           seeds=lambda: [in_a_folder(partial(hugging_face_folder, shards=number)) for number in (1, 2)],
           mutators=(zip_member(json_header, json_value),), framed=0.9, tokens=EDGES, imports=TORCH),
    Target(name="checkpoint", run=read_folder, seeds=checkpoints, mutators=(zip_member(json_header, json_value),),
           framed=0.9, tokens=EDGES, imports=TORCH),
    Target(name="torch_dist", run=read_folder, seeds=torch_dist_folders, mutators=(zip_member(json_value),),
           framed=0.9, tokens=EDGES, imports=TORCH),
    Target(name="pickle", run=read_a_pickle, seeds=pickles, crafted=hostile_pickles, tokens=PICKLE_TOKENS,
           imports=("megaphi.conversion.formats.megatron.arguments",)),
    Target(name="config.json", run=read_config, seeds=configurations, mutators=(json_value,), tokens=CONFIG_TOKENS,
           imports=("megaphi.conversion.formats.huggingface.config",)),
    Target(name="tokenizer.json", run=read_tokenizer, seeds=lambda: [TOKENIZER], mutators=(json_value,),
           tokens=CONFIG_TOKENS, imports=("tokenizers", "megaphi.tokenizer.open_tokenizer")),
    Target(name="tokenizer_config.json", run=read_tokenizer_config, seeds=lambda: [TOKENIZER_CONFIG],
           mutators=(json_value,), tokens=CONFIG_TOKENS, imports=("tokenizers", "megaphi.tokenizer.open_tokenizer")),
    Target(name="run configuration", run=read_run_configuration, seeds=run_configurations, mutators=(json_value,),
           tokens=CONFIG_TOKENS, imports=("megaphi.recipes",)),
)  # fmt: skip
