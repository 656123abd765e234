"""Make data that teach a model to say when it does not know: from trivia questions and the model's own answers.

FILE holds one question a line, as JSON with `prompt` and `exact_answers` (the texts that are right), or without them
where a --checker decides. The model answers each question --samples times. A writer gives a right answer, a refusal, a
bogus variant of the question and a refusal to that. FOLDER then has sft.jsonl: the answer where the model is usually
right, the refusal where it is usually wrong, the bogus question with its refusal always; and dpo.jsonl: the answer over
the refusal where the model is sometimes right, the refusal over its wrong answer where it is sometimes wrong, both cut
to their first 5 tokens (Phi-4's technical report). Both stages read them as they are. The tokens are the model's own;
of a server's model --tokenizer names them (else Phi-4's).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.cli.pivotal.sampling_run import (
    PlannedRequests,
    add_run_arguments,
    add_sampler,
    grades,
    make_data,
    places_of,
    print_plan,
    response_rules,
    tokens_of,
)
from megaphi.errors import InputError
from megaphi.sampling import Sampling

if TYPE_CHECKING:
    from megaphi.generation.client.request_journal import RequestJournal
    from megaphi.grading.question import Question
    from megaphi.pivotal.preference.hallucination import Grade, HallucinationSettings
    from megaphi.pivotal.preference.prompts import AskedPrompt
    from megaphi.pivotal.preference.responses import OpenSampler
    from megaphi.pivotal.preference.trivia import CheckedAs
    from megaphi.sampling import Sampler
    from megaphi.tokenizer.interface import Tokenizer

HELP = "data that teach a model to say when it does not know"
EXAMPLE = """examples:
  megaphi pivotal hallucination trivia.jsonl --model runs/sft --writer downloads/phi-4 --output data/unknown --dry-run
  megaphi pivotal hallucination trivia.jsonl --model runs/sft --writer downloads/phi-4 --output data/unknown
  megaphi pivotal hallucination questions.jsonl --model runs/sft --writer http://127.0.0.1:8000/v1=large \\
      --checker http://127.0.0.1:8000/v1=large --samples 16 --output data/unknown
  megaphi inspect conversations data/unknown/dpo.jsonl --pairs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, what="questions, one record a line", samples=8, max_tokens=256, temperature=1.0)
    add_sampler(parser, "--model", "the model that is to learn")
    add_sampler(parser, "--writer", "the sampler that writes refusals and bogus questions")
    add_sampler(
        parser, "--checker", "the sampler that says which answers are right, where there are no keys", required=False
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.95,
        metavar="C",
        help="of 'usually': more, or less, than half with this confidence (default 0.95)",
    )
    parser.add_argument(
        "--writer-max-tokens", type=int, default=1024, metavar="N", help="of the writer's texts (default 1024)"
    )


def run(arguments: argparse.Namespace) -> int:
    from megaphi.grading.question_file import read_questions
    from megaphi.pivotal.preference.prompts import of_questions, read_prompts

    places = places_of(arguments, "--model", "--writer", "--checker")
    settings = _settings(arguments)
    questions = [] if settings.checker else read_questions(arguments.questions)
    prompts = of_questions(questions) if questions else read_prompts(arguments.questions)
    if arguments.dry_run:
        return print_plan(_plan(prompts, settings))

    def work(opened: OpenSampler, journal: RequestJournal, folder: Path) -> None:
        from megaphi.pivotal.preference.hallucination import answer_questions
        from megaphi.pivotal.preference.hallucination_report import write_hallucination

        tokenizers: list[Tokenizer] = []

        @contextmanager
        def noting_tokenizers(name: str, total: int, label: str) -> Iterator[Sampler]:
            with opened(name, total, label) as sampler:
                tokenizers.append(sampler.tokenizer)  # pyright: ignore[reportAttributeAccessIssue] (ours have one)
                yield sampler

        known = [_right_answers(question) for question in questions] or [
            (prompt.reference,) if prompt.reference else () for prompt in prompts
        ]
        grade = _grade_of(questions) if questions else None
        found = answer_questions(prompts, known, settings, noting_tokenizers, grade=grade, journal=journal)
        write_hallucination(folder, found, settings, tokenizers[0])  # the model's, which answers first

    return make_data(arguments, places, work)


def _settings(arguments: argparse.Namespace) -> HallucinationSettings:
    from megaphi.pivotal.preference.hallucination import HallucinationSettings

    settings = HallucinationSettings(
        model=arguments.model,
        writer=arguments.writer,
        checker=arguments.checker,
        samples=arguments.samples,
        rules=response_rules(arguments),
        writer_rules=Sampling(max_tokens=arguments.writer_max_tokens, temperature=0.7, seed=arguments.seed),
        attempts=arguments.attempts,
        confidence=arguments.confidence,
        seed=arguments.seed,
    )
    settings.check()
    return settings


def _right_answers(question: Question) -> tuple[str, ...]:
    """Texts of the key, for the writer. Raises InputError for a program's tests."""
    from megaphi.grading.question import Choices, ExactAnswers, MathAnswer

    key = question.key
    if isinstance(key, ExactAnswers):
        return key.texts
    if isinstance(key, MathAnswer):
        return (key.text,)
    if isinstance(key, Choices):
        return (f"{key.letter}) {key.options[key.right]}",)
    raise InputError(f"question {question.name} is a programming task: hallucination data are about facts")


def _grade_of(questions: list[Question]) -> Grade:
    names: dict[str, CheckedAs] = {"right": "right", "wrong": "wrong", "undecided": "unclear"}

    def grade(items: Sequence[tuple[int, str]]) -> list[tuple[CheckedAs, str]]:
        return [(names[verdict.outcome], verdict.reason) for verdict in grades(questions, items)]

    return grade


def _plan(prompts: list[AskedPrompt], settings: HallucinationSettings) -> list[PlannedRequests]:
    from megaphi.conversation import Conversation
    from megaphi.pivotal.preference.trivia import check_question, texts_question

    count, tokens = settings.samples * len(prompts), tokens_of([prompt.conversation for prompt in prompts])
    longest, written = settings.rules.max_tokens, settings.writer_rules.max_tokens
    texts = [Conversation(texts_question(prompt, (), seed=0).messages) for prompt in prompts]
    lines = [
        PlannedRequests(settings.model, "answers", count, settings.samples * tokens, count * longest),
        PlannedRequests(settings.writer, "texts", len(prompts), tokens_of(texts), len(prompts) * written),
    ]
    if settings.checker:
        checks = [Conversation(check_question(prompt, "", "", seed=0, name="").messages) for prompt in prompts]
        shown = settings.samples * tokens_of(checks) + count * longest
        lines.append(PlannedRequests(settings.checker, "checks", count, shown, count * written))
    return lines
