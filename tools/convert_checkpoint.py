"""`megaphi convert` under the option names of Megatron-LM's tools/checkpoint/convert.py.

    python tools/convert_checkpoint.py --model-type GPT --loader huggingface --load-dir downloads/phi-4 \\
        --save-dir checkpoints/phi-4 --target-tensor-parallel-size 2 --target-pipeline-parallel-size 4

What lies at --load-dir is recognised by its content; --loader only has to agree. What differs: the saver writes
megaphi's checkpoints, which every layout loads, so the target sizes are a matter of speed and not of fitting.
"""

from __future__ import annotations

import argparse
import sys

from megaphi.checkpoint.format import CheckpointReader
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.config import user_path
from megaphi.conversion.formats.gguf.weights import GgufWeights
from megaphi.conversion.formats.huggingface.weights import HuggingFaceWeights
from megaphi.conversion.formats.megatron.weights import MegatronWeights
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.errors import InputError
from megaphi.log import set_up_logging
from megaphi.parallel.layout import ParallelLayout

HUGGINGFACE = ("huggingface", "llama", "llama_mistral", "phi3", "phi4")
MEGATRON = ("megatron", "mcore", "core")
KINDS = {
    HuggingFaceWeights: "a Hugging Face folder",
    CheckpointReader: "a checkpoint of megaphi",
    MegatronWeights: "a checkpoint of Megatron-LM",
    GgufWeights: "a GGUF file",
}
EXPECTED = {
    **dict.fromkeys(HUGGINGFACE, KINDS[HuggingFaceWeights]),
    **dict.fromkeys(MEGATRON, KINDS[MegatronWeights]),
    "megaphi": KINDS[CheckpointReader],
    "gguf": KINDS[GgufWeights],
}
SAVERS = ("megaphi", "huggingface")
REFUSED = {
    "--target-expert-parallel-size": "the models here are dense",
    "--vocab-file": "the vocabulary comes from the weights",
    "--tokenizer-model": "the tokenizer comes with the weights, or is Phi-4's",
    "--true-vocab-size": "padding rows of a vocabulary are not stored here",
    "--model-size": "the sizes come from the weights",
}
ACCEPTED = {
    "--megatron-path": "Megatron is not needed",
    "--max-queue-size": "the number of blocks ahead is fixed",
    "--checkpoint-type": "recognised by content",
    "--loader-transformer-impl": "weights are the same for every implementation",
    "--saver-transformer-impl": "weights are the same for every implementation",
    "--position-embedding-type": "always rotary",
}


def main(words: list[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    set_up_logging()
    try:
        written = _convert(arguments)
    except InputError as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 2
    print(f"wrote {written}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model-type", default="GPT", help="GPT, as every decoder is called there")
    parser.add_argument("--loader", choices=list(EXPECTED), required=True, help="what --load-dir holds")
    parser.add_argument("--saver", choices=SAVERS, default="megaphi", help="what to write (default megaphi)")
    parser.add_argument("--load-dir", required=True, type=user_path, metavar="FOLDER")
    parser.add_argument("--save-dir", required=True, type=user_path, metavar="FOLDER", help="must not exist")
    parser.add_argument("--target-tensor-parallel-size", type=int, default=1, metavar="N")
    parser.add_argument("--target-pipeline-parallel-size", type=int, default=1, metavar="N")
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--bf16", dest="dtype", action="store_const", const="bfloat16", help="write bf16")
    formats.add_argument("--fp32", dest="dtype", action="store_const", const="float32", help="write fp32")
    parser.add_argument("--no-checking", action="store_true", help="accepted; names and shapes are always checked")
    for option in REFUSED:
        parser.add_argument(option, help=argparse.SUPPRESS)
    for option, reason in ACCEPTED.items():
        parser.add_argument(option, help=f"accepted: {reason}")
    return parser


def _convert(arguments: argparse.Namespace) -> object:
    for option, reason in REFUSED.items():
        if getattr(arguments, option.removeprefix("--").replace("-", "_")) is not None:
            raise InputError(f"{option} is not supported: {reason}")
    if arguments.model_type != "GPT":
        raise InputError(f"--model-type {arguments.model_type}: only GPT, a decoder, is known here")
    reader = open_weights(arguments.load_dir)
    _check_loader(arguments.loader, reader)
    layout = ParallelLayout(
        tensor=arguments.target_tensor_parallel_size, pipeline=arguments.target_pipeline_parallel_size
    )
    if arguments.saver == "megaphi":
        return to_checkpoint(reader, arguments.save_dir, layout=layout, dtype=arguments.dtype)
    if layout.model_ranks > 1:
        raise InputError("a Hugging Face folder is not cut for ranks: leave out the target sizes")
    return to_huggingface(reader, arguments.save_dir, dtype=arguments.dtype)


def _check_loader(loader: str, reader: WeightReader) -> None:
    found = next(name for kind, name in KINDS.items() if isinstance(reader, kind))
    if found != EXPECTED[loader]:
        raise InputError(f"--loader {loader}: {reader.folder} is {found}")


if __name__ == "__main__":
    sys.exit(main())
