"""First drafts: a batch of works in, works with texts out; a draft with several items becomes a work for each.

The forms `reversed` and `middle` are in files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from megaphi.curation.synthesize.forms import middle, reversal, schemas
from megaphi.curation.synthesize.forms.work import Tools, Work, open_works
from megaphi.grading.code_sandbox.answer_program import program_in
from megaphi.grading.question import with_options

Draft = Callable[[list[Work], Tools], list[Work]]


def draft_texts(works: list[Work], tools: Tools) -> list[Work]:
    prompts = [tools.draft_prompt(work, document=work.document.text) for work in works]
    for work, text in zip(works, tools.write(works, prompts, tokens=works[0].kind.tokens), strict=True):
        if text is not None:
            work.text = work.data["answer"] = text
    return works


def draft_pairs(works: list[Work], tools: Tools) -> list[Work]:
    def fill(work: Work, pair: dict[str, str]) -> None:
        work.data |= pair
        show_pair(work)

    return _several(works, tools, ItemForm("form_qa", schemas.PAIRS, schemas.read_pairs, fill))


def draft_chains(works: list[Work], tools: Tools) -> list[Work]:
    def fill(work: Work, item: tuple[str, list[schemas.QuotedClaim], str]) -> None:
        question, steps, answer = item
        reasoning = "\n".join(f"{number}. {step.claim}" for number, step in enumerate(steps, start=1))
        work.data |= {"question": question, "reasoning": reasoning, "answer": answer}
        work.found["chain"] = [{"claim": step.claim, "quote": step.quote} for step in steps]
        show_pair(work)

    return _several(works, tools, ItemForm("form_chain", schemas.CHAINS, schemas.read_chains, fill))


def draft_questions(works: list[Work], tools: Tools) -> list[Work]:
    def fill(work: Work, question: str) -> None:
        work.data["question"] = work.text = question

    def fill_choice(work: Work, item: tuple[str, tuple[str, ...]]) -> None:
        question, options = item
        work.data["question"] = work.text = with_options(question, options)
        work.keeps["options"] = list(options)

    if works[0].kind.settings["answer_kind"] == "choice":
        form = ItemForm("form_choice", schemas.CHOICES, schemas.read_choices, fill_choice)
    else:
        form = ItemForm("form_question", schemas.QUESTIONS, schemas.read_questions, fill)
    return _several(works, tools, form)


def draft_conversations(works: list[Work], tools: Tools) -> list[Work]:
    kind = works[0].kind
    least, most = (int(one) for one in kind.settings["turns"])
    plain = {"turns": f"from {least} to {most}"}
    prompts = [
        tools.draft_prompt(work, note="form_conversation", plain=plain, document=work.document.text) for work in works
    ]
    schema = schemas.with_items(schemas.TURNS, "turns", least=least, most=most)
    found = tools.write_values(works, prompts, schemas.read_turns, schema=schema, tokens=kind.tokens)
    for work, turns in zip(works, found, strict=True):
        if turns is None:
            continue
        show_messages(work, turns)
        work.data["answer"] = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "assistant")
        if not least <= len(turns) <= most:
            work.reject("turns", f"{len(turns)} turns, not from {least} to {most}")
    return works


def draft_code(works: list[Work], tools: Tools) -> list[Work]:
    """Task, then a solution and tests, neither of which is written in sight of the other."""
    kind = works[0].kind
    prompts = [tools.draft_prompt(work, note="form_code", document=work.document.text) for work in works]
    found = tools.write_values(works, prompts, schemas.read_code_task, schema=schemas.CODE_TASK, tokens=kind.tokens)
    for work, task in zip(works, found, strict=True):
        if task is not None:
            work.data |= {"question": task.task, "task": task.task, "function": task.function}
            work.data["signature"], work.text = task.signature, task.task
    for name, prompt in (("code", "code_solution"), ("tests", "code_tests")):
        left = open_works(works)
        asked = [tools.prompt(prompt, work, task=work.data["task"], signature=work.data["signature"]) for work in left]
        for work, text in zip(left, tools.write(left, asked, tokens=kind.settings["answer_tokens"]), strict=True):
            if text is not None:
                work.data[name] = program_in(text, work.data["function"] if name == "code" else "").strip()
    for work in open_works(works):
        show_code(work)
    return works


class ItemForm(NamedTuple):
    """A draft of several items."""

    note: str
    schema: dict[str, Any]
    read: Callable[[Any], list[Any]]
    fill: Callable[[Work, Any], None]


def _several(works: list[Work], tools: Tools, form: ItemForm) -> list[Work]:
    kind = works[0].kind
    plain = {"items": str(kind.settings["items"])}
    prompts = [tools.draft_prompt(work, note=form.note, plain=plain, document=work.document.text) for work in works]
    schema = schemas.with_items(form.schema, "items", least=1, most=kind.settings["items"])
    found = tools.write_values(works, prompts, form.read, schema=schema, tokens=kind.tokens)
    return [part for work, items in zip(works, found, strict=True) for part in _parts(work, items, form)]


def _parts(work: Work, items: list[Any] | None, form: ItemForm) -> Iterator[Work]:
    """A work for each item, of no more than were asked for; one that came before is rejected."""
    if items is None:
        yield work
        return
    for number, item in enumerate(items[: work.kind.settings["items"]]):
        part = work.part(number)
        form.fill(part, item)
        if item in items[:number]:
            part.reject("repeated", "the same draft has it before")
        yield part


def show_pair(work: Work) -> None:
    """Question, reasoning and answer as a text and as messages."""
    question, reasoning, answer = (work.data[name] for name in ("question", "reasoning", "answer"))
    solution = f"{reasoning}\n\nAnswer: {answer}" if reasoning != answer else answer
    work.text = f"Question: {question}\n\n{solution}"
    work.messages = [{"role": "user", "content": question}, {"role": "assistant", "content": solution}]


def show_messages(work: Work, messages: list[dict[str, str]]) -> None:
    work.messages = messages
    work.text = "\n\n".join(f"{one['role'].capitalize()}: {one['content']}" for one in messages)


def show_code(work: Work) -> None:
    """Task, solution and tests as a text, task and solution as messages."""
    code = f"```python\n{work.data['code']}\n```"
    work.text = f"{work.data['task']}\n\n{code}\n\nTests:\n\n```python\n{work.data['tests']}\n```"
    asked = f"{work.data['task']}\n\nStart from `{work.data['signature']}`."
    work.messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": code}]


DRAFTS: dict[str, Draft] = {
    "text": draft_texts,
    "qa": draft_pairs,
    "chain": draft_chains,
    "question": draft_questions,
    "conversation": draft_conversations,
    "code": draft_code,
    "reversed": reversal.draft_instructions,
    "middle": middle.draft_middles,
}
