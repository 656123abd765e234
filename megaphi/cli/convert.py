"""Convert weights: to a Hugging Face folder, or to a checkpoint, cut for any layout.

SOURCE is a checkpoint, a run folder (its newest checkpoint), a Hugging Face folder (Phi-3, Phi-4, Llama), a GGUF file
(Llama; needs megaphi[gguf]), or a Megatron-LM checkpoint (torch_dist). Weights keep their number format unless --dtype
says otherwise, and come back byte for byte. No GPU and no process group is needed, and 200 MB of memory beside the
program's, whatever the model's size. The output appears when it is complete.

A checkpoint is written without optimizer state: train on from it with start.initial_checkpoint. Files that came with a
Hugging Face model (tokenizer, chat template, configurations) are kept in the checkpoint and written back on export, and
so is the tokenizer inside a GGUF file. --tokenizer gives one to a model that came without; a model that has another one
keeps it, unless --no-tokenizer leaves that out.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from megaphi.config import override, user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from megaphi.checkpoint.weight_reader import WeightReader
    from megaphi.conversion.formats.streaming import PlannedFile

HELP = "weights to and from Hugging Face's format, and between layouts"
EXAMPLE = """examples:
  megaphi convert to-huggingface runs/phi4_14b exported/phi4
  megaphi convert to-huggingface runs/phi4_14b/checkpoints/step_00424000 exported/phi4 --dtype bfloat16
  megaphi convert to-huggingface runs/phi4_14b exported/phi4_for_4_gpus --key-value-groups 20 --verify
  megaphi convert to-checkpoint downloads/phi-4 checkpoints/phi-4 --tensor 2 --pipeline 2
  megaphi convert to-checkpoint runs/phi4_14b checkpoints/one_file --dry-run
  megaphi convert to-checkpoint SmolLM2-135M-Instruct.Q4_1.gguf checkpoints/smollm2 --verify
  megaphi convert to-checkpoint Llama.gguf checkpoints/llama --tokenizer downloads/llama
  megaphi convert to-huggingface megatron/iter_0001000 exported/phi4 heads=40 rotary_base=250000 norm_eps=1e-5
"""
UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    directions = parser.add_subparsers(dest="direction", metavar="to-huggingface | to-checkpoint", required=True)
    outward = _direction(directions, "to-huggingface", "write a folder that Phi3ForCausalLM loads")
    outward.add_argument("--shard-size", default="5GB", metavar="SIZE", help="largest weight file (default 5GB)")
    outward.add_argument(
        "--key-value-groups",
        type=int,
        metavar="N",
        help="write an equal model of N key-value heads, each of the model's several times: for servers that refuse"
        " Phi-4's 10 on 4 or 8 GPUs (20 divide by 4, 40 by 8)",
    )
    inward = _direction(directions, "to-checkpoint", "write a checkpoint for a layout")
    inward.add_argument("--tensor", type=int, default=1, metavar="N", help="ranks that share every matrix (default 1)")
    inward.add_argument("--pipeline", type=int, default=1, metavar="N", help="ranks that share the layers (default 1)")
    inward.add_argument("--virtual-pipeline", type=int, default=1, metavar="N", help="chunks of layers per rank")
    inward.add_argument("--stage-layers", default="", metavar="N,N,...", help="layers of every chunk (default: alike)")
    for direction in (outward, inward):
        direction.add_argument(
            "--tokenizer", type=user_path, metavar="PATH", help="the model's: folder with tokenizer.json, or phi4"
        )
        direction.add_argument("--no-tokenizer", action="store_true", help="leave the model's own tokenizer out")
        direction.add_argument(
            "fields",
            metavar="field=value",
            nargs="*",
            help="architecture field that SOURCE does not give; ignore=NAME: a Megatron argument without effect",
        )


def _direction(directions: argparse._SubParsersAction, name: str, what: str) -> argparse.ArgumentParser:
    parser = directions.add_parser(
        name, help=what, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=user_path, metavar="SOURCE", help="what holds the weights, see above")
    parser.add_argument("out", type=user_path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="number format (default: as it is)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written")
    parser.add_argument(
        "--verify", action="store_true", help="compare all weights afterwards, and the logits of both sides on text"
    )
    parser.add_argument(
        "--verify-text", type=user_path, metavar="FILE", help="the text (default: a paragraph of our own)"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    from megaphi.conversion.given_tokenizer import with_tokenizer
    from megaphi.conversion.open_weights import open_weights
    from megaphi.log import set_up_logging

    set_up_logging()
    if arguments.verify_text is not None and not arguments.verify:
        raise InputError("--verify-text is for --verify: add that")
    reader = open_weights(arguments.source, arguments.fields)
    outward = arguments.direction == "to-huggingface"
    if arguments.tokenizer is not None or not outward:
        reader = with_tokenizer(reader, arguments.tokenizer, leave_out=arguments.no_tokenizer)
    if outward:
        return _to_huggingface(reader, arguments)
    return _to_checkpoint(reader, arguments)


def _to_huggingface(reader: WeightReader, arguments: argparse.Namespace) -> int:
    from megaphi.conversion.repeated_groups import WithRepeatedGroups
    from megaphi.conversion.to_huggingface import plan_huggingface, to_huggingface

    if arguments.key_value_groups is not None:
        reader = WithRepeatedGroups(reader, arguments.key_value_groups)
    shard_bytes = size_in_bytes(arguments.shard_size)
    tokenizer = arguments.tokenizer is not None or not arguments.no_tokenizer
    if arguments.dry_run:
        files = plan_huggingface(reader, dtype=arguments.dtype, shard_bytes=shard_bytes)
        return _print_plan(reader, arguments.out, files, cut="in Hugging Face's format", tokenizer=tokenizer)
    written = to_huggingface(
        reader,
        arguments.out,
        tokenizer=tokenizer,
        dtype=arguments.dtype,
        shard_bytes=shard_bytes,
    )
    return _end(reader, written, arguments)


def _to_checkpoint(reader: WeightReader, arguments: argparse.Namespace) -> int:
    from megaphi.conversion.to_checkpoint import plan_checkpoint, to_checkpoint
    from megaphi.parallel.layout import ParallelLayout

    layout = ParallelLayout(
        tensor=arguments.tensor, pipeline=arguments.pipeline, virtual_pipeline=arguments.virtual_pipeline, data=1
    )
    layout = override(layout, [f"stage_layers={arguments.stage_layers}"], within="layout")
    if arguments.dry_run:
        files = plan_checkpoint(reader, layout=layout, dtype=arguments.dtype)
        return _print_plan(reader, arguments.out, files, cut=f"cut {layout}", tokenizer=True)
    return _end(reader, to_checkpoint(reader, arguments.out, layout=layout, dtype=arguments.dtype), arguments)


def _end(reader: WeightReader, written: Path, arguments: argparse.Namespace) -> int:
    """Say what was written and, if it was asked for, whether that is what was read."""
    print(f"wrote {written}")
    if not arguments.verify:
        return 0
    from megaphi.conversion.open_weights import open_weights
    from megaphi.conversion.verify import TEXT, report
    from megaphi.foreign.files import read_text

    text = TEXT if arguments.verify_text is None else read_text(arguments.verify_text)
    is_same, lines = report(reader, open_weights(written), text=text)
    print(*lines, sep="\n")
    return 0 if is_same else 1


def _print_plan(reader: WeightReader, out: str, files: dict[str, PlannedFile], *, cut: str, tokenizer: bool) -> int:
    from megaphi.tokenizer.open_tokenizer import TOKENIZER_FILES

    model = reader.architecture
    print(f"model    {model.parameters:,} parameters, " + ", ".join(_sizes(model)))
    print(f"from     {reader.folder}")
    total = sum(file.bytes for file in files.values())
    print(f"to       {out}: {len(files)} file{'s'[: len(files) > 1]} of weights, {total:,} bytes, {cut}")
    for name, file in files.items():
        types = sorted({str(dtype).removeprefix("torch.") for dtype, _ in file.tensors.values()})
        print(f"  {name:<34} {file.bytes:>16,} bytes  {len(file.tensors):>4} tensors  {', '.join(types)}")
    if tokenizer and (files_of := reader.carried.keys() & set(TOKENIZER_FILES)):
        print(f"with     {', '.join(sorted(files_of))}")
    return 0


def _sizes(model: object) -> list[str]:
    names = ("layers", "hidden", "feed_forward", "heads", "key_value_groups", "head_size", "vocabulary")
    return [f"{name}={getattr(model, name)}" for name in names]


def size_in_bytes(text: str) -> int:
    """`5GB`, `500 MB` or a number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?b)?", text.strip(), re.IGNORECASE)
    unit = (match[2] or "b").lower() if match else ""
    if match is None or (size := int(float(match[1]) * UNITS[unit])) < 1:
        raise InputError(f"--shard-size {text}: expected a size such as 5GB or 500MB")
    return size
