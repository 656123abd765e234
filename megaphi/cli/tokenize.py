"""Turn text into the token files that training reads: PREFIX.bin, PREFIX.idx and PREFIX.json.

Inputs are files, folders or patterns of .jsonl, .ndjson, .json, .txt and .md, plain or packed (.gz, .bz2, .xz, .zst),
and .parquet. What is left out of a folder (hidden files, data cards, other kinds) is named. Documents are shuffled once
with a seeded permutation; each ends with the end of text. The files are byte-compatible with Megatron's. A killed run
continues where it was; an up-to-date result is kept.

Several processes on any machines that share the folder of PREFIX may do it together, started by mpirun, by an array of
Slurm jobs, by srun, or by hand with --rank and --world. Each takes its share; under MPI rank 0 joins them at the end,
elsewhere whoever finishes last. Start any of them again and it goes on.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from megaphi.cli.tokenizer_option import add_tokenizer, place_of_tokenizer
from megaphi.config import user_path

if TYPE_CHECKING:
    from megaphi.data.tokenize.settings import TokenizeSettings

HELP = "text files to .bin/.idx token files"
EXAMPLE = """examples:
  megaphi tokenize pages/*.jsonl.zst --output data/web --processes 16
  megaphi tokenize books/ --output data/acquired --text-key content --dry-run
  megaphi tokenize corpus.parquet --output data/tiny --vocabulary 4096
  megaphi tokenize corpus.parquet --output data/own --tokenizer my_tokenizer/
  megaphi tokenize code/*.jsonl --output data/code --fim-rate 0.5 --encoder gigatoken
  mpirun -n 64 --hostfile hosts --bind-to none python -m megaphi tokenize pages/ --output /shared/data/web
  sbatch --array=0-99 launch/slurm/tokenize.sbatch /shared/pages --output /shared/data/web
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", type=user_path, metavar="INPUT", nargs="+", help="a file, a folder, or a pattern")
    parser.add_argument(
        "--output", required=True, type=user_path, metavar="PREFIX", help="writes PREFIX.bin, PREFIX.idx, PREFIX.json"
    )
    add_tokenizer(parser)
    parser.add_argument("--vocabulary", type=int, metavar="V", help="how many of Phi-4's tokens (default: all 100352)")
    parser.add_argument(
        "--ranks-file", type=user_path, metavar="FILE", help="cl100k_base.tiktoken, if it is not installed"
    )
    parser.add_argument("--text-key", default="text", metavar="KEY", help="field that holds the text (default text)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the document shuffle (default 0)")
    parser.add_argument("--no-shuffle", action="store_true", help="keep the documents in the order of the inputs")
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        help="for Phi-4's: tiktoken (default), or gigatoken: the same ids faster, checked (megaphi[fast-tokenizer])",
    )
    parser.add_argument(
        "--fim-rate",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="fill in the middle: share of documents to rearrange",
    )
    parser.add_argument(
        "--fim-spm-rate",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of those with the suffix first (default 0.5)",
    )
    parser.add_argument("--fim-seed", type=int, default=0, metavar="N", help="seed of choice and cuts (default 0)")
    parser.add_argument(
        "--bad-records",
        choices=("error", "skip"),
        default="error",
        help="records without a text: name them and stop (default), or leave them out and count them",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="default: one per processor")
    parser.add_argument("--rank", type=int, metavar="R", help="number of this worker, from 0")
    parser.add_argument("--world", type=int, metavar="N", help="number of workers (default: from the launcher)")
    parser.add_argument("--dry-run", action="store_true", help="print files, shards, bytes, tokens, division of work")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.data.tokenize.pipeline import plan_tokenizing, tokenize_documents
    from megaphi.errors import InputError
    from megaphi.log import set_up_logging
    from megaphi.parallel.rendezvous.folder_worker import detect_worker

    worker = detect_worker(rank=arguments.rank, world=arguments.world)
    set_up_logging(rank=worker.rank, world_size=worker.world)
    if arguments.processes is not None and arguments.processes < 1:
        raise InputError(f"--processes {arguments.processes}: must be at least 1")
    settings = _settings(arguments)
    if arguments.dry_run:
        from megaphi.data.tokenize.dry_run import describe_plan

        plan = plan_tokenizing(arguments.inputs, arguments.output, settings)
        print(*describe_plan(plan, worker, processes=arguments.processes), sep="\n")
        return 0
    summary = tokenize_documents(
        arguments.inputs, arguments.output, settings, processes=arguments.processes, worker=worker
    )
    if not summary.joined:
        print(_unfinished(summary, worker))
    elif worker.rank == 0 or worker.launcher != "MPI":
        state = "up to date" if summary.reused else f"written in {summary.seconds:.1f} s"
        print(
            f"{summary.prefix}: {summary.tokens:,} tokens in {summary.documents:,} documents "
            f"({summary.empty_documents} empty ones left out), {state}"
        )
        for reason, (count, first) in summary.left_out.items():
            print(f"{count:,} records left out: {reason} (first: {first})")
    return 0


def _settings(arguments: argparse.Namespace) -> TokenizeSettings:
    from megaphi.data.tokenize.fill_in_the_middle import FillInTheMiddle
    from megaphi.data.tokenize.settings import TokenizeSettings

    path, vocabulary = place_of_tokenizer(arguments.tokenizer, vocabulary=arguments.vocabulary)
    rates = {"rate": arguments.fim_rate, "spm_rate": arguments.fim_spm_rate, "seed": arguments.fim_seed}
    fill = FillInTheMiddle(**rates)
    return TokenizeSettings(
        tokenizer=path,
        vocabulary_size=vocabulary,
        ranks_file=arguments.ranks_file,
        text_key=arguments.text_key,
        shuffle_seed=None if arguments.no_shuffle else arguments.seed,
        encoder=arguments.encoder,
        bad_records=arguments.bad_records,
        fill_in_the_middle=fill if fill.rate else None,
    )


def _unfinished(summary: Any, worker: Any) -> str:
    """The message of a worker that has done its share before the others."""
    done = f"{summary.prefix}: worker {worker.rank} of {worker.world} ({worker.launcher}) has done its share"
    if not summary.missing_shards:
        return f"{done}; another one is joining"
    return (
        f"{done}; {summary.missing_shards:,} shards of others are missing, and whoever finishes last joins. If that"
        " one was killed, start any worker again; to work alone give --rank 0 --world 1"
    )
