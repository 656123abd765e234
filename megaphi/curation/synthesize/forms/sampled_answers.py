"""Questions answered several times: the plurality filter, and answers confirmed by independent attempts.

Results are compared by meaning (`megaphi/grading`): numbers and formulas by value, choices by their option, other
answers by their words. An answer that was cut off or states no result counts as one without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from megaphi.curation.requests.asking import Missed, ask_several
from megaphi.curation.synthesize.forms.plurality import Equal, plurality
from megaphi.curation.synthesize.forms.work import Tools, Work
from megaphi.grading.exact_match import normalised
from megaphi.grading.grader import Grader
from megaphi.grading.math_answer.extraction import stated_result
from megaphi.grading.multiple_choice import chosen_option
from megaphi.grading.question import LETTERS, MathAnswer, Question

LONGEST_EXACT = 200
"""Characters of a result that is compared by its words."""


def check_plurality(works: list[Work], tools: Tools) -> None:
    """Keep questions with a plurality that is neither too small nor too large, which becomes their reference."""
    for work, answers in _answered(works, tools):
        least, most = work.kind.settings["shares"]
        results = [result_of(answer, work) for answer in answers]
        found = plurality(results, equality(work, lambda: tools.grader), least=least, most=most)
        work.found["plurality"] = {"answers": found.answers, "votes": found.votes, "share": found.share}
        if found.reference is None:
            work.reject("no_result", f"none of {found.answers} answers states a result")
            continue
        reference = results[found.reference] or ""
        work.found["plurality"]["reference"] = reference
        if found.verdict != "kept":
            work.reject(found.verdict, f"{found.votes} of {found.answers} answers agree")
            continue
        solutions = sorted((str(answers[place]) for place in found.members), key=lambda text: (len(text), text))
        _show_answered(work, reference=reference, solution=solutions[len(solutions) // 2])


def check_solved(works: list[Work], tools: Tools) -> None:
    """Keep pairs whose answer is the result of enough independent attempts at the question."""
    for work, answers in _answered(works, tools):
        stated = result_of(work.data["answer"], work) or work.data["answer"].strip()
        results = [result_of(answer, work) for answer in answers]
        texts = sorted({result for result in results if result is not None and result != stated})
        pairs = [(min(stated, text), max(stated, text)) for text in texts]
        same = equality(work, lambda: tools.grader)(pairs)
        right = {stated} | {text for text, is_same in zip(texts, same, strict=True) if is_same}
        share = sum(result in right for result in results) / len(results)
        work.found["solved"] = {"answers": len(results), "share": share}
        if share < work.kind.settings["agreement"]:
            work.reject("unconfirmed", f"{share:.0%} of {len(results)} attempts agree with its answer")


def _answered(works: list[Work], tools: Tools) -> list[tuple[Work, list[str | Missed]]]:
    """Each work with the answers to its question; one without is rejected."""
    if not works:
        return []
    settings = works[0].kind.settings
    prompts = [
        tools.prompt(f"answer_{settings['answer_kind']}", work, question=work.data["question"]) for work in works
    ]
    answered = ask_several(
        tools.writer,
        prompts,
        tools.rules(settings["answer_tokens"]),
        samples=settings["answers"],
        seeds=[work.seed for work in works],
    )
    for work, answers in zip(works, answered, strict=True):
        work.rejection = answers if isinstance(answers, Missed) else None
    pairs = zip(works, answered, strict=True)
    return [(work, answers) for work, answers in pairs if not isinstance(answers, Missed)]


def result_of(answer: str | Missed, work: Work) -> str | None:
    """The result that an answer states, in the form in which results are compared."""
    if isinstance(answer, Missed):
        return None
    if work.kind.settings["answer_kind"] == "choice":
        chosen = chosen_option(answer, tuple(work.keeps["options"]))
        return LETTERS[chosen] if isinstance(chosen, int) else None
    stated = stated_result(answer, last_number=False)
    if stated is None or work.kind.settings["answer_kind"] == "maths":
        return None if stated is None else stated.text.strip() or None
    return stated.text.strip() if len(stated.text) <= LONGEST_EXACT and normalised(stated.text) else None


def equality(work: Work, grader: Callable[[], Grader]) -> Equal:
    """The comparison of results for a work's kind of answer."""

    def same_value(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        if not pairs:
            return []
        prompt = work.data["question"]
        asked = [
            (Question(name=work.name, prompt=prompt, key=MathAnswer(key)), f"\\boxed{{{other}}}")
            for key, other in pairs
        ]
        return [verdict.is_right for verdict in grader().grade(asked)]

    if work.kind.settings["answer_kind"] == "maths":
        return same_value
    return lambda pairs: [normalised(one) == normalised(other) for one, other in pairs]


def _show_answered(work: Work, *, reference: str, solution: str) -> None:
    """The question with the solution of middle length that arrives at its reference."""
    work.data |= {"answer": reference, "reasoning": solution}
    work.keeps["reference"] = reference
    work.text = f"Question: {work.data['question']}\n\nAnswer: {solution}"
    work.messages = [
        {"role": "user", "content": work.data["question"]},
        {"role": "assistant", "content": solution},
    ]
