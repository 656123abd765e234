"""Continue a text with a trained model, greedily or by sampling.

The model is loaded through the same parallel engine that trained it; --tensor and --pipeline cut it over that many
processes on this machine, whatever layout the checkpoint was written under. A Hugging Face folder is read as it is. The
tokenizer is always Phi-4's, cut to the model's vocabulary.
"""

from __future__ import annotations

import argparse
import sys

HELP = "continue a text with a checkpoint"
EXAMPLE = """examples:
  megaphi generate runs/quickstart/run --prompt "The answer is"
  megaphi generate downloads/phi-4 --prompt "Why is the sky blue?" --tensor 2
  megaphi generate runs/phi4_14b --prompt "def fibonacci(n):" --temperature 0.7 --top-p 0.9 --tensor 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint, a run folder (its newest one), or a Hugging Face folder"
    )
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be given several times")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="tokens to add (default 128)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from this much probability")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws")
    parser.add_argument("--tensor", type=int, default=1, metavar="N", help="processes that share every matrix")
    parser.add_argument("--pipeline", type=int, default=1, metavar="N", help="processes that share the layers")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.parallel import launcher

    processes = arguments.tensor * arguments.pipeline
    if processes > 1 and launcher.detect().launcher == "single":
        from megaphi.conversion.open_weights import open_weights

        open_weights(arguments.checkpoint)  # a wrong path should not cost a start of ranks
        command = [sys.executable, "-m", "megaphi", *arguments.words]
        return launcher.start_processes(command, processes=processes)
    return _generate(arguments)


def _generate(arguments: argparse.Namespace) -> int:
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.forward_only import open_model
    from megaphi.generation.generate import generate
    from megaphi.generation.sampling import Sampling
    from megaphi.log import logger, progress_bar
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.tokenizer.phi4 import FULL_VOCABULARY_SIZE, load_tokenizer

    sampling = Sampling(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    sampling.check()
    layout = ParallelLayout(tensor=arguments.tensor, pipeline=arguments.pipeline)
    reader = open_weights(arguments.checkpoint)
    model = open_model(reader, layout)
    tokenizer = load_tokenizer(model.architecture.vocabulary)
    if "imported_from" in reader.state and tokenizer.vocabulary_size != FULL_VOCABULARY_SIZE:
        logger.warning("%s was imported: if its tokens are not Phi-4's, what follows has no meaning", reader.folder)
    prompts = [tokenizer.encode(prompt) for prompt in arguments.prompt]
    with progress_bar(total=sampling.max_tokens, unit="tok", label="generate", visible=model.world.is_main) as bar:
        added = generate(model, prompts, sampling, stop_tokens=tokenizer.stop_tokens, on_step=bar.update)
    if model.world.is_main:
        for prompt, tokens in zip(arguments.prompt, added, strict=True):
            print(prompt + tokenizer.decode(tokens))
    return 0
