"""Data that teach a model to say when it does not know (`megaphi pivotal hallucination`).

    questions -> several answers by the model -> right or wrong each -> usually right, usually wrong, or neither
    SFT: (question, answer) if usually right; (question, refusal) if usually wrong; (bogus question, refusal) always
    DPO: answer over refusal if sometimes right; refusal over a wrong answer if sometimes wrong

Phi-4's technical report, section 4.3 and appendix A.1. Only the first five tokens of a response count in DPO: what
follows was decided by them. "Usually" has an interval: more, or less, than half with 95 % confidence, so that a few
answers that happen to be right do not teach the model to guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from megaphi.conversation import Conversation, Message, to_plain
from megaphi.data.packed.preference_pairs import encoded_sides
from megaphi.errors import InputError
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.judging.asking import Unanswered, ask_json
from megaphi.pivotal.methods.findings import Band, Counts
from megaphi.pivotal.methods.statistics.intervals import wilson
from megaphi.pivotal.preference.prompts import AskedPrompt
from megaphi.pivotal.preference.record_files import MissingItems
from megaphi.pivotal.preference.responses import OpenSampler, Response, sample_responses
from megaphi.pivotal.preference.trivia import CHECK, TEXTS, CheckedAs, TriviaTexts, check_question, texts_question
from megaphi.sampling import Sampling
from megaphi.tokenizer.interface import Tokenizer

FIRST_TOKENS = 5
"""Tokens of a response that count in DPO."""
REFUSAL = re.compile(
    r"\b(?:i|we)(?:\s+\w+)?\s+(?:don['’]t|do\s+not|cannot|can\s+not|can['’]t|couldn['’]t|could\s+not)(?:\s+\w+){0,3}\s+"
    r"(?:know|say|answer|recall|remember|tell|find)\b"
    r"|\b(?:i|we)(?:['’](?:m|re)|\s+(?:am|are))\s+(?:\w+\s+){0,2}"
    r"(?:not\s+(?:\w+\s+){0,2}(?:sure|certain|aware|able|familiar)|unsure|uncertain|unable)\b"
    r"|\b(?:i|we)\s+have\s+no\s+(?:idea|information|knowledge)\b",
    re.IGNORECASE,
)
"""An answer that says in English that it is none; where a checker reads the answers, it says so itself."""
Grade = Callable[[Sequence[tuple[int, str]]], Sequence[tuple[CheckedAs, str]]]
"""(index of the question, answer) -> (verdict, reason) of each, by the keys of the questions."""
Usually = Literal["right", "wrong", "undecided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HallucinationSettings:
    """One run."""

    model: str
    """The sampler that is to learn."""
    writer: str
    """The sampler that writes answers, refusals and bogus questions."""
    checker: str = ""
    """The sampler that says which answers are right; empty where the questions have keys."""
    samples: int = 8
    rules: Sampling = field(default_factory=lambda: Sampling(max_tokens=256, temperature=1.0))
    writer_rules: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024, temperature=0.7))
    attempts: int = 3
    confidence: float = 0.95
    seed: int = 0

    def check(self) -> None:
        """Raises InputError that names the option."""
        self.rules.check()
        self.writer_rules.check()
        for name, value in (("--samples", self.samples), ("--attempts", self.attempts)):
            if value < 1:
                raise InputError(f"{name} {value}: must be at least 1")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"--confidence {self.confidence}: must be at least 0.5 and below 1")
        if self.rules.temperature == 0 and self.samples > 1:
            raise InputError("--temperature 0 gives the same answer --samples times: raise it")
        if wilson(Counts(self.samples, 0), self.confidence).low <= 0.5:
            raise InputError(
                f"--samples {self.samples}: not even that many right answers say with confidence {self.confidence} that"
                " the model is usually right; ask for more"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweredQuestion:
    """A question with what the model made of it."""

    prompt: AskedPrompt
    answers: tuple[tuple[Response, CheckedAs], ...]
    texts: TriviaTexts | None
    right_answer: str
    """A right answer as a text to learn; empty if there is none."""

    def count(self, verdict: CheckedAs) -> int:
        return sum(found == verdict for _, found in self.answers)

    def share_right(self, confidence: float) -> Band:
        """A refusal is not right; an answer of which nothing is known may have been either."""
        not_right = self.count("wrong") + self.count("refused")
        return wilson(Counts(self.count("right"), not_right, self.count("unclear")), confidence)

    def usually(self, confidence: float) -> Usually:
        band = self.share_right(confidence)
        return "right" if band.low > 0.5 else "wrong" if band.high < 0.5 else "undecided"

    def first(self, verdict: CheckedAs) -> Response | None:
        return next((response for response, found in self.answers if found == verdict), None)


@dataclass(slots=True)
class HallucinationRun:
    """Results of a run."""

    questions: list[AnsweredQuestion] = field(default_factory=list)
    left_out: MissingItems = field(default_factory=MissingItems)


def answer_questions(
    prompts: Sequence[AskedPrompt],
    right_answers: Sequence[Sequence[str]],
    settings: HallucinationSettings,
    open_sampler: OpenSampler,
    *,
    grade: Grade | None = None,
    journal: RequestJournal | None = None,
) -> HallucinationRun:
    """Answers, verdicts and texts of every question.

    Args:
        right_answers: those that the file says, for the writer; of each question, maybe none.
        grade: decides by keys; without it `settings.checker` compares with the first right answer, or the writer's.
    """
    settings.check()
    run = HallucinationRun()
    sampled = sample_responses(
        open_sampler,
        [settings.model],
        prompts,
        settings.rules,
        samples=settings.samples,
        left_out=run.left_out,
    )
    texts = _written(prompts, right_answers, settings, open_sampler, journal, run.left_out)
    known = [next(iter(given), text.answer if text else "") for given, text in zip(right_answers, texts, strict=True)]
    items = [(number, response) for number, responses in enumerate(sampled) for response in responses]
    if grade is not None:
        verdicts = _graded(grade, items, run.left_out)
    else:
        verdicts = _checked(prompts, known, items, settings, open_sampler, journal, run.left_out)
    right = _right_texts(prompts, texts, right_answers, grade, run.left_out)
    for number, prompt in enumerate(prompts):
        answers: tuple[tuple[Response, CheckedAs], ...] = tuple(
            (response, verdict) for (place, response), verdict in zip(items, verdicts, strict=True) if place == number
        )
        own = next((response.text for response, verdict in answers if verdict == "right" and response.is_whole), "")
        run.questions.append(
            AnsweredQuestion(prompt=prompt, answers=answers, texts=texts[number], right_answer=right[number] or own)
        )
    return run


def _written(
    prompts: Sequence[AskedPrompt],
    right_answers: Sequence[Sequence[str]],
    settings: HallucinationSettings,
    open_sampler: OpenSampler,
    journal: RequestJournal | None,
    left_out: MissingItems,
) -> list[TriviaTexts | None]:
    questions = [
        texts_question(prompt, known, seed=settings.seed) for prompt, known in zip(prompts, right_answers, strict=True)
    ]
    with open_sampler(settings.writer, len(questions), "refusals and bogus questions") as writer:
        found = ask_json(
            writer, questions, settings.writer_rules, schema=TEXTS, attempts=settings.attempts, memory=journal
        )
    for prompt, texts in zip(prompts, found, strict=True):
        if isinstance(texts, Unanswered):
            left_out.add("the writer gave no texts that can be read", prompt.name, texts.reason)
    return [None if isinstance(texts, Unanswered) else texts for texts in found]


def _graded(grade: Grade, items: Sequence[tuple[int, Response]], left_out: MissingItems) -> list[CheckedAs]:
    """By key; an answer that refuses is told apart from a wrong one."""
    verdicts: list[CheckedAs] = []
    graded = grade([(number, response.text) for number, response in items])
    for (_, response), (verdict, reason) in zip(items, graded, strict=True):
        if verdict == "unclear":
            left_out.add("the grader could not decide about an answer", response.name, reason)
        is_refusal = verdict == "wrong" and REFUSAL.search(response.text) is not None
        verdicts.append("refused" if is_refusal else verdict)
    return verdicts


def _checked(
    prompts: Sequence[AskedPrompt],
    known: Sequence[str],
    items: Sequence[tuple[int, Response]],
    settings: HallucinationSettings,
    open_sampler: OpenSampler,
    journal: RequestJournal | None,
    left_out: MissingItems,
) -> list[CheckedAs]:
    """By the checker; unclear where there is nothing to compare with."""
    asked = [(number, response) for number, response in items if known[number]]
    questions = [
        check_question(prompts[number], known[number], response.text, seed=settings.seed, name=response.name)
        for number, response in asked
    ]
    rules = Sampling(max_tokens=settings.writer_rules.max_tokens, seed=settings.seed)
    with open_sampler(settings.checker, len(questions), "checks") as checker:
        found = ask_json(checker, questions, rules, schema=CHECK, attempts=settings.attempts, memory=journal)
    verdicts: dict[str, CheckedAs] = {}
    for (_, response), verdict in zip(asked, found, strict=True):
        if isinstance(verdict, Unanswered):
            left_out.add("the checker gave no verdict that can be read", response.name, verdict.reason)
        else:
            verdicts[response.name] = verdict
    return [verdicts.get(response.name, "unclear") for _, response in items]


def _right_texts(
    prompts: Sequence[AskedPrompt],
    texts: Sequence[TriviaTexts | None],
    right_answers: Sequence[Sequence[str]],
    grade: Grade | None,
    left_out: MissingItems,
) -> list[str]:
    """The writer's answer to each question, if it is right by the key."""
    written = [(number, text.answer) for number, text in enumerate(texts) if text is not None]
    if grade is None:
        right = dict(written)
    else:
        graded = grade(written)
        right = {
            number: text for (number, text), (verdict, _) in zip(written, graded, strict=True) if verdict == "right"
        }
        for number, _ in written:
            if number not in right:
                left_out.add("the writer's answer is not right by the key", prompts[number].name)
    return [right.get(number, "") for number in range(len(prompts))]


def sft_records(run: HallucinationRun, confidence: float) -> list[dict[str, Any]]:
    """Conversations as `data/packed/conversations.py` reads them; what is missing is added to `left_out`."""
    records = []
    for item in run.questions:
        usually, name = item.usually(confidence), item.prompt.name
        if usually == "undecided":
            run.left_out.add("neither usually right nor usually wrong: no SFT record of the question", name)
        elif usually == "right" and item.right_answer:
            records.append(_record(item.prompt.conversation, item.right_answer, name, "answer"))
        elif usually == "right":
            run.left_out.add("usually right, and no right answer that is whole", name)
        elif item.texts is not None:
            records.append(_record(item.prompt.conversation, item.texts.refusal, name, "refusal"))
        if item.texts is not None:
            before = item.prompt.conversation.messages[:-1]
            bogus = Conversation((*before, Message("user", item.texts.bogus)))
            records.append(_record(bogus, item.texts.bogus_refusal, name, "bogus"))
    return records


def _record(conversation: Conversation, answer: str, name: str, kind: str) -> dict[str, Any]:
    messages = to_plain(Conversation((*conversation.messages, Message("assistant", answer))))
    return {"messages": messages, "question": name, "kind": kind}


def dpo_records(run: HallucinationRun, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Pairs in token ids whose sides are the first tokens of the responses, their end included if it is among them."""
    records = []
    for item in run.questions:
        if item.texts is None:
            continue
        right, wrong, refusal = item.first("right"), item.first("wrong"), item.texts.refusal
        pairs = [("answer over refusal", right.text, refusal)] if right is not None else []
        pairs += [("refusal over wrong answer", refusal, wrong.text)] if wrong is not None else []
        for kind, accepted, rejected in pairs:
            record = _first_tokens(item.prompt, kind, accepted, rejected, tokenizer)
            if isinstance(record, str):
                run.left_out.add(record, f"{item.prompt.name}: {kind}")
            else:
                records.append(record)
    return records


def _first_tokens(
    prompt: AskedPrompt, kind: str, accepted: str, rejected: str, tokenizer: Tokenizer
) -> dict[str, Any] | str:
    """The record, or why there is none."""
    try:
        before, *sides = encoded_sides(prompt.conversation.messages, (accepted, rejected), tokenizer)
    except InputError as error:
        return f"no pair: {error}"
    first, second = (side[:FIRST_TOKENS] for side in sides)
    if np.array_equal(first, second):
        return f"no pair: both sides begin with the same {FIRST_TOKENS} tokens"
    return {
        "prompt": before.tolist(),
        "accepted": first.tolist(),
        "rejected": second.tolist(),
        "append_eos": False,
        "question": prompt.name,
        "kind": kind,
        "accepted_text": accepted,
        "rejected_text": rejected,
    }
