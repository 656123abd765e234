"""Convert a checkpoint to a Hugging Face folder, or a Hugging Face Phi-3/Phi-4 folder to a checkpoint.

Weights keep their number format (fp32, bf16) and come back byte for byte. Any layout's checkpoint converts; no GPU and
no process group is needed, and no more memory than one output file (5 GB).
"""

from __future__ import annotations

import argparse

HELP = "checkpoints to and from Hugging Face's format"
EXAMPLE = """examples:
  megaphi convert to-huggingface runs/phi4_14b exported/phi4
  megaphi convert to-huggingface runs/phi4_14b/checkpoints/step_00424000 exported/phi4
  megaphi convert from-huggingface downloads/phi-4 checkpoints/phi-4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    directions = parser.add_subparsers(dest="direction", metavar="to-huggingface | from-huggingface", required=True)
    outward = directions.add_parser("to-huggingface", help="write a folder that Phi3ForCausalLM loads")
    outward.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or a run folder (its newest one)")
    outward.add_argument("out", metavar="OUT", help="folder to write; must not exist")
    outward.add_argument("--no-tokenizer", action="store_true", help="leave the tokenizer's files out")
    inward = directions.add_parser("from-huggingface", help="read a Phi3ForCausalLM folder")
    inward.add_argument("folder", metavar="HF_FOLDER", help="folder with config.json and safetensors")
    inward.add_argument("out", metavar="OUT", help="checkpoint to write; must not exist")


def run(arguments: argparse.Namespace) -> int:
    if arguments.direction == "to-huggingface":
        from megaphi.conversion.to_huggingface import to_huggingface

        written = to_huggingface(arguments.checkpoint, arguments.out, tokenizer=not arguments.no_tokenizer)
    else:
        from megaphi.conversion.from_huggingface import from_huggingface

        written = from_huggingface(arguments.folder, arguments.out)
    print(f"wrote {written}")
    return 0
