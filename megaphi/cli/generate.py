"""Continue a text with a trained model, greedily or by sampling.

The model is loaded through the same parallel engine that trained it; --tensor and --pipeline cut it over that many
processes on this machine, whatever layout the checkpoint was written under, and --data makes copies of it. A Hugging
Face folder is read as it is. The tokenizer is the model's own.
"""

from __future__ import annotations

import argparse

from megaphi.cli.engine_options import add_engine_arguments, on_every_rank, patience_of
from megaphi.cli.job_end import told_to_all_ranks
from megaphi.errors import InputError
from megaphi.sampling import Sampling

HELP = "continue a text with a checkpoint"
EXAMPLE = """examples:
  megaphi generate runs/quickstart/run --prompt "The answer is"
  megaphi generate downloads/phi-4 --prompt "Why is the sky blue?" --tensor 2
  megaphi generate runs/phi4_14b --prompt "def fibonacci(n):" --temperature 0.7 --top-p 0.9 --tensor 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser, batch=32)
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be given several times")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="tokens to add (default 128)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K most probable tokens")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from this much probability")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="at least this share of the top token's")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1 avoids repetition")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default 0)")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="continuations of every prompt (default 1)")
    parser.add_argument(
        "--data",
        "--replicas",
        dest="replicas",
        type=int,
        default=1,
        metavar="N",
        help="copies of the model that share the prompts",
    )


def run(arguments: argparse.Namespace) -> int:
    _sampling(arguments)
    return on_every_rank(arguments, _generate)


def _generate(arguments: argparse.Namespace) -> int:
    from megaphi.checkpoint.model_tokenizer import text_tokenizer_of
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.local_sampler import LocalSampler
    from megaphi.kernels.loading import allow_slow
    from megaphi.log import progress_bar
    from megaphi.parallel.layout import ParallelLayout

    sampling = _sampling(arguments)
    layout = ParallelLayout(tensor=arguments.tensor, pipeline=arguments.pipeline, data=arguments.replicas)
    allow_slow(arguments.allow_slow_operators)
    with told_to_all_ranks():
        reader = open_weights(arguments.checkpoint)
        tokenizer = text_tokenizer_of(reader, path=arguments.tokenizer)
    model = open_model(reader, layout, patience=patience_of(arguments))
    model.world.activity.phase = "generating"
    total = len(arguments.prompt) * arguments.samples
    with progress_bar(total=total, unit="text", label="generate", visible=model.world.is_main) as bar:
        sampler = LocalSampler(
            InferenceEngine(model, slots=arguments.batch),
            tokenizer,
            name=arguments.checkpoint,
            on_end=lambda: bar.update(model.world.replicas),
        )
        found = sampler.sample(arguments.prompt, sampling, samples=arguments.samples)
    if model.world.is_main:
        for prompt, answers in zip(arguments.prompt, found, strict=True):
            for answer in answers:
                print(prompt + answer.text)
    return 0


def _sampling(arguments: argparse.Namespace) -> Sampling:
    if arguments.samples < 1:
        raise InputError(f"--samples {arguments.samples}: must be at least 1")
    sampling = Sampling(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
    )
    sampling.check()
    return sampling
