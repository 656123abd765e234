"""The shared part of the verbs that turn sampled text into data: options, a journal, a folder that appears whole.

The folder gets its name at the end; what was answered until then is in the journal beside it, from which the same
command goes on. A dry run opens no model and asks nobody: it counts what is to come.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from megaphi.cli.sampler_option import (
    SAMPLER_HELP,
    OpenSamplers,
    SamplerPlace,
    add_sampler_arguments,
    sampler_place,
    with_samplers,
)
from megaphi.config import user_path
from megaphi.errors import InputError, RunFailed
from megaphi.sampling import Sampling

if TYPE_CHECKING:
    from megaphi.conversation import Conversation
    from megaphi.generation.client.request_journal import RequestJournal
    from megaphi.grading.question import Question
    from megaphi.grading.verdict import Verdict
    from megaphi.pivotal.preference.responses import OpenSampler
    from megaphi.sampling import Sampler


def add_run_arguments(
    parser: argparse.ArgumentParser, *, what: str, samples: int, max_tokens: int, temperature: float
) -> None:
    """Options of all of these verbs."""
    parser.add_argument("questions", type=user_path, metavar="FILE", help=what)
    parser.add_argument("--output", required=True, type=user_path, metavar="FOLDER", help="a new folder for the data")
    parser.add_argument(
        "--journal",
        type=user_path,
        metavar="FILE",
        help="keeps every answer, and replays it (default: FOLDER.journal.jsonl)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say how many requests and tokens are to come, and ask nobody"
    )
    parser.add_argument(
        "--samples", type=int, default=samples, metavar="N", help=f"responses of each sampler (default {samples})"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=max_tokens, metavar="N", help=f"of a response (default {max_tokens})"
    )
    parser.add_argument(
        "--temperature", type=float, default=temperature, metavar="T", help=f"of responses (default {temperature})"
    )
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from this much probability")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default 0)")
    parser.add_argument(
        "--attempts", type=int, default=3, metavar="N", help="times to ask for JSON that can be read (default 3)"
    )
    add_sampler_arguments(parser)


def add_sampler(
    parser: argparse.ArgumentParser, name: str, role: str, *, required: bool = True, several: bool = False
) -> None:
    """A sampler of the verb; of `several` the option can be given more than once."""
    parser.add_argument(
        name,
        action="append" if several else "store",
        required=required,
        default=None if required else "",
        type=user_path,
        metavar="SAMPLER",
        help=f"{role}: {SAMPLER_HELP}",
    )


def places_of(arguments: argparse.Namespace, *options: str) -> list[SamplerPlace]:
    """The samplers of these options, in their order. Raises InputError for one that is named twice for one role."""
    places: list[SamplerPlace] = []
    for option in options:
        given = getattr(arguments, option.removeprefix("--"))
        names = given if isinstance(given, list) else [given]
        found = [sampler_place(name, option=option) for name in names if name]
        for number, place in enumerate(found):
            if place in found[:number]:
                raise InputError(f"{option} {place} is given twice: ask it for more with --samples")
        places += found
    return places


def response_rules(arguments: argparse.Namespace) -> Sampling:
    return Sampling(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )


def add_judge_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge-max-tokens", type=int, default=1024, metavar="N", help="of a judgement (default 1024)")
    parser.add_argument(
        "--judge-temperature", type=float, default=0.0, metavar="T", help="of judgements (default 0: greedy)"
    )


def judge_rules(arguments: argparse.Namespace) -> Sampling:
    return Sampling(max_tokens=arguments.judge_max_tokens, temperature=arguments.judge_temperature, seed=arguments.seed)


def make_data(
    arguments: argparse.Namespace,
    places: Sequence[SamplerPlace],
    work: Callable[[OpenSampler, RequestJournal, Path], None],
) -> int:
    """Run `work`, which fills a folder with the help of samplers and a journal; returns the exit code."""
    output = new_folder(arguments.output)
    return with_samplers(arguments, places, lambda samplers: _fill(arguments, output, samplers, work))


def _fill(
    arguments: argparse.Namespace,
    output: Path,
    samplers: OpenSamplers,
    work: Callable[[OpenSampler, RequestJournal, Path], None],
) -> int:
    from megaphi.files import whole_folder
    from megaphi.log import progress_bar

    place = Path(arguments.journal or output.with_name(f"{output.name}.journal.jsonl"))
    with journal_at(place) as journal, whole_folder(output) as folder:

        @contextmanager
        def opened(name: str, total: int, label: str) -> Iterator[Sampler]:
            with progress_bar(total=total, unit="answer", label=label) as bar:
                yield samplers.open(sampler_place(name, option="sampler"), journal=journal, on_end=bar.update)

        with errors_say_what_is_kept(journal):
            work(opened, journal, folder)
    print(f"{output / 'report.md'}: {first_counts(output / 'report.md')}")
    return 0


@contextmanager
def journal_at(place: Path) -> Iterator[RequestJournal]:
    """The journal; one that nothing was written to leaves no file."""
    from megaphi.generation.client.request_journal import RequestJournal

    with RequestJournal(place) as journal:
        try:
            yield journal
        finally:
            if not len(journal):
                place.unlink()


def new_folder(output: str) -> Path:
    """The folder of --output. Raises InputError if it exists and is not empty."""
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output {folder} exists already: choose another folder, or remove it first")
    return folder


@contextmanager
def errors_say_what_is_kept(journal: RequestJournal) -> Iterator[None]:
    """Errors of the block say how many answers the same command will find in the journal."""
    try:
        yield
    except (InputError, RunFailed) as error:
        kept = f". {len(journal):,} answers are kept in {journal.path}: the same command continues from there"
        raise type(error)(f"{error}{kept if len(journal) else ''}") from error


def first_counts(report: Path) -> str:
    """The sentence of a report that counts what there is."""
    return report.read_text().splitlines()[2]


def add_unsafe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unsafe", action="store_true", help="run programs of the model where nothing isolates them")


def tell_isolation(isolation: str | None) -> None:
    """Log which isolation programs will run in; None, where there are none, is not told.

    It is found before a model is opened, so that a machine without one is refused at once, and told where the log is
    set up, which opening a model does.
    """
    from megaphi.log import logger

    if isolation is not None:
        logger.info("isolation of the model's programs: %s", isolation)


def grades(questions: Sequence[Question], items: Sequence[tuple[int, str]], *, unsafe: bool = False) -> list[Verdict]:
    """Verdicts on (index of the question, answer), by the keys."""
    from megaphi.grading.grader import Grader

    with Grader(unsafe=unsafe) as grader:
        return list(grader.grade([(questions[number], text) for number, text in items]))


class PlannedRequests(NamedTuple):
    """A line of a dry run."""

    sampler: str
    role: str
    requests: int
    prompt_tokens: int
    generated_tokens: int
    """At most."""


def print_plan(lines: Sequence[PlannedRequests]) -> int:
    """Print the requests to come, by sampler; returns the exit code."""
    print(f"{'requests':>12} {'prompt tokens':>15} {'new tokens, at most':>20}  sampler")
    for line in lines:
        print(
            f"{line.requests:>12,} {line.prompt_tokens:>15,} {line.generated_tokens:>20,}  {line.sampler}: {line.role}"
        )
    totals = [sum(column) for column in zip(*((line[2:]) for line in lines), strict=True)]
    print(f"{totals[0]:>12,} {totals[1]:>15,} {totals[2]:>20,}  in all")
    print("Prompt tokens are Phi-4's, with responses at their longest; answers asked for again are not counted.")
    return 0


def tokens_of(conversations: Sequence[Conversation]) -> int:
    """Tokens of prompts in Phi-4's chat format."""
    from megaphi.tokenizer.phi4 import load_tokenizer

    tokenizer = load_tokenizer()
    return sum(len(tokenizer.render(one, add_generation_prompt=True).ids) for one in conversations)
